// The whole procedure against an independent reference in float64 (tests/golden/quant_reference.py): two
// calibration batches by sequential propagation, then fixed ranges. The batches are chosen such that no value
// comes near a tie, so that float32 and float64 take the same codes; ranges are compared in steps of their
// quantizer.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "golden.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "quant/internal.h"

static json_t *golden;
static oht_comm *world;
static double worst_range, worst_loss, worst_noise;

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

static void fill(const oht_params *params, float *flat) {
    for (int i = 0; i < params->n; i++) {
        const oht_param *p = &params->item[i];
        uint32_t rank = 0;
        for (int j = 0; j < params->n; j++) rank += strcmp(params->item[j].name, p->name) < 0;
        size_t length = strlen(p->name);
        bool weight = length > 7 && strcmp(p->name + length - 7, ".weight") == 0;
        for (int64_t e = 0; e < p->count; e++) {
            double x = (double)(hash32((uint32_t)e + 0x9e3779b9u * rank) >> 12) * 0x1p-20 - 0.5;
            if (p->role == OHT_ROLE_NORM_GAIN)
                x += 1.0;
            else if (weight)
                x *= golden_number(golden, "small");
            flat[p->offset + (size_t)e] = (float)x;
        }
    }
}

static void set(oht_config *cfg, const char *key, const char *value) {
    char text[128];
    snprintf(text, sizeof(text), "%s=%s", key, value);
    ok(oht_config_set(cfg, text), text);
}

static void set_number(oht_config *cfg, const char *key, double value) {
    char text[32];
    snprintf(text, sizeof(text), "%g", value);
    set(cfg, key, text);
}

static void set_numbers(oht_config *cfg, const char *const *name, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char key[64];
        snprintf(key, sizeof(key), "model.%s", name[i]);
        set_number(cfg, key, golden_number(golden, name[i]));
    }
}

static void configure(oht_config *cfg, const json_t *c) {
    oht_config_defaults(cfg);
    bool bert = strcmp(golden_string(c, "type"), "bert") == 0, vit = strcmp(golden_string(c, "type"), "vit") == 0;
    set(cfg, "model.type", golden_string(c, "type"));
    set(cfg, "model.norm", golden_string(c, "norm"));
    set(cfg, "model.attention", golden_string(c, "attention"));
    set(cfg, "model.gate", json_is_true(golden_get(c, "gate")) ? "conditional_per_token" : "none");
    static const char *const model[] = {"width", "heads", "ffn", "layers"}, *const text[] = {"vocab_size"},
                            *const images[] = {"image_size", "patch", "classes"},
                            *const forms[] = {"patch_bias", "qkv_bias", "pre_norm"};
    set_numbers(cfg, model, 4);
    set_number(cfg, "model.embed_width", golden_number(c, "embed_width"));
    set(cfg, "model.layernorm_eps", bert ? "1e-12" : vit ? "1e-6" : "1e-5");
    if (vit) {
        set_numbers(cfg, images, 3);
        for (size_t i = 0; i < 3; i++) {
            char key[64];
            snprintf(key, sizeof(key), "model.%s", forms[i]);
            set(cfg, key, json_is_true(golden_get(c, forms[i])) ? "true" : "false");
        }
    } else {
        set_numbers(cfg, text, 1);
        set_number(cfg, "model.max_tokens", golden_number(golden, "tokens"));
    }
    static const char *const words[] = {"setup", "weight_ranges", "activation_ranges", "activation_method",
                                        "mse_margin"};
    for (size_t i = 0; i < 5; i++) {
        char key[64];
        snprintf(key, sizeof(key), "quant.%s", words[i]);
        set(cfg, key, golden_string(c, words[i]));
    }
    set_number(cfg, "quant.weights", golden_number(c, "weights"));
    set_number(cfg, "quant.activations", golden_number(c, "activations"));
    set_number(cfg, "quant.percentile", golden_number(c, "percentile"));
    set(cfg, "quant.per_channel", json_is_true(golden_get(c, "per_channel")) ? "true" : "false");
    set(cfg, "quant.include_masked_scores",
        json_is_true(golden_get(c, "include_masked_scores")) ? "true" : "false");
    if (cfg->quant.weights >= 2 && cfg->quant.weights <= 8 && cfg->quant.activations >= 2 &&
        cfg->quant.activations <= 8)
        set(cfg, "quant.integer_check", "true");
    ok(oht_config_check(cfg), "configuration");
}

