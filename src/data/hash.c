// One number for what a step trains on (run.log = debug): the sum modulo 2^64 over samples of the first 8 bytes of
// SHA-256(place in the global batch, field, bytes). A sum does not care in which order, in which micro-batch and on which rank
// the samples are, so two runs that see the same data print the same numbers.
#include <sha2.h>
#include <string.h>

#include "oht/data.h"

static uint64_t digest(uint64_t sample, int field, const void *bytes, size_t n) {
    SHA2_CTX hash;
    uint8_t out[SHA256_DIGEST_LENGTH];
    uint64_t first, key[2] = {sample, (uint64_t)field};
    SHA256Init(&hash);
    SHA256Update(&hash, (const uint8_t *)key, sizeof(key));
    SHA256Update(&hash, bytes, n);
    SHA256Final(out, &hash);
    memcpy(&first, out, sizeof(first));
    return first;
}

static uint64_t sample_of(const oht_batch *b, int64_t row) {
    return b->sample0 + (uint64_t)row * b->stride;
}

// Masked positions come packed: each counts by itself, with the sample it lies in, its place there and its label.
static uint64_t picked(const oht_batch *b, int64_t tokens) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < b->picked; i++) {
        int64_t at = oht_batch_i32(b, OHT_FIELD_POSITIONS)[i];
        int64_t what[2] = {at % tokens, oht_batch_i32(b, OHT_FIELD_LABELS)[i]};
        sum += digest(sample_of(b, at / tokens), OHT_FIELD_POSITIONS, what, sizeof(what));
    }
    return sum;
}

static uint64_t of_batch(const oht_batch *b) {
    uint64_t sum = 0;
    bool packed = b->field[OHT_FIELD_POSITIONS].data != NULL;
    for (int f = 0; f < OHT_FIELD_COUNT; f++) {
        const oht_array *a = &b->field[f];
        if (!a->data || b->rows == 0 || (packed && (f == OHT_FIELD_POSITIONS || f == OHT_FIELD_LABELS))) continue;
        size_t n = a->bytes / (size_t)b->rows;
        for (int64_t i = 0; i < b->rows; i++)
            sum += digest(sample_of(b, i), f, (const uint8_t *)a->data + (size_t)i * n, n);
    }
    if (packed && b->rows > 0)
        sum += picked(b, (int64_t)(b->field[OHT_FIELD_TOKENS].bytes / sizeof(int32_t)) / b->rows);
    return sum;
}

uint64_t oht_step_hash(const oht_step_batch *step) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < step->n_micro; i++) sum += of_batch(&step->micro[i]);
    return sum;
}
