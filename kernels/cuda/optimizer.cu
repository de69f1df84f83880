// AdamW over flat memory (Loshchilov & Hutter 2019) and the sum of squares for clipping, as kernels/cpu/adamw.c.
//   p *= 1 - lr wd;  m += (1-b1)(g - m);  v += (1-b2)(g^2 - v);  p -= lr mh / (sqrt(vh) + eps)
#include "cuda/cuda.h"

enum { THREADS = 256, MOST_BLOCKS = 1024 };

struct adamw_constants {
    float b1, b2, c1, c2, decay, eps, scale, lr_hat, v_hat;
};

// work: NULL, or the new parameters in the type that kernels read
template <class T>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(T *__restrict__ work, float *__restrict__ p, const float *__restrict__ g,
                 float *__restrict__ m, float *__restrict__ v, int64_t n, adamw_constants o) {
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        float gi = g[i] * o.scale;
        float mi = o.b1 * m[i] + o.c1 * gi;
        float vi = o.b2 * v[i] + o.c2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        float pi = p[i] * o.decay - o.lr_hat * mi / (sqrtf(vi) * o.v_hat + o.eps);
        p[i] = pi;
        if (work) work[i] = from_float<T>(pi);
    }
}

static void adamw_cuda(oht_backend *be, float *p, const float *g, float *m, float *v, int64_t n,
                       const oht_adamw *opt) {
    cuda_context *ctx = cuda_of(be);
    adamw_constants o = {opt->beta1,
                         opt->beta2,
                         1.0f - opt->beta1,
                         1.0f - opt->beta2,
                         (float)(1.0 - (double)opt->lr * opt->weight_decay),
                         opt->eps,
                         opt->grad_scale,
                         (float)(opt->lr / (1.0 - pow(opt->beta1, (double)opt->step))),
                         (float)(1.0 / sqrt(1.0 - pow(opt->beta2, (double)opt->step)))};
    oht_dtype type = opt->work ? opt->work_type : OHT_F32;
    CUDA_BY_TYPE(ctx, type,
                 CUDA_LAUNCH(ctx, adamw_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0, (T *)opt->work, p,
                             g, m, v, n, o));
}

__global__ void __launch_bounds__(THREADS) sumsq_part(double *part, const float *x, int64_t n) {
    double sum = 0.0; // squares in double: no overflow for finite x
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static double sumsq_cuda(oht_backend *be, const float *x, int64_t n) {
    cuda_context *ctx = cuda_of(be);
    if (n <= 0) return 0.0;
    int64_t blocks = cuda_min(cuda_blocks(n, 4 * THREADS), MOST_BLOCKS);
    CUDA_LAUNCH(ctx, sumsq_part, (unsigned)blocks, THREADS, 0, (double *)ctx->partial, x, n);
    if (!cuda_fetch(ctx, ctx->partial, (size_t)blocks * sizeof(double))) return NAN;
    double total = 0.0;
    for (int64_t i = 0; i < blocks; i++) total += ((double *)ctx->result)[i];
    return total;
}

void cuda_optimizer_entries(oht_backend *be) {
    be->adamw = adamw_cuda;
    be->sumsq = sumsq_cuda;
}
