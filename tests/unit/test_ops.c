// Gradients of every operation through the graph, on the CPU backend, against central differences: alone, where it
// overwrites, and with all its inputs used a second time, where it adds. And the language model's head in chunks against
// double precision. Kernels themselves are tested against golden vectors elsewhere.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net.h"

enum { M = 5, MOST = 8 };

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

static oht_value rec_embedding(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_embedding(g, net_input(g, OHT_FIELD_TOKENS), v[0], -1);
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
    oht_value mask = r->masked ? net_input(g, OHT_FIELD_MASK) : OHT_NONE;
    return oht_association(g, v[0], mask, r->f, H, r->causal, r->p, NULL);
}
static oht_value rec_gate(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_gate_heads(g, v[0], v[1], v + 2, r->n_params - 2, r->gate, NULL);
}
static oht_value rec_gather(oht_graph *g, const oht_value *v, const recipe *r) {
    (void)r;
    return oht_gather(g, v[0], net_input(g, OHT_FIELD_POSITIONS));
}
static oht_value rec_lm_head(oht_graph *g, const oht_value *v, const recipe *r) {
    return oht_lm_head(g, v[0], v[1], r->n_params > 2 ? v[2] : OHT_NONE, net_input(g, OHT_FIELD_LABELS));
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
    oht_value x = oht_embedding(g, net_input(g, OHT_FIELD_TOKENS), v[0], -1);
    return oht_lm_head(g, x, v[0], v[1], net_input(g, OHT_FIELD_LABELS));
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
    for (int i = 0; i < r->n_params; i++) net_param(n->params, r->param[i].rank, r->param[i].dim);
    assert_int_equal(oht_params_layout(n->params), OHT_OK);
    assert_int_equal(oht_graph_create(&n->g, net_backend, n->params, OHT_TRAIN, B, T), OHT_OK);
    oht_value v[MOST + 1];
    for (int i = 0; i < r->n_params; i++) {
        v[i] = oht_parameter(n->g, i);
        if (r->param[i].rows != OHT_ROWS_FIXED) v[i] = net_source(n->g, v[i], r->param[i].rows);
    }
    n->loss = r->record(n->g, v, r);
    if (r->is_loss) return;
    v[r->n_params] = n->loss;
    n->loss = used_again ? net_weigh(n->g, v, r->n_params + 1) : net_weigh(n->g, v + r->n_params, 1);
}

static double loss_at(net *n) {
    net_feed(n, 0, B);
    oht_run_forward(n->run);
    if (n->run->loss_sum == 0.0) oht_run_backward(n->run); // the head computes its loss there
    return n->run->loss_sum;
}

static void check_recipe(const recipe *r, bool used_again) {
    net n = {0};
    record_recipe(&n, r, used_again);
    net_start(&n);
    n.run->loss_scale = 0.5f;
    net_feed(&n, 0, B);
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
    net_stop(&n);
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
        net_param(n.params, 3, (int64_t[]){2, LONG, W});
        net_param(n.params, 2, (int64_t[]){WORDS, W});
        net_param(n.params, 1, (int64_t[]){WORDS});
        assert_int_equal(oht_params_layout(n.params), OHT_OK);
        assert_int_equal(oht_graph_create(&n.g, net_backend, n.params, train ? OHT_TRAIN : OHT_EVAL, 2, LONG), OHT_OK);
        oht_value x = net_source(n.g, oht_parameter(n.g, 0), OHT_ROWS_BATCH);
        n.loss =
            oht_lm_head(n.g, x, oht_parameter(n.g, 1), oht_parameter(n.g, 2), net_input(n.g, OHT_FIELD_LABELS));
        net_start(&n);
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
        net_stop(&n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_central_differences),
        cmocka_unit_test(head_in_chunks_equals_double),
    };
    return cmocka_run_group_tests(tests, net_create_backend, net_destroy_backend);
}
