// Association of short rows (oht/backend.h, spec stanhop 1.1): thousands of groups of a few dozen queries and stored patterns.
// A GEMM call for each head of each group would cost more than its arithmetic, so one kernel does a whole group:
//
//   S = beta Q K^T,  P = f(S),  A = Drop(P) V        and back        dV = Drop(P)^T dA,  dP = dA V^T (dropped alike),
//   dS = f'(S)[dP],  dQ = beta dS K,  dK = beta dS^T Q
//
// with the products in registers (product() below) and K, V transposed once a group and head. Groups are dealt to threads in
// order; patterns that all groups share collect their gradients in one buffer a thread, added in thread order.
#include <math.h>
#include <string.h>

#include "cpu/association.h"
#include "cpu/cpu.h"
#include "cpu/entmax.h"
#include "cpu/fakequant.h"
#include "cpu/philox.h"

enum { LANES = 8 };

typedef struct group_shape {
    int64_t groups, G, L, S, C, H, D, ld; // ld: S rounded up to whole vectors
    bool shared;
} group_shape;

static group_shape shape_of(oht_tensor q, oht_tensor k, const oht_hopfield *hf) {
    group_shape s = {.groups = q.dim[0] * q.dim[1], .G = q.dim[1], .L = q.dim[2], .C = q.dim[3], .H = hf->heads};
    s.S = k.dim[k.rank - 2];
    s.D = s.C / s.H;
    s.ld = round_up(s.S, LANES);
    s.shared = k.rank == 3;
    return s;
}

// What one thread needs, in floats.
typedef struct workspace {
    float *kt, *vt; // (D, ld): K and V of one head, transposed
    float *p, *g; // (L, ld)
    uint16_t *bits; // (H, L, S)
    float *dk, *dv; // (S, C): shared patterns
} workspace;

static size_t carve(workspace *w, char *at, int64_t L, int64_t S, int64_t C, int64_t H) {
    size_t ld = (size_t)round_up(S, LANES), D = (size_t)(C / H), transposed = (size_t)round_up((int64_t)(D * ld), 16),
           square = (size_t)round_up(L * (int64_t)ld, 16), patterns = (size_t)round_up(S * C, 16);
    size_t bits = (size_t)round_up(H * L * S + DROPOUT_SLACK, 32) / 2; // floats
    float *f = (float *)(void *)at;
    if (at)
        *w = (workspace){.kt = f,
                         .vt = f + transposed,
                         .p = f + 2 * transposed,
                         .g = f + 2 * transposed + square,
                         .bits = (uint16_t *)(void *)(f + 2 * transposed + 2 * square),
                         .dk = f + 2 * transposed + 2 * square + bits,
                         .dv = f + 2 * transposed + 2 * square + bits + patterns};
    return (2 * transposed + 2 * square + bits + 2 * patterns) * sizeof(float);
}

size_t hopfield_scratch_cpu(oht_backend *be, const oht_hopfield *hf, int64_t G, int64_t L, int64_t S, int64_t C) {
    (void)G;
    return (size_t)be->threads * carve(NULL, NULL, L, S, C, hf->heads);
}

static workspace workspace_of(void *scratch, int thread, const group_shape *s) {
    workspace w = {0};
    size_t bytes = carve(NULL, NULL, s->L, s->S, s->C, s->H);
    carve(&w, (char *)scratch + (size_t)thread * bytes, s->L, s->S, s->C, s->H);
    return w;
}

// ---- products ----

