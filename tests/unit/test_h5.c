// HDF5 files: what is written comes back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "h5_test.h"
#include "oht/h5.h"
#include "oht/memory.h"

static void every_type_comes_back(void **state) {
    (void)state;
    static const size_t size[] = {4, 8, 4, 8, 1, 2, 4};
    const char *path = in_folder("types.h5");
    unsigned char data[7 * 3 * 8], back[7 * 3 * 8];
    for (size_t i = 0; i < sizeof(data); i++) data[i] = (unsigned char)(rnd((uint32_t)i) % 100); // no NaN
    oht_h5 *f;
    OK(oht_h5_create(&f, path));
    for (int t = 0; t < OHT_H5_STRING; t++) {
        for (int layout = 0; layout < 3; layout++) {
            char name[64];
            snprintf(name, sizeof(name), "/a/b/t%d-%d", t, layout);
            oht_h5_shape shape = {.type = (oht_h5_type)t, .rank = 2, .dim = {layout == 2 ? 0 : 7, 3}};
            if (layout == 1) shape.chunk[0] = 2, shape.chunk[1] = 3;
            OK(oht_h5_make(f, name, &shape, layout == 2, layout > 0));
            OK(oht_h5_write(f, name, 0, 5, (oht_h5_type)t, data));
            OK(oht_h5_write(f, name, 5, 2, (oht_h5_type)t, data + 15 * size[t]));
        }
    }
    OK(oht_h5_commit(f));
    OK(oht_h5_open(&f, path));
    for (int t = 0; t < OHT_H5_STRING; t++) {
        for (int layout = 0; layout < 3; layout++) {
            char name[64];
            snprintf(name, sizeof(name), "a/b/t%d-%d", t, layout);
            oht_h5_shape shape;
            OK(oht_h5_shape_of(f, name, 2, t, &shape));
            assert_int_equal(shape.dim[0], 7);
            assert_int_equal(shape.dim[1], 3);
            assert_int_equal(shape.chunk[0] > 0, layout > 0);
            OK(oht_h5_read(f, name, 2, 4, (oht_h5_type)t, back));
            assert_memory_equal(back, data + 6 * size[t], 12 * size[t]);
        }
    }
    oht_h5_close(f);
    assert_int_equal(access(in_folder("types.h5.tmp"), F_OK), -1);
}

static void numbers_are_widened_never_narrowed(void **state) {
    (void)state;
    const char *path = in_folder("wide.h5");
    const uint16_t data[] = {0, 65535, 7};
    oht_h5 *f;
    OK(oht_h5_create(&f, path));
    oht_h5_shape shape = {.type = OHT_H5_U16, .rank = 1, .dim = {3}};
    OK(oht_h5_make(f, "x", &shape, false, true));
    OK(oht_h5_write(f, "x", 0, 3, OHT_H5_U16, data));
    int64_t wide = 1;
    refused(oht_h5_write(f, "x", 0, 1, OHT_H5_I64, &wide), OHT_INTERNAL, "uint16");
    OK(oht_h5_commit(f));
    OK(oht_h5_open(&f, path));
    int32_t i32[3];
    OK(oht_h5_read(f, "x", 0, 3, OHT_H5_I32, i32));
    assert_int_equal(i32[1], 65535);
    uint8_t u8[3];
    float f32[3];
    refused(oht_h5_read(f, "x", 0, 3, OHT_H5_U8, u8), OHT_DATA, "uint16, expected uint8");
    refused(oht_h5_read(f, "x", 0, 3, OHT_H5_F32, f32), OHT_DATA, "expected float32");
    refused(oht_h5_read(f, "x", 1, 3, OHT_H5_I32, i32), OHT_DATA, "3 rows from row 1 on");
    refused(oht_h5_read(f, "x", -1, 1, OHT_H5_I32, i32), OHT_DATA, "1 rows from row -1 on");
    refused(oht_h5_read(f, "x", INT64_MAX, 2, OHT_H5_I32, i32), OHT_DATA, "x");
    OK(oht_h5_read(f, "x", 3, 0, OHT_H5_I32, i32));
    refused(oht_h5_shape_of(f, "x", 2, -1, &shape), OHT_DATA, "1 axes, expected 2");
    refused(oht_h5_shape_of(f, "x", 1, OHT_H5_F64, &shape), OHT_DATA, "expected float64");
    refused(oht_h5_shape_of(f, "y/z", 1, -1, &shape), OHT_DATA, "no y");
    refused(oht_h5_shape_of(f, "x/z", 1, -1, &shape), OHT_DATA, "no x/z");
    refused(oht_h5_shape_of(f, "/", -1, -1, &shape), OHT_DATA, "group");
    refused(oht_h5_write(f, "x", 0, 1, OHT_H5_U16, data), OHT_INTERNAL, "opened for reading");
    assert_true(oht_h5_exists(f, "x"));
    assert_false(oht_h5_exists(f, "xx"));
    oht_h5_close(f);
}

