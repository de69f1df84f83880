// Files of a quantized model (src/quant/README.md): RUNDIR/quant.h5 and quant.json, which another runtime can
// use, and the group /quant/<n> of RUNDIR/outliers.h5, which tells what quantization did to each site. Rank 0
// writes; all are published whole.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "config/table.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "quant/internal.h"

enum { VERSION = 1, PATH = OHT_PATH + 32 };
static const char *const FORMAT = "ohtrain-quant";

// The keys that say how a model was quantized.
static const char *const KEYS[] = {"quant.weights",
                                   "quant.activations",
                                   "quant.setup",
                                   "quant.weight_ranges",
                                   "quant.per_channel",
                                   "quant.activation_ranges",
                                   "quant.activation_method",
                                   "quant.percentile",
                                   "quant.mse_margin",
                                   "quant.include_masked_scores",
                                   "quant.batches",
                                   "quant.batch",
                                   "quant.calibration",
                                   "quant.seed",
                                   "quant.file"};

// ---- columns
// -----------------------------------------------------------------------------------------------------------

static double layer(const oht_quant_site *s) {
    return s->layer;
}
static double bits(const oht_quant_site *s) {
    return s->bits;
}
static double lo(const oht_quant_site *s) {
    return s->q.lo;
}
static double hi(const oht_quant_site *s) {
    return s->q.hi;
}
static double step(const oht_quant_site *s) {
    return s->q.step;
}
static double zero(const oht_quant_site *s) {
    return (double)s->q.zero;
}
static double low(const oht_quant_site *s) {
    return (double)s->q.low;
}
static double high(const oht_quant_site *s) {
    return (double)s->q.high;
}
static double channels(const oht_quant_site *s) {
    return (double)s->channels;
}
static double sqnr(const oht_quant_site *s) {
    return s->count ? oht_quant_sqnr(s) : (double)NAN;
}
static double clipped(const oht_quant_site *s) {
    return s->count ? (double)s->error.clipped / (double)s->count : (double)NAN;
}
static double integer_error(const oht_quant_site *s) {
    return s->integer_outputs ? s->integer_error : (double)NAN;
}

static const struct {
    const char *name, *meaning;
    bool whole, reason; // an integer; of the report alone
    double (*of)(const oht_quant_site *s);
} column[] = {
    {"layer", "layer, -1 outside layers", true, false, layer},
    {"bits", "width; 0 = exact", true, false, bits},
    {"lo", "lower end of the estimated range", false, false, lo},
    {"hi", "upper end of the estimated range", false, false, hi},
    {"step", "distance of two codes; of the first channel where there are several", false, false, step},
    {"zero", "code of 0", true, false, zero},
    {"low", "smallest code", true, false, low},
    {"high", "largest code", true, false, high},
    {"channels", "number of ranges", true, false, channels},
    {"sqnr_db", "10 log10(sum x^2 / sum (x - x^)^2) on the last calibration batch", false, true, sqnr},
    {"clipped", "share of values beyond the range there", false, true, clipped},
    {"integer_error",
     "largest difference from integer arithmetic, as a share of the largest output; NaN = not compared",
     false, true, integer_error},
};
enum { COLUMNS = sizeof(column) / sizeof(column[0]) };

// ---- HDF5
// --------------------------------------------------------------------------------------------------------------

static oht_status make(oht_h5 *file, const char *path, oht_h5_type type, int64_t n, const void *data,
                       const char *scale, const char *meaning) {
    oht_h5_shape shape = {.type = type, .rank = 1, .dim = {n}, .chunk = {n}};
    OHT_TRY(oht_h5_make(file, path, &shape, false, true));
    OHT_TRY(oht_h5_write(file, path, 0, n, type, data));
    if (meaning) OHT_TRY(oht_h5_set_text(file, path, "long_name", meaning));
    if (scale) OHT_TRY(oht_h5_attach_scale(file, path, 0, scale, strrchr(scale, '/') + 1));
    return OHT_OK;
}

