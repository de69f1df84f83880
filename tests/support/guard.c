// The guarded device (guard.h). Every allocation is a mapping of its own, ends at a page that nobody may touch, and is
// closed except while an entry runs. All entries pass on to the CPU backend.
#include "guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "oht/dist.h"
#include "oht/memory.h"

enum { MOST = 64, MOST_PIECES = 4096 };

typedef struct region {
    unsigned char *map, *start; // of the mapping, of the memory given out, which ends at map + length
    size_t length, bytes;
} region;

typedef struct piece {
    enum { SUM, SCATTER, GATHER } kind;
    float *x;
    int64_t n;
} piece;

typedef struct guard {
    oht_backend table; // what the session sees; first member
    oht_backend *inner;
    region region[MOST];
    piece queue[MOST_PIECES];
    int n_queue, size;
} guard;

static long collectives; // carried out by this process
static oht_comm *world;

static guard *of(oht_backend *be) {
    return be->ctx;
}
static oht_backend *inner_of(oht_backend *be) {
    return of(be)->inner;
}

// ---- doors ----
static void protect(oht_backend *be, int how) {
    for (int i = 0; i < MOST; i++)
        if (of(be)->region[i].map && mprotect(of(be)->region[i].map, of(be)->region[i].length, how) != 0) abort();
}
static void open_all(oht_backend *be) {
    protect(be, PROT_READ | PROT_WRITE);
}
static void close_all(oht_backend *be) {
    protect(be, PROT_NONE);
}

static oht_tensor at(const void *x) {
    return (oht_tensor){.data = (void *)(uintptr_t)x};
}

static void check(oht_backend *be, const char *entry, const oht_tensor *t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char *x = t[i].data;
        bool inside = x == NULL;
        size_t bytes = t[i].rank ? (size_t)oht_tensor_count(t[i]) * oht_dtype_size(t[i].dtype) : 0;
        for (int k = 0; k < MOST && !inside; k++) {
            const region *r = &of(be)->region[k];
            inside = r->map && x >= r->start && x + bytes <= r->map + r->length;
        }
        if (inside) continue;
        fprintf(stderr, "guard: %s: tensor %zu (%p, %zu bytes) is not in device memory\n", entry, i, (const void *)x,
                bytes);
        abort();
    }
}

// ---- memory ----
static oht_status alloc_guard(oht_backend *be, void **out, size_t bytes, const char *what) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), length = (bytes + 63) / 64 * 64;
    size_t whole = (length + page - 1) / page * page + (length == 0 ? page : 0);
    *out = NULL;
    region *r = of(be)->region;
    while (r < of(be)->region + MOST && r->map) r++;
    if (r == of(be)->region + MOST) OHT_FAIL(OHT_MEMORY, "guard: no room for %s", what);
    unsigned char *map = mmap(NULL, whole + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) OHT_FAIL(OHT_MEMORY, "guard: mmap of %zu bytes for %s", whole, what);
    *r = (region){map, map + whole - length, whole, bytes};
    open_all(be);
    memset(map, 0xff, whole); // NaN
    close_all(be);
    *out = r->start;
    return OHT_OK;
}

static void free_guard(oht_backend *be, void *ptr) {
    for (int i = 0; ptr && i < MOST; i++) {
        region *r = &of(be)->region[i];
        if (r->start != ptr) continue;
        munmap(r->map, r->length + (size_t)sysconf(_SC_PAGESIZE));
        *r = (region){0};
    }
}

static void upload_guard(oht_backend *be, void *dst, const void *src, size_t bytes) {
    check(be, "upload", (const oht_tensor[]){at(dst)}, 1);
    open_all(be);
    inner_of(be)->upload(inner_of(be), dst, src, bytes);
    close_all(be);
}

static void download_guard(oht_backend *be, void *dst, const void *src, size_t bytes) {
    check(be, "download", (const oht_tensor[]){at(src)}, 1);
    open_all(be);
    inner_of(be)->download(inner_of(be), dst, src, bytes);
    close_all(be);
}

static oht_status sync_guard(oht_backend *be) {
    return inner_of(be)->sync(inner_of(be));
}

static double peak_guard(oht_backend *be, oht_dtype type) {
    return inner_of(be)->peak(inner_of(be), type);
}

static void destroy_guard(oht_backend *be) {
    for (int i = 0; i < MOST; i++) free_guard(be, of(be)->region[i].start);
    oht_backend_destroy(inner_of(be));
    oht_free(of(be));
}

