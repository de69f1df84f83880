// ohtrain check: validates configuration and data, and says what training would need: parameters, memory,
// FLOPs. It builds what training builds (include/oht/session.h) up to the point where memory is taken, so its
// numbers are the real ones.
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "config/table.h"
#include "oht/cmd.h"
#include "oht/memory.h"
#include "oht/session.h"

// Decides on rank 0 whether there is a data file; without one, data.tokens must say how long a row is.
// Collective.
static oht_status find_data(oht_comm *comm, const oht_config *cfg, bool *found) {
    int64_t here = access(cfg->data.path, F_OK) == 0;
    OHT_TRY(oht_broadcast(comm, &here, sizeof(here), 0));
    *found = here != 0;
    const oht_task task = oht_model_task(&cfg->model);
    if (*found || cfg->data.tokens > 0 || task == OHT_TASK_IMAGES || task == OHT_TASK_SERIES) return OHT_OK;
    OHT_FAIL(OHT_IO,
             "data.path: %s does not exist, and data.tokens is not set\n"
             "fix: data.tokens=%lld checks without data; bash datasets/make-sample.sh makes the sample, "
             "ohtrain prepare text other data",
             cfg->data.path, (long long)cfg->model.max_tokens);
}

// 1234567 -> "1,234,567"
static const char *grouped(int64_t n, char out[32]) {
    char digits[24];
    int length = snprintf(digits, sizeof(digits), "%" PRId64, n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

static void print_bytes(const char *what, size_t bytes) {
    printf("  %-34s %10.1f MiB\n", what, (double)bytes / 1048576.0);
}

static void plan_line(void *indent, const char *what, size_t bytes) {
    char text[64];
    snprintf(text, sizeof(text), "%s%s", (const char *)indent, what);
    print_bytes(text, bytes);
}

static void print_model(const oht_session *s) {
    const oht_model_config *m = &s->cfg->model;
    char gate[OHT_KEY_TEXT_MAX], count[32];
    oht_key_get(s->cfg, oht_key_find("model.gate"), gate);
    printf("\nmodel: %s, %" PRId64 " blocks, width %" PRId64 ", %" PRId64 " heads of %" PRId64
           ", feed-forward %" PRId64 ", attention %s",
           oht_model_type_name(m->type), m->layers, m->width, m->heads, m->width / m->heads, m->ffn,
           m->attention);
    if (m->alpha != 0 && m->type == OHT_MODEL_STANHOP)
        printf(" (alpha %g: gamma -alpha / S)", m->alpha);
    else if (m->alpha != 0)
        printf(" (alpha %g: gamma %g)", m->alpha, -m->alpha / (double)s->tokens);
    printf(", gate %s\n", gate);
    printf("parameters: %s\n", grouped(oht_params_count(s->params), count));
}

// What one sample is, and the size that belongs to it: "rows of 512 tokens".
static const char *samples(oht_task task) {
    return task == OHT_TASK_IMAGES ? "images" : task == OHT_TASK_SERIES ? "windows" : "rows";
}
static const char *parts(oht_task task) {
    return task == OHT_TASK_SERIES ? "rows" : "tokens";
}

static void print_data(const oht_session *s, bool found) {
    const oht_config *cfg = s->cfg;
    char train[32], validation[32], tokens[32];
    const oht_task task = s->task;
    if (found) {
        double epochs = cfg->train.epochs > 0 ? (double)cfg->train.epochs
                                              : (double)cfg->train.steps * (double)cfg->train.global_batch /
                                                    (double)s->data.rows[OHT_SPLIT_TRAIN];
        printf("data: %s, %s training and %s validation %s of %" PRId64 " %s, ", cfg->data.path,
               grouped(s->data.rows[OHT_SPLIT_TRAIN], train),
               grouped(s->data.rows[OHT_SPLIT_VALIDATION], validation), samples(task), s->tokens,
               parts(task));
        if (task == OHT_TASK_SERIES)
            printf("horizon %" PRId64 ", %" PRId64 " series", cfg->model.horizon, cfg->model.series);
        else
            printf("%s %" PRId64 " (%s)", task == OHT_TASK_IMAGES ? "classes" : "vocabulary",
                   task == OHT_TASK_IMAGES ? s->data.classes : s->data.vocab_size, s->data.origin);
        if (s->data.rows[OHT_SPLIT_TEST] > 0) printf(", %s test windows", grouped(s->data.rows[OHT_SPLIT_TEST], tokens));
        printf("; the run passes %.3g times over it", epochs);
        if (s->epoch_steps > 0) printf(": %" PRId64 " steps of %" PRId64 " an epoch", s->paced.steps, s->epoch_steps);
        printf("\n");
    } else {
        printf("data: none at %s; checked for %s of %" PRId64 " %s\n", cfg->data.path, samples(task),
               s->tokens, parts(task));
    }
    const char *many = task == OHT_TASK_CLM || task == OHT_TASK_MLM ? "sequences" : samples(task);
    printf("step: %" PRId64 " %s", cfg->train.global_batch, many);
    if (task != OHT_TASK_SERIES) printf(", %s tokens", grouped(cfg->train.global_batch * s->tokens, tokens));
}

static oht_status print_work(const oht_session *s) {
    const oht_train_config *t = &s->cfg->train;
    int size = oht_comm_size(s->comm);
    int64_t share = (t->global_batch + size - 1) / size, rows = oht_graph_rows(s->train_graph);
    double flops;
    OHT_TRY(oht_session_step_flops(s, &flops));
    printf("; %d rank%s with %" PRId64 " micro-batch%s of %" PRId64 "\n", size, size == 1 ? "" : "s",
           (share + rows - 1) / rows, share > rows ? "es" : "", rows);
    printf("FLOPs: %.4g a step, %.4g for %" PRId64 " steps%s\n", flops, flops * (double)t->steps, t->steps,
           t->recompute ? " (recomputation included)" : "");
    if (t->warmup_steps >= t->steps)
        printf("note: train.warmup_steps = %" PRId64 " is as long as the run\n", t->warmup_steps);
    return OHT_OK;
}

static void print_memory(const oht_session *s) {
    oht_session_memory m = oht_session_bytes(s);
    size_t total = m.weights + m.gradients + m.optimizer + m.arena;
    bool sharded = s->cfg->train.shard_optimizer && oht_comm_size(s->comm) > 1;
    printf("\nmemory of one rank (%s, %s):\n", s->be->device, s->precision);
    print_bytes("parameters", m.weights);
    print_bytes("gradients", m.gradients);
    print_bytes(sharded ? "AdamW moments, sharded" : "AdamW moments", m.optimizer);
    print_bytes("arena", m.arena);
    print_bytes("total", total);
    printf(
        "\nin the arena, training and evaluation in turn (parts share room when their lifetimes allow):\n");
    char indent[] = "  ";
    print_bytes("training plan", oht_plan_bytes(s->train_graph));
    oht_plan_describe(s->train_graph, plan_line, indent);
    print_bytes("evaluation plan", oht_plan_bytes(s->eval_graph));
    oht_plan_describe(s->eval_graph, plan_line, indent);
    // All ranks of a small run share this node; a batch system knows better about large ones.
    double node = (double)oht_node_memory();
    if (node > 0 && (double)total > node)
        printf("note: more than this node's memory of %.0f MiB\nfix: a smaller train.micro_batch or "
               "eval.micro_batch, or train.recompute=true\n",
               node / 1048576.0);
}

static oht_status print_all(const oht_session *s, bool found) {
    OHT_TRY(oht_config_write(s->cfg, stdout, false));
    print_model(s);
    print_data(s, found);
    OHT_TRY(print_work(s));
    print_memory(s);
    if (fflush(stdout) != 0 || ferror(stdout)) OHT_FAIL(OHT_IO, "cannot write to standard output");
    return OHT_OK;
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    oht_config cfg;
    bool found;
    OHT_TRY(oht_options_parse(argc, argv, OHT_OPT_CONFIG | OHT_OPT_KEYS, &opt));
    OHT_TRY(oht_agree(comm, oht_options_config(&opt, &cfg)));
    OHT_TRY(find_data(comm, &cfg, &found));
    oht_data_info data = oht_session_imagined_data(&cfg);
    oht_session *s;
    OHT_TRY(oht_session_create(&s, comm, &cfg, found ? NULL : &data, OHT_FOR_TRAINING | OHT_FOR_EVALUATION | OHT_TO_LOOK_AT));
    oht_status status = oht_comm_rank(comm) == 0 ? print_all(s, found) : OHT_OK;
    oht_session_destroy(s);
    return oht_agree(comm, status);
}

const oht_command oht_cmd_check = {
    .name = "check",
    .usage = "[-c FILE.yaml] [key=value ...]",
    .summary =
        "validates configuration and data; prints parameters, memory plan, FLOPs per step; trains nothing",
    .run = run,
    .help = "  -c, --config FILE  configuration; without it the built-in demo\n"
            "\n"
            "Prints the resolved configuration (every key), the model's size, and what a rank needs. Under "
            "mpirun it plans for\n"
            "that many ranks. Without a data file data.tokens must say how long a row of text is.\n"
            "\n"
            "  ohtrain check -c jobs/opt-125m.yaml\n"
            "  mpirun -np 4 ohtrain check -c jobs/bert-base.yaml train.micro_batch=64 data.tokens=128\n",
};
