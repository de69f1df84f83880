// Training on one rank: it learns, resumes to the same bits, accumulates as one batch, allocates nothing
// after its first step, stops before an update with numbers that are not finite, and evaluates as the
// specification defines it.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/session.h"
#include "tiny.h"

static oht_comm *world;
static char folder[256], opt_data[320], bert_data[320], padded_data[320];

static char *in_folder(char out[320], const char *name) {
    snprintf(out, 320, "%s/%s", folder, name);
    return out;
}

static const char *data_of(oht_model_type type) {
    return type == OHT_MODEL_BERT ? bert_data : opt_data;
}

// ---- what a run left behind ----
typedef struct trace {
    int n, evaluations;
    double loss[64], eval_loss[64];
    int64_t step[64];
} trace;

static void read_trace(const char *rundir, trace *out) {
    char path[400], line[4096];
    memset(out, 0, sizeof(*out));
    snprintf(path, sizeof(path), "%s/metrics.jsonl", rundir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        json_t *o = json_loads(line, 0, NULL);
        assert_non_null(o);
        json_t *eval = json_object_get(o, "eval");
        if (eval) {
            assert_true(json_is_real(json_object_get(eval, "perplexity")));
            out->eval_loss[out->evaluations++] = json_number_value(json_object_get(eval, "loss"));
        } else {
            static const char *const fields[] = {"loss",         "lr",     "grad_norm",
                                                 "tokens_per_s", "step_s", "data_wait_s"};
            for (size_t i = 0; i < 6; i++) assert_true(json_is_number(json_object_get(o, fields[i])));
            out->step[out->n] = json_integer_value(json_object_get(o, "step"));
            out->loss[out->n++] = json_number_value(json_object_get(o, "loss"));
        }
        json_decref(o);
    }
    fclose(f);
}

static oht_session *open_session(const oht_config *cfg, int parts) {
    oht_session *s;
    OK(oht_session_create(&s, world, cfg, NULL, parts));
    OK(oht_session_allocate(s));
    return s;
}

// The session with the state of a run's newest checkpoint.
static oht_session *restored(const oht_config *cfg, const char *rundir) {
    oht_session *s = open_session(cfg, OHT_FOR_TRAINING);
    bool found;
    OK(oht_session_restore(s, rundir, true, &found));
    assert_true(found);
    return s;
}

static void assert_same_state(const oht_session *a, const oht_session *b) {
    size_t bytes = a->params->flat_count * sizeof(float);
    assert_int_equal(a->state.step, b->state.step);
    assert_memory_equal(a->state.param, b->state.param, bytes);
    assert_memory_equal(a->state.m, b->state.m, bytes);
    assert_memory_equal(a->state.v, b->state.v, bytes);
}

static oht_loader *open_loader(const oht_session *s, int64_t first, int64_t count) {
    const oht_config *cfg = s->cfg;
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, cfg->train.global_batch,
                                              oht_graph_rows(s->train_graph), first, count);
    oht_loader *loader;
    OK(oht_loader_create(&loader, cfg->data.path, &lc));
    return loader;
}

// ---- tests ----
static void loss_falls(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_OPT, OHT_MODEL_BERT};
    for (int k = 0; k < 2; k++) {
        char run[320];
        oht_config cfg;
        tiny_config(&cfg, types[k], data_of(types[k]));
        cfg.train.steps = 60;
        cfg.train.lr = 1e-2;
        cfg.train.global_batch = 16;
        cfg.train.micro_batch = 16;
        cfg.model.dropout = cfg.model.attention_dropout = 0;
        cfg.outliers.every = 20;
        in_folder(run, k ? "falls-bert" : "falls-opt");
        OK(oht_train(world, &cfg, run));
        trace t;
        read_trace(run, &t);
        assert_int_equal(t.n, 60);
        assert_int_equal(t.evaluations, 1);
        if (!(fabs(t.loss[0] - log(TINY_VOCAB)) < 0.5))
            fail_msg("first loss %g, ln V is %g", t.loss[0], log(TINY_VOCAB));
        if (!(t.loss[59] < (k ? 0.85 : 0.6) * t.loss[0]))
            fail_msg("loss fell only from %g to %g", t.loss[0], t.loss[59]);
        if (!(fabs(t.eval_loss[0] - t.loss[59]) < 0.5))
            fail_msg("evaluation %g, training %g", t.eval_loss[0], t.loss[59]);
    }
}

