// Mixup and cutmix of a uint8 batch, soft targets, normalisation (include/oht/images.h; spec
// transformers 3.2).
//
//   lambda ~ Beta(alpha, alpha), one for a group of samples
//   mixup:   x_i <- rint(lambda x_i + (1 - lambda) x_j), j = B - 1 - i
//   cutmix:  a box of sides floor(S sqrt(1 - lambda)) around a uniform centre, clipped, comes from x_j;
//            lambda <- 1 - area / S^2
//   target:  lambda t(y_i) + (1 - lambda) t(y_j), t = smoothing / K, and 1 - smoothing more at y
#include "oht/images.h"

#include <math.h>
#include <string.h>

#include "data/images/images.h"

static double positive_uniform(oht_draws *d) { // (0, 1)
    return (oht_draw_bits(d) + 0.5) * 0x1p-32;
}

// Gamma(alpha, 1) for alpha > 1 (Marsaglia and Tsang 2000).
static double gamma_above_1(oht_draws *d, double alpha) {
    double a = alpha - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * a);
    for (;;) {
        double x = oht_draw_normal(d), v = 1.0 + c * x, u = positive_uniform(d);
        v = v * v * v;
        if (v > 0.0 && log(u) < 0.5 * x * x + a - a * v + a * log(v)) return a * v;
    }
}

// Beta(alpha, alpha); up to 1 by Johnk's rejection: U^(1/alpha) / (U^(1/alpha) + V^(1/alpha)) where the sum
// is at most 1.
static double beta(oht_draws *d, double alpha) {
    if (alpha > 1.0) {
        double x = gamma_above_1(d, alpha), y = gamma_above_1(d, alpha);
        return x / (x + y);
    }
    for (;;) {
        double x = log(positive_uniform(d)) / alpha,
               y = log(positive_uniform(d)) / alpha; // logarithms: x may be tiny
        double most = fmax(x, y), sum = most + log(exp(x - most) + exp(y - most));
        if (sum <= 0.0) return exp(x - sum);
    }
}

static int clamp(int v, int high) {
    return v < 0 ? 0 : v > high ? high : v;
}

static void draw_box(oht_mix *mix, oht_draws *d, int size) {
    int side = (int)(size * sqrt(1.0 - (double)mix->lambda)), y = oht_draw_below(d, size),
        x = oht_draw_below(d, size);
    mix->left = clamp(x - side / 2, size);
    mix->right = clamp(x + side / 2, size);
    mix->top = clamp(y - side / 2, size);
    mix->bottom = clamp(y + side / 2, size);
    double area = (double)(mix->right - mix->left) * (mix->bottom - mix->top);
    mix->lambda = (float)(1.0 - area / ((double)size * size));
}

oht_mix oht_mix_draw(const oht_mix_recipe *recipe, int size, uint64_t seed, int64_t step, int64_t group) {
    oht_draws d = {.seed = seed, .purpose = OHT_DRAW_MIX, .step = (uint32_t)step, .sample = (uint32_t)group};
    oht_mix mix = {.lambda = 1.0f};
    bool mixup = recipe->mixup_alpha > 0.0, cutmix = recipe->cutmix_alpha > 0.0;
    double u = oht_draw_uniform(&d);
    if (!mixup && !cutmix) return mix;
    mix.cutmix = cutmix && (!mixup || u < recipe->cutmix_probability);
    mix.lambda = (float)beta(&d, mix.cutmix ? recipe->cutmix_alpha : recipe->mixup_alpha);
    if (mix.cutmix) draw_box(&mix, &d, size);
    return mix;
}

static void swap_box(const oht_mix *mix, uint8_t *a, uint8_t *b, int size) {
    uint8_t kept[4096];
    for (int y = mix->top; y < mix->bottom; y++) {
        size_t at = ((size_t)y * (size_t)size + (size_t)mix->left) * 3,
               left = (size_t)(mix->right - mix->left) * 3;
        for (size_t n; left > 0; left -= n, at += n) {
            n = left < sizeof(kept) ? left : sizeof(kept);
            memcpy(kept, a + at, n);
            memcpy(a + at, b + at, n);
            memcpy(b + at, kept, n);
        }
    }
}

static uint8_t nearest(float v) { // half to even; v in [0, 255]
    return (uint8_t)(int)rintf(v);
}

void oht_mix_pair(const oht_mix *mix, uint8_t *restrict a, uint8_t *restrict b, int size) {
    if (a == b || mix->lambda == 1.0f) return;
    if (mix->cutmix) {
        swap_box(mix, a, b, size);
        return;
    }
    float p = mix->lambda, q = 1.0f - p;
    size_t n = (size_t)size * (size_t)size * 3;
    for (size_t i = 0; i < n; i++) {
        float x = a[i], y = b[i];
        a[i] = nearest(x * p + y * q);
        b[i] = nearest(y * p + x * q);
    }
}

void oht_mix_target(const oht_mix *mix, int32_t label, int32_t partner, int64_t classes, double smoothing,
                    float *target) {
    double off = smoothing / (double)classes, on = 1.0 - smoothing + off, p = (double)mix->lambda;
    for (int64_t k = 0; k < classes; k++) {
        double own = k == label ? on : off, other = k == partner ? on : off;
        target[k] = (float)(p * own + (1.0 - p) * other);
    }
}

void oht_image_normalise(const uint8_t *pixels, int size, float *out) {
    size_t n = (size_t)size * (size_t)size;
    float value[256]; // (v / 255 - 0.5) / 0.5
    for (int v = 0; v < 256; v++) value[v] = ((float)v / 255.0f - 0.5f) / 0.5f;
    for (size_t i = 0; i < n; i++, pixels += 3)
        for (size_t c = 0; c < 3; c++) out[c * n + i] = value[pixels[c]];
}
