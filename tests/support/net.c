// See net.h.
#include "net.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

oht_backend *net_backend;

int net_create_backend(void **state) {
    (void)state;
    return oht_backend_cpu_create(&net_backend) == OHT_OK ? 0 : -1;
}
int net_destroy_backend(void **state) {
    (void)state;
    oht_backend_destroy(net_backend);
    return 0;
}

// ---- two operations ----

static size_t bytes_of(oht_tensor t) {
    return (size_t)oht_tensor_count(t) * sizeof(float);
}

static void source_forward(oht_run *run, const oht_node *node) {
    oht_tensor y = oht_get(run, node->out[0]);
    memcpy(y.data, oht_get(run, node->in[0]).data, bytes_of(y));
}
static void source_backward(oht_run *run, const oht_node *node) {
    oht_tensor dp = oht_get_grad(run, node->in[0]), dy = oht_get_grad(run, node->out[0]);
    if (!oht_adds(run, node, 0)) memset(dp.data, 0, bytes_of(dp));
    for (int64_t i = 0; i < oht_tensor_count(dy); i++) oht_f32(dp)[i] += oht_f32(dy)[i];
}
static const oht_op SOURCE = {"source", source_forward, source_backward, NULL};

oht_value net_source(oht_graph *g, oht_value p, oht_rows rows) {
    oht_tensor s = oht_shape(g, p);
    oht_node *node = oht_node_new(g, &SOURCE, &p, 1, NULL, 0);
    return node ? oht_node_output(g, node, OHT_F32, rows, s.rank, s.dim) : OHT_NONE;
}

static float weight_of(int i, int64_t e) {
    return sinf((float)(1 + i) * 0.7f + (float)e * 1.9f);
}
static void weigh_forward(oht_run *run, const oht_node *node) {
    double *sum = oht_loss_of(run, false).sum;
    for (int i = 0; i < node->n_in; i++) {
        oht_tensor v = oht_get(run, node->in[i]);
        for (int64_t e = 0; e < oht_tensor_count(v); e++)
            *sum += (double)weight_of(i, e) * (double)oht_f32(v)[e];
    }
}
static void weigh_backward(oht_run *run, const oht_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        oht_tensor d = oht_get_grad(run, node->in[i]);
        if (!d.data) continue;
        if (!oht_adds(run, node, i)) memset(d.data, 0, bytes_of(d));
        for (int64_t e = 0; e < oht_tensor_count(d); e++) oht_f32(d)[e] += run->loss_scale * weight_of(i, e);
    }
}
static const oht_op WEIGH = {"weigh", weigh_forward, weigh_backward, NULL};

oht_value net_weigh(oht_graph *g, const oht_value *v, int n) {
    int64_t one = 1;
    oht_node *node = oht_node_new(g, &WEIGH, v, n, NULL, 0);
    return node ? oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1, &one) : OHT_NONE;
}

// ---- a graph with all that it takes to run ----

void net_param(oht_params *t, int rank, const int64_t *dim) {
    oht_param p = {.rank = rank, .zero_row = -1, .group = -1};
    int id;
    snprintf(p.name, sizeof(p.name), "p%d", t->n);
    memcpy(p.dim, dim, (size_t)rank * sizeof(*dim));
    assert_int_equal(oht_params_add(t, &p, &id), OHT_OK);
}

oht_value net_input(oht_graph *g, oht_field field) {
    const int64_t bt[] = {oht_graph_rows(g), oht_graph_tokens(g)}, picked = PICKED;
    if (field == OHT_FIELD_POSITIONS) return oht_input(g, field, OHT_I32, OHT_ROWS_PICKED, 1, &picked);
    return oht_input(g, field, field == OHT_FIELD_MASK ? OHT_U8 : OHT_I32, OHT_ROWS_BATCH, 2, bt);
}

static const int32_t TOKENS_[4 * T] = {1, 4, 1, 0, 6, 4, 2, 2, 5, 3, 0, 1};
static const int32_t LABELS_[4 * T] = {4, 1, -1, 6, 4, -1, 0, 5, -1, 3, 2, -1};
static const uint8_t MASK_[4 * T] = {1, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1, 1};
static const int32_t POSITIONS_[PICKED] = {5, 0, 3, 2};
static const float TARGETS_[B * V] = {.5f, 0, .25f, 0, 0, .25f, 0, 0, .125f, 0, 0, .875f, 0, 0}; // (B,V), rows sum to 1

void net_feed(net *n, int64_t first, int64_t rows) {
    n->run->rows = rows;
    n->run->sample0 = (uint32_t)first;
    oht_run_feed(n->run, OHT_FIELD_TOKENS, TOKENS_ + first * T, (size_t)(rows * T) * sizeof(int32_t));
    oht_run_feed(n->run, OHT_FIELD_MASK, MASK_ + first * T, (size_t)(rows * T));
    oht_value labels = {n->g->input[OHT_FIELD_LABELS]};
    int64_t n_labels = labels.id >= 0 && oht_value_rows(n->g, labels) == OHT_ROWS_PICKED ? PICKED : rows * T;
    oht_run_feed(n->run, OHT_FIELD_LABELS, LABELS_ + first * T, (size_t)n_labels * sizeof(int32_t));
    oht_run_feed(n->run, OHT_FIELD_POSITIONS, POSITIONS_, sizeof(POSITIONS_));
    if (rows <= B) oht_run_feed(n->run, OHT_FIELD_TARGETS, TARGETS_, (size_t)(rows * V) * sizeof(float));
}

