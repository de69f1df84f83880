// Positions and token types: y[b,t] = x[b,t] + table[offset + t], or + table[offset] for every t. dx = dy,
// dtable[offset + t] = sum_b dy[b,t].
#include "oht/op.h"
#include "ops/common.h"

typedef struct add_rows_attr {
    int64_t offset;
    bool broadcast;
} add_rows_attr;

static void forward(oht_run *run, const oht_node *node) {
    const add_rows_attr *attr = node->attr;
    run->be->add_rows_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]),
                          oht_get(run, node->in[1]), attr->offset, attr->broadcast);
}

static void backward(oht_run *run, const oht_node *node) {
    const add_rows_attr *attr = node->attr;
    oht_tensor dy = oht_get_grad(run, node->out[0]), dx = oht_get_grad(run, node->in[0]);
    if (dx.data && dx.data != dy.data) oht_add_or_copy(run, dx, dy, oht_adds(run, node, 0));
    run->be->add_rows_bwd(run->be, oht_get_grad(run, node->in[1]), dy, attr->offset, attr->broadcast,
                          oht_adds(run, node, 1));
}

static const oht_op ADD_ROWS = {"add_rows", forward, backward, NULL};

oht_value oht_add_rows(oht_graph *g, oht_value x, oht_value table, int64_t offset, bool broadcast) {
    oht_tensor a = oht_shape(g, x), w = oht_shape(g, table);
    if (a.rank != 3 || w.rank != 2 || a.dim[2] != w.dim[1])
        return oht_graph_fail(g, "add_rows: x %s must be (B,T,C), table %s (rows,C)", oht_shape_text(a).text,
                              oht_shape_text(w).text);
    int64_t end = offset + (broadcast ? 1 : a.dim[1]);
    if (offset < 0 || end > w.dim[0])
        return oht_graph_fail(g, "add_rows: rows %lld to %lld of a table of %lld", (long long)offset,
                              (long long)end - 1, (long long)w.dim[0]);
    oht_value in[] = {x, table};
    add_rows_attr attr = {offset, broadcast};
    oht_node *node = oht_node_new(g, &ADD_ROWS, in, 2, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->share_grad = 0;
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), a.rank, a.dim);
}
