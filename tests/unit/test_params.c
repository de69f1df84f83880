// The parameter table by itself: layout, groups, initial values, decay rules, and what it must refuse.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oht/memory.h"
#include "oht/params.h"

static oht_param param(const char *name, int group, int rank, int64_t d0, int64_t d1) {
    oht_param p = {.rank = rank,
                   .dim = {d0, d1},
                   .init = OHT_INIT_NORMAL,
                   .init_arg = 1.0f,
                   .zero_row = -1,
                   .group = group};
    snprintf(p.name, sizeof p.name, "%s", name);
    return p;
}

static int add(oht_params *t, oht_param p) {
    int id = -1;
    if (oht_params_add(t, &p, &id) != OHT_OK) fail_msg("%s", oht_error_last()->text);
    return id;
}

static oht_params *create(void) {
    oht_params *t;
    assert_int_equal(oht_params_create(&t), OHT_OK);
    return t;
}

static void test_layout(void **state) {
    (void)state;
    oht_params *t = create();
    // Registered: table (tied, first), a, group 0 = {q, k, v} of odd sizes, b, group 1 = {x, y}.
    const int table = add(t, param("table", -1, 2, 5, 3));
    const int a = add(t, param("a", -1, 1, 7, 0));
    const int q = add(t, param("q", 0, 2, 3, 3)), k = add(t, param("k", 0, 2, 3, 3)),
              v = add(t, param("v", 0, 2, 3, 3));
    const int b = add(t, param("b", -1, 1, 16, 0));
    const int x = add(t, param("x", 1, 1, 1, 0)), y = add(t, param("y", 1, 1, 1, 0));
    assert_int_equal(t->n_groups, 2);
    assert_int_equal(oht_params_layout(t), OHT_OK);
    // Flat order: {x, y}, b, {q, k, v}, a, table.
    const oht_param *p = t->item;
    assert_int_equal(p[x].offset, 0);
    assert_int_equal(p[y].offset, 1); // no gap inside a group
    assert_int_equal(p[b].offset, 16);
    assert_int_equal(p[q].offset, 32);
    assert_int_equal(p[k].offset, 41);
    assert_int_equal(p[v].offset, 50);
    assert_int_equal(p[a].offset, 64);
    assert_int_equal(p[table].offset, 80);
    assert_int_equal(t->flat_count, 96);
    assert_int_equal(oht_params_count(t), 15 + 7 + 27 + 16 + 2);
    assert_ptr_equal(oht_params_find(t, "k"), &t->item[k]);
    assert_null(oht_params_find(t, "K"));
    assert_null(oht_params_find(t, ""));
    oht_params_destroy(t);
}

static void test_many(void **state) { // growth of the table keeps what is there
    (void)state;
    oht_params *t = create();
    char name[32];
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof name, "p%d", i);
        assert_int_equal(add(t, param(name, -1, 1, i + 1, 0)), i);
    }
    assert_int_equal(oht_params_layout(t), OHT_OK);
    size_t end = 0;
    for (int i = 499; i >= 0; i--) {
        assert_true(t->item[i].offset >= end && t->item[i].offset < end + 16 && t->item[i].offset % 16 == 0);
        end = t->item[i].offset + (size_t)t->item[i].count;
    }
    assert_true(t->flat_count >= end && t->flat_count < end + 16);
    oht_params_destroy(t);
}

static void refuse(oht_params *t, oht_param p, oht_status code, const char *says) {
    int id;
    const int n = t->n;
    assert_int_equal(oht_params_add(t, &p, &id), code);
    assert_int_equal(t->n, n);
    if (strstr(oht_error_last()->text, says) == NULL)
        fail_msg("lacks '%s': %s", says, oht_error_last()->text);
}

static void test_refused(void **state) {
    (void)state;
    oht_params *t = create();
    refuse(t, param("", -1, 1, 1, 0), OHT_INTERNAL, "empty name");
    refuse(t, param("r", -1, 0, 1, 0), OHT_INTERNAL, "rank");
    refuse(t, param("r", -1, 5, 1, 1), OHT_INTERNAL, "rank");
    refuse(t, param("d", -1, 2, 4, 0), OHT_CONFIG, "dimension 1");
    refuse(t, param("d", -1, 2, -4, 2), OHT_CONFIG, "dimension 0");
    refuse(t, param("d", -1, 2, INT64_MAX, 3), OHT_CONFIG, "dimension 1");
    oht_param p = param("z", -1, 2, 1, 4);
    p.zero_row = 1;
    refuse(t, p, OHT_CONFIG, "no row 1");
    p = param("n", -1, 1, 1, 0);
    memset(p.hf_name, 'x', sizeof p.hf_name);
    refuse(t, p, OHT_INTERNAL, "name");
    add(t, param("a", 0, 1, 4, 0));
    add(t, param("b", -1, 1, 4, 0));
    refuse(t, param("c", 0, 1, 4, 0), OHT_INTERNAL, "group 0");
    refuse(t, param("a", -1, 1, 4, 0), OHT_INTERNAL, "twice");
    oht_params_destroy(t);
}