static void attributes_and_strings_come_back(void **state) {
    (void)state;
    const char *path = in_folder("attributes.h5");
    const char *taps[] = {"layer.0.attn.out", "", "größer"};
    static char config[200000];
    memset(config, 'c', sizeof(config) - 1);
    oht_h5 *f;
    OK(oht_h5_create(&f, path));
    OK(oht_h5_set_text(f, "/", "format", "first"));
    OK(oht_h5_set_text(f, "/", "format", "ohtrain-test")); // replaces
    OK(oht_h5_set_text(f, "/", "config", config));
    OK(oht_h5_set_int(f, "/eval/0", "step", INT64_MIN));
    OK(oht_h5_set_float(f, "/eval/0", "loss", -INFINITY));
    OK(oht_h5_write_strings(f, "/eval/tap", taps, 3));
    OK(oht_h5_write_strings(f, "/none", NULL, 0));
    OK(oht_h5_commit(f));
    OK(oht_h5_open(&f, path));
    char text[16], **names, *longer;
    int64_t n, number;
    double real;
    OK(oht_h5_get_text(f, "/", "format", text, sizeof(text)));
    assert_string_equal(text, "ohtrain-test");
    refused(oht_h5_get_text(f, "/", "config", text, sizeof(text)), OHT_DATA, "199999 characters");
    OK(oht_h5_get_long_text(f, "/", "config", &longer));
    assert_string_equal(longer, config);
    oht_free(longer);
    OK(oht_h5_get_int(f, "/eval/0", "step", &number));
    assert_true(number == INT64_MIN);
    OK(oht_h5_get_float(f, "/eval/0", "step", &real));
    OK(oht_h5_get_float(f, "/eval/0", "loss", &real));
    assert_true(isinf(real) && real < 0);
    refused(oht_h5_get_int(f, "/eval/0", "loss", &number), OHT_DATA, "not an integer");
    refused(oht_h5_get_int(f, "/", "format", &number), OHT_DATA, "not an integer");
    refused(oht_h5_get_text(f, "/eval/0", "step", text, sizeof(text)), OHT_DATA, "not text");
    refused(oht_h5_get_int(f, "/", "nothing", &number), OHT_DATA, "no attribute nothing");
    assert_true(oht_h5_has(f, "/eval/0", "step"));
    assert_false(oht_h5_has(f, "/eval/1", "step"));
    OK(oht_h5_read_strings(f, "/eval/tap", &names, &n));
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(names[i], taps[i]);
        oht_free(names[i]);
    }
    oht_free(names);
    OK(oht_h5_read_strings(f, "/none", &names, &n));
    assert_int_equal(n, 0);
    oht_free(names);
    oht_h5_close(f);
}

typedef struct found {
    char text[256];
    oht_h5 *file;
} found;

static oht_status note(void *ctx, const char *name) {
    found *f = ctx;
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(f->file, name, -1, -1, &shape)); // calling back is allowed
    strcat(f->text, name);
    strcat(f->text, " ");
    return OHT_OK;
}

