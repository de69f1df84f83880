// Kernels against golden vectors (float64 implementation of the formulas) and the extreme rows of the specification: the
// CPU's, and as unit.cuda_kernels_golden the GPU's, emulated.
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

static int setup(void **state) {
    *state = golden_load("transformers");
    return 0;
}

static int teardown(void **state) {
    json_decref(*state);
    return 0;
}

static int reset(void **state) {
    (void)state;
    kt_reset();
    return 0;
}

static oht_assoc_spec spec_of(const char *name, double gamma, double zeta) {
    if (strncmp(name, "clippedsoftmax1", 15) == 0) return (oht_assoc_spec){OHT_SOFTMAX1, true, gamma, zeta};
    if (strncmp(name, "clipped", 7) == 0) return (oht_assoc_spec){OHT_SOFTMAX, true, gamma, zeta};
    if (strcmp(name, "softmax1") == 0) return (oht_assoc_spec){OHT_SOFTMAX1, false, 0, 1};
    if (strcmp(name, "sparsemax") == 0) return (oht_assoc_spec){OHT_SPARSEMAX, false, 0, 1};
    if (strcmp(name, "entmax15") == 0) return (oht_assoc_spec){OHT_ENTMAX15, false, 0, 1};
    assert_string_equal(name, "vanilla");
    return (oht_assoc_spec){OHT_SOFTMAX, false, 0, 1};
}

// y = f(x) and dx for upstream g, through attention with one head of width one: q = 1, k = x, v = g, dout = 1
// at query 0.
static void through_attention(const oht_assoc_spec *f, const double *x, const double *g, int64_t n,
                              const uint8_t *mask, float *y, float *dx) {
    oht_backend *be = kt_backend();
    oht_assoc as = {.f = *f, .beta = 1.0f, .causal = false, .heads = 1};
    oht_tensor qkv = kt_zeros(1, n, 3, 0), out = kt_zeros(1, n, 1, 0), row = kt_zeros(1, 1, n, 0);
    oht_tensor probs = kt_zeros(1, 1, n, n), dout = kt_zeros(1, n, 1, 0), dqkv = kt_zeros(1, n, 3, 0);
    for (int64_t j = 0; j < n; j++) {
        oht_f32(qkv)[3 * j] = 1.0f;
        oht_f32(qkv)[3 * j + 1] = (float)x[j];
        oht_f32(qkv)[3 * j + 2] = (float)g[j];
    }
    oht_f32(dout)[0] = 1.0f;
    oht_tensor visible = mask ? kt_bytes(mask, 1, n) : OHT_NO_TENSOR;
    oht_attention_inner inner = {.scores = OHT_NO_TENSOR, .probs = probs};
    kt_poison(out), kt_poison(row), kt_poison(probs), kt_poison(dqkv);
    be->attention_fwd(be, out, row, qkv, visible, &as, &inner,
                      kt_scratch(be->attention_fwd_scratch(be, 1, n, 1, &as)));
    be->attention_bwd(be, dqkv, dout, out, row, qkv, visible, &as, false,
                      kt_scratch(be->attention_bwd_scratch(be, 1, n, 1, &as)));
    for (int64_t j = 0; j < n; j++) {
        y[j] = oht_f32(probs)[j];
        dx[j] = oht_f32(dqkv)[3 * j + 1];
    }
}

// The GPU takes exp2 of scores scaled by log2(e), and p from the rounded sum of its row.
static void assert_close(const float *a, const double *b, int64_t n, double tolerance) {
    if (!kt_backend()->host_memory) tolerance *= 3.0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - b[i]) <= tolerance))
            fail_msg("element %d: %.9g, expected %.9g", (int)i, (double)a[i], b[i]);
}

