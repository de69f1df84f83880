// Recording errors, and runs of random graphs compared bit by bit with an interpreter that gives every tensor
// its own memory: with and without recomputation, with poison, over several micro-batches.
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

enum { FLAT = 128, ROWS = 2, TOKENS = 3, MOST_TAPS = 64 };

// ---- interpreter ----

typedef struct interpreter {
    const oht_graph *g;
    float **value, **grad; // per value
    bool *written;
    const int32_t *tokens;
} interpreter;

static float at(const interpreter *t, oht_value v, int64_t e) {
    const graph_value *x = &t->g->value[v.id];
    int64_t i = e % oht_tensor_count(x->shape);
    return x->kind == VALUE_INPUT ? (float)t->tokens[i] : t->value[v.id][i];
}

static void interpret_forward(interpreter *t, const float *param, const int32_t *tokens) {
    const oht_graph *g = t->g;
    t->tokens = tokens;
    for (int i = 0; i < g->n_values; i++)
        if (g->value[i].kind == VALUE_PARAM)
            memcpy(t->value[i], param + g->value[i].flat, value_bytes(&g->value[i]));
    for (int n = 0; n < g->n_nodes; n++) {
        const oht_node *node = g->node[n];
        if (node->op != &TOY_OP) continue;
        const toy_attr *attr = node->attr;
        for (int64_t e = 0; e < oht_tensor_count(g->value[node->out[0].id].shape); e++) {
            float sum = 0.01f * (float)e;
            for (int i = 0; i < node->n_in; i++) sum += attr->a[i] * at(t, node->in[i], e);
            t->value[node->out[0].id][e] = sum;
            if (node->n_out > 1) t->value[node->out[1].id][e] = sum - at(t, node->in[0], e);
        }
    }
}

static void interpret_backward(interpreter *t, int loss, float scale, bool add_params) {
    const oht_graph *g = t->g;
    for (int i = 0; i < g->n_values; i++) {
        if (!(g->value[i].kind == VALUE_PARAM && add_params))
            memset(t->grad[i], 0, value_bytes(&g->value[i]));
        t->written[i] = i == loss;
    }
    for (int64_t e = 0; e < oht_tensor_count(g->value[loss].shape); e++) t->grad[loss][e] = scale;
    for (int n = g->value[loss].node; n >= 0; n--) {
        const oht_node *node = g->node[n];
        if (node->op != &TOY_OP || !t->written[node->out[0].id]) continue;
        const toy_attr *attr = node->attr;
        for (int i = 0; i < node->n_in; i++) {
            const graph_value *x = &g->value[node->in[i].id];
            if (!x->needs_grad) continue;
            t->written[node->in[i].id] = true;
            for (int64_t e = 0; e < oht_tensor_count(g->value[node->out[0].id].shape); e++) {
                float d = attr->a[i];
                for (int k = 0; k < node->n_in && i != node->share_grad; k++)
                    if (node->keep_in >> k & 1u) d += 0.125f * at(t, node->in[k], e);
                for (int k = 0; k < node->n_out && i != node->share_grad; k++)
                    if (node->keep_out >> k & 1u) d += 0.125f * at(t, node->out[k], e);
                t->grad[node->in[i].id][e % oht_tensor_count(x->shape)] += t->grad[node->out[0].id][e] * d;
            }
        }
    }
}

static interpreter interpreter_create(const oht_graph *g) {
    interpreter t = {.g = g,
                     .value = calloc((size_t)g->n_values, sizeof(float *)),
                     .grad = calloc((size_t)g->n_values, sizeof(float *)),
                     .written = calloc((size_t)g->n_values, sizeof(bool))};
    for (int i = 0; i < g->n_values; i++) {
        t.value[i] = calloc(1, value_bytes(&g->value[i]));
        t.grad[i] = calloc(1, value_bytes(&g->value[i]));
    }
    return t;
}

static void interpreter_destroy(interpreter *t) {
    for (int i = 0; i < t->g->n_values; i++) {
        free(t->value[i]);
        free(t->grad[i]);
    }
    free(t->value);
    free(t->grad);
    free(t->written);
}

// ---- an observer that compares what it sees with the interpreter ----

typedef struct watcher {
    oht_observer base;
    const interpreter *truth;
    int seen[MOST_TAPS], n;
} watcher;

