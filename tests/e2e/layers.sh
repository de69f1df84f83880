# The layering of the source, by grep: which library may be called where, one door to the heap, no writable globals.
set -u
cd "$OHT_SOURCE" || exit 1
bad=0

# only PATTERN WHERE...: PATTERN (outside comments) occurs in src, kernels, include nowhere but under WHERE.
only() {
    local pattern=$1 hits
    shift
    hits=$(grep -rnE --include='*.[ch]' "$pattern" src kernels include | grep -vE '^[^:]+:[0-9]+: *(//|\*)' |
           grep -vE "^($(IFS='|'; echo "$*"))")
    if [ -n "$hits" ]; then
        echo "only $* may use $pattern:"
        echo "$hits"
        bad=1
    fi
}
only '\bMPI_[A-Z][A-Za-z_]* *\(' src/dist src/main.c
only '\bH5[A-Z]+[a-z_]+[a-z0-9_]* *\(' src/base/h5
only '\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\(' src/base/memory.c
only '\b(cuda|cublas|nccl)[A-Z]' kernels/cuda
only '\bcblas_' kernels/cpu
only '(^|[^_a-z])(exit|abort)\(' src/main.c src/dist

# Writable globals of the library must be file-local (the error record, log state, signal flags, counters, locks).
library=$(dirname "$OHTRAIN")/liboht.a
[ -f "$library" ] || { echo "no $library"; exit 1; }
globals=$(objdump -t "$library" 2>/dev/null | grep -E ' g +O +\.(data|bss)[[:space:]]' |
          grep -vE '(__(asan|ubsan|odr_asan|tsan)|oht_cmd_)')
if [ -n "$globals" ]; then
    echo "writable globals with external linkage:"
    echo "$globals"
    bad=1
fi
exit $bad
