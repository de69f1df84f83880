// The configuration: one C struct, one table (src/config/table.c) that knows each key's name, type, default, range,
// unit, help, and whether it may differ on resume. Parser, --help, validation, echo and reference page come from it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "oht/status.h"

enum { OHT_PATH = 1024 };

typedef enum oht_model_type { OHT_MODEL_OPT, OHT_MODEL_BERT, OHT_MODEL_VIT, OHT_MODEL_STANHOP } oht_model_type;
// LayerNorms of a block of STanHop-Net, spec stanhop 2.3: the third alone, or all four.
typedef enum oht_block_norms { OHT_NORMS_OEH, OHT_NORMS_STANHOP } oht_block_norms;
typedef enum oht_norm_place { OHT_NORM_PRE, OHT_NORM_POST } oht_norm_place;

// Row nonlinearity f of attention P = f(S), spec transformers 1.1.
typedef enum oht_assoc_kind { OHT_SOFTMAX, OHT_SOFTMAX1, OHT_ENTMAX15, OHT_SPARSEMAX } oht_assoc_kind;
typedef enum oht_gate_kind {
    OHT_GATE_NONE,
    OHT_GATE_UNCONDITIONAL_PER_HEAD,
    OHT_GATE_CONDITIONAL_PER_HEAD,
    OHT_GATE_CONDITIONAL_PER_TOKEN
} oht_gate_kind;
typedef enum oht_gate_form { OHT_GATE_LINEAR, OHT_GATE_MLP, OHT_GATE_MLP2, OHT_GATE_ALL_FEATURES } oht_gate_form;

typedef enum oht_schedule {
    OHT_LR_LINEAR,
    OHT_LR_COSINE,
    OHT_LR_COSINE_WITH_RESTARTS,
    OHT_LR_POLYNOMIAL,
    OHT_LR_CONSTANT,
    OHT_LR_CONSTANT_WITH_WARMUP,
    OHT_LR_COSINE_END, // from train.lr to train.lr_end, over all steps
    OHT_LR_TYPE1, OHT_LR_TYPE2 // halved five times: every 2 epochs, every 5
} oht_schedule;

// Which parameters get no weight decay (spec transformers 3): biases and LayerNorm gains; biases only
// (--wd_LN_gamma); every 1-D tensor, position embedding and class token (timm's rule).
typedef enum oht_no_decay { OHT_NO_DECAY_BIAS_NORM, OHT_NO_DECAY_BIAS, OHT_NO_DECAY_VECTORS } oht_no_decay;

// Post-training quantization, spec transformers 5.
typedef enum oht_range_kind {
    OHT_RANGE_MINMAX,
    OHT_RANGE_MSE,
    OHT_RANGE_RUNNING_MINMAX,
    OHT_RANGE_MSE_GRID
} oht_range_kind;
typedef enum oht_mse_margin { OHT_MARGIN_ABSOLUTE, OHT_MARGIN_RELATIVE } oht_mse_margin;
typedef enum oht_quant_setup {
    OHT_QUANT_FP32_HEAD,      // the head stays exact
    OHT_QUANT_ALL,            // head weights and logits are quantized, too
    OHT_QUANT_INT16_FINAL_LN, // exact head; 16 bits for the gain and the output of the final LayerNorm
    OHT_QUANT_INT16_ALL_LN    // exact head; 16 bits for those of every LayerNorm
} oht_quant_setup;
typedef enum oht_quant_method { OHT_QUANT_ASYMMETRIC, OHT_QUANT_SYMMETRIC } oht_quant_method;
typedef enum oht_quant_calibration {
    OHT_CALIBRATE_AUTO, // BERT: validation, OPT: train, as the published numbers
    OHT_CALIBRATE_TRAIN,
    OHT_CALIBRATE_VALIDATION
} oht_quant_calibration;

typedef enum oht_resume { OHT_RESUME_AUTO, OHT_RESUME_NEVER, OHT_RESUME_MUST } oht_resume;

