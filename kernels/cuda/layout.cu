// Memory layout of time-series models and of images: segments of series, neighbours merged, axes swapped, heads mixed,
// patches (oht/backend.h, spec stanhop 1.2, 2). Each thread finds where its element of the result comes from.
#include "cuda/cuda.h"

enum { THREADS = 256 };

#define EACH(i, n)                                                                                           \
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;                                              \
    i < (n);                                                                                                 \
    i += (int64_t)gridDim.x * blockDim.x

template <class T> __device__ __forceinline__ void put(T *y, int64_t i, T x, bool add) {
    y[i] = add ? from_float<T>(to_float(y[i]) + to_float(x)) : x;
}

// y in memory as (H,L,D) read as (L,C), or back
template <class T>
__global__ void mix_heads_kernel(T *y, const T *x, int64_t n, int64_t L, int64_t C, int64_t D, bool inverse,
                                 bool add) {
    for (EACH(i, n)) {
        int64_t g = i / (L * C), at = i % (L * C), d = at % D, from;
        if (inverse) { // at = l C + h D + d
            int64_t l = at / C, h = at % C / D;
            from = (h * L + l) * D + d;
        } else { // at = (h L + l) D + d
            int64_t h = at / (L * D), l = at / D % L;
            from = l * C + h * D + d;
        }
        put(y, i, x[g * L * C + from], add);
    }
}

static void mix_heads_cuda(oht_backend *be, oht_tensor y, oht_tensor x, int heads, bool inverse, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(x), L = x.dim[2], C = x.dim[3];
    CUDA_BY_TYPE(ctx, x.dtype,
                 CUDA_LAUNCH(ctx, mix_heads_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0,
                             cuda_data<T>(y), (const T *)cuda_data<T>(x), n, L, C, C / heads, inverse, add));
}

template <class T>
__global__ void swap_axes_kernel(T *y, const T *x, int64_t n, int64_t X, int64_t Y, int64_t C, bool add) {
    for (EACH(i, n)) { // y: (B,Y,X,C)
        int64_t c = i % C, xx = i / C % X, yy = i / C / X % Y, b = i / C / X / Y;
        put(y, i, x[((b * X + xx) * Y + yy) * C + c], add);
    }
}

static void swap_axes_cuda(oht_backend *be, oht_tensor y, oht_tensor x, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(x);
    CUDA_BY_TYPE(ctx, x.dtype,
                 CUDA_LAUNCH(ctx, swap_axes_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0,
                             cuda_data<T>(y), (const T *)cuda_data<T>(x), n, x.dim[1], x.dim[2], x.dim[3],
                             add));
}

template <class T>
__global__ void segment_kernel(T *y, const float *x, int64_t n, int64_t T_, int64_t M, int64_t padded) {
    for (EACH(i, n)) { // y: (B,M,padded)
        int64_t from = i % padded - (padded - T_), m = i / padded % M, b = i / padded / M;
        y[i] = from_float<T>(x[(b * T_ + (from > 0 ? from : 0)) * M + m]);
    }
}

static void segment_cuda(oht_backend *be, oht_tensor y, oht_tensor x) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(y);
    CUDA_BY_TYPE(ctx, y.dtype,
                 CUDA_LAUNCH(ctx, segment_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0, cuda_data<T>(y),
                             (const float *)oht_f32(x), n, x.dim[1], x.dim[2], y.dim[2] * y.dim[3]));
}

// One block a series (b, m): its mean over time first.
template <class T>
__global__ void __launch_bounds__(THREADS)
    unsegment_fwd_kernel(T *y, const T *x, const float *base, int64_t U, int64_t M, int64_t padded,
                         int64_t base_time) {
    int64_t m = blockIdx.x % M, b = blockIdx.x / M;
    double mean = 0.0;
    for (int64_t t = threadIdx.x; base && t < base_time; t += THREADS)
        mean += (double)base[(b * base_time + t) * M + m];
    mean = block_sum(mean);
    float shift = base ? (float)(mean / (double)base_time) : 0.0f;
    for (int64_t t = threadIdx.x; t < U; t += THREADS)
        y[(b * U + t) * M + m] = from_float<T>(to_float(x[(b * M + m) * padded + t]) + shift);
}

static void unsegment_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor base) {
    cuda_context *ctx = cuda_of(be);
    int64_t B = y.dim[0], U = y.dim[1], M = y.dim[2];
    CUDA_BY_TYPE(ctx, y.dtype,
                 CUDA_LAUNCH(ctx, unsegment_fwd_kernel<T>, (unsigned)(B * M), THREADS, 0, cuda_data<T>(y),
                             (const T *)cuda_data<T>(x), (const float *)oht_f32(base), U, M,
                             x.dim[2] * x.dim[3], base.data ? base.dim[1] : (int64_t)1));
}

