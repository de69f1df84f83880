// Attention kernels against a double-precision reference written here from the formulas: values, and
// gradients by central differences of the reference, for every f x causal x mask x dropout and awkward
// shapes.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_test.h"
#include "oht/random.h"

enum { KEYS = 256 };

typedef struct attention {
    int64_t B, T, H, D;
    const double *qkv, *dout;
    const uint8_t *mask; // or NULL
    oht_assoc as;
    double *out, *scores, *probs; // filled when not NULL
} attention;

static int down(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// p = f(s) over the n visible keys in s
static void reference_row(const oht_assoc_spec *f, const double *s, double *p, int64_t n) {
    double max = -INFINITY, z[KEYS];
    if (n == 0) return;
    for (int64_t j = 0; j < n; j++) max = fmax(max, s[j]);
    if (f->kind == OHT_SOFTMAX || f->kind == OHT_SOFTMAX1) {
        double m = f->kind == OHT_SOFTMAX1 ? fmax(max, 0.0) : max,
               sum = f->kind == OHT_SOFTMAX1 ? exp(-m) : 0.0;
        for (int64_t j = 0; j < n; j++) sum += exp(s[j] - m);
        for (int64_t j = 0; j < n; j++) {
            p[j] = exp(s[j] - m) / sum;
            if (f->clipped) p[j] = fmin(1.0, fmax(0.0, (f->zeta - f->gamma) * p[j] + f->gamma));
        }
        return;
    }
    bool entmax = f->kind == OHT_ENTMAX15;
    for (int64_t j = 0; j < n; j++) z[j] = entmax ? 0.5 * (s[j] - max) : s[j] - max;
    qsort(z, (size_t)n, sizeof(*z), down);
    double sum = 0.0, square = 0.0, tau = 0.0;
    for (int64_t k = 1; k <= n; k++) { // the last k whose own threshold keeps its k-th value
        sum += z[k - 1], square += z[k - 1] * z[k - 1];
        double K = (double)k, t = (sum - 1.0) / K;
        if (entmax) t = sum / K - sqrt(fmax(0.0, (1.0 - (square - sum * sum / K)) / K));
        if (t <= z[k - 1]) tau = t;
    }
    for (int64_t j = 0; j < n; j++) {
        double r = fmax(0.0, (entmax ? 0.5 * (s[j] - max) : s[j] - max) - tau);
        p[j] = entmax ? r * r : r;
    }
}

// Factor of dropout straight from the layout of oht/random.h.
static double kept(const oht_draw *d, int64_t b, int64_t element) {
    if (!(d->p > 0.0f)) return 1.0;
    philox4x32_ctr_t r = oht_random_block(d->seed, OHT_DRAW_DROPOUT, d->site, d->step,
                                          d->sample0 + (uint32_t)b * d->stride, (uint32_t)(element / 8));
    uint32_t word = r.v[element % 8 / 2], half = element % 2 ? word >> 16 : word & 0xffffu;
    uint32_t threshold = oht_dropout_threshold(d->p);
    return half < threshold ? 0.0 : 65536.0 / (65536.0 - (double)threshold);
}

// sum of out * dout
static double reference(const void *problem) {
    const attention *a = problem;
    int64_t T = a->T, D = a->D, C = a->H * D;
    double loss = 0.0;
    for (int64_t bh = 0; bh < a->B * a->H; bh++) {
        int64_t b = bh / a->H, h = bh % a->H;
        const double *q = a->qkv + b * T * 3 * C + h * D, *k = q + C, *v = k + C;
        for (int64_t i = 0; i < T; i++) {
            double s[KEYS], p[KEYS] = {0}, packed[KEYS], f[KEYS], o[64] = {0};
            int64_t n = 0;
            for (int64_t j = 0; j < T; j++) {
                s[j] = 0.0;
                for (int64_t d = 0; d < D; d++) s[j] += q[i * 3 * C + d] * k[j * 3 * C + d];
                s[j] *= (double)a->as.beta;
                if (!((a->mask && !a->mask[b * T + j]) || (a->as.causal && j > i))) packed[n++] = s[j];
            }
            reference_row(&a->as.f, packed, f, n);
            n = 0;
            for (int64_t j = 0; j < T; j++) {
                if (!((a->mask && !a->mask[b * T + j]) || (a->as.causal && j > i))) p[j] = f[n++];
                double pd = p[j] * kept(&a->as.drop, b, (h * T + i) * T + j);
                for (int64_t d = 0; d < D; d++) o[d] += pd * v[j * 3 * C + d];
                if (a->scores) a->scores[(bh * T + i) * T + j] = s[j];
                if (a->probs) a->probs[(bh * T + i) * T + j] = p[j];
            }
            for (int64_t d = 0; d < D; d++) {
                int64_t at = (b * T + i) * C + h * D + d;
                if (a->out) a->out[at] = o[d];
                loss += o[d] * a->dout[at];
            }
        }
    }
    return loss;
}

static const oht_assoc_spec every_f[] = {
    {OHT_SOFTMAX, false, 0, 1},     {OHT_SOFTMAX1, false, 0, 1},    {OHT_ENTMAX15, false, 0, 1},
    {OHT_SPARSEMAX, false, 0, 1},   {OHT_SOFTMAX, true, -0.1, 1.1}, {OHT_SOFTMAX1, true, -0.025, 1},
    {OHT_SOFTMAX, true, 0.02, 1.0}, {OHT_SOFTMAX1, true, 0.0, 1.3},
};
enum { FUNCTIONS = sizeof(every_f) / sizeof(*every_f) };

typedef enum masks { FULL, PADDED, HOLES, EMPTY_SAMPLE, MASKS } masks;

static oht_tensor make_mask(masks kind, int64_t B, int64_t T) {
    if (kind == FULL) return OHT_NO_TENSOR;
    uint8_t m[4 * KEYS];
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            bool on = kind == PADDED ? t < (T + b) / 2 + 1 : kind == HOLES ? (t * 7 + b) % 3 != 0 : b > 0;
            m[b * T + t] = (uint8_t)on;
        }
    return kt_bytes(m, B, T);
}

