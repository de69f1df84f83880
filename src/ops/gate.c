// Gated attention (spec transformers 1.5): out_h = c pi_h ctx_h, pi = sigmoid of a small function of the
// attention's input x, one per head. Parameters in the spec's order, m hidden units:
//   linear w (H,D), b (H)      mlp w1 (H,m,D), b1 (H,m), w2 (H,m), b2 (H)      all features W (H,C), b (H)
//   unconditional a (H)
#include "oht/op.h"
#include "ops/common.h"

enum { X, CTX, W };
enum { OUT, PI };
enum { MOST_WEIGHTS = 4 };

typedef struct gate_attr {
    oht_gate gate;
    int n_w;
    int64_t hidden;
} gate_attr;

static void weights(const oht_run *run, const oht_node *node, oht_tensor w[MOST_WEIGHTS], bool gradient) {
    const gate_attr *attr = node->attr;
    for (int i = 0; i < MOST_WEIGHTS; i++)
        w[i] = i >= attr->n_w ? OHT_NO_TENSOR
               : gradient     ? oht_get_grad(run, node->in[W + i])
                              : oht_get(run, node->in[W + i]);
}

// Groups of a (B,G,L,C) lie one behind the other: as (B,G*L,C), which is the same for gates of tokens.
static oht_tensor fold(oht_tensor t) {
    if (t.rank == 4) t = (oht_tensor){t.data, t.dtype, 3, {t.dim[0], t.dim[1] * t.dim[2], t.dim[3]}};
    return t;
}

static void forward(oht_run *run, const oht_node *node) {
    const gate_attr *attr = node->attr;
    oht_tensor w[MOST_WEIGHTS];
    weights(run, node, w, false);
    run->be->gate_fwd(run->be, fold(oht_get(run, node->out[OUT])), oht_get(run, node->out[PI]),
                      fold(oht_get(run, node->in[X])), fold(oht_get(run, node->in[CTX])), w, &attr->gate,
                      oht_scratch(run, node));
}

static void backward(oht_run *run, const oht_node *node) {
    const gate_attr *attr = node->attr;
    oht_tensor w[MOST_WEIGHTS], dw[MOST_WEIGHTS];
    weights(run, node, w, false);
    weights(run, node, dw, true);
    bool add[2] = {oht_adds(run, node, X), oht_adds(run, node, CTX)};
    run->be->gate_bwd(run->be, fold(oht_get_grad(run, node->in[X])), fold(oht_get_grad(run, node->in[CTX])), dw,
                      fold(oht_get_grad(run, node->out[OUT])), oht_get(run, node->out[PI]),
                      fold(oht_get(run, node->in[X])), fold(oht_get(run, node->in[CTX])), w, &attr->gate, add,
                      oht_adds_all(run, node, W, attr->n_w), oht_scratch(run, node));
}

// Weights of one token, forward; backward does the same products twice (dx, dw).
static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    const gate_attr *attr = node->attr;
    if (attr->gate.kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) return 0.0;
    oht_tensor x = oht_get(run, node->in[X]);
    double per_token = 0.0;
    for (int i = 0; i < attr->n_w; i += 2)
        per_token += 2.0 * (double)oht_tensor_count(oht_get(run, node->in[W + i]));
    return (backward_ ? 2.0 : 1.0) * per_token * (double)oht_tensor_rows(x);
}

static const oht_op GATE = {"gate", forward, backward, flops};

// The shapes each form of gate wants; returns their number. m: hidden units.
static int expected(const oht_gate *gate, int64_t C, int64_t m, oht_tensor w[MOST_WEIGHTS]) {
    int64_t H = gate->heads, D = C / H;
    if (gate->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD) {
        w[0] = (oht_tensor){.rank = 1, .dim = {H}};
        return 1;
    }
    switch (gate->form) {
    case OHT_GATE_LINEAR:
        w[0] = (oht_tensor){.rank = 2, .dim = {H, D}};
        break;
    case OHT_GATE_ALL_FEATURES:
        w[0] = (oht_tensor){.rank = 2, .dim = {H, C}};
        break;
    case OHT_GATE_MLP:
    case OHT_GATE_MLP2:
        w[0] = (oht_tensor){.rank = 3, .dim = {H, m, D}};
        w[1] = (oht_tensor){.rank = 2, .dim = {H, m}};
        w[2] = w[1];
        w[3] = (oht_tensor){.rank = 1, .dim = {H}};
        return 4;
    }
    w[1] = (oht_tensor){.rank = 1, .dim = {H}};
    return 2;
}

