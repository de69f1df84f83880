// Decoding, resizing and cropping against Pillow (tests/golden/images.json), and what hostile bytes do. The
// freely licensed pictures of tests/golden/images always run; the others are read from the folder
// OHT_TEST_DATA.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sha2.h>

#include "data/images/images.h"
#include "golden.h"
#include "oht/memory.h"

enum { SHORT = 248, CROP = 224 };

typedef struct file {
    uint8_t *bytes;
    size_t n;
} file;

static bool read_path(const char *path, file *f) {
    FILE *in = fopen(path, "rb");
    if (!in) return false;
    fseek(in, 0, SEEK_END);
    f->n = (size_t)ftell(in);
    rewind(in);
    f->bytes = malloc(f->n + 1);
    bool good = f->bytes && fread(f->bytes, 1, f->n, in) == f->n;
    fclose(in);
    return good;
}

// A file of images.json: "data/images/..."
static bool find(const char *name, file *f) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/tests/golden/images/%s", OHT_SOURCE_DIR, strrchr(name, '/') + 1);
    if (read_path(path, f)) return true;
    const char *data = getenv("OHT_TEST_DATA");
    snprintf(path, sizeof(path), "%s/%s", data ? data : "", name + strlen("data/"));
    return data && read_path(path, f);
}

static void sha_of(const void *bytes, size_t n, char hex[SHA256_DIGEST_STRING_LENGTH]) {
    SHA256Data(bytes, n, hex);
}

static void assert_sha(const json_t *node, const void *bytes, size_t n, const char *name) {
    char hex[SHA256_DIGEST_STRING_LENGTH];
    sha_of(bytes, n, hex);
    if (strcmp(hex, golden_string(node, "sha256")) != 0) fail_msg("%s: pixels differ from Pillow's", name);
}

static void check_resize(const json_t *entry, const oht_picture *p, oht_resize_scratch *scratch,
                         const char *name) {
    double *size = golden_doubles(golden_get(entry, "resized"), "size", NULL);
    double *at = golden_doubles(golden_get(entry, "crop"), "left_top", NULL);
    oht_resize to = {.width = (int)size[0],
                     .height = (int)size[1],
                     .out_width = (int)size[0],
                     .out_height = (int)size[1],
                     .filter = OHT_FILTER_BICUBIC};
    uint8_t *out = malloc((size_t)to.width * (size_t)to.height * 3);
    assert_int_equal(oht_image_resize(p, &to, scratch, out), OHT_OK);
    assert_sha(golden_get(entry, "resized"), out, (size_t)to.width * (size_t)to.height * 3, name);
    to.left = (int)at[0];
    to.top = (int)at[1];
    to.out_width = to.out_height = CROP;
    assert_int_equal(oht_image_resize(p, &to, scratch, out), OHT_OK);
    assert_sha(golden_get(entry, "crop"), out, CROP * CROP * 3, name);
    free(out);
    free(size);
    free(at);
}

// Returns whether the file was there.
static bool check_entry(const json_t *entry) {
    static oht_buffer rgb, line;
    static oht_resize_scratch scratch;
    const char *name = golden_string(entry, "file");
    file f;
    if (!find(name, &f)) return false;
    oht_picture p;
    oht_status status = oht_image_decode(f.bytes, f.n, &rgb, &line, &p);
    if (json_object_get(entry, "strict_error")) {
        if (status != OHT_DATA) fail_msg("%s: Pillow refuses it, status here %d", name, status);
        assert_true(strlen(oht_error_last()->text) > 0);
    } else {
        if (status != OHT_OK) fail_msg("%s: %s", name, oht_error_last()->text);
        assert_int_equal(p.width, (int)golden_number(entry, "width"));
        assert_int_equal(p.height, (int)golden_number(entry, "height"));
        assert_int_equal(p.stride, p.width * 3);
        assert_sha(golden_get(entry, "rgb"), p.data, p.stride * (size_t)p.height, name);
        check_resize(entry, &p, &scratch, name);
        int width, height;
        assert_int_equal(oht_image_dimensions(f.bytes, f.n, &width, &height), OHT_OK);
        assert_true(width == p.width && height == p.height);
    }
    free(f.bytes);
    return true;
}

static void equals_pillow(void **state) {
    (void)state;
    json_t *root = golden_load("images");
    const json_t *images = golden_get(root, "images");
    int seen = 0, n = (int)json_array_size(images);
    for (int i = 0; i < n; i++) seen += check_entry(golden_at(images, (size_t)i));
    print_message("%d of %d files%s\n", seen, n, seen < n ? " (the others need OHT_TEST_DATA)" : "");
    assert_true(getenv("OHT_TEST_DATA") ? seen == n : seen >= 18);
    json_decref(root);
}

