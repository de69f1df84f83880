// The one table of configuration keys. Parser, --help, validation, the echo into a run and the reference page
// in jobs/README.md are all made from it, so a new field of struct oht_config needs one line here and nothing
// else. Defaults are the demo configuration: a small OPT that learns visibly on two cores in one to two
// minutes.
#include "config/table.h"

#include <string.h>

static const char *const TYPES[] = {"opt", "bert", "vit", "stanhop", NULL};
static const char *const BLOCK_NORMS[] = {"oeh", "stanhop", NULL};
static const char *const NORMS[] = {"pre", "post", NULL};
static const char *const GATES[] = {"none", "unconditional_per_head", "conditional_per_head",
                                    "conditional_per_token", NULL};
static const char *const GATE_FORMS[] = {"linear", "mlp", "mlp2", "all_features", NULL};
static const char *const SCHEDULES[] = {"linear",     "cosine",   "cosine_with_restarts",
                                        "polynomial", "constant", "constant_with_warmup",
                                        "cosine_end", "type1",    "type2",
                                        NULL};
static const char *const EVAL_SPLITS[] = {"auto", "validation", "test", NULL};
static const char *const NO_DECAYS[] = {"bias_norm", "bias", "vectors", NULL};
static const char *const QUANT_SETUPS[] = {"fp32_head", "all", "fp32_head+int16_final_LN",
                                           "fp32_head+int16_all_LN", NULL};
static const char *const WEIGHT_RANGES[] = {"minmax", "mse", NULL};
static const char *const ACTIVATION_RANGES[] = {"minmax", "mse", "running_minmax", "mse_grid", NULL};
static const char *const QUANT_METHODS[] = {"asymmetric", "symmetric", NULL};
static const char *const MSE_MARGINS[] = {"absolute", "relative", NULL};
static const char *const CALIBRATIONS[] = {"auto", "train", "validation", NULL};
static const char *const RESUMES[] = {"auto", "never", "must", NULL};
static const char *const PRECISIONS[] = {"auto", "fp32", "tf32", "bf16", "fp16", NULL};
static const char *const DEVICES[] = {"auto", "cpu", "cuda", NULL};
static const char *const PROGRESSES[] = {"auto", "bar", "lines", NULL};
static const char *const LOGS[] = {"info", "debug", NULL};

#define MEMBER_SIZE(type, field) sizeof(((type *)0)->field)
#define PLACE(section, field)                                                                                \
    .name = #section "." #field, .offset = offsetof(oht_config, section.field),                              \
    .size = MEMBER_SIZE(oht_config, section.field)
#define INT(section, field, def, lo, hi)                                                                     \
    PLACE(section, field), .type = OHT_KEY_INT, .value = def, .low = lo, .high = hi
#define FLOAT(section, field, def, lo, hi)                                                                   \
    PLACE(section, field), .type = OHT_KEY_FLOAT, .value = def, .flow = lo, .fhigh = hi
#define BOOL(section, field, def) PLACE(section, field), .type = OHT_KEY_BOOL, .value = def
#define ENUM(section, field, def, list)                                                                      \
    PLACE(section, field), .type = OHT_KEY_ENUM, .value = def, .choices = list
#define CHOICE(section, field, def, list)                                                                    \
    PLACE(section, field), .type = OHT_KEY_CHOICE, .value = def, .choices = list
#define TEXT(section, field, def) PLACE(section, field), .type = OHT_KEY_TEXT, .value = def

