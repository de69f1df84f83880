// See tiny.h.
#include "tiny.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/text_file.h"
#include "oht/h5.h"
#include "oht/memory.h"
#include "oht/random.h"
#include "oht/series.h"

static void fill(uint16_t *out, int64_t rows, uint32_t split, bool mlm, bool padded) {
    enum { T = TINY_TOKENS, WORDS = TINY_VOCAB - TINY_SPECIAL };
    for (int64_t r = 0; r < rows; r++) {
        int64_t length = padded && r % 3 == 0 ? T / 2 + r % 5 : T;
        uint32_t word = 0;
        for (int64_t t = 0; t < T; t++) {
            philox4x32_ctr_t x = oht_random_block(7, OHT_DRAW_TEST, split, 0, (uint32_t)r, (uint32_t)t);
            bool jump = t == 0 || x.v[0] % 10 == 0;
            word = (jump ? x.v[1] : mlm ? word : 3 * word + 7) % WORDS;
            out[r * T + t] = (uint16_t)(t < length ? TINY_SPECIAL + word : 0);
        }
        if (mlm) {
            out[r * T] = 2; // [CLS] ... [SEP]
            out[r * T + length - 1] = 3;
        }
    }
}

static oht_status write_split(oht_h5 *file, oht_split split, int64_t rows, bool mlm, bool padded) {
    if (rows == 0) return OHT_OK;
    uint16_t *ids;
    OHT_TRY(OHT_ALLOC(&ids, (size_t)(rows * TINY_TOKENS), "tiny tokens"));
    fill(ids, rows, (uint32_t)split, mlm, padded);
    oht_h5_shape shape = {
        .type = OHT_H5_U16, .rank = 2, .dim = {rows, TINY_TOKENS}, .chunk = {OHT_TEXT_BLOCK, TINY_TOKENS}};
    oht_status status = oht_h5_make(file, oht_text_dataset(split), &shape, false, true);
    if (status == OHT_OK) status = oht_h5_write(file, oht_text_dataset(split), 0, rows, OHT_H5_U16, ids);
    oht_free(ids);
    return status;
}

oht_status tiny_text(const char *path, bool mlm, bool padded, int64_t rows, int64_t validation) {
    oht_text_info info = {.rows = {rows, validation},
                          .tokens = TINY_TOKENS,
                          .vocab_size = TINY_VOCAB,
                          .mlm = mlm,
                          .padded = padded,
                          .pad_id = 0,
                          .mask_id = mlm ? 4 : -1,
                          .cls_id = mlm ? 2 : -1,
                          .sep_id = mlm ? 3 : -1,
                          .bos_id = -1,
                          .eos_id = -1,
                          .tokenizer = "tiny",
                          .source_sha256 =
                              "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"};
    oht_h5 *file = NULL;
    oht_status status = oht_h5_create(&file, path);
    if (status == OHT_OK) status = oht_text_write_info(file, &info);
    if (status == OHT_OK) status = write_split(file, OHT_SPLIT_TRAIN, rows, mlm, padded);
    if (status == OHT_OK) status = write_split(file, OHT_SPLIT_VALIDATION, validation, mlm, padded);
    if (status == OHT_OK) return oht_h5_commit(file);
    oht_h5_close(file);
    return status;
}

void tiny_config(oht_config *cfg, oht_model_type type, const char *data) {
    oht_config_defaults(cfg);
    bool bert = type == OHT_MODEL_BERT;
    cfg->model.type = type;
    cfg->model.layers = 2;
    cfg->model.width = cfg->model.embed_width = 32;
    cfg->model.heads = 4;
    cfg->model.ffn = 64;
    cfg->model.vocab_size = TINY_VOCAB;
    cfg->model.max_tokens = TINY_TOKENS;
    cfg->model.norm = bert ? OHT_NORM_POST : OHT_NORM_PRE;
    cfg->model.init_std = 0.02;
    cfg->model.dropout = 0.1;
    cfg->model.attention_dropout = 0.1;
    snprintf(cfg->model.attention, sizeof(cfg->model.attention), "softmax1");
    snprintf(cfg->data.path, sizeof(cfg->data.path), "%s", data);
    cfg->data.mlm_probability = 0.3;
    cfg->train.steps = 12;
    cfg->train.global_batch = 8;
    cfg->train.micro_batch = 4;
    cfg->train.lr = 3e-3;
    cfg->train.schedule = OHT_LR_CONSTANT;
    cfg->train.warmup_steps = 0;
    cfg->train.eval_every = 0;
    cfg->train.log_every = 1;
    cfg->eval.batch = 8;
    cfg->eval.micro_batch = 4;
    cfg->outliers.every = 0;
    cfg->run.checkpoint_every = 0;
}

static oht_status write_csv(const char *csv) {
    FILE *out = fopen(csv, "w");
    if (!out) OHT_FAIL(OHT_IO, "cannot write %s", csv);
    fputs("date,a,b,c\n", out);
    for (int t = 0; t < 150; t++)
        fprintf(out, "2020-01-%02d %02d:00:00,%.6f,%.6f,%.6f\n", 1 + t / 24, t % 24,
                sin(0.26 * t) + 0.2 * sin(17.0 * t), 5 + 2 * cos(0.11 * t) + 0.2 * sin(31.0 * t), sin(0.5 * t) * cos(0.07 * t));
    fclose(out);
    return OHT_OK;
}

oht_status tiny_series(oht_comm *comm, const char *path) {
    char csv[400];
    snprintf(csv, sizeof(csv), "%s.csv", path);
    oht_status status = oht_comm_rank(comm) == 0 ? write_csv(csv) : OHT_OK;
    OHT_TRY(oht_agree(comm, status));
    const oht_prepare_series opt = {csv, "90,30,30", path};
    return oht_prepare_series_run(comm, &opt);
}

void tiny_series_config(oht_config *cfg, const char *data) {
    tiny_config(cfg, OHT_MODEL_STANHOP, data);
    oht_model_config *m = &cfg->model;
    oht_config unset;
    oht_config_defaults(&unset);
    m->width = m->embed_width = 16;
    m->heads = 2;
    m->ffn = 24;
    m->series = 3;
    m->input = 10;
    m->horizon = 3;
    m->segment = 4;
    m->patterns = 3;
    m->vocab_size = unset.model.vocab_size;
    m->max_tokens = unset.model.max_tokens;
    m->init_std = unset.model.init_std;
    cfg->data.mlm_probability = unset.data.mlm_probability;
    cfg->train.steps = unset.train.steps;
    cfg->train.epochs = 3;
    cfg->train.global_batch = 11;
    cfg->train.micro_batch = 3;
    cfg->train.schedule = OHT_LR_TYPE1;
    cfg->train.beta2 = 0.999;
    cfg->train.weight_decay = 0;
    cfg->train.clip = 5;
    cfg->eval.batch = 9;
    cfg->eval.micro_batch = 4;
    cfg->eval.train_eval_batches = 0;
}

void tiny_folder(char out[256]) {
    const char *base = getenv("TMPDIR");
    snprintf(out, 256, "%s/oht-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(out)) abort();
}

void tiny_remove(const char *folder) {
    char command[320];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", folder);
}
