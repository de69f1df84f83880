// ohtrain eval: a run's newest checkpoint over its test split or, where it has none, the validation split; a table on stdout and, with -o, JSON.
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cmd/eval.h"
#include "config/table.h"
#include "oht/cmd.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/session.h"

static oht_status read_configuration(const oht_options *opt, oht_config *cfg) {
    char path[OHT_PATH + 32];
    snprintf(path, sizeof(path), "%.*s/config.yaml", OHT_PATH, opt->run);
    if (access(path, R_OK) != 0)
        OHT_FAIL(OHT_DATA,
                 "%s is not a run directory: no readable config.yaml in it\nfix: give the directory that "
                 "ohtrain train -o made",
                 opt->run);
    oht_config_defaults(cfg);
    OHT_TRY(oht_config_load(cfg, path));
    OHT_TRY(oht_options_override(opt, cfg));
    OHT_TRY(oht_options_run_data(opt, opt->run, true, cfg));
    return OHT_OK;
}

// ---- result ----
static void set_word(json_t *object, const oht_config *cfg, const char *name, const char *key) {
    char text[OHT_KEY_TEXT_MAX];
    oht_key_get(cfg, oht_key_find(key), text);
    json_object_set_new(object, name, json_string(text));
}

static json_t *metrics_json(const oht_eval_result *r) {
    oht_metric m[OHT_METRICS];
    int n = oht_eval_metrics(r, m);
    json_t *o = json_object();
    for (int i = 0; i < n; i++) // JSON has no infinity
        json_object_set_new(o, m[i].name, oht_json_number(m[i].value));
    return o;
}

static oht_status write_json(const oht_session *s, const char *path, const oht_eval_result *r,
                             const eval_quant *e) {
    json_t *root = json_object();
    set_word(root, s->cfg, "model", "model.type");
    set_word(root, s->cfg, "attention", "model.attention");
    set_word(root, s->cfg, "gate", "model.gate");
    json_object_set_new(root, "params", json_integer(oht_params_count(s->params)));
    json_object_set_new(root, "step", json_integer(s->state.step));
    json_object_set_new(root, "split", json_string(oht_split_name(r->split)));
    json_object_set_new(root, "sequences", json_integer(r->sequences));
    json_object_set_new(root, "batches", json_integer(r->batches));
    json_object_set_new(root, "fp", metrics_json(r));
    if (e->on) eval_quant_json(e, &s->cfg->quant, root);
    return oht_json_replace(path, root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
}

static oht_status report(const oht_session *s, const oht_options *opt, const oht_eval_result *r,
                         const eval_quant *e) {
    oht_metric m[OHT_METRICS];
    char name[32], seeds[48] = "";
    int n = oht_eval_metrics(r, m);
    printf("%s at step %lld: %lld %s samples in %lld batches\n", opt->run, (long long)s->state.step,
           (long long)r->sequences, oht_split_name(r->split), (long long)r->batches);
    if (e->n > 1) snprintf(seeds, sizeof(seeds), " +- deviation over %d seeds", e->n);
    if (e->on) printf("  %-24s %-14s %s%s\n", "", "exact", eval_quant_name(&s->cfg->quant, name), seeds);
    for (int i = 0; i < n; i++) {
        // The last ones, of compat.all_modules, belong to the exact model alone.
        bool quantized = e->on && e->mean[i].name && strcmp(e->mean[i].name, m[i].name) == 0;
        printf(e->on ? "  %-24s %-14.6g" : "  %-24s %.6g", m[i].name, m[i].value);
        if (quantized) printf(" %.6g", e->mean[i].value);
        if (quantized && e->n > 1) printf(" +- %.2g", e->deviation[i]);
        putchar('\n');
    }
    if (e->on) eval_quant_print(e);
    if (fflush(stdout) != 0) OHT_FAIL(OHT_IO, "cannot write to standard output");
    return opt->out ? write_json(s, opt->out, r, e) : OHT_OK;
}

static oht_status evaluate(oht_session *s, const oht_options *opt) {
    bool found;
    OHT_TRY(oht_session_allocate(s));
    OHT_TRY(oht_session_restore(s, opt->run, false, &found));
    if (!found)
        OHT_FAIL(OHT_DATA, "%s/checkpoints holds no checkpoint\nfix: train first: ohtrain train -o %s",
                 opt->run, opt->run);
    s->eval_split = oht_session_result_split(s);
    oht_eval_result result;
    eval_quant quantized;
    double start = oht_clock_s();
    OHT_TRY(oht_evaluate(s, s->cfg->eval.max_batches, &result));
    oht_log("evaluation took %.2f s", oht_clock_s() - start);
    oht_status status = eval_quant_run(s, opt, &result, &quantized);
    if (status == OHT_OK)
        status =
            oht_agree(s->comm, oht_comm_rank(s->comm) == 0 ? report(s, opt, &result, &quantized) : OHT_OK);
    eval_quant_free(&quantized);
    return status;
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    oht_config cfg;
    oht_session *s;
    OHT_TRY(oht_options_parse(
        argc, argv, OHT_OPT_RUN | OHT_OPT_OUT | OHT_OPT_SENSITIVITY | OHT_OPT_QUIET | OHT_OPT_KEYS, &opt));
    if (!opt.run) OHT_FAIL(OHT_CONFIG, "eval: which run?\nfix: ohtrain eval -r RUNDIR");
    OHT_TRY(oht_agree(comm, read_configuration(&opt, &cfg)));
    OHT_TRY(oht_agree(comm, opt.out && oht_comm_rank(comm) == 0 ? oht_file_check_place(opt.out) : OHT_OK));
    oht_quant_level level;
    OHT_TRY(eval_quant_level(&opt, &cfg, &level)); // before the evaluation, not after it
    oht_log_init(oht_comm_rank(comm), opt.quiet, cfg.run.progress);
    OHT_TRY(oht_session_create(&s, comm, &cfg, NULL, OHT_FOR_EVALUATION));
    oht_status status = evaluate(s, &opt);
    oht_session_destroy(s);
    return status;
}

const oht_command oht_cmd_eval = {
    .name = "eval",
    .usage = "-r RUNDIR [-o FILE.json] [--sensitivity site|kind|layer] [--quiet] [key=value ...]",
    .summary = "loss, quality and outlier metrics of a run, exact and quantized",
    .run = run,
    .help = "  -r RUNDIR  a run; its newest good checkpoint is used, with train.keep_best the best parameters in it\n"
            "  -o FILE    also write the result as JSON\n"
            "  --sensitivity site|kind|layer\n"
            "             leave one of them exact at a time and rank them by the loss that recovers\n"
            "  --quiet    no progress on stderr\n"
            "\n"
            "With quant.weights, quant.activations (bits) the model is also calibrated, quantized and "
            "evaluated; ranges go to\n"
            "RUNDIR/quant.h5 and quant.json, what happened at each site to /quant of RUNDIR/outliers.h5.\n"
            "\n"
            "The configuration is RUNDIR/config.yaml; key=value changes it for this evaluation.\n"
            "\n"
            "  ohtrain eval -r runs/softmax1 -o eval.json\n"
            "  ohtrain eval -r runs/softmax1 quant.weights=8 quant.activations=8 quant.percentile=99.999 "
            "--sensitivity site\n"
            "  mpirun -np 2 --bind-to none ohtrain eval -r runs/softmax1 eval.batch=32 eval.max_batches=10\n",
};
