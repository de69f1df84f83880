// RandAugment's 15 operations, equal to Pillow's ImageOps, ImageEnhance and Image.transform to the bit, and
// their random choice (rand-m9-mstd0.5, spec transformers 3.2).
//
//   tables:   out = table_c[in] (autocontrast, equalize, invert, posterize, solarize, solarize-add)
//   blends:   out = clip(d + f (in - d)), truncated, in float; d: grey picture, grey mean, black, smoothed
//   picture affine:   out(x, y) = in(A (x + 1/2, y + 1/2)), bilinear or Keys' cubic with a = -1, truncated,
//   in double;
//             outside: OHT_IMAGE_FILL
#include "data/images/images.h"

#include <math.h>
#include <string.h>

typedef uint8_t table[3][256];
typedef double vec __attribute__((vector_size(32))); // R G B and one more

double oht_augment_argument(oht_augmentation op, double magnitude, bool negative) {
    double level = magnitude / 10.0, sign = negative ? -1.0 : 1.0;
    switch (op) {
    case OHT_AUTOCONTRAST:
    case OHT_EQUALIZE:
    case OHT_INVERT:
    case OHT_AUGMENTATIONS:
        break;
    case OHT_ROTATE:
        return sign * level * 30.0;
    case OHT_POSTERIZE:
        return (int)(level * 4);
    case OHT_SOLARIZE:
        return fmin(256, (int)(level * 256));
    case OHT_SOLARIZE_ADD:
        return fmin(128, (int)(level * 110));
    case OHT_COLOR:
    case OHT_CONTRAST:
    case OHT_BRIGHTNESS:
    case OHT_SHARPNESS:
        return level * 1.8 + 0.1;
    case OHT_SHEAR_X:
    case OHT_SHEAR_Y:
        return sign * level * 0.3;
    case OHT_TRANSLATE_X:
    case OHT_TRANSLATE_Y:
        return sign * level * 0.45;
    }
    return 0.0;
}

static uint8_t clip(int v) {
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

// ---- tables ----

static void count_levels(const uint8_t *pixels, size_t n, uint32_t count[3][256]) {
    memset(count, 0, 3 * sizeof(*count));
    for (size_t i = 0; i < n; i++, pixels += 3)
        for (int c = 0; c < 3; c++) count[c][pixels[c]]++;
}

static void autocontrast_table(const uint32_t count[256], uint8_t t[256]) {
    int low = 0, high = 255;
    while (low < 255 && count[low] == 0) low++;
    while (high > 0 && count[high] == 0) high--;
    double scale = high > low ? 255.0 / (high - low) : 1.0, offset = high > low ? -low * scale : 0.0;
    for (int i = 0; i < 256; i++) t[i] = clip((int)(i * scale + offset));
}

static void equalize_table(const uint32_t count[256], uint8_t t[256]) {
    uint32_t sum = 0, last = 0;
    int used = 0;
    for (int i = 0; i < 256; i++) {
        if (count[i] == 0) continue;
        used++;
        sum += count[i];
        last = count[i];
    }
    uint32_t step = used > 1 ? (sum - last) / 255 : 0, n = step / 2;
    for (int i = 0; i < 256; i++) {
        t[i] = step ? clip((int)(n / step)) : (uint8_t)i;
        n += count[i];
    }
}

static void make_table(oht_augmentation op, int argument, const uint8_t *pixels, size_t n, table t) {
    uint32_t count[3][256];
    if (op == OHT_AUTOCONTRAST || op == OHT_EQUALIZE) count_levels(pixels, n, count);
    for (int c = 0; c < 3; c++) {
        if (op == OHT_AUTOCONTRAST) autocontrast_table(count[c], t[c]);
        if (op == OHT_EQUALIZE) equalize_table(count[c], t[c]);
        for (int i = 0; i < 256; i++) {
            if (op == OHT_INVERT) t[c][i] = (uint8_t)(255 - i);
            if (op == OHT_POSTERIZE) t[c][i] = (uint8_t)(i & ~((1 << (8 - argument)) - 1));
            if (op == OHT_SOLARIZE) t[c][i] = (uint8_t)(i < argument ? i : 255 - i);
            if (op == OHT_SOLARIZE_ADD) t[c][i] = i < 128 ? clip(i + argument) : (uint8_t)i;
        }
    }
}

static void look_up(uint8_t *pixels, size_t n, table t) {
    for (size_t i = 0; i < n; i++, pixels += 3)
        for (int c = 0; c < 3; c++) pixels[c] = t[c][pixels[c]];
}

// ---- blends ----

static uint8_t grey(const uint8_t *p) { // ITU-R 601 luma in 16-bit fixed point
    return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
}

// other: as many bytes as pixels.
static void grey_picture(const uint8_t *pixels, size_t n, uint8_t *other) {
    for (size_t i = 0; i < n; i++, pixels += 3, other += 3) other[0] = other[1] = other[2] = grey(pixels);
}

static void grey_mean(const uint8_t *pixels, size_t n, uint8_t *other) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += grey(pixels + 3 * i);
    memset(other, (int)((double)sum / (double)n + 0.5), 3 * n);
}

