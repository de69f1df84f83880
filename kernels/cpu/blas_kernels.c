// Which of its kernels OpenBLAS uses. It knows processors by model number; one newer than itself gets the kernels of 2004
// (SSE3), a seventh of the speed of those for AVX-512. What the processor can do says more than its number.
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "oht/backend.h"

const char *oht_blas_kernels(void) {
    return openblas_get_corename();
}

void oht_blas_best_kernels(char **argv) {
#ifdef __x86_64__
    static const char *const WITH_AVX2[] = {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"};
    if (getenv("OPENBLAS_CORETYPE")) return;
    if (getauxval(AT_BASE) == 0) return; // started as `ld.so PROGRAM`: what could be started again is ld.so
    for (size_t i = 0; i < sizeof(WITH_AVX2) / sizeof(WITH_AVX2[0]); i++)
        if (strcasecmp(oht_blas_kernels(), WITH_AVX2[i]) == 0) return;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    // By its path, which ps and top show; where this fails the program goes on, slower.
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length <= 0) return;
    path[length] = '\0';
    if (setenv("OPENBLAS_CORETYPE", wide ? "SkylakeX" : "Haswell", 0) == 0) execv(path, argv);
#else
    (void)argv;
#endif
}
