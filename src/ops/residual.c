// The residual connection y = x + Drop(f): dx = dy, df = Drop(dy) with the same mask. dx may be dy itself
// (share_grad), which makes the gradient of the whole residual stream one buffer.
#include "oht/op.h"
#include "ops/common.h"

enum { X, F };

typedef struct residual_attr {
    float p; // 0 in evaluation
} residual_attr;

static void forward(oht_run *run, const oht_node *node) {
    const residual_attr *attr = node->attr;
    oht_draw draw = oht_draw_of(run, node, attr->p);
    run->be->dropout_add(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[X]),
                         oht_get(run, node->in[F]), &draw);
}

static void backward(oht_run *run, const oht_node *node) {
    const residual_attr *attr = node->attr;
    oht_tensor dy = oht_get_grad(run, node->out[0]), dx = oht_get_grad(run, node->in[X]),
               df = oht_get_grad(run, node->in[F]);
    if (dx.data && dx.data != dy.data) oht_add_or_copy(run, dx, dy, oht_adds(run, node, X));
    if (!df.data) return;
    oht_draw draw = oht_draw_of(run, node, attr->p);
    if (attr->p > 0.0f)
        run->be->dropout_bwd(run->be, df, dy, &draw, oht_adds(run, node, F));
    else
        oht_add_or_copy(run, df, dy, oht_adds(run, node, F));
}

static const oht_op RESIDUAL = {"residual", forward, backward, NULL};

oht_value oht_residual(oht_graph *g, oht_value x, oht_value f, float p) {
    oht_tensor a = oht_shape(g, x), b = oht_shape(g, f);
    if (a.rank < 2 || a.dtype != oht_storage(g) || !oht_same_shape(a, b) ||
        oht_value_rows(g, x) != oht_value_rows(g, f))
        return oht_graph_fail(g, "residual: x %s and f %s must have the same shape", oht_shape_text(a).text,
                              oht_shape_text(b).text);
    if (!(p >= 0.0f && p < 1.0f)) return oht_graph_fail(g, "residual: p = %g must be in [0,1)", (double)p);
    if (p > 0.0f && oht_value_rows(g, x) != OHT_ROWS_BATCH)
        return oht_graph_fail(g, "residual: dropout on x %s, whose first axis is not the batch",
                              oht_shape_text(a).text);
    uint32_t site = oht_next_site(g);
    oht_value in[] = {x, f};
    residual_attr attr = {oht_graph_mode(g) == OHT_TRAIN ? p : 0.0f};
    oht_node *node = oht_node_new(g, &RESIDUAL, in, 2, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->site = site;
    node->share_grad = X;
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), a.rank, a.dim);
}
