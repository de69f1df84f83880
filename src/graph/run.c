// Running a planned graph: each step looks up its tensors in the arena and calls its operation. Nothing is
// allocated here.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"
#include "oht/log.h"
#include "oht/memory.h"

static const graph_step *current(const oht_run *run) {
    return &run->graph->step[((const run_state *)run)->step];
}
static const graph_value *value_of(const oht_run *run, oht_value v) {
    return &run->graph->value[v.id];
}

oht_status oht_run_create(oht_run **out, oht_graph *g, void *arena, void *param, float *grad) {
    *out = NULL;
    if (!g->planned) OHT_FAIL(OHT_INTERNAL, "a graph must be planned before it runs");
    if (g->mode == OHT_TRAIN && arena && !grad)
        OHT_FAIL(OHT_INTERNAL, "a training graph needs a gradient buffer");
    run_state *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "run"));
    s->pub.graph = g;
    s->pub.be = g->be;
    s->pub.arena = arena;
    s->pub.param = s->pub.param_exact = param;
    s->pub.grad = grad;
    s->pub.loss_scale = 1.0f;
    s->pub.stride = 1;
    const char *poison = getenv("OHT_POISON");
    s->poison = poison && strcmp(poison, "1") == 0;
    memset(s->nan_bytes, 0xff, sizeof(s->nan_bytes)); // as float: NaN
    oht_status status = OHT_ALLOC(&s->time, (size_t)g->n_ops, "profile");
    if (status == OHT_OK && arena) status = g->be->alloc(g->be, (void **)&s->numbers, sizeof(*s->numbers), "numbers of a run");
    if (status == OHT_OK && arena) status = recordings_create(s);
    if (status != OHT_OK) {
        oht_run_destroy(&s->pub);
        return status;
    }
    if (arena) oht_run_clear_gaps(&s->pub);
    *out = &s->pub;
    return OHT_OK;
}

void oht_run_clear_gaps(oht_run *run) {
    const oht_graph *g = run->graph;
    for (int i = 0; i < g->n_gaps; i++)
        g->be->zero(g->be, run->grad + g->gap[i].start, g->gap[i].count * sizeof(float));
}

void oht_run_destroy(oht_run *run) {
    if (!run) return;
    run_state *s = state_of(run);
    recordings_destroy(s);
    if (s->numbers) run->be->free(run->be, s->numbers);
    oht_free(s->time);
    oht_free(run);
}

// ---- for operations ----

static oht_tensor view(const oht_run *run, const graph_value *v, void *data) {
    oht_tensor t = v->shape;
    t.data = data;
    if (v->rows == OHT_ROWS_BATCH) t.dim[0] = run->rows;
    if (v->rows == OHT_ROWS_PICKED) t.dim[0] = run->picked;
    return t;
}

static void *at(const oht_run *run, int buffer) {
    return buffer >= 0 && run->arena ? run->arena + run->graph->buffer[buffer].offset : NULL;
}

oht_tensor oht_get(const oht_run *run, oht_value ref) {
    if (ref.id < 0) return OHT_NO_TENSOR;
    const graph_value *v = value_of(run, ref);
    unsigned char *flat = v->exact ? run->param_exact : run->param;
    if (v->kind == VALUE_PARAM)
        return view(run, v, flat ? flat + v->flat * oht_dtype_size(v->shape.dtype) : NULL);
    return view(run, v, at(run, v->place[current(run)->kind != STEP_FORWARD]));
}

oht_tensor oht_get_grad(const oht_run *run, oht_value ref) {
    if (ref.id < 0) return OHT_NO_TENSOR;
    const graph_value *v = value_of(run, ref);
    if (!v->needs_grad) return OHT_NO_TENSOR;
    if (v->kind != VALUE_PARAM) return view(run, v, at(run, v->grad_place));
    oht_tensor d = view(run, v, run->grad ? run->grad + v->flat : NULL);
    d.dtype = OHT_F32;
    return d;
}

void *oht_scratch(const oht_run *run, const oht_node *node) {
    (void)node;
    return at(run, current(run)->scratch);
}

