// STanHop-Net (Wu et al. 2023) as the outlier paper trains it, for multivariate time series: x (B,T,M) of M series to the
// next U steps; spec stanhop 2. Everything is laid out (B,M,L,C) for L segments.
//
//   h = LN(W x_segment + position)                                                              embedding
//   encoder block: [neighbours merged] STHM;  all E+1 results are kept
//   decoder layer i, from y = positions: a = STHM(y), r = a + Drop(Hopfield(a, h_i)), n = LN(r),
//                    y = LN(n + W2 GELU(W1 n)), forecast += W y;                                  E+1 layers
//   STHM: along time u = t + Drop(Hopfield(t,t)), u += Drop(MLP u); across series v = u,
//         y = Layer(v) + Drop(Hopfield(v,v)), LN, y += Drop(MLP y)
//
// model.norms = stanhop has a LayerNorm after each of the four sums; oeh, the published outlier runs, only the third.
//
// Quantization sites: spec 4.5, which infers them (the published code is lost); positions stay exact.
//
// Taps: those of the clean set (spec 4.2) always; in evaluation graphs every module the reference hooks, each with its number
// of copies there, so that the published metrics come out as published.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/hopfield.h"
#include "oht/memory.h"
#include "oht/op.h"

enum { STANHOP_LAYERS = 64 };

typedef struct mlp_params {
    linear_params in, out;
} mlp_params;

typedef struct sthm_params {
    hopfield_params time, pool, series;
    norm_params norm[4]; // -1 where this form has none
    mlp_params mlp[2];
} sthm_params;

typedef struct encoder_params {
    norm_params merge_norm;
    linear_params merge;
    sthm_params sthm;
} encoder_params;

typedef struct decoder_params {
    sthm_params sthm;
    hopfield_params cross;
    norm_params norm1, norm2;
    mlp_params mlp;
    linear_params predict;
} decoder_params;

typedef struct stanhop {
    int enc_pos, dec_pos;
    linear_params embed;
    norm_params pre_norm;
    hopfield_style hopfield, pool;
    int64_t in_segments, out_segments;
    encoder_params encoder[STANHOP_LAYERS];
    decoder_params decoder[STANHOP_LAYERS + 1];
} stanhop;

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static oht_status check(const oht_model_config *c) {
    if (c->series < 1 || c->input < 1 || c->horizon < 1 || c->segment < 1 || c->merge < 1 || c->patterns < 1)
        OHT_FAIL(OHT_CONFIG, "STanHop-Net: %lld series, %lld input and %lld output steps, segments of %lld, %lld merged, %lld patterns; each must be at least 1",
                 (long long)c->series, (long long)c->input, (long long)c->horizon, (long long)c->segment, (long long)c->merge,
                 (long long)c->patterns);
    if (c->gate != OHT_GATE_NONE && (c->gate != OHT_GATE_CONDITIONAL_PER_TOKEN || c->gate_form != OHT_GATE_LINEAR ||
                                     c->gate_fine_tuning))
        OHT_FAIL(OHT_CONFIG, "model.gate: STanHop-Net has the linear form of conditional_per_token only\n"
                             "fix: model.gate=conditional_per_token or none, without other gate keys but gate_init");
    if (c->layers > STANHOP_LAYERS)
        OHT_FAIL(OHT_CONFIG, "model.layers = %lld, STanHop-Net takes at most %d", (long long)c->layers, STANHOP_LAYERS);
    int64_t L = ceil_div(c->input, c->segment), w = c->merge;
    for (int64_t i = 1; i < c->layers && w > 1; i++) {
        int64_t merged = ceil_div(L, w);
        if (merged * w - L > L)
            OHT_FAIL(OHT_CONFIG,
                     "block %lld of %lld has %lld segments, too few to merge %lld of them (model.input = %lld, "
                     "model.segment = %lld)\nfix: fewer model.layers, or a smaller model.merge",
                     (long long)i + 1, (long long)c->layers, (long long)L, (long long)w, (long long)c->input,
                     (long long)c->segment);
        L = merged;
    }
    return OHT_OK;
}

// ---- parameters: names and order of the reference in hf_name ----

static void prefix(registrar *r, const char *ours, const char *theirs, int i, const char *our_part, const char *their_part) {
    snprintf(r->prefix, sizeof r->prefix, "%s.%d.%s", ours, i, our_part);
    snprintf(r->hf_prefix, sizeof r->hf_prefix, "%s.%d.%s", theirs, i, their_part);
}

