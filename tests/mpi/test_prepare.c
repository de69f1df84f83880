// ohtrain prepare text on 1, 2 and 4 ranks: the rows of the file against a plain re-computation, the
// description, and failures, of one rank alone too: every rank returns the same error, and no file is left
// behind.
#include "mpi_main.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oht/data.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/tokenizer.h"

#define BERT OHT_SOURCE_DIR "/datasets/sample/tokenizers/bert-base-uncased"
#define OPT OHT_SOURCE_DIR "/datasets/sample/tokenizers/opt"

enum { MOST_ROWS = 400, MOST_TEXT = 400 };

static char folder[64];
static int rank, size;

static const char *path_of(const char *name) {
    static char path[512][160]; // one for every call of a test
    static int next;
    next = (next + 1) % 512;
    snprintf(path[next], sizeof(path[0]), "%s/%s", folder, name);
    return path[next];
}

static void put(const char *name, const char *text, size_t n) {
    FILE *out = fopen(path_of(name), "wb");
    if (!out || fwrite(text, 1, n, out) != n || fclose(out) != 0) exit(3);
}

// Only rank 0 writes; all wait.
static void share(const char *name, const char *text) {
    if (rank == 0) put(name, text, strlen(text));
    if (oht_barrier(oht_mpi_comm()) != OHT_OK) exit(3);
}

static bool exists(const char *name) {
    return access(path_of(name), F_OK) == 0;
}

// ---- against a plain re-computation ----
typedef struct corpus {
    char row[MOST_ROWS][MOST_TEXT];
    int n;
} corpus;

