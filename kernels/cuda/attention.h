// What the attention kernels share: the problem, tiles in shared memory, the two products, and the row functions f by element
// (kernels/cpu/association.c has the formulas). A block of four warps owns 64 rows (queries, or keys in one half of the
// backward), 16 a warp, and walks over tiles of the other side. Accumulators have the layout of gpu.h, for every storage
// type: 16-bit types multiply on tensor cores, float by plain FMA in the same layout.
#pragma once

#include "cuda/draw.h"
#include "oht/backend.h"

enum { ATTENTION_THREADS = 128, ATTENTION_ROWS = 64 };

// The row function.
struct row_function {
    int kind; // oht_assoc_kind
    bool clipped;
    float gamma, span; // y = clip(span p + gamma, 0, 1)
};

static inline row_function make_row_function(const oht_assoc_spec *f) {
    row_function r = {(int)f->kind, f->clipped, (float)f->gamma, (float)(f->zeta - f->gamma)};
    return r;
}

struct attention_problem {
    int B, T, C, H, D;
    float beta;
    bool causal;
    bool vectors;        // rows of heads are aligned: 16 bytes at a time
    const uint8_t *mask; // (B,T) or NULL
    row_function f;
    draws drop;
    bool quantize_scores, quantize_probs;
    quantizer scores_q, probs_q;
    float *scores, *probs; // taps, (B,H,T,T), or NULL
};

// ---- tiles ----

// Two numbers as one operand of a tensor-core product.
__device__ __forceinline__ uint32_t pack_halves(float lo, float hi, const __nv_bfloat16 *) {
    __nv_bfloat162 t = __floats2bfloat162_rn(lo, hi);
    uint32_t u;
    memcpy(&u, &t, 4);
    return u;
}
__device__ __forceinline__ uint32_t pack_halves(float lo, float hi, const __half *) {
    __half2 t = __floats2half2_rn(lo, hi);
    uint32_t u;
    memcpy(&u, &t, 4);
    return u;
}

// SMALL: of kernels whose work on each element is long, so that they need fewer registers.
template <class T, int DP, bool SMALL = false> struct tile {
    enum {
        LD = DP + 16 / (int)sizeof(T),               // row length in shared memory: ldmatrix and float4 without bank conflicts
        KEYS = sizeof(T) == 4 || SMALL ? 32 : 64,    // keys a step of the kernels whose rows are queries
        QUERIES = DP > 80 ? 16 : sizeof(T) == 4 || SMALL ? 32 : 64, // queries a step of the kernel whose rows are keys
    };
};
// Floats a warp needs to turn accumulators into factors of a product by FMA.
template <class T, int N> struct turn {
    enum { LD = 8 * N + 4, FLOATS = sizeof(T) == 4 ? 16 * LD : 0 };
};

// dst (ROWS, LD) = rows r0 .. of src, zero beyond n rows and D columns.
template <class T, int DP, int ROWS>
__device__ __forceinline__ void load_tile(T *dst, const T *__restrict__ src, int r0, int n, int D, int ld,
                                          bool vectors) {
    const int LD = tile<T, DP>::LD, V = 16 / (int)sizeof(T);
    if (vectors) {
        for (int i = threadIdx.x; i < ROWS * (DP / V); i += ATTENTION_THREADS) {
            int r = i / (DP / V), c = i % (DP / V) * V;
            bool real = r0 + r < n && c < D;
            gpu_copy_async16(dst + r * LD + c, real ? src + (size_t)(r0 + r) * ld + c : src, real);
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * DP; i += ATTENTION_THREADS) {
            int r = i / DP, c = i % DP;
            dst[r * LD + c] = r0 + r < n && c < D ? src[(size_t)(r0 + r) * ld + c] : (T)0.0f;
        }
    }
}

