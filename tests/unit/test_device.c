// A device with memory of its own (tests/support/guard.h): training, evaluation, quantized evaluation and checkpoints
// never touch device memory from the host, and give the bits of the CPU; a run moves from one to the other. And what
// needs no device: the choice of precision, the loss scale of fp16.
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "data/images/image_writer.h"
#include "guard.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/quant.h"
#include "oht/session.h"
#include "tiny.h"

static oht_comm *world;
static char folder[256], opt_data[320], bert_data[320], image_data[320];
static bool guarded; // devices of sessions from now on
static int devices;  // that a guarded node shows

oht_status __real_oht_backend_create(const char *device, int local_rank, oht_backend **out);
oht_status __wrap_oht_backend_create(const char *device, int local_rank, oht_backend **out);
oht_status __wrap_oht_backend_create(const char *device, int local_rank, oht_backend **out) {
    if (!guarded) return __real_oht_backend_create(device, local_rank, out);
    OHT_TRY(guard_create(out));
    (*out)->devices = devices;
    return OHT_OK;
}

// ---- the guard itself ----

// Ends a child by what it does with device memory; the signal that ended it.
static int signal_of(int what) {
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        oht_backend *be;
        void *x;
        float host[16] = {0};
        if (guard_create(&be) != OHT_OK || be->alloc(be, &x, 64, "test") != OHT_OK) _exit(2);
        be->upload(be, x, host, 64);
        be->download(be, host, x, 64);
        if (what == 1) host[1] = *(volatile float *)x;
        if (what == 2) *(volatile float *)x = 1.0f;
        if (what == 3) be->zero(be, host, 64);
        if (what == 4) be->upload(be, (float *)x + 8, host, 64); // beyond its end
        if (what == 5) (void)be->sumsq(be, host, 16);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void guard_guards(void **state) {
    (void)state;
    assert_int_equal(signal_of(0), 0);
    for (int what = 1; what <= 5; what++) assert_true(signal_of(what) != 0);
}

// ---- runs ----
static oht_status make_images(const char *path) {
    static char *class_name[] = {"a", "b", "c"};
    enum { SIDE = 12 };
    oht_image_writer w = {0};
    oht_buffer encoded = {0};
    uint32_t seed = 5;
    OHT_TRY(oht_image_writer_open(&w, path));
    for (int split = 0; split < 2; split++) {
        OHT_TRY(oht_image_writer_start(&w, (oht_split)split));
        for (int i = 0; i < 24; i++) {
            uint8_t pixels[SIDE * SIDE * 3];
            for (size_t k = 0; k < sizeof(pixels); k++)
                pixels[k] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
            oht_picture p = {pixels, SIDE * 3, SIDE, SIDE};
            size_t n;
            OHT_TRY(oht_image_encode(&p, &encoded, &n));
            OHT_TRY(oht_image_writer_add(&w, i % 3, encoded.data, (int64_t)n));
        }
        OHT_TRY(oht_image_writer_end(&w));
    }
    const oht_names classes = {class_name, 3, 3}, nobody = {0};
    OHT_TRY(oht_image_writer_finish(&w, &classes, &nobody, "{}"));
    oht_image_writer_close(&w);
    oht_buffer_free(&encoded);
    return OHT_OK;
}

static void configure(oht_config *cfg, oht_model_type type) {
    tiny_config(cfg, type, type == OHT_MODEL_BERT ? bert_data : type == OHT_MODEL_VIT ? image_data : opt_data);
    cfg->train.steps = 6;
    cfg->train.eval_every = 3;
    cfg->run.checkpoint_every = 3;
    cfg->outliers.every = 2;
    if (type == OHT_MODEL_VIT) {
        oht_config defaults;
        oht_config_defaults(&defaults);
        cfg->model.vocab_size = defaults.model.vocab_size; // not read
        cfg->model.max_tokens = defaults.model.max_tokens;
        cfg->data.mlm_probability = defaults.data.mlm_probability;
        cfg->model.image_size = 12;
        cfg->model.patch = 4;
        cfg->model.classes = 3;
        cfg->data.mix_batch = 4;
        cfg->data.threads = 1;
    } else {
        cfg->quant.every = 2;
    }
    if (type == OHT_MODEL_OPT) {
        cfg->model.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
        cfg->train.recompute = true;
    }
    OK(oht_config_check(cfg));
}

static char *in_folder(char out[320], const char *name, oht_model_type type, bool on_guard) {
    snprintf(out, 320, "%s/%s-%d-%d", folder, name, (int)type, on_guard);
    return out;
}

// Newest checkpoint, on the host.
static float *checkpoint_of(const oht_config *cfg, const char *run, size_t *count) {
    oht_session *s;
    bool found, was = guarded;
    guarded = false;
    OK(oht_session_create(&s, world, cfg, NULL, OHT_FOR_TRAINING));
    OK(oht_session_allocate(s));
    OK(oht_session_restore(s, run, true, &found));
    assert_true(found);
    assert_int_equal(s->state.step, cfg->train.steps);
    size_t n = s->params->flat_count;
    float *all = malloc(3 * n * sizeof(float));
    memcpy(all, s->state.param, n * sizeof(float));
    memcpy(all + n, s->state.m, n * sizeof(float));
    memcpy(all + 2 * n, s->state.v, n * sizeof(float));
    oht_session_destroy(s);
    guarded = was;
    *count = 3 * n;
    return all;
}

static void assert_same_file(const char *a, const char *b, const char *name) {
    char path[400], line[2][4096];
    FILE *f[2];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", i ? b : a, name);
        f[i] = fopen(path, "r");
        assert_non_null(f[i]);
    }
    int lines = 0;
    while (fgets(line[0], sizeof(line[0]), f[0])) {
        assert_non_null(fgets(line[1], sizeof(line[1]), f[1]));
        for (int i = 0; i < 2; i++) { // times differ
            char *time = strstr(line[i], ", \"tokens_per_s\"");
            if (!time) time = strstr(line[i], ", \"seconds\"");
            if (time) *time = '\0';
        }
        assert_string_equal(line[0], line[1]);
        lines++;
    }
    assert_null(fgets(line[1], sizeof(line[1]), f[1]));
    assert_true(lines > 5);
    fclose(f[0]);
    fclose(f[1]);
}

