// Quantizers and range estimators against golden vectors (spec transformers 8.5, 8.6), the kernels against
// the scalar definition, and inputs that break naive versions.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "kernel_test.h"
#include "oht/quant.h"
#include "oht/random.h"

static json_t *golden;

static void near(double got, double want, double tol, const char *what) {
    if (!(fabs(got - want) <= tol * fmax(1.0, fabs(want))))
        fail_msg("%s: %.12g, expected %.12g", what, got, want);
}

// A kernel's value in float: as expected, or one step off where x lies half-way between two codes.
static void near_code(double got, double want, double x, double step) {
    double ratio = x / step, to_tie = fabs(ratio - floor(ratio) - 0.5);
    if (to_tie < 1e-5 && fabs(got - want) <= 1.0001 * step) return;
    near(got, want, 1e-6, "fake-quantized value");
}

static oht_quant_data data_of(oht_tensor t) {
    return (oht_quant_data){kt_backend(), oht_f32(t), 1, oht_tensor_count(t), oht_tensor_count(t)};
}

// ---- quantizers
// ------------------------------------------------------------------------------------------------------

static void test_quantizers(void **state) {
    (void)state;
    const json_t *cases = golden_get(golden, "quantizers");
    assert_true(json_array_size(cases) >= 20);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *g = golden_at(cases, c);
        bool symmetric = strcmp(golden_string(g, "kind"), "symmetric") == 0;
        int bits = (int)golden_number(g, "bits");
        oht_quantizer q =
            oht_quantizer_of(symmetric, bits, golden_number(g, "xmin"), golden_number(g, "xmax"));
        size_t n;
        double *x = golden_doubles(g, "x", &n), *code = golden_doubles(g, "q", NULL),
               *xq = golden_doubles(g, "xq", NULL);
        if (golden_number(g, "delta") >= 1e-8) near(q.step, golden_number(g, "delta"), 1e-12, "step");
        if (symmetric)
            assert_int_equal(q.low < 0, golden_number(g, "signed") != 0);
        else
            assert_int_equal(q.zero, (int64_t)golden_number(g, "zero_point"));
        oht_tensor t = kt_from(x, (int64_t)n, 0, 0, 0);
        oht_fakequant fake = oht_quantizer_fake(&q);
        oht_quant_error error;
        kt_backend()->quant_error(kt_backend(), oht_f32(t), 1, (int64_t)n, (int64_t)n, &fake, false, &error);
        kt_backend()->fake_quantize(kt_backend(), oht_f32(t), 1, (int64_t)n, (int64_t)n, &fake, false);
        double noise = 0, signal = 0;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(oht_quantizer_code(&q, x[i]), (int64_t)code[i]);
            double got = (double)oht_f32(t)[i];
            near_code(got, xq[i], x[i], q.step);
            noise += (x[i] - got) * (x[i] - got);
            signal += x[i] * x[i];
        }
        near(error.signal, signal, 1e-6, "signal");
        near(error.noise, noise, 1e-5, "noise");
        free(x), free(code), free(xq);
    }
    kt_reset();
}

static void test_per_channel(void **state) {
    (void)state;
    const json_t *g = golden_get(golden, "quantizer_per_channel");
    double *w = golden_doubles(g, "W", NULL), *xq = golden_doubles(g, "xq", NULL),
           *delta = golden_doubles(g, "delta", NULL);
    oht_tensor t = kt_from(w, 2, 3, 0, 0);
    oht_fakequant fake[2];
    for (int r = 0; r < 2; r++) {
        float limit[2];
        kt_backend()->minmax(kt_backend(), oht_f32(t) + 3 * r, 1, 3, 3, limit);
        oht_quantizer q = oht_quantizer_make(true, true, 8, (double)limit[0], (double)limit[1]);
        near(q.step, delta[r], 1e-6, "step of a row");
        fake[r] = oht_quantizer_fake(&q);
    }
    kt_backend()->fake_quantize(kt_backend(), oht_f32(t), 2, 3, 3, fake, true);
    for (int i = 0; i < 6; i++) near_code((double)oht_f32(t)[i], xq[i], w[i], delta[i / 3]);
    free(w), free(xq), free(delta);
    kt_reset();
}

