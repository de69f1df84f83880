// Resampling with antialiasing, bit for bit as Pillow's Image.resize does it. Along one axis, scale s = in /
// out, output pixel x looks at the inputs around c = (x + 1/2) s:
//
//   w_i = f((i + 1/2 - c) / max(s, 1)),  |i + 1/2 - c| < r max(s, 1),  normalised to sum 1
//   f: triangle (bilinear, r = 1) or Keys' cubic with a = -1/2 (bicubic, r = 2)
//
// Weights become integers of 22 bits after the point, k = round(2^22 w); rows first, then columns, each
// result rounded to 8 bits: out = clip((2^21 + sum_i k_i p_i) >> 22).
//
// The vector path multiplies in 16 bits: k = 2^15 h + l, 0 <= l < 2^15, so sum k p = 2^15 sum h p + sum l p,
// exact modulo 2^32. (Numbers: AVX2 madd does 16 products an instruction, a 32-bit multiplication 8 in two.)
#include "data/images/images.h"

#include <math.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "oht/memory.h"

enum { BITS = 22, HALF = 1 << (BITS - 1), SPLIT = 15, GROUP = 4 };

// Weights of the outputs [first, first + n) of an axis: `taps` of them, a multiple of GROUP, some zero,
// belong to inputs start[i], start[i] + 1, ...
typedef struct axis {
    int n, taps;
    int32_t *start; // (n)
    int32_t *weight; // (n, taps)
    int low, high; // inputs [low, high) are looked at
} axis;

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

// The weights of one output in w; how many there are, and the first input.
static int weights_at(double center, double support, double scale, int in, oht_filter filter, double *w,
                      int *first) {
    int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
    if (low < 0) low = 0;
    if (high > in) high = in;
    double sum = 0.0, inverse = 1.0 / scale;
    for (int i = 0; i < high - low; i++) {
        double x = (i + low - center + 0.5) * inverse;
        w[i] = filter == OHT_FILTER_BICUBIC ? cubic(x) : triangle(x);
        sum += w[i];
    }
    for (int i = 0; i < high - low && sum != 0.0; i++) w[i] /= sum;
    *first = low;
    return high - low;
}

static oht_status make_axis(axis *a, oht_buffer *memory, int in, int out, int first, int n,
                            oht_filter filter) {
    double step = (double)in / out, scale = step > 1.0 ? step : 1.0;
    double support = (filter == OHT_FILTER_BICUBIC ? 2.0 : 1.0) * scale;
    int most = (int)ceil(support) * 2 + 1;
    a->n = n;
    a->taps = ((most < in ? most : in) + GROUP - 1) / GROUP * GROUP;
    size_t row = (size_t)a->taps, weights = (size_t)n * row * sizeof(int32_t);
    OHT_TRY(oht_buffer_need(memory, row * sizeof(double) + weights + (size_t)n * sizeof(int32_t)));
    double *w = (double *)(void *)memory->data;
    a->weight = (int32_t *)(void *)(memory->data + row * sizeof(double));
    a->start = a->weight + (size_t)n * row;
    memset(a->weight, 0, weights);
    a->low = in;
    a->high = 0;
    for (int i = 0; i < n; i++) {
        int start, count = weights_at((first + i + 0.5) * step, support, scale, in, filter, w, &start);
        int32_t *k = a->weight + (size_t)i * row;
        // Near the end zeros come first instead of last, so that nobody looks further than 3 past the input.
        int begin = start + a->taps <= in ? start : in > a->taps ? in - a->taps : 0;
        for (int t = 0; t < count; t++)
            k[start - begin + t] = (int32_t)(w[t] * (1 << BITS) + (w[t] < 0 ? -0.5 : 0.5));
        a->start[i] = begin;
        if (begin < a->low) a->low = begin;
        if (start + count > a->high) a->high = start + count;
    }
    return OHT_OK;
}

#ifdef __AVX2__

