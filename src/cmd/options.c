// Options that commands share, from one table, and the way from them to a checked configuration.
#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "config/table.h"
#include "oht/cmd.h"
#include "oht/data.h"
#include "oht/log.h"
#include "oht/model.h"
#include "train/rundir.h"

typedef struct option_row {
    unsigned bit;
    char letter; // 0 = long form only
    const char *name;
    bool argument;
    size_t field; // of struct oht_options: const char *, or bool without argument
} option_row;

static const option_row OPTIONS[] = {
    {OHT_OPT_CONFIG, 'c', "config", true, offsetof(oht_options, config)},
    {OHT_OPT_OUT, 'o', "out", true, offsetof(oht_options, out)},
    {OHT_OPT_RUN, 'r', "run", true, offsetof(oht_options, run)},
    {OHT_OPT_JSON, 0, "json", true, offsetof(oht_options, json)},
    {OHT_OPT_FORMAT, 0, "format", true, offsetof(oht_options, format)},
    {OHT_OPT_STEPS, 0, "steps", true, offsetof(oht_options, steps)},
    {OHT_OPT_TABLE1, 0, "table1", false, offsetof(oht_options, table1)},
    {OHT_OPT_SENSITIVITY, 0, "sensitivity", true, offsetof(oht_options, sensitivity)},
    {OHT_OPT_QUIET, 'q', "quiet", false, offsetof(oht_options, quiet)},
};
enum { N_OPTIONS = sizeof(OPTIONS) / sizeof(OPTIONS[0]), LONG_ONLY = 256 };

static const char *next_option(const void *ctx, int i) {
    const unsigned *allowed = ctx;
    for (int k = 0; k < N_OPTIONS; k++)
        if ((OPTIONS[k].bit & *allowed) && i-- == 0) return OPTIONS[k].name;
    return NULL;
}

// "-c FILE, -o PATH, ..." of what is allowed.
static const char *list_options(unsigned allowed, char *out, size_t size) {
    size_t n = 0;
    out[0] = '\0';
    for (int k = 0; k < N_OPTIONS && n < size; k++)
        if (OPTIONS[k].bit & allowed) n += (size_t)snprintf(out + n, size - n, "--%s, ", OPTIONS[k].name);
    if (n < size) snprintf(out + n, size - n, "--help");
    return out;
}

static oht_status unknown_option(const char *command, const char *word, unsigned allowed) {
    char list[256], bare[64];
    snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(word + strspn(word, "-"), "="),
             word + strspn(word, "-"));
    const char *near = oht_nearest(bare, next_option, &allowed);
    OHT_FAIL(OHT_CONFIG, "%s: unknown option %.100s%s%s; allowed: %s\nfix: ohtrain %s --help", command, word,
             near ? "; nearest: --" : "", near ? near : "", list_options(allowed, list, sizeof(list)),
             command);
}

static oht_status take(oht_options *opt, const option_row *row, const char *command, char *argument) {
    char *field = (char *)opt + row->field;
    if (!row->argument) {
        *(bool *)field = true;
        return OHT_OK;
    }
    if (*(const char **)field)
        OHT_FAIL(OHT_CONFIG, "%s: --%s is given twice: %.100s and %.100s", command, row->name,
                 *(const char **)field, argument);
    if (!*argument) OHT_FAIL(OHT_CONFIG, "%s: --%s: found nothing, expected a value", command, row->name);
    *(const char **)field = argument;
    return OHT_OK;
}

static oht_status check_words(const oht_options *opt, const char *command, unsigned allowed) {
    for (int i = 0; i < opt->n_rest; i++) {
        const char *word = opt->rest[i];
        bool key = strchr(word, '=') != NULL;
        if (key && !(allowed & (OHT_OPT_KEYS | OHT_OPT_WORDS)))
            OHT_FAIL(OHT_CONFIG, "%s: %.100s: this command takes no key=value", command, word);
        if (!key && !(allowed & OHT_OPT_WORDS))
            OHT_FAIL(OHT_CONFIG, "%s: unexpected word \"%.100s\"%s\nfix: ohtrain %s --help", command, word,
                     allowed & OHT_OPT_KEYS ? ", expected options and key=value" : "", command);
    }
    return OHT_OK;
}

