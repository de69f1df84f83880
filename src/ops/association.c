// Hopfield association, the memory retrieval of the paper in its form as attention: per head s_ij = beta
// <q_i, k_j> with beta = D^-1/2, P = f(S) over the visible keys, out = Drop(P) V (spec transformers 1).
// Backward needs qkv, out and one number per row, so the T x T matrices are never kept. In evaluation the
// scores and probabilities can be tapped.
#include <math.h>

#include "oht/op.h"
#include "ops/common.h"

enum { QKV, MASK };
enum { OUT, ROW, SCORES, PROBS };

typedef struct association_attr {
    oht_assoc as;
    int scores, probs; // quantization sites, -1 = none
} association_attr;

static oht_assoc with_draw(const oht_run *run, const oht_node *node) {
    oht_assoc as = ((const association_attr *)node->attr)->as;
    as.drop = oht_draw_of(run, node, as.drop.p);
    return as;
}

static void associate(oht_run *run, const oht_node *node, const oht_assoc *as, oht_tensor scores,
                      oht_tensor probs) {
    oht_attention_inner inner = {scores, probs};
    run->be->attention_fwd(run->be, oht_get(run, node->out[OUT]), oht_get(run, node->out[ROW]),
                           oht_get(run, node->in[QKV]), oht_get(run, node->in[MASK]), as, &inner,
                           oht_scratch(run, node));
}

static void show(oht_run *run, const oht_node *node, int site, const oht_assoc *as, oht_tensor square) {
    int64_t n = square.dim[3];
    oht_site_view view = {.x = oht_f32(square),
                          .rows = oht_tensor_rows(square),
                          .n = n,
                          .ld = n,
                          .causal = as->causal,
                          .mask = oht_get(run, node->in[MASK])};
    const oht_site_info *list;
    oht_graph_site_list(run->graph, &list);
    run->quant->see(run->quant, run, &list[site], &view);
}

// While ranges are estimated the scores must be known before they are quantized, and the probabilities that
// follow from the quantized scores before those are: three passes. With fixed ranges the last one is enough,
// and no T x T matrix exists.
static void forward_quantized(oht_run *run, const oht_node *node, oht_assoc as) {
    const association_attr *attr = node->attr;
    const oht_site_info *site;
    oht_graph_site_list(run->graph, &site);
    bool whole = oht_graph_has_sites(run->graph) & OHT_SITES_INNER;
    if (whole) {
        associate(run, node, &as, oht_get(run, node->out[SCORES]), OHT_NO_TENSOR);
        show(run, node, attr->scores, &as, oht_get(run, node->out[SCORES]));
    }
    as.quant_scores = run->quant->now(run->quant, &site[attr->scores]);
    if (whole) {
        associate(run, node, &as, OHT_NO_TENSOR, oht_get(run, node->out[PROBS]));
        show(run, node, attr->probs, &as, oht_get(run, node->out[PROBS]));
    }
    as.quant_probs = run->quant->now(run->quant, &site[attr->probs]);
    associate(run, node, &as, OHT_NO_TENSOR, OHT_NO_TENSOR);
}

static void forward(oht_run *run, const oht_node *node) {
    oht_assoc as = with_draw(run, node);
    if (run->quant && oht_graph_has_sites(run->graph))
        forward_quantized(run, node, as);
    else if (node->n_out > SCORES)
        associate(run, node, &as, oht_get(run, node->out[SCORES]), oht_get(run, node->out[PROBS]));
    else
        associate(run, node, &as, OHT_NO_TENSOR, OHT_NO_TENSOR);
}

static void backward(oht_run *run, const oht_node *node) {
    oht_assoc as = with_draw(run, node);
    run->be->attention_bwd(run->be, oht_get_grad(run, node->in[QKV]), oht_get_grad(run, node->out[OUT]),
                           oht_get(run, node->out[OUT]), oht_get(run, node->out[ROW]),
                           oht_get(run, node->in[QKV]), oht_get(run, node->in[MASK]), &as,
                           oht_adds(run, node, QKV), oht_scratch(run, node));
}

