// NCCL of the emulation, over MPI, with the vendor's prototypes: a communicator is a duplicate of MPI_COMM_WORLD, 16-bit
// types are summed in float. Collectives run in their stream's turn, and every rank's streams take different turns when
// they are lazy, so a program must put all collectives into one stream.
#include <climits>
#include <mpi.h>
#include <nccl.h>
#include <vector>

#include "emulation/emulator.h"

using namespace oht_emu;

struct ncclComm {
    MPI_Comm mpi;
    int size, rank;
    bool dead; // aborted: what is queued does nothing
    int pending; // that often the last call says that it goes on: callers must ask until it has ended
    ncclComm *next;
};
static ncclComm *aborted; // kept: streams may hold them

namespace {
size_t width(ncclDataType_t t) {
    switch (t) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 4;
    }
}

// out[i] = the reduction over ranks of s[i]
template <class T>
void reduce(const void *s, std::vector<T> &out, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c) {
    out.resize(n);
    for (size_t i = 0; i < n; i++)
        out[i] = t == ncclFloat64   ? (T)((const double *)s)[i]
                 : t == ncclFloat32 ? (T)((const float *)s)[i]
                 : t == ncclFloat16 ? (T)__half2float(((const __half *)s)[i])
                                    : (T)__bfloat162float(((const __nv_bfloat16 *)s)[i]);
    if (n > INT_MAX) fail("NCCL: too many elements");
    MPI_Allreduce(MPI_IN_PLACE, out.data(), (int)n, sizeof(T) == 8 ? MPI_DOUBLE : MPI_FLOAT,
                  op == ncclMax   ? MPI_MAX
                  : op == ncclMin ? MPI_MIN
                                  : MPI_SUM,
                  c->mpi);
    if (op == ncclAvg)
        for (auto &v : out) v /= (T)c->size;
}
template <class T> void store(void *d, const T *v, size_t n, ncclDataType_t t) {
    for (size_t i = 0; i < n; i++) {
        if (t == ncclFloat64)
            ((double *)d)[i] = (double)v[i];
        else if (t == ncclFloat32)
            ((float *)d)[i] = (float)v[i];
        else if (t == ncclFloat16)
            ((__half *)d)[i] = __float2half((float)v[i]);
        else
            ((__nv_bfloat16 *)d)[i] = __float2bfloat16((float)v[i]);
    }
}
// of the n elements from `first` on of what `all` elements reduce to
void reduce_part(const void *s, void *d, size_t all, size_t first, size_t n, ncclDataType_t t, ncclRedOp_t op,
                 ncclComm_t c) {
    if (t == ncclFloat64) {
        std::vector<double> v;
        reduce(s, v, all, t, op, c);
        store(d, v.data() + first, n, t);
    } else {
        std::vector<float> v;
        reduce(s, v, all, t, op, c);
        store(d, v.data() + first, n, t);
    }
}
bool is_float(ncclDataType_t t) {
    return t == ncclFloat64 || t == ncclFloat32 || t == ncclFloat16 || t == ncclBfloat16;
}
bool device(const void *s, const void *d, size_t n) {
    return n == 0 || (is_device_pointer(s) && is_device_pointer(d));
}
// OHT_EMU_NCCL_PROMPT=1: calls end at once.
ncclResult_t goes_on(ncclComm_t c) {
    if (option("OHT_EMU_NCCL_PROMPT", 0)) return ncclSuccess;
    c->pending = 2;
    return ncclInProgress;
}
} // namespace

extern "C" {
ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 7, sizeof(*id));
    return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t *c, int size, ncclUniqueId, int rank) {
    *c = new ncclComm{MPI_COMM_NULL, size, rank, false, 0, nullptr};
    return MPI_Comm_dup(MPI_COMM_WORLD, &(*c)->mpi) == MPI_SUCCESS ? ncclSuccess : ncclSystemError;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *c, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
    ncclResult_t r = ncclCommInitRank(c, size, id, rank);
    return r == ncclSuccess && config->blocking == 0 ? goes_on(*c) : r;
}
ncclResult_t ncclCommFinalize(ncclComm_t c) {
    return goes_on(c);
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    if (c->pending) fail("NCCL: a communicator is destroyed while a call goes on");
    cudaDeviceSynchronize();
    MPI_Comm_free(&c->mpi);
    delete c;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
    c->dead = true;
    c->next = aborted;
    aborted = c;
    return ncclSuccess;
}
// OHT_EMU_NCCL_FAIL=1: a peer has died. 2: one hangs, and calls never end.
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error) {
    int failure = option("OHT_EMU_NCCL_FAIL", 0);
    *error = failure == 1 ? ncclRemoteError : c->pending ? ncclInProgress : ncclSuccess;
    if (c->pending && failure != 2) c->pending--;
    return ncclSuccess;
}
ncclResult_t ncclGroupStart(void) {
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t r) {
    return r == ncclSuccess       ? "no error"
           : r == ncclRemoteError ? "remote process exited or there was a network error"
                                  : "an error";
}
const char *ncclGetLastError(ncclComm_t) {
    return "";
}
ncclResult_t ncclAllReduce(const void *s, void *d, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t stream) {
    if (!device(s, d, n) || !is_float(t) || c->pending) return ncclInvalidArgument;
    enqueue(stream, [=] {
        if (!c->dead) reduce_part(s, d, n, 0, n, t, op, c);
    });
    return goes_on(c);
}
ncclResult_t ncclReduceScatter(const void *s, void *d, size_t n, ncclDataType_t t, ncclRedOp_t op,
                               ncclComm_t c, cudaStream_t stream) {
    if (!device(s, d, n) || !is_float(t) || c->pending) return ncclInvalidArgument;
    enqueue(stream, [=] {
        if (!c->dead) reduce_part(s, d, n * (size_t)c->size, n * (size_t)c->rank, n, t, op, c);
    });
    return goes_on(c);
}
ncclResult_t ncclAllGather(const void *s, void *d, size_t n, ncclDataType_t t, ncclComm_t c,
                           cudaStream_t stream) {
    if (!device(s, d, n) || c->pending) return ncclInvalidArgument;
    enqueue(stream, [=] {
        if (c->dead) return;
        size_t bytes = n * width(t);
        bool in_place = (const char *)s == (char *)d + bytes * (size_t)c->rank;
        MPI_Allgather(in_place ? MPI_IN_PLACE : s, (int)bytes, MPI_BYTE, d, (int)bytes, MPI_BYTE, c->mpi);
    });
    return goes_on(c);
}
ncclResult_t ncclBroadcast(const void *s, void *d, size_t n, ncclDataType_t t, int root, ncclComm_t c,
                           cudaStream_t stream) {
    if (!device(s, d, n) || c->pending) return ncclInvalidArgument;
    enqueue(stream, [=] {
        if (c->dead) return;
        if (c->rank == root && s != d) memmove(d, s, n * width(t));
        MPI_Bcast(d, (int)(n * width(t)), MPI_BYTE, root, c->mpi);
    });
    return goes_on(c);
}
}