// Limits that are not physics keep every product of sizes far below 2^63 and every index of a token below
// 2^31.
static const oht_key KEYS[] = {
    {ENUM(model, type, "opt", TYPES),
     .help = "architecture: OPT (causal decoder), BERT (masked language model), ViT (image classifier) or "
             "STanHop-Net (forecasts of time series)"},
    {INT(model, layers, "4", 1, 1000), .help = "number of blocks L"},
    {INT(model, width, "256", 1, 65536), .help = "width C of the residual stream"},
    {INT(model, heads, "4", 1, 1024), .help = "attention heads H; must divide model.width"},
    {INT(model, ffn, "1024", 1, 262144), .help = "width F of the feed-forward layer"},
    {INT(model, vocab_size, "50272", 2, 2000000), .unit = "tokens",
     .help = "rows of the token embedding V; at least the data's vocabulary"},
    {INT(model, max_tokens, "128", 1, 65536), .unit = "tokens",
     .help = "rows of the position table (OPT adds 2)"},
    {INT(model, embed_width, "256", 1, 65536),
     .help = "width of the token embedding; follows model.width unless set to something else, which adds "
             "project_in and project_out (OPT only)"},
    {ENUM(model, norm, "pre", NORMS),
     .help = "LayerNorm before each sub-layer and once at the end (pre), or after it (post); BERT is post"},
    {FLOAT(model, layernorm_eps, "1e-05", 0, 1), .open_low = true,
     .help = "epsilon of LayerNorm; OPT 1e-5, BERT 1e-12"},
    {FLOAT(model, init_std, "0.006", 0, 10),
     .help = "standard deviation of normal initialisation; OPT 0.006, BERT 0.02"},
    {FLOAT(model, dropout, "0.1", 0, 1), .open_high = true,
     .help = "dropout probability on embeddings (BERT) and sub-layer outputs"},
    {FLOAT(model, attention_dropout, "0", 0, 1), .open_high = true,
     .help = "dropout probability on attention probabilities"},
    {TEXT(model, attention, "softmax1"),
     .help = "row function of attention: vanilla, softmax1, clipped(G:Z), clippedsoftmax1(G:Z), entmax15 or "
             "sparsemax; stanhop: also entmax, which learns its alpha; with model.alpha also bare clipped or "
             "clippedsoftmax1"},
    {FLOAT(model, alpha, "0", 0, 1e6),
     .help = "gamma = -alpha / T and zeta = 1 for a bare clipped or clippedsoftmax1, stanhop: -alpha / S for the S stored "
             "patterns of each association; 0 = unset"},
    {ENUM(model, gate, "none", GATES), .help = "gate on each head's output"},
    {ENUM(model, gate_form, "linear", GATE_FORMS),
     .help = "network of a conditional gate; mlp has D/4 hidden units, mlp2 has D; all_features is "
             "per token, also with conditional_per_head (as published)"},
    {FLOAT(model, gate_init, "0.5", 0, 1), .open_low = true, .open_high = true,
     .help = "initial gate value pi_0 of the linear form"},
    {BOOL(model, gate_fine_tuning, "false"),
     .help = "scale gates by 1/pi_0 and start with small linear weights, for a model trained without gates"},
    {INT(model, image_size, "224", 1, 4096), .unit = "pixels",
     .help = "side S of the square images (ViT only); a multiple of model.patch"},
    {INT(model, patch, "16", 1, 256), .unit = "pixels", .help = "side of a patch (ViT only)"},
    {INT(model, classes, "1000", 2, 1000000),
     .help = "outputs of the classifier (ViT only); at least the data's classes"},
    {BOOL(model, patch_bias, "false"), .help = "bias of the patch embedding (ViT only)"},
    {BOOL(model, qkv_bias, "false"), .help = "biases of q, k and v (ViT only)"},
    {BOOL(model, pre_norm, "true"),
     .help = "LayerNorm between the position embedding and the first block (ViT only)"},

    {INT(model, series, "7", 1, 65536),
     .help = "columns of the series: each is input and target (stanhop only)"},
    {INT(model, input, "168", 1, 65536), .unit = "rows", .help = "rows a forecast sees (stanhop only)"},
    {INT(model, horizon, "24", 1, 65536), .unit = "rows", .help = "rows it predicts (stanhop only)"},
    {INT(model, segment, "6", 1, 65536), .unit = "rows",
     .help = "rows that are embedded together; a last short one is filled up (stanhop only)"},
    {INT(model, merge, "1", 1, 1024), .unit = "segments",
     .help = "neighbours that become one between encoder blocks; 1 = none (stanhop only)"},
    {INT(model, patterns, "10", 1, 65536),
     .help = "stored patterns that each block learns for its series axis (stanhop only)"},
    {ENUM(model, norms, "oeh", BLOCK_NORMS),
     .help = "LayerNorms of a block: the third alone, as in the outlier paper's code (oeh), or all four "
             "(stanhop only)"},
    {INT(model, alpha_max, "3", 2, 10), .help = "attention entmax learns its alpha in (1, alpha_max): 3 in "
                                                "the outlier paper's code, 2 in STanHop-Net's "
                                                "(stanhop only)"},
    {BOOL(model, mix_heads, "true"),
     .help = "read the heads' results, laid out by head, as if laid out by row, as published (stanhop only)"},
    {BOOL(model, baseline, "false"), .help = "predict the difference from the input's mean (stanhop only)"},
    {INT(model, retrievals, "0", 0, 64),
     .help = "retrievals q = P K of each Hopfield layer before the one that is used; the published network has none (stanhop "
             "only)"},
    {FLOAT(model, retrieval_eps, "0", 0, 1),
     .help = "fewer where a head's probabilities changed by no more than this; 0 = all of them (stanhop only)"},

    {TEXT(data, path, "datasets/sample/opt.h5"), .may_change = true,
     .help = "HDF5 file made by ohtrain prepare"},
    {INT(data, tokens, "0", 0, 65536), .unit = "tokens",
     .help = "length T of a training row; 0 = that of the file"},
    {FLOAT(data, mlm_probability, "0.15", 0, 1), .open_low = true, .open_high = true,
     .help = "share of tokens masked for BERT"},
    {FLOAT(data, crop_area, "0.08", 0, 1), .open_low = true,
     .help = "smallest share of an image's area in a training crop (images)"},
    {FLOAT(data, flip, "0.5", 0, 1), .help = "probability of a horizontal flip in training (images)"},
    {INT(data, augment_ops, "2", 0, 100),
     .help = "RandAugment operations a training image; 0 = off (images)"},
    {FLOAT(data, augment_magnitude, "9", 0, 10), .help = "mean magnitude of RandAugment (images)"},
    {FLOAT(data, mixup, "0.2", 0, 100),
     .help = "alpha of mixup, lambda ~ Beta(alpha, alpha); 0 = off (images)"},
    {FLOAT(data, cutmix, "0.2", 0, 100), .help = "alpha of cutmix; 0 = off (images)"},
    {FLOAT(data, cutmix_probability, "0.5", 0, 1),
     .help = "cutmix instead of mixup where both are on (images)"},
    {INT(data, mix_batch, "512", 1, 1 << 20), .unit = "images",
     .help = "training images that share one lambda of mixup or cutmix (images)"},
    {FLOAT(data, smoothing, "0.1", 0, 1), .open_high = true,
     .help = "label smoothing of the training targets (images)"},
    {INT(data, threads, "1", 1, 1024), .may_change = true,
     .help = "threads of a rank that prepare images ahead of the trainer: speed, not results"},

    {INT(train, steps, "100", 1, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "optimizer steps of the whole run; a resumed run may ask for more, and its schedule then "
             "follows the new number"},
    {INT(train, epochs, "0", 0, INT64_C(1000000)), .unit = "epochs", .may_change = true,
     .help = "passes over the training data instead of train.steps; the last batch of each has what is left of it; "
             "0 = train.steps counts and batches run on into the next epoch"},
    {BOOL(train, drop_last, "false"), .help = "with train.epochs: leave out the short last batch of each epoch"},
    {INT(train, global_batch, "16", 1, 1 << 20), .unit = "sequences",
     .help = "sequences per optimizer step over all ranks"},
    {INT(train, micro_batch, "8", 1, 1 << 20), .unit = "sequences", .may_change = true,
     .help = "sequences a rank processes at once: memory and speed, not results"},
    {INT(train, seed, "1000", 0, INT64_MAX), .help = "of initialisation, data order, masks and dropout"},
    {CHOICE(train, precision, "auto", PRECISIONS), .may_change = true,
     .help = "storage of activations and of the parameters kernels read; sums, losses, optimizer and parameters that are "
             "updated are fp32 all the same; auto: bf16 on a GPU, fp32 on the CPU, which knows nothing else; tf32: fp32 "
             "whose products round their inputs; fp16: with a loss scale that adapts"},
    {FLOAT(train, lr, "0.001", 0, 100), .help = "peak learning rate"},
    {ENUM(train, schedule, "linear", SCHEDULES),
     .help = "learning rate after the warm-up; type1 and type2 halve it every 2, every 5 epochs, five times"},
    {INT(train, warmup_steps, "10", 0, INT64_C(1000000000)), .unit = "steps",
     .help = "linear warm-up from 0, with cosine_end from train.warmup_lr"},
    {INT(train, cycles, "1", 1, 1000000), .help = "restarts of cosine_with_restarts"},
    {FLOAT(train, lr_power, "1", 0, 100), .open_low = true, .help = "exponent of the polynomial schedule"},
    {FLOAT(train, lr_end, "1e-07", 0, 100),
     .help = "last learning rate of the schedules polynomial and cosine_end"},
    {FLOAT(train, final_lr_fraction, "0", 0, 1), .open_high = true,
     .help = "learning rate at the end as a share of train.lr (linear schedule)"},
    {FLOAT(train, warmup_lr, "0", 0, 100), .help = "first learning rate of the warm-up of cosine_end"},
    {INT(train, lr_every, "1", 1, INT64_C(1000000000)), .unit = "steps",
     .help = "steps of an epoch for the schedules cosine_end (or 1), type1 and type2; train.epochs knows them itself"},
    {FLOAT(train, beta1, "0.9", 0, 1), .open_high = true, .help = "AdamW decay of the first moment"},
    {FLOAT(train, beta2, "0.95", 0, 1), .open_high = true, .help = "AdamW decay of the second moment"},
    {FLOAT(train, eps, "1e-08", 0, 1), .open_low = true, .help = "AdamW epsilon"},
    {FLOAT(train, weight_decay, "0.1", 0, 100), .help = "AdamW decoupled weight decay"},
    {ENUM(train, no_decay, "bias_norm", NO_DECAYS),
     .help = "parameters without weight decay: biases and LayerNorm gains (bias_norm), biases only (bias), "
             "or every vector and the position table (vectors)"},
    {FLOAT(train, clip, "1", 0, 1e12), .help = "largest global L2 norm of the gradient; 0 = off"},
    {INT(train, eval_every, "50", 0, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "steps between evaluations; 0 = only at the end, with train.epochs after each epoch"},
    {INT(train, patience, "0", 0, 1000000), .unit = "evaluations", .may_change = true,
     .help = "evaluations in a row that do not reach the least validation loss before training stops; 0 = off"},
    {BOOL(train, keep_best, "false"),
     .help = "the result of the run, and what ohtrain eval evaluates, are the parameters with the least validation "
             "loss, not the last ones"},
    {INT(train, log_every, "10", 1, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "steps between lines of metrics.jsonl and of the log"},
    {BOOL(train, recompute, "false"), .may_change = true,
     .help = "keep no activations inside blocks and compute them again in backward: less memory, a third "
             "more work"},
    {INT(train, reduce_bytes, "0", 0, INT64_C(1) << 31), .unit = "bytes", .may_change = true,
     .help = "size of the pieces in which gradients are summed over ranks; 0: 2 MiB on CPUs, 32 MiB on GPUs"},
    {BOOL(train, shard_optimizer, "false"), .may_change = true,
     .help = "each rank keeps and updates only its share of AdamW's moments: 8 bytes a parameter less 8 / ranks; "
             "checkpoints are the same, and a run may continue without it or on other ranks"},

    {ENUM(eval, split, "auto", EVAL_SPLITS), .may_change = true,
     .help = "data of the evaluation after the last step and of ohtrain eval; auto: test where the data has it"},
    {INT(eval, batch, "16", 1, 1 << 20), .unit = "sequences", .may_change = true,
     .help = "sequences per evaluation batch over all ranks; metrics are formed per batch"},
    {INT(eval, micro_batch, "8", 1, 1 << 20), .unit = "sequences", .may_change = true,
     .help = "sequences a rank evaluates at once"},
    {INT(eval, max_batches, "0", 0, INT64_C(1000000000)), .unit = "batches", .may_change = true,
     .help = "batches of the evaluation after the last step and of ohtrain eval; 0 = all"},
    {INT(eval, kurtosis_batches, "101", 1, INT64_C(1000000000)), .unit = "batches", .may_change = true,
     .help = "batches that count for kurtosis: 101 (OPT) and 257 (BERT) in the paper's scripts"},
    {INT(eval, inf_norm_batches, "0", 0, INT64_C(1000000000)), .unit = "batches", .may_change = true,
     .help = "batches that count for infinity norms; 0 = all"},
    {INT(eval, mask_seed, "1000", 0, INT64_MAX), .may_change = true,
     .help = "of the masks in BERT's evaluation"},
    {INT(eval, train_eval_batches, "4", 0, INT64_C(1000000000)), .unit = "batches", .may_change = true,
     .help = "batches of the evaluations before the last step; 0 = all"},

    {INT(outliers, every, "10", 0, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "steps between measurements of all taps; 0 = off"},
    {FLOAT(outliers, publish_s, "15", 0, 86400), .unit = "s", .may_change = true,
     .help = "seconds between publications of outliers.h5"},

    {INT(quant, weights, "0", 0, 16), .unit = "bits", .may_change = true, .note = "0 = exact, else 2..16",
     .help = "width of quantized weights in ohtrain eval; 0 = exact"},
    {INT(quant, activations, "0", 0, 16), .unit = "bits", .may_change = true, .note = "0 = exact, else 2..16",
     .help = "width of quantized activations in ohtrain eval; 0 = exact"},
    {ENUM(quant, setup, "fp32_head", QUANT_SETUPS), .may_change = true,
     .help =
         "what is quantized: all but the head, all, or all but the head with 16 bits for gains and outputs of "
         "the final or of every LayerNorm; BERT: fp32_head"},
    {ENUM(quant, weight_ranges, "minmax", WEIGHT_RANGES), .may_change = true,
     .help = "range of a weight: its extremes, or least squared error on a grid"},
    {BOOL(quant, per_channel, "false"), .may_change = true,
     .help = "one range for each row of a weight matrix"},
    {ENUM(quant, activation_ranges, "running_minmax", ACTIVATION_RANGES), .may_change = true,
     .help = "range of an activation: extremes of the last batch, least squared error (asymmetric: golden "
             "section "
             "on the last batch; symmetric: grid over all), running mean of the extremes, grid also where "
             "asymmetric (slow: hours at 16 bits)"},
    {ENUM(quant, activation_method, "asymmetric", QUANT_METHODS), .may_change = true,
     .help = "zero point free, or 0"},
    {FLOAT(quant, percentile, "0", 0, 100), .unit = "percent", .may_change = true,
     .help =
         "running_minmax takes the percentiles 100 - p and p of a batch for its extremes; 0 = the extremes"},
    {ENUM(quant, mse_margin, "absolute", MSE_MARGINS), .may_change = true,
     .help = "squared-error searches reach 0.5 beyond the largest value, as the reference does, which is "
             "coarse for "
             "small weights, or just to it"},
    {BOOL(quant, include_masked_scores, "true"), .may_change = true,
     .help = "the range of scores includes hidden keys, as in the reference"},
    {INT(quant, batches, "4", 1, 1000000), .unit = "batches", .may_change = true,
     .help = "calibration batches: 4 (OPT), 16 (BERT) in the paper's scripts; ViT has no published number"},
    {INT(quant, batch, "8", 1, 1 << 20), .unit = "samples", .may_change = true,
     .help = "samples of a calibration batch: 8 (OPT), 32 (BERT) in the paper's scripts"},
    {ENUM(quant, calibration, "auto", CALIBRATIONS), .may_change = true,
     .help = "data of the calibration; auto: BERT the first validation rows, others shuffled training data, "
             "images of it cropped as in evaluation"},
    {INT(quant, seed, "1000", 0, INT64_MAX), .may_change = true,
     .help = "of the calibration's data order and masks"},
    {INT(quant, seeds, "1", 1, 1000), .may_change = true,
     .help =
         "number of calibrations, with seeds quant.seed, quant.seed + 1, ...; the result is their mean and "
         "standard deviation"},
    {TEXT(quant, file, "none"), .may_change = true,
     .help = "quant.h5 of a run, whose ranges are used instead of a calibration"},
    {INT(quant, sensitivity_batches, "4", 0, INT64_C(1000000000)), .unit = "batches", .may_change = true,
     .help = "evaluation batches for each group of ohtrain eval --sensitivity; 0 = all"},
    {BOOL(quant, integer_check, "false"), .may_change = true,
     .help = "compare linear layers with int8 arithmetic on the last calibration batch"},
    {INT(quant, every, "0", 0, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "steps between losses under 8-bit quantization (or quant.weights, quant.activations) of one "
             "fixed batch "
             "while training; 0 = off"},

    {CHOICE(run, device, "auto", DEVICES), .note = "auto: a GPU where there is one, else the CPU",
     .may_change = true, .help = "where tensors live"},
    {FLOAT(run, patience_s, "600", 0, 1e9), .unit = "seconds", .may_change = true,
     .help = "GPUs that exchange gradients longer than this end the job with an error: a peer is gone; 0 = wait for ever"},
    {BOOL(run, cuda_graphs, "true"), .may_change = true,
     .help = "on a GPU a training step's kernels are recorded and then queued in a few calls; false: one by one"},
    {ENUM(run, resume, "auto", RESUMES), .may_change = true,
     .help = "a run folder that holds a run: continue it (auto), refuse it (never), or refuse a folder "
             "without one (must)"},
    {INT(run, checkpoint_every, "50", 0, INT64_C(1000000000)), .unit = "steps", .may_change = true,
     .help = "steps between checkpoints; 0 = only at the end"},
    {INT(run, keep_checkpoints, "2", 1, 1000000), .may_change = true, .help = "newest checkpoints to keep"},
    {CHOICE(run, progress, "auto", PROGRESSES), .may_change = true,
     .help = "progress bar on a terminal and lines elsewhere (auto), or always one of them"},
    {CHOICE(run, log, "info", LOGS), .may_change = true,
     .help = "debug: also a hash of each step's samples, the same for any number of ranks and loader threads"},

    {BOOL(compat, micro_batch_mean, "false"),
     .help = "loss = mean of micro-batch means, as gradient accumulation in the reference; results then "
             "depend on train.micro_batch and the number of ranks"},
    {BOOL(compat, all_modules, "false"), .may_change = true,
     .help = "evaluations of a ViT also average over every module that the published script hooks, containers and "
             "identities included"},
};

const oht_key *oht_keys(int *n) {
    *n = (int)(sizeof(KEYS) / sizeof(KEYS[0]));
    return KEYS;
}

const oht_key *oht_key_find(const char *name) {
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++)
        if (strcmp(key[i].name, name) == 0) return &key[i];
    return NULL;
}
