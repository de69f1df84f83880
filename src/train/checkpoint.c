// Checkpoints: RUNDIR/checkpoints/step-00001000.h5, written by rank 0 to a temporary file, fsync, rename
// (base/file.c).
//
//   attributes          format, format_version, created_by, step, config (YAML); the position in the data, the
//                       schedule and all random numbers follow from step and configuration
//   /param/NAME         float32, the parameter's shape, attribute hf_name; /adam_m/NAME, /adam_v/NAME alike
//   /best/NAME          with train.keep_best: the parameters of the best evaluation
//   attributes          best_loss, best_step, worse_evaluations, seen_step (oht_choice), once an evaluation was compared
//
// Chunks of about 1 MiB with fletcher32 in the latest format: damage is found when reading (every
// flipped bit was, in trials), and the checkpoint before is used. The model never lies in host memory twice:
// it goes through a buffer of a few MiB.
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/train.h"

enum { VERSION = 1, BUFFER = 8 << 20, PATHS = OHT_PATH + 128 };
static const char *const FORMAT = "ohtrain-checkpoint";

// ---- the folder ----

typedef struct step_list {
    int64_t *step;
    size_t n, capacity;
} step_list;

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static void checkpoint_path(char out[PATHS], const char *rundir, int64_t step) {
    snprintf(out, PATHS, "%s/checkpoints/step-%08lld.h5", rundir, (long long)step);
}

// Steps that have a checkpoint, newest first. sweep: deletes temporary files of killed runs.
static oht_status list_steps(const char *rundir, bool sweep, step_list *out) {
    *out = (step_list){0};
    char folder[PATHS], name[64];
    if (strlen(rundir) >= OHT_PATH)
        OHT_FAIL(OHT_CONFIG, "the path of the run directory is too long: %s", rundir);
    snprintf(folder, sizeof(folder), "%s/checkpoints", rundir);
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return OHT_OK;
    if (!dir) OHT_FAIL(OHT_IO, "cannot open the folder %s: %s", folder, strerror(errno));
    oht_status status = OHT_OK;
    for (struct dirent *e; status == OHT_OK && (e = readdir(dir));) {
        size_t length = strlen(e->d_name);
        if (sweep && length > 4 && strcmp(e->d_name + length - 4, ".tmp") == 0)
            unlinkat(dirfd(dir), e->d_name, 0);
        long long step = strncmp(e->d_name, "step-", 5) == 0 ? strtoll(e->d_name + 5, NULL, 10) : -1;
        snprintf(name, sizeof(name), "step-%08lld.h5", step);
        if (step < 0 || strcmp(name, e->d_name) != 0) continue; // not ours
        status = OHT_RESERVE(&out->step, &out->capacity, out->n, "list of checkpoints");
        if (status == OHT_OK) out->step[out->n++] = step;
    }
    closedir(dir);
    if (out->n > 0) qsort(out->step, out->n, sizeof(*out->step), newest_first);
    return status;
}

static void remove_checkpoint(const char *rundir, int64_t step) {
    char path[PATHS];
    checkpoint_path(path, rundir, step);
    if (unlink(path) != 0 && errno != ENOENT)
        oht_warn("cannot delete the old checkpoint %s: %s", path, strerror(errno));
}

// Keeps the newest `keep` up to `step`. Later ones are leftovers that could not be read: what was resumed
// came before them.
static oht_status tidy(const char *rundir, int64_t step, int64_t keep) {
    step_list list;
    oht_status status = list_steps(rundir, true, &list);
    int64_t kept = 0;
    for (size_t i = 0; i < list.n && status == OHT_OK; i++) {
        bool stays = list.step[i] <= step && kept < keep;
        kept += stays;
        if (!stays) remove_checkpoint(rundir, list.step[i]);
    }
    oht_free(list.step);
    return status;
}

// checkpoints/latest, a convenience for people; some file systems have no symbolic links.
static void point_latest(const char *rundir, int64_t step) {
    char target[64], tmp[PATHS], path[PATHS];
    snprintf(target, sizeof(target), "step-%08lld.h5", (long long)step);
    snprintf(path, sizeof(path), "%s/checkpoints/latest", rundir);
    snprintf(tmp, sizeof(tmp), "%s/checkpoints/latest.tmp", rundir);
    unlink(tmp);
    if (symlink(target, tmp) != 0 || rename(tmp, path) != 0) {
        oht_warn("cannot update the link %s: %s", path, strerror(errno));
        unlink(tmp);
    }
}

// ---- pieces ----

typedef struct buffer {
    float *x;
    size_t floats;
} buffer;

