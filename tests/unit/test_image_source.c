// Images through the loader: the same pixels, targets and labels for any number of threads and ranks; mixing
// keeps the sum of the targets and mixes what it says; files that do not fit.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/images/image_writer.h"
#include "oht/data.h"

enum { IMAGES = 60, VALIDATION = 11, CLASSES = 5, SIDE = 12, BYTES = SIDE * SIDE * 3, G = 14, STEPS = 6 };

static char folder[] = "/tmp/oht-image-source-XXXXXX", path[64];
static char *class_name[CLASSES] = {"a", "b", "c", "d", "e"};
static oht_config config;

static int make_file(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof(path), "%s/images.h5", folder);
    oht_image_writer w = {0};
    if (oht_image_writer_open(&w, path) != OHT_OK) return -1;
    oht_buffer encoded = {0};
    uint32_t seed = 5;
    for (int split = 0; split < 2; split++) {
        if (oht_image_writer_start(&w, (oht_split)split) != OHT_OK) return -1;
        for (int i = 0; i < (split ? VALIDATION : IMAGES); i++) {
            uint8_t pixels[20 * 16 * 3];
            for (size_t k = 0; k < sizeof(pixels); k++)
                pixels[k] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
            oht_picture p = {pixels, 20 * 3, 20, 16};
            size_t n;
            if (oht_image_encode(&p, &encoded, &n) != OHT_OK ||
                oht_image_writer_add(&w, i % CLASSES, encoded.data, (int64_t)n) != OHT_OK)
                return -1;
        }
        if (oht_image_writer_end(&w) != OHT_OK) return -1;
    }
    const oht_names classes = {class_name, CLASSES, CLASSES}, nobody = {0};
    oht_status status = oht_image_writer_finish(&w, &classes, &nobody, "{}");
    oht_image_writer_close(&w);
    oht_buffer_free(&encoded);
    return status == OHT_OK ? 0 : -1;
}

