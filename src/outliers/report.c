// RUNDIR/outliers.h5: kept in memory by rank 0, published whole, so that a reader
// always sees a complete file and a kill costs the rows since the last publication. Every axis has a
// dimension scale: h5py labels it, and xarray.open_dataset(path,
// group="activations").sel(tap="layer.3.ffn.out") works.
//
//   /activations   step (S), tap (K); (S,K) per-tap statistics, their names in `per_tap` below
//   /attention     step (S), layer (L), head (H); (S,L,H) null_mass (softmax_1), gate_mean (gated attention). A layer of
//                  STanHop-Net is one association: 3 of each encoder block, then 4 of each decoder layer
//   /train         step (S); loss, lr, grad_norm (S)
//   /quantizability step (S), where quant.every asks; loss, fp_loss, avg_kurtosis, max_inf_norm (S)
//   /quant/N       one quantized evaluation, written by src/quant/file.c
//   /eval/N        one evaluation: metrics, step, sequences, split, result (1: of the whole run), params_step (whose parameters)
//                  as attributes, tap (E) and (E) statistics (evaluation may watch more taps), layer, head, null_mass, gate_mean
//   /eval/N/modules  with compat.all_modules: tap (M) and (M) statistics of all tensors that modules of the reference
//                    return, times: how many modules return it
//
// Floats are float32: infinity norms are exact in it, and a long report stays small.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/outliers.h"

enum { VERSION = 1, CHUNK_ROWS = 64, NAME = 96 };
static const char *const FORMAT = "ohtrain-outliers";

struct oht_report {
    oht_h5 *file;
    int taps, layers, heads; // taps: those of training
    bool null_mass, gate;
    int64_t activations, attention, curve, quantizability; // rows
    int64_t evaluations, evaluated; // their number, step of the last
    double publish_s, published_s; // interval; time of the last one
    bool dirty;
    size_t row; // capacity of these: one row of any dataset
    float *f32;
    int64_t *i64;
    int32_t *i32;
};

// ---- what is kept of a tap ----

static double inf_norm_max(const oht_tap_stats *t) {
    return t->rows ? t->pooled.abs_max : NAN;
}
static double inf_norm_mean(const oht_tap_stats *t) {
    return t->inf_sum / (double)t->inf_rows;
}
static double kurtosis(const oht_tap_stats *t) {
    return t->kurtosis_sum / (double)t->kurtosis_rows;
}
static double kurtosis_pooled(const oht_tap_stats *t) {
    return t->rows ? oht_kurtosis(&t->pooled) : NAN;
}
static double rms(const oht_tap_stats *t) {
    return sqrt(t->pooled.m2 / (double)t->pooled.n + t->pooled.mean * t->pooled.mean);
}
static int64_t outliers_6sigma(const oht_tap_stats *t) {
    return t->outliers_6sigma;
}
static int64_t max_sample(const oht_tap_stats *t) {
    return t->max_sample;
}
static int64_t max_token(const oht_tap_stats *t) {
    return t->max_token;
}
static int64_t max_channel(const oht_tap_stats *t) {
    return t->max_channel;
}

static const struct {
    const char *name, *meaning;
    oht_h5_type type;
    double (*real)(const oht_tap_stats *t);
    int64_t (*whole)(const oht_tap_stats *t);
} per_tap[] = {
    {"inf_norm_max", "largest |x| of all rows", OHT_H5_F32, inf_norm_max, NULL},
    {"inf_norm_mean", "mean over rows of the row's largest |x|", OHT_H5_F32, inf_norm_mean, NULL},
    {"kurtosis", "mean over rows of mean((x-mean)^4) / (s^4 + 1e-6), s unbiased", OHT_H5_F32, kurtosis, NULL},
    {"kurtosis_pooled", "the same of all values as one sample", OHT_H5_F32, kurtosis_pooled, NULL},
    {"outliers_6sigma", "number of values more than 6 sigma from their row's mean", OHT_H5_I64, NULL,
     outliers_6sigma},
    {"rms", "square root of the mean of x^2", OHT_H5_F32, rms, NULL},
    {"max_sample", "row of the data file that holds the largest |x|", OHT_H5_I64, NULL, max_sample},
    {"max_token", "its place in that row", OHT_H5_I32, NULL, max_token},
    {"max_channel", "its channel", OHT_H5_I32, NULL, max_channel},
};
enum { PER_TAP = sizeof(per_tap) / sizeof(per_tap[0]) };

