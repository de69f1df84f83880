// Learning-rate schedules, exactly as Hugging Face's get_scheduler defines them, ViT's cosine (spec transformers
// 3), and the steps of the time-series recipe (spec stanhop 3.1): a factor of train.lr as a function of t, the number of completed updates, with W warm-up
// steps and S steps in all. The first update of a warm-up therefore uses 0.
//
// train.final_lr_fraction f stretches W and S by a = 1 / (1 - (1 - W/S) f), both rounded down, so that a
// linear schedule stands at about f at step S.
#include <math.h>

#include "oht/train.h"

static const double PI = 3.14159265358979323846;

static double min1(int64_t n) {
    return n > 1 ? (double)n : 1.0;
}

// The cosine counts from step 0, warm-up included, and t stands still for train.lr_every steps (an epoch) at
// a time: t < W: w + t (lr - w) / W, else end + (lr - end) (1 + cos(pi t / S)) / 2.
static double cosine_end(const oht_train_config *cfg, int64_t t) {
    double at = (double)(cfg->lr_every > 1 ? t / cfg->lr_every * cfg->lr_every : t);
    if (t < cfg->warmup_steps)
        return cfg->warmup_lr + at * (cfg->lr - cfg->warmup_lr) / (double)cfg->warmup_steps;
    double progress = fmin(1.0, at / min1(cfg->steps));
    return cfg->lr_end + 0.5 * (cfg->lr - cfg->lr_end) * (1.0 + cos(PI * progress));
}

// Epochs of lr_every steps, counted from 0; halved after every `epochs` of them, five times.
static double halved(const oht_train_config *cfg, int64_t t, int64_t epochs) {
    int64_t halvings = t / cfg->lr_every / epochs;
    return ldexp(cfg->lr, -(int)(halvings < 5 ? halvings : 5));
}

double oht_learning_rate(const oht_train_config *cfg, int64_t t) {
    int64_t W = cfg->warmup_steps, S = cfg->steps;
    if (cfg->final_lr_fraction > 0 && S > 0) {
        double a = 1.0 / (1.0 - (1.0 - (double)W / (double)S) * cfg->final_lr_fraction);
        W = (int64_t)((double)W * a);
        S = (int64_t)((double)S * a);
    }
    if (cfg->schedule == OHT_LR_CONSTANT) return cfg->lr;
    if (cfg->schedule == OHT_LR_COSINE_END) return cosine_end(cfg, t);
    if (cfg->schedule == OHT_LR_TYPE1) return halved(cfg, t, 2);
    if (cfg->schedule == OHT_LR_TYPE2) return halved(cfg, t, 5);
    if (t < W) return cfg->lr * ((double)t / min1(W));
    double progress = (double)(t - W) / min1(S - W);
    switch (cfg->schedule) {
    case OHT_LR_LINEAR:
        return cfg->lr * fmax(0.0, (double)(S - t) / min1(S - W));
    case OHT_LR_COSINE:
        return cfg->lr * fmax(0.0, 0.5 * (1.0 + cos(PI * progress))); // half a period
    case OHT_LR_COSINE_WITH_RESTARTS:
        if (progress >= 1.0) return 0.0;
        return cfg->lr * fmax(0.0, 0.5 * (1.0 + cos(PI * fmod((double)cfg->cycles * progress, 1.0))));
    case OHT_LR_POLYNOMIAL:
        if (t >= S) return cfg->lr_end;
        return (cfg->lr - cfg->lr_end) * pow(1.0 - progress, cfg->lr_power) + cfg->lr_end;
    case OHT_LR_CONSTANT:
    case OHT_LR_CONSTANT_WITH_WARMUP:
    case OHT_LR_COSINE_END:
    case OHT_LR_TYPE1:
    case OHT_LR_TYPE2:
        break;
    }
    return cfg->lr;
}