// Two bits to sixteen: every code is its own fixed point, and values half-way go to the even one.
static void test_all_widths(void **state) {
    (void)state;
    for (int bits = 2; bits <= 16; bits++)
        for (int kind = 0; kind < 3; kind++) {
            oht_quantizer q = oht_quantizer_make(kind > 0, kind == 2, bits, kind == 1 ? 0.0 : -3.0, 5.0);
            assert_true(q.low <= q.zero && q.zero <= q.high);
            assert_int_equal(oht_quantizer_code(&q, 0.0), q.zero);
            assert_int_equal(oht_quantizer_code(&q, 1e30), q.high);
            assert_int_equal(oht_quantizer_code(&q, -1e30), q.low);
            int64_t n = q.high - q.low + 1;
            oht_tensor t = kt_zeros(n, 0, 0, 0);
            for (int64_t i = 0; i < n; i++) oht_f32(t)[i] = (float)(q.step * (double)(q.low + i - q.zero));
            oht_tensor before = kt_copy(t);
            oht_fakequant fake = oht_quantizer_fake(&q);
            kt_backend()->fake_quantize(kt_backend(), oht_f32(t), 1, n, n, &fake, false);
            for (int64_t i = 0; i < n; i++)
                near((double)oht_f32(t)[i], (double)oht_f32(before)[i], 1e-6, "code that must stay");
            kt_reset();
        }
}

// ---- kernels
// -----------------------------------------------------------------------------------------------------------

// Strided rows: the columns between them stay as they are; results equal the scalar definition whatever the
// threads.
static void test_strides(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    const int64_t cases[][3] = {{1, 1, 1},        {3, 5, 16},        {7, 2049, 6150},
                                {40, 1000, 3000}, {1, 50000, 50000}, {200, 1, 3}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
        int64_t rows = cases[c][0], n = cases[c][1], ld = cases[c][2];
        oht_tensor t = kt_normal((uint32_t)c, 2.0f, rows, ld, 0, 0), before = kt_copy(t);
        oht_quantizer q = oht_quantizer_of(false, 5, -1.0, 2.5);
        oht_fakequant fake = oht_quantizer_fake(&q);
        float limit[2], lo = INFINITY, hi = -INFINITY;
        oht_quant_error error;
        double signal = 0, noise = 0;
        int64_t clipped = 0;
        be->minmax(be, oht_f32(t), rows, n, ld, limit);
        be->quant_error(be, oht_f32(t), rows, n, ld, &fake, false, &error);
        be->fake_quantize(be, oht_f32(t), rows, n, ld, &fake, false);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < ld; j++) {
                float x = oht_f32(before)[r * ld + j], y = oht_f32(t)[r * ld + j];
                if (j >= n) {
                    assert_true(x == y);
                    continue;
                }
                float want =
                    fake.step * ((float)oht_quantizer_code(&q, (double)(x / fake.step) * q.step) - fake.zero);
                near((double)y, (double)want, 1e-6, "strided value");
                lo = fminf(lo, x), hi = fmaxf(hi, x);
                signal += (double)x * (double)x;
                noise += ((double)x - (double)y) * ((double)x - (double)y);
                double code = (double)rintf(x / fake.step) + (double)fake.zero;
                clipped += code < (double)fake.low || code > (double)fake.high;
            }
        assert_true(limit[0] == lo && limit[1] == hi);
        near(error.signal / signal, 1.0, 1e-12, "signal");
        near(error.noise, noise, 1e-9, "noise");
        assert_int_equal(error.clipped, clipped);
    }
    kt_reset();
}

