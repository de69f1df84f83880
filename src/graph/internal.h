// What graph.c, plan.c and run.c share: the recorded graph, the plan made for it, the run behind oht_run.
#pragma once

#include "oht/graph.h"
#include "oht/op.h"

typedef enum value_kind { VALUE_INPUT, VALUE_PARAM, VALUE_MADE } value_kind;

typedef struct graph_value {
    value_kind kind;
    char name[OHT_NODE_NAME + 32]; // for messages
    oht_tensor shape; // at capacity, data NULL
    oht_rows rows;
    oht_field field; // VALUE_INPUT
    bool exact;          // VALUE_PARAM: of run->param_exact
    int param, n_params; // VALUE_PARAM: so many of the table, stacked,
    int before; // VALUE_PARAM: the value before this one that begins with the same parameter, -1 = none
    size_t flat; // from here in the flat buffer
    int node, slot; // VALUE_MADE: out[slot] of the node
    bool needs_grad;
    // Set by the plan; places are buffers of the arena, -1 = none:
    bool dropped; // made and used inside one recomputation block only: lives twice
    int place[2]; // in the forward pass; during recomputation and backward
    int grad_place;
    bool has_grad; // some backward writes its gradient
    int last_write; // VALUE_PARAM: the step after which it is complete
} graph_value;

// One stretch of the arena and the steps during which it is in use, both ends included.
typedef enum buffer_kind {
    BUFFER_INPUT,
    BUFFER_ACTIVATION,
    BUFFER_GRADIENT,
    BUFFER_SCRATCH,
    BUFFER_KINDS
} buffer_kind;
typedef struct graph_buffer {
    buffer_kind kind;
    size_t bytes;
    int first, last;
    size_t offset;
} graph_buffer;

typedef enum step_kind { STEP_FORWARD, STEP_RECOMPUTE, STEP_BACKWARD } step_kind;
typedef struct graph_step {
    step_kind kind;
    int node;
    int scratch; // buffer, -1 = none
    size_t ready; // floats at the front of the flat gradient that are complete after it; 0 = no more than before
    bool uneven; // it works on masked positions, whose number differs from micro-batch to micro-batch
} graph_step;

// Floats of the flat gradient that no backward of this graph writes.
typedef struct graph_gap {
    size_t start, count;
} graph_gap;

struct oht_graph {
    oht_backend *be;
    const oht_params *params;
    oht_mode mode;
    int64_t rows, tokens;
    oht_dtype storage; // of activations and parameters; OHT_F32 is 0
    oht_status status; // first failure while recording
    oht_error error;

    char scope[OHT_NODE_NAME];
    int n_blocks;
    bool block_open, inner_taps, module_taps;
    uint32_t n_sites;

    graph_value *value;
    size_t value_capacity;
    int n_values;
    int *param_value; // newest value that begins with a parameter, -1 = none
    oht_node **node;
    size_t node_capacity;
    int n_nodes;
    oht_tap_info *tap;
    size_t tap_capacity;
    int n_taps;
    unsigned sites; // OHT_SITES_*
    oht_site_info *site;
    int *site_value; // value of a site that sees a whole tensor, -1 elsewhere
    size_t site_capacity, site_value_capacity;
    int n_site;
    oht_weight_site *weight;
    size_t weight_capacity;
    int n_weight;
    int input[OHT_FIELD_COUNT]; // value of each field, -1 = none

    bool planned;
    graph_step *step;
    int n_steps, n_forward; // steps [0, n_forward) are the forward pass
    graph_buffer *buffer;
    size_t buffer_capacity;
    int n_buffers;
    size_t bytes;
    size_t peak[BUFFER_KINDS]; // largest sum of the buffers of a kind that are in use at the same step
    graph_gap *gap;
    int n_gaps;
    const oht_op **op; // operation kinds, for the profile
    int *op_of_node;
    int n_ops;
};

// What differs from micro-batch to micro-batch and the kernels read: device memory.
typedef struct run_numbers {
    uint32_t step, sample0; // adjacent (oht_draw.now)
    float loss_scale;
    uint32_t unused;
    double loss; // sum so far
} run_numbers;

typedef struct op_time {
    double fwd_s, bwd_s, flops; // recomputation counts as backward
} op_time;

// What oht_run hides from operations and trainers.
typedef struct run_state {
    oht_run pub; // first member: an oht_run is a run_state
    int step; // being executed
    run_numbers *numbers, sent; // on the device, NULL: the run only counts; what was sent there last
    bool poison, profile;
    op_time *time; // per operation kind
    struct recording *recording; // record.c
    int n_recordings;
    unsigned char nan_bytes[4096];
} run_state;

static inline run_state *state_of(oht_run *run) {
    return (run_state *)run;
}

// run.c: one step of the plan; does the trainer want to know that it is done?
void run_step(oht_run *run, int step);
bool run_reports(const oht_run *run, int step);

// record.c: run_recorded runs a stretch of the steps from `first` on, up to one the trainer wants to know of, and returns its
// end; `first`: that step has to run by itself, or nothing is recorded.
OHT_CHECKED oht_status recordings_create(run_state *s);
void recordings_destroy(run_state *s);
int run_recorded(oht_run *run, int first, int end);

// Offsets for all buffers such that no two in use at the same step overlap; *bytes is the size of the arena.
OHT_CHECKED oht_status oht_place(graph_buffer *buffer, int n, size_t *bytes);

// Bytes of a value at capacity.
static inline size_t value_bytes(const graph_value *v) {
    return (size_t)oht_tensor_count(v->shape) * oht_dtype_size(v->shape.dtype);
}
