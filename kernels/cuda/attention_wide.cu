// Attention of heads that the tiles of attention.h do not hold, wider than 128 (64 for forms other than softmax and softmax_1): a block a query (or a key), the row of scores
// in shared memory, no tensor cores. Right, and slow.
#include "cuda/attention_run.h"
#include "cuda/entmax.h"

enum { WIDE = ATTENTION_THREADS };

template <class T> __device__ __forceinline__ float dot_of(const T *a, const T *b, int n) {
    float sum = 0.0f;
    for (int c = 0; c < n; c++) sum = fmaf(load(a + c), load(b + c), sum);
    return sum;
}

struct wide_place {
    int b, h, i;
    size_t bh;
};
__device__ __forceinline__ wide_place wide_place_of(const attention_problem &a) {
    wide_place p;
    p.i = (int)(blockIdx.x % a.T), p.bh = blockIdx.x / a.T;
    p.b = (int)(p.bh / a.H), p.h = (int)(p.bh % a.H);
    return p;
}

// Dropout factor of query i, key j.
__device__ __forceinline__ float wide_keep(const attention_problem &a, const wide_place &at, int i, int j) {
    if (!a.drop.threshold) return 1.0f;
    int64_t e = ((int64_t)at.h * a.T + i) * a.T + j;
    uint4 w = draw_block(a.drop, (uint32_t)at.b, (uint32_t)(e / 8));
    int k = (int)(e % 8);
    uint32_t word = k < 2 ? w.x : k < 4 ? w.y : k < 6 ? w.z : w.w;
    return kept(a.drop, (uint16_t)(k & 1 ? word >> 16 : word));
}

template <class T>
__global__ void __launch_bounds__(WIDE) wide_fwd_kernel(const T *__restrict__ qkv, T *__restrict__ out, float *__restrict__ row,
                                                        attention_problem a) {
    OHT_DYN_SHARED(float, s); // (T)
    const wide_place at = wide_place_of(a);
    const T *k = qkv + (size_t)at.b * a.T * 3 * a.C + a.C + at.h * a.D, *v = k + a.C, *q = k - a.C + (size_t)at.i * 3 * a.C;
    const uint8_t *mask = a.mask ? a.mask + (size_t)at.b * a.T : NULL;
    const size_t tap = (at.bh * a.T + at.i) * a.T;
    for (int j = threadIdx.x; j < a.T; j += WIDE) {
        bool seen = visible(a, mask, at.i, j);
        float x = seen || a.scores ? a.beta * dot_of(q, k + (size_t)j * 3 * a.C, a.D) : 0.0f;
        if (a.scores) a.scores[tap + j] = x;
        if (a.quantize_scores) x = quantized(x, a.scores_q);
        s[j] = seen ? x : -INFINITY;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        float norm = warp_association_row(a.f.kind, s, a.T);
        if (threadIdx.x == 0) row[at.bh * a.T + at.i] = norm;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < a.T; j += WIDE) {
        bool seen = visible(a, mask, at.i, j);
        float p = !seen ? 0.0f : a.f.clipped ? clipped(a.f, s[j]) : s[j];
        if (a.probs) a.probs[tap + j] = p;
        if (seen && a.quantize_probs) p = quantized(p, a.probs_q);
        s[j] = seen ? p * wide_keep(a, at, at.i, j) : 0.0f;
    }
    __syncthreads();
    T *o = out + ((size_t)at.b * a.T + at.i) * a.C + at.h * a.D;
    for (int c = threadIdx.x; c < a.D; c += WIDE) {
        float sum = 0.0f;
        for (int j = 0; j < a.T; j++) sum = fmaf(s[j], load(v + (size_t)j * 3 * a.C + c), sum);
        store(o + c, sum);
    }
}

// dQ of one query, and the row's sums (attention_bwd.cu).
template <class T>
__global__ void __launch_bounds__(WIDE)
    wide_query_kernel(T *__restrict__ dqkv, const T *__restrict__ dout, const float *__restrict__ row, const T *__restrict__ qkv,
                      float *__restrict__ sums, attention_problem a, bool add) {
    OHT_DYN_SHARED(float, s); // (T)
    const wide_place at = wide_place_of(a);
    const T *k = qkv + (size_t)at.b * a.T * 3 * a.C + a.C + at.h * a.D, *v = k + a.C, *q = k - a.C + (size_t)at.i * 3 * a.C;
    const T *u = dout + ((size_t)at.b * a.T + at.i) * a.C + at.h * a.D;
    const uint8_t *mask = a.mask ? a.mask + (size_t)at.b * a.T : NULL;
    const float norm = row[at.bh * a.T + at.i];
    const bool plain = (a.f.kind == OHT_SOFTMAX || a.f.kind == OHT_SOFTMAX1) && !a.f.clipped;
    float weight = 0.0f, D = 0.0f;
    for (int j = threadIdx.x; j < a.T; j += WIDE) {
        if (!visible(a, mask, at.i, j)) continue;
        float x = a.beta * dot_of(q, k + (size_t)j * 3 * a.C, a.D), w, value;
        float g = dot_of(u, v + (size_t)j * 3 * a.C, a.D) * wide_keep(a, at, at.i, j);
        if (plain)
            w = exp_for<T>(x - norm);
        else
            w = row_weight<T>(a.f, x, norm, &value, &g);
        weight += w;
        D += w * g;
    }
    weight = block_sum(weight);
    D = block_sum(D);
    if (!plain && a.f.kind == OHT_SOFTMAX1) weight += exp_for<T>(-norm);
    float inverse = weight > 0.0f ? 1.0f / weight : weight;
    if (!plain) D *= inverse;
    for (int j = threadIdx.x; j < a.T; j += WIDE) {
        float p, ds = 0.0f;
        if (visible(a, mask, at.i, j)) {
            float x = a.beta * dot_of(q, k + (size_t)j * 3 * a.C, a.D), g = dot_of(u, v + (size_t)j * 3 * a.C, a.D);
            float keep = wide_keep(a, at, at.i, j);
            if (plain)
                gradient<T, true>(a.f, x, g, keep, norm, D, inverse, &p, &ds);
            else
                gradient<T, false>(a.f, x, g, keep, norm, D, inverse, &p, &ds);
        }
        s[j] = ds;
    }
    __syncthreads();
    T *dq = dqkv + ((size_t)at.b * a.T + at.i) * 3 * a.C + at.h * a.D;
    for (int c = threadIdx.x; c < a.D; c += WIDE) {
        float sum = 0.0f;
        for (int j = 0; j < a.T; j++) sum = fmaf(s[j], load(k + (size_t)j * 3 * a.C + c), sum);
        store(dq + c, a.beta * sum, add);
    }
    if (threadIdx.x == 0) sums[at.bh * a.T + at.i] = D, sums[((size_t)a.B * a.H + at.bh) * a.T + at.i] = inverse;
}

