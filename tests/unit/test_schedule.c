// Learning-rate schedules against the golden values and Hugging Face's formulas written out once more;
// clipping.
#include <math.h>
#include <string.h>

#include "check.h"
#include "golden.h"
#include "oht/session.h"
#include "oht/train.h"

static void linear_golden(void **state) {
    (void)state;
    json_t *all = golden_load("transformers");
    const json_t *list = golden_get(all, "lr_linear");
    assert_true(json_array_size(list) >= 16);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = golden_at(list, i);
        bool bert = strcmp(golden_string(one, "name"), "bert") == 0;
        oht_train_config cfg = {.schedule = OHT_LR_LINEAR,
                                .lr = bert ? 1e-4 : 4e-4,
                                .warmup_steps = bert ? 10000 : 2000,
                                .steps = bert ? 200000 : 125000};
        double want = golden_number(one, "lr");
        NEAR(oht_learning_rate(&cfg, (int64_t)golden_number(one, "t")), want, 1e-14 * cfg.lr);
    }
    json_decref(all);
}

// Per epoch of 25 updates: any update of an epoch has the epoch's rate. Per update: as if an epoch were one.
static void cosine_vit_golden(void **state) {
    (void)state;
    json_t *all = golden_load("transformers");
    const json_t *list = golden_get(all, "lr_cosine_vit");
    assert_true(json_array_size(list) >= 8);
    for (int64_t epoch = 1; epoch <= 25; epoch += 24)
        for (size_t i = 0; i < json_array_size(list); i++) {
            oht_train_config cfg = {.schedule = OHT_LR_COSINE_END,
                                    .lr = 1e-3,
                                    .lr_end = 1e-5,
                                    .warmup_lr = 1e-6,
                                    .lr_every = epoch,
                                    .warmup_steps = 10 * epoch,
                                    .steps = 150 * epoch};
            int64_t first = epoch * (int64_t)golden_number(golden_at(list, i), "epoch");
            double want = golden_number(golden_at(list, i), "lr");
            NEAR(oht_learning_rate(&cfg, first), want, 1e-17);
            NEAR(oht_learning_rate(&cfg, first + epoch - 1), want, 1e-17);
        }
    oht_train_config cfg = {.schedule = OHT_LR_COSINE_END, .lr = 1e-3, .lr_end = 1e-5, .lr_every = 1, .steps = 100};
    NEAR(oht_learning_rate(&cfg, 0), 1e-3, 0); // no warm-up
    NEAR(oht_learning_rate(&cfg, 100), 1e-5, 1e-17);
    NEAR(oht_learning_rate(&cfg, 150), 1e-5, 1e-17); // a run that was made longer
    json_decref(all);
}

static void final_fraction_golden(void **state) {
    (void)state;
    json_t *all = golden_load("transformers");
    const json_t *one = golden_get(all, "lr_final_fraction");
    oht_train_config cfg = {.schedule = OHT_LR_LINEAR,
                            .lr = 4e-4,
                            .final_lr_fraction = golden_number(one, "final_lr_fraction"),
                            .warmup_steps = (int64_t)golden_number(one, "W"),
                            .steps = (int64_t)golden_number(one, "S")};
    double W = golden_number(one, "W_eff"), S = golden_number(one, "S_eff");
    NEAR(oht_learning_rate(&cfg, cfg.steps), golden_number(one, "lr_at_S"), 1e-15);
    NEAR(oht_learning_rate(&cfg, (int64_t)W), 4e-4, 1e-18); // the warm-up ends at the stretched W
    NEAR(oht_learning_rate(&cfg, (int64_t)W - 1), 4e-4 * (W - 1) / W, 1e-18);
    NEAR(oht_learning_rate(&cfg, (int64_t)S), 0, 0);
    json_decref(all);
}

// transformers/optimization.py, written out.
static double reference(const oht_train_config *c, int64_t t) {
    double W = (double)c->warmup_steps, S = (double)c->steps, x = (double)t, pi = 3.14159265358979323846;
    if (c->schedule == OHT_LR_CONSTANT) return c->lr;
    if (x < W) return c->lr * x / fmax(1, W);
    double p = (x - W) / fmax(1, S - W);
    if (c->schedule == OHT_LR_LINEAR) return c->lr * fmax(0, (S - x) / fmax(1, S - W));
    if (c->schedule == OHT_LR_COSINE) return c->lr * fmax(0, 0.5 * (1 + cos(pi * 0.5 * 2.0 * p)));
    if (c->schedule == OHT_LR_COSINE_WITH_RESTARTS) {
        if (p >= 1) return 0;
        double turns = (double)c->cycles * p;
        return c->lr * fmax(0, 0.5 * (1 + cos(pi * (turns - floor(turns)))));
    }
    if (c->schedule == OHT_LR_POLYNOMIAL) {
        if (x > S) return c->lr_end;
        double remaining = 1 - (x - W) / (S - W);
        return (c->lr - c->lr_end) * pow(remaining, c->lr_power) + c->lr_end;
    }
    return c->lr;
}

