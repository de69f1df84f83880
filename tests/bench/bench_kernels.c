// Speed of the CPU kernels at the shapes of OPT-125m and BERT-base: best of several runs by the clock, and by
// the processor time of all threads (which other work on the machine disturbs less, but which counts waiting
// threads), GFLOP/s or GB/s.
//   bench_kernels [part of a name]     OMP_NUM_THREADS says with how many threads
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "kernel_test.h"
#include "oht/log.h"

enum { REPEATS = 7 };
static const char *filter;

static double processor_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *name, double wall_s, double cpu_s, double flops, double bytes) {
    printf("%-44s %9.3f ms %9.3f ms cpu", name, 1e3 * wall_s, 1e3 * cpu_s);
    if (flops > 0.0) printf("  %7.1f GFLOP/s %7.1f per cpu", flops / wall_s * 1e-9, flops / cpu_s * 1e-9);
    if (bytes > 0.0) printf("  %6.1f GB/s %6.1f per cpu", bytes / wall_s * 1e-9, bytes / cpu_s * 1e-9);
    printf("\n");
    fflush(stdout);
}

// Runs `call` REPEATS times after one warm-up; flops and bytes of one run, 0 = not of interest.
#define BENCH(name, flops, bytes, call)                                                                      \
    do {                                                                                                     \
        double best_wall_s = INFINITY, best_cpu_s = INFINITY;                                                \
        for (int repeat = 0; repeat <= REPEATS; repeat++) {                                                  \
            double wall_s = oht_clock_s(), cpu_s = processor_s();                                            \
            call;                                                                                            \
            wall_s = oht_clock_s() - wall_s, cpu_s = processor_s() - cpu_s;                                  \
            if (repeat > 0 && wall_s < best_wall_s) best_wall_s = wall_s;                                    \
            if (repeat > 0 && cpu_s < best_cpu_s) best_cpu_s = cpu_s;                                        \
        }                                                                                                    \
        report(name, best_wall_s, best_cpu_s, flops, bytes);                                                 \
    } while (0)

// Uniform in [-1.7, 1.7): variance one, quick to make.
static oht_tensor random_data(uint32_t seed, float sigma, int64_t d0, int64_t d1, int64_t d2) {
    oht_tensor t = kt_zeros(d0, d1, d2, 0);
    int64_t n = oht_tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        oht_f32(t)[i] = sigma * 1.7320508f * (2.0f * oht_uniform(seed) - 1.0f);
    }
    return t;
}

static bool wanted(const char *name) {
    return !filter || strstr(name, filter);
}

static void bench_gemm(oht_backend *be) {
    static const struct {
        const char *name;
        bool ta, tb;
        int64_t m, n, k;
    } shape[] = {
        {"qkv fwd     2048 x 2304 x 768  NT", false, true, 2048, 2304, 768},
        {"fc1 fwd     2048 x 3072 x 768  NT", false, true, 2048, 3072, 768},
        {"fc2 fwd     2048 x 768  x 3072 NT", false, true, 2048, 768, 3072},
        {"out fwd     2048 x 768  x 768  NT", false, true, 2048, 768, 768},
        {"fc1 bwd dx  2048 x 768  x 3072 NN", false, false, 2048, 768, 3072},
        {"fc1 bwd dw  3072 x 768  x 2048 TN", true, false, 3072, 768, 2048},
        {"out bwd dw  768  x 768  x 2048 TN", true, false, 768, 768, 2048},
        {"head fwd    256 x 50272 x 768  NT", false, true, 256, 50272, 768},
        {"head bwd dx 256 x 768 x 50272  NN", false, false, 256, 768, 50272},
        {"head bwd dw 50272 x 768 x 256  TN", true, false, 50272, 768, 256},
    };
    for (size_t i = 0; i < sizeof(shape) / sizeof(*shape); i++) {
        int64_t m = shape[i].m, n = shape[i].n, k = shape[i].k;
        char name[96];
        snprintf(name, sizeof(name), "gemm %s", shape[i].name);
        if (!wanted(name)) continue;
        oht_tensor a = random_data(1, 1.0f, m, k, 0), b = random_data(2, 1.0f, n, k, 0),
                   c = kt_zeros(m, n, 0, 0);
        BENCH(name, 2.0 * (double)(m * n * k), 0.0,
              gemm_cpu(be, shape[i].ta, shape[i].tb, m, n, k, 1.0f, oht_f32(a), shape[i].ta ? m : k,
                       oht_f32(b), shape[i].tb ? k : n, 0.0f, oht_f32(c), n));
        kt_reset();
        be = kt_backend();
    }
}

