// Outlier statistics: kurtosis and aggregation against golden values, samples put together, places of maxima,
// values that are not finite.
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "golden.h"
#include "oht/memory.h"
#include "oht/outliers.h"
#include "taps.h"

static oht_backend *be;
static oht_comm *comm;

static int begin(void **state) {
    (void)state;
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    oht_backend_destroy(be);
    return 0;
}

// ---- moments ----

// By definition, in double: the reference of everything here.
static oht_moments direct(const double *x, int64_t n) {
    oht_moments m = {.n = n};
    for (int64_t i = 0; i < n; i++) {
        m.mean += x[i] / (double)n;
        if (fabs(x[i]) > m.abs_max || i == 0) m.abs_max = fabs(x[i]), m.abs_argmax = i;
        m.nonfinite += isfinite(x[i]) ? 0 : 1;
    }
    for (int64_t i = 0; i < n; i++) {
        double d = x[i] - m.mean;
        m.m2 += d * d, m.m3 += d * d * d, m.m4 += d * d * d * d;
    }
    for (int64_t i = 0; i < n; i++) m.outliers_6sigma += fabs(x[i] - m.mean) > 6 * sqrt(m.m2 / (double)n);
    return m;
}

static void kurtosis_of_golden_rows(void **state) {
    (void)state;
    json_t *all = golden_load("transformers");
    const json_t *g = golden_get(all, "kurtosis");
    size_t rows = json_array_size(golden_get(g, "x"));
    double *want = golden_doubles(g, "kurtosis_eps1e6", NULL), *inf = golden_doubles(g, "inf_norm", NULL),
           *over = golden_doubles(g, "n_over_6sigma", NULL);
    assert_int_equal(rows, 5);
    for (size_t r = 0; r < rows; r++) {
        size_t n;
        double *x = golden_doubles(golden_at(golden_get(g, "x"), r), NULL, &n);
        float row[64];
        oht_moments exact = direct(x, (int64_t)n), m;
        for (size_t i = 0; i < n; i++) row[i] = (float)x[i];
        NEAR(oht_kurtosis(&exact), want[r], 1e-12);
        be->moments(be, row, OHT_F32, 1, (int64_t)n, &m);
        NEAR(oht_kurtosis(&m), want[r], 1e-6 * want[r]); // input rounded to float
        NEAR(m.abs_max, inf[r], 1e-7 * inf[r]);
        assert_int_equal(m.outliers_6sigma, (int64_t)over[r]);
        free(x);
    }
    const json_t *big = golden_get(all, "kurtosis_768");
    double x[768];
    float row[768];
    for (int i = 0; i < 768; i++) x[i] = i == 100 ? 40 : i == 300 ? -35 : sin(0.37 * i);
    for (int i = 0; i < 768; i++) row[i] = (float)x[i];
    oht_moments exact = direct(x, 768), m;
    NEAR(oht_kurtosis(&exact), golden_number(big, "kurtosis"), 1e-9);
    be->moments(be, row, OHT_F32, 1, 768, &m);
    NEAR(oht_kurtosis(&m), golden_number(big, "kurtosis"), 1e-5);
    NEAR(m.abs_max, golden_number(big, "inf_norm"), 0);
    assert_int_equal(m.abs_argmax, 100);
    assert_int_equal(m.outliers_6sigma, (int64_t)golden_number(big, "n_over_6sigma"));
    oht_moments one = direct(x, 1);
    assert_true(oht_kurtosis(&one) == 0);
    free(want), free(inf), free(over);
    json_decref(all);
}

static void parts_put_together_equal_the_whole(void **state) {
    (void)state;
    static double x[5000];
    for (uint32_t trial = 0; trial < 300; trial++) {
        int64_t n = 2 + (int64_t)(2499.0 * (1 + taps_random(7 * trial)));
        double offset = trial % 3 == 0 ? 0 : trial % 3 == 1 ? 1e4 : -0.3, scale = trial % 5 == 0 ? 1e-3 : 1;
        for (int64_t i = 0; i < n; i++) x[i] = offset + scale * taps_random(100000 * (trial + 1) + (uint32_t)i);
        x[n / 3] += 50 * scale; // an outlier
        oht_moments sum = {0};
        for (int64_t at = 0; at < n;) { // cuts of odd sizes, empty and single parts among them
            int64_t some = (int64_t)(fabs(taps_random((uint32_t)(trial * 1000 + at))) * (trial % 2 ? 10 : 1000));
            if (some > n - at) some = n - at;
            if (some == 0 && at % 2) some = 1;
            oht_moments part = some ? direct(x + at, some) : (oht_moments){.mean = 123, .abs_max = 1e9};
            oht_moments_merge(&sum, &part);
            at += some ? some : 0;
            if (some == 0) { // go on by one
                part = direct(x + at, 1);
                oht_moments_merge(&sum, &part);
                at++;
            }
        }
        oht_moments whole = direct(x, n);
        double sigma = sqrt(whole.m2 / (double)n), third = (double)n * sigma * sigma * sigma;
        assert_int_equal(sum.n, n);
        assert_int_equal(sum.abs_argmax, whole.abs_argmax);
        assert_true(sum.abs_max == whole.abs_max);
        double accuracy = 1e-9 + 1e-13 * fabs(offset) / sigma; // the reference's own rounding of x - mean
        NEAR(sum.mean, whole.mean, 1e-12 * (fabs(offset) + 1));
        NEAR(sum.m2, whole.m2, accuracy * whole.m2);
        NEAR(sum.m3, whole.m3, 10 * accuracy * (third + fabs(whole.m3)));
        NEAR(sum.m4, whole.m4, 10 * accuracy * whole.m4);
        NEAR(oht_kurtosis(&sum), oht_kurtosis(&whole), 20 * accuracy * oht_kurtosis(&whole));
    }
}