static void all_schedules(void **state) {
    (void)state;
    const oht_schedule kinds[] = {OHT_LR_LINEAR,     OHT_LR_COSINE,   OHT_LR_COSINE_WITH_RESTARTS,
                                  OHT_LR_POLYNOMIAL, OHT_LR_CONSTANT, OHT_LR_CONSTANT_WITH_WARMUP};
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
        for (int64_t W = 0; W < 12; W += 4) {
            oht_train_config c = {.schedule = kinds[k],
                                  .lr = 0.01,
                                  .warmup_steps = W,
                                  .steps = 50,
                                  .cycles = 3,
                                  .lr_end = 1e-4,
                                  .lr_power = 2};
            for (int64_t t = 0; t < 60; t++) NEAR(oht_learning_rate(&c, t), reference(&c, t), 1e-16);
        }
    }
}

static void known_points(void **state) {
    (void)state;
    oht_train_config c = {.schedule = OHT_LR_COSINE,
                          .lr = 1,
                          .warmup_steps = 10,
                          .steps = 110,
                          .cycles = 2,
                          .lr_end = 0.1,
                          .lr_power = 1};
    NEAR(oht_learning_rate(&c, 0), 0, 0); // the first update of a warm-up
    NEAR(oht_learning_rate(&c, 5), 0.5, 0);
    NEAR(oht_learning_rate(&c, 60), 0.5, 1e-15);
    NEAR(oht_learning_rate(&c, 110), 0, 1e-15);
    c.schedule = OHT_LR_COSINE_WITH_RESTARTS;
    NEAR(oht_learning_rate(&c, 59), 0.5 * (1 + cos(3.14159265358979323846 * 0.98)), 1e-14);
    NEAR(oht_learning_rate(&c, 60), 1, 1e-12); // restarted
    NEAR(oht_learning_rate(&c, 110), 0, 0);
    c.schedule = OHT_LR_POLYNOMIAL;
    NEAR(oht_learning_rate(&c, 60), 0.55, 1e-15);
    NEAR(oht_learning_rate(&c, 110), 0.1, 0);
    NEAR(oht_learning_rate(&c, 1000), 0.1, 0);
}

// Any step of an epoch has the epoch's rate.
static void halving_golden(void **state) {
    (void)state;
    json_t *all = golden_load("stanhop");
    const json_t *g = golden_get(all, "lr_schedule");
    for (int type = 1; type <= 2; type++) {
        size_t n;
        double *want = golden_doubles(g, type == 1 ? "type1" : "type2", &n);
        assert_true(n >= 13);
        oht_train_config cfg = {.schedule = type == 1 ? OHT_LR_TYPE1 : OHT_LR_TYPE2,
                                .lr = golden_number(g, "base"),
                                .lr_every = 67,
                                .steps = 6700};
        for (int64_t epoch = 0; epoch < (int64_t)n; epoch++)
            for (int64_t step = 0; step < 67; step += 33)
                NEAR(oht_learning_rate(&cfg, 67 * epoch + step), want[epoch], 1e-16 * cfg.lr);
        NEAR(oht_learning_rate(&cfg, 6699), cfg.lr / 32, 0);
        free(want);
    }
    json_decref(all);
}

// A warm-up as long as the run, or longer: no division by zero, no NaN.
static void degenerate(void **state) {
    (void)state;
    for (int kind = OHT_LR_LINEAR; kind <= OHT_LR_CONSTANT_WITH_WARMUP; kind++) {
        oht_train_config c = {.schedule = (oht_schedule)kind,
                              .lr = 1,
                              .steps = 10,
                              .cycles = 1,
                              .lr_end = 0.1,
                              .lr_power = 1,
                              .final_lr_fraction = 0.5};
        for (c.warmup_steps = 0; c.warmup_steps <= 20; c.warmup_steps += 10)
            for (int64_t t = 0; t < 40; t++) {
                double lr = oht_learning_rate(&c, t);
                assert_true(lr >= 0 && lr <= 1);
            }
    }
}

static void clipping(void **state) {
    (void)state;
    json_t *all = golden_load("transformers");
    const json_t *one = golden_get(all, "grad_clip");
    size_t n;
    double *g = golden_doubles(one, "g", &n), *want = golden_doubles(one, "clipped", NULL);
    double norm = golden_number(one, "total_norm"),
           c = oht_clip_coefficient(norm, golden_number(one, "max_norm"));
    for (size_t i = 0; i < n; i++) NEAR(g[i] * c, want[i], 1e-15);
    NEAR(oht_clip_coefficient(0.5, 1), 1, 0);
    NEAR(oht_clip_coefficient(13, 0), 1, 0); // off
    NEAR(oht_clip_coefficient(0, 1), 1, 0);
    free(g);
    free(want);
    json_decref(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_golden), cmocka_unit_test(cosine_vit_golden),
        cmocka_unit_test(final_fraction_golden),
        cmocka_unit_test(all_schedules), cmocka_unit_test(known_points),
        cmocka_unit_test(halving_golden), cmocka_unit_test(degenerate),    cmocka_unit_test(clipping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
