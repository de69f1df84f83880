// The operations models are recorded with; src/ops/<name>.c holds shape rule, forward, backward and FLOPs of each side
// by side. All record on a graph and return the result; wrong shapes stick as the graph's error (graph.h). B samples,
// T tokens, C width: activations are (B,T,C), or (M,C) for M picked rows.
#pragma once

#include "oht/graph.h"

// y[b,t] = table[tokens[b,t]]. tokens: (B,T) i32; table: (V,E). No gradient reaches row padding_id (-1: every row).
oht_value oht_embedding(oht_graph *g, oht_value tokens, oht_value table, int64_t padding_id);
// y[b,t] = x[b,t] + table[offset + t]; broadcast: + table[offset] for every t (BERT's token type 0).
oht_value oht_add_rows(oht_graph *g, oht_value x, oht_value table, int64_t offset, bool broadcast);
// y = act(x w^T + b); w: (M,K); b: (M) or OHT_NONE.
oht_value oht_linear_act(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_act act);
// As oht_linear_act, with x w^T + b before the activation in *pre, for taps.
oht_value oht_linear_pre(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_act act, oht_value *pre);
oht_value oht_linear(oht_graph *g, oht_value x, oht_value w, oht_value b);
// LayerNorm over the last axis, biased variance.
oht_value oht_layernorm(oht_graph *g, oht_value x, oht_value gamma, oht_value beta, float eps);
// y = Drop(x); in evaluation or with p = 0 it returns x itself.
oht_value oht_dropout(oht_graph *g, oht_value x, float p);
// y = x + Drop(f): the residual connection.
oht_value oht_residual(oht_graph *g, oht_value x, oht_value f, float p);
// Multi-head association (backend.h). qkv: (B,T,3C); mask: (B,T) u8 or OHT_NONE; p: dropout on P. The (B,H,T) row
// normaliser comes back in *row when row != NULL. Taps inside (recorded when the graph is in evaluation mode and asks for
// them): scores, probs.
oht_value oht_association(oht_graph *g, oht_value qkv, oht_value mask, oht_assoc_spec f, int heads, bool causal, float p,
                          oht_value *row);
// Gate (spec transformers 1.5): c pi ctx. w: parameters in the spec's order, n_w of them. *pi for taps when not NULL.
oht_value oht_gate_heads(oht_graph *g, oht_value x, oht_value ctx, const oht_value *w, int n_w, oht_gate gate, oht_value *pi);
// y[i] = rows of x picked by index; x: (B,T,C), index: (picked) i32 into B*T; y: (picked, C).
oht_value oht_gather(oht_graph *g, oht_value x, oht_value index);
// Head and loss in one: logits = x w^T (+ b), loss = sum over rows of -log softmax(logits)[label], label -1 ignored.
// Works in chunks of rows and never holds all logits. In training it forms its gradients in the same pass (its forward
// does nothing, its backward everything, run->loss_sum included), scaled by run->loss_scale.
oht_value oht_lm_head(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_value labels);
int64_t oht_lm_head_rows(int64_t N, int64_t V); // rows of such a chunk

// ---- time series (spec stanhop) ----
// Association of short rows (backend.h). q: (B,G,L,C); k, v: (B,G,S,C) or (1,S,C); v OHT_NONE: the keys are the values;
// a: (1), the raw alpha, where hf.learns_alpha. p: dropout on P. sites: its scores and probabilities are quantization sites.
// *probs: (B,G,H*L,S), for taps.
oht_value oht_hopfield_association(oht_graph *g, oht_value q, oht_value k, oht_value v, oht_value a, oht_hopfield hf,
                                   float p, bool sites, oht_value *probs);
