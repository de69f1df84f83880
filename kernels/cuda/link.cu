// Collectives between GPUs by NCCL (oht/backend.h, oht_collectives). They go into a stream of their own and wait for what
// the kernels' stream held when they were queued, so a gradient's first pieces are summed while backward makes the
// others. One communicator, one stream, every rank the same order: nothing can lock up.
//
// The communicator does not block. A rank that died is an asynchronous error of it, one that hangs is found by the clock, at
// its making as at each finish. Both abort the communicator, without which the device would wait for ever.
#include "cuda/cuda.h"

#include <chrono>
#include <sched.h>

#ifdef OHT_NCCL
#include <nccl.h>

struct cuda_link {
    ncclComm_t comm;
    int rank, size;
    double patience_s;
    cudaStream_t stream;
    cudaEvent_t before, kernels, done; // what a collective waits for; all kernels, all collectives queued so far
};

static_assert(sizeof(ncclUniqueId) <= OHT_LINK_ID, "NCCL's id fits");

static bool nccl_ok(cuda_context *ctx, ncclResult_t r, const char *call, int line) {
    if (r != ncclSuccess) cuda_note(ctx, call, ncclGetErrorString(r), __FILE__, line);
    return r == ncclSuccess;
}
#define NCCL_OK(ctx, call) nccl_ok((ctx), (call), #call, __LINE__)

static double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Has the communicator neither an error, nor been waited for longer than patience allows? *seen: its state.
static bool healthy(cuda_context *ctx, const char *what, double waiting_s, ncclResult_t *seen) {
    cuda_link *link = ctx->link;
    if (!NCCL_OK(ctx, ncclCommGetAsyncError(link->comm, seen))) return false;
    if (*seen != ncclSuccess && *seen != ncclInProgress) {
        cuda_note(ctx, what, ncclGetErrorString(*seen), __FILE__, __LINE__);
        return false;
    }
    if (link->patience_s <= 0 || waiting_s < link->patience_s) return true;
    char text[128];
    snprintf(text, sizeof(text), "no end after %.0f s: a rank is gone or hangs (run.patience_s = %g)", waiting_s,
             link->patience_s);
    cuda_note(ctx, what, text, __FILE__, __LINE__);
    return false;
}

static void abandon(cuda_link *link) {
    if (link->comm) (void)ncclCommAbort(link->comm);
    link->comm = nullptr;
}

// The end of a call on the communicator, which does not block: nothing may be queued behind it before.
static bool settled(cuda_context *ctx, ncclResult_t r, const char *call, int line) {
    cuda_link *link = ctx->link;
    double start = seconds_now();
    while (r == ncclInProgress && healthy(ctx, call, seconds_now() - start, &r))
        if (r == ncclInProgress) sched_yield();
    bool ok = !ctx->failed && nccl_ok(ctx, r, call, line);
    if (!ok) abandon(link);
    return ok;
}
#define SETTLED(ctx, call) settled((ctx), (call), #call, __LINE__)

static oht_status failure(cuda_context *ctx) {
    ctx->failed = false;
    return ctx->host->error_set(OHT_COMM, __FILE__, __LINE__, "%s", ctx->message);
}

static oht_status link_id_cuda(oht_backend *be, unsigned char id[OHT_LINK_ID]) {
    ncclUniqueId drawn;
    memset(id, 0, OHT_LINK_ID);
    if (!NCCL_OK(cuda_of(be), ncclGetUniqueId(&drawn))) return failure(cuda_of(be));
    memcpy(id, &drawn, sizeof(drawn));
    return OHT_OK;
}

static oht_status link_cuda(oht_backend *be, const unsigned char id[OHT_LINK_ID], int rank, int size,
                            double patience_s) {
    cuda_context *ctx = cuda_of(be);
    ncclUniqueId drawn;
    memcpy(&drawn, id, sizeof(drawn));
    cuda_link *link = new cuda_link();
    ctx->link = link;
    link->rank = rank;
    link->size = size;
    link->patience_s = patience_s;
    int least = 0, greatest = 0;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    bool ok = SETTLED(ctx, ncclCommInitRankConfig(&link->comm, size, drawn, rank, &config)) &&
              CUDA_OK(ctx, cudaDeviceGetStreamPriorityRange(&least, &greatest)) &&
              CUDA_OK(ctx, cudaStreamCreateWithPriority(&link->stream, cudaStreamNonBlocking, greatest)) &&
              CUDA_OK(ctx, cudaEventCreateWithFlags(&link->before, cudaEventDisableTiming)) &&
              CUDA_OK(ctx, cudaEventCreateWithFlags(&link->kernels, cudaEventDisableTiming)) &&
              CUDA_OK(ctx, cudaEventCreateWithFlags(&link->done, cudaEventDisableTiming));
    return ok ? OHT_OK : failure(ctx);
}

