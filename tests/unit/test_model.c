// Models as tables: published parameter counts, Hugging Face names, initialisers, decay by name, layout, and configurations
// they must refuse. As recordings: test_model_graph.c.
#include <stdio.h>

#include "check.h"
#include "oht/memory.h"
#include "oht/model.h"
#include "small_model.h"

static int64_t count(const oht_model_config *cfg) {
    oht_model *m = create_model(cfg);
    const int64_t n = oht_params_count(oht_model_params(m));
    oht_model_destroy(m);
    return n;
}

static oht_config job(const char *file) {
    oht_config cfg;
    char path[OHT_PATH];
    snprintf(path, sizeof path, "%s/jobs/%s.yaml", OHT_SOURCE_DIR, file);
    oht_config_defaults(&cfg);
    OK(oht_config_load(&cfg, path));
    OK(oht_config_check(&cfg));
    return cfg;
}

static void test_counts(void **state) { // spec transformers 2, to the unit
    (void)state;
    const struct {
        const char *file;
        int64_t count;
    } jobs[] = {
        {"opt-125m", 124059648},      {"opt-6l12h", 81532416},     {"opt-350m", 343543808},
        {"opt-1.3b", 1252458496},     {"opt-125m-hub", 125239296}, {"opt-350m-hub", 331196416},
        {"opt-1.3b-hub", 1315758080}, {"bert-base", 109514298},    {"bert-6l12h", 66790458},
    };
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        const oht_config cfg = job(jobs[i].file);
        if (count(&cfg.model) != jobs[i].count)
            fail_msg("%s: %lld parameters, published %lld", jobs[i].file, (long long)count(&cfg.model),
                     (long long)jobs[i].count);
    }
    job("opt-mini");
    job("bert-mini");
}

static void test_gate_counts(void **state) {
    (void)state;
    const struct {
        oht_gate_kind kind;
        oht_gate_form form;
        int64_t per_layer;
    } gates[] = {
        {OHT_GATE_NONE, OHT_GATE_MLP, 0},
        {OHT_GATE_UNCONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, 12},
        {OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_LINEAR, 12 * 65},
        {OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_LINEAR, 12 * 65},
        {OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_MLP, 12684},
        {OHT_GATE_CONDITIONAL_PER_HEAD, OHT_GATE_MLP2, 50700},
        {OHT_GATE_CONDITIONAL_PER_TOKEN, OHT_GATE_ALL_FEATURES, 9228},
    };
    const char *files[] = {"bert-base", "opt-125m"};
    for (int f = 0; f < 2; f++) {
        oht_config cfg = job(files[f]);
        const int64_t bare = count(&cfg.model);
        for (size_t i = 0; i < sizeof gates / sizeof *gates; i++) {
            cfg.model.gate = gates[i].kind;
            cfg.model.gate_form = gates[i].form;
            assert_int_equal(count(&cfg.model) - bare, 12 * gates[i].per_layer);
        }
    }
}