// Each group of 4 weights k becomes 4 halves h and 4 halves l of 16 bits, in place.
static void split_weights(axis *a) {
    for (size_t i = 0; i < (size_t)a->n * (size_t)a->taps; i += GROUP) {
        int16_t halves[2 * GROUP];
        for (int t = 0; t < GROUP; t++) {
            halves[t] = (int16_t)(a->weight[i + (size_t)t] >> SPLIT);
            halves[GROUP + t] = (int16_t)(a->weight[i + (size_t)t] & ((1 << SPLIT) - 1));
        }
        memcpy(a->weight + i, halves, sizeof(halves));
    }
}

static __m256i both(const void *p) { // 16 bytes in both halves
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}

// Four sums of 2^15 h + l, in two halves of the register, to bytes R G B 0.
static uint32_t finish_pixel(__m256i h, __m256i l) {
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(h, SPLIT), l);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_srai_epi32(_mm_add_epi32(s, _mm_set1_epi32(HALF)), BITS);
    s = _mm_packs_epi32(s, s);
    return (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(s, s));
}

// One output pixel of `rows` (1 or 4) rows; in: first input pixel of the first row.
static inline void pixel_of_rows(const uint8_t *in, size_t stride, const int32_t *weight, int taps, int rows,
                                 uint32_t *out) {
    const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9,
                                           -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m256i high = _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6,
                                          7, 4, 5, 6, 7, 4, 5, 6, 7);
    const __m256i low = _mm256_add_epi8(high, _mm256_set1_epi8(8));
    __m256i h[4], l[4];
    for (int r = 0; r < rows; r++) h[r] = l[r] = _mm256_setzero_si256();
    for (int t = 0; t < taps; t += GROUP) {
        __m256i k = both(weight + t), kh = _mm256_shuffle_epi8(k, high), kl = _mm256_shuffle_epi8(k, low);
        for (int r = 0; r < rows; r++) {
            __m256i p = _mm256_shuffle_epi8(both(in + (size_t)r * stride + (size_t)t * 3), pairs);
            h[r] = _mm256_add_epi32(h[r], _mm256_madd_epi16(p, kh));
            l[r] = _mm256_add_epi32(l[r], _mm256_madd_epi16(p, kl));
        }
    }
    for (int r = 0; r < rows; r++) out[r] = finish_pixel(h[r], l[r]);
}

static void along_rows(const oht_picture *in, const axis *a, uint8_t *out) {
    size_t line = (size_t)a->n * 3;
    for (int y = 0; y < in->height; y += 4) {
        int rows = in->height - y < 4 ? in->height - y : 4;
        uint8_t *to = out + (size_t)y * line;
        for (int x = 0; x < a->n; x++, to += 3) {
            const uint8_t *from = oht_picture_row(in, y) + (size_t)a->start[x] * 3;
            const int32_t *weight = a->weight + (size_t)x * (size_t)a->taps;
            uint32_t pixel[4];
            if (rows == 4)
                pixel_of_rows(from, in->stride, weight, a->taps, 4, pixel);
            else
                for (int r = 0; r < rows; r++)
                    pixel_of_rows(from + (size_t)r * in->stride, 0, weight, a->taps, 1, pixel + r);
            for (int r = 0; r < rows; r++) memcpy(to + (size_t)r * line, pixel + r, 3);
        }
    }
}

// 16 columns of one output row. in: the first input row.
static __m128i columns(const uint8_t *in, size_t stride, const int32_t *weight, int taps) {
    __m256i h[2], l[2];
    h[0] = h[1] = l[0] = l[1] = _mm256_setzero_si256();
    for (int t = 0; t < taps; t += 2) {
        const int32_t *group = weight + t / GROUP * GROUP; // h h h h l l l l of 16 bits
        __m256i kh = _mm256_set1_epi32(group[t % GROUP / 2]),
                kl = _mm256_set1_epi32(group[2 + t % GROUP / 2]);
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(in + (size_t)t * stride));
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(in + (size_t)(t + 1) * stride));
        __m256i p[2] = {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)),
                        _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b))};
        for (int i = 0; i < 2; i++) {
            h[i] = _mm256_add_epi32(h[i], _mm256_madd_epi16(p[i], kh));
            l[i] = _mm256_add_epi32(l[i], _mm256_madd_epi16(p[i], kl));
        }
    }
    for (int i = 0; i < 2; i++) {
        h[i] = _mm256_add_epi32(_mm256_slli_epi32(h[i], SPLIT), l[i]);
        h[i] = _mm256_srai_epi32(_mm256_add_epi32(h[i], _mm256_set1_epi32(HALF)), BITS);
    }
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(h[0], h[1]), 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