// A head's part of r where the probabilities p of a group, (B,G,H*L,S), are further than eps from those before, else of q;
// q, r: (B,G,L,C). No gradient reaches p and before.
oht_value oht_settle(oht_graph *g, oht_value q, oht_value r, oht_value p, oht_value before, int heads, float eps);
// (B,G,L,C): heads laid out (H,L,D), that memory read as (L,C).
oht_value oht_mix_heads(oht_graph *g, oht_value x, int heads);
// (B,T,M) to (B,M,L,s); a row that is too short is continued to the left by its first values.
oht_value oht_cut_segments(oht_graph *g, oht_value x, int64_t length);
// (B,M,L,s) to (B,steps,M), plus the mean over time of base (B,T,M) unless that is OHT_NONE.
oht_value oht_unsegment(oht_graph *g, oht_value x, int64_t steps, oht_value base);
// (B,M,L,C) to (B,M,ceil(L/w),w*C); the last segments are repeated in order where some lack.
oht_value oht_merge_segments(oht_graph *g, oht_value x, int64_t w);
// (B,X,Y,C) to (B,Y,X,C).
oht_value oht_swap_axes(oht_graph *g, oht_value x);
// (1,...) for every sample; and added to x: (B,...).
oht_value oht_repeat(oht_graph *g, oht_value table);
oht_value oht_add_table(oht_graph *g, oht_value x, oht_value table);
// loss = sum of (x - y)^2; its gradient is scaled by run->loss_scale.
oht_value oht_squared_error(oht_graph *g, oht_value x, oht_value y);

// ---- images (ViT) ----
// Patches as rows: images (B,S,S,3) u8 -> (B,(S/p)^2,3pp), normalised. A linear layer of them is the patch embedding.
oht_value oht_patches(oht_graph *g, oht_value images, int64_t patch);
// y[b] = row, then the rows of x[b]. x: (B,N,C); row: (1,C); y: (B,N+1,C). The class token.
oht_value oht_prepend(oht_graph *g, oht_value x, oht_value row);
// y[b] = x[b,0]: (B,T,C) -> (B,C).
oht_value oht_first(oht_graph *g, oht_value x);
// Classifier and loss in one, as oht_lm_head: logits = x w^T (+ b), x: (B,C). In training targets are (B,V) f32 and the
// loss is their soft cross-entropy; in evaluation they are labels, (B) i32, and run->measured counts those whose logit is the
// largest, and one of the five largest.
oht_value oht_class_head(oht_graph *g, oht_value x, oht_value w, oht_value b, oht_value targets);

// ---- taps ----
// Marks a tensor the paper talks about; returns it unchanged. Costs nothing unless an observer is installed.

// What one row of the row-wise metrics is.
typedef enum oht_tap_kind {
    OHT_TAP_SEQUENCE,  // one sample: T * C values
    OHT_TAP_TOKEN,     // one token: C values
    OHT_TAP_GROUP,     // one (sample, axis 1): the rest of a (B,G,L,C)
    OHT_TAP_NULL_MASS, // (B,H,T) row normaliser of softmax_1, or its (B,G,H*L,S) probabilities -> mean null mass per head
    OHT_TAP_GATE       // gate values pi -> mean per head
} oht_tap_kind;

// Which of the paper's metrics a tap counts in (spec transformers 4).
enum {
    OHT_IN_KURTOSIS = 1, // avg_kurtosis, max_kurtosis
    OHT_IN_INF = 2,      // max_inf_norm
    OHT_IN_FFN_INF = 4,  // max_ffn_inf_norm
    OHT_IN_LAYER_INF = 8, // max_layer_inf_norm
    // Spec stanhop 4: the reference hooks modules, some of which return the same tensor.
    OHT_IN_CLEAN = 16, // in the set without copies and probabilities
    OHT_IS_PROBS = 32, // probabilities of an association
    OHT_SEEN_TWICE = 64, OHT_SEEN_THRICE = 128, // so often in the averages
    OHT_IN_MLP_MODULES = 1 << 20, // the modules below are named mlp
    OHT_MODULES_ALONE = 1 << 21 // tapped for them only: in no other list, and not while training
};
// Spec transformers 4, ViT: modules of the reference that return this tensor, n <= 15 (all_modules_* of an evaluation).
#define OHT_MODULES(n) ((n) << 16)
#define OHT_MODULES_OF(roles) ((roles) >> 16 & 15)

typedef struct oht_tap_info {
    char name[OHT_NODE_NAME]; // "layer.3.ffn.out"
    oht_tap_kind kind;
    int roles;
    int index; // position in the graph's list of taps
    int layer; // -1 outside layers
} oht_tap_info;

