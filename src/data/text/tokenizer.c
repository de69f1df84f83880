// Tokenizers (include/oht/tokenizer.h): vocabulary files, special tokens around and inside the text, and
// decoding; the words between go to WordPiece (wordpiece.c) or BPE (bpe.c). Special-token strings found in
// the text become their ids, as in the Hugging Face tokenizers: [PAD] [UNK] [CLS] [SEP] [MASK] for BERT;
// <pad> and </s> for OPT (its other specials are plain text there).
#include "oht/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "data/text/models.h"
#include "data/text/unicode.h"

typedef struct special {
    const char *name, *text;
    bool required;
} special;

static const special bert_specials[] = {
    {"pad", "[PAD]", true}, {"unk", "[UNK]", true},   {"cls", "[CLS]", true},
    {"sep", "[SEP]", true}, {"mask", "[MASK]", true}, {NULL, NULL, false},
};
static const special opt_specials[] = {
    // a text that begins or ends, and what cannot be said: </s> for all
    {"pad", "<pad>", false}, {"bos", "</s>", true}, {"eos", "</s>", true},
    {"unk", "</s>", true},   {NULL, NULL, false},
};

enum { MOST_SPECIALS = 6 };

struct oht_tokenizer {
    oht_tokenizer_kind kind;
    oht_vocab *vocab;
    oht_wordpiece *wordpiece;
    oht_bpe *bpe;
    const special *special;
    size_t length[MOST_SPECIALS];
    int32_t id[MOST_SPECIALS];
    oht_utf8_buffer repaired;
};

static oht_status find_specials(oht_tokenizer *tok, const char *vocab_path) {
    for (int i = 0; tok->special[i].name; i++) {
        const special *s = &tok->special[i];
        tok->length[i] = strlen(s->text);
        tok->id[i] = oht_vocab_id(tok->vocab, s->text);
        if (tok->id[i] < 0 && s->required)
            OHT_FAIL(OHT_DATA, "%s: no token \"%s\" in it\nfix: use the vocabulary files of %s", vocab_path,
                     s->text, tok->kind == OHT_TOKENIZER_BPE ? "facebook/opt" : "bert-base-uncased");
    }
    return OHT_OK;
}

static oht_status open_files(oht_tokenizer *tok, const char *folder) {
    char path[4096];
    if (strlen(folder) > sizeof(path) - 32)
        OHT_FAIL(OHT_CONFIG, "the name of the tokenizer folder has %zu bytes", strlen(folder));
    if (tok->kind == OHT_TOKENIZER_WORDPIECE) {
        tok->special = bert_specials;
        snprintf(path, sizeof(path), "%s/vocab.txt", folder);
        OHT_TRY(oht_vocab_read_txt(&tok->vocab, path));
        OHT_TRY(find_specials(tok, path));
        return oht_wordpiece_create(&tok->wordpiece, tok->vocab);
    }
    tok->special = opt_specials;
    snprintf(path, sizeof(path), "%s/vocab.json", folder);
    OHT_TRY(oht_vocab_read_json(&tok->vocab, path));
    OHT_TRY(find_specials(tok, path));
    snprintf(path, sizeof(path), "%s/merges.txt", folder);
    return oht_bpe_create(&tok->bpe, tok->vocab, path);
}

oht_status oht_tokenizer_open(oht_tokenizer **out, oht_tokenizer_kind kind, const char *folder) {
    OHT_TRY(OHT_ALLOC(out, 1, "tokenizer"));
    (*out)->kind = kind;
    oht_status status = open_files(*out, folder);
    if (status == OHT_OK) return OHT_OK;
    oht_tokenizer_close(*out);
    *out = NULL;
    return oht_error_frame(status, __FILE__, __LINE__);
}

void oht_tokenizer_close(oht_tokenizer *tok) {
    if (!tok) return;
    oht_wordpiece_destroy(tok->wordpiece);
    oht_bpe_destroy(tok->bpe);
    oht_vocab_close(tok->vocab);
    oht_free(tok->repaired.text);
    oht_free(tok);
}

