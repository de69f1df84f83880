// Reading of HDF5 files (include/oht/h5.h): rows, strings, attributes, listing. Checks first (h5_check.c).
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/h5_private.h"
#include "oht/memory.h"

static const char *damaged = "the file is damaged\nfix: copy or make it again";

bool oht_h5_exists(oht_h5 *file, const char *name) {
    oht_h5_lock();
    bool found = oht_h5_linked(file, name);
    oht_h5_unlock();
    return found;
}

static oht_status shape_of(oht_h5 *file, const char *name, int rank, int type, oht_h5_shape *out) {
    oht_h5_slot *slot;
    OHT_TRY(oht_h5_dataset(file, name, &slot));
    if (type >= 0 && (int)slot->shape.type != type)
        OHT_FAIL(OHT_DATA, "%s: %s holds %s, expected %s", file->path, name,
                 oht_h5_type_name((int)slot->shape.type), oht_h5_type_name(type));
    if (rank >= 0 && slot->shape.rank != rank)
        OHT_FAIL(OHT_DATA, "%s: %s has %d axes, expected %d", file->path, name, slot->shape.rank, rank);
    *out = slot->shape;
    return OHT_OK;
}

oht_status oht_h5_shape_of(oht_h5 *file, const char *name, int rank, int type, oht_h5_shape *out) {
    oht_h5_lock();
    oht_status status = shape_of(file, name, rank, type, out);
    oht_h5_unlock();
    return status;
}

static oht_status read_rows(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type,
                            void *out) {
    oht_h5_slot *slot;
    OHT_TRY(oht_h5_dataset(file, name, &slot));
    if (!oht_h5_holds(type, slot->shape.type))
        OHT_FAIL(OHT_DATA, "%s: %s holds %s, expected %s", file->path, name,
                 oht_h5_type_name((int)slot->shape.type), oht_h5_type_name((int)type));
    if (rows == 0) return OHT_OK;
    hid_t file_space, memory_space;
    OHT_TRY(oht_h5_select(file, name, slot, first, rows, &file_space, &memory_space));
    herr_t done = H5Dread(slot->id, oht_h5_memory_type(type), memory_space, file_space, H5P_DEFAULT, out);
    H5Sclose(file_space);
    H5Sclose(memory_space);
    if (done < 0)
        OHT_FAIL(OHT_DATA, "%s: rows %" PRId64 " to %" PRId64 " of %s cannot be read, %s", file->path, first,
                 first + rows, name, damaged);
    return OHT_OK;
}

oht_status oht_h5_read(oht_h5 *file, const char *name, int64_t first, int64_t rows, oht_h5_type type,
                       void *out) {
    oht_h5_lock();
    oht_status status = read_rows(file, name, first, rows, type, out);
    oht_h5_unlock();
    return status;
}

// ---- strings ----

static void free_strings(char **text, int64_t n) {
    for (int64_t i = 0; text && i < n; i++) oht_free(text[i]);
    oht_free(text);
}

// Variable-length strings lie in global heap collections, which HDF5 1.10 reads without checking that an object
// exists: a damaged reference ends the process. So every reference is followed here first (HDF5 file format, III.E):
// collection = "GCOL", version 1, 3 bytes, size; objects = index, count, 4 bytes, size, data padded to 8; index 0 ends.
static uint64_t little(const unsigned char *b, int n) {
    uint64_t x = 0;
    while (n-- > 0) x = x << 8 | b[n];
    return x;
}

static bool heap_holds(FILE *in, uint64_t address, uint64_t index, uint64_t bytes, uint64_t file_bytes) {
    unsigned char head[16];
    if (address > file_bytes || file_bytes - address < 16 || fseeko(in, (off_t)address, SEEK_SET) != 0)
        return false;
    if (fread(head, 1, 16, in) != 16 || memcmp(head, "GCOL\1", 5) != 0) return false;
    uint64_t size = little(head + 8, 8), at = 16;
    if (size > file_bytes - address) return false;
    bool found = false;
    while (at + 16 <= size) { // to the end, as HDF5 does
        if (fseeko(in, (off_t)(address + at), SEEK_SET) != 0 || fread(head, 1, 16, in) != 16) return false;
        uint64_t object = little(head, 2), length = little(head + 8, 8);
        if (object == 0) return found && length <= size - at;
        if (length > size - at - 16) return false;
        found |= object == index && length >= bytes;
        at += 16 + (length + 7) / 8 * 8;
    }
    return found;
}

