// What the files of src/quant share: the twin and its places.
#pragma once

#include "oht/graph.h"
#include "oht/op.h"
#include "oht/quant.h"
#include "oht/session.h"

typedef enum quant_mode {
    QUANT_CALIBRATE, // estimate, then quantize
    QUANT_DIAGNOSE, // measure the error, then quantize
    QUANT_APPLY
} quant_mode;

typedef struct quant_place { // beside oht_quant_site, same index
    oht_estimator *estimator; // activations
    oht_fakequant fake;
    bool ready, off; // has a range; left exact by the sensitivity analysis
    int param, n_params; // weights: n_params in a row are one tensor
} quant_place;

struct oht_quant {
    oht_quant_hook hook; // first: the hook's functions cast
    oht_session *s;
    const oht_quant_config *cfg;
    oht_graph *calibration_graph, *evaluation_graph;
    oht_run *calibration, *evaluation;
    oht_stats *stats;
    void *arena; // own, NULL = the session's is large enough
    float *flat; // quantized parameters
    quant_mode mode;
    bool stops; // a stop request ends the calibration; the probe's, in the middle of a step, it does not
    oht_status status; // first failure inside a forward pass
    oht_error failure;
    oht_quant_site *site;
    quant_place *place;
    int n_activations, n_sites;
    float *host; // scratch of the host
    size_t host_count;
};

// calibrate.c: rank 0's ranges of activations to all ranks. Collective.
OHT_CHECKED oht_status quant_share(oht_quant *q);
// The calibration data from batch `first` on. Local.
OHT_CHECKED oht_status quant_open_data(oht_quant *q, uint64_t seed, int64_t first, oht_loader **out);
// hook.c
void quant_hook_install(oht_quant *q);
OHT_CHECKED oht_status quant_host(oht_quant *q, size_t count); // q->host of at least that size
// weights.c: ranges of all weights from the session's parameters, then all into q->flat.
OHT_CHECKED oht_status quant_weights(oht_quant *q);
OHT_CHECKED oht_status quant_apply_weight(oht_quant *q, int site); // exact or quantized, as place.off says
oht_estimator_config quant_estimator(const oht_quant *q, const oht_quant_site *site);
// integer.c: the output view of a linear layer against integer arithmetic.
OHT_CHECKED oht_status quant_integer_check(oht_quant *q, const oht_site_info *info,
                                           const oht_site_view *view);
int quant_weight_site(const oht_quant *q, int param); // site of a parameter, -1 = exact
