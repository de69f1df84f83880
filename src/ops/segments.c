// Layout of time-series models (spec stanhop 2.1, 2.2, 2.4): series to segments and back, neighbours merged, axes swapped, a
// table repeated for every sample. x: (B,T,M) for M series; segments: (B,M,L,s).
#include "oht/op.h"
#include "ops/common.h"

// ---- series to segments: no gradient, the series are data ----
static void segment_forward(oht_run *run, const oht_node *node) {
    run->be->segment(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]));
}
static const oht_op SEGMENT = {"segment", segment_forward, NULL, NULL};

oht_value oht_cut_segments(oht_graph *g, oht_value x, int64_t length) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank != 3 || a.dtype != OHT_F32 || length < 1)
        return oht_graph_fail(g, "segment: x %s must be (B,T,M), segments of %lld", oht_shape_text(a).text,
                              (long long)length);
    oht_node *node = oht_node_new(g, &SEGMENT, &x, 1, NULL, 0);
    int64_t dim[] = {a.dim[0], a.dim[2], (a.dim[1] + length - 1) / length, length};
    return node ? oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), 4, dim) : OHT_NONE;
}

// ---- and back, cropped ----
static void unsegment_forward(oht_run *run, const oht_node *node) {
    run->be->unsegment_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]), oht_get(run, node->in[1]));
}
static void unsegment_backward(oht_run *run, const oht_node *node) {
    run->be->unsegment_bwd(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]),
                           oht_adds(run, node, 0));
}
static const oht_op UNSEGMENT = {"unsegment", unsegment_forward, unsegment_backward, NULL};

oht_value oht_unsegment(oht_graph *g, oht_value x, int64_t steps, oht_value base) {
    oht_tensor a = oht_shape(g, x), b = oht_shape(g, base);
    if (a.rank != 4 || a.dtype != OHT_F32 || steps < 1 || steps > a.dim[2] * a.dim[3])
        return oht_graph_fail(g, "unsegment: x %s must be (B,M,L,s) with at least %lld steps", oht_shape_text(a).text,
                              (long long)steps);
    if (base.id >= 0 && (b.rank != 3 || b.dtype != OHT_F32 || b.dim[0] != a.dim[0] || b.dim[2] != a.dim[1]))
        return oht_graph_fail(g, "unsegment: base %s must be (B,T,M) of x %s", oht_shape_text(b).text,
                              oht_shape_text(a).text);
    oht_value in[] = {x, base};
    oht_node *node = oht_node_new(g, &UNSEGMENT, in, 2, NULL, 0);
    int64_t dim[] = {a.dim[0], steps, a.dim[1]};
    return node ? oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), 3, dim) : OHT_NONE;
}

// ---- neighbours merged ----
static void merge_forward(oht_run *run, const oht_node *node) {
    run->be->merge_fwd(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]));
}
static void merge_backward(oht_run *run, const oht_node *node) {
    run->be->merge_bwd(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]), oht_adds(run, node, 0));
}
static const oht_op MERGE = {"merge", merge_forward, merge_backward, NULL};

oht_value oht_merge_segments(oht_graph *g, oht_value x, int64_t w) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank != 4 || a.dtype != OHT_F32 || w < 2)
        return oht_graph_fail(g, "merge: x %s must be (B,M,L,C), %lld neighbours at least 2", oht_shape_text(a).text,
                              (long long)w);
    int64_t L = a.dim[2], merged = (L + w - 1) / w;
    if (merged * w - L > L)
        return oht_graph_fail(g, "merge: %lld segments in groups of %lld lack more than there are", (long long)L,
                              (long long)w);
    oht_node *node = oht_node_new(g, &MERGE, &x, 1, NULL, 0);
    int64_t dim[] = {a.dim[0], a.dim[1], merged, w * a.dim[3]};
    return node ? oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), 4, dim) : OHT_NONE;
}

// ---- axes 1 and 2 swapped ----
static void swap_forward(oht_run *run, const oht_node *node) {
    run->be->swap_axes(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]), false);
}
static void swap_backward(oht_run *run, const oht_node *node) {
    run->be->swap_axes(run->be, oht_get_grad(run, node->in[0]), oht_get_grad(run, node->out[0]), oht_adds(run, node, 0));
}
static const oht_op SWAP = {"swap_axes", swap_forward, swap_backward, NULL};

