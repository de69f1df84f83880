// Attention backward without atomics, so that results repeat: P is computed again from the kept row, twice.
//
//   sums      per query: D = <out, dout> for the plain softmax and softmax_1 (with dropout too: both factors carry the mask);
//             for the other forms a sweep over the keys, since their D is not that (attention.h, row_weight)
//   queries   a block owns 64 queries:  dQ = beta dS K
//   keys      a block owns 64 keys:     dV = Drop(P)^T dO,  dK = beta dS^T Q
//
// dS of one element from g = dropped <dout_i, v_j>: see gradient().
#include "cuda/attention_run.h"

enum query_mode { PLAIN, GENERAL, SUMS };

// D of the plain forms: a warp a (sample, query, head).
template <class T>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_dot_kernel(const T *__restrict__ out, const T *__restrict__ dout, float *__restrict__ sums, attention_problem a) {
    size_t i = (size_t)blockIdx.x * (ATTENTION_THREADS / WARP) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (i >= (size_t)a.B * a.T * a.H) return;
    size_t h = i % a.H, bt = i / a.H, b = bt / a.T, t = bt % a.T, at = bt * a.C + h * a.D;
    float dot = 0.0f;
    for (int c = (int)lane; c < a.D; c += WARP) dot += load(out + at + c) * load(dout + at + c);
    dot = warp_sum(dot);
    if (lane == 0) sums[(b * a.H + h) * a.T + t] = dot;
}

template <class T, int DP, bool SMALL> static size_t query_shared(bool drop) {
    typedef tile<T, DP, SMALL> t;
    return (size_t)(2 * ATTENTION_ROWS + 4 * t::KEYS) * t::LD * sizeof(T) +
           4 * (size_t)turn<T, t::KEYS / 8>::FLOATS * sizeof(float) +
           (drop ? (size_t)ATTENTION_ROWS * (t::KEYS + 8) * sizeof(uint16_t) : 0);
}