// ---- batches
// -----------------------------------------------------------------------------------------------------------
typedef struct data {
    int32_t *tokens, *labels, *positions;
    uint8_t *mask, *images;
    size_t n_labels;
    oht_batch batch;
} data;

static int32_t *ints(const json_t *node, const char *key, size_t *n) {
    double *x = golden_doubles(node, key, n);
    int32_t *y = calloc(*n + 1, sizeof(*y));
    assert_non_null(y);
    for (size_t i = 0; i < *n; i++) y[i] = (int32_t)x[i];
    free(x);
    return y;
}

static uint8_t *bytes(const json_t *node, const char *key, size_t *n) {
    int32_t *x = ints(node, key, n);
    uint8_t *y = calloc(*n, 1);
    assert_non_null(y);
    for (size_t i = 0; i < *n; i++) y[i] = (uint8_t)x[i];
    free(x);
    return y;
}

static data read_images(const json_t *b) {
    size_t n, labels;
    data d = {.batch = {.rows = (int64_t)golden_number(golden, "rows"), .stride = 1}};
    d.images = bytes(b, "images", &n);
    d.labels = ints(b, "labels", &labels);
    d.batch.n_labels = (int64_t)labels;
    d.batch.field[OHT_FIELD_IMAGES] = (oht_array){d.images, n};
    d.batch.field[OHT_FIELD_LABELS] = (oht_array){d.labels, labels * sizeof(int32_t)};
    return d;
}

static data read_batch(const json_t *b, bool mlm, bool padded) {
    size_t n, labels;
    data d = {.batch = {.rows = (int64_t)golden_number(golden, "rows"), .stride = 1}};
    d.tokens = ints(b, "tokens", &n);
    d.labels = ints(b, "labels", &labels);
    d.n_labels = labels;
    for (size_t i = 0; i < labels; i++) d.batch.n_labels += d.labels[i] >= 0;
    if (mlm) {
        d.positions = ints(b, "positions", &labels);
        d.batch.picked = (int64_t)labels;
    }
    d.mask = bytes(b, "mask", &n);
    const size_t cells = (size_t)d.batch.rows * (size_t)golden_number(golden, "tokens"), word = sizeof(int32_t);
    d.batch.field[OHT_FIELD_TOKENS] = (oht_array){d.tokens, cells * word};
    d.batch.field[OHT_FIELD_LABELS] = (oht_array){d.labels, d.n_labels * word};
    if (mlm) d.batch.field[OHT_FIELD_POSITIONS] = (oht_array){d.positions, d.n_labels * word};
    if (padded) d.batch.field[OHT_FIELD_MASK] = (oht_array){d.mask, cells};
    return d;
}

static void free_batch(data *d) {
    free(d->tokens), free(d->labels), free(d->positions), free(d->mask), free(d->images);
}

static double forward(oht_run *run, const data *d) {
    oht_session_feed(run, &d->batch);
    oht_run_poison(run, true);
    oht_run_forward(run);
    return run->loss_sum / (double)d->batch.n_labels;
}

// ---- comparisons
// ---------------------------------------------------------------------------------------------------------
static void near_loss(double got, double want, double tol, const char *what) {
    double off = fabs(got - want) / fabs(want);
    if (!(off <= tol)) fail_msg("%s: loss %.9g, expected %.9g", what, got, want);
    worst_loss = fmax(worst_loss, off);
}

static const oht_quant_site *find(const oht_quant *q, const char *name) {
    const oht_quant_site *site;
    int n = oht_quant_sites(q, &site);
    for (int i = 0; i < n; i++)
        if (strcmp(site[i].name, name) == 0) return &site[i];
    fail_msg("no site %s", name);
    return NULL;
}

