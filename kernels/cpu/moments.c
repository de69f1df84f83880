// Statistics of activations: central moments, largest value with its place, 6-sigma outliers of each row; and
// means per head. First pass: sums of x - x0 and their squares (x0 = first element: constant rows are exact),
// maximum of |x| as integers (bit patterns of |x| are ordered like the values, then inf, then NaN). Second
// pass: central sums about the mean, outliers. Sums in double over short blocks that stay in L1.
#include <assert.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/vmath.h"

enum { BLOCK = 2048 };
static const uint32_t INF_BITS = 0x7f800000u;

typedef struct first_pass {
    double s1, s2;
    int64_t block; // where the first block begins that holds the maximum
    int64_t nonfinite;
    uint32_t max_bits;
} first_pass;

typedef struct second_pass {
    double m2, m3, m4;
    int64_t outliers;
} second_pass;

_Static_assert(sizeof(first_pass) <= CPU_PARTIAL / 2 * sizeof(double),
               "fits half of a thread's partial sums");

static inline uint32_t abs_bits(float x) {
    return bits_of_float(x) & 0x7fffffffu;
}

static first_pass pass_one(const float *x, int64_t lo, int64_t hi, double x0) {
    first_pass r = {.block = lo};
    for (int64_t at = lo; at < hi; at += BLOCK) {
        int64_t end = min_i64(hi, at + BLOCK);
        uint32_t max = 0;
        int32_t bad = 0;
#pragma omp simd reduction(max : max) reduction(+ : bad)
        for (int64_t i = at; i < end; i++) {
            uint32_t u = abs_bits(x[i]);
            max = u > max ? u : max;
            bad += u >= INF_BITS ? 1 : 0;
        }
        double s1 = 0.0, s2 = 0.0;
#pragma omp simd reduction(+ : s1, s2)
        for (int64_t i = at; i < end; i++) {
            double d = (double)x[i] - x0;
            s1 += d;
            s2 += d * d;
        }
        r.s1 += s1;
        r.s2 += s2;
        r.nonfinite += bad;
        if (max > r.max_bits) r.max_bits = max, r.block = at;
    }
    return r;
}

static second_pass pass_two(const float *x, int64_t lo, int64_t hi, double mean, double limit) {
    second_pass r = {0};
    for (int64_t at = lo; at < hi; at += BLOCK) {
        int64_t end = min_i64(hi, at + BLOCK);
        double m2 = 0.0, m3 = 0.0, m4 = 0.0, far = 0.0;
#pragma omp simd reduction(+ : m2, m3, m4, far)
        for (int64_t i = at; i < end; i++) {
            double d = (double)x[i] - mean, d2 = d * d;
            m2 += d2;
            m3 += d2 * d;
            m4 += d2 * d2;
            far += fabs(d) > limit ? 1.0 : 0.0;
        }
        r.m2 += m2;
        r.m3 += m3;
        r.m4 += m4;
        r.outliers += (int64_t)far;
    }
    return r;
}

static void finish_one(oht_moments *out, const float *x, int64_t n, first_pass f, double x0, double *limit) {
    double shift = f.s1 / (double)n, var = f.s2 / (double)n - shift * shift;
    out->n = n;
    out->mean = x0 + shift;
    out->nonfinite = f.nonfinite;
    out->abs_max = (double)float_of_bits(f.max_bits);
    out->abs_argmax = f.block;
    while (abs_bits(x[out->abs_argmax]) != f.max_bits) out->abs_argmax++;
    *limit = 6.0 * sqrt(var > 0.0 ? var : 0.0);
}

static void finish_two(oht_moments *out, second_pass s) {
    out->m2 = s.m2;
    out->m3 = s.m3;
    out->m4 = s.m4;
    out->outliers_6sigma = s.outliers;
}

static double origin(const float *x) {
    return abs_bits(x[0]) < INF_BITS ? (double)x[0] : 0.0;
}

static void one_row(oht_moments *out, const float *x, int64_t n) {
    double limit, x0 = origin(x);
    finish_one(out, x, n, pass_one(x, 0, n, x0), x0, &limit);
    finish_two(out, pass_two(x, 0, n, out->mean, limit));
}

