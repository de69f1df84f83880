// Small helpers of the operations (src/ops/common.h).
#include "ops/common.h"

#include "oht/op.h"

#include <stdio.h>

shape_text oht_shape_text(oht_tensor t) {
    shape_text s = {"(none)"};
    if (t.rank == 0) return s;
    size_t n = 0;
    for (int i = 0; i < t.rank; i++)
        n += (size_t)snprintf(s.text + n, sizeof(s.text) - n, "%c%lld", i == 0 ? '(' : ',',
                              (long long)t.dim[i]);
    snprintf(s.text + n, sizeof(s.text) - n, ")");
    return s;
}

bool oht_same_shape(oht_tensor a, oht_tensor b) {
    bool same = a.rank == b.rank && a.dtype == b.dtype;
    for (int i = 0; same && i < a.rank; i++) same = a.dim[i] == b.dim[i];
    return same;
}

bool oht_is_vector(oht_tensor t, int64_t n) {
    return t.rank == 1 && t.dtype != OHT_I32 && t.dtype != OHT_U8 && t.dim[0] == n;
}

size_t oht_tensor_bytes(oht_tensor t) {
    return (size_t)oht_tensor_count(t) * oht_dtype_size(t.dtype);
}

bool oht_adds_all(const oht_run *run, const oht_node *node, int first, int n) {
    bool any = false;
    for (int i = first; i < first + n; i++) any |= node->in[i].id >= 0 && oht_adds(run, node, i);
    for (int i = first; any && i < first + n; i++) {
        oht_tensor d = oht_get_grad(run, node->in[i]);
        if (d.data && !oht_adds(run, node, i)) run->be->zero(run->be, d.data, oht_tensor_bytes(d));
    }
    return any;
}

void oht_see_inside(oht_run *run, int site, oht_tensor x) {
    if (!run->quant || site < 0) return;
    const oht_site_info *list;
    oht_graph_site_list(run->graph, &list);
    int64_t n = x.dim[x.rank - 1];
    oht_site_view view = {.x = oht_f32(x), .rows = oht_tensor_rows(x), .n = n, .ld = n};
    run->quant->see(run->quant, run, &list[site], &view);
}

void oht_add_or_copy(const oht_run *run, oht_tensor y, oht_tensor x, bool add) {
    if (!add && y.dtype != x.dtype) run->be->zero(run->be, y.data, oht_tensor_bytes(y));
    if (add || y.dtype != x.dtype)
        run->be->add(run->be, y, x);
    else
        run->be->copy(run->be, y.data, x.data, oht_tensor_bytes(y));
}
