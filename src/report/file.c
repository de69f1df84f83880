// What the report takes from an opened outliers.h5 (src/outliers/report.c writes /eval, /attention, /activations and /train,
// src/quant /quant): metrics, taps and heads of the last evaluation; for the page also thinned curves and quantization.
// Nothing in the file is trusted: lengths must agree, names are cut to size.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/memory.h"
#include "report/report.h"

enum { NAME = 96 };

// "layer.3.ffn.out" -> 3 and "ffn.out"; others: -1 and the whole name. STanHop-Net: "enc.3.mlp1.out" -> 3 and "mlp1.out",
// "dec.0.out" -> the number of encoder blocks and "out".
static const char *part_of(const oht_report_run *r, const char *name, int *layer) {
    const bool series = r->cfg.model.type == OHT_MODEL_STANHOP, decoder = series && strncmp(name, "dec.", 4) == 0;
    const char *before = decoder ? "dec." : series ? "enc." : "layer.", *digits = name + strlen(before);
    char *end;
    *layer = -1;
    if (strncmp(name, before, strlen(before)) != 0 || *digits < '0' || *digits > '9') return name;
    long n = strtol(digits, &end, 10);
    if (*end != '.' || n > 9999) return name;
    *layer = (int)n + (decoder ? (int)r->cfg.model.layers : 0);
    return end + 1;
}

// One dimension, of n values.
static oht_status read_column(oht_h5 *file, const char *group, const char *name, oht_h5_type type, int64_t n, void *out) {
    char path[NAME];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, path, 1, -1, &shape));
    if (shape.dim[0] != n)
        OHT_FAIL(OHT_DATA, "%s: %s has %" PRId64 " values, expected %" PRId64, oht_h5_path(file), path, shape.dim[0], n);
    return oht_h5_read(file, path, 0, n, type, out);
}

static void free_strings(char **text, int64_t n) {
    for (int64_t i = 0; i < n; i++) oht_free(text[i]);
    oht_free(text);
}

// The last group PREFIX/N for which `wanted` holds (NULL: any); empty if there is none.
static void last_group(oht_h5 *file, const char *prefix, bool (*wanted)(oht_h5 *, const char *, const oht_report_run *),
                       const oht_report_run *r, char out[32]) {
    char next[32];
    out[0] = '\0';
    for (int n = 0; snprintf(next, sizeof(next), "%s/%d", prefix, n), oht_h5_exists(file, next); n++) {
        bool whole = oht_h5_has(file, next, "step"); // a damaged one ends the search, and reading it says why
        if (!whole || !wanted || wanted(file, next, r)) memcpy(out, next, sizeof(next));
        if (!whole) break;
    }
}

// ---- the last evaluation ----

// The two sets of tensors apart, and the evaluation before the first step.
static oht_status read_series_metrics(oht_h5 *file, const char *group, oht_report_run *r) {
    r->modules = r->activation_kurtosis = r->clean_kurtosis = r->start_kurtosis = r->start_inf_norm = (double)NAN;
    if (r->cfg.model.type != OHT_MODEL_STANHOP) return OHT_OK;
    OHT_TRY(oht_h5_get_float(file, group, "modules", &r->modules));
    OHT_TRY(oht_h5_get_float(file, group, "activation_kurtosis", &r->activation_kurtosis));
    OHT_TRY(oht_h5_get_float(file, group, "clean_kurtosis", &r->clean_kurtosis));
    int64_t first;
    OHT_TRY(oht_h5_get_int(file, "/eval/0", "step", &first));
    if (first != 0) return OHT_OK;
    OHT_TRY(oht_h5_get_float(file, "/eval/0", "avg_kurtosis", &r->start_kurtosis));
    return oht_h5_get_float(file, "/eval/0", r->model->headline, &r->start_inf_norm);
}