// References of a contiguous dataset: length (4), address of the collection (8), index (4). Others are left to HDF5.
static bool heap_is_sound(hid_t dataset, int64_t n, const char *path) {
    haddr_t at = H5Dget_offset(dataset);
    if (at == HADDR_UNDEF || n == 0) return true;
    FILE *in = fopen(path, "rbe");
    if (!in) return true; // a file in memory that was never published
    bool sound = fseeko(in, 0, SEEK_END) == 0;
    uint64_t file_bytes = (uint64_t)ftello(in);
    for (int64_t i = 0; i < n && sound; i++) {
        unsigned char ref[16];
        sound = fseeko(in, (off_t)(at + 16 * (haddr_t)i), SEEK_SET) == 0 && fread(ref, 1, 16, in) == 16;
        uint64_t bytes = little(ref, 4), address = little(ref + 4, 8);
        if (sound && (bytes > 0 || address != 0))
            sound = heap_holds(in, address, little(ref + 12, 4), bytes, file_bytes);
    }
    fclose(in);
    return sound;
}

// Copies n variable-length strings (NULL is the empty one).
static oht_status copy_variable(hid_t dataset, hid_t type, hid_t space, char **text, int64_t n,
                                const char *path, const char *name, bool on_disk) {
    hsize_t total = 0;
    if (on_disk && !heap_is_sound(dataset, n, path))
        OHT_FAIL(OHT_DATA, "%s: the strings of %s cannot be read, %s", path, name, damaged);
    if (n > 0 && (H5Dvlen_get_buf_size(dataset, type, space, &total) < 0 || total > OHT_H5_MAX_TEXT))
        OHT_FAIL(OHT_DATA, "%s: the strings of %s cannot be read, %s", path, name, damaged);
    char **raw;
    OHT_TRY(OHT_ALLOC(&raw, (size_t)n, "strings"));
    oht_status status = OHT_OK;
    if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, raw) < 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: the strings of %s cannot be read, %s", path, name,
                      damaged);
    for (int64_t i = 0; i < n; i++) OHT_TRY_GOTO(status, oht_strdup(&text[i], raw[i] ? raw[i] : ""), reclaim);
reclaim:
    H5Dvlen_reclaim(type, space, H5P_DEFAULT, raw);
done:
    oht_free(raw);
    return status;
}

static oht_status copy_fixed(hid_t dataset, hid_t type, char **text, int64_t n, const char *path,
                             const char *name) {
    size_t size = H5Tget_size(type);
    char *raw;
    OHT_TRY(oht_alloc((void **)&raw, (size_t)n, size, "strings"));
    oht_status status = OHT_OK;
    if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, raw) < 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: the strings of %s cannot be read, %s", path, name,
                      damaged);
    for (int64_t i = 0; i < n; i++) {
        size_t length = strnlen(raw + (size_t)i * size, size);
        if (H5Tget_strpad(type) == H5T_STR_SPACEPAD)
            while (length > 0 && raw[(size_t)i * size + length - 1] == ' ') length--;
        OHT_TRY_GOTO(status, OHT_ALLOC(&text[i], length + 1, "text"), done);
        memcpy(text[i], raw + (size_t)i * size, length);
    }
done:
    oht_free(raw);
    return status;
}