bool oht_adds(const oht_run *run, const oht_node *node, int i) {
    if (node->add_in >> i & 1u) return true;
    return run->add_params && node->in[i].id >= 0 && value_of(run, node->in[i])->kind == VALUE_PARAM;
}

oht_draw oht_draw_of(const oht_run *run, const oht_node *node, float p) {
    const run_numbers *n = ((const run_state *)run)->numbers;
    return (oht_draw){.seed = run->seed, .site = node->site, .stride = run->stride, .p = p, .now = &n->step};
}

oht_loss oht_loss_of(const oht_run *run, bool gradient) {
    run_numbers *n = ((const run_state *)run)->numbers;
    return (oht_loss){.sum = &n->loss, .scale = gradient && run->loss_scale != 0.0f ? 1.0f : 0.0f, .factor = &n->loss_scale};
}

// ---- poison ----

void oht_run_poison(oht_run *run, bool on) {
    state_of(run)->poison = on;
}

static void fill_nan(oht_run *run, void *start, size_t bytes) {
    const run_state *s = state_of(run);
    for (size_t done = 0; done < bytes; done += sizeof(s->nan_bytes)) {
        size_t n = bytes - done < sizeof(s->nan_bytes) ? bytes - done : sizeof(s->nan_bytes);
        run->be->upload(run->be, (unsigned char *)start + done, s->nan_bytes, n);
    }
}

// All of the arena but the inputs. (Nothing is in use before the first step.)
static void poison_arena(oht_run *run) {
    const oht_graph *g = run->graph;
    for (int i = 0; i < g->n_buffers; i++)
        if (g->buffer[i].kind != BUFFER_INPUT) fill_nan(run, at(run, i), g->buffer[i].bytes);
}

static void poison_dead(oht_run *run, int step) {
    const oht_graph *g = run->graph;
    for (int i = 0; i < g->n_buffers; i++)
        if (g->buffer[i].last == step && g->buffer[i].kind != BUFFER_INPUT)
            fill_nan(run, at(run, i), g->buffer[i].bytes);
}

// All gradients that this backward is going to overwrite.
static void poison_gradient(oht_run *run) {
    const oht_graph *g = run->graph;
    for (int i = 0; i < g->n_values; i++) {
        const graph_value *v = &g->value[i];
        if (v->kind == VALUE_PARAM && v->has_grad)
            fill_nan(run, run->grad + v->flat, (size_t)oht_tensor_count(v->shape) * sizeof(float));
    }
}

// ---- execution ----

static bool is_empty(const oht_run *run, oht_value ref) {
    return ref.id >= 0 && oht_tensor_count(view(run, value_of(run, ref), NULL)) == 0;
}

// A node without rows (no masked position in a micro-batch) does nothing; its gradients are zero.
static void zero_gradients(oht_run *run, const oht_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        oht_tensor d = oht_get_grad(run, node->in[i]);
        if (d.data && !oht_adds(run, node, i))
            run->be->zero(run->be, d.data, (size_t)oht_tensor_count(d) * oht_dtype_size(d.dtype));
    }
}

static double flops_of(const oht_run *run, const oht_node *node, bool backward) {
    return node->op->flops ? node->op->flops(run, node, backward) : 0.0;
}

static void execute(oht_run *run, const graph_step *step) {
    const oht_node *node = run->graph->node[step->node];
    run->second_pass = step->kind == STEP_RECOMPUTE;
    bool empty = is_empty(run, node->in[0]) || (node->n_out > 0 && is_empty(run, node->out[0]));
    if (step->kind == STEP_BACKWARD) {
        if (empty)
            zero_gradients(run, node);
        else
            node->op->backward(run, node);
    } else if (!empty) {
        node->op->forward(run, node);
    }
}

// The same with a clock. Errors of the device come out of the trainer's own sync.
static void execute_timed(oht_run *run, const graph_step *step) {
    op_time *time = &state_of(run)->time[run->graph->op_of_node[step->node]];
    (void)!run->be->sync(run->be);
    double start = oht_clock_s();
    execute(run, step);
    (void)!run->be->sync(run->be);
    *(step->kind == STEP_FORWARD ? &time->fwd_s : &time->bwd_s) += oht_clock_s() - start;
    time->flops += flops_of(run, run->graph->node[step->node], step->kind == STEP_BACKWARD);
}

