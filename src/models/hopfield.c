// Hopfield layers (hopfield.h, spec stanhop 1.1 to 1.4): projections, association, head mix, gate.
#include "models/hopfield.h"

#include <math.h>

#include "oht/op.h"

static const linear_params identity = {-1, -1};

void hopfield_register(registrar *r, const hopfield_style *s, hopfield_params *p) {
    const int64_t C = s->width, H = s->assoc.heads, D = C / H, one = 1;
    const fill torch = fill_torch(C);
    *p = (hopfield_params){-1, -1, identity, identity, identity, identity, {-1, -1}};
    if (s->patterns > 0) // the published code leaves them uninitialised
        p->patterns = s->learned_states
                          ? reg_param(r, "state", "state", OHT_ROLE_WEIGHT, -1, fill_normal(0.02), 4, (int64_t[]){1, 1, s->patterns, C})
                          : reg_param(r, "key", "key", OHT_ROLE_WEIGHT, -1, fill_normal(0.02), 3, (int64_t[]){1, s->patterns, C});
    if (s->assoc.learns_alpha)
        p->alpha = reg_param(r, "alpha", "inner_attention.softmax.alpha", OHT_ROLE_WEIGHT, -1, fill_normal(1.0), 1, &one);
    if (!s->static_query) p->q = reg_linear(r, "q", "query_projection", C, C, torch, torch);
    if (!s->static_key) p->k = reg_linear(r, "k", "key_projection", C, C, torch, torch);
    if (!s->static_value) p->v = reg_linear(r, "v", "value_projection", C, C, torch, torch);
    if (!s->static_out) p->out = reg_linear(r, "out", "out_projection", C, C, torch, torch);
    if (s->gate.kind == OHT_GATE_NONE) return;
    const double p0 = s->gate_init;
    const fill logit = {OHT_INIT_CONSTANT, (float)-log(1.0 / p0 - 1.0)};
    p->gate[0] = reg_param(r, "gate.weight", "gate.{h}.weight", OHT_ROLE_WEIGHT, -1, fill_torch(D), 2, (int64_t[]){H, D});
    p->gate[1] = reg_param(r, "gate.bias", "gate.{h}.bias", OHT_ROLE_BIAS, -1, logit, 1, &H);
}

static oht_value project(oht_graph *g, oht_value x, linear_params p, const char *name) {
    return p.w < 0 ? x : site_linear(g, x, p, OHT_ACT_NONE, name);
}

oht_value hopfield_record(oht_graph *g, const hopfield_style *s, const hopfield_params *p, oht_value state,
                          oht_value stored, hopfield_inner *inner) {
    oht_hopfield hf = s->assoc;
    if (hf.beta == 0.0f) hf.beta = (float)(1.0 / sqrt((double)(s->width / hf.heads)));
    if (s->clip_alpha > 0.0) {
        const oht_tensor y = oht_shape(g, stored);
        hf.f.gamma = -s->clip_alpha / (double)y.dim[y.rank - 2];
    }
    const bool gated = s->gate.kind != OHT_GATE_NONE, mix = hf.mix;
    const oht_value a = oht_parameter(g, p->alpha);
    const oht_value k = project(g, stored, p->k, "k");
    oht_value v = project(g, s->connected ? k : stored, p->v, "v"), q = project(g, state, p->q, "q"), probs;
    if (v.id == k.id) v = OHT_NONE; // the keys are the values
    const hopfield_inner first = {.q = q, .k = k, .v = v};
    hf.mix = false;
    oht_value before = OHT_NONE;
    for (int i = 0; i < s->steps; i++) { // spec 1.4
        oht_value now;
        const oht_value r = oht_hopfield_association(g, q, k, OHT_NONE, a, hf, 0.0f, false, &now);
        q = i > 0 && s->eps > 0.0 ? oht_settle(g, q, r, now, before, hf.heads, (float)s->eps) : r;
        before = now;
    }
    hf.mix = mix && !gated;
    oht_value x = oht_hopfield_association(g, q, k, v, a, hf, s->dropout, true, &probs);
    if (inner) *inner = (hopfield_inner){first.q, first.k, first.v, probs, x, OHT_NONE};
    if (gated) {
        const oht_value w[2] = {oht_parameter(g, p->gate[0]), oht_parameter(g, p->gate[1])};
        x = oht_gate_heads(g, state, x, w, 2, s->gate, inner ? &inner->gate : NULL);
        if (mix) x = oht_mix_heads(g, x, hf.heads);
    }
    return project(g, oht_site(g, x, "context", OHT_SITE_CONTEXT), p->out, "out");
}

oht_value hopfield_layer_record(oht_graph *g, const hopfield_style *s, const hopfield_params *p, oht_value state,
                                hopfield_inner *inner) {
    oht_site_weight(g, p->patterns, OHT_SITE_EMBEDDING);
    return hopfield_record(g, s, p, state, oht_parameter(g, p->patterns), inner);
}

oht_value hopfield_pooling_record(oht_graph *g, const hopfield_style *s, const hopfield_params *p, oht_value stored,
                                  hopfield_inner *inner) {
    oht_site_weight(g, p->patterns, OHT_SITE_EMBEDDING);
    return hopfield_record(g, s, p, oht_repeat(g, oht_parameter(g, p->patterns)), stored, inner);
}
