// GPT-2's byte-level BPE, as OPT uses it. The text is cut into words by GPT-2's pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (a hand-written scanner, several times the speed of a regular expression engine); each word begins as one
// symbol a byte, and the adjacent pair with the lowest rank in merges.txt is joined, leftmost first, until
// none is left. Symbols live in a linked list and candidate pairs in a heap, so that a word of n bytes costs
// n log n whatever it holds. Text repeats itself: a fixed table remembers the words met last.
#include <string.h>

#include <utf8proc.h>

#include "data/text/models.h"
#include "data/text/unicode.h"

enum { SPACE, LETTER, NUMBER, OTHER }; // classes of characters in the pattern

enum { CACHED_BYTES = 24, CACHED_IDS = 8, CACHE_LINES = 1 << 16 };

typedef struct cache_line { // 64 bytes; the word is padded with zeros
    uint64_t word[CACHED_BYTES / 8];
    int32_t id[CACHED_IDS];
    uint8_t bytes, n_ids; // bytes = 0: free
} cache_line;

typedef struct merge {
    uint64_t pair; // left id << 32 | right id
    int32_t rank; // -1 = free
    int32_t id; // of the joined symbol
} merge;

struct oht_bpe {
    uint8_t ascii[128];
    int32_t byte_id[256];
    merge *merge; // open addressing
    size_t mask;
    cache_line *cache;
    // one word at work
    int32_t *id, *previous, *next; // next = -1: last; id = -1: joined to its left neighbour
    uint64_t *heap; // rank << 32 | position, least first
    size_t capacity, n_heap;
};

// Printable bytes stand for themselves in the vocabulary, the 68 others, in order, for U+0100 and up.
static bool byte_is_printable(unsigned b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static uint32_t byte_to_char(unsigned byte) {
    if (byte_is_printable(byte)) return byte;
    uint32_t c = 256;
    for (unsigned b = 0; b < byte; b++) c += !byte_is_printable(b);
    return c;
}

size_t oht_bpe_bytes(const uint8_t *text, size_t n, uint8_t *out) {
    size_t length, m = 0;
    for (size_t i = 0; i < n; i += length) {
        uint32_t c = oht_utf8_next(text + i, &length);
        unsigned byte = 0;
        while (byte < 256 && byte_to_char(byte) != c) byte++;
        if (byte < 256) {
            out[m++] = (uint8_t)byte;
        } else { // a special token such as "<s>" with foreign characters: as it stands
            memcpy(out + m, text + i, length);
            m += length;
        }
    }
    return m;
}

// ---- merges ----
static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static merge *slot_of(const oht_bpe *bpe, uint64_t pair) {
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h ^ h >> 32) & bpe->mask;
    while (bpe->merge[i].rank >= 0 && bpe->merge[i].pair != pair) i = (i + 1) & bpe->mask;
    return &bpe->merge[i];
}

static int32_t find(const oht_vocab *vocab, const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b) {
    uint64_t hash = oht_vocab_hash(oht_vocab_hash(OHT_VOCAB_HASH, a, n_a), b, n_b);
    return oht_vocab_find(vocab, hash, a, n_a, b, n_b);
}

static oht_status read_merge(oht_bpe *bpe, const oht_vocab *vocab, const char *path, int64_t line,
                             const uint8_t *text, size_t n, int32_t rank) {
    const uint8_t *space = memchr(text, ' ', n);
    if (!space || space == text || space == text + n - 1 ||
        memchr(space + 1, ' ', (size_t)(text + n - space - 1)))
        OHT_FAIL(OHT_DATA, "%s:%lld: \"%.*s\", expected two tokens with one space between", path,
                 (long long)line, (int)(n < 80 ? n : 80), (const char *)text);
    const uint8_t *right = space + 1;
    size_t n_left = (size_t)(space - text), n_right = n - n_left - 1;
    int32_t left_id = find(vocab, text, n_left, right, 0), right_id = find(vocab, right, n_right, right, 0);
    int32_t id = find(vocab, text, n_left, right, n_right);
    if (left_id < 0 || right_id < 0 || id < 0)
        OHT_FAIL(OHT_DATA,
                 "%s:%lld: \"%.*s\": the vocabulary has no token for %s\nfix: vocab.json and merges.txt must "
                 "belong "
                 "together",
                 path, (long long)line, (int)(n < 80 ? n : 80), (const char *)text,
                 left_id < 0    ? "the left part"
                 : right_id < 0 ? "the right part"
                                : "both parts together");
    merge *m = slot_of(bpe, pair_of(left_id, right_id));
    if (m->rank >= 0) OHT_FAIL(OHT_DATA, "%s:%lld: this pair stands twice", path, (long long)line);
    *m = (merge){.pair = pair_of(left_id, right_id), .rank = rank, .id = id};
    return OHT_OK;
}

