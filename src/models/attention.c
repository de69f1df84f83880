// Attention shared by all models: S = Q K^T / sqrt(D), P = f(S), A = Drop(P) V, gate, output projection
// (spec transformers 1). Which f and which gate come from the configuration; every combination is legal.
//
// In BERT and OPT q, k, v keep PyTorch's default of a linear layer, U(+-1/sqrt(C)) for weights and biases:
// the published code rebuilds its attention modules after the library's initialisation (spec 2). The three
// weights are one group of the table, the three biases another, so that one multiplication by a (3C,C) matrix
// makes qkv.
#include <math.h>

#include "models/parts.h"
#include "oht/op.h"

// pi_0 away from 0 and 1, as the published gates clip it.
static double gate_probability(const oht_model_config *cfg) {
    return fmin(fmax(cfg->gate_init, 1e-16), 1.0 - 1e-16);
}

// Hidden width of an MLP gate, 0 for the other forms.
static int64_t gate_hidden(const oht_model_config *cfg) {
    const int64_t D = cfg->width / cfg->heads;
    if (cfg->gate_form == OHT_GATE_MLP) return D / 4;
    return cfg->gate_form == OHT_GATE_MLP2 ? D : 0;
}

oht_status attention_gate(const oht_model_config *cfg, oht_gate *out) {
    *out = (oht_gate){.kind = cfg->gate, .form = cfg->gate_form, .heads = (int)cfg->heads, .scale = 1.0f};
    if (cfg->gate == OHT_GATE_NONE) return OHT_OK;
    if (cfg->gate == OHT_GATE_UNCONDITIONAL_PER_HEAD) { // one scalar a head: neither form nor c apply
        out->form = OHT_GATE_LINEAR;
        return OHT_OK;
    }
    if (cfg->gate_form == OHT_GATE_MLP && gate_hidden(cfg) < 1)
        OHT_FAIL(OHT_CONFIG,
                 "model.gate_form = mlp has a quarter of the head width as hidden units; the width is %lld\n"
                 "fix: fewer model.heads, or model.gate_form=mlp2",
                 (long long)(cfg->width / cfg->heads));
    if (cfg->gate_fine_tuning) out->scale = (float)(1.0 / gate_probability(cfg)); // c pi = 1 at the start
    return OHT_OK;
}

static void add_gate(registrar *r, attention_params *p, const char *name, const attention_style *style,
                     const char *theirs, oht_param_role role, fill how, int rank, const int64_t *dim) {
    char hf_name[64];
    snprintf(hf_name, sizeof hf_name, "%s%s", style->hf_gate, theirs);
    p->gate[p->n_gate++] = reg_param(r, name, hf_name, role, -1, how, rank, dim);
}

// Parameters in the order of the gate kernels (backend.h). The published code has one small module a head;
// ours stacks them, "{h}" in the Hugging Face name stands for the head.
static void register_gate(registrar *r, const oht_model *m, const attention_style *style,
                          attention_params *p) {
    const oht_model_config *cfg = &m->cfg;
    const int64_t H = cfg->heads, C = cfg->width, D = C / H, M = gate_hidden(cfg);
    const oht_param_role weight = OHT_ROLE_WEIGHT, bias = OHT_ROLE_BIAS;
    if (cfg->gate == OHT_GATE_NONE) return;
    if (cfg->gate == OHT_GATE_UNCONDITIONAL_PER_HEAD) {
        add_gate(r, p, "attn.gate.alpha", style, "", weight, fill_zero, 1, &H);
        return;
    }
    switch (cfg->gate_form) {
    case OHT_GATE_LINEAR: {
        const double p0 = gate_probability(cfg);
        const fill logit = {OHT_INIT_CONSTANT, (float)-log(1.0 / p0 - 1.0)};
        const fill w = cfg->gate_fine_tuning ? fill_normal(style->small_gate) : fill_torch(D);
        add_gate(r, p, "attn.gate.weight", style, ".{h}.weight", weight, w, 2, (int64_t[]){H, D});
        add_gate(r, p, "attn.gate.bias", style, ".{h}.bias", bias, logit, 1, &H);
        break;
    }
    case OHT_GATE_MLP:
    case OHT_GATE_MLP2:
        add_gate(r, p, "attn.gate.1.weight", style, ".{h}.0.weight", weight, fill_torch(D), 3,
                 (int64_t[]){H, M, D});
        add_gate(r, p, "attn.gate.1.bias", style, ".{h}.0.bias", bias, fill_torch(D), 2, (int64_t[]){H, M});
        add_gate(r, p, "attn.gate.2.weight", style, ".{h}.2.weight", weight, fill_torch(M), 2,
                 (int64_t[]){H, M});
        add_gate(r, p, "attn.gate.2.bias", style, ".{h}.2.bias", bias, fill_torch(M), 1, &H);
        break;
    case OHT_GATE_ALL_FEATURES:
        add_gate(r, p, "attn.gate.weight", style, ".weight", weight, fill_torch(C), 2, (int64_t[]){H, C});
        add_gate(r, p, "attn.gate.bias", style, ".bias", bias, fill_torch(C), 1, &H);
        break;
    }
}

