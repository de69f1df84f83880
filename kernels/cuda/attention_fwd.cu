// Attention forward: out = Drop(f(beta Q K^T)) V, never writing a T x T matrix. Three kernels with one loop over tiles of keys:
//
//   ONLINE  softmax and softmax_1 in one sweep. Running maximum m and sum l; softmax_1 is a key with score 0 and value 0, so its
//           pair starts at (0, 1) instead of (-inf, 0). row = m + log l.
//   ROW     the row's normaliser alone (clipped forms: the same recurrence) or threshold tau of sparsemax and entmax15: Newton's
//           method from tau = max - 1 as in kernels/cpu/association.c, each step a sweep that computes the scores again.
//   APPLY   out from row. Clips, quantizes, and writes the taps of scores and probabilities.
//
// Forms other than the plain softmax and softmax_1, quantized evaluation and taps take ROW, then APPLY.
#include "cuda/attention.h"
#include "cuda/attention_run.h"

enum fwd_mode { ONLINE, ROW, APPLY };
enum { NEWTON = 64 }; // sweeps at most; some 5 to 12 are needed

// One block: queries q0 .. q0 + 63 of head h of sample b; blocks that see the most keys come first.
struct fwd_place {
    int b, h, q0;
};
__device__ __forceinline__ fwd_place place_of(const attention_problem &a) {
    int tiles = (a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS, bh = blockIdx.x / tiles;
    fwd_place p = {bh / a.H, bh % a.H, (tiles - 1 - (int)blockIdx.x % tiles) * ATTENTION_ROWS};
    return p;
}

template <class T, int DP, int MODE> static size_t fwd_shared(bool drop) {
    typedef tile<T, DP, MODE == APPLY> t;
    size_t tiles = (size_t)(ATTENTION_ROWS + (MODE == ROW ? 2 : 4) * t::KEYS) * t::LD * sizeof(T);
    if (MODE == ROW) return tiles;
    size_t bits = drop ? (size_t)ATTENTION_ROWS * (t::KEYS + 8) * sizeof(uint16_t) : 0;
    return tiles + 4 * (size_t)turn<T, t::KEYS / 8>::FLOATS * sizeof(float) + bits;
}

// Scores of the warp's 16 queries with keys k0 ..: scaled, quantized, -inf where hidden. raw: the tap's.
template <class T, int DP, int N, bool PLAIN>
__device__ __forceinline__ void fwd_scores(float (&s)[N][4], const attention_problem &a, const uint8_t *mask, const T *sq,
                                           const T *sk, int i0, int k0, float *raw) {
    const int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    product_rows<T, DP, N>(s, sq, sk);
    bool hidden = has_hidden_pairs(a, i0, 16, k0, 8 * N);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = i0 + g + 8 * (e >> 1), j = k0 + 8 * n + 2 * t + (e & 1);
            float x = s[n][e] * a.beta;
            if (!PLAIN) {
                if (raw && i < a.T && j < a.T) raw[(size_t)i * a.T + j] = x;
                if (a.quantize_scores) x = quantized(x, a.scores_q);
            }
            s[n][e] = hidden && !visible(a, mask, i, j) ? -INFINITY : x;
        }
}

