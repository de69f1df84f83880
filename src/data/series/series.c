// The file of time series and its windows (oht/series.h). The table is small (ETTh1: half a MiB), so it is read whole and
// standardised once: z = (v - mean) / std in double, kept as float.
#include "oht/series.h"

#include <math.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/memory.h"

#define PREPARE_AGAIN "\nfix: prepare the file again with `ohtrain prepare series`"
enum { READ_ROWS = 4096 };

static oht_status read_attributes(oht_h5 *file, oht_series *s) {
    static const char *const NAME[] = {"train_rows", "validation_rows", "test_rows"};
    const char *path = oht_h5_path(file);
    char format[32] = "(none)";
    int64_t version, sum = 0;
    if (oht_h5_has(file, "/", "format")) OHT_TRY(oht_h5_get_text(file, "/", "format", format, sizeof(format)));
    if (strcmp(format, OHT_SERIES_FORMAT) != 0)
        OHT_FAIL(OHT_DATA, "%s: no file of time series: attribute format is %s, expected " OHT_SERIES_FORMAT PREPARE_AGAIN, path, format);
    OHT_TRY(oht_h5_get_int(file, "/", "format_version", &version));
    if (version != OHT_SERIES_VERSION)
        OHT_FAIL(OHT_DATA, "%s: format_version is %lld, this program reads %d" PREPARE_AGAIN, path, (long long)version, OHT_SERIES_VERSION);
    for (int i = 0; i < OHT_SERIES_SPLITS; i++) {
        OHT_TRY(oht_h5_get_int(file, "/", NAME[i], &s->split[i]));
        if (s->split[i] < 1 || s->split[i] > s->rows - sum)
            OHT_FAIL(OHT_DATA, "%s: attribute %s is %lld, but /values has %lld rows in all" PREPARE_AGAIN, path, NAME[i],
                     (long long)s->split[i], (long long)s->rows);
        sum += s->split[i];
    }
    return oht_h5_get_text(file, "/", "source_sha256", s->source_sha256, sizeof(s->source_sha256));
}

static oht_status read_scaler(oht_h5 *file, const char *name, int64_t columns, double **out) {
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, name, 1, OHT_H5_F64, &shape));
    if (shape.dim[0] != columns)
        OHT_FAIL(OHT_DATA, "%s: %s has %lld values, /values has %lld columns" PREPARE_AGAIN, oht_h5_path(file), name,
                 (long long)shape.dim[0], (long long)columns);
    OHT_TRY(OHT_ALLOC(out, (size_t)columns, "scaler"));
    return oht_h5_read(file, name, 0, columns, OHT_H5_F64, *out);
}

static oht_status standardise(oht_series *s, const char *path) {
    for (int64_t c = 0; c < s->columns; c++)
        if (!isfinite(s->mean[c]) || !isfinite(s->std[c]) || !(s->std[c] > 0.0))
            OHT_FAIL(OHT_DATA, "%s: the scaler of column %lld is %g, %g" PREPARE_AGAIN, path, (long long)c, s->mean[c], s->std[c]);
    for (int64_t i = 0; i < s->rows * s->columns; i++) {
        int64_t c = i % s->columns;
        s->value[i] = (float)(((double)s->value[i] - s->mean[c]) / s->std[c]);
        if (!isfinite(s->value[i]))
            OHT_FAIL(OHT_DATA, "%s: /values is not finite in row %lld, column %lld" PREPARE_AGAIN, path, (long long)(i / s->columns),
                     (long long)c);
    }
    return OHT_OK;
}

static oht_status read_all(oht_h5 *file, oht_series *s) {
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, "/values", 2, OHT_H5_F32, &shape));
    s->rows = shape.dim[0];
    s->columns = shape.dim[1];
    if (s->rows < 1 || s->columns < 1) OHT_FAIL(OHT_DATA, "%s: /values is empty" PREPARE_AGAIN, oht_h5_path(file));
    OHT_TRY(read_attributes(file, s));
    OHT_TRY(read_scaler(file, "/mean", s->columns, &s->mean));
    OHT_TRY(read_scaler(file, "/std", s->columns, &s->std));
    size_t count;
    if (__builtin_mul_overflow((size_t)s->rows, (size_t)s->columns, &count)) count = SIZE_MAX; // oht_alloc refuses it
    OHT_TRY(OHT_ALLOC(&s->value, count, "time series"));
    for (int64_t first = 0; first < s->rows; first += READ_ROWS) {
        int64_t n = s->rows - first < READ_ROWS ? s->rows - first : READ_ROWS;
        OHT_TRY(oht_h5_read(file, "/values", first, n, OHT_H5_F32, s->value + first * s->columns));
    }
    return standardise(s, oht_h5_path(file));
}

oht_status oht_series_open(oht_series **out, const char *path) {
    *out = NULL;
    oht_series *s;
    oht_h5 *file = NULL;
    OHT_TRY(OHT_ALLOC(&s, 1, "time series"));
    oht_status status = oht_h5_open(&file, path);
    if (status == OHT_OK) status = read_all(file, s);
    oht_h5_close(file);
    if (status != OHT_OK) {
        oht_series_close(s);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = s;
    return OHT_OK;
}

void oht_series_close(oht_series *s) {
    if (!s) return;
    oht_free(s->value);
    oht_free(s->mean);
    oht_free(s->std);
    oht_free(s);
}

int64_t oht_series_windows(const oht_series *s, oht_series_split split, int64_t input, int64_t horizon) {
    if (split == OHT_SERIES_TRAIN) return s->split[split] - input - horizon + 1;
    return s->split[OHT_SERIES_TRAIN] < input ? 0 : s->split[split] - horizon + 1; // the look-back is borrowed
}

int64_t oht_series_window_row(const oht_series *s, oht_series_split split, int64_t input, int64_t k) {
    int64_t start = 0;
    for (int i = 0; i < (int)split; i++) start += s->split[i];
    return split == OHT_SERIES_TRAIN ? k : start - input + k;
}