static void train(const oht_config *cfg, const char *run, bool on_guard) {
    guarded = on_guard;
    OK(oht_train(world, cfg, run));
    guarded = false;
}

// The same run on both; and one that starts here and goes on there.
static void runs_are_the_same(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_OPT, OHT_MODEL_BERT, OHT_MODEL_VIT};
    for (int k = 0; k < 3; k++) {
        oht_config cfg;
        char here[320], there[320], moved[320], back[320];
        configure(&cfg, types[k]);
        in_folder(here, "whole", types[k], false);
        in_folder(there, "whole", types[k], true);
        in_folder(moved, "moved", types[k], true);
        in_folder(back, "moved", types[k], false);
        train(&cfg, here, false);
        train(&cfg, there, true);
        cfg.train.steps = 3;
        train(&cfg, moved, false);
        train(&cfg, back, true);
        cfg.train.steps = 6;
        cfg.run.resume = OHT_RESUME_MUST;
        train(&cfg, moved, true);
        train(&cfg, back, false);
        size_t n, n_other;
        float *want = checkpoint_of(&cfg, here, &n);
        const char *others[] = {there, moved, back};
        for (int i = 0; i < 3; i++) {
            float *got = checkpoint_of(&cfg, others[i], &n_other);
            assert_int_equal(n, n_other);
            assert_memory_equal(want, got, n * sizeof(float));
            free(got);
        }
        free(want);
        assert_same_file(here, there, "metrics.jsonl");
    }
}