// Puts column `c` of n taps into the row buffer of its type.
static const void *column(oht_report *r, int c, const oht_tap_stats *t, int n) {
    for (int k = 0; k < n; k++) {
        if (per_tap[c].type == OHT_H5_F32) r->f32[k] = (float)per_tap[c].real(&t[k]);
        if (per_tap[c].type == OHT_H5_I64) r->i64[k] = per_tap[c].whole(&t[k]);
        if (per_tap[c].type == OHT_H5_I32) r->i32[k] = (int32_t)per_tap[c].whole(&t[k]);
    }
    return per_tap[c].type == OHT_H5_F32   ? (const void *)r->f32
           : per_tap[c].type == OHT_H5_I64 ? (const void *)r->i64
                                           : r->i32;
}

// ---- creation ----

// A dataset of `rank` axes, the labels of which are scales in the same group; `grows`: axis 0 is the step.
static oht_status make(oht_report *r, const char *group, const char *name, oht_h5_type type, int rank,
                       const int64_t *dim, const char *const *axis, bool grows, const char *meaning) {
    char path[NAME], scale[NAME];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    oht_h5_shape shape = {.type = type, .rank = rank};
    for (int i = 0; i < rank; i++) shape.chunk[i] = shape.dim[i] = dim[i];
    if (grows) shape.chunk[0] = rank == 1 ? 16 * CHUNK_ROWS : CHUNK_ROWS;
    OHT_TRY(oht_h5_make(r->file, path, &shape, grows, true));
    for (int i = 0; i < rank; i++) {
        snprintf(scale, sizeof(scale), "%s/%s", group, axis[i]);
        OHT_TRY(oht_h5_attach_scale(r->file, path, i, scale, axis[i]));
    }
    return oht_h5_set_text(r->file, path, "long_name", meaning);
}

static oht_status make_step(oht_report *r, const char *group) {
    return make(r, group, "step", OHT_H5_I64, 1, (const int64_t[]){0}, (const char *const[]){"step"}, true,
                "completed optimizer steps");
}

static oht_status make_taps(oht_report *r, const char *group, const oht_tap_info *info, int n) {
    char path[NAME];
    const char **name;
    snprintf(path, sizeof(path), "%s/tap", group);
    OHT_TRY(OHT_ALLOC(&name, (size_t)n, "names of taps"));
    for (int k = 0; k < n; k++) name[k] = info[k].name;
    oht_status status = oht_h5_write_strings(r->file, path, name, n);
    oht_free(name);
    OHT_TRY(status);
    return oht_h5_attach_scale(r->file, path, 0, path, "tap");
}

static oht_status make_index(oht_report *r, const char *group, const char *name, int n) {
    char path[NAME];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    OHT_TRY(make(r, group, name, OHT_H5_I32, 1, (const int64_t[]){n}, (const char *const[]){name}, false,
                 "counted from 0"));
    for (int i = 0; i < n; i++) r->i32[i] = i;
    return oht_h5_write(r->file, path, 0, n, OHT_H5_I32, r->i32);
}

static oht_status make_heads(oht_report *r, const char *group, bool grows) {
    const int64_t dim[3] = {0, r->layers, r->heads};
    const char *const axis[3] = {"step", "layer", "head"};
    int rank = grows ? 3 : 2, from = grows ? 0 : 1;
    OHT_TRY(make_index(r, group, "layer", r->layers));
    OHT_TRY(make_index(r, group, "head", r->heads));
    if (r->null_mass)
        OHT_TRY(make(r, group, "null_mass", OHT_H5_F32, rank, dim + from, axis + from, grows,
                     "mean share of softmax_1's probability that goes to no key"));
    if (r->gate)
        OHT_TRY(
            make(r, group, "gate_mean", OHT_H5_F32, rank, dim + from, axis + from, grows, "mean gate value"));
    return OHT_OK;
}

