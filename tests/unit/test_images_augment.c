// Resampling, the 15 operations, whole samples and mixing against Pillow and NumPy
// (tests/golden/augment.json), and what must hold for any input: purity, threads, no memory after warm-up.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sha2.h>

#include "data/images/images.h"
#include "golden.h"
#include "oht/memory.h"

// The pictures of augment_gen.py; freed with free.
static uint8_t *make_picture(const char *kind, int w, int h) {
    size_t n = (size_t)w * (size_t)h * 3;
    uint8_t *out = malloc(n + OHT_IMAGE_SLACK);
    uint32_t state = 12345u + (uint32_t)w * 1000u + (uint32_t)h;
    for (size_t i = 0; i < n; i++) {
        int x = (int)(i / 3) % w, y = (int)(i / 3) / w, c = (int)(i % 3), v = 0;
        state = state * 1664525u + 1013904223u;
        int noise = (int)(state >> 24);
        switch (kind[0]) {
        case 'n':
            v = noise;
            break;
        case 'r':
            v = (x * 7 + y * 3 + c * 40) % 256;
            break;
        case 's':
            v = 90 + noise % 50 + x % 8;
            break;
        case 'f':
            v = 77 + c;
            break;
        case 't':
            v = noise % 2 ? 255 : 3;
            break;
        case 'e':
            v = x > y ? 255 : 0;
            break;
        default:
            fail_msg("picture %s", kind);
        }
        out[i] = (uint8_t)v;
    }
    return out;
}

static void assert_digest(const json_t *node, const uint8_t *pixels, int w, int h, const char *what) {
    char hex[SHA256_DIGEST_STRING_LENGTH];
    SHA256Data(pixels, (size_t)w * (size_t)h * 3, hex);
    if (strcmp(hex, golden_string(node, "sha256")) == 0) return;
    double *expected = golden_doubles(node, "pixels", NULL);
    const uint8_t *middle = pixels + ((size_t)(h / 2) * (size_t)w + (size_t)(w / 2)) * 3;
    fail_msg("%s: other pixels than Pillow's; first %d %d %d, there %.0f %.0f %.0f; middle %d %d %d, there "
             "%.0f %.0f %.0f",
             what, pixels[0], pixels[1], pixels[2], expected[0], expected[1], expected[2], middle[0],
             middle[1], middle[2], expected[3], expected[4], expected[5]);
}

static oht_filter filter_of(const json_t *node) {
    return strcmp(golden_string(node, "filter"), "bicubic") == 0 ? OHT_FILTER_BICUBIC : OHT_FILTER_BILINEAR;
}

static void pair_of(const json_t *node, const char *key, int out[2]) {
    double *v = golden_doubles(node, key, NULL);
    out[0] = (int)v[0];
    out[1] = (int)v[1];
    free(v);
}

static void resize_equals_pillow(void **state) {
    (void)state;
    json_t *root = golden_load("augment");
    const json_t *list = golden_get(root, "resize");
    oht_resize_scratch scratch = {0};
    assert_true(json_array_size(list) >= 30);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = golden_at(list, i);
        int in[2], out[2];
        char what[160];
        pair_of(e, "in", in);
        pair_of(e, "out", out);
        snprintf(what, sizeof(what), "%s %dx%d to %dx%d %s", golden_string(e, "kind"), in[0], in[1], out[0],
                 out[1], golden_string(e, "filter"));
        uint8_t *from = make_picture(golden_string(e, "kind"), in[0], in[1]);
        uint8_t *to =
            malloc((size_t)out[0] * (size_t)out[1] * 3); // exact: the sanitizer sees a byte too many
        oht_picture p = {from, (size_t)in[0] * 3, in[0], in[1]};
        oht_resize r = {.width = out[0],
                        .height = out[1],
                        .out_width = out[0],
                        .out_height = out[1],
                        .filter = filter_of(e)};
        assert_int_equal(oht_image_resize(&p, &r, &scratch, to), OHT_OK);
        assert_digest(e, to, out[0], out[1], what);
        // Any window is the same part of the whole.
        for (int k = 0; k < 12; k++) {
            oht_resize part = r;
            part.left = (k * 5 + 1) % out[0];
            part.top = (k * 3 + 2) % out[1];
            part.out_width = 1 + (k * 7) % (out[0] - part.left);
            part.out_height = 1 + (k * 11) % (out[1] - part.top);
            uint8_t *window = malloc((size_t)part.out_width * (size_t)part.out_height * 3);
            assert_int_equal(oht_image_resize(&p, &part, &scratch, window), OHT_OK);
            for (int y = 0; y < part.out_height; y++)
                assert_memory_equal(window + (size_t)y * (size_t)part.out_width * 3,
                                    to + ((size_t)(part.top + y) * (size_t)out[0] + (size_t)part.left) * 3,
                                    (size_t)part.out_width * 3);
            free(window);
        }
        free(from);
        free(to);
    }
    oht_resize_scratch_free(&scratch);
    json_decref(root);
}

