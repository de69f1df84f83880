// Token rows as a data source: OPT's labels are the next tokens; BERT's tokens are masked (masking.c), with
// the labels and places of the masked ones packed per micro-batch.
//
// Rows come through a cache of 256-row blocks. The training order stays inside windows of 16 blocks (order.c)
// and moves on through them, so with 16 places every block is read once an epoch, in whole chunks.
#include <string.h>

#include "data/masking.h"
#include "data/source.h"
#include "data/text_file.h"
#include "oht/memory.h"

enum { BLOCK = OHT_TEXT_BLOCK, CACHE = OHT_ORDER_WINDOW_BLOCKS };

typedef struct text_source {
    data_source pub; // first member: a data_source is a text_source
    oht_loader_config cfg;
    oht_text *text;
    oht_text_info info;
    oht_masking masking;
    int32_t *cache; // (cached, BLOCK, T)
    int cached;
    int64_t block[CACHE], used[CACHE], clock; // block held (-1 = none), when used last
} text_source;

static bool is_mlm(const text_source *s) {
    return s->cfg.task == OHT_TASK_MLM;
}

// Rows of a block in the cache; read if they are not there.
static oht_status cached_block(text_source *s, int64_t block, const int32_t **out) {
    int found = -1, oldest = 0;
    for (int i = 0; i < s->cached; i++) {
        if (s->block[i] == block) found = i;
        if (s->used[i] < s->used[oldest]) oldest = i;
    }
    int i = found >= 0 ? found : oldest;
    int32_t *rows = s->cache + (int64_t)i * BLOCK * s->info.tokens;
    if (found < 0) {
        int64_t first = block * BLOCK, left = s->info.rows[s->cfg.split] - first;
        s->block[i] = -1;
        OHT_TRY(oht_text_read(s->text, s->cfg.split, first, left < BLOCK ? left : BLOCK, rows));
        s->block[i] = block;
    }
    s->used[i] = ++s->clock;
    *out = rows;
    return OHT_OK;
}

// Number of tokens before the padding at a row's end.
static int64_t length_of(const oht_text_info *info, const int32_t *tokens) {
    int64_t n = info->tokens;
    while (info->padded && n > 0 && tokens[n - 1] == info->pad_id) n--;
    return n;
}

static oht_status sample(data_source *source, const source_place *p) {
    text_source *s = (text_source *)source;
    int64_t T = s->info.tokens;
    const int32_t *block = NULL;
    OHT_TRY(cached_block(s, p->id / BLOCK, &block));
    int64_t base = (p->local - p->row) * T; // first cell of the micro-batch
    int32_t *tokens = (int32_t *)p->field[OHT_FIELD_TOKENS] + p->local * T;
    int32_t *labels = (int32_t *)p->field[OHT_FIELD_LABELS] + base;
    uint8_t *mask = p->field[OHT_FIELD_MASK];
    memcpy(tokens, block + p->id % BLOCK * T, (size_t)T * sizeof(*tokens));
    int64_t length = length_of(&s->info, tokens);
    if (mask)
        for (int64_t t = 0; t < T; t++) mask[p->local * T + t] = t < length;
    oht_batch *b = p->batch;
    if (is_mlm(s)) {
        oht_mask_key key = s->cfg.split == OHT_SPLIT_TRAIN
                               ? oht_mask_key_train(s->cfg.seed, p->step, p->sample)
                               : oht_mask_key_evaluation(s->cfg.mask_seed, p->id);
        int32_t *positions = (int32_t *)p->field[OHT_FIELD_POSITIONS] + base;
        b->picked += oht_mask_row(&s->masking, key, tokens, T, (int32_t)(p->row * T), labels + b->picked,
                                  positions + b->picked);
        b->n_labels = b->picked;
    } else {
        labels += p->row * T;
        for (int64_t t = 0; t < T; t++) labels[t] = t + 1 < length ? tokens[t + 1] : -1;
        b->n_labels += length > 1 ? length - 1 : 0;
    }
    return OHT_OK;
}

static void close_source(data_source *source) {
    text_source *s = (text_source *)source;
    oht_free(s->cache);
    oht_text_close(s->text);
    oht_free(s);
}

