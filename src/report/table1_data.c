// Tables 1 and 2 for programs: one CSV record, or one JSON object, per number. Records: "value" a method's metric, "reduction" a
// pair's in percent, "paired" our difference over common seeds with its interval, "table2" a method's metric at a horizon;
// "average" a mean of reductions is left to the reader of CSV and written in JSON.
#include <math.h>
#include <string.h>

#include "report/programs.h"
#include "report/report.h"

// ---- one number ----

typedef struct record {
    const char *kind, *model, *method, *label; // label: of our group, NULL = none
    char metric[32];
    const double *paper, *paper_sd; // NULL = not in the paper
    double ours, ours_sd;
    int seeds;
    double low, high; // of a paired difference
    int64_t horizon;  // of Table 2; 0 elsewhere
} record;

typedef struct sink {
    json_t *list; // or
    FILE *csv;
} sink;

static void put(const sink *to, const record *r) {
    double paper = r->paper ? *r->paper : (double)NAN, sd = r->paper_sd ? *r->paper_sd : (double)NAN;
    double difference = 100.0 * (r->ours / paper - 1.0);
    if (strcmp(r->kind, "reduction") == 0) difference = (double)NAN;
    if (to->list) {
        json_t *o = json_object();
        json_object_set_new(o, "kind", json_string(r->kind));
        json_object_set_new(o, "model", json_string(r->model));
        json_object_set_new(o, "method", json_string(r->method));
        json_object_set_new(o, "metric", json_string(r->metric));
        json_object_set_new(o, "runs", r->label ? report_json_text(r->label, (int)strlen(r->label)) : json_null());
        json_object_set_new(o, "paper", oht_json_number(paper));
        json_object_set_new(o, "paper_std", oht_json_number(sd));
        json_object_set_new(o, "ours", oht_json_number(r->ours));
        json_object_set_new(o, "ours_std", oht_json_number(r->ours_sd));
        json_object_set_new(o, "seeds", json_integer(r->seeds));
        json_object_set_new(o, "difference_percent", oht_json_number(difference));
        json_object_set_new(o, "low", oht_json_number(r->low));
        json_object_set_new(o, "high", oht_json_number(r->high));
        json_object_set_new(o, "horizon", r->horizon ? json_integer(r->horizon) : json_null());
        json_array_append_new(to->list, o);
        return;
    }
    fprintf(to->csv, "%s,", r->kind);
    report_csv_text(to->csv, r->model, (int)strlen(r->model));
    fprintf(to->csv, "%s,%s,", r->method, r->metric);
    report_csv_text(to->csv, r->label ? r->label : "", r->label ? (int)strlen(r->label) : 0);
    const double value[] = {paper, sd, r->ours, r->ours_sd};
    for (int i = 0; i < 4; i++) report_csv_number(to->csv, value[i], ",");
    fprintf(to->csv, "%d,", r->seeds);
    report_csv_number(to->csv, difference, ",");
    report_csv_number(to->csv, r->low, ",");
    report_csv_number(to->csv, r->high, ",");
    report_csv_number(to->csv, r->horizon ? (double)r->horizon : (double)NAN, "\r\n");
}

// ---- all numbers ----

static record nothing_of_ours(const char *kind, const char *model, const char *method, int metric) {
    record r = {.kind = kind, .model = model, .method = method};
    r.ours = r.ours_sd = r.low = r.high = (double)NAN;
    if (metric == OHT_REPORT_KURTOSIS) strcpy(r.metric, "avg_kurtosis");
    else if (metric == OHT_REPORT_INF_NORM) strcpy(r.metric, "headline_inf_norm");
    else snprintf(r.metric, sizeof(r.metric), "%s%s", metric == OHT_REPORT_W8A8 ? "w8a8_" : "", oht_published_task_of(model)->name);
    return r;
}

static void put_group(const sink *to, const oht_report_group *g, const oht_published *p) {
    for (int m = 0; m < OHT_REPORT_METRICS; m++) {
        record r = nothing_of_ours("value", g->first->model->name, g->first->method, m);
        if (p) r.paper = &p->mean[m], r.paper_sd = &p->sd[m];
        if (!p && g->count[m] == 0) continue;
        r.label = g->label;
        r.ours = g->mean[m];
        r.ours_sd = g->sd[m];
        r.seeds = g->count[m];
        put(to, &r);
    }
}

static void put_values(const sink *to, const oht_report_table *t) {
    int n;
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i < n; i++) {
        bool ours = false;
        for (int k = 0; k < t->n_groups; k++) {
            const oht_report_run *first = t->group[k].first;
            if (strcmp(first->model->name, p[i].model) != 0 || strcmp(first->method, p[i].method) != 0)
                continue;
            put_group(to, &t->group[k], &p[i]);
            ours = true;
        }
        for (int m = 0; !ours && m < OHT_REPORT_METRICS; m++) {
            record r = nothing_of_ours("value", p[i].model, p[i].method, m);
            r.paper = &p[i].mean[m];
            r.paper_sd = &p[i].sd[m];
            put(to, &r);
        }
    }
    for (int k = 0; k < t->n_groups; k++)
        if (!oht_published_find(t->group[k].first->model->name, t->group[k].first->method))
            put_group(to, &t->group[k], NULL);
}

