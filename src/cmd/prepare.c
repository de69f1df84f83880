// `ohtrain prepare`: the kinds of data, and what their command lines share (prepare.h).
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/prepare.h"
#include "config/table.h"
#include "oht/cmd.h"

static const prepare_kind *const KINDS[] = {&oht_prepare_kind_text, &oht_prepare_kind_images, &oht_prepare_kind_series};
enum { N_KINDS = sizeof(KINDS) / sizeof(KINDS[0]) };

// ---- words ----

static bool is_option(const char *word) {
    return word[0] == '-' && word[1] != '\0';
}

static const char *next_option(const void *ctx, int i) {
    const prepare_kind *kind = ctx;
    return i < kind->n_options ? kind->option[i].name : i == kind->n_options ? "--help" : NULL;
}

static const prepare_option *find_option(const prepare_kind *kind, const char *word) {
    for (int k = 0; k < kind->n_options; k++) {
        const prepare_option *o = &kind->option[k];
        const char letter[3] = {'-', o->letter, '\0'};
        if (strcmp(word, o->name) == 0 || (o->letter && strcmp(word, letter) == 0)) return o;
    }
    return NULL;
}

// The words after argv[*i] up to the next option; *i moves to the last of them.
static oht_status take_files(const prepare_kind *kind, int argc, char **argv, int *i, const char *const **list, int *n) {
    const char *name = argv[*i];
    if (*n > 0) OHT_FAIL(OHT_CONFIG, "prepare %s: %s is given twice\nfix: name all files after one %s", kind->word, name, name);
    *list = (const char *const *)(argv + *i + 1);
    while (*i + 1 < argc && !is_option(argv[*i + 1])) ++*i, ++*n;
    if (*n == 0) OHT_FAIL(OHT_CONFIG, "prepare %s: %s: expected one or more files after it", kind->word, name);
    return OHT_OK;
}

static oht_status take_value(const prepare_kind *kind, int argc, char **argv, int *i, const char **out) {
    const char *name = argv[*i];
    if (*out) OHT_FAIL(OHT_CONFIG, "prepare %s: %s is given twice", kind->word, name);
    if (*i + 1 >= argc || is_option(argv[*i + 1]) || !*argv[*i + 1])
        OHT_FAIL(OHT_CONFIG, "prepare %s: %s: expected a value after it", kind->word, name);
    *out = argv[++*i];
    return OHT_OK;
}

static oht_status take_input(const prepare_kind *kind, const char *word, char *out) {
    if (is_option(word)) {
        const char *near = oht_nearest(word, next_option, kind);
        OHT_FAIL(OHT_CONFIG, "prepare %s: unknown option %.100s%s%s\nfix: ohtrain prepare --help", kind->word, word,
                 near ? "; nearest: " : "", near ? near : "");
    }
    const char **input = (const char **)(out + kind->input);
    if (!kind->takes || *input || !*word)
        OHT_FAIL(OHT_CONFIG, "prepare %s: unexpected word \"%.100s\"%s%s\nfix: ohtrain prepare --help", kind->word, word,
                 kind->takes ? ", expected " : "", kind->takes ? kind->takes : "");
    *input = word;
    return OHT_OK;
}

oht_status oht_prepare_parse(const prepare_kind *kind, int argc, char **argv, void *out) {
    char *fields = out;
    for (int i = 2; i < argc; i++) {
        const prepare_option *o = find_option(kind, argv[i]);
        if (!o)
            OHT_TRY(take_input(kind, argv[i], fields));
        else if (!o->argument)
            *(bool *)(fields + o->field) = true;
        else if (o->count)
            OHT_TRY(take_files(kind, argc, argv, &i, (const char *const **)(fields + o->field), (int *)(fields + o->count)));
        else
            OHT_TRY(take_value(kind, argc, argv, &i, (const char **)(fields + o->field)));
    }
    return OHT_OK;
}

oht_status oht_prepare_number(const prepare_kind *kind, const char *name, const char *word, int64_t most, int64_t *out) {
    if (!word) return OHT_OK;
    char *end;
    errno = 0;
    char limit[32] = "on";
    if (most) snprintf(limit, sizeof(limit), "to %" PRId64, most);
    long long value = strtoll(word, &end, 10);
    if (*end || errno || value < 1 || (most && value > most))
        OHT_FAIL(OHT_CONFIG, "prepare %s: %s is \"%.40s\", expected a number from 1 %s", kind->word, name, word, limit);
    *out = value;
    return OHT_OK;
}

// ---- the command ----

static oht_status run(oht_comm *comm, int argc, char **argv) {
    if (argc < 2 || is_option(argv[1]))
        OHT_FAIL(
            OHT_CONFIG,
            "prepare: what? expected: ohtrain prepare text ..., images ... or series ...\nfix: ohtrain prepare --help");
    for (int k = 0; k < N_KINDS; k++)
        if (strcmp(argv[1], KINDS[k]->word) == 0) return KINDS[k]->run(comm, argc, argv);
    OHT_FAIL(
        OHT_CONFIG,
        "prepare: unknown kind of data \"%.40s\", expected text, images or series\nfix: ohtrain prepare --help",
        argv[1]);
}

static void print_option(const prepare_option *o, FILE *out) {
    enum { COLUMN = 22 };
    char left[64], letter[8] = "";
    if (o->letter) snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    snprintf(left, sizeof(left), "%s%s%s%s", letter, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
    fprintf(out, "  %-*s", COLUMN, left);
    for (const char *c = o->help; *c; c++) { // further lines below the first
        fputc(*c, out);
        if (*c == '\n') fprintf(out, "  %-*s", COLUMN, "");
    }
    fputc('\n', out);
}

static void print_options(FILE *out) {
    for (int k = 0; k < N_KINDS; k++) {
        fprintf(out, "%s%s: %s\n", k ? "\n" : "", KINDS[k]->word, KINDS[k]->title);
        for (int i = 0; i < KINDS[k]->n_options; i++) print_option(&KINDS[k]->option[i], out);
        fprintf(out, "\n%s", KINDS[k]->notes);
    }
}

const oht_command oht_cmd_prepare = {
    .name = "prepare",
    .usage = "text --train FILE... --validation FILE... --tokenizer FOLDER --block T -o FILE.h5\n"
             "  ohtrain prepare images --train DIR --validation DIR -o FILE.h5\n"
             "  ohtrain prepare series FILE.csv --split SCHEME -o FILE.h5",
    .summary = "Turns raw text, folders of images, or a table of time series into an HDF5 file for training and evaluation.",
    .run = run,
    .help = "",
    .print_options = print_options,
};
