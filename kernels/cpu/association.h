// The row functions f of Hopfield association and their derivatives f' (spec transformers 1.1), one row of
// keys at a time, the row being in cache. Masked keys carry the score -inf and get p = 0 under every f; so
// does a row without any key.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/config.h"

// s: n scores, overwritten by p = f(s). Returns what backward needs to find p again: the log-normaliser of
// softmax and softmax_1 (clipped or not), tau of sparsemax, and of entmax15 (where p = max(s/2 - tau, 0)^2).
float association_row(const oht_assoc_spec *f, float *s, int64_t n);

// The clip of clipped forms: p := clip((zeta - gamma) p + gamma, 0, 1).
void association_clip(const oht_assoc_spec *f, float *p, int64_t n);
// f' from the base probabilities p, those before the clip: g, d loss / d f(s), is overwritten by d loss / d s.
void association_probs_bwd(const oht_assoc_spec *f, const float *p, float *g, int64_t n);

// Dropout of one row: element j dropped iff bits[j] < threshold, the others scaled. bits NULL: no dropout.
typedef struct association_drop {
    const uint16_t *bits;
    uint32_t threshold;
    float scale;
} association_drop;

// Backward of out = Drop(f(s)) v. s: scores, overwritten by Drop(p). g: d loss / d Drop(p), overwritten by d
// loss / d s. norm: from association_row. out_dout: <out, d loss / d out> of this row; equals sum_j g_j
// Drop(p)_j.
void association_row_bwd(const oht_assoc_spec *f, float *s, float *g, int64_t n, float norm, float out_dout,
                         association_drop drop);