static void test_names(void **state) {
    (void)state;
    const char *const opt[][2] = {
        {"embed.tokens.weight", "model.decoder.embed_tokens.weight"},
        {"project_in.weight", "model.decoder.project_in.weight"},
        {"embed.positions.weight", "model.decoder.embed_positions.weight"},
        {"layer.0.ln1.weight", "model.decoder.layers.0.self_attn_layer_norm.weight"},
        {"layer.0.ln1.bias", "model.decoder.layers.0.self_attn_layer_norm.bias"},
        {"layer.0.attn.q.weight", "model.decoder.layers.0.self_attn.q_proj.weight"},
        {"layer.0.attn.k.weight", "model.decoder.layers.0.self_attn.k_proj.weight"},
        {"layer.0.attn.v.weight", "model.decoder.layers.0.self_attn.v_proj.weight"},
        {"layer.0.attn.q.bias", "model.decoder.layers.0.self_attn.q_proj.bias"},
        {"layer.0.attn.k.bias", "model.decoder.layers.0.self_attn.k_proj.bias"},
        {"layer.0.attn.v.bias", "model.decoder.layers.0.self_attn.v_proj.bias"},
        {"layer.0.attn.out.weight", "model.decoder.layers.0.self_attn.out_proj.weight"},
        {"layer.0.attn.out.bias", "model.decoder.layers.0.self_attn.out_proj.bias"},
        {"layer.0.ln2.weight", "model.decoder.layers.0.final_layer_norm.weight"},
        {"layer.0.ln2.bias", "model.decoder.layers.0.final_layer_norm.bias"},
        {"layer.0.ffn1.weight", "model.decoder.layers.0.fc1.weight"},
        {"layer.0.ffn1.bias", "model.decoder.layers.0.fc1.bias"},
        {"layer.0.ffn2.weight", "model.decoder.layers.0.fc2.weight"},
        {"layer.0.ffn2.bias", "model.decoder.layers.0.fc2.bias"},
        {"final_ln.weight", "model.decoder.final_layer_norm.weight"},
        {"final_ln.bias", "model.decoder.final_layer_norm.bias"},
        {"project_out.weight", "model.decoder.project_out.weight"},
    };
    const char *const bert[][2] = {
        {"embed.tokens.weight", "bert.embeddings.word_embeddings.weight"},
        {"embed.types.weight", "bert.embeddings.token_type_embeddings.weight"},
        {"embed.positions.weight", "bert.embeddings.position_embeddings.weight"},
        {"embed.ln.weight", "bert.embeddings.LayerNorm.weight"},
        {"embed.ln.bias", "bert.embeddings.LayerNorm.bias"},
        {"layer.0.attn.q.weight", "bert.encoder.layer.0.attention.self.query.weight"},
        {"layer.0.attn.k.weight", "bert.encoder.layer.0.attention.self.key.weight"},
        {"layer.0.attn.v.weight", "bert.encoder.layer.0.attention.self.value.weight"},
        {"layer.0.attn.q.bias", "bert.encoder.layer.0.attention.self.query.bias"},
        {"layer.0.attn.k.bias", "bert.encoder.layer.0.attention.self.key.bias"},
        {"layer.0.attn.v.bias", "bert.encoder.layer.0.attention.self.value.bias"},
        {"layer.0.attn.out.weight", "bert.encoder.layer.0.attention.output.dense.weight"},
        {"layer.0.attn.out.bias", "bert.encoder.layer.0.attention.output.dense.bias"},
        {"layer.0.ln1.weight", "bert.encoder.layer.0.attention.output.LayerNorm.weight"},
        {"layer.0.ln1.bias", "bert.encoder.layer.0.attention.output.LayerNorm.bias"},
        {"layer.0.ffn1.weight", "bert.encoder.layer.0.intermediate.dense.weight"},
        {"layer.0.ffn1.bias", "bert.encoder.layer.0.intermediate.dense.bias"},
        {"layer.0.ffn2.weight", "bert.encoder.layer.0.output.dense.weight"},
        {"layer.0.ffn2.bias", "bert.encoder.layer.0.output.dense.bias"},
        {"layer.0.ln2.weight", "bert.encoder.layer.0.output.LayerNorm.weight"},
        {"layer.0.ln2.bias", "bert.encoder.layer.0.output.LayerNorm.bias"},
        {"head.transform.weight", "cls.predictions.transform.dense.weight"},
        {"head.transform.bias", "cls.predictions.transform.dense.bias"},
        {"head.ln.weight", "cls.predictions.transform.LayerNorm.weight"},
        {"head.ln.bias", "cls.predictions.transform.LayerNorm.bias"},
        {"head.bias", "cls.predictions.bias"},
    };
    oht_model_config cfg = small_model(OHT_MODEL_OPT);
    cfg.layers = 1;
    cfg.embed_width = 8;
    for (int k = 0; k < 2; k++) { // the whole table, in the order of the forward pass
        oht_model *m = create_model(&cfg);
        const oht_params *p = oht_model_params(m);
        const char *const(*want)[2] = k == 0 ? opt : bert;
        assert_int_equal(p->n, k == 0 ? sizeof opt / sizeof *opt : sizeof bert / sizeof *bert);
        for (int i = 0; i < p->n; i++) {
            assert_string_equal(p->item[i].name, want[i][0]);
            assert_string_equal(p->item[i].hf_name, want[i][1]);
        }
        oht_model_destroy(m);
        cfg = small_model(OHT_MODEL_BERT);
        cfg.layers = 1;
    }
}

