// Calibration and evaluation (spec transformers 5.5). Every rank runs all calibration batches of quant.batch
// samples: BERT from the first validation rows with their masks drawn from the seed (quirk Q14), others from
// the shuffled training data, images without augmentation, unless quant.calibration says otherwise. The
// evaluation is the session's, with the quantized graph in place of the exact one.
#include <math.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "quant/internal.h"

// ---- step by step
// ------------------------------------------------------------------------------------------------------

static oht_status reset(oht_quant *q) {
    for (int i = 0; i < q->n_activations; i++) {
        quant_place *p = &q->place[i];
        oht_estimator_destroy(p->estimator);
        p->estimator = NULL;
        p->ready = false;
        if (q->site[i].bits == 0) continue;
        oht_estimator_config cfg = quant_estimator(q, &q->site[i]);
        OHT_TRY(oht_estimator_create(&p->estimator, &cfg));
    }
    return OHT_OK;
}

oht_status oht_quant_begin(oht_quant *q) {
    OHT_TRY(quant_weights(q));
    return reset(q);
}

static oht_status pass(oht_quant *q, const oht_batch *batch, quant_mode mode) {
    q->mode = mode;
    q->status = OHT_OK;
    oht_session_feed(q->calibration, batch);
    oht_run_forward(q->calibration);
    q->mode = QUANT_APPLY;
    if (q->status != OHT_OK) {
        *oht_error_last() = q->failure;
        return oht_error_frame(q->status, __FILE__, __LINE__);
    }
    return q->s->be->sync(q->s->be);
}

oht_status oht_quant_feed(oht_quant *q, const oht_batch *batch, bool last, double *loss) {
    if (batch->rows < 1) OHT_FAIL(OHT_DATA, "a calibration batch without rows");
    OHT_TRY(pass(q, batch, QUANT_CALIBRATE));
    *loss = q->calibration->loss_sum / (double)batch->n_labels;
    if (last) OHT_TRY(pass(q, batch, QUANT_DIAGNOSE));
    return OHT_OK;
}

oht_status oht_quant_end(oht_quant *q) {
    for (int i = 0; i < q->n_activations; i++) {
        if (q->site[i].bits > 0 && !q->place[i].ready)
            OHT_FAIL(OHT_INTERNAL, "calibration saw no values of %s", q->site[i].name);
        oht_estimator_destroy(q->place[i].estimator); // its buffers are large
        q->place[i].estimator = NULL;
    }
    return OHT_OK;
}

// ---- from the data file
// ------------------------------------------------------------------------------------------------

static oht_split split_of(const oht_quant *q) {
    if (q->cfg->calibration == OHT_CALIBRATE_AUTO)
        return q->s->task == OHT_TASK_MLM ? OHT_SPLIT_VALIDATION : OHT_SPLIT_TRAIN;
    return q->cfg->calibration == OHT_CALIBRATE_TRAIN ? OHT_SPLIT_TRAIN : OHT_SPLIT_VALIDATION;
}

static oht_status check_rows(const oht_quant *q) {
    oht_split split = split_of(q);
    int64_t rows = q->s->data.rows[split], batches = q->cfg->batches, batch = q->cfg->batch;
    if (batches <= rows / batch) return OHT_OK;
    OHT_FAIL(OHT_DATA,
             "calibration wants %lld batches of %lld samples, but %s has %lld %s samples\nfix: "
             "quant.batches=%lld%s",
             (long long)batches, (long long)batch, q->s->cfg->data.path, (long long)rows,
             split == OHT_SPLIT_TRAIN ? "training" : "validation",
             (long long)(rows >= batch ? rows / batch : 1),
             rows >= batch ? ", or a smaller quant.batch" : " quant.batch=1, or more data");
}

