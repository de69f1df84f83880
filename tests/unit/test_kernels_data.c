// Kernels that move, draw, add up or measure: GEMM, tables, gather, dropout, AdamW, moments; the vector math;
// the backend.
#include <float.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/vmath.h"
#include "kernel_test.h"
#include "oht/memory.h"
#include "oht/plugin.h"
#include "oht/random.h"

static void backend_by_name(void **state) {
    (void)state;
    oht_backend *be = NULL;
    assert_int_equal(setenv("OHT_CUDA_PLUGIN", "/nowhere/libohtrain_cuda.so", 1), 0); // whatever this machine has
    static const char *good[] = {"auto", "cpu"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(oht_backend_create(good[i], 0, &be), OHT_OK);
        assert_string_equal(be->name, "cpu");
        void *p;
        assert_int_equal(be->alloc(be, &p, 100, "test"), OHT_OK);
        assert_int_equal((uintptr_t)p % 64, 0);
        char text[4] = "abc", back[4] = "";
        be->upload(be, p, text, 4), be->copy(be, (char *)p + 50, p, 4),
            be->download(be, back, (char *)p + 50, 4);
        assert_string_equal(back, "abc");
        be->zero(be, p, 100);
        assert_int_equal(((char *)p)[50], 0);
        assert_int_equal(be->sync(be), OHT_OK);
        be->free(be, p);
        int n;
        const oht_backend_entry *entry = oht_backend_entries(&n);
        for (int e = 0; e < n; e++) assert_non_null(*(void **)(void *)((char *)be + entry[e].offset)); // none empty
        oht_backend_destroy(be);
    }
    static const char *bad[] = {"", "CPU", "cpu "};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(oht_backend_create(bad[i], 0, &be), OHT_CONFIG);
        assert_null(be);
        assert_non_null(strstr(oht_error_last()->text, "fix: "));
    }
    assert_int_equal(oht_backend_create("cuda", 0, &be), OHT_COMM);
    assert_non_null(strstr(oht_error_last()->text, "/nowhere/libohtrain_cuda.so"));
    assert_non_null(strstr(oht_error_last()->text, "run.device=cpu"));
    unsetenv("OHT_CUDA_PLUGIN");
    oht_backend_destroy(NULL);
}

static void nothing_allocates(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    oht_tensor x = kt_normal(1, 1.0f, 64, 64, 0, 0), y = kt_zeros(64, 64, 0, 0),
               w = kt_normal(2, 1.0f, 64, 64, 0, 0);
    uint64_t before = oht_alloc_count();
    be->linear_fwd(be, y, OHT_NO_TENSOR, x, w, OHT_NO_TENSOR, OHT_ACT_RELU);
    oht_moments m[64];
    be->moments(be, x.data, OHT_F32, 64, 64, m);
    (void)be->sumsq(be, oht_f32(x), 4096);
    assert_int_equal(oht_alloc_count(), before);
    kt_reset();
}

// ---- vector math ----
static void exp_within_two_ulp(void **state) {
    (void)state;
    double worst = 0.0;
    for (float x = -110.0f; x < 90.0f; x += 0.00123f) {
        double want = exp((double)x), got = (double)vexpf(x);
        if (want > (double)FLT_MAX) {
            assert_true(isinf(got) || got > 3.4e38);
            continue;
        }
        double ulp = fmax(0x1p-149, ldexp(1.0, ilogb(want) - 23)), e = fabs(got - want) / ulp;
        if (!(e <= worst)) worst = e;
    }
    assert_true(worst <= 2.0);
    assert_true(vexpf(0.0f) == 1.0f);
    assert_true(vexpf(-INFINITY) == 0.0f);
    assert_true(isinf(vexpf(INFINITY)) && isinf(vexpf(1000.0f)));
    assert_true(vexpf(-3.4e38f) == 0.0f);
    assert_true(isnan(vexpf(NAN)));
}

static void gelu_exact(void **state) {
    (void)state;
    for (float x = -15.0f; x < 15.0f; x += 0.00037f) {
        double X = (double)x, cdf = 0.5 * erfc(-X / sqrt(2.0)),
               slope = cdf + X * exp(-0.5 * X * X) / sqrt(8.0 * atan(1.0));
        float gauss;
        assert_true(fabs((double)vnormal_cdf(x, &gauss) - cdf) <= 1.5e-7);
        assert_true(fabs((double)vgeluf(x) - X * cdf) <= 1.5e-7 * fmax(1.0, fabs(X)));
        assert_true(fabs((double)vgelu_gradf(x) - slope) <= 3e-7);
        assert_true(fabs((double)vsigmoidf(x) - 1.0 / (1.0 + exp(-X))) <= 1.5e-7);
    }
    assert_true(vgeluf(1e30f) == 1e30f && vgeluf(-1e30f) == 0.0f && isnan(vgeluf(NAN)));
    assert_true(vgelu_gradf(50.0f) == 1.0f && vgelu_gradf(-50.0f) == 0.0f);
}

