// What the tests of outlier statistics show them: a graph that has only taps, and tensors passed to its observer as a run
// would.
#pragma once

#include <stdint.h>

#include "oht/outliers.h"

typedef struct tap_spec {
    const char *name;
    oht_tap_kind kind;
    int roles, layer;
} tap_spec;

oht_graph *taps_graph(oht_backend *be, const tap_spec *tap, int n, int64_t rows, int64_t tokens);
// Shows x (a,b,c), in host memory, to tap `index` of the graph.
void taps_show(oht_backend *be, oht_stats *s, const oht_graph *g, int index, float *x, int rank, int64_t a, int64_t b,
               int64_t c, int64_t sample0);
double taps_random(uint32_t i); // uniform in (-1, 1), the same for the same i
