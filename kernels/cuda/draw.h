// Dropout draws on the device: the same bits as kernels/cpu/dropout.c for the same oht_draw. Philox4x32-10 (Salmon et al.
// 2011), counter {element / 8, sample, step, purpose << 24 | site}; element e takes half-word e % 8 of its block.
#pragma once

#include "cuda/warp.h"
#include "oht/random.h"

struct draws {
    uint32_t key0, key1, step, site, sample0, stride;
    uint32_t threshold; // dropped iff half-word < threshold; 0: no dropout
    float scale;
    const uint32_t *now; // added to step and sample0; NULL = none
};

static inline draws make_draws(const oht_draw *d) {
    draws r = {(uint32_t)d->seed, (uint32_t)(d->seed >> 32),
               d->step,           ((uint32_t)OHT_DRAW_DROPOUT << 24) | (d->site & 0xffffffu),
               d->sample0,        d->stride,
               0,                 1.0f,
               d->now};
    if (d->p > 0.0f) r.threshold = oht_dropout_threshold(d->p), r.scale = oht_dropout_scale(d->p);
    return r;
}

__device__ __forceinline__ uint4 draw_block(const draws &d, uint32_t sample, uint32_t index) {
    uint32_t x0 = index, x1 = d.sample0 + sample * d.stride, x2 = d.step, x3 = d.site, k0 = d.key0, k1 = d.key1;
    if (d.now) {
        const uint2 now = gpu_load_here((const uint2 *)d.now); // not kept in registers between draws
        x2 += now.x, x1 += now.y;
    }
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)p1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(x0, x1, x2, x3);
}

// Half-words of `rows` rows of `cols` elements, row r beginning at element first + r * pitch of the sample: to shared
// bits (rows, ld), ld >= cols + 8 and a multiple of 8, element c of row r at bits[r * ld + (first + r * pitch) % 8 + c].
// Threads id, id + threads, ... work together; the caller synchronizes.
__device__ __forceinline__ void draw_rows(uint16_t *bits, int ld, const draws &d, uint32_t sample, int64_t first, int64_t pitch,
                                          int rows, int cols, int id, int threads) {
    int blocks = cols / 8 + 1;
    for (int i = id; i < rows * blocks; i += threads) {
        int r = i / blocks, k = i - r * blocks;
        int64_t e = first + r * pitch;
        if (8 * k >= (int)(e % 8) + cols) continue;
        *(uint4 *)(bits + r * ld + 8 * k) = draw_block(d, sample, (uint32_t)(e / 8) + (uint32_t)k);
    }
}
__device__ __forceinline__ float kept(const draws &d, uint16_t bits) { // 0 or the scale
    return bits < d.threshold ? 0.0f : d.scale;
}