// sums: (2,B,H,T) = D, then 1 / sum e of the clipped forms: read, or written by SUMS.
template <class T, int DP, int MODE>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_query_kernel(T *__restrict__ dqkv, const T *__restrict__ dout, const float *__restrict__ row,
                           const T *__restrict__ qkv, float *sums, attention_problem a, bool add) {
    typedef tile<T, DP, MODE != PLAIN> tl;
    const int KEYS = tl::KEYS, N = KEYS / 8, LD = tl::LD;
    OHT_DYN_SHARED(unsigned char, shared);
    OHT_SHARED(int, part, 4);
    T *sq = (T *)shared, *su = sq + ATTENTION_ROWS * LD, *sk = su + ATTENTION_ROWS * LD, *sv = sk + 2 * KEYS * LD;
    float *stage = (float *)(sv + 2 * KEYS * LD);
    uint16_t *bits = (uint16_t *)(stage + 4 * turn<T, N>::FLOATS);
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int tiles = (a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    const int bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H, q0 = (tiles - 1 - (int)blockIdx.x % tiles) * ATTENTION_ROWS;
    const int i0 = q0 + 16 * w;
    const uint8_t *mask = a.mask ? a.mask + (size_t)b * a.T : NULL;
    const T *q = qkv + (size_t)b * a.T * 3 * a.C + h * a.D, *k = q + a.C, *v = k + a.C;
    const T *u = dout + (size_t)b * a.T * a.C + h * a.D;
    float *d_of = sums + (size_t)bh * a.T, *inverse_of = d_of + (size_t)a.B * a.H * a.T;
    int end = visible_keys(a, mask, part);
    if (a.causal) end = min(end, q0 + ATTENTION_ROWS);

    float norm[2], D[2], inverse[2];
#pragma unroll
    for (int y = 0; y < 2; y++) {
        int i = i0 + g + 8 * y;
        bool real = i < a.T;
        norm[y] = real ? row[(size_t)bh * a.T + i] : 0.0f;
        D[y] = MODE == SUMS || !real ? 0.0f : d_of[i];
        inverse[y] = MODE == SUMS || !real || !a.f.clipped ? 0.0f : inverse_of[i];
    }
    float dq[DP / 8][4];
    clear(dq);

    load_tile<T, DP, ATTENTION_ROWS>(sq, q, q0, a.T, a.D, 3 * a.C, a.vectors);
    load_tile<T, DP, ATTENTION_ROWS>(su, u, q0, a.T, a.D, a.C, a.vectors);
    if (end > 0) {
        load_tile<T, DP, KEYS>(sk, k, 0, a.T, a.D, 3 * a.C, a.vectors);
        load_tile<T, DP, KEYS>(sv, v, 0, a.T, a.D, 3 * a.C, a.vectors);
    }
    gpu_copy_commit();
    for (int k0 = 0, turn_of = 0; k0 < end; k0 += KEYS, turn_of ^= 1) {
        if (k0 + KEYS < end) {
            int next = (turn_of ^ 1) * KEYS * LD;
            load_tile<T, DP, KEYS>(sk + next, k, k0 + KEYS, a.T, a.D, 3 * a.C, a.vectors);
            load_tile<T, DP, KEYS>(sv + next, v, k0 + KEYS, a.T, a.D, 3 * a.C, a.vectors);
            gpu_copy_commit();
            gpu_copy_wait<1>();
        } else {
            gpu_copy_wait<0>();
        }
        int64_t first = ((int64_t)h * a.T + i0) * a.T + k0;
        uint16_t *mine = bits + w * 16 * (KEYS + 8);
        if (a.drop.threshold) draw_rows(mine, KEYS + 8, a.drop, (uint32_t)b, first, a.T, 16, KEYS, lane, WARP);
        __syncthreads();

        float s[N][4], dp[N][4];
        product_rows<T, DP, N>(s, sq + 16 * w * LD, sk + turn_of * KEYS * LD);
        product_rows<T, DP, N>(dp, su + 16 * w * LD, sv + turn_of * KEYS * LD);
        bool hidden = has_hidden_pairs(a, i0, 16, k0, KEYS);
#pragma unroll
        for (int y = 0; y < 2; y++) {
            int r = g + 8 * y;
            const uint16_t *of_row = mine + r * (KEYS + 8) + (int)((first + (int64_t)r * a.T) % 8) + 2 * t;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float keep = a.drop.threshold ? kept(a.drop, of_row[8 * n + e]) : 1.0f, ds = 0.0f, p;
                    bool seen = !hidden || visible(a, mask, i0 + r, k0 + 8 * n + 2 * t + e);
                    float x = s[n][2 * y + e] * a.beta, gx = dp[n][2 * y + e];
                    if (MODE == SUMS) {
                        gx *= keep;
                        float value, weight = row_weight<T>(a.f, x, norm[y], &value, &gx);
                        if (seen) inverse[y] += weight, D[y] += weight * gx;
                    } else {
                        gradient<T, MODE == PLAIN>(a.f, x, gx, keep, norm[y], D[y], inverse[y], &p, &ds);
                    }
                    s[n][2 * y + e] = seen ? ds : 0.0f;
                }
        }
        if (MODE != SUMS) product_columns<T, DP, N>(dq, s, sk + turn_of * KEYS * LD, stage + w * turn<T, N>::FLOATS);
        __syncthreads();
    }
    gpu_copy_wait<0>();

#pragma unroll
    for (int y = 0; y < 2; y++) {
        int i = i0 + g + 8 * y;
        if (MODE == SUMS) {
            float weight = quad_sum(inverse[y]), dot = quad_sum(D[y]);
            if (a.f.kind == OHT_SOFTMAX1) weight += exp_for<T>(-norm[y]);
            float one_over = weight > 0.0f ? 1.0f / weight : weight; // 0 and NaN stay
            if (i < a.T && t == 0) d_of[i] = dot * one_over, inverse_of[i] = one_over;
        } else if (i < a.T) {
            store_row<T, DP>(dqkv + ((size_t)b * a.T + i) * 3 * a.C + h * a.D, dq, y, a.beta, a.D, add);
        }
    }
}

template <class T, int DP, bool SMALL> static size_t key_shared(bool drop) {
    typedef tile<T, DP, SMALL> t;
    return (size_t)(2 * ATTENTION_ROWS + 4 * t::QUERIES) * t::LD * sizeof(T) +
           4 * (size_t)turn<T, t::QUERIES / 8>::FLOATS * sizeof(float) +
           (drop ? (size_t)t::QUERIES * (ATTENTION_ROWS + 8) * sizeof(uint16_t) : 0);
}

