// outliers.h5: written, read back by the library and by h5py and xarray, cut on resume; what is damaged or of another
// model is set aside; when it is published.
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/outliers.h"
#include "taps.h"

static oht_backend *be;
static oht_comm *comm;
static char folder[] = "/tmp/oht-outliers-XXXXXX";

static int begin(void **state) {
    (void)state;
    oht_h5_silence();
    oht_log_init(1, true, "lines");
    if (!mkdtemp(folder)) return -1;
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    char command[128];
    oht_backend_destroy(be);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

enum { ROWS = 2, TOKENS = 4, WIDTH = 6, HEADS = 2 };
static const tap_spec report_taps[] = {{"layer.0.out", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS, 0},
                                       {"layer.0.null", OHT_TAP_NULL_MASS, 0, 0},
                                       {"layer.1.ffn.out", OHT_TAP_TOKEN, OHT_IN_INF | OHT_IN_KURTOSIS, 1},
                                       {"layer.1.null", OHT_TAP_NULL_MASS, 0, 1},
                                       {"layer.1.gate", OHT_TAP_GATE, 0, 1}};

// Statistics of step `step`: values that a reader can predict.
static void measure(oht_stats *s, const oht_graph *g, int64_t step) {
    float x[ROWS * TOKENS * WIDTH], row[ROWS * HEADS * TOKENS];
    const int64_t ids[2] = {100 + step, 200 + step};
    for (uint32_t i = 0; i < ROWS * TOKENS * WIDTH; i++) x[i] = (float)taps_random(i + 1000 * (uint32_t)step);
    for (int i = 0; i < ROWS * HEADS * TOKENS; i++) row[i] = (float)step;
    x[(1 * TOKENS + 3) * WIDTH + 4] = -(float)(10 + step);
    oht_stats_reset(s);
    oht_stats_row_ids(s, ids);
    taps_show(be, s, g, 0, x, 3, ROWS, TOKENS, WIDTH, 0);
    taps_show(be, s, g, 1, row, 3, ROWS, HEADS, TOKENS, 0);
    taps_show(be, s, g, 2, x, 3, ROWS, TOKENS, WIDTH, 0);
    taps_show(be, s, g, 3, row, 3, ROWS, HEADS, TOKENS, 0);
    taps_show(be, s, g, 4, row, 3, ROWS, TOKENS, HEADS, 0);
    OK(oht_stats_reduce(s, comm));
}

static const char *report_path(void) {
    static char path[64];
    snprintf(path, sizeof(path), "%s/outliers.h5", folder);
    return path;
}

static void steps(oht_report *r, oht_stats *s, const oht_graph *g, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; step++) {
        measure(s, g, step);
        OK(oht_report_append(r, step, s));
        OK(oht_report_curve(r, step, 1.0 / (double)step, 1e-3, 0.5));
        if (step % 5 != 0) continue;
        oht_eval_result e = {
            .loss = 0.1 * (double)step, .perplexity = INFINITY, .sequences = 8, .batches = 2};
        oht_stats_metrics(s, &e.outliers);
        OK(oht_report_eval(r, step, &e, s));
    }
}

