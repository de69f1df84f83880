// STanHop-Net against golden vectors (stanhop.json): ten small networks with loss, forecast, gradients of every
// parameter, one step of Adam and the published outlier metrics; parameter counts of the published sizes. And what no vector
// covers: rows below capacity, recomputation, gates. Its layers alone: test_hopfield.c.
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "golden.h"
#include "oht/model.h"
#include "oht/outliers.h"

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

// ---- configurations of the vectors ----

static const char *attention_of(const char *mode) {
    static const char *const NAME[][2] = {{"softmax", "vanilla"},   {"softmax1", "softmax1"},         {"sparsemax", "sparsemax"},
                                          {"entmax", "entmax"},     {"clip", "clipped(-.1:1.1)"},     {"clip_softmax1", "clippedsoftmax1(-.1:1.1)"}};
    for (size_t i = 0; i < sizeof(NAME) / sizeof(NAME[0]); i++)
        if (strcmp(NAME[i][0], mode) == 0) return NAME[i][1];
    fail_msg("mode %s", mode);
    return NULL;
}

static oht_model_config small(void) {
    oht_config all;
    oht_config_defaults(&all);
    oht_model_config c = all.model;
    c.type = OHT_MODEL_STANHOP;
    c.series = 3, c.input = 10, c.horizon = 6, c.segment = 4, c.merge = 2, c.patterns = 3;
    c.width = c.embed_width = 8, c.ffn = 12, c.heads = 2, c.layers = 2;
    c.layernorm_eps = 1e-5;
    c.dropout = c.attention_dropout = 0.0;
    c.norms = OHT_NORMS_OEH;
    c.alpha_max = 3;
    c.mix_heads = true;
    c.baseline = false;
    snprintf(c.attention, sizeof c.attention, "softmax1");
    return c;
}

static oht_model_config config_of(const json_t *c) {
    oht_model_config m = small();
    m.merge = (int64_t)golden_number(golden_get(c, "config"), "win");
    m.norms = strcmp(golden_string(c, "norms"), "oeh") == 0 ? OHT_NORMS_OEH : OHT_NORMS_STANHOP;
    m.alpha_max = 1 + (int64_t)golden_number(c, "alpha_range");
    m.mix_heads = json_is_true(golden_get(c, "mix"));
    m.baseline = json_is_true(golden_get(c, "baseline"));
    snprintf(m.attention, sizeof m.attention, "%s", attention_of(golden_string(c, "mode")));
    return m;
}

