// The training order: a bijection in every epoch, local, different each epoch and seed, evenly spread.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/data.h"

enum { BLOCK = 256, WINDOW = 4096 };

// Order of one epoch into row[]; asserts that it is a permutation.
static void epoch_of(uint64_t seed, int64_t n, int64_t epoch, int64_t *row) {
    unsigned char *seen = calloc((size_t)n, 1);
    for (int64_t i = 0; i < n; i++) {
        row[i] = oht_order(seed, n, epoch * n + i);
        assert_in_range(row[i], 0, n - 1);
        assert_false(seen[row[i]]);
        seen[row[i]] = 1;
    }
    free(seen);
}

static void is_a_bijection_and_local(void **state) {
    (void)state;
    const int64_t sizes[] = {1,    2,    3,    5,    255,  256,  257,  511,  512,   513,
                             1000, 4095, 4096, 4097, 4352, 4353, 8191, 8192, 12289, 100003};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
        int64_t n = sizes[s], blocks = (n + BLOCK - 1) / BLOCK;
        int64_t *row = malloc((size_t)n * sizeof(*row));
        int64_t *last_use = malloc((size_t)blocks * sizeof(*last_use));
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            epoch_of(1000, n, epoch, row);
            // A reader that keeps 16 blocks and drops the one not used for longest reads every block exactly
            // once.
            int64_t kept[16], n_kept = 0, reads = 0;
            for (int64_t b = 0; b < blocks; b++) last_use[b] = -1;
            for (int64_t i = 0; i < n; i++) {
                int64_t b = row[i] / BLOCK, found = -1, oldest = 0;
                for (int64_t k = 0; k < n_kept; k++) {
                    if (kept[k] == b) found = k;
                    if (last_use[kept[k]] < last_use[kept[oldest]]) oldest = k;
                }
                if (found < 0) {
                    reads++;
                    kept[n_kept < 16 ? n_kept++ : oldest] = b;
                }
                last_use[b] = i;
            }
            assert_int_equal(reads, blocks);
        }
        free(row);
        free(last_use);
    }
}

static void mixes_rows_of_a_window(void **state) {
    (void)state;
    enum { n = 3 * WINDOW };
    static int64_t row[n];
    epoch_of(7, n, 0, row);
    for (int w = 0; w < 3;
         w++) { // neighbours in the order come from all blocks of the window: 16 runs would be no mixing
        int same = 0, ascending = 0;
        for (int i = 1; i < WINDOW; i++) {
            same += row[w * WINDOW + i] / BLOCK == row[w * WINDOW + i - 1] / BLOCK;
            ascending += row[w * WINDOW + i] == row[w * WINDOW + i - 1] + 1;
        }
        assert_in_range(same, 150, 370); // 4095 / 16 = 256, sigma 15.5
        assert_in_range(ascending, 0, 12); // expected 1
    }
    int alike = 0; // and each window is mixed in its own way
    for (int i = 0; i < WINDOW; i++) alike += row[i] % BLOCK == row[i + WINDOW] % BLOCK;
    assert_in_range(alike, 0, 40); // expected 16
}

static void epochs_and_seeds_differ(void **state) {
    (void)state;
    enum { n = 10000 };
    static int64_t a[n], b[n];
    epoch_of(1, n, 0, a);
    epoch_of(1, n, 1, b);
    int equal = 0;
    for (int i = 0; i < n; i++) equal += a[i] == b[i];
    assert_in_range(equal, 0, 20); // expected about 1
    epoch_of(2, n, 0, b);
    equal = 0;
    for (int i = 0; i < n; i++) equal += a[i] == b[i];
    assert_in_range(equal, 0, 20);
    epoch_of(UINT64_C(1) + (UINT64_C(1) << 40), n, 0, b); // the high word of the seed counts
    equal = 0;
    for (int i = 0; i < n; i++) equal += a[i] == b[i];
    assert_in_range(equal, 0, 20);
}

