// The attention entries of the table: the problem as the kernels see it, and the storage type.
#include "cuda/attention_run.h"

static attention_problem make_problem(oht_tensor qkv, oht_tensor mask, const oht_assoc *as) {
    attention_problem a = {};
    a.B = (int)qkv.dim[0], a.T = (int)qkv.dim[1], a.C = (int)(qkv.dim[2] / 3), a.H = as->heads, a.D = a.C / a.H;
    a.beta = as->beta;
    a.causal = as->causal;
    a.mask = oht_u8(mask);
    a.f = make_row_function(&as->f);
    a.drop = make_draws(&as->drop);
    int64_t of16 = 16 / (int64_t)oht_dtype_size(qkv.dtype);
    a.vectors = a.D % of16 == 0 && a.C % of16 == 0;
    return a;
}

static size_t attention_fwd_scratch_cuda(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as) {
    (void)be, (void)B, (void)T, (void)C, (void)as;
    return 0;
}

static void attention_fwd_cuda(oht_backend *be, oht_tensor out, oht_tensor row, oht_tensor qkv, oht_tensor mask,
                               const oht_assoc *as, const oht_attention_inner *inner, void *scratch) {
    cuda_context *ctx = cuda_of(be);
    attention_problem a = make_problem(qkv, mask, as);
    a.vectors = a.vectors && aligned16(qkv.data);
    if (as->quant_scores) a.quantize_scores = true, a.scores_q = make_quantizer(as->quant_scores);
    if (as->quant_probs) a.quantize_probs = true, a.probs_q = make_quantizer(as->quant_probs);
    if (inner) a.scores = oht_f32(inner->scores), a.probs = oht_f32(inner->probs);
    (void)scratch;
    CUDA_BY_TYPE(ctx, qkv.dtype, attention_fwd<T>(ctx, a, cuda_data<T>(qkv), cuda_data<T>(out), oht_f32(row)));
}

static size_t attention_bwd_scratch_cuda(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as) {
    (void)be, (void)C;
    return 2 * (size_t)B * (size_t)as->heads * (size_t)T * sizeof(float);
}

static void attention_bwd_cuda(oht_backend *be, oht_tensor dqkv, oht_tensor dout, oht_tensor out, oht_tensor row, oht_tensor qkv,
                               oht_tensor mask, const oht_assoc *as, bool add_dqkv, void *scratch) {
    cuda_context *ctx = cuda_of(be);
    attention_problem a = make_problem(qkv, mask, as);
    a.vectors = a.vectors && aligned16(qkv.data) && aligned16(dout.data);
    CUDA_BY_TYPE(ctx, qkv.dtype,
                 attention_bwd<T>(ctx, a, cuda_data<T>(dqkv), cuda_data<T>(dout), cuda_data<T>(out), oht_f32(row),
                                  cuda_data<T>(qkv), add_dqkv, (float *)scratch));
}

void cuda_attention_entries(oht_backend *be) {
    be->attention_fwd_scratch = attention_fwd_scratch_cuda;
    be->attention_fwd = attention_fwd_cuda;
    be->attention_bwd_scratch = attention_bwd_scratch_cuda;
    be->attention_bwd = attention_bwd_cuda;
}
