// Outliers of known size in a known channel of a trained model, whose exact results stay the same to the last
// bit: one channel of a tensor is multiplied by a power of two where it is made and divided by it where it is
// used.
#pragma once

#include "oht/params.h"

typedef enum inject_place {
    INJECT_FFN, // output row of the feed-forward's first layer: ReLU(k z) = k ReLU(z); layer.L.ffn1.out
    INJECT_NORM, // gain and bias of the LayerNorm before it (OPT, pre-norm); layer.L.ln2.out
} inject_place;

// flat: parameters on the host. k: a power of two.
void inject_outlier(const oht_params *params, float *flat, inject_place place, int layer, int channel,
                    float k);
