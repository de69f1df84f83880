// A report for programs: what its CSV (RFC 4180) and its JSON are written with.
#pragma once

#include <stdio.h>

#include "base/json.h"
#include "report/report.h"

// A field of n bytes, quoted where it must be, and a comma.
void report_csv_text(FILE *out, const char *text, int n);
void report_csv_number(FILE *out, double value, const char *end); // NAN is an empty field

json_t *report_json_text(const char *text, int n); // a path may hold any bytes, JSON only UTF-8: else null
// Adds the failures to root, writes it, frees it.
OHT_CHECKED oht_status report_json_end(json_t *root, const oht_report_table *t, FILE *out);
