// Training on several ranks: the same bits when repeated, the same state on all ranks, and one rank's failure
// is everybody's, at once, wherever it happens.
#include "mpi_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/log.h"
#include "oht/session.h"
#include "tiny.h"

static char folder[256];
static char opt_data[320], bert_data[320];

static int last_rank(void) {
    return oht_comm_size(oht_mpi_comm()) - 1;
}
static bool i_am_last(void) {
    return oht_comm_rank(oht_mpi_comm()) == last_rank();
}

// All ranks have this status, and the same text.
static void check_same_error(oht_mpi_findings *f, oht_status status, oht_status want, const char *part) {
    oht_comm *c = oht_mpi_comm();
    char text[OHT_ERROR_TEXT];
    memcpy(text, oht_error_last()->text, sizeof(text));
    OHT_CHECK(f, status == want);
    OHT_CHECK(f, strstr(text, part) != NULL);
    OHT_CHECK(f, oht_broadcast(c, text, sizeof(text), 0) == OHT_OK);
    OHT_CHECK(f, strcmp(text, oht_error_last()->text) == 0);
}

static oht_session *open_session(oht_mpi_findings *f, const oht_config *cfg, int parts) {
    oht_session *s = NULL;
    OHT_CHECK(f, oht_session_create(&s, oht_mpi_comm(), cfg, NULL, parts) == OHT_OK);
    OHT_CHECK(f, s && oht_session_allocate(s) == OHT_OK);
    return s;
}

static oht_loader *open_loader(oht_mpi_findings *f, const oht_session *s, const char *path, int64_t count) {
    const oht_config *cfg = s->cfg;
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, cfg->train.global_batch,
                                              oht_graph_rows(s->train_graph), 0, count);
    oht_loader *loader = NULL;
    OHT_CHECK(f, oht_loader_create(&loader, path, &lc) == OHT_OK);
    return loader;
}

// `steps` steps; the losses, and the session with its state.
static oht_session *take_steps(oht_mpi_findings *f, const oht_config *cfg, int steps, double *loss) {
    oht_session *s = open_session(f, cfg, OHT_FOR_TRAINING);
    oht_loader *loader = open_loader(f, s, cfg->data.path, steps);
    for (int i = 0; i < steps; i++) {
        const oht_step_batch *batch = NULL;
        oht_step_result r;
        oht_status status = oht_loader_next(loader, &batch);
        OHT_CHECK(f, oht_step(s, batch, status, false, &r) == OHT_OK);
        loss[i] = r.loss;
    }
    oht_loader_destroy(loader);
    return s;
}

static void repeats_bit_by_bit(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        oht_mpi_findings f = {0};
        oht_config cfg;
        double a[20], b[20], root[20];
        tiny_config(&cfg, k ? OHT_MODEL_BERT : OHT_MODEL_OPT, k ? bert_data : opt_data);
        cfg.train.global_batch = 7; // uneven shares
        cfg.train.micro_batch = 1;
        cfg.train.reduce_bytes = 4096; // many pieces
        oht_session *x = take_steps(&f, &cfg, 20, a), *y = take_steps(&f, &cfg, 20, b);
        size_t bytes = x->params->flat_count * sizeof(float);
        OHT_CHECK(&f, memcmp(a, b, sizeof(a)) == 0);
        OHT_CHECK(&f, memcmp(x->state.param, y->state.param, bytes) == 0);
        OHT_CHECK(&f, isfinite(a[19]) && a[19] < a[0]);
        // and all ranks hold the same
        memcpy(root, a, sizeof(a));
        OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), root, sizeof(root), 0) == OHT_OK);
        OHT_CHECK(&f, memcmp(a, root, sizeof(a)) == 0);
        memcpy(y->state.param, x->state.param, bytes);
        OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), y->state.param, bytes, 0) == OHT_OK);
        OHT_CHECK(&f, memcmp(x->state.param, y->state.param, bytes) == 0);
        oht_session_destroy(x);
        oht_session_destroy(y);
        oht_mpi_verdict(oht_mpi_comm(), &f);
    }
}

