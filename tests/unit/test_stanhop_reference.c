// Small STanHop networks with random weights against PyTorch in float64 (tests/golden/stanhop_reference.py): forecast, loss and
// gradients of every parameter; with learned alpha, gates, both forms, and head mix on and off. The vectors of stanhop.json are
// filled with sines, whose matrices have rank 2.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "oht/model.h"
#include "oht/op.h"

enum { CAPACITY = 3, MOST = 256 };

static void ok(oht_status status, const char *what) {
    if (status != OHT_OK) fail_msg("%s: %s", what, oht_error_last()->text);
}

// The hash of the generator: [0,1) in steps of 2^-24.
static double uniform(uint64_t k, uint64_t e) {
    uint64_t x = (k * 1000003u + e + 1u) * UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return (double)((x ^ x >> 31) >> 40) * 0x1p-24;
}

static void fill(float *x, int64_t n, int k, double scale, double shift) {
    for (int64_t e = 0; e < n; e++) x[e] = (float)(shift + scale * (2.0 * uniform((uint64_t)k, (uint64_t)e) - 1.0));
}

static bool has(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

static void fill_parameter(float *x, const oht_param *p, int k) {
    const bool norm = has(p->name, "norm");
    const double scale = has(p->name, "_pos") || has(p->name, ".key") ? 1.5
                         : has(p->name, ".alpha")                     ? 1.0
                         : norm                                       ? 0.4
                         : has(p->name, "gate")                       ? 0.9
                         : has(p->name, ".bias")                      ? 0.4
                                                                      : 0.4;
    fill(x, p->count, k, scale, norm && has(p->name, ".weight") ? 1.0 : 0.0);
}

static oht_model_config config_of(const json_t *c) {
    oht_config all;
    oht_config_defaults(&all);
    oht_model_config m = all.model;
    m.type = OHT_MODEL_STANHOP;
    m.series = (int64_t)golden_number(c, "series");
    m.input = (int64_t)golden_number(c, "input");
    m.horizon = (int64_t)golden_number(c, "horizon");
    m.segment = (int64_t)golden_number(c, "segment");
    m.merge = (int64_t)golden_number(c, "merge");
    m.patterns = (int64_t)golden_number(c, "patterns");
    m.layers = (int64_t)golden_number(c, "layers");
    m.width = m.embed_width = (int64_t)golden_number(c, "width");
    m.heads = (int64_t)golden_number(c, "heads");
    m.ffn = (int64_t)golden_number(c, "ffn");
    m.alpha_max = (int64_t)golden_number(c, "alpha_max");
    m.norms = strcmp(golden_string(c, "norms"), "oeh") == 0 ? OHT_NORMS_OEH : OHT_NORMS_STANHOP;
    m.mix_heads = json_is_true(golden_get(c, "mix"));
    m.baseline = json_is_true(golden_get(c, "baseline"));
    m.gate = json_is_string(golden_get(c, "gate")) ? OHT_GATE_CONDITIONAL_PER_TOKEN : OHT_GATE_NONE;
    m.layernorm_eps = 1e-5;
    m.dropout = m.attention_dropout = 0.0;
    snprintf(m.attention, sizeof m.attention, "%s", golden_string(c, "attention"));
    return m;
}

typedef struct forecast_seen {
    oht_observer observer;
    float value[MOST];
} forecast_seen;

static void see(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    (void)run;
    if (strcmp(tap->name, "forecast.out") != 0) return;
    assert_true(oht_tensor_count(x) <= MOST);
    memcpy(((forecast_seen *)self)->value, x.data, (size_t)oht_tensor_count(x) * sizeof(float));
}

// Loss per value; grad NULL: evaluation, forecast into seen.
static double execute(oht_backend *be, const oht_model *m, const oht_model_config *c, float *param, float *grad, forecast_seen *seen) {
    oht_graph *g;
    oht_value loss;
    void *arena;
    oht_run *run;
    const int64_t rows = 2, in = rows * c->input * c->series, out = rows * c->horizon * c->series;
    float *x = calloc((size_t)in, sizeof(float)), *y = calloc((size_t)out, sizeof(float));
    fill(x, in, 5001, 2.0, 0.0);
    fill(y, out, 5002, 2.0, 0.0);
    ok(oht_graph_create(&g, be, oht_model_params(m), grad ? OHT_TRAIN : OHT_EVAL, CAPACITY, c->input), "graph");
    ok(oht_model_record(m, g, false, true, &loss), "record");
    ok(oht_plan(g, loss), "plan");
    ok(be->alloc(be, &arena, oht_plan_bytes(g), "arena"), "arena");
    ok(oht_run_create(&run, g, arena, param, grad), "run");
    oht_run_poison(run, true);
    run->rows = rows;
    run->loss_scale = 1.0f / (float)out;
    if (seen) {
        seen->observer.see = see;
        run->observer = &seen->observer;
    }
    oht_run_feed(run, OHT_FIELD_SERIES, x, (size_t)in * sizeof(float));
    oht_run_feed(run, OHT_FIELD_TARGETS, y, (size_t)out * sizeof(float));
    oht_run_forward(run);
    if (grad) oht_run_backward(run);
    const double result = run->loss_sum / (double)out;
    oht_run_destroy(run);
    be->free(be, arena);
    oht_graph_destroy(g);
    free(x);
    free(y);
    return result;
}

static void check_gradients(const json_t *c, const oht_params *t, const float *grad, size_t at) {
    const json_t *all = golden_get(c, "gradients");
    double total = 0.0;
    for (size_t i = 0; i < t->flat_count; i++) total += (double)grad[i] * (double)grad[i];
    total = sqrt(total);
    assert_int_equal(t->n, json_object_size(all));
    for (int i = 0; i < t->n; i++) {
        const oht_param *p = &t->item[i];
        double *want = golden_doubles(all, p->name, NULL), norm = 0.0;
        const float *d = grad + p->offset;
        for (int64_t e = 0; e < p->count; e++) norm += (double)d[e] * (double)d[e];
        norm = sqrt(norm);
        const double slack = 1e-4 * want[0] + 1e-7 * total;
        if (!(fabs(norm - want[0]) <= slack) || !(fabs((double)d[0] - want[1]) <= slack) || !(fabs((double)d[p->count - 1] - want[2]) <= slack))
            fail_msg("case %zu, %s: norm %g, first %g, last %g; expected %g, %g, %g", at, p->name, norm, (double)d[0], (double)d[p->count - 1],
                     want[0], want[1], want[2]);
        free(want);
    }
}

static void random_networks_equal_pytorch(void **state) {
    (void)state;
    json_t *golden = golden_load("stanhop_reference");
    const json_t *all = golden_get(golden, "cases");
    oht_backend *be;
    ok(oht_backend_cpu_create(&be), "backend");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *c = golden_at(all, i);
        const oht_model_config cfg = config_of(golden_get(c, "config"));
        oht_model *m;
        ok(oht_model_create(&m, &cfg, cfg.input), "model");
        const oht_params *t = oht_model_params(m);
        float *param = calloc(t->flat_count, sizeof(float)), *grad = calloc(t->flat_count, sizeof(float));
        for (int k = 0; k < t->n; k++) {
            assert_string_equal(t->item[k].name, json_string_value(golden_at(golden_get(c, "order"), (size_t)k)));
            fill_parameter(param + t->item[k].offset, &t->item[k], k);
        }
        const double want = golden_number(c, "loss"), train = execute(be, m, &cfg, param, grad, NULL);
        forecast_seen seen = {0};
        const double eval = execute(be, m, &cfg, param, NULL, &seen);
        if (!(fabs(train - want) <= 1e-5 * want) || !(fabs(eval - want) <= 1e-5 * want))
            fail_msg("case %zu: loss %.9g in training, %.9g in evaluation, expected %.9g", i, train, eval, want);
        size_t n;
        double *forecast = golden_doubles(c, "forecast", &n);
        for (size_t k = 0; k < n; k++)
            if (!(fabs((double)seen.value[k] - forecast[k]) <= 2e-5 * fmax(1.0, fabs(forecast[k]))))
                fail_msg("case %zu: value %zu of the forecast is %g, expected %g", i, k, (double)seen.value[k], forecast[k]);
        check_gradients(c, t, grad, i);
        free(forecast);
        free(param);
        free(grad);
        oht_model_destroy(m);
    }
    assert_int_equal(json_array_size(all), 6);
    oht_backend_destroy(be);
    json_decref(golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_networks_equal_pytorch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
