// Time series through the loader: each sample is its window, epochs end with a short batch, every window comes once an epoch,
// and ranks and micro-batches do not matter. Also epochs of the other kinds of data.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "oht/data.h"
#include "oht/log.h"
#include "oht/series.h"
#include "tiny.h"

static oht_comm *comm;
static char folder[256], path[320], text[320];

static int set_up(void **state) {
    (void)state;
    int argc = 0;
    char **argv = NULL;
    if (oht_comm_init(&argc, &argv, &comm) != OHT_OK) return 1;
    oht_log_init(0, true, "lines");
    tiny_folder(folder);
    snprintf(path, sizeof(path), "%s/series.h5", folder);
    snprintf(text, sizeof(text), "%s/text.h5", folder);
    return tiny_series(comm, path) != OHT_OK || tiny_text(text, false, false, 50, 5) != OHT_OK;
}
static int tear_down(void **state) {
    (void)state;
    tiny_remove(folder);
    oht_comm_finalize(comm);
    return 0;
}

static oht_loader_config loader_config(const oht_config *cfg, oht_split split, int64_t G, int64_t micro, int rank, int size) {
    return (oht_loader_config){.split = split,
                               .task = OHT_TASK_SERIES,
                               .seed = 1000,
                               .global_batch = G,
                               .micro_batch = micro,
                               .rank = rank,
                               .size = size,
                               .config = cfg};
}

// Every value of every sample of a step against the file; marks the windows that were seen.
static void check_step(const oht_step_batch *b, const oht_series *s, const oht_loader_config *lc, int *seen) {
    int64_t M = s->columns, T = lc->config->model.input, U = lc->config->model.horizon, local = 0;
    for (int64_t m = 0; m < b->n_micro; m++) {
        const oht_batch *mb = &b->micro[m];
        assert_int_equal(mb->n_labels, mb->rows * U * M);
        assert_int_equal(mb->field[OHT_FIELD_SERIES].bytes, (size_t)(mb->rows * T * M) * sizeof(float));
        for (int64_t j = 0; j < mb->rows; j++, local++) {
            int64_t k = b->row_id[local], sample = mb->sample0 + j * mb->stride;
            assert_in_range(sample, 0, b->global_rows - 1);
            assert_in_range(k, 0, oht_series_windows(s, (oht_series_split)lc->split, T, U) - 1);
            seen[k]++;
            const float *row = s->value + oht_series_window_row(s, (oht_series_split)lc->split, T, k) * M;
            assert_memory_equal(oht_batch_f32(mb, OHT_FIELD_SERIES) + j * T * M, row, (size_t)(T * M) * sizeof(float));
            assert_memory_equal(oht_batch_f32(mb, OHT_FIELD_TARGETS) + j * U * M, row + T * M, (size_t)(U * M) * sizeof(float));
        }
    }
    assert_int_equal(local, b->rows);
}

