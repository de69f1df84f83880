// Dropout bits: the same numbers as oht_random_block (oht/random.h), many blocks side by side so that GCC
// vectorises. Philox4x32-10 (Salmon et al. 2011). Element e of a sample takes half-word e % 8 of block e / 8;
// half-word 2 i is the low half of word i, 2 i + 1 its high half (the order of a little-endian array of
// uint16_t).
#pragma once

#include <stdint.h>

#include "oht/random.h"

// 16 bits of elements e0 .. e0 + n - 1; `buffer` has room for n + DROPOUT_SLACK of them. Returns where e0's
// are.
enum { DROPOUT_SLACK = 32 };
const uint16_t *dropout_bits(const oht_draw *draw, uint32_t sample, int64_t e0, int64_t n, uint16_t *buffer);

static inline uint32_t dropout_sample(const oht_draw *draw, int64_t b) {
    return draw->sample0 + (uint32_t)b * draw->stride;
}
