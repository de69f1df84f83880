#!/usr/bin/env bash
# Installs what is missing, builds the release and sanitizer builds, runs the tests, ends with 'N passed, N failed, N skipped'.
#   env/test.sh         everything but the long forms
#   env/test.sh --all   with the long forms: sanitized MPI and end-to-end runs, many kills, thread sanitizer, the CUDA backend by nvcc,
#                       its kernels in every order of threads
# OHT_TEST_DATA names a folder of more real data; tests that want it count as skipped without.
set -uo pipefail
source "$(dirname "$0")/common.sh"
all=0
case "${1:-}" in
    "") ;;
    --all) all=1 ;;
    *) echo "usage: env/test.sh [--all]" >&2; exit 2 ;;
esac

bash "$root/env/install.sh" || exit 1
[ "$all" -eq 0 ] || bash "$root/env/install.sh" debian-slurm || echo "no Slurm here: its test will be skipped"
passed=0 failed=0 skipped=0

# suite NAME FOLDER ctest-options...: runs a build's tests and adds up what ctest reports.
suite() {
    local name=$1 folder=$2 log
    shift 2
    log=$folder/ctest-$name.log
    echo "== $name"
    ctest --test-dir "$folder" -j "$jobs" --output-on-failure "$@" >"$log" 2>&1
    grep -E '^ *[0-9]+/[0-9]+ Test' "$log" | grep -vE 'Passed' || true
    local bad
    bad=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*(\*\*\*Failed|\*\*\*Timeout|\*\*\*Exception|\*\*\*Not Run|Subprocess)' "$log")
    passed=$((passed + $(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log")))
    skipped=$((skipped + $(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped' "$log")))
    failed=$((failed + bad))
    if [ "$bad" -gt 0 ]; then
        sed -n '/Test *#/,$p' "$log" | tail -n 200
    fi
    grep -E '^Total Test time' "$log" || { echo "$name: ctest did not run" >&2; tail -n 5 "$log" >&2; failed=$((failed + 1)); }
}

# The CUDA backend is compiled apart (build_cuda); the others test it emulated.
build_cuda() {
    local folder=$root/build/cuda nvcc
    nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
    if [ -z "$nvcc" ]; then
        echo "no nvcc here: the CUDA backend is not compiled"
        return 0
    fi
    rm -rf "$folder" # ptxas reports only what it compiles now
    mkdir -p "$folder"
    echo "== CUDA"
    if ! { cmake -S "$root" -B "$folder" -G Ninja -DOHT_CUDA=ON -DOHT_TESTS=OFF -DCMAKE_CUDA_COMPILER="$nvcc" &&
           cmake --build "$folder" -j "$jobs" --target ohtrain_cuda; } >"$folder.log" 2>&1; then
        grep -E -A 5 'error|CMake Error|undefined' "$folder.log" | head -n 40 >&2
        return 1
    fi
    bash "$root/kernels/cuda/resources.sh" "$folder.log"
}

build "$root/build/release" -DOHT_CUDA=OFF || exit 1
build "$root/build/asan" -DOHT_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOHT_SANITIZE=address,undefined || exit 1
if [ "$all" -eq 1 ]; then
    build "$root/build/tsan" -DOHT_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOHT_SANITIZE=thread || exit 1
    if build_cuda; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    export OHT_KILLS=${OHT_KILLS:-20}
    suite release "$root/build/release"
    OHT_KILLS=3 suite sanitized "$root/build/asan" -LE long
    # MPI and OpenMP are not instrumented; kernels of the emulated GPU are
    suite threads "$root/build/tsan" -R '^unit[.](loader.*|team|order|masking|cuda_.*)$' -LE long
else
    suite release "$root/build/release" -LE long
    suite sanitized "$root/build/asan" -L unit
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
