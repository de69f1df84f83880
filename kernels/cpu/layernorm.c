// LayerNorm over the last axis: y = (x - mean) rstd gamma + beta, rstd = (var + eps)^-1/2, biased variance.
//   backward, xh = (x - mean) rstd, g = dy gamma:  dx = rstd (g - mean(g) - xh mean(g xh)),
//   dgamma = sum_n dy xh, dbeta = sum_n dy: each thread sums its rows in scratch, then the parts are added in
//   order.
#include "cpu/cpu.h"
#include "cpu/vmath.h"

static void row_fwd(float *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                    int64_t C, float eps) {
    float sum = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < C; j++) sum += x[j];
    float mu = sum / (float)C;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < C; j++) square += (x[j] - mu) * (x[j] - mu);
    float r = 1.0f / sqrtf(square / (float)C + eps);
#pragma omp simd
    for (int64_t j = 0; j < C; j++) y[j] = (x[j] - mu) * r * gamma[j] + beta[j];
    *mean = mu;
    *rstd = r;
}

void layernorm_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x,
                       oht_tensor gamma, oht_tensor beta, float eps) {
    int64_t N = oht_tensor_rows(x), C = x.dim[x.rank - 1];
    const float *g = oht_f32(gamma), *b = oht_f32(beta);
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++)
        row_fwd(oht_f32(y) + i * C, oht_f32(mean) + i, oht_f32(rstd) + i, oht_f32(x) + i * C, g, b, C, eps);
}

size_t layernorm_bwd_scratch_cpu(oht_backend *be, int64_t N, int64_t C) {
    (void)N;
    return (size_t)be->threads * 2 * (size_t)round_up(C, 16) * sizeof(float);
}

static void row_bwd(float *dx, float *dgamma, float *dbeta, const float *dy, const float *x,
                    const float *gamma, float mean, float rstd, int64_t C, bool add) {
    float sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t j = 0; j < C; j++) {
        float xh = (x[j] - mean) * rstd, g = dy[j] * gamma[j];
        sum += g;
        dot += g * xh;
        dgamma[j] += dy[j] * xh;
        dbeta[j] += dy[j];
    }
    if (!dx) return;
    sum /= (float)C;
    dot /= (float)C;
    if (add) {
#pragma omp simd
        for (int64_t j = 0; j < C; j++) dx[j] += rstd * (dy[j] * gamma[j] - sum - (x[j] - mean) * rstd * dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < C; j++) dx[j] = rstd * (dy[j] * gamma[j] - sum - (x[j] - mean) * rstd * dot);
    }
}

void layernorm_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dgamma, oht_tensor dbeta, oht_tensor dy,
                       oht_tensor x, oht_tensor gamma, oht_tensor mean, oht_tensor rstd, bool add_dx,
                       bool add_dp, void *scratch) {
    int64_t N = oht_tensor_rows(x), C = x.dim[x.rank - 1], width = round_up(C, 16);
    float *part = scratch; // (threads, 2, width)
    int parts = 1;
#pragma omp parallel num_threads(be->threads) if (N * C > CPU_SMALL)
    {
        float *dg = part + (int64_t)omp_get_thread_num() * 2 * width, *db = dg + width;
        for (int64_t j = 0; j < 2 * width; j++) dg[j] = 0.0f;
        int64_t lo, hi;
        cpu_share(N, 1, &lo, &hi);
        for (int64_t i = lo; i < hi; i++)
            row_bwd(dx.data ? oht_f32(dx) + i * C : NULL, dg, db, oht_f32(dy) + i * C, oht_f32(x) + i * C,
                    oht_f32(gamma), oht_f32(mean)[i], oht_f32(rstd)[i], C, add_dx);
#pragma omp single
        parts = omp_get_num_threads();
    }
    for (int which = 0; which < 2; which++) {
        float *d = which == 0 ? oht_f32(dgamma) : oht_f32(dbeta);
        if (!d) continue;
        for (int64_t j = 0; j < C; j++) {
            float sum = 0.0f;
            for (int t = 0; t < parts; t++) sum += part[(2 * t + which) * width + j];
            d[j] = (add_dp ? d[j] : 0.0f) + sum;
        }
    }
}
