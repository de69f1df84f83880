// A small transformer on the CPU backend (net.h): its gradient along random directions, recomputation, rows below
// capacity, accumulation, nothing to predict, allocations.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net.h"
#include "oht/memory.h"
#include "toy_graph.h"

static double distance(const net *a, const net *b) {
    double off = 0.0, norm = 0.0;
    for (size_t i = 0; i < a->params->flat_count; i++) {
        double d = (double)a->grad[i] - (double)b->grad[i];
        off += d * d;
        norm += (double)b->grad[i] * (double)b->grad[i];
    }
    return sqrt(off / norm);
}

static void whole_net_gradient(void **state) {
    (void)state;
    net n = {0};
    small_net(&n, &(small_options){OHT_TRAIN, 2, .p = 0.2f});
    small_step(&n, 0, 2, false);
    size_t N = n.params->flat_count, table = n.params->item[TABLE].offset;
    float *grad = malloc(N * sizeof(float)), *x = malloc(N * sizeof(float));
    memcpy(grad, n.grad, N * sizeof(float));
    memcpy(x, n.param, N * sizeof(float));
    for (int k = 0; k < 6; k++) { // along random directions
        uint64_t rng = (uint64_t)k + 5;
        double slope = 0.0, f[4], h = 2e-3;
        float *dir = calloc(N, sizeof(float));
        for (size_t i = 0; i < N; i++) {
            dir[i] = (float)(toy_random(&rng) % 2001) / 1000.0f - 1.0f;
            if (i >= table + C && i < table + 2 * C)
                dir[i] = 0.0f; // the padding row: no gradient reaches it through the lookup
            slope += (double)dir[i] * (double)grad[i];
        }
        for (int s = 0; s < 4; s++) {
            double at = h * (s < 2 ? s - 2 : s - 1);
            for (size_t i = 0; i < N; i++) n.param[i] = x[i] + (float)at * dir[i];
            f[s] = small_step(&n, 0, 2, false);
        }
        double d = (8.0 * (f[2] - f[1]) - (f[3] - f[0])) / (12.0 * h);
        if (!(fabs(d - slope) <= 2e-3 * fabs(d) + 2e-3))
            fail_msg("direction %d: slope %g, differences say %g", k, slope, d);
        free(dir);
    }
    free(grad);
    free(x);
    net_stop(&n);
}

static void recomputation_changes_no_bit(void **state) {
    (void)state;
    for (int picked = 0; picked < 2; picked++) {
        net a = {0}, b = {0}, c = {0};
        small_net(&a, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked});
        small_net(&b, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked, .recompute = true});
        small_net(&c, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .picked = picked, .recompute = true});
        oht_run_poison(c.run, false);
        assert_true(oht_plan_bytes(b.g) < oht_plan_bytes(a.g));
        for (int k = 0; k < 2; k++) {
            double loss = small_step(&a, 0, 2, k);
            assert_true(loss > 0.0 && loss == small_step(&b, 0, 2, k) && loss == small_step(&c, 0, 2, k));
            assert_memory_equal(a.grad, b.grad, a.params->flat_count * sizeof(float));
            assert_memory_equal(a.grad, c.grad, a.params->flat_count * sizeof(float));
        }
        assert_true(oht_run_flops(b.run, false) == oht_run_flops(a.run, false));
        assert_true(oht_run_flops(b.run, true) > oht_run_flops(a.run, true));
        net_stop(&a);
        net_stop(&b);
        net_stop(&c);
    }
}

static void fewer_rows_than_capacity(void **state) {
    (void)state;
    net small = {0}, large = {0};
    small_net(&small, &(small_options){OHT_TRAIN, 1, .p = 0.2f});
    small_net(&large, &(small_options){OHT_TRAIN, 4, .p = 0.2f, .recompute = true});
    small_step(&large, 0, 4, false); // leaves its rows behind
    for (int64_t first = 0; first < 2; first++) {
        assert_true(small_step(&small, first, 1, false) == small_step(&large, first, 1, false));
        assert_memory_equal(small.grad, large.grad, small.params->flat_count * sizeof(float));
    }
    net_stop(&small);
    net_stop(&large);
}

static void accumulation_equals_one_batch(void **state) {
    (void)state;
    net whole = {0}, parts = {0};
    small_net(&whole, &(small_options){OHT_TRAIN, 4, .p = 0.2f});
    small_net(&parts, &(small_options){OHT_TRAIN, 3, .p = 0.2f});
    double loss = small_step(&whole, 0, 4, false), sum = 0.0;
    sum += small_step(&parts, 0, 1, false);
    sum += small_step(&parts, 1, 3, true); // dropout goes by the sample of the global batch
    assert_true(fabs(sum - loss) <= 1e-6 * loss);
    assert_true(distance(&parts, &whole) <= 1e-6);
    parts.run->rows = 0; // a micro-batch without rows adds nothing
    oht_run_forward(parts.run);
    oht_run_backward(parts.run);
    assert_true(parts.run->loss_sum == 0.0);
    assert_true(distance(&parts, &whole) <= 1e-6);
    sum = small_step(&parts, 0, 1, false) + small_step(&parts, 1, 1, true); // and without add_params all starts anew
    assert_true(distance(&parts, &whole) > 1e-2);
    net_stop(&whole);
    net_stop(&parts);
}

static void nothing_picked_is_zero(void **state) {
    (void)state;
    net n = {0};
    small_net(&n, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .picked = true});
    small_step(&n, 0, 2, false);
    n.run->picked = 0;
    assert_true(small_step(&n, 0, 2, false) == 0.0);
    for (size_t i = 0; i < n.params->flat_count; i++) assert_true(n.grad[i] == 0.0f);
    net_stop(&n);
}

static void steps_allocate_nothing(void **state) {
    (void)state;
    net n = {0};
    small_net(&n, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .recompute = true});
    uint64_t before = oht_alloc_count();
    for (int i = 0; i < 3; i++) small_step(&n, 0, 2, i > 0);
    assert_int_equal(oht_alloc_count(), before);
    net_stop(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_net_gradient),
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(fewer_rows_than_capacity),
        cmocka_unit_test(accumulation_equals_one_batch),
        cmocka_unit_test(nothing_picked_is_zero),
        cmocka_unit_test(steps_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, net_create_backend, net_destroy_backend);
}
