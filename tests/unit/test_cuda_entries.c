// Every entry of the CUDA backend's table against the CPU's: random inputs, odd shapes, gradients that overwrite and that add,
// three storage types. On the emulated GPU of tests/emulation, or on a real one (device_test.h). The last test fails
// when an entry of the table was never called by the others. Attention, short rows, gates and layernorm have closer
// tests of their own.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "two_sides.h"

// ---- layers ----
static void linear(void **state) {
    NEEDS_DEVICE;
    static const int64_t shape[][3] = {{1, 1, 1},    {7, 5, 3},   {33, 40, 17},
                                       {70, 65, 96}, {1, 300, 2}, {300, 3, 70}};
    EACH_TYPE for (int i = 0; i < 18; i++) {
        int64_t N = shape[i / 3][0], K = shape[i / 3][1], M = shape[i / 3][2];
        oht_act act = (oht_act[]){OHT_ACT_NONE, OHT_ACT_RELU, OHT_ACT_GELU}[i % 3];
        bool add = i % 2, bias = i % 4 != 1, training = i % 3 == 2 && i % 2;
        two x = normal(1, N, K, 0, 0), w = both(kt_normal(2, 0.2f, M, K, 0, 0), type),
            b = bias ? normal(3, M, 0, 0, 0) : NONE;
        two y = target(4, false, type, N, M, 0, 0),
            pre = training ? target(4, false, type, N, M, 0, 0) : NONE;
        RUN(linear_fwd, of(y), of(pre), of(x), of(w), of(b), act);
        same("linear y", y);
        if (training) same("linear pre", pre);
        two kept = act == OHT_ACT_GELU ? normal(5, N, M, 0, 0) : NONE;
        y = act == OHT_ACT_RELU ? both(kt_copy(y.cpu), type) : NONE;
        two dy = normal(6, N, M, 0, 0), dx = i == 4 ? NONE : target(7, add, type, N, K, 0, 0);
        two dw = i == 7 ? NONE : target(8, add, OHT_F32, M, K, 0, 0),
            db = bias && i != 5 ? target(9, add, OHT_F32, M, 0, 0, 0) : NONE;
        RUN(linear_bwd, of(dx), of(dw), of(db), of(dy), of(x), of(w), of(kept), of(y), act, add, add);
        same("linear dy", dy);
        if (dx.cpu.data) same("linear dx", dx);
        if (dw.cpu.data) same("linear dw", dw);
        if (db.cpu.data) same("linear db", db);
    }
}

static void *scratch_for(size_t cpu, size_t gpu, void *out[2]) {
    out[CPU] = kt_scratch(cpu);
    out[GPU] = dt_scratch(gpu);
    return NULL;
}

static void layernorm(void **state) {
    NEEDS_DEVICE;
    static const int64_t shape[][2] = {{1, 1}, {5, 33}, {40, 96}, {130, 8}};
    EACH_TYPE for (int i = 0; i < 8; i++) {
        int64_t N = shape[i / 2][0], C = shape[i / 2][1];
        bool add = i % 2;
        two x = normal(1, N, C, 0, 0), g = normal(2, C, 0, 0, 0), b = normal(3, C, 0, 0, 0),
            y = target(4, false, type, N, C, 0, 0);
        two mean = target(4, false, OHT_F32, N, 0, 0, 0), rstd = target(4, false, OHT_F32, N, 0, 0, 0);
        RUN(layernorm_fwd, of(y), of(mean), of(rstd), of(x), of(g), of(b), 1e-5f);
        same("layernorm y", y);
        same("layernorm mean", mean);
        mean = both(kt_copy(mean.cpu), OHT_F32);
        rstd = both(kt_copy(rstd.cpu), OHT_F32);
        two dy = normal(5, N, C, 0, 0), dx = target(6, add, type, N, C, 0, 0),
            dg = target(7, add, OHT_F32, C, 0, 0, 0), db = target(8, add, OHT_F32, C, 0, 0, 0);
        void *scratch[2];
        mark(offsetof(oht_backend, layernorm_bwd_scratch));
        scratch_for(be[CPU]->layernorm_bwd_scratch(be[CPU], N, C),
                    be[GPU]->layernorm_bwd_scratch(be[GPU], N, C), scratch);
        RUN(layernorm_bwd, of(dx), of(dg), of(db), of(dy), of(x), of(g), of(mean), of(rstd), add, add,
            scratch[side]);
        if (C > 1) same("layernorm dx", dx);
        same("layernorm dgamma", dg);
        same("layernorm dbeta", db);
    }
}

