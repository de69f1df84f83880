// Token embedding: y[b,t] = table[tokens[b,t]]; dtable[v] = sum of dy[b,t] over the places where token v
// stands.
#include "oht/op.h"
#include "ops/common.h"

typedef struct embedding_attr {
    int64_t padding_id;
} embedding_attr;

static void forward(oht_run *run, const oht_node *node) {
    run->be->embedding_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]),
                           oht_get(run, node->in[1]));
}

static void backward(oht_run *run, const oht_node *node) {
    const embedding_attr *attr = node->attr;
    run->be->embedding_bwd(run->be, oht_get_grad(run, node->in[1]), oht_get_grad(run, node->out[0]),
                           oht_get(run, node->in[0]), attr->padding_id, oht_adds(run, node, 1));
}

static const oht_op EMBEDDING = {"embedding", forward, backward, NULL};

oht_value oht_embedding(oht_graph *g, oht_value tokens, oht_value table, int64_t padding_id) {
    oht_tensor ids = oht_shape(g, tokens), w = oht_shape(g, table);
    if (ids.rank != 2 || ids.dtype != OHT_I32 || w.rank != 2)
        return oht_graph_fail(g, "embedding: tokens %s must be (B,T) i32, table %s (V,E)",
                              oht_shape_text(ids).text, oht_shape_text(w).text);
    if (padding_id < -1 || padding_id >= w.dim[0])
        return oht_graph_fail(g, "embedding: padding id %lld of a table of %lld rows", (long long)padding_id,
                              (long long)w.dim[0]);
    oht_value in[] = {tokens, table};
    embedding_attr attr = {padding_id};
    oht_node *node = oht_node_new(g, &EMBEDDING, in, 2, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->keep_in = 1u << 0;
    int64_t dim[] = {ids.dim[0], ids.dim[1], w.dim[1]};
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, tokens), 3, dim);
}
