// A CSV file of time series in memory: header, dates as seconds since 1970, numbers.
#pragma once

#include <stdint.h>

#include "oht/status.h"

typedef struct csv_table {
    int64_t rows, columns; // without the date
    char **name;           // (columns)
    int64_t *time;         // (rows)
    double *value;         // (rows, columns)
    char sha256[65];       // of the file
} csv_table;

// DATA errors name file, line, column, what was found. Dates ascend; a step that differs from the first one is counted.
OHT_CHECKED oht_status csv_read(csv_table *out, const char *path, int64_t *irregular);
void csv_free(csv_table *table);
