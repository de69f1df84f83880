// ViT (Dosovitskiy et al. 2021), spec transformers 2.3. For an image cut into N = (S/p)^2 patches u_1..u_N:
//   x = [cls; W_patch u_n (+ b)] + W_pos, then LN where model.pre_norm
//   x = x + W_o Attn(LN1 x) + b_o,  x = x + W_2 GELU(W_1 LN2(x) + b_1) + b_2                 L times
//   logits = W_head LN_f(x)[0] + b,  loss = - sum of t log softmax(logits)
// Defaults (no patch bias, no biases of q, k, v, LN before the blocks) are the model the outlier papers
// trained; patch_bias=true qkv_bias=true pre_norm=false is the usual form.
//
// Quantization sites: spec 5.4; class token and positions are no layers and stay exact.
// Taps (spec 4, the clean set): out_proj, LN1, LN2, fc2, block output, first and final LN; one row is one
// image. OHT_MODULES(n) says how many modules of the published model return a tensor: its containers, dropouts
// and identities count in the all-modules metrics (compat.all_modules), which need a few taps more.
#include "models/parts.h"
#include "oht/op.h"

enum { SEEN = OHT_IN_KURTOSIS | OHT_IN_INF, ALONE = OHT_MODULES_ALONE };

static int64_t tokens_of(const oht_model_config *cfg) {
    return (cfg->image_size / cfg->patch) * (cfg->image_size / cfg->patch) + 1;
}

static oht_status check(const oht_model_config *cfg) {
    if (cfg->patch < 1 || cfg->image_size < cfg->patch || cfg->image_size % cfg->patch != 0)
        OHT_FAIL(OHT_CONFIG, "model.patch = %lld does not divide model.image_size = %lld",
                 (long long)cfg->patch, (long long)cfg->image_size);
    if (cfg->norm != OHT_NORM_PRE)
        OHT_FAIL(OHT_CONFIG, "model.norm = post, but ViT is a pre-norm model\nfix: model.norm=pre");
    return OHT_OK;
}

static void declare(oht_model *m, registrar *r) {
    const oht_model_config *cfg = &m->cfg;
    const int64_t C = cfg->width, F = cfg->ffn, K = 3 * cfg->patch * cfg->patch;
    const fill normal = fill_normal(cfg->init_std);
    const attention_style style = {.hf_q = "attn.qkv.q",
                                   .hf_k = "attn.qkv.k",
                                   .hf_v = "attn.qkv.v",
                                   .hf_gate = "attn.alpha",
                                   .hf_out = "attn.proj",
                                   .qkv_weight = normal,
                                   .qkv_bias = fill_zero,
                                   .no_qkv_bias = !cfg->qkv_bias,
                                   .out_weight = normal,
                                   .out_bias = fill_zero,
                                   .small_gate = 0.01};

    reg_prefix(r, "", "", -1);
    m->patch = cfg->patch_bias
                   ? reg_linear(r, "embed.patch", "patch_embed.proj", C, K, fill_torch(K), fill_torch(K))
                   : reg_linear_no_bias(r, "embed.patch", "patch_embed.proj", C, K, fill_torch(K));
    m->class_token = reg_param(r, "embed.class", "cls_token", OHT_ROLE_POSITION, -1, fill_normal(1e-6), 2,
                               (int64_t[]){1, C});
    m->positions = reg_param(r, "embed.positions", "pos_embed", OHT_ROLE_POSITION, -1, normal, 2,
                             (int64_t[]){tokens_of(cfg), C});
    if (cfg->pre_norm) m->embed_ln = reg_norm(r, "embed.ln", "norm_pre", C);
    for (int l = 0; l < cfg->layers; l++) {
        layer_params *p = &m->layer[l];
        reg_prefix(r, "layer.", "blocks.", l);
        p->ln1 = reg_norm(r, "ln1", "norm1", C);
        attention_register(r, m, &style, &p->attn);
        p->ln2 = reg_norm(r, "ln2", "norm2", C);
        p->ffn1 = reg_linear(r, "ffn1", "mlp.fc1", F, C, normal, fill_zero);
        p->ffn2 = reg_linear(r, "ffn2", "mlp.fc2", C, F, normal, fill_zero);
    }
    reg_prefix(r, "", "", -1);
    m->final_ln = reg_norm(r, "final_ln", "norm", C);
    m->head = reg_linear(r, "head", "head", cfg->classes, C, normal, fill_zero);
}

// Taps of q, k, v together, and of q and k alone, computed once more: they lie interleaved in the one matrix.
static void projections(const oht_model *m, oht_graph *g, int l, oht_value x) {
    static const char *const name[3] = {"qkv", "q", "k"};
    const attention_params *p = &m->layer[l].attn;
    oht_scope(g, "layer.%d.attn", l);
    for (int i = 0; i < 3; i++) {
        const int first = i == 2, n = i == 0 ? 3 : 1;
        const oht_value w = oht_parameter_group(g, p->qkv_w + first, n),
                        b = p->qkv_b < 0 ? OHT_NONE : oht_parameter_group(g, p->qkv_b + first, n);
        oht_tap(g, oht_linear(g, x, w, b), name[i], OHT_TAP_SEQUENCE, ALONE | OHT_MODULES(1), l);
    }
    oht_scope(g, "layer.%d", l);
}