// More ranks than samples: some only join the collectives.
static void ranks_without_samples(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    double loss[3];
    tiny_config(&cfg, OHT_MODEL_BERT, bert_data);
    cfg.train.global_batch = 1;
    oht_session *s = take_steps(&f, &cfg, 3, loss);
    for (int i = 0; i < 3; i++) OHT_CHECK(&f, isfinite(loss[i]));
    oht_session_destroy(s);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void one_rank_without_data(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[320];
    tiny_config(&cfg, OHT_MODEL_OPT, i_am_last() ? "/no/such/file.h5" : opt_data);
    snprintf(run, sizeof(run), "%s/without-data", folder);
    oht_status status = oht_train(oht_mpi_comm(), &cfg, run);
    OHT_CHECK(&f, status != OHT_OK);
    check_same_error(&f, status, status, "/no/such/file.h5");
    OHT_CHECK(&f, oht_agree_rank(oht_mpi_comm()) == last_rank());
    OHT_CHECK(&f, access(run, F_OK) != 0);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void one_rank_with_another_file(void **state) {
    (void)state;
    if (last_rank() == 0) skip();
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[320];
    snprintf(run, sizeof(run), "%s/other.h5", folder);
    if (i_am_last()) OHT_CHECK(&f, tiny_text(run, false, false, 301, 11) == OHT_OK);
    tiny_config(&cfg, OHT_MODEL_OPT, i_am_last() ? run : opt_data);
    snprintf(run, sizeof(run), "%s/another", folder);
    check_same_error(&f, oht_train(oht_mpi_comm(), &cfg, run), OHT_DATA, "another file than on rank 0");
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// The last rank's copy of the data is damaged inside: the loader meets it in the middle of the run.
static void one_rank_meets_damage(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char path[400], run[320];
    snprintf(path, sizeof(path), "%s/damaged.h5", folder);
    if (i_am_last()) {
        OHT_CHECK(&f, tiny_text(path, false, false, 5000, 11) == OHT_OK);
        FILE *file = fopen(path, "r+b");
        fseek(file, 5000 * TINY_TOKENS, SEEK_SET); // about the middle of 2-byte tokens
        fwrite("damage", 1, 6, file);
        fclose(file);
    }
    char whole[320];
    snprintf(whole, sizeof(whole), "%s/whole.h5", folder);
    if (oht_comm_rank(oht_mpi_comm()) == 0 && last_rank() > 0)
        OHT_CHECK(&f, tiny_text(whole, false, false, 5000, 11) == OHT_OK);
    OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    tiny_config(&cfg, OHT_MODEL_OPT, i_am_last() ? path : whole);
    cfg.train.steps = 700;
    cfg.train.log_every = 100;
    snprintf(run, sizeof(run), "%s/damage", folder);
    check_same_error(&f, oht_train(oht_mpi_comm(), &cfg, run), OHT_DATA, "damaged.h5");
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void root_cannot_write(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[400];
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    snprintf(run, sizeof(run), "%s/run", opt_data); // below a file
    check_same_error(&f, oht_train(oht_mpi_comm(), &cfg, run), OHT_IO, opt_data);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// A bad number on one rank alone: all stop before the update and name the tensor.
static void one_rank_is_not_finite(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    tiny_config(&cfg, OHT_MODEL_OPT, opt_data);
    oht_session *s = open_session(&f, &cfg, OHT_FOR_TRAINING);
    oht_loader *loader = open_loader(&f, s, opt_data, 1);
    const oht_param *p = oht_params_find(s->params, "layer.1.ffn2.bias");
    OHT_CHECK(&f, p != NULL);
    if (p && i_am_last()) s->state.param[p->offset] = INFINITY;
    size_t bytes = s->params->flat_count * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, s->state.param, bytes);
    const oht_step_batch *batch = NULL;
    oht_step_result r;
    oht_status status = oht_loader_next(loader, &batch);
    check_same_error(&f, oht_step(s, batch, status, false, &r), OHT_NUMERIC, "layer.1.ffn.out");
    OHT_CHECK(&f, memcmp(before, s->state.param, bytes) == 0);
    free(before);
    oht_loader_destroy(loader);
    oht_session_destroy(s);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void restore_reaches_all(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_config cfg;
    char run[320];
    tiny_config(&cfg, OHT_MODEL_BERT, bert_data);
    cfg.train.steps = 3;
    snprintf(run, sizeof(run), "%s/restore", folder);
    OHT_CHECK(&f, oht_train(oht_mpi_comm(), &cfg, run) == OHT_OK);
    double loss[3];
    oht_session *a = take_steps(&f, &cfg, 3, loss),
                *b = open_session(&f, &cfg, OHT_FOR_TRAINING | OHT_FOR_EVALUATION);
    bool found = false;
    OHT_CHECK(&f, oht_session_restore(b, run, true, &found) == OHT_OK);
    OHT_CHECK(&f, found && b->state.step == 3);
    size_t bytes = a->params->flat_count * sizeof(float);
    OHT_CHECK(&f, memcmp(a->state.param, b->state.param, bytes) == 0);
    OHT_CHECK(&f, memcmp(a->state.m, b->state.m, bytes) == 0);
    OHT_CHECK(&f, memcmp(a->state.v, b->state.v, bytes) == 0);
    oht_eval_result r, root;
    OHT_CHECK(&f, oht_evaluate(b, 0, &r) == OHT_OK);
    root = r;
    OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), &root, sizeof(root), 0) == OHT_OK);
    OHT_CHECK(&f, memcmp(&r, &root, sizeof(r)) == 0);
    oht_session_destroy(a);
    oht_session_destroy(b);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static int set_up(void **state) {
    (void)state;
    oht_comm *c = oht_mpi_comm();
    oht_status status = OHT_OK;
    if (oht_comm_rank(c) == 0) tiny_folder(folder);
    if (oht_broadcast(c, folder, sizeof(folder), 0) != OHT_OK) return 1;
    snprintf(opt_data, sizeof(opt_data), "%s/opt.h5", folder);
    snprintf(bert_data, sizeof(bert_data), "%s/bert.h5", folder);
    oht_log_init(oht_comm_rank(c), true, "lines");
    if (oht_comm_rank(c) == 0) status = tiny_text(opt_data, false, false, 300, 11);
    if (oht_comm_rank(c) == 0 && status == OHT_OK) status = tiny_text(bert_data, true, false, 300, 11);
    return oht_agree(c, status) != OHT_OK;
}

static int tear_down(void **state) {
    (void)state;
    oht_status status = oht_barrier(oht_mpi_comm());
    if (oht_comm_rank(oht_mpi_comm()) == 0) tiny_remove(folder);
    return status != OHT_OK;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(repeats_bit_by_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ranks_without_samples, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_rank_without_data, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_rank_with_another_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_rank_meets_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(root_cannot_write, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_rank_is_not_finite, set_up, tear_down),
        cmocka_unit_test_setup_teardown(restore_reaches_all, set_up, tear_down),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
