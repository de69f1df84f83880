// What a device must be able to do: one table of functions. kernels/cpu fills it in plain C and is the reference;
// any other device fills the same table (kernels/cuda, a plugin: oht/plugin.h). Entries trust their arguments (src/ops has checked shapes); pointers are device
// memory; all tensors are contiguous. B batch, T tokens, C width, H heads, D = C/H, F feed-forward, V vocabulary,
// N = product of leading dimensions. A `d` before a name is a gradient. `add` flags: the gradient is added to what
// is there, otherwise it overwrites. Kernels process the rows their tensors have (valid rows only) and allocate
// nothing: `scratch` is device memory of at least the size that the *_scratch entry asked for.
//
// Types. Floating tensors are fp32, or all activations, their gradients, logits and the parameters that kernels read are
// of one 16-bit type (tensor.dtype says it; sums are fp32 all the same). Then still fp32: gradients of parameters (dw, db,
// dgamma, dbeta, dtable, dw[] of gates), mean and rstd, row, scores and probs of attention, pi of gates, targets, AdamW,
// quantization (such graphs are recorded in fp32) and the kernels of time series (hopfield ... squared_error; so are those).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/random.h"
#include "oht/status.h"
#include "oht/tensor.h"

typedef enum oht_act { OHT_ACT_NONE, OHT_ACT_RELU, OHT_ACT_GELU } oht_act; // GELU: exact erf form

// Simulated quantization of one number (spec transformers 5.1): x^ = step (clip(round(x / step) + zero, low, high) - zero),
// round half to even. zero, low, high are whole numbers.
typedef struct oht_fakequant {
    float step, zero, low, high;
} oht_fakequant;

// What it does to a tensor: sum x^2, sum (x - x^)^2, values beyond [low, high].
typedef struct oht_quant_error {
    double signal, noise;
    int64_t clipped;
} oht_quant_error;

// Hopfield association of one attention: s_ij = beta <q_i, k_j>, P = f(S) over the visible keys j, out = Drop(P) V.
typedef struct oht_assoc {
    oht_assoc_spec f;
    float beta;   // D^-1/2
    bool causal;  // key j visible to query i only if j <= i
    int heads;
    oht_draw drop; // dropout on P; element index of (h, i, j) in a sample: (h * T + i) * T + j
    // Evaluation: scores are quantized before the mask, P after f; NULL = not. Host memory.
    const oht_fakequant *quant_scores, *quant_probs;
} oht_assoc;

// Optional insight into attention, for taps (each may be OHT_NO_TENSOR). scores: (B,H,T,T) after beta, before the mask;
// probs: (B,H,T,T) after f, before dropout; both before they are quantized.
typedef struct oht_attention_inner {
    oht_tensor scores, probs;
} oht_attention_inner;

// Association of short rows, many groups side by side (spec stanhop 1.1): queries (B,G,L,C) against the S stored patterns of
// their own group, or against S patterns that all groups share.
typedef struct oht_hopfield {
    oht_assoc_spec f;  // the row function, unless alpha is learned
    bool learns_alpha; // alpha-entmax with alpha = 1 + alpha_range * sigmoid(a), one raw scalar a (spec stanhop 1.5)
    float alpha_range;
    float beta;
    int heads;
    bool mix;       // heads are laid out (H,L,D) and that memory is read as (L,C) (spec stanhop 1.2)
    bool keep_base; // probs receives what backward needs: for clipped forms P before the clip
    oht_draw drop;  // on P; element of (g, h, i, j) in a sample: ((g * H + h) * L + i) * S + j
    // Evaluation: quantizers of beta Q K^T and of P, NULL = exact; scores, (B,G,H*L,S), receives beta Q K^T before its
    // quantizer, absent = nobody asks. probs is P as it is used, quantized.
    const oht_fakequant *quant_scores, *quant_probs;
    oht_tensor scores;
} oht_hopfield;

// Where the loss of rows goes, and what its gradient is multiplied by.
typedef struct oht_loss {
    double *sum;         // device memory; the loss is added. NULL: nobody asks
    float scale;         // 0: no gradient
    const float *factor; // device memory: one more factor, read when the kernel runs; NULL = 1
} oht_loss;

typedef struct oht_gate {
    oht_gate_kind kind;
    oht_gate_form form;
    int heads;
    float scale; // c
} oht_gate;

