// A session: everything training, evaluation and bench need, created in phases that can fail on one rank
// alone, each ended by oht_agree, so that all ranks go on together or return the same error
// (include/oht/session.h).
//
// Memory of one rank, in floats: parameters n; for training gradients n and AdamW moments 2n (sharded over P ranks: 2n/P);
// one arena as large as the larger of the two plans. With activations in 16 bits also a copy of the parameters in them.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/memory.h"
#include "oht/session.h"

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// ---- the data ----
static oht_status check_text(const oht_config *cfg, const oht_data_info *d) {
    if (cfg->data.tokens != 0 && cfg->data.tokens != d->tokens)
        OHT_FAIL(OHT_DATA,
                 "%s has rows of %lld tokens, but data.tokens = %lld\nfix: set data.tokens = %lld (or 0), or "
                 "prepare the text again with --block %lld",
                 cfg->data.path, (long long)d->tokens, (long long)cfg->data.tokens, (long long)d->tokens,
                 (long long)cfg->data.tokens);
    if (d->vocab_size > cfg->model.vocab_size)
        OHT_FAIL(OHT_DATA,
                 "%s has a vocabulary of %lld tokens, but model.vocab_size = %lld\nfix: set model.vocab_size "
                 "= %lld",
                 cfg->data.path, (long long)d->vocab_size, (long long)cfg->model.vocab_size,
                 (long long)d->vocab_size);
    return OHT_OK;
}

static oht_status check_data(const oht_session *s) {
    const oht_config *cfg = s->cfg;
    const oht_data_info *d = &s->data;
    if (d->task != s->task)
        OHT_FAIL(OHT_DATA,
                 "%s holds %s, but model.type = %s learns from %s\nfix: prepare data of that kind with "
                 "`ohtrain prepare %s`, or set model.type = %s",
                 cfg->data.path, oht_task_data(d->task), oht_model_type_name(cfg->model.type),
                 oht_task_data(s->task), oht_task_prepare(s->task), oht_task_model(d->task));
    if (s->task == OHT_TASK_CLM || s->task == OHT_TASK_MLM) OHT_TRY(check_text(cfg, d));
    if (s->task == OHT_TASK_IMAGES && d->classes > cfg->model.classes)
        OHT_FAIL(OHT_DATA, "%s has %lld classes, but model.classes = %lld\nfix: model.classes=%lld", cfg->data.path,
                 (long long)d->classes, (long long)cfg->model.classes, (long long)d->classes);
    if (cfg->eval.split == OHT_EVAL_TEST && d->rows[OHT_SPLIT_TEST] == 0)
        OHT_FAIL(OHT_DATA, "%s has no test split, but eval.split = test\nfix: eval.split=validation", cfg->data.path);
    if ((s->parts & OHT_FOR_TRAINING) && cfg->train.keep_best && d->rows[OHT_SPLIT_VALIDATION] == 0)
        OHT_FAIL(OHT_DATA, "%s has no validation samples, but train.keep_best compares evaluations\nfix: train.keep_best=false", cfg->data.path);
    if ((s->parts & OHT_FOR_TRAINING) && d->rows[OHT_SPLIT_TRAIN] < 1)
        OHT_FAIL(OHT_DATA, "%s: has no training samples", cfg->data.path);
    return OHT_OK;
}

static oht_status open_data(oht_session *s) {
    oht_h5_silence();
    OHT_TRY(oht_data_describe(&s->data, s->cfg->data.path));
    if (s->data.task == s->task) OHT_TRY(oht_data_fit(&s->data, s->cfg));
    return check_data(s);
}

static bool same_info(const oht_data_info *a, const oht_data_info *b) {
    return a->task == b->task && memcmp(a->rows, b->rows, sizeof(a->rows)) == 0 && a->series == b->series &&
           memcmp(a->steps, b->steps, sizeof(a->steps)) == 0 &&
           a->tokens == b->tokens && a->vocab_size == b->vocab_size && a->padded == b->padded &&
           a->classes == b->classes && strcmp(a->origin, b->origin) == 0 &&
           strcmp(a->source_sha256, b->source_sha256) == 0;
}

