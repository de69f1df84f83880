// The CUDA runtime of the emulation: memory, streams, events, graphs. Device memory is host memory of exactly the size asked
// for, filled with NaN; a copy in the wrong direction is an error, as on a device.
//   OHT_EMU_LAZY=1        work runs only when something waits for it, streams advance in random turns: a forgotten event
//                         or wait shows as wrong data. Default: at once.
//   OHT_EMU_DEVICES=n     0: what a machine without a driver says. Default 1.
//   OHT_EMU_MEMORY=bytes  no more device memory than this
//   OHT_EMU_FAIL=text     a launch of a kernel whose name holds this text fails; text:n the n-th alone
//   OHT_EMU_GRAPH_FAIL=n  of graphs fails 1: the end of a capture, 2: its begin, 3: making it executable
//   OHT_EMU_COUNT=file    at the end a line is appended: kernels launched one by one, graphs launched, kernels in them
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "emulation/emulator.h"

using namespace oht_emu;

struct CUevent_st {
    long want = 0, done = 0;
};
struct CUstream_st {
    std::deque<std::function<bool()>> queue; // an item returns false: not yet
};
struct CUgraph_st {
    std::vector<std::function<void()>> work; // in the order of capture, which is one possible order of running
    long kernels = 0;
};
struct CUgraphExec_st : CUgraph_st {};

namespace oht_emu {
// ---- memory ----
static std::mutex memory_lock;
static std::map<const char *, size_t> device_memory, pinned_memory;
static size_t in_use;

static bool inside(const std::map<const char *, size_t> &memory, const void *q) {
    std::lock_guard<std::mutex> lock(memory_lock);
    auto it = memory.upper_bound((const char *)q);
    if (it == memory.begin()) return false;
    --it;
    return (const char *)q < it->first + std::max<size_t>(it->second, 1);
}
bool is_device_pointer(const void *q) {
    return inside(device_memory, q);
}

// ---- streams ----
static const bool lazy = option("OHT_EMU_LAZY", 0) != 0;
static CUstream_st null_stream;
static std::vector<CUstream_st *> streams{&null_stream};
static unsigned turn = 12345;
static CUgraph_st *capture; // being recorded,
static cudaStream_t captured; // from this stream
static bool capture_broken; // by a call that waits or allocates
static cudaError_t last_error = cudaSuccess;

static struct Counts {
    long kernels = 0, graphs = 0, in_graphs = 0;
    ~Counts() {
        const char *path = getenv("OHT_EMU_COUNT");
        FILE *f = path ? fopen(path, "a") : nullptr;
        if (!f) return;
        fprintf(f, "%ld kernels, %ld graphs of %ld kernels\n", kernels, graphs, in_graphs);
        fclose(f);
    }
} counts;

// What a thread must not call while it captures: the capture is lost.
static bool breaks_capture() {
    capture_broken |= capture != nullptr;
    return capture != nullptr;
}

static CUstream_st *stream_of(cudaStream_t s) {
    return s && (uintptr_t)s > 2 ? s : &null_stream;
}
static bool step(CUstream_st *s) {
    if (s->queue.empty() || !s->queue.front()()) return false;
    s->queue.pop_front();
    return true;
}
static void drain(CUstream_st *s) { // the others advance at random too
    while (!s->queue.empty()) {
        turn = turn * 1664525u + 1013904223u;
        bool moved = step(s);
        CUstream_st *other = streams[(turn >> 8) % streams.size()];
        if (moved) {
            if (turn >> 31) step(other);
            continue;
        }
        for (auto *x : streams)
            if (!moved && x != s) moved = step(x);
        if (!moved) fail("streams wait for each other for ever");
    }
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
    if (capture && stream != captured) fail("work for another stream than the captured one");
    if (capture)
        capture->work.push_back(work);
    else if (lazy)
        stream_of(stream)->queue.push_back([work] {
            work();
            return true;
        });
    else
        work();
}

static bool launch_fails(const char *name) {
    static long seen;
    const char *broken = getenv("OHT_EMU_FAIL"), *colon = broken ? strrchr(broken, ':') : nullptr;
    if (!broken) seen = 0;
    if (!broken || !strstr(name, std::string(broken, colon ? colon - broken : strlen(broken)).c_str())) return false;
    return !colon || ++seen == atol(colon + 1);
}

void launch(const char *name, dim3 g, dim3 b, size_t smem, cudaStream_t stream, std::function<void()> body) {
    if (launch_fails(name)) {
        last_error = cudaErrorLaunchFailure;
        return;
    }
    long n = (long)b.x * b.y * b.z;
    if (n < 1 || n > 1024 || b.z > 64) fail("%s: a block of %u,%u,%u threads", name, b.x, b.y, b.z);
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        fail("%s: a grid of %u,%u,%u blocks", name, g.x, g.y, g.z);
    if (smem > 227 * 1024) fail("%s: %zu bytes of dynamic shared memory", name, smem);
    (capture ? capture->kernels : counts.kernels)++;
    enqueue(stream, [=] { run_grid(name, g, b, smem, body); });
}
} // namespace oht_emu

