// ohtrain report: runs side by side in the layout of the paper's Table 1: model, method, average kurtosis,
// largest infinity norm, perplexity; differences against the first run. Reads RUNDIR/config.yaml and the last
// evaluation in RUNDIR/outliers.h5, which src/outliers/report.c writes. A run that cannot be read is named on
// stderr, the others are shown.
//
// The column "max inf norm" is the paper's headline: BERT max_ffn_inf_norm, OPT max_layer_inf_norm (spec
// paper 1.2).
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/report.h"
#include "config/table.h"
#include "oht/cmd.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/model.h"

static const char *const FORMATS[] = {"text", "md", "csv", "json", NULL};
typedef enum format { FORMAT_TEXT, FORMAT_MD, FORMAT_CSV, FORMAT_JSON } format;

// ---- reading one run
// -------------------------------------------------------------------------------------------------

// Table 1's names: the base of the attention, with "Gated" before it.
static oht_status name_method(oht_report_run *r) {
    const oht_model_config *m = &r->cfg.model;
    oht_assoc_spec spec;
    OHT_TRY(oht_assoc_parse(m, m->max_tokens, &spec));
    bool gated = m->gate != OHT_GATE_NONE;
    const char *base = "";
    switch (spec.kind) {
    case OHT_SOFTMAX:
        base = spec.clipped ? "Clipped_Softmax" : gated ? "Attention" : "Vanilla";
        break;
    case OHT_SOFTMAX1:
        base = spec.clipped ? "Clipped_OutEffHop" : "OutEffHop";
        break;
    case OHT_ENTMAX15:
        base = "Entmax15";
        break;
    case OHT_SPARSEMAX:
        base = "Sparsemax";
        break;
    }
    snprintf(r->method, sizeof(r->method), "%s%s", gated ? "Gated_" : "", base);
    return OHT_OK;
}

static oht_status count_parameters(oht_report_run *r) {
    oht_model *model;
    OHT_TRY(oht_model_create(&model, &r->cfg.model, r->cfg.model.max_tokens));
    r->params = oht_params_count(oht_model_params(model));
    oht_model_destroy(model);
    return OHT_OK;
}

static oht_status read_metrics(oht_h5 *file, const char *group, oht_report_run *r) {
    const struct {
        const char *name;
        double *out;
    } list[] = {{"loss", &r->loss},
                {"perplexity", &r->metric[OHT_REPORT_PERPLEXITY]},
                {"avg_kurtosis", &r->metric[OHT_REPORT_KURTOSIS]},
                {"max_kurtosis", &r->max_kurtosis},
                {"max_inf_norm", &r->max_inf_norm},
                {"max_ffn_inf_norm", &r->max_ffn_inf_norm},
                {"max_layer_inf_norm", &r->max_layer_inf_norm}};
    OHT_TRY(oht_h5_get_int(file, group, "step", &r->step));
    OHT_TRY(oht_h5_get_int(file, group, "sequences", &r->sequences));
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        OHT_TRY(oht_h5_get_float(file, group, list[i].name, list[i].out));
    if (r->step < 0 || r->sequences < 1)
        OHT_FAIL(OHT_DATA, "%s: %s: step %" PRId64 ", %" PRId64 " sequences: not an evaluation",
                 oht_h5_path(file), group, r->step, r->sequences);
    r->metric[OHT_REPORT_INF_NORM] =
        r->cfg.model.type == OHT_MODEL_BERT ? r->max_ffn_inf_norm : r->max_layer_inf_norm;
    return OHT_OK;
}

// One value a tap, in the order of the group's tap names.
static oht_status read_column(oht_h5 *file, const char *group, const char *name, oht_h5_type type, int64_t n,
                              void *out) {
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, path, 1, -1, &shape));
    if (shape.dim[0] != n)
        OHT_FAIL(OHT_DATA, "%s: %s has %" PRId64 " values, %s/tap has %" PRId64, oht_h5_path(file), path,
                 shape.dim[0], group, n);
    return oht_h5_read(file, path, 0, n, type, out);
}

