// The paper's Table 1 with our runs in it, for people: published numbers, our mean and deviation over seeds, the difference; the
// reduction of every pair of methods before both averages, since an average alone hides that one pair of the paper goes
// the other way (spec paper 1.4); paired differences over common seeds; what W8A8 costs. CSV and JSON: table1_data.c.
#include <math.h>
#include <string.h>

#include "report/grid.h"
#include "report/report.h"

static const char *const PAIRS[3] = {"Vanilla -> OutEffHop", "Clipped_Softmax -> Clipped_OutEffHop", "Gated_Attention -> Gated_OutEffHop"};

static void heading(oht_report_form form, FILE *out, const char *text) {
    static const char *const before[] = {"\n", "\n### ", "<h3>"}, *const after[] = {"\n\n", "\n\n", "</h3>\n"};
    fprintf(out, "%s%s%s", before[form], text, after[form]);
}

static void note(oht_report_form form, FILE *out, const char *text) {
    static const char *const before[] = {"\n", "\n", "<p class=\"note\">"}, *const after[] = {"\n", "\n", "</p>\n"};
    fputs(before[form], out);
    if (form == OHT_FORM_HTML) oht_html_text(out, text);
    else fputs(text, out);
    fputs(after[form], out);
}

static bool any_w8a8(const oht_report_table *t) {
    for (int i = 0; i < t->n_groups; i++)
        if (t->group[i].count[OHT_REPORT_W8A8] > 0) return true;
    return false;
}

static oht_status add_value(oht_grid *g, double mean, double sd) {
    char a[48], b[48] = "";
    if (isnan(mean)) return oht_grid_add(g, "-");
    snprintf(a, sizeof(a), fabs(mean) < 1e6 ? "%.3f" : "%.6g", mean);
    if (!isnan(sd)) snprintf(b, sizeof(b), fabs(sd) < 1e6 ? " \xC2\xB1 %.3f" : " \xC2\xB1 %.3g", sd);
    return oht_grid_add(g, "%s%s", a, b);
}

static oht_status add_percent(oht_grid *g, double percent, const char *unit) {
    return isnan(percent) ? oht_grid_add(g, "-") : oht_grid_add(g, fabs(percent) < 1e6 ? "%+.2f %s" : "%+.3g %s", percent, unit);
}

static oht_status add_plain(oht_grid *g, double value) {
    return isnan(value) ? oht_grid_add(g, "-") : oht_grid_add(g, fabs(value) < 1e6 ? "%.2f" : "%.6g", value);
}

// ---- values ----

static oht_status add_difference(oht_grid *g, const oht_published *p, const oht_report_group *o, int metric) {
    bool points = metric >= OHT_REPORT_TASK && o->first->model->in_points;
    double ours = o->mean[metric], paper = p->mean[metric];
    if (!isfinite(ours)) return oht_grid_add(g, "-");
    return points ? add_percent(g, ours - paper, "points") : add_percent(g, 100.0 * (ours / paper - 1.0), "%");
}

static oht_status add_group(oht_grid *g, const char *model, const oht_published *p, const oht_report_group *o, int metrics) {
    OHT_TRY(oht_grid_add(g, "%s", model));
    OHT_TRY(oht_grid_add(g, "%s", o->label));
    OHT_TRY(oht_grid_add(g, "ours, %d seed%s", o->n, o->n == 1 ? "" : "s"));
    for (int m = 0; m < metrics; m++) OHT_TRY(add_value(g, o->mean[m], o->sd[m]));
    if (!p) return OHT_OK;
    for (int i = 0; i < 2; i++) OHT_TRY(oht_grid_add(g, "%s", ""));
    OHT_TRY(oht_grid_add(g, "difference"));
    for (int m = 0; m < metrics; m++) OHT_TRY(add_difference(g, p, o, m));
    return OHT_OK;
}

