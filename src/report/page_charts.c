// The charts of one model's runs: method comparison, training loss, infinity norm over steps (the paper's Figures 2 and 3), by
// component (Figure 4), heat maps over layer and tensor, heads, quantization. Runs are lines, groups of seeds bars and maps.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/memory.h"
#include "report/grid.h"
#include "report/page.h"
#include "report/svg.h"

// ---- looks ----

const char *oht_page_colour(const oht_report_table *t, const oht_report_run *r) {
    static const struct {
        const char *method, *colour;
    } known[] = {{"Vanilla", "#5b6770"},           {"OutEffHop", "#0b6bb5"},       {"Clipped_Softmax", "#e39a2d"},
                 {"Clipped_OutEffHop", "#b04a12"}, {"Gated_Attention", "#79b56b"}, {"Gated_OutEffHop", "#17692f"}};
    static const char *const more[] = {"#8a3ea6", "#c2287e", "#0f8f8a", "#7a6a1a", "#4452c7", "#d1495b", "#3a3a3a", "#996633"};
    int extra = 0;
    for (int i = 0; i < t->n_groups; i++) { // a second group of a method gets another colour
        const oht_report_group *g = &t->group[i];
        bool first = true, mine = false;
        if (g->first->model != r->model) continue;
        for (int k = 0; k < i; k++) first &= t->group[k].first->model != r->model || strcmp(t->group[k].first->method, g->first->method) != 0;
        for (int k = 0; k < g->n; k++) mine |= &t->run[g->member[k]] == r;
        int j = 0;
        while (j < 6 && strcmp(known[j].method, g->first->method) != 0) j++;
        bool plain = first && j < 6;
        if (mine) return plain ? known[j].colour : more[extra % 8];
        extra += !plain;
    }
    for (int j = 0; j < 6; j++) // unfinished
        if (strcmp(known[j].method, r->method) == 0) return known[j].colour;
    return more[7];
}

bool oht_page_dashed(const oht_report_run *r) {
    return strstr(r->method, "OutEffHop") == NULL;
}

// Layer k of the paper's 12 in a model of L, counted from 0; STanHop-Net: of the decoder's.
static int scaled_layer(const oht_report_run *r, int k) {
    const bool series = r->cfg.model.type == OHT_MODEL_STANHOP;
    int64_t first = series ? r->cfg.model.layers : 0, L = r->blocks - first, l = (k * L + 6) / 12;
    return (int)(first + (l < L ? l : L - 1));
}

static int find_tap(const oht_report_run *r, int layer, const char *part) {
    for (int k = 0; k < r->n_taps; k++)
        if (r->tap[k].layer == layer && strcmp(r->tap[k].part, part) == 0) return k;
    return -1;
}

static const oht_report_run *first_run(const oht_report_table *t, const oht_report_model *model) {
    int i = 0;
    while (t->run[i].model != model) i++;
    return &t->run[i];
}

// ---- curves ----

// The paper's columns.
static int family(const oht_report_run *r) {
    return strncmp(r->method, "Gated_", 6) == 0 ? 2 : strncmp(r->method, "Clipped_", 8) == 0 ? 1 : strstr(r->method, "max") ? 3 : 0;
}

static int collect_loss(const oht_report_table *t, const oht_report_model *model, oht_svg_chart *c, oht_svg_line *line) {
    int n = 0;
    oht_svg_range(c);
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        if (r->model != model) continue;
        line[n++] = (oht_svg_line){r->curves.n_loss, 1, r->curves.loss_step, r->curves.loss, oht_page_colour(t, r), oht_page_dashed(r)};
        for (int k = 0; k < r->curves.n_loss; k++) oht_svg_include(c, (double)r->curves.loss[k]);
    }
    oht_svg_settle(c, false);
    return n;
}

// Lines of a tap over steps; which: family, -1 = all. layer: of the paper's 12.
static int collect_tap(const oht_report_table *t, const oht_report_model *model, int which, int layer, const char *part, oht_svg_chart *c,
                       oht_svg_line *line) {
    int n = 0;
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        if (r->model != model || (which >= 0 && family(r) != which)) continue;
        int k = find_tap(r, scaled_layer(r, layer), part);
        if (k < 0) continue;
        line[n++] = (oht_svg_line){r->curves.n_activation, r->n_taps, r->curves.step, r->curves.inf_mean + k, oht_page_colour(t, r), oht_page_dashed(r)};
        for (int j = 0; j < r->curves.n_activation; j++) oht_svg_include(c, (double)r->curves.inf_mean[(size_t)j * (size_t)r->n_taps + (size_t)k]);
    }
    return n;
}

