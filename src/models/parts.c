// Registration helpers: each adds the parameters of one layer kind under PyTorch's names ("x.weight",
// "x.bias").
#include "models/parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fill fill_normal(double std) {
    return (fill){OHT_INIT_NORMAL, (float)std};
}

fill fill_torch(int64_t fan_in) {
    return (fill){OHT_INIT_UNIFORM, (float)(1.0 / sqrt((double)fan_in))};
}

void reg_prefix(registrar *r, const char *prefix, const char *hf_prefix, int layer) {
    if (layer < 0) {
        snprintf(r->prefix, sizeof r->prefix, "%s", prefix);
        snprintf(r->hf_prefix, sizeof r->hf_prefix, "%s", hf_prefix);
    } else {
        snprintf(r->prefix, sizeof r->prefix, "%s%d.", prefix, layer);
        snprintf(r->hf_prefix, sizeof r->hf_prefix, "%s%d.", hf_prefix, layer);
    }
}

static int add(registrar *r, oht_param *p, const char *name, const char *hf_name) {
    if (r->status != OHT_OK) return -1;
    const int n = snprintf(p->name, sizeof p->name, "%s%s", r->prefix, name);
    const int hf = snprintf(p->hf_name, sizeof p->hf_name, "%s%s", r->hf_prefix, hf_name);
    if (n < 0 || n >= (int)sizeof p->name || hf < 0 || hf >= (int)sizeof p->hf_name) {
        r->status =
            oht_error_set(OHT_INTERNAL, __FILE__, __LINE__, "parameter name too long: %s%s", r->prefix, name);
        return -1;
    }
    int id = -1;
    r->status = oht_params_add(r->params, p, &id);
    return r->status == OHT_OK ? id : -1;
}

int reg_param(registrar *r, const char *name, const char *hf_name, oht_param_role role, int group, fill how,
              int rank, const int64_t *dim) {
    oht_param p = {
        .rank = rank, .init = how.init, .init_arg = how.arg, .zero_row = -1, .role = role, .group = group};
    memcpy(p.dim, dim, (size_t)rank * sizeof *dim);
    return add(r, &p, name, hf_name);
}

linear_params reg_linear_no_bias(registrar *r, const char *name, const char *hf_name, int64_t out, int64_t in,
                                 fill weight) {
    char ours[64], theirs[64];
    snprintf(ours, sizeof ours, "%s.weight", name);
    snprintf(theirs, sizeof theirs, "%s.weight", hf_name);
    return (linear_params){reg_param(r, ours, theirs, OHT_ROLE_WEIGHT, -1, weight, 2, (int64_t[]){out, in}),
                           -1};
}

linear_params reg_linear(registrar *r, const char *name, const char *hf_name, int64_t out, int64_t in,
                         fill weight, fill bias) {
    linear_params ids = reg_linear_no_bias(r, name, hf_name, out, in, weight);
    char ours[64], theirs[64];
    snprintf(ours, sizeof ours, "%s.bias", name);
    snprintf(theirs, sizeof theirs, "%s.bias", hf_name);
    ids.b = reg_param(r, ours, theirs, OHT_ROLE_BIAS, -1, bias, 1, &out);
    return ids;
}

norm_params reg_norm(registrar *r, const char *name, const char *hf_name, int64_t width) {
    char ours[64], theirs[64];
    snprintf(ours, sizeof ours, "%s.weight", name);
    snprintf(theirs, sizeof theirs, "%s.weight", hf_name);
    const fill one = {OHT_INIT_CONSTANT, 1.0f};
    norm_params ids = {reg_param(r, ours, theirs, OHT_ROLE_NORM_GAIN, -1, one, 1, &width), -1};
    snprintf(ours, sizeof ours, "%s.bias", name);
    snprintf(theirs, sizeof theirs, "%s.bias", hf_name);
    ids.bias = reg_param(r, ours, theirs, OHT_ROLE_BIAS, -1, fill_zero, 1, &width);
    return ids;
}

int reg_table(registrar *r, const char *name, const char *hf_name, int64_t rows, int64_t width, double std,
              int64_t zero_row, oht_param_role role) {
    oht_param p = {.rank = 2,
                   .dim = {rows, width},
                   .init = OHT_INIT_NORMAL,
                   .init_arg = (float)std,
                   .zero_row = zero_row,
                   .role = role,
                   .group = -1};
    char ours[64], theirs[64];
    snprintf(ours, sizeof ours, "%s.weight", name);
    snprintf(theirs, sizeof theirs, "%s.weight", hf_name);
    return add(r, &p, ours, theirs);
}

oht_value rec_linear(oht_graph *g, oht_value x, linear_params p, oht_act act) {
    return oht_linear_act(g, x, oht_parameter(g, p.w), oht_parameter(g, p.b), act);
}

oht_value rec_norm(oht_graph *g, const oht_model *m, oht_value x, norm_params p) {
    return oht_layernorm(g, x, oht_parameter(g, p.gain), oht_parameter(g, p.bias),
                         (float)m->cfg.layernorm_eps);
}

oht_value site_linear(oht_graph *g, oht_value x, linear_params p, oht_act act, const char *name) {
    oht_site_weight(g, p.w, OHT_SITE_LINEAR);
    return oht_site_linear(g, rec_linear(g, x, p, act), x, name, p.w, p.b, act, 0, 1);
}

oht_value site_norm(oht_graph *g, const oht_model *m, oht_value x, norm_params p, oht_site_kind kind,
                    const char *name) {
    oht_site_weight(g, p.gain, kind);
    return oht_site(g, rec_norm(g, m, x, p), name, kind);
}
