// Recorded kernels (oht_recorder): a training run whose stretches are replayed gives the bits of one whose kernels are queued one by
// one, whatever differs from micro-batch to micro-batch: dropout, the scale of the loss, masked positions, rows, taps that
// somebody looks at, pieces of the gradient on their way. With the argument "late" streams work in random turns.
#include "mpi_main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "oht/session.h"
#include "tiny.h"
#include "train/synthetic.h"

enum { STEPS = 5 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MODELS = 2, REFUSALS = 2 }; // the emulation is slow enough without
#else
enum { MODELS = 4, REFUSALS = 4 };
#endif

// ---- a device's recorder, counted ----
static const oht_recorder *inner;
static int begun, replayed, living;

static bool begin_counted(oht_backend *be) {
    begun++;
    return inner->begin(be);
}
static void *end_counted(oht_backend *be) {
    void *recording = inner->end(be);
    living += recording != NULL;
    return recording;
}
static void replay_counted(oht_backend *be, void *recording) {
    replayed++;
    inner->replay(be, recording);
}
static void discard_counted(oht_backend *be, void *recording) {
    living--;
    inner->discard(be, recording);
}
static const oht_recorder COUNTED = {begin_counted, end_counted, replay_counted, discard_counted};

// ---- training ----
typedef struct outcome {
    double loss[STEPS], norm[STEPS], seen[STEPS]; // seen: of the outlier statistics, where they looked
    float *param;
    size_t count;
} outcome;

static oht_status run(const oht_config *cfg, outcome *out) {
    oht_comm *comm = oht_mpi_comm();
    oht_session *s = NULL;
    oht_synthetic *data = NULL;
    const oht_data_info imagined = oht_session_imagined_data(cfg);
    OHT_TRY(oht_session_create(&s, comm, cfg, &imagined, OHT_FOR_TRAINING));
    inner = s->be->recorder;
    if (inner) s->be->recorder = &COUNTED;
    begun = replayed = 0;
    oht_status status = oht_session_allocate(s);
    if (status == OHT_OK) status = oht_synthetic_create(&data, s);
    for (int i = 0; status == OHT_OK && i < STEPS; i++) {
        const bool observe = i % 3 != 0;
        oht_step_result r = {0};
        status = oht_step(s, oht_synthetic_next(data, s->state.step), OHT_OK, observe, &r);
        if (status == OHT_OK && observe) {
            oht_outlier_metrics m;
            status = oht_stats_reduce(s->train_stats, comm);
            oht_stats_metrics(s->train_stats, &m);
            out->seen[i] = m.max_inf_norm + m.avg_kurtosis;
        }
        out->loss[i] = r.loss;
        out->norm[i] = r.grad_norm;
    }
    if (status == OHT_OK) {
        out->count = s->params->flat_count;
        status = OHT_ALLOC(&out->param, out->count, "parameters of a test");
        if (status == OHT_OK) s->be->download(s->be, out->param, s->state.param, out->count * sizeof(float));
    }
    oht_synthetic_destroy(data);
    oht_session_destroy(s);
    return status;
}

static void configure(oht_config *cfg, oht_model_type type, const char *precision) {
    tiny_config(cfg, type, "none");
    cfg->model.layers = 1;
    cfg->train.global_batch = 5;
    cfg->train.micro_batch = 2;
    cfg->train.reduce_bytes = 16384;
    cfg->train.clip = 1.0;
    snprintf(cfg->run.device, sizeof(cfg->run.device), "cuda");
    snprintf(cfg->train.precision, sizeof(cfg->train.precision), "%s", precision);
    if (type == OHT_MODEL_BERT) {
        cfg->compat.micro_batch_mean = true;
        cfg->train.recompute = true;
    }
    if (type == OHT_MODEL_OPT) cfg->model.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
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
        cfg->model.dropout = 0.1;
    }
}

static bool absent(void) {
    return getenv("OHT_CUDA_PLUGIN") == NULL || oht_comm_size(oht_mpi_comm()) > 2; // more show no more
}