// Decay by role is decay by name, as the published scripts decide it.
static void test_decay(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++)
        for (int form = 0; form < 4; form++) {
            oht_model_config cfg = small_model((oht_model_type)type);
            cfg.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
            cfg.gate_form = (oht_gate_form)form;
            oht_model *m = create_model(&cfg);
            const oht_params *p = oht_model_params(m);
            const char *gain = type == OHT_MODEL_BERT ? "LayerNorm.weight" : "layer_norm.weight";
            for (int i = 0; i < p->n; i++) {
                const bool bias = strstr(p->item[i].hf_name, "bias") != NULL;
                const bool norm = strstr(p->item[i].hf_name, gain) != NULL;
                assert_int_equal(oht_param_decays(&p->item[i], OHT_NO_DECAY_BIAS), !bias);
                assert_int_equal(oht_param_decays(&p->item[i], OHT_NO_DECAY_BIAS_NORM), !bias && !norm);
                assert_int_equal(oht_param_decays(&p->item[i], OHT_NO_DECAY_VECTORS),
                                 !bias && !norm && strstr(p->item[i].name, "positions") == NULL);
            }
            oht_model_destroy(m);
        }
}

static void expect(const oht_params *p, const char *name, oht_init init, double arg, int64_t zero_row) {
    const oht_param *x = oht_params_find(p, name);
    if (x == NULL) fail_msg("no parameter %s", name);
    if (x->init != init || !(fabs((double)x->init_arg - arg) <= 1e-6 * fabs(arg)) || x->zero_row != zero_row)
        fail_msg("%s: init %d (%g) zero row %lld, expected %d (%g) %lld", name, x->init, (double)x->init_arg,
                 (long long)x->zero_row, init, arg, (long long)zero_row);
}

