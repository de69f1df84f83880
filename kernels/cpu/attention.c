// Hopfield association of all heads: S = beta Q K^T, P = f(S), out = Drop(P) V, and its derivatives
//   dV = Drop(P)^T dO,  dP = dO V^T (dropped alike),  dS = f'(S)[dP],  dQ = beta dS K,  dK = beta dS^T Q.
//
// The T x T matrices never exist as a whole: BLOCK queries against the keys they can see stay in cache, GEMMs
// read q, k, v in place (leading dimension 3C). Forward is parallel over blocks. Backward computes S again,
// is parallel over (sample, head), and where those are fewer than threads also over ranges of queries, whose
// sums for dK and dV are then added in order. For softmax and softmax_1, sum_j dP_ij P_ij = <out_i, dout_i>
// (with dropout too: both factors carry the mask).
#include <math.h>
#include <string.h>

#include "cpu/association.h"
#include "cpu/cpu.h"
#include "cpu/fakequant.h"
#include "cpu/philox.h"

enum { BLOCK = 64 }; // queries at a time

// One attention problem as the blocks see it.
typedef struct problem {
    const oht_assoc *as;
    int64_t B, T, C, H, D;
    const float *qkv;
    const uint8_t *mask; // or NULL
    int64_t keys_ld; // row length of the blocks in scratch
} problem;

static problem make_problem(oht_tensor qkv, oht_tensor mask, const oht_assoc *as) {
    int64_t C = qkv.dim[2] / 3;
    return (problem){.as = as,
                     .B = qkv.dim[0],
                     .T = qkv.dim[1],
                     .C = C,
                     .H = as->heads,
                     .D = C / as->heads,
                     .qkv = oht_f32(qkv),
                     .mask = oht_u8(mask),
                     .keys_ld = round_up(qkv.dim[1], 16) + 16};
}

// Scratch of one thread: `n` blocks of scores and the dropout bits of one row.
static size_t thread_scratch(int64_t T, int blocks) {
    size_t ld = (size_t)round_up(T, 16) + 16;
    return (size_t)blocks * BLOCK * ld * sizeof(float) +
           (size_t)round_up(T + DROPOUT_SLACK, 32) * sizeof(uint16_t);
}

// Keys of sample b that anyone may see: 0 .. visible-1 holds all of them; *holes: some inside are masked.
static int64_t visible_keys(const problem *p, int64_t b, bool *holes) {
    *holes = false;
    if (!p->mask) return p->T;
    const uint8_t *mask = p->mask + b * p->T;
    int64_t n = p->T;
    while (n > 0 && !mask[n - 1]) n--;
    for (int64_t j = 0; j < n; j++) *holes |= !mask[j];
    return n;
}

// s: (rows, ld) = beta Q K^T of queries i0.. and keys 0..n
static void scores(const problem *p, float *s, int64_t b, int64_t h, int64_t i0, int64_t rows, int64_t n) {
    const float *q = p->qkv + (b * p->T + i0) * 3 * p->C + h * p->D,
                *k = p->qkv + b * p->T * 3 * p->C + p->C + h * p->D;
    gemm_serial(false, true, rows, n, p->D, p->as->beta, q, 3 * p->C, k, 3 * p->C, 0.0f, s, p->keys_ld);
}

// Keys query i sees out of n, with the masked ones among them set to -inf.
static int64_t mask_row(const problem *p, float *s, int64_t b, int64_t i, int64_t n, bool holes) {
    if (p->as->causal) n = min_i64(n, i + 1);
    if (holes) {
        const uint8_t *mask = p->mask + b * p->T;
#pragma omp simd
        for (int64_t j = 0; j < n; j++) s[j] = mask[j] ? s[j] : -INFINITY;
    }
    return n;
}

static association_drop draw_row(const problem *p, int64_t b, int64_t h, int64_t i, int64_t n,
                                 uint16_t *buffer) {
    const oht_draw *d = &p->as->drop;
    if (!(d->p > 0.0f)) return (association_drop){0};
    return (association_drop){.bits = dropout_bits(d, dropout_sample(d, b), (h * p->T + i) * p->T, n, buffer),
                              .threshold = oht_dropout_threshold(d->p),
                              .scale = oht_dropout_scale(d->p)};
}

static void fill_zero(float *x, int64_t n) {
    if (n > 0) memset(x, 0, (size_t)n * sizeof(float));
}

// ---- forward ----
size_t attention_fwd_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as) {
    (void)B, (void)C, (void)as;
    return (size_t)be->threads * thread_scratch(T, 1);
}

