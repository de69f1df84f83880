// Hopfield layers alone: results and gradients against golden vectors (stanhop.json), retrievals before the last
// association, learned states, static projections.
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "golden.h"
#include "models/hopfield.h"
#include "oht/model.h"

static json_t *golden;
static oht_backend *be;

static int load(void **state) {
    (void)state;
    golden = golden_load("stanhop");
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}
static int unload(void **state) {
    (void)state;
    json_decref(golden);
    oht_backend_destroy(be);
    return 0;
}

static double norm_of(const float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

// A parameter (1,...) as the batch of one sample, and loss = sum of weight x.
static void weigh_forward(oht_run *run, const oht_node *node) {
    const float *w = *(const float *const *)node->attr;
    oht_tensor x = oht_get(run, node->in[0]);
    double *sum = oht_loss_of(run, false).sum;
    for (int64_t i = 0; i < oht_tensor_count(x); i++) *sum += (double)w[i] * (double)oht_f32(x)[i];
}
static void weigh_backward(oht_run *run, const oht_node *node) {
    const float *w = *(const float *const *)node->attr;
    oht_tensor d = oht_get_grad(run, node->in[0]);
    memcpy(d.data, w, (size_t)oht_tensor_count(d) * sizeof(float));
}
static const oht_op WEIGH = {"weigh", weigh_forward, weigh_backward, NULL};

typedef struct layer {
    oht_params *table;
    oht_graph *g;
    oht_run *run;
    void *arena;
    float *param, *grad;
    oht_value out;
    float seen[64];
} layer;

static int add(oht_params *t, const char *name, int rank, const int64_t *dim) {
    oht_param p = {.rank = rank, .zero_row = -1, .group = -1};
    int id;
    snprintf(p.name, sizeof p.name, "%s", name);
    memcpy(p.dim, dim, (size_t)rank * sizeof *dim);
    OK(oht_params_add(t, &p, &id));
    return id;
}

typedef enum layer_kind { GIVEN, LEARNED_STORED, LEARNED_STATE } layer_kind;

// weight: d loss / d result. state, stored: (1,G,L,C), (1,G,S,C).
static void start_layer(layer *l, layer_kind kind, const hopfield_style *style, int64_t G, int64_t L, int64_t S, const float *weight) {
    memset(l, 0, sizeof *l);
    OK(oht_params_create(&l->table));
    const int state = add(l->table, "state", 4, (int64_t[]){1, G, L, style->width}),
              stored = add(l->table, "stored", 4, (int64_t[]){1, G, S, style->width});
    registrar r = {.params = l->table};
    reg_prefix(&r, "hop.", "hop.", -1);
    hopfield_params p;
    hopfield_register(&r, style, &p);
    OK(r.status);
    OK(oht_params_layout(l->table));
    OK(oht_graph_create(&l->g, be, l->table, OHT_TRAIN, 1, 1));
    oht_value x = oht_repeat(l->g, oht_parameter(l->g, state)), y = oht_repeat(l->g, oht_parameter(l->g, stored));
    l->out = kind == GIVEN            ? hopfield_record(l->g, style, &p, x, y, NULL)
             : kind == LEARNED_STORED ? hopfield_layer_record(l->g, style, &p, x, NULL)
                                      : hopfield_pooling_record(l->g, style, &p, y, NULL);
    oht_tap(l->g, l->out, "out", OHT_TAP_SEQUENCE, 0, 0);
    oht_node *node = oht_node_new(l->g, &WEIGH, &l->out, 1, &weight, sizeof weight);
    int64_t one = 1;
    OK(oht_plan(l->g, node ? oht_node_output(l->g, node, OHT_F32, OHT_ROWS_FIXED, 1, &one) : OHT_NONE));
    OK(be->alloc(be, &l->arena, oht_plan_bytes(l->g), "arena"));
    l->param = calloc(l->table->flat_count, sizeof(float));
    l->grad = calloc(l->table->flat_count, sizeof(float));
    OK(oht_run_create(&l->run, l->g, l->arena, l->param, l->grad));
    oht_run_poison(l->run, true);
    l->run->rows = 1;
}

static layer *watched;
static void see_layer(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    (void)self, (void)run, (void)tap;
    assert_true(oht_tensor_count(x) <= 64);
    memcpy(watched->seen, x.data, (size_t)oht_tensor_count(x) * sizeof(float));
}
static double run_layer(layer *l) {
    oht_observer o = {see_layer};
    watched = l;
    l->run->observer = &o;
    oht_run_forward(l->run);
    oht_run_backward(l->run);
    return l->run->loss_sum;
}
static float *value(const layer *l, const char *name, bool gradient) {
    const oht_param *p = oht_params_find(l->table, name);
    if (!p) fail_msg("no parameter %s", name);
    return (gradient ? l->grad : l->param) + p->offset;
}
static void stop_layer(layer *l) {
    oht_run_destroy(l->run);
    oht_graph_destroy(l->g);
    oht_params_destroy(l->table);
    be->free(be, l->arena);
    free(l->param);
    free(l->grad);
}

static void equal(const char *what, size_t at, const float *got, const json_t *want, double tolerance) {
    size_t n;
    double *w = golden_doubles(want, NULL, &n);
    for (size_t i = 0; i < n; i++) golden_near(what, at, (double)got[i], w[i], tolerance);
    free(w);
}

static void layers_match(void **state) {
    (void)state;
    const json_t *all = golden_get(golden, "hopfield_layers");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        const int64_t B = (int64_t)golden_number(c, "B"), L = (int64_t)golden_number(c, "L"), S = (int64_t)golden_number(c, "S"),
                      C = (int64_t)golden_number(c, "d");
        const bool pool = strcmp(golden_string(c, "layer"), "HopfieldPooling") == 0;
        const char *mode = golden_string(c, "mode");
        hopfield_style style = {.width = C, .connected = true, .patterns = pool ? S : 0};
        style.assoc = (oht_hopfield){.heads = (int)golden_number(c, "H"), .mix = json_is_true(golden_get(c, "mix")), .alpha_range = 2.0f};
        style.assoc.f.kind = strcmp(mode, "softmax1") == 0 ? OHT_SOFTMAX1 : strcmp(mode, "sparsemax") == 0 ? OHT_SPARSEMAX : OHT_SOFTMAX;
        style.assoc.learns_alpha = strcmp(mode, "entmax") == 0;
        float weight[64];
        golden_fill(weight, (size_t)(B * L * C), 3);
        layer l;
        start_layer(&l, pool ? LEARNED_STORED : GIVEN, &style, B, L, S, weight);
        int seed = 20;
        for (int k = 2; k < l.table->n; k++) {
            const oht_param *p = &l.table->item[k];
            if (strcmp(p->name, "hop.alpha") == 0) {
                l.param[p->offset] = 0.3f;
                continue;
            }
            golden_fill(l.param + p->offset, (size_t)p->count, seed++);
            for (int64_t e = 0; strcmp(p->name, "hop.key") == 0 && e < p->count; e++) l.param[p->offset + (size_t)e] *= 2.0f;
        }
        golden_fill(value(&l, "state", false), (size_t)(B * L * C), 1);
        golden_fill(value(&l, "stored", false), (size_t)(B * S * C), 2);
        for (int64_t e = 0; e < B * L * C; e++) value(&l, "state", false)[e] *= 2.0f;
        for (int64_t e = 0; e < B * S * C; e++) value(&l, "stored", false)[e] *= 2.0f;
        run_layer(&l);
        equal("result", i, l.seen, golden_get(c, "y"), 2e-6);
        equal("d state", i, value(&l, "state", true), golden_get(c, "dq"), 5e-6);
        if (!pool) equal("d stored", i, value(&l, "stored", true), golden_get(c, "dstored"), 5e-6);
        int seen = 0;
        for (int k = 2; k < l.table->n; k++) {
            const oht_param *p = &l.table->item[k];
            const json_t *want = golden_get(golden_get(c, "grads"), p->hf_name + 4);
            equal(p->name, i, l.grad + p->offset, golden_get(want, "first"), 5e-6);
            golden_near(p->name, i, norm_of(l.grad + p->offset, p->count), golden_number(want, "l2"), 5e-6);
            seen++;
        }
        assert_int_equal(seen, json_object_size(golden_get(c, "grads")));
        stop_layer(&l);
    }
}