// All threads on one row; the parts are put together in order.
static void shared_row(oht_backend *be, oht_moments *out, const float *x, int64_t n) {
    double x0 = origin(x), limit;
    int parts = 1;
#pragma omp parallel num_threads(be->threads)
    {
        int64_t lo, hi;
        cpu_share(n, BLOCK, &lo, &hi);
        first_pass mine = pass_one(x, lo, hi, x0);
        memcpy(cpu_partial(be, omp_get_thread_num()), &mine, sizeof(mine));
#pragma omp single
        parts = omp_get_num_threads();
    }
    first_pass f = {0};
    for (int t = 0; t < parts; t++) {
        first_pass part;
        memcpy(&part, cpu_partial(be, t), sizeof(part));
        f.s1 += part.s1;
        f.s2 += part.s2;
        f.nonfinite += part.nonfinite;
        if (part.max_bits > f.max_bits) f.max_bits = part.max_bits, f.block = part.block;
    }
    finish_one(out, x, n, f, x0, &limit);
#pragma omp parallel num_threads(be->threads)
    {
        int64_t lo, hi;
        cpu_share(n, BLOCK, &lo, &hi);
        second_pass mine = pass_two(x, lo, hi, out->mean, limit);
        memcpy(cpu_partial(be, omp_get_thread_num()), &mine, sizeof(mine));
    }
    second_pass s = {0};
    for (int t = 0; t < parts; t++) {
        second_pass part;
        memcpy(&part, cpu_partial(be, t), sizeof(part));
        s.m2 += part.m2;
        s.m3 += part.m3;
        s.m4 += part.m4;
        s.outliers += part.outliers;
    }
    finish_two(out, s);
}

void moments_cpu(oht_backend *be, const void *values, oht_dtype type, int64_t rows, int64_t n,
                 oht_moments *out) {
    assert(type == OHT_F32);
    (void)type;
    const float *x = values;
    if (n <= 0) {
        if (rows > 0) memset(out, 0, (size_t)rows * sizeof(*out));
        return;
    }
    if (be->threads > 1 && n > CPU_SMALL && rows % be->threads != 0 && rows < 8 * be->threads) {
        for (int64_t i = 0; i < rows; i++) shared_row(be, out + i, x + i * n, n);
        return;
    }
#pragma omp parallel for num_threads(be->threads) if (rows * n > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < rows; i++) one_row(out + i, x + i * n, n);
}

// 1 - sum of each row of probabilities, (N,H,L,S).
static void null_mass_of_rows(oht_backend *be, double *mean_h, oht_tensor p) {
    const int64_t groups = p.dim[0], H = p.dim[1], L = p.dim[2], S = p.dim[3];
#pragma omp parallel for num_threads(be->threads) if (oht_tensor_count(p) > CPU_SMALL) schedule(static)
    for (int64_t h = 0; h < H; h++) {
        double mass = 0.0;
        for (int64_t g = 0; g < groups; g++) {
            const float *r = oht_f32(p) + (g * H + h) * L * S;
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < L * S; i++) sum += (double)r[i];
            mass += (double)L - sum;
        }
        mean_h[h] = groups * L > 0 ? mass / (double)(groups * L) : 0.0;
    }
}

void null_mass_cpu(oht_backend *be, double *mean_h, oht_tensor row) {
    if (row.rank == 4) {
        null_mass_of_rows(be, mean_h, row);
        return;
    }
    int64_t B = row.dim[0], H = row.dim[1], T = row.dim[2];
#pragma omp parallel for num_threads(be->threads) if (B * H * T > CPU_SMALL) schedule(static)
    for (int64_t h = 0; h < H; h++) {
        double sum = 0.0;
        for (int64_t b = 0; b < B; b++) {
            const float *r = oht_f32(row) + (b * H + h) * T;
#pragma omp simd reduction(+ : sum)
            for (int64_t t = 0; t < T; t++) sum += (double)vexpf(-r[t]);
        }
        mean_h[h] = B * T > 0 ? sum / (double)(B * T) : 0.0;
    }
}

void gate_mean_cpu(oht_backend *be, double *mean_h, oht_tensor pi) {
    (void)be;
    int64_t N = oht_tensor_rows(pi), H = pi.dim[pi.rank - 1];
    for (int64_t h = 0; h < H; h++) mean_h[h] = 0.0;
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < H; h++) mean_h[h] += (double)oht_f32(pi)[i * H + h];
    for (int64_t h = 0; h < H; h++) mean_h[h] = N > 0 ? mean_h[h] / (double)N : 0.0;
}
