// The HDF5 file of encoded images (include/oht/images.h). The wrapper h5.c distrusts the file's structure;
// this file distrusts what it says: sizes that must fit together, offsets, labels.
//
//   /train/bytes (total) uint8      the files end to end, in chunks of 64 KiB with a checksum each
//   /train/offsets (N+1) int64      image i is bytes[offsets[i], offsets[i+1])
//   /train/labels (N) int32         index into /classes (K) strings; likewise /validation
//   attributes: format, format_version, created_by, config, source_sha256; skipped images: /skipped (strings)
#include "oht/images.h"

#include <string.h>

#include "data/images/images.h"
#include "oht/h5.h"
#include "oht/memory.h"

#define PREPARE_AGAIN "fix: prepare the file again with `ohtrain prepare images`"

struct oht_images {
    oht_h5 *file;
    oht_images_info info;
    int64_t *offset[2];
    int32_t *label[2];
    char **class;
};

const char *oht_images_dataset(oht_split split, oht_images_part part) {
    static const char *const name[2][3] = {
        {"/train/bytes", "/train/offsets", "/train/labels"},
        {"/validation/bytes", "/validation/offsets", "/validation/labels"}};
    return name[split][part];
}

static oht_status read_format(oht_images *f) {
    char format[32] = "(none)";
    const char *path = oht_h5_path(f->file);
    if (oht_h5_has(f->file, "/", "format"))
        OHT_TRY(oht_h5_get_text(f->file, "/", "format", format, sizeof(format)));
    if (strcmp(format, OHT_IMAGES_FORMAT) != 0)
        OHT_FAIL(OHT_DATA,
                 "%s: not an image file of ohtrain: attribute format is %s, expected " OHT_IMAGES_FORMAT
                 "\n" PREPARE_AGAIN,
                 path, format);
    int64_t version;
    OHT_TRY(oht_h5_get_int(f->file, "/", "format_version", &version));
    if (version != OHT_IMAGES_VERSION)
        OHT_FAIL(OHT_DATA, "%s: format_version is %lld, this program reads %d\n" PREPARE_AGAIN, path,
                 (long long)version, OHT_IMAGES_VERSION);
    return oht_h5_get_text(f->file, "/", "source_sha256", f->info.source_sha256,
                           sizeof(f->info.source_sha256));
}

static oht_status read_offsets(oht_images *f, oht_split split, int64_t n, int64_t bytes) {
    const char *path = oht_h5_path(f->file), *name = oht_images_dataset(split, OHT_IMAGES_OFFSETS);
    int64_t *offset;
    OHT_TRY(OHT_ALLOC(&f->offset[split], (size_t)n + 1, "offsets of the images"));
    offset = f->offset[split];
    OHT_TRY(oht_h5_read(f->file, name, 0, n + 1, OHT_H5_I64, offset));
    if (offset[0] != 0)
        OHT_FAIL(OHT_DATA, "%s: %s begins with %lld, expected 0\n" PREPARE_AGAIN, path, name,
                 (long long)offset[0]);
    for (int64_t i = 0; i < n; i++) {
        if (offset[i + 1] <= offset[i] || offset[i + 1] - offset[i] > OHT_IMAGE_MOST_BYTES)
            OHT_FAIL(
                OHT_DATA,
                "%s: %s goes from %lld to %lld at image %lld, expected 1 to %d bytes more\n" PREPARE_AGAIN,
                path, name, (long long)offset[i], (long long)offset[i + 1], (long long)i,
                OHT_IMAGE_MOST_BYTES);
        if (offset[i + 1] - offset[i] > f->info.max_bytes[split])
            f->info.max_bytes[split] = offset[i + 1] - offset[i];
    }
    if (offset[n] != bytes)
        OHT_FAIL(OHT_DATA, "%s: %s ends with %lld, but there are %lld bytes of images\n" PREPARE_AGAIN, path,
                 name, (long long)offset[n], (long long)bytes);
    return OHT_OK;
}

static oht_status read_labels(oht_images *f, oht_split split, int64_t n) {
    const char *path = oht_h5_path(f->file), *name = oht_images_dataset(split, OHT_IMAGES_LABELS);
    OHT_TRY(OHT_ALLOC(&f->label[split], (size_t)n, "labels of the images"));
    OHT_TRY(oht_h5_read(f->file, name, 0, n, OHT_H5_I32, f->label[split]));
    for (int64_t i = 0; i < n; i++)
        if (f->label[split][i] < 0 || f->label[split][i] >= f->info.classes)
            OHT_FAIL(OHT_DATA, "%s: %s is %d at image %lld, but /classes has %lld names\n" PREPARE_AGAIN,
                     path, name, f->label[split][i], (long long)i, (long long)f->info.classes);
    return OHT_OK;
}

