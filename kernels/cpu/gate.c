// Gates on the heads (spec transformers 1.5): out[n,h,:] = c pi[n,h] ctx[n,h,:], pi = sigmoid(a), n = (sample, token):
//   linear         a = w_h x_h + b_h, x_h the head's features of x
//   mlp, mlp2      a = w2_h relu(W1_h x_h + b1_h) + b2_h
//   all_features   a = W x + b
//   unconditional  a = a_h
// conditional_per_head takes the mean of a over the tokens of a sample (except all_features, which stays per token).
// Backward, u = dout:  dctx = c pi u,  da = c <u, ctx> pi (1 - pi)  (per head: mean over tokens),  then each form's chain.
// Gradients of parameters: one thread owns a head, and sums over n in order.
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/vmath.h"

enum { CHUNK = 64 }; // rows whose hidden layer is in scratch at once

static bool has_hidden(const oht_gate *g) {
    return g->kind != OHT_GATE_UNCONDITIONAL_PER_HEAD &&
           (g->form == OHT_GATE_MLP || g->form == OHT_GATE_MLP2);
}

// (B,T,H) pre-activations, then each thread's hidden layer.
size_t gate_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_gate *gate,
                        int64_t hidden) {
    (void)C;
    int64_t floats = round_up(B * T * gate->heads, 16);
    if (has_hidden(gate)) floats += be->threads * round_up(CHUNK * hidden, 16);
    return (size_t)floats * sizeof(float);
}

// Which value of pi belongs to row n and head h: index n / rows_per * stride + h.
typedef struct pi_layout {
    int64_t rows_per, stride;
} pi_layout;

static pi_layout layout_of(const oht_gate *g, oht_tensor pi, int64_t B, int64_t T) {
    int64_t H = g->heads;
    if (g->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) return (pi_layout){B * T, 0};
    if (g->kind == OHT_GATE_CONDITIONAL_PER_HEAD && oht_tensor_count(pi) == B * H) return (pi_layout){T, H};
    return (pi_layout){1, H};
}

static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// hidden (rows, m) = W1_h x_h + b1_h, before the ReLU
static void hidden_layer(float *z, const float *xh, const float *w1, const float *b1, int64_t rows, int64_t C,
                         int64_t D, int64_t m) {
    for (int64_t r = 0; r < rows; r++) memcpy(z + r * m, b1, (size_t)m * sizeof(float));
    gemm_serial(false, true, rows, m, D, 1.0f, xh, C, w1, D, 1.0f, z, m);
}

// a (N,H)
static void preactivation(oht_backend *be, float *a, const float *x, const oht_tensor w[4],
                          const oht_gate *gate, int64_t N, int64_t C, float *hidden) {
    int64_t H = gate->heads, D = C / H;
    const float *w0 = oht_f32(w[0]), *w1 = oht_f32(w[1]);
    if (gate->form == OHT_GATE_ALL_FEATURES) {
        gemm_cpu(be, false, true, N, H, C, 1.0f, x, C, w0, C, 0.0f, a, H);
        for (int64_t i = 0; i < N * H; i++) a[i] += w1[i % H];
    } else if (gate->form == OHT_GATE_LINEAR) {
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
        for (int64_t i = 0; i < N; i++)
            for (int64_t h = 0; h < H; h++) a[i * H + h] = dot(x + i * C + h * D, w0 + h * D, D) + w1[h];
    } else {
        int64_t m = w[0].dim[1], chunks = (N + CHUNK - 1) / CHUNK;
        const float *w2 = oht_f32(w[2]), *b2 = oht_f32(w[3]);
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
        for (int64_t task = 0; task < chunks * H; task++) {
            int64_t i0 = task / H * CHUNK, h = task % H, rows = min_i64(CHUNK, N - i0);
            float *z = hidden + omp_get_thread_num() * round_up(CHUNK * m, 16);
            hidden_layer(z, x + i0 * C + h * D, w0 + h * m * D, w1 + h * m, rows, C, D, m);
            for (int64_t r = 0; r < rows; r++) {
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < m; j++)
                    sum += (z[r * m + j] > 0.0f ? z[r * m + j] : 0.0f) * w2[h * m + j];
                a[(i0 + r) * H + h] = sum + b2[h];
            }
        }
    }
}

