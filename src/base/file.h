// Steps of an atomic replacement, shared by plain files and HDF5 files. Private to src/base.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

// Records "cannot DOING PATH: errno text" as IO, with a remedy where there is one.
oht_status oht_file_error(const char *path, const char *doing, int error);
// IO error if the path is a folder, a pipe or a device, which must not be replaced by a file.
OHT_CHECKED oht_status oht_file_replaceable(const char *path);
// Opens a fresh temporary file for reading and writing.
OHT_CHECKED oht_status oht_file_tmp_open(const char *tmp, int *fd);
// fsync, close (*fd becomes -1), rename to path, fsync of the folder. On failure tmp is gone and path is as
// it was.
OHT_CHECKED oht_status oht_file_tmp_finish(const char *tmp, const char *path, int *fd);
// Writes all bytes at offset; 0 or errno.
int oht_file_write_all(int fd, const void *bytes, size_t n, int64_t offset);