oht_value oht_swap_axes(oht_graph *g, oht_value x) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank != 4 || a.dtype != OHT_F32)
        return oht_graph_fail(g, "swap_axes: x %s must be (B,X,Y,C)", oht_shape_text(a).text);
    oht_node *node = oht_node_new(g, &SWAP, &x, 1, NULL, 0);
    int64_t dim[] = {a.dim[0], a.dim[2], a.dim[1], a.dim[3]};
    return node ? oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), 4, dim) : OHT_NONE;
}

// ---- a table for every sample, added or alone ----
// One sample as one row: the kernels of position tables then do it.
static oht_tensor as_rows(oht_tensor t, bool table) {
    int64_t count = oht_tensor_count(t), B = table ? 1 : t.dim[0];
    oht_tensor rows = {t.data, OHT_F32, 3, {B, 1, B > 0 ? count / B : 0}};
    if (table) rows = (oht_tensor){t.data, OHT_F32, 2, {1, count}};
    return rows;
}
static void repeat_forward(oht_run *run, const oht_node *node) {
    oht_tensor y = oht_get(run, node->out[0]), table = oht_get(run, node->in[0]);
    size_t bytes = oht_tensor_bytes(table);
    for (int64_t b = 0; b < y.dim[0]; b++) run->be->copy(run->be, (char *)y.data + (size_t)b * bytes, table.data, bytes);
}
static void repeat_backward(oht_run *run, const oht_node *node) {
    oht_tensor dy = oht_get_grad(run, node->out[0]), dtable = oht_get_grad(run, node->in[0]);
    run->be->add_rows_bwd(run->be, as_rows(dtable, true), as_rows(dy, false), 0, true, oht_adds(run, node, 0));
}
static const oht_op REPEAT = {"repeat", repeat_forward, repeat_backward, NULL};

oht_value oht_repeat(oht_graph *g, oht_value table) {
    oht_tensor t = oht_shape(g, table);
    if (t.rank < 2 || t.dtype != OHT_F32 || t.dim[0] != 1 || oht_value_rows(g, table) != OHT_ROWS_FIXED)
        return oht_graph_fail(g, "repeat: table %s must be (1,...)", oht_shape_text(t).text);
    oht_node *node = oht_node_new(g, &REPEAT, &table, 1, NULL, 0);
    t.dim[0] = oht_graph_rows(g);
    return node ? oht_node_output(g, node, OHT_F32, OHT_ROWS_BATCH, t.rank, t.dim) : OHT_NONE;
}

static void add_table_forward(oht_run *run, const oht_node *node) {
    run->be->add_rows_fwd(run->be, as_rows(oht_get(run, node->out[0]), false), as_rows(oht_get(run, node->in[0]), false),
                          as_rows(oht_get(run, node->in[1]), true), 0, true);
}
static void add_table_backward(oht_run *run, const oht_node *node) {
    oht_tensor dy = oht_get_grad(run, node->out[0]), dx = oht_get_grad(run, node->in[0]);
    if (dx.data && dx.data != dy.data) oht_add_or_copy(run, dx, dy, oht_adds(run, node, 0));
    run->be->add_rows_bwd(run->be, as_rows(oht_get_grad(run, node->in[1]), true), as_rows(dy, false), 0, true,
                          oht_adds(run, node, 1));
}
static const oht_op ADD_TABLE = {"add_table", add_table_forward, add_table_backward, NULL};

oht_value oht_add_table(oht_graph *g, oht_value x, oht_value table) {
    oht_tensor a = oht_shape(g, x), t = oht_shape(g, table);
    bool fits = a.rank == t.rank && a.rank >= 2 && t.dim[0] == 1 && a.dtype == OHT_F32 && t.dtype == OHT_F32;
    for (int i = 1; fits && i < a.rank; i++) fits = a.dim[i] == t.dim[i];
    if (!fits)
        return oht_graph_fail(g, "add_table: table %s must be one sample of x %s", oht_shape_text(t).text,
                              oht_shape_text(a).text);
    oht_value in[] = {x, table};
    oht_node *node = oht_node_new(g, &ADD_TABLE, in, 2, NULL, 0);
    if (!node) return OHT_NONE;
    node->share_grad = 0;
    return oht_node_output(g, node, OHT_F32, oht_value_rows(g, x), a.rank, a.dim);
}