static void test_not_finite(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int b = 0; b < 3; b++)
        for (int64_t at = 0; at < 70; at += 23) {
            oht_tensor t = kt_normal(1, 1.0f, 70, 0, 0, 0);
            oht_f32(t)[at] = bad[b];
            float limit[2];
            be->minmax(be, oht_f32(t), 1, 70, 70, limit);
            assert_true(isnan(limit[0]) && isnan(limit[1]));
            oht_estimator *e;
            oht_estimator_config cfg = {.kind = OHT_RANGE_RUNNING_MINMAX, .bits = 8};
            assert_int_equal(oht_estimator_create(&e, &cfg), OHT_OK);
            oht_quant_data d = data_of(t);
            assert_int_equal(oht_estimator_update(e, &d, "layer.0.out"), OHT_NUMERIC);
            assert_non_null(strstr(oht_error_last()->text, "layer.0.out"));
            double r[2];
            assert_false(oht_estimator_range(e, r));
            oht_estimator_destroy(e);
            oht_fakequant q = {0.1f, 3.0f, 0.0f, 15.0f}; // NaN passes, infinities saturate
            be->fake_quantize(be, oht_f32(t), 1, 70, 70, &q, false);
            assert_true(b == 0 ? isnan(oht_f32(t)[at])
                               : fabsf(oht_f32(t)[at] - (b == 1 ? 1.2f : -0.3f)) < 1e-6f);
        }
    kt_reset();
}

// ---- estimators
// --------------------------------------------------------------------------------------------------------

static oht_estimator *make(oht_estimator_config cfg) {
    oht_estimator *e;
    if (cfg.candidates == 0) cfg.candidates = 100;
    assert_int_equal(oht_estimator_create(&e, &cfg), OHT_OK);
    return e;
}

static void feed(oht_estimator *e, const double *x, size_t n, double range[2]) {
    oht_quant_data d = data_of(kt_from(x, (int64_t)n, 0, 0, 0));
    assert_int_equal(oht_estimator_update(e, &d, "golden"), OHT_OK);
    assert_true(oht_estimator_range(e, range));
}

static void test_minmax(void **state) {
    (void)state;
    for (int running = 0; running < 2; running++) {
        const json_t *g = golden_get(golden, running ? "range_running_minmax" : "range_current_minmax");
        const json_t *batches = golden_get(g, "batches"), *after = golden_get(g, "after_each");
        oht_estimator *e = make(
            (oht_estimator_config){.kind = running ? OHT_RANGE_RUNNING_MINMAX : OHT_RANGE_MINMAX, .bits = 8});
        for (size_t b = 0; b < json_array_size(batches); b++) {
            size_t n;
            double *x = golden_doubles(golden_at(batches, b), NULL, &n),
                   *want = golden_doubles(golden_at(after, b), NULL, NULL);
            double range[2];
            feed(e, x, n, range);
            near(range[0], want[0], 1e-7, "lower end");
            near(range[1], want[1], 1e-7, "upper end");
            free(x), free(want);
        }
        oht_estimator_destroy(e);
    }
    kt_reset();
}