static float *init(const oht_params *t, uint64_t seed) {
    float *flat;
    assert_int_equal(OHT_ALLOC(&flat, t->flat_count + 1, "flat"), OHT_OK);
    for (size_t i = 0; i <= t->flat_count; i++) flat[i] = NAN;
    oht_params_init(t, flat, seed);
    assert_true(isnan(flat[t->flat_count])); // nothing beyond the end
    for (size_t i = 0; i < t->flat_count; i++) assert_true(isfinite(flat[i]));
    return flat;
}

typedef struct sample {
    double mean, var, skew, kurtosis, lo, hi, neighbour; // neighbour: correlation of x[i], x[i+1]
} sample;

static sample measure(const float *x, int64_t n) {
    sample s = {.lo = x[0], .hi = x[0]};
    for (int64_t i = 0; i < n; i++) {
        s.mean += x[i] / (double)n;
        s.lo = fmin(s.lo, x[i]);
        s.hi = fmax(s.hi, x[i]);
    }
    double m3 = 0, m4 = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = x[i] - s.mean;
        s.var += d * d / (double)n;
        m3 += d * d * d / (double)n;
        m4 += d * d * d * d / (double)n;
        if (i > 0) s.neighbour += d * (x[i - 1] - s.mean) / (double)n;
    }
    s.skew = m3 / pow(s.var, 1.5);
    s.kurtosis = m4 / (s.var * s.var);
    s.neighbour /= s.var;
    return s;
}

static void near(double value, double expected, double tol, const char *what) {
    if (!(fabs(value - expected) <= tol)) fail_msg("%s: %g, expected %g +- %g", what, value, expected, tol);
}

static void test_statistics(void **state) { // tolerances: 5 standard errors of the estimators, n = 400,000
    (void)state;
    enum { N = 400000 };
    oht_params *t = create();
    oht_param p = param("normal", -1, 1, N, 0);
    p.init_arg = 0.02f;
    const int normal = add(t, p);
    p = param("uniform", -1, 1, N, 0);
    p.init = OHT_INIT_UNIFORM;
    p.init_arg = 0.25f;
    const int uniform = add(t, p);
    p = param("gain", -1, 1, 33, 0);
    p.init = OHT_INIT_CONSTANT;
    const int gain = add(t, p);
    p = param("bias", -1, 1, 33, 0);
    p.init = OHT_INIT_ZERO;
    const int bias = add(t, p);
    assert_int_equal(oht_params_layout(t), OHT_OK);
    float *flat = init(t, 1000);

    const double e = 5 / sqrt(N);
    sample s = measure(flat + t->item[normal].offset, N);
    near(s.mean / .02, 0, e, "normal mean");
    near(s.var / .0004, 1, e * sqrt(2), "normal variance");
    near(s.skew, 0, e * sqrt(6), "normal skewness");
    near(s.kurtosis, 3, e * sqrt(24), "normal kurtosis");
    near(s.neighbour, 0, e, "normal neighbours");
    assert_true(s.hi > .08 && s.hi < .13 && s.lo < -.08); // tails exist: 4 to 6.5 sigma
    s = measure(flat + t->item[uniform].offset, N);
    near(s.mean / .25, 0, e / sqrt(3), "uniform mean");
    near(s.var / (.0625 / 3), 1, e * sqrt(.8), "uniform variance");
    near(s.kurtosis, 1.8, .02, "uniform kurtosis");
    near(s.neighbour, 0, e, "uniform neighbours");
    assert_true(s.lo >= -.25 && s.hi <= .25 && s.hi > .2499 && s.lo < -.2499);
    for (int i = 0; i < 33; i++) {
        assert_true(flat[t->item[gain].offset + (size_t)i] == 1.0f);
        assert_true(flat[t->item[bias].offset + (size_t)i] == 0.0f);
    }
    // Two parameters, and two seeds, are not correlated.
    float *other = init(t, 1001);
    double same = 0, across = 0;
    const float *a = flat + t->item[normal].offset, *b = other + t->item[normal].offset,
                *u = flat + t->item[uniform].offset;
    for (int i = 0; i < N; i++) {
        same += (double)a[i] * b[i];
        across += (double)a[i] * u[i];
    }
    near(same / N / .0004, 0, e, "correlation of two seeds");
    near(across / N / (.02 * .25 / sqrt(3)), 0, e, "correlation of two parameters");
    oht_free(flat);
    oht_free(other);
    oht_params_destroy(t);
}

