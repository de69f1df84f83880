// Options that the commands share: both forms, values, key=value and other words, and what is refused.
#include <stdio.h>

#include "check.h"
#include "oht/cmd.h"

static void parse_words(const char *line, unsigned allowed, oht_status expected, const char *text,
                        oht_options *opt) {
    static char words[512];
    char *argv[32], *rest = NULL;
    int argc = 0;
    snprintf(words, sizeof(words), "%s", line);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    argv[argc] = NULL;
    oht_status status = oht_options_parse(argc, argv, allowed, opt);
    if (status != expected || (status && !strstr(oht_error_last()->text, text)))
        fail_msg("%s gives %d: %s\n  expected %s", line, status, oht_error_last()->text, text);
    static char *kept[32];
    memcpy(kept, opt->rest ? opt->rest : argv, (size_t)opt->n_rest * sizeof(char *));
    opt->rest = kept;
}

static void options_are_checked(void **state) {
    (void)state;
    oht_options opt;
    const unsigned train = OHT_OPT_CONFIG | OHT_OPT_OUT | OHT_OPT_QUIET | OHT_OPT_KEYS;
    parse_words("train a.b=1 -c x.yaml --quiet c.d=2 -oruns/a e=3", train, OHT_OK, "", &opt);
    assert_string_equal(opt.config, "x.yaml");
    assert_string_equal(opt.out, "runs/a");
    assert_true(opt.quiet);
    assert_int_equal(opt.n_rest, 3);
    assert_string_equal(opt.rest[0], "a.b=1");
    assert_string_equal(opt.rest[2], "e=3");
    parse_words("train --config=x.yaml --out y", train, OHT_OK, "", &opt);
    assert_string_equal(opt.config, "x.yaml");
    parse_words("train", train, OHT_OK, "", &opt);
    assert_null(opt.config);
    assert_int_equal(opt.n_rest, 0);
    parse_words("train --confg x", train, OHT_CONFIG, "unknown option --confg; nearest: --config", &opt);
    parse_words("train --confg=x", train, OHT_CONFIG, "nearest: --config", &opt);
    parse_words("train -z", train, OHT_CONFIG, "unknown option -z", &opt);
    parse_words("train -qz", train, OHT_CONFIG, "unknown option -z", &opt);
    parse_words("train -r x", train, OHT_CONFIG, "unknown option -r", &opt);
    parse_words("train --json x", train, OHT_CONFIG, "unknown option --json", &opt);
    parse_words("train -c", train, OHT_CONFIG, "-c: expected a value", &opt);
    parse_words("train a=1 --out", train, OHT_CONFIG, "--out: expected a value", &opt);
    parse_words("train --quiet=3", train, OHT_CONFIG, "takes no value", &opt);
    parse_words("train --config=", train, OHT_CONFIG, "expected a value", &opt);
    parse_words("train -c a -c b", train, OHT_CONFIG, "given twice", &opt);
    parse_words("train word", train, OHT_CONFIG, "unexpected word \"word\"", &opt);
    parse_words("train -- -c", train, OHT_CONFIG, "unexpected word \"-c\"", &opt);
    parse_words("report a b=c d --format md", OHT_OPT_FORMAT | OHT_OPT_WORDS, OHT_OK, "", &opt);
    assert_int_equal(opt.n_rest, 3);
    assert_string_equal(opt.format, "md");
    parse_words("x a=b", OHT_OPT_JSON, OHT_CONFIG, "takes no key=value", &opt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(options_are_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
