// Association of short rows and the layout kernels of time series against golden vectors (stanhop.json) and double precision.
// A row x of scores goes through the kernel as one query 1 against keys x_j of width 1; values are the upstream gradient, so
// that d loss / d keys is f'.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "kernel_test.h"

static json_t *golden;

static int load(void **state) {
    (void)state;
    golden = golden_load("stanhop");
    return 0;
}
static int unload(void **state) {
    (void)state;
    json_decref(golden);
    kt_reset();
    return 0;
}

typedef struct row_result {
    oht_tensor p, dx, da;
} row_result;

// mode as in the vectors; alpha through its raw scalar.
static row_result run_row(const char *mode, double raw, double range, const double *x, const double *g, int64_t n) {
    oht_backend *be = kt_backend();
    oht_hopfield hf = {.beta = 1.0f, .heads = 1, .alpha_range = (float)range};
    hf.f.kind = strstr(mode, "softmax1") ? OHT_SOFTMAX1
                : strcmp(mode, "sparsemax") == 0 ? OHT_SPARSEMAX
                : strcmp(mode, "entmax15") == 0  ? OHT_ENTMAX15
                                                 : OHT_SOFTMAX;
    hf.learns_alpha = strcmp(mode, "entmax") == 0;
    hf.f.clipped = strncmp(mode, "clip", 4) == 0;
    hf.f.gamma = -0.1;
    hf.f.zeta = 1.1;
    const double one = 1.0;
    oht_tensor q = kt_from(&one, 1, 1, 1, 1), k = kt_from(x, 1, 1, n, 1), v = kt_from(g, 1, 1, n, 1), a = kt_from(&raw, 1, 0, 0, 0);
    oht_tensor out = kt_zeros(1, 1, 1, 1), p = kt_zeros(1, 1, 1, n), base = kt_zeros(1, 1, 1, n);
    row_result r = {p, kt_zeros(1, 1, n, 1), kt_zeros(1, 0, 0, 0)};
    oht_tensor dq = kt_zeros(1, 1, 1, 1), dv = kt_zeros(1, 1, n, 1), dout = kt_from(&one, 1, 1, 1, 1);
    if (!hf.learns_alpha) a = r.da = OHT_NO_TENSOR;
    void *scratch = kt_scratch(be->hopfield_scratch(be, &hf, 1, 1, n, 1));
    kt_poison(p);
    kt_poison(r.dx);
    be->hopfield_fwd(be, out, p, q, k, v, a, &hf, scratch);
    hf.keep_base = true;
    be->hopfield_fwd(be, out, base, q, k, v, a, &hf, scratch);
    be->hopfield_bwd(be, dq, r.dx, dv, r.da, dout, base, q, k, v, a, &hf, (bool[4]){false}, scratch);
    return r;
}

static void close_to(const char *what, const char *row, double alpha, oht_tensor got, const double *want, double tolerance) {
    double e = kt_error(got, want);
    if (!(e <= tolerance)) fail_msg("%s of row %s, alpha %g: off by %g", what, row, alpha, e);
}

static double raw_of(double alpha, double range) { // 1 + range sigmoid(a) = alpha
    double s = (alpha - 1.0) / range;
    return log(s / (1.0 - s));
}

static void rows_match(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "association");
    int seen = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        const char *mode = golden_string(c, "mode"), *row = golden_string(c, "row");
        if (strcmp(mode, "entmax_alpha_to_1_limit") == 0) continue; // below
        bool from_raw = strcmp(mode, "entmax_raw") == 0;
        size_t n;
        double *x, *g;
        if (from_raw) { // its x and g are row A's
            x = golden_doubles(golden_at(all, 0), "x", &n);
            g = golden_doubles(golden_at(all, 0), "g", &n);
        } else {
            x = golden_doubles(c, "x", &n);
            g = golden_doubles(c, "g", &n);
        }
        double *y = golden_doubles(c, "y", NULL), *dx = golden_doubles(c, "dx", NULL), range = 2.0, raw = 0.0, alpha = 0.0;
        if (from_raw) {
            range = golden_number(c, "range");
            raw = golden_number(c, "raw");
            mode = "entmax";
        } else if (strcmp(mode, "entmax") == 0) {
            alpha = golden_number(c, "alpha");
            raw = raw_of(alpha, range);
        }
        row_result r = run_row(mode, raw, range, x, g, (int64_t)n);
        close_to("p", row, alpha, r.p, y, 3e-6);
        close_to("dx", row, alpha, r.dx, dx, 1e-5);
        if (from_raw) {
            double want = golden_number(c, "draw");
            close_to("d raw alpha", row, alpha, r.da, &want, 2e-6);
        } else if (alpha > 0.0) {
            double s = (alpha - 1.0) / range, want = golden_number(c, "dalpha") * range * s * (1.0 - s);
            close_to("d raw alpha", row, alpha, r.da, &want, 1e-5);
        }
        free(x);
        free(g);
        free(y);
        free(dx);
        seen++;
    }
    assert_true(seen > 40);
}