// One row of n values, in double: what the outlier metrics need (spec transformers 4).
typedef struct oht_moments {
    int64_t n;
    double mean, m2, m3, m4; // central sums: m2 = sum (x - mean)^2, ...
    double abs_max;          // NaN or inf if the row holds one
    int64_t abs_argmax;      // element index in the row, the first on ties
    int64_t outliers_6sigma; // #{|x - mean| > 6 sigma}, population sigma
    int64_t nonfinite;       // number of NaN and inf
} oht_moments;

typedef struct oht_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;      // 1 for the first update (bias correction)
    float grad_scale;  // gradients are multiplied by this first (clipping coefficient)
    void *work;        // also receives the new parameters rounded to work_type, from p[0] on; NULL = no such copy
    oht_dtype work_type;
} oht_adamw;

enum { OHT_LINK_ID = 128 }; // bytes
typedef struct oht_collectives oht_collectives;
typedef struct oht_recorder oht_recorder;

typedef struct oht_backend oht_backend;
struct oht_backend {
    const char *name;
    void *ctx;
    int threads; // OpenMP threads of the cpu backend
    char device[96]; // for messages: "cpu", "cuda 0 (NVIDIA H100 80GB HBM3)"
    int devices; // of this kind that the node shows this process; ranks of a node must not be more. 0: any number
    bool host_memory; // device memory is host memory
    const oht_collectives *collectives; // NULL: none, ranks exchange through host memory (dist.h)
    const oht_recorder *recorder; // NULL: none
    bool has_type[OHT_F16 + 1]; // storage types of floating tensors that all kernels know
    bool has_tf32, tf32; // set by the trainer where there is has_tf32: products of fp32 tensors may round their inputs to TF32

    void (*destroy)(oht_backend *be); // by oht_backend_destroy

    // Memory, 64-byte aligned and zeroed. The host must not touch device memory except through these. upload has taken
    // its source when it returns; download waits for what is queued and has written dst when it returns. Failures come
    // out of the next sync.
    oht_status (*alloc)(oht_backend *be, void **out, size_t bytes, const char *what);
    void (*free)(oht_backend *be, void *ptr);
    void (*upload)(oht_backend *be, void *dst, const void *src, size_t bytes);
    void (*download)(oht_backend *be, void *dst, const void *src, size_t bytes);
    void (*zero)(oht_backend *be, void *dst, size_t bytes);
    void (*copy)(oht_backend *be, void *dst, const void *src, size_t bytes); // device to device
    // dst[i] = src[i] rounded to nearest even; dst of a 16-bit type or fp32.
    void (*cast)(oht_backend *be, void *dst, oht_dtype type, const float *src, int64_t n);
    // Waits for everything queued; COMM error if anything failed since the last call. CPU: OK.
    oht_status (*sync)(oht_backend *be);

    // y = act(x w^T + b). x: (N,K), w: (M,K), b: (M) or absent, y: (N,M). pre: (N,M) receives x w^T + b where the
    // activation's gradient needs it (GELU in training), else absent.
    void (*linear_fwd)(oht_backend *be, oht_tensor y, oht_tensor pre, oht_tensor x, oht_tensor w, oht_tensor b,
                       oht_act act);
    // dy is overwritten by the gradient before the activation. dx, dw, db may be absent. add_dx for dx; add_dp for dw, db.
    void (*linear_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dw, oht_tensor db, oht_tensor dy, oht_tensor x,
                       oht_tensor w, oht_tensor pre, oht_tensor y, oht_act act, bool add_dx, bool add_dp);

    // y = (x - mean) rstd gamma + beta over the last axis; mean, rstd: (N), rstd = (biased var + eps)^-1/2.
    void (*layernorm_fwd)(oht_backend *be, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x,
                          oht_tensor gamma, oht_tensor beta, float eps);
    size_t (*layernorm_bwd_scratch)(oht_backend *be, int64_t N, int64_t C);
    void (*layernorm_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dgamma, oht_tensor dbeta, oht_tensor dy,
                          oht_tensor x, oht_tensor gamma, oht_tensor mean, oht_tensor rstd, bool add_dx, bool add_dp,
                          void *scratch);

