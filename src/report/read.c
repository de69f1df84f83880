// A run folder -> struct: config.yaml says what was trained, outliers.h5 (file.c) what came out. A folder that cannot be read is
// named on stderr with the reason and becomes a failure of the table; the others are shown.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/table.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/model.h"
#include "oht/signals.h"
#include "report/report.h"
#include "train/rundir.h"

enum { VERSION = 1 }; // of outliers.h5

// "max inf norm" is the paper's headline (spec paper 1.2).
// Table 1's forecasts are 24 steps long; other horizons are in Table 2.
const oht_report_model *oht_report_model_of(const oht_model_config *cfg) {
    static const oht_report_model opt = {"OPT", "perplexity", "perplexity", false, "max_layer_inf_norm", "out"};
    static const oht_report_model bert = {"BERT", "perplexity", "perplexity", false, "max_ffn_inf_norm", "ffn.out"};
    static const oht_report_model stanhop = {"STanHop-Net", "mse", "MSE", false, "max_layer_inf_norm", "out"};
    static const oht_report_model other = {"STanHop-Net, other horizon", "mse", "MSE", false, "max_layer_inf_norm", "out"};
    static const oht_report_model vit = {"ViT", "top1", "top-1 %", true, "max_layer_inf_norm", "out"};
    switch (cfg->type) {
    case OHT_MODEL_OPT:
        return &opt;
    case OHT_MODEL_BERT:
        return &bert;
    case OHT_MODEL_STANHOP:
        return cfg->horizon == 24 ? &stanhop : &other;
    case OHT_MODEL_VIT:
        return &vit;
    }
    return NULL;
}

// Table 1's names: the base of the attention, with "Gated" before it.
static oht_status name_method(oht_report_run *r) {
    const oht_model_config *m = &r->cfg.model;
    oht_assoc_spec spec;
    OHT_TRY(oht_assoc_parse(m, oht_config_tokens(&r->cfg), &spec));
    bool gated = m->gate != OHT_GATE_NONE;
    const char *base = "";
    switch (spec.kind) {
    case OHT_SOFTMAX:
        base = spec.clipped ? "Clipped_Softmax" : gated ? "Attention" : "Vanilla";
        break;
    case OHT_SOFTMAX1:
        base = spec.clipped ? "Clipped_OutEffHop" : "OutEffHop";
        break;
    case OHT_ENTMAX15:
        base = m->type == OHT_MODEL_STANHOP && strcmp(m->attention, "entmax") == 0 ? "Entmax" : "Entmax15";
        break;
    case OHT_SPARSEMAX:
        base = "Sparsemax";
        break;
    }
    snprintf(r->method, sizeof(r->method), "%s%s", gated ? "Gated_" : "", base);
    return OHT_OK;
}

static oht_status count_parameters(oht_report_run *r) {
    oht_model *model;
    OHT_TRY(oht_model_create(&model, &r->cfg.model, oht_config_tokens(&r->cfg)));
    r->params = oht_params_count(oht_model_params(model));
    oht_model_destroy(model);
    return OHT_OK;
}

static oht_status check_version(oht_h5 *file) {
    char kind[64];
    int64_t version;
    OHT_TRY(oht_h5_get_text(file, "/", "format", kind, sizeof(kind)));
    if (strcmp(kind, "ohtrain-outliers") != 0)
        OHT_FAIL(OHT_DATA, "%s: format \"%s\", expected \"ohtrain-outliers\"", oht_h5_path(file), kind);
    OHT_TRY(oht_h5_get_int(file, "/", "format_version", &version));
    if (version != VERSION)
        OHT_FAIL(OHT_DATA, "%s: format_version is %" PRId64 ", this program reads %d\nfix: report it with the ohtrain that wrote it",
                 oht_h5_path(file), version, VERSION);
    return OHT_OK;
}

// The file carries the configuration of the run that wrote it: a file of another model does not belong here.
static oht_status check_owner(oht_h5 *file, const oht_report_run *r) {
    char *text, where[OHT_PATH + 64], ours[OHT_KEY_TEXT_MAX], theirs[OHT_KEY_TEXT_MAX];
    oht_config stored;
    oht_config_defaults(&stored);
    OHT_TRY(oht_h5_get_long_text(file, "/", "config", &text));
    snprintf(where, sizeof(where), "%s: attribute config", oht_h5_path(file));
    oht_status status = oht_config_parse(&stored, text, strlen(text), where);
    oht_free(text);
    OHT_TRY(status);
    int n;
    const oht_key *key = oht_keys(&n);
    for (int i = 0; i < n; i++) {
        if (strncmp(key[i].name, "model.", 6) != 0) continue;
        oht_key_get(&r->cfg, &key[i], ours);
        oht_key_get(&stored, &key[i], theirs);
        if (strcmp(ours, theirs) != 0)
            OHT_FAIL(OHT_DATA, "%s belongs to another model: it says %s = %.80s, config.yaml %.80s", oht_h5_path(file), key[i].name, theirs, ours);
    }
    return OHT_OK;
}

