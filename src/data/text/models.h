// The two word models behind include/oht/tokenizer.h. Each turns a stretch of text without special tokens
// into ids.
#pragma once

#include "data/text/vocab.h"
#include "oht/memory.h"
#include "oht/tokenizer.h"

typedef struct oht_wordpiece oht_wordpiece;
OHT_CHECKED oht_status oht_wordpiece_create(oht_wordpiece **out, const oht_vocab *vocab); // borrows vocab
void oht_wordpiece_destroy(oht_wordpiece *wp);
// text: well-formed UTF-8.
OHT_CHECKED oht_status oht_wordpiece_encode(oht_wordpiece *wp, const uint8_t *text, size_t n,
                                            oht_token_ids *out);

typedef struct oht_bpe oht_bpe;
OHT_CHECKED oht_status oht_bpe_create(oht_bpe **out, const oht_vocab *vocab,
                                      const char *merges_path); // keeps nothing of vocab
void oht_bpe_destroy(oht_bpe *bpe);
OHT_CHECKED oht_status oht_bpe_encode(oht_bpe *bpe, const uint8_t *text, size_t n, oht_token_ids *out);
// Bytes that a token string of the vocabulary stands for; returns their number, at most n (the length of
// text).
size_t oht_bpe_bytes(const uint8_t *text, size_t n, uint8_t *out);

static inline oht_status oht_push_id(oht_token_ids *out, int32_t id) {
    if (out->n == out->capacity) OHT_TRY(OHT_RESERVE(&out->id, &out->capacity, out->n, "token ids"));
    out->id[out->n++] = id;
    return OHT_OK;
}
