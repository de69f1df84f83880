// The CUDA backend's attention against the CPU's (which has its own tests against double precision): every row function, causal
// or not, masked or not, with dropout, ragged lengths, head widths with and without 16-byte rows, three storage types;
// and the rows of softmax and softmax_1 against double precision where a missing exp(-m) would show.
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

typedef struct shape {
    int64_t B, T, H, D;
} shape;

typedef struct setup {
    oht_assoc as;
    shape s;
    oht_dtype type;
    float sigma, shift; // of q, k, v; shift of the scores
    bool mask, add;
} setup;

static const oht_assoc_spec FORM[] = {{OHT_SOFTMAX, false, 0, 0},      {OHT_SOFTMAX1, false, 0, 0},
                                      {OHT_SOFTMAX, true, -0.03, 1.0}, {OHT_SOFTMAX1, true, -0.02, 1.03},
                                      {OHT_SPARSEMAX, false, 0, 0},    {OHT_ENTMAX15, false, 0, 0}};
enum { FORMS = sizeof(FORM) / sizeof(FORM[0]) };

static oht_assoc assoc(const oht_assoc_spec *f, shape s, bool causal, float p) {
    oht_assoc as = {.f = *f, .beta = 1.0f / sqrtf((float)s.D), .causal = causal, .heads = (int)s.H};
    as.drop = (oht_draw){.seed = 77, .step = 3, .site = 5, .sample0 = 2, .stride = 3, .p = p};
    return as;
}

// How far from the CPU the device may be, relative to the largest element.
static double tolerance(oht_dtype type) {
    return type == OHT_F32 ? 3e-6 : type == OHT_F16 ? 2e-3 : 1.2e-2;
}

static void check(const char *what, double error, double most, const setup *u) {
    if (getenv("OHT_TEST_VERBOSE"))
        printf("%-6s %.2e  kind %d clipped %d causal %d mask %d p %.1f type %d  T %d D %d\n", what, error, (int)u->as.f.kind,
               u->as.f.clipped, u->as.causal, u->mask, (double)u->as.drop.p, (int)u->type, (int)u->s.T, (int)u->s.D);
    if (error <= most) return;
    fail_msg("%s: error %g > %g; kind %d clipped %d causal %d mask %d dropout %g type %d B %d T %d H %d D %d", what, error, most,
             (int)u->as.f.kind, u->as.f.clipped, u->as.causal, u->mask, (double)u->as.drop.p, (int)u->type, (int)u->s.B,
             (int)u->s.T, (int)u->s.H, (int)u->s.D);
}

static oht_tensor make_mask(shape s) {
    uint8_t bits[4096];
    for (int64_t i = 0; i < s.B * s.T; i++) bits[i] = (uint8_t)(i % s.T < s.T * 2 / 3 + 1 && i % 5 != 3);
    memset(bits, 0, (size_t)s.T); // sample 0 sees nothing
    return kt_bytes(bits, s.B, s.T);
}