// Retrievals before the last association, everything static: the result is P times the stored patterns.
static void iteration_matches(void **state) {
    (void)state;
    const json_t *all = golden_get(golden_get(golden, "hopfield_iteration"), "results");
    int seen = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        const int associations = (int)golden_number(c, "associations");
        // to convergence: with room for more steps than it takes
        const bool settles = golden_number(c, "update_steps_max") < 0;
        hopfield_style style = {.width = 3, .steps = settles ? 40 : associations - 1, .eps = settles ? 1e-4 : 0.0, .static_query = true, .static_key = true, .static_value = true, .static_out = true};
        style.assoc = (oht_hopfield){.heads = 1, .beta = 4.0f};
        float weight[6] = {1, -2, 3, -4, 5, -6};
        layer l;
        start_layer(&l, GIVEN, &style, 1, 2, 4, weight);
        assert_int_equal(l.table->n, 2);
        float *x = value(&l, "state", false), *y = value(&l, "stored", false);
        golden_fill(x, 6, 32);
        golden_fill(y, 12, 31);
        for (int e = 0; e < 6; e++) x[e] *= 2.0f;
        for (int e = 0; e < 12; e++) y[e] *= 2.0f;
        run_layer(&l);
        double *p = golden_doubles(c, "p", NULL);
        for (int r = 0; r < 2; r++)
            for (int d = 0; d < 3; d++) {
                double want = 0.0;
                for (int j = 0; j < 4; j++) want += p[r * 4 + j] * (double)y[j * 3 + d];
                golden_near("retrieved pattern", i, (double)l.seen[r * 3 + d], want, 2e-5);
            }
        // through all steps: slope along one direction
        float kept[12];
        memcpy(kept, value(&l, "stored", true), sizeof kept);
        double d = 0.0, slope = 0.0;
        for (int e = 0; e < 12; e++) d += (double)kept[e] * cos((double)e);
        for (int side = -1; side <= 1; side += 2) {
            for (int e = 0; e < 12; e++) y[e] += (float)(2e-3 * side * cos((double)e));
            slope += side * run_layer(&l) / 4e-3;
            for (int e = 0; e < 12; e++) y[e] -= (float)(2e-3 * side * cos((double)e));
        }
        golden_near("slope", i, d, slope, settles ? 5e-2 : 2e-2); // float, up to 23 steps deep; another step more or less is about eps
        free(p);
        stop_layer(&l);
        seen++;
    }
    assert_int_equal(seen, 4);
}

