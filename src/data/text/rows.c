// Rows of text files (rows.h).
#include "data/text/rows.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "data/text/unicode.h"
#include "oht/memory.h"
#include "oht/signals.h"

enum { FIRST_BUFFER = 1 << 20, LONGEST_LINE = 1 << 26 };

struct oht_rows {
    const char *const *files;
    int n_files, file; // file: the one being read, n_files at the end
    bool json;
    SHA2_CTX *hash;
    int descriptor; // -1: the next file is not open yet
    bool file_ended; // all of it is in the buffer
    bool waits; // a pipe or terminal
    int64_t line, read; // line number in the file, from 1; bytes read in all
    char *buffer;
    size_t capacity, from, to; // the unused bytes are [from, to)
    json_t *object; // of the last row
    oht_utf8_buffer repaired;
};

oht_status oht_rows_open(oht_rows **out, const char *const *files, int n, bool json, SHA2_CTX *hash) {
    OHT_TRY(OHT_ALLOC(out, 1, "rows"));
    **out = (oht_rows){.files = files, .n_files = n, .json = json, .hash = hash, .descriptor = -1};
    OHT_TRY(OHT_ALLOC(&(*out)->buffer, FIRST_BUFFER, "line buffer"));
    (*out)->capacity = FIRST_BUFFER;
    return OHT_OK;
}

void oht_rows_close(oht_rows *rows) {
    if (!rows) return;
    if (rows->descriptor >= 0) close(rows->descriptor);
    json_decref(rows->object);
    oht_free(rows->repaired.text);
    oht_free(rows->buffer);
    oht_free(rows);
}

int64_t oht_rows_bytes(const oht_rows *rows) {
    return rows->read;
}

oht_status oht_rows_measure(const char *const *files, int n, bool regular, int64_t *bytes) {
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        struct stat info;
        if (stat(files[i], &info) != 0)
            OHT_FAIL(OHT_IO, "%s: cannot open this input: %s", files[i], strerror(errno));
        if (S_ISDIR(info.st_mode)) OHT_FAIL(OHT_IO, "%s: is a folder, expected a text file", files[i]);
        if (regular && !S_ISREG(info.st_mode))
            OHT_FAIL(OHT_CONFIG,
                     "%s: not a regular file\nfix: run without mpirun; with several ranks each reads the "
                     "inputs itself",
                     files[i]);
        if (S_ISREG(info.st_mode)) *bytes += info.st_size;
    }
    return OHT_OK;
}

// Until there is something to read (or the end), or a stop is asked for.
static oht_status wait_for_bytes(oht_rows *rows) {
    struct pollfd end = {.fd = rows->descriptor, .events = POLLIN};
    while (poll(&end, 1, 200) <= 0) OHT_TRY(oht_signals_check());
    return OHT_OK;
}

// Reads on in the current file behind what the buffer holds.
static oht_status fill(oht_rows *rows) {
    const char *path = rows->files[rows->file];
    if (rows->descriptor < 0) {
        rows->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe may be silent for long
        if (rows->descriptor < 0) OHT_FAIL(OHT_IO, "%s: cannot open this input: %s", path, strerror(errno));
        struct stat info;
        rows->waits = fstat(rows->descriptor, &info) == 0 && !S_ISREG(info.st_mode);
        rows->line = 0;
        rows->from = rows->to = 0;
    }
    if (rows->from > 0) {
        memmove(rows->buffer, rows->buffer + rows->from, rows->to - rows->from);
        rows->to -= rows->from;
        rows->from = 0;
    }
    if (rows->to == rows->capacity) {
        if (rows->capacity >= LONGEST_LINE)
            OHT_FAIL(OHT_DATA,
                     "%s:%lld: a line of more than %d bytes\nfix: one row a line is expected; cut the text "
                     "into lines",
                     path, (long long)rows->line + 1, LONGEST_LINE);
        OHT_TRY(oht_grow((void **)&rows->buffer, rows->capacity, 2 * rows->capacity, 1, "line buffer"));
        rows->capacity *= 2;
    }
    ssize_t got;
    do {
        if (rows->waits) OHT_TRY(wait_for_bytes(rows));
        got = read(rows->descriptor, rows->buffer + rows->to, rows->capacity - rows->to);
    } while (got < 0 && (errno == EINTR || errno == EAGAIN));
    if (got < 0) OHT_FAIL(OHT_IO, "%s: cannot read this input: %s", path, strerror(errno));
    if (got == 0 && rows->line == 0 && rows->to == 0) OHT_FAIL(OHT_DATA, "%s: the file is empty", path);
    if (rows->hash) SHA256Update(rows->hash, (const uint8_t *)rows->buffer + rows->to, (size_t)got);
    rows->to += (size_t)got;
    rows->read += got;
    rows->file_ended = got == 0;
    return OHT_OK;
}

