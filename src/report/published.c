// Table 1 of Hu et al., "Outlier-Efficient Hopfield Layers for Large Transformer-Based Models" (ICML 2024, PMLR
// 235:19123), as transcribed on the authors' project page (spec paper 1.1): mean and deviation over three seeds of the
// average kurtosis, the maximum infinity norm, the result in full precision (perplexity; top-1 % for ViT; mean squared error for
// STanHop-Net), and the same under W8A8 quantization.
#include <math.h>
#include <string.h>

#include "report/report.h"

static const oht_published ROWS[] = {
    {"BERT", "Vanilla", {418.724, 255.859, 6.237, 7.154}, {0.814, 0.004, 0.001, 0.009}},
    {"BERT", "OutEffHop", {26.564, 33.618, 6.209, 6.295}, {0.022, 0.000, 0.001, 0.001}},
    {"BERT", "Clipped_Softmax", {14.210, 33.619, 6.118, 6.189}, {0.003, 0.001, 0.002, 0.001}},
    {"BERT", "Clipped_OutEffHop", {11.839, 30.107, 6.133, 6.199}, {0.001, 0.001, 0.000, 0.001}},
    {"BERT", "Gated_Attention", {17.779, 34.082, 6.230, 6.299}, {0.014, 0.000, 0.001, 0.003}},
    {"BERT", "Gated_OutEffHop", {15.625, 32.777, 6.214, 6.279}, {0.012, 0.000, 0.001, 0.003}},
    {"OPT", "Vanilla", {23341.513, 92.786, 15.974, 42.012}, {27.363, 0.002, 0.001, 19.514}},
    {"OPT", "OutEffHop", {21.542, 13.302, 15.916, 16.429}, {0.000, 0.001, 0.002, 0.013}},
    {"OPT", "Clipped_Softmax", {9731.110, 43.803, 16.042, 30.825}, {0.000, 0.000, 0.000, 0.330}},
    {"OPT", "Clipped_OutEffHop", {24127.332, 67.602, 16.118, 29.269}, {0.000, 0.000, 0.000, 0.184}},
    {"OPT", "Gated_Attention", {90.321, 13.704, 15.677, 16.236}, {0.000, 0.000, 0.000, 0.074}},
    {"OPT", "Gated_OutEffHop", {11.449, 7.568, 15.751, 16.148}, {0.000, 0.000, 0.000, 0.005}},
    {"ViT", "Vanilla", {37.104, 272.198, 76.810, 74.935}, {0.000, 0.000, 0.000, 0.046}},
    {"ViT", "OutEffHop", {31.601, 249.163, 76.788, 76.313}, {0.001, 0.000, 0.000, 0.012}},
    {"ViT", "Clipped_Softmax", {33.868, 257.613, 76.612, 75.179}, {0.00, 0.00, 0.000, 0.013}},
    {"ViT", "Clipped_OutEffHop", {24.642, 196.199, 76.871, 76.083}, {0.000, 0.001, 0.001, 0.007}},
    {"ViT", "Gated_Attention", {45.145, 269.279, 69.922, 67.479}, {0.864, 1.426, 2.436, 1.447}},
    {"ViT", "Gated_OutEffHop", {21.979, 60.169, 74.089, 73.958}, {0.254, 1.153, 2.585, 3.126}},
    {"STanHop-Net", "Vanilla", {2.954, 5.048, 0.360, 0.362}, {0.063, 0.232, 0.008, 0.000}},
    {"STanHop-Net", "OutEffHop", {2.897, 4.565, 0.360, 0.355}, {0.011, 0.209, 0.004, 0.000}},
    {"STanHop-Net", "Clipped_Softmax", {2.995, 4.890, 0.553, 0.591}, {0.05, 0.17, 0.03, 0.000}},
    {"STanHop-Net", "Clipped_OutEffHop", {2.864, 4.145, 0.506, 0.517}, {0.06, 0.23, 0.05, 0.000}},
    {"STanHop-Net", "Gated_Attention", {2.487, 4.277, 0.380, 0.375}, {0.017, 0.163, 0.006, 0.000}},
    {"STanHop-Net", "Gated_OutEffHop", {2.459, 4.240, 0.376, 0.367}, {0.041, 0.155, 0.007, 0.000}},
};
// Table 2, ETTh1 (spec paper 1.3); its other columns are not to be had.
static const oht_published_horizon HORIZONS[] = {
    {24, "Vanilla", "Hopfield", 2.954, 5.048},   {24, "Sparsemax", "SparseHopfield", 3.311, 4.954},
    {24, "Entmax", "STanHop (GSH)", 3.269, 4.947}, {24, "OutEffHop", "OutEffHop", 2.897, 4.565},
    {48, "Vanilla", "Hopfield", 2.968, 4.969},   {48, "Sparsemax", "SparseHopfield", 3.295, 4.749},
    {48, "Entmax", "STanHop (GSH)", 3.271, 4.644}, {48, "OutEffHop", "OutEffHop", 2.965, 4.570},
    {168, "Vanilla", "Hopfield", 2.545, 3.923},  {168, "Sparsemax", "SparseHopfield", 3.149, 4.348},
    {168, "Entmax", "STanHop (GSH)", 3.093, 4.160}, {168, "OutEffHop", "OutEffHop", 2.526, 3.865},
    {336, "Vanilla", "Hopfield", 2.436, 3.536},  {336, "Sparsemax", "SparseHopfield", 3.071, 4.156},
    {336, "Entmax", "STanHop (GSH)", 3.043, 4.248}, {336, "OutEffHop", "OutEffHop", 2.433, 3.416},
    {720, "Vanilla", "Hopfield", 2.443, 3.266},  {720, "Sparsemax", "SparseHopfield", 3.030, 4.179},
    {720, "Entmax", "STanHop (GSH)", 3.062, 4.238}, {720, "OutEffHop", "OutEffHop", 2.450, 3.218},
};

const oht_published_horizon *oht_published_horizons(int *n) {
    *n = sizeof(HORIZONS) / sizeof(HORIZONS[0]);
    return HORIZONS;
}

enum { N_ROWS = sizeof(ROWS) / sizeof(ROWS[0]) };

const char *const oht_report_base[3] = {"Vanilla", "Clipped_Softmax", "Gated_Attention"};
const char *const oht_report_with[3] = {"OutEffHop", "Clipped_OutEffHop", "Gated_OutEffHop"};

const oht_published *oht_published_rows(int *n) {
    *n = N_ROWS;
    return ROWS;
}

const oht_published *oht_published_find(const char *model, const char *method) {
    for (int i = 0; i < N_ROWS; i++)
        if (strcmp(ROWS[i].model, model) == 0 && strcmp(ROWS[i].method, method) == 0) return &ROWS[i];
    return NULL;
}

const oht_published_task *oht_published_task_of(const char *model) {
    static const oht_published_task list[] = {{"BERT", "perplexity", "perplexity", false},
                                              {"OPT", "perplexity", "perplexity", false},
                                              {"ViT", "top1", "top-1 %", true},
                                              {"STanHop-Net", "mse", "MSE", false}};
    int i = 0;
    while (i < 3 && strcmp(list[i].model, model) != 0) i++;
    return &list[i];
}

double oht_report_reduction(double base, double with) {
    return base == 0 || !isfinite(base) || !isfinite(with) ? (double)NAN : 100.0 * (1.0 - with / base);
}
