// The quantized half of ohtrain eval: calibration seeds, evaluation, sensitivity, files, and what is shown of
// them.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cmd/eval.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "train/rundir.h"

enum { SHOWN = 10 }; // sites and groups on the terminal; files hold all

static const char *const LEVELS[] = {"site", "kind", "layer"};

oht_status eval_quant_level(const oht_options *opt, const oht_config *cfg, oht_quant_level *out) {
    *out = OHT_QUANT_BY_SITE;
    if (!opt->sensitivity) return OHT_OK;
    int i = 0;
    while (i < 3 && strcmp(opt->sensitivity, LEVELS[i]) != 0) i++;
    if (i == 3)
        OHT_FAIL(OHT_CONFIG, "eval: --sensitivity: found \"%.100s\", allowed: site, kind, layer",
                 opt->sensitivity);
    if (cfg->quant.weights == 0 && cfg->quant.activations == 0)
        OHT_FAIL(
            OHT_CONFIG,
            "eval: --sensitivity of what? Nothing is quantized\nfix: quant.weights=8 quant.activations=8");
    if (i == OHT_QUANT_BY_LAYER && cfg->model.type == OHT_MODEL_STANHOP)
        OHT_FAIL(OHT_CONFIG, "eval: --sensitivity layer: the associations of STanHop-Net are no layers\nfix: --sensitivity site or kind");
    *out = (oht_quant_level)i;
    return OHT_OK;
}

const char *eval_quant_name(const oht_quant_config *cfg, char out[32]) {
    char w[16] = "fp", a[16] = "fp";
    if (cfg->weights) snprintf(w, sizeof(w), "%d", (int)cfg->weights);
    if (cfg->activations) snprintf(a, sizeof(a), "%d", (int)cfg->activations);
    snprintf(out, 32, "W%sA%s", w, a);
    return out;
}

// Seeds backwards, so that the first one's ranges are left for files and sensitivity.
static oht_status all_seeds(eval_quant *e, const oht_session *s) {
    const oht_quant_config *cfg = &s->cfg->quant;
    double calibration = 0, evaluation = 0;
    for (int i = e->n - 1; i >= 0; i--) {
        double start = oht_clock_s();
        if (strcmp(cfg->file, "none") != 0)
            OHT_TRY(oht_quant_load(e->q, cfg->file));
        else
            OHT_TRY(oht_quant_calibrate(e->q, (uint64_t)cfg->seed + (uint64_t)i));
        double middle = oht_clock_s();
        OHT_TRY(oht_quant_evaluate(e->q, s->cfg->eval.max_batches, true, &e->seed[i]));
        calibration += middle - start;
        evaluation += oht_clock_s() - middle;
    }
    oht_log("calibration took %.2f s, quantized evaluation %.2f s", calibration / e->n, evaluation / e->n);
    e->n_metrics = oht_quant_mean(e->seed, e->n, e->mean, e->deviation);
    return OHT_OK;
}

static oht_status write_files(const eval_quant *e, const oht_session *s, const char *rundir,
                              const oht_eval_result *fp) {
    oht_quant_summary m = {.step = s->state.step,
                           .fp = fp,
                           .result = e->seed,
                           .n = e->n,
                           .rank = e->rank,
                           .n_ranks = e->n_ranks,
                           .level = e->level};
    OHT_TRY(oht_quant_export(e->q, rundir));
    int lock;
    if (!oht_rundir_borrow(rundir, &lock)) {
        oht_warn("%s is still training, which owns outliers.h5: the quantized result is in quant.h5 and "
                 "quant.json only",
                 rundir);
        return OHT_OK;
    }
    oht_status status = oht_quant_report(e->q, rundir, &m);
    if (status == OHT_DATA) { // a damaged report must not cost the result of a long evaluation
        const char *why = oht_error_last()->text;
        oht_warn("%.*s: the quantized result is in quant.h5 and quant.json only", (int)strcspn(why, "\n"), why);
        status = OHT_OK;
    }
    if (lock >= 0) close(lock);
    return status;
}

oht_status eval_quant_run(oht_session *s, const oht_options *opt, const oht_eval_result *fp, eval_quant *e) {
    const oht_quant_config *cfg = &s->cfg->quant;
    memset(e, 0, sizeof(*e));
    OHT_TRY(eval_quant_level(opt, s->cfg, &e->level));
    e->on = cfg->weights > 0 || cfg->activations > 0;
    if (!e->on) return OHT_OK;
    e->n = (int)cfg->seeds;
    OHT_TRY(oht_agree(s->comm, OHT_ALLOC(&e->seed, (size_t)e->n, "results of calibration seeds")));
    OHT_TRY(oht_quant_create(&e->q, s, cfg, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION));
    OHT_TRY(all_seeds(e, s));
    if (opt->sensitivity)
        OHT_TRY(oht_quant_sensitivity(e->q, e->level, cfg->sensitivity_batches, &e->rank, &e->n_ranks));
    oht_status status = oht_comm_rank(s->comm) == 0 ? write_files(e, s, opt->run, fp) : OHT_OK;
    return oht_agree(s->comm, status);
}

