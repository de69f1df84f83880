// The list of ohtrain report, one row a run, as aligned text, Markdown, CSV (RFC 4180) and JSON.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "report/programs.h"
#include "report/report.h"

enum { COLUMNS = 9, CELL = OHT_PATH + 64, SHOWN = OHT_REPORT_W8A8 }; // metrics shown: those every run has
enum { FIRST_METRIC = 3, QUANTIZED = FIRST_METRIC + OHT_REPORT_W8A8 };

static const char *const TITLES[COLUMNS] = {"run",        "model",           "method", "avg kurtosis", "max inf norm",
                                            "perplexity", "W8A8 perplexity", "params", "steps"};
static const char *const METRIC_NAMES[SHOWN] = {"avg_kurtosis", "headline_inf_norm", "perplexity"};
enum { RESULT = SHOWN - 1 };

static const char *title(const oht_report_table *t, int column, char out[64]) {
    const bool quantized = column == QUANTIZED;
    if (column != FIRST_METRIC + RESULT && !quantized) return TITLES[column];
    const char *result = t->run[0].model->title;
    for (int i = 1; i < t->n_runs; i++)
        if (strcmp(t->run[i].model->title, result) != 0) result = "result";
    snprintf(out, 64, "%s%s", quantized ? "W8A8 " : "", result);
    return out;
}

// The quantized result has a column where a run has one.
static bool has_column(const oht_report_table *t, int column) {
    for (int i = 0; i < t->n_runs; i++)
        if (column != QUANTIZED || !isnan(t->run[i].metric[OHT_REPORT_W8A8])) return true;
    return false;
}

static const char *metric_name(const oht_report_run *r, int metric) {
    return metric == RESULT ? r->model->task : METRIC_NAMES[metric];
}

// The result under its own name only: NAN for other tasks.
static double result_of(const oht_report_run *r, const char *task, double value) {
    return strcmp(r->model->task, task) == 0 ? value : (double)NAN;
}

// Percent of the first run of the same model; NAN where there is nothing to compare.
static double change(const oht_report_table *t, const oht_report_run *r, int metric) {
    const oht_report_run *first = t->run;
    while (first->model != r->model) first++;
    double base = first->metric[metric];
    return r == first || base == 0 || !isfinite(base) ? (double)NAN
                                                       : 100.0 * (r->metric[metric] - base) / base;
}

static const char *gate_of(const oht_report_run *r, char *out) {
    oht_key_get(&r->cfg, oht_key_find("model.gate"), out);
    return out;
}

static void metric_cell(const oht_report_table *t, const oht_report_run *r, int metric, char *out) {
    double percent = change(t, r, metric);
    char number[32];
    if (metric == OHT_REPORT_W8A8 && isnan(r->metric[metric])) {
        snprintf(out, CELL, "-"); // not evaluated
        return;
    }
    int n = snprintf(out, CELL, "%s", oht_report_number(r->metric[metric], number));
    if (isfinite(percent)) snprintf(out + n, CELL - (size_t)n, fabs(percent) < 1e6 ? " (%+.1f %%)" : " (%+.3g %%)", percent);
}

