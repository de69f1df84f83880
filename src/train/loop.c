// The training loop: run directory, resume, steps, log lines, evaluations, outlier measurements, checkpoints,
// stop.
//
// Rank 0 alone writes. What fails there between steps is kept as `pending` and rides on the next step's small
// all-reduce; phases that all ranks enter together end with oht_agree. A checkpoint of step k is written
// after everything that belongs to steps <= k is in metrics.jsonl and outliers.h5, so a resumed run can cut
// both back to k and repeat the rest.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "oht/quant.h"
#include "oht/session.h"
#include "train/rundir.h"

typedef struct trainer {
    oht_session *s;
    const oht_config *cfg;
    oht_comm *comm;
    bool root;
    const char *path; // run directory
    oht_rundir dir; // root
    oht_report *report; // root
    oht_loader *loader;
    oht_probe *probe; // NULL unless quant.every
    oht_error error; // the text that belongs to pending
    oht_status pending; // this rank's failure since the last agreement
    int64_t saved; // step of the newest checkpoint, -1 = none
    bool owes_evaluation, owes_result; // what the run still has to evaluate at this step
    // since the last log line
    int64_t steps, samples;
    double since_s, waited_s;
    // since the start
    double begin_s;
    int64_t begin_step;
} trainer;

static void note(trainer *t, oht_status status) {
    if (t->pending != OHT_OK || status == OHT_OK) return;
    t->pending = status;
    t->error = *oht_error_last();
}

// The pending failure, with its own message in the error record: later calls may have replaced it.
static oht_status pending(const trainer *t) {
    if (t->pending != OHT_OK) *oht_error_last() = t->error;
    return t->pending;
}

// ---- evaluation and checkpoint ----
static bool evaluation_due(const trainer *t, int64_t step) {
    const oht_session *s = t->s;
    int64_t every = t->cfg->train.eval_every > 0 ? t->cfg->train.eval_every : s->epoch_steps;
    if (s->data.rows[OHT_SPLIT_VALIDATION] == 0) return false;
    // What STanHop-Net's outlier metrics say of methods they say before training, too (spec stanhop 4.2).
    if (step == 0) return s->task == OHT_TASK_SERIES;
    return step == s->paced.steps || (every > 0 && step % every == 0);
}

static bool finished(const trainer *t) {
    return t->s->state.step >= t->s->paced.steps || oht_choice_stops(&t->s->state.choice, t->cfg->train.patience);
}

// Is the run's result an evaluation of its own, or the one after the last step?
static bool result_differs(const trainer *t) {
    return t->cfg->train.keep_best || t->cfg->train.patience > 0 || oht_session_result_split(t->s) != OHT_SPLIT_VALIDATION;
}

// JSON has no inf and no nan.
static const char *number(char out[32], double x) {
    snprintf(out, 32, isfinite(x) ? "%.9g" : "null", x);
    return out;
}

static const char *samples_of(oht_task task) {
    return task == OHT_TASK_IMAGES ? "images" : task == OHT_TASK_SERIES ? "windows" : "sequences";
}

// One line for people: what the task is judged by.
static void announce_evaluation(const oht_eval_result *r, long long step, double seconds) {
    char quality[64];
    if (r->task == OHT_TASK_IMAGES)
        snprintf(quality, sizeof(quality), "top-1 %.2f %%, top-5 %.2f %%", r->top1, r->top5);
    else if (r->task == OHT_TASK_SERIES)
        snprintf(quality, sizeof(quality), "MAE %.4f", r->mae);
    else
        snprintf(quality, sizeof(quality), "perplexity %.3f", r->perplexity);
    char which[64] = "";
    if (r->params_step != step) snprintf(which, sizeof(which), " with the parameters of step %lld", (long long)r->params_step);
    oht_log("evaluation at step %lld%s%s%s: loss %.4f, %s, max inf norm %.3g, average kurtosis %.3g (%lld %s, %.1f s)",
            step, which, r->split == OHT_SPLIT_VALIDATION ? "" : ", split ",
            r->split == OHT_SPLIT_VALIDATION ? "" : oht_split_name(r->split), r->loss, quality, r->outliers.max_inf_norm,
            r->outliers.avg_kurtosis, (long long)r->sequences, samples_of(r->task), seconds);
}