// The link's stream goes on only when the kernels queued so far are done.
static cuda_link *after_kernels(cuda_context *ctx) {
    cuda_link *link = ctx->link;
    if (ctx->failed || !link->comm) return nullptr;
    bool ok = CUDA_OK(ctx, cudaEventRecord(link->before, ctx->stream)) &&
              CUDA_OK(ctx, cudaStreamWaitEvent(link->stream, link->before, 0));
    return ok ? link : nullptr;
}

static void all_reduce_cuda(oht_backend *be, float *x, int64_t n) {
    cuda_context *ctx = cuda_of(be);
    if (cuda_link *link = after_kernels(ctx))
        SETTLED(ctx, ncclAllReduce(x, x, (size_t)n, ncclFloat32, ncclSum, link->comm, link->stream));
}

static void reduce_scatter_cuda(oht_backend *be, float *x, int64_t n) {
    cuda_context *ctx = cuda_of(be);
    if (cuda_link *link = after_kernels(ctx))
        SETTLED(ctx, ncclReduceScatter(x, x + link->rank * n, (size_t)n, ncclFloat32, ncclSum, link->comm, link->stream));
}

static void all_gather_cuda(oht_backend *be, float *x, int64_t n) {
    cuda_context *ctx = cuda_of(be);
    if (cuda_link *link = after_kernels(ctx))
        SETTLED(ctx, ncclAllGather(x + link->rank * n, x, (size_t)n, ncclFloat32, link->comm, link->stream));
}

static oht_status finish_cuda(oht_backend *be, double *waited_s) {
    cuda_context *ctx = cuda_of(be);
    cuda_link *link = ctx->link;
    *waited_s = 0;
    if (ctx->failed) return failure(ctx);
    if (!CUDA_OK(ctx, cudaEventRecord(link->kernels, ctx->stream)) || !CUDA_OK(ctx, cudaEventRecord(link->done, link->stream)))
        return failure(ctx);
    double idle = -1; // when the kernels were done
    for (;;) {
        cudaError_t computing = idle < 0 ? cudaEventQuery(link->kernels) : cudaSuccess, e = cudaEventQuery(link->done);
        double now = seconds_now();
        if (computing == cudaSuccess && idle < 0) idle = now;
        if (computing != cudaSuccess && computing != cudaErrorNotReady) e = computing;
        if (e == cudaSuccess) break;
        bool fine = e == cudaErrorNotReady || cuda_ok(ctx, e, "cudaEventQuery", __FILE__, __LINE__);
        ncclResult_t seen;
        if (fine && healthy(ctx, "collective of the GPUs", idle < 0 ? 0 : now - idle, &seen)) {
            sched_yield();
            continue;
        }
        abandon(link);
        return failure(ctx);
    }
    if (idle >= 0) *waited_s = seconds_now() - idle;
    return CUDA_OK(ctx, cudaStreamWaitEvent(ctx->stream, link->done, 0)) ? OHT_OK : failure(ctx);
}

void cuda_link_entries(oht_backend *be) {
    static const oht_collectives table = {link_id_cuda,        link_cuda,       all_reduce_cuda,
                                          reduce_scatter_cuda, all_gather_cuda, finish_cuda};
    be->collectives = &table;
}

void cuda_link_end(cuda_context *ctx) {
    cuda_link *link = ctx->link;
    if (!link) return;
    if (link->comm && !ctx->failed && SETTLED(ctx, ncclCommFinalize(link->comm))) (void)ncclCommDestroy(link->comm);
    else abandon(link);
    if (link->before) (void)cudaEventDestroy(link->before);
    if (link->kernels) (void)cudaEventDestroy(link->kernels);
    if (link->done) (void)cudaEventDestroy(link->done);
    if (link->stream) (void)cudaStreamDestroy(link->stream);
    delete link;
    ctx->link = nullptr;
}

#else // without NCCL: one GPU a job, and the trainer says so

void cuda_link_entries(oht_backend *) {}
void cuda_link_end(cuda_context *) {}

#endif
