// Token text for the provenance of outliers (token.h). The data file and the tokenizer of the last call stay open: the runs
// of a report mostly share them. The tokenizer is looked for where `ohtrain prepare text` was told its name (the file keeps
// it): beside the data file, in tokenizers/ there, and in the bundled datasets/sample/tokenizers.
#include "report/token.h"

#include <jansson.h>
#include <string.h>

#include "oht/data.h"
#include "oht/h5.h"
#include "oht/memory.h"
#include "oht/tokenizer.h"

enum { AROUND = 4 }; // tokens of context on each side

struct oht_token_reader {
    char path[OHT_PATH]; // of what is open or was tried
    oht_text *text; // NULL: not to be had
    oht_tokenizer *tok;
    int32_t *row;
};

oht_status oht_token_reader_create(oht_token_reader **out) {
    return OHT_ALLOC(out, 1, "reader of token text");
}

static void close_all(oht_token_reader *r) {
    oht_text_close(r->text);
    oht_tokenizer_close(r->tok);
    oht_free(r->row);
    r->text = NULL;
    r->tok = NULL;
    r->row = NULL;
}

void oht_token_reader_destroy(oht_token_reader *r) {
    if (!r) return;
    close_all(r);
    oht_free(r);
}

// Name of the tokenizer's folder as prepare recorded it.
static bool recorded_name(const char *path, char out[128]) {
    oht_h5 *file;
    char *text = NULL;
    if (oht_h5_open(&file, path) != OHT_OK) return false;
    bool good = oht_h5_has(file, "/", "config") && oht_h5_get_long_text(file, "/", "config", &text) == OHT_OK;
    oht_h5_close(file);
    json_t *json = good ? json_loads(text, 0, NULL) : NULL;
    const char *name = json_string_value(json_object_get(json, "tokenizer"));
    if (name) snprintf(out, 128, "%s", name);
    good = name && out[0] && !strchr(out, '/') && strcmp(out, "..") != 0;
    json_decref(json);
    oht_free(text);
    return good;
}

static bool try_folder(oht_token_reader *r, const char *folder) {
    const oht_text_info *info = oht_text_info_of(r->text);
    oht_tokenizer_kind kind =
        strcmp(info->tokenizer, "wordpiece") == 0 ? OHT_TOKENIZER_WORDPIECE : OHT_TOKENIZER_BPE;
    if (oht_tokenizer_open(&r->tok, kind, folder) != OHT_OK) {
        r->tok = NULL;
        return false;
    }
    if (oht_tokenizer_size(r->tok) == info->vocab_size) return true;
    oht_tokenizer_close(r->tok); // another vocabulary
    r->tok = NULL;
    return false;
}

static bool find_tokenizer(oht_token_reader *r) {
    char name[128], folder[OHT_PATH + 192];
    const char *slash = strrchr(r->path, '/');
    int n = slash ? (int)(slash - r->path) : 1;
    const char *place = slash ? r->path : ".";
    if (!recorded_name(r->path, name)) return false;
    snprintf(folder, sizeof(folder), "%.*s/tokenizers/%s", n, place, name);
    if (try_folder(r, folder)) return true;
    snprintf(folder, sizeof(folder), "%.*s/%s", n, place, name);
    if (try_folder(r, folder)) return true;
    snprintf(folder, sizeof(folder), "datasets/sample/tokenizers/%s", name);
    return try_folder(r, folder);
}

static bool open_all(oht_token_reader *r, const char *path) {
    if (strcmp(r->path, path) == 0) return r->tok != NULL;
    close_all(r);
    snprintf(r->path, sizeof(r->path), "%s", path);
    if (oht_text_open(&r->text, path) != OHT_OK) {
        r->text = NULL;
        return false;
    }
    return OHT_ALLOC(&r->row, (size_t)oht_text_info_of(r->text)->tokens, "row of tokens") == OHT_OK &&
           find_tokenizer(r);
}

static void append(const oht_token_reader *r, int64_t from, int64_t to, char *out, size_t size) {
    size_t n = 0;
    out[0] = '\0';
    for (int64_t i = from; i < to && n + 1 < size; i++) {
        char piece[64];
        bool joined = oht_tokenizer_kind_of(r->tok) == OHT_TOKENIZER_WORDPIECE;
        oht_tokenizer_decode(r->tok, r->row[i], piece, sizeof(piece));
        int m = snprintf(out + n, size - n, "%s%s", joined && i > from ? " " : "", piece);
        if (n + (size_t)m >= size) {
            out[n] = '\0'; // whole tokens only
            return;
        }
        n += (size_t)m;
    }
}

bool oht_token_read(oht_token_reader *r, const oht_config *cfg, int64_t sample, int64_t token,
                    oht_token_text *out) {
    if (!open_all(r, cfg->data.path)) return false;
    const oht_text_info *info = oht_text_info_of(r->text);
    if (sample < 0 || sample >= info->rows[OHT_SPLIT_VALIDATION] || token < 0 || token >= info->tokens)
        return false;
    if (oht_text_read(r->text, OHT_SPLIT_VALIDATION, sample, 1, r->row) != OHT_OK) return false;
    append(r, token > AROUND ? token - AROUND : 0, token, out->before, sizeof(out->before));
    append(r, token, token + 1, out->token, sizeof(out->token));
    append(r, token + 1, token + 1 + AROUND < info->tokens ? token + 1 + AROUND : info->tokens, out->after,
           sizeof(out->after));
    return true;
}
