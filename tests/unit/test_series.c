// Time series from CSV to windows, against golden vectors (stanhop.json): scaler, splits, windows; the counts of the published
// settings; hostile CSV files; damaged data files.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/series.h"
#include "tiny.h"

static json_t *golden;
static char folder[256], csv[300], h5[300];
static oht_comm *comm;

static int load(void **state) {
    (void)state;
    golden = golden_load("stanhop");
    tiny_folder(folder);
    snprintf(csv, sizeof csv, "%s/made.csv", folder);
    snprintf(h5, sizeof h5, "%s/made.h5", folder);
    oht_log_init(1, true, "auto"); // silent
    int argc = 0;
    char **argv = NULL;
    return oht_comm_init(&argc, &argv, &comm) == OHT_OK ? 0 : -1;
}
static int unload(void **state) {
    (void)state;
    json_decref(golden);
    tiny_remove(folder);
    oht_comm_finalize(comm);
    return 0;
}

static void write_text(const char *text) {
    FILE *out = fopen(csv, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static oht_status prepare(const char *split) {
    const oht_prepare_series opt = {csv, split, h5};
    return oht_prepare_series_run(comm, &opt);
}

static void ok(oht_status status) {
    if (status != OHT_OK) fail_msg("%s", oht_error_last()->text);
}

// The generated series of the vectors.
static void write_made(void) {
    FILE *out = fopen(csv, "w");
    assert_non_null(out);
    fputs("date,a,b,c\n", out);
    for (int t = 0; t < 60; t++)
        fprintf(out, "2016-07-%02d %02d:00:00,%.17g,%.17g,%d\n", 1 + t / 24, t % 24, sin(.3 * t) + .01 * t, 5 + 2 * cos(.11 * t),
                t % 7 == 0 ? 3 : -1);
    fclose(out);
}

static void close_to(const char *what, double got, double want) {
    if (!(fabs(got - want) <= 2e-6 * fmax(1.0, fabs(want)))) fail_msg("%s: %.9g, expected %.9g", what, got, want);
}

static void generated_series_match(void **state) {
    (void)state;
    const json_t *d = golden_get(golden, "data_split"), *sets = golden_get(d, "sets");
    static const char *const NAME[] = {"train", "val", "test"};
    write_made();
    ok(prepare("30,12,14"));
    oht_series *s;
    ok(oht_series_open(&s, h5));
    assert_int_equal(s->rows, 60);
    assert_int_equal(s->columns, 3);
    double *mean = golden_doubles(d, "mean", NULL), *std = golden_doubles(d, "std_population", NULL);
    for (int c = 0; c < 3; c++) {
        close_to("mean", s->mean[c], mean[c]);
        close_to("std", s->std[c], std[c]);
    }
    const int64_t T = (int64_t)golden_number(d, "in_len"), U = (int64_t)golden_number(d, "out_len");
    for (int i = 0; i < 3; i++) {
        const json_t *set = golden_get(sets, NAME[i]);
        const int64_t n = oht_series_windows(s, (oht_series_split)i, T, U);
        assert_int_equal(n, (int64_t)golden_number(set, "windows"));
        double *x = golden_doubles(set, "first_x", NULL), *y = golden_doubles(set, "first_y", NULL), *last = golden_doubles(set, "last_window_y_rows", NULL);
        const float *row = s->value + oht_series_window_row(s, (oht_series_split)i, T, 0) * 3;
        for (int64_t e = 0; e < T * 3; e++) close_to("x", (double)row[e], x[e]);
        for (int64_t e = 0; e < U * 3; e++) close_to("y", (double)row[T * 3 + e], y[e]);
        assert_int_equal(oht_series_window_row(s, (oht_series_split)i, T, n - 1) + T, (int64_t)last[0]);
        free(x);
        free(y);
        free(last);
    }
    free(mean);
    free(std);
    oht_series_close(s);
}

static void published_windows(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "window_counts");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        const char *data = golden_string(c, "data");
        oht_series s = {.rows = 1000000};
        ok(oht_series_split_rows(strcmp(data, "ETTh1") == 0 ? "etth" : strcmp(data, "ETTm1") == 0 ? "ettm" : "wth", s.rows, s.split));
        static const char *const NAME[] = {"train", "val", "test"};
        for (int k = 0; k < 3; k++)
            assert_int_equal(oht_series_windows(&s, (oht_series_split)k, (int64_t)golden_number(c, "in_len"), (int64_t)golden_number(c, "out_len")),
                             (int64_t)golden_number(c, NAME[k]));
    }
    const json_t *r = golden_get(golden_get(golden, "data_split"), "ratio_split_example");
    int64_t split[3];
    ok(oht_series_split_rows("0.7,0.1,0.2", (int64_t)golden_number(r, "n"), split));
    assert_int_equal(split[0], (int64_t)golden_number(r, "train"));
    assert_int_equal(split[1], (int64_t)golden_number(r, "val"));
    assert_int_equal(split[2], (int64_t)golden_number(r, "test"));
}

