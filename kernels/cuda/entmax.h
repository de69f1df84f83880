// Row functions of short rows on one warp, the row in shared memory, and alpha-entmax by bisection with its gradients: the
// equations and reasons stand in kernels/cpu/association.c and kernels/cpu/entmax.c, whose steps these follow. All lanes of
// the warp call them with the same arguments; the row is visible to all lanes before and after.
#pragma once

#include "cuda/attention.h"

enum { ROW_NEWTON = 64, HALVINGS = 26, HALVINGS_DOUBLE = 60 };

// Maximum that keeps a NaN, as entmax needs; -inf when n is 0.
__device__ __forceinline__ float warp_row_max(const float *s, int n) {
    float m = -INFINITY;
    for (int j = threadIdx.x & 31; j < n; j += WARP) m = fmaxf(m, s[j]);
    return warp_max(m);
}

// s: n scores, overwritten by f(s) before any clip. Returns the row's normaliser or threshold (association.h).
__device__ __forceinline__ float warp_association_row(int kind, float *s, int n) {
    const int lane = threadIdx.x & 31;
    float top = warp_row_max(s, n), tau = -1.0f, sum = 0.0f;
    if (kind == OHT_SOFTMAX1) top = fmaxf(top, 0.0f);
    if (top == -INFINITY) { // no visible key; a NaN stays
        for (int j = lane; j < n; j += WARP) s[j] = s[j] == s[j] ? 0.0f : s[j];
        __syncwarp();
        return 0.0f;
    }
    if (kind == OHT_SOFTMAX || kind == OHT_SOFTMAX1) {
        for (int j = lane; j < n; j += WARP) {
            s[j] = expf(s[j] - top);
            sum += s[j];
        }
        sum = warp_sum(sum);
        if (kind == OHT_SOFTMAX1) sum += expf(-top);
        float inverse = 1.0f / sum;
        for (int j = lane; j < n; j += WARP) s[j] *= inverse;
        __syncwarp();
        return top + logf(sum);
    }
    for (int step = 0; step < ROW_NEWTON; step++) {
        float a = 0.0f, b = 0.0f, next;
        for (int j = lane; j < n; j += WARP)
            if (kind == OHT_SPARSEMAX) {
                float z = s[j] - top;
                a += z > tau ? z : 0.0f;
                b += z > tau ? 1.0f : 0.0f;
            } else {
                float r = positive(0.5f * (s[j] - top) - tau);
                a += r;
                b += r * r;
            }
        a = warp_sum(a);
        b = warp_sum(b);
        next = kind == OHT_SPARSEMAX ? (a - 1.0f) / b : tau + (b - 1.0f) / (2.0f * a);
        if (!(next > tau)) break;
        tau = next;
    }
    for (int j = lane; j < n; j += WARP) {
        float r = kind == OHT_SPARSEMAX ? positive(s[j] - top - tau) : positive(0.5f * (s[j] - top) - tau);
        s[j] = kind == OHT_SPARSEMAX ? r : r * r;
    }
    __syncwarp();
    return kind == OHT_SPARSEMAX ? top + tau : 0.5f * top + tau;
}

// p: f(s) before any clip; g: d loss / d (clipped) p, overwritten by d loss / d s.
__device__ __forceinline__ void warp_association_row_bwd(const row_function &f, const float *p, float *g, int n) {
    const int lane = threadIdx.x & 31;
    float dot = 0.0f, sum = 0.0f;
    for (int j = lane; j < n; j += WARP) {
        if (f.clipped) {
            float y = fmaf(f.span, p[j], f.gamma);
            g[j] = y >= 0.0f && y <= 1.0f ? f.span * g[j] : 0.0f; // the bounds pass the gradient
        }
        float weight = f.kind == OHT_SPARSEMAX ? (p[j] > 0.0f ? 1.0f : 0.0f) : f.kind == OHT_ENTMAX15 ? sqrtf(p[j]) : p[j];
        sum += weight;
        dot += weight * g[j];
    }
    dot = warp_sum(dot);
    sum = warp_sum(sum);
    if (f.kind == OHT_SPARSEMAX || f.kind == OHT_ENTMAX15) dot = sum > 0.0f ? dot / sum : 0.0f;
    for (int j = lane; j < n; j += WARP) {
        float weight = f.kind == OHT_SPARSEMAX ? (p[j] > 0.0f ? 1.0f : 0.0f) : f.kind == OHT_ENTMAX15 ? sqrtf(p[j]) : p[j];
        g[j] = weight * (g[j] - dot);
        if (f.kind == OHT_SPARSEMAX && !(p[j] > 0.0f)) g[j] = 0.0f;
    }
    __syncwarp();
}

// ---- alpha-entmax ----

__device__ __forceinline__ float entmax_power(float z, float tau, float power) {
    float t = z - tau;
    return t > 1e-30f ? expf(power * logf(t)) : 0.0f;
}
__device__ __forceinline__ double entmax_power(double z, double tau, double power) {
    return z > tau ? exp(power * log(z - tau)) : 0.0;
}

