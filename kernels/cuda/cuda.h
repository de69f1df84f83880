// Inside of the CUDA backend: its context, how errors are kept, how kernels are launched, and reductions that every
// kernel uses. Contracts of the entries stand in oht/backend.h. Each file fills its part of the table by a function
// cuda_..._entries.
//
//   storage      activations, their gradients and the working copy of parameters: float, __nv_bfloat16 or __half
//                (tensor.dtype); arithmetic in float. Gradients of parameters, optimizer state, row statistics and
//                sums are float or double whatever the activations are.
//   order        one stream; entries return before their work is done, but those that give a host result wait.
//   reductions   in an order that shapes alone decide: no atomics on floats. Partial sums go through ctx->partial.
//   errors       the first one is kept in ctx and comes out of sync.
#pragma once

#include "cuda/gpu.h"

#include <cublasLt.h>

#include "oht/backend.h"
#include "oht/plugin.h"
#include "oht/tensor.h"

enum : size_t { CUDA_WORKSPACE = 32u << 20, CUDA_PARTIAL = 8u << 20, CUDA_HOST = 64u << 10 };

struct cuda_gemms; // linear.cu: the algorithms chosen so far
struct cuda_link;  // link.cu: the other GPUs

struct cuda_context {
    const oht_plugin_host *host;
    int device, multiprocessors;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    cuda_gemms *gemms;
    cuda_link *link; // NULL: alone
    void *workspace; // of cuBLASLt, CUDA_WORKSPACE bytes of device memory
    void *partial; // CUDA_PARTIAL bytes of device memory, free between entries
    void *result; // CUDA_HOST bytes of page-locked host memory for results, free between entries
    bool failed;
    char message[512]; // of the first error
};

static inline cuda_context *cuda_of(const oht_backend *be) {
    return (cuda_context *)be->ctx;
}

// Keeps the first error. backend.cu
void cuda_note(cuda_context *ctx, const char *what, const char *error, const char *file, int line);

// A call of the runtime, of cuBLASLt: success?
#define CUDA_OK(ctx, call) cuda_ok((ctx), (call), #call, __FILE__, __LINE__)
static inline bool cuda_ok(cuda_context *ctx, cudaError_t e, const char *call, const char *file, int line) {
    if (e != cudaSuccess) cuda_note(ctx, call, cudaGetErrorString(e), file, line);
    return e == cudaSuccess;
}
#define CUBLAS_OK(ctx, call) cublas_ok((ctx), (call), #call, __FILE__, __LINE__)
static inline bool cublas_ok(cuda_context *ctx, cublasStatus_t e, const char *call, const char *file,
                             int line) {
    if (e != CUBLAS_STATUS_SUCCESS) cuda_note(ctx, call, cublasLtGetStatusString(e), file, line);
    return e == CUBLAS_STATUS_SUCCESS;
}