// OutEffHopPooling: learned states look at given patterns.
static void learned_states_pool(void **state) {
    (void)state;
    hopfield_style style = {.width = 4, .patterns = 2, .learned_states = true, .connected = true};
    style.assoc = (oht_hopfield){.f.kind = OHT_SOFTMAX1, .heads = 2};
    float weight[8] = {1, 2, 3, 4, -1, -2, -3, -4};
    layer l;
    start_layer(&l, LEARNED_STATE, &style, 1, 3, 5, weight);
    for (size_t i = 0; i < l.table->flat_count; i++) l.param[i] = sinf(1.3f * (float)i);
    run_layer(&l);
    float *x = value(&l, "hop.state", false), kept[8];
    memcpy(kept, value(&l, "hop.state", true), sizeof kept);
    assert_true(norm_of(kept, 8) > 1e-4);
    for (int e = 0; e < 8; e++) {
        double slope = 0.0;
        for (int side = -1; side <= 1; side += 2) {
            x[e] += (float)side * 1e-2f;
            slope += side * run_layer(&l) / 2e-2;
            x[e] -= (float)side * 1e-2f;
        }
        golden_near("slope", (size_t)e, (double)kept[e], slope, 2e-3);
    }
    stop_layer(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_match),
        cmocka_unit_test(iteration_matches),
        cmocka_unit_test(learned_states_pool),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