static oht_status buffer_create(buffer *b, const oht_params *params) {
    b->floats = BUFFER / sizeof(float);
    for (int i = 0; i < params->n; i++) { // at least one row
        size_t row = (size_t)(params->item[i].count / params->item[i].dim[0]);
        if (row > b->floats) b->floats = row;
    }
    return OHT_ALLOC(&b->x, b->floats, "checkpoint buffer");
}

// Rows that go through the buffer at once: whole chunks where they fit.
static int64_t piece_rows(const buffer *b, const oht_param *p, int64_t chunk) {
    int64_t rows = (int64_t)b->floats / (p->count / p->dim[0]);
    if (chunk > 0 && rows > chunk) rows -= rows % chunk;
    return rows;
}

static bool all_finite(const float *x, size_t n) {
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) bad += isfinite(x[i]) ? 0 : 1;
    return bad == 0;
}

// ---- writing ----

typedef enum part { PARAM, MOMENT_1, MOMENT_2, BEST, PARTS } part;
static const char *const GROUP[PARTS] = {"/param", "/adam_m", "/adam_v", "/best"};

static bool is_moment(part which) {
    return which == MOMENT_1 || which == MOMENT_2;
}

static float *flat_of(const oht_state *state, part which) {
    return which == PARAM ? state->param : which == BEST ? state->best : which == MOMENT_1 ? state->m : state->v;
}

static oht_status fetch(oht_backend *be, const oht_state *state, part which, size_t at, size_t n, float *host) {
    if (state->shard && is_moment(which)) return oht_shard_fetch(state->shard, (int)which - MOMENT_1, at, n, host);
    be->download(be, host, flat_of(state, which) + at, n * sizeof(float));
    return OHT_OK;
}

static oht_status store(oht_backend *be, const oht_state *state, part which, size_t at, size_t n,
                        const float *host) {
    if (state->shard && is_moment(which)) return oht_shard_store(state->shard, (int)which - MOMENT_1, at, n, host);
    be->upload(be, flat_of(state, which) + at, host, n * sizeof(float));
    return OHT_OK;
}

static oht_status write_one(oht_h5 *file, part which, const oht_param *p, oht_backend *be,
                            const oht_state *state, const buffer *b) {
    char name[128];
    snprintf(name, sizeof(name), "%s/%s", GROUP[which], p->name);
    oht_h5_shape shape = {.type = OHT_H5_F32, .rank = p->rank};
    memcpy(shape.dim, p->dim, sizeof(shape.dim));
    OHT_TRY(oht_h5_make(file, name, &shape, false, true));
    OHT_TRY(oht_h5_shape_of(file, name, p->rank, OHT_H5_F32, &shape));
    int64_t width = p->count / p->dim[0], step = piece_rows(b, p, shape.chunk[0]);
    for (int64_t first = 0; first < p->dim[0]; first += step) {
        int64_t rows = p->dim[0] - first < step ? p->dim[0] - first : step;
        size_t n = (size_t)(rows * width);
        OHT_TRY(fetch(be, state, which, p->offset + (size_t)(first * width), n, b->x));
        if (!all_finite(b->x, n))
            OHT_FAIL(OHT_NUMERIC, "%s: values of %s are not finite; no checkpoint is written",
                     oht_h5_path(file), name);
        OHT_TRY(oht_h5_write(file, name, first, rows, OHT_H5_F32, b->x));
    }
    return OHT_OK;
}

static oht_status write_head(oht_h5 *file, const char *config, const oht_state *state) {
    OHT_TRY(oht_h5_set_text(file, "/", "format", FORMAT));
    OHT_TRY(oht_h5_set_int(file, "/", "format_version", VERSION));
    OHT_TRY(oht_h5_set_text(file, "/", "created_by", "ohtrain " OHT_VERSION));
    OHT_TRY(oht_h5_set_int(file, "/", "step", state->step));
    if (state->loss_scale > 0) {
        OHT_TRY(oht_h5_set_float(file, "/", "loss_scale", state->loss_scale));
        OHT_TRY(oht_h5_set_int(file, "/", "good_steps", state->good_steps));
    }
    if (state->skipped > 0) OHT_TRY(oht_h5_set_int(file, "/", "skipped_steps", state->skipped));
    return oht_h5_set_text(file, "/", "config", config);
}

static oht_status write_choice(oht_h5 *file, const oht_choice *c) {
    if (c->best_step == 0) return OHT_OK;
    OHT_TRY(oht_h5_set_float(file, "/", "best_loss", c->best_loss));
    OHT_TRY(oht_h5_set_int(file, "/", "best_step", c->best_step));
    OHT_TRY(oht_h5_set_int(file, "/", "worse_evaluations", c->worse));
    return oht_h5_set_int(file, "/", "seen_step", c->seen_step);
}

