// LayerNorm over the last axis: y = (x - mean) rstd gamma + beta, rstd = (biased variance + eps)^-1/2.
// Backward reads x and the two numbers of each row.
#include "oht/op.h"
#include "ops/common.h"

enum { X, GAMMA, BETA };
enum { Y, MEAN, RSTD };

typedef struct layernorm_attr {
    float eps;
} layernorm_attr;

static void forward(oht_run *run, const oht_node *node) {
    const layernorm_attr *attr = node->attr;
    run->be->layernorm_fwd(run->be, oht_get(run, node->out[Y]), oht_get(run, node->out[MEAN]),
                           oht_get(run, node->out[RSTD]), oht_get(run, node->in[X]),
                           oht_get(run, node->in[GAMMA]), oht_get(run, node->in[BETA]), attr->eps);
}

static void backward(oht_run *run, const oht_node *node) {
    run->be->layernorm_bwd(run->be, oht_get_grad(run, node->in[X]), oht_get_grad(run, node->in[GAMMA]),
                           oht_get_grad(run, node->in[BETA]), oht_get_grad(run, node->out[Y]),
                           oht_get(run, node->in[X]), oht_get(run, node->in[GAMMA]),
                           oht_get(run, node->out[MEAN]), oht_get(run, node->out[RSTD]),
                           oht_adds(run, node, X), oht_adds_all(run, node, GAMMA, 2), oht_scratch(run, node));
}

static const oht_op LAYERNORM = {"layernorm", forward, backward, NULL};

oht_value oht_layernorm(oht_graph *g, oht_value x, oht_value gamma, oht_value beta, float eps) {
    oht_tensor a = oht_shape(g, x), scale = oht_shape(g, gamma), shift = oht_shape(g, beta);
    int64_t C = a.rank > 0 ? a.dim[a.rank - 1] : 0;
    if (a.rank < 2 || a.dtype != oht_storage(g) || !oht_is_vector(scale, C) || !oht_is_vector(shift, C))
        return oht_graph_fail(g, "layernorm: x %s must be (...,C), gamma %s and beta %s (C)",
                              oht_shape_text(a).text, oht_shape_text(scale).text, oht_shape_text(shift).text);
    oht_value in[] = {x, gamma, beta};
    layernorm_attr attr = {eps};
    oht_node *node = oht_node_new(g, &LAYERNORM, in, 3, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    oht_backend *be = oht_graph_backend(g);
    oht_rows rows = oht_value_rows(g, x);
    oht_value y = oht_node_output(g, node, oht_storage(g), rows, a.rank, a.dim);
    oht_node_output(g, node, OHT_F32, rows, a.rank - 1, a.dim); // mean and rstd: one per row
    oht_node_output(g, node, OHT_F32, rows, a.rank - 1, a.dim);
    node->keep_in = 1u << X;
    node->keep_out = 1u << MEAN | 1u << RSTD;
    node->scratch_bwd = be->layernorm_bwd_scratch(be, oht_tensor_rows(a), C);
    return y;
}