void run_step(oht_run *run, int step) {
    run_state *s = state_of(run);
    s->step = step;
    if (s->profile)
        execute_timed(run, &run->graph->step[step]);
    else
        execute(run, &run->graph->step[step]);
    if (s->poison) poison_dead(run, step);
}

bool run_reports(const oht_run *run, int step) {
    size_t ready = run->graph->step[step].ready;
    return run->progress && ready > 0 && ready >= run->progress_from;
}

static void run_steps(oht_run *run, int first, int end) {
    for (int t = first; t < end;) {
        int to = run_recorded(run, t, end);
        if (to == t) run_step(run, to++);
        t = to;
        if (run_reports(run, t - 1)) run->progress(run->progress_ctx, run->graph->step[t - 1].ready);
    }
    run->second_pass = false;
}

static void send_numbers(oht_run *run) {
    run_state *s = state_of(run);
    s->sent = (run_numbers){.step = run->step, .sample0 = run->sample0, .loss_scale = run->loss_scale};
    run->be->upload(run->be, s->numbers, &s->sent, sizeof(s->sent));
}

static void fetch_loss(oht_run *run) {
    run->be->download(run->be, &run->loss_sum, &state_of(run)->numbers->loss, sizeof(run->loss_sum));
}

void oht_run_feed(oht_run *run, oht_field field, const void *src, size_t bytes) {
    int id = run->graph->input[field];
    if (id < 0 || bytes == 0) return;
    const graph_value *v = &run->graph->value[id];
    assert(bytes <= value_bytes(v));
    run->be->upload(run->be, at(run, v->place[0]), src, bytes);
}

// The trainer's counts fit the capacity of the graph.
static void check_rows(const oht_run *run) {
    const oht_graph *g = run->graph;
    assert(run->rows >= 0 && run->rows <= g->rows);
    for (int i = 0; i < OHT_FIELD_COUNT; i++) {
        const graph_value *v = g->input[i] >= 0 ? &g->value[g->input[i]] : NULL;
        if (v && v->rows == OHT_ROWS_PICKED) assert(run->picked >= 0 && run->picked <= v->shape.dim[0]);
    }
}

void oht_run_forward(oht_run *run) {
    const oht_graph *g = run->graph;
    check_rows(run);
    run->loss_sum = 0.0;
    memset(run->measured, 0, sizeof(run->measured));
    if (run->rows == 0) return;
    if (state_of(run)->poison) poison_arena(run);
    send_numbers(run);
    run_steps(run, 0, g->n_forward);
    if (g->mode == OHT_EVAL) fetch_loss(run);
}

void oht_run_backward(oht_run *run) {
    const oht_graph *g = run->graph;
    assert(g->mode == OHT_TRAIN);
    if (run->rows == 0) {
        if (!run->add_params) run->be->zero(run->be, run->grad, g->params->flat_count * sizeof(float));
        return;
    }
    if (state_of(run)->poison && !run->add_params) poison_gradient(run);
    run_steps(run, g->n_forward, g->n_steps);
    fetch_loss(run);
}

// ---- counting ----

double oht_run_flops(const oht_run *run, bool backward) {
    const oht_graph *g = run->graph;
    double sum = 0.0;
    for (int t = backward ? g->n_forward : 0; t < (backward ? g->n_steps : g->n_forward); t++)
        sum += flops_of(run, g->node[g->step[t].node], g->step[t].kind == STEP_BACKWARD);
    return sum;
}

void oht_run_profile(oht_run *run, bool on) {
    run_state *s = state_of(run);
    s->profile = on;
    memset(s->time, 0, (size_t)run->graph->n_ops * sizeof(*s->time));
}

void oht_run_profile_report(const oht_run *run,
                            void (*line)(void *ctx, const char *op, double fwd_s, double bwd_s, double flops),
                            void *ctx) {
    const op_time *time = ((const run_state *)run)->time;
    for (int k = 0; k < run->graph->n_ops; k++)
        line(ctx, run->graph->op[k]->name, time[k].fwd_s, time[k].bwd_s, time[k].flops);
}
