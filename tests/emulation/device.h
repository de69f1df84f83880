// The device side of the emulation: what kernels/cuda/gpu.h offers to a kernel when g++ compiles it. A thread is a fiber
// of fibers.cpp; every warp operation is one primitive, warp_collective: each lane publishes a record and the last one to
// arrive computes all results, so masks and the kind of operation are checked for free. Types and prototypes are those
// of the CUDA toolkit's own headers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h> // whole, and before the macros: its parameters are called gridDim
#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>
#include <vector_functions.h>
#include <vector_types.h>

#undef __shared__
#define __shared__ static_assert(false, "use OHT_SHARED, OHT_SHARED2 or OHT_DYN_SHARED")
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#undef __noinline__

#if defined(__SANITIZE_THREAD__)
#define OHT_NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define OHT_NO_TSAN
#endif

namespace oht_emu {
struct Current { // the CUDA thread that runs on this OS thread
    uint3 tid, bid, bdim, gdim;
    int lane;
};
extern __thread Current cur;

void sync_block(int line);
typedef void (*warp_fn)(void **record, unsigned mask);
void warp_collective(unsigned mask, warp_fn fn, void *record, bool orders_memory);
void *shared_static(const void *key, size_t bytes);
void *shared_dynamic();
void copy_async(void *to, const void *from, size_t bytes); // from == nullptr: zeros
void copy_commit();
void copy_wait(int newest);
void launch(const char *name, dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
            std::function<void()> body);
bool is_device_pointer(const void *p);
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

template <class T> inline void check_argument(const char *kernel, const T &v) {
    if constexpr (std::is_pointer_v<T>)
        if (v && !is_device_pointer((const void *)v))
            fail("%s: argument %p is not device memory", kernel, (const void *)v);
}
template <class... P, class... A>
inline void launch_checked(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem,
                           cudaStream_t stream, A... a) {
    (check_argument(name, a), ...);
    launch(name, grid, block, smem, stream, [=] { kernel(static_cast<P>(a)...); });
}

// ---- warp primitives ----
template <class T> struct Shuffle {
    T in, out;
    int from;
};
template <class T> OHT_NO_TSAN inline void shuffle_fn(void **r, unsigned mask) {
    for (int l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) continue;
        Shuffle<T> *me = (Shuffle<T> *)r[l];
        if (mask >> me->from & 1)
            me->out = ((Shuffle<T> *)r[me->from])->in;
        else
            memset((void *)&me->out, 0xff, sizeof(T)); // from a lane outside the mask: undefined on a GPU
    }
}
template <class T> OHT_NO_TSAN inline T shuffle(unsigned mask, T v, int from) {
    Shuffle<T> r{v, v, from};
    warp_collective(mask, shuffle_fn<T>, &r, false);
    return r.out;
}
struct Vote {
    unsigned in, out;
};
OHT_NO_TSAN inline void vote_fn(void **r, unsigned mask) {
    unsigned bits = 0;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) bits |= (((Vote *)r[l])->in ? 1u : 0u) << l;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) ((Vote *)r[l])->out = bits;
}
OHT_NO_TSAN inline void nothing_fn(void **, unsigned) {}

template <class T, class F> inline T change(T *p, F f) {
    T old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do {
        next = f(old);
    } while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
} // namespace oht_emu

#define threadIdx (oht_emu::cur.tid)
#define blockIdx (oht_emu::cur.bid)
#define blockDim (oht_emu::cur.bdim)
#define gridDim (oht_emu::cur.gdim)
static const int warpSize = 32;

