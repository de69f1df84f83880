// The image file: written and read back, samples straight from it by several threads, and files that say what
// cannot be.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/images/image_writer.h"

enum { IMAGES = 300, CLASSES = 7, SIDE = 20 };

static char folder[] = "/tmp/oht-images-XXXXXX", path[64];
static oht_buffer encoded[IMAGES];
static size_t bytes_of[IMAGES];

static int make_pictures(void **state) {
    (void)state;
    uint32_t seed = 11;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof(path), "%s/images.h5", folder);
    for (int i = 0; i < IMAGES; i++) {
        int w = 1 + i % 90, h = 1 + i * 7 % 80;
        uint8_t *pixels = malloc((size_t)(w * h * 3));
        for (int k = 0; k < w * h * 3; k++)
            pixels[k] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
        oht_picture p = {pixels, (size_t)w * 3, w, h};
        if (oht_image_encode(&p, &encoded[i], &bytes_of[i]) != OHT_OK) return -1;
        free(pixels);
    }
    return 0;
}

static int remove_pictures(void **state) {
    (void)state;
    for (int i = 0; i < IMAGES; i++) oht_buffer_free(&encoded[i]);
    unlink(path);
    return rmdir(folder); // nothing else is left
}

static char *class_name[CLASSES] = {"a", "b", "c", "d", "e", "f", "\xc3\xa9"};
static const oht_names classes = {class_name, CLASSES, CLASSES}, nobody = {0};

static void write_file(void) {
    oht_image_writer w = {0};
    assert_int_equal(oht_image_writer_open(&w, path), OHT_OK);
    for (int split = 0; split < 2; split++) {
        assert_int_equal(oht_image_writer_start(&w, (oht_split)split), OHT_OK);
        for (int i = split * 200; i < (split ? IMAGES : 200); i++)
            assert_int_equal(oht_image_writer_add(&w, i % CLASSES, encoded[i].data, (int64_t)bytes_of[i]),
                             OHT_OK);
        assert_int_equal(oht_image_writer_end(&w), OHT_OK);
    }
    assert_int_equal(oht_image_writer_finish(&w, &classes, &nobody, "{}"), OHT_OK);
    oht_image_writer_close(&w);
}

static void written_and_read(void **state) {
    (void)state;
    write_file();
    oht_images *images;
    assert_int_equal(oht_images_open(&images, path), OHT_OK);
    const oht_images_info *info = oht_images_info_of(images);
    assert_true(info->images[0] == 200 && info->images[1] == 100 && info->classes == CLASSES);
    assert_int_equal(strlen(info->source_sha256), 64);
    assert_string_equal(oht_images_class(images, 6), "\xc3\xa9");
    int64_t most[2] = {0};
    for (int i = IMAGES - 1; i >= 0; i--) {
        oht_split split = i >= 200 ? OHT_SPLIT_VALIDATION : OHT_SPLIT_TRAIN;
        int64_t at = i >= 200 ? i - 200 : i, n = oht_images_bytes(images, split, at);
        assert_int_equal(n, bytes_of[i]);
        if (n > most[split]) most[split] = n;
        uint8_t *out = malloc((size_t)n);
        assert_int_equal(oht_images_read(images, split, at, out), OHT_OK);
        assert_memory_equal(out, encoded[i].data, (size_t)n);
        assert_int_equal(oht_images_label(images, split, at), i % CLASSES);
        free(out);
    }
    assert_true(most[0] == info->max_bytes[0] && most[1] == info->max_bytes[1]);
    uint8_t none[4];
    assert_int_equal(oht_images_read(images, OHT_SPLIT_TRAIN, 200, none), OHT_INTERNAL);
    assert_int_equal(oht_images_read(images, OHT_SPLIT_TRAIN, -1, none), OHT_INTERNAL);
    oht_images_close(images);
}

// ---- samples from the file ----

typedef struct worker {
    oht_images *images;
    const uint8_t *expected; // (200, SIDE, SIDE, 3)
    int first, bad;
} worker;

static void *sample_all(void *arg) {
    worker *w = arg;
    oht_image_scratch *scratch;
    oht_image_recipe recipe = oht_image_recipe_train(SIDE);
    uint8_t out[SIDE * SIDE * 3];
    if (oht_image_scratch_create(&scratch) != OHT_OK) abort();
    for (int k = 0; k < 200; k++) {
        int i = (w->first + k * 77) % 200;
        oht_status status = oht_image_sample(w->images, OHT_SPLIT_TRAIN, i, &recipe, 3, 4, scratch, out);
        w->bad += status != OHT_OK || memcmp(out, w->expected + (size_t)i * sizeof(out), sizeof(out)) != 0;
    }
    oht_image_scratch_destroy(scratch);
    return NULL;
}

