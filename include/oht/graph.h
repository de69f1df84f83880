// A model is recorded once on a graph and run many times. A plan gives every tensor an offset in one arena,
// so nothing is allocated after the first step; a run executes the nodes: forward in order, backward in
// reverse.
//
//   graph: values (inputs, parameters, activations) and nodes (operations), recorded forward only
//   plan:  schedule (forward, recomputation, backward), lifetimes, offsets, which gradient writes and which adds
//   run:   arena + parameters + the numbers of the current micro-batch
//
// Shapes are static, row counts are not: axis 0 of a BATCH value is `rows` samples at run time (<= capacity),
// axis 0 of a PICKED value is the number of masked positions.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/params.h"
#include "oht/status.h"
#include "oht/task.h"
#include "oht/tensor.h"

typedef struct oht_graph oht_graph;
typedef struct oht_node oht_node;
typedef struct oht_run oht_run;

typedef struct oht_value {
    int id; // index into the graph's values; -1 = none
} oht_value;
static const oht_value OHT_NONE = {-1};

// What axis 0 of a value counts.
typedef enum oht_rows { OHT_ROWS_FIXED, OHT_ROWS_BATCH, OHT_ROWS_PICKED } oht_rows;

enum { OHT_NODE_IN = 8, OHT_NODE_OUT = 4, OHT_NODE_NAME = 64 };

// An operation: one file in src/ops.
typedef struct oht_op {
    const char *name;
    void (*forward)(oht_run *run, const oht_node *node);
    void (*backward)(oht_run *run, const oht_node *node); // NULL: no gradient passes
    // FLOPs really executed for the current rows of the run: multiply-adds count 2. NULL: negligible.
    double (*flops)(const oht_run *run, const oht_node *node, bool backward);
} oht_op;

struct oht_node {
    const oht_op *op;
    char name[OHT_NODE_NAME]; // scope path, e.g. "layer.3.attn"
    oht_value in[OHT_NODE_IN];
    int n_in;
    oht_value out[OHT_NODE_OUT]; // out[0] is the result; the others are kept for backward or for taps
    int n_out;
    const void *attr; // the operation's own constants, owned by the graph
    uint32_t keep_in, keep_out; // bit i: backward reads in[i] / out[i]
    size_t scratch_fwd, scratch_bwd; // bytes
    int block; // recomputation scope, -1 = none
    uint32_t site; // dropout site, unique per graph
    int share_grad; // i: backward leaves in[i] the very gradient of out[0], so both may share storage; -1 =
                    // none
    uint32_t add_in; // set by the plan: bit i: gradient of in[i] is added, else overwrites
};

typedef enum oht_mode { OHT_TRAIN, OHT_EVAL } oht_mode;

// ---- recording ----
// rows,
// tokens: capacity of a micro-batch. Errors while recording stick and come out of oht_plan.
OHT_CHECKED oht_status oht_graph_create(oht_graph **out, oht_backend *be, const oht_params *params,
                                        oht_mode mode, int64_t rows, int64_t tokens);
void oht_graph_destroy(oht_graph *g);
oht_mode oht_graph_mode(const oht_graph *g);
int64_t oht_graph_rows(const oht_graph *g);
int64_t oht_graph_tokens(const oht_graph *g);
oht_backend *oht_graph_backend(const oht_graph *g);
// Type in which activations, their gradients and the parameters of a run are stored: fp32 unless set before anything is
// recorded. (backend.h says what is fp32 all the same.)
void oht_graph_storage(oht_graph *g, oht_dtype type);
oht_dtype oht_storage(const oht_graph *g);

// Name prefix of what is recorded next: oht_scope(g, "layer.%d", l); oht_scope(g, "") at the end.
void oht_scope(oht_graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Everything recorded between begin and end is one recomputation block (only when train.recompute asks).
void oht_block_begin(oht_graph *g);
void oht_block_end(oht_graph *g);
// Evaluation graphs only: associations recorded from here on also tap their scores and probabilities
// (B,H,T,T).
void oht_graph_inner_taps(oht_graph *g, bool on);
bool oht_graph_has_inner_taps(const oht_graph *g);
// Evaluation graphs only: a ViT also taps what else the reference's all-modules metrics look at (op.h, OHT_MODULES).
void oht_graph_module_taps(oht_graph *g, bool on);
bool oht_graph_has_module_taps(const oht_graph *g);
// Evaluation graphs only: quantization sites (op.h) are recorded from here on.
enum {
    OHT_SITES = 1,
    OHT_SITES_HEAD = 2, // the language-model head too: its logits are a site, its table is the quantized one
    OHT_SITES_INNER =
        4 // for calibration: sites see scores, probabilities and logits whole, linear layers with their input
};
void oht_graph_sites(oht_graph *g, unsigned flags);
unsigned oht_graph_has_sites(const oht_graph *g); // 0 in training

oht_value oht_input(oht_graph *g, oht_field field, oht_dtype dtype, oht_rows rows, int rank,
                    const int64_t *dim);
oht_value oht_parameter(oht_graph *g, int param); // OHT_NONE for param -1
oht_value oht_parameter_group(oht_graph *g, int first,
                              int n); // n parameters in a row, stacked along axis 0 (params.h)
// In a graph with sites the run's unquantized values (param_exact); else the parameter itself.
oht_value oht_parameter_exact(oht_graph *g, int param);
// For src/ops: makes a node; in[] copied; the caller then adds outputs and sets keep_*, scratch_*. NULL after
// a failure. An operation takes no differentiable value twice; its backward writes gradients in the order of
// in[].
oht_node *oht_node_new(oht_graph *g, const oht_op *op, const oht_value *in, int n_in, const void *attr,
                       size_t attr_bytes);
oht_value oht_node_output(oht_graph *g, oht_node *node, oht_dtype dtype, oht_rows rows, int rank,
                          const int64_t *dim);
uint32_t oht_next_site(oht_graph *g); // number of the next dropout place, in recording order
// Shape at capacity (data NULL). For infer parts of operations.
oht_tensor oht_shape(const oht_graph *g, oht_value v);
oht_rows oht_value_rows(const oht_graph *g, oht_value v);
const char *oht_value_name(const oht_graph *g, oht_value v);
// Records a failure (first one wins); returns OHT_NONE.
oht_value oht_graph_fail(oht_graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));