oht_status oht_options_parse(int argc, char **argv, unsigned allowed, oht_options *opt) {
    memset(opt, 0, sizeof(*opt));
    char letters[2 * N_OPTIONS + 2] = ":";
    struct option names[N_OPTIONS + 1] = {0};
    int n = 0;
    for (int k = 0; k < N_OPTIONS; k++) {
        if (!(OPTIONS[k].bit & allowed)) continue;
        names[n++] = (struct option){OPTIONS[k].name, OPTIONS[k].argument ? required_argument : no_argument,
                                     NULL, LONG_ONLY + k};
        char form[3] = {OPTIONS[k].letter, OPTIONS[k].argument ? ':' : '\0', '\0'};
        if (OPTIONS[k].letter) strcat(letters, form);
    }
    optind = 0; // GNU getopt: start again
    opterr = 0;
    for (;;) {
        int before = optind ? optind : 1;
        int c = getopt_long(argc, argv, letters, names, NULL);
        if (c == -1) break;
        const char *word = optind - 1 >= before ? argv[optind - 1] : argv[before];
        char letter[3] = {'-', (char)optopt, '\0'};
        if (c == ':') OHT_FAIL(OHT_CONFIG, "%s: %.100s: expected a value after it", argv[0], word);
        // optopt: the unknown letter; LONG_ONLY + k when option k was given a value it does not take
        if (c == '?' && optopt >= LONG_ONLY)
            OHT_FAIL(OHT_CONFIG, "%s: %.100s: this option takes no value", argv[0], word);
        if (c == '?') return unknown_option(argv[0], optopt ? letter : word, allowed);
        const option_row *row = c >= LONG_ONLY ? &OPTIONS[c - LONG_ONLY] : OPTIONS;
        if (c < LONG_ONLY)
            while (row->letter != c) row++;
        OHT_TRY(take(opt, row, argv[0], optarg));
    }
    opt->rest = argv + optind;
    opt->n_rest = argc - optind;
    OHT_TRY(check_words(opt, argv[0], allowed));
    return OHT_OK;
}

oht_status oht_options_override(const oht_options *opt, oht_config *cfg) {
    for (int i = 0; i < opt->n_rest; i++) OHT_TRY(oht_config_set(cfg, opt->rest[i]));
    // Once more, so that a later model.width does not move an explicit embedding width (oht_key_assign).
    for (int i = 0; i < opt->n_rest; i++)
        if (strncmp(opt->rest[i], "model.embed_width=", 18) == 0) OHT_TRY(oht_config_set(cfg, opt->rest[i]));
    OHT_TRY(oht_config_check(cfg));
    return OHT_OK;
}

oht_status oht_options_config(const oht_options *opt, oht_config *cfg) {
    oht_config_defaults(cfg);
    if (opt->config) OHT_TRY(oht_config_load(cfg, opt->config));
    OHT_TRY(oht_options_override(opt, cfg));
    return OHT_OK;
}

oht_status oht_options_run_data(const oht_options *opt, const char *rundir, bool prefer, oht_config *cfg) {
    oht_rundir_data_info run;
    bool given = false, here = access(cfg->data.path, F_OK) == 0;
    for (int i = 0; i < opt->n_rest; i++) given |= strncmp(opt->rest[i], "data.path=", 10) == 0;
    if (given || cfg->data.path[0] == '/' || (here && !prefer) || !oht_rundir_data(rundir, &run) || !run.path[0])
        return oht_options_data(cfg);
    if (access(run.path, F_OK) == 0) {
        if (!here) oht_log("data.path: no %s from here; reading %s, as this run did before", cfg->data.path, run.path);
        strcpy(cfg->data.path, run.path);
    } else if (!here) {
        OHT_FAIL(OHT_IO,
                 "data.path: %s: not found from this folder, and %s, where this run read it, is gone\nfix: "
                 "data.path=FILE says where it is now",
                 cfg->data.path, run.path);
    }
    return OHT_OK;
}

oht_status oht_options_data(const oht_config *cfg) {
    if (access(cfg->data.path, F_OK) == 0) return OHT_OK;
    const char *why = strerror(errno);
    oht_config demo;
    oht_config_defaults(&demo);
    if (strcmp(cfg->data.path, demo.data.path) == 0)
        OHT_FAIL(OHT_IO,
                 "data.path: %s: %s\nfix: make the sample data, in the source folder: bash "
                 "datasets/make-sample.sh",
                 cfg->data.path, why);
    if (strcmp(cfg->data.path, "datasets/sample/images.h5") == 0)
        OHT_FAIL(OHT_IO, "data.path: %s: %s\nfix: make the sample pictures, in the source folder: bash datasets/make-sample.sh images",
                 cfg->data.path, why);
    OHT_FAIL(OHT_IO, "data.path: %s: %s\nfix: make it with ohtrain prepare %s -o %s ..., or set data.path", cfg->data.path,
             why, oht_task_prepare(oht_model_task(&cfg->model)), cfg->data.path);
}
