// Charts as inline SVG (svg.h).
#include "report/svg.h"

#include <math.h>
#include <string.h>

#include "report/grid.h" // oht_html_text

enum { LEFT = 64, RIGHT = 16, TOP = 26, BOTTOM = 44, TICKS = 8, SHADES = 32 };
static const double LETTER = 6.4; // width of a character of 11 px, on the safe side

// ---- numbers and axes ----

// At most 7 characters: 0.0125, 23.3k, 1.2M, 3e-05.
static void show(double x, int digits, char out[24]) {
    double size = fabs(x);
    if (x == 0) x = 0; // no "-0"
    if (size >= 1e3 && size < 1e4 && digits < 4)
        snprintf(out, 24, "%.0f", x);
    else if (size >= 1e4 && size < 1e6)
        snprintf(out, 24, "%.*gk", digits, x / 1e3);
    else if (size >= 1e6 && size < 1e9)
        snprintf(out, 24, "%.*gM", digits, x / 1e6);
    else
        snprintf(out, 24, "%.*g", digits, x);
    char *e = strstr(out, "e+0");
    if (e)
        memmove(e + 1, e + 3, strlen(e + 3) + 1);
    else if ((e = strstr(out, "e+")))
        memmove(e + 1, e + 2, strlen(e + 2) + 1);
}

typedef struct axis {
    double lo, hi, from, to; // value range and pixels
    bool log;
} axis;

static double place(const axis *a, double x) {
    double t = a->log ? log(x / a->lo) / log(a->hi / a->lo) : (x - a->lo) / (a->hi - a->lo);
    return a->from + t * (a->to - a->from);
}

// Multiples of 1, 2 or 5 times a power of ten, or powers of ten; returns their number.
static int ticks(const axis *a, double out[TICKS]) {
    int n = 0;
    if (a->log && a->hi / a->lo >= 100) {
        int first = (int)ceil(log10(a->lo) - 1e-9), last = (int)floor(log10(a->hi) + 1e-9), by = 1;
        while ((last - first) / by + 1 > 6) by++;
        for (int k = first; k <= last && n < TICKS; k += by) out[n++] = pow(10, k);
        return n;
    }
    if (a->log && a->hi / a->lo >= 8) {
        static const double multiple[] = {1, 2, 5};
        for (int k = (int)floor(log10(a->lo)); k <= (int)floor(log10(a->hi)); k++)
            for (int i = 0; i < 3; i++)
                if (multiple[i] * pow(10, k) >= a->lo && multiple[i] * pow(10, k) <= a->hi && n < TICKS)
                    out[n++] = multiple[i] * pow(10, k);
        return n;
    }
    double raw = (a->hi - a->lo) / 5, unit = pow(10, floor(log10(raw))), step = raw / unit;
    step = unit * (step <= 1 ? 1 : step <= 2 ? 2 : step <= 5 ? 5 : 10);
    for (double k = ceil(a->lo / step - 1e-9); k * step <= a->hi + 1e-9 * step && n < TICKS; k++)
        out[n++] = k * step;
    return n;
}

void oht_svg_range(oht_svg_chart *c) {
    c->lo = (double)INFINITY;
    c->hi = -(double)INFINITY;
}

void oht_svg_include(oht_svg_chart *c, double value) {
    if (!isfinite(value)) return;
    c->lo = fmin(c->lo, value);
    c->hi = fmax(c->hi, value);
}

void oht_svg_settle(oht_svg_chart *c, bool zero) {
    if (!(c->lo <= c->hi)) return;
    c->log = c->lo > 0 && c->hi > 20 * c->lo;
    if (c->log) {
        c->lo /= 1.25;
        c->hi *= 1.25;
        return;
    }
    if (zero && c->lo > 0) c->lo = 0;
    double air = c->hi > c->lo ? 0.05 * (c->hi - c->lo) : fmax(0.05 * fabs(c->hi), 1e-9);
    if (c->lo != 0) c->lo -= air;
    c->hi += air;
}

// ---- pieces ----

static void text_at(FILE *out, double x, double y, const char *attributes, const char *text) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, attributes);
    oht_html_text(out, text);
    fputs("</text>\n", out);
}