typedef struct oht_model_config {
    oht_model_type type;
    int64_t layers, width, heads, ffn;
    int64_t vocab_size;
    int64_t max_tokens;   // rows of the position table (OPT adds 2)
    int64_t embed_width;  // token embedding width; differs from width => project_in/out (OPT only)
    oht_norm_place norm;  // OPT: pre (with a final LayerNorm) or post (without, hub opt-350m); BERT: post
    double layernorm_eps, init_std;
    double dropout, attention_dropout;
    char attention[64];   // as written: vanilla | softmax1 | clipped(G:Z) | clippedsoftmax1(G:Z) | entmax15 | ...
    double alpha;         // 0 = unset; gamma = -alpha / T
    oht_gate_kind gate;
    oht_gate_form gate_form;
    double gate_init;     // pi_0
    bool gate_fine_tuning; // c = 1 / pi_0, small linear weights
    // ViT:
    int64_t image_size, patch, classes;
    bool patch_bias, qkv_bias, pre_norm;
    // STanHop-Net: M series, T input and U output steps, segments of s, w merged, learned patterns
    int64_t series, input, horizon, segment, merge, patterns;
    oht_block_norms norms;
    int64_t alpha_max; // learned alpha lies in (1, alpha_max)
    bool mix_heads, baseline;
    int64_t retrievals; // q <- P K before the last association, and where to stop before
    double retrieval_eps;
} oht_model_config;

typedef struct oht_data_config {
    char path[OHT_PATH];
    int64_t tokens;       // T; 0 = the file's block size
    double mlm_probability;
    // Images, training only:
    double crop_area; // smallest share of the image's area that a crop takes
    double flip; // probability
    int64_t augment_ops; // RandAugment operations an image, 0 = off
    double augment_magnitude;
    double mixup, cutmix, cutmix_probability; // alpha of Beta(alpha, alpha), 0 = off
    int64_t mix_batch; // samples of the global batch that share one lambda
    double smoothing; // of the targets
    int64_t threads; // that prepare images
} oht_data_config;

typedef struct oht_train_config {
    int64_t steps;
    int64_t epochs;       // > 0: that many passes over the data instead of `steps` steps; batches end with the epoch
    bool drop_last;       // the short last batch of an epoch
    int64_t global_batch, micro_batch;
    int64_t seed;
    char precision[8];    // auto | fp32 | tf32 | bf16 | fp16
    double lr;
    oht_schedule schedule;
    int64_t warmup_steps, cycles;
    double lr_power, lr_end, final_lr_fraction, warmup_lr;
    int64_t lr_every; // steps of an epoch, for the schedules that count them: cosine_end, type1, type2
    double beta1, beta2, eps, weight_decay;
    oht_no_decay no_decay;
    double clip;          // global L2 norm; 0 = off
    int64_t eval_every;   // steps; 0 = only at the end, with epochs after each
    int64_t patience;     // evaluations without improvement before training stops, 0 = off
    bool keep_best;       // the parameters of the best evaluation are the run's result
    int64_t log_every;
    bool recompute;       // drop each block's saved tensors, run its forward again before its backward
    int64_t reduce_bytes; // piece of a gradient all-reduce; 0 = as the device likes
    bool shard_optimizer; // moments of AdamW in shares of ranks
} oht_train_config;

typedef enum oht_eval_split { OHT_EVAL_AUTO, OHT_EVAL_VALIDATION, OHT_EVAL_TEST } oht_eval_split;

typedef struct oht_eval_config {
    oht_eval_split split;     // of the last evaluation and of ohtrain eval; auto: test where the data has it
    int64_t batch;            // sequences per global evaluation batch (metrics are formed per batch)
    int64_t micro_batch;      // sequences a rank processes at once
    int64_t max_batches;      // of the last evaluation and of ohtrain eval, 0 = all
    int64_t kurtosis_batches; // batches that count for kurtosis
    int64_t inf_norm_batches; // batches that count for the infinity norm, 0 = all
    int64_t mask_seed;        // of the MLM masks
    int64_t train_eval_batches; // as max_batches, for the evaluations before the last step
} oht_eval_config;

typedef struct oht_outliers_config {
    int64_t every;      // steps between measurements while training; 0 = off
    double publish_s;   // seconds between publications of outliers.h5
} oht_outliers_config;