// A report of steps 1..last with evaluations at 5, 10, ...
static void assert_report(const oht_stats *s, int64_t last) {
    oht_h5 *f;
    oht_h5_shape shape;
    char **name, group[32];
    int64_t n, number;
    double real;
    (void)s;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_read_strings(f, "/activations/tap", &name, &n));
    assert_int_equal(n, 2);
    assert_string_equal(name[0], "layer.0.out");
    assert_string_equal(name[1], "layer.1.ffn.out");
    for (int i = 0; i < 2; i++) oht_free(name[i]);
    oht_free(name);
    static const char *const growing[] = {
        "activations/step",    "activations/rms",     "activations/max_channel",
        "attention/null_mass", "attention/gate_mean", "attention/step",
        "train/loss",          "train/step",          "train/lr"};
    for (size_t i = 0; i < sizeof(growing) / sizeof(growing[0]); i++) {
        OK(oht_h5_shape_of(f, growing[i], -1, -1, &shape));
        assert_int_equal(shape.dim[0], last);
    }
    for (int64_t row = 0; row < last; row++) {
        int64_t step, sample[2];
        int32_t token[2], channel[2];
        float max[2], mean[2], heads[4];
        double loss;
        OK(oht_h5_read(f, "activations/step", row, 1, OHT_H5_I64, &step));
        assert_int_equal(step, row + 1);
        OK(oht_h5_read(f, "activations/inf_norm_max", row, 1, OHT_H5_F32, max));
        OK(oht_h5_read(f, "activations/inf_norm_mean", row, 1, OHT_H5_F32, mean));
        OK(oht_h5_read(f, "activations/max_sample", row, 1, OHT_H5_I64, sample));
        OK(oht_h5_read(f, "activations/max_token", row, 1, OHT_H5_I32, token));
        OK(oht_h5_read(f, "activations/max_channel", row, 1, OHT_H5_I32, channel));
        for (int k = 0; k < 2; k++) {
            assert_true(max[k] == (float)(10 + step) && mean[k] < max[k]);
            assert_int_equal(sample[k], 200 + step);
            assert_int_equal(token[k], 3);
            assert_int_equal(channel[k], 4);
        }
        OK(oht_h5_read(f, "attention/null_mass", row, 1, OHT_H5_F32, heads));
        NEAR((double)heads[3], exp(-(double)step), 1e-6);
        OK(oht_h5_read(f, "train/loss", row, 1, OHT_H5_F64, &loss));
        NEAR(loss, 1.0 / (double)step, 0);
    }
    for (int64_t k = 0; k < last / 5; k++) {
        float kurtosis[2];
        snprintf(group, sizeof(group), "/eval/%lld", (long long)k);
        OK(oht_h5_get_int(f, group, "step", &number));
        assert_int_equal(number, 5 * (k + 1));
        OK(oht_h5_get_float(f, group, "loss", &real));
        NEAR(real, 0.5 * (double)(k + 1), 1e-12);
        OK(oht_h5_get_float(f, group, "perplexity", &real));
        assert_true(isinf(real));
        OK(oht_h5_get_float(f, group, "avg_kurtosis", &real));
        snprintf(group, sizeof(group), "/eval/%lld/kurtosis", (long long)k);
        OK(oht_h5_read(f, group, 0, 2, OHT_H5_F32, kurtosis));
        NEAR(0.5 * (double)(kurtosis[0] + kurtosis[1]), real, 1e-5);
    }
    snprintf(group, sizeof(group), "/eval/%lld", (long long)(last / 5));
    assert_false(oht_h5_exists(f, group));
    oht_h5_close(f);
}

// h5py and xarray as a user has them; exit 77 when they are not installed.
static void assert_python_reads_it(int64_t last) {
    char command[512];
    snprintf(command, sizeof(command), "/usr/bin/python3 %s/tests/e2e/report_h5py.py %s %lld", OHT_SOURCE_DIR,
             report_path(), (long long)last);
    int how = system(command);
    if (WIFEXITED(how) && (WEXITSTATUS(how) == 77 || WEXITSTATUS(how) == 127))
        print_message("h5py or xarray missing: not tried\n");
    else
        assert_int_equal(how, 0);
}