// ---- kernels ----
#define ENTRY(name, parameters, arguments, ...)                                                              \
    static void name##_guard parameters {                                                                    \
        const oht_tensor device[] = {__VA_ARGS__};                                                           \
        check(be, #name, device, sizeof(device) / sizeof(device[0]));                                        \
        open_all(be);                                                                                        \
        inner_of(be)->name arguments;                                                                        \
        close_all(be);                                                                                       \
    }
#define SIZE(name, parameters, arguments)                                                                    \
    static size_t name##_guard parameters {                                                                  \
        return inner_of(be)->name arguments;                                                                 \
    }

// clang-format off
ENTRY(zero, (oht_backend *be, void *dst, size_t bytes), (inner_of(be), dst, bytes), at(dst))
ENTRY(copy, (oht_backend *be, void *dst, const void *src, size_t bytes), (inner_of(be), dst, src, bytes),
      at(dst), at(src))
ENTRY(cast, (oht_backend *be, void *dst, oht_dtype type, const float *src, int64_t n), (inner_of(be), dst,
      type, src, n), at(dst), at(src))
ENTRY(linear_fwd, (oht_backend *be, oht_tensor y, oht_tensor pre, oht_tensor x, oht_tensor w, oht_tensor b,
      oht_act act), (inner_of(be), y, pre, x, w, b, act), y, pre, x, w, b)
ENTRY(linear_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dw, oht_tensor db, oht_tensor dy, oht_tensor
      x, oht_tensor w, oht_tensor pre, oht_tensor y, oht_act act, bool add_dx, bool add_dp), (inner_of(be),
      dx, dw, db, dy, x, w, pre, y, act, add_dx, add_dp), dx, dw, db, dy, x, w, pre, y)
ENTRY(layernorm_fwd, (oht_backend *be, oht_tensor y, oht_tensor mean, oht_tensor rstd, oht_tensor x,
      oht_tensor gamma, oht_tensor beta, float eps), (inner_of(be), y, mean, rstd, x, gamma, beta, eps), y,
      mean, rstd, x, gamma, beta)
SIZE(layernorm_bwd_scratch, (oht_backend *be, int64_t N, int64_t C), (inner_of(be), N, C))
ENTRY(layernorm_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dgamma, oht_tensor dbeta, oht_tensor dy,
      oht_tensor x, oht_tensor gamma, oht_tensor mean, oht_tensor rstd, bool add_dx, bool add_dp, void
      *scratch), (inner_of(be), dx, dgamma, dbeta, dy, x, gamma, mean, rstd, add_dx, add_dp, scratch), dx,
      dgamma, dbeta, dy, x, gamma, mean, rstd, at(scratch))
SIZE(attention_fwd_scratch, (oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as),
      (inner_of(be), B, T, C, as))
ENTRY(attention_fwd, (oht_backend *be, oht_tensor out, oht_tensor row, oht_tensor qkv, oht_tensor mask,
      const oht_assoc *as, const oht_attention_inner *inner, void *scratch), (inner_of(be), out, row, qkv,
      mask, as, inner, scratch), out, row, qkv, mask, at(scratch), inner ? inner->scores : OHT_NO_TENSOR,
      inner ? inner->probs : OHT_NO_TENSOR)
SIZE(attention_bwd_scratch, (oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_assoc *as),
      (inner_of(be), B, T, C, as))
ENTRY(attention_bwd, (oht_backend *be, oht_tensor dqkv, oht_tensor dout, oht_tensor out, oht_tensor row,
      oht_tensor qkv, oht_tensor mask, const oht_assoc *as, bool add_dqkv, void *scratch), (inner_of(be),
      dqkv, dout, out, row, qkv, mask, as, add_dqkv, scratch), dqkv, dout, out, row, qkv, mask, at(scratch))
SIZE(hopfield_scratch, (oht_backend *be, const oht_hopfield *hf, int64_t G, int64_t L, int64_t S, int64_t
      C), (inner_of(be), hf, G, L, S, C))
ENTRY(hopfield_fwd, (oht_backend *be, oht_tensor out, oht_tensor probs, oht_tensor q, oht_tensor k,
      oht_tensor v, oht_tensor a, const oht_hopfield *hf, void *scratch), (inner_of(be), out, probs, q, k,
      v, a, hf, scratch), out, probs, q, k, v, a, at(scratch))
