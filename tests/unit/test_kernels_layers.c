// Linear, LayerNorm, gate and cross-entropy kernels against double-precision references written here,
// gradients by central differences of the references; adding and overwriting; awkward shapes; one and three
// threads.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_test.h"

static double *values(oht_tensor t) {
    return t.data ? kt_double(t) : NULL;
}

// A gradient buffer: NaN to be overwritten, or known values to be added to; and what the kernel itself
// contributed.
static oht_tensor gradient_buffer(oht_tensor like, bool add) {
    oht_tensor g = kt_copy(like);
    for (int64_t i = 0; i < oht_tensor_count(g); i++) oht_f32(g)[i] = add ? 0.5f : NAN;
    return g;
}

static oht_tensor contribution(oht_tensor g, bool add) {
    for (int64_t i = 0; add && i < oht_tensor_count(g); i++) oht_f32(g)[i] -= 0.5f;
    return g;
}

// ---- linear ----
typedef struct linear {
    int64_t N, K, M;
    double *x, *w, *b, *dy;
    oht_act act;
    double *y;
} linear;

static double linear_reference(const void *problem) {
    const linear *l = problem;
    double loss = 0.0;
    for (int64_t i = 0; i < l->N; i++)
        for (int64_t j = 0; j < l->M; j++) {
            double u = l->b ? l->b[j] : 0.0;
            for (int64_t k = 0; k < l->K; k++) u += l->x[i * l->K + k] * l->w[j * l->K + k];
            if (l->act == OHT_ACT_RELU) u = fmax(u, 0.0);
            if (l->act == OHT_ACT_GELU) u *= 0.5 * erfc(-u / sqrt(2.0));
            if (l->y) l->y[i * l->M + j] = u;
            loss += u * l->dy[i * l->M + j];
        }
    return loss;
}

static void linear_case(int64_t N, int64_t K, int64_t M, oht_act act, bool bias, bool keep_pre, bool add) {
    oht_backend *be = kt_backend();
    oht_tensor x = kt_normal(1, 1.0f, N, K, 0, 0), w = kt_normal(2, 1.0f, M, K, 0, 0),
               y = kt_zeros(N, M, 0, 0);
    oht_tensor b = bias ? kt_normal(3, 1.0f, M, 0, 0, 0) : OHT_NO_TENSOR, dy = kt_normal(4, 1.0f, N, M, 0, 0);
    oht_tensor pre = keep_pre ? kt_zeros(N, M, 0, 0) : OHT_NO_TENSOR;
    linear l = {N, K, M, values(x), values(w), values(b), values(dy), act, kt_doubles((size_t)(N * M))};
    kt_poison(y);
    if (keep_pre) kt_poison(pre);
    be->linear_fwd(be, y, pre, x, w, b, act);
    linear_reference(&l);
    assert_true(kt_error(y, l.y) <= 2e-6);
    l.y = NULL;
    if (act == OHT_ACT_GELU && !keep_pre) return;
    oht_tensor dx = gradient_buffer(x, add), dw = gradient_buffer(w, add),
               db = bias ? gradient_buffer(b, add) : OHT_NO_TENSOR;
    be->linear_bwd(be, dx, dw, db, dy, x, w, pre, y, act, add, add);
    assert_true(kt_gradient_error(l.x, contribution(dx, add), linear_reference, &l, 12, 1e-6) <= 3e-6);
    assert_true(kt_gradient_error(l.w, contribution(dw, add), linear_reference, &l, 12, 1e-6) <= 3e-6);
    if (bias)
        assert_true(kt_gradient_error(l.b, contribution(db, add), linear_reference, &l, 12, 1e-6) <= 3e-6);
    // absent gradients are not touched, the others do not change
    oht_tensor again = gradient_buffer(w, false), dy2 = kt_from(l.dy, N, M, 0, 0);
    be->linear_bwd(be, OHT_NO_TENSOR, again, OHT_NO_TENSOR, dy2, x, w, pre, y, act, false, false);
    if (!add) assert_true(kt_same_bits(again, dw));
}

static void linear_layers(void **state) {
    (void)state;
    static const int64_t shape[][3] = {{1, 1, 1}, {3, 5, 7}, {65, 33, 17}, {130, 3, 600}, {2, 300, 65}};
    for (int s = 0; s < 5; s++)
        for (int c = 0; c < 12; c++) {
            linear_case(shape[s][0], shape[s][1], shape[s][2], (oht_act)(c % 3), c & 1,
                        c % 3 == 2 ? c < 9 : c == 4, c >= 6);
            kt_reset();
        }
}

