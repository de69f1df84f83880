// `ohtrain prepare series`: arguments of the preparation of time series (include/oht/series.h).
#include <string.h>

#include "cmd/prepare.h"
#include "config/table.h"
#include "oht/log.h"
#include "oht/series.h"

static const char *const OPTIONS[] = {"--split", "--out", "--quiet", "--help", NULL};

static const char *option_name(const void *ctx, int i) {
    (void)ctx;
    return OPTIONS[i];
}

static oht_status take_value(int argc, char **argv, int *i, const char **out) {
    const char *name = argv[*i];
    if (*out) OHT_FAIL(OHT_CONFIG, "prepare series: %s is given twice", name);
    if (*i + 1 >= argc || argv[*i + 1][0] == '-' || !*argv[*i + 1])
        OHT_FAIL(OHT_CONFIG, "prepare series: %s: expected a value after it", name);
    *out = argv[++*i];
    return OHT_OK;
}

static oht_status take_file(const char *word, const char **csv) {
    if (*word == '-' && word[1]) {
        const char *near = oht_nearest(word, option_name, NULL);
        OHT_FAIL(OHT_CONFIG, "prepare series: unknown option \"%.100s\"%s%s\nfix: ohtrain prepare --help", word,
                 near ? "; nearest: " : "", near ? near : "");
    }
    if (*csv || !*word)
        OHT_FAIL(OHT_CONFIG, "prepare series: unexpected word \"%.100s\", expected one CSV file\nfix: ohtrain prepare --help", word);
    *csv = word;
    return OHT_OK;
}

static oht_status parse(oht_prepare_series *opt, bool *quiet, int argc, char **argv) {
    for (int i = 2; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--split") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->split));
        else if (strcmp(word, "--out") == 0 || strcmp(word, "-o") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->out));
        else if (strcmp(word, "--quiet") == 0 || strcmp(word, "-q") == 0)
            *quiet = true;
        else
            OHT_TRY(take_file(word, &opt->csv));
    }
    if (!opt->csv) OHT_FAIL(OHT_CONFIG, "prepare series: no input\nfix: ohtrain prepare series FILE.csv --split etth -o FILE.h5");
    if (!opt->split)
        OHT_FAIL(OHT_CONFIG, "prepare series: --split is missing\nfix: --split etth (ettm, wth, ecl: as published), ratios as "
                             "--split 0.7,0.1,0.2, or numbers of rows as --split 8640,2880,2880");
    if (!opt->out) OHT_FAIL(OHT_CONFIG, "prepare series: -o FILE.h5 is missing");
    return OHT_OK;
}

oht_status oht_cmd_prepare_series(oht_comm *comm, int argc, char **argv) {
    oht_prepare_series opt = {0};
    bool quiet = false;
    OHT_TRY(oht_agree(comm, parse(&opt, &quiet, argc, argv)));
    oht_log_init(oht_comm_rank(comm), quiet, "auto");
    return oht_prepare_series_run(comm, &opt);
}
