// The run directory (see rundir.h). The lock is an flock on RUNDIR/.lock: the kernel drops it when the
// process ends, also after kill -9. Ranks whose mpirun was killed live on for some seconds, so a new run
// waits a while for it.
#include "train/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/train.h"

enum { LOCK_WAIT_S = 60 };

static oht_status join(char *out, size_t size, const oht_rundir *r, const char *name) {
    int n = snprintf(out, size, "%s/%s", r->path, name);
    if (n < 0 || (size_t)n >= size)
        OHT_FAIL(OHT_CONFIG, "the path of the run directory is too long: %s", r->path);
    return OHT_OK;
}

static oht_status lock(oht_rundir *r) {
    char path[OHT_PATH + 32];
    OHT_TRY(join(path, sizeof(path), r, ".lock"));
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (r->lock < 0)
        OHT_FAIL(OHT_IO, "cannot write into the run directory %s: %s\nfix: choose another one with -o",
                 r->path, strerror(errno));
    bool told = false;
    for (double start = oht_clock_s(); flock(r->lock, LOCK_EX | LOCK_NB) != 0;) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) return OHT_OK; // a file system without locks: go on without
        if (!told)
            oht_warn("another process is training in %s: waiting up to %d s for it to end", r->path, LOCK_WAIT_S);
        told = true;
        if (oht_signals_stop_asked()) OHT_FAIL(OHT_STOPPED, "asked to stop while waiting for %s", path);
        if (oht_clock_s() - start > LOCK_WAIT_S)
            OHT_FAIL(
                OHT_CONFIG,
                "another process is training in %s\nfix: wait for it, or choose another directory with -o",
                r->path);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return OHT_OK;
}

static oht_status load_stored(oht_config *stored, const char *path) {
    oht_status status = oht_config_load(stored, path);
    if (status == OHT_OK) return OHT_OK;
    oht_error why = *oht_error_last();
    char *fix = strstr(why.text, "\nfix: ");
    if (fix) *fix = '\0'; // it speaks of a file the user writes
    OHT_FAIL(status,
             "%.1200s\nfix: this is the configuration that the run began with; if the file is damaged, remove it: "
             "the same command goes on and writes it again",
             why.text);
}

static oht_status settle_config(oht_rundir *r, const oht_config *cfg) {
    char path[OHT_PATH + 32];
    OHT_TRY(join(path, sizeof(path), r, "config.yaml"));
    if (access(path, F_OK) == 0) {
        if (cfg->run.resume == OHT_RESUME_NEVER)
            OHT_FAIL(OHT_CONFIG,
                     "%s holds a run already and run.resume = never\nfix: run.resume=auto continues it; or "
                     "choose another directory with -o",
                     r->path);
        oht_config stored;
        oht_config_defaults(&stored);
        OHT_TRY(load_stored(&stored, path));
        OHT_TRY(oht_config_same_run(&stored, cfg, r->path));
    } else if (cfg->run.resume == OHT_RESUME_MUST) {
        OHT_FAIL(OHT_CONFIG,
                 "%s holds no run and run.resume = must\nfix: check -o, or run.resume=auto starts a new run",
                 r->path);
    }
    char *text;
    OHT_TRY(oht_config_text(cfg, &text));
    oht_status status = oht_file_replace(path, text, strlen(text));
    oht_free(text);
    return status;
}

oht_status oht_rundir_open(oht_rundir *r, const char *path, const oht_config *cfg) {
    memset(r, 0, sizeof(*r));
    r->lock = r->metrics = -1;
    if (strlen(path) >= sizeof(r->path))
        OHT_FAIL(OHT_CONFIG, "the path of the run directory is too long: %s", path);
    strcpy(r->path, path);
    OHT_TRY(oht_make_folder(path));
    OHT_TRY(lock(r));
    OHT_TRY(settle_config(r, cfg));
    return OHT_OK;
}

// ---- data.json ----

