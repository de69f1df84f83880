// Time series: from a CSV file to HDF5, and windows of it (spec stanhop 3.2). A file holds the raw values, the boundaries of
// its splits and the scaler of the training rows; a window is `input` rows and the `horizon` rows after them, standardised.
// Validation and test windows look back into the rows before their split.
#pragma once

#include <stdint.h>

#include "oht/dist.h"
#include "oht/status.h"

#define OHT_SERIES_FORMAT "ohtrain-series"
enum { OHT_SERIES_VERSION = 1 };

typedef enum oht_series_split { OHT_SERIES_TRAIN, OHT_SERIES_VALIDATION, OHT_SERIES_TEST, OHT_SERIES_SPLITS } oht_series_split;

// Rows of each split. scheme: etth (8640,2880,2880), ettm, wth, ecl; three numbers "8640,2880,2880", or three ratios
// "0.7,0.1,0.2" (first value at most 1; whole parts of train and test, the rest is validation's). CONFIG error for anything
// else or where rows do not suffice. Local.
OHT_CHECKED oht_status oht_series_split_rows(const char *scheme, int64_t rows, int64_t out[OHT_SERIES_SPLITS]);

typedef struct oht_prepare_series {
    const char *csv, *split, *out;
} oht_prepare_series;
// CSV with a header line, a date in the first column and numbers in all others. DATA errors name line and column. Rank 0
// works. Collective.
OHT_CHECKED oht_status oht_prepare_series_run(oht_comm *comm, const oht_prepare_series *opt);

typedef struct oht_series {
    int64_t rows, columns;
    int64_t split[OHT_SERIES_SPLITS]; // rows
    float *value;                     // (rows, columns), standardised
    double *mean, *std;               // (columns)
    char source_sha256[65];
} oht_series;
// Reads and checks a file. Local.
OHT_CHECKED oht_status oht_series_open(oht_series **out, const char *path);
void oht_series_close(oht_series *series);
// Windows of a split; 0 or less where it is too short.
int64_t oht_series_windows(const oht_series *series, oht_series_split split, int64_t input, int64_t horizon);
// First row of window k.
int64_t oht_series_window_row(const oht_series *series, oht_series_split split, int64_t input, int64_t k);
