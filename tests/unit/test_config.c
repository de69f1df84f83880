// Configuration: every key set, written and read back; every kind of error; damaged files.
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/table.h"
#include "oht/cmd.h"
#include "oht/memory.h"

static char path[] = "/tmp/oht-config-XXXXXX";

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static void put(const void *bytes, size_t n) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

static const char *message(void) {
    return oht_error_last()->text;
}

// The file must fail with this code, its message must hold every given text.
static void refuses_code(oht_status code, const char *yaml, size_t n, const char *a, const char *b) {
    oht_config cfg, before;
    oht_config_defaults(&cfg);
    before = cfg;
    put(yaml, n);
    oht_status status = oht_config_load(&cfg, path);
    if (status != code || !strstr(message(), a) || !strstr(message(), b) || !strstr(message(), path))
        fail_msg("%.200s\n  gives %d: %s\n  expected %s ... %s", yaml, status, status ? message() : "", a, b);
    assert_memory_equal(&cfg, &before, sizeof(cfg));
}

static void refuses(const char *yaml, const char *a, const char *b) {
    refuses_code(OHT_CONFIG, yaml, strlen(yaml), a, b);
}

static void refuses_word(const char *assignment, const char *a, const char *b) {
    oht_config cfg, before;
    oht_config_defaults(&cfg);
    before = cfg;
    oht_status status = oht_config_set(&cfg, assignment);
    if (status != OHT_CONFIG || !strstr(message(), a) || !strstr(message(), b))
        fail_msg("%.200s gives %d: %s\n  expected %s ... %s", assignment, status, status ? message() : "", a,
                 b);
    assert_memory_equal(&cfg, &before, sizeof(cfg));
}

static void defaults_are_sound(void **state) {
    (void)state;
    oht_config cfg;
    oht_config_defaults(&cfg);
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) assert_int_equal(oht_key_set(&cfg, &key[i], key[i].value, NULL), OHT_OK);
    assert_int_equal(oht_config_check(&cfg), OHT_OK);
    assert_string_equal(cfg.data.path, "datasets/sample/opt.h5");
    assert_string_equal(cfg.model.attention, "softmax1");
    assert_true(cfg.model.layernorm_eps == 1e-5 && cfg.train.beta2 == 0.95 && cfg.train.clip == 1);
}

// The table covers the struct: sections in order, no byte of a field unreachable, no two keys on one field.
static void table_covers_the_struct(void **state) {
    (void)state;
    int n;
    const oht_key *key = oht_keys(&n);
    size_t covered = 0;
    for (int i = 0; i < n; i++) {
        size_t end = i ? key[i - 1].offset + key[i - 1].size : 0;
        assert_true(key[i].offset >= end);
        assert_true(key[i].offset - end < 8); // padding only
        assert_true(strlen(key[i].help) > 5);
        covered += key[i].size;
    }
    assert_true(covered <= sizeof(oht_config) &&
                sizeof(oht_config) - (key[n - 1].offset + key[n - 1].size) < 8);
}

// Another legal value of a key, as text.
static void other_value(const oht_key *key, char *out, size_t size) {
    switch (key->type) {
    case OHT_KEY_INT:
        snprintf(out, size, "%lld", (long long)(key->low + 7));
        break;
    case OHT_KEY_FLOAT:
        snprintf(out, size, "%.17g", key->flow + (key->fhigh - key->flow) / 3.0);
        break;
    case OHT_KEY_BOOL:
        snprintf(out, size, "%s", strcmp(key->value, "true") == 0 ? "false" : "true");
        break;
    case OHT_KEY_ENUM:
    case OHT_KEY_CHOICE: {
        int i = 0;
        while (key->choices[i + 1]) i++;
        snprintf(out, size, "%s", key->choices[i]);
        break;
    }
    case OHT_KEY_TEXT:
        snprintf(out, size, "a \"b\\c\": # {é} 'x'");
        break;
    }
}