static void test_initialisers(void **state) { // spec transformers 1.5, 2.1, 2.2
    (void)state;
    const double torch = 1 / sqrt(24), torch8 = 1 / sqrt(8);
    for (int type = 0; type < 2; type++) {
        oht_model_config cfg = small_model((oht_model_type)type);
        const bool bert = type == OHT_MODEL_BERT;
        if (!bert) cfg.embed_width = 16;
        cfg.init_std = bert ? 0.02 : 0.006;
        oht_model *m = create_model(&cfg);
        const oht_params *p = oht_model_params(m);
        expect(p, "embed.tokens.weight", OHT_INIT_NORMAL, cfg.init_std, bert ? 0 : 1);
        expect(p, "embed.positions.weight", OHT_INIT_NORMAL, cfg.init_std, -1);
        assert_int_equal(oht_params_find(p, "embed.positions.weight")->dim[0], bert ? 16 : 18);
        const char *qkv[] = {"q", "k", "v"};
        for (int i = 0; i < 3; i++) { // modules rebuilt by the published code
            char name[64];
            snprintf(name, sizeof name, "layer.2.attn.%s.weight", qkv[i]);
            expect(p, name, OHT_INIT_UNIFORM, torch, -1);
            snprintf(name, sizeof name, "layer.2.attn.%s.bias", qkv[i]);
            expect(p, name, OHT_INIT_UNIFORM, torch, -1);
        }
        expect(p, "layer.2.attn.out.weight", bert ? OHT_INIT_NORMAL : OHT_INIT_UNIFORM, bert ? 0.02 : torch,
               -1);
        expect(p, "layer.2.attn.out.bias", bert ? OHT_INIT_ZERO : OHT_INIT_UNIFORM, bert ? 0 : torch, -1);
        expect(p, "layer.2.ffn1.weight", OHT_INIT_NORMAL, cfg.init_std, -1);
        expect(p, "layer.2.ffn2.bias", OHT_INIT_ZERO, 0, -1);
        expect(p, "layer.2.ln1.weight", OHT_INIT_CONSTANT, 1, -1);
        expect(p, "layer.2.ln2.bias", OHT_INIT_ZERO, 0, -1);
        if (bert) {
            expect(p, "embed.types.weight", OHT_INIT_NORMAL, 0.02, -1);
            expect(p, "head.transform.weight", OHT_INIT_NORMAL, 0.02, -1);
            expect(p, "head.bias", OHT_INIT_ZERO, 0, -1);
        } else {
            expect(p, "project_in.weight", OHT_INIT_NORMAL, 0.006, -1);
            expect(p, "project_out.weight", OHT_INIT_NORMAL, 0.006, -1);
            assert_null(oht_params_find(p, "project_in.bias"));
        }
        oht_model_destroy(m);

        cfg.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
        cfg.gate_init = 0.25;
        m = create_model(&cfg);
        expect(oht_model_params(m), "layer.0.attn.gate.weight", OHT_INIT_UNIFORM, torch8, -1);
        expect(oht_model_params(m), "layer.0.attn.gate.bias", OHT_INIT_CONSTANT, -1.0986122886681098, -1);
        oht_model_destroy(m);
        cfg.gate_fine_tuning = true;
        m = create_model(&cfg);
        expect(oht_model_params(m), "layer.0.attn.gate.weight", OHT_INIT_NORMAL, bert ? 0.01 : 0.001, -1);
        oht_model_destroy(m);
        cfg.gate_form = OHT_GATE_MLP; // ignores gate_init
        m = create_model(&cfg);
        expect(oht_model_params(m), "layer.0.attn.gate.1.weight", OHT_INIT_UNIFORM, torch8, -1);
        expect(oht_model_params(m), "layer.0.attn.gate.1.bias", OHT_INIT_UNIFORM, torch8, -1);
        expect(oht_model_params(m), "layer.0.attn.gate.2.weight", OHT_INIT_UNIFORM, 1 / sqrt(2), -1);
        expect(oht_model_params(m), "layer.0.attn.gate.2.bias", OHT_INIT_UNIFORM, 1 / sqrt(2), -1);
        oht_model_destroy(m);
        cfg.gate_form = OHT_GATE_ALL_FEATURES;
        m = create_model(&cfg);
        expect(oht_model_params(m), "layer.0.attn.gate.weight", OHT_INIT_UNIFORM, torch, -1);
        expect(oht_model_params(m), "layer.0.attn.gate.bias", OHT_INIT_UNIFORM, torch, -1);
        oht_model_destroy(m);
        cfg.gate = OHT_GATE_UNCONDITIONAL_PER_HEAD;
        m = create_model(&cfg);
        expect(oht_model_params(m), "layer.0.attn.gate.alpha", OHT_INIT_ZERO, 0, -1);
        oht_model_destroy(m);
    }
}

static void test_layout(void **state) {
    (void)state;
    oht_model_config cfg = small_model(OHT_MODEL_OPT);
    cfg.width = cfg.embed_width = 18; // 18 and 3 * 18 * 18 are no multiples of 16
    oht_model *m = create_model(&cfg);
    const oht_params *p = oht_model_params(m);
    const oht_param *tokens = &p->item[0], *last = &p->item[p->n - 1];
    assert_string_equal(tokens->name, "embed.tokens.weight");
    assert_true(tokens->offset + (size_t)tokens->count <= p->flat_count);
    for (int i = 1; i < p->n; i++) assert_true(p->item[i].offset < tokens->offset); // the tied table is last
    assert_int_equal(last->offset, 0);
    for (int l = 0; l < 3; l++)
        for (int bias = 0; bias < 2; bias++) {
            const oht_param *x[3];
            for (int i = 0; i < 3; i++) {
                char name[64];
                snprintf(name, sizeof name, "layer.%d.attn.%c.%s", l, "qkv"[i], bias ? "bias" : "weight");
                x[i] = oht_params_find(p, name);
                assert_non_null(x[i]);
            }
            assert_int_equal(x[0]->offset % 16, 0);
            assert_int_equal(x[1]->offset, x[0]->offset + (size_t)x[0]->count);
            assert_int_equal(x[2]->offset, x[1]->offset + (size_t)x[1]->count);
        }
    oht_model_destroy(m);
}