static bool ends(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

// The fill of the vectors, in order of registration.
static float *filled(const oht_params *t) {
    float *flat = calloc(t->flat_count, sizeof(float));
    int seed = 100, alphas = 0;
    for (int i = 0; i < t->n; i++) {
        const oht_param *p = &t->item[i];
        float *x = flat + p->offset;
        if (ends(p->hf_name, ".alpha")) {
            x[0] = (float)(0.4 * sin(1.3 * alphas++ + 0.2));
            continue;
        }
        golden_fill(x, (size_t)p->count, seed++);
        const bool norm = strstr(p->hf_name, "norm") && p->rank == 1 && !strstr(p->hf_name, "linear_trans");
        for (int64_t e = 0; e < p->count; e++) {
            if (norm) x[e] = ends(p->hf_name, "weight") ? 1.0f + 0.4f * x[e] : 0.4f * x[e];
            if (ends(p->hf_name, "_pos") || ends(p->hf_name, ".key")) x[e] *= 2.0f;
        }
    }
    return flat;
}

// ---- a network that runs ----

typedef struct net {
    oht_model *model;
    const oht_params *table;
    oht_graph *g;
    oht_run *run;
    void *arena;
    float *param, *grad, *x, *y;
} net;

enum { CAPACITY = 3, ROWS = 2 };

static void start(net *n, const oht_model_config *c, oht_mode mode, bool recompute) {
    oht_value loss;
    memset(n, 0, sizeof *n);
    OK(oht_model_create(&n->model, c, c->input));
    n->table = oht_model_params(n->model);
    OK(oht_graph_create(&n->g, be, n->table, mode, CAPACITY, c->input));
    OK(oht_model_record(n->model, n->g, false, recompute, &loss));
    OK(oht_plan(n->g, loss));
    OK(be->alloc(be, &n->arena, oht_plan_bytes(n->g), "arena"));
    n->param = filled(n->table);
    n->grad = mode == OHT_TRAIN ? calloc(n->table->flat_count, sizeof(float)) : NULL;
    OK(oht_run_create(&n->run, n->g, n->arena, n->param, n->grad));
    oht_run_poison(n->run, true);
    const size_t in = (size_t)(ROWS * c->input * c->series), out = (size_t)(ROWS * c->horizon * c->series);
    n->x = calloc(in, sizeof(float));
    n->y = calloc(out, sizeof(float));
    golden_fill(n->x, in, 7);
    golden_fill(n->y, out, 8);
    for (size_t i = 0; i < in; i++) n->x[i] *= 2.0f;
    for (size_t i = 0; i < out; i++) n->y[i] *= 2.0f;
    n->run->rows = ROWS;
    n->run->loss_scale = 1.0f / (float)out;
    oht_run_feed(n->run, OHT_FIELD_SERIES, n->x, in * sizeof(float));
    oht_run_feed(n->run, OHT_FIELD_TARGETS, n->y, out * sizeof(float));
}

static double execute(net *n) {
    oht_run_forward(n->run);
    if (n->grad) oht_run_backward(n->run);
    return n->run->loss_sum * (double)n->run->loss_scale;
}

static void stop(net *n) {
    oht_run_destroy(n->run);
    oht_graph_destroy(n->g);
    oht_model_destroy(n->model);
    be->free(be, n->arena);
    free(n->param);
    free(n->grad);
    free(n->x);
    free(n->y);
}

static double norm_of(const float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

// ---- tests ----

static void gradients(const json_t *c, const net *n, size_t at, double all) {
    const json_t *want = json_object_get(c, "grads");
    if (!want) want = golden_get(c, "grads_selected");
    size_t seen = 0;
    for (int i = 0; i < n->table->n; i++) {
        const oht_param *p = &n->table->item[i];
        const json_t *entry = json_object_get(want, p->hf_name);
        if (!entry) continue;
        double *v = golden_doubles(entry, NULL, NULL);
        const float *d = n->grad + p->offset;
        if (!(fabs(norm_of(d, p->count) - v[0]) <= 1e-4 * v[0] + 1e-5 * all) || !(fabs((double)d[0] - v[1]) <= 1e-4 * v[0] + 1e-5 * all))
            fail_msg("case %zu: gradient of %s (%s): norm %g, first %g; expected %g, %g", at, p->name, p->hf_name,
                     norm_of(d, p->count), (double)d[0], v[0], v[1]);
        free(v);
        seen++;
    }
    assert_int_equal(seen, json_object_size(want));
}

static void small_networks_match(void **state) {
    (void)state;
    const json_t *all = golden_get(golden_get(golden, "tiny_net"), "cases");
    assert_int_equal(json_array_size(all), 10);
    for (size_t i = 0; i < json_array_size(all); i++)
        for (int recompute = 0; recompute < 2; recompute++) {
            const json_t *c = golden_at(all, i);
            const oht_model_config cfg = config_of(c);
            net n;
            start(&n, &cfg, OHT_TRAIN, recompute);
            assert_int_equal(oht_params_count(n.table), (int64_t)golden_number(c, "n_params_trained"));
            golden_near("loss", i, execute(&n), golden_number(c, "loss"), 1e-5);
            const double norm = norm_of(n.grad, (int64_t)n.table->flat_count);
            golden_near("gradient norm", i, norm, golden_number(c, "grad_norm"), 1e-4);
            gradients(c, &n, i, norm);

            float *m = calloc(2 * n.table->flat_count, sizeof(float));
            const oht_adamw opt = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = 1, .grad_scale = (float)golden_number(c, "clip_factor")};
            be->adamw(be, n.param, n.grad, m, m + n.table->flat_count, (int64_t)n.table->flat_count, &opt);
            double *losses = golden_doubles(golden_get(c, "adam_lr1e2"), "losses", NULL);
            golden_near("loss after a step", i, execute(&n), losses[1], 2e-2); // signs of tiny gradients decide it
            free(losses);
            free(m);
            stop(&n);
        }
}

typedef struct forecast_seen {
    oht_observer observer;
    float value[ROWS * 6 * 3];
} forecast_seen;

static void see_forecast(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    (void)run;
    if (strcmp(tap->name, "forecast.out") == 0) memcpy(((forecast_seen *)self)->value, x.data, sizeof(((forecast_seen *)self)->value));
}

static int by_first(const void *a, const void *b) {
    const double *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

// Every module's pair of numbers, as a sorted list: names differ, copies count.
static void modules_match(const json_t *want, const oht_stats *s) {
    const oht_tap_info *info;
    const oht_tap_stats *t;
    const int taps = oht_stats_taps(s, &info, &t);
    const size_t n = json_object_size(want);
    double(*a)[2] = calloc(n, sizeof *a), (*b)[2] = calloc(n + 4, sizeof *b);
    size_t na = 0, nb = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)want, key, value) {
        a[na][0] = json_number_value(json_array_get(value, 1));
        a[na++][1] = json_number_value(json_array_get(value, 2));
    }
    for (int i = 0; i < taps; i++)
        for (int k = info[i].roles & OHT_SEEN_TWICE ? 2 : info[i].roles & OHT_SEEN_THRICE ? 3 : 1; k > 0; k--) {
            assert_true(nb < n);
            b[nb][0] = t[i].inf_sum / (double)t[i].rows;
            b[nb++][1] = t[i].kurtosis_sum / (double)t[i].kurtosis_rows;
        }
    assert_int_equal(na, nb);
    qsort(a, na, sizeof *a, by_first);
    qsort(b, nb, sizeof *b, by_first);
    for (size_t i = 0; i < na; i++) golden_near("inf norm of a module", i, b[i][0], a[i][0], 2e-5);
    double sum[2] = {0};
    for (size_t i = 0; i < na; i++) sum[0] += a[i][0] * a[i][1], sum[1] += b[i][0] * b[i][1];
    golden_near("inf norm times kurtosis over modules", 0, sum[1], sum[0], 1e-4);
    free(a);
    free(b);
}