// Forward and backward on both sides.
static void compare(const setup *u) {
    oht_backend *cpu = kt_backend(), *dev = dt_backend();
    shape s = u->s;
    int64_t C = s.H * s.D;
    const oht_assoc *as = &u->as;
    oht_tensor qkv = kt_normal(1, u->sigma, s.B, s.T, 3 * C, 0), dout = kt_normal(2, 1.0f, s.B, s.T, C, 0);
    for (int64_t i = 0; u->shift != 0.0f && i < s.B * s.T; i++) // a common part of q and of k moves all scores
        for (int64_t h = 0; h < s.H; h++) {
            float *q = oht_f32(qkv) + i * 3 * C + h * s.D;
            q[0] = sqrtf(fabsf(u->shift) / as->beta) * (u->shift < 0.0f ? -1.0f : 1.0f);
            q[C] = fabsf(q[0]);
        }
    dt_round(qkv, u->type);
    dt_round(dout, u->type);
    oht_tensor mask = u->mask ? make_mask(s) : OHT_NO_TENSOR;
    oht_tensor out = kt_zeros(s.B, s.T, C, 0), row = kt_zeros(s.B, s.H, s.T, 0), grad = kt_normal(3, 1.0f, s.B, s.T, 3 * C, 0);
    dt_round(grad, u->type);
    oht_tensor d_qkv = dt_up(qkv, u->type), d_dout = dt_up(dout, u->type), d_mask = dt_up(mask, OHT_U8);
    oht_tensor d_out = dt_like(out, u->type), d_row = dt_like(row, OHT_F32), d_grad = dt_up(grad, u->type);
    if (!u->add) d_grad = dt_like(grad, u->type);

    cpu->attention_fwd(cpu, out, row, qkv, mask, as, NULL, kt_scratch(cpu->attention_fwd_scratch(cpu, s.B, s.T, C, as)));
    dev->attention_fwd(dev, d_out, d_row, d_qkv, d_mask, as, NULL, dt_scratch(dev->attention_fwd_scratch(dev, s.B, s.T, C, as)));
    double tol = tolerance(u->type) * fmax(1.0, (double)fabsf(u->shift) / 4.0);
    check("out", dt_error(d_out, out, 1e-3), tol, u);
    check("row", dt_error(d_row, row, 1.0), u->type == OHT_F32 ? tol : 2e-5, u);

    cpu->attention_bwd(cpu, grad, dout, out, row, qkv, mask, as, u->add,
                       kt_scratch(cpu->attention_bwd_scratch(cpu, s.B, s.T, C, as)));
    dev->attention_bwd(dev, d_grad, d_dout, d_out, d_row, d_qkv, d_mask, as, u->add,
                       dt_scratch(dev->attention_bwd_scratch(dev, s.B, s.T, C, as)));
    check("grad", dt_error(d_grad, grad, 1e-3), (u->type == OHT_F32 ? 3.0 : 1.5) * tol, u);
    kt_reset();
    dt_reset();
}

static void forms_fp32(void **state) {
    (void)state;
    for (int f = 0; f < FORMS; f++)
        for (int causal = 0; causal < 2; causal++)
            for (int mask = 0; mask < 2; mask++) {
                shape s = {2, 37, 2, 16};
                compare(&(setup){assoc(&FORM[f], s, causal, mask ? 0.25f : 0.0f), s, OHT_F32, 1.5f, 0.0f, mask, causal != mask});
            }
}

static void forms_16_bits(void **state) {
    (void)state;
    for (int f = 0; f < FORMS; f++)
        for (int type = OHT_BF16; type <= OHT_F16; type++) {
            shape s = {2, 41, 1, 24};
            bool causal = (f + type) % 2 == 0;
            compare(&(setup){assoc(&FORM[f], s, causal, causal ? 0.2f : 0.0f), s, (oht_dtype)type, 1.0f, 0.0f, !causal, causal});
        }
}

// Head widths: full and padded tiles, rows without alignment, wider than the tiles.
static void widths(void **state) {
    static const int64_t width[] = {7, 20, 32, 64, 72, 80, 96, 128, 136};
    (void)state;
    for (size_t i = 0; i < sizeof(width) / sizeof(width[0]); i++)
        for (int f = 1; f < 6; f += 2) { // softmax_1, its clipped form, entmax15
            shape s = {1, 19, 1, width[i]};
            compare(&(setup){assoc(&FORM[f], s, i % 2, 0.1f), s, OHT_F32, 1.0f, 0.0f, false, false});
            if (f != 3) compare(&(setup){assoc(&FORM[f], s, i % 2, 0.1f), s, OHT_BF16, 1.0f, 0.0f, false, i % 2});
        }
}

// More than one tile of rows and of columns, lengths that divide nothing, and the shortest.
static void lengths(void **state) {
    static const int64_t length[] = {1, 2, 3, 4, 64, 65, 131};
    (void)state;
    for (size_t i = 0; i < sizeof(length) / sizeof(length[0]); i++)
        for (int causal = 0; causal < 2; causal++) {
            shape s = {2, length[i], 1, 16};
            compare(&(setup){assoc(&FORM[1], s, causal, 0.3f), s, OHT_BF16, 1.0f, 0.0f, causal, false});
            if (length[i] > 100 && causal) continue;
            compare(&(setup){assoc(&FORM[i % FORMS], s, causal, 0.3f), s, OHT_F32, 1.0f, 0.0f, !causal, false});
        }
}

