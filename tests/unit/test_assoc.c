// model.attention as text: everything the grammar allows, and what it must refuse with a helpful message.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "oht/config.h"

static oht_status parse(const char *text, double alpha, int64_t tokens, oht_assoc_spec *out) {
    oht_model_config model = {.alpha = alpha};
    assert_true(strlen(text) < sizeof model.attention);
    strcpy(model.attention, text);
    memset(out, 0xff, sizeof *out);
    return oht_assoc_parse(&model, tokens, out);
}

static void good(const char *text, double alpha, oht_assoc_kind kind, bool clipped, double gamma,
                 double zeta) {
    oht_assoc_spec s;
    if (parse(text, alpha, 512, &s) != OHT_OK) fail_msg("'%s': %s", text, oht_error_last()->text);
    assert_int_equal(s.kind, kind);
    assert_int_equal(s.clipped, clipped);
    if (s.gamma != gamma || s.zeta != zeta)
        fail_msg("'%s': gamma %.17g zeta %.17g, expected %.17g %.17g", text, s.gamma, s.zeta, gamma, zeta);
}

static void bad(const char *text, double alpha, int64_t tokens, const char *says) {
    oht_assoc_spec s;
    if (parse(text, alpha, tokens, &s) != OHT_CONFIG)
        fail_msg("'%s' with alpha %g was accepted", text, alpha);
    if (strstr(oht_error_last()->text, says) == NULL)
        fail_msg("'%s': message lacks '%s':\n%s", text, says, oht_error_last()->text);
}

static void test_plain(void **state) {
    (void)state;
    good("vanilla", 0, OHT_SOFTMAX, false, 0, 1);
    good("softmax1", 0, OHT_SOFTMAX1, false, 0, 1);
    good("entmax15", 0, OHT_ENTMAX15, false, 0, 1);
    good("entmax", 0, OHT_ENTMAX15, false, 0, 1); // spelling of the published scripts
    good("sparsemax", 0, OHT_SPARSEMAX, false, 0, 1);
    good("  soft max1\t", 0, OHT_SOFTMAX1, false, 0, 1);
}

static void test_clipped(void **state) {
    (void)state;
    good("clipped(-.025:1)", 0, OHT_SOFTMAX, true, -.025, 1);
    good("clipped(0:1.0003)", 0, OHT_SOFTMAX, true, 0, 1.0003);
    good("clipped( -1e-5 : 1.0 )", 0, OHT_SOFTMAX, true, -1e-5, 1);
    good("clipped(-.00001:1)", 0, OHT_SOFTMAX, true, -.00001, 1);
    good("clipped(-1.5E-2:+1.)", 0, OHT_SOFTMAX, true, -.015, 1);
    good("clippedsoftmax1(-.025:1.1)", 0, OHT_SOFTMAX1, true, -.025, 1.1);
    good("clipped", 12, OHT_SOFTMAX, true, -12.0 / 512, 1);
    good("clippedsoftmax1", 4, OHT_SOFTMAX1, true, -4.0 / 512, 1);
    oht_assoc_spec s;
    assert_int_equal(parse("clipped", 12, 128, &s), OHT_OK);
    assert_true(s.gamma == -12.0 / 128);
}

static void test_refused(void **state) {
    (void)state;
    const char *unknown[] = {"",          "softmax", "Vanilla", "vanilla1", "clip", "clippedsoftmax",
                             "softmax1x", "(",       "(-.1:1)"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        bad(unknown[i], 0, 512, "is not known");
        bad(unknown[i], 0, 512, "clippedsoftmax1(G:Z)"); // lists what is allowed
    }
    const char *bounds[] = {"clipped()",        "clipped(",          "clipped(-.025)",     "clipped(-.025:)",
                            "clipped(:1)",      "clipped(-.025:1",   "clipped(-.1:1))",    "clipped(-.1:1)x",
                            "clipped(nan:1)",   "clipped(-inf:1)",   "clipped(-0x1p-4:1)", "clipped(-.1,1)",
                            "clipped(-.1:1:2)", "clipped(-1e400:1)", "clipped(-1e39:1)",   "clipped(--1:1)",
                            "clipped(-.1:1e)",  "clipped((-.1:1))",  "clipped(-.1;1)"};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) bad(bounds[i], 0, 512, "two numbers");
    bad("vanilla(-.025:1)", 0, 512, "takes no bounds");
    bad("softmax1()", 0, 512, "takes no bounds");
    bad("clipped(.1:1)", 0, 512, "gamma <= 0");
    bad("clipped(-.1:.9)", 0, 512, "zeta >= 1");
}

static void test_alpha(void **state) {
    (void)state;
    bad("clipped", 0, 512, "model.alpha is not set");
    bad("clippedsoftmax1", 0, 512, "model.alpha is not set");
    bad("vanilla", 12, 512, "bare clipped");
    bad("softmax1", 12, 512, "bare clipped");
    bad("clipped(-.025:1)", 12, 512, "bare clipped");
    bad("clipped", -12, 512, "model.alpha");
    bad("clipped", (double)NAN, 512, "model.alpha");
    bad("clipped", (double)INFINITY, 512, "model.alpha");
    bad("clipped", 12, 0, "block size");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_clipped),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_alpha),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