oht_value oht_gate_heads(oht_graph *g, oht_value x, oht_value ctx, const oht_value *w, int n_w, oht_gate gate,
                         oht_value *pi) {
    if (pi) *pi = OHT_NONE;
    const oht_tensor whole = oht_shape(g, ctx), a = fold(oht_shape(g, x)), c = fold(whole);
    if (whole.rank == 4 && gate.kind == OHT_GATE_CONDITIONAL_PER_HEAD)
        return oht_graph_fail(g, "gate: one gate a head for a whole sample, but context %s has groups",
                              oht_shape_text(whole).text);
    if (a.rank != 3 || a.dtype != oht_storage(g) || !oht_same_shape(a, c) || gate.heads < 1 ||
        a.dim[2] % gate.heads != 0)
        return oht_graph_fail(g, "gate: x %s and context %s must be (B,T,C) with C a multiple of %d heads",
                              oht_shape_text(a).text, oht_shape_text(c).text, gate.heads);
    if (gate.kind == OHT_GATE_NONE) return oht_graph_fail(g, "gate: of kind none");
    int64_t B = a.dim[0], T = a.dim[1], C = a.dim[2], H = gate.heads;
    oht_tensor first = oht_shape(g, n_w > 0 ? w[0] : OHT_NONE), want[MOST_WEIGHTS];
    int64_t hidden = first.rank == 3 ? first.dim[1] : 0;
    int n = expected(&gate, C, hidden, want);
    if (n_w != n) return oht_graph_fail(g, "gate: %d parameters, this form has %d", n_w, n);
    for (int i = 0; i < n; i++) {
        want[i].dtype = oht_storage(g);
        if (!oht_same_shape(oht_shape(g, w[i]), want[i]))
            return oht_graph_fail(g, "gate: parameter %d (%s) is %s, expected %s", i, oht_value_name(g, w[i]),
                                  oht_shape_text(oht_shape(g, w[i])).text, oht_shape_text(want[i]).text);
    }

    // The form with all features gates tokens, even when asked per head (spec transformers 1.5).
    bool unconditional = gate.kind == OHT_GATE_UNCONDITIONAL_PER_HEAD;
    if (gate.form == OHT_GATE_ALL_FEATURES && !unconditional) gate.kind = OHT_GATE_CONDITIONAL_PER_TOKEN;
    oht_value in[W + MOST_WEIGHTS] = {unconditional ? OHT_NONE : x, ctx};
    for (int i = 0; i < n; i++) in[W + i] = w[i];
    gate_attr attr = {gate, n, hidden};
    oht_node *node = oht_node_new(g, &GATE, in, W + n, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    oht_backend *be = oht_graph_backend(g);
    oht_rows rows = oht_value_rows(g, ctx);
    oht_value out = oht_node_output(g, node, oht_storage(g), rows, whole.rank, whole.dim), p;
    if (unconditional)
        p = oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1, (int64_t[]){H});
    else if (gate.kind == OHT_GATE_CONDITIONAL_PER_HEAD)
        p = oht_node_output(g, node, OHT_F32, rows, 2, (int64_t[]){B, H});
    else
        p = oht_node_output(g, node, OHT_F32, rows, 3, (int64_t[]){B, T, H});
    node->keep_in = 1u << X | 1u << CTX;
    node->keep_out = 1u << PI;
    node->scratch_fwd = be->gate_scratch(be, B, T, C, &gate, hidden);
    node->scratch_bwd = oht_graph_mode(g) == OHT_TRAIN ? node->scratch_fwd : 0;
    if (pi) *pi = p;
    return out;
}
