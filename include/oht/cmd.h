// The commands: one file each in src/cmd, thin. Each parses its arguments (argv[0] is the command's name), and returns the
// exit status. Collective.
#pragma once

#include <stdbool.h>

#include "oht/dist.h"
#include "oht/status.h"

typedef struct oht_command {
    const char *name, *usage, *summary;
    oht_status (*run)(oht_comm *comm, int argc, char **argv);
    const char *help; // options, examples
} oht_command;

extern const oht_command oht_cmd_train, oht_cmd_eval, oht_cmd_prepare, oht_cmd_report, oht_cmd_check, oht_cmd_bench;

// Options shared by the commands that take a configuration: -c FILE, -o DIR, -r DIR, --json FILE, --quiet, key=value.
typedef struct oht_options {
    const char *config, *out, *run, *json, *format;
    bool quiet, help;
    const char **rest; // key=value and other words, in order
    int n_rest;
} oht_options;