// Four columns of n numbers; a tap without rows has NaN for its maximum.
static oht_status find_largest(oht_h5 *file, const char *group, char **tap, int64_t n, int64_t *sample,
                               double *value, oht_report_largest *out) {
    OHT_TRY(read_column(file, group, "inf_norm_max", OHT_H5_F64, n, value));
    int64_t best = 0;
    for (int64_t k = 1; k < n; k++)
        if (isnan(value[best]) || value[k] > value[best]) best = k;
    out->value = value[best];
    snprintf(out->tap, sizeof(out->tap), "%s", tap[best]);
    const struct {
        const char *name;
        int64_t *out;
    } place[] = {{"max_sample", &out->sample}, {"max_token", &out->token}, {"max_channel", &out->channel}};
    for (size_t i = 0; i < sizeof(place) / sizeof(place[0]); i++) {
        OHT_TRY(read_column(file, group, place[i].name, OHT_H5_I64, n, sample));
        *place[i].out = sample[best];
    }
    return OHT_OK;
}

static oht_status read_largest(oht_h5 *file, const char *group, oht_report_largest *out) {
    char path[64], **tap;
    int64_t n, *whole = NULL;
    double *real = NULL;
    snprintf(path, sizeof(path), "%s/tap", group);
    OHT_TRY(oht_h5_read_strings(file, path, &tap, &n));
    oht_status status;
    if (n < 1) OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: %s is empty", oht_h5_path(file), path);
    OHT_TRY_GOTO(status, OHT_ALLOC(&whole, (size_t)n, "places of maxima"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&real, (size_t)n, "maxima"), done);
    OHT_TRY_GOTO(status, find_largest(file, group, tap, n, whole, real, out), done);
done:
    for (int64_t i = 0; i < n; i++) oht_free(tap[i]);
    oht_free(tap);
    oht_free(whole);
    oht_free(real);
    return status;
}

static oht_status read_file(oht_h5 *file, oht_report_run *r) {
    char kind[64], group[32] = "", next[32];
    OHT_TRY(oht_h5_get_text(file, "/", "format", kind, sizeof(kind)));
    if (strcmp(kind, "ohtrain-outliers") != 0)
        OHT_FAIL(OHT_DATA, "%s: format \"%s\", expected \"ohtrain-outliers\"", oht_h5_path(file), kind);
    for (int n = 0; snprintf(next, sizeof(next), "/eval/%d", n), oht_h5_exists(file, next); n++)
        memcpy(group, next, sizeof(next));
    if (!group[0])
        OHT_FAIL(OHT_DATA,
                 "unfinished: %s holds no evaluation yet\nfix: let the run come to its first evaluation "
                 "(train.eval_every)",
                 oht_h5_path(file));
    OHT_TRY(read_metrics(file, group, r));
    OHT_TRY(read_largest(file, group, &r->largest));
    return OHT_OK;
}

static oht_status read_run(const char *path, oht_report_run *r) {
    memset(r, 0, sizeof(*r));
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    r->path = path;
    r->path_bytes = (int)n;
    char name[OHT_PATH + 32];
    if (n >= OHT_PATH) OHT_FAIL(OHT_CONFIG, "the path is longer than %d bytes", OHT_PATH - 1);
    snprintf(name, sizeof(name), "%.*s/config.yaml", (int)n, path);
    if (access(name, F_OK) != 0) OHT_FAIL(OHT_DATA, "not a run directory: it has no config.yaml");
    oht_config_defaults(&r->cfg);
    OHT_TRY(oht_config_load(&r->cfg, name));
    OHT_TRY(oht_config_check(&r->cfg));
    OHT_TRY(name_method(r));
    OHT_TRY(count_parameters(r));
    snprintf(name, sizeof(name), "%.*s/outliers.h5", (int)n, path);
    if (access(name, F_OK) != 0) OHT_FAIL(OHT_DATA, "it has no outliers.h5 yet");
    oht_h5 *file;
    OHT_TRY(oht_h5_open(&file, name));
    oht_status status = read_file(file, r);
    oht_h5_close(file);
    return status;
}

// ---- all runs
// ----------------------------------------------------------------------------------------------------------