// A crop is a picture of its own: what lies around it in memory does not leak in.
static void resize_stays_inside(void **state) {
    (void)state;
    uint8_t *all = make_picture("noise", 60, 50), *part = malloc(20 * 15 * 3 + OHT_IMAGE_SLACK),
            a[64 * 64 * 3], b[64 * 64 * 3];
    oht_resize_scratch scratch = {0};
    oht_picture whole = {all, 60 * 3, 60, 50}, view = oht_picture_part(&whole, 40, 35, 20, 15),
                copy = {part, 20 * 3, 20, 15};
    for (int y = 0; y < 15; y++) memcpy(part + y * 60, oht_picture_row(&view, y), 60);
    for (int size = 1; size <= 64; size += 9)
        for (int f = 0; f < 2; f++) {
            oht_resize r = {.width = size,
                            .height = size,
                            .out_width = size,
                            .out_height = size,
                            .filter = (oht_filter)f};
            assert_int_equal(oht_image_resize(&view, &r, &scratch, a), OHT_OK);
            assert_int_equal(oht_image_resize(&copy, &r, &scratch, b), OHT_OK);
            assert_memory_equal(a, b, (size_t)size * (size_t)size * 3);
        }
    oht_resize_scratch_free(&scratch);
    free(all);
    free(part);
}

static oht_augmentation op_of(const char *name) {
    static const char *const names[] = {"autocontrast", "equalize",    "invert",       "rotate",
                                        "posterize",    "solarize",    "solarize_add", "color",
                                        "contrast",     "brightness",  "sharpness",    "shear_x",
                                        "shear_y",      "translate_x", "translate_y"};
    for (int i = 0; i < OHT_AUGMENTATIONS; i++)
        if (strcmp(name, names[i]) == 0) return (oht_augmentation)i;
    fail_msg("operation %s", name);
    return OHT_AUGMENTATIONS;
}

static void operations_equal_pillow(void **state) {
    (void)state;
    json_t *root = golden_load("augment");
    const json_t *list = golden_get(root, "ops");
    int seen[OHT_AUGMENTATIONS] = {0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = golden_at(list, i);
        const char *kind = golden_string(e, "kind"), *name = golden_string(e, "op");
        int size[2];
        char what[160];
        pair_of(e, "size", size);
        oht_augmentation op = op_of(name);
        seen[op]++;
        double magnitude = golden_number(e, "magnitude");
        double argument = oht_augment_argument(op, magnitude, json_is_true(golden_get(e, "negative")));
        snprintf(what, sizeof(what), "%s by %g of %s %dx%d %s", name, argument, kind, size[0], size[1],
                 golden_string(e, "filter"));
        if (!(fabs(argument - golden_number(e, "argument")) <= 1e-12)) fail_msg("%s: argument", what);
        uint8_t *pixels = make_picture(kind, size[0], size[1]),
                *other = make_picture("noise", size[0], size[1]);
        oht_augment(op, argument, filter_of(e), pixels, other, size[0], size[1]);
        assert_digest(e, pixels, size[0], size[1], what);
        free(pixels);
        free(other);
    }
    for (int i = 0; i < OHT_AUGMENTATIONS; i++) assert_true(seen[i] >= 24);
    json_decref(root);
}

// ---- whole samples ----

static uint8_t *read_picture(const char *name, size_t *n) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/tests/golden/images/%s", OHT_SOURCE_DIR, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    uint8_t *bytes = malloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, in);
    fclose(in);
    return bytes;
}

typedef struct task {
    const json_t *list;
    size_t first, stride; // samples first, first + stride, ...
    bool backwards;
    int bad;
} task;