static void epochs_have_every_window_once(void **state) {
    (void)state;
    oht_config cfg;
    oht_series *s;
    tiny_series_config(&cfg, path);
    OK(oht_series_open(&s, path));
    static const int64_t LAYOUT[][3] = {{11, 3, 1}, {11, 3, 2}, {11, 2, 4}, {77, 5, 3}, {78, 100, 2}, {500, 7, 2}, {1, 1, 2}};
    for (size_t i = 0; i < sizeof(LAYOUT) / sizeof(LAYOUT[0]); i++) {
        int64_t G = LAYOUT[i][0], E = oht_epoch_steps(78, G, false);
        assert_int_equal(E, (78 + G - 1) / G);
        int size = (int)LAYOUT[i][2], seen[3][78] = {{0}};
        int64_t order[2][78] = {{0}};
        for (int rank = 0; rank < size; rank++) {
            oht_loader_config lc = loader_config(&cfg, OHT_SPLIT_TRAIN, G, LAYOUT[i][1], rank, size);
            lc.epoch_steps = E;
            lc.count = 3 * E;
            oht_loader *l;
            const oht_step_batch *b;
            OK(oht_loader_create(&l, path, &lc));
            for (int64_t step = 0; step < 3 * E; step++) {
                OK(oht_loader_next(l, &b));
                assert_non_null(b);
                assert_int_equal(b->index, step);
                assert_int_equal(b->global_rows, step % E == E - 1 ? 78 - (E - 1) * G : G);
                check_step(b, s, &lc, seen[step / E]);
                for (int64_t j = 0; j < b->rows && step < 2 * E; j++) order[step / E][step % E * G + rank + j * size] = b->row_id[j];
            }
            OK(oht_loader_next(l, &b));
            assert_null(b);
            oht_loader_destroy(l);
        }
        for (int e = 0; e < 3; e++)
            for (int k = 0; k < 78; k++) assert_int_equal(seen[e][k], 1);
        assert_int_not_equal(memcmp(order[0], order[1], sizeof(order[0])), 0);
        for (int64_t k = 0; k < 78; k++) assert_int_equal(order[0][k], oht_order_whole(1000, 78, k)); // however it is dealt
    }
    oht_series_close(s);
}

// A loader that starts in the middle of an epoch goes on as one that came there.
static void resumes_inside_an_epoch(void **state) {
    (void)state;
    oht_config cfg;
    tiny_series_config(&cfg, path);
    oht_loader_config lc = loader_config(&cfg, OHT_SPLIT_TRAIN, 11, 3, 1, 2);
    lc.epoch_steps = 8;
    lc.count = 24;
    oht_loader *whole, *part;
    OK(oht_loader_create(&whole, path, &lc));
    lc.first = 13;
    lc.count = 11;
    OK(oht_loader_create(&part, path, &lc));
    const oht_step_batch *a, *b;
    for (int i = 0; i < 13; i++) OK(oht_loader_next(whole, &a));
    for (int i = 13; i < 24; i++) {
        OK(oht_loader_next(whole, &a));
        OK(oht_loader_next(part, &b));
        assert_int_equal(a->rows, b->rows);
        assert_int_equal(a->index, b->index);
        assert_memory_equal(a->row_id, b->row_id, (size_t)a->rows * sizeof(int64_t));
    }
    oht_loader_destroy(whole);
    oht_loader_destroy(part);
}

static void dropped_batches(void **state) {
    (void)state;
    oht_config cfg;
    tiny_series_config(&cfg, path);
    assert_int_equal(oht_epoch_steps(78, 11, true), 7);
    assert_int_equal(oht_epoch_steps(78, 78, true), 1);
    assert_int_equal(oht_epoch_steps(78, 79, true), 0);
    oht_loader_config lc = loader_config(&cfg, OHT_SPLIT_TRAIN, 11, 3, 0, 1);
    lc.epoch_steps = 7;
    lc.count = 14;
    oht_loader *l;
    const oht_step_batch *b;
    OK(oht_loader_create(&l, path, &lc));
    for (int64_t step = 0; step < 14; step++) {
        OK(oht_loader_next(l, &b));
        assert_int_equal(b->global_rows, 11);
        assert_int_equal(b->row_id[0], oht_order_whole(1000, 78, step / 7 * 78 + step % 7 * 11)); // the next epoch starts afresh
    }
    oht_loader_destroy(l);
    lc.epoch_steps = 9; // more than an epoch has
    assert_int_equal(oht_loader_create(&l, path, &lc), OHT_INTERNAL);
}