typedef struct oht_quant_config {
    int64_t weights, activations; // bits; 0 = that part stays exact
    oht_quant_setup setup;
    oht_range_kind weight_ranges; // minmax or mse
    bool per_channel;             // of weights
    oht_range_kind activation_ranges;
    oht_quant_method activation_method;
    double percentile;            // 0 = minimum and maximum
    oht_mse_margin mse_margin;
    bool include_masked_scores;
    int64_t batches, batch;       // of calibration; sequences in one
    oht_quant_calibration calibration;
    int64_t seed, seeds;          // first calibration seed, number of them
    char file[OHT_PATH];          // quant.h5 to take ranges from instead of calibrating; none
    int64_t sensitivity_batches;  // as eval.max_batches
    bool integer_check;
    int64_t every;                // steps between quantized losses while training; 0 = off
} oht_quant_config;

typedef struct oht_run_config {
    char device[8];     // auto | cpu | cuda
    double patience_s;  // that a collective of GPUs may take; 0 = for ever
    bool cuda_graphs;   // a step's kernels are recorded (oht_recorder)
    oht_resume resume;
    int64_t checkpoint_every; // steps; 0 = only at the end
    int64_t keep_checkpoints;
    char progress[8];   // auto | bar | lines
    char log[8];        // info | debug
} oht_run_config;

typedef struct oht_compat_config {
    bool micro_batch_mean; // loss = mean of micro-batch means, as the reference accumulates
    bool all_modules; // ViT: evaluations also average over all modules the reference hooks
} oht_compat_config;

typedef struct oht_config {
    oht_model_config model;
    oht_data_config data;
    oht_train_config train;
    oht_eval_config eval;
    oht_outliers_config outliers;
    oht_quant_config quant;
    oht_run_config run;
    oht_compat_config compat;
} oht_config;

// Everything at its default (the demo configuration). Local.
void oht_config_defaults(oht_config *cfg);
// T, tokens of a sample: patches and class token of an image; input rows of time series; else data.tokens, or model.max_tokens when that is 0. Local.
int64_t oht_config_tokens(const oht_config *cfg);
// Applies a YAML file of sections and keys. CONFIG error names file, line, key, found, allowed, nearest key. Local.
OHT_CHECKED oht_status oht_config_load(oht_config *cfg, const char *path);
// The same from memory; `name` is what errors call it. Local.
OHT_CHECKED oht_status oht_config_parse(oht_config *cfg, const char *text, size_t n, const char *name);
// Applies one "section.key=value" (from the command line). Local.
OHT_CHECKED oht_status oht_config_set(oht_config *cfg, const char *assignment);
// Checks what no single key can: heads divide width, attention parses, alpha needs a bare clipped form, ... Local.
OHT_CHECKED oht_status oht_config_check(const oht_config *cfg);
// Writes the resolved configuration as YAML (every key, with its help as comment when `comments`). Local.
OHT_CHECKED oht_status oht_config_write(const oht_config *cfg, FILE *out, bool comments);
// The same text as a string, freed with oht_free. Local.
OHT_CHECKED oht_status oht_config_text(const oht_config *cfg, char **out);
// Help for every key: name, type, default, range, unit, meaning. Local.
void oht_config_help(FILE *out);
// As above as a Markdown table: the reference in jobs/README.md is made from it and a test compares. Local.
void oht_config_reference(FILE *out);
// CONFIG error that lists the keys whose values differ between a stored run and this one and may not. Local.
OHT_CHECKED oht_status oht_config_same_run(const oht_config *stored, const oht_config *now, const char *rundir);

// Attention parsed: base, and for clipped forms y = clip((zeta - gamma) p + gamma, 0, 1).
typedef struct oht_assoc_spec {
    oht_assoc_kind kind;
    bool clipped;
    double gamma, zeta;
} oht_assoc_spec;

// Parses model.attention with model.alpha for rows of `tokens` keys. Local.
OHT_CHECKED oht_status oht_assoc_parse(const oht_model_config *model, int64_t tokens, oht_assoc_spec *out);