static void check_run(oht_mpi_findings *f, const oht_config *cfg, const char *what, outcome *out) {
    memset(out, 0, sizeof(*out));
    const oht_status status = run(cfg, out);
    if (status != OHT_OK) fprintf(stderr, "%s: %s\n", what, oht_error_last()->text);
    OHT_CHECK(f, status == OHT_OK);
    OHT_CHECK(f, living == 0);
}

static void check_same(oht_mpi_findings *f, const outcome *a, const outcome *b) {
    OHT_CHECK(f, memcmp(a->loss, b->loss, sizeof(a->loss)) == 0);
    OHT_CHECK(f, memcmp(a->norm, b->norm, sizeof(a->norm)) == 0);
    OHT_CHECK(f, memcmp(a->seen, b->seen, sizeof(a->seen)) == 0);
    OHT_CHECK(f, a->param && b->param && a->count == b->count &&
                     memcmp(a->param, b->param, a->count * sizeof(float)) == 0);
    OHT_CHECK(f, a->loss[0] > 0 && a->loss[STEPS - 1] != a->loss[0] && a->seen[1] > 0);
}

static void the_bits_of_plain_kernels(void **state) {
    (void)state;
    static const struct {
        oht_model_type type;
        const char *precision;
    } models[] = {{OHT_MODEL_BERT, "fp32"}, {OHT_MODEL_STANHOP, "fp32"}, {OHT_MODEL_OPT, "fp16"}, {OHT_MODEL_VIT, "bf16"}};
    if (absent()) skip();
    for (int k = 0; k < MODELS; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        outcome plain, recorded;
        configure(&cfg, models[k].type, models[k].precision);
        cfg.run.cuda_graphs = false;
        check_run(&f, &cfg, oht_model_type_name(models[k].type), &plain);
        OHT_CHECK(&f, begun == 0 && replayed == 0);
        cfg.run.cuda_graphs = true;
        check_run(&f, &cfg, oht_model_type_name(models[k].type), &recorded);
        OHT_CHECK(&f, begun > 1 && replayed > 2 * begun); // forward and backward at least, and most of the steps
        check_same(&f, &plain, &recorded);
        oht_free(plain.param);
        oht_free(recorded.param);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

// A driver that cannot record, or a launch that fails meanwhile: kernels run one by one, and the first failure is the last attempt.
static void without_recordings_it_goes_on(void **state) {
    (void)state;
    if (absent()) skip();
    oht_mpi_findings f = {0};
    oht_config cfg;
    outcome plain, refused;
    configure(&cfg, OHT_MODEL_OPT, "fp32");
    cfg.run.cuda_graphs = false;
    check_run(&f, &cfg, "plain", &plain);
    cfg.run.cuda_graphs = true;
    for (int how = 0; how < REFUSALS; how++) {
        const char *variable = how > 0 ? "OHT_EMU_GRAPH_FAIL" : "OHT_EMU_FAIL";
        // One layer has three of these a forward pass; the second pass of as many rows is recorded: on one rank the very next.
        if (how == 0 && oht_comm_size(oht_mpi_comm()) > 1) continue;
        setenv(variable, (const char *[]){"layernorm_fwd:5", "1", "2", "3"}[how], 1);
        check_run(&f, &cfg, variable, &refused);
        unsetenv(variable);
        OHT_CHECK(&f, begun == 1 && replayed == 0);
        check_same(&f, &plain, &refused);
        oht_free(refused.param);
    }
    oht_free(plain.param);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

int main(int argc, char **argv) {
    const char *plugin = getenv("OHT_EMULATED");
    if (plugin && plugin[0]) setenv("OHT_CUDA_PLUGIN", plugin, 1);
    setenv("OHT_EMU_DEVICES", "8", 1);
    if (argc > 1 && strcmp(argv[1], "late") == 0) setenv("OHT_EMU_LAZY", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_of_plain_kernels),
        cmocka_unit_test(without_recordings_it_goes_on),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
