// Row functions of attention and their derivatives (association.h).
//
//   softmax     p = exp(s - L), L = m + log sum exp(s - m), m = max s           ds = p (g - sum g p)
//   softmax_1   the same with L = m + log(exp(-m) + sum exp(s - m)), m = max(0, max s):
//               nothing overflows, sum p < 1
//   clipped     y = clip((zeta - gamma) p + gamma, 0, 1) of either
//               as above with g (zeta - gamma) where 0 <= . <= 1
//   sparsemax   p = max(s - tau, 0), sum p = 1          ds = g - mean of g over the support
//   entmax15    p = max(s/2 - tau, 0)^2, sum p = 1      ds = r (g - sum r g / sum r), r = sqrt p
//
// tau without sorting: F(tau) = sum of p - 1 is convex and decreasing, so Newton's method from the left of
// the root (tau = max - 1, where F >= 0) rises to it without overshooting; sparsemax arrives in finitely many
// steps.
#include "cpu/association.h"

#include "cpu/vmath.h"

enum { NEWTON = 64 }; // steps at most; some 5 to 12 are needed

static float row_max(const float *s, int64_t n) {
    float m = -INFINITY;
#pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < n; j++) m = s[j] > m ? s[j] : m;
    return m;
}

// A row without visible keys; a NaN among the scores stays, so that it is noticed.
static void row_zero(float *s, int64_t n) {
    for (int64_t j = 0; j < n; j++) s[j] = isnan(s[j]) ? s[j] : 0.0f;
}

static inline float clip_bwd(float g, float p, float gamma, float span) {
    float y = fmaf(span, p, gamma);
    return (y >= 0.0f) & (y <= 1.0f) ? span * g : 0.0f; // the bounds pass the gradient
}

static inline float clip(float p, float gamma, float span) {
    float y = fmaf(span, p, gamma);
    y = y < 0.0f ? 0.0f : y;
    return y > 1.0f ? 1.0f : y;
}

static float softmax_row(const oht_assoc_spec *f, float *s, int64_t n) {
    float m = row_max(s, n), sum = 0.0f;
    if (f->kind == OHT_SOFTMAX1) m = m > 0.0f ? m : 0.0f;
    if (f->clipped) { // the clip needs the normaliser first, and the scores to tell masked keys
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < n; j++) sum += vexpf(s[j] - m);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < n; j++) {
            s[j] = vexpf(s[j] - m);
            sum += s[j];
        }
    }
    if (f->kind == OHT_SOFTMAX1) sum += expf(-m);
    float norm = m + logf(sum), inverse = 1.0f / sum;
    if (f->clipped) {
        float gamma = (float)f->gamma, span = (float)(f->zeta - f->gamma);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float y = clip(vexpf(s[j] - m) * inverse, gamma, span);
            s[j] = s[j] == -INFINITY ? 0.0f : y;
        }
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) s[j] *= inverse;
    }
    return norm;
}

static float sparsemax_row(float *s, int64_t n, float max) {
    float tau = -1.0f; // relative to max
    for (int step = 0; step < NEWTON; step++) {
        float sum = 0.0f, count = 0.0f;
#pragma omp simd reduction(+ : sum, count)
        for (int64_t j = 0; j < n; j++) {
            float z = s[j] - max;
            sum += z > tau ? z : 0.0f;
            count += z > tau ? 1.0f : 0.0f;
        }
        float next = (sum - 1.0f) / count;
        if (!(next > tau)) break;
        tau = next;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float p = s[j] - max - tau;
        s[j] = p < 0.0f ? 0.0f : p;
    }
    return max + tau;
}

static float entmax15_row(float *s, int64_t n, float max) {
    float tau = -1.0f; // z = (s - max) / 2, p = max(z - tau, 0)^2
    for (int step = 0; step < NEWTON; step++) {
        float r1 = 0.0f, r2 = 0.0f;
#pragma omp simd reduction(+ : r1, r2)
        for (int64_t j = 0; j < n; j++) {
            float r = 0.5f * (s[j] - max) - tau;
            r = r < 0.0f ? 0.0f : r;
            r1 += r;
            r2 += r * r;
        }
        float next = tau + (r2 - 1.0f) / (2.0f * r1);
        if (!(next > tau)) break;
        tau = next;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float r = 0.5f * (s[j] - max) - tau;
        r = r < 0.0f ? 0.0f : r;
        s[j] = r * r;
    }
    return 0.5f * max + tau;
}

float association_row(const oht_assoc_spec *f, float *s, int64_t n) {
    bool softmax1 = f->kind == OHT_SOFTMAX1;
    float max = softmax1 ? 0.0f : row_max(s, n);
    if (n == 0 || max == -INFINITY) { // no visible key
        row_zero(s, n);
        return 0.0f;
    }
    switch (f->kind) {
    case OHT_SOFTMAX:
    case OHT_SOFTMAX1:
        return softmax_row(f, s, n);
    case OHT_SPARSEMAX:
        return sparsemax_row(s, n, max);
    case OHT_ENTMAX15:
        return entmax15_row(s, n, max);
    }
    return 0.0f;
}

