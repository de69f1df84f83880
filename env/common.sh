# Sourced by the scripts here: project folder, build function, the settings Open MPI wants when root.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)
if [ "$(id -u)" -eq 0 ]; then # Open MPI refuses to run as root unless told twice
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# build FOLDER [cmake options...]: configures and builds; prints only what matters.
build() {
    local folder=$1 log=$1.log
    shift
    mkdir -p "$(dirname "$folder")"
    if ! { cmake -S "$root" -B "$folder" -G Ninja "$@" && cmake --build "$folder" -j "$jobs"; } >"$log" 2>&1; then
        grep -E -A 5 'error|CMake Error|undefined' "$log" | head -n 40 >&2
        echo "build of $folder failed (whole log: $log)" >&2
        return 1
    fi
    if grep -v '^ninja: ' "$log" | grep -q 'warning:'; then
        grep -A 3 'warning:' "$log" >&2
        echo "build of $folder has compiler warnings" >&2
        return 1
    fi
}