#define OHT_LAUNCH(kernel, grid, block, smem, stream, ...)                                                   \
    oht_emu::launch_checked(#kernel, kernel, (grid), (block), (smem), (stream), ##__VA_ARGS__)
#define OHT_SHARED(type, name, n)                                                                            \
    static const char oht_key_##name = 0;                                                                    \
    type *name = (type *)oht_emu::shared_static(&oht_key_##name, sizeof(type) * (size_t)(n))
#define OHT_SHARED2(type, name, rows, columns)                                                               \
    static const char oht_key_##name = 0;                                                                    \
    type(*name)[columns] =                                                                                   \
        (type(*)[columns])oht_emu::shared_static(&oht_key_##name, sizeof(type) * (size_t)(rows) * (columns))
#define OHT_DYN_SHARED(type, name) type *name = (type *)oht_emu::shared_dynamic()

#define __syncthreads() oht_emu::sync_block(__LINE__)
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    int none;
    oht_emu::warp_collective(mask, oht_emu::nothing_fn, &none, true);
}
template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    int l = oht_emu::cur.lane;
    return oht_emu::shuffle(mask, v, (l & ~(width - 1)) | (from & (width - 1)));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32) {
    int l = oht_emu::cur.lane, from = l ^ x;
    return oht_emu::shuffle(mask, v, from / width > l / width ? l : from);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
    int l = oht_emu::cur.lane;
    return oht_emu::shuffle(mask, v, (l % width) + (int)d < width ? l + (int)d : l);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
    int l = oht_emu::cur.lane;
    return oht_emu::shuffle(mask, v, (l % width) >= (int)d ? l - (int)d : l);
}
static inline unsigned __ballot_sync(unsigned mask, int p) {
    oht_emu::Vote v{p ? 1u : 0u, 0};
    oht_emu::warp_collective(mask, oht_emu::vote_fn, &v, false);
    return v.out;
}
static inline int __any_sync(unsigned mask, int p) {
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(unsigned mask, int p) {
    return __ballot_sync(mask, p) == mask;
}

template <class T> inline T __ldg(const T *p) {
    return *p;
}
static inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline int atomicAdd(int *p, int v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *p, unsigned v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static inline unsigned atomicMax(unsigned *p, unsigned v) {
    return oht_emu::change(p, [=](unsigned old) { return old > v ? old : v; });
}
static inline unsigned atomicOr(unsigned *p, unsigned v) {
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}

// ---- arithmetic ----
static inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
#define __expf(x) expf(x) // a name of the C library too
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
#define OHT_MIN_MAX(type)                                                                                    \
    static inline type min(type a, type b) {                                                                 \
        return a < b ? a : b;                                                                                \
    }                                                                                                        \
    static inline type max(type a, type b) {                                                                 \
        return a > b ? a : b;                                                                                \
    }
OHT_MIN_MAX(int)
OHT_MIN_MAX(unsigned)
OHT_MIN_MAX(long)
OHT_MIN_MAX(unsigned long)
OHT_MIN_MAX(long long)
OHT_MIN_MAX(float)
OHT_MIN_MAX(double)

// ---- tensor cores ----
namespace oht_emu {
template <class T> OHT_NO_TSAN inline float half_word(uint32_t w, int high) {
    uint16_t bits = (uint16_t)(high ? w >> 16 : w);
    T t;
    memcpy((void *)&t, &bits, 2);
    return (float)t;
}
struct Mma {
    const uint32_t *a, *b;
    float *c;
};
template <class T> OHT_NO_TSAN inline void mma_fn(void **r, unsigned mask) {
    if (mask != 0xffffffffu) fail("mma needs all 32 lanes");
    float A[16][16], B[16][8], D[16][8];
    for (int l = 0; l < 32; l++) {
        Mma *m = (Mma *)r[l];
        int g = l >> 2, t = l & 3;
        for (int h = 0; h < 2; h++) {
            A[g][2 * t + h] = half_word<T>(m->a[0], h), A[g + 8][2 * t + h] = half_word<T>(m->a[1], h);
            A[g][2 * t + 8 + h] = half_word<T>(m->a[2], h),
                             A[g + 8][2 * t + 8 + h] = half_word<T>(m->a[3], h);
            B[2 * t + h][g] = half_word<T>(m->b[0], h), B[2 * t + 8 + h][g] = half_word<T>(m->b[1], h);
            D[g][2 * t + h] = m->c[h], D[g + 8][2 * t + h] = m->c[2 + h];
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
    for (int l = 0; l < 32; l++) {
        Mma *m = (Mma *)r[l];
        int g = l >> 2, t = l & 3;
        for (int h = 0; h < 2; h++) m->c[h] = D[g][2 * t + h], m->c[2 + h] = D[g + 8][2 * t + h];
    }
}
struct Ldmatrix {
    const void *row;
    uint32_t *out;
    unsigned char value[16]; // of the row
};
template <bool trans> OHT_NO_TSAN inline void ldmatrix_fn(void **r, unsigned mask) {
    if (mask != 0xffffffffu) fail("ldmatrix needs all 32 lanes");
    for (int m = 0; m < 4; m++) {
        uint16_t tile[8][8];
        for (int i = 0; i < 8; i++) {
            const Ldmatrix *of = (Ldmatrix *)r[m * 8 + i];
            if ((uintptr_t)of->row % 16) fail("ldmatrix: a row's address is not a multiple of 16");
            memcpy(tile[i], of->value, 16);
        }
        for (int l = 0; l < 32; l++) {
            int i = l / 4, j = l % 4 * 2;
            uint16_t lo = trans ? tile[j][i] : tile[i][j], hi = trans ? tile[j + 1][i] : tile[i][j + 1];
            ((Ldmatrix *)r[l])->out[m] = (uint32_t)hi << 16 | lo;
        }
    }
}
} // namespace oht_emu
template <class T> inline void gpu_mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    oht_emu::Mma r{a, b, c};
    oht_emu::warp_collective(0xffffffffu, oht_emu::mma_fn<T>, &r, false);
}
inline uint2 gpu_load_here(const uint2 *at) {
    if ((uintptr_t)at % 8) oht_emu::fail("a load of 8 bytes: the address is not a multiple of 8");
    return *at;
}
template <bool trans> inline void gpu_ldmatrix4(uint32_t r[4], const void *row) {
    oht_emu::Ldmatrix record{row, r};
    memcpy(record.value, row, sizeof(record.value)); // here, where the thread sanitizer sees who reads
    oht_emu::warp_collective(0xffffffffu, oht_emu::ldmatrix_fn<trans>, &record, false);
}
// Asynchronous copies happen at the wait; until then the target holds NaN.
inline void gpu_copy_async16(void *shared, const void *global, bool live) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16)
        oht_emu::fail("asynchronous copy: an address is not a multiple of 16");
    oht_emu::copy_async(shared, live ? global : nullptr, 16);
}
inline void gpu_copy_commit() {
    oht_emu::copy_commit();
}
template <int n> inline void gpu_copy_wait() {
    oht_emu::copy_wait(n);
}