// Sites [first, first + n) as a group: names, kinds and one array a column.
static oht_status write_sites(oht_h5 *file, const char *group, const oht_quant_site *site, int n, bool reason,
                              double *number, const char **word) {
    char scale[128], path[128];
    snprintf(scale, sizeof(scale), "%s/site", group);
    for (int i = 0; i < n; i++) word[i] = site[i].name;
    OHT_TRY(oht_h5_write_strings(file, scale, word, n));
    OHT_TRY(oht_h5_attach_scale(file, scale, 0, scale, "site"));
    snprintf(path, sizeof(path), "%s/kind", group);
    for (int i = 0; i < n; i++) word[i] = site[i].kind;
    OHT_TRY(oht_h5_write_strings(file, path, word, n));
    OHT_TRY(oht_h5_attach_scale(file, path, 0, scale, "site"));
    for (int c = 0; c < COLUMNS; c++) {
        if (column[c].reason && !reason) continue;
        int32_t *whole = (int32_t *)(void *)number; // as many places
        for (int i = 0; i < n; i++) {
            double value = column[c].of(&site[i]);
            if (column[c].whole)
                whole[i] = (int32_t)value;
            else
                number[i] = value;
        }
        snprintf(path, sizeof(path), "%s/%s", group, column[c].name);
        OHT_TRY(
            make(file, path, column[c].whole ? OHT_H5_I32 : OHT_H5_F64, n, number, scale, column[c].meaning));
    }
    return OHT_OK;
}

static oht_status write_all_sites(const oht_quant *q, oht_h5 *file, const char *prefix, bool reason) {
    double *number = NULL;
    const char **word = NULL;
    char group[64];
    oht_status status;
    int parts[2] = {q->n_activations, q->n_sites - q->n_activations};
    OHT_TRY_GOTO(status, OHT_ALLOC(&number, (size_t)q->n_sites, "columns of sites"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&word, (size_t)q->n_sites, "columns of sites"), done);
    for (int p = 0; p < 2; p++) {
        snprintf(group, sizeof(group), "%s/%s", prefix, p == 0 ? "activations" : "weights");
        OHT_TRY_GOTO(status,
                     write_sites(file, group, q->site + (p ? parts[0] : 0), parts[p], reason, number, word),
                     done);
    }
done:
    oht_free(number);
    oht_free(word);
    return status;
}

static oht_status write_keys(const oht_quant *q, oht_h5 *file, const char *object) {
    for (size_t k = 0; k < sizeof(KEYS) / sizeof(KEYS[0]); k++) {
        char text[OHT_KEY_TEXT_MAX];
        oht_key_get(q->s->cfg, oht_key_find(KEYS[k]), text);
        OHT_TRY(oht_h5_set_text(file, object, KEYS[k], text));
    }
    return OHT_OK;
}

static oht_status write_channels(const oht_quant *q, oht_h5 *file) {
    for (int i = q->n_activations; i < q->n_sites; i++) {
        const oht_quant_site *s = &q->site[i];
        if (!s->channel || s->bits == 0) continue;
        char path[128];
        double *steps;
        snprintf(path, sizeof(path), "/channels/%s", s->name);
        OHT_TRY(OHT_ALLOC(&steps, (size_t)s->channels, "steps of channels"));
        for (int64_t r = 0; r < s->channels; r++) steps[r] = s->channel[r].step;
        oht_status status = make(file, path, OHT_H5_F64, s->channels, steps, NULL, "step of each row");
        oht_free(steps);
        OHT_TRY(status);
    }
    return OHT_OK;
}

static oht_status fill(const oht_quant *q, oht_h5 *file) {
    char *text;
    OHT_TRY(oht_config_text(q->s->cfg, &text));
    oht_status status = oht_h5_set_text(file, "/", "config", text);
    oht_free(text);
    OHT_TRY(status);
    OHT_TRY(oht_h5_set_text(file, "/", "format", FORMAT));
    OHT_TRY(oht_h5_set_int(file, "/", "format_version", VERSION));
    OHT_TRY(oht_h5_set_text(file, "/", "created_by", "ohtrain " OHT_VERSION));
    OHT_TRY(oht_h5_set_int(file, "/", "step", q->s->state.step));
    OHT_TRY(write_keys(q, file, "/"));
    OHT_TRY(write_all_sites(q, file, "", false));
    return write_channels(q, file);
}

// ---- JSON
// --------------------------------------------------------------------------------------------------------------

