// What ohtrain report is made of: runs read into structs (read.c), grouped over seeds and paired (group.c), beside the
// published numbers (published.c); shown as a list (list.c), as the paper's Table 1 (table1.c) or as a page (html*.c).
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "oht/config.h"

// Columns of the paper's Table 1. "Task" is perplexity for language models.
enum { OHT_REPORT_KURTOSIS, OHT_REPORT_INF_NORM, OHT_REPORT_TASK, OHT_REPORT_W8A8, OHT_REPORT_METRICS };

// What the report knows of a kind of model.
typedef struct oht_report_model {
    const char *name;          // Table 1's
    const char *task, *title;  // attribute of /eval/N that is the result; the same for people
    bool in_points;            // the result is a percentage: differences in points, larger is better
    const char *headline;      // attribute that is "max inf norm"
    const char *headline_tap;  // the tensor of each layer it is the largest of
} oht_report_model;
const oht_report_model *oht_report_model_of(const oht_model_config *cfg);

// ---- one run ----

typedef struct oht_report_tap { // of the last evaluation
    char name[64];
    int layer;        // -1 outside layers
    const char *part; // of name: what follows "layer.N."
    double inf_max, inf_mean, kurtosis;
    int64_t sample, token, channel; // of inf_max; sample: row of the validation split
} oht_report_tap;

// Activations over training, thinned to at most OHT_REPORT_POINTS rows.
enum { OHT_REPORT_POINTS = 160 };
typedef struct oht_report_curves {
    int n_loss, n_activation;
    double *loss_step, *step; // (n_loss), (n_activation)
    float *loss;              // (n_loss)
    float *inf_mean;          // (n_activation, taps); taps as in run->tap
} oht_report_curves;

// The last quantized evaluation, /quant/N.
typedef struct oht_report_site {
    char name[96];
    int layer;        // -1 outside layers
    const char *part; // as of a tap
    double sqnr_db;
} oht_report_site;
typedef struct oht_report_rank { // a group of sites left exact
    char name[96];
    double recovered; // loss saved by that
} oht_report_rank;
typedef struct oht_report_quant {
    char name[64];   // "W8A8"; empty = there is none
    char level[16];  // what a rank's group is: site, kind, layer
    oht_report_site *site[2]; // activations, weights
    int n_sites[2];
    oht_report_rank *rank; // the most costly first
    int n_ranks;
} oht_report_quant;

typedef struct oht_report_run {
    const char *path;
    int path_bytes; // without trailing slashes
    oht_config cfg;
    const oht_report_model *model;
    char method[48]; // Table 1's name
    int64_t params, step, sequences;
    int64_t steps; // of the whole run, at most; 0 = epochs make them, and it is not done
    bool unfinished, is_result; // is_result: the last evaluation is the run's last
    double metric[OHT_REPORT_METRICS]; // NAN = not evaluated
    double loss, max_inf_norm, max_ffn_inf_norm, max_layer_inf_norm, max_kurtosis;
    // STanHop-Net, else NAN: tensors that avg_kurtosis counts; the same without probabilities; the set without copies and
    // probabilities; and what the metrics were before the first step (spec stanhop 4.2).
    double modules, activation_kurtosis, clean_kurtosis, start_kurtosis, start_inf_norm;
    int blocks; // layers that names of taps count: blocks, and for STanHop-Net the decoder's after the encoder's
    int n_taps, largest; // largest: index of the tap with the largest activation
    oht_report_tap *tap;
    int layers, heads; // of the two below; a layer of STanHop-Net is one association
    double *null_mass, *gate_mean; // (L,H), NULL = the model has none
    // For the page alone:
    oht_report_curves curves;
    oht_report_quant quant;
} oht_report_run;

typedef struct oht_report_failure {
    const char *path;
    char text[512];
} oht_report_failure;

// A metric for people: three decimals, six digits from a million on. Returns out.
const char *oht_report_number(double x, char out[32]);

// ---- runs that differ in the seed only ----

typedef struct oht_report_group {
    int *member, n; // indices of finished runs, by seed
    const oht_report_run *first;
    char label[96]; // method, and the common part of the paths where the method alone would not tell groups apart
    double mean[OHT_REPORT_METRICS], sd[OHT_REPORT_METRICS]; // sd: n - 1; NAN for one run
    int count[OHT_REPORT_METRICS];                           // runs that have it
} oht_report_group;