// R rows times W columns in registers: c[r][w] (+)= scale * sum_x a[r * ra + x * xa] b[x * ldb + w].
static inline __attribute__((always_inline)) void tile(const int R, const int W, int64_t K, float scale, const float *a,
                                                       int64_t ra, int64_t xa, const float *b, int64_t ldb, float *c,
                                                       int64_t ldc, bool add) {
    float sum[4][64];
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) sum[r][w] = 0.0f;
    for (int64_t x = 0; x < K; x++)
        for (int r = 0; r < R; r++) {
            const float factor = a[r * ra + x * xa];
#pragma omp simd
            for (int w = 0; w < W; w++) sum[r][w] += factor * b[x * ldb + w];
        }
    for (int r = 0; r < R; r++) {
        float *to = c + r * ldc;
        if (add) {
#pragma omp simd
            for (int w = 0; w < W; w++) to[w] += scale * sum[r][w];
        } else {
#pragma omp simd
            for (int w = 0; w < W; w++) to[w] = scale * sum[r][w];
        }
    }
}

// All M rows of W columns: four, two, one at a time.
static inline __attribute__((always_inline)) void rows_of(const int W, int64_t M, int64_t K, float scale, const float *a,
                                                          int64_t ra, int64_t xa, const float *b, int64_t ldb, float *c,
                                                          int64_t ldc, bool add) {
    int64_t i = 0;
    for (; M - i >= 4; i += 4) tile(4, W, K, scale, a + i * ra, ra, xa, b, ldb, c + i * ldc, ldc, add);
    if (M - i >= 2) {
        tile(2, W, K, scale, a + i * ra, ra, xa, b, ldb, c + i * ldc, ldc, add);
        i += 2;
    }
    if (i < M) tile(1, W, K, scale, a + i * ra, ra, xa, b, ldb, c + i * ldc, ldc, add);
}

// c (M,N) (+)= scale * a b; a by strides (so that it may be transposed), b and c row-major.
static void product(int64_t M, int64_t N, int64_t K, float scale, const float *a, int64_t ra, int64_t xa, const float *b,
                    int64_t ldb, float *c, int64_t ldc, bool add) {
    int64_t n = 0;
    for (; N - n >= 64; n += 64) rows_of(64, M, K, scale, a, ra, xa, b + n, ldb, c + n, ldc, add);
    for (; N - n >= 32; n += 32) rows_of(32, M, K, scale, a, ra, xa, b + n, ldb, c + n, ldc, add);
    for (; N - n >= 16; n += 16) rows_of(16, M, K, scale, a, ra, xa, b + n, ldb, c + n, ldc, add);
    for (; N - n >= 8; n += 8) rows_of(8, M, K, scale, a, ra, xa, b + n, ldb, c + n, ldc, add);
    for (; n < N; n++) rows_of(1, M, K, scale, a, ra, xa, b + n, ldb, c + n, ldc, add);
}

// t (D, ld) = transpose of one head of x (S, C); the columns behind S are 0.
static void transpose(float *t, const float *x, const group_shape *s) {
    for (int64_t d = 0; d < s->D; d++) {
        for (int64_t j = 0; j < s->S; j++) t[d * s->ld + j] = x[j * s->C + d];
        for (int64_t j = s->S; j < s->ld; j++) t[d * s->ld + j] = 0.0f;
    }
}

// ---- row functions ----

static double alpha_of(oht_tensor a, const oht_hopfield *hf) {
    return hf->learns_alpha ? 1.0 + (double)hf->alpha_range / (1.0 + exp(-(double)oht_f32(a)[0])) : 0.0;
}

// Scores to probabilities, those without a clip.
static void base_row(const oht_hopfield *hf, double alpha, float *s, int64_t n) {
    oht_assoc_spec base = hf->f;
    base.clipped = false;
    if (hf->learns_alpha)
        entmax_row(s, n, alpha);
    else
        association_row(&base, s, n);
}

// g: d loss / d f(s), overwritten by d loss / d s; p: base probabilities. Returns d loss / d alpha.
static double base_row_bwd(const oht_hopfield *hf, double alpha, const float *p, float *g, int64_t n) {
    if (hf->learns_alpha) return entmax_row_bwd(p, g, n, alpha);
    association_probs_bwd(&hf->f, p, g, n);
    return 0.0;
}

