// Quantized evaluation of trained models: what must not change it, what must, injected outliers, sensitivity,
// files, bad input.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "inject.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "quant/internal.h"
#include "tiny.h"

static oht_comm *world;
static char folder[256], opt_data[320], bert_data[320], padded_data[320], opt_run[320], bert_run[320];

static void configure(oht_config *cfg, oht_model_type type) {
    tiny_config(cfg, type, type == OHT_MODEL_BERT ? bert_data : opt_data);
    cfg->model.dropout = cfg->model.attention_dropout = 0;
    cfg->train.steps = 60;
    cfg->train.lr = 1e-2;
    cfg->train.global_batch = cfg->train.micro_batch = 16;
    cfg->quant.weights = cfg->quant.activations = 8;
    cfg->quant.batches = 3; // the validation split has as many
}

typedef struct twin {
    oht_config cfg;
    oht_session *s;
    oht_quant *q;
    oht_eval_result fp;
} twin;

// The trained model of a type; the twin's configuration is the caller's.
static void open_twin(twin *t, const oht_config *cfg) {
    bool found;
    t->cfg = *cfg;
    OK(oht_config_check(&t->cfg));
    OK(oht_session_create(&t->s, world, &t->cfg, NULL, OHT_FOR_EVALUATION));
    OK(oht_session_allocate(t->s));
    OK(oht_session_restore(t->s, cfg->model.type == OHT_MODEL_BERT ? bert_run : opt_run, false, &found));
    assert_true(found);
    OK(oht_evaluate(t->s, 0, &t->fp));
    OK(oht_quant_create(&t->q, t->s, &t->cfg.quant, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION));
}

static void close_twin(twin *t) {
    oht_quant_destroy(t->q);
    oht_session_destroy(t->s);
}

static double quantized_loss(const oht_config *cfg, oht_eval_result *fp) {
    twin t;
    oht_eval_result r;
    open_twin(&t, cfg);
    OK(oht_quant_calibrate(t.q, (uint64_t)cfg->quant.seed));
    OK(oht_quant_evaluate(t.q, 0, true, &r));
    if (fp) *fp = t.fp;
    assert_int_equal(r.sequences, t.fp.sequences);
    close_twin(&t);
    return r.loss;
}

