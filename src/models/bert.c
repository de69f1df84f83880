// BERT (Devlin et al. 2019), masked language model only, post-norm, spec transformers 2.1:
//   x = Drop(LN(W_tok[t] + W_type[0] + W_pos[position]))
//   x1 = LN1(x + Drop(W_o Attn(x) + b_o)),  x = LN2(x1 + Drop(W_2 GELU(W_1 x1 + b_1) + b_2))   L times
//   h = LN(GELU(W_t x + b_t)) at the masked positions,  logits = h W_tok^T + b_V
//   loss = - sum log softmax(logits)[t]
// The masked positions are gathered before the head, so the other 85 % of its rows are never computed.
//
// Taps (spec 4): the kurtosis counts 2L tensors, feed-forward output and block output of each layer; the
// infinity norm also the sum that enters LN2. One row is one sequence.
#include "models/parts.h"
#include "oht/op.h"

enum { PAD = 0, TYPES = 2 };
enum { SEEN = OHT_IN_KURTOSIS | OHT_IN_INF };

static oht_status check(const oht_model_config *cfg) {
    if (cfg->norm != OHT_NORM_POST)
        OHT_FAIL(OHT_CONFIG, "model.norm = pre, but BERT is a post-norm model\nfix: model.norm=post");
    if (cfg->embed_width != cfg->width)
        OHT_FAIL(OHT_CONFIG,
                 "model.embed_width = %lld and model.width = %lld differ, which BERT cannot do\n"
                 "fix: model.embed_width=%lld",
                 (long long)cfg->embed_width, (long long)cfg->width, (long long)cfg->width);
    return OHT_OK;
}

static void declare(oht_model *m, registrar *r) {
    const oht_model_config *cfg = &m->cfg;
    const int64_t C = cfg->width, F = cfg->ffn, V = cfg->vocab_size;
    const double std = cfg->init_std;
    const fill normal = fill_normal(std);
    const attention_style style = {.hf_q = "attention.self.query",
                                   .hf_k = "attention.self.key",
                                   .hf_v = "attention.self.value",
                                   .hf_gate = "attention.self.alpha",
                                   .hf_out = "attention.output.dense",
                                   .qkv_weight = fill_torch(C),
                                   .qkv_bias = fill_torch(C),
                                   .out_weight = normal,
                                   .out_bias = fill_zero,
                                   .small_gate = 0.01};

    reg_prefix(r, "", "bert.embeddings.", -1);
    m->tokens = reg_table(r, "embed.tokens", "word_embeddings", V, C, std, PAD, OHT_ROLE_WEIGHT);
    m->types = reg_table(r, "embed.types", "token_type_embeddings", TYPES, C, std, -1, OHT_ROLE_WEIGHT);
    m->positions = reg_table(r, "embed.positions", "position_embeddings", cfg->max_tokens, C, std, -1,
                             OHT_ROLE_POSITION);
    m->embed_ln = reg_norm(r, "embed.ln", "LayerNorm", C);
    for (int l = 0; l < cfg->layers; l++) {
        layer_params *p = &m->layer[l];
        reg_prefix(r, "layer.", "bert.encoder.layer.", l);
        attention_register(r, m, &style, &p->attn);
        p->ln1 = reg_norm(r, "ln1", "attention.output.LayerNorm", C);
        p->ffn1 = reg_linear(r, "ffn1", "intermediate.dense", F, C, normal, fill_zero);
        p->ffn2 = reg_linear(r, "ffn2", "output.dense", C, F, normal, fill_zero);
        p->ln2 = reg_norm(r, "ln2", "output.LayerNorm", C);
    }
    reg_prefix(r, "head.", "cls.predictions.", -1);
    m->transform = reg_linear(r, "transform", "transform.dense", C, C, normal, fill_zero);
    m->head_ln = reg_norm(r, "ln", "transform.LayerNorm", C);
    m->head_bias = reg_param(r, "bias", "bias", OHT_ROLE_BIAS, -1, fill_zero, 1, &V);
}

static oht_value block(const oht_model *m, oht_graph *g, int l, oht_value x, oht_value mask) { // x: (B,T,C)
    const layer_params *p = &m->layer[l];
    const float drop = (float)m->cfg.dropout;
    const oht_tap_kind whole = OHT_TAP_SEQUENCE;
    oht_value h = attention_record(g, m, l, x, mask, false, 0);
    x = oht_site(g, oht_residual(g, x, h, drop), "ln1.in", OHT_SITE_RESIDUAL);
    x = oht_tap(g, site_norm(g, m, x, p->ln1, OHT_SITE_NORM, "ln1.out"), "ln1.out", whole, 0, l);
    h = oht_tap(g, site_linear(g, x, p->ffn1, OHT_ACT_GELU, "ffn1.out"), "ffn1.out", whole, 0, l); // (B,T,F)
    h = oht_tap(g, site_linear(g, h, p->ffn2, OHT_ACT_NONE, "ffn.out"), "ffn.out", whole,
                SEEN | OHT_IN_FFN_INF, l);
    x = oht_site(g, oht_residual(g, x, h, drop), "ln2.in", OHT_SITE_RESIDUAL);
    x = oht_tap(g, x, "ln2.in", whole, OHT_IN_INF, l);
    return oht_tap(g, site_norm(g, m, x, p->ln2, OHT_SITE_NORM, "out"), "out", whole, SEEN | OHT_IN_LAYER_INF,
                   l);
}

static oht_value record(const oht_model *m, oht_graph *g, oht_value mask, bool recompute) {
    const int64_t bt[2] = {oht_graph_rows(g), oht_graph_tokens(g)}, most = bt[0] * bt[1];
    const oht_value table = oht_parameter(g, m->tokens);
    const oht_value tokens = oht_input(g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, bt);
    const oht_value labels = oht_input(g, OHT_FIELD_LABELS, OHT_I32, OHT_ROWS_PICKED, 1, &most);
    const oht_value positions = oht_input(g, OHT_FIELD_POSITIONS, OHT_I32, OHT_ROWS_PICKED, 1, &most);

    oht_scope(g, "embed");
    oht_value x = oht_embedding(g, tokens, table, PAD); // (B,T,C)
    x = oht_site(g, oht_add_rows(g, x, oht_parameter(g, m->types), 0, true), "types", OHT_SITE_EMBEDDING);
    x = oht_site(g, oht_add_rows(g, x, oht_parameter(g, m->positions), 0, false), "sum", OHT_SITE_EMBEDDING);
    const int tables[3] = {m->tokens, m->types, m->positions};
    for (int i = 0; i < 3; i++) oht_site_weight(g, tables[i], OHT_SITE_EMBEDDING);
    x = oht_dropout(g, site_norm(g, m, x, m->embed_ln, OHT_SITE_NORM, "ln.out"), (float)m->cfg.dropout);
    for (int l = 0; l < m->cfg.layers; l++) {
        if (recompute) oht_block_begin(g);
        x = block(m, g, l, x, mask);
        if (recompute) oht_block_end(g);
    }
    oht_scope(g, "head");
    x = oht_gather(g, x, positions); // (M,C), M masked positions
    x = rec_norm(g, m, rec_linear(g, x, m->transform, OHT_ACT_GELU), m->head_ln);
    // Quantized models keep an exact head (spec 5.4).
    return oht_lm_head(g, x, oht_parameter_exact(g, m->tokens), oht_parameter(g, m->head_bias), labels);
}

const model_kind model_bert = {
    .name = "bert", .task = OHT_TASK_MLM, .check = check, .declare = declare, .record = record};
