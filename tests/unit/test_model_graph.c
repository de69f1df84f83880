// Models as recordings: taps and the metrics they count in, recomputation bit for bit, dropout and its sites, more tokens than
// there are positions.
#include <stdio.h>

#include "check.h"
#include "oht/graph.h"
#include "oht/memory.h"
#include "oht/model.h"
#include "oht/op.h"
#include "small_model.h"

static oht_backend *be;

// ---- taps ----
typedef struct tap_row {
    const char *name; // "*": layer number
    oht_tap_kind kind;
    int roles;
} tap_row;
enum { KI = OHT_IN_KURTOSIS | OHT_IN_INF };

static void expect_taps(const oht_model_config *cfg, const tap_row *layer, int n_layer, const tap_row *end,
                        int n_end, int kurtosis) {
    oht_model *m = create_model(cfg);
    for (int mode = 0; mode < 2; mode++) {
        oht_graph *g;
        oht_value loss;
        OK(oht_graph_create(&g, be, oht_model_params(m), mode ? OHT_EVAL : OHT_TRAIN, 2, 8));
        OK(oht_model_record(m, g, false, false, &loss));
        assert_int_equal(loss.id >= 0, mode == 0);
        OK(oht_plan(g, loss));
        const oht_tap_info *tap;
        const int n = oht_graph_taps(g, &tap), L = (int)cfg->layers;
        assert_int_equal(n, L * n_layer + n_end);
        int in_kurtosis = 0;
        for (int i = 0; i < n; i++) {
            const bool inside = i < L * n_layer;
            const tap_row *want = inside ? &layer[i % n_layer] : &end[i - L * n_layer];
            char name[64];
            if (inside)
                snprintf(name, sizeof name, "layer.%d.%s", i / n_layer, want->name);
            else
                snprintf(name, sizeof name, "%s", want->name);
            assert_string_equal(tap[i].name, name);
            assert_int_equal(tap[i].kind, want->kind);
            if (tap[i].roles != want->roles)
                fail_msg("%s: roles %d, expected %d", name, tap[i].roles, want->roles);
            assert_int_equal(tap[i].layer, inside ? i / n_layer : -1);
            assert_int_equal(tap[i].index, i);
            in_kurtosis += (tap[i].roles & OHT_IN_KURTOSIS) != 0;
        }
        assert_int_equal(in_kurtosis, kurtosis);
        oht_graph_destroy(g);
    }
    oht_model_destroy(m);
}
#define TAPS(cfg, layer, end, n_end, kurtosis)                                                               \
    expect_taps(cfg, layer, (int)(sizeof(layer) / sizeof *(layer)), end, n_end, kurtosis)

static void test_taps(void **state) { // spec transformers 4
    (void)state;
    const tap_row final[] = {{"final_ln.out", OHT_TAP_SEQUENCE, KI}};
    const tap_row opt[] = {
        {"ln1.out", OHT_TAP_SEQUENCE, KI},
        {"attn.null_mass", OHT_TAP_NULL_MASS, 0},
        {"attn.out", OHT_TAP_SEQUENCE, KI},
        {"ln2.out", OHT_TAP_TOKEN, KI},
        {"ffn1.out", OHT_TAP_TOKEN, 0},
        {"ffn.out", OHT_TAP_TOKEN, KI | OHT_IN_FFN_INF},
        {"out", OHT_TAP_SEQUENCE, KI | OHT_IN_LAYER_INF},
    };
    oht_model_config cfg = small_model(OHT_MODEL_OPT);
    TAPS(&cfg, opt, final, 1, 5 * 3 + 1);

    const tap_row post[] = {
        // the layer's output is LN2's: two keys of the published measurement
        {"attn.gate", OHT_TAP_GATE, 0},
        {"attn.out", OHT_TAP_SEQUENCE, KI},
        {"ln1.out", OHT_TAP_SEQUENCE, KI},
        {"ffn1.out", OHT_TAP_TOKEN, 0},
        {"ffn.out", OHT_TAP_TOKEN, KI | OHT_IN_FFN_INF},
        {"ln2.out", OHT_TAP_SEQUENCE, KI},
        {"out", OHT_TAP_SEQUENCE, KI | OHT_IN_LAYER_INF},
    };
    cfg.norm = OHT_NORM_POST;
    cfg.gate = OHT_GATE_CONDITIONAL_PER_HEAD;
    snprintf(cfg.attention, sizeof cfg.attention, "clipped(-.025:1)"); // no null mass
    TAPS(&cfg, post, NULL, 0, 5 * 3);

    const tap_row bert[] = {
        {"attn.null_mass", OHT_TAP_NULL_MASS, 0}, {"attn.gate", OHT_TAP_GATE, 0},
        {"attn.out", OHT_TAP_SEQUENCE, 0},        {"ln1.out", OHT_TAP_SEQUENCE, 0},
        {"ffn1.out", OHT_TAP_SEQUENCE, 0},        {"ffn.out", OHT_TAP_SEQUENCE, KI | OHT_IN_FFN_INF},
        {"ln2.in", OHT_TAP_SEQUENCE, OHT_IN_INF}, {"out", OHT_TAP_SEQUENCE, KI | OHT_IN_LAYER_INF},
    };
    cfg = small_model(OHT_MODEL_BERT);
    cfg.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
    snprintf(cfg.attention, sizeof cfg.attention, "clippedsoftmax1(-.025:1.1)");
    TAPS(&cfg, bert, NULL, 0, 2 * 3);
}