static void datasets_are_listed_cut_and_deleted(void **state) {
    (void)state;
    const char *path = in_folder("list.h5");
    oht_h5 *f;
    OK(oht_h5_create_memory(&f, path));
    const oht_h5_shape shape = {.type = OHT_H5_I64, .rank = 1, .dim = {0}};
    const int64_t data[600] = {1, 2, 3, 4, 5};
    OK(oht_h5_make(f, "/p/b", &shape, true, true));
    OK(oht_h5_make(f, "/p/a", &shape, true, true));
    OK(oht_h5_make(f, "/p/q/c", &shape, true, true));
    OK(oht_h5_write(f, "/p/b", 0, 600, OHT_H5_I64, data));
    OK(oht_h5_truncate(f, "p/b", 2));
    OK(oht_h5_write(f, "/p/b", 2, 1, OHT_H5_I64, data + 4));
    OK(oht_h5_publish(f));
    OK(oht_h5_delete(f, "/p/q"));
    refused(oht_h5_delete(f, "/p/q"), OHT_DATA, "no /p/q");
    found names = {.file = f};
    OK(oht_h5_each(f, "/", note, &names));
    assert_string_equal(names.text, "/p/a /p/b ");
    oht_h5_close(f);
    OK(oht_h5_load_memory(&f, path));
    names = (found){.file = f};
    OK(oht_h5_each(f, "/p", note, &names));
    assert_string_equal(names.text, "/p/a /p/b /p/q/c ");
    int64_t back[3];
    OK(oht_h5_read(f, "/p/b", 0, 3, OHT_H5_I64, back));
    assert_int_equal(back[1], 2);
    assert_int_equal(back[2], 5);
    OK(oht_h5_write(f, "/p/b", 3, 3, OHT_H5_I64, data));
    OK(oht_h5_publish(f));
    OK(oht_h5_publish(f));
    oht_h5_close(f);
    OK(oht_h5_open(&f, path));
    oht_h5_shape got;
    OK(oht_h5_shape_of(f, "/p/b", 1, OHT_H5_I64, &got));
    assert_int_equal(got.dim[0], 6);
    refused(oht_h5_each(f, "/p/a", note, &names), OHT_DATA, "expected a group");
    oht_h5_close(f);
}

static void same_input_gives_same_bytes(void **state) {
    (void)state;
    unsigned char *a, *b;
    write_rows(in_folder("a.h5"));
    write_rows(in_folder("b.h5"));
    size_t n = slurp(in_folder("a.h5"), &a);
    assert_int_equal(slurp(in_folder("b.h5"), &b), n);
    assert_memory_equal(a, b, n);
    hid_t f = H5Fopen(in_folder("a.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    for (int i = 0; i < 3; i++) {
        H5O_info_t info;
        assert_true(H5Oget_info_by_name(f,
                                        i == 0   ? "/"
                                        : i == 1 ? "/train"
                                                 : "/train/tokens",
                                        &info, H5P_DEFAULT) >= 0);
        assert_int_equal(info.btime, 0);
        assert_int_equal(info.mtime, 0);
    }
    H5Fclose(f);
    free(a);
    free(b);
}

static void big_endian_is_converted(void **state) {
    (void)state;
    hid_t f = H5Fcreate(in_folder("big.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
          space = H5Screate_simple(1, (hsize_t[]){3}, NULL);
    hid_t d = H5Dcreate2(f, "x", H5T_STD_U16BE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const uint16_t data[3] = {1, 256, 513};
    H5Dwrite(d, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(d), H5Sclose(space), H5Fclose(f);
    oht_h5 *file;
    uint16_t back[3];
    OK(oht_h5_open(&file, in_folder("big.h5")));
    OK(oht_h5_read(file, "x", 0, 3, OHT_H5_U16, back));
    assert_memory_equal(back, data, sizeof(data));
    oht_h5_close(file);
}

static void a_circle_of_groups_ends(void **state) {
    (void)state;
    hid_t f = H5Fcreate(in_folder("circle.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t g = H5Gcreate2(f, "a", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(f, "/", g, "up", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(g), H5Fclose(f);
    oht_h5 *file;
    found names = {0};
    OK(oht_h5_open(&file, in_folder("circle.h5")));
    refused(oht_h5_each(file, "/", note, &names), OHT_DATA, "nest deeper");
    oht_h5_close(file);
    refused(oht_h5_load_memory(&file, in_folder("circle.h5")), OHT_DATA, "nest deeper");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back),
        cmocka_unit_test(numbers_are_widened_never_narrowed),
        cmocka_unit_test(attributes_and_strings_come_back),
        cmocka_unit_test(datasets_are_listed_cut_and_deleted),
        cmocka_unit_test(same_input_gives_same_bytes),
        cmocka_unit_test(big_endian_is_converted),
        cmocka_unit_test(a_circle_of_groups_ends),
    };
    return cmocka_run_group_tests(tests, make_temporary_folder, remove_temporary_folder);
}
