// Parts of the HTML page: html.c puts it together, page_charts.c draws. Local.
#pragma once

#include "report/report.h"

const char *oht_page_colour(const oht_report_table *t, const oht_report_run *r);
bool oht_page_dashed(const oht_report_run *r); // methods without softmax_1
// All charts of the runs of one model.
OHT_CHECKED oht_status oht_page_charts(const oht_report_table *t, const oht_report_model *model, FILE *out);
