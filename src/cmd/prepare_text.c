// `ohtrain prepare text`: arguments of the text preparation (include/oht/data.h).
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/prepare.h"
#include "oht/data.h"
#include "oht/log.h"

typedef struct arguments {
    oht_prepare_text opt;
    const char *kind, *block, *group;
    bool quiet;
} arguments;

static const prepare_option OPTIONS[] = {
    {"--train", 0, "FILE...", offsetof(arguments, opt.train), offsetof(arguments, opt.n_train),
     "input files of /train, in order; all their rows are one list"},
    {"--validation", 0, "FILE...", offsetof(arguments, opt.validation), offsetof(arguments, opt.n_validation),
     "input files of /validation (one of the two may be left out)"},
    {"--tokenizer", 0, "FOLDER", offsetof(arguments, opt.tokenizer), 0,
     "holds vocab.txt (WordPiece, BERT), or vocab.json and merges.txt (BPE, OPT)"},
    {"--kind", 0, "KIND", offsetof(arguments, kind), 0, "wordpiece or bpe; needed only if the folder holds both"},
    {"--block", 0, "T", offsetof(arguments, block), 0, "tokens a row, 8 to 65536"},
    {"--json-field", 0, "NAME", offsetof(arguments, opt.json_field), 0,
     "inputs are JSON lines, the text is in this field; without it one row a line"},
    {"--rows-per-group", 0, "N", offsetof(arguments, group), 0,
     "rows whose tokens are joined before they are cut into blocks (1000)"},
    {"--keep-remainder", 0, NULL, offsetof(arguments, opt.keep_remainder), 0,
     "pad what is left of each group to a whole block instead of dropping it"},
    {"--out", 'o', "FILE.h5", offsetof(arguments, opt.out), 0, "output; replaced whole when all is done"},
    {"--quiet", 'q', NULL, offsetof(arguments, quiet), 0, "no progress"},
};

static bool has_file(const char *folder, const char *name) {
    char path[4200];
    snprintf(path, sizeof(path), "%.4096s/%s", folder, name);
    return access(path, F_OK) == 0;
}

// --kind, or what the folder's files say.
static oht_status find_kind(const char *kind, const char *folder, bool *wordpiece) {
    if (kind) {
        *wordpiece = strcmp(kind, "wordpiece") == 0;
        if (!*wordpiece && strcmp(kind, "bpe") != 0)
            OHT_FAIL(OHT_CONFIG, "prepare text: --kind is \"%.40s\", expected wordpiece or bpe", kind);
        return OHT_OK;
    }
    bool txt = has_file(folder, "vocab.txt"), json = has_file(folder, "vocab.json");
    if (txt && json)
        OHT_FAIL(OHT_CONFIG,
                 "prepare text: %s holds vocab.txt and vocab.json\nfix: say --kind wordpiece or --kind bpe",
                 folder);
    if (!txt && !json)
        OHT_FAIL(OHT_DATA,
                 "%s: no vocabulary in this folder: neither vocab.txt (WordPiece) nor vocab.json (BPE)\nfix: "
                 "--tokenizer "
                 "datasets/sample/tokenizers/opt, or a folder with the published files",
                 folder);
    *wordpiece = txt;
    return OHT_OK;
}

static oht_status parse(arguments *a, int argc, char **argv) {
    const prepare_kind *kind = &oht_prepare_kind_text;
    oht_prepare_text *opt = &a->opt;
    OHT_TRY(oht_prepare_parse(kind, argc, argv, a));
    if (!opt->n_train && !opt->n_validation)
        OHT_FAIL(OHT_CONFIG, "prepare text: no input\nfix: --train FILE... --validation FILE...");
    if (!opt->tokenizer)
        OHT_FAIL(OHT_CONFIG,
                 "prepare text: --tokenizer FOLDER is missing\nfix: --tokenizer datasets/sample/tokenizers/opt");
    if (!a->block)
        OHT_FAIL(OHT_CONFIG,
                 "prepare text: --block T is missing\nfix: --block 512 (the paper's OPT), --block 128 (its BERT)");
    if (!opt->out) OHT_FAIL(OHT_CONFIG, "prepare text: -o FILE.h5 is missing");
    OHT_TRY(oht_prepare_number(kind, "--block", a->block, 0, &opt->tokens));
    OHT_TRY(oht_prepare_number(kind, "--rows-per-group", a->group, 0, &opt->rows_per_group));
    return find_kind(a->kind, opt->tokenizer, &opt->wordpiece);
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    arguments a = {.opt.rows_per_group = 1000};
    OHT_TRY(oht_agree(comm, parse(&a, argc, argv)));
    oht_log_init(oht_comm_rank(comm), a.quiet, "auto");
    return oht_prepare_text_run(comm, &a.opt);
}

const prepare_kind oht_prepare_kind_text = {
    .word = "text",
    .title = "rows of token ids",
    .option = OPTIONS,
    .n_options = sizeof(OPTIONS) / sizeof(OPTIONS[0]),
    .notes =
        "WordPiece rows are [CLS] ... [SEP] and make a file for BERT (mlm), BPE rows are </s> ... and make one for\n"
        "OPT (clm). An empty line is a row too. A BERT group shorter than T is always kept, padded. Invalid UTF-8\n"
        "becomes U+FFFD. Under mpirun the ranks share the work; the bytes of the file stay the same.\n"
        "\n"
        "  ohtrain prepare text --train train.txt --validation valid.txt \\\n"
        "      --tokenizer datasets/sample/tokenizers/opt --block 512 -o opt.h5\n"
        "  mpirun -np 8 ohtrain prepare text --train books.jsonl wiki.jsonl --validation wiki-valid.jsonl \\\n"
        "      --json-field text --tokenizer datasets/sample/tokenizers/bert-base-uncased --block 128 -o bert.h5\n",
    .run = run,
};
