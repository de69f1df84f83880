// Time series as a data source (spec stanhop 3.2): sample k of a split is the window of model.input rows from its k-th row on,
// and its targets are the model.horizon rows after them, all standardised. Training visits the windows in a random order
// of the whole split; validation and test go in order of time.
#include <string.h>

#include "data/source.h"
#include "oht/memory.h"
#include "oht/series.h"

typedef struct series_source {
    data_source pub; // first member: a data_source is a series_source
    oht_series *series;
    oht_series_split split;
    int64_t input, horizon;
} series_source;

static oht_status sample(data_source *source, const source_place *p) {
    series_source *s = (series_source *)source;
    int64_t M = s->series->columns, row = oht_series_window_row(s->series, s->split, s->input, p->id);
    const float *x = s->series->value + row * M, *y = x + s->input * M;
    size_t bytes[2] = {s->pub.bytes[OHT_FIELD_SERIES], s->pub.bytes[OHT_FIELD_TARGETS]};
    memcpy((unsigned char *)p->field[OHT_FIELD_SERIES] + (size_t)p->local * bytes[0], x, bytes[0]);
    memcpy((unsigned char *)p->field[OHT_FIELD_TARGETS] + (size_t)p->local * bytes[1], y, bytes[1]);
    return OHT_OK;
}

static void close_source(data_source *source) {
    series_source *s = (series_source *)source;
    oht_series_close(s->series);
    oht_free(s);
}

static oht_data_info info_of(const oht_series *series) {
    oht_data_info info = {.task = OHT_TASK_SERIES, .series = series->columns, .origin = "series"};
    memcpy(info.steps, series->split, sizeof(info.steps));
    memcpy(info.source_sha256, series->source_sha256, sizeof(info.source_sha256));
    return info;
}

oht_status series_fit(oht_data_info *info, const oht_config *cfg) {
    const oht_model_config *m = &cfg->model;
    if (info->series != m->series)
        OHT_FAIL(OHT_DATA, "%s has %lld series, but model.series = %lld\nfix: model.series=%lld", cfg->data.path,
                 (long long)info->series, (long long)m->series, (long long)info->series);
    oht_series lengths = {0};
    memcpy(lengths.split, info->steps, sizeof(lengths.split));
    for (int i = 0; i < OHT_SPLITS; i++) {
        info->rows[i] = oht_series_windows(&lengths, (oht_series_split)i, m->input, m->horizon);
        if (info->rows[i] < 1)
            OHT_FAIL(OHT_DATA,
                     "%s: its %s split of %lld rows%s is too short for windows of model.input = %lld and model.horizon = %lld "
                     "rows\nfix: a shorter model.input or model.horizon, or prepare the series with another --split",
                     cfg->data.path, oht_split_name((oht_split)i), (long long)info->steps[i],
                     i == OHT_SPLIT_TRAIN ? "" : ", with the training rows before it,", (long long)m->input,
                     (long long)m->horizon);
    }
    return OHT_OK;
}

static oht_status open_series(series_source *s, const char *path, const oht_loader_config *cfg) {
    OHT_TRY(oht_series_open(&s->series, path));
    oht_data_info info = info_of(s->series);
    OHT_TRY(series_fit(&info, cfg->config));
    size_t row = (size_t)s->series->columns * sizeof(float);
    s->split = (oht_series_split)cfg->split;
    s->input = cfg->config->model.input;
    s->horizon = cfg->config->model.horizon;
    memcpy(s->pub.rows, info.rows, sizeof(s->pub.rows));
    s->pub.labels = s->horizon * s->series->columns;
    s->pub.bytes[OHT_FIELD_SERIES] = (size_t)s->input * row;
    s->pub.bytes[OHT_FIELD_TARGETS] = (size_t)s->horizon * row;
    return OHT_OK;
}

oht_status series_source_open(data_source **out, const char *path, const oht_loader_config *cfg) {
    *out = NULL;
    series_source *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "source of time series"));
    s->pub = (data_source){.depth = OHT_SOURCE_DEPTH,
                           .any_order = true,
                           .max_micro_batch = INT32_MAX,
                           .sample = sample,
                           .close = close_source};
    oht_status status = open_series(s, path, cfg);
    if (status != OHT_OK) {
        close_source(&s->pub);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = &s->pub;
    return OHT_OK;
}

oht_status series_describe(oht_data_info *out, const char *path) {
    oht_series *series;
    OHT_TRY(oht_series_open(&series, path));
    *out = info_of(series);
    oht_series_close(series);
    return OHT_OK;
}