static void forecasts_and_outliers_match(void **state) {
    (void)state;
    const json_t *all = golden_get(golden_get(golden, "tiny_net"), "cases");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i), *o = golden_get(c, "outliers"), *modules = json_object_get(c, "module_stats");
        const oht_model_config cfg = config_of(c);
        net n;
        start(&n, &cfg, OHT_EVAL, false);
        forecast_seen seen = {.observer.see = see_forecast};
        n.run->observer = &seen.observer;
        golden_near("loss", i, execute(&n), golden_number(c, "loss"), 1e-5);
        size_t values;
        double *want = golden_doubles(c, "pred", &values);
        assert_int_equal(values, ROWS * 6 * 3);
        for (size_t k = 0; k < values; k++) golden_near("forecast", i, (double)seen.value[k], want[k], 1e-5);
        free(want);

        oht_stats *s;
        OK(oht_stats_create(&s, n.g, (int)cfg.heads));
        n.run->observer = oht_stats_observer(s);
        execute(&n);
        oht_outlier_metrics m;
        oht_stats_metrics(s, &m);
        assert_int_equal(m.modules, (int64_t)golden_number(o, "n_modules"));
        golden_near("max_inf_norm", i, m.max_inf_norm, golden_number(o, "max_inf_norm"), 1e-5);
        golden_near("max_ffn_inf_norm", i, m.max_ffn_inf_norm, golden_number(o, "max_ffn_inf_norm"), 1e-5);
        golden_near("max_layer_inf_norm", i, m.max_layer_inf_norm, golden_number(o, "max_layer_inf_norm"), 1e-5);
        golden_near("avg_kurtosis", i, m.avg_kurtosis, golden_number(o, "avg_kurtosis"), 1e-4);
        golden_near("max_kurtosis", i, m.max_kurtosis, golden_number(o, "max_kurtosis"), 1e-4);
        golden_near("max_kurtosis_layers", i, m.max_kurtosis_layers, golden_number(o, "max_kurtosis_layers"), 1e-4);
        assert_true(m.clean_kurtosis > 1.0 && m.activation_kurtosis > 1.0);
        if (modules) modules_match(modules, s);
        oht_stats_destroy(s);
        stop(&n);
    }
}

