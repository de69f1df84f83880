// alpha-entmax by bisection, and its gradients for scores and alpha (entmax.h; spec stanhop 1.5).
//
//   forward   z = (alpha-1)(x - max x); tau lies between -1 and -n^-(alpha-1); halve, then divide by the sum. Float is enough
//             unless alpha is near 1, where the power 1/(alpha-1) is so large that double is needed.
//   backward  s = p^(2-alpha) on the support, w = s / sum s: dx = s (g - sum w g). For alpha > 2 tiny p have huge s and one of
//             them may dominate, so g_i - sum w g is formed as (1 - w_i)(g_i - mean over the others). In double.
//   alpha     sum g [(p - w)/(alpha-1)^2 - (h - w sum h)/(alpha-1)], h = p ln p; the limit below alpha - 1 = 1e-3.
#include "cpu/entmax.h"

#include <math.h>

#include "cpu/vmath.h"

enum { HALVINGS = 26, HALVINGS_DOUBLE = 60 };

static const double NEAR_ONE = 0.05; // below: double
static const double AT_ONE = 1e-7; // below: softmax
static const double LIMIT = 1e-3; // below: the limit of the derivative for alpha
static const double TINY = 1e-12; // p below is off the support

// ln x for finite x > 0: x = m 2^k with m in [sqrt 1/2, sqrt 2), ln m = 2 atanh((m-1)/(m+1)) as a series, error 2e-9.
static inline float vlogf(float x) {
    uint32_t bits = bits_of_float(x);
    uint32_t shift = bits - 0x3f3504f3u; // sqrt(1/2)
    int32_t k = (int32_t)shift >> 23;
    float m = float_of_bits((shift & 0x007fffffu) + 0x3f3504f3u);
    float u = (m - 1.0f) / (m + 1.0f), u2 = u * u;
    float q = fmaf(u2, 1.0f / 9.0f, 1.0f / 7.0f);
    q = fmaf(q, u2, 0.2f);
    q = fmaf(q, u2, 1.0f / 3.0f);
    float ln_m = 2.0f * fmaf(q * u2, u, u);
    return fmaf((float)k, 0.693147181f, ln_m);
}

// sum of max(z - tau, 0)^power, written to p when that is not NULL
static inline float powers(const float *z, float *p, int64_t n, float tau, float power) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        float t = z[j] - tau;
        float e = vexpf(power * vlogf(t > 1e-30f ? t : 1e-30f));
        e = t > 1e-30f ? e : 0.0f;
        if (p) p[j] = e;
        sum += e;
    }
    return sum;
}

static void row_float(float *s, int64_t n, float max, float d) {
    float power = 1.0f / d, low = -1.0f, width = 1.0f - powf((float)n, -d), tau = low;
    for (int64_t j = 0; j < n; j++) s[j] = d * (s[j] - max);
    for (int i = 0; i < HALVINGS; i++) {
        width *= 0.5f;
        tau = low + width;
        if (powers(s, NULL, n, tau, power) >= 1.0f) low = tau;
    }
    float sum = powers(s, s, n, low, power), inverse = 1.0f / sum; // at low the sum is >= 1, never 0
#pragma omp simd
    for (int64_t j = 0; j < n; j++) s[j] *= inverse;
}

static double power_double(double z, double tau, double power) {
    return z > tau ? exp(power * log(z - tau)) : 0.0;
}

static void row_double(float *s, int64_t n, float max, double d) {
    double power = 1.0 / d, low = -1.0, width = 1.0 - pow((double)n, -d), sum = 0.0;
    for (int i = 0; i < HALVINGS_DOUBLE; i++) {
        width *= 0.5;
        sum = 0.0;
        for (int64_t j = 0; j < n; j++) sum += power_double(d * ((double)s[j] - max), low + width, power);
        if (sum >= 1.0) low += width;
    }
    sum = 0.0;
    for (int64_t j = 0; j < n; j++) sum += power_double(d * ((double)s[j] - max), low, power);
    for (int64_t j = 0; j < n; j++)
        s[j] = (float)(power_double(d * ((double)s[j] - max), low, power) / sum);
}

static void row_softmax(float *s, int64_t n, float max) {
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) sum += exp((double)s[j] - max);
    for (int64_t j = 0; j < n; j++) s[j] = (float)(exp((double)s[j] - max) / sum);
}

void entmax_row(float *s, int64_t n, double alpha) {
    float max = -INFINITY;
    for (int64_t j = 0; j < n; j++) max = isnan(max) || s[j] <= max ? max : s[j]; // a NaN stays
    if (!isfinite(max)) { // not a number anywhere: so is the row
        for (int64_t j = 0; j < n; j++) s[j] = NAN;
        return;
    }
    double d = alpha - 1.0;
    if (!(d >= AT_ONE))
        row_softmax(s, n, max);
    else if (d < NEAR_ONE)
        row_double(s, n, max, d);
    else
        row_float(s, n, max, (float)d);
}

static double limit_alpha(const float *p, const float *g, int64_t n) {
    double mean = 0.0, sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        double l = p[j] > TINY ? log((double)p[j]) : 0.0;
        mean += (double)p[j] * l * l;
    }
    for (int64_t j = 0; j < n; j++) {
        double l = p[j] > TINY ? log((double)p[j]) : 0.0;
        sum += (double)g[j] * p[j] * (mean - l * l);
    }
    return 0.5 * sum;
}

double entmax_row_bwd(const float *p, float *g, int64_t n, double alpha) {
    double d = alpha - 1.0, sum_s = 0.0, sum_sg = 0.0, sum_h = 0.0, largest = 0.0;
    int64_t top = -1;
    for (int64_t j = 0; j < n; j++) {
        if (!(p[j] > TINY)) continue;
        double l = log((double)p[j]), s = exp((1.0 - d) * l);
        sum_s += s;
        sum_sg += s * g[j];
        sum_h += p[j] * l;
        if (s > largest) largest = s, top = j;
    }
    if (top < 0) { // a row without support (NaN): nothing to pass on but that
        for (int64_t j = 0; j < n; j++) g[j] = isnan(p[j]) ? NAN : 0.0f;
        return 0.0;
    }
    // For the largest s the others' sums are needed apart: a difference would lose them.
    double rest_s = 0.0, rest_sg = 0.0;
    for (int64_t j = 0; j < n; j++) {
        if (j == top || !(p[j] > TINY)) continue;
        double s = exp((1.0 - d) * log((double)p[j]));
        rest_s += s;
        rest_sg += s * g[j];
    }
    double mean = sum_sg / sum_s, dalpha = d < LIMIT ? limit_alpha(p, g, n) : 0.0;
    for (int64_t j = 0; j < n; j++) {
        if (!(p[j] > TINY)) {
            g[j] = 0.0f;
            continue;
        }
        double l = log((double)p[j]), s = exp((1.0 - d) * l), w = s / sum_s;
        if (d >= LIMIT) dalpha += g[j] * ((p[j] - w) / (d * d) - (p[j] * l - w * sum_h) / d);
        double away = j != top ? g[j] - mean : rest_s > 0.0 ? rest_s / sum_s * (g[j] - rest_sg / rest_s) : 0.0;
        g[j] = (float)(s * away);
    }
    return dalpha;
}
