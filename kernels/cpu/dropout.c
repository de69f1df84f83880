// Dropout: element dropped when its 16 random bits are < p 65536, the others scaled (oht/random.h). Backward
// draws the same bits again, nothing is stored.
#include "cpu/cpu.h"
#include "cpu/philox.h"

enum { CHUNK = 4096 }; // elements whose bits a thread draws at once: 8 KiB, stays in L1

#define ROUND                                                                                                \
    {                                                                                                        \
        uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;                           \
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;                                                                 \
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;                                                                 \
        x1 = (uint32_t)p1;                                                                                   \
        x3 = (uint32_t)p0;                                                                                   \
        k0 += 0x9E3779B9u;                                                                                   \
        k1 += 0xBB67AE85u;                                                                                   \
    }

const uint16_t *dropout_bits(const oht_draw *draw, uint32_t sample, int64_t e0, int64_t n, uint16_t *buffer) {
    uint32_t *out = (uint32_t *)(void *)buffer;
    uint32_t first = (uint32_t)(e0 / 8);
    int64_t blocks = (e0 + n + 7) / 8 - e0 / 8;
    uint32_t site = ((uint32_t)OHT_DRAW_DROPOUT << 24) | (draw->site & 0xffffffu), step = dropout_step(draw);
    uint32_t key0 = (uint32_t)draw->seed, key1 = (uint32_t)(draw->seed >> 32);
#pragma omp simd
    for (int64_t i = 0; i < blocks; i++) {
        uint32_t x0 = first + (uint32_t)i, x1 = sample, x2 = step, x3 = site, k0 = key0, k1 = key1;
        // clang-format off
        ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND
        // clang-format on
        out[4 * i + 0] = x0;
        out[4 * i + 1] = x1;
        out[4 * i + 2] = x2;
        out[4 * i + 3] = x3;
    }
    return buffer + e0 % 8;
}

// y = (x or 0) + (add ? y : 0) + f mask scale, on one chunk
static void chunk(float *y, const float *x, const float *f, const uint16_t *bits, uint32_t threshold,
                  float scale, int64_t n) {
    if (x) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] + (bits[i] < threshold ? 0.0f : f[i] * scale);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = bits[i] < threshold ? 0.0f : f[i] * scale;
    }
}

// y = x + Drop(f), x NULL: y = Drop(f). x may be y.
static void apply(oht_backend *be, float *y, const float *x, const float *f, int64_t B, int64_t n,
                  const oht_draw *draw) {
    uint32_t threshold = oht_dropout_threshold(draw->p);
    float scale = oht_dropout_scale(draw->p);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(be->threads) if (B * n > CPU_SMALL) schedule(static)
    for (int64_t c = 0; c < B * chunks; c++) {
        int64_t b = c / chunks, e0 = c % chunks * CHUNK, m = min_i64(CHUNK, n - e0), at = b * n + e0;
        _Alignas(CPU_LINE) uint16_t buffer[CHUNK + DROPOUT_SLACK];
        const uint16_t *bits = dropout_bits(draw, dropout_sample(draw, b), e0, m, buffer);
        chunk(y + at, x ? x + at : NULL, f + at, bits, threshold, scale, m);
    }
}

void dropout_add_cpu(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop) {
    int64_t B = f.dim[0], count = oht_tensor_count(f);
    if (B > 0) apply(be, oht_f32(y), oht_f32(x), oht_f32(f), B, count / B, drop);
}

void dropout_bwd_cpu(oht_backend *be, oht_tensor df, oht_tensor dy, const oht_draw *drop, bool add) {
    int64_t B = dy.dim[0], count = oht_tensor_count(dy);
    if (B > 0) apply(be, oht_f32(df), add ? oht_f32(df) : NULL, oht_f32(dy), B, count / B, drop);
}

void add_cpu(oht_backend *be, oht_tensor y, oht_tensor x) {
    float *yp = oht_f32(y);
    const float *xp = oht_f32(x);
    int64_t n = oht_tensor_count(y);
#pragma omp parallel for simd num_threads(be->threads) if (n > CPU_SMALL) schedule(static)
    for (int64_t i = 0; i < n; i++) yp[i] += xp[i];
}