template <class T, int DP, int MODE>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_fwd_kernel(const T *__restrict__ qkv, T *__restrict__ out, float *__restrict__ row, attention_problem a) {
    typedef tile<T, DP, MODE == APPLY> tl;
    const int KEYS = tl::KEYS, N = KEYS / 8, LD = tl::LD;
    OHT_DYN_SHARED(unsigned char, shared);
    OHT_SHARED(int, part, 4);
    T *sq = (T *)shared, *sk = sq + ATTENTION_ROWS * LD; // keys and values, two stages
    T *sv = sk + 2 * KEYS * LD;
    float *stage = (float *)(sv + 2 * KEYS * LD);
    uint16_t *bits = (uint16_t *)(stage + 4 * turn<T, N>::FLOATS);
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const fwd_place at = place_of(a);
    const int i0 = at.q0 + 16 * w;
    const uint8_t *mask = a.mask ? a.mask + (size_t)at.b * a.T : NULL;
    const T *q = qkv + (size_t)at.b * a.T * 3 * a.C + at.h * a.D, *k = q + a.C, *v = k + a.C;
    const size_t bh = (size_t)at.b * a.H + at.h;
    float *rows = row + bh * a.T;
    const bool tap = MODE == APPLY && (a.scores || a.probs);
    float *raw = MODE == APPLY && a.scores ? a.scores + bh * a.T * a.T : NULL;
    float *probs = MODE == APPLY && a.probs ? a.probs + bh * a.T * a.T : NULL;

    int end = visible_keys(a, mask, part);
    if (a.causal) end = min(end, at.q0 + ATTENTION_ROWS);
    if (tap) end = a.T; // hidden keys, too

    const bool one = a.f.kind == OHT_SOFTMAX1;
    float o[DP / 8][4], m[2], l[2];
    clear(o);
#pragma unroll
    for (int y = 0; y < 2; y++) {
        m[y] = one ? 0.0f : -INFINITY;
        l[y] = one && t == 0 ? 1.0f : 0.0f;
        if (MODE == APPLY) m[y] = i0 + g + 8 * y < a.T ? rows[i0 + g + 8 * y] : 0.0f;
    }

    load_tile<T, DP, ATTENTION_ROWS>(sq, q, at.q0, a.T, a.D, 3 * a.C, a.vectors);
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
        int64_t first = ((int64_t)at.h * a.T + i0) * a.T + k0;
        uint16_t *mine = bits + w * 16 * (KEYS + 8);
        if (a.drop.threshold) draw_rows(mine, KEYS + 8, a.drop, (uint32_t)at.b, first, a.T, 16, KEYS, lane, WARP);
        __syncthreads();

        float s[N][4];
        fwd_scores<T, DP, N, MODE == ONLINE>(s, a, mask, sq + 16 * w * LD, sk + turn_of * KEYS * LD, i0, k0, raw);
        if (MODE == ONLINE) {
#pragma unroll
            for (int y = 0; y < 2; y++) {
                float top = -INFINITY;
#pragma unroll
                for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(s[n][2 * y], s[n][2 * y + 1]));
                float next = fmaxf(m[y], quad_max(top));
                float shrink = next == -INFINITY ? 1.0f : exp_for<T>(m[y] - next), base = next == -INFINITY ? 0.0f : next;
                m[y] = next;
                l[y] *= shrink;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 2 * y; e < 2 * y + 2; e++) {
                        s[n][e] = exp_for<T>(s[n][e] - base);
                        l[y] += s[n][e];
                    }
#pragma unroll
                for (int n = 0; n < DP / 8; n++) o[n][2 * y] *= shrink, o[n][2 * y + 1] *= shrink;
            }
        } else {
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int i = i0 + g + 8 * (e >> 1), j = k0 + 8 * n + 2 * t + (e & 1);
                    float p = s[n][e] == -INFINITY ? 0.0f : row_value<T>(a.f, s[n][e], m[e >> 1]);
                    if (probs && i < a.T && j < a.T) probs[(size_t)i * a.T + j] = p;
                    if (a.quantize_probs && visible(a, mask, i, j)) p = quantized(p, a.probs_q);
                    s[n][e] = p;
                }
        }
        if (a.drop.threshold) {
#pragma unroll
            for (int y = 0; y < 2; y++) {
                int r = g + 8 * y;
                const uint16_t *of_row = mine + r * (KEYS + 8) + (int)((first + (int64_t)r * a.T) % 8) + 2 * t;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        if (of_row[8 * n + e] < a.drop.threshold) s[n][2 * y + e] = 0.0f;
            }
        }
        product_columns<T, DP, N>(o, s, sv + turn_of * KEYS * LD, stage + w * turn<T, N>::FLOATS);
        __syncthreads();
    }
    gpu_copy_wait<0>();