    // qkv: (B,T,3C) = [q | k | v] per token, heads contiguous inside each; out: (B,T,C); mask: (B,T) u8, 1 = visible
    // key, or absent. row: (B,H,T) fp32, kept for backward: log-normaliser of the softmax family
    // (softmax_1: m + log(exp(-m) + sum exp(s - m)), m = max(0, max s)), the threshold tau of sparsemax and entmax.
    // A fully masked row gives P = 0 for every f.
    size_t (*attention_fwd_scratch)(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as);
    void (*attention_fwd)(oht_backend *be, oht_tensor out, oht_tensor row, oht_tensor qkv, oht_tensor mask,
                          const oht_assoc *as, const oht_attention_inner *inner, void *scratch);
    size_t (*attention_bwd_scratch)(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as);
    void (*attention_bwd)(oht_backend *be, oht_tensor dqkv, oht_tensor dout, oht_tensor out, oht_tensor row,
                          oht_tensor qkv, oht_tensor mask, const oht_assoc *as, bool add_dqkv, void *scratch);

    // Association of short rows. q, out: (B,G,L,C); k, v: (B,G,S,C), or (1,S,C) for patterns that all groups share; v may be k.
    // a: (1), or absent. probs: (B,G,H*L,S), kept for backward.
    size_t (*hopfield_scratch)(oht_backend *be, const oht_hopfield *hf, int64_t G, int64_t L, int64_t S, int64_t C);
    void (*hopfield_fwd)(oht_backend *be, oht_tensor out, oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v,
                         oht_tensor a, const oht_hopfield *hf, void *scratch);
    // add[]: dq, dk, dv, da. v is k: dv is absent and dk receives both.
    void (*hopfield_bwd)(oht_backend *be, oht_tensor dq, oht_tensor dk, oht_tensor dv, oht_tensor da, oht_tensor dout,
                         oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v, oht_tensor a,
                         const oht_hopfield *hf, const bool add[4], void *scratch);
    // Retrieval to convergence (spec stanhop 1.4): y, a head's part of a group each, is r where the probabilities p,
    // (B,G,H*L,S), are further than eps from those before, in the norm over (L,S), and q where not. q, r, y: (B,G,L,C).
    void (*settle_fwd)(oht_backend *be, oht_tensor y, oht_tensor q, oht_tensor r, oht_tensor p, oht_tensor before, int heads,
                       float eps);
    // dy to dr or to dq, 0 to the other; either may be absent.
    void (*settle_bwd)(oht_backend *be, oht_tensor dq, oht_tensor dr, oht_tensor dy, oht_tensor p, oht_tensor before, int heads,
                       float eps, const bool add[2]);
    // The fixed permutation of spec stanhop 1.2 alone, or its inverse. x, y: (B,G,L,C).
    void (*mix_heads)(oht_backend *be, oht_tensor y, oht_tensor x, int heads, bool inverse, bool add);
    // y[b,j,i] = x[b,i,j] over rows of length C. x: (B,X,Y,C), y: (B,Y,X,C).
    void (*swap_axes)(oht_backend *be, oht_tensor y, oht_tensor x, bool add);
    // Time series to segments: y[b,m,l,i] = x[b, l*s+i - pad, m] where the first row stands in for the pad before it.
    // x: (B,T,M), y: (B,M,L,s), pad = L*s - T.
    void (*segment)(oht_backend *be, oht_tensor y, oht_tensor x);
    // And back, cropped: y[b,t,m] = x[b,m,t/s,t%s] (+ mean over time of base[b,:,m]). y: (B,U,M), base: (B,T,M) or absent.
    void (*unsegment_fwd)(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor base);
    void (*unsegment_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add); // the cropped places get 0
    // w neighbours become one: y[b,m,j] = x[b,m,j*w] ... x[b,m,j*w+w-1] end to end; places behind the last take the last
    // places again, in order. x: (B,M,L,C), y: (B,M,ceil(L/w),w*C).
    void (*merge_fwd)(oht_backend *be, oht_tensor y, oht_tensor x);
    void (*merge_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add);
    // loss: sum of (x - y)^2 over everything; dx (absent in evaluation) = 2 scale (x - y).
    void (*squared_error)(oht_backend *be, oht_tensor dx, oht_tensor x, oht_tensor y, const oht_loss *loss, bool add);
    // sums[0..2] (host) += sum of |x - y|, of |(x - y) / y|, of ((x - y) / y)^2; inf or NaN where a y is 0.
    void (*forecast_errors)(oht_backend *be, oht_tensor x, oht_tensor y, double sums[3]);

