// Training and evaluation: the run directory, checkpoints, schedules, the loop.
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/config.h"
#include "oht/dist.h"
#include "oht/model.h"
#include "oht/outliers.h"
#include "oht/signals.h"
#include "oht/status.h"

// Learning rate of the update after t completed ones (spec transformers 3; the first update of a warm-up uses 0). Local.
double oht_learning_rate(const oht_train_config *cfg, int64_t t);

// ---- evaluations compared ----
typedef struct oht_choice { // all 0: none yet
    double best_loss;  // oht_eval_criterion of the best one
    int64_t best_step;
    int64_t worse;     // evaluations since that did not reach it
    int64_t seen_step; // of the last one that was taken
} oht_choice;
// Takes one more; true: it is the best so far. Local.
bool oht_choice_take(oht_choice *c, int64_t step, double loss);
bool oht_choice_stops(const oht_choice *c, int64_t patience); // patience 0: never

// ---- shares: how the flat buffers are cut (src/train/shard.c) ----
// Pieces of `piece` floats, the last one shorter, of `padded` in all; each piece is `size` equal shares, share r is rank r's.
typedef struct oht_shares {
    size_t flat, padded, piece; // floats; padded >= flat: what a buffer has that is reduced in pieces
    int rank, size;
} oht_shares;
oht_shares oht_shares_of(size_t flat, size_t piece_bytes, int rank, int size); // Local.
size_t oht_shares_piece(const oht_shares *s, size_t i); // floats of piece i, 0 behind the last one. Local.
// Walks the stretches that `rank` owns, up to `end` of the flat layout: from {start, 0, 0} on, false behind the last one.
// packed: where a stretch lies among the rank's own shares. Local.
typedef struct oht_stretch {
    size_t first, count, packed;
} oht_stretch;
bool oht_shares_next(const oht_shares *s, int rank, size_t end, oht_stretch *at);

// Both moments of AdamW, each rank holding its shares only. Rank 0 asks for stretches of the whole layout, while the others
// serve until it ends; which: 0 = m, 1 = v. host: rank 0's memory.
typedef struct oht_shard oht_shard;
OHT_CHECKED oht_status oht_shard_create(oht_shard **out, oht_comm *comm, oht_backend *be, const oht_shares *shares, float *m,
                                        float *v); // Local. m, v: packed, borrowed.
void oht_shard_destroy(oht_shard *s);
OHT_CHECKED oht_status oht_shard_fetch(oht_shard *s, int which, size_t first, size_t n, float *host);
OHT_CHECKED oht_status oht_shard_store(oht_shard *s, int which, size_t first, size_t n, const float *host);
OHT_CHECKED oht_status oht_shard_end(oht_shard *s);
OHT_CHECKED oht_status oht_shard_serve(oht_shard *s); // the other ranks

// ---- state: everything a checkpoint holds ----
typedef struct oht_state {
    float *param, *m, *v;   // flat, device memory
    float *grad;            // not saved
    float *best;            // parameters of choice.best_step; NULL unless train.keep_best
    oht_choice choice;
    oht_shard *shard;       // not NULL: m and v are this rank's shares, packed
    int64_t step;           // steps taken; step - skipped of them changed the parameters
    // train.precision = fp16, else 0: the loss is multiplied by loss_scale (a power of two); steps since it last changed;
    // steps whose gradients were not finite under it.
    double loss_scale;
    int64_t good_steps, skipped;
} oht_state;

// ---- checkpoints: RUNDIR/checkpoints/step-00001000.h5, rank 0 writes ----
// Written and read by rank 0, while the others serve (oht_shard_serve) where moments are sharded; the file is the same.
// One dataset per parameter under /param/NAME (attribute hf_name), moments under /adam_m, /adam_v, the best parameters under
// /best; attributes step, config, those of oht_choice and of the loss scale.
OHT_CHECKED oht_status oht_checkpoint_write(const char *rundir, const oht_config *cfg, const oht_params *params,
                                            oht_backend *be, const oht_state *state, int64_t keep);
// Newest good checkpoint of a run directory into state; a damaged one is reported (warning) and the one before is used.
// *found = false when there is none at all. DATA error when all are damaged or the model differs. moments: everything training
// needs. Without: what is to be evaluated, the best parameters and their step where the file has them, else the last ones.
OHT_CHECKED oht_status oht_checkpoint_read(const char *rundir, const oht_params *params, oht_backend *be, oht_state *state,
                                           bool moments, bool *found);

// ---- evaluation ----
typedef struct oht_session oht_session; // session.h

// Loss (exact mean over labels), perplexity and outlier metrics over the split s->eval_split, at most max_batches global
// batches (0 = all), in file order. The session's eval_stats hold the reduced statistics afterwards. OHT_STOPPED when a rank
// was asked to stop. Collective; the same result on all ranks, and to rounding whatever their number.
OHT_CHECKED oht_status oht_evaluate(oht_session *s, int64_t max_batches, oht_eval_result *out);
// The same with another run of the session's model, its statistics into stats (NULL: none, and no outlier metrics).
OHT_CHECKED oht_status oht_evaluate_run(oht_session *s, oht_run *run, oht_stats *stats, int64_t max_batches, oht_eval_result *out);

// ---- training ----
// Trains as configured into rundir, resuming what is there. Returns OHT_STOPPED after SIGUSR1/SIGTERM and a checkpoint. Collective.
OHT_CHECKED oht_status oht_train(oht_comm *comm, const oht_config *cfg, const char *rundir);
