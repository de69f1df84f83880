// Functions of one float that GCC vectorises inside `#pragma omp simd` loops: no branches, no calls, no
// tables.
//
//   exp:   x = n ln2 + r, |r| <= ln2/2; e^r by a polynomial of degree 6 (error 1e-8 before rounding), times
//   2^n in two
//          factors, so that results below FLT_MIN are right and overflow gives inf. NaN stays NaN. At most 2
//          ulp.
//   Phi:   normal distribution function for GELU: Phi(-t) = exp(-t^2/2) (1/2 + w S(w)), w = 0.35 t / (1 +
//   0.35 t), S a
//          polynomial of degree 7 interpolated on 0 <= t <= 14 (error 2e-8 before rounding); the other side
//          by symmetry. Absolute error < 1.5e-7.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float float_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint32_t bits_of_float(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float vexpf(float x) {
    const float round = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = x > 89.0f ? 89.0f : x; // both comparisons are false for NaN, which passes through
    x = x < -105.0f ? -105.0f : x;
    float t = fmaf(x, 1.44269504f, round);
    int32_t n = (int32_t)(bits_of_float(t) - bits_of_float(round));
    float nf = t - round;
    float r = fmaf(nf, -0.693145752f, x); // ln2 in two parts: 16 bits, exact for |n| < 256 ...
    r = fmaf(nf, -1.42860677e-6f, r); // ... and the rest
    float q = fmaf(1.39262034e-3f, r, 8.36319488e-3f);
    q = fmaf(q, r, 4.16665545e-2f);
    q = fmaf(q, r, 1.66665769e-1f);
    q = fmaf(q, r, 0.5f);
    q = fmaf(q, r * r, r) + 1.0f;
    int32_t half = n >> 1;
    return q * float_of_bits((uint32_t)(half + 127) << 23) * float_of_bits((uint32_t)(n - half + 127) << 23);
}

static inline float vsigmoidf(float x) {
    return 1.0f / (1.0f + vexpf(-x));
}

// Phi(x); *gauss = exp(-x^2/2), which the derivative of GELU needs as well.
static inline float vnormal_cdf(float x, float *gauss) {
    float t = fabsf(x);
    float e = vexpf(-0.5f * t * t);
    float c = 0.35f * t, w = c / (1.0f + c);
    float q = fmaf(-0.0177395206f, w, 0.0101326221f);
    q = fmaf(q, w, 0.0603936761f);
    q = fmaf(q, w, 0.000990097321f);
    q = fmaf(q, w, -0.154974428f);
    q = fmaf(q, w, -0.160054853f);
    q = fmaf(q, w, 0.900992080f);
    q = fmaf(q, w, -1.13983516f);
    q = fmaf(q, w, 0.5f);
    float tail = e * q; // Phi(-t)
    *gauss = e;
    return x > 0.0f ? 1.0f - tail : tail;
}

static inline float vgeluf(float x) {
    float e;
    return x * vnormal_cdf(x, &e);
}

// d gelu / dx = Phi(x) + x phi(x)
static inline float vgelu_gradf(float x) {
    float e;
    float cdf = vnormal_cdf(x, &e);
    return fmaf(x * 0.398942280f, e, cdf);
}