static oht_status encode(oht_tokenizer *tok, const uint8_t *text, size_t n, oht_token_ids *out) {
    if (n == 0) return OHT_OK;
    if (tok->kind == OHT_TOKENIZER_BPE) return oht_bpe_encode(tok->bpe, text, n, out);
    return oht_wordpiece_encode(tok->wordpiece, text, n, out);
}

// Number of the special token that stands at s, -1 if none. No special string begins another one.
static int special_at(const oht_tokenizer *tok, const uint8_t *s, size_t n) {
    for (int i = 0; tok->special[i].name; i++)
        if (tok->id[i] >= 0 && n >= tok->length[i] && memcmp(s, tok->special[i].text, tok->length[i]) == 0)
            return i;
    return -1;
}

oht_status oht_tokenize(oht_tokenizer *tok, const char *text, size_t bytes, oht_token_ids *out) {
    const uint8_t *s = (const uint8_t *)text;
    OHT_TRY(oht_utf8_repair(&s, &bytes, &tok->repaired));
    bool bert = tok->kind == OHT_TOKENIZER_WORDPIECE;
    OHT_TRY(oht_push_id(out, oht_tokenizer_special(tok, bert ? "cls" : "bos")));
    const uint8_t *end = s + bytes, *from = s; // from: first byte not yet encoded
    for (const uint8_t *at = s; at < end;) {
        at = memchr(at, bert ? '[' : '<', (size_t)(end - at));
        if (!at) break;
        int i = special_at(tok, at, (size_t)(end - at));
        if (i < 0) {
            at++;
            continue;
        }
        OHT_TRY(encode(tok, from, (size_t)(at - from), out));
        OHT_TRY(oht_push_id(out, tok->id[i]));
        from = at += tok->length[i];
    }
    OHT_TRY(encode(tok, from, (size_t)(end - from), out));
    return bert ? oht_push_id(out, oht_tokenizer_special(tok, "sep")) : OHT_OK;
}

int64_t oht_tokenizer_size(const oht_tokenizer *tok) {
    return oht_vocab_size(tok->vocab);
}

int32_t oht_tokenizer_special(const oht_tokenizer *tok, const char *name) {
    for (int i = 0; tok->special[i].name; i++)
        if (strcmp(tok->special[i].name, name) == 0) return tok->id[i];
    return -1;
}

oht_tokenizer_kind oht_tokenizer_kind_of(const oht_tokenizer *tok) {
    return tok->kind;
}

static bool is_printable(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return !(k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
             k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_ZL ||
             k == UTF8PROC_CATEGORY_ZP);
}

void oht_tokenizer_decode(const oht_tokenizer *tok, int32_t id, char *out, size_t size) {
    if (size == 0) return;
    out[0] = '\0';
    size_t n, m = 0;
    const uint8_t *text = oht_vocab_text(tok->vocab, id, &n);
    if (!text) {
        snprintf(out, size, "<no token %d>", id);
        return;
    }
    uint8_t bytes[OHT_VOCAB_LONGEST];
    if (tok->kind == OHT_TOKENIZER_BPE) {
        n = oht_bpe_bytes(text, n, bytes);
        text = bytes;
    }
    while (n > 0) {
        char piece[8];
        size_t length = 1, shown;
        size_t good = oht_utf8_valid(text, n < 4 ? n : 4); // at least one character is there if good > 0
        uint32_t c = good > 0 ? oht_utf8_next(text, &length) : 0;
        if (good > 0 && is_printable(c)) {
            memcpy(piece, text, shown = length);
        } else if (c == '\n' || c == '\t') {
            memcpy(piece, c == '\n' ? "\\n" : "\\t", shown = 2);
        } else { // a part of a character, or one that does not print: its first byte
            length = 1;
            shown = (size_t)snprintf(piece, sizeof(piece), "\\x%02x", text[0]);
        }
        if (m + shown >= size) break;
        memcpy(out + m, piece, shown);
        m += shown;
        text += length;
        n -= length;
    }
    out[m] = '\0';
}
