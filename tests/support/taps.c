// See taps.h.
#include "taps.h"

#include "check.h"
#include "oht/random.h"

oht_graph *taps_graph(oht_backend *be, const tap_spec *tap, int n, int64_t rows, int64_t tokens) {
    oht_graph *g;
    oht_params *p;
    OK(oht_params_create(&p));
    OK(oht_params_layout(p));
    OK(oht_graph_create(&g, be, p, OHT_EVAL, rows, tokens));
    const int64_t dim[2] = {rows, tokens};
    oht_value x = oht_input(g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, dim);
    for (int i = 0; i < n; i++)
        assert_true(oht_tap(g, x, tap[i].name, tap[i].kind, tap[i].roles, tap[i].layer).id >= 0);
    oht_params_destroy(p);
    return g;
}

void taps_show(oht_backend *be, oht_stats *s, const oht_graph *g, int index, float *x, int rank, int64_t a, int64_t b,
               int64_t c, int64_t sample0) {
    const oht_tap_info *info;
    oht_run run = {.be = be, .rows = a, .sample0 = (uint32_t)sample0, .stride = 1};
    oht_tensor t = {.data = x, .dtype = OHT_F32, .rank = rank, .dim = {a, b, c}};
    oht_graph_taps(g, &info);
    oht_observer *o = oht_stats_observer(s);
    o->see(o, &run, &info[index], t);
}

double taps_random(uint32_t i) {
    return 2.0 * (double)oht_uniform(oht_random_block(3, OHT_DRAW_TEST, i, 0, 0, 0).v[0]) - 1.0;
}