static oht_status read_metrics(oht_h5 *file, const char *group, oht_report_run *r) {
    const struct {
        const char *name;
        double *out;
    } list[] = {{"loss", &r->loss},
                {r->model->task, &r->metric[OHT_REPORT_TASK]},
                {r->model->headline, &r->metric[OHT_REPORT_INF_NORM]},
                {"avg_kurtosis", &r->metric[OHT_REPORT_KURTOSIS]},
                {"max_kurtosis", &r->max_kurtosis},
                {"max_inf_norm", &r->max_inf_norm},
                {"max_ffn_inf_norm", &r->max_ffn_inf_norm},
                {"max_layer_inf_norm", &r->max_layer_inf_norm}};
    OHT_TRY(oht_h5_get_int(file, group, "step", &r->step));
    OHT_TRY(oht_h5_get_int(file, group, "sequences", &r->sequences));
    int64_t result = 0; // older files do not say
    if (oht_h5_has(file, group, "result")) OHT_TRY(oht_h5_get_int(file, group, "result", &result));
    r->is_result = result == 1;
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        OHT_TRY(oht_h5_get_float(file, group, list[i].name, list[i].out));
    OHT_TRY(read_series_metrics(file, group, r));
    if (r->step < 0 || r->sequences < 1)
        OHT_FAIL(OHT_DATA, "%s: %s: step %" PRId64 ", %" PRId64 " sequences: not an evaluation", oht_h5_path(file), group, r->step,
                 r->sequences);
    return OHT_OK;
}

static oht_status name_taps(oht_h5 *file, const char *path, char *const *name, int64_t n, oht_report_run *r) {
    if (n < 1) OHT_FAIL(OHT_DATA, "%s: %s is empty", oht_h5_path(file), path);
    if (n > 100000) OHT_FAIL(OHT_DATA, "%s: %s has %" PRId64 " taps, expected at most 100000", oht_h5_path(file), path, n);
    OHT_TRY(OHT_ALLOC(&r->tap, (size_t)n, "taps"));
    r->n_taps = (int)n;
    for (int k = 0; k < r->n_taps; k++) {
        oht_report_tap *t = &r->tap[k];
        snprintf(t->name, sizeof(t->name), "%s", name[k]);
        t->part = part_of(r, t->name, &t->layer);
        if (t->layer >= r->blocks)
            OHT_FAIL(OHT_DATA, "%s: %s names %s, but the model has %d layers", oht_h5_path(file), path, t->name, r->blocks);
    }
    return OHT_OK;
}

static oht_status read_tap_columns(oht_h5 *file, const char *group, double *real, int64_t *whole, oht_report_run *r) {
    static const char *const reals[] = {"inf_norm_max", "inf_norm_mean", "kurtosis"};
    static const char *const wholes[] = {"max_sample", "max_token", "max_channel"};
    for (int c = 0; c < 3; c++) {
        OHT_TRY(read_column(file, group, reals[c], OHT_H5_F64, r->n_taps, real));
        OHT_TRY(read_column(file, group, wholes[c], OHT_H5_I64, r->n_taps, whole));
        for (int k = 0; k < r->n_taps; k++) {
            oht_report_tap *t = &r->tap[k];
            *(c == 0 ? &t->inf_max : c == 1 ? &t->inf_mean : &t->kurtosis) = real[k];
            *(c == 0 ? &t->sample : c == 1 ? &t->token : &t->channel) = whole[k];
        }
    }
    for (int k = 1; k < r->n_taps; k++) // a tap without rows has NaN for its maximum
        if (isnan(r->tap[r->largest].inf_max) || r->tap[k].inf_max > r->tap[r->largest].inf_max) r->largest = k;
    return OHT_OK;
}

static oht_status read_taps(oht_h5 *file, const char *group, oht_report_run *r) {
    char path[NAME], **name;
    int64_t n, *whole = NULL;
    double *real = NULL;
    snprintf(path, sizeof(path), "%s/tap", group);
    OHT_TRY(oht_h5_read_strings(file, path, &name, &n));
    oht_status status;
    OHT_TRY_GOTO(status, name_taps(file, path, name, n, r), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&whole, (size_t)n, "places of maxima"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&real, (size_t)n, "maxima"), done);
    OHT_TRY_GOTO(status, read_tap_columns(file, group, real, whole, r), done);
done:
    free_strings(name, n);
    oht_free(whole);
    oht_free(real);
    return status;
}