static void row_functions(void **state) {
    const json_t *group = golden_get(*state, "attention_nonlinearity");
    int plain = 0, extreme = 0;
    for (size_t c = 0; c < json_array_size(group); c++) {
        const json_t *item = golden_at(group, c);
        const char *name = golden_string(item, "name");
        size_t n;
        double *x = golden_doubles(item, "x", &n), *g = golden_doubles(item, "g", NULL);
        float y[8], dx[8];
        if (strncmp(name, "extreme_", 8) != 0) {
            bool clipped = json_object_get(item, "gamma") != NULL;
            oht_assoc_spec f = spec_of(name, clipped ? golden_number(item, "gamma") : 0,
                                       clipped ? golden_number(item, "zeta") : 1);
            double *want_y = golden_doubles(item, "y", NULL), *want_dx = golden_doubles(item, "dx", NULL);
            through_attention(&f, x, g, (int64_t)n, NULL, y, dx);
            assert_close(y, want_y, (int64_t)n, 2e-7);
            assert_close(dx, want_dx, (int64_t)n, 3e-7);
            free(want_y), free(want_dx);
            plain++;
        } else { // minus infinity stands for a masked key, and so does the most negative float where vanilla
                 // is concerned
            uint8_t mask[8];
            bool any = false, lowest = strcmp(name, "extreme_all_masked") == 0;
            double largest = 0.0; // p = exp(s - L) with s and L rounded to float: error of p grows with |s|
            for (size_t j = 0; j < n; j++) {
                mask[j] = (uint8_t)(x[j] != -INFINITY);
                any |= !mask[j];
                x[j] = mask[j] ? x[j] : 0.0;
                if (fabs(x[j]) < 1e30 && fabs(x[j]) > largest) largest = fabs(x[j]);
            }
            double tolerance = 2e-7 + 6e-8 * largest, tolerance_y = kt_backend()->host_memory ? 1e-7 : tolerance;
            double *want = golden_doubles(item, "softmax1", NULL),
                   *want_dx = golden_doubles(item, "softmax1_dx", NULL);
            oht_assoc_spec f = {OHT_SOFTMAX1, false, 0, 1};
            through_attention(&f, x, g, (int64_t)n, any ? mask : NULL, y, dx);
            assert_close(y, want, (int64_t)n, tolerance_y);
            assert_close(dx, want_dx, (int64_t)n, tolerance);
            free(want), free(want_dx);
            want = golden_doubles(item, "vanilla", NULL), want_dx = golden_doubles(item, "vanilla_dx", NULL);
            f.kind = OHT_SOFTMAX;
            through_attention(&f, x, g, (int64_t)n, any ? mask : NULL, y, dx);
            if (!lowest)
                assert_close(y, want, (int64_t)n, tolerance_y), assert_close(dx, want_dx, (int64_t)n, tolerance);
            free(want), free(want_dx);
            if (lowest) { // really masked: nothing under every f
                static const oht_assoc_kind kind[] = {OHT_SOFTMAX, OHT_SOFTMAX1, OHT_ENTMAX15, OHT_SPARSEMAX};
                memset(mask, 0, sizeof(mask));
                for (int k = 0; k < 8; k++) {
                    f = (oht_assoc_spec){kind[k % 4], k >= 4 && k < 6, 0.01, 1.1};
                    const double zero[8] = {0};
                    through_attention(&f, zero, g, (int64_t)n, mask, y, dx);
                    assert_close(y, zero, (int64_t)n, 0.0);
                    assert_close(dx, zero, (int64_t)n, 0.0);
                }
            }
            extreme++;
        }
        free(x), free(g);
    }
    assert_int_equal(plain, 22);
    assert_int_equal(extreme, 6);
}

