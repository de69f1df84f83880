// The commands: one file each in src/cmd, thin. Each parses its arguments (argv[0] is the command's name),
// and returns the exit status. Collective.
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "oht/config.h"
#include "oht/dist.h"
#include "oht/status.h"

typedef struct oht_command {
    const char *name;
    const char *usage; // "[-c FILE.yaml] [key=value ...]"; with "key=value" in it, help lists all keys
    const char *summary;
    // An error must be the same on all ranks (a usage error is; else through oht_agree): main prints it once.
    oht_status (*run)(oht_comm *comm, int argc, char **argv);
    const char *help; // options, examples
    void (*print_options)(FILE *out); // help that is made from tables, after `help`; NULL = there is none
} oht_command;

extern const oht_command oht_cmd_train, oht_cmd_eval, oht_cmd_prepare, oht_cmd_report, oht_cmd_check,
    oht_cmd_bench;

// What a command accepts.
enum {
    OHT_OPT_CONFIG = 1, // -c FILE, --config FILE
    OHT_OPT_OUT = 2, // -o PATH, --out PATH
    OHT_OPT_RUN = 4, // -r DIR, --run DIR
    OHT_OPT_JSON = 8, // --json FILE
    OHT_OPT_FORMAT = 16, // --format WORD
    OHT_OPT_QUIET = 32, // -q, --quiet
    OHT_OPT_KEYS = 64, // key=value
    OHT_OPT_WORDS = 128, // other words
    OHT_OPT_STEPS = 256, // --steps N
    OHT_OPT_SENSITIVITY = 512, // --sensitivity WORD
    OHT_OPT_TABLE1 = 1024 // --table1
};

// Options shared by the commands. -h, --help is main's business.
typedef struct oht_options {
    const char *config, *out, *run, *json, *format, *steps, *sensitivity; // NULL = not given
    bool quiet, table1;
    char **rest; // key=value and other words, in order
    int n_rest;
} oht_options;

// Parses argv[1..] (argv[0] is the command's name); allowed: OHT_OPT_* bits. As getopt does, it reorders
// argv, and rest points into it. CONFIG error names the option or word, and the nearest known one. Local,
// same result on all ranks.
OHT_CHECKED oht_status oht_options_parse(int argc, char **argv, unsigned allowed, oht_options *opt);
// Defaults, then the file of -c, then key=value of the command line, then oht_config_check. Local: agree on
// the result.
OHT_CHECKED oht_status oht_options_config(const oht_options *opt, oht_config *cfg);
// The key=value words alone, on top of *cfg, then oht_config_check (eval: on top of a run's configuration).
// Local.
OHT_CHECKED oht_status oht_options_override(const oht_options *opt, oht_config *cfg);
// IO error with the command that makes the file when cfg->data.path does not exist. Local.
OHT_CHECKED oht_status oht_options_data(const oht_config *cfg);
// The same for a run that may exist already: a relative data.path that the command line does not give is the file which
// RUNDIR/data.json names, if it is not found from here, or always where `prefer` says so. Local.
OHT_CHECKED oht_status oht_options_run_data(const oht_options *opt, const char *rundir, bool prefer, oht_config *cfg);