// ---- gemm ----
static void gemm(void **state) {
    (void)state;
    static const int64_t shape[][3] = {{1, 1, 1},     {3, 5, 7},   {65, 130, 33},
                                       {200, 17, 64}, {1, 300, 9}, {128, 128, 1}};
    for (int s = 0; s < 6; s++)
        for (int c = 0; c < 8; c++) {
            oht_backend *be = kt_backend();
            int64_t m = shape[s][0], n = shape[s][1], k = shape[s][2], pad = 3;
            bool ta = c & 1, tb = c & 2;
            float alpha = c & 4 ? -0.5f : 1.0f, beta = c & 4 ? 2.0f : 0.0f;
            int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad;
            oht_tensor a = kt_normal(1, 1.0f, ta ? k : m, lda, 0, 0),
                       b = kt_normal(2, 1.0f, tb ? n : k, ldb, 0, 0);
            oht_tensor C = kt_normal(3, 1.0f, m, ldc, 0, 0);
            if (beta == 0.0f)
                for (int64_t i = 0; i < m; i++)
                    for (int64_t j = 0; j < n; j++) oht_f32(C)[i * ldc + j] = NAN; // beta = 0 overwrites
            double *want = kt_double(C);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < n; j++) {
                    double sum = 0.0;
                    for (int64_t l = 0; l < k; l++)
                        sum += (double)oht_f32(a)[ta ? l * lda + i : i * lda + l] *
                               (double)oht_f32(b)[tb ? j * ldb + l : l * ldb + j];
                    want[i * ldc + j] =
                        (double)alpha * sum + (beta == 0.0f ? 0.0 : (double)beta * want[i * ldc + j]);
                }
            gemm_cpu(be, ta, tb, m, n, k, alpha, oht_f32(a), lda, oht_f32(b), ldb, beta, oht_f32(C), ldc);
            assert_true(kt_error(C, want) <= 2e-6);
            kt_reset();
        }
}

// ---- tables ----
static void embedding(void **state) {
    (void)state;
    for (int add = 0; add < 2; add++)
        for (int padding = -1; padding < 2; padding++) {
            oht_backend *be = kt_backend();
            enum { V = 7, C = 37, N = 600 };
            int32_t id[N];
            for (int i = 0; i < N; i++)
                id[i] =
                    (int32_t)(oht_random_block(1, OHT_DRAW_TEST, 0, 0, 0, (uint32_t)i).v[0] % 6); // 6 unused
            oht_tensor table = kt_normal(1, 1.0f, V, C, 0, 0), ids = kt_ints(id, N), y = kt_zeros(N, C, 0, 0);
            kt_poison(y);
            be->embedding_fwd(be, y, ids, table);
            for (int i = 0; i < N; i++)
                assert_memory_equal(oht_f32(y) + i * C, oht_f32(table) + id[i] * C, C * 4);
            oht_tensor d = kt_normal(2, 1.0f, V, C, 0, 0);
            double *want = add ? kt_double(d) : kt_doubles(V * C);
            if (!add) kt_poison(d);
            be->embedding_bwd(be, d, y, ids, padding, add);
            for (int i = 0; i < N; i++)
                for (int j = 0; j < C && id[i] != padding; j++)
                    want[id[i] * C + j] += (double)oht_f32(y)[i * C + j];
            assert_true(kt_error(d, want) <= 1e-5);
            kt_reset();
        }
}

