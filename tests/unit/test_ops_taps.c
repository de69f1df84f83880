// What the small transformer (net.h) lets others see: taps in evaluation and in training, sites of dropout, FLOPs.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net.h"
#include "toy_graph.h"

// ---- evaluation and taps ----

typedef struct looker {
    oht_observer base;
    int n, squares;
    int64_t rows;
    float scores[4 * H * T * T];
} looker;

static void look(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    looker *l = (looker *)self;
    assert_int_equal(tap->index, l->n++);
    assert_int_equal(x.dim[0], l->rows);
    assert_false(run->second_pass);
    for (int64_t i = 0; i < oht_tensor_count(x); i++) assert_true(isfinite(oht_f32(x)[i]));
    if (strstr(tap->name, ".scores")) {
        assert_int_equal(x.rank, 4);
        memcpy(l->scores, x.data, (size_t)oht_tensor_count(x) * sizeof(float));
    }
    if (strstr(tap->name, ".probs")) { // P = softmax_1 of the scores seen just before, causal
        l->squares++;
        for (int64_t r = 0; r < x.dim[0] * H * T; r++) {
            const float *s = l->scores + r * T, *p = oht_f32(x) + r * T;
            double sum = 1.0;
            for (int64_t j = 0; j <= r % T; j++) sum += exp((double)s[j]);
            for (int64_t j = 0; j < T; j++)
                assert_true(fabs((double)p[j] - (j <= r % T ? exp((double)s[j]) / sum : 0.0)) <= 1e-6);
        }
    }
}

static void evaluation_equals_training_without_dropout(void **state) {
    (void)state;
    net train = {0}, eval = {0}, inner = {0};
    small_net(&train, &(small_options){.mode = OHT_TRAIN, .rows = 4});
    small_net(&eval, &(small_options){OHT_EVAL, 4, .p = 0.5f});
    small_net(&inner, &(small_options){OHT_EVAL, 4, .p = 0.5f, .inner = true});
    assert_true(oht_plan_bytes(eval.g) < oht_plan_bytes(train.g) / 2);
    const oht_tap_info *tap;
    assert_int_equal(oht_graph_taps(eval.g, &tap), 4 * L);
    assert_string_equal(tap[4].name, "layer.1.ln1.out");
    assert_int_equal(tap[4].roles, OHT_IN_INF);
    assert_int_equal(tap[5].kind, OHT_TAP_NULL_MASS);
    assert_int_equal(oht_graph_taps(train.g, NULL), 4 * L);
    assert_int_equal(oht_graph_taps(inner.g, NULL), 6 * L);
    double loss = small_step(&train, 0, 3, false);
    net *nets[] = {&eval, &inner};
    for (int k = 0; k < 2; k++) {
        looker l = {.base = {look}, .rows = 3};
        nets[k]->run->observer = &l.base;
        net_feed(nets[k], 0, 3);
        oht_run_forward(nets[k]->run);
        assert_true(fabs(nets[k]->run->loss_sum - loss) <= 1e-6 * loss);
        assert_int_equal(l.n, k == 0 ? 4 * L : 6 * L);
        assert_int_equal(l.squares, k == 0 ? 0 : L);
        nets[k]->run->rows = 0; // taps see no empty rows
        oht_run_forward(nets[k]->run);
        assert_int_equal(l.n, k == 0 ? 4 * L : 6 * L);
    }
    net_stop(&train);
    net_stop(&eval);
    net_stop(&inner);
}

static void taps_are_silent_in_recomputation(void **state) {
    (void)state;
    net n = {0};
    small_net(&n, &(small_options){OHT_TRAIN, 2, .p = 0.2f, .recompute = true});
    looker l = {.base = {look}, .rows = 2};
    n.run->observer = &l.base;
    small_step(&n, 0, 2, false);
    assert_int_equal(l.n, 4 * L);
    net_stop(&n);
}

// ---- sites, FLOPs ----

static uint32_t last_site(float p_before) {
    oht_params params = {0};
    oht_param item[TOY_PARAMS];
    toy_params(&params, item);
    item[0].rank = 3;
    item[0].dim[0] = 2, item[0].dim[1] = T, item[0].dim[2] = C;
    oht_graph *g;
    assert_int_equal(oht_graph_create(&g, net_backend, &params, OHT_TRAIN, 2, T), OHT_OK);
    oht_value x = net_source(g, oht_parameter(g, 0), OHT_ROWS_BATCH);
    oht_dropout(g, oht_dropout(g, x, p_before), 0.5f);
    uint32_t site = g->node[g->n_nodes - 1]->site;
    oht_graph_destroy(g);
    return site;
}

static void sites_do_not_depend_on_other_rates(void **state) {
    (void)state;
    assert_int_equal(last_site(0.0f), last_site(0.3f));
    assert_int_not_equal(last_site(0.0f), 0);
    net n = {0}; // every place of a net has its own
    small_net(&n, &(small_options){.mode = OHT_TRAIN, .rows = 2, .p = 0.2f});
    bool used[1 + 3 * L] = {false};
    int places = 0;
    for (int i = 0; i < n.g->n_nodes; i++) {
        const char *op = n.g->node[i]->op->name;
        if (strcmp(op, "dropout") != 0 && strcmp(op, "residual") != 0 && strcmp(op, "association") != 0)
            continue;
        uint32_t site = n.g->node[i]->site;
        assert_true(site < 1 + 3 * L && !used[site]);
        used[site] = true;
        places++;
    }
    assert_int_equal(places, 1 + 3 * L);
    net_stop(&n);
}

static void flops_by_hand(void **state) {
    (void)state;
    net n = {0};
    small_net(&n, &(small_options){.mode = OHT_TRAIN, .rows = 4});
    net_feed(&n, 0, 3);
    double rows = 3.0 * T, linear = 2.0 * rows * (3 * C * C + C * C + 2 * F * C), gate = 2.0 * rows * C;
    double pairs = 3.0 * T * (T + 1) / 2; // causal
    double forward = L * (linear + gate + 4.0 * pairs * C), head = 2.0 * rows * C * V;
    double backward = L * (2.0 * linear + 2.0 * gate + 10.0 * pairs * C) + 3.0 * head;
    assert_true(fabs(oht_run_flops(n.run, false) - forward) <= 1e-9 * forward);
    assert_true(fabs(oht_run_flops(n.run, true) - backward) <= 1e-9 * backward);
    oht_run *counting; // without memory
    assert_int_equal(oht_run_create(&counting, n.g, NULL, NULL, NULL), OHT_OK);
    counting->rows = 3;
    assert_true(oht_run_flops(counting, false) == oht_run_flops(n.run, false));
    assert_true(oht_run_flops(counting, true) == oht_run_flops(n.run, true));
    oht_run_destroy(counting);
    net_stop(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluation_equals_training_without_dropout),
        cmocka_unit_test(taps_are_silent_in_recomputation),
        cmocka_unit_test(sites_do_not_depend_on_other_rates),
        cmocka_unit_test(flops_by_hand),
    };
    return cmocka_run_group_tests(tests, net_create_backend, net_destroy_backend);
}