static const uint16_t *draw(const oht_hopfield *hf, const group_shape *s, int64_t group, uint16_t *buffer) {
    if (!(hf->drop.p > 0.0f)) return NULL;
    int64_t n = s->H * s->L * s->S;
    return dropout_bits(&hf->drop, dropout_sample(&hf->drop, group / s->G), group % s->G * n, n, buffer);
}

static void drop_rows(const oht_hopfield *hf, const group_shape *s, const uint16_t *bits, float *x) {
    if (!bits) return;
    const uint32_t threshold = oht_dropout_threshold(hf->drop.p);
    const float scale = oht_dropout_scale(hf->drop.p);
    for (int64_t i = 0; i < s->L; i++)
#pragma omp simd
        for (int64_t j = 0; j < s->S; j++)
            x[i * s->ld + j] = bits[i * s->S + j] < threshold ? 0.0f : x[i * s->ld + j] * scale;
}

// Where row 0 of head h lies in a group's (L,C) result, and how far apart rows are.
static int64_t head_at(const oht_hopfield *hf, const group_shape *s, int64_t h) {
    return hf->mix ? h * s->L * s->D : h * s->D;
}
static int64_t head_ld(const oht_hopfield *hf, const group_shape *s) {
    return hf->mix ? s->D : s->C;
}

// ---- forward ----

void hopfield_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v,
                      oht_tensor a, const oht_hopfield *hf, void *scratch) {
    const group_shape s = shape_of(q, k, hf);
    const double alpha = alpha_of(a, hf);
#pragma omp parallel for num_threads(be->threads) if (s.groups * s.L * s.C > CPU_SMALL) schedule(static)
    for (int64_t group = 0; group < s.groups; group++) {
        workspace w = workspace_of(scratch, omp_get_thread_num(), &s);
        const float *qg = oht_f32(q) + group * s.L * s.C;
        const float *kg = oht_f32(k) + (s.shared ? 0 : group * s.S * s.C),
                    *vg = oht_f32(v) + (s.shared ? 0 : group * s.S * s.C);
        const uint16_t *bits = draw(hf, &s, group, w.bits);
        float *shown = hf->scores.data ? oht_f32(hf->scores) + group * s.H * s.L * s.S : NULL;
        for (int64_t h = 0; h < s.H; h++) {
            float *kept = oht_f32(probs) + (group * s.H + h) * s.L * s.S;
            transpose(w.kt, kg + h * s.D, &s);
            product(s.L, s.ld, s.D, hf->beta, qg + h * s.D, s.C, 1, w.kt, s.ld, w.p, s.ld, false);
            for (int64_t i = 0; i < s.L; i++) {
                float *p = w.p + i * s.ld;
                if (shown) memcpy(shown + (h * s.L + i) * s.S, p, (size_t)s.S * sizeof(float));
                if (hf->quant_scores) fake_quantize_row(p, s.S, *hf->quant_scores);
                base_row(hf, alpha, p, s.S);
                if (hf->keep_base) memcpy(kept + i * s.S, p, (size_t)s.S * sizeof(float));
                if (hf->f.clipped) association_clip(&hf->f, p, s.S);
                if (hf->quant_probs) fake_quantize_row(p, s.S, *hf->quant_probs);
                if (!hf->keep_base) memcpy(kept + i * s.S, p, (size_t)s.S * sizeof(float));
            }
            drop_rows(hf, &s, bits ? bits + h * s.L * s.S : NULL, w.p);
            product(s.L, s.D, s.S, 1.0f, w.p, s.ld, 1, vg + h * s.D, s.C,
                    oht_f32(out) + group * s.L * s.C + head_at(hf, &s, h), head_ld(hf, &s), false);
        }
    }
}

// ---- backward ----

// Sums of the threads' gradients of shared patterns, in thread order.
static void add_shared(float *to, void *scratch, int used, const group_shape *s, bool value, bool add) {
    for (int64_t i = 0; i < s->S * s->C; i++) {
        float sum = 0.0f;
        for (int t = 0; t < used; t++) {
            workspace w = workspace_of(scratch, t, s);
            sum += value ? w.dv[i] : w.dk[i];
        }
        to[i] = (add ? to[i] : 0.0f) + sum;
    }
}