static void add_rows(void **state) {
    (void)state;
    for (int c = 0; c < 4; c++) {
        oht_backend *be = kt_backend();
        enum { B = 3, T = 33, C = 170, R = 40, OFFSET = 2 };
        bool broadcast = c & 1, add = c & 2;
        oht_tensor x = kt_normal(1, 1.0f, B, T, C, 0), table = kt_normal(2, 1.0f, R, C, 0, 0),
                   y = kt_zeros(B, T, C, 0);
        kt_poison(y);
        be->add_rows_fwd(be, y, x, table, OFFSET, broadcast);
        double *want = kt_double(x);
        for (int i = 0; i < B * T * C; i++)
            want[i] += (double)oht_f32(table)[(OFFSET + (broadcast ? 0 : i / C % T)) * C + i % C];
        assert_true(kt_error(y, want) <= 1e-6);
        oht_tensor d = kt_normal(3, 1.0f, R, C, 0, 0);
        want = add ? kt_double(d) : kt_doubles(R * C);
        if (!add) kt_poison(d);
        be->add_rows_bwd(be, d, x, OFFSET, broadcast, add);
        for (int i = 0; i < B * T * C; i++)
            want[(OFFSET + (broadcast ? 0 : i / C % T)) * C + i % C] += (double)oht_f32(x)[i];
        assert_true(kt_error(d, want) <= 2e-6);
        kt_reset();
    }
}

static void gather(void **state) {
    (void)state;
    for (int add = 0; add < 2; add++) {
        oht_backend *be = kt_backend();
        enum { B = 2, T = 40, C = 133, N = 5 };
        static const int32_t pick[N] = {79, 0, 41, 7, 8};
        oht_tensor x = kt_normal(1, 1.0f, B, T, C, 0), index = kt_ints(pick, N), y = kt_zeros(N, C, 0, 0);
        kt_poison(y);
        be->gather_fwd(be, y, x, index);
        for (int i = 0; i < N; i++) assert_memory_equal(oht_f32(y) + i * C, oht_f32(x) + pick[i] * C, C * 4);
        oht_tensor d = kt_normal(2, 1.0f, B, T, C, 0);
        double *want = add ? kt_double(d) : kt_doubles(B * T * C);
        if (!add) kt_poison(d);
        be->gather_bwd(be, d, y, index, add);
        for (int i = 0; i < N * C; i++) want[pick[i / C] * C + i % C] += (double)oht_f32(y)[i];
        assert_true(kt_error(d, want) <= 1e-6);
        index.dim[0] = 0, y.dim[0] = 0; // no masked position in a micro-batch
        be->gather_fwd(be, y, x, index);
        be->gather_bwd(be, d, y, index, true);
        assert_true(kt_error(d, want) <= 1e-6);
        kt_reset();
    }
}

// b[j] (+)= sum_n dy[n][j]: the bias gradient of a linear layer alone.
static void column_sums(oht_backend *be, oht_tensor b, oht_tensor dy, bool add) {
    oht_tensor w = kt_zeros(b.dim[0], 1, 0, 0), none = OHT_NO_TENSOR;
    be->linear_bwd(be, none, none, b, dy, none, w, none, none, OHT_ACT_NONE, false, add);
}

static void sums(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    oht_tensor x = kt_normal(1, 1.0f, 3, 41, 600, 0), b = kt_normal(2, 1.0f, 600, 0, 0, 0), y = kt_copy(x),
               before = kt_copy(x);
    double *want = kt_double(b);
    column_sums(be, b, x, true);
    for (int i = 0; i < 3 * 41 * 600; i++) want[i % 600] += (double)oht_f32(x)[i];
    assert_true(kt_error(b, want) <= 2e-6);
    assert_true(kt_same_bits(x, before));
    be->add(be, y, x);
    for (int i = 0; i < 3 * 41 * 600; i++) assert_true(oht_f32(y)[i] == 2.0f * oht_f32(x)[i]);
    kt_reset();
}

// ---- dropout ----
static void dropout_follows_the_layout(void **state) {
    (void)state;
    static const int64_t shape[][3] = {{3, 7, 5}, {1, 1, 1}, {2, 65, 129}, {4, 2, 4096}};
    for (int s = 0; s < 4; s++)
        for (int c = 0; c < 4; c++) {
            oht_backend *be = kt_backend();
            int64_t B = shape[s][0], n = shape[s][1] * shape[s][2];
            oht_draw d = {.seed = 0xfedcba9876543210ull,
                          .step = 4000000000u,
                          .site = 17,
                          .sample0 = 9,
                          .stride = 3,
                          .p = c & 1 ? 0.1f : 0.5f};
            oht_tensor x = kt_normal(1, 1.0f, B, shape[s][1], shape[s][2], 0),
                       f = kt_normal(2, 1.0f, B, shape[s][1], shape[s][2], 0);
            oht_tensor y = kt_copy(x), df = kt_copy(x), into = kt_copy(x);
            kt_poison(y);
            be->dropout_add(be, y, c & 2 ? x : OHT_NO_TENSOR, f, &d);
            be->dropout_add(be, into, into, f, &d); // in place
            if (!(c & 2)) kt_poison(df);
            be->dropout_bwd(be, df, f, &d, c & 2);
            double *want = kt_doubles((size_t)(B * n));
            for (int64_t i = 0; i < B * n; i++) {
                int64_t b = i / n, e = i % n;
                philox4x32_ctr_t r = oht_random_block(d.seed, OHT_DRAW_DROPOUT, 17, d.step,
                                                      9 + 3 * (uint32_t)b, (uint32_t)(e / 8));
                uint32_t word = r.v[e % 8 / 2], half = e % 2 ? word >> 16 : word & 0xffffu,
                         limit = oht_dropout_threshold(d.p);
                want[i] = half < limit ? 0.0 : (double)oht_f32(f)[i] * 65536.0 / (65536.0 - limit);
                if (c & 2) want[i] += (double)oht_f32(x)[i];
            }
            assert_true(kt_error(y, want) <= 1e-6);
            assert_true(kt_same_bits(y, df)); // the same mask, the same arithmetic
            if (c & 2) assert_true(kt_same_bits(y, into));
            kt_reset();
        }
}

