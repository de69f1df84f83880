// Part of `ohtrain bench`: what preparing images costs.
#pragma once

#include <stdbool.h>

#include "oht/session.h"

typedef struct bench_data {
    bool measured; // else there is no image file
    double rate; // images a second on one core, decoded, augmented and mixed: mean over ranks of processor time
    double waiting; // share of a step in which the trainer waits for its data, the largest of all ranks
} bench_data;

// Needs an allocated session with the training part; takes `steps` optimizer steps. Collective.
OHT_CHECKED oht_status bench_images(oht_session *s, int64_t steps, bench_data *out);