static json_t *read_data_json(const char *rundir) {
    char path[OHT_PATH + 32];
    FILE *in;
    snprintf(path, sizeof(path), "%.*s/data.json", OHT_PATH, rundir);
    if (oht_file_open(&in, path)) return NULL;
    json_t *json = json_loadf(in, 0, NULL);
    fclose(in);
    return json;
}

bool oht_rundir_data(const char *rundir, oht_rundir_data_info *out) {
    *out = (oht_rundir_data_info){.validation_rows = -1};
    json_t *json = read_data_json(rundir);
    const char *path = json_string_value(json_object_get(json, "path"));
    const json_t *rows = json_object_get(json, "validation_rows");
    if (path && strlen(path) < sizeof(out->path)) strcpy(out->path, path);
    if (json_is_integer(rows)) out->validation_rows = json_integer_value(rows);
    bool found = json != NULL;
    json_decref(json);
    return found;
}

// What the run knows of its data, as `was` and `now` say it; where the file lies does not count.
static bool same_content(json_t *was, json_t *now) {
    json_t *a = json_copy(was), *b = json_copy(now);
    json_object_del(a, "path");
    json_object_del(b, "path");
    bool same = json_equal(a, b);
    json_decref(a);
    json_decref(b);
    return same;
}

// data.json says which data the run has seen: the file may move, its content may not change. Runs of older
// versions have none; they get one. "path" is absolute, so that the file is found from any folder.
oht_status oht_rundir_same_data(oht_rundir *r, const oht_data_info *d, const char *data_path) {
    char path[OHT_PATH + 32], *whole = realpath(data_path, NULL);
    OHT_TRY(join(path, sizeof(path), r, "data.json"));
    json_t *now = json_pack("{s:s, s:I, s:I, s:I}", "source_sha256", d->source_sha256, "train_rows",
                            (json_int_t)d->rows[OHT_SPLIT_TRAIN], "validation_rows",
                            (json_int_t)d->rows[OHT_SPLIT_VALIDATION], "tokens", (json_int_t)d->tokens);
    json_t *where = json_string(whole ? whole : data_path); // NULL where the path is no UTF-8: left out
    free(whole);
    if (where) json_object_set_new(now, "path", where);
    if (!now) OHT_FAIL(OHT_MEMORY, "no memory for %s", path);
    if (d->rows[OHT_SPLIT_TEST] > 0) json_object_set_new(now, "test_rows", json_integer(d->rows[OHT_SPLIT_TEST]));
    json_t *was = read_data_json(r->path);
    if (!was && access(path, F_OK) == 0)
        oht_warn("%s is damaged: it is written again, and whether the data are the same is not known", path);
    oht_status status = OHT_OK;
    if (was && !same_content(was, now)) {
        const char *sha = json_string_value(json_object_get(was, "source_sha256"));
        status = oht_error_set(
            OHT_DATA, __FILE__, __LINE__,
            "%s was trained on other data than %s: source %.12s, %lld + %lld rows there; source %.12s, %lld + "
            "%lld rows now\nfix: data.path=... with the data it began with, or another run directory (-o)",
            r->path, data_path, sha ? sha : "unknown",
            (long long)json_integer_value(json_object_get(was, "train_rows")),
            (long long)json_integer_value(json_object_get(was, "validation_rows")), d->source_sha256,
            (long long)d->rows[OHT_SPLIT_TRAIN], (long long)d->rows[OHT_SPLIT_VALIDATION]);
    } else if (!was || !json_equal(was, now)) {
        status = oht_json_replace(path, json_incref(now), JSON_INDENT(2));
    }
    json_decref(was);
    json_decref(now);
    return status;
}

// ---- metrics.jsonl ----