// Forward: S and P V. Backward: S again, dP, dV, dQ, dK. A causal row i has i + 1 pairs.
static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    const oht_assoc *as = &((const association_attr *)node->attr)->as;
    oht_tensor qkv = oht_get(run, node->in[QKV]);
    double T = (double)qkv.dim[1], C = (double)qkv.dim[2] / 3.0;
    double pairs = as->causal ? T * (T + 1.0) / 2.0 : T * T;
    return (backward_ ? 10.0 : 4.0) * (double)qkv.dim[0] * pairs * C;
}

static const oht_op ASSOCIATION = {"association", forward, backward, flops};

oht_value oht_association(oht_graph *g, oht_value qkv, oht_value mask, oht_assoc_spec f, int heads,
                          bool causal, float p, oht_value *row) {
    if (row) *row = OHT_NONE;
    oht_tensor a = oht_shape(g, qkv), m = oht_shape(g, mask);
    if (a.rank != 3 || a.dtype != oht_storage(g) || heads < 1 || a.dim[2] % (3 * heads) != 0)
        return oht_graph_fail(g, "association: qkv %s must be (B,T,3C) with C a multiple of %d heads",
                              oht_shape_text(a).text, heads);
    if (mask.id >= 0 && (m.rank != 2 || m.dtype != OHT_U8 || m.dim[0] != a.dim[0] || m.dim[1] != a.dim[1]))
        return oht_graph_fail(g, "association: mask %s must be (B,T) u8 of qkv %s", oht_shape_text(m).text,
                              oht_shape_text(a).text);
    if (!(p >= 0.0f && p < 1.0f)) return oht_graph_fail(g, "association: p = %g must be in [0,1)", (double)p);
    int64_t B = a.dim[0], T = a.dim[1], C = a.dim[2] / 3;
    bool train = oht_graph_mode(g) == OHT_TRAIN;
    association_attr attr = {.scores = oht_site_inside(g, "scores", OHT_SITE_SCORES),
                             .probs = oht_site_inside(g, "probs", OHT_SITE_PROBS)};
    oht_assoc as = {
        .f = f, .beta = (float)(1.0 / sqrt((double)(C / heads))), .causal = causal, .heads = heads};
    as.drop.p = train ? p : 0.0f;
    uint32_t site = oht_next_site(g);
    attr.as = as;
    oht_value in[] = {qkv, mask};
    oht_node *node = oht_node_new(g, &ASSOCIATION, in, 2, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    oht_backend *be = oht_graph_backend(g);
    oht_rows rows = oht_value_rows(g, qkv);
    oht_value out = oht_node_output(g, node, oht_storage(g), rows, 3, (int64_t[]){B, T, C});
    oht_value normaliser = oht_node_output(g, node, OHT_F32, rows, 3, (int64_t[]){B, heads, T});
    node->site = site;
    node->keep_in = 1u << QKV | 1u << MASK;
    node->keep_out = 1u << OUT | 1u << ROW;
    node->scratch_fwd = be->attention_fwd_scratch(be, B, T, C, &as);
    if (train) node->scratch_bwd = be->attention_bwd_scratch(be, B, T, C, &as);
    if (oht_graph_has_inner_taps(g) || oht_graph_has_sites(g) & OHT_SITES_INNER) {
        int64_t square[] = {B, heads, T, T};
        oht_value scores = oht_node_output(g, node, OHT_F32, rows, 4, square);
        oht_value probs = oht_node_output(g, node, OHT_F32, rows, 4, square);
        if (oht_graph_has_inner_taps(g)) {
            oht_tap(g, scores, "scores", OHT_TAP_SEQUENCE, 0, -1);
            oht_tap(g, probs, "probs", OHT_TAP_SEQUENCE, 0, -1);
        }
    }
    if (row) *row = normaliser;
    return out;
}
