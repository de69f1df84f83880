// Statistics of activations (oht_moments), and means per head. One block a row: first the shifted sums, the largest
// magnitude with its place and what is not finite, then the central sums about the mean and the 6-sigma outliers, which
// need it; the second reading of a row comes from the cache. Sums in double, as on the CPU.
#include "cuda/cuda.h"

enum { THREADS = 256 };

// Largest key of the block, in every thread.
__device__ __forceinline__ unsigned long long block_max_key(unsigned long long key) {
    OHT_SHARED(unsigned long long, part, WARP);
    for (int o = WARP / 2; o > 0; o /= 2) {
        unsigned long long other = __shfl_xor_sync(0xffffffffu, key, o);
        key = other > key ? other : key;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = key;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / WARP; w++) key = part[w] > key ? part[w] : key;
    return key;
}

template <class T>
__global__ void __launch_bounds__(THREADS, 6) // so many blocks: ptxas spills without
    moments_rows(oht_moments *out, const T *all, int64_t n, double inverse_n) {
    const T *x = all + (int64_t)blockIdx.x * n;
    const unsigned inf = 0x7f800000u;
    float head = to_float(x[0]);
    double x0 = (__float_as_uint(head) & 0x7fffffffu) < inf ? (double)head : 0.0; // constant rows are exact
    double s1 = 0.0, s2 = 0.0;
    long long bad = 0;
    unsigned long long key =
        0; // bits of |x|, which are ordered like the values, then inf, then NaN; and the first place
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float v = to_float(x[i]);
        unsigned bits = __float_as_uint(v) & 0x7fffffffu;
        unsigned long long mine = (unsigned long long)bits << 32 | (0xffffffffu - (unsigned)i);
        key = mine > key ? mine : key;
        bad += bits >= inf;
        double d = (double)v - x0;
        s1 += d;
        s2 += d * d;
    }
    s1 = block_sum(s1);
    s2 = block_sum(s2);
    bad = block_sum(bad);
    key = block_max_key(key);
    double shift = s1 * inverse_n, variance = s2 * inverse_n - shift * shift, mean = x0 + shift;
    double limit =
        36.0 * (variance > 0.0 ? variance : 0.0); // of the square: divisions and roots would need a stack
    double m2 = 0.0, m3 = 0.0, m4 = 0.0;
    long long far = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        double d = (double)to_float(x[i]) - mean, d2 = d * d;
        m2 += d2;
        m3 += d2 * d;
        m4 += d2 * d2;
        far += d2 > limit;
    }
    m2 = block_sum(m2);
    m3 = block_sum(m3);
    m4 = block_sum(m4);
    far = block_sum(far);
    if (threadIdx.x > 0) return;
    oht_moments r;
    r.n = n;
    r.mean = mean;
    r.m2 = m2;
    r.m3 = m3;
    r.m4 = m4;
    r.abs_max = (double)__uint_as_float((unsigned)(key >> 32));
    r.abs_argmax = (int64_t)(0xffffffffu - (unsigned)key);
    r.outliers_6sigma = far;
    r.nonfinite = bad;
    out[blockIdx.x] = r;
}

template <class T>
static void moments(cuda_context *ctx, const T *x, int64_t rows, int64_t n, oht_moments *out) {
    if (rows > 0) memset((void *)out, 0, (size_t)rows * sizeof(*out));
    const int64_t most = CUDA_HOST / sizeof(*out);
    for (int64_t i = 0; n > 0 && i < rows; i += most) {
        int64_t some = cuda_min(most, rows - i);
        CUDA_LAUNCH(ctx, moments_rows<T>, (unsigned)some, THREADS, 0, (oht_moments *)ctx->partial, x + i * n,
                    n, 1.0 / (double)n);
        if (!cuda_fetch(ctx, ctx->partial, (size_t)some * sizeof(*out))) return; // sync says why
        memcpy((void *)(out + i), ctx->result, (size_t)some * sizeof(*out));
    }
}

static void moments_cuda(oht_backend *be, const void *x, oht_dtype type, int64_t rows, int64_t n,
                         oht_moments *out) {
    CUDA_BY_TYPE(cuda_of(be), type, moments<T>(cuda_of(be), (const T *)x, rows, n, out));
}

// ---- means per head: one block a head ----
__global__ void __launch_bounds__(THREADS)
    null_mass_heads(double *mean, const float *row, int64_t B, int64_t H, int64_t T_) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < B * T_; i += THREADS)
        sum += (double)expf(-row[(i / T_ * H + blockIdx.x) * T_ + i % T_]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) mean[blockIdx.x] = B * T_ > 0 ? sum / (double)(B * T_) : 0.0;
}

// p: (groups,H,n), n = L S; the rest of L rows that sum to at most 1
__global__ void __launch_bounds__(THREADS)
    null_mass_rows(double *mean, const float *p, int64_t groups, int64_t H, int64_t n, double rows) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < groups * n; i += THREADS)
        sum += (double)p[(i / n * H + blockIdx.x) * n + i % n];
    sum = block_sum(sum);
    if (threadIdx.x == 0) mean[blockIdx.x] = rows > 0 ? (rows - sum) / rows : 0.0;
}

__global__ void __launch_bounds__(THREADS)
    gate_mean_heads(double *mean, const float *pi, int64_t N, int64_t H) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < N; i += THREADS) sum += (double)pi[i * H + blockIdx.x];
    sum = block_sum(sum);
    if (threadIdx.x == 0) mean[blockIdx.x] = N > 0 ? sum / (double)N : 0.0;
}

static void fetch_heads(cuda_context *ctx, double *mean_h, int64_t H) {
    bool ok = cuda_fetch(ctx, ctx->partial, (size_t)H * sizeof(double));
    for (int64_t h = 0; h < H; h++) mean_h[h] = ok ? ((double *)ctx->result)[h] : (double)NAN;
}

static void null_mass_cuda(oht_backend *be, double *mean_h, oht_tensor row) {
    cuda_context *ctx = cuda_of(be);
    int64_t H = row.dim[1];
    if (row.rank == 4)
        CUDA_LAUNCH(ctx, null_mass_rows, (unsigned)H, THREADS, 0, (double *)ctx->partial,
                    (const float *)oht_f32(row), row.dim[0], H, row.dim[2] * row.dim[3],
                    (double)(row.dim[0] * row.dim[2]));
    else
        CUDA_LAUNCH(ctx, null_mass_heads, (unsigned)H, THREADS, 0, (double *)ctx->partial,
                    (const float *)oht_f32(row), row.dim[0], H, row.dim[2]);
    fetch_heads(ctx, mean_h, H);
}

static void gate_mean_cuda(oht_backend *be, double *mean_h, oht_tensor pi) {
    cuda_context *ctx = cuda_of(be);
    int64_t H = pi.dim[pi.rank - 1];
    CUDA_LAUNCH(ctx, gate_mean_heads, (unsigned)H, THREADS, 0, (double *)ctx->partial,
                (const float *)oht_f32(pi), oht_tensor_rows(pi), H);
    fetch_heads(ctx, mean_h, H);
}

void cuda_statistics_entries(oht_backend *be) {
    be->moments = moments_cuda;
    be->null_mass = null_mass_cuda;
    be->gate_mean = gate_mean_cuda;
}
