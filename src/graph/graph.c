// Recording: values and nodes in the order in which a model's forward pass names them (include/oht/graph.h).
// The first error sticks and silences everything after it; oht_plan hands it out.
#include "graph/internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "oht/memory.h"

static const char *const FIELD_NAME[OHT_FIELD_COUNT] = {"tokens",    "mask",   "labels",
                                                        "positions", "images", "targets", "series"};

oht_status oht_graph_create(oht_graph **out, oht_backend *be, const oht_params *params, oht_mode mode,
                            int64_t rows, int64_t tokens) {
    *out = NULL;
    if (rows < 1 || tokens < 1)
        OHT_FAIL(OHT_CONFIG, "a graph for %lld samples of %lld tokens\nfix: both must be at least 1",
                 (long long)rows, (long long)tokens);
    oht_graph *g;
    OHT_TRY(OHT_ALLOC(&g, 1, "graph"));
    g->be = be;
    g->params = params;
    g->mode = mode;
    g->rows = rows;
    g->tokens = tokens;
    for (int i = 0; i < OHT_FIELD_COUNT; i++) g->input[i] = -1;
    *out = g;
    return OHT_OK;
}

void oht_graph_destroy(oht_graph *g) {
    if (!g) return;
    for (int i = 0; i < g->n_nodes; i++) {
        oht_free((void *)(uintptr_t)g->node[i]->attr);
        oht_free(g->node[i]);
    }
    oht_free(g->node);
    oht_free(g->param_value);
    oht_free(g->value);
    oht_free(g->tap);
    oht_free(g->site);
    oht_free(g->site_value);
    oht_free(g->weight);
    oht_free(g->step);
    oht_free(g->buffer);
    oht_free(g->gap);
    oht_free(g->op);
    oht_free(g->op_of_node);
    oht_free(g);
}

oht_mode oht_graph_mode(const oht_graph *g) {
    return g->mode;
}
int64_t oht_graph_rows(const oht_graph *g) {
    return g->rows;
}
int64_t oht_graph_tokens(const oht_graph *g) {
    return g->tokens;
}
oht_backend *oht_graph_backend(const oht_graph *g) {
    return g->be;
}
void oht_graph_storage(oht_graph *g, oht_dtype type) {
    assert(g->n_values == 0);
    g->storage = type;
}
oht_dtype oht_storage(const oht_graph *g) {
    return g->storage;
}
void oht_graph_inner_taps(oht_graph *g, bool on) {
    g->inner_taps = on;
}
void oht_graph_module_taps(oht_graph *g, bool on) {
    g->module_taps = on;
}
bool oht_graph_has_module_taps(const oht_graph *g) {
    return g->module_taps && g->mode == OHT_EVAL;
}
bool oht_graph_has_inner_taps(const oht_graph *g) {
    return g->inner_taps && g->mode == OHT_EVAL;
}
void oht_graph_sites(oht_graph *g, unsigned flags) {
    g->sites = flags;
}
unsigned oht_graph_has_sites(const oht_graph *g) {
    return g->mode == OHT_EVAL ? g->sites : 0;
}
int oht_graph_site_list(const oht_graph *g, const oht_site_info **out) {
    if (out) *out = g->site;
    return g->n_site;
}
int oht_graph_weight_list(const oht_graph *g, const oht_weight_site **out) {
    if (out) *out = g->weight;
    return g->n_weight;
}
uint32_t oht_next_site(oht_graph *g) {
    return g->n_sites++;
}
int oht_graph_taps(const oht_graph *g, const oht_tap_info **out) {
    if (out) *out = g->tap;
    return g->n_taps;
}

// ---- errors ----

// Keeps the thread's error record as the graph's, unless one is there.
static void stick(oht_graph *g, oht_status status) {
    if (g->status != OHT_OK) return;
    g->status = status;
    g->error = *oht_error_last();
}