static void attention(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int i = 0; i < 4; i++) {
        int64_t B = 2, T = (int64_t[]){5, 33}[i % 2], H = 2, D = 16, C = H * D;
        oht_assoc as = {.f = {i < 2 ? OHT_SOFTMAX1 : OHT_SPARSEMAX, false, 0, 0},
                        .beta = 0.25f,
                        .causal = i % 2,
                        .heads = (int)H};
        two qkv = normal(1, B, T, 3 * C, 0), out = target(2, false, type, B, T, C, 0),
            row = target(3, false, OHT_F32, B, H, T, 0);
        const oht_attention_inner inner = {0};
        void *fwd[2], *bwd[2];
        mark(offsetof(oht_backend, attention_fwd_scratch));
        mark(offsetof(oht_backend, attention_bwd_scratch));
        scratch_for(be[CPU]->attention_fwd_scratch(be[CPU], B, T, C, &as),
                    be[GPU]->attention_fwd_scratch(be[GPU], B, T, C, &as), fwd);
        scratch_for(be[CPU]->attention_bwd_scratch(be[CPU], B, T, C, &as),
                    be[GPU]->attention_bwd_scratch(be[GPU], B, T, C, &as), bwd);
        RUN(attention_fwd, of(out), of(row), of(qkv), OHT_NO_TENSOR, &as, &inner, fwd[side]);
        same("attention out", out);
        same("attention row", row);
        out = both(kt_copy(out.cpu), type);
        row = both(kt_copy(row.cpu), OHT_F32);
        two dout = normal(4, B, T, C, 0), dqkv = target(5, i % 2, type, B, T, 3 * C, 0);
        RUN(attention_bwd, of(dqkv), of(dout), of(out), of(row), of(qkv), OHT_NO_TENSOR, &as, i % 2,
            bwd[side]);
        same("attention dqkv", dqkv);
    }
}

static void short_rows(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    for (int add_all = 0; add_all < 2; add_all++) {
        int64_t B = 2, G = 3, L = 5, S = 7, H = 2, C = 12;
        oht_hopfield hf = {
            .f = {OHT_SOFTMAX, false, 0, 0}, .beta = 0.4f, .heads = (int)H, .mix = add_all == 1};
        two q = normal(1, B, G, L, C), k = normal(2, B, G, S, C), v = normal(3, B, G, S, C);
        two out = target(4, false, type, B, G, L, C), p = target(5, false, type, B, G, H * L, S);
        void *scratch[2];
        mark(offsetof(oht_backend, hopfield_scratch));
        scratch_for(be[CPU]->hopfield_scratch(be[CPU], &hf, G, L, S, C),
                    be[GPU]->hopfield_scratch(be[GPU], &hf, G, L, S, C), scratch);
        RUN(hopfield_fwd, of(out), of(p), of(q), of(k), of(v), OHT_NO_TENSOR, &hf, scratch[side]);
        same("hopfield out", out);
        same("hopfield probs", p);
        p = both(kt_copy(p.cpu), type);
        const bool add[4] = {add_all, add_all, add_all, false};
        two dout = normal(6, B, G, L, C), dq = target(7, add_all, type, B, G, L, C),
            dk = target(8, add_all, type, B, G, S, C), dv = target(9, add_all, type, B, G, S, C);
        RUN(hopfield_bwd, of(dq), of(dk), of(dv), OHT_NO_TENSOR, of(dout), of(p), of(q), of(k), of(v),
            OHT_NO_TENSOR, &hf, add, scratch[side]);
        same("hopfield dq", dq);
        same("hopfield dk", dk);
        same("hopfield dv", dv);
    }
}

