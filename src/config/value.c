// One value of one key: text -> struct with all checks, struct -> text that reads back to the same bits.
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "config/table.h"

const char *oht_key_type_name(const oht_key *key) {
    switch (key->type) {
    case OHT_KEY_INT:
        return "integer";
    case OHT_KEY_FLOAT:
        return "number";
    case OHT_KEY_BOOL:
        return "true or false";
    case OHT_KEY_ENUM:
    case OHT_KEY_CHOICE:
        return "word";
    case OHT_KEY_TEXT:
        break;
    }
    return "text";
}

const char *oht_key_allowed(const oht_key *key, char *out, size_t size) {
    size_t n = 0;
    switch (key->type) {
    case OHT_KEY_INT:
        if (key->high == INT64_MAX)
            snprintf(out, size, "integer >= %lld", (long long)key->low);
        else
            snprintf(out, size, "integer %lld..%lld", (long long)key->low, (long long)key->high);
        break;
    case OHT_KEY_FLOAT:
        snprintf(out, size, "number %s %g and %s %g", key->open_low ? ">" : ">=", key->flow,
                 key->open_high ? "<" : "<=", key->fhigh);
        break;
    case OHT_KEY_BOOL:
        snprintf(out, size, "true, false");
        break;
    case OHT_KEY_ENUM:
    case OHT_KEY_CHOICE:
        out[0] = '\0';
        for (int i = 0; key->choices[i] && n < size; i++)
            n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", key->choices[i]);
        break;
    case OHT_KEY_TEXT:
        snprintf(out, size, "text of 1 to %zu bytes", key->size - 1);
        break;
    }
    return out;
}

// "jobs/x.yaml:12: model.layers", or the key alone.
static const char *place(const oht_key *key, const char *where, char *out, size_t size) {
    snprintf(out, size, "%s%s%s", where ? where : "", where ? ": " : "", key->name);
    return out;
}

// A value as it may be shown in a message: shortened, control characters as '?'.
static const char *shown(const char *text, char *out, size_t size) {
    size_t n = strlen(text), keep = n < size - 4 ? n : size - 4;
    while (keep < n && keep > 0 && ((unsigned char)text[keep] & 0xC0) == 0x80)
        keep--; // not inside a UTF-8 character
    for (size_t i = 0; i < keep; i++)
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
    memcpy(out + keep, "...", 4);
    if (keep == n) out[keep] = '\0';
    return out;
}

static oht_status refuse(const oht_key *key, const char *text, const char *where, const char *why) {
    char at[OHT_PATH + 128], found[64], allowed[256];
    OHT_FAIL(OHT_CONFIG, "%s: found \"%s\"%s%s; allowed: %s%s%s", place(key, where, at, sizeof(at)),
             shown(text, found, sizeof(found)), why[0] ? ", " : "", why,
             oht_key_allowed(key, allowed, sizeof(allowed)), key->note ? "; " : "",
             key->note ? key->note : "");
}

// Decimal digits only: no units, no hexadecimal, no spaces, no underscores.
static bool is_integer(const char *s) {
    s += *s == '-' || *s == '+';
    if (!*s) return false;
    return s[strspn(s, "0123456789")] == '\0';
}

// [+-] digits [. digits] [e [+-] digits], at least one digit before e.
static bool is_number(const char *s) {
    s += *s == '-' || *s == '+';
    size_t whole = strspn(s, "0123456789"), part = 0;
    s += whole;
    if (*s == '.') {
        part = strspn(s + 1, "0123456789");
        s += 1 + part;
    }
    if (whole + part == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        size_t digits = strspn(s, "0123456789");
        if (digits == 0) return false;
        s += digits;
    }
    return *s == '\0';
}

static oht_status set_int(const oht_key *key, void *field, const char *text, const char *where) {
    if (!is_integer(text))
        return refuse(key, text, where, is_number(text) ? "which is not whole" : "which is no integer");
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno == ERANGE || value < key->low || value > key->high)
        return refuse(key, text, where, "out of range");
    *(int64_t *)field = value;
    return OHT_OK;
}