static oht_status record_evaluation(trainer *t, const oht_eval_result *r, double seconds) {
    char x[32], line[2000];
    oht_metric metric[OHT_METRICS];
    long long step = (long long)t->s->state.step;
    int n = snprintf(line, sizeof(line), "{\"step\": %lld, \"eval\": {", step),
        count = oht_eval_metrics(r, metric);
    for (int i = 0; i < count; i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "\"%s\": %s, ", metric[i].name,
                      number(x, metric[i].value));
    snprintf(line + n, sizeof(line) - (size_t)n,
             "\"sequences\": %lld, \"batches\": %lld, \"split\": \"%s\", \"result\": %s, \"params_step\": %lld, "
             "\"seconds\": %.3f}}",
             (long long)r->sequences, (long long)r->batches, oht_split_name(r->split), r->is_result ? "true" : "false",
             (long long)r->params_step, seconds);
    // metrics.jsonl last: what it says is done, the report holds, however the run ends.
    OHT_TRY(oht_report_eval(t->report, step, r, t->s->eval_stats));
    OHT_TRY(oht_report_publish(t->report, true));
    OHT_TRY(oht_rundir_append(&t->dir, line));
    announce_evaluation(r, step, seconds);
    return OHT_OK;
}

static oht_status record(trainer *t, const oht_eval_result *r, double start) {
    double seconds = oht_clock_s() - start;
    oht_status status = pending(t);
    if (t->root && status == OHT_OK) status = record_evaluation(t, r, seconds);
    t->since_s += oht_clock_s() - start;
    return oht_agree(t->comm, status);
}

// Best so far, or one more without improvement. Every rank decides for itself, from the same numbers.
static void compare(trainer *t, const oht_eval_result *r) {
    oht_session *s = t->s;
    oht_choice *c = &s->state.choice;
    const oht_train_config *tc = &t->cfg->train;
    if ((!tc->keep_best && tc->patience == 0) || c->seen_step == s->state.step) return;
    double before = c->best_loss;
    bool first = c->best_step == 0;
    if (oht_choice_take(c, s->state.step, oht_eval_criterion(r))) {
        if (s->state.best)
            s->be->copy(s->be, s->state.best, s->state.param, s->params->flat_count * sizeof(float));
        if (!first) oht_log("validation loss %.6g, the least so far (before: %.6g)", c->best_loss, before);
        return;
    }
    oht_log("validation loss %.6g; the least is %.6g, of step %lld (%lld evaluation%s since)", oht_eval_criterion(r),
            c->best_loss, (long long)c->best_step, (long long)c->worse, c->worse == 1 ? "" : "s");
    if (oht_choice_stops(c, tc->patience)) oht_log("training stops early, after step %lld", (long long)s->state.step);
}

static oht_status evaluate(trainer *t) {
    double start = oht_clock_s();
    oht_eval_result result;
    const oht_eval_config *e = &t->cfg->eval;
    // The run's result, which ohtrain report compares, takes as many batches as ohtrain eval.
    bool is_result = !result_differs(t) && t->s->state.step >= t->s->paced.steps;
    const bool first = t->s->state.step == 0; // for the outliers: one batch, and no candidate for the best
    OHT_TRY(oht_evaluate(t->s, first ? 1 : is_result ? e->max_batches : e->train_eval_batches, &result));
    result.is_result = is_result;
    OHT_TRY(record(t, &result, start));
    if (!first) compare(t, &result);
    return OHT_OK;
}

