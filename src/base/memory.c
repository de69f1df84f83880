// The one door to the heap (include/oht/memory.h).
#include "oht/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_uint_fast64_t allocations;

oht_status oht_alloc(void **out, size_t count, size_t size, const char *what) {
    *out = NULL;
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 64)
        OHT_FAIL(OHT_MEMORY, "%s: %zu elements of %zu bytes are more than a machine can address", what, count,
                 size);
    size_t rounded = (bytes + 63) / 64 * 64;
    void *ptr = aligned_alloc(64, rounded ? rounded : 64);
    if (!ptr) OHT_FAIL(OHT_MEMORY, "%s: cannot get %.1f MiB of memory", what, (double)bytes / 1048576.0);
    memset(ptr, 0, rounded ? rounded : 64);
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    *out = ptr;
    return OHT_OK;
}

oht_status oht_grow(void **inout, size_t old_count, size_t new_count, size_t size, const char *what) {
    void *fresh;
    OHT_TRY(oht_alloc(&fresh, new_count, size, what));
    size_t keep = old_count < new_count ? old_count : new_count;
    if (*inout && keep) memcpy(fresh, *inout, keep * size);
    oht_free(*inout);
    *inout = fresh;
    return OHT_OK;
}

oht_status oht_strdup(char **out, const char *text) {
    size_t n = strlen(text) + 1;
    OHT_TRY(oht_alloc((void **)out, n, 1, "text"));
    memcpy(*out, text, n);
    return OHT_OK;
}

void oht_free(void *ptr) {
    free(ptr);
}

uint64_t oht_node_memory(void) {
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max", // version 2, version 1
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        FILE *in = fopen(limits[i], "re");
        unsigned long long limit;
        if (in && fscanf(in, "%llu", &limit) == 1 && limit > 0 && (bytes == 0 || limit < bytes))
            bytes = limit;
        if (in) fclose(in); // "max": no limit
    }
    return bytes;
}

uint64_t oht_alloc_count(void) {
    return atomic_load_explicit(&allocations, memory_order_relaxed);
}

oht_status oht_reserve(void **items, size_t *capacity, size_t n, size_t size, const char *what) {
    if (n < *capacity) return OHT_OK;
    size_t wanted = *capacity ? 2 * *capacity : 16;
    while (wanted <= n) wanted *= 2;
    OHT_TRY(oht_grow(items, n, wanted, size, what));
    *capacity = wanted;
    return OHT_OK;
}
