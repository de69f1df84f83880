// Which kind of data a file holds: the attribute `format` decides who describes it.
#include <string.h>

#include "data/images/images.h"
#include "data/source.h"
#include "data/text_file.h"
#include "oht/series.h"

static const struct {
    const char *format;
    oht_status (*describe)(oht_data_info *out, const char *path);
} FORMATS[] = {
    {OHT_TEXT_FORMAT, text_describe},
    {OHT_IMAGES_FORMAT, image_describe},
    {OHT_SERIES_FORMAT, series_describe},
};

static const struct {
    const char *data, *model, *prepare;
} TASKS[] = {
    [OHT_TASK_CLM] = {"text for causal language modelling", "opt", "text"},
    [OHT_TASK_MLM] = {"text for masked language modelling", "bert", "text"},
    [OHT_TASK_IMAGES] = {"images", "vit", "images"},
    [OHT_TASK_SERIES] = {"time series", "stanhop", "series"},
};

const char *oht_split_name(oht_split split) {
    static const char *const NAMES[] = {"training", "validation", "test"};
    return NAMES[split];
}

const char *oht_task_data(oht_task task) {
    return TASKS[task].data;
}

const char *oht_task_model(oht_task task) {
    return TASKS[task].model;
}

const char *oht_task_prepare(oht_task task) {
    return TASKS[task].prepare;
}

static oht_status read_format(const char *path, char *out, size_t size) {
    oht_h5 *file;
    OHT_TRY(oht_h5_open(&file, path));
    oht_status status = OHT_OK;
    if (oht_h5_has(file, "/", "format")) status = oht_h5_get_text(file, "/", "format", out, size);
    oht_h5_close(file);
    return status;
}

oht_status oht_data_describe(oht_data_info *out, const char *path) {
    char format[32] = "(none)";
    memset(out, 0, sizeof(*out));
    OHT_TRY(read_format(path, format, sizeof(format)));
    for (size_t i = 0; i < sizeof(FORMATS) / sizeof(FORMATS[0]); i++)
        if (strcmp(format, FORMATS[i].format) == 0) return FORMATS[i].describe(out, path);
    OHT_FAIL(OHT_DATA,
             "%s: not a data file of ohtrain: attribute format is %s, expected " OHT_TEXT_FORMAT ", " OHT_IMAGES_FORMAT
             " or " OHT_SERIES_FORMAT "\nfix: prepare it with `ohtrain prepare text`, `images` or `series`",
             path, format);
}

oht_status oht_data_fit(oht_data_info *info, const oht_config *cfg) {
    return info->task == OHT_TASK_SERIES ? series_fit(info, cfg) : OHT_OK;
}