typedef struct kernel_run {
    oht_tensor qkv, dout, mask, out, row, dqkv, scores, probs;
} kernel_run;

static kernel_run run(const oht_assoc *as, int64_t B, int64_t T, int64_t H, int64_t D, masks mask,
                      float sigma, bool add) {
    oht_backend *be = kt_backend();
    int64_t C = H * D;
    kernel_run r = {.qkv = kt_normal(1, sigma, B, T, 3 * C, 0),
                    .dout = kt_normal(2, 1.0f, B, T, C, 0),
                    .mask = make_mask(mask, B, T),
                    .out = kt_zeros(B, T, C, 0),
                    .row = kt_zeros(B, H, T, 0),
                    .dqkv = kt_normal(3, 1.0f, B, T, 3 * C, 0),
                    .scores = kt_zeros(B, H, T, T),
                    .probs = kt_zeros(B, H, T, T)};
    kt_poison(r.out), kt_poison(r.row), kt_poison(r.scores), kt_poison(r.probs);
    oht_tensor plain = kt_copy(r.out);
    if (!add) kt_poison(r.dqkv);
    oht_tensor before = kt_copy(r.dqkv);
    oht_attention_inner inner = {r.scores, r.probs};
    void *scratch = kt_scratch(be->attention_fwd_scratch(be, B, T, C, as));
    be->attention_fwd(be, plain, r.row, r.qkv, r.mask, as, NULL, scratch);
    be->attention_fwd(be, r.out, r.row, r.qkv, r.mask, as, &inner, scratch);
    assert_true(kt_error(plain, kt_double(r.out)) <= (be->host_memory ? 1e-6 : 3e-6)); // taps change nothing
    be->attention_bwd(be, r.dqkv, r.dout, plain, r.row, r.qkv, r.mask, as, add,
                      kt_scratch(be->attention_bwd_scratch(be, B, T, C, as)));
    for (int64_t i = 0; add && i < oht_tensor_count(r.dqkv); i++) oht_f32(r.dqkv)[i] -= oht_f32(before)[i];
    return r;
}