// ---- layernorm ----
typedef struct norm {
    int64_t N, C;
    double *x, *gamma, *beta, *dy, eps;
    double *y;
} norm;

static double norm_reference(const void *problem) {
    const norm *n = problem;
    double loss = 0.0;
    for (int64_t i = 0; i < n->N; i++) {
        const double *x = n->x + i * n->C;
        double mean = 0.0, var = 0.0;
        for (int64_t j = 0; j < n->C; j++) mean += x[j] / (double)n->C;
        for (int64_t j = 0; j < n->C; j++) var += (x[j] - mean) * (x[j] - mean) / (double)n->C;
        for (int64_t j = 0; j < n->C; j++) {
            double y = (x[j] - mean) / sqrt(var + n->eps) * n->gamma[j] + n->beta[j];
            if (n->y) n->y[i * n->C + j] = y;
            loss += y * n->dy[i * n->C + j];
        }
    }
    return loss;
}

static void layernorms(void **state) {
    (void)state;
    static const int64_t shape[][2] = {{1, 2}, {5, 7}, {65, 768}, {300, 65}, {7, 129}};
    for (int s = 0; s < 5; s++)
        for (int add = 0; add < 2; add++)
            for (int shifted = 0; shifted < 2;
                 shifted++) { // mean 100 times sigma: one-pass variances would fail here
                oht_backend *be = kt_backend();
                int64_t N = shape[s][0], C = shape[s][1];
                oht_tensor x = kt_normal(1, 1.0f, N, C, 0, 0), gamma = kt_normal(2, 1.0f, C, 0, 0, 0);
                oht_tensor beta = kt_normal(3, 1.0f, C, 0, 0, 0), dy = kt_normal(4, 1.0f, N, C, 0, 0),
                           y = kt_zeros(N, C, 0, 0);
                for (int64_t i = 0; i < N * C; i++) oht_f32(x)[i] += shifted ? 100.0f : 0.0f;
                oht_tensor mean = kt_zeros(N, 0, 0, 0), rstd = kt_zeros(N, 0, 0, 0);
                norm n = {N,
                          C,
                          values(x),
                          values(gamma),
                          values(beta),
                          values(dy),
                          1e-5,
                          kt_doubles((size_t)(N * C))};
                kt_poison(y), kt_poison(mean), kt_poison(rstd);
                be->layernorm_fwd(be, y, mean, rstd, x, gamma, beta, 1e-5f);
                norm_reference(&n);
                double tolerance = shifted ? 1e-4 : 3e-6;
                if (C == 2) tolerance *= 20.0; // two values: var may be tiny
                assert_true(kt_error(y, n.y) <= tolerance);
                n.y = NULL;
                oht_tensor dx = gradient_buffer(x, add), dg = gradient_buffer(gamma, add),
                           db = gradient_buffer(beta, add);
                void *scratch = kt_scratch(be->layernorm_bwd_scratch(be, N, C));
                be->layernorm_bwd(be, dx, dg, db, dy, x, gamma, mean, rstd, add, add, scratch);
                assert_true(kt_gradient_error(n.x, contribution(dx, add), norm_reference, &n, 20, 1e-5) <=
                            tolerance);
                assert_true(kt_gradient_error(n.gamma, contribution(dg, add), norm_reference, &n, 20, 1e-5) <=
                            tolerance);
                assert_true(kt_gradient_error(n.beta, contribution(db, add), norm_reference, &n, 20, 1e-5) <=
                            tolerance);
                kt_reset();
            }
}

// ---- gates ----
typedef struct gated {
    int64_t B, T, H, D, m;
    double *x, *ctx, *w[4], *dout;
    oht_gate gate;
    double *out;
} gated;

static double preactivation(const gated *g, int64_t n, int64_t h) {
    int64_t D = g->D, C = g->H * D, m = g->m;
    const double *x = g->x + n * C, *xh = x + h * D;
    if (g->gate.kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) return g->w[0][h];
    if (g->gate.form == OHT_GATE_LINEAR || g->gate.form == OHT_GATE_ALL_FEATURES) {
        bool all = g->gate.form == OHT_GATE_ALL_FEATURES;
        double a = g->w[1][h];
        for (int64_t d = 0; d < (all ? C : D); d++)
            a += g->w[0][h * (all ? C : D) + d] * (all ? x[d] : xh[d]);
        return a;
    }
    double a = g->w[3][h];
    for (int64_t j = 0; j < m; j++) {
        double z = g->w[1][h * m + j];
        for (int64_t d = 0; d < D; d++) z += g->w[0][(h * m + j) * D + d] * xh[d];
        a += fmax(z, 0.0) * g->w[2][h * m + j];
    }
    return a;
}

