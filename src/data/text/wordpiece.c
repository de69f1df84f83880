// BERT's uncased WordPiece. Per character: drop control characters, white space ends a word, CJK ideographs
// stand alone, canonical decomposition (NFD), drop non-spacing marks (accents), lower case, punctuation
// stands alone; then each word is cut greedily into the longest pieces of the vocabulary, "##" before all but
// the first. A word that cannot be cut, or of more than 100 characters, is [UNK]. Lower case is taken
// character by character (a final capital sigma gives U+03C3). The reference's category tables are of Unicode
// 8, utf8proc's newer: of all characters, 568 younger ones (punctuation, marks, format controls added since
// 2015) are split or dropped here where the reference makes them part of a word.
#include <string.h>

#include <utf8proc.h>

#include "data/text/models.h"
#include "data/text/unicode.h"

enum { MOST_CHARS = 100, MOST_BYTES = 4 * MOST_CHARS };

enum { DROP, SPACE, PUNCTUATION, WORD }; // what an ASCII character does

typedef struct mark {
    uint32_t c;
    int class; // canonical combining class, not 0
} mark;

struct oht_wordpiece {
    const oht_vocab *vocab;
    int32_t unknown;
    uint64_t inner_hash; // of "##"
    uint8_t ascii[128], lower[128];
    // the word being collected
    uint8_t word[MOST_BYTES];
    size_t bytes, chars; // chars = MOST_CHARS + 1: too long, the rest is not kept
    // combining characters waiting for their canonical order; non-spacing ones never wait, they are dropped
    mark *waiting;
    size_t n_waiting, waiting_capacity;
};

oht_status oht_wordpiece_create(oht_wordpiece **out, const oht_vocab *vocab) {
    OHT_TRY(OHT_ALLOC(out, 1, "WordPiece"));
    oht_wordpiece *wp = *out;
    wp->vocab = vocab;
    wp->unknown = oht_vocab_id(vocab, "[UNK]");
    wp->inner_hash = oht_vocab_hash(OHT_VOCAB_HASH, (const uint8_t *)"##", 2);
    for (int c = 0; c < 128; c++) {
        bool upper = c >= 'A' && c <= 'Z', letter = upper || (c >= 'a' && c <= 'z'),
             digit = c >= '0' && c <= '9';
        bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
        wp->ascii[c] = space ? SPACE : c < 32 || c == 127 ? DROP : letter || digit ? WORD : PUNCTUATION;
        wp->lower[c] = (uint8_t)(upper ? c + 32 : c);
    }
    return OHT_OK;
}

void oht_wordpiece_destroy(oht_wordpiece *wp) {
    if (!wp) return;
    oht_free(wp->waiting);
    oht_free(wp);
}

// Ends the word: its pieces, longest first.
static oht_status end_word(oht_wordpiece *wp, oht_token_ids *out) {
    size_t n = wp->bytes, longest = oht_vocab_longest(wp->vocab), first_id = out->n;
    bool too_long = wp->chars > MOST_CHARS;
    if (wp->chars == 0) return OHT_OK;
    wp->bytes = wp->chars = 0;
    if (too_long) return oht_push_id(out, wp->unknown);
    uint64_t hash[MOST_BYTES + 1]; // hash[k]: of the k bytes after start
    for (size_t start = 0; start < n;) {
        const uint8_t *s = wp->word + start;
        size_t inner = start ? 2 : 0;
        size_t k = n - start < longest ? n - start : longest;
        hash[0] = inner ? wp->inner_hash : OHT_VOCAB_HASH;
        for (size_t i = 0; i < k; i++) hash[i + 1] = oht_vocab_hash(hash[i], s + i, 1);
        int32_t id = -1;
        for (; k > 0; k--) {
            if (start + k < n && (s[k] & 0xc0) == 0x80) continue; // inside a character
            id = oht_vocab_find(wp->vocab, hash[k], (const uint8_t *)"##", inner, s, k);
            if (id >= 0) break;
        }
        if (id < 0) {
            out->n = first_id;
            return oht_push_id(out, wp->unknown);
        }
        OHT_TRY(oht_push_id(out, id));
        start += k;
    }
    return OHT_OK;
}

