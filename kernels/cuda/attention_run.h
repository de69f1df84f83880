// Between the files of attention: what runs which kernels. T: float, __nv_bfloat16, __half.
#pragma once

#include "cuda/attention.h"

// Softmax or softmax_1 and nothing that needs its scores twice: the kernels of one sweep.
static inline bool is_plain(const attention_problem &a) {
    bool soft = a.f.kind == OHT_SOFTMAX || a.f.kind == OHT_SOFTMAX1;
    return soft && !a.f.clipped && !a.quantize_scores && !a.quantize_probs && !a.scores && !a.probs;
}

// attention_fwd.cu, attention_bwd.cu. sums: (2,B,H,T) floats.
template <class T> void attention_fwd(cuda_context *ctx, const attention_problem &a, const T *qkv, T *out, float *row);
template <class T>
void attention_bwd(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const T *out, const float *row,
                   const T *qkv, bool add, float *sums);
// attention_wide.cu: heads wider than 128 (64 for the other forms), slowly.
template <class T> void attention_wide_fwd(cuda_context *ctx, const attention_problem &a, const T *qkv, T *out, float *row);
template <class T>
void attention_wide_bwd(cuda_context *ctx, const attention_problem &a, T *dqkv, const T *dout, const float *row, const T *qkv,
                        bool add, float *sums);
