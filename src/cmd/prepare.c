// `ohtrain prepare`: arguments of the text preparation (include/oht/data.h); other kinds have files of their
// own (prepare.h).
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/prepare.h"
#include "config/table.h"
#include "oht/cmd.h"
#include "oht/data.h"
#include "oht/log.h"
#include "oht/memory.h"

static const char *const OPTIONS[] = {"--train", "--validation", "--tokenizer",      "--kind",
                                      "--block", "--json-field", "--rows-per-group", "--keep-remainder",
                                      "--out",   "--quiet",      "--help",           NULL};

typedef struct arguments {
    oht_prepare_text opt;
    const char **files; // train's, then validation's
    const char *kind, *block, *group;
    bool quiet;
} arguments;

static const char *option_name(const void *ctx, int i) {
    (void)ctx;
    return OPTIONS[i];
}

static oht_status unknown(const char *word) {
    const char *near = oht_nearest(word, option_name, NULL);
    OHT_FAIL(OHT_CONFIG, "prepare: unknown option %.100s%s%s\nfix: ohtrain prepare --help", word,
             near ? "; nearest: " : "", near ? near : "");
}

static bool is_option(const char *word) {
    return word[0] == '-' && word[1] != '\0';
}

// The words after --train or --validation up to the next option; *i moves to the last of them.
static oht_status take_files(arguments *a, int argc, char **argv, int *i, const char *const **list, int *n) {
    const char *name = argv[*i], **files = a->files + a->opt.n_train + a->opt.n_validation;
    if (*n > 0)
        OHT_FAIL(OHT_CONFIG, "prepare: %s is given twice\nfix: name all files after one %s", name, name);
    while (*i + 1 < argc && !is_option(argv[*i + 1])) files[(*n)++] = argv[++*i];
    if (*n == 0) OHT_FAIL(OHT_CONFIG, "prepare: %s: expected one or more files after it", name);
    *list = files;
    return OHT_OK;
}

static oht_status take_value(int argc, char **argv, int *i, const char **out) {
    const char *name = argv[*i];
    if (*out) OHT_FAIL(OHT_CONFIG, "prepare: %s is given twice", name);
    if (*i + 1 >= argc || is_option(argv[*i + 1]) || !*argv[*i + 1])
        OHT_FAIL(OHT_CONFIG, "prepare: %s: expected a value after it", name);
    *out = argv[++*i];
    return OHT_OK;
}

static oht_status parse_number(const char *name, const char *word, int64_t *out) {
    if (!word) return OHT_OK;
    char *end;
    errno = 0;
    long long value = strtoll(word, &end, 10);
    if (*end || errno || value < 1)
        OHT_FAIL(OHT_CONFIG, "prepare: %s is \"%.40s\", expected a number from 1 on", name, word);
    *out = value;
    return OHT_OK;
}

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
            OHT_FAIL(OHT_CONFIG, "prepare: --kind is \"%.40s\", expected wordpiece or bpe", kind);
        return OHT_OK;
    }
    bool txt = has_file(folder, "vocab.txt"), json = has_file(folder, "vocab.json");
    if (txt && json)
        OHT_FAIL(OHT_CONFIG,
                 "prepare: %s holds vocab.txt and vocab.json\nfix: say --kind wordpiece or --kind bpe",
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
    oht_prepare_text *opt = &a->opt;
    if (argc < 2 || is_option(argv[1]))
        OHT_FAIL(
            OHT_CONFIG,
            "prepare: what? expected: ohtrain prepare text ..., images ... or series ...\nfix: ohtrain prepare --help");
    if (strcmp(argv[1], "text") != 0)
        OHT_FAIL(
            OHT_CONFIG,
            "prepare: unknown kind of data \"%.40s\", expected text, images or series\nfix: ohtrain prepare --help",
            argv[1]);
    for (int i = 2; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--train") == 0)
            OHT_TRY(take_files(a, argc, argv, &i, &opt->train, &opt->n_train));
        else if (strcmp(word, "--validation") == 0)
            OHT_TRY(take_files(a, argc, argv, &i, &opt->validation, &opt->n_validation));
        else if (strcmp(word, "--tokenizer") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->tokenizer));
        else if (strcmp(word, "--kind") == 0)
            OHT_TRY(take_value(argc, argv, &i, &a->kind));
        else if (strcmp(word, "--block") == 0)
            OHT_TRY(take_value(argc, argv, &i, &a->block));
        else if (strcmp(word, "--json-field") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->json_field));
        else if (strcmp(word, "--rows-per-group") == 0)
            OHT_TRY(take_value(argc, argv, &i, &a->group));
        else if (strcmp(word, "--keep-remainder") == 0)
            opt->keep_remainder = true;
        else if (strcmp(word, "--out") == 0 || strcmp(word, "-o") == 0)
            OHT_TRY(take_value(argc, argv, &i, &opt->out));
        else if (strcmp(word, "--quiet") == 0 || strcmp(word, "-q") == 0)
            a->quiet = true;
        else if (is_option(word))
            return unknown(word);
        else
            OHT_FAIL(OHT_CONFIG, "prepare: unexpected word \"%.100s\"\nfix: ohtrain prepare --help", word);
    }
    if (!opt->n_train && !opt->n_validation)
        OHT_FAIL(OHT_CONFIG, "prepare: no input\nfix: --train FILE... --validation FILE...");
    if (!opt->tokenizer)
        OHT_FAIL(OHT_CONFIG,
                 "prepare: --tokenizer FOLDER is missing\nfix: --tokenizer datasets/sample/tokenizers/opt");
    if (!a->block)
        OHT_FAIL(OHT_CONFIG,
                 "prepare: --block T is missing\nfix: --block 512 (the paper's OPT), --block 128 (its BERT)");
    if (!opt->out) OHT_FAIL(OHT_CONFIG, "prepare: -o FILE.h5 is missing");
    OHT_TRY(parse_number("--block", a->block, &opt->tokens));
    OHT_TRY(parse_number("--rows-per-group", a->group, &opt->rows_per_group));
    return find_kind(a->kind, opt->tokenizer, &opt->wordpiece);
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "images") == 0) return oht_cmd_prepare_images(comm, argc, argv);
    if (argc > 1 && strcmp(argv[1], "series") == 0) return oht_cmd_prepare_series(comm, argc, argv);
    arguments a = {.opt.rows_per_group = 1000};
    oht_status status = OHT_ALLOC(&a.files, (size_t)argc, "list of files");
    if (status == OHT_OK) status = parse(&a, argc, argv);
    status = oht_agree(comm, status);
    if (status == OHT_OK) {
        oht_log_init(oht_comm_rank(comm), a.quiet, "auto");
        status = oht_prepare_text_run(comm, &a.opt);
    }
    oht_free(a.files);
    return status;
}