static void dropout_statistics(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { B = 2, N = 200000 };
    oht_tensor one = kt_zeros(B, N, 0, 0), y = kt_zeros(B, N, 0, 0);
    for (int i = 0; i < B * N; i++) oht_f32(one)[i] = 1.0f;
    oht_draw d = {.seed = 5, .step = 1, .site = 2, .sample0 = 0, .stride = 1, .p = 0.1f};
    be->dropout_add(be, y, OHT_NO_TENSOR, one, &d);
    double dropped[2] = {0}, pairs = 0.0, same = 0.0, sum = 0.0;
    for (int i = 0; i < B * N; i++) {
        dropped[i / N] += oht_f32(y)[i] == 0.0f;
        sum += (double)oht_f32(y)[i];
        if (i % N > 0) pairs += oht_f32(y)[i] == 0.0f && oht_f32(y)[i - 1] == 0.0f;
        if (i < N) same += (oht_f32(y)[i] == 0.0f) == (oht_f32(y)[i + N] == 0.0f);
    }
    // five standard deviations of the binomial counts
    for (int b = 0; b < B; b++) assert_true(fabs(dropped[b] - 0.1 * N) <= 5.0 * sqrt(0.09 * N));
    assert_true(fabs(pairs - 0.01 * B * N) <= 5.0 * sqrt(0.01 * B * N) * 1.2);
    assert_true(fabs(same - 0.82 * N) <= 5.0 * sqrt(0.82 * 0.18 * N)); // samples are independent
    assert_true(fabs(sum / (B * N) - 1.0) <= 5.0 * sqrt(0.1 / 0.9 / (B * N)));
    oht_tensor other = kt_zeros(B, N, 0, 0);
    d.step = 2;
    be->dropout_add(be, other, OHT_NO_TENSOR, one, &d);
    assert_false(kt_same_bits(y, other));
    d.step = 1, d.sample0 = 1; // sample 1 is the second row of before: identity by sample, not by row
    be->dropout_add(be, other, OHT_NO_TENSOR, one, &d);
    assert_memory_equal(oht_f32(other), oht_f32(y) + N, N * 4);
    d.p = 0.0f;
    be->dropout_add(be, y, OHT_NO_TENSOR, one, &d);
    assert_true(kt_same_bits(y, one));
    kt_reset();
}

// ---- adamw, sumsq ----
static void adamw(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { N = 70001 };
    oht_tensor p = kt_normal(1, 1.0f, N, 0, 0, 0), g = kt_normal(2, 1e-3f, N, 0, 0, 0),
               m = kt_zeros(N, 0, 0, 0), v = kt_zeros(N, 0, 0, 0);
    double *P = kt_double(p), *M = kt_doubles(N), *V = kt_doubles(N);
    for (int step = 1; step <= 5; step++) {
        oht_adamw o = {.lr = 1e-3f,
                       .beta1 = 0.9f,
                       .beta2 = 0.999f,
                       .eps = 1e-8f,
                       .weight_decay = 0.1f,
                       .step = step,
                       .grad_scale = 1.0f / (float)step};
        double b1 = (double)o.beta1, b2 = (double)o.beta2, lr = (double)o.lr;
        be->adamw(be, oht_f32(p), oht_f32(g), oht_f32(m), oht_f32(v), N, &o);
        for (int i = 0; i < N; i++) {
            double gi = (double)oht_f32(g)[i] * (double)o.grad_scale;
            M[i] = b1 * M[i] + (1 - b1) * gi;
            V[i] = b2 * V[i] + (1 - b2) * gi * gi;
            P[i] = P[i] * (1 - lr * (double)o.weight_decay) -
                   lr * M[i] / (1 - pow(b1, step)) / (sqrt(V[i] / (1 - pow(b2, step))) + (double)o.eps);
        }
        assert_true(kt_error(p, P) <= 1e-6);
    }
    kt_reset();
}

