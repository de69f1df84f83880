// A configuration file: YAML of exactly two levels, sections and keys, read as libyaml events straight into
// the table. Everything else YAML can say (lists, anchors, tags, second documents, deeper nesting) is an
// error with its line.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "config/table.h"
#include "oht/h5.h"
#include "oht/memory.h"

enum { LARGEST_FILE = 1 << 20, KEYS_MAX = 256, SECTIONS_MAX = 16, SECTION_NAME = 32 };

typedef struct reader {
    const char *path;
    yaml_parser_t parser;
    oht_config *cfg;
    int key_line[KEYS_MAX]; // line that set a key, 0 = not yet
    char section[SECTIONS_MAX][SECTION_NAME], allowed[256]; // names of all sections, and the same as a list
    int section_line[SECTIONS_MAX], n_sections; // line of a section, 0 = not yet
    char embed_width[32], embed_where[OHT_PATH + 16]; // assigned last, so that model.width cannot move it
} reader;

static int line_of(const yaml_event_t *event) {
    return (int)event->start_mark.line + 1;
}

static const char *kind_of(const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a mapping";
    case YAML_ALIAS_EVENT:
        return "an alias";
    case YAML_SCALAR_EVENT:
        return "a value";
    default:
        return "something else";
    }
}

static oht_status next_event(reader *r, yaml_event_t *event) {
    if (yaml_parser_parse(&r->parser, event)) return OHT_OK;
    memset(event, 0, sizeof(*event));
    const yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "cannot be read";
    if (p->error == YAML_READER_ERROR)
        OHT_FAIL(OHT_CONFIG, "%s: not a text file: %s at byte %zu", r->path, problem, p->problem_offset);
    bool tab = strstr(problem, "cannot start any token") != NULL || strstr(problem, "tab") != NULL;
    OHT_FAIL(OHT_CONFIG, "%s:%d: not YAML: %s%s%s%s", r->path, (int)p->problem_mark.line + 1, problem,
             p->context ? " " : "", p->context ? p->context : "",
             tab ? "\nfix: indent with spaces, YAML allows no tabs there" : "");
}

// A scalar without tag, anchor and NUL bytes, or an error.
static oht_status plain_scalar(reader *r, const yaml_event_t *event, const char *what, const char *expected) {
    int line = line_of(event);
    if (event->type != YAML_SCALAR_EVENT)
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: found %s, expected %s", r->path, line, what, kind_of(event),
                 expected);
    if (event->data.scalar.anchor)
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: found an anchor, expected %s", r->path, line, what, expected);
    if (event->data.scalar.tag)
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: found a tag, expected %s", r->path, line, what, expected);
    if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length)
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: found a NUL character, expected %s", r->path, line, what, expected);
    return OHT_OK;
}

static bool is_plain_mapping(const yaml_event_t *event) {
    return event->type == YAML_MAPPING_START_EVENT && !event->data.mapping_start.anchor &&
           !event->data.mapping_start.tag;
}

