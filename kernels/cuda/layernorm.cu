// LayerNorm over the last axis, a warp a row: y = (x - mean) rstd gamma + beta, rstd = (biased var + eps)^-1/2. Backward, xh =
// (x - mean) rstd, g = dy gamma:  dx = rstd (g - mean(g) - xh mean(g xh)),  dgamma = sum_n dy xh,  dbeta = sum_n dy.
// Rows are read from cache in the second and third pass. Each warp sums dgamma and dbeta of its rows in shared memory, where a
// lane owns its columns; a block's warps, then the blocks, are added in order: no atomics.
#include "cuda/warp.h"

enum { NORM_WARPS = 8, NORM_BWD_WARPS = 4, NORM_BLOCKS = 256 };

// Calls f(column, lane's vector of x as floats) for the lane's columns. N: elements of a vector.
template <int N, class T> __device__ __forceinline__ void load_vector(float (&v)[N], const T *p) {
    if constexpr (N == 1) {
        v[0] = load(p);
    } else {
        pack<T> x = *(const pack<T> *)p;
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = to_float(x.v[i]);
    }
}
template <int N, class T> __device__ __forceinline__ void store_vector(T *p, const float (&v)[N]) {
    if constexpr (N == 1) {
        *p = from_float<T>(v[0]);
    } else {
        pack<T> x;
#pragma unroll
        for (int i = 0; i < N; i++) x.v[i] = from_float<T>(v[i]);
        *(pack<T> *)p = x;
    }
}

template <class T, int N>
__global__ void __launch_bounds__(NORM_WARPS *WARP)
    layernorm_fwd_kernel(T *__restrict__ y, float *__restrict__ mean, float *__restrict__ rstd, const T *__restrict__ x,
                         const T *__restrict__ gamma, const T *__restrict__ beta, int64_t rows, int C, float eps) {
    const int64_t row = (int64_t)blockIdx.x * NORM_WARPS + threadIdx.x / WARP;
    const int lane = threadIdx.x % WARP;
    if (row >= rows) return;
    const T *xr = x + row * C;
    T *yr = y + row * C;
    float sum = 0.0f, square = 0.0f, v[N], g[N], b[N];
    for (int c = lane * N; c < C; c += WARP * N) {
        load_vector(v, xr + c);
#pragma unroll
        for (int i = 0; i < N; i++) sum += v[i];
    }
    const float mu = warp_sum(sum) / (float)C;
    for (int c = lane * N; c < C; c += WARP * N) {
        load_vector(v, xr + c);
#pragma unroll
        for (int i = 0; i < N; i++) square += (v[i] - mu) * (v[i] - mu);
    }
    const float r = 1.0f / sqrtf(warp_sum(square) / (float)C + eps);
    for (int c = lane * N; c < C; c += WARP * N) {
        load_vector(v, xr + c);
        load_vector(g, gamma + c);
        load_vector(b, beta + c);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = (v[i] - mu) * r * g[i] + b[i];
        store_vector(yr + c, v);
    }
    if (lane == 0) mean[row] = mu, rstd[row] = r;
}

// parts: (blocks, 2, C).
template <class T, int N>
__global__ void __launch_bounds__(NORM_BWD_WARPS *WARP)
    layernorm_bwd_kernel(T *__restrict__ dx, float *__restrict__ parts, const T *__restrict__ dy, const T *__restrict__ x,
                         const T *__restrict__ gamma, const float *__restrict__ mean, const float *__restrict__ rstd, int64_t rows,
                         int C, bool add) {
    OHT_DYN_SHARED(float, sums); // (warps, 2, C)
    const int warps = blockDim.x / WARP, w = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *dgamma = sums + (size_t)w * 2 * C, *dbeta = dgamma + C;
    for (int c = lane * N; c < C; c += WARP * N)
#pragma unroll
        for (int i = 0; i < N; i++) dgamma[c + i] = dbeta[c + i] = 0.0f;
    float v[N], d[N], g[N], old[N] = {};
    for (int64_t row = (int64_t)blockIdx.x * warps + w; row < rows; row += (int64_t)gridDim.x * warps) {
        const T *xr = x + row * C, *dr = dy + row * C;
        const float mu = mean[row], r = rstd[row];
        float sum = 0.0f, dot = 0.0f;
        for (int c = lane * N; c < C; c += WARP * N) {
            load_vector(v, xr + c);
            load_vector(d, dr + c);
            load_vector(g, gamma + c);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float xh = (v[i] - mu) * r;
                dgamma[c + i] += d[i] * xh;
                dbeta[c + i] += d[i];
                sum += d[i] * g[i];
                dot += d[i] * g[i] * xh;
            }
        }
        if (!dx) continue;
        sum = warp_sum(sum) / (float)C;
        dot = warp_sum(dot) / (float)C;
        for (int c = lane * N; c < C; c += WARP * N) {
            load_vector(v, xr + c);
            load_vector(d, dr + c);
            load_vector(g, gamma + c);
            if (add) load_vector(old, dx + row * C + c);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float xh = (v[i] - mu) * r, value = r * (d[i] * g[i] - sum - xh * dot);
                d[i] = add ? old[i] + value : value;
            }
            store_vector(dx + row * C + c, d);
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < 2 * C; c += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < warps; i++) sum += sums[(size_t)i * 2 * C + c];
        parts[(size_t)blockIdx.x * 2 * C + c] = sum;
    }
}

