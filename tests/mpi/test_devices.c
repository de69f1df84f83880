// Gradients and moments on several ranks: shares cover the layout once; sharded AdamW is AdamW; checkpoints do not know
// of shares; devices that have collectives of their own (tests/support/guard.h) reduce the same numbers while backward
// goes on; what cannot work is refused by all ranks alike.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "guard.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/session.h"
#include "tiny.h"

static char folder[256], opt_data[320], bert_data[320];
static bool guarded;
static int devices; // that the node of a guarded device shows

oht_status __real_oht_backend_create(const char *device, int local_rank, oht_backend **out);
oht_status __wrap_oht_backend_create(const char *device, int local_rank, oht_backend **out);
oht_status __wrap_oht_backend_create(const char *device, int local_rank, oht_backend **out) {
    if (!guarded) return __real_oht_backend_create(device, local_rank, out);
    OHT_TRY(guard_create(out));
    (*out)->devices = devices;
    return OHT_OK;
}

static int size(void) {
    return oht_comm_size(oht_mpi_comm());
}
static int rank(void) {
    return oht_comm_rank(oht_mpi_comm());
}

// ---- arithmetic ----
static void shares_cover_once(void **state) {
    (void)state;
    static const size_t flats[] = {1, 15, 16, 17, 1000, 4096, 4097, 100003};
    static const size_t pieces[] = {1, 64, 256, 1000, 4096, 1 << 20};
    for (size_t f = 0; f < sizeof(flats) / sizeof(*flats); f++)
        for (size_t p = 0; p < sizeof(pieces) / sizeof(*pieces); p++)
            for (int n = 1; n <= 7; n++) {
                size_t flat = flats[f];
                oht_shares s = oht_shares_of(flat, pieces[p], 0, n);
                assert_true(s.padded >= flat && s.padded < flat + 16 * (size_t)n);
                assert_true(s.padded % (16 * (size_t)n) == 0 && s.piece % (16 * (size_t)n) == 0 && s.piece > 0);
                size_t sum = 0;
                for (size_t i = 0, m; (m = oht_shares_piece(&s, i)) > 0; i++) {
                    assert_true(m % (size_t)n == 0);
                    sum += m;
                }
                assert_int_equal(sum, s.padded);
                unsigned char *seen = calloc(flat, 1), *packed = calloc(s.padded / (size_t)n, 1);
                for (int r = 0; r < n; r++) {
                    memset(packed, 0, s.padded / (size_t)n);
                    oht_stretch at = {0, 0, 0};
                    size_t last = 0;
                    while (oht_shares_next(&s, r, SIZE_MAX, &at)) {
                        assert_true(at.count > 0 && at.first + at.count <= flat && at.first >= last);
                        last = at.first + at.count;
                        for (size_t e = 0; e < at.count; e++) {
                            seen[at.first + e]++;
                            assert_true(at.packed + e < s.padded / (size_t)n);
                            packed[at.packed + e]++;
                        }
                    }
                    for (size_t e = 0; e < s.padded / (size_t)n; e++) assert_true(packed[e] <= 1);
                    // a walk that starts and ends inside gives the same places
                    size_t lo = flat / 3, hi = flat - flat / 5;
                    oht_stretch part = {lo, 0, 0}, whole = {0, 0, 0};
                    while (oht_shares_next(&s, r, hi, &part)) {
                        while (whole.first + whole.count <= part.first && oht_shares_next(&s, r, SIZE_MAX, &whole)) continue;
                        assert_true(part.first >= lo && part.first + part.count <= hi);
                        assert_true(part.first >= whole.first && part.first + part.count <= whole.first + whole.count);
                        assert_int_equal(part.packed - whole.packed, part.first - whole.first);
                    }
                }
                for (size_t e = 0; e < flat; e++) assert_int_equal(seen[e], 1);
                free(seen);
                free(packed);
            }
}

