// alpha-entmax, the row function of the generalised sparse Hopfield layer (spec stanhop 1.5): p_i = max((alpha-1) x_i - tau,
// 0)^(1/(alpha-1)) with tau such that sum p = 1.
#pragma once

#include <stdint.h>

// s: n scores, overwritten by p.
void entmax_row(float *s, int64_t n, double alpha);
// g: d loss / d p, overwritten by d loss / d s. Returns d loss / d alpha of this row.
double entmax_row_bwd(const float *p, float *g, int64_t n, double alpha);
