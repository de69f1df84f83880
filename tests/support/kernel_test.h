// For tests of kernels: tensors over plain arrays, random data, comparison. Everything lives until the test
// program ends or kt_reset() is called.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/backend.h"
#include "oht/tensor.h"

// One backend for the whole test program: the CPU's or, when $OHT_KERNELS_EMULATED is set, the emulated GPU, whose memory is
// the host's too. Kernels may then touch only what is made here.
oht_backend *kt_backend(void);
void kt_reset(void); // frees every tensor

// Zeroed; dims end at the first 0.
oht_tensor kt_zeros(int64_t d0, int64_t d1, int64_t d2, int64_t d3);
oht_tensor kt_normal(uint32_t seed, float sigma, int64_t d0, int64_t d1, int64_t d2,
                     int64_t d3); // N(0, sigma^2)
oht_tensor kt_ints(const int32_t *value, int64_t n);
oht_tensor kt_bytes(const uint8_t *value, int64_t d0, int64_t d1);
oht_tensor kt_copy(oht_tensor t);
oht_tensor kt_from(const double *value, int64_t d0, int64_t d1, int64_t d2, int64_t d3);
double *kt_double(oht_tensor t); // the same values in double
double *kt_doubles(size_t n); // zeroed
void *kt_scratch(size_t bytes); // filled with NaN; a guard behind it is checked by kt_reset
void kt_poison(oht_tensor t); // fill with NaN, to see that outputs are overwritten

// max_i |a_i - b_i| / max(1, max |b|); NaN anywhere gives infinity.
double kt_error(oht_tensor a, const double *b);
bool kt_same_bits(oht_tensor a, oht_tensor b);

// Largest difference between a kernel's gradient of `param` and central differences of `loss` (double
// precision), at most `most` elements of it spread evenly; relative to max(1, largest derivative). h: step.
typedef double (*kt_loss)(const void *problem);
double kt_gradient_error(double *param, oht_tensor gradient, kt_loss loss, const void *problem, int64_t most,
                         double h);
