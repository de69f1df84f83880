// Offsets in the arena: a greedy answer to dynamic storage allocation. Buffers are placed from the largest to
// the smallest, each into the smallest hole that is free for its whole lifetime. Large ones of equal size
// then stack without waste.
//
// What is placed stands in order of offset, in runs of a few dozen. A run none of whose buffers lives at the
// right time, or all of whose buffers do without leaving a large enough hole between them, is passed in one
// step, so that a model of 1000 layers is placed in a fraction of a second.
#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"
#include "oht/memory.h"

enum { ALIGN = 64, RUN = 64 };

typedef struct run {
    int n;
    int first_low, first_high, last_low, last_high; // of the buffers' lifetimes
    size_t start, stop; // arena bytes from the first buffer to behind the highest
    size_t hole; // the largest between its buffers
    const graph_buffer *item[RUN]; // by offset
} run;

// While one buffer looks for its place, from low offsets to high ones.
typedef struct search {
    size_t size, end; // end: everything alive so far lies below
    size_t best, best_hole;
} search;

static size_t aligned(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static int larger_first(const void *a, const void *b) {
    const graph_buffer *x = *(graph_buffer *const *)a, *y = *(graph_buffer *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : 1; // one fixed order whatever qsort does
}

static void pass(search *s, size_t start, size_t stop) {
    if (start > s->end && start - s->end >= s->size && start - s->end < s->best_hole) {
        s->best = s->end;
        s->best_hole = start - s->end;
    }
    if (stop > s->end) s->end = stop;
}

static void pass_run(search *s, const run *r, const graph_buffer *b) {
    if (r->first_low > b->last || r->last_high < b->first) return;
    if (r->first_high <= b->last && r->last_low >= b->first && r->hole < s->size) {
        pass(s, r->start, r->stop);
        return;
    }
    for (int i = 0; i < r->n; i++) {
        const graph_buffer *other = r->item[i];
        if (other->first <= b->last && b->first <= other->last)
            pass(s, other->offset, other->offset + aligned(other->bytes));
    }
}

static void summarise(run *r) {
    const graph_buffer *b = r->item[0];
    r->first_low = r->first_high = b->first;
    r->last_low = r->last_high = b->last;
    r->start = b->offset;
    r->stop = b->offset + aligned(b->bytes);
    r->hole = 0;
    for (int i = 1; i < r->n; i++) {
        b = r->item[i];
        if (b->first < r->first_low) r->first_low = b->first;
        if (b->first > r->first_high) r->first_high = b->first;
        if (b->last < r->last_low) r->last_low = b->last;
        if (b->last > r->last_high) r->last_high = b->last;
        if (b->offset > r->stop && b->offset - r->stop > r->hole) r->hole = b->offset - r->stop;
        if (b->offset + aligned(b->bytes) > r->stop) r->stop = b->offset + aligned(b->bytes);
    }
}

// Inserts b behind all whose offset is not larger; a full run becomes two.
static void insert(run **order, int *n_runs, run *fresh, const graph_buffer *b) {
    int k = *n_runs - 1;
    while (k > 0 && order[k]->start > b->offset) k--;
    run *r = order[k];
    if (r->n == RUN) {
        memmove(order + k + 2, order + k + 1, (size_t)(*n_runs - k - 1) * sizeof(*order));
        order[k + 1] = fresh;
        ++*n_runs;
        r->n = RUN / 2;
        fresh->n = RUN - RUN / 2;
        memcpy(fresh->item, r->item + RUN / 2, (size_t)fresh->n * sizeof(r->item[0]));
        summarise(r);
        summarise(fresh);
        if (fresh->start <= b->offset) r = fresh;
    }
    int i = r->n++;
    for (; i > 0 && r->item[i - 1]->offset > b->offset; i--) r->item[i] = r->item[i - 1];
    r->item[i] = b;
    summarise(r);
}

oht_status oht_place(graph_buffer *buffer, int n, size_t *bytes) {
    *bytes = 0;
    if (n == 0) return OHT_OK;
    graph_buffer **by_size = NULL;
    run *runs = NULL, **order = NULL;
    size_t most = 2 * (size_t)n / RUN + 2; // only full runs split, so all but one hold RUN / 2 or more
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&by_size, (size_t)n, "order of buffers"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&runs, most, "placed buffers"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&order, most, "placed buffers"), done);
    for (int i = 0; i < n; i++) by_size[i] = &buffer[i];
    qsort(by_size, (size_t)n, sizeof(*by_size), larger_first);

    int n_runs = 1;
    order[0] = &runs[0];
    for (int i = 0; i < n; i++) {
        graph_buffer *b = by_size[i];
        search s = {.size = aligned(b->bytes), .best = SIZE_MAX, .best_hole = SIZE_MAX};
        for (int k = 0; i > 0 && k < n_runs; k++) pass_run(&s, order[k], b);
        b->offset = s.best != SIZE_MAX ? s.best : s.end;
        if (b->offset + s.size > *bytes) *bytes = b->offset + s.size;
        insert(order, &n_runs, &runs[n_runs], b);
    }
    status = OHT_OK;
done:
    oht_free(by_size);
    oht_free(runs);
    oht_free(order);
    return status;
}
