// Tokenizers against tests/golden/tokenizers.json (450 strings, ids of the Hugging Face tokenizers),
// decoding, words long enough to punish a quadratic merge, and vocabulary files that are wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "oht/memory.h"
#include "oht/tokenizer.h"

#define TOKENIZERS OHT_SOURCE_DIR "/datasets/sample/tokenizers/"

static oht_tokenizer *bert, *opt;
static char folder[] = "/tmp/oht-tokenizer-XXXXXX";

static int open_both(void **state) {
    (void)state;
    if (oht_tokenizer_open(&bert, OHT_TOKENIZER_WORDPIECE, TOKENIZERS "bert-base-uncased") != OHT_OK ||
        oht_tokenizer_open(&opt, OHT_TOKENIZER_BPE, TOKENIZERS "opt") != OHT_OK) {
        fprintf(stderr, "%s\n", oht_error_last()->text);
        return 1;
    }
    return mkdtemp(folder) ? 0 : 1;
}

static int close_both(void **state) {
    (void)state;
    oht_tokenizer_close(bert);
    oht_tokenizer_close(opt);
    static const char *names[] = {"vocab.txt", "vocab.json", "merges.txt"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

// Text of a case: "text", or the bytes in "hex"; freed with free.
static char *case_bytes(const json_t *c, size_t *n) {
    const json_t *hex = json_object_get(c, "hex");
    if (!hex) {
        const json_t *text = golden_get(c, "text");
        *n = json_string_length(text);
        char *copy = malloc(*n + 1);
        memcpy(copy, json_string_value(text), *n + 1);
        return copy;
    }
    *n = json_string_length(hex) / 2;
    char *bytes = malloc(*n + 1);
    for (size_t i = 0; i < *n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(json_string_value(hex) + 2 * i, "%2x", &byte), 1);
        bytes[i] = (char)byte;
    }
    return bytes;
}

static int differences(oht_tokenizer *tok, const char *key, const json_t *cases) {
    int wrong = 0;
    oht_token_ids ids = {0};
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = golden_at(cases, i), *expected = golden_get(c, key);
        size_t bytes;
        char *text = case_bytes(c, &bytes);
        ids.n = 0;
        assert_int_equal(oht_tokenize(tok, text, bytes, &ids), OHT_OK);
        bool same = ids.n == json_array_size(expected);
        for (size_t k = 0; same && k < ids.n; k++)
            same = ids.id[k] == json_integer_value(json_array_get(expected, k));
        if (!same) {
            print_error("%s: case %zu: \"%.*s\"\n", key, i, (int)bytes, text);
            wrong++;
        }
        free(text);
    }
    oht_free(ids.id);
    return wrong;
}

static void ids_equal_the_reference(void **state) {
    (void)state;
    json_t *root = golden_load("tokenizers");
    const json_t *cases = golden_get(root, "cases");
    assert_int_equal(json_array_size(cases), 450);
    for (int again = 0; again < 2; again++) { // the second time from the word cache
        assert_int_equal(differences(bert, "bert", cases), 0);
        assert_int_equal(differences(opt, "opt", cases), 0);
    }
    json_decref(root);
}

static void sizes_and_specials(void **state) {
    (void)state;
    assert_int_equal(oht_tokenizer_size(bert), 30522);
    assert_int_equal(oht_tokenizer_size(opt), 50265);
    assert_int_equal(oht_tokenizer_kind_of(bert), OHT_TOKENIZER_WORDPIECE);
    assert_int_equal(oht_tokenizer_kind_of(opt), OHT_TOKENIZER_BPE);
    static const struct {
        const char *name;
        int32_t bert, opt;
    } expected[] = {
        {"pad", 0, 1},     {"unk", 100, 2}, {"cls", 101, -1}, {"sep", 102, -1},
        {"mask", 103, -1}, {"bos", -1, 2},  {"eos", -1, 2},   {"other", -1, -1},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        assert_int_equal(oht_tokenizer_special(bert, expected[i].name), expected[i].bert);
        assert_int_equal(oht_tokenizer_special(opt, expected[i].name), expected[i].opt);
    }
}

static void check_decode(oht_tokenizer *tok, int32_t id, size_t size, const char *expected) {
    char out[128];
    memset(out, '?', sizeof(out));
    oht_tokenizer_decode(tok, id, out, size);
    assert_string_equal(out, expected);
    assert_int_equal(out[size], '?');
}

