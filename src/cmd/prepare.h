// Kinds of data that `ohtrain prepare` knows, a file each. A kind's options are one table, which the parser, the nearest name of
// an unknown option and --help read.
#pragma once

#include <stddef.h>

#include "oht/dist.h"
#include "oht/status.h"

typedef struct prepare_option {
    const char *name;     // "--block"
    char letter;          // 0 = long form only
    const char *argument; // as --help shows it; NULL = a switch
    size_t field;         // const char *; const char *const * where there are several; bool of a switch
    size_t count;         // how many there are of several, int; 0 = one
    const char *help;
} prepare_option;

typedef struct prepare_kind {
    const char *word;  // argv[1]
    const char *title; // of its options in --help
    const prepare_option *option;
    int n_options;
    const char *takes; // beside options, "one CSV file"; NULL = nothing
    size_t input;      // field of that, const char *
    const char *notes; // --help after the options
    // Argument errors are agreed on within. Collective.
    oht_status (*run)(oht_comm *comm, int argc, char **argv);
} prepare_kind;

extern const prepare_kind oht_prepare_kind_text, oht_prepare_kind_images, oht_prepare_kind_series;

// The words from argv[2] on into the fields of *out, which is zero before. Several files are a part of argv. Local.
OHT_CHECKED oht_status oht_prepare_parse(const prepare_kind *kind, int argc, char **argv, void *out);
// The whole number after option `name`, from 1 to `most` (0 = any); a NULL word leaves *out. Local.
OHT_CHECKED oht_status oht_prepare_number(const prepare_kind *kind, const char *name, const char *word, int64_t most, int64_t *out);
