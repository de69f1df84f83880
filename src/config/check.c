// What no single key can say: keys that must fit each other, and keys that would be read and then ignored. A
// key is "given" here when it differs from its default.
#include <string.h>

#include "config/table.h"

// Keys that not every kind of model reads, and which do.
enum { TEXT = 1, IMAGES = 2, SERIES = 4 };
static const struct {
    const char *name;
    int readers;
} PARTLY_READ[] = {
    {"model.vocab_size", TEXT},
    {"model.max_tokens", TEXT},
    {"model.norm", TEXT | IMAGES},
    {"model.embed_width", TEXT | IMAGES},
    {"model.init_std", TEXT | IMAGES},
    {"model.image_size", IMAGES},
    {"model.patch", IMAGES},
    {"model.classes", IMAGES},
    {"model.patch_bias", IMAGES},
    {"model.qkv_bias", IMAGES},
    {"model.pre_norm", IMAGES},
    {"model.series", SERIES},
    {"model.input", SERIES},
    {"model.horizon", SERIES},
    {"model.segment", SERIES},
    {"model.merge", SERIES},
    {"model.patterns", SERIES},
    {"model.norms", SERIES},
    {"model.alpha_max", SERIES},
    {"model.mix_heads", SERIES},
    {"model.retrievals", SERIES}, {"model.retrieval_eps", SERIES}, {"model.baseline", SERIES},
    {"data.tokens", TEXT},
    {"data.mlm_probability", TEXT},
    {"data.crop_area", IMAGES},
    {"data.flip", IMAGES},
    {"data.augment_ops", IMAGES},
    {"data.augment_magnitude", IMAGES},
    {"data.mixup", IMAGES},
    {"data.cutmix", IMAGES},
    {"data.cutmix_probability", IMAGES},
    {"data.mix_batch", IMAGES},
    {"data.smoothing", IMAGES},
    {"data.threads", IMAGES},
    {"eval.mask_seed", TEXT},
    {"compat.all_modules", IMAGES},
};

static oht_status check_unread(const oht_config *cfg) {
    int reader = cfg->model.type == OHT_MODEL_VIT       ? IMAGES
                 : cfg->model.type == OHT_MODEL_STANHOP ? SERIES
                                                        : TEXT;
    oht_config unset;
    oht_config_defaults(&unset);
    unset.model.embed_width = cfg->model.width; // follows the width
    for (size_t i = 0; i < sizeof(PARTLY_READ) / sizeof(PARTLY_READ[0]); i++) {
        if (PARTLY_READ[i].readers & reader) continue;
        const oht_key *key = oht_key_find(PARTLY_READ[i].name);
        char found[OHT_KEY_TEXT_MAX], usual[OHT_KEY_TEXT_MAX], type[OHT_KEY_TEXT_MAX];
        oht_key_get(cfg, key, found);
        oht_key_get(&unset, key, usual);
        if (strcmp(found, usual) == 0) continue;
        oht_key_get(cfg, oht_key_find("model.type"), type);
        OHT_FAIL(OHT_CONFIG, "%s: found %s, but model.type = %s does not read it\nfix: leave it out",
                 key->name, found, type);
    }
    return OHT_OK;
}

static oht_status check_images(const oht_config *cfg) {
    const oht_model_config *m = &cfg->model;
    if (m->image_size % m->patch != 0)
        OHT_FAIL(OHT_CONFIG, "model.patch: found %lld, which does not divide model.image_size = %lld",
                 (long long)m->patch, (long long)m->image_size);
    if (m->norm != OHT_NORM_PRE)
        OHT_FAIL(OHT_CONFIG, "model.norm: found post, expected pre for ViT\nfix: model.norm=pre");
    if (m->embed_width != m->width)
        OHT_FAIL(OHT_CONFIG, "model.embed_width: found %lld, expected model.width = %lld for ViT",
                 (long long)m->embed_width, (long long)m->width);
    return OHT_OK;
}

