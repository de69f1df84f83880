// Reading and writing a whole configuration: defaults, overrides, echo, and what a resumed run may change.
// YAML files are read by yaml.c.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "oht/memory.h"

void oht_config_defaults(oht_config *cfg) {
    memset(cfg, 0, sizeof(*cfg));
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) {
        oht_status status = oht_key_set(cfg, &key[i], key[i].value, "table.c");
        (void)status; // a test sets every key to its default
    }
}

oht_status oht_key_assign(oht_config *cfg, const oht_key *key, const char *text, const char *where) {
    int64_t width = cfg->model.width;
    OHT_TRY(oht_key_set(cfg, key, text, where));
    if (cfg->model.embed_width == width) cfg->model.embed_width = cfg->model.width;
    return OHT_OK;
}

oht_status oht_config_set(oht_config *cfg, const char *assignment) {
    const char *equals = strchr(assignment, '=');
    if (!equals)
        OHT_FAIL(OHT_CONFIG, "\"%.100s\": expected key=value\nfix: for example train.steps=500", assignment);
    char name[64];
    size_t n = (size_t)(equals - assignment);
    const oht_key *key = NULL;
    if (n < sizeof(name)) {
        memcpy(name, assignment, n);
        name[n] = '\0';
        key = oht_key_find(name);
    }
    if (!key) {
        const char *near = n < sizeof(name) ? oht_nearest_key(name) : NULL;
        OHT_FAIL(OHT_CONFIG, "%.*s: unknown key%s%s\nfix: ohtrain train --help lists all keys",
                 n < 100 ? (int)n : 100, assignment, near ? "; nearest: " : "", near ? near : "");
    }
    OHT_TRY(oht_key_assign(cfg, key, equals + 1, NULL));
    return OHT_OK;
}

// Texts are quoted (value.c admits only what needs no other escape than these two).
static void write_value(const oht_key *key, const char *text, FILE *out) {
    if (key->type != OHT_KEY_TEXT) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (const char *s = text; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', out);
        fputc(*s, out);
    }
    fputc('"', out);
}

oht_status oht_config_write(const oht_config *cfg, FILE *out, bool comments) {
    int n;
    const oht_key *key = oht_keys(&n);
    size_t section = 0;
    for (int i = 0; i < n; i++) {
        const char *dot = strchr(key[i].name, '.');
        size_t length = (size_t)(dot - key[i].name);
        if (i == 0 || length != section || strncmp(key[i].name, key[i - 1].name, length) != 0)
            fprintf(out, "%s%.*s:\n", i && comments ? "\n" : "", (int)length, key[i].name);
        section = length;
        char text[OHT_KEY_TEXT_MAX], allowed[256];
        oht_key_get(cfg, &key[i], text);
        if (comments)
            fprintf(out, "  # %s [%s]\n", key[i].help, oht_key_allowed(&key[i], allowed, sizeof(allowed)));
        fprintf(out, "  %s: ", dot + 1);
        write_value(&key[i], text, out);
        fputc('\n', out);
    }
    if (fflush(out) != 0 || ferror(out))
        OHT_FAIL(OHT_IO, "cannot write the configuration: %s", strerror(errno));
    return OHT_OK;
}

oht_status oht_config_text(const oht_config *cfg, char **out) {
    *out = NULL;
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) OHT_FAIL(OHT_MEMORY, "no memory for the configuration's text");
    oht_status status = oht_config_write(cfg, stream, false);
    if (fclose(stream) != 0 && status == OHT_OK)
        status = oht_error_set(OHT_MEMORY, __FILE__, __LINE__, "no memory for the configuration's text");
    if (status == OHT_OK) status = oht_strdup(out, text); // callers free with oht_free
    free(text);
    return status;
}

oht_status oht_config_same_run(const oht_config *stored, const oht_config *now, const char *rundir) {
    int n, differ = 0;
    const oht_key *key = oht_keys(&n);
    char list[1024] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        // With compat.micro_batch_mean the micro-batch is part of the mathematics.
        bool layout = strcmp(key[i].name, "train.micro_batch") == 0 && now->compat.micro_batch_mean;
        if (key[i].may_change && !layout) continue;
        char was[OHT_KEY_TEXT_MAX], is[OHT_KEY_TEXT_MAX];
        oht_key_get(stored, &key[i], was);
        oht_key_get(now, &key[i], is);
        if (strcmp(was, is) == 0) continue;
        differ++;
        if (used < sizeof(list) - 1)
            used += (size_t)snprintf(list + used, sizeof(list) - used, "\n  %s: there %s, now %s",
                                     key[i].name, was, is);
    }
    if (differ == 0) return OHT_OK;
    if (used >= sizeof(list)) memcpy(list + sizeof(list) - 4, "...", 4);
    OHT_FAIL(OHT_CONFIG,
             "%s holds a run with another configuration; %d key%s may not change on resume:%s\nfix: another "
             "folder (-o), or the same values",
             rundir, differ, differ == 1 ? "" : "s", list);
}
