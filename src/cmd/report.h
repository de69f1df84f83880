// The table that ohtrain report shows: report.c fills it, report_show.c prints it.
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "oht/config.h"

// Columns that are compared with the first run.
enum { OHT_REPORT_KURTOSIS, OHT_REPORT_INF_NORM, OHT_REPORT_PERPLEXITY, OHT_REPORT_METRICS };

// Where the largest activation was seen.
typedef struct oht_report_largest {
    char tap[64];
    double value;
    int64_t sample, token, channel; // sample: row of the validation split
} oht_report_largest;

typedef struct oht_report_run {
    const char *path;
    int path_bytes; // without trailing slashes
    oht_config cfg;
    char method[48]; // Table 1's name
    int64_t params, step, sequences;
    double metric[OHT_REPORT_METRICS];
    double loss, max_inf_norm, max_ffn_inf_norm, max_layer_inf_norm, max_kurtosis;
    oht_report_largest largest;
} oht_report_run;

typedef struct oht_report_failure {
    const char *path;
    char text[512];
} oht_report_failure;

typedef struct oht_report_table {
    oht_report_run *run;
    int n_runs, n_unfinished;
    oht_report_failure *failure;
    int n_failures;
} oht_report_table;

OHT_CHECKED oht_status oht_report_text(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_markdown(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_csv(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_json(const oht_report_table *t, FILE *out);
