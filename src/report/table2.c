// The ETTh1 column of the paper's Table 2 with our runs in it: four associations of STanHop-Net by horizon; and the note that
// belongs to every kurtosis of STanHop-Net.
#include <math.h>
#include <string.h>

#include "report/grid.h"
#include "report/report.h"

static bool is_series(const oht_report_run *r) {
    return r->cfg.model.type == OHT_MODEL_STANHOP;
}

static const oht_report_group *group_of(const oht_report_table *t, const oht_published_horizon *p) {
    for (int k = 0; k < t->n_groups; k++) {
        const oht_report_run *r = t->group[k].first;
        if (is_series(r) && r->cfg.model.horizon == p->horizon && strcmp(r->method, p->method) == 0) return &t->group[k];
    }
    return NULL;
}

static oht_status add(oht_grid *g, double mean, double sd) {
    if (isnan(mean)) return oht_grid_add(g, "-");
    return isnan(sd) ? oht_grid_add(g, "%.3f", mean) : oht_grid_add(g, "%.3f \xC2\xB1 %.3f", mean, sd);
}

// Means over seeds of what is not a metric of Table 1.
static double mean_of(const oht_report_table *t, const oht_report_group *o, double (*get)(const oht_report_run *)) {
    double sum = 0;
    for (int i = 0; i < o->n; i++) sum += get(&t->run[o->member[i]]);
    return sum / o->n;
}
static double activations(const oht_report_run *r) {
    return r->activation_kurtosis;
}
static double start(const oht_report_run *r) {
    return r->start_kurtosis;
}

static bool any(const oht_report_table *t) {
    for (int i = 0; i < t->n_runs; i++)
        if (is_series(&t->run[i])) return true;
    return false;
}

bool oht_table2_row_of(const oht_report_table *t, int i, oht_table2_row *out) {
    int n;
    const oht_published_horizon *p = oht_published_horizons(&n);
    if (i >= n || !any(t)) return false;
    const oht_report_group *o = group_of(t, &p[i]);
    *out = (oht_table2_row){&p[i], o, (double)NAN, (double)NAN};
    if (o) out->activation_kurtosis = mean_of(t, o, activations), out->start_kurtosis = mean_of(t, o, start);
    return true;
}

static oht_status fill(const oht_report_table *t, oht_grid *g) {
    oht_table2_row row;
    for (int i = 0; oht_table2_row_of(t, i, &row); i++) {
        const oht_published_horizon *p = row.paper;
        OHT_TRY(oht_grid_add(g, "%d", (int)p->horizon));
        OHT_TRY(oht_grid_add(g, "%s", p->title));
        OHT_TRY(oht_grid_add(g, "%.3f / %.3f", p->kurtosis, p->inf_norm));
        for (int m = 0; m < OHT_REPORT_W8A8; m++)
            OHT_TRY(add(g, row.ours ? row.ours->mean[m] : (double)NAN, row.ours ? row.ours->sd[m] : (double)NAN));
        OHT_TRY(add(g, row.activation_kurtosis, (double)NAN));
        OHT_TRY(add(g, row.start_kurtosis, (double)NAN));
    }
    return OHT_OK;
}

oht_status oht_table2(const oht_report_table *t, oht_report_form form, FILE *out) {
    static const char *const title[] = {"\nTable 2, ETTh1: kurtosis / max inf norm\n\n", "\n### Table 2, ETTh1\n\n",
                                        "<h3>Table 2, ETTh1</h3>\n"};
    if (!any(t)) return OHT_OK;
    fputs(title[form], out);
    oht_grid g = {.title = {"horizon", "method", "paper: kurtosis / inf norm", "avg kurtosis", "max inf norm", "MSE",
                            "without probabilities", "before training"},
                  .columns = 8,
                  .left = 2};
    oht_status status = fill(t, &g);
    if (status == OHT_OK) oht_grid_print(&g, form, out);
    oht_grid_free(&g);
    return status;
}

void oht_report_series_note(const oht_report_table *t, oht_report_form form, FILE *out) {
    static const char *const before[] = {"\n", "\n", "<p class=\"note\">"}, *const after[] = {"\n", "\n", "</p>\n"};
    if (!any(t)) return;
    fputs(before[form], out);
    fputs("STanHop-Net: average kurtosis is that of the published code, over every module it hooks, copies and the associations' "
          "probabilities included. The probabilities alone put the methods in their order, and do so before training: read it "
          "beside the kurtosis without them, and beside both before the first step.",
          out);
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        if (!is_series(r)) continue;
        char text[320], started[96] = "";
        int from = r->path_bytes > 60 ? r->path_bytes - 60 : 0;
        if (!isnan(r->start_kurtosis))
            snprintf(started, sizeof(started), "; before training %.3f, max inf norm %.3f", r->start_kurtosis, r->start_inf_norm);
        snprintf(text, sizeof(text), "%s%.*s: %.3f over %.0f modules, %.3f without probabilities, %.3f without copies and probabilities%s.",
                 from ? "..." : "", r->path_bytes - from, r->path + from, r->metric[OHT_REPORT_KURTOSIS], r->modules,
                 r->activation_kurtosis, r->clean_kurtosis, started);
        for (char *s = text; *s; s++)
            if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
        fputs(form == OHT_FORM_HTML ? "<br>\n" : form == OHT_FORM_MD ? "\n- " : "\n  ", out);
        if (form == OHT_FORM_HTML)
            oht_html_text(out, text);
        else
            fputs(text, out);
    }
    fputs(after[form], out);
}