// Next line of the current file with its end cut off; *line = NULL when the file has no more.
static oht_status next_line(oht_rows *rows, const char **line, size_t *n) {
    char *end = NULL;
    for (size_t seen = 0;;) { // bytes after from that hold no line end
        if (rows->descriptor >= 0)
            end = memchr(rows->buffer + rows->from + seen, '\n', rows->to - rows->from - seen);
        if (end || rows->file_ended) break;
        seen = rows->descriptor >= 0 ? rows->to - rows->from : 0;
        OHT_TRY(fill(rows));
    }
    char *start = rows->buffer + rows->from;
    *n = end ? (size_t)(end - start) : rows->to - rows->from;
    rows->from += *n + (end != NULL);
    *line = NULL;
    if (!end && *n == 0) return OHT_OK;
    rows->line++;
    if (rows->line == 1 && *n >= 3 && memcmp(start, "\xef\xbb\xbf", 3) == 0) {
        start += 3;
        *n -= 3;
    }
    if (*n > 0 && start[*n - 1] == '\r') --*n;
    *line = start;
    return OHT_OK;
}

static bool is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && !(s[i] >= '\t' && s[i] <= '\r')) return false;
    return true;
}

oht_status oht_rows_next(oht_rows *rows, const char **line, size_t *n) {
    *line = NULL;
    *n = 0;
    while (rows->file < rows->n_files) {
        OHT_TRY(next_line(rows, line, n));
        if (!*line) {
            close(rows->descriptor);
            rows->descriptor = -1;
            rows->file_ended = false;
            rows->file++;
            continue;
        }
        if (!is_blank(*line, *n)) return OHT_OK;
        if (rows->json) continue;
        *n = 0;
        return OHT_OK;
    }
    return OHT_OK;
}

// "; it has id, url, title" for the message about a missing field.
static void list_fields(const json_t *object, char *out, size_t size) {
    const char *key;
    json_t *value;
    size_t n = 0;
    out[0] = '\0';
    json_object_foreach((json_t *)object, key, value) {
        int more = snprintf(out + n, size - n, "%s%.40s", n ? ", " : "; it has ", key);
        if (more < 0 || (size_t)more >= size - n) return;
        n += (size_t)more;
    }
}

// Value of four hexadecimal digits, -1 if they are not.
static int hex4(const char *s) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = s[i] >= '0' && s[i] <= '9'   ? s[i] - '0'
                    : s[i] >= 'a' && s[i] <= 'f' ? s[i] - 'a' + 10
                    : s[i] >= 'A' && s[i] <= 'F' ? s[i] - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

// Escapes of halves of a surrogate pair become \ufffd, as ill-formed UTF-8 does. Returns whether there were any.
static bool repair_surrogates(char *s, size_t n) {
    bool found = false;
    for (size_t i = 0; i + 1 < n; i++) {
        if (s[i] != '\\') continue;
        int c = s[i + 1] == 'u' && n - i >= 6 ? hex4(s + i + 2) : -1;
        if (c < 0) {
            i++; // another escape
            continue;
        }
        int next = n - i >= 12 && s[i + 6] == '\\' && s[i + 7] == 'u' ? hex4(s + i + 8) : -1;
        bool pair = c >= 0xd800 && c < 0xdc00 && next >= 0xdc00 && next < 0xe000;
        if (!pair && c >= 0xd800 && c < 0xe000) {
            memcpy(s + i + 2, "fffd", 4);
            found = true;
        }
        i += pair ? 11 : 5;
    }
    return found;
}

oht_status oht_rows_field(oht_rows *rows, const char *line, size_t n, const char *field, const char **text,
                          size_t *n_text) {
    const char *path = rows->files[rows->file];
    const uint8_t *bytes = (const uint8_t *)line;
    OHT_TRY(oht_utf8_repair(&bytes, &n, &rows->repaired));
    json_error_t error;
    json_decref(rows->object);
    rows->object = json_loadb((const char *)bytes, n, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    if (!rows->object) { // both places the line can be in are ours
        bool as_read = bytes == (const uint8_t *)line;
        char *own = as_read ? rows->buffer + (line - rows->buffer) : (char *)rows->repaired.text;
        if (repair_surrogates(own, n))
            rows->object = json_loadb(own, n, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    }
    if (!rows->object)
        OHT_FAIL(OHT_DATA,
                 "%s:%lld: column %d: not valid JSON: %s\nfix: with --json-field each line is a JSON object",
                 path, (long long)rows->line, error.column, error.text);
    if (!json_is_object(rows->object))
        OHT_FAIL(OHT_DATA, "%s:%lld: not a JSON object\nfix: with --json-field each line is a JSON object",
                 path, (long long)rows->line);
    const json_t *value = json_object_get(rows->object, field);
    if (!value) {
        char fields[200];
        list_fields(rows->object, fields, sizeof(fields));
        OHT_FAIL(OHT_DATA, "%s:%lld: no field \"%s\" in it%s", path, (long long)rows->line, field, fields);
    }
    if (!json_is_string(value))
        OHT_FAIL(OHT_DATA, "%s:%lld: field \"%s\" is not a string", path, (long long)rows->line, field);
    *text = json_string_value(value);
    *n_text = json_string_length(value);
    return OHT_OK;
}
