// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011; Random123 library): every draw is a pure function
// of (seed, purpose, site, step, sample, index). No state, so dropout, masks and order depend neither on history nor
// on the number of ranks. Every backend draws alike: this layout is a contract.
//
//   key     = low and high word of seed
//   counter = { index, sample, step, purpose << 24 | site }
//
// `index` counts blocks of 128 bits: dropout takes 16 bits an element (element e: half-word e % 8 of block e / 8).
#pragma once

#include <stdint.h>

#include <Random123/philox.h>

typedef enum oht_purpose {
    OHT_DRAW_INIT = 1,    // parameter initialisation: sample, step = low, high word of the name's hash, index = element / 4
    OHT_DRAW_DROPOUT = 2, // site = dropout place in the graph, sample = place in the global batch
    OHT_DRAW_ORDER = 3,   // shuffling: step = epoch
    OHT_DRAW_MASK = 4,    // MLM masking: step = optimizer step (evaluation: see src/data/masking.c)
    OHT_DRAW_TEST = 5,
    OHT_DRAW_IMAGE = 6, // crop, flip, RandAugment: step = epoch, sample = row of the file, index = draws in order
    OHT_DRAW_MIX = 7,   // mixup, cutmix: sample = mixing group of the global batch, index = draws in order
} oht_purpose;

// Where a tensor's dropout mask comes from: row b of the tensor's first axis is sample sample0 + b * stride of the
// global batch; elements count from 0 inside one sample. An element is dropped when its 16 bits are < p * 65536.
typedef struct oht_draw {
    uint64_t seed;
    uint32_t step;
    uint32_t site;
    uint32_t sample0;
    uint32_t stride;
    float p; // probability of dropping; 0 switches dropout off
    const uint32_t *now; // device memory, 8-byte aligned: two numbers added to step and sample0 when a kernel draws; NULL = none
} oht_draw;

static inline philox4x32_ctr_t oht_random_block(uint64_t seed, oht_purpose purpose, uint32_t site, uint32_t step,
                                                uint32_t sample, uint32_t index) {
    philox4x32_ctr_t ctr = {{index, sample, step, ((uint32_t)purpose << 24) | (site & 0xffffffu)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    return philox4x32(ctr, key);
}

// Uniform in [0, 1) from 32 bits (24 are used, exact in float), and in (0, 1] for logarithms.
static inline float oht_uniform(uint32_t bits) {
    return (float)(bits >> 8) * 0x1p-24f;
}
static inline float oht_uniform_open(uint32_t bits) {
    return (float)((bits >> 8) + 1) * 0x1p-24f;
}

// Threshold of dropout: drop iff half-word < threshold; the kept ones are scaled by oht_dropout_scale(p), exact for
// the probability really used, threshold / 65536.
static inline uint32_t oht_dropout_threshold(float p) {
    return (uint32_t)(p * 65536.0f + 0.5f);
}
static inline float oht_dropout_scale(float p) {
    return 65536.0f / (65536.0f - (float)oht_dropout_threshold(p));
}
