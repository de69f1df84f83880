// Masking: the shares of the spec, independence, purity, and tokens that must never be touched.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "data/masking.h"

enum { T = 128, ROWS = 4000, VOCAB = 30522, MASK = 103, CLS = 101, SEP = 102, PAD = 0, UNK = 100 };

static const oht_text_info bert = {.tokens = T,
                                   .vocab_size = VOCAB,
                                   .mlm = true,
                                   .pad_id = PAD,
                                   .mask_id = MASK,
                                   .cls_id = CLS,
                                   .sep_id = SEP,
                                   .bos_id = -1,
                                   .eos_id = -1};

// A row of ordinary tokens, with special ones at known places.
static void make_row(int32_t *row, int64_t seed) {
    for (int t = 0; t < T; t++) row[t] = (int32_t)(1000 + (seed * 131 + t * 17) % 20000);
    row[0] = CLS;
    row[40] = row[41] = SEP;
    row[42] = CLS;
    row[60] = MASK;
    row[70] = UNK;
    for (int t = 120; t < T; t++) row[t] = PAD;
}

static void assert_share(int64_t hits, int64_t n, double p) {
    assert_true(fabs((double)hits - (double)n * p) <= 4.5 * sqrt((double)n * p * (1 - p)));
}

static void shares_are_right(void **state) {
    (void)state;
    oht_masking m = oht_masking_of(&bert, 0.15);
    int64_t eligible = 0, picked = 0, masked = 0, random = 0, kept = 0, both = 0, pairs = 0, low = 0, unk = 0;
    static int64_t at[T];
    for (int64_t r = 0; r < ROWS; r++) {
        int32_t before[T], row[T], labels[T], positions[T];
        make_row(before, r);
        memcpy(row, before, sizeof(row));
        int64_t n =
            oht_mask_row(&m, oht_mask_key_train(1000, 7, r), row, T, (int32_t)(r * 128), labels, positions);
        assert_in_range(n, 0, T);
        bool chosen[T] = {false};
        for (int64_t i = 0; i < n; i++) {
            int64_t t = positions[i] - r * 128;
            assert_in_range(t, 0, T - 1);
            assert_true(i == 0 || positions[i] > positions[i - 1]); // in order, each once
            chosen[t] = true;
            at[t]++;
            assert_int_equal(labels[i], before[t]); // the label is the old id
            if (row[t] == MASK)
                masked++;
            else if (row[t] == before[t])
                kept++;
            else {
                random++;
                low += row[t] < VOCAB / 2;
                assert_in_range(row[t], 0, VOCAB - 1);
            }
        }
        picked += n;
        unk += chosen[70];
        for (int t = 0; t < T; t++) {
            bool special = before[t] == CLS || before[t] == SEP || before[t] == PAD || before[t] == MASK;
            eligible += !special;
            assert_false(special && chosen[t]);
            if (!chosen[t]) assert_int_equal(row[t], before[t]); // and nothing else is touched
        }
        for (int t = 1; t < 39; t++) pairs++, both += chosen[t] && chosen[t + 1];
    }
    assert_share(picked, eligible, 0.15);
    assert_share(masked, picked, 0.8);
    assert_share(random, picked, 0.1 * (1.0 - 1.0 / VOCAB)); // a random id is sometimes the old one
    assert_share(kept, picked, 0.1 * (1.0 + 1.0 / VOCAB));
    assert_share(low, random, 0.5);
    assert_share(both, pairs, 0.15 * 0.15); // neighbours are independent
    assert_share(unk, ROWS, 0.15); // [UNK] is an ordinary token
    for (int t = 1; t < 40; t++) assert_share(at[t], ROWS, 0.15); // every place alike
    assert_int_equal(at[0] + at[40] + at[41] + at[42] + at[60] + at[120] + at[127], 0);
}

// Same key: same result. Any other seed, step, sample, or evaluation instead of training: another one.
static void is_a_pure_function(void **state) {
    (void)state;
    oht_masking m = oht_masking_of(&bert, 0.15);
    const oht_mask_key keys[] = {
        oht_mask_key_train(1000, 7, 3),
        oht_mask_key_train(1001, 7, 3),
        oht_mask_key_train(1000 + (UINT64_C(1) << 32), 7, 3),
        oht_mask_key_train(1000, 8, 3),
        oht_mask_key_train(1000, 7, 4),
        oht_mask_key_train(1000, 0, 3),
        oht_mask_key_evaluation(1000, 3),
        oht_mask_key_evaluation(1001, 3),
        oht_mask_key_evaluation(1000, 3 + (INT64_C(1) << 32)),
    };
    enum { N = sizeof(keys) / sizeof(*keys) };
    int32_t row[N][T], labels[T], positions[T];
    for (int k = 0; k < N; k++) {
        make_row(row[k], 1);
        int64_t n = oht_mask_row(&m, keys[k], row[k], T, 0, labels, positions);
        int32_t again[T], labels2[T], positions2[T];
        make_row(again, 1);
        assert_int_equal(oht_mask_row(&m, keys[k], again, T, 0, labels2, positions2), n);
        assert_memory_equal(again, row[k], sizeof(again));
        assert_memory_equal(labels, labels2, (size_t)n * sizeof(*labels));
        assert_memory_equal(positions, positions2, (size_t)n * sizeof(*positions));
        for (int j = 0; j < k; j++) assert_memory_not_equal(row[j], row[k], sizeof(again));
    }
    // A longer row starts like a shorter one: the draw of a token depends on its index, not on T.
    int32_t part[T];
    make_row(part, 1);
    (void)oht_mask_row(&m, keys[0], part, 57, 0, labels, positions);
    assert_memory_equal(part, row[0], 57 * sizeof(*part));
}

static void extremes_work(void **state) {
    (void)state;
    int32_t row[T], before[T], labels[T], positions[T];
    oht_masking none = oht_masking_of(&bert, 0.0), all = oht_masking_of(&bert, 1.0);
    make_row(row, 5);
    memcpy(before, row, sizeof(row));
    assert_int_equal(oht_mask_row(&none, oht_mask_key_train(1, 1, 1), row, T, 0, labels, positions), 0);
    assert_memory_equal(row, before, sizeof(row));
    assert_int_equal(oht_mask_row(&all, oht_mask_key_train(1, 1, 1), row, T, 0, labels, positions), 120 - 5);
    for (int t = 0; t < T; t++) row[t] = PAD; // nothing to select
    assert_int_equal(oht_mask_row(&all, oht_mask_key_train(1, 1, 1), row, T, 0, labels, positions), 0);
    int32_t one = 2000;
    assert_int_equal(oht_mask_row(&all, oht_mask_key_train(1, 1, 1), &one, 1, 9, labels, positions), 1);
    assert_int_equal(positions[0], 9);
    oht_text_info plain = bert; // a tokenizer without special ids
    plain.pad_id = plain.cls_id = plain.sep_id = -1;
    all = oht_masking_of(&plain, 1.0);
    make_row(row, 5);
    assert_int_equal(oht_mask_row(&all, oht_mask_key_train(1, 1, 1), row, T, 0, labels, positions), T - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_right),
        cmocka_unit_test(is_a_pure_function),
        cmocka_unit_test(extremes_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
