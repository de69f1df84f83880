// The plan: in which order nodes run, from when to when each tensor is in use, where it lies in the arena.
//
// Steps: forward of every node; in training then backward in reverse, and before the backward of a
// recomputation block the forward of those of its nodes whose results that backward reads.
//
// A value lives from the step that makes it to the last that reads it (backward reads what keep_in and
// keep_out say). One that only its own recomputation block reads is dropped after the forward pass and lives
// a second time from its recomputation on.
//
// A gradient lives from its first writer to its reader, the backward of the node that made the value. The
// first writer in backward order overwrites, the others add. x + f passes dy on to x unchanged: both share a
// buffer.
#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"
#include "oht/memory.h"

// What is known while planning only.
typedef struct planner {
    oht_graph *g;
    bool *differentiated; // per node: its backward runs
    bool *recomputed; // per node: its forward runs twice
    bool *needed; // per value: recomputation must bring it back
    oht_status status; // of add_buffer
} planner;

static bool has_bit(uint32_t mask, int i) {
    return (mask >> i & 1u) != 0;
}

static int add_buffer(planner *p, buffer_kind kind, size_t bytes, int first, int last) {
    oht_graph *g = p->g;
    oht_status status =
        OHT_RESERVE(&g->buffer, &g->buffer_capacity, (size_t)g->n_buffers, "buffers of a plan");
    if (status != OHT_OK) {
        p->status = status;
        return -1;
    }
    g->buffer[g->n_buffers] = (graph_buffer){.kind = kind, .bytes = bytes, .first = first, .last = last};
    return g->n_buffers++;
}

// The buffer is in use at a step. Steps come in ascending order, so only the end moves.
static void extend(oht_graph *g, int buffer, int step) {
    if (buffer >= 0) g->buffer[buffer].last = step;
}

// ---- which backward runs, which gradient is added ----

static void differentiate(planner *p, oht_value loss) {
    oht_graph *g = p->g;
    for (int n = g->value[loss.id].node; n >= 0; n--) {
        oht_node *node = g->node[n];
        bool root = n == g->value[loss.id].node;
        if (!root && (node->n_out == 0 || !g->value[node->out[0].id].has_grad)) continue;
        p->differentiated[n] = true;
        for (int i = 0; i < node->n_in; i++) {
            if (node->in[i].id < 0) continue;
            graph_value *in = &g->value[node->in[i].id];
            if (!in->needs_grad) continue;
            if (in->has_grad) node->add_in |= 1u << i;
            in->has_grad = true;
        }
    }
}

// ---- recomputation ----

// A value made in a block is dropped unless something outside the block reads it.
static void find_dropped(oht_graph *g, oht_value loss) {
    for (int i = 0; i < g->n_values; i++) {
        graph_value *v = &g->value[i];
        v->dropped = v->kind == VALUE_MADE && g->node[v->node]->block >= 0 && i != loss.id;
    }
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->node[n]->n_in; i++) {
            int id = g->node[n]->in[i].id;
            if (id >= 0 && g->value[id].dropped && g->node[g->value[id].node]->block != g->node[n]->block)
                g->value[id].dropped = false;
        }
}

static void need(planner *p, oht_value v) {
    if (v.id >= 0 && p->g->value[v.id].dropped) p->needed[v.id] = true;
}

// The nodes that must run again: those that make what backward reads, what these read, and so on.
static void find_recomputed(planner *p) {
    const oht_graph *g = p->g;
    for (int n = 0; n < g->n_nodes; n++) {
        const oht_node *node = g->node[n];
        if (!p->differentiated[n]) continue;
        for (int i = 0; i < node->n_in; i++)
            if (has_bit(node->keep_in, i)) need(p, node->in[i]);
        for (int i = 0; i < node->n_out; i++)
            if (has_bit(node->keep_out, i)) need(p, node->out[i]);
    }
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const oht_node *node = g->node[n];
        for (int i = 0; i < node->n_out; i++) p->recomputed[n] |= p->needed[node->out[i].id];
        for (int i = 0; p->recomputed[n] && i < node->n_in; i++) need(p, node->in[i]);
    }
}

// ---- schedule ----

static bool is_picked(const oht_graph *g, oht_value v) {
    return v.id >= 0 && g->value[v.id].rows == OHT_ROWS_PICKED;
}

static bool is_uneven(const oht_graph *g, const oht_node *node) {
    bool picked = false;
    for (int i = 0; i < node->n_in; i++) picked |= is_picked(g, node->in[i]);
    for (int i = 0; i < node->n_out; i++) picked |= is_picked(g, node->out[i]);
    return picked;
}

static void add_step(oht_graph *g, step_kind kind, int n) {
    g->step[g->n_steps++] = (graph_step){.kind = kind, .node = n, .scratch = -1, .uneven = is_uneven(g, g->node[n])};
}