// 16 bits change nothing that matters, few bits do; every key reaches the result.
static void bits_and_keys_matter(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        oht_config cfg;
        oht_eval_result fp;
        configure(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        double w8a8 = quantized_loss(&cfg, &fp), loss;
        assert_true(fabs(w8a8 / fp.loss - 1) < 0.02 && w8a8 != fp.loss);
        assert_true(quantized_loss(&cfg, NULL) == w8a8); // repeats bit by bit
        cfg.quant.weights = cfg.quant.activations = 16;
        // All extremes seen: what is measured is the rounding, not the clipping.
        cfg.quant.calibration = OHT_CALIBRATE_VALIDATION;
        cfg.quant.activation_ranges = OHT_RANGE_MINMAX;
        cfg.quant.batches = 1;
        cfg.quant.batch = 24;
        loss = quantized_loss(&cfg, &fp);
        if (!(fabs(loss / fp.loss - 1) < 1e-3)) fail_msg("16 bits: loss %.9g, exact %.9g", loss, fp.loss);
        configure(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        cfg.quant.weights = 3;
        cfg.quant.activations = 3;
        assert_true(quantized_loss(&cfg, NULL) > w8a8 + 0.01);
        cfg.quant.activations = 0;
        double weights_only = quantized_loss(&cfg, NULL);
        cfg.quant.per_channel = true;
        assert_true(quantized_loss(&cfg, NULL) != weights_only);
        cfg.quant.per_channel = false;
        cfg.quant.weight_ranges = OHT_RANGE_MSE;
        assert_true(quantized_loss(&cfg, NULL) != weights_only);
        cfg.quant.mse_margin = OHT_MARGIN_RELATIVE;
        assert_true(quantized_loss(&cfg, NULL) < weights_only); // three bits: the extremes are a bad range
        configure(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        cfg.quant.batches = 1;
        w8a8 = quantized_loss(&cfg, NULL);
        for (int variant = 0; variant < 7; variant++) {
            oht_config other = cfg;
            if (variant == 0) other.quant.percentile = 99;
            if (variant == 1) other.quant.activation_method = OHT_QUANT_SYMMETRIC;
            if (variant == 2) other.quant.activation_ranges = OHT_RANGE_MSE;
            if (variant == 3) other.quant.seed = 7;
            if (variant == 4) other.quant.calibration = k ? OHT_CALIBRATE_TRAIN : OHT_CALIBRATE_VALIDATION;
            if (variant == 5) other.quant.batch = 4;
            if (variant == 6 && k) continue;
            if (variant == 6) other.quant.setup = OHT_QUANT_ALL;
            if (quantized_loss(&other, NULL) == w8a8) fail_msg("variant %d changes nothing", variant);
        }
    }
}

// ---- outliers
// ------------------------------------------------------------------------------------------------------------

// Rows of the site's tap in the statistics.
static double inf_norm_of(const oht_stats *stats, const char *name) {
    const oht_tap_info *info;
    const oht_tap_stats *tap;
    int n = oht_stats_taps(stats, &info, &tap);
    for (int i = 0; i < n; i++)
        if (strcmp(info[i].name, name) == 0) return tap[i].inf_sum / (double)tap[i].rows;
    fail_msg("no tap %s", name);
    return 0;
}

static double kurtosis_of(const oht_stats *stats, const char *name) {
    const oht_tap_info *info;
    const oht_tap_stats *tap;
    int n = oht_stats_taps(stats, &info, &tap);
    for (int i = 0; i < n; i++)
        if (strcmp(info[i].name, name) == 0) return tap[i].kurtosis_sum / (double)tap[i].kurtosis_rows;
    fail_msg("no tap %s", name);
    return 0;
}

static void injected_outliers_are_found(void **state) {
    (void)state;
    static const char *const site[] = {"layer.1.ffn1.out", "layer.1.ln2.out"};
    // With weights of 8 bits, and of 16: the helper scales weights, too, whose own loss must be kept apart
    // for the ranking.
    for (int c = 0; c < 4; c++) {
        const int place = c / 2;
        const bool rank_it = c % 2;
        double exact = 0, loss_before = 0, norm_before = 0, kurtosis_before = 0;
        for (int size = 0; size < 3; size++) {
            const float k[] = {1.0f, 32.0f, 1024.0f};
            oht_config cfg;
            twin t;
            oht_eval_result r;
            oht_quant_rank *rank;
            int n;
            configure(&cfg, OHT_MODEL_OPT);
            cfg.quant.calibration = OHT_CALIBRATE_VALIDATION;
            if (rank_it) cfg.quant.weights = 16;
            open_twin(&t, &cfg);
            // The channel with the largest mean, so that ReLU lets it pass.
            int channel = 0;
            if (place == INJECT_FFN) {
                const oht_param *b = oht_params_find(t.s->params, "layer.1.ffn1.bias");
                for (int i = 1; i < b->count; i++)
                    if (t.s->state.param[b->offset + (size_t)i] >
                        t.s->state.param[b->offset + (size_t)channel])
                        channel = i;
            }
            inject_outlier(t.s->params, t.s->state.param, (inject_place)place, 1, channel, k[size]);
            OK(oht_evaluate(t.s, 0, &t.fp));
            if (size == 0) exact = t.fp.loss;
            assert_true(t.fp.loss == exact); // to the bit
            double norm = inf_norm_of(t.s->eval_stats, site[place]),
                   kurtosis = kurtosis_of(t.s->eval_stats, site[place]);
            OK(oht_quant_calibrate(t.q, 1));
            OK(oht_quant_evaluate(t.q, 0, false, &r));
            if (size > 0) {
                if (!(r.loss > loss_before))
                    fail_msg("%s x %g: loss %g, before %g", site[place], (double)k[size], r.loss,
                             loss_before);
                assert_true(norm > 2 * norm_before);
                assert_true(kurtosis > kurtosis_before);
            }
            printf("%s x %-5g exact %.6f, W%dA8 %.6f, inf norm %8.2f, kurtosis %7.2f\n", site[place], (double)k[size],
                   t.fp.loss, (int)cfg.quant.weights, r.loss, norm, kurtosis);
            loss_before = r.loss, norm_before = norm, kurtosis_before = kurtosis;
            if (size == 2 && rank_it) {
                OK(oht_quant_sensitivity(t.q, OHT_QUANT_BY_SITE, 0, &rank, &n));
                if (strcmp(rank[0].name, site[place]) != 0)
                    fail_msg("first is %s, expected %s", rank[0].name, site[place]);
                printf("  ranked: %s %+.6f, then %s %+.6f\n", rank[0].name, rank[0].recovered, rank[1].name, rank[1].recovered);
                assert_true(rank[0].recovered > 3 * fabs(rank[1].recovered));
                assert_true(r.loss - rank[0].loss == rank[0].recovered);
                oht_free(rank);
                OK(oht_quant_sensitivity(t.q, OHT_QUANT_BY_LAYER, 0, &rank, &n));
                assert_string_equal(rank[0].name, "layer.1");
                assert_int_equal(n, 3);
                oht_free(rank);
                OK(oht_quant_sensitivity(t.q, OHT_QUANT_BY_KIND, 0, &rank, &n));
                assert_string_equal(rank[0].name, place == INJECT_FFN ? "activation" : "norm");
                oht_free(rank);
                oht_eval_result again; // the analysis leaves no trace
                OK(oht_quant_evaluate(t.q, 0, false, &again));
                assert_true(again.loss == r.loss);
                const oht_quant_site *s;
                int sites = oht_quant_sites(t.q, &s);
                for (int i = 0; i < sites; i++)
                    if (strcmp(s[i].name, site[place]) == 0) assert_true(s[i].q.hi - s[i].q.lo > 20);
            }
            close_twin(&t);
        }
    }
}

// ---- files
// -----------------------------------------------------------------------------------------------------------------

static void files_hold_what_was_measured(void **state) {
    (void)state;
    oht_config cfg;
    twin t;
    oht_eval_result r, again;
    oht_quant_rank *rank;
    int n;
    char path[400];
    configure(&cfg, OHT_MODEL_OPT);
    cfg.quant.per_channel = true;
    open_twin(&t, &cfg);
    OK(oht_quant_calibrate(t.q, 1));
    OK(oht_quant_evaluate(t.q, 0, true, &r));
    OK(oht_quant_sensitivity(t.q, OHT_QUANT_BY_KIND, 2, &rank, &n));
    OK(oht_quant_export(t.q, opt_run));
    oht_quant_summary m = {.step = 60,
                           .fp = &t.fp,
                           .result = &r,
                           .n = 1,
                           .rank = rank,
                           .n_ranks = n,
                           .level = OHT_QUANT_BY_KIND};
    for (int i = 0; i < 2; i++) OK(oht_quant_report(t.q, opt_run, &m));

    const oht_quant_site *site;
    int sites = oht_quant_sites(t.q, &site), activations = t.q->n_activations;
    oht_h5 *file;
    double number[256];
    snprintf(path, sizeof(path), "%s/outliers.h5", opt_run);
    OK(oht_h5_open(&file, path));
    OK(oht_h5_read(file, "/quant/1/activations/sqnr_db", 0, activations, OHT_H5_F64, number));
    for (int i = 0; i < activations; i++)
        assert_true(number[i] == oht_quant_sqnr(&site[i]) && number[i] > 10 && number[i] < 120);
    OK(oht_h5_read(file, "/quant/1/sensitivity/recovered", 0, n, OHT_H5_F64, number));
    for (int i = 0; i < n; i++) assert_true(number[i] == rank[i].recovered);
    OK(oht_h5_get_float(file, "/quant/0", "loss", number));
    assert_true(number[0] == r.loss);
    oht_h5_close(file);
    oht_free(rank);

    snprintf(path, sizeof(path), "%s/quant.json", opt_run);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    json_t *list = json_object_get(root, "activations"), *weights = json_object_get(root, "weights");
    assert_int_equal(json_array_size(list), activations);
    assert_int_equal(json_array_size(weights), sites - activations);
    for (int i = 0; i < activations; i++) {
        json_t *o = json_array_get(list, (size_t)i);
        assert_string_equal(json_string_value(json_object_get(o, "site")), site[i].name);
        assert_true(json_real_value(json_object_get(o, "step")) == site[i].q.step);
        assert_int_equal(json_integer_value(json_object_get(o, "zero")), site[i].q.zero);
    }
    json_t *steps = json_object_get(json_array_get(weights, 0), "steps");
    assert_int_equal(json_array_size(steps), site[activations].channels);
    json_decref(root);

    // The file instead of a calibration: the same bits.
    snprintf(path, sizeof(path), "%s/quant.h5", opt_run);
    twin u;
    open_twin(&u, &cfg);
    OK(oht_quant_load(u.q, path));
    OK(oht_quant_evaluate(u.q, 0, true, &again));
    assert_true(again.loss == r.loss);
    // Other weights: a clear error.
    u.s->state.param[oht_params_find(u.s->params, "layer.0.ffn1.weight")->offset] = 9.0f;
    FAILS(oht_quant_load(u.q, path), OHT_DATA, "other weights");
    close_twin(&u);
    close_twin(&t);
    // Another model, other bits, no file, no quantization file.
    twin b;
    configure(&cfg, OHT_MODEL_BERT);
    cfg.quant.per_channel = true;
    open_twin(&b, &cfg);
    FAILS(oht_quant_load(b.q, path), OHT_DATA, "another model");
    close_twin(&b);
    configure(&cfg, OHT_MODEL_OPT);
    cfg.quant.per_channel = true;
    cfg.quant.activations = 6;
    open_twin(&u, &cfg);
    FAILS(oht_quant_load(u.q, path), OHT_DATA, "quant.activations");
    FAILS(oht_quant_load(u.q, opt_data), OHT_DATA, "format");
    FAILS(oht_quant_load(u.q, "/nowhere/quant.h5"), OHT_IO, "/nowhere/quant.h5");
    close_twin(&u);
}

// ---- bad input
// -------------------------------------------------------------------------------------------------------------

static void bad_input_is_refused(void **state) {
    (void)state;
    oht_config cfg;
    static const char *const keys[] = {
        "quant.batches=0", "quant.batch=0",        "quant.weights=17", "quant.activations=-1",
        "quant.seeds=0",   "quant.percentile=101", "quant.setup=none", "quant.activation_ranges=L3"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        configure(&cfg, OHT_MODEL_OPT);
        FAILS(oht_config_set(&cfg, keys[i]), OHT_CONFIG, "quant.");
    }
    for (int c = 0; c < 9; c++) {
        configure(&cfg, c == 2 ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        if (c == 0) cfg.quant.weights = 1;
        if (c == 1) cfg.quant.activations = 1;
        if (c == 2) cfg.quant.setup = OHT_QUANT_ALL;
        if (c == 3) cfg.quant.percentile = 30;
        if (c == 4) cfg.quant.percentile = 99, cfg.quant.activation_ranges = OHT_RANGE_MSE;
        if (c == 5) cfg.quant.integer_check = true, cfg.quant.activations = 10;
        if (c == 6) cfg.quant.integer_check = true, cfg.quant.weights = 0;
        if (c == 7) snprintf(cfg.quant.file, sizeof(cfg.quant.file), "q.h5"), cfg.quant.seeds = 3;
        if (c == 8)
            snprintf(cfg.quant.file, sizeof(cfg.quant.file), "q.h5"),
                cfg.quant.weights = cfg.quant.activations = 0;
        FAILS(oht_config_check(&cfg), OHT_CONFIG, "quant.");
    }
    // More batches than data: the fix it names works.
    twin t;
    configure(&cfg, OHT_MODEL_BERT);
    cfg.quant.batches = 100;
    open_twin(&t, &cfg);
    FAILS(oht_quant_calibrate(t.q, 1), OHT_DATA, "quant.batches=3");
    close_twin(&t);
    cfg.quant.batches = 3;
    (void)quantized_loss(&cfg, NULL);
    // Values that are not finite: the first tensor that holds them is named.
    configure(&cfg, OHT_MODEL_OPT);
    open_twin(&t, &cfg);
    t.s->state.param[oht_params_find(t.s->params, "layer.1.ffn1.bias")->offset] = NAN;
    FAILS(oht_quant_calibrate(t.q, 1), OHT_NUMERIC, "layer.1.ffn1.out");
    t.s->state.param[oht_params_find(t.s->params, "layer.1.ffn1.weight")->offset] = INFINITY;
    FAILS(oht_quant_calibrate(t.q, 1), OHT_NUMERIC, "layer.1.ffn1.weight");
    close_twin(&t);
}

static int setup(void **state) {
    (void)state;
    tiny_folder(folder);
    snprintf(opt_data, sizeof(opt_data), "%s/opt.h5", folder);
    snprintf(bert_data, sizeof(bert_data), "%s/bert.h5", folder);
    snprintf(padded_data, sizeof(padded_data), "%s/padded.h5", folder);
    snprintf(opt_run, sizeof(opt_run), "%s/opt-run", folder);
    snprintf(bert_run, sizeof(bert_run), "%s/bert-run", folder);
    OK(tiny_text(opt_data, false, false, 300, 24));
    OK(tiny_text(bert_data, true, false, 300, 24));
    OK(tiny_text(padded_data, false, true, 60, 24));
    oht_config cfg;
    configure(&cfg, OHT_MODEL_OPT);
    OK(oht_train(world, &cfg, opt_run));
    configure(&cfg, OHT_MODEL_BERT);
    OK(oht_train(world, &cfg, bert_run));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tiny_remove(folder);
    return 0;
}

int main(int argc, char **argv) {
    if (oht_comm_init(&argc, &argv, &world) != OHT_OK) return 1;
    oht_h5_silence();
    oht_log_init(0, true, "lines");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_and_keys_matter),
        cmocka_unit_test(injected_outliers_are_found),
        cmocka_unit_test(files_hold_what_was_measured),
        cmocka_unit_test(bad_input_is_refused),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    oht_comm_finalize(world);
    return failed;
}
