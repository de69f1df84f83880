// Time series on several ranks: every step, the one-window last batch of an epoch included, has the loss of the whole batch on
// one rank; all ranks hold the same bits and stop at the same epoch; test errors are those of one rank.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/session.h"
#include "tiny.h"

static char folder[256], data[320];

static bool near(double a, double b, double tol) {
    return fabs(a - b) <= tol * fmax(1e-3, fabs(b));
}

static oht_session *open_session(oht_mpi_findings *f, const oht_config *cfg) {
    oht_session *s = NULL;
    OHT_CHECK(f, oht_session_create(&s, oht_mpi_comm(), cfg, NULL, OHT_FOR_TRAINING | OHT_FOR_EVALUATION) == OHT_OK);
    OHT_CHECK(f, s && oht_session_allocate(s) == OHT_OK);
    return s;
}

// A loader of this rank's part, or (alone) of the whole batch.
static oht_loader *open_loader(oht_mpi_findings *f, const oht_session *s, oht_split split, int64_t G, int64_t micro, int64_t count, bool alone) {
    oht_loader_config lc = oht_session_loader(s, split, G, micro, 0, count);
    if (alone) lc.rank = 0, lc.size = 1;
    if (split == OHT_SPLIT_TRAIN) lc.epoch_steps = s->epoch_steps;
    oht_loader *loader = NULL;
    OHT_CHECK(f, oht_loader_create(&loader, data, &lc) == OHT_OK);
    return loader;
}

// Mean loss of a whole batch with the session's parameters, and the other errors (evaluation graphs). Local.
static double alone(oht_run *run, const oht_step_batch *batch, double errors[3]) {
    double squares = 0, values = 0;
    run->observer = NULL;
    for (int64_t m = 0; m < batch->n_micro; m++) {
        if (batch->micro[m].rows == 0) continue;
        oht_session_feed(run, &batch->micro[m]);
        oht_run_forward(run);
        if (oht_graph_mode(run->graph) == OHT_TRAIN) oht_run_backward(run); // fetches the loss
        squares += run->loss_sum;
        values += (double)batch->micro[m].n_labels;
        for (int k = 0; k < 3 && errors; k++) errors[k] += run->measured[k];
    }
    return squares / values;
}

static void every_step_is_the_whole_batch(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    oht_comm *c = oht_mpi_comm();
    tiny_series_config(&cfg, data); // dropout on: masks belong to samples, not to ranks
    oht_session *s = open_session(&f, &cfg);
    OHT_CHECK(&f, s->epoch_steps == 8 && s->paced.steps == 24);
    int64_t micro = oht_graph_rows(s->train_graph);
    oht_loader *mine = open_loader(&f, s, OHT_SPLIT_TRAIN, 11, micro, 24, false), *whole = open_loader(&f, s, OHT_SPLIT_TRAIN, 11, micro, 24, true);
    for (int64_t step = 0; step < 24; step++) {
        const oht_step_batch *part = NULL, *all = NULL;
        OHT_CHECK(&f, oht_loader_next(whole, &all) == OHT_OK && all && all->rows == (step % 8 == 7 ? 1 : 11));
        s->train->step = (uint32_t)step;
        double want = alone(s->train, all, NULL);
        oht_status status = oht_loader_next(mine, &part);
        OHT_CHECK(&f, part && part->global_rows == all->rows);
        oht_step_result r;
        OHT_CHECK(&f, oht_step(s, part, status, false, &r) == OHT_OK);
        OHT_CHECK(&f, near(r.loss, want, 1e-6));
        OHT_CHECK(&f, r.labels == all->rows * 9);
        OHT_CHECK(&f, r.grad_norm > 0 && isfinite(r.grad_norm));
    }
    size_t bytes = s->params->flat_count * sizeof(float);
    float *root = malloc(bytes);
    memcpy(root, s->state.param, bytes);
    OHT_CHECK(&f, oht_broadcast(c, root, bytes, 0) == OHT_OK);
    OHT_CHECK(&f, memcmp(root, s->state.param, bytes) == 0);
    free(root);
    oht_loader_destroy(mine);
    oht_loader_destroy(whole);
    oht_session_destroy(s);
    oht_mpi_verdict(c, &f);
}