static void bench_linear(oht_backend *be) {
    if (!wanted("linear")) return;
    const int64_t N = 2048, C = 768, F = 3072;
    oht_tensor x = random_data(1, 1.0f, N, C, 0), w = random_data(2, 0.02f, F, C, 0),
               b = random_data(3, 1.0f, F, 0, 0);
    oht_tensor y = kt_zeros(N, F, 0, 0), pre = kt_zeros(N, F, 0, 0), dx = kt_zeros(N, C, 0, 0),
               dw = kt_zeros(F, C, 0, 0);
    oht_tensor db = kt_zeros(F, 0, 0, 0), dy = random_data(4, 1.0f, N, F, 0);
    double flops = 2.0 * (double)(N * C * F);
    BENCH("linear fwd ReLU 2048 x 3072 x 768", flops, 0.0,
          be->linear_fwd(be, y, OHT_NO_TENSOR, x, w, b, OHT_ACT_RELU));
    BENCH("linear bwd ReLU", 2.0 * flops, 0.0,
          be->linear_bwd(be, dx, dw, db, dy, x, w, pre, y, OHT_ACT_RELU, false, false));
    BENCH("linear fwd GELU 2048 x 3072 x 768", flops, 0.0, be->linear_fwd(be, y, pre, x, w, b, OHT_ACT_GELU));
    BENCH("linear bwd GELU", 2.0 * flops, 0.0,
          be->linear_bwd(be, dx, dw, db, dy, x, w, pre, y, OHT_ACT_GELU, false, false));
    kt_reset();
}

static void bench_attention(void) {
    static const struct {
        const char *name;
        int64_t B, T;
        bool causal;
        float p;
        oht_assoc_spec f;
    } item[] = {
        {"softmax   B4 T512 causal", 4, 512, true, 0.0f, {OHT_SOFTMAX, false, 0, 1}},
        {"softmax_1 B4 T512 causal", 4, 512, true, 0.0f, {OHT_SOFTMAX1, false, 0, 1}},
        {"softmax_1 B4 T512 full", 4, 512, false, 0.0f, {OHT_SOFTMAX1, false, 0, 1}},
        {"clipped   B4 T512 causal", 4, 512, true, 0.0f, {OHT_SOFTMAX, true, -0.0234, 1}},
        {"entmax15  B4 T512 causal", 4, 512, true, 0.0f, {OHT_ENTMAX15, false, 0, 1}},
        {"sparsemax B4 T512 causal", 4, 512, true, 0.0f, {OHT_SPARSEMAX, false, 0, 1}},
        {"softmax_1 B4 T128", 4, 128, false, 0.0f, {OHT_SOFTMAX1, false, 0, 1}},
        {"softmax_1 B4 T128 dropout 0.1", 4, 128, false, 0.1f, {OHT_SOFTMAX1, false, 0, 1}},
        {"softmax_1 B32 T128 dropout 0.1", 32, 128, false, 0.1f, {OHT_SOFTMAX1, false, 0, 1}},
        {"softmax_1 B1 T2048 causal", 1, 2048, true, 0.0f, {OHT_SOFTMAX1, false, 0, 1}},
    };
    const int64_t H = 12, C = 768;
    for (size_t i = 0; i < sizeof(item) / sizeof(*item); i++) {
        oht_backend *be = kt_backend();
        int64_t B = item[i].B, T = item[i].T;
        char fwd[96], bwd[96];
        snprintf(fwd, sizeof(fwd), "attention fwd %s", item[i].name);
        snprintf(bwd, sizeof(bwd), "attention bwd %s", item[i].name);
        if (!wanted(fwd) && !wanted(bwd)) continue;
        oht_assoc as = {.f = item[i].f,
                        .beta = 0.125f,
                        .causal = item[i].causal,
                        .heads = (int)H,
                        .drop = {.seed = 1, .stride = 1, .p = item[i].p}};
        oht_tensor qkv = random_data(1, 1.0f, B, T, 3 * C), out = kt_zeros(B, T, C, 0),
                   row = kt_zeros(B, H, T, 0);
        oht_tensor dout = random_data(2, 1.0f, B, T, C), dqkv = kt_zeros(B, T, 3 * C, 0);
        void *s1 = kt_scratch(be->attention_fwd_scratch(be, B, T, C, &as));
        void *s2 = kt_scratch(be->attention_bwd_scratch(be, B, T, C, &as));
        // useful work: the visible half only when causal
        double pairs = (double)(B * T) * (item[i].causal ? 0.5 * (double)(T + 1) : (double)T) * (double)C;
        BENCH(fwd, 4.0 * pairs, 0.0, be->attention_fwd(be, out, row, qkv, OHT_NO_TENSOR, &as, NULL, s1));
        BENCH(bwd, 10.0 * pairs, 0.0,
              be->attention_bwd(be, dqkv, dout, out, row, qkv, OHT_NO_TENSOR, &as, false, s2));
        kt_reset();
    }
}