static bool is_null(const yaml_event_t *value) {
    const char *text = (const char *)value->data.scalar.value;
    return value->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static oht_status assign(reader *r, const oht_key *key, const yaml_event_t *value) {
    char where[OHT_PATH + 16], allowed[256];
    int line = line_of(value);
    snprintf(where, sizeof(where), "%.*s:%d", OHT_PATH, r->path, line);
    OHT_TRY(plain_scalar(r, value, key->name, oht_key_allowed(key, allowed, sizeof(allowed))));
    const char *text = (const char *)value->data.scalar.value;
    if (is_null(value)) OHT_FAIL(OHT_CONFIG, "%s: %s: no value; allowed: %s", where, key->name, allowed);
    bool number = key->type == OHT_KEY_INT || key->type == OHT_KEY_FLOAT || key->type == OHT_KEY_BOOL;
    if (number && value->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        OHT_FAIL(OHT_CONFIG, "%s: %s: found text in quotes; allowed: %s, without quotes", where, key->name,
                 allowed);
    if (strcmp(key->name, "model.embed_width") == 0) {
        oht_config scratch = *r->cfg; // an error should come in the file's order
        OHT_TRY(oht_key_set(&scratch, key, text, where));
        snprintf(r->embed_width, sizeof(r->embed_width), "%lld", (long long)scratch.model.embed_width);
        memcpy(r->embed_where, where, sizeof(where));
        return OHT_OK;
    }
    OHT_TRY(oht_key_assign(r->cfg, key, text, where));
    return OHT_OK;
}

// The sections are what the keys say.
static oht_status list_sections(reader *r) {
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) {
        size_t length = strcspn(key[i].name, ".");
        if (i > 0 && strncmp(key[i].name, key[i - 1].name, length + 1) == 0) continue;
        if (n > KEYS_MAX || r->n_sections == SECTIONS_MAX || length >= SECTION_NAME)
            OHT_FAIL(OHT_INTERNAL, "%s: the table of keys outgrew its reader at %s", r->path, key[i].name);
        memcpy(r->section[r->n_sections++], key[i].name, length);
        size_t used = strlen(r->allowed);
        snprintf(r->allowed + used, sizeof(r->allowed) - used, "%s%.*s", i ? ", " : "", (int)length,
                 key[i].name);
    }
    return OHT_OK;
}

static const char *section_name(const void *ctx, int i) {
    const reader *r = ctx;
    return i < r->n_sections ? r->section[i] : NULL;
}

// "model.layers" from section and key, or an error; counts duplicates.
static oht_status find_key(reader *r, const char *section, const yaml_event_t *event, const oht_key **out) {
    OHT_TRY(plain_scalar(r, event, section, "a key"));
    char name[80];
    int line = line_of(event);
    const char *word = (const char *)event->data.scalar.value;
    snprintf(name, sizeof(name), "%s.%.60s", section, word);
    const oht_key *key = strlen(word) <= 60 ? oht_key_find(name) : NULL;
    if (!key) {
        const char *near = oht_nearest_key(name);
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: unknown key%s%s\nfix: ohtrain train --help lists all keys", r->path,
                 line, name, near ? "; nearest: " : "", near ? near : "");
    }
    int n;
    ptrdiff_t index = key - oht_keys(&n);
    if (r->key_line[index])
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: already set in line %d", r->path, line, name, r->key_line[index]);
    r->key_line[index] = line;
    *out = key;
    return OHT_OK;
}

static oht_status read_section(reader *r, const char *section) {
    for (;;) {
        yaml_event_t event;
        const oht_key *key = NULL;
        OHT_TRY(next_event(r, &event));
        bool end = event.type == YAML_MAPPING_END_EVENT;
        oht_status status = end ? OHT_OK : find_key(r, section, &event, &key);
        yaml_event_delete(&event);
        if (end || status != OHT_OK) return status;
        OHT_TRY(next_event(r, &event));
        status = assign(r, key, &event);
        yaml_event_delete(&event);
        OHT_TRY(status);
    }
}

static oht_status unknown_section(reader *r, const char *name, int line) {
    const oht_key *key = oht_key_find(name);
    if (key)
        OHT_FAIL(
            OHT_CONFIG,
            "%s:%d: %s: a key outside its section\nfix: write \"%.*s:\" and, indented below it, \"%s: ...\"",
            r->path, line, name, (int)strcspn(name, "."), name, strchr(name, '.') + 1);
    const char *near = oht_nearest(name, section_name, r);
    if (!near) near = oht_nearest_key(name);
    OHT_FAIL(OHT_CONFIG, "%s:%d: %s: unknown section%s%s; allowed: %s", r->path, line, name,
             near ? "; nearest: " : "", near ? near : "", r->allowed);
}

static oht_status find_section(reader *r, const yaml_event_t *event, char *name, size_t size) {
    OHT_TRY(plain_scalar(r, event, "top level", "a section"));
    int line = line_of(event), i = 0;
    snprintf(name, size, "%.60s", (const char *)event->data.scalar.value);
    while (i < r->n_sections && strcmp(r->section[i], name) != 0) i++;
    if (i == r->n_sections) return unknown_section(r, name, line);
    if (r->section_line[i])
        OHT_FAIL(OHT_CONFIG, "%s:%d: %s: this section is already in line %d", r->path, line, name,
                 r->section_line[i]);
    r->section_line[i] = line;
    return OHT_OK;
}