static void sums_of_squares(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { N = 100003 };
    oht_tensor x = kt_normal(1, 1.0f, N, 0, 0, 0);
    double want = 0.0;
    for (int i = 0; i < N; i++) want += (double)oht_f32(x)[i] * (double)oht_f32(x)[i];
    assert_true(fabs(be->sumsq(be, oht_f32(x), N) - want) <= 1e-10 * want);
    assert_true(be->sumsq(be, oht_f32(x), 0) == 0.0);
    oht_f32(x)[N - 1] = 1e30f; // finite: its square does not overflow
    assert_true(fabs(be->sumsq(be, oht_f32(x), N) - 1e60) <= 1e54);
    oht_f32(x)[N / 2] = INFINITY;
    assert_true(isinf(be->sumsq(be, oht_f32(x), N)));
    oht_f32(x)[7] = NAN;
    assert_true(isnan(be->sumsq(be, oht_f32(x), N)));
    kt_reset();
}

// ---- moments ----
static void moments_match_long_double(void **state) {
    (void)state;
    static const int64_t shape[][2] = {{1, 1}, {1, 2}, {7, 65}, {3, 40001}, {1, 100000}, {33, 768}};
    static const float shift[] = {0.0f, 1000.0f};
    for (int s = 0; s < 6; s++)
        for (int k = 0; k < 2; k++) {
            oht_backend *be = kt_backend();
            int64_t rows = shape[s][0], n = shape[s][1];
            oht_tensor x = kt_normal(1, 1.0f, rows, n, 0, 0);
            for (int64_t i = 0; i < rows * n; i++) oht_f32(x)[i] += shift[k];
            if (n > 2) oht_f32(x)[n / 2] = shift[k] - 30.0f, oht_f32(x)[n / 2 + 1] = shift[k] + 29.0f;
            oht_moments m[33];
            be->moments(be, x.data, OHT_F32, rows, n, m);
            for (int64_t r = 0; r < rows; r++) {
                const float *row = oht_f32(x) + r * n;
                long double mean = 0, m2 = 0, m3 = 0, m4 = 0;
                int64_t far = 0, at = 0;
                for (int64_t i = 0; i < n; i++) mean += (long double)row[i] / (long double)n;
                for (int64_t i = 0; i < n; i++) {
                    long double d = (long double)row[i] - mean;
                    m2 += d * d, m3 += d * d * d, m4 += d * d * d * d;
                    if (fabsf(row[i]) > fabsf(row[at])) at = i;
                }
                for (int64_t i = 0; i < n; i++)
                    far += fabsl((long double)row[i] - mean) > 6 * sqrtl(m2 / (long double)n);
                assert_int_equal(m[r].n, n);
                assert_true(fabs(m[r].mean - (double)mean) <= 1e-12 * (1.0 + fabs((double)mean)));
                assert_true(fabs(m[r].m2 - (double)m2) <= 1e-9 * ((double)m2 + 1e-9));
                assert_true(fabs(m[r].m3 - (double)m3) <= 1e-8 * ((double)m4 + 1e-9));
                assert_true(fabs(m[r].m4 - (double)m4) <= 1e-9 * ((double)m4 + 1e-9));
                assert_int_equal(m[r].outliers_6sigma, far);
                assert_int_equal(m[r].abs_argmax, at);
                assert_true(m[r].abs_max == fabs((double)row[at]));
                assert_int_equal(m[r].nonfinite, 0);
            }
            kt_reset();
        }
}