// F: float, or double where alpha is near 1 and the power is large.
template <class F> __device__ __forceinline__ void entmax_bisect(float *s, int n, float top, F d, int halvings) {
    const int lane = threadIdx.x & 31;
    F power = (F)1 / d, low = (F)-1, width = (F)1 - pow((F)n, -d), sum;
    for (int i = 0; i < halvings; i++) {
        width *= (F)0.5;
        sum = 0;
        for (int j = lane; j < n; j += WARP) sum += entmax_power(d * ((F)s[j] - (F)top), low + width, power);
        if (warp_sum(sum) >= (F)1) low += width;
    }
    sum = 0;
    for (int j = lane; j < n; j += WARP) sum += entmax_power(d * ((F)s[j] - (F)top), low, power);
    sum = warp_sum(sum); // at low it is >= 1, never 0
    for (int j = lane; j < n; j += WARP) s[j] = (float)(entmax_power(d * ((F)s[j] - (F)top), low, power) / sum);
    __syncwarp();
}

__device__ __forceinline__ void warp_entmax_row(float *s, int n, double alpha) {
    const int lane = threadIdx.x & 31;
    float top = warp_row_max(s, n);
    int bad = !(fabsf(top) < INFINITY);
    for (int j = lane; j < n; j += WARP) bad |= s[j] != s[j];
    if (__any_sync(ALL_LANES, bad)) { // not a number anywhere: so is the row
        for (int j = lane; j < n; j += WARP) s[j] = NAN;
        __syncwarp();
        return;
    }
    double d = alpha - 1.0;
    if (!(d >= 1e-7)) { // softmax
        double sum = 0.0;
        for (int j = lane; j < n; j += WARP) sum += exp((double)s[j] - top);
        sum = warp_sum(sum);
        for (int j = lane; j < n; j += WARP) s[j] = (float)(exp((double)s[j] - top) / sum);
        __syncwarp();
    } else if (d < 0.05) {
        entmax_bisect<double>(s, n, top, d, HALVINGS_DOUBLE);
    } else {
        entmax_bisect<float>(s, n, top, (float)d, HALVINGS);
    }
}

// g: d loss / d p, overwritten by d loss / d s. Returns d loss / d alpha of this row, in all lanes.
__device__ __forceinline__ double warp_entmax_row_bwd(const float *p, float *g, int n, double alpha) {
    const double d = alpha - 1.0, TINY = 1e-12, LIMIT = 1e-3;
    const int lane = threadIdx.x & 31;
    double sum_s = 0.0, sum_sg = 0.0, sum_h = 0.0, largest = 0.0, dalpha = 0.0;
    int top = n;
    for (int j = lane; j < n; j += WARP) {
        if (!(p[j] > TINY)) continue;
        double l = log((double)p[j]), s = exp((1.0 - d) * l);
        sum_s += s;
        sum_sg += s * g[j];
        sum_h += p[j] * l;
        if (s > largest) largest = s, top = j;
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) { // the largest, the first on ties
        double other = __shfl_xor_sync(ALL_LANES, largest, o);
        int where = __shfl_xor_sync(ALL_LANES, top, o);
        if (other > largest || (other == largest && where < top)) largest = other, top = where;
    }
    if (top == n) { // a row without support (NaN): nothing to pass on but that
        for (int j = lane; j < n; j += WARP) g[j] = p[j] != p[j] ? NAN : 0.0f;
        __syncwarp();
        return 0.0;
    }
    sum_s = warp_sum(sum_s);
    sum_sg = warp_sum(sum_sg);
    sum_h = warp_sum(sum_h);
    double rest_s = 0.0, rest_sg = 0.0, square = 0.0; // the others' sums apart: a difference would lose them
    for (int j = lane; j < n; j += WARP) {
        if (!(p[j] > TINY)) continue;
        double l = log((double)p[j]), s = exp((1.0 - d) * l);
        square += p[j] * l * l;
        if (j == top) continue;
        rest_s += s;
        rest_sg += s * g[j];
    }
    rest_s = warp_sum(rest_s);
    rest_sg = warp_sum(rest_sg);
    square = warp_sum(square);
    const double mean = sum_sg / sum_s;
    for (int j = lane; j < n; j += WARP) {
        if (!(p[j] > TINY)) { // its ln counts as 0
            if (d < LIMIT) dalpha += 0.5 * g[j] * p[j] * square;
            g[j] = 0.0f;
            continue;
        }
        double l = log((double)p[j]), s = exp((1.0 - d) * l), w = s / sum_s;
        if (d >= LIMIT)
            dalpha += g[j] * ((p[j] - w) / (d * d) - (p[j] * l - w * sum_h) / d);
        else
            dalpha += 0.5 * g[j] * p[j] * (square - l * l);
        double away = j != top ? g[j] - mean : rest_s > 0.0 ? rest_s / sum_s * (g[j] - rest_sg / rest_s) : 0.0;
        g[j] = (float)(s * away);
    }
    __syncwarp();
    return warp_sum(dalpha);
}
