// Writing of HDF5 files (include/oht/h5.h): datasets, rows, strings, attributes, dimension scales. No object
// times, so that the same input gives the same bytes.
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <hdf5_hl.h>

#include "base/file.h"
#include "base/h5_private.h"
#include "oht/memory.h"

oht_status oht_h5_write_failed(oht_h5 *file, const char *name, const char *doing) {
    if (file->sink.error == ENOMEM)
        OHT_FAIL(OHT_MEMORY, "%s: no memory left to keep the file in", file->path);
    if (file->sink.error) return oht_file_error(file->path, "write", file->sink.error);
    OHT_FAIL(OHT_INTERNAL, "%s: HDF5 cannot %s %s", file->path, doing, name);
}

// Files to write to; a created file whose disk is full takes nothing more.
static oht_status writable(oht_h5 *file, const char *name) {
    if (file->mode == OHT_H5_READ)
        OHT_FAIL(OHT_INTERNAL, "%s: opened for reading, %s cannot be written", file->path, name);
    if (file->sink.error) return oht_h5_write_failed(file, name, "write");
    return OHT_OK;
}

static oht_status finish_write(oht_h5 *file, const char *name, herr_t done, const char *doing) {
    if (done < 0 || file->sink.error) return oht_h5_write_failed(file, name, doing);
    return OHT_OK;
}

// Creates the groups above `name`; made one by one, since groups made on the way by HDF5 would carry times.
static oht_status make_groups(oht_h5 *file, const char *name) {
    char path[1024];
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof(path)) OHT_FAIL(OHT_INTERNAL, "%s: name of %zu characters", file->path, n);
    for (size_t i = 1; i < n; i++) {
        if (name[i] != '/') continue;
        memcpy(path, name, i);
        path[i] = '\0';
        if (H5Lexists(file->id, path, H5P_DEFAULT) > 0) continue;
        hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
        H5Pset_obj_track_times(gcpl, 0);
        hid_t group = H5Gcreate2(file->id, path, H5P_DEFAULT, gcpl, H5P_DEFAULT);
        H5Pclose(gcpl);
        if (group < 0) return oht_h5_write_failed(file, path, "create the group");
        H5Gclose(group);
    }
    return OHT_OK;
}

// Chunks of about 1 MiB, whole rows where they fit.
static void choose_chunk(const oht_h5_shape *shape, bool unlimited, hsize_t *chunk) {
    uint64_t bytes = oht_h5_type_size(shape->type);
    for (int i = shape->rank - 1; i > 0; i--) {
        uint64_t room = (1 << 20) / bytes;
        chunk[i] = (hsize_t)shape->dim[i] > room ? (room ? room : 1) : (hsize_t)shape->dim[i];
        bytes *= chunk[i];
    }
    uint64_t rows = (1 << 20) / bytes;
    if (unlimited && rows > 256) rows = 256; // a growing dataset's last chunk is mostly empty
    if (!unlimited && rows > (uint64_t)shape->dim[0]) rows = (uint64_t)shape->dim[0];
    chunk[0] = rows ? rows : 1;
}

static oht_status set_layout(oht_h5 *file, const char *name, const oht_h5_shape *shape, bool unlimited,
                             bool checksum, hid_t dcpl) {
    hsize_t chunk[OHT_H5_RANK];
    H5Pset_obj_track_times(dcpl, 0);
    if (!unlimited && (shape->dim[0] == 0 || (!checksum && shape->chunk[0] == 0)))
        return OHT_OK; // contiguous
    if (shape->chunk[0] == 0) {
        choose_chunk(shape, unlimited, chunk);
    } else {
        for (int i = 0; i < shape->rank; i++) {
            bool grows = unlimited && i == 0;
            chunk[i] = (hsize_t)(shape->chunk[i] > shape->dim[i] && !grows ? shape->dim[i] : shape->chunk[i]);
        }
    }
    H5Pset_fill_time(dcpl, H5D_FILL_TIME_ALLOC); // no stray memory in the unused part of a chunk
    if (H5Pset_chunk(dcpl, shape->rank, chunk) < 0 || (checksum && H5Pset_fletcher32(dcpl) < 0))
        OHT_FAIL(OHT_INTERNAL, "%s: HDF5 refuses the chunks of %s", file->path, name);
    return OHT_OK;
}

