// `ohtrain prepare images`: arguments of the image preparation (include/oht/images.h).
#include "cmd/prepare.h"
#include "oht/images.h"
#include "oht/log.h"

typedef struct arguments {
    oht_prepare_images opt;
    const char *side;
    bool quiet;
} arguments;

static const prepare_option OPTIONS[] = {
    {"--train", 0, "DIR", offsetof(arguments, opt.train), 0, "holds one folder for each class (its name is the class)"},
    {"--validation", 0, "DIR", offsetof(arguments, opt.validation), 0,
     "likewise, with the same names (one of the two may be left out)"},
    {"--resize", 0, "SHORT", offsetof(arguments, side), 0,
     "JPEGs whose short side is SHORT pixels, instead of larger images; smaller files"},
    {"--strict", 0, NULL, offsetof(arguments, opt.strict), 0,
     "stop at a file that is no readable image; without it, it is listed and skipped"},
    {"--out", 'o', "FILE.h5", offsetof(arguments, opt.out), 0, "output; replaced whole when all is done"},
    {"--quiet", 'q', NULL, offsetof(arguments, quiet), 0, "no progress"},
};

static oht_status parse(arguments *a, int argc, char **argv) {
    OHT_TRY(oht_prepare_parse(&oht_prepare_kind_images, argc, argv, a));
    if (!a->opt.train && !a->opt.validation)
        OHT_FAIL(OHT_CONFIG,
                 "prepare images: no input\nfix: --train DIR --validation DIR, folders of class folders");
    if (!a->opt.out) OHT_FAIL(OHT_CONFIG, "prepare images: -o FILE.h5 is missing");
    return oht_prepare_number(&oht_prepare_kind_images, "--resize", a->side, 65500, &a->opt.resize); // JPEG's largest side
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    arguments a = {0};
    OHT_TRY(oht_agree(comm, parse(&a, argc, argv)));
    oht_log_init(oht_comm_rank(comm), a.quiet, "auto");
    return oht_prepare_images_run(comm, &a.opt);
}

const prepare_kind oht_prepare_kind_images = {
    .word = "images",
    .title = "encoded JPEG and PNG files with their class",
    .option = OPTIONS,
    .n_options = sizeof(OPTIONS) / sizeof(OPTIONS[0]),
    .notes =
        "  mpirun -np 8 ohtrain prepare images --train ILSVRC/train --validation ILSVRC/val -o imagenet.h5\n",
    .run = run,
};
