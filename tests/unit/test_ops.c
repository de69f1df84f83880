// Operations through the graph, on the CPU backend: each gradient against central differences (alone, where
// it overwrites, and with all its inputs used a second time, where it adds), then a small transformer: rows
// below capacity, recomputation, poison, accumulation, tied weights, evaluation, taps, allocations. Kernels
// themselves are tested against golden vectors elsewhere.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/internal.h"
#include "oht/memory.h"
#include "toy_graph.h"

enum { B = 2, T = 3, C = 8, H = 2, D = C / H, M = 5, V = 7, PICKED = 4, MOST = 8 };

static oht_backend *be;

static int create_backend(void **state) {
    (void)state;
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}
static int destroy_backend(void **state) {
    (void)state;
    oht_backend_destroy(be);
    return 0;
}

// ---- two operations of the test ----

static size_t bytes_of(oht_tensor t) {
    return (size_t)oht_tensor_count(t) * sizeof(float);
}

// A parameter (B,...) as an activation with batch rows.
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

static oht_value source(oht_graph *g, oht_value p, oht_rows rows) {
    oht_tensor s = oht_shape(g, p);
    oht_node *node = oht_node_new(g, &SOURCE, &p, 1, NULL, 0);
    return node ? oht_node_output(g, node, OHT_F32, rows, s.rank, s.dim) : OHT_NONE;
}

// loss = sum of c v over all elements of all inputs, c from -1 to 1.
static float weight_of(int i, int64_t e) {
    return sinf((float)(1 + i) * 0.7f + (float)e * 1.9f);
}
static void weigh_forward(oht_run *run, const oht_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        oht_tensor v = oht_get(run, node->in[i]);
        for (int64_t e = 0; e < oht_tensor_count(v); e++)
            run->loss_sum += (double)weight_of(i, e) * (double)oht_f32(v)[e];
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

static oht_value weigh(oht_graph *g, const oht_value *v, int n) {
    int64_t one = 1;
    oht_node *node = oht_node_new(g, &WEIGH, v, n, NULL, 0);
    return node ? oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1, &one) : OHT_NONE;
}

// ---- a graph with all that it takes to run ----

typedef struct net {
    oht_params *params;
    oht_graph *g;
    oht_run *run;
    float *param, *grad;
    void *arena;
    oht_value loss;
} net;

static void add_param(oht_params *t, int rank, const int64_t *dim) {
    oht_param p = {.rank = rank, .zero_row = -1, .group = -1};
    int id;
    snprintf(p.name, sizeof(p.name), "p%d", t->n);
    memcpy(p.dim, dim, (size_t)rank * sizeof(*dim));
    assert_int_equal(oht_params_add(t, &p, &id), OHT_OK);
}

static const int32_t TOKENS_[4 * T] = {1, 4, 1, 0, 6, 4, 2, 2, 5, 3, 0, 1};
static const int32_t LABELS_[4 * T] = {4, 1, -1, 6, 4, -1, 0, 5, -1, 3, 2, -1};
static const uint8_t MASK_[4 * T] = {1, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1, 1};
static const int32_t POSITIONS_[PICKED] = {5, 0, 3, 2};
static const float TARGETS_[B * V] = {.5f, 0, .25f, 0, 0, .25f, 0, 0, .125f, 0, 0, .875f, 0, 0}; // (B,V), rows sum to 1

