// The measuring observer (include/oht/outliers.h): moments of every row of every tap, merged over rows,
// micro-batches and ranks. Everything is allocated at creation; a measured step allocates nothing.
//
// Ranks are put together by one broadcast per rank, merged in rank order by everybody, so that all ranks hold
// the same bits and no memory grows with their number. Maxima are found by value, then by dataset row, token
// and channel, so that the reported place does not depend on how rows were dealt to ranks.
#include <math.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "oht/outliers.h"

// One (layer, kind) of head statistics: sum over samples, and their weight.
typedef struct head_tap {
    double weight;
    int64_t nonfinite;
    int layer;
    bool gate; // else null mass
} head_tap;

typedef struct tap_place {
    int moments, head; // index there, -1 = not of that kind
} tap_place;

// What travels between ranks, one block: tap statistics, head taps, head sums.
struct oht_stats {
    oht_observer observer; // first: see() casts
    int64_t tokens;
    int n_all, n_moments, n_heads; // taps
    int layers, heads;
    tap_place *place; // per tap of the graph
    oht_tap_info *info; // moment taps
    char (*name)[OHT_NODE_NAME]; // all taps, forward order
    unsigned char *block; // this rank's statistics, after a reduction those of all
    unsigned char *sum, *arriving; // scratch of the reduction
    size_t block_bytes;
    oht_moments *row; // of one piece of a tensor
    int64_t row_capacity;
    double *head_row; // (H)
    double *null_mass, *gate_mean; // (L,H), after reduction
    bool has_null_mass, has_gate, count_inf, count_kurtosis;
    bool all_modules; // the taps are complete in the reference's sense
    const int64_t *row_id;
    double seconds;
};

static oht_tap_stats *taps_of(unsigned char *block) {
    return (oht_tap_stats *)(void *)block;
}
static head_tap *heads_of(const oht_stats *s, unsigned char *block) {
    return (head_tap *)(void *)(block + (size_t)s->n_moments * sizeof(oht_tap_stats));
}
static double *sums_of(const oht_stats *s, unsigned char *block) { // (head taps, H)
    return (double *)(void *)(heads_of(s, block) + s->n_heads);
}

// ---- creation ----

static void classify(oht_stats *s, const oht_tap_info *tap) {
    for (int i = 0; i < s->n_all; i++) {
        bool is_head = tap[i].kind == OHT_TAP_NULL_MASS || tap[i].kind == OHT_TAP_GATE;
        s->place[i] = (tap_place){is_head ? -1 : s->n_moments, is_head ? s->n_heads : -1};
        memcpy(s->name[i], tap[i].name, OHT_NODE_NAME);
        if (!is_head) s->info[s->n_moments++] = tap[i];
        if (!is_head) continue;
        s->n_heads++;
        if (tap[i].kind == OHT_TAP_GATE)
            s->has_gate = true;
        else
            s->has_null_mass = true;
        if (tap[i].layer >= s->layers) s->layers = tap[i].layer + 1;
    }
}

oht_status oht_stats_create(oht_stats **out, const oht_graph *g, int heads) {
    *out = NULL;
    oht_stats *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "statistics"));
    const oht_tap_info *tap;
    oht_status status;
    s->n_all = oht_graph_taps(g, &tap);
    s->heads = heads;
    s->tokens = oht_graph_tokens(g);
    s->count_inf = s->count_kurtosis = true;
    s->all_modules = oht_graph_has_module_taps(g);
    s->row_capacity = oht_graph_rows(g) * s->tokens;
    size_t n = (size_t)s->n_all;
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->place, n, "statistics"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->info, n, "statistics"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->name, n, "statistics"), fail);
    classify(s, tap);
    s->block_bytes = (size_t)s->n_moments * sizeof(oht_tap_stats) +
                     (size_t)s->n_heads * (sizeof(head_tap) + (size_t)heads * sizeof(double));
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->block, s->block_bytes, "statistics"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->sum, s->block_bytes, "statistics of all ranks"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->arriving, s->block_bytes, "statistics of another rank"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->row, (size_t)s->row_capacity, "moments of rows"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->head_row, (size_t)heads, "statistics"), fail);
    size_t cells = (size_t)s->layers * (size_t)heads;
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->null_mass, cells, "statistics"), fail);
    OHT_TRY_GOTO(status, OHT_ALLOC(&s->gate_mean, cells, "statistics"), fail);
    for (int i = 0; i < s->n_all; i++)
        if (s->place[i].head >= 0)
            heads_of(s, s->block)[s->place[i].head] =
                (head_tap){.layer = tap[i].layer, .gate = tap[i].kind == OHT_TAP_GATE};
    oht_stats_reset(s);
    *out = s;
    return OHT_OK;
