// Seeds and pairs: runs whose configurations differ in train.seed only form a group with a mean and a deviation; a
// group and the same with softmax_1 in place of softmax form a pair, whose difference over common seeds gets a
// confidence interval from Student's t.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "report/report.h"

// P(|T| <= t) for integer degrees of freedom: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4.
static double inside(int freedom, double t) {
    double angle = atan(t / sqrt(freedom)), c2 = cos(angle) * cos(angle), term = 1, sum = 1;
    const double half_pi = 1.57079632679489661923;
    if (freedom % 2 == 0) {
        for (int k = 1; k < freedom / 2; k++) sum += term *= c2 * (2 * k - 1) / (2 * k);
        return sin(angle) * sum;
    }
    if (freedom == 1) return angle / half_pi;
    for (int k = 1; k < (freedom - 1) / 2; k++) sum += term *= c2 * (2 * k) / (2 * k + 1);
    return (angle + sin(angle) * cos(angle) * sum) / half_pi;
}

double oht_report_student_t(int freedom, double level) {
    double low = 0, high = 1;
    while (inside(freedom, high) < level && high < 1e12) high *= 2;
    for (int i = 0; i < 200 && low < high; i++) {
        double middle = 0.5 * (low + high);
        if (middle <= low || middle >= high) break;
        if (inside(freedom, middle) < level)
            low = middle;
        else
            high = middle;
    }
    return 0.5 * (low + high);
}

// Mean and deviation (n - 1) of the values that are not NAN; returns their number.
static int summarize(const double *x, int n, double *mean, double *sd) {
    double sum = 0, square = 0;
    int count = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) {
            sum += x[i];
            count++;
        }
    *mean = count > 0 ? sum / count : (double)NAN;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) square += (x[i] - *mean) * (x[i] - *mean);
    *sd = count > 1 ? sqrt(square / (count - 1)) : (double)NAN;
    return count;
}

// ---- groups ----

// Keys that say where and how a run computes or reports, not what.
static bool incidental(const char *name) {
    return strncmp(name, "run.", 4) == 0 || strncmp(name, "quant.", 6) == 0 ||
           strcmp(name, "outliers.publish_s") == 0 || strcmp(name, "train.log_every") == 0;
}

// Equal but for the keys named, and incidental ones.
static bool same_but(const oht_config *a, const oht_config *b, const char *const *except) {
    int n;
    const oht_key *key = oht_keys(&n);
    char x[OHT_KEY_TEXT_MAX], y[OHT_KEY_TEXT_MAX];
    for (int i = 0; i < n; i++) {
        bool skip = incidental(key[i].name);
        for (int k = 0; except[k]; k++) skip |= strcmp(except[k], key[i].name) == 0;
        if (skip) continue;
        oht_key_get(a, &key[i], x);
        oht_key_get(b, &key[i], y);
        if (strcmp(x, y) != 0) return false;
    }
    return true;
}

static int64_t seed_of(const oht_report_table *t, int run) {
    return t->run[run].cfg.train.seed;
}

// Keeps members sorted by seed. A second run of the same seed is the same experiment, not a sample more.
static void add_member(oht_report_table *t, oht_report_group *g, int run) {
    int at = g->n;
    for (int i = 0; i < g->n; i++)
        if (seed_of(t, g->member[i]) == seed_of(t, run)) {
            oht_warn("%s: the same configuration and seed as %s; counted once", t->run[run].path,
                     t->run[g->member[i]].path);
            return;
        }
    for (; at > 0 && seed_of(t, g->member[at - 1]) > seed_of(t, run); at--) g->member[at] = g->member[at - 1];
    g->member[at] = run;
    g->n++;
}

static oht_status find_group(oht_report_table *t, int run) {
    static const char *const seed[] = {"train.seed", NULL};
    for (int i = 0; i < t->n_groups; i++)
        if (same_but(&t->group[i].first->cfg, &t->run[run].cfg, seed)) {
            add_member(t, &t->group[i], run);
            return OHT_OK;
        }
    oht_report_group *g = &t->group[t->n_groups++];
    g->first = &t->run[run];
    OHT_TRY(OHT_ALLOC(&g->member, (size_t)t->n_runs, "runs of a group"));
    g->member[g->n++] = run;
    return OHT_OK;
}

// Models as they came, methods in Table 1's order.
static int method_rank(const char *method) {
    for (int i = 0; i < 3; i++) {
        if (strcmp(method, oht_report_base[i]) == 0) return 2 * i;
        if (strcmp(method, oht_report_with[i]) == 0) return 2 * i + 1;
    }
    return 6;
}

static void sort_groups(oht_report_table *t) { // by insertion: stable, and there are few
    for (int i = 1; i < t->n_groups; i++)
        for (int k = i; k > 0; k--) {
            oht_report_group *a = &t->group[k - 1], *b = &t->group[k], swap = *a;
            if (a->first->model != b->first->model ||
                method_rank(a->first->method) <= method_rank(b->first->method))
                break;
            *a = *b;
            *b = swap;
        }
}

