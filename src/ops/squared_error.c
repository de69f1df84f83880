// Loss of forecasts: sum of (x - y)^2 over everything, dx = 2 loss_scale (x - y) = -dy. With loss_scale = 1 / number of values of
// the global batch that is the mean squared error, however samples are dealt to ranks. Evaluation also measures the sums of the
// other errors of spec stanhop 3.4: run->measured[0..2] as forecast_errors of backend.h.
#include "oht/op.h"
#include "ops/common.h"

static void forward(oht_run *run, const oht_node *node) {
    oht_loss loss = oht_loss_of(run, false);
    run->be->squared_error(run->be, OHT_NO_TENSOR, oht_get(run, node->in[0]), oht_get(run, node->in[1]), &loss, false);
    if (oht_graph_mode(run->graph) == OHT_EVAL)
        run->be->forecast_errors(run->be, oht_get(run, node->in[0]), oht_get(run, node->in[1]), run->measured);
}

static void backward(oht_run *run, const oht_node *node) {
    oht_loss loss = oht_loss_of(run, true);
    loss.sum = NULL; // counted in forward
    for (int i = 0; i < 2; i++)
        if (oht_get_grad(run, node->in[i]).data)
            run->be->squared_error(run->be, oht_get_grad(run, node->in[i]), oht_get(run, node->in[i]),
                                   oht_get(run, node->in[1 - i]), &loss, oht_adds(run, node, i));
}

static const oht_op SQUARED_ERROR = {"squared_error", forward, backward, NULL};

oht_value oht_squared_error(oht_graph *g, oht_value x, oht_value y) {
    oht_tensor a = oht_shape(g, x), b = oht_shape(g, y);
    if (a.rank < 2 || a.dtype != OHT_F32 || !oht_same_shape(a, b) || oht_value_rows(g, x) != oht_value_rows(g, y))
        return oht_graph_fail(g, "squared_error: x %s and y %s must have the same shape", oht_shape_text(a).text,
                              oht_shape_text(b).text);
    oht_value in[] = {x, y};
    oht_node *node = oht_node_new(g, &SQUARED_ERROR, in, 2, NULL, 0);
    if (!node) return OHT_NONE;
    node->keep_in = 3;
    return oht_node_output(g, node, OHT_F32, OHT_ROWS_FIXED, 1, (int64_t[]){1}); // a name; the number is run->loss_sum
}
