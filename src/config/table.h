// The table of all keys of struct oht_config (table.c) and what its users share: parser, writer, help,
// checks. A key = name, type, place in the struct, default, limits, unit, help, and whether it may differ on
// resume.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/config.h"

typedef enum oht_key_type {
    OHT_KEY_INT, // int64_t
    OHT_KEY_FLOAT, // double
    OHT_KEY_BOOL, // bool
    OHT_KEY_ENUM, // a C enum; choices[i] names value i
    OHT_KEY_CHOICE, // char[], one of choices
    OHT_KEY_TEXT // char[]
} oht_key_type;

typedef struct oht_key {
    const char *name; // "model.layers"
    oht_key_type type;
    size_t offset, size; // place in struct oht_config
    const char *value; // default, as one writes it
    int64_t low, high; // INT: inclusive
    double flow, fhigh; // FLOAT: inclusive, unless open
    bool open_low, open_high; // FLOAT: the limit itself is excluded
    const char *const *choices; // ENUM, CHOICE: NULL-terminated
    const char *note; // added to the error of a value that is not allowed; NULL = none
    const char *unit; // NULL = none
    bool may_change; // may differ between a stored run and the one that resumes it
    const char *help;
} oht_key;

enum { OHT_KEY_TEXT_MAX = OHT_PATH }; // longest value as text, with its final 0

const oht_key *oht_keys(int *n);
const oht_key *oht_key_find(const char *name); // NULL = no such key

// Sets one key from text. where: "FILE:LINE" or NULL for the command line. CONFIG error names where, key,
// found, allowed.
OHT_CHECKED oht_status oht_key_set(oht_config *cfg, const oht_key *key, const char *text, const char *where);
// As oht_key_set, for a key the user named: a token embedding as wide as the model stays so when model.width
// changes.
OHT_CHECKED oht_status oht_key_assign(oht_config *cfg, const oht_key *key, const char *text,
                                      const char *where);
// Value as text that oht_key_set reads back to the same bits. out: OHT_KEY_TEXT_MAX bytes.
void oht_key_get(const oht_config *cfg, const oht_key *key, char *out);
// What the key accepts: "integer 1..1000", "number > 0", "opt | bert". Returns out.
const char *oht_key_allowed(const oht_key *key, char *out, size_t size);
const char *oht_key_type_name(const oht_key *key);

// The word of a list that is nearest to `word` (edit distance, transpositions count 1), NULL when nothing is
// near. next: calls back for word i, NULL ends.
const char *oht_nearest(const char *word, const char *(*next)(const void *ctx, int i), const void *ctx);
const char *oht_nearest_key(const char *word);