static oht_status read_heads(oht_h5 *file, const char *group, const char *name, oht_report_run *r, double **out) {
    char path[NAME];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    if (!oht_h5_exists(file, path)) return OHT_OK;
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, path, 2, -1, &shape));
    const int64_t L = r->cfg.model.layers, layers = r->cfg.model.type == OHT_MODEL_STANHOP ? 3 * L + 4 * (L + 1) : L;
    if (shape.dim[0] != layers || shape.dim[1] != r->cfg.model.heads)
        OHT_FAIL(OHT_DATA, "%s: %s is (%" PRId64 ", %" PRId64 "), the model has %" PRId64 " layers of %" PRId64 " heads", oht_h5_path(file),
                 path, shape.dim[0], shape.dim[1], layers, r->cfg.model.heads);
    r->layers = (int)shape.dim[0];
    r->heads = (int)shape.dim[1];
    OHT_TRY(OHT_ALLOC(out, (size_t)(shape.dim[0] * shape.dim[1]), "heads"));
    return oht_h5_read(file, path, 0, shape.dim[0], OHT_H5_F64, *out);
}

// ---- W8A8 ----

static bool bits_of(oht_h5 *file, const char *group, char weights[16], char activations[16]) {
    return oht_h5_has(file, group, "quant.weights") && oht_h5_has(file, group, "quant.activations") &&
           oht_h5_get_text(file, group, "quant.weights", weights, 16) == OHT_OK &&
           oht_h5_get_text(file, group, "quant.activations", activations, 16) == OHT_OK;
}

static bool has_8_bits(oht_h5 *file, const char *group, const oht_report_run *r) {
    char weights[16], activations[16];
    (void)r;
    return bits_of(file, group, weights, activations) && strcmp(weights, "8") == 0 && strcmp(activations, "8") == 0;
}

// Of the parameters that were evaluated, not of an earlier step, and over the same samples (eval.max_batches).
static bool is_w8a8(oht_h5 *file, const char *group, const oht_report_run *r) {
    int64_t step, sequences;
    return has_8_bits(file, group, r) && oht_h5_has(file, group, "sequences") &&
           oht_h5_get_int(file, group, "sequences", &sequences) == OHT_OK &&
           oht_h5_get_int(file, group, "step", &step) == OHT_OK && step == r->step && sequences == r->sequences;
}

static oht_status read_w8a8(oht_h5 *file, oht_report_run *r) {
    char group[32];
    int64_t step;
    r->metric[OHT_REPORT_W8A8] = (double)NAN;
    last_group(file, "/quant", is_w8a8, r, group);
    if (!group[0]) return OHT_OK;
    OHT_TRY(oht_h5_get_int(file, group, "step", &step)); // of a damaged group
    return oht_h5_get_float(file, group, r->model->task, &r->metric[OHT_REPORT_W8A8]);
}

oht_status oht_report_read_evaluation(oht_h5 *file, oht_report_run *r) {
    char group[32];
    last_group(file, "/eval", NULL, r, group);
    if (!group[0])
        OHT_FAIL(OHT_DATA,
                 "unfinished: %s holds no evaluation yet\nfix: let the run come to its first evaluation (train.eval_every)",
                 oht_h5_path(file));
    OHT_TRY(read_metrics(file, group, r));
    OHT_TRY(read_taps(file, group, r));
    OHT_TRY(read_heads(file, group, "null_mass", r, &r->null_mass));
    OHT_TRY(read_heads(file, group, "gate_mean", r, &r->gate_mean));
    return read_w8a8(file, r);
}

// ---- curves ----

// Rows of a growing group, and which of them are drawn: every stride-th and the last.
static oht_status read_steps(oht_h5 *file, const char *path, int64_t **step, int64_t *rows) {
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, path, 1, -1, &shape));
    *rows = shape.dim[0];
    OHT_TRY(OHT_ALLOC(step, (size_t)*rows, "steps"));
    return oht_h5_read(file, path, 0, *rows, OHT_H5_I64, *step);
}

static int thinned(int64_t rows) {
    return rows < OHT_REPORT_POINTS ? (int)rows : OHT_REPORT_POINTS;
}

// First of the rows that point i of n stands for.
static int64_t bin(int64_t rows, int n, int i) {
    return rows * i / n;
}

