// The loader: the same samples, masks and labels for any number of ranks and any micro-batch, resume, evaluation order,
// ending at any moment, no allocation per step. What it refuses: test_loader_hostile.c.
#include <stdio.h>
#include <stdlib.h>

#include "loader_test.h"
#include "oht/memory.h"

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
            (void)lt_check_step(s, info, &cfg, index);
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
    oht_text_info kinds[4] = {lt_plain, lt_plain, lt_plain, lt_plain};
    kinds[1].padded = true;
    kinds[2].mlm = false;
    kinds[2].mask_id = kinds[2].cls_id = kinds[2].sep_id = -1;
    kinds[3] = kinds[2];
    kinds[3].padded = true;
    for (int kind = 0; kind < 4; kind++) {
        const char *path = lt_file("kinds.h5", &kinds[kind]);
        const int sizes[] = {1, 2, 3, 4, 7};
        const int64_t micros[] = {1, 5, 24, 100};
        for (size_t p = 0; p < sizeof(sizes) / sizeof(*sizes); p++)
            for (size_t m = 0; m < sizeof(micros) / sizeof(*micros); m++) {
                check_run(path, &kinds[kind],
                          lt_config(&kinds[kind], OHT_SPLIT_TRAIN, 24, micros[m], 0, sizes[p]));
                check_run(path, &kinds[kind],
                          lt_config(&kinds[kind], OHT_SPLIT_VALIDATION, 24, micros[m], 0, sizes[p]));
            }
    }
}

static void batches_smaller_and_larger_than_all(void **state) {
    (void)state;
    oht_text_info info = lt_plain;
    info.rows[0] = 3; // an epoch is shorter than a batch
    info.rows[1] = 2;
    const char *path = lt_file("few.h5", &info);
    check_run(path, &info, lt_config(&info, OHT_SPLIT_TRAIN, 8, 3, 0, 4));
    check_run(path, &info, lt_config(&info, OHT_SPLIT_VALIDATION, 8, 3, 0, 4)); // two ranks without a row
    check_run(path, &info, lt_config(&info, OHT_SPLIT_TRAIN, 2, 1, 0, 4));
    info.rows[0] = info.rows[1] = 1;
    path = lt_file("one.h5", &info);
    check_run(path, &info, lt_config(&info, OHT_SPLIT_TRAIN, 1, 1, 0, 2));
    check_run(path, &info, lt_config(&info, OHT_SPLIT_VALIDATION, 1, 1, 0, 2));
    info.rows[0] = 9000; // three windows; batches that span two
    info.rows[1] = 0;
    path = lt_file("many.h5", &info);
    oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 3000, 256, 0, 2);
    cfg.count = 7;
    check_run(path, &info, cfg);
}

// Steps that begin in the middle are those of the run that began at 0 (check_run compares with the
// definition).
static void resumes_in_the_middle(void **state) {
    (void)state;
    const char *path = lt_file("resume.h5", &lt_plain);
    oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 24, 7, 0, 2);
    cfg.first = 41;
    cfg.count = 13;
    check_run(path, &lt_plain, cfg);
    cfg.count = 0; // nothing left to do
    check_run(path, &lt_plain, cfg);
    cfg.first = 1000000;
    cfg.count = 3;
    check_run(path, &lt_plain, cfg);
    oht_loader *loader; // evaluation: some batches of the file only
    const oht_step_batch *s;
    cfg = lt_config(&lt_plain, OHT_SPLIT_VALIDATION, 24, 7, 0, 1);
    cfg.first = 3;
    cfg.count = 100;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    for (int64_t index = 3; index < 5; index++) {
        assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
        lt_check_step(s, &lt_plain, &cfg, index);
    }
    assert_int_equal(s->rows, 103 - 4 * 24);
    assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
    assert_null(s);
    oht_loader_destroy(loader);
}

// Evaluation masks belong to the row, not to the batch: other batch sizes give the same masked tokens.
static void evaluation_masks_belong_to_rows(void **state) {
    (void)state;
    const char *path = lt_file("evalmask.h5", &lt_plain);
    static int32_t all[2][103][T];
    for (int run = 0; run < 2; run++) {
        oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_VALIDATION, run ? 9 : 50, 4, 0, 1);
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
    const char *path = lt_file("none.h5", &lt_plain);
    oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 3, 0, 1);
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
    oht_text_info info = lt_plain;
    info.padded = true;
    info.rows[0] = 9000;
    const char *path = lt_file("alloc.h5", &info);
    oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 100, 30, 0, 1);
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
    oht_text_info info = lt_plain;
    info.rows[0] = 9000;
    const char *path = lt_file("destroy.h5", &info);
    for (int steps = 0; steps < 6; steps++)
        for (int again = 0; again < 20; again++) {
            oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 500, 100, 0, 1);
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
    oht_text_info info = lt_plain;
    info.rows[0] = 9000;
    char path[128];
    snprintf(path, sizeof(path), "%s", lt_file("busy.h5", &info));
    oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 200, 100, 0, 1);
    cfg.count = 40;
    oht_loader *loader;
    const oht_step_batch *s;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    for (int64_t i = 0; i < cfg.count; i++) {
        assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
        lt_check_step(s, &info, &cfg, i);
        if (i % 4 == 0) (void)lt_file("busy-too.h5", &lt_plain);
    }
    oht_loader_destroy(loader);
}

// Masked positions are packed by micro-batch and rank; the hash of a step does not see that.
static void step_hash_ignores_ranks_and_micro_batches(void **state) {
    (void)state;
    for (int mlm = 0; mlm < 2; mlm++) {
        oht_text_info info = lt_plain;
        info.mlm = mlm;
        const char *path = lt_file("hash.h5", &info);
        uint64_t sum[3][60] = {{0}};
        const int how[3][2] = {{1, 14}, {3, 2}, {4, 1}}; // ranks, micro-batch
        for (int k = 0; k < 3; k++)
            for (int rank = 0; rank < how[k][0]; rank++) {
                oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 14, how[k][1], rank, how[k][0]);
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
        cmocka_unit_test(step_hash_ignores_ranks_and_micro_batches),
    };
    return cmocka_run_group_tests_name("loader", tests, lt_make_folder, lt_remove_folder);
}
