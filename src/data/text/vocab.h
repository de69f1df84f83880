// Vocabulary: token strings and ids, both ways. Read from vocab.txt (one token a line) or vocab.json (string
// -> id).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

typedef struct oht_vocab oht_vocab;

// Whole file into memory (NUL after the last byte, which is not counted); oht_free. DATA error if missing or
// larger than limit.
OHT_CHECKED oht_status oht_read_vocab_file(char **out, size_t *n, const char *path);

OHT_CHECKED oht_status oht_vocab_read_txt(oht_vocab **out, const char *path);
OHT_CHECKED oht_status oht_vocab_read_json(oht_vocab **out, const char *path);
void oht_vocab_close(oht_vocab *vocab);

int64_t oht_vocab_size(const oht_vocab *vocab); // largest id + 1
size_t oht_vocab_longest(const oht_vocab *vocab); // bytes of the longest token
// Bytes of token id (not NUL-terminated); NULL if there is no such id.
const uint8_t *oht_vocab_text(const oht_vocab *vocab, int64_t id, size_t *n);

// The hash runs along the bytes, so that all prefixes of a word are hashed in one pass.
enum { OHT_VOCAB_LONGEST = 1024 };
#define OHT_VOCAB_HASH 0xcbf29ce484222325u // FNV-1a
static inline uint64_t oht_vocab_hash(uint64_t hash, const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ s[i]) * 0x100000001b3u;
    return hash;
}
// Id of the token made of `first` followed by `second`, -1 if there is none; hash is that of the whole.
int32_t oht_vocab_find(const oht_vocab *vocab, uint64_t hash, const uint8_t *first, size_t n_first,
                       const uint8_t *second, size_t n_second);
int32_t oht_vocab_id(const oht_vocab *vocab, const char *token); // -1 = none
