// Memory layout of time-series models: segments of series, neighbours merged, axes swapped, heads mixed; and the squared
// error (oht/backend.h, spec stanhop 1.2, 2). Everything moves whole rows.
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

static void move(float *restrict y, const float *restrict x, int64_t n, bool add) {
    if (!add) {
        memcpy(y, x, (size_t)n * sizeof(float));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void mix_heads_cpu(oht_backend *be, oht_tensor y, oht_tensor x, int heads, bool inverse, bool add) {
    int64_t groups = x.dim[0] * x.dim[1], L = x.dim[2], C = x.dim[3], D = C / heads;
#pragma omp parallel for num_threads(be->threads) if (groups * L * C > CPU_SMALL) schedule(static)
    for (int64_t g = 0; g < groups; g++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t l = 0; l < L; l++) {
                int64_t apart = g * L * C + l * C + h * D, mixed = g * L * C + (h * L + l) * D;
                move(oht_f32(y) + (inverse ? apart : mixed), oht_f32(x) + (inverse ? mixed : apart), D, add);
            }
}

void swap_axes_cpu(oht_backend *be, oht_tensor y, oht_tensor x, bool add) {
    int64_t B = x.dim[0], X = x.dim[1], Y = x.dim[2], C = x.dim[3];
#pragma omp parallel for num_threads(be->threads) if (B * X * Y * C > CPU_SMALL) schedule(static)
    for (int64_t r = 0; r < B * Y; r++)
        for (int64_t i = 0; i < X; i++)
            move(oht_f32(y) + (r * X + i) * C, oht_f32(x) + ((r / Y * X + i) * Y + r % Y) * C, C, add);
}

void segment_cpu(oht_backend *be, oht_tensor y, oht_tensor x) {
    (void)be;
    int64_t B = x.dim[0], T = x.dim[1], M = x.dim[2], padded = y.dim[2] * y.dim[3];
    for (int64_t b = 0; b < B; b++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t t = 0; t < padded; t++) {
                int64_t from = t - (padded - T);
                oht_f32(y)[(b * M + m) * padded + t] = oht_f32(x)[(b * T + (from > 0 ? from : 0)) * M + m];
            }
}

void unsegment_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor base) {
    (void)be;
    int64_t B = y.dim[0], U = y.dim[1], M = y.dim[2], padded = x.dim[2] * x.dim[3];
    for (int64_t b = 0; b < B; b++)
        for (int64_t m = 0; m < M; m++) {
            double mean = 0.0;
            for (int64_t t = 0; base.data && t < base.dim[1]; t++) mean += oht_f32(base)[(b * base.dim[1] + t) * M + m];
            if (base.data) mean /= (double)base.dim[1];
            for (int64_t t = 0; t < U; t++)
                oht_f32(y)[(b * U + t) * M + m] = oht_f32(x)[(b * M + m) * padded + t] + (float)mean;
        }
}

void unsegment_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add) {
    (void)be;
    int64_t B = dy.dim[0], U = dy.dim[1], M = dy.dim[2], padded = dx.dim[2] * dx.dim[3];
    for (int64_t b = 0; b < B; b++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t t = 0; t < padded; t++) {
                float *to = &oht_f32(dx)[(b * M + m) * padded + t];
                *to = (add ? *to : 0.0f) + (t < U ? oht_f32(dy)[(b * U + t) * M + m] : 0.0f);
            }
}

// Segment that place `at` of a padded row of L segments shows.
static int64_t source(int64_t at, int64_t L, int64_t missing) {
    return at < L ? at : at - missing;
}

void merge_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x) {
    int64_t rows = x.dim[0] * x.dim[1], L = x.dim[2], C = x.dim[3], places = y.dim[2] * (y.dim[3] / C);
#pragma omp parallel for num_threads(be->threads) if (rows * L * C > CPU_SMALL) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t at = 0; at < places; at++)
            move(oht_f32(y) + (r * places + at) * C, oht_f32(x) + (r * L + source(at, L, places - L)) * C, C, false);
}

void merge_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add) {
    int64_t rows = dx.dim[0] * dx.dim[1], L = dx.dim[2], C = dx.dim[3], places = dy.dim[2] * (dy.dim[3] / C);
#pragma omp parallel for num_threads(be->threads) if (rows * L * C > CPU_SMALL) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t at = 0; at < places; at++)
            move(oht_f32(dx) + (r * L + source(at, L, places - L)) * C, oht_f32(dy) + (r * places + at) * C, C,
                 add || at >= L);
}

void squared_error_cpu(oht_backend *be, oht_tensor dx, oht_tensor x, oht_tensor y, const oht_loss *loss, bool add) {
    (void)be;
    const float *xp = oht_f32(x), *yp = oht_f32(y);
    float *d = oht_f32(dx);
    double total = 0.0, scale = (double)cpu_scale(loss);
    for (int64_t i = 0; i < oht_tensor_count(x); i++) {
        double e = (double)xp[i] - (double)yp[i];
        total += e * e;
        if (d) d[i] = (add ? d[i] : 0.0f) + (float)(2.0 * scale * e);
    }
    cpu_add_loss(loss, total);
}

void forecast_errors_cpu(oht_backend *be, oht_tensor x, oht_tensor y, double sums[3]) {
    (void)be;
    const float *xp = oht_f32(x), *yp = oht_f32(y);
    for (int64_t i = 0; i < oht_tensor_count(x); i++) {
        double e = (double)xp[i] - (double)yp[i], relative = e / (double)yp[i];
        sums[0] += fabs(e);
        sums[1] += fabs(relative);
        sums[2] += relative * relative;
    }
}