static void *run_samples(void *arg) {
    task *t = arg;
    oht_image_scratch *scratch;
    if (oht_image_scratch_create(&scratch) != OHT_OK) abort();
    uint8_t *out = malloc(224 * 224 * 3);
    size_t count = json_array_size(t->list);
    for (size_t k = t->first; k < count; k += t->stride) {
        const json_t *e = golden_at(t->list, t->backwards ? count - 1 - k : k);
        size_t n;
        uint8_t *bytes = read_picture(golden_string(e, "file"), &n);
        int size = (int)golden_number(e, "size");
        oht_image_recipe recipe = json_is_true(golden_get(e, "train")) ? oht_image_recipe_train(size)
                                                                       : oht_image_recipe_evaluation(size);
        oht_status status = oht_image_transform(
            bytes, n, &recipe, (uint64_t)json_integer_value(golden_get(e, "seed")),
            (int64_t)golden_number(e, "epoch"), (int64_t)golden_number(e, "index"), scratch, out);
        char hex[SHA256_DIGEST_STRING_LENGTH];
        SHA256Data(out, (size_t)size * (size_t)size * 3, hex);
        if (status != OHT_OK || strcmp(hex, golden_string(e, "sha256")) != 0) {
            t->bad++;
            fprintf(stderr, "sample %zu of %s, size %d: not as expected\n", k, golden_string(e, "file"),
                    size);
        }
        free(bytes);
    }
    free(out);
    oht_image_scratch_destroy(scratch);
    return NULL;
}

static void samples_equal_pillow(void **state) {
    (void)state;
    json_t *root = golden_load("augment");
    task all = {.list = golden_get(root, "samples"), .stride = 1};
    assert_true(json_array_size(all.list) >= 200);
    run_samples(&all);
    assert_int_equal(all.bad, 0);
    json_decref(root);
}