static oht_status write_all(oht_h5 *file, const char *config, const oht_params *params, oht_backend *be,
                            const oht_state *state, const buffer *b) {
    OHT_TRY(write_head(file, config, state));
    OHT_TRY(write_choice(file, &state->choice));
    for (int i = 0; i < params->n; i++) {
        const oht_param *p = &params->item[i];
        char name[128];
        snprintf(name, sizeof(name), "/param/%s", p->name);
        OHT_TRY(write_one(file, PARAM, p, be, state, b));
        OHT_TRY(oht_h5_set_text(file, name, "hf_name", p->hf_name));
    }
    for (int i = 0; i < params->n && state->m && state->v; i++) {
        OHT_TRY(write_one(file, MOMENT_1, &params->item[i], be, state, b));
        OHT_TRY(write_one(file, MOMENT_2, &params->item[i], be, state, b));
    }
    for (int i = 0; i < params->n && state->best && state->choice.best_step > 0; i++)
        OHT_TRY(write_one(file, BEST, &params->item[i], be, state, b));
    return OHT_OK;
}

static oht_status write_file(const char *path, const char *config, const oht_params *params, oht_backend *be,
                             const oht_state *state) {
    oht_h5 *file;
    buffer b = {0};
    OHT_TRY(buffer_create(&b, params));
    oht_status status = oht_h5_create(&file, path);
    if (status == OHT_OK) {
        status = write_all(file, config, params, be, state, &b);
        if (status == OHT_OK) status = be->sync(be); // a device that failed has sent no numbers
        if (status == OHT_OK)
            status = oht_h5_commit(file);
        else
            oht_h5_close(file);
    }
    oht_free(b.x);
    return status;
}

oht_status oht_checkpoint_write(const char *rundir, const oht_config *cfg, const oht_params *params,
                                oht_backend *be, const oht_state *state, int64_t keep) {
    char path[PATHS], *config;
    step_list list;
    OHT_TRY(list_steps(rundir, true, &list)); // also frees what killed runs left
    oht_free(list.step);
    snprintf(path, sizeof(path), "%s/checkpoints", rundir);
    OHT_TRY(oht_make_folder(path));
    checkpoint_path(path, rundir, state->step);
    OHT_TRY(oht_config_text(cfg, &config));
    oht_status status = write_file(path, config, params, be, state);
    oht_free(config);
    OHT_TRY(status);
    point_latest(rundir, state->step);
    return tidy(rundir, state->step, keep > 0 ? keep : 1);
}

// ---- reading ----

// What is wrong with a checkpoint: damage lets the one before be tried, another model does not.
typedef struct reader {
    oht_h5 *file;
    const oht_params *params;
    oht_backend *be;
    bool other_model;
    int *seen; // per parameter, how often listed
} reader;

static oht_status tick(void *ctx, const char *name) {
    reader *r = ctx;
    const char *last = strrchr(name, '/') + 1;
    for (int i = 0; i < r->params->n; i++) {
        if (strcmp(r->params->item[i].name, last) != 0) continue;
        r->seen[i]++;
        return OHT_OK;
    }
    r->other_model = true;
    OHT_FAIL(OHT_DATA, "%s: it holds a parameter %s, which this model does not have", oht_h5_path(r->file),
             last);
}

// Names and shapes of one group against the model.
static oht_status check_group(reader *r, const char *group) {
    memset(r->seen, 0, (size_t)r->params->n * sizeof(*r->seen));
    OHT_TRY(oht_h5_each(r->file, group, tick, r));
    for (int i = 0; i < r->params->n; i++) {
        const oht_param *p = &r->params->item[i];
        char name[128];
        if (!r->seen[i]) {
            r->other_model = true;
            OHT_FAIL(OHT_DATA, "%s: it lacks the parameter %s of this model", oht_h5_path(r->file), p->name);
        }
        snprintf(name, sizeof(name), "%s/%s", group, p->name);
        oht_h5_shape shape;
        OHT_TRY(oht_h5_shape_of(r->file, name, -1, OHT_H5_F32, &shape));
        if (shape.rank == p->rank && memcmp(shape.dim, p->dim, (size_t)p->rank * sizeof(*p->dim)) == 0)
            continue;
        char found[96] = "", wanted[96] = "";
        for (int k = 0; k < shape.rank; k++)
            snprintf(found + strlen(found), 24, "%s%lld", k ? " x " : "", (long long)shape.dim[k]);
        for (int k = 0; k < p->rank; k++)
            snprintf(wanted + strlen(wanted), 24, "%s%lld", k ? " x " : "", (long long)p->dim[k]);
        r->other_model = true;
        OHT_FAIL(OHT_DATA, "%s: parameter %s is %s, this model's is %s", oht_h5_path(r->file), p->name, found,
                 wanted);
    }
    return OHT_OK;
}

