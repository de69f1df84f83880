// Quantized weights (spec transformers 5.3): symmetric, one range a tensor, or one a row with
// quant.per_channel, from the exact parameters; ranged once.
#include <math.h>

#include "oht/memory.h"
#include "quant/internal.h"

oht_estimator_config quant_estimator(const oht_quant *q, const oht_quant_site *site) {
    const oht_quant_config *cfg = q->cfg;
    return (oht_estimator_config){
        .kind = site->weight ? cfg->weight_ranges : cfg->activation_ranges,
        .symmetric = site->weight || cfg->activation_method == OHT_QUANT_SYMMETRIC,
        .bits = site->bits,
        .percentile = site->weight ? 0.0 : cfg->percentile,
        .margin = cfg->mse_margin,
        .candidates = 100,
        .stops = q->stops,
    };
}

int quant_weight_site(const oht_quant *q, int param) {
    for (int i = q->n_activations; i < q->n_sites; i++)
        if (q->place[i].param == param && q->site[i].bits > 0) return i;
    return -1;
}

static oht_quant_data tensor(const oht_quant *q, float *flat, int site) {
    const oht_param *p = &q->s->params->item[q->place[site].param];
    int64_t rows = q->site[site].channels, n = q->place[site].n_params * p->count / rows;
    return (oht_quant_data){q->s->be, flat + p->offset, rows, n, n};
}

// One estimator a channel; the sign is one decision for the whole tensor.
static oht_status range(oht_quant *q, int site) {
    oht_quant_site *s = &q->site[site];
    oht_quant_data all = tensor(q, q->s->state.param, site);
    oht_estimator_config cfg = quant_estimator(q, s);
    float limit[2];
    all.be->minmax(all.be, all.x, all.rows, all.n, all.ld, limit);
    for (int64_t r = 0; r < s->channels; r++) {
        oht_quant_data one = {all.be, all.x + r * all.ld, 1, all.n, all.ld};
        oht_estimator *e;
        double found[2] = {0, 0};
        OHT_TRY(oht_estimator_create(&e, &cfg));
        oht_status status = oht_estimator_update(e, &one, s->name);
        oht_estimator_range(e, found);
        oht_estimator_destroy(e);
        OHT_TRY(status);
        oht_quantizer made = oht_quantizer_make(true, limit[0] < 0.0f, s->bits, found[0], found[1]);
        if (s->channel) s->channel[r] = made;
        if (r == 0) s->q = made;
    }
    q->place[site].ready = true;
    return OHT_OK;
}

oht_status quant_apply_weight(oht_quant *q, int site) {
    oht_quant_site *s = &q->site[site];
    oht_quant_data to = tensor(q, q->flat, site), from = tensor(q, q->s->state.param, site);
    to.be->copy(to.be, to.x, from.x, (size_t)(to.rows * to.n) * sizeof(float));
    if (s->bits == 0 || q->place[site].off) return OHT_OK;
    oht_fakequant one = oht_quantizer_fake(&s->q), *fake = &one;
    if (s->channel) {
        OHT_TRY(OHT_ALLOC(&fake, (size_t)s->channels, "quantizers of channels"));
        for (int64_t r = 0; r < s->channels; r++) fake[r] = oht_quantizer_fake(&s->channel[r]);
    }
    to.be->quant_error(to.be, from.x, from.rows, from.n, from.ld, fake, s->channel != NULL, &s->error);
    to.be->fake_quantize(to.be, to.x, to.rows, to.n, to.ld, fake, s->channel != NULL);
    s->count = to.rows * to.n;
    if (fake != &one) oht_free(fake);
    return to.be->sync(to.be);
}

oht_status quant_weights(oht_quant *q) {
    oht_session *s = q->s;
    s->be->copy(s->be, q->flat, s->state.param, s->params->flat_count * sizeof(float));
    for (int i = q->n_activations; i < q->n_sites; i++) {
        if (q->site[i].bits == 0) continue;
        OHT_TRY(range(q, i));
        OHT_TRY(quant_apply_weight(q, i));
    }
    return OHT_OK;
}
