// `ohtrain prepare text`: raw text -> rows of T token ids in HDF5 (include/oht/data.h; spec
// transformers 3.1).
//
// The rows of all files of a split, in the order given, are one list (bookcorpus first, then wiki40b). Every
// rows_per_group rows are a group: the ids of its rows are concatenated and cut into blocks of T; what is
// left over is dropped, or padded with keep_remainder. As in the reference, an MLM group with fewer than T
// ids gives one padded block.
//
// Every rank reads the files (cheap) and tokenizes each size-th group (dear); a round is one group for every
// rank, after which rank 0 collects the blocks in order and writes them, 256 rows at a time. So the file's
// bytes depend on the text and the options alone. Memory: one line, one group and one chunk.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>
#include <sha2.h>

#include "data/text/rows.h"
#include "data/text/unicode.h"
#include "data/text_file.h"
#include "oht/data.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/signals.h"
#include "oht/tokenizer.h"

enum { LEAST_TOKENS = 8, MOST_TOKENS = 65536, MOST_GROUP_IDS = 1 << 27 };

typedef struct group { // of one rank; travels to rank 0 ahead of its ids
    int64_t n_ids; // a multiple of T
    int64_t kept, dropped; // tokens of the text
    int64_t padded; // 1: the last block ends in padding
} group;

typedef struct preparation {
    oht_comm *comm;
    const oht_prepare_text *opt;
    oht_tokenizer *tok;
    oht_token_ids ids; // of this rank's group
    int rank, size;
    oht_text_info info;
    // rank 0
    oht_h5 *file;
    SHA2_CTX hash;
    int32_t *received; // (OHT_TEXT_BLOCK, T): ids travel in pieces of this size
    oht_h5_type type; // of the ids in the file
    uint16_t *narrow; // (OHT_TEXT_BLOCK, T), if type is uint16, else
    uint32_t *wide; // the same
    int64_t chunk_rows;
    int64_t text_rows[2], kept[2], dropped[2];
    int64_t done_bytes, total_bytes;
    double start_s, line_s;
} preparation;

// ---- rank 0: the file ----
static oht_status write_chunk(preparation *p, oht_split split) {
    if (p->chunk_rows == 0) return OHT_OK;
    const void *chunk = p->type == OHT_H5_U16 ? (const void *)p->narrow : p->wide;
    OHT_TRY(
        oht_h5_write(p->file, oht_text_dataset(split), p->info.rows[split], p->chunk_rows, p->type, chunk));
    p->info.rows[split] += p->chunk_rows;
    p->chunk_rows = 0;
    return OHT_OK;
}

static oht_status append(preparation *p, oht_split split, const int32_t *ids, int64_t n_ids) {
    int64_t T = p->opt->tokens;
    for (int64_t i = 0; i < n_ids; i += T) {
        int64_t at = p->chunk_rows * T;
        for (int64_t t = 0; t < T && p->narrow; t++) p->narrow[at + t] = (uint16_t)ids[i + t];
        for (int64_t t = 0; t < T && p->wide; t++) p->wide[at + t] = (uint32_t)ids[i + t];
        if (++p->chunk_rows == OHT_TEXT_BLOCK) OHT_TRY(write_chunk(p, split));
    }
    return OHT_OK;
}

static void count(preparation *p, oht_split split, const group *g) {
    p->kept[split] += g->kept;
    p->dropped[split] += g->dropped;
    p->info.padded = p->info.padded || g->padded != 0;
}

static oht_status start_split(preparation *p, oht_split split) {
    oht_h5_shape shape = {
        .type = p->type, .rank = 2, .dim = {0, p->opt->tokens}, .chunk = {OHT_TEXT_BLOCK, p->opt->tokens}};
    return oht_h5_make(p->file, oht_text_dataset(split), &shape, true, true);
}