static void every_key_survives_a_round_trip(void **state) {
    (void)state;
    int n;
    const oht_key *key = oht_keys(&n);
    oht_config all;
    oht_config_defaults(&all);
    for (int comments = 0; comments < 2; comments++) {
        for (int i = 0; i <= n; i++) { // one key at a time, then all together
            oht_config cfg, back;
            oht_config_defaults(&cfg);
            if (i < n) {
                char assignment[256], value[128];
                other_value(&key[i], value, sizeof(value));
                snprintf(assignment, sizeof(assignment), "%s=%s", key[i].name, value);
                assert_int_equal(oht_config_set(&cfg, assignment), OHT_OK);
                assert_int_equal(oht_config_set(&all, assignment), OHT_OK);
            } else {
                cfg = all;
            }
            FILE *out = fopen(path, "w");
            assert_int_equal(oht_config_write(&cfg, out, comments), OHT_OK);
            fclose(out);
            oht_config_defaults(&back);
            if (oht_config_load(&back, path) != OHT_OK) fail_msg("%s", message());
            assert_memory_equal(&cfg, &back, sizeof(cfg));
        }
    }
}

static void doubles_keep_their_bits(void **state) {
    (void)state;
    static const char *const VALUES[] = {"1e-12",
                                         "0.1",
                                         "0.30000000000000004",
                                         "1.2e-38",
                                         "6.02e-5",
                                         "4.9e-5",
                                         "1.1754943508222875e-38",
                                         ".5",
                                         "1.",
                                         "0",
                                         "-0",
                                         "+0.25",
                                         "99.99999999999999",
                                         "1E-3"};
    for (size_t i = 0; i < sizeof(VALUES) / sizeof(VALUES[0]); i++) {
        oht_config cfg, back;
        char assignment[64];
        oht_config_defaults(&cfg);
        snprintf(assignment, sizeof(assignment), "train.lr=%s", VALUES[i]);
        assert_int_equal(oht_config_set(&cfg, assignment), OHT_OK);
        assert_true(cfg.train.lr == strtod(VALUES[i], NULL));
        char *text;
        assert_int_equal(oht_config_text(&cfg, &text), OHT_OK);
        put(text, strlen(text));
        oht_free(text);
        oht_config_defaults(&back);
        assert_int_equal(oht_config_load(&back, path), OHT_OK);
        assert_memory_equal(&cfg, &back, sizeof(cfg));
    }
}

static void unknown_names_suggest_the_nearest(void **state) {
    (void)state;
    refuses("model:\n  attentoin: softmax1\n", ":2: model.attentoin: unknown key; nearest: model.attention",
            "fix: ");
    refuses("train:\n  layers: 3\n", ":2: train.layers: unknown key; nearest: model.layers", "");
    refuses("modle:\n  layers: 3\n", ":1: modle: unknown section; nearest: model", "compat");
    refuses("model.layers: 3\n", ":1: model.layers: a key outside its section", "write \"model:\"");
    refuses("layers: 3\n", "unknown section; nearest: model.layers", "");
    refuses("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz:\n", "unknown section",
            "");
    refuses("model:\n  zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz: 1\n",
            "unknown key", "");
    refuses_word("train.step=3", "train.step: unknown key; nearest: train.steps", "");
    refuses_word("steps=3", "nearest: train.steps", "");
    refuses_word("lr=3", "nearest: train.lr", "");
    refuses_word("=3", "unknown key", "");
    refuses_word("train.steps", "expected key=value", "");
    assert_string_equal(oht_nearest_key("model.haeds"), "model.heads");
    assert_string_equal(oht_nearest_key("outlier.every"), "outliers.every");
    assert_null(oht_nearest_key("quantum.chromodynamics"));
}

