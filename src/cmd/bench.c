// ohtrain bench: optimizer steps on random data, timed by phase and operation, against the rate at which
// this machine's BLAS, or this GPU, multiplies matrices of the model's own shapes, measured in the same run on all
// ranks at once; on a GPU that is known also against the dense peak of its data sheet (MFU).
//
//   gemm_share = (FLOPs executed by all ranks / step seconds) / (sum over ranks of F / sum_i (F_i / rate_i))
//   mfu        = (FLOPs executed by all ranks / step seconds) / (ranks * peak)
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cmd/bench_data.h"
#include "oht/cmd.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/session.h"
#include "train/synthetic.h"

enum { DEFAULT_STEPS = 3, MOST_STEPS = 1000, MOST_OPS = 64 };
static const double GEMM_SECONDS = 0.2; // per shape

typedef struct op_row {
    char name[32];
    double forward_s, backward_s, flops;
} op_row;

typedef enum phase { PHASE_DATA, PHASE_FORWARD, PHASE_BACKWARD, PHASE_REDUCE, PHASE_OPTIMIZER, PHASES } phase;
static const char *const PHASE_NAMES[PHASES] = {"data", "forward", "backward", "reduce", "optimizer"};

typedef struct result {
    int64_t steps;
    double step_s, observed_s; // medians without and with the statistics watching
    double phase_s[PHASES]; // medians
    double exposed_s; // median: waiting for other ranks' data with nothing else to do
    double flops_per_step; // of all ranks
    double gemm_flops_per_s; // of all ranks
    double peak_flops_per_s; // of all ranks, data sheet; 0 = unknown
    double peak_rss_bytes; // the largest of all ranks
    op_row op[MOST_OPS]; // of this rank, one step
    int n_ops;
    bench_data data; // images
} result;

