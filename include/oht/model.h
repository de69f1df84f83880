// A model: its parameter table and one function that records its forward pass (src/models/opt.c, bert.c).
#pragma once

#include "oht/config.h"
#include "oht/op.h"
#include "oht/params.h"

typedef struct oht_model oht_model;

// Builds the parameter table for `tokens` = T (alpha and positions depend on it). CONFIG error if T exceeds
// the positions.
OHT_CHECKED oht_status oht_model_create(oht_model **out, const oht_model_config *cfg, int64_t tokens);
void oht_model_destroy(oht_model *m);
const oht_params *oht_model_params(const oht_model *m);
// Records the forward pass and loss for the graph's mode and capacity. padded: the data has short rows, feed
// the mask. recompute: each block is a recomputation scope. *loss is for oht_plan.
OHT_CHECKED oht_status oht_model_record(const oht_model *m, oht_graph *g, bool padded, bool recompute,
                                        oht_value *loss);
oht_task oht_model_task(const oht_model_config *cfg);
const char *oht_model_type_name(oht_model_type type);