static oht_value block(const oht_model *m, oht_graph *g, int l, oht_value x) { // x: (B,T,C)
    const layer_params *p = &m->layer[l];
    const float drop = (float)m->cfg.dropout;
    const oht_tap_kind whole = OHT_TAP_SEQUENCE;
    oht_scope(g, "layer.%d", l);

    const bool modules = oht_graph_has_module_taps(g);
    oht_value h = site_norm(g, m, x, p->ln1, OHT_SITE_NORM, "ln1.out"), pre = OHT_NONE;
    h = oht_tap(g, h, "ln1.out", whole, SEEN | OHT_MODULES(1), l);
    if (modules) projections(m, g, l, h);
    h = attention_record(g, m, l, h, OHT_NONE, false, SEEN | OHT_MODULES(5));
    x = oht_site(g, oht_residual(g, x, h, drop), "residual1", OHT_SITE_RESIDUAL);
    h = site_norm(g, m, x, p->ln2, OHT_SITE_NORM, "ln2.out");
    h = oht_tap(g, h, "ln2.out", whole, SEEN | OHT_MODULES(1), l);
    if (modules) // these graphs have no sites
        h = oht_linear_pre(g, h, oht_parameter(g, p->ffn1.w), oht_parameter(g, p->ffn1.b), OHT_ACT_GELU, &pre);
    else
        h = site_linear(g, h, p->ffn1, OHT_ACT_GELU, "ffn1.out"); // (B,T,F)
    if (modules) oht_tap(g, pre, "ffn1.in", whole, ALONE | OHT_MODULES(1) | OHT_IN_MLP_MODULES, l);
    h = oht_tap(g, h, "ffn1.out", whole, OHT_MODULES(3) | OHT_IN_MLP_MODULES, l);
    h = oht_tap(g, site_linear(g, h, p->ffn2, OHT_ACT_NONE, "ffn.out"), "ffn.out", whole,
                SEEN | OHT_IN_FFN_INF | OHT_MODULES(5) | OHT_IN_MLP_MODULES, l);
    x = oht_site(g, oht_residual(g, x, h, drop), "out", OHT_SITE_RESIDUAL);
    const int named = l + 1 < m->cfg.layers ? 1 : 2; // the last one is the output of the list of blocks, too
    return oht_tap(g, x, "out", whole, SEEN | OHT_IN_LAYER_INF | OHT_MODULES(named), l);
}

static oht_value record(const oht_model *m, oht_graph *g, oht_value mask, bool recompute) {
    const oht_model_config *cfg = &m->cfg;
    const int64_t rows = oht_graph_rows(g), S = cfg->image_size;
    const bool training = oht_graph_mode(g) == OHT_TRAIN;
    if (mask.id >= 0 || oht_graph_tokens(g) != tokens_of(cfg))
        return oht_graph_fail(g, "images of %lld x %lld are %lld tokens without padding, found %lld",
                              (long long)S, (long long)S, (long long)tokens_of(cfg),
                              (long long)oht_graph_tokens(g));
    const oht_value images =
        oht_input(g, OHT_FIELD_IMAGES, OHT_U8, OHT_ROWS_BATCH, 4, (int64_t[]){rows, S, S, 3});
    const oht_value targets = training ? oht_input(g, OHT_FIELD_TARGETS, OHT_F32, OHT_ROWS_BATCH, 2,
                                                   (int64_t[]){rows, cfg->classes})
                                       : oht_input(g, OHT_FIELD_LABELS, OHT_I32, OHT_ROWS_BATCH, 1, &rows);

    oht_scope(g, "embed");
    const bool modules = oht_graph_has_module_taps(g);
    oht_value x = site_linear(g, oht_patches(g, images, cfg->patch), m->patch, OHT_ACT_NONE, "patch"); // (B,N,C)
    if (modules) oht_tap(g, x, "patches", OHT_TAP_SEQUENCE, ALONE | OHT_MODULES(3), -1);
    x = oht_prepend(g, x, oht_parameter(g, m->class_token));
    x = oht_site(g, oht_add_rows(g, x, oht_parameter(g, m->positions), 0, false), "sum", OHT_SITE_EMBEDDING);
    x = oht_dropout(g, x, (float)cfg->dropout);
    const bool normed = m->embed_ln.gain >= 0;
    if (modules) oht_tap(g, x, "out", OHT_TAP_SEQUENCE, ALONE | OHT_MODULES(normed ? 2 : 3), -1);
    if (normed)
        x = oht_tap(g, site_norm(g, m, x, m->embed_ln, OHT_SITE_NORM, "ln.out"), "ln.out", OHT_TAP_SEQUENCE,
                    SEEN | OHT_MODULES(1), -1);
    for (int l = 0; l < cfg->layers; l++) {
        if (recompute) oht_block_begin(g);
        x = block(m, g, l, x);
        if (recompute) oht_block_end(g);
    }
    oht_scope(g, "final_ln");
    x = oht_tap(g, site_norm(g, m, x, m->final_ln, OHT_SITE_FINAL_NORM, "out"), "out", OHT_TAP_SEQUENCE,
                SEEN | OHT_MODULES(1), -1);
    oht_scope(g, "head");
    x = oht_first(g, x);
    if (modules) {
        oht_tap(g, x, "in", OHT_TAP_SEQUENCE, ALONE | OHT_MODULES(2), -1);
        oht_tap(g, rec_linear(g, x, m->head, OHT_ACT_NONE), "logits", OHT_TAP_SEQUENCE, ALONE | OHT_MODULES(2), -1);
    }
    if (oht_graph_has_sites(g) & OHT_SITES_HEAD) oht_site_weight(g, m->head.w, OHT_SITE_LINEAR);
    return oht_class_head(g, x, oht_parameter(g, m->head.w), oht_parameter(g, m->head.b), targets);
}

const model_kind model_vit = {
    .name = "vit", .task = OHT_TASK_IMAGES, .check = check, .declare = declare, .record = record};
