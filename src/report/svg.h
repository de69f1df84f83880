// Charts as inline SVG: lines, horizontal bars, heat maps. Everything is placed by arithmetic on character counts (11 px
// sans-serif, 6.4 px a character at most), so that labels keep clear of each other. Local; writes to a stream, cannot fail.
#pragma once

#include <stdbool.h>
#include <stdio.h>

typedef struct oht_svg_chart {
    const char *title, *x, *y; // x, y: axis labels with units
    double width, height; // of the whole picture; bars and heat maps find their own
    bool log; // of the value axis
    double lo, hi; // its range; lo >= hi: nothing to show
} oht_svg_chart;

typedef struct oht_svg_line {
    int n, stride; // y[i * stride]; a value that is not finite breaks the line
    const double *x;
    const float *y;
    const char *colour;
    bool dashed;
} oht_svg_line;

typedef struct oht_svg_bar {
    char label[96]; // left of it; empty = none
    bool gap; // some space before it
    const char *colour;
    double value, sd; // NAN: no bar, no whisker
    double mark; // a diamond, NAN = none
} oht_svg_bar;

typedef struct oht_svg_heat { // rows are layers
    int rows, columns;
    const double *value; // (rows, columns), NAN = empty
    const char *const *row, *const *column;
} oht_svg_heat;

// Widens [lo, hi] of a chart by a value that is finite (and positive where the axis is logarithmic).
void oht_svg_include(oht_svg_chart *c, double value);
// An empty range, to be widened.
void oht_svg_range(oht_svg_chart *c);
// Logarithmic if the range spans more than a factor of 20 and is positive, otherwise from 0 if `zero`; then some air.
void oht_svg_settle(oht_svg_chart *c, bool zero);

void oht_svg_lines(FILE *out, const oht_svg_chart *c, const oht_svg_line *line, int n);
void oht_svg_bars(FILE *out, const oht_svg_chart *c, const oht_svg_bar *bar, int n);
void oht_svg_heatmap(FILE *out, const oht_svg_chart *c, const oht_svg_heat *heat);
