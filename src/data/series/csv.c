// Reading a CSV file of time series (csv.h): one header line, then a date and numbers separated by commas; quotes around a
// field are allowed, commas inside are not. Nothing is guessed: an empty or non-numeric cell, a line with other than the
// header's number of fields, a date that does not ascend is an error that says where.
#include "data/series/csv.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <sha2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/memory.h"
#include "oht/signals.h"

typedef struct reader {
    const char *path;
    FILE *in;
    char *line;
    size_t size;
    int64_t number; // of the line, from 1
    SHA2_CTX hash;
    size_t time_room, value_room, name_room;
} reader;

static oht_status next_line(reader *r, bool *found) {
    ssize_t n = getline(&r->line, &r->size, r->in);
    *found = n >= 0;
    if (n < 0) return OHT_OK;
    SHA256Update(&r->hash, (const uint8_t *)r->line, (size_t)n);
    r->number++;
    while (n > 0 && (r->line[n - 1] == '\n' || r->line[n - 1] == '\r')) r->line[--n] = '\0';
    if (strlen(r->line) != (size_t)n)
        OHT_FAIL(OHT_DATA, "%s: line %lld holds a byte 0, this is no text\nfix: a CSV file in UTF-8", r->path, (long long)r->number);
    return oht_signals_check();
}

// The field at *at, ended by a 0; *at moves to the next one, NULL after the last.
static char *next_field(char **at) {
    char *field = *at, *comma = strchr(field, ',');
    *at = comma ? comma + 1 : NULL;
    if (comma) *comma = '\0';
    while (*field == ' ') field++;
    size_t n = strlen(field);
    while (n > 0 && field[n - 1] == ' ') field[--n] = '\0';
    if (n >= 2 && field[0] == '"' && field[n - 1] == '"') {
        field[n - 1] = '\0';
        field++;
    }
    return field;
}

// Days since 1970-01-01 of the Gregorian calendar, counting years from March.
static int64_t days_of(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, year = y - era * 400, day = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + year * 365 + year / 4 - year / 100 + day - 719468;
}

static int days_in(int year, int month) {
    if (month == 2) return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

// 2016-07-01 00:00:00, 2016/7/1 0:00, 2016-07-01: seconds since 1970.
static bool parse_date(const char *text, int64_t *out) {
    int y, mo, d, h = 0, mi = 0, s = 0, n = 0;
    char sep[2];
    if (sscanf(text, "%4d%c%2d%c%2d%n", &y, &sep[0], &mo, &sep[1], &d, &n) != 5) return false;
    if (sep[0] != sep[1] || !strchr("-/", sep[0])) return false;
    text += n;
    if (*text == ' ' || *text == 'T') {
        text++;
        n = 0;
        if (sscanf(text, "%2d:%2d%n", &h, &mi, &n) != 2) return false;
        text += n;
        if (*text == ':') {
            n = 0;
            if (sscanf(text, ":%2d%n", &s, &n) != 1) return false;
            text += n;
        }
    }
    if (*text || mo < 1 || mo > 12 || d < 1 || d > days_in(y, mo) || h < 0 || h > 23 || mi < 0 || mi > 59 || s < 0 || s > 60) return false;
    *out = days_of(y, mo, d) * 86400 + h * 3600 + mi * 60 + s;
    return true;
}

static oht_status read_header(reader *r, csv_table *t) {
    bool found;
    OHT_TRY(next_line(r, &found));
    if (!found) OHT_FAIL(OHT_DATA, "%s: is empty\nfix: a CSV file with a header line", r->path);
    char *at = r->line;
    if (strncmp(at, "\xef\xbb\xbf", 3) == 0) at += 3; // byte order mark
    next_field(&at);
    while (at) {
        char *name = next_field(&at);
        OHT_TRY(OHT_RESERVE(&t->name, &r->name_room, (size_t)t->columns, "column names"));
        OHT_TRY(oht_strdup(&t->name[t->columns], name));
        t->columns++;
    }
    if (t->columns < 1)
        OHT_FAIL(OHT_DATA, "%s: line 1 has one field, expected a date column and at least one column of numbers, separated by commas",
                 r->path);
    return OHT_OK;
}

static oht_status read_row(reader *r, csv_table *t) {
    char *at = r->line, *date = next_field(&at);
    OHT_TRY(OHT_RESERVE(&t->time, &r->time_room, (size_t)t->rows, "dates"));
    if (!parse_date(date, &t->time[t->rows]))
        OHT_FAIL(OHT_DATA, "%s: line %lld: \"%.40s\" is no date, expected one like 2016-07-01 00:00:00", r->path,
                 (long long)r->number, date);
    if (t->rows > 0 && t->time[t->rows] <= t->time[t->rows - 1])
        OHT_FAIL(OHT_DATA, "%s: line %lld: the date %.40s does not come after that of the line before\nfix: sort the file by date, without repeats",
                 r->path, (long long)r->number, date);
    int64_t column = 0;
    for (; at && column < t->columns; column++) {
        char *cell = next_field(&at), *end;
        double v = strtod(cell, &end);
        if (!*cell || *end || !(fabs(v) <= FLT_MAX))
            OHT_FAIL(OHT_DATA, "%s: line %lld, column %s: found \"%.40s\", expected a number below 3.4e38\nfix: fill or remove the gaps first; the splits count rows",
                     r->path, (long long)r->number, t->name[column], cell);
        OHT_TRY(OHT_RESERVE(&t->value, &r->value_room, (size_t)(t->rows * t->columns + column), "values"));
        t->value[t->rows * t->columns + column] = v;
    }
    if (at || column < t->columns)
        OHT_FAIL(OHT_DATA, "%s: line %lld has %s than the header's %lld fields", r->path, (long long)r->number,
                 at ? "more" : "fewer", (long long)t->columns + 1);
    t->rows++;
    return OHT_OK;
}

static oht_status read_all(reader *r, csv_table *t, int64_t *irregular) {
    SHA256Init(&r->hash);
    OHT_TRY(read_header(r, t));
    for (;;) {
        bool found;
        OHT_TRY(next_line(r, &found));
        if (!found) break;
        if (!r->line[0]) continue; // an empty line, as at the end
        OHT_TRY(read_row(r, t));
        if (t->rows > 2 && t->time[t->rows - 1] - t->time[t->rows - 2] != t->time[1] - t->time[0]) ++*irregular;
    }
    if (ferror(r->in)) OHT_FAIL(OHT_IO, "cannot read %s: %s", r->path, strerror(errno));
    if (t->rows < 1) OHT_FAIL(OHT_DATA, "%s: has a header, but no rows", r->path);
    SHA256End(&r->hash, t->sha256);
    return OHT_OK;
}

oht_status csv_read(csv_table *out, const char *path, int64_t *irregular) {
    memset(out, 0, sizeof(*out));
    *irregular = 0;
    reader r = {.path = path};
    const char *why = oht_file_open(&r.in, path);
    if (why) OHT_FAIL(OHT_IO, "cannot open %s: %s", path, why);
    oht_status status = read_all(&r, out, irregular);
    free(r.line); // getline's
    fclose(r.in);
    return status;
}

void csv_free(csv_table *t) {
    for (int64_t i = 0; t->name && i < t->columns; i++) oht_free(t->name[i]);
    oht_free(t->name);
    oht_free(t->time);
    oht_free(t->value);
    memset(t, 0, sizeof(*t));
}
