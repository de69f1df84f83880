// See small_model.h.
#include "small_model.h"

#include "check.h"

oht_model_config small_model(oht_model_type type) {
    oht_model_config cfg = {.type = type,
                            .layers = 3,
                            .width = 24,
                            .heads = 3,
                            .ffn = 40,
                            .vocab_size = 61,
                            .max_tokens = 16,
                            .embed_width = 24,
                            .layernorm_eps = 1e-5,
                            .init_std = 0.02,
                            .gate_init = 0.5,
                            .attention = "softmax1"};
    cfg.norm = type == OHT_MODEL_BERT ? OHT_NORM_POST : OHT_NORM_PRE;
    return cfg;
}

oht_model *create_model(const oht_model_config *cfg) {
    oht_model *m;
    OK(oht_model_create(&m, cfg, cfg->max_tokens));
    return m;
}
