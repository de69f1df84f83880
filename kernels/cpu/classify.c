// Image classification: patches of an image as rows, soft cross entropy, top-k hits. Batches are small here
// next to attention, so these loops are plain.
#include <math.h>

#include "cpu/cpu.h"

// loss = -sum_j t_j (x_j - log sum exp x); gradient (softmax sum_j t_j - t) scale.
static double soft_row(float *x, const float *t, int64_t V, float scale) {
    float max = x[0];
    for (int64_t j = 1; j < V; j++) max = x[j] > max ? x[j] : max;
    double sum = 0.0, mass = 0.0, inner = 0.0;
    for (int64_t j = 0; j < V; j++) {
        sum += exp((double)(x[j] - max));
        mass += t[j];
        inner += (double)t[j] * x[j];
    }
    double log_sum = max + log(sum);
    if (scale != 0.0f)
        for (int64_t j = 0; j < V; j++) x[j] = (float)(scale * (exp(x[j] - log_sum) * mass - (double)t[j]));
    return mass * log_sum - inner;
}

void soft_cross_entropy_cpu(oht_backend *be, oht_tensor logits, oht_tensor targets, const oht_loss *loss) {
    int64_t n = logits.dim[0], V = logits.dim[1];
    double sum = 0.0;
    (void)be;
    for (int64_t i = 0; i < n; i++) sum += soft_row(oht_f32(logits) + i * V, oht_f32(targets) + i * V, V, cpu_scale(loss));
    cpu_add_loss(loss, sum);
}

void top_hits_cpu(oht_backend *be, oht_tensor logits, oht_tensor labels, int64_t hits[2]) {
    int64_t n = logits.dim[0], V = logits.dim[1];
    (void)be;
    for (int64_t i = 0; i < n; i++) {
        const float *x = oht_f32(logits) + i * V;
        int64_t label = oht_i32(labels)[i], before = 0;
        for (int64_t j = 0; j < V; j++)
            if (j != label) before += !(x[j] < x[label]) && (j < label || !(x[j] <= x[label])); // NaN: before
        hits[0] += before < 1;
        hits[1] += before < 5;
    }
}

void patches_cpu(oht_backend *be, oht_tensor y, oht_tensor images, int patch) {
    int64_t B = images.dim[0], S = images.dim[1], p = patch, side = S / p, rows = B * side * side;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t r = 0; r < rows; r++) {
        int64_t b = r / (side * side), top = r / side % side * p, left = r % side * p;
        const uint8_t *from = oht_u8(images) + ((b * S + top) * S + left) * 3;
        float *to = oht_f32(y) + r * 3 * p * p;
        for (int64_t i = 0; i < p; i++)
            for (int64_t j = 0; j < p; j++)
                for (int64_t c = 0; c < 3; c++)
                    to[(c * p + i) * p + j] = (float)from[(i * S + j) * 3 + c] / 127.5f - 1.0f;
    }
}