static void test_percentiles(void **state) {
    (void)state;
    const char *const groups[] = {"range_running_percentile_99.999", "range_running_percentile_99.9",
                                  "range_running_percentile_99"};
    for (int k = 0; k < 3; k++) {
        const json_t *g = golden_get(golden, groups[k]);
        double *per = golden_doubles(g, "per_batch", NULL), *after = golden_doubles(g, "after_each", NULL);
        double p = golden_number(g, "percentile"), x[2][1000];
        for (int i = 0; i < 1000; i++) {
            x[0][i] = sin(0.11 * i) * (1 + 0.001 * i);
            x[1][i] = cos(0.07 * i);
        }
        oht_estimator *e =
            make((oht_estimator_config){.kind = OHT_RANGE_RUNNING_MINMAX, .bits = 8, .percentile = p});
        for (int b = 0; b < 2; b++) {
            double range[2];
            float copy[1000];
            for (int i = 0; i < 1000; i++) copy[i] = (float)x[b][i];
            oht_percentiles(copy, 1000, p, range);
            for (int i = 0; i < 2; i++) near(range[i], per[2 * b + i], 1e-6, "percentile");
            feed(e, x[b], 1000, range);
            for (int i = 0; i < 2; i++) near(range[i], after[2 * b + i], 1e-6, "running percentile");
        }
        oht_estimator_destroy(e);
        free(per), free(after);
    }
    kt_reset();
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

// Against sorting: ties, one value, two values, sorted and constant data.
static void test_percentiles_by_sorting(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 400; c++) {
        int n = 1 + (int)(oht_random_block(3, OHT_DRAW_TEST, c, 0, 0, 0).v[0] % 300);
        float x[300], sorted[300];
        for (int i = 0; i < n; i++) {
            uint32_t u = oht_random_block(4, OHT_DRAW_TEST, c, 0, 0, (uint32_t)i).v[0];
            x[i] = c % 4 == 0 ? (float)(u % 5) : c % 4 == 1 ? (float)i : c % 4 == 2 ? 2.5f : oht_uniform(u);
        }
        memcpy(sorted, x, sizeof(x));
        qsort(sorted, (size_t)n, sizeof(*sorted), by_value);
        double p = c % 3 == 0 ? 100.0 : 50.0 + 0.125 * (double)c, range[2];
        oht_percentiles(x, n, p, range);
        for (int side = 0; side < 2; side++) {
            double rank = (n - 1) * (side ? p : 100.0 - p) / 100.0;
            int k = (int)floor(rank), next = k + 1 < n ? k + 1 : k;
            double want = (double)sorted[k] + (rank - k) * ((double)sorted[next] - (double)sorted[k]);
            near(range[side], want, 1e-12, "percentile by sorting");
        }
    }
}

static void golden_weights(double w[64], double add) {
    for (int i = 0; i < 64; i++) w[i] = 0.3 * sin(0.9 * i);
    w[5] = 1.5;
    w[40] = -1.2;
    for (int i = 0; i < 64; i++) w[i] += add;
}

static void check_grid(const json_t *want, oht_estimator *e, const double range[2]) {
    near(range[0], golden_number(want, "xmin"), 1e-6, "lower end of the grid");
    near(range[1], golden_number(want, "xmax"), 1e-6, "upper end of the grid");
    near(oht_estimator_loss(e), golden_number(want, "loss"), 1e-5, "squared error");
}

static void test_mse_grid(void **state) {
    (void)state;
    const json_t *g = golden_get(golden, "range_mse_grid");
    const char *const names[] = {"symmetric_b8", "symmetric_b4", "symmetric_onesided_b4",
                                 "symmetric_b4_two_batches"};
    for (int c = 0; c < 4; c++) {
        const json_t *want = golden_get(golden_get(g, names[c]), "after_each");
        double w[64], range[2];
        golden_weights(w, 0);
        for (int i = 0; i < 64 && c == 2; i++) w[i] = fabs(w[i]);
        // A symmetric quantizer of kind mse uses the grid.
        oht_estimator *e = make((oht_estimator_config){
            .kind = c % 2 ? OHT_RANGE_MSE : OHT_RANGE_MSE_GRID, .symmetric = true, .bits = c == 0 ? 8 : 4});
        feed(e, w, 64, range);
        check_grid(golden_at(want, 0), e, range);
        if (c == 3) {
            for (int i = 0; i < 64; i++) w[i] *= 0.5;
            feed(e, w, 64, range);
            check_grid(golden_at(want, 1), e, range);
        }
        oht_estimator_destroy(e);
    }
    double w[64], range[2];
    golden_weights(w, 0.2);
    oht_estimator *e = make((oht_estimator_config){.kind = OHT_RANGE_MSE_GRID, .bits = 4, .candidates = 20});
    feed(e, w, 64, range);
    check_grid(golden_get(golden, "range_mse_grid_asym_b4_n20"), e, range);
    oht_estimator_destroy(e);
    kt_reset();
}