fail:
    oht_stats_destroy(s);
    return status;
}

void oht_stats_destroy(oht_stats *s) {
    if (!s) return;
    oht_free(s->place);
    oht_free(s->info);
    oht_free(s->name);
    oht_free(s->block);
    oht_free(s->sum);
    oht_free(s->arriving);
    oht_free(s->row);
    oht_free(s->head_row);
    oht_free(s->null_mass);
    oht_free(s->gate_mean);
    oht_free(s);
}

void oht_stats_reset(oht_stats *s) {
    oht_tap_stats *taps = taps_of(s->block);
    for (int i = 0; i < s->n_moments; i++)
        taps[i] = (oht_tap_stats){.max_sample = -1, .max_token = -1, .max_channel = -1};
    head_tap *heads = heads_of(s, s->block);
    double *sums = sums_of(s, s->block);
    for (int i = 0; i < s->n_heads; i++) {
        heads[i].weight = 0;
        heads[i].nonfinite = 0;
        for (int h = 0; h < s->heads; h++) sums[i * s->heads + h] = 0;
    }
}

// ---- observing ----

// Order of maxima: NaN above inf above numbers; equal ones by place.
static bool larger(double a, const int64_t at_a[3], double b, const int64_t at_b[3]) {
    if (isnan(a) != isnan(b)) return isnan(a);
    if (!isnan(a) && a != b) return a > b;
    for (int i = 0; i < 3; i++)
        if (at_a[i] != at_b[i]) return at_a[i] < at_b[i];
    return false;
}

// pooled := pooled and b together, the maximum with its place.
static void add_sample(oht_tap_stats *t, const oht_moments *b, const int64_t at[3]) {
    const int64_t mine[3] = {t->max_sample, t->max_token, t->max_channel};
    bool replace = b->n > 0 && (t->pooled.n == 0 || larger(b->abs_max, at, t->pooled.abs_max, mine));
    double max = replace ? b->abs_max : t->pooled.abs_max;
    oht_moments_merge(&t->pooled, b);
    t->pooled.abs_max = max;
    if (!replace) return;
    t->max_sample = at[0];
    t->max_token = at[1];
    t->max_channel = at[2];
}

static int64_t sample_of(const oht_stats *s, const oht_run *run, int64_t j) {
    if (j >= run->rows) return -1; // rows that are not samples (picked positions)
    return s->row_id ? s->row_id[j] : (int64_t)run->sample0 + j * (int64_t)run->stride;
}

// Place of element `e` of row `r`: (B,T,C) in both kinds; (B,H,T,T) inside attention: query token, and h T +
// key; group g of (B,G,L,C): l, and g C + c.
static void place_of(const oht_stats *s, const oht_run *run, oht_tap_kind kind, oht_tensor x, int64_t r,
                     int64_t e, int64_t at[3]) {
    if (kind == OHT_TAP_TOKEN) {
        int64_t T = 1;
        for (int i = 1; i + 1 < x.rank; i++) T *= x.dim[i];
        at[0] = sample_of(s, run, r / T);
        at[1] = r % T;
        at[2] = e;
        return;
    }
    int64_t C = x.dim[x.rank - 1];
    if (kind == OHT_TAP_GROUP) {
        at[0] = sample_of(s, run, r / x.dim[1]);
        at[1] = e / C;
        at[2] = r % x.dim[1] * C + e % C;
        return;
    }
    at[0] = sample_of(s, run, r);
    at[1] = e / C;
    at[2] = e % C;
    if (x.rank != 4) return;
    int64_t T = x.dim[2], head = at[1] / T;
    at[1] %= T;
    at[2] += head * C;
}