ENTRY(hopfield_bwd, (oht_backend *be, oht_tensor dq, oht_tensor dk, oht_tensor dv, oht_tensor da, oht_tensor
      dout, oht_tensor probs, oht_tensor q, oht_tensor k, oht_tensor v, oht_tensor a, const oht_hopfield
      *hf, const bool add[4], void *scratch), (inner_of(be), dq, dk, dv, da, dout, probs, q, k, v, a, hf,
      add, scratch), dq, dk, dv, da, dout, probs, q, k, v, a, at(scratch))
ENTRY(settle_fwd, (oht_backend *be, oht_tensor y, oht_tensor q, oht_tensor r, oht_tensor p, oht_tensor before,
      int heads, float eps), (inner_of(be), y, q, r, p, before, heads, eps), y, q, r, p, before)
ENTRY(settle_bwd, (oht_backend *be, oht_tensor dq, oht_tensor dr, oht_tensor dy, oht_tensor p, oht_tensor before,
      int heads, float eps, const bool add[2]), (inner_of(be), dq, dr, dy, p, before, heads, eps, add), dq, dr,
      dy, p, before)
ENTRY(mix_heads, (oht_backend *be, oht_tensor y, oht_tensor x, int heads, bool inverse, bool add),
      (inner_of(be), y, x, heads, inverse, add), y, x)
ENTRY(swap_axes, (oht_backend *be, oht_tensor y, oht_tensor x, bool add), (inner_of(be), y, x, add), y, x)
ENTRY(segment, (oht_backend *be, oht_tensor y, oht_tensor x), (inner_of(be), y, x), y, x)
ENTRY(unsegment_fwd, (oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor base), (inner_of(be), y, x,
      base), y, x, base)
ENTRY(unsegment_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dy, bool add), (inner_of(be), dx, dy, add),
      dx, dy)
ENTRY(merge_fwd, (oht_backend *be, oht_tensor y, oht_tensor x), (inner_of(be), y, x), y, x)
ENTRY(merge_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dy, bool add), (inner_of(be), dx, dy, add), dx,
      dy)
ENTRY(squared_error, (oht_backend *be, oht_tensor dx, oht_tensor x, oht_tensor y, const oht_loss *loss, bool
      add), (inner_of(be), dx, x, y, loss, add), dx, x, y, at(loss->sum), at(loss->factor))
SIZE(gate_scratch, (oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_gate *gate, int64_t hidden),
      (inner_of(be), B, T, C, gate, hidden))
ENTRY(gate_fwd, (oht_backend *be, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctx, const
      oht_tensor w[4], const oht_gate *gate, void *scratch), (inner_of(be), out, pi, x, ctx, w, gate,
      scratch), out, pi, x, ctx, w[0], w[1], w[2], w[3], at(scratch))
ENTRY(gate_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout,
      oht_tensor pi, oht_tensor x, oht_tensor ctx, const oht_tensor w[4], const oht_gate *gate, const bool
      add[2], bool add_dp, void *scratch), (inner_of(be), dx, dctx, dw, dout, pi, x, ctx, w, gate, add,
      add_dp, scratch), dx, dctx, dw[0], dw[1], dw[2], dw[3], dout, pi, x, ctx, w[0], w[1], w[2], w[3],
      at(scratch))
ENTRY(embedding_fwd, (oht_backend *be, oht_tensor y, oht_tensor ids, oht_tensor table), (inner_of(be), y,
      ids, table), y, ids, table)
ENTRY(embedding_bwd, (oht_backend *be, oht_tensor dtable, oht_tensor dy, oht_tensor ids, int64_t padding_id,
      bool add), (inner_of(be), dtable, dy, ids, padding_id, add), dtable, dy, ids)
ENTRY(add_rows_fwd, (oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor table, int64_t offset, bool
      broadcast), (inner_of(be), y, x, table, offset, broadcast), y, x, table)
ENTRY(add_rows_bwd, (oht_backend *be, oht_tensor dtable, oht_tensor dy, int64_t offset, bool broadcast, bool
      add), (inner_of(be), dtable, dy, offset, broadcast, add), dtable, dy)
ENTRY(gather_fwd, (oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor index), (inner_of(be), y, x,
      index), y, x, index)
ENTRY(gather_bwd, (oht_backend *be, oht_tensor dx, oht_tensor dy, oht_tensor index, bool add),
      (inner_of(be), dx, dy, index, add), dx, dy, index)