static void wrong_values_say_found_and_allowed(void **state) {
    (void)state;
    refuses_word("model.layers=0", "model.layers: found \"0\", out of range", "allowed: integer 1..1000");
    refuses_word("model.layers=99999999999999999999999", "out of range", "1..1000");
    refuses_word("model.layers=4x", "which is no integer", "");
    refuses_word("model.layers=4.5", "which is not whole", "");
    refuses_word("model.layers=1e2", "which is not whole", "");
    refuses_word("model.layers=0x10", "which is no integer", "");
    refuses_word("model.layers= 4", "which is no integer", "");
    refuses_word("model.layers=4 ", "which is no integer", "");
    refuses_word("model.layers=", "which is no integer", "");
    refuses_word("model.layers=-", "which is no integer", "");
    refuses_word("model.layers=1_000", "which is no integer", "");
    refuses_word("train.seed=9223372036854775808", "out of range", "integer >= 0");
    refuses_word("train.lr=nan", "which is no number", "number >= 0");
    refuses_word("train.lr=inf", "which is no number", "");
    refuses_word("train.lr=1e999", "beyond double precision", "");
    refuses_word("train.lr=1e-999", "beyond double precision", "");
    refuses_word("train.lr=1e", "which is no number", "");
    refuses_word("train.lr=.", "which is no number", "");
    refuses_word("train.lr=0x1p3", "which is no number", "");
    refuses_word("train.lr=1,5", "which is no number", "");
    refuses_word("train.lr=3s", "which is no number", "");
    refuses_word("model.dropout=1", "out of range", ">= 0 and < 1");
    refuses_word("model.gate_init=0", "out of range", "> 0 and < 1");
    // What is fine in double and not in the kernels' single precision.
    refuses_word("train.eps=1e-50", "train.eps: found \"1e-50\", too small for single precision", "> 0 and <= 1");
    refuses_word("model.layernorm_eps=1e-39", "too small for single precision", "");
    refuses_word("train.lr=1e-300", "too small for single precision", "");
    refuses_word("train.beta2=0.999999999999", "rounds to the limit", ">= 0 and < 1");
    refuses_word("model.gate_init=0.99999999999", "rounds to the limit", "> 0 and < 1");
    refuses_word("model.dropout=.9999999999999", "rounds to the limit", "");
    refuses_word("train.recompute=yes", "found \"yes\"", "true, false");
    refuses_word("train.recompute=True", "found \"True\"", "true, false");
    refuses_word("train.recompute=1", "found \"1\"", "true, false");
    refuses_word("model.type=gpt", "found \"gpt\"", "allowed: opt, bert, vit, stanhop");
    refuses_word("model.gate=conditional_per_tokne", "nearest: conditional_per_token", "");
    refuses_word("train.schedule=Linear", "nearest: linear", "cosine_with_restarts");
    refuses_word("train.precision=int8", "allowed: auto, fp32, tf32, bf16, fp16", "");
    refuses_word("run.device=gpu", "allowed: auto, cpu, cuda", "a GPU where there is one");
    refuses_word("data.path=", "which is empty", "");
    refuses_word("data.path=a\nb", "control characters", "a?b");
    refuses_word("data.path=\xff\xfe", "not UTF-8", "");
    refuses_word("data.path=\xe2\x80\xa8", "not UTF-8 without control", "");
    char longest[OHT_PATH + 32] = "data.path=";
    memset(longest + 10, 'a', OHT_PATH);
    refuses_word(longest, "too long", "1 to 1023 bytes");
    longest[10 + OHT_PATH - 1] = '\0';
    oht_config cfg;
    oht_config_defaults(&cfg);
    assert_int_equal(oht_config_set(&cfg, longest), OHT_OK);
    assert_int_equal(strlen(cfg.data.path), OHT_PATH - 1);
}

