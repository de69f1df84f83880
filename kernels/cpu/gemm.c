// Matrix products: OpenBLAS computes, we share the work among threads. Each thread of an OpenMP team calls OpenBLAS on its
// own rows or columns of c (inside a parallel region OpenBLAS stays serial). The threads meet only at the end of a product,
// and the split, hence the result, depends on shape and thread count alone. Processor time per product as with OpenBLAS's
// own threading (two threads, OPT-125m shapes: 92-100 GFLOP/s a core of the 104 it reaches).
#include <cblas.h>

#include "cpu/cpu.h"

void gemm_serial(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                 const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (blasint)m,
                (blasint)n, (blasint)k, alpha, a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

void gemm_cpu(oht_backend *be, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (be->threads == 1 || m * n * k < 64 * 64 * 64 || omp_in_parallel()) {
        gemm_serial(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    bool by_rows = 2 * m >= n; // measured: rows of c split better than columns unless they are few
#pragma omp parallel num_threads(be->threads)
    {
        int64_t lo, hi;
        cpu_share(by_rows ? m : n, 16, &lo, &hi);
        if (hi > lo && by_rows)
            gemm_serial(ta, tb, hi - lo, n, k, alpha, a + (ta ? lo : lo * lda), lda, b, ldb, beta,
                        c + lo * ldc, ldc);
        else if (hi > lo)
            gemm_serial(ta, tb, m, hi - lo, k, alpha, a, lda, b + (tb ? lo * ldb : lo), ldb, beta, c + lo,
                        ldc);
    }
}
