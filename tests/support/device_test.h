// For tests that compare a device's kernels with the CPU's: the plugin in $OHT_EMULATED (the emulated GPU) or, when
// $OHT_TEST_GPU is set, in $OHT_CUDA_PLUGIN; tensors on it, made from those of kernel_test.h.
#pragma once

#include "kernel_test.h"

// NULL: neither is there, skip. Only the entries that the plugin fills may be used.
oht_backend *dt_backend(void);
void dt_reset(void); // frees all device memory of the test

// Rounds the elements of a host tensor to a 16-bit type, so that both sides see the same numbers. Returns t.
oht_tensor dt_round(oht_tensor t, oht_dtype type);
// A copy on the device, floats as `type`; absent stays absent.
oht_tensor dt_up(oht_tensor t, oht_dtype type);
// Device memory of t's shape, filled with NaN.
oht_tensor dt_like(oht_tensor t, oht_dtype type);
void *dt_scratch(size_t bytes); // filled with NaN
// max |device - host| / max(floor, max |host|); NaN on one side alone gives infinity.
double dt_error(oht_tensor device, oht_tensor host, double floor);
// Waits; fails the program with the message of an error.
void dt_sync(void);
