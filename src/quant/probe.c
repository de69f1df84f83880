// Quantizability while training (quant.every): how much the loss of one fixed batch suffers from quantization
// now. The ranges are those of the batch itself, so calibrating and evaluating are one forward pass, and
// nothing depends on anything but the weights.
#include "oht/memory.h"
#include "quant/internal.h"

struct oht_probe {
    oht_quant_config cfg; // the session's, with widths that are not 0 and one batch
    oht_quant *q;
    oht_stats *stats;
    oht_loader *loader; // owns the batch
    const oht_batch *batch;
};

static oht_status start(oht_probe *p) {
    const oht_session *s = p->q->s;
    OHT_TRY(quant_open_data(p->q, (uint64_t)p->cfg.seed, 0, &p->loader));
    const oht_step_batch *step;
    OHT_TRY(oht_loader_next(p->loader, &step));
    if (!step) OHT_FAIL(OHT_INTERNAL, "no data for the batch of quant.every");
    p->batch = &step->micro[0];
    return oht_stats_create(&p->stats, p->q->calibration_graph, (int)s->cfg->model.heads);
}

oht_status oht_probe_create(oht_probe **out, oht_session *s) {
    *out = NULL;
    oht_probe *p;
    OHT_TRY(oht_agree(s->comm, OHT_ALLOC(&p, 1, "probe of quant.every")));
    p->cfg = s->cfg->quant;
    p->cfg.batches = 1;
    p->cfg.integer_check = false;
    if (p->cfg.weights == 0) p->cfg.weights = 8;
    if (p->cfg.activations == 0) p->cfg.activations = 8;
    oht_status status = oht_quant_create(&p->q, s, &p->cfg, OHT_QUANT_FOR_CALIBRATION);
    if (status == OHT_OK) status = oht_agree(s->comm, start(p));
    if (status != OHT_OK) {
        oht_probe_destroy(p);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = p;
    return OHT_OK;
}

void oht_probe_destroy(oht_probe *p) {
    if (!p) return;
    oht_quant_destroy(p->q);
    oht_stats_destroy(p->stats);
    oht_loader_destroy(p->loader);
    oht_free(p);
}

oht_status oht_probe_measure(oht_probe *p, double *exact, double *quantized, oht_outlier_metrics *metrics) {
    oht_run *run = p->q->calibration;
    oht_stats_reset(p->stats);
    run->observer = oht_stats_observer(p->stats);
    run->quant = NULL;
    run->param = p->q->s->state.param;
    oht_session_feed(run, p->batch);
    oht_run_forward(run);
    *exact = run->loss_sum / (double)p->batch->n_labels;
    oht_stats_metrics(p->stats, metrics);
    run->observer = NULL;
    run->quant = &p->q->hook;
    run->param = p->q->flat;
    OHT_TRY(oht_quant_begin(p->q));
    OHT_TRY(oht_quant_feed(p->q, p->batch, false, quantized));
    return oht_quant_end(p->q);
}