void hopfield_bwd_cpu(oht_backend *be, oht_tensor dq, oht_tensor dk, oht_tensor dv, oht_tensor da, oht_tensor dout,
                      oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v, oht_tensor a,
                      const oht_hopfield *hf, const bool add[4], void *scratch) {
    const group_shape s = shape_of(q, k, hf);
    const double alpha = alpha_of(a, hf);
    const int threads = s.groups * s.L * s.C > CPU_SMALL ? be->threads : 1;
    for (int t = 0; t < threads; t++) {
        workspace w = workspace_of(scratch, t, &s);
        cpu_partial(be, t)[0] = 0.0;
        if (!s.shared) continue;
        memset(w.dk, 0, (size_t)(s.S * s.C) * sizeof(float));
        memset(w.dv, 0, (size_t)(s.S * s.C) * sizeof(float));
    }
    const bool apart = dv.data != NULL; // else values are the keys
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t group = 0; group < s.groups; group++) {
        workspace w = workspace_of(scratch, omp_get_thread_num(), &s);
        const int64_t own = group * s.L * s.C, patterns = s.shared ? 0 : group * s.S * s.C;
        float *to_k = s.shared ? w.dk : oht_f32(dk) + patterns;
        float *to_v = !apart ? to_k : s.shared ? w.dv : oht_f32(dv) + patterns;
        const bool add_k = s.shared || add[1], add_v = !apart || s.shared || add[2];
        const uint16_t *bits = draw(hf, &s, group, w.bits);
        double dalpha = 0.0;
        for (int64_t h = 0; h < s.H; h++) {
            const float *kept = oht_f32(probs) + (group * s.H + h) * s.L * s.S;
            const float *up = oht_f32(dout) + own + head_at(hf, &s, h);
            const uint16_t *hb = bits ? bits + h * s.L * s.S : NULL;
            transpose(w.vt, oht_f32(v) + patterns + h * s.D, &s);
            product(s.L, s.ld, s.D, 1.0f, up, head_ld(hf, &s), 1, w.vt, s.ld, w.g, s.ld, false);
            drop_rows(hf, &s, hb, w.g);
            for (int64_t i = 0; i < s.L; i++) {
                float *p = w.p + i * s.ld;
                dalpha += base_row_bwd(hf, alpha, kept + i * s.S, w.g + i * s.ld, s.S);
                memcpy(p, kept + i * s.S, (size_t)s.S * sizeof(float));
                if (hf->f.clipped) association_clip(&hf->f, p, s.S);
            }
            drop_rows(hf, &s, hb, w.p);
            product(s.S, s.D, s.L, hf->beta, w.g, 1, s.ld, oht_f32(q) + own + h * s.D, s.C, to_k + h * s.D, s.C, add_k);
            product(s.S, s.D, s.L, 1.0f, w.p, 1, s.ld, up, head_ld(hf, &s), to_v + h * s.D, s.C, add_v);
            product(s.L, s.D, s.S, hf->beta, w.g, s.ld, 1, oht_f32(k) + patterns + h * s.D, s.C,
                    oht_f32(dq) + own + h * s.D, s.C, add[0]);
        }
        cpu_partial(be, omp_get_thread_num())[0] += dalpha;
    }
    if (s.shared) {
        add_shared(oht_f32(dk), scratch, threads, &s, false, add[1]);
        if (apart) add_shared(oht_f32(dv), scratch, threads, &s, true, add[2]);
    }
    if (!hf->learns_alpha || !da.data) return;
    double sum = 0.0, sigma = 1.0 / (1.0 + exp(-(double)oht_f32(a)[0]));
    for (int t = 0; t < threads; t++) sum += cpu_partial(be, t)[0];
    sum *= (double)hf->alpha_range * sigma * (1.0 - sigma);
    oht_f32(da)[0] = (add[3] ? oht_f32(da)[0] : 0.0f) + (float)sum;
}