static oht_status end_split(preparation *p, oht_split split) {
    OHT_TRY(write_chunk(p, split));
    if (p->info.rows[split] == 0)
        OHT_FAIL(OHT_DATA,
                 "%s: not one block of %lld tokens: %lld rows of text gave %lld tokens, and each group of "
                 "%lld rows "
                 "drops its remainder\nfix: more text, a smaller --block, or --keep-remainder",
                 oht_text_dataset(split), (long long)p->opt->tokens, (long long)p->text_rows[split],
                 (long long)(p->kept[split] + p->dropped[split]), (long long)p->opt->rows_per_group);
    return OHT_OK;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

// A path's last part, without a slash at its end, as JSON; ill-formed UTF-8 repaired.
static json_t *name_json(const char *path) {
    char name[4096];
    snprintf(name, sizeof(name), "%s", path);
    for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = '\0';
    const uint8_t *text = (const uint8_t *)base_name(name);
    size_t n = strlen((const char *)text);
    oht_utf8_buffer buffer = {0};
    json_t *json = oht_utf8_repair(&text, &n, &buffer) == OHT_OK ? json_stringn((const char *)text, n) : NULL;
    oht_free(buffer.text);
    return json;
}

static json_t *names_json(const char *const *path, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, name_json(path[i]));
    return list;
}

static oht_status hash_vocabulary(const oht_prepare_text *opt, char hex[SHA256_DIGEST_STRING_LENGTH]) {
    static const char *const names[2][2] = {{"vocab.json", "merges.txt"}, {"vocab.txt", NULL}};
    SHA2_CTX hash;
    SHA256Init(&hash);
    for (int i = 0; i < 2 && names[opt->wordpiece][i]; i++) {
        char path[4200], block[65536];
        snprintf(path, sizeof(path), "%s/%s", opt->tokenizer, names[opt->wordpiece][i]);
        FILE *in;
        const char *why = oht_file_open(&in, path);
        if (why) OHT_FAIL(OHT_DATA, "%s: cannot open the vocabulary file a second time: %s", path, why);
        for (size_t n; (n = fread(block, 1, sizeof(block), in)) > 0;)
            SHA256Update(&hash, (const uint8_t *)block, n);
        fclose(in);
    }
    SHA256End(&hash, hex);
    return OHT_OK;
}

// The options as text. Names without folders: the same data prepared elsewhere give the same bytes.
static oht_status write_config(preparation *p) {
    const oht_prepare_text *opt = p->opt;
    char vocabulary[SHA256_DIGEST_STRING_LENGTH];
    OHT_TRY(hash_vocabulary(opt, vocabulary));
    json_t *json = json_pack(
        "{s:s, s:o, s:o, s:o, s:s, s:s, s:I, s:s?, s:I, s:b}", "command", "prepare text", "train",
        names_json(opt->train, opt->n_train), "validation", names_json(opt->validation, opt->n_validation),
        "tokenizer", name_json(opt->tokenizer), "tokenizer_sha256", vocabulary, "kind", p->info.tokenizer,
        "block", (json_int_t)opt->tokens, "json_field", opt->json_field, "rows_per_group",
        (json_int_t)opt->rows_per_group, "keep_remainder", opt->keep_remainder);
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text) OHT_FAIL(OHT_MEMORY, "the options cannot be written as text");
    oht_status status = oht_h5_set_text(p->file, "/", "config", text);
    free(text);
    return status;
}

static oht_status finish_file(preparation *p) {
    SHA256End(&p->hash, p->info.source_sha256);
    OHT_TRY(oht_text_write_info(p->file, &p->info));
    OHT_TRY(oht_h5_set_text(p->file, "/", "created_by", "ohtrain " OHT_VERSION));
    OHT_TRY(write_config(p));
    oht_h5 *file = p->file;
    p->file = NULL;
    return oht_h5_commit(file);
}