static void full_attention(void **state) {
    oht_backend *be = kt_backend();
    const json_t *group = golden_get(*state, "full_attention");
    assert_int_equal(json_array_size(group), 8);
    for (size_t c = 0; c < 8; c++) {
        const json_t *item = golden_at(group, c);
        const char *name = golden_string(item, "fn");
        enum { T = 4, D = 3 };
        oht_assoc as = {.f = spec_of(strncmp(name, "clipped", 7) == 0 ? name : name, -0.025,
                                     strstr(name, "1.1") ? 1.1 : 1.0),
                        .beta = 1.0f / sqrtf(3.0f),
                        .causal = json_is_true(golden_get(item, "causal")),
                        .heads = 1};
        oht_tensor qkv = kt_zeros(1, T, 3 * D, 0), out = kt_zeros(1, T, D, 0), row = kt_zeros(1, 1, T, 0);
        oht_tensor probs = kt_zeros(1, 1, T, T), dqkv = kt_zeros(1, T, 3 * D, 0);
        const char *part[] = {"Q", "K", "V"}, *grad[] = {"dQ", "dK", "dV"};
        double want[3 * T * D];
        for (int p = 0; p < 3; p++) {
            double *x = golden_doubles(item, part[p], NULL), *dx = golden_doubles(item, grad[p], NULL);
            for (int i = 0; i < T * D; i++) {
                oht_f32(qkv)[i / D * 3 * D + p * D + i % D] = (float)x[i];
                want[i / D * 3 * D + p * D + i % D] = dx[i];
            }
            free(x), free(dx);
        }
        double *u = golden_doubles(item, "dO", NULL), *o = golden_doubles(item, "O", NULL),
               *P = golden_doubles(item, "P", NULL);
        oht_tensor dout = kt_from(u, 1, T, D, 0);
        oht_attention_inner inner = {.scores = OHT_NO_TENSOR, .probs = probs};
        kt_poison(dqkv), kt_poison(probs), kt_poison(out);
        be->attention_fwd(be, out, row, qkv, OHT_NO_TENSOR, &as, &inner,
                          kt_scratch(be->attention_fwd_scratch(be, 1, T, D, &as)));
        be->attention_bwd(be, dqkv, dout, out, row, qkv, OHT_NO_TENSOR, &as, false,
                          kt_scratch(be->attention_bwd_scratch(be, 1, T, D, &as)));
        assert_close(oht_f32(out), o, T * D, 2e-7);
        assert_close(oht_f32(probs), P, T * T, 2e-7);
        assert_close(oht_f32(dqkv), want, 3 * T * D, 3e-7);
        free(u), free(o), free(P);
    }
}

// (B,H,T,D) of the golden file to (B,T,H*D) of the kernels
static void heads_inside(float *to, const float *from, int64_t B, int64_t H, int64_t T, int64_t D) {
    for (int64_t i = 0; i < B * H * T * D; i++) {
        int64_t d = i % D, t = i / D % T, h = i / D / T % H, b = i / D / T / H;
        to[((b * T + t) * H + h) * D + d] = from[i];
    }
}

