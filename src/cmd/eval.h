// The quantized half of ohtrain eval.
#pragma once

#include <jansson.h>

#include "oht/cmd.h"
#include "oht/quant.h"
#include "oht/session.h"

typedef struct eval_quant {
    bool on;
    oht_eval_result *seed; // one a seed
    int n;
    oht_metric mean[OHT_METRICS]; // over seeds; as oht_eval_metrics lists them
    double deviation[OHT_METRICS];
    int n_metrics;
    oht_quant_level level;
    oht_quant_rank *rank;
    int n_ranks;
    oht_quant *q; // as the first seed left it
} eval_quant;

// --sensitivity site | kind | layer. Local.
OHT_CHECKED oht_status eval_quant_level(const oht_options *opt, const oht_config *cfg, oht_quant_level *out);
// Calibrates, evaluates, ranks, writes RUNDIR's files; nothing where no key asks for it. Collective.
OHT_CHECKED oht_status eval_quant_run(oht_session *s, const oht_options *opt, const oht_eval_result *fp,
                                      eval_quant *out);
void eval_quant_free(eval_quant *e);
// "W8A8". Returns out.
const char *eval_quant_name(const oht_quant_config *cfg, char out[32]);
void eval_quant_print(const eval_quant *e);
void eval_quant_json(const eval_quant *e, const oht_quant_config *cfg, json_t *root);