static oht_status fill_values(const oht_report_table *t, oht_grid *g, int metrics) {
    int n;
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i < n; i++) {
        OHT_TRY(oht_grid_add(g, "%s (%s)", p[i].model, oht_published_task_of(p[i].model)->title));
        OHT_TRY(oht_grid_add(g, "%s", p[i].method));
        OHT_TRY(oht_grid_add(g, "paper"));
        for (int m = 0; m < metrics; m++) OHT_TRY(add_value(g, p[i].mean[m], p[i].sd[m]));
        for (int k = 0; k < t->n_groups; k++) {
            const oht_report_group *o = &t->group[k];
            if (strcmp(o->first->model->name, p[i].model) == 0 && strcmp(o->first->method, p[i].method) == 0)
                OHT_TRY(add_group(g, "", &p[i], o, metrics));
        }
    }
    for (int k = 0; k < t->n_groups; k++) { // methods the paper has not
        const oht_report_group *o = &t->group[k];
        if (!oht_published_find(o->first->model->name, o->first->method)) OHT_TRY(add_group(g, o->first->model->name, NULL, o, metrics));
    }
    return OHT_OK;
}

static oht_status values(const oht_report_table *t, oht_report_form form, FILE *out) {
    bool quantized = any_w8a8(t);
    oht_grid g = {.title = {"model", "method", "source", "avg kurtosis", "max inf norm", "full precision", "W8A8"},
                  .columns = quantized ? 7 : 6,
                  .left = 3};
    oht_status status = fill_values(t, &g, quantized ? OHT_REPORT_METRICS : OHT_REPORT_W8A8);
    if (status == OHT_OK) oht_grid_print(&g, form, out);
    oht_grid_free(&g);
    return status;
}

// ---- reductions ----

static oht_status add_reduction(oht_grid *g, const char *model, const char *pair, const char *source, const double r[2]) {
    OHT_TRY(oht_grid_add(g, "%s", model));
    OHT_TRY(oht_grid_add(g, "%s", pair));
    OHT_TRY(oht_grid_add(g, "%s", source));
    for (int m = 0; m < 2; m++) OHT_TRY(add_plain(g, r[m]));
    return OHT_OK;
}

// Sums of reductions: of the paper, of the paper without the OPT clipped pair, of ours, of the paper for our pairs.
typedef struct averages {
    double paper[2], without[2], ours[2], same[2];
    int n_paper, n_without, n_ours, n_same;
} averages;

static void add_up(double sum[2], int *n, const double r[2]) {
    if (isnan(r[0]) || isnan(r[1])) return;
    sum[0] += r[0];
    sum[1] += r[1];
    ++*n;
}

static oht_status fill_pairs(const oht_report_table *t, oht_grid *g, averages *a) {
    int n;
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i + 1 < n; i += 2) { // rows come in pairs
        int kind = i / 2 % 3;
        double r[2];
        for (int m = 0; m < 2; m++) r[m] = oht_report_reduction(p[i].mean[m], p[i + 1].mean[m]);
        OHT_TRY(add_reduction(g, p[i].model, PAIRS[kind], "paper", r));
        add_up(a->paper, &a->n_paper, r);
        if (strcmp(p[i].model, "OPT") != 0 || kind != 1) add_up(a->without, &a->n_without, r);
        for (int k = 0; k < t->n_pairs; k++) {
            const oht_report_pair *o = &t->pair[k];
            if (strcmp(o->base->first->model->name, p[i].model) != 0 || strcmp(o->base->first->method, p[i].method) != 0) continue;
            OHT_TRY(add_reduction(g, "", strcmp(o->base->label, p[i].method) == 0 ? "" : o->base->label, "ours", o->reduction));
            add_up(a->ours, &a->n_ours, o->reduction);
            if (!isnan(o->reduction[0]) && !isnan(o->reduction[1])) add_up(a->same, &a->n_same, r);
        }
    }
    return OHT_OK;
}

static oht_status add_average(oht_grid *g, const char *of, int n, const char *without, const char *source, const double sum[2]) {
    char what[80];
    if (n == 0) return OHT_OK;
    snprintf(what, sizeof(what), "of %s %d pair%s%s", of, n, n == 1 ? "" : "s", without);
    return add_reduction(g, "mean", what, source, (const double[2]){sum[0] / n, sum[1] / n});
}

static oht_status fill_reductions(const oht_report_table *t, oht_grid *g) {
    averages a = {0};
    OHT_TRY(fill_pairs(t, g, &a));
    OHT_TRY(add_average(g, "all", a.n_paper, "", "paper", a.paper));
    OHT_TRY(add_average(g, "the", a.n_without, " without OPT clipped", "paper", a.without));
    OHT_TRY(add_average(g, "our", a.n_ours, "", "ours", a.ours));
    return add_average(g, "the same", a.n_same, "", "paper", a.same);
}

