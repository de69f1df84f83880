// Which of its kernels OpenBLAS uses. It knows processors by model number; one newer than itself gets the kernels of 2004
// (SSE3), a seventh of the speed of those for AVX-512. What the processor can do says more than its number.
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/backend.h"

const char *oht_blas_kernels(void) {
    return openblas_get_corename();
}

void oht_blas_best_kernels(char **argv) {
#ifdef __x86_64__
    static const char *const WITH_AVX2[] = {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"};
    if (getenv("OPENBLAS_CORETYPE")) return;
    for (size_t i = 0; i < sizeof(WITH_AVX2) / sizeof(WITH_AVX2[0]); i++)
        if (strcasecmp(oht_blas_kernels(), WITH_AVX2[i]) == 0) return;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (setenv("OPENBLAS_CORETYPE", wide ? "SkylakeX" : "Haswell", 0) == 0) execv("/proc/self/exe", argv);
    // Where exec fails the program goes on, slower.
#else
    (void)argv;
#endif
}