// 3 x 3 mean in which the centre counts 5 of 13, rounded; the border stays.
static void smooth(const uint8_t *pixels, int width, int height, uint8_t *other) {
    size_t line = (size_t)width * 3;
    memcpy(other, pixels, line * (size_t)height);
    for (int y = 1; y + 1 < height; y++) {
        const uint8_t *p = pixels + (size_t)y * line, *above = p - line, *below = p + line;
        uint8_t *out = other + (size_t)y * line;
        for (size_t i = 3; i + 3 < line; i++) {
            uint32_t sum = (uint32_t)above[i - 3] + above[i] + above[i + 3] + p[i - 3] + 5u * p[i] +
                           p[i + 3] + below[i - 3] + below[i] + below[i + 3];
            out[i] = (uint8_t)((2 * sum + 13) / 26);
        }
    }
}

static void blend(uint8_t *restrict pixels, const uint8_t *restrict other, size_t bytes, float factor) {
    for (size_t i = 0; i < bytes; i++) {
        float v = (float)other[i] + factor * (float)(pixels[i] - other[i]);
        pixels[i] = (uint8_t)(int)(v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v);
    }
}

// ---- affine ----

static vec load(const uint8_t *p) { // reads 4 bytes
    typedef uint8_t bytes __attribute__((vector_size(4)));
    bytes b;
    memcpy(&b, p, sizeof(b));
    return __builtin_convertvector(b, vec);
}

static vec linear(vec a, vec b, double d) {
    return a + (b - a) * d;
}

static vec keys(vec a, vec b, vec c, vec d, double t) {
    return b + t * ((-a + c) + t * ((2.0 * (a - b) + c - d) + t * (-a + b - c + d)));
}

static int limit(int i, int n) {
    return i < 0 ? 0 : i < n ? i : n - 1;
}

static vec bilinear(const uint8_t *in, int width, int height, double x, double y) {
    int i = (int)floor(x), j = (int)floor(y);
    const uint8_t *row[2];
    vec v[2];
    int x0 = limit(i, width) * 3, x1 = limit(i + 1, width) * 3;
    for (int r = 0; r < 2; r++) {
        row[r] = in + (size_t)limit(j + r, height) * (size_t)width * 3;
        v[r] = linear(load(row[r] + x0), load(row[r] + x1), x - i);
    }
    return linear(v[0], v[1], y - j);
}

static vec bicubic(const uint8_t *in, int width, int height, double x, double y) {
    int i = (int)floor(x), j = (int)floor(y), at[4];
    vec v[4];
    for (int t = 0; t < 4; t++) at[t] = limit(i - 1 + t, width) * 3;
    for (int r = 0; r < 4; r++) {
        const uint8_t *row = in + (size_t)limit(j - 1 + r, height) * (size_t)width * 3;
        v[r] = keys(load(row + at[0]), load(row + at[1]), load(row + at[2]), load(row + at[3]), x - i);
    }
    return keys(v[0], v[1], v[2], v[3], y - j);
}

