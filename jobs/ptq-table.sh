#!/bin/bash
# How far runs can be quantized: full precision beside W8A8, W6A8, W4A8 and W6A6, mean and deviation over three calibration seeds, as a
# Markdown table with kurtosis and infinity norm. Ranges of activations as the run's configuration says; ranges of weights below
# 8 bits by squared error, as the published scripts have them.
#   jobs/ptq-table.sh runs/opt-* [key=value ...]           (keys given here win; results stay as RUN/ptq-w6a8.json and so on)
#   jobs/ptq-table.sh --print runs/opt-*                   the table again from what is there
# OHTRAIN names the program, OHT_MPIRUN a launcher: OHT_MPIRUN="mpirun -np 2 --bind-to none".
set -u -o pipefail
widths=("8 8" "6 8" "4 8" "6 6")
evaluate=1 runs=() keys=()
for word in "$@"; do
    case $word in
        --print) evaluate=0 ;;
        *=*) keys+=("$word") ;;
        *) runs+=("${word%/}") ;;
    esac
done
[ ${#runs[@]} -gt 0 ] || { echo "which runs? (fix: jobs/ptq-table.sh RUNDIR... [key=value ...])" >&2; exit 2; }
worst=0
for run in "${runs[@]}"; do
    for width in "${widths[@]}"; do
        [ $evaluate -eq 1 ] || continue
        read -r w a <<<"$width"
        ranges=minmax
        [ "$w" -ge 8 ] || ranges=mse
        ${OHT_MPIRUN:-} "${OHTRAIN:-ohtrain}" eval -r "$run" -o "$run/ptq-w${w}a$a.json" --quiet quant.weights="$w" quant.activations="$a" \
            quant.weight_ranges=$ranges quant.seeds=3 "${keys[@]}" >/dev/null || worst=$?
    done
done
python3 - "${runs[@]}" <<'PY' || worst=1
import json, os, sys
widths = ["w8a8", "w6a8", "w4a8", "w6a6"]
def read(run, width):
    try:
        return json.load(open(f"{run}/ptq-{width}.json"))
    except OSError:
        return None
def show(x):
    return "inf" if x is None else f"{x:.4g}" if x >= 1e4 else f"{x:.2f}"
rows = []
for run in sys.argv[1:]:
    found = {w: r for w in widths if (r := read(run, w))}
    if not found:
        print(f"{run}: not evaluated", file=sys.stderr)
        continue
    fp = next(iter(found.values()))["fp"]
    result = next(m for m in ("perplexity", "top1", "mse", "loss") if m in fp)
    cells = [os.path.basename(run), show(fp["avg_kurtosis"]), show(fp["max_inf_norm"]), show(fp[result])]
    for w in widths:
        r = found.get(w)
        cells.append(f"{show(r['quantized'][result])} ± {show(r['quantization']['deviation'][result])}" if r else "-")
    rows.append((result, cells))
for result in dict.fromkeys(r for r, _ in rows):
    head = ["run", "avg kurtosis", "max inf norm", f"{result} FP"] + [w.upper() for w in widths]
    print("| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
    for r, cells in rows:
        if r == result:
            print("| " + " | ".join(cells) + " |")
    print()
sys.exit(len(rows) < len(sys.argv) - 1)
PY
exit $worst