static void test_errors_are_those_of_one_rank(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    tiny_series_config(&cfg, data);
    oht_session *s = open_session(&f, &cfg);
    for (int split = OHT_SPLIT_VALIDATION; split <= OHT_SPLIT_TEST; split++) {
        oht_eval_result r, root;
        s->eval_split = (oht_split)split;
        OHT_CHECK(&f, oht_evaluate(s, 0, &r) == OHT_OK);
        root = r;
        OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), &root, sizeof(root), 0) == OHT_OK);
        OHT_CHECK(&f, memcmp(&r, &root, sizeof(r)) == 0);
        oht_loader *whole = open_loader(&f, s, (oht_split)split, 9, oht_graph_rows(s->eval_graph), 0, true);
        double mse = 0, rmse = 0, batches = 0, errors[3] = {0};
        for (int b = 0; b < 4; b++) { // 28 windows: 9, 9, 9, 1
            const oht_step_batch *batch = NULL;
            OHT_CHECK(&f, oht_loader_next(whole, &batch) == OHT_OK && batch);
            double m = alone(s->eval, batch, errors);
            mse += (double)batch->rows / 28 * m;
            rmse += (double)batch->rows / 28 * sqrt(m);
            batches += m / 4;
        }
        OHT_CHECK(&f, near(r.mse, mse, 1e-6) && near(r.loss, mse, 1e-6) && near(r.rmse, rmse, 1e-6));
        OHT_CHECK(&f, near(r.mse_batches, batches, 1e-6) && near(r.rmse_pooled, sqrt(mse), 1e-6));
        OHT_CHECK(&f, near(r.mae, errors[0] / (28 * 9), 1e-6) && near(r.mape, errors[1] / (28 * 9), 1e-6));
        OHT_CHECK(&f, near(r.mspe, errors[2] / (28 * 9), 1e-6));
        OHT_CHECK(&f, r.sequences == 28 && r.batches == 4 && r.rmse < r.rmse_pooled);
        oht_loader_destroy(whole);
    }
    oht_session_destroy(s);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// Early stopping: the same decision everywhere, and every rank gets the best parameters back.
static void all_stop_at_once(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[320];
    snprintf(run, sizeof(run), "%s/run", folder);
    tiny_series_config(&cfg, data);
    cfg.train.epochs = 12;
    cfg.train.patience = 1;
    cfg.train.keep_best = true;
    cfg.train.lr = 0.03;
    cfg.train.log_every = 8;
    OHT_CHECK(&f, oht_train(oht_mpi_comm(), &cfg, run) == OHT_OK);
    oht_session *s = open_session(&f, &cfg);
    bool found = false;
    OHT_CHECK(&f, oht_session_restore(s, run, true, &found) == OHT_OK && found);
    OHT_CHECK(&f, s->state.choice.best_step > 0 && s->state.choice.best_step <= s->state.step);
    OHT_CHECK(&f, s->state.step == 96 || s->state.choice.worse == 1);
    size_t bytes = s->params->flat_count * sizeof(float);
    float *root = malloc(bytes);
    memcpy(root, s->state.best, bytes);
    OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), root, bytes, 0) == OHT_OK);
    OHT_CHECK(&f, memcmp(root, s->state.best, bytes) == 0);
    memcpy(root, s->state.param, bytes);
    oht_session_exchange_best(s);
    OHT_CHECK(&f, memcmp(root, s->state.best, bytes) == 0);
    free(root);
    oht_session_destroy(s);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static int set_up(void **state) {
    (void)state;
    oht_comm *c = oht_mpi_comm();
    if (oht_comm_rank(c) == 0) tiny_folder(folder);
    if (oht_broadcast(c, folder, sizeof(folder), 0) != OHT_OK) return 1;
    snprintf(data, sizeof(data), "%s/series.h5", folder);
    oht_log_init(oht_comm_rank(c), true, "lines");
    return tiny_series(c, data) != OHT_OK;
}

static int tear_down(void **state) {
    (void)state;
    oht_status status = oht_barrier(oht_mpi_comm());
    if (oht_comm_rank(oht_mpi_comm()) == 0) tiny_remove(folder);
    return status != OHT_OK;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_step_is_the_whole_batch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors_are_those_of_one_rank, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_stop_at_once, set_up, tear_down),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