static void compare_sites(const json_t *c, const oht_quant *q, const char *label) {
    const double codes = exp2(golden_number(c, "activations")) - 1.0;
    const json_t *want = golden_get(c, "sites");
    const oht_quant_site *site;
    int n = oht_quant_sites(q, &site), active = 0, close = 0;
    for (int i = 0; i < n; i++) active += !site[i].weight && site[i].bits > 0;
    assert_int_equal(active, json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_t *w = golden_at(want, i);
        const oht_quant_site *s = find(q, golden_string(w, "name"));
        // 16-bit sites see what values of fewer bits did before them.
        double step =
            fmax(golden_number(w, "step"), (golden_number(w, "hi") - golden_number(w, "lo")) / codes);
        double off =
            fmax(fabs(s->q.lo - golden_number(w, "lo")), fabs(s->q.hi - golden_number(w, "hi"))) / step;
        if (!(off <= (codes > 255.0 ? 2.5 : 0.05))) // in 16 bits a step is not far above float32's rounding
            fail_msg("%s: %s: range [%g,%g], expected [%g,%g]", label, s->name, s->q.lo, s->q.hi,
                     golden_number(w, "lo"), golden_number(w, "hi"));
        close += off <= 0.02;
        worst_range = fmax(worst_range, off);
        double noise = sqrt(s->error.noise), reference = sqrt(golden_number(w, "noise"));
        // Clipped values count by how far the range's end is from them; 16 bits: float32's own rounding is as
        // large.
        double floor = 2e-6 * sqrt(golden_number(w, "signal")) + 2.0 * step;
        if (!(fabs(noise - reference) <= 0.1 * reference + floor))
            fail_msg("%s: %s: noise %g, expected %g", label, s->name, noise, reference);
        worst_noise = fmax(worst_noise, (fabs(noise - reference) - floor) / reference);
    }
    if (!(codes > 255.0 || close * 10 >= active * 9))
        fail_msg("%s: only %d of %d ranges agree closely", label, close, active);
}

static void compare_weights(const json_t *c, const oht_quant *q) {
    const json_t *want = golden_get(c, "weight_sites");
    const oht_quant_site *site;
    int n = oht_quant_sites(q, &site), active = 0;
    for (int i = 0; i < n; i++) active += site[i].weight && site[i].bits > 0;
    assert_int_equal(active, json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_t *w = golden_at(want, i);
        const oht_quant_site *s = find(q, golden_string(w, "name"));
        size_t channels;
        double *step = golden_doubles(w, "step", &channels);
        assert_int_equal(channels, s->channels);
        assert_int_equal(s->q.low, (int64_t)golden_number(w, "low"));
        for (size_t r = 0; r < channels; r++) {
            double got = s->channel ? s->channel[r].step : s->q.step;
            if (!(fabs(got - step[r]) <= 1e-5 * step[r]))
                fail_msg("%s, row %zu: step %g, expected %g", s->name, r, got, step[r]);
        }
        free(step);
    }
}

// Integer arithmetic gives what the simulation gives; how many layers were compared.
static int check_integers(const oht_quant *q, const char *label) {
    const oht_quant_site *site;
    int n = oht_quant_sites(q, &site), layers = 0;
    for (int i = 0; i < n; i++) {
        if (site[i].integer_outputs == 0) continue;
        layers++;
        if (!(site[i].integer_error <= 2e-6))
            fail_msg("%s: %s: integers differ by %g", label, site[i].name, site[i].integer_error);
        assert_true(site[i].integer_differ * 200 <= site[i].integer_outputs); // ties
    }
    return layers;
}