static void moments_of_bad_rows(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { N = 50000 };
    oht_tensor x = kt_normal(1, 1.0f, N, 0, 0, 0);
    oht_moments m;
    float *v = oht_f32(x);
    v[30000] = v[40000] = -9.5f; // ties: the first
    be->moments(be, v, OHT_F32, 1, N, &m);
    assert_int_equal(m.abs_argmax, 30000);
    assert_true(m.abs_max == 9.5);
    v[123] = -INFINITY;
    be->moments(be, v, OHT_F32, 1, N, &m);
    assert_true(isinf(m.abs_max) && m.abs_max > 0);
    assert_int_equal(m.abs_argmax, 123);
    assert_int_equal(m.nonfinite, 1);
    v[0] = NAN, v[456] = INFINITY;
    be->moments(be, v, OHT_F32, 1, N, &m);
    assert_true(isnan(m.abs_max));
    assert_int_equal(m.abs_argmax, 0);
    assert_int_equal(m.nonfinite, 3);
    for (int i = 0; i < N; i++) v[i] = -2.5f;
    be->moments(be, v, OHT_F32, 1, N, &m);
    assert_true(m.mean == -2.5 && m.m2 == 0.0 && m.m3 == 0.0 && m.m4 == 0.0 && m.abs_max == 2.5);
    assert_int_equal(m.abs_argmax, 0);
    assert_int_equal(m.outliers_6sigma, 0);
    for (int i = 0; i < N; i++) v[i] = i % 2 ? 3e38f : -3e38f; // fourth powers reach 1e154: fine in double
    be->moments(be, v, OHT_F32, 1, N, &m);
    assert_true(fabs(m.m4 / N / pow((double)3e38f, 4) - 1.0) <= 1e-12);
    be->moments(be, v, OHT_F32, 0, N, &m);
    kt_reset();
}

static void head_means(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { B = 3, H = 5, T = 65 };
    oht_tensor row = kt_normal(1, 1.0f, B, H, T, 0);
    double mean[H], want[H] = {0};
    for (int i = 0; i < B * H * T; i++) want[i / T % H] += exp(-(double)oht_f32(row)[i]) / (B * T);
    be->null_mass(be, mean, row);
    for (int h = 0; h < H; h++) assert_true(fabs(mean[h] - want[h]) <= 1e-6 * want[h]);
    kt_reset();
}

// ---- same bits every time, and the same for any thread count where no sum is shared ----
static void repeats(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    enum { N = 300, C = 257 };
    oht_tensor x = kt_normal(1, 1.0f, N, C, 0, 0), g = kt_normal(2, 1.0f, C, 0, 0, 0),
               dy = kt_normal(3, 1.0f, N, C, 0, 0);
    oht_tensor mean = kt_zeros(N, 0, 0, 0), rstd = kt_zeros(N, 0, 0, 0), y = kt_zeros(N, C, 0, 0), dg[2],
               db[2], sum[2];
    oht_moments m[2][1];
    double squares[2];
    for (int i = 0; i < 2; i++) {
        oht_tensor dx = kt_zeros(N, C, 0, 0);
        dg[i] = kt_zeros(C, 0, 0, 0), db[i] = kt_zeros(C, 0, 0, 0), sum[i] = kt_zeros(C, 0, 0, 0);
        be->layernorm_fwd(be, y, mean, rstd, x, g, g, 1e-5f);
        be->layernorm_bwd(be, dx, dg[i], db[i], dy, x, g, mean, rstd, false, false,
                          kt_scratch(be->layernorm_bwd_scratch(be, N, C)));
        column_sums(be, sum[i], x, false);
        be->moments(be, x.data, OHT_F32, 1, N * C, m[i]);
        squares[i] = be->sumsq(be, oht_f32(x), N * C);
    }
    assert_true(kt_same_bits(dg[0], dg[1]) && kt_same_bits(db[0], db[1]) && kt_same_bits(sum[0], sum[1]));
    assert_memory_equal(m[0], m[1], sizeof(m[0]));
    assert_true(squares[0] == squares[1]);
    kt_reset();
}

static int three_threads(void **state) {
    (void)state;
    omp_set_num_threads(3);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backend_by_name),
        cmocka_unit_test(nothing_allocates),
        cmocka_unit_test(exp_within_two_ulp),
        cmocka_unit_test(gelu_exact),
        cmocka_unit_test(gemm),
        cmocka_unit_test(embedding),
        cmocka_unit_test(add_rows),
        cmocka_unit_test(gather),
        cmocka_unit_test(sums),
        cmocka_unit_test(dropout_follows_the_layout),
        cmocka_unit_test(dropout_statistics),
        cmocka_unit_test(adamw),
        cmocka_unit_test(sums_of_squares),
        cmocka_unit_test(moments_match_long_double),
        cmocka_unit_test(moments_of_bad_rows),
        cmocka_unit_test(head_means),
        cmocka_unit_test(repeats),
    };
    int failed = cmocka_run_group_tests_name("one thread", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("three threads", tests, three_threads, NULL);
}
