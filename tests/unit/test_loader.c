// The loader: the same samples, masks and labels for any number of ranks and any micro-batch, resume,
// evaluation order, hostile files, ending at any moment, no allocation per step.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/masking.h"
#include "data/text_file.h"
#include "oht/data.h"
#include "oht/memory.h"

enum { T = 12, VOCAB = 900, PAD = 0, CLS = 1, SEP = 2, MASK = 3 };
static const double P_MASK = 0.4; // enough masked tokens in short rows

static char folder[] = "/tmp/oht-loader-XXXXXX";

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static const oht_text_info plain = {.rows = {1000, 103},
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

// A file as `prepare` writes it, with one token changed if bad_row >= 0.
static void write_file(const char *path, const oht_text_info *info, oht_split bad_split, int64_t bad_row,
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

static const char *good_file(const char *name, const oht_text_info *info) {
    const char *path = path_of(name);
    write_file(path, info, OHT_SPLIT_TRAIN, -1, 0, 0);
    return path;
}

static oht_loader_config config(const oht_text_info *info, oht_split split, int64_t batch, int64_t micro,
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

// Checks everything in one rank's step against the definition; returns the labels that count.
static int64_t check_step(const oht_step_batch *s, const oht_text_info *info, const oht_loader_config *cfg,
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

// Runs all ranks of a configuration side by side.
static void check_run(const char *path, const oht_text_info *info, oht_loader_config cfg) {
    enum { MAX = 8 };
    oht_loader *loader[MAX];
    int64_t n = info->rows[cfg.split];
    for (cfg.rank = 0; cfg.rank < cfg.size; cfg.rank++)
        assert_int_equal(oht_loader_create(&loader[cfg.rank], path, &cfg), OHT_OK);
    int64_t end =
        cfg.split == OHT_SPLIT_TRAIN ? cfg.first + cfg.count : (n + cfg.global_batch - 1) / cfg.global_batch;
    const oht_step_batch *s;
    for (int64_t index = cfg.first; index < end; index++) {
        int64_t rows = 0;
        for (cfg.rank = 0; cfg.rank < cfg.size; cfg.rank++) {
            assert_int_equal(oht_loader_next(loader[cfg.rank], &s), OHT_OK);
            assert_non_null(s);
            (void)check_step(s, info, &cfg, index);
            rows += s->rows;
        }
        assert_int_equal(rows, s->global_rows);
    }
    for (cfg.rank = 0; cfg.rank < cfg.size; cfg.rank++) {
        for (int again = 0; again < 2; again++) {
            assert_int_equal(oht_loader_next(loader[cfg.rank], &s), OHT_OK);
            assert_null(s);
        }
        assert_true(oht_loader_wait_s(loader[cfg.rank]) >= 0.0);
        oht_loader_destroy(loader[cfg.rank]);
    }
}

static void any_ranks_any_micro_batch(void **state) {
    (void)state;
    oht_text_info kinds[4] = {plain, plain, plain, plain};
    kinds[1].padded = true;
    kinds[2].mlm = false;
    kinds[2].mask_id = kinds[2].cls_id = kinds[2].sep_id = -1;
    kinds[3] = kinds[2];
    kinds[3].padded = true;
    for (int kind = 0; kind < 4; kind++) {
        const char *path = good_file("kinds.h5", &kinds[kind]);
        const int sizes[] = {1, 2, 3, 4, 7};
        const int64_t micros[] = {1, 5, 24, 100};
        for (size_t p = 0; p < sizeof(sizes) / sizeof(*sizes); p++)
            for (size_t m = 0; m < sizeof(micros) / sizeof(*micros); m++) {
                check_run(path, &kinds[kind],
                          config(&kinds[kind], OHT_SPLIT_TRAIN, 24, micros[m], 0, sizes[p]));
                check_run(path, &kinds[kind],
                          config(&kinds[kind], OHT_SPLIT_VALIDATION, 24, micros[m], 0, sizes[p]));
            }
    }
}

static void batches_smaller_and_larger_than_all(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.rows[0] = 3; // an epoch is shorter than a batch
    info.rows[1] = 2;
    const char *path = good_file("few.h5", &info);
    check_run(path, &info, config(&info, OHT_SPLIT_TRAIN, 8, 3, 0, 4));
    check_run(path, &info, config(&info, OHT_SPLIT_VALIDATION, 8, 3, 0, 4)); // two ranks without a row
    check_run(path, &info, config(&info, OHT_SPLIT_TRAIN, 2, 1, 0, 4));
    info.rows[0] = info.rows[1] = 1;
    path = good_file("one.h5", &info);
    check_run(path, &info, config(&info, OHT_SPLIT_TRAIN, 1, 1, 0, 2));
    check_run(path, &info, config(&info, OHT_SPLIT_VALIDATION, 1, 1, 0, 2));
    info.rows[0] = 9000; // three windows; batches that span two
    info.rows[1] = 0;
    path = good_file("many.h5", &info);
    oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 3000, 256, 0, 2);
    cfg.count = 7;
    check_run(path, &info, cfg);
}

// Steps that begin in the middle are those of the run that began at 0 (check_run compares with the
// definition).
static void resumes_in_the_middle(void **state) {
    (void)state;
    const char *path = good_file("resume.h5", &plain);
    oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 24, 7, 0, 2);
    cfg.first = 41;
    cfg.count = 13;
    check_run(path, &plain, cfg);
    cfg.count = 0; // nothing left to do
    check_run(path, &plain, cfg);
    cfg.first = 1000000;
    cfg.count = 3;
    check_run(path, &plain, cfg);
    oht_loader *loader; // evaluation: some batches of the file only
    const oht_step_batch *s;
    cfg = config(&plain, OHT_SPLIT_VALIDATION, 24, 7, 0, 1);
    cfg.first = 3;
    cfg.count = 100;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    for (int64_t index = 3; index < 5; index++) {
        assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
        check_step(s, &plain, &cfg, index);
    }
    assert_int_equal(s->rows, 103 - 4 * 24);
    assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
    assert_null(s);
    oht_loader_destroy(loader);
}

// Evaluation masks belong to the row, not to the batch: other batch sizes give the same masked tokens.
static void evaluation_masks_belong_to_rows(void **state) {
    (void)state;
    const char *path = good_file("evalmask.h5", &plain);
    static int32_t all[2][103][T];
    for (int run = 0; run < 2; run++) {
        oht_loader_config cfg = config(&plain, OHT_SPLIT_VALIDATION, run ? 9 : 50, 4, 0, 1);
        cfg.seed = run ? 77 : 1; // the training seed does not matter
        oht_loader *loader;
        const oht_step_batch *s;
        assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
        for (;;) {
            assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
            if (!s) break;
            int64_t local = 0;
            for (int64_t m = 0; m < s->n_micro; m++)
                for (int64_t j = 0; j < s->micro[m].rows; j++)
                    memcpy(all[run][s->row_id[local++]],
                           oht_batch_i32(&s->micro[m], OHT_FIELD_TOKENS) + j * T, sizeof(all[0][0]));
        }
        oht_loader_destroy(loader);
    }
    assert_memory_equal(all[0], all[1], sizeof(all[0]));
}

static void nothing_to_predict_is_fine(void **state) {
    (void)state;
    const char *path = good_file("none.h5", &plain);
    oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 3, 0, 1);
    cfg.mlm_probability = 0.0;
    oht_loader *loader;
    const oht_step_batch *s;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
    assert_int_equal(s->n_labels, 0);
    for (int64_t m = 0; m < s->n_micro; m++) assert_int_equal(s->micro[m].picked, 0);
    assert_int_equal(s->rows, 8);
    oht_loader_destroy(loader);
}

static void no_allocation_per_step(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.padded = true;
    info.rows[0] = 9000;
    const char *path = good_file("alloc.h5", &info);
    oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 100, 30, 0, 1);
    cfg.count = 300;
    oht_loader *loader;
    const oht_step_batch *s;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
    uint64_t before = oht_alloc_count();
    for (int i = 0; i < 299; i++) assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
    assert_non_null(s);
    assert_int_equal(oht_alloc_count(), before);
    oht_loader_destroy(loader);
}

