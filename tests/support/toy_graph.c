// Random graphs of toy operations (toy_graph.h).
#include "toy_graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t toy_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

// ---- the operation ----

static float element(oht_tensor t, int64_t e) {
    int64_t i = e % oht_tensor_count(t);
    return t.dtype == OHT_F32 ? oht_f32(t)[i] : (float)oht_i32(t)[i];
}

static void use_scratch(oht_run *run, const oht_node *node, size_t bytes) {
    if (bytes) memset(oht_scratch(run, node), 0x7f, bytes);
}

static void forward(oht_run *run, const oht_node *node) {
    const toy_attr *attr = node->attr;
    use_scratch(run, node, node->scratch_fwd);
    oht_tensor y = oht_get(run, node->out[0]);
    for (int64_t e = 0; e < oht_tensor_count(y); e++) {
        float sum = 0.01f * (float)e;
        for (int i = 0; i < node->n_in; i++) sum += attr->a[i] * element(oht_get(run, node->in[i]), e);
        oht_f32(y)[e] = sum;
        if (node->n_out > 1)
            oht_f32(oht_get(run, node->out[1]))[e] = sum - element(oht_get(run, node->in[0]), e);
        if (node->n_out > 2) oht_f32(oht_get(run, node->out[2]))[e] = 0.0f;
    }
}

static void backward(oht_run *run, const oht_node *node) {
    const toy_attr *attr = node->attr;
    use_scratch(run, node, node->scratch_bwd);
    const oht_tensor y = oht_get(run, node->out[0]); // shape
    const oht_tensor dy = oht_get_grad(run, node->out[0]);
    for (int i = 0; i < node->n_in; i++) {
        oht_tensor dx = oht_get_grad(run, node->in[i]);
        if (!dx.data || (i == node->share_grad && dx.data == dy.data)) continue;
        int64_t n = oht_tensor_count(dx);
        if (!oht_adds(run, node, i)) memset(dx.data, 0, (size_t)n * sizeof(float));
        for (int64_t e = 0; e < oht_tensor_count(y); e++) {
            float d = attr->a[i];
            for (int k = 0; k < node->n_in && i != node->share_grad; k++)
                if (node->keep_in >> k & 1u) d += 0.125f * element(oht_get(run, node->in[k]), e);
            for (int k = 0; k < node->n_out && i != node->share_grad; k++)
                if (node->keep_out >> k & 1u) d += 0.125f * element(oht_get(run, node->out[k]), e);
            oht_f32(dx)[e % n] += (dy.data ? oht_f32(dy)[e] : run->loss_scale) * d;
        }
    }
}

static double flops(const oht_run *run, const oht_node *node, bool backward_) {
    return (backward_ ? 2.0 : 1.0) * (double)oht_tensor_count(oht_get(run, node->out[0]));
}

const oht_op TOY_OP = {"toy", forward, backward, flops};

// ---- graphs ----

static oht_status alloc_host(oht_backend *be, void **out, size_t bytes, const char *what) {
    (void)be;
    (void)what;
    *out = aligned_alloc(64, (bytes + 64) / 64 * 64);
    return *out ? OHT_OK : OHT_MEMORY;
}
static void free_host(oht_backend *be, void *ptr) {
    (void)be;
    free(ptr);
}
static void copy_host(oht_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    memcpy(dst, src, bytes);
}
static void zero_host(oht_backend *be, void *dst, size_t bytes) {
    (void)be;
    memset(dst, 0, bytes);
}
static oht_status sync_host(oht_backend *be) {
    (void)be;
    return OHT_OK;
}

void toy_backend(oht_backend *be) {
    *be = (oht_backend){.name = "toy",
                        .threads = 1,
                        .alloc = alloc_host,
                        .free = free_host,
                        .upload = copy_host,
                        .download = copy_host,
                        .zero = zero_host,
                        .copy = copy_host,
                        .sync = sync_host};
}

