// Writes the HDF5 file of encoded images (image_file.c has its layout): bytes, offsets and labels grow
// together through buffers that are whole chunks, so that each chunk is written once.
#include "data/images/image_writer.h"

#include <string.h>

#include "oht/memory.h"

enum { ROOM = 64 * OHT_IMAGES_CHUNK, INDEX_ROOM = 8192 };

oht_status oht_image_writer_open(oht_image_writer *w, const char *path) {
    OHT_TRY(OHT_ALLOC(&w->bytes, ROOM, "images to write"));
    OHT_TRY(OHT_ALLOC(&w->offset, INDEX_ROOM, "offsets to write"));
    OHT_TRY(OHT_ALLOC(&w->label, INDEX_ROOM, "labels to write"));
    SHA256Init(&w->hash);
    return oht_h5_create(&w->file, path);
}

void oht_image_writer_close(oht_image_writer *w) {
    oht_h5_close(w->file);
    oht_free(w->bytes);
    oht_free(w->offset);
    oht_free(w->label);
    *w = (oht_image_writer){0};
}

static oht_status flush_bytes(oht_image_writer *w) {
    OHT_TRY(oht_h5_write(w->file, oht_images_dataset(w->split, OHT_IMAGES_BYTES), w->total - w->n_bytes,
                         w->n_bytes, OHT_H5_U8, w->bytes));
    w->n_bytes = 0;
    return OHT_OK;
}

static oht_status flush_index(oht_image_writer *w) {
    int64_t first = w->images - w->n_index;
    OHT_TRY(oht_h5_write(w->file, oht_images_dataset(w->split, OHT_IMAGES_OFFSETS), first + 1, w->n_index,
                         OHT_H5_I64, w->offset));
    OHT_TRY(oht_h5_write(w->file, oht_images_dataset(w->split, OHT_IMAGES_LABELS), first, w->n_index,
                         OHT_H5_I32, w->label));
    w->n_index = 0;
    return OHT_OK;
}

oht_status oht_image_writer_start(oht_image_writer *w, oht_split split) {
    const oht_h5_shape bytes = {.type = OHT_H5_U8, .rank = 1, .chunk = {OHT_IMAGES_CHUNK}};
    const oht_h5_shape offsets = {.type = OHT_H5_I64, .rank = 1, .chunk = {INDEX_ROOM}};
    const oht_h5_shape labels = {.type = OHT_H5_I32, .rank = 1, .chunk = {INDEX_ROOM}};
    const int64_t zero = 0;
    w->split = split;
    w->images = w->total = w->n_bytes = w->n_index = 0;
    OHT_TRY(oht_h5_make(w->file, oht_images_dataset(split, OHT_IMAGES_BYTES), &bytes, true, true));
    OHT_TRY(oht_h5_make(w->file, oht_images_dataset(split, OHT_IMAGES_OFFSETS), &offsets, true, true));
    OHT_TRY(oht_h5_make(w->file, oht_images_dataset(split, OHT_IMAGES_LABELS), &labels, true, true));
    return oht_h5_write(w->file, oht_images_dataset(split, OHT_IMAGES_OFFSETS), 0, 1, OHT_H5_I64, &zero);
}

oht_status oht_image_writer_add(oht_image_writer *w, int32_t label, const uint8_t *bytes, int64_t n) {
    SHA256Update(&w->hash, (const uint8_t *)&label, sizeof(label));
    SHA256Update(&w->hash, (const uint8_t *)&n, sizeof(n));
    SHA256Update(&w->hash, bytes, (size_t)n);
    while (n > 0) {
        int64_t part = n < ROOM - w->n_bytes ? n : ROOM - w->n_bytes;
        memcpy(w->bytes + w->n_bytes, bytes, (size_t)part);
        bytes += part;
        n -= part;
        w->n_bytes += part;
        w->total += part;
        if (w->n_bytes == ROOM) OHT_TRY(flush_bytes(w));
    }
    w->offset[w->n_index] = w->total;
    w->label[w->n_index++] = label;
    w->images++;
    return w->n_index == INDEX_ROOM ? flush_index(w) : OHT_OK;
}

oht_status oht_image_writer_end(oht_image_writer *w) {
    OHT_TRY(flush_bytes(w));
    return flush_index(w);
}

oht_status oht_image_writer_finish(oht_image_writer *w, const oht_names *classes, const oht_names *skipped,
                                   const char *config) {
    char hex[SHA256_DIGEST_STRING_LENGTH];
    for (size_t i = 0; i < classes->n; i++)
        SHA256Update(&w->hash, (const uint8_t *)classes->name[i], strlen(classes->name[i]) + 1);
    SHA256End(&w->hash, hex);
    OHT_TRY(
        oht_h5_write_strings(w->file, "/classes", (const char *const *)classes->name, (int64_t)classes->n));
    if (skipped->n > 0)
        OHT_TRY(oht_h5_write_strings(w->file, "/skipped", (const char *const *)skipped->name,
                                     (int64_t)skipped->n));
    OHT_TRY(oht_h5_set_text(w->file, "/", "format", OHT_IMAGES_FORMAT));
    OHT_TRY(oht_h5_set_int(w->file, "/", "format_version", OHT_IMAGES_VERSION));
    OHT_TRY(oht_h5_set_text(w->file, "/", "created_by", "ohtrain " OHT_VERSION));
    OHT_TRY(oht_h5_set_text(w->file, "/", "config", config));
    OHT_TRY(oht_h5_set_text(w->file, "/", "source_sha256", hex));
    oht_h5 *file = w->file;
    w->file = NULL;
    return oht_h5_commit(file);
}