// Scores far below and far above zero.
static void far_scores(void **state) {
    static const float shift[] = {-5.0f, -12.0f, -20.0f, 80.0f, -80.0f};
    (void)state;
    for (int i = 0; i < 5; i++)
        for (int f = 0; f < FORMS; f++) {
            shape s = {1, 1 + i + f, 1, 16};
            compare(&(setup){assoc(&FORM[f], s, f % 2, 0.0f), s, OHT_F32, 0.5f, shift[i], false, false});
            if (f < 2) compare(&(setup){assoc(&FORM[f], s, false, 0.0f), s, OHT_BF16, 0.5f, shift[i], false, false});
        }
}

// row in double precision: with a handful of scores near -5 .. -20, softmax_1 without its one would be off by far.
static void the_one(void **state) {
    (void)state;
    oht_backend *dev = dt_backend();
    for (int type = OHT_F32; type <= OHT_F16; type += type == OHT_F32 ? OHT_BF16 - OHT_F32 : 1)
        for (int64_t T = 1; T <= 4; T++)
            for (int kind = OHT_SOFTMAX; kind <= OHT_SOFTMAX1; kind++)
                for (float level = -5.0f; level >= -20.0f; level -= 7.5f) {
                    shape s = {1, T, 1, 16};
                    oht_assoc as = assoc(&FORM[kind], s, false, 0.0f);
                    oht_tensor qkv = kt_zeros(1, T, 3 * 16, 0), out = kt_zeros(1, T, 16, 0), row = kt_zeros(1, 1, T, 0);
                    for (int64_t t = 0; t < T; t++) { // scores: level + t, exact in every type
                        float *q = oht_f32(qkv) + t * 48;
                        q[0] = 4.0f, q[16] = level + (float)t, q[32] = 1.0f;
                    }
                    oht_tensor d_out = dt_like(out, (oht_dtype)type), d_row = dt_like(row, OHT_F32);
                    dev->attention_fwd(dev, d_out, d_row, dt_up(qkv, (oht_dtype)type), OHT_NO_TENSOR, &as, NULL, dt_scratch(0));
                    double sum = kind == OHT_SOFTMAX1 ? 1.0 : 0.0;
                    for (int64_t t = 0; t < T; t++) sum += exp((double)level + (double)t);
                    for (int64_t t = 0; t < T; t++) {
                        oht_f32(row)[t] = (float)log(sum);
                        oht_f32(out)[t * 16] = (float)((sum - (kind == OHT_SOFTMAX1)) / sum);
                    }
                    double e = dt_error(d_row, row, 1e-9), o = dt_error(d_out, out, 1e-12);
                    if (!(e <= (kind == OHT_SOFTMAX1 ? 2e-7 / (sum - 1.0) : 1e-6)) || !(o <= (type == OHT_F32 ? 2e-6 : 5e-3) + (type == OHT_F16 ? 0x1p-24 / (double)oht_f32(out)[0] : 0.0))) // its smallest step
                        fail_msg("kind %d T %d level %g type %d: row %g, out %g", kind, (int)T, (double)level, type, e, o);
                    kt_reset();
                    dt_reset();
                }
}