static void begin(FILE *out, double width, double height, const char *title) {
    fprintf(out,
            "<svg class=\"chart\" role=\"img\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
            "xmlns=\"http://www.w3.org/2000/svg\">\n<title>",
            width, height, width, height);
    oht_html_text(out, title);
    fputs("</title>\n", out);
    text_at(out, 4, 15, " class=\"t\"", title);
}

static void draw_x(FILE *out, const axis *a, const char *label, double top, double bottom) {
    double tick[TICKS];
    int n = ticks(a, tick);
    char text[24];
    for (int i = 0; i < n; i++) {
        double x = place(a, tick[i]);
        show(tick[i], 3, text);
        fprintf(out, "<path class=\"g\" d=\"M%.1f %.1fV%.1f\"/>", x, top, bottom);
        text_at(out, x, bottom + 14, " text-anchor=\"middle\"", text);
    }
    text_at(out, 0.5 * (a->from + a->to), bottom + 32, " text-anchor=\"middle\"", label);
}

static void draw_y(FILE *out, const axis *a, const char *label, double left, double right) {
    double tick[TICKS];
    int n = ticks(a, tick);
    char text[24];
    for (int i = 0; i < n; i++) {
        double y = place(a, tick[i]);
        show(tick[i], 4, text);
        fprintf(out, "<path class=\"g\" d=\"M%.1f %.1fH%.1f\"/>", left, y, right);
        text_at(out, left - 5, y + 4, " text-anchor=\"end\"", text);
    }
    fprintf(out, "<text transform=\"translate(13 %.1f) rotate(-90)\" text-anchor=\"middle\">",
            0.5 * (a->from + a->to));
    oht_html_text(out, label);
    fputs("</text>\n", out);
}

// ---- lines ----

static void draw_line(FILE *out, const axis *x, const axis *y, const oht_svg_line *l) {
    bool down = false;
    int points = 0;
    double px = 0, py = 0;
    fprintf(out, "<path class=\"l\" stroke=\"%s\"%s d=\"", l->colour,
            l->dashed ? " stroke-dasharray=\"5 3\"" : "");
    for (int i = 0; i < l->n; i++) {
        double v = (double)l->y[(ptrdiff_t)i * l->stride];
        if (!isfinite(v) || (y->log && v <= 0)) {
            down = false;
            continue;
        }
        px = place(x, l->x[i]);
        py = place(y, fmin(fmax(v, y->lo), y->hi));
        fprintf(out, "%c%.1f %.1f", down ? 'L' : 'M', px, py);
        down = true;
        points++;
    }
    fputs(points > 0 ? "\"/>\n" : "M0 0\"/>\n", out);
    if (points == 1)
        fprintf(out, "<circle r=\"2.5\" cx=\"%.1f\" cy=\"%.1f\" fill=\"%s\"/>\n", px, py, l->colour);
}

void oht_svg_lines(FILE *out, const oht_svg_chart *c, const oht_svg_line *line, int n) {
    axis x = {(double)INFINITY, -(double)INFINITY, LEFT, c->width - RIGHT, false};
    axis y = {c->lo, c->hi, c->height - BOTTOM, TOP, c->log};
    char label[96];
    for (int i = 0; i < n; i++)
        for (int k = 0; k < line[i].n; k++) {
            x.lo = fmin(x.lo, line[i].x[k]);
            x.hi = fmax(x.hi, line[i].x[k]);
        }
    begin(out, c->width, c->height, c->title);
    if (!(c->lo < c->hi) || !(x.lo <= x.hi)) {
        text_at(out, LEFT, 0.5 * c->height, "", "nothing was measured");
        fputs("</svg>\n", out);
        return;
    }
    if (x.lo == x.hi) x.lo -= 1, x.hi += 1;
    draw_x(out, &x, c->x, y.to, y.from);
    snprintf(label, sizeof(label), "%.80s%s", c->y, c->log ? ", log scale" : "");
    draw_y(out, &y, label, x.from, x.to);
    fprintf(out, "<path class=\"a\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", x.from, y.to, y.from, x.to);
    for (int i = 0; i < n; i++) draw_line(out, &x, &y, &line[i]);
    fputs("</svg>\n", out);
}

// ---- bars ----

static double clamp(const axis *a, double v) {
    return place(a, fmin(fmax(v, a->lo), a->hi));
}

