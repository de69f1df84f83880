// An entry of the backend's table called on two sides, the CPU's and a device's (device_test.h), with the same numbers: pairs of
// tensors, RUN, comparison. For the one test program that goes through the whole table; it notes which entries were called.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_test.h"
#include "oht/plugin.h"

enum { CPU, GPU, MOST_ENTRIES = 128 };
static oht_backend *be[2];
static int side;
static bool called[MOST_ENTRIES];
static oht_dtype type; // of activations

typedef struct two { // one tensor on both sides
    oht_tensor cpu, gpu;
} two;

static oht_tensor of(two t) {
    return side == CPU ? t.cpu : t.gpu;
}

static void mark(size_t offset) {
    int n;
    const oht_backend_entry *entry = oht_backend_entries(&n);
    for (int i = 0; i < n; i++)
        if (entry[i].offset == offset) called[i] = true;
}

// The entry on both sides; tensors among the arguments through of().
#define RUN(entry, ...)                                                                                      \
    do {                                                                                                     \
        mark(offsetof(oht_backend, entry));                                                                  \
        for (side = CPU; side <= GPU; side++) be[side]->entry(be[side], __VA_ARGS__);                        \
    } while (0)

static two both(oht_tensor t, oht_dtype as) {
    dt_round(t, as);
    return (two){t, dt_up(t, as)};
}
static two normal(uint32_t seed, int64_t a, int64_t b, int64_t c, int64_t d) {
    return both(kt_normal(seed, 1.0f, a, b, c, d), type);
}
static two normal32(uint32_t seed, int64_t a, int64_t b, int64_t c, int64_t d) {
    return both(kt_normal(seed, 1.0f, a, b, c, d), OHT_F32);
}
static two integers(const int32_t *v, int64_t n) {
    return both(kt_ints(v, n), OHT_F32);
}
// For results: what `adds` adds to, or NaN.
static two target(uint32_t seed, bool adds, oht_dtype as, int64_t a, int64_t b, int64_t c, int64_t d) {
    oht_tensor t = kt_normal(seed, 1.0f, a, b, c, d);
    if (!adds) kt_poison(t);
    return both(t, as);
}
static const two NONE;

typedef struct two_sums { // a number in the memory of both
    double *at[2];
} two_sums;
static two_sums sums_from(double start) {
    two_sums s = {{kt_doubles(1), dt_scratch(sizeof(double))}};
    for (int i = CPU; i <= GPU; i++) be[i]->upload(be[i], s.at[i], &start, sizeof(start));
    return s;
}
static double sum_of(two_sums s, int where) {
    double sum;
    be[where]->download(be[where], &sum, s.at[where], sizeof(sum));
    return sum;
}

static double tolerance(void) {
    return type == OHT_F32 ? 1e-5 : type == OHT_F16 ? 3e-3 : 2e-2;
}
static void same_to(const char *what, two t, double most) {
    double e = dt_error(t.gpu, t.cpu, 1.0);
    if (!(e <= most)) fail_msg("%s: error %g > %g (storage type %d)", what, e, most, (int)type);
}
static void same(const char *what, two t) {
    same_to(what, t, tolerance());
}
static void near(const char *what, double a, double b, double most) {
    double size = fabs(b) > 1.0 ? fabs(b) : 1.0;
    if (!(fabs(a - b) <= most * size) && !(isnan(a) && isnan(b)))
        fail_msg("%s: %.9g, on the CPU %.9g", what, a, b);
}

static int start(void **state) {
    (void)state;
    be[CPU] = kt_backend();
    be[GPU] = dt_backend();
    return 0;
}
static int end(void **state) {
    (void)state;
    dt_reset();
    kt_reset();
    return 0;
}
#define NEEDS_DEVICE                                                                                         \
    (void)state;                                                                                             \
    if (!be[GPU]) skip()
#define EACH_TYPE                                                                                            \
    for (int each_ = 0; each_ < 3; each_++)                                                                  \
        if (type = (const oht_dtype[]){OHT_F32, OHT_BF16, OHT_F16}[each_], true)