// The one way to start a kernel: into the backend's stream. An empty grid starts nothing.
//   CUDA_LAUNCH(ctx, kernel, grid, block, shared_bytes, arguments...); k<T, 2> in parentheses
#define CUDA_LAUNCH(ctx, kernel, grid, block, smem, ...)                                                     \
    do {                                                                                                     \
        dim3 grid_(grid);                                                                                    \
        if (grid_.x > 0 && grid_.y > 0 && grid_.z > 0 && !(ctx)->failed) {                                   \
            OHT_LAUNCH(kernel, grid_, dim3(block), (smem), (ctx)->stream, __VA_ARGS__);                      \
            cuda_ok((ctx), cudaGetLastError(), #kernel, __FILE__, __LINE__);                                 \
        }                                                                                                    \
    } while (0)

// Runs a statement with T as the storage type of a tensor:  CUDA_BY_TYPE(ctx, y.dtype, launch<T>(ctx, y, x));
#define CUDA_BY_TYPE(ctx, type, ...)                                                                         \
    do {                                                                                                     \
        switch (type) {                                                                                      \
        case OHT_F32: {                                                                                      \
            using T = float;                                                                                 \
            __VA_ARGS__;                                                                                     \
        } break;                                                                                             \
        case OHT_BF16: {                                                                                     \
            using T = __nv_bfloat16;                                                                         \
            __VA_ARGS__;                                                                                     \
        } break;                                                                                             \
        case OHT_F16: {                                                                                      \
            using T = __half;                                                                                \
            __VA_ARGS__;                                                                                     \
        } break;                                                                                             \
        default:                                                                                             \
            cuda_note((ctx), __func__, "a tensor of integers", __FILE__, __LINE__);                          \
        }                                                                                                    \
    } while (0)

template <class T> static inline T *cuda_data(oht_tensor t) {
    return (T *)t.data;
}

// Blocks of `per` elements that cover n.
static inline unsigned cuda_blocks(int64_t n, int64_t per) {
    return (unsigned)((n + per - 1) / per);
}
// Enough blocks for n elements where each thread strides over the grid.
static inline unsigned cuda_grid(const cuda_context *ctx, int64_t n, int64_t per) {
    int64_t need = (n + per - 1) / per, most = (int64_t)ctx->multiprocessors * 16;
    return (unsigned)(need < most ? need : most);
}
static inline int64_t cuda_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// Waits for the stream; false (and the error is kept) when something failed. backend.cu
bool cuda_wait(cuda_context *ctx);
// Copies `bytes` of device memory to ctx->result and waits. False: failed, and nothing there means anything. backend.cu
bool cuda_fetch(cuda_context *ctx, const void *from, size_t bytes);

// b[j] (+)= sum of column j of x: (N,C), rows in an order that N alone decides. linear.cu
void cuda_column_sum(cuda_context *ctx, float *b, oht_tensor x, bool add);

// ---- reductions within a warp and a block; every thread gets the result ----
enum { WARP = 32 };

template <class T> __device__ __forceinline__ T warp_sum(T v) {
    for (int o = WARP / 2; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) { // NaN is lost
    for (int o = WARP / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
// All threads of the block must call them; blocks of whole warps.
template <class T> __device__ __forceinline__ T block_sum(T v) {
    OHT_SHARED(T, part, WARP);
    v = warp_sum(v);
    __syncthreads(); // of an earlier call
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    T sum = 0;
    for (unsigned w = 0; w < blockDim.x / WARP; w++) sum += part[w];
    return sum;
}
__device__ __forceinline__ float block_max(float v) {
    OHT_SHARED(float, part, WARP);
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    float max = part[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) max = fmaxf(max, part[w]);
    return max;
}

// ---- the files of the backend ----
void cuda_linear_entries(oht_backend *be); // linear.cu: linear_*
bool cuda_linear_start(cuda_context *ctx); // and what they keep
void cuda_linear_end(cuda_context *ctx);
void cuda_link_entries(oht_backend *be); // link.cu: collectives
void cuda_link_end(cuda_context *ctx);
void cuda_record_entries(oht_backend *be); // record.cu: recorder
void cuda_precision_entries(oht_backend *be); // precision.cu: device, has_type, cast, peak
void cuda_rows_entries(oht_backend *be); // rows.cu: embedding_*, add_rows_*, gather_*, add
void cuda_loss_entries(
    oht_backend *be); // loss.cu: cross_entropy, soft_cross_entropy, squared_error, forecast_errors, top_hits
void cuda_optimizer_entries(oht_backend *be); // optimizer.cu: adamw, sumsq
void cuda_statistics_entries(oht_backend *be); // statistics.cu: moments, null_mass, gate_mean
void cuda_fakequant_entries(oht_backend *be); // fakequant.cu: minmax, fake_quantize, quant_error
void cuda_attention_entries(oht_backend *be); // attention.cu
void cuda_hopfield_entries(oht_backend *be); // hopfield.cu
void cuda_settle_entries(oht_backend *be); // settle.cu: settle_fwd, settle_bwd
void cuda_gate_entries(oht_backend *be); // gate.cu
void cuda_layernorm_entries(oht_backend *be); // layernorm.cu
void cuda_dropout_entries(oht_backend *be); // dropout.cu: dropout_add, dropout_bwd
void cuda_layout_entries(
    oht_backend *be); // layout.cu: mix_heads, swap_axes, segment, unsegment_*, merge_*, patches
