// The quantized twin of a session: graphs with sites for calibration (quant.batch rows, scores and logits
// whole) and for evaluation (the session's capacity), the flat buffer of quantized weights, and the list of
// sites with their bit widths.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oht/memory.h"
#include "quant/internal.h"

static const char *const KIND[OHT_SITE_KINDS] = {"embedding", "linear", "activation", "norm",    "final_norm",
                                                 "residual",  "scores", "probs",      "context", "logits"};
static const char *const WEIGHT_KIND[] = {[OHT_SITE_EMBEDDING] = "embedding.weight",
                                          [OHT_SITE_LINEAR] = "linear.weight",
                                          [OHT_SITE_NORM] = "norm.weight",
                                          [OHT_SITE_FINAL_NORM] = "final_norm.weight"};

double oht_quant_sqnr(const oht_quant_site *site) {
    return 10.0 * log10(site->error.signal / site->error.noise);
}

// The setups give LayerNorms more bits (spec 5.4).
static int bits_of(const oht_quant_config *cfg, oht_site_kind kind, int64_t bits) {
    bool norm = kind == OHT_SITE_NORM || kind == OHT_SITE_FINAL_NORM;
    if (bits == 0) return 0;
    if (cfg->setup == OHT_QUANT_INT16_ALL_LN && norm) return 16;
    if (cfg->setup == OHT_QUANT_INT16_FINAL_LN && kind == OHT_SITE_FINAL_NORM) return 16;
    return (int)bits;
}

static oht_status list_sites(oht_quant *q, const oht_graph *g) {
    const oht_site_info *a;
    const oht_weight_site *w;
    q->n_activations = oht_graph_site_list(g, &a);
    q->n_sites = q->n_activations + oht_graph_weight_list(g, &w);
    OHT_TRY(OHT_ALLOC(&q->site, (size_t)q->n_sites, "quantization sites"));
    OHT_TRY(OHT_ALLOC(&q->place, (size_t)q->n_sites, "quantization sites"));
    for (int i = 0; i < q->n_activations; i++) {
        oht_quant_site *s = &q->site[i];
        snprintf(s->name, sizeof(s->name), "%s", a[i].name);
        s->kind = KIND[a[i].kind];
        s->layer = a[i].layer;
        s->channels = 1;
        s->bits = bits_of(q->cfg, a[i].kind, q->cfg->activations);
        q->place[i].param = -1;
    }
    for (int i = q->n_activations; i < q->n_sites; i++) {
        const oht_weight_site *from = &w[i - q->n_activations];
        const oht_param *p = &q->s->params->item[from->param];
        oht_quant_site *s = &q->site[i];
        memcpy(s->name, from->name, sizeof(s->name));
        s->kind = WEIGHT_KIND[from->kind];
        s->layer = from->layer;
        s->weight = true;
        s->bits = bits_of(q->cfg, from->kind, q->cfg->weights);
        s->channels = q->cfg->per_channel && p->rank > 1 ? from->n * p->dim[0] : 1; // a gain has one value a channel
        if (s->channels > 1) OHT_TRY(OHT_ALLOC(&s->channel, (size_t)s->channels, "quantizers of channels"));
        q->place[i].param = from->param;
        q->place[i].n_params = from->n;
    }
    return OHT_OK;
}

static oht_status record(const oht_quant *q, oht_graph **out, int64_t rows, unsigned flags) {
    const oht_session *s = q->s;
    oht_value loss;
    OHT_TRY(oht_graph_create(out, s->be, s->params, OHT_EVAL, rows, s->tokens));
    oht_graph_sites(*out, flags | OHT_SITES | (q->cfg->setup == OHT_QUANT_ALL ? OHT_SITES_HEAD : 0u));
    OHT_TRY(oht_model_record(s->model, *out, s->data.padded, false, &loss));
    return oht_plan(*out, OHT_NONE);
}

static oht_status make_run(oht_quant *q, oht_run **out, oht_graph *g) {
    OHT_TRY(oht_run_create(out, g, q->arena ? q->arena : q->s->arena, q->flat, NULL));
    (*out)->param_exact = q->s->state.param;
    (*out)->quant = &q->hook;
    return OHT_OK;
}

static oht_status build(oht_quant *q, int parts) {
    oht_session *s = q->s;
    size_t bytes = 0;
    if (parts & OHT_QUANT_FOR_CALIBRATION) {
        OHT_TRY(record(q, &q->calibration_graph, q->cfg->batch, OHT_SITES_INNER));
        bytes = oht_plan_bytes(q->calibration_graph);
    }
    if (parts & OHT_QUANT_FOR_EVALUATION) {
        OHT_TRY(record(q, &q->evaluation_graph, oht_graph_rows(s->eval_graph), 0));
        if (oht_plan_bytes(q->evaluation_graph) > bytes) bytes = oht_plan_bytes(q->evaluation_graph);
    }
    OHT_TRY(list_sites(q, q->calibration_graph ? q->calibration_graph : q->evaluation_graph));
    size_t flat = s->params->flat_count * sizeof(float);
    OHT_TRY(s->be->alloc(s->be, (void **)&q->flat, flat, "quantized parameters"));
    s->be->copy(s->be, q->flat, s->state.param, flat);
    if (bytes > s->arena_bytes)
        OHT_TRY(s->be->alloc(s->be, &q->arena, bytes, "activations of the quantized model"));
    quant_hook_install(q);
    if (q->calibration_graph) OHT_TRY(make_run(q, &q->calibration, q->calibration_graph));
    if (!q->evaluation_graph) return s->be->sync(s->be);
    OHT_TRY(make_run(q, &q->evaluation, q->evaluation_graph));
    OHT_TRY(oht_stats_create(&q->stats, q->evaluation_graph, (int)s->cfg->model.heads));
    return s->be->sync(s->be);
}

oht_status oht_quant_create(oht_quant **out, oht_session *s, const oht_quant_config *cfg, int parts) {
    *out = NULL;
    oht_quant *q;
    OHT_TRY(oht_agree(s->comm, OHT_ALLOC(&q, 1, "quantized model")));
    q->s = s;
    q->cfg = cfg;
    oht_status status = oht_agree(s->comm, build(q, parts));
    if (status != OHT_OK) {
        oht_quant_destroy(q);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = q;
    return OHT_OK;
}

void oht_quant_destroy(oht_quant *q) {
    if (!q) return;
    for (int i = 0; q->site && q->place && i < q->n_sites; i++) {
        oht_estimator_destroy(q->place[i].estimator);
        oht_free(q->site[i].channel);
    }
    oht_stats_destroy(q->stats);
    oht_run_destroy(q->calibration);
    oht_run_destroy(q->evaluation);
    oht_graph_destroy(q->calibration_graph);
    oht_graph_destroy(q->evaluation_graph);
    q->s->be->free(q->s->be, q->arena);
    q->s->be->free(q->s->be, q->flat);
    oht_free(q->site);
    oht_free(q->place);
    oht_free(q->host);
    oht_free(q);
}

int oht_quant_sites(const oht_quant *q, const oht_quant_site **out) {
    *out = q->site;
    return q->n_sites;
}