// One cell for people; control characters in a path become '?'.
static void cell(const oht_report_table *t, const oht_report_run *r, int column, char out[CELL]) {
    char gate[OHT_KEY_TEXT_MAX];
    const oht_model_config *m = &r->cfg.model;
    switch (column) {
    case 0:
        snprintf(out, CELL, "%.*s", r->path_bytes, r->path);
        break;
    case 1:
        snprintf(out, CELL, "%s", r->model->name);
        break;
    case 2: {
        char alpha[48] = "";
        if (m->alpha != 0) snprintf(alpha, sizeof(alpha), " alpha %g", m->alpha);
        bool gated = m->gate != OHT_GATE_NONE;
        snprintf(out, CELL, "%s [%s%s%s%.40s]", r->method, m->attention, alpha, gated ? " + " : "",
                 gated ? gate_of(r, gate) : "");
        break;
    }
    case 3:
    case 4:
    case 5:
    case QUANTIZED:
        metric_cell(t, r, column - FIRST_METRIC, out);
        break;
    case 7:
        snprintf(out, CELL, "%" PRId64, r->params);
        break;
    default:
        if (r->steps == 0)
            snprintf(out, CELL, "%" PRId64 " so far", r->step);
        else if (r->step < r->steps)
            snprintf(out, CELL, "%" PRId64 " of %" PRId64, r->step, r->steps);
        else
            snprintf(out, CELL, "%" PRId64, r->step);
    }
    for (char *s = out; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
}

// Characters of UTF-8 text.
static int columns_of(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void print_padded(FILE *out, const char *text, int width, bool right) {
    int pad = width - columns_of(text);
    fprintf(out, "%*s%s%*s", right ? pad : 0, "", text, right ? 0 : pad, "");
}

oht_status oht_report_text(const oht_report_table *t, FILE *out) {
    char text[CELL], name[64];
    int width[COLUMNS];
    if (t->n_runs == 0) return OHT_OK;
    for (int c = 0; c < COLUMNS; c++) {
        width[c] = columns_of(title(t, c, name));
        for (int i = 0; i < t->n_runs; i++) {
            cell(t, &t->run[i], c, text);
            if (columns_of(text) > width[c]) width[c] = columns_of(text);
        }
    }
    for (int i = -1; i < t->n_runs; i++) {
        for (int c = 0; c < COLUMNS; c++) {
            if (!has_column(t, c)) continue;
            if (i >= 0) cell(t, &t->run[i], c, text);
            if (c > 0) fputs("  ", out);
            print_padded(out, i < 0 ? title(t, c, name) : text, width[c], c >= FIRST_METRIC);
        }
        fputc('\n', out);
    }
    fputs("\nlargest activation:\n", out);
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_tap *l = &t->run[i].tap[t->run[i].largest];
        cell(t, &t->run[i], 0, text);
        fputs("  ", out);
        print_padded(out, text, width[0], false);
        char number[32];
        fprintf(out, "  %s in %s: sample %" PRId64 ", token %" PRId64 ", channel %" PRId64 "\n",
                oht_report_number(l->inf_max, number), l->name, l->sample, l->token, l->channel);
    }
    oht_report_series_note(t, OHT_FORM_TEXT, out);
    return OHT_OK;
}

static void print_markdown_cell(FILE *out, const char *text) {
    fputs("| ", out);
    for (; *text; text++) {
        if (*text == '|' || *text == '\\') fputc('\\', out);
        fputc(*text, out);
    }
    fputc(' ', out);
}

oht_status oht_report_markdown(const oht_report_table *t, FILE *out) {
    char text[CELL], name[64];
    if (t->n_runs == 0) return OHT_OK;
    for (int c = 0; c < COLUMNS; c++)
        if (has_column(t, c)) print_markdown_cell(out, title(t, c, name));
    fputs("|\n", out);
    for (int c = 0; c < COLUMNS; c++)
        if (has_column(t, c)) fputs(c < FIRST_METRIC ? "|---" : "|---:", out);
    fputs("|\n", out);
    for (int i = 0; i < t->n_runs; i++) {
        for (int c = 0; c < COLUMNS; c++) {
            if (!has_column(t, c)) continue;
            cell(t, &t->run[i], c, text);
            print_markdown_cell(out, text);
        }
        fputs("|\n", out);
    }
    oht_report_series_note(t, OHT_FORM_MD, out);
    return OHT_OK;
}

oht_status oht_report_csv(const oht_report_table *t, FILE *out) {
    fputs("run,model,method,attention,gate,alpha,avg_kurtosis,headline_inf_norm,perplexity,avg_kurtosis_"
          "change_percent,"
          "headline_inf_norm_change_percent,perplexity_change_percent,loss,max_inf_norm,max_ffn_inf_norm,max_"
          "layer_inf_norm,max_kurtosis,params,"
          "step,steps,top1,top1_change_percent,w8a8,w8a8_change_percent\r\n",
          out);
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        char gate[OHT_KEY_TEXT_MAX];
        report_csv_text(out, r->path, r->path_bytes);
        report_csv_text(out, r->model->name, (int)strlen(r->model->name));
        fprintf(out, "%s,", r->method);
        report_csv_text(out, r->cfg.model.attention, (int)strlen(r->cfg.model.attention));
        fprintf(out, "%s,%.9g,", gate_of(r, gate), r->cfg.model.alpha);
        const double result = r->metric[RESULT], changed = change(t, r, RESULT);
        for (int m = 0; m < RESULT; m++) report_csv_number(out, r->metric[m], ",");
        report_csv_number(out, result_of(r, "perplexity", result), ",");
        for (int m = 0; m < RESULT; m++) report_csv_number(out, change(t, r, m), ",");
        report_csv_number(out, result_of(r, "perplexity", changed), ",");
        report_csv_number(out, r->loss, ",");
        report_csv_number(out, r->max_inf_norm, ",");
        report_csv_number(out, r->max_ffn_inf_norm, ",");
        report_csv_number(out, r->max_layer_inf_norm, ",");
        report_csv_number(out, r->max_kurtosis, ",");
        fprintf(out, "%" PRId64 ",%" PRId64 ",", r->params, r->step);
        if (r->steps > 0) fprintf(out, "%" PRId64, r->steps);
        fputc(',', out);
        report_csv_number(out, result_of(r, "top1", result), ",");
        report_csv_number(out, result_of(r, "top1", changed), ",");
        report_csv_number(out, r->metric[OHT_REPORT_W8A8], ",");
        report_csv_number(out, change(t, r, OHT_REPORT_W8A8), "\r\n");
    }
    return OHT_OK;
}

