// One optimizer step (spec transformers 3):
//
//   count    labels of the global batch, stop requests, failures: one small all-reduce, before any work
//   compute  each micro-batch forward and backward; gradients of the loss sum / count add up in the flat buffer
//   reduce   the flat gradient summed over ranks in pieces (by devices that have collectives while the last backward
//            goes on); loss and squared norm by a second small all-reduce
//   check    loss and squared gradients finite, or NUMERIC on every rank before anything is changed
//   update   AdamW on each stretch of the flat layout, gradients scaled by min(1, clip / (norm + 1e-6))
//
// Each rank squares its own shares of the reduced gradient, so that all ranks use the same norm by construction. With
// sharded moments (train.shard_optimizer) these shares are all of the sum that a rank gets, and all that it updates;
// the parameters are then gathered from their owners.
//
// In fp16 the loss is multiplied by state.loss_scale; a gradient that is not finite under it skips the update and halves
// it, GOOD_STEPS finite ones double it (Micikevicius et al. 2018; the numbers are those of torch.cuda.amp).
#include <math.h>
#include <string.h>

#include "oht/log.h"
#include "oht/session.h"

enum { GOOD_STEPS = 2000 };
static const double SMALLEST_SCALE = 0x1p-10; // below it something else is wrong
static const double LARGEST_NORM = 1e18; // squares of gradients stay below the largest float, 3e38

double oht_clip_coefficient(double norm, double clip) {
    return clip > 0 ? fmin(1.0, clip / (norm + 1e-6)) : 1.0;
}

// ---- compute ----
typedef struct totals {
    double labels, micros; // of all ranks: labels, and micro-batches that have any
} totals;

// What a micro-batch's loss sum counts in the step's loss: 1 / labels, or with compat.micro_batch_mean the
// mean of the micro-batches' means, as the reference accumulates.
static double weight(const oht_session *s, const oht_batch *b, totals all) {
    if (b->n_labels == 0) return 0;
    return s->cfg->compat.micro_batch_mean ? 1.0 / ((double)b->n_labels * all.micros) : 1.0 / all.labels;
}

static void begin(oht_session *s, bool observe) {
    oht_run *run = s->train;
    run->step = (uint32_t)s->state.step;
    run->observer = observe ? oht_stats_observer(s->train_stats) : NULL;
    if (observe) {
        oht_stats_reset(s->train_stats);
        oht_stats_count_kurtosis(s->train_stats, true);
    }
}

// ---- reduce ----
// Floats of the gradient that are on their way, in whole pieces.
typedef struct reduction {
    oht_session *s;
    size_t sent; // pieces
} reduction;

// So many floats of the gradient must be complete for the next piece to go.
static size_t next_piece(const reduction *r) {
    const oht_shares *cut = &r->s->shares;
    size_t end = r->sent * cut->piece + oht_shares_piece(cut, r->sent);
    return end < cut->flat ? end : cut->flat;
}

// Sends the pieces that are complete.
static void send_ready(void *ctx, size_t ready) {
    reduction *r = ctx;
    oht_session *s = r->s;
    const oht_shares *cut = &s->shares;
    if (ready == cut->flat) ready = cut->padded; // what is behind it stays 0
    for (size_t n; (n = oht_shares_piece(cut, r->sent)) > 0 && r->sent * cut->piece + n <= ready; r->sent++) {
        float *x = s->state.grad + r->sent * cut->piece;
        if (s->state.shard)
            s->be->collectives->reduce_scatter(s->be, x, (int64_t)(n / (size_t)cut->size));
        else
            s->be->collectives->all_reduce(s->be, x, (int64_t)n);
    }
    s->train->progress_from = next_piece(r);
}

static bool by_device(const oht_session *s) {
    return s->be->collectives && oht_comm_size(s->comm) > 1;
}