static oht_status make_groups(oht_report *r, const oht_tap_info *info) {
    static const char *const axes[] = {"step", "tap"};
    OHT_TRY(make_step(r, "/activations"));
    OHT_TRY(make_taps(r, "/activations", info, r->taps));
    for (int c = 0; c < PER_TAP; c++)
        OHT_TRY(make(r, "/activations", per_tap[c].name, per_tap[c].type, 2, (const int64_t[]){0, r->taps},
                     axes, true, per_tap[c].meaning));
    if (r->null_mass || r->gate) {
        OHT_TRY(make_step(r, "/attention"));
        OHT_TRY(make_heads(r, "/attention", true));
    }
    OHT_TRY(make_step(r, "/train"));
    static const char *const curve[3][2] = {{"loss", "training loss of the step"},
                                            {"lr", "learning rate of the step"},
                                            {"grad_norm", "L2 norm of the gradient before clipping"}};
    for (int i = 0; i < 3; i++)
        OHT_TRY(make(r, "/train", curve[i][0], OHT_H5_F64, 1, (const int64_t[]){0}, axes, true, curve[i][1]));
    return OHT_OK;
}

static oht_status describe(oht_report *r, const oht_config *cfg) {
    char *text;
    OHT_TRY(oht_config_text(cfg, &text));
    oht_status status = oht_h5_set_text(r->file, "/", "config", text);
    oht_free(text);
    OHT_TRY(status);
    OHT_TRY(oht_h5_set_text(r->file, "/", "format", FORMAT));
    OHT_TRY(oht_h5_set_int(r->file, "/", "format_version", VERSION));
    return oht_h5_set_text(r->file, "/", "created_by", "ohtrain " OHT_VERSION);
}

// ---- resume ----

// Number of rows of a group up to step `cut`; the others are dropped from every growing dataset.
typedef struct cutter {
    oht_report *r;
    int64_t before, keep;
} cutter;

static oht_status cut_dataset(void *ctx, const char *name) {
    cutter *c = ctx;
    oht_h5_shape shape;
    const char *last = strrchr(name, '/');
    if (strcmp(last, "/tap") == 0 || strcmp(last, "/layer") == 0 || strcmp(last, "/head") == 0) return OHT_OK;
    OHT_TRY(oht_h5_shape_of(c->r->file, name, -1, -1, &shape));
    if (shape.dim[0] != c->before)
        OHT_FAIL(OHT_DATA,
                 "%s: %s has %lld rows, its step axis %lld", oht_h5_path(c->r->file), name, (long long)shape.dim[0], (long long)c->before);
    return oht_h5_truncate(c->r->file, name, c->keep);
}

static oht_status cut_group(oht_report *r, const char *group, int64_t cut, int64_t *rows) {
    char path[NAME];
    snprintf(path, sizeof(path), "%s/step", group);
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(r->file, path, 1, OHT_H5_I64, &shape));
    cutter c = {r, shape.dim[0], 0};
    int64_t *step;
    OHT_TRY(OHT_ALLOC(&step, (size_t)shape.dim[0], "steps of the report"));
    oht_status status = oht_h5_read(r->file, path, 0, shape.dim[0], OHT_H5_I64, step);
    while (status == OHT_OK && c.keep < c.before && step[c.keep] <= cut) c.keep++;
    oht_free(step);
    OHT_TRY(status);
    OHT_TRY(oht_h5_each(r->file, group, cut_dataset, &c));
    *rows = c.keep;
    return OHT_OK;
}

