// Graphs that run: what the tests of operations need beside the operation. Two operations of their own, memory, parameters
// and inputs made up; and a small transformer with all that a model has: rows below capacity, recomputation, dropout, tied
// weights, taps.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "graph/internal.h"

enum { B = 2, T = 3, C = 8, H = 2, D = C / H, V = 7, PICKED = 4 };

extern oht_backend *net_backend; // the CPU's
int net_create_backend(void **state); // group fixtures
int net_destroy_backend(void **state);

// ---- two operations ----

// A parameter (B,...) as an activation with batch rows.
oht_value net_source(oht_graph *g, oht_value p, oht_rows rows);
// loss = sum of c v over all elements of all inputs, c from -1 to 1.
oht_value net_weigh(oht_graph *g, const oht_value *v, int n);

// ---- a graph with all that it takes to run ----

typedef struct net {
    oht_params *params;
    oht_graph *g;
    oht_run *run;
    float *param, *grad;
    void *arena;
    oht_value loss;
} net;

void net_param(oht_params *t, int rank, const int64_t *dim); // named p0, p1, ...
oht_value net_input(oht_graph *g, oht_field field);
// After recording: plan, memory, parameters (the same for every graph with the same table).
void net_start(net *n);
// Rows `first` to `first + rows` of the four that there are.
void net_feed(net *n, int64_t first, int64_t rows);
void net_stop(net *n);

// ---- a small transformer ----

enum { F = 12, TABLE = 0, POSITION, BLOCKS, PER_BLOCK = 13, L = 3 };

typedef struct small_options {
    oht_mode mode;
    int64_t rows;
    bool recompute, picked, inner;
    float p;
} small_options;

// Recorded and started.
void small_net(net *n, const small_options *opt);
// Forward and backward of rows `first` to `first + rows`, added to the gradients or not. Returns the sum of losses.
double small_step(net *n, int64_t first, int64_t rows, bool add);
