// ohtrain report's arithmetic: Student's t against tables, the averages of the published Table 1, groups and pairs of runs made
// here, text that is safe in HTML, thinning, axes that hold odd values.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "oht/memory.h"
#include "report/grid.h"
#include "report/report.h"
#include "report/svg.h"

static void student(void **state) { // quantiles of the usual tables, to their digits
    (void)state;
    static const double p95[] = {12.7062047364, 4.30265272991, 3.18244630528, 2.77644510520, 2.57058183661,
                                 2.44691185114, 2.36462425159, 2.30600413520, 2.26215716280, 2.22813885196};
    for (int i = 0; i < 10; i++) NEAR(oht_report_student_t(i + 1, 0.95), p95[i], 1e-9);
    NEAR(oht_report_student_t(29, 0.95), 2.04522964213, 1e-9);
    NEAR(oht_report_student_t(2, 0.99), 9.92484320092, 1e-9);
    NEAR(oht_report_student_t(7, 0.90), 1.89457860506, 1e-9);
    NEAR(oht_report_student_t(1, 0.50), 1.0, 1e-12);
    NEAR(oht_report_student_t(100000, 0.95), 1.95996, 1e-4);
}

static void published(void **state) {
    (void)state;
    int n;
    double sum[2] = {0, 0};
    const oht_published *p = oht_published_rows(&n);
    assert_int_equal(n, 24);
    for (int i = 0; i < n; i += 2) {
        assert_string_equal(p[i].method, oht_report_base[i / 2 % 3]);
        assert_string_equal(p[i + 1].method, oht_report_with[i / 2 % 3]);
        for (int m = 0; m < 2; m++) sum[m] += oht_report_reduction(p[i].mean[m], p[i + 1].mean[m]) / 12;
    }
    NEAR(sum[0], 21.88, 0.005);
    NEAR(sum[1], 26.07, 0.005);
    assert_non_null(oht_published_find("OPT", "Gated_OutEffHop"));
    assert_null(oht_published_find("OPT", "Sparsemax"));
    assert_true(isnan(oht_report_reduction(0, 1)) && isnan(oht_report_reduction((double)NAN, 1)));
}

// ---- groups ----

static void make_run(oht_report_run *r, const char *path, const char *attention, int64_t seed, double value) {
    memset(r, 0, sizeof(*r));
    oht_config_defaults(&r->cfg);
    snprintf(r->cfg.model.attention, sizeof(r->cfg.model.attention), "%s", attention);
    r->cfg.train.seed = seed;
    r->model = oht_report_model_of(&r->cfg.model);
    r->path = path;
    r->path_bytes = (int)strlen(path);
    snprintf(r->method, sizeof(r->method), "%s", strcmp(attention, "vanilla") == 0 ? "Vanilla" : "OutEffHop");
    for (int m = 0; m < OHT_REPORT_METRICS; m++) r->metric[m] = value + m;
    r->metric[OHT_REPORT_W8A8] = (double)NAN;
}

