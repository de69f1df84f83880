// `ohtrain prepare series`: CSV to HDF5 (oht/series.h, spec stanhop 3.2).
//
//   /values (rows, columns) float32, raw; /timestamps (rows) int64, seconds since 1970; /columns (columns) strings
//   /mean, /std (columns) float64: of the training rows, population standard deviation; 1 for a constant column
//   attributes: format, format_version, train_rows, validation_rows, test_rows, source_sha256, split
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/series/csv.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/series.h"
#include "oht/signals.h"

enum { BLOCK_ROWS = 4096 };

static const struct {
    const char *name;
    int64_t rows[OHT_SERIES_SPLITS];
} SCHEMES[] = {
    {"etth", {8640, 2880, 2880}}, // 12, 4 and 4 months
    {"ettm", {34560, 11520, 11520}},
    {"wth", {20160, 7200, 7200}},
    {"ecl", {10800, 2160, 2880}},
};

static bool three_numbers(const char *text, double out[3]) {
    for (int i = 0; i < 3; i++) {
        char *end;
        errno = 0;
        out[i] = strtod(text, &end);
        if (end == text || errno || !isfinite(out[i]) || !(out[i] > 0.0)) return false;
        if (*end != (i < 2 ? ',' : '\0')) return false;
        text = end + 1;
    }
    return true;
}

oht_status oht_series_split_rows(const char *scheme, int64_t rows, int64_t out[OHT_SERIES_SPLITS]) {
    double number[3];
    bool named = false;
    for (size_t i = 0; i < sizeof(SCHEMES) / sizeof(SCHEMES[0]); i++)
        if (strcmp(scheme, SCHEMES[i].name) == 0) {
            memcpy(out, SCHEMES[i].rows, sizeof(SCHEMES[i].rows));
            named = true;
        }
    if (!named) {
        if (!three_numbers(scheme, number))
            OHT_FAIL(OHT_CONFIG, "--split: found \"%.60s\", expected etth, ettm, wth, ecl, three row counts as 8640,2880,2880 or three ratios as 0.7,0.1,0.2",
                     scheme);
        if (number[0] <= 1.0) {
            double sum = number[0] + number[1] + number[2];
            if (!(fabs(sum - 1.0) <= 1e-6)) OHT_FAIL(OHT_CONFIG, "--split: the ratios %s add up to %g, expected 1", scheme, sum);
            out[OHT_SERIES_TRAIN] = (int64_t)((double)rows * number[0]);
            out[OHT_SERIES_TEST] = (int64_t)((double)rows * number[2]);
            out[OHT_SERIES_VALIDATION] = rows - out[OHT_SERIES_TRAIN] - out[OHT_SERIES_TEST];
        } else {
            for (int i = 0; i < 3; i++) {
                if (number[i] != floor(number[i]) || number[i] > 1e15)
                    OHT_FAIL(OHT_CONFIG, "--split: %g is no number of rows", number[i]);
                out[i] = (int64_t)number[i];
            }
        }
    }
    int64_t sum = out[0] + out[1] + out[2];
    if (sum > rows || out[0] < 1 || out[1] < 1 || out[2] < 1)
        OHT_FAIL(OHT_CONFIG, "--split %s needs %lld + %lld + %lld rows, each at least 1; the file has %lld\nfix: another --split, as ratios 0.7,0.1,0.2",
                 scheme, (long long)out[0], (long long)out[1], (long long)out[2], (long long)rows);
    return OHT_OK;
}

// Population mean and standard deviation of each column over the first n rows, two passes.
static void scale(const csv_table *t, int64_t n, double *mean, double *std) {
    for (int64_t c = 0; c < t->columns; c++) {
        double sum = 0.0, square = 0.0;
        for (int64_t r = 0; r < n; r++) sum += t->value[r * t->columns + c];
        mean[c] = sum / (double)n;
        for (int64_t r = 0; r < n; r++) {
            double e = t->value[r * t->columns + c] - mean[c];
            square += e * e;
        }
        std[c] = sqrt(square / (double)n);
        if (std[c] > 1e-12 * fabs(mean[c])) continue;
        oht_warn("column %s is constant in the training rows: it is not scaled", t->name[c]);
        std[c] = 1.0;
    }
}