static void bench_activations(oht_backend *be) {
    const int64_t N = 2048, C = 768;
    double act = (double)(N * C * 4);
    if (!wanted("layernorm") && !wanted("dropout") && !wanted("moments")) return;
    oht_tensor x = random_data(1, 1.0f, N, C, 0), y = kt_zeros(N, C, 0, 0), g = random_data(2, 1.0f, C, 0, 0);
    oht_tensor b = random_data(3, 1.0f, C, 0, 0), mean = kt_zeros(N, 0, 0, 0), rstd = kt_zeros(N, 0, 0, 0);
    oht_tensor dg = kt_zeros(C, 0, 0, 0), db = kt_zeros(C, 0, 0, 0), dx = kt_zeros(N, C, 0, 0);
    oht_draw drop = {.seed = 1, .stride = 1, .p = 0.1f};
    void *s = kt_scratch(be->layernorm_bwd_scratch(be, N, C));
    BENCH("layernorm fwd 2048 x 768", 0.0, 2.0 * act, be->layernorm_fwd(be, y, mean, rstd, x, g, b, 1e-5f));
    BENCH("layernorm bwd 2048 x 768", 0.0, 3.0 * act,
          be->layernorm_bwd(be, dx, dg, db, y, x, g, mean, rstd, false, false, s));
    oht_tensor f = x, into = y;
    f.rank = into.rank = 3;
    f.dim[0] = into.dim[0] = 4, f.dim[1] = into.dim[1] = 512, f.dim[2] = into.dim[2] = 768;
    BENCH("dropout + residual 4 x 512 x 768", 0.0, 3.0 * act, be->dropout_add(be, into, dx, f, &drop));
    oht_moments m[2048];
    BENCH("moments, rows = sequences (4 x 393216)", 0.0, act, be->moments(be, x.data, OHT_F32, 4, 512 * 768, m));
    BENCH("moments, rows = tokens (2048 x 768)", 0.0, act, be->moments(be, x.data, OHT_F32, N, C, m));
    kt_reset();
}

static void bench_parameters(oht_backend *be) {
    const int64_t n = 32 * 1024 * 1024;
    if (!wanted("adamw") && !wanted("sumsq") && !wanted("cross entropy")) return;
    oht_tensor p = kt_zeros(n, 0, 0, 0), g = random_data(1, 1.0f, n, 0, 0), m = kt_zeros(n, 0, 0, 0),
               v = kt_zeros(n, 0, 0, 0);
    oht_adamw opt = {.lr = 1e-4f,
                     .beta1 = 0.9f,
                     .beta2 = 0.95f,
                     .eps = 1e-8f,
                     .weight_decay = 0.1f,
                     .step = 1,
                     .grad_scale = 1.0f};
    BENCH("adamw 32 Mi parameters", 0.0, 28.0 * (double)n,
          be->adamw(be, oht_f32(p), oht_f32(g), oht_f32(m), oht_f32(v), n, &opt));
    double sum = 0.0;
    BENCH("sumsq 32 Mi", 0.0, 4.0 * (double)n, sum += be->sumsq(be, oht_f32(g), n));
    int32_t label[256];
    for (int i = 0; i < 256; i++) label[i] = i * 150;
    oht_tensor logits = g, labels = kt_ints(label, 256);
    logits.rank = 2, logits.dim[0] = 256, logits.dim[1] = 50272;
    BENCH("cross entropy 256 x 50272", 0.0, 2.0 * 256 * 50272 * 4,
          be->cross_entropy(be, logits, labels, &(oht_loss){.scale = 1e-3f}));
    kt_reset();
}

int main(int argc, char **argv) {
    filter = argc > 1 ? argv[1] : NULL;
    printf("%d threads\n", kt_backend()->threads);
    bench_gemm(kt_backend());
    bench_linear(kt_backend());
    bench_attention();
    bench_activations(kt_backend());
    bench_parameters(kt_backend());
    return 0;
}