static oht_status read_strings(oht_h5 *file, const char *name, char ***out, int64_t *n) {
    oht_h5_shape shape = {0};
    OHT_TRY(shape_of(file, name, 1, OHT_H5_STRING, &shape));
    if (shape.dim[0] > OHT_H5_MAX_STRINGS)
        OHT_FAIL(OHT_DATA, "%s: %s has %" PRId64 " strings, at most %d are read", file->path, name,
                 shape.dim[0], OHT_H5_MAX_STRINGS);
    oht_h5_slot *slot;
    OHT_TRY(oht_h5_dataset(file, name, &slot));
    char **text;
    OHT_TRY(OHT_ALLOC(&text, (size_t)shape.dim[0], "strings"));
    hid_t type = H5Dget_type(slot->id), space = H5Dget_space(slot->id);
    oht_status status = H5Tis_variable_str(type) > 0
                            ? copy_variable(slot->id, type, space, text, shape.dim[0], file->path, name,
                                            file->mode == OHT_H5_READ)
                            : copy_fixed(slot->id, type, text, shape.dim[0], file->path, name);
    H5Tclose(type);
    H5Sclose(space);
    if (status != OHT_OK) {
        free_strings(text, shape.dim[0]);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = text;
    *n = shape.dim[0];
    return OHT_OK;
}

oht_status oht_h5_read_strings(oht_h5 *file, const char *name, char ***text, int64_t *n) {
    *text = NULL;
    *n = 0;
    oht_h5_lock();
    oht_status status = read_strings(file, name, text, n);
    oht_h5_unlock();
    return status;
}

// ---- listing ----

typedef struct listing {
    char **name;
    size_t n, capacity;
    oht_status status;
} listing;

static herr_t list_link(hid_t group, const char *name, const H5L_info_t *info, void *ctx) {
    (void)group;
    (void)info;
    listing *list = ctx;
    list->status =
        list->n < OHT_H5_MAX_STRINGS ? OHT_RESERVE(&list->name, &list->capacity, list->n, "names") : OHT_DATA;
    if (list->status == OHT_OK) list->status = oht_strdup(&list->name[list->n], name);
    if (list->status != OHT_OK) return -1;
    list->n++;
    return 0;
}

static oht_status walk_members(oht_h5 *file, const char *group, const listing *list, int depth,
                               oht_status (*visit)(void *ctx, const char *name), void *ctx) {
    for (size_t i = 0; i < list->n; i++) {
        char name[1024];
        if (snprintf(name, sizeof(name), "%s/%s", strcmp(group, "/") == 0 ? "" : group, list->name[i]) >=
            (int)sizeof(name))
            OHT_FAIL(OHT_DATA, "%s: a name in %s is too long", file->path, group);
        hid_t id;
        OHT_TRY(oht_h5_object(file, name, &id));
        H5I_type_t kind = H5Iget_type(id);
        H5Oclose(id);
        if (kind == H5I_GROUP) OHT_TRY(oht_h5_walk(file, name, depth + 1, visit, ctx));
        if (kind == H5I_DATASET) OHT_TRY(visit(ctx, name));
    }
    return OHT_OK;
}

oht_status oht_h5_walk(oht_h5 *file, const char *group, int depth,
                       oht_status (*visit)(void *ctx, const char *name), void *ctx) {
    if (depth > 8)
        OHT_FAIL(OHT_DATA, "%s: groups nest deeper than 8 levels below %s", file->path,
                 group); // or in a circle
    hid_t id;
    OHT_TRY(oht_h5_object(file, group, &id));
    if (H5Iget_type(id) != H5I_GROUP) {
        H5Oclose(id);
        OHT_FAIL(OHT_DATA, "%s: %s is a dataset, expected a group", file->path, group);
    }
    listing list = {0};
    oht_status status = OHT_OK;
    if (H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, NULL, list_link, &list) < 0)
        status = oht_error_set(list.status == OHT_MEMORY ? OHT_MEMORY : OHT_DATA, __FILE__, __LINE__,
                               "%s: %s cannot be listed, %s", file->path, group, damaged);
    H5Oclose(id);
    if (status == OHT_OK) status = walk_members(file, group, &list, depth, visit, ctx);
    free_strings(list.name, (int64_t)list.n);
    return status;
}

static oht_status collect(void *ctx, const char *name) {
    listing *list = ctx;
    OHT_TRY(OHT_RESERVE(&list->name, &list->capacity, list->n, "names"));
    OHT_TRY(oht_strdup(&list->name[list->n], name));
    list->n++;
    return OHT_OK;
}

oht_status oht_h5_each(oht_h5 *file, const char *group, oht_status (*visit)(void *ctx, const char *name),
                       void *ctx) {
    listing list = {0};
    oht_h5_lock();
    oht_status status = oht_h5_walk(file, group, 0, collect, &list);
    oht_h5_unlock(); // visit may read
    for (size_t i = 0; i < list.n && status == OHT_OK; i++) status = visit(ctx, list.name[i]);
    free_strings(list.name, (int64_t)list.n);
    return status;
}

// ---- attributes ----

bool oht_h5_has(oht_h5 *file, const char *object, const char *attribute) {
    oht_h5_lock();
    hid_t id;
    bool found = false;
    if (oht_h5_object(file, object, &id) == OHT_OK) {
        found = H5Aexists(id, attribute) > 0;
        H5Oclose(id);
    }
    oht_h5_unlock();
    return found;
}

