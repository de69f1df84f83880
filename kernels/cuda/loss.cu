// Losses: cross entropy of a chunk of logits with hard or soft labels, top-k hits, squared error. One block a row; what a
// row contributes goes to ctx->partial in double and one thread block adds the rows up in a fixed order. Logits become
// their gradient in place.
#include "cuda/cuda.h"

enum { THREADS = 256, WIDE = 512, SUM_THREADS = 256 };

// ---- sums of what blocks left at ctx->partial ----
// *to = sum of n doubles, or that added to it. `to` may be part.
__global__ void __launch_bounds__(SUM_THREADS) sum_doubles(double *to, const double *part, int64_t n, bool add) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += SUM_THREADS) sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *to = add ? *to + sum : sum;
}

static void add_loss(cuda_context *ctx, const oht_loss *loss, int64_t n) {
    if (loss->sum) CUDA_LAUNCH(ctx, sum_doubles, 1, SUM_THREADS, 0, loss->sum, (const double *)ctx->partial, n, true);
}

// NaN when the device failed.
static double fetch_sum(cuda_context *ctx, int64_t n) {
    double *part = (double *)ctx->partial;
    CUDA_LAUNCH(ctx, sum_doubles, 1, SUM_THREADS, 0, part, (const double *)part, n, false);
    return cuda_fetch(ctx, part, sizeof(double)) ? *(double *)ctx->result : (double)NAN;
}

// ---- cross entropy ----
// Largest value and sum of exp(x - max) of a row, each thread over its own elements, then the block.
struct normaliser {
    float max, sum;
};
template <class T> __device__ __forceinline__ normaliser row_normaliser(const T *x, int64_t V) {
    float max = -INFINITY;
    bool nan = false;
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x) {
        float v = to_float(x[j]);
        nan |= v != v;
        max = fmaxf(max, v);
    }
    max = block_max(max);
    float sum = nan ? NAN : 0.0f;
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x) sum += expf(to_float(x[j]) - max);
    return {max, block_sum(sum)};
}

template <class T>
__global__ void __launch_bounds__(WIDE)
    cross_entropy_rows(double *loss, T *logits, const int32_t *labels, int64_t V, float scale, const float *factor) {
    T *x = logits + (int64_t)blockIdx.x * V;
    const bool gradient = scale != 0.0f;
    if (factor) scale *= *factor;
    int64_t label = labels[blockIdx.x];
    if (label < 0) { // the whole block
        if (gradient)
            for (int64_t j = threadIdx.x; j < V; j += blockDim.x) x[j] = from_float<T>(0.0f);
        if (threadIdx.x == 0) loss[blockIdx.x] = 0.0;
        return;
    }
    normaliser r = row_normaliser(x, V);
    if (threadIdx.x == 0) loss[blockIdx.x] = (double)r.max + log((double)r.sum) - (double)to_float(x[label]);
    if (!gradient) return;
    __syncthreads(); // x[label] has been read
    float share = scale / r.sum;
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x)
        x[j] = from_float<T>(expf(to_float(x[j]) - r.max) * share - (j == label ? scale : 0.0f));
}

static void cross_entropy_cuda(oht_backend *be, oht_tensor logits, oht_tensor labels, const oht_loss *loss) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = logits.dim[0], V = logits.dim[1], most = CUDA_PARTIAL / sizeof(double);
    for (int64_t i = 0; i < n; i += most) {
        int64_t rows = cuda_min(most, n - i);
        CUDA_BY_TYPE(ctx, logits.dtype,
                     CUDA_LAUNCH(ctx, cross_entropy_rows<T>, (unsigned)rows, WIDE, 0, (double *)ctx->partial,
                                 cuda_data<T>(logits) + i * V, (const int32_t *)oht_i32(labels) + i, V,
                                 loss->scale, loss->factor));
        add_loss(ctx, loss, rows);
    }
}

// loss = -sum_j t_j (x_j - log sum exp x); gradient (softmax sum_j t_j - t) scale
template <class T>
__global__ void __launch_bounds__(WIDE)
    soft_rows(double *loss, T *logits, const float *targets, int64_t V, float scale, const float *factor) {
    T *x = logits + (int64_t)blockIdx.x * V;
    const float *t = targets + (int64_t)blockIdx.x * V;
    normaliser r = row_normaliser(x, V);
    double mass = 0.0, inner = 0.0;
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x) {
        mass += (double)t[j];
        inner += (double)t[j] * ((double)to_float(x[j]) - (double)r.max);
    }
    mass = block_sum(mass);
    inner = block_sum(inner);
    if (threadIdx.x == 0) loss[blockIdx.x] = mass * log((double)r.sum) - inner;
    if (scale == 0.0f) return;
    if (factor) scale *= *factor;
    float share = (float)(mass / (double)r.sum);
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x)
        x[j] = from_float<T>(scale * (expf(to_float(x[j]) - r.max) * share - t[j]));
}