static oht_status cut_evaluations(oht_report *r, int64_t cut) {
    int64_t n = 0, step = -1;
    char group[NAME];
    for (;; n++) {
        snprintf(group, sizeof(group), "/eval/%lld", (long long)n);
        if (!oht_h5_exists(r->file, group)) break;
        OHT_TRY(oht_h5_get_int(r->file, group, "step", &step)); // a damaged group is an error, not one more
    }
    while (n > 0) {
        snprintf(group, sizeof(group), "/eval/%lld", (long long)n - 1);
        OHT_TRY(oht_h5_get_int(r->file, group, "step", &step));
        if (step <= cut) break;
        OHT_TRY(oht_h5_delete(r->file, group));
        n--;
    }
    r->evaluations = n;
    r->evaluated = n > 0 ? step : -1;
    return OHT_OK;
}

// The axes must be those of this model: the configuration has been compared before, so a difference is a
// foreign file.
static oht_status check_axes(oht_report *r, const oht_tap_info *info) {
    char format[64], **name;
    int64_t version, n;
    OHT_TRY(oht_h5_get_text(r->file, "/", "format", format, sizeof(format)));
    OHT_TRY(oht_h5_get_int(r->file, "/", "format_version", &version));
    if (strcmp(format, FORMAT) != 0 || version != VERSION)
        OHT_FAIL(OHT_DATA,
                 "%s: format %s, version %lld, expected %s, version %d", oht_h5_path(r->file), format, (long long)version, FORMAT, VERSION);
    OHT_TRY(oht_h5_read_strings(r->file, "/activations/tap", &name, &n));
    int same = 0;
    while (same < n && same < r->taps && strcmp(name[same], info[same].name) == 0) same++;
    for (int64_t i = 0; i < n; i++) oht_free(name[i]);
    oht_free(name);
    bool heads = oht_h5_exists(r->file, "/attention/null_mass") == r->null_mass &&
                 oht_h5_exists(r->file, "/attention/gate_mean") == r->gate;
    if (same != r->taps || n != r->taps || !heads)
        OHT_FAIL(OHT_DATA,
                 "%s: its taps are those of another model (%lld taps, this model has %d; the first %d agree)",
                 oht_h5_path(r->file), (long long)n, r->taps, same);
    return OHT_OK;
}

static oht_status load(oht_report *r, const char *path, const oht_tap_info *info, int64_t cut) {
    OHT_TRY(oht_h5_load_memory(&r->file, path));
    OHT_TRY(check_axes(r, info));
    OHT_TRY(cut_group(r, "/activations", cut, &r->activations));
    if (r->null_mass || r->gate) OHT_TRY(cut_group(r, "/attention", cut, &r->attention));
    OHT_TRY(cut_group(r, "/train", cut, &r->curve));
    if (oht_h5_exists(r->file, "/quantizability"))
        OHT_TRY(cut_group(r, "/quantizability", cut, &r->quantizability));
    return cut_evaluations(r, cut);
}

// A report that cannot be continued is kept under another name, and the run goes on with a new one: its
// checkpoints are good, and what was measured may still be worth a look.
static oht_status set_aside(oht_report *r, const char *path, int64_t cut) {
    const char *why = oht_error_last()->text;
    char name[OHT_PATH + 64];
    int n = 1;
    do snprintf(name, sizeof(name), "%.*s.damaged-%d", OHT_PATH + 32, path, n++);
    while (access(name, F_OK) == 0);
    if (rename(path, name) != 0)
        OHT_FAIL(OHT_IO, "%.*s; and it cannot be renamed to %s: %s", (int)strcspn(why, "\n"), why, name,
                 strerror(errno));
    oht_warn("%.*s; it is now %s, and a new report begins at step %lld", (int)strcspn(why, "\n"), why, name,
             (long long)cut);
    oht_h5_close(r->file);
    r->file = NULL;
    r->activations = r->attention = r->curve = r->quantizability = r->evaluations = 0;
    r->evaluated = -1;
    return OHT_OK;
}