static void see_rows(oht_stats *s, const oht_run *run, const oht_tap_info *tap, oht_tensor x,
                     oht_tap_stats *t) {
    int64_t rows = tap->kind == OHT_TAP_TOKEN   ? oht_tensor_rows(x)
                   : tap->kind == OHT_TAP_GROUP ? x.dim[0] * x.dim[1]
                                                : x.dim[0];
    int64_t n = rows > 0 ? oht_tensor_count(x) / rows : 0;
    for (int64_t first = 0; first < rows && n > 0; first += s->row_capacity) {
        int64_t some = rows - first < s->row_capacity ? rows - first : s->row_capacity;
        const char *from = (const char *)x.data + (size_t)(first * n) * oht_dtype_size(x.dtype);
        run->be->moments(run->be, from, x.dtype, some, n, s->row);
        for (int64_t i = 0; i < some; i++) {
            const oht_moments *m = &s->row[i];
            int64_t at[3];
            place_of(s, run, tap->kind, x, first + i, m->abs_argmax, at);
            add_sample(t, m, at);
            t->rows++;
            if (s->count_inf) {
                t->inf_sum += m->abs_max;
                t->inf_rows++;
            }
            t->outliers_6sigma += m->outliers_6sigma;
            t->nonfinite += m->nonfinite;
            if (!s->count_kurtosis) continue;
            t->kurtosis_sum += oht_kurtosis(m);
            t->kurtosis_rows++;
        }
    }
}

static void see_heads(oht_stats *s, const oht_run *run, const oht_tap_info *tap, oht_tensor x, int head) {
    if (run->rows == 0) return;
    if (tap->kind == OHT_TAP_NULL_MASS && x.rank == 4) { // (B,G,H*L,S)
        x.dim[0] *= x.dim[1];
        x.dim[1] = s->heads;
        x.dim[2] /= s->heads;
    }
    if (tap->kind == OHT_TAP_GATE)
        run->be->gate_mean(run->be, s->head_row, x);
    else
        run->be->null_mass(run->be, s->head_row, x);
    head_tap *t = &heads_of(s, s->block)[head];
    double *sum = sums_of(s, s->block) + head * s->heads, weight = (double)run->rows;
    for (int h = 0; h < s->heads; h++) {
        sum[h] += weight * s->head_row[h];
        if (!isfinite(s->head_row[h])) t->nonfinite++;
    }
    t->weight += weight;
}

static void see(oht_observer *self, const oht_run *run, const oht_tap_info *tap, oht_tensor x) {
    oht_stats *s = (oht_stats *)(void *)self;
    double start = oht_clock_s();
    tap_place place = s->place[tap->index];
    if (place.moments >= 0)
        see_rows(s, run, tap, x, &taps_of(s->block)[place.moments]);
    else
        see_heads(s, run, tap, x, place.head);
    s->seconds += oht_clock_s() - start;
}

oht_observer *oht_stats_observer(oht_stats *s) {
    s->observer.see = see;
    return &s->observer;
}

void oht_stats_row_ids(oht_stats *s, const int64_t *row_id) {
    s->row_id = row_id;
}

void oht_stats_count_inf(oht_stats *s, bool on) {
    s->count_inf = on;
}

void oht_stats_count_kurtosis(oht_stats *s, bool on) {
    s->count_kurtosis = on;
}

// ---- reduction ----

static void merge_block(oht_stats *s, unsigned char *into, unsigned char *from) {
    oht_tap_stats *a = taps_of(into);
    const oht_tap_stats *b = taps_of(from);
    for (int i = 0; i < s->n_moments; i++) {
        add_sample(&a[i], &b[i].pooled,
                   (const int64_t[3]){b[i].max_sample, b[i].max_token, b[i].max_channel});
        a[i].rows += b[i].rows;
        a[i].inf_rows += b[i].inf_rows;
        a[i].inf_sum += b[i].inf_sum;
        a[i].kurtosis_sum += b[i].kurtosis_sum;
        a[i].kurtosis_rows += b[i].kurtosis_rows;
        a[i].outliers_6sigma += b[i].outliers_6sigma;
        a[i].nonfinite += b[i].nonfinite;
    }
    for (int i = 0; i < s->n_heads; i++) {
        heads_of(s, into)[i].weight += heads_of(s, from)[i].weight;
        heads_of(s, into)[i].nonfinite += heads_of(s, from)[i].nonfinite;
        for (int h = 0; h < s->heads; h++)
            sums_of(s, into)[i * s->heads + h] += sums_of(s, from)[i * s->heads + h];
    }
}

static void finish_heads(oht_stats *s) {
    for (int i = 0; i < s->layers * s->heads; i++) s->null_mass[i] = s->gate_mean[i] = NAN;
    for (int i = 0; i < s->n_heads; i++) {
        const head_tap *t = &heads_of(s, s->block)[i];
        if (t->layer < 0) continue;
        double *out = (t->gate ? s->gate_mean : s->null_mass) + t->layer * s->heads;
        for (int h = 0; h < s->heads; h++) out[h] = sums_of(s, s->block)[i * s->heads + h] / t->weight;
    }
}