static void draw_families(const oht_report_table *t, const oht_report_model *model, oht_svg_line *line, FILE *out) {
    static const char *const name[] = {"softmax and softmax_1", "clipped", "gated", "entmax and sparsemax"};
    const oht_report_run *r = first_run(t, model);
    oht_svg_chart all = {.x = "optimizer step", .width = 390, .height = 270};
    char title[96], y[64];
    fprintf(out, "<h3>Infinity norm over steps (Figure 2)</h3>\n<p class=\"note\">%s of layer %d (counted from 0), mean over rows of the row's largest |x|, in training.</p>\n<div class=\"row\">\n",
            model->headline_tap, scaled_layer(r, 10));
    oht_svg_range(&all);
    collect_tap(t, model, -1, 10, model->headline_tap, &all, line);
    oht_svg_settle(&all, true);
    for (int f = 0; f < 4; f++) {
        oht_svg_chart c = all, unused = all;
        int n = collect_tap(t, model, f, 10, model->headline_tap, &unused, line);
        if (n == 0) continue;
        snprintf(title, sizeof(title), "%s: %s", model->name, name[f]);
        snprintf(y, sizeof(y), "inf norm of %s", model->headline_tap);
        c.title = title;
        c.y = y;
        oht_svg_lines(out, &c, line, n);
    }
    fputs("</div>\n", out);
}

static void draw_depth(const oht_report_table *t, const oht_report_model *model, oht_svg_line *line, FILE *out) {
    static const int paper[4] = {3, 6, 9, 10};
    const oht_report_run *r = first_run(t, model);
    oht_svg_chart all = {.x = "optimizer step", .y = "inf norm of ffn.out", .width = 390, .height = 250};
    char title[96];
    fputs("<h3>Feed-forward output by depth (Figure 3)</h3>\n<div class=\"row\">\n", out);
    oht_svg_range(&all);
    for (int i = 0; i < 4; i++) collect_tap(t, model, -1, paper[i], "ffn.out", &all, line);
    oht_svg_settle(&all, true);
    for (int i = 0; i < 4; i++) {
        oht_svg_chart c = all, unused = all;
        if (i > 0 && scaled_layer(r, paper[i]) == scaled_layer(r, paper[i - 1])) continue;
        int n = collect_tap(t, model, -1, paper[i], "ffn.out", &unused, line);
        if (n == 0) continue;
        snprintf(title, sizeof(title), "%s: ffn.out of layer %d", model->name, scaled_layer(r, paper[i]));
        c.title = title;
        oht_svg_lines(out, &c, line, n);
    }
    fputs("</div>\n", out);
}

static oht_status curves(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    oht_svg_line *line;
    OHT_TRY(OHT_ALLOC(&line, (size_t)t->n_runs, "lines of a chart"));
    oht_svg_chart c = {.title = "Training loss", .x = "optimizer step", .y = "training loss, nats a token", .width = 790, .height = 320};
    fputs("<h3>Training loss over steps</h3>\n", out);
    int n = collect_loss(t, model, &c, line);
    oht_svg_lines(out, &c, line, n);
    draw_families(t, model, line, out);
    draw_depth(t, model, line, out);
    oht_free(line);
    return OHT_OK;
}

// ---- bars ----

static void draw_metric(const oht_report_table *t, const oht_report_model *model, int metric, oht_svg_bar *bar, FILE *out) {
    static const char *const name[] = {"Average kurtosis", "Maximum infinity norm", "Result in full precision", "Result under W8A8"};
    oht_svg_chart c = {.title = name[metric], .x = metric >= OHT_REPORT_TASK ? model->title : name[metric]};
    int n = 0, measured = 0;
    oht_svg_range(&c);
    for (int i = 0; i < t->n_groups; i++) {
        const oht_report_group *g = &t->group[i];
        if (g->first->model != model) continue;
        const oht_published *p = oht_published_find(model->name, g->first->method);
        bar[n] = (oht_svg_bar){.colour = oht_page_colour(t, g->first), .value = g->mean[metric], .sd = g->sd[metric], .mark = p ? p->mean[metric] : (double)NAN};
        snprintf(bar[n].label, sizeof(bar[n].label), "%s", g->label);
        oht_svg_include(&c, bar[n].value);
        oht_svg_include(&c, bar[n].mark);
        measured += g->count[metric];
        n++;
    }
    oht_svg_settle(&c, true);
    if (measured > 0) oht_svg_bars(out, &c, bar, n);
}