static void feed(net *n, int64_t first, int64_t rows) {
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

// After recording: plan, memory, parameters (the same for every graph with the same table).
static void start(net *n) {
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

static void stop(net *n) {
    oht_run_destroy(n->run);
    oht_graph_destroy(n->g);
    oht_params_destroy(n->params);
    free(n->arena);
    free(n->param);
    free(n->grad);
}

// ---- gradients of each operation ----

typedef struct recipe {
    const char *name;
    oht_value (*record)(oht_graph *g, const oht_value *v, const struct recipe *r);
    int n_params;
    struct {
        int rank;
        int64_t dim[4];
        oht_rows rows; // not FIXED: an activation
    } param[MOST];
    bool is_loss; // the result is a loss already
    oht_act act;
    oht_assoc_spec f;
    bool causal, masked;
    float p;
    oht_gate gate;
    oht_hopfield hf;
    double h, tolerance; // 0: the usual
} recipe;

static oht_value input(oht_graph *g, oht_field field) {
    const int64_t bt[] = {oht_graph_rows(g), oht_graph_tokens(g)}, picked = PICKED;
    if (field == OHT_FIELD_POSITIONS) return oht_input(g, field, OHT_I32, OHT_ROWS_PICKED, 1, &picked);
    return oht_input(g, field, field == OHT_FIELD_MASK ? OHT_U8 : OHT_I32, OHT_ROWS_BATCH, 2, bt);
}

static oht_value rec_embedding(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_embedding(g, input(g, OHT_FIELD_TOKENS), v[0], -1);
}
static oht_value rec_add_rows(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_add_rows(g, v[0], v[1], 2, r->causal);
}
static oht_value rec_linear(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_linear_act(g, v[0], v[1], r->n_params > 2 ? v[2] : OHT_NONE, r->act);
}
static oht_value rec_layernorm(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_layernorm(g, v[0], v[1], v[2], 1e-5f);
}
static oht_value rec_dropout(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_dropout(g, v[0], r->p);
}
static oht_value rec_residual(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_residual(g, v[0], v[1], r->p);
}
// x + Drop(x w^T): the gradient of the sum is passed on before the linear adds to it.
static oht_value rec_residual_chain(oht_graph *g, const oht_value *v, const recipe *r) {
    oht_value x = oht_residual(g, v[0], oht_linear(g, v[0], v[1], OHT_NONE), r->p);
    return oht_residual(g, x, oht_linear_act(g, x, v[1], OHT_NONE, OHT_ACT_GELU), r->p);
}
static oht_value rec_association(oht_graph *g, const oht_value *v, const recipe *r) {
    oht_value mask = r->masked ? input(g, OHT_FIELD_MASK) : OHT_NONE;
    return oht_association(g, v[0], mask, r->f, H, r->causal, r->p, NULL);
}
static oht_value rec_gate(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_gate_heads(g, v[0], v[1], v + 2, r->n_params - 2, r->gate, NULL);
}
static oht_value rec_gather(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_gather(g, v[0], input(g, OHT_FIELD_POSITIONS));
}
static oht_value rec_lm_head(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_lm_head(g, v[0], v[1], r->n_params > 2 ? v[2] : OHT_NONE, input(g, OHT_FIELD_LABELS));
}
static oht_value rec_prepend(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_prepend(g, v[0], v[1]);
}
static oht_value rec_first(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_first(g, v[0]);
}
static oht_value rec_class_head(oht_graph *g, const oht_value *v, const recipe *r) {
    const int64_t dim[] = {oht_graph_rows(g), V};
    oht_value targets = oht_input(g, OHT_FIELD_TARGETS, OHT_F32, OHT_ROWS_BATCH, 2, dim);
    return oht_class_head(g, oht_first(g, v[0]), v[1], r->n_params > 2 ? v[2] : OHT_NONE, targets);
}
// Tied: the table embeds and predicts.
static oht_value rec_tied(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    oht_value x = oht_embedding(g, input(g, OHT_FIELD_TOKENS), v[0], -1);
    return oht_lm_head(g, x, v[0], v[1], input(g, OHT_FIELD_LABELS));
}
// A linear whose weight is tied and whose bias is not: one add flag in the kernel, two answers.
static oht_value rec_half_tied(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    oht_value x = oht_linear(g, v[0], v[1], v[2]);
    return oht_linear(g, x, v[1], OHT_NONE);
}
// v: queries, keys, values unless there are two inputs only, the raw alpha where it is learned.
static oht_value rec_hopfield(oht_graph *g, const oht_value *v, const recipe *r) {
    oht_value a = r->hf.learns_alpha ? v[r->n_params - 1] : OHT_NONE;
    return oht_hopfield_association(g, v[0], v[1], r->n_params > 2 ? v[2] : OHT_NONE, a, r->hf, r->p, false, NULL);
}
static oht_value rec_mix_heads(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_mix_heads(g, v[0], H);
}
static oht_value rec_swap_axes(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_swap_axes(g, v[0]);
}
static oht_value rec_merge(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_merge_segments(g, v[0], 2);
}
static oht_value rec_unsegment(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_unsegment(g, v[0], 7, OHT_NONE);
}
static oht_value rec_repeat(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_add_table(g, oht_repeat(g, v[0]), v[1]);
}
static oht_value rec_add_table(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_add_table(g, v[0], v[1]);
}
static oht_value rec_squared_error(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_squared_error(g, oht_swap_axes(g, v[0]), oht_swap_axes(g, v[1]));
}

#define GROUPS(LENGTH) {4, {B, 2, LENGTH, C}, OHT_ROWS_BATCH}
#define SHARED {3, {1, 3, C}}
#define HOPFIELD(NAME, KIND, CLIPPED, LEARNED, ...)                                                                            \
    {                                                                                                        \
        .name = "hopfield " NAME, .record = rec_hopfield, .hf = {.f = {KIND, CLIPPED, -0.1, 1.1}, .beta = 0.7f,         \
                                                                 .heads = H, .mix = true, .alpha_range = 2,                                           \
                                                                 .learns_alpha = LEARNED},            \
        __VA_ARGS__                                                                                          \
    }

#define ACTIVATION                                                                                           \
    { 3, {B, T, C}, OHT_ROWS_BATCH }
#define ASSOCIATION(KIND, CLIPPED, CAUSAL, MASKED, P, STEP, TOL)                                             \
    {                                                                                                        \
        .name = "association " #KIND " " #CLIPPED " " #CAUSAL " " #MASKED, .record = rec_association,        \
        .n_params = 1, .param = {{3, {B, T, 3 * C}, OHT_ROWS_BATCH}}, .f = {KIND, CLIPPED, -0.01, 1.02},     \
        .causal = CAUSAL, .masked = MASKED, .p = P, .h = STEP, .tolerance = TOL                              \
    }
#define GATE(KIND, FORM, N, ...)                                                                             \
    {                                                                                                        \
        .name = "gate " #KIND " " #FORM, .record = rec_gate, .n_params = 2 + N,                              \
        .param = {ACTIVATION, ACTIVATION, __VA_ARGS__}, .gate = {                                            \
            KIND,                                                                                            \
            FORM,                                                                                            \
            H,                                                                                               \
            1.5f                                                                                             \
        }                                                                                                    \
    }

static const recipe RECIPE[] = {
    {.name = "embedding", .record = rec_embedding, .n_params = 1, .param = {{2, {V, C}}}},
    {.name = "add_rows", .record = rec_add_rows, .n_params = 2, .param = {ACTIVATION, {2, {T + 3, C}}}},
    {.name = "add_rows broadcast",
     .record = rec_add_rows,
     .n_params = 2,
     .param = {ACTIVATION, {2, {T, C}}},
     .causal = true},
    {.name = "linear", .record = rec_linear, .n_params = 3, .param = {ACTIVATION, {2, {M, C}}, {1, {M}}}},
    {.name = "linear without bias", .record = rec_linear, .n_params = 2, .param = {ACTIVATION, {2, {M, C}}}},
    {.name = "linear picked",
     .record = rec_linear,
     .n_params = 3,
     .param = {{2, {PICKED, C}, OHT_ROWS_PICKED}, {2, {M, C}}, {1, {M}}}},
    {.name = "linear gelu",
     .record = rec_linear,
     .n_params = 3,
     .param = {ACTIVATION, {2, {M, C}}, {1, {M}}},
     .act = OHT_ACT_GELU},
    {.name = "linear relu",
     .record = rec_linear,
     .n_params = 3,
     .param = {ACTIVATION, {2, {M, C}}, {1, {M}}},
     .act = OHT_ACT_RELU,
     .h = 2e-3,
     .tolerance = 2e-2},
    {.name = "linear half tied",
     .record = rec_half_tied,
     .n_params = 3,
     .param = {ACTIVATION, {2, {C, C}}, {1, {C}}}},
    {.name = "layernorm", .record = rec_layernorm, .n_params = 3, .param = {ACTIVATION, {1, {C}}, {1, {C}}}},
    {.name = "dropout", .record = rec_dropout, .n_params = 1, .param = {ACTIVATION}, .p = 0.3f},
    {.name = "residual", .record = rec_residual, .n_params = 2, .param = {ACTIVATION, ACTIVATION}},
    {.name = "residual with dropout",
     .record = rec_residual,
     .n_params = 2,
     .param = {ACTIVATION, ACTIVATION},
     .p = 0.3f},
    {.name = "residual chain",
     .record = rec_residual_chain,
     .n_params = 2,
     .param = {ACTIVATION, {2, {C, C}}},
     .p = 0.3f},
    ASSOCIATION(OHT_SOFTMAX, false, false, false, 0.0f, 0, 0),
    ASSOCIATION(OHT_SOFTMAX, false, true, true, 0.3f, 0, 0),
    ASSOCIATION(OHT_SOFTMAX1, false, false, true, 0.3f, 0, 0),
    ASSOCIATION(OHT_SOFTMAX1, false, true, false, 0.0f, 0, 0),
    ASSOCIATION(OHT_SOFTMAX1, true, true, true, 0.3f, 2e-3, 2e-2),
    ASSOCIATION(OHT_SOFTMAX, true, false, false, 0.0f, 2e-3, 2e-2),
    ASSOCIATION(OHT_ENTMAX15, false, true, false, 0.3f, 2e-3, 2e-2),
    ASSOCIATION(OHT_SPARSEMAX, false, false, true, 0.0f, 2e-3, 2e-2),
    GATE(OHT_GATE_UNCONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, 1, {1, {H}}),
    GATE(OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, 2, {2, {H, D}}, {1, {H}}),
    GATE(OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, 2, {2, {H, D}}, {1, {H}}),
    GATE(OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_ALL_FEATURES, 2, {2, {H, C}}, {1, {H}}),
    GATE(OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_ALL_FEATURES, 2, {2, {H, C}}, {1, {H}}),
    {.name = "gate mlp",
     .record = rec_gate,
     .n_params = 6,
     .gate = {OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_MLP, H, 1.5f},
     .param = {ACTIVATION, ACTIVATION, {3, {H, 3, D}}, {2, {H, 3}}, {2, {H, 3}}, {1, {H}}},
     .h = 2e-3,
     .tolerance = 2e-2},
    {.name = "gate mlp2 per head",
     .record = rec_gate,
     .n_params = 6,
     .gate = {OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_MLP2, H, 1.0f},
     .param = {ACTIVATION, ACTIVATION, {3, {H, D, D}}, {2, {H, D}}, {2, {H, D}}, {1, {H}}},
     .h = 2e-3,
     .tolerance = 2e-2},
    HOPFIELD("softmax", OHT_SOFTMAX, false, false, .n_params = 3, .param = {GROUPS(3), GROUPS(5), GROUPS(5)}),
    HOPFIELD("softmax1 shared, dropout", OHT_SOFTMAX1, false, false, .n_params = 3, .param = {GROUPS(4), SHARED, SHARED}, .p = 0.3f),
    HOPFIELD("keys as values", OHT_SOFTMAX1, false, false, .n_params = 2, .param = {GROUPS(3), GROUPS(4)}),
    HOPFIELD("sparsemax", OHT_SPARSEMAX, false, false, .n_params = 3, .param = {GROUPS(3), GROUPS(4), GROUPS(4)}, .p = 0.3f, .h = 2e-3,
             .tolerance = 2e-2),
    HOPFIELD("entmax15", OHT_ENTMAX15, false, false, .n_params = 3, .param = {GROUPS(3), SHARED, SHARED}, .h = 2e-3, .tolerance = 2e-2),
    HOPFIELD("alpha", OHT_SOFTMAX, false, true, .n_params = 4, .param = {GROUPS(3), GROUPS(4), GROUPS(4), {1, {1}}},
             .h = 2e-3, .tolerance = 2e-2),
    HOPFIELD("alpha shared, dropout", OHT_SOFTMAX, false, true, .n_params = 4,
             .param = {GROUPS(3), SHARED, SHARED, {1, {1}}}, .p = 0.3f, .h = 2e-3, .tolerance = 2e-2),
    HOPFIELD("clipped", OHT_SOFTMAX, true, false, .n_params = 3, .param = {GROUPS(3), GROUPS(4), GROUPS(4)}, .h = 2e-3,
             .tolerance = 2e-2),
    HOPFIELD("clipped softmax1, dropout", OHT_SOFTMAX1, true, false, .n_params = 3,
             .param = {GROUPS(3), SHARED, SHARED}, .p = 0.3f, .h = 2e-3, .tolerance = 2e-2),
    {.name = "mix_heads", .record = rec_mix_heads, .n_params = 1, .param = {GROUPS(3)}},
    {.name = "swap_axes", .record = rec_swap_axes, .n_params = 1, .param = {GROUPS(3)}},
    {.name = "merge", .record = rec_merge, .n_params = 1, .param = {GROUPS(5)}},
    {.name = "unsegment", .record = rec_unsegment, .n_params = 1, .param = {{4, {B, 2, 3, 3}, OHT_ROWS_BATCH}}},
    {.name = "repeat", .record = rec_repeat, .n_params = 2, .param = {{3, {1, T, C}}, {3, {1, T, C}}}},
    {.name = "add_table", .record = rec_add_table, .n_params = 2, .param = {GROUPS(3), {4, {1, 2, 3, C}}}},
    {.name = "squared_error", .record = rec_squared_error, .n_params = 2, .param = {GROUPS(3), {4, {B, 2, 3, C}, OHT_ROWS_BATCH}},
     .is_loss = true},
    {.name = "gather", .record = rec_gather, .n_params = 1, .param = {ACTIVATION}},
    {.name = "lm_head",
     .record = rec_lm_head,
     .n_params = 2,
     .param = {ACTIVATION, {2, {V, C}}},
     .is_loss = true},
    {.name = "lm_head with bias",
     .record = rec_lm_head,
     .n_params = 3,
     .param = {ACTIVATION, {2, {V, C}}, {1, {V}}},
     .is_loss = true},
    {.name = "prepend", .record = rec_prepend, .n_params = 2, .param = {ACTIVATION, {2, {1, C}}}},
    {.name = "first", .record = rec_first, .n_params = 1, .param = {ACTIVATION}},
    {.name = "class_head",
     .record = rec_class_head,
     .n_params = 2,
     .param = {ACTIVATION, {2, {V, C}}},
     .is_loss = true},
    {.name = "class_head with bias",
     .record = rec_class_head,
     .n_params = 3,
     .param = {ACTIVATION, {2, {V, C}}, {1, {V}}},
     .is_loss = true},
    {.name = "tied head",
     .record = rec_tied,
     .n_params = 2,
     .param = {{2, {V, C}}, {1, {V}}},
     .is_loss = true},
};

// used_again: the loss takes every input of the operation as well, so that it writes their gradients first.
static void record_recipe(net *n, const recipe *r, bool used_again) {
    assert_int_equal(oht_params_create(&n->params), OHT_OK);
    for (int i = 0; i < r->n_params; i++) add_param(n->params, r->param[i].rank, r->param[i].dim);
    assert_int_equal(oht_params_layout(n->params), OHT_OK);
    assert_int_equal(oht_graph_create(&n->g, be, n->params, OHT_TRAIN, B, T), OHT_OK);
    oht_value v[MOST + 1];
    for (int i = 0; i < r->n_params; i++) {
        v[i] = oht_parameter(n->g, i);
        if (r->param[i].rows != OHT_ROWS_FIXED) v[i] = source(n->g, v[i], r->param[i].rows);
    }
    n->loss = r->record(n->g, v, r);
    if (r->is_loss) return;
    v[r->n_params] = n->loss;
    n->loss = used_again ? weigh(n->g, v, r->n_params + 1) : weigh(n->g, v + r->n_params, 1);
}

static double loss_at(net *n) {
    feed(n, 0, B);
    oht_run_forward(n->run);
    if (n->run->loss_sum == 0.0) oht_run_backward(n->run); // the head computes its loss there
    return n->run->loss_sum;
}

static void check_recipe(const recipe *r, bool used_again) {
    net n = {0};
    record_recipe(&n, r, used_again);
    start(&n);
    n.run->loss_scale = 0.5f;
    feed(&n, 0, B);
    oht_run_forward(n.run);
    oht_run_backward(n.run);
    float *grad = calloc(n.params->flat_count, sizeof(float));
    memcpy(grad, n.grad, n.params->flat_count * sizeof(float));

    double h = r->h > 0 ? r->h : 0.04, tolerance = r->tolerance > 0 ? r->tolerance : 2e-3, all = 0.0;
    for (size_t i = 0; i < n.params->flat_count; i++) all += (double)grad[i] * (double)grad[i];
    if (!(all > 1e-4)) fail_msg("%s: the gradient vanishes", r->name);
    for (int k = 0; k < n.params->n; k++) {
        const oht_param *p = &n.params->item[k];
        double off = 0.0, norm = 0.0;
        for (size_t i = p->offset; i < p->offset + (size_t)p->count; i++) {
            float x = n.param[i];
            double f[4];
            for (int s = 0; s < 4; s++) {
                static const double STEP[4] = {-2, -1, 1, 2};
                n.param[i] = (float)((double)x + STEP[s] * h);
                f[s] = loss_at(&n);
            }
            n.param[i] = x;
            double d = (double)n.run->loss_scale * (8.0 * (f[2] - f[1]) - (f[3] - f[0])) / (12.0 * h);
            off += (d - (double)grad[i]) * (d - (double)grad[i]);
            norm += d * d;
        }
        if (!(sqrt(off) <= tolerance * sqrt(norm) + 1e-3 * tolerance * sqrt(all) + 1e-9))
            fail_msg("%s%s: gradient of parameter %d is off by %g of %g", r->name,
                     used_again ? ", inputs used again" : "", k, sqrt(off), sqrt(norm));
    }
    free(grad);
    stop(&n);
}

static void gradients_match_central_differences(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(RECIPE) / sizeof(RECIPE[0]); i++) {
        check_recipe(&RECIPE[i], false);
        if (!RECIPE[i].is_loss) check_recipe(&RECIPE[i], true);
    }
}

// ---- the head in chunks, against double precision ----

static void head_in_chunks_equals_double(void **state) {
    (void)state;
    enum { LONG = 700, W = 6, WORDS = 9, N = 2 * LONG }; // N rows: chunks of 512, 512, 376
    for (int train = 0; train < 2; train++) {
        net n = {0};
        assert_int_equal(oht_params_create(&n.params), OHT_OK);
        add_param(n.params, 3, (int64_t[]){2, LONG, W});
        add_param(n.params, 2, (int64_t[]){WORDS, W});
        add_param(n.params, 1, (int64_t[]){WORDS});
        assert_int_equal(oht_params_layout(n.params), OHT_OK);
        assert_int_equal(oht_graph_create(&n.g, be, n.params, train ? OHT_TRAIN : OHT_EVAL, 2, LONG), OHT_OK);
        oht_value x = source(n.g, oht_parameter(n.g, 0), OHT_ROWS_BATCH);
        n.loss =
            oht_lm_head(n.g, x, oht_parameter(n.g, 1), oht_parameter(n.g, 2), input(n.g, OHT_FIELD_LABELS));
        start(&n);
        oht_run_poison(n.run, train);
        int32_t *label = calloc(N, sizeof(int32_t));
        for (int i = 0; i < N; i++) label[i] = i % LONG == LONG - 1 ? -1 : (i * 5 + i / 7) % WORDS;
        n.run->rows = 2;
        n.run->loss_scale = 0.25f;
        oht_run_feed(n.run, OHT_FIELD_LABELS, label, N * sizeof(int32_t));
        oht_run_forward(n.run);
        if (train) assert_true(n.run->loss_sum == 0.0);
        if (train) oht_run_backward(n.run);

        const oht_param *p = n.params->item;
        const float *xs = n.param + p[0].offset, *w = n.param + p[1].offset, *b = n.param + p[2].offset;
        double loss = 0.0, dw[WORDS][W] = {{0}}, db[WORDS] = {0}, worst = 0.0;
        for (int i = 0; i < N; i++) {
            double z[WORDS], sum = 0.0, dx[W] = {0};
            for (int v = 0; v < WORDS; v++) {
                z[v] = (double)b[v];
                for (int c = 0; c < W; c++) z[v] += (double)xs[i * W + c] * (double)w[v * W + c];
                sum += exp(z[v]);
            }
            if (label[i] >= 0) loss += log(sum) - z[label[i]];
            for (int v = 0; v < WORDS && label[i] >= 0; v++) {
                double dz = 0.25 * (exp(z[v]) / sum - (v == label[i]));
                db[v] += dz;
                for (int c = 0; c < W; c++) {
                    dw[v][c] += dz * (double)xs[i * W + c];
                    dx[c] += dz * (double)w[v * W + c];
                }
            }
            for (int c = 0; c < W; c++)
                worst = fmax(worst, fabs(dx[c] - (double)n.grad[p[0].offset + (size_t)(i * W + c)]));
        }
        assert_true(fabs(n.run->loss_sum - loss) <= 1e-6 * loss);
        if (train) {
            assert_true(worst <= 1e-6);
            for (int v = 0; v < WORDS; v++) {
                assert_true(fabs(db[v] - (double)n.grad[p[2].offset + (size_t)v]) <= 1e-4);
                for (int c = 0; c < W; c++)
                    assert_true(fabs(dw[v][c] - (double)n.grad[p[1].offset + (size_t)(v * W + c)]) <= 1e-4);
            }
            assert_true(oht_run_flops(n.run, false) == 0.0);
            assert_true(oht_run_flops(n.run, true) == 3.0 * 2.0 * N * W * WORDS);
        } else {
            assert_true(oht_run_flops(n.run, false) == 2.0 * N * W * WORDS);
        }
        if (train) { // no label in the whole global batch
            n.run->loss_scale = 0.0f;
            oht_run_forward(n.run);
            oht_run_backward(n.run);
            for (size_t i = 0; i < n.params->flat_count; i++) assert_true(n.grad[i] == 0.0f);
        }
        free(label);
        stop(&n);
    }
}

// ---- a small transformer ----

enum { F = 12, TABLE = 0, POSITION, BLOCKS, PER_BLOCK = 13, L = 3 };

typedef struct options {
    oht_mode mode;
    int64_t rows;
    bool recompute, picked, inner;
    float p;
} options;

static oht_value block(oht_graph *g, oht_value x, int first, const options *opt) {
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

static void record_net(net *n, const options *opt) {
    static const int64_t DIM[PER_BLOCK][2] = {{C}, {C}, {3 * C, C}, {3 * C}, {H, D}, {H}, {C, C},
                                              {C}, {C}, {F, C},     {F},     {C, F}, {C}};
    assert_int_equal(oht_params_create(&n->params), OHT_OK);
    add_param(n->params, 2, (int64_t[]){V, C});
    add_param(n->params, 2, (int64_t[]){T + 2, C});
    for (int i = 0; i < L * PER_BLOCK; i++)
        add_param(n->params, DIM[i % PER_BLOCK][1] ? 2 : 1, DIM[i % PER_BLOCK]);
    assert_int_equal(oht_params_layout(n->params), OHT_OK);
    assert_int_equal(oht_graph_create(&n->g, be, n->params, opt->mode, opt->rows, T), OHT_OK);
    oht_graph_inner_taps(n->g, opt->inner);
    oht_value table = oht_parameter(n->g, TABLE);
    oht_value x = oht_embedding(n->g, input(n->g, OHT_FIELD_TOKENS), table, 1);
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
                                   : input(n->g, OHT_FIELD_LABELS);
    if (opt->picked) x = oht_gather(n->g, x, input(n->g, OHT_FIELD_POSITIONS));
    n->loss = oht_lm_head(n->g, x, table, OHT_NONE, labels);
    start(n);
}

static double step(net *n, int64_t first, int64_t rows, bool add) {
    feed(n, first, rows);
    n->run->add_params = add;
    oht_run_forward(n->run);
    oht_run_backward(n->run);
    return n->run->loss_sum;
}

static double distance(const net *a, const net *b) {
    double off = 0.0, norm = 0.0;
    for (size_t i = 0; i < a->params->flat_count; i++) {
        double d = (double)a->grad[i] - (double)b->grad[i];
        off += d * d;
        norm += (double)b->grad[i] * (double)b->grad[i];
    }
    return sqrt(off / norm);
}

static void whole_net_gradient(void **state) {
    (void)state;
    net n = {0};
    record_net(&n, &(options){OHT_TRAIN, 2, .p = 0.2f});
    step(&n, 0, 2, false);
    size_t N = n.params->flat_count, table = n.params->item[TABLE].offset;
    float *grad = malloc(N * sizeof(float)), *x = malloc(N * sizeof(float));
    memcpy(grad, n.grad, N * sizeof(float));
    memcpy(x, n.param, N * sizeof(float));
    for (int k = 0; k < 6; k++) { // along random directions
        uint64_t rng = (uint64_t)k + 5;
        double slope = 0.0, f[4], h = 2e-3;
        float *dir = calloc(N, sizeof(float));
        for (size_t i = 0; i < N; i++) {
            dir[i] = (float)(toy_random(&rng) % 2001) / 1000.0f - 1.0f;
            if (i >= table + C && i < table + 2 * C)
                dir[i] = 0.0f; // the padding row: no gradient reaches it through the lookup
            slope += (double)dir[i] * (double)grad[i];
        }
        for (int s = 0; s < 4; s++) {
            double at = h * (s < 2 ? s - 2 : s - 1);
            for (size_t i = 0; i < N; i++) n.param[i] = x[i] + (float)at * dir[i];
            f[s] = step(&n, 0, 2, false);
        }
        double d = (8.0 * (f[2] - f[1]) - (f[3] - f[0])) / (12.0 * h);
        if (!(fabs(d - slope) <= 2e-3 * fabs(d) + 2e-3))
            fail_msg("direction %d: slope %g, differences say %g", k, slope, d);
        free(dir);
    }
    free(grad);
    free(x);
    stop(&n);
}

static void recomputation_changes_no_bit(void **state) {
    (void)state;
    for (int picked = 0; picked < 2; picked++) {
        net a = {0}, b = {0}, c = {0};
        record_net(&a, &(options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked});
        record_net(&b, &(options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked, .recompute = true});
        record_net(&c, &(options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked, .recompute = true});
        oht_run_poison(c.run, false);
        assert_true(oht_plan_bytes(b.g) < oht_plan_bytes(a.g));
        for (int k = 0; k < 2; k++) {
            double loss = step(&a, 0, 2, k);
            assert_true(loss > 0.0 && loss == step(&b, 0, 2, k) && loss == step(&c, 0, 2, k));
            assert_memory_equal(a.grad, b.grad, a.params->flat_count * sizeof(float));
            assert_memory_equal(a.grad, c.grad, a.params->flat_count * sizeof(float));
        }
        assert_true(oht_run_flops(b.run, false) == oht_run_flops(a.run, false));
        assert_true(oht_run_flops(b.run, true) > oht_run_flops(a.run, true));
        stop(&a);
        stop(&b);
        stop(&c);
    }
}

static void fewer_rows_than_capacity(void **state) {
    (void)state;
    net small = {0}, large = {0};
    record_net(&small, &(options){OHT_TRAIN, 1, .p = 0.2f});
    record_net(&large, &(options){OHT_TRAIN, 4, .p = 0.2f, .recompute = true});
    step(&large, 0, 4, false); // leaves its rows behind
    for (int64_t first = 0; first < 2; first++) {
        assert_true(step(&small, first, 1, false) == step(&large, first, 1, false));
        assert_memory_equal(small.grad, large.grad, small.params->flat_count * sizeof(float));
    }
    stop(&small);
    stop(&large);
}

static void accumulation_equals_one_batch(void **state) {
    (void)state;
    net whole = {0}, parts = {0};
    record_net(&whole, &(options){OHT_TRAIN, 4, .p = 0.2f});
    record_net(&parts, &(options){OHT_TRAIN, 3, .p = 0.2f});
    double loss = step(&whole, 0, 4, false), sum = 0.0;
    sum += step(&parts, 0, 1, false);
    sum += step(&parts, 1, 3, true); // dropout goes by the sample of the global batch
    assert_true(fabs(sum - loss) <= 1e-6 * loss);
    assert_true(distance(&parts, &whole) <= 1e-6);
    parts.run->rows = 0; // a micro-batch without rows adds nothing
    oht_run_forward(parts.run);
    oht_run_backward(parts.run);
    assert_true(parts.run->loss_sum == 0.0);
    assert_true(distance(&parts, &whole) <= 1e-6);
    sum = step(&parts, 0, 1, false) + step(&parts, 1, 1, true); // and without add_params all starts anew
    assert_true(distance(&parts, &whole) > 1e-2);
    stop(&whole);
    stop(&parts);
}

static void nothing_picked_is_zero(void **state) {
    (void)state;
    net n = {0};
    record_net(&n, &(options){OHT_TRAIN, 2, .p = 0.2f, .picked = true});
    step(&n, 0, 2, false);
    n.run->picked = 0;
    assert_true(step(&n, 0, 2, false) == 0.0);
    for (size_t i = 0; i < n.params->flat_count; i++) assert_true(n.grad[i] == 0.0f);
    stop(&n);
}

static void steps_allocate_nothing(void **state) {
    (void)state;
    net n = {0};
    record_net(&n, &(options){OHT_TRAIN, 2, .p = 0.2f, .recompute = true});
    uint64_t before = oht_alloc_count();
    for (int i = 0; i < 3; i++) step(&n, 0, 2, i > 0);
    assert_int_equal(oht_alloc_count(), before);
    stop(&n);
}

// ---- evaluation and taps ----

typedef struct looker {
    oht_observer base;
    int n, squares;
    int64_t rows;
    float scores[4 * H * T * T];
} looker;

static void look(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    looker *l = (looker *)self;
    assert_int_equal(tap->index, l->n++);
    assert_int_equal(x.dim[0], l->rows);
    assert_false(run->second_pass);
    for (int64_t i = 0; i < oht_tensor_count(x); i++) assert_true(isfinite(oht_f32(x)[i]));
    if (strstr(tap->name, ".scores")) {
        assert_int_equal(x.rank, 4);
        memcpy(l->scores, x.data, bytes_of(x));
    }
    if (strstr(tap->name, ".probs")) { // P = softmax_1 of the scores seen just before, causal
        l->squares++;
        for (int64_t r = 0; r < x.dim[0] * H * T; r++) {
            const float *s = l->scores + r * T, *p = oht_f32(x) + r * T;
            double sum = 1.0;
            for (int64_t j = 0; j <= r % T; j++) sum += exp((double)s[j]);
            for (int64_t j = 0; j < T; j++)
                assert_true(fabs((double)p[j] - (j <= r % T ? exp((double)s[j]) / sum : 0.0)) <= 1e-6);
        }
    }
}

static void evaluation_equals_training_without_dropout(void **state) {
    (void)state;
    net train = {0}, eval = {0}, inner = {0};
    record_net(&train, &(options){.mode = OHT_TRAIN, .rows = 4});
    record_net(&eval, &(options){OHT_EVAL, 4, .p = 0.5f});
    record_net(&inner, &(options){OHT_EVAL, 4, .p = 0.5f, .inner = true});
    assert_true(oht_plan_bytes(eval.g) < oht_plan_bytes(train.g) / 2);
    const oht_tap_info *tap;
    assert_int_equal(oht_graph_taps(eval.g, &tap), 4 * L);
    assert_string_equal(tap[4].name, "layer.1.ln1.out");
    assert_int_equal(tap[4].roles, OHT_IN_INF);
    assert_int_equal(tap[5].kind, OHT_TAP_NULL_MASS);
    assert_int_equal(oht_graph_taps(train.g, NULL), 4 * L);
    assert_int_equal(oht_graph_taps(inner.g, NULL), 6 * L);
    double loss = step(&train, 0, 3, false);
    net *nets[] = {&eval, &inner};
    for (int k = 0; k < 2; k++) {
        looker l = {.base = {look}, .rows = 3};
        nets[k]->run->observer = &l.base;
        feed(nets[k], 0, 3);
        oht_run_forward(nets[k]->run);
        assert_true(fabs(nets[k]->run->loss_sum - loss) <= 1e-6 * loss);
        assert_int_equal(l.n, k == 0 ? 4 * L : 6 * L);
        assert_int_equal(l.squares, k == 0 ? 0 : L);
        nets[k]->run->rows = 0; // taps see no empty rows
        oht_run_forward(nets[k]->run);
        assert_int_equal(l.n, k == 0 ? 4 * L : 6 * L);
    }
    stop(&train);
    stop(&eval);
    stop(&inner);
}

static void taps_are_silent_in_recomputation(void **state) {
    (void)state;
    net n = {0};
    record_net(&n, &(options){OHT_TRAIN, 2, .p = 0.2f, .recompute = true});
    looker l = {.base = {look}, .rows = 2};
    n.run->observer = &l.base;
    step(&n, 0, 2, false);
    assert_int_equal(l.n, 4 * L);
    stop(&n);
}

// ---- sites, FLOPs, shapes ----

static uint32_t last_site(float p_before) {
    oht_params params = {0};
    oht_param item[TOY_PARAMS];
    toy_params(&params, item);
    item[0].rank = 3;
    item[0].dim[0] = 2, item[0].dim[1] = T, item[0].dim[2] = C;
    oht_graph *g;
    assert_int_equal(oht_graph_create(&g, be, &params, OHT_TRAIN, 2, T), OHT_OK);
    oht_value x = source(g, oht_parameter(g, 0), OHT_ROWS_BATCH);
    oht_dropout(g, oht_dropout(g, x, p_before), 0.5f);
    uint32_t site = g->node[g->n_nodes - 1]->site;
    oht_graph_destroy(g);
    return site;
}

static void sites_do_not_depend_on_other_rates(void **state) {
    (void)state;
    assert_int_equal(last_site(0.0f), last_site(0.3f));
    assert_int_not_equal(last_site(0.0f), 0);
    net n = {0}; // every place of a net has its own
    record_net(&n, &(options){.mode = OHT_TRAIN, .rows = 2, .p = 0.2f});
    bool used[1 + 3 * L] = {false};
    int places = 0;
    for (int i = 0; i < n.g->n_nodes; i++) {
        const char *op = n.g->node[i]->op->name;
        if (strcmp(op, "dropout") != 0 && strcmp(op, "residual") != 0 && strcmp(op, "association") != 0)
            continue;
        uint32_t site = n.g->node[i]->site;
        assert_true(site < 1 + 3 * L && !used[site]);
        used[site] = true;
        places++;
    }
    assert_int_equal(places, 1 + 3 * L);
    stop(&n);
}

static void flops_by_hand(void **state) {
    (void)state;
    net n = {0};
    record_net(&n, &(options){.mode = OHT_TRAIN, .rows = 4});
    feed(&n, 0, 3);
    double rows = 3.0 * T, linear = 2.0 * rows * (3 * C * C + C * C + 2 * F * C), gate = 2.0 * rows * C;
    double pairs = 3.0 * T * (T + 1) / 2; // causal
    double forward = L * (linear + gate + 4.0 * pairs * C), head = 2.0 * rows * C * V;
    double backward = L * (2.0 * linear + 2.0 * gate + 10.0 * pairs * C) + 3.0 * head;
    assert_true(fabs(oht_run_flops(n.run, false) - forward) <= 1e-9 * forward);
    assert_true(fabs(oht_run_flops(n.run, true) - backward) <= 1e-9 * backward);
    oht_run *counting; // without memory
    assert_int_equal(oht_run_create(&counting, n.g, NULL, NULL, NULL), OHT_OK);
    counting->rows = 3;
    assert_true(oht_run_flops(counting, false) == oht_run_flops(n.run, false));
    assert_true(oht_run_flops(counting, true) == oht_run_flops(n.run, true));
    oht_run_destroy(counting);
    stop(&n);
}

// Values of many shapes to misuse.
typedef struct shelf {
    oht_graph *g;
    oht_value x, x2, wide, vector, matrix, tokens, labels, mask, index, row, images, picture, targets;
} shelf;

static void misuse(void (*record)(const shelf *s), const char *words) {
    oht_params *params;
    assert_int_equal(oht_params_create(&params), OHT_OK);
    add_param(params, 3, (int64_t[]){B, T, C});
    add_param(params, 3, (int64_t[]){B, T, 3 * C + 1});
    add_param(params, 1, (int64_t[]){C});
    add_param(params, 2, (int64_t[]){M, C});
    add_param(params, 3, (int64_t[]){B, T, C});
    add_param(params, 2, (int64_t[]){1, C});
    add_param(params, 4, (int64_t[]){B, 4, 4, 3});
    assert_int_equal(oht_params_layout(params), OHT_OK);
    shelf s;
    assert_int_equal(oht_graph_create(&s.g, be, params, OHT_TRAIN, B, T), OHT_OK);
    s.x = source(s.g, oht_parameter(s.g, 0), OHT_ROWS_BATCH);
    s.wide = source(s.g, oht_parameter(s.g, 1), OHT_ROWS_BATCH);
    s.vector = oht_parameter(s.g, 2);
    s.matrix = oht_parameter(s.g, 3);
    s.x2 = source(s.g, oht_parameter(s.g, 4), OHT_ROWS_FIXED);
    s.tokens = input(s.g, OHT_FIELD_TOKENS);
    s.labels = input(s.g, OHT_FIELD_LABELS);
    s.mask = input(s.g, OHT_FIELD_MASK);
    s.index = input(s.g, OHT_FIELD_POSITIONS);
    s.row = oht_parameter(s.g, 5);
    s.picture = source(s.g, oht_parameter(s.g, 6), OHT_ROWS_BATCH);
    s.images = oht_input(s.g, OHT_FIELD_IMAGES, OHT_U8, OHT_ROWS_BATCH, 4, (int64_t[]){B, 4, 6, 3});
    s.targets = oht_input(s.g, OHT_FIELD_TARGETS, OHT_F32, OHT_ROWS_BATCH, 2, (int64_t[]){B, M});
    oht_scope(s.g, "layer.7.attn");
    record(&s);
    assert_int_equal(oht_plan(s.g, OHT_NONE), OHT_INTERNAL);
    const char *text = oht_error_last()->text;
    if (!strstr(text, words) || !strstr(text, "layer.7.attn"))
        fail_msg("'%s' does not say '%s' and the scope", text, words);
    oht_graph_destroy(s.g);
    oht_params_destroy(params);
}

#define MISUSE(NAME, ...)                                                                                    \
    static void NAME(const shelf *s) {                                                                       \
        __VA_ARGS__;                                                                                         \
    }
MISUSE(bad_tokens, oht_embedding(s->g, s->x, s->matrix, -1))
MISUSE(bad_padding, oht_embedding(s->g, s->tokens, s->matrix, M))
MISUSE(bad_table, oht_add_rows(s->g, s->wide, s->matrix, 0, false))
MISUSE(bad_offset, oht_add_rows(s->g, s->x, s->matrix, M - T + 1, false))
MISUSE(bad_weight, oht_linear(s->g, s->wide, s->matrix, OHT_NONE))
MISUSE(bad_bias, oht_linear(s->g, s->x, s->matrix, s->vector))
MISUSE(no_x, oht_linear(s->g, OHT_NONE, s->matrix, OHT_NONE))
MISUSE(bad_gamma, oht_layernorm(s->g, s->wide, s->vector, s->vector, 1e-5f))
MISUSE(bad_rate, oht_dropout(s->g, s->x, 1.0f))
MISUSE(bad_dropout, oht_dropout(s->g, s->vector, 0.1f))
MISUSE(bad_sum, oht_residual(s->g, s->x, s->wide, 0.0f))
MISUSE(bad_rows, oht_residual(s->g, s->x, s->x2, 0.0f))
MISUSE(same_twice, oht_residual(s->g, s->x, s->x, 0.0f))
MISUSE(bad_qkv, oht_association(s->g, s->wide, OHT_NONE, (oht_assoc_spec){0}, H, true, 0.0f, NULL))
MISUSE(bad_mask, oht_association(s->g, oht_linear(s->g, s->x, s->matrix, OHT_NONE), s->tokens,
                                 (oht_assoc_spec){0}, 1, true, 0.0f, NULL))
MISUSE(bad_gate, oht_gate_heads(s->g, s->x, s->wide, &s->vector, 1,
                                (oht_gate){OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_gate_count,
       oht_gate_heads(s->g, s->x, s->x2, &s->vector, 1,
                      (oht_gate){OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_gate_shape,
       oht_gate_heads(s->g, s->x, s->x2, &s->vector, 1,
                      (oht_gate){OHT_GATE_UNCONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_index, oht_gather(s->g, s->x, s->tokens))
MISUSE(bad_labels, oht_lm_head(s->g, s->x, s->matrix, OHT_NONE, s->index))
MISUSE(bad_head, oht_lm_head(s->g, s->wide, s->matrix, OHT_NONE, s->labels))
MISUSE(bad_head_bias, oht_lm_head(s->g, s->x, s->matrix, s->vector, s->labels))
MISUSE(oblong_images, oht_patches(s->g, s->images, 2))
MISUSE(float_images, oht_patches(s->g, s->picture, 2))
MISUSE(no_images, oht_patches(s->g, OHT_NONE, 2))
MISUSE(bad_patch, oht_patches(s->g, s->images, 0))
MISUSE(bad_class_token, oht_prepend(s->g, s->x, s->matrix))
MISUSE(wide_class_token, oht_prepend(s->g, s->wide, s->row))
MISUSE(flat_prepend, oht_prepend(s->g, s->matrix, s->row))
MISUSE(token_prepend, oht_prepend(s->g, s->tokens, s->row))
MISUSE(flat_first, oht_first(s->g, s->matrix))
MISUSE(token_first, oht_first(s->g, s->tokens))
MISUSE(deep_class_head, oht_class_head(s->g, s->x, s->matrix, OHT_NONE, s->targets))
MISUSE(wide_class_head, oht_class_head(s->g, oht_first(s->g, s->wide), s->matrix, OHT_NONE, s->targets))
MISUSE(class_head_bias, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, s->vector, s->targets))
MISUSE(class_head_labels, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, OHT_NONE, s->labels))
MISUSE(class_head_nothing, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, OHT_NONE, OHT_NONE))
MISUSE(class_head_wide_targets, oht_class_head(s->g, oht_first(s->g, s->x), s->row, OHT_NONE, s->targets))
MISUSE(class_head_other_rows, oht_class_head(s->g, oht_first(s->g, s->x2), s->matrix, OHT_NONE, s->targets))

static void wrong_shapes_are_named(void **state) {
    (void)state;
    misuse(oblong_images, "patches: images (2,4,6,3) must be (B,S,S,3) u8, S a multiple of 2");
    misuse(float_images, "patches: images (2,4,4,3)");
    misuse(no_images, "patches: images (none)");
    misuse(bad_patch, "S a multiple of 0");
    misuse(bad_class_token, "prepend: x (2,3,8) must be (B,N,C), row (5,8) (1,C)");
    misuse(wide_class_token, "prepend: x (2,3,25)");
    misuse(flat_prepend, "prepend: x (5,8)");
    misuse(token_prepend, "prepend: x (2,3)");
    misuse(flat_first, "first: x (5,8) must be (B,T,C)");
    misuse(token_first, "first: x (2,3)");
    misuse(deep_class_head, "class_head: x (2,3,8) must be (B,C), w (5,8)");
    misuse(wide_class_head, "class_head: x (2,25)");
    misuse(class_head_bias, "class_head: bias (8) must be (5)");
    misuse(class_head_labels, "class_head: targets (2,3) must be (B,V) f32, one for each row of x (2,8)");
    misuse(class_head_nothing, "class_head: targets (none)");
    misuse(class_head_wide_targets, "class_head: targets (2,5)");
    misuse(class_head_other_rows, "class_head: targets (2,5)");
    misuse(bad_tokens, "embedding: tokens (2,3,8)");
    misuse(bad_padding, "embedding: padding id 5 of a table of 5 rows");
    misuse(bad_table, "add_rows: x (2,3,25) must be (B,T,C), table (5,8)");
    misuse(bad_offset, "add_rows: rows 3 to 5 of a table of 5");
    misuse(bad_weight, "linear: x (2,3,25) must be (...,K), w (5,8)");
    misuse(bad_bias, "linear: bias (8) must be (5)");
    misuse(no_x, "linear: x (none)");
    misuse(bad_gamma, "layernorm: x (2,3,25)");
    misuse(bad_rate, "p = 1 in [0,1)");
    misuse(bad_dropout, "dropout: x (8)");
    misuse(bad_sum, "residual: x (2,3,8) and f (2,3,25)");
    misuse(bad_rows, "residual: x (2,3,8) and f (2,3,8)");
    misuse(same_twice, "residual takes source twice");
    misuse(bad_qkv, "association: qkv (2,3,25) must be (B,T,3C) with C a multiple of 2 heads");
    misuse(bad_mask, "association:");
    misuse(bad_gate, "gate: x (2,3,8) and context (2,3,25)");
    misuse(bad_gate_count, "gate: 1 parameters, this form has 2");
    misuse(bad_gate_shape, "gate: parameter 0 (p2) is (8), expected (2)");
    misuse(bad_index, "gather: x (2,3,8) must be (B,T,C), index (2,3)");
    misuse(bad_labels, "lm_head: labels (4) must be i32, one for each row of x (2,3,8)");
    misuse(bad_head, "lm_head: x (2,3,25)");
    misuse(bad_head_bias, "lm_head: bias (8) must be (5)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_central_differences),
        cmocka_unit_test(head_in_chunks_equals_double),
        cmocka_unit_test(whole_net_gradient),
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(fewer_rows_than_capacity),
        cmocka_unit_test(accumulation_equals_one_batch),
        cmocka_unit_test(nothing_picked_is_zero),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(evaluation_equals_training_without_dropout),
        cmocka_unit_test(taps_are_silent_in_recomputation),
        cmocka_unit_test(sites_do_not_depend_on_other_rates),
        cmocka_unit_test(flops_by_hand),
        cmocka_unit_test(wrong_shapes_are_named),
    };
    return cmocka_run_group_tests(tests, create_backend, destroy_backend);
}
