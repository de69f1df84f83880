// Writing of the image file (image_writer.c), for `ohtrain prepare images` and tests. Local: rank 0 alone.
#pragma once

#include <sys/types.h>

#include <sha2.h>

#include "data/images/images.h"
#include "oht/h5.h"

typedef struct oht_image_writer {
    oht_h5 *file;
    oht_split split;
    uint8_t *bytes;
    int64_t *offset; // one past each image
    int32_t *label;
    int64_t n_bytes, n_index; // waiting in the buffers
    int64_t images, total; // of this split so far, bytes among them
    SHA2_CTX hash;
} oht_image_writer;

OHT_CHECKED oht_status oht_image_writer_open(oht_image_writer *w, const char *path);
OHT_CHECKED oht_status oht_image_writer_start(oht_image_writer *w, oht_split split);
OHT_CHECKED oht_status oht_image_writer_add(oht_image_writer *w, int32_t label, const uint8_t *bytes,
                                            int64_t n);
OHT_CHECKED oht_status oht_image_writer_end(oht_image_writer *w); // of this split
// Names, attributes; the file appears whole at its path.
OHT_CHECKED oht_status oht_image_writer_finish(oht_image_writer *w, const oht_names *classes,
                                               const oht_names *skipped, const char *config);
// Also after a failure, or without an open; an unfinished file leaves nothing behind.
void oht_image_writer_close(oht_image_writer *w);