// The result where it is not simply the evaluation after the last step: of the best parameters, of the test split.
static oht_status evaluate_result(trainer *t) {
    double start = oht_clock_s();
    oht_session *s = t->s;
    oht_eval_result result;
    bool best = t->cfg->train.keep_best && s->state.choice.best_step > 0;
    if (best) oht_session_exchange_best(s);
    s->eval_split = oht_session_result_split(s);
    oht_status status = oht_evaluate(s, t->cfg->eval.max_batches, &result);
    s->eval_split = OHT_SPLIT_VALIDATION;
    if (best) oht_session_exchange_best(s);
    OHT_TRY(status);
    result.is_result = true;
    if (best) result.params_step = s->state.choice.best_step;
    return record(t, &result, start);
}

// Data-parallel ranks hold the same bits, or the run is worthless. Collective.
static oht_status same_parameters(trainer *t) {
    oht_session *s = t->s;
    double x = s->be->sumsq(s->be, s->state.param, (int64_t)s->params->flat_count), range[2] = {x, -x};
    OHT_TRY(oht_max_f64(t->comm, range, 2));
    if (!(range[0] == -range[1]))
        OHT_FAIL(OHT_INTERNAL,
                 "the ranks' parameters differ at step %lld: squared norms from %.17g to %.17g\nfix: check "
                 "that all nodes run the same program and MPI settings",
                 (long long)s->state.step, -range[1], range[0]);
    return OHT_OK;
}

static oht_status save(trainer *t) {
    OHT_TRY(oht_rundir_sync(&t->dir));
    OHT_TRY(oht_report_publish(t->report, true));
    return oht_checkpoint_write(t->dir.path, t->cfg, t->s->params, t->s->be, &t->s->state,
                                t->cfg->run.keep_checkpoints);
}

static oht_status checkpoint(trainer *t) {
    double start = oht_clock_s();
    OHT_TRY(same_parameters(t));
    oht_status status = pending(t);
    oht_shard *shard = t->s->state.shard;
    if (t->root && status == OHT_OK) status = save(t);
    if (shard && t->root) {
        oht_error kept = *oht_error_last();
        OHT_TRY(oht_shard_end(shard));
        *oht_error_last() = kept;
    } else if (shard) {
        OHT_TRY(oht_shard_serve(shard));
    }
    OHT_TRY(oht_agree(t->comm, status));
    t->saved = t->s->state.step;
    t->since_s += oht_clock_s() - start;
    return OHT_OK;
}

