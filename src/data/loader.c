// Prefetching loader (include/oht/data.h). A thread reads ahead into a ring of step batches, with helpers
// where the source can use them; all memory is taken at the start. What a rank gets is a pure function of the
// configuration:
//
//   step s, sample j of the global batch -> place s * G + j of the training order (evaluation: row s * G + j);
//   with batches that end with the epoch: place (s / E) * n + (s mod E) * G + j, for E steps and n samples an epoch
//   rank r of P has the samples r, r + P, ...; its local sample i belongs to micro-batch i / micro
//
// Errors of the threads travel as oht_error and come out of oht_loader_next after the good steps before them.
#include "oht/data.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "data/source.h"
#include "data/team.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"

typedef struct slot {
    oht_step_batch step;
    oht_batch *micro;
    void *field[OHT_FIELD_COUNT]; // (local rows, bytes of a sample)
    int64_t *row_id;
} slot;

struct oht_loader {
    oht_loader_config cfg;
    data_source *source;
    team *team;
    int64_t end; // one past the last step
    int64_t local, micros; // capacity: rows and micro-batches of this rank
    slot ring[OHT_SOURCE_DEPTH];
    slot *filling; // by the threads

    pthread_t thread;
    bool started, locks_made;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
    int64_t produced, consumed; // steps put into the ring; steps the trainer is done with
    bool holding; // the trainer looks at step `consumed`
    bool finished; // nothing more will come
    atomic_bool stop;
    oht_error error;
    double wait_s;
};

// ---- filling: the threads ----

static int64_t share(int64_t rows, int64_t of) { // ceil(rows / of)
    return (rows + of - 1) / of;
}

// Place of sample 0 of a step.
static int64_t first_place(const oht_loader *l, int64_t step) {
    int64_t E = l->cfg.epoch_steps, G = l->cfg.global_batch;
    return E == 0 ? step * G : step / E * l->source->rows[OHT_SPLIT_TRAIN] + step % E * G;
}

// Samples of a step, all ranks together: fewer where the split or, if batches end with it, the epoch ends.
static int64_t rows_of(const oht_loader *l, int64_t step) {
    int64_t E = l->cfg.epoch_steps, G = l->cfg.global_batch;
    if (l->cfg.split == OHT_SPLIT_TRAIN && E == 0) return G;
    int64_t left = l->source->rows[l->cfg.split] - (E == 0 ? step : step % E) * G;
    return left < G ? left : G;
}

static source_place place_of(const oht_loader *l, int64_t local, int worker) {
    const slot *s = l->filling;
    int64_t micro = l->cfg.micro_batch, sample = l->cfg.rank + local * l->cfg.size;
    int64_t first = first_place(l, s->step.index), place = first + sample, n = l->source->rows[OHT_SPLIT_TRAIN];
    source_place p = {.step = s->step.index,
                      .sample = sample,
                      .global_rows = s->step.global_rows,
                      .first = first,
                      .id = place,
                      .local = local,
                      .row = local % micro,
                      .batch = &s->micro[local / micro],
                      .field = s->field,
                      .worker = worker};
    if (l->cfg.split == OHT_SPLIT_TRAIN) {
        p.id =
            l->source->any_order ? oht_order_whole(l->cfg.seed, n, place) : oht_order(l->cfg.seed, n, place);
        p.epoch = place / n;
    }
    return p;
}

static oht_status fill_sample(void *ctx, int64_t local, int worker) {
    oht_loader *l = ctx;
    source_place p = place_of(l, local, worker);
    l->filling->row_id[local] = p.id;
    return l->source->sample(l->source, &p);
}

static oht_status finish_sample(void *ctx, int64_t local, int worker) {
    oht_loader *l = ctx;
    source_place p = place_of(l, local, worker);
    return l->source->finish(l->source, &p);
}

static void begin_step(const oht_loader *l, slot *s, int64_t index) {
    int64_t P = l->cfg.size, r = l->cfg.rank, micro = l->cfg.micro_batch;
    int64_t rows = rows_of(l, index);
    int64_t mine = r < rows ? share(rows - r, P) : 0;
    s->step = (oht_step_batch){.index = index,
                               .n_micro = share(share(rows, P), micro),
                               .micro = s->micro,
                               .rows = mine,
                               .global_rows = rows,
                               .row_id = s->row_id};
    for (int64_t m = 0; m < s->step.n_micro; m++) {
        int64_t base = m * micro;
        s->micro[m] = (oht_batch){.rows = mine - base < micro ? (mine > base ? mine - base : 0) : micro,
                                  .sample0 = (uint32_t)(r + base * P),
                                  .stride = (uint32_t)P};
    }
}

