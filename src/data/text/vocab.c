// Vocabulary tables (vocab.h): one text buffer, an array by id, and an open-addressing hash from string to
// id.
#include "data/text/vocab.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "data/text/unicode.h"
#include "oht/h5.h"
#include "oht/memory.h"

enum { MOST_IDS = 1 << 24, LARGEST_FILE = 1 << 28 };

typedef struct token {
    uint32_t start, length;
    int64_t used; // 0 = no token has this id
} token;

struct oht_vocab {
    char path[512]; // for messages
    uint8_t *text;
    size_t text_n, text_capacity, longest;
    token *token; // by id
    size_t n, capacity;
    int32_t *slot; // id + 1, 0 = free
    size_t mask;
};

oht_status oht_read_vocab_file(char **out, size_t *n, const char *path) {
    *out = NULL;
    *n = 0;
    FILE *in;
    const char *why = oht_file_open(&in, path);
    if (why)
        OHT_FAIL(
            OHT_DATA,
            "%s: cannot open the vocabulary file: %s\nfix: the tokenizer folder holds vocab.txt (WordPiece), "
            "or vocab.json and merges.txt (BPE)",
            path, why);
    oht_status status = OHT_OK;
    size_t capacity = 1 << 16, got = 0;
    OHT_TRY_GOTO(status, OHT_ALLOC(out, capacity, "vocabulary file"), done);
    for (;;) {
        size_t more = fread(*out + got, 1, capacity - got - 1, in);
        got += more;
        if (ferror(in))
            OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: cannot read the vocabulary file: %s", path,
                          strerror(errno));
        if (more == 0) break;
        if (got > LARGEST_FILE)
            OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: larger than %d bytes, this is no vocabulary file",
                          path, LARGEST_FILE);
        if (got + 1 == capacity) {
            OHT_TRY_GOTO(status, oht_grow((void **)out, capacity, 2 * capacity, 1, "vocabulary file"), done);
            capacity *= 2;
        }
    }
    *n = got;
    if (got == 0) OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: the vocabulary file is empty", path);
done:
    fclose(in);
    if (status != OHT_OK) {
        oht_free(*out);
        *out = NULL;
    }
    return status;
}

static oht_status create(oht_vocab **out, const char *path, size_t n_tokens) {
    OHT_TRY(OHT_ALLOC(out, 1, "vocabulary"));
    snprintf((*out)->path, sizeof((*out)->path), "%s", path);
    size_t slots = 64;
    while (slots < 4 * n_tokens) slots *= 2;
    (*out)->mask = slots - 1;
    return OHT_ALLOC(&(*out)->slot, slots, "vocabulary hash");
}

void oht_vocab_close(oht_vocab *vocab) {
    if (!vocab) return;
    oht_free(vocab->text);
    oht_free(vocab->token);
    oht_free(vocab->slot);
    oht_free(vocab);
}

static size_t slot_of(const oht_vocab *vocab, uint64_t hash) {
    return (size_t)(hash ^ hash >> 32) & vocab->mask;
}

int32_t oht_vocab_find(const oht_vocab *vocab, uint64_t hash, const uint8_t *first, size_t n_first,
                       const uint8_t *second, size_t n_second) {
    for (size_t i = slot_of(vocab, hash); vocab->slot[i] != 0; i = (i + 1) & vocab->mask) {
        int32_t id = vocab->slot[i] - 1;
        const token *t = &vocab->token[id];
        const uint8_t *text = vocab->text + t->start;
        if (t->length == n_first + n_second && memcmp(text, first, n_first) == 0 &&
            memcmp(text + n_first, second, n_second) == 0)
            return id;
    }
    return -1;
}

int32_t oht_vocab_id(const oht_vocab *vocab, const char *text) {
    size_t n = strlen(text);
    const uint8_t *bytes = (const uint8_t *)text;
    return oht_vocab_find(vocab, oht_vocab_hash(OHT_VOCAB_HASH, bytes, n), bytes, n, bytes, 0);
}