int64_t oht_config_tokens(const oht_config *cfg) {
    const oht_model_config *m = &cfg->model;
    if (m->type == OHT_MODEL_VIT) return (m->image_size / m->patch) * (m->image_size / m->patch) + 1;
    if (m->type == OHT_MODEL_STANHOP) return m->input;
    return cfg->data.tokens ? cfg->data.tokens : m->max_tokens; // the file may ask for less
}

static oht_status check_model(const oht_model_config *m) {
    if (m->retrieval_eps > 0 && m->retrievals < 2)
        OHT_FAIL(OHT_CONFIG, "model.retrieval_eps: found %g, which needs model.retrievals of at least 2, found %lld",
                 m->retrieval_eps, (long long)m->retrievals);
    if (m->width % m->heads != 0)
        OHT_FAIL(OHT_CONFIG, "model.heads: found %lld, which does not divide model.width = %lld",
                 (long long)m->heads, (long long)m->width);
    if (m->type == OHT_MODEL_BERT && m->norm != OHT_NORM_POST)
        OHT_FAIL(OHT_CONFIG, "model.norm: found pre, expected post for BERT\nfix: model.norm=post");
    if (m->type == OHT_MODEL_BERT && m->embed_width != m->width)
        OHT_FAIL(OHT_CONFIG, "model.embed_width: found %lld, expected model.width = %lld for BERT",
                 (long long)m->embed_width, (long long)m->width);
    return OHT_OK;
}

// Spec transformers 1.5: which form reads pi_0.
static oht_status check_gate(const oht_model_config *m) {
    bool conditional = m->gate == OHT_GATE_CONDITIONAL_PER_HEAD || m->gate == OHT_GATE_CONDITIONAL_PER_TOKEN;
    if (!conditional && (m->gate_form != OHT_GATE_LINEAR || m->gate_init != 0.5 || m->gate_fine_tuning))
        OHT_FAIL(OHT_CONFIG,
                 "model.gate_form, model.gate_init and model.gate_fine_tuning need a conditional gate, found "
                 "model.gate = %s\n"
                 "fix: model.gate=conditional_per_token, or leave them out",
                 m->gate == OHT_GATE_NONE ? "none" : "unconditional_per_head");
    if (m->gate_form != OHT_GATE_LINEAR && m->gate_init != 0.5 && !m->gate_fine_tuning)
        OHT_FAIL(OHT_CONFIG,
                 "model.gate_init: found %g, but only model.gate_form = linear starts at a chosen "
                 "value\nfix: leave it out",
                 m->gate_init);
    if (conditional && m->gate_form == OHT_GATE_MLP && m->width / m->heads < 4)
        OHT_FAIL(
            OHT_CONFIG,
            "model.gate_form: mlp needs heads of at least 4 features, found model.width / model.heads = %lld",
            (long long)(m->width / m->heads));
    return OHT_OK;
}