// 12 steps at once, and 5 steps + a new start for the rest: same bits, same log.
static void resume_is_exact(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_OPT, OHT_MODEL_BERT};
    for (int k = 0; k < 2; k++) {
        char whole[320], parts[320];
        oht_config cfg;
        tiny_config(&cfg, types[k], data_of(types[k]));
        cfg.train.eval_every = 4;
        cfg.run.checkpoint_every = 3;
        cfg.outliers.every = 2;
        in_folder(whole, k ? "whole-bert" : "whole-opt");
        in_folder(parts, k ? "parts-bert" : "parts-opt");
        OK(oht_train(world, &cfg, whole));
        cfg.train.steps = 5;
        OK(oht_train(world, &cfg, parts));
        cfg.train.steps = 12;
        cfg.run.resume = OHT_RESUME_MUST;
        OK(oht_train(world, &cfg, parts));
        oht_session *a = restored(&cfg, whole), *b = restored(&cfg, parts);
        assert_int_equal(a->state.step, 12);
        assert_same_state(a, b);
        oht_session_destroy(a);
        oht_session_destroy(b);
        trace x, y;
        read_trace(whole, &x);
        read_trace(parts, &y);
        assert_int_equal(x.n, 12);
        assert_int_equal(y.n, 12);
        assert_memory_equal(x.loss, y.loss, sizeof(x.loss));
        assert_memory_equal(x.step, y.step, sizeof(x.step));
        assert_int_equal(y.evaluations, x.evaluations + 1); // the one at the first end
    }
}

static void __attribute__((format(printf, 1, 2))) shell(const char *format, ...) {
    char command[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

// Lines and rows beyond the checkpoint, half a line: cut at resume. The evaluation that is missing is made up
// for.
static void resume_cuts_back(void **state) {
    (void)state;
    char run[320], whole[320], path[400], saved[400];
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.train.steps = 6;
    cfg.train.eval_every = 3;
    cfg.outliers.every = 1;
    OK(oht_train(world, &cfg, in_folder(whole, "cut-whole")));
    trace reference;
    read_trace(whole, &reference);

    cfg.train.steps = 3;
    OK(oht_train(world, &cfg, in_folder(run, "cut")));
    snprintf(saved, sizeof(saved), "%s/saved.h5", folder);
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000003.h5", run);
    shell("cp '%s' '%s'", path, saved);
    cfg.train.steps = 6;
    OK(oht_train(world, &cfg, run));
    // Back to step 3, as if killed after step 6 had been logged and before its checkpoint.
    shell("cd '%s' && rm -rf checkpoints && mkdir checkpoints && cp '%s' checkpoints/step-00000003.h5", run,
          saved);
    snprintf(path, sizeof(path), "%s/metrics.jsonl", run);
    FILE *f = fopen(path, "a");
    fputs("{\"step\": 7, \"lo", f);
    fclose(f);
    OK(oht_train(world, &cfg, run));
    trace t;
    read_trace(run, &t);
    assert_int_equal(t.n, 6);
    assert_int_equal(t.evaluations, 2);
    assert_memory_equal(t.loss, reference.loss, sizeof(t.loss));
    assert_memory_equal(t.eval_loss, reference.eval_loss, sizeof(t.eval_loss));

    // Stopped between the last step and its evaluation: the evaluation line is missing.
    shell("cd '%s' && grep -v 'step\": 6, \"eval' metrics.jsonl > m && mv m metrics.jsonl", run);
    read_trace(run, &t);
    assert_int_equal(t.evaluations, 1);
    OK(oht_train(world, &cfg, run));
    read_trace(run, &t);
    assert_int_equal(t.evaluations, 2);
    assert_memory_equal(t.eval_loss, reference.eval_loss, sizeof(t.eval_loss));
}

static void directory_rules(void **state) {
    (void)state;
    char run[320], none[320], path[400];
    oht_config cfg;
    struct stat before, after;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.train.steps = 2;
    OK(oht_train(world, &cfg, in_folder(run, "rules")));
    snprintf(path, sizeof(path), "%s/metrics.jsonl", run);
    assert_int_equal(stat(path, &before), 0);
    OK(oht_train(world, &cfg, run)); // finished: nothing happens
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_size, after.st_size);

    cfg.run.resume = OHT_RESUME_NEVER;
    FAILS(oht_train(world, &cfg, run), OHT_CONFIG, "run.resume");
    cfg.run.resume = OHT_RESUME_MUST;
    FAILS(oht_train(world, &cfg, in_folder(none, "no-such-run")), OHT_CONFIG, "run.resume");
    cfg.run.resume = OHT_RESUME_AUTO;
    oht_config other = cfg;
    other.train.lr *= 2;
    FAILS(oht_train(world, &other, run), OHT_CONFIG, "train.lr");
    other = cfg;
    other.model.layers = 3;
    FAILS(oht_train(world, &other, run), OHT_CONFIG, "model.layers");

    snprintf(path, sizeof(path), "%s/file", folder);
    FILE *f = fopen(path, "w");
    fclose(f);
    snprintf(path, sizeof(path), "%s/file/run", folder);
    assert_int_equal(oht_train(world, &cfg, path), OHT_IO);
}

static void data_must_fit(void **state) {
    (void)state;
    char run[320];
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, bert_data);
    FAILS(oht_train(world, &cfg, in_folder(run, "fit")), OHT_DATA, "masked");
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.model.vocab_size = TINY_VOCAB - 1;
    FAILS(oht_train(world, &cfg, run), OHT_DATA, "model.vocab_size");
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.data.tokens = TINY_TOKENS / 2;
    FAILS(oht_train(world, &cfg, run), OHT_DATA, "data.tokens");
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.model.max_tokens = TINY_TOKENS / 2;
    FAILS(oht_train(world, &cfg, run), OHT_CONFIG, "model.max_tokens");
    tiny_config(&cfg, OHT_MODEL_OPT, "/no/such/file.h5");
    assert_true(oht_train(world, &cfg, run) != OHT_OK);
    assert_true(access(run, F_OK) != 0); // no run directory for a run that cannot start
}