// compat.all_modules: evaluation taps more than training does; they go into a group of their own.
static void modules_have_their_own_group(void **state) {
    (void)state;
    static const tap_spec more[] = {{"embed.patches", OHT_TAP_SEQUENCE, OHT_MODULES_ALONE | OHT_MODULES(3), -1},
                                    {"layer.0.out", OHT_TAP_SEQUENCE, OHT_IN_INF | OHT_IN_KURTOSIS | OHT_MODULES(1), 0},
                                    {"layer.0.ffn1.in", OHT_TAP_SEQUENCE,
                                     OHT_MODULES_ALONE | OHT_MODULES(1) | OHT_IN_MLP_MODULES, 0}};
    oht_graph *g = taps_graph(be, more + 1, 1, ROWS, TOKENS), *all = taps_graph(be, more, 3, ROWS, TOKENS);
    oht_graph_module_taps(all, true);
    oht_stats *s, *seen;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_stats_create(&seen, all, HEADS));
    double inf[3], kurtosis[3];
    for (int k = 0; k < 3; k++) {
        float x[ROWS * TOKENS * WIDTH];
        for (uint32_t i = 0; i < ROWS * TOKENS * WIDTH; i++) x[i] = (float)taps_random(i + 5000 * (uint32_t)(k + 1)) * (float)(3 - k);
        taps_show(be, seen, all, k, x, 3, ROWS, TOKENS, WIDTH, 0);
    }
    OK(oht_stats_reduce(seen, comm));
    const oht_tap_stats *t;
    assert_int_equal(oht_stats_taps(seen, NULL, &t), 3);
    for (int k = 0; k < 3; k++) inf[k] = t[k].inf_sum / ROWS, kurtosis[k] = t[k].kurtosis_sum / ROWS;
    oht_eval_result e = {.task = OHT_TASK_IMAGES, .sequences = ROWS};
    oht_stats_metrics(seen, &e.outliers);
    assert_int_equal(e.outliers.all_modules, 5);
    NEAR(e.outliers.all_avg_kurtosis, (3 * kurtosis[0] + kurtosis[1] + kurtosis[2]) / 5, 1e-12);
    NEAR(e.outliers.all_max_kurtosis, fmax(fmax(kurtosis[0], kurtosis[1]), kurtosis[2]), 0);
    NEAR(e.outliers.all_ffn_inf_norm, inf[2], 0);
    NEAR(e.outliers.max_inf_norm, inf[1], 0); // the clean set does not see the others
    NEAR(e.outliers.avg_kurtosis, kurtosis[1], 0);

    oht_report *none;
    assert_int_equal(oht_report_open(&r, report_path(), &cfg, s, 0), OHT_OK);
    OK(oht_report_eval(r, 1, &e, seen));
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    OK(oht_report_open(&none, report_path(), &cfg, s, 1)); // and it can be gone on with
    oht_report_close(none);
    oht_h5 *f;
    char **name;
    int64_t n;
    double real;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_get_float(f, "/eval/0", "all_modules_kurtosis", &real));
    NEAR(real, e.outliers.all_avg_kurtosis, 1e-12);
    OK(oht_h5_read_strings(f, "/eval/0/tap", &name, &n));
    assert_int_equal(n, 1); // those of training
    assert_string_equal(name[0], "layer.0.out");
    oht_free(name[0]);
    oht_free(name);
    OK(oht_h5_read_strings(f, "/eval/0/modules/tap", &name, &n));
    assert_int_equal(n, 3);
    int32_t times[3];
    float norm[3];
    OK(oht_h5_read(f, "/eval/0/modules/times", 0, 3, OHT_H5_I32, times));
    OK(oht_h5_read(f, "/eval/0/modules/inf_norm_mean", 0, 3, OHT_H5_F32, norm));
    for (int k = 0; k < 3; k++) {
        assert_string_equal(name[k], more[k].name);
        assert_int_equal(times[k], k == 0 ? 3 : 1);
        NEAR((double)norm[k], inf[k], 1e-6);
        oht_free(name[k]);
    }
    oht_free(name);
    oht_h5_close(f);
    oht_stats_destroy(s);
    oht_stats_destroy(seen);
    oht_graph_destroy(g);
    oht_graph_destroy(all);
}

static void a_report_is_read_back_and_cut(void **state) {
    (void)state;
    oht_graph *g = taps_graph(be, report_taps, 5, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    assert_report(s, 0); // there from the start
    steps(r, s, g, 1, 150); // more rows than a chunk
    OK(oht_report_publish(r, true));
    assert_report(s, 150);
    assert_python_reads_it(150);
    oht_report_close(r);
    // resumed at 57: as if 58..150 had never been
    OK(oht_report_open(&r, report_path(), &cfg, s, 57));
    assert_report(s, 57);
    steps(r, s, g, 58, 70);
    OK(oht_report_publish(r, true));
    assert_report(s, 70);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 60)); // exactly at an evaluation: it stays
    assert_report(s, 60);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 1000)); // nothing to cut
    assert_report(s, 60);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 3));
    assert_report(s, 3);
    assert_python_reads_it(3);
    oht_report_close(r);
    OK(oht_report_open(&r, report_path(), &cfg, s, 0)); // from the start
    assert_report(s, 0);
    oht_report_close(r);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

// PATH.damaged-N holds what was at PATH, and a new, empty report is there.
static void assert_set_aside(const oht_stats *s, const oht_config *cfg, int n) {
    char name[128], before[128], command[500];
    oht_report *r;
    snprintf(name, sizeof(name), "%s.damaged-%d", report_path(), n);
    snprintf(before, sizeof(before), "%s.before", report_path());
    snprintf(command, sizeof(command), "cp -r '%s' '%s'", report_path(), before);
    assert_int_equal(system(command), 0);
    OK(oht_report_open(&r, report_path(), cfg, s, 5));
    assert_report(s, 0);
    assert_int_equal(oht_report_evaluated(r), -1);
    oht_report_close(r);
    snprintf(command, sizeof(command), "diff -r '%s' '%s' && rm -r '%s'", name, before, before);
    assert_int_equal(system(command), 0);
}