// ---- running ----
enum { ROWS = 3, T = 11, PICKED = 7 };

typedef struct result {
    double loss;
    size_t bytes;
    float *grad;
} result;

static result run_model(const oht_model_config *cfg, oht_mode mode, bool recompute, uint32_t step) {
    oht_model *m = create_model(cfg);
    const oht_params *p = oht_model_params(m);
    oht_graph *g;
    oht_value loss;
    oht_run *run;
    void *arena;
    float *param;
    result r = {.grad = NULL};
    OK(OHT_ALLOC(&param, p->flat_count, "parameters"));
    OK(OHT_ALLOC(&r.grad, p->flat_count, "gradient"));
    oht_params_init(p, param, 7);
    OK(oht_graph_create(&g, be, p, mode, ROWS, T));
    OK(oht_model_record(m, g, true, recompute, &loss));
    OK(oht_plan(g, loss));
    r.bytes = oht_plan_bytes(g);
    OK(be->alloc(be, &arena, r.bytes, "arena"));
    OK(oht_run_create(&run, g, arena, param, mode == OHT_TRAIN ? r.grad : NULL));
    oht_run_poison(run, true);
    run->rows = ROWS;
    run->picked = PICKED;
    run->seed = 5;
    run->step = step;
    run->stride = 1;
    run->loss_scale = 1.0f / 16;
    const bool mlm = oht_model_task(cfg) == OHT_TASK_MLM;
    int32_t tokens[ROWS * T], labels[ROWS * T], positions[PICKED];
    uint8_t mask[ROWS * T];
    for (int i = 0; i < ROWS * T; i++) {
        tokens[i] = (i * 17 + 3) % 61;
        labels[i] = i % 5 == 4 ? -1 : (i * 29 + 1) % 61;
        mask[i] = !(i / T == 1 && i % T > 6);
    }
    for (int i = 0; i < PICKED; i++) positions[i] = i * 4 + 1;
    if (mlm)
        for (int i = 0; i < PICKED; i++) labels[i] = i + 20;
    oht_run_feed(run, OHT_FIELD_TOKENS, tokens, sizeof tokens);
    oht_run_feed(run, OHT_FIELD_MASK, mask, sizeof mask);
    oht_run_feed(run, OHT_FIELD_LABELS, labels, mlm ? PICKED * sizeof *labels : sizeof labels);
    if (mlm) oht_run_feed(run, OHT_FIELD_POSITIONS, positions, sizeof positions);
    oht_run_forward(run);
    if (mode == OHT_TRAIN) oht_run_backward(run);
    OK(be->sync(be));
    r.loss = run->loss_sum;
    assert_true(isfinite(r.loss) && r.loss > 0);
    for (size_t i = 0; i < p->flat_count; i++) assert_true(isfinite(r.grad[i]));
    oht_run_destroy(run);
    be->free(be, arena);
    oht_graph_destroy(g);
    oht_free(param);
    oht_model_destroy(m);
    return r;
}

