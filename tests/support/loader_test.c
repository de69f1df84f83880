// See loader_test.h.
#include "loader_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/masking.h"

static const double P_MASK = 0.4; // enough masked tokens in short rows

static char folder[] = "/tmp/oht-loader-XXXXXX";

int lt_make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

int lt_remove_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

const char *lt_path(const char *name) {
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

const oht_text_info lt_plain = {.rows = {1000, 103},
                                .tokens = T,
                                .vocab_size = VOCAB,
                                .mlm = true,
                                .pad_id = PAD,
                                .mask_id = MASK,
                                .cls_id = CLS,
                                .sep_id = SEP,
                                .bos_id = -1,
                                .eos_id = -1,
                                .tokenizer = "test"};

static int64_t length_of_row(const oht_text_info *info, int64_t row) {
    return info->padded ? 1 + (row * 5) % T : T;
}

// What the file holds at (row, column) of a split.
static int32_t token_at(const oht_text_info *info, int split, int64_t row, int64_t t) {
    if (t >= length_of_row(info, row)) return PAD;
    if (info->mlm && t == 0) return CLS;
    return (int32_t)(10 + (row * 131 + t * 17 + split * 400) % 880);
}

void lt_write(const char *path, const oht_text_info *info, oht_split bad_split, int64_t bad_row,
                       int64_t bad_column, uint32_t bad_id) {
    oht_h5 *file;
    assert_int_equal(oht_h5_create(&file, path), OHT_OK);
    assert_int_equal(oht_text_write_info(file, info), OHT_OK);
    for (int split = 0; split < 2; split++) {
        int64_t rows = info->rows[split], width = info->tokens;
        if (rows == 0) continue;
        oht_h5_shape shape = {.type = bad_id > 65535 ? OHT_H5_U32 : oht_text_type(info->vocab_size),
                              .rank = 2,
                              .dim = {rows, width},
                              .chunk = {OHT_TEXT_BLOCK, width}};
        uint32_t *ids = malloc((size_t)(rows * width) * sizeof(*ids));
        for (int64_t i = 0; i < rows * width; i++)
            ids[i] = (uint32_t)token_at(info, split, i / width, i % width);
        if ((oht_split)split == bad_split && bad_row >= 0) ids[bad_row * width + bad_column] = bad_id;
        const char *name = oht_text_dataset((oht_split)split);
        assert_int_equal(oht_h5_make(file, name, &shape, false, true), OHT_OK);
        uint16_t *small = malloc((size_t)(rows * width) * sizeof(*small));
        for (int64_t i = 0; i < rows * width; i++) small[i] = (uint16_t)ids[i];
        const void *data = shape.type == OHT_H5_U16 ? (const void *)small : ids;
        assert_int_equal(oht_h5_write(file, name, 0, rows, shape.type, data), OHT_OK);
        free(small);
        free(ids);
    }
    assert_int_equal(oht_h5_commit(file), OHT_OK);
}

const char *lt_file(const char *name, const oht_text_info *info) {
    const char *path = lt_path(name);
    lt_write(path, info, OHT_SPLIT_TRAIN, -1, 0, 0);
    return path;
}

oht_loader_config lt_config(const oht_text_info *info, oht_split split, int64_t batch, int64_t micro,
                                int rank, int size) {
    return (oht_loader_config){.split = split,
                               .task = info->mlm ? OHT_TASK_MLM : OHT_TASK_CLM,
                               .mlm_probability = P_MASK,
                               .seed = 1000,
                               .mask_seed = 5,
                               .global_batch = batch,
                               .micro_batch = micro,
                               .first = 0,
                               .count = split == OHT_SPLIT_TRAIN ? 60 : 0,
                               .rank = rank,
                               .size = size};
}

int64_t lt_check_step(const oht_step_batch *s, const oht_text_info *info, const oht_loader_config *cfg,
                          int64_t index) {
    bool train = cfg->split == OHT_SPLIT_TRAIN;
    int64_t n = info->rows[cfg->split], G = cfg->global_batch, labels = 0, local = 0;
    int64_t global = !train && n - index * G < G ? n - index * G : G;
    assert_int_equal(s->index, index);
    assert_int_equal(s->global_rows, global);
    int64_t most = (global + cfg->size - 1) / cfg->size; // rows of the fullest rank
    assert_int_equal(s->n_micro, (most + cfg->micro_batch - 1) / cfg->micro_batch);
    oht_masking masking = oht_masking_of(info, P_MASK);
    for (int64_t m = 0; m < s->n_micro; m++) {
        const oht_batch *b = &s->micro[m];
        assert_in_range(b->rows, 0, cfg->micro_batch);
        assert_int_equal(b->stride, cfg->size);
        assert_int_equal(b->sample0, cfg->rank + m * cfg->micro_batch * cfg->size);
        int64_t picked = 0, counted = 0;
        for (int64_t j = 0; j < b->rows; j++, local++) {
            int64_t sample = b->sample0 + j * b->stride;
            assert_in_range(sample, 0, global - 1);
            int64_t row = train ? oht_order(1000, n, index * G + sample) : index * G + sample;
            assert_int_equal(s->row_id[local], row);
            int32_t tokens[T], label[T], position[T];
            for (int t = 0; t < T; t++) tokens[t] = token_at(info, cfg->split, row, t);
            int64_t length = length_of_row(info, row);
            if (info->padded)
                for (int t = 0; t < T; t++)
                    assert_int_equal(oht_batch_u8(b, OHT_FIELD_MASK)[j * T + t], t < length);
            if (info->mlm) {
                oht_mask_key key =
                    train ? oht_mask_key_train(1000, index, sample) : oht_mask_key_evaluation(5, row);
                int64_t k = oht_mask_row(&masking, key, tokens, T, (int32_t)(j * T), label, position);
                assert_in_range(picked + k, 0, b->picked);
                assert_memory_equal(oht_batch_i32(b, OHT_FIELD_LABELS) + picked, label,
                                    (size_t)k * sizeof(*label));
                assert_memory_equal(oht_batch_i32(b, OHT_FIELD_POSITIONS) + picked, position,
                                    (size_t)k * sizeof(*position));
                picked += k;
                counted += k;
            } else
                for (int t = 0; t < T; t++) {
                    int32_t next = t + 1 < length ? tokens[t + 1] : -1;
                    assert_int_equal(oht_batch_i32(b, OHT_FIELD_LABELS)[j * T + t], next);
                    counted += next >= 0;
                }
            assert_memory_equal(oht_batch_i32(b, OHT_FIELD_TOKENS) + j * T, tokens, sizeof(tokens));
        }
        assert_true(info->padded || !b->field[OHT_FIELD_MASK].data);
        assert_true(info->mlm || !b->field[OHT_FIELD_POSITIONS].data);
        size_t cells = (size_t)(b->rows * T) * sizeof(int32_t);
        assert_int_equal(b->field[OHT_FIELD_TOKENS].bytes, cells);
        assert_int_equal(b->field[OHT_FIELD_LABELS].bytes,
                         info->mlm ? (size_t)picked * sizeof(int32_t) : cells);
        assert_int_equal(b->picked, picked);
        assert_int_equal(b->n_labels, counted);
        labels += counted;
    }
    assert_int_equal(s->rows, local);
    assert_int_equal(s->n_labels, labels);
    return labels;
}