oht_status oht_stats_reduce(oht_stats *s, oht_comm *comm) {
    int size = oht_comm_size(comm), rank = oht_comm_rank(comm);
    double start = oht_clock_s();
    for (int r = 0; r < size && size > 1; r++) {
        unsigned char *at = r == 0 ? s->sum : s->arriving;
        if (r == rank) memcpy(at, s->block, s->block_bytes);
        OHT_TRY(oht_broadcast(comm, at, s->block_bytes, r));
        if (r > 0) merge_block(s, s->sum, s->arriving);
    }
    if (size > 1) memcpy(s->block, s->sum, s->block_bytes);
    finish_heads(s);
    s->seconds += oht_clock_s() - start;
    return OHT_OK;
}

// ---- results ----

int oht_stats_taps(const oht_stats *s, const oht_tap_info **info, const oht_tap_stats **stats) {
    if (info) *info = s->info;
    if (stats) *stats = taps_of(s->block);
    return s->n_moments;
}

const double *oht_stats_null_mass(const oht_stats *s, int *layers, int *heads) {
    *layers = s->layers;
    *heads = s->heads;
    return s->has_null_mass ? s->null_mass : NULL;
}

const double *oht_stats_gate_mean(const oht_stats *s, int *layers, int *heads) {
    *layers = s->layers;
    *heads = s->heads;
    return s->has_gate ? s->gate_mean : NULL;
}

double oht_stats_seconds(const oht_stats *s) {
    return s->seconds;
}

const char *oht_stats_first_nonfinite(const oht_stats *s) {
    for (int i = 0; i < s->n_all; i++) {
        tap_place p = s->place[i];
        if (p.moments >= 0 ? taps_of(s->block)[p.moments].nonfinite > 0
                           : heads_of(s, s->block)[p.head].nonfinite > 0)
            return s->name[i];
    }
    return NULL;
}

static void take_max(double *max, double x) {
    if (!(x <= *max)) *max = isnan(*max) ? *max : x; // NaN stays
}

// Averages of kurtosis; a tap counts as often as the reference sees its tensor.
typedef struct average {
    double sum;
    int n;
} average;

static void count(average *a, double x, int times) {
    a->sum += times * x;
    a->n += times;
}

static double mean(average a) {
    return a.n > 0 ? a.sum / a.n : 0.0;
}

void oht_stats_metrics(const oht_stats *s, oht_outlier_metrics *out) {
    *out = (oht_outlier_metrics){0};
    const oht_tap_stats *t = taps_of(s->block);
    average all = {0}, activations = {0}, clean = {0}, modules = {0};
    for (int i = 0; i < s->n_moments; i++) {
        int roles = s->info[i].roles, times = roles & OHT_SEEN_TWICE ? 2 : roles & OHT_SEEN_THRICE ? 3 : 1;
        double inf = t[i].inf_sum / (double)t[i].inf_rows,
               kurtosis = t[i].kurtosis_sum / (double)t[i].kurtosis_rows;
        if (roles & OHT_IN_INF) take_max(&out->max_inf_norm, inf);
        if (roles & OHT_IN_FFN_INF) take_max(&out->max_ffn_inf_norm, inf);
        if (roles & OHT_IN_LAYER_INF) take_max(&out->max_layer_inf_norm, inf);
        if (roles & OHT_IN_LAYER_INF) take_max(&out->max_kurtosis_layers, kurtosis);
        if (roles & OHT_IN_CLEAN) take_max(&out->clean_max_inf_norm, inf);
        if (roles & OHT_IN_CLEAN) count(&clean, kurtosis, 1);
        if (s->all_modules) {
            int named = OHT_MODULES_OF(roles);
            count(&modules, kurtosis, named);
            if (named > 0) take_max(&out->all_max_kurtosis, kurtosis);
            if (roles & OHT_IN_MLP_MODULES) take_max(&out->all_ffn_inf_norm, inf);
        }
        if (!(roles & OHT_IN_KURTOSIS)) continue;
        take_max(&out->max_kurtosis, kurtosis);
        count(&all, kurtosis, times);
        if (!(roles & OHT_IS_PROBS)) count(&activations, kurtosis, times);
    }
    out->avg_kurtosis = mean(all);
    out->activation_kurtosis = mean(activations);
    out->clean_kurtosis = mean(clean);
    out->modules = all.n;
    out->all_modules = modules.n;
    out->all_avg_kurtosis = mean(modules);
}
