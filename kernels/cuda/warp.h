// What kernels of attention, norms and gates share: loads and stores of storage types, simulated quantization, vectors of 16
// bytes, more shared memory.
#pragma once

#include "cuda/cuda.h"

static const unsigned ALL_LANES = 0xffffffffu;

template <class T> __device__ __forceinline__ float load(const T *p) {
    return to_float(*p);
}
template <class T> __device__ __forceinline__ void store(T *p, float x, bool add = false) {
    *p = from_float<T>(add ? to_float(*p) + x : x);
}

// exp where the result is rounded to T in the end: the fast one (2 ulp + |x| 2^-24) for 16 bits.
template <class T> __device__ __forceinline__ float exp_for(float x) {
    return __expf(x);
}
template <> __device__ __forceinline__ float exp_for<float>(float x) {
    return expf(x);
}

// x^ = step (clip(round(x / step) + zero, low, high) - zero), ties to even; NaN passes (oht/backend.h).
struct quantizer {
    float step, zero, low, high;
};
static inline quantizer make_quantizer(const oht_fakequant *q) {
    quantizer r = {q->step, q->zero, q->low, q->high};
    return r;
}
__device__ __forceinline__ float quantized(float x, quantizer q) {
    float code = rintf(x / q.step) + q.zero;
    code = code < q.low ? q.low : code;
    code = code > q.high ? q.high : code;
    return q.step * (code - q.zero);
}

// 16 bytes at once.
template <class T> struct __align__(16) pack {
    enum { N = 16 / sizeof(T) };
    T v[N];
};
static inline bool aligned16(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

// More than 48 KiB of dynamic shared memory must be asked for.
static inline void allow_shared(cuda_context *ctx, const void *kernel, size_t bytes) {
    if (bytes > 48 * 1024) CUDA_OK(ctx, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
