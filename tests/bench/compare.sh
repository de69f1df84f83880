#!/usr/bin/env bash
# ohtrain against PyTorch eager (newest release) on the same cores, alternating in one run: tokens/s (vit: images/s,
# stanhop: windows/s), peak memory, and the share of this machine's SGEMM rate. Installs PyTorch into build/peer; nothing else in
# the project needs it.
#   tests/bench/compare.sh [opt] [bert] [vit] [stanhop]      THREADS=2 ROUNDS=2 STEPS=3 PEER_PYTHON=/path/to/python OHTRAIN=/path/to/ohtrain
#   RUN="chrt -f 10" starts both so, for a machine that does other things meanwhile; OUT=folder for the JSON files
set -euo pipefail
cd "$(dirname "$0")/../.."
source env/common.sh
threads=${THREADS:-2} rounds=${ROUNDS:-2} steps=${STEPS:-3}
python=${PEER_PYTHON:-build/peer/bin/python}
if [ ! -x "$python" ]; then
    python3 -m venv build/peer
    build/peer/bin/pip install -q torch numpy
fi
ohtrain=${OHTRAIN:-build/release/ohtrain}
[ -x "$ohtrain" ] || build build/release
run=${RUN:-}
out=${OUT:-build/compare}
mkdir -p "$out"
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(opt bert vit)

export OMP_NUM_THREADS=$threads
for model in "${models[@]}"; do
    if [ "$model" = stanhop ]; then # batch 32; windows instead of tokens
        for ((round = 0; round < rounds; round++)); do
            $run "$ohtrain" bench -c jobs/stanhop-etth1-24.yaml --steps "$steps" --json "$out/$model-$round.json" --quiet \
                train.global_batch=32 >/dev/null
            $run "$python" tests/bench/peer_stanhop.py --steps "$steps" --threads "$threads" --json "$out/$model-peer-$round.json" >/dev/null
        done
        continue
    fi
    case $model in
        opt) job=jobs/opt-125m.yaml batch=4 keys=(data.tokens=512) ;;
        bert) job=jobs/bert-base.yaml batch=4 keys=(data.tokens=128) ;;
        vit) job=jobs/vit-s16.yaml batch=16 keys=(data.path=none) ;;
        *) echo "compare.sh: unknown model $model: opt, bert, vit, stanhop" >&2; exit 2 ;;
    esac
    for ((round = 0; round < rounds; round++)); do
        $run "$ohtrain" bench -c $job --steps "$steps" --json "$out/$model-$round.json" --quiet \
            model.attention=softmax1 "${keys[@]}" train.micro_batch=$batch train.global_batch=$batch >/dev/null
        $run "$python" tests/bench/peer_pytorch.py --model "$model" --steps "$steps" --threads "$threads" --batch $batch \
            --json "$out/$model-peer-$round.json" >/dev/null
    done
done
"$python" - "$out" "$rounds" "${models[@]}" <<'EOF'
import json, statistics, sys
out, rounds, models = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
for m in models:
    ours = [json.load(open(f"{out}/{m}-{r}.json")) for r in range(rounds)]
    peer = [json.load(open(f"{out}/{m}-peer-{r}.json")) for r in range(rounds)]
    med = lambda runs, key: statistics.median(r[key] for r in runs)
    n = peer[0]["parameters"]
    what = {"vit": "images", "stanhop": "windows"}.get(m, "tokens")
    rate = f"{what}_per_s"
    print(f"{m}: ohtrain {med(ours, rate):.4g} {what}/s, {peer[0]['peer']} {med(peer, rate):.4g}: "
          f"{med(ours, rate) / med(peer, rate):.2f} times")
    print(f"   share of the SGEMM rate {med(ours, 'gemm_share'):.3f}; memory beyond 16 bytes a parameter: "
          f"{(med(ours, 'peak_rss_bytes') - 16 * n) / 2**20:.0f} MiB against {med(peer, 'beyond_16_bytes_a_parameter') / 2**20:.0f} MiB")
EOF
