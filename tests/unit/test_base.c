// Errors, memory, random numbers: the ground everything stands on.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "oht/memory.h"
#include "oht/random.h"
#include "oht/status.h"

static oht_status inner(void) {
    OHT_FAIL(OHT_DATA, "rows of %d tokens, expected %d\nfix: set model.max_tokens = %d", 512, 128, 512);
}

static oht_status outer(void) {
    OHT_TRY(inner());
    return OHT_OK;
}

static void error_has_frames_and_fix(void **state) {
    (void)state;
    assert_int_equal(outer(), OHT_DATA);
    assert_int_equal(oht_error_last()->n_frames, 2);
    char text[1024] = "";
    FILE *out = fmemopen(text, sizeof(text), "w");
    oht_error_print(out, oht_error_last(), 3, 16, "n012");
    fclose(out);
    assert_non_null(strstr(text, "ohtrain: DATA error on rank 3 of 16 (node n012): rows of 512 tokens, expected 128\n"));
    assert_non_null(strstr(text, "\n  fix: set model.max_tokens = 512\n"));
}

static void memory_counts_checks_and_aligns(void **state) {
    (void)state;
    uint64_t before = oht_alloc_count();
    float *x;
    assert_int_equal(OHT_ALLOC(&x, 3, "x"), OHT_OK);
    assert_int_equal((uintptr_t)x % 64, 0);
    assert_true(x[2] == 0.0f);
    assert_int_equal(oht_alloc_count() - before, 1);
    oht_free(x);
    assert_int_equal(oht_alloc((void **)&x, SIZE_MAX / 2, 4, "too much"), OHT_MEMORY);
    assert_null(x);
}

static void philox_matches_known_answer(void **state) {
    (void)state; // Random123 known-answer test: all-ones counter and key
    philox4x32_ctr_t ctr = {{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}};
    philox4x32_key_t key = {{0xffffffffu, 0xffffffffu}};
    philox4x32_ctr_t r = philox4x32(ctr, key);
    assert_int_equal(r.v[0], 0x408f276d);
    assert_int_not_equal(oht_random_block(1, OHT_DRAW_DROPOUT, 2, 3, 4, 5).v[0], oht_random_block(1, OHT_DRAW_DROPOUT, 3, 3, 4, 5).v[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_has_frames_and_fix),
        cmocka_unit_test(memory_counts_checks_and_aligns),
        cmocka_unit_test(philox_matches_known_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