static void decoding(void **state) {
    (void)state;
    check_decode(bert, 102, 64, "[SEP]");
    check_decode(bert, 2075, 64, "##ing");
    check_decode(bert, 30521, 64, "##～");
    check_decode(opt, 5, 64, " the");
    check_decode(opt, 50118, 64, "\\n");
    check_decode(opt, 50117, 64, "\\t");
    check_decode(opt, 50108, 64, "\\x00");
    check_decode(opt, 7471, 64, "\\x80"); // a byte inside a character
    check_decode(opt, 21955, 64, "\xef\xbf\xbd");
    check_decode(opt, 2, 64, "</s>");
    check_decode(opt, 50264, 64, "<mask>");
    check_decode(opt, 50265, 64, "<no token 50265>");
    check_decode(opt, -1, 64, "<no token -1>");
    check_decode(opt, 5, 3, " t"); // cut at a character
    check_decode(opt, 21955, 3, "");
    check_decode(opt, 5, 1, "");
    char untouched[2] = "?";
    oht_tokenizer_decode(opt, 5, untouched, 0);
    assert_int_equal(untouched[0], '?');
    // Every token prints as valid text that fits, none longer than four times its bytes.
    for (int32_t id = 0; id < 50265; id++) {
        char out[1024];
        oht_tokenizer_decode(opt, id, out, sizeof(out));
        assert_true(strlen(out) > 0 && strlen(out) < 600);
        for (const char *s = out; *s; s++) assert_true((unsigned char)*s >= 0x20 && *s != 0x7f);
    }
}

// The words decoded and joined give the text back (BPE loses nothing).
static void bpe_is_lossless(void **state) {
    (void)state;
    const char *text = " Don't you'll  see   3.14 tabs, and \xe4\xb8\xad? (no)   ";
    oht_token_ids ids = {0};
    assert_int_equal(oht_tokenize(opt, text, strlen(text), &ids), OHT_OK);
    char joined[512] = "";
    for (size_t i = 1; i < ids.n; i++)
        oht_tokenizer_decode(opt, ids.id[i], joined + strlen(joined), sizeof(joined) - strlen(joined));
    assert_string_equal(joined, text);
    oht_free(ids.id);
}

static void long_words_and_growing_lists(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *text = malloc(N);
    oht_token_ids ids = {0};
    memset(text, 'a', N); // one word
    assert_int_equal(oht_tokenize(opt, text, N, &ids), OHT_OK);
    assert_true(ids.n > 1 && ids.n < N / 2);
    size_t before = ids.n;
    assert_int_equal(oht_tokenize(opt, text, N, &ids), OHT_OK); // appends
    assert_int_equal(ids.n, 2 * before);
    assert_memory_equal(ids.id, ids.id + before, before * sizeof(int32_t));
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, N, &ids), OHT_OK);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.id[1], 100);
    for (size_t i = 0; i + 6 <= N; i += 6)
        memcpy(text + i, "\xe3\x80\xae\xe1\xad\x84", 6); // combining classes 224 and 9
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, N / 6 * 6, &ids), OHT_OK);
    assert_int_equal(ids.n, 3);
    memset(text, '[', N);
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, N, &ids), OHT_OK);
    assert_int_equal(ids.n, N + 2);
    memset(text, 0xff, N); // all ill-formed: becomes three times as long
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, N, &ids), OHT_OK);
    assert_int_equal(ids.n, 2);
    free(text);
    oht_free(ids.id);
}

// A word of exactly 100 characters is still cut, one of 101 is not; the limit is in characters.
static void hundred_characters(void **state) {
    (void)state;
    char text[256];
    oht_token_ids ids = {0};
    memset(text, 'a', sizeof(text));
    assert_int_equal(oht_tokenize(bert, text, 100, &ids), OHT_OK);
    assert_true(ids.n > 3);
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, 101, &ids), OHT_OK);
    assert_int_equal(ids.n, 3);
    for (int i = 0; i < 100; i++) memcpy(text + 2 * i, "\xd0\xb0", 2); // Cyrillic a
    ids.n = 0;
    assert_int_equal(oht_tokenize(bert, text, 200, &ids), OHT_OK);
    assert_true(ids.n > 3);
    oht_free(ids.id);
}

