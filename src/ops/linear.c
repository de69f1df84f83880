// y = act(x w^T + b). With z = x w^T + b and dz = dy act'(z): dx = dz w, dw = dz^T x, db = sum of dz over
// rows. ReLU's derivative comes from y, GELU's from z, which is kept only in training.
#include "oht/op.h"
#include "ops/common.h"

enum { X, W, B };
enum { Y, PRE };

typedef struct linear_attr {
    oht_act act;
} linear_attr;

static oht_value pre_of(const oht_node *node) {
    return node->n_out > PRE ? node->out[PRE] : OHT_NONE;
}

static void forward(oht_run *run, const oht_node *node) {
    const linear_attr *attr = node->attr;
    run->be->linear_fwd(run->be, oht_get(run, node->out[Y]), oht_get(run, pre_of(node)),
                        oht_get(run, node->in[X]), oht_get(run, node->in[W]), oht_get(run, node->in[B]),
                        attr->act);
}

static void backward(oht_run *run, const oht_node *node) {
    const linear_attr *attr = node->attr;
    run->be->linear_bwd(run->be, oht_get_grad(run, node->in[X]), oht_get_grad(run, node->in[W]),
                        oht_get_grad(run, node->in[B]), oht_get_grad(run, node->out[Y]),
                        oht_get(run, node->in[X]), oht_get(run, node->in[W]), oht_get(run, pre_of(node)),
                        oht_get(run, node->out[Y]), attr->act, oht_adds(run, node, X),
                        oht_adds_all(run, node, W, 2));
}

static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]);
    double product = 2.0 * (double)oht_tensor_rows(x) * (double)w.dim[0] * (double)w.dim[1];
    return backward_ ? product * (oht_get_grad(run, node->in[X]).rank > 0 ? 2.0 : 1.0) : product;
}

static const oht_op LINEAR = {"linear", forward, backward, flops};

oht_value oht_linear_pre(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_act act, oht_value *pre) {
    if (pre) *pre = OHT_NONE;
    oht_tensor a = oht_shape(g, x), m = oht_shape(g, w), bias = oht_shape(g, b);
    if (a.rank < 2 || a.dtype != oht_storage(g) || m.rank != 2 || a.dim[a.rank - 1] != m.dim[1])
        return oht_graph_fail(g, "linear: x %s must be (...,K), w %s (M,K)", oht_shape_text(a).text,
                              oht_shape_text(m).text);
    if (b.id >= 0 && !oht_is_vector(bias, m.dim[0]))
        return oht_graph_fail(g, "linear: bias %s must be (%lld), the rows of w %s",
                              oht_shape_text(bias).text, (long long)m.dim[0], oht_shape_text(m).text);
    oht_value in[] = {x, w, b};
    linear_attr attr = {act};
    oht_node *node = oht_node_new(g, &LINEAR, in, 3, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    a.dim[a.rank - 1] = m.dim[0];
    oht_value y = oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), a.rank, a.dim);
    node->keep_in = 1u << X;
    if (act == OHT_ACT_RELU) node->keep_out = 1u << Y;
    if (pre || (act == OHT_ACT_GELU && oht_graph_mode(g) == OHT_TRAIN)) {
        oht_value z = oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), a.rank, a.dim);
        if (act == OHT_ACT_GELU) node->keep_out = 1u << PRE;
        if (pre) *pre = z;
    }
    return y;
}

oht_value oht_linear_act(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_act act) {
    return oht_linear_pre(g, x, w, b, act, NULL);
}

oht_value oht_linear(oht_graph *g, oht_value x, oht_value w, oht_value b) {
    return oht_linear_act(g, x, w, b, OHT_ACT_NONE);
}