// s (16 x 8N) = rows a (this warp's 16) times rows b (8N), both (., DP) in shared memory.
template <class T, int DP, int N> __device__ __forceinline__ void product_rows(float (&s)[N][4], const T *a, const T *b) {
    const int LD = tile<T, DP>::LD, lane = threadIdx.x & 31;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] = 0.0f;
    if constexpr (sizeof(T) == 4) {
        const int g = lane >> 2, t = lane & 3;
#pragma unroll 2
        for (int d = 0; d < DP; d += 4) {
            float4 x = *(const float4 *)(a + g * LD + d), y = *(const float4 *)(a + (g + 8) * LD + d);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float4 z = *(const float4 *)(b + (8 * n + 2 * t + e) * LD + d);
                    s[n][e] = fmaf(x.w, z.w, fmaf(x.z, z.z, fmaf(x.y, z.y, fmaf(x.x, z.x, s[n][e]))));
                    s[n][2 + e] = fmaf(y.w, z.w, fmaf(y.z, z.z, fmaf(y.y, z.y, fmaf(y.x, z.x, s[n][2 + e]))));
                }
        }
    } else {
        const T *ap = a + (lane & 15) * LD + (lane >> 4) * 8;
        const T *bp = b + ((lane & 7) + ((lane >> 4) & 1) * 8) * LD + ((lane >> 3) & 1) * 8;
#pragma unroll
        for (int d = 0; d < DP; d += 16) {
            uint32_t fa[4];
            gpu_ldmatrix4<false>(fa, ap + d);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t fb[4];
                gpu_ldmatrix4<false>(fb, bp + 8 * n * LD + d);
                gpu_mma<T>(s[n], fa, fb);
                gpu_mma<T>(s[n + 1], fa, fb + 2);
            }
        }
    }
}

// o (16 x DP) += p (16 x 8N, accumulators) times b (8N rows of DP in shared memory). stage: this warp's, turn<T, N>::FLOATS.
template <class T, int DP, int N>
__device__ __forceinline__ void product_columns(float (&o)[DP / 8][4], const float (&p)[N][4], const T *b,
                                                [[maybe_unused]] float *stage) {
    const int LD = tile<T, DP>::LD, lane = threadIdx.x & 31;
    if constexpr (sizeof(T) == 4) {
        const int g = lane >> 2, t = lane & 3, W = turn<T, N>::LD;
        __syncwarp();
#pragma unroll
        for (int n = 0; n < N; n++) {
            *(float2 *)(stage + g * W + 8 * n + 2 * t) = make_float2(p[n][0], p[n][1]);
            *(float2 *)(stage + (g + 8) * W + 8 * n + 2 * t) = make_float2(p[n][2], p[n][3]);
        }
        __syncwarp();
#pragma unroll 4
        for (int j = 0; j < 8 * N; j++) {
            float x = stage[g * W + j], y = stage[(g + 8) * W + j];
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                float2 z = *(const float2 *)(b + j * LD + 8 * n + 2 * t);
                o[n][0] = fmaf(x, z.x, o[n][0]), o[n][1] = fmaf(x, z.y, o[n][1]);
                o[n][2] = fmaf(y, z.x, o[n][2]), o[n][3] = fmaf(y, z.y, o[n][3]);
            }
        }
    } else {
        const T *bp = b + ((lane & 7) + ((lane >> 3) & 1) * 8) * LD + ((lane >> 4) & 1) * 8;
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            const uint32_t fa[4] = {pack_halves(p[2 * k][0], p[2 * k][1], (T *)0), pack_halves(p[2 * k][2], p[2 * k][3], (T *)0),
                                    pack_halves(p[2 * k + 1][0], p[2 * k + 1][1], (T *)0),
                                    pack_halves(p[2 * k + 1][2], p[2 * k + 1][3], (T *)0)};
#pragma unroll
            for (int n = 0; n < DP / 8; n += 2) {
                uint32_t fb[4];
                gpu_ldmatrix4<true>(fb, bp + 16 * k * LD + 8 * n);
                gpu_mma<T>(o[n], fa, fb);
                gpu_mma<T>(o[n + 1], fa, fb + 2);
            }
        }
    }
}

template <int N> __device__ __forceinline__ void clear(float (&o)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] = 0.0f;
}

// Writes row g or g + 8 of an accumulator, scaled, to dst[0 .. D).
template <class T, int DP>
__device__ __forceinline__ void store_row(T *dst, const float (&o)[DP / 8][4], int half, float scale, int D, bool add) {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int n = 0; n < DP / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int c = 8 * n + 2 * t + e;
            if (c < D) store(dst + c, o[n][2 * half + e] * scale, add);
        }
}

// Sum and maximum over the four lanes that share a row.
__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(ALL_LANES, v, 1);
    return v + __shfl_xor_sync(ALL_LANES, v, 2);
}
__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 1));
    return fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 2));
}