static void see(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    watcher *w = (watcher *)self;
    const oht_graph *g = run->graph;
    assert_false(run->second_pass);
    assert_int_equal(tap->index, w->n); // in the order of recording
    w->seen[w->n++] = tap->index;
    for (int n = 0; n < g->n_nodes; n++) {
        const oht_node *node = g->node[n];
        if (node->op == &TOY_OP || *(const int *)node->attr != tap->index) continue;
        for (int64_t e = 0; e < oht_tensor_count(x); e++)
            assert_true(oht_f32(x)[e] == at(w->truth, node->in[0], e));
    }
}

// ---- runs ----

static void check_gradient(const interpreter *t, const float *grad, const float *old) {
    bool used[FLAT] = {false};
    const oht_graph *g = t->g;
    for (int i = 0; i < g->n_values; i++) {
        const graph_value *v = &g->value[i];
        if (v->kind != VALUE_PARAM || !t->written[i]) continue;
        assert_memory_equal(grad + v->flat, t->grad[i], value_bytes(v));
        for (int64_t k = 0; k < oht_tensor_count(v->shape); k++) used[v->flat + (size_t)k] = true;
    }
    for (size_t i = 0; i < g->params->flat_count; i++)
        if (!used[i]) assert_true(grad[i] == 0.0f); // padding and unused parameters
    for (size_t i = g->params->flat_count; i < FLAT; i++) assert_true(grad[i] == old[i]);
}

// Returns the gradient of three micro-batches, the last two accumulated.
static bool run_variant(const toy_options *opt, bool poison, float *grad) {
    oht_backend be;
    oht_params params;
    oht_param item[TOY_PARAMS];
    toy_backend(&be);
    toy_params(&params, item);
    assert_true(params.flat_count < FLAT);
    oht_value loss;
    oht_graph *g = toy_graph(&be, &params, *opt, &loss);
    if (oht_plan(g, loss) != OHT_OK) {
        oht_graph_destroy(g);
        return false;
    }
    float param[FLAT], garbage[FLAT];
    for (int i = 0; i < FLAT; i++) {
        param[i] = 0.1f * (float)(i % 17) - 0.7f;
        garbage[i] = grad[i] = 1e30f + 1e28f * (float)i;
    }
    void *arena = aligned_alloc(64, oht_plan_bytes(g) + 64);
    memset(arena, 0x7f, oht_plan_bytes(g));
    oht_run *run;
    assert_int_equal(oht_run_create(&run, g, arena, param, grad), OHT_OK);
    oht_run_poison(run, poison);
    interpreter truth = interpreter_create(g);
    watcher w = {.base = {see}, .truth = &truth};
    run->rows = ROWS;
    run->observer = &w.base;
    uint64_t allocations = oht_alloc_count();
    for (int micro = 0; micro < 3; micro++) {
        int32_t tokens[ROWS * TOKENS];
        for (int i = 0; i < ROWS * TOKENS; i++) tokens[i] = (7 * i + 3 * micro) % 5 - 2;
        run->add_params = micro == 2;
        run->loss_scale = 0.5f / (float)(1 + micro);
        interpret_forward(&truth, param, tokens);
        interpret_backward(&truth, loss.id, run->loss_scale, run->add_params);
        oht_run_feed(run, OHT_FIELD_TOKENS, tokens, sizeof(tokens));
        w.n = 0;
        oht_run_forward(run);
        assert_int_equal(w.n, oht_graph_taps(g, NULL));
        assert_memory_equal(
            run->arena + g->buffer[g->value[loss.id].place[0]].offset, truth.value[loss.id],
            poison ? 0 : value_bytes(&g->value[loss.id])); // (a loss nobody reads is dead, so poisoned)
        oht_run_backward(run);
        assert_int_equal(w.n, oht_graph_taps(g, NULL)); // recomputation is silent
        check_gradient(&truth, grad, garbage);
    }
    assert_int_equal(oht_alloc_count(), allocations);
    interpreter_destroy(&truth);
    oht_run_destroy(run);
    oht_graph_destroy(g);
    free(arena);
    return true;
}