static void add_char(oht_wordpiece *wp, uint32_t c) {
    if (wp->chars > MOST_CHARS) return;
    if (++wp->chars <= MOST_CHARS) wp->bytes += oht_utf8_put(wp->word + wp->bytes, c);
}

static bool is_punctuation(uint32_t c) {
    if (c < 128) return c > 32 && c < 127 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

// A decomposed character in its final place.
static oht_status place(oht_wordpiece *wp, uint32_t c, oht_token_ids *out) {
    c = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    if (!is_punctuation(c)) {
        add_char(wp, c);
        return OHT_OK;
    }
    OHT_TRY(end_word(wp, out));
    add_char(wp, c);
    return end_word(wp, out);
}

// Places the waiting characters, stably ordered by combining class: one pass per class present (there are 54
// in Unicode), so that no input takes quadratic time.
static oht_status place_waiting(oht_wordpiece *wp, oht_token_ids *out) {
    size_t n = wp->n_waiting;
    wp->n_waiting = 0;
    for (int class = 0, next; n > 0; class = next) {
        next = 256;
        for (size_t i = 0; i < n; i++) {
            int k = wp->waiting[i].class;
            if (k == class) OHT_TRY(place(wp, wp->waiting[i].c, out));
            if (k > class && k < next) next = k;
        }
        if (next == 256) break;
    }
    return OHT_OK;
}

// The ideograph blocks that BERT isolates. The sixth begins at U+2B920 in the reference, not at U+2B820 where
// the block begins; ids equal to the reference's need the same.
static bool is_ideograph(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) ||
           (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

// A character above ASCII.
static oht_status add_unicode(oht_wordpiece *wp, uint32_t c, oht_token_ids *out) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    if (c == 0xfffd || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO)
        return OHT_OK;
    if (oht_is_space(c)) {
        OHT_TRY(place_waiting(wp, out));
        return end_word(wp, out);
    }
    bool alone = is_ideograph(c);
    if (alone) {
        OHT_TRY(place_waiting(wp, out));
        OHT_TRY(end_word(wp, out));
    }
    utf8proc_int32_t part[32];
    int last_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, part, 32,
                                                 UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last_class);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        const utf8proc_property_t *p = utf8proc_get_property(part[i]);
        if (p->combining_class == 0) OHT_TRY(place_waiting(wp, out));
        if (p->category == UTF8PROC_CATEGORY_MN) continue;
        if (p->combining_class == 0) {
            OHT_TRY(place(wp, (uint32_t)part[i], out));
            continue;
        }
        OHT_TRY(OHT_RESERVE(&wp->waiting, &wp->waiting_capacity, wp->n_waiting, "combining characters"));
        wp->waiting[wp->n_waiting++] = (mark){.c = (uint32_t)part[i], .class = p->combining_class};
    }
    if (alone) OHT_TRY(end_word(wp, out));
    return OHT_OK;
}

oht_status oht_wordpiece_encode(oht_wordpiece *wp, const uint8_t *text, size_t n, oht_token_ids *out) {
    wp->bytes = wp->chars = wp->n_waiting = 0;
    for (size_t i = 0; i < n;) {
        if (text[i] >= 0x80) {
            size_t length;
            uint32_t c = oht_utf8_next(text + i, &length);
            OHT_TRY(add_unicode(wp, c, out));
            i += length;
            continue;
        }
        uint8_t c = text[i++], kind = wp->ascii[c];
        if (kind == DROP) continue;
        if (wp->n_waiting) OHT_TRY(place_waiting(wp, out));
        if (kind == WORD) {
            add_char(wp, wp->lower[c]);
            continue;
        }
        OHT_TRY(end_word(wp, out));
        if (kind == PUNCTUATION) {
            add_char(wp, c);
            OHT_TRY(end_word(wp, out));
        }
    }
    OHT_TRY(place_waiting(wp, out));
    return end_word(wp, out);
}
