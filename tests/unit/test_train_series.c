// The time-series recipe on one rank: epochs, early stopping, the best parameters as the result on the test split, and a resume
// that ends with the bits of a run that was never stopped.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/session.h"
#include "tiny.h"

enum { EPOCH = 8 }; // steps
static oht_comm *world;
static char folder[256], data[320], text[320];

static char *in_folder(char out[320], const char *name) {
    snprintf(out, 320, "%s/%s", folder, name);
    return out;
}

typedef struct evaluation {
    int64_t step, params_step;
    double loss, criterion;
    bool result, test;
} evaluation;
typedef struct trace {
    int n, evaluations;
    double loss[256], lr[256];
    evaluation eval[64];
} trace;

static void read_trace(const char *run, trace *out) {
    char path[400], line[4096];
    memset(out, 0, sizeof(*out));
    snprintf(path, sizeof(path), "%s/metrics.jsonl", run);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        json_t *o = json_loads(line, 0, NULL), *e = json_object_get(o, "eval");
        assert_non_null(o);
        if (e && json_integer_value(json_object_get(o, "step")) == 0) {
            // before training: for the outliers
        } else if (e) {
            out->eval[out->evaluations++] =
                (evaluation){json_integer_value(json_object_get(o, "step")), json_integer_value(json_object_get(e, "params_step")),
                             json_number_value(json_object_get(e, "loss")), json_number_value(json_object_get(e, "mse_batches")),
                             json_is_true(json_object_get(e, "result")),
                             strcmp(json_string_value(json_object_get(e, "split")), "test") == 0};
        } else {
            assert_true(json_is_number(json_object_get(o, "windows_per_s")));
            out->lr[out->n] = json_number_value(json_object_get(o, "lr"));
            out->loss[out->n++] = json_number_value(json_object_get(o, "loss"));
        }
        json_decref(o);
    }
    fclose(f);
}

static oht_session *restored(const oht_config *cfg, const char *run, int parts, bool moments) {
    oht_session *s;
    bool found;
    OK(oht_session_create(&s, world, cfg, NULL, parts));
    OK(oht_session_allocate(s));
    OK(oht_session_restore(s, run, moments, &found));
    assert_true(found);
    return s;
}

static void config(oht_config *cfg) {
    tiny_series_config(cfg, data);
    cfg->train.epochs = 20;
    cfg->train.patience = 2;
    cfg->train.keep_best = true;
    cfg->train.lr = 0.02; // overfits soon
    OK(oht_config_check(cfg));
}

// Steps, rates, which evaluations there are, when it stops, what is evaluated at the end.
static void stops_early(void **state) {
    (void)state;
    oht_config cfg;
    char run[320];
    trace t;
    config(&cfg);
    OK(oht_train(world, &cfg, in_folder(run, "early")));
    read_trace(run, &t);
    assert_int_equal(t.n % EPOCH, 0);
    int epochs = t.n / EPOCH, best = 0;
    assert_in_range(epochs, 3, 19); // else the test shows nothing
    assert_int_equal(t.evaluations, epochs + 1);
    for (int e = 0; e < epochs; e++) {
        assert_int_equal(t.eval[e].step, (e + 1) * EPOCH);
        assert_true(!t.eval[e].result && !t.eval[e].test && t.eval[e].params_step == t.eval[e].step);
        if (t.eval[e].criterion <= t.eval[best].criterion) best = e;
        assert_true(epochs - 1 - best == 2 || e < epochs - 1);
        double want = cfg.train.lr * pow(0.5, fmin(5, e / 2));
        for (int i = 0; i < EPOCH; i++) assert_true(fabs(t.lr[e * EPOCH + i] - want) < 1e-9 * want);
    }
    assert_int_equal(epochs - 1 - best, 2); // patience
    const evaluation *last = &t.eval[epochs];
    assert_true(last->result && last->test);
    assert_int_equal(last->step, epochs * EPOCH);
    assert_int_equal(last->params_step, (best + 1) * EPOCH);

    // The same parameters and the same number, from the checkpoint alone.
    oht_session *s = restored(&cfg, run, OHT_FOR_EVALUATION, false), *all = restored(&cfg, run, OHT_FOR_TRAINING, true);
    size_t bytes = s->params->flat_count * sizeof(float);
    assert_int_equal(s->state.step, last->params_step);
    assert_int_equal(all->state.step, last->step);
    assert_memory_equal(s->state.param, all->state.best, bytes);
    assert_int_not_equal(memcmp(s->state.param, all->state.param, bytes), 0);
    oht_eval_result r;
    s->eval_split = oht_session_result_split(s);
    OK(oht_evaluate(s, 0, &r));
    assert_true(fabs(r.loss - last->loss) < 1e-8 * r.loss);
    assert_int_equal(r.sequences, 28);
    s->eval_split = OHT_SPLIT_VALIDATION;
    OK(oht_evaluate(s, 0, &r));
    assert_true(fabs(oht_eval_criterion(&r) - t.eval[best].criterion) < 1e-8);
    oht_session_destroy(s);
    oht_session_destroy(all);

    // And again: it is finished.
    OK(oht_train(world, &cfg, run));
    trace u;
    read_trace(run, &u);
    assert_memory_equal(&t, &u, sizeof(t));
    // More patience: it goes on from where it was.
    cfg.train.patience = 3;
    OK(oht_train(world, &cfg, run));
    read_trace(run, &u);
    assert_true(u.n > t.n && u.eval[u.evaluations - 1].result);
    assert_memory_equal(t.loss, u.loss, (size_t)t.n * sizeof(double));
}