static void draw_bar(FILE *out, const axis *x, const oht_svg_bar *b, double y, double h, bool numbers) {
    double base = x->from, end = base, middle = y + 0.5 * h;
    char text[24];
    if (isfinite(b->value)) {
        end = clamp(x, b->value);
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", base, y,
                fmax(end - base, 0.5), h, b->colour);
    }
    if (isfinite(b->value) && isfinite(b->sd) && b->sd > 0) {
        double lo = clamp(x, b->value - b->sd), hi = clamp(x, b->value + b->sd);
        fprintf(out, "<path class=\"w\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv5M%.1f %.1fv5\"/>\n", lo, middle, hi,
                lo, middle - 2.5, hi, middle - 2.5);
        end = fmax(end, hi);
    }
    if (isfinite(b->mark)) {
        double at = clamp(x, b->mark);
        fprintf(out, "<path class=\"m\" d=\"M%.1f %.1fl5 5l-5 5l-5 -5z\"/>\n", at, middle - 5);
        if (at + 8 > end && at - 8 < end + 50) end = at + 5;
    }
    if (!numbers) return;
    if (isnan(b->value))
        snprintf(text, sizeof(text), "-");
    else
        show(b->value, 4, text);
    text_at(out, end + 5, middle + 4, "", text);
}

void oht_svg_bars(FILE *out, const oht_svg_chart *c, const oht_svg_bar *bar, int n) {
    bool numbers = true;
    size_t longest = 4;
    double h = 15, y = TOP + 4, height = TOP + 4;
    for (int i = 0; i < n; i++)
        if (bar[i].label[0] && strlen(bar[i].label) > longest) longest = strlen(bar[i].label);
    for (int i = 0; i < n; i++) numbers &= bar[i].label[0] != '\0';
    if (!numbers) h = n > 60 ? 6 : 9;
    for (int i = 0; i < n; i++) height += h + 4 + (bar[i].gap ? 8 : 0) - (numbers ? 0 : 3);
    double left = 12 + LETTER * (double)longest;
    axis x = {c->lo, c->hi, left, left + 260, c->log};
    char label[96];
    begin(out, left + 260 + 70, height + BOTTOM, c->title);
    if (c->lo < c->hi) {
        snprintf(label, sizeof(label), "%.80s%s", c->x, c->log ? ", log scale" : "");
        draw_x(out, &x, label, TOP, height);
        fprintf(out, "<path class=\"a\" d=\"M%.1f %dV%.1f\"/>\n", left, TOP, height);
    }
    for (int i = 0; i < n; i++) {
        if (bar[i].gap) y += 8;
        if (bar[i].label[0]) text_at(out, left - 6, y + 0.5 * h + 4, " text-anchor=\"end\"", bar[i].label);
        if (c->lo < c->hi) draw_bar(out, &x, &bar[i], y, h, numbers);
        y += h + (numbers ? 4 : 1);
    }
    fputs("</svg>\n", out);
}

// ---- heat maps ----

// From near white over blue-green to dark blue; light values stay light, so that numbers read.
static void shade(int i, char out[8]) {
    static const int stop[5][3] = {
        {247, 251, 240}, {199, 233, 196}, {108, 190, 199}, {43, 128, 185}, {8, 48, 107}};
    double t = 4.0 * i / (SHADES - 1);
    int k = t >= 4 ? 3 : (int)t;
    int rgb[3];
    for (int j = 0; j < 3; j++) rgb[j] = (int)lround(stop[k][j] + (t - k) * (stop[k + 1][j] - stop[k][j]));
    snprintf(out, 8, "#%02x%02x%02x", (unsigned)rgb[0] & 255u, (unsigned)rgb[1] & 255u,
             (unsigned)rgb[2] & 255u);
}

static int shade_of(const oht_svg_chart *c, double v) { // -1: none
    if (isnan(v) || !(c->lo < c->hi)) return -1;
    const axis a = {c->lo, c->hi, 0, SHADES - 1, c->log};
    return (int)lround(clamp(&a, v));
}

static void draw_cells(FILE *out, const oht_svg_chart *c, const oht_svg_heat *m, double left, double top,
                       double w, double h) {
    char colour[8];
    for (int s = 0; s < SHADES; s++) { // one path a shade: a large map stays small
        bool open = false;
        shade(s, colour);
        for (int r = 0; r < m->rows; r++)
            for (int k = 0; k < m->columns; k++) {
                if (shade_of(c, m->value[r * m->columns + k]) != s) continue;
                if (!open) fprintf(out, "<path fill=\"%s\" d=\"", colour);
                open = true;
                fprintf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", left + k * w, top + r * h, w, h, w);
            }
        if (open) fputs("\"/>\n", out);
    }
}

