// One kernel source, two compilers. nvcc: CUDA, the macros below give the native spelling. g++: every .cu file is C++
// that tests/emulation runs on the host, where a CUDA thread is a fiber. Kernels use only what both sides have:
//
//   OHT_LAUNCH(kernel, grid, block, smem, stream, args...)   (a template with two arguments in parentheses: (k<T, 2>))
//   OHT_SHARED(type, name, n), OHT_SHARED2(type, name, rows, columns), OHT_DYN_SHARED(type, name); no bare __shared__
//   warp shuffles and votes with a mask, __syncthreads, __syncwarp; integer atomics
//   the tensor-core and asynchronous-copy wrappers at the end
//
// Not here, because the emulation cannot show that it is right: waiting for another block, flags without barriers, TMA,
// wgmma.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define OHT_LAUNCH(kernel, grid, block, smem, stream, ...)                                                   \
    kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define OHT_SHARED(type, name, n) __shared__ type name[n]
#define OHT_SHARED2(type, name, rows, columns) __shared__ type name[rows][columns]
#define OHT_DYN_SHARED(type, name)                                                                           \
    extern __shared__ __align__(128) unsigned char oht_dynamic_shared[];                                     \
    type *name = reinterpret_cast<type *>(oht_dynamic_shared)
#else
#include "emulation/device.h"
#endif

// Storage types. Arithmetic is in float.
template <class T> __device__ __forceinline__ float to_float(T x) {
    return (float)x;
}
template <> __device__ __forceinline__ float to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
template <> __device__ __forceinline__ float to_float(__half x) {
    return __half2float(x);
}
template <class T> __device__ __forceinline__ T from_float(float x) {
    return (T)x;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float(float x) {
    return __float2bfloat16(x);
}
template <> __device__ __forceinline__ __half from_float(float x) {
    return __float2half(x);
}

#if defined(__CUDACC__)

// A load that stays where it is written, so that its result takes registers there only.
__device__ __forceinline__ uint2 gpu_load_here(const uint2 *at) {
    uint2 v;
    asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];\n" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}

// D (16x8, float) += A (16x16, row) B (16x8, column), 16-bit operands in pairs; PTX ISA, mma.m16n8k16 fragments: with
// g = lane / 4, t = lane % 4: a0 = A[g][2t..], a1 = A[g+8][2t..], a2 = A[g][2t+8..], a3 = A[g+8][2t+8..];
// b0 = B[2t..][g], b1 = B[2t+8..][g]; c0, c1 = D[g][2t..], c2, c3 = D[g+8][2t..].
template <class T>
__device__ __forceinline__ void gpu_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);
template <>
__device__ __forceinline__ void gpu_mma<__nv_bfloat16>(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void gpu_mma<__half>(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned); lane l receives elements 2 (l % 4), +1 of row l / 4 of each. trans: of each matrix's transpose.
template <bool trans> __device__ __forceinline__ void gpu_ldmatrix4(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (trans)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

// Asynchronous copy of 16 bytes to shared memory, both addresses aligned; live = false writes zeros and reads nothing.
// The bytes are there after gpu_copy_wait<n> (all but the newest n groups of this thread have arrived) and a barrier.
__device__ __forceinline__ void gpu_copy_async16(void *shared, const void *global, bool live) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((uint32_t)__cvta_generic_to_shared(shared)),
        "l"(global), "r"(live ? 16 : 0)
        : "memory");
}
__device__ __forceinline__ void gpu_copy_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int n> __device__ __forceinline__ void gpu_copy_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(n) : "memory");
}

#endif
