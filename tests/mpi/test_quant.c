// Quantization under several ranks: ranges are those of one rank bit by bit, on every rank; the evaluation is
// shared and gives the same loss; one rank's failure is everybody's. Losses logged while training (quant.every)
// are those that an evaluation of the same step's parameters gives on that batch, and do not touch the training.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/log.h"
#include "oht/train.h"
#include "quant/internal.h"
#include "tiny.h"

static char folder[256], opt_data[320], bert_data[320];

// A digest of all ranges, weights included.
static double digest(const oht_quant *q) {
    const oht_quant_site *site;
    int n = oht_quant_sites(q, &site);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum = 1.000244140625 * sum + (i % 7 + 1) * (site[i].q.lo + 3 * site[i].q.hi) + site[i].q.step;
    return sum;
}

// World sizes come one after the other, so what one rank finds goes through a world of one made by hand: a
// calibration on this rank alone is the same computation that mpirun -np 1 does.
static void ranges_do_not_depend_on_ranks(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    for (int k = 0; k < 2; k++) {
        oht_config cfg;
        tiny_config(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT, k ? bert_data : opt_data);
        cfg.quant.weights = cfg.quant.activations = 8;
        cfg.quant.batches = 2;
        cfg.quant.percentile = 99.9;
        oht_session *s = NULL;
        oht_quant *q = NULL;
        OHT_CHECK(&f, oht_session_create(&s, c, &cfg, NULL, OHT_FOR_EVALUATION) == OHT_OK);
        OHT_CHECK(&f, oht_session_allocate(s) == OHT_OK);
        OHT_CHECK(&f, oht_quant_create(&q, s, &cfg.quant,
                                       OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION) == OHT_OK);
        OHT_CHECK(&f, oht_quant_calibrate(q, 5) == OHT_OK);
        double all = digest(q), range[2] = {all, -all};
        OHT_CHECK(&f, oht_max_f64(c, range, 2) == OHT_OK);
        OHT_CHECK(&f, range[0] == -range[1]);
        // Alone: begin, feed, end are local.
        OHT_CHECK(&f, oht_quant_begin(q) == OHT_OK);
        oht_loader_config lc = oht_session_loader(s, k ? OHT_SPLIT_VALIDATION : OHT_SPLIT_TRAIN, cfg.quant.batch,
                                                  cfg.quant.batch, 0, 2);
        lc.seed = lc.mask_seed = 5;
        lc.rank = 0;
        lc.size = 1;
        oht_loader *loader = NULL;
        OHT_CHECK(&f, oht_loader_create(&loader, cfg.data.path, &lc) == OHT_OK);
        for (int b = 0; b < 2; b++) {
            const oht_step_batch *batch = NULL;
            double loss;
            OHT_CHECK(&f, oht_loader_next(loader, &batch) == OHT_OK && batch);
            OHT_CHECK(&f, oht_quant_feed(q, &batch->micro[0], b == 1, &loss) == OHT_OK);
        }
        oht_loader_destroy(loader);
        OHT_CHECK(&f, oht_quant_end(q) == OHT_OK);
        OHT_CHECK(&f, digest(q) == all);
        oht_eval_result r;
        OHT_CHECK(&f, oht_quant_evaluate(q, 0, true, &r) == OHT_OK);
        OHT_CHECK(&f, isfinite(r.loss) && r.sequences == 24);
        double loss[2] = {r.loss, -r.loss};
        OHT_CHECK(&f, oht_max_f64(c, loss, 2) == OHT_OK);
        OHT_CHECK(&f, loss[0] == -loss[1]);
        oht_quant_destroy(q);
        oht_session_destroy(s);
    }
    oht_mpi_verdict(c, &f);
}

