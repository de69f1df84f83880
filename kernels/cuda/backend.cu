// The CUDA backend: its context, memory, errors, and the one symbol that libohtrain_cuda.so exports.
#include <stdio.h>
#include <stdlib.h>

#include "cuda/cuda.h"

void cuda_note(cuda_context *ctx, const char *what, const char *error, const char *file, int line) {
    if (ctx->failed) return;
    ctx->failed = true;
    snprintf(ctx->message, sizeof(ctx->message), "GPU %d: %s: %s (%s:%d)", ctx->device, what, error, file,
             line);
}

bool cuda_wait(cuda_context *ctx) {
    return CUDA_OK(ctx, cudaStreamSynchronize(ctx->stream)) && !ctx->failed;
}

bool cuda_fetch(cuda_context *ctx, const void *from, size_t bytes) {
    if (ctx->failed) return false;
    CUDA_OK(ctx, cudaMemcpyAsync(ctx->result, from, bytes, cudaMemcpyDeviceToHost, ctx->stream));
    return cuda_wait(ctx);
}

// ---- memory ----
static oht_status alloc_cuda(oht_backend *be, void **out, size_t bytes, const char *what) {
    cuda_context *ctx = cuda_of(be);
    *out = NULL;
    cudaError_t e = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (e == cudaSuccess) e = cudaMemsetAsync(*out, 0, bytes, ctx->stream);
    if (e == cudaSuccess) return OHT_OK;
    size_t left = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&left, &total);
    return ctx->host->error_set(
        OHT_MEMORY, __FILE__, __LINE__,
        "GPU %d: %.1f MiB for %s: %s; %.1f of %.1f MiB are free\n"
        "fix: a smaller train.micro_batch or eval.micro_batch, train.recompute=true, or more GPUs",
        ctx->device, (double)bytes / 1048576.0, what, cudaGetErrorString(e), (double)left / 1048576.0,
        (double)total / 1048576.0);
}

static void free_cuda(oht_backend *be, void *ptr) {
    if (ptr) CUDA_OK(cuda_of(be), cudaFree(ptr));
}

static void transfer(oht_backend *be, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) {
    cuda_context *ctx = cuda_of(be);
    if (bytes > 0 && !ctx->failed) CUDA_OK(ctx, cudaMemcpyAsync(dst, src, bytes, kind, ctx->stream));
}

static void upload_cuda(oht_backend *be, void *dst, const void *src, size_t bytes) {
    transfer(be, dst, src, bytes,
             cudaMemcpyHostToDevice); // pageable: `src` is free again when the call returns
}

static void download_cuda(oht_backend *be, void *dst, const void *src, size_t bytes) {
    transfer(be, dst, src, bytes, cudaMemcpyDeviceToHost);
    if (bytes > 0 && !cuda_wait(cuda_of(be)))
        memset(dst, 0xff, bytes); // NaN: nobody mistakes it for a result
}

static void copy_cuda(oht_backend *be, void *dst, const void *src, size_t bytes) {
    transfer(be, dst, src, bytes, cudaMemcpyDeviceToDevice);
}

static void zero_cuda(oht_backend *be, void *dst, size_t bytes) {
    cuda_context *ctx = cuda_of(be);
    if (bytes > 0 && !ctx->failed) CUDA_OK(ctx, cudaMemsetAsync(dst, 0, bytes, ctx->stream));
}

static oht_status sync_cuda(oht_backend *be) {
    cuda_context *ctx = cuda_of(be);
    if (cuda_wait(ctx)) return OHT_OK;
    ctx->failed = false;
    return ctx->host->error_set(OHT_COMM, __FILE__, __LINE__, "%s", ctx->message);
}

// ---- life ----
static void destroy_cuda(oht_backend *be) {
    cuda_context *ctx = cuda_of(be);
    if (ctx->stream) (void)cudaStreamSynchronize(ctx->stream);
    cuda_linear_end(ctx);
    cuda_link_end(ctx);
    (void)cudaFree(ctx->workspace);
    (void)cudaFree(ctx->partial);
    (void)cudaFreeHost(ctx->result);
    if (ctx->stream) (void)cudaStreamDestroy(ctx->stream);
    delete ctx;
    delete be;
}

static bool start(cuda_context *ctx) {
    return CUDA_OK(ctx, cudaSetDevice(ctx->device)) &&
           CUDA_OK(ctx, cudaDeviceGetAttribute(&ctx->multiprocessors, cudaDevAttrMultiProcessorCount,
                                               ctx->device)) &&
           CUDA_OK(ctx, cudaStreamCreateWithFlags(&ctx->stream, cudaStreamNonBlocking)) &&
           CUDA_OK(ctx, cudaMalloc(&ctx->workspace, CUDA_WORKSPACE)) &&
           CUDA_OK(ctx, cudaMalloc(&ctx->partial, CUDA_PARTIAL)) &&
           CUDA_OK(ctx, cudaHostAlloc(&ctx->result, CUDA_HOST, cudaHostAllocDefault)) &&
           cuda_linear_start(ctx);
}

static oht_status create(const oht_plugin_host *host, int local_rank, oht_backend **out) {
    *out = NULL;
    if (host->size != sizeof(*host))
        return OHT_INTERNAL; // another program's: not even its error function can be trusted
    int devices = 0;
    cudaError_t e = cudaGetDeviceCount(&devices); // any failure means none: 35 without a driver
    if (e != cudaSuccess || devices < 1)
        return host->error_set(OHT_COMM, __FILE__, __LINE__,
                               "no CUDA device: %s\nfix: a node with an NVIDIA driver, or run.device=cpu",
                               e != cudaSuccess ? cudaGetErrorString(e) : "none is visible");
    cuda_context *ctx = new cuda_context();
    ctx->host = host;
    ctx->device = local_rank % devices;
    oht_backend *be = new oht_backend();
    be->name = "cuda";
    be->ctx = ctx;
    be->threads = 1;
    if (!start(ctx)) {
        oht_status status = host->error_set(OHT_COMM, __FILE__, __LINE__, "%s", ctx->message);
        destroy_cuda(be);
        return status;
    }
    be->destroy = destroy_cuda;
    be->alloc = alloc_cuda;
    be->free = free_cuda;
    be->upload = upload_cuda;
    be->download = download_cuda;
    be->zero = zero_cuda;
    be->copy = copy_cuda;
    be->sync = sync_cuda;
    cuda_linear_entries(be);
    cuda_rows_entries(be);
    cuda_loss_entries(be);
    cuda_optimizer_entries(be);
    cuda_layout_entries(be);
    cuda_statistics_entries(be);
    cuda_fakequant_entries(be);
    cuda_link_entries(be);
    cuda_record_entries(be);
    cuda_precision_entries(be);
    cuda_attention_entries(be);
    cuda_hopfield_entries(be);
    cuda_settle_entries(be);
    cuda_gate_entries(be);
    cuda_layernorm_entries(be);
    cuda_dropout_entries(be);
    *out = be;
    return OHT_OK;
}

static const oht_plugin plugin = {sizeof(oht_plugin), OHT_PLUGIN_VERSION, sizeof(oht_backend), create};

extern "C" __attribute__((visibility("default"))) const oht_plugin *oht_backend_v1(void);
extern "C" const oht_plugin *oht_backend_v1(void) {
    return &plugin;
}
