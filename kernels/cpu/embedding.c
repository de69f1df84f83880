// Tables and picked rows: token embedding, position and type rows, gather of masked positions. The backward
// functions that add into shared rows give each thread a range of columns: rows are then added in order of n,
// without locks.
#include <string.h>

#include "cpu/cpu.h"

static void add_to(float *restrict y, const float *restrict x, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] += x[j];
}

static void zero_rows(oht_backend *be, float *x, int64_t rows, int64_t C) {
#pragma omp parallel num_threads(be->threads) if (rows * C > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(rows * C, 1024, &lo, &hi);
        if (hi > lo) memset(x + lo, 0, (size_t)(hi - lo) * sizeof(float));
    }
}

void embedding_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor ids, oht_tensor table) {
    gather_fwd_cpu(be, y, table, ids);
}

void embedding_bwd_cpu(oht_backend *be, oht_tensor dtable, oht_tensor dy, oht_tensor ids, int64_t padding_id,
                       bool add) {
    int64_t C = dtable.dim[1], N = oht_tensor_count(ids);
    float *d = oht_f32(dtable);
    if (!add) zero_rows(be, d, dtable.dim[0], C);
#pragma omp parallel num_threads(be->threads) if (N * C > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(C, 16, &lo, &hi);
        for (int64_t i = 0; i < N; i++) {
            int64_t id = oht_i32(ids)[i];
            if (id != padding_id) add_to(d + id * C + lo, oht_f32(dy) + i * C + lo, hi - lo);
        }
    }
}

void add_rows_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor table, int64_t offset,
                      bool broadcast) {
    int64_t N = oht_tensor_rows(x), T = x.dim[1], C = x.dim[2];
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++) {
        const float *r = oht_f32(table) + (offset + (broadcast ? 0 : i % T)) * C, *xi = oht_f32(x) + i * C;
        float *yi = oht_f32(y) + i * C;
#pragma omp simd
        for (int64_t j = 0; j < C; j++) yi[j] = xi[j] + r[j];
    }
}

void add_rows_bwd_cpu(oht_backend *be, oht_tensor dtable, oht_tensor dy, int64_t offset, bool broadcast,
                      bool add) {
    int64_t N = oht_tensor_rows(dy), T = dy.dim[1], C = dy.dim[2];
    float *d = oht_f32(dtable);
    if (!add) zero_rows(be, d, dtable.dim[0], C);
#pragma omp parallel num_threads(be->threads) if (N * C > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(C, 16, &lo, &hi);
        for (int64_t i = 0; i < N; i++)
            add_to(d + (offset + (broadcast ? 0 : i % T)) * C + lo, oht_f32(dy) + i * C + lo, hi - lo);
    }
}

void gather_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor index) {
    int64_t C = x.dim[x.rank - 1], N = oht_tensor_count(index);
#pragma omp parallel for num_threads(be->threads) if (N * C > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < N; i++)
        memcpy(oht_f32(y) + i * C, oht_f32(x) + oht_i32(index)[i] * C, (size_t)C * sizeof(float));
}

void gather_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, oht_tensor index, bool add) {
    int64_t C = dx.dim[dx.rank - 1], N = oht_tensor_count(index);
    if (!add) zero_rows(be, oht_f32(dx), oht_tensor_rows(dx), C);
#pragma omp parallel num_threads(be->threads) if (N * C > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(C, 16, &lo, &hi);
        for (int64_t i = 0; i < N; i++)
            add_to(oht_f32(dx) + oht_i32(index)[i] * C + lo, oht_f32(dy) + i * C + lo, hi - lo);
    }
}