// alpha close to 1: p is softmax, and the derivative for alpha tends to the limit.
static void alpha_near_one(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "association");
    int seen = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        if (strcmp(golden_string(c, "mode"), "entmax_alpha_to_1_limit") != 0) continue;
        size_t n;
        double *x = golden_doubles(c, "x", &n), *g = golden_doubles(c, "g", NULL);
        row_result soft = run_row("softmax", 0, 2, x, g, (int64_t)n);
        double *p = kt_double(soft.p), limit = golden_number(c, "dalpha");
        for (double d = 1e-8; d < 2e-3; d *= 10.0) {
            double s = d / 2.0;
            row_result r = run_row("entmax", raw_of(1.0 + d, 2.0), 2.0, x, g, (int64_t)n);
            close_to("p", golden_string(c, "row"), 1.0 + d, r.p, p, 1e-6 + 10.0 * d);
            double got = (double)oht_f32(r.da)[0] / (2.0 * s * (1.0 - s));
            if (!(fabs(got - limit) <= (1e-4 + 30.0 * d) * fmax(1.0, fabs(limit))))
                fail_msg("d alpha at 1 + %g: %g, the limit is %g", d, got, limit);
        }
        free(x);
        free(g);
        seen++;
    }
    assert_int_equal(seen, 3);
}

static void extremes(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "association_extreme");
    static const char *const KEY[] = {"softmax1", "sparsemax", "entmax15", "entmax_1_2", "entmax_2_6"};
    static const double ALPHA[] = {0, 0, 0, 1.2, 2.6};
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        size_t n;
        double *x = golden_doubles(c, "x", &n), g[8] = {1, -2, 3, -4, 5, -6, 7, -8};
        for (int m = 0; m < 5; m++) {
            double *y = golden_doubles(c, KEY[m], NULL);
            row_result r = run_row(m > 2 ? "entmax" : KEY[m], m > 2 ? raw_of(ALPHA[m], 2) : 0, 2, x, g, (int64_t)n);
            close_to(KEY[m], golden_string(c, "name"), ALPHA[m], r.p, y, 3e-6);
            for (size_t j = 0; j < n; j++) assert_true(isfinite(oht_f32(r.dx)[j]));
            if (n == 1 && m > 0) assert_true(fabsf(oht_f32(r.dx)[0]) < 1e-6f); // p is constant
            free(y);
        }
        free(x);
    }
}

// NaN among the scores is noticed.
static void nan_stays(void **state) {
    (void)state;
    const double x[3] = {0.1, NAN, 0.3}, g[3] = {1, 1, 1};
    static const char *const MODE[] = {"softmax", "softmax1", "entmax"};
    for (int m = 0; m < 3; m++) {
        row_result r = run_row(MODE[m], 0.2, 2, x, g, 3);
        bool any = false;
        for (int j = 0; j < 3; j++) any |= isnan(oht_f32(r.p)[j]);
        if (!any) fail_msg("%s hides a NaN", MODE[m]);
    }
}

static void mix_is_the_published_permutation(void **state) {
    (void)state;
    const json_t *c = golden_get(golden, "mix_index");
    size_t n;
    double *map = golden_doubles(c, "map", &n);
    int64_t L = (int64_t)golden_number(c, "L"), H = (int64_t)golden_number(c, "H"), C = (int64_t)n / L;
    oht_tensor x = kt_normal(3, 1.0f, 2, 2, L, C), y = kt_zeros(2, 2, L, C), back = kt_zeros(2, 2, L, C);
    kt_poison(y);
    kt_poison(back);
    oht_backend *be = kt_backend();
    be->mix_heads(be, y, x, (int)H, false, false);
    be->mix_heads(be, back, y, (int)H, true, false);
    for (size_t g = 0; g < 4; g++)
        for (size_t i = 0; i < n; i++)
            assert_true(oht_f32(y)[g * n + i] == oht_f32(x)[g * n + (size_t)map[i]]);
    assert_true(kt_same_bits(x, back));
    free(map);
}