// One optimizer step on the first global batch with a given micro-batch; the gradient stays in the session.
static oht_session *first_step(oht_config *cfg, int64_t micro, oht_step_result *r) {
    cfg->train.micro_batch = micro;
    oht_session *s = open_session(cfg, OHT_FOR_TRAINING);
    oht_loader *loader = open_loader(s, 0, 1);
    const oht_step_batch *batch;
    OK(oht_loader_next(loader, &batch));
    assert_int_equal(batch->n_micro, (cfg->train.global_batch + micro - 1) / micro);
    OK(oht_step(s, batch, OHT_OK, false, r));
    oht_loader_destroy(loader);
    return s;
}

static void accumulation_is_one_batch(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        oht_config cfg;
        tiny_config(&cfg, k == 1 ? OHT_MODEL_BERT : OHT_MODEL_OPT,
                    k == 2 ? padded_data
                    : k    ? bert_data
                           : opt_data);
        cfg.train.global_batch = 7;
        cfg.train.clip = 0;
        oht_step_result whole, part;
        oht_session *a = first_step(&cfg, 7, &whole);
        for (int64_t micro = 1; micro < 7; micro++) {
            oht_session *b = first_step(&cfg, micro, &part);
            assert_int_equal(whole.labels, part.labels);
            double error = 0, norm = 0;
            for (size_t i = 0; i < a->params->flat_count; i++) {
                error += pow((double)a->state.grad[i] - (double)b->state.grad[i], 2);
                norm += pow((double)a->state.grad[i], 2);
            }
            if (!(fabs(whole.loss - part.loss) <= 1e-6 * whole.loss))
                fail_msg("micro %d: loss %.9g, %.9g", (int)micro, part.loss, whole.loss);
            if (!(sqrt(error) <= 1e-5 * sqrt(norm)))
                fail_msg("micro %d: gradients differ by %g", (int)micro, sqrt(error / norm));
            if (!(fabs(sqrt(norm) - whole.grad_norm) <= 1e-6 * whole.grad_norm))
                fail_msg("norm %g, reported %g", sqrt(norm), whole.grad_norm);
            oht_session_destroy(b);
        }
        oht_session_destroy(a);
    }
}

