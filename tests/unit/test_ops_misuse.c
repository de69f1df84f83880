// Operations recorded with wrong shapes: planning fails, and says which operation, where in the model, what was found and
// what it must be.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net.h"

enum { M = 5 };

// Values of many shapes to misuse.
typedef struct shelf {
    oht_graph *g;
    oht_value x, x2, wide, vector, matrix, tokens, labels, mask, index, row, images, picture, targets;
} shelf;

static void misuse(void (*record)(const shelf *s), const char *words) {
    oht_params *params;
    assert_int_equal(oht_params_create(&params), OHT_OK);
    net_param(params, 3, (int64_t[]){B, T, C});
    net_param(params, 3, (int64_t[]){B, T, 3 * C + 1});
    net_param(params, 1, (int64_t[]){C});
    net_param(params, 2, (int64_t[]){M, C});
    net_param(params, 3, (int64_t[]){B, T, C});
    net_param(params, 2, (int64_t[]){1, C});
    net_param(params, 4, (int64_t[]){B, 4, 4, 3});
    assert_int_equal(oht_params_layout(params), OHT_OK);
    shelf s;
    assert_int_equal(oht_graph_create(&s.g, net_backend, params, OHT_TRAIN, B, T), OHT_OK);
    s.x = net_source(s.g, oht_parameter(s.g, 0), OHT_ROWS_BATCH);
    s.wide = net_source(s.g, oht_parameter(s.g, 1), OHT_ROWS_BATCH);
    s.vector = oht_parameter(s.g, 2);
    s.matrix = oht_parameter(s.g, 3);
    s.x2 = net_source(s.g, oht_parameter(s.g, 4), OHT_ROWS_FIXED);
    s.tokens = net_input(s.g, OHT_FIELD_TOKENS);
    s.labels = net_input(s.g, OHT_FIELD_LABELS);
    s.mask = net_input(s.g, OHT_FIELD_MASK);
    s.index = net_input(s.g, OHT_FIELD_POSITIONS);
    s.row = oht_parameter(s.g, 5);
    s.picture = net_source(s.g, oht_parameter(s.g, 6), OHT_ROWS_BATCH);
    s.images = oht_input(s.g, OHT_FIELD_IMAGES, OHT_U8, OHT_ROWS_BATCH, 4, (int64_t[]){B, 4, 6, 3});
    s.targets = oht_input(s.g, OHT_FIELD_TARGETS, OHT_F32, OHT_ROWS_BATCH, 2, (int64_t[]){B, M});
    oht_scope(s.g, "layer.7.attn");
    record(&s);
    assert_int_equal(oht_plan(s.g, OHT_NONE), OHT_INTERNAL);
    const char *text = oht_error_last()->text;
    if (!strstr(text, words) || !strstr(text, "layer.7.attn"))
        fail_msg("'%s' does not say '%s' and the scope", text, words);
    oht_graph_destroy(s.g);
    oht_params_destroy(params);
}

#define MISUSE(NAME, ...)                                                                                    \
    static void NAME(const shelf *s) {                                                                       \
        __VA_ARGS__;                                                                                         \
    }
MISUSE(bad_tokens, oht_embedding(s->g, s->x, s->matrix, -1))
MISUSE(bad_padding, oht_embedding(s->g, s->tokens, s->matrix, M))
MISUSE(bad_table, oht_add_rows(s->g, s->wide, s->matrix, 0, false))
MISUSE(bad_offset, oht_add_rows(s->g, s->x, s->matrix, M - T + 1, false))
MISUSE(bad_weight, oht_linear(s->g, s->wide, s->matrix, OHT_NONE))
MISUSE(bad_bias, oht_linear(s->g, s->x, s->matrix, s->vector))
MISUSE(no_x, oht_linear(s->g, OHT_NONE, s->matrix, OHT_NONE))
MISUSE(bad_gamma, oht_layernorm(s->g, s->wide, s->vector, s->vector, 1e-5f))
MISUSE(bad_rate, oht_dropout(s->g, s->x, 1.0f))
MISUSE(bad_dropout, oht_dropout(s->g, s->vector, 0.1f))
MISUSE(bad_sum, oht_residual(s->g, s->x, s->wide, 0.0f))
MISUSE(bad_rows, oht_residual(s->g, s->x, s->x2, 0.0f))
MISUSE(same_twice, oht_residual(s->g, s->x, s->x, 0.0f))
MISUSE(bad_qkv, oht_association(s->g, s->wide, OHT_NONE, (oht_assoc_spec){0}, H, true, 0.0f, NULL))
MISUSE(bad_mask, oht_association(s->g, oht_linear(s->g, s->x, s->matrix, OHT_NONE), s->tokens,
                                 (oht_assoc_spec){0}, 1, true, 0.0f, NULL))
