// Masking for BERT's task (spec transformers 3.1).
#pragma once

#include <stdint.h>

#include "oht/data.h"

typedef struct oht_masking {
    uint64_t threshold[3]; // of 32 random bits: selected; becomes [MASK]; becomes a random id
    uint32_t vocab_size;
    int32_t mask_id, special[4]; // special ids are never selected (-1 = none)
} oht_masking;

// Which row is masked: in training the place in the global batch of a step, in evaluation the row of the data
// set.
typedef struct oht_mask_key {
    uint64_t seed;
    bool evaluation;
    uint32_t step, sample;
} oht_mask_key;

oht_mask_key oht_mask_key_train(uint64_t seed, int64_t step, int64_t sample);
oht_mask_key oht_mask_key_evaluation(uint64_t mask_seed, int64_t row);

oht_masking oht_masking_of(const oht_text_info *info, double probability);

// Masks one row of T tokens in place. For each selected token, in order, its old id goes to labels and place0
// + its index to positions (room for T each). Returns how many were selected; none is possible. Local.
int64_t oht_mask_row(const oht_masking *masking, oht_mask_key key, int32_t *tokens, int64_t T, int32_t place0,
                     int32_t *labels, int32_t *positions);
