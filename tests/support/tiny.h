// A small data file and small models for tests of training: token t is followed by 3 t + 7 (mod what the
// vocabulary has beside special ids), in data for masking by t itself, with some noise, so that a model
// learns within tens of steps.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/dist.h"
#include "oht/status.h"

enum { TINY_TOKENS = 16, TINY_VOCAB = 61, TINY_SPECIAL = 5 };

// /train/tokens and /validation/tokens of `rows` and `validation` rows.
OHT_CHECKED oht_status tiny_text(const char *path, bool mlm, bool padded, int64_t rows, int64_t validation);
// Two layers of width 32; softmax_1; dropout on; batch 8 in micro-batches of 4; no warm-up.
void tiny_config(oht_config *cfg, oht_model_type type, const char *data);
// 3 series of 150 hours, noisy waves, prepared as PATH (rank 0 works; collective): 90 rows of training, 30 of validation, 30 of
// test. Windows of 10 + 3 rows are 78, 28 and 28.
OHT_CHECKED oht_status tiny_series(oht_comm *comm, const char *path);
// STanHop-Net for them: two blocks of width 16, dropout on, batch 11 in micro-batches of 3: an epoch of 78 windows has 8 steps,
// the last of one window. Adam without decay, clip 5, type1, 3 epochs.
void tiny_series_config(oht_config *cfg, const char *data);
// A new folder below TMPDIR (or /tmp); removed with tiny_remove.
void tiny_folder(char out[256]);
void tiny_remove(const char *folder);
