// One sample from encoded bytes to (size,size,3) uint8 (include/oht/images.h; spec transformers 3.2):
//
//   training:    random-resized-crop -> horizontal flip -> RandAugment
//   evaluation:  short side to floor(size / crop_share), bicubic -> centre crop
//
// Random numbers are taken in order from Philox with key (seed, epoch, row of the file): nothing else
// decides.
#include "oht/images.h"

#include <math.h>
#include <string.h>

#include "data/images/images.h"
#include "oht/memory.h"

enum { CROP_TRIES = 10 };

struct oht_image_scratch {
    oht_buffer encoded, rgb, line, pixels, other;
    oht_resize_scratch resize;
};

oht_status oht_image_scratch_create(oht_image_scratch **out) {
    return OHT_ALLOC(out, 1, "image scratch");
}

void oht_image_scratch_destroy(oht_image_scratch *s) {
    if (!s) return;
    oht_buffer *const buffer[] = {&s->encoded, &s->rgb, &s->line, &s->pixels, &s->other};
    for (size_t i = 0; i < sizeof(buffer) / sizeof(*buffer); i++) oht_buffer_free(buffer[i]);
    oht_resize_scratch_free(&s->resize);
    oht_free(s);
}

oht_image_recipe oht_image_recipe_train(int size) {
    return (oht_image_recipe){.size = size,
                              .train = true,
                              .area = {0.08, 1.0},
                              .ratio = {3.0 / 4.0, 4.0 / 3.0},
                              .flip = 0.5,
                              .augment_ops = 2,
                              .augment_probability = 0.5,
                              .magnitude = 9.0,
                              .magnitude_std = 0.5,
                              .crop_share = 0.9};
}

oht_image_recipe oht_image_recipe_evaluation(int size) {
    oht_image_recipe recipe = oht_image_recipe_train(size);
    recipe.train = false;
    return recipe;
}

double oht_draw_normal(oht_draws *d) { // Box and Muller
    double u = (oht_draw_bits(d) + 1.0) * 0x1p-32, v = oht_draw_uniform(d);
    return sqrt(-2.0 * log(u)) * cos(2.0 * M_PI * v);
}

static double between(double low, double high, double u) {
    return low + (high - low) * u;
}

typedef struct box {
    int left, top, width, height;
} box;

// A box of random area and shape that fits; after CROP_TRIES misses the largest centred one of an allowed
// shape.
static box random_box(const oht_image_recipe *recipe, oht_draws *draws, int width, int height) {
    for (int i = 0; i < CROP_TRIES; i++) {
        double area = between(recipe->area[0], recipe->area[1], oht_draw_uniform(draws)) * width * height;
        double ratio = exp(between(log(recipe->ratio[0]), log(recipe->ratio[1]), oht_draw_uniform(draws)));
        double w = nearbyint(sqrt(area * ratio)), h = nearbyint(sqrt(area / ratio));
        if (!(w >= 1 && h >= 1 && w <= width && h <= height)) continue;
        box b = {.width = (int)w, .height = (int)h};
        b.top = oht_draw_below(draws, height - b.height + 1);
        b.left = oht_draw_below(draws, width - b.width + 1);
        return b;
    }
    box b = {.width = width, .height = height};
    double ratio = (double)width / height;
    if (ratio < recipe->ratio[0]) b.height = (int)fmax(1, nearbyint(width / recipe->ratio[0]));
    if (ratio > recipe->ratio[1]) b.width = (int)fmax(1, nearbyint(height * recipe->ratio[1]));
    b.left = (width - b.width) / 2;
    b.top = (height - b.height) / 2;
    return b;
}

static void flip(uint8_t *pixels, int size) {
    for (int y = 0; y < size; y++, pixels += (size_t)size * 3)
        for (int x = 0; x < size / 2; x++) {
            uint8_t *a = pixels + (size_t)x * 3, *b = pixels + (size_t)(size - 1 - x) * 3, t[3];
            memcpy(t, a, 3);
            memcpy(a, b, 3);
            memcpy(b, t, 3);
        }
}

static oht_status for_training(const oht_image_recipe *recipe, oht_draws *draws, const oht_picture *in,
                               oht_image_scratch *s, uint8_t *out) {
    int size = recipe->size;
    size_t bytes = (size_t)size * (size_t)size * 3;
    OHT_TRY(oht_buffer_need(&s->pixels, bytes));
    OHT_TRY(oht_buffer_need(&s->other, bytes));
    box b = random_box(recipe, draws, in->width, in->height);
    oht_picture part = oht_picture_part(in, b.left, b.top, b.width, b.height);
    oht_resize to = {.width = size, .height = size, .out_width = size, .out_height = size};
    to.filter = oht_draw_uniform(draws) < 0.5 ? OHT_FILTER_BILINEAR : OHT_FILTER_BICUBIC;
    OHT_TRY(oht_image_resize(&part, &to, &s->resize, s->pixels.data));
    if (oht_draw_uniform(draws) < recipe->flip) flip(s->pixels.data, size);
    oht_augment_random(recipe, draws, s->pixels.data, s->other.data);
    memcpy(out, s->pixels.data, bytes);
    return OHT_OK;
}

static oht_status for_evaluation(const oht_image_recipe *recipe, const oht_picture *in, oht_image_scratch *s,
                                 uint8_t *out) {
    int size = recipe->size, side = (int)floor(size / recipe->crop_share);
    int64_t w = in->width, h = in->height;
    oht_resize to = {
        .width = side, .height = side, .out_width = size, .out_height = size, .filter = OHT_FILTER_BICUBIC};
    if (w <= h)
        to.height = (int)(side * h / w);
    else
        to.width = (int)(side * w / h);
    to.left = (int)nearbyint((to.width - size) / 2.0); // half to even
    to.top = (int)nearbyint((to.height - size) / 2.0);
    return oht_image_resize(in, &to, &s->resize, out);
}

oht_status oht_image_transform(const uint8_t *bytes, size_t n, const oht_image_recipe *recipe, uint64_t seed,
                               int64_t epoch, int64_t index, oht_image_scratch *s, uint8_t *out) {
    oht_picture picture;
    OHT_TRY(oht_image_decode(bytes, n, &s->rgb, &s->line, &picture));
    if (!recipe->train) return for_evaluation(recipe, &picture, s, out);
    oht_draws draws = {
        .seed = seed, .purpose = OHT_DRAW_IMAGE, .step = (uint32_t)epoch, .sample = (uint32_t)index};
    return for_training(recipe, &draws, &picture, s, out);
}

oht_status oht_image_sample(oht_images *images, oht_split split, int64_t index,
                            const oht_image_recipe *recipe, uint64_t seed, int64_t epoch,
                            oht_image_scratch *s, uint8_t *out) {
    size_t n = (size_t)oht_images_bytes(images, split, index);
    OHT_TRY(oht_buffer_need(&s->encoded, (size_t)oht_images_info_of(images)->max_bytes[split]));
    OHT_TRY(oht_images_read(images, split, index, s->encoded.data));
    oht_status status = oht_image_transform(s->encoded.data, n, recipe, seed, epoch, index, s, out);
    if (status != OHT_DATA) return status;
    char reason[OHT_ERROR_TEXT];
    memcpy(reason, oht_error_last()->text, sizeof(reason));
    reason[sizeof(reason) - 1] = '\0';
    return oht_images_refuse(images, split, index, reason);
}