ENTRY(dropout_add, (oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop),
      (inner_of(be), y, x, f, drop), y, x, f, at(drop->now))
ENTRY(dropout_bwd, (oht_backend *be, oht_tensor df, oht_tensor dy, const oht_draw *drop, bool add),
      (inner_of(be), df, dy, drop, add), df, dy, at(drop->now))
ENTRY(add, (oht_backend *be, oht_tensor y, oht_tensor x), (inner_of(be), y, x), y, x)
ENTRY(cross_entropy, (oht_backend *be, oht_tensor logits, oht_tensor labels, const oht_loss *loss),
      (inner_of(be), logits, labels, loss), logits, labels, at(loss->sum), at(loss->factor))
ENTRY(soft_cross_entropy, (oht_backend *be, oht_tensor logits, oht_tensor targets, const oht_loss *loss),
      (inner_of(be), logits, targets, loss), logits, targets, at(loss->sum), at(loss->factor))
ENTRY(top_hits, (oht_backend *be, oht_tensor logits, oht_tensor labels, int64_t hits[2]), (inner_of(be),
      logits, labels, hits), logits, labels)
ENTRY(patches, (oht_backend *be, oht_tensor y, oht_tensor images, int patch), (inner_of(be), y, images,
      patch), y, images)
ENTRY(adamw, (oht_backend *be, float *p, const float *g, float *m, float *v, int64_t n, const oht_adamw
      *opt), (inner_of(be), p, g, m, v, n, opt), at(p), at(g), at(m), at(v), at(opt->work))
ENTRY(moments, (oht_backend *be, const void *x, oht_dtype type, int64_t rows, int64_t n, oht_moments *out),
      (inner_of(be), x, type, rows, n, out), at(x))
ENTRY(null_mass, (oht_backend *be, double *mean_h, oht_tensor row), (inner_of(be), mean_h, row), row)
ENTRY(gate_mean, (oht_backend *be, double *mean_h, oht_tensor pi), (inner_of(be), mean_h, pi), pi)
ENTRY(minmax, (oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, float out[2]),
      (inner_of(be), x, rows, n, ld, out), at(x))
ENTRY(fake_quantize, (oht_backend *be, float *x, int64_t rows, int64_t n, int64_t ld, const oht_fakequant
      *q, bool per_row), (inner_of(be), x, rows, n, ld, q, per_row), at(x))
ENTRY(quant_error, (oht_backend *be, const float *x, int64_t rows, int64_t n, int64_t ld, const
      oht_fakequant *q, bool per_row, oht_quant_error *out), (inner_of(be), x, rows, n, ld, q, per_row,
      out), at(x))
// clang-format on

static double sumsq_guard(oht_backend *be, const float *x, int64_t n) {
    check(be, "sumsq", (const oht_tensor[]){at(x)}, 1);
    open_all(be);
    double sum = inner_of(be)->sumsq(inner_of(be), x, n);
    close_all(be);
    return sum;
}

// ---- collectives: queued, and carried out as late as possible ----
static oht_status link_id_guard(oht_backend *be, unsigned char id[OHT_LINK_ID]) {
    (void)be;
    for (int i = 0; i < OHT_LINK_ID; i++) id[i] = (unsigned char)(i * 7 + 1);
    return OHT_OK;
}

static oht_status link_guard(oht_backend *be, const unsigned char id[OHT_LINK_ID], int rank, int size, double patience_s) {
    (void)patience_s;
    if (rank != oht_comm_rank(world) || size != oht_comm_size(world) || id[9] != 64)
        OHT_FAIL(OHT_COMM, "guard: rank %d of %d links with a wrong id", rank, size);
    of(be)->size = size;
    return OHT_OK;
}

static void queue(oht_backend *be, piece p, int64_t count) {
    check(be, "collective", (const oht_tensor[]){{p.x, OHT_F32, 1, {count}}}, 1);
    if (of(be)->size == 0 || of(be)->n_queue == MOST_PIECES) abort();
    of(be)->queue[of(be)->n_queue++] = p;
}
static void all_reduce_guard(oht_backend *be, float *x, int64_t n) {
    queue(be, (piece){SUM, x, n}, n);
}
static void reduce_scatter_guard(oht_backend *be, float *x, int64_t n) {
    queue(be, (piece){SCATTER, x, n}, n * of(be)->size);
}
static void all_gather_guard(oht_backend *be, float *x, int64_t n) {
    queue(be, (piece){GATHER, x, n}, n * of(be)->size);
}