static void gates(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int add_all = 0; add_all < 2; add_all++) {
        int64_t B = 2, T = 5, H = 3, D = 8, C = H * D;
        oht_gate gate = {OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, (int)H, 1.5f};
        two x = normal(1, B, T, C, 0), ctx = normal(2, B, T, C, 0), w = normal(3, H, D, 0, 0),
            b = normal(4, H, 0, 0, 0);
        two out = target(5, false, type, B, T, C, 0), pi = target(6, false, OHT_F32, B, T, H, 0);
        void *scratch[2];
        mark(offsetof(oht_backend, gate_scratch));
        scratch_for(be[CPU]->gate_scratch(be[CPU], B, T, C, &gate, 0),
                    be[GPU]->gate_scratch(be[GPU], B, T, C, &gate, 0), scratch);
        RUN(gate_fwd, of(out), of(pi), of(x), of(ctx), ((const oht_tensor[4]){of(w), of(b)}), &gate,
            scratch[side]);
        same("gate out", out);
        same("gate pi", pi);
        pi = both(kt_copy(pi.cpu), OHT_F32);
        const bool add[2] = {add_all, add_all};
        two dout = normal(7, B, T, C, 0), dx = target(8, add_all, type, B, T, C, 0),
            dctx = target(9, add_all, type, B, T, C, 0);
        two dw = target(10, add_all, OHT_F32, H, D, 0, 0), db = target(11, add_all, OHT_F32, H, 0, 0, 0);
        RUN(gate_bwd, of(dx), of(dctx), ((oht_tensor[4]){of(dw), of(db)}), of(dout), of(pi), of(x), of(ctx),
            ((const oht_tensor[4]){of(w), of(b)}), &gate, add, add_all, scratch[side]);
        same("gate dx", dx);
        same("gate dctx", dctx);
        same("gate dw", dw);
        same("gate db", db);
    }
}

// ---- rows ----
static void tables(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int i = 0; i < 4; i++) {
        enum { N = 700 };
        int64_t V = i < 2 ? 61 : 3, C = i < 2 ? 33 : 300, n = i == 3 ? 1 : N;
        bool add = i % 2;
        int32_t id[N];
        for (int k = 0; k < N; k++) id[k] = (int32_t)((k * 7 + k / 5) % (k % 3 ? V : 2)); // some often
        two ids = integers(id, n), table = normal(1, V, C, 0, 0), y = target(2, false, type, n, C, 0, 0);
        RUN(embedding_fwd, of(y), of(ids), of(table));
        same_to("embedding y", y, 0.0);
        two dy = normal(3, n, C, 0, 0), d = target(4, add, OHT_F32, V, C, 0, 0);
        RUN(embedding_bwd, of(d), of(dy), of(ids), (int64_t)(i % 3 ? 1 : -1), add);
        same_to("embedding dtable", d, 1e-5);
    }
}

static void positions(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int i = 0; i < 4; i++) {
        int64_t B = 3, T = i < 2 ? 5 : 70, C = i < 2 ? 7 : 33, P = T + 4;
        bool add = i % 2, broadcast = i / 2;
        two x = normal(1, B, T, C, 0), table = normal(2, P, C, 0, 0), y = target(3, false, type, B, T, C, 0);
        RUN(add_rows_fwd, of(y), of(x), of(table), 2, broadcast);
        same("add_rows y", y);
        two dy = normal(4, B, T, C, 0), d = target(5, add, OHT_F32, P, C, 0, 0);
        RUN(add_rows_bwd, of(d), of(dy), 2, broadcast, add);
        same_to("add_rows dtable", d, 1e-5);
    }
}