// dK and dV of one key.
template <class T>
__global__ void __launch_bounds__(WIDE)
    wide_key_kernel(T *__restrict__ dqkv, const T *__restrict__ dout, const float *__restrict__ row, const T *__restrict__ qkv,
                    const float *__restrict__ sums, attention_problem a, bool add) {
    OHT_DYN_SHARED(float, sp); // Drop(p) (T), dS (T)
    float *sg = sp + a.T;
    const wide_place at = wide_place_of(a);
    const int j = at.i;
    const T *q = qkv + (size_t)at.b * a.T * 3 * a.C + at.h * a.D, *k = q + a.C + (size_t)j * 3 * a.C, *v = k + a.C;
    const T *u = dout + (size_t)at.b * a.T * a.C + at.h * a.D;
    const uint8_t *mask = a.mask ? a.mask + (size_t)at.b * a.T : NULL;
    const float *D = sums + at.bh * a.T, *inverse = D + (size_t)a.B * a.H * a.T;
    const bool plain = (a.f.kind == OHT_SOFTMAX || a.f.kind == OHT_SOFTMAX1) && !a.f.clipped;
    for (int i = threadIdx.x; i < a.T; i += WIDE) {
        float p = 0.0f, ds = 0.0f;
        if (visible(a, mask, i, j)) {
            float x = a.beta * dot_of(q + (size_t)i * 3 * a.C, k, a.D), g = dot_of(u + (size_t)i * a.C, v, a.D);
            float keep = wide_keep(a, at, i, j), norm = row[at.bh * a.T + i];
            if (plain)
                gradient<T, true>(a.f, x, g, keep, norm, D[i], inverse[i], &p, &ds);
            else
                gradient<T, false>(a.f, x, g, keep, norm, D[i], inverse[i], &p, &ds);
        }
        sp[i] = p, sg[i] = ds;
    }
    __syncthreads();
    T *dk = dqkv + ((size_t)at.b * a.T + j) * 3 * a.C + a.C + at.h * a.D, *dv = dk + a.C;
    for (int c = threadIdx.x; c < a.D; c += WIDE) {
        float sum_k = 0.0f, sum_v = 0.0f;
        for (int i = 0; i < a.T; i++) {
            sum_k = fmaf(sg[i], load(q + (size_t)i * 3 * a.C + c), sum_k);
            sum_v = fmaf(sp[i], load(u + (size_t)i * a.C + c), sum_v);
        }
        store(dk + c, a.beta * sum_k, add);
        store(dv + c, sum_v, add);
    }
}

template <class T> void attention_wide_fwd(cuda_context *ctx, const attention_problem &a, const T *qkv, T *out, float *row) {
    size_t bytes = (size_t)a.T * sizeof(float);
    allow_shared(ctx, (const void *)wide_fwd_kernel<T>, bytes);
    CUDA_LAUNCH(ctx, wide_fwd_kernel<T>, dim3((unsigned)(a.B * a.H * a.T)), dim3(WIDE), bytes, qkv, out, row, a);
}

template <class T>
void attention_wide_bwd(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const float *row, const T *qkv,
                        bool add, float *sums) {
    size_t bytes = (size_t)a.T * sizeof(float);
    dim3 blocks((unsigned)(a.B * a.H * a.T));
    allow_shared(ctx, (const void *)wide_query_kernel<T>, bytes);
    CUDA_LAUNCH(ctx, wide_query_kernel<T>, blocks, dim3(WIDE), bytes, dqkv, dout, row, qkv, sums, a, add);
    allow_shared(ctx, (const void *)wide_key_kernel<T>, 2 * bytes);
    CUDA_LAUNCH(ctx, wide_key_kernel<T>, blocks, dim3(WIDE), 2 * bytes, dqkv, dout, row, qkv, sums, a, add);
}

#define INSTANCES(T)                                                                                                            \
    template void attention_wide_fwd<T>(cuda_context *, const attention_problem &, const T *, T *, float *);                   \
    template void attention_wide_bwd<T>(cuda_context *, const attention_problem &, T *, const T *, const float *, const T *,   \
                                        bool, float *);
INSTANCES(float)
INSTANCES(__nv_bfloat16)
INSTANCES(__half)