static void quantized_evaluation_is_the_same(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_OPT, OHT_MODEL_BERT};
    for (int k = 0; k < 2; k++) {
        oht_config cfg;
        char run[320];
        oht_eval_result exact[2], quantized[2];
        configure(&cfg, types[k]);
        cfg.quant.weights = cfg.quant.activations = 8;
        cfg.quant.per_channel = true;
        cfg.quant.batches = 1;
        cfg.quant.batch = 4;
        cfg.quant.integer_check = true;
        cfg.quant.include_masked_scores = false;
        cfg.quant.activation_ranges = k ? OHT_RANGE_MSE : OHT_RANGE_RUNNING_MINMAX;
        cfg.quant.percentile = k ? 0 : 99.0;
        OK(oht_config_check(&cfg));
        in_folder(run, "whole", types[k], false);
        for (int g = 0; g < 2; g++) {
            oht_session *s;
            oht_quant *q;
            bool found;
            guarded = g;
            OK(oht_session_create(&s, world, &cfg, NULL, OHT_FOR_EVALUATION));
            OK(oht_session_allocate(s));
            OK(oht_session_restore(s, run, false, &found));
            assert_true(found);
            OK(oht_evaluate(s, 0, &exact[g]));
            OK(oht_quant_create(&q, s, &cfg.quant, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION));
            OK(oht_quant_calibrate(q, 7));
            OK(oht_quant_evaluate(q, 0, true, &quantized[g]));
            oht_quant_destroy(q);
            oht_session_destroy(s);
            guarded = false;
        }
        assert_true(exact[0].loss == exact[1].loss && quantized[0].loss == quantized[1].loss);
        assert_memory_equal(&exact[0].outliers, &exact[1].outliers, sizeof(exact[0].outliers));
        assert_true(quantized[0].loss != exact[0].loss);
    }
}

// ---- precision and devices ----
static oht_status session_status(const oht_config *cfg) {
    oht_session *s = NULL;
    oht_status status = oht_session_create(&s, world, cfg, NULL, OHT_FOR_TRAINING);
    oht_session_destroy(s);
    return status;
}

static void precision_of_the_device(void **state) {
    (void)state;
    oht_config cfg;
    configure(&cfg, OHT_MODEL_OPT);
    const char *refused[] = {"bf16", "fp16", "tf32"};
    for (int i = 0; i < 3; i++) {
        snprintf(cfg.train.precision, sizeof(cfg.train.precision), "%s", refused[i]);
        FAILS(session_status(&cfg), OHT_CONFIG, refused[i]);
        assert_non_null(strstr(oht_error_last()->text, "the cpu backend computes in fp32"));
    }
    snprintf(cfg.train.precision, sizeof(cfg.train.precision), "fp32");
    OK(session_status(&cfg));
    guarded = true; // without collectives one rank is fine, and more ranks than devices are not
    devices = 1;
    OK(session_status(&cfg));
    guarded = false;
    devices = 0;
}

// ---- the loss scale ----
static oht_session *open_session(const oht_config *cfg) {
    oht_session *s;
    OK(oht_session_create(&s, world, cfg, NULL, OHT_FOR_TRAINING));
    OK(oht_session_allocate(s));
    return s;
}

static void step(oht_session *s, oht_step_result *r) {
    oht_loader_config lc =
        oht_session_loader(s, OHT_SPLIT_TRAIN, s->cfg->train.global_batch, oht_graph_rows(s->train_graph), s->state.step, 1);
    oht_loader *loader;
    const oht_step_batch *batch;
    OK(oht_loader_create(&loader, s->cfg->data.path, &lc));
    OK(oht_loader_next(loader, &batch));
    OK(oht_step(s, batch, OHT_OK, false, r));
    oht_loader_destroy(loader);
}

// In fp32 nothing is lost by a power of two: the same bits, whatever the scale.
static void scale_changes_nothing(void **state) {
    (void)state;
    oht_config cfg;
    configure(&cfg, OHT_MODEL_BERT);
    oht_session *plain = open_session(&cfg), *scaled = open_session(&cfg);
    scaled->state.loss_scale = 65536;
    scaled->state.good_steps = 1997;
    for (int i = 0; i < 5; i++) {
        oht_step_result a, b;
        step(plain, &a);
        step(scaled, &b);
        assert_true(a.loss == b.loss && a.grad_norm == b.grad_norm && !b.skipped);
        assert_true(a.loss_scale == 0 && b.loss_scale == (i < 3 ? 65536 : 131072)); // doubled after the 2000th good one
        assert_int_equal(scaled->state.good_steps, i < 2 ? 1998 + i : i - 2);
    }
    assert_memory_equal(plain->state.param, scaled->state.param, plain->params->flat_count * sizeof(float));
    oht_session_destroy(plain);
    oht_session_destroy(scaled);
}