static oht_status set_float(const oht_key *key, void *field, const char *text, const char *where) {
    if (!is_number(text)) return refuse(key, text, where, "which is no number");
    errno = 0;
    double value = strtod(text, NULL); // the C locale: main never calls setlocale
    if (errno == ERANGE) return refuse(key, text, where, "beyond double precision");
    bool low_ok = key->open_low ? value > key->flow : value >= key->flow;
    bool high_ok = key->open_high ? value < key->fhigh : value <= key->fhigh;
    if (!low_ok || !high_ok) return refuse(key, text, where, "out of range");
    // Kernels take single precision: a limit that is excluded must not come back by rounding.
    float single = (float)value;
    if (value != 0 && fabsf(single) < FLT_MIN)
        return refuse(key, text, where, "too small for single precision");
    if ((key->open_low && (double)single <= key->flow) || (key->open_high && (double)single >= key->fhigh))
        return refuse(key, text, where, "which single precision rounds to the limit");
    *(double *)field = value == 0 ? 0.0 : value; // -0 is 0
    return OHT_OK;
}

// UTF-8 of characters that YAML can hold on one line, so that every value survives config.yaml.
static bool is_plain_text(const char *text) {
    const utf8proc_uint8_t *s = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t left = (utf8proc_ssize_t)strlen(text);
    while (left > 0) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(s, left, &c);
        if (n <= 0 || c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0x2028 || c == 0x2029 || c == 0xFEFF ||
            c == 0xFFFE || c == 0xFFFF)
            return false;
        s += n;
        left -= n;
    }
    return true;
}

static oht_status set_text(const oht_key *key, void *field, const char *text, const char *where) {
    size_t n = strlen(text);
    if (n == 0) return refuse(key, text, where, "which is empty");
    if (n >= key->size) return refuse(key, text, where, "too long");
    if (!is_plain_text(text)) return refuse(key, text, where, "not UTF-8 without control characters");
    memset(field, 0, key->size);
    memcpy(field, text, n);
    return OHT_OK;
}

static int choice_of(const oht_key *key, const char *text) {
    for (int i = 0; key->choices[i]; i++)
        if (strcmp(key->choices[i], text) == 0) return i;
    return -1;
}

static const char *next_choice(const void *ctx, int i) {
    return ((const oht_key *)ctx)->choices[i];
}

static oht_status refuse_choice(const oht_key *key, const char *text, const char *where) {
    const char *near = oht_nearest(text, next_choice, key);
    char why[96] = "";
    if (near) snprintf(why, sizeof(why), "nearest: %s", near);
    return refuse(key, text, where, why);
}

oht_status oht_key_set(oht_config *cfg, const oht_key *key, const char *text, const char *where) {
    void *field = (char *)cfg + key->offset;
    switch (key->type) {
    case OHT_KEY_INT:
        OHT_TRY(set_int(key, field, text, where));
        break;
    case OHT_KEY_FLOAT:
        OHT_TRY(set_float(key, field, text, where));
        break;
    case OHT_KEY_TEXT:
        OHT_TRY(set_text(key, field, text, where));
        break;
    case OHT_KEY_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) return refuse(key, text, where, "");
        *(bool *)field = text[0] == 't';
        break;
    case OHT_KEY_ENUM:
    case OHT_KEY_CHOICE: {
        int i = choice_of(key, text);
        if (i < 0) return refuse_choice(key, text, where);
        if (key->type == OHT_KEY_ENUM) {
            memcpy(field, &i, sizeof(i)); // our enums have no negative value and the size of int
        } else {
            memset(field, 0, key->size);
            memcpy(field, text, strlen(text));
        }
        break;
    }
    }
    return OHT_OK;
}

// Shortest decimal that reads back to the same double, with a point before the exponent so that every YAML
// reader takes it for a number.
static void float_text(double value, char *out, size_t size) {
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    char *e = strchr(digits, 'e');
    if (e && !strchr(digits, '.'))
        snprintf(out, size, "%.*s.0%s", (int)(e - digits), digits, e);
    else
        snprintf(out, size, "%s", digits);
}

void oht_key_get(const oht_config *cfg, const oht_key *key, char *out) {
    const void *field = (const char *)cfg + key->offset;
    switch (key->type) {
    case OHT_KEY_INT:
        snprintf(out, OHT_KEY_TEXT_MAX, "%lld", (long long)*(const int64_t *)field);
        break;
    case OHT_KEY_FLOAT:
        float_text(*(const double *)field, out, OHT_KEY_TEXT_MAX);
        break;
    case OHT_KEY_BOOL:
        snprintf(out, OHT_KEY_TEXT_MAX, "%s", *(const bool *)field ? "true" : "false");
        break;
    case OHT_KEY_ENUM: {
        int i;
        memcpy(&i, field, sizeof(i));
        snprintf(out, OHT_KEY_TEXT_MAX, "%s", key->choices[i]);
        break;
    }
    case OHT_KEY_CHOICE:
    case OHT_KEY_TEXT:
        snprintf(out, OHT_KEY_TEXT_MAX, "%s", (const char *)field);
        break;
    }
}