// The same pairs turned over: a warp's rows are 16 keys, its columns queries.
template <class T, int DP, bool IS_PLAIN>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_key_kernel(T *__restrict__ dqkv, const T *__restrict__ dout, const float *__restrict__ row,
                         const T *__restrict__ qkv, const float *__restrict__ sums, attention_problem a, bool add) {
    typedef tile<T, DP, !IS_PLAIN> tl;
    const int QUERIES = tl::QUERIES, N = QUERIES / 8, LD = tl::LD, BITS = ATTENTION_ROWS + 8;
    OHT_DYN_SHARED(unsigned char, shared);
    T *sk = (T *)shared, *sv = sk + ATTENTION_ROWS * LD, *sq = sv + ATTENTION_ROWS * LD, *su = sq + 2 * QUERIES * LD;
    float *stage = (float *)(su + 2 * QUERIES * LD);
    uint16_t *bits = (uint16_t *)(stage + 4 * turn<T, N>::FLOATS);
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int tiles = (a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    const int bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H, k0 = (int)blockIdx.x % tiles * ATTENTION_ROWS;
    const int j0 = k0 + 16 * w;
    const uint8_t *mask = a.mask ? a.mask + (size_t)b * a.T : NULL;
    const T *q = qkv + (size_t)b * a.T * 3 * a.C + h * a.D, *k = q + a.C, *v = k + a.C;
    const T *u = dout + (size_t)b * a.T * a.C + h * a.D;
    const float *norm_of = row + (size_t)bh * a.T, *d_of = sums + (size_t)bh * a.T, *inverse_of = d_of + (size_t)a.B * a.H * a.T;

    float dk[DP / 8][4], dv[DP / 8][4];
    clear(dk);
    clear(dv);
    int begin = a.causal ? k0 / QUERIES * QUERIES : 0; // earlier queries do not see these keys
    load_tile<T, DP, ATTENTION_ROWS>(sk, k, k0, a.T, a.D, 3 * a.C, a.vectors);
    load_tile<T, DP, ATTENTION_ROWS>(sv, v, k0, a.T, a.D, 3 * a.C, a.vectors);
    load_tile<T, DP, QUERIES>(sq, q, begin, a.T, a.D, 3 * a.C, a.vectors);
    load_tile<T, DP, QUERIES>(su, u, begin, a.T, a.D, a.C, a.vectors);
    gpu_copy_commit();
    for (int i0 = begin, turn_of = 0; i0 < a.T; i0 += QUERIES, turn_of ^= 1) {
        if (i0 + QUERIES < a.T) {
            int next = (turn_of ^ 1) * QUERIES * LD;
            load_tile<T, DP, QUERIES>(sq + next, q, i0 + QUERIES, a.T, a.D, 3 * a.C, a.vectors);
            load_tile<T, DP, QUERIES>(su + next, u, i0 + QUERIES, a.T, a.D, a.C, a.vectors);
            gpu_copy_commit();
            gpu_copy_wait<1>();
        } else {
            gpu_copy_wait<0>();
        }
        int64_t first = ((int64_t)h * a.T + i0) * a.T + k0;
        if (a.drop.threshold)
            draw_rows(bits, BITS, a.drop, (uint32_t)b, first, a.T, QUERIES, ATTENTION_ROWS, threadIdx.x, ATTENTION_THREADS);
        __syncthreads();

        float s[N][4], dp[N][4];
        product_rows<T, DP, N>(s, sk + 16 * w * LD, sq + turn_of * QUERIES * LD);
        product_rows<T, DP, N>(dp, sv + 16 * w * LD, su + turn_of * QUERIES * LD);
        bool hidden = has_hidden_pairs(a, i0, QUERIES, j0, 16);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int c = 8 * n + 2 * t + e, i = i0 + c;
                bool real = i < a.T;
                float norm = real ? norm_of[i] : 0.0f, D = real ? d_of[i] : 0.0f;
                float inverse = !IS_PLAIN && a.f.clipped && real ? inverse_of[i] : 0.0f;
                const uint16_t *of_row = bits + c * BITS + (int)((first + (int64_t)c * a.T) % 8) + 16 * w + g;
#pragma unroll
                for (int y = 0; y < 2; y++) {
                    float keep = a.drop.threshold ? kept(a.drop, of_row[8 * y]) : 1.0f, p, ds;
                    bool seen = !hidden || visible(a, mask, i, j0 + g + 8 * y);
                    gradient<T, IS_PLAIN>(a.f, s[n][2 * y + e] * a.beta, dp[n][2 * y + e], keep, norm, D, inverse, &p, &ds);
                    s[n][2 * y + e] = seen ? p : 0.0f;
                    dp[n][2 * y + e] = seen ? ds : 0.0f;
                }
            }
        product_columns<T, DP, N>(dv, s, su + turn_of * QUERIES * LD, stage + w * turn<T, N>::FLOATS);
        product_columns<T, DP, N>(dk, dp, sq + turn_of * QUERIES * LD, stage + w * turn<T, N>::FLOATS);
        __syncthreads();
    }
    gpu_copy_wait<0>();

#pragma unroll
    for (int y = 0; y < 2; y++) {
        int j = j0 + g + 8 * y;
        if (j >= a.T) continue;
        T *to = dqkv + ((size_t)b * a.T + j) * 3 * a.C + a.C + h * a.D;
        store_row<T, DP>(to, dk, y, a.beta, a.D, add);
        store_row<T, DP>(to + a.C, dv, y, 1.0f, a.D, add);
    }
}