static void gates(void **state) {
    oht_backend *be = kt_backend();
    const json_t *group = golden_get(*state, "gates");
    assert_int_equal(json_array_size(group), 8);
    for (size_t c = 0; c < 8; c++) {
        const json_t *item = golden_at(group, c);
        const char *kind = golden_string(item, "kind");
        enum { B = 2, T = 3, H = 2, D = 8, C = H * D };
        bool pooled = json_is_true(golden_get(item, "per_head_pooled")), uncond = strcmp(kind, "uncond") == 0;
        oht_gate gate = {.heads = H,
                         .scale = (float)golden_number(item, "scale"),
                         .kind = uncond   ? OHT_GATE_UNCONDITIONAL_PER_HEAD
                                 : pooled ? OHT_GATE_CONDITIONAL_PER_HEAD
                                          : OHT_GATE_CONDITIONAL_PER_TOKEN,
                         .form = strcmp(kind, "mlp") == 0    ? OHT_GATE_MLP
                                 : strcmp(kind, "mlp2") == 0 ? OHT_GATE_MLP2
                                 : strcmp(kind, "all") == 0  ? OHT_GATE_ALL_FEATURES
                                                             : OHT_GATE_LINEAR};
        int64_t m = gate.form == OHT_GATE_MLP ? D / 4 : D;
        oht_tensor w[4] = {0}, dw[4] = {0};
        if (uncond) {
            w[0] = kt_zeros(H, 0, 0, 0);
        } else if (gate.form == OHT_GATE_LINEAR || gate.form == OHT_GATE_ALL_FEATURES) {
            w[0] = kt_zeros(H, gate.form == OHT_GATE_LINEAR ? D : C, 0, 0), w[1] = kt_zeros(H, 0, 0, 0);
        } else {
            w[0] = kt_zeros(H, m, D, 0), w[1] = kt_zeros(H, m, 0, 0), w[2] = kt_zeros(H, m, 0, 0),
            w[3] = kt_zeros(H, 0, 0, 0);
        }
        for (int i = 0; i < 4; i++) {
            if (!w[i].data) continue;
            golden_fill(oht_f32(w[i]), (size_t)oht_tensor_count(w[i]), 4 + i);
            dw[i] = kt_copy(w[i]);
            kt_poison(dw[i]);
        }
        double init = golden_number(item, "init");
        if (!isnan(init))
            for (int h = 0; h < H; h++) oht_f32(w[1])[h] = (float)-log(1.0 / init - 1.0);
        float fill[B * T * C];
        oht_tensor x = kt_zeros(B, T, C, 0), ctx = kt_zeros(B, T, C, 0), u = kt_zeros(B, T, C, 0),
                   out = kt_zeros(B, T, C, 0);
        oht_tensor dx = kt_zeros(B, T, C, 0), dctx = kt_zeros(B, T, C, 0);
        golden_fill(oht_f32(x), B * T * C, 1);
        golden_fill(fill, B * T * C, 2), heads_inside(oht_f32(ctx), fill, B, H, T, D);
        golden_fill(fill, B * T * C, 3), heads_inside(oht_f32(u), fill, B, H, T, D);
        oht_tensor pi = uncond ? kt_zeros(H, 0, 0, 0) : pooled ? kt_zeros(B, H, 0, 0) : kt_zeros(B, T, H, 0);
        kt_poison(out), kt_poison(dx), kt_poison(dctx), kt_poison(pi);
        size_t bytes = be->gate_scratch(be, B, T, C, &gate, m);
        be->gate_fwd(be, out, pi, x, ctx, w, &gate, kt_scratch(bytes));
        const bool add[2] = {false, false};
        be->gate_bwd(be, dx, dctx, dw, u, pi, x, ctx, w, &gate, add, false, kt_scratch(bytes));

        double *want = golden_doubles(item, "pi", NULL), sum = 0.0;
        for (int i = 0; i < B * H * T; i++) {
            int t = i % T, h = i / T % H, b = i / T / H;
            float got = oht_f32(pi)[uncond ? h : pooled ? b * H + h : (b * T + t) * H + h];
            assert_true(fabs((double)got - want[i]) <= 2e-7);
        }
        free(want);
        want = golden_doubles(item, "out_first8", NULL);
        assert_close(oht_f32(out), want, 8, 2e-7 * (double)gate.scale);
        free(want);
        for (int i = 0; i < B * T * C; i++) sum += (double)oht_f32(out)[i];
        assert_true(fabs(sum - golden_number(item, "out_sum")) <= 4e-6);

        const json_t *grads = golden_get(item, "grads");
        const char *key;
        json_t *value;
        int seen = 0;
        static const char *names[4][4] = {{"w", "b"}, {"w1", "b1", "w2", "b2"}, {"W", "b"}, {"a"}};
        const char *const *mine = names[uncond                               ? 3
                                        : gate.form == OHT_GATE_LINEAR       ? 0
                                        : gate.form == OHT_GATE_ALL_FEATURES ? 2
                                                                             : 1];
        json_object_foreach((json_t *)(uintptr_t)grads, key, value) {
            oht_tensor got = OHT_NO_TENSOR;
            if (strcmp(key, "X") == 0) got = dx;
            if (strcmp(key, "C") == 0) got = dctx;
            for (int i = 0; i < 4; i++)
                if (mine[i] && strcmp(key, mine[i]) == 0) got = dw[i];
            assert_non_null(got.data);
            seen++;
            if (json_is_array(value)) {
                size_t n;
                want = golden_doubles(value, NULL, &n);
                assert_int_equal(n, oht_tensor_count(got));
                assert_close(oht_f32(got), want, (int64_t)n, 1e-6 * (double)gate.scale);
                free(want);
                continue;
            }
            double total = 0.0, square = 0.0;
            for (int64_t i = 0; i < oht_tensor_count(got); i++) {
                total += (double)oht_f32(got)[i];
                square += (double)oht_f32(got)[i] * (double)oht_f32(got)[i];
            }
            assert_true(fabs(total - golden_number(value, "sum")) <= 1e-5);
            assert_true(fabs(sqrt(square) - golden_number(value, "l2")) <= 1e-5);
            want = golden_doubles(value, "first8", NULL);
            assert_close(oht_f32(got), want, 8, 1e-6 * (double)gate.scale);
            free(want);
        }
        assert_true(seen >= 2);
    }
}