MISUSE(bad_gate, oht_gate_heads(s->g, s->x, s->wide, &s->vector, 1,
                                (oht_gate){OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_gate_count,
       oht_gate_heads(s->g, s->x, s->x2, &s->vector, 1,
                      (oht_gate){OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_gate_shape,
       oht_gate_heads(s->g, s->x, s->x2, &s->vector, 1,
                      (oht_gate){OHT_GATE_UNCONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, H, 1}, NULL))
MISUSE(bad_index, oht_gather(s->g, s->x, s->tokens))
MISUSE(bad_labels, oht_lm_head(s->g, s->x, s->matrix, OHT_NONE, s->index))
MISUSE(bad_head, oht_lm_head(s->g, s->wide, s->matrix, OHT_NONE, s->labels))
MISUSE(bad_head_bias, oht_lm_head(s->g, s->x, s->matrix, s->vector, s->labels))
MISUSE(oblong_images, oht_patches(s->g, s->images, 2))
MISUSE(float_images, oht_patches(s->g, s->picture, 2))
MISUSE(no_images, oht_patches(s->g, OHT_NONE, 2))
MISUSE(bad_patch, oht_patches(s->g, s->images, 0))
MISUSE(bad_class_token, oht_prepend(s->g, s->x, s->matrix))
MISUSE(wide_class_token, oht_prepend(s->g, s->wide, s->row))
MISUSE(flat_prepend, oht_prepend(s->g, s->matrix, s->row))
MISUSE(token_prepend, oht_prepend(s->g, s->tokens, s->row))
MISUSE(flat_first, oht_first(s->g, s->matrix))
MISUSE(token_first, oht_first(s->g, s->tokens))
MISUSE(deep_class_head, oht_class_head(s->g, s->x, s->matrix, OHT_NONE, s->targets))
MISUSE(wide_class_head, oht_class_head(s->g, oht_first(s->g, s->wide), s->matrix, OHT_NONE, s->targets))
MISUSE(class_head_bias, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, s->vector, s->targets))
MISUSE(class_head_labels, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, OHT_NONE, s->labels))
MISUSE(class_head_nothing, oht_class_head(s->g, oht_first(s->g, s->x), s->matrix, OHT_NONE, OHT_NONE))
MISUSE(class_head_wide_targets, oht_class_head(s->g, oht_first(s->g, s->x), s->row, OHT_NONE, s->targets))
MISUSE(class_head_other_rows, oht_class_head(s->g, oht_first(s->g, s->x2), s->matrix, OHT_NONE, s->targets))

static void wrong_shapes_are_named(void **state) {
    (void)state;
    misuse(oblong_images, "patches: images (2,4,6,3) must be (B,S,S,3) u8, S a multiple of 2");
    misuse(float_images, "patches: images (2,4,4,3)");
    misuse(no_images, "patches: images (none)");
    misuse(bad_patch, "S a multiple of 0");
    misuse(bad_class_token, "prepend: x (2,3,8) must be (B,N,C), row (5,8) (1,C)");
    misuse(wide_class_token, "prepend: x (2,3,25)");
    misuse(flat_prepend, "prepend: x (5,8)");
    misuse(token_prepend, "prepend: x (2,3)");
    misuse(flat_first, "first: x (5,8) must be (B,T,C)");
    misuse(token_first, "first: x (2,3)");
    misuse(deep_class_head, "class_head: x (2,3,8) must be (B,C), w (5,8)");
    misuse(wide_class_head, "class_head: x (2,25)");
    misuse(class_head_bias, "class_head: bias (8) must be (5)");
    misuse(class_head_labels, "class_head: targets (2,3) must be (B,V) f32, one for each row of x (2,8)");
    misuse(class_head_nothing, "class_head: targets (none)");
    misuse(class_head_wide_targets, "class_head: targets (2,5)");
    misuse(class_head_other_rows, "class_head: targets (2,5)");
    misuse(bad_tokens, "embedding: tokens (2,3,8)");
    misuse(bad_padding, "embedding: padding id 5 of a table of 5 rows");
    misuse(bad_table, "add_rows: x (2,3,25) must be (B,T,C), table (5,8)");
    misuse(bad_offset, "add_rows: rows 3 to 5 of a table of 5");
    misuse(bad_weight, "linear: x (2,3,25) must be (...,K), w (5,8)");
    misuse(bad_bias, "linear: bias (8) must be (5)");
    misuse(no_x, "linear: x (none)");
    misuse(bad_gamma, "layernorm: x (2,3,25)");
    misuse(bad_rate, "p = 1 in [0,1)");
    misuse(bad_dropout, "dropout: x (8)");
    misuse(bad_sum, "residual: x (2,3,8) and f (2,3,25)");
    misuse(bad_rows, "residual: x (2,3,8) and f (2,3,8)");
    misuse(same_twice, "residual takes source twice");
    misuse(bad_qkv, "association: qkv (2,3,25) must be (B,T,3C) with C a multiple of 2 heads");
    misuse(bad_mask, "association:");
    misuse(bad_gate, "gate: x (2,3,8) and context (2,3,25)");
    misuse(bad_gate_count, "gate: 1 parameters, this form has 2");
    misuse(bad_gate_shape, "gate: parameter 0 (p2) is (8), expected (2)");
    misuse(bad_index, "gather: x (2,3,8) must be (B,T,C), index (2,3)");
    misuse(bad_labels, "lm_head: labels (4) must be i32, one for each row of x (2,3,8)");
    misuse(bad_head, "lm_head: x (2,3,25)");
    misuse(bad_head_bias, "lm_head: bias (8) must be (5)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_shapes_are_named),
    };
    return cmocka_run_group_tests(tests, net_create_backend, net_destroy_backend);
}
