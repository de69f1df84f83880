// What a dataset must be before anything is allocated for it. A file may be damaged, foreign or
// made to harm: links that lead elsewhere, 2^33 rows without data, virtual layouts, filters that load code,
// bombs of zeros.
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "base/h5_private.h"
#include "oht/memory.h"

static const struct {
    const char *name;
    size_t size;
    bool floating, has_sign;
} types[] = {
    [OHT_H5_F32] = {"float32", 4, true, true},  [OHT_H5_F64] = {"float64", 8, true, true},
    [OHT_H5_I32] = {"int32", 4, false, true},   [OHT_H5_I64] = {"int64", 8, false, true},
    [OHT_H5_U8] = {"uint8", 1, false, false},   [OHT_H5_U16] = {"uint16", 2, false, false},
    [OHT_H5_U32] = {"uint32", 4, false, false}, [OHT_H5_STRING] = {"string", 0, false, false},
};

const char *oht_h5_type_name(int type) {
    return type >= 0 && type <= OHT_H5_STRING ? types[type].name : "any type";
}

size_t oht_h5_type_size(oht_h5_type type) {
    return types[type].size;
}

bool oht_h5_holds(oht_h5_type to, oht_h5_type from) {
    if (to == OHT_H5_STRING || from == OHT_H5_STRING) return false;
    if (types[to].floating != types[from].floating) return false;
    if (types[to].floating || types[to].has_sign == types[from].has_sign)
        return types[to].size >= types[from].size;
    return types[to].has_sign && types[to].size > types[from].size;
}

hid_t oht_h5_file_type(oht_h5_type type) {
    switch (type) {
    case OHT_H5_F32:
        return H5T_IEEE_F32LE;
    case OHT_H5_F64:
        return H5T_IEEE_F64LE;
    case OHT_H5_I32:
        return H5T_STD_I32LE;
    case OHT_H5_I64:
        return H5T_STD_I64LE;
    case OHT_H5_U8:
        return H5T_STD_U8LE;
    case OHT_H5_U16:
        return H5T_STD_U16LE;
    case OHT_H5_U32:
        return H5T_STD_U32LE;
    case OHT_H5_STRING:
        break;
    }
    return -1;
}

hid_t oht_h5_memory_type(oht_h5_type type) {
    switch (type) {
    case OHT_H5_F32:
        return H5T_NATIVE_FLOAT;
    case OHT_H5_F64:
        return H5T_NATIVE_DOUBLE;
    case OHT_H5_I32:
        return H5T_NATIVE_INT32;
    case OHT_H5_I64:
        return H5T_NATIVE_INT64;
    case OHT_H5_U8:
        return H5T_NATIVE_UINT8;
    case OHT_H5_U16:
        return H5T_NATIVE_UINT16;
    case OHT_H5_U32:
        return H5T_NATIVE_UINT32;
    case OHT_H5_STRING:
        break;
    }
    return -1;
}

// The same type with the bytes the other way round: converted while reading.
static hid_t big_endian(oht_h5_type type) {
    switch (type) {
    case OHT_H5_F32:
        return H5T_IEEE_F32BE;
    case OHT_H5_F64:
        return H5T_IEEE_F64BE;
    case OHT_H5_I32:
        return H5T_STD_I32BE;
    case OHT_H5_I64:
        return H5T_STD_I64BE;
    case OHT_H5_U8:
        return H5T_STD_U8BE;
    case OHT_H5_U16:
        return H5T_STD_U16BE;
    case OHT_H5_U32:
        return H5T_STD_U32BE;
    case OHT_H5_STRING:
        break;
    }
    return -1;
}

