// Prefetching loader (include/oht/data.h). A thread reads ahead into a ring of step batches; all memory is
// taken at the start. What a rank gets is a pure function of the configuration:
//
//   step s, sample j of the global batch -> place s * G + j of the training order (evaluation: row s * G + j)
//   rank r of P has the samples r, r + P, ...; its local sample i belongs to micro-batch i / micro
//
// Rows come through a cache of 256-row blocks. The training order stays inside windows of 16 blocks (order.c)
// and moves on through them, so with 16 places every block is read once an epoch, in whole chunks. Errors of
// the thread travel as oht_error and come out of oht_loader_next after the good steps before them.
#include "oht/data.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "data/masking.h"
#include "data/text_file.h"
#include "oht/log.h"
#include "oht/memory.h"

enum { DEPTH = 3, BLOCK = OHT_TEXT_BLOCK, CACHE = OHT_ORDER_WINDOW_BLOCKS };

typedef struct slot {
    oht_step_batch step;
    oht_batch *micro;
    int32_t *tokens, *labels, *positions; // (local rows, T)
    uint8_t *mask;
    int64_t *row_id;
} slot;

struct oht_loader {
    oht_loader_config cfg;
    oht_text *text;
    oht_text_info info;
    oht_masking masking;
    int64_t end; // one past the last step
    int64_t local, micros; // capacity: rows and micro-batches of this rank
    slot ring[DEPTH];

