// Errors of forecasts as an evaluation adds them up, and what a series of evaluations decides, against the golden vectors of the
// time-series recipe (stanhop.json: metrics, early_stopping).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "golden.h"
#include "oht/backend.h"
#include "oht/train.h"
#include "train/forecast.h"

static void near(const char *what, double got, double want) {
    if (!(fabs(got - want) <= 1e-5 * fabs(want))) fail_msg("%s: %.12g, expected %.12g", what, got, want);
}

static float det(int64_t i, int seed) {
    return (float)(0.5 * sin(1.7 * (double)i + 0.3 * seed + 0.1));
}

// Batches of 3 and of 1 sample with 2 x 2 values; predictions 2 det(50), 2 det(52), truth 2 det(51) + .05, 2 det(53) + .05.
static void errors_golden(void **state) {
    (void)state;
    json_t *all = golden_load("stanhop");
    const json_t *g = golden_get(all, "metrics");
    double *want = golden_doubles(g, "reported", NULL), *pooled = golden_doubles(g, "pooled", NULL);
    oht_backend *be;
    assert_int_equal(oht_backend_cpu_create(&be), OHT_OK);
    forecast_sums sums = {0};
    for (int b = 0; b < 2; b++) {
        float x[12], y[12];
        int64_t n = b ? 1 : 3;
        for (int64_t i = 0; i < 4 * n; i++) {
            x[i] = 2 * det(i, 50 + 2 * b);
            y[i] = (float)(2 * (double)det(i, 51 + 2 * b) + 0.05);
        }
        oht_tensor tx = {.data = x, .dtype = OHT_F32, .rank = 3, .dim = {n, 2, 2}}, ty = tx;
        ty.data = y;
        double squares = 0, errors[3] = {0};
        be->squared_error(be, OHT_NO_TENSOR, tx, ty, &(oht_loss){.sum = &squares}, false);
        be->forecast_errors(be, tx, ty, errors);
        forecast_add(&sums, n, 4.0 * (double)n, squares, errors);
    }
    oht_eval_result r = {.task = OHT_TASK_SERIES};
    forecast_result(&sums, &r);
    near("mae", r.mae, want[0]);
    near("mse", r.mse, want[1]);
    near("rmse", r.rmse, want[2]);
    near("rmse_pooled", r.rmse_pooled, pooled[2]);
    assert_true(r.rmse < r.rmse_pooled); // the two differ in the fifth digit
    if (!(fabs(r.mape - want[3]) <= 1e-3 * want[3])) fail_msg("mape %g", r.mape); // a truth near 0 in float
    if (!(fabs(r.mspe - want[4]) <= 3e-3 * want[4])) fail_msg("mspe %g", r.mspe);
    near("mse_batches", r.mse_batches, golden_number(g, "vali_loss_unweighted"));
    near("criterion", oht_eval_criterion(&r), golden_number(g, "vali_loss_unweighted"));
    oht_backend_destroy(be);
    free(want);
    free(pooled);
    json_decref(all);
}

// A truth of exactly 0 makes the relative errors infinite, and the others stay.
static void truth_of_zero(void **state) {
    (void)state;
    oht_backend *be;
    assert_int_equal(oht_backend_cpu_create(&be), OHT_OK);
    float x[2] = {1, 2}, y[2] = {0, 4};
    oht_tensor tx = {.data = x, .dtype = OHT_F32, .rank = 2, .dim = {1, 2}}, ty = tx;
    ty.data = y;
    double errors[3] = {0};
    be->forecast_errors(be, tx, ty, errors);
    assert_true(errors[0] == 3.0 && isinf(errors[1]) && isinf(errors[2]));
    oht_backend_destroy(be);
}

static void early_stopping_golden(void **state) {
    (void)state;
    json_t *all = golden_load("stanhop");
    const json_t *g = golden_get(all, "early_stopping"), *saved = golden_get(g, "saved_epochs");
    size_t n, s = 0;
    double *val = golden_doubles(g, "val", &n);
    int64_t patience = (int64_t)golden_number(g, "patience"), end = (int64_t)golden_number(g, "stopped_after_epoch");
    oht_choice c = {0};
    for (int64_t epoch = 1; epoch <= (int64_t)n; epoch++) {
        assert_false(oht_choice_stops(&c, patience));
        if (oht_choice_take(&c, epoch, val[epoch - 1])) {
            assert_true(s < json_array_size(saved));
            assert_int_equal(epoch, json_integer_value(golden_at(saved, s++)));
            assert_int_equal(c.best_step, epoch);
        }
        assert_int_equal(oht_choice_stops(&c, patience), epoch == end);
        assert_false(oht_choice_stops(&c, 0)); // off
    }
    assert_int_equal(s, json_array_size(saved));
    assert_true(c.best_loss == 0.79 && c.worse == 3 && c.seen_step == end);
    free(val);
    json_decref(all);
}

static void odd_losses(void **state) {
    (void)state;
    oht_choice c = {0};
    assert_false(oht_choice_take(&c, 5, NAN)); // never the best, not even the first
    assert_true(oht_choice_take(&c, 10, INFINITY));
    assert_true(oht_choice_take(&c, 15, INFINITY)); // a tie is as good
    assert_false(oht_choice_take(&c, 20, NAN));
    assert_true(oht_choice_take(&c, 25, -1));
    assert_int_equal(c.best_step, 25);
    assert_int_equal(c.worse, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_golden), cmocka_unit_test(truth_of_zero),
                                       cmocka_unit_test(early_stopping_golden), cmocka_unit_test(odd_losses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
