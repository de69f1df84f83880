// A model: checks what the configuration's table cannot know, builds the parameter table, dispatches by type.
#include <string.h>

#include "models/parts.h"
#include "oht/memory.h"

static const model_kind *const kinds[] = {[OHT_MODEL_OPT] = &model_opt,
                                          [OHT_MODEL_BERT] = &model_bert,
                                          [OHT_MODEL_VIT] = &model_vit,
                                          [OHT_MODEL_STANHOP] = &model_stanhop};

const char *oht_model_type_name(oht_model_type type) {
    return kinds[type]->name;
}

oht_task oht_model_task(const oht_model_config *cfg) {
    return kinds[cfg->type]->task;
}

const oht_params *oht_model_params(const oht_model *m) {
    return m->params;
}

// Their positions are a table of model.max_tokens rows.
static bool is_text(const oht_model_config *cfg) {
    return kinds[cfg->type]->task == OHT_TASK_CLM || kinds[cfg->type]->task == OHT_TASK_MLM;
}

static oht_status check(const oht_model_config *cfg, int64_t tokens) {
    if (cfg->heads < 1 || cfg->width < 1 || cfg->width % cfg->heads != 0)
        OHT_FAIL(OHT_CONFIG, "model.heads = %lld does not divide model.width = %lld", (long long)cfg->heads,
                 (long long)cfg->width);
    if (cfg->layers < 1)
        OHT_FAIL(OHT_CONFIG, "model.layers = %lld, expected at least 1", (long long)cfg->layers);
    if (is_text(cfg) && (tokens < 1 || tokens > cfg->max_tokens))
        OHT_FAIL(OHT_CONFIG,
                 "rows of %lld tokens, but model.max_tokens = %lld\n"
                 "fix: model.max_tokens=%lld, or a data file with shorter rows",
                 (long long)tokens, (long long)cfg->max_tokens, (long long)tokens);
    return kinds[cfg->type]->check(cfg);
}

static oht_status build(oht_model *m, int64_t tokens) {
    OHT_TRY(check(&m->cfg, tokens));
    OHT_TRY(oht_assoc_parse(&m->cfg, tokens, &m->assoc));
    OHT_TRY(attention_gate(&m->cfg, &m->gate));
    OHT_TRY(OHT_ALLOC(&m->layer, (size_t)m->cfg.layers, "layers"));
    OHT_TRY(oht_params_create(&m->params));
    registrar r = {.params = m->params};
    kinds[m->cfg.type]->declare(m, &r);
    OHT_TRY(r.status);
    return oht_params_layout(m->params);
}

oht_status oht_model_create(oht_model **out, const oht_model_config *cfg, int64_t tokens) {
    *out = NULL;
    oht_model *m;
    OHT_TRY(OHT_ALLOC(&m, 1, "model"));
    const linear_params none = {-1, -1};
    *m = (oht_model){.cfg = *cfg,
                     .types = -1,
                     .project_in = none,
                     .project_out = none,
                     .embed_ln = {-1, -1},
                     .final_ln = {-1, -1},
                     .transform = none,
                     .head_ln = {-1, -1},
                     .head_bias = -1,
                     .patch = none,
                     .head = none,
                     .class_token = -1};
    oht_status status;
    OHT_TRY_GOTO(status, build(m, tokens), fail);
    *out = m;
    return OHT_OK;
fail:
    oht_model_destroy(m);
    return status;
}

void oht_model_destroy(oht_model *m) {
    if (m == NULL) return;
    oht_params_destroy(m->params);
    oht_free(m->layer);
    oht_free(m->own);
    oht_free(m);
}

oht_status oht_model_record(const oht_model *m, oht_graph *g, bool padded, bool recompute, oht_value *loss) {
    const int64_t bt[2] = {oht_graph_rows(g), oht_graph_tokens(g)};
    if (is_text(&m->cfg) && bt[1] > m->cfg.max_tokens)
        OHT_FAIL(OHT_CONFIG, "rows of %lld tokens, but model.max_tokens = %lld", (long long)bt[1],
                 (long long)m->cfg.max_tokens);
    const oht_value mask = padded ? oht_input(g, OHT_FIELD_MASK, OHT_U8, OHT_ROWS_BATCH, 2, bt) : OHT_NONE;
    const bool training = oht_graph_mode(g) == OHT_TRAIN;
    const oht_value end = kinds[m->cfg.type]->record(m, g, mask, recompute && training);
    oht_scope(g, "%s", "");
    *loss = training ? end : OHT_NONE; // evaluation has no backward to start
    return OHT_OK;
}