static void sums_of_rows(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    static const size_t lengths[] = {1, 16, 1000, 65536};
    for (size_t k = 0; k < 4; k++) {
        size_t n = lengths[k], all = n * (size_t)size();
        float *x = malloc(all * sizeof(float));
        for (size_t i = 0; i < all; i++) x[i] = (float)(i % 1000) * (float)(rank() + 1);
        OHT_CHECK(&f, oht_reduce_scatter_f32(oht_mpi_comm(), x, n) == OHT_OK);
        float ranks = (float)(size() * (size() + 1) / 2);
        size_t wrong = 0;
        for (size_t i = 0; i < n; i++) {
            size_t at = (size_t)rank() * n + i;
            wrong += x[at] != (float)(at % 1000) * ranks;
        }
        for (size_t i = 0; i < all; i++)
            if (i / n != (size_t)rank()) x[i] = -1;
        OHT_CHECK(&f, oht_all_gather_f32(oht_mpi_comm(), x, n) == OHT_OK);
        for (size_t i = 0; i < all; i++) wrong += x[i] != (float)(i % 1000) * ranks;
        OHT_CHECK(&f, wrong == 0);
        free(x);
    }
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// ---- steps ----
typedef struct outcome {
    double loss[20], norm[20];
    float *param;
    size_t n;
    oht_session_memory bytes;
} outcome;

static void take_steps(oht_mpi_findings *f, const oht_config *cfg, int steps, outcome *out) {
    oht_session *s = NULL;
    OHT_CHECK(f, oht_session_create(&s, oht_mpi_comm(), cfg, NULL, OHT_FOR_TRAINING) == OHT_OK);
    OHT_CHECK(f, s && oht_session_allocate(s) == OHT_OK);
    oht_loader_config lc =
        oht_session_loader(s, OHT_SPLIT_TRAIN, cfg->train.global_batch, oht_graph_rows(s->train_graph), 0, steps);
    oht_loader *loader = NULL;
    OHT_CHECK(f, oht_loader_create(&loader, cfg->data.path, &lc) == OHT_OK);
    for (int i = 0; i < steps; i++) {
        const oht_step_batch *batch = NULL;
        oht_step_result r = {0};
        oht_status status = oht_loader_next(loader, &batch);
        OHT_CHECK(f, oht_step(s, batch, status, false, &r) == OHT_OK);
        out->loss[i] = r.loss;
        out->norm[i] = r.grad_norm;
    }
    oht_loader_destroy(loader);
    out->n = s->params->flat_count;
    out->param = malloc(out->n * sizeof(float));
    s->be->download(s->be, out->param, s->state.param, out->n * sizeof(float));
    out->bytes = oht_session_bytes(s);
    oht_session_destroy(s);
}

static double distance(const outcome *a, const outcome *b) {
    double worst = a->n == b->n ? 0 : INFINITY;
    for (size_t i = 0; i < a->n; i++) {
        double d = fabs((double)a->param[i] - (double)b->param[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static void configure(oht_config *cfg, oht_model_type type) {
    tiny_config(cfg, type, type == OHT_MODEL_BERT ? bert_data : opt_data);
    cfg->train.global_batch = 7; // uneven
    cfg->train.micro_batch = 1;
    cfg->train.reduce_bytes = 5000; // many pieces, none a multiple of anything
    if (type == OHT_MODEL_OPT) cfg->model.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
}

// Where two ranks are added there is one order; more may be added in another.
static double tolerance(void) {
    return size() <= 2 ? 0.0 : 2e-6;
}

static void sharded_is_the_same(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        outcome plain = {0}, sharded = {0};
        configure(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        take_steps(&f, &cfg, 10, &plain);
        cfg.train.shard_optimizer = true;
        take_steps(&f, &cfg, 10, &sharded);
        OHT_CHECK(&f, distance(&plain, &sharded) <= tolerance());
        for (int i = 0; i < 10; i++) OHT_CHECK(&f, fabs(plain.loss[i] - sharded.loss[i]) <= tolerance());
        size_t whole = plain.bytes.optimizer, part = sharded.bytes.optimizer;
        OHT_CHECK(&f, whole == 2 * plain.n * sizeof(float));
        OHT_CHECK(&f, part >= whole / (size_t)size() && part < whole / (size_t)size() + 1024);
        // all ranks hold the same parameters
        memcpy(plain.param, sharded.param, plain.n * sizeof(float));
        OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), plain.param, plain.n * sizeof(float), 0) == OHT_OK);
        OHT_CHECK(&f, memcmp(plain.param, sharded.param, plain.n * sizeof(float)) == 0);
        free(plain.param);
        free(sharded.param);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

// The same pieces, summed by the device, behind backward or after it.
static void devices_reduce_the_same(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        outcome host = {0}, device = {0};
        configure(&cfg, k % 2 ? OHT_MODEL_BERT : OHT_MODEL_OPT);
        cfg.train.shard_optimizer = k / 2;
        if (k == 3) cfg.train.global_batch = 1; // ranks without samples
        take_steps(&f, &cfg, 4, &host);
        long before = guard_collectives();
        guard_link(oht_mpi_comm());
        guarded = true;
        take_steps(&f, &cfg, 4, &device);
        guarded = false;
        guard_link(NULL);
        long pieces = guard_collectives() - before;
        size_t floats = 5000 / sizeof(float) / (16 * (size_t)size()) * (16 * (size_t)size());
        long want = 4 * (long)((host.n + floats - 1) / floats) * (k / 2 ? 2 : 1);
        OHT_CHECK(&f, size() == 1 ? pieces == 0 : pieces == want);
        OHT_CHECK(&f, distance(&host, &device) <= tolerance());
        free(host.param);
        free(device.param);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

// ---- checkpoints ----

// Moments of a run's newest checkpoint, whole, on every rank.
static float *moments_of(oht_mpi_findings *f, const oht_config *cfg, const char *run, size_t *n) {
    oht_session *s = NULL;
    bool found = false;
    oht_config plain = *cfg;
    plain.train.shard_optimizer = false;
    OHT_CHECK(f, oht_session_create(&s, oht_mpi_comm(), &plain, NULL, OHT_FOR_TRAINING) == OHT_OK);
    OHT_CHECK(f, s && oht_session_allocate(s) == OHT_OK);
    OHT_CHECK(f, oht_session_restore(s, run, true, &found) == OHT_OK && found);
    *n = s->params->flat_count;
    float *all = malloc(3 * *n * sizeof(float));
    memcpy(all, s->state.param, *n * sizeof(float));
    memcpy(all + *n, s->state.m, *n * sizeof(float));
    memcpy(all + 2 * *n, s->state.v, *n * sizeof(float));
    *n *= 3;
    oht_session_destroy(s);
    return all;
}

// Saved sharded and resumed whole, and the other way round, with the device of the guard in between.
static void checkpoints_know_no_shares(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    float *all[4];
    size_t n[4];
    configure(&cfg, OHT_MODEL_OPT);
    cfg.run.checkpoint_every = 2;
    cfg.run.keep_checkpoints = 1;
    for (int way = 0; way < 4; way++) { // 1st half, 2nd half: plain plain, sharded sharded, sharded plain, plain sharded
        char run[320];
        snprintf(run, sizeof(run), "%s/way-%d", folder, way);
        bool first = way == 1 || way == 2, second = way == 1 || way == 3;
        cfg.train.steps = 4;
        cfg.train.shard_optimizer = first;
        OHT_CHECK(&f, oht_train(oht_mpi_comm(), &cfg, run) == OHT_OK);
        cfg.train.steps = 8;
        cfg.train.shard_optimizer = second;
        guarded = way == 3;
        guard_link(guarded ? oht_mpi_comm() : NULL);
        OHT_CHECK(&f, oht_train(oht_mpi_comm(), &cfg, run) == OHT_OK);
        guarded = false;
        guard_link(NULL);
        all[way] = moments_of(&f, &cfg, run, &n[way]);
    }
    for (int way = 1; way < 4; way++) {
        double worst = n[way] == n[0] ? 0 : INFINITY;
        for (size_t i = 0; i < n[0]; i++) {
            double d = fabs((double)all[way][i] - (double)all[0][i]);
            if (!(d <= worst)) worst = d;
        }
        OHT_CHECK(&f, worst <= tolerance());
        free(all[way]);
    }
    free(all[0]);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// Rank 0 cannot write its checkpoint: the others, who serve its requests, return its error.
static void failed_checkpoint_frees_all(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[320], path[360];
    configure(&cfg, OHT_MODEL_BERT);
    cfg.train.steps = 2;
    cfg.train.shard_optimizer = true;
    snprintf(run, sizeof(run), "%s/failing", folder);
    snprintf(path, sizeof(path), "%s/checkpoints", run);
    if (rank() == 0) { // a file where the folder of checkpoints belongs
        FILE *block = mkdir(run, 0755) == 0 ? fopen(path, "w") : NULL;
        OHT_CHECK(&f, block && fclose(block) == 0);
    }
    OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    oht_status status = oht_train(oht_mpi_comm(), &cfg, run);
    OHT_CHECK(&f, status == OHT_IO);
    OHT_CHECK(&f, strstr(oht_error_last()->text, "checkpoints") != NULL);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void not_finite_is_named(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    configure(&cfg, OHT_MODEL_BERT);
    cfg.train.shard_optimizer = true;
    oht_session *s = NULL;
    OHT_CHECK(&f, oht_session_create(&s, oht_mpi_comm(), &cfg, NULL, OHT_FOR_TRAINING) == OHT_OK);
    OHT_CHECK(&f, s && oht_session_allocate(s) == OHT_OK);
    const oht_param *p = oht_params_find(s->params, "head.bias");
    s->state.param[p->offset + 3] = NAN;
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, 7, oht_graph_rows(s->train_graph), 0, 1);
    oht_loader *loader = NULL;
    const oht_step_batch *batch = NULL;
    oht_step_result r;
    OHT_CHECK(&f, oht_loader_create(&loader, cfg.data.path, &lc) == OHT_OK);
    oht_status status = oht_loader_next(loader, &batch);
    status = oht_step(s, batch, status, false, &r);
    OHT_CHECK(&f, status == OHT_NUMERIC);
    OHT_CHECK(&f, strstr(oht_error_last()->text, "the first parameter whose gradient is not finite is head.") != NULL);
    oht_loader_destroy(loader);
    oht_session_destroy(s);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// ---- what cannot work ----
static void refused_alike(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    oht_session *s = NULL;
    configure(&cfg, OHT_MODEL_OPT);
    guarded = true; // no collectives
    oht_status status = oht_session_create(&s, oht_mpi_comm(), &cfg, NULL, OHT_FOR_TRAINING);
    OHT_CHECK(&f, status == (size() > 1 ? OHT_CONFIG : OHT_OK));
    OHT_CHECK(&f, size() == 1 || strstr(oht_error_last()->text, "has no NCCL"));
    oht_session_destroy(s);
    s = NULL;
    guard_link(oht_mpi_comm());
    devices = 1;
    status = oht_session_create(&s, oht_mpi_comm(), &cfg, NULL, OHT_FOR_TRAINING);
    OHT_CHECK(&f, status == (size() > 1 ? OHT_CONFIG : OHT_OK));
    OHT_CHECK(&f, size() == 1 || strstr(oht_error_last()->text, "it shows them 1 device"));
    oht_session_destroy(s);
    s = NULL;
    devices = 0;
    guarded = rank() > 0; // rank 0 on the CPU
    status = oht_session_create(&s, oht_mpi_comm(), &cfg, NULL, OHT_FOR_TRAINING);
    OHT_CHECK(&f, status == (size() > 1 ? OHT_CONFIG : OHT_OK));
    OHT_CHECK(&f, size() == 1 || strstr(oht_error_last()->text, "some ranks have a GPU"));
    oht_session_destroy(s);
    guarded = false;
    guard_link(NULL);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static int set_up(void **state) {
    (void)state;
    oht_comm *c = oht_mpi_comm();
    oht_status status = OHT_OK;
    if (rank() == 0) tiny_folder(folder);
    if (oht_broadcast(c, folder, sizeof(folder), 0) != OHT_OK) return 1;
    snprintf(opt_data, sizeof(opt_data), "%s/opt.h5", folder);
    snprintf(bert_data, sizeof(bert_data), "%s/bert.h5", folder);
    oht_log_init(rank(), true, "lines");
    if (rank() == 0) status = tiny_text(opt_data, false, false, 300, 11);
    if (rank() == 0 && status == OHT_OK) status = tiny_text(bert_data, true, false, 300, 11);
    return oht_agree(c, status) != OHT_OK;
}

static int tear_down(void **state) {
    (void)state;
    oht_status status = oht_barrier(oht_mpi_comm());
    if (rank() == 0) tiny_remove(folder);
    return status != OHT_OK;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_cover_once),
        cmocka_unit_test(sums_of_rows),
        cmocka_unit_test_setup_teardown(sharded_is_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(devices_reduce_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(checkpoints_know_no_shares, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failed_checkpoint_frees_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_finite_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refused_alike, set_up, tear_down),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