// Every colour type and depth of PNG, plain and interlaced, with and without tRNS and gAMA.
static void every_kind_of_png(void **state) {
    (void)state;
    oht_buffer rgb = {0}, line = {0};
    json_t *root = golden_load("augment");
    const json_t *list = golden_get(root, "pngs");
    assert_int_equal(json_array_size(list), 60);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = golden_at(list, i);
        const char *hex = golden_string(e, "hex");
        size_t n = strlen(hex) / 2;
        uint8_t *bytes = malloc(n);
        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)strtoul((char[]){hex[2 * k], hex[2 * k + 1], 0}, NULL, 16);
        char name[80];
        snprintf(name, sizeof(name), "PNG of kind %.0f, %.0f bits, interlaced %.0f, extra %.0f",
                 golden_number(e, "kind"), golden_number(e, "depth"), golden_number(e, "interlaced"),
                 golden_number(e, "extra"));
        oht_picture p;
        if (oht_image_decode(bytes, n, &rgb, &line, &p) != OHT_OK)
            fail_msg("%s: %s", name, oht_error_last()->text);
        assert_sha(e, p.data, p.stride * (size_t)p.height, name);
        free(bytes);
    }
    oht_buffer_free(&rgb);
    oht_buffer_free(&line);
    json_decref(root);
}

// ---- hostile bytes ----

static const char *const sound[] = {"pillow.hopper.jpg",          "pillow.hopper.png",
                                    "made.progressive.jpg",       "made.arithmetic.jpg",
                                    "pillow.pil_sample_cmyk.jpg", "pillow.pil123rgba.png",
                                    "pillow.hopper_gray.jpg",     "pillow.apng_mode_palette_alpha.png"};
enum { SOUND = sizeof(sound) / sizeof(*sound) };

static file load(const char *name) {
    char path[256];
    file f;
    snprintf(path, sizeof(path), "data/images/%s", name);
    assert_true(find(path, &f));
    return f;
}

// A copy in memory of exactly its size, so that a sanitizer sees a byte too many; the status of decoding it.
static oht_status decode_copy(const uint8_t *bytes, size_t n) {
    static oht_buffer rgb, line;
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    oht_picture p;
    oht_status status = oht_image_decode(copy, n, &rgb, &line, &p);
    if (status == OHT_OK) {
        assert_true(p.width > 0 && p.height > 0 && p.stride == (size_t)p.width * 3);
        volatile uint8_t last = p.data[p.stride * (size_t)p.height - 1];
        (void)last;
    } else {
        assert_int_equal(status, OHT_DATA);
        assert_true(strlen(oht_error_last()->text) > 0 && !strchr(oht_error_last()->text, '\n'));
    }
    int width, height;
    oht_status header = oht_image_dimensions(copy, n, &width, &height);
    assert_true(header == OHT_OK || (header == OHT_DATA && status == OHT_DATA));
    free(copy);
    return status;
}

static void truncated_anywhere(void **state) {
    (void)state;
    for (int i = 0; i < SOUND; i++) {
        file f = load(sound[i]);
        assert_int_equal(decode_copy(f.bytes, f.n), OHT_OK);
        size_t tail = strstr(sound[i], ".png") ? 200 : 1; // behind a PNG's pixels nothing matters
        for (size_t n = 0; n + tail <= f.n; n += n < 700 ? 1 : 64)
            if (decode_copy(f.bytes, n) != OHT_DATA)
                fail_msg("%s cut to %zu of %zu bytes: accepted", sound[i], n, f.n);
        free(f.bytes);
    }
}

static void damaged_anywhere(void **state) {
    (void)state;
    uint32_t seed = 7;
    for (int i = 0; i < SOUND; i++) {
        file f = load(sound[i]);
        for (int k = 0; k < 400; k++) {
            uint8_t *copy = malloc(f.n);
            memcpy(copy, f.bytes, f.n);
            for (int flips = k % 4; flips >= 0; flips--) {
                seed = seed * 1664525u + 1013904223u;
                size_t range = k % 2 ? f.n : f.n < 700 ? f.n : 700; // headers more often
                copy[seed % range] ^= (uint8_t)(1u << (seed >> 29));
            }
            (void)decode_copy(copy, f.n); // any status, no crash
            free(copy);
        }
        free(f.bytes);
    }
}

static void no_images(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        "x",
                                        "\xff",
                                        "\xff\xd8",
                                        "\xff\xd8\xff",
                                        "\xff\xd8\xff\xd9",
                                        "GIF89a\1\0\1\0",
                                        "BM",
                                        "\x89PNG\r\n\x1a\n",
                                        "RIFF....WEBPVP8 ",
                                        "hello, this is no image at all"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        assert_int_equal(decode_copy((const uint8_t *)texts[i], strlen(texts[i])), OHT_DATA);
    assert_int_equal(decode_copy((const uint8_t *)"", 0), OHT_DATA);
    assert_non_null(strstr(oht_error_last()->text, "empty"));
    assert_int_equal(decode_copy((const uint8_t *)"GIF89a", 6), OHT_DATA);
    assert_non_null(strstr(oht_error_last()->text, "neither JPEG nor PNG"));
}

