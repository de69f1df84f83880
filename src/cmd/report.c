// ohtrain report: runs side by side, as a list with differences against the first run of the same model, as the paper's
// Table 1 beside the published numbers, or as a page with plots. The work is in src/report.
#include <string.h>

#include "config/table.h"
#include "oht/cmd.h"
#include "report/report.h"

static const char *const FORMATS[] = {"text", "md", "csv", "json", "html", NULL};
typedef enum format { FORMAT_TEXT, FORMAT_MD, FORMAT_CSV, FORMAT_JSON, FORMAT_HTML } format;

static oht_status show_table1(const oht_report_table *t, format how) {
    switch (how) {
    case FORMAT_TEXT:
        OHT_TRY(oht_table1(t, OHT_FORM_TEXT, stdout));
        return oht_table2(t, OHT_FORM_TEXT, stdout);
    case FORMAT_MD:
        OHT_TRY(oht_table1(t, OHT_FORM_MD, stdout));
        return oht_table2(t, OHT_FORM_MD, stdout);
    case FORMAT_CSV:
        return oht_table1_csv(t, stdout);
    case FORMAT_JSON:
        return oht_table1_json(t, stdout);
    case FORMAT_HTML:
        break; // the page holds Table 1
    }
    return oht_report_html(t, stdout);
}

static oht_status show_list(const oht_report_table *t, format how) {
    switch (how) {
    case FORMAT_TEXT:
        return oht_report_text(t, stdout);
    case FORMAT_MD:
        return oht_report_markdown(t, stdout);
    case FORMAT_CSV:
        return oht_report_csv(t, stdout);
    case FORMAT_JSON:
        return oht_report_json(t, stdout);
    case FORMAT_HTML:
        break;
    }
    return oht_report_html(t, stdout);
}

static oht_status report(const oht_options *opt, format how) {
    oht_report_table t = {0};
    oht_status status;
    OHT_TRY_GOTO(status, oht_report_read(&t, opt->rest, opt->n_rest, how == FORMAT_HTML), done);
    OHT_TRY_GOTO(status, oht_report_compare(&t), done);
    OHT_TRY_GOTO(status, (opt->table1 ? show_table1 : show_list)(&t, how), done);
    if (fflush(stdout) != 0 || ferror(stdout)) OHT_FAIL_GOTO(status, OHT_IO, done, "cannot write to standard output");
    if (t.n_failures + t.n_unfinished > 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "of %d runs %d could not be shown and %d are unfinished (see the warnings)", opt->n_rest,
                      t.n_failures, t.n_unfinished);
done:
    oht_report_free(&t);
    return status;
}

static const char *next_format(const void *ctx, int i) {
    (void)ctx;
    return FORMATS[i];
}

static oht_status parse_format(const char *word, format *out) {
    *out = FORMAT_TEXT;
    if (!word) return OHT_OK;
    for (int i = 0; FORMATS[i]; i++) {
        *out = (format)i;
        if (strcmp(FORMATS[i], word) == 0) return OHT_OK;
    }
    const char *near = oht_nearest(word, next_format, NULL);
    OHT_FAIL(OHT_CONFIG, "report: --format: found \"%.60s\"%s%s; allowed: text, md, csv, json, html", word, near ? ", nearest: " : "",
             near ? near : "");
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    format how;
    OHT_TRY(oht_options_parse(argc, argv, OHT_OPT_FORMAT | OHT_OPT_TABLE1 | OHT_OPT_WORDS, &opt));
    OHT_TRY(parse_format(opt.format, &how));
    if (opt.n_rest == 0) OHT_FAIL(OHT_CONFIG, "report: which runs?\nfix: ohtrain report RUNDIR...");
    oht_status status = oht_comm_rank(comm) == 0 ? report(&opt, how) : OHT_OK;
    return oht_agree(comm, status);
}

const oht_command oht_cmd_report = {
    .name = "report",
    .usage = "RUNDIR... [--table1] [--format text|md|csv|json|html]",
    .summary = "compares runs: outliers and results of their last evaluation, the paper's Table 1, a page with plots",
    .run = run,
    .help = "  --table1       the paper's Table 1: published numbers beside mean and deviation over our seeds, all pairs of\n"
            "                 methods with paired differences and 95 % intervals, and both averages; with runs of STanHop-Net\n"
            "                 also Table 2's column ETTh1 (in csv and json: the records of kind table2)\n"
            "  --format WORD  text (default), md, csv, json, or html: one page with Table 1 and all plots, nothing outside it\n"
            "\n"
            "Runs that differ in train.seed only are seeds of one experiment. Differences of the list are in percent of the first\n"
            "run of the same model. The infinity norm is the paper's: of feed-forward outputs for BERT (max_ffn_inf_norm), of layer\n"
            "outputs for the others (max_layer_inf_norm). W8A8 is the last ohtrain eval with quant.weights=8\n"
            "quant.activations=8 of the same step over the same samples.\n"
            "A run that is damaged, unfinished or no run at all is named on stderr, the others are shown, and the exit code is 3.\n"
            "\n"
            "  ohtrain report runs/vanilla runs/softmax1\n"
            "  ohtrain report runs/* --table1 --format md\n"
            "  ohtrain report runs/* --format html > report.html\n",
};
