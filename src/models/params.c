// The parameter table: registration, flat layout, initial values, decay rules.
//
// Layout: groups in reverse order of registration, so that the flat gradient fills front to back while
// backward runs and a tied table, registered first, comes last. A group (a run of parameters with the same
// group number, or a parameter of its own) starts at a multiple of 16 floats = 64 bytes and has no gaps
// inside.
//
// Initial values: element e of a parameter is a pure function of (seed, name, e): counter {e / 4, low and
// high word of the name's hash, purpose}. The name and not the place counts, so that two models that differ
// in their gates start from the same weights everywhere else.
#include "oht/params.h"

#include <math.h>
#include <string.h>

#include "oht/memory.h"
#include "oht/random.h"

enum { GROUP_ALIGN = 16 }; // floats

oht_status oht_params_create(oht_params **out) {
    return OHT_ALLOC(out, 1, "parameter table");
}

void oht_params_destroy(oht_params *params) {
    if (params == NULL) return;
    oht_free(params->item);
    oht_free(params);
}

const oht_param *oht_params_find(const oht_params *params, const char *name) {
    for (int i = 0; i < params->n; i++)
        if (strcmp(params->item[i].name, name) == 0) return &params->item[i];
    return NULL;
}

static oht_status check(const oht_params *params, const oht_param *p) {
    if (p->name[0] == '\0' || memchr(p->name, '\0', sizeof p->name) == NULL ||
        memchr(p->hf_name, '\0', sizeof p->hf_name) == NULL)
        OHT_FAIL(OHT_INTERNAL, "parameter %d: empty name or a name without end", params->n);
    if (oht_params_find(params, p->name) != NULL)
        OHT_FAIL(OHT_INTERNAL, "parameter '%s' is registered twice", p->name);
    if (p->rank < 1 || p->rank > 4)
        OHT_FAIL(OHT_INTERNAL, "parameter '%s': rank %d, expected 1 to 4", p->name, p->rank);
    int64_t count = 1;
    for (int k = 0; k < p->rank; k++)
        if (p->dim[k] < 1 || __builtin_mul_overflow(count, p->dim[k], &count))
            OHT_FAIL(OHT_CONFIG, "parameter '%s': dimension %d is %lld, expected at least 1", p->name, k,
                     (long long)p->dim[k]);
    if (p->zero_row < -1 || p->zero_row >= p->dim[0])
        OHT_FAIL(OHT_CONFIG, "parameter '%s' has %lld rows, so no row %lld\nfix: a larger model.vocab_size",
                 p->name, (long long)p->dim[0], (long long)p->zero_row);
    for (int i = 0; p->group >= 0 && i + 1 < params->n; i++)
        if (params->item[i].group == p->group && params->item[i + 1].group != p->group)
            OHT_FAIL(OHT_INTERNAL, "parameter '%s': group %d was left before", p->name, p->group);
    return OHT_OK;
}

oht_status oht_params_add(oht_params *params, const oht_param *param, int *id) {
    OHT_TRY(check(params, param));
    OHT_TRY(OHT_RESERVE(&params->item, &params->capacity, (size_t)params->n, "parameter table"));
    oht_param *p = &params->item[params->n];
    *p = *param;
    p->count = 1;
    for (int k = 0; k < p->rank; k++) p->count *= p->dim[k];
    p->offset = 0;
    if (p->group < 0) p->group = -1;
    if (p->group >= params->n_groups) params->n_groups = p->group + 1;
    *id = params->n++;
    return OHT_OK;
}

// First parameter of the run that ends with `last`.
static int group_first(const oht_params *params, int last) {
    int first = last;
    const int group = params->item[last].group;
    while (group >= 0 && first > 0 && params->item[first - 1].group == group) first--;
    return first;
}

oht_status oht_params_layout(oht_params *params) {
    size_t at = 0;
    for (int last = params->n - 1; last >= 0;) {
        const int first = group_first(params, last);
        for (int i = first; i <= last; i++) {
            params->item[i].offset = at;
            if (__builtin_add_overflow(at, (size_t)params->item[i].count, &at) || at > SIZE_MAX / 8)
                OHT_FAIL(OHT_MEMORY, "the parameters do not fit into the address space ('%s')",
                         params->item[i].name);
        }
        at = (at + GROUP_ALIGN - 1) / GROUP_ALIGN * GROUP_ALIGN;
        last = first - 1;
    }
    params->flat_count = at;
    return OHT_OK;
}

int64_t oht_params_count(const oht_params *params) {
    int64_t count = 0;
    for (int i = 0; i < params->n; i++) count += params->item[i].count;
    return count;
}

// FNV-1a, 64 bits: identity of a parameter for the random numbers.
static uint64_t name_hash(const char *name) {
    uint64_t h = 14695981039346656037u;
    for (; *name != '\0'; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h;
}

// Four elements from one block of 128 bits; normal numbers by Box-Muller (two pairs).
static void draw4(const oht_param *p, uint64_t seed, uint64_t hash, uint32_t block, float out[4]) {
    const philox4x32_ctr_t r =
        oht_random_block(seed, OHT_DRAW_INIT, 0, (uint32_t)(hash >> 32), (uint32_t)hash, block);
    if (p->init == OHT_INIT_UNIFORM) {
        for (int i = 0; i < 4; i++) out[i] = p->init_arg * (2.0f * oht_uniform(r.v[i]) - 1.0f);
        return;
    }
    for (int i = 0; i < 4; i += 2) {
        const float radius = p->init_arg * sqrtf(-2.0f * logf(oht_uniform_open(r.v[i])));
        const float angle = 6.283185307f * oht_uniform(r.v[i + 1]);
        out[i] = radius * cosf(angle);
        out[i + 1] = radius * sinf(angle);
    }
}

static void init_one(const oht_param *p, float *x, uint64_t seed) {
    if (p->init == OHT_INIT_ZERO || p->init == OHT_INIT_CONSTANT) {
        for (int64_t e = 0; e < p->count; e++) x[e] = p->init == OHT_INIT_ZERO ? 0.0f : p->init_arg;
    } else {
        const uint64_t hash = name_hash(p->name);
#pragma omp parallel for schedule(static)
        for (int64_t e = 0; e < p->count; e += 4) {
            float four[4];
            draw4(p, seed, hash, (uint32_t)(e / 4), four);
            for (int64_t i = 0; i < 4 && e + i < p->count; i++) x[e + i] = four[i];
        }
    }
    if (p->zero_row >= 0) {
        const int64_t width = p->count / p->dim[0];
        memset(x + p->zero_row * width, 0, (size_t)width * sizeof *x);
    }
}

void oht_params_init(const oht_params *params, float *flat, uint64_t seed) {
    memset(flat, 0, params->flat_count * sizeof *flat); // padding too
    for (int i = 0; i < params->n; i++) init_one(&params->item[i], flat + params->item[i].offset, seed);
}

bool oht_param_decays(const oht_param *p, oht_no_decay rule) {
    if (p->role == OHT_ROLE_BIAS) return false;
    switch (rule) {
    case OHT_NO_DECAY_BIAS_NORM:
        return p->role != OHT_ROLE_NORM_GAIN;
    case OHT_NO_DECAY_BIAS:
        return true;
    case OHT_NO_DECAY_VECTORS:
        return p->rank > 1 && p->role != OHT_ROLE_POSITION;
    }
    return true;
}
