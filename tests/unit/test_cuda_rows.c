// The CUDA backend's association of short rows, gates, LayerNorm and dropout against the CPU's (which have their own tests
// against double precision and golden vectors), in every form, on awkward shapes, in three storage types.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device_test.h"

static double tolerance(oht_dtype type) {
    return type == OHT_F32 ? 2e-6 : type == OHT_F16 ? 1e-3 : 8e-3;
}

static void check(const char *what, const char *where, double error, double most) {
    if (getenv("OHT_TEST_VERBOSE")) printf("%-8s %.2e  %s\n", what, error, where);
    if (!(error <= most)) fail_msg("%s: error %g > %g; %s", what, error, most, where);
}

// ---- short rows ----
typedef struct rows_case {
    int64_t B, G, L, S, H, D;
    oht_assoc_spec f;
    float alpha; // raw; NAN: not learned
    bool shared, same, mix, add; // same: values are the keys
    float p, sigma;
} rows_case;

static void short_rows_case(rows_case c) {
    char where[200];
    snprintf(where, sizeof(where), "kind %d clipped %d alpha %g shared %d same %d mix %d add %d p %g B %d G %d L %d S %d H %d D %d",
             (int)c.f.kind, c.f.clipped, (double)c.alpha, c.shared, c.same, c.mix, c.add, (double)c.p, (int)c.B, (int)c.G, (int)c.L,
             (int)c.S, (int)c.H, (int)c.D);
    oht_backend *cpu = kt_backend(), *dev = dt_backend();
    int64_t C = c.H * c.D;
    oht_hopfield hf = {.f = c.f, .learns_alpha = !isnan(c.alpha), .alpha_range = 1.0f, .beta = 1.0f / sqrtf((float)c.D),
                       .heads = (int)c.H, .mix = c.mix, .keep_base = true};
    hf.drop = (oht_draw){.seed = 9, .step = 1, .site = 2, .sample0 = 5, .stride = 2, .p = c.p};
    oht_tensor q = kt_normal(1, c.sigma, c.B, c.G, c.L, C);
    oht_tensor k = c.shared ? kt_normal(2, 1.0f, 1, c.S, C, 0) : kt_normal(2, 1.0f, c.B, c.G, c.S, C), v = k;
    if (!c.same) v = c.shared ? kt_normal(3, 1.0f, 1, c.S, C, 0) : kt_normal(3, 1.0f, c.B, c.G, c.S, C);
    double raw = hf.learns_alpha ? (double)c.alpha : 0.0;
    oht_tensor a = hf.learns_alpha ? kt_from(&raw, 1, 0, 0, 0) : OHT_NO_TENSOR;
    oht_tensor out = kt_zeros(c.B, c.G, c.L, C), probs = kt_zeros(c.B, c.G, c.H * c.L, c.S), dout = kt_normal(4, 1.0f, c.B, c.G, c.L, C);
    oht_tensor dq = kt_copy(out), dk = kt_copy(k), dv = c.same ? OHT_NO_TENSOR : kt_copy(v), da = hf.learns_alpha ? kt_copy(a) : a;
    oht_tensor d_q = dt_up(q, OHT_F32), d_k = dt_up(k, OHT_F32), d_v = c.same ? d_k : dt_up(v, OHT_F32), d_a = dt_up(a, OHT_F32);
    oht_tensor d_out = dt_like(out, OHT_F32), d_probs = dt_like(probs, OHT_F32), d_dout = dt_up(dout, OHT_F32);
    oht_tensor d_dq = dt_up(dq, OHT_F32), d_dk = dt_up(dk, OHT_F32), d_dv = dt_up(dv, OHT_F32), d_da = dt_up(da, OHT_F32);
    if (!c.add) d_dk = dt_like(dk, OHT_F32), d_dq = dt_like(dq, OHT_F32);
    const bool add[4] = {c.add, c.add, c.add, c.add};
    void *scratch = kt_scratch(cpu->hopfield_scratch(cpu, &hf, c.G, c.L, c.S, C));
    void *d_scratch = dt_scratch(dev->hopfield_scratch(dev, &hf, c.G, c.L, c.S, C));
    for (int keep = 0; keep < 2; keep++) {
        hf.keep_base = keep;
        cpu->hopfield_fwd(cpu, out, probs, q, k, v, a, &hf, scratch);
        dev->hopfield_fwd(dev, d_out, d_probs, d_q, d_k, d_v, d_a, &hf, d_scratch);
        check("out", where, dt_error(d_out, out, 1e-3), 2e-6);
        check("probs", where, dt_error(d_probs, probs, 1e-3), 2e-6);
    }
    cpu->hopfield_bwd(cpu, dq, dk, dv, da, dout, probs, q, k, v, a, &hf, add, scratch);
    dev->hopfield_bwd(dev, d_dq, d_dk, d_dv, d_da, d_dout, d_probs, d_q, d_k, d_v, d_a, &hf, add, d_scratch);
    double far = c.f.kind == OHT_SOFTMAX || c.f.kind == OHT_SOFTMAX1 ? 1.0 : 4.0; // roots of small p amplify its rounding
    if (hf.learns_alpha) far = 50.0;
    check("dq", where, dt_error(d_dq, dq, 1e-2), far * 5e-6);
    check("dk", where, dt_error(d_dk, dk, 1e-2), far * 5e-6);
    if (dv.data) check("dv", where, dt_error(d_dv, dv, 1e-2), 5e-6);
    if (da.data) check("da", where, dt_error(d_da, da, 1e-2), 2e-4);
    kt_reset();
    dt_reset();
}