static json_t *run_object(const oht_report_table *t, const oht_report_run *r) {
    char gate[OHT_KEY_TEXT_MAX];
    const oht_report_tap *l = &r->tap[r->largest];
    json_t *o = json_object(), *percent = json_object();
    json_object_set_new(o, "run", report_json_text(r->path, r->path_bytes));
    json_object_set_new(o, "model", json_string(r->model->name));
    json_object_set_new(o, "method", json_string(r->method));
    json_object_set_new(o, "attention", json_string(r->cfg.model.attention));
    json_object_set_new(o, "alpha", json_real(r->cfg.model.alpha));
    json_object_set_new(o, "gate", json_string(gate_of(r, gate)));
    json_object_set_new(o, "params", json_integer(r->params));
    json_object_set_new(o, "step", json_integer(r->step));
    json_object_set_new(o, "steps", r->steps > 0 ? json_integer(r->steps) : json_null());
    json_object_set_new(o, "sequences", json_integer(r->sequences));
    json_object_set_new(o, "loss", oht_json_number(r->loss));
    for (int m = 0; m < SHOWN; m++)
        json_object_set_new(o, metric_name(r, m), oht_json_number(r->metric[m]));
    json_object_set_new(o, "w8a8", oht_json_number(r->metric[OHT_REPORT_W8A8]));
    json_object_set_new(o, "max_inf_norm", oht_json_number(r->max_inf_norm));
    json_object_set_new(o, "max_ffn_inf_norm", oht_json_number(r->max_ffn_inf_norm));
    json_object_set_new(o, "max_layer_inf_norm", oht_json_number(r->max_layer_inf_norm));
    json_object_set_new(o, "max_kurtosis", oht_json_number(r->max_kurtosis));
    if (r->cfg.model.type == OHT_MODEL_STANHOP) {
        json_object_set_new(o, "modules", oht_json_number(r->modules));
        json_object_set_new(o, "activation_kurtosis", oht_json_number(r->activation_kurtosis));
        json_object_set_new(o, "clean_kurtosis", oht_json_number(r->clean_kurtosis));
        json_object_set_new(o, "start_kurtosis", oht_json_number(r->start_kurtosis));
        json_object_set_new(o, "start_inf_norm", oht_json_number(r->start_inf_norm));
    }
    for (int m = 0; m < SHOWN; m++)
        json_object_set_new(percent, metric_name(r, m), oht_json_number(change(t, r, m)));
    json_object_set_new(percent, "w8a8", oht_json_number(change(t, r, OHT_REPORT_W8A8)));
    json_object_set_new(o, "change_percent", percent);
    json_object_set_new(o, "largest",
                        json_pack("{s:s, s:o, s:I, s:I, s:I}", "tap", l->name, "value", oht_json_number(l->inf_max), "sample", (json_int_t)l->sample,
                                  "token", (json_int_t)l->token, "channel", (json_int_t)l->channel));
    return o;
}

oht_status oht_report_json(const oht_report_table *t, FILE *out) {
    json_t *root = json_object(), *runs = json_array();
    for (int i = 0; i < t->n_runs; i++) json_array_append_new(runs, run_object(t, &t->run[i]));
    json_object_set_new(root, "runs", runs);
    return report_json_end(root, t, out);
}
