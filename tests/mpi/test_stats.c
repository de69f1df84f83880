// Outlier statistics over ranks: samples dealt out in any number of shares give the statistics of all
// samples, the same bits on every rank, and the same place of the maximum.
#include "mpi_main.h"

#include <math.h>
#include <string.h>

#include "oht/memory.h"
#include "oht/outliers.h"
#include "oht/random.h"

enum { SAMPLES = 7, T = 5, C = 12, H = 3, TAPS = 4 };

typedef struct setting {
    oht_backend *be;
    oht_graph *g;
    oht_stats *mine, *whole; // this rank's share, reduced; everything, observed by this rank alone
} setting;

static float x[SAMPLES][T * C], row[SAMPLES][H * T], pi[SAMPLES][T * H];
static int64_t id[SAMPLES]; // dataset rows, not in order

static void make_data(void) {
    for (uint32_t s = 0; s < SAMPLES; s++) {
        for (uint32_t i = 0; i < T * C; i++)
            x[s][i] = oht_uniform(oht_random_block(9, OHT_DRAW_TEST, s, 0, 0, i).v[0]) - 0.3f;
        for (uint32_t i = 0; i < H * T; i++) {
            row[s][i] = oht_uniform(oht_random_block(9, OHT_DRAW_TEST, s, 1, 0, i).v[0]);
            pi[s][i] = oht_uniform(oht_random_block(9, OHT_DRAW_TEST, s, 2, 0, i).v[0]);
        }
        id[s] = 1000 - 37 * (int64_t)s;
    }
    x[2][17] = 7, x[5][40] = -7, x[3][3] = 7; // equal maxima: sample 5 is the smallest dataset row
}

static oht_status set_up(setting *t) {
    const oht_tap_kind kind[TAPS] = {OHT_TAP_SEQUENCE, OHT_TAP_TOKEN, OHT_TAP_NULL_MASS, OHT_TAP_GATE};
    const char *name[TAPS] = {"a", "b", "null", "gate"};
    oht_params *p;
    memset(t, 0, sizeof(*t));
    OHT_TRY(oht_backend_cpu_create(&t->be));
    OHT_TRY(oht_params_create(&p));
    OHT_TRY(oht_params_layout(p));
    OHT_TRY(oht_graph_create(&t->g, t->be, p, OHT_EVAL, 1, T));
    oht_params_destroy(p);
    oht_value v = oht_input(t->g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, (const int64_t[]){1, T});
    for (int i = 0; i < TAPS; i++) oht_tap(t->g, v, name[i], kind[i], OHT_IN_INF | OHT_IN_KURTOSIS, 0);
    OHT_TRY(oht_stats_create(&t->mine, t->g, H));
    OHT_TRY(oht_stats_create(&t->whole, t->g, H));
    return OHT_OK;
}

static void tear_down(setting *t) {
    oht_stats_destroy(t->mine);
    oht_stats_destroy(t->whole);
    oht_graph_destroy(t->g);
    oht_backend_destroy(t->be);
}

static void show(const setting *t, oht_stats *s, int sample) {
    const oht_tap_info *tap;
    oht_graph_taps(t->g, &tap);
    oht_run run = {.be = t->be, .graph = t->g, .rows = 1, .sample0 = (uint32_t)sample, .stride = 1};
    const oht_tensor shown[TAPS] = {
        {.data = x[sample], .rank = 3, .dim = {1, T, C}},
        {.data = x[sample], .rank = 3, .dim = {1, T, C}},
        {.data = row[sample], .rank = 3, .dim = {1, H, T}},
        {.data = pi[sample], .rank = 3, .dim = {1, T, H}},
    };
    oht_stats_row_ids(s, &id[sample]);
    oht_observer *o = oht_stats_observer(s);
    for (int i = 0; i < TAPS; i++) o->see(o, &run, &tap[i], shown[i]);
}

// Shares the first n samples out and reduces.
static oht_status share_out(setting *t, int n) {
    oht_comm *c = oht_mpi_comm();
    oht_stats_reset(t->mine);
    oht_stats_reset(t->whole);
    for (int s = 0; s < n; s++) {
        show(t, t->whole, s);
        if (s % oht_comm_size(c) == oht_comm_rank(c)) show(t, t->mine, s);
    }
    return oht_stats_reduce(t->mine, c);
}

static int near(double a, double b, double relative) {
    return fabs(a - b) <= relative * fabs(b) || a == b;
}