static void yaml_of_another_kind_is_refused(void **state) {
    (void)state;
    refuses("", "holds no configuration", "fix: ");
    refuses("# only a comment\n\n", "holds no configuration", "");
    refuses("---\n", ":2: found a value", "expected sections");
    refuses("just text\n", ":1: found a value, expected sections", "");
    refuses("- model\n- train\n", ":1: found a list", "");
    refuses("model: 3\n", ":1: model: found a value, expected keys", "");
    refuses("model: [1, 2]\n", ":1: model: found a list", "");
    refuses("model:\n  layers: [4]\n", ":2: model.layers: found a list, expected integer 1..1000", "");
    refuses("model:\n  layers:\n    deep: 4\n", "model.layers: found a mapping", "");
    refuses("model:\n  layers:\n", ":2: model.layers: no value", "integer 1..1000");
    refuses("model:\n  layers: ~\n", "no value", "");
    refuses("data:\n  path: null\n", "no value", "");
    refuses("model:\n  layers: \"4\"\n", "text in quotes", "without quotes");
    refuses("model:\n  layers: !!int 4\n", "found a tag", "");
    refuses("model:\n  layers: &a 4\n", "found an anchor", "");
    refuses("model: &m\n  layers: 4\n", "an anchor or tag", "");
    refuses("train: &m\n  steps: 4\nmodel: *m\n", "an anchor or tag", "");
    refuses("model:\n  layers: *a\n", "", "");
    refuses("model:\n  ? [a, b]\n  : 4\n", "found a list, expected a key", "");
    refuses("model:\n  <<: 4\n", "unknown key", "");
    refuses("model:\n  layers: 4\n---\nmodel:\n  layers: 5\n", ":3: a second YAML document", "");
    refuses("model:\n  layers: 4\n  width: 64\n  layers: 5\n", ":4: model.layers: already set in line 2", "");
    refuses("model:\n  layers: 4\ntrain:\n  steps: 4\nmodel:\n  width: 5\n",
            ":5: model: this section is already in line 1", "");
    refuses("model:\n\tlayers: 4\n", ":2: not YAML", "fix: indent with spaces");
    refuses("model:\n  layers: 4\n width: 5\n", ":3: not YAML", "");
    refuses("model: {layers: 4", "not YAML", "");
    refuses("data:\n  path: \"abc\n", "not YAML", "");
    refuses("data:\n  path: \"a\\0b\"\n", "NUL character", "");
    refuses("data:\n  path: |\n    a\n    b\n", "control characters", "");
    refuses("model:\n  layers: 4 steps\n", "which is no integer", "");
    refuses("model:\n  layers: 4\n...\ngarbage\n", ":4: not YAML", "");
    refuses_code(OHT_CONFIG, "model:\n  layers: \0 4\n", 22, "not a text file", "");
    refuses_code(OHT_CONFIG, "\x7f\x45LF\x02\x01", 6, "not a text file", "");
    refuses_code(OHT_CONFIG, "\xff\xfe\xff\xff", 4, "", "");
}

static void large_and_missing_files(void **state) {
    (void)state;
    size_t n = (1 << 20) + 1;
    char *big = malloc(n + 1);
    memset(big, '\n', n);
    big[n] = '\0';
    refuses_code(OHT_CONFIG, big, n, "larger than 1 MiB", "");
    memset(big, '[', n - 1); // deep nesting within the limit
    refuses_code(OHT_CONFIG, big, n - 1, "found a list", "");
    memcpy(big, "data:\n  path: ", 14);
    memset(big + 14, 'a', n - 15);
    refuses_code(OHT_CONFIG, big, n - 1, "too long", "aaa...");
    free(big);
    oht_config cfg;
    oht_config_defaults(&cfg);
    assert_int_equal(oht_config_load(&cfg, "/nowhere/x.yaml"), OHT_IO);
    assert_non_null(strstr(message(), "/nowhere/x.yaml"));
    assert_int_equal(oht_config_load(&cfg, "/tmp"), OHT_IO);
}