void attention_register(registrar *r, const oht_model *m, const attention_style *style, attention_params *p) {
    const int64_t C = m->cfg.width;
    const char *name[3] = {"q", "k", "v"}, *theirs[3] = {style->hf_q, style->hf_k, style->hf_v};
    const int weights = r->params->n_groups, biases = weights + 1;
    char ours[64], hf_name[64];
    p->qkv_b = -1;
    for (int i = 0; i < (style->no_qkv_bias ? 3 : 6); i++) { // three weights, then three biases
        snprintf(ours, sizeof ours, "attn.%s.%s", name[i % 3], i < 3 ? "weight" : "bias");
        snprintf(hf_name, sizeof hf_name, "%s.%s", theirs[i % 3], i < 3 ? "weight" : "bias");
        const int id =
            reg_param(r, ours, hf_name, i < 3 ? OHT_ROLE_WEIGHT : OHT_ROLE_BIAS, i < 3 ? weights : biases,
                      i < 3 ? style->qkv_weight : style->qkv_bias, i < 3 ? 2 : 1, (int64_t[]){C, C});
        if (i == 0) p->qkv_w = id;
        if (i == 3) p->qkv_b = id;
    }
    register_gate(r, m, style, p);
    p->out = reg_linear(r, "attn.out", style->hf_out, C, C, style->out_weight, style->out_bias);
}

oht_value attention_record(oht_graph *g, const oht_model *m, int layer, oht_value x, oht_value mask,
                           bool causal, int roles) {
    const attention_params *p = &m->layer[layer].attn;
    oht_scope(g, "layer.%d.attn", layer);
    oht_value row, pi, w[4] = {OHT_NONE, OHT_NONE, OHT_NONE, OHT_NONE};
    const oht_value bias = p->qkv_b < 0 ? OHT_NONE : oht_parameter_group(g, p->qkv_b, 3);
    const oht_value qkv = oht_linear(g, x, oht_parameter_group(g, p->qkv_w, 3), bias); // (B,T,3C)
    static const char *const part[3] = {"q", "k", "v"};
    const bool one = m->cfg.type == OHT_MODEL_VIT; // its q, k, v are one layer with one range
    if (one) oht_site_weight_group(g, "qkv.weight", p->qkv_w, 3, OHT_SITE_LINEAR);
    if (one) oht_site_linear(g, qkv, x, "qkv", p->qkv_w, p->qkv_b, OHT_ACT_NONE, 0, 1);
    for (int i = 0; i < 3 && !one; i++) {
        const int b = p->qkv_b < 0 ? -1 : p->qkv_b + i;
        oht_site_weight(g, p->qkv_w + i, OHT_SITE_LINEAR);
        oht_site_linear(g, qkv, x, part[i], p->qkv_w + i, b, OHT_ACT_NONE, i, 3);
    }
    oht_value a = oht_association(g, qkv, mask, m->assoc, (int)m->cfg.heads, causal,
                                  (float)m->cfg.attention_dropout, &row);
    // The context is quantized before the gate in OPT, after it in BERT (spec 5.4) and, so that the output
    // projection has a quantized input, in ViT.
    const bool gate_first = m->cfg.type != OHT_MODEL_OPT;
    if (!gate_first) a = oht_site(g, a, "context", OHT_SITE_CONTEXT);
    if (m->assoc.kind == OHT_SOFTMAX1) oht_tap(g, row, "null_mass", OHT_TAP_NULL_MASS, 0, layer);
    if (m->gate.kind != OHT_GATE_NONE) {
        for (int i = 0; i < p->n_gate; i++) w[i] = oht_parameter(g, p->gate[i]);
        a = oht_gate_heads(g, x, a, w, p->n_gate, m->gate, &pi);
        oht_tap(g, pi, "gate", OHT_TAP_GATE, 0, layer);
    }
    if (gate_first) a = oht_site(g, a, "context", OHT_SITE_CONTEXT);
    a = site_linear(g, a, p->out, OHT_ACT_NONE, "out");
    a = oht_tap(g, a, "out", OHT_TAP_SEQUENCE, roles, layer);
    oht_scope(g, "layer.%d", layer);
    return a;
}
