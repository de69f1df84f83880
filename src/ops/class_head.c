// Classifier and loss in one: z = x w^T (+ b). Training: loss = -sum over rows of sum_j t_j log softmax(z)_j
// for soft targets t; as in lm_head.c the loss is formed together with its gradients, dz = (softmax - t)
// loss_scale. Evaluation: plain cross-entropy against labels, and how many labels come first and among the
// first five.
#include "oht/op.h"
#include "ops/common.h"

enum { X, W, B, TARGETS };

typedef struct class_head_attr {
    int logits; // quantization site, -1 = none
} class_head_attr;

static oht_tensor logits_of(oht_run *run, const oht_node *node) {
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]);
    oht_tensor logits = {oht_scratch(run, node), x.dtype, 2, {x.dim[0], w.dim[0]}};
    run->be->linear_fwd(run->be, logits, OHT_NO_TENSOR, x, w, oht_get(run, node->in[B]), OHT_ACT_NONE);
    return logits;
}

static void forward_eval(oht_run *run, const oht_node *node) {
    oht_tensor logits = logits_of(run, node), labels = oht_get(run, node->in[TARGETS]);
    const class_head_attr *attr = node->attr;
    int64_t hits[2] = {0, 0};
    oht_see_inside(run, attr->logits, logits);
    run->be->top_hits(run->be, logits, labels, hits);
    oht_loss loss = oht_loss_of(run, false);
    run->be->cross_entropy(run->be, logits, labels, &loss);
    run->measured[0] += (double)hits[0];
    run->measured[1] += (double)hits[1];
}

static void forward_train(oht_run *run, const oht_node *node) {
    (void)run;
    (void)node;
}

static void backward(oht_run *run, const oht_node *node) {
    oht_tensor logits = logits_of(run, node);
    oht_loss loss = oht_loss_of(run, true);
    run->be->soft_cross_entropy(run->be, logits, oht_get(run, node->in[TARGETS]), &loss);
    if (run->loss_scale == 0.0f)
        run->be->zero(run->be, logits.data, oht_tensor_bytes(logits)); // logits, not their gradient
    run->be->linear_bwd(run->be, oht_get_grad(run, node->in[X]), oht_get_grad(run, node->in[W]),
                        oht_get_grad(run, node->in[B]), logits, oht_get(run, node->in[X]),
                        oht_get(run, node->in[W]), OHT_NO_TENSOR, OHT_NO_TENSOR, OHT_ACT_NONE,
                        oht_adds(run, node, X), oht_adds_all(run, node, W, 2));
}

static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    oht_tensor x = oht_get(run, node->in[X]), w = oht_get(run, node->in[W]);
    double product = 2.0 * (double)x.dim[0] * (double)w.dim[0] * (double)w.dim[1];
    bool train = oht_graph_mode(run->graph) == OHT_TRAIN;
    return product * (!train ? 1.0 : !backward_ ? 0.0 : oht_get_grad(run, node->in[X]).rank > 0 ? 3.0 : 2.0);
}

static const oht_op CLASS_HEAD_TRAIN = {"class_head", forward_train, backward, flops};
static const oht_op CLASS_HEAD_EVAL = {"class_head", forward_eval, NULL, flops};

oht_value oht_class_head(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_value targets) {
    oht_tensor a = oht_shape(g, x), m = oht_shape(g, w), bias = oht_shape(g, b), t = oht_shape(g, targets);
    bool train = oht_graph_mode(g) == OHT_TRAIN;
    if (a.rank != 2 || a.dtype != oht_storage(g) || m.rank != 2 || a.dim[1] != m.dim[1])
        return oht_graph_fail(g, "class_head: x %s must be (B,C), w %s (V,C)", oht_shape_text(a).text,
                              oht_shape_text(m).text);
    if (b.id >= 0 && !oht_is_vector(bias, m.dim[0]))
        return oht_graph_fail(g, "class_head: bias %s must be (%lld), the rows of w %s",
                              oht_shape_text(bias).text, (long long)m.dim[0], oht_shape_text(m).text);
    bool fits = oht_value_rows(g, targets) == oht_value_rows(g, x) && t.dim[0] == a.dim[0] &&
                (train ? t.rank == 2 && t.dtype == OHT_F32 && t.dim[1] == m.dim[0]
                       : t.rank == 1 && t.dtype == OHT_I32);
    if (!fits)
        return oht_graph_fail(g, "class_head: %s %s must be %s, one for each row of x %s",
                              train ? "targets" : "labels", oht_shape_text(t).text,
                              train ? "(B,V) f32" : "(B) i32", oht_shape_text(a).text);
    oht_value in[] = {x, w, b, targets};
    bool site = oht_graph_has_sites(g) & OHT_SITES_HEAD;
    class_head_attr attr = {site ? oht_site_inside(g, "logits", OHT_SITE_LOGITS) : -1};
    oht_node *node = oht_node_new(g, train ? &CLASS_HEAD_TRAIN : &CLASS_HEAD_EVAL, in, 4, &attr, sizeof(attr));
    if (!node) return OHT_NONE;
    node->keep_in = 1u << X | 1u << TARGETS;
    *(train ? &node->scratch_bwd : &node->scratch_fwd) = (size_t)(a.dim[0] * m.dim[0]) * oht_dtype_size(a.dtype);
    return oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1,
                           (int64_t[]){1}); // a name for the loss; the number is run->loss_sum
}
