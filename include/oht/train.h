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

// ---- state: everything a checkpoint holds ----
typedef struct oht_state {
    float *param, *m, *v;   // flat, device memory
    float *grad;            // not saved
    float *best;            // parameters of choice.best_step; NULL unless train.keep_best
    oht_choice choice;
    int64_t step;           // completed updates
} oht_state;

// ---- checkpoints: RUNDIR/checkpoints/step-00001000.h5, rank 0 writes ----
// One dataset per parameter under /param/NAME (attribute hf_name), moments under /adam_m, /adam_v, the best parameters under
// /best; attributes step, config, and those of oht_choice.
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