static void validation_and_test_in_order(void **state) {
    (void)state;
    oht_config cfg;
    oht_series *s;
    tiny_series_config(&cfg, path);
    OK(oht_series_open(&s, path));
    for (int split = OHT_SPLIT_VALIDATION; split <= OHT_SPLIT_TEST; split++)
        for (int rank = 0; rank < 2; rank++) {
            oht_loader_config lc = loader_config(&cfg, (oht_split)split, 9, 2, rank, 2);
            oht_loader *l;
            const oht_step_batch *b;
            int seen[28] = {0};
            OK(oht_loader_create(&l, path, &lc));
            for (int64_t step = 0; step < 4; step++) {
                OK(oht_loader_next(l, &b));
                assert_int_equal(b->global_rows, step < 3 ? 9 : 1);
                for (int64_t j = 0; j < b->rows; j++) assert_int_equal(b->row_id[j], 9 * step + rank + 2 * j);
                check_step(b, s, &lc, seen);
            }
            OK(oht_loader_next(l, &b));
            assert_null(b);
            oht_loader_destroy(l);
        }
    oht_series_close(s);
}

// Text, too, can be read in epochs.
static void epochs_of_text(void **state) {
    (void)state;
    int seen[50] = {0};
    for (int rank = 0; rank < 3; rank++) {
        oht_loader_config lc = {.split = OHT_SPLIT_TRAIN, .task = OHT_TASK_CLM, .seed = 3, .global_batch = 8, .micro_batch = 2,
                                .count = 14, .epoch_steps = 7, .rank = rank, .size = 3};
        oht_loader *l;
        const oht_step_batch *b;
        OK(oht_loader_create(&l, text, &lc));
        for (int64_t step = 0; step < 14; step++) {
            OK(oht_loader_next(l, &b));
            assert_int_equal(b->global_rows, step % 7 == 6 ? 2 : 8);
            for (int64_t j = 0; j < b->rows; j++) seen[b->row_id[j]]++;
        }
        oht_loader_destroy(l);
        lc.split = OHT_SPLIT_TEST;
        assert_int_equal(oht_loader_create(&l, text, &lc), OHT_DATA);
    }
    for (int k = 0; k < 50; k++) assert_int_equal(seen[k], 2);
}

static void what_does_not_fit(void **state) {
    (void)state;
    static const struct {
        int64_t series, input, horizon;
        const char *says;
    } BAD[] = {{4, 10, 3, "model.series=3"},
               {3, 88, 3, "training split of 90 rows"},
               {3, 10, 31, "validation split of 30 rows"},
               {3, 91, 1, "training split"}};
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        oht_config cfg;
        oht_data_info info;
        tiny_series_config(&cfg, path);
        cfg.model.series = BAD[i].series;
        cfg.model.input = BAD[i].input;
        cfg.model.horizon = BAD[i].horizon;
        OK(oht_data_describe(&info, path));
        assert_int_equal(info.task, OHT_TASK_SERIES);
        assert_int_equal(oht_data_fit(&info, &cfg), OHT_DATA);
        if (!strstr(oht_error_last()->text, BAD[i].says)) fail_msg("case %zu: %s", i, oht_error_last()->text);
        oht_loader *l;
        oht_loader_config lc = loader_config(&cfg, OHT_SPLIT_TRAIN, 4, 4, 0, 1);
        lc.count = 1;
        assert_int_equal(oht_loader_create(&l, path, &lc), OHT_DATA);
    }
    oht_config cfg; // the longest windows that fit
    oht_data_info info;
    tiny_series_config(&cfg, path);
    cfg.model.input = 61;
    cfg.model.horizon = 30;
    OK(oht_data_describe(&info, path));
    assert_int_equal(oht_data_fit(&info, &cfg), OHT_DATA);
    cfg.model.input = 60;
    OK(oht_data_fit(&info, &cfg));
    for (int i = 0; i < OHT_SPLITS; i++) assert_int_equal(info.rows[i], 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_have_every_window_once), cmocka_unit_test(resumes_inside_an_epoch),
        cmocka_unit_test(dropped_batches),               cmocka_unit_test(validation_and_test_in_order),
        cmocka_unit_test(epochs_of_text),                cmocka_unit_test(what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