static void good_yaml_of_many_shapes(void **state) {
    (void)state;
    static const char *const FILES[] = {
        "model: {layers: 6, attention: 'clipped(-0.025:1)'}\n",
        "%YAML 1.1\n---\nmodel:\n  layers: 6\n  attention: clipped(-0.025:1)\n...\n",
        "\xef\xbb\xbfmodel:\r\n  attention: \"clipped(-0.025:1)\"\r\n  layers: 6\r\n",
        "train:\nmodel:\n    layers: 6 # six\n    attention: clipped(-0.025:1)",
    };
    for (size_t i = 0; i < sizeof(FILES) / sizeof(FILES[0]); i++) {
        oht_config cfg;
        oht_config_defaults(&cfg);
        put(FILES[i], strlen(FILES[i]));
        if (oht_config_load(&cfg, path) != OHT_OK) fail_msg("%s", message());
        assert_int_equal(cfg.model.layers, 6);
        assert_string_equal(cfg.model.attention, "clipped(-0.025:1)");
    }
}

// Any damage gives a configuration or one clean error, never a crash; what is accepted can be written again.
static void damaged_files_never_crash(void **state) {
    (void)state;
    oht_config cfg;
    oht_config_defaults(&cfg);
    char *text, *bad;
    assert_int_equal(oht_config_text(&cfg, &text), OHT_OK);
    size_t n = strlen(text);
    assert_int_equal(oht_strdup(&bad, text), OHT_OK);
    uint64_t x = 88172645463325252ull;
    int accepted = 0, refused = 0;
    for (int trial = 0; trial < 3000; trial++) {
        memcpy(bad, text, n);
        size_t length = n;
        for (int flips = 0; flips <= trial % 4; flips++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            size_t at = x % n;
            if (trial % 3 == 0)
                bad[at] = (char)(x >> 40);
            else if (trial % 3 == 1)
                bad[at] = (char)(bad[at] ^ (1 << (x >> 60 & 7)));
            else
                bad[at] = "\t\n:-#&*!|>'\"%@`{}[],?\0"[(x >> 40) % 23];
            if (trial % 7 == 0) length = at;
        }
        put(bad, length);
        oht_config got;
        oht_config_defaults(&got);
        oht_status status = oht_config_load(&got, path);
        if (status == OHT_OK) {
            char *again;
            oht_config back;
            accepted++;
            assert_int_equal(oht_config_text(&got, &again), OHT_OK);
            put(again, strlen(again));
            oht_free(again);
            oht_config_defaults(&back);
            assert_int_equal(oht_config_load(&back, path), OHT_OK);
            assert_memory_equal(&got, &back, sizeof(got));
        } else {
            refused++;
            assert_int_equal(status, OHT_CONFIG);
            assert_non_null(strstr(message(), path));
        }
    }
    if (accepted < 50 || refused < 1000) fail_msg("%d accepted, %d refused", accepted, refused);
    oht_free(text);
    oht_free(bad);
}

static void embedding_follows_the_width(void **state) {
    (void)state;
    oht_config cfg;
    oht_config_defaults(&cfg);
    assert_int_equal(oht_config_set(&cfg, "model.width=512"), OHT_OK);
    assert_int_equal(cfg.model.embed_width, 512);
    const char *yaml = "model:\n  embed_width: 512\n  width: 1024\n";
    put(yaml, strlen(yaml));
    assert_int_equal(oht_config_load(&cfg, path), OHT_OK);
    assert_int_equal(cfg.model.embed_width, 512);
    assert_int_equal(oht_config_set(&cfg, "model.width=768"), OHT_OK);
    assert_int_equal(cfg.model.embed_width, 512);
    char a[] = "train", b[] = "model.embed_width=256", c[] = "model.width=1024";
    char *argv[] = {a, b, c, NULL};
    oht_options opt;
    assert_int_equal(oht_options_parse(3, argv, OHT_OPT_KEYS, &opt), OHT_OK);
    assert_int_equal(oht_options_config(&opt, &cfg), OHT_OK);
    assert_int_equal(cfg.model.embed_width, 256);
}

