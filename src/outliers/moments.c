// Kurtosis of a row, and samples put together (include/oht/outliers.h).
//
//   kappa = (m4 / n) / (s^4 + 1e-6),  s^2 = m2 / (n - 1)     spec transformers 4; a constant row gives 0
//
// Merging follows Pebay (SAND2008-6212, eq. 2.1 and 3.1): with d = mean_b - mean_a, n = n_a + n_b,
//   m2 = m2_a + m2_b + d^2 n_a n_b / n
//   m3 = m3_a + m3_b + d^3 n_a n_b (n_a - n_b) / n^2 + 3 d (n_a m2_b - n_b m2_a) / n
//   m4 = m4_a + m4_b + d^4 n_a n_b (n_a^2 - n_a n_b + n_b^2) / n^3 + 6 d^2 (n_a^2 m2_b + n_b^2 m2_a) / n^2
//        + 4 d (n_a m3_b - n_b m3_a) / n
#include <math.h>

#include "oht/outliers.h"

double oht_kurtosis(const oht_moments *row) {
    if (row->n < 2) return 0; // one value is a constant row
    double n = (double)row->n, variance = row->m2 / (n - 1);
    return row->m4 / n / (variance * variance + 1e-6);
}

void oht_moments_merge(oht_moments *a, const oht_moments *b) {
    if (b->n == 0) return;
    if (a->n == 0) {
        *a = *b;
        return;
    }
    double na = (double)a->n, nb = (double)b->n, n = na + nb;
    double d = b->mean - a->mean, r = d / n, p = na * nb; // powers of d / n: no n^3 that could swamp the rest
    double m2 = a->m2 + b->m2 + d * r * p;
    double m3 = a->m3 + b->m3 + d * r * r * p * (na - nb) + 3 * r * (na * b->m2 - nb * a->m2);
    double m4 = a->m4 + b->m4 + d * r * r * r * p * (na * na - p + nb * nb) +
                6 * r * r * (na * na * b->m2 + nb * nb * a->m2) + 4 * r * (na * b->m3 - nb * a->m3);
    // NaN counts as the largest of all.
    if (!(b->abs_max <= a->abs_max) && !isnan(a->abs_max)) {
        a->abs_max = b->abs_max;
        a->abs_argmax = a->n + b->abs_argmax;
    }
    a->mean += r * nb;
    a->m2 = m2;
    a->m3 = m3;
    a->m4 = m4;
    a->n += b->n;
    a->outliers_6sigma += b->outliers_6sigma;
    a->nonfinite += b->nonfinite;
}
