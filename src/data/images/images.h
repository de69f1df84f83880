// Parts of an image's way from encoded bytes to pixels (include/oht/images.h), shared by the files of this folder.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/images.h"
#include "oht/random.h"
#include "oht/status.h"

enum {
    OHT_IMAGE_MOST_PIXELS = 1 << 27, // of one image, declared: 400 MB of RGB
    OHT_IMAGE_MOST_SIDE = 65500,     // libjpeg's own limit
    OHT_IMAGE_MOST_BYTES = 1 << 26,  // of one encoded image
    OHT_IMAGE_SLACK = 64             // bytes after a buffer that vector code may read
};

// Memory that only grows; OHT_IMAGE_SLACK more bytes than asked for.
typedef struct oht_buffer {
    uint8_t *data;
    size_t capacity;
} oht_buffer;
// Makes room; what was in it is lost when it has to grow.
OHT_CHECKED oht_status oht_buffer_need(oht_buffer *buffer, size_t bytes);
void oht_buffer_free(oht_buffer *buffer);

// A view of pixels R G B R G B ..., rows `stride` bytes apart.
typedef struct oht_picture {
    const uint8_t *data;
    size_t stride;
    int width, height;
} oht_picture;

static inline const uint8_t *oht_picture_row(const oht_picture *p, int y) {
    return p->data + (size_t)y * p->stride;
}
static inline oht_picture oht_picture_part(const oht_picture *p, int left, int top, int width, int height) {
    return (oht_picture){oht_picture_row(p, top) + (size_t)left * 3, p->stride, width, height};
}

// ---- decode.c ------------------------------------------------------------------------------------------------------
// JPEG or PNG (told by the bytes, not by a name) as Pillow's Image.open(f).convert("RGB") gives it. The pixels lie in
// `rgb` until its next use; `line` is working memory. DATA error whose text is only the reason ("truncated JPEG").
OHT_CHECKED oht_status oht_image_decode(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                                        oht_picture *out);
// Size by the header alone. DATA error as above.
OHT_CHECKED oht_status oht_image_dimensions(const uint8_t *bytes, size_t n, int *width, int *height);
// Baseline JPEG, quality 95, chroma 4:2:0; appended nowhere: *bytes_out in `out`.
OHT_CHECKED oht_status oht_image_encode(const oht_picture *picture, oht_buffer *out, size_t *n);

// ---- resize.c ------------------------------------------------------------------------------------------------------
typedef enum oht_filter { OHT_FILTER_BILINEAR, OHT_FILTER_BICUBIC } oht_filter;

typedef struct oht_resize_scratch {
    oht_buffer coefficients[2], middle;
} oht_resize_scratch;
void oht_resize_scratch_free(oht_resize_scratch *scratch);

// Pillow's Image.resize((width, height), filter), of which only the window (left, top, out_width, out_height) is made,
// tight rows of 3 out_width bytes in out.
typedef struct oht_resize {
    int width, height;
    int left, top, out_width, out_height;
    oht_filter filter;
} oht_resize;
OHT_CHECKED oht_status oht_image_resize(const oht_picture *in, const oht_resize *to, oht_resize_scratch *scratch, uint8_t *out);