static void groups(void **state) {
    (void)state;
    oht_report_table t = {0};
    oht_report_run *run;
    assert_int_equal(OHT_ALLOC(&run, 9, "runs"), OHT_OK);
    t.run = run;
    t.n_runs = 9;
    make_run(&run[0], "s3", "softmax1", 3, 5); // seeds out of order, methods out of order
    make_run(&run[1], "s1", "softmax1", 1, 1);
    make_run(&run[2], "v2", "vanilla", 2, 10);
    make_run(&run[3], "v1", "vanilla", 1, 4);
    make_run(&run[4], "v3", "vanilla", 3, 10);
    make_run(&run[5], "other", "vanilla", 1, 100); // another width: its own group, no pair
    run[5].cfg.model.width = 128;
    make_run(&run[6], "again", "vanilla", 2, 77); // the same experiment: not counted
    make_run(&run[7], "half", "softmax1", 2, 1000);
    run[7].unfinished = true;
    make_run(&run[8], "elsewhere", "softmax1", 4, (double)NAN); // where it ran does not matter; no values
    run[8].cfg.run.checkpoint_every = 7;
    assert_int_equal(oht_report_compare(&t), OHT_OK);
    assert_int_equal(t.n_groups, 3);
    assert_int_equal(t.n_pairs, 1);
    const oht_report_pair *p = &t.pair[0];
    assert_string_equal(p->base->first->method, "Vanilla");
    assert_int_equal(p->base->n, 3);
    assert_int_equal(p->with->n, 3);
    NEAR(p->base->mean[0], 8, 1e-12);
    NEAR(p->base->sd[0], sqrt(12), 1e-12);
    assert_int_equal(p->with->count[0], 2); // NAN does not count
    NEAR(p->with->mean[1], 4, 1e-12);
    NEAR(p->reduction[0], 100 * (1 - 3.0 / 8.0), 1e-12);
    assert_int_equal(p->seeds, 2); // 1 and 3: differences -3 and -5
    NEAR(p->difference[0], -4, 1e-12);
    NEAR(p->half[0], 12.7062047364 * sqrt(2) / sqrt(2), 1e-8);
    assert_int_equal(p->count[OHT_REPORT_W8A8], 0);
    assert_true(isnan(p->difference[OHT_REPORT_W8A8]) && isnan(p->half[OHT_REPORT_W8A8]));
    assert_non_null(strstr(t.group[0].label, "Vanilla: v")); // two groups of one method are told apart
    oht_report_free(&t);
}

// ---- text and pictures ----

static char *written(void (*what)(FILE *out, const void *arg), const void *arg) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    what(out, arg);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void write_text(FILE *out, const void *arg) {
    oht_html_text(out, arg);
}

static void safe_text(void **state) {
    (void)state;
    char *text = written(write_text, "<a href=\"x\">&\n\x7F\xFF\xC3\xA9\xE2\x82 \xC2\x85\xF0\x9F\x98\x80");
    assert_string_equal(text, "&lt;a href=&quot;x&quot;&gt;&amp;??\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD ?\xF0\x9F\x98\x80");
    free(text);
}

static void draw_odd(FILE *out, const void *arg) {
    const double *y = arg;
    double x[4] = {0, 1, 2, 3};
    float f[4];
    oht_svg_chart c = {.title = "t", .x = "x", .y = "y", .width = 300, .height = 200};
    oht_svg_range(&c);
    for (int i = 0; i < 4; i++) oht_svg_include(&c, y[i]), f[i] = (float)y[i];
    oht_svg_settle(&c, true);
    const oht_svg_line line = {4, 1, x, f, "#000", false};
    oht_svg_lines(out, &c, &line, 1);
    oht_svg_bar bar[4];
    for (int i = 0; i < 4; i++) bar[i] = (oht_svg_bar){.label = "bar", .colour = "#000", .value = y[i], .sd = y[3], .mark = y[2]};
    oht_svg_bars(out, &c, bar, 4);
    const char *names[] = {"a", "b"};
    oht_svg_heatmap(out, &c, &(oht_svg_heat){2, 2, y, names, names});
}

// No coordinate is ever "nan" or "inf".
static void odd_values(void **state) {
    (void)state;
    const double inf = (double)INFINITY, nan = (double)NAN;
    const double cases[][4] = {{1, 2, 3, 4},         {nan, nan, nan, nan}, {0, 0, 0, 0},       {inf, 1, nan, 1},    {-5, -5, -5, -5},
                               {1e-30, 1e30, 1, 10}, {-1, 1e9, 0, 2},      {7, nan, nan, nan}, {-inf, inf, 1, inf}, {1e-300, 1e-299, 1e-298, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = written(draw_odd, cases[i]);
        for (const char *s = text; (s = strstr(s, "=\"")); s++) {
            const char *end = strchr(s + 2, '"');
            for (const char *c = s + 2; c < end; c++)
                if (strncmp(c, "nan", 3) == 0 || strncmp(c, "inf", 3) == 0) fail_msg("case %zu: %.60s", i, s);
        }
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(student), cmocka_unit_test(published), cmocka_unit_test(groups), cmocka_unit_test(safe_text), cmocka_unit_test(odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