static void random_graphs_run_as_interpreted(void **state) {
    (void)state;
    int n = 0;
    for (uint64_t seed = 1000; seed < 1500; seed++) {
        float plain[FLAT], other[FLAT];
        toy_options opt = {seed, 2 + (int)(seed % 30), OHT_TRAIN, false};
        if (!run_variant(&opt, false, plain)) continue;
        n++;
        assert_true(run_variant(&opt, true, other));
        assert_memory_equal(plain, other, sizeof(plain));
        opt.blocks = true;
        assert_true(run_variant(&opt, false, other));
        assert_memory_equal(plain, other, sizeof(plain));
        assert_true(run_variant(&opt, true, other));
        assert_memory_equal(plain, other, sizeof(plain));
    }
    assert_true(n > 200);
}

// ---- a lie about keep must show under poison ----

typedef struct small {
    oht_backend be;
    oht_params params;
    oht_param item[TOY_PARAMS];
    oht_graph *g;
} small;

static void small_create(small *s, oht_mode mode) {
    toy_backend(&s->be);
    toy_params(&s->params, s->item);
    assert_int_equal(oht_graph_create(&s->g, &s->be, &s->params, mode, ROWS, TOKENS), OHT_OK);
}

static oht_value toy(small *s, oht_value a, oht_value b, int64_t n) {
    toy_attr attr = {{1.0f, 1.0f}};
    oht_value in[] = {a, b};
    oht_node *node = oht_node_new(s->g, &TOY_OP, in, b.id >= 0 ? 2 : 1, &attr, sizeof(attr));
    return node ? oht_node_output(s->g, node, OHT_F32, OHT_ROWS_FIXED, 1, &n) : OHT_NONE;
}

static void poison_shows_stale_reads(void **state) {
    (void)state;
    small s;
    small_create(&s, OHT_TRAIN);
    oht_value x = toy(&s, oht_parameter(s.g, 0), OHT_NONE, 20), y = toy(&s, x, OHT_NONE, 20),
              z = toy(&s, y, OHT_NONE, 20);
    assert_int_equal(oht_plan(s.g, z), OHT_OK);
    float param[FLAT] = {0}, grad[FLAT];
    void *arena = aligned_alloc(64, oht_plan_bytes(s.g) + 64);
    oht_run *run;
    setenv("OHT_POISON", "1", 1);
    assert_int_equal(oht_run_create(&run, s.g, arena, param, grad), OHT_OK);
    unsetenv("OHT_POISON");
    run->rows = ROWS;
    oht_run_forward(run);
    // Nobody keeps x: in backward it is not to be had at all, and where it was there is NaN.
    const float *old = (const float *)(run->arena + s.g->buffer[s.g->value[x.id].place[0]].offset);
    assert_true(old[0] != old[0]);
    assert_int_equal(s.g->value[x.id].place[1], -1);
    oht_run_backward(run);
    for (size_t i = 0; i < s.params.flat_count; i++) assert_true(grad[i] == grad[i]);
    oht_run_destroy(run);
    oht_graph_destroy(s.g);
    free(arena);
}

static void no_rows_means_zero_gradient(void **state) {
    (void)state;
    small s;
    small_create(&s, OHT_TRAIN);
    oht_value z = toy(&s, oht_parameter(s.g, 0), OHT_NONE, 20);
    assert_int_equal(oht_plan(s.g, z), OHT_OK);
    float param[FLAT] = {0}, grad[FLAT], before[FLAT];
    void *arena = aligned_alloc(64, oht_plan_bytes(s.g) + 64);
    oht_run *run;
    assert_int_equal(oht_run_create(&run, s.g, arena, param, grad), OHT_OK);
    for (int i = 0; i < FLAT; i++) grad[i] = 5.0f;
    memcpy(before, grad, sizeof(grad));
    run->rows = 0;
    run->loss_sum = 3.0;
    run->add_params = true;
    oht_run_forward(run);
    oht_run_backward(run);
    assert_true(run->loss_sum == 0.0);
    assert_memory_equal(grad, before, sizeof(grad)); // zero added
    run->add_params = false;
    oht_run_backward(run);
    for (size_t i = 0; i < FLAT; i++) assert_true(grad[i] == (i < s.params.flat_count ? 0.0f : 5.0f));
    oht_run_destroy(run);
    oht_graph_destroy(s.g);
    free(arena);
}

// ---- profile and FLOPs ----