static json_t *site_json(const oht_quant_site *s) {
    json_t *o = json_object();
    json_object_set_new(o, s->weight ? "parameter" : "site", json_string(s->name));
    json_object_set_new(o, "kind", json_string(s->kind));
    for (int c = 0; c < COLUMNS; c++) {
        double value = column[c].of(s);
        if (column[c].reason) continue;
        json_object_set_new(o, column[c].name,
                            column[c].whole ? json_integer((json_int_t)value) : json_real(value));
    }
    if (!s->channel) return o;
    json_t *steps = json_array();
    for (int64_t r = 0; r < s->channels; r++) json_array_append_new(steps, json_real(s->channel[r].step));
    json_object_set_new(o, "steps", steps);
    return o;
}

static oht_status write_json(const oht_quant *q, const char *path) {
    json_t *root = json_object(), *keys = json_object(), *list[2] = {json_array(), json_array()};
    json_object_set_new(root, "format", json_string(FORMAT));
    json_object_set_new(root, "format_version", json_integer(VERSION));
    json_object_set_new(root, "model", json_string(oht_model_type_name(q->s->cfg->model.type)));
    json_object_set_new(root, "step", json_integer(q->s->state.step));
    json_object_set_new(root, "formula",
                        json_string("step * (clip(round_half_to_even(x / step) + zero, low, high) - zero)"));
    for (size_t k = 0; k < sizeof(KEYS) / sizeof(KEYS[0]); k++) {
        char text[OHT_KEY_TEXT_MAX];
        oht_key_get(q->s->cfg, oht_key_find(KEYS[k]), text);
        json_object_set_new(keys, KEYS[k], json_string(text));
    }
    for (int i = 0; i < q->n_sites; i++)
        if (q->site[i].bits > 0) json_array_append_new(list[q->site[i].weight], site_json(&q->site[i]));
    json_object_set_new(root, "keys", keys);
    json_object_set_new(root, "activations", list[0]);
    json_object_set_new(root, "weights", list[1]);
    return oht_json_replace(path, root, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
}

oht_status oht_quant_export(const oht_quant *q, const char *rundir) {
    char path[PATH];
    oht_h5 *file;
    snprintf(path, sizeof(path), "%.*s/quant.h5", OHT_PATH, rundir);
    OHT_TRY(oht_h5_create(&file, path));
    oht_status status = fill(q, file);
    if (status != OHT_OK) {
        oht_h5_close(file);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    OHT_TRY(oht_h5_commit(file));
    snprintf(path, sizeof(path), "%.*s/quant.json", OHT_PATH, rundir);
    return write_json(q, path);
}

// ---- the group of the report
// ---------------------------------------------------------------------------------------------

static oht_status write_ranking(oht_h5 *file, const char *group, const oht_quant_summary *m) {
    static const char *const LEVEL[] = {"site", "kind", "layer"};
    char scale[96], path[96];
    double *number = NULL;
    const char **word = NULL;
    oht_status status;
    snprintf(scale, sizeof(scale), "%s/sensitivity/group", group);
    OHT_TRY_GOTO(status, OHT_ALLOC(&number, (size_t)m->n_ranks, "ranking"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&word, (size_t)m->n_ranks, "ranking"), done);
    for (int i = 0; i < m->n_ranks; i++) word[i] = m->rank[i].name;
    OHT_TRY_GOTO(status, oht_h5_write_strings(file, scale, word, m->n_ranks), done);
    OHT_TRY_GOTO(status, oht_h5_attach_scale(file, scale, 0, scale, "group"), done);
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < m->n_ranks; i++) number[i] = c == 0 ? m->rank[i].recovered : m->rank[i].loss;
        snprintf(path, sizeof(path), "%s/sensitivity/%s", group, c == 0 ? "recovered" : "loss");
        OHT_TRY_GOTO(status,
                     make(file, path, OHT_H5_F64, m->n_ranks, number, scale,
                          c == 0 ? "loss saved by leaving the group exact" : "loss then"),
                     done);
    }
    snprintf(path, sizeof(path), "%s/sensitivity", group);
    OHT_TRY_GOTO(status, oht_h5_set_text(file, path, "level", LEVEL[m->level]), done);
done:
    oht_free(number);
    oht_free(word);
    return status;
}