static void merging_takes_the_published_segments(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "segment_merging");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        size_t n;
        double *from = golden_doubles(c, "source_segments", &n);
        int64_t L = (int64_t)golden_number(c, "L"), w = (int64_t)golden_number(c, "win"), P = (int64_t)n;
        oht_tensor x = kt_normal(5, 1.0f, 2, 3, L, 2), y = kt_zeros(2, 3, P / w, 2 * w), dx = kt_zeros(2, 3, L, 2);
        oht_backend *be = kt_backend();
        be->merge_fwd(be, y, x);
        be->merge_bwd(be, dx, y, false);
        for (int64_t r = 0; r < 6; r++) {
            double want[16] = {0};
            for (int64_t p = 0; p < P; p++)
                for (int64_t e = 0; e < 2; e++) {
                    float v = oht_f32(x)[(r * L + (int64_t)from[p]) * 2 + e];
                    assert_true(oht_f32(y)[(r * P + p) * 2 + e] == v);
                    want[(int64_t)from[p] * 2 + e] += (double)v;
                }
            for (int64_t e = 0; e < 2 * L; e++) assert_true(fabs(want[e] - (double)oht_f32(dx)[r * 2 * L + e]) < 1e-6);
        }
        free(from);
    }
}

// Padded on the left by the first row, cropped on the right; the mean of the unpadded series is added.
static void segments_pad_and_crop(void **state) {
    (void)state;
    enum { N = 2, T = 10, M = 3, S = 4, LEN = 3, U = 9 };
    oht_tensor x = kt_normal(7, 1.0f, N, T, M, 0), y = kt_zeros(N, M, LEN, S), z = kt_zeros(N, U, M, 0);
    oht_backend *be = kt_backend();
    be->segment(be, y, x);
    be->unsegment_fwd(be, z, y, x);
    for (int b = 0; b < N; b++)
        for (int m = 0; m < M; m++) {
            double mean = 0.0;
            for (int t = 0; t < T; t++) mean += (double)oht_f32(x)[(b * T + t) * M + m] / T;
            for (int t = 0; t < LEN * S; t++) {
                float want = oht_f32(x)[(b * T + (t > 2 ? t - 2 : 0)) * M + m];
                assert_true(oht_f32(y)[(b * M + m) * LEN * S + t] == want);
                if (t < U) assert_true(fabs((double)oht_f32(z)[(b * U + t) * M + m] - (double)want - mean) < 1e-6);
            }
        }
    oht_tensor dy = kt_normal(8, 1.0f, N, U, M, 0), dx = kt_zeros(N, M, LEN, S);
    kt_poison(dx);
    be->unsegment_bwd(be, dx, dy, false);
    for (int i = 0; i < N * M; i++)
        for (int t = 0; t < LEN * S; t++)
            assert_true(oht_f32(dx)[i * LEN * S + t] == (t < U ? oht_f32(dy)[(i / M * U + t) * M + i % M] : 0.0f));
}

// Odd shapes against double: all products, own and shared patterns, both layouts, values apart or the keys themselves.
typedef struct assoc_case {
    int64_t B, G, L, S, C, H;
    bool shared, mix, same;
} assoc_case;

static double reference_loss(const assoc_case *c, const double *q, const double *k, const double *v, const double *u, double beta) {
    int64_t D = c->C / c->H;
    double loss = 0.0;
    for (int64_t g = 0; g < c->B * c->G; g++)
        for (int64_t h = 0; h < c->H; h++)
            for (int64_t i = 0; i < c->L; i++) {
                const double *kg = k + (c->shared ? 0 : g * c->S * c->C), *vg = v + (c->shared ? 0 : g * c->S * c->C);
                double e[128], sum = 1.0;
                for (int64_t j = 0; j < c->S; j++) {
                    double s = 0.0;
                    for (int64_t d = 0; d < D; d++) s += q[(g * c->L + i) * c->C + h * D + d] * kg[j * c->C + h * D + d];
                    sum += e[j] = exp(beta * s);
                }
                for (int64_t d = 0; d < D; d++) {
                    double o = 0.0;
                    for (int64_t j = 0; j < c->S; j++) o += e[j] / sum * vg[j * c->C + h * D + d];
                    loss += o * u[g * c->L * c->C + (c->mix ? (h * c->L + i) * D + d : i * c->C + h * D + d)];
                }
            }
    return loss;
}