static void one_case(const json_t *c, int number) {
    oht_config cfg;
    configure(&cfg, c);
    bool padded = json_is_true(golden_get(c, "padded")), mlm = cfg.model.type == OHT_MODEL_BERT,
         vit = cfg.model.type == OHT_MODEL_VIT;
    char label[64];
    snprintf(label, sizeof(label), "case %d", number);
    oht_data_info text = {.task = mlm ? OHT_TASK_MLM : vit ? OHT_TASK_IMAGES : OHT_TASK_CLM,
                          .rows = {8, 8},
                          .classes = cfg.model.classes,
                          .tokens = cfg.model.max_tokens,
                          .vocab_size = cfg.model.vocab_size,
                          .padded = padded};
    data d[2];
    for (size_t b = 0; b < 2; b++) {
        const json_t *from = golden_at(golden_get(c, "batches"), b);
        d[b] = vit ? read_images(from) : read_batch(from, mlm, padded);
    }
    cfg.quant.batch = cfg.eval.batch = cfg.eval.micro_batch =
        d[0].batch.rows + 1; // one row more than is used
    oht_session *s;
    oht_quant *q;
    ok(oht_session_create(&s, world, &cfg, &text, OHT_FOR_EVALUATION), label);
    ok(oht_session_allocate(s), label);
    fill(s->params, s->state.param);
    double *fp = golden_doubles(c, "fp_loss", NULL), *during = golden_doubles(c, "calibration_loss", NULL),
           *fixed = golden_doubles(c, "loss", NULL), exact[2];
    for (int b = 0; b < 2; b++) near_loss(exact[b] = forward(s->eval, &d[b]), fp[b], 1e-5, "exact");

    ok(oht_quant_create(&q, s, &cfg.quant, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION), label);
    oht_run_poison(q->calibration, true);
    ok(oht_quant_begin(q), label);
    for (int b = 0; b < 2; b++) {
        double loss;
        ok(oht_quant_feed(q, &d[b].batch, b == 1, &loss), label);
        near_loss(loss, during[b], 2e-5, "while calibrating");
    }
    ok(oht_quant_end(q), label);
    compare_weights(c, q);
    compare_sites(c, q, label);
    for (int b = 0; b < 2; b++) {
        double loss = forward(q->evaluation, &d[b]);
        near_loss(loss, fixed[b], 2e-5, label);
        // Of the batch the ranges are from; others have values beyond them.
        if (cfg.quant.weights == 16 && b == 1) assert_true(fabs(loss / exact[b] - 1.0) < 1e-3);
    }
    int layers = check_integers(q, label);
    // OPT's context is gated after its quantizer, and the token embedding has none; ViT's q, k, v are one layer.
    int expected = (vit ? 4 : 6) * (int)cfg.model.layers -
                   (!mlm && !vit && cfg.model.gate != OHT_GATE_NONE ? (int)cfg.model.layers : 0) +
                   (cfg.model.embed_width != cfg.model.width);
    if (cfg.model.norm == OHT_NORM_PRE || mlm) {
        bool wide = cfg.quant.setup == OHT_QUANT_INT16_ALL_LN; // their 16-bit inputs are no int8
        if (wide) expected = 2 * (int)cfg.model.layers;
        if (cfg.quant.setup == OHT_QUANT_INT16_FINAL_LN) expected = (vit ? 4 : 6) * (int)cfg.model.layers;
    }
    assert_int_equal(layers, cfg.quant.integer_check ? expected : 0);

    // The exact network has not changed by a bit, and neither has the quantized one by having run.
    double again = forward(q->evaluation, &d[0]);
    for (int b = 0; b < 2; b++) assert_true(forward(s->eval, &d[b]) == exact[b]);
    assert_true(forward(q->evaluation, &d[0]) == again);
    // All sites off: the same bits as without quantization.
    for (int i = 0; i < q->n_sites; i++) {
        q->place[i].off = true;
        if (q->site[i].weight) ok(quant_apply_weight(q, i), label);
    }
    for (int b = 0; b < 2; b++) {
        assert_true(forward(q->evaluation, &d[b]) == exact[b]);
        q->mode = QUANT_APPLY;
        assert_true(forward(q->calibration, &d[b]) == exact[b]);
    }
    assert_memory_equal(q->flat, s->state.param, s->params->flat_count * sizeof(float));
    oht_quant_destroy(q);
    oht_session_destroy(s);
    for (int b = 0; b < 2; b++) free_batch(&d[b]);
    free(fp), free(during), free(fixed);
}

static void test_reference(void **state) {
    (void)state;
    const json_t *cases = golden_get(golden, "cases");
    assert_true(json_array_size(cases) >= 17);
    for (size_t i = 0; i < json_array_size(cases); i++) one_case(golden_at(cases, i), (int)i + 1);
    printf("%zu models: ranges off by at most %.3g steps, noise by %.3g, loss by %.3g\n",
           json_array_size(cases), worst_range, worst_noise, worst_loss);
}

int main(int argc, char **argv) {
    if (oht_comm_init(&argc, &argv, &world) != OHT_OK) return 1;
    oht_h5_silence();
    oht_log_init(0, true, "lines");
    golden = golden_load("quant_reference");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    oht_comm_finalize(world);
    return failed;
}
