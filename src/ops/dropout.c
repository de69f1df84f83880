// y = Drop(x): an element is dropped when its counter-based random number says so, the others are scaled by
// 1/(1-p). Backward draws the same numbers again, so no mask is stored.
#include "oht/op.h"
#include "ops/common.h"

typedef struct dropout_attr {
    float p;
} dropout_attr;

static void forward(oht_run *run, const oht_node *node) {
    const dropout_attr *attr = node->attr;
    oht_draw draw = oht_draw_of(run, node, attr->p);
    run->be->dropout_add(run->be, oht_get(run, node->out[0]), OHT_NO_TENSOR, oht_get(run, node->in[0]),
                         &draw);
}

static void backward(oht_run *run, const oht_node *node) {
    const dropout_attr *attr = node->attr;
    oht_draw draw = oht_draw_of(run, node, attr->p);
    run->be->dropout_bwd(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]), &draw,
                         oht_adds(run, node, 0));
}

static const oht_op DROPOUT = {"dropout", forward, backward, NULL};

oht_value oht_dropout(oht_graph *g, oht_value x, float p) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank < 2 || a.dtype != oht_storage(g) || oht_value_rows(g, x) != OHT_ROWS_BATCH ||
        !(p >= 0.0f && p < 1.0f))
        return oht_graph_fail(g, "dropout: x %s must be (B,...), p = %g in [0,1)", oht_shape_text(a).text,
                              (double)p);
    uint32_t site =
        oht_next_site(g); // counted even with p = 0, so that one rate does not move the masks of other places
    if (p == 0.0f || oht_graph_mode(g) == OHT_EVAL) return x;
    dropout_attr attr = {p};
    oht_node *node = oht_node_new(g, &DROPOUT, &x, 1, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->site = site;
    return oht_node_output(g, node, oht_storage(g), OHT_ROWS_BATCH, a.rank, a.dim);
}