static mlp_params reg_mlp(registrar *r, const char *name, const char *theirs, int64_t C, int64_t F) {
    char ours[2][32], hf[2][32];
    for (int i = 0; i < 2; i++) {
        snprintf(ours[i], sizeof ours[i], "%s.%d", name, i + 1);
        snprintf(hf[i], sizeof hf[i], "%s.%d", theirs, 2 * i);
    }
    mlp_params p;
    p.in = reg_linear(r, ours[0], hf[0], F, C, fill_torch(C), fill_torch(C));
    p.out = reg_linear(r, ours[1], hf[1], C, F, fill_torch(F), fill_torch(F));
    return p;
}

static void reg_sthm(registrar *r, const oht_model *m, const stanhop *s, const char *ours, const char *theirs, int i,
                     const char *part, sthm_params *p) {
    const int64_t C = m->cfg.width, F = m->cfg.ffn;
    const char *name[3] = {"time.", "pool.", "series."}, *hf[3] = {"cross_time.", "cross_series.", "hopfield."};
    hopfield_params *layer[3] = {&p->time, &p->pool, &p->series};
    char path[64];
    for (int k = 0; k < 3; k++) {
        snprintf(path, sizeof path, "%s%s", part, hf[k]);
        prefix(r, ours, theirs, i, name[k], path);
        hopfield_register(r, k == 1 ? &s->pool : &s->hopfield, layer[k]);
    }
    prefix(r, ours, theirs, i, "", part);
    for (int k = 0; k < 4; k++) {
        char norm[8];
        snprintf(norm, sizeof norm, "norm%d", k + 1);
        p->norm[k] = (norm_params){-1, -1};
        if (k == 2 || m->cfg.norms == OHT_NORMS_STANHOP) p->norm[k] = reg_norm(r, norm, norm, C);
    }
    p->mlp[0] = reg_mlp(r, "mlp1", "MLP1", C, F);
    p->mlp[1] = reg_mlp(r, "mlp2", "MLP2", C, F);
}

static void styles(const oht_model *m, stanhop *s) {
    const oht_model_config *c = &m->cfg;
    s->hopfield = (hopfield_style){.width = c->width,
                                   .assoc = {.f = m->assoc,
                                             .learns_alpha = strcmp(c->attention, "entmax") == 0,
                                             .alpha_range = (float)(c->alpha_max - 1),
                                             .heads = (int)c->heads,
                                             .mix = c->mix_heads},
                                   .clip_alpha = c->alpha,
                                   .gate = m->gate,
                                   .gate_init = c->gate_init,
                                   .dropout = (float)c->attention_dropout,
                                   .connected = true,
                                   .steps = (int)c->retrievals,
                                   .eps = c->retrieval_eps};
    s->pool = s->hopfield;
    s->pool.patterns = c->patterns;
}

static void declare(oht_model *m, registrar *r) {
    const oht_model_config *c = &m->cfg;
    const int64_t C = c->width, S = c->segment, w = c->merge, M = c->series;
    stanhop *s = NULL;
    if (r->status == OHT_OK) r->status = OHT_ALLOC(&s, 1, "STanHop-Net");
    if (r->status != OHT_OK) return;
    m->own = s;
    styles(m, s);
    s->in_segments = ceil_div(c->input, S);
    s->out_segments = ceil_div(c->horizon, S);
    reg_prefix(r, "", "", -1);
    s->enc_pos = reg_param(r, "enc_pos", "enc_pos", OHT_ROLE_POSITION, -1, fill_normal(1.0), 4,
                           (int64_t[]){1, M, s->in_segments, C});
    s->dec_pos = reg_param(r, "dec_pos", "dec_pos", OHT_ROLE_POSITION, -1, fill_normal(1.0), 4,
                           (int64_t[]){1, M, s->out_segments, C});
    s->embed = reg_linear(r, "embed", "enc_emb.linear", C, S, fill_torch(S), fill_torch(S));
    s->pre_norm = reg_norm(r, "pre_norm", "pre_norm", C);
    for (int i = 0; i < c->layers; i++) {
        encoder_params *p = &s->encoder[i];
        if (i > 0 && w > 1) {
            prefix(r, "enc", "encoder.encode_blocks", i, "merge.", "merge_layer.");
            p->merge = reg_linear(r, "linear", "linear_trans", C, w * C, fill_torch(w * C), fill_torch(w * C));
            p->merge_norm = reg_norm(r, "norm", "norm", w * C);
        }
        reg_sthm(r, m, s, "enc", "encoder.encode_blocks", i, "encode_layers.0.", &p->sthm);
    }
    for (int i = 0; i <= c->layers; i++) {
        decoder_params *p = &s->decoder[i];
        reg_sthm(r, m, s, "dec", "decoder.decode_layers", i, "sthm.", &p->sthm);
        prefix(r, "dec", "decoder.decode_layers", i, "cross.", "hopfield.");
        hopfield_register(r, &s->hopfield, &p->cross);
        prefix(r, "dec", "decoder.decode_layers", i, "", "");
        p->norm1 = reg_norm(r, "out_norm1", "norm1", C);
        p->norm2 = reg_norm(r, "out_norm2", "norm2", C);
        p->mlp.in = reg_linear(r, "ffn1", "MLP1", C, C, fill_torch(C), fill_torch(C));
        p->mlp.out = reg_linear(r, "ffn2", "MLP2", C, C, fill_torch(C), fill_torch(C));
        p->predict = reg_linear(r, "predict", "linear_pred", S, C, fill_torch(C), fill_torch(C));
    }
}

