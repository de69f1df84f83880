// The range of least squared error by searches in one dimension (spec transformers 5.2). A range [s - r, s +
// r] has a half-width r in [R/100, R], searched outside, and a shift s of at most a quarter of its 2^b steps,
// searched inside; where the data is
// >= 0 the range is [0, r], for symmetric quantizers [-r, r]. R: the largest |x| + margin.
#include <math.h>

#include "oht/quant.h"

static const double MARGIN = 0.5, XATOL = 1e-5;

typedef struct search {
    const oht_quant_data *data;
    bool symmetric, one_sided;
    int bits;
    double half, shift; // fixed by the outer search; found by the inner one
} search;

static double error_of(const search *s, double lo, double hi) {
    oht_quantizer q = oht_quantizer_of(s->symmetric, s->bits, lo, hi);
    oht_fakequant fake = oht_quantizer_fake(&q);
    oht_quant_error error;
    const oht_quant_data *d = s->data;
    d->be->quant_error(d->be, d->x, d->rows, d->n, d->ld, &fake, false, &error);
    return error.noise;
}

static double error_of_shift(void *ctx, double shift) {
    const search *s = ctx;
    return error_of(s, shift - s->half, shift + s->half);
}

static double error_of_half(void *ctx, double half) {
    search *s = ctx;
    if (s->symmetric || s->one_sided) return error_of(s, s->one_sided ? 0.0 : -half, half);
    double steps = (double)((int64_t)1 << s->bits), most = 2.0 * half / (steps - 1.0) * floor(steps / 4.0),
           error;
    s->half = half;
    s->shift = oht_minimize(error_of_shift, s, -most, most, XATOL, &error);
    return error;
}

void oht_range_golden(const oht_quant_data *data, bool symmetric, int bits, oht_mse_margin margin,
                      const double minmax[2], double range[2], double *loss) {
    search s = {.data = data, .symmetric = symmetric, .one_sided = minmax[0] >= 0.0, .bits = bits};
    double extra = margin == OHT_MARGIN_ABSOLUTE ? MARGIN : 0.0;
    double most = fmax(fabs(minmax[0]), fabs(minmax[1])) + extra;
    double half = oht_minimize(error_of_half, &s, 0.01 * most, most, XATOL, loss);
    *loss = error_of_half(&s, half); // the shift of this half-width again
    bool free_shift = !symmetric && !s.one_sided;
    range[0] = free_shift ? s.shift - half : s.one_sided ? 0.0 : -half;
    range[1] = free_shift ? s.shift + half : half;
}
