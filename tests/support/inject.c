// See inject.h.
#include "inject.h"

#include <stdio.h>
#include <stdlib.h>

static float *find(const oht_params *params, float *flat, int layer, const char *name, int64_t *width) {
    char full[96];
    snprintf(full, sizeof(full), "layer.%d.%s", layer, name);
    const oht_param *p = oht_params_find(params, full);
    if (!p) abort();
    *width = p->rank == 2 ? p->dim[1] : 1;
    return flat + p->offset;
}

// Row `channel` of rows x width, or with width 1 one element.
static void scale_row(float *x, int64_t width, int channel, float k) {
    for (int64_t j = 0; j < width; j++) x[channel * width + j] *= k;
}

void inject_outlier(const oht_params *params, float *flat, inject_place place, int layer, int channel,
                    float k) {
    const char *made[2] = {place == INJECT_FFN ? "ffn1.weight" : "ln2.weight",
                           place == INJECT_FFN ? "ffn1.bias" : "ln2.bias"};
    const char *used = place == INJECT_FFN ? "ffn2.weight" : "ffn1.weight";
    int64_t width;
    for (int i = 0; i < 2; i++) {
        float *x = find(params, flat, layer, made[i], &width);
        scale_row(x, width, channel, k);
    }
    float *w = find(params, flat, layer, used, &width);
    char full[96];
    snprintf(full, sizeof(full), "layer.%d.%s", layer, used);
    int64_t rows = oht_params_find(params, full)->dim[0];
    for (int64_t r = 0; r < rows; r++) w[r * width + channel] /= k;
}