// The arrays as far as they are filled.
static void end_step(const oht_loader *l, slot *s) {
    const data_source *source = l->source;
    for (int64_t m = 0; m < s->step.n_micro; m++) {
        oht_batch *b = &s->micro[m];
        if (source->labels >= 0) b->n_labels = b->rows * source->labels;
        s->step.n_labels += b->n_labels;
        for (int f = 0; f < OHT_FIELD_COUNT; f++) {
            if (!s->field[f]) continue;
            size_t bytes = source->picked[f] ? (size_t)b->picked * source->picked[f]
                                             : (size_t)b->rows * source->bytes[f];
            b->field[f] = (oht_array){
                (unsigned char *)s->field[f] + (size_t)(m * l->cfg.micro_batch) * source->bytes[f], bytes};
        }
    }
}

static oht_status fill(oht_loader *l, slot *s, int64_t index) {
    begin_step(l, s, index);
    l->filling = s;
    OHT_TRY(team_run(l->team, s->step.rows, fill_sample, l, &l->stop));
    if (l->source->finish) OHT_TRY(team_run(l->team, s->step.rows, finish_sample, l, &l->stop));
    end_step(l, s);
    return OHT_OK;
}

static void *work(void *arg) {
    oht_loader *l = arg;
    oht_h5_silence();
    oht_status status = OHT_OK;
    int depth = l->source->depth;
    for (int64_t index = l->cfg.first; index < l->end && status == OHT_OK; index++) {
        pthread_mutex_lock(&l->lock);
        while (!atomic_load(&l->stop) && l->produced - l->consumed == depth)
            pthread_cond_wait(&l->freed, &l->lock);
        slot *s = &l->ring[l->produced % depth];
        pthread_mutex_unlock(&l->lock);
        if (atomic_load(&l->stop)) break;
        status = fill(l, s, index);
        if (status != OHT_OK) break;
        pthread_mutex_lock(&l->lock);
        l->produced++;
        pthread_cond_signal(&l->filled);
        pthread_mutex_unlock(&l->lock);
    }
    pthread_mutex_lock(&l->lock);
    if (status != OHT_OK) l->error = *oht_error_last();
    l->finished = true;
    pthread_cond_signal(&l->filled);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

// ---- the trainer's side ----

int64_t oht_epoch_steps(int64_t rows, int64_t global_batch, bool drop_last) {
    return drop_last ? rows / global_batch : share(rows, global_batch);
}

static oht_status check_numbers(const oht_loader_config *cfg) {
    if (cfg->global_batch < 1 || cfg->micro_batch < 1 || cfg->size < 1 || cfg->rank < 0 ||
        cfg->rank >= cfg->size || cfg->first < 0 || cfg->count < 0 || cfg->threads < 0 || cfg->epoch_steps < 0)
        OHT_FAIL(
            OHT_INTERNAL,
            "loader: batch %lld, micro-batch %lld, rank %d of %d, steps from %lld, %lld of them, %d threads",
            (long long)cfg->global_batch, (long long)cfg->micro_batch, cfg->rank, cfg->size,
            (long long)cfg->first, (long long)cfg->count, cfg->threads);
    return OHT_OK;
}

static oht_status check_batches(oht_loader *l) {
    const oht_loader_config *cfg = &l->cfg;
    if (cfg->global_batch > INT32_MAX || cfg->micro_batch > l->source->max_micro_batch)
        OHT_FAIL(OHT_CONFIG,
                 "a global batch of %lld samples in micro-batches of %lld is too large\n"
                 "fix: at most %d samples a global batch, %lld a micro-batch",
                 (long long)cfg->global_batch, (long long)cfg->micro_batch, INT32_MAX,
                 (long long)l->source->max_micro_batch);
    int64_t end;
    if (__builtin_add_overflow(cfg->first, cfg->count, &end) || end > INT64_MAX / cfg->global_batch)
        OHT_FAIL(OHT_CONFIG, "%lld steps of %lld samples are beyond counting\nfix: fewer train.steps",
                 (long long)cfg->count, (long long)cfg->global_batch);
    l->end = end;
    if (cfg->split == OHT_SPLIT_TRAIN && cfg->epoch_steps > share(l->source->rows[OHT_SPLIT_TRAIN], cfg->global_batch))
        OHT_FAIL(OHT_INTERNAL, "loader: %lld steps an epoch of %lld samples", (long long)cfg->epoch_steps,
                 (long long)l->source->rows[OHT_SPLIT_TRAIN]);
    if (cfg->split != OHT_SPLIT_TRAIN) {
        int64_t batches = share(l->source->rows[cfg->split], cfg->global_batch);
        if (cfg->count == 0 || end > batches) l->end = batches;
    }
    return OHT_OK;
}

static oht_status take_memory(oht_loader *l) {
    const data_source *source = l->source;
    int64_t G = l->cfg.global_batch, rows = source->rows[l->cfg.split];
    if ((l->cfg.split != OHT_SPLIT_TRAIN || l->cfg.epoch_steps > 0) && rows < G) G = rows;
    l->micros = share(share(G, l->cfg.size), l->cfg.micro_batch);
    l->local = share(G, l->cfg.size);
    for (int i = 0; i < source->depth; i++) {
        slot *s = &l->ring[i];
        OHT_TRY(OHT_ALLOC(&s->micro, (size_t)l->micros, "micro-batches of the loader"));
        OHT_TRY(OHT_ALLOC(&s->row_id, (size_t)l->local, "row numbers of the loader"));
        for (int f = 0; f < OHT_FIELD_COUNT; f++)
            if (source->bytes[f])
                OHT_TRY(oht_alloc(&s->field[f], (size_t)l->local, source->bytes[f], "samples of the loader"));
    }
    return OHT_OK;
}

static oht_status start_thread(oht_loader *l) {
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->freed, NULL);
    l->locks_made = true;
    sigset_t all, before; // signals are for the main thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&l->thread, NULL, work, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) OHT_FAIL(OHT_MEMORY, "cannot start the loader's thread: %s", strerror(code));
    l->started = true;
    return OHT_OK;
}

