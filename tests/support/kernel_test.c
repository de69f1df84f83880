// Helpers for tests of kernels (kernel_test.h).
#include "kernel_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_test.h"
#include "oht/random.h"

enum { BLOCKS = 4096, GUARD = 64 };
static struct block {
    unsigned char *at;
    size_t bytes;
    bool guarded;
} block[BLOCKS];
static int blocks;
static oht_backend *backend;

static bool emulated(void) {
    return getenv("OHT_KERNELS_EMULATED") != NULL;
}

oht_backend *kt_backend(void) {
    if (!backend && emulated()) backend = dt_backend();
    if (!backend && oht_backend_create("cpu", 0, &backend) != OHT_OK) abort();
    return backend;
}

static void *take(size_t bytes, bool guarded) {
    size_t size = (bytes + GUARD + 63) / 64 * 64;
    void *at = NULL;
    if (emulated() ? kt_backend()->alloc(backend, &at, size, "a test") != OHT_OK : !(at = aligned_alloc(64, size))) abort();
    if (blocks == BLOCKS) abort();
    memset(at, 0, size);
    memset((unsigned char *)at + bytes, 0xA5, GUARD);
    block[blocks++] = (struct block){at, bytes, guarded};
    return at;
}

void kt_reset(void) {
    bool damaged = false;
    for (int i = 0; i < blocks; i++) {
        for (size_t j = 0; block[i].guarded && j < GUARD; j++)
            damaged |= block[i].at[block[i].bytes + j] != 0xA5;
        emulated() ? backend->free(backend, block[i].at) : free(block[i].at);
    }
    blocks = 0;
    if (!emulated()) oht_backend_destroy(backend);
    backend = NULL;
    if (!damaged) return;
    fprintf(stderr, "a kernel wrote behind the end of a tensor or of its scratch\n");
    abort();
}

static oht_tensor make(oht_dtype type, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    oht_tensor t = {.dtype = type, .dim = {d0, d1, d2, d3}};
    while (t.rank < 4 && t.dim[t.rank] > 0) t.rank++;
    t.data = take((size_t)oht_tensor_count(t) * oht_dtype_size(type), true);
    return t;
}

oht_tensor kt_zeros(int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    return make(OHT_F32, d0, d1, d2, d3);
}

oht_tensor kt_normal(uint32_t seed, float sigma, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    oht_tensor t = kt_zeros(d0, d1, d2, d3);
    for (int64_t i = 0; i < oht_tensor_count(t); i++) {
        philox4x32_ctr_t r = oht_random_block(77, OHT_DRAW_TEST, seed, 0, 0, (uint32_t)i);
        float radius = sqrtf(-2.0f * logf(oht_uniform_open(r.v[0])));
        oht_f32(t)[i] = sigma * radius * cosf(6.2831853f * oht_uniform(r.v[1]));
    }
    return t;
}

oht_tensor kt_ints(const int32_t *value, int64_t n) {
    oht_tensor t = make(OHT_I32, n, 0, 0, 0);
    memcpy(t.data, value, (size_t)n * 4);
    return t;
}

oht_tensor kt_bytes(const uint8_t *value, int64_t d0, int64_t d1) {
    oht_tensor t = make(OHT_U8, d0, d1, 0, 0);
    memcpy(t.data, value, (size_t)(d0 * d1));
    return t;
}

oht_tensor kt_copy(oht_tensor t) {
    oht_tensor c = make(t.dtype, t.rank > 0 ? t.dim[0] : 0, t.rank > 1 ? t.dim[1] : 0,
                        t.rank > 2 ? t.dim[2] : 0, t.rank > 3 ? t.dim[3] : 0);
    memcpy(c.data, t.data, (size_t)oht_tensor_count(t) * oht_dtype_size(t.dtype));
    return c;
}

oht_tensor kt_from(const double *value, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    oht_tensor t = kt_zeros(d0, d1, d2, d3);
    for (int64_t i = 0; i < oht_tensor_count(t); i++) oht_f32(t)[i] = (float)value[i];
    return t;
}

double *kt_doubles(size_t n) {
    return take(n * sizeof(double), true);
}

double *kt_double(oht_tensor t) {
    double *d = kt_doubles((size_t)oht_tensor_count(t));
    for (int64_t i = 0; i < oht_tensor_count(t); i++) d[i] = (double)oht_f32(t)[i];
    return d;
}

void *kt_scratch(size_t bytes) {
    unsigned char *at = take(bytes, true);
    memset(at, 0xff, bytes); // NaN in every format
    return at;
}

void kt_poison(oht_tensor t) {
    memset(t.data, 0xff, (size_t)oht_tensor_count(t) * oht_dtype_size(t.dtype));
}

double kt_error(oht_tensor a, const double *b) {
    double worst = 0.0, size = 1.0;
    for (int64_t i = 0; i < oht_tensor_count(a); i++) {
        double e = fabs((double)oht_f32(a)[i] - b[i]);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
        if (fabs(b[i]) > size) size = fabs(b[i]);
    }
    return worst / size;
}

bool kt_same_bits(oht_tensor a, oht_tensor b) {
    size_t n = (size_t)oht_tensor_count(a) * oht_dtype_size(a.dtype);
    return oht_tensor_count(a) == oht_tensor_count(b) && memcmp(a.data, b.data, n) == 0;
}

double kt_gradient_error(double *param, oht_tensor gradient, kt_loss loss, const void *problem, int64_t most,
                         double h) {
    int64_t n = oht_tensor_count(gradient),
            stride = n > most ? n / most | 1 : 1; // odd: meets every place of a head
    double worst = 0.0, size = 1.0;
    for (int64_t i = 0; i < n; i += stride) {
        double keep = param[i];
        param[i] = keep + h;
        double above = loss(problem);
        param[i] = keep - h;
        double below = loss(problem);
        param[i] = keep;
        double slope = (above - below) / (2.0 * h), e = fabs(slope - (double)oht_f32(gradient)[i]);
        if (fabs(slope) > size) size = fabs(slope);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
    }
    return worst / size;
}