extern "C" {
cudaError_t cudaMalloc(void **p, size_t n) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    static const size_t limit = (size_t)atoll(getenv("OHT_EMU_MEMORY") ? getenv("OHT_EMU_MEMORY") : "0");
    std::lock_guard<std::mutex> lock(memory_lock);
    if (limit && in_use + n > limit) return cudaErrorMemoryAllocation;
    *p = poisoned(n);
    device_memory[(const char *)*p] = n;
    in_use += n;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    cudaDeviceSynchronize();
    std::lock_guard<std::mutex> lock(memory_lock);
    auto it = device_memory.find((const char *)p);
    if (it == device_memory.end()) fail("cudaFree of a pointer that cudaMalloc did not give");
    in_use -= it->second;
    device_memory.erase(it);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) {
    *p = poisoned(n);
    std::lock_guard<std::mutex> lock(memory_lock);
    pinned_memory[(const char *)*p] = n;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n) {
    return cudaHostAlloc(p, n, 0);
}
cudaError_t cudaFreeHost(void *p) {
    if (!p) return cudaSuccess;
    cudaDeviceSynchronize();
    std::lock_guard<std::mutex> lock(memory_lock);
    if (!pinned_memory.erase((const char *)p))
        fail("cudaFreeHost of a pointer that cudaMallocHost did not give");
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = (size_t)1 << 34;
    std::lock_guard<std::mutex> lock(memory_lock);
    *free_bytes = *total - in_use;
    return cudaSuccess;
}

// Pageable host memory is read before the call returns and written before it returns; pinned memory only in its turn.
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind kind, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    bool to_device = is_device_pointer(d), from_device = is_device_pointer(s);
    if (kind != cudaMemcpyDefault &&
        (to_device != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) ||
         from_device != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)))
        return cudaErrorInvalidValue;
    if (to_device && !from_device && !inside(pinned_memory, s)) {
        if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
        std::vector<char> now((const char *)s, (const char *)s + n);
        enqueue(stream, [=] { memcpy(d, now.data(), n); });
        return cudaSuccess;
    }
    enqueue(stream, [=] { memcpy(d, s, n); });
    if (from_device && !to_device && !inside(pinned_memory, d)) return cudaStreamSynchronize(stream);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind kind) {
    cudaError_t e = cudaMemcpyAsync(d, s, n, kind, 0);
    cudaDeviceSynchronize();
    return e;
}
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (!is_device_pointer(d)) return cudaErrorInvalidValue;
    enqueue(stream, [=] { memset(d, v, n); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *d, int v, size_t n) {
    return cudaMemsetAsync(d, v, n, 0);
}

// ---- streams and events ----
cudaError_t cudaDeviceSynchronize(void) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    for (size_t i = 0; i < streams.size(); i++) drain(streams[i]);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = new CUstream_st;
    streams.push_back(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int) {
    return cudaStreamCreateWithFlags(s, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    drain(s);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    drain(stream_of(s));
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    step(stream_of(s));
    return stream_of(s)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    return cudaEventCreateWithFlags(e, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    cudaDeviceSynchronize();
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    long k = ++e->want;
    enqueue(s, [=] { e->done = std::max(e->done, k); });
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    long k = e->want;
    if (lazy && !capture) stream_of(s)->queue.push_back([=] { return e->done >= k; });
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    long k = e->want;
    while (e->done < k) {
        bool moved = false;
        for (auto *x : streams) moved |= step(x);
        if (!moved) fail("an event that never comes");
    }
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    if (breaks_capture()) return cudaErrorStreamCaptureUnsupported;
    for (auto *x : streams) step(x);
    return e->done >= e->want ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 0.0f; // time means nothing here
    return cudaSuccess;
}

// ---- graphs: record and replay ----
static bool graphs_fail(int how) {
    return option("OHT_EMU_GRAPH_FAIL", 0) == how;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (capture || stream_of(stream) == &null_stream || graphs_fail(2)) return cudaErrorIllegalState;
    capture = new CUgraph_st;
    captured = stream;
    capture_broken = graphs_fail(1);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    if (!capture || stream != captured) return cudaErrorIllegalState;
    *graph = capture_broken ? nullptr : capture;
    if (capture_broken) delete capture;
    capture = nullptr;
    return capture_broken ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    if (graphs_fail(3)) return cudaErrorMemoryAllocation;
    *exec = new CUgraphExec_st{*graph};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
    counts.graphs++;
    counts.in_graphs += exec->kernels;
    for (auto &work : exec->work) enqueue(s, work);
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    return breaks_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    cudaDeviceSynchronize();
    delete exec;
    return cudaSuccess;
}

// ---- the device ----
cudaError_t cudaGetDeviceCount(int *n) {
    *n = option("OHT_EMU_DEVICES", 1);
    return *n > 0 ? cudaSuccess : cudaErrorInsufficientDriver;
}
cudaError_t cudaSetDevice(int device) {
    return device >= 0 && device < option("OHT_EMU_DEVICES", 1) ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount                ? 4
             : attribute == cudaDevAttrComputeCapabilityMajor           ? 8
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin     ? 163 * 1024
             : attribute == cudaDevAttrMaxSharedMemoryPerMultiprocessor ? 164 * 1024
                                                                        : 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset((void *)p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated CUDA device");
    p->major = 8;
    p->multiProcessorCount = 4;
    p->totalGlobalMem = (size_t)1 << 34;
    return cudaSetDevice(device);
}
cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > 163 * 1024)
        return cudaErrorInvalidValue;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}
const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess                   ? "no error"
           : e == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
           : e == cudaErrorMemoryAllocation   ? "out of memory"
           : e == cudaErrorLaunchFailure      ? "unspecified launch failure"
           : e == cudaErrorInvalidValue       ? "invalid argument"
           : e == cudaErrorStreamCaptureInvalidated ? "operation failed due to a previous error during capture"
                                              : "an error";
}
}
