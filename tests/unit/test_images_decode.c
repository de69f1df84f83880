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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