const oht_command oht_cmd_prepare = {
    "prepare",
    "text --train FILE... --validation FILE... --tokenizer FOLDER --block T -o FILE.h5\n"
    "  ohtrain prepare images --train DIR --validation DIR -o FILE.h5\n"
    "  ohtrain prepare series FILE.csv --split SCHEME -o FILE.h5",
    "Turns raw text, folders of images, or a table of time series into an HDF5 file for training and evaluation.",
    run,
    "text: rows of token ids\n"
    "  --train FILE...       input files of /train, in order; all their rows are one list\n"
    "  --validation FILE...  input files of /validation (one of the two may be left out)\n"
    "  --tokenizer FOLDER    holds vocab.txt (WordPiece, BERT), or vocab.json and merges.txt (BPE, OPT)\n"
    "  --kind KIND           wordpiece or bpe; needed only if the folder holds both\n"
    "  --block T             tokens a row, 8 to 65536\n"
    "  --json-field NAME     inputs are JSON lines, the text is in this field; without it one row a line\n"
    "  --rows-per-group N    rows whose tokens are joined before they are cut into blocks (1000)\n"
    "  --keep-remainder      pad what is left of each group to a whole block instead of dropping it\n"
    "  -o, --out FILE.h5     output; replaced whole when all is done\n"
    "  -q, --quiet           no progress\n"
    "\n"
    "WordPiece rows are [CLS] ... [SEP] and make a file for BERT (mlm), BPE rows are </s> ... and make one "
    "for\n"
    "OPT (clm). An empty line is a row too. A BERT group shorter than T is always kept, padded. Invalid "
    "UTF-8\n"
    "becomes U+FFFD. Under mpirun the ranks share the work; the bytes of the file stay the same.\n"
    "\n"
    "  ohtrain prepare text --train train.txt --validation valid.txt \\\n"
    "      --tokenizer datasets/sample/tokenizers/opt --block 512 -o opt.h5\n"
    "  mpirun -np 8 ohtrain prepare text --train books.jsonl wiki.jsonl --validation wiki-valid.jsonl \\\n"
    "      --json-field text --tokenizer datasets/sample/tokenizers/bert-base-uncased --block 128 -o "
    "bert.h5\n"
    "\n"
    "images: encoded JPEG and PNG files with their class\n"
    "  --train DIR           holds one folder for each class (its name is the class)\n"
    "  --validation DIR      likewise, with the same names (one of the two may be left out)\n"
    "  --resize SHORT        JPEGs whose short side is SHORT pixels, instead of larger images; smaller "
    "files\n"
    "  --strict              stop at a file that is no readable image; without it, it is listed and skipped\n"
    "  -o, --out FILE.h5     output; replaced whole when all is done\n"
    "  -q, --quiet           no progress\n"
    "\n"
    "  mpirun -np 8 ohtrain prepare images --train ILSVRC/train --validation ILSVRC/val -o imagenet.h5\n"
    "\n"
    "series: a CSV file with a header, a date in the first column, and numbers in all others\n"
    "  --split SCHEME        rows of training, validation and test, one after the other:\n"
    "                          etth, ettm, wth, ecl   as published (etth: 8640,2880,2880)\n"
    "                          8640,2880,2880         numbers of rows; what is left is not used\n"
    "                          0.7,0.1,0.2            ratios, which add up to 1\n"
    "  -o, --out FILE.h5     output; replaced whole when all is done\n"
    "  -q, --quiet           no warnings\n"
    "\n"
    "Columns are standardised with mean and standard deviation of the training rows; a column that is constant there only\n"
    "loses its mean, with a warning. Dates must ascend; steps of different length are a warning, because rows are taken as\n"
    "equally spaced. A missing or non-numeric cell is an error. Quoted fields, CRLF and a byte order mark are understood.\n"
    "\n"
    "  ohtrain prepare series ETTh1.csv --split etth -o etth1.h5\n",
};