// Figure 4: tensors of one layer, one bar a group.
static int fill_components(const oht_report_table *t, const oht_report_model *model, oht_svg_chart *c, oht_svg_bar *bar, double *value) {
    const oht_report_run *first = first_run(t, model);
    int layer = scaled_layer(first, 10), n = 0;
    for (int k = 0; k < first->n_taps; k++) {
        if (first->tap[k].layer != layer) continue;
        int start = n;
        for (int i = 0; i < t->n_groups; i++) {
            const oht_report_group *g = &t->group[i];
            int m = 0;
            double sum = 0, square = 0;
            if (g->first->model != model) continue;
            for (int j = 0; j < g->n; j++) {
                const oht_report_run *r = &t->run[g->member[j]];
                int tap = find_tap(r, scaled_layer(r, 10), first->tap[k].part);
                if (tap >= 0 && isfinite(r->tap[tap].inf_mean)) sum += value[m++] = r->tap[tap].inf_mean;
            }
            for (int j = 0; j < m; j++) square += (value[j] - sum / m) * (value[j] - sum / m);
            bar[n++] = (oht_svg_bar){.colour = oht_page_colour(t, g->first), .gap = n > start && i == 0, .value = m > 0 ? sum / m : (double)NAN,
                                     .sd = m > 1 ? sqrt(square / (m - 1)) : (double)NAN, .mark = (double)NAN};
            oht_svg_include(c, bar[n - 1].value);
        }
        if (n == start) continue;
        bar[start].gap = start > 0;
        snprintf(bar[start + (n - start) / 2].label, sizeof(bar->label), "%s", first->tap[k].part);
    }
    return n;
}

static oht_status bars(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    oht_svg_bar *bar = NULL;
    double *value = NULL;
    const oht_report_run *first = first_run(t, model);
    char title[96];
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&bar, (size_t)t->n_groups * (size_t)first->n_taps, "bars of a chart"), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&value, (size_t)t->n_runs, "values of runs"), done);
    fputs("<h3>Methods compared</h3>\n<p class=\"note\">Bars: mean over seeds, with the deviation. Diamonds: the paper's Table 1.</p>\n<div class=\"row\">\n", out);
    for (int m = 0; m < OHT_REPORT_METRICS; m++) draw_metric(t, model, m, bar, out);
    fputs("</div>\n<h3>By component (Figure 4)</h3>\n", out);
    snprintf(title, sizeof(title), "%s: tensors of layer %d, last evaluation", model->name, scaled_layer(first, 10));
    oht_svg_chart c = {.title = title, .x = "inf norm, mean over rows"};
    oht_svg_range(&c);
    int n = fill_components(t, model, &c, bar, value);
    oht_svg_settle(&c, true);
    oht_svg_bars(out, &c, bar, n);
done:
    oht_free(bar);
    oht_free(value);
    return status;
}

// ---- heat maps ----

// Rows and columns of a map: layers, and the parts a layer has, in the order of the first run.
typedef struct map {
    int rows, columns;
    double *value; // (rows, columns)
    const char **row, **column;
    char (*number)[12];
} map;

static void free_map(map *m) {
    oht_free(m->value);
    oht_free(m->row);
    oht_free(m->column);
    oht_free(m->number);
}

static oht_status make_map(map *m, int rows, int columns) {
    *m = (map){.rows = rows, .columns = columns};
    int n = rows > columns ? rows : columns;
    oht_status status = OHT_ALLOC(&m->value, (size_t)rows * (size_t)columns, "heat map");
    if (status == OHT_OK) status = OHT_ALLOC(&m->row, (size_t)rows, "heat map");
    if (status == OHT_OK) status = OHT_ALLOC(&m->column, (size_t)columns, "heat map");
    if (status == OHT_OK) status = OHT_ALLOC(&m->number, (size_t)n, "heat map");
    for (int i = 0; status == OHT_OK && i < n; i++) snprintf(m->number[i], sizeof(m->number[i]), "%d", i);
    for (int i = 0; status == OHT_OK && i < rows; i++) m->row[i] = m->number[i];
    for (int i = 0; status == OHT_OK && i < columns; i++) m->column[i] = m->number[i];
    if (status != OHT_OK) free_map(m);
    return status;
}

static oht_svg_heat heat_of(const map *m) {
    return (oht_svg_heat){m->rows, m->columns, m->value, m->row, m->column};
}

static int list_parts(const oht_report_run *r, const char **out) {
    int n = 0;
    for (int k = 0; k < r->n_taps; k++) {
        bool known = r->tap[k].layer < 0;
        for (int i = 0; i < n && !known; i++) known = strcmp(out[i], r->tap[k].part) == 0;
        if (!known) out[n++] = r->tap[k].part;
    }
    return n;
}

