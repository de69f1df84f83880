// One optimizer step (spec transformers 3):
//
//   count    labels of the global batch, stop requests, failures: one small all-reduce, before any work
//   compute  each micro-batch forward and backward; gradients of the loss sum / count add up in the flat buffer
//   reduce   the flat gradient summed over ranks in pieces; loss and squared norm by a second small all-reduce
//   check    loss and squared gradients finite, or NUMERIC on every rank before anything is changed
//   update   AdamW on each stretch of the flat layout, gradients scaled by min(1, clip / (norm + 1e-6))
//
// Each rank squares its own slice of the reduced gradient, so that all ranks use the same norm by
// construction.
#include <math.h>
#include <string.h>

#include "oht/log.h"
#include "oht/session.h"

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

// All micro-batches; returns this rank's part of the loss.
static double compute(oht_session *s, const oht_step_batch *batch, totals all, bool observe,
                      oht_step_result *out) {
    oht_run *run = s->train;
    double loss = 0;
    bool written = false; // the first backward overwrites the gradients, the others add
    begin(s, observe);
    for (int64_t i = 0, row = 0; i < batch->n_micro; row += batch->micro[i++].rows) {
        const oht_batch *b = &batch->micro[i];
        if (b->rows == 0 || (b->n_labels == 0 && !observe)) continue;
        double t0 = oht_clock_s();
        if (observe) oht_stats_row_ids(s->train_stats, batch->row_id + row);
        oht_session_feed(run, b);
        run->add_params = written;
        run->loss_scale = (float)weight(s, b, all);
        oht_run_forward(run);
        double t1 = oht_clock_s();
        out->forward_s += t1 - t0;
        out->flops += oht_run_flops(run, false);
        if (b->n_labels == 0) continue;
        oht_run_backward(run);
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
            if (!isfinite(s->be->sumsq(s->be, s->state.grad + p->offset, p->count))) worst = p;
        }
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
             "train.warmup_steps or a smaller train.clip",
             (long long)s->state.step + 1, fabs(loss), fabs(norm), where);
}

// ---- update ----
static void update(oht_session *s, double lr, double norm) {
    const oht_train_config *t = &s->cfg->train;
    oht_adamw opt = {.lr = (float)lr,
                     .beta1 = (float)t->beta1,
                     .beta2 = (float)t->beta2,
                     .eps = (float)t->eps,
                     .step = s->state.step + 1,
                     .grad_scale = (float)oht_clip_coefficient(norm, t->clip)};
    for (size_t i = 0; i < s->n_segments; i++) {
        const oht_segment *part = &s->segment[i];
        opt.weight_decay = part->decays ? (float)t->weight_decay : 0.0f;
        s->be->adamw(s->be, s->state.param + part->first, s->state.grad + part->first,
                     s->state.m + part->first, s->state.v + part->first, (int64_t)part->count, &opt);
    }
}

// Sum of squares of this rank's slice of the reduced gradient.
static double slice_sumsq(oht_session *s) {
    int64_t n = (int64_t)s->params->flat_count, size = oht_comm_size(s->comm), rank = oht_comm_rank(s->comm);
    int64_t slice = ((n + size - 1) / size + 15) / 16 * 16;
    int64_t first = rank * slice;
    if (first >= n) return 0;
    return s->be->sumsq(s->be, s->state.grad + first, first + slice < n ? slice : n - first);
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
    double loss = compute(s, batch, all, observe, out);
    s->train->observer = NULL;

    double t0 = oht_clock_s();
    oht_status status = s->be->sync(s->be);
    if (oht_comm_size(s->comm) > 1)
        OHT_TRY(
            oht_sum_f32(s->comm, s->state.grad, s->params->flat_count, (size_t)s->cfg->train.reduce_bytes));
    double after[3] = {loss, slice_sumsq(s), status != OHT_OK}; // loss, squared norm, failed
    OHT_TRY(oht_sum_f64(s->comm, after, 3));
    if (after[2] > 0) OHT_TRY(oht_agree(s->comm, status));
    double t1 = oht_clock_s();
    out->reduce_s = t1 - t0;
    out->loss = after[0];
    out->grad_norm = sqrt(after[1]);
    out->labels = (int64_t)all.labels;
    out->lr = oht_learning_rate(&s->paced, s->state.step);
    double clipped = out->grad_norm * oht_clip_coefficient(out->grad_norm, s->cfg->train.clip);
    if (!isfinite(out->loss) || !(clipped <= LARGEST_NORM))
        return oht_agree(s->comm, diagnose(s, batch, out->loss, out->grad_norm));

    update(s, out->lr, out->grad_norm);
    s->state.step++;
    out->optimizer_s = oht_clock_s() - t1;
    return OHT_OK;
}
