// The CPU backend: the table, its memory, its life. Every entry is synchronous, so sync has nothing to wait
// for.
#include <assert.h>
#include <string.h>

#include "cpu/cpu.h"
#include "oht/memory.h"

static oht_status alloc_cpu(oht_backend *be, void **out, size_t bytes, const char *what) {
    (void)be;
    OHT_TRY(oht_alloc(out, bytes, 1, what));
    return OHT_OK;
}

static void free_cpu(oht_backend *be, void *ptr) {
    (void)be;
    oht_free(ptr);
}

static void transfer_cpu(oht_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    if (bytes > 0) memcpy(dst, src, bytes);
}

static void zero_cpu(oht_backend *be, void *dst, size_t bytes) {
    (void)be;
    if (bytes > 0) memset(dst, 0, bytes);
}

static void cast_cpu(oht_backend *be, void *dst, oht_dtype type, const float *src, int64_t n) {
    assert(type == OHT_F32);
    (void)type;
    transfer_cpu(be, dst, src, (size_t)n * sizeof(float));
}

static double peak_cpu(oht_backend *be, oht_dtype type) {
    (void)be;
    (void)type;
    return 0;
}

static oht_status sync_cpu(oht_backend *be) {
    (void)be;
    return OHT_OK;
}

static void destroy_cpu(oht_backend *be) {
    cpu_context *ctx = be->ctx;
    oht_free(ctx->partial);
    oht_free(ctx);
    oht_free(be);
}

static const oht_backend table = {
    .name = "cpu",
    .device = "cpu",
    .has_type = {[OHT_F32] = true},
    .host_memory = true,
    .destroy = destroy_cpu,
    .alloc = alloc_cpu,
    .free = free_cpu,
    .upload = transfer_cpu,
    .download = transfer_cpu,
    .zero = zero_cpu,
    .copy = transfer_cpu,
    .cast = cast_cpu,
    .peak = peak_cpu,
    .sync = sync_cpu,
    .linear_fwd = linear_fwd_cpu,
    .linear_bwd = linear_bwd_cpu,
    .layernorm_fwd = layernorm_fwd_cpu,
    .layernorm_bwd_scratch = layernorm_bwd_scratch_cpu,
    .layernorm_bwd = layernorm_bwd_cpu,
    .attention_fwd_scratch = attention_fwd_scratch_cpu,
    .attention_fwd = attention_fwd_cpu,
    .attention_bwd_scratch = attention_bwd_scratch_cpu,
    .attention_bwd = attention_bwd_cpu,
    .hopfield_scratch = hopfield_scratch_cpu,
    .hopfield_fwd = hopfield_fwd_cpu,
    .hopfield_bwd = hopfield_bwd_cpu,
    .mix_heads = mix_heads_cpu,
    .swap_axes = swap_axes_cpu,
    .segment = segment_cpu,
    .unsegment_fwd = unsegment_fwd_cpu,
    .unsegment_bwd = unsegment_bwd_cpu,
    .merge_fwd = merge_fwd_cpu,
    .merge_bwd = merge_bwd_cpu,
    .squared_error = squared_error_cpu,
    .forecast_errors = forecast_errors_cpu,
    .gate_scratch = gate_scratch_cpu,
    .gate_fwd = gate_fwd_cpu,
    .gate_bwd = gate_bwd_cpu,
    .embedding_fwd = embedding_fwd_cpu,
    .embedding_bwd = embedding_bwd_cpu,
    .add_rows_fwd = add_rows_fwd_cpu,
    .add_rows_bwd = add_rows_bwd_cpu,
    .gather_fwd = gather_fwd_cpu,
    .gather_bwd = gather_bwd_cpu,
    .dropout_add = dropout_add_cpu,
    .dropout_bwd = dropout_bwd_cpu,
    .add = add_cpu,
    .cross_entropy = cross_entropy_cpu,
    .soft_cross_entropy = soft_cross_entropy_cpu,
    .top_hits = top_hits_cpu,
    .patches = patches_cpu,
    .adamw = adamw_cpu,
    .sumsq = sumsq_cpu,
    .moments = moments_cpu,
    .settle_fwd = settle_fwd_cpu,
    .settle_bwd = settle_bwd_cpu,
    .null_mass = null_mass_cpu,
    .gate_mean = gate_mean_cpu,
    .minmax = minmax_cpu,
    .fake_quantize = fake_quantize_cpu,
    .quant_error = quant_error_cpu,
};

oht_status oht_backend_cpu_create(oht_backend **out) {
    oht_status status = OHT_OK;
    oht_backend *be = NULL;
    cpu_context *ctx = NULL;
    *out = NULL;
    if (omp_get_max_threads() > CPU_MOST_THREADS) // the OpenMP runtime would overrun its stack
        OHT_FAIL(OHT_CONFIG, "OMP_NUM_THREADS asks for %d threads a rank, expected 1 to %d\nfix: OMP_NUM_THREADS=%d, or less",
                 omp_get_max_threads(), CPU_MOST_THREADS, omp_get_num_procs());
    OHT_TRY_GOTO(status, OHT_ALLOC(&be, 1, "cpu backend"), failed);
    OHT_TRY_GOTO(status, OHT_ALLOC(&ctx, 1, "cpu backend"), failed);
    *be = table;
    be->threads = omp_get_max_threads();
    OHT_TRY_GOTO(status,
                 OHT_ALLOC(&ctx->partial, (size_t)be->threads * CPU_PARTIAL, "partial sums of threads"),
                 failed);
    be->ctx = ctx;
    *out = be;
    return OHT_OK;
failed:
    oht_free(ctx);
    oht_free(be);
    return status;
}