static void affine(const double a[6], oht_filter filter, const uint8_t *in, int width, int height,
                   uint8_t *out) {
    typedef int32_t ints __attribute__((vector_size(16)));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, out += 3) {
            double u = a[0] * (x + 0.5) + a[1] * (y + 0.5) + a[2],
                   v = a[3] * (x + 0.5) + a[4] * (y + 0.5) + a[5];
            if (!(u >= 0.0 && u < width && v >= 0.0 && v < height)) {
                memset(out, OHT_IMAGE_FILL, 3);
                continue;
            }
            vec p = filter == OHT_FILTER_BICUBIC ? bicubic(in, width, height, u - 0.5, v - 0.5)
                                                 : bilinear(in, width, height, u - 0.5, v - 0.5);
            ints whole = __builtin_convertvector(p, ints);
            for (int c = 0; c < 3; c++) out[c] = clip(whole[c]);
        }
}

static double round15(double x) { // to 15 digits after the point
    return nearbyint(x * 1e15) / 1e15;
}

static void move(oht_augmentation op, double argument, oht_filter filter, uint8_t *pixels, uint8_t *other,
                 int width, int height) {
    double a[6] = {1, 0, 0, 0, 1, 0};
    if (op == OHT_SHEAR_X) a[1] = argument;
    if (op == OHT_SHEAR_Y) a[3] = argument;
    if (op == OHT_TRANSLATE_X) a[2] = argument * width;
    if (op == OHT_TRANSLATE_Y) a[5] = argument * height;
    if (op == OHT_ROTATE) { // about the centre
        double angle = -fmod(argument + 360.0, 360.0) * (M_PI / 180.0), cx = width / 2.0, cy = height / 2.0;
        a[0] = a[4] = round15(cos(angle));
        a[1] = round15(sin(angle));
        a[3] = round15(-sin(angle));
        a[2] = a[0] * -cx + a[1] * -cy + cx;
        a[5] = a[3] * -cx + a[4] * -cy + cy;
        if (a[1] == 0.0 && a[0] == 1.0) return;
    }
    size_t bytes = (size_t)width * (size_t)height * 3;
    memcpy(other, pixels, bytes);
    affine(a, filter, other, width, height, pixels);
}

// ---- all ----

void oht_augment(oht_augmentation op, double argument, oht_filter filter, uint8_t *pixels, uint8_t *other,
                 int width, int height) {
    size_t n = (size_t)width * (size_t)height;
    switch (op) {
    case OHT_AUTOCONTRAST:
    case OHT_EQUALIZE:
    case OHT_INVERT:
    case OHT_POSTERIZE:
    case OHT_SOLARIZE:
    case OHT_SOLARIZE_ADD: {
        table t;
        make_table(op, (int)argument, pixels, n, t);
        look_up(pixels, n, t);
        return;
    }
    case OHT_COLOR:
        grey_picture(pixels, n, other);
        break;
    case OHT_CONTRAST:
        grey_mean(pixels, n, other);
        break;
    case OHT_BRIGHTNESS:
        memset(other, 0, 3 * n);
        break;
    case OHT_SHARPNESS:
        smooth(pixels, width, height, other);
        break;
    case OHT_ROTATE:
    case OHT_SHEAR_X:
    case OHT_SHEAR_Y:
    case OHT_TRANSLATE_X:
    case OHT_TRANSLATE_Y:
        move(op, argument, filter, pixels, other, width, height);
        return;
    case OHT_AUGMENTATIONS:
        return;
    }
    blend(pixels, other, 3 * n, (float)argument);
}

void oht_augment_random(const oht_image_recipe *recipe, oht_draws *draws, uint8_t *pixels, uint8_t *other) {
    for (int i = 0; i < recipe->augment_ops; i++) {
        oht_augmentation op = (oht_augmentation)oht_draw_below(draws, OHT_AUGMENTATIONS);
        bool applied = oht_draw_uniform(draws) < recipe->augment_probability;
        double magnitude = recipe->magnitude + recipe->magnitude_std * oht_draw_normal(draws);
        bool negative = oht_draw_uniform(draws) < 0.5;
        oht_filter filter = oht_draw_uniform(draws) < 0.5 ? OHT_FILTER_BILINEAR : OHT_FILTER_BICUBIC;
        if (!applied) continue;
        double argument = oht_augment_argument(op, fmax(0.0, fmin(magnitude, 10.0)), negative);
        oht_augment(op, argument, filter, pixels, other, recipe->size, recipe->size);
    }
}