static uint32_t draw(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

// Rows of random words; empty ones, long ones, quotes and odd characters among them.
static void make_corpus(corpus *c, int rows, uint32_t seed) {
    static const char *const words[] = {"the",       "whale",  "Ahab's", "\xc3\xa9t\xc3\xa9",
                                        "\"no\"",    "3.14",   "\\n",    "\xe4\xb8\xad",
                                        "unaffable", "[MASK]", "</s>",   "a\xff",
                                        "  ",        "\t",     "Pequod"};
    c->n = rows;
    for (int i = 0; i < rows; i++) {
        c->row[i][0] = '\0';
        int kind = (int)(draw(&seed) % 10), n = kind == 0 ? 0 : kind == 1 ? 50 : (int)(draw(&seed) % 12) + 1;
        for (int k = 0; k < n && strlen(c->row[i]) < MOST_TEXT - 16; k++) {
            if (k > 0) strcat(c->row[i], " ");
            strcat(c->row[i], words[draw(&seed) % 15]);
        }
    }
}

static void write_rows(const corpus *c, int from, int to, const char *name, bool json, bool windows) {
    FILE *out = fopen(path_of(name), "wb");
    if (!out) exit(3);
    if (windows) fputs("\xef\xbb\xbf", out);
    for (int i = from; i < to; i++) {
        const char *end = windows ? "\r\n" : "\n";
        if (i == to - 1 && c->row[i][0]) end = ""; // the last line needs no end
        if (json) fputs("{\"id\": 12345678901234567890, \"text\": \"", out);
        for (const char *s = c->row[i]; *s; s++) {
            if (json && (*s == '"' || *s == '\\')) fputc('\\', out);
            if (json && *s == '\t')
                fputs("\\t", out);
            else
                fputc(*s, out);
        }
        fprintf(out, "%s%s", json ? "\"}" : "", end);
        if (json && i % 3 == 0 && *end) fputs("  \n", out); // blank lines between JSON lines are no rows
    }
    if (fclose(out) != 0) exit(3);
}

typedef struct expected {
    int32_t *id;
    int64_t rows;
    bool padded;
} expected;

static bool blank(const char *s) {
    return s[strspn(s, " \t\r\v\f")] == '\0';
}

static expected compute(oht_tokenizer *tok, const corpus *c, int64_t T, int64_t per_group, bool keep,
                        bool json) {
    bool mlm = oht_tokenizer_kind_of(tok) == OHT_TOKENIZER_WORDPIECE;
    expected e = {.id = calloc((size_t)MOST_ROWS * MOST_TEXT * 4, sizeof(int32_t))};
    for (int first = 0; first < c->n; first += (int)per_group) {
        oht_token_ids ids = {0};
        for (int i = first; i < c->n && i < first + per_group; i++) {
            const char *text = !json && blank(c->row[i]) ? "" : c->row[i];
            if (oht_tokenize(tok, text, strlen(text), &ids) != OHT_OK) exit(3);
        }
        int64_t n = (int64_t)ids.n;
        bool pad = n % T && (keep || (mlm && n < T));
        memcpy(e.id + e.rows * T, ids.id, (size_t)(pad ? n : n / T * T) * sizeof(int32_t));
        for (int64_t i = n; pad && i % T; i++) e.id[e.rows * T + i] = oht_tokenizer_special(tok, "pad");
        e.rows += n / T + pad;
        e.padded |= pad;
        oht_free(ids.id);
    }
    return e;
}

// One run; the findings of rank 0's look at the file.
static void compare_run(oht_mpi_findings *f, oht_tokenizer *tok, const corpus *train, const corpus *valid,
                        bool json, int64_t T, int64_t per_group, bool keep) {
    bool bert = oht_tokenizer_kind_of(tok) == OHT_TOKENIZER_WORDPIECE;
    const char *inputs[] = {path_of("a"), path_of("b"), path_of("c")}, *validation[] = {path_of("v")};
    if (rank == 0) {
        write_rows(train, 0, train->n / 3, "a", json, true);
        write_rows(train, train->n / 3, train->n / 3 + 1, "b", json, false);
        write_rows(train, train->n / 3 + 1, train->n, "c", json, false);
        write_rows(valid, 0, valid->n, "v", json, false);
    }
    expected e[2] = {compute(tok, train, T, per_group, keep, json),
                     compute(tok, valid, T, per_group, keep, json)};
    OHT_CHECK(f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    oht_prepare_text opt = {.train = inputs,
                            .n_train = 3,
                            .validation = validation,
                            .n_validation = 1,
                            .tokenizer = bert ? BERT : OPT,
                            .wordpiece = bert,
                            .json_field = json ? "text" : NULL,
                            .tokens = T,
                            .rows_per_group = per_group,
                            .keep_remainder = keep,
                            .out = path_of("out.h5")};
    oht_status status = oht_prepare_text_run(oht_mpi_comm(), &opt);
    bool possible = e[0].rows > 0 && e[1].rows > 0;
    OHT_CHECK(f, status == (possible ? OHT_OK : OHT_DATA));
    if (rank == 0 && status != (possible ? OHT_OK : OHT_DATA))
        print_error("%d: %s\n", (int)status, oht_error_last()->text);
    if (rank == 0 && status == OHT_OK) {
        oht_text *text = NULL;
        OHT_CHECK(f, oht_text_open(&text, opt.out) == OHT_OK);
        const oht_text_info *info = text ? oht_text_info_of(text) : NULL;
        for (int s = 0; info && s < 2; s++) {
            OHT_CHECK(f, info->rows[s] == e[s].rows);
            if (info->rows[s] != e[s].rows) continue;
            int32_t *id = malloc((size_t)(e[s].rows * T) * sizeof(*id));
            OHT_CHECK(f, oht_text_read(text, s, 0, e[s].rows, id) == OHT_OK);
            OHT_CHECK(f, memcmp(id, e[s].id, (size_t)(e[s].rows * T) * sizeof(*id)) == 0);
            free(id);
        }
        OHT_CHECK(f, info && info->padded == (e[0].padded || e[1].padded));
        OHT_CHECK(f, info && info->mlm == bert && info->tokens == T &&
                         info->vocab_size == (bert ? 30522 : 50265));
        OHT_CHECK(f, info && info->mask_id == (bert ? 103 : -1) && info->cls_id == (bert ? 101 : -1) &&
                         info->sep_id == (bert ? 102 : -1) && info->pad_id == (bert ? 0 : 1));
        OHT_CHECK(f, info && info->bos_id == (bert ? -1 : 2) && info->eos_id == (bert ? -1 : 2));
        OHT_CHECK(f, info && strcmp(info->tokenizer, bert ? "wordpiece" : "bpe") == 0);
        oht_text_close(text);
    }
    if (rank == 0) OHT_CHECK(f, exists("out.h5") == possible);
    if (rank == 0) OHT_CHECK(f, !exists("out.h5.tmp"));
    if (oht_barrier(oht_mpi_comm()) != OHT_OK) exit(3);
    if (rank == 0) unlink(path_of("out.h5"));
    free(e[0].id);
    free(e[1].id);
}

static void rows_are_as_computed_plainly(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    static corpus train, valid;
    for (int bert = 0; bert < 2; bert++) {
        oht_tokenizer *tok = NULL;
        OHT_CHECK(&f, oht_tokenizer_open(&tok, bert ? OHT_TOKENIZER_WORDPIECE : OHT_TOKENIZER_BPE,
                                         bert ? BERT : OPT) == OHT_OK);
        if (!tok) break;
        make_corpus(&train, 311, 7u + (uint32_t)bert);
        make_corpus(&valid, 23, 70u);
        compare_run(&f, tok, &train, &valid, false, 16, 10, false);
        compare_run(&f, tok, &train, &valid, true, 16, 10, true);
        compare_run(&f, tok, &train, &valid, true, 8, 1, false);
        compare_run(&f, tok, &train, &valid, false, 129, 1000, true);
        compare_run(&f, tok, &train, &valid, false, 8, 311, false); // one group; more than 256 blocks
        make_corpus(&train, 3, 1u); // fewer groups than ranks
        compare_run(&f, tok, &train, &valid, true, 64, 1, false);
        compare_run(&f, tok, &train, &valid, false, 4096, 1, false); // nothing for OPT, short blocks for BERT
        oht_tokenizer_close(tok);
    }
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void file_describes_itself(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    share("a", "first row\nsecond row\n");
    share("v", "abc");
    const char *a[] = {path_of("a")}, *v[] = {path_of("v")};
    oht_prepare_text opt = {.train = a,
                            .n_train = 1,
                            .validation = v,
                            .n_validation = 1,
                            .tokenizer = BERT "/",
                            .wordpiece = true,
                            .tokens = 8,
                            .rows_per_group = 1000,
                            .out = path_of("out.h5")};
    OHT_CHECK(&f, oht_prepare_text_run(oht_mpi_comm(), &opt) == OHT_OK);
    oht_h5 *file = NULL;
    if (rank == 0 && exists("out.h5")) {
        char text[80] = "", *config = NULL;
        OHT_CHECK(&f, oht_h5_open(&file, opt.out) == OHT_OK);
        OHT_CHECK(&f, oht_h5_get_text(file, "/", "source_sha256", text, sizeof(text)) == OHT_OK);
        // printf 'first row\nsecond row\nabc' | sha256sum
        OHT_CHECK(&f, strcmp(text, "2f54e118a910b47b43c9e71deaba1eb3d456449317eab77a9b2a8d4d667071fa") == 0);
        OHT_CHECK(&f, oht_h5_get_text(file, "/", "created_by", text, sizeof(text)) == OHT_OK);
        OHT_CHECK(&f, strcmp(text, "ohtrain " OHT_VERSION) == 0);
        OHT_CHECK(&f, oht_h5_get_long_text(file, "/", "config", &config) == OHT_OK);
        OHT_CHECK(&f, config && strstr(config, "\"tokenizer\": \"bert-base-uncased\""));
        OHT_CHECK(&f, config &&
                          strstr(config, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"));
        OHT_CHECK(&f, config && strstr(config, "\"json_field\": null") && !strstr(config, folder));
        oht_h5_shape shape;
        OHT_CHECK(&f, oht_h5_shape_of(file, "/train/tokens", 2, OHT_H5_U16, &shape) == OHT_OK);
        OHT_CHECK(&f, shape.dim[0] == 1 && shape.dim[1] == 8 && shape.chunk[0] == 256 && shape.chunk[1] == 8);
        oht_free(config);
        oht_h5_close(file);
    }
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// ---- failures ----
static void fails(oht_mpi_findings *f, const oht_prepare_text *opt, oht_status expected_status,
                  const char *text) {
    oht_status status = oht_prepare_text_run(oht_mpi_comm(), opt);
    bool said = strstr(oht_error_last()->text, text) != NULL;
    OHT_CHECK(f, status == expected_status);
    OHT_CHECK(f, said);
    if ((status != expected_status || !said) && rank == 0)
        print_error("expected %d \"%s\", got %d \"%s\"\n", (int)expected_status, text, (int)status,
                    oht_error_last()->text);
    if (rank == 0) OHT_CHECK(f, !exists("out.h5.tmp"));
}

static void wrong_inputs(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    const char *good[] = {path_of("good")}, *in[] = {path_of("good"), path_of("bad")};
    if (rank == 0) {
        unlink(path_of("out.h5"));
        unlink(path_of("bad"));
        FILE *out = fopen(path_of("good"), "wb");
        for (int i = 0; i < 100; i++) fprintf(out, "{\"text\": \"a row with number %d\"}\n", i);
        fclose(out);
    }
    share("empty", "");
    oht_prepare_text opt = {.train = in,
                            .n_train = 2,
                            .validation = good,
                            .n_validation = 1,
                            .tokenizer = OPT,
                            .json_field = "text",
                            .tokens = 8,
                            .rows_per_group = 10,
                            .out = path_of("out.h5")};
    fails(&f, &opt, OHT_IO, "bad: cannot open this input");
    oht_prepare_text other = opt;
    static const char *const nothing[] = {"/"};
    other.train = nothing, other.n_train = 1;
    fails(&f, &other, OHT_IO, "is a folder");
    share("bad", "");
    fails(&f, &opt, OHT_DATA, "bad: the file is empty");
    share("bad", "{\"text\": \"x\"}\n\n{\"text\": oops}\n");
    fails(&f, &opt, OHT_DATA, "bad:3: column");
    share("bad", "\"text\"\n");
    fails(&f, &opt, OHT_DATA, "bad:1: column");
    share("bad", "[1]\n");
    fails(&f, &opt, OHT_DATA, "bad:1: not a JSON object");
    share("bad", "{\"text\": 5}\n");
    fails(&f, &opt, OHT_DATA, "bad:1: field \"text\" is not a string");
    share("bad", "{\"title\": \"x\", \"body\": \"y\"}\n");
    fails(&f, &opt, OHT_DATA, "bad:1: no field \"text\" in it; it has title, body");
    share("bad", "   \n\n");
    other = opt, other.train = in + 1, other.n_train = 1;
    fails(&f, &other, OHT_DATA, "not one block of 8 tokens");
    other = opt, other.tokens = 7;
    fails(&f, &other, OHT_CONFIG, "--block is 7");
    other = opt, other.rows_per_group = 0;
    fails(&f, &other, OHT_CONFIG, "--rows-per-group is 0");
    other = opt, other.tokenizer = folder;
    fails(&f, &other, OHT_DATA, "vocab.json: cannot open");
    other = opt, other.n_train = 1, other.out = path_of("good");
    fails(&f, &other, OHT_CONFIG, "this is an input");
    other = opt, other.n_train = 1, other.out = path_of("good/out.h5");
    fails(&f, &other, OHT_IO, "good/out.h5");
    other = opt, other.n_train = 1, other.out = path_of("none/out.h5");
    fails(&f, &other, OHT_IO, "none/out.h5");
    OHT_CHECK(&f, !exists("out.h5"));
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// A line without an end must not fill the memory.
static void endless_line(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    if (rank == 0) {
        FILE *out = fopen(path_of("long"), "wb");
        if (!out || ftruncate(fileno(out), (off_t)1 << 32) != 0)
            exit(3); // zeros, without taking room on the disk
        fclose(out);
    }
    const char *in[] = {path_of("long")};
    oht_prepare_text opt = {.train = in,
                            .n_train = 1,
                            .tokenizer = OPT,
                            .tokens = 8,
                            .rows_per_group = 10,
                            .out = path_of("out.h5")};
    OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    fails(&f, &opt, OHT_DATA, "long:1: a line of more than");
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// The last rank alone cannot read, or reads something else; rank 0 alone cannot write.
static void one_rank_alone(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    bool last = rank == size - 1;
    if (rank == 0) {
        FILE *a = fopen(path_of("same"), "wb"), *b = fopen(path_of("other"), "wb");
        for (int i = 0; i < 20000; i++) fprintf(a, "row %d of the text\n", i);
        for (int i = 0; i < 19990; i++) fprintf(b, "row %d of the text\n", i);
        fclose(a);
        fclose(b);
    }
    OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    const char *in[] = {last ? path_of("absent") : path_of("same")};
    oht_prepare_text opt = {.train = in,
                            .n_train = 1,
                            .tokenizer = OPT,
                            .tokens = 16,
                            .rows_per_group = 100,
                            .out = path_of("out.h5")};
    fails(&f, &opt, OHT_IO, "absent: cannot open this input");
    in[0] = last ? path_of("other") : path_of("same");
    if (size > 1) fails(&f, &opt, OHT_DATA, "the inputs are not the same for all ranks");
    opt.tokenizer = last ? "/nowhere" : OPT;
    fails(&f, &opt, OHT_DATA, "/nowhere/vocab.json");
    opt.tokenizer = OPT;
    in[0] = path_of("same");
    if (rank == 0) put("out.h5", "old", 3);
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 100000; // as a full disk, in the middle of writing
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    fails(&f, &opt, OHT_IO, "out.h5");
    setrlimit(RLIMIT_FSIZE, &old);
    struct stat info;
    OHT_CHECK(&f, stat(path_of("out.h5"), &info) == 0 && info.st_size == 3); // the old file stays
    OHT_CHECK(&f, oht_prepare_text_run(oht_mpi_comm(), &opt) == OHT_OK);
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

// Forty times the text, the same memory.
static void memory_does_not_grow_with_the_corpus(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); // the sanitizer keeps freed memory
#endif
    oht_mpi_findings f = {0};
    int64_t peak[2] = {0};
    for (int big = 0; big < 2; big++) {
        if (rank == 0) {
            FILE *out = fopen(path_of("grow"), "wb");
            for (int i = 0; i < (big ? 400000 : 10000); i++)
                fprintf(out, "Row %d of a text that goes on and on, for ever and ever.\n", i);
            fclose(out);
        }
        OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
        const char *in[] = {path_of("grow")};
        oht_prepare_text opt = {.train = in,
                                .n_train = 1,
                                .tokenizer = OPT,
                                .tokens = 128,
                                .rows_per_group = 1000,
                                .out = path_of("out.h5")};
        OHT_CHECK(&f, oht_prepare_text_run(oht_mpi_comm(), &opt) == OHT_OK);
        peak[big] = oht_peak_rss_bytes();
    }
    OHT_CHECK(&f, peak[1] - peak[0] < 6 << 20);
    if (rank == 0) unlink(path_of("grow"));
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void make_folder(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    rank = oht_comm_rank(oht_mpi_comm());
    size = oht_comm_size(oht_mpi_comm());
    snprintf(folder, sizeof(folder), "/tmp/oht-prepare-XXXXXX");
    if (rank == 0) OHT_CHECK(&f, mkdtemp(folder) != NULL);
    OHT_CHECK(&f, oht_broadcast(oht_mpi_comm(), folder, sizeof(folder), 0) == OHT_OK);
    oht_log_init(rank, true, "lines");
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

static void remove_folder(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    OHT_CHECK(&f, oht_barrier(oht_mpi_comm()) == OHT_OK);
    static const char *const names[] = {"a",   "b",     "c",    "v",    "out.h5", "good",
                                        "bad", "empty", "long", "same", "other"};
    for (size_t i = 0; rank == 0 && i < sizeof(names) / sizeof(*names); i++) unlink(path_of(names[i]));
    if (rank == 0) OHT_CHECK(&f, rmdir(folder) == 0); // nothing else was left there
    oht_mpi_verdict(oht_mpi_comm(), &f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(make_folder),
        cmocka_unit_test(rows_are_as_computed_plainly),
        cmocka_unit_test(file_describes_itself),
        cmocka_unit_test(wrong_inputs),
        cmocka_unit_test(endless_line),
        cmocka_unit_test(one_rank_alone),
        cmocka_unit_test(memory_does_not_grow_with_the_corpus),
        cmocka_unit_test(remove_folder),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