// compat.micro_batch_mean: the mean of the micro-batches' means.
static void mean_of_means(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_BERT, bert_data);
    cfg.model.dropout = cfg.model.attention_dropout = 0;
    cfg.train.micro_batch = 1;
    cfg.train.schedule = OHT_LR_LINEAR; // the first update of a warm-up changes nothing
    cfg.train.warmup_steps = 4;
    oht_session *s = open_session(&cfg, OHT_FOR_TRAINING);
    oht_loader *loader = open_loader(s, 0, 1);
    const oht_step_batch *batch;
    oht_step_result r;
    OK(oht_loader_next(loader, &batch));
    double means = 0, sum = 0;
    int64_t counted = 0, labels = 0;
    for (int64_t i = 0; i < batch->n_micro; i++) {
        oht_step_batch one = *batch;
        one.n_micro = 1;
        one.micro = batch->micro + i;
        OK(oht_step(s, &one, OHT_OK, false, &r));
        s->state.step = 0;
        if (one.micro->n_labels == 0) continue;
        means += r.loss;
        counted++;
        sum += r.loss * (double)one.micro->n_labels;
        labels += one.micro->n_labels;
    }
    OK(oht_step(s, batch, OHT_OK, false, &r));
    s->state.step = 0;
    if (!(fabs(r.loss - sum / (double)labels) <= 1e-6))
        fail_msg("%g is not %g", r.loss, sum / (double)labels);
    cfg.compat.micro_batch_mean = true;
    OK(oht_step(s, batch, OHT_OK, false, &r));
    if (!(fabs(r.loss - means / (double)counted) <= 1e-6))
        fail_msg("%g is not %g", r.loss, means / (double)counted);
    assert_true(fabs(sum / (double)labels - means / (double)counted) > 1e-5); // or the test shows nothing
    oht_loader_destroy(loader);
    oht_session_destroy(s);
}

// First update from zero moments: m = (1 - beta1) coef g, so its norm is the clipped norm; and AdamW's
// formula by hand.
static void clipped_update(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.train.clip = 0.01;
    oht_step_result r;
    oht_session *s = first_step(&cfg, 8, &r), *start = open_session(&cfg, OHT_FOR_TRAINING);
    assert_true(r.grad_norm > 0.02);
    double coef = 0.01 / (r.grad_norm + 1e-6), b1 = cfg.train.beta1, b2 = cfg.train.beta2;
    for (int i = 0; i < s->params->n; i++) {
        const oht_param *p = &s->params->item[i];
        double wd = oht_param_decays(p, cfg.train.no_decay) ? cfg.train.weight_decay : 0;
        for (size_t e = p->offset; e < p->offset + (size_t)p->count; e++) {
            double g = coef * (double)s->state.grad[e], m = (1 - b1) * g, v = (1 - b2) * g * g;
            double want = (double)start->state.param[e] * (1 - r.lr * wd) -
                          r.lr * (m / (1 - b1)) / (sqrt(v / (1 - b2)) + cfg.train.eps);
            if (!(fabs((double)s->state.m[e] - m) <= 1e-5 * fabs(m) + 1e-12))
                fail_msg("%s: m %g, expected %g", p->name, (double)s->state.m[e], m);
            if (!(fabs((double)s->state.param[e] - want) <= 1e-5 * fabs(want) + 2e-6))
                fail_msg("%s: %g, expected %g", p->name, (double)s->state.param[e], want);
        }
    }
    oht_session_destroy(s);
    oht_session_destroy(start);
}

static void nothing_is_allocated(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_BERT, bert_data);
    oht_session *s = open_session(&cfg, OHT_FOR_TRAINING | OHT_FOR_EVALUATION);
    oht_loader *loader = open_loader(s, 0, 12);
    uint64_t count = 0;
    for (int i = 0; i < 12; i++) {
        const oht_step_batch *batch;
        oht_step_result r;
        OK(oht_loader_next(loader, &batch));
        OK(oht_step(s, batch, OHT_OK, i % 2 == 0, &r));
        if (i % 2 == 0) OK(oht_stats_reduce(s->train_stats, world));
        if (i == 0) count = oht_alloc_count();
    }
    assert_int_equal(oht_alloc_count() - count, 0);
    oht_loader_destroy(loader);
    oht_session_destroy(s);
}

static void poison(oht_session *s, const char *name) {
    const oht_param *p = oht_params_find(s->params, name);
    assert_non_null(p);
    s->state.param[p->offset + (size_t)p->count / 2] = NAN;
}