// dgamma and dbeta (fp32) from the blocks' parts: a warp a column, lanes share the blocks.
__global__ void layernorm_parts_kernel(float *__restrict__ dgamma, float *__restrict__ dbeta, const float *__restrict__ parts,
                                       int blocks, int C, bool add) {
    OHT_SHARED2(float, part, 8, WARP + 1);
    const int c = blockIdx.x * WARP + threadIdx.x % WARP, w = threadIdx.x / WARP; // 8 warps share the blocks, lanes have columns
    float sum = 0.0f;
    if (c < 2 * C)
        for (int i = w; i < blocks; i += 8) sum += parts[(size_t)i * 2 * C + c];
    part[w][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (w > 0 || c >= 2 * C) return;
    for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x % WARP];
    float *to = c < C ? dgamma : dbeta;
    if (to) store(to + c % C, sum, add);
}

// All rows and vectors of parameters can be read 16 bytes at a time.
static bool norm_vectors(oht_tensor x, int64_t C, const void *const *more, int n) {
    bool good = C % (16 / (int64_t)oht_dtype_size(x.dtype)) == 0 && aligned16(x.data);
    for (int i = 0; i < n; i++) good = good && aligned16(more[i]);
    return good;
}

template <class T, int N>
static void run_fwd(cuda_context *ctx, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x, oht_tensor gamma,
                    oht_tensor beta, float eps) {
    int64_t rows = oht_tensor_rows(x), C = x.dim[x.rank - 1];
    CUDA_LAUNCH(ctx, (layernorm_fwd_kernel<T, N>), dim3(cuda_blocks(rows, NORM_WARPS)), dim3(NORM_WARPS * WARP), 0, cuda_data<T>(y),
                oht_f32(mean), oht_f32(rstd), cuda_data<T>(x), cuda_data<T>(gamma), cuda_data<T>(beta), rows, (int)C, eps);
}

static void layernorm_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x, oht_tensor gamma,
                               oht_tensor beta, float eps) {
    cuda_context *ctx = cuda_of(be);
    const void *more[] = {y.data, gamma.data, beta.data};
    bool vectors = norm_vectors(x, x.dim[x.rank - 1], more, 3);
    CUDA_BY_TYPE(ctx, x.dtype, if (vectors) run_fwd<T, pack<T>::N>(ctx, y, mean, rstd, x, gamma, beta, eps);
                 else run_fwd<T, 1>(ctx, y, mean, rstd, x, gamma, beta, eps));
}

static int64_t norm_blocks(int64_t rows) {
    int64_t n = (rows + NORM_BWD_WARPS - 1) / NORM_BWD_WARPS;
    return cuda_min(n, NORM_BLOCKS);
}

static size_t layernorm_bwd_scratch_cuda(oht_backend *be, int64_t N, int64_t C) {
    (void)be;
    return (size_t)norm_blocks(N) * 2 * (size_t)C * sizeof(float);
}

template <class T, int N>
static void run_bwd(cuda_context *ctx, oht_tensor dx, oht_tensor dy, oht_tensor x, oht_tensor gamma, oht_tensor mean,
                    oht_tensor rstd, bool add_dx, float *parts) {
    int64_t rows = oht_tensor_rows(x), C = x.dim[x.rank - 1];
    size_t warps = NORM_BWD_WARPS, each = 2 * (size_t)C * sizeof(float);
    while (warps > 1 && warps * each > 160 * 1024) warps /= 2;
    allow_shared(ctx, (const void *)layernorm_bwd_kernel<T, N>, warps * each);
    CUDA_LAUNCH(ctx, (layernorm_bwd_kernel<T, N>), dim3((unsigned)norm_blocks(rows)), dim3((unsigned)(warps * WARP)), warps * each,
                cuda_data<T>(dx), parts, cuda_data<T>(dy), cuda_data<T>(x), cuda_data<T>(gamma), oht_f32(mean), oht_f32(rstd), rows,
                (int)C, add_dx);
}

static void layernorm_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dgamma, oht_tensor dbeta, oht_tensor dy, oht_tensor x,
                               oht_tensor gamma, oht_tensor mean, oht_tensor rstd, bool add_dx, bool add_dp, void *scratch) {
    cuda_context *ctx = cuda_of(be);
    int64_t C = x.dim[x.rank - 1];
    const void *more[] = {dx.data, dy.data, gamma.data};
    bool vectors = norm_vectors(x, C, more, 3);
    float *parts = (float *)scratch;
    CUDA_BY_TYPE(ctx, x.dtype, if (vectors) run_bwd<T, pack<T>::N>(ctx, dx, dy, x, gamma, mean, rstd, add_dx, parts);
                 else run_bwd<T, 1>(ctx, dx, dy, x, gamma, mean, rstd, add_dx, parts));
    CUDA_LAUNCH(ctx, layernorm_parts_kernel, dim3(cuda_blocks(2 * C, WARP)), dim3(8 * WARP), 0, oht_f32(dgamma), oht_f32(dbeta),
                parts, (int)norm_blocks(oht_tensor_rows(x)), (int)C, add_dp);
}

void cuda_layernorm_entries(oht_backend *be) {
    be->layernorm_fwd = layernorm_fwd_cuda;
    be->layernorm_bwd_scratch = layernorm_bwd_scratch_cuda;
    be->layernorm_bwd = layernorm_bwd_cuda;
}