oht_value oht_graph_fail(oht_graph *g, const char *format, ...) {
    if (g->status != OHT_OK) return OHT_NONE;
    char text[OHT_ERROR_TEXT / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    stick(g, oht_error_set(OHT_INTERNAL, __FILE__, __LINE__, "recording %s%s%s", g->scope,
                           g->scope[0] ? ": " : "", text));
    return OHT_NONE;
}

void oht_scope(oht_graph *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(g->scope, sizeof(g->scope), format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(g->scope))
        oht_graph_fail(g, "the scope is longer than %d characters", OHT_NODE_NAME - 1);
}

void oht_block_begin(oht_graph *g) {
    if (g->block_open) {
        oht_graph_fail(g, "a recomputation block begins inside another");
        return;
    }
    g->block_open = true;
    g->n_blocks++;
}

void oht_block_end(oht_graph *g) {
    if (!g->block_open) oht_graph_fail(g, "a recomputation block ends that did not begin");
    g->block_open = false;
}

// ---- values ----

static bool good(const oht_graph *g, oht_value v) {
    return v.id >= 0 && v.id < g->n_values;
}

oht_tensor oht_shape(const oht_graph *g, oht_value v) {
    return good(g, v) ? g->value[v.id].shape : OHT_NO_TENSOR;
}
oht_rows oht_value_rows(const oht_graph *g, oht_value v) {
    return good(g, v) ? g->value[v.id].rows : OHT_ROWS_FIXED;
}
const char *oht_value_name(const oht_graph *g, oht_value v) {
    return good(g, v) ? g->value[v.id].name : "(none)";
}

// Appends a value of the given shape; NULL after a failure. The pointer is good until the next value.
static graph_value *new_value(oht_graph *g, value_kind kind, oht_dtype dtype, oht_rows rows, int rank,
                              const int64_t *dim) {
    if (g->status != OHT_OK) return NULL;
    if (rank < 1 || rank > 4) {
        oht_graph_fail(g, "a value of rank %d (1 to 4 are possible)", rank);
        return NULL;
    }
    for (int i = 0; i < rank; i++)
        if (dim[i] < 1) {
            oht_graph_fail(g, "a value whose dimension %d is %lld", i, (long long)dim[i]);
            return NULL;
        }
    if (rows == OHT_ROWS_BATCH && dim[0] != g->rows) {
        oht_graph_fail(g, "a value of %lld samples in a graph for %lld", (long long)dim[0],
                       (long long)g->rows);
        return NULL;
    }
    oht_status status = OHT_RESERVE(&g->value, &g->value_capacity, (size_t)g->n_values, "values of a graph");
    if (status != OHT_OK) {
        stick(g, status);
        return NULL;
    }
    graph_value *v = &g->value[g->n_values++];
    *v = (graph_value){
        .kind = kind, .rows = rows, .node = -1, .param = -1, .place = {-1, -1}, .grad_place = -1};
    v->shape.dtype = dtype;
    v->shape.rank = rank;
    memcpy(v->shape.dim, dim, (size_t)rank * sizeof(*dim));
    return v;
}

oht_value oht_input(oht_graph *g, oht_field field, oht_dtype dtype, oht_rows rows, int rank,
                    const int64_t *dim) {
    if (g->status != OHT_OK) return OHT_NONE;
    if (g->input[field] >= 0) return oht_graph_fail(g, "the input '%s' is declared twice", FIELD_NAME[field]);
    graph_value *v = new_value(g, VALUE_INPUT, dtype, rows, rank, dim);
    if (!v) return OHT_NONE;
    v->field = field;
    snprintf(v->name, sizeof(v->name), "%s", FIELD_NAME[field]);
    g->input[field] = g->n_values - 1;
    return (oht_value){g->n_values - 1};
}

oht_value oht_parameter(oht_graph *g, int param) {
    return param == -1 ? OHT_NONE : oht_parameter_group(g, param, 1);
}

// The same parameters are the same value, however often a model asks: so tied weights collect one gradient.
static oht_value parameters(oht_graph *g, int first, int n, bool exact) {
    if (g->status != OHT_OK) return OHT_NONE;
    if (n < 1 || first < 0 || first + n > g->params->n)
        return oht_graph_fail(g, "parameters %d to %d of a table of %d", first, first + n - 1, g->params->n);
    if (!g->param_value) {
        oht_status status = OHT_ALLOC(&g->param_value, (size_t)g->params->n, "values of parameters");
        if (status != OHT_OK) {
            stick(g, status);
            return OHT_NONE;
        }
        for (int i = 0; i < g->params->n; i++) g->param_value[i] = -1;
    }
    for (int i = g->param_value[first]; i >= 0; i = g->value[i].before)
        if (g->value[i].n_params == n && g->value[i].exact == exact) return (oht_value){i};

    const oht_param *p = &g->params->item[first];
    int64_t dim[4];
    memcpy(dim, p->dim, sizeof(dim));
    for (int i = 1; i < n; i++) {
        const oht_param *next = p + i;
        bool fits = next->rank == p->rank && next->offset == next[-1].offset + (size_t)next[-1].count;
        for (int k = 1; k < p->rank; k++) fits &= next->dim[k] == p->dim[k];
        if (!fits)
            return oht_graph_fail(g, "parameter %s cannot be stacked under %s", next->name, next[-1].name);
        dim[0] += next->dim[0];
    }
    graph_value *v = new_value(g, VALUE_PARAM, g->storage, OHT_ROWS_FIXED, p->rank, dim);
    if (!v) return OHT_NONE;
    v->param = first;
    v->before = g->param_value[first];
    g->param_value[first] = g->n_values - 1;
    v->n_params = n;
    v->flat = p->offset;
    v->exact = exact;
    v->needs_grad = g->mode == OHT_TRAIN;
    snprintf(v->name, sizeof(v->name), "%.90s", p->name);
    return (oht_value){g->n_values - 1};
}

oht_value oht_parameter_group(oht_graph *g, int first, int n) {
    return parameters(g, first, n, false);
}

oht_value oht_parameter_exact(oht_graph *g, int param) {
    return param == -1 ? OHT_NONE : parameters(g, param, 1, oht_graph_has_sites(g) != 0);
}

// ---- nodes ----

oht_node *oht_node_new(oht_graph *g, const oht_op *op, const oht_value *in, int n_in, const void *attr,
                       size_t attr_bytes) {
    if (g->status != OHT_OK) return NULL;
    if (n_in < 1 || n_in > OHT_NODE_IN) {
        oht_graph_fail(g, "%s with %d inputs (1 to %d are possible)", op->name, n_in, OHT_NODE_IN);
        return NULL;
    }
    for (int i = 0; i < n_in; i++)
        for (int k = 0; k < i; k++)
            if (good(g, in[i]) && in[i].id == in[k].id && g->value[in[i].id].needs_grad) {
                oht_graph_fail(g, "%s takes %s twice", op->name, g->value[in[i].id].name);
                return NULL;
            }
    oht_node *node = NULL;
    void *copy = NULL;
    oht_status status = OHT_RESERVE(&g->node, &g->node_capacity, (size_t)g->n_nodes, "nodes of a graph");
    if (status == OHT_OK) status = OHT_ALLOC(&node, 1, "node of a graph");
    if (status == OHT_OK) status = oht_alloc(&copy, attr_bytes, 1, "constants of a node");
    if (status != OHT_OK) {
        oht_free(node);
        stick(g, status);
        return NULL;
    }
    if (attr_bytes) memcpy(copy, attr, attr_bytes);
    node->op = op;
    memcpy(node->name, g->scope, sizeof(node->name));
    memcpy(node->in, in, (size_t)n_in * sizeof(*in));
    node->n_in = n_in;
    node->attr = copy;
    node->block = g->block_open ? g->n_blocks - 1 : -1;
    node->share_grad = -1;
    g->node[g->n_nodes++] = node;
    return node;
}

oht_value oht_node_output(oht_graph *g, oht_node *node, oht_dtype dtype, oht_rows rows, int rank,
                          const int64_t *dim) {
    if (!node || g->status != OHT_OK) return OHT_NONE;
    if (node->n_out == OHT_NODE_OUT)
        return oht_graph_fail(g, "%s has more than %d outputs", node->op->name, OHT_NODE_OUT);
    graph_value *v = new_value(g, VALUE_MADE, dtype, rows, rank, dim);
    if (!v) return OHT_NONE;
    v->node = g->n_nodes - 1;
    v->slot = node->n_out;
    snprintf(v->name, sizeof(v->name), "%s%s%s", node->name, node->name[0] ? "." : "", node->op->name);
    if (v->slot == 0 && g->mode == OHT_TRAIN && node->op->backward)
        for (int i = 0; i < node->n_in; i++)
            v->needs_grad |= good(g, node->in[i]) && g->value[node->in[i].id].needs_grad;
    node->out[node->n_out++] = (oht_value){g->n_values - 1};
    return node->out[v->slot];
}