static void report(preparation *p) {
    static const char *const name[2] = {"train", "validation"};
    double seconds = oht_clock_s() - p->start_s;
    oht_progress_end();
    for (int s = 0; s < 2; s++)
        if (p->info.rows[s] > 0)
            oht_log(
                "%s: %s: %lld blocks of %lld tokens from %lld rows of text; %lld tokens kept, %lld dropped",
                p->opt->out, name[s], (long long)p->info.rows[s], (long long)p->info.tokens,
                (long long)p->text_rows[s], (long long)p->kept[s], (long long)p->dropped[s]);
    oht_log("%.1f MB of text in %.1f s, %.1f MB/s", (double)p->done_bytes / 1e6, seconds,
            (double)p->done_bytes / 1e6 / (seconds > 1e-9 ? seconds : 1e-9));
}

static void show_progress(preparation *p, const oht_rows *rows) {
    double now = oht_clock_s();
    bool line = now - p->line_s > 10.0; // a plain line every 10 s where no terminal watches
    if (line) p->line_s = now;
    int64_t bytes = p->done_bytes + oht_rows_bytes(rows);
    oht_progress(bytes, p->total_bytes, line, "bytes, %.1f MB/s",
                 (double)bytes / 1e6 / (now - p->start_s + 1e-9));
}

// ---- every rank: groups ----
// Reads the
// next group's rows, and tokenizes them if they are `mine`. *n: how many rows there were.
static oht_status read_group(preparation *p, oht_rows *rows, bool mine, int64_t *n) {
    for (*n = 0; *n < p->opt->rows_per_group; ++*n) {
        const char *text;
        size_t bytes;
        OHT_TRY(oht_signals_check());
        OHT_TRY(oht_rows_next(rows, &text, &bytes));
        if (!text) return OHT_OK;
        if (!mine) continue;
        if (p->opt->json_field) OHT_TRY(oht_rows_field(rows, text, bytes, p->opt->json_field, &text, &bytes));
        OHT_TRY(oht_tokenize(p->tok, text, bytes, &p->ids));
        if (p->ids.n > MOST_GROUP_IDS)
            OHT_FAIL(
                OHT_DATA,
                "a group of %lld rows has more than %d tokens, too many to hold in memory\nfix: a smaller "
                "--rows-per-group, or shorter rows",
                (long long)p->opt->rows_per_group, MOST_GROUP_IDS);
    }
    return OHT_OK;
}

// Cuts or pads this rank's ids to whole blocks.
static oht_status cut_group(preparation *p, group *g) {
    int64_t T = p->opt->tokens, n = (int64_t)p->ids.n, whole = n / T * T;
    bool pad = whole < n && (p->opt->keep_remainder || (p->info.mlm && whole == 0));
    *g = (group){.n_ids = pad ? whole + T : whole,
                 .kept = pad ? n : whole,
                 .dropped = pad ? 0 : n - whole,
                 .padded = pad};
    while ((int64_t)p->ids.n < g->n_ids) {
        OHT_TRY(OHT_RESERVE(&p->ids.id, &p->ids.capacity, p->ids.n, "token ids"));
        p->ids.id[p->ids.n++] = p->info.pad_id;
    }
    return OHT_OK;
}

// Moves the group of rank r to rank 0's file, in pieces, so that the receiver needs no more room than one.
// Rank 0 goes on receiving when it cannot write, so that nobody waits for ever; *written tells.
static oht_status collect_group(preparation *p, oht_split split, const group *mine, int r,
                                oht_status *written) {
    if (p->rank != 0 && p->rank != r) return OHT_OK;
    int64_t piece = OHT_TEXT_BLOCK * p->opt->tokens;
    group g = *mine;
    if (p->rank != 0) OHT_TRY(oht_send(p->comm, &g, sizeof(g), 0));
    if (p->rank == 0 && r != 0) OHT_TRY(oht_receive(p->comm, &g, sizeof(g), r));
    if (p->rank == 0) count(p, split, &g);
    for (int64_t i = 0; i < g.n_ids; i += piece) {
        int64_t n = g.n_ids - i < piece ? g.n_ids - i : piece;
        size_t bytes = (size_t)n * sizeof(int32_t);
        if (p->rank != 0) {
            OHT_TRY(oht_send(p->comm, p->ids.id + i, bytes, 0));
            continue;
        }
        if (r != 0) OHT_TRY(oht_receive(p->comm, p->received, bytes, r));
        if (*written == OHT_OK) *written = append(p, split, r == 0 ? p->ids.id + i : p->received, n);
    }
    return OHT_OK;
}