static void impossible_splits(void **state) {
    (void)state;
    static const char *const BAD[] = {"", "etth9", "30,12", "30,12,14,2", "0.5,0.5,0.5", "-3,4,5", "30,12,19", "nan,1,1", "1e30,1,1", "30.5,12,14", "__import__('os'),1,2", "0.99,0.005,0.005"};
    int64_t split[3];
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++)
        if (oht_series_split_rows(BAD[i], 60, split) != OHT_CONFIG) fail_msg("--split %s is accepted", BAD[i]);
}

static void hostile_csv(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } BAD[] = {
        {"", "is empty"},
        {"date,a\n", "no rows"},
        {"date\n2016-07-01\n", "one field"},
        {"date,a,b\n2016-07-01,1,\n", "line 2, column b: found \"\""},
        {"date,a,b\n2016-07-01,1,NaN\n", "column b: found \"NaN\""},
        {"date,a,b\n2016-07-01,1,1e999\n", "column b"},
        {"date,a,b\n2016-07-01,1,-1e39\n", "found \"-1e39\""},
        {"date,a,b\n2016-07-01,1,2x\n", "found \"2x\""},
        {"date,a,b\n2016-07-01,1\n", "fewer"},
        {"date,a,b\n2016-07-01,1,2,3\n", "more"},
        {"date,a\n2016-07-01,1\n2016-07-01,2\n", "line 3: the date"},
        {"date,a\n2016-07-02,1\n2016-07-01,2\n", "does not come after"},
        {"date,a\n2016-13-01,1\n", "is no date"},
        {"date,a\nyesterday,1\n", "is no date"},
        {"date,a\n2016-07-01 25:00,1\n", "is no date"},
    };
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        write_text(BAD[i].text);
        remove(h5);
        if (prepare("1,1,1") != OHT_DATA) fail_msg("case %zu is accepted", i);
        if (!strstr(oht_error_last()->text, BAD[i].says)) fail_msg("case %zu says: %s", i, oht_error_last()->text);
        assert_int_not_equal(access(h5, F_OK), 0);
    }
    remove(csv);
    assert_int_equal(prepare("1,1,1"), OHT_IO);
}

// What people's files have: Windows line ends, a byte order mark, quotes, blanks, other dates, a constant column, gaps in time.
static void friendly_csv(void **state) {
    (void)state;
    write_text("\xef\xbb\xbf\"date\",\"a\",b\r\n2016/7/1 0:00, 1 ,4\r\n2016/7/1 1:00,\"2\",4\r\n2016/7/3 1:00,3,4\r\n\r\n2016/7/4 1:00,-5e1,5\r\n");
    ok(prepare("2,1,1"));
    oht_series *s;
    ok(oht_series_open(&s, h5));
    assert_int_equal(s->rows, 4);
    close_to("mean", s->mean[0], 1.5);
    close_to("std", s->std[0], 0.5);
    close_to("std of a constant column", s->std[1], 1.0);
    close_to("value", (double)s->value[6], (-50 - 1.5) / 0.5);
    close_to("value", (double)s->value[7], 1.0);
    oht_series_close(s);
}

// Every single byte of a file changed, or its end missing: an error or the same numbers, never a crash.
static void damaged_files(void **state) {
    (void)state;
    write_made();
    ok(prepare("30,12,14"));
    FILE *in = fopen(h5, "rb");
    static unsigned char bytes[1 << 16];
    size_t n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    assert_true(n > 1000 && n < sizeof bytes);
    char path[320];
    snprintf(path, sizeof path, "%s/damaged.h5", folder);
    int refused = 0, tried = 0;
    for (size_t i = 0; i < n; i += 37, tried++) {
        FILE *out = fopen(path, "wb");
        unsigned char kept = bytes[i];
        bytes[i] = (unsigned char)(kept ^ 0x55);
        fwrite(bytes, 1, i % 5 ? n : i, out);
        fclose(out);
        bytes[i] = kept;
        oht_series *s;
        if (oht_series_open(&s, path) != OHT_OK) {
            refused++;
            continue;
        }
        for (int64_t e = 0; e < s->rows * s->columns; e++) assert_true(isfinite(s->value[e]));
        oht_series_close(s);
    }
    assert_true(refused > tried / 4);
    write_text("not HDF5");
    oht_series *s;
    assert_int_equal(oht_series_open(&s, csv), OHT_DATA);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generated_series_match), cmocka_unit_test(published_windows), cmocka_unit_test(impossible_splits),
        cmocka_unit_test(hostile_csv),            cmocka_unit_test(friendly_csv),      cmocka_unit_test(damaged_files),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