static void picked(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int add = 0; add < 2; add++) {
        int32_t at[300];
        for (int i = 0; i < 300; i++) at[i] = (int32_t)(i * 37 % 301);
        two x = normal(1, 7, 43, 5, 0), index = integers(at, 300), y = target(2, false, type, 300, 5, 0, 0);
        RUN(gather_fwd, of(y), of(x), of(index));
        same_to("gather y", y, 0.0);
        two dy = normal(3, 300, 5, 0, 0), dx = target(4, add, type, 7, 43, 5, 0);
        RUN(gather_bwd, of(dx), of(dy), of(index), add);
        same("gather dx", dx);
        two sum = normal(5, 7, 43, 5, 0), wide = normal32(6, 7, 43, 5, 0);
        RUN(add, of(sum), of(x));
        same("add", sum);
        RUN(add, of(wide), of(x));
        same_to("add in fp32", wide, 1e-6);
    }
}

static void drops(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int i = 0; i < 2; i++) {
        const oht_draw draw = {
            .seed = 0x123456789abcdefull, .step = 9, .site = 4, .sample0 = 3, .stride = 2, .p = 0.3f};
        two f = normal(1, 3, 5, 67, 0), x = i ? normal(2, 3, 5, 67, 0) : NONE,
            y = target(3, false, type, 3, 5, 67, 0);
        RUN(dropout_add, of(y), of(x), of(f), &draw);
        same("dropout y", y);
        two df = target(4, i, type, 3, 5, 67, 0);
        RUN(dropout_bwd, of(df), of(f), &draw, i);
        same("dropout df", df);
    }
}

// ---- losses ----
static void losses(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE for (int i = 0; i < 6; i++) {
        enum { N = 9 };
        int64_t V = (int64_t[]){1, 61, 3000}[i / 2];
        float scale = i % 2 ? 0.125f : 0.0f;
        int32_t label[N];
        for (int k = 0; k < N; k++) label[k] = k % 4 == 2 ? -1 : (int32_t)(k * 29 % V);
        two labels = integers(label, N), x = both(kt_normal(1, 4.0f, N, V, 0, 0), type);
        two_sums s = sums_from(0.5);
        two factor = both(kt_from((const double[]){-0.75}, 1, 0, 0, 0), OHT_F32);
        RUN(cross_entropy, of(x), of(labels), &(oht_loss){s.at[side], scale, i > 3 ? oht_f32(of(factor)) : NULL});
        near("cross entropy", sum_of(s, GPU), sum_of(s, CPU), 1e-6);
        same("logits", x);
        oht_tensor t = kt_normal(2, 1.0f, N, V, 0, 0);
        for (int64_t k = 0; k < N * V; k++) oht_f32(t)[k] = fabsf(oht_f32(t)[k]) / (float)V;
        two targets = both(t, OHT_F32);
        x = both(kt_normal(3, 4.0f, N, V, 0, 0), type);
        RUN(soft_cross_entropy, of(x), of(targets), &(oht_loss){s.at[side], scale, i > 3 ? oht_f32(of(factor)) : NULL});
        near("soft cross entropy", sum_of(s, GPU), sum_of(s, CPU), 1e-6);
        same("logits", x);
    }
    type = OHT_F32;
    oht_tensor bad = kt_normal(4, 1.0f, 2, 40, 0, 0);
    oht_f32(bad)[17] = NAN;
    two x = both(bad, OHT_F32), labels = integers((int32_t[]){3, 4}, 2);
    two_sums s = sums_from(0.0);
    RUN(cross_entropy, of(x), of(labels), &(oht_loss){s.at[side], 1.0f, NULL});
    assert_true(isnan(sum_of(s, GPU)));
}