template <class T>
__global__ void unsegment_bwd_kernel(T *dx, const T *dy, int64_t n, int64_t U, int64_t M, int64_t padded,
                                     bool add) {
    for (EACH(i, n)) { // dx: (B,M,padded)
        int64_t t = i % padded, m = i / padded % M, b = i / padded / M;
        put(dx, i, t < U ? dy[(b * U + t) * M + m] : from_float<T>(0.0f), add);
    }
}

static void unsegment_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(dx);
    CUDA_BY_TYPE(ctx, dx.dtype,
                 CUDA_LAUNCH(ctx, unsegment_bwd_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0,
                             cuda_data<T>(dx), (const T *)cuda_data<T>(dy), n, dy.dim[1], dy.dim[2],
                             dx.dim[2] * dx.dim[3], add));
}

// A row has L segments and is shown at `places` of them; those behind the last show the last ones again, in order.
template <class T>
__global__ void merge_fwd_kernel(T *y, const T *x, int64_t n, int64_t L, int64_t C, int64_t places) {
    for (EACH(i, n)) { // y: (rows,places,C)
        int64_t c = i % C, at = i / C % places, r = i / C / places;
        y[i] = x[(r * L + (at < L ? at : at - (places - L))) * C + c];
    }
}
template <class T>
__global__ void merge_bwd_kernel(T *dx, const T *dy, int64_t n, int64_t L, int64_t C, int64_t places,
                                 bool add) {
    for (EACH(i, n)) { // dx: (rows,L,C)
        int64_t c = i % C, l = i / C % L, r = i / C / L;
        float sum = (add ? to_float(dx[i]) : 0.0f) + to_float(dy[(r * places + l) * C + c]);
        int64_t again = l + places - L; // the place behind the last that shows this segment too
        if (again >= L && again < places) sum += to_float(dy[(r * places + again) * C + c]);
        dx[i] = from_float<T>(sum);
    }
}

static void merge_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor x) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(y), C = x.dim[3];
    CUDA_BY_TYPE(ctx, x.dtype,
                 CUDA_LAUNCH(ctx, merge_fwd_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0,
                             cuda_data<T>(y), (const T *)cuda_data<T>(x), n, x.dim[2], C,
                             y.dim[2] * (y.dim[3] / C)));
}
static void merge_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(dx), C = dx.dim[3];
    CUDA_BY_TYPE(ctx, dx.dtype,
                 CUDA_LAUNCH(ctx, merge_bwd_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0,
                             cuda_data<T>(dx), (const T *)cuda_data<T>(dy), n, dx.dim[2], C,
                             dy.dim[2] * (dy.dim[3] / C), add));
}

template <class T>
__global__ void patches_kernel(T *y, const uint8_t *images, int64_t n, int64_t S, int64_t p) {
    int64_t side = S / p, width = 3 * p * p;
    for (EACH(at, n)) { // y: (B,side^2,3pp)
        int64_t r = at / width, c = at % width / (p * p), i = at % (p * p) / p, j = at % p;
        int64_t b = r / (side * side), top = r / side % side * p, left = r % side * p;
        y[at] = from_float<T>((float)images[((b * S + top + i) * S + left + j) * 3 + c] / 127.5f - 1.0f);
    }
}

static void patches_cuda(oht_backend *be, oht_tensor y, oht_tensor images, int patch) {
    cuda_context *ctx = cuda_of(be);
    int64_t n = oht_tensor_count(y);
    CUDA_BY_TYPE(ctx, y.dtype,
                 CUDA_LAUNCH(ctx, patches_kernel<T>, cuda_grid(ctx, n, THREADS), THREADS, 0, cuda_data<T>(y),
                             (const uint8_t *)oht_u8(images), n, images.dim[1], (int64_t)patch));
}

void cuda_layout_entries(oht_backend *be) {
    be->mix_heads = mix_heads_cuda;
    be->swap_axes = swap_axes_cuda;
    be->segment = segment_cuda;
    be->unsegment_fwd = unsegment_fwd_cuda;
    be->unsegment_bwd = unsegment_bwd_cuda;
    be->merge_fwd = merge_fwd_cuda;
    be->merge_bwd = merge_bwd_cuda;
    be->patches = patches_cuda;
}
