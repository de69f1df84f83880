// What happens at a site during a forward pass: in calibration the range takes the tensor in and the tensor
// is then quantized with the updated range, so that later sites see quantized inputs (spec transformers 5.5);
// afterwards it is only quantized, and on the last calibration batch the error is measured before.
#include <math.h>
#include <string.h>

#include "oht/memory.h"
#include "quant/internal.h"

// An operation cannot fail; the twin keeps the first failure, and the pass goes on.
static void keep(oht_quant *q, oht_status status) {
    if (status == OHT_OK || q->status != OHT_OK) return;
    q->status = status;
    q->failure = *oht_error_last();
}

oht_status quant_host(oht_quant *q, size_t count) {
    if (count <= q->host_count) return OHT_OK;
    oht_free(q->host);
    q->host = NULL;
    q->host_count = 0;
    OHT_TRY(OHT_ALLOC(&q->host, count, "scores on the host"));
    q->host_count = count;
    return OHT_OK;
}

// Moves the visible ones of (B,H,T,T) scores to the front of the tensor, which is a copy nobody else reads;
// *data is then them.
static oht_status only_visible(oht_quant *q, const oht_run *run, const oht_site_view *v,
                               oht_quant_data *data) {
    oht_backend *be = run->be;
    int64_t T = v->n, per_sample = v->rows / run->rows, n = 0; // H T
    size_t count = (size_t)(v->rows * T), mask_floats = v->mask.data ? (size_t)(run->rows * T + 3) / 4 : 0;
    OHT_TRY(quant_host(q, count + mask_floats));
    uint8_t *mask = (uint8_t *)(q->host + count);
    be->download(be, q->host, v->x, count * sizeof(float));
    if (v->mask.data) be->download(be, mask, v->mask.data, (size_t)(run->rows * T));
    OHT_TRY(be->sync(be));
    for (int64_t r = 0; r < v->rows; r++) {
        int64_t sample = r / per_sample, seen = v->causal ? r % T + 1 : T;
        for (int64_t j = 0; j < seen; j++)
            if (!v->mask.data || mask[sample * T + j]) q->host[n++] = q->host[r * T + j];
    }
    be->upload(be, v->x, q->host, (size_t)n * sizeof(float));
    *data = (oht_quant_data){be, v->x, 1, n, n};
    return OHT_OK;
}

static oht_status estimate(oht_quant *q, int i, const oht_quant_data *data) {
    oht_quant_site *s = &q->site[i];
    quant_place *p = &q->place[i];
    double range[2];
    OHT_TRY(oht_estimator_update(p->estimator, data, s->name));
    oht_estimator_range(p->estimator, range);
    s->q = oht_quantizer_of(q->cfg->activation_method == OHT_QUANT_SYMMETRIC, s->bits, range[0], range[1]);
    p->fake = oht_quantizer_fake(&s->q);
    p->ready = true;
    return OHT_OK;
}

static void see(oht_quant_hook *self, const oht_run *run, const oht_site_info *info, const oht_site_view *v) {
    oht_quant *q = (oht_quant *)(void *)self;
    oht_quant_site *s = &q->site[info->index];
    quant_place *p = &q->place[info->index];
    oht_backend *be = run->be;
    if (q->mode == QUANT_DIAGNOSE && q->cfg->integer_check) keep(q, quant_integer_check(q, info, v));
    if (s->bits == 0 || p->off) return;
    oht_quant_data data = {be, v->x, v->rows, v->n, v->ld};
    bool scores = info->kind == OHT_SITE_SCORES;
    if (q->mode != QUANT_APPLY && scores && !q->cfg->include_masked_scores && (v->causal || v->mask.data))
        keep(q, only_visible(q, run, v, &data));
    if (q->mode == QUANT_CALIBRATE) keep(q, estimate(q, info->index, &data));
    if (!p->ready) return;
    if (q->mode == QUANT_DIAGNOSE) {
        be->quant_error(be, data.x, data.rows, data.n, data.ld, &p->fake, false, &s->error);
        s->count = data.rows * data.n;
    }
    // The association quantizes its own scores and probabilities; what it shows are copies.
    if (!scores && info->kind != OHT_SITE_PROBS)
        be->fake_quantize(be, v->x, v->rows, v->n, v->ld, &p->fake, false);
}

static const oht_fakequant *now(oht_quant_hook *self, const oht_site_info *info) {
    const oht_quant *q = (const oht_quant *)(const void *)self;
    const quant_place *p = &q->place[info->index];
    return q->site[info->index].bits > 0 && p->ready && !p->off ? &p->fake : NULL;
}

void quant_hook_install(oht_quant *q) {
    q->hook = (oht_quant_hook){see, now};
}
