// The integer path of a linear layer: with x^ = sx (qx - zx), w^ = sw (qw - zw),
//   y = act(sx sw (sum qx qw - zx sum qw - zw sum qx + K zx zw) + b)
// with 8-bit codes and products and sums in integers, as hardware does it (32 bits hold the sums up to K = 131071).
// What the simulation computes in fp32 must be this to rounding. Codes of unsigned quantizers are shifted by half
// their number, so that they fit int8.
#include <math.h>

#include "oht/memory.h"
#include "quant/internal.h"

enum { ROWS = 64 }; // of the batch, the first ones

typedef struct codes {
    int8_t *q; // (rows, K)
    int32_t *sum; // per row
    int32_t zero;
    double step;
} codes;

static int64_t shift_of(const oht_quantizer *q) {
    return q->low >= 0 ? (int64_t)1 << (q->bits - 1) : 0;
}

// channel: one quantizer a row, or NULL.
static oht_status encode(codes *c, const float *x, int64_t rows, int64_t K, const oht_quantizer *q,
                         const oht_quantizer *channel) {
    OHT_TRY(OHT_ALLOC(&c->q, (size_t)(rows * K), "integer codes"));
    OHT_TRY(OHT_ALLOC(&c->sum, (size_t)rows, "integer codes"));
    c->zero = (int32_t)(q->zero - shift_of(q));
    c->step = q->step;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < K; k++) {
            const oht_quantizer *own = channel ? &channel[r] : q;
            c->q[r * K + k] = (int8_t)(oht_quantizer_code(own, (double)x[r * K + k]) - shift_of(own));
            c->sum[r] += c->q[r * K + k];
        }
    return OHT_OK;
}

static double activate(double y, oht_act act) {
    if (act == OHT_ACT_RELU) return y > 0.0 ? y : 0.0;
    if (act == OHT_ACT_GELU) return 0.5 * y * (1.0 + erf(y * sqrt(0.5)));
    return y;
}

static double product(const codes *x, const codes *w, int64_t row, int64_t out, int64_t K,
                      double weight_step) {
    const int8_t *a = x->q + row * K, *b = w->q + out * K;
    int64_t sum = 0;
    for (int64_t k = 0; k < K; k++) sum += (int32_t)a[k] * (int32_t)b[k];
    int64_t whole = sum - (int64_t)x->zero * w->sum[out] - (int64_t)w->zero * x->sum[row] +
                    K * x->zero * w->zero;
    return x->step * weight_step * (double)whole;
}

static void compare(oht_quant *q, const oht_site_info *info, const oht_site_view *v, const float *y,
                    int64_t rows, const float *bias, const codes *x, const codes *w,
                    const oht_quant_site *weight) {
    oht_quant_site *s = &q->site[info->index];
    double worst = 0.0, largest = 0.0;
    s->integer_outputs = rows * v->n;
    s->integer_differ = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < v->n; o++) {
            double step = weight->channel ? weight->channel[o].step : w->step,
                   simulated = (double)y[r * v->n + o];
            double exact =
                activate(product(x, w, r, o, v->input_n, step) + (bias ? (double)bias[o] : 0.0), info->act);
            double off = fabs(exact - simulated);
            if (!(off <= worst)) worst = isnan(off) ? INFINITY : off;
            largest = fmax(largest, fabs(exact));
            if (s->bits > 0)
                s->integer_differ += oht_quantizer_code(&s->q, exact) != oht_quantizer_code(&s->q, simulated);
        }
    s->integer_error = largest > 0.0 ? worst / largest : worst;
}

static oht_status check(oht_quant *q, const oht_site_info *info, const oht_site_view *v,
                        const oht_quant_site *weight, codes *x, codes *w, float *host) {
    oht_backend *be = q->s->be;
    const oht_param *p = &q->s->params->item[info->weight];
    int64_t rows = v->rows < ROWS ? v->rows : ROWS, K = v->input_n, count = v->n * K;
    float *in = host, *weights = in + rows * K, *out = weights + count, *bias = out + rows * v->n;
    be->download(be, in, v->input, (size_t)(rows * K) * sizeof(float));
    be->download(be, weights, q->flat + p->offset, (size_t)count * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        be->download(be, out + r * v->n, v->x + r * v->ld, (size_t)v->n * sizeof(float));
    if (info->bias >= 0)
        be->download(be, bias, q->flat + q->s->params->item[info->bias].offset, (size_t)v->n * sizeof(float));
    OHT_TRY(be->sync(be));
    OHT_TRY(encode(x, in, rows, K, &q->site[info->input].q, NULL));
    OHT_TRY(encode(w, weights, v->n, K, &weight->q, weight->channel));
    compare(q, info, v, out, rows, info->bias >= 0 ? bias : NULL, x, w, weight);
    return OHT_OK;
}

oht_status quant_integer_check(oht_quant *q, const oht_site_info *info, const oht_site_view *v) {
    if (info->weight < 0 || info->input < 0 || !v->input || q->site[info->input].bits == 0) return OHT_OK;
    int site = quant_weight_site(q, info->weight);
    if (site < 0 || q->site[site].bits > 8 || q->site[info->input].bits > 8) return OHT_OK;
    int64_t rows = v->rows < ROWS ? v->rows : ROWS;
    float *host;
    codes x = {0}, w = {0};
    OHT_TRY(
        OHT_ALLOC(&host, (size_t)((rows + v->n) * (v->input_n + 1) + rows * v->n + v->n), "integer check"));
    oht_status status = check(q, info, v, &q->site[site], &x, &w, host);
    oht_free(x.q);
    oht_free(x.sum);
    oht_free(w.q);
    oht_free(w.sum);
    oht_free(host);
    return status;
}