static oht_status reductions(const oht_report_table *t, oht_report_form form, FILE *out) {
    oht_grid g = {.title = {"model", "pair", "source", "kurtosis, %", "inf norm, %"}, .columns = 5, .left = 3};
    oht_status status = fill_reductions(t, &g);
    if (status == OHT_OK) oht_grid_print(&g, form, out);
    oht_grid_free(&g);
    return status;
}

// ---- paired differences ----

static oht_status fill_paired(const oht_report_table *t, oht_grid *g) {
    for (int k = 0; k < t->n_pairs; k++) {
        const oht_report_pair *o = &t->pair[k];
        OHT_TRY(oht_grid_add(g, "%s", o->base->first->model->name));
        OHT_TRY(oht_grid_add(g, "%.60s -> %.60s", o->base->label, o->with->first->method));
        OHT_TRY(oht_grid_add(g, "%d", o->seeds));
        for (int m = 0; m < g->columns - 3; m++) {
            double d = o->difference[m], h = o->half[m];
            if (isnan(d)) OHT_TRY(oht_grid_add(g, "-"));
            else if (isnan(h)) OHT_TRY(oht_grid_add(g, "%+.4g (1 seed)", d));
            else OHT_TRY(oht_grid_add(g, "%+.4g [%+.4g, %+.4g]", d, d - h, d + h));
        }
    }
    return OHT_OK;
}

static oht_status paired(const oht_report_table *t, oht_report_form form, FILE *out) {
    oht_grid g = {.title = {"model", "pair", "common seeds", "avg kurtosis", "max inf norm", "full precision", "W8A8"},
                  .columns = any_w8a8(t) ? 7 : 6,
                  .left = 2};
    oht_status status = fill_paired(t, &g);
    if (status == OHT_OK) oht_grid_print(&g, form, out);
    oht_grid_free(&g);
    return status;
}

// ---- W8A8 ----

static oht_status add_loss(oht_grid *g, const char *model, const char *method, const char *source, const double *mean, bool points) {
    double full = mean[OHT_REPORT_TASK], w8a8 = mean[OHT_REPORT_W8A8];
    OHT_TRY(oht_grid_add(g, "%s", model));
    OHT_TRY(oht_grid_add(g, "%s", method));
    OHT_TRY(oht_grid_add(g, "%s", source));
    return points ? add_percent(g, w8a8 - full, "points") : add_percent(g, 100.0 * (w8a8 / full - 1.0), "%");
}

static oht_status fill_degradation(const oht_report_table *t, oht_grid *g) {
    int n;
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i < n; i++) {
        OHT_TRY(add_loss(g, p[i].model, p[i].method, "paper", p[i].mean, oht_published_task_of(p[i].model)->in_points));
        for (int k = 0; k < t->n_groups; k++) {
            const oht_report_group *o = &t->group[k];
            if (strcmp(o->first->model->name, p[i].model) != 0 || strcmp(o->first->method, p[i].method) != 0) continue;
            if (o->count[OHT_REPORT_W8A8] > 0) OHT_TRY(add_loss(g, "", o->label, "ours", o->mean, o->first->model->in_points));
        }
    }
    return OHT_OK;
}

static oht_status degradation(const oht_report_table *t, oht_report_form form, FILE *out) {
    oht_grid g = {.title = {"model", "method", "source", "change from full precision"}, .columns = 4, .left = 3};
    oht_status status = fill_degradation(t, &g);
    if (status == OHT_OK) oht_grid_print(&g, form, out);
    oht_grid_free(&g);
    return status;
}

oht_status oht_table1(const oht_report_table *t, oht_report_form form, FILE *out) {
    OHT_TRY(values(t, form, out));
    note(form, out,
         "Paper: Hu et al., ICML 2024, PMLR 235:19123, Table 1; mean and deviation over 3 seeds. Its deviations of 0.000 suggest evaluation "
         "seeds of one checkpoint; ours are over trainings. Lower is better, but for ViT's top-1. Outliers grow with training: compare at "
         "equal steps.");
    oht_report_series_note(t, form, out);
    heading(form, out, "Reduction by softmax_1, 100 (1 - with / without)");
    OHT_TRY(reductions(t, form, out));
    if (t->n_pairs > 0) {
        heading(form, out, "Paired differences, with - without: mean over common seeds [95 % interval, Student t]");
        OHT_TRY(paired(t, form, out));
    }
    heading(form, out, "What W8A8 costs");
    return degradation(t, form, out);
}