static void block_fwd(const problem *p, float *out, float *row, const oht_attention_inner *inner, int64_t b,
                      int64_t h, int64_t i0, int64_t rows, float *s, uint16_t *buffer) {
    int64_t T = p->T, ld = p->keys_ld;
    bool holes;
    int64_t n = visible_keys(p, b, &holes);
    float *all_scores = inner ? oht_f32(inner->scores) : NULL,
          *all_probs = inner ? oht_f32(inner->probs) : NULL;
    if (all_scores) { // the tap wants hidden keys, too
        scores(p, s, b, h, i0, rows, T);
        for (int64_t r = 0; r < rows; r++)
            memcpy(all_scores + ((b * p->H + h) * T + i0 + r) * T, s + r * ld, (size_t)T * sizeof(float));
    }
    if (p->as->causal) n = min_i64(n, i0 + rows);
    if (n > 0 && !all_scores) scores(p, s, b, h, i0, rows, n);
    if (p->as->quant_scores)
        for (int64_t r = 0; r < rows; r++) fake_quantize_row(s + r * ld, n, *p->as->quant_scores);
    for (int64_t r = 0; r < rows; r++) {
        float *sr = s + r * ld;
        int64_t i = i0 + r, seen = mask_row(p, sr, b, i, n, holes);
        row[(b * p->H + h) * T + i] = association_row(&p->as->f, sr, seen);
        fill_zero(sr + seen, n - seen);
        if (all_probs) {
            float *to = all_probs + ((b * p->H + h) * T + i) * T;
            if (n > 0) memcpy(to, sr, (size_t)n * sizeof(float));
            fill_zero(to + n, T - n);
        }
        if (p->as->quant_probs) fake_quantize_row(sr, seen, *p->as->quant_probs); // the zeros behind stay zero
        association_drop d = draw_row(p, b, h, i, seen, buffer);
        if (!d.bits) continue;
#pragma omp simd
        for (int64_t j = 0; j < seen; j++) sr[j] = d.bits[j] < d.threshold ? 0.0f : sr[j] * d.scale;
    }
    float *o = out + (b * T + i0) * p->C + h * p->D;
    const float *v = p->qkv + b * T * 3 * p->C + 2 * p->C + h * p->D;
    if (n > 0)
        gemm_serial(false, false, rows, p->D, n, 1.0f, s, ld, v, 3 * p->C, 0.0f, o, p->C);
    else
        for (int64_t r = 0; r < rows; r++) fill_zero(o + r * p->C, p->D);
}

void attention_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor row, oht_tensor qkv, oht_tensor mask,
                       const oht_assoc *as, const oht_attention_inner *inner, void *scratch) {
    problem p = make_problem(qkv, mask, as);
    int64_t blocks = (p.T + BLOCK - 1) / BLOCK, tasks = p.B * p.H * blocks;
    size_t per_thread = thread_scratch(p.T, 1);
#pragma omp parallel for num_threads(be->threads) if (p.B * p.H * p.T * p.T > CPU_SMALL) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; task++) { // any thread may take any block: outputs are disjoint
        float *s = (float *)(void *)((char *)scratch + (size_t)omp_get_thread_num() * per_thread);
        uint16_t *buffer = (uint16_t *)(void *)(s + BLOCK * p.keys_ld);
        int64_t bh = task / blocks, i0 = task % blocks * BLOCK;
        block_fwd(&p, oht_f32(out), oht_f32(row), inner, bh / p.H, bh % p.H, i0, min_i64(BLOCK, p.T - i0), s,
                  buffer);
    }
}

// ---- backward ----
// Ranges of queries per (sample, head); more than one only where heads alone cannot fill the threads.
static int64_t ranges(oht_backend *be, int64_t B, int64_t H, int64_t T) {
    if (B * H >= be->threads || B * H == 0) return 1;
    return min_i64((be->threads + B * H - 1) / (B * H), (T + BLOCK - 1) / BLOCK);
}

size_t attention_bwd_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as) {
    // With fewer valid samples than B there may be more ranges: at most one per thread and head.
    int64_t most = 0;
    for (int64_t b = 1; b <= B; b++) {
        int64_t r = ranges(be, b, as->heads, T);
        if (r > 1 && b * r > most) most = b * r;
    }
    return (size_t)be->threads * thread_scratch(T, 2) + (size_t)(most * 2 * T * C) * sizeof(float);
}