bool oht_h5_linked(oht_h5 *file, const char *name) {
    char path[PATH_MAX];
    size_t n = strlen(name);
    if (n >= sizeof(path)) return false;
    memcpy(path, name, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if ((path[i] != '/' && path[i] != '\0') || path[i - 1] == '/') continue;
        path[i] = '\0';
        H5L_info_t link;
        htri_t there = H5Lexists(file->id, path, H5P_DEFAULT);
        if (there == 0) return false;
        if (there < 0 || H5Lget_info(file->id, path, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
            return true; // damaged or refused, not absent
        path[i] = name[i];
    }
    return true;
}

oht_status oht_h5_object(oht_h5 *file, const char *name, hid_t *out) {
    *out = -1;
    char path[PATH_MAX];
    size_t n = strlen(name);
    if (n >= sizeof(path)) OHT_FAIL(OHT_INTERNAL, "%s: name of %zu characters", file->path, n);
    memcpy(path, name, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if ((path[i] != '/' && path[i] != '\0') || path[i - 1] == '/') continue;
        path[i] = '\0';
        H5L_info_t link;
        if (H5Lexists(file->id, path, H5P_DEFAULT) <= 0 ||
            H5Lget_info(file->id, path, &link, H5P_DEFAULT) < 0)
            OHT_FAIL(OHT_DATA, "%s: no %s in this file", file->path, path);
        if (link.type != H5L_TYPE_HARD)
            OHT_FAIL(OHT_DATA, "%s: %s is a soft or external link, expected the object itself", file->path,
                     path);
        path[i] = name[i];
    }
    *out = H5Oopen(file->id, n ? name : "/", H5P_DEFAULT);
    if (*out < 0) OHT_FAIL(OHT_DATA, "%s: %s cannot be opened, the file is damaged", file->path, name);
    return OHT_OK;
}

static oht_status check_type(oht_h5 *file, const char *name, hid_t type, oht_h5_shape *out) {
    H5T_class_t class = H5Tget_class(type);
    if (class == H5T_STRING) {
        if (H5Tis_variable_str(type) <= 0 && (H5Tget_size(type) == 0 || H5Tget_size(type) > 1 << 16))
            OHT_FAIL(OHT_DATA, "%s: %s has strings of %zu bytes", file->path, name, H5Tget_size(type));
        out->type = OHT_H5_STRING;
        return OHT_OK;
    }
    for (int t = 0; t < OHT_H5_STRING; t++) {
        if (H5Tequal(type, oht_h5_file_type((oht_h5_type)t)) > 0 ||
            H5Tequal(type, big_endian((oht_h5_type)t)) > 0) {
            out->type = (oht_h5_type)t;
            return OHT_OK;
        }
    }
    const char *kind = class == H5T_INTEGER
                           ? (H5Tget_sign(type) == H5T_SGN_NONE ? "unsigned integers" : "signed integers")
                       : class == H5T_FLOAT ? "floating-point numbers"
                                            : "elements of another class";
    OHT_FAIL(OHT_DATA,
             "%s: %s holds %s of %zu bytes, expected float32, float64, int32, int64, uint8, uint16, uint32 "
             "or strings",
             file->path, name, kind, H5Tget_size(type));
}

static oht_status check_space(oht_h5 *file, const char *name, hid_t space, size_t type_size,
                              oht_h5_shape *out, uint64_t *bytes) {
    if (H5Sget_simple_extent_type(space) != H5S_SIMPLE)
        OHT_FAIL(OHT_DATA, "%s: %s is not an array", file->path, name);
    int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 1 || rank > OHT_H5_RANK)
        OHT_FAIL(OHT_DATA, "%s: %s has %d axes, expected 1 to %d", file->path, name, rank, OHT_H5_RANK);
    hsize_t dim[OHT_H5_RANK];
    if (H5Sget_simple_extent_dims(space, dim, NULL) < 0)
        OHT_FAIL(OHT_DATA, "%s: %s has no shape", file->path, name);
    out->rank = rank;
    *bytes = type_size;
    for (int i = 0; i < rank; i++) {
        if (dim[i] > (hsize_t)1 << 40 || (i > 0 && dim[i] == 0))
            OHT_FAIL(OHT_DATA, "%s: axis %d of %s has %" PRIu64 " elements", file->path, i, name,
                     (uint64_t)dim[i]);
        if (__builtin_mul_overflow(*bytes, (uint64_t)dim[i], bytes) || *bytes > (uint64_t)1 << 60)
            OHT_FAIL(OHT_DATA, "%s: %s has more elements than a machine can address", file->path, name);
        out->dim[i] = (int64_t)dim[i];
    }
    return OHT_OK;
}

static oht_status check_filters(oht_h5 *file, const char *name, hid_t plist, bool *filtered, bool *packed) {
    int n = H5Pget_nfilters(plist);
    *filtered = n > 0;
    *packed = false;
    if (n < 0 || n > 8) OHT_FAIL(OHT_DATA, "%s: %s has %d filters", file->path, name, n);
    for (int i = 0; i < n; i++) {
        unsigned flags, config, value[8];
        size_t n_values = 8;
        H5Z_filter_t id = H5Pget_filter2(plist, (unsigned)i, &flags, &n_values, value, 0, NULL, &config);
        if (id == H5Z_FILTER_DEFLATE) *packed = true;
        if (id != H5Z_FILTER_DEFLATE && id != H5Z_FILTER_SHUFFLE && id != H5Z_FILTER_FLETCHER32)
            OHT_FAIL(OHT_DATA,
                     "%s: %s was written with filter %d, expected none but shuffle, deflate (gzip), "
                     "fletcher32\nfix: "
                     "write it again without, e.g. h5repack -f NONE",
                     file->path, name, (int)id);
    }
    return OHT_OK;
}

// Chunk sizes, and how many chunks the shape needs.
static oht_status check_chunk_size(oht_h5 *file, const char *name, hid_t plist, size_t type_size,
                                   oht_h5_shape *out, uint64_t *count) {
    hsize_t chunk[OHT_H5_RANK];
    if (H5Pget_chunk(plist, OHT_H5_RANK, chunk) != out->rank)
        OHT_FAIL(OHT_DATA, "%s: %s has odd chunks", file->path, name);
    uint64_t bytes = type_size;
    *count = 1;
    for (int i = 0; i < out->rank; i++) {
        if (chunk[i] == 0 || __builtin_mul_overflow(bytes, (uint64_t)chunk[i], &bytes) ||
            bytes > OHT_H5_MAX_CHUNK)
            OHT_FAIL(OHT_DATA, "%s: %s has chunks above %d MiB\nfix: h5repack it with smaller chunks",
                     file->path, name, OHT_H5_MAX_CHUNK >> 20);
        out->chunk[i] = (int64_t)chunk[i];
        *count *= ((uint64_t)out->dim[i] + chunk[i] - 1) / chunk[i];
    }
    return OHT_OK;
}

static oht_status check_storage(oht_h5 *file, const char *name, hid_t dataset, hid_t space, uint64_t least,
                                uint64_t bytes, uint64_t chunks) {
    uint64_t stored = H5Dget_storage_size(dataset);
    if (stored > (uint64_t)file->bytes || stored < least)
        OHT_FAIL(OHT_DATA,
                 "%s: %s holds %" PRIu64 " bytes, its shape needs %" PRIu64 " (file of %" PRId64 ")",
                 file->path, name, stored, bytes, file->bytes);
    // A chunk takes at least one byte, so the file's size bounds the count; HDF5 is not asked to count beyond
    // it.
    hsize_t found = 0;
    if (chunks > (uint64_t)file->bytes || (chunks > 0 && H5Dget_num_chunks(dataset, space, &found) < 0) ||
        found != chunks)
        OHT_FAIL(OHT_DATA, "%s: %s has %" PRIu64 " chunks of data, its shape needs %" PRIu64, file->path,
                 name, (uint64_t)found, chunks);
    return OHT_OK;
}

static oht_status check_layout(oht_h5 *file, const char *name, hid_t dataset, hid_t space, hid_t plist,
                               size_t type_size, uint64_t bytes, oht_h5_shape *out) {
    H5D_layout_t layout = H5Pget_layout(plist);
    if (layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED)
        OHT_FAIL(
            OHT_DATA,
            "%s: %s is stored in a compact or virtual layout, expected contiguous or chunked\nfix: copy it "
            "with h5repack -l CONTI",
            file->path, name);
    if (H5Pget_external_count(plist) != 0)
        OHT_FAIL(OHT_DATA, "%s: %s keeps its data in another file", file->path, name);
    bool filtered, packed;
    OHT_TRY(check_filters(file, name, plist, &filtered, &packed));
    uint64_t chunks = 0;
    if (layout == H5D_CHUNKED) OHT_TRY(check_chunk_size(file, name, plist, type_size, out, &chunks));
    if (file->bytes == 0) return OHT_OK; // our own, still being written
    // deflate shrinks at most about 1030 times
    OHT_TRY(check_storage(file, name, dataset, space,
                          packed     ? bytes / 1100
                          : filtered ? 0
                                     : bytes,
                          bytes, chunks));
    return OHT_OK;
}

oht_status oht_h5_check(oht_h5 *file, const char *name, hid_t dataset, oht_h5_shape *out) {
    *out = (oht_h5_shape){0};
    if (H5Iget_type(dataset) != H5I_DATASET)
        OHT_FAIL(OHT_DATA, "%s: %s is a group, expected a dataset", file->path, name);
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset), plist = H5Dget_create_plist(dataset);
    uint64_t bytes = 0;
    oht_status status;
    if (type < 0 || space < 0 || plist < 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: %s cannot be opened, the file is damaged", file->path,
                      name);
    OHT_TRY_GOTO(status, check_type(file, name, type, out), done);
    size_t size = H5Tget_size(type);
    OHT_TRY_GOTO(status, check_space(file, name, space, size, out, &bytes), done);
    OHT_TRY_GOTO(status, check_layout(file, name, dataset, space, plist, size, bytes, out), done);
done:
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (plist >= 0) H5Pclose(plist);
    return status;
}