static oht_status check_schedule(const oht_train_config *t) {
    if (t->schedule == OHT_LR_CONSTANT && t->warmup_steps > 0)
        OHT_FAIL(OHT_CONFIG,
                 "train.schedule: constant has no warm-up, found train.warmup_steps = %lld\n"
                 "fix: train.schedule=constant_with_warmup, or train.warmup_steps=0",
                 (long long)t->warmup_steps);
    if (t->schedule != OHT_LR_COSINE_WITH_RESTARTS && t->cycles != 1)
        OHT_FAIL(OHT_CONFIG,
                 "train.cycles: found %lld, which only train.schedule = cosine_with_restarts reads",
                 (long long)t->cycles);
    bool ends = t->schedule == OHT_LR_POLYNOMIAL || t->schedule == OHT_LR_COSINE_END;
    if (t->schedule != OHT_LR_POLYNOMIAL && t->lr_power != 1)
        OHT_FAIL(OHT_CONFIG, "train.lr_power: only train.schedule = polynomial reads it");
    if (!ends && t->lr_end != 1e-7)
        OHT_FAIL(OHT_CONFIG, "train.lr_end: only train.schedule = polynomial and cosine_end read it");
    bool halves = t->schedule == OHT_LR_TYPE1 || t->schedule == OHT_LR_TYPE2;
    if (t->schedule != OHT_LR_COSINE_END && t->warmup_lr != 0)
        OHT_FAIL(OHT_CONFIG, "train.warmup_lr: only train.schedule = cosine_end reads it");
    if (t->schedule != OHT_LR_COSINE_END && !halves && t->lr_every != 1)
        OHT_FAIL(OHT_CONFIG, "train.lr_every: only train.schedule = cosine_end, type1 and type2 read it");
    if (halves && t->warmup_steps > 0)
        OHT_FAIL(OHT_CONFIG, "train.schedule: type1 and type2 have no warm-up, found train.warmup_steps = %lld\nfix: train.warmup_steps=0",
                 (long long)t->warmup_steps);
    if (halves && t->epochs == 0 && t->lr_every == 1)
        OHT_FAIL(OHT_CONFIG, "train.schedule: type1 and type2 count epochs\nfix: train.epochs=..., or train.lr_every=... with the "
                             "steps of an epoch");
    if (ends && t->lr_end > t->lr)
        OHT_FAIL(OHT_CONFIG, "train.lr_end: found %g, expected at most train.lr = %g", t->lr_end, t->lr);
    if (t->schedule != OHT_LR_LINEAR && t->final_lr_fraction != 0)
        OHT_FAIL(OHT_CONFIG, "train.final_lr_fraction: found %g, which only train.schedule = linear reads",
                 t->final_lr_fraction);
    return OHT_OK;
}

// Epochs, and what is done with the evaluations between them.
static oht_status check_epochs(const oht_config *cfg) {
    const oht_train_config *t = &cfg->train;
    oht_config unset;
    oht_config_defaults(&unset);
    if (t->epochs > 0 && t->steps != unset.train.steps)
        OHT_FAIL(OHT_CONFIG, "train.steps = %lld and train.epochs = %lld both say how long to train\nfix: leave one of them out; on the "
                             "command line train.steps=%lld or train.epochs=0 take back what a file says",
                 (long long)t->steps, (long long)t->epochs, (long long)unset.train.steps);
    if (t->epochs > 0 && t->schedule != OHT_LR_COSINE_END && t->lr_every != 1)
        OHT_FAIL(OHT_CONFIG, "train.lr_every: found %lld, but train.epochs knows the steps of an epoch\nfix: leave it out",
                 (long long)t->lr_every);
    if (t->drop_last && t->epochs == 0)
        OHT_FAIL(OHT_CONFIG, "train.drop_last: without train.epochs no batch is short\nfix: leave it out");
    bool chooses = t->patience > 0 || t->keep_best;
    if (chooses && t->eval_every == 0 && t->epochs == 0)
        OHT_FAIL(OHT_CONFIG, "train.patience and train.keep_best compare evaluations, but train.eval_every = 0\nfix: "
                             "train.eval_every=..., or train.epochs");
    return OHT_OK;
}