// 1 + 2 + the rest of the epochs, and one stop in the middle of one, against all at once.
static void resume_is_exact(void **state) {
    (void)state;
    oht_config cfg;
    char whole[320], parts[320];
    trace a, b;
    config(&cfg);
    cfg.run.checkpoint_every = 5;
    cfg.outliers.every = 3;
    OK(oht_train(world, &cfg, in_folder(whole, "whole")));
    in_folder(parts, "parts");
    static const int64_t STOPS[] = {1, 3, 20};
    for (int i = 0; i < 3; i++) {
        cfg.train.epochs = STOPS[i];
        OK(oht_train(world, &cfg, parts));
    }
    oht_session *x = restored(&cfg, whole, OHT_FOR_TRAINING, true), *y = restored(&cfg, parts, OHT_FOR_TRAINING, true);
    size_t bytes = x->params->flat_count * sizeof(float);
    assert_int_equal(x->state.step, y->state.step);
    assert_memory_equal(x->state.param, y->state.param, bytes);
    assert_memory_equal(x->state.best, y->state.best, bytes);
    assert_memory_equal(x->state.m, y->state.m, bytes);
    assert_memory_equal(x->state.v, y->state.v, bytes);
    assert_memory_equal(&x->state.choice, &y->state.choice, sizeof(x->state.choice));
    oht_session_destroy(x);
    oht_session_destroy(y);
    read_trace(whole, &a);
    read_trace(parts, &b);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.loss, b.loss, sizeof(a.loss));
    assert_true(b.eval[b.evaluations - 1].loss == a.eval[a.evaluations - 1].loss);

    // From a checkpoint in the middle of an epoch, whose report and log are lost: the same end.
    char command[2000];
    snprintf(command, sizeof(command), "rm -r '%s' && cp -r '%s' '%s' && cd '%s' && rm metrics.jsonl outliers.h5 && ls -t checkpoints/step* | sort | tail -n 1 | xargs rm",
             parts, whole, parts, parts);
    assert_int_equal(system(command), 0);
    OK(oht_train(world, &cfg, parts));
    x = restored(&cfg, whole, OHT_FOR_TRAINING, true);
    y = restored(&cfg, parts, OHT_FOR_TRAINING, true);
    assert_memory_equal(x->state.param, y->state.param, bytes);
    assert_memory_equal(x->state.best, y->state.best, bytes);
    assert_memory_equal(&x->state.choice, &y->state.choice, sizeof(x->state.choice));
    oht_session_destroy(x);
    oht_session_destroy(y);
}