static oht_status read_one(const reader *r, const char *group, part into, const oht_param *p,
                           const oht_state *state, const buffer *b) {
    char name[128];
    snprintf(name, sizeof(name), "%s/%s", group, p->name);
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(r->file, name, p->rank, OHT_H5_F32, &shape));
    int64_t width = p->count / p->dim[0], step = piece_rows(b, p, shape.chunk[0]);
    for (int64_t first = 0; first < p->dim[0]; first += step) {
        int64_t rows = p->dim[0] - first < step ? p->dim[0] - first : step;
        size_t n = (size_t)(rows * width);
        OHT_TRY(oht_h5_read(r->file, name, first, rows, OHT_H5_F32, b->x));
        if (!all_finite(b->x, n))
            OHT_FAIL(OHT_DATA, "%s: values of %s are not finite", oht_h5_path(r->file), name);
        OHT_TRY(store(r->be, state, into, p->offset + (size_t)(first * width), n, b->x));
    }
    return OHT_OK;
}

static oht_status read_head(reader *r, int64_t step) {
    char format[64];
    int64_t version, found;
    OHT_TRY(oht_h5_get_text(r->file, "/", "format", format, sizeof(format)));
    if (strcmp(format, FORMAT) != 0)
        OHT_FAIL(OHT_DATA, "%s: format %s, expected %s", oht_h5_path(r->file), format, FORMAT);
    OHT_TRY(oht_h5_get_int(r->file, "/", "format_version", &version));
    if (version != VERSION) {
        r->other_model = true; // whole, but not for us: older ones are no better
        OHT_FAIL(OHT_DATA,
                 "%s: format version %lld, this program reads version %d\nfix: use the program that wrote it",
                 oht_h5_path(r->file), (long long)version, VERSION);
    }
    OHT_TRY(oht_h5_get_int(r->file, "/", "step", &found));
    if (found != step) OHT_FAIL(OHT_DATA, "%s: it says step %lld", oht_h5_path(r->file), (long long)found);
    return OHT_OK;
}

static oht_status read_choice(reader *r, oht_choice *c, int64_t step) {
    *c = (oht_choice){0};
    if (!oht_h5_has(r->file, "/", "best_step")) return OHT_OK;
    OHT_TRY(oht_h5_get_float(r->file, "/", "best_loss", &c->best_loss));
    OHT_TRY(oht_h5_get_int(r->file, "/", "best_step", &c->best_step));
    OHT_TRY(oht_h5_get_int(r->file, "/", "worse_evaluations", &c->worse));
    OHT_TRY(oht_h5_get_int(r->file, "/", "seen_step", &c->seen_step));
    if (!isfinite(c->best_loss) || c->best_step < 1 || c->best_step > c->seen_step || c->seen_step > step || c->worse < 0)
        OHT_FAIL(OHT_DATA, "%s: at step %lld it says best_loss %g, best_step %lld, seen_step %lld, worse_evaluations %lld",
                 oht_h5_path(r->file), (long long)step, c->best_loss, (long long)c->best_step, (long long)c->seen_step,
                 (long long)c->worse);
    return OHT_OK;
}

// A run in fp16 that continues one in another precision starts with the scale it has; the other way round it is forgotten.
static oht_status read_scale(oht_h5 *file, oht_state *state) {
    double scale;
    if (oht_h5_has(file, "/", "skipped_steps")) OHT_TRY(oht_h5_get_int(file, "/", "skipped_steps", &state->skipped));
    if (state->skipped < 0) OHT_FAIL(OHT_DATA, "%s: skipped_steps = %lld", oht_h5_path(file), (long long)state->skipped);
    if (state->loss_scale == 0 || !oht_h5_has(file, "/", "loss_scale")) return OHT_OK;
    OHT_TRY(oht_h5_get_float(file, "/", "loss_scale", &scale));
    OHT_TRY(oht_h5_get_int(file, "/", "good_steps", &state->good_steps));
    if (!(scale > 0) || !isfinite(scale)) OHT_FAIL(OHT_DATA, "%s: loss_scale = %g", oht_h5_path(file), scale);
    state->loss_scale = scale;
    return OHT_OK;
}

