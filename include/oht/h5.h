// HDF5 files behind one wrapper (src/base/h5_*.c): nothing else calls H5*. Reading treats every file as hostile
// (design: HDF5 in practice): links, types, shapes, layout, filters and storage are checked before anything is allocated.
// Writing goes to PATH.tmp, is fsynced and renamed, so a reader sees the old file or the whole new one. Local: rank 0
// alone writes. Errors: DATA for a bad file (file, dataset, found, expected), IO for the disk.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "oht/status.h"

typedef struct oht_h5 oht_h5;

typedef enum oht_h5_type { OHT_H5_F32, OHT_H5_F64, OHT_H5_I32, OHT_H5_I64, OHT_H5_U8, OHT_H5_U16, OHT_H5_U32, OHT_H5_STRING } oht_h5_type;

enum { OHT_H5_RANK = 4 };

typedef struct oht_h5_shape {
    oht_h5_type type;
    int rank;
    int64_t dim[OHT_H5_RANK];
    int64_t chunk[OHT_H5_RANK]; // 0 in chunk[0] = contiguous
} oht_h5_shape;

// ---- files ----
void oht_h5_silence(void); // switches HDF5's own error printing off; call once per thread that uses HDF5
OHT_CHECKED oht_status oht_h5_open(oht_h5 **out, const char *path);   // read-only
OHT_CHECKED oht_status oht_h5_create(oht_h5 **out, const char *path); // PATH.tmp, latest format; commit renames
// In memory: a new file, or the contents of an existing one; publish writes it whole to path.
OHT_CHECKED oht_status oht_h5_create_memory(oht_h5 **out, const char *path);
OHT_CHECKED oht_status oht_h5_load_memory(oht_h5 **out, const char *path);
OHT_CHECKED oht_status oht_h5_publish(oht_h5 *file); // memory files: PATH.tmp, fsync, rename, fsync of the folder; stays open
OHT_CHECKED oht_status oht_h5_commit(oht_h5 *file);  // created files: flush, fsync, rename, fsync of the folder; closes, also on failure
void oht_h5_close(oht_h5 *file); // a created file that was not committed leaves nothing behind; NULL is fine
const char *oht_h5_path(const oht_h5 *file);

// ---- datasets ----
bool oht_h5_exists(oht_h5 *file, const char *name); // group or dataset, damaged or not
// Shape after all checks; rank and type must be as expected: type = -1 or rank = -1 accept any.
OHT_CHECKED oht_status oht_h5_shape_of(oht_h5 *file, const char *name, int rank, int type, oht_h5_shape *out);
// Rows [first, first + rows) of axis 0, converted to `type` in memory; DATA error if `type` cannot hold the file's type.
OHT_CHECKED oht_status oht_h5_read(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type, void *out);
// Creates a dataset, and missing groups. unlimited: axis 0 can grow (then chunked). checksum: fletcher32 (then chunked).
OHT_CHECKED oht_status oht_h5_make(oht_h5 *file, const char *name, const oht_h5_shape *shape, bool unlimited, bool checksum);
// Writes rows [first, first + rows), growing axis 0 if needed.
OHT_CHECKED oht_status oht_h5_write(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type, const void *data);
// Cuts axis 0 to `rows` (resume).
OHT_CHECKED oht_status oht_h5_truncate(oht_h5 *file, const char *name, int64_t rows);
// Removes a dataset, or a group with all below it.
OHT_CHECKED oht_status oht_h5_delete(oht_h5 *file, const char *name);
// A dataset of strings (variable-length UTF-8).
OHT_CHECKED oht_status oht_h5_write_strings(oht_h5 *file, const char *name, const char *const *text, int64_t n);
// n strings; the array and each string freed with oht_free.
OHT_CHECKED oht_status oht_h5_read_strings(oht_h5 *file, const char *name, char ***text, int64_t *n);
// Calls visit with the full name of every dataset below group (at any depth), in name order.
OHT_CHECKED oht_status oht_h5_each(oht_h5 *file, const char *group, oht_status (*visit)(void *ctx, const char *name), void *ctx);

// ---- attributes: of a dataset or group, "/" for the file ----
OHT_CHECKED oht_status oht_h5_set_text(oht_h5 *file, const char *object, const char *attribute, const char *text);
OHT_CHECKED oht_status oht_h5_set_int(oht_h5 *file, const char *object, const char *attribute, int64_t value);
OHT_CHECKED oht_status oht_h5_set_float(oht_h5 *file, const char *object, const char *attribute, double value);
bool oht_h5_has(oht_h5 *file, const char *object, const char *attribute);
OHT_CHECKED oht_status oht_h5_get_text(oht_h5 *file, const char *object, const char *attribute, char *out, size_t size);
// Long text (a configuration); freed with oht_free.
OHT_CHECKED oht_status oht_h5_get_long_text(oht_h5 *file, const char *object, const char *attribute, char **out);
OHT_CHECKED oht_status oht_h5_get_int(oht_h5 *file, const char *object, const char *attribute, int64_t *out);
OHT_CHECKED oht_status oht_h5_get_float(oht_h5 *file, const char *object, const char *attribute, double *out);
// Makes `scale` a dimension scale and attaches it to axis of dataset under `label` (h5py: dims[axis].label; xarray: coordinate).
OHT_CHECKED oht_status oht_h5_attach_scale(oht_h5 *file, const char *dataset, int axis, const char *scale, const char *label);

// ---- plain files ----
// Opens a file for reading; NULL, or why not. Only regular files: a pipe or a device would make us wait, maybe for ever.
const char *oht_file_open(FILE **out, const char *path);
// IO error where PATH could not be written: its folder is missing or closed, or it is no file. For results that come at the end.
OHT_CHECKED oht_status oht_file_check_place(const char *path);
// Writes text to PATH.tmp, fsync, rename, fsync of the folder.
OHT_CHECKED oht_status oht_file_replace(const char *path, const void *bytes, size_t n);
OHT_CHECKED oht_status oht_make_folder(const char *path); // mkdir -p
