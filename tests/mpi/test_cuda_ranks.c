// Ranks that each have an (emulated) GPU: gradients that the GPUs add while backward goes on, and sharded moments, give the
// CPU's losses; so nearly do activations in 16 bits; a peer that is gone ends the wait. With the argument "late" the
// emulation's streams work only when something waits for them, in random turns, so that a missing event shows.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/session.h"
#include "tiny.h"
#include "train/synthetic.h"

enum { STEPS = 8 };

static bool late;

static int size(void) {
    return oht_comm_size(oht_mpi_comm());
}

typedef struct outcome {
    double loss[STEPS], norm[STEPS];
    double scale; // of the last step
    int skipped;
} outcome;

static void take_steps(oht_mpi_findings *f, const oht_config *cfg, const char *device, const char *precision,
                       int steps, outcome *out) {
    oht_config with = *cfg;
    oht_session *s = NULL;
    oht_synthetic *data = NULL;
    memset(out, 0, sizeof(*out));
    snprintf(with.run.device, sizeof(with.run.device), "%s", device);
    snprintf(with.train.precision, sizeof(with.train.precision), "%s", precision);
    const oht_data_info imagined = oht_session_imagined_data(&with);
    oht_status status = oht_session_create(&s, oht_mpi_comm(), &with, &imagined, OHT_FOR_TRAINING);
    if (status == OHT_OK) status = oht_session_allocate(s);
    OHT_CHECK(f, status == OHT_OK);
    if (status != OHT_OK) {
        fprintf(stderr, "%s %s: %s\n", device, precision, oht_error_last()->text);
        oht_session_destroy(s);
        return;
    }
    OHT_CHECK(f, oht_synthetic_create(&data, s) == OHT_OK);
    for (int i = 0; i < steps && status == OHT_OK; i++) {
        oht_step_result r = {0};
        status = oht_step(s, oht_synthetic_next(data, s->state.step), OHT_OK, false, &r);
        if (status != OHT_OK) fprintf(stderr, "%s %s: %s\n", device, precision, oht_error_last()->text);
        OHT_CHECK(f, status == OHT_OK);
        out->loss[i] = r.loss;
        out->norm[i] = r.grad_norm;
        out->scale = r.loss_scale;
        out->skipped += r.skipped;
    }
    oht_synthetic_destroy(data);
    oht_session_destroy(s);
}

static void check_near(oht_mpi_findings *f, const char *what, const outcome *a, const outcome *b, int steps,
                       double tolerance) {
    for (int i = 0; i < steps; i++) {
        double off = fabs(a->loss[i] - b->loss[i]);
        if (!(off <= tolerance))
            fprintf(stderr, "%s: step %d: loss %.8g, expected %.8g\n", what, i + 1, b->loss[i], a->loss[i]);
        OHT_CHECK(f, off <= tolerance);
        OHT_CHECK(f, fabs(a->norm[i] - b->norm[i]) <= 30 * tolerance * (1 + a->norm[i]));
        if (!(off <= tolerance)) return;
    }
}

static void configure(oht_config *cfg, oht_model_type type) {
    tiny_config(cfg, type, "none");
    cfg->train.global_batch = 6;
    cfg->train.micro_batch = 2;
    cfg->train.reduce_bytes = 16384; // many pieces behind backward
    if (type == OHT_MODEL_OPT) cfg->model.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
}

static bool absent(void) {
    return getenv("OHT_CUDA_PLUGIN") == NULL;
}