#pragma unroll
    for (int y = 0; y < 2; y++) {
        int i = i0 + g + 8 * y;
        float scale = a.drop.scale;
        if (MODE == ONLINE) {
            l[y] = quad_sum(l[y]);
            scale *= l[y] == 0.0f ? 0.0f : 1.0f / l[y];
        }
        if (i >= a.T) continue;
        if (MODE == ONLINE && t == 0) rows[i] = l[y] == 0.0f ? 0.0f : m[y] + logf(l[y]);
        store_row<T, DP>(out + ((size_t)at.b * a.T + i) * a.C + at.h * a.D, o, y, scale, a.D, false);
    }
}

// ---- the row's normaliser or threshold alone ----

template <class T, int DP>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_row_kernel(const T *__restrict__ qkv, float *__restrict__ row, attention_problem a) {
    typedef tile<T, DP> tl;
    const int KEYS = tl::KEYS, N = KEYS / 8, LD = tl::LD;
    OHT_DYN_SHARED(unsigned char, shared);
    OHT_SHARED(int, part, 4);
    T *sq = (T *)shared, *sk = sq + ATTENTION_ROWS * LD;
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const fwd_place at = place_of(a);
    const int i0 = at.q0 + 16 * w;
    const uint8_t *mask = a.mask ? a.mask + (size_t)at.b * a.T : NULL;
    const T *q = qkv + (size_t)at.b * a.T * 3 * a.C + at.h * a.D, *k = q + a.C;
    int end = visible_keys(a, mask, part);
    if (a.causal) end = min(end, at.q0 + ATTENTION_ROWS);

    const bool soft = a.f.kind == OHT_SOFTMAX || a.f.kind == OHT_SOFTMAX1, one = a.f.kind == OHT_SOFTMAX1;
    const float half = a.f.kind == OHT_ENTMAX15 ? 0.5f : 1.0f;
    float top[2], tau[2] = {-1.0f, -1.0f}, l[2];
    bool busy[2] = {true, true};
#pragma unroll
    for (int y = 0; y < 2; y++) top[y] = one ? 0.0f : -INFINITY, l[y] = one && t == 0 ? 1.0f : 0.0f;

    load_tile<T, DP, ATTENTION_ROWS>(sq, q, at.q0, a.T, a.D, 3 * a.C, a.vectors);
    gpu_copy_commit();
    for (int sweep = 0; sweep <= (soft ? 0 : NEWTON); sweep++) { // sweep 0: the maximum (and the sum of the soft forms)
        float sum[2] = {0.0f, 0.0f}, more[2] = {0.0f, 0.0f};
        if (end > 0) load_tile<T, DP, KEYS>(sk, k, 0, a.T, a.D, 3 * a.C, a.vectors);
        gpu_copy_commit();
        for (int k0 = 0, turn_of = 0; k0 < end; k0 += KEYS, turn_of ^= 1) {
            if (k0 + KEYS < end)
                load_tile<T, DP, KEYS>(sk + (turn_of ^ 1) * KEYS * LD, k, k0 + KEYS, a.T, a.D, 3 * a.C, a.vectors);
            gpu_copy_commit();
            gpu_copy_wait<1>();
            __syncthreads();
            float s[N][4];
            fwd_scores<T, DP, N, false>(s, a, mask, sq + 16 * w * LD, sk + turn_of * KEYS * LD, i0, k0, NULL);
#pragma unroll
            for (int y = 0; y < 2; y++) {
                if (sweep == 0) {
                    float high = -INFINITY;
#pragma unroll
                    for (int n = 0; n < N; n++) high = fmaxf(high, fmaxf(s[n][2 * y], s[n][2 * y + 1]));
                    float next = fmaxf(top[y], quad_max(high));
                    float shrink = next == -INFINITY ? 1.0f : exp_for<T>(top[y] - next), base = next == -INFINITY ? 0.0f : next;
                    top[y] = next;
                    if (!soft) continue;
                    l[y] *= shrink;
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int e = 2 * y; e < 2 * y + 2; e++) l[y] += exp_for<T>(s[n][e] - base);
                    continue;
                }
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 2 * y; e < 2 * y + 2; e++) {
                        float z = half * (s[n][e] - top[y]), r = positive(z - tau[y]);
                        bool entmax = a.f.kind == OHT_ENTMAX15;
                        sum[y] += entmax ? r : z > tau[y] ? z : 0.0f;
                        more[y] += entmax ? r * r : z > tau[y] ? 1.0f : 0.0f;
                    }
            }
            __syncthreads();
        }
        if (soft) break;
        int left = 0; // rows of this warp still on their way
