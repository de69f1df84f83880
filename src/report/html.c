// The page of ohtrain report --format html: one file, nothing outside it (style and SVG inline, no scripts, no fonts). Runs, what
// could not be read, Table 1, the charts of each model, provenance of the largest activations.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/memory.h"
#include "report/grid.h"
#include "report/page.h"
#include "report/token.h"

enum { LARGEST = 3 }; // activations shown of each run

static const char STYLE[] = "body{font:14px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1240px;margin:24px auto;padding:0 20px}\n"
                            "h1{font-size:22px}h2{font-size:18px;margin-top:36px;border-bottom:1px solid #ccc}h3{font-size:15px;margin:24px 0 6px}\n"
                            "table{border-collapse:collapse;font-size:13px}th,td{padding:3px 10px;text-align:left;border-bottom:1px solid #e4e4e4;"
                            "white-space:nowrap}\n"
                            "th{background:#f3f5f7}.n{text-align:right;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}\n"
                            ".note{color:#555;font-size:13px;max-width:900px}.row{display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start}\n"
                            ".key{display:flex;flex-wrap:wrap;gap:4px 22px;font-size:13px;margin:8px 0}.key span{white-space:nowrap}\n"
                            ".bad{color:#9b1c1c}mark{background:#ffe9a8;padding:0 2px}code{white-space:pre-wrap}\n"
                            ".chart{display:block;font:11px system-ui,sans-serif;fill:#222;max-width:none}.chart .t{font-weight:600;font-size:12px}\n"
                            ".chart .g{stroke:#e6e6e6;fill:none}.chart .a{stroke:#777;fill:none}.chart .l{fill:none;stroke-width:1.5;stroke-opacity:.85}\n"
                            ".chart .w{stroke:#111;fill:none}.chart .m{fill:#fff;stroke:#b00020;stroke-width:1.3}\n"
                            ".chart .v{font-size:10px;text-anchor:middle}\n";

static void begin(const oht_report_table *t, FILE *out) {
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>ohtrain report</title>\n<style>\n",
          out);
    fputs(STYLE, out);
    fprintf(out, "</style>\n</head>\n<body>\n<h1>ohtrain report</h1>\n<p>%d run%s, %d of them unfinished, %d not readable.</p>\n", t->n_runs,
            t->n_runs == 1 ? "" : "s", t->n_unfinished, t->n_failures);
}

static void failures(const oht_report_table *t, FILE *out) {
    if (t->n_failures == 0) return;
    fputs("<h2>Not readable</h2>\n<ul class=\"bad\">\n", out);
    for (int i = 0; i < t->n_failures; i++) {
        fputs("<li>", out);
        oht_html_text(out, t->failure[i].path);
        fputs(": ", out);
        oht_html_text(out, t->failure[i].text);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n", out);
}

// ---- runs ----

static oht_status fill_runs(const oht_report_table *t, oht_grid *g) {
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        char number[32];
        int from = r->path_bytes > 60 ? r->path_bytes - 60 : 0;
        OHT_TRY(oht_grid_add(g, "%s%.*s", from ? "..." : "", r->path_bytes - from, r->path + from));
        OHT_TRY(oht_grid_add(g, "%s", r->model->name));
        OHT_TRY(oht_grid_add(g, "%s (%s%s)", r->method, r->cfg.model.attention, r->cfg.model.gate == OHT_GATE_NONE ? "" : ", gated"));
        OHT_TRY(oht_grid_add(g, "%" PRId64 "%s", r->step, r->unfinished ? " (unfinished)" : ""));
        OHT_TRY(oht_grid_add(g, "%" PRId64, r->cfg.train.seed));
        OHT_TRY(oht_grid_add(g, "%s", oht_report_number(r->metric[OHT_REPORT_KURTOSIS], number)));
        OHT_TRY(oht_grid_add(g, "%s", oht_report_number(r->metric[OHT_REPORT_INF_NORM], number)));
        OHT_TRY(oht_grid_add(g, "%s", oht_report_number(r->metric[OHT_REPORT_TASK], number)));
    }
    return OHT_OK;
}

static oht_status runs(const oht_report_table *t, FILE *out) {
    oht_grid g = {.title = {"run", "model", "method", "step", "seed", "avg kurtosis", "max inf norm", "result"}, .columns = 8, .left = 3};
    fputs("<h2>Runs</h2>\n", out);
    oht_status status = fill_runs(t, &g);
    if (status == OHT_OK) oht_grid_print(&g, OHT_FORM_HTML, out);
    oht_grid_free(&g);
    oht_report_series_note(t, OHT_FORM_HTML, out);
    fputs("<p class=\"note\">Result: perplexity for language models, top-1 for ViT, mean squared error for STanHop-Net. Max inf norm: of feed-forward outputs for BERT, of layer outputs for the others (STanHop-Net: its decoder's), "
          "the mean over rows of the row's largest |x|. All of the last evaluation.</p>\n",
          out);
    return status;
}

// ---- provenance ----