static double gate_reference(const void *problem) {
    const gated *g = problem;
    int64_t C = g->H * g->D;
    bool pooled = g->gate.kind == OHT_GATE_CONDITIONAL_PER_HEAD && g->gate.form != OHT_GATE_ALL_FEATURES;
    double loss = 0.0;
    for (int64_t n = 0; n < g->B * g->T; n++)
        for (int64_t h = 0; h < g->H; h++) {
            double a = 0.0;
            if (pooled)
                for (int64_t t = 0; t < g->T; t++)
                    a += preactivation(g, n / g->T * g->T + t, h) / (double)g->T;
            else
                a = preactivation(g, n, h);
            for (int64_t d = 0; d < g->D; d++) {
                int64_t at = n * C + h * g->D + d;
                double y = (double)g->gate.scale / (1.0 + exp(-a)) * g->ctx[at];
                if (g->out) g->out[at] = y;
                loss += y * g->dout[at];
            }
        }
    return loss;
}

static void gate_case(oht_gate_kind kind, oht_gate_form form, int64_t B, int64_t T, int64_t H, int64_t D,
                      bool add) {
    oht_backend *be = kt_backend();
    int64_t C = H * D, m = form == OHT_GATE_MLP ? (D / 4 > 0 ? D / 4 : 1) : D;
    oht_gate gate = {.kind = kind, .form = form, .heads = (int)H, .scale = 2.5f};
    bool uncond = kind == OHT_GATE_UNCONDITIONAL_PER_HEAD,
         pooled = kind == OHT_GATE_CONDITIONAL_PER_HEAD && form != OHT_GATE_ALL_FEATURES;
    oht_tensor x = kt_normal(1, 1.0f, B, T, C, 0), ctx = kt_normal(2, 1.0f, B, T, C, 0),
               u = kt_normal(3, 1.0f, B, T, C, 0);
    oht_tensor w[4] = {0}, dw[4] = {0}, out = kt_zeros(B, T, C, 0);
    oht_tensor pi = uncond ? kt_zeros(H, 0, 0, 0) : pooled ? kt_zeros(B, H, 0, 0) : kt_zeros(B, T, H, 0);
    if (uncond) {
        w[0] = kt_normal(4, 1.0f, H, 0, 0, 0);
    } else if (form == OHT_GATE_LINEAR || form == OHT_GATE_ALL_FEATURES) {
        w[0] = kt_normal(4, 0.5f, H, form == OHT_GATE_LINEAR ? D : C, 0, 0),
        w[1] = kt_normal(5, 0.5f, H, 0, 0, 0);
    } else {
        w[0] = kt_normal(4, 0.5f, H, m, D, 0), w[1] = kt_normal(5, 0.5f, H, m, 0, 0);
        w[2] = kt_normal(6, 0.5f, H, m, 0, 0), w[3] = kt_normal(7, 0.5f, H, 0, 0, 0);
    }
    gated g = {B,
               T,
               H,
               D,
               m,
               values(x),
               values(ctx),
               {values(w[0]), values(w[1]), values(w[2]), values(w[3])},
               values(u),
               gate,
               kt_doubles((size_t)(B * T * C))};
    for (int i = 0; i < 4; i++)
        if (w[i].data) dw[i] = gradient_buffer(w[i], add);
    size_t bytes = be->gate_scratch(be, B, T, C, &gate, m);
    kt_poison(out), kt_poison(pi);
    be->gate_fwd(be, out, pi, x, ctx, w, &gate, kt_scratch(bytes));
    gate_reference(&g);
    assert_true(kt_error(out, g.out) <= 2e-6);
    g.out = NULL;
    const bool adds[2] = {add, !add};
    oht_tensor dx = uncond ? OHT_NO_TENSOR : gradient_buffer(x, adds[0]),
               dctx = gradient_buffer(ctx, adds[1]);
    be->gate_bwd(be, dx, dctx, dw, u, pi, x, ctx, w, &gate, adds, add, kt_scratch(bytes));
    double worst = kt_gradient_error(g.ctx, contribution(dctx, adds[1]), gate_reference, &g, 6, 1e-6);
    if (!uncond)
        worst = fmax(worst, kt_gradient_error(g.x, contribution(dx, adds[0]), gate_reference, &g, 6, 1e-6));
    for (int i = 0; i < 4; i++)
        if (w[i].data)
            worst =
                fmax(worst, kt_gradient_error(g.w[i], contribution(dw[i], add), gate_reference, &g, 6, 1e-6));
    if (!(worst <= 1e-5))
        fail_msg("gate kind %d form %d T %d: gradient off by %.2g", (int)kind, (int)form, (int)T, worst);
    double mean[8], want = 0.0;
    be->gate_mean(be, mean, pi);
    for (int64_t i = 0; i < oht_tensor_count(pi); i += H)
        want += (double)oht_f32(pi)[i] / (double)(oht_tensor_count(pi) / H);
    assert_true(fabs(mean[0] - want) <= 1e-12);
    kt_reset();
}