static void put_16(uint8_t *p, unsigned v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t crc_of(const uint8_t *p, size_t n) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int b = 0; b < 8; b++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

// Small files that declare huge pictures are refused before any memory is taken for them.
static void bombs(void **state) {
    (void)state;
    static const unsigned sides[][2] = {{65500, 65500}, {65535, 65535}, {1, 65535}, {11000, 11000},
                                        {65000, 2000},  {0, 5},         {5, 0}};
    static const char *const jpegs[] = {"pillow.hopper.jpg", "made.progressive.jpg"};
    for (size_t k = 0; k < 2; k++) {
        file f = load(jpegs[k]);
        size_t sof = 0;
        for (size_t i = 0; i + 9 < f.n && !sof; i++)
            if (f.bytes[i] == 0xff && (f.bytes[i + 1] == 0xc0 || f.bytes[i + 1] == 0xc2)) sof = i;
        assert_true(sof > 0);
        for (size_t i = 0; i < sizeof(sides) / sizeof(*sides); i++) {
            put_16(f.bytes + sof + 5, sides[i][1]);
            put_16(f.bytes + sof + 7, sides[i][0]);
            oht_buffer rgb = {0}, line = {0};
            oht_picture p;
            uint64_t before = oht_alloc_count();
            assert_int_equal(oht_image_decode(f.bytes, f.n, &rgb, &line, &p), OHT_DATA);
            assert_true(oht_alloc_count() == before);
        }
        free(f.bytes);
    }
    file f = load("pillow.hopper.png"); // width at 16, height at 20, checksum of the 17 bytes from 12 at 29
    for (size_t i = 0; i < sizeof(sides) / sizeof(*sides); i++) {
        memset(f.bytes + 16, 0, 8);
        put_16(f.bytes + 18, sides[i][0]);
        put_16(f.bytes + 22, sides[i][1]);
        uint32_t crc = crc_of(f.bytes + 12, 17);
        put_16(f.bytes + 29, crc >> 16);
        put_16(f.bytes + 31, crc & 0xffff);
        oht_buffer rgb = {0}, line = {0};
        oht_picture p;
        uint64_t before = oht_alloc_count();
        oht_status status = oht_image_decode(f.bytes, f.n, &rgb, &line, &p);
        assert_int_equal(status, OHT_DATA);
        if (sides[i][0] > 1 && sides[i][1] > 1) assert_true(oht_alloc_count() == before);
        oht_buffer_free(&rgb);
    }
    f.bytes[16] = 0x7f; // 2^31 wide
    uint32_t crc = crc_of(f.bytes + 12, 17);
    put_16(f.bytes + 29, crc >> 16);
    put_16(f.bytes + 31, crc & 0xffff);
    assert_int_equal(decode_copy(f.bytes, f.n), OHT_DATA);
    free(f.bytes);
}

// What the encoder writes is decoded again, close to what it was.
static void encoded_and_decoded(void **state) {
    (void)state;
    oht_buffer rgb = {0}, line = {0}, jpeg = {0}, again = {0};
    file f = load("pillow.hopper.png");
    oht_picture p, q;
    size_t n, m;
    assert_int_equal(oht_image_decode(f.bytes, f.n, &rgb, &line, &p), OHT_OK);
    assert_int_equal(oht_image_encode(&p, &jpeg, &n), OHT_OK);
    assert_int_equal(oht_image_decode(jpeg.data, n, &again, &line, &q), OHT_OK);
    assert_true(q.width == p.width && q.height == p.height);
    double sum = 0;
    for (size_t i = 0; i < p.stride * (size_t)p.height; i++) sum += abs(p.data[i] - q.data[i]);
    assert_true(sum / (double)(p.stride * (size_t)p.height) <= 4.0);
    oht_buffer second = {0};
    assert_int_equal(oht_image_encode(&p, &second, &m), OHT_OK); // the same bytes every time
    assert_int_equal(n, m);
    assert_memory_equal(jpeg.data, second.data, n);
    // Noise at the smallest sizes fits its room.
    uint32_t seed = 3;
    uint8_t noise[40 * 40 * 3];
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 31 ? 255 : 0);
    for (int w = 1; w < 40; w += 6)
        for (int h = 1; h < 40; h += 6) {
            oht_picture part = {noise, (size_t)w * 3, w, h};
            assert_int_equal(oht_image_encode(&part, &second, &m), OHT_OK);
        }
    oht_buffer *const all[] = {&rgb, &line, &jpeg, &again, &second};
    for (size_t i = 0; i < 5; i++) oht_buffer_free(all[i]);
    free(f.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),       cmocka_unit_test(every_kind_of_png),
        cmocka_unit_test(truncated_anywhere),  cmocka_unit_test(damaged_anywhere),
        cmocka_unit_test(no_images),           cmocka_unit_test(bombs),
        cmocka_unit_test(encoded_and_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