// Through memory that the host sees.
static oht_status reduce_host(oht_session *s) {
    const oht_shares *cut = &s->shares;
    if (!s->state.shard) return oht_sum_f32(s->comm, s->state.grad, cut->flat, cut->piece * sizeof(float));
    for (size_t i = 0, n; (n = oht_shares_piece(cut, i)) > 0; i++)
        OHT_TRY(oht_reduce_scatter_f32(s->comm, s->state.grad + i * cut->piece, n / (size_t)cut->size));
    return OHT_OK;
}

static oht_status gather_parameters(oht_session *s) {
    const oht_shares *cut = &s->shares;
    double ignored;
    for (size_t i = 0, n; (n = oht_shares_piece(cut, i)) > 0; i++) {
        float *x = s->state.param + i * cut->piece;
        size_t share = n / (size_t)cut->size;
        if (by_device(s))
            s->be->collectives->all_gather(s->be, x, (int64_t)share);
        else
            OHT_TRY(oht_all_gather_f32(s->comm, x, share));
    }
    return by_device(s) ? s->be->collectives->finish(s->be, &ignored) : OHT_OK;
}

// Sum of squares of what this rank owns of the reduced gradient, in [first, end).
static double own_sumsq(oht_session *s, size_t first, size_t end) {
    double sum = 0;
    oht_stretch at = {first, 0, 0};
    while (oht_shares_next(&s->shares, s->shares.rank, end, &at))
        sum += s->be->sumsq(s->be, s->state.grad + at.first, (int64_t)at.count);
    return sum;
}

// The last micro-batch of this rank that has labels: after its backward the gradient is complete. -1: none has.
static int64_t last_backward(const oht_step_batch *batch) {
    int64_t last = -1;
    for (int64_t i = 0; i < batch->n_micro; i++)
        if (batch->micro[i].n_labels > 0) last = i;
    return last;
}

// All micro-batches; returns this rank's part of the loss.
static double compute(oht_session *s, const oht_step_batch *batch, totals all, bool observe, reduction *sum,
                      oht_step_result *out) {
    oht_run *run = s->train;
    double loss = 0, scale = s->state.loss_scale > 0 ? s->state.loss_scale : 1;
    int64_t last = last_backward(batch);
    bool written = false; // the first backward overwrites the gradients, the others add
    begin(s, observe);
    if (s->state.shard) oht_run_clear_gaps(run); // the reduction of the last step left other ranks' parts there
    for (int64_t i = 0, row = 0; i < batch->n_micro; row += batch->micro[i++].rows) {
        const oht_batch *b = &batch->micro[i];
        if (b->rows == 0 || (b->n_labels == 0 && !observe)) continue;
        double t0 = oht_clock_s();
        if (observe) oht_stats_row_ids(s->train_stats, batch->row_id + row);
        oht_session_feed(run, b);
        run->add_params = written;
        run->loss_scale = (float)(weight(s, b, all) * scale);
        oht_run_forward(run);
        double t1 = oht_clock_s();
        out->forward_s += t1 - t0;
        out->flops += oht_run_flops(run, false);
        if (b->n_labels == 0) continue;
        run->progress = by_device(s) && i == last ? send_ready : NULL;
        run->progress_from = next_piece(sum);
        run->progress_ctx = sum;
        oht_run_backward(run);
        run->progress = NULL;
        written = true;
        loss += run->loss_sum * weight(s, b, all);
        out->backward_s += oht_clock_s() - t1;
        out->flops += oht_run_flops(run, true);
    }
    if (!written) s->be->zero(s->be, s->state.grad, s->params->flat_count * sizeof(float));
    return loss;
}

// ---- check ----
static int tap_index(const oht_session *s, const char *name) {
    const oht_tap_info *tap;
    int n = oht_graph_taps(s->train_graph, &tap);
    for (int i = 0; name && i < n; i++)
        if (strcmp(tap[i].name, name) == 0) return i;
    return n;
}

