// Where a retrieval has converged (oht/backend.h, spec stanhop 1.4): each head of each group by itself, so that the result does
// not depend on what else is in the batch.
#include <math.h>

#include "cpu/cpu.h"

typedef struct settle_shape {
    int64_t groups, L, S, C, H, D;
} settle_shape;

static settle_shape shape_of(oht_tensor y, oht_tensor p, int heads) {
    return (settle_shape){y.dim[0] * y.dim[1], y.dim[2], p.dim[3], y.dim[3], heads, y.dim[3] / heads};
}

// Is it still moving?
static bool moves(const settle_shape *s, oht_tensor p, oht_tensor before, int64_t group, int64_t h, float eps) {
    const int64_t n = s->L * s->S;
    const float *a = oht_f32(p) + (group * s->H + h) * n, *b = oht_f32(before) + (group * s->H + h) * n;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sqrt(sum) > (double)eps;
}

void settle_fwd_cpu(oht_backend *be, oht_tensor y, oht_tensor q, oht_tensor r, oht_tensor p, oht_tensor before, int heads,
                    float eps) {
    const settle_shape s = shape_of(y, p, heads);
#pragma omp parallel for num_threads(be->threads) if (s.groups * s.L * s.C > CPU_SMALL) schedule(static)
    for (int64_t group = 0; group < s.groups; group++)
        for (int64_t h = 0; h < s.H; h++) {
            const int64_t at = group * s.L * s.C + h * s.D;
            const float *from = (moves(&s, p, before, group, h, eps) ? oht_f32(r) : oht_f32(q)) + at;
            float *to = oht_f32(y) + at;
            for (int64_t i = 0; i < s.L; i++)
                for (int64_t d = 0; d < s.D; d++) to[i * s.C + d] = from[i * s.C + d];
        }
}

static void pass(float *to, const float *dy, const settle_shape *s, int64_t at, bool mine, bool add) {
    if (!to) return;
    for (int64_t i = 0; i < s->L; i++)
        for (int64_t d = 0; d < s->D; d++) {
            const int64_t e = at + i * s->C + d;
            to[e] = (add ? to[e] : 0.0f) + (mine ? dy[e] : 0.0f);
        }
}

void settle_bwd_cpu(oht_backend *be, oht_tensor dq, oht_tensor dr, oht_tensor dy, oht_tensor p, oht_tensor before, int heads,
                    float eps, const bool add[2]) {
    const settle_shape s = shape_of(dy, p, heads);
#pragma omp parallel for num_threads(be->threads) if (s.groups * s.L * s.C > CPU_SMALL) schedule(static)
    for (int64_t group = 0; group < s.groups; group++)
        for (int64_t h = 0; h < s.H; h++) {
            const bool moving = moves(&s, p, before, group, h, eps);
            pass(oht_f32(dq), oht_f32(dy), &s, group * s.L * s.C + h * s.D, !moving, add[0]);
            pass(oht_f32(dr), oht_f32(dy), &s, group * s.L * s.C + h * s.D, moving, add[1]);
        }
}