void eval_quant_free(eval_quant *e) {
    oht_quant_destroy(e->q);
    oht_free(e->seed);
    oht_free(e->rank);
    memset(e, 0, sizeof(*e));
}

// ---- showing
// -----------------------------------------------------------------------------------------------------------

static int noisiest(const void *a, const void *b) {
    const oht_quant_site *x = *(const oht_quant_site *const *)a, *y = *(const oht_quant_site *const *)b;
    double p = oht_quant_sqnr(x), q = oht_quant_sqnr(y);
    if (p != q) return p < q ? -1 : 1;
    return x < y ? -1 : 1;
}

static void print_sites(const eval_quant *e) {
    const oht_quant_site *site, **order;
    int n = oht_quant_sites(e->q, &site), m = 0;
    int64_t layers = 0, outputs = 0, differ = 0;
    double worst = 0;
    if (OHT_ALLOC(&order, (size_t)n, "order of sites") != OHT_OK) return; // the table above is what counts
    for (int i = 0; i < n; i++) {
        if (site[i].bits > 0 && site[i].count > 0) order[m++] = &site[i];
        if (site[i].integer_outputs == 0) continue;
        layers++;
        outputs += site[i].integer_outputs;
        differ += site[i].integer_differ;
        worst = fmax(worst, site[i].integer_error);
    }
    qsort(order, (size_t)m, sizeof(*order), noisiest);
    printf("\nnoisiest of %d quantized tensors (on the last calibration batch):\n  %-34s %8s %8s %12s %12s "
           "%10s\n",
           m, "site", "bits", "SQNR dB", "lowest", "highest", "clipped");
    for (int i = 0; i < m && i < SHOWN; i++)
        printf("  %-34s %8d %8.2f %12.5g %12.5g %9.4f%%\n", order[i]->name, order[i]->bits,
               oht_quant_sqnr(order[i]), order[i]->q.lo, order[i]->q.hi,
               100.0 * (double)order[i]->error.clipped / (double)order[i]->count);
    if (layers > 0)
        printf("\ninteger arithmetic: %lld linear layers, largest difference %.2g of the largest output, "
               "%lld of %lld outputs get another code\n",
               (long long)layers, worst, (long long)differ, (long long)outputs);
    oht_free(order);
}

void eval_quant_print(const eval_quant *e) {
    print_sites(e);
    if (e->n_ranks == 0) return;
    printf("\nloss recovered by leaving one %s exact:\n", LEVELS[e->level]);
    for (int i = 0; i < e->n_ranks && i < SHOWN; i++)
        printf("  %-34s %+.6f\n", e->rank[i].name, e->rank[i].recovered);
}

static void set_number(json_t *o, const char *name, double x) { // JSON has no infinity
    json_object_set_new(o, name, oht_json_number(x));
}

void eval_quant_json(const eval_quant *e, const oht_quant_config *cfg, json_t *root) {
    json_t *o = json_object(), *mean = json_object(), *deviation = json_object(), *seeds = json_array(),
           *ranks = json_array();
    for (int i = 0; i < e->n_metrics; i++) {
        set_number(mean, e->mean[i].name, e->mean[i].value);
        set_number(deviation, e->mean[i].name, e->deviation[i]);
    }
    json_object_set_new(root, "quantized", mean);
    json_object_set_new(o, "weights", json_integer(cfg->weights));
    json_object_set_new(o, "activations", json_integer(cfg->activations));
    json_object_set_new(o, "deviation", deviation);
    for (int i = 0; i < e->n; i++) {
        json_t *one = json_object();
        oht_metric m[OHT_METRICS];
        int n = oht_eval_metrics(&e->seed[i], m);
        json_object_set_new(one, "seed", json_integer(cfg->seed + i));
        for (int k = 0; k < n; k++) set_number(one, m[k].name, m[k].value);
        json_array_append_new(seeds, one);
    }
    json_object_set_new(o, "seeds", seeds);
    for (int i = 0; i < e->n_ranks; i++) {
        json_t *one = json_object();
        json_object_set_new(one, LEVELS[e->level], json_string(e->rank[i].name));
        set_number(one, "recovered", e->rank[i].recovered);
        json_array_append_new(ranks, one);
    }
    if (e->n_ranks > 0)
        json_object_set_new(o, "sensitivity", ranks);
    else
        json_decref(ranks);
    json_object_set_new(root, "quantization", o);
}