static void destroy_at_any_moment(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.rows[0] = 9000;
    const char *path = good_file("destroy.h5", &info);
    for (int steps = 0; steps < 6; steps++)
        for (int again = 0; again < 20; again++) {
            oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 500, 100, 0, 1);
            cfg.count = steps == 5 ? 5 : 1000;
            oht_loader *loader;
            const oht_step_batch *s;
            assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
            for (int i = 0; i < steps; i++) assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
            oht_loader_destroy(loader);
        }
    oht_loader_destroy(NULL);
}

// Reports and checkpoints are written by the main thread while the loader's thread reads.
static void main_thread_uses_hdf5_too(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.rows[0] = 9000;
    char path[128];
    snprintf(path, sizeof(path), "%s", good_file("busy.h5", &info));
    oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 200, 100, 0, 1);
    cfg.count = 40;
    oht_loader *loader;
    const oht_step_batch *s;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    for (int64_t i = 0; i < cfg.count; i++) {
        assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
        check_step(s, &info, &cfg, i);
        if (i % 4 == 0) (void)good_file("busy-too.h5", &plain);
    }
    oht_loader_destroy(loader);
}

// ---- hostile files ----

static void expect_failure(const char *path, const oht_loader_config *cfg, oht_status code, const char *part,
                           const char *part2) {
    oht_loader *loader = (oht_loader *)1;
    assert_int_equal(oht_loader_create(&loader, path, cfg), code);
    assert_null(loader);
    const char *text = oht_error_last()->text;
    if (!strstr(text, path) || !strstr(text, part) || !strstr(text, part2)) fail_msg("message: %s", text);
}