static void short_rows(void **state) {
    (void)state;
    const oht_assoc_spec form[] = {{OHT_SOFTMAX, false, 0, 0},     {OHT_SOFTMAX1, false, 0, 0}, {OHT_SOFTMAX, true, -0.1, 1.0},
                                   {OHT_SOFTMAX1, true, -0.05, 1.05}, {OHT_SPARSEMAX, false, 0, 0}, {OHT_ENTMAX15, false, 0, 0}};
    for (int f = 0; f < 6; f++)
        for (int shared = 0; shared < 2; shared++)
            short_rows_case((rows_case){2, 3, 7, 5, 2, 4, form[f], NAN, shared, f % 2, f % 3 == 1, f % 2, shared ? 0.25f : 0.0f, 2.0f});
    short_rows_case((rows_case){1, 2, 28, 28, 2, 16, form[1], NAN, false, false, true, false, 0.1f, 1.0f});
    short_rows_case((rows_case){1, 1, 1, 1, 1, 1, form[0], NAN, false, false, false, false, 0.0f, 1.0f});
    short_rows_case((rows_case){1, 1, 3, 60, 1, 33, form[4], NAN, true, false, false, true, 0.0f, 1.0f});
    // more groups than blocks, and rows that pass in several chunks
    short_rows_case((rows_case){1, 140, 2, 3, 1, 2, form[1], NAN, true, false, false, true, 0.1f, 1.0f});
    short_rows_case((rows_case){1, 1, 75, 230, 1, 8, form[1], NAN, false, false, false, false, 0.1f, 1.0f});
    short_rows_case((rows_case){1, 1, 4, 5000, 1, 3, form[1], NAN, true, true, false, true, 0.0f, 1.0f});
}

static void learned_alpha(void **state) {
    (void)state;
    const oht_assoc_spec none = {OHT_SOFTMAX, false, 0, 0};
    const float raw[] = {0.0f, 2.0f, -1.0f, -4.0f, -7.5f, -20.0f}; // alpha from 1.9 down to 1
    for (int i = 0; i < 6; i++)
        short_rows_case((rows_case){1, 2, 5, 9, 2, 4, none, raw[i], i % 2, false, i == 3, i % 2 == 0, i == 1 ? 0.2f : 0.0f, 1.5f});
}

static void not_a_number(void **state) {
    (void)state;
    oht_backend *dev = dt_backend();
    for (int learned = 0; learned < 2; learned++) {
        double raw = 0.0;
        oht_hopfield hf = {.beta = 1.0f, .heads = 1, .learns_alpha = learned, .alpha_range = 1.0f};
        oht_tensor q = kt_normal(1, 1.0f, 1, 1, 2, 4), k = kt_normal(2, 1.0f, 1, 1, 3, 4), out = kt_zeros(1, 1, 2, 4);
        oht_f32(q)[1] = NAN;
        oht_tensor d_out = dt_like(out, OHT_F32), d_k = dt_up(k, OHT_F32);
        dev->hopfield_fwd(dev, d_out, dt_like(kt_zeros(1, 1, 2, 3), OHT_F32), dt_up(q, OHT_F32), d_k, d_k,
                          dt_up(kt_from(&raw, 1, 0, 0, 0), OHT_F32), &hf, dt_scratch(dev->hopfield_scratch(dev, &hf, 1, 2, 3, 4)));
        float y[8];
        dev->download(dev, y, d_out.data, sizeof(y));
        for (int i = 0; i < 8; i++) assert_true(i < 4 ? isnan(y[i]) : isfinite(y[i]));
        kt_reset();
        dt_reset();
    }
}