static void one_ranks_failure_is_all_ranks(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    cfg.quant.weights = cfg.quant.activations = 8;
    oht_session *s = NULL;
    oht_quant *q = NULL;
    OHT_CHECK(&f, oht_session_create(&s, c, &cfg, NULL, OHT_FOR_EVALUATION) == OHT_OK);
    OHT_CHECK(&f, oht_session_allocate(s) == OHT_OK);
    if (oht_comm_rank(c) == oht_comm_size(c) - 1)
        s->state.param[oht_params_find(s->params, "layer.0.ffn1.bias")->offset] = NAN;
    OHT_CHECK(&f, oht_quant_create(&q, s, &cfg.quant, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION) ==
                      OHT_OK);
    OHT_CHECK(&f, oht_quant_calibrate(q, 5) == OHT_NUMERIC);
    OHT_CHECK(&f, strstr(oht_error_last()->text, "layer.0.ffn1.out") != NULL);
    oht_quant_destroy(q);
    oht_session_destroy(s);
    oht_mpi_verdict(c, &f);
}

// ---- quant.every ----
enum { STEPS = 6, EVERY = 3, ROWS = STEPS / EVERY };

static void probed(oht_config *cfg, bool bert) {
    tiny_config(cfg, bert ? OHT_MODEL_BERT : OHT_MODEL_OPT, bert ? bert_data : opt_data);
    cfg->train.steps = STEPS;
    cfg->quant.every = EVERY;
    // The batch: the first of the evaluation, masked alike.
    cfg->quant.calibration = OHT_CALIBRATE_VALIDATION;
    cfg->quant.batch = cfg->eval.batch;
    cfg->quant.seed = cfg->eval.mask_seed;
}

// What rank 0 logged, on all ranks: rows of (step, loss, exact loss).
static bool logged(oht_comm *c, const char *run, double out[ROWS][3]) {
    char path[400];
    int64_t step[ROWS] = {0};
    double column[2][ROWS] = {{0}};
    oht_h5 *file = NULL;
    oht_h5_shape shape = {.dim = {0}};
    snprintf(path, sizeof(path), "%s/outliers.h5", run);
    oht_status status = oht_comm_rank(c) == 0 ? oht_h5_open(&file, path) : OHT_OK;
    if (file && oht_h5_shape_of(file, "/quantizability/step", 1, -1, &shape) == OHT_OK && shape.dim[0] == ROWS) {
        status = oht_h5_read(file, "/quantizability/step", 0, ROWS, OHT_H5_I64, step);
        if (status == OHT_OK) status = oht_h5_read(file, "/quantizability/loss", 0, ROWS, OHT_H5_F64, column[0]);
        if (status == OHT_OK) status = oht_h5_read(file, "/quantizability/fp_loss", 0, ROWS, OHT_H5_F64, column[1]);
    }
    oht_h5_close(file);
    for (int i = 0; i < ROWS; i++) {
        out[i][0] = (double)step[i];
        out[i][1] = column[0][i];
        out[i][2] = column[1][i];
    }
    if (oht_agree(c, status) != OHT_OK) return false;
    return oht_broadcast(c, out, sizeof(double[ROWS][3]), 0) == OHT_OK && out[ROWS - 1][0] == (double)STEPS;
}

static bool restored(oht_session **s, oht_comm *c, const oht_config *cfg, const char *run) {
    bool found = false;
    return oht_session_create(s, c, cfg, NULL, OHT_FOR_EVALUATION) == OHT_OK && oht_session_allocate(*s) == OHT_OK &&
           oht_session_restore(*s, run, false, &found) == OHT_OK && found;
}

static bool close_to(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance * fabs(b); // false for NaN
}

