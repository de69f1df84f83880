// Range estimators (spec transformers 5.2): one object a tensor, fed batch by batch.
//
//   minmax           minimum and maximum of the newest batch
//   running_minmax   the first batch as it is, then r = 0.9 r + 0.1 new; with a percentile p the (100 - p, p)
//   percentiles of
//                    each batch stand for its minimum and maximum
//   mse_grid         summed squared error of `candidates` ranges, added up over batches; the least wins, the
//   first on ties.
//                    R = largest |x| of the first batch + margin; candidate i: +-iR/n, or [0, iR/n] where the
//                    first batch is >= 0; asymmetric two-sided ones are also shifted by k steps to both
//                    sides, k < 2^b / 4, and cut at the data's limits
//   mse              asymmetric: golden section on the newest batch (range_golden.c); symmetric: mse_grid
#include <math.h>
#include <string.h>

#include "oht/memory.h"
#include "oht/quant.h"
#include "oht/signals.h"

static const double MOMENTUM = 0.9, MARGIN = 0.5;

struct oht_estimator {
    oht_estimator_config cfg;
    int64_t batches;
    double range[2], loss;
    // grid
    double thickness; // of one candidate: R / n
    double limit[2]; // shifted ranges end here
    bool one_sided;
    int64_t shifts; // shifts of one candidate, both signs: 1 where there are none
    double *sum; // (candidates, shifts)
    float *host; // a batch, for percentiles
    size_t host_count;
};

static bool uses_grid(const oht_estimator_config *cfg) {
    return cfg->kind == OHT_RANGE_MSE_GRID || (cfg->kind == OHT_RANGE_MSE && cfg->symmetric);
}

bool oht_estimator_forgets(const oht_estimator_config *cfg) {
    return cfg->kind == OHT_RANGE_MINMAX || (cfg->kind == OHT_RANGE_MSE && !cfg->symmetric);
}

oht_status oht_estimator_create(oht_estimator **out, const oht_estimator_config *cfg) {
    *out = NULL;
    OHT_TRY(OHT_ALLOC(out, 1, "range estimator"));
    (*out)->cfg = *cfg;
    return OHT_OK;
}

void oht_estimator_destroy(oht_estimator *e) {
    if (!e) return;
    oht_free(e->sum);
    oht_free(e->host);
    oht_free(e);
}

bool oht_estimator_range(const oht_estimator *e, double range[2]) {
    memcpy(range, e->range, sizeof(e->range));
    return e->batches > 0;
}

double oht_estimator_loss(const oht_estimator *e) {
    return e->loss;
}

// ---- percentiles
// -----------------------------------------------------------------------------------------------------

// Puts the k-th smallest of x[0..n) at its place, smaller ones before it (Hoare's selection, median of
// three).
static void select_kth(float *x, int64_t n, int64_t k) {
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float a = x[lo], b = x[lo + (hi - lo) / 2], c = x[hi];
        float pivot = fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (k <= j)
            hi = j;
        else if (k >= i)
            lo = i;
        else
            return;
    }
}

static double at_rank(float *x, int64_t n, double rank) {
    int64_t k = (int64_t)floor(rank);
    if (k >= n - 1) k = n - 1;
    select_kth(x, n, k);
    double low = (double)x[k], next = low;
    if (k + 1 < n) {
        float least = x[k + 1];
        for (int64_t i = k + 2; i < n; i++) least = x[i] < least ? x[i] : least;
        next = (double)least;
    }
    return low + (rank - (double)k) * (next - low);
}

void oht_percentiles(float *x, int64_t n, double p, double range[2]) {
    range[1] = at_rank(x, n, (double)(n - 1) * p / 100.0);
    range[0] = at_rank(x, n, (double)(n - 1) * (100.0 - p) / 100.0);
}

// A copy of the batch, contiguous, on the host.
static oht_status fetch(oht_estimator *e, const oht_quant_data *d) {
    size_t count = (size_t)(d->rows * d->n);
    if (count > e->host_count) {
        oht_free(e->host);
        e->host = NULL;
        e->host_count = 0;
        OHT_TRY(OHT_ALLOC(&e->host, count, "activations for percentiles"));
        e->host_count = count;
    }
    for (int64_t i = 0; i < d->rows; i++)
        d->be->download(d->be, e->host + i * d->n, d->x + i * d->ld, (size_t)d->n * sizeof(float));
    return d->be->sync(d->be);
}