// Spec transformers 5; quirks Q16, Q18.
static oht_status check_quant(const oht_config *cfg) {
    const oht_quant_config *q = &cfg->quant;
    bool on = q->weights > 0 || q->activations > 0;
    if (cfg->model.type == OHT_MODEL_STANHOP && q->setup == OHT_QUANT_INT16_FINAL_LN)
        OHT_FAIL(OHT_CONFIG, "quant.setup: STanHop-Net has no final LayerNorm\nfix: quant.setup=fp32_head");
    if (q->weights == 1 || q->activations == 1)
        OHT_FAIL(OHT_CONFIG, "quant.%s: found 1, expected 0 (exact) or 2..16 bits",
                 q->weights == 1 ? "weights" : "activations");
    if (cfg->model.type == OHT_MODEL_BERT && q->setup != OHT_QUANT_FP32_HEAD)
        OHT_FAIL(OHT_CONFIG,
                 "quant.setup: BERT has one placement, with an exact head\nfix: quant.setup=fp32_head");
    if (cfg->model.norm == OHT_NORM_POST && q->setup == OHT_QUANT_INT16_FINAL_LN)
        OHT_FAIL(OHT_CONFIG,
                 "quant.setup: a post-norm OPT has no final LayerNorm\nfix: quant.setup=fp32_head");
    if (q->percentile != 0 && (q->activation_ranges != OHT_RANGE_RUNNING_MINMAX || q->percentile <= 50))
        OHT_FAIL(OHT_CONFIG,
                 "quant.percentile: found %g, expected 0, or a number above 50 with quant.activation_ranges "
                 "= running_minmax\nfix: quant.percentile=0, or quant.activation_ranges=running_minmax",
                 q->percentile);
    if (q->integer_check && (q->weights < 2 || q->weights > 8 || q->activations < 2 || q->activations > 8))
        OHT_FAIL(OHT_CONFIG,
                 "quant.integer_check: int8 arithmetic needs weights and activations of 2 to 8 bits, found "
                 "%lld and %lld\n"
                 "fix: quant.weights=8 quant.activations=8",
                 (long long)q->weights, (long long)q->activations);
    if (q->integer_check && strcmp(q->file, "none") != 0)
        OHT_FAIL(OHT_CONFIG,
                 "quant.integer_check looks at a calibration batch, but quant.file replaces the calibration");
    if (strcmp(q->file, "none") != 0 && (!on || q->seeds > 1))
        OHT_FAIL(OHT_CONFIG, "quant.file: goes with %s",
                 on ? "quant.seeds=1" : "quant.weights or quant.activations");
    if (q->batch > INT32_MAX / oht_config_tokens(cfg))
        OHT_FAIL(OHT_CONFIG, "quant.batch: %lld samples have more than 2^31 - 1 tokens",
                 (long long)q->batch);
    return OHT_OK;
}

static oht_status check_tokens(const oht_config *cfg) {
    const oht_model_config *m = &cfg->model;
    int64_t T = oht_config_tokens(cfg);
    bool text = m->type == OHT_MODEL_OPT || m->type == OHT_MODEL_BERT;
    if (text && T > m->max_tokens)
        OHT_FAIL(OHT_CONFIG,
                 "data.tokens: found %lld, more than model.max_tokens = %lld positions\nfix: "
                 "model.max_tokens=%lld",
                 (long long)T, (long long)m->max_tokens, (long long)T);
    if (m->type == OHT_MODEL_OPT && T < 2)
        OHT_FAIL(OHT_CONFIG, "%s: found 1, expected at least 2: OPT predicts the next token",
                 cfg->data.tokens ? "data.tokens" : "model.max_tokens");
    int64_t rows =
        cfg->train.micro_batch > cfg->eval.micro_batch ? cfg->train.micro_batch : cfg->eval.micro_batch;
    if (rows > INT32_MAX / T)
        OHT_FAIL(OHT_CONFIG,
                 "%lld sequences of %lld tokens in one micro-batch; at most 2^31 - 1 tokens fit\nfix: a "
                 "smaller train.micro_batch, eval.micro_batch",
                 (long long)rows, (long long)T);
    oht_assoc_spec spec;
    OHT_TRY(oht_assoc_parse(m, T, &spec));
    return OHT_OK;
}

oht_status oht_config_check(const oht_config *cfg) {
    OHT_TRY(check_model(&cfg->model));
    OHT_TRY(check_unread(cfg));
    if (cfg->model.type == OHT_MODEL_VIT) OHT_TRY(check_images(cfg));
    OHT_TRY(check_gate(&cfg->model));
    OHT_TRY(check_schedule(&cfg->train));
    OHT_TRY(check_epochs(cfg));
    OHT_TRY(check_tokens(cfg));
    OHT_TRY(check_quant(cfg));
    return OHT_OK;
}