static void logged_losses_are_those_of_an_evaluation(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    for (int k = 0; k < 2; k++) {
        char run[400], plain[400], broken[400];
        double log[ROWS][3] = {{0}}, again[ROWS][3] = {{0}};
        oht_config cfg;
        snprintf(run, sizeof(run), "%s/every-%d", folder, k);
        snprintf(plain, sizeof(plain), "%s/plain-%d", folder, k);
        snprintf(broken, sizeof(broken), "%s/broken-%d", folder, k);
        probed(&cfg, k);
        OHT_CHECK(&f, oht_train(c, &cfg, run) == OHT_OK);
        OHT_CHECK(&f, logged(c, run, log));
        OHT_CHECK(&f, log[0][0] == (double)EVERY && log[0][1] != log[0][2] && log[0][1] != log[1][1]);

        // The last checkpoint, evaluated as ohtrain eval does, on that batch alone.
        oht_config last = cfg;
        last.quant.weights = last.quant.activations = 8;
        last.quant.batches = last.eval.max_batches = 1;
        oht_session *s = NULL, *other = NULL;
        oht_quant *q = NULL;
        oht_eval_result fp = {0}, r = {0};
        bool open = restored(&s, c, &last, run);
        OHT_CHECK(&f, open);
        OHT_CHECK(&f, oht_evaluate(s, 1, &fp) == OHT_OK && close_to(log[1][2], fp.loss, 1e-6));
        OHT_CHECK(&f, oht_quant_create(&q, s, &last.quant, OHT_QUANT_FOR_CALIBRATION | OHT_QUANT_FOR_EVALUATION) == OHT_OK);
        OHT_CHECK(&f, oht_quant_calibrate(q, (uint64_t)last.quant.seed) == OHT_OK);
        OHT_CHECK(&f, oht_quant_evaluate(q, 1, false, &r) == OHT_OK && close_to(log[1][1], r.loss, 1e-6));
        oht_quant_destroy(q);
        // Every rank by itself finds the logged number to the bit, as np 1 does.
        oht_probe *probe = NULL;
        oht_outlier_metrics seen;
        double exact = 0, quantized = 0;
        OHT_CHECK(&f, oht_probe_create(&probe, s) == OHT_OK);
        OHT_CHECK(&f, oht_probe_measure(probe, &exact, &quantized, &seen) == OHT_OK);
        OHT_CHECK(&f, exact == log[1][2] && quantized == log[1][1] && seen.max_inf_norm > 0);
        oht_probe_destroy(probe);

        // Without it the same parameters, to the bit.
        cfg.quant.every = 0;
        OHT_CHECK(&f, oht_train(c, &cfg, plain) == OHT_OK);
        OHT_CHECK(&f, restored(&other, c, &last, plain));
        OHT_CHECK(&f, memcmp(s->state.param, other->state.param, s->params->flat_count * sizeof(float)) == 0);
        oht_session_destroy(other);
        // Stopped between two measurements and resumed: the same rows.
        probed(&cfg, k);
        cfg.train.steps = EVERY + 1;
        OHT_CHECK(&f, oht_train(c, &cfg, broken) == OHT_OK);
        cfg.train.steps = STEPS;
        OHT_CHECK(&f, oht_train(c, &cfg, broken) == OHT_OK);
        OHT_CHECK(&f, logged(c, broken, again) && memcmp(log, again, sizeof(log)) == 0);
        oht_session_destroy(s);
    }
    oht_mpi_verdict(c, &f);
}

static int setup(void **state) {
    (void)state;
    oht_comm *c = oht_mpi_comm();
    if (oht_comm_rank(c) == 0) tiny_folder(folder);
    if (oht_broadcast(c, folder, sizeof(folder), 0) != OHT_OK) return 1;
    snprintf(opt_data, sizeof(opt_data), "%s/opt.h5", folder);
    snprintf(bert_data, sizeof(bert_data), "%s/bert.h5", folder);
    oht_status status = OHT_OK;
    if (oht_comm_rank(c) == 0) status = tiny_text(opt_data, false, false, 60, 24);
    if (status == OHT_OK && oht_comm_rank(c) == 0) status = tiny_text(bert_data, true, true, 60, 24);
    return oht_agree(c, status) == OHT_OK ? 0 : 1;
}

static int teardown(void **state) {
    (void)state;
    if (oht_barrier(oht_mpi_comm()) == OHT_OK && oht_comm_rank(oht_mpi_comm()) == 0) tiny_remove(folder);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranges_do_not_depend_on_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(one_ranks_failure_is_all_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(logged_losses_are_those_of_an_evaluation, setup, teardown),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