void toy_params(oht_params *params, oht_param item[TOY_PARAMS]) {
    *params = (oht_params){.item = item, .n = TOY_PARAMS, .n_groups = 1};
    size_t at = 3; // padding in front, too
    for (int i = 0; i < TOY_PARAMS; i++) {
        item[i] =
            (oht_param){.rank = 1, .dim = {3 + i}, .count = 3 + i, .group = -1, .zero_row = -1, .offset = at};
        snprintf(item[i].name, sizeof(item[i].name), "p%d", i);
        at += (size_t)item[i].count + (size_t)(i % 3);
    }
    params->flat_count = at + 5;
}

// Which earlier value a node reads: mostly a recent one, now and then any.
static oht_value pick(oht_graph *g, const oht_value *value, int n, uint64_t *rng) {
    uint32_t r = toy_random(rng) % 8;
    if (r == 0)
        return oht_parameter(g, (int)(toy_random(rng) % (TOY_PARAMS - 1))); // the last one stays unused
    int window = r < 6 && n > 4 ? 4 : n;
    return value[n - 1 - (int)(toy_random(rng) % (uint32_t)window)];
}

oht_graph *toy_graph(oht_backend *be, const oht_params *params, toy_options opt, oht_value *loss) {
    oht_graph *g;
    if (oht_graph_create(&g, be, params, opt.mode, 2, 3) != OHT_OK) return NULL;
    uint64_t rng = opt.seed * 977 + 13;
    oht_value value[4 * TOY_NODES + 1];
    int n = 0;
    value[n++] = oht_input(g, OHT_FIELD_TOKENS, OHT_I32, OHT_ROWS_BATCH, 2, (int64_t[]){2, 3});
    bool open = false;
    for (int k = 0; k < opt.nodes; k++) {
        bool toggle = toy_random(&rng) % 4 == 0;
        if (opt.blocks && toggle) {
            if (open) oht_block_end(g);
            if (!open) oht_block_begin(g);
            open = !open;
        }
        oht_scope(g, "node.%d", k);
        oht_value in[3] = {k == 0 ? oht_parameter(g, 0) : pick(g, value, n, &rng)};
        int n_in = 1, wanted = 1 + (int)(toy_random(&rng) % 3);
        while (n_in < wanted) {
            oht_value v = pick(g, value, n, &rng);
            bool twice = false;
            for (int i = 0; i < n_in; i++) twice |= in[i].id == v.id;
            if (!twice) in[n_in] = v;
            if (!twice) n_in++;
            if (twice) wanted--;
        }
        toy_attr attr = {{0}};
        for (int i = 0; i < n_in; i++) attr.a[i] = 0.25f * (float)(toy_random(&rng) % 5) - 0.5f;
        // An output either as large as its first input, with the gradient passed through, or of any size.
        oht_tensor first = oht_shape(g, in[0]);
        bool through = first.dtype == OHT_F32 && first.rank == 1 && toy_random(&rng) % 3 == 0;
        int64_t length = through ? first.dim[0] : 1 + (int64_t)(toy_random(&rng) % 90);
        if (through) attr.a[0] = 1.0f;
        oht_node *node = oht_node_new(g, &TOY_OP, in, n_in, &attr, sizeof(attr));
        if (!node) break;
        int n_out = 1 + (int)(toy_random(&rng) % 3);
        for (int i = 0; i < n_out; i++) {
            oht_value v = oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1, &length);
            if (i < 2) value[n++] = v;
            if (i == 0) *loss = v;
        }
        node->keep_in = toy_random(&rng) & ((1u << n_in) - 1u);
        node->keep_out = toy_random(&rng) & ((1u << n_out) - 1u);
        node->scratch_fwd = toy_random(&rng) % 300;
        node->scratch_bwd = toy_random(&rng) % 300;
        if (through) node->share_grad = 0;
        if (toy_random(&rng) % 4 == 0) oht_tap(g, value[n - 1], "seen", OHT_TAP_TOKEN, 0, -1);
    }
    if (open) oht_block_end(g);
    return g;
}
