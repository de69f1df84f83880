// The masked positions of an MLM batch: y[i] = row index[i] of x seen as (B*T, C). Backward scatters;
// positions are distinct.
#include "oht/op.h"
#include "ops/common.h"

static void forward(oht_run *run, const oht_node *node) {
    run->be->gather_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]),
                        oht_get(run, node->in[1]));
}

static void backward(oht_run *run, const oht_node *node) {
    run->be->gather_bwd(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]),
                        oht_get(run, node->in[1]), oht_adds(run, node, 0));
}

static const oht_op GATHER = {"gather", forward, backward, NULL};

oht_value oht_gather(oht_graph *g, oht_value x, oht_value index) {
    oht_tensor a = oht_shape(g, x), i = oht_shape(g, index);
    if (a.rank != 3 || a.dtype != oht_storage(g) || i.rank != 1 || i.dtype != OHT_I32 ||
        oht_value_rows(g, index) != OHT_ROWS_PICKED)
        return oht_graph_fail(g, "gather: x %s must be (B,T,C), index %s (picked) i32",
                              oht_shape_text(a).text, oht_shape_text(i).text);
    oht_value in[] = {x, index};
    oht_node *node = oht_node_new(g, &GATHER, in, 2, NULL, 0);
    if (!node) return OHT_NONE;
    node->keep_in = 1u << 1;
    return oht_node_output(g, node, oht_storage(g), OHT_ROWS_PICKED, 2, (int64_t[]){i.dim[0], a.dim[2]});
}
