// Outlier statistics: an observer that measures every tap, merged over micro-batches and ranks, and the report file.
//
// Per row of a tap (spec transformers 4): kappa = mean((x - mean)^4) / (s^4 + 1e-6), s unbiased; inf norm = max |x|.
// A tap's kurtosis is the mean of kappa over rows, kurtosis_pooled that of all values as one sample (Pebay's formulas).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/data.h"
#include "oht/dist.h"
#include "oht/op.h"
#include "oht/status.h"

// kappa of one row, from its moments.
double oht_kurtosis(const oht_moments *row);
// a := a and b together (Pebay 2008): counts, mean, central sums, maximum.
void oht_moments_merge(oht_moments *a, const oht_moments *b);

// One tap's statistics over the rows seen since the last reset. Plain data: travels between ranks.
typedef struct oht_tap_stats {
    int64_t rows;
    double inf_sum, kurtosis_sum;   // over rows
    int64_t inf_rows, kurtosis_rows; // how many rows each sum has
    oht_moments pooled;             // all values as one sample; abs_max with its place:
    int64_t max_sample, max_token, max_channel; // sample = place in the global batch or dataset row, see oht_stats_row_ids
    int64_t outliers_6sigma;
    int64_t nonfinite;
} oht_tap_stats;

typedef struct oht_stats oht_stats; // the observer

OHT_CHECKED oht_status oht_stats_create(oht_stats **out, const oht_graph *g, int heads);
void oht_stats_destroy(oht_stats *s);
void oht_stats_reset(oht_stats *s);
oht_observer *oht_stats_observer(oht_stats *s);
// Dataset rows of the micro-batch about to run, so that maxima are reported by dataset row. Local.
void oht_stats_row_ids(oht_stats *s, const int64_t *row_id);
// Whether the rows about to be seen count for the infinity norm, for kurtosis (batch limits of the paper's scripts).
void oht_stats_count_inf(oht_stats *s, bool on);
void oht_stats_count_kurtosis(oht_stats *s, bool on);
// Merges the statistics of all ranks; afterwards every rank holds the result. Collective.
OHT_CHECKED oht_status oht_stats_reduce(oht_stats *s, oht_comm *comm);
int oht_stats_taps(const oht_stats *s, const oht_tap_info **info, const oht_tap_stats **stats); // moment taps only
// Head statistics: mean null mass and mean gate per (layer, head), (L,H) or NULL when there is no such tap.
const double *oht_stats_null_mass(const oht_stats *s, int *layers, int *heads);
const double *oht_stats_gate_mean(const oht_stats *s, int *layers, int *heads);
double oht_stats_seconds(const oht_stats *s); // time spent observing
// First tap (forward order) that saw a non-finite value, NULL = none.
const char *oht_stats_first_nonfinite(const oht_stats *s);

// The paper's metrics from reduced statistics.
typedef struct oht_outlier_metrics {
    double max_inf_norm, max_ffn_inf_norm, max_layer_inf_norm, avg_kurtosis, max_kurtosis;
    // Models whose reference hooks every module (spec stanhop 4): number of modules in avg_kurtosis; the same without
    // probabilities of associations; the set without copies and probabilities; the decoder layers.
    int64_t modules;
    double activation_kurtosis, clean_kurtosis, clean_max_inf_norm, max_kurtosis_layers;
    // compat.all_modules (ViT): the reference's metrics over every module; all_modules: their number, 0 = not measured.
    int64_t all_modules;
    double all_avg_kurtosis, all_max_kurtosis, all_ffn_inf_norm;
} oht_outlier_metrics;
void oht_stats_metrics(const oht_stats *s, oht_outlier_metrics *out);

// ---- RUNDIR/outliers.h5: rank 0 only, in memory, published whole ----
typedef struct oht_report oht_report;

typedef struct oht_eval_result {
    oht_task task;
    double loss, perplexity; // text: perplexity as the spec's section 4, weighted by sequences
    double top1, top5; // images: percent of all samples
    // Time series (spec stanhop 3.4): means over batches, each weighted by its samples, as published; for all but rmse that is
    // the mean over all values, rmse_pooled is the root of that of the squares. mse_batches: every batch counts the same.
    double mse, mae, rmse, mape, mspe, rmse_pooled, mse_batches;
    int64_t sequences, batches; // samples
    oht_split split;
    bool is_result; // of the whole run, not one on the way
    int64_t params_step; // step whose parameters were evaluated
    oht_outlier_metrics outliers;
} oht_eval_result;

typedef struct oht_metric {
    const char *name;
    double value;
} oht_metric;
enum { OHT_METRICS = 32 };
// The metrics of a result that its task has, under the names that files and reports use. Returns their number.
int oht_eval_metrics(const oht_eval_result *r, oht_metric out[OHT_METRICS]);
// What evaluations are compared by, less is better: the loss; time series: the mean of the batches' losses, as published.
double oht_eval_criterion(const oht_eval_result *r);

// Opens or creates the report of a run; on resume everything after step `cut` is dropped. What is there but damaged or
// of another model is kept as PATH.damaged-N, with a warning, and a new report begins.
OHT_CHECKED oht_status oht_report_open(oht_report **out, const char *path, const oht_config *cfg, const oht_stats *s, int64_t cut);
int64_t oht_report_evaluated(const oht_report *r); // step of its last evaluation, -1 = none
OHT_CHECKED oht_status oht_report_append(oht_report *r, int64_t step, const oht_stats *s);
OHT_CHECKED oht_status oht_report_curve(oht_report *r, int64_t step, double loss, double lr, double grad_norm);
OHT_CHECKED oht_status oht_report_eval(oht_report *r, int64_t step, const oht_eval_result *result, const oht_stats *s);
// One row of /quantizability (quant.every): the loss of a fixed batch, exact and quantized, and what the exact pass saw.
OHT_CHECKED oht_status oht_report_quantizability(oht_report *r, int64_t step, double exact, double quantized,
                                                 const oht_outlier_metrics *seen);
// Publishes when publish_s have passed since the last time, or when force.
OHT_CHECKED oht_status oht_report_publish(oht_report *r, bool force);
void oht_report_close(oht_report *r);