// ---- taps ----

enum {
    SEEN = OHT_IN_KURTOSIS | OHT_IN_INF,
    TWICE = OHT_SEEN_TWICE,
    THRICE = OHT_SEEN_THRICE,
    CLEAN = OHT_IN_CLEAN,
    MLP = OHT_IN_FFN_INF,
    PROBS = OHT_IS_PROBS
};

// One row a sample (B), or a sample and series or segment (axis 1).
static oht_value tap(oht_graph *g, oht_value x, const char *name, oht_tap_kind kind, int roles, int layer) {
    if (oht_graph_mode(g) == OHT_TRAIN && !(roles & CLEAN)) return x;
    return oht_tap(g, x, name, kind, SEEN | roles, layer);
}

// association: its number, the layer of what is measured per head.
static void tap_hopfield(const oht_model *m, oht_graph *g, const char *name, oht_value out, const hopfield_inner *in, int copies,
                         int layer, int association) {
    char path[32];
    struct {
        const char *part;
        oht_value v;
        int roles;
    } part[] = {{"q", in->q, 0},
                {"k", in->k, 0},
                {"v", in->v, 0},
                {"probs", in->probs, TWICE | PROBS},
                {"heads", in->heads, 0},
                {"out", out, copies | CLEAN}};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        snprintf(path, sizeof path, "%s.%s", name, part[i].part);
        // learned patterns, (1,S,C), are the same for every row of the batch
        oht_tap_kind kind = oht_shape(g, part[i].v).rank == 4 ? OHT_TAP_GROUP : OHT_TAP_SEQUENCE;
        tap(g, part[i].v, path, kind, part[i].roles, layer);
    }
    if (m->assoc.kind == OHT_SOFTMAX1 && !m->assoc.clipped) {
        snprintf(path, sizeof path, "%s.null_mass", name);
        oht_tap(g, in->probs, path, OHT_TAP_NULL_MASS, 0, association);
    }
    if (in->gate.id >= 0) {
        snprintf(path, sizeof path, "%s.gate", name);
        oht_tap(g, in->gate, path, OHT_TAP_GATE, 0, association);
    }
}

// ---- forward ----

static oht_value record_norm(const oht_model *m, oht_graph *g, oht_value x, norm_params p, const char *name, int layer) {
    if (p.gain < 0) return x;
    return tap(g, site_norm(g, m, x, p, OHT_SITE_NORM, name), name, OHT_TAP_GROUP, CLEAN, layer);
}

