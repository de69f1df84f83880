// Reads model.attention (with model.alpha) into the row nonlinearity of attention, spec transformers 1.1
// and 1.4:
//   vanilla | softmax1 | clipped(G:Z) | clippedsoftmax1(G:Z) | entmax15 | sparsemax
// and, with model.alpha, a bare clipped | clippedsoftmax1: gamma = -alpha / T, zeta = 1. `entmax` is accepted
// as the published scripts write it. Blanks are free. The bounds are taken as written (clipped(-.025:1) has
// zeta 1).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oht/config.h"

#define ALLOWED                                                                                              \
    "\nfix: one of vanilla, softmax1, clipped(G:Z), clippedsoftmax1(G:Z), entmax15, sparsemax; or clipped, " \
    "clippedsoftmax1 with model.alpha"

static const struct form {
    const char *name;
    oht_assoc_kind kind;
    bool clipped;
} forms[] = {
    {"vanilla", OHT_SOFTMAX, false},     {"softmax1", OHT_SOFTMAX1, false},
    {"clipped", OHT_SOFTMAX, true},      {"clippedsoftmax1", OHT_SOFTMAX1, true},
    {"entmax15", OHT_ENTMAX15, false},   {"entmax", OHT_ENTMAX15, false},
    {"sparsemax", OHT_SPARSEMAX, false},
};

// Copies text without blanks; false if it does not fit.
static bool squeeze(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text != '\0'; text++) {
        if (strchr(" \t\r\n", *text) != NULL) continue;
        if (n + 1 >= size) return false;
        out[n++] = *text;
    }
    out[n] = '\0';
    return true;
}

// A finite decimal number at *at; moves *at behind it.
static bool number(const char **at, double *out) {
    const size_t n = strspn(*at, "+-.0123456789eE"); // no "nan", "inf", hexadecimal
    char *end;
    *out = strtod(*at, &end);
    if (n == 0 || end != *at + n || !isfinite((float)*out)) return false; // kernels take single precision
    *at = end;
    return true;
}

static oht_status parse_bounds(const char *text, const char *bounds, oht_assoc_spec *out) {
    const char *at = bounds + 1;
    if (!number(&at, &out->gamma) || *at++ != ':' || !number(&at, &out->zeta) || strcmp(at, ")") != 0)
        OHT_FAIL(OHT_CONFIG,
                 "model.attention = '%s': expected two numbers as in clipped(-.025:1) after the name" ALLOWED,
                 text);
    // gamma > 0 would give masked keys a weight; zeta < 1 would keep a head from attending fully.
    if (!(out->gamma <= 0.0) || !(out->zeta >= 1.0))
        OHT_FAIL(OHT_CONFIG,
                 "model.attention = '%s': gamma = %g, zeta = %g; expected gamma <= 0 and zeta >= 1", text,
                 out->gamma, out->zeta);
    return OHT_OK;
}

oht_status oht_assoc_parse(const oht_model_config *model, int64_t tokens, oht_assoc_spec *out) {
    *out = (oht_assoc_spec){.kind = OHT_SOFTMAX, .gamma = 0.0, .zeta = 1.0};
    const char *text = model->attention;
    char word[sizeof model->attention];
    if (!squeeze(text, word, sizeof word)) OHT_FAIL(OHT_CONFIG, "model.attention is too long" ALLOWED);

    const size_t length = strcspn(word, "(");
    const struct form *form = NULL;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strlen(forms[i].name) == length && memcmp(forms[i].name, word, length) == 0) form = &forms[i];
    if (form == NULL) OHT_FAIL(OHT_CONFIG, "model.attention = '%s' is not known" ALLOWED, text);
    out->kind = form->kind;
    out->clipped = form->clipped;

    const bool has_bounds = word[length] == '(';
    const double alpha = model->alpha;
    if (has_bounds && !form->clipped)
        OHT_FAIL(OHT_CONFIG, "model.attention = '%s': %s takes no bounds" ALLOWED, text, form->name);
    if (has_bounds) OHT_TRY(parse_bounds(text, word + length, out));
    if (alpha == 0.0) {
        if (form->clipped && !has_bounds)
            OHT_FAIL(OHT_CONFIG, "model.attention = '%s' says no bounds and model.alpha is not set" ALLOWED,
                     text);
        return OHT_OK;
    }
    if (!form->clipped || has_bounds)
        OHT_FAIL(
            OHT_CONFIG,
            "model.alpha = %g with model.attention = '%s': alpha goes with a bare clipped or clippedsoftmax1 "
            "only\nfix: model.attention=clipped, or model.alpha=0",
            alpha, text);
    if (!(alpha > 0.0) || !isfinite(alpha))
        OHT_FAIL(OHT_CONFIG, "model.alpha = %g, expected a number >= 0 (gamma = -alpha / T)", alpha);
    if (tokens < 1)
        OHT_FAIL(OHT_CONFIG, "model.alpha = %g needs the block size T, which is %lld\nfix: set data.tokens",
                 alpha, (long long)tokens);
    out->gamma = -alpha / (double)tokens;
    return OHT_OK;
}
