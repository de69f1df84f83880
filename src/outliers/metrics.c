// The names of what an evaluation measures: files, reports and log lines list them from here.
#include "oht/outliers.h"

int oht_eval_metrics(const oht_eval_result *r, oht_metric out[OHT_METRICS]) {
    int n = 0;
    out[n++] = (oht_metric){"loss", r->loss};
    switch (r->task) {
    case OHT_TASK_CLM:
    case OHT_TASK_MLM:
        out[n++] = (oht_metric){"perplexity", r->perplexity};
        break;
    case OHT_TASK_SERIES:
        out[n++] = (oht_metric){"mse", r->mse};
        out[n++] = (oht_metric){"mae", r->mae};
        out[n++] = (oht_metric){"rmse", r->rmse};
        out[n++] = (oht_metric){"mape", r->mape};
        out[n++] = (oht_metric){"mspe", r->mspe};
        out[n++] = (oht_metric){"rmse_pooled", r->rmse_pooled};
        out[n++] = (oht_metric){"mse_batches", r->mse_batches};
        break;
    case OHT_TASK_IMAGES:
        out[n++] = (oht_metric){"top1", r->top1};
        out[n++] = (oht_metric){"top5", r->top5};
        break;
    }
    out[n++] = (oht_metric){"max_inf_norm", r->outliers.max_inf_norm};
    out[n++] = (oht_metric){"max_ffn_inf_norm", r->outliers.max_ffn_inf_norm};
    out[n++] = (oht_metric){"max_layer_inf_norm", r->outliers.max_layer_inf_norm};
    out[n++] = (oht_metric){"avg_kurtosis", r->outliers.avg_kurtosis};
    out[n++] = (oht_metric){"max_kurtosis", r->outliers.max_kurtosis};
    if (r->task == OHT_TASK_SERIES) { // those above are of all tensors the published code hooks; these tell them apart
        out[n++] = (oht_metric){"modules", (double)r->outliers.modules};
        out[n++] = (oht_metric){"activation_kurtosis", r->outliers.activation_kurtosis};
        out[n++] = (oht_metric){"max_kurtosis_layers", r->outliers.max_kurtosis_layers};
        out[n++] = (oht_metric){"clean_kurtosis", r->outliers.clean_kurtosis};
        out[n++] = (oht_metric){"clean_max_inf_norm", r->outliers.clean_max_inf_norm};
    }
    if (r->outliers.all_modules > 0) {
        out[n++] = (oht_metric){"all_modules_kurtosis", r->outliers.all_avg_kurtosis};
        out[n++] = (oht_metric){"all_modules_max_kurtosis", r->outliers.all_max_kurtosis};
        out[n++] = (oht_metric){"all_modules_ffn_inf_norm", r->outliers.all_ffn_inf_norm};
    }
    return n;
}

double oht_eval_criterion(const oht_eval_result *r) {
    return r->task == OHT_TASK_SERIES ? r->mse_batches : r->loss;
}