static void order_and_threads_change_nothing(void **state) {
    (void)state;
    enum { THREADS = 4 };
    json_t *root = golden_load("augment");
    pthread_t thread[THREADS];
    task part[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        part[i] = (task){
            .list = golden_get(root, "samples"), .first = i, .stride = i < 2 ? 2 : 3, .backwards = i % 2};
        assert_int_equal(pthread_create(&thread[i], NULL, run_samples, &part[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(part[i].bad, 0);
    }
    json_decref(root);
}

static void nothing_is_allocated_after_warm_up(void **state) {
    (void)state;
    oht_image_scratch *scratch;
    size_t n;
    uint8_t *bytes = read_picture("pillow.hopper.jpg", &n), *out = malloc(224 * 224 * 3);
    oht_image_recipe recipe = oht_image_recipe_train(224);
    recipe.area[0] = 0.9;
    assert_int_equal(oht_image_scratch_create(&scratch), OHT_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(oht_image_transform(bytes, n, &recipe, 1, 0, i, scratch, out), OHT_OK);
    uint64_t before = oht_alloc_count();
    recipe.area[0] = 0.08;
    recipe.area[1] = 0.8; // smaller crops need no more
    for (int i = 0; i < 50; i++)
        assert_int_equal(oht_image_transform(bytes, n, &recipe, 1, 1, i, scratch, out), OHT_OK);
    assert_true(oht_alloc_count() == before);
    oht_image_scratch_destroy(scratch);
    free(bytes);
    free(out);
}

// Any picture shape, any size of the result; extremes of the recipe.
static void shapes_and_recipes(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 1}, {1, 200}, {200, 1}, {3, 3}, {2, 999}, {640, 16}, {33, 47}};
    oht_image_scratch *scratch;
    oht_buffer encoded = {0};
    assert_int_equal(oht_image_scratch_create(&scratch), OHT_OK);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        int w = shapes[i][0], h = shapes[i][1];
        uint8_t *pixels = make_picture("soft", w, h);
        oht_picture p = {pixels, (size_t)w * 3, w, h};
        size_t n;
        assert_int_equal(oht_image_encode(&p, &encoded, &n), OHT_OK);
        for (int size = 1; size < 70; size += 17)
            for (int k = 0; k < 40; k++) {
                uint8_t *out = malloc((size_t)size * (size_t)size * 3),
                        *again = malloc((size_t)size * (size_t)size * 3);
                oht_image_recipe r = k % 4 ? oht_image_recipe_train(size) : oht_image_recipe_evaluation(size);
                if (k % 5 == 1) r.area[0] = r.area[1] = 1.0;
                if (k % 5 == 2) r.area[0] = r.area[1] = 1e-9; // never fits: the fallback
                if (k % 5 == 3) r.augment_ops = 9, r.augment_probability = 1.0, r.magnitude_std = 20.0;
                if (k % 7 == 4) r.crop_share = 1.0;
                assert_int_equal(oht_image_transform(encoded.data, n, &r, 3, k, k, scratch, out), OHT_OK);
                assert_int_equal(oht_image_transform(encoded.data, n, &r, 3, k, k, scratch, again), OHT_OK);
                assert_memory_equal(out, again, (size_t)size * (size_t)size * 3);
                free(out);
                free(again);
            }
        free(pixels);
    }
    oht_buffer_free(&encoded);
    oht_image_scratch_destroy(scratch);
}

// Other seed, epoch or index: another sample. Shares of the draws are as asked for.
static void draws_are_independent(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = read_picture("pillow.hopper.jpg", &n), *out[4];
    oht_image_scratch *scratch;
    oht_image_recipe recipe = oht_image_recipe_train(64);
    assert_int_equal(oht_image_scratch_create(&scratch), OHT_OK);
    for (int i = 0; i < 4; i++) {
        out[i] = malloc(64 * 64 * 3);
        assert_int_equal(
            oht_image_transform(bytes, n, &recipe, 5 + (i == 1), i == 2, i == 3, scratch, out[i]), OHT_OK);
        for (int j = 0; j < i; j++) assert_memory_not_equal(out[i], out[j], 64 * 64 * 3);
    }
    // Without augmentation a flip is seen: the same crop with probability 0 and 1.
    recipe.augment_ops = 0;
    for (int i = 0; i < 2; i++) {
        recipe.flip = i;
        assert_int_equal(oht_image_transform(bytes, n, &recipe, 5, 0, 0, scratch, out[i]), OHT_OK);
    }
    for (int y = 0; y < 64; y++)
        for (int x = 0; x < 64; x++)
            assert_memory_equal(out[0] + (y * 64 + x) * 3, out[1] + (y * 64 + 63 - x) * 3, 3);
    recipe.flip = 0.5;
    uint8_t first[64 * 64 * 3];
    memcpy(first, out[0], sizeof(first));
    int flipped = 0;
    recipe.area[0] = recipe.area[1] = 1.0;
    recipe.ratio[0] = recipe.ratio[1] = 1.0; // hopper is square: the whole picture
    for (int i = 0; i < 400; i++) {
        assert_int_equal(oht_image_transform(bytes, n, &recipe, 5, 0, i, scratch, out[0]), OHT_OK);
        recipe.flip = 0;
        assert_int_equal(oht_image_transform(bytes, n, &recipe, 5, 0, i, scratch, out[1]), OHT_OK);
        recipe.flip = 0.5;
        flipped += memcmp(out[0], out[1], sizeof(first)) != 0;
    }
    assert_in_range(flipped, 155, 245); // 4.5 sigma
    for (int i = 0; i < 4; i++) free(out[i]);
    free(bytes);
    oht_image_scratch_destroy(scratch);
}

// ---- mixing ----

static void mixing_equals_numpy(void **state) {
    (void)state;
    json_t *root = golden_load("augment");
    const json_t *list = golden_get(root, "mixes");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = golden_at(list, i);
        double *alpha = golden_doubles(e, "alpha", NULL);
        oht_mix_recipe recipe = {alpha[0], alpha[1], 0.5, 0.1};
        int size = (int)golden_number(e, "size");
        oht_mix mix = oht_mix_draw(&recipe, size, (uint64_t)golden_number(e, "seed"),
                                   (int64_t)golden_number(e, "step"), (int64_t)golden_number(e, "group"));
        double *box = golden_doubles(e, "box", NULL);
        assert_int_equal(mix.cutmix, json_is_true(golden_get(e, "cutmix")));
        if (!(fabs((double)mix.lambda - golden_number(e, "lambda")) <= 1e-7))
            fail_msg("mix %zu: lambda %.9g, expected %.9g", i, (double)mix.lambda,
                     golden_number(e, "lambda"));
        assert_true(mix.left == box[0] && mix.top == box[1] && mix.right == box[2] && mix.bottom == box[3]);
        mix.lambda = (float)golden_number(e, "lambda");
        uint8_t *a = make_picture("noise", size, size), *b = make_picture("ramp", size, size);
        oht_mix_pair(&mix, a, b, size);
        assert_digest(golden_at(golden_get(e, "pair"), 0), a, size, size, "mixed");
        assert_digest(golden_at(golden_get(e, "pair"), 1), b, size, size, "mixed partner");
        free(box);
        free(alpha);
        free(a);
        free(b);
    }
    json_decref(root);
}

