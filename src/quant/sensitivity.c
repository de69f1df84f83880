// Which tensors the loss pays for: one group of sites at a time (a site, all of a kind, all of a layer) stays
// in full precision, with the ranges of all others as they were calibrated, and what the loss recovers ranks
// the groups.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oht/log.h"
#include "oht/memory.h"
#include "quant/internal.h"

static void group_of(const oht_quant_site *s, oht_quant_level level, char out[96]) {
    if (level == OHT_QUANT_BY_SITE)
        memcpy(out, s->name, sizeof(s->name));
    else if (level == OHT_QUANT_BY_KIND)
        snprintf(out, 96, "%s", s->kind);
    else if (s->layer >= 0)
        snprintf(out, 96, "layer.%d", s->layer);
    else
        snprintf(out, 96, "outside layers");
}

// Distinct groups in order of their first site.
static oht_status list_groups(const oht_quant *q, oht_quant_level level, oht_quant_rank **out, int *n) {
    *n = 0;
    OHT_TRY(OHT_ALLOC(out, (size_t)q->n_sites, "groups of sites"));
    for (int i = 0; i < q->n_sites; i++) {
        char name[96];
        if (q->site[i].bits == 0) continue;
        group_of(&q->site[i], level, name);
        bool known = false;
        for (int k = 0; k < *n; k++) known |= strcmp((*out)[k].name, name) == 0;
        if (!known) memcpy((*out)[(*n)++].name, name, sizeof(name));
    }
    return OHT_OK;
}

static oht_status leave_exact(oht_quant *q, oht_quant_level level, const char *group, bool off) {
    for (int i = 0; i < q->n_sites; i++) {
        char name[96];
        group_of(&q->site[i], level, name);
        if (q->site[i].bits == 0 || strcmp(name, group) != 0) continue;
        q->place[i].off = off;
        if (q->site[i].weight) OHT_TRY(quant_apply_weight(q, i));
    }
    return OHT_OK;
}

static int most_costly(const void *a, const void *b) {
    const oht_quant_rank *x = a, *y = b;
    if (x->recovered != y->recovered) return x->recovered > y->recovered ? -1 : 1;
    return strcmp(x->name, y->name);
}

static oht_status measure(oht_quant *q, oht_quant_level level, int64_t max_batches, oht_quant_rank *rank,
                          int n) {
    oht_eval_result all;
    OHT_TRY(oht_quant_evaluate(q, max_batches, false, &all));
    for (int k = 0; k < n; k++) {
        oht_eval_result one;
        OHT_TRY(oht_agree(q->s->comm, leave_exact(q, level, rank[k].name, true)));
        oht_status status = oht_quant_evaluate(q, max_batches, false, &one);
        OHT_TRY(oht_agree(q->s->comm, leave_exact(q, level, rank[k].name, false)));
        OHT_TRY(status);
        rank[k].loss = one.loss;
        rank[k].recovered = all.loss - one.loss;
    }
    qsort(rank, (size_t)n, sizeof(*rank), most_costly);
    return OHT_OK;
}

oht_status oht_quant_sensitivity(oht_quant *q, oht_quant_level level, int64_t max_batches,
                                 oht_quant_rank **out, int *n) {
    *out = NULL;
    *n = 0;
    oht_status status = oht_agree(q->s->comm, list_groups(q, level, out, n));
    if (status == OHT_OK) status = measure(q, level, max_batches, *out, *n);
    if (status == OHT_OK) return OHT_OK;
    oht_free(*out);
    *out = NULL;
    return status;
}