static oht_status read_merges(oht_bpe *bpe, const oht_vocab *vocab, const char *path) {
    char *file;
    size_t n, lines = 1;
    OHT_TRY(oht_read_vocab_file(&file, &n, path));
    oht_status status = OHT_OK;
    for (size_t i = 0; i < n; i++) lines += file[i] == '\n';
    size_t slots = 64;
    while (slots < 2 * lines) slots *= 2;
    bpe->mask = slots - 1;
    OHT_TRY_GOTO(status, OHT_ALLOC(&bpe->merge, slots, "merges"), done);
    for (size_t i = 0; i < slots; i++) bpe->merge[i].rank = -1;
    int64_t number = 0;
    int32_t rank = 0;
    for (char *line = file; line < file + n;) {
        char *end = memchr(line, '\n', (size_t)(file + n - line));
        if (!end) end = file + n;
        size_t length = (size_t)(end - line);
        if (length > 0 && line[length - 1] == '\r') length--;
        number++;
        bool version = number == 1 && length >= 8 && memcmp(line, "#version", 8) == 0;
        if (length > 0 && !version)
            OHT_TRY_GOTO(status, read_merge(bpe, vocab, path, number, (const uint8_t *)line, length, rank++),
                         done);
        line = end + 1;
    }
    if (rank == 0) OHT_FAIL_GOTO(status, OHT_DATA, done, "%s: no merge in it", path);
done:
    oht_free(file);
    return status;
}

oht_status oht_bpe_create(oht_bpe **out, const oht_vocab *vocab, const char *merges_path) {
    OHT_TRY(OHT_ALLOC(out, 1, "BPE"));
    oht_bpe *bpe = *out;
    for (unsigned c = 0; c < 128; c++) {
        bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bpe->ascii[c] = oht_is_space(c) ? SPACE : letter ? LETTER : c >= '0' && c <= '9' ? NUMBER : OTHER;
    }
    for (unsigned b = 0; b < 256; b++) {
        uint8_t text[4];
        size_t n = oht_utf8_put(text, byte_to_char(b));
        bpe->byte_id[b] = find(vocab, text, n, text, 0);
        if (bpe->byte_id[b] < 0)
            OHT_FAIL(OHT_DATA,
                     "%s: its vocab.json has no token \"%.*s\" for byte 0x%02x\nfix: use a byte-level BPE "
                     "vocabulary, "
                     "which has all 256",
                     merges_path, (int)n, (const char *)text, b);
    }
    OHT_TRY(OHT_ALLOC(&bpe->cache, CACHE_LINES, "word cache"));
    return read_merges(bpe, vocab, merges_path);
}

void oht_bpe_destroy(oht_bpe *bpe) {
    if (!bpe) return;
    oht_free(bpe->merge);
    oht_free(bpe->cache);
    oht_free(bpe->id);
    oht_free(bpe->previous);
    oht_free(bpe->next);
    oht_free(bpe->heap);
    oht_free(bpe);
}

// ---- one word ----
static void heap_push(oht_bpe *bpe, uint64_t value) {
    size_t i = bpe->n_heap++;
    for (; i > 0 && bpe->heap[(i - 1) / 2] > value; i = (i - 1) / 2) bpe->heap[i] = bpe->heap[(i - 1) / 2];
    bpe->heap[i] = value;
}

static uint64_t heap_pop(oht_bpe *bpe) {
    uint64_t least = bpe->heap[0], value = bpe->heap[--bpe->n_heap];
    size_t n = bpe->n_heap, i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && bpe->heap[child + 1] < bpe->heap[child]) child++;
        if (bpe->heap[child] >= value) break;
        bpe->heap[i] = bpe->heap[child];
    }
    bpe->heap[i] = value;
    return least;
}

// Puts the pair that begins at symbol i on the heap if it can be merged.
static void offer(oht_bpe *bpe, int32_t i) {
    if (bpe->next[i] < 0) return;
    const merge *m = slot_of(bpe, pair_of(bpe->id[i], bpe->id[bpe->next[i]]));
    if (m->rank >= 0) heap_push(bpe, (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)i);
}

static oht_status make_room(oht_bpe *bpe, size_t n) {
    if (n <= bpe->capacity) return OHT_OK;
    size_t capacity = 2 * bpe->capacity > n ? 2 * bpe->capacity : n + 64;
    bpe->capacity = 0;
    OHT_TRY(oht_grow((void **)&bpe->id, 0, capacity, sizeof(*bpe->id), "BPE symbols"));
    OHT_TRY(oht_grow((void **)&bpe->previous, 0, capacity, sizeof(*bpe->previous), "BPE symbols"));
    OHT_TRY(oht_grow((void **)&bpe->next, 0, capacity, sizeof(*bpe->next), "BPE symbols"));
    // every merge takes one entry out and puts two in, so 2 n entries are enough
    OHT_TRY(oht_grow((void **)&bpe->heap, 0, 2 * capacity, sizeof(*bpe->heap), "BPE heap"));
    bpe->capacity = capacity;
    return OHT_OK;
}

