// Quantization under several ranks: ranges are those of one rank bit by bit, on every rank; the evaluation is
// shared and gives the same loss; one rank's failure is everybody's.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oht/log.h"
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
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