// A point is the mean over its bin.
static oht_status thin_loss(oht_h5 *file, const int64_t *step, int64_t rows, double *all, oht_report_curves *c) {
    OHT_TRY(read_column(file, "/train", "loss", OHT_H5_F64, rows, all));
    for (int i = 0; i < c->n_loss; i++) {
        int64_t from = bin(rows, c->n_loss, i), to = bin(rows, c->n_loss, i + 1);
        double sum = 0, at = 0;
        for (int64_t k = from; k < to; k++) {
            sum += all[k];
            at += (double)step[k];
        }
        c->loss[i] = (float)(sum / (double)(to - from));
        c->loss_step[i] = at / (double)(to - from);
    }
    return OHT_OK;
}

static oht_status read_loss(oht_h5 *file, oht_report_curves *c) {
    int64_t *step = NULL, rows;
    double *all = NULL;
    oht_status status;
    OHT_TRY_GOTO(status, read_steps(file, "/train/step", &step, &rows), done);
    c->n_loss = thinned(rows);
    OHT_TRY_GOTO(status, OHT_ALLOC(&c->loss, (size_t)c->n_loss, "loss"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&c->loss_step, (size_t)c->n_loss, "loss"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&all, (size_t)rows, "loss"), done);
    OHT_TRY_GOTO(status, thin_loss(file, step, rows, all, c), done);
done:
    oht_free(step);
    oht_free(all);
    return status;
}

// column[k]: of tap k in /activations; -1 where training does not look at it (STanHop-Net: evaluations see more).
static oht_status find_columns(oht_h5 *file, const oht_report_run *r, int *column, int64_t *columns) {
    char **name;
    int same = 0;
    int64_t found = 0;
    OHT_TRY(oht_h5_read_strings(file, "/activations/tap", &name, columns));
    for (int k = 0; k < r->n_taps; k++) column[k] = -1;
    for (int64_t c = 0; c < *columns; c++) // both in forward order
        for (int k = same; k < r->n_taps; k++)
            if (strncmp(name[c], r->tap[k].name, sizeof(r->tap->name) - 1) == 0) {
                column[k] = (int)c;
                same = k + 1;
                found++;
                break;
            }
    free_strings(name, *columns);
    if (found != *columns || (r->cfg.model.type != OHT_MODEL_STANHOP && found != r->n_taps))
        OHT_FAIL(OHT_DATA, "%s: /activations/tap has %" PRId64 " names, of which %" PRId64 " are those of the last evaluation, which has %d",
                 oht_h5_path(file), *columns, found, r->n_taps);
    return OHT_OK;
}

static oht_status read_columns(oht_h5 *file, int64_t rows, int64_t columns, const int *column, const int64_t *step, float *row,
                               oht_report_run *r) {
    oht_report_curves *c = &r->curves;
    for (int i = 0; i < c->n_activation; i++) {
        int64_t at = bin(rows, c->n_activation, i + 1) - 1;
        c->step[i] = (double)step[at];
        OHT_TRY(oht_h5_read(file, "/activations/inf_norm_mean", at, 1, OHT_H5_F32, row));
        for (int k = 0; k < r->n_taps; k++)
            c->inf_mean[(size_t)i * (size_t)r->n_taps + (size_t)k] = column[k] >= 0 && column[k] < columns ? row[column[k]] : NAN;
    }
    return OHT_OK;
}

// A point is a measured row: the last of its bin.
static oht_status read_activations(oht_h5 *file, oht_report_run *r) {
    oht_report_curves *c = &r->curves;
    oht_h5_shape shape;
    int64_t *step = NULL, rows, columns = 0;
    int *column = NULL;
    float *row = NULL;
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&column, (size_t)r->n_taps, "columns of taps"), done);
    OHT_TRY_GOTO(status, find_columns(file, r, column, &columns), done);
    OHT_TRY_GOTO(status, read_steps(file, "/activations/step", &step, &rows), done);
    OHT_TRY_GOTO(status, oht_h5_shape_of(file, "/activations/inf_norm_mean", 2, -1, &shape), done);
    if (shape.dim[0] != rows || shape.dim[1] != columns)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: /activations/inf_norm_mean is (%" PRId64 ", %" PRId64 "), expected (%" PRId64 ", %" PRId64 ")",
                      oht_h5_path(file), shape.dim[0], shape.dim[1], rows, columns);
    c->n_activation = thinned(rows);
    OHT_TRY_GOTO(status, OHT_ALLOC(&c->step, (size_t)c->n_activation, "steps"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&c->inf_mean, (size_t)c->n_activation * (size_t)r->n_taps, "infinity norms"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&row, (size_t)columns, "infinity norms"), done);
    OHT_TRY_GOTO(status, read_columns(file, rows, columns, column, step, row, r), done);