static oht_status make(oht_h5 *file, const char *name, const oht_h5_shape *shape, bool unlimited,
                       bool checksum) {
    OHT_TRY(writable(file, name));
    if (shape->rank < 1 || shape->rank > OHT_H5_RANK || shape->type == OHT_H5_STRING)
        OHT_FAIL(OHT_INTERNAL, "%s: %s cannot be made with %d axes of %s", file->path, name, shape->rank,
                 oht_h5_type_name((int)shape->type));
    hsize_t dim[OHT_H5_RANK], most[OHT_H5_RANK];
    for (int i = 0; i < shape->rank; i++) {
        if (shape->dim[i] < (i > 0))
            OHT_FAIL(OHT_INTERNAL, "%s: axis %d of %s has %" PRId64 " elements", file->path, i, name,
                     shape->dim[i]);
        dim[i] = (hsize_t)shape->dim[i];
        most[i] = unlimited && i == 0 ? H5S_UNLIMITED : dim[i];
    }
    OHT_TRY(make_groups(file, name));
    hid_t dcpl = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(shape->rank, dim, most), id = -1;
    oht_status status;
    OHT_TRY_GOTO(status, set_layout(file, name, shape, unlimited, checksum, dcpl), done);
    id = H5Dcreate2(file->id, name, oht_h5_file_type(shape->type), space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    OHT_TRY_GOTO(status, finish_write(file, name, id < 0 ? -1 : 0, "create"), done);
done:
    if (id >= 0) H5Dclose(id);
    H5Sclose(space);
    H5Pclose(dcpl);
    return status;
}

oht_status oht_h5_make(oht_h5 *file, const char *name, const oht_h5_shape *shape, bool unlimited,
                       bool checksum) {
    oht_h5_lock();
    oht_status status = make(file, name, shape, unlimited, checksum);
    oht_h5_unlock();
    return status;
}

static oht_status set_rows(oht_h5 *file, const char *name, oht_h5_slot *slot, int64_t rows) {
    hsize_t dim[OHT_H5_RANK];
    for (int i = 0; i < slot->shape.rank; i++) dim[i] = (hsize_t)(i == 0 ? rows : slot->shape.dim[i]);
    OHT_TRY(finish_write(file, name, H5Dset_extent(slot->id, dim), "resize"));
    slot->shape.dim[0] = rows;
    return OHT_OK;
}

static oht_status write_rows(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type,
                             const void *data) {
    OHT_TRY(writable(file, name));
    oht_h5_slot *slot;
    OHT_TRY(oht_h5_dataset(file, name, &slot));
    if (!oht_h5_holds(slot->shape.type, type))
        OHT_FAIL(OHT_INTERNAL, "%s: %s holds %s, %s were to be written", file->path, name,
                 oht_h5_type_name((int)slot->shape.type), oht_h5_type_name((int)type));
    if (rows == 0) return OHT_OK;
    if (first >= 0 && rows > 0 && first < INT64_MAX - rows && first + rows > slot->shape.dim[0])
        OHT_TRY(set_rows(file, name, slot, first + rows));
    hid_t file_space, memory_space;
    OHT_TRY(oht_h5_select(file, name, slot, first, rows, &file_space, &memory_space));
    herr_t done = H5Dwrite(slot->id, oht_h5_memory_type(type), memory_space, file_space, H5P_DEFAULT, data);
    H5Sclose(file_space);
    H5Sclose(memory_space);
    OHT_TRY(finish_write(file, name, done, "write"));
    return OHT_OK;
}

oht_status oht_h5_write(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type,
                        const void *data) {
    oht_h5_lock();
    oht_status status = write_rows(file, name, first, rows, type, data);
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_truncate(oht_h5 *file, const char *name, int64_t rows) {
    oht_h5_lock();
    oht_h5_slot *slot;
    oht_status status = writable(file, name);
    if (status == OHT_OK) status = oht_h5_dataset(file, name, &slot);
    if (status == OHT_OK && rows >= 0 && rows < slot->shape.dim[0]) status = set_rows(file, name, slot, rows);
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_delete(oht_h5 *file, const char *name) {
    oht_h5_lock();
    hid_t id;
    oht_status status = writable(file, name);
    if (status == OHT_OK) status = oht_h5_object(file, name, &id);
    if (status == OHT_OK) {
        H5Oclose(id);
        oht_h5_forget_all(file); // some may be members of the group
        status = finish_write(file, name, H5Ldelete(file->id, name, H5P_DEFAULT), "delete");
    }
    oht_h5_unlock();
    return status;
}

static hid_t text_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static oht_status write_strings(oht_h5 *file, const char *name, const char *const *text, int64_t n) {
    OHT_TRY(writable(file, name));
    OHT_TRY(make_groups(file, name));
    hsize_t dim = (hsize_t)n;
    hid_t type = text_type(), space = H5Screate_simple(1, &dim, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, 0);
    hid_t id = H5Dcreate2(file->id, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    herr_t done = id < 0 ? -1 : 0;
    if (done >= 0 && n > 0) done = H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
    if (id >= 0) H5Dclose(id);
    H5Pclose(dcpl);
    H5Sclose(space);
    H5Tclose(type);
    OHT_TRY(finish_write(file, name, done, "write"));
    return OHT_OK;
}

oht_status oht_h5_write_strings(oht_h5 *file, const char *name, const char *const *text, int64_t n) {
    oht_h5_lock();
    oht_status status = write_strings(file, name, text, n);
    oht_h5_unlock();
    return status;
}

// ---- attributes ----

static oht_status set_attribute(oht_h5 *file, const char *object, const char *attribute, hid_t file_type,
                                hid_t memory_type, const void *value) {
    OHT_TRY(writable(file, object));
    if (strcmp(object, "/") != 0 && H5Lexists(file->id, object, H5P_DEFAULT) <= 0) {
        char group[1024]; // an attribute may be the first thing in its group
        if (snprintf(group, sizeof(group), "%s/", object) >= (int)sizeof(group))
            OHT_FAIL(OHT_INTERNAL, "%s: name too long: %s", file->path, object);
        OHT_TRY(make_groups(file, group));
    }
    hid_t id;
    OHT_TRY(oht_h5_object(file, object, &id));
    if (H5Aexists(id, attribute) > 0) H5Adelete(id, attribute);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(id, attribute, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t done = a < 0 ? -1 : H5Awrite(a, memory_type, value);
    if (a >= 0) H5Aclose(a);
    H5Sclose(space);
    H5Oclose(id);
    OHT_TRY(finish_write(file, attribute, done, "write attribute"));
    return OHT_OK;
}

oht_status oht_h5_set_text(oht_h5 *file, const char *object, const char *attribute, const char *text) {
    oht_h5_lock();
    hid_t type = text_type();
    oht_status status = set_attribute(file, object, attribute, type, type, &text);
    H5Tclose(type);
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_set_int(oht_h5 *file, const char *object, const char *attribute, int64_t value) {
    oht_h5_lock();
    oht_status status = set_attribute(file, object, attribute, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_set_float(oht_h5 *file, const char *object, const char *attribute, double value) {
    oht_h5_lock();
    oht_status status = set_attribute(file, object, attribute, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
    oht_h5_unlock();
    return status;
}

static oht_status attach_scale(oht_h5 *file, const char *dataset, int axis, const char *scale,
                               const char *label) {
    OHT_TRY(writable(file, dataset));
    hid_t d, s = -1;
    oht_status status;
    OHT_TRY(oht_h5_object(file, dataset, &d));
    OHT_TRY_GOTO(status, oht_h5_object(file, scale, &s), done);
    bool good = H5DSis_scale(s) > 0 || H5DSset_scale(s, label) >= 0;
    // A scale labels its own axis too, but may not be attached to itself.
    if (strcmp(dataset, scale) != 0) good = good && H5DSattach_scale(d, s, (unsigned)axis) >= 0;
    good = good && H5DSset_label(d, (unsigned)axis, label) >= 0;
    OHT_TRY_GOTO(status, finish_write(file, scale, good ? 0 : -1, "attach the scale"), done);
done:
    H5Oclose(d);
    if (s >= 0) H5Oclose(s);
    return status;
}

oht_status oht_h5_attach_scale(oht_h5 *file, const char *dataset, int axis, const char *scale,
                               const char *label) {
    oht_h5_lock();
    oht_status status = attach_scale(file, dataset, axis, scale, label);
    oht_h5_unlock();
    return status;
}