static void schedule(planner *p) {
    oht_graph *g = p->g;
    for (int n = 0; n < g->n_nodes; n++) add_step(g, STEP_FORWARD, n);
    g->n_forward = g->n_steps;
    int block = -1; // recomputed already
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        if (!p->differentiated[n]) continue;
        int here = g->node[n]->block;
        if (here >= 0 && here != block) {
            int k = n; // the nodes of a block follow each other
            while (k > 0 && g->node[k - 1]->block == here) k--;
            for (; k < g->n_nodes && g->node[k]->block == here; k++)
                if (p->recomputed[k]) add_step(g, STEP_RECOMPUTE, k);
            block = here;
        }
        add_step(g, STEP_BACKWARD, n);
    }
}

// ---- lifetimes ----

// A step reads or writes a value; pass 0 is the forward pass, pass 1 all that follows.
static void touch(planner *p, oht_value ref, int pass, int step) {
    if (ref.id < 0) return;
    graph_value *v = &p->g->value[ref.id];
    if (v->kind != VALUE_MADE) return;
    int life = v->dropped ? pass : 0;
    if (v->place[life] < 0) v->place[life] = add_buffer(p, BUFFER_ACTIVATION, value_bytes(v), step, step);
    v->place[pass] = v->place[life];
    extend(p->g, v->place[life], step);
}

static void touch_gradients(planner *p, oht_node *node, int step) {
    oht_graph *g = p->g;
    int dy = g->value[node->out[0].id].grad_place; // -1 at the loss
    extend(g, dy, step);
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i].id < 0) continue;
        graph_value *in = &g->value[node->in[i].id];
        if (in->kind != VALUE_MADE || !in->needs_grad) continue;
        bool first = !has_bit(node->add_in, i);
        if (first && i == node->share_grad && dy >= 0)
            in->grad_place = dy;
        else if (first)
            in->grad_place = add_buffer(p, BUFFER_GRADIENT, value_bytes(in), step, step); // until its reader
    }
}

static void find_lifetimes(planner *p) {
    oht_graph *g = p->g;
    for (int i = 0; i < OHT_FIELD_COUNT; i++) // inputs stay, so that the same micro-batch may run again
        if (g->input[i] >= 0) {
            graph_value *v = &g->value[g->input[i]];
            v->place[0] = v->place[1] = add_buffer(p, BUFFER_INPUT, value_bytes(v), 0, g->n_steps - 1);
        }
    for (int t = 0; t < g->n_steps; t++) {
        graph_step *s = &g->step[t];
        oht_node *node = g->node[s->node];
        bool backward = s->kind == STEP_BACKWARD;
        int pass = s->kind != STEP_FORWARD;
        for (int i = 0; i < node->n_in; i++)
            if (!backward || has_bit(node->keep_in, i)) touch(p, node->in[i], pass, t);
        for (int i = 0; i < node->n_out; i++)
            if (!backward || has_bit(node->keep_out, i)) touch(p, node->out[i], pass, t);
        if (backward) touch_gradients(p, node, t);
        size_t scratch = backward ? node->scratch_bwd : node->scratch_fwd;
        if (scratch) s->scratch = add_buffer(p, BUFFER_SCRATCH, scratch, t, t);
    }
}

// ---- the flat gradient ----

static int by_flat_start(const void *a, const void *b) {
    const graph_value *x = *(const graph_value *const *)a, *y = *(const graph_value *const *)b;
    return x->flat < y->flat ? -1 : x->flat > y->flat;
}

// After which step the front of the flat gradient is complete up to where: that a trainer may reduce it while backward goes
// on. (Flat order is about the order of completion, params.h; a tied table comes last.)
static void find_ready(oht_graph *g, const graph_value **written, int n) {
    for (int t = g->n_forward; t < g->n_steps; t++) {
        const oht_node *node = g->node[g->step[t].node];
        for (int i = 0; g->step[t].kind == STEP_BACKWARD && i < node->n_in; i++)
            if (node->in[i].id >= 0) g->value[node->in[i].id].last_write = t;
    }
    int step = 0; // after which all up to written[i] are complete
    for (int i = 0; i < n; i++) {
        if (written[i]->last_write > step) step = written[i]->last_write;
        g->step[step].ready = i + 1 < n ? written[i + 1]->flat : g->params->flat_count;
    }
}

// Gaps between the gradients that backward writes: padding and unused parameters. Also checks that none
// overlap (a parameter used both alone and in a group would have two owners).
static oht_status find_gaps(oht_graph *g) {
    const graph_value **written;
    oht_status status;
    OHT_TRY(OHT_ALLOC(&written, (size_t)g->n_values + 1, "written gradients"));
    OHT_TRY_GOTO(status, OHT_ALLOC(&g->gap, (size_t)g->n_values + 1, "gaps in the gradient"), done);
    int n = 0;
    for (int i = 0; i < g->n_values; i++)
        if (g->value[i].kind == VALUE_PARAM && g->value[i].has_grad) written[n++] = &g->value[i];
    qsort(written, (size_t)n, sizeof(*written), by_flat_start);
    find_ready(g, written, n);
    size_t end = 0;
    for (int i = 0; i <= n; i++) {
        size_t start = i < n ? written[i]->flat : g->params->flat_count;
        if (start < end)
            OHT_FAIL_GOTO(status, OHT_INTERNAL, done,
                          "the gradients of %s and %s overlap in the flat buffer\nfix: use a parameter "
                          "either alone or in one group, and call oht_params_layout before recording",
                          written[i - 1]->name, i < n ? written[i]->name : "the end");
        if (start > end) g->gap[g->n_gaps++] = (graph_gap){end, start - end};
        if (i < n) end = start + (size_t)oht_tensor_count(written[i]->shape);
    }
    status = OHT_OK;
done:
    oht_free(written);
    return status;
}