static int larger(const void *a, const void *b) {
    double x = (*(const oht_report_tap *const *)a)->inf_max, y = (*(const oht_report_tap *const *)b)->inf_max;
    if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
    return x > y ? -1 : x < y;
}

static void place_row(const oht_report_run *r, const oht_report_tap *tap, oht_token_reader *reader, FILE *out) {
    oht_token_text text;
    fputs("<tr><td>", out);
    char path[64];
    int from = r->path_bytes > 40 ? r->path_bytes - 40 : 0;
    snprintf(path, sizeof(path), "%s%.*s", from ? "..." : "", r->path_bytes - from, r->path + from);
    oht_html_text(out, path);
    fputs("</td><td>", out);
    oht_html_text(out, r->method);
    fputs("</td><td>", out);
    oht_html_text(out, tap->name);
    fprintf(out, "</td><td class=\"n\">%.4g</td><td class=\"n\">%" PRId64 "</td><td class=\"n\">%" PRId64 "</td><td class=\"n\">%" PRId64 "</td><td>",
            tap->inf_max, tap->sample, tap->token, tap->channel);
    if (oht_token_read(reader, &r->cfg, tap->sample, tap->token, &text)) {
        fputs("<code>", out);
        oht_html_text(out, text.before);
        fputs("<mark>", out);
        oht_html_text(out, text.token);
        fputs("</mark>", out);
        oht_html_text(out, text.after);
        fputs("</code>", out);
    } else {
        fputs("-", out);
    }
    fputs("</td></tr>\n", out);
}

static oht_status provenance(const oht_report_table *t, FILE *out) {
    oht_token_reader *reader = NULL;
    const oht_report_tap **order = NULL;
    size_t most = 1;
    oht_status status;
    for (int i = 0; i < t->n_runs; i++) most = (size_t)t->run[i].n_taps > most ? (size_t)t->run[i].n_taps : most;
    OHT_TRY_GOTO(status, oht_token_reader_create(&reader), done);
    OHT_TRY_GOTO(status, OHT_ALLOC(&order, most, "order of taps"), done);
    fprintf(out,
            "<h2>Where the largest activations are</h2>\n<p class=\"note\">The %d tensors with the largest |x| in the last evaluation, and the "
            "place of that value: row of the validation data, token in the row, channel. The text needs data.path and the tokenizer beside "
            "it; for BERT it is the text before masking.</p>\n"
            "<div class=\"wide\"><table>\n<thead><tr><th>run</th><th>method</th><th>tensor</th><th class=\"n\">largest |x|</th>"
            "<th class=\"n\">sample</th><th class=\"n\">token</th><th class=\"n\">channel</th><th>text</th></tr></thead>\n<tbody>\n",
            LARGEST);
    for (int i = 0; i < t->n_runs; i++) {
        const oht_report_run *r = &t->run[i];
        for (int k = 0; k < r->n_taps; k++) order[k] = &r->tap[k];
        qsort(order, (size_t)r->n_taps, sizeof(*order), larger);
        for (int k = 0; k < LARGEST && k < r->n_taps; k++) place_row(r, order[k], reader, out);
    }
    fputs("</tbody>\n</table></div>\n", out);
done:
    oht_token_reader_destroy(reader);
    oht_free(order);
    return status;
}

// ---- the whole ----

static void legend(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    fputs("<div class=\"key\">\n", out);
    for (int i = 0; i < t->n_groups; i++) {
        const oht_report_group *g = &t->group[i];
        if (g->first->model != model) continue;
        fprintf(out,
                "<span><svg width=\"30\" height=\"10\" viewBox=\"0 0 30 10\"><path fill=\"none\" stroke-width=\"3\" stroke=\"%s\"%s d=\"M0 5H30\"/></svg> ",
                oht_page_colour(t, g->first), oht_page_dashed(g->first) ? " stroke-dasharray=\"6 4\"" : "");
        oht_html_text(out, g->label);
        fprintf(out, ", %d seed%s</span>\n", g->n, g->n == 1 ? "" : "s");
    }
    fputs("</div>\n", out);
}

static oht_status model_section(const oht_report_table *t, const oht_report_model *model, FILE *out) {
    fprintf(out, "<h2>%s</h2>\n", model->name);
    legend(t, model, out);
    return oht_page_charts(t, model, out);
}

oht_status oht_report_html(const oht_report_table *t, FILE *out) {
    begin(t, out);
    failures(t, out);
    if (t->n_runs > 0) {
        OHT_TRY(runs(t, out));
        fputs("<h2>The paper's Table 1</h2>\n", out);
        OHT_TRY(oht_table1(t, OHT_FORM_HTML, out));
        OHT_TRY(oht_table2(t, OHT_FORM_HTML, out));
    }
    for (int i = 0; i < t->n_runs; i++) {
        int first = 0;
        while (t->run[first].model != t->run[i].model) first++;
        if (first == i) OHT_TRY(model_section(t, t->run[i].model, out));
    }
    if (t->n_runs > 0) OHT_TRY(provenance(t, out));
    fputs("</body>\n</html>\n", out);
    return OHT_OK;
}
