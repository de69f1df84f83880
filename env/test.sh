#!/usr/bin/env bash
# Installs what is missing, builds the release and sanitizer builds, runs the tests, ends with 'N passed, N failed, N skipped'.
#   env/test.sh         everything but the long forms
#   env/test.sh --all   with the long forms: sanitized MPI and end-to-end runs, many kills, thread sanitizer
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

build "$root/build/release" || exit 1
build "$root/build/asan" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOHT_SANITIZE=address,undefined || exit 1
if [ "$all" -eq 1 ]; then
    build "$root/build/tsan" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOHT_SANITIZE=thread || exit 1
    export OHT_KILLS=${OHT_KILLS:-20}
    suite release "$root/build/release"
    OHT_KILLS=3 suite sanitized "$root/build/asan" -LE long
    suite threads "$root/build/tsan" -R '^unit[.](loader|team|order|masking)$' # MPI and OpenMP are not instrumented
else
    suite release "$root/build/release" -LE long
    suite sanitized "$root/build/asan" -L unit
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
