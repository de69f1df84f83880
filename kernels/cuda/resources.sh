#!/usr/bin/env bash
# usage: kernels/cuda/resources.sh BUILD.LOG [--table]
# Reads what ptxas -v said while the CUDA backend was built. Fails when a kernel spills registers or has a stack frame. --table: all
# kernels as a Markdown table.
set -euo pipefail
log=$1
rows=$(awk '
    /Compiling entry function/ { split($0, part, "\047"); name = part[2]; target = part[4] }
    /bytes stack frame/ && name != "" { stack = $1; spill = $5 + $9 }
    /Used [0-9]+ registers/ && name != "" {
        match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
        print name, target, registers, shared, stack, spill
        name = ""
    }' "$log" | sort -u | c++filt -p)
[ -n "$rows" ] || { echo "$log holds no report of ptxas" >&2; exit 2; }
if [ "${2:-}" = --table ]; then
    echo "| kernel | target | registers | shared bytes | stack bytes | spilled bytes |"
    echo "|---|---|---|---|---|---|"
    awk '{ n = NF; printf "| `"; for (i = 1; i <= n - 5; i++) printf "%s%s", $i, i < n - 5 ? " " : ""
           printf "` | %s | %s | %s | %s | %s |\n", $(n - 4), $(n - 3), $(n - 2), $(n - 1), $n }' <<<"$rows"
fi
bad=$(awk '$(NF - 1) > 0 || $NF > 0' <<<"$rows")
if [ -n "$bad" ]; then
    echo "kernels that spill or have a stack frame (name, target, registers, shared, stack, spilled):"
    echo "$bad"
    exit 1
fi
[ "${2:-}" = --table ] || echo "$(wc -l <<<"$rows") kernels, none spills"
