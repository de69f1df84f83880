// Between the files of the emulation: how a library stand-in puts work into a stream.
#pragma once

#include <functional>

#include "emulation/device.h"

namespace oht_emu {
int option(const char *name, int otherwise);
void enqueue(cudaStream_t stream, std::function<void()> work);
void *poisoned(size_t bytes); // filled with NaN; from the C library, freed by free
void run_grid(const char *name, dim3 grid, dim3 block, size_t smem, const std::function<void()> &body);
} // namespace oht_emu