typedef struct round_end { // the same on all ranks, or they do not read the same files
    int64_t rows, bytes;
    int32_t groups, ended;
} round_end;

// One round up to the point where all ranks know that all are well.
static oht_status read_round(preparation *p, oht_rows *rows, oht_status before, group *mine, round_end *end) {
    oht_status status = before;
    p->ids.n = 0;
    memset(end, 0, sizeof(*end));
    *mine = (group){0};
    for (int r = 0; status == OHT_OK && r < p->size && !end->ended; r++) {
        int64_t n;
        status = read_group(p, rows, r == p->rank, &n);
        if (n > 0) end->groups = r + 1;
        end->ended = n < p->opt->rows_per_group;
        end->rows += n;
    }
    end->bytes = oht_rows_bytes(rows);
    if (status == OHT_OK) status = cut_group(p, mine);
    round_end first = *end;
    OHT_TRY(oht_broadcast(p->comm, &first, sizeof(first), 0));
    if (status == OHT_OK && memcmp(&first, end, sizeof(first)) != 0)
        status = oht_error_set(OHT_DATA, __FILE__, __LINE__,
                               "the inputs are not the same for all ranks: rank 0 has read %lld bytes, rank "
                               "%d %lld\nfix: put them "
                               "on a file system that all nodes share",
                               (long long)first.bytes, p->rank, (long long)end->bytes);
    return oht_agree(p->comm, status);
}

static oht_status prepare_rows(preparation *p, oht_split split, oht_rows *rows) {
    oht_status written = p->rank == 0 ? start_split(p, split) : OHT_OK;
    for (bool more = true; more;) {
        group mine;
        round_end end;
        OHT_TRY(read_round(p, rows, written, &mine, &end));
        p->text_rows[split] += end.rows;
        for (int r = 0; r < end.groups; r++) OHT_TRY(collect_group(p, split, &mine, r, &written));
        show_progress(p, rows);
        more = !end.ended;
    }
    p->done_bytes += oht_rows_bytes(rows);
    if (p->rank == 0 && written == OHT_OK) written = end_split(p, split);
    return oht_agree(p->comm, written);
}

static oht_status prepare_split(preparation *p, oht_split split) {
    bool train = split == OHT_SPLIT_TRAIN;
    int n = train ? p->opt->n_train : p->opt->n_validation;
    if (n == 0) return OHT_OK;
    oht_rows *rows = NULL;
    oht_status status = oht_rows_open(&rows, train ? p->opt->train : p->opt->validation, n,
                                      p->opt->json_field != NULL, p->rank == 0 ? &p->hash : NULL);
    status = oht_agree(p->comm, status);
    if (status == OHT_OK) status = prepare_rows(p, split, rows);
    oht_rows_close(rows);
    return status;
}

