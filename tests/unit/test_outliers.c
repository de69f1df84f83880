// Outlier statistics: kurtosis and aggregation against golden values, samples put together, places of maxima,
// values that are not finite; the report written, read back by the library and by h5py and xarray, and cut on
// resume.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "golden.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/outliers.h"
#include "oht/random.h"

#define OK(call) assert_int_equal((call), OHT_OK)
#define NEAR(x, y, tolerance)                                                                                \
    do {                                                                                                     \
        double x_ = (x), y_ = (y);                                                                           \
        if (!(fabs(x_ - y_) <= (tolerance))) fail_msg("line %d: %.17g, expected %.17g", __LINE__, x_, y_);   \
    } while (0)

static oht_backend *be;
static oht_comm *comm;
static char folder[] = "/tmp/oht-outliers-XXXXXX";

static int begin(void **state) {
    (void)state;
    oht_h5_silence();
    oht_log_init(1, true, "lines");
    if (!mkdtemp(folder)) return -1;
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    char command[128];
    oht_backend_destroy(be);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void refused(oht_status got, oht_status code, const char *word) {
    if (got != code || !strstr(oht_error_last()->text, word))
        fail_msg("got status %d: %s\nexpected status %d and '%s'", got, oht_error_last()->text, code, word);
}

static double rnd(uint32_t i) { // uniform in (-1, 1)
    return 2.0 * (double)oht_uniform(oht_random_block(3, OHT_DRAW_TEST, i, 0, 0, 0).v[0]) - 1.0;
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
        int64_t n = 2 + (int64_t)(2499.0 * (1 + rnd(7 * trial)));
        double offset = trial % 3 == 0 ? 0 : trial % 3 == 1 ? 1e4 : -0.3, scale = trial % 5 == 0 ? 1e-3 : 1;
        for (int64_t i = 0; i < n; i++) x[i] = offset + scale * rnd(100000 * (trial + 1) + (uint32_t)i);
        x[n / 3] += 50 * scale; // an outlier
        oht_moments sum = {0};
        for (int64_t at = 0; at < n;) { // cuts of odd sizes, empty and single parts among them
            int64_t some = (int64_t)(fabs(rnd((uint32_t)(trial * 1000 + at))) * (trial % 2 ? 10 : 1000));
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

// A graph that has only taps; the tests call the observer as the graph would.
typedef struct tap_spec {
    const char *name;
    oht_tap_kind kind;
    int roles, layer;
} tap_spec;

static oht_graph *graph_of(const tap_spec *tap, int n, int64_t rows, int64_t tokens) {
    oht_graph *g;
    oht_params *p;
    OK(oht_params_create(&p));
    OK(oht_params_layout(p));
    OK(oht_graph_create(&g, be, p, OHT_EVAL, rows, tokens));
    const int64_t dim[2] = {rows, tokens};
    oht_value x = oht_input(g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, dim);
    for (int i = 0; i < n; i++)
        assert_true(oht_tap(g, x, tap[i].name, tap[i].kind, tap[i].roles, tap[i].layer).id >= 0);
    oht_params_destroy(p);
    return g;
}

// Shows x to tap `index`.
static void show(oht_stats *s, const oht_graph *g, int index, float *x, int rank, int64_t a, int64_t b,
                 int64_t c, int64_t sample0) {
    const oht_tap_info *info;
    oht_run run = {.be = be, .rows = a, .sample0 = (uint32_t)sample0, .stride = 1};
    oht_tensor t = {.data = x, .dtype = OHT_F32, .rank = rank, .dim = {a, b, c}};
    oht_graph_taps(g, &info);
    oht_observer *o = oht_stats_observer(s);
    o->see(o, &run, &info[index], t);
}

static void metrics_of_the_golden_example(void **state) {
    (void)state;
    const tap_spec taps[] = {{"layer0", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_IN_FFN_INF, 0},
                             {"layer1", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_IN_LAYER_INF, 1},
                             {"unused", OHT_TAP_SEQUENCE, 0, 1}};
    oht_graph *g = graph_of(taps, 3, 2, 4);
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
            show(s, g, i, x, 3, (int64_t)n / 4, 2, 2, (int64_t)b * 2);
            free(x);
        }
    }
    float loud[8] = {1000, 0, 0, 0, 0, 0, 0, 0};
    show(s, g, 2, loud, 3, 2, 2, 2, 0);
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
    oht_graph *g = graph_of(taps, 2, B, T);
    oht_stats *s;
    float x[B * T * C];
    double wide[B * T * C], inf[2] = {0}, kurtosis[2] = {0};
    for (uint32_t i = 0; i < B * T * C; i++) x[i] = (float)rnd(i), wide[i] = (double)x[i];
    x[1 * T * C + 2 * C + 5] = -9, wide[1 * T * C + 2 * C + 5] = -9;
    OK(oht_stats_create(&s, g, 1));
    uint64_t before = oht_alloc_count();
    const int64_t ids[B] = {700, 123, 5};
    oht_stats_row_ids(s, ids);
    show(s, g, 0, x, 3, B, T, C, 0);
    show(s, g, 1, x, 3, B, T, C, 0);
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
    show(s, g, 0, x, 3, B, T, C, 0);
    assert_int_equal(t[0].rows, 2 * B);
    assert_int_equal(t[0].kurtosis_rows, B);
    // infinity norm switched off, kurtosis on
    oht_stats_count_kurtosis(s, true);
    oht_stats_count_inf(s, false);
    show(s, g, 0, x, 3, B, T, C, 0);
    assert_int_equal(t[0].rows, 3 * B);
    assert_int_equal(t[0].inf_rows, 2 * B);
    assert_int_equal(t[0].kurtosis_rows, 2 * B);
    NEAR(t[0].inf_sum, 2 * inf[0], 1e-12);
    oht_stats_count_inf(s, true);
    oht_stats_reset(s);
    assert_int_equal(t[0].rows, 0);
    assert_int_equal(t[0].max_sample, -1);
    // a micro-batch with fewer rows, and with none
    show(s, g, 0, x, 3, 1, T, C, 0);
    show(s, g, 0, x, 3, 0, T, C, 0);
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
    oht_graph *g = graph_of(taps, 1, 1, 2);
    float a[4] = {0, 0, 0, 5}, b[4] = {0, -5, 5, 0}, c[4] = {1, 2, 3, 4};
    float *row[3] = {a, b, c};
    const int64_t ids[3] = {40, 7, 2};
    static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (int k = 0; k < 6; k++) {
        oht_stats *s;
        OK(oht_stats_create(&s, g, 1));
        for (int i = 0; i < 3; i++) {
            oht_stats_row_ids(s, &ids[order[k][i]]);
            show(s, g, 0, row[order[k][i]], 3, 1, 2, 2, 0);
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
    oht_graph *g = graph_of(taps, 4, 2, 2);
    oht_stats *s;
    OK(oht_stats_create(&s, g, 2));
    float good[8] = {1, 2, 3, 4, 5, 6, 7, 8}, bad[8] = {1, 2, 3, NAN, 5, INFINITY, 7, 8},
          pi[4] = {0.5f, 0.5f, NAN, 0.5f};
    show(s, g, 0, good, 3, 2, 2, 2, 0);
    assert_null(oht_stats_first_nonfinite(s));
    show(s, g, 3, bad, 3, 2, 2, 2, 0);
    assert_string_equal(oht_stats_first_nonfinite(s), "c");
    show(s, g, 2, bad, 3, 2, 2, 2, 0);
    show(s, g, 2, good, 3, 2, 2, 2, 50);
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
    show(s, g, 1, pi, 2, 2, 2, 0, 0);
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
    oht_graph *g = graph_of(taps, 4, 2, T);
    oht_stats *s;
    OK(oht_stats_create(&s, g, H));
    float row[2 * H * T], pi[2 * T * H];
    double null[H] = {0}, gate[H] = {0};
    for (uint32_t i = 0; i < 2 * H * T; i++) row[i] = (float)fabs(rnd(i)), pi[i] = (float)fabs(rnd(100 + i));
    for (int b = 0; b < 2; b++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                double n = exp(-(double)row[(b * H + h) * T + t]), p = (double)pi[(b * T + t) * H + h];
                null[h] += n / (3 * T) * (b == 0 ? 2 : 1); // sample 0 is shown twice: 3 samples
                gate[h] += p / (3 * T) * (b == 0 ? 2 : 1);
            }
    show(s, g, 2, row, 3, 2, H, T, 0);
    show(s, g, 2, row, 3, 1, H, T, 0);
    show(s, g, 3, pi, 3, 2, T, H, 0);
    show(s, g, 3, pi, 3, 1, T, H, 0);
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

// ---- the report ----

enum { ROWS = 2, TOKENS = 4, WIDTH = 6, HEADS = 2 };
static const tap_spec report_taps[] = {{"layer.0.out", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS, 0},
                                       {"layer.0.null", OHT_TAP_NULL_MASS, 0, 0},
                                       {"layer.1.ffn.out", OHT_TAP_TOKEN, OHT_IN_INF | OHT_IN_KURTOSIS, 1},
                                       {"layer.1.null", OHT_TAP_NULL_MASS, 0, 1},
                                       {"layer.1.gate", OHT_TAP_GATE, 0, 1}};

// Statistics of step `step`: values that a reader can predict.
static void measure(oht_stats *s, const oht_graph *g, int64_t step) {
    float x[ROWS * TOKENS * WIDTH], row[ROWS * HEADS * TOKENS];
    const int64_t ids[2] = {100 + step, 200 + step};
    for (uint32_t i = 0; i < ROWS * TOKENS * WIDTH; i++) x[i] = (float)rnd(i + 1000 * (uint32_t)step);
    for (int i = 0; i < ROWS * HEADS * TOKENS; i++) row[i] = (float)step;
    x[(1 * TOKENS + 3) * WIDTH + 4] = -(float)(10 + step);
    oht_stats_reset(s);
    oht_stats_row_ids(s, ids);
    show(s, g, 0, x, 3, ROWS, TOKENS, WIDTH, 0);
    show(s, g, 1, row, 3, ROWS, HEADS, TOKENS, 0);
    show(s, g, 2, x, 3, ROWS, TOKENS, WIDTH, 0);
    show(s, g, 3, row, 3, ROWS, HEADS, TOKENS, 0);
    show(s, g, 4, row, 3, ROWS, TOKENS, HEADS, 0);
    OK(oht_stats_reduce(s, comm));
}

static const char *report_path(void) {
    static char path[64];
    snprintf(path, sizeof(path), "%s/outliers.h5", folder);
    return path;
}

static void steps(oht_report *r, oht_stats *s, const oht_graph *g, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; step++) {
        measure(s, g, step);
        OK(oht_report_append(r, step, s));
        OK(oht_report_curve(r, step, 1.0 / (double)step, 1e-3, 0.5));
        if (step % 5 != 0) continue;
        oht_eval_result e = {
            .loss = 0.1 * (double)step, .perplexity = INFINITY, .sequences = 8, .batches = 2};
        oht_stats_metrics(s, &e.outliers);
        OK(oht_report_eval(r, step, &e, s));
    }
}

// A report of steps 1..last with evaluations at 5, 10, ...
static void assert_report(const oht_stats *s, int64_t last) {
    oht_h5 *f;
    oht_h5_shape shape;
    char **name, group[32];
    int64_t n, number;
    double real;
    (void)s;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_read_strings(f, "/activations/tap", &name, &n));
    assert_int_equal(n, 2);
    assert_string_equal(name[0], "layer.0.out");
    assert_string_equal(name[1], "layer.1.ffn.out");
    for (int i = 0; i < 2; i++) oht_free(name[i]);
    oht_free(name);
    static const char *const growing[] = {
        "activations/step",    "activations/rms",     "activations/max_channel",
        "attention/null_mass", "attention/gate_mean", "attention/step",
        "train/loss",          "train/step",          "train/lr"};
    for (size_t i = 0; i < sizeof(growing) / sizeof(growing[0]); i++) {
        OK(oht_h5_shape_of(f, growing[i], -1, -1, &shape));
        assert_int_equal(shape.dim[0], last);
    }
    for (int64_t row = 0; row < last; row++) {
        int64_t step, sample[2];
        int32_t token[2], channel[2];
        float max[2], mean[2], heads[4];
        double loss;
        OK(oht_h5_read(f, "activations/step", row, 1, OHT_H5_I64, &step));
        assert_int_equal(step, row + 1);
        OK(oht_h5_read(f, "activations/inf_norm_max", row, 1, OHT_H5_F32, max));
        OK(oht_h5_read(f, "activations/inf_norm_mean", row, 1, OHT_H5_F32, mean));
        OK(oht_h5_read(f, "activations/max_sample", row, 1, OHT_H5_I64, sample));
        OK(oht_h5_read(f, "activations/max_token", row, 1, OHT_H5_I32, token));
        OK(oht_h5_read(f, "activations/max_channel", row, 1, OHT_H5_I32, channel));
        for (int k = 0; k < 2; k++) {
            assert_true(max[k] == (float)(10 + step) && mean[k] < max[k]);
            assert_int_equal(sample[k], 200 + step);
            assert_int_equal(token[k], 3);
            assert_int_equal(channel[k], 4);
        }
        OK(oht_h5_read(f, "attention/null_mass", row, 1, OHT_H5_F32, heads));
        NEAR((double)heads[3], exp(-(double)step), 1e-6);
        OK(oht_h5_read(f, "train/loss", row, 1, OHT_H5_F64, &loss));
        NEAR(loss, 1.0 / (double)step, 0);
    }
    for (int64_t k = 0; k < last / 5; k++) {
        float kurtosis[2];
        snprintf(group, sizeof(group), "/eval/%lld", (long long)k);
        OK(oht_h5_get_int(f, group, "step", &number));
        assert_int_equal(number, 5 * (k + 1));
        OK(oht_h5_get_float(f, group, "loss", &real));
        NEAR(real, 0.5 * (double)(k + 1), 1e-12);
        OK(oht_h5_get_float(f, group, "perplexity", &real));
        assert_true(isinf(real));
        OK(oht_h5_get_float(f, group, "avg_kurtosis", &real));
        snprintf(group, sizeof(group), "/eval/%lld/kurtosis", (long long)k);
        OK(oht_h5_read(f, group, 0, 2, OHT_H5_F32, kurtosis));
        NEAR(0.5 * (double)(kurtosis[0] + kurtosis[1]), real, 1e-5);
    }
    snprintf(group, sizeof(group), "/eval/%lld", (long long)(last / 5));
    assert_false(oht_h5_exists(f, group));
    oht_h5_close(f);
}

// h5py and xarray as a user has them; exit 77 when they are not installed.
static void assert_python_reads_it(int64_t last) {
    char command[512];
    snprintf(command, sizeof(command), "/usr/bin/python3 %s/tests/e2e/report_h5py.py %s %lld", OHT_SOURCE_DIR,
             report_path(), (long long)last);
    int how = system(command);
    if (WIFEXITED(how) && (WEXITSTATUS(how) == 77 || WEXITSTATUS(how) == 127))
        print_message("h5py or xarray missing: not tried\n");
    else
        assert_int_equal(how, 0);
}

// compat.all_modules: evaluation taps more than training does; they go into a group of their own.
static void modules_have_their_own_group(void **state) {
    (void)state;
    static const tap_spec more[] = {{"embed.patches", OHT_TAP_SEQUENCE, OHT_MODULES_ALONE | OHT_MODULES(3), -1},
                                    {"layer.0.out", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_MODULES(1), 0},
                                    {"layer.0.ffn1.in", OHT_TAP_SEQUENCE,
                                     OHT_MODULES_ALONE | OHT_MODULES(1) | OHT_IN_MLP_MODULES, 0}};
    oht_graph *g = graph_of(more + 1, 1, ROWS, TOKENS), *all = graph_of(more, 3, ROWS, TOKENS);
    oht_graph_module_taps(all, true);
    oht_stats *s, *seen;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_stats_create(&seen, all, HEADS));
    double inf[3], kurtosis[3];
    for (int k = 0; k < 3; k++) {
        float x[ROWS * TOKENS * WIDTH];
        for (uint32_t i = 0; i < ROWS * TOKENS * WIDTH; i++) x[i] = (float)rnd(i + 5000 * (uint32_t)(k + 1)) * (float)(3 - k);
        show(seen, all, k, x, 3, ROWS, TOKENS, WIDTH, 0);
    }
    OK(oht_stats_reduce(seen, comm));
    const oht_tap_stats *t;
    assert_int_equal(oht_stats_taps(seen, NULL, &t), 3);
    for (int k = 0; k < 3; k++) inf[k] = t[k].inf_sum / ROWS, kurtosis[k] = t[k].kurtosis_sum / ROWS;
    oht_eval_result e = {.task = OHT_TASK_IMAGES, .sequences = ROWS};
    oht_stats_metrics(seen, &e.outliers);
    assert_int_equal(e.outliers.all_modules, 5);
    NEAR(e.outliers.all_avg_kurtosis, (3 * kurtosis[0] + kurtosis[1] + kurtosis[2]) / 5, 1e-12);
    NEAR(e.outliers.all_max_kurtosis, fmax(fmax(kurtosis[0], kurtosis[1]), kurtosis[2]), 0);
    NEAR(e.outliers.all_ffn_inf_norm, inf[2], 0);
    NEAR(e.outliers.max_inf_norm, inf[1], 0); // the clean set does not see the others
    NEAR(e.outliers.avg_kurtosis, kurtosis[1], 0);

    oht_report *none;
    assert_int_equal(oht_report_open(&r, report_path(), &cfg, s, 0), OHT_OK);
    OK(oht_report_eval(r, 1, &e, seen));
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    OK(oht_report_open(&none, report_path(), &cfg, s, 1)); // and it can be gone on with
    oht_report_close(none);
    oht_h5 *f;
    char **name;
    int64_t n;
    double real;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_get_float(f, "/eval/0", "all_modules_kurtosis", &real));
    NEAR(real, e.outliers.all_avg_kurtosis, 1e-12);
    OK(oht_h5_read_strings(f, "/eval/0/tap", &name, &n));
    assert_int_equal(n, 1); // those of training
    assert_string_equal(name[0], "layer.0.out");
    oht_free(name[0]);
    oht_free(name);
    OK(oht_h5_read_strings(f, "/eval/0/modules/tap", &name, &n));
    assert_int_equal(n, 3);
    int32_t times[3];
    float norm[3];
    OK(oht_h5_read(f, "/eval/0/modules/times", 0, 3, OHT_H5_I32, times));
    OK(oht_h5_read(f, "/eval/0/modules/inf_norm_mean", 0, 3, OHT_H5_F32, norm));
    for (int k = 0; k < 3; k++) {
        assert_string_equal(name[k], more[k].name);
        assert_int_equal(times[k], k == 0 ? 3 : 1);
        NEAR((double)norm[k], inf[k], 1e-6);
        oht_free(name[k]);
    }
    oht_free(name);
    oht_h5_close(f);
    oht_stats_destroy(s);
    oht_stats_destroy(seen);
    oht_graph_destroy(g);
    oht_graph_destroy(all);
}