// Models that differ in their gates only start from the same weights elsewhere.
static void test_same_start(void **state) {
    (void)state;
    oht_model_config cfg = small_model(OHT_MODEL_BERT);
    oht_model *plain = create_model(&cfg);
    cfg.gate = OHT_GATE_CONDITIONAL_PER_TOKEN;
    cfg.gate_form = OHT_GATE_MLP;
    oht_model *gated = create_model(&cfg);
    const oht_params *a = oht_model_params(plain), *b = oht_model_params(gated);
    float *x, *y;
    OK(OHT_ALLOC(&x, a->flat_count, "x"));
    OK(OHT_ALLOC(&y, b->flat_count, "y"));
    oht_params_init(a, x, 1000);
    oht_params_init(b, y, 1000);
    for (int i = 0; i < a->n; i++) {
        const oht_param *other = oht_params_find(b, a->item[i].name);
        assert_non_null(other);
        assert_memory_equal(x + a->item[i].offset, y + other->offset, (size_t)other->count * sizeof *x);
    }
    const oht_param *q0 = oht_params_find(a, "layer.0.attn.q.bias"),
                    *q1 = oht_params_find(a, "layer.1.attn.q.bias");
    assert_memory_not_equal(x + q0->offset, x + q1->offset, 24 * sizeof *x);
    oht_free(x);
    oht_free(y);
    oht_model_destroy(plain);
    oht_model_destroy(gated);
}

static void refuse(const oht_model_config *cfg, int64_t tokens, const char *says) {
    oht_model *m = (oht_model *)1;
    assert_int_equal(oht_model_create(&m, cfg, tokens), OHT_CONFIG);
    assert_null(m);
    if (strstr(oht_error_last()->text, says) == NULL)
        fail_msg("lacks '%s': %s", says, oht_error_last()->text);
}

static void test_refused(void **state) {
    (void)state;
    const oht_model_config opt = small_model(OHT_MODEL_OPT), bert = small_model(OHT_MODEL_BERT);
    oht_model_config cfg = opt;
    refuse(&cfg, 17, "model.max_tokens = 16");
    refuse(&cfg, 0, "model.max_tokens");
    cfg.heads = 5;
    refuse(&cfg, 16, "does not divide");
    cfg.heads = 0;
    refuse(&cfg, 16, "model.heads");
    cfg = opt;
    cfg.vocab_size = 1; // no row for <pad>
    refuse(&cfg, 16, "model.vocab_size");
    cfg = opt;
    cfg.embed_width = 0;
    refuse(&cfg, 16, "model.embed_width");
    cfg = opt;
    cfg.heads = 8;
    cfg.gate = OHT_GATE_CONDITIONAL_PER_HEAD;
    cfg.gate_form = OHT_GATE_MLP;
    refuse(&cfg, 16, "quarter of the head width as hidden units");
    cfg = opt;
    snprintf(cfg.attention, sizeof cfg.attention, "clipped");
    refuse(&cfg, 16, "model.alpha");
    cfg = bert;
    cfg.norm = OHT_NORM_PRE;
    refuse(&cfg, 16, "model.norm");
    cfg = bert;
    cfg.embed_width = 12;
    refuse(&cfg, 16, "embed_width");
    assert_int_equal(oht_model_task(&bert), OHT_TASK_MLM);
    assert_int_equal(oht_model_task(&opt), OHT_TASK_CLM);
    assert_string_equal(oht_model_type_name(OHT_MODEL_OPT), "opt");
    assert_string_equal(oht_model_type_name(OHT_MODEL_BERT), "bert");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_gate_counts),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_decay),
        cmocka_unit_test(test_initialisers),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_same_start),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
