// The text of a token in a run's validation data, for the provenance of outliers. Needs data.path and, near it, the
// tokenizer's folder; where one is missing there is no text, which is no error. Local.
#pragma once

#include <stdbool.h>

#include "oht/config.h"

typedef struct oht_token_reader oht_token_reader;

typedef struct oht_token_text {
    char before[160], token[64], after[160];
} oht_token_text;

OHT_CHECKED oht_status oht_token_reader_create(oht_token_reader **out);
void oht_token_reader_destroy(oht_token_reader *r);
// Token `token` of row `sample` of /validation of cfg->data.path. false: no text to be had.
bool oht_token_read(oht_token_reader *r, const oht_config *cfg, int64_t sample, int64_t token,
                    oht_token_text *out);