// ---- wrong files ----
static void put(const char *name, const char *text, size_t n) {
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

static void refuses(oht_tokenizer_kind kind, const char *expected) {
    oht_tokenizer *tok;
    assert_int_equal(oht_tokenizer_open(&tok, kind, folder), OHT_DATA);
    assert_null(tok);
    if (!strstr(oht_error_last()->text, expected))
        fail_msg("\"%s\" is not in \"%s\"", expected, oht_error_last()->text);
}

static void refuses_txt(const char *text, size_t n, const char *expected) {
    put("vocab.txt", text, n);
    refuses(OHT_TOKENIZER_WORDPIECE, expected);
}

#define SPECIALS "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"

static void wrong_vocab_txt(void **state) {
    (void)state;
    refuses(OHT_TOKENIZER_WORDPIECE, "vocab.txt: cannot open");
    refuses_txt("", 0, "is empty");
    refuses_txt("a\nb\n", 4, "no token \"[PAD]\"");
    refuses_txt("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", 26, "no token \"[MASK]\"");
    refuses_txt(SPECIALS "a\n\nb\n", sizeof(SPECIALS) - 1 + 5, "line 7 is an empty token");
    refuses_txt(SPECIALS "a\nb\na\n", sizeof(SPECIALS) - 1 + 6, "\"a\" stands twice, with ids 5 and 7");
    refuses_txt(SPECIALS "\xff\n", sizeof(SPECIALS) - 1 + 2, "line 6 is not valid UTF-8");
    char *line = malloc(5000);
    memset(line, 'x', 5000);
    refuses_txt(line, 5000, "token of 5000 bytes");
    free(line);
    // Windows line ends, no end of line after the last token: fine.
    const char *good = "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nab\r\n##c";
    put("vocab.txt", good, strlen(good));
    oht_tokenizer *tok;
    assert_int_equal(oht_tokenizer_open(&tok, OHT_TOKENIZER_WORDPIECE, folder), OHT_OK);
    oht_token_ids ids = {0};
    assert_int_equal(oht_tokenize(tok, "abc ab abd", 10, &ids), OHT_OK);
    static const int32_t expected[] = {2, 5, 6, 5, 1, 3};
    assert_int_equal(ids.n, 6);
    assert_memory_equal(ids.id, expected, sizeof(expected));
    oht_free(ids.id);
    oht_tokenizer_close(tok);
}

static void refuses_bpe(const char *json, const char *merges, const char *expected) {
    put("vocab.json", json, strlen(json));
    put("merges.txt", merges, strlen(merges));
    refuses(OHT_TOKENIZER_BPE, expected);
}

static void wrong_bpe_files(void **state) {
    (void)state;
    refuses(OHT_TOKENIZER_BPE, "vocab.json: cannot open");
    refuses_bpe("{\"a\": 1", "a b\n", "not valid JSON");
    refuses_bpe("{\"a\": 1, \"a\": 2}", "a b\n", "not valid JSON");
    refuses_bpe("[1]", "a b\n", "expected one JSON object");
    refuses_bpe("{}", "a b\n", "expected one JSON object");
    refuses_bpe("{\"a\": \"1\"}", "a b\n", "the id of \"a\" is not an integer");
    refuses_bpe("{\"a\": -1}", "a b\n", "has id -1");
    refuses_bpe("{\"a\": 4000000000}", "a b\n", "has id 4000000000");
    refuses_bpe("{\"a\": 0, \"b\": 0}", "a b\n", "two tokens have id 0");
    refuses_bpe("{\"\": 0}", "a b\n", "empty token");
    refuses_bpe("{\"a\": 0}", "a b\n", "no token \"</s>\"");
    refuses_bpe("{\"</s>\": 0}", "a b\n", "for byte 0x00");
    // All bytes, the end marker and one pair; then the merges are wrong.
    char json[8192] = "{\"</s>\": 0, \"ab\": 300";
    for (unsigned b = 0, next = 256; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        snprintf(json + strlen(json), sizeof(json) - strlen(json), ", \"\\u%04x\": %u", printable ? b : next,
                 b + 1);
        next += !printable;
    }
    strcat(json, "}");
    refuses_bpe(json, "", "merges.txt: the vocabulary file is empty");
    refuses_bpe(json, "#version: 0.2\n", "no merge in it");
    refuses_bpe(json, "#version: 0.2\nab\n", "merges.txt:2: \"ab\", expected two tokens");
    refuses_bpe(json, "a b c\n", "merges.txt:1: \"a b c\", expected two tokens");
    refuses_bpe(json, " a\n", "expected two tokens");
    refuses_bpe(json, "a b\na b\n", "merges.txt:2: this pair stands twice");
    refuses_bpe(json, "a c\n", "no token for both parts together");
    refuses_bpe(json, "abc b\n", "no token for the left part");
    refuses_bpe(json, "a abc\n", "no token for the right part");
    put("merges.txt", "a b\n\n", 5);
    oht_tokenizer *tok;
    assert_int_equal(oht_tokenizer_open(&tok, OHT_TOKENIZER_BPE, folder), OHT_OK);
    assert_int_equal(oht_tokenizer_special(tok, "pad"), -1);
    assert_int_equal(oht_tokenizer_size(tok), 301);
    oht_token_ids ids = {0};
    assert_int_equal(oht_tokenize(tok, "aabb<pad>", 9, &ids), OHT_OK);
    assert_int_equal(ids.id[0], 0);
    assert_int_equal(ids.id[1], 'a' + 1);
    assert_int_equal(ids.id[2], 300);
    assert_int_equal(ids.id[3], 'b' + 1);
    assert_int_equal(ids.n, 9); // no pad token in this vocabulary: plain text
    oht_free(ids.id);
    oht_tokenizer_close(tok);
    char merges[128];
    snprintf(merges, sizeof(merges), "%s/merges.txt", folder);
    unlink(merges);
    refuses(OHT_TOKENIZER_BPE, "merges.txt: cannot open");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_reference),
        cmocka_unit_test(sizes_and_specials),
        cmocka_unit_test(decoding),
        cmocka_unit_test(bpe_is_lossless),
        cmocka_unit_test(long_words_and_growing_lists),
        cmocka_unit_test(hundred_characters),
        cmocka_unit_test(wrong_vocab_txt),
        cmocka_unit_test(wrong_bpe_files),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