static void published_parameter_counts(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t series, input, horizon, segment, layers, merge;
    } SIZE[] = {{"ETTh1_24", 7, 168, 24, 6, 11, 1},    {"ETTh1_48", 7, 168, 48, 6, 11, 1},   {"ETTh1_168", 7, 720, 168, 24, 11, 1},
                {"ETTh1_336", 7, 720, 336, 24, 11, 1}, {"ETTh1_720", 7, 720, 720, 24, 11, 1}, {"WTH_24", 12, 48, 24, 4, 11, 1},
                {"ETTm1_24", 7, 288, 24, 12, 11, 1},   {"stanhop_repo_example_ETTh1_24", 7, 168, 24, 12, 2, 4}};
    const json_t *all = golden_get(golden, "parameter_counts");
    size_t seen = 0;
    for (size_t i = 0; i < json_array_size(all); i++)
        for (size_t k = 0; k < sizeof(SIZE) / sizeof(SIZE[0]); k++) {
            const json_t *c = golden_at(all, i);
            if (strcmp(golden_string(c, "config"), SIZE[k].name) != 0) continue;
            oht_model_config m = small();
            m.series = SIZE[k].series, m.input = SIZE[k].input, m.horizon = SIZE[k].horizon, m.segment = SIZE[k].segment;
            m.layers = SIZE[k].layers, m.merge = SIZE[k].merge, m.width = m.embed_width = 256, m.ffn = 512, m.heads = 4, m.patterns = 10;
            m.norms = strcmp(golden_string(c, "norms"), "oeh") == 0 ? OHT_NORMS_OEH : OHT_NORMS_STANHOP;
            int64_t count[2];
            for (int learned = 0; learned < 2; learned++) {
                oht_model *model;
                snprintf(m.attention, sizeof m.attention, "%s", learned ? "entmax" : "softmax1");
                OK(oht_model_create(&model, &m, m.input));
                count[learned] = oht_params_count(oht_model_params(model));
                oht_model_destroy(model);
            }
            assert_int_equal(count[0], (int64_t)golden_number(c, "params"));
            assert_int_equal(count[1], count[0] + (int64_t)golden_number(c, "alphas"));
            // The reference also stores a twin of each alpha that nothing reads.
            assert_int_equal(count[1] + (int64_t)golden_number(c, "alphas"), (int64_t)golden_number(c, "params_entmax_stored"));
            seen++;
        }
    assert_int_equal(seen, json_array_size(all));
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    oht_model *model;
    oht_model_config c = small();
    c.merge = 4, c.layers = 5, c.input = 16, c.segment = 4; // 4, 1, then one segment in groups of four
    assert_int_equal(oht_model_create(&model, &c, c.input), OHT_CONFIG);
    assert_non_null(strstr(oht_error_last()->text, "too few to merge"));
    c = small();
    c.segment = 0;
    assert_int_equal(oht_model_create(&model, &c, c.input), OHT_CONFIG);
    c = small();
    c.gate = OHT_GATE_CONDITIONAL_PER_HEAD;
    assert_int_equal(oht_model_create(&model, &c, c.input), OHT_CONFIG);
}