// A method and the same method with softmax_1.
typedef struct oht_report_pair {
    const oht_report_group *base, *with;
    double reduction[OHT_REPORT_METRICS]; // percent: 100 (1 - with / base), of means
    // with - base over common seeds: mean and half-width of the 95 % interval (Student t)
    int seeds;
    double difference[OHT_REPORT_METRICS], half[OHT_REPORT_METRICS];
    int count[OHT_REPORT_METRICS]; // common seeds where both have the metric
} oht_report_pair;

typedef struct oht_report_table {
    oht_report_run *run;
    int n_runs, n_unfinished;
    oht_report_failure *failure;
    int n_failures;
    oht_report_group *group;
    int n_groups;
    oht_report_pair *pair;
    int n_pairs;
} oht_report_table;

// Reads n run folders; one that cannot be read becomes a failure with a warning. curves: also what the page draws.
OHT_CHECKED oht_status oht_report_read(oht_report_table *t, char *const *path, int n, bool curves);
void oht_report_free(oht_report_table *t);
// Fills group and pair.
OHT_CHECKED oht_status oht_report_compare(oht_report_table *t);
// The parts of an opened outliers.h5 (file.c): the last evaluation; what the page draws.
typedef struct oht_h5 oht_h5;
OHT_CHECKED oht_status oht_report_read_evaluation(oht_h5 *file, oht_report_run *r);
OHT_CHECKED oht_status oht_report_read_drawn(oht_h5 *file, oht_report_run *r);

// Two-sided quantile of Student's t: |T| <= t with probability `level`, for `freedom` >= 1.
double oht_report_student_t(int freedom, double level);

// ---- the paper ----

typedef struct oht_published {
    const char *model, *method;
    double mean[OHT_REPORT_METRICS], sd[OHT_REPORT_METRICS];
} oht_published;
const oht_published *oht_published_rows(int *n); // Table 1, in its order
const oht_published *oht_published_find(const char *model, const char *method); // NULL = not in Table 1
// What a model of Table 1 is judged by.
typedef struct oht_published_task {
    const char *model, *name, *title; // name: as the attribute of /eval/N
    bool in_points;                   // a percentage: differences are in points
} oht_published_task;
const oht_published_task *oht_published_task_of(const char *model);
// Table 2, ETTh1: average kurtosis and max inf norm by horizon; method: as in oht_report_run.
typedef struct oht_published_horizon {
    int64_t horizon;
    const char *method, *title;
    double kurtosis, inf_norm;
} oht_published_horizon;
const oht_published_horizon *oht_published_horizons(int *n);
// Method `i` of 0..2 without and with softmax_1.
extern const char *const oht_report_base[3], *const oht_report_with[3];
double oht_report_reduction(double base, double with); // percent; NAN where undefined

// ---- output ----

OHT_CHECKED oht_status oht_report_text(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_markdown(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_csv(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_json(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_report_html(const oht_report_table *t, FILE *out);

typedef enum oht_report_form { OHT_FORM_TEXT, OHT_FORM_MD, OHT_FORM_HTML } oht_report_form;
// Row i of Table 2, its ETTh1 column: a horizon and a method. False beyond the last, and where no run is one of STanHop-Net.
typedef struct oht_table2_row {
    const oht_published_horizon *paper;
    const oht_report_group *ours;               // NULL = none
    double activation_kurtosis, start_kurtosis; // of ours, means over seeds; NAN = none
} oht_table2_row;
bool oht_table2_row_of(const oht_report_table *t, int i, oht_table2_row *out);
OHT_CHECKED oht_status oht_table2(const oht_report_table *t, oht_report_form form, FILE *out);
// What must be known of STanHop-Net's kurtosis, a paragraph; nothing without such a run.
void oht_report_series_note(const oht_report_table *t, oht_report_form form, FILE *out);
OHT_CHECKED oht_status oht_table1(const oht_report_table *t, oht_report_form form, FILE *out);
// For programs; Table 2 is in them too.
OHT_CHECKED oht_status oht_table1_csv(const oht_report_table *t, FILE *out);
OHT_CHECKED oht_status oht_table1_json(const oht_report_table *t, FILE *out);