static void keep_line(void *ctx, const char *op, double fwd_s, double bwd_s, double flops) {
    double *sum = ctx;
    assert_true(strcmp(op, "toy") == 0 || strcmp(op, "tap") == 0);
    sum[0] += fwd_s;
    sum[1] += bwd_s;
    sum[2] += flops;
    sum[3] += 1.0;
}

static void profile_counts_what_ran(void **state) {
    (void)state;
    small s;
    small_create(&s, OHT_TRAIN);
    oht_value p = oht_parameter(s.g, 0);
    oht_block_begin(s.g);
    oht_value x = toy(&s, p, OHT_NONE, 10), y = toy(&s, x, OHT_NONE, 20);
    s.g->node[1]->keep_in = 1; // x must come back
    oht_block_end(s.g);
    oht_tap(s.g, y, "y", OHT_TAP_TOKEN, 0, -1);
    oht_value z = toy(&s, y, OHT_NONE, 40);
    assert_int_equal(oht_plan(s.g, z), OHT_OK);
    float param[FLAT] = {0}, grad[FLAT];
    void *arena = aligned_alloc(64, oht_plan_bytes(s.g) + 64);
    oht_run *run;
    assert_int_equal(oht_run_create(&run, s.g, arena, param, grad), OHT_OK);
    run->rows = 1;
    assert_true(oht_run_flops(run, false) == 10 + 20 + 40);
    assert_true(oht_run_flops(run, true) == 2 * (10 + 20 + 40) + 10); // and x once more
    double sum[4] = {0};
    oht_run_forward(run); // not counted: off by default
    oht_run_profile(run, true);
    for (int i = 0; i < 3; i++) {
        oht_run_forward(run);
        oht_run_backward(run);
    }
    oht_run_profile_report(run, keep_line, sum);
    assert_true(sum[2] == 3 * (70 + 150));
    assert_true(sum[3] == 2);
    assert_true(sum[0] > 0.0 && sum[1] > 0.0);
    oht_run_profile(run, false);
    double zero[4] = {0};
    oht_run_profile_report(run, keep_line, zero);
    assert_true(zero[0] == 0.0 && zero[1] == 0.0 && zero[2] == 0.0);
    oht_run_destroy(run);
    oht_graph_destroy(s.g);
    free(arena);
}

// ---- recording errors ----

// Plans, expects failure with these words, and destroys.
static void fails_with(small *s, oht_value loss, const char *words) {
    assert_int_not_equal(oht_plan(s->g, loss), OHT_OK);
    if (!strstr(oht_error_last()->text, words))
        fail_msg("'%s' does not say '%s'", oht_error_last()->text, words);
    oht_graph_destroy(s->g);
}