// Do all ranks read the same file? (Nodes may hold different copies.) Collective.
static oht_status same_data(oht_session *s) {
    oht_data_info root = s->data;
    OHT_TRY(oht_broadcast(s->comm, &root, sizeof(root), 0));
    oht_status status = OHT_OK;
    if (!same_info(&root, &s->data))
        status = oht_error_set(OHT_DATA, __FILE__, __LINE__,
                               "%s on node %s is another file than on rank 0: %lld training samples (rank 0: "
                               "%lld), source %.12s (rank 0: %.12s)",
                               s->cfg->data.path, oht_comm_node(s->comm), (long long)s->data.rows[0],
                               (long long)root.rows[0], s->data.source_sha256, root.source_sha256);
    return oht_agree(s->comm, status);
}

// How long training takes and where epochs end, once the data is known.
static oht_status pace(oht_session *s) {
    const oht_train_config *t = &s->cfg->train;
    s->paced = *t;
    if (t->epochs == 0) return OHT_OK;
    s->epoch_steps = oht_epoch_steps(s->data.rows[OHT_SPLIT_TRAIN], t->global_batch, t->drop_last);
    if (s->epoch_steps == 0)
        OHT_FAIL(OHT_DATA, "%s has %lld training samples, fewer than train.global_batch = %lld, and train.drop_last leaves "
                           "short batches out\nfix: train.drop_last=false, or a smaller train.global_batch",
                 s->cfg->data.path, (long long)s->data.rows[OHT_SPLIT_TRAIN], (long long)t->global_batch);
    if (__builtin_mul_overflow(s->epoch_steps, t->epochs, &s->paced.steps))
        OHT_FAIL(OHT_CONFIG, "train.epochs: %lld epochs of %lld steps are beyond counting", (long long)t->epochs,
                 (long long)s->epoch_steps);
    if (t->schedule == OHT_LR_TYPE1 || t->schedule == OHT_LR_TYPE2) s->paced.lr_every = s->epoch_steps;
    return OHT_OK;
}

oht_split oht_session_result_split(const oht_session *s) {
    bool has_test = s->data.rows[OHT_SPLIT_TEST] > 0;
    return s->cfg->eval.split == OHT_EVAL_VALIDATION || !has_test ? OHT_SPLIT_VALIDATION : OHT_SPLIT_TEST;
}

oht_data_info oht_session_imagined_data(const oht_config *cfg) {
    return (oht_data_info){.task = oht_model_task(&cfg->model),
                           .rows = {cfg->train.global_batch, 1}, // a batch is not short
                           .series = cfg->model.series,
                           .tokens = oht_config_tokens(cfg),
                           .vocab_size = cfg->model.vocab_size,
                           .classes = cfg->model.classes};
}