static void check(const oht_assoc *as, int64_t B, int64_t T, int64_t H, int64_t D, masks mask, float sigma,
                  bool add, int64_t most, double tolerance) {
    kernel_run r = run(as, B, T, H, D, mask, sigma, add);
    int64_t C = H * D;
    double *qkv = kt_double(r.qkv);
    attention a = {.B = B,
                   .T = T,
                   .H = H,
                   .D = D,
                   .qkv = qkv,
                   .dout = kt_double(r.dout),
                   .mask = oht_u8(r.mask),
                   .as = *as,
                   .out = kt_doubles((size_t)(B * T * C)),
                   .scores = kt_doubles((size_t)(B * H * T * T)),
                   .probs = kt_doubles((size_t)(B * H * T * T))};
    reference(&a);
    double errors[4] = {kt_error(r.out, a.out), kt_error(r.scores, a.scores), kt_error(r.probs, a.probs), 0};
    a.out = a.scores = a.probs = NULL;
    errors[3] = kt_gradient_error(qkv, r.dqkv, reference, &a, most, 1e-6);
    for (int i = 0; i < 4; i++)
        if (!(errors[i] <= tolerance))
            fail_msg("f %d%s causal %d mask %d p %.1f B %d T %d H %d D %d: %s off by %.2g", (int)as->f.kind,
                     as->f.clipped ? " clipped" : "", as->causal, (int)mask, (double)as->drop.p, (int)B,
                     (int)T, (int)H, (int)D, (const char *[]){"out", "scores", "probs", "gradient"}[i],
                     errors[i]);
    kt_reset();
}

static oht_assoc assoc(int f, bool causal, int64_t H, int64_t D, float p) {
    return (oht_assoc){
        .f = every_f[f],
        .beta = 1.0f / sqrtf((float)D),
        .causal = causal,
        .heads = (int)H,
        .drop = {.seed = 0x123456789abcdefull, .step = 7, .site = 3, .sample0 = 5, .stride = 2, .p = p}};
}

static void every_combination(void **state) {
    (void)state;
    for (int f = 0; f < FUNCTIONS; f++)
        for (int c = 0; c < 2 * MASKS * 2; c++) {
            oht_assoc as = assoc(f, c & 1, 2, 3, c & 2 ? 0.3f : 0.0f);
            check(&as, 2, 5, 2, 3, (masks)(c >> 2), 1.0f, (f + c) % 3 == 0, 60, 3e-6);
        }
}

static void awkward_shapes(void **state) {
    (void)state;
    static const int64_t shape[][4] = {{3, 1, 1, 2},   {1, 65, 1, 4}, {1, 64, 3, 1},
                                       {3, 130, 1, 5}, {2, 33, 2, 7}, {1, 200, 1, 16}};
    for (int s = 0; s < 6; s++)
        for (int f = 0; f < FUNCTIONS; f++) {
            const int64_t *n = shape[s];
            oht_assoc as = assoc(f, (s + f) % 2 == 0, n[2], n[3], f % 3 == 1 ? 0.1f : 0.0f);
            check(&as, n[0], n[1], n[2], n[3], (masks)((s + f) % MASKS), 1.5f, f % 2, 12, 5e-6);
        }
}

// Scores of some hundred and some thousand: p = exp(s - L) with s and L in float loses |s| 6e-8 relatively.
static void huge_scores(void **state) {
    (void)state;
    static const float sigma[] = {10.0f, 30.0f};
    for (int f = 0; f < FUNCTIONS; f++)
        for (int i = 0; i < 2; i++) {
            oht_assoc as = assoc(f, false, 1, 4, 0.0f);
            check(&as, 1, 9, 1, 4, FULL, sigma[i], false, 30, 1e-6 * (double)(sigma[i] * sigma[i]));
        }
    for (int f = 0; f < FUNCTIONS;
         f++) { // 1e38 and its opposite: scores overflow to inf or are MIN-like; nothing may hang
        oht_backend *be = kt_backend();
        oht_assoc as = assoc(f, false, 1, 1, 0.0f);
        oht_tensor qkv = kt_zeros(1, 4, 3, 0), out = kt_zeros(1, 4, 1, 0), row = kt_zeros(1, 1, 4, 0);
        for (int j = 0; j < 4; j++) {
            oht_f32(qkv)[3 * j] = 1.0f;
            oht_f32(qkv)[3 * j + 1] = j == 0 ? 0.0f : -3e38f;
            oht_f32(qkv)[3 * j + 2] = 1.0f + (float)j;
        }
        be->attention_fwd(be, out, row, qkv, OHT_NO_TENSOR, &as, NULL,
                          kt_scratch(be->attention_fwd_scratch(be, 1, 4, 1, &as)));
        double p = f == 1 ? 0.5 : f == 5 ? 0.5 * 1.025 - 0.025 : f == 7 ? 0.65 : 1.0;
        double rest = f == 6 ? 0.02 * (2.0 + 3.0 + 4.0) : 0.0; // gamma > 0 lifts keys of weight zero
        assert_true(fabs((double)oht_f32(out)[2] - p - rest) <= 1e-6);
        kt_reset();
    }
}