static void a_foreign_or_damaged_report_is_set_aside(void **state) {
    (void)state;
    oht_graph *g = taps_graph(be, report_taps, 5, ROWS, TOKENS),
              *other = taps_graph(be, report_taps + 2, 3, ROWS, TOKENS);
    oht_stats *s, *t;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_stats_create(&t, other, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, t, 0));
    oht_report_close(r);
    assert_set_aside(s, &cfg, 1); // of another model

    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    steps(r, s, g, 1, 10);
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    oht_h5 *f;
    OK(oht_h5_load_memory(&f, report_path()));
    OK(oht_h5_truncate(f, "/activations/rms", 4)); // its step axis has 10 rows
    OK(oht_h5_publish(f));
    oht_h5_close(f);
    assert_set_aside(s, &cfg, 2);

    assert_int_equal(truncate(report_path(), 5000), 0);
    assert_set_aside(s, &cfg, 3);
    OK(oht_file_replace(report_path(), "", 0));
    assert_set_aside(s, &cfg, 4);
    assert_int_equal(unlink(report_path()), 0);
    assert_int_equal(mkdir(report_path(), 0777), 0);
    assert_set_aside(s, &cfg, 5);
    FAILS(oht_report_open(&r, "/nonexistent/outliers.h5", &cfg, s, 5), OHT_IO, "/nonexistent/outliers.h5");
    assert_null(r);
    oht_stats_destroy(s);
    oht_stats_destroy(t);
    oht_graph_destroy(g);
    oht_graph_destroy(other);
}

static int64_t published_rows(void) {
    oht_h5 *f;
    oht_h5_shape shape;
    OK(oht_h5_open(&f, report_path()));
    OK(oht_h5_shape_of(f, "/activations/step", 1, OHT_H5_I64, &shape));
    oht_h5_close(f);
    return shape.dim[0];
}

static void publication_waits_for_its_time(void **state) {
    (void)state;
    oht_graph *g = taps_graph(be, report_taps, 5, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    cfg.outliers.publish_s = 3600;
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    steps(r, s, g, 1, 3);
    OK(oht_report_publish(r, false));
    assert_int_equal(published_rows(), 0); // not due
    OK(oht_report_publish(r, true));
    assert_int_equal(published_rows(), 3);
    oht_report_close(r);
    cfg.outliers.publish_s = 0;
    OK(oht_report_open(&r, report_path(), &cfg, s, 2));
    steps(r, s, g, 3, 4);
    OK(oht_report_publish(r, false));
    assert_int_equal(published_rows(), 4);
    struct stat before, after;
    assert_int_equal(stat(report_path(), &before), 0);
    OK(oht_report_publish(r, true)); // nothing new: the same file
    assert_int_equal(stat(report_path(), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    oht_report_close(r);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

static void without_attention_taps_there_is_no_such_group(void **state) {
    (void)state;
    oht_graph *g = taps_graph(be, report_taps, 1, ROWS, TOKENS);
    oht_stats *s;
    oht_report *r;
    oht_config cfg;
    oht_h5 *f;
    oht_config_defaults(&cfg);
    OK(oht_stats_create(&s, g, HEADS));
    OK(oht_report_open(&r, report_path(), &cfg, s, 0));
    OK(oht_report_append(r, 1, s)); // nothing seen: missing values, not zeros
    OK(oht_report_publish(r, true));
    oht_report_close(r);
    OK(oht_h5_open(&f, report_path()));
    assert_false(oht_h5_exists(f, "/attention"));
    float x = 0;
    OK(oht_h5_read(f, "/activations/inf_norm_max", 0, 1, OHT_H5_F32, &x));
    assert_true(isnan(x));
    OK(oht_h5_read(f, "/activations/kurtosis", 0, 1, OHT_H5_F32, &x));
    assert_true(isnan(x));
    oht_h5_close(f);
    OK(oht_report_open(&r, report_path(), &cfg, s, 1));
    oht_report_close(r);
    oht_stats_destroy(s);
    oht_graph_destroy(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modules_have_their_own_group),
        cmocka_unit_test(a_report_is_read_back_and_cut),
        cmocka_unit_test(a_foreign_or_damaged_report_is_set_aside),
        cmocka_unit_test(publication_waits_for_its_time),
        cmocka_unit_test(without_attention_taps_there_is_no_such_group),
    };
    if (oht_comm_init(&argc, &argv, &comm) != OHT_OK) return 1;
    int failed = cmocka_run_group_tests(tests, begin, end);
    oht_comm_finalize(comm);
    return failed;
}