// A checkpoint that says impossible things about its evaluations is damaged.
static void impossible_choice(void **state) {
    (void)state;
    oht_config cfg;
    char run[320], path[400];
    config(&cfg);
    cfg.train.epochs = 1;
    OK(oht_train(world, &cfg, in_folder(run, "impossible")));
    snprintf(path, sizeof(path), "%s/checkpoints/step-%08d.h5", run, EPOCH);
    oht_h5 *file;
    OK(oht_h5_load_memory(&file, path));
    OK(oht_h5_set_int(file, "/", "best_step", 99));
    OK(oht_h5_publish(file));
    oht_h5_close(file);
    assert_int_equal(oht_train(world, &cfg, run), OHT_DATA);
    assert_non_null(strstr(oht_error_last()->text, "damaged"));
}

// Text models, too, train in epochs, stop early and keep the best.
static void text_as_well(void **state) {
    (void)state;
    oht_config cfg;
    char run[320];
    tiny_config(&cfg, OHT_MODEL_OPT, text);
    cfg.train.steps = 100;
    cfg.train.epochs = 3;
    cfg.train.keep_best = true;
    cfg.eval.train_eval_batches = 0;
    OK(oht_config_check(&cfg));
    OK(oht_train(world, &cfg, in_folder(run, "text")));
    oht_session *s = restored(&cfg, run, OHT_FOR_TRAINING, true);
    assert_int_equal(s->state.step, 3 * 5); // 38 rows in batches of 8
    assert_true(s->state.choice.best_step % 5 == 0 && s->state.choice.best_step > 0);
    oht_session_destroy(s);
    cfg.eval.split = OHT_EVAL_TEST;
    assert_int_equal(oht_train(world, &cfg, in_folder(run, "no-test")), OHT_DATA);
    assert_non_null(strstr(oht_error_last()->text, "no test split"));
}

static void contradictions(void **state) {
    (void)state;
    static const char *const BAD[][3] = {
        {"train.epochs=3", "train.steps=50", "both say how long"},
        {"train.drop_last=true", "train.eval_every=5", "without train.epochs"},
        {"train.patience=3", "train.eval_every=0", "train.eval_every = 0"},
        {"train.keep_best=true", "train.eval_every=0", "train.eval_every = 0"},
        {"train.schedule=type1", "train.warmup_steps=0", "count epochs"},
        {"train.schedule=type2", "train.epochs=2", "have no warm-up"},
        {"train.lr_every=5", "train.eval_every=5", "only train.schedule"},
    };
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        oht_config cfg;
        oht_config_defaults(&cfg);
        OK(oht_config_set(&cfg, BAD[i][0]));
        OK(oht_config_set(&cfg, BAD[i][1]));
        assert_int_equal(oht_config_check(&cfg), OHT_CONFIG);
        if (!strstr(oht_error_last()->text, BAD[i][2])) fail_msg("case %zu: %s", i, oht_error_last()->text);
    }
}

static void too_few_for_a_batch(void **state) {
    (void)state;
    oht_config cfg;
    oht_session *s;
    config(&cfg);
    cfg.train.global_batch = 79;
    cfg.train.drop_last = true;
    assert_int_equal(oht_session_create(&s, world, &cfg, NULL, OHT_FOR_TRAINING), OHT_DATA);
    assert_non_null(strstr(oht_error_last()->text, "78 training samples"));
}

static int set_up(void **state) {
    (void)state;
    int argc = 0;
    char **argv = NULL;
    if (oht_comm_init(&argc, &argv, &world) != OHT_OK) return 1;
    oht_log_init(0, true, "lines");
    tiny_folder(folder);
    in_folder(data, "series.h5");
    in_folder(text, "text.h5");
    return tiny_series(world, data) != OHT_OK || tiny_text(text, false, false, 38, 11) != OHT_OK;
}
static int tear_down(void **state) {
    (void)state;
    tiny_remove(folder);
    oht_comm_finalize(world);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_early),  cmocka_unit_test(resume_is_exact), cmocka_unit_test(impossible_choice),
        cmocka_unit_test(text_as_well), cmocka_unit_test(contradictions),  cmocka_unit_test(too_few_for_a_batch),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
