// Reading golden vectors (golden.h).
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"

static void give_up(const char *what, const char *name) {
    fprintf(stderr, "golden data: %s %s\n", what, name);
    abort();
}

json_t *golden_load(const char *name) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/tests/golden/%s.json", OHT_SOURCE_DIR, name);
    json_error_t error;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) {
        fprintf(stderr, "%s:%d: %s\n", path, error.line, error.text);
        give_up("cannot read", path);
    }
    return root;
}

const json_t *golden_get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!value) give_up("no key", key);
    return value;
}

const json_t *golden_at(const json_t *array, size_t i) {
    const json_t *value = json_array_get(array, i);
    if (!value) give_up("no such element", "of an array");
    return value;
}

static size_t count(const json_t *node) {
    if (!json_is_array(node)) return 1;
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(node); i++) n += count(json_array_get(node, i));
    return n;
}

static double scalar(const json_t *node) {
    if (json_is_null(node)) return NAN;
    if (json_is_boolean(node)) return json_is_true(node) ? 1.0 : 0.0;
    if (json_is_string(node)) return strtod(json_string_value(node), NULL);
    return json_number_value(node);
}

static double *flatten(const json_t *node, double *out) {
    if (!json_is_array(node)) {
        *out = scalar(node);
        return out + 1;
    }
    for (size_t i = 0; i < json_array_size(node); i++) out = flatten(json_array_get(node, i), out);
    return out;
}

double *golden_doubles(const json_t *node, const char *key, size_t *n) {
    const json_t *value = key ? golden_get(node, key) : node;
    size_t length = count(value);
    double *out = calloc(length ? length : 1, sizeof(*out));
    if (!out) give_up("no memory for", key ? key : "array");
    flatten(value, out);
    if (n) *n = length;
    return out;
}

float *golden_floats(const json_t *node, const char *key, size_t *n) {
    size_t length;
    double *wide = golden_doubles(node, key, &length);
    float *out = calloc(length ? length : 1, sizeof(*out));
    if (!out) give_up("no memory for", key ? key : "array");
    for (size_t i = 0; i < length; i++) out[i] = (float)wide[i];
    free(wide);
    if (n) *n = length;
    return out;
}

double golden_number(const json_t *object, const char *key) {
    return scalar(golden_get(object, key));
}

const char *golden_string(const json_t *object, const char *key) {
    const char *text = json_string_value(golden_get(object, key));
    if (!text) give_up("not a string:", key);
    return text;
}

void golden_fill(float *out, size_t n, int seed) {
    for (size_t i = 0; i < n; i++) out[i] = (float)(0.5 * sin(1.7 * (double)i + 0.3 * seed + 0.1));
}

void golden_near(const char *what, size_t at, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fmax(1.0, fabs(want))))
        fail_msg("%s of case %zu: %.9g, expected %.9g", what, at, got, want);
}
