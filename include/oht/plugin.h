// Between the program and a backend that lives in a shared library (libohtrain_cuda.so): the library exports one symbol,
// oht_backend_v1, and is given the few services of the program that it needs. Both sides compare sizes first, so that a
// library of another build is refused.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/status.h"

enum { OHT_PLUGIN_VERSION = 1 };

// What the program lends. Stays valid while the backend lives.
typedef struct oht_plugin_host {
    size_t size; // of this struct
    oht_status (*error_set)(oht_status code, const char *file, int line, const char *format,
                            ...); // oht_error_set
    void (*log)(const char *format, ...); // oht_log
} oht_plugin_host;

typedef struct oht_plugin {
    size_t size; // of this struct
    uint32_t version;
    size_t table_size; // sizeof(oht_backend)
    // COMM when there is no device that can be used; the message says why. The table is freed by its destroy.
    oht_status (*create)(const oht_plugin_host *host, int local_rank, oht_backend **out);
} oht_plugin;

// What the library exports under the name "oht_backend_v1".
typedef const oht_plugin *(*oht_plugin_entry)(void);

// The entries of a backend's table: name and place, all of them (src/base/device.c).
typedef struct oht_backend_entry {
    const char *name;
    size_t offset; // in oht_backend
} oht_backend_entry;
const oht_backend_entry *oht_backend_entries(int *n);