static void moments(void **state) {
    oht_backend *be = kt_backend();
    const json_t *group = golden_get(*state, "kurtosis");
    size_t n;
    double *given = golden_doubles(group, "x", &n);
    const float *x = oht_f32(kt_from(given, 5, 8, 0, 0));
    double *kappa = golden_doubles(group, "population_kurtosis_noeps", NULL),
           *inf = golden_doubles(group, "inf_norm", NULL);
    double *far = golden_doubles(group, "n_over_6sigma", NULL);
    oht_moments m[5];
    be->moments(be, x, OHT_F32, 5, 8, m);
    assert_int_equal(n, 40);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(m[i].n, 8);
        assert_true(fabs(m[i].abs_max - inf[i]) <= 1e-8);
        assert_true(fabs((double)x[i * 8 + m[i].abs_argmax]) == m[i].abs_max);
        assert_int_equal(m[i].outliers_6sigma, (int64_t)far[i]);
        assert_int_equal(m[i].nonfinite, 0);
        if (isnan(kappa[i]))
            assert_true(m[i].m2 == 0.0 && m[i].m4 == 0.0);
        else
            assert_true(fabs(8.0 * m[i].m4 / (m[i].m2 * m[i].m2) - kappa[i]) <= 1e-6);
    }
    free(given), free(kappa), free(inf), free(far);

    float *row = oht_f32(kt_zeros(768, 0, 0, 0));
    for (int i = 0; i < 768; i++) row[i] = (float)sin(0.37 * i);
    row[100] = 40.0f, row[300] = -35.0f;
    be->moments(be, row, OHT_F32, 1, 768, m);
    const json_t *big = golden_get(*state, "kurtosis_768");
    double s2 = m[0].m2 / 767.0, k = m[0].m4 / 768.0 / (s2 * s2 + 1e-6);
    assert_true(fabs(k - golden_number(big, "kurtosis")) <= 1e-5 * k);
    assert_true(m[0].abs_max == 40.0);
    assert_int_equal(m[0].abs_argmax, 100);
    assert_int_equal(m[0].outliers_6sigma, 2);
}

static void gelu(void **state) {
    oht_backend *be = kt_backend();
    const json_t *group = golden_get(*state, "gelu_exact");
    size_t n;
    double *x = golden_doubles(group, "x", &n), *y = golden_doubles(group, "y", NULL),
           *d = golden_doubles(group, "dydx", NULL);
    int64_t N = (int64_t)n;
    oht_tensor in = kt_from(x, N, 1, 0, 0), w = kt_zeros(1, 1, 0, 0), out = kt_zeros(N, 1, 0, 0),
               pre = kt_zeros(N, 1, 0, 0);
    oht_tensor dy = kt_zeros(N, 1, 0, 0), dx = kt_zeros(N, 1, 0, 0);
    oht_f32(w)[0] = 1.0f;
    for (int64_t i = 0; i < N; i++) oht_f32(dy)[i] = 1.0f;
    be->linear_fwd(be, out, pre, in, w, OHT_NO_TENSOR, OHT_ACT_GELU);
    be->linear_bwd(be, dx, OHT_NO_TENSOR, OHT_NO_TENSOR, dy, in, w, pre, out, OHT_ACT_GELU, false, false);
    assert_close(oht_f32(out), y, N, 3e-7);
    assert_close(oht_f32(dx), d, N, 3e-7);
    free(x), free(y), free(d);
}