    // Gate (spec transformers 1.5): out = c pi ctx per head. x: (B,T,C) gate input, ctx, out: (B,T,C), w[]: the gate's
    // parameters in the spec's order (linear: w (H,D), b (H); mlp: w1 (H,m,D), b1 (H,m), w2 (H,m), b2 (H); all_features:
    // W (H,C), b (H); unconditional: a (H)). pi: (B,T,H) per token, (B,H) per head, (H) unconditional.
    size_t (*gate_scratch)(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_gate *gate, int64_t hidden);
    void (*gate_fwd)(oht_backend *be, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctx, const oht_tensor w[4],
                     const oht_gate *gate, void *scratch);
    // add[0]: dx, add[1]: dctx, add_dp: dw[].
    void (*gate_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout, oht_tensor pi,
                     oht_tensor x, oht_tensor ctx, const oht_tensor w[4], const oht_gate *gate, const bool add[2],
                     bool add_dp, void *scratch);

    // y[n] = table[ids[n]]; ids: (N) i32, table: (V,C), y: (N,C).
    void (*embedding_fwd)(oht_backend *be, oht_tensor y, oht_tensor ids, oht_tensor table);
    // dtable[ids[n]] += dy[n], except where ids[n] == padding_id (-1: none). Zeroes dtable first unless add.
    // Deterministic: rows are added in order of n.
    void (*embedding_bwd)(oht_backend *be, oht_tensor dtable, oht_tensor dy, oht_tensor ids, int64_t padding_id, bool add);

    // y[b,t] = x[b,t] + table[offset + t] (or table[offset] for every t when broadcast).
    void (*add_rows_fwd)(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor table, int64_t offset, bool broadcast);
    // dtable rows get sum_b dy[b,t] (broadcast: sum_bt); the other rows are zeroed unless add. dx handled by the op.
    void (*add_rows_bwd)(oht_backend *be, oht_tensor dtable, oht_tensor dy, int64_t offset, bool broadcast, bool add);

    // y[i] = x[index[i]] over rows of length C; backward: dx[index[i]] = dy[i], the other rows zeroed unless add.
    void (*gather_fwd)(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor index);
    void (*gather_bwd)(oht_backend *be, oht_tensor dx, oht_tensor dy, oht_tensor index, bool add);

    // y = x + Drop(f); x absent: y = Drop(f). Shape (B,...), row b of axis 0 is one sample (random.h).
    void (*dropout_add)(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop);
    // df = dy * mask / (1-p), the same mask again; added when add.
    void (*dropout_bwd)(oht_backend *be, oht_tensor df, oht_tensor dy, const oht_draw *drop, bool add);
    void (*add)(oht_backend *be, oht_tensor y, oht_tensor x); // y += x; y: of x's type, or fp32

    // Language-model head on a chunk of rows. logits: (n,V), overwritten by d loss / d logits = (softmax - onehot) * scale
    // when scale != 0. labels: (n) i32, -1 = ignored (row becomes 0). loss: sum of -log p[label].
    void (*cross_entropy)(oht_backend *be, oht_tensor logits, oht_tensor labels, const oht_loss *loss);
    // The same with soft labels, targets: (n,V), rows of probabilities: loss = -sum_j t_j log p_j.
    void (*soft_cross_entropy)(oht_backend *be, oht_tensor logits, oht_tensor targets, const oht_loss *loss);
    // hits[0], hits[1] (host) += rows whose label has the largest, one of the five largest logits (the first on ties).
    void (*top_hits)(oht_backend *be, oht_tensor logits, oht_tensor labels, int64_t hits[2]);
    // images: (B,S,S,3) u8 -> y: (B,(S/p)^2,3pp), patches row by row, inside one channel by channel, v / 127.5 - 1.
    void (*patches)(oht_backend *be, oht_tensor y, oht_tensor images, int patch);

    // Optimizer over flat memory. p, g, m, v: n floats. p *= 1 - lr wd; m, v EMA; p -= lr mhat / (sqrt(vhat) + eps).
    void (*adamw)(oht_backend *be, float *p, const float *g, float *m, float *v, int64_t n, const oht_adamw *opt);
    double (*sumsq)(oht_backend *be, const float *x, int64_t n); // NaN or inf if x holds one