static void losses_are_the_cpus(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_OPT, OHT_MODEL_BERT};
    if (absent()) skip();
    for (int k = 0; k < 2; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        outcome cpu, gpu;
        configure(&cfg, types[k]);
        take_steps(&f, &cfg, "cpu", "fp32", STEPS, &cpu);
        cfg.train.shard_optimizer = k == 1;
        take_steps(&f, &cfg, "cuda", "fp32", STEPS, &gpu);
        check_near(&f, oht_model_type_name(types[k]), &cpu, &gpu, STEPS, 1e-4);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

static void sixteen_bits_stay_near(void **state) {
    (void)state;
    const oht_model_type types[] = {OHT_MODEL_BERT, OHT_MODEL_OPT};
    if (absent()) skip();
    for (int k = 0; k < 2; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        outcome cpu, gpu;
        const char *precision = k ? "fp16" : "bf16";
        configure(&cfg, types[k]);
        take_steps(&f, &cfg, "cpu", "fp32", 4, &cpu);
        cfg.train.shard_optimizer = k == 0;
        take_steps(&f, &cfg, "cuda", precision, 4, &gpu);
        check_near(&f, precision, &cpu, &gpu, 4, k ? 3e-3 : 2e-2);
        OHT_CHECK(&f, k ? gpu.scale == 65536 && gpu.skipped == 0 : gpu.scale == 0);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

// A dead peer, and one that hangs, end the wait with a message. Alone, so that nobody is left in a collective.
static void watch_ends_the_wait(void **state) {
    (void)state;
    if (absent() || !late || size() > 1) skip(); // when streams are eager nothing is ever waited for
    for (int what = 0; what < 4; what++) { // all well, dead, hanging while summing, hanging from the start
        oht_backend *be = NULL;
        unsigned char id[OHT_LINK_ID];
        float *x = NULL, host[64];
        double waited;
        for (int i = 0; i < 64; i++) host[i] = (float)i;
        assert_int_equal(oht_backend_create("cuda", 0, &be), OHT_OK);
        assert_non_null(be->collectives);
        assert_int_equal(be->collectives->link_id(be, id), OHT_OK);
        if (what == 2) setenv("OHT_EMU_NCCL_PROMPT", "1", 1);
        if (what == 3) setenv("OHT_EMU_NCCL_FAIL", "2", 1);
        oht_status linked = be->collectives->link(be, id, 0, 1, what >= 2 ? 1e-12 : 60);
        unsetenv("OHT_EMU_NCCL_FAIL");
        if (what == 3) {
            assert_int_equal(linked, OHT_COMM);
            assert_non_null(strstr(oht_error_last()->text, "a rank is gone or hangs"));
            oht_backend_destroy(be);
            continue;
        }
        assert_int_equal(linked, OHT_OK);
        assert_int_equal(be->alloc(be, (void **)&x, sizeof(host), "test"), OHT_OK);
        be->upload(be, x, host, sizeof(host));
        for (int i = 0; i < 20; i++) { // so much that the kernels are done long before
            be->collectives->all_reduce(be, x, 64);
            be->collectives->reduce_scatter(be, x, 64);
            be->collectives->all_gather(be, x, 64);
        }
        if (what == 1) setenv("OHT_EMU_NCCL_FAIL", "1", 1);
        oht_status status = be->collectives->finish(be, &waited);
        unsetenv("OHT_EMU_NCCL_FAIL");
        unsetenv("OHT_EMU_NCCL_PROMPT");
        if (what == 0) {
            float back[64];
            assert_int_equal(status, OHT_OK);
            be->download(be, back, x, sizeof(back));
            assert_memory_equal(host, back, sizeof(back));
        } else {
            assert_int_equal(status, OHT_COMM);
            assert_non_null(strstr(oht_error_last()->text,
                                   what == 1 ? "remote process exited" : "a rank is gone or hangs"));
        }
        be->free(be, x);
        oht_backend_destroy(be);
    }
}

int main(int argc, char **argv) {
    const char *plugin = getenv("OHT_EMULATED");
    if (plugin && plugin[0]) setenv("OHT_CUDA_PLUGIN", plugin, 1);
    setenv("OHT_EMU_DEVICES", "8", 1);
    late = argc > 1 && strcmp(argv[1], "late") == 0;
    if (late) setenv("OHT_EMU_LAZY", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_the_cpus),
        cmocka_unit_test(sixteen_bits_stay_near),
        cmocka_unit_test(watch_ends_the_wait),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