static void test_mse_golden(void **state) {
    (void)state;
    const json_t *g = golden_get(golden, "range_mse_golden");
    const char *const names[] = {"symmetric_b8", "symmetric_b4", "asymmetric_b8", "asymmetric_b4"};
    for (int c = 0; c < 4; c++) {
        double w[64], range[2], loss, want = golden_number(golden_get(g, names[c]), "loss");
        golden_weights(w, c < 2 ? 0 : 0.2);
        oht_quant_data d = data_of(kt_from(w, 64, 0, 0, 0));
        float limit[2];
        kt_backend()->minmax(kt_backend(), d.x, 1, 64, 64, limit);
        oht_range_golden(&d, c < 2, c % 2 ? 4 : 8, OHT_MARGIN_ABSOLUTE,
                         (double[2]){(double)limit[0], (double)limit[1]}, range, &loss);
        near(loss / want, 1.0, 0.02, names[c]); // float against double moves the thresholds
        oht_quantizer q = oht_quantizer_of(c < 2, c % 2 ? 4 : 8, range[0], range[1]);
        oht_fakequant fake = oht_quantizer_fake(&q);
        oht_quant_error error;
        kt_backend()->quant_error(kt_backend(), d.x, 1, 64, 64, &fake, false, &error);
        near(error.noise, loss, 1e-12, "the reported error is that of the reported range");
    }
    kt_reset();
}

// Small weights: 0.5 of absolute margin leaves few candidates near the true range, a relative one none too
// few (Q18).
static void test_relative_margin(void **state) {
    (void)state;
    oht_tensor t = kt_normal(9, 0.01f, 4096, 0, 0, 0);
    oht_quant_data d = data_of(t);
    double loss[2], range[2];
    for (int m = 0; m < 2; m++) {
        oht_estimator *e = make((oht_estimator_config){
            .kind = OHT_RANGE_MSE, .symmetric = true, .bits = 4, .margin = (oht_mse_margin)m});
        assert_int_equal(oht_estimator_update(e, &d, "w"), OHT_OK);
        assert_true(oht_estimator_range(e, range));
        loss[m] = oht_estimator_loss(e);
        oht_estimator_destroy(e);
    }
    assert_true(loss[1] < loss[0]);
    kt_reset();
}

static double parabola(void *ctx, double x) {
    ++*(int *)ctx;
    return (x - 1.25) * (x - 1.25) + 3.0;
}
static double edge(void *ctx, double x) {
    ++*(int *)ctx;
    return x;
}
static double kink(void *ctx, double x) {
    ++*(int *)ctx;
    return fabs(x - 0.7) + 0.1 * x;
}

static void test_minimize(void **state) {
    (void)state;
    int calls = 0;
    double f;
    near(oht_minimize(parabola, &calls, -10, 10, 1e-6, &f), 1.25, 1e-5, "parabola");
    near(f, 3.0, 1e-9, "its value");
    assert_true(calls < 12);
    near(oht_minimize(edge, &calls, 2, 5, 1e-6, &f), 2.0, 1e-4, "minimum at the border");
    calls = 0;
    near(oht_minimize(kink, &calls, -3, 3, 1e-6, &f), 0.7, 1e-4, "kink");
    assert_true(calls < 60);
    near(oht_minimize(kink, &calls, 0.5, 0.5, 1e-6, &f), 0.5, 1e-9, "empty interval");
}

int main(void) {
    golden = golden_load("transformers");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantizers),      cmocka_unit_test(test_per_channel),
        cmocka_unit_test(test_all_widths),      cmocka_unit_test(test_strides),
        cmocka_unit_test(test_not_finite),      cmocka_unit_test(test_minmax),
        cmocka_unit_test(test_percentiles),     cmocka_unit_test(test_percentiles_by_sorting),
        cmocka_unit_test(test_mse_grid),        cmocka_unit_test(test_mse_golden),
        cmocka_unit_test(test_relative_margin), cmocka_unit_test(test_minimize),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    return failed;
}