// ---- gates ----
static void gate_case(oht_gate_kind kind, oht_gate_form form, oht_dtype type, int64_t B, int64_t T, int64_t H, int64_t D, int64_t m,
                      bool add) {
    char where[120];
    snprintf(where, sizeof(where), "kind %d form %d type %d B %d T %d H %d D %d m %d", (int)kind, (int)form, (int)type, (int)B, (int)T,
             (int)H, (int)D, (int)m);
    oht_backend *cpu = kt_backend(), *dev = dt_backend();
    int64_t C = H * D;
    oht_gate gate = {kind, form, (int)H, 2.5f};
    bool constant = kind == OHT_GATE_UNCONDITIONAL_PER_HEAD, per_head = kind == OHT_GATE_CONDITIONAL_PER_HEAD && form != OHT_GATE_ALL_FEATURES;
    oht_tensor w[4] = {0}, dw[4] = {0}, d_w[4] = {0}, d_dw[4] = {0};
    if (constant) {
        w[0] = kt_normal(1, 1.0f, H, 0, 0, 0);
    } else if (form == OHT_GATE_LINEAR) {
        w[0] = kt_normal(1, 0.5f, H, D, 0, 0), w[1] = kt_normal(2, 0.5f, H, 0, 0, 0);
    } else if (form == OHT_GATE_ALL_FEATURES) {
        w[0] = kt_normal(1, 0.3f, H, C, 0, 0), w[1] = kt_normal(2, 0.5f, H, 0, 0, 0);
    } else {
        w[0] = kt_normal(1, 0.5f, H, m, D, 0), w[1] = kt_normal(2, 0.5f, H, m, 0, 0);
        w[2] = kt_normal(3, 0.5f, H, m, 0, 0), w[3] = kt_normal(4, 0.5f, H, 0, 0, 0);
    }
    oht_tensor x = dt_round(kt_normal(5, 1.0f, B, T, C, 0), type), ctx = dt_round(kt_normal(6, 1.0f, B, T, C, 0), type);
    oht_tensor u = dt_round(kt_normal(7, 1.0f, B, T, C, 0), type), out = kt_zeros(B, T, C, 0);
    oht_tensor dx = dt_round(kt_normal(8, 1.0f, B, T, C, 0), type), dctx = dt_round(kt_normal(9, 1.0f, B, T, C, 0), type);
    oht_tensor pi = constant ? kt_zeros(H, 0, 0, 0) : per_head ? kt_zeros(B, H, 0, 0) : kt_zeros(B, T, H, 0);
    for (int i = 0; i < 4; i++) {
        if (!w[i].data) continue;
        dt_round(w[i], type);
        dw[i] = kt_copy(w[i]);
        d_w[i] = dt_up(w[i], type);
        d_dw[i] = add ? dt_up(dw[i], OHT_F32) : dt_like(dw[i], OHT_F32);
    }
    oht_tensor d_x = dt_up(x, type), d_ctx = dt_up(ctx, type), d_u = dt_up(u, type), d_out = dt_like(out, type);
    oht_tensor d_pi = dt_like(pi, OHT_F32), d_dx = add ? dt_up(dx, type) : dt_like(dx, type), d_dctx = add ? dt_like(dctx, type) : dt_up(dctx, type);
    if (constant) x = d_x = dx = d_dx = OHT_NO_TENSOR;
    const bool adds[2] = {add, !add};
    cpu->gate_fwd(cpu, out, pi, x, ctx, w, &gate, kt_scratch(cpu->gate_scratch(cpu, B, T, C, &gate, m)));
    dev->gate_fwd(dev, d_out, d_pi, d_x, d_ctx, d_w, &gate, dt_scratch(dev->gate_scratch(dev, B, T, C, &gate, m)));
    check("pi", where, dt_error(d_pi, pi, 1e-3), 2e-6);
    check("out", where, dt_error(d_out, out, 1e-3), tolerance(type));
    cpu->gate_bwd(cpu, dx, dctx, dw, u, pi, x, ctx, w, &gate, adds, add, kt_scratch(cpu->gate_scratch(cpu, B, T, C, &gate, m)));
    dev->gate_bwd(dev, d_dx, d_dctx, d_dw, d_u, d_pi, d_x, d_ctx, d_w, &gate, adds, add,
                  dt_scratch(dev->gate_scratch(dev, B, T, C, &gate, m)));
    check("dctx", where, dt_error(d_dctx, dctx, 1e-3), tolerance(type));
    if (!constant) check("dx", where, dt_error(d_dx, dx, 1e-3), tolerance(type));
    for (int i = 0; i < 4; i++)
        if (w[i].data) check("dw", where, dt_error(d_dw[i], dw[i], 1e-1), 5e-6);
    kt_reset();
    dt_reset();
}

