// Texts made from the table: the keys in --help, and the reference page in jobs/README.md.
#include <string.h>

#include "config/table.h"

// Prints text in lines of at most `width` columns, each after `indent` spaces.
static void wrap(FILE *out, const char *text, int indent, int width) {
    int column = 0;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (column > 0 && column + 1 + word > width) column = 0;
        if (column == 0)
            fprintf(out, "%s%*s", "\n", indent, "");
        else
            fputc(' ', out), column++;
        fprintf(out, "%.*s", word, text);
        column += word;
        text += word + (text[word] == ' ');
    }
    fputc('\n', out);
}

void oht_config_help(FILE *out) {
    int n;
    const oht_key *key = oht_keys(&n);
    fprintf(out, "Configuration keys, in YAML as sections and on the command line as section.key=value.\n"
                 "* may differ when a run is resumed.\n\n");
    for (int i = 0; i < n; i++) {
        char allowed[256];
        fprintf(out, "  %s%s = %s%s%s  (%s)", key[i].name, key[i].may_change ? "*" : "", key[i].value,
                key[i].unit ? " " : "", key[i].unit ? key[i].unit : "",
                oht_key_allowed(&key[i], allowed, sizeof(allowed)));
        wrap(out, key[i].help, 6, 90);
    }
}

void oht_config_reference(FILE *out) {
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) {
        size_t length = strcspn(key[i].name, ".");
        if (i == 0 || strncmp(key[i].name, key[i - 1].name, length + 1) != 0)
            fprintf(out,
                    "%s### %.*s\n\n| key | default | allowed | unit | resume | meaning "
                    "|\n|---|---|---|---|---|---|\n",
                    i ? "\n" : "", (int)length, key[i].name);
        char allowed[256];
        fprintf(out, "| `%s` | `%s` | %s | %s | %s | %s%s%s |\n", key[i].name, key[i].value,
                oht_key_allowed(&key[i], allowed, sizeof(allowed)), key[i].unit ? key[i].unit : "",
                key[i].may_change ? "may change" : "fixed", key[i].help, key[i].note ? "; " : "",
                key[i].note ? key[i].note : "");
    }
}
