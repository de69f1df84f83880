// Simulated quantization of one row (spec transformers 5.1): x^ = step (clip(round(x / step) + zero, low,
// high) - zero). Rounding is to the nearest integer, ties to even; a real division, so that ties fall as in
// the reference; NaN passes.
#pragma once

#include <math.h>
#include <stdint.h>

#include "oht/backend.h"

// The integer of x, as a float, before and after clipping.
static inline float quant_code(float x, oht_fakequant q) {
    return rintf(x / q.step) + q.zero;
}
static inline float quant_clip(float code, oht_fakequant q) {
    code = code < q.low ? q.low : code;
    return code > q.high ? q.high : code;
}

static inline void fake_quantize_row(float *x, int64_t n, oht_fakequant q) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) x[j] = q.step * (quant_clip(quant_code(x[j], q), q) - q.zero);
}
