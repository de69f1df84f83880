// See json.h.
#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/h5.h"

json_t *oht_json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

oht_status oht_json_replace(const char *path, json_t *root, size_t flags) {
    char *text = json_dumps(root, flags);
    json_decref(root);
    if (!text) OHT_FAIL(OHT_MEMORY, "cannot build the JSON of %s", path);
    oht_status status = oht_file_replace(path, text, strlen(text));
    free(text);
    return status;
}
