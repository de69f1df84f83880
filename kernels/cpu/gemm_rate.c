// How fast the BLAS itself multiplies matrices of one shape: the yardstick of `ohtrain bench`. The library is
// called directly, with as many threads as the OpenMP runtime gives it. The median of several stretches, so
// that a moment in which the machine does something else does not count.
#include <cblas.h>

#include "oht/backend.h"
#include "oht/log.h"
#include "oht/memory.h"

enum { STRETCHES = 5 };

typedef struct operands {
    float *a, *b, *c;
} operands;

static void multiply(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const operands *x) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (blasint)m,
                (blasint)n, (blasint)k, 1.0f, x->a, (blasint)(ta ? m : k), x->b, (blasint)(tb ? k : n), 0.0f,
                x->c, (blasint)n);
}

static oht_status measure(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double seconds, operands *x,
                          double *flops_per_s) {
    OHT_TRY(OHT_ALLOC(&x->a, (size_t)(m * k), "GEMM operand"));
    OHT_TRY(OHT_ALLOC(&x->b, (size_t)(k * n), "GEMM operand"));
    OHT_TRY(OHT_ALLOC(&x->c, (size_t)(m * n), "GEMM result"));
    for (int64_t i = 0; i < m * k; i++) x->a[i] = (float)(i % 17 - 8) / 8.0f;
    for (int64_t i = 0; i < k * n; i++) x->b[i] = (float)(i % 13 - 6) / 8.0f;
    multiply(ta, tb, m, n, k, x); // warm-up: pages and BLAS buffers
    double rate[STRETCHES];
    for (int i = 0; i < STRETCHES; i++) {
        int64_t calls = 0;
        double start = oht_clock_s(), spent = 0;
        while (calls == 0 || spent < seconds / STRETCHES) {
            multiply(ta, tb, m, n, k, x);
            calls++;
            spent = oht_clock_s() - start;
        }
        double r = 2.0 * (double)m * (double)n * (double)k * (double)calls / spent;
        int j = i;
        for (; j > 0 && rate[j - 1] > r; j--) rate[j] = rate[j - 1]; // kept in order
        rate[j] = r;
    }
    *flops_per_s = rate[STRETCHES / 2];
    return OHT_OK;
}

oht_status oht_gemm_rate(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double seconds,
                         double *flops_per_s) {
    operands x = {0};
    oht_status status = measure(ta, tb, m, n, k, seconds, &x, flops_per_s);
    oht_free(x.a);
    oht_free(x.b);
    oht_free(x.c);
    return status;
}