static void hits(void **state) {
    NEEDS_DEVICE;
    EACH_TYPE {
        oht_tensor t = kt_normal(1, 1.0f, 70, 9, 0, 0);
        for (int i = 0; i < 70; i++) {
            if (i % 5 == 0) oht_f32(t)[i * 9 + 3] = oht_f32(t)[i * 9 + 4]; // ties
            if (i % 11 == 0) oht_f32(t)[i * 9 + i % 9] = NAN;
        }
        int32_t label[70];
        for (int i = 0; i < 70; i++) label[i] = i % 9;
        two x = both(t, type), labels = integers(label, 70);
        int64_t hit[2][2] = {{5, 5}, {5, 5}};
        RUN(top_hits, of(x), of(labels), hit[side]);
        assert_memory_equal(hit[CPU], hit[GPU], sizeof(hit[0]));
        assert_true(hit[GPU][0] > 5 && hit[GPU][1] > hit[GPU][0]);
    }
}

static void errors_squared(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    for (int i = 0; i < 3; i++) {
        two x = normal(1, 5, 331, 3, 0), y = normal32(2, 5, 331, 3, 0),
            dx = i == 2 ? NONE : target(3, i, type, 5, 331, 3, 0);
        two_sums s = sums_from(1.0);
        two factor = both(kt_from((const double[]){0.3}, 1, 0, 0, 0), OHT_F32);
        RUN(squared_error, of(dx), of(x), of(y), &(oht_loss){i == 1 ? NULL : s.at[side], 1.0f, oht_f32(of(factor))}, i == 1);
        near("squared error", sum_of(s, GPU), sum_of(s, CPU), 1e-12);
        assert_true((sum_of(s, GPU) == 1.0) == (i == 1));
        if (i < 2) same("squared error dx", dx);
    }
    two x = normal(4, 5, 331, 3, 0), y = normal32(5, 5, 331, 3, 0);
    double sums[2][3] = {{1, 2, 3}, {1, 2, 3}};
    RUN(forecast_errors, of(x), of(y), sums[side]);
    for (int i = 0; i < 3; i++) near("forecast errors", sums[GPU][i], sums[CPU][i], 1e-12);
}

static void converged(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    enum { B = 2, G = 3, H = 4, L = 5, S = 7, C = 12 };
    oht_tensor moved = kt_normal(2, 1.0f, B, G, H * L, S);
    two p = both(kt_copy(moved), OHT_F32);
    for (int64_t i = 0; i < B * G * H; i++) // every third head has come to rest
        for (int64_t j = 0; j < L * S; j++) oht_f32(moved)[i * L * S + j] += i % 3 == 0 ? 1e-4f : 0.1f;
    two before = both(moved, OHT_F32);
    for (int i = 0; i < 3; i++) {
        two q = normal(3, B, G, L, C), r = normal(4, B, G, L, C), y = target(5, false, type, B, G, L, C);
        RUN(settle_fwd, of(y), of(q), of(r), of(p), of(before), H, 0.01f);
        same_to("settle", y, 0.0);
        const bool add[2] = {i == 1, i == 2};
        two dy = normal(6, B, G, L, C), dq = i == 2 ? NONE : target(7, add[0], type, B, G, L, C);
        two dr = target(8, add[1], type, B, G, L, C);
        RUN(settle_bwd, of(dq), of(dr), of(dy), of(p), of(before), H, 0.01f, add);
        if (i < 2) same("settle dq", dq);
        same("settle dr", dr);
    }
}