static double tap_value(const oht_report_run *r, int tap, bool kurtosis) {
    return tap < 0 ? (double)NAN : kurtosis ? r->tap[tap].kurtosis : r->tap[tap].inf_mean;
}

// Mean over seeds.
static void fill_taps(const oht_report_table *t, const oht_report_group *g, bool kurtosis, map *m, oht_svg_chart *c) {
    for (int l = 0; l < m->rows; l++)
        for (int k = 0; k < m->columns; k++) {
            double sum = 0;
            for (int j = 0; j < g->n; j++) {
                const oht_report_run *r = &t->run[g->member[j]];
                sum += tap_value(r, find_tap(r, l, m->column[k]), kurtosis);
            }
            m->value[l * m->columns + k] = sum / g->n;
            oht_svg_include(c, m->value[l * m->columns + k]);
        }
}

static oht_status layers_map(const oht_report_run *r, map *m) {
    const char **part;
    OHT_TRY(OHT_ALLOC(&part, (size_t)r->n_taps, "names of tensors"));
    int n = list_parts(r, part);
    oht_status status = make_map(m, r->blocks, n > 0 ? n : 1);
    for (int k = 0; status == OHT_OK && k < n; k++) m->column[k] = part[k];
    if (status == OHT_OK && n == 0) m->column[0] = "-";
    oht_free(part);
    return status;
}

static oht_status tap_maps(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    static const char *const what[2] = {"infinity norm, mean over rows", "kurtosis, mean over rows"};
    fputs("<h3>Layers and tensors</h3>\n<p class=\"note\">Last evaluation, mean over seeds; one colour scale for all methods.</p>\n<div class=\"row\">\n", out);
    for (int kurtosis = 0; kurtosis < 2; kurtosis++) {
        oht_svg_chart all = {.x = "tensor", .y = what[kurtosis]};
        oht_svg_range(&all);
        for (int pass = 0; pass < 2; pass++) { // range first
            for (int i = 0; i < t->n_groups; i++) {
                const oht_report_group *g = &t->group[i];
                char title[160];
                map m;
                if (g->first->model != model) continue;
                OHT_TRY(layers_map(g->first, &m));
                oht_svg_chart c = all;
                fill_taps(t, g, kurtosis, &m, pass == 0 ? &all : &c);
                snprintf(title, sizeof(title), "%s: %s by layer", g->label, kurtosis ? "kurtosis" : "inf norm");
                c = all;
                c.title = title;
                const oht_svg_heat heat = heat_of(&m);
                if (pass == 1) oht_svg_heatmap(out, &c, &heat);
                free_map(&m);
            }
            if (pass == 0) oht_svg_settle(&all, false);
        }
        if (kurtosis == 0) fputs("</div>\n<div class=\"row\">\n", out);
    }
    fputs("</div>\n", out);
    return OHT_OK;
}

// Null mass or gates, mean over seeds, on a scale from 0 to 1.
static oht_status head_map(const oht_report_table *t, const oht_report_group *g, bool gate, FILE *out) {
    map m;
    char title[160];
    OHT_TRY(make_map(&m, g->first->layers, g->first->heads));
    for (int i = 0; i < m.rows * m.columns; i++)
        for (int j = 0; j < g->n; j++) {
            const oht_report_run *r = &t->run[g->member[j]];
            m.value[i] += (gate ? r->gate_mean : r->null_mass)[i] / g->n;
        }
    snprintf(title, sizeof(title), "%s: %s", g->label, gate ? "mean gate" : "null mass");
    oht_svg_chart c = {.title = title, .x = "head", .y = gate ? "mean gate value" : "mean share of attention that goes to no key", .lo = 0, .hi = 1};
    const oht_svg_heat heat = heat_of(&m);
    oht_svg_heatmap(out, &c, &heat);
    free_map(&m);
    return OHT_OK;
}

static bool group_has(const oht_report_table *t, const oht_report_group *g, bool gate) {
    for (int j = 0; j < g->n; j++)
        if (!(gate ? t->run[g->member[j]].gate_mean : t->run[g->member[j]].null_mass)) return false;
    return true;
}

static oht_status heads(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    bool any = false;
    for (int gate = 0; gate < 2; gate++)
        for (int i = 0; i < t->n_groups; i++) {
            if (t->group[i].first->model != model || !group_has(t, &t->group[i], gate)) continue;
            if (!any) fputs("<h3>Heads</h3>\n<p class=\"note\">Layer by head, last evaluation, mean over seeds.</p>\n<div class=\"row\">\n", out);
            any = true;
            OHT_TRY(head_map(t, &t->group[i], gate, out));
        }
    if (any) fputs("</div>\n", out);
    return OHT_OK;
}

