// Where a retrieval has converged (oht/backend.h, spec stanhop 1.4): a block decides for one head of one group whether its
// probabilities still move, in double as kernels/cpu/settle.c does, and copies or passes that head's part.
#include "cuda/warp.h"

enum { SETTLE_THREADS = 128 };

struct settle_shape {
    int64_t groups;
    int L, S, C, H, D;
};

static settle_shape settle_shape_of(oht_tensor y, oht_tensor p, int heads) {
    settle_shape s = {y.dim[0] * y.dim[1], (int)y.dim[2], (int)p.dim[3], (int)y.dim[3], heads, (int)(y.dim[3] / heads)};
    return s;
}

// Is head blockIdx.x % H of group blockIdx.x / H still moving? In all threads.
__device__ __forceinline__ bool moves(const settle_shape &s, const float *p, const float *before, float eps) {
    const int64_t n = (int64_t)s.L * s.S, at = (int64_t)blockIdx.x * n;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += SETTLE_THREADS) {
        const double d = (double)p[at + i] - (double)before[at + i];
        sum += d * d;
    }
    return sqrt(block_sum(sum)) > (double)eps;
}

// Element i of the head's (L,D) part, in the (groups,L,C) tensors.
__device__ __forceinline__ int64_t element(const settle_shape &s, int i) {
    return ((int64_t)(blockIdx.x / s.H) * s.L + i / s.D) * s.C + (int)(blockIdx.x % s.H) * s.D + i % s.D;
}

__global__ void __launch_bounds__(SETTLE_THREADS)
    settle_fwd_kernel(float *__restrict__ y, const float *__restrict__ q, const float *__restrict__ r, const float *__restrict__ p,
                      const float *__restrict__ before, settle_shape s, float eps) {
    const float *from = moves(s, p, before, eps) ? r : q;
    for (int i = threadIdx.x; i < s.L * s.D; i += SETTLE_THREADS) y[element(s, i)] = from[element(s, i)];
}

__global__ void __launch_bounds__(SETTLE_THREADS, 4) // so many blocks: ptxas spills without
    settle_bwd_kernel(float *__restrict__ dq, float *__restrict__ dr, const float *__restrict__ dy, const float *__restrict__ p,
                      const float *__restrict__ before, settle_shape s, float eps, bool add_q, bool add_r) {
    const bool moving = moves(s, p, before, eps);
    for (int i = threadIdx.x; i < s.L * s.D; i += SETTLE_THREADS) {
        const int64_t e = element(s, i);
        if (dq) store(dq + e, moving ? 0.0f : dy[e], add_q);
        if (dr) store(dr + e, moving ? dy[e] : 0.0f, add_r);
    }
}

static void settle_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor q, oht_tensor r, oht_tensor p, oht_tensor before, int heads,
                            float eps) {
    settle_shape s = settle_shape_of(y, p, heads);
    dim3 blocks((unsigned)(s.groups * s.H));
    CUDA_LAUNCH(cuda_of(be), settle_fwd_kernel, blocks, dim3(SETTLE_THREADS), 0, oht_f32(y), oht_f32(q), oht_f32(r), oht_f32(p),
                oht_f32(before), s, eps);
}

static void settle_bwd_cuda(oht_backend *be, oht_tensor dq, oht_tensor dr, oht_tensor dy, oht_tensor p, oht_tensor before, int heads,
                            float eps, const bool add[2]) {
    settle_shape s = settle_shape_of(dy, p, heads);
    dim3 blocks((unsigned)(s.groups * s.H));
    CUDA_LAUNCH(cuda_of(be), settle_bwd_kernel, blocks, dim3(SETTLE_THREADS), 0, oht_f32(dq), oht_f32(dr), oht_f32(dy), oht_f32(p),
                oht_f32(before), s, eps, add[0], add[1]);
}

void cuda_settle_entries(oht_backend *be) {
    be->settle_fwd = settle_fwd_cuda;
    be->settle_bwd = settle_bwd_cuda;
}