// Without windows: a bijection that mixes neighbours of the file far apart, different in each epoch.
static void whole_order_mixes_everything(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 2, 3, 257, 4096, 50000};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
        int64_t n = sizes[k];
        int64_t *row[2] = {malloc((size_t)n * sizeof(int64_t)), malloc((size_t)n * sizeof(int64_t))};
        for (int epoch = 0; epoch < 2; epoch++) {
            unsigned char *seen = calloc((size_t)n, 1);
            for (int64_t i = 0; i < n; i++) {
                int64_t id = row[epoch][i] = oht_order_whole(7, n, epoch * n + i);
                assert_in_range(id, 0, n - 1);
                assert_false(seen[id]);
                seen[id] = 1;
            }
            free(seen);
        }
        int64_t equal = 0, first = 0;
        for (int64_t i = 0; i < n; i++) equal += row[0][i] == row[1][i];
        for (int64_t i = 0; i < n / 50; i++) first += row[0][i] < n / 10; // the file's first class
        if (n == 50000) {
            assert_in_range(equal, 0, 20); // expected 1
            assert_in_range(first, 60, 140); // of 1000, expected 100, sigma 9
        }
        free(row[0]);
        free(row[1]);
    }
}

// Every row is equally likely at every place, also for few rows, where a Feistel network has narrow halves.
static void is_evenly_spread(void **state) {
    (void)state;
    const int64_t sizes[] = {2, 3, 7, 16, 61};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
        int64_t n = sizes[s], epochs = 400 * n;
        int *count = calloc((size_t)(n * n), sizeof(*count));
        int *pair = calloc((size_t)(n * n), sizeof(*pair)); // (row at place 0, row at place 1)
        for (int64_t e = 0; e < epochs; e++) {
            for (int64_t i = 0; i < n; i++) count[i * n + oht_order(99, n, e * n + i)]++;
            pair[oht_order(99, n, e * n) * n + oht_order(99, n, e * n + 1)]++;
        }
        double chi2 = 0, df = (double)((n - 1) * (n - 1));
        for (int64_t i = 0; i < n * n; i++) chi2 += pow(count[i] - 400.0, 2) / 400.0;
        assert_true(fabs(chi2 - df) < 5 * sqrt(2 * df) + 5);
        double expected = 400.0 / (double)(n - 1);
        chi2 = 0;
        for (int64_t i = 0; i < n * n; i++)
            if (i / n != i % n)
                chi2 += pow(pair[i] - expected, 2) / expected;
            else
                assert_int_equal(pair[i], 0);
        df = (double)(n * (n - 1) - 1);
        assert_true(fabs(chi2 - df) < 5 * sqrt(2 * df) + 5);
        free(count);
        free(pair);
    }
}

// Blocks take every place equally often, the ragged last one too.
static void blocks_are_evenly_spread(void **state) {
    (void)state;
    enum { blocks = 40, n = blocks * BLOCK - 100, epochs = 800 };
    static int first[blocks];
    for (int64_t e = 0; e < epochs; e++) {
        int seen[blocks] = {0};
        for (int64_t i = 0; i < WINDOW - 255; i += 16) seen[oht_order(5, n, e * n + i) / BLOCK] = 1;
        for (int b = 0; b < blocks; b++) first[b] += seen[b];
    }
    for (int b = 0; b < blocks; b++) // in the first window in 16 of 40 cases: 320, sigma 13.9
        assert_in_range(first[b], 250, 390);
}

// Long runs and large files: no overflow, still in range, and two different places never give one row.
static void large_files(void **state) {
    (void)state;
    const int64_t n = INT64_C(3000000007);
    int64_t row[512];
    for (int64_t i = 0; i < 512; i++) {
        row[i] = oht_order(3, n, 5 * n - 256 + i); // across an epoch's end
        assert_in_range(row[i], 0, n - 1);
        int64_t from = i < 256 ? 0 : 256;
        for (int64_t j = from; j < i; j++) assert_true(row[j] != row[i]);
        assert_int_equal(row[i], oht_order(3, n, 5 * n - 256 + i));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_a_bijection_and_local),
        cmocka_unit_test(mixes_rows_of_a_window),
        cmocka_unit_test(epochs_and_seeds_differ),
        cmocka_unit_test(whole_order_mixes_everything),
        cmocka_unit_test(is_evenly_spread),
        cmocka_unit_test(blocks_are_evenly_spread),
        cmocka_unit_test(large_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
