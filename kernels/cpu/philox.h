// Dropout bits of a stretch of elements (kernels/philox.h), many blocks side by side so that GCC vectorises.
#pragma once

#include "../philox.h"

// 16 bits of elements e0 .. e0 + n - 1; `buffer` has room for n + DROPOUT_SLACK of them. Returns where e0's
// are.
enum { DROPOUT_SLACK = 32 };
const uint16_t *dropout_bits(const oht_draw *draw, uint32_t sample, int64_t e0, int64_t n, uint16_t *buffer);