// Finds where the numbers left the finite range: forward once more with the statistics watching, then the
// reduced gradients in the order backward completes them. Collective.
static oht_status diagnose(oht_session *s, const oht_step_batch *batch, double loss, double norm) {
    oht_run *run = s->train;
    begin(s, true);
    const char *seen = NULL;
    for (int64_t i = 0, row = 0; i < batch->n_micro && !seen; row += batch->micro[i++].rows) {
        if (batch->micro[i].rows == 0) continue;
        oht_stats_row_ids(s->train_stats, batch->row_id + row);
        oht_session_feed(run, &batch->micro[i]);
        oht_run_forward(run);
        seen = oht_stats_first_nonfinite(s->train_stats);
    }
    run->observer = NULL;
    const oht_tap_info *tap;
    int n = oht_graph_taps(s->train_graph, &tap);
    double first = -(double)tap_index(s, seen);
    OHT_TRY(oht_max_f64(s->comm, &first, 1));
    int found = (int)-first;
    char where[256];
    if (found < n) {
        snprintf(where, sizeof(where), "the first tensor with values that are not finite is %s",
                 tap[found].name);
    } else {
        const oht_param *worst = NULL;
        for (int i = 0; i < s->params->n; i++) {
            const oht_param *p = &s->params->item[i];
            if (worst && worst->offset < p->offset) continue;
            if (!isfinite(own_sumsq(s, p->offset, p->offset + (size_t)p->count))) worst = p;
        }
        double at = worst ? -(double)worst->offset : -INFINITY; // a rank sees its shares only
        OHT_TRY(oht_max_f64(s->comm, &at, 1));
        for (int i = 0; i < s->params->n && isfinite(at); i++)
            if (s->params->item[i].offset == (size_t)-at) worst = &s->params->item[i];
        if (worst)
            snprintf(where, sizeof(where),
                     "all activations are finite: it happened in the loss or a gradient; the first parameter "
                     "whose gradient is not finite is %s",
                     worst->name);
        else
            snprintf(where, sizeof(where),
                     "all activations and gradients are finite: it happened in the loss, or squares of the "
                     "gradient leave the range of AdamW's second moment");
    }
    OHT_FAIL(OHT_NUMERIC,
             "step %lld: loss %g, gradient norm %g; %s. The parameters were not changed by this step, and "
             "the checkpoints before it stay\nfix: a new run (-o) with a smaller train.lr, more "
             "train.warmup_steps or %s",
             (long long)s->state.step + 1, fabs(loss), fabs(norm), where,
             s->cfg->train.clip > 0 ? "a smaller train.clip" : "train.clip=1, which is off here");
}

// ---- update ----
static void update(oht_session *s, double lr, double norm, double scale) {
    const oht_train_config *t = &s->cfg->train;
    oht_state *state = &s->state;
    oht_adamw opt = {.lr = (float)lr,
                     .beta1 = (float)t->beta1,
                     .beta2 = (float)t->beta2,
                     .eps = (float)t->eps,
                     .step = state->step - state->skipped + 1,
                     .grad_scale = (float)(oht_clip_coefficient(norm, t->clip) / scale),
                     .work_type = s->storage};
    for (size_t i = 0; i < s->n_segments; i++) {
        const oht_segment *part = &s->segment[i];
        opt.weight_decay = part->decays ? (float)t->weight_decay : 0.0f;
        oht_stretch at = {part->first, 0, 0};
        if (!state->shard) { // one stretch, and the copy that kernels read at once
            if (s->work != state->param) opt.work = (char *)s->work + part->first * oht_dtype_size(s->storage);
            s->be->adamw(s->be, state->param + part->first, state->grad + part->first, state->m + part->first,
                         state->v + part->first, (int64_t)part->count, &opt);
            continue;
        }
        while (oht_shares_next(&s->shares, s->shares.rank, part->first + part->count, &at))
            s->be->adamw(s->be, state->param + at.first, state->grad + at.first, state->m + at.packed,
                         state->v + at.packed, (int64_t)at.count, &opt);
    }
}

