// OPT (Zhang et al. 2022) as the outlier papers train it, spec transformers 2.2. Pre-norm, for tokens
// t_1..t_T:
//   x = W_tok[t] (project_in) + W_pos[position + 2]
//   x = x + Drop(W_o Attn(LN1 x) + b_o),  x = x + Drop(W_2 ReLU(W_1 LN2 x + b_1) + b_2)   L times, causal
//   logits = (project_out) LN_f(x) W_tok^T,  loss = - sum log softmax(logits)[t_next]
// Post-norm (model.norm=post, the public opt-350m): LN1 and LN2 follow their residual sums and there is no
// LN_f. project_in/out (no biases) exist where model.embed_width differs from model.width.
//
// Taps (spec 4): out_proj, LN1, LN2, fc2, layer output and final LN count in the kurtosis, 5L+1 tensors. The
// published measurement sees the feed-forward part of a pre-norm layer as one row a token, all else as one
// row a sequence.
#include "models/parts.h"
#include "oht/op.h"

enum { PAD = 1, POSITION_OFFSET = 2 };
enum { SEEN = OHT_IN_KURTOSIS | OHT_IN_INF };

static oht_status check(const oht_model_config *cfg) {
    if (cfg->embed_width < 1)
        OHT_FAIL(OHT_CONFIG,
                 "model.embed_width = %lld, expected at least 1\nfix: model.embed_width=%lld (model.width)",
                 (long long)cfg->embed_width, (long long)cfg->width);
    return OHT_OK;
}

static void declare(oht_model *m, registrar *r) {
    const oht_model_config *cfg = &m->cfg;
    const int64_t C = cfg->width, E = cfg->embed_width, F = cfg->ffn;
    const fill normal = fill_normal(cfg->init_std);
    const attention_style style = {.hf_q = "self_attn.q_proj",
                                   .hf_k = "self_attn.k_proj",
                                   .hf_v = "self_attn.v_proj",
                                   .hf_gate = "self_attn.alpha",
                                   .hf_out = "self_attn.out_proj",
                                   .qkv_weight = fill_torch(C),
                                   .qkv_bias = fill_torch(C),
                                   .out_weight = fill_torch(C),
                                   .out_bias = fill_torch(C),
                                   .small_gate = 0.001};

    reg_prefix(r, "", "model.decoder.", -1);
    m->tokens =
        reg_table(r, "embed.tokens", "embed_tokens", cfg->vocab_size, E, cfg->init_std, PAD, OHT_ROLE_WEIGHT);
    if (E != C) m->project_in = reg_linear_no_bias(r, "project_in", "project_in", C, E, normal);
    m->positions = reg_table(r, "embed.positions", "embed_positions", cfg->max_tokens + POSITION_OFFSET, C,
                             cfg->init_std, -1, OHT_ROLE_POSITION);
    for (int l = 0; l < cfg->layers; l++) {
        layer_params *p = &m->layer[l];
        reg_prefix(r, "layer.", "model.decoder.layers.", l);
        if (cfg->norm == OHT_NORM_PRE) p->ln1 = reg_norm(r, "ln1", "self_attn_layer_norm", C);
        attention_register(r, m, &style, &p->attn);
        if (cfg->norm == OHT_NORM_POST) p->ln1 = reg_norm(r, "ln1", "self_attn_layer_norm", C);
        if (cfg->norm == OHT_NORM_PRE) p->ln2 = reg_norm(r, "ln2", "final_layer_norm", C);
        p->ffn1 = reg_linear(r, "ffn1", "fc1", F, C, normal, fill_zero);
        p->ffn2 = reg_linear(r, "ffn2", "fc2", C, F, normal, fill_zero);
        if (cfg->norm == OHT_NORM_POST) p->ln2 = reg_norm(r, "ln2", "final_layer_norm", C);
    }
    reg_prefix(r, "", "model.decoder.", -1);
    if (cfg->norm == OHT_NORM_PRE) m->final_ln = reg_norm(r, "final_ln", "final_layer_norm", C);
    if (E != C) m->project_out = reg_linear_no_bias(r, "project_out", "project_out", E, C, normal);
}