static void threads_see_the_same_samples(void **state) {
    (void)state;
    enum { THREADS = 4 };
    write_file();
    oht_images *images;
    oht_image_scratch *scratch;
    oht_image_recipe recipe = oht_image_recipe_train(SIDE);
    size_t one = SIDE * SIDE * 3;
    uint8_t *expected = malloc(200 * one);
    assert_int_equal(oht_images_open(&images, path), OHT_OK);
    assert_int_equal(oht_image_scratch_create(&scratch), OHT_OK);
    for (int i = 0; i < 200; i++)
        assert_int_equal(oht_image_transform(encoded[i].data, bytes_of[i], &recipe, 3, 4, i, scratch,
                                             expected + (size_t)i * one),
                         OHT_OK);
    pthread_t thread[THREADS];
    worker w[THREADS];
    for (int t = 0; t < THREADS; t++) {
        w[t] = (worker){images, expected, t * 50, 0};
        assert_int_equal(pthread_create(&thread[t], NULL, sample_all, &w[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(thread[t], NULL);
        assert_int_equal(w[t].bad, 0);
    }
    oht_image_scratch_destroy(scratch);
    oht_images_close(images);
    free(expected);
}

// ---- files that lie ----

typedef enum lie {
    TRUTH,
    FORMAT,
    VERSION,
    NO_CLASSES,
    LABEL_HIGH,
    LABEL_NEGATIVE,
    LABEL_TYPE,
    OFFSET_START,
    OFFSET_FALLS,
    OFFSET_EQUAL,
    OFFSET_PAST,
    OFFSET_SHORT,
    OFFSET_HUGE,
    OFFSET_NEGATIVE,
    TOO_FEW_OFFSETS,
    NO_OFFSETS,
    NO_IMAGES,
    BYTES_TYPE,
    NOT_AN_IMAGE,
    LIES
} lie;
static const char *const complaint[LIES] = {"",
                                            "not an image file",
                                            "format_version is 9",
                                            "classes",
                                            "is 2 at image 1",
                                            "is -1 at image 1",
                                            "holds",
                                            "begins with",
                                            "goes from",
                                            "goes from",
                                            "ends with",
                                            "ends with",
                                            "goes from",
                                            "goes from",
                                            "has 2 elements",
                                            "train/offsets",
                                            "neither /train/bytes",
                                            "holds",
                                            "neither JPEG nor PNG"};

static void write_lie(lie what) {
    static char *names[] = {"x", "y"};
    int64_t n = (int64_t)(bytes_of[50] + bytes_of[51]), offset[3] = {0, (int64_t)bytes_of[50], n};
    int32_t label[2] = {0, 1};
    if (what == LABEL_HIGH) label[1] = 2;
    if (what == LABEL_NEGATIVE) label[1] = -1;
    if (what == OFFSET_START) offset[0] = 1;
    if (what == OFFSET_FALLS) offset[1] = n + 5;
    if (what == OFFSET_EQUAL) offset[1] = 0;
    if (what == OFFSET_PAST) offset[2] = n + 1;
    if (what == OFFSET_SHORT) offset[2] = n - 1;
    if (what == OFFSET_HUGE) offset[2] = INT64_MAX;
    if (what == OFFSET_NEGATIVE) offset[1] = INT64_MIN;
    uint8_t *bytes = malloc((size_t)n * 4);
    memset(bytes, 0, (size_t)n * 4);
    memcpy(bytes, encoded[50].data, bytes_of[50]);
    memcpy(bytes + bytes_of[50], encoded[51].data, bytes_of[51]);
    if (what == NOT_AN_IMAGE) memset(bytes, 'x', (size_t)n);
    oht_h5 *f;
    assert_int_equal(oht_h5_create(&f, path), OHT_OK);
    oht_h5_shape b = {.type = what == BYTES_TYPE ? OHT_H5_I32 : OHT_H5_U8, .rank = 1, .dim = {n}};
    oht_h5_shape o = {.type = OHT_H5_I64, .rank = 1, .dim = {what == TOO_FEW_OFFSETS ? 2 : 3}};
    oht_h5_shape l = {.type = what == LABEL_TYPE ? OHT_H5_I64 : OHT_H5_I32, .rank = 1, .dim = {2}};
    if (what != NO_IMAGES) {
        assert_int_equal(oht_h5_make(f, "/train/bytes", &b, false, false), OHT_OK);
        assert_int_equal(oht_h5_write(f, "/train/bytes", 0, n, b.type, bytes), OHT_OK);
        if (what != NO_OFFSETS) {
            assert_int_equal(oht_h5_make(f, "/train/offsets", &o, false, true), OHT_OK);
            assert_int_equal(oht_h5_write(f, "/train/offsets", 0, o.dim[0], OHT_H5_I64, offset), OHT_OK);
        }
        assert_int_equal(oht_h5_make(f, "/train/labels", &l, false, true), OHT_OK);
        assert_int_equal(oht_h5_write(f, "/train/labels", 0, 2, OHT_H5_I32, label), OHT_OK);
    }
    if (what != NO_CLASSES)
        assert_int_equal(oht_h5_write_strings(f, "/classes", (const char *const *)names, 2), OHT_OK);
    assert_int_equal(oht_h5_set_text(f, "/", "format", what == FORMAT ? "ohtrain-text" : OHT_IMAGES_FORMAT),
                     OHT_OK);
    assert_int_equal(oht_h5_set_int(f, "/", "format_version", what == VERSION ? 9 : OHT_IMAGES_VERSION),
                     OHT_OK);
    assert_int_equal(oht_h5_set_text(f, "/", "source_sha256", "0"), OHT_OK);
    assert_int_equal(oht_h5_commit(f), OHT_OK);
    free(bytes);
}

static void files_that_lie(void **state) {
    (void)state;
    for (int what = 0; what < LIES; what++) {
        write_lie((lie)what);
        oht_images *images;
        oht_status status = oht_images_open(&images, path);
        if (status == OHT_OK) {
            oht_image_scratch *scratch;
            uint8_t out[SIDE * SIDE * 3];
            oht_image_recipe recipe = oht_image_recipe_evaluation(SIDE);
            assert_int_equal(oht_image_scratch_create(&scratch), OHT_OK);
            status = oht_image_sample(images, OHT_SPLIT_TRAIN, 1, &recipe, 0, 0, scratch, out);
            oht_image_scratch_destroy(scratch);
            oht_images_close(images);
        } else {
            assert_null(images);
        }
        if (status != (what == TRUTH ? OHT_OK : OHT_DATA)) fail_msg("lie %d: status %d", what, status);
        if (what == TRUTH) continue;
        if (!strstr(oht_error_last()->text, complaint[what]) || !strstr(oht_error_last()->text, path))
            fail_msg("lie %d: \"%s\"", what, oht_error_last()->text);
    }
    oht_images *images;
    assert_int_not_equal(oht_images_open(&images, "/nowhere/at/all.h5"), OHT_OK);
}

// Every byte of the pictures is under a checksum, every byte of the structure too: no flip changes what is
// read.
static void flipped_bytes_are_found(void **state) {
    (void)state;
    write_file();
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    struct stat s;
    assert_int_equal(fstat(fileno(f), &s), 0);
    uint8_t *good = malloc((size_t)s.st_size);
    assert_int_equal(fread(good, 1, (size_t)s.st_size, f), s.st_size);
    fclose(f);
    uint32_t seed = 5;
    for (int k = 0; k < 150; k++) {
        seed = seed * 1664525u + 1013904223u;
        size_t at = (size_t)(seed % (uint32_t)(k % 2 ? s.st_size : 6000));
        if (at >= (size_t)s.st_size) continue;
        good[at] ^= (uint8_t)(1u << (k % 8));
        f = fopen(path, "wb");
        assert_int_equal(fwrite(good, 1, (size_t)s.st_size, f), s.st_size);
        fclose(f);
        good[at] ^= (uint8_t)(1u << (k % 8));
        oht_images *images;
        if (oht_images_open(&images, path) != OHT_OK) continue;
        for (int i = 0; i < IMAGES; i++) {
            oht_split split = i >= 200 ? OHT_SPLIT_VALIDATION : OHT_SPLIT_TRAIN;
            int64_t row = i >= 200 ? i - 200 : i;
            if (row >= oht_images_info_of(images)->images[split])
                continue; // a name was hit: the split is seen as absent
            assert_int_equal(oht_images_bytes(images, split, row), bytes_of[i]);
            uint8_t *out = malloc(bytes_of[i]);
            if (oht_images_read(images, split, row, out) == OHT_OK)
                assert_memory_equal(out, encoded[i].data, bytes_of[i]);
            assert_int_equal(oht_images_label(images, split, row), i % CLASSES);
            free(out);
        }
        oht_images_close(images);
    }
    free(good);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read),
        cmocka_unit_test(threads_see_the_same_samples),
        cmocka_unit_test(files_that_lie),
        cmocka_unit_test(flipped_bytes_are_found),
    };
    return cmocka_run_group_tests(tests, make_pictures, remove_pictures);
}