void gate_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctx,
                  const oht_tensor w[4], const oht_gate *gate, void *scratch) {
    int64_t B = ctx.dim[0], T = ctx.dim[1], C = ctx.dim[2], N = B * T, H = gate->heads, D = C / H;
    float *a = scratch, *p = oht_f32(pi);
    pi_layout at = layout_of(gate, pi, B, T);
    if (gate->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) {
        for (int64_t h = 0; h < H; h++) p[h] = vsigmoidf(oht_f32(w[0])[h]);
    } else {
        preactivation(be, a, oht_f32(x), w, gate, N, C, a + round_up(N * H, 16));
        for (int64_t i = 0; i < N / at.rows_per; i++)
            for (int64_t h = 0; h < H; h++) {
                double sum = 0.0;
                for (int64_t t = 0; t < at.rows_per; t++) sum += (double)a[(i * at.rows_per + t) * H + h];
                p[i * H + h] = vsigmoidf((float)(sum / (double)at.rows_per));
            }
    }
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < H; h++) {
            float factor = gate->scale * p[i / at.rows_per * at.stride + h];
            float *y = oht_f32(out) + i * C + h * D;
            const float *c = oht_f32(ctx) + i * C + h * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++) y[d] = c[d] * factor;
        }
}

// dctx, and da (N,H): the gradient of each row's own pre-activation.
static void context_bwd(oht_backend *be, float *da, float *dctx, const float *u, const float *ctx,
                        const float *p, pi_layout at, const oht_gate *gate, int64_t N, int64_t C, bool add) {
    int64_t H = gate->heads, D = C / H;
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < H; h++) {
            float pih = p[i / at.rows_per * at.stride + h], factor = gate->scale * pih;
            const float *ui = u + i * C + h * D, *ci = ctx + i * C + h * D;
            da[i * H + h] = gate->scale * dot(ui, ci, D) * pih * (1.0f - pih);
            if (!dctx) continue;
            float *d = dctx + i * C + h * D, keep = add ? 1.0f : 0.0f;
            if (!add) memset(d, 0, (size_t)D * sizeof(float));
#pragma omp simd
            for (int64_t e = 0; e < D; e++) d[e] = keep * d[e] + ui[e] * factor;
        }
}

// Per head: every token's da becomes the mean over its sample's tokens.
static void pool(float *da, int64_t B, int64_t T, int64_t H) {
    for (int64_t b = 0; b < B; b++)
        for (int64_t h = 0; h < H; h++) {
            double sum = 0.0;
            for (int64_t t = 0; t < T; t++) sum += (double)da[(b * T + t) * H + h];
            for (int64_t t = 0; t < T; t++) da[(b * T + t) * H + h] = (float)(sum / (double)T);
        }
}

// d[h] (+)= sum_n da[n,h]
static void sum_da(float *d, const float *da, int64_t N, int64_t H, bool add) {
    for (int64_t h = 0; h < H; h++) {
        double sum = 0.0;
        for (int64_t i = 0; i < N; i++) sum += (double)da[i * H + h];
        d[h] = (add ? d[h] : 0.0f) + (float)sum;
    }
}

static void linear_head_bwd(float *dx, float *dw, const float *da, const float *x, const float *w, int64_t N,
                            int64_t C, int64_t H, int64_t D, bool add_dx, bool add_dw) {
    if (!add_dw) memset(dw, 0, (size_t)D * sizeof(float));
    for (int64_t i = 0; i < N; i++) {
        float g = da[i * H];
        const float *xi = x + i * C;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) dw[d] += g * xi[d];
        if (!dx) continue;
        float *di = dx + i * C;
        if (!add_dx) memset(di, 0, (size_t)D * sizeof(float));
#pragma omp simd
        for (int64_t d = 0; d < D; d++) di[d] += g * w[d];
    }
}