static void gates(void **state) {
    (void)state;
    for (int kind = OHT_GATE_UNCONDITIONAL_PER_HEAD; kind <= OHT_GATE_CONDITIONAL_PER_TOKEN; kind++)
        for (int form = OHT_GATE_LINEAR; form <= OHT_GATE_ALL_FEATURES; form++) {
            gate_case((oht_gate_kind)kind, (oht_gate_form)form, OHT_F32, 2, 9, 3, 5, 4, false);
            gate_case((oht_gate_kind)kind, (oht_gate_form)form, OHT_BF16, 1, 11, 2, 40, 3, true);
        }
    gate_case(OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, OHT_F16, 3, 1, 1, 8, 0, true);
    gate_case(OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_MLP, OHT_F16, 5, 129, 1, 4, 2, false); // several ranges of tokens
}

// ---- LayerNorm ----
static void norm_case(oht_dtype type, int64_t N, int64_t C, float mean, bool add, bool want_dx) {
    char where[80];
    snprintf(where, sizeof(where), "type %d N %d C %d mean %g", (int)type, (int)N, (int)C, (double)mean);
    oht_backend *cpu = kt_backend(), *dev = dt_backend();
    oht_tensor x = kt_normal(1, 1.0f, N, C, 0, 0), dy = dt_round(kt_normal(2, 1.0f, N, C, 0, 0), type), y = kt_zeros(N, C, 0, 0);
    for (int64_t i = 0; i < N * C; i++) oht_f32(x)[i] += mean;
    dt_round(x, type);
    oht_tensor gamma = dt_round(kt_normal(3, 1.0f, C, 0, 0, 0), type), beta = dt_round(kt_normal(4, 1.0f, C, 0, 0, 0), type);
    oht_tensor mu = kt_zeros(N, 0, 0, 0), rstd = kt_zeros(N, 0, 0, 0), dx = dt_round(kt_normal(5, 1.0f, N, C, 0, 0), type);
    oht_tensor dgamma = kt_normal(6, 1.0f, C, 0, 0, 0), dbeta = kt_normal(7, 1.0f, C, 0, 0, 0);
    oht_tensor d_x = dt_up(x, type), d_dy = dt_up(dy, type), d_y = dt_like(y, type), d_gamma = dt_up(gamma, type), d_beta = dt_up(beta, type);
    oht_tensor d_mu = dt_like(mu, OHT_F32), d_rstd = dt_like(rstd, OHT_F32), d_dx = add ? dt_up(dx, type) : dt_like(dx, type);
    oht_tensor d_dgamma = add ? dt_up(dgamma, OHT_F32) : dt_like(dgamma, OHT_F32), d_dbeta = add ? dt_up(dbeta, OHT_F32) : dt_like(dbeta, OHT_F32);
    if (!want_dx) dx = d_dx = OHT_NO_TENSOR;
    cpu->layernorm_fwd(cpu, y, mu, rstd, x, gamma, beta, 1e-5f);
    dev->layernorm_fwd(dev, d_y, d_mu, d_rstd, d_x, d_gamma, d_beta, 1e-5f);
    double far = fmax(1.0, (double)mean * 0.1); // the mean's own rounding
    check("mean", where, dt_error(d_mu, mu, 1.0), 1e-6);
    check("rstd", where, dt_error(d_rstd, rstd, 1.0), 2e-6 * far);
    check("y", where, dt_error(d_y, y, 1.0), tolerance(type) * far);
    cpu->layernorm_bwd(cpu, dx, dgamma, dbeta, dy, x, gamma, mu, rstd, add, add, kt_scratch(cpu->layernorm_bwd_scratch(cpu, N, C)));
    dev->layernorm_bwd(dev, d_dx, d_dgamma, d_dbeta, d_dy, d_x, d_gamma, d_mu, d_rstd, add, add,
                       dt_scratch(dev->layernorm_bwd_scratch(dev, N, C)));
    if (want_dx) check("dx", where, dt_error(d_dx, dx, 1.0), tolerance(type) * far);
    check("dgamma", where, dt_error(d_dgamma, dgamma, 1.0), 3e-6 * far);
    check("dbeta", where, dt_error(d_dbeta, dbeta, 1.0), 3e-6);
    kt_reset();
    dt_reset();
}