static oht_status read_all(reader *r, oht_state *state, int64_t step, bool moments, const buffer *b) {
    OHT_TRY(read_head(r, step));
    oht_choice choice;
    OHT_TRY(read_choice(r, &choice, step));
    bool best = oht_h5_exists(r->file, "/best"), evaluates_best = best && !moments;
    if ((best || (moments && state->best)) && best != (choice.best_step > 0))
        OHT_FAIL(OHT_DATA, "%s: it has %s best parameters, but best_step is %lld", oht_h5_path(r->file), best ? "the" : "no",
                 (long long)choice.best_step);
    const struct {
        const char *group;
        part into;
    } from[PARTS] = {{GROUP[evaluates_best ? BEST : PARAM], PARAM},
                     {GROUP[MOMENT_1], MOMENT_1},
                     {GROUP[MOMENT_2], MOMENT_2},
                     {GROUP[BEST], BEST}};
    int parts = !moments ? 1 : best && state->best ? PARTS : BEST;
    for (int k = 0; k < parts; k++) OHT_TRY(check_group(r, from[k].group));
    for (int k = 0; k < parts; k++)
        for (int i = 0; i < r->params->n; i++)
            OHT_TRY(read_one(r, from[k].group, from[k].into, &r->params->item[i], state, b));
    if (moments) OHT_TRY(read_scale(r->file, state));
    OHT_TRY(r->be->sync(r->be));
    state->step = evaluates_best ? choice.best_step : step;
    state->choice = choice;
    return OHT_OK;
}

static oht_status read_file(reader *r, const char *path, oht_state *state, int64_t step, bool moments,
                            const buffer *b) {
    r->other_model = false;
    OHT_TRY(oht_h5_open(&r->file, path));
    oht_status status = read_all(r, state, step, moments, b);
    oht_h5_close(r->file);
    r->file = NULL;
    return status;
}

// Tries from the newest on. vanished: every listed one was deleted meanwhile.
static oht_status read_newest(reader *r, const char *rundir, const step_list *list, oht_state *state,
                              bool moments, const buffer *b, bool *found, bool *vanished) {
    size_t damaged = 0;
    for (size_t i = 0; i < list->n; i++) {
        char path[PATHS];
        checkpoint_path(path, rundir, list->step[i]);
        oht_status status = read_file(r, path, state, list->step[i], moments, b);
        *found = status == OHT_OK;
        if (*found) return OHT_OK;
        if (status == OHT_IO && access(path, F_OK) != 0) continue; // a running trainer has just deleted it
        if (status != OHT_DATA || r->other_model) {
            if (r->other_model && !strstr(oht_error_last()->text, "\nfix:"))
                strncat(oht_error_last()->text,
                        "\nfix: this checkpoint is of another model; use the configuration it was made with, "
                        "or another run directory",
                        OHT_ERROR_TEXT - strlen(oht_error_last()->text) - 1);
            return oht_error_frame(status, __FILE__, __LINE__);
        }
        damaged++;
        const char *text = oht_error_last()->text, *fix = strstr(text, "\nfix: ");
        oht_warn("damaged checkpoint, trying the one before: %.*s",
                 fix ? (int)(fix - text) : (int)strlen(text), text);
    }
    *vanished = list->n > 0 && damaged == 0;
    if (damaged == 0) return OHT_OK;
    OHT_FAIL(OHT_DATA, "%s/checkpoints: all %zu checkpoints are damaged\nfix: train into a new run directory",
             rundir, damaged);
}

oht_status oht_checkpoint_read(const char *rundir, const oht_params *params, oht_backend *be,
                               oht_state *state, bool moments, bool *found) {
    *found = false;
    reader r = {.params = params, .be = be};
    buffer b = {0};
    step_list list;
    oht_status status = list_steps(rundir, false, &list);
    if (status == OHT_OK && list.n > 0) {
        status = buffer_create(&b, params);
        if (status == OHT_OK) status = OHT_ALLOC(&r.seen, (size_t)params->n, "checkpoint's parameters");
        bool vanished = false;
        if (status == OHT_OK) status = read_newest(&r, rundir, &list, state, moments, &b, found, &vanished);
        if (status == OHT_OK && vanished) { // a running trainer keeps newer ones
            oht_free(list.step);
            status = list_steps(rundir, false, &list);
            if (status == OHT_OK)
                status = read_newest(&r, rundir, &list, state, moments, &b, found, &vanished);
            if (status == OHT_OK && vanished)
                status = oht_error_set(OHT_IO, __FILE__, __LINE__,
                                       "%s/checkpoints: the checkpoints vanish while they are read\nfix: try again",
                                       rundir);
        }
    }
    oht_free(r.seen);
    oht_free(b.x);
    oht_free(list.step);
    return status;
}