static oht_status open_attribute(oht_h5 *file, const char *object, const char *attribute, hid_t *out) {
    hid_t id;
    OHT_TRY(oht_h5_object(file, object, &id));
    bool there = H5Aexists(id, attribute) > 0;
    *out = there ? H5Aopen(id, attribute, H5P_DEFAULT) : -1;
    H5Oclose(id);
    if (!there) OHT_FAIL(OHT_DATA, "%s: %s has no attribute %s", file->path, object, attribute);
    if (*out < 0)
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s cannot be opened, %s", file->path, attribute, object,
                 damaged);
    hid_t space = H5Aget_space(*out);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    if (n != 1) {
        H5Aclose(*out);
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s holds %lld values, expected one", file->path, attribute,
                 object, (long long)n);
    }
    return OHT_OK;
}

static oht_status read_text(oht_h5 *file, const char *object, const char *attribute, hid_t id, hid_t type,
                            char **out) {
    size_t size = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || size > OHT_H5_MAX_CHUNK)
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s is not text", file->path, attribute, object);
    if (H5Tis_variable_str(type) > 0) {
        char *raw = NULL;
        if (H5Aread(id, type, &raw) < 0)
            OHT_FAIL(OHT_DATA, "%s: attribute %s of %s cannot be read, %s", file->path, attribute, object,
                     damaged);
        oht_status status = oht_strdup(out, raw ? raw : "");
        if (raw) H5free_memory(raw);
        return status;
    }
    OHT_TRY(OHT_ALLOC(out, size + 1, "text"));
    if (H5Aread(id, type, *out) >= 0) return OHT_OK;
    oht_free(*out);
    *out = NULL;
    OHT_FAIL(OHT_DATA, "%s: attribute %s of %s cannot be read, %s", file->path, attribute, object, damaged);
}

oht_status oht_h5_get_long_text(oht_h5 *file, const char *object, const char *attribute, char **out) {
    *out = NULL;
    oht_h5_lock();
    hid_t id;
    oht_status status = open_attribute(file, object, attribute, &id);
    if (status == OHT_OK) {
        hid_t type = H5Aget_type(id);
        status = read_text(file, object, attribute, id, type, out);
        H5Tclose(type);
        H5Aclose(id);
    }
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_get_text(oht_h5 *file, const char *object, const char *attribute, char *out, size_t size) {
    char *text;
    OHT_TRY(oht_h5_get_long_text(file, object, attribute, &text));
    size_t n = strlen(text);
    if (n < size) memcpy(out, text, n + 1);
    oht_free(text);
    if (n >= size)
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s has %zu characters, at most %zu expected", file->path,
                 attribute, object, n, size - 1);
    return OHT_OK;
}

static oht_status get_number(oht_h5 *file, const char *object, const char *attribute, H5T_class_t class,
                             hid_t memory, void *out) {
    hid_t id;
    OHT_TRY(open_attribute(file, object, attribute, &id));
    hid_t type = H5Aget_type(id);
    H5T_class_t found = H5Tget_class(type);
    // 64-bit unsigned would be clamped; nobody writes that.
    bool fits = (found == H5T_INTEGER || found == class) && H5Tget_size(type) <= 8 &&
                !(found == H5T_INTEGER && H5Tget_size(type) == 8 && H5Tget_sign(type) == H5T_SGN_NONE);
    bool good = fits && H5Aread(id, memory, out) >= 0;
    H5Tclose(type);
    H5Aclose(id);
    if (!fits)
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s is not %s", file->path, attribute, object,
                 class == H5T_INTEGER ? "an integer of 64 bits" : "a number of 64 bits");
    if (!good)
        OHT_FAIL(OHT_DATA, "%s: attribute %s of %s cannot be read, %s", file->path, attribute, object,
                 damaged);
    return OHT_OK;
}

oht_status oht_h5_get_int(oht_h5 *file, const char *object, const char *attribute, int64_t *out) {
    oht_h5_lock();
    oht_status status = get_number(file, object, attribute, H5T_INTEGER, H5T_NATIVE_INT64, out);
    oht_h5_unlock();
    return status;
}

oht_status oht_h5_get_float(oht_h5 *file, const char *object, const char *attribute, double *out) {
    oht_h5_lock();
    oht_status status = get_number(file, object, attribute, H5T_FLOAT, H5T_NATIVE_DOUBLE, out);
    oht_h5_unlock();
    return status;
}
