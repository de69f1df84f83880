// Post-training quantization, simulated in fp32 (spec transformers 5): quantizers, range estimators, calibration of a trained
// model, evaluation with fake-quantized weights and activations, and the reason behind the number. Where quantizers sit is
// recorded by the models (op.h: sites); everything here works on any model that records them. src/quant/README.md describes
// the procedure and the files.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/config.h"
#include "oht/status.h"

// ---- quantizers (5.1) ----
// x^ = step (q - zero), q = clip(round(x / step) + zero, low, high), round half to even.
typedef struct oht_quantizer {
    int bits;
    bool symmetric; // zero = 0; signed iff low < 0
    double lo, hi;  // the range it was made from
    double step;
    int64_t zero, low, high;
} oht_quantizer;

// The range is widened to contain 0. is_signed: of a symmetric one (per tensor, even where ranges are per channel).
oht_quantizer oht_quantizer_make(bool symmetric, bool is_signed, int bits, double lo, double hi);
// The same with the sign taken from lo.
oht_quantizer oht_quantizer_of(bool symmetric, int bits, double lo, double hi);
int64_t oht_quantizer_code(const oht_quantizer *q, double x);
oht_fakequant oht_quantizer_fake(const oht_quantizer *q); // for kernels

// ---- range estimators (5.2) ----
// A tensor as estimators see it: `rows` rows of n values, ld apart, in device memory.
typedef struct oht_quant_data {
    oht_backend *be;
    float *x;
    int64_t rows, n, ld;
} oht_quant_data;

typedef struct oht_estimator_config {
    oht_range_kind kind;
    bool symmetric;
    int bits;
    double percentile;     // of OHT_RANGE_RUNNING_MINMAX; 0 = minimum and maximum
    oht_mse_margin margin; // of the mean-squared-error kinds
    int candidates;        // of the grids: 100
} oht_estimator_config;

typedef struct oht_estimator oht_estimator;
OHT_CHECKED oht_status oht_estimator_create(oht_estimator **out, const oht_estimator_config *cfg);
void oht_estimator_destroy(oht_estimator *e);
// Takes one batch in. NUMERIC error if a value is not finite; `what` names the tensor.
OHT_CHECKED oht_status oht_estimator_update(oht_estimator *e, const oht_quant_data *data, const char *what);
bool oht_estimator_range(const oht_estimator *e, double range[2]); // false before the first batch
double oht_estimator_loss(const oht_estimator *e);                 // summed squared error, of the mean-squared-error kinds
// Only the newest batch counts, so the others need not be run.
bool oht_estimator_forgets(const oht_estimator_config *cfg);

// Percentiles (100 - p, p) of n values with linear interpolation at rank (n - 1) p / 100; reorders x.
void oht_percentiles(float *x, int64_t n, double p, double range[2]);
// Minimum of f on [a,b] by Brent's method without derivatives, to xatol; *fmin its value.
double oht_minimize(double (*f)(void *ctx, double x), void *ctx, double a, double b, double xatol, double *fmin);
// Range of least squared error by nested one-dimensional searches: half-width, and shift where the range is free.
void oht_range_golden(const oht_quant_data *data, bool symmetric, int bits, oht_mse_margin margin, const double minmax[2],
                      double range[2], double *loss);
