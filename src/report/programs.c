// See programs.h.
#include "report/programs.h"

#include <math.h>
#include <string.h>

void report_csv_text(FILE *out, const char *text, int n) {
    bool quote = false;
    for (int i = 0; i < n; i++) quote |= strchr("\",\r\n", text[i]) != NULL;
    if (quote) fputc('"', out);
    for (int i = 0; i < n; i++) {
        if (text[i] == '"') fputc('"', out);
        fputc(text[i], out);
    }
    fputs(quote ? "\"," : ",", out);
}

void report_csv_number(FILE *out, double value, const char *end) {
    if (isnan(value))
        fputs(end, out);
    else
        fprintf(out, "%.12g%s", value, end);
}

json_t *report_json_text(const char *text, int n) {
    json_t *s = json_stringn(text, (size_t)n);
    return s ? s : json_null();
}

oht_status report_json_end(json_t *root, const oht_report_table *t, FILE *out) {
    json_t *failed = json_array();
    for (int i = 0; i < t->n_failures; i++) {
        const oht_report_failure *f = &t->failure[i];
        json_t *o = json_object();
        json_object_set_new(o, "run", report_json_text(f->path, (int)strlen(f->path)));
        json_object_set_new(o, "error", report_json_text(f->text, (int)strlen(f->text)));
        json_array_append_new(failed, o);
    }
    json_object_set_new(root, "failed", failed);
    int code = json_dumpf(root, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
    json_decref(root);
    if (code != 0) OHT_FAIL(OHT_MEMORY, "cannot build the JSON of the report");
    fputc('\n', out);
    return OHT_OK;
}