static oht_value block(const oht_model *m, oht_graph *g, int l, oht_value x, oht_value mask) { // x: (B,T,C)
    const layer_params *p = &m->layer[l];
    const bool pre = m->cfg.norm == OHT_NORM_PRE;
    const float drop = (float)m->cfg.dropout;
    const oht_tap_kind flat = OHT_TAP_TOKEN, whole = OHT_TAP_SEQUENCE;
    oht_scope(g, "layer.%d", l);

    oht_value h = x;
    if (pre) h = oht_tap(g, site_norm(g, m, h, p->ln1, OHT_SITE_NORM, "ln1.out"), "ln1.out", whole, SEEN, l);
    h = attention_record(g, m, l, h, mask, true, SEEN);
    x = oht_site(g, oht_residual(g, x, h, drop), "residual1", OHT_SITE_RESIDUAL);
    if (!pre) x = oht_tap(g, site_norm(g, m, x, p->ln1, OHT_SITE_NORM, "ln1.out"), "ln1.out", whole, SEEN, l);

    h = x;
    if (pre) h = oht_tap(g, site_norm(g, m, h, p->ln2, OHT_SITE_NORM, "ln2.out"), "ln2.out", flat, SEEN, l);
    h = oht_tap(g, site_linear(g, h, p->ffn1, OHT_ACT_RELU, "ffn1.out"), "ffn1.out", flat, 0, l); // (B,T,F)
    h = oht_tap(g, site_linear(g, h, p->ffn2, OHT_ACT_NONE, "ffn.out"), "ffn.out", flat,
                SEEN | OHT_IN_FFN_INF, l);
    x = oht_site(g, oht_residual(g, x, h, drop), pre ? "out" : "residual2", OHT_SITE_RESIDUAL);
    if (!pre) x = site_norm(g, m, x, p->ln2, OHT_SITE_NORM, "ln2.out");
    if (!pre) x = oht_tap(g, x, "ln2.out", whole, SEEN, l); // = the layer's output, counted twice
    return oht_tap(g, x, "out", whole, SEEN | OHT_IN_LAYER_INF, l);
}

static oht_value record(const oht_model *m, oht_graph *g, oht_value mask, bool recompute) {
    const int64_t bt[2] = {oht_graph_rows(g), oht_graph_tokens(g)};
    const oht_value table = oht_parameter(g, m->tokens);
    const oht_value tokens = oht_input(g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, bt);
    const oht_value labels = oht_input(g, OHT_FIELD_LABELS, OHT_I32, OHT_ROWS_BATCH, 2, bt);

    oht_scope(g, "embed");
    oht_value x = oht_embedding(g, tokens, table, PAD); // (B,T,E)
    if (m->project_in.w >= 0) x = site_linear(g, x, m->project_in, OHT_ACT_NONE, "project_in");
    x = oht_add_rows(g, x, oht_parameter(g, m->positions), POSITION_OFFSET, false);
    x = oht_site(g, x, "sum", OHT_SITE_EMBEDDING);
    oht_site_weight(g, m->tokens, OHT_SITE_EMBEDDING);
    oht_site_weight(g, m->positions, OHT_SITE_EMBEDDING);
    for (int l = 0; l < m->cfg.layers; l++) {
        if (recompute) oht_block_begin(g);
        x = block(m, g, l, x, mask);
        if (recompute) oht_block_end(g);
    }
    oht_scope(g, "final_ln");
    if (m->final_ln.gain >= 0)
        x = oht_tap(g, site_norm(g, m, x, m->final_ln, OHT_SITE_FINAL_NORM, "out"), "out", OHT_TAP_SEQUENCE,
                    SEEN, -1);
    oht_scope(g, "head");
    if (m->project_out.w >= 0) x = site_linear(g, x, m->project_out, OHT_ACT_NONE, "project_out"); // (B,T,E)
    const bool quantized_head = oht_graph_has_sites(g) & OHT_SITES_HEAD;
    return oht_lm_head(g, x, quantized_head ? table : oht_parameter_exact(g, m->tokens), OHT_NONE, labels);
}

const model_kind model_opt = {
    .name = "opt", .task = OHT_TASK_CLM, .check = check, .declare = declare, .record = record};