// ---- launch ----

template <class T, int DP, int MODE>
static void run_queries(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const float *row, const T *qkv, bool add, float *sums) {
    unsigned blocks = (unsigned)((a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS) * (unsigned)(a.B * a.H);
    size_t bytes = query_shared<T, DP, MODE != PLAIN>(a.drop.threshold != 0);
    allow_shared(ctx, (const void *)attention_query_kernel<T, DP, MODE>, bytes);
    CUDA_LAUNCH(ctx, (attention_query_kernel<T, DP, MODE>), blocks, dim3(ATTENTION_THREADS), bytes, dqkv, dout, row, qkv, sums,
               a, add);
}

template <class T, int DP, bool IS_PLAIN>
static void run_bwd(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const float *row, const T *qkv, bool add, float *sums) {
    unsigned blocks = (unsigned)((a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS) * (unsigned)(a.B * a.H);
    size_t bytes = key_shared<T, DP, !IS_PLAIN>(a.drop.threshold != 0);
    if constexpr (!IS_PLAIN) run_queries<T, DP, SUMS>(ctx, a, dqkv, dout, row, qkv, add, sums);
    run_queries<T, DP, IS_PLAIN ? PLAIN : GENERAL>(ctx, a, dqkv, dout, row, qkv, add, sums);
    allow_shared(ctx, (const void *)attention_key_kernel<T, DP, IS_PLAIN>, bytes);
    CUDA_LAUNCH(ctx, (attention_key_kernel<T, DP, IS_PLAIN>), blocks, dim3(ATTENTION_THREADS), bytes, dqkv, dout, row, qkv,
               sums, a, add);
}

template <class T>
void attention_bwd(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const T *out, const float *row, const T *qkv, bool add,
                   float *sums) {
    if (a.B * a.H * a.T == 0) return;
    bool plain = (a.f.kind == OHT_SOFTMAX || a.f.kind == OHT_SOFTMAX1) && !a.f.clipped;
    if (a.D > (plain ? 128 : 64)) return attention_wide_bwd<T>(ctx, a, dqkv, dout, row, qkv, add, sums);
    if (!plain) return run_bwd<T, 64, false>(ctx, a, dqkv, dout, row, qkv, add, sums);
    size_t rows = (size_t)a.B * a.T * a.H;
    CUDA_LAUNCH(ctx, attention_dot_kernel<T>, dim3(cuda_blocks((int64_t)rows, 4)), dim3(ATTENTION_THREADS), 0, out, dout, sums, a);
    if (a.D <= 64) return run_bwd<T, 64, true>(ctx, a, dqkv, dout, row, qkv, add, sums);
    run_bwd<T, 128, true>(ctx, a, dqkv, dout, row, qkv, add, sums);
}

#define INSTANCES(T)                                                                                                            \
    template void attention_bwd<T>(cuda_context *, const attention_problem &, T *, const T *, const T *, const float *,        \
                                   const T *, bool, float *);
INSTANCES(float)
INSTANCES(__nv_bfloat16)
INSTANCES(__half)