void net_start(net *n) {
    bool train = oht_graph_mode(n->g) == OHT_TRAIN;
    if (oht_plan(n->g, train ? n->loss : OHT_NONE) != OHT_OK) fail_msg("%s", oht_error_last()->text);
    n->arena = aligned_alloc(64, oht_plan_bytes(n->g) + 64);
    memset(n->arena, 0xff, oht_plan_bytes(n->g));
    n->param = calloc(n->params->flat_count, sizeof(float));
    n->grad = calloc(n->params->flat_count, sizeof(float));
    for (size_t i = 0; i < n->params->flat_count; i++)
        n->param[i] = sinf(3.7f * (float)i + 0.3f * (float)(i % 11));
    assert_int_equal(oht_run_create(&n->run, n->g, n->arena, n->param, n->grad), OHT_OK);
    oht_run_poison(n->run, true);
    n->run->seed = 42;
    n->run->step = 3;
    n->run->picked = PICKED;
}

void net_stop(net *n) {
    oht_run_destroy(n->run);
    oht_graph_destroy(n->g);
    oht_params_destroy(n->params);
    free(n->arena);
    free(n->param);
    free(n->grad);
}

// ---- a small transformer ----

static oht_value block(oht_graph *g, oht_value x, int first, const small_options *opt) {
    oht_value w[PER_BLOCK], row, pi;
    for (int i = 0; i < PER_BLOCK; i++) w[i] = oht_parameter(g, first + i);
    oht_value n =
        oht_tap(g, oht_layernorm(g, x, w[0], w[1], 1e-5f), "ln1.out", OHT_TAP_SEQUENCE, OHT_IN_INF, first);
    oht_value a = oht_association(g, oht_linear(g, n, w[2], w[3]), OHT_NONE,
                                  (oht_assoc_spec){.kind = OHT_SOFTMAX1}, H, true, opt->p, &row);
    oht_tap(g, row, "null_mass", OHT_TAP_NULL_MASS, 0, first);
    a = oht_gate_heads(g, n, a, w + 4, 2,
                       (oht_gate){OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, H, 1.0f}, &pi);
    oht_tap(g, pi, "gate", OHT_TAP_GATE, 0, first);
    x = oht_residual(g, x, oht_linear(g, a, w[6], OHT_NONE), opt->p);
    n = oht_layernorm(g, x, w[7], w[8], 1e-5f);
    oht_value f = oht_linear_act(g, n, w[9], w[10], OHT_ACT_GELU);
    x = oht_residual(g, x, oht_linear(g, f, w[11], w[12]), opt->p);
    return oht_tap(g, x, "out", OHT_TAP_SEQUENCE, OHT_IN_LAYER_INF, first);
}

void small_net(net *n, const small_options *opt) {
    static const int64_t DIM[PER_BLOCK][2] = {{C}, {C}, {3 * C, C}, {3 * C}, {H, D}, {H}, {C, C},
                                              {C}, {C}, {F, C},     {F},     {C, F}, {C}};
    assert_int_equal(oht_params_create(&n->params), OHT_OK);
    net_param(n->params, 2, (int64_t[]){V, C});
    net_param(n->params, 2, (int64_t[]){T + 2, C});
    for (int i = 0; i < L * PER_BLOCK; i++)
        net_param(n->params, DIM[i % PER_BLOCK][1] ? 2 : 1, DIM[i % PER_BLOCK]);
    assert_int_equal(oht_params_layout(n->params), OHT_OK);
    assert_int_equal(oht_graph_create(&n->g, net_backend, n->params, opt->mode, opt->rows, T), OHT_OK);
    oht_graph_inner_taps(n->g, opt->inner);
    oht_value table = oht_parameter(n->g, TABLE);
    oht_value x = oht_embedding(n->g, net_input(n->g, OHT_FIELD_TOKENS), table, 1);
    x = oht_dropout(n->g, oht_add_rows(n->g, x, oht_parameter(n->g, POSITION), 2, false), opt->p);
    for (int l = 0; l < L; l++) {
        oht_scope(n->g, "layer.%d", l);
        if (opt->recompute) oht_block_begin(n->g);
        x = block(n->g, x, BLOCKS + l * PER_BLOCK, opt);
        if (opt->recompute) oht_block_end(n->g);
    }
    oht_scope(n->g, "head");
    int64_t picked = PICKED;
    oht_value labels = opt->picked ? oht_input(n->g, OHT_FIELD_LABELS, OHT_I32, OHT_ROWS_PICKED, 1, &picked)
                                   : net_input(n->g, OHT_FIELD_LABELS);
    if (opt->picked) x = oht_gather(n->g, x, net_input(n->g, OHT_FIELD_POSITIONS));
    n->loss = oht_lm_head(n->g, x, table, OHT_NONE, labels);
    net_start(n);
}

double small_step(net *n, int64_t first, int64_t rows, bool add) {
    net_feed(n, first, rows);
    n->run->add_params = add;
    oht_run_forward(n->run);
    oht_run_backward(n->run);
    return n->run->loss_sum;
}
