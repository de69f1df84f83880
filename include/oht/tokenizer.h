// Tokenizers: BERT's WordPiece (uncased) and OPT's byte-level BPE, driven by the published vocabulary files; ids equal to
// those of the Hugging Face tokenizers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

typedef enum oht_tokenizer_kind { OHT_TOKENIZER_WORDPIECE, OHT_TOKENIZER_BPE } oht_tokenizer_kind;

typedef struct oht_tokenizer oht_tokenizer;

typedef struct oht_token_ids { // a growing list of ids
    int32_t *id;
    size_t n, capacity;
} oht_token_ids;

// folder: holds vocab.txt (WordPiece) or vocab.json and merges.txt (BPE). DATA error if a file is missing or malformed.
OHT_CHECKED oht_status oht_tokenizer_open(oht_tokenizer **out, oht_tokenizer_kind kind, const char *folder);
void oht_tokenizer_close(oht_tokenizer *tok);
// Appends one row's ids: WordPiece: [CLS] ... [SEP]; BPE: </s> first, nothing after. text: UTF-8, ill-formed parts become
// U+FFFD; need not end in NUL. One tokenizer may be used by one thread at a time.
OHT_CHECKED oht_status oht_tokenize(oht_tokenizer *tok, const char *text, size_t bytes, oht_token_ids *out);
int64_t oht_tokenizer_size(const oht_tokenizer *tok);                     // ids are < size
int32_t oht_tokenizer_special(const oht_tokenizer *tok, const char *name); // "pad", "mask", "cls", "sep", "unk", "bos", "eos"; -1 = none
oht_tokenizer_kind oht_tokenizer_kind_of(const oht_tokenizer *tok);
// Text of one token, for reports ("##ing", " the"): UTF-8, escaped where not printable, into out.
void oht_tokenizer_decode(const oht_tokenizer *tok, int32_t id, char *out, size_t size);
