// Inside of the CPU backend: the functions behind the table's entries (their contracts stand in
// oht/backend.h) and how work is shared among threads. Every reduction has a fixed order for a given number
// of threads, so results repeat bit by bit; there are no atomics.
#pragma once

#include <omp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"

enum {
    CPU_LINE = 64, // bytes of a cache line
    CPU_PARTIAL = 16, // doubles per thread for partial sums, two cache lines
    CPU_MOST_THREADS = 1024, // of a rank
    CPU_SMALL = 16 * 1024, // elements below which starting a team costs more than it saves
};

typedef struct cpu_context {
    double *partial; // (threads, CPU_PARTIAL)
} cpu_context;

static inline int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

// Part `part` of `parts` of 0..n in whole grains: [*lo, *hi).
static inline void cpu_part(int64_t n, int64_t grain, int part, int parts, int64_t *lo, int64_t *hi) {
    int64_t grains = (n + grain - 1) / grain;
    *lo = min_i64(n, grains * part / parts * grain);
    *hi = min_i64(n, grains * (part + 1) / parts * grain);
}

// The calling thread's part.
static inline void cpu_share(int64_t n, int64_t grain, int64_t *lo, int64_t *hi) {
    cpu_part(n, grain, omp_get_thread_num(), omp_get_num_threads(), lo, hi);
}

static inline double *cpu_partial(oht_backend *be, int thread) {
    return ((cpu_context *)be->ctx)->partial + (int64_t)thread * CPU_PARTIAL;
}

static inline float cpu_scale(const oht_loss *loss) {
    return loss->factor && loss->scale != 0.0f ? loss->scale * *loss->factor : loss->scale;
}
static inline void cpu_add_loss(const oht_loss *loss, double sum) {
    if (loss->sum) *loss->sum += sum;
}

// One thread's GEMM, for use inside a parallel region. gemm.c
void gemm_serial(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                 const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

// c = alpha op(a) op(b) + beta c, row-major, op(a): (m,k), op(b): (k,n), leading dimensions in elements.
void gemm_cpu(oht_backend *be, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

void linear_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor pre, oht_tensor x, oht_tensor w, oht_tensor b,
                    oht_act act);
void linear_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dw, oht_tensor db, oht_tensor dy, oht_tensor x,
                    oht_tensor w, oht_tensor pre, oht_tensor y, oht_act act, bool add_dx, bool add_dp);

void layernorm_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x,
                       oht_tensor gamma, oht_tensor beta, float eps);
size_t layernorm_bwd_scratch_cpu(oht_backend *be, int64_t N, int64_t C);
void layernorm_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dgamma, oht_tensor dbeta, oht_tensor dy,
                       oht_tensor x, oht_tensor gamma, oht_tensor mean, oht_tensor rstd, bool add_dx,
                       bool add_dp, void *scratch);

size_t attention_fwd_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as);
void attention_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor row, oht_tensor qkv, oht_tensor mask,
                       const oht_assoc *as, const oht_attention_inner *inner, void *scratch);
size_t attention_bwd_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as);
void attention_bwd_cpu(oht_backend *be, oht_tensor dqkv, oht_tensor dout, oht_tensor out, oht_tensor row,
                       oht_tensor qkv, oht_tensor mask, const oht_assoc *as, bool add_dqkv, void *scratch);

size_t hopfield_scratch_cpu(oht_backend *be, const oht_hopfield *hf, int64_t G, int64_t L, int64_t S, int64_t C);
void hopfield_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor probs, oht_tensor q, oht_tensor k,
                      oht_tensor v, oht_tensor a, const oht_hopfield *hf, void *scratch);
void hopfield_bwd_cpu(oht_backend *be, oht_tensor dq, oht_tensor dk, oht_tensor dv, oht_tensor da,
                      oht_tensor dout, oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v,
                      oht_tensor a, const oht_hopfield *hf, const bool add[4], void *scratch);
void mix_heads_cpu(oht_backend *be, oht_tensor y, oht_tensor x, int heads, bool inverse, bool add);
void swap_axes_cpu(oht_backend *be, oht_tensor y, oht_tensor x, bool add);
void segment_cpu(oht_backend *be, oht_tensor y, oht_tensor x);
void unsegment_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor base);
void unsegment_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add);
void merge_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x);
void merge_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, bool add);
void squared_error_cpu(oht_backend *be, oht_tensor dx, oht_tensor x, oht_tensor y, const oht_loss *loss, bool add);
void forecast_errors_cpu(oht_backend *be, oht_tensor x, oht_tensor y, double sums[3]);

size_t gate_scratch_cpu(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_gate *gate,
                        int64_t hidden);
void gate_fwd_cpu(oht_backend *be, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctx,
                  const oht_tensor w[4], const oht_gate *gate, void *scratch);
void gate_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout,
                  oht_tensor pi, oht_tensor x, oht_tensor ctx, const oht_tensor w[4], const oht_gate *gate,
                  const bool add[2], bool add_dp, void *scratch);

void embedding_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor ids, oht_tensor table);
void embedding_bwd_cpu(oht_backend *be, oht_tensor dtable, oht_tensor dy, oht_tensor ids, int64_t padding_id,
                       bool add);
void add_rows_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor table, int64_t offset,
                      bool broadcast);
void add_rows_bwd_cpu(oht_backend *be, oht_tensor dtable, oht_tensor dy, int64_t offset, bool broadcast,
                      bool add);
void gather_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor index);
void gather_bwd_cpu(oht_backend *be, oht_tensor dx, oht_tensor dy, oht_tensor index, bool add);

void dropout_add_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop);
void dropout_bwd_cpu(oht_backend *be, oht_tensor df, oht_tensor dy, const oht_draw *drop, bool add);
void add_cpu(oht_backend *be, oht_tensor y, oht_tensor x);

void cross_entropy_cpu(oht_backend *be, oht_tensor logits, oht_tensor labels, const oht_loss *loss);
void soft_cross_entropy_cpu(oht_backend *be, oht_tensor logits, oht_tensor targets, const oht_loss *loss);
void top_hits_cpu(oht_backend *be, oht_tensor logits, oht_tensor labels, int64_t hits[2]);
void patches_cpu(oht_backend *be, oht_tensor y, oht_tensor images, int patch);

void adamw_cpu(oht_backend *be, float *p, const float *g, float *m, float *v, int64_t n,
               const oht_adamw *opt);
double sumsq_cpu(oht_backend *be, const float *x, int64_t n);

void moments_cpu(oht_backend *be, const void *x, oht_dtype type, int64_t rows, int64_t n, oht_moments *out);
void settle_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor q, oht_tensor r, oht_tensor p, oht_tensor before, int heads,
                    float eps);
void settle_bwd_cpu(oht_backend *be, oht_tensor dq, oht_tensor dr, oht_tensor dy, oht_tensor p, oht_tensor before, int heads,
                    float eps, const bool add[2]);
void null_mass_cpu(oht_backend *be, double *mean_h, oht_tensor row);
void gate_mean_cpu(oht_backend *be, double *mean_h, oht_tensor pi);

void minmax_cpu(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, float out[2]);
void fake_quantize_cpu(oht_backend *be, float *x, int64_t rows, int64_t n, int64_t ld, const oht_fakequant *q,
                       bool per_row);
void quant_error_cpu(oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld,
                     const oht_fakequant *q, bool per_row, oht_quant_error *out);
