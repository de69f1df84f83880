// Simulated quantization: range of a tensor, quantization in place, and the error it makes (fakequant.h).
// Tensors are rows of n floats that stand ld apart, so that q, k and v of one (B,T,3C) tensor are quantized
// each for itself. Results do not depend on ld; sums are in double, in a fixed order for a given number of
// threads.
#include "cpu/fakequant.h"

#include <string.h>

#include "cpu/cpu.h"

enum { BLOCK = 2048 };

typedef struct extent {
    float lo, hi;
    int32_t bad;
} extent;

_Static_assert(sizeof(extent) <= CPU_PARTIAL * sizeof(double) &&
                   sizeof(oht_quant_error) <= CPU_PARTIAL * sizeof(double),
               "fits a thread's partial sums");

// Work is dealt in pieces of a row of at most BLOCK elements.
typedef struct pieces {
    int64_t per_row, n, total;
} pieces;

static pieces cut(int64_t rows, int64_t n) {
    int64_t per_row = (n + BLOCK - 1) / BLOCK;
    return (pieces){per_row, n, rows * per_row};
}

static int64_t piece(pieces p, int64_t i, int64_t ld, int64_t *row, int64_t *length) {
    *row = i / p.per_row;
    int64_t first = i % p.per_row * BLOCK;
    *length = min_i64(BLOCK, p.n - first);
    return *row * ld + first;
}

static extent extent_of(const float *x, int64_t n) {
    float lo = INFINITY, hi = -INFINITY;
    int32_t bad = 0;
#pragma omp simd reduction(min : lo) reduction(max : hi) reduction(| : bad)
    for (int64_t j = 0; j < n; j++) {
        lo = x[j] < lo ? x[j] : lo;
        hi = x[j] > hi ? x[j] : hi;
        bad |= !(x[j] - x[j] == 0.0f);
    }
    return (extent){lo, hi, bad};
}

void minmax_cpu(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, float out[2]) {
    pieces p = cut(rows, n);
    int parts = 1;
#pragma omp parallel num_threads(be->threads) if (rows * n > CPU_SMALL)
    {
        int64_t from, to, row, length;
        cpu_share(p.total, 1, &from, &to);
        extent mine = {INFINITY, -INFINITY, 0};
        for (int64_t i = from; i < to; i++) {
            int64_t at = piece(p, i, ld, &row, &length);
            extent e = extent_of(x + at, length);
            mine.lo = fminf(mine.lo, e.lo);
            mine.hi = fmaxf(mine.hi, e.hi);
            mine.bad |= e.bad;
        }
        memcpy(cpu_partial(be, omp_get_thread_num()), &mine, sizeof(mine));
#pragma omp single
        parts = omp_get_num_threads();
    }
    extent all = {INFINITY, -INFINITY, rows * n == 0};
    for (int t = 0; t < parts; t++) {
        extent e;
        memcpy(&e, cpu_partial(be, t), sizeof(e));
        all.lo = fminf(all.lo, e.lo);
        all.hi = fmaxf(all.hi, e.hi);
        all.bad |= e.bad;
    }
    out[0] = all.bad ? NAN : all.lo;
    out[1] = all.bad ? NAN : all.hi;
}

void fake_quantize_cpu(oht_backend *be, float *x, int64_t rows, int64_t n, int64_t ld, const oht_fakequant *q,
                       bool per_row) {
    pieces p = cut(rows, n);
#pragma omp parallel for num_threads(be->threads) if (rows * n > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < p.total; i++) {
        int64_t row, length, at = piece(p, i, ld, &row, &length);
        fake_quantize_row(x + at, length, q[per_row ? row : 0]);
    }
}

static oht_quant_error error_of(const float *x, int64_t n, oht_fakequant q) {
    double signal = 0.0, noise = 0.0;
    int32_t clipped = 0;
#pragma omp simd reduction(+ : signal, noise, clipped)
    for (int64_t j = 0; j < n; j++) {
        float code = quant_code(x[j], q), kept = quant_clip(code, q);
        double v = (double)x[j], d = v - (double)(q.step * (kept - q.zero));
        signal += v * v;
        noise += d * d;
        clipped += code != kept ? 1 : 0;
    }
    return (oht_quant_error){signal, noise, clipped};
}

static void add_error(oht_quant_error *sum, oht_quant_error e) {
    sum->signal += e.signal;
    sum->noise += e.noise;
    sum->clipped += e.clipped;
}

void quant_error_cpu(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld,
                     const oht_fakequant *q, bool per_row, oht_quant_error *out) {
    pieces p = cut(rows, n);
    int parts = 1;
#pragma omp parallel num_threads(be->threads) if (rows * n > CPU_SMALL)
    {
        int64_t from, to, row, length;
        cpu_share(p.total, 1, &from, &to);
        oht_quant_error mine = {0};
        for (int64_t i = from; i < to; i++) {
            int64_t at = piece(p, i, ld, &row, &length);
            add_error(&mine, error_of(x + at, length, q[per_row ? row : 0]));
        }
        memcpy(cpu_partial(be, omp_get_thread_num()), &mine, sizeof(mine));
#pragma omp single
        parts = omp_get_num_threads();
    }
    *out = (oht_quant_error){0};
    for (int t = 0; t < parts; t++) {
        oht_quant_error e;
        memcpy(&e, cpu_partial(be, t), sizeof(e));
        add_error(out, e);
    }
}