#pragma unroll
        for (int y = 0; y < 2; y++) {
            if (sweep == 0) {
                busy[y] = top[y] != -INFINITY && i0 + g + 8 * y < a.T; // no visible key: done
            } else {
                float s1 = quad_sum(sum[y]), s2 = quad_sum(more[y]);
                float next = a.f.kind == OHT_ENTMAX15 ? tau[y] + (s2 - 1.0f) / (2.0f * s1) : (s1 - 1.0f) / s2;
                if (busy[y] && next > tau[y])
                    tau[y] = next;
                else
                    busy[y] = false;
            }
            left |= busy[y];
        }
        left = __any_sync(ALL_LANES, left);
        if (lane == 0) part[w] = left;
        __syncthreads();
        left = part[0] | part[1] | part[2] | part[3];
        __syncthreads();
        if (!left) break;
    }
    gpu_copy_wait<0>();

#pragma unroll
    for (int y = 0; y < 2; y++) {
        int i = i0 + g + 8 * y;
        if (soft) l[y] = quad_sum(l[y]);
        float norm = soft ? (l[y] == 0.0f ? 0.0f : top[y] + logf(l[y])) : top[y] == -INFINITY ? 0.0f : half * top[y] + tau[y];
        if (i < a.T && t == 0) row[((size_t)at.b * a.H + at.h) * a.T + i] = norm;
    }
}

// ---- launch ----

template <class T, int DP, int MODE> static void run_fwd(cuda_context *ctx, const attention_problem &a, const T *qkv, T *out, float *row) {
    unsigned blocks = (unsigned)((a.T + ATTENTION_ROWS - 1) / ATTENTION_ROWS) * (unsigned)(a.B * a.H);
    size_t bytes = fwd_shared<T, DP, MODE>(a.drop.threshold != 0);
    if constexpr (MODE == ROW) {
        allow_shared(ctx, (const void *)attention_row_kernel<T, DP>, bytes);
        CUDA_LAUNCH(ctx, (attention_row_kernel<T, DP>), blocks, dim3(ATTENTION_THREADS), bytes, qkv, row, a);
    } else {
        allow_shared(ctx, (const void *)attention_fwd_kernel<T, DP, MODE>, bytes);
        CUDA_LAUNCH(ctx, (attention_fwd_kernel<T, DP, MODE>), blocks, dim3(ATTENTION_THREADS), bytes, qkv, out, row, a);
    }
}

template <class T> void attention_fwd(cuda_context *ctx, const attention_problem &a, const T *qkv, T *out, float *row) {
    if (a.B * a.H * a.T == 0) return;
    if (is_plain(a)) {
        if (a.D <= 64) return run_fwd<T, 64, ONLINE>(ctx, a, qkv, out, row);
        if (a.D <= 128) return run_fwd<T, 128, ONLINE>(ctx, a, qkv, out, row);
    } else if (a.D <= 64) {
        run_fwd<T, 64, ROW>(ctx, a, qkv, out, row);
        return run_fwd<T, 64, APPLY>(ctx, a, qkv, out, row);
    }
    attention_wide_fwd<T>(ctx, a, qkv, out, row);
}

#define INSTANCES(T)                                                                                                            \
    template void attention_fwd<T>(cuda_context *, const attention_problem &, const T *, T *, float *);
INSTANCES(float)
INSTANCES(__nv_bfloat16)
INSTANCES(__half)