static void measure_group(const oht_report_table *t, oht_report_group *g, double *value) {
    for (int m = 0; m < OHT_REPORT_METRICS; m++) {
        for (int i = 0; i < g->n; i++) value[i] = t->run[g->member[i]].metric[m];
        g->count[m] = summarize(value, g->n, &g->mean[m], &g->sd[m]);
    }
}

// "runs/opt-softmax1-seed" of ".../opt-softmax1-seed1", ".../opt-softmax1-seed2"; one run: its path. The last 40 bytes.
static void name_paths(const oht_report_table *t, const oht_report_group *g, char out[48]) {
    const char *path = g->first->path;
    int n = g->first->path_bytes;
    for (int i = 0; i < g->n; i++) {
        const oht_report_run *r = &t->run[g->member[i]];
        int k = 0;
        while (k < n && k < r->path_bytes && path[k] == r->path[k]) k++;
        n = k;
    }
    while (g->n > 1 && n > 0 && strchr("0123456789-_/.", path[n - 1])) n--;
    int from = n > 40 ? n - 40 : 0;
    while (from < n && ((unsigned char)path[from] & 0xC0) == 0x80) from++;
    snprintf(out, 48, "%s%.*s", from > 0 ? "..." : "", n - from, path + from);
}

static void label_groups(oht_report_table *t) {
    for (int i = 0; i < t->n_groups; i++) {
        oht_report_group *g = &t->group[i];
        char where[48];
        bool alone = true;
        for (int k = 0; k < t->n_groups; k++)
            alone &= k == i || t->group[k].first->model != g->first->model ||
                     strcmp(t->group[k].first->method, g->first->method) != 0;
        name_paths(t, g, where);
        if (alone || !where[0])
            snprintf(g->label, sizeof(g->label), "%s", g->first->method);
        else
            snprintf(g->label, sizeof(g->label), "%.40s: %s", g->first->method, where);
    }
}

// ---- pairs ----

static bool is_pair(const oht_report_group *a, const oht_report_group *b) {
    static const char *const except[] = {"train.seed", "model.attention", "model.alpha", NULL};
    for (int i = 0; i < 3; i++)
        if (strcmp(a->first->method, oht_report_base[i]) == 0 &&
            strcmp(b->first->method, oht_report_with[i]) == 0)
            return same_but(&a->first->cfg, &b->first->cfg, except);
    return false;
}

static void measure_pair(const oht_report_table *t, oht_report_pair *p, double *value) {
    for (int m = 0; m < OHT_REPORT_METRICS; m++) {
        double sd;
        p->reduction[m] = oht_report_reduction(p->base->mean[m], p->with->mean[m]);
        p->seeds = 0;
        for (int i = 0, k = 0; i < p->base->n; i++) { // both sorted by seed
            const oht_report_run *a = &t->run[p->base->member[i]];
            while (k < p->with->n && seed_of(t, p->with->member[k]) < a->cfg.train.seed) k++;
            if (k < p->with->n && seed_of(t, p->with->member[k]) == a->cfg.train.seed)
                value[p->seeds++] = t->run[p->with->member[k]].metric[m] - a->metric[m];
        }
        p->count[m] = summarize(value, p->seeds, &p->difference[m], &sd);
        p->half[m] = p->count[m] > 1 ? oht_report_student_t(p->count[m] - 1, 0.95) * sd / sqrt(p->count[m])
                                     : (double)NAN;
    }
}

static oht_status compare(oht_report_table *t, double *value) {
    size_t n = (size_t)t->n_runs;
    OHT_TRY(OHT_ALLOC(&t->group, n, "groups of runs"));
    for (int i = 0; i < t->n_runs; i++)
        if (!t->run[i].unfinished) OHT_TRY(find_group(t, i));
    sort_groups(t);
    for (int i = 0; i < t->n_groups; i++) measure_group(t, &t->group[i], value);
    label_groups(t);
    OHT_TRY(OHT_ALLOC(&t->pair, n * n, "pairs of groups"));
    for (int i = 0; i < t->n_groups; i++)
        for (int k = 0; k < t->n_groups; k++) {
            if (!is_pair(&t->group[i], &t->group[k])) continue;
            oht_report_pair *p = &t->pair[t->n_pairs++];
            p->base = &t->group[i];
            p->with = &t->group[k];
            measure_pair(t, p, value);
        }
    return OHT_OK;
}

oht_status oht_report_compare(oht_report_table *t) {
    double *value;
    OHT_TRY(OHT_ALLOC(&value, (size_t)t->n_runs, "values of runs"));
    oht_status status = compare(t, value);
    oht_free(value);
    return status;
}
