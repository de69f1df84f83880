// What the tests of the loader share: a small text file whose every token is known, and a check of all that a step holds.
#pragma once

#include "check.h"
#include "data/text_file.h"
#include "oht/data.h"

enum { T = 12, VOCAB = 900, PAD = 0, CLS = 1, SEP = 2, MASK = 3 };

extern const oht_text_info lt_plain;

int lt_make_folder(void **state); // group fixtures
int lt_remove_folder(void **state);
const char *lt_path(const char *name); // in the folder; good until the next call
// A file as `prepare` writes it, with one token changed if bad_row >= 0.
void lt_write(const char *path, const oht_text_info *info, oht_split bad_split, int64_t bad_row, int64_t bad_column,
              uint32_t bad_id);
const char *lt_file(const char *name, const oht_text_info *info); // nothing changed; returns lt_path
oht_loader_config lt_config(const oht_text_info *info, oht_split split, int64_t batch, int64_t micro, int rank, int size);
// Checks everything in one rank's step against the definition; returns the labels that count.
int64_t lt_check_step(const oht_step_batch *s, const oht_text_info *info, const oht_loader_config *cfg, int64_t index);