// ---- steps ----
static void eta(char out[32], double seconds) {
    long long s = (long long)seconds;
    if (s >= 86400)
        snprintf(out, 32, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    else if (s >= 3600)
        snprintf(out, 32, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(out, 32, "%lldm%02llds", s / 60, s % 60);
}

static oht_status log_step(trainer *t, const oht_step_result *r) {
    const oht_train_config *tc = &t->cfg->train;
    int64_t step = t->s->state.step;
    int64_t steps = t->s->paced.steps;
    bool due = step % tc->log_every == 0 || step == 1 || step == steps;
    double now = oht_clock_s(), step_s = (now - t->since_s) / (double)t->steps;
    bool series = t->s->task == OHT_TASK_SERIES; // counted in windows
    double per_s = (double)(t->samples * (series ? 1 : t->s->tokens)) / (now - t->since_s),
           flops_per_s = r->flops * oht_comm_size(t->comm) / step_s;
    char left[32];
    eta(left, (now - t->begin_s) / (double)(step - t->begin_step) * (double)(steps - step));
    oht_progress(step, steps, due, "loss %.4f  lr %.3g  %.0f %s/s  %.1f GFLOP/s  ETA %s", r->loss, r->lr, per_s,
                 series ? "windows" : "tok", 1e-9 * flops_per_s, left);
    if (!due) return OHT_OK;
    char line[512], scale[96] = "", x[2][32];
    double wait = oht_loader_wait_s(t->loader);
    if (r->loss_scale > 0)
        snprintf(scale, sizeof(scale), ", \"loss_scale\": %.9g, \"skipped_steps\": %lld", r->loss_scale,
                 (long long)t->s->state.skipped);
    snprintf(line, sizeof(line),
             "{\"step\": %lld, \"loss\": %s, \"lr\": %.9g, \"grad_norm\": %s, \"%s\": %.6g, "
             "\"step_s\": %.6g, "
             "\"data_wait_s\": %.6g%s}",
             (long long)step, number(x[0], r->loss), r->lr, number(x[1], r->grad_norm),
             series ? "windows_per_s" : "tokens_per_s", per_s, step_s, (wait - t->waited_s) / (double)t->steps, scale);
    t->waited_s = wait;
    t->steps = t->samples = 0;
    t->since_s = oht_clock_s();
    OHT_TRY(oht_rundir_append(&t->dir, line));
    OHT_TRY(oht_report_curve(t->report, step, r->loss, r->lr, r->grad_norm));
    return OHT_OK;
}

// Every rank measures the same batch; rank 0 writes it down.
static oht_status quantizability(trainer *t, int64_t step) {
    double start = oht_clock_s(), exact = 0, quantized = 0;
    oht_outlier_metrics seen = {0};
    OHT_TRY(oht_agree(t->comm, oht_probe_measure(t->probe, &exact, &quantized, &seen)));
    if (t->root) {
        char n[4][32], line[512];
        snprintf(line, sizeof(line),
                 "{\"step\": %lld, \"quant\": {\"loss\": %s, \"fp_loss\": %s, \"avg_kurtosis\": %s, "
                 "\"max_inf_norm\": %s, \"seconds\": %.3f}}",
                 (long long)step, number(n[0], quantized), number(n[1], exact),
                 number(n[2], seen.avg_kurtosis), number(n[3], seen.max_inf_norm), oht_clock_s() - start);
        note(t, oht_rundir_append(&t->dir, line));
        note(t, oht_report_quantizability(t->report, step, exact, quantized, &seen));
    }
    t->since_s += oht_clock_s() - start;
    return OHT_OK;
}

// run.log = debug: what this step saw, on all ranks together. Sums of doubles are exact in pieces of 16 bits.
static oht_status log_data(trainer *t, int64_t step, const oht_step_batch *batch) {
    uint64_t mine = oht_step_hash(batch), sum = 0;
    double piece[4];
    for (int i = 0; i < 4; i++) piece[i] = (double)(mine >> 16 * i & 0xffff);
    OHT_TRY(oht_sum_f64(t->comm, piece, 4));
    for (int i = 0; i < 4; i++) sum += (uint64_t)piece[i] << 16 * i;
    oht_log("step %lld: data %016llx", (long long)step, (unsigned long long)sum);
    return OHT_OK;
}

static oht_status one_step(trainer *t) {
    oht_session *s = t->s;
    const oht_config *cfg = t->cfg;
    int64_t step = s->state.step + 1;
    bool observe = cfg->outliers.every > 0 && step % cfg->outliers.every == 0;
    const oht_step_batch *batch = NULL;
    if (t->pending == OHT_OK) note(t, oht_loader_next(t->loader, &batch));
    oht_step_result r;
    OHT_TRY(oht_step(s, batch, pending(t), observe, &r));
    if (r.stop) OHT_FAIL(OHT_STOPPED, "asked to stop");
    t->steps++;
    t->samples += batch->global_rows;
    if (r.skipped)
        oht_log("step %lld: a gradient is not finite under the loss scale %g: no update, the next scale is %g (%lld skipped "
                "so far)",
                (long long)step, r.loss_scale, s->state.loss_scale, (long long)s->state.skipped);
    if (strcmp(cfg->run.log, "debug") == 0) OHT_TRY(log_data(t, step, batch));
    if (observe) {
        OHT_TRY(oht_stats_reduce(s->train_stats, t->comm));
        if (t->root) note(t, oht_report_append(t->report, step, s->train_stats));
    }
    if (t->root) note(t, log_step(t, &r));
    if (t->probe && step % cfg->quant.every == 0) OHT_TRY(quantizability(t, step));
    if (evaluation_due(t, step)) OHT_TRY(evaluate(t));
    if (t->root && t->pending == OHT_OK) note(t, oht_report_publish(t->report, false));
    if (cfg->run.checkpoint_every > 0 && step % cfg->run.checkpoint_every == 0) OHT_TRY(checkpoint(t));
    return OHT_OK;
}

static oht_status run(trainer *t) {
    oht_session *s = t->s;
    oht_status status = t->owes_evaluation ? evaluate(t) : OHT_OK;
    while (status == OHT_OK && !finished(t)) status = one_step(t);
    oht_progress_end();
    // A run that finished before and goes on, and stops at once: its result is there.
    if (status == OHT_OK && result_differs(t) && (t->owes_result || s->state.step > t->begin_step)) status = evaluate_result(t);
    if (status != OHT_OK && status != OHT_STOPPED) return oht_error_frame(status, __FILE__, __LINE__);
    if (t->saved != s->state.step) OHT_TRY(checkpoint(t));
    if (status == OHT_STOPPED)
        OHT_FAIL(OHT_STOPPED,
                 "stopped on request after step %lld of %lld; the checkpoint is written\nfix: start the same "
                 "command again to continue",
                 (long long)s->state.step, (long long)s->paced.steps);
    return OHT_OK;
}

// ---- start ----
static oht_status prepare_root(trainer *t, oht_rundir_evaluations *held) {
    char path[OHT_PATH + 32];
    OHT_TRY(oht_rundir_metrics(&t->dir, t->s->state.step, held));
    snprintf(path, sizeof(path), "%s/outliers.h5", t->dir.path);
    OHT_TRY(oht_report_open(&t->report, path, t->cfg, t->s->train_stats, t->s->state.step));
    if (oht_report_evaluated(t->report) != t->s->state.step) *held = (oht_rundir_evaluations){0};
    return OHT_OK;
}

// Finds out where the run stands, and cuts the records back to there. Collective.
static oht_status resume(trainer *t) {
    oht_session *s = t->s;
    bool found;
    oht_rundir_evaluations held = {0};
    OHT_TRY(oht_session_restore(s, t->path, true, &found));
    if (!found && t->cfg->run.resume == OHT_RESUME_MUST)
        OHT_FAIL(OHT_CONFIG,
                 "%s holds no checkpoint and run.resume = must\nfix: check -o, or run.resume=auto starts a "
                 "new run",
                 t->path);
    t->saved = found ? s->state.step : -1;
    if (found) oht_log("resuming at step %lld", (long long)s->state.step);
    oht_status status = t->root ? prepare_root(t, &held) : OHT_OK;
    OHT_TRY(oht_agree(t->comm, status));
    OHT_TRY(oht_broadcast(t->comm, &held, sizeof(held), 0));
    bool own = result_differs(t); // then the result says nothing about the evaluation on the way
    t->owes_evaluation = !held.on_the_way && (own || !held.result) && evaluation_due(t, s->state.step);
    t->owes_result = own && !held.result && s->state.step > 0 && finished(t);
    return OHT_OK;
}

static oht_status start_loader(trainer *t) {
    const oht_train_config *tc = &t->cfg->train;
    int64_t done = t->s->state.step, left = t->s->paced.steps - done; // below 0 where train.steps became less
    oht_loader_config lc = oht_session_loader(t->s, OHT_SPLIT_TRAIN, tc->global_batch,
                                              oht_graph_rows(t->s->train_graph), done, left > 0 ? left : 0);
    lc.epoch_steps = t->s->epoch_steps;
    return oht_loader_create(&t->loader, t->cfg->data.path, &lc);
}

static void announce(const trainer *t) {
    const oht_session *s = t->s;
    const oht_config *cfg = t->cfg;
    oht_session_memory m = oht_session_bytes(s);
    int size = oht_comm_size(t->comm);
    char test[32] = "", epochs[64] = "";
    if (s->data.rows[OHT_SPLIT_TEST] > 0) snprintf(test, sizeof(test), " + %lld", (long long)s->data.rows[OHT_SPLIT_TEST]);
    if (s->epoch_steps > 0) snprintf(epochs, sizeof(epochs), "; epochs of %lld steps", (long long)s->epoch_steps);
    oht_log("%s, attention %s: %lld parameters; %lld + %lld%s %s of %lld %s%s", oht_model_type_name(cfg->model.type),
            cfg->model.attention, (long long)oht_params_count(s->params), (long long)s->data.rows[0],
            (long long)s->data.rows[1], test, samples_of(s->task), (long long)s->tokens,
            s->task == OHT_TASK_SERIES ? "rows" : "tokens", epochs);
    oht_log("%d rank%s x %d thread%s, %s; MiB per rank: weights %.0f, gradients %.0f, optimizer %.0f%s, "
            "activations %.0f",
            size, size == 1 ? "" : "s", s->be->threads, s->be->threads == 1 ? "" : "s", s->precision,
            (double)m.weights / 1048576.0, (double)m.gradients / 1048576.0, (double)m.optimizer / 1048576.0,
            cfg->train.shard_optimizer && size > 1 ? " (sharded)" : "", (double)m.arena / 1048576.0);
}

static oht_status train(trainer *t) {
    OHT_TRY(oht_session_create(&t->s, t->comm, t->cfg, NULL, OHT_FOR_TRAINING | OHT_FOR_EVALUATION));
    oht_status status = t->root ? oht_rundir_open(&t->dir, t->path, t->cfg) : OHT_OK;
    if (t->root && status == OHT_OK) status = oht_rundir_same_data(&t->dir, &t->s->data, t->cfg->data.path);
    OHT_TRY(oht_agree(t->comm, status));
    OHT_TRY(oht_comm_describe(t->comm, t->s->be->device));
    announce(t);
    OHT_TRY(oht_session_allocate(t->s));
    OHT_TRY(resume(t));
    if (finished(t) && !t->owes_evaluation && !t->owes_result) {
        int64_t done = t->s->state.step, asked = t->s->paced.steps;
        oht_log("%s is finished: %lld of %lld steps are done%s", t->path, (long long)done, (long long)(done > asked ? done : asked),
                done < asked ? ", then the validation loss did not fall any more" : done > asked ? ", and fewer are asked for now" : "");
        return OHT_OK;
    }
    OHT_TRY(oht_agree(t->comm, start_loader(t)));
    if (t->cfg->quant.every > 0) OHT_TRY(oht_probe_create(&t->probe, t->s));
    t->since_s = t->begin_s = oht_clock_s();
    t->begin_step = t->s->state.step;
    status = run(t);
    double total = oht_clock_s() - t->begin_s, watched = oht_stats_seconds(t->s->train_stats);
    if (t->cfg->outliers.every > 0 && total > 0)
        oht_log("outlier statistics took %.1f s of %.1f s (%.2f %%)", watched, total, 100 * watched / total);
    if (status == OHT_OK) oht_log("finished after %.1f s: %s", total, t->path);
    return status;
}

// Best effort: after a failure the report shows what was seen up to it. The error record stays the failure's.
static void publish_last(trainer *t, oht_status status) {
    if (!t->report || status == OHT_OK) return;
    oht_error kept = *oht_error_last();
    oht_status ignored = oht_report_publish(t->report, true);
    (void)ignored;
    *oht_error_last() = kept;
}

oht_status oht_train(oht_comm *comm, const oht_config *cfg, const char *rundir) {
    trainer t = {.cfg = cfg, .comm = comm, .root = oht_comm_rank(comm) == 0, .path = rundir, .saved = -1};
    t.dir.lock = t.dir.metrics = -1;
    oht_signals_install();
    oht_status status = train(&t);
    publish_last(&t, status);
    oht_loader_destroy(t.loader);
    oht_probe_destroy(t.probe);
    oht_report_close(t.report);
    oht_rundir_close(&t.dir);
    oht_session_destroy(t.s);
    return status;
}
