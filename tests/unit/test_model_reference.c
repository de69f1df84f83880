// Whole models against PyTorch in float64 (tests/golden/model_reference.py): every attention and gate, both
// norms, projections, padded rows. Loss, the full gradient of every parameter, and what the taps see.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "oht/graph.h"
#include "oht/memory.h"
#include "oht/model.h"
#include "oht/op.h"
#include "oht/outliers.h"

enum { CAPACITY = 4, MAX_TAPS = 64 }; // one row more than the batches have

static json_t *golden;

static void ok(oht_status status, const char *what) {
    if (status != OHT_OK) fail_msg("%s: %s", what, oht_error_last()->text);
}

static uint32_t hash32(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// The generator's rule; rank: place of the name among all names sorted.
static void fill(const oht_params *params, float *flat) {
    for (int i = 0; i < params->n; i++) {
        const oht_param *p = &params->item[i];
        uint32_t rank = 0;
        for (int j = 0; j < params->n; j++) rank += strcmp(params->item[j].name, p->name) < 0;
        for (int64_t e = 0; e < p->count; e++) {
            const uint32_t h = hash32((uint32_t)e + 0x9e3779b9u * rank);
            flat[p->offset + (size_t)e] =
                (float)(h >> 12) * 0x1p-20f - 0.5f + (p->role == OHT_ROLE_NORM_GAIN ? 1.0f : 0.0f);
        }
    }
}

static int choice(const json_t *c, const char *key, const char *const *names, int n) {
    const char *value = golden_string(c, key);
    for (int i = 0; i < n; i++)
        if (strcmp(value, names[i]) == 0) return i;
    fail_msg("%s = %s is not known here", key, value);
    return 0;
}

static oht_model_config config(const json_t *c) {
    static const char *const types[] = {"opt", "bert", "vit"}, *const norms[] = {"pre", "post"};
    static const char *const gates[] = {"none", "unconditional_per_head", "conditional_per_head",
                                        "conditional_per_token"};
    static const char *const forms[] = {"linear", "mlp", "mlp2", "all_features"};
    oht_model_config cfg = {
        .type = (oht_model_type)choice(c, "type", types, 3),
        .layers = (int64_t)golden_number(golden, "layers"),
        .width = (int64_t)golden_number(c, "width"),
        .heads = (int64_t)golden_number(c, "heads"),
        .ffn = (int64_t)golden_number(golden, "ffn"),
        .vocab_size = (int64_t)golden_number(golden, "vocab_size"),
        .max_tokens = (int64_t)golden_number(golden, "tokens"),
        .embed_width = (int64_t)golden_number(c, "embed_width"),
        .norm = (oht_norm_place)choice(c, "norm", norms, 2),
        .gate = (oht_gate_kind)choice(c, "gate", gates, 4),
        .gate_form = (oht_gate_form)choice(c, "gate_form", forms, 4),
        .gate_init = golden_number(c, "gate_init"),
        .gate_fine_tuning = json_is_true(golden_get(c, "gate_fine_tuning")),
        .init_std = 0.02,
    };
    const double eps[] = {[OHT_MODEL_OPT] = 1e-5, [OHT_MODEL_BERT] = 1e-12, [OHT_MODEL_VIT] = 1e-6};
    cfg.layernorm_eps = eps[cfg.type];
    if (cfg.type == OHT_MODEL_VIT) {
        cfg.image_size = (int64_t)golden_number(golden, "image_size");
        cfg.patch = (int64_t)golden_number(golden, "patch");
        cfg.classes = (int64_t)golden_number(golden, "classes");
        cfg.patch_bias = json_is_true(golden_get(c, "patch_bias"));
        cfg.qkv_bias = json_is_true(golden_get(c, "qkv_bias"));
        cfg.pre_norm = json_is_true(golden_get(c, "pre_norm"));
    }
    snprintf(cfg.attention, sizeof cfg.attention, "%s", golden_string(c, "attention"));
    return cfg;
}

// ---- one model on one batch ----
typedef struct seen {
    oht_observer observer;
    int n;
    struct {
        oht_tap_info info;
        double norm, max, mean[8];
    } tap[MAX_TAPS];
} seen;

static void see(oht_observer *self, const oht_run *run, const oht_tap_info *info, oht_tensor x) {
    seen *s = (seen *)self;
    assert_true(s->n < MAX_TAPS);
    s->tap[s->n].info = *info;
    if (info->kind == OHT_TAP_NULL_MASS) {
        run->be->null_mass(run->be, s->tap[s->n].mean, x);
    } else if (info->kind == OHT_TAP_GATE) {
        run->be->gate_mean(run->be, s->tap[s->n].mean, x);
    } else {
        double sum = 0, max = 0;
        for (int64_t i = 0; i < oht_tensor_count(x); i++) {
            const double v = (double)oht_f32(x)[i];
            sum += v * v;
            max = fmax(max, fabs(v));
        }
        s->tap[s->n].norm = sqrt(sum);
        s->tap[s->n].max = max;
    }
    s->n++;
}

typedef struct input {
    int64_t rows, picked, labels_n;
    int32_t *tokens, *labels, *positions;
    uint8_t *mask;
    size_t tokens_n, labels_size, positions_n;
    int64_t tokens_per_row;
    uint8_t *images; // ViT; then labels belong to evaluation
    float *targets;
    size_t images_n, targets_n;
} input;

static int32_t *ints(const json_t *node, const char *key, size_t *n) {
    double *x = golden_doubles(node, key, n);
    int32_t *y = calloc(*n + 1, sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i < *n; i++) y[i] = (int32_t)x[i];
    free(x);
    return y;
}

static input images_of(const json_t *c, const oht_model_config *cfg) {
    const json_t *b = golden_get(golden_get(golden, "batches"), golden_string(c, "batch"));
    input in = {.rows = (int64_t)golden_number(golden, "rows")};
    in.tokens_per_row = (cfg->image_size / cfg->patch) * (cfg->image_size / cfg->patch) + 1;
    double *pixels = golden_doubles(b, "images", &in.images_n), *targets = golden_doubles(b, "targets", &in.targets_n);
    in.images = calloc(in.images_n, 1);
    in.targets = calloc(in.targets_n, sizeof *in.targets);
    assert_true(in.images != NULL && in.targets != NULL);
    for (size_t i = 0; i < in.images_n; i++) in.images[i] = (uint8_t)pixels[i];
    for (size_t i = 0; i < in.targets_n; i++) in.targets[i] = (float)targets[i];
    free(pixels);
    free(targets);
    in.labels = ints(c, "labels", &in.labels_size);
    in.labels_n = in.rows;
    return in;
}

static input input_of(const json_t *c, bool mlm) {
    const json_t *b = golden_get(golden_get(golden, "batches"), golden_string(c, "batch"));
    input in = {.rows = (int64_t)golden_number(golden, "rows")};
    in.tokens = ints(b, "tokens", &in.tokens_n);
    in.labels = ints(b, "labels", &in.labels_size);
    for (size_t i = 0; i < in.labels_size; i++) in.labels_n += in.labels[i] >= 0;
    if (mlm) {
        in.positions = ints(b, "positions", &in.positions_n);
        in.picked = (int64_t)in.positions_n;
    }
    int32_t *mask = ints(b, "mask", &in.tokens_n);
    in.mask = calloc(in.tokens_n, 1);
    assert_non_null(in.mask);
    for (size_t i = 0; i < in.tokens_n; i++) in.mask[i] = (uint8_t)mask[i];
    free(mask);
    in.tokens_per_row = (int64_t)(in.tokens_n / (size_t)in.rows);
    return in;
}

static void input_free(input *in) {
    free(in->tokens);
    free(in->labels);
    free(in->positions);
    free(in->mask);
    free(in->images);
    free(in->targets);
}

// Loss (mean over labels) of one graph; gradients into grad in training; taps into s when not NULL.
static double execute(oht_backend *be, const oht_model *m, oht_mode mode, const input *in, bool padded,
                      bool recompute, float *param, float *grad, seen *s, double hits[2]) {
    oht_graph *g;
    oht_value loss;
    void *arena;
    oht_run *run;
    ok(oht_graph_create(&g, be, oht_model_params(m), mode, CAPACITY,
                        in->tokens_per_row),
       "graph");
    ok(oht_model_record(m, g, padded, recompute, &loss), "record");
    ok(oht_plan(g, loss), "plan");
    ok(be->alloc(be, &arena, oht_plan_bytes(g), "arena"), "arena");
    ok(oht_run_create(&run, g, arena, param, grad), "run");
    oht_run_poison(run, true);
    run->rows = in->rows;
    run->picked = in->picked;
    run->stride = 1;
    run->loss_scale = 1.0f / (float)in->labels_n;
    if (s != NULL) {
        *s = (seen){.observer.see = see};
        run->observer = &s->observer;
    }
    oht_run_feed(run, OHT_FIELD_TOKENS, in->tokens, in->tokens_n * sizeof *in->tokens);
    oht_run_feed(run, OHT_FIELD_LABELS, in->labels, in->labels_size * sizeof *in->labels);
    if (in->positions != NULL)
        oht_run_feed(run, OHT_FIELD_POSITIONS, in->positions, in->positions_n * sizeof *in->positions);
    oht_run_feed(run, OHT_FIELD_IMAGES, in->images, in->images_n);
    oht_run_feed(run, OHT_FIELD_TARGETS, in->targets, in->targets_n * sizeof *in->targets);
    if (padded) oht_run_feed(run, OHT_FIELD_MASK, in->mask, in->tokens_n);
    oht_run_forward(run);
    if (mode == OHT_TRAIN) oht_run_backward(run);
    ok(be->sync(be), "sync");
    const double result = run->loss_sum / (double)in->labels_n;
    if (hits != NULL) memcpy(hits, run->measured, 2 * sizeof *hits);
    oht_run_destroy(run);
    be->free(be, arena);
    oht_graph_destroy(g);
    return result;
}

static double worst_grad, worst_loss, worst_tap; // for the record

static void near_loss(double value, double expected, const char *label, const char *how) {
    const double off = fabs(value - expected) / expected;
    if (!(off <= 1e-6)) fail_msg("%s: loss %s %.9g, expected %.9g", label, how, value, expected);
    worst_loss = fmax(worst_loss, off);
}

// The evaluation with the taps of compat.all_modules: the published metrics over every module, and the clean ones beside
// them, which stay what they are without those taps.
static void compare_modules(oht_backend *be, const oht_model *m, const json_t *c, const input *in, float *param, const char *label) {
    const json_t *want = golden_get(c, "modules");
    oht_outlier_metrics got[2];
    for (int all = 0; all < 2; all++) {
        oht_graph *g;
        oht_value loss;
        oht_stats *s;
        oht_run *run;
        void *arena;
        ok(oht_graph_create(&g, be, oht_model_params(m), OHT_EVAL, CAPACITY, in->tokens_per_row), label);
        oht_graph_module_taps(g, all);
        ok(oht_model_record(m, g, false, false, &loss), label);
        ok(oht_plan(g, OHT_NONE), label);
        ok(be->alloc(be, &arena, oht_plan_bytes(g), "arena"), label);
        ok(oht_run_create(&run, g, arena, param, NULL), label);
        ok(oht_stats_create(&s, g, 3), label);
        oht_run_poison(run, true);
        run->rows = in->rows;
        run->observer = oht_stats_observer(s);
        oht_run_feed(run, OHT_FIELD_IMAGES, in->images, in->images_n);
        oht_run_feed(run, OHT_FIELD_LABELS, in->labels, in->labels_size * sizeof *in->labels);
        oht_run_forward(run);
        near_loss(run->loss_sum / (double)in->labels_n, golden_number(c, "eval_loss"), label, "with all modules tapped");
        oht_stats_metrics(s, &got[all]);
        oht_stats_destroy(s);
        oht_run_destroy(run);
        be->free(be, arena);
        oht_graph_destroy(g);
    }
    assert_int_equal(got[0].all_modules, 0);
    assert_int_equal(got[1].all_modules, (int64_t)golden_number(want, "n"));
    const double pair[3][2] = {{got[1].all_avg_kurtosis, golden_number(want, "kurtosis")},
                               {got[1].all_max_kurtosis, golden_number(want, "max_kurtosis")},
                               {got[1].all_ffn_inf_norm, golden_number(want, "ffn_inf_norm")}};
    for (int i = 0; i < 3; i++)
        if (!(fabs(pair[i][0] / pair[i][1] - 1) <= 1e-5))
            fail_msg("%s: all modules, number %d: %.9g, expected %.9g", label, i, pair[i][0], pair[i][1]);
    assert_true(got[0].avg_kurtosis == got[1].avg_kurtosis && got[0].max_kurtosis == got[1].max_kurtosis);
    assert_true(got[0].max_inf_norm == got[1].max_inf_norm && got[0].max_ffn_inf_norm == got[1].max_ffn_inf_norm);
    assert_true(got[0].avg_kurtosis != got[1].all_avg_kurtosis);
}

static double distance(const float *a, const double *b, size_t n, double *norm) {
    double d = 0, r = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        r += b[i] * b[i];
    }
    *norm = sqrt(r);
    return sqrt(d);
}

