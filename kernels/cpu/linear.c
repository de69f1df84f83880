// Linear layers: y = act(x w^T + b), act none, ReLU or exact GELU.
//   backward: u = dy act'(pre); dx = u w, dw = u^T x, db = sum_n u
// The activation's gradient and the bias gradient share one pass over dy.
#include "cpu/cpu.h"
#include "cpu/vmath.h"

enum {
    COLUMNS = 512,
    ROWS = 64
}; // a strip of columns in L1; partial sums over ROWS rows keep float sums accurate

// y = act(z + b) for one row; pre (or NULL) receives z + b. z may be y or pre.
static void row_fwd(float *y, float *pre, const float *z, const float *b, int64_t n, oht_act act) {
    if (act == OHT_ACT_GELU) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float u = z[j] + (b ? b[j] : 0.0f);
            if (pre) pre[j] = u;
            y[j] = vgeluf(u);
        }
    } else {
        float floor = act == OHT_ACT_RELU ? 0.0f : -INFINITY;
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float u = z[j] + (b ? b[j] : 0.0f);
            if (pre) pre[j] = u;
            y[j] = u < floor ? floor : u; // NaN passes
        }
    }
}

void linear_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor pre, oht_tensor x, oht_tensor w, oht_tensor b,
                    oht_act act) {
    int64_t N = oht_tensor_rows(x), K = w.dim[1], M = w.dim[0];
    float *yp = oht_f32(y), *prep = oht_f32(pre), *z = prep ? prep : yp;
    const float *bp = oht_f32(b);
    gemm_cpu(be, false, true, N, M, K, 1.0f, oht_f32(x), K, oht_f32(w), K, 0.0f, z, M);
    if (!bp && !prep && act == OHT_ACT_NONE) return;
#pragma omp parallel for num_threads(be->threads) if (N * M > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++) row_fwd(yp + i * M, prep ? prep + i * M : NULL, z + i * M, bp, M, act);
}

// dy[j] *= act'(...) for one strip of a row
static void row_bwd(float *dy, const float *pre, const float *y, int64_t n, oht_act act) {
    if (act == OHT_ACT_GELU) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) dy[j] *= vgelu_gradf(pre[j]);
    } else if (act == OHT_ACT_RELU) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) dy[j] = y[j] > 0.0f ? dy[j] : 0.0f;
    }
}

// Each thread owns a range of columns for all rows: the order of summation never depends on the threads.
static void act_and_bias_bwd(oht_backend *be, float *db, float *dy, const float *pre, const float *y,
                             int64_t N, int64_t M, oht_act act, bool add) {
#pragma omp parallel num_threads(be->threads) if (N * M > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(M, 16, &lo, &hi);
        for (int64_t j0 = lo; j0 < hi; j0 += COLUMNS) {
            int64_t n = min_i64(COLUMNS, hi - j0);
            float total[COLUMNS] = {0};
            for (int64_t i0 = 0; i0 < N; i0 += ROWS) {
                float part[COLUMNS] = {0};
                for (int64_t i = i0; i < min_i64(N, i0 + ROWS); i++) {
                    float *u = dy + i * M + j0;
                    row_bwd(u, pre ? pre + i * M + j0 : NULL, y ? y + i * M + j0 : NULL, n, act);
                    if (!db) continue;
#pragma omp simd
                    for (int64_t j = 0; j < n; j++) part[j] += u[j];
                }
#pragma omp simd
                for (int64_t j = 0; j < n; j++) total[j] += part[j];
            }
            for (int64_t j = 0; db && j < n; j++) db[j0 + j] = (add ? db[j0 + j] : 0.0f) + total[j];
        }
    }
}

void linear_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dw, oht_tensor db, oht_tensor dy, oht_tensor x,
                    oht_tensor w, oht_tensor pre, oht_tensor y, oht_act act, bool add_dx, bool add_dp) {
    int64_t N = oht_tensor_rows(dy), K = w.dim[1], M = w.dim[0];
    float *u = oht_f32(dy);
    if (act != OHT_ACT_NONE || db.data)
        act_and_bias_bwd(be, oht_f32(db), u, oht_f32(pre), oht_f32(y), N, M, act, add_dp);
    if (dx.data)
        gemm_cpu(be, false, false, N, K, M, 1.0f, u, M, oht_f32(w), K, add_dx ? 1.0f : 0.0f, oht_f32(dx), K);
    if (dw.data)
        gemm_cpu(be, true, false, M, K, N, 1.0f, u, M, oht_f32(x), K, add_dp ? 1.0f : 0.0f, oht_f32(dw), K);
}