// ---- steps ----
static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n) {
    qsort(x, (size_t)n, sizeof(*x), compare);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

// One step: seconds on the wall and of its phases, FLOPs of this rank.
typedef struct timed_step {
    double seconds, phase_s[PHASES], exposed_s, flops;
} timed_step;

static oht_status step(oht_session *s, oht_synthetic *data, bool observe, timed_step *out) {
    double start = oht_clock_s();
    const oht_step_batch *batch = oht_synthetic_next(data, s->state.step);
    double made = oht_clock_s();
    oht_step_result r;
    OHT_TRY(oht_step(s, batch, OHT_OK, observe, &r));
    if (r.stop) OHT_FAIL(OHT_STOPPED, "bench: asked to stop");
    if (observe) OHT_TRY(oht_stats_reduce(s->train_stats, s->comm));
    *out = (timed_step){
        oht_clock_s() - start,
        {made - start, r.forward_s, r.backward_s, r.reduce_s, r.optimizer_s},
        r.exposed_s,
        r.flops};
    return OHT_OK;
}

static void take_op(void *ctx, const char *op, double forward_s, double backward_s, double flops) {
    result *r = ctx;
    if (r->n_ops == MOST_OPS) return;
    op_row *row = &r->op[r->n_ops++];
    snprintf(row->name, sizeof(row->name), "%s", op);
    row->forward_s = forward_s;
    row->backward_s = backward_s;
    row->flops = flops;
}

// seconds: PHASES + 3 lists of r->steps numbers: each phase, the step, the step with the statistics watching, exposed
// communication.
static oht_status time_steps(oht_session *s, oht_synthetic *data, double *seconds, result *r) {
    int64_t n = r->steps;
    timed_step t = {0};
    oht_progress(0, n, false, "warm-up");
    for (int i = 0; i < (s->be->recorder ? 4 : 1); i++) OHT_TRY(step(s, data, i % 2 == 1, &t)); // of both kinds two: the second records
    for (int64_t i = 0; i < n; i++) { // alternating, so that a drifting machine hits both alike
        OHT_TRY(step(s, data, false, &t));
        for (int p = 0; p < PHASES; p++) seconds[p * n + i] = t.phase_s[p];
        seconds[PHASES * n + i] = t.seconds;
        seconds[(PHASES + 2) * n + i] = t.exposed_s;
        oht_progress(i + 1, n, true, "%.3f s a step", t.seconds);
        OHT_TRY(step(s, data, true, &t));
        seconds[(PHASES + 1) * n + i] = t.seconds;
    }
    oht_progress_end();
    oht_run_profile(s->train, true);
    OHT_TRY(step(s, data, false, &t));
    oht_run_profile_report(s->train, take_op, r);
    oht_run_profile(s->train, false);
    r->flops_per_step = t.flops;
    for (int p = 0; p < PHASES; p++) r->phase_s[p] = median(seconds + p * n, n);
    r->step_s = median(seconds + PHASES * n, n);
    r->observed_s = median(seconds + (PHASES + 1) * n, n);
    r->exposed_s = median(seconds + (PHASES + 2) * n, n);
    return OHT_OK;
}

static oht_status measure_steps(oht_session *s, result *r) {
    double *seconds = NULL;
    oht_synthetic *data = NULL;
    oht_status status = OHT_ALLOC(&seconds, (size_t)((PHASES + 3) * r->steps), "step times");
    if (status == OHT_OK) status = oht_synthetic_create(&data, s);
    status = oht_agree(s->comm, status);
    if (status == OHT_OK) status = time_steps(s, data, seconds, r);
    oht_synthetic_destroy(data);
    oht_free(seconds);
    OHT_TRY(status);
    OHT_TRY(oht_sum_f64(s->comm, &r->flops_per_step, 1));
    double peak[4] = {r->step_s, r->observed_s, (double)oht_peak_rss_bytes(), r->exposed_s};
    OHT_TRY(oht_max_f64(s->comm, peak, 4));
    r->step_s = peak[0];
    r->observed_s = peak[1];
    r->peak_rss_bytes = peak[2];
    r->exposed_s = peak[3];
    return OHT_OK;
}

// ---- the yardstick ----
typedef struct yardstick {
    oht_session *s;
    double flops, seconds; // of one step's matrix products on this rank
} yardstick;

typedef enum product_kind { FORWARD, WEIGHT_GRADIENT, INPUT_GRADIENT } product_kind;

// Rate of a linear layer's products on the device, in the run's storage type: in stretches that double until one is
// long enough, which counts.
static oht_status device_rate(oht_session *s, product_kind kind, int64_t rows, int64_t M, int64_t K, double seconds,
                              double *rate) {
    oht_backend *be = s->be;
    const oht_tensor none = OHT_NO_TENSOR;
    oht_tensor x = {NULL, s->storage, 2, {rows, K}}, w = {NULL, s->storage, 2, {M, K}},
               y = {NULL, s->storage, 2, {rows, M}}, dw = {NULL, OHT_F32, 2, {M, K}};
    oht_tensor *all[] = {&x, &w, &y, &dw};
    oht_status status = OHT_OK;
    for (size_t i = 0; i < 4 && status == OHT_OK; i++) {
        size_t bytes = (size_t)oht_tensor_count(*all[i]) * oht_dtype_size(all[i]->dtype);
        status = be->alloc(be, &all[i]->data, bytes, "matrices to measure with");
        if (status == OHT_OK) be->zero(be, all[i]->data, bytes);
    }
    double took = 0;
    for (int64_t n = 1; status == OHT_OK && (took < seconds / 2 || n <= 2); n *= 2) {
        status = be->sync(be);
        double start = oht_clock_s();
        for (int64_t i = 0; i < n && status == OHT_OK; i++) {
            if (kind == FORWARD)
                be->linear_fwd(be, y, none, x, w, none, OHT_ACT_NONE);
            else
                be->linear_bwd(be, kind == INPUT_GRADIENT ? x : none, kind == WEIGHT_GRADIENT ? dw : none, none, y, x, w,
                               none, none, OHT_ACT_NONE, false, false);
        }
        if (status == OHT_OK) status = be->sync(be);
        took = oht_clock_s() - start;
        *rate = 2.0 * (double)rows * (double)M * (double)K * (double)n / took;
    }
    for (size_t i = 0; i < 4; i++) be->free(be, all[i]->data);
    return status;
}

// The products of y = x w^T with x: (rows,K), w: (M,K), `times` a step: forward, dw, and dx where x has a
// gradient. Ranks measure together.
static oht_status add_linear(yardstick *y, int64_t rows, int64_t M, int64_t K, double times, bool dx) {
    const struct {
        bool ta, tb;
        int64_t m, n, k;
    } product[3] = {{false, true, rows, M, K}, {true, false, M, K, rows}, {false, false, rows, K, M}};
    for (int i = 0; i < (dx ? 3 : 2); i++) {
        double rate = 1;
        OHT_TRY(oht_barrier(y->s->comm));
        oht_status status = y->s->be->host_memory
                                ? oht_gemm_rate(product[i].ta, product[i].tb, product[i].m, product[i].n,
                                                product[i].k, GEMM_SECONDS, &rate)
                                : device_rate(y->s, (product_kind)i, rows, M, K, GEMM_SECONDS, &rate);
        OHT_TRY(oht_agree(y->s->comm, status));
        double flops = times * 2.0 * (double)rows * (double)M * (double)K;
        y->flops += flops;
        y->seconds += flops / rate;
    }
    return OHT_OK;
}

static oht_status add_text(yardstick *y, int64_t rows) {
    const oht_session *s = y->s;
    const oht_model_config *m = &s->cfg->model;
    int64_t C = m->width, E = m->embed_width;
    bool mlm = s->task == OHT_TASK_MLM;
    if (E != C) {
        OHT_TRY(add_linear(y, rows, C, E, 1, true));
        OHT_TRY(add_linear(y, rows, E, C, 1, true));
    }
    int64_t picked = mlm ? (int64_t)llround((double)rows * s->cfg->data.mlm_probability) : rows;
    if (picked < 1) picked = 1;
    if (mlm) OHT_TRY(add_linear(y, picked, C, C, 1, true));
    int64_t chunk = oht_lm_head_rows(picked, m->vocab_size);
    return add_linear(y, chunk, m->vocab_size, E, (double)picked / (double)chunk, true);
}

static oht_status add_images(yardstick *y, int64_t images) {
    const oht_model_config *m = &y->s->cfg->model;
    OHT_TRY(add_linear(y, images * (y->s->tokens - 1), m->width, 3 * m->patch * m->patch, 1, false));
    return add_linear(y, images, m->classes, m->width, 1, true);
}

// One Hopfield layer: queries of `rows`, keys and values of `stored`, the output projection.
static oht_status add_hopfield(yardstick *y, int64_t rows, int64_t stored, double times) {
    const int64_t C = y->s->cfg->model.width;
    if (stored == rows) return add_linear(y, rows, C, C, 4 * times, true);
    OHT_TRY(add_linear(y, rows, C, C, 2 * times, true));
    return add_linear(y, stored, C, C, 2 * times, true);
}

// `times` blocks of `rows` segments: three Hopfield layers and two feed-forward ones (src/models/stanhop.c).
static oht_status add_block(yardstick *y, int64_t rows, double times) {
    const oht_model_config *m = &y->s->cfg->model;
    OHT_TRY(add_hopfield(y, rows, rows, 2 * times));
    OHT_TRY(add_hopfield(y, rows, m->patterns, times));
    OHT_TRY(add_linear(y, rows, m->ffn, m->width, 2 * times, true));
    return add_linear(y, rows, m->width, m->ffn, 2 * times, true);
}

static oht_status add_series(yardstick *y, int64_t windows) {
    const oht_model_config *m = &y->s->cfg->model;
    const int64_t C = m->width, S = m->segment, w = m->merge;
    int64_t segments = (m->input + S - 1) / S, one = windows * m->series,
            out = one * ((m->horizon + S - 1) / S);
    OHT_TRY(add_linear(y, one * segments, C, S, 1, false));
    OHT_TRY(add_block(y, out, (double)(m->layers + 1)));
    OHT_TRY(add_linear(y, out, C, C, 2.0 * (double)(m->layers + 1), true));
    OHT_TRY(add_linear(y, out, S, C, (double)(m->layers + 1), true));
    if (w == 1) {
        OHT_TRY(add_block(y, one * segments, (double)m->layers));
        return add_hopfield(y, out, one * segments, (double)(m->layers + 1));
    }
    OHT_TRY(add_hopfield(y, out, one * segments, 1));
    for (int64_t i = 0; i < m->layers; i++) {
        if (i > 0) {
            segments = (segments + w - 1) / w;
            OHT_TRY(add_linear(y, one * segments, C, w * C, 1, true));
        }
        OHT_TRY(add_block(y, one * segments, 1));
        OHT_TRY(add_hopfield(y, out, one * segments, 1));
    }
    return OHT_OK;
}

static oht_status add_transformer(yardstick *y, int64_t samples) {
    const oht_session *s = y->s;
    const oht_model_config *m = &s->cfg->model;
    int64_t rows = samples * s->tokens, C = m->width;
    double layers = (double)m->layers;
    OHT_TRY(add_linear(y, rows, 3 * C, C, layers, true));
    OHT_TRY(add_linear(y, rows, C, C, layers, true));
    OHT_TRY(add_linear(y, rows, m->ffn, C, layers, true));
    OHT_TRY(add_linear(y, rows, C, m->ffn, layers, true));
    return s->task == OHT_TASK_IMAGES ? add_images(y, samples) : add_text(y, rows);
}

static oht_status measure_gemm(oht_session *s, result *r) {
    int64_t samples = oht_graph_rows(s->train_graph);
    yardstick y = {.s = s};
    OHT_TRY(s->task == OHT_TASK_SERIES ? add_series(&y, samples) : add_transformer(&y, samples));
    r->gemm_flops_per_s = y.flops / y.seconds;
    r->peak_flops_per_s = s->be->peak(s->be, s->storage);
    OHT_TRY(oht_sum_f64(s->comm, &r->peak_flops_per_s, 1));
    return oht_sum_f64(s->comm, &r->gemm_flops_per_s, 1);
}

// ---- result ----
static void print_data(const oht_session *s, const bench_data *d) {
    if (d->measured)
        printf("  %-28s %12.1f images/s on one core\n  %-28s %12.1f %% of a step, data.threads = %lld\n", "decode, augment, mix",
               d->rate, "waiting for data", 100 * d->waiting, (long long)s->cfg->data.threads);
    else
        printf("  %-28s %12s (data.path names no image file)\n", "decode, augment, mix", "-");
}

static void print_result(const oht_session *s, const result *r) {
    bool series = s->task == OHT_TASK_SERIES;
    const char *what = series ? "windows" : "tokens";
    double tokens = (double)(s->cfg->train.global_batch * (series ? 1 : s->tokens)),
           flops_per_s = r->flops_per_step / r->step_s;
    printf("%s, attention %s, %lld parameters; %d ranks x %d threads, %s in %s; %lld steps of %.0f %s\n",
           oht_model_type_name(s->cfg->model.type), s->cfg->model.attention,
           (long long)oht_params_count(s->params), oht_comm_size(s->comm), s->be->threads,
           s->be->device, s->precision, (long long)r->steps, tokens, what);
    printf("  %-28s %12.4f s\n  %-28s %12.*f\n", "step (median)", r->step_s,
           series ? "windows per second" : "tokens per second", series ? 2 : 0, tokens / r->step_s);
    if (s->task == OHT_TASK_IMAGES)
        printf("  %-28s %12.2f\n", "images per second", (double)s->cfg->train.global_batch / r->step_s);
    printf("  %-28s %12.2f GFLOP\n  %-28s %12.2f GFLOP/s\n", "work per step", 1e-9 * r->flops_per_step,
           "rate", 1e-9 * flops_per_s);
    if (s->be->host_memory)
        printf("  %-28s %12.2f GFLOP/s, OpenBLAS for %s\n", "SGEMM rate of this machine", 1e-9 * r->gemm_flops_per_s,
               oht_blas_kernels());
    else
        printf("  %-28s %12.2f GFLOP/s\n", "its products, measured", 1e-9 * r->gemm_flops_per_s);
    printf("  %-28s %12.3f\n", "share of it", flops_per_s / r->gemm_flops_per_s);
    if (r->peak_flops_per_s > 0)
        printf("  %-28s %12.2f GFLOP/s\n  %-28s %12.3f\n", "dense peak, data sheet", 1e-9 * r->peak_flops_per_s,
               "MFU", flops_per_s / r->peak_flops_per_s);
    printf("  %-28s %12.4f s, %.1f %% of the step\n", "exposed communication", r->exposed_s,
           100 * r->exposed_s / r->step_s);
    printf("  %-28s %12.1f MiB\n", "peak memory of a rank", r->peak_rss_bytes / 1048576.0);
    printf("  %-28s %12.4f s, %.1f %% more\n", "step with statistics", r->observed_s,
           100 * (r->observed_s / r->step_s - 1));
    if (s->task == OHT_TASK_IMAGES) print_data(s, &r->data);
    printf("\n  %-28s %12s\n", "phase", "seconds");
    for (int i = 0; i < PHASES; i++) printf("  %-28s %12.4f\n", PHASE_NAMES[i], r->phase_s[i]);
    printf("\n  %-28s %12s %12s %12s\n", "operation", "forward s", "backward s", "GFLOP/s");
    for (int i = 0; i < r->n_ops; i++) {
        double seconds = r->op[i].forward_s + r->op[i].backward_s;
        printf("  %-28s %12.4f %12.4f %12.2f\n", r->op[i].name, r->op[i].forward_s, r->op[i].backward_s,
               seconds > 0 ? 1e-9 * r->op[i].flops / seconds : 0.0);
    }
}

static void set_real(json_t *object, const char *name, double value) {
    json_object_set_new(object, name, oht_json_number(value));
}

static oht_status write_json(const oht_session *s, const result *r, const char *path) {
    json_t *root = json_object(), *phases = json_object(), *ops = json_object();
    double tokens = (double)(s->cfg->train.global_batch * s->tokens),
           flops_per_s = r->flops_per_step / r->step_s;
    json_object_set_new(root, "model", json_string(oht_model_type_name(s->cfg->model.type)));
    json_object_set_new(root, "attention", json_string(s->cfg->model.attention));
    json_object_set_new(root, "params", json_integer(oht_params_count(s->params)));
    json_object_set_new(root, "ranks", json_integer(oht_comm_size(s->comm)));
    json_object_set_new(root, "threads", json_integer(s->be->threads));
    json_object_set_new(root, "device", json_string(s->be->device));
    json_object_set_new(root, "precision", json_string(s->precision));
    json_object_set_new(root, "steps", json_integer(r->steps));
    set_real(root, "step_s", r->step_s);
    if (s->task == OHT_TASK_SERIES)
        set_real(root, "windows_per_s", (double)s->cfg->train.global_batch / r->step_s);
    else
        set_real(root, "tokens_per_s", tokens / r->step_s);
    if (s->task == OHT_TASK_IMAGES)
        set_real(root, "images_per_s", (double)s->cfg->train.global_batch / r->step_s);
    set_real(root, "flops_per_step", r->flops_per_step);
    set_real(root, "flops_per_s", flops_per_s);
    set_real(root, "gemm_flops_per_s", r->gemm_flops_per_s);
    set_real(root, "gemm_share", flops_per_s / r->gemm_flops_per_s);
    set_real(root, "peak_flops_per_s", r->peak_flops_per_s > 0 ? r->peak_flops_per_s : NAN);
    set_real(root, "mfu", r->peak_flops_per_s > 0 ? flops_per_s / r->peak_flops_per_s : NAN);
    set_real(root, "exposed_s", r->exposed_s);
    set_real(root, "peak_rss_bytes", r->peak_rss_bytes);
    set_real(root, "statistics_overhead", r->observed_s / r->step_s - 1);
    if (r->data.measured) {
        set_real(root, "data_images_per_s_core", r->data.rate);
        set_real(root, "data_wait_share", r->data.waiting);
    }
    for (int i = 0; i < PHASES; i++) set_real(phases, PHASE_NAMES[i], r->phase_s[i]);
    json_object_set_new(root, "phases_s", phases);
    for (int i = 0; i < r->n_ops; i++) {
        json_t *op = json_object();
        set_real(op, "forward_s", r->op[i].forward_s);
        set_real(op, "backward_s", r->op[i].backward_s);
        set_real(op, "flops", r->op[i].flops);
        json_object_set_new(ops, r->op[i].name, op);
    }
    json_object_set_new(root, "operations", ops);
    return oht_json_replace(path, root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
}

static oht_status show(const oht_session *s, const result *r, const char *json) {
    print_result(s, r);
    if (fflush(stdout) != 0) OHT_FAIL(OHT_IO, "cannot write to standard output");
    return json ? write_json(s, r, json) : OHT_OK;
}

// ---- command ----
static oht_status bench(oht_session *s, int64_t steps, const char *json) {
    result r = {.steps = steps};
    OHT_TRY(oht_session_allocate(s));
    OHT_TRY(measure_steps(s, &r));
    OHT_TRY(measure_gemm(s, &r));
    if (s->task == OHT_TASK_IMAGES) OHT_TRY(bench_images(s, steps, &r.data));
    oht_status status = oht_comm_rank(s->comm) == 0 ? show(s, &r, json) : OHT_OK;
    OHT_TRY(oht_agree(s->comm, status));
    return OHT_OK;
}

static oht_status parse_steps(const char *text, int64_t *out) {
    char *end;
    *out = DEFAULT_STEPS;
    if (!text) return OHT_OK;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < 1 || n > MOST_STEPS)
        OHT_FAIL(OHT_CONFIG, "bench: --steps: found \"%.40s\", expected a number from 1 to %d", text,
                 MOST_STEPS);
    *out = n;
    return OHT_OK;
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    oht_config cfg;
    oht_session *s;
    int64_t steps;
    OHT_TRY(oht_options_parse(
        argc, argv, OHT_OPT_CONFIG | OHT_OPT_JSON | OHT_OPT_STEPS | OHT_OPT_QUIET | OHT_OPT_KEYS, &opt));
    OHT_TRY(parse_steps(opt.steps, &steps));
    OHT_TRY(oht_agree(comm, oht_options_config(&opt, &cfg)));
    OHT_TRY(oht_agree(comm, opt.json && oht_comm_rank(comm) == 0 ? oht_file_check_place(opt.json) : OHT_OK));
    oht_log_init(oht_comm_rank(comm), opt.quiet, cfg.run.progress);
    oht_data_info data = oht_session_imagined_data(&cfg);
    OHT_TRY(oht_session_create(&s, comm, &cfg, &data, OHT_FOR_TRAINING));
    oht_status status = bench(s, steps, opt.json);
    oht_session_destroy(s);
    return status;
}

const oht_command oht_cmd_bench = {
    .name = "bench",
    .usage = "[-c FILE.yaml] [--steps N] [--json FILE] [--quiet] [key=value ...]",
    .summary = "time optimizer steps on random data, by phase and operation, against this machine's matrix "
               "products",
    .run = run,
    .help = "  -c FILE      configuration; without it, the built-in demo. No data file is needed: rows have "
            "data.tokens\n"
            "               tokens, or model.max_tokens when that is 0; windows model.input rows. Of images, where\n"
            "               data.path names a file of them, also the rate at which they are prepared and the share of a\n"
            "               step that waits for them\n"
            "  --steps N    timed steps after one to warm up, on a GPU four (default 3)\n"
            "  --json FILE  also write the result as JSON\n"
            "  --quiet      no progress on stderr\n"
            "\n"
            "  ohtrain bench -c jobs/opt-125m.yaml train.micro_batch=4 train.global_batch=4\n"
            "  mpirun -np 2 --bind-to none ohtrain bench --steps 10 --json bench.json\n"
            "  mpirun -np 8 ohtrain bench -c jobs/opt-125m.yaml run.device=cuda   one rank a GPU\n",
};
