// Parts of an image's way from encoded bytes to pixels (include/oht/images.h), shared by the files of this
// folder.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oht/images.h"
#include "oht/random.h"
#include "oht/status.h"

enum {
    OHT_IMAGE_MOST_PIXELS = 1 << 27, // of one image, declared: 400 MB of RGB
    OHT_IMAGE_MOST_SIDE = 65500, // libjpeg's own limit
    OHT_IMAGE_MOST_BYTES = 1 << 26, // of one encoded image
    OHT_IMAGE_SLACK = 64 // bytes after a buffer that vector code may read
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

// ---- decode.c ----
// JPEG or PNG (told by the bytes, not by a name) as Pillow's Image.open(f).convert("RGB") gives it. The
// pixels lie in `rgb` until its next use; `line` is working memory. DATA error whose text is only the reason.
OHT_CHECKED oht_status oht_image_decode(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                                        oht_picture *out);
// Size by the header alone. DATA error as above.
OHT_CHECKED oht_status oht_image_dimensions(const uint8_t *bytes, size_t n, int *width, int *height);

// ---- encode.c ----
// Baseline JPEG, quality 95, chroma 4:2:0, in `out`; *n: its bytes.
OHT_CHECKED oht_status oht_image_encode(const oht_picture *picture, oht_buffer *out, size_t *n);

// ---- resize.c ----
typedef enum oht_filter { OHT_FILTER_BILINEAR, OHT_FILTER_BICUBIC } oht_filter;

typedef struct oht_resize_scratch {
    oht_buffer coefficients[2], middle;
} oht_resize_scratch;
void oht_resize_scratch_free(oht_resize_scratch *scratch);

// Pillow's Image.resize((width, height), filter), of which only the window (left, top, out_width, out_height)
// is made, tight rows of 3 out_width bytes in out.
typedef struct oht_resize {
    int width, height;
    int left, top, out_width, out_height;
    oht_filter filter;
} oht_resize;
OHT_CHECKED oht_status oht_image_resize(const oht_picture *in, const oht_resize *to,
                                        oht_resize_scratch *scratch, uint8_t *out);

// ---- augment.c: the 15 operations of RandAugment ----
typedef enum oht_augmentation {
    OHT_AUTOCONTRAST,
    OHT_EQUALIZE,
    OHT_INVERT,
    OHT_ROTATE,
    OHT_POSTERIZE,
    OHT_SOLARIZE,
    OHT_SOLARIZE_ADD,
    OHT_COLOR,
    OHT_CONTRAST,
    OHT_BRIGHTNESS,
    OHT_SHARPNESS,
    OHT_SHEAR_X,
    OHT_SHEAR_Y,
    OHT_TRANSLATE_X,
    OHT_TRANSLATE_Y,
    OHT_AUGMENTATIONS
} oht_augmentation;

enum { OHT_IMAGE_FILL = 128 }; // where a moved picture leaves nothing

// What magnitude M in [0, 10] means to an operation (spec 3.2): degrees, bits, threshold, addend, factor,
// shear, or share of the side; `negative` counts where there is a sign.
double oht_augment_argument(oht_augmentation op, double magnitude, bool negative);
// Applies one operation as Pillow does. pixels: tight (height,width,3), OHT_IMAGE_SLACK more bytes readable;
// the result is there too; other: as large, working memory.
void oht_augment(oht_augmentation op, double argument, oht_filter filter, uint8_t *pixels, uint8_t *other,
                 int width, int height);

// ---- draws ----
// Random numbers in order, a pure function of the key.
typedef struct oht_draws {
    uint64_t seed;
    oht_purpose purpose;
    uint32_t step, sample, used; // numbers taken so far
    uint32_t word[4];
} oht_draws;

static inline uint32_t oht_draw_bits(oht_draws *d) {
    if (d->used % 4 == 0) {
        philox4x32_ctr_t block = oht_random_block(d->seed, d->purpose, 0, d->step, d->sample, d->used / 4);
        for (int i = 0; i < 4; i++) d->word[i] = block.v[i];
    }
    return d->word[d->used++ % 4];
}
static inline double oht_draw_uniform(oht_draws *d) { // [0, 1)
    return oht_draw_bits(d) * 0x1p-32;
}
static inline int oht_draw_below(oht_draws *d, int n) { // 0 .. n - 1
    return (int)((uint64_t)oht_draw_bits(d) * (uint64_t)n >> 32);
}
double oht_draw_normal(oht_draws *d); // transform.c

// RandAugment: recipe->augment_ops operations drawn with replacement. pixels, other as above, square.
void oht_augment_random(const oht_image_recipe *recipe, oht_draws *draws, uint8_t *pixels, uint8_t *other);

// ---- image_file.c ----
#define OHT_IMAGES_FORMAT "ohtrain-images"
enum { OHT_IMAGES_VERSION = 1, OHT_IMAGES_CHUNK = 1 << 16 }; // bytes of /train/bytes in one checksummed chunk

typedef enum oht_images_part { OHT_IMAGES_BYTES, OHT_IMAGES_OFFSETS, OHT_IMAGES_LABELS } oht_images_part;
// "/train/bytes", ...
const char *oht_images_dataset(oht_split split, oht_images_part part);
// DATA error: the image is damaged, and why.
oht_status oht_images_refuse(const oht_images *images, oht_split split, int64_t index, const char *reason);

// ---- folders.c ----
typedef struct oht_names { // sorted by bytes
    char **name;
    size_t n, capacity;
} oht_names;
// What is in a folder: those that are folders (links followed), or all the others; without "." and "..". IO
// error.
OHT_CHECKED oht_status oht_names_list(const char *folder, bool folders, oht_names *out);
void oht_names_free(oht_names *names);
