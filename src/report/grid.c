// Tables of short cells (grid.h), and text that is safe inside HTML.
#include "report/grid.h"

#include <stdarg.h>
#include <string.h>

#include "data/text/unicode.h"
#include "oht/memory.h"

oht_status oht_grid_add(oht_grid *g, const char *format, ...) {
    OHT_TRY(OHT_RESERVE(&g->cell, &g->capacity, g->n, "cells of a table"));
    char *text = g->cell[g->n++];
    va_list args;
    va_start(args, format);
    vsnprintf(text, OHT_GRID_CELL, format, args);
    va_end(args);
    for (char *s = text; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
    return OHT_OK;
}

void oht_grid_free(oht_grid *g) {
    oht_free(g->cell);
    memset(g, 0, sizeof(*g));
}

void oht_html_text(FILE *out, const char *text) {
    const uint8_t *s = (const uint8_t *)text;
    size_t left = strlen(text);
    while (left > 0) {
        size_t n = 1, good = oht_utf8_valid(s, left < 4 ? left : 4);
        if (good > 0) oht_utf8_next(s, &n);
        if (good == 0)
            fputs("\xEF\xBF\xBD", out);
        else if (*s == '&')
            fputs("&amp;", out);
        else if (*s == '<')
            fputs("&lt;", out);
        else if (*s == '>')
            fputs("&gt;", out);
        else if (*s == '"')
            fputs("&quot;", out);
        else if (*s < 0x20 || *s == 0x7F || (n == 2 && s[0] == 0xC2 && s[1] < 0xA0))
            fputc('?', out);
        else
            fwrite(s, 1, n, out);
        s += n;
        left -= n;
    }
}

static int width_of(const char *text) { // characters of UTF-8
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static const char *cell_of(const oht_grid *g, int row, int column) { // row -1: titles
    return row < 0 ? g->title[column] : g->cell[row * g->columns + column];
}

static void print_text(const oht_grid *g, int rows, FILE *out) {
    int width[OHT_GRID_COLUMNS] = {0};
    for (int r = -1; r < rows; r++)
        for (int c = 0; c < g->columns; c++)
            if (width_of(cell_of(g, r, c)) > width[c]) width[c] = width_of(cell_of(g, r, c));
    for (int r = -1; r < rows; r++)
        for (int c = 0; c < g->columns; c++) {
            const char *text = cell_of(g, r, c), *end = c == g->columns - 1 ? "\n" : "  ";
            int pad = width[c] - width_of(text);
            bool last_word = c < g->left && c == g->columns - 1;
            fprintf(out, "%*s%s%*s%s", c < g->left ? 0 : pad, "", text, c < g->left && !last_word ? pad : 0,
                    "", end);
        }
}

static void print_markdown(const oht_grid *g, int rows, FILE *out) {
    for (int r = -1; r < rows; r++) {
        for (int c = 0; c < g->columns; c++) {
            fputs("| ", out);
            for (const char *s = cell_of(g, r, c); *s; s++) {
                if (*s == '|' || *s == '\\') fputc('\\', out);
                fputc(*s, out);
            }
            fputc(' ', out);
        }
        fputs("|\n", out);
        for (int c = 0; r < 0 && c < g->columns; c++) fputs(c < g->left ? "|---" : "|---:", out);
        if (r < 0) fputs("|\n", out);
    }
}

static void print_html(const oht_grid *g, int rows, FILE *out) {
    fputs("<div class=\"wide\"><table>\n<thead>", out);
    for (int r = -1; r < rows; r++) {
        fputs(r == 0 ? "<tbody>\n<tr>" : "<tr>", out);
        for (int c = 0; c < g->columns; c++) {
            fprintf(out, "<%s%s>", r < 0 ? "th" : "td", c < g->left ? "" : " class=\"n\"");
            oht_html_text(out, cell_of(g, r, c));
            fputs(r < 0 ? "</th>" : "</td>", out);
        }
        fputs(r < 0 ? "</tr></thead>\n" : "</tr>\n", out);
    }
    fputs(rows > 0 ? "</tbody>\n</table></div>\n" : "</table></div>\n", out);
}

void oht_grid_print(const oht_grid *g, oht_report_form form, FILE *out) {
    int rows = (int)(g->n / (size_t)g->columns);
    if (form == OHT_FORM_TEXT) print_text(g, rows, out);
    if (form == OHT_FORM_MD) print_markdown(g, rows, out);
    if (form == OHT_FORM_HTML) print_html(g, rows, out);
}
