// Post-training quantization, simulated in fp32 (spec transformers 5): quantizers, range estimators,
// calibration of a trained model, evaluation with fake-quantized weights and activations, and the reason
// behind the number. Where quantizers sit is recorded by the models (op.h: sites); everything here works on
// any model that records them. src/quant/README.md describes the procedure and the files.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/config.h"
#include "oht/outliers.h"
#include "oht/status.h"

// ---- quantizers (5.1)
// ------------------------------------------------------------------------------------------------ x^ = step
// (q - zero), q = clip(round(x / step) + zero, low, high), round half to even.
typedef struct oht_quantizer {
    int bits;
    bool symmetric; // zero = 0; signed iff low < 0
    double lo, hi; // the range it was made from
    double step;
    int64_t zero, low, high;
} oht_quantizer;

// The range is widened to contain 0. is_signed: of a symmetric one (per tensor, even where ranges are per
// channel).
oht_quantizer oht_quantizer_make(bool symmetric, bool is_signed, int bits, double lo, double hi);
// The same with the sign taken from lo.
oht_quantizer oht_quantizer_of(bool symmetric, int bits, double lo, double hi);
int64_t oht_quantizer_code(const oht_quantizer *q, double x);
oht_fakequant oht_quantizer_fake(const oht_quantizer *q); // for kernels

// ---- range estimators (5.2)
// -------------------------------------------------------------------------------------------- A tensor as
// estimators see it: `rows` rows of n values, ld apart, in device memory.
typedef struct oht_quant_data {
    oht_backend *be;
    float *x;
    int64_t rows, n, ld;
} oht_quant_data;

typedef struct oht_estimator_config {
    oht_range_kind kind;
    bool symmetric;
    int bits;
    double percentile; // of OHT_RANGE_RUNNING_MINMAX; 0 = minimum and maximum
    oht_mse_margin margin; // of the mean-squared-error kinds
    int candidates; // of the grids: 100
    bool stops; // heeds stop requests between candidates: a grid may take hours
} oht_estimator_config;

typedef struct oht_estimator oht_estimator;
OHT_CHECKED oht_status oht_estimator_create(oht_estimator **out, const oht_estimator_config *cfg);
void oht_estimator_destroy(oht_estimator *e);
// Takes one batch in. NUMERIC error if a value is not finite; `what` names the tensor.
OHT_CHECKED oht_status oht_estimator_update(oht_estimator *e, const oht_quant_data *data, const char *what);
bool oht_estimator_range(const oht_estimator *e, double range[2]); // false before the first batch
double oht_estimator_loss(const oht_estimator *e); // summed squared error, of the mean-squared-error kinds
// Only the newest batch counts, so the others need not be run.
bool oht_estimator_forgets(const oht_estimator_config *cfg);

// Percentiles (100 - p, p) of n values with linear interpolation at rank (n - 1) p / 100; reorders x.
void oht_percentiles(float *x, int64_t n, double p, double range[2]);
// Minimum of f on [a,b] by Brent's method without derivatives, to xatol; *fmin its value.
double oht_minimize(double (*f)(void *ctx, double x), void *ctx, double a, double b, double xatol,
                    double *fmin);
// Range of least squared error by nested one-dimensional searches: half-width, and shift where the range is
// free.
void oht_range_golden(const oht_quant_data *data, bool symmetric, int bits, oht_mse_margin margin,
                      const double minmax[2], double range[2], double *loss);

// ---- the quantized twin of a session's model
// ----------------------------------------------------------------------------- Own graphs with sites, a
// second flat buffer with quantized weights; shares everything else with the session.
typedef struct oht_quant oht_quant;
typedef struct oht_session oht_session;
typedef struct oht_batch oht_batch;

// One quantized tensor: an activation or a parameter.
typedef struct oht_quant_site {
    char name[96];
    const char *kind; // "linear", "norm.weight", ...
    int layer; // -1 outside layers
    bool weight;
    int bits; // 0 = exact
    oht_quantizer q; // of activations; of a weight's first channel
    oht_quantizer *channel; // per-channel weights: one a row, else NULL
    int64_t channels;
    // On the last calibration batch; of weights, on themselves:
    oht_quant_error error;
    int64_t count;
    // quant.integer_check: largest difference from integer arithmetic as a share of the largest value,
    // outputs compared (0 = not a linear layer of quantized input and weight), and how many of them get
    // another code
    double integer_error;
    int64_t integer_outputs, integer_differ;
} oht_quant_site;

