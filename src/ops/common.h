// Small helpers of the operations.
#pragma once

#include "oht/graph.h"

// "(8,16,32)", for messages: oht_shape_text(x).text
typedef struct shape_text {
    char text[96];
} shape_text;
shape_text oht_shape_text(oht_tensor t);

bool oht_same_shape(oht_tensor a, oht_tensor b);
bool oht_is_vector(oht_tensor t, int64_t n); // (n), floating
size_t oht_tensor_bytes(oht_tensor t);

// A kernel has one add flag for the gradients of in[first .. first + n). Where they differ (one of them is
// tied), those that overwrite are zeroed first and all are added.
bool oht_adds_all(const oht_run *run, const oht_node *node, int first, int n);

// Lets the run's quantization hook see a matrix inside an operation; site -1: does nothing.
void oht_see_inside(oht_run *run, int site, oht_tensor x);

// y += x or y = x; y may be an fp32 gradient of a parameter where x is of a 16-bit type.
void oht_add_or_copy(const oht_run *run, oht_tensor y, oht_tensor x, bool add);