// ---- layout ----
static void layout(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    for (int add = 0; add < 2; add++) {
        for (int inverse = 0; inverse < 2; inverse++) {
            two x = normal(1, 2, 3, 5, 12), y = target(2, add, type, 2, 3, 5, 12);
            RUN(mix_heads, of(y), of(x), 4, inverse, add);
            same("mix_heads", y);
        }
        two x = normal(3, 2, 3, 5, 7), y = target(4, add, type, 2, 5, 3, 7);
        RUN(swap_axes, of(y), of(x), add);
        same("swap_axes", y);
        for (int w = 2; w < 4; w++) {
            int64_t L = 7, m = (L + w - 1) / w;
            two small = normal(5, 2, 3, L, 4), merged = target(6, false, type, 2, 3, m, w * 4);
            RUN(merge_fwd, of(merged), of(small));
            same_to("merge", merged, 0.0);
            two d = normal(7, 2, 3, m, w * 4), dx = target(8, add, type, 2, 3, L, 4);
            RUN(merge_bwd, of(dx), of(d), add);
            same("merge dx", dx);
        }
        two dy = normal(9, 2, 10, 3, 0), dx = target(10, add, type, 2, 3, 3, 4);
        RUN(unsegment_bwd, of(dx), of(dy), add);
        same("unsegment dx", dx);
    }
    two series = normal(11, 2, 10, 3, 0), cut = target(12, false, type, 2, 3, 3, 4);
    RUN(segment, of(cut), of(series));
    same_to("segment", cut, 0.0);
    for (int i = 0; i < 2; i++) {
        two y = target(13, false, type, 2, 11, 3, 0);
        RUN(unsegment_fwd, of(y), of(cut), of(i ? series : NONE));
        same("unsegment", y);
    }
    EACH_TYPE {
        uint8_t pixel[2 * 6 * 6 * 3];
        for (size_t i = 0; i < sizeof(pixel); i++) pixel[i] = (uint8_t)(i * 37);
        oht_tensor t = kt_bytes(pixel, 2, 6 * 6 * 3);
        t.rank = 4, t.dim[1] = t.dim[2] = 6, t.dim[3] = 3;
        two images = both(t, OHT_F32), y = target(14, false, type, 2, 4, 27, 0);
        RUN(patches, of(y), of(images), 3);
        same("patches", y);
    }
}

// ---- optimizer, statistics ----
static void optimizer(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    for (int i = 0; i < 2; i++) {
        int64_t n = i ? 100003 : 1;
        two p = normal32(1, n, 0, 0, 0), g = normal32(2, n, 0, 0, 0), m = normal32(3, n, 0, 0, 0),
            v = both(kt_normal(4, 1.0f, n, 0, 0, 0), OHT_F32);
        for (int64_t k = 0; k < n; k++) oht_f32(v.cpu)[k] = fabsf(oht_f32(v.cpu)[k]);
        v = both(v.cpu, OHT_F32);
        const oht_adamw o = {.lr = 1e-2f,
                             .beta1 = 0.9f,
                             .beta2 = 0.95f,
                             .eps = 1e-8f,
                             .weight_decay = 0.1f,
                             .step = 1 + 6 * i,
                             .grad_scale = 0.3f};
        // The CPU knows no copy in 16 bits; that of the device is its own parameters, rounded.
        void *work = dt_scratch((size_t)n * 2);
        const oht_adamw device = {.lr = o.lr,
                                  .beta1 = o.beta1,
                                  .beta2 = o.beta2,
                                  .eps = o.eps,
                                  .weight_decay = o.weight_decay,
                                  .step = o.step,
                                  .grad_scale = o.grad_scale,
                                  .work = work,
                                  .work_type = i ? OHT_BF16 : OHT_F16};
        RUN(adamw, oht_f32(of(p)), oht_f32(of(g)), oht_f32(of(m)), oht_f32(of(v)), n,
            side == CPU ? &o : &device);
        oht_tensor copy = {work, device.work_type, 1, {n}};
        near("adamw work", dt_error(copy, p.cpu, 1.0), 0.0, i ? 4e-3 : 5e-4);
        same_to("adamw p", p, 1e-6);
        same_to("adamw m", m, 1e-6);
        same_to("adamw v", v, 1e-6);
        mark(offsetof(oht_backend, sumsq));
        near("sumsq", be[GPU]->sumsq(be[GPU], oht_f32(g.gpu), n), be[CPU]->sumsq(be[CPU], oht_f32(g.cpu), n),
             1e-12);
        oht_f32(g.cpu)[n - 1] = INFINITY;
        g = both(g.cpu, OHT_F32);
        assert_true(!isfinite(be[GPU]->sumsq(be[GPU], oht_f32(g.gpu), n)));
    }
}

