// Threads that share a loop: f(ctx, i, worker) for i in [0, n), started in order of i. The caller is worker
// 0.
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "oht/status.h"

typedef struct team team;
typedef oht_status (*team_body)(void *ctx, int64_t i, int worker);

// threads >= 1 of them, the caller included. Signals stay with the threads that were there before.
OHT_CHECKED oht_status team_create(team **out, int threads);
// Returns when all are done: OK, or the error of the smallest i that failed (those after it may not have
// run). Ends early, with OK, once *stop is set. One caller at a time; allocates nothing.
OHT_CHECKED oht_status team_run(team *t, int64_t n, team_body body, void *ctx, const atomic_bool *stop);
void team_destroy(team *t);
