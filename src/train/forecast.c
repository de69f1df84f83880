// Adding up errors of forecasts (forecast.h). All samples have as many values, so sum_b n_b m_b / sum_b n_b of a mean m_b over
// the batch is the mean over everything, and is computed so; of the root mean square it is not: by the root's concavity it is
// at most the root of the mean.
#include "train/forecast.h"

#include <math.h>

void forecast_add(forecast_sums *s, int64_t samples, double values, double squares, const double errors[3]) {
    double n = (double)samples, mse = squares / values;
    s->samples += n;
    s->values += values;
    s->squares += squares;
    for (int i = 0; i < 3; i++) s->errors[i] += errors[i];
    s->mse += n * mse;
    s->rmse += n * sqrt(mse);
    s->batch_mse += mse;
    s->batches++;
}

void forecast_result(const forecast_sums *s, oht_eval_result *out) {
    out->mse = s->mse / s->samples;
    out->mae = s->errors[0] / s->values;
    out->mape = s->errors[1] / s->values;
    out->mspe = s->errors[2] / s->values;
    out->rmse = s->rmse / s->samples;
    out->rmse_pooled = sqrt(s->squares / s->values);
    out->mse_batches = s->batch_mse / (double)s->batches;
}
