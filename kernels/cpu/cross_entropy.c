// Cross entropy of one chunk of logits: loss = sum of log sum exp(x) - x[label]; the logits become their
// gradient (softmax - onehot) scale. Rows with label -1 give neither.
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/vmath.h"

enum { BLOCK = 2048 }; // float sums over a block, double over blocks

static double row(float *x, int64_t V, int64_t label, float scale) {
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t j = 0; j < V; j++) max = x[j] > max ? x[j] : max;
    double sum = 0.0, target = x[label];
    for (int64_t j0 = 0; j0 < V; j0 += BLOCK) {
        float part = 0.0f;
        int64_t end = min_i64(V, j0 + BLOCK);
        if (scale != 0.0f) {
#pragma omp simd reduction(+ : part)
            for (int64_t j = j0; j < end; j++) {
                float e = vexpf(x[j] - max);
                x[j] = e;
                part += e;
            }
        } else {
#pragma omp simd reduction(+ : part)
            for (int64_t j = j0; j < end; j++) part += vexpf(x[j] - max);
        }
        sum += part;
    }
    if (scale != 0.0f) {
        float factor = (float)(scale / sum);
#pragma omp simd
        for (int64_t j = 0; j < V; j++) x[j] *= factor;
        x[label] -= scale;
    }
    return (double)max + log(sum) - target;
}

void cross_entropy_cpu(oht_backend *be, oht_tensor logits, oht_tensor labels, const oht_loss *loss) {
    int64_t n = logits.dim[0], V = logits.dim[1];
    float scale = cpu_scale(loss);
    double total = 0.0;
    for (int t = 0; t < be->threads; t++) cpu_partial(be, t)[0] = 0.0;
#pragma omp parallel num_threads(be->threads) if (n * V > CPU_SMALL)
    {
        double sum = 0.0;
        int64_t lo, hi;
        cpu_share(n, 1, &lo, &hi);
        for (int64_t i = lo; i < hi; i++) {
            int64_t label = oht_i32(labels)[i];
            float *x = oht_f32(logits) + i * V;
            if (label >= 0)
                sum += row(x, V, label, scale);
            else if (scale != 0.0f)
                memset(x, 0, (size_t)V * sizeof(float));
        }
        cpu_partial(be, omp_get_thread_num())[0] = sum;
    }
    for (int t = 0; t < be->threads; t++) total += cpu_partial(be, t)[0];
    cpu_add_loss(loss, total);
}