// The error's first line, on one line.
static void complain(const char *path, const oht_error *error, oht_report_failure *f) {
    const char *fix = strstr(error->text, "\nfix: ");
    f->path = path;
    snprintf(f->text, sizeof(f->text), "%.*s", fix ? (int)(fix - error->text) : (int)strlen(error->text),
             error->text);
    oht_warn("%s: %s", path, f->text);
}

static void read_all(const oht_options *opt, oht_report_table *t) {
    for (int i = 0; i < opt->n_rest; i++) {
        oht_report_run *r = &t->run[t->n_runs];
        if (read_run(opt->rest[i], r) != OHT_OK) {
            complain(opt->rest[i], oht_error_last(), &t->failure[t->n_failures++]);
            continue;
        }
        t->n_runs++;
        if (r->step >= r->cfg.train.steps) continue;
        t->n_unfinished++;
        oht_warn("%s: unfinished: evaluated at step %" PRId64 " of %" PRId64, opt->rest[i], r->step,
                 r->cfg.train.steps);
    }
}

static oht_status show(const oht_report_table *t, format how) {
    switch (how) {
    case FORMAT_TEXT:
        OHT_TRY(oht_report_text(t, stdout));
        break;
    case FORMAT_MD:
        OHT_TRY(oht_report_markdown(t, stdout));
        break;
    case FORMAT_CSV:
        OHT_TRY(oht_report_csv(t, stdout));
        break;
    case FORMAT_JSON:
        OHT_TRY(oht_report_json(t, stdout));
        break;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) OHT_FAIL(OHT_IO, "cannot write to standard output");
    return OHT_OK;
}

static oht_status report(const oht_options *opt, format how) {
    oht_report_table t = {0};
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&t.run, (size_t)opt->n_rest, "runs"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&t.failure, (size_t)opt->n_rest, "errors of runs"), done);
    read_all(opt, &t);
    OHT_TRY_GOTO(status, show(&t, how), done);
    if (t.n_failures + t.n_unfinished > 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done,
                      "of %d runs %d could not be read and %d are unfinished (see the warnings)", opt->n_rest,
                      t.n_failures, t.n_unfinished);
done:
    oht_free(t.run);
    oht_free(t.failure);
    return status;
}

static const char *next_format(const void *ctx, int i) {
    (void)ctx;
    return FORMATS[i];
}

static oht_status parse_format(const char *word, format *out) {
    *out = FORMAT_TEXT;
    if (!word) return OHT_OK;
    for (int i = 0; FORMATS[i]; i++) {
        *out = (format)i;
        if (strcmp(FORMATS[i], word) == 0) return OHT_OK;
    }
    const char *near = oht_nearest(word, next_format, NULL);
    OHT_FAIL(OHT_CONFIG, "report: --format: found \"%.60s\"%s%s; allowed: text, md, csv, json", word,
             near ? ", nearest: " : "", near ? near : "");
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    format how;
    OHT_TRY(oht_options_parse(argc, argv, OHT_OPT_FORMAT | OHT_OPT_WORDS, &opt));
    OHT_TRY(parse_format(opt.format, &how));
    if (opt.n_rest == 0) OHT_FAIL(OHT_CONFIG, "report: which runs?\nfix: ohtrain report RUNDIR...");
    oht_status status = oht_comm_rank(comm) == 0 ? report(&opt, how) : OHT_OK;
    return oht_agree(comm, status);
}

const oht_command oht_cmd_report = {
    .name = "report",
    .usage = "RUNDIR... [--format text|md|csv|json]",
    .summary = "compares runs: outliers and perplexity of their last evaluation, in the layout of the "
               "paper's Table 1",
    .run = run,
    .help = "  --format WORD  text (default), md, csv or json\n"
            "\n"
            "Differences are in percent of the first run. The infinity norm is the paper's: of feed-forward "
            "outputs for BERT\n"
            "(max_ffn_inf_norm), of layer outputs for OPT (max_layer_inf_norm). A run that is damaged, "
            "unfinished or no run at\n"
            "all is named on stderr, the others are shown, and the exit code is 3.\n"
            "\n"
            "  ohtrain report runs/vanilla runs/softmax1\n"
            "  ohtrain report runs/* --format csv\n",
};