static void compare_gradients(const json_t *c, const oht_params *params, const float *grad,
                              const char *label) {
    const json_t *want = golden_get(c, "grad");
    const double total = golden_number(c, "grad_norm");
    assert_int_equal(json_object_size(want), params->n);
    for (int i = 0; i < params->n; i++) {
        const oht_param *p = &params->item[i];
        size_t n;
        double norm, *ref = golden_doubles(want, p->name, &n);
        assert_int_equal(n, p->count);
        const double d = distance(grad + p->offset, ref, n, &norm), bound = 1e-4 * norm + 1e-7 * total;
        if (!(d <= bound))
            fail_msg("%s: gradient of %s: off by %g, bound %g (norm %g)", label, p->name, d, bound, norm);
        worst_grad = fmax(worst_grad, d / bound);
        free(ref);
    }
}

static void compare_taps(const json_t *c, const seen *s, const char *label) {
    const json_t *want = golden_get(c, "taps");
    const size_t n = json_array_size(want);
    if (n == 0) return; // padded OPT
    for (int i = 0; i < s->n; i++) {
        const json_t *w = NULL;
        const char *name = s->tap[i].info.name;
        for (size_t j = 0; j < n && w == NULL; j++)
            if (strcmp(golden_string(golden_at(want, j), "name"), name) == 0) w = golden_at(want, j);
        if (w == NULL) fail_msg("%s: tap %s is not in the reference", label, name);
        if (json_object_get(w, "mean") != NULL) {
            size_t H;
            double *mean = golden_doubles(w, "mean", &H);
            for (size_t h = 0; h < H; h++) {
                if (!(fabs(s->tap[i].mean[h] - mean[h]) <= 1e-5))
                    fail_msg("%s: %s of head %zu: %g, expected %g", label, name, h, s->tap[i].mean[h],
                             mean[h]);
            }
            free(mean);
            continue;
        }
        const double norm = golden_number(w, "norm"), max = golden_number(w, "max");
        const double off = fmax(fabs(s->tap[i].norm / norm - 1), fabs(s->tap[i].max / max - 1));
        if (!(off <= 1e-5))
            fail_msg("%s: %s: norm %g max %g, expected %g %g", label, name, s->tap[i].norm, s->tap[i].max,
                     norm, max);
        worst_tap = fmax(worst_tap, off);
    }
    if ((size_t)s->n != n) fail_msg("%s: %d taps, the reference has %zu", label, s->n, n);
}