// Factor of element j under dropout.
static inline float kept(association_drop d, int64_t j) {
    return d.bits[j] < d.threshold ? 0.0f : d.scale;
}

static void softmax_bwd(float *s, float *g, int64_t n, float norm, float dot, association_drop d) {
    if (!d.bits) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float p = vexpf(s[j] - norm);
            s[j] = p;
            g[j] = p * (g[j] - dot);
        }
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float p = vexpf(s[j] - norm), k = kept(d, j);
            s[j] = p * k;
            g[j] = p * (g[j] * k - dot);
        }
    }
}

static void drop_row(float *g, int64_t n, association_drop d) {
    if (!d.bits) return;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) g[j] *= kept(d, j);
}

void association_clip(const oht_assoc_spec *f, float *p, int64_t n) {
    const float gamma = (float)f->gamma, span = (float)(f->zeta - f->gamma);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) p[j] = clip(p[j], gamma, span);
}

// g := w (g - sum w g / sum w), and for the softmax family, whose p need not sum to 1, p (g - sum p g).
static void softmax_probs_bwd(const oht_assoc_spec *f, const float *p, float *g, int64_t n) {
    float dot = 0.0f;
    if (f->clipped) {
        const float gamma = (float)f->gamma, span = (float)(f->zeta - f->gamma);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) g[j] = clip_bwd(g[j], p[j], gamma, span);
    }
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < n; j++) dot += p[j] * g[j];
#pragma omp simd
    for (int64_t j = 0; j < n; j++) g[j] = p[j] * (g[j] - dot);
}

static inline float weight(bool sparsemax, float p) {
    return sparsemax ? (p > 0.0f ? 1.0f : 0.0f) : sqrtf(p);
}

static inline void centre(bool sparsemax, const float *p, float *g, int64_t n) {
    float sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t j = 0; j < n; j++) {
        const float w = weight(sparsemax, p[j]);
        sum += w;
        dot += w * g[j];
    }
    const float mean = sum > 0.0f ? dot / sum : 0.0f;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) g[j] = weight(sparsemax, p[j]) * (g[j] - mean);
}

void association_probs_bwd(const oht_assoc_spec *f, const float *p, float *g, int64_t n) {
    if (f->kind == OHT_SPARSEMAX)
        centre(true, p, g, n);
    else if (f->kind == OHT_ENTMAX15)
        centre(false, p, g, n);
    else
        softmax_probs_bwd(f, p, g, n);
}

// Where p is near 1 its row's gradient is a small difference, so p = exp(s - norm), good to |s| 6e-8, is
// normalised again.
static void clipped_bwd(const oht_assoc_spec *f, float *s, float *g, int64_t n, float norm) {
    float gamma = (float)f->gamma, span = (float)(f->zeta - f->gamma), dot = 0.0f, sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += vexpf(s[j] - norm);
    if (f->kind == OHT_SOFTMAX1) sum += vexpf(-norm);
    float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < n; j++) {
        float p = vexpf(s[j] - norm) * inverse;
        g[j] = clip_bwd(g[j], p, gamma, span);
        dot += g[j] * p;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float p = vexpf(s[j] - norm) * inverse, y = clip(p, gamma, span);
        g[j] = p * (g[j] - dot);
        s[j] = s[j] == -INFINITY ? 0.0f : y;
    }
}

static void sparsemax_bwd(const oht_assoc_spec *f, float *s, float *g, int64_t n, float tau) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float p = s[j] - tau;
        s[j] = p < 0.0f ? 0.0f : p;
    }
    association_probs_bwd(f, s, g, n);
}

static void entmax15_bwd(const oht_assoc_spec *f, float *s, float *g, int64_t n, float tau) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float r = 0.5f * s[j] - tau;
        s[j] = r < 0.0f ? 0.0f : r * r;
    }
    association_probs_bwd(f, s, g, n);
}

void association_row_bwd(const oht_assoc_spec *f, float *s, float *g, int64_t n, float norm, float out_dout,
                         association_drop drop) {
    if ((f->kind == OHT_SOFTMAX || f->kind == OHT_SOFTMAX1) && !f->clipped) {
        softmax_bwd(s, g, n, norm, out_dout, drop);
        return;
    }
    drop_row(g, n, drop);
    if (f->clipped)
        clipped_bwd(f, s, g, n, norm);
    else if (f->kind == OHT_SPARSEMAX)
        sparsemax_bwd(f, s, g, n, norm);
    else
        entmax15_bwd(f, s, g, n, norm);
    drop_row(s, n, drop);
}