// Assignments, separated by blanks, that are each fine but do not fit together.
static void contradicts(const char *assignments, const char *expected) {
    char words[256], *rest = NULL;
    oht_config cfg;
    oht_config_defaults(&cfg);
    snprintf(words, sizeof(words), "%s", assignments);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (oht_config_set(&cfg, word) != OHT_OK) fail_msg("%s", message());
    oht_status status = oht_config_check(&cfg);
    if (!expected && status != OHT_OK) fail_msg("%s: %s", assignments, message());
    if (expected && (status != OHT_CONFIG || !strstr(message(), expected)))
        fail_msg("%s gives %d: %s\n  expected %s", assignments, status, message(), expected);
}

static void keys_must_fit_each_other(void **state) {
    (void)state;
    contradicts("model.heads=3", "does not divide model.width = 256");
    contradicts("model.type=bert", "expected post for BERT");
    contradicts("model.type=bert model.norm=post", NULL);
    contradicts("model.type=bert model.norm=post model.embed_width=128", "model.embed_width");
    contradicts("model.norm=post model.embed_width=128", NULL);
    contradicts("data.tokens=129", "fix: model.max_tokens=129");
    contradicts("data.tokens=128", NULL);
    contradicts("data.tokens=1", "at least 2");
    contradicts("data.tokens=1 model.type=bert model.norm=post", NULL);
    contradicts("train.micro_batch=1000000 model.max_tokens=65536", "2^31");
    contradicts("model.gate_init=0.25", "need a conditional gate");
    contradicts("model.gate=unconditional_per_head model.gate_form=mlp", "need a conditional gate");
    contradicts("model.gate=conditional_per_token model.gate_form=mlp model.gate_init=0.25", "leave it out");
    contradicts("model.gate=conditional_per_token model.gate_form=mlp model.gate_init=0.25 "
                "model.gate_fine_tuning=true",
                NULL);
    contradicts("model.gate=conditional_per_token model.gate_form=mlp model.heads=128",
                "at least 4 features");
    contradicts(
        "model.gate=conditional_per_head model.gate_init=0.25 model.attention=clippedsoftmax1(-.025:1.1)",
        NULL);
    contradicts("train.schedule=constant", "constant has no warm-up");
    contradicts("train.schedule=constant train.warmup_steps=0", NULL);
    contradicts("train.cycles=2", "cosine_with_restarts");
    contradicts("train.lr_power=2", "polynomial");
    contradicts("train.schedule=polynomial train.lr_end=1", "at most train.lr");
    contradicts("train.schedule=cosine train.final_lr_fraction=0.1", "only train.schedule = linear");
    contradicts("model.attention=clipped", "alpha");
    contradicts("model.attention=clipped model.alpha=12", NULL);
    contradicts("model.attention=softmax1 model.alpha=12", "alpha");
    contradicts("model.attention=sofmax", "model.attention");
    contradicts("model.type=stanhop", NULL);
    contradicts("model.type=stanhop model.width=64 model.attention=entmax", NULL);
    contradicts("model.type=stanhop data.tokens=64", "model.type = stanhop does not read it");
    contradicts("model.type=stanhop model.embed_width=64", "model.embed_width: found 64");
    contradicts("model.type=stanhop model.norm=post", "does not read it");
    contradicts("model.type=stanhop data.flip=0", "data.flip");
    contradicts("model.type=stanhop model.retrievals=8 model.retrieval_eps=1e-4", NULL);
    contradicts("model.type=stanhop model.retrieval_eps=1e-4", "model.retrievals of at least 2");
    contradicts("model.horizon=48", "model.type = opt does not read it");
    contradicts("model.type=vit model.segment=4", "model.type = vit does not read it");
}

