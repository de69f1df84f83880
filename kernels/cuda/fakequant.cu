// Simulated quantization: range of a tensor, quantization in place, the error it makes; as kernels/cpu/fakequant.c. Tensors
// are rows of n floats that stand ld apart. Real divisions and rounding half to even, so that ties fall as on the CPU.
#include "cuda/cuda.h"

enum { THREADS = 256, MOST_BLOCKS = 1024 };

struct extent {
    float lo, hi;
    int bad;
};

__device__ __forceinline__ float warp_min(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) v = fminf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__global__ void __launch_bounds__(THREADS)
    minmax_part(extent *part, const float *x, int64_t rows, int64_t n, int64_t ld) {
    OHT_SHARED(float, low, THREADS / WARP);
    float lo = INFINITY, hi = -INFINITY;
    int bad = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < rows * n;
         i += (int64_t)gridDim.x * THREADS) {
        float v = x[i / n * ld + i % n];
        lo = fminf(lo, v);
        hi = fmaxf(hi, v);
        bad |= !(v - v == 0.0f);
    }
    lo = warp_min(lo);
    if (threadIdx.x % WARP == 0) low[threadIdx.x / WARP] = lo;
    hi = block_max(hi); // its barriers show low[] too
    bad = block_sum(bad);
    if (threadIdx.x > 0) return;
    for (int w = 1; w < THREADS / WARP; w++) lo = fminf(lo, low[w]);
    part[blockIdx.x] = {lo, hi, bad};
}

static void minmax_cuda(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, float out[2]) {
    cuda_context *ctx = cuda_of(be);
    int64_t blocks = cuda_min(cuda_blocks(rows * n, 4 * THREADS), MOST_BLOCKS);
    out[0] = out[1] = NAN;
    if (blocks < 1) return;
    CUDA_LAUNCH(ctx, minmax_part, (unsigned)blocks, THREADS, 0, (extent *)ctx->partial, x, rows, n, ld);
    if (!cuda_fetch(ctx, ctx->partial, (size_t)blocks * sizeof(extent))) return;
    const extent *e = (const extent *)ctx->result;
    float lo = INFINITY, hi = -INFINITY;
    for (int64_t i = 0; i < blocks; i++) {
        if (e[i].bad) return;
        lo = fminf(lo, e[i].lo);
        hi = fmaxf(hi, e[i].hi);
    }
    out[0] = lo;
    out[1] = hi;
}

// ---- quantizers ----
__device__ __forceinline__ float code_of(float x, oht_fakequant q) {
    return rintf(x / q.step) + q.zero;
}
__device__ __forceinline__ float clip(float code, oht_fakequant q) { // NaN passes
    code = code < q.low ? q.low : code;
    return code > q.high ? q.high : code;
}

// q[row] when there is one a row, else `one`
__global__ void __launch_bounds__(THREADS) fake_quantize_kernel(float *x, int64_t rows, int64_t n, int64_t ld,
                                                                const oht_fakequant *q, oht_fakequant one) {
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < rows * n;
         i += (int64_t)gridDim.x * THREADS) {
        oht_fakequant mine = q ? q[i / n] : one;
        float *at = x + i / n * ld + i % n;
        *at = mine.step * (clip(code_of(*at, mine), mine) - mine.zero);
    }
}

__global__ void __launch_bounds__(THREADS)
    quant_error_part(oht_quant_error *part, const float *x, int64_t rows, int64_t n, int64_t ld,
                     const oht_fakequant *q, oht_fakequant one) {
    double signal = 0.0, noise = 0.0;
    long long clipped = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < rows * n;
         i += (int64_t)gridDim.x * THREADS) {
        oht_fakequant mine = q ? q[i / n] : one;
        float v = x[i / n * ld + i % n], code = code_of(v, mine), kept = clip(code, mine);
        double d = (double)v - (double)(mine.step * (kept - mine.zero));
        signal += (double)v * (double)v;
        noise += d * d;
        clipped += code != kept;
    }
    signal = block_sum(signal);
    noise = block_sum(noise);
    clipped = block_sum(clipped);
    if (threadIdx.x == 0) part[blockIdx.x] = {signal, noise, clipped};
}

// Rows whose quantizers fit half of ctx->partial; the other half is for sums.
static const int64_t MOST_ROWS = CUDA_PARTIAL / 2 / sizeof(oht_fakequant);
static oht_fakequant *place_quantizers(oht_backend *be, const oht_fakequant *q, int64_t rows, bool per_row) {
    if (!per_row) return nullptr;
    oht_fakequant *to = (oht_fakequant *)((char *)cuda_of(be)->partial + CUDA_PARTIAL / 2);
    be->upload(be, to, q, (size_t)rows * sizeof(*q));
    return to;
}

static void fake_quantize_cuda(oht_backend *be, float *x, int64_t rows, int64_t n, int64_t ld,
                               const oht_fakequant *q, bool per_row) {
    cuda_context *ctx = cuda_of(be);
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        int64_t some = cuda_min(MOST_ROWS, rows - r);
        const oht_fakequant *there = place_quantizers(be, per_row ? q + r : q, some, per_row);
        CUDA_LAUNCH(ctx, fake_quantize_kernel, cuda_grid(ctx, some * n, THREADS), THREADS, 0, x + r * ld,
                    some, n, ld, there, *q);
    }
}

static void quant_error_cuda(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld,
                             const oht_fakequant *q, bool per_row, oht_quant_error *out) {
    cuda_context *ctx = cuda_of(be);
    oht_quant_error sum = {0.0, 0.0, 0};
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        int64_t some = cuda_min(MOST_ROWS, rows - r),
                blocks = cuda_min(cuda_blocks(some * n, 4 * THREADS), MOST_BLOCKS);
        if (blocks < 1) break;
        const oht_fakequant *there = place_quantizers(be, per_row ? q + r : q, some, per_row);
        CUDA_LAUNCH(ctx, quant_error_part, (unsigned)blocks, THREADS, 0, (oht_quant_error *)ctx->partial,
                    x + r * ld, some, n, ld, there, *q);
        if (!cuda_fetch(ctx, ctx->partial, (size_t)blocks * sizeof(sum))) {
            sum.signal = sum.noise = NAN;
            break;
        }
        const oht_quant_error *part = (const oht_quant_error *)ctx->result;
        for (int64_t i = 0; i < blocks; i++) {
            sum.signal += part[i].signal;
            sum.noise += part[i].noise;
            sum.clipped += part[i].clipped;
        }
    }
    *out = sum;
}

void cuda_fakequant_entries(oht_backend *be) {
    be->minmax = minmax_cuda;
    be->fake_quantize = fake_quantize_cuda;
    be->quant_error = quant_error_cuda;
}