static oht_status read_document(reader *r) {
    for (;;) {
        yaml_event_t event;
        char section[64] = "";
        OHT_TRY(next_event(r, &event));
        bool end = event.type == YAML_MAPPING_END_EVENT;
        oht_status status = end ? OHT_OK : find_section(r, &event, section, sizeof(section));
        yaml_event_delete(&event);
        if (end || status != OHT_OK) return status;
        OHT_TRY(next_event(r, &event));
        bool empty =
            event.type == YAML_SCALAR_EVENT && is_null(&event); // "model:" with all keys commented out
        bool mapping = is_plain_mapping(&event);
        if (!empty && !mapping)
            status = oht_error_set(
                OHT_CONFIG, __FILE__, __LINE__, "%s:%d: %s: found %s, expected keys, indented, one a line",
                r->path, line_of(&event), section,
                event.type == YAML_MAPPING_START_EVENT ? "an anchor or tag" : kind_of(&event));
        yaml_event_delete(&event);
        OHT_TRY(status);
        if (mapping) OHT_TRY(read_section(r, section));
    }
}

static oht_status read_stream(reader *r) {
    yaml_event_t event;
    OHT_TRY(next_event(r, &event)); // stream start
    yaml_event_delete(&event);
    OHT_TRY(next_event(r, &event));
    bool empty = event.type == YAML_STREAM_END_EVENT;
    yaml_event_delete(&event);
    if (empty)
        OHT_FAIL(OHT_CONFIG, "%s: holds no configuration\nfix: write a section, or leave -c out", r->path);
    OHT_TRY(next_event(r, &event));
    bool mapping = is_plain_mapping(&event);
    int line = line_of(&event);
    const char *found = event.type == YAML_MAPPING_START_EVENT ? "an anchor or tag" : kind_of(&event);
    yaml_event_delete(&event);
    if (!mapping)
        OHT_FAIL(OHT_CONFIG, "%s:%d: found %s, expected sections: %s", r->path, line, found, r->allowed);
    OHT_TRY(read_document(r));
    OHT_TRY(next_event(r, &event)); // document end
    yaml_event_delete(&event);
    OHT_TRY(next_event(r, &event));
    bool end = event.type == YAML_STREAM_END_EVENT;
    line = line_of(&event);
    yaml_event_delete(&event);
    if (!end) OHT_FAIL(OHT_CONFIG, "%s:%d: a second YAML document, expected one", r->path, line);
    if (r->embed_width[0])
        OHT_TRY(oht_key_assign(r->cfg, oht_key_find("model.embed_width"), r->embed_width, r->embed_where));
    return OHT_OK;
}

// The whole file, at most LARGEST_FILE bytes; *bytes freed with oht_free.
static oht_status slurp(const char *path, unsigned char **bytes, size_t *n) {
    *bytes = NULL;
    FILE *in;
    const char *why = oht_file_open(&in, path);
    if (why) OHT_FAIL(OHT_IO, "%s: cannot open the configuration: %s", path, why);
    oht_status status = OHT_ALLOC(bytes, LARGEST_FILE + 1, "configuration file");
    if (status == OHT_OK) {
        *n = fread(*bytes, 1, LARGEST_FILE + 1, in);
        if (ferror(in))
            status = oht_error_set(OHT_IO, __FILE__, __LINE__, "%s: cannot read the configuration: %s", path,
                                   strerror(errno));
        else if (*n > LARGEST_FILE)
            status = oht_error_set(OHT_CONFIG, __FILE__, __LINE__,
                                   "%s: larger than 1 MiB, expected a configuration of a few kB", path);
    }
    fclose(in);
    return status;
}

oht_status oht_config_parse(oht_config *cfg, const char *text, size_t n, const char *name) {
    oht_config fresh = *cfg; // an error leaves *cfg as it was
    reader r = {.path = name, .cfg = &fresh};
    if (!yaml_parser_initialize(&r.parser)) OHT_FAIL(OHT_MEMORY, "no memory to read %s", name);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    oht_status status = list_sections(&r);
    if (status == OHT_OK) status = read_stream(&r);
    yaml_parser_delete(&r.parser);
    if (status != OHT_OK) return oht_error_frame(status, __FILE__, __LINE__);
    *cfg = fresh;
    return OHT_OK;
}

oht_status oht_config_load(oht_config *cfg, const char *path) {
    unsigned char *bytes = NULL;
    size_t n = 0;
    oht_status status = slurp(path, &bytes, &n);
    if (status == OHT_OK) status = oht_config_parse(cfg, (const char *)bytes, n, path);
    oht_free(bytes);
    return status == OHT_OK ? OHT_OK : oht_error_frame(status, __FILE__, __LINE__);
}