    // One oht_moments per row of x seen as (rows, n); out is host memory. Two passes, sums in double.
    void (*moments)(oht_backend *be, const void *x, oht_dtype type, int64_t rows, int64_t n, oht_moments *out);
    // mean_h[h] = mean over the rest of exp(-row[b,h,t]): softmax_1's null mass per head; host memory (H). row of rank 4: the
    // probabilities of hopfield_fwd, seen as (B*G,H,L,S); the mass is 1 - their sum over S.
    void (*null_mass)(oht_backend *be, double *mean_h, oht_tensor row);
    // mean over all leading axes of pi: host memory (H).
    void (*gate_mean)(oht_backend *be, double *mean_h, oht_tensor pi);

    // Simulated quantization of `rows` rows of n floats, ld apart. q: one quantizer, or one a row when per_row.
    void (*minmax)(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, float out[2]); // host; NaN: not all finite
    void (*fake_quantize)(oht_backend *be, float *x, int64_t rows, int64_t n, int64_t ld, const oht_fakequant *q, bool per_row);
    void (*quant_error)(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, const oht_fakequant *q, bool per_row,
                        oht_quant_error *out); // host; x is not changed

    // Dense peak of matrix products in a storage type (tf32 as set), FLOP/s, from the data sheet; 0 = unknown.
    double (*peak)(oht_backend *be, oht_dtype type);
};

// Collectives on device memory between the devices of all ranks, on a stream of their own beside the kernels. Every rank
// calls them in the same order with the same sizes. Each waits for the kernels queued before it, not for those after, and
// returns at once.
struct oht_collectives {
    oht_status (*link_id)(oht_backend *be, unsigned char id[OHT_LINK_ID]); // rank 0 draws it, all ranks link with it
    // Collective. patience_s: a collective that takes longer is a COMM error (0 = wait for ever).
    oht_status (*link)(oht_backend *be, const unsigned char id[OHT_LINK_ID], int rank, int size, double patience_s);
    void (*all_reduce)(oht_backend *be, float *x, int64_t n); // sum
    void (*reduce_scatter)(oht_backend *be, float *x, int64_t n); // x: (size, n); rank r's row becomes the sum, the others are lost
    void (*all_gather)(oht_backend *be, float *x, int64_t n);     // x: (size, n); rank r gives row r
    // Waits until they are done, so that kernels queued later see the results; *waited_s: how long this took after all
    // kernels were done (exposed communication). COMM error when a peer failed or patience ran out.
    oht_status (*finish)(oht_backend *be, double *waited_s);
};

// Work that is queued again and again in the same way can be recorded once and then queued as a whole (CUDA graphs). A
// recording holds the arguments of its entries, device memory by address: what differs from time to time must lie there
// (oht_draw.now, oht_loss). It takes some memory of the device. Between begin and end only entries that return before their work is done may be called.
struct oht_recorder {
    bool (*begin)(oht_backend *be); // what is queued from now on is recorded instead of done; false: it cannot be, the log says why
    void *(*end)(oht_backend *be);  // the recording; NULL: it could not be made, the log says why, nothing has been done
    void (*replay)(oht_backend *be, void *recording); // queues it, after all that is queued already
    void (*discard)(oht_backend *be, void *recording);
};

// The CPU backend (kernels/cpu/backend.c). Free with oht_backend_destroy.
OHT_CHECKED oht_status oht_backend_cpu_create(oht_backend **out);
// By run.device: cpu; cuda: the CUDA plugin on GPU local_rank of this node (modulo those it sees), COMM without one;
// auto: a GPU where there is one, else the CPU, and the log says why. src/base/device.c
OHT_CHECKED oht_status oht_backend_create(const char *device, int local_rank, oht_backend **out);
void oht_backend_destroy(oht_backend *be);

// FLOP/s of the BLAS for c = op(a) op(b), op(a): (m,k), op(b): (k,n), row-major: median of five stretches that take
// `seconds` in all or a call each (kernels/cpu/gemm_rate.c).
OHT_CHECKED oht_status oht_gemm_rate(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double seconds, double *flops_per_s);

// The kernels OpenBLAS uses, by the processor they are for ("SkylakeX"); static. (kernels/cpu/blas_kernels.c)
const char *oht_blas_kernels(void);

// Starts the program again with OPENBLAS_CORETYPE set where OpenBLAS took kernels without AVX2 for a processor that has it;
// else, and where the variable is set already, returns. First thing in main, before MPI and threads.
void oht_blas_best_kernels(char **argv);