// ---- start ----
static oht_status check_options(const oht_prepare_text *opt) {
    if (opt->n_train + opt->n_validation < 1)
        OHT_FAIL(OHT_CONFIG, "no input file\nfix: --train FILE... and --validation FILE...");
    if (opt->tokens < LEAST_TOKENS || opt->tokens > MOST_TOKENS)
        OHT_FAIL(OHT_CONFIG, "--block is %lld, expected %d to %d tokens", (long long)opt->tokens,
                 LEAST_TOKENS, MOST_TOKENS);
    if (opt->rows_per_group < 1)
        OHT_FAIL(OHT_CONFIG, "--rows-per-group is %lld, expected 1 or more", (long long)opt->rows_per_group);
    struct stat out, in;
    if (stat(opt->out, &out) != 0) return OHT_OK;
    if (S_ISDIR(out.st_mode)) OHT_FAIL(OHT_CONFIG, "-o %s: is a folder, expected a file name", opt->out);
    for (int i = 0; i < opt->n_train + opt->n_validation; i++) {
        const char *path = i < opt->n_train ? opt->train[i] : opt->validation[i - opt->n_train];
        if (stat(path, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            OHT_FAIL(OHT_CONFIG, "-o %s: this is an input, it would be overwritten", opt->out);
    }
    return OHT_OK;
}

static oht_status start(preparation *p) {
    const oht_prepare_text *opt = p->opt;
    oht_h5_silence();
    OHT_TRY(check_options(opt));
    int64_t bytes;
    OHT_TRY(oht_rows_measure(opt->train, opt->n_train, p->size > 1, &p->total_bytes));
    OHT_TRY(oht_rows_measure(opt->validation, opt->n_validation, p->size > 1, &bytes));
    p->total_bytes += bytes;
    OHT_TRY(oht_tokenizer_open(&p->tok, opt->wordpiece ? OHT_TOKENIZER_WORDPIECE : OHT_TOKENIZER_BPE,
                               opt->tokenizer));
    p->info = (oht_text_info){.tokens = opt->tokens,
                              .vocab_size = oht_tokenizer_size(p->tok),
                              .mlm = opt->wordpiece,
                              .pad_id = oht_tokenizer_special(p->tok, "pad"),
                              .mask_id = oht_tokenizer_special(p->tok, "mask"),
                              .cls_id = oht_tokenizer_special(p->tok, "cls"),
                              .sep_id = oht_tokenizer_special(p->tok, "sep"),
                              .bos_id = oht_tokenizer_special(p->tok, "bos"),
                              .eos_id = oht_tokenizer_special(p->tok, "eos")};
    snprintf(p->info.tokenizer, sizeof(p->info.tokenizer), "%s", opt->wordpiece ? "wordpiece" : "bpe");
    if (opt->keep_remainder && p->info.pad_id < 0)
        OHT_FAIL(OHT_CONFIG, "--keep-remainder: the vocabulary in %s has no <pad> token to pad with",
                 opt->tokenizer);
    if (p->rank != 0) return OHT_OK;
    SHA256Init(&p->hash);
    p->type = oht_text_type(p->info.vocab_size);
    size_t n = (size_t)(OHT_TEXT_BLOCK * opt->tokens);
    if (p->type == OHT_H5_U16)
        OHT_TRY(OHT_ALLOC(&p->narrow, n, "rows to write"));
    else
        OHT_TRY(OHT_ALLOC(&p->wide, n, "rows to write"));
    OHT_TRY(OHT_ALLOC(&p->received, n, "rows received"));
    return oht_h5_create(&p->file, opt->out);
}

oht_status oht_prepare_text_run(oht_comm *comm, const oht_prepare_text *opt) {
    preparation p = {.comm = comm, .opt = opt, .rank = oht_comm_rank(comm), .size = oht_comm_size(comm)};
    p.start_s = p.line_s = oht_clock_s();
    oht_status status = oht_agree(comm, start(&p));
    if (status == OHT_OK) status = prepare_split(&p, OHT_SPLIT_TRAIN);
    if (status == OHT_OK) status = prepare_split(&p, OHT_SPLIT_VALIDATION);
    if (status == OHT_OK) status = oht_agree(comm, p.rank == 0 ? finish_file(&p) : OHT_OK);
    if (status == OHT_OK)
        report(&p);
    else
        oht_progress_end();
    oht_h5_close(p.file);
    oht_tokenizer_close(p.tok);
    oht_free(p.ids.id);
    oht_free(p.received);
    oht_free(p.narrow);
    oht_free(p.wide);
    return status;
}
