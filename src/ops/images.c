// The ends of an image model: patches as rows, the class token in front, the first token out. All three only
// move rows; the weights are elsewhere.
#include "oht/op.h"
#include "ops/common.h"

// Sample b of a tensor (B,...), without its first `skip` elements, as n values.
static oht_tensor piece(oht_tensor t, int64_t b, int64_t skip, int64_t n) {
    int64_t stride = oht_tensor_count(t) / t.dim[0];
    char *at = (char *)t.data + (size_t)(b * stride + skip) * oht_dtype_size(t.dtype);
    return (oht_tensor){.data = at, .dtype = t.dtype, .rank = 1, .dim = {n}};
}

// ---- patches ----
typedef struct patches_attr {
    int64_t patch;
} patches_attr;

static void patches_forward(oht_run *run, const oht_node *node) {
    const patches_attr *attr = node->attr;
    run->be->patches(run->be, oht_get(run, node->out[0]), oht_get(run, node->in[0]), (int)attr->patch);
}

static const oht_op PATCHES = {"patches", patches_forward, NULL, NULL};

oht_value oht_patches(oht_graph *g, oht_value images, int64_t patch) {
    oht_tensor a = oht_shape(g, images);
    if (a.rank != 4 || a.dtype != OHT_U8 || a.dim[1] != a.dim[2] || a.dim[3] != 3 || patch < 1 ||
        a.dim[1] % patch != 0)
        return oht_graph_fail(g, "patches: images %s must be (B,S,S,3) u8, S a multiple of %lld",
                              oht_shape_text(a).text, (long long)patch);
    patches_attr attr = {patch};
    oht_node *node = oht_node_new(g, &PATCHES, &images, 1, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    int64_t side = a.dim[1] / patch, dim[] = {a.dim[0], side * side, 3 * patch * patch};
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, images), 3, dim);
}

// ---- class token ----
enum { X, ROW };

static void prepend_forward(oht_run *run, const oht_node *node) {
    oht_tensor x = oht_get(run, node->in[X]), row = oht_get(run, node->in[ROW]),
               y = oht_get(run, node->out[0]);
    int64_t C = x.dim[2], n = x.dim[1] * C;
    for (int64_t b = 0; b < x.dim[0]; b++) {
        oht_add_or_copy(run, piece(y, b, 0, C), row, false);
        oht_add_or_copy(run, piece(y, b, C, n), piece(x, b, 0, n), false);
    }
}

static void prepend_backward(oht_run *run, const oht_node *node) {
    oht_tensor dy = oht_get_grad(run, node->out[0]), dx = oht_get_grad(run, node->in[X]),
               drow = oht_get_grad(run, node->in[ROW]);
    int64_t C = dy.dim[2], n = (dy.dim[1] - 1) * C;
    drow.rank = 1;
    drow.dim[0] = C;
    for (int64_t b = 0; b < dy.dim[0]; b++) {
        if (dx.data) oht_add_or_copy(run, piece(dx, b, 0, n), piece(dy, b, C, n), oht_adds(run, node, X));
        if (drow.data) oht_add_or_copy(run, drow, piece(dy, b, 0, C), b > 0 || oht_adds(run, node, ROW));
    }
}

static const oht_op PREPEND = {"prepend", prepend_forward, prepend_backward, NULL};

oht_value oht_prepend(oht_graph *g, oht_value x, oht_value row) {
    oht_tensor a = oht_shape(g, x), r = oht_shape(g, row);
    if (a.rank != 3 || a.dtype != oht_storage(g) || r.rank != 2 || r.dim[0] != 1 || r.dim[1] != a.dim[2])
        return oht_graph_fail(g, "prepend: x %s must be (B,N,C), row %s (1,C)", oht_shape_text(a).text,
                              oht_shape_text(r).text);
    oht_value in[] = {x, row};
    oht_node *node = oht_node_new(g, &PREPEND, in, 2, NULL, 0);
    if (!node) return OHT_NONE;
    int64_t dim[] = {a.dim[0], a.dim[1] + 1, a.dim[2]};
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), 3, dim);
}

// ---- first token ----
static void first_forward(oht_run *run, const oht_node *node) {
    oht_tensor x = oht_get(run, node->in[0]), y = oht_get(run, node->out[0]);
    for (int64_t b = 0; b < x.dim[0]; b++)
        oht_add_or_copy(run, piece(y, b, 0, x.dim[2]), piece(x, b, 0, x.dim[2]), false);
}

static void first_backward(oht_run *run, const oht_node *node) {
    oht_tensor dy = oht_get_grad(run, node->out[0]), dx = oht_get_grad(run, node->in[0]);
    if (!oht_adds(run, node, 0)) run->be->zero(run->be, dx.data, oht_tensor_bytes(dx));
    for (int64_t b = 0; b < dx.dim[0]; b++)
        oht_add_or_copy(run, piece(dx, b, 0, dx.dim[2]), piece(dy, b, 0, dx.dim[2]), oht_adds(run, node, 0));
}

static const oht_op FIRST = {"first", first_forward, first_backward, NULL};

oht_value oht_first(oht_graph *g, oht_value x) {
    oht_tensor a = oht_shape(g, x);
    if (a.rank != 3 || a.dtype != oht_storage(g))
        return oht_graph_fail(g, "first: x %s must be (B,T,C)", oht_shape_text(a).text);
    oht_node *node = oht_node_new(g, &FIRST, &x, 1, NULL, 0);
    if (!node) return OHT_NONE;
    int64_t dim[] = {a.dim[0], a.dim[2]};
    return oht_node_output(g, node, oht_storage(g), oht_value_rows(g, x), 2, dim);
}