// copies: of the result among the reference's modules
static oht_value record_mlp(oht_graph *g, oht_value x, mlp_params p, const char *name, int copies, int layer) {
    char path[32];
    oht_value pre = OHT_NONE;
    const bool train = oht_graph_mode(g) == OHT_TRAIN;
    oht_value h = train ? rec_linear(g, x, p.in, OHT_ACT_GELU)
                        : oht_linear_pre(g, x, oht_parameter(g, p.in.w), oht_parameter(g, p.in.b), OHT_ACT_GELU, &pre);
    snprintf(path, sizeof path, "%s.gelu", name);
    oht_site_weight(g, p.in.w, OHT_SITE_LINEAR);
    oht_site_linear(g, h, x, path, p.in.w, p.in.b, OHT_ACT_GELU, 0, 1);
    tap(g, h, path, OHT_TAP_GROUP, MLP, layer);
    snprintf(path, sizeof path, "%s.pre", name);
    if (!train) tap(g, pre, path, OHT_TAP_GROUP, MLP, layer);
    snprintf(path, sizeof path, "%s.out", name);
    return tap(g, site_linear(g, h, p.out, OHT_ACT_NONE, path), path, OHT_TAP_GROUP, MLP | CLEAN | copies, layer);
}

// x + Drop(f), a site
static oht_value record_sum(oht_graph *g, oht_value x, oht_value f, float drop, const char *name) {
    return oht_site(g, oht_residual(g, x, f, drop), name, OHT_SITE_RESIDUAL);
}

// Sites of a Hopfield layer are named below its own scope.
static void enter(oht_graph *g, const char *scope, const char *name) {
    oht_scope(g, "%s.%s", scope, name);
}

// scope: its own, "enc.3"; first: number of its first association
static oht_value record_sthm(const oht_model *m, oht_graph *g, const char *scope, const sthm_params *p, oht_value t, int copies,
                             int layer, int first) {
    const stanhop *s = m->own;
    const float drop = (float)m->cfg.dropout;
    hopfield_inner in;
    enter(g, scope, "time");
    oht_value h = hopfield_record(g, &s->hopfield, &p->time, t, t, &in); // (B,M,L,C)
    oht_scope(g, "%s", scope);
    tap_hopfield(m, g, "time", h, &in, TWICE, layer, first);
    oht_value u = record_norm(m, g, record_sum(g, t, h, drop, "time.sum"), p->norm[0], "norm1", layer);
    h = record_mlp(g, u, p->mlp[0], "mlp1", TWICE, layer);
    u = record_norm(m, g, record_sum(g, u, h, drop, "mlp1.sum"), p->norm[1], "norm2", layer);

    const oht_value v = oht_swap_axes(g, u); // (B,L,M,C)
    enter(g, scope, "pool");
    oht_value c = hopfield_layer_record(g, &s->pool, &p->pool, v, &in);
    oht_scope(g, "%s", scope);
    tap_hopfield(m, g, "pool", c, &in, TWICE, layer, first + 1);
    enter(g, scope, "series");
    h = hopfield_record(g, &s->hopfield, &p->series, v, v, &in);
    oht_scope(g, "%s", scope);
    tap_hopfield(m, g, "series", h, &in, TWICE, layer, first + 2);
    oht_value y = record_norm(m, g, record_sum(g, c, h, drop, "series.sum"), p->norm[2], "norm3", layer);
    h = record_mlp(g, y, p->mlp[1], "mlp2", THRICE, layer);
    y = record_norm(m, g, record_sum(g, y, h, drop, "mlp2.sum"), p->norm[3], "norm4", layer);
    return tap(g, oht_swap_axes(g, y), "sthm", OHT_TAP_SEQUENCE, copies, layer);
}

static oht_value record_encoder(const oht_model *m, oht_graph *g, int i, oht_value x) {
    const stanhop *s = m->own;
    const encoder_params *p = &s->encoder[i];
    char scope[16];
    snprintf(scope, sizeof scope, "enc.%d", i);
    oht_scope(g, "%s", scope);
    if (i > 0 && m->cfg.merge > 1) {
        x = site_norm(g, m, oht_merge_segments(g, x, m->cfg.merge), p->merge_norm, OHT_SITE_NORM, "merge.norm");
        x = tap(g, x, "merge.norm", OHT_TAP_SEQUENCE, CLEAN, i);
        x = tap(g, site_linear(g, x, p->merge, OHT_ACT_NONE, "merge"), "merge", OHT_TAP_SEQUENCE, TWICE, i);
    }
    return record_sthm(m, g, scope, &p->sthm, x, TWICE, i, 3 * i);
}

// The head of each layer stays exact unless quant.setup = all.
static oht_value record_forecast(oht_graph *g, oht_value y, linear_params p) {
    return oht_graph_has_sites(g) & OHT_SITES_HEAD ? site_linear(g, y, p, OHT_ACT_NONE, "predict")
                                                   : oht_linear(g, y, oht_parameter_exact(g, p.w), oht_parameter(g, p.b));
}

