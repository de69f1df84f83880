// A table of short cells that prints as aligned text, Markdown or HTML. Local.
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "oht/status.h"
#include "report/report.h"

enum { OHT_GRID_CELL = 128, OHT_GRID_COLUMNS = 8 };

typedef struct oht_grid {
    const char *title[OHT_GRID_COLUMNS];
    int columns, left; // the first `left` columns are words, the others numbers
    char (*cell)[OHT_GRID_CELL];
    size_t n, capacity; // cells
} oht_grid;

// Appends one cell; a row is full after `columns` of them. Control characters become '?'.
OHT_CHECKED oht_status oht_grid_add(oht_grid *g, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void oht_grid_print(const oht_grid *g, oht_report_form form, FILE *out);
void oht_grid_free(oht_grid *g);

// Text as HTML: markup escaped, ill-formed UTF-8 and control characters replaced.
void oht_html_text(FILE *out, const char *text);