    int32_t *cache; // (cached, BLOCK, T)
    int cached;
    int64_t block[CACHE], used[CACHE], clock; // block held (-1 = none), when used last

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

// ---- filling: the thread
// -------------------------------------------------------------------------------------------

// Rows of a block in the cache; read if they are not there.
static oht_status cached_block(oht_loader *l, int64_t block, const int32_t **out) {
    int found = -1, oldest = 0;
    for (int i = 0; i < l->cached; i++) {
        if (l->block[i] == block) found = i;
        if (l->used[i] < l->used[oldest]) oldest = i;
    }
    int i = found >= 0 ? found : oldest;
    int32_t *rows = l->cache + (int64_t)i * BLOCK * l->info.tokens;
    if (found < 0) {
        int64_t first = block * BLOCK, left = l->info.rows[l->cfg.split] - first;
        l->block[i] = -1;
        OHT_TRY(oht_text_read(l->text, l->cfg.split, first, left < BLOCK ? left : BLOCK, rows));
        l->block[i] = block;
    }
    l->used[i] = ++l->clock;
    *out = rows;
    return OHT_OK;
}

// Number of tokens before the padding at a row's end.
static int64_t length_of(const oht_text_info *info, const int32_t *tokens) {
    int64_t n = info->tokens;
    while (info->padded && n > 0 && tokens[n - 1] == info->pad_id) n--;
    return n;
}

// One row into place `row` of a micro-batch whose memory starts at local sample base of the slot.
static oht_status fill_row(oht_loader *l, slot *s, oht_batch *b, int64_t base, int64_t row, int64_t sample) {
    int64_t T = l->info.tokens, place = l->cfg.global_batch * s->step.index + sample, id = place;
    if (l->cfg.split == OHT_SPLIT_TRAIN) id = oht_order(l->cfg.seed, l->info.rows[OHT_SPLIT_TRAIN], place);
    const int32_t *block = NULL;
    OHT_TRY(cached_block(l, id / BLOCK, &block));
    int32_t *tokens = s->tokens + (base + row) * T;
    memcpy(tokens, block + id % BLOCK * T, (size_t)T * sizeof(*tokens));
    s->row_id[base + row] = id;
    int64_t length = length_of(&l->info, tokens);
    if (s->mask)
        for (int64_t t = 0; t < T; t++) s->mask[(base + row) * T + t] = t < length;
    if (l->cfg.mlm) {
        oht_mask_key key = l->cfg.split == OHT_SPLIT_TRAIN
                               ? oht_mask_key_train(l->cfg.seed, s->step.index, sample)
                               : oht_mask_key_evaluation(l->cfg.mask_seed, id);
        int64_t at = base * T + b->picked;
        b->picked +=
            oht_mask_row(&l->masking, key, tokens, T, (int32_t)(row * T), s->labels + at, s->positions + at);
        b->n_labels = b->picked;
    } else {
        int32_t *labels = s->labels + (base + row) * T;
        for (int64_t t = 0; t < T; t++) labels[t] = t + 1 < length ? tokens[t + 1] : -1;
        b->n_labels += length > 1 ? length - 1 : 0;
    }
    return OHT_OK;
}

static int64_t share(int64_t rows, int64_t of) { // ceil(rows / of)
    return (rows + of - 1) / of;
}

static oht_status fill(oht_loader *l, slot *s, int64_t index) {
    int64_t G = l->cfg.global_batch, P = l->cfg.size, r = l->cfg.rank, micro = l->cfg.micro_batch,
            T = l->info.tokens;
    int64_t rows = G;
    if (l->cfg.split == OHT_SPLIT_VALIDATION && l->info.rows[OHT_SPLIT_VALIDATION] - index * G < G)
        rows = l->info.rows[OHT_SPLIT_VALIDATION] - index * G;
    int64_t mine = r < rows ? share(rows - r, P) : 0;
    s->step = (oht_step_batch){.index = index,
                               .n_micro = share(share(rows, P), micro),
                               .micro = s->micro,
                               .rows = mine,
                               .global_rows = rows,
                               .row_id = s->row_id};
    for (int64_t m = 0; m < s->step.n_micro; m++) {
        int64_t base = m * micro;
        oht_batch *b = &s->micro[m];
        *b = (oht_batch){.rows = mine - base < micro ? (mine > base ? mine - base : 0) : micro,
                         .sample0 = (uint32_t)(r + base * P),
                         .stride = (uint32_t)P,
                         .tokens = s->tokens + base * T,
                         .mask = s->mask ? s->mask + base * T : NULL,
                         .labels = s->labels + base * T,
                         .positions = s->positions ? s->positions + base * T : NULL};
        for (int64_t row = 0; row < b->rows; row++) {
            if (atomic_load_explicit(&l->stop, memory_order_relaxed)) return OHT_OK; // nobody will look at it
            OHT_TRY(fill_row(l, s, b, base, row, r + (base + row) * P));
        }
        s->step.n_labels += b->n_labels;
    }
    return OHT_OK;
}

static void *work(void *arg) {
    oht_loader *l = arg;
    oht_h5_silence();
    oht_status status = OHT_OK;
    for (int64_t index = l->cfg.first; index < l->end && status == OHT_OK; index++) {
        pthread_mutex_lock(&l->lock);
        while (!atomic_load(&l->stop) && l->produced - l->consumed == DEPTH)
            pthread_cond_wait(&l->freed, &l->lock);
        slot *s = &l->ring[l->produced % DEPTH];
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

// ---- the trainer's side
// --------------------------------------------------------------------------------------------

static oht_status check(oht_loader *l, const char *path) {
    const oht_loader_config *cfg = &l->cfg;
    if (cfg->global_batch < 1 || cfg->micro_batch < 1 || cfg->size < 1 || cfg->rank < 0 ||
        cfg->rank >= cfg->size || cfg->first < 0 || cfg->count < 0 ||
        !(cfg->mlm_probability >= 0.0 && cfg->mlm_probability <= 1.0))
        OHT_FAIL(OHT_INTERNAL,
                 "loader: batch %lld, micro-batch %lld, rank %d of %d, steps from %lld, %lld of them, mask "
                 "share %g",
                 (long long)cfg->global_batch, (long long)cfg->micro_batch, cfg->rank, cfg->size,
                 (long long)cfg->first, (long long)cfg->count, cfg->mlm_probability);
    if (cfg->global_batch > INT32_MAX || cfg->micro_batch > INT32_MAX / l->info.tokens)
        OHT_FAIL(OHT_CONFIG,
                 "a global batch of %lld in micro-batches of %lld rows of %lld tokens is too large\n"
                 "fix: at most %d rows a global batch, %lld a micro-batch",
                 (long long)cfg->global_batch, (long long)cfg->micro_batch, (long long)l->info.tokens,
                 INT32_MAX, (long long)(INT32_MAX / l->info.tokens));
    if (cfg->mlm != l->info.mlm)
        OHT_FAIL(OHT_DATA,
                 "%s: holds text of kind %s (tokenizer %s), but the model is trained on kind %s\n"
                 "fix: set model.type=%s, or prepare the text with %s",
                 path, l->info.mlm ? "mlm" : "clm", l->info.tokenizer, cfg->mlm ? "mlm" : "clm",
                 l->info.mlm ? "bert" : "opt",
                 cfg->mlm ? "BERT's tokenizer (wordpiece)" : "OPT's tokenizer (bpe)");
    if (l->info.rows[cfg->split] == 0)
        OHT_FAIL(OHT_DATA, "%s: has no %s\nfix: give `ohtrain prepare text` %s text", path,
                 oht_text_dataset(cfg->split), cfg->split == OHT_SPLIT_TRAIN ? "training" : "validation");
    int64_t end;
    if (__builtin_add_overflow(cfg->first, cfg->count, &end) || end > INT64_MAX / cfg->global_batch)
        OHT_FAIL(OHT_CONFIG, "%lld steps of %lld samples are beyond counting\nfix: fewer train.steps",
                 (long long)cfg->count, (long long)cfg->global_batch);
    l->end = end;
    if (cfg->split == OHT_SPLIT_VALIDATION) {
        int64_t batches = share(l->info.rows[OHT_SPLIT_VALIDATION], cfg->global_batch);
        if (cfg->count == 0 || end > batches) l->end = batches;
    }
    return OHT_OK;
}

static oht_status take_memory(oht_loader *l) {
    int64_t G = l->cfg.global_batch, rows = l->info.rows[l->cfg.split];
    if (l->cfg.split == OHT_SPLIT_VALIDATION && rows < G) G = rows;
    l->micros = share(share(G, l->cfg.size), l->cfg.micro_batch);
    l->local = share(G, l->cfg.size);
    size_t local = (size_t)l->local, T = (size_t)l->info.tokens, n;
    if (__builtin_mul_overflow(local, T, &n)) n = SIZE_MAX; // oht_alloc refuses it
    for (int i = 0; i < DEPTH; i++) {
        slot *s = &l->ring[i];
        OHT_TRY(OHT_ALLOC(&s->micro, (size_t)l->micros, "micro-batches of the loader"));
        OHT_TRY(OHT_ALLOC(&s->row_id, local, "row numbers of the loader"));
        OHT_TRY(OHT_ALLOC(&s->tokens, n, "tokens of the loader"));
        OHT_TRY(OHT_ALLOC(&s->labels, n, "labels of the loader"));
        if (l->cfg.mlm) OHT_TRY(OHT_ALLOC(&s->positions, n, "masked positions of the loader"));
        if (l->info.padded) OHT_TRY(OHT_ALLOC(&s->mask, n, "padding mask of the loader"));
    }
    int64_t blocks = share(rows, BLOCK);
    l->cached = blocks < CACHE ? (int)blocks : CACHE;
    if (l->cfg.split == OHT_SPLIT_VALIDATION) l->cached = 1; // file order
    for (int i = 0; i < l->cached; i++) l->block[i] = -1;
    return OHT_ALLOC(&l->cache, (size_t)l->cached * BLOCK * T, "block cache of the loader");
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

oht_status oht_loader_create(oht_loader **out, const char *path, const oht_loader_config *cfg) {
    *out = NULL;
    oht_loader *l = NULL;
    oht_status status = OHT_OK;
    OHT_TRY_GOTO(status, OHT_ALLOC(&l, 1, "loader"), failed);
    l->cfg = *cfg;
    OHT_TRY_GOTO(status, oht_text_open(&l->text, path), failed);
    l->info = *oht_text_info_of(l->text);
    OHT_TRY_GOTO(status, check(l, path), failed);
    l->masking = oht_masking_of(&l->info, cfg->mlm_probability);
    OHT_TRY_GOTO(status, take_memory(l), failed);
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
        *out = &l->ring[l->consumed % DEPTH].step;
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
    for (int i = 0; i < DEPTH; i++) {
        slot *s = &l->ring[i];
        oht_free(s->micro);
        oht_free(s->row_id);
        oht_free(s->tokens);
        oht_free(s->labels);
        oht_free(s->positions);
        oht_free(s->mask);
    }
    oht_free(l->cache);
    oht_text_close(l->text);
    oht_free(l);
}