static void id_out_of_the_vocabulary(void **state) {
    (void)state;
    const uint32_t ids[] = {VOCAB, 65535, 70000, 4000000000u};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
        oht_text_info info = plain;
        info.rows[1] = 1000;
        const char *path = path_of("id.h5");
        write_file(path, &info, OHT_SPLIT_VALIDATION, 700, 3, ids[i]);
        oht_loader_config cfg = config(&info, OHT_SPLIT_VALIDATION, 64, 64, 0, 1);
        oht_loader *loader;
        const oht_step_batch *s;
        assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
        for (int64_t index = 0; index < 8; index++) { // the good blocks before the bad one, rows 0 to 511
            assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
            check_step(s, &info, &cfg, index);
        }
        char expected[64];
        snprintf(expected, sizeof(expected), "holds id %u at row 700, column 3", ids[i]);
        for (int again = 0; again < 2; again++) { // the error stays
            assert_int_equal(oht_loader_next(loader, &s), OHT_DATA);
            assert_null(s);
            assert_int_equal(oht_error_last()->code, OHT_DATA);
            assert_non_null(strstr(oht_error_last()->text, expected));
            assert_non_null(strstr(oht_error_last()->text, path));
            assert_non_null(strstr(oht_error_last()->text, "/validation/tokens"));
            assert_non_null(strstr(oht_error_last()->text, "\nfix: "));
        }
        oht_loader_destroy(loader);
        // Never asked for: the thread fails, nobody calls next.
        assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
        oht_loader_destroy(loader);
    }
}

static void wrong_kind_or_split(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.rows[1] = 0;
    const char *path = good_file("kind.h5", &info);
    oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    cfg.task = OHT_TASK_CLM;
    expect_failure(path, &cfg, OHT_DATA, "kind mlm", "fix: set model.type=bert");
    cfg = config(&info, OHT_SPLIT_VALIDATION, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "/validation/tokens", "fix: ");
    info.mlm = false;
    path = good_file("kind.h5", &info);
    cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "kind clm", "fix: set model.type=opt");
}

static void impossible_batches(void **state) {
    (void)state;
    const char *path = good_file("batch.h5", &plain);
    oht_loader *loader;
    oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    cfg.micro_batch = INT32_MAX / T + 1;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.micro_batch = 8;
    cfg.count = INT64_MAX / 8 + 1;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.count = 1;
    cfg.global_batch = INT64_C(1) << 31;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.global_batch = 0;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_INTERNAL);
    assert_null(loader);
}