// ---- quantization ----

static int list_site_parts(const oht_report_site *site, int n, const char **out) {
    int parts = 0;
    for (int k = 0; k < n; k++) {
        bool known = site[k].layer < 0;
        for (int i = 0; i < parts && !known; i++) known = strcmp(out[i], site[k].part) == 0;
        if (!known) out[parts++] = site[k].part;
    }
    return parts;
}

static oht_status site_map(const oht_report_run *r, int weights, FILE *out) {
    const oht_report_site *site = r->quant.site[weights];
    int n = r->quant.n_sites[weights];
    const char **part;
    char title[200];
    map m;
    OHT_TRY(OHT_ALLOC(&part, (size_t)n, "names of sites"));
    int parts = list_site_parts(site, n, part);
    oht_status status = parts > 0 ? make_map(&m, r->blocks, parts) : OHT_OK;
    if (status == OHT_OK && parts > 0) {
        snprintf(title, sizeof(title), "%s, seed %lld, %s: %s", r->method, (long long)r->cfg.train.seed, r->quant.name,
                 weights ? "weights" : "activations");
        oht_svg_chart c = {.title = title, .x = "quantized tensor", .y = "signal to quantization noise, dB (low = costly)"};
        oht_svg_range(&c);
        for (int i = 0; i < m.rows * m.columns; i++) m.value[i] = (double)NAN;
        for (int k = 0; k < parts; k++) m.column[k] = part[k];
        for (int k = 0; k < n; k++)
            for (int i = 0; i < parts; i++) {
                if (site[k].layer < 0 || site[k].layer >= m.rows || strcmp(part[i], site[k].part) != 0) continue;
                m.value[site[k].layer * parts + i] = isfinite(site[k].sqnr_db) ? site[k].sqnr_db : (double)NAN;
                oht_svg_include(&c, site[k].sqnr_db);
            }
        if (c.lo == c.hi) c.hi = c.lo + 1;
        const oht_svg_heat heat = heat_of(&m);
        oht_svg_heatmap(out, &c, &heat);
        free_map(&m);
    }
    oht_free(part);
    return status;
}

enum { RANKS = 12 }; // groups of sites shown, the most costly

static oht_status ranking(const oht_report_table *t, const oht_report_run *r, FILE *out) {
    const oht_report_quant *q = &r->quant;
    oht_svg_bar bar[RANKS];
    char title[200];
    int n = q->n_ranks < RANKS ? q->n_ranks : RANKS;
    snprintf(title, sizeof(title), "%s, seed %lld, %s: one %s exact", r->method, (long long)r->cfg.train.seed, q->name,
             q->level);
    oht_svg_chart c = {.title = title, .x = "loss recovered, nats a token"};
    oht_svg_range(&c);
    for (int i = 0; i < n; i++) {
        bar[i] = (oht_svg_bar){.colour = oht_page_colour(t, r), .value = q->rank[i].recovered, .sd = (double)NAN, .mark = (double)NAN};
        snprintf(bar[i].label, sizeof(bar[i].label), "%s", q->rank[i].name);
        oht_svg_include(&c, bar[i].value);
    }
    oht_svg_settle(&c, true);
    c.log = false;
    c.lo = 0; // a group whose noise helps by chance shows its number alone
    if (!(c.hi > 0)) c.hi = 1;
    if (n > 0) oht_svg_bars(out, &c, bar, n);
    return OHT_OK;
}

static oht_status quantization(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    bool any = false;
    for (int i = 0; i < t->n_groups; i++) { // the first seed of each group that has it
        const oht_report_group *g = &t->group[i];
        const oht_report_run *r = NULL;
        if (g->first->model != model) continue;
        for (int j = 0; j < g->n && !r; j++)
            if (t->run[g->member[j]].quant.name[0]) r = &t->run[g->member[j]];
        if (!r) continue;
        if (!any) fputs("<h3>Quantization</h3>\n<p class=\"note\">Last evaluation of the first seed with W8A8, or with other widths where it has no W8A8.</p>\n", out);
        any = true;
        fputs("<div class=\"row\">\n", out);
        for (int w = 0; w < 2; w++) OHT_TRY(site_map(r, w, out));
        OHT_TRY(ranking(t, r, out));
        fputs("</div>\n", out);
    }
    return OHT_OK;
}

oht_status oht_page_charts(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    OHT_TRY(bars(t, model, out));
    OHT_TRY(curves(t, model, out));
    OHT_TRY(tap_maps(t, model, out));
    OHT_TRY(heads(t, model, out));
    return quantization(t, model, out);
}