static void a_report_is_read_back_and_cut(void **state) {
    (void)state;
    oht_graph *g = graph_of(report_taps, 5, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    assert_report(s, 0); // there from the start
    steps(r, s, g, 1, 150); // more rows than a chunk
    OK(oht_report_publish(r, true));
    assert_report(s, 150);
    assert_python_reads_it(150);
    oht_report_close(r);
    // resumed at 57: as if 58..150 had never been
    OK(oht_report_open(&r, report_path(), &cfg, s, 57));
    assert_report(s, 57);
    steps(r, s, g, 58, 70);
    OK(oht_report_publish(r, true));
    assert_report(s, 70);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 60)); // exactly at an evaluation: it stays
    assert_report(s, 60);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 1000)); // nothing to cut
    assert_report(s, 60);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 3));
    assert_report(s, 3);
    assert_python_reads_it(3);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 0)); // from the start
    assert_report(s, 0);
    oht_report_close(r);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

// PATH.damaged-N holds what was at PATH, and a new, empty report is there.
static void assert_set_aside(const oht_stats *s, const oht_config *cfg, int n) {
    char name[128], before[128], command[500];
    oht_report *r;
    snprintf(name, sizeof(name), "%s.damaged-%d", report_path(), n);
    snprintf(before, sizeof(before), "%s.before", report_path());
    snprintf(command, sizeof(command), "cp -r '%s' '%s'", report_path(), before);
    assert_int_equal(system(command), 0);
    OK(oht_report_open(&r, report_path(), cfg, s, 5));
    assert_report(s, 0);
    assert_int_equal(oht_report_evaluated(r), -1);
    oht_report_close(r);
    snprintf(command, sizeof(command), "diff -r '%s' '%s' && rm -r '%s'", name, before, before);
    assert_int_equal(system(command), 0);
}