static oht_status finish_guard(oht_backend *be, double *waited_s) {
    oht_status status = OHT_OK;
    open_all(be);
    for (int i = 0; i < of(be)->n_queue && status == OHT_OK; i++) {
        const piece *p = &of(be)->queue[i];
        size_t n = (size_t)p->n;
        status = p->kind == SUM       ? oht_sum_f32(world, p->x, n, SIZE_MAX)
                 : p->kind == SCATTER ? oht_reduce_scatter_f32(world, p->x, n)
                                      : oht_all_gather_f32(world, p->x, n);
        collectives++;
    }
    close_all(be);
    of(be)->n_queue = 0;
    *waited_s = 0;
    return status;
}

static const oht_collectives LINKS = {link_id_guard,        link_guard,       all_reduce_guard,
                                      reduce_scatter_guard, all_gather_guard, finish_guard};

// ---- life ----
static const oht_backend TABLE = {
    .name = "guard",
    .device = "guarded memory",
    .has_type = {[OHT_F32] = true},
    .destroy = destroy_guard,
    .alloc = alloc_guard,
    .free = free_guard,
    .upload = upload_guard,
    .download = download_guard,
    .sync = sync_guard,
    .sumsq = sumsq_guard,
    .peak = peak_guard,
    .zero = zero_guard,
    .copy = copy_guard,
    .cast = cast_guard,
    .linear_fwd = linear_fwd_guard,
    .linear_bwd = linear_bwd_guard,
    .layernorm_fwd = layernorm_fwd_guard,
    .layernorm_bwd_scratch = layernorm_bwd_scratch_guard,
    .layernorm_bwd = layernorm_bwd_guard,
    .attention_fwd_scratch = attention_fwd_scratch_guard,
    .attention_fwd = attention_fwd_guard,
    .attention_bwd_scratch = attention_bwd_scratch_guard,
    .attention_bwd = attention_bwd_guard,
    .hopfield_scratch = hopfield_scratch_guard,
    .hopfield_fwd = hopfield_fwd_guard,
    .hopfield_bwd = hopfield_bwd_guard,
    .settle_fwd = settle_fwd_guard,
    .settle_bwd = settle_bwd_guard,
    .mix_heads = mix_heads_guard,
    .swap_axes = swap_axes_guard,
    .segment = segment_guard,
    .unsegment_fwd = unsegment_fwd_guard,
    .unsegment_bwd = unsegment_bwd_guard,
    .merge_fwd = merge_fwd_guard,
    .merge_bwd = merge_bwd_guard,
    .squared_error = squared_error_guard,
    .gate_scratch = gate_scratch_guard,
    .gate_fwd = gate_fwd_guard,
    .gate_bwd = gate_bwd_guard,
    .embedding_fwd = embedding_fwd_guard,
    .embedding_bwd = embedding_bwd_guard,
    .add_rows_fwd = add_rows_fwd_guard,
    .add_rows_bwd = add_rows_bwd_guard,
    .gather_fwd = gather_fwd_guard,
    .gather_bwd = gather_bwd_guard,
    .dropout_add = dropout_add_guard,
    .dropout_bwd = dropout_bwd_guard,
    .add = add_guard,
    .cross_entropy = cross_entropy_guard,
    .soft_cross_entropy = soft_cross_entropy_guard,
    .top_hits = top_hits_guard,
    .patches = patches_guard,
    .adamw = adamw_guard,
    .moments = moments_guard,
    .null_mass = null_mass_guard,
    .gate_mean = gate_mean_guard,
    .minmax = minmax_guard,
    .fake_quantize = fake_quantize_guard,
    .quant_error = quant_error_guard,
};

oht_status guard_create(oht_backend **out) {
    guard *g;
    *out = NULL;
    OHT_TRY(OHT_ALLOC(&g, 1, "guarded device"));
    oht_status status = oht_backend_cpu_create(&g->inner);
    if (status != OHT_OK) {
        oht_free(g);
        return status;
    }
    g->table = TABLE;
    g->table.ctx = g;
    g->table.threads = g->inner->threads;
    if (world) g->table.collectives = &LINKS;
    *out = &g->table;
    return OHT_OK;
}

void guard_link(oht_comm *comm) {
    world = comm;
}
long guard_collectives(void) {
    return collectives;
}
