// Association of short rows (oht/backend.h, spec stanhop 1.1): thousands of groups of a few dozen queries and patterns.
//
//   S = beta Q K^T,  P = f(S),  A = Drop(P) V        and back        dV = Drop(P)^T dA,  dP = dA V^T (dropped alike),
//   dS = f'(S)[dP],  dQ = beta dS K,  dK = beta dS^T Q
//
// A block takes one head of group after group. Rows of queries pass in chunks that fit in shared memory beside that head's
// patterns (patterns that do not fit are read where they are). Patterns that all groups share collect a block's gradients in
// scratch, and the blocks' parts are then added in order. All fp32.
#include "cuda/cuda.h"
#include "cuda/entmax.h"

enum {
    HOPFIELD_THREADS = 128,
    HOPFIELD_PARTS = 128, // blocks a head, at most
    HOPFIELD_SHARED = 96 * 1024, // bytes: two blocks on a multiprocessor
};

struct hopfield_problem {
    int64_t groups, G;
    int L, S, C, H, D;
    int parts, rows;       // blocks a head, queries a chunk
    int ld_d, ld_s;        // odd: no bank conflicts down a column
    bool staged;           // patterns in shared memory
    bool shared_patterns, mix, keep_base, learns_alpha;
    float beta, alpha_range;
    row_function f;
    draws drop;
    const float *a; // raw alpha
    bool quantize_scores, quantize_probs;
    quantizer scores_q, probs_q;
    float *scores; // (groups,H*L,S) before their quantizer, or NULL
};

// What a block needs: chunks of Q (and dA), of P (and dP), the draws, the patterns.
static size_t block_bytes(const hopfield_problem &p, int rows, bool staged, bool backward) {
    size_t each = (size_t)p.ld_d + p.ld_s, bits = p.drop.threshold ? (size_t)rows * p.S * 2 + 32 : 0;
    return ((backward ? 2 : 1) * (size_t)rows * each + (staged ? 2 * (size_t)p.S * p.ld_d : 0)) * sizeof(float) + bits;
}

static size_t fit(hopfield_problem *p, bool backward) {
    for (int staged = 1; staged >= 0; staged--)
        for (int rows = p->L; rows >= 1; rows = rows > 1 ? (rows + 1) / 2 : 0) {
            p->rows = rows, p->staged = staged;
            size_t bytes = block_bytes(*p, rows, staged, backward);
            if (bytes <= HOPFIELD_SHARED && (rows >= 4 || rows == p->L || !staged)) return bytes;
        }
    return block_bytes(*p, 1, false, backward); // very long rows: as much as there is
}

static hopfield_problem make_hopfield(oht_tensor q, oht_tensor k, oht_tensor a, const oht_hopfield *hf) {
    hopfield_problem p = {};
    p.groups = q.dim[0] * q.dim[1], p.G = q.dim[1];
    p.L = (int)q.dim[2], p.C = (int)q.dim[3], p.S = (int)k.dim[k.rank - 2], p.H = hf->heads, p.D = p.C / p.H;
    p.parts = (int)cuda_min(p.groups, HOPFIELD_PARTS);
    p.ld_d = p.D | 1, p.ld_s = p.S | 1;
    p.shared_patterns = k.rank == 3, p.mix = hf->mix, p.keep_base = hf->keep_base, p.learns_alpha = hf->learns_alpha;
    p.beta = hf->beta, p.alpha_range = hf->alpha_range;
    p.f = make_row_function(&hf->f);
    p.drop = make_draws(&hf->drop);
    p.a = oht_f32(a);
    if (hf->quant_scores) p.quantize_scores = true, p.scores_q = make_quantizer(hf->quant_scores);
    if (hf->quant_probs) p.quantize_probs = true, p.probs_q = make_quantizer(hf->quant_probs);
    p.scores = oht_f32(hf->scores);
    return p;
}

