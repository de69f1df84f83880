// The loader's pool of threads: every index once, the first error whatever the threads do, ending early.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <string.h>

#include "data/team.h"

enum { MOST = 1000, THREADS = 4 };

typedef struct work {
    atomic_int done[MOST], by[THREADS];
    int64_t bad[2]; // indices that fail
    atomic_bool stop;
    int64_t stop_at;
} work;

static oht_status body(void *ctx, int64_t i, int worker) {
    work *w = ctx;
    atomic_fetch_add(&w->done[i], 1);
    atomic_fetch_add(&w->by[worker], 1);
    if (i == w->stop_at) atomic_store(&w->stop, true);
    if (i == w->bad[0] || i == w->bad[1]) OHT_FAIL(OHT_DATA, "index %d is bad", (int)i);
    return OHT_OK;
}

static void begin(work *w) {
    memset(w, 0, sizeof(*w));
    w->bad[0] = w->bad[1] = w->stop_at = -1;
}

static void every_index_once(void **state) {
    (void)state;
    static work w;
    const int64_t sizes[] = {0, 1, 3, 4, MOST};
    for (int threads = 1; threads <= THREADS; threads++) {
        team *t;
        assert_int_equal(team_create(&t, threads), OHT_OK);
        for (int again = 0; again < 50; again++)
            for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
                begin(&w);
                assert_int_equal(team_run(t, sizes[k], body, &w, &w.stop), OHT_OK);
                for (int i = 0; i < MOST; i++) assert_int_equal(w.done[i], i < sizes[k]);
                for (int i = threads; i < THREADS; i++) assert_int_equal(w.by[i], 0);
            }
        team_destroy(t);
    }
    team_destroy(NULL);
}

static void first_error_wins(void **state) {
    (void)state;
    static work w;
    for (int threads = 1; threads <= THREADS; threads++) {
        team *t;
        assert_int_equal(team_create(&t, threads), OHT_OK);
        for (int again = 0; again < 200; again++) {
            begin(&w);
            w.bad[0] = 18;
            w.bad[1] = 17;
            assert_int_equal(team_run(t, MOST, body, &w, &w.stop), OHT_DATA);
            assert_non_null(strstr(oht_error_last()->text, "index 17 is bad"));
            for (int i = 0; i <= 17; i++) assert_int_equal(w.done[i], 1);
            begin(&w); // and it is usable after that
            assert_int_equal(team_run(t, 20, body, &w, &w.stop), OHT_OK);
        }
        team_destroy(t);
    }
}

static void stops_early(void **state) {
    (void)state;
    static work w;
    team *t;
    assert_int_equal(team_create(&t, 2), OHT_OK);
    begin(&w);
    w.stop_at = 5;
    assert_int_equal(team_run(t, MOST, body, &w, &w.stop), OHT_OK);
    int done = 0;
    for (int i = 0; i < MOST; i++) done += w.done[i];
    assert_true(done >= 6);
    assert_true(atomic_load(&w.stop));
    assert_int_equal(team_run(t, MOST, body, &w, &w.stop), OHT_OK); // still asked to stop: nothing happens
    int after = 0;
    for (int i = 0; i < MOST; i++) after += w.done[i];
    assert_int_equal(after, done);
    team_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_once),
        cmocka_unit_test(first_error_wins),
        cmocka_unit_test(stops_early),
    };
    return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
