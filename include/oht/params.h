// Parameters: one table per model, one flat fp32 buffer. Gradients and both AdamW moments have the same layout, so norm,
// reduction and update are single calls. Flat order is the reverse of registration (the order in which backward completes
// the gradients; a tied table, registered first, comes last); a group stays in ascending order and contiguous, so that
// q, k, v form one (3C, C) matrix.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/status.h"

typedef enum oht_init { OHT_INIT_ZERO, OHT_INIT_CONSTANT, OHT_INIT_NORMAL, OHT_INIT_UNIFORM } oht_init;

typedef enum oht_param_role { // for the no-decay rules
    OHT_ROLE_WEIGHT,
    OHT_ROLE_BIAS,      // name contains "bias"
    OHT_ROLE_NORM_GAIN, // LayerNorm.weight
    OHT_ROLE_POSITION,  // position embedding, class token
} oht_param_role;

typedef struct oht_param {
    char name[96];     // layer.3.attn.q.weight
    char hf_name[128]; // model.decoder.layers.3.self_attn.q_proj.weight
    int rank;
    int64_t dim[4];
    int64_t count;
    oht_init init;
    float init_arg;    // constant, standard deviation, or bound of U(-bound, bound)
    int64_t zero_row;  // row set to zero after initialisation ([PAD]), -1 = none
    oht_param_role role;
    int group;         // >= 0: contiguous with its neighbours of the same group
    size_t offset;     // floats from the start of the flat buffer; set by oht_params_layout
} oht_param;

typedef struct oht_params {
    oht_param *item;
    int n;
    size_t capacity;
    int n_groups;
    size_t flat_count; // floats, padding included; set by oht_params_layout
} oht_params;

OHT_CHECKED oht_status oht_params_create(oht_params **out);
void oht_params_destroy(oht_params *params);
// Registers one parameter; *id is its index. Fields offset and count are computed.
OHT_CHECKED oht_status oht_params_add(oht_params *params, const oht_param *param, int *id);
OHT_CHECKED oht_status oht_params_layout(oht_params *params);
int64_t oht_params_count(const oht_params *params); // without padding: the published number
const oht_param *oht_params_find(const oht_params *params, const char *name);
// Fills flat (host) from the table: element e of a parameter is a pure function of (seed, its name, e), so models that
// differ in their gates only start from the same weights elsewhere.
void oht_params_init(const oht_params *params, float *flat, uint64_t seed);
bool oht_param_decays(const oht_param *param, oht_no_decay rule);
