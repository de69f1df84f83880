// What the model files share: the model's struct, a registrar that reads like a table of parameters, and
// attention.
#pragma once

#include "oht/graph.h"
#include "oht/model.h"

// Indices into the parameter table; -1 = the model has none.
typedef struct linear_params {
    int w, b;
} linear_params;
typedef struct norm_params {
    int gain, bias;
} norm_params;
typedef struct attention_params {
    int qkv_w, qkv_b; // first of three: q, k, v; no biases: -1
    int gate[4];
    int n_gate;
    linear_params out;
} attention_params;
typedef struct layer_params {
    attention_params attn;
    norm_params ln1, ln2;
    linear_params ffn1, ffn2;
} layer_params;

struct oht_model {
    oht_model_config cfg;
    oht_assoc_spec assoc;
    oht_gate gate;
    oht_params *params;
    int tokens, positions, types; // embedding tables
    linear_params project_in, project_out; // OPT with embed_width != width
    norm_params embed_ln, final_ln; // BERT; OPT pre-norm
    linear_params transform; // BERT's head
    norm_params head_ln;
    int head_bias;
    linear_params patch, head; // ViT
    int class_token;
    layer_params *layer;
    void *own; // what one kind alone needs; freed with the model
};

// ---- registration ----
// Adds
// parameters called prefix + name, in order; the first failure sticks in status.
typedef struct registrar {
    oht_params *params;
    char prefix[48], hf_prefix[80]; // "layer.3.", "model.decoder.layers.3."
    oht_status status;
} registrar;

typedef struct fill {
    oht_init init;
    float arg;
} fill;
static const fill fill_zero = {OHT_INIT_ZERO, 0.0f};
fill fill_normal(double std);
fill fill_torch(
    int64_t fan_in); // PyTorch's default of a linear layer, weight and bias: U(+-1 / sqrt(fan_in))

void reg_prefix(registrar *r, const char *prefix, const char *hf_prefix, int layer); // formats with one %d
int reg_param(registrar *r, const char *name, const char *hf_name, oht_param_role role, int group, fill how,
              int rank, const int64_t *dim);
linear_params reg_linear(registrar *r, const char *name, const char *hf_name, int64_t out, int64_t in,
                         fill weight, fill bias);
linear_params reg_linear_no_bias(registrar *r, const char *name, const char *hf_name, int64_t out, int64_t in,
                                 fill weight);
norm_params reg_norm(registrar *r, const char *name, const char *hf_name, int64_t width);
// Embedding table "name.weight"; zero_row as in oht_param.
int reg_table(registrar *r, const char *name, const char *hf_name, int64_t rows, int64_t width, double std,
              int64_t zero_row, oht_param_role role);

// ---- attention (attention.c) ----
typedef struct attention_style {
    const char *hf_q, *hf_k, *hf_v, *hf_gate, *hf_out; // below the layer's prefix
    fill qkv_weight, qkv_bias, out_weight, out_bias;
    bool no_qkv_bias;
    double small_gate; // standard deviation of a linear gate's weights under gate_fine_tuning
} attention_style;
// The gate as the backend wants it, and its checks. Local.
OHT_CHECKED oht_status attention_gate(const oht_model_config *cfg, oht_gate *out);
void attention_register(registrar *r, const oht_model *m, const attention_style *style,
                        attention_params *out);
// q, k, v, association, gate, output projection, with taps layer.L.attn.*; the result is layer.L.attn.out,
// tapped with `roles`. x: (B,T,C), also the gate's input. Leaves the scope at layer.L.
oht_value attention_record(oht_graph *g, const oht_model *m, int layer, oht_value x, oht_value mask,
                           bool causal, int roles);

// ---- recording ----
oht_value rec_linear(oht_graph *g, oht_value x, linear_params p, oht_act act);
oht_value rec_norm(oht_graph *g, const oht_model *m, oht_value x, norm_params p);
// The same with weight and result as quantization sites; name: of the result, relative to the scope.
oht_value site_linear(oht_graph *g, oht_value x, linear_params p, oht_act act, const char *name);
oht_value site_norm(oht_graph *g, const oht_model *m, oht_value x, norm_params p, oht_site_kind kind, const char *name);

// ---- the models ----
typedef struct model_kind {
    const char *name;
    oht_task task;
    oht_status (*check)(const oht_model_config *cfg);
    void (*declare)(oht_model *m, registrar *r);
    // The forward pass; returns the loss. mask: OHT_NONE without padded rows.
    oht_value (*record)(const oht_model *m, oht_graph *g, oht_value mask, bool recompute);
} model_kind;
extern const model_kind model_opt, model_bert, model_vit, model_stanhop;
