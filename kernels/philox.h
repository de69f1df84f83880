// Dropout bits, the same numbers as oht_random_block (oht/random.h) on every device. Philox4x32-10 (Salmon et al. 2011).
// Element e of a sample takes half-word e % 8 of block e / 8; half-word 2 i is the low half of word i, 2 i + 1 its high
// half (the order of a little-endian array of uint16_t).
#pragma once

#include <stdint.h>

#include "oht/random.h"

#if defined(__CUDACC__)
#define OHT_HOST_DEVICE __host__ __device__
#else
#define OHT_HOST_DEVICE
#endif

static inline OHT_HOST_DEVICE uint32_t dropout_sample(const oht_draw *draw, int64_t b) {
    return draw->sample0 + (draw->now ? draw->now[1] : 0) + (uint32_t)b * draw->stride;
}
static inline OHT_HOST_DEVICE uint32_t dropout_step(const oht_draw *draw) {
    return draw->step + (draw->now ? draw->now[0] : 0);
}

// Block `index` of (sample, step, site with its purpose), ten rounds.
static inline OHT_HOST_DEVICE void philox_block(uint32_t out[4], uint32_t index, uint32_t sample,
                                                uint32_t step, uint32_t site, uint32_t k0, uint32_t k1) {
    uint32_t x0 = index, x1 = sample, x2 = step, x3 = site;
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)p1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

// The four words that hold the bits of elements 8 block .. 8 block + 7 of a sample.
static inline OHT_HOST_DEVICE void dropout_block(uint32_t out[4], const oht_draw *draw, uint32_t sample,
                                                 uint32_t block) {
    philox_block(out, block, sample, dropout_step(draw),
                 ((uint32_t)OHT_DRAW_DROPOUT << 24) | (draw->site & 0xffffffu), (uint32_t)draw->seed,
                 (uint32_t)(draw->seed >> 32));
}
static inline OHT_HOST_DEVICE uint32_t dropout_half(const uint32_t word[4], int64_t e) {
    return word[(e & 7) >> 1] >> ((e & 1) * 16) & 0xffffu;
}
