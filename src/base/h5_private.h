// Parts of the HDF5 wrapper that its files share (h5_driver.c, h5_file.c, h5_check.c, h5_read.c, h5_write.c).
// Functions here expect the library's lock to be held: HDF5 is not thread-safe, and a loader thread reads
// while the main thread writes.
#pragma once

#include <hdf5.h>

#include "oht/h5.h"

enum {
    OHT_H5_SLOTS = 4, // datasets kept open per file: checks are paid once, not per read
    OHT_H5_MAX_CHUNK = 64 << 20, // bytes; a chunk is allocated whole when read
    OHT_H5_MAX_STRINGS = 1 << 20, // in one dataset
    OHT_H5_MAX_TEXT = 256 << 20 // bytes of text read at once
};

// Where a file that is written goes: a descriptor, or memory. The first failed write is remembered here and
// nothing is written after it (h5_driver.c).
typedef struct oht_h5_sink {
    int fd; // -1 = memory
    int error; // errno, 0 = fine
    unsigned char *bytes;
    size_t n, capacity;
} oht_h5_sink;

typedef enum oht_h5_mode { OHT_H5_READ, OHT_H5_CREATE, OHT_H5_MEMORY } oht_h5_mode;

typedef struct oht_h5_slot {
    char name[256]; // empty: the slot is free
    hid_t id;
    oht_h5_shape shape;
    uint64_t used;
} oht_h5_slot;

struct oht_h5 {
    hid_t id;
    hid_t driver; // of a file that is written
    oht_h5_mode mode;
    char *path, *tmp;
    int64_t bytes; // size on disk of what was opened; 0 for what we create ourselves
    oht_h5_sink sink;
    oht_h5_slot slot[OHT_H5_SLOTS];
    uint64_t clock;
};

// Takes the lock; the first caller sets the library up (silent, no plugins).
void oht_h5_lock(void);
void oht_h5_unlock(void);

// ---- h5_driver.c ----
hid_t oht_h5_driver_register(void);
// fapl: file access list that sends a file to the sink.
herr_t oht_h5_driver_use(hid_t fapl, hid_t driver, oht_h5_sink *sink);

// ---- h5_check.c ----
// Whether the name is linked, be it to something damaged or refused.
bool oht_h5_linked(oht_h5 *file, const char *name);
// Opens an object; every link on the way must be a hard one. DATA error if it is missing.
OHT_CHECKED oht_status oht_h5_object(oht_h5 *file, const char *name, hid_t *out);
// All checks of a dataset (class, rank, dimensions, layout, filters, storage).
OHT_CHECKED oht_status oht_h5_check(oht_h5 *file, const char *name, hid_t dataset, oht_h5_shape *out);
// The dataset, opened and checked, kept open among the file's slots.
OHT_CHECKED oht_status oht_h5_dataset(oht_h5 *file, const char *name, oht_h5_slot **out);
void oht_h5_forget(oht_h5_slot *slot); // closes the dataset
void oht_h5_forget_all(oht_h5 *file);
hid_t oht_h5_file_type(oht_h5_type type); // predefined, not to be closed
hid_t oht_h5_memory_type(oht_h5_type type); // the same
const char *oht_h5_type_name(int type);
size_t oht_h5_type_size(oht_h5_type type);
// Whether every value of `from` can be held by `to` exactly.
bool oht_h5_holds(oht_h5_type to, oht_h5_type from);
// Rows [first, first + rows) as selections; both closed by the caller.
OHT_CHECKED oht_status oht_h5_select(oht_h5 *file, const char *name, const oht_h5_slot *slot, int64_t first,
                                     int64_t rows, hid_t *file_space, hid_t *memory_space);

// ---- h5_write.c ----
// Error of a write that HDF5 refused: IO with the errno text where the disk is to blame.
oht_status oht_h5_write_failed(oht_h5 *file, const char *name, const char *doing);

// ---- h5_read.c ----
// Calls visit with the full name of every dataset below group. Unlike oht_h5_each, under the lock.
OHT_CHECKED oht_status oht_h5_walk(oht_h5 *file, const char *group, int depth,
                                   oht_status (*visit)(void *ctx, const char *name), void *ctx);