static oht_status read_file(oht_h5 *file, oht_report_run *r, bool drawn) {
    oht_rundir_data_info data;
    char rundir[OHT_PATH];
    snprintf(rundir, sizeof(rundir), "%.*s", r->path_bytes, r->path);
    OHT_TRY(check_version(file));
    if (oht_h5_has(file, "/", "config")) OHT_TRY(check_owner(file, r));
    if (!oht_h5_exists(file, "/eval/0") && oht_rundir_data(rundir, &data) && data.validation_rows == 0)
        OHT_FAIL(OHT_DATA, "nothing to compare: its data have no validation split, so it was never evaluated");
    OHT_TRY(oht_report_read_evaluation(file, r));
    if (drawn) OHT_TRY(oht_report_read_drawn(file, r));
    return OHT_OK;
}

static oht_status read_run(const char *path, bool drawn, oht_report_run *r) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    r->path = path;
    r->path_bytes = (int)n;
    char name[OHT_PATH + 32];
    if (n >= OHT_PATH) OHT_FAIL(OHT_CONFIG, "the path is longer than %d bytes", OHT_PATH - 1);
    snprintf(name, sizeof(name), "%.*s/config.yaml", (int)n, path);
    if (access(name, F_OK) != 0) OHT_FAIL(OHT_DATA, "not a run directory: it has no config.yaml");
    oht_config_defaults(&r->cfg);
    OHT_TRY(oht_config_load(&r->cfg, name));
    OHT_TRY(oht_config_check(&r->cfg));
    r->model = oht_report_model_of(&r->cfg.model);
    const int L = (int)r->cfg.model.layers;
    r->blocks = r->cfg.model.type == OHT_MODEL_STANHOP ? 2 * L + 1 : L;
    OHT_TRY(name_method(r));
    OHT_TRY(count_parameters(r));
    snprintf(name, sizeof(name), "%.*s/outliers.h5", (int)n, path);
    if (access(name, F_OK) != 0) OHT_FAIL(OHT_DATA, "it has no outliers.h5 yet");
    oht_h5 *file;
    OHT_TRY(oht_h5_open(&file, name));
    oht_status status = read_file(file, r, drawn);
    oht_h5_close(file);
    return status;
}

static void free_run(oht_report_run *r) {
    oht_free(r->tap);
    oht_free(r->null_mass);
    oht_free(r->gate_mean);
    oht_free(r->curves.loss_step);
    oht_free(r->curves.loss);
    oht_free(r->curves.step);
    oht_free(r->curves.inf_mean);
    oht_free(r->quant.site[0]);
    oht_free(r->quant.site[1]);
    oht_free(r->quant.rank);
    memset(r, 0, sizeof(*r));
}

const char *oht_report_number(double x, char out[32]) {
    snprintf(out, 32, fabs(x) < 1e6 ? "%.3f" : "%.6g", x); // a diverged run's have hundreds of digits
    return out;
}

// The error's first line.
static void complain(const char *path, const oht_error *error, oht_report_failure *f) {
    const char *fix = strstr(error->text, "\nfix: ");
    f->path = path;
    snprintf(f->text, sizeof(f->text), "%.*s", fix ? (int)(fix - error->text) : (int)strlen(error->text), error->text);
    oht_warn("%s: %s", path, f->text);
}

oht_status oht_report_read(oht_report_table *t, char *const *path, int n, bool drawn) {
    OHT_TRY(OHT_ALLOC(&t->run, (size_t)n, "runs"));
    OHT_TRY(OHT_ALLOC(&t->failure, (size_t)n, "errors of runs"));
    for (int i = 0; i < n; i++) {
        oht_report_run *r = &t->run[t->n_runs];
        OHT_TRY(oht_signals_check());
        if (read_run(path[i], drawn, r) != OHT_OK) {
            complain(path[i], oht_error_last(), &t->failure[t->n_failures++]);
            free_run(r);
            continue;
        }
        t->n_runs++;
        // How many steps epochs and early stopping make, the configuration does not say.
        bool counts_steps = r->cfg.train.epochs == 0 && r->cfg.train.patience == 0;
        r->unfinished = counts_steps ? r->step < r->cfg.train.steps : !r->is_result;
        r->steps = r->cfg.train.epochs == 0 ? r->cfg.train.steps : r->unfinished ? 0 : r->step;
        if (!r->unfinished) continue;
        t->n_unfinished++;
        if (counts_steps)
            oht_warn("%s: unfinished: evaluated at step %" PRId64 " of %" PRId64, path[i], r->step, r->cfg.train.steps);
        else
            oht_warn("%s: unfinished: evaluated at step %" PRId64, path[i], r->step);
    }
    return OHT_OK;
}

void oht_report_free(oht_report_table *t) {
    for (int i = 0; i < t->n_runs; i++) free_run(&t->run[i]);
    for (int i = 0; i < t->n_groups; i++) oht_free(t->group[i].member);
    oht_free(t->run);
    oht_free(t->failure);
    oht_free(t->group);
    oht_free(t->pair);
    memset(t, 0, sizeof(*t));
}
