// HDF5 file driver for files being written, on disk or in memory. HDF5 1.10 cannot live through a failed
// write: H5Fclose then keeps the file, and the library crashes at exit (seen with a full disk and with a file
// size limit). So this driver never reports one. It remembers the first errno in the sink, writes nothing
// more, and lets HDF5 close its books in peace: what HDF5 still writes of its own structures is kept in
// memory and read back from there. The wrapper looks at sink.error. Files in memory do not use HDF5's core
// driver: H5Fget_file_image spoils the checksum of the latest format (1.10.8).
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/h5_private.h"
#include "oht/memory.h"

typedef struct late { // a write after the failure
    struct late *next;
    haddr_t at;
    size_t n;
    unsigned char bytes[];
} late;

typedef struct driver_file {
    H5FD_t pub; // first: HDF5 casts
    oht_h5_sink *sink;
    haddr_t eoa, eof;
    late *first, **last;
} driver_file;

typedef struct driver_info {
    oht_h5_sink *sink;
} driver_info;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr) {
    (void)name;
    (void)flags;
    (void)maxaddr;
    const driver_info *info = H5Pget_driver_info(fapl);
    driver_file *file;
    if (!info || OHT_ALLOC(&file, 1, "HDF5 driver") != OHT_OK) return NULL;
    file->sink = info->sink;
    file->last = &file->first;
    file->eof = info->sink->n;
    return &file->pub;
}

static herr_t driver_close(H5FD_t *pub) {
    driver_file *file = (driver_file *)pub;
    for (late *l = file->first, *next; l; l = next) {
        next = l->next;
        oht_free(l);
    }
    oht_free(file);
    return 0;
}

static herr_t driver_query(const H5FD_t *pub, unsigned long *flags) {
    (void)pub;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *pub, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)pub)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *pub, H5FD_mem_t type, haddr_t at) {
    (void)type;
    ((driver_file *)pub)->eoa = at;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *pub, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)pub)->eof;
}

static herr_t driver_read(H5FD_t *pub, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, void *out) {
    (void)type;
    (void)dxpl;
    driver_file *file = (driver_file *)pub;
    unsigned char *bytes = out;
    size_t done = 0;
    if (file->sink->fd < 0 && at < file->sink->n) {
        done = file->sink->n - at < n ? file->sink->n - at : n;
        memcpy(bytes, file->sink->bytes + at, done);
    }
    while (file->sink->fd >= 0 && done < n) {
        ssize_t r = pread(file->sink->fd, bytes + done, n - done, (off_t)(at + done));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0 && !file->sink->error) file->sink->error = errno;
        if (r <= 0) break; // beyond the end: zeros
        done += (size_t)r;
    }
    memset(bytes + done, 0, n - done);
    for (const late *l = file->first; l; l = l->next) {
        haddr_t from = at > l->at ? at : l->at;
        haddr_t to = at + n < l->at + l->n ? at + n : l->at + l->n;
        if (from < to) memcpy(bytes + (from - at), l->bytes + (from - l->at), to - from);
    }
    return 0;
}

// Room for n bytes in memory; what is new is zero.
static int resize_memory(oht_h5_sink *sink, size_t n) {
    if (n > sink->capacity) {
        size_t wanted = sink->capacity ? sink->capacity : 1 << 20;
        while (wanted < n) wanted *= 2;
        if (oht_grow((void **)&sink->bytes, sink->n, wanted, 1, "HDF5 file in memory") != OHT_OK)
            return ENOMEM;
        sink->capacity = wanted;
    }
    if (n < sink->n) memset(sink->bytes + n, 0, sink->n - n);
    sink->n = n;
    return 0;
}

static int sink_write(oht_h5_sink *sink, const void *in, size_t n, haddr_t at) {
    if (sink->fd >= 0) return oht_file_write_all(sink->fd, in, n, (int64_t)at);
    int error = at + n > sink->n ? resize_memory(sink, at + n) : 0;
    if (!error) memcpy(sink->bytes + at, in, n);
    return error;
}

static herr_t driver_write(H5FD_t *pub, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, const void *in) {
    (void)dxpl;
    driver_file *file = (driver_file *)pub;
    if (at + n > file->eof) file->eof = at + n;
    if (!file->sink->error) file->sink->error = sink_write(file->sink, in, n, at);
    if (!file->sink->error || type == H5FD_MEM_DRAW)
        return 0; // lost data is not read again, structures may be
    late *l;
    if (oht_alloc((void **)&l, 1, sizeof(*l) + n, "HDF5 structures") != OHT_OK) return 0;
    l->at = at;
    l->n = n;
    memcpy(l->bytes, in, n);
    *file->last = l;
    file->last = &l->next;
    return 0;
}

static herr_t driver_truncate(H5FD_t *pub, hid_t dxpl, hbool_t closing) {
    (void)dxpl;
    (void)closing;
    driver_file *file = (driver_file *)pub;
    oht_h5_sink *sink = file->sink;
    if (!sink->error && sink->fd < 0) sink->error = resize_memory(sink, file->eoa);
    if (!sink->error && sink->fd >= 0 && ftruncate(sink->fd, (off_t)file->eoa) != 0) sink->error = errno;
    file->eof = file->eoa;
    return 0;
}

hid_t oht_h5_driver_register(void) {
    const H5FD_class_t class = {
#ifdef H5FD_CLASS_VERSION
        .version = H5FD_CLASS_VERSION,
        .value = (H5FD_class_value_t)600,
#endif
        .name = "oht",
        .maxaddr = INT64_MAX,
        .fc_degree = H5F_CLOSE_STRONG,
        .fapl_size = sizeof(driver_info),
        .open = driver_open,
        .close = driver_close,
        .query = driver_query,
        .get_eoa = driver_get_eoa,
        .set_eoa = driver_set_eoa,
        .get_eof = driver_get_eof,
        .read = driver_read,
        .write = driver_write,
        .truncate = driver_truncate,
        .fl_map = H5FD_FLMAP_DICHOTOMY,
    };
    return H5FDregister(&class);
}

herr_t oht_h5_driver_use(hid_t fapl, hid_t driver, oht_h5_sink *sink) {
    const driver_info info = {sink};
    return H5Pset_driver(fapl, driver, &info);
}