// A bad number in layer 1: the tap behind it is named, and nothing changed.
static void not_finite_stops_before_the_update(void **state) {
    (void)state;
    const struct {
        oht_model_type type;
        const char *poisoned, *named;
    } cases[] = {{OHT_MODEL_OPT, "layer.1.ffn2.weight", "layer.1.ffn.out"},
                 {OHT_MODEL_BERT, "layer.0.ffn2.bias", "layer.0.ffn.out"},
                 {OHT_MODEL_BERT, "head.bias", "in the loss or a gradient"}};
    for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
        oht_config cfg;
        tiny_config(&cfg, cases[k].type, data_of(cases[k].type));
        oht_session *s = open_session(&cfg, OHT_FOR_TRAINING);
        poison(s, cases[k].poisoned);
        size_t bytes = s->params->flat_count * sizeof(float);
        float *before = malloc(bytes);
        memcpy(before, s->state.param, bytes);
        s->state.step = 4;
        oht_loader *loader = open_loader(s, 4, 1);
        const oht_step_batch *batch;
        oht_step_result r;
        OK(oht_loader_next(loader, &batch));
        FAILS(oht_step(s, batch, OHT_OK, false, &r), OHT_NUMERIC, cases[k].named);
        assert_non_null(strstr(oht_error_last()->text, "step 5"));
        assert_memory_equal(before, s->state.param, bytes);
        assert_int_equal(s->state.step, 4);
        free(before);
        oht_loader_destroy(loader);
        oht_session_destroy(s);
    }
}

// A learning rate from hell: exit with NUMERIC, and the checkpoint from before is good.
static void divergence_keeps_the_checkpoint(void **state) {
    (void)state;
    char run[320];
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.train.steps = 2;
    OK(oht_train(world, &cfg, in_folder(run, "diverges")));
    oht_session *s = restored(&cfg, run);
    // The next start goes on from finite numbers whose sum is not.
    for (int i = 0; i < s->params->n; i++) {
        const oht_param *p = &s->params->item[i];
        for (int64_t e = 0; strstr(p->name, "ffn2.bias") && e < p->count; e++)
            s->state.param[p->offset + (size_t)e] = 3e38f;
    }
    OK(oht_checkpoint_write(run, &cfg, s->params, s->be, &s->state, 2));
    oht_session_destroy(s);
    cfg.train.steps = 5;
    FAILS(oht_train(world, &cfg, run), OHT_NUMERIC, "step 3: ");
    assert_non_null(strstr(oht_error_last()->text, "layer.1."));
    s = restored(&cfg, run);
    assert_int_equal(s->state.step, 2);
    oht_session_destroy(s);
    trace t;
    read_trace(run, &t);
    assert_int_equal(t.n, 2);
}

// Section 4 by hand: row sums from single forward passes, combined into batches of 4 with a short last one.
static void evaluation_by_hand(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_BERT, bert_data);
    cfg.eval.batch = 4;
    cfg.eval.micro_batch = 3;
    cfg.eval.kurtosis_batches = 2;
    oht_session *s = open_session(&cfg, OHT_FOR_EVALUATION);
    int64_t rows = s->data.rows[1];
    assert_true(rows % 4 != 0);
    double *loss = calloc((size_t)rows, sizeof(*loss)), *labels = calloc((size_t)rows, sizeof(*labels));
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_VALIDATION, 1, 1, 0, rows);
    oht_loader *loader;
    OK(oht_loader_create(&loader, bert_data, &lc));
    for (int64_t i = 0; i < rows; i++) {
        const oht_step_batch *batch;
        OK(oht_loader_next(loader, &batch));
        oht_session_feed(s->eval, &batch->micro[0]);
        oht_run_forward(s->eval);
        loss[i] = s->eval->loss_sum;
        labels[i] = (double)batch->n_labels;
    }
    oht_loader_destroy(loader);
    for (int64_t limit = 0; limit < 4; limit++) {
        double all_loss = 0, all_labels = 0, weighted = 0, sequences = 0;
        int64_t most = limit ? limit * 4 : rows;
        for (int64_t first = 0; first < most; first += 4) {
            int64_t n = rows - first < 4 ? rows - first : 4;
            double l = 0, c = 0;
            for (int64_t i = first; i < first + n; i++) {
                l += loss[i];
                c += labels[i];
            }
            all_loss += l;
            all_labels += c;
            weighted += (double)n * l / c;
            sequences += (double)n;
        }
        oht_eval_result r;
        OK(oht_evaluate(s, limit, &r));
        assert_int_equal(r.sequences, (int64_t)sequences);
        assert_int_equal(r.batches, ((int64_t)sequences + 3) / 4);
        double ppl = exp(weighted / sequences);
        if (!(fabs(r.loss - all_loss / all_labels) <= 1e-6))
            fail_msg("loss %.9g, by hand %.9g", r.loss, all_loss / all_labels);
        if (!(fabs(r.perplexity - ppl) <= 1e-5 * ppl))
            fail_msg("perplexity %.9g, by hand %.9g", r.perplexity, ppl);
        const oht_tap_info *tap;
        const oht_tap_stats *stats;
        assert_true(oht_stats_taps(s->eval_stats, &tap, &stats) > 0);
        assert_int_equal(stats[0].rows, (int64_t)sequences);
        assert_int_equal(stats[0].kurtosis_rows, sequences < 8 ? (int64_t)sequences : 8);
        assert_true(r.outliers.max_inf_norm > 0 && r.outliers.avg_kurtosis > 0);
    }
    cfg.eval.inf_norm_batches = 1;
    oht_eval_result r;
    OK(oht_evaluate(s, 0, &r));
    const oht_tap_info *tap;
    const oht_tap_stats *stats;
    (void)oht_stats_taps(s->eval_stats, &tap, &stats);
    assert_int_equal(stats[0].inf_rows, 4);
    assert_int_equal(stats[0].kurtosis_rows, 8); // has its own limit
    assert_int_equal(stats[0].rows, 8);
    free(loss);
    free(labels);
    oht_session_destroy(s);
}

