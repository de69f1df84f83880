// `ohtrain prepare series`: arguments of the preparation of time series (include/oht/series.h).
#include "cmd/prepare.h"
#include "oht/log.h"
#include "oht/series.h"

typedef struct arguments {
    oht_prepare_series opt;
    bool quiet;
} arguments;

static const prepare_option OPTIONS[] = {
    {"--split", 0, "SCHEME", offsetof(arguments, opt.split), 0,
     "rows of training, validation and test, one after the other:\n"
     "  etth, ettm, wth, ecl   as published (etth: 8640,2880,2880)\n"
     "  8640,2880,2880         numbers of rows; what is left is not used\n"
     "  0.7,0.1,0.2            ratios, which add up to 1"},
    {"--out", 'o', "FILE.h5", offsetof(arguments, opt.out), 0, "output; replaced whole when all is done"},
    {"--quiet", 'q', NULL, offsetof(arguments, quiet), 0, "no warnings"},
};

static oht_status parse(arguments *a, int argc, char **argv) {
    OHT_TRY(oht_prepare_parse(&oht_prepare_kind_series, argc, argv, a));
    if (!a->opt.csv)
        OHT_FAIL(OHT_CONFIG, "prepare series: no input\nfix: ohtrain prepare series FILE.csv --split etth -o FILE.h5");
    if (!a->opt.split)
        OHT_FAIL(OHT_CONFIG, "prepare series: --split is missing\nfix: --split etth (ettm, wth, ecl: as published), ratios as "
                             "--split 0.7,0.1,0.2, or numbers of rows as --split 8640,2880,2880");
    if (!a->opt.out) OHT_FAIL(OHT_CONFIG, "prepare series: -o FILE.h5 is missing");
    return OHT_OK;
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    arguments a = {0};
    OHT_TRY(oht_agree(comm, parse(&a, argc, argv)));
    oht_log_init(oht_comm_rank(comm), a.quiet, "auto");
    return oht_prepare_series_run(comm, &a.opt);
}

const prepare_kind oht_prepare_kind_series = {
    .word = "series",
    .title = "a CSV file with a header, a date in the first column, and numbers in all others",
    .option = OPTIONS,
    .n_options = sizeof(OPTIONS) / sizeof(OPTIONS[0]),
    .takes = "one CSV file",
    .input = offsetof(arguments, opt.csv),
    .notes =
        "Columns are standardised with mean and standard deviation of the training rows; a column that is constant there only\n"
        "loses its mean, with a warning. Dates must ascend; steps of different length are a warning, because rows are taken as\n"
        "equally spaced. A missing or non-numeric cell is an error. Quoted fields, CRLF and a byte order mark are understood.\n"
        "\n"
        "  ohtrain prepare series ETTh1.csv --split etth -o etth1.h5\n",
    .run = run,
};