static void the_middle_and_lambda_1_stay(void **state) {
    (void)state;
    uint8_t *a = make_picture("noise", 32, 32), *b = make_picture("ramp", 32, 32),
            *kept = make_picture("noise", 32, 32);
    oht_mix half = {.lambda = 0.5f}, none = {.lambda = 1.0f},
            all = {.lambda = 0.0f, .cutmix = true, .right = 32, .bottom = 32};
    oht_mix_pair(&half, a, a, 32);
    assert_memory_equal(a, kept, 32 * 32 * 3);
    oht_mix_pair(&none, a, b, 32);
    assert_memory_equal(a, kept, 32 * 32 * 3);
    oht_mix_pair(&all, a, b, 32); // the whole picture changes hands
    assert_memory_equal(b, kept, 32 * 32 * 3);
    oht_mix_recipe off = {0};
    oht_mix mix = oht_mix_draw(&off, 32, 1, 2, 3);
    assert_true(mix.lambda == 1.0f && !mix.cutmix);
    free(a);
    free(b);
    free(kept);
}

// Moments of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)); cutmix half the time.
static void lambda_is_beta(void **state) {
    (void)state;
    static const double alphas[] = {0.01, 0.2, 1.0, 4.0};
    enum { N = 20000 };
    for (size_t k = 0; k < sizeof(alphas) / sizeof(*alphas); k++) {
        oht_mix_recipe recipe = {.mixup_alpha = alphas[k]};
        double sum = 0, square = 0;
        for (int i = 0; i < N; i++) {
            double x = (double)oht_mix_draw(&recipe, 224, 9, i, 0).lambda;
            assert_true(x >= 0 && x <= 1);
            sum += x;
            square += (x - 0.5) * (x - 0.5);
        }
        double variance = 1 / (4 * (2 * alphas[k] + 1));
        assert_true(fabs(sum / N - 0.5) <= 4.5 * sqrt(variance / N));
        assert_true(fabs(square / N / variance - 1) <= 0.05);
    }
    oht_mix_recipe both = {0.2, 0.2, 0.5, 0.1};
    int cut = 0;
    for (int i = 0; i < N; i++) {
        oht_mix m = oht_mix_draw(&both, 224, 9, i % 100, i / 100);
        cut += m.cutmix;
        if (m.cutmix)
            assert_true(fabs(1.0 - (double)(m.right - m.left) * (m.bottom - m.top) / (224.0 * 224.0) -
                             (double)m.lambda) <= 1e-6);
    }
    assert_true(abs(cut - N / 2) <= 4.5 * sqrt(N) / 2);
}

static void soft_targets(void **state) {
    (void)state;
    json_t *root = golden_load("transformers");
    const json_t *g = golden_get(root, "mixup_soft_ce");
    double *expected = golden_doubles(g, "target", NULL);
    float t[4];
    oht_mix mix = {.lambda = (float)golden_number(g, "lam")};
    oht_mix_target(&mix, (int32_t)golden_number(g, "y1"), (int32_t)golden_number(g, "y2"), 4,
                   golden_number(g, "smoothing"), t);
    for (int i = 0; i < 4; i++) assert_true(fabs((double)t[i] - expected[i]) <= 1e-7);
    oht_mix_target(&mix, 3, 3, 4, 0.0, t);
    assert_true(t[0] == 0.0f && t[3] == 1.0f);
    free(expected);
    json_decref(root);
}

static void normalisation(void **state) {
    (void)state;
    uint8_t *p = make_picture("noise", 5, 5);
    float out[75];
    oht_image_normalise(p, 5, out);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 25; i++)
            assert_true(fabs((double)out[c * 25 + i] - (p[i * 3 + c] / 255.0 - 0.5) / 0.5) <= 1e-7);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resize_equals_pillow),
        cmocka_unit_test(resize_stays_inside),
        cmocka_unit_test(operations_equal_pillow),
        cmocka_unit_test(samples_equal_pillow),
        cmocka_unit_test(order_and_threads_change_nothing),
        cmocka_unit_test(nothing_is_allocated_after_warm_up),
        cmocka_unit_test(shapes_and_recipes),
        cmocka_unit_test(draws_are_independent),
        cmocka_unit_test(mixing_equals_numpy),
        cmocka_unit_test(the_middle_and_lambda_1_stay),
        cmocka_unit_test(lambda_is_beta),
        cmocka_unit_test(soft_targets),
        cmocka_unit_test(normalisation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
