// The association of the Hopfield layers of time-series models (spec stanhop 1.1): queries (B,G,L,C), stored patterns
// (B,G,S,C) or (1,S,C), per head P = f(beta Q K^T), A = Drop(P) V. Groups are independent; rows are short, so P is kept for
// backward. Quantized, scores and probabilities are sites (spec 4.5). Also the head permutation alone, for what must happen before it (gates).
#include <math.h>

#include "oht/op.h"
#include "ops/common.h"

enum { Q, K, V, A };
enum { OUT, PROBS, SCORES };

typedef struct hopfield_attr {
    oht_hopfield hf;
    int scores, probs; // quantization sites, -1 = none
} hopfield_attr;

static oht_hopfield with_draw(const oht_run *run, const oht_node *node) {
    oht_hopfield hf = ((const hopfield_attr *)node->attr)->hf;
    hf.drop = oht_draw_of(run, node, hf.drop.p);
    return hf;
}

static oht_tensor values(const oht_run *run, const oht_node *node) {
    return oht_get(run, node->in[node->in[V].id >= 0 ? V : K]);
}

static void associate(oht_run *run, const oht_node *node, const oht_hopfield *hf) {
    run->be->hopfield_fwd(run->be, oht_get(run, node->out[OUT]), oht_get(run, node->out[PROBS]),
                          oht_get(run, node->in[Q]), oht_get(run, node->in[K]), values(run, node),
                          oht_get(run, node->in[A]), hf, oht_scratch(run, node));
}

static void show(oht_run *run, int site, oht_tensor x) {
    const oht_site_info *list;
    oht_graph_site_list(run->graph, &list);
    const int64_t n = x.dim[x.rank - 1];
    const oht_site_view view = {.x = oht_f32(x), .rows = oht_tensor_rows(x), .n = n, .ld = n};
    run->quant->see(run->quant, run, &list[site], &view);
}

// While ranges are estimated the scores must be known before they are quantized, and the probabilities that follow from the
// quantized scores before those are: three passes, as in src/ops/association.c.
static void forward_quantized(oht_run *run, const oht_node *node, oht_hopfield hf) {
    const hopfield_attr *attr = node->attr;
    const oht_site_info *site;
    oht_graph_site_list(run->graph, &site);
    const bool whole = node->n_out > SCORES;
    if (whole) {
        hf.scores = oht_get(run, node->out[SCORES]);
        associate(run, node, &hf);
        show(run, attr->scores, hf.scores);
        hf.scores = OHT_NO_TENSOR;
    }
    hf.quant_scores = run->quant->now(run->quant, &site[attr->scores]);
    if (whole) {
        associate(run, node, &hf);
        show(run, attr->probs, oht_get(run, node->out[PROBS]));
    }
    hf.quant_probs = run->quant->now(run->quant, &site[attr->probs]);
    associate(run, node, &hf);
}

static void forward(oht_run *run, const oht_node *node) {
    const oht_hopfield hf = with_draw(run, node);
    if (run->quant && ((const hopfield_attr *)node->attr)->scores >= 0)
        forward_quantized(run, node, hf);
    else
        associate(run, node, &hf);
}

static void backward(oht_run *run, const oht_node *node) {
    oht_hopfield hf = with_draw(run, node);
    const bool add[4] = {oht_adds(run, node, Q), oht_adds(run, node, K),
                         node->in[V].id >= 0 && oht_adds(run, node, V), node->in[A].id >= 0 && oht_adds(run, node, A)};
    run->be->hopfield_bwd(run->be, oht_get_grad(run, node->in[Q]), oht_get_grad(run, node->in[K]),
                          oht_get_grad(run, node->in[V]), oht_get_grad(run, node->in[A]),
                          oht_get_grad(run, node->out[OUT]), oht_get(run, node->out[PROBS]),
                          oht_get(run, node->in[Q]), oht_get(run, node->in[K]), values(run, node),
                          oht_get(run, node->in[A]), &hf, add, oht_scratch(run, node));
}

// Forward: S and P V. Backward: dP, dV, dQ, dK.
static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    oht_tensor q = oht_get(run, node->in[Q]), k = oht_get(run, node->in[K]);
    double pairs = (double)oht_tensor_rows(q) * (double)k.dim[k.rank - 2];
    return (backward_ ? 8.0 : 4.0) * pairs * (double)q.dim[3];
}

static const oht_op HOPFIELD = {"hopfield", forward, backward, flops};