// Operation kinds in order of appearance, for the profile.
static oht_status find_ops(oht_graph *g) {
    OHT_TRY(OHT_ALLOC(&g->op, (size_t)g->n_nodes, "operation kinds"));
    OHT_TRY(OHT_ALLOC(&g->op_of_node, (size_t)g->n_nodes, "operation kinds"));
    for (int n = 0; n < g->n_nodes; n++) {
        int k = 0;
        while (k < g->n_ops && g->op[k] != g->node[n]->op) k++;
        if (k == g->n_ops) g->op[g->n_ops++] = g->node[n]->op;
        g->op_of_node[n] = k;
    }
    return OHT_OK;
}

// Largest sum of the buffers of one kind that are in use at the same step.
static oht_status find_peaks(oht_graph *g) {
    size_t *change; // from one step to the next; sums of unsigned numbers may pass through wrapped ones
    OHT_TRY(OHT_ALLOC(&change, (size_t)g->n_steps + 1, "plan"));
    for (int kind = 0; kind < BUFFER_KINDS; kind++) {
        memset(change, 0, ((size_t)g->n_steps + 1) * sizeof(*change));
        for (int i = 0; i < g->n_buffers; i++) {
            const graph_buffer *b = &g->buffer[i];
            if ((int)b->kind != kind) continue;
            change[b->first] += b->bytes;
            change[b->last + 1] -= b->bytes;
        }
        size_t sum = 0;
        for (int t = 0; t < g->n_steps; t++) {
            sum += change[t];
            if (sum > g->peak[kind]) g->peak[kind] = sum;
        }
    }
    oht_free(change);
    return OHT_OK;
}

// ---- all of it ----

static oht_status check(const oht_graph *g, oht_value loss) {
    if (g->planned) OHT_FAIL(OHT_INTERNAL, "the graph is planned already");
    if (g->n_nodes == 0) OHT_FAIL(OHT_INTERNAL, "the graph is empty");
    if (g->block_open) OHT_FAIL(OHT_INTERNAL, "the last recomputation block does not end");
    if (g->mode == OHT_EVAL) return OHT_OK;
    if (loss.id < 0 || loss.id >= g->n_values || g->value[loss.id].kind != VALUE_MADE ||
        !g->value[loss.id].needs_grad)
        OHT_FAIL(OHT_INTERNAL, "a training graph needs a loss that depends on parameters (got %s)",
                 oht_value_name(g, loss));
    return OHT_OK;
}

static oht_status plan(planner *p, oht_value loss) {
    oht_graph *g = p->g;
    OHT_TRY(OHT_ALLOC(&p->differentiated, (size_t)g->n_nodes, "plan"));
    OHT_TRY(OHT_ALLOC(&p->recomputed, (size_t)g->n_nodes, "plan"));
    OHT_TRY(OHT_ALLOC(&p->needed, (size_t)g->n_values, "plan"));
    OHT_TRY(OHT_ALLOC(&g->step, 3 * (size_t)g->n_nodes, "steps of a plan"));
    if (g->mode == OHT_TRAIN) {
        differentiate(p, loss);
        find_dropped(g, loss);
        find_recomputed(p);
    }
    schedule(p);
    find_lifetimes(p);
    OHT_TRY(p->status);
    OHT_TRY(oht_place(g->buffer, g->n_buffers, &g->bytes));
    if (g->mode == OHT_TRAIN) OHT_TRY(find_gaps(g));
    OHT_TRY(find_ops(g));
    OHT_TRY(find_peaks(g));
    g->planned = true;
    return OHT_OK;
}

oht_status oht_plan(oht_graph *g, oht_value loss) {
    if (g->status != OHT_OK) {
        *oht_error_last() = g->error;
        return oht_error_frame(g->status, __FILE__, __LINE__);
    }
    OHT_TRY(check(g, loss));
    planner p = {.g = g};
    oht_status status = plan(&p, loss);
    oht_free(p.differentiated);
    oht_free(p.recomputed);
    oht_free(p.needed);
    return status;
}

size_t oht_plan_bytes(const oht_graph *g) {
    return g->bytes;
}

void oht_plan_describe(const oht_graph *g, void (*line)(void *ctx, const char *what, size_t bytes),
                       void *ctx) {
    static const char *const NAME[BUFFER_KINDS] = {"inputs", "activations", "gradients", "scratch"};
    for (int kind = 0; kind < BUFFER_KINDS; kind++) line(ctx, NAME[kind], g->peak[kind]);
}
