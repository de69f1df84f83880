// What train, eval, bench and check share: the data's description, model, backend, recorded and planned
// graphs, and the memory they run in. Training and evaluation graphs share parameters and one arena: they
// never run at the same time.
//
//   oht_session_create    opens the data, builds the model, records and plans the graphs; no large memory
//   oht_session_allocate  flat buffers, arena, runs, statistics; parameters initialised from train.seed
//   oht_step              one optimizer step
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/config.h"
#include "oht/data.h"
#include "oht/dist.h"
#include "oht/graph.h"
#include "oht/model.h"
#include "oht/outliers.h"
#include "oht/status.h"
#include "oht/train.h"

// OHT_TO_LOOK_AT: nothing will be allocated, so it need not fit into this machine (check).
enum { OHT_FOR_TRAINING = 1, OHT_FOR_EVALUATION = 2, OHT_TO_LOOK_AT = 4 };

// A stretch of the flat layout whose parameters all decay or all do not.
typedef struct oht_segment {
    size_t first, count; // floats
    bool decays;
} oht_segment;

typedef struct oht_session oht_session;
struct oht_session {
    oht_comm *comm; // borrowed
    const oht_config *cfg; // borrowed
    int parts; // OHT_FOR_*
    oht_data_info data;
    oht_task task;
    int64_t tokens; // T
    int64_t epoch_steps; // steps of an epoch, 0 unless train.epochs
    oht_train_config paced; // cfg->train with steps and lr_every as train.epochs makes them
    oht_split eval_split; // that evaluations look at: validation until the caller changes it
    oht_backend *be;
    oht_model *model;
    const oht_params *params; // the model's
    oht_segment *segment; // in flat order, without gaps
    size_t n_segments;
    oht_shares shares; // how gradients are reduced, and moments sharded
    const char *precision; // fp32, tf32, bf16, fp16: train.precision, with auto resolved for the device
    oht_dtype storage; // of activations and of the parameters that kernels read
    oht_graph *train_graph, *eval_graph; // NULL where parts does not ask for it
    // After oht_session_allocate:
    void *arena;
    size_t arena_bytes; // the larger of the two plans
    oht_state state; // grad, m, v only for training
    void *work; // parameters as kernels read them: state.param, or its copy in 16 bits
    oht_run *train, *eval;
    oht_stats *train_stats, *eval_stats;
};

// data: description of the data; NULL opens cfg->data.path (each rank by itself, all must see the same). cfg
// has passed oht_config_check and must outlive the session. Collective; all ranks return the same.
OHT_CHECKED oht_status oht_session_create(oht_session **out, oht_comm *comm, const oht_config *cfg,
                                          const oht_data_info *data, int parts);
// A file that would fit: rows of data.tokens tokens, or model.max_tokens when that is 0. Local.
oht_data_info oht_session_imagined_data(const oht_config *cfg);
OHT_CHECKED oht_status oht_session_allocate(oht_session *s); // Collective.
void oht_session_destroy(oht_session *s); // Local. NULL is fine.
// Bytes that oht_session_allocate takes on one rank, by kind: weights, gradients, optimizer, arena. Local.
typedef struct oht_session_memory {
    size_t weights, gradients, optimizer, arena; // weights: with the copy in 16 bits, and train.keep_best's
} oht_session_memory;
oht_session_memory oht_session_bytes(const oht_session *s);
// FLOPs one optimizer step executes on all ranks together (recomputation included; masked positions at their
// expected number). Needs the training part, not the allocation. Local.
OHT_CHECKED oht_status oht_session_step_flops(const oht_session *s, double *out);
// The split that gives the run's result: eval.split. Local.
oht_split oht_session_result_split(const oht_session *s);
// Parameters and best parameters change places. Local.
void oht_session_exchange_best(oht_session *s);
// Newest good checkpoint of a run directory (oht_checkpoint_read), read by rank 0 and handed to all. Collective.
OHT_CHECKED oht_status oht_session_restore(oht_session *s, const char *rundir, bool moments, bool *found);

// Loader of this rank for a split, as configured. Local.
oht_loader_config oht_session_loader(const oht_session *s, oht_split split, int64_t global_batch,
                                     int64_t micro_batch, int64_t first, int64_t count);
// Feeds one micro-batch into a run: inputs and the identity of its samples. Local.
void oht_session_feed(oht_run *run, const oht_batch *batch);

typedef struct oht_step_result {
    bool stop; // a rank was asked to stop: nothing was computed, the state is that of the last step
    double loss, grad_norm; // before clipping
    double lr;
    int64_t labels; // of the global batch
    double flops; // executed by this rank
    double forward_s, backward_s, reduce_s, optimizer_s;
    double exposed_s; // of reduce_s: waiting for other ranks' data while this device had nothing else to do
    double loss_scale; // of this step, 0 unless fp16
    bool skipped; // fp16: the gradients were not finite under it; the parameters are unchanged
} oht_step_result;

// One optimizer step on this rank's part of a global batch: micro-batches, gradient all-reduce, clipping,
// AdamW, and state.step + 1. `pending` is the rank's status so far (a loader or log error): one failed rank
// makes all return its error. A loss or gradient that is not finite returns NUMERIC on all ranks before the
// update, naming the tensor (fp16: halves the loss scale and skips the update instead). observe: session's train_stats see this step (reset before, not yet reduced
// after). Collective.
OHT_CHECKED oht_status oht_step(oht_session *s, const oht_step_batch *batch, oht_status pending, bool observe,
                                oht_step_result *out);
// min(1, clip / (norm + 1e-6)); 1 when clip is 0.
double oht_clip_coefficient(double norm, double clip);