static void a_foreign_or_damaged_report_is_set_aside(void **state) {
    (void)state;
    oht_graph *g = graph_of(report_taps, 5, ROWS, TOKENS),
              *other = graph_of(report_taps + 2, 3, ROWS, TOKENS);
    oht_stats *s, *t;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_stats_create(&t, other, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, t, 0));
    oht_report_close(r);
    assert_set_aside(s, &cfg, 1); // of another model

    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    steps(r, s, g, 1, 10);
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    oht_h5 *f;
    OK(oht_h5_load_memory(&f, report_path()));
    OK(oht_h5_truncate(f, "/activations/rms", 4)); // its step axis has 10 rows
    OK(oht_h5_publish(f));
    oht_h5_close(f);
    assert_set_aside(s, &cfg, 2);

    assert_int_equal(truncate(report_path(), 5000), 0);
    assert_set_aside(s, &cfg, 3);
    OK(oht_file_replace(report_path(), "", 0));
    assert_set_aside(s, &cfg, 4);
    assert_int_equal(unlink(report_path()), 0);
    assert_int_equal(mkdir(report_path(), 0777), 0);
    assert_set_aside(s, &cfg, 5);
    refused(oht_report_open(&r, "/nonexistent/outliers.h5", &cfg, s, 5), OHT_IO, "/nonexistent/outliers.h5");
    assert_null(r);
    oht_stats_destroy(s);
    oht_stats_destroy(t);
    oht_graph_destroy(g);
    oht_graph_destroy(other);
}