// Scores and probabilities for taps, and quantized evaluation.
static void taps_and_quantization(void **state) {
    (void)state;
    static const oht_fakequant scores_q = {0.125f, 3.0f, -128.0f, 127.0f}, probs_q = {1.0f / 255.0f, 0.0f, 0.0f, 255.0f};
    oht_backend *cpu = kt_backend(), *dev = dt_backend();
    for (int f = 0; f < FORMS; f++)
        for (int quantized = 0; quantized < 2; quantized++) {
            shape s = {2, f == 1 ? 70 : 21, 2, f == 2 ? 136 : 16}; // the wide kernels, too
            setup u = {assoc(&FORM[f], s, f % 2, f % 3 ? 0.0f : 0.2f), s, OHT_F32, 1.0f, 0.0f, f % 2 == 0, false};
            if (quantized) u.as.quant_scores = &scores_q, u.as.quant_probs = &probs_q;
            int64_t C = s.H * s.D;
            oht_tensor qkv = kt_normal(4, 1.0f, s.B, s.T, 3 * C, 0), out = kt_zeros(s.B, s.T, C, 0), row = kt_zeros(s.B, s.H, s.T, 0);
            for (int64_t i = 0; i < oht_tensor_count(qkv); i++) // no score may lie on the edge between two codes
                oht_f32(qkv)[i] = (float)(((int)(oht_f32(qkv)[i] * 8.0f)) | 1) / 8.0f;
            u.as.beta = 0.2503f;
            oht_tensor mask = u.mask ? make_mask(s) : OHT_NO_TENSOR;
            oht_tensor d_out = dt_like(out, OHT_F32), d_row = dt_like(row, OHT_F32);
            oht_attention_inner inner = {kt_zeros(s.B, s.H, s.T, s.T), kt_zeros(s.B, s.H, s.T, s.T)};
            oht_attention_inner d_inner = {dt_like(inner.scores, OHT_F32), dt_like(inner.probs, OHT_F32)};
            cpu->attention_fwd(cpu, out, row, qkv, mask, &u.as, &inner,
                               kt_scratch(cpu->attention_fwd_scratch(cpu, s.B, s.T, C, &u.as)));
            dev->attention_fwd(dev, d_out, d_row, dt_up(qkv, OHT_F32), dt_up(mask, OHT_U8), &u.as, &d_inner, dt_scratch(0));
            check("scores", dt_error(d_inner.scores, inner.scores, 1.0), 1e-6, &u);
            check("probs", dt_error(d_inner.probs, inner.probs, 1.0), 5e-6, &u);
            check("row", dt_error(d_row, row, 1.0), 5e-6, &u);
            // A probability at the edge of two codes may fall to either side.
            check("out", dt_error(d_out, out, 1.0), quantized ? 1.5 / 255.0 : 5e-6, &u);
            if (!quantized) { // only one of them
                dev->attention_fwd(dev, d_out, d_row, dt_up(qkv, OHT_F32), dt_up(mask, OHT_U8), &u.as,
                                   &(oht_attention_inner){.probs = d_inner.probs}, dt_scratch(0));
                check("out", dt_error(d_out, out, 1.0), 5e-6, &u);
            }
            kt_reset();
            dt_reset();
            cpu = kt_backend();
        }
}

// A NaN among the inputs is seen in the result.
static void nan_stays(void **state) {
    (void)state;
    oht_backend *dev = dt_backend();
    for (int f = 0; f < 2; f++) {
        shape s = {1, 5, 1, 16};
        oht_assoc as = assoc(&FORM[f], s, false, 0.0f);
        oht_tensor qkv = kt_normal(5, 1.0f, 1, 5, 48, 0), out = kt_zeros(1, 5, 16, 0), row = kt_zeros(1, 1, 5, 0);
        oht_f32(qkv)[2 * 48] = NAN; // query 2
        oht_tensor d_out = dt_like(out, OHT_F32), d_row = dt_like(row, OHT_F32);
        dev->attention_fwd(dev, d_out, d_row, dt_up(qkv, OHT_F32), OHT_NO_TENSOR, &as, NULL, dt_scratch(0));
        float result[80];
        dev->download(dev, result, d_out.data, sizeof(result));
        for (int i = 0; i < 80; i++) assert_true(i / 16 == 2 ? isnan(result[i]) : isfinite(result[i]));
        kt_reset();
        dt_reset();
    }
}

int main(int argc, char **argv) {
    if (!dt_backend()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_one),    cmocka_unit_test(forms_fp32), cmocka_unit_test(forms_16_bits), cmocka_unit_test(widths),
        cmocka_unit_test(lengths),    cmocka_unit_test(far_scores), cmocka_unit_test(taps_and_quantization),
        cmocka_unit_test(nan_stays),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