// c(i,j) = sum_x a[i ra + x xa] b[j rb + x xb] for i < M, j < N, handed to put(i, j, sum). The block's threads, 2 x 2 each.
template <class F>
__device__ __forceinline__ void products(int M, int N, int K, const float *a, int ra, int xa, const float *b, int rb, int xb, F put) {
    int wide = (N + 1) / 2, tiles = (M + 1) / 2 * wide;
    for (int i = threadIdx.x; i < tiles; i += HOPFIELD_THREADS) {
        int m = i / wide * 2, n = i % wide * 2;
        bool m1 = m + 1 < M, n1 = n + 1 < N;
        const float *a0 = a + m * ra, *a1 = m1 ? a0 + ra : a0, *b0 = b + n * rb, *b1 = n1 ? b0 + rb : b0;
        float s00 = 0.0f, s01 = 0.0f, s10 = 0.0f, s11 = 0.0f;
        for (int x = 0; x < K; x++) {
            float u = a0[x * xa], v = a1[x * xa], y = b0[x * xb], z = b1[x * xb];
            s00 = fmaf(u, y, s00), s01 = fmaf(u, z, s01), s10 = fmaf(v, y, s10), s11 = fmaf(v, z, s11);
        }
        put(m, n, s00);
        if (n1) put(m, n + 1, s01);
        if (m1) put(m + 1, n, s10);
        if (m1 && n1) put(m + 1, n + 1, s11);
    }
}

// dst (rows, ld) = rows of D out of src, pitch apart.
__device__ __forceinline__ void stage(float *dst, int ld, const float *src, int pitch, int rows, int D) {
    for (int i = threadIdx.x; i < rows * D; i += HOPFIELD_THREADS) dst[i / D * ld + i % D] = src[(size_t)(i / D) * pitch + i % D];
}

__device__ __forceinline__ double alpha_of(const hopfield_problem &p) {
    return p.learns_alpha ? 1.0 + (double)p.alpha_range / (1.0 + exp(-(double)*p.a)) : 0.0;
}

// Where row 0 of head h lies in a group's (L,C) result, and how far apart rows are (spec stanhop 1.2).
__device__ __forceinline__ int head_at(const hopfield_problem &p, int h) {
    return p.mix ? h * p.L * p.D : h * p.D;
}
__device__ __forceinline__ int head_ld(const hopfield_problem &p) {
    return p.mix ? p.D : p.C;
}

// Draws of rows i0 .. of a head as one stretch; element (i, j) at result[i * S + j].
__device__ __forceinline__ const uint16_t *draw_chunk(const hopfield_problem &p, uint16_t *bits, int64_t group, int h, int i0, int rows) {
    if (!p.drop.threshold) return NULL;
    int64_t first = ((group % p.G * p.H + h) * p.L + i0) * p.S;
    const int n = (rows * p.S + 7) / 8 * 8; // draw_rows counts whole blocks
    draw_rows(bits, 0, p.drop, (uint32_t)(group / p.G), first, 0, 1, n, threadIdx.x, HOPFIELD_THREADS);
    return bits + first % 8;
}