// With dropout on, too: the second pass draws the same masks. Not a bit may change, and memory must shrink.
static void test_recompute(void **state) {
    (void)state;
    const char *attention[] = {"softmax1", "clippedsoftmax1(-.025:1.1)", "entmax15", "vanilla"};
    for (int k = 0; k < 16; k++) {
        oht_model_config cfg = small_model(k % 2 ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        if (k % 4 == 2) cfg.norm = OHT_NORM_POST;
        cfg.dropout = k < 8 ? 0.1 : 0.3;
        cfg.attention_dropout = 0.2;
        cfg.gate = (oht_gate_kind)(k / 4);
        cfg.gate_form = (oht_gate_form)(k % 4);
        snprintf(cfg.attention, sizeof cfg.attention, "%s", attention[(k / 2) % 4]);
        oht_model *m = create_model(&cfg);
        const size_t n = oht_model_params(m)->flat_count;
        oht_model_destroy(m);
        const result a = run_model(&cfg, OHT_TRAIN, false, 3), b = run_model(&cfg, OHT_TRAIN, true, 3);
        assert_true(a.loss == b.loss);
        assert_memory_equal(a.grad, b.grad, n * sizeof *a.grad);
        assert_true(b.bytes < a.bytes);
        oht_free(a.grad);
        oht_free(b.grad);
    }
}

static void
test_dropout(void **state) { // each of the two probabilities acts, in both models, in training only
    (void)state;
    for (int type = 0; type < 2; type++) {
        oht_model_config cfg = small_model((oht_model_type)type);
        const result base = run_model(&cfg, OHT_TRAIN, false, 3), next = run_model(&cfg, OHT_TRAIN, false, 4);
        assert_true(base.loss == next.loss); // nothing random is left
        for (int which = 0; which < 2; which++) {
            cfg.dropout = which == 0 ? 0.3 : 0;
            cfg.attention_dropout = which == 1 ? 0.3 : 0;
            const result a = run_model(&cfg, OHT_TRAIN, false, 3), b = run_model(&cfg, OHT_TRAIN, false, 4),
                         e = run_model(&cfg, OHT_EVAL, false, 3);
            assert_true(a.loss != base.loss && a.loss != b.loss);
            assert_true(fabs(e.loss / base.loss - 1) <= 1e-6);
            oht_free(a.grad);
            oht_free(b.grad);
            oht_free(e.grad);
        }
        oht_free(base.grad);
        oht_free(next.grad);
    }
}

// Dropout places: after attention and feed-forward, on P, and on BERT's embeddings.
static void test_dropout_sites(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++) {
        oht_model_config cfg = small_model((oht_model_type)type);
        cfg.dropout = cfg.attention_dropout = 0.1;
        oht_model *m = create_model(&cfg);
        oht_graph *g;
        oht_value loss;
        OK(oht_graph_create(&g, be, oht_model_params(m), OHT_TRAIN, 2, 8));
        OK(oht_model_record(m, g, false, false, &loss));
        assert_int_equal(oht_next_site(g), 3 * 3 + (type == OHT_MODEL_BERT ? 1 : 0));
        oht_graph_destroy(g);
        oht_model_destroy(m);
    }
}

// A graph with more tokens than the model has positions.
static void test_too_long(void **state) {
    (void)state;
    const oht_model_config cfg = small_model(OHT_MODEL_OPT);
    oht_model *m = create_model(&cfg);
    oht_graph *g;
    oht_value loss;
    OK(oht_graph_create(&g, be, oht_model_params(m), OHT_EVAL, 2, 17));
    assert_int_equal(oht_model_record(m, g, false, false, &loss), OHT_CONFIG);
    oht_graph_destroy(g);
    oht_model_destroy(m);
}

int main(void) {
    if (oht_backend_cpu_create(&be) != OHT_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taps),
        cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_dropout_sites),
        cmocka_unit_test(test_too_long),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    oht_backend_destroy(be);
    return failed;
}