static int remove_file(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void defaults(void) {
    oht_config_defaults(&config);
    config.model.type = OHT_MODEL_VIT;
    config.model.image_size = SIDE;
    config.model.patch = 4;
    config.model.classes = CLASSES + 2;
    config.data.mix_batch = 4;
}

static oht_loader_config loading(oht_split split, int64_t micro, int rank, int size, int threads) {
    return (oht_loader_config){.split = split,
                               .task = OHT_TASK_IMAGES,
                               .seed = 77,
                               .global_batch = G,
                               .micro_batch = micro,
                               .count = split == OHT_SPLIT_TRAIN ? STEPS : 0,
                               .rank = rank,
                               .size = size,
                               .threads = threads,
                               .config = &config};
}

static uint64_t hash(uint64_t h, const void *bytes, size_t n) {
    const uint8_t *b = bytes;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 1099511628211u;
    return h;
}

// Hash of each sample of each step, in order of the global batch, whatever the ranks.
static void hashes(oht_split split, int64_t micro, int size, int threads, uint64_t out[STEPS][G]) {
    memset(out, 0, sizeof(uint64_t) * STEPS * G);
    for (int rank = 0; rank < size; rank++) {
        oht_loader_config cfg = loading(split, micro, rank, size, threads);
        oht_loader *loader;
        const oht_step_batch *s;
        if (oht_loader_create(&loader, path, &cfg) != OHT_OK) fail_msg("%s", oht_error_last()->text);
        for (;;) {
            if (oht_loader_next(loader, &s) != OHT_OK) fail_msg("%s", oht_error_last()->text);
            if (!s) break;
            int64_t labels = 0;
            for (int64_t m = 0, local = 0; m < s->n_micro; m++) {
                const oht_batch *b = &s->micro[m];
                assert_int_equal(b->field[OHT_FIELD_IMAGES].bytes, b->rows * BYTES);
                labels += b->n_labels;
                for (int64_t j = 0; j < b->rows; j++, local++) {
                    uint64_t h =
                        hash(14695981039346656037u, oht_batch_u8(b, OHT_FIELD_IMAGES) + j * BYTES, BYTES);
                    h = hash(h, &s->row_id[local], sizeof(int64_t));
                    int64_t K = config.model.classes;
                    if (split == OHT_SPLIT_TRAIN) {
                        const float *t = oht_batch_f32(b, OHT_FIELD_TARGETS) + j * K;
                        double sum = 0;
                        for (int64_t k = 0; k < K; k++) sum += (double)t[k];
                        assert_true(fabs(sum - 1) < 1e-5);
                        h = hash(h, t, (size_t)K * sizeof(*t));
                    } else {
                        assert_int_equal(oht_batch_i32(b, OHT_FIELD_LABELS)[j], s->row_id[local] % CLASSES);
                    }
                    out[s->index][b->sample0 + j * b->stride] = h;
                }
            }
            assert_int_equal(labels, s->rows);
        }
        oht_loader_destroy(loader);
    }
}

static void same_for_any_threads_and_ranks(void **state) {
    (void)state;
    static uint64_t one[STEPS][G], other[STEPS][G];
    for (int kind = 0; kind < 4; kind++) { // both mixings, each alone, none
        defaults();
        if (kind == 1 || kind == 3) config.data.cutmix = 0;
        if (kind == 2 || kind == 3) config.data.mixup = 0;
        for (int split = 0; split < 2; split++) {
            hashes((oht_split)split, 100, 1, 1, one);
            const int runs[][3] = {
                {3, 1, 4}, {5, 2, 1}, {2, 3, 2}, {1, 7, 1}, {4, 16, 2}}; // micro-batch, ranks, threads
            for (size_t r = 0; r < sizeof(runs) / sizeof(*runs); r++) {
                hashes((oht_split)split, runs[r][0], runs[r][1], runs[r][2], other);
                assert_memory_equal(one, other, sizeof(one));
            }
        }
    }
}

// The number that run.log = debug prints: a sum over ranks that only the data decide.
static void debug_hashes(int64_t micro, int size, int threads, uint64_t out[STEPS]) {
    memset(out, 0, sizeof(uint64_t) * STEPS);
    for (int rank = 0; rank < size; rank++) {
        oht_loader_config cfg = loading(OHT_SPLIT_TRAIN, micro, rank, size, threads);
        oht_loader *loader;
        const oht_step_batch *s;
        if (oht_loader_create(&loader, path, &cfg) != OHT_OK) fail_msg("%s", oht_error_last()->text);
        while (oht_loader_next(loader, &s) == OHT_OK && s) out[s->index] += oht_step_hash(s);
        oht_loader_destroy(loader);
    }
}

static void debug_hash_is_of_the_data_alone(void **state) {
    (void)state;
    uint64_t one[STEPS], other[STEPS];
    defaults();
    debug_hashes(100, 1, 1, one);
    const int runs[][3] = {{3, 1, 4}, {5, 2, 1}, {2, 3, 2}, {1, 4, 3}, {4, 16, 2}}; // micro-batch, ranks, threads
    for (size_t r = 0; r < sizeof(runs) / sizeof(*runs); r++) {
        debug_hashes(runs[r][0], runs[r][1], runs[r][2], other);
        assert_memory_equal(one, other, sizeof(one));
    }
    for (int i = 0; i < STEPS; i++)
        for (int k = 0; k < i; k++) assert_true(one[i] != one[k]);
    config.data.smoothing = 0.2; // the same pixels, other targets
    debug_hashes(100, 1, 1, other);
    for (int i = 0; i < STEPS; i++) assert_true(one[i] != other[i]);

    // One bit of one pixel, one target, or two samples in each other's place.
    uint8_t pixels[2][6] = {{1, 2, 3, 4, 5, 6}, {9, 9, 9, 9, 9, 8}};
    float targets[2][2] = {{0, 1}, {1, 0}};
    oht_batch b = {.rows = 2, .sample0 = 4, .stride = 3};
    b.field[OHT_FIELD_IMAGES] = (oht_array){pixels, sizeof(pixels)};
    b.field[OHT_FIELD_TARGETS] = (oht_array){targets, sizeof(targets)};
    const oht_step_batch step = {.n_micro = 1, .micro = &b};
    uint64_t was = oht_step_hash(&step);
    assert_true(was == oht_step_hash(&step));
    pixels[1][5] ^= 1;
    assert_true(was != oht_step_hash(&step));
    pixels[1][5] ^= 1;
    targets[0][0] = 0x1p-20f;
    assert_true(was != oht_step_hash(&step));
    targets[0][0] = 0;
    b.sample0 = 7, b.stride = (uint32_t)-3; // samples 7 and 4
    assert_true(was != oht_step_hash(&step));
}

// Without augmentation or mixing two epochs show the same images in another order; with mixing they differ.
static void mixing_changes_pixels(void **state) {
    (void)state;
    static uint64_t plain[STEPS][G], mixed[STEPS][G];
    defaults();
    config.data.mixup = config.data.cutmix = 0;
    hashes(OHT_SPLIT_TRAIN, 14, 1, 1, plain);
    config.data.mixup = 1;
    hashes(OHT_SPLIT_TRAIN, 14, 1, 1, mixed);
    int same = 0;
    for (int i = 0; i < STEPS; i++)
        for (int j = 0; j < G; j++) same += plain[i][j] == mixed[i][j];
    assert_in_range(same, 0, 4);
}

// For calibration: training images in training order, but always the same pixels, and labels instead of targets.
static void training_images_as_in_evaluation(void **state) {
    (void)state;
    enum { ROUNDS = 2 * IMAGES / G + 1 };
    uint64_t pixels[IMAGES] = {0};
    int64_t seen = 0, in_file_order = 0;
    defaults();
    oht_loader_config cfg = loading(OHT_SPLIT_TRAIN, 4, 0, 1, 2);
    cfg.as_evaluation = true;
    cfg.count = ROUNDS;
    oht_loader *loader;
    const oht_step_batch *s;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
    while (oht_loader_next(loader, &s) == OHT_OK && s)
        for (int64_t m = 0, local = 0; m < s->n_micro; m++) {
            const oht_batch *b = &s->micro[m];
            assert_null(b->field[OHT_FIELD_TARGETS].data);
            assert_int_equal(b->n_labels, b->rows);
            for (int64_t j = 0; j < b->rows; j++, local++, seen++) {
                int64_t row = s->row_id[local];
                uint64_t h = hash(1, oht_batch_u8(b, OHT_FIELD_IMAGES) + j * BYTES, BYTES);
                assert_in_range(row, 0, IMAGES - 1);
                assert_int_equal(oht_batch_i32(b, OHT_FIELD_LABELS)[j], row % CLASSES);
                if (pixels[row]) assert_true(pixels[row] == h);
                pixels[row] = h;
                in_file_order += row == seen;
            }
        }
    oht_loader_destroy(loader);
    assert_int_equal(seen, ROUNDS * G);
    assert_in_range(in_file_order, 0, 10);
    for (int i = 0; i < IMAGES; i++)
        for (int k = 0; k < i; k++) assert_true(pixels[i] && pixels[i] != pixels[k]);
}

static void refuses(const oht_loader_config *cfg, oht_status code, const char *part) {
    oht_loader *loader;
    assert_int_equal(oht_loader_create(&loader, path, cfg), code);
    if (!strstr(oht_error_last()->text, part)) fail_msg("%s", oht_error_last()->text);
}

static void data_that_do_not_fit(void **state) {
    (void)state;
    defaults();
    config.model.classes = CLASSES - 1;
    oht_loader_config cfg = loading(OHT_SPLIT_TRAIN, 4, 0, 1, 1);
    refuses(&cfg, OHT_DATA, "model.classes=5");
    cfg.task = OHT_TASK_CLM;
    refuses(&cfg, OHT_DATA, "not a text file");
    oht_data_info info;
    assert_int_equal(oht_data_describe(&info, path), OHT_OK);
    assert_int_equal(info.task, OHT_TASK_IMAGES);
    assert_int_equal(info.rows[0], IMAGES);
    assert_int_equal(info.rows[1], VALIDATION);
    assert_int_equal(info.classes, CLASSES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_for_any_threads_and_ranks),
        cmocka_unit_test(debug_hash_is_of_the_data_alone),
        cmocka_unit_test(mixing_changes_pixels),
        cmocka_unit_test(training_images_as_in_evaluation),
        cmocka_unit_test(data_that_do_not_fit),
    };
    return cmocka_run_group_tests_name("image source", tests, make_file, remove_file);
}