// Length of the leading lines that belong to steps <= step. A line that is not whole JSON (a kill while it
// was written) ends the file.
static size_t good_length(const char *text, size_t n, int64_t step, oht_rundir_evaluations *held) {
    size_t at = 0;
    *held = (oht_rundir_evaluations){0};
    while (at < n) {
        const char *end = memchr(text + at, '\n', n - at);
        if (!end) break;
        json_t *line = json_loadb(text + at, (size_t)(end - text) - at, 0, NULL);
        json_t *number = json_object_get(line, "step");
        bool keep = json_is_integer(number) && json_integer_value(number) <= step;
        const json_t *eval = json_object_get(line, "eval");
        if (keep && json_integer_value(number) == step && eval)
            *(json_is_true(json_object_get(eval, "result")) ? &held->result : &held->on_the_way) = true;
        json_decref(line);
        if (!keep) break;
        at = (size_t)(end - text) + 1;
    }
    return at;
}

static oht_status cut(oht_rundir *r, const char *path, int64_t step, oht_rundir_evaluations *held) {
    struct stat info;
    if (fstat(r->metrics, &info) != 0) OHT_FAIL(OHT_IO, "%s: %s", path, strerror(errno));
    char *text;
    OHT_TRY(OHT_ALLOC(&text, (size_t)info.st_size + 1, "metrics.jsonl"));
    size_t n = 0;
    while (n < (size_t)info.st_size) {
        ssize_t got = pread(r->metrics, text + n, (size_t)info.st_size - n, (off_t)n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) { // what was not read must not be cut off
            int error = got < 0 ? errno : EIO;
            oht_free(text);
            OHT_FAIL(OHT_IO, "%s: cannot be read: %s", path, strerror(error));
        }
        n += (size_t)got;
    }
    size_t keep = good_length(text, n, step, held);
    oht_free(text);
    if (keep < (size_t)info.st_size && ftruncate(r->metrics, (off_t)keep) != 0)
        OHT_FAIL(OHT_IO, "cannot cut %s back to step %lld: %s", path, (long long)step, strerror(errno));
    return OHT_OK;
}

oht_status oht_rundir_metrics(oht_rundir *r, int64_t step, oht_rundir_evaluations *held) {
    char path[OHT_PATH + 32];
    OHT_TRY(join(path, sizeof(path), r, "metrics.jsonl"));
    r->metrics = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (r->metrics < 0) OHT_FAIL(OHT_IO, "cannot open %s: %s", path, strerror(errno));
    return cut(r, path, step, held);
}

oht_status oht_rundir_append(oht_rundir *r, const char *line) {
    char text[2048];
    int n = snprintf(text, sizeof(text), "%s\n", line);
    if (n < 0 || (size_t)n >= sizeof(text)) OHT_FAIL(OHT_INTERNAL, "a line of metrics.jsonl of %d bytes", n);
    ssize_t written = write(r->metrics, text, (size_t)n);
    if (written != n)
        OHT_FAIL(OHT_IO,
                 "cannot append to %s/metrics.jsonl: %s\nfix: free some space and start the same command "
                 "again; it continues from the last checkpoint",
                 r->path, written < 0 ? strerror(errno) : "no space left for the whole line");
    return OHT_OK;
}

oht_status oht_rundir_sync(oht_rundir *r) {
    if (fdatasync(r->metrics) != 0 && errno != EINVAL)
        OHT_FAIL(OHT_IO, "cannot write %s/metrics.jsonl to the disk: %s", r->path, strerror(errno));
    return OHT_OK;
}

bool oht_rundir_borrow(const char *path, int *out) {
    char name[OHT_PATH + 16];
    snprintf(name, sizeof(name), "%.*s/.lock", OHT_PATH, path);
    *out = open(name, O_RDWR | O_CLOEXEC);
    if (*out < 0 || flock(*out, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return true;
    close(*out);
    *out = -1;
    return false;
}

void oht_rundir_close(oht_rundir *r) {
    if (r->metrics >= 0) close(r->metrics);
    if (r->lock >= 0) close(r->lock);
    r->metrics = r->lock = -1;
}