static oht_status read_split(oht_images *f, oht_split split) {
    const char *path = oht_h5_path(f->file), *name = oht_images_dataset(split, OHT_IMAGES_BYTES);
    if (!oht_h5_exists(f->file, name)) return OHT_OK; // no images of this kind
    oht_h5_shape bytes, offsets, labels;
    OHT_TRY(oht_h5_shape_of(f->file, name, 1, OHT_H5_U8, &bytes));
    OHT_TRY(oht_h5_shape_of(f->file, oht_images_dataset(split, OHT_IMAGES_OFFSETS), 1, OHT_H5_I64, &offsets));
    OHT_TRY(oht_h5_shape_of(f->file, oht_images_dataset(split, OHT_IMAGES_LABELS), 1, OHT_H5_I32, &labels));
    int64_t n = labels.dim[0];
    if (n < 1 || n > UINT32_MAX || offsets.dim[0] != n + 1)
        OHT_FAIL(OHT_DATA,
                 "%s: %s has %lld elements and %s %lld, expected one more than labels, and a label at least"
                 "\n" PREPARE_AGAIN,
                 path, oht_images_dataset(split, OHT_IMAGES_OFFSETS), (long long)offsets.dim[0],
                 oht_images_dataset(split, OHT_IMAGES_LABELS), (long long)n);
    OHT_TRY(read_offsets(f, split, n, bytes.dim[0]));
    OHT_TRY(read_labels(f, split, n));
    f->info.images[split] = n;
    return OHT_OK;
}

static oht_status read_all(oht_images *f) {
    OHT_TRY(read_format(f));
    OHT_TRY(oht_h5_read_strings(f->file, "/classes", &f->class, &f->info.classes));
    OHT_TRY(read_split(f, OHT_SPLIT_TRAIN));
    OHT_TRY(read_split(f, OHT_SPLIT_VALIDATION));
    if (f->info.images[0] + f->info.images[1] == 0)
        OHT_FAIL(OHT_DATA, "%s: has neither /train/bytes nor /validation/bytes\n" PREPARE_AGAIN,
                 oht_h5_path(f->file));
    return OHT_OK;
}

oht_status oht_images_open(oht_images **out, const char *path) {
    *out = NULL;
    oht_images *f;
    OHT_TRY(OHT_ALLOC(&f, 1, "image file"));
    oht_status status = oht_h5_open(&f->file, path);
    if (status == OHT_OK) status = read_all(f);
    if (status == OHT_OK)
        *out = f;
    else
        oht_images_close(f);
    return status;
}

void oht_images_close(oht_images *f) {
    if (!f) return;
    oht_h5_close(f->file);
    for (int64_t i = 0; f->class && i < f->info.classes; i++) oht_free(f->class[i]);
    oht_free(f->class);
    for (int s = 0; s < 2; s++) {
        oht_free(f->offset[s]);
        oht_free(f->label[s]);
    }
    oht_free(f);
}

const oht_images_info *oht_images_info_of(const oht_images *f) {
    return &f->info;
}

const char *oht_images_class(const oht_images *f, int64_t label) {
    return label >= 0 && label < f->info.classes ? f->class[label] : "?";
}

int32_t oht_images_label(const oht_images *f, oht_split split, int64_t index) {
    return f->label[split][index];
}

int64_t oht_images_bytes(const oht_images *f, oht_split split, int64_t index) {
    return f->offset[split][index + 1] - f->offset[split][index];
}

oht_status oht_images_read(oht_images *f, oht_split split, int64_t index, uint8_t *out) {
    if (index < 0 || index >= f->info.images[split])
        OHT_FAIL(OHT_INTERNAL, "%s: image %lld of %s asked for, it has %lld", oht_h5_path(f->file),
                 (long long)index, oht_images_dataset(split, OHT_IMAGES_BYTES),
                 (long long)f->info.images[split]);
    return oht_h5_read(f->file, oht_images_dataset(split, OHT_IMAGES_BYTES), f->offset[split][index],
                       oht_images_bytes(f, split, index), OHT_H5_U8, out);
}

oht_status oht_images_refuse(const oht_images *f, oht_split split, int64_t index, const char *reason) {
    OHT_FAIL(OHT_DATA, "%s: image %lld of %s (class %s) cannot be used: %s\n" PREPARE_AGAIN,
             oht_h5_path(f->file), (long long)index, oht_images_dataset(split, OHT_IMAGES_BYTES),
             oht_images_class(f, oht_images_label(f, split, index)), reason);
}