static oht_status merge_word(oht_bpe *bpe, const uint8_t *word, size_t n, oht_token_ids *out) {
    if (n > INT32_MAX) OHT_FAIL(OHT_DATA, "a word of %zu bytes", n);
    OHT_TRY(make_room(bpe, n));
    bpe->n_heap = 0;
    int32_t last = (int32_t)n - 1;
    for (int32_t i = 0; i <= last; i++) {
        bpe->id[i] = bpe->byte_id[word[i]];
        bpe->previous[i] = i - 1;
        bpe->next[i] = i < last ? i + 1 : -1;
    }
    for (int32_t i = 0; i < last; i++) offer(bpe, i);
    while (bpe->n_heap) {
        uint64_t entry = heap_pop(bpe);
        int32_t i = (int32_t)(uint32_t)entry, rank = (int32_t)(entry >> 32);
        int32_t right = bpe->id[i] < 0 ? -1 : bpe->next[i];
        if (right < 0) continue;
        const merge *m = slot_of(bpe, pair_of(bpe->id[i], bpe->id[right]));
        if (m->rank != rank) continue; // an old offer: one of the two has been joined meanwhile
        bpe->id[i] = m->id;
        bpe->id[right] = -1;
        bpe->next[i] = bpe->next[right];
        if (bpe->next[i] >= 0) bpe->previous[bpe->next[i]] = i;
        offer(bpe, i);
        if (bpe->previous[i] >= 0) offer(bpe, bpe->previous[i]);
    }
    for (int32_t i = 0; i >= 0; i = bpe->next[i]) OHT_TRY(oht_push_id(out, bpe->id[i]));
    return OHT_OK;
}

static oht_status encode_word(oht_bpe *bpe, const uint8_t *word, size_t n, oht_token_ids *out) {
    if (n > CACHED_BYTES) return merge_word(bpe, word, n, out);
    uint64_t key[CACHED_BYTES / 8] = {0};
    memcpy(key, word, n);
    uint64_t h = (key[0] ^ n) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 29 ^ key[1]) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 32 ^ key[2]) * 0x94d049bb133111ebu;
    cache_line *line = &bpe->cache[(h >> 40) % CACHE_LINES];
    if (line->bytes == n && memcmp(line->word, key, sizeof(key)) == 0) {
        for (int i = 0; i < line->n_ids; i++) OHT_TRY(oht_push_id(out, line->id[i]));
        return OHT_OK;
    }
    size_t before = out->n;
    OHT_TRY(merge_word(bpe, word, n, out));
    if (out->n - before > CACHED_IDS) return OHT_OK;
    line->bytes = (uint8_t)n;
    line->n_ids = (uint8_t)(out->n - before);
    memcpy(line->word, key, sizeof(key));
    memcpy(line->id, out->id + before, line->n_ids * sizeof(int32_t));
    return OHT_OK;
}

// ---- words of a text ----
static int class_at(const oht_bpe *bpe, const uint8_t *s, size_t *length) {
    if (s[0] < 0x80) {
        *length = 1;
        return bpe->ascii[s[0]];
    }
    uint32_t c = oht_utf8_next(s, length);
    if (oht_is_space(c)) return SPACE;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) return LETTER;
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO ? NUMBER : OTHER;
}

// End of the run of characters of one class that begins at i.
static size_t run_end(const oht_bpe *bpe, const uint8_t *s, size_t i, size_t n, int class) {
    size_t length;
    while (i < n && class_at(bpe, s + i, &length) == class) i += length;
    return i;
}

// Length of 's, 't, 're, 've, 'm, 'll or 'd at s, else 0.
static size_t contraction(const uint8_t *s, size_t n) {
    if (n < 2 || s[0] != '\'') return 0;
    if (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd') return 2;
    if (n < 3) return 0;
    return (s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l') ? 3
                                                                                                        : 0;
}

// End of the word that begins at i.
static size_t word_end(const oht_bpe *bpe, const uint8_t *s, size_t i, size_t n) {
    size_t length, end = contraction(s + i, n - i);
    if (end) return i + end;
    int class = class_at(bpe, s + i, &length);
    if (class != SPACE) return run_end(bpe, s, i + length, n, class);
    if (s[i] == ' ' && i + 1 < n) { // one space goes with the word after it
        size_t next_length;
        class = class_at(bpe, s + i + 1, &next_length);
        if (class != SPACE) return run_end(bpe, s, i + 1 + next_length, n, class);
    }
    // White space alone: to the end of the text, or all but its last character if a word follows, but at
    // least one.
    size_t last = i;
    end = i + length;
    while (end < n && class_at(bpe, s + end, &length) == SPACE) {
        last = end;
        end += length;
    }
    return end == n || last == i ? end : last;
}

oht_status oht_bpe_encode(oht_bpe *bpe, const uint8_t *text, size_t n, oht_token_ids *out) {
    for (size_t i = 0, end; i < n; i = end) {
        end = word_end(bpe, text, i, n);
        OHT_TRY(encode_word(bpe, text + i, end - i, out));
    }
    return OHT_OK;
}