static void evaluation_names_what_is_not_finite(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    oht_session *s = open_session(&cfg, OHT_FOR_EVALUATION);
    poison(s, "layer.1.ffn2.weight");
    oht_eval_result r;
    FAILS(oht_evaluate(s, 0, &r), OHT_NUMERIC, "layer.1.ffn.out");
    oht_session_destroy(s);
}

static void flops_are_counted_without_memory(void **state) {
    (void)state;
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.train.global_batch = 7;
    oht_session *s;
    OK(oht_session_create(&s, world, &cfg, NULL, OHT_FOR_TRAINING));
    double counted;
    OK(oht_session_step_flops(s, &counted));
    OK(oht_session_allocate(s));
    oht_loader *loader = open_loader(s, 0, 1);
    const oht_step_batch *batch;
    oht_step_result r;
    OK(oht_loader_next(loader, &batch));
    OK(oht_step(s, batch, OHT_OK, false, &r));
    assert_true(counted == r.flops);
    // 2 multiply-adds a weight and token forward, twice that backward: matrix products dominate
    double products = 6.0 * 7 * TINY_TOKENS * (2 * (4 * 32 * 32 + 2 * 32 * 64) + TINY_VOCAB * 32);
    assert_true(counted >= products && counted < 1.5 * products);
    oht_loader_destroy(loader);
    oht_session_destroy(s);
}

static int set_up(void **state) {
    (void)state;
    tiny_folder(folder);
    in_folder(opt_data, "opt.h5");
    in_folder(bert_data, "bert.h5");
    in_folder(padded_data, "padded.h5");
    if (tiny_text(opt_data, false, false, 300, 11) != OHT_OK ||
        tiny_text(bert_data, true, false, 300, 11) != OHT_OK ||
        tiny_text(padded_data, false, true, 300, 11) != OHT_OK) {
        fprintf(stderr, "%s\n", oht_error_last()->text);
        return 1;
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
    oht_log_init(0, true, "lines");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_falls),
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(resume_cuts_back),
        cmocka_unit_test(directory_rules),
        cmocka_unit_test(data_must_fit),
        cmocka_unit_test(accumulation_is_one_batch),
        cmocka_unit_test(mean_of_means),
        cmocka_unit_test(clipped_update),
        cmocka_unit_test(nothing_is_allocated),
        cmocka_unit_test(not_finite_stops_before_the_update),
        cmocka_unit_test(divergence_keeps_the_checkpoint),
        cmocka_unit_test(evaluation_by_hand),
        cmocka_unit_test(evaluation_names_what_is_not_finite),
        cmocka_unit_test(flops_are_counted_without_memory),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    oht_comm_finalize(world);
    return failed ? 1 : 0;
}
