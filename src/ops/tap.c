// A tap: a node without result that shows its input to the observer of the run, if there is one. Taps run in
// the forward pass only (nothing a recomputation needs comes out of them).
#include <stdio.h>
#include <string.h>

#include "graph/internal.h"
#include "oht/memory.h"

static void forward(oht_run *run, const oht_node *node) {
    if (!run->observer || run->second_pass) return;
    const int *index = node->attr;
    run->observer->see(run->observer, run, &run->graph->tap[*index], oht_get(run, node->in[0]));
}

static const oht_op TAP = {"tap", forward, NULL, NULL};

oht_value oht_tap(oht_graph *g, oht_value x, const char *name, oht_tap_kind kind, int roles, int layer) {
    if (oht_shape(g, x).rank == 0) return oht_graph_fail(g, "tap %s: of no value", name);
    oht_tap_info info = {.kind = kind, .roles = roles, .index = g->n_taps, .layer = layer};
    int n = snprintf(info.name, sizeof(info.name), "%s%s%s", g->scope, g->scope[0] ? "." : "", name);
    if (n < 0 || (size_t)n >= sizeof(info.name))
        return oht_graph_fail(g, "tap %s: its name is longer than %d characters", name, OHT_NODE_NAME - 1);
    for (int i = 0; i < g->n_taps; i++)
        if (strcmp(g->tap[i].name, info.name) == 0) return oht_graph_fail(g, "tap %s: recorded twice", name);
    if (!oht_node_new(g, &TAP, &x, 1, &g->n_taps, sizeof(g->n_taps))) return OHT_NONE;
    if (OHT_RESERVE(&g->tap, &g->tap_capacity, (size_t)g->n_taps, "taps of a graph") != OHT_OK)
        return oht_graph_fail(g, "tap %s: out of memory", name);
    g->tap[g->n_taps++] = info;
    return x;
}