typedef struct assoc_problem {
    const assoc_case *c;
    double *q, *k, *v, *u, beta;
} assoc_problem;
static double problem_loss(const void *p_) {
    const assoc_problem *p = p_;
    return reference_loss(p->c, p->q, p->k, p->c->same ? p->k : p->v, p->u, p->beta);
}

static void odd_shapes_equal_double(void **state) {
    (void)state;
    static const assoc_case CASE[] = {
        {2, 3, 5, 7, 12, 2, false, true, false}, {1, 2, 28, 28, 64, 1, false, true, false},
        {2, 4, 7, 10, 24, 4, true, true, false}, {3, 2, 1, 1, 6, 3, false, false, false},
        {1, 3, 4, 60, 20, 2, false, false, true}, {2, 2, 9, 33, 70, 2, true, false, true},
        {1, 40, 30, 17, 32, 2, true, true, false}, // more than one thread
    };
    oht_backend *be = kt_backend();
    for (size_t i = 0; i < sizeof(CASE) / sizeof(CASE[0]); i++) {
        const assoc_case *c = &CASE[i];
        oht_hopfield hf = {.f.kind = OHT_SOFTMAX1, .beta = 0.5f, .heads = (int)c->H, .mix = c->mix};
        oht_tensor q = kt_normal(1, 1.0f, c->B, c->G, c->L, c->C);
        oht_tensor k = c->shared ? kt_normal(2, 1.0f, 1, c->S, c->C, 0) : kt_normal(2, 1.0f, c->B, c->G, c->S, c->C);
        oht_tensor v = c->same ? k : c->shared ? kt_normal(3, 1.0f, 1, c->S, c->C, 0) : kt_normal(3, 1.0f, c->B, c->G, c->S, c->C);
        oht_tensor u = kt_normal(4, 1.0f, c->B, c->G, c->L, c->C), out = kt_copy(q), p = kt_zeros(c->B, c->G, c->H * c->L, c->S);
        oht_tensor dq = kt_copy(q), dk = kt_copy(k), dv = c->same ? OHT_NO_TENSOR : kt_copy(v);
        assoc_problem problem = {c, kt_double(q), kt_double(k), kt_double(v), kt_double(u), 0.5};
        void *scratch = kt_scratch(be->hopfield_scratch(be, &hf, c->G, c->L, c->S, c->C));
        kt_poison(out);
        be->hopfield_fwd(be, out, p, q, k, v, OHT_NO_TENSOR, &hf, scratch);
        double got = 0.0, want = problem_loss(&problem);
        for (int64_t e = 0; e < oht_tensor_count(out); e++) got += (double)oht_f32(out)[e] * problem.u[e];
        if (!(fabs(got - want) <= 1e-5 * fmax(1.0, fabs(want)))) fail_msg("case %zu: %g, expected %g", i, got, want);
        for (int pass = 0; pass < 2; pass++) { // overwrites poison, then adds the same again
            bool add = pass == 1;
            if (!add) {
                kt_poison(dq);
                kt_poison(dk);
                if (dv.data) kt_poison(dv);
            }
            be->hopfield_bwd(be, dq, dk, dv, OHT_NO_TENSOR, u, p, q, k, v, OHT_NO_TENSOR, &hf, (bool[4]){add, add, add, add},
                             scratch);
            oht_tensor grad[3] = {dq, dk, dv};
            double *param[3] = {problem.q, problem.k, problem.v};
            for (int t = 0; t < 3; t++) {
                if (!grad[t].data) continue;
                oht_tensor half = kt_copy(grad[t]);
                if (add)
                    for (int64_t e = 0; e < oht_tensor_count(half); e++) oht_f32(half)[e] *= 0.5f;
                double e = kt_gradient_error(param[t], half, problem_loss, &problem, 12, 1e-5);
                if (!(e <= 2e-5)) fail_msg("case %zu, pass %d: gradient %d is off by %g", i, pass, t, e);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_match),
        cmocka_unit_test(alpha_near_one),
        cmocka_unit_test(extremes),
        cmocka_unit_test(nan_stays),
        cmocka_unit_test(mix_is_the_published_permutation),
        cmocka_unit_test(merging_takes_the_published_segments),
        cmocka_unit_test(segments_pad_and_crop),
        cmocka_unit_test(odd_shapes_equal_double),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
