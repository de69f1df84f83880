// Errors of forecasts over the batches of an evaluation, as the reference adds them up (spec stanhop 3.4): each batch's means,
// weighted by its samples. Local.
#pragma once

#include <stdint.h>

#include "oht/outliers.h"

typedef struct forecast_sums {
    double samples, values, squares, errors[3]; // over everything; errors as backend.h's forecast_errors
    double mse, rmse;                           // sum of n_b m_b
    double batch_mse;                           // sum of m_b
    int64_t batches;
} forecast_sums;

// One batch: its samples, its values, the sum of their squared errors, the other sums.
void forecast_add(forecast_sums *s, int64_t samples, double values, double squares, const double errors[3]);
void forecast_result(const forecast_sums *s, oht_eval_result *out);