static void layernorm(void **state) {
    oht_backend *be = kt_backend();
    static const char *name[] = {"layernorm_eps1e-12", "layernorm_eps1e-05", "layernorm_eps1e-06"};
    static const float eps[] = {1e-12f, 1e-5f, 1e-6f};
    for (int c = 0; c < 3; c++) {
        const json_t *group = golden_get(*state, name[c]);
        double *x = golden_doubles(group, "x", NULL), *gamma = golden_doubles(group, "gamma", NULL);
        double *beta = golden_doubles(group, "beta", NULL), *gy = golden_doubles(group, "gy", NULL);
        double *y = golden_doubles(group, "y", NULL), *dx = golden_doubles(group, "dx", NULL);
        double *dg = golden_doubles(group, "dgamma", NULL), *db = golden_doubles(group, "dbeta", NULL);
        oht_tensor tx = kt_from(x, 2, 4, 0, 0), tg = kt_from(gamma, 4, 0, 0, 0),
                   tb = kt_from(beta, 4, 0, 0, 0);
        oht_tensor ty = kt_zeros(2, 4, 0, 0), mean = kt_zeros(2, 0, 0, 0), rstd = kt_zeros(2, 0, 0, 0);
        oht_tensor tdy = kt_from(gy, 2, 4, 0, 0), tdx = kt_zeros(2, 4, 0, 0), tdg = kt_zeros(4, 0, 0, 0),
                   tdb = kt_zeros(4, 0, 0, 0);
        kt_poison(ty), kt_poison(tdx), kt_poison(tdg), kt_poison(tdb);
        be->layernorm_fwd(be, ty, mean, rstd, tx, tg, tb, eps[c]);
        be->layernorm_bwd(be, tdx, tdg, tdb, tdy, tx, tg, mean, rstd, false, false,
                          kt_scratch(be->layernorm_bwd_scratch(be, 2, 4)));
        assert_close(oht_f32(ty), y, 8, 3e-7);
        assert_close(oht_f32(tdx), dx, 8, 1e-6);
        assert_close(oht_f32(tdg), dg, 4, 1e-6);
        assert_close(oht_f32(tdb), db, 4, 1e-6);
        free(x), free(gamma), free(beta), free(gy), free(y), free(dx), free(dg), free(db);
    }
}

static void adamw(void **state) {
    oht_backend *be = kt_backend();
    const json_t *group = golden_get(*state, "adamw");
    assert_int_equal(json_array_size(group), 3);
    for (size_t c = 0; c < 3; c++) {
        const json_t *item = golden_at(group, c);
        double *p0 = golden_doubles(item, "p0", NULL), *grads = golden_doubles(item, "grads", NULL),
               *want = golden_doubles(item, "p_after", NULL);
        float *p = oht_f32(kt_from(p0, 3, 0, 0, 0)), *m = oht_f32(kt_zeros(3, 0, 0, 0)), *v = oht_f32(kt_zeros(3, 0, 0, 0));
        for (int step = 0; step < 3; step++) {
            oht_adamw opt = {.lr = (float)golden_number(item, "lr"),
                             .beta1 = (float)golden_number(item, "beta1"),
                             .beta2 = (float)golden_number(item, "beta2"),
                             .eps = (float)golden_number(item, "eps"),
                             .weight_decay = (float)golden_number(item, "wd"),
                             .step = step + 1,
                             .grad_scale = 0.5f};
            float *g = oht_f32(kt_from(grads + 3 * step, 3, 0, 0, 0));
            for (int i = 0; i < 3; i++) g[i] *= 2.0f; // undone by grad_scale
            be->adamw(be, p, g, m, v, 3, &opt);
            assert_close(p, want + 3 * step, 3, 3e-7);
        }
        free(p0), free(grads), free(want);
    }
    const json_t *clip = golden_get(*state, "grad_clip");
    size_t n;
    double *g = golden_doubles(clip, "g", &n);
    assert_true(fabs(sqrt(be->sumsq(be, oht_f32(kt_from(g, (int64_t)n, 0, 0, 0)), (int64_t)n)) - golden_number(clip, "total_norm")) <= 1e-12);
    free(g);
}

