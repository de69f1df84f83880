// Language-model head and cross-entropy in one: z = x w^T (+ b), loss = sum over rows of -log
// softmax(z)[label]; label -1 counts nothing. Rows go through in chunks, so that the (N,V) logits never exist
// as a whole. In training the loss is formed together with its gradients: forward does nothing, backward
// computes each chunk's logits once, dz = (softmax - onehot) loss_scale, and from it dx = dz w, dw = dz^T x,
// db = sum of dz over rows.
#include "oht/op.h"
#include "ops/common.h"

enum { X, W, B, LABELS };

typedef struct lm_head_attr {
    int64_t chunk; // rows
    int logits;    // quantization site, -1 = none
} lm_head_attr;

// Logits of at most 128 MiB, and enough rows for a fast matrix product.
int64_t oht_lm_head_rows(int64_t N, int64_t V) {
    int64_t rows = (32 << 20) / V;
    if (rows > 512) rows = 512;
    if (rows < 32) rows = 32;
    return rows < N ? rows : N;
}

// Rows [start, start + n) of x: (...,C) as (n,C), or of labels as (n).
static oht_tensor rows_of(oht_tensor t, int64_t C, int64_t start, int64_t n) {
    oht_tensor part = {.dtype = t.dtype, .rank = C ? 2 : 1, .dim = {n, C}};
    int64_t width = C ? C : 1;
    part.data = t.data ? (char *)t.data + (size_t)(start * width) * oht_dtype_size(t.dtype) : NULL;
    return part;
}

static void chunk_logits(oht_run *run, const oht_node *node, oht_tensor logits, oht_tensor x,
                         oht_tensor labels, bool gradient) {
    run->be->linear_fwd(run->be, logits, OHT_NO_TENSOR, x, oht_get(run, node->in[W]),
                        oht_get(run, node->in[B]), OHT_ACT_NONE);
    const lm_head_attr *attr = node->attr;
    oht_see_inside(run, attr->logits, logits);
    oht_loss loss = oht_loss_of(run, gradient);
    run->be->cross_entropy(run->be, logits, labels, &loss);
}

static void forward_eval(oht_run *run, const oht_node *node) {
    const lm_head_attr *attr = node->attr;
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]),
               labels = oht_get(run, node->in[LABELS]);
    int64_t N = oht_tensor_rows(x), V = w.dim[0], C = w.dim[1];
    for (int64_t i = 0; i < N; i += attr->chunk) {
        int64_t n = N - i < attr->chunk ? N - i : attr->chunk;
        oht_tensor logits = {oht_scratch(run, node), x.dtype, 2, {n, V}};
        chunk_logits(run, node, logits, rows_of(x, C, i, n), rows_of(labels, 0, i, n), false);
    }
}

static void forward_train(oht_run *run, const oht_node *node) {
    (void)run;
    (void)node;
}

static void backward(oht_run *run, const oht_node *node) {
    const lm_head_attr *attr = node->attr;
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]),
               labels = oht_get(run, node->in[LABELS]);
    oht_tensor dx = oht_get_grad(run, node->in[X]), dw = oht_get_grad(run, node->in[W]),
               db = oht_get_grad(run, node->in[B]);
    int64_t N = oht_tensor_rows(x), V = w.dim[0], C = w.dim[1];
    bool add_dp = oht_adds_all(run, node, W, 2); // from the second chunk on all add
    for (int64_t i = 0; i < N; i += attr->chunk, add_dp = true) {
        int64_t n = N - i < attr->chunk ? N - i : attr->chunk;
        oht_tensor logits = {oht_scratch(run, node), x.dtype, 2, {n, V}}, part = rows_of(x, C, i, n);
        chunk_logits(run, node, logits, part, rows_of(labels, 0, i, n), true);
        if (run->loss_scale == 0.0f)
            run->be->zero(run->be, logits.data, oht_tensor_bytes(logits)); // logits, not their gradient
        run->be->linear_bwd(run->be, dx.data ? rows_of(dx, C, i, n) : OHT_NO_TENSOR, dw, db, logits, part, w,
                            OHT_NO_TENSOR, OHT_NO_TENSOR, OHT_ACT_NONE, oht_adds(run, node, X), add_dp);
    }
}

static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]);
    bool train = oht_graph_mode(run->graph) == OHT_TRAIN;
    double product = 2.0 * (double)oht_tensor_rows(x) * (double)w.dim[0] * (double)w.dim[1];
    double products = !train ? 1.0 : !backward_ ? 0.0 : oht_get_grad(run, node->in[X]).rank > 0 ? 3.0 : 2.0;
    return products * product;
}

static const oht_op LM_HEAD_TRAIN = {"lm_head", forward_train, backward, flops};
static const oht_op LM_HEAD_EVAL = {"lm_head", forward_eval, NULL, flops};

oht_value oht_lm_head(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_value labels) {
    oht_tensor a = oht_shape(g, x), m = oht_shape(g, w), bias = oht_shape(g, b), l = oht_shape(g, labels);
    if (a.rank < 2 || a.dtype != oht_storage(g) || m.rank != 2 || a.dim[a.rank - 1] != m.dim[1])
        return oht_graph_fail(g, "lm_head: x %s must be (...,C), w %s (V,C)", oht_shape_text(a).text,
                              oht_shape_text(m).text);
    if (b.id >= 0 && !oht_is_vector(bias, m.dim[0]))
        return oht_graph_fail(g, "lm_head: bias %s must be (%lld), the rows of w %s",
                              oht_shape_text(bias).text, (long long)m.dim[0], oht_shape_text(m).text);
    bool fits =
        l.rank == a.rank - 1 && l.dtype == OHT_I32 && oht_value_rows(g, labels) == oht_value_rows(g, x);
    for (int i = 0; fits && i < l.rank; i++) fits = l.dim[i] == a.dim[i];
    if (!fits)
        return oht_graph_fail(g, "lm_head: labels %s must be i32, one for each row of x %s",
                              oht_shape_text(l).text, oht_shape_text(a).text);
    bool train = oht_graph_mode(g) == OHT_TRAIN;
    oht_value in[] = {x, w, b, labels};
    int64_t N = oht_tensor_rows(a), V = m.dim[0];
    bool site = oht_graph_has_sites(g) & OHT_SITES_HEAD, whole = site && oht_graph_has_sites(g) & OHT_SITES_INNER;
    lm_head_attr attr = {whole ? N : oht_lm_head_rows(N, V), site ? oht_site_inside(g, "logits", OHT_SITE_LOGITS) : -1};
    oht_node *node = oht_node_new(g, train ? &LM_HEAD_TRAIN : &LM_HEAD_EVAL, in, 4, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->keep_in = 1u << X | 1u << LABELS;
    size_t bytes = (size_t)(attr.chunk * V) * oht_dtype_size(a.dtype);
    *(train ? &node->scratch_bwd : &node->scratch_fwd) = bytes;
    return oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1,
                           (int64_t[]){1}); // a name for the loss; the number is run->loss_sum
}
