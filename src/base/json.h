// What every JSON that is written shares; the documents themselves are jansson's.
#pragma once

#include <jansson.h>

#include "oht/status.h"

json_t *oht_json_number(double value); // JSON has no NaN and no infinity: null
// The file PATH becomes root as text, whole or not at all (oht_file_replace); root is freed. flags: jansson's. Local.
OHT_CHECKED oht_status oht_json_replace(const char *path, json_t *root, size_t flags);