static oht_status write_group(const oht_quant *q, oht_h5 *file, const char *group,
                              const oht_quant_summary *m) {
    oht_metric mean[OHT_METRICS], exact[OHT_METRICS];
    double deviation[OHT_METRICS], *number;
    char name[64];
    const int n = oht_quant_mean(m->result, m->n, mean, deviation);
    (void)oht_eval_metrics(m->fp, exact);
    OHT_TRY(write_all_sites(q, file, group, true));
    for (int i = 0; i < n; i++) {
        OHT_TRY(oht_h5_set_float(file, group, mean[i].name, mean[i].value));
        snprintf(name, sizeof(name), "%s_std", mean[i].name);
        OHT_TRY(oht_h5_set_float(file, group, name, deviation[i]));
        snprintf(name, sizeof(name), "fp_%s", exact[i].name);
        OHT_TRY(oht_h5_set_float(file, group, name, exact[i].value));
    }
    OHT_TRY(oht_h5_set_int(file, group, "step", m->step));
    OHT_TRY(oht_h5_set_int(file, group, "seeds", m->n));
    OHT_TRY(oht_h5_set_int(file, group, "sequences", m->result[0].sequences));
    OHT_TRY(write_keys(q, file, group));
    OHT_TRY(OHT_ALLOC(&number, (size_t)m->n, "losses of calibration seeds"));
    for (int i = 0; i < m->n; i++) number[i] = m->result[i].loss;
    char path[96];
    snprintf(path, sizeof(path), "%s/seed_loss", group);
    oht_status status = make(file, path, OHT_H5_F64, m->n, number, NULL, "loss of each calibration seed");
    oht_free(number);
    OHT_TRY(status);
    return m->n_ranks > 0 ? write_ranking(file, group, m) : OHT_OK;
}

static oht_status add_group(const oht_quant *q, oht_h5 *file, const oht_quant_summary *m) {
    char group[32];
    for (int n = 0; snprintf(group, sizeof(group), "/quant/%d", n), oht_h5_exists(file, group); n++) {
        int64_t step; // a damaged group is an error, not the next free place
        OHT_TRY(oht_h5_get_int(file, group, "step", &step));
    }
    OHT_TRY(write_group(q, file, group, m));
    return oht_h5_publish(file);
}

oht_status oht_quant_report(const oht_quant *q, const char *rundir, const oht_quant_summary *m) {
    char path[PATH];
    oht_h5 *file;
    snprintf(path, sizeof(path), "%.*s/outliers.h5", OHT_PATH, rundir);
    if (access(path, F_OK) != 0) {
        oht_warn("%s does not exist, so the quantized result is in quant.h5 only", path);
        return OHT_OK;
    }
    OHT_TRY(oht_h5_load_memory(&file, path));
    oht_status status = add_group(q, file, m);
    oht_h5_close(file);
    return status;
}

// ---- reading
// -----------------------------------------------------------------------------------------------------------

static oht_status same_names(const oht_quant *q, oht_h5 *file, const char *group, int first, int n) {
    char path[64], **name;
    int64_t found;
    snprintf(path, sizeof(path), "%s/site", group);
    OHT_TRY(oht_h5_read_strings(file, path, &name, &found));
    int same = 0;
    while (same < n && same < found && strcmp(name[same], q->site[first + same].name) == 0) same++;
    oht_status status = OHT_OK;
    if (same < n || found != n)
        status = oht_error_set(OHT_DATA, __FILE__, __LINE__,
                               "%s is of another model: %s has %lld sites, this model %d; the first "
                               "difference is site %d, %s there, "
                               "%s here\nfix: the quant.h5 of this run, or quant.file=none to calibrate",
                               oht_h5_path(file), group, (long long)found, n, same,
                               same < found ? name[same] : "nothing",
                               same < n ? q->site[first + same].name : "nothing");
    for (int64_t i = 0; i < found; i++) oht_free(name[i]);
    oht_free(name);
    return status;
}