static void along_columns(const uint8_t *in, size_t stride, const axis *a, int bytes, uint8_t *out) {
    for (int y = 0; y < a->n; y++) {
        const uint8_t *from = in + (size_t)(a->start[y] - a->low) * stride;
        const int32_t *weight = a->weight + (size_t)y * (size_t)a->taps;
        uint8_t *to = out + (size_t)y * (size_t)bytes;
        for (int x = 0; x < bytes; x += 16) {
            __m128i v = columns(from + x, stride, weight, a->taps);
            memcpy(to + x, &v, bytes - x < 16 ? (size_t)(bytes - x) : 16);
        }
    }
}

#else

static void split_weights(axis *a) {
    (void)a;
}

static uint8_t clip(int32_t sum) {
    int32_t v = (sum + HALF) >> BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void along_rows(const oht_picture *in, const axis *a, uint8_t *out) {
    for (int y = 0; y < in->height; y++)
        for (int x = 0; x < a->n; x++, out += 3) {
            const uint8_t *p = oht_picture_row(in, y) + (size_t)a->start[x] * 3;
            const int32_t *k = a->weight + (size_t)x * (size_t)a->taps;
            int32_t sum[3] = {0};
            for (int t = 0; t < a->taps; t++, p += 3)
                for (int c = 0; c < 3; c++) sum[c] += k[t] * p[c];
            for (int c = 0; c < 3; c++) out[c] = clip(sum[c]);
        }
}

static void along_columns(const uint8_t *in, size_t stride, const axis *a, int bytes, uint8_t *out) {
    enum { WIDTH = 64 };
    for (int y = 0; y < a->n; y++, out += bytes)
        for (int x = 0; x < bytes; x += WIDTH) {
            const uint8_t *p = in + (size_t)(a->start[y] - a->low) * stride + x;
            const int32_t *k = a->weight + (size_t)y * (size_t)a->taps;
            int n = bytes - x < WIDTH ? bytes - x : WIDTH;
            int32_t sum[WIDTH] = {0};
            for (int t = 0; t < a->taps; t++, p += stride)
                for (int i = 0; i < n; i++) sum[i] += k[t] * p[i];
            for (int i = 0; i < n; i++) out[x + i] = clip(sum[i]);
        }
}

#endif

static void copy_rows(const oht_picture *in, uint8_t *out) {
    size_t line = (size_t)in->width * 3;
    for (int y = 0; y < in->height; y++) memcpy(out + (size_t)y * line, oht_picture_row(in, y), line);
}

void oht_resize_scratch_free(oht_resize_scratch *scratch) {
    oht_buffer_free(&scratch->coefficients[0]);
    oht_buffer_free(&scratch->coefficients[1]);
    oht_buffer_free(&scratch->middle);
}

oht_status oht_image_resize(const oht_picture *in, const oht_resize *to, oht_resize_scratch *scratch,
                            uint8_t *out) {
    axis across, down;
    OHT_TRY(make_axis(&across, &scratch->coefficients[0], in->width, to->width, to->left, to->out_width,
                      to->filter));
    OHT_TRY(make_axis(&down, &scratch->coefficients[1], in->height, to->height, to->top, to->out_height,
                      to->filter));
    split_weights(&across);
    split_weights(&down);
    // The rows the second pass looks at; its weights of zero may point at `taps` rows below them.
    oht_picture rows = oht_picture_part(in, 0, down.low, in->width, down.high - down.low);
    size_t line = (size_t)to->out_width * 3;
    OHT_TRY(oht_buffer_need(&scratch->middle, line * (size_t)(rows.height + down.taps)));
    if (in->width == to->width) {
        oht_picture window = oht_picture_part(&rows, to->left, 0, to->out_width, rows.height);
        copy_rows(&window, scratch->middle.data);
    } else {
        along_rows(&rows, &across, scratch->middle.data);
    }
    along_columns(scratch->middle.data, line, &down, (int)line, out);
    return OHT_OK;
}