oht_value oht_hopfield_association(oht_graph *g, oht_value q, oht_value k, oht_value v, oht_value a, oht_hopfield hf,
                                   float p, bool sites, oht_value *probs) {
    if (probs) *probs = OHT_NONE;
    oht_tensor x = oht_shape(g, q), y = oht_shape(g, k), z = oht_shape(g, v);
    if (x.rank != 4 || x.dtype != OHT_F32 || hf.heads < 1 || x.dim[3] % hf.heads != 0)
        return oht_graph_fail(g, "hopfield: queries %s must be (B,G,L,C) with C a multiple of %d heads",
                              oht_shape_text(x).text, hf.heads);
    bool own = y.rank == 4 && y.dim[0] == x.dim[0] && y.dim[1] == x.dim[1] && y.dim[3] == x.dim[3],
         shared = y.rank == 3 && y.dim[0] == 1 && y.dim[2] == x.dim[3];
    if (y.dtype != OHT_F32 || (!own && !shared) || (v.id >= 0 && !oht_same_shape(y, z)))
        return oht_graph_fail(g, "hopfield: keys %s and values %s must be (B,G,S,C) or (1,S,C) of queries %s",
                              oht_shape_text(y).text, oht_shape_text(z).text, oht_shape_text(x).text);
    if (hf.learns_alpha != (a.id >= 0) || (a.id >= 0 && !oht_is_vector(oht_shape(g, a), 1)))
        return oht_graph_fail(g, "hopfield: alpha %s must be (1) where it is learned, absent elsewhere",
                              oht_shape_text(oht_shape(g, a)).text);
    if (!(p >= 0.0f && p < 1.0f)) return oht_graph_fail(g, "hopfield: p = %g must be in [0,1)", (double)p);
    bool train = oht_graph_mode(g) == OHT_TRAIN;
    int64_t G = x.dim[1], L = x.dim[2], C = x.dim[3], S = y.dim[y.rank - 2];
    hf.drop = (oht_draw){.p = train ? p : 0.0f};
    hf.keep_base = train;
    uint32_t site = oht_next_site(g);
    oht_value in[] = {q, k, v, a};
    const hopfield_attr attr = {hf, sites ? oht_site_inside(g, "scores", OHT_SITE_SCORES) : -1,
                                sites ? oht_site_inside(g, "probs", OHT_SITE_PROBS) : -1};
    oht_node *node = oht_node_new(g, &HOPFIELD, in, 4, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->site = site;
    oht_rows rows = oht_value_rows(g, q);
    oht_value out = oht_node_output(g, node, OHT_F32, rows, 4, x.dim);
    oht_value kept = oht_node_output(g, node, OHT_F32, rows, 4, (int64_t[]){x.dim[0], G, hf.heads * L, S});
    node->keep_in = 1u << Q | 1u << K | 1u << V | 1u << A;
    node->keep_out = 1u << PROBS;
    oht_backend *be = oht_graph_backend(g);
    node->scratch_fwd = be->hopfield_scratch(be, &hf, G, L, S, C);
    if (train) node->scratch_bwd = node->scratch_fwd;
    if (sites && oht_graph_has_sites(g) & OHT_SITES_INNER)
        oht_node_output(g, node, OHT_F32, rows, 4, (int64_t[]){x.dim[0], G, hf.heads * L, S});
    if (probs) *probs = kept;
    return out;
}

// ---- the head permutation alone ----

typedef struct mix_attr {
    int heads;
} mix_attr;

static void mix_forward(oht_run *run, const oht_node *node) {
    const mix_attr *attr = node->attr;
    run->be->mix_heads(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]), attr->heads, false, false);
}

static void mix_backward(oht_run *run, const oht_node *node) {
    const mix_attr *attr = node->attr;
    run->be->mix_heads(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]), attr->heads, true,
                       oht_adds(run, node, 0));
}

static const oht_op MIX_HEADS = {"mix_heads", mix_forward, mix_backward, NULL};

oht_value oht_mix_heads(oht_graph *g, oht_value x, int heads) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank != 4 || a.dtype != OHT_F32 || heads < 1 || a.dim[3] % heads != 0)
        return oht_graph_fail(g, "mix_heads: x %s must be (B,G,L,C) with C a multiple of %d heads",
                              oht_shape_text(a).text, heads);
    mix_attr attr = {heads};
    oht_node *node = oht_node_new(g, &MIX_HEADS, &x, 1, &attr, sizeof(attr));
    return node ? oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), 4, a.dim) : OHT_NONE;
}