// where: "line" or "entry" number for messages.
static oht_status add(oht_vocab *v, int64_t id, const uint8_t *text, size_t n, const char *where,
                      int64_t number) {
    if (n == 0) OHT_FAIL(OHT_DATA, "%s: %s %lld is an empty token", v->path, where, (long long)number);
    if (n > OHT_VOCAB_LONGEST)
        OHT_FAIL(OHT_DATA, "%s: %s %lld: a token of %zu bytes, at most %d are possible", v->path, where,
                 (long long)number, n, OHT_VOCAB_LONGEST);
    if (oht_utf8_valid(text, n) != n)
        OHT_FAIL(OHT_DATA, "%s: %s %lld is not valid UTF-8", v->path, where, (long long)number);
    if (id < 0 || id >= MOST_IDS)
        OHT_FAIL(OHT_DATA, "%s: token \"%.*s\" has id %lld, expected 0 to %d", v->path, (int)n,
                 (const char *)text, (long long)id, MOST_IDS - 1);
    uint64_t hash = oht_vocab_hash(OHT_VOCAB_HASH, text, n);
    int32_t same = oht_vocab_find(v, hash, text, n, text, 0);
    if (same >= 0)
        OHT_FAIL(OHT_DATA, "%s: token \"%.*s\" stands twice, with ids %d and %lld", v->path, (int)n,
                 (const char *)text, same, (long long)id);
    while ((size_t)id >= v->capacity) OHT_TRY(OHT_RESERVE(&v->token, &v->capacity, v->capacity, "tokens"));
    if (v->token[id].used) OHT_FAIL(OHT_DATA, "%s: two tokens have id %lld", v->path, (long long)id);
    if (v->text_n + n > v->text_capacity) {
        size_t capacity = 2 * v->text_capacity + n + 65536;
        OHT_TRY(oht_grow((void **)&v->text, v->text_n, capacity, 1, "token text"));
        v->text_capacity = capacity;
    }
    memcpy(v->text + v->text_n, text, n);
    v->token[id] = (token){.start = (uint32_t)v->text_n, .length = (uint32_t)n, .used = 1};
    v->text_n += n;
    if ((size_t)id >= v->n) v->n = (size_t)id + 1;
    if (n > v->longest) v->longest = n;
    size_t i = slot_of(v, hash);
    while (v->slot[i] != 0) i = (i + 1) & v->mask;
    v->slot[i] = (int32_t)id + 1;
    return OHT_OK;
}

oht_status oht_vocab_read_txt(oht_vocab **out, const char *path) {
    *out = NULL;
    char *file;
    size_t n;
    OHT_TRY(oht_read_vocab_file(&file, &n, path));
    size_t lines = 1;
    for (size_t i = 0; i < n; i++) lines += file[i] == '\n';
    oht_status status = OHT_OK;
    OHT_TRY_GOTO(status, create(out, path, lines), done);
    int64_t id = 0;
    for (char *line = file; line < file + n; id++) {
        char *end = memchr(line, '\n', (size_t)(file + n - line));
        if (!end) end = file + n;
        size_t length = (size_t)(end - line);
        if (length > 0 && line[length - 1] == '\r') length--;
        OHT_TRY_GOTO(status, add(*out, id, (const uint8_t *)line, length, "line", id + 1), done);
        line = end + 1;
    }
done:
    oht_free(file);
    return status;
}

oht_status oht_vocab_read_json(oht_vocab **out, const char *path) {
    *out = NULL;
    char *file;
    size_t n;
    OHT_TRY(oht_read_vocab_file(&file, &n, path));
    oht_status status = OHT_OK;
    json_error_t error;
    json_t *root = json_loadb(file, n, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s:%d: not valid JSON: %s", path, error.line, error.text);
    if (!json_is_object(root) || json_object_size(root) == 0)
        OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: expected one JSON object of token: id", path);
    OHT_TRY_GOTO(status, create(out, path, json_object_size(root)), done);
    const char *key;
    json_t *value;
    int64_t entry = 0;
    json_object_foreach(root, key, value) {
        entry++;
        if (!json_is_integer(value))
            OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: the id of \"%.80s\" is not an integer", path, key);
        OHT_TRY_GOTO(status,
                     add(*out, json_integer_value(value), (const uint8_t *)key, strlen(key), "entry", entry),
                     done);
    }
done:
    json_decref(root);
    oht_free(file);
    return status;
}

int64_t oht_vocab_size(const oht_vocab *vocab) {
    return (int64_t)vocab->n;
}

size_t oht_vocab_longest(const oht_vocab *vocab) {
    return vocab->longest;
}

const uint8_t *oht_vocab_text(const oht_vocab *vocab, int64_t id, size_t *n) {
    if (id < 0 || (size_t)id >= vocab->n || !vocab->token[id].used) return NULL;
    *n = vocab->token[id].length;
    return vocab->text + vocab->token[id].start;
}