static void put_pairs(const sink *to, const oht_report_table *t) {
    int n;
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i + 1 < n; i += 2)
        for (int m = 0; m < 2; m++) {
            double paper = oht_report_reduction(p[i].mean[m], p[i + 1].mean[m]);
            record r = nothing_of_ours("reduction", p[i].model, p[i + 1].method, m);
            r.paper = &paper;
            bool ours = false;
            for (int k = 0; k < t->n_pairs; k++) {
                const oht_report_group *with = t->pair[k].with;
                if (strcmp(with->first->model->name, p[i].model) != 0 ||
                    strcmp(with->first->method, p[i + 1].method) != 0)
                    continue;
                r.label = with->label;
                r.ours = t->pair[k].reduction[m];
                r.seeds = with->count[m];
                put(to, &r);
                ours = true;
            }
            if (!ours) put(to, &r);
        }
    for (int k = 0; k < t->n_pairs; k++)
        for (int m = 0; m < OHT_REPORT_METRICS; m++) {
            const oht_report_pair *o = &t->pair[k];
            if (o->count[m] == 0) continue;
            record r = nothing_of_ours("paired", o->with->first->model->name, o->with->first->method, m);
            r.label = o->with->label;
            r.ours = o->difference[m];
            r.seeds = o->count[m];
            r.low = o->difference[m] - o->half[m];
            r.high = o->difference[m] + o->half[m];
            put(to, &r);
        }
}

static void put_table2(const sink *to, const oht_report_table *t) {
    oht_table2_row row;
    for (int i = 0; oht_table2_row_of(t, i, &row); i++) {
        const oht_report_group *g = row.ours;
        for (int m = 0; m < (g ? OHT_REPORT_W8A8 : OHT_REPORT_TASK); m++) { // the paper has no errors of forecasts here
            record r = nothing_of_ours("table2", "STanHop-Net", row.paper->method, m);
            r.horizon = row.paper->horizon;
            if (m < OHT_REPORT_TASK) r.paper = m == OHT_REPORT_KURTOSIS ? &row.paper->kurtosis : &row.paper->inf_norm;
            if (g) r.label = g->label, r.ours = g->mean[m], r.ours_sd = g->sd[m], r.seeds = g->count[m];
            put(to, &r);
        }
        const struct {
            const char *name;
            double mean;
        } more[] = {{"activation_kurtosis", row.activation_kurtosis}, {"start_kurtosis", row.start_kurtosis}};
        for (int k = 0; k < 2 && g; k++) {
            record r = nothing_of_ours("table2", "STanHop-Net", row.paper->method, OHT_REPORT_KURTOSIS);
            strcpy(r.metric, more[k].name);
            r.horizon = row.paper->horizon;
            r.label = g->label, r.ours = more[k].mean, r.seeds = g->n;
            put(to, &r);
        }
    }
}

oht_status oht_table1_csv(const oht_report_table *t, FILE *out) {
    const sink to = {.csv = out};
    fputs("kind,model,method,metric,runs,paper,paper_std,ours,ours_std,seeds,difference_percent,low,high,horizon\r\n", out);
    put_values(&to, t);
    put_pairs(&to, t);
    put_table2(&to, t);
    return OHT_OK;
}

// Mean over pairs of the reductions of ours (label set) or of the paper's rows `first` ... of all models.
static json_t *averages(const oht_report_table *t) {
    double sum[3][2] = {{0}};
    int n, count[3] = {0};
    const oht_published *p = oht_published_rows(&n);
    for (int i = 0; i + 1 < n; i += 2) {
        bool doubtful = strcmp(p[i].model, "OPT") == 0 && strcmp(p[i].method, oht_report_base[1]) == 0;
        for (int m = 0; m < 2; m++) {
            double r = oht_report_reduction(p[i].mean[m], p[i + 1].mean[m]);
            sum[0][m] += r;
            if (!doubtful) sum[1][m] += r;
        }
        count[0]++;
        count[1] += !doubtful;
    }
    for (int k = 0; k < t->n_pairs; k++) {
        const double *r = t->pair[k].reduction;
        if (isnan(r[0]) || isnan(r[1])) continue;
        sum[2][0] += r[0];
        sum[2][1] += r[1];
        count[2]++;
    }
    static const char *const name[] = {"paper", "paper_without_opt_clipped", "ours"};
    json_t *o = json_object();
    for (int i = 0; i < 3; i++)
        json_object_set_new(o, name[i],
                            json_pack("{s:i, s:o, s:o}", "pairs", count[i], "avg_kurtosis",
                                      oht_json_number(sum[i][0] / count[i]), "headline_inf_norm",
                                      oht_json_number(sum[i][1] / count[i])));
    return o;
}

oht_status oht_table1_json(const oht_report_table *t, FILE *out) {
    json_t *root = json_object();
    const sink to = {.list = json_array()};
    put_values(&to, t);
    put_pairs(&to, t);
    put_table2(&to, t);
    json_object_set_new(root, "source", json_string("Hu et al., ICML 2024, PMLR 235:19123, Tables 1 and 2"));
    json_object_set_new(root, "numbers", to.list);
    json_object_set_new(root, "average_reduction_percent", averages(t));
    return report_json_end(root, t, out);
}
