// Random graphs of toy operations, for tests of planner and runner that need no kernels. The operation is
// made up, but has everything that planning must get right: several inputs and outputs, values kept for
// backward or not, scratch, gradients that pass through unchanged, taps, tied parameters, recomputation
// blocks.
//
//   y[e] = 0.01 e + sum_i a_i x_i[e mod n_i]; a second output z[e] = y[e] - x_0[e mod n_0], a third of zeros
//   dx_i[k] = sum over e = k mod n_i of dy[e] (a_i + 0.125 sum over kept inputs and outputs v of v[e mod
//   n_v])
//
// Not a true derivative; the test computes the same formula on its own. Pass-through nodes have dx_0 = dy.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "graph/internal.h"

enum { TOY_PARAMS = 6, TOY_NODES = 64 };

typedef struct toy_attr {
    float a[OHT_NODE_IN];
} toy_attr;

typedef struct toy_options {
    uint64_t seed;
    int nodes;
    oht_mode mode;
    bool blocks; // recomputation blocks on
} toy_options;

// Host memory only; kernels absent.
void toy_backend(oht_backend *be);
// A parameter table with padding between the entries.
void toy_params(oht_params *params, oht_param item[TOY_PARAMS]);
// The same options give the same graph, but for blocks. Input: tokens, (2,3) i32.
oht_graph *toy_graph(oht_backend *be, const oht_params *params, toy_options opt, oht_value *loss);
extern const oht_op TOY_OP;
uint32_t toy_random(uint64_t *state);
