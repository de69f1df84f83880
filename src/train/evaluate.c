// Evaluation over a split, validation unless told otherwise (spec transformers 4, stanhop 3.4). The global batches of eval.batch sequences come
// in file order, whatever the number of ranks; per batch the ranks' loss sums and label counts are added, and
// the batches are combined in order:
//
//   loss       = sum_b loss_b / sum_b labels_b                     exact mean over labels
//   perplexity = exp(sum_b n_b l_b / sum_b n_b)                    l_b mean of batch b, n_b its sequences
//   time series: sum_b n_b m_b / sum_b n_b for each error m, and some sums over everything
//
// Kurtosis and infinity norm look at the first eval.kurtosis_batches and eval.inf_norm_batches batches only.
#include <math.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "oht/session.h"
#include "train/forecast.h"

typedef struct sums {
    double loss, labels; // over everything
    double weighted, sequences; // sum n_b l_b, sum n_b over batches that have labels
    double measured[OHT_MEASURED]; // oht_run.measured
    forecast_sums forecast;
    int64_t rows, batches;
} sums;

static oht_status start_loader(oht_session *s, const oht_run *run, int64_t batches, oht_loader **out) {
    oht_loader_config lc = oht_session_loader(s, s->eval_split, s->cfg->eval.batch,
                                              oht_graph_rows(run->graph), 0, batches);
    return oht_loader_create(out, s->cfg->data.path, &lc);
}

// Forward of this rank's part of one batch; returns its loss sum.
static double forward(oht_session *s, oht_run *run, oht_stats *stats, const oht_step_batch *batch,
                      double measured[OHT_MEASURED]) {
    const oht_eval_config *ec = &s->cfg->eval;
    bool inf_norm = ec->inf_norm_batches == 0 || batch->index < ec->inf_norm_batches;
    bool kurtosis = batch->index < ec->kurtosis_batches, observe = stats && (inf_norm || kurtosis);
    double loss = 0;
    run->step = (uint32_t)batch->index;
    run->observer = observe ? oht_stats_observer(stats) : NULL;
    if (observe) {
        oht_stats_count_inf(stats, inf_norm);
        oht_stats_count_kurtosis(stats, kurtosis);
    }
    for (int64_t i = 0, row = 0; i < batch->n_micro; row += batch->micro[i++].rows) {
        const oht_batch *b = &batch->micro[i];
        if (b->rows == 0) continue;
        if (observe) oht_stats_row_ids(stats, batch->row_id + row);
        oht_session_feed(run, b);
        oht_run_forward(run);
        if (b->n_labels > 0) loss += run->loss_sum;
        for (int k = 0; k < OHT_MEASURED; k++) measured[k] += run->measured[k];
    }
    run->observer = NULL;
    return loss;
}

static oht_status one_batch(oht_session *s, oht_run *run, oht_stats *stats, oht_loader *loader, int64_t index,
                            sums *all) {
    const oht_step_batch *batch = NULL;
    oht_status status = oht_loader_next(loader, &batch);
    if (status == OHT_OK && !batch)
        status = oht_error_set(OHT_INTERNAL, __FILE__, __LINE__, "no data for evaluation batch %lld",
                               (long long)index);
    double part[4 + OHT_MEASURED] = {0, 0, oht_signals_stop_asked()}; // loss sum, labels, stop, failed, measured
    if (status == OHT_OK && batch) {
        part[0] = forward(s, run, stats, batch, part + 4);
        part[1] = (double)batch->n_labels;
        status = s->be->sync(s->be);
    }
    part[3] = status != OHT_OK;
    OHT_TRY(oht_sum_f64(s->comm, part, 4 + OHT_MEASURED));
    if (part[3] > 0) OHT_TRY(oht_agree(s->comm, status));
    if (part[2] > 0) OHT_FAIL(OHT_STOPPED, "asked to stop during an evaluation");
    all->loss += part[0];
    all->labels += part[1];
    for (int k = 0; k < OHT_MEASURED; k++) all->measured[k] += part[4 + k];
    all->rows += batch->global_rows;
    all->batches++;
    if (part[1] > 0) {
        all->weighted += (double)batch->global_rows * (part[0] / part[1]);
        all->sequences += (double)batch->global_rows;
        if (s->task == OHT_TASK_SERIES) forecast_add(&all->forecast, batch->global_rows, part[1], part[0], part + 4);
    }
    return OHT_OK;
}

static oht_status all_batches(oht_session *s, oht_run *run, oht_stats *stats, oht_loader *loader,
                              int64_t batches, oht_eval_result *out) {
    sums all = {0};
    if (stats) oht_stats_reset(stats);
    for (int64_t b = 0; b < batches; b++) {
        OHT_TRY(one_batch(s, run, stats, loader, b, &all));
        oht_progress(b + 1, batches, false, "evaluation, loss %.4f",
                     all.labels > 0 ? all.loss / all.labels : 0.0);
    }
    oht_progress_end();
    if (stats) OHT_TRY(oht_stats_reduce(stats, s->comm));
    out->loss = all.labels > 0 ? all.loss / all.labels : 0;
    out->perplexity =
        all.sequences > 0 ? exp(all.weighted / all.sequences) : 1; // may overflow to inf, as the reference's
    if (s->task == OHT_TASK_IMAGES) {
        out->top1 = 100.0 * all.measured[0] / (double)all.rows;
        out->top5 = 100.0 * all.measured[1] / (double)all.rows;
    }
    if (s->task == OHT_TASK_SERIES) forecast_result(&all.forecast, out);
    out->sequences = all.rows;
    out->batches = all.batches;
    if (stats) oht_stats_metrics(stats, &out->outliers);
    if (!isfinite(out->loss)) {
        const char *tap = stats ? oht_stats_first_nonfinite(stats) : NULL;
        OHT_FAIL(OHT_NUMERIC,
                 "evaluation: the loss is %g; the first tensor with values that are not finite: %s\nfix: train into a new run "
                 "directory (-o) with a smaller train.lr or more train.warmup_steps",
                 out->loss, tap ? tap : "none of the activations, it happened in the loss");
    }
    return OHT_OK;
}

oht_status oht_evaluate(oht_session *s, int64_t max_batches, oht_eval_result *out) {
    return oht_evaluate_run(s, s->eval, s->eval_stats, max_batches, out);
}

oht_status oht_evaluate_run(oht_session *s, oht_run *run, oht_stats *stats, int64_t max_batches,
                            oht_eval_result *out) {
    memset(out, 0, sizeof(*out));
    out->task = s->task;
    out->split = s->eval_split;
    out->params_step = s->state.step;
    int64_t rows = s->data.rows[s->eval_split], size = s->cfg->eval.batch;
    int64_t batches = (rows + size - 1) / size;
    if (max_batches > 0 && max_batches < batches) batches = max_batches;
    if (batches == 0)
        OHT_FAIL(OHT_DATA, "%s: has no %s samples, so nothing can be evaluated", s->cfg->data.path,
                 oht_split_name(s->eval_split));
    oht_loader *loader = NULL;
    oht_status status = oht_agree(s->comm, start_loader(s, run, batches, &loader));
    if (status == OHT_OK) status = all_batches(s, run, stats, loader, batches, out);
    oht_loader_destroy(loader);
    return status;
}