__global__ void __launch_bounds__(HOPFIELD_THREADS)
    hopfield_fwd_kernel(float *__restrict__ out, float *__restrict__ probs, const float *__restrict__ q,
                        const float *__restrict__ k, const float *__restrict__ v, hopfield_problem p) {
    OHT_DYN_SHARED(float, shared);
    uint16_t *bits = (uint16_t *)shared; // first: uint4 stores
    float *sq = shared + (p.drop.threshold ? (p.rows * p.S * 2 + 32) / 16 * 4 : 0), *sp = sq + p.rows * p.ld_d;
    float *stage_k = sp + p.rows * p.ld_s, *stage_v = stage_k + p.S * p.ld_d;
    const int h = blockIdx.y, w = threadIdx.x >> 5, lane = threadIdx.x & 31, S = p.S, D = p.D;
    const double alpha = alpha_of(p);
    for (int64_t group = blockIdx.x; group < p.groups; group += gridDim.x) {
        const float *kg = k + (p.shared_patterns ? 0 : group * S * p.C) + h * D, *vg = v + (p.shared_patterns ? 0 : group * S * p.C) + h * D;
        const float *kk = p.staged ? stage_k : kg, *vv = p.staged ? stage_v : vg;
        const int ld = p.staged ? p.ld_d : p.C;
        if (p.staged && (!p.shared_patterns || group == blockIdx.x)) {
            stage(stage_k, p.ld_d, kg, p.C, S, D);
            stage(stage_v, p.ld_d, vg, p.C, S, D);
        }
        for (int i0 = 0; i0 < p.L; i0 += p.rows) {
            const int rows = min(p.rows, p.L - i0);
            stage(sq, p.ld_d, q + (group * p.L + i0) * p.C + h * D, p.C, rows, D);
            const uint16_t *drop = draw_chunk(p, bits, group, h, i0, rows);
            __syncthreads();
            products(rows, S, D, sq, p.ld_d, 1, kk, ld, 1, [&](int i, int j, float s) { sp[i * p.ld_s + j] = p.beta * s; });
            __syncthreads();
            for (int i = w; i < rows; i += HOPFIELD_THREADS / WARP) {
                float *s = sp + i * p.ld_s, *keep = probs + ((group * p.H + h) * p.L + i0 + i) * S;
                for (int j = lane; j < S; j += WARP) { // a lane's own places, as in the row functions
                    if (p.scores) p.scores[((group * p.H + h) * p.L + i0 + i) * S + j] = s[j];
                    if (p.quantize_scores) s[j] = quantized(s[j], p.scores_q);
                }
                if (p.learns_alpha)
                    warp_entmax_row(s, S, alpha);
                else
                    warp_association_row(p.f.kind, s, S);
                for (int j = lane; j < S; j += WARP) {
                    float y = p.f.clipped ? clipped(p.f, s[j]) : s[j];
                    if (p.quantize_probs) y = quantized(y, p.probs_q);
                    keep[j] = p.keep_base ? s[j] : y;
                    s[j] = drop ? y * kept(p.drop, drop[i * S + j]) : y;
                }
            }
            __syncthreads();
            float *to = out + group * p.L * p.C + head_at(p, h) + (size_t)i0 * head_ld(p);
            products(rows, D, S, sp, p.ld_s, 1, vv, 1, ld, [&](int i, int c, float s) { to[(size_t)i * head_ld(p) + c] = s; });
            __syncthreads();
        }
    }
}

// parts: (parts, 2, S, C) sums of dK and dV of shared patterns, or NULL; dalpha: (parts, H).
struct hopfield_gradients {
    float *dq, *dk, *dv; // dv NULL: values are the keys, dk receives both
    float *parts;
    double *dalpha;
    bool add_q, add_k, add_v;
};