static void statistics(void **state) {
    NEEDS_DEVICE;
    static const int64_t shape[][2] = {{1, 1}, {5, 33}, {2000, 3}, {2, 5000}};
    EACH_TYPE for (int i = 0; i < 4; i++) {
        int64_t rows = shape[i][0], n = shape[i][1];
        oht_tensor t = kt_normal(1, 1.0f, rows, n, 0, 0);
        for (int64_t j = 0; j < n; j++) oht_f32(t)[j] += 1000.0f; // row 0: a mean far from zero
        if (i == 1) {
            for (int64_t j = 0; j < n; j++) oht_f32(t)[n + j] = -3.0f; // constant
            oht_f32(t)[2 * n + 7] = NAN;
            oht_f32(t)[3 * n + 5] = -INFINITY, oht_f32(t)[3 * n + 9] = INFINITY;
            oht_f32(t)[4 * n + 30] = oht_f32(t)[4 * n + 20] = 90.0f; // outlier, and the first of two
        }
        two x = both(t, type);
        oht_moments *out[2] = {calloc((size_t)rows, sizeof(oht_moments)),
                               calloc((size_t)rows, sizeof(oht_moments))};
        mark(offsetof(oht_backend, moments));
        be[CPU]->moments(be[CPU], x.cpu.data, OHT_F32, rows, n, out[CPU]);
        be[GPU]->moments(be[GPU], x.gpu.data, type, rows, n, out[GPU]);
        for (int64_t r = 0; r < rows; r++) {
            oht_moments a = out[GPU][r], b = out[CPU][r];
            assert_int_equal(a.n, b.n);
            assert_int_equal(a.nonfinite, b.nonfinite);
            assert_int_equal(a.abs_argmax, b.abs_argmax);
            near("abs_max", isinf(a.abs_max) ? 1e300 : a.abs_max, isinf(b.abs_max) ? 1e300 : b.abs_max, 0.0);
            assert_int_equal(a.outliers_6sigma, b.outliers_6sigma);
            if (b.nonfinite) continue;
            near("mean", a.mean, b.mean, 1e-12);
            near("m2", a.m2, b.m2, 1e-9);
            near("m3", a.m3, b.m3, 1e-9);
            near("m4", a.m4, b.m4, 1e-9);
        }
        free(out[CPU]);
        free(out[GPU]);
    }
    two row = normal32(2, 3, 5, 77, 0), pi = normal32(3, 3, 77, 5, 0);
    double mean[2][5];
    RUN(null_mass, mean[side], of(row));
    for (int h = 0; h < 5; h++) near("null mass", mean[GPU][h], mean[CPU][h], 1e-6);
    two rows = both(kt_normal(4, 0.1f, 3, 5, 4, 6), OHT_F32);
    RUN(null_mass, mean[side], of(rows));
    for (int h = 0; h < 5; h++) near("null mass of rows", mean[GPU][h], mean[CPU][h], 1e-12);
    RUN(gate_mean, mean[side], of(pi));
    for (int h = 0; h < 5; h++) near("gate mean", mean[GPU][h], mean[CPU][h], 1e-12);
}

static void quantization(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    for (int i = 0; i < 4; i++) {
        int64_t rows = i / 2 ? 1 : 60, n = i / 2 ? 5000 : 33, ld = n + 7;
        bool per_row = i % 2;
        oht_fakequant q[60];
        for (int r = 0; r < 60; r++)
            q[r] = (oht_fakequant){0.01f * (float)(r + 1), (float)(r % 3), -128.0f, 127.0f};
        two x = normal32(1, rows, ld, 0, 0);
        float limit[2][2];
        oht_quant_error error[2];
        RUN(minmax, oht_f32(of(x)), rows, n, ld, limit[side]);
        assert_memory_equal(limit[CPU], limit[GPU], sizeof(limit[0]));
        RUN(quant_error, oht_f32(of(x)), rows, n, ld, q, per_row, &error[side]);
        near("signal", error[GPU].signal, error[CPU].signal, 1e-12);
        near("noise", error[GPU].noise, error[CPU].noise, 1e-12);
        assert_int_equal(error[GPU].clipped, error[CPU].clipped);
        RUN(fake_quantize, oht_f32(of(x)), rows, n, ld, q, per_row);
        same_to("fake_quantize", x, 0.0);
        oht_f32(x.cpu)[1] = NAN;
        x = both(x.cpu, OHT_F32);
        RUN(minmax, oht_f32(of(x)), rows, n, ld, limit[side]);
        assert_true(isnan(limit[GPU][0]) && isnan(limit[GPU][1]));
    }
}