static void norms(void **state) {
    (void)state;
    for (int type = OHT_F32; type <= OHT_F16; type += type == OHT_F32 ? OHT_BF16 - OHT_F32 : 1) {
        norm_case((oht_dtype)type, 1, 1, 0.0f, false, true);
        norm_case((oht_dtype)type, 37, 20, 0.0f, true, true); // 20 is whole vectors of float, not of 16 bits
        norm_case((oht_dtype)type, 13, 768, 0.0f, false, true);
        norm_case((oht_dtype)type, 9, 131, 0.0f, true, false);
        norm_case((oht_dtype)type, 2100, 8, 0.0f, false, true); // several rows a warp
    }
    norm_case(OHT_F32, 5, 96, 100.0f, false, true);
    norm_case(OHT_F32, 3, 12000, 0.0f, false, true); // fewer warps a block
}

// ---- dropout ----
static void dropout(void **state) {
    static const int64_t length[] = {1, 8, 7, 40, 1001};
    (void)state;
    oht_backend *dev = dt_backend();
    for (int type = OHT_F32; type <= OHT_F16; type += type == OHT_F32 ? OHT_BF16 - OHT_F32 : 1)
        for (int l = 0; l < 5; l++)
            for (int with = 0; with < 2; with++) {
                char where[80];
                snprintf(where, sizeof(where), "type %d n %d with %d", type, (int)length[l], with);
                oht_backend *cpu = kt_backend();
                oht_draw drop = {.seed = 0x123456789abcull, .step = 7, .site = 9, .sample0 = 4, .stride = 5, .p = l % 2 ? 0.1f : 0.5f};
                oht_tensor f = dt_round(kt_normal(1, 1.0f, 3, length[l], 0, 0), (oht_dtype)type);
                oht_tensor x = dt_round(kt_normal(2, 1.0f, 3, length[l], 0, 0), (oht_dtype)type), y = kt_zeros(3, length[l], 0, 0);
                oht_tensor d_f = dt_up(f, (oht_dtype)type), d_x = dt_up(x, (oht_dtype)type), d_y = dt_like(y, (oht_dtype)type);
                if (!with) x = d_x = OHT_NO_TENSOR;
                cpu->dropout_add(cpu, y, x, f, &drop);
                dev->dropout_add(dev, d_y, d_x, d_f, &drop);
                check("y", where, dt_error(d_y, y, 1.0), type == OHT_F32 ? 2e-7 : tolerance((oht_dtype)type));
                oht_tensor df = dt_round(kt_normal(3, 1.0f, 3, length[l], 0, 0), (oht_dtype)type);
                oht_tensor d_df = with ? dt_up(df, (oht_dtype)type) : dt_like(df, (oht_dtype)type);
                cpu->dropout_bwd(cpu, df, f, &drop, with);
                dev->dropout_bwd(dev, d_df, d_f, &drop, with);
                check("df", where, dt_error(d_df, df, 1.0), type == OHT_F32 ? 2e-7 : tolerance((oht_dtype)type));
                kt_reset();
                dt_reset();
            }
}

int main(int argc, char **argv) {
    if (!dt_backend()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_rows), cmocka_unit_test(learned_alpha), cmocka_unit_test(not_a_number),
        cmocka_unit_test(gates),      cmocka_unit_test(norms),         cmocka_unit_test(dropout),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
