// Offsets in the arena: a greedy answer to dynamic storage allocation. Buffers are placed from the largest to
// the smallest, each into the smallest hole that is free for its whole lifetime. Large ones of equal size
// then stack without waste.
#include <stdlib.h>

#include "graph/internal.h"
#include "oht/memory.h"

enum { ALIGN = 64 };

static int larger_first(const void *a, const void *b) {
    const graph_buffer *x = *(graph_buffer *const *)a, *y = *(graph_buffer *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : 1; // one fixed order whatever qsort does
}

// Inserts b into neighbours, sorted by offset.
static void insert(graph_buffer **neighbour, int n, graph_buffer *b) {
    int i = n;
    for (; i > 0 && neighbour[i - 1]->offset > b->offset; i--) neighbour[i] = neighbour[i - 1];
    neighbour[i] = b;
}

oht_status oht_place(graph_buffer *buffer, int n, size_t *bytes) {
    *bytes = 0;
    graph_buffer **order = NULL, **neighbour = NULL;
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&order, (size_t)n, "order of buffers"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&neighbour, (size_t)n, "neighbours of a buffer"), done);
    for (int i = 0; i < n; i++) order[i] = &buffer[i];
    qsort(order, (size_t)n, sizeof(*order), larger_first);

    for (int i = 0; i < n; i++) {
        graph_buffer *b = order[i];
        size_t size = (b->bytes + ALIGN - 1) / ALIGN * ALIGN;
        int n_neighbours = 0; // those placed already that live at the same time
        for (int k = 0; k < i; k++)
            if (order[k]->first <= b->last && b->first <= order[k]->last)
                insert(neighbour, n_neighbours++, order[k]);

        size_t end = 0, best = SIZE_MAX, best_hole = SIZE_MAX;
        for (int k = 0; k < n_neighbours; k++) {
            size_t start = neighbour[k]->offset;
            if (start > end && start - end >= size && start - end < best_hole) {
                best = end;
                best_hole = start - end;
            }
            size_t stop = (start + neighbour[k]->bytes + ALIGN - 1) / ALIGN * ALIGN;
            if (stop > end) end = stop;
        }
        b->offset = best != SIZE_MAX ? best : end;
        if (b->offset + size > *bytes) *bytes = b->offset + size;
    }
    status = OHT_OK;
done:
    oht_free(order);
    oht_free(neighbour);
    return status;
}
