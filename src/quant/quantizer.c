// Quantizers from ranges (spec transformers 5.1), lo' = min(lo, 0), hi' = max(hi, 1e-8):
//   asymmetric  N = 2^b - 1, step = (hi' - lo') / N, zero = clip(round(-lo' / step), 0, N), q in [0, N]
//   symmetric   signed: N = 2^(b-1) - 1, q in [-2^(b-1), N]; unsigned: N = 2^b - 1, q in [0, N]; step =
//   max(|lo'|, hi') / N
// The step is at least 1e-8, so that a tensor of zeros divides by something.
#include <math.h>

#include "oht/quant.h"

static const double TINY = 1e-8;

oht_quantizer oht_quantizer_make(bool symmetric, bool is_signed, int bits, double lo, double hi) {
    oht_quantizer q = {.bits = bits, .symmetric = symmetric, .lo = lo, .hi = hi};
    lo = fmin(lo, 0.0);
    hi = fmax(hi, TINY);
    const int64_t all = ((int64_t)1 << bits) - 1, half = (int64_t)1 << (bits - 1);
    q.high = symmetric && is_signed ? half - 1 : all;
    q.low = symmetric && is_signed ? -half : 0;
    double step = (symmetric ? fmax(-lo, hi) : hi - lo) / (double)q.high;
    if (!symmetric) q.zero = (int64_t)fmin(fmax(rint(-lo / step), 0.0), (double)all);
    q.step = fmax(step, TINY);
    return q;
}

oht_quantizer oht_quantizer_of(bool symmetric, int bits, double lo, double hi) {
    return oht_quantizer_make(symmetric, lo < 0.0, bits, lo, hi);
}

int64_t oht_quantizer_code(const oht_quantizer *q, double x) {
    double code = rint(x / q->step) + (double)q->zero;
    return (int64_t)fmin(fmax(code, (double)q->low), (double)q->high);
}

oht_fakequant oht_quantizer_fake(const oht_quantizer *q) {
    return (oht_fakequant){(float)q->step, (float)q->zero, (float)q->low, (float)q->high};
}
