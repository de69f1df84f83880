// A quantization site: a node without result that lets the run's quantization hook replace the values of its
// input before anybody else reads them (op.h). Recorded in evaluation graphs that ask for sites.
#include <stdio.h>
#include <string.h>

#include "graph/internal.h"
#include "oht/memory.h"

enum { Y, X };

typedef struct site_attr {
    int site;
    int part, parts; // columns
} site_attr;

static void forward(oht_run *run, const oht_node *node) {
    if (!run->quant) return;
    const site_attr *attr = node->attr;
    oht_tensor y = oht_get(run, node->in[Y]);
    int64_t width = y.dim[y.rank - 1], n = width / attr->parts;
    oht_site_view view = {.x = oht_f32(y) + attr->part * n, .rows = oht_tensor_rows(y), .n = n, .ld = width};
    if (node->n_in > X) {
        oht_tensor x = oht_get(run, node->in[X]);
        view.input = oht_f32(x);
        view.input_n = x.dim[x.rank - 1];
    }
    run->quant->see(run->quant, run, &run->graph->site[attr->site], &view);
}

static const oht_op SITE = {"site", forward, NULL, NULL};

static int layer_of(const oht_graph *g) {
    int layer = -1;
    return sscanf(g->scope, "layer.%d", &layer) == 1 ? layer : -1;
}

// value: what the site sees whole, -1 = no such value.
static int add_site(oht_graph *g, const char *name, oht_site_kind kind, int value) {
    oht_site_info info = {
        .kind = kind, .index = g->n_site, .layer = layer_of(g), .weight = -1, .bias = -1, .input = -1};
    int n = snprintf(info.name, sizeof(info.name), "%s%s%s", g->scope, g->scope[0] ? "." : "", name);
    if (n < 0 || (size_t)n >= sizeof(info.name)) {
        oht_graph_fail(g, "site %s: its name is longer than %d characters", name, OHT_NODE_NAME - 1);
        return -1;
    }
    for (int i = 0; i < g->n_site; i++)
        if (strcmp(g->site[i].name, info.name) == 0) {
            oht_graph_fail(g, "site %s: recorded twice", name);
            return -1;
        }
    if (OHT_RESERVE(&g->site, &g->site_capacity, (size_t)g->n_site, "sites of a graph") != OHT_OK ||
        OHT_RESERVE(&g->site_value, &g->site_value_capacity, (size_t)g->n_site, "sites of a graph") !=
            OHT_OK) {
        oht_graph_fail(g, "site %s: out of memory", name);
        return -1;
    }
    g->site[g->n_site] = info;
    g->site_value[g->n_site] = value;
    return g->n_site++;
}

int oht_site_inside(oht_graph *g, const char *name, oht_site_kind kind) {
    return oht_graph_has_sites(g) ? add_site(g, name, kind, -1) : -1;
}

oht_value oht_site(oht_graph *g, oht_value x, const char *name, oht_site_kind kind) {
    if (!oht_graph_has_sites(g)) return x;
    site_attr attr = {add_site(g, name, kind, x.id), 0, 1};
    if (attr.site >= 0) oht_node_new(g, &SITE, &x, 1, &attr, sizeof(attr));
    return x;
}

oht_value oht_site_linear(oht_graph *g, oht_value y, oht_value x, const char *name, int weight, int bias,
                          oht_act act, int part, int parts) {
    if (!oht_graph_has_sites(g)) return y;
    oht_site_kind kind = act == OHT_ACT_NONE ? OHT_SITE_LINEAR : OHT_SITE_ACTIVATION;
    site_attr attr = {add_site(g, name, kind, parts == 1 ? y.id : -1), part, parts};
    if (attr.site < 0) return y;
    oht_site_info *info = &g->site[attr.site];
    info->weight = weight;
    info->bias = bias;
    info->act = act;
    for (int i = 0; i < attr.site; i++)
        if (g->site_value[i] == x.id) info->input = i;
    oht_value in[] = {y, x}; // the input only so that it is still there
    oht_node_new(g, &SITE, in, oht_graph_has_sites(g) & OHT_SITES_INNER ? 2 : 1, &attr, sizeof(attr));
    return y;
}

static void add_weight(oht_graph *g, const char *name, int param, int n, oht_site_kind kind) {
    for (int i = 0; i < g->n_weight; i++)
        if (g->weight[i].param == param) return;
    if (OHT_RESERVE(&g->weight, &g->weight_capacity, (size_t)g->n_weight, "weight sites of a graph") !=
        OHT_OK) {
        oht_graph_fail(g, "weight sites: out of memory");
        return;
    }
    oht_weight_site *w = &g->weight[g->n_weight++];
    *w = (oht_weight_site){.param = param, .n = n, .kind = kind, .layer = layer_of(g)};
    snprintf(w->name, sizeof(w->name), "%s", name);
}

void oht_site_weight(oht_graph *g, int param, oht_site_kind kind) {
    if (oht_graph_has_sites(g) && param >= 0) add_weight(g, g->params->item[param].name, param, 1, kind);
}

void oht_site_weight_group(oht_graph *g, const char *name, int first, int n, oht_site_kind kind) {
    char whole[96];
    if (!oht_graph_has_sites(g) || first < 0) return;
    snprintf(whole, sizeof(whole), "%.60s%s%s", g->scope, g->scope[0] ? "." : "", name);
    add_weight(g, whole, first, n, kind);
}