// ---- model and graphs ----
static oht_status make_segments(oht_session *s) {
    const oht_params *params = s->params;
    // Order of offsets: parameters are few, so sort their indices by insertion.
    int *order;
    OHT_TRY(OHT_ALLOC(&order, (size_t)params->n, "parameter order"));
    for (int i = 0; i < params->n; i++) {
        int j = i;
        for (; j > 0 && params->item[order[j - 1]].offset > params->item[i].offset; j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    oht_status status = OHT_ALLOC(&s->segment, (size_t)params->n + 1, "decay segments");
    for (int j = 0; status == OHT_OK && j < params->n; j++) {
        const oht_param *p = &params->item[order[j]];
        bool decays = oht_param_decays(p, s->cfg->train.no_decay);
        if (s->n_segments > 0 && s->segment[s->n_segments - 1].decays == decays) continue;
        // Padding in front of a parameter goes with the one before it: it is zero and stays zero either way.
        size_t first = s->n_segments == 0 ? 0 : p->offset;
        s->segment[s->n_segments++] = (oht_segment){.first = first, .decays = decays};
    }
    for (size_t i = 0; i < s->n_segments; i++) {
        size_t end = i + 1 < s->n_segments ? s->segment[i + 1].first : params->flat_count;
        s->segment[i].count = end - s->segment[i].first;
    }
    oht_free(order);
    return status;
}

static oht_status record(oht_session *s, oht_graph **out, oht_mode mode, int64_t rows) {
    oht_value loss = OHT_NONE;
    bool recompute = mode == OHT_TRAIN && s->cfg->train.recompute;
    OHT_TRY(oht_graph_create(out, s->be, s->params, mode, rows, s->tokens));
    oht_graph_storage(*out, s->storage);
    oht_graph_module_taps(*out, s->cfg->compat.all_modules);
    OHT_TRY(oht_model_record(s->model, *out, s->data.padded, recompute, &loss));
    OHT_TRY(oht_plan(*out, mode == OHT_TRAIN ? loss : OHT_NONE));
    return OHT_OK;
}

// Without this check the kernel would hand out pages until it ends a process without a word. The ranks of a node
// share its memory; other devices refuse by themselves.
static oht_status check_memory(const oht_session *s) {
    oht_session_memory m = oht_session_bytes(s);
    double GiB = 1073741824.0, ranks = oht_comm_local_size(s->comm), node = (double)oht_node_memory();
    double need = ((double)m.weights + (double)m.gradients + (double)m.optimizer + (double)m.arena) * ranks;
    if ((s->parts & OHT_TO_LOOK_AT) || strcmp(s->be->name, "cpu") != 0 || node == 0 || need <= node)
        return OHT_OK;
    OHT_FAIL(OHT_MEMORY,
             "node %s has %.1f GiB of memory, but %s%.1f GiB are needed: %.0f rank%s with parameters of %.2f "
             "GiB, gradients %.2f, AdamW %.2f, activations %.2f\nfix: %s",
             oht_comm_node(s->comm), node / GiB, m.arena ? "" : "more than ", need / GiB, ranks,
             ranks == 1 ? "" : "s", (double)m.weights / GiB, (double)m.gradients / GiB,
             (double)m.optimizer / GiB, (double)m.arena / GiB,
             m.arena ? "a smaller train.micro_batch or eval.micro_batch, train.recompute=true, or fewer ranks a node"
                     : "fewer ranks a node, or a smaller model");
}

// ---- the device ----
static const struct {
    const char *name;
    oht_dtype storage;
} PRECISION[] = {{"fp32", OHT_F32}, {"tf32", OHT_F32}, {"bf16", OHT_BF16}, {"fp16", OHT_F16}};

static oht_status choose_precision(oht_session *s) {
    const char *asked = s->cfg->train.precision;
    bool series = s->cfg->model.type == OHT_MODEL_STANHOP; // small matrices, and its kernels know fp32 only
    if (strcmp(asked, "auto") == 0) asked = s->be->has_type[OHT_BF16] && !series ? "bf16" : "fp32";
    for (size_t i = 0; i < sizeof(PRECISION) / sizeof(PRECISION[0]); i++)
        if (strcmp(PRECISION[i].name, asked) == 0) {
            s->precision = PRECISION[i].name;
            s->storage = PRECISION[i].storage;
        }
    s->be->tf32 = strcmp(s->precision, "tf32") == 0;
    if (!s->be->has_type[s->storage] || (s->be->tf32 && !s->be->has_tf32))
        OHT_FAIL(OHT_CONFIG, "train.precision = %s, but the %s backend computes in fp32\nfix: train.precision=auto, or a GPU",
                 s->precision, s->be->name);
    if (s->storage != OHT_F32 && series)
        OHT_FAIL(OHT_CONFIG, "train.precision = %s, but STanHop-Net computes in fp32 or tf32\nfix: train.precision=auto",
                 s->precision);
    return OHT_OK;
}

static oht_status open_device(oht_session *s) {
    int local_rank = oht_comm_local_rank(s->comm), ranks = oht_comm_local_size(s->comm);
    OHT_TRY(oht_backend_create(s->cfg->run.device, local_rank, &s->be));
    if (s->be->devices > 0 && ranks > s->be->devices)
        OHT_FAIL(OHT_CONFIG,
                 "%d ranks on node %s, but it shows them %d device%s of kind %s\nfix: one rank a device: mpirun -np %d, "
                 "--gpus-per-node=%d for the batch system, or run.device=cpu",
                 ranks, oht_comm_node(s->comm), s->be->devices, s->be->devices == 1 ? "" : "s", s->be->name, s->be->devices,
                 ranks);
    if (!s->be->collectives && !s->be->host_memory && oht_comm_size(s->comm) > 1)
        OHT_FAIL(OHT_CONFIG,
                 "%d ranks, but this build of the %s backend has no NCCL, so one rank is all\nfix: build again with -DOHT_CUDA=ON "
                 "where CMake finds NCCL 2.14 or newer (a package, or NCCL_HOME=FOLDER), or start one rank",
                 oht_comm_size(s->comm), s->be->name);
    return choose_precision(s);
}

// The same storage everywhere, and the devices know each other. Collective.
static oht_status link_devices(oht_session *s) {
    oht_backend *be = s->be;
    unsigned char id[OHT_LINK_ID];
    int rank = oht_comm_rank(s->comm), size = oht_comm_size(s->comm);
    double kind[2] = {be->collectives != NULL, be->collectives == NULL};
    OHT_TRY(oht_max_f64(s->comm, kind, 2));
    double type[2] = {s->storage, -(double)s->storage};
    OHT_TRY(oht_max_f64(s->comm, type, 2));
    if ((kind[0] > 0 && kind[1] > 0) || type[0] != -type[1])
        OHT_FAIL(OHT_CONFIG, "some ranks have a GPU and others run on the CPU (this one: %s, on node %s)\nfix: "
                             "run.device=cpu or run.device=cuda, which says what is missing",
                 be->name, oht_comm_node(s->comm));
    if (!be->collectives || size == 1) return OHT_OK;
    OHT_TRY(oht_agree(s->comm, rank == 0 ? be->collectives->link_id(be, id) : OHT_OK));
    OHT_TRY(oht_broadcast(s->comm, id, sizeof(id), 0));
    return oht_agree(s->comm, be->collectives->link(be, id, rank, size, s->cfg->run.patience_s));
}

// 32 MiB keep a network of GPUs busy (cuda.md); 2 MiB are fastest through shared memory (hpc.md).
static size_t piece_bytes(const oht_session *s) {
    int64_t asked = s->cfg->train.reduce_bytes;
    return asked > 0 ? (size_t)asked : s->be->collectives ? (size_t)32 << 20 : (size_t)2 << 20;
}

static oht_status build(oht_session *s) {
    const oht_config *cfg = s->cfg;
    int64_t size = oht_comm_size(s->comm);
    OHT_TRY(oht_model_create(&s->model, &cfg->model, s->tokens));
    s->params = oht_model_params(s->model);
    s->shares = oht_shares_of(s->params->flat_count, piece_bytes(s), oht_comm_rank(s->comm), (int)size);
    OHT_TRY(check_memory(s)); // before graphs are planned for what cannot be held
    OHT_TRY(make_segments(s));
    if (s->parts & OHT_FOR_TRAINING) {
        int64_t share = ceil_div(cfg->train.global_batch, size);
        OHT_TRY(record(s, &s->train_graph, OHT_TRAIN,
                       share < cfg->train.micro_batch ? share : cfg->train.micro_batch));
        s->arena_bytes = oht_plan_bytes(s->train_graph);
    }
    if (s->parts & OHT_FOR_EVALUATION) {
        int64_t share = ceil_div(cfg->eval.batch, size);
        OHT_TRY(record(s, &s->eval_graph, OHT_EVAL,
                       share < cfg->eval.micro_batch ? share : cfg->eval.micro_batch));
        size_t bytes = oht_plan_bytes(s->eval_graph);
        if (bytes > s->arena_bytes) s->arena_bytes = bytes;
    }
    return check_memory(s);
}

oht_status oht_session_create(oht_session **out, oht_comm *comm, const oht_config *cfg,
                              const oht_data_info *data, int parts) {
    *out = NULL;
    oht_session *s;
    OHT_TRY(oht_agree(comm, OHT_ALLOC(&s, 1, "session")));
    s->comm = comm;
    s->cfg = cfg;
    s->parts = parts;
    s->task = oht_model_task(&cfg->model);
    s->eval_split = OHT_SPLIT_VALIDATION;
    oht_status status;
    if (data) {
        s->data = *data;
    } else {
        OHT_TRY_GOTO(status, oht_agree(comm, open_data(s)), fail);
        OHT_TRY_GOTO(status, same_data(s), fail);
    }
    bool text = s->task == OHT_TASK_CLM || s->task == OHT_TASK_MLM;
    s->tokens = text ? s->data.tokens : oht_config_tokens(cfg);
    OHT_TRY_GOTO(status, oht_agree(comm, pace(s)), fail);
    OHT_TRY_GOTO(status, oht_agree(comm, open_device(s)), fail);
    OHT_TRY_GOTO(status, link_devices(s), fail);
    OHT_TRY_GOTO(status, oht_agree(comm, build(s)), fail);
    *out = s;
    return OHT_OK;
fail:
    oht_session_destroy(s);
    return status;
}

// ---- memory ----
static const double FIRST_SCALE = 65536; // of the loss, in fp16

static bool shards(const oht_session *s) {
    return s->cfg->train.shard_optimizer && oht_comm_size(s->comm) > 1;
}
// Floats of one moment on one rank.
static size_t moment_count(const oht_session *s) {
    return shards(s) ? s->shares.padded / (size_t)s->shares.size : s->params->flat_count;
}

oht_session_memory oht_session_bytes(const oht_session *s) {
    size_t flat = s->shares.padded * sizeof(float);
    size_t copy = s->storage == OHT_F32 ? 0 : s->shares.padded * oht_dtype_size(s->storage);
    bool training = s->parts & OHT_FOR_TRAINING;
    size_t kept = training && s->cfg->train.keep_best ? flat : 0;
    return (oht_session_memory){flat + copy + kept, training ? flat : 0, training ? 2 * moment_count(s) * sizeof(float) : 0,
                                s->arena_bytes};
}

// The copy that kernels read follows the parameters.
static void refresh(oht_session *s) {
    if (s->work != s->state.param)
        s->be->cast(s->be, s->work, s->storage, s->state.param, (int64_t)s->params->flat_count);
}

static oht_status initialise(oht_session *s, float *host) {
    oht_params_init(s->params, host, (uint64_t)s->cfg->train.seed);
    s->be->upload(s->be, s->state.param, host, s->params->flat_count * sizeof(float));
    refresh(s);
    return s->be->sync(s->be);
}

static oht_status zeroed(oht_session *s, void **out, size_t bytes, const char *what) {
    OHT_TRY(s->be->alloc(s->be, out, bytes, what));
    s->be->zero(s->be, *out, bytes);
    return OHT_OK;
}
static oht_status flat_buffer(oht_session *s, float **out, size_t count, const char *what) {
    return zeroed(s, (void **)out, count * sizeof(float), what);
}

static oht_status allocate_training(oht_session *s) {
    oht_state *state = &s->state;
    OHT_TRY(flat_buffer(s, &state->grad, s->shares.padded, "gradients"));
    OHT_TRY(flat_buffer(s, &state->m, moment_count(s), "first moments of AdamW"));
    OHT_TRY(flat_buffer(s, &state->v, moment_count(s), "second moments of AdamW"));
    if (s->cfg->train.keep_best) OHT_TRY(flat_buffer(s, &state->best, s->params->flat_count, "best parameters"));
    if (shards(s)) OHT_TRY(oht_shard_create(&state->shard, s->comm, s->be, &s->shares, state->m, state->v));
    if (s->storage == OHT_F16) state->loss_scale = FIRST_SCALE;
    return OHT_OK;
}

static oht_status allocate(oht_session *s) {
    OHT_TRY(flat_buffer(s, &s->state.param, s->shares.padded, "parameters"));
    s->work = s->state.param;
    if (s->storage != OHT_F32)
        OHT_TRY(zeroed(s, &s->work, s->shares.padded * oht_dtype_size(s->storage), "parameters in 16 bits"));
    float *host; // given back before the others are taken, so that it does not raise the peak
    OHT_TRY(OHT_ALLOC(&host, s->params->flat_count, "initial parameters"));
    oht_status status = initialise(s, host);
    oht_free(host);
    OHT_TRY(status);
    if (s->parts & OHT_FOR_TRAINING) OHT_TRY(allocate_training(s));
    oht_status got = s->be->alloc(s->be, &s->arena, s->arena_bytes, "activations");
    oht_error *error = oht_error_last();
    if (got == OHT_MEMORY && !strstr(error->text, "\nfix: "))
        strncat(error->text, "\nfix: a smaller train.micro_batch or eval.micro_batch, or train.recompute=true",
                OHT_ERROR_TEXT - strlen(error->text) - 1);
    OHT_TRY(got);
    int heads = (int)s->cfg->model.heads;
    if (s->train_graph) {
        OHT_TRY(oht_run_create(&s->train, s->train_graph, s->arena, s->work, s->state.grad));
        OHT_TRY(oht_stats_create(&s->train_stats, s->train_graph, heads));
        s->train->seed = (uint64_t)s->cfg->train.seed;
        s->train->records = s->cfg->run.cuda_graphs;
    }
    if (s->eval_graph) {
        OHT_TRY(oht_run_create(&s->eval, s->eval_graph, s->arena, s->work, NULL));
        OHT_TRY(oht_stats_create(&s->eval_stats, s->eval_graph, heads));
        s->eval->seed = (uint64_t)s->cfg->train.seed;
    }
    return s->be->sync(s->be);
}

oht_status oht_session_allocate(oht_session *s) {
    return oht_agree(s->comm, allocate(s));
}

void oht_session_destroy(oht_session *s) {
    if (!s) return;
    oht_stats_destroy(s->train_stats);
    oht_stats_destroy(s->eval_stats);
    oht_run_destroy(s->train);
    oht_run_destroy(s->eval);
    oht_shard_destroy(s->state.shard);
    if (s->be) {
        if (s->work != s->state.param) s->be->free(s->be, s->work);
        s->be->free(s->be, s->arena);
        s->be->free(s->be, s->state.param);
        s->be->free(s->be, s->state.grad);
        s->be->free(s->be, s->state.m);
        s->be->free(s->be, s->state.v);
        s->be->free(s->be, s->state.best);
    }
    oht_graph_destroy(s->train_graph);
    oht_graph_destroy(s->eval_graph);
    oht_model_destroy(s->model);
    oht_backend_destroy(s->be);
    oht_free(s->segment);
    oht_free(s);
}

// ---- FLOPs ----
oht_status oht_session_step_flops(const oht_session *s, double *out) {
    *out = 0;
    oht_run *run;
    OHT_TRY(oht_run_create(&run, s->train_graph, NULL, NULL, NULL)); // counts only, touches no memory
    int64_t size = oht_comm_size(s->comm), G = s->cfg->train.global_batch,
            capacity = oht_graph_rows(s->train_graph);
    for (int64_t rank = 0; rank < size; rank++) {
        int64_t left = (G - rank + size - 1) / size; // samples rank, rank + size, ...
        while (left > 0) {
            run->rows = left < capacity ? left : capacity;
            run->picked =
                s->task == OHT_TASK_MLM
                    ? (int64_t)llround((double)(run->rows * s->tokens) * s->cfg->data.mlm_probability)
                    : 0;
            *out += oht_run_flops(run, false) + oht_run_flops(run, true);
            left -= run->rows;
        }
    }
    oht_run_destroy(run);
    return OHT_OK;
}

// ---- checkpoint to all ranks ----
// Root's device memory to every rank's, through a host buffer of one piece.
static oht_status spread(oht_session *s, float *device, unsigned char *host, size_t piece) {
    size_t total = s->params->flat_count * sizeof(float);
    bool root = oht_comm_rank(s->comm) == 0;
    for (size_t at = 0; at < total; at += piece) {
        size_t n = total - at < piece ? total - at : piece;
        unsigned char *here = (unsigned char *)device + at;
        if (root) s->be->download(s->be, host, here, n);
        OHT_TRY(oht_broadcast(s->comm, host, n, 0));
        if (!root) s->be->upload(s->be, here, host, n);
    }
    return s->be->sync(s->be);
}

// Rank 0 reads; moments that are sharded go straight to their owners.
static oht_status read_checkpoint(oht_session *s, const char *rundir, bool moments, bool *found) {
    bool serve = moments && s->state.shard;
    if (oht_comm_rank(s->comm) != 0) return serve ? oht_shard_serve(s->state.shard) : OHT_OK;
    oht_status status = oht_checkpoint_read(rundir, s->params, s->be, &s->state, moments, found);
    if (!serve) return status;
    oht_error kept = *oht_error_last();
    oht_status ended = oht_shard_end(s->state.shard);
    if (status != OHT_OK) *oht_error_last() = kept;
    return status != OHT_OK ? status : ended;
}

void oht_session_exchange_best(oht_session *s) {
    size_t total = s->params->flat_count * sizeof(float);
    unsigned char *a = (unsigned char *)s->state.param, *b = (unsigned char *)s->state.best;
    for (size_t at = 0; at < total; at += s->arena_bytes) { // the arena is free between runs
        size_t n = total - at < s->arena_bytes ? total - at : s->arena_bytes;
        s->be->copy(s->be, s->arena, a + at, n);
        s->be->copy(s->be, a + at, b + at, n);
        s->be->copy(s->be, b + at, s->arena, n);
    }
    refresh(s);
}

oht_status oht_session_restore(oht_session *s, const char *rundir, bool moments, bool *found) {
    *found = false;
    oht_state *state = &s->state;
    OHT_TRY(oht_agree(s->comm, read_checkpoint(s, rundir, moments, found)));
    struct head {
        int64_t found, step, good_steps, skipped;
        double loss_scale;
        oht_choice choice;
    } head = {*found, state->step, state->good_steps, state->skipped, state->loss_scale, state->choice};
    OHT_TRY(oht_broadcast(s->comm, &head, sizeof(head), 0));
    *found = head.found != 0;
    state->step = head.step;
    state->good_steps = head.good_steps;
    state->skipped = head.skipped;
    state->loss_scale = head.loss_scale;
    state->choice = head.choice;
    if (!*found) return OHT_OK;
    if (oht_comm_size(s->comm) == 1) {
        refresh(s);
        return OHT_OK;
    }
    const size_t piece = (size_t)4 << 20;
    unsigned char *host = NULL;
    OHT_TRY(oht_agree(s->comm, OHT_ALLOC(&host, piece, "checkpoint piece")));
    oht_status status = spread(s, state->param, host, piece);
    if (status == OHT_OK && moments && state->best) status = spread(s, state->best, host, piece);
    moments = moments && !state->shard;
    if (status == OHT_OK && moments) status = spread(s, state->m, host, piece);
    if (status == OHT_OK && moments) status = spread(s, state->v, host, piece);
    oht_free(host);
    refresh(s);
    return oht_agree(s->comm, status);
}

// ---- batches ----
oht_loader_config oht_session_loader(const oht_session *s, oht_split split, int64_t global_batch,
                                     int64_t micro_batch, int64_t first, int64_t count) {
    const oht_config *cfg = s->cfg;
    return (oht_loader_config){.split = split,
                               .task = s->task,
                               .seed = (uint64_t)cfg->train.seed,
                               .global_batch = global_batch,
                               .micro_batch = micro_batch,
                               .first = first,
                               .count = count,
                               .rank = oht_comm_rank(s->comm),
                               .size = oht_comm_size(s->comm),
                               .mlm_probability = cfg->data.mlm_probability,
                               .mask_seed = (uint64_t)cfg->eval.mask_seed,
                               .threads = (int)cfg->data.threads,
                               .config = cfg};
}

void oht_session_feed(oht_run *run, const oht_batch *b) {
    run->rows = b->rows;
    run->picked = b->picked;
    run->sample0 = b->sample0;
    run->stride = b->stride;
    for (int f = 0; f < OHT_FIELD_COUNT; f++)
        oht_run_feed(run, (oht_field)f, b->field[f].data, b->field[f].bytes);
}
