// Recordings (oht/backend.h, oht_recorder): CUDA graphs, captured from the backend's stream. The capture is this thread's alone, so
// NCCL's threads may go on meanwhile; collectives are never part of it (they have a stream of their own).
#include "cuda/cuda.h"

// Nothing has been done, so what went wrong is forgotten; where it was not the recording's fault it will come again.
static void refuse(cuda_context *ctx) {
    ctx->host->log("kernels are queued one by one from now on, no CUDA graph was recorded: %s", ctx->message);
    ctx->failed = false;
    (void)cudaGetLastError();
}

static bool begin_cuda(oht_backend *be) {
    cuda_context *ctx = cuda_of(be);
    if (ctx->failed) return false; // sync says why
    bool ok = CUDA_OK(ctx, cudaStreamBeginCapture(ctx->stream, cudaStreamCaptureModeThreadLocal));
    if (!ok) refuse(ctx);
    return ok;
}

static void *end_cuda(oht_backend *be) {
    cuda_context *ctx = cuda_of(be);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recording = nullptr;
    const cudaError_t e = cudaStreamEndCapture(ctx->stream, &graph);
    // Uploaded here, so that its device memory is taken where a failure costs nothing.
    bool ok = !ctx->failed && CUDA_OK(ctx, e) && CUDA_OK(ctx, cudaGraphInstantiateWithFlags(&recording, graph, 0)) &&
              CUDA_OK(ctx, cudaGraphUpload(recording, ctx->stream));
    if (graph) (void)cudaGraphDestroy(graph);
    if (ok) return recording;
    if (recording) (void)cudaGraphExecDestroy(recording);
    refuse(ctx);
    return nullptr;
}

static void replay_cuda(oht_backend *be, void *recording) {
    cuda_context *ctx = cuda_of(be);
    if (!ctx->failed) CUDA_OK(ctx, cudaGraphLaunch((cudaGraphExec_t)recording, ctx->stream));
}

static void discard_cuda(oht_backend *be, void *recording) {
    (void)cuda_wait(cuda_of(be)); // it may be running
    (void)cudaGraphExecDestroy((cudaGraphExec_t)recording);
}

void cuda_record_entries(oht_backend *be) {
    static const oht_recorder table = {begin_cuda, end_cuda, replay_cuda, discard_cuda};
    be->recorder = &table;
}