static int64_t published_rows(void) {
    oht_h5 *f;
    oht_h5_shape shape;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_shape_of(f, "/activations/step", 1, OHT_H5_I64, &shape));
    oht_h5_close(f);
    return shape.dim[0];
}

static void publication_waits_for_its_time(void **state) {
    (void)state;
    oht_graph *g = graph_of(report_taps, 5, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    cfg.outliers.publish_s = 3600;
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    steps(r, s, g, 1, 3);
    OK(oht_report_publish(r, false));
    assert_int_equal(published_rows(), 0); // not due
    OK(oht_report_publish(r, true));
    assert_int_equal(published_rows(), 3);
    oht_report_close(r);
    cfg.outliers.publish_s = 0;
    OK(oht_report_open(&r, report_path(), &cfg, s, 2));
    steps(r, s, g, 3, 4);
    OK(oht_report_publish(r, false));
    assert_int_equal(published_rows(), 4);
    struct stat before, after;
    assert_int_equal(stat(report_path(), &before), 0);
    OK(oht_report_publish(r, true)); // nothing new: the same file
    assert_int_equal(stat(report_path(), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    oht_report_close(r);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

static void without_attention_taps_there_is_no_such_group(void **state) {
    (void)state;
    oht_graph *g = graph_of(report_taps, 1, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_h5 *f;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    OK(oht_report_append(r, 1, s)); // nothing seen: missing values, not zeros
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    OK(oht_h5_open(&f, report_path()));
    assert_false(oht_h5_exists(f, "/attention"));
    float x = 0;
    OK(oht_h5_read(f, "/activations/inf_norm_max", 0, 1, OHT_H5_F32, &x));
    assert_true(isnan(x));
    OK(oht_h5_read(f, "/activations/kurtosis", 0, 1, OHT_H5_F32, &x));
    assert_true(isnan(x));
    oht_h5_close(f);
    OK(oht_report_open(&r, report_path(), &cfg, s, 1));
    oht_report_close(r);
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
        cmocka_unit_test(modules_have_their_own_group),
        cmocka_unit_test(a_report_is_read_back_and_cut),
        cmocka_unit_test(a_foreign_or_damaged_report_is_set_aside),
        cmocka_unit_test(publication_waits_for_its_time),
        cmocka_unit_test(without_attention_taps_there_is_no_such_group),
    };
    if (oht_comm_init(&argc, &argv, &comm) != OHT_OK) return 1;
    int failed = cmocka_run_group_tests(tests, begin, end);
    oht_comm_finalize(comm);
    return failed;
}