__global__ void __launch_bounds__(HOPFIELD_THREADS, 4) // so many blocks: ptxas spills without
    hopfield_bwd_kernel(hopfield_gradients to, const float *__restrict__ dout, const float *__restrict__ probs,
                        const float *__restrict__ q, const float *__restrict__ k, const float *__restrict__ v, hopfield_problem p) {
    OHT_DYN_SHARED(float, shared);
    OHT_SHARED(double, alphas, HOPFIELD_THREADS / WARP);
    uint16_t *bits = (uint16_t *)shared;
    float *sq = shared + (p.drop.threshold ? (p.rows * p.S * 2 + 32) / 16 * 4 : 0), *su = sq + p.rows * p.ld_d;
    float *sp = su + p.rows * p.ld_d, *sg = sp + p.rows * p.ld_s;
    float *stage_k = sg + p.rows * p.ld_s, *stage_v = stage_k + p.S * p.ld_d;
    const int h = blockIdx.y, w = threadIdx.x >> 5, lane = threadIdx.x & 31, S = p.S, D = p.D;
    const double alpha = alpha_of(p);
    double dalpha = 0.0;
    float *part_k = to.parts ? to.parts + (size_t)blockIdx.x * 2 * S * p.C + h * D : NULL;
    for (int64_t group = blockIdx.x; group < p.groups; group += gridDim.x) {
        const size_t patterns = p.shared_patterns ? 0 : group * S * p.C;
        const float *kg = k + patterns + h * D, *vg = v + patterns + h * D;
        const float *kk = p.staged ? stage_k : kg, *vv = p.staged ? stage_v : vg;
        const int ld = p.staged ? p.ld_d : p.C;
        float *dk = part_k ? part_k : to.dk + patterns + h * D;
        float *dv = !to.dv ? dk : part_k ? part_k + (size_t)S * p.C : to.dv + patterns + h * D;
        if (p.staged && (!p.shared_patterns || group == blockIdx.x)) {
            stage(stage_k, p.ld_d, kg, p.C, S, D);
            stage(stage_v, p.ld_d, vg, p.C, S, D);
        }
        for (int i0 = 0; i0 < p.L; i0 += p.rows) {
            const int rows = min(p.rows, p.L - i0);
            const bool first = i0 == 0 && (!part_k || group == blockIdx.x);
            const bool add_k = !first || (!part_k && to.add_k), add_v = !to.dv || !first || (!part_k && to.add_v);
            stage(sq, p.ld_d, q + (group * p.L + i0) * p.C + h * D, p.C, rows, D);
            stage(su, p.ld_d, dout + group * p.L * p.C + head_at(p, h) + (size_t)i0 * head_ld(p), head_ld(p), rows, D);
            stage(sp, p.ld_s, probs + ((group * p.H + h) * p.L + i0) * S, S, rows, S);
            const uint16_t *drop = draw_chunk(p, bits, group, h, i0, rows);
            __syncthreads();
            products(rows, S, D, su, p.ld_d, 1, vv, ld, 1, [&](int i, int j, float s) {
                sg[i * p.ld_s + j] = drop ? s * kept(p.drop, drop[i * S + j]) : s;
            });
            __syncthreads();
            for (int i = w; i < rows; i += HOPFIELD_THREADS / WARP) {
                float *y = sp + i * p.ld_s, *g = sg + i * p.ld_s;
                if (p.learns_alpha)
                    dalpha += warp_entmax_row_bwd(y, g, S, alpha);
                else
                    warp_association_row_bwd(p.f, y, g, S);
                for (int j = lane; j < S; j += WARP) {
                    float c = p.f.clipped ? clipped(p.f, y[j]) : y[j];
                    y[j] = drop ? c * kept(p.drop, drop[i * S + j]) : c;
                }
            }
            __syncthreads();
            float *dq = to.dq + (group * p.L + i0) * p.C + h * D;
            products(rows, D, S, sg, p.ld_s, 1, kk, 1, ld,
                     [&](int i, int c, float s) { store(dq + (size_t)i * p.C + c, p.beta * s, to.add_q); });
            products(S, D, rows, sg, 1, p.ld_s, sq, 1, p.ld_d,
                     [&](int j, int c, float s) { store(dk + (size_t)j * p.C + c, p.beta * s, add_k); });
            // when values are the keys: the same thread owns the same places again
            products(S, D, rows, sp, 1, p.ld_s, su, 1, p.ld_d,
                     [&](int j, int c, float s) { store(dv + (size_t)j * p.C + c, s, add_v); });
            __syncthreads();
        }
    }
    if (!p.learns_alpha) return;
    if (lane == 0) alphas[w] = dalpha;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (int i = 0; i < HOPFIELD_THREADS / WARP; i++) sum += alphas[i];
    to.dalpha[blockIdx.x * p.H + h] = sum;
}

// Sums of the blocks' parts, in order. which: 0 dK, 1 dV.
__global__ void hopfield_parts_kernel(float *__restrict__ to, const float *__restrict__ parts, int count, int n, int which, bool add) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = 0.0f;
    for (int t = 0; t < count; t++) sum += parts[(size_t)(2 * t + which) * n + i];
    store(to + i, sum, add);
}