static void merging_nan_keeps_it(void **state) {
    (void)state;
    oht_moments number = direct((double[]){1, -3}, 2),
                nan = {.n = 1, .mean = NAN, .abs_max = NAN, .nonfinite = 1};
    oht_moments a = number;
    oht_moments_merge(&a, &nan);
    assert_true(isnan(a.abs_max) && isnan(a.mean) && a.nonfinite == 1);
    oht_moments_merge(&a, &number);
    assert_true(isnan(a.abs_max) && a.n == 5);
}

// ---- the observer ----

static void metrics_of_the_golden_example(void **state) {
    (void)state;
    const tap_spec taps[] = {{"layer0", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_IN_FFN_INF, 0},
                             {"layer1", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_IN_LAYER_INF, 1},
                             {"unused", OHT_TAP_SEQUENCE, 0, 1}};
    oht_graph *g = taps_graph(be, taps, 3, 2, 4);
    oht_stats *s;
    OK(oht_stats_create(&s, g, 2));
    json_t *all = golden_load("transformers");
    const json_t *group = golden_get(all, "metric_aggregation");
    for (int i = 0; i < 2; i++) {
        const json_t *tensor = golden_get(golden_get(group, "tensors"), taps[i].name),
                     *batches = golden_get(tensor, "batches");
        for (size_t b = 0; b < json_array_size(batches); b++) {
            size_t n;
            float *x = golden_floats(golden_at(batches, b), NULL, &n);
            taps_show(be, s, g, i, x, 3, (int64_t)n / 4, 2, 2, (int64_t)b * 2);
            free(x);
        }
    }
    float loud[8] = {1000, 0, 0, 0, 0, 0, 0, 0};
    taps_show(be, s, g, 2, loud, 3, 2, 2, 2, 0);
    OK(oht_stats_reduce(s, comm));
    const oht_tap_stats *t;
    assert_int_equal(oht_stats_taps(s, NULL, &t), 3);
    for (int i = 0; i < 2; i++) {
        const json_t *tensor = golden_get(golden_get(group, "tensors"), taps[i].name);
        assert_int_equal(t[i].rows, 3);
        NEAR(t[i].inf_sum / 3, golden_number(tensor, "inf_avg"), 1e-12);
        NEAR(t[i].kurtosis_sum / 3, golden_number(tensor, "kurt_avg"), 1e-12);
    }
    oht_outlier_metrics m;
    oht_stats_metrics(s, &m);
    NEAR(m.max_inf_norm, golden_number(group, "max_inf_norm"), 1e-12);
    NEAR(m.avg_kurtosis, golden_number(group, "avg_kurtosis"), 1e-12);
    NEAR(m.max_kurtosis, golden_number(group, "max_kurtosis"), 1e-12);
    NEAR(m.max_ffn_inf_norm, t[0].inf_sum / 3, 0);
    NEAR(m.max_layer_inf_norm, t[1].inf_sum / 3, 0);
    json_decref(all);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

static void rows_are_sequences_or_tokens(void **state) {
    (void)state;
    enum { B = 3, T = 4, C = 8 };
    const tap_spec taps[] = {{"sequence", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS, 0},
                             {"token", OHT_TAP_TOKEN, OHT_IN_INF | OHT_IN_KURTOSIS, 0}};
    oht_graph *g = taps_graph(be, taps, 2, B, T);
    oht_stats *s;
    float x[B * T * C];
    double wide[B * T * C], inf[2] = {0}, kurtosis[2] = {0};
    for (uint32_t i = 0; i < B * T * C; i++) x[i] = (float)taps_random(i), wide[i] = (double)x[i];
    x[1 * T * C + 2 * C + 5] = -9, wide[1 * T * C + 2 * C + 5] = -9;
    OK(oht_stats_create(&s, g, 1));
    uint64_t before = oht_alloc_count();
    const int64_t ids[B] = {700, 123, 5};
    oht_stats_row_ids(s, ids);
    taps_show(be, s, g, 0, x, 3, B, T, C, 0);
    taps_show(be, s, g, 1, x, 3, B, T, C, 0);
    for (int64_t b = 0; b < B; b++) {
        oht_moments m = direct(wide + b * T * C, T * C);
        inf[0] += m.abs_max, kurtosis[0] += oht_kurtosis(&m);
        for (int64_t t = 0; t < T; t++) {
            m = direct(wide + (b * T + t) * C, C);
            inf[1] += m.abs_max, kurtosis[1] += oht_kurtosis(&m);
        }
    }
    oht_moments whole = direct(wide, B * T * C);
    const oht_tap_stats *t;
    oht_stats_taps(s, NULL, &t);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(t[k].rows, k ? B * T : B);
        NEAR(t[k].inf_sum, inf[k], 1e-12);
        NEAR(t[k].kurtosis_sum, kurtosis[k], 1e-9);
        NEAR(oht_kurtosis(&t[k].pooled), oht_kurtosis(&whole), 1e-9);
        NEAR(t[k].pooled.mean, whole.mean, 1e-14);
        assert_true(t[k].pooled.abs_max == 9);
        assert_int_equal(t[k].max_sample, 123);
        assert_int_equal(t[k].max_token, 2);
        assert_int_equal(t[k].max_channel, 5);
    }
    // kurtosis switched off: rows count on, kurtosis does not
    oht_stats_count_kurtosis(s, false);
    taps_show(be, s, g, 0, x, 3, B, T, C, 0);
    assert_int_equal(t[0].rows, 2 * B);
    assert_int_equal(t[0].kurtosis_rows, B);
    // infinity norm switched off, kurtosis on
    oht_stats_count_kurtosis(s, true);
    oht_stats_count_inf(s, false);
    taps_show(be, s, g, 0, x, 3, B, T, C, 0);
    assert_int_equal(t[0].rows, 3 * B);
    assert_int_equal(t[0].inf_rows, 2 * B);
    assert_int_equal(t[0].kurtosis_rows, 2 * B);
    NEAR(t[0].inf_sum, 2 * inf[0], 1e-12);
    oht_stats_count_inf(s, true);
    oht_stats_reset(s);
    assert_int_equal(t[0].rows, 0);
    assert_int_equal(t[0].max_sample, -1);
    // a micro-batch with fewer rows, and with none
    taps_show(be, s, g, 0, x, 3, 1, T, C, 0);
    taps_show(be, s, g, 0, x, 3, 0, T, C, 0);
    assert_int_equal(t[0].rows, 1);
    OK(oht_stats_reduce(s, comm));
    assert_int_equal(oht_alloc_count(), before); // a measured step allocates nothing
    assert_true(oht_stats_seconds(s) > 0);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

static void equal_maxima_go_to_the_first_place(void **state) {
    (void)state;
    const tap_spec taps[] = {{"x", OHT_TAP_SEQUENCE, 0, 0}};
    oht_graph *g = taps_graph(be, taps, 1, 1, 2);
    float a[4] = {0, 0, 0, 5}, b[4] = {0, -5, 5, 0}, c[4] = {1, 2, 3, 4};
    float *row[3] = {a, b, c};
    const int64_t ids[3] = {40, 7, 2};
    static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (int k = 0; k < 6; k++) {
        oht_stats *s;
        OK(oht_stats_create(&s, g, 1));
        for (int i = 0; i < 3; i++) {
            oht_stats_row_ids(s, &ids[order[k][i]]);
            taps_show(be, s, g, 0, row[order[k][i]], 3, 1, 2, 2, 0);
        }
        const oht_tap_stats *t;
        oht_stats_taps(s, NULL, &t);
        assert_int_equal(t->max_sample, 7);
        assert_int_equal(t->max_token, 0);
        assert_int_equal(t->max_channel, 1);
        oht_stats_destroy(s);
    }
    oht_graph_destroy(g);
}

static void the_first_tap_that_is_not_finite_is_named(void **state) {
    (void)state;
    const tap_spec taps[] = {{"a", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS, 0},
                             {"heads", OHT_TAP_GATE, 0, 0},
                             {"b", OHT_TAP_TOKEN, OHT_IN_INF | OHT_IN_KURTOSIS, 0},
                             {"c", OHT_TAP_TOKEN, 0, 0}};
    oht_graph *g = taps_graph(be, taps, 4, 2, 2);
    oht_stats *s;
    OK(oht_stats_create(&s, g, 2));
    float good[8] = {1, 2, 3, 4, 5, 6, 7, 8}, bad[8] = {1, 2, 3, NAN, 5, INFINITY, 7, 8},
          pi[4] = {0.5f, 0.5f, NAN, 0.5f};
    taps_show(be, s, g, 0, good, 3, 2, 2, 2, 0);
    assert_null(oht_stats_first_nonfinite(s));
    taps_show(be, s, g, 3, bad, 3, 2, 2, 2, 0);
    assert_string_equal(oht_stats_first_nonfinite(s), "c");
    taps_show(be, s, g, 2, bad, 3, 2, 2, 2, 0);
    taps_show(be, s, g, 2, good, 3, 2, 2, 2, 50);
    assert_string_equal(oht_stats_first_nonfinite(s), "b");
    const oht_tap_stats *t;
    oht_stats_taps(s, NULL, &t);
    assert_int_equal(t[1].nonfinite, 2);
    assert_true(isnan(t[1].pooled.abs_max)); // NaN beats inf, whatever came after
    assert_int_equal(t[1].max_sample, 0);
    assert_int_equal(t[1].max_token, 1);
    assert_int_equal(t[1].max_channel, 1);
    oht_outlier_metrics m;
    oht_stats_metrics(s, &m);
    assert_true(isnan(m.max_inf_norm) && isnan(m.avg_kurtosis) && isnan(m.max_kurtosis)); // never hidden
    taps_show(be, s, g, 1, pi, 2, 2, 2, 0, 0);
    assert_string_equal(oht_stats_first_nonfinite(s), "heads");
    oht_stats_reset(s);
    assert_null(oht_stats_first_nonfinite(s));
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

static void heads_are_averaged_over_samples(void **state) {
    (void)state;
    enum { H = 2, T = 3 };
    const tap_spec taps[] = {{"l0.null", OHT_TAP_NULL_MASS, 0, 0},
                             {"x", OHT_TAP_TOKEN, 0, 0},
                             {"l2.null", OHT_TAP_NULL_MASS, 0, 2},
                             {"l2.gate", OHT_TAP_GATE, 0, 2}};
    oht_graph *g = taps_graph(be, taps, 4, 2, T);
    oht_stats *s;
    OK(oht_stats_create(&s, g, H));
    float row[2 * H * T], pi[2 * T * H];
    double null[H] = {0}, gate[H] = {0};
    for (uint32_t i = 0; i < 2 * H * T; i++) row[i] = (float)fabs(taps_random(i)), pi[i] = (float)fabs(taps_random(100 + i));
    for (int b = 0; b < 2; b++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                double n = exp(-(double)row[(b * H + h) * T + t]), p = (double)pi[(b * T + t) * H + h];
                null[h] += n / (3 * T) * (b == 0 ? 2 : 1); // sample 0 is shown twice: 3 samples
                gate[h] += p / (3 * T) * (b == 0 ? 2 : 1);
            }
    taps_show(be, s, g, 2, row, 3, 2, H, T, 0);
    taps_show(be, s, g, 2, row, 3, 1, H, T, 0);
    taps_show(be, s, g, 3, pi, 3, 2, T, H, 0);
    taps_show(be, s, g, 3, pi, 3, 1, T, H, 0);
    OK(oht_stats_reduce(s, comm));
    int layers, heads;
    const double *n = oht_stats_null_mass(s, &layers, &heads), *p = oht_stats_gate_mean(s, &layers, &heads);
    assert_int_equal(layers, 3);
    assert_int_equal(heads, H);
    assert_int_equal(oht_stats_taps(s, NULL, NULL), 1);
    for (int h = 0; h < H; h++) {
        NEAR(n[2 * H + h], null[h], 1e-6);
        NEAR(p[2 * H + h], gate[h], 1e-6);
        assert_true(isnan(n[h]) && isnan(n[H + h]) && isnan(p[H + h])); // nothing seen, no such layer
    }
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kurtosis_of_golden_rows),
        cmocka_unit_test(parts_put_together_equal_the_whole),
        cmocka_unit_test(merging_nan_keeps_it),
        cmocka_unit_test(metrics_of_the_golden_example),
        cmocka_unit_test(rows_are_sequences_or_tokens),
        cmocka_unit_test(equal_maxima_go_to_the_first_place),
        cmocka_unit_test(the_first_tap_that_is_not_finite_is_named),
        cmocka_unit_test(heads_are_averaged_over_samples),
    };
    if (oht_comm_init(&argc, &argv, &comm) != OHT_OK) return 1;
    int failed = cmocka_run_group_tests(tests, begin, end);
    oht_comm_finalize(comm);
    return failed;
}