static void cut(const char *from, const char *to, long bytes) {
    static char buffer[1 << 20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    size_t n = fread(buffer, 1, bytes < (long)sizeof(buffer) ? (size_t)bytes : sizeof(buffer), in);
    assert_int_equal(fwrite(buffer, 1, n, out), n);
    fclose(in);
    fclose(out);
}

static void truncated_empty_or_foreign(void **state) {
    (void)state;
    char whole[128], part[128];
    snprintf(whole, sizeof(whole), "%s", good_file("whole.h5", &plain));
    snprintf(part, sizeof(part), "%s", path_of("part.h5"));
    struct stat info;
    assert_int_equal(stat(whole, &info), 0);
    oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    for (int i = 0; i < 40; i++) {
        cut(whole, part, (long)info.st_size * i / 40);
        expect_failure(part, &cfg, OHT_DATA, "", "");
    }
    cut(whole, part, (long)info.st_size - 1);
    expect_failure(part, &cfg, OHT_DATA, "", "");
    FILE *text = fopen(part, "w");
    for (int i = 0; i < 1000; i++) fputs("plain words\n", text);
    fclose(text);
    expect_failure(part, &cfg, OHT_DATA, "", "");
    expect_failure(path_of("missing.h5"), &cfg, OHT_IO, "", "");
}

// Every flipped byte is found, at the start or while reading, or changes nothing that is read.
static void flipped_bytes(void **state) {
    (void)state;
    oht_text_info info = plain;
    info.rows[0] = 300;
    char whole[128], bad[128];
    snprintf(whole, sizeof(whole), "%s", good_file("flip.h5", &info));
    snprintf(bad, sizeof(bad), "%s", path_of("flipped.h5"));
    struct stat file;
    assert_int_equal(stat(whole, &file), 0);
    int found = 0;
    for (int i = 0; i < 150; i++) {
        cut(whole, bad, (long)file.st_size);
        FILE *f = fopen(bad, "r+b");
        long at = (long)((uint64_t)i * 2654435761u % (uint64_t)file.st_size);
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ (1 << i % 8), f);
        fclose(f);
        oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 50, 50, 0, 1);
        cfg.count = 6;
        oht_loader *loader;
        const oht_step_batch *s;
        oht_status status = oht_loader_create(&loader, bad, &cfg);
        for (int64_t index = 0; status == OHT_OK && index < 6; index++) {
            status = oht_loader_next(loader, &s);
            if (status == OHT_OK) check_step(s, &info, &cfg, index);
        }
        found += status != OHT_OK;
        assert_true(status == OHT_OK || status == OHT_DATA);
        oht_loader_destroy(loader);
    }
    assert_in_range(found, 50, 150); // token bytes are most of the file
}

typedef struct hostile {
    const char *name, *expected;
    oht_text_info info;
    const char *text, *value; // a text attribute written over
    const char *number;
    int64_t is;
    oht_h5_shape shape; // of /train/tokens, when rank > 0
} hostile;

