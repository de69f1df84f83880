// AdamW over flat memory in one pass (Loshchilov & Hutter 2019), and the sum of squares for clipping.
//   p *= 1 - lr wd;  m += (1-b1)(g - m);  v += (1-b2)(g^2 - v);  p -= lr mh / (sqrt(vh) + eps)
//   mh = m/(1-b1^t), vh = v/(1-b2^t)
#include <math.h>

#include "cpu/cpu.h"

static void span(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int64_t n,
                 const oht_adamw *o, float lr_hat, float v_hat) {
    const float b1 = o->beta1, b2 = o->beta2, c1 = 1.0f - o->beta1, c2 = 1.0f - o->beta2;
    const float decay = (float)(1.0 - (double)o->lr * o->weight_decay), eps = o->eps, scale = o->grad_scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * scale;
        float mi = b1 * m[i] + c1 * gi;
        float vi = b2 * v[i] + c2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] * decay - lr_hat * mi / (sqrtf(vi) * v_hat + eps);
    }
}

void adamw_cpu(oht_backend *be, float *p, const float *g, float *m, float *v, int64_t n,
               const oht_adamw *opt) {
    float lr_hat = (float)(opt->lr / (1.0 - pow(opt->beta1, (double)opt->step)));
    float v_hat = (float)(1.0 / sqrt(1.0 - pow(opt->beta2, (double)opt->step)));
#pragma omp parallel num_threads(be->threads) if (n > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(n, 1024, &lo, &hi);
        span(p + lo, g + lo, m + lo, v + lo, hi - lo, opt, lr_hat, v_hat);
    }
}

double sumsq_cpu(oht_backend *be, const float *x, int64_t n) {
    for (int t = 0; t < be->threads; t++) cpu_partial(be, t)[0] = 0.0;
#pragma omp parallel num_threads(be->threads) if (n > CPU_SMALL)
    {
        int64_t lo, hi;
        cpu_share(n, 1024, &lo, &hi);
        double sum = 0.0; // squares in double: no overflow for finite x
#pragma omp simd reduction(+ : sum)
        for (int64_t i = lo; i < hi; i++) sum += (double)x[i] * (double)x[i];
        cpu_partial(be, omp_get_thread_num())[0] = sum;
    }
    double total = 0.0;
    for (int t = 0; t < be->threads; t++) total += cpu_partial(be, t)[0];
    return total;
}
