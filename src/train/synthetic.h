// A rank's part of a global batch of random samples, for bench: the same numbers whatever the number of ranks.
#pragma once

#include "oht/session.h"

typedef struct oht_synthetic oht_synthetic;

OHT_CHECKED oht_status oht_synthetic_create(oht_synthetic **out, const oht_session *s); // Local.
void oht_synthetic_destroy(oht_synthetic *b);
// The batch of one step, valid until the next call. Local, allocates nothing.
const oht_step_batch *oht_synthetic_next(oht_synthetic *b, int64_t step);