static void a_resumed_run_may_change_some_keys(void **state) {
    (void)state;
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) {
        oht_config stored, now;
        char value[128];
        oht_config_defaults(&stored);
        now = stored;
        other_value(&key[i], value, sizeof(value));
        assert_int_equal(oht_key_set(&now, &key[i], value, NULL), OHT_OK);
        bool same = memcmp(&stored, &now, sizeof(now)) == 0;
        oht_status status = oht_config_same_run(&stored, &now, "runs/a");
        if (status != (key[i].may_change || same ? OHT_OK : OHT_CONFIG))
            fail_msg("%s: %d", key[i].name, status);
        if (status != OHT_OK) {
            assert_non_null(strstr(message(), key[i].name));
            assert_non_null(strstr(message(), "runs/a"));
        }
    }
    oht_config stored, now;
    oht_config_defaults(&stored);
    now = stored;
    now.train.micro_batch = 3;
    assert_int_equal(oht_config_same_run(&stored, &now, "runs/a"), OHT_OK);
    stored.compat.micro_batch_mean = now.compat.micro_batch_mean = true;
    assert_int_equal(oht_config_same_run(&stored, &now, "runs/a"), OHT_CONFIG);
    assert_non_null(strstr(message(), "train.micro_batch: there 8, now 3"));
    memset(now.data.path, 'x', OHT_PATH - 1);
    snprintf(now.model.attention, sizeof(now.model.attention), "%063d", 0);
    for (int i = 0; i < n; i++)
        if (key[i].type == OHT_KEY_INT) *(int64_t *)((char *)&now + key[i].offset) += 1;
    assert_int_equal(oht_config_same_run(&stored, &now, "runs/a"),
                     OHT_CONFIG); // a long list is cut, not overrun
}

static void help_and_reference_name_every_key(void **state) {
    (void)state;
    int n;
    const oht_key *key = oht_keys(&n);
    char *help = NULL, *reference = NULL;
    size_t size;
    FILE *out = open_memstream(&help, &size);
    oht_config_help(out);
    fclose(out);
    out = open_memstream(&reference, &size);
    oht_config_reference(out);
    fclose(out);
    for (int i = 0; i < n; i++) {
        assert_non_null(strstr(help, key[i].name));
        assert_non_null(strstr(reference, key[i].name));
        assert_non_null(strstr(reference, key[i].help));
    }
    free(help);
    free(reference);
}

// Every file in jobs/ is a configuration that fits together; demo.yaml is the default one.
static void jobs_are_valid(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob(OHT_SOURCE_DIR "/jobs/*.yaml", 0, NULL, &files), 0);
    bool demo = false;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        oht_config cfg, defaults;
        oht_config_defaults(&cfg);
        defaults = cfg;
        if (oht_config_load(&cfg, files.gl_pathv[i]) != OHT_OK || oht_config_check(&cfg) != OHT_OK)
            fail_msg("%s: %s", files.gl_pathv[i], message());
        if (strcmp(strrchr(files.gl_pathv[i], '/'), "/demo.yaml") != 0) continue;
        demo = true;
        assert_memory_equal(&cfg, &defaults, sizeof(cfg));
    }
    globfree(&files);
    assert_true(demo);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_sound),
        cmocka_unit_test(table_covers_the_struct),
        cmocka_unit_test(every_key_survives_a_round_trip),
        cmocka_unit_test(doubles_keep_their_bits),
        cmocka_unit_test(unknown_names_suggest_the_nearest),
        cmocka_unit_test(wrong_values_say_found_and_allowed),
        cmocka_unit_test(yaml_of_another_kind_is_refused),
        cmocka_unit_test(large_and_missing_files),
        cmocka_unit_test(good_yaml_of_many_shapes),
        cmocka_unit_test(damaged_files_never_crash),
        cmocka_unit_test(embedding_follows_the_width),
        cmocka_unit_test(keys_must_fit_each_other),
        cmocka_unit_test(a_resumed_run_may_change_some_keys),
        cmocka_unit_test(help_and_reference_name_every_key),
        cmocka_unit_test(jobs_are_valid),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