static oht_status read_column(oht_h5 *file, const char *group, const char *name, oht_h5_type type, int n,
                              void *out) {
    char path[64];
    oht_h5_shape shape;
    snprintf(path, sizeof(path), "%s/%s", group, name);
    OHT_TRY(oht_h5_shape_of(file, path, 1, -1, &shape));
    if (shape.dim[0] != n)
        OHT_FAIL(OHT_DATA, "%s: %s has %lld values, expected %d", oht_h5_path(file), path,
                 (long long)shape.dim[0], n);
    return oht_h5_read(file, path, 0, n, type, out);
}

static oht_status check_file(const oht_quant *q, oht_h5 *file) {
    char text[64];
    OHT_TRY(oht_h5_get_text(file, "/", "format", text, sizeof(text)));
    if (strcmp(text, FORMAT) != 0)
        OHT_FAIL(OHT_DATA,
                 "%s: format \"%s\", expected \"%s\"\nfix: give the quant.h5 that ohtrain eval wrote",
                 oht_h5_path(file), text, FORMAT);
    for (size_t k = 0; k < 10; k++) { // those that ranges depend on
        char here[OHT_KEY_TEXT_MAX], there[OHT_KEY_TEXT_MAX];
        oht_key_get(q->s->cfg, oht_key_find(KEYS[k]), here);
        OHT_TRY(oht_h5_get_text(file, "/", KEYS[k], there, sizeof(there)));
        if (strcmp(here, there) != 0)
            OHT_FAIL(OHT_DATA, "%s was made with %s=%s, found %s\nfix: %s=%s, or quant.file=none",
                     oht_h5_path(file), KEYS[k], there, here, KEYS[k], there);
    }
    OHT_TRY(same_names(q, file, "/activations", 0, q->n_activations));
    return same_names(q, file, "/weights", q->n_activations, q->n_sites - q->n_activations);
}

// a, b: scratch of n_sites. The weights' ranges follow from the checkpoint; the file must agree.
static oht_status take_ranges(oht_quant *q, oht_h5 *file, double *a, double *b) {
    int n = q->n_activations, weights = q->n_sites - n;
    OHT_TRY(check_file(q, file));
    OHT_TRY(read_column(file, "/weights", "step", OHT_H5_F64, weights, a));
    for (int i = 0; i < weights; i++) {
        const oht_quant_site *s = &q->site[n + i];
        if (s->bits > 0 && !(fabs(a[i] - s->q.step) <= 1e-6 * s->q.step))
            OHT_FAIL(OHT_DATA,
                     "%s is of other weights: the step of %s is %g there, %g here\nfix: the quant.h5 of this "
                     "checkpoint, or "
                     "quant.file=none to calibrate",
                     oht_h5_path(file), s->name, a[i], s->q.step);
    }
    OHT_TRY(read_column(file, "/activations", "lo", OHT_H5_F64, n, a));
    OHT_TRY(read_column(file, "/activations", "hi", OHT_H5_F64, n, b));
    for (int i = 0; i < n; i++) {
        if (q->site[i].bits == 0) continue;
        if (!isfinite(a[i]) || !isfinite(b[i]) || a[i] > b[i])
            OHT_FAIL(OHT_DATA, "%s: the range of %s is [%g, %g]", oht_h5_path(file), q->site[i].name, a[i],
                     b[i]);
        q->site[i].q.lo = a[i];
        q->site[i].q.hi = b[i];
        q->place[i].ready = true;
    }
    return OHT_OK;
}

static oht_status load(oht_quant *q, const char *path) {
    oht_h5 *file = NULL;
    double *a = NULL, *b = NULL;
    oht_status status;
    OHT_TRY(quant_weights(q));
    for (int i = 0; i < q->n_activations; i++)
        q->place[i].ready = q->site[i].bits > 0; // rank 0's are on their way
    if (oht_comm_rank(q->s->comm) != 0) return OHT_OK;
    OHT_TRY_GOTO(status, OHT_ALLOC(&a, (size_t)q->n_sites, "ranges"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&b, (size_t)q->n_sites, "ranges"), done);
    OHT_TRY_GOTO(status, oht_h5_open(&file, path), done);
    OHT_TRY_GOTO(status, take_ranges(q, file, a, b), done);
done:
    oht_h5_close(file);
    oht_free(a);
    oht_free(b);
    return status;
}

oht_status oht_quant_load(oht_quant *q, const char *path) {
    OHT_TRY(oht_agree(q->s->comm, load(q, path)));
    return quant_share(q);
}