// Signal to quantization noise in dB: inf without noise.
double oht_quant_sqnr(const oht_quant_site *site);

enum { OHT_QUANT_FOR_CALIBRATION = 1, OHT_QUANT_FOR_EVALUATION = 2 };
// cfg and session must outlive it; the session is allocated, its evaluation graph recorded. Collective.
OHT_CHECKED oht_status oht_quant_create(oht_quant **out, oht_session *s, const oht_quant_config *cfg,
                                        int parts);
void oht_quant_destroy(oht_quant *q);
int oht_quant_sites(const oht_quant *q,
                    const oht_quant_site **out); // activations in forward order, then weights

// Calibration (5.5): every rank runs all batches, so that ranges agree without communication; rank 0's are
// handed to all nevertheless. Collective.
OHT_CHECKED oht_status oht_quant_calibrate(oht_quant *q, uint64_t seed);
// The same step by step: weights; batches of up to quant.batch rows; `last` also measures the error of every
// site. Local.
OHT_CHECKED oht_status oht_quant_begin(oht_quant *q);
OHT_CHECKED oht_status oht_quant_feed(oht_quant *q, const oht_batch *batch, bool last, double *loss);
OHT_CHECKED oht_status oht_quant_end(oht_quant *q);
// stats: also the outlier metrics, on quantized tensors. Collective.
OHT_CHECKED oht_status oht_quant_evaluate(oht_quant *q, int64_t max_batches, bool stats,
                                          oht_eval_result *out);

// ---- sensitivity
// -----------------------------------------------------------------------------------------------------
typedef enum oht_quant_level { OHT_QUANT_BY_SITE, OHT_QUANT_BY_KIND, OHT_QUANT_BY_LAYER } oht_quant_level;
typedef struct oht_quant_rank {
    char name[96]; // of a site, a kind, or "layer.3"
    double loss; // with this group exact
    double recovered; // loss with everything quantized - loss
} oht_quant_rank;
// Leaves one group at a time in full precision; the most costly first. *out freed with oht_free. Collective.
OHT_CHECKED oht_status oht_quant_sensitivity(oht_quant *q, oht_quant_level level, int64_t max_batches,
                                             oht_quant_rank **out, int *n);

// ---- files (src/quant/README.md): rank 0
// --------------------------------------------------------------------------------- What /quant/<n> of
// outliers.h5 holds beside the sites.
typedef struct oht_quant_summary {
    int64_t step;
    const oht_eval_result *fp; // of the exact model
    const oht_eval_result *result; // one a calibration seed
    int n;
    const oht_quant_rank *rank;
    int n_ranks;
    oht_quant_level level;
} oht_quant_summary;
// Mean and standard deviation (n - 1; 0 for one) over seeds of each metric of their task. Returns their number.
int oht_quant_mean(const oht_eval_result *result, int n, oht_metric mean[OHT_METRICS], double deviation[OHT_METRICS]);
OHT_CHECKED oht_status oht_quant_export(const oht_quant *q, const char *rundir); // quant.h5, quant.json
OHT_CHECKED oht_status oht_quant_report(const oht_quant *q, const char *rundir,
                                        const oht_quant_summary *summary); // outliers.h5
// Ranges of a quant.h5 instead of calibration; DATA error if it is of another model or setting. Collective.
OHT_CHECKED oht_status oht_quant_load(oht_quant *q, const char *path);

// ---- while training (quant.every) ----------------------------------------------------------------
// Loss of one fixed calibration batch, exact and quantized with the ranges of that very batch: one pass each.
typedef struct oht_probe oht_probe;
// Widths are quant.weights and quant.activations, 8 where they are 0. Collective.
OHT_CHECKED oht_status oht_probe_create(oht_probe **out, oht_session *s);
void oht_probe_destroy(oht_probe *p);
// Every rank computes the same. metrics: of the exact pass. Local.
OHT_CHECKED oht_status oht_probe_measure(oht_probe *p, double *exact, double *quantized,
                                         oht_outlier_metrics *metrics);
