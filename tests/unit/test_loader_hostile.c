// Files and configurations that the loader refuses, with a message that says why: another kind or split, ids out of the
// vocabulary, truncated and flipped bytes, attributes that lie.
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader_test.h"

static void expect_failure(const char *path, const oht_loader_config *cfg, oht_status code, const char *part,
                           const char *part2) {
    oht_loader *loader = (oht_loader *)1;
    assert_int_equal(oht_loader_create(&loader, path, cfg), code);
    assert_null(loader);
    const char *text = oht_error_last()->text;
    if (!strstr(text, path) || !strstr(text, part) || !strstr(text, part2)) fail_msg("message: %s", text);
}

static void id_out_of_the_vocabulary(void **state) {
    (void)state;
    const uint32_t ids[] = {VOCAB, 65535, 70000, 4000000000u};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
        oht_text_info info = lt_plain;
        info.rows[1] = 1000;
        const char *path = lt_path("id.h5");
        lt_write(path, &info, OHT_SPLIT_VALIDATION, 700, 3, ids[i]);
        oht_loader_config cfg = lt_config(&info, OHT_SPLIT_VALIDATION, 64, 64, 0, 1);
        oht_loader *loader;
        const oht_step_batch *s;
        assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
        for (int64_t index = 0; index < 8; index++) { // the good blocks before the bad one, rows 0 to 511
            assert_int_equal(oht_loader_next(loader, &s), OHT_OK);
            lt_check_step(s, &info, &cfg, index);
        }
        char expected[64];
        snprintf(expected, sizeof(expected), "holds id %u at row 700, column 3", ids[i]);
        for (int again = 0; again < 2; again++) { // the error stays
            assert_int_equal(oht_loader_next(loader, &s), OHT_DATA);
            assert_null(s);
            assert_int_equal(oht_error_last()->code, OHT_DATA);
            assert_non_null(strstr(oht_error_last()->text, expected));
            assert_non_null(strstr(oht_error_last()->text, path));
            assert_non_null(strstr(oht_error_last()->text, "/validation/tokens"));
            assert_non_null(strstr(oht_error_last()->text, "\nfix: "));
        }
        oht_loader_destroy(loader);
        // Never asked for: the thread fails, nobody calls next.
        assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_OK);
        oht_loader_destroy(loader);
    }
}

static void wrong_kind_or_split(void **state) {
    (void)state;
    oht_text_info info = lt_plain;
    info.rows[1] = 0;
    const char *path = lt_file("kind.h5", &info);
    oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    cfg.task = OHT_TASK_CLM;
    expect_failure(path, &cfg, OHT_DATA, "kind mlm", "fix: set model.type=bert");
    cfg = lt_config(&info, OHT_SPLIT_VALIDATION, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "/validation/tokens", "fix: ");
    info.mlm = false;
    path = lt_file("kind.h5", &info);
    cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "kind clm", "fix: set model.type=opt");
}

static void impossible_batches(void **state) {
    (void)state;
    const char *path = lt_file("batch.h5", &lt_plain);
    oht_loader *loader;
    oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    cfg.micro_batch = INT32_MAX / T + 1;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.micro_batch = 8;
    cfg.count = INT64_MAX / 8 + 1;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.count = 1;
    cfg.global_batch = INT64_C(1) << 31;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_CONFIG);
    cfg.global_batch = 0;
    assert_int_equal(oht_loader_create(&loader, path, &cfg), OHT_INTERNAL);
    assert_null(loader);
}

static void cut(const char *from, const char *to, long bytes) {
    static char buffer[1 << 20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    size_t n = fread(buffer, 1, bytes < (long)sizeof(buffer) ? (size_t)bytes : sizeof(buffer), in);
    assert_int_equal(fwrite(buffer, 1, n, out), n);
    fclose(in);
    fclose(out);
}

static void truncated_empty_or_foreign(void **state) {
    (void)state;
    char whole[128], part[128];
    snprintf(whole, sizeof(whole), "%s", lt_file("whole.h5", &lt_plain));
    snprintf(part, sizeof(part), "%s", lt_path("part.h5"));
    struct stat info;
    assert_int_equal(stat(whole, &info), 0);
    oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    for (int i = 0; i < 40; i++) {
        cut(whole, part, (long)info.st_size * i / 40);
        expect_failure(part, &cfg, OHT_DATA, "", "");
    }
    cut(whole, part, (long)info.st_size - 1);
    expect_failure(part, &cfg, OHT_DATA, "", "");
    FILE *text = fopen(part, "w");
    for (int i = 0; i < 1000; i++) fputs("plain words\n", text);
    fclose(text);
    expect_failure(part, &cfg, OHT_DATA, "", "");
    expect_failure(lt_path("missing.h5"), &cfg, OHT_IO, "", "");
}

// Every flipped byte is found, at the start or while reading, or changes nothing that is read.
static void flipped_bytes(void **state) {
    (void)state;
    oht_text_info info = lt_plain;
    info.rows[0] = 300;
    char whole[128], bad[128];
    snprintf(whole, sizeof(whole), "%s", lt_file("flip.h5", &info));
    snprintf(bad, sizeof(bad), "%s", lt_path("flipped.h5"));
    struct stat file;
    assert_int_equal(stat(whole, &file), 0);
    int found = 0;
    for (int i = 0; i < 150; i++) {
        cut(whole, bad, (long)file.st_size);
        FILE *f = fopen(bad, "r+b");
        long at = (long)((uint64_t)i * 2654435761u % (uint64_t)file.st_size);
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ (1 << i % 8), f);
        fclose(f);
        oht_loader_config cfg = lt_config(&info, OHT_SPLIT_TRAIN, 50, 50, 0, 1);
        cfg.count = 6;
        oht_loader *loader;
        const oht_step_batch *s;
        oht_status status = oht_loader_create(&loader, bad, &cfg);
        for (int64_t index = 0; status == OHT_OK && index < 6; index++) {
            status = oht_loader_next(loader, &s);
            if (status == OHT_OK) lt_check_step(s, &info, &cfg, index);
        }
        found += status != OHT_OK;
        assert_true(status == OHT_OK || status == OHT_DATA);
        oht_loader_destroy(loader);
    }
    assert_in_range(found, 50, 150); // token bytes are most of the file
}