// A NaN must come out as NaN, not vanish in a comparison.
static void nan_shows(void **state) {
    (void)state;
    for (int f = 0; f < FUNCTIONS; f++)
        for (int all = 0; all < 2; all++) {
            oht_backend *be = kt_backend();
            oht_assoc as = assoc(f, false, 1, 2, 0.0f);
            oht_tensor qkv = kt_normal(1, 1.0f, 1, 5, 6, 0), out = kt_zeros(1, 5, 2, 0),
                       row = kt_zeros(1, 1, 5, 0);
            oht_f32(qkv)[all ? 0 : 2] = NAN; // the whole first row of scores, or its first element
            be->attention_fwd(be, out, row, qkv, OHT_NO_TENSOR, &as, NULL,
                              kt_scratch(be->attention_fwd_scratch(be, 1, 5, 2, &as)));
            assert_true(isnan(oht_f32(out)[0]));
            kt_reset();
        }
}

// Same bits for any number of threads where heads are not split, and run to run where they are.
static void determinism(void **state) {
    (void)state;
    int before = omp_get_max_threads();
    for (int H = 1; H <= 4; H += 3) {
        oht_assoc as = assoc(1, true, H, 8, 0.1f);
        unsigned char *first = NULL;
        size_t bytes = 0;
        for (int threads = 1; threads <= 3; threads++)
            for (int again = 0; again < 2; again++) {
                omp_set_num_threads(threads);
                kernel_run r = run(&as, 1, 200, H, 8, PADDED, 1.0f, false);
                bytes = (size_t)oht_tensor_count(r.dqkv) * 4;
                if (!first) {
                    first = malloc(bytes);
                    assert_non_null(first);
                }
                bool fresh = again == 0 && (threads == 1 || H == 1);
                if (fresh && threads > 1) { // other order of summation: close, not equal
                    double worst = 0.0;
                    for (size_t i = 0; i < bytes / 4; i++)
                        worst = fmax(worst,
                                     fabs((double)oht_f32(r.dqkv)[i] - (double)((float *)(void *)first)[i]));
                    assert_true(worst <= 1e-5);
                }
                if (fresh)
                    memcpy(first, r.dqkv.data, bytes);
                else
                    assert_memory_equal(first, r.dqkv.data, bytes);
                kt_reset();
            }
        free(first);
    }
    omp_set_num_threads(before);
}

// More threads than heads: ranges of queries, with adding and with fewer samples than the scratch was asked
// for.
static void split_heads(void **state) {
    (void)state;
    int before = omp_get_max_threads();
    omp_set_num_threads(3);
    for (int f = 0; f < FUNCTIONS; f += 3)
        for (int c = 0; c < 4; c++) {
            oht_assoc as = assoc(f, c & 1, 1, 4, 0.2f);
            check(&as, 1 + c / 2, 150, 1, 4, (masks)c, 1.0f, c & 1, 25, 5e-6);
        }
    oht_backend *be = kt_backend();
    oht_assoc as = assoc(0, false, 1, 4, 0.0f);
    size_t most = be->attention_bwd_scratch(be, 3, 300, 4, &as);
    for (int64_t b = 1; b < 3; b++) assert_true(be->attention_bwd_scratch(be, b, 300, 4, &as) <= most);
    kt_reset();
    omp_set_num_threads(before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination), cmocka_unit_test(awkward_shapes), cmocka_unit_test(huge_scores),
        cmocka_unit_test(nan_shows),         cmocka_unit_test(determinism),    cmocka_unit_test(split_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