oht_status oht_h5_dataset(oht_h5 *file, const char *name, oht_h5_slot **out) {
    *out = NULL;
    while (*name == '/') name++; // one dataset, one slot
    size_t length = strlen(name);
    if (length == 0) OHT_FAIL(OHT_DATA, "%s: / is a group, expected a dataset", file->path);
    oht_h5_slot *oldest = &file->slot[0];
    if (length >= sizeof(oldest->name))
        OHT_FAIL(OHT_DATA, "%s: dataset with a name of %zu characters", file->path, length);
    for (int i = 0; i < OHT_H5_SLOTS; i++) {
        oht_h5_slot *slot = &file->slot[i];
        if (strcmp(slot->name, name) == 0) {
            slot->used = ++file->clock;
            *out = slot;
            return OHT_OK;
        }
        if (slot->used < oldest->used) oldest = slot;
    }
    hid_t id;
    OHT_TRY(oht_h5_object(file, name, &id));
    oht_h5_shape shape;
    oht_status status = oht_h5_check(file, name, id, &shape);
    if (status != OHT_OK) {
        H5Oclose(id);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    oht_h5_forget(oldest);
    *oldest = (oht_h5_slot){.id = id, .shape = shape, .used = ++file->clock};
    memcpy(oldest->name, name, length + 1);
    *out = oldest;
    return OHT_OK;
}

oht_status oht_h5_select(oht_h5 *file, const char *name, const oht_h5_slot *slot, int64_t first, int64_t rows,
                         hid_t *file_space, hid_t *memory_space) {
    *file_space = *memory_space = -1;
    if (first < 0 || rows < 1 || first > slot->shape.dim[0] - rows)
        OHT_FAIL(OHT_DATA, "%s: %" PRId64 " rows from row %" PRId64 " on asked of %s, which has %" PRId64,
                 file->path, rows, first, name, slot->shape.dim[0]);
    hsize_t start[OHT_H5_RANK] = {(hsize_t)first}, count[OHT_H5_RANK];
    for (int i = 0; i < slot->shape.rank; i++) count[i] = (hsize_t)(i == 0 ? rows : slot->shape.dim[i]);
    *file_space = H5Dget_space(slot->id);
    *memory_space = H5Screate_simple(slot->shape.rank, count, NULL);
    if (*file_space < 0 || *memory_space < 0 ||
        H5Sselect_hyperslab(*file_space, H5S_SELECT_SET, start, NULL, count, NULL) < 0) {
        H5Sclose(*file_space);
        H5Sclose(*memory_space);
        OHT_FAIL(OHT_INTERNAL, "%s: HDF5 cannot select rows of %s", file->path, name);
    }
    return OHT_OK;
}