static oht_status check(const text_source *s, const char *path) {
    const oht_loader_config *cfg = &s->cfg;
    bool mlm = is_mlm(s);
    if (!(cfg->mlm_probability >= 0.0 && cfg->mlm_probability <= 1.0))
        OHT_FAIL(OHT_INTERNAL, "loader: mask share %g", cfg->mlm_probability);
    if (mlm != s->info.mlm)
        OHT_FAIL(OHT_DATA,
                 "%s: holds text of kind %s (tokenizer %s), but the model is trained on kind %s\n"
                 "fix: set model.type=%s, or prepare the text with %s",
                 path, s->info.mlm ? "mlm" : "clm", s->info.tokenizer, mlm ? "mlm" : "clm",
                 s->info.mlm ? "bert" : "opt",
                 mlm ? "BERT's tokenizer (wordpiece)" : "OPT's tokenizer (bpe)");
    if (cfg->split == OHT_SPLIT_TEST || s->info.rows[cfg->split] == 0)
        OHT_FAIL(OHT_DATA, "%s: has no %s\nfix: give `ohtrain prepare text` %s text", path,
                 cfg->split == OHT_SPLIT_TEST ? "test split" : oht_text_dataset(cfg->split),
                 oht_split_name(cfg->split));
    return OHT_OK;
}

static oht_status open_text(text_source *s, const char *path) {
    OHT_TRY(oht_text_open(&s->text, path));
    s->info = *oht_text_info_of(s->text);
    OHT_TRY(check(s, path));
    s->masking = oht_masking_of(&s->info, s->cfg.mlm_probability);
    size_t T = (size_t)s->info.tokens;
    data_source *pub = &s->pub;
    memcpy(pub->rows, s->info.rows, sizeof(s->info.rows));
    pub->bytes[OHT_FIELD_TOKENS] = pub->bytes[OHT_FIELD_LABELS] = T * sizeof(int32_t);
    if (s->info.padded) pub->bytes[OHT_FIELD_MASK] = T;
    if (is_mlm(s)) {
        pub->bytes[OHT_FIELD_POSITIONS] = T * sizeof(int32_t);
        pub->picked[OHT_FIELD_LABELS] = pub->picked[OHT_FIELD_POSITIONS] = sizeof(int32_t);
    }
    pub->max_micro_batch = INT32_MAX / s->info.tokens; // positions are i32
    int64_t blocks = (s->info.rows[s->cfg.split] + BLOCK - 1) / BLOCK;
    s->cached = blocks < CACHE ? (int)blocks : CACHE;
    if (s->cfg.split == OHT_SPLIT_VALIDATION) s->cached = 1; // file order
    for (int i = 0; i < s->cached; i++) s->block[i] = -1;
    return OHT_ALLOC(&s->cache, (size_t)s->cached * BLOCK * T, "block cache of the loader");
}

oht_status text_source_open(data_source **out, const char *path, const oht_loader_config *cfg) {
    *out = NULL;
    text_source *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "text source"));
    s->cfg = *cfg;
    s->pub = (data_source){.labels = -1, .depth = OHT_SOURCE_DEPTH, .sample = sample, .close = close_source};
    oht_status status = open_text(s, path);
    if (status != OHT_OK) {
        close_source(&s->pub);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = &s->pub;
    return OHT_OK;
}

oht_status text_describe(oht_data_info *out, const char *path) {
    oht_text *text;
    OHT_TRY(oht_text_open(&text, path));
    const oht_text_info *info = oht_text_info_of(text);
    *out = (oht_data_info){.task = info->mlm ? OHT_TASK_MLM : OHT_TASK_CLM,
                           .rows = {info->rows[0], info->rows[1]},
                           .tokens = info->tokens,
                           .vocab_size = info->vocab_size,
                           .padded = info->padded};
    memcpy(out->origin, info->tokenizer, sizeof(out->origin));
    memcpy(out->source_sha256, info->source_sha256, sizeof(out->source_sha256));
    oht_text_close(text);
    return OHT_OK;
}