// ---- planning ----
// Computes schedule and offsets. `loss` is the value whose node starts backward (OHT_NONE in evaluation).
// Local.
OHT_CHECKED oht_status oht_plan(oht_graph *g, oht_value loss);
size_t oht_plan_bytes(const oht_graph *g); // arena needed
// One line per kind: activations, gradients, scratch (their sum exceeds the arena: lifetimes overlap partly).
void oht_plan_describe(const oht_graph *g, void (*line)(void *ctx, const char *what, size_t bytes),
                       void *ctx);

// ---- running ----
typedef struct oht_observer oht_observer; // op.h
typedef struct oht_quant_hook oht_quant_hook; // op.h

enum { OHT_MEASURED = 3 };
// Numbers of the current micro-batch; the trainer sets them before oht_run_forward.
struct oht_run {
    oht_graph *graph;
    oht_backend *be;
    unsigned char *arena;
    void *param; // flat (params.h), of the graph's storage type
    float *grad; // flat; NULL in evaluation
    int64_t rows; // valid samples
    int64_t picked; // valid masked positions
    uint64_t seed;
    uint32_t step, sample0, stride; // identity of the samples (random.h)
    float loss_scale; // gradient of the loss sum, e.g. 1 / number of labels of the global batch; set before forward
    bool add_params; // second and later micro-batches of an accumulation: parameter gradients add up
    double loss_sum; // what the loss operations sum up, e.g. -log p over labels (oht_run_forward)
    double measured[OHT_MEASURED]; // what else they measure in evaluation, sums over samples (op.h)
    oht_observer *observer; // NULL = taps cost nothing
    oht_quant_hook *quant; // NULL = sites cost nothing
    void *param_exact; // flat, unquantized; starts as param
    // In backward, when the first `ready` >= progress_from floats of grad are complete; it may move progress_from. NULL:
    // nobody asks. Set for the last micro-batch that adds to grad; with tied or unused parameters the last call may come
    // before the end of grad.
    void (*progress)(void *ctx, size_t ready);
    void *progress_ctx;
    size_t progress_from;
    bool records; // stretches of a training run are recorded where the device can, which takes some of its memory when they run
    // for the second time (record.c); true at first
    bool second_pass; // set by the run while it recomputes a block: taps stay silent
};

// arena: oht_plan_bytes of device memory, 64-byte aligned; graphs that never run at the same time may share
// one. Zeroes what no node of the graph writes in grad (padding, unused parameters) once. The fields the
// trainer does not set are 0, but loss_scale 1. arena NULL (then param and grad too): a run for oht_run_flops
// alone, it must not be executed.
OHT_CHECKED oht_status oht_run_create(oht_run **out, oht_graph *g, void *arena, void *param, float *grad);
void oht_run_destroy(oht_run *run);
// Zeroes them again, where something else has written to grad (a reduction that leaves other things there).
void oht_run_clear_gaps(oht_run *run);
// For tests: fills everything dead with NaN, before a run and after each last use, so that a stale read shows
// in the result. Also on when the environment has OHT_POISON=1.
void oht_run_poison(oht_run *run, bool on);
// Copies one field of the micro-batch into the graph's input (no-op when the graph has no such input). src:
// host.
void oht_run_feed(oht_run *run, oht_field field, const void *src, size_t bytes);
// Sets loss_sum to the loss of this micro-batch, in training oht_run_backward does; both wait for it. Without rows nothing is
// executed and the gradient is zero.
void oht_run_forward(oht_run *run);
void oht_run_backward(oht_run *run); // right after its forward
double oht_run_flops(const oht_run *run,
                     bool backward); // of the current rows; forward alone, or backward (+ recomputation)
// Seconds spent per operation kind since the last reset, for bench (off by default).
void oht_run_profile(oht_run *run, bool on);
void oht_run_profile_report(const oht_run *run,
                            void (*line)(void *ctx, const char *op, double fwd_s, double bwd_s, double flops),
                            void *ctx);

// ---- for operations ----
// View with
// this micro-batch's rows; OHT_NO_TENSOR for OHT_NONE. In backward data is NULL for what nobody keeps.
oht_tensor oht_get(const oht_run *run, oht_value v);
oht_tensor oht_get_grad(const oht_run *run, oht_value v); // OHT_NO_TENSOR where v needs no gradient
void *oht_scratch(const oht_run *run, const oht_node *node);
// Gradient of in[i] is to be added? Parameters also add from the second micro-batch on.
bool oht_adds(const oht_run *run, const oht_node *node, int i);
oht_draw oht_draw_of(const oht_run *run, const oht_node *node, float p);
// Where a loss operation's sum goes, and with `gradient` the scale of its gradient, run->loss_scale.
oht_loss oht_loss_of(const oht_run *run, bool gradient);