// gamma = -alpha / S: with S stored patterns in every association, one gamma does the same.
static void alpha_follows_the_patterns(void **state) {
    (void)state;
    oht_model_config c = small();
    c.input = 12, c.horizon = 12, c.segment = 4, c.merge = 1; // 3 segments, 3 series, 3 patterns
    net n;
    double loss[3];
    const char *const attention[3] = {"clipped(-.2:1)", "clipped", "clipped"};
    for (int i = 0; i < 3; i++) {
        snprintf(c.attention, sizeof c.attention, "%s", attention[i]);
        c.alpha = i == 0 ? 0.0 : 0.6;
        c.patterns = i == 2 ? 4 : 3;
        start(&n, &c, OHT_TRAIN, false);
        loss[i] = execute(&n);
        stop(&n);
    }
    assert_true(fabs(loss[1] - loss[0]) <= 1e-6 * loss[0]);
    assert_true(fabs(loss[2] - loss[0]) > 1e-6 * loss[0]);
}

// Gated network: gradients of the gate against central differences of the loss, and gates near 1 change nothing.
static void gates_learn(void **state) {
    (void)state;
    oht_model_config c = small();
    net open, plain;
    start(&plain, &c, OHT_TRAIN, false);
    c.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
    c.gate_init = 0.25;
    start(&open, &c, OHT_TRAIN, false);
    assert_true(open.table->n > plain.table->n);
    for (int i = 0; i < open.table->n; i++) { // the same weights elsewhere; gates of 1
        const oht_param *p = &open.table->item[i], *q = oht_params_find(plain.table, p->name);
        float *x = open.param + p->offset;
        if (q) memcpy(x, plain.param + q->offset, (size_t)p->count * sizeof(float));
        for (int64_t e = 0; !q && e < p->count; e++) x[e] = strstr(p->name, "bias") ? 30.0f : 0.0f;
    }
    golden_near("loss with open gates", 0, execute(&open), execute(&plain), 1e-6);
    int checked = 0;
    for (int i = 0; i < open.table->n; i++) {
        const oht_param *p = &open.table->item[i];
        if (!strstr(p->name, "gate")) continue;
        for (int64_t e = 0; e < p->count; e++) open.param[p->offset + (size_t)e] = 0.3f * sinf((float)e + (float)i);
    }
    execute(&open);
    float *grad = calloc(open.table->flat_count, sizeof(float));
    memcpy(grad, open.grad, open.table->flat_count * sizeof(float));
    for (int i = 0; i < open.table->n; i++) {
        const oht_param *p = &open.table->item[i];
        if (!strstr(p->name, "gate") || i % 3) continue;
        double d = 0.0, slope = 0.0;
        for (int64_t e = 0; e < p->count; e++) d += (double)grad[p->offset + (size_t)e] * cos((double)e);
        for (int side = -1; side <= 1; side += 2) {
            for (int64_t e = 0; e < p->count; e++) open.param[p->offset + (size_t)e] += (float)(0.01 * side * cos((double)e));
            slope += side * execute(&open) / 0.02;
            for (int64_t e = 0; e < p->count; e++) open.param[p->offset + (size_t)e] -= (float)(0.01 * side * cos((double)e));
        }
        if (!(fabs(d - slope) <= 2e-2 * fabs(slope) + 2e-3)) fail_msg("%s: slope %g, gradient says %g", p->name, slope, d);
        checked++;
    }
    assert_true(checked > 5);
    free(grad);
    stop(&open);
    stop(&plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_networks_match),
        cmocka_unit_test(forecasts_and_outliers_match),
        cmocka_unit_test(published_parameter_counts),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(alpha_follows_the_patterns),
        cmocka_unit_test(gates_learn),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
