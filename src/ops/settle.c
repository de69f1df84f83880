// One step of a retrieval to convergence (spec stanhop 1.4): the next query is the retrieved pattern where probabilities still
// change, and the query as it was where not; there the same probabilities come out again, so what stops stays stopped.
#include "oht/op.h"
#include "ops/common.h"

enum { QUERY, RETRIEVED, PROBS, BEFORE };

typedef struct settle_attr {
    int heads;
    float eps;
} settle_attr;

static void forward(oht_run *run, const oht_node *node) {
    const settle_attr *a = node->attr;
    run->be->settle_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[QUERY]), oht_get(run, node->in[RETRIEVED]),
                        oht_get(run, node->in[PROBS]), oht_get(run, node->in[BEFORE]), a->heads, a->eps);
}

static void backward(oht_run *run, const oht_node *node) {
    const settle_attr *a = node->attr;
    const bool add[2] = {oht_adds(run, node, QUERY), oht_adds(run, node, RETRIEVED)};
    run->be->settle_bwd(run->be, oht_get_grad(run, node->in[QUERY]), oht_get_grad(run, node->in[RETRIEVED]),
                        oht_get_grad(run, node->out[0]), oht_get(run, node->in[PROBS]), oht_get(run, node->in[BEFORE]), a->heads,
                        a->eps, add);
}

static const oht_op SETTLE = {"settle", forward, backward, NULL};

oht_value oht_settle(oht_graph *g, oht_value q, oht_value r, oht_value p, oht_value before, int heads, float eps) {
    oht_tensor x = oht_shape(g, q), y = oht_shape(g, p);
    if (!oht_graph_backend(g)->settle_fwd)
        return oht_graph_fail(g, "settle: this device cannot retrieve to convergence\nfix: model.retrieval_eps=0");
    if (x.rank != 4 || x.dtype != OHT_F32 || heads < 1 || x.dim[3] % heads != 0 || !oht_same_shape(x, oht_shape(g, r)) ||
        y.rank != 4 || !oht_same_shape(y, oht_shape(g, before)) || y.dim[0] != x.dim[0] || y.dim[1] != x.dim[1] ||
        y.dim[2] != heads * x.dim[2])
        return oht_graph_fail(g, "settle: query %s and retrieved %s must be (B,G,L,C), probabilities %s (B,G,%d*L,S)",
                              oht_shape_text(x).text, oht_shape_text(oht_shape(g, r)).text, oht_shape_text(y).text, heads);
    const settle_attr attr = {heads, eps};
    const oht_value in[] = {q, r, p, before};
    oht_node *node = oht_node_new(g, &SETTLE, in, 4, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->keep_in = 1u << PROBS | 1u << BEFORE;
    return oht_node_output(g, node, OHT_F32, oht_value_rows(g, q), 4, x.dim);
}