static void test_order(void **state) { // values depend on seed, name and element only
    (void)state;
    oht_params *one = create(), *two = create();
    const int a1 = add(one, param("a", -1, 2, 37, 11)), b1 = add(one, param("b", -1, 1, 10, 0));
    add(two, param("extra", -1, 1, 5, 0));
    const int b2 = add(two, param("b", 0, 1, 9, 0)); // shorter: the same first elements
    add(two, param("more", 0, 1, 3, 0));
    const int a2 = add(two, param("a", -1, 1, 37 * 11, 0));
    assert_int_equal(oht_params_layout(one), OHT_OK);
    assert_int_equal(oht_params_layout(two), OHT_OK);
    float *x = init(one, 77), *y = init(two, 77), *z = init(one, 77), *w = init(one, 78);
    assert_memory_equal(x + one->item[a1].offset, y + two->item[a2].offset, 37 * 11 * sizeof *x);
    assert_memory_equal(x + one->item[b1].offset, y + two->item[b2].offset, 9 * sizeof *x);
    assert_memory_equal(x, z, one->flat_count * sizeof *x);
    assert_memory_not_equal(x + one->item[b1].offset, w + one->item[b1].offset, 10 * sizeof *x);
    assert_memory_not_equal(x + one->item[a1].offset, x + one->item[b1].offset, 10 * sizeof *x);
    const uint64_t high = UINT64_C(77) + (UINT64_C(1) << 32); // all 64 bits of the seed count
    float *v = init(one, high);
    assert_memory_not_equal(x + one->item[b1].offset, v + one->item[b1].offset, 10 * sizeof *x);
    float *all[] = {x, y, z, w, v};
    for (int i = 0; i < 5; i++) oht_free(all[i]);
    oht_params_destroy(one);
    oht_params_destroy(two);
}

static void test_zero_row_and_gaps(void **state) {
    (void)state;
    oht_params *t = create();
    oht_param p = param("table", -1, 2, 4, 3);
    p.zero_row = 1;
    add(t, p);
    add(t, param("b", -1, 1, 3, 0));
    assert_int_equal(oht_params_layout(t), OHT_OK);
    float *flat = init(t, 5);
    const float *table = flat + t->item[0].offset;
    for (int i = 0; i < 12; i++) assert_int_equal(table[i] == 0.0f, i >= 3 && i < 6);
    for (size_t i = 3; i < 16; i++) assert_true(flat[i] == 0.0f); // padding after b
    for (size_t i = t->item[0].offset + 12; i < t->flat_count; i++) assert_true(flat[i] == 0.0f);
    oht_free(flat);
    oht_params_destroy(t);
}

static void test_decay(void **state) {
    (void)state;
    struct {
        oht_param_role role;
        int rank;
        bool bias_norm, bias, vectors;
    } rows[] = {
        {OHT_ROLE_WEIGHT, 2, true, true, true},
        {OHT_ROLE_WEIGHT, 1, true, true, false}, // an unconditional gate
        {OHT_ROLE_BIAS, 1, false, false, false},
        {OHT_ROLE_BIAS, 2, false, false, false}, // an MLP gate's stacked biases
        {OHT_ROLE_NORM_GAIN, 1, false, true, false},
        {OHT_ROLE_POSITION, 2, true, true, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        oht_param p = param("p", -1, rows[i].rank, 2, 2);
        p.role = rows[i].role;
        assert_int_equal(oht_param_decays(&p, OHT_NO_DECAY_BIAS_NORM), rows[i].bias_norm);
        assert_int_equal(oht_param_decays(&p, OHT_NO_DECAY_BIAS), rows[i].bias);
        assert_int_equal(oht_param_decays(&p, OHT_NO_DECAY_VECTORS), rows[i].vectors);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),  cmocka_unit_test(test_many),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_order),   cmocka_unit_test(test_zero_row_and_gaps),
        cmocka_unit_test(test_decay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