static void memory(void **state) {
    NEEDS_DEVICE;
    type = OHT_F32;
    void *p, *q, *narrow;
    char text[100], back[100];
    oht_backend *gpu = be[GPU];
    for (int i = 0; i < 100; i++) text[i] = (char)i;
    assert_int_equal(gpu->alloc(gpu, &p, 100, "test"), OHT_OK);
    assert_int_equal(gpu->alloc(gpu, &q, 0, "nothing"), OHT_OK);
    assert_int_equal((uintptr_t)p % 64, 0);
    gpu->download(gpu, back, p, 100);
    for (int i = 0; i < 100; i++) assert_int_equal(back[i], 0);
    gpu->upload(gpu, p, text, 50);
    text[1] = 77; // has been taken already
    gpu->copy(gpu, (char *)p + 50, p, 50);
    gpu->zero(gpu, p, 10);
    gpu->download(gpu, back, p, 100);
    assert_int_equal(back[5], 0);
    assert_int_equal(back[49], 49);
    assert_int_equal(back[51], 1);
    assert_int_equal(gpu->sync(gpu), OHT_OK);
    EACH_TYPE {
        oht_tensor t = kt_normal(1, 3.0f, 77, 0, 0, 0);
        two x = both(t, OHT_F32);
        narrow = dt_scratch(77 * 4);
        oht_tensor to = {narrow, type, 1, {77}};
        gpu->cast(gpu, narrow, type, oht_f32(x.gpu), 77);
        near("cast", dt_error(to, dt_round(t, type), 1.0), 0.0, 0.0);
        assert_true(gpu->peak(gpu, type) >= 0.0);
    }
    gpu->free(gpu, p);
    gpu->free(gpu, q);
    gpu->free(gpu, NULL);
    static const size_t seen[] = {
        offsetof(oht_backend, alloc),    offsetof(oht_backend, free), offsetof(oht_backend, upload),
        offsetof(oht_backend, download), offsetof(oht_backend, copy), offsetof(oht_backend, zero),
        offsetof(oht_backend, sync),     offsetof(oht_backend, cast), offsetof(oht_backend, peak)};
    for (size_t i = 0; i < sizeof(seen) / sizeof(*seen); i++) mark(seen[i]);
}

static void every_entry(void **state) {
    NEEDS_DEVICE;
    dt_reset();
    be[GPU]->destroy(be[GPU]);
    mark(offsetof(oht_backend, destroy));
    int n;
    const oht_backend_entry *entry = oht_backend_entries(&n);
    assert_true(n <= MOST_ENTRIES);
    for (int i = 0; i < n; i++)
        if (!called[i]) fail_msg("no test here calls the entry %s", entry[i].name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory),         cmocka_unit_test(linear),     cmocka_unit_test(layernorm),
        cmocka_unit_test(attention),      cmocka_unit_test(short_rows), cmocka_unit_test(gates),
        cmocka_unit_test(tables),         cmocka_unit_test(positions),  cmocka_unit_test(picked),
        cmocka_unit_test(drops),          cmocka_unit_test(losses),     cmocka_unit_test(hits),
        cmocka_unit_test(errors_squared), cmocka_unit_test(converged),  cmocka_unit_test(layout),
        cmocka_unit_test(optimizer),      cmocka_unit_test(statistics), cmocka_unit_test(quantization),
        cmocka_unit_test(every_entry),
    };
    return cmocka_run_group_tests(tests, start, end);
}
