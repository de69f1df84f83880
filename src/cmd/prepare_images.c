// `ohtrain prepare images`: arguments of the image preparation (include/oht/images.h).
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/prepare.h"
#include "config/table.h"
#include "oht/images.h"
#include "oht/log.h"

static const char *const OPTIONS[] = {"--train", "--validation", "--resize", "--strict",
                                      "--out",   "--quiet",      "--help",   NULL};

static const char *option_name(const void *ctx, int i) {
    (void)ctx;
    return OPTIONS[i];
}

static oht_status take_value(int argc, char **argv, int *i, const char **out) {
    const char *name = argv[*i];
    if (*out) OHT_FAIL(OHT_CONFIG, "prepare images: %s is given twice", name);
    if (*i + 1 >= argc || argv[*i + 1][0] == '-' || !*argv[*i + 1])
        OHT_FAIL(OHT_CONFIG, "prepare images: %s: expected a value after it", name);
    *out = argv[++*i];
    return OHT_OK;
}

static oht_status take_side(const char *word, int64_t *out) {
    if (!word) return OHT_OK;
    char *end;
    errno = 0;
    long long value = strtoll(word, &end, 10);
    if (*end || errno || value < 1 || value > 65500)
        OHT_FAIL(OHT_CONFIG, "prepare images: --resize is \"%.40s\", expected 1 to 65500 pixels", word);
    *out = value;
    return OHT_OK;
}

static oht_status refuse(const char *word) {
    const char *near = word[0] == '-' ? oht_nearest(word, option_name, NULL) : NULL;
    OHT_FAIL(OHT_CONFIG, "prepare images: %s \"%.100s\"%s%s\nfix: ohtrain prepare --help",
             word[0] == '-' ? "unknown option" : "unexpected word", word, near ? "; nearest: " : "",
             near ? near : "");
}

static oht_status parse(oht_prepare_images *opt, bool *quiet, int argc, char **argv) {
    const char *side = NULL;
    for (int i = 2; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--train") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->train));
        else if (strcmp(word, "--validation") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->validation));
        else if (strcmp(word, "--resize") == 0)
            OHT_TRY(take_value(argc, argv, &i, &side));
        else if (strcmp(word, "--out") == 0 || strcmp(word, "-o") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->out));
        else if (strcmp(word, "--strict") == 0)
            opt->strict = true;
        else if (strcmp(word, "--quiet") == 0 || strcmp(word, "-q") == 0)
            *quiet = true;
        else
            return refuse(word);
    }
    if (!opt->train && !opt->validation)
        OHT_FAIL(OHT_CONFIG,
                 "prepare images: no input\nfix: --train DIR --validation DIR, folders of class folders");
    if (!opt->out) OHT_FAIL(OHT_CONFIG, "prepare images: -o FILE.h5 is missing");
    return take_side(side, &opt->resize);
}

oht_status oht_cmd_prepare_images(oht_comm *comm, int argc, char **argv) {
    oht_prepare_images opt = {0};
    bool quiet = false;
    OHT_TRY(oht_agree(comm, parse(&opt, &quiet, argc, argv)));
    oht_log_init(oht_comm_rank(comm), quiet, "auto");
    return oht_prepare_images_run(comm, &opt);
}