// Gradients overflow until the scale is small enough; then the step is the one that no scale would have made, but for
// the data, which went on.
static void overflow_skips_and_halves(void **state) {
    (void)state;
    oht_config cfg;
    char run[320];
    configure(&cfg, OHT_MODEL_OPT);
    cfg.train.schedule = OHT_LR_LINEAR;
    cfg.train.warmup_steps = 4;
    oht_session *s = open_session(&cfg);
    size_t bytes = s->params->flat_count * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, s->state.param, bytes);
    s->state.loss_scale = ldexp(1.0, 138); // beyond float
    s->state.good_steps = 9;
    oht_step_result r;
    int skipped = 0;
    for (step(s, &r); r.skipped; step(s, &r)) {
        skipped++;
        assert_true(skipped < 40);
        assert_int_equal(s->state.step, skipped);
        assert_int_equal(s->state.skipped, skipped);
        assert_int_equal(s->state.good_steps, 0);
        assert_true(s->state.loss_scale == ldexp(1.0, 138 - skipped));
        assert_memory_equal(before, s->state.param, bytes);
        assert_true(r.lr == 0.0); // the schedule waits for the first update
    }
    assert_true(skipped >= 3 && isfinite(r.loss) && isfinite(r.grad_norm));
    step(s, &r);
    assert_true(r.lr == cfg.train.lr / 4);
    assert_true(memcmp(before, s->state.param, bytes) != 0);
    snprintf(run, sizeof(run), "%s/scaled", folder);
    OK(oht_checkpoint_write(run, &cfg, s->params, s->be, &s->state, 1));
    oht_session *back = open_session(&cfg);
    bool found;
    OK(oht_session_restore(back, run, true, &found)); // not in fp16: no scale, but the number of updates
    assert_true(found && back->state.loss_scale == 0 && back->state.skipped == skipped);
    back->state.loss_scale = 65536;
    OK(oht_session_restore(back, run, true, &found));
    assert_true(back->state.loss_scale == s->state.loss_scale && back->state.good_steps == s->state.good_steps);
    assert_int_equal(back->state.skipped, skipped);
    oht_session_destroy(back);
    free(before);
    oht_session_destroy(s);
}

// What no scale cures ends the run, and says where.
static void hopeless_gradients_end(void **state) {
    (void)state;
    oht_config cfg;
    configure(&cfg, OHT_MODEL_OPT);
    oht_session *s = open_session(&cfg);
    s->state.param[oht_params_find(s->params, "layer.1.ffn2.weight")->offset] = NAN;
    s->state.loss_scale = 0x1p-9;
    oht_step_result r;
    step(s, &r);
    assert_true(r.skipped);
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, 8, oht_graph_rows(s->train_graph), 1, 1);
    oht_loader *loader;
    const oht_step_batch *batch;
    OK(oht_loader_create(&loader, cfg.data.path, &lc));
    OK(oht_loader_next(loader, &batch));
    FAILS(oht_step(s, batch, OHT_OK, false, &r), OHT_NUMERIC, "layer.1.ffn.out");
    oht_loader_destroy(loader);
    oht_session_destroy(s);
}

static int set_up(void **state) {
    (void)state;
    tiny_folder(folder);
    snprintf(opt_data, sizeof(opt_data), "%s/opt.h5", folder);
    snprintf(bert_data, sizeof(bert_data), "%s/bert.h5", folder);
    snprintf(image_data, sizeof(image_data), "%s/images.h5", folder);
    oht_log_init(0, true, "lines");
    if (tiny_text(opt_data, false, false, 120, 11) != OHT_OK || tiny_text(bert_data, true, true, 120, 11) != OHT_OK ||
        make_images(image_data) != OHT_OK) {
        fprintf(stderr, "%s\n", oht_error_last()->text);
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tiny_remove(folder);
    return 0;
}

int main(int argc, char **argv) {
    if (oht_comm_init(&argc, &argv, &world) != OHT_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guard_guards),
        cmocka_unit_test(runs_are_the_same),
        cmocka_unit_test(quantized_evaluation_is_the_same),
        cmocka_unit_test(precision_of_the_device),
        cmocka_unit_test(scale_changes_nothing),
        cmocka_unit_test(overflow_skips_and_halves),
        cmocka_unit_test(hopeless_gradients_end),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    oht_comm_finalize(world);
    return failed;
}
