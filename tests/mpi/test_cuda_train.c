// Training on the CUDA backend (emulated, or a real GPU: device_test.h) against the CPU's, on one rank and on two: the loss of
// each of 20 steps of OPT, BERT, ViT and STanHop-Net with random data, to 1e-4; the outlier statistics watch every
// fifth step on both.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/session.h"
#include "tiny.h"
#include "train/synthetic.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEPS = 5 }; // the emulation is slow enough without
#else
enum { STEPS = 20 };
#endif

static void configure(oht_config *cfg, oht_model_type type, int variant) {
    tiny_config(cfg, type, "none");
    cfg->train.steps = STEPS;
    cfg->train.lr = 1e-3;
    cfg->train.clip = 1.0;
    snprintf(cfg->train.precision, sizeof(cfg->train.precision), "fp32");
    if (type == OHT_MODEL_OPT && variant == 1) {
        snprintf(cfg->model.attention, sizeof(cfg->model.attention), "clipped(-0.03:1.03)");
        cfg->model.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
        cfg->train.recompute = true;
    }
    if (type == OHT_MODEL_VIT) {
        cfg->model.image_size = 12;
        cfg->model.patch = 4;
        cfg->model.classes = 7;
    }
    if (type == OHT_MODEL_STANHOP) {
        cfg->model.series = 3;
        cfg->model.input = 24;
        cfg->model.horizon = 12;
        cfg->model.segment = 4;
        cfg->model.merge = 2;
        cfg->model.patterns = 3;
        if (variant == 1) snprintf(cfg->model.attention, sizeof(cfg->model.attention), "entmax15");
    }
}

static oht_status losses(const char *device, oht_model_type type, int variant, double loss[STEPS]) {
    oht_comm *comm = oht_mpi_comm();
    oht_config cfg;
    oht_session *s = NULL;
    oht_synthetic *data = NULL;
    configure(&cfg, type, variant);
    snprintf(cfg.run.device, sizeof(cfg.run.device), "%s", device);
    oht_data_info imagined = oht_session_imagined_data(&cfg);
    OHT_TRY(oht_session_create(&s, comm, &cfg, &imagined, OHT_FOR_TRAINING));
    oht_status status = oht_session_allocate(s);
    if (status == OHT_OK) status = oht_synthetic_create(&data, s);
    for (int i = 0; status == OHT_OK && i < STEPS; i++) {
        oht_step_result r;
        status = oht_step(s, oht_synthetic_next(data, s->state.step), OHT_OK, i % 5 == 4, &r);
        if (status == OHT_OK && i % 5 == 4) status = oht_stats_reduce(s->train_stats, comm);
        loss[i] = r.loss;
    }
    oht_synthetic_destroy(data);
    oht_session_destroy(s);
    return status;
}

static void compare(oht_model_type type, int variant) {
    if (oht_comm_size(oht_mpi_comm()) > 2 || !getenv("OHT_EMULATED")) skip();
    oht_mpi_findings f = {0};
    double cpu[STEPS] = {0}, gpu[STEPS] = {0};
    if (!getenv("OHT_TEST_GPU")) setenv("OHT_CUDA_PLUGIN", getenv("OHT_EMULATED"), 1);
    oht_status status = losses("cpu", type, variant, cpu);
    if (status == OHT_OK) status = losses("cuda", type, variant, gpu);
    if (status != OHT_OK) print_error("%s\n", oht_error_last()->text);
    OHT_CHECK(&f, status == OHT_OK);
    for (int i = 0; status == OHT_OK && i < STEPS; i++) {
        OHT_CHECK(&f, fabs(gpu[i] - cpu[i]) <= 1e-4);
        if (!(fabs(gpu[i] - cpu[i]) <= 1e-4))
            print_error("step %d: loss %.7f, on the CPU %.7f\n", i + 1, gpu[i], cpu[i]);
    }
    OHT_CHECK(&f, cpu[0] > 0 && cpu[STEPS - 1] != cpu[0]);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void opt(void **state) {
    (void)state;
    compare(OHT_MODEL_OPT, 0);
}
static void opt_clipped_gated(void **state) {
    (void)state;
    compare(OHT_MODEL_OPT, 1);
}
static void bert(void **state) {
    (void)state;
    compare(OHT_MODEL_BERT, 0);
}
static void vit(void **state) {
    (void)state;
    compare(OHT_MODEL_VIT, 0);
}
static void stanhop(void **state) {
    (void)state;
    compare(OHT_MODEL_STANHOP, 0);
}
static void stanhop_entmax(void **state) {
    (void)state;
    compare(OHT_MODEL_STANHOP, 1);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opt), cmocka_unit_test(opt_clipped_gated), cmocka_unit_test(bert),
        cmocka_unit_test(vit), cmocka_unit_test(stanhop),           cmocka_unit_test(stanhop_entmax),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