static oht_value record_decoder(const oht_model *m, oht_graph *g, int i, oht_value y, oht_value stored, oht_value *forecast) {
    const stanhop *s = m->own;
    const decoder_params *p = &s->decoder[i];
    const int layer = (int)m->cfg.layers + i, first = 3 * (int)m->cfg.layers + 4 * i;
    hopfield_inner in;
    char scope[16];
    snprintf(scope, sizeof scope, "dec.%d", i);
    oht_scope(g, "%s", scope);
    const oht_value a = record_sthm(m, g, scope, &p->sthm, y, 0, layer, first);
    enter(g, scope, "cross");
    const oht_value h = hopfield_record(g, &s->hopfield, &p->cross, a, stored, &in);
    oht_scope(g, "%s", scope);
    tap_hopfield(m, g, "cross", h, &in, THRICE, layer, first + 3);
    const oht_value n = record_norm(m, g, record_sum(g, a, h, (float)m->cfg.dropout, "cross.sum"), p->norm1, "out_norm1", layer);
    y = record_sum(g, n, record_mlp(g, n, p->mlp, "ffn", 0, layer), 0.0f, "ffn.sum");
    y = record_norm(m, g, y, p->norm2, "out_norm2", layer);
    tap(g, y, "out", OHT_TAP_SEQUENCE, CLEAN | OHT_IN_LAYER_INF, layer);
    const oht_value part = record_forecast(g, y, p->predict); // (B,M,L,s)
    tap(g, part, "predict", OHT_TAP_SEQUENCE, 0, layer);
    *forecast = forecast->id < 0 ? part : oht_residual(g, *forecast, part, 0.0f);
    return y;
}

static oht_value record(const oht_model *m, oht_graph *g, oht_value mask, bool recompute) {
    (void)mask;
    const oht_model_config *c = &m->cfg;
    const stanhop *s = m->own;
    const int64_t B = oht_graph_rows(g);
    const oht_value x = oht_input(g, OHT_FIELD_SERIES, OHT_F32, OHT_ROWS_BATCH, 3, (int64_t[]){B, c->input, c->series});
    const oht_value y = oht_input(g, OHT_FIELD_TARGETS, OHT_F32, OHT_ROWS_BATCH, 3, (int64_t[]){B, c->horizon, c->series});
    oht_value kept[STANHOP_LAYERS + 1];

    oht_scope(g, "embed");
    oht_value h = rec_linear(g, oht_cut_segments(g, x, c->segment), s->embed, OHT_ACT_NONE); // (B,M,L,C)
    oht_site_weight(g, s->embed.w, OHT_SITE_LINEAR);
    h = oht_site(g, oht_add_table(g, h, oht_parameter(g, s->enc_pos)), "out", OHT_SITE_EMBEDDING);
    tap(g, h, "segments", OHT_TAP_TOKEN, 0, -1);
    tap(g, h, "out", OHT_TAP_SEQUENCE, 0, -1);
    h = tap(g, site_norm(g, m, h, s->pre_norm, OHT_SITE_NORM, "norm"), "norm", OHT_TAP_SEQUENCE, CLEAN, -1);
    kept[0] = h;
    for (int i = 0; i < c->layers; i++) {
        if (recompute) oht_block_begin(g);
        h = kept[i + 1] = record_encoder(m, g, i, h);
        if (recompute) oht_block_end(g);
    }
    oht_scope(g, "decoder");
    h = oht_repeat(g, oht_parameter(g, s->dec_pos));
    oht_value forecast = OHT_NONE;
    for (int i = 0; i <= c->layers; i++) {
        if (recompute) oht_block_begin(g);
        h = record_decoder(m, g, i, h, kept[i], &forecast);
        if (recompute) oht_block_end(g);
    }
    oht_scope(g, "decoder");
    tap(g, forecast, "out", OHT_TAP_SEQUENCE, 0, -1);
    oht_scope(g, "forecast");
    const oht_value out = oht_unsegment(g, forecast, c->horizon, c->baseline ? x : OHT_NONE); // (B,U,M)
    tap(g, out, "out", OHT_TAP_SEQUENCE, 0, -1);
    return oht_squared_error(g, out, y);
}

const model_kind model_stanhop = {
    .name = "stanhop", .task = OHT_TASK_SERIES, .check = check, .declare = declare, .record = record};