static void soft_cross_entropy_cuda(oht_backend *be, oht_tensor logits, oht_tensor targets, const oht_loss *loss) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = logits.dim[0], V = logits.dim[1], most = CUDA_PARTIAL / sizeof(double);
    for (int64_t i = 0; i < n; i += most) {
        int64_t rows = cuda_min(most, n - i);
        CUDA_BY_TYPE(ctx, logits.dtype,
                     CUDA_LAUNCH(ctx, soft_rows<T>, (unsigned)rows, WIDE, 0, (double *)ctx->partial,
                                 cuda_data<T>(logits) + i * V, (const float *)oht_f32(targets) + i * V, V,
                                 loss->scale, loss->factor));
        add_loss(ctx, loss, rows);
    }
}

// ---- hits ----
// Counts of rows whose label has the largest, one of the five largest logits; whole numbers, so any order will do.
template <class T>
__global__ void __launch_bounds__(THREADS)
    hit_rows(unsigned long long *hits, const T *logits, const int32_t *labels, int64_t V) {
    const T *x = logits + (int64_t)blockIdx.x * V;
    int64_t label = labels[blockIdx.x];
    float own = to_float(x[label]);
    int before = 0;
    for (int64_t j = threadIdx.x; j < V; j += blockDim.x) {
        float v = to_float(x[j]);
        if (j != label) before += !(v < own) && (j < label || !(v <= own)); // NaN: before
    }
    before = block_sum(before);
    if (threadIdx.x > 0) return;
    if (before < 1) atomicAdd(&hits[0], 1ull);
    if (before < 5) atomicAdd(&hits[1], 1ull);
}

static void top_hits_cuda(oht_backend *be, oht_tensor logits, oht_tensor labels, int64_t hits[2]) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = logits.dim[0], V = logits.dim[1];
    be->zero(be, ctx->partial, 2 * sizeof(unsigned long long));
    CUDA_BY_TYPE(ctx, logits.dtype,
                 CUDA_LAUNCH(ctx, hit_rows<T>, (unsigned)n, THREADS, 0, (unsigned long long *)ctx->partial,
                             (const T *)cuda_data<T>(logits), (const int32_t *)oht_i32(labels), V));
    if (!cuda_fetch(ctx, ctx->partial, 2 * sizeof(unsigned long long))) return;
    for (int i = 0; i < 2; i++) hits[i] += (int64_t)((unsigned long long *)ctx->result)[i];
}

// ---- squared error ----
template <class T>
__global__ void __launch_bounds__(THREADS)
    squared_error_part(double *part, T *dx, const T *x, const float *y, int64_t n, float scale, const float *factor, bool add) {
    double sum = 0.0;
    if (factor) scale *= *factor;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        double e = (double)to_float(x[i]) - (double)y[i];
        sum += e * e;
        if (dx) dx[i] = from_float<T>((add ? to_float(dx[i]) : 0.0f) + (float)(2.0 * (double)scale * e));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static void squared_error_cuda(oht_backend *be, oht_tensor dx, oht_tensor x, oht_tensor y, const oht_loss *loss, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(x), blocks = cuda_min(cuda_blocks(n, 4 * THREADS), 1024);
    if (n == 0) return;
    CUDA_BY_TYPE(ctx, x.dtype,
                 CUDA_LAUNCH(ctx, squared_error_part<T>, (unsigned)blocks, THREADS, 0, (double *)ctx->partial,
                             cuda_data<T>(dx), (const T *)cuda_data<T>(x), (const float *)oht_f32(y), n,
                             loss->scale, loss->factor, add));
    add_loss(ctx, loss, blocks);
}

// ---- errors of forecasts ----
// Part of the sum of |e|, |e / y| or (e / y)^2, e = x - y.
template <class T>
__global__ void __launch_bounds__(THREADS)
    forecast_part(double *part, const T *x, const float *y, int64_t n, int which) {
    double sum = 0.0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        double e = (double)to_float(x[i]) - (double)y[i], relative = e / (double)y[i];
        sum += which == 0 ? fabs(e) : which == 1 ? fabs(relative) : relative * relative;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static void forecast_errors_cuda(oht_backend *be, oht_tensor x, oht_tensor y, double sums[3]) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(x), blocks = cuda_min(cuda_blocks(n, 4 * THREADS), 1024);
    if (n == 0) return;
    for (int which = 0; which < 3; which++) { // evaluation only: three passes over a small tensor
        CUDA_BY_TYPE(ctx, x.dtype,
                     CUDA_LAUNCH(ctx, forecast_part<T>, (unsigned)blocks, THREADS, 0, (double *)ctx->partial,
                                 (const T *)cuda_data<T>(x), (const float *)oht_f32(y), n, which));
        sums[which] += fetch_sum(ctx, blocks);
    }
}

void cuda_loss_entries(oht_backend *be) {
    be->cross_entropy = cross_entropy_cuda;
    be->soft_cross_entropy = soft_cross_entropy_cuda;
    be->top_hits = top_hits_cuda;
    be->squared_error = squared_error_cuda;
    be->forecast_errors = forecast_errors_cuda;
}