static void gates(void **state) {
    (void)state;
    static const int64_t shape[][4] = {{2, 3, 2, 8}, {3, 1, 1, 5}, {1, 65, 3, 7}, {2, 70, 4, 16}};
    for (int s = 0; s < 4; s++)
        for (int form = OHT_GATE_LINEAR; form <= OHT_GATE_ALL_FEATURES; form++)
            for (int kind = OHT_GATE_CONDITIONAL_PER_HEAD; kind <= OHT_GATE_CONDITIONAL_PER_TOKEN; kind++)
                for (int add = 0; add < 2; add++)
                    gate_case((oht_gate_kind)kind, (oht_gate_form)form, shape[s][0], shape[s][1], shape[s][2],
                              shape[s][3], add);
    for (int s = 0; s < 4; s++)
        gate_case(OHT_GATE_UNCONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, shape[s][0], shape[s][1], shape[s][2],
                  shape[s][3], s & 1);
}

// ---- cross entropy ----
typedef struct head {
    int64_t n, V;
    double *x;
    const int32_t *label;
} head;

static double head_reference(const void *problem) {
    const head *c = problem;
    double loss = 0.0;
    for (int64_t i = 0; i < c->n; i++) {
        if (c->label[i] < 0) continue;
        const double *x = c->x + i * c->V;
        double max = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j < c->V; j++) max = fmax(max, x[j]);
        for (int64_t j = 0; j < c->V; j++) sum += exp(x[j] - max);
        loss += max + log(sum) - x[c->label[i]];
    }
    return loss;
}

static void cross_entropy(void **state) {
    (void)state;
    static const int64_t shape[][2] = {{1, 1}, {3, 7}, {65, 129}, {5, 5003}};
    static const float sigma[] = {1.0f, 30.0f};
    for (int s = 0; s < 4; s++)
        for (int k = 0; k < 2; k++) {
            oht_backend *be = kt_backend();
            int64_t n = shape[s][0], V = shape[s][1];
            int32_t label[65];
            for (int64_t i = 0; i < n; i++) label[i] = i % 4 == 2 ? -1 : (int32_t)(i * 37 % V);
            oht_tensor x = kt_normal(1, sigma[k], n, V, 0, 0), labels = kt_ints(label, n),
                       before = kt_copy(x);
            head c = {n, V, values(x), label};
            double want = head_reference(&c), *sum = kt_doubles(2);
            sum[0] = 10.0;
            be->cross_entropy(be, x, labels, &(oht_loss){.sum = sum}); // evaluation: logits stay
            assert_true(kt_same_bits(x, before));
            assert_true(fabs(sum[0] - 10.0 - want) <= 1e-6 * (1.0 + want));
            oht_tensor factor = kt_from((const double[]){-0.5}, 1, 0, 0, 0);
            be->cross_entropy(be, x, labels, &(oht_loss){.sum = sum, .scale = -0.5f, .factor = oht_f32(factor)});
            assert_true(fabs(sum[0] - 10.0 - 2.0 * want) <= 2e-6 * (1.0 + want));
            for (int64_t i = 0; i < n * V; i++) oht_f32(x)[i] *= 4.0f;
            assert_true(kt_gradient_error(c.x, x, head_reference, &c, 40, 1e-5) <= 1e-6);
            for (int64_t i = 0; i < n * V; i++) assert_true(label[i / V] >= 0 || oht_f32(x)[i] == 0.0f);
            oht_f32(before)[0] = NAN;
            be->cross_entropy(be, before, labels, &(oht_loss){.sum = sum + 1, .scale = 1.0f});
            assert_true(isnan(sum[1]));
            kt_reset();
        }
}

// ---- every test once more with three threads ----
static int three_threads(void **state) {
    (void)state;
    omp_set_num_threads(3);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_layers),
        cmocka_unit_test(layernorms),
        cmocka_unit_test(gates),
        cmocka_unit_test(cross_entropy),
    };
    int failed = cmocka_run_group_tests_name("one thread", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("three threads", tests, three_threads, NULL);
}