static void attributes_that_lie(void **state) {
    (void)state;
    const hostile cases[] = {
        {.name = "format",
         .expected = "not a text file of ohtrain",
         .text = "format",
         .value = "ohtrain-images"},
        {.name = "version", .expected = "format_version is 2", .number = "format_version", .is = 2},
        {.name = "kind", .expected = "kind is 'both'", .text = "kind", .value = "both"},
        {.name = "vocabulary", .expected = "vocab_size is 0", .number = "vocab_size", .is = 0},
        {.name = "negative", .expected = "vocab_size is -5", .number = "vocab_size", .is = -5},
        {.name = "huge",
         .expected = "vocab_size is 4294967296",
         .number = "vocab_size",
         .is = INT64_C(1) << 32},
        {.name = "block",
         .expected = "rows of 12 tokens, attribute block_size says 128",
         .number = "block_size",
         .is = 128},
        {.name = "mask id", .expected = "mask_id is 900", .number = "mask_id", .is = VOCAB},
        {.name = "no mask id", .expected = "mask_id is -1", .number = "mask_id", .is = -1},
        {.name = "pad id", .expected = "pad_id is -2", .number = "pad_id", .is = -2},
        {.name = "padded", .expected = "padded is 7", .number = "padded", .is = 7},
        {.name = "floats", .expected = "/train/tokens", .shape = {OHT_H5_F32, 2, {8, T}, {0}}},
        {.name = "signed", .expected = "/train/tokens", .shape = {OHT_H5_I32, 2, {8, T}, {0}}},
        {.name = "bytes", .expected = "/train/tokens", .shape = {OHT_H5_U8, 2, {8, T}, {0}}},
        {.name = "vector", .expected = "/train/tokens", .shape = {OHT_H5_U16, 1, {8 * T}, {0}}},
        {.name = "cube", .expected = "/train/tokens", .shape = {OHT_H5_U16, 3, {8, T, 1}, {0}}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const hostile *c = &cases[i];
        const char *path = path_of("lie.h5");
        oht_h5 *file;
        assert_int_equal(oht_h5_create(&file, path), OHT_OK);
        assert_int_equal(oht_text_write_info(file, &plain), OHT_OK);
        if (c->text) assert_int_equal(oht_h5_set_text(file, "/", c->text, c->value), OHT_OK);
        if (c->number) assert_int_equal(oht_h5_set_int(file, "/", c->number, c->is), OHT_OK);
        oht_h5_shape shape = {OHT_H5_U16, 2, {8, T}, {0}};
        if (c->shape.rank) shape = c->shape;
        static const double zeros[8 * T];
        assert_int_equal(oht_h5_make(file, "/train/tokens", &shape, false, false), OHT_OK);
        assert_int_equal(oht_h5_write(file, "/train/tokens", 0, shape.dim[0], shape.type, zeros), OHT_OK);
        assert_int_equal(oht_h5_commit(file), OHT_OK);
        oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
        expect_failure(path, &cfg, OHT_DATA, c->expected, "");
    }
    // Nothing at all inside.
    const char *path = path_of("hollow.h5");
    oht_h5 *file;
    assert_int_equal(oht_h5_create(&file, path), OHT_OK);
    assert_int_equal(oht_text_write_info(file, &plain), OHT_OK);
    assert_int_equal(oht_h5_commit(file), OHT_OK);
    oht_loader_config cfg = config(&plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "neither /train/tokens nor /validation/tokens", "fix: ");
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

// Masked positions are packed by micro-batch and rank; the hash of a step does not see that.
static void step_hash_ignores_ranks_and_micro_batches(void **state) {
    (void)state;
    for (int mlm = 0; mlm < 2; mlm++) {
        oht_text_info info = plain;
        info.mlm = mlm;
        const char *path = good_file("hash.h5", &info);
        uint64_t sum[3][60] = {{0}};
        const int how[3][2] = {{1, 14}, {3, 2}, {4, 1}}; // ranks, micro-batch
        for (int k = 0; k < 3; k++)
            for (int rank = 0; rank < how[k][0]; rank++) {
                oht_loader_config cfg = config(&info, OHT_SPLIT_TRAIN, 14, how[k][1], rank, how[k][0]);
                oht_loader *loader;
                const oht_step_batch *s;
                assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
                while (oht_loader_next(loader, &s) == OHT_OK && s) sum[k][s->index] += oht_step_hash(s);
                oht_loader_destroy(loader);
            }
        assert_memory_equal(sum[0], sum[1], sizeof(sum[0]));
        assert_memory_equal(sum[0], sum[2], sizeof(sum[0]));
        for (int i = 1; i < 60; i++) assert_true(sum[0][i] != sum[0][i - 1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_ranks_any_micro_batch),
        cmocka_unit_test(batches_smaller_and_larger_than_all),
        cmocka_unit_test(resumes_in_the_middle),
        cmocka_unit_test(evaluation_masks_belong_to_rows),
        cmocka_unit_test(nothing_to_predict_is_fine),
        cmocka_unit_test(no_allocation_per_step),
        cmocka_unit_test(destroy_at_any_moment),
        cmocka_unit_test(main_thread_uses_hdf5_too),
        cmocka_unit_test(id_out_of_the_vocabulary),
        cmocka_unit_test(wrong_kind_or_split),
        cmocka_unit_test(impossible_batches),
        cmocka_unit_test(truncated_empty_or_foreign),
        cmocka_unit_test(flipped_bytes),
        cmocka_unit_test(attributes_that_lie),
        cmocka_unit_test(step_hash_ignores_ranks_and_micro_batches),
    };
    return cmocka_run_group_tests_name("loader", tests, make_folder, remove_folder);
}