typedef struct hostile {
    const char *name, *expected;
    oht_text_info info;
    const char *text, *value; // a text attribute written over
    const char *number;
    int64_t is;
    oht_h5_shape shape; // of /train/tokens, when rank > 0
} hostile;

static void attributes_that_lie(void **state) {
    (void)state;
    const hostile cases[] = {
        {.name = "format",
         .expected = "not a text file of ohtrain",
         .text = "format",
         .value = "ohtrain-images"},
        {.name = "version", .expected = "format_version is 2", .number = "format_version", .is = 2},
        {.name = "kind", .expected = "kind is 'both'", .text = "kind", .value = "both"},
        {.name = "vocabulary", .expected = "vocab_size is 0", .number = "vocab_size", .is = 0},
        {.name = "negative", .expected = "vocab_size is -5", .number = "vocab_size", .is = -5},
        {.name = "huge",
         .expected = "vocab_size is 4294967296",
         .number = "vocab_size",
         .is = INT64_C(1) << 32},
        {.name = "block",
         .expected = "rows of 12 tokens, attribute block_size says 128",
         .number = "block_size",
         .is = 128},
        {.name = "mask id", .expected = "mask_id is 900", .number = "mask_id", .is = VOCAB},
        {.name = "no mask id", .expected = "mask_id is -1", .number = "mask_id", .is = -1},
        {.name = "pad id", .expected = "pad_id is -2", .number = "pad_id", .is = -2},
        {.name = "padded", .expected = "padded is 7", .number = "padded", .is = 7},
        {.name = "floats", .expected = "/train/tokens", .shape = {OHT_H5_F32, 2, {8, T}, {0}}},
        {.name = "signed", .expected = "/train/tokens", .shape = {OHT_H5_I32, 2, {8, T}, {0}}},
        {.name = "bytes", .expected = "/train/tokens", .shape = {OHT_H5_U8, 2, {8, T}, {0}}},
        {.name = "vector", .expected = "/train/tokens", .shape = {OHT_H5_U16, 1, {8 * T}, {0}}},
        {.name = "cube", .expected = "/train/tokens", .shape = {OHT_H5_U16, 3, {8, T, 1}, {0}}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const hostile *c = &cases[i];
        const char *path = lt_path("lie.h5");
        oht_h5 *file;
        assert_int_equal(oht_h5_create(&file, path), OHT_OK);
        assert_int_equal(oht_text_write_info(file, &lt_plain), OHT_OK);
        if (c->text) assert_int_equal(oht_h5_set_text(file, "/", c->text, c->value), OHT_OK);
        if (c->number) assert_int_equal(oht_h5_set_int(file, "/", c->number, c->is), OHT_OK);
        oht_h5_shape shape = {OHT_H5_U16, 2, {8, T}, {0}};
        if (c->shape.rank) shape = c->shape;
        static const double zeros[8 * T];
        assert_int_equal(oht_h5_make(file, "/train/tokens", &shape, false, false), OHT_OK);
        assert_int_equal(oht_h5_write(file, "/train/tokens", 0, shape.dim[0], shape.type, zeros), OHT_OK);
        assert_int_equal(oht_h5_commit(file), OHT_OK);
        oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
        expect_failure(path, &cfg, OHT_DATA, c->expected, "");
    }
    // Nothing at all inside.
    const char *path = lt_path("hollow.h5");
    oht_h5 *file;
    assert_int_equal(oht_h5_create(&file, path), OHT_OK);
    assert_int_equal(oht_text_write_info(file, &lt_plain), OHT_OK);
    assert_int_equal(oht_h5_commit(file), OHT_OK);
    oht_loader_config cfg = lt_config(&lt_plain, OHT_SPLIT_TRAIN, 8, 8, 0, 1);
    expect_failure(path, &cfg, OHT_DATA, "neither /train/tokens nor /validation/tokens", "fix: ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(id_out_of_the_vocabulary),
        cmocka_unit_test(wrong_kind_or_split),
        cmocka_unit_test(impossible_batches),
        cmocka_unit_test(truncated_empty_or_foreign),
        cmocka_unit_test(flipped_bytes),
        cmocka_unit_test(attributes_that_lie),
    };
    return cmocka_run_group_tests_name("hostile loader files", tests, lt_make_folder, lt_remove_folder);
}
