// Which backend runs: the CPU's, or the one in the plugin libohtrain_cuda.so, found beside the program, in ../lib of it,
// where the loader looks, or where OHT_CUDA_PLUGIN says. The program itself needs no CUDA library. A plugin stays loaded
// until the process ends.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/backend.h"
#include "oht/log.h"
#include "oht/plugin.h"

#define ENTRY(name)                                                                                          \
    { #name, offsetof(oht_backend, name) }
static const oht_backend_entry entry[] = {
    ENTRY(destroy),
    ENTRY(alloc),
    ENTRY(free),
    ENTRY(upload),
    ENTRY(download),
    ENTRY(zero),
    ENTRY(copy),
    ENTRY(cast),
    ENTRY(sync),
    ENTRY(linear_fwd),
    ENTRY(linear_bwd),
    ENTRY(layernorm_fwd),
    ENTRY(layernorm_bwd_scratch),
    ENTRY(layernorm_bwd),
    ENTRY(attention_fwd_scratch),
    ENTRY(attention_fwd),
    ENTRY(attention_bwd_scratch),
    ENTRY(attention_bwd),
    ENTRY(hopfield_scratch),
    ENTRY(hopfield_fwd),
    ENTRY(hopfield_bwd),
    ENTRY(settle_fwd),
    ENTRY(settle_bwd),
    ENTRY(mix_heads),
    ENTRY(swap_axes),
    ENTRY(segment),
    ENTRY(unsegment_fwd),
    ENTRY(unsegment_bwd),
    ENTRY(merge_fwd),
    ENTRY(merge_bwd),
    ENTRY(squared_error),
    ENTRY(forecast_errors),
    ENTRY(gate_scratch),
    ENTRY(gate_fwd),
    ENTRY(gate_bwd),
    ENTRY(embedding_fwd),
    ENTRY(embedding_bwd),
    ENTRY(add_rows_fwd),
    ENTRY(add_rows_bwd),
    ENTRY(gather_fwd),
    ENTRY(gather_bwd),
    ENTRY(dropout_add),
    ENTRY(dropout_bwd),
    ENTRY(add),
    ENTRY(cross_entropy),
    ENTRY(soft_cross_entropy),
    ENTRY(top_hits),
    ENTRY(patches),
    ENTRY(adamw),
    ENTRY(sumsq),
    ENTRY(moments),
    ENTRY(null_mass),
    ENTRY(gate_mean),
    ENTRY(minmax),
    ENTRY(fake_quantize),
    ENTRY(quant_error),
    ENTRY(peak),
};
enum { ENTRIES = sizeof(entry) / sizeof(entry[0]) };
_Static_assert(ENTRIES == (sizeof(oht_backend) - offsetof(oht_backend, destroy)) / sizeof(void (*)(void)),
               "every entry of the table stands in the list");

const oht_backend_entry *oht_backend_entries(int *n) {
    *n = ENTRIES;
    return entry;
}

static const oht_plugin_host host = {sizeof(oht_plugin_host), oht_error_set, oht_log};

// NULL: `why` says why not.
static void *open_library(char *why, size_t size) {
    static const char library[] = "libohtrain_cuda.so";
    const char *asked = getenv("OHT_CUDA_PLUGIN");
    char program[3072], path[4096];
    snprintf(why, size, "no library %s", library);
    if (asked && asked[0]) {
        void *handle = dlopen(asked, RTLD_NOW | RTLD_LOCAL);
        if (!handle) snprintf(why, size, "%s", dlerror());
        return handle;
    }
    // Without a driver the plugin has nothing to say, and half a gigabyte of libraries need not be mapped.
    if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
        snprintf(why, size, "no NVIDIA driver: %s", dlerror());
        return NULL;
    }
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    for (int i = 0; slash && i < 2; i++) {
        snprintf(path, sizeof(path), i == 0 ? "%s/%s" : "%s/../lib/%s", program, library);
        if (access(path, F_OK) != 0) continue;
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle) return handle;
        snprintf(why, size, "%s", dlerror());
        return NULL;
    }
    return dlopen(library, RTLD_NOW | RTLD_LOCAL);
}

// What a device may lack: recording the operation says so.
static bool optional(const char *name) {
    return strncmp(name, "settle_", 7) == 0;
}

static oht_status check_table(oht_backend *be) {
    for (int i = 0; i < ENTRIES; i++) {
        void (*function)(void);
        memcpy(&function, (const char *)be + entry[i].offset, sizeof(function));
        if (!function && !optional(entry[i].name))
            OHT_FAIL(OHT_INTERNAL, "the %s backend has no %s", be->name ? be->name : "nameless",
                     entry[i].name);
    }
    return OHT_OK;
}

static oht_status create_cuda(int local_rank, oht_backend **out) {
    char why[512];
    void *library = open_library(why, sizeof(why));
    if (!library)
        OHT_FAIL(OHT_COMM,
                 "no CUDA backend: %s\n"
                 "fix: a machine with an NVIDIA driver and a build with -DOHT_CUDA=ON, or run.device=cpu",
                 why);
    oht_plugin_entry get;
    *(void **)(void *)&get = dlsym(library, "oht_backend_v1");
    const oht_plugin *plugin = get ? get() : NULL;
    if (!plugin || plugin->size != sizeof(*plugin) || plugin->version != OHT_PLUGIN_VERSION ||
        plugin->table_size != sizeof(oht_backend))
        OHT_FAIL(OHT_COMM, "the CUDA backend's library was not built with this program\n"
                           "fix: install program and library from one build");
    oht_backend *be;
    OHT_TRY(plugin->create(&host, local_rank, &be));
    oht_status status = check_table(be);
    if (status != OHT_OK) {
        if (be->destroy) be->destroy(be);
        return status;
    }
    *out = be;
    return OHT_OK;
}

oht_status oht_backend_create(const char *device, int local_rank, oht_backend **out) {
    *out = NULL;
    if (strcmp(device, "cuda") == 0) {
        OHT_TRY(create_cuda(local_rank, out));
    } else if (strcmp(device, "cpu") == 0) {
        OHT_TRY(oht_backend_cpu_create(out));
    } else if (strcmp(device, "auto") == 0) {
        oht_status status = create_cuda(local_rank, out);
        if (status == OHT_OK) return OHT_OK;
        if (status != OHT_COMM) return status; // there is a device, and something is wrong
        char *text = oht_error_last()->text, *fix = strstr(text, "\nfix:");
        oht_log("on the CPU: %.*s", (int)(fix ? fix - text : (long)strlen(text)), text);
        OHT_TRY(oht_backend_cpu_create(out));
    } else {
        OHT_FAIL(OHT_CONFIG, "run.device = %s, known: auto, cpu, cuda\nfix: set run.device=auto", device);
    }
    return OHT_OK;
}

void oht_backend_destroy(oht_backend *be) {
    if (be) be->destroy(be);
}