static oht_status reserve_row(oht_report *r, int n) {
    size_t row = (size_t)(n > r->layers * r->heads ? n : r->layers * r->heads) + 1;
    if (row <= r->row) return OHT_OK;
    oht_free(r->f32);
    oht_free(r->i64);
    oht_free(r->i32);
    r->f32 = NULL, r->i64 = NULL, r->i32 = NULL;
    r->row = 0;
    OHT_TRY(OHT_ALLOC(&r->f32, row, "row of the report"));
    OHT_TRY(OHT_ALLOC(&r->i64, row, "row of the report"));
    OHT_TRY(OHT_ALLOC(&r->i32, row, "row of the report"));
    r->row = row;
    return OHT_OK;
}

static oht_status open_file(oht_report *r, const char *path, const oht_config *cfg, const oht_tap_info *info,
                            int64_t cut) {
    OHT_TRY(reserve_row(r, r->taps));
    if (cut > 0 && access(path, F_OK) == 0) {
        oht_status status = load(r, path, info, cut);
        if (status == OHT_DATA) status = set_aside(r, path, cut);
        OHT_TRY(status);
    }
    if (!r->file) {
        OHT_TRY(oht_h5_create_memory(&r->file, path));
        OHT_TRY(make_groups(r, info));
    }
    OHT_TRY(describe(r, cfg));
    r->dirty = true;
    return oht_report_publish(r, true); // a folder that cannot be written to shows now
}