// Queries [lo, hi) of one head, last block first: it sees the most keys, so it is the one that overwrites dk
// and dv. dk, dv: (T, D) with leading dimension ld_kv; keep: add to what is there.
static void head_bwd(const problem *p, float *dqkv, const float *dout, const float *out, const float *row,
                     int64_t b, int64_t h, int64_t lo, int64_t hi, float *dk, float *dv, int64_t ld_kv,
                     bool keep, bool keep_dq, float *s, float *g, uint16_t *buffer) {
    int64_t T = p->T, C = p->C, D = p->D, ld = p->keys_ld;
    const float *q = p->qkv + b * T * 3 * C + h * D, *k = q + C, *v = q + 2 * C;
    bool holes;
    int64_t keys = visible_keys(p, b, &holes), done = 0; // dk, dv rows < done hold sums already
    if (keep) done = T;
    for (int64_t i0 = lo + (hi - lo - 1) / BLOCK * BLOCK; i0 >= lo; i0 -= BLOCK) {
        int64_t rows = min_i64(BLOCK, hi - i0), n = p->as->causal ? min_i64(keys, i0 + rows) : keys;
        float *dq = dqkv + (b * T + i0) * 3 * C + h * D;
        const float *o = out + (b * T + i0) * C + h * D, *u = dout + (b * T + i0) * C + h * D;
        if (n == 0) {
            for (int64_t r = 0; r < rows && !keep_dq; r++) fill_zero(dq + r * 3 * C, D);
            continue;
        }
        scores(p, s, b, h, i0, rows, n);
        gemm_serial(false, true, rows, n, D, 1.0f, u, C, v, 3 * C, 0.0f, g, ld);
        for (int64_t r = 0; r < rows; r++) {
            int64_t i = i0 + r, seen = mask_row(p, s + r * ld, b, i, n, holes);
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t d = 0; d < D; d++) dot += o[r * C + d] * u[r * C + d];
            association_row_bwd(&p->as->f, s + r * ld, g + r * ld, seen, row[(b * p->H + h) * T + i], dot,
                                draw_row(p, b, h, i, seen, buffer));
            fill_zero(s + r * ld + seen, n - seen);
            fill_zero(g + r * ld + seen, n - seen);
        }
        gemm_serial(true, false, n, D, rows, 1.0f, s, ld, u, C, done ? 1.0f : 0.0f, dv, ld_kv);
        gemm_serial(true, false, n, D, rows, p->as->beta, g, ld, q + i0 * 3 * C, 3 * C, done ? 1.0f : 0.0f,
                    dk, ld_kv);
        gemm_serial(false, false, rows, D, n, p->as->beta, g, ld, k, 3 * C, keep_dq ? 1.0f : 0.0f, dq, 3 * C);
        if (!done) done = n;
    }
    for (int64_t j = done; j < T; j++) {
        fill_zero(dk + j * ld_kv, D);
        fill_zero(dv + j * ld_kv, D);
    }
}

void attention_bwd_cpu(oht_backend *be, oht_tensor dqkv, oht_tensor dout, oht_tensor out, oht_tensor row,
                       oht_tensor qkv, oht_tensor mask, const oht_assoc *as, bool add_dqkv, void *scratch) {
    problem p = make_problem(qkv, mask, as);
    int64_t R = ranges(be, p.B, p.H, p.T), T = p.T, C = p.C, D = p.D;
    size_t per_thread = thread_scratch(T, 2);
    float *sums =
        (float *)(void *)((char *)scratch + (size_t)be->threads * per_thread); // (B, H, R, 2, T, D) if R > 1
    float *d = oht_f32(dqkv);
#pragma omp parallel for num_threads(be->threads) if (p.B * p.H * T * T > CPU_SMALL) schedule(dynamic, 1)
    for (int64_t task = 0; task < p.B * p.H * R; task++) {
        float *s = (float *)(void *)((char *)scratch + (size_t)omp_get_thread_num() * per_thread);
        float *g = s + BLOCK * p.keys_ld;
        uint16_t *buffer = (uint16_t *)(void *)(g + BLOCK * p.keys_ld);
        int64_t bh = task / R, b = bh / p.H, h = bh % p.H, lo, hi;
        cpu_part(T, BLOCK, (int)(task % R), (int)R, &lo, &hi);
        float *dk = d + b * T * 3 * C + C + h * D;
        if (R == 1)
            head_bwd(&p, d, oht_f32(dout), oht_f32(out), oht_f32(row), b, h, lo, hi, dk, dk + C, 3 * C,
                     add_dqkv, add_dqkv, s, g, buffer);
        else
            head_bwd(&p, d, oht_f32(dout), oht_f32(out), oht_f32(row), b, h, lo, hi, sums + task * 2 * T * D,
                     sums + (task * 2 + 1) * T * D, D, false, add_dqkv, s, g, buffer);
    }
    if (R == 1) return;
#pragma omp parallel for num_threads(be->threads) if (p.B * p.H * T * D > CPU_SMALL) schedule(static)
    for (int64_t r = 0; r < p.B * p.H * 2 * T; r++) { // one row of dk or dv
        int64_t bh = r / (2 * T), which = r / T % 2, j = r % T, b = bh / p.H, h = bh % p.H;
        float *to = d + (b * T + j) * 3 * C + (1 + which) * C + h * D;
        for (int64_t e = 0; e < D; e++) {
            float sum = 0.0f;
            for (int64_t i = 0; i < R; i++) sum += sums[(((bh * R + i) * 2 + which) * T + j) * D + e];
            to[e] = (add_dqkv ? to[e] : 0.0f) + sum;
        }
    }
}
