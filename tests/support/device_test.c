// Helpers for tests of devices (device_test.h).
#include "device_test.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/plugin.h"

enum { MOST = 4096 };
static oht_backend *device;
static void *block[MOST];
static int blocks;

oht_backend *dt_backend(void) {
    static const oht_plugin_host host = {sizeof(oht_plugin_host), oht_error_set, oht_log};
    const char *path = getenv("OHT_TEST_GPU") ? getenv("OHT_CUDA_PLUGIN") : getenv("OHT_EMULATED");
    if (device || !path) return device;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    oht_plugin_entry entry = NULL;
    if (library) {
        void *symbol = dlsym(library, "oht_backend_v1");
        memcpy(&entry, &symbol, sizeof(entry));
    }
    oht_status status = entry ? entry()->create(&host, 0, &device) : OHT_INTERNAL;
    if (status == OHT_OK) return device;
    fprintf(stderr, "%s: %s\n", path, entry ? oht_error_last()->text : dlerror());
    if (status != OHT_COMM || !getenv("OHT_TEST_GPU")) abort();
    return NULL; // no GPU
}

static void *take(size_t bytes) {
    void *p = NULL;
    if (blocks == MOST || device->alloc(device, &p, bytes, "a test") != OHT_OK) abort();
    unsigned char *nan = malloc(bytes + 1);
    if (!nan) abort();
    memset(nan, 0xff, bytes);
    device->upload(device, p, nan, bytes);
    free(nan);
    return block[blocks++] = p;
}

void dt_reset(void) {
    for (int i = 0; i < blocks; i++) device->free(device, block[i]);
    blocks = 0;
}

void *dt_scratch(size_t bytes) {
    return take(bytes);
}

void dt_sync(void) {
    if (device->sync(device) == OHT_OK) return;
    fprintf(stderr, "%s\n", oht_error_last()->text);
    abort();
}

__extension__ typedef _Float16 float16;

static uint16_t to_16(float x, oht_dtype type) {
    uint32_t u;
    uint16_t h;
    if (type == OHT_F16) {
        float16 f = (float16)x;
        memcpy(&h, &f, sizeof(h));
        return h;
    }
    memcpy(&u, &x, sizeof(u));
    return isnan(x) ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_16(uint16_t h, oht_dtype type) {
    if (type == OHT_F16) {
        float16 f;
        memcpy(&f, &h, sizeof(h));
        return (float)f;
    }
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static bool is_16(oht_dtype type) {
    return type == OHT_BF16 || type == OHT_F16;
}

oht_tensor dt_round(oht_tensor t, oht_dtype type) {
    for (int64_t i = 0; is_16(type) && i < oht_tensor_count(t); i++) oht_f32(t)[i] = from_16(to_16(oht_f32(t)[i], type), type);
    return t;
}

oht_tensor dt_like(oht_tensor t, oht_dtype type) {
    if (t.dtype == OHT_F32) t.dtype = type;
    t.data = take((size_t)oht_tensor_count(t) * oht_dtype_size(t.dtype));
    return t;
}

oht_tensor dt_up(oht_tensor t, oht_dtype type) {
    if (!t.data) return t;
    oht_tensor to = dt_like(t, type);
    size_t n = (size_t)oht_tensor_count(t);
    if (!is_16(to.dtype)) {
        device->upload(device, to.data, t.data, n * oht_dtype_size(t.dtype));
        return to;
    }
    uint16_t *h = malloc(n * sizeof(*h) + 1);
    if (!h) abort();
    for (size_t i = 0; i < n; i++) h[i] = to_16(oht_f32(t)[i], type);
    device->upload(device, to.data, h, n * sizeof(*h));
    free(h);
    return to;
}

double dt_error(oht_tensor from, oht_tensor host, double floor) {
    size_t n = (size_t)oht_tensor_count(from), size = oht_dtype_size(from.dtype);
    char *copy = malloc(n * size + 1);
    if (!copy) abort();
    dt_sync();
    device->download(device, copy, from.data, n * size);
    double error = 0.0, largest = floor;
    for (size_t i = 0; i < n; i++) {
        float a, b = oht_f32(host)[i];
        uint16_t h;
        if (size == 2)
            memcpy(&h, copy + 2 * i, 2), a = from_16(h, from.dtype);
        else
            memcpy(&a, copy + 4 * i, 4);
        largest = fmax(largest, fabs((double)b));
        if (isnan(a) && isnan(b)) continue;
        double e = fabs((double)a - (double)b);
        if (!(e <= error)) error = isnan(e) ? INFINITY : e;
    }
    free(copy);
    return error / largest;
}