// By the model's task: a file of another kind is told so by the source.
static oht_status open_source(oht_loader *l, const char *path) {
    switch (l->cfg.task) {
    case OHT_TASK_CLM:
    case OHT_TASK_MLM:
        return text_source_open(&l->source, path, &l->cfg);
    case OHT_TASK_IMAGES:
        return image_source_open(&l->source, path, &l->cfg);
    case OHT_TASK_SERIES:
        return series_source_open(&l->source, path, &l->cfg);
    }
    OHT_FAIL(OHT_INTERNAL, "loader: task %d", (int)l->cfg.task);
}

oht_status oht_loader_create(oht_loader **out, const char *path, const oht_loader_config *cfg) {
    *out = NULL;
    oht_loader *l = NULL;
    oht_status status = OHT_OK;
    OHT_TRY_GOTO(status, OHT_ALLOC(&l, 1, "loader"), failed);
    l->cfg = *cfg;
    if (l->cfg.threads == 0) l->cfg.threads = 1;
    OHT_TRY_GOTO(status, check_numbers(cfg), failed);
    OHT_TRY_GOTO(status, open_source(l, path), failed);
    OHT_TRY_GOTO(status, check_batches(l), failed);
    OHT_TRY_GOTO(status, take_memory(l), failed);
    OHT_TRY_GOTO(status, team_create(&l->team, l->source->any_order ? l->cfg.threads : 1), failed);
    OHT_TRY_GOTO(status, start_thread(l), failed);
    *out = l;
    return OHT_OK;
failed:
    oht_loader_destroy(l);
    return status;
}

oht_status oht_loader_next(oht_loader *l, const oht_step_batch **out) {
    *out = NULL;
    pthread_mutex_lock(&l->lock);
    if (l->holding) {
        l->consumed++;
        l->holding = false;
        pthread_cond_signal(&l->freed);
    }
    if (l->produced == l->consumed && !l->finished) {
        double start = oht_clock_s();
        while (l->produced == l->consumed && !l->finished) pthread_cond_wait(&l->filled, &l->lock);
        l->wait_s += oht_clock_s() - start;
    }
    oht_status status = OHT_OK;
    if (l->produced > l->consumed) {
        l->holding = true;
        *out = &l->ring[l->consumed % l->source->depth].step;
    } else if (l->error.code != OHT_OK) {
        *oht_error_last() = l->error;
        status = oht_error_frame(l->error.code, __FILE__, __LINE__);
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

double oht_loader_wait_s(const oht_loader *l) {
    return l->wait_s;
}

void oht_loader_destroy(oht_loader *l) {
    if (!l) return;
    if (l->started) {
        pthread_mutex_lock(&l->lock);
        atomic_store(&l->stop, true);
        pthread_cond_signal(&l->freed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    if (l->locks_made) {
        pthread_cond_destroy(&l->freed);
        pthread_cond_destroy(&l->filled);
        pthread_mutex_destroy(&l->lock);
    }
    team_destroy(l->team);
    for (int i = 0; i < OHT_SOURCE_DEPTH; i++) {
        slot *s = &l->ring[i];
        oht_free(s->micro);
        oht_free(s->row_id);
        for (int f = 0; f < OHT_FIELD_COUNT; f++) oht_free(s->field[f]);
    }
    if (l->source) l->source->close(l->source);
    oht_free(l);
}