static void one_case(oht_backend *be, const json_t *c) {
    const oht_model_config cfg = config(c);
    const bool padded = json_is_true(golden_get(c, "padded"));
    const bool image = cfg.type == OHT_MODEL_VIT;
    char label[256];
    snprintf(label, sizeof label, "%s %s gate %s/%s norm %s%s", golden_string(c, "type"), cfg.attention,
             golden_string(c, "gate"), golden_string(c, "gate_form"), golden_string(c, "norm"),
             padded ? " padded" : "");
    oht_model *m;
    ok(oht_model_create(&m, &cfg, image ? 10 : cfg.max_tokens), label);
    const oht_params *params = oht_model_params(m);
    float *param, *grad, *again;
    ok(OHT_ALLOC(&param, params->flat_count, "parameters"), label);
    ok(OHT_ALLOC(&grad, params->flat_count, "gradient"), label);
    ok(OHT_ALLOC(&again, params->flat_count, "gradient"), label);
    fill(params, param);
    for (size_t i = 0; i < params->flat_count; i++) grad[i] = again[i] = NAN; // all must be written

    input in = image ? images_of(c, &cfg) : input_of(c, cfg.type == OHT_MODEL_BERT);
    static seen train, eval;
    const double expected = golden_number(c, "loss");
    near_loss(execute(be, m, OHT_TRAIN, &in, padded, false, param, grad, &train, NULL), expected, label,
              "in training");
    compare_gradients(c, params, grad, label);
    compare_taps(c, &train, label);
    double hits[2];
    near_loss(execute(be, m, OHT_EVAL, &in, padded, false, param, NULL, &eval, hits),
              image ? golden_number(c, "eval_loss") : expected, label, "in evaluation");
    if (image) {
        assert_true(hits[0] == golden_number(c, "top1"));
        assert_true(hits[1] == golden_number(c, "top5"));
        compare_modules(be, m, c, &in, param, label);
    }
    compare_taps(c, &eval, label);
    near_loss(execute(be, m, OHT_TRAIN, &in, padded, true, param, again, &train, NULL), expected, label,
              "with recomputation");
    compare_taps(c, &train, label);
    assert_memory_equal(grad, again, params->flat_count * sizeof *grad); // recomputation changes no bit
    if (!padded && !image) { // a mask of ones is no mask
        near_loss(execute(be, m, OHT_TRAIN, &in, true, false, param, again, NULL, NULL), expected, label,
                  "with a full mask");
        compare_gradients(c, params, again, label);
    }
    input_free(&in);
    oht_free(param);
    oht_free(grad);
    oht_free(again);
    oht_model_destroy(m);
}

static void test_reference(void **state) {
    (void)state;
    oht_backend *be;
    ok(oht_backend_cpu_create(&be), "backend");
    const json_t *cases = golden_get(golden, "cases");
    assert_true(json_array_size(cases) >= 50);
    for (size_t i = 0; i < json_array_size(cases); i++) one_case(be, golden_at(cases, i));
    printf("%zu models: gradients at most %.3f of the bound, loss off by %.1e, taps by %.1e\n",
           json_array_size(cases), worst_grad, worst_loss, worst_tap);
    oht_backend_destroy(be);
}

int main(void) {
    golden = golden_load("model_reference");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    return failed;
}