static oht_status run_batches(oht_quant *q, oht_loader *loader, int64_t count) {
    for (int64_t b = 0; b < count; b++) {
        const oht_step_batch *batch;
        double loss;
        OHT_TRY(oht_signals_check());
        OHT_TRY(oht_loader_next(loader, &batch));
        if (!batch) OHT_FAIL(OHT_INTERNAL, "no data for calibration batch %lld", (long long)b);
        OHT_TRY(oht_quant_feed(q, &batch->micro[0], b + 1 == count, &loss));
        oht_progress(b + 1, count, false, "calibration, loss %.4f", loss);
    }
    oht_progress_end();
    return OHT_OK;
}

oht_status quant_open_data(oht_quant *q, uint64_t seed, int64_t first, oht_loader **out) {
    OHT_TRY(check_rows(q));
    oht_loader_config lc =
        oht_session_loader(q->s, split_of(q), q->cfg->batch, q->cfg->batch, first, q->cfg->batches - first);
    lc.seed = lc.mask_seed = seed;
    lc.as_evaluation = true;
    lc.rank = 0; // every rank reads all of it
    lc.size = 1;
    return oht_loader_create(out, q->s->cfg->data.path, &lc);
}

static oht_status calibrate(oht_quant *q, uint64_t seed) {
    q->stops = true;
    OHT_TRY(oht_quant_begin(q));
    if (q->cfg->activations == 0) return OHT_OK; // weights need no data
    oht_estimator_config ec = quant_estimator(q, &q->site[0]);
    int64_t skip = oht_estimator_forgets(&ec) ? q->cfg->batches - 1 : 0;
    oht_loader *loader;
    OHT_TRY(quant_open_data(q, seed, skip, &loader));
    oht_status status = run_batches(q, loader, q->cfg->batches - skip);
    oht_loader_destroy(loader);
    OHT_TRY(status);
    return oht_quant_end(q);
}

// Rank 0's ranges to all: thread counts may differ between nodes, and with them the last bit of a sum.
oht_status quant_share(oht_quant *q) {
    double *range;
    size_t n = 2 * (size_t)q->n_activations;
    OHT_TRY(oht_agree(q->s->comm, OHT_ALLOC(&range, n, "ranges")));
    for (int i = 0; i < q->n_activations; i++) {
        range[2 * i] = q->site[i].q.lo;
        range[2 * i + 1] = q->site[i].q.hi;
    }
    oht_status status = oht_broadcast(q->s->comm, range, n * sizeof(*range), 0);
    for (int i = 0; i < q->n_activations && status == OHT_OK; i++) {
        if (q->site[i].bits == 0) continue;
        q->site[i].q = oht_quantizer_of(q->cfg->activation_method == OHT_QUANT_SYMMETRIC, q->site[i].bits,
                                        range[2 * i], range[2 * i + 1]);
        q->place[i].fake = oht_quantizer_fake(&q->site[i].q);
    }
    oht_free(range);
    return status;
}

oht_status oht_quant_calibrate(oht_quant *q, uint64_t seed) {
    OHT_TRY(oht_agree(q->s->comm, calibrate(q, seed)));
    return quant_share(q);
}

oht_status oht_quant_evaluate(oht_quant *q, int64_t max_batches, bool stats, oht_eval_result *out) {
    q->mode = QUANT_APPLY;
    return oht_evaluate_run(q->s, q->evaluation, stats ? q->stats : NULL, max_batches, out);
}

int oht_quant_mean(const oht_eval_result *result, int n, oht_metric mean[OHT_METRICS],
                   double deviation[OHT_METRICS]) {
    oht_metric one[OHT_METRICS];
    int count = oht_eval_metrics(&result[0], mean);
    for (int m = 0; m < count; m++) mean[m].value = deviation[m] = 0.0;
    for (int i = 0; i < n; i++) {
        (void)oht_eval_metrics(&result[i], one);
        for (int m = 0; m < count; m++) mean[m].value += one[m].value / n;
    }
    for (int i = 0; i < n && n > 1; i++) {
        (void)oht_eval_metrics(&result[i], one);
        for (int m = 0; m < count; m++)
            deviation[m] += (one[m].value - mean[m].value) * (one[m].value - mean[m].value) / (n - 1);
    }
    for (int m = 0; m < count; m++) deviation[m] = sqrt(deviation[m]);
    return count;
}