__global__ void hopfield_alpha_kernel(float *__restrict__ da, const double *__restrict__ dalpha, int n, const float *__restrict__ a,
                                      float range, bool add) {
    double sum = 0.0, sigma = 1.0 / (1.0 + exp(-(double)*a));
    for (int i = threadIdx.x; i < n; i += WARP) sum += dalpha[i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) store(da, (float)(sum * range * sigma * (1.0 - sigma)), add);
}

// dalpha (PARTS, H) doubles, then the parts.
static size_t hopfield_scratch_cuda(oht_backend *be, const oht_hopfield *hf, int64_t G, int64_t L, int64_t S, int64_t C) {
    (void)be, (void)G, (void)L;
    return HOPFIELD_PARTS * ((size_t)hf->heads * sizeof(double) + 2 * (size_t)S * (size_t)C * sizeof(float));
}

static void hopfield_fwd_cuda(oht_backend *be, oht_tensor out, oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v,
                                  oht_tensor a, const oht_hopfield *hf, void *scratch) {
    (void)scratch;
    hopfield_problem p = make_hopfield(q, k, a, hf);
    if (p.groups * p.L == 0) return;
    cuda_context *ctx = cuda_of(be);
    size_t bytes = fit(&p, false);
    allow_shared(ctx, (const void *)hopfield_fwd_kernel, bytes);
    CUDA_LAUNCH(ctx, hopfield_fwd_kernel, dim3((unsigned)p.parts, (unsigned)p.H), dim3(HOPFIELD_THREADS), bytes, oht_f32(out),
               oht_f32(probs), oht_f32(q), oht_f32(k), oht_f32(v), p);
}

static void hopfield_bwd_cuda(oht_backend *be, oht_tensor dq, oht_tensor dk, oht_tensor dv, oht_tensor da, oht_tensor dout,
                                  oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v, oht_tensor a,
                                  const oht_hopfield *hf, const bool add[4], void *scratch) {
    hopfield_problem p = make_hopfield(q, k, a, hf);
    cuda_context *ctx = cuda_of(be);
    size_t bytes = fit(&p, true);
    double *dalpha = (double *)scratch;
    float *parts = p.shared_patterns ? (float *)(dalpha + HOPFIELD_PARTS * p.H) : NULL;
    hopfield_gradients to = {oht_f32(dq), oht_f32(dk), oht_f32(dv), parts, dalpha, add[0], add[1], add[2]};
    if (p.groups * p.L > 0) {
        allow_shared(ctx, (const void *)hopfield_bwd_kernel, bytes);
        CUDA_LAUNCH(ctx, hopfield_bwd_kernel, dim3((unsigned)p.parts, (unsigned)p.H), dim3(HOPFIELD_THREADS), bytes, to, oht_f32(dout),
                   oht_f32(probs), oht_f32(q), oht_f32(k), oht_f32(v), p);
    }
    int n = p.S * p.C;
    if (parts) {
        dim3 blocks((unsigned)((n + 255) / 256)), threads(256);
        CUDA_LAUNCH(ctx, hopfield_parts_kernel, blocks, threads, 0, oht_f32(dk), parts, p.parts, n, 0, add[1]);
        if (dv.data) CUDA_LAUNCH(ctx, hopfield_parts_kernel, blocks, threads, 0, oht_f32(dv), parts, p.parts, n, 1, add[2]);
    }
    if (p.learns_alpha && da.data)
        CUDA_LAUNCH(ctx, hopfield_alpha_kernel, dim3(1), dim3(WARP), 0, oht_f32(da), dalpha, p.parts * p.H, oht_f32(a), hf->alpha_range,
                   add[3]);
}

void cuda_hopfield_entries(oht_backend *be) {
    be->hopfield_scratch = hopfield_scratch_cuda;
    be->hopfield_fwd = hopfield_fwd_cuda;
    be->hopfield_bwd = hopfield_bwd_cuda;
}