// One head of the mlp forms; pointers are the head's. z: (CHUNK, m) scratch.
static void mlp_head_bwd(float *dx, float *dw1, float *db1, float *dw2, const float *da, const float *x,
                         const float *w1, const float *b1, const float *w2, int64_t N, int64_t C, int64_t H,
                         int64_t D, int64_t m, bool add_dx, bool add_dp, float *z) {
    if (!add_dp) {
        memset(dw1, 0, (size_t)(m * D) * sizeof(float));
        memset(db1, 0, (size_t)m * sizeof(float));
        memset(dw2, 0, (size_t)m * sizeof(float));
    }
    for (int64_t i0 = 0; i0 < N; i0 += CHUNK) {
        int64_t rows = min_i64(CHUNK, N - i0);
        hidden_layer(z, x + i0 * C, w1, b1, rows, C, D, m);
        for (int64_t r = 0; r < rows; r++) {
            float g = da[(i0 + r) * H], *zr = z + r * m;
#pragma omp simd
            for (int64_t j = 0; j < m; j++) {
                dw2[j] += zr[j] > 0.0f ? g * zr[j] : 0.0f;
                zr[j] = zr[j] > 0.0f ? g * w2[j] : 0.0f;
                db1[j] += zr[j];
            }
        }
        gemm_serial(true, false, m, D, rows, 1.0f, z, m, x + i0 * C, C, 1.0f, dw1, D);
        if (dx)
            gemm_serial(false, false, rows, D, m, 1.0f, z, m, w1, D, add_dx ? 1.0f : 0.0f, dx + i0 * C, C);
    }
}

void gate_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout,
                  oht_tensor pi, oht_tensor x, oht_tensor ctx, const oht_tensor w[4], const oht_gate *gate,
                  const bool add[2], bool add_dp, void *scratch) {
    int64_t B = ctx.dim[0], T = ctx.dim[1], C = ctx.dim[2], N = B * T, H = gate->heads, D = C / H;
    pi_layout at = layout_of(gate, pi, B, T);
    float *da = scratch, *hidden = da + round_up(N * H, 16), *dxp = oht_f32(dx);
    context_bwd(be, da, oht_f32(dctx), oht_f32(dout), oht_f32(ctx), oht_f32(pi), at, gate, N, C, add[1]);
    if (gate->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) {
        sum_da(oht_f32(dw[0]), da, N, H, add_dp);
        return;
    }
    if (at.rows_per > 1) pool(da, B, T, H);
    const float *xp = oht_f32(x), *w0 = oht_f32(w[0]);
    bool mlp = has_hidden(gate);
    int64_t m = mlp ? w[0].dim[1] : 0;
    sum_da(oht_f32(dw[mlp ? 3 : 1]), da, N, H, add_dp);
    if (gate->form == OHT_GATE_ALL_FEATURES) {
        gemm_cpu(be, true, false, H, C, N, 1.0f, da, H, xp, C, add_dp ? 1.0f : 0.0f, oht_f32(dw[0]), C);
        if (dxp) gemm_cpu(be, false, false, N, C, H, 1.0f, da, H, w0, C, add[0] ? 1.0f : 0.0f, dxp, C);
        return;
    }
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t h = 0; h < H; h++) {
        float *dxh = dxp ? dxp + h * D : NULL;
        if (mlp)
            mlp_head_bwd(dxh, oht_f32(dw[0]) + h * m * D, oht_f32(dw[1]) + h * m, oht_f32(dw[2]) + h * m,
                         da + h, xp + h * D, w0 + h * m * D, oht_f32(w[1]) + h * m, oht_f32(w[2]) + h * m, N,
                         C, H, D, m, add[0], add_dp, hidden + omp_get_thread_num() * round_up(CHUNK * m, 16));
        else
            linear_head_bwd(dxh, oht_f32(dw[0]) + h * D, da + h, xp + h * D, w0 + h * D, N, C, H, D, add[0],
                            add_dp);
    }
}