static oht_status write_vector(oht_h5 *file, const char *name, oht_h5_type type, int64_t n, const void *data) {
    oht_h5_shape shape = {.type = type, .rank = 1, .dim = {n}};
    OHT_TRY(oht_h5_make(file, name, &shape, false, true));
    return oht_h5_write(file, name, 0, n, type, data);
}

static oht_status write_file(oht_h5 *file, const oht_prepare_series *opt, const csv_table *t, const int64_t split[3], const double *mean,
                             const double *std, float *block) {
    oht_h5_shape shape = {.type = OHT_H5_F32, .rank = 2, .dim = {t->rows, t->columns}};
    OHT_TRY(oht_h5_make(file, "/values", &shape, false, true));
    for (int64_t first = 0; first < t->rows; first += BLOCK_ROWS) {
        int64_t n = t->rows - first < BLOCK_ROWS ? t->rows - first : BLOCK_ROWS;
        for (int64_t i = 0; i < n * t->columns; i++) block[i] = (float)t->value[first * t->columns + i];
        OHT_TRY(oht_h5_write(file, "/values", first, n, OHT_H5_F32, block));
        OHT_TRY(oht_signals_check());
    }
    OHT_TRY(write_vector(file, "/timestamps", OHT_H5_I64, t->rows, t->time));
    OHT_TRY(oht_h5_write_strings(file, "/columns", (const char *const *)t->name, t->columns));
    OHT_TRY(write_vector(file, "/mean", OHT_H5_F64, t->columns, mean));
    OHT_TRY(write_vector(file, "/std", OHT_H5_F64, t->columns, std));
    OHT_TRY(oht_h5_set_text(file, "/", "format", OHT_SERIES_FORMAT));
    OHT_TRY(oht_h5_set_int(file, "/", "format_version", OHT_SERIES_VERSION));
    OHT_TRY(oht_h5_set_int(file, "/", "train_rows", split[0]));
    OHT_TRY(oht_h5_set_int(file, "/", "validation_rows", split[1]));
    OHT_TRY(oht_h5_set_int(file, "/", "test_rows", split[2]));
    OHT_TRY(oht_h5_set_text(file, "/", "split", opt->split));
    return oht_h5_set_text(file, "/", "source_sha256", t->sha256);
}

static oht_status keep_input(const oht_prepare_series *opt) {
    struct stat in, out;
    if (stat(opt->out, &out) == 0 && stat(opt->csv, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
        OHT_FAIL(OHT_CONFIG, "-o %s: this is the input, it would be overwritten\nfix: another name after -o", opt->out);
    return OHT_OK;
}

static oht_status convert(const oht_prepare_series *opt, csv_table *t, double **scaler, float **block) {
    int64_t irregular, split[OHT_SERIES_SPLITS];
    OHT_TRY(keep_input(opt));
    OHT_TRY(csv_read(t, opt->csv, &irregular));
    if (irregular > 0)
        oht_warn("%s: %lld of %lld steps in time differ from the first one; rows are taken as equally spaced", opt->csv,
                 (long long)irregular, (long long)t->rows - 1);
    OHT_TRY(oht_series_split_rows(opt->split, t->rows, split));
    OHT_TRY(OHT_ALLOC(scaler, 2 * (size_t)t->columns, "scaler"));
    OHT_TRY(OHT_ALLOC(block, (size_t)(BLOCK_ROWS * t->columns), "rows to write"));
    scale(t, split[OHT_SERIES_TRAIN], *scaler, *scaler + t->columns);
    oht_h5 *file;
    OHT_TRY(oht_h5_create(&file, opt->out));
    oht_status status = write_file(file, opt, t, split, *scaler, *scaler + t->columns, *block);
    if (status != OHT_OK) {
        oht_h5_close(file);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    OHT_TRY(oht_h5_commit(file));
    oht_log("%s: %lld rows of %lld series; %lld for training, %lld for validation, %lld for the test", opt->out, (long long)t->rows,
            (long long)t->columns, (long long)split[0], (long long)split[1], (long long)split[2]);
    return OHT_OK;
}

oht_status oht_prepare_series_run(oht_comm *comm, const oht_prepare_series *opt) {
    oht_status status = OHT_OK;
    if (oht_comm_rank(comm) == 0) {
        csv_table table = {0};
        double *scaler = NULL;
        float *block = NULL;
        oht_h5_silence();
        status = convert(opt, &table, &scaler, &block);
        csv_free(&table);
        oht_free(scaler);
        oht_free(block);
    }
    return oht_agree(comm, status);
}