done:
    oht_free(column);
    oht_free(row);
    oht_free(step);
    return status;
}

// ---- quantization ----

static oht_status read_sites(oht_h5 *file, const char *group, const oht_report_run *r, oht_report_site **out, int *count) {
    char path[NAME + 16], **name;
    int64_t n;
    double *sqnr = NULL;
    snprintf(path, sizeof(path), "%s/site", group);
    if (!oht_h5_exists(file, path)) return OHT_OK;
    OHT_TRY(oht_h5_read_strings(file, path, &name, &n));
    oht_status status;
    if (n > 100000) OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: %s has %" PRId64 " sites, expected at most 100000", oht_h5_path(file), path, n);
    OHT_TRY_GOTO(status, OHT_ALLOC(&sqnr, (size_t)n, "sites"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(out, (size_t)n, "sites"), done);
    OHT_TRY_GOTO(status, read_column(file, group, "sqnr_db", OHT_H5_F64, n, sqnr), done);
    for (int i = 0; i < (int)n; i++) {
        oht_report_site *s = &(*out)[i];
        snprintf(s->name, sizeof(s->name), "%s", name[i]);
        s->part = part_of(r, s->name, &s->layer);
        s->sqnr_db = sqnr[i];
    }
    *count = (int)n;
done:
    free_strings(name, n);
    oht_free(sqnr);
    return status;
}

static oht_status read_ranking(oht_h5 *file, const char *group, oht_report_quant *q) {
    char path[NAME + 16], **name;
    int64_t n;
    double *recovered = NULL;
    snprintf(path, sizeof(path), "%s/group", group);
    if (!oht_h5_exists(file, path)) return OHT_OK;
    OHT_TRY(oht_h5_get_text(file, group, "level", q->level, sizeof(q->level)));
    OHT_TRY(oht_h5_read_strings(file, path, &name, &n));
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&recovered, (size_t)n, "sensitivities"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&q->rank, (size_t)n, "sensitivities"), done);
    OHT_TRY_GOTO(status, read_column(file, group, "recovered", OHT_H5_F64, n, recovered), done);
    for (int64_t i = 0; i < n; i++) {
        snprintf(q->rank[i].name, sizeof(q->rank[i].name), "%s", name[i]);
        q->rank[i].recovered = recovered[i];
    }
    q->n_ranks = n < 1000000 ? (int)n : 1000000;
done:
    free_strings(name, n);
    oht_free(recovered);
    return status;
}

static oht_status read_quant(oht_h5 *file, oht_report_run *r) {
    oht_report_quant *q = &r->quant;
    char group[32], path[NAME], weights[16] = "?", activations[16] = "?";
    last_group(file, "/quant", has_8_bits, r, group); // so that runs are compared at the same widths
    if (!group[0]) last_group(file, "/quant", NULL, r, group);
    if (!group[0]) return OHT_OK;
    bits_of(file, group, weights, activations);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", group, i == 0 ? "activations" : "weights");
        OHT_TRY(read_sites(file, path, r, &q->site[i], &q->n_sites[i]));
    }
    snprintf(path, sizeof(path), "%s/sensitivity", group);
    OHT_TRY(read_ranking(file, path, q));
    snprintf(q->name, sizeof(q->name), "W%sA%s", weights, activations);
    return OHT_OK;
}

oht_status oht_report_read_drawn(oht_h5 *file, oht_report_run *r) {
    OHT_TRY(read_loss(file, &r->curves));
    OHT_TRY(read_activations(file, r));
    return read_quant(file, r);
}