static oht_status update_running(oht_estimator *e, const oht_quant_data *d, const double minmax[2]) {
    double now[2] = {minmax[0], minmax[1]};
    if (e->cfg.percentile > 0.0) {
        OHT_TRY(fetch(e, d));
        oht_percentiles(e->host, d->rows * d->n, e->cfg.percentile, now);
    }
    for (int i = 0; i < 2; i++)
        e->range[i] = e->batches == 0 ? now[i] : MOMENTUM * e->range[i] + (1.0 - MOMENTUM) * now[i];
    return OHT_OK;
}

// ---- grid
// --------------------------------------------------------------------------------------------------------------

static oht_status start_grid(oht_estimator *e, const double minmax[2]) {
    const oht_estimator_config *cfg = &e->cfg;
    double margin = cfg->margin == OHT_MARGIN_ABSOLUTE ? MARGIN : 0.0;
    e->limit[0] = minmax[0] - margin;
    e->limit[1] = minmax[1] + margin;
    e->one_sided = minmax[0] >= 0.0;
    e->thickness = (fmax(fabs(minmax[0]), fabs(minmax[1])) + margin) / cfg->candidates;
    e->shifts = cfg->symmetric || e->one_sided ? 1 : 2 * (((int64_t)1 << cfg->bits) / 4);
    return OHT_ALLOC(&e->sum, (size_t)(cfg->candidates * e->shifts), "errors of candidate ranges");
}

// Candidate i = 1.., shift s: k = s / 2 steps, to the right if s is even.
static void candidate(const oht_estimator *e, int i, int64_t s, double range[2]) {
    double reach = e->thickness * i;
    range[0] = e->one_sided ? 0.0 : -reach;
    range[1] = reach;
    if (e->shifts == 1) return;
    double by =
        (s % 2 ? -1.0 : 1.0) * (double)(s / 2) * 2.0 * reach / (double)(((int64_t)1 << e->cfg.bits) - 1);
    range[0] = fmax(range[0] + by, e->limit[0]);
    range[1] = fmin(range[1] + by, e->limit[1]);
}

static oht_status update_grid(oht_estimator *e, const oht_quant_data *d, const double minmax[2]) {
    if (e->batches == 0) OHT_TRY(start_grid(e, minmax));
    e->loss = INFINITY;
    for (int i = 1; i <= e->cfg.candidates; i++)
        for (int64_t s = 0; s < e->shifts; s++) {
            if (e->cfg.stops) OHT_TRY(oht_signals_check());
            double range[2], *sum = &e->sum[(i - 1) * e->shifts + s];
            candidate(e, i, s, range);
            oht_quantizer q = oht_quantizer_of(e->cfg.symmetric, e->cfg.bits, range[0], range[1]);
            oht_fakequant fake = oht_quantizer_fake(&q);
            oht_quant_error error;
            d->be->quant_error(d->be, d->x, d->rows, d->n, d->ld, &fake, false, &error);
            *sum += error.noise;
            if (!(*sum < e->loss)) continue;
            e->loss = *sum;
            memcpy(e->range, range, sizeof(range));
        }
    return OHT_OK;
}

// ---- all kinds
// -----------------------------------------------------------------------------------------------------------

oht_status oht_estimator_update(oht_estimator *e, const oht_quant_data *d, const char *what) {
    float limit[2];
    d->be->minmax(d->be, d->x, d->rows, d->n, d->ld, limit);
    OHT_TRY(d->be->sync(d->be));
    if (!isfinite(limit[0]) || !isfinite(limit[1]))
        OHT_FAIL(OHT_NUMERIC, "%s: %s, so no range can be estimated", what,
                 d->rows * d->n == 0 ? "it has no values" : "some values are not finite");
    const double minmax[2] = {(double)limit[0], (double)limit[1]};
    if (uses_grid(&e->cfg)) {
        OHT_TRY(update_grid(e, d, minmax));
    } else if (e->cfg.kind == OHT_RANGE_MSE) {
        oht_range_golden(d, e->cfg.symmetric, e->cfg.bits, e->cfg.margin, minmax, e->range, &e->loss);
    } else if (e->cfg.kind == OHT_RANGE_RUNNING_MINMAX) {
        OHT_TRY(update_running(e, d, minmax));
    } else {
        memcpy(e->range, minmax, sizeof(minmax));
    }
    e->batches++;
    return OHT_OK;
}