static void draw_numbers(FILE *out, const oht_svg_chart *c, const oht_svg_heat *m, double left, double top,
                         double w, double h) {
    char text[24];
    for (int dark = 0; dark < 2; dark++) {
        fprintf(out, "<g class=\"v\" fill=\"%s\">\n", dark ? "#fff" : "#111");
        for (int r = 0; r < m->rows; r++)
            for (int k = 0; k < m->columns; k++) {
                double v = m->value[r * m->columns + k];
                int s = shade_of(c, v);
                if (isnan(v) || (s > SHADES * 6 / 10) != (dark == 1)) continue;
                show(v, 3, text);
                if (strlen(text) > 5) show(v, 2, text);
                fprintf(out, "<text x=\"%.1f\" y=\"%.1f\">%s</text>", left + (k + 0.5) * w,
                        top + (r + 0.5) * h + 3.5, text);
            }
        fputs("</g>\n", out);
    }
}

static void draw_scale(FILE *out, const oht_svg_chart *c, double left, double y) {
    char colour[8], text[24], label[160];
    for (int s = 0; s < SHADES; s++) {
        shade(s, colour);
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"3.2\" height=\"9\" fill=\"%s\"/>", left + 3 * s, y,
                colour);
    }
    show(c->lo, 3, text);
    int n = snprintf(label, sizeof(label), "%s to ", text);
    show(c->hi, 3, text);
    snprintf(label + n, sizeof(label) - (size_t)n, "%s: %.80s%s", text, c->y, c->log ? ", log scale" : "");
    text_at(out, left + 3 * SHADES + 8, y + 9, "", label);
}

void oht_svg_heatmap(FILE *out, const oht_svg_chart *c, const oht_svg_heat *m) {
    bool numbers = m->rows * m->columns <= 600 && m->columns <= 32;
    double w = numbers ? 44 : fmax(4, 640.0 / m->columns), h = m->rows <= 40 ? 18 : fmax(4, 720.0 / m->rows);
    size_t row = 5, column = 1; // "layer"
    for (int r = 0; r < m->rows; r++) row = strlen(m->row[r]) > row ? strlen(m->row[r]) : row;
    for (int k = 0; k < m->columns; k++)
        column = strlen(m->column[k]) > column ? strlen(m->column[k]) : column;
    bool slanted = LETTER * (double)column > w - 4;
    double left = 12 + LETTER * (double)row, top = TOP + (slanted ? 10 + 0.72 * LETTER * (double)column : 16);
    double right = slanted ? 0.72 * LETTER * (double)column : 0;
    double width = left + w * m->columns + fmax(RIGHT, right), height = top + h * m->rows;
    double least = left + 3 * SHADES + 8 + LETTER * ((double)strlen(c->y) + 30),
           named = 12 + 7.2 * (double)strlen(c->title);
    begin(out, fmax(width, fmax(least, named)), height + 48, c->title);
    draw_cells(out, c, m, left, top, w, h);
    if (numbers) draw_numbers(out, c, m, left, top, w, h);
    text_at(out, left - 5, top - 5, " text-anchor=\"end\"", "layer");
    int every_row = h >= 13 ? 1 : (int)ceil(13 / h), every_column = slanted ? (int)ceil(14 / w) : 1;
    for (int r = 0; r < m->rows; r += every_row)
        text_at(out, left - 5, top + (r + 0.5) * h + 4, " text-anchor=\"end\"", m->row[r]);
    for (int k = 0; k < m->columns; k += every_column) {
        double x = left + (k + 0.5) * w;
        if (!slanted) {
            text_at(out, x, top - 5, " text-anchor=\"middle\"", m->column[k]);
            continue;
        }
        fprintf(out, "<text transform=\"translate(%.1f %.1f) rotate(-45)\">", x + 2, top - 4);
        oht_html_text(out, m->column[k]);
        fputs("</text>\n", out);
    }
    text_at(out, left + 0.5 * w * m->columns, height + 15, " text-anchor=\"middle\"", c->x);
    draw_scale(out, c, left, height + 26);
    fputs("</svg>\n", out);
}