// fp16: true when this step's gradients cannot be used. The scale is the same on all ranks, and so is the answer.
static bool rescale(oht_session *s, bool finite) {
    oht_state *state = &s->state;
    if (state->loss_scale == 0) return false;
    if (finite) {
        if (++state->good_steps == GOOD_STEPS) {
            state->loss_scale *= 2;
            state->good_steps = 0;
        }
        return false;
    }
    state->loss_scale /= 2;
    state->good_steps = 0;
    return state->loss_scale >= SMALLEST_SCALE;
}

oht_status oht_step(oht_session *s, const oht_step_batch *batch, oht_status pending, bool observe,
                    oht_step_result *out) {
    memset(out, 0, sizeof(*out));
    if (pending == OHT_OK && !batch)
        pending = oht_error_set(OHT_INTERNAL, __FILE__, __LINE__, "no data for step %lld",
                                (long long)s->state.step + 1);
    double before[4] = {0, 0, oht_signals_stop_asked(),
                        pending != OHT_OK}; // labels, micro-batches, stop, failed
    for (int64_t i = 0; pending == OHT_OK && i < batch->n_micro; i++) {
        before[0] += (double)batch->micro[i].n_labels;
        before[1] += batch->micro[i].n_labels > 0;
    }
    OHT_TRY(oht_sum_f64(s->comm, before, 4));
    if (before[3] > 0) OHT_TRY(oht_agree(s->comm, pending));
    if (before[2] > 0) {
        out->stop = true;
        return OHT_OK;
    }
    totals all = {before[0], before[1]};
    reduction sum = {.s = s};
    double loss = compute(s, batch, all, observe, &sum, out);
    s->train->observer = NULL;

    double t0 = oht_clock_s();
    if (by_device(s)) {
        send_ready(&sum, s->shares.flat);
        OHT_TRY(s->be->collectives->finish(s->be, &out->exposed_s)); // a peer that is gone answers no agreement either
    }
    oht_status status = s->be->sync(s->be);
    if (!by_device(s)) {
        double start = oht_clock_s();
        OHT_TRY(reduce_host(s));
        out->exposed_s = oht_clock_s() - start;
    }
    double after[3] = {loss, own_sumsq(s, 0, s->shares.flat), status != OHT_OK}; // loss, squared norm, failed
    OHT_TRY(oht_sum_f64(s->comm, after, 3));
    if (after[2] > 0) OHT_TRY(oht_agree(s->comm, status));
    double t1 = oht_clock_s();
    out->reduce_s = t1 - t0;
    out->loss = after[0];
    double scale = s->state.loss_scale > 0 ? s->state.loss_scale : 1;
    out->grad_norm = sqrt(after[1]) / scale;
    out->labels = (int64_t)all.labels;
    out->lr = oht_learning_rate(&s->paced, s->state.step - s->state.skipped);
    double clipped = out->grad_norm * oht_clip_coefficient(out->grad_norm, s->cfg->train.clip);
    out->loss_scale = s->state.loss_scale;
    if (rescale(s, isfinite(out->loss) && isfinite(out->grad_norm))) {
        out->skipped = true;
        s->state.skipped++;
        s->state.step++;
        return OHT_OK;
    }
    if (!isfinite(out->loss) || !(clipped <= LARGEST_NORM))
        return oht_agree(s->comm, diagnose(s, batch, out->loss, out->grad_norm));

    update(s, out->lr, out->grad_norm, scale);
    if (s->state.shard) {
        OHT_TRY(gather_parameters(s));
        if (s->work != s->state.param)
            s->be->cast(s->be, s->work, s->storage, s->state.param, (int64_t)s->shares.flat);
    }
    s->state.step++;
    out->optimizer_s = oht_clock_s() - t1;
    return OHT_OK;
}
