// Golden vectors: tests/golden/NAME.json (made in float64 from the formulas of the papers), read with
// jansson. A missing file or key ends the test program with a message: golden data is part of the source
// tree.
#pragma once

#include <stddef.h>

#include <jansson.h>

// tests/golden/NAME.json; freed with json_decref.
json_t *golden_load(const char *name);
// Member `key` of an object; element i of an array.
const json_t *golden_get(const json_t *object, const char *key);
const json_t *golden_at(const json_t *array, size_t i);
// Numbers of an array flattened in C order, nested arrays included: null is NaN, "inf" and "-inf" are
// infinite, true and false are 1 and 0. Freed with free. key NULL: `node` itself is the array. *n may be
// NULL.
double *golden_doubles(const json_t *node, const char *key, size_t *n);
float *golden_floats(const json_t *node, const char *key, size_t *n);
double golden_number(const json_t *object, const char *key);
const char *golden_string(const json_t *object, const char *key);

// The fill that several groups name: out[i] = 0.5 sin(1.7 i + 0.3 seed + 0.1).
void golden_fill(float *out, size_t n, int seed);

// Fails unless |got - want| <= tolerance max(1, |want|), and says what and of which case.
void golden_near(const char *what, size_t at, double got, double want, double tolerance);