static void errors_stick(void **state) {
    (void)state;
    small s;
    int64_t n = 4, bad = 0, batch = 7, five[5] = {1, 1, 1, 1, 1};

    small_create(&s, OHT_TRAIN);
    oht_scope(s.g, "layer.%d", 3);
    assert_int_equal(oht_graph_fail(s.g, "first %d", 1).id, -1);
    oht_graph_fail(s.g, "second");
    assert_int_equal(oht_parameter(s.g, 0).id, -1); // nothing is recorded any more
    assert_int_equal(oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_FIXED, 1, &n).id, -1);
    assert_null(oht_node_new(s.g, &TOY_OP, (oht_value[]){{0}}, 1, NULL, 0));
    assert_int_equal(oht_tap(s.g, OHT_NONE, "t", OHT_TAP_TOKEN, 0, 0).id, -1);
    (void)oht_error_set(OHT_IO, "x", 1, "somebody else's error in between");
    fails_with(&s, OHT_NONE, "recording layer.3: first 1");

    small_create(&s, OHT_TRAIN);
    oht_value x = toy(&s, oht_parameter(s.g, 0), OHT_NONE, 20);
    toy(&s, x, x, 20);
    fails_with(&s, x, "takes toy twice");

    small_create(&s, OHT_TRAIN);
    toy(&s, oht_parameter(s.g, TOY_PARAMS), OHT_NONE, 20);
    fails_with(&s, OHT_NONE, "parameters 6 to 6 of a table of 6");

    small_create(&s, OHT_TRAIN);
    oht_parameter_group(s.g, 1, 2); // padding between them
    fails_with(&s, OHT_NONE, "p2 cannot be stacked under p1");

    small_create(&s, OHT_TRAIN);
    oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_FIXED, 1, &n);
    oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_FIXED, 1, &n);
    fails_with(&s, OHT_NONE, "'mask' is declared twice");

    small_create(&s, OHT_TRAIN);
    oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_FIXED, 1, &bad);
    fails_with(&s, OHT_NONE, "dimension 0 is 0");
    small_create(&s, OHT_TRAIN);
    oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_BATCH, 1, &batch);
    fails_with(&s, OHT_NONE, "7 samples in a graph for 2");
    small_create(&s, OHT_TRAIN);
    oht_input(s.g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_FIXED, 5, five);
    fails_with(&s, OHT_NONE, "rank 5");

    small_create(&s, OHT_TRAIN);
    oht_block_begin(s.g);
    oht_block_begin(s.g);
    fails_with(&s, OHT_NONE, "inside another");
    small_create(&s, OHT_TRAIN);
    oht_block_end(s.g);
    fails_with(&s, OHT_NONE, "did not begin");
    small_create(&s, OHT_TRAIN);
    oht_block_begin(s.g);
    fails_with(&s, toy(&s, oht_parameter(s.g, 0), OHT_NONE, 4), "does not end");

    small_create(&s, OHT_TRAIN);
    fails_with(&s, OHT_NONE, "empty");
    small_create(&s, OHT_TRAIN);
    toy(&s, oht_parameter(s.g, 0), OHT_NONE, 4);
    fails_with(&s, OHT_NONE, "needs a loss");
    small_create(&s, OHT_TRAIN);
    oht_scope(s.g, "%080d", 1);
    fails_with(&s, OHT_NONE, "longer than 63");
    small_create(&s, OHT_TRAIN);
    x = toy(&s, oht_parameter(s.g, 0), OHT_NONE, 4);
    oht_tap(s.g, x, "t", OHT_TAP_TOKEN, 0, 0);
    oht_tap(s.g, x, "t", OHT_TAP_TOKEN, 0, 0);
    fails_with(&s, OHT_NONE, "recorded twice");

    oht_graph *g;
    assert_int_equal(oht_graph_create(&g, &s.be, &s.params, OHT_TRAIN, 0, 3), OHT_CONFIG);
    assert_null(g);
}

static void one_parameter_has_one_owner(void **state) {
    (void)state;
    small s;
    small_create(&s, OHT_TRAIN);
    s.item[3].dim[0] = s.item[3].count = 4;
    s.item[4].dim[0] = s.item[4].count = 5;
    s.item[4].offset = s.item[3].offset + 4; // 3 and 4 in a row
    oht_value both = oht_parameter_group(s.g, 3, 2);
    assert_int_equal(oht_shape(s.g, both).dim[0], 9);
    assert_int_equal(oht_parameter_group(s.g, 3, 2).id, both.id); // tied: the same value
    assert_int_equal(oht_parameter(s.g, 1).id, oht_parameter(s.g, 1).id);
    assert_int_equal(oht_parameter(s.g, -1).id, -1);
    oht_value x = toy(&s, both, oht_parameter(s.g, 4), 20);
    fails_with(&s, x, "overlap in the flat buffer");
}

static void runs_need_a_plan(void **state) {
    (void)state;
    small s;
    small_create(&s, OHT_TRAIN);
    oht_value x = toy(&s, oht_parameter(s.g, 0), OHT_NONE, 4);
    oht_run *run;
    float buffer[FLAT];
    assert_int_equal(oht_run_create(&run, s.g, buffer, buffer, buffer), OHT_INTERNAL);
    assert_int_equal(oht_plan(s.g, x), OHT_OK);
    assert_int_equal(oht_run_create(&run, s.g, buffer, buffer, NULL), OHT_INTERNAL);
    fails_with(&s, x, "planned already");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_graphs_run_as_interpreted),
        cmocka_unit_test(poison_shows_stale_reads),
        cmocka_unit_test(no_rows_means_zero_gradient),
        cmocka_unit_test(profile_counts_what_ran),
        cmocka_unit_test(errors_stick),
        cmocka_unit_test(one_parameter_has_one_owner),
        cmocka_unit_test(runs_need_a_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