// ---- who sees whom ----

__device__ __forceinline__ bool visible(const attention_problem &a, const uint8_t *mask, int i, int j) {
    return i < a.T && j < a.T && (!a.causal || j <= i) && (!mask || mask[j]);
}
// Some pair of queries i0 .. i0 + ni - 1 and keys j0 .. j0 + nj - 1 may be hidden.
__device__ __forceinline__ bool has_hidden_pairs(const attention_problem &a, int i0, int ni, int j0, int nj) {
    return a.mask || i0 + ni > a.T || j0 + nj > a.T || (a.causal && j0 + nj - 1 > i0);
}
// Keys any query of the sample may see lie in 0 .. result - 1. All threads call it; part: shared, one int a warp.
__device__ __forceinline__ int visible_keys(const attention_problem &a, const uint8_t *mask, int *part) {
    if (!mask) return a.T;
    int end = 0;
    for (int j = threadIdx.x; j < a.T; j += ATTENTION_THREADS)
        if (mask[j]) end = j + 1;
#pragma unroll
    for (int o = 16; o; o >>= 1) end = max(end, __shfl_xor_sync(ALL_LANES, end, o));
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = end;
    __syncthreads();
    end = max(max(part[0], part[1]), max(part[2], part[3]));
    __syncthreads();
    return end;
}

// ---- row functions by element, given the row's normaliser or threshold ----

__device__ __forceinline__ float positive(float x) { // NaN stays
    return x < 0.0f ? 0.0f : x;
}
__device__ __forceinline__ float clipped(const row_function &f, float p) {
    float y = fmaf(f.span, p, f.gamma);
    y = y < 0.0f ? 0.0f : y;
    return y > 1.0f ? 1.0f : y;
}
template <class T> __device__ __forceinline__ float row_value(const row_function &f, float s, float norm) {
    float r;
    switch (f.kind) {
    case OHT_SPARSEMAX:
        return positive(s - norm);
    case OHT_ENTMAX15:
        r = positive(0.5f * s - norm);
        return r * r;
    default:
        r = exp_for<T>(s - norm);
        return f.clipped ? clipped(f, r) : r;
    }
}

// Backward of the forms that need two sums over the row first, g = dropped d loss / d p (kernels/cpu/association.c):
//   clipped    e = exp(s - norm), p = e / sum e:  g' = span g inside the clip, ds = p (g' - sum g' p)
//   sparsemax  weight 1 on the support:           ds = g - mean g           entmax15  weight r = sqrt p:  ds = r (g - sum r g / sum r)
// *r: e, p or r of one element; g becomes g'. Returns its weight. Selections instead of branches: this is unrolled many times.
template <class T> __device__ __forceinline__ float row_weight(const row_function &f, float s, float norm, float *r, float *g) {
    const bool sparse = f.kind == OHT_SPARSEMAX, soft = !sparse && f.kind != OHT_ENTMAX15;
    const float e = exp_for<T>(s - norm), z = positive((sparse ? s : 0.5f * s) - norm), y = fmaf(f.span, e, f.gamma);
    *r = soft ? e : z;
    *g = !soft ? *g : y >= 0.0f && y <= 1.0f ? f.span * *g : 0.0f; // the bounds pass the gradient
    return sparse ? (z > 0.0f ? 1.0f : 0.0f) : *r;
}

// Drop(p) and dS of one visible pair. keep: the factor of dropout, 0 or scale. D, inverse: the row's sums (attention_bwd.cu).
template <class T, bool IS_PLAIN>
__device__ __forceinline__ void gradient(const row_function &f, float s, float g, float keep, float norm, float D, float inverse,
                                         float *p, float *ds) {
    g *= keep;
    if (IS_PLAIN) {
        float e = exp_for<T>(s - norm);
        *p = e * keep;
        *ds = e * (g - D);
        return;
    }
    const bool sparse = f.kind == OHT_SPARSEMAX, soft = !sparse && f.kind != OHT_ENTMAX15;
    float r, weight = row_weight<T>(f, s, norm, &r, &g);
    *p = (soft ? clipped(f, r * inverse) : sparse ? r : r * r) * keep;
    *ds = (soft ? weight * inverse : weight) * (g - D);
}