oht_status oht_report_open(oht_report **out, const char *path, const oht_config *cfg, const oht_stats *s,
                           int64_t cut) {
    *out = NULL;
    oht_report *r;
    OHT_TRY(OHT_ALLOC(&r, 1, "report"));
    const oht_tap_info *info;
    r->taps = oht_stats_taps(s, &info, NULL);
    r->null_mass = oht_stats_null_mass(s, &r->layers, &r->heads) != NULL;
    r->gate = oht_stats_gate_mean(s, &r->layers, &r->heads) != NULL;
    r->publish_s = cfg->outliers.publish_s;
    r->evaluated = -1;
    oht_status status = open_file(r, path, cfg, info, cut);
    if (status != OHT_OK) {
        oht_report_close(r);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = r;
    return OHT_OK;
}

int64_t oht_report_evaluated(const oht_report *r) {
    return r->evaluated;
}

void oht_report_close(oht_report *r) {
    if (!r) return;
    oht_h5_close(r->file);
    oht_free(r->f32);
    oht_free(r->i64);
    oht_free(r->i32);
    oht_free(r);
}

// ---- rows ----

// One (L,H) matrix as row `at` of a growing dataset, or, with at = -1, as a whole dataset.
static oht_status write_heads(oht_report *r, const char *group, const char *name, const double *x,
                              int64_t at) {
    char path[NAME];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    for (int i = 0; i < r->layers * r->heads; i++) r->f32[i] = (float)x[i];
    return at < 0 ? oht_h5_write(r->file, path, 0, r->layers, OHT_H5_F32, r->f32)
                  : oht_h5_write(r->file, path, at, 1, OHT_H5_F32, r->f32);
}

static oht_status write_attention(oht_report *r, const char *group, const oht_stats *s, int64_t at) {
    int layers, heads;
    if (r->null_mass)
        OHT_TRY(write_heads(r, group, "null_mass", oht_stats_null_mass(s, &layers, &heads), at));
    if (r->gate) OHT_TRY(write_heads(r, group, "gate_mean", oht_stats_gate_mean(s, &layers, &heads), at));
    return OHT_OK;
}

oht_status oht_report_append(oht_report *r, int64_t step, const oht_stats *s) {
    const oht_tap_stats *stats;
    oht_stats_taps(s, NULL, &stats);
    for (int c = 0; c < PER_TAP; c++) {
        char path[NAME];
        snprintf(path, sizeof(path), "/activations/%s", per_tap[c].name);
        OHT_TRY(oht_h5_write(r->file, path, r->activations, 1, per_tap[c].type, column(r, c, stats, r->taps)));
    }
    OHT_TRY(oht_h5_write(r->file, "/activations/step", r->activations, 1, OHT_H5_I64, &step));
    r->activations++;
    r->dirty = true;
    if (!r->null_mass && !r->gate) return OHT_OK;
    OHT_TRY(write_attention(r, "/attention", s, r->attention));
    OHT_TRY(oht_h5_write(r->file, "/attention/step", r->attention, 1, OHT_H5_I64, &step));
    r->attention++;
    return OHT_OK;
}

oht_status oht_report_curve(oht_report *r, int64_t step, double loss, double lr, double grad_norm) {
    OHT_TRY(oht_h5_write(r->file, "/train/loss", r->curve, 1, OHT_H5_F64, &loss));
    OHT_TRY(oht_h5_write(r->file, "/train/lr", r->curve, 1, OHT_H5_F64, &lr));
    OHT_TRY(oht_h5_write(r->file, "/train/grad_norm", r->curve, 1, OHT_H5_F64, &grad_norm));
    OHT_TRY(oht_h5_write(r->file, "/train/step", r->curve, 1, OHT_H5_I64, &step));
    r->curve++;
    r->dirty = true;
    return OHT_OK;
}

// Made when first needed: most runs do without.
oht_status oht_report_quantizability(oht_report *r, int64_t step, double exact, double quantized,
                                     const oht_outlier_metrics *seen) {
    static const char *const axes[] = {"step"};
    const struct {
        const char *name, *meaning;
        double value;
    } list[] = {{"loss", "loss of one fixed batch, quantized", quantized},
                {"fp_loss", "the same exact", exact},
                {"avg_kurtosis", "of the exact pass", seen->avg_kurtosis},
                {"max_inf_norm", "of the exact pass", seen->max_inf_norm}};
    const size_t n = sizeof(list) / sizeof(list[0]);
    bool first = !oht_h5_exists(r->file, "/quantizability");
    if (first) OHT_TRY(make_step(r, "/quantizability"));
    for (size_t i = 0; i < n; i++) {
        char path[NAME];
        if (first)
            OHT_TRY(make(r, "/quantizability", list[i].name, OHT_H5_F64, 1, (const int64_t[]){0}, axes, true,
                         list[i].meaning));
        snprintf(path, sizeof(path), "/quantizability/%s", list[i].name);
        OHT_TRY(oht_h5_write(r->file, path, r->quantizability, 1, OHT_H5_F64, &list[i].value));
    }
    OHT_TRY(oht_h5_write(r->file, "/quantizability/step", r->quantizability, 1, OHT_H5_I64, &step));
    r->quantizability++;
    r->dirty = true;
    return OHT_OK;
}

static oht_status write_metrics(oht_report *r, const char *group, int64_t step, const oht_eval_result *e) {
    oht_metric metric[OHT_METRICS];
    int n = oht_eval_metrics(e, metric);
    OHT_TRY(oht_h5_set_int(r->file, group, "step", step));
    OHT_TRY(oht_h5_set_int(r->file, group, "sequences", e->sequences));
    OHT_TRY(oht_h5_set_text(r->file, group, "split", oht_split_name(e->split)));
    OHT_TRY(oht_h5_set_int(r->file, group, "result", e->is_result));
    OHT_TRY(oht_h5_set_int(r->file, group, "params_step", e->params_step));
    for (int i = 0; i < n; i++) OHT_TRY(oht_h5_set_float(r->file, group, metric[i].name, metric[i].value));
    return OHT_OK;
}

// The taps with (`modules`: that return a module's tensor) or without those recorded for the modules alone, in front; how many.
static int choose(bool modules, oht_tap_info *info, oht_tap_stats *stats, int n) {
    int k = 0;
    for (int i = 0; i < n; i++) {
        if (modules ? !OHT_MODULES_OF(info[i].roles) : info[i].roles & OHT_MODULES_ALONE) continue;
        info[k] = info[i];
        stats[k++] = stats[i];
    }
    return k;
}

static oht_status write_taps(oht_report *r, const char *group, const oht_tap_info *info, const oht_tap_stats *stats, int n) {
    static const char *const axis[] = {"tap"};
    char path[NAME];
    OHT_TRY(make_taps(r, group, info, n));
    for (int c = 0; c < PER_TAP; c++) {
        OHT_TRY(make(r, group, per_tap[c].name, per_tap[c].type, 1, (const int64_t[]){n}, axis, false,
                     per_tap[c].meaning));
        snprintf(path, sizeof(path), "%s/%s", group, per_tap[c].name);
        OHT_TRY(oht_h5_write(r->file, path, 0, n, per_tap[c].type, column(r, c, stats, n)));
    }
    return OHT_OK;
}

// What compat.all_modules averages: /eval/N/modules.
static oht_status write_modules(oht_report *r, const char *eval, oht_tap_info *info, oht_tap_stats *stats, int n) {
    static const char *const axis[] = {"tap"};
    char group[NAME], path[NAME];
    snprintf(group, sizeof(group), "%.60s/modules", eval);
    snprintf(path, sizeof(path), "%.80s/times", group);
    n = choose(true, info, stats, n);
    OHT_TRY(write_taps(r, group, info, stats, n));
    OHT_TRY(make(r, group, "times", OHT_H5_I32, 1, (const int64_t[]){n}, axis, false,
                 "modules of the reference that return this tensor"));
    for (int k = 0; k < n; k++) r->i32[k] = OHT_MODULES_OF(info[k].roles);
    return oht_h5_write(r->file, path, 0, n, OHT_H5_I32, r->i32);
}

static oht_status write_eval(oht_report *r, const char *group, int64_t step, const oht_eval_result *result,
                             const oht_stats *s, oht_tap_info *info, oht_tap_stats *stats, int n) {
    const oht_tap_info *all;
    const oht_tap_stats *all_stats;
    oht_stats_taps(s, &all, &all_stats);
    memcpy(info, all, (size_t)n * sizeof(*info));
    memcpy(stats, all_stats, (size_t)n * sizeof(*stats));
    int plain = choose(false, info, stats, n);
    OHT_TRY(reserve_row(r, n));
    OHT_TRY(write_metrics(r, group, step, result));
    OHT_TRY(write_taps(r, group, info, stats, plain));
    if (r->null_mass || r->gate) {
        OHT_TRY(make_heads(r, group, false));
        OHT_TRY(write_attention(r, group, s, -1));
    }
    if (result->outliers.all_modules == 0) return OHT_OK;
    memcpy(info, all, (size_t)n * sizeof(*info));
    memcpy(stats, all_stats, (size_t)n * sizeof(*stats));
    return write_modules(r, group, info, stats, n);
}

oht_status oht_report_eval(oht_report *r, int64_t step, const oht_eval_result *result, const oht_stats *s) {
    char group[NAME];
    int n = oht_stats_taps(s, NULL, NULL);
    oht_tap_info *info = NULL;
    oht_tap_stats *stats = NULL;
    snprintf(group, sizeof(group), "/eval/%lld", (long long)r->evaluations);
    oht_status status = OHT_ALLOC(&info, (size_t)n, "taps of an evaluation");
    if (status == OHT_OK) status = OHT_ALLOC(&stats, (size_t)n, "taps of an evaluation");
    if (status == OHT_OK) status = write_eval(r, group, step, result, s, info, stats, n);
    oht_free(info);
    oht_free(stats);
    OHT_TRY(status);
    r->evaluations++;
    r->evaluated = step;
    r->dirty = true;
    return OHT_OK;
}

oht_status oht_report_publish(oht_report *r, bool force) {
    double now = oht_clock_s();
    if (!r->dirty || (!force && now - r->published_s < r->publish_s)) return OHT_OK;
    OHT_TRY(oht_h5_publish(r->file));
    r->published_s = now;
    r->dirty = false;
    return OHT_OK;
}