// ---- image classifier ----
// The soft cross-entropy of mixed labels, alone and as the second of three rows whose others are far from it.
static void soft_cross_entropy(void **state) {
    const json_t *g = golden_get(*state, "mixup_soft_ce");
    size_t n;
    double *logits = golden_doubles(g, "logits", &n), *target = golden_doubles(g, "target", NULL),
           *want = golden_doubles(g, "dlogits", NULL), loss = golden_number(g, "loss");
    oht_backend *be = kt_backend();
    assert_int_equal(n, 4);
    for (int scaled = 0; scaled < 3; scaled++) {
        const float scale = (float[]){0.0f, 1.0f, -0.125f}[scaled];
        oht_tensor x = kt_from(logits, 1, 4, 0, 0), t = kt_from(target, 1, 4, 0, 0);
        double *sum = kt_doubles(1);
        *sum = 5.0; // adds
        be->soft_cross_entropy(be, x, t, &(oht_loss){.sum = sum, .scale = scale});
        assert_true(fabs(*sum - 5.0 - loss) <= 1e-7);
        for (int j = 0; j < 4; j++) {
            double expected = scaled ? (double)scale * want[j] : logits[j]; // without a scale logits stay
            assert_true(fabs((double)oht_f32(x)[j] - expected) <= 1e-7);
        }
    }
    double all[12], soft[12] = {0, 1, 0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0.5};
    for (int j = 0; j < 4; j++) {
        all[j] = j == 1 ? 1e4 : -1e4; // exp would overflow
        all[4 + j] = logits[j];
        all[8 + j] = -5e4;
        soft[4 + j] = target[j];
    }
    oht_tensor x = kt_from(all, 3, 4, 0, 0), t = kt_from(soft, 3, 4, 0, 0);
    double *sum = kt_doubles(1);
    be->soft_cross_entropy(be, x, t, &(oht_loss){.sum = sum, .scale = 2.0f});
    assert_true(fabs(*sum - loss - log(4.0)) <= 1e-6);
    for (int j = 0; j < 4; j++) {
        assert_true(oht_f32(x)[j] == 0.0f);
        assert_true(fabs((double)oht_f32(x)[4 + j] - 2 * want[j]) <= 2e-7);
        assert_true(fabs((double)oht_f32(x)[8 + j] - 2 * (0.25 - soft[8 + j])) <= 1e-6);
    }
    free(logits);
    free(target);
    free(want);
}

// The label's place among the logits: the first on ties, and NaN never counts as behind it.
static void top_hits(void **state) {
    (void)state;
    oht_backend *be = kt_backend();
    double all[5][7] = {{1, 2, 3, 4, 5, 6, 7}, {7, 6, 5, 4, 3, 2, 1}, {1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 9, 9, 0}, {1, 2, 3, 4, 5, 6, 7}};
    const int place[7][5] = {{6, 0, 0, 2, 6}, {5, 1, 1, 3, 5}, {4, 2, 2, 4, 4}, {3, 3, 3, 5, 3},
                             {2, 4, 4, 0, 2}, {1, 5, 5, 1, 1}, {0, 6, 6, 6, 0}}; // [label][row]
    for (int label = 0; label < 7; label++)
        for (int row = 0; row < 5; row++) {
            oht_tensor x = kt_from(all[row], 1, 7, 0, 0), l = kt_ints(&(int32_t){label}, 1);
            int64_t hits[2] = {10, 20}; // adds
            be->top_hits(be, x, l, hits);
            assert_int_equal(hits[0] - 10, place[label][row] < 1);
            assert_int_equal(hits[1] - 20, place[label][row] < 5);
        }
    oht_tensor x = kt_from(all[0], 1, 7, 0, 0), l = kt_ints(&(int32_t){6}, 1);
    for (int bad = 0; bad < 7; bad++) {
        int64_t hits[2] = {0, 0};
        oht_f32(x)[bad] = NAN; // as many NaN as bad + 1, the label's own last
        be->top_hits(be, x, l, hits);
        assert_int_equal(hits[0], 0);
        assert_int_equal(hits[1], bad + 1 < 5);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(row_functions, reset), cmocka_unit_test_teardown(full_attention, reset),
        cmocka_unit_test_teardown(gates, reset),         cmocka_unit_test_teardown(moments, reset),
        cmocka_unit_test_teardown(gelu, reset),          cmocka_unit_test_teardown(layernorm, reset),
        cmocka_unit_test_teardown(adamw, reset),
        cmocka_unit_test_teardown(soft_cross_entropy, reset),
        cmocka_unit_test_teardown(top_hits, reset),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