struct oht_observer {
    // x: view with this micro-batch's valid rows. Called in forward order, first pass only.
    void (*see)(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x);
};

// For GATE and NULL_MASS taps too. name is relative to the scope; layer as in oht_tap_info.
oht_value oht_tap(oht_graph *g, oht_value x, const char *name, oht_tap_kind kind, int roles, int layer);
int oht_graph_taps(const oht_graph *g, const oht_tap_info **out); // number of taps; *out owned by the graph

// ---- quantization sites (spec transformers 5.4)
// ----------------------------------------------------------------------- Where the values of a tensor are
// quantized, in place, before anybody else reads them; recorded in evaluation graphs that ask
// (oht_graph_sites), so that a model without quantization knows nothing of them. A tap of the same tensor is
// recorded after its site and sees quantized values. A site's layer is N under the scope layer.N, else -1.

typedef enum oht_site_kind {
    OHT_SITE_EMBEDDING,
    OHT_SITE_LINEAR, // output of a linear layer
    OHT_SITE_ACTIVATION, // the same after ReLU or GELU
    OHT_SITE_NORM, // output of a LayerNorm
    OHT_SITE_FINAL_NORM, // of the last one
    OHT_SITE_RESIDUAL, // sum of a residual connection
    OHT_SITE_SCORES, // beta Q K^T before the mask
    OHT_SITE_PROBS, // P
    OHT_SITE_CONTEXT, // P V
    OHT_SITE_LOGITS,
    OHT_SITE_KINDS
} oht_site_kind;

typedef struct oht_site_info {
    char name[OHT_NODE_NAME]; // that of the tap, where one shows the same tensor
    oht_site_kind kind;
    int index; // position in the graph's list of sites
    int layer;
    // Of a linear layer's output, else -1: parameters, and the site that quantizes its input.
    int weight, bias, input;
    oht_act act;
} oht_site_info;

// A weight that is quantized before the run: one parameter, or n of a group that are one tensor. kind:
// EMBEDDING, LINEAR, NORM, FINAL_NORM.
typedef struct oht_weight_site {
    char name[96]; // that of the parameter
    int param, n;
    oht_site_kind kind;
    int layer;
} oht_weight_site;

// What a site sees: `rows` rows of n values, ld apart.
typedef struct oht_site_view {
    float *x;
    int64_t rows, n, ld;
    const float *input; // OHT_SITES_INNER, linear layers: (rows, K), the quantized input; else NULL
    int64_t input_n; // K
    bool causal; // scores: which of (B,H,T,T) are visible
    oht_tensor mask;
} oht_site_view;

struct oht_quant_hook {
    // May replace the values. Called in forward order.
    void (*see)(oht_quant_hook *self, const oht_run *run, const oht_site_info *site,
                const oht_site_view *view);
    // The quantizer of a site as it stands, for operations that apply it inside; NULL = exact.
    const oht_fakequant *(*now)(oht_quant_hook *self, const oht_site_info *site);
};

// All return their first value unchanged, and do nothing in graphs without sites.
oht_value oht_site(oht_graph *g, oht_value x, const char *name, oht_site_kind kind);
// Part `part` of `parts` (columns) of y = act(x w^T + b), which parameters weight and bias (-1: none) make.
oht_value oht_site_linear(oht_graph *g, oht_value y, oht_value x, const char *name, int weight, int bias,
                          oht_act act, int part, int parts);
void oht_site_weight(oht_graph *g, int param, oht_site_kind kind);
// Parameters [first, first + n) of a group as one weight, called name below the scope.
void oht_site_weight_group(oht_graph *g, const char *name, int first, int n, oht_site_kind kind);
// For operations: a site without a node of its own; its index, -1 in graphs without sites or after a failure.
int oht_site_inside(oht_graph *g, const char *name, oht_site_kind kind);
int oht_graph_site_list(const oht_graph *g, const oht_site_info **out);
int oht_graph_weight_list(const oht_graph *g, const oht_weight_site **out);