static void same_as_one_rank(oht_mpi_findings *f, const setting *t) {
    const oht_tap_stats *a, *b;
    int n = oht_stats_taps(t->mine, NULL, &a);
    OHT_CHECK(f, n == 2);
    OHT_CHECK(f, oht_stats_taps(t->whole, NULL, &b) == 2);
    for (int i = 0; i < n; i++) {
        OHT_CHECK(f, a[i].rows == b[i].rows && a[i].inf_rows == b[i].inf_rows && a[i].kurtosis_rows == b[i].kurtosis_rows &&
                         a[i].nonfinite == b[i].nonfinite);
        OHT_CHECK(f, a[i].outliers_6sigma == b[i].outliers_6sigma);
        OHT_CHECK(f, a[i].max_sample == b[i].max_sample && a[i].max_token == b[i].max_token &&
                         a[i].max_channel == b[i].max_channel);
        OHT_CHECK(f, a[i].pooled.abs_max == b[i].pooled.abs_max ||
                         (isnan(a[i].pooled.abs_max) && isnan(b[i].pooled.abs_max)));
        OHT_CHECK(f, a[i].pooled.n == b[i].pooled.n);
        if (b[i].nonfinite) continue;
        OHT_CHECK(f, near(a[i].inf_sum, b[i].inf_sum, 1e-13) &&
                         near(a[i].kurtosis_sum, b[i].kurtosis_sum, 1e-13));
        OHT_CHECK(f, near(a[i].pooled.mean, b[i].pooled.mean, 1e-12) &&
                         near(oht_kurtosis(&a[i].pooled), oht_kurtosis(&b[i].pooled), 1e-11));
    }
}

// Every rank's statistics against rank 0's, bit for bit.
static void same_bits_everywhere(oht_mpi_findings *f, const setting *t) {
    const oht_tap_stats *a;
    oht_tap_stats root[2];
    int layers, heads;
    double mass[H];
    size_t bytes = sizeof(root);
    OHT_CHECK(f, oht_stats_taps(t->mine, NULL, &a) == 2);
    memcpy(root, a, bytes);
    memcpy(mass, oht_stats_null_mass(t->mine, &layers, &heads), sizeof(mass));
    OHT_CHECK(f, oht_broadcast(oht_mpi_comm(), root, bytes, 0) == OHT_OK);
    OHT_CHECK(f, oht_broadcast(oht_mpi_comm(), mass, sizeof(mass), 0) == OHT_OK);
    OHT_CHECK(f, memcmp(root, a, bytes) == 0);
    OHT_CHECK(f, memcmp(mass, oht_stats_null_mass(t->mine, &layers, &heads), sizeof(mass)) == 0);
}

static void shares_add_up(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    setting t;
    make_data();
    OHT_CHECK(&f, set_up(&t) == OHT_OK);
    // 1, 2, 3: ranks without samples join the collectives
    for (int n = 0; n <= SAMPLES; n++) {
        uint64_t before = oht_alloc_count();
        OHT_CHECK(&f, share_out(&t, n) == OHT_OK);
        OHT_CHECK(&f, oht_alloc_count() == before);
        same_as_one_rank(&f, &t);
        same_bits_everywhere(&f, &t);
        int layers, heads;
        const double *null = oht_stats_null_mass(t.mine, &layers, &heads),
                     *gate = oht_stats_gate_mean(t.mine, &layers, &heads);
        for (int h = 0; h < H && n > 0; h++) {
            double m = 0, p = 0;
            for (int s = 0; s < n; s++)
                for (int i = 0; i < T; i++)
                    m += exp(-(double)row[s][h * T + i]), p += (double)pi[s][i * H + h];
            OHT_CHECK(&f, near(null[h], m / (n * T), 1e-6) && near(gate[h], p / (n * T), 1e-6));
        }
    }
    const oht_tap_stats *a;
    oht_stats_taps(t.mine, NULL, &a);
    for (int i = 0; i < 2; i++)
        OHT_CHECK(&f, a[i].max_sample == id[5] && a[i].max_token == 3 && a[i].max_channel == 4);
    tear_down(&t);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void one_rank_with_nan_is_seen_by_all(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    setting t;
    make_data();
    x[SAMPLES - 1][7] = NAN;
    OHT_CHECK(&f, set_up(&t) == OHT_OK);
    OHT_CHECK(&f, share_out(&t, SAMPLES) == OHT_OK);
    same_as_one_rank(&f, &t);
    const char *first = oht_stats_first_nonfinite(t.mine);
    OHT_CHECK(&f, first && strcmp(first, "a") == 0);
    oht_outlier_metrics m;
    oht_stats_metrics(t.mine, &m);
    OHT_CHECK(&f, isnan(m.max_inf_norm) && isnan(m.avg_kurtosis));
    const oht_tap_stats *a;
    oht_stats_taps(t.mine, NULL, &a);
    OHT_CHECK(&f, a[0].max_sample == id[SAMPLES - 1] && a[0].max_channel == 7);
    tear_down(&t);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_add_up),
        cmocka_unit_test(one_rank_with_nan_is_seen_by_all),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
