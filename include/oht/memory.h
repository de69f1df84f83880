// The one door to the heap. Every allocation of ours is counted, so that a test can demand that a training step
// allocates nothing. Local.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

// Zeroed memory, 64-byte aligned. The caller frees it with oht_free. MEMORY error names `what` and the size.
// count * size is checked for overflow; zero bytes give a valid pointer.
OHT_CHECKED oht_status oht_alloc(void **out, size_t count, size_t size, const char *what);
#define OHT_ALLOC(ptr, count, what) oht_alloc((void **)(ptr), (count), sizeof(**(ptr)), (what))

// Grows an array obtained from oht_alloc to new_count elements (contents kept, new part zeroed).
OHT_CHECKED oht_status oht_grow(void **inout, size_t old_count, size_t new_count, size_t size, const char *what);

// Copy of a string; freed with oht_free.
OHT_CHECKED oht_status oht_strdup(char **out, const char *text);

void oht_free(void *ptr); // NULL is fine

// Bytes of main memory that the processes of this node may use together: what is built in, or the limit of this
// container or job if it is smaller. 0 = unknown.
uint64_t oht_node_memory(void);

// Number of allocations made so far by this process, all threads.
uint64_t oht_alloc_count(void);

// A place in an array that grows by doubling: ensures room for one more element.
// (*items, *capacity) belong together; n is the number of elements in use.
OHT_CHECKED oht_status oht_reserve(void **items, size_t *capacity, size_t n, size_t size, const char *what);
#define OHT_RESERVE(items, capacity, n, what)                                                                \
    oht_reserve((void **)(items), (capacity), (n), sizeof(**(items)), (what))
