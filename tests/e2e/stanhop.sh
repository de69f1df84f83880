# STanHop-Net from a table to a report: what the published metrics count, the evaluation before the first step, both tables.
source "$OHT_SOURCE/tests/support/e2e.bash"
cd "$work" || exit 1
export OMP_NUM_THREADS=1
awk 'BEGIN { print "date,a,b,c"; for (t = 0; t < 400; t++)
    printf "2020-01-%02d %02d:00:00,%.5f,%.5f,%.5f\n", 1 + int(t / 24), t % 24, sin(t / 4), cos(t / 9) + t / 300, sin(t / 3) * cos(t / 50) }' >wave.csv
succeed "$OHTRAIN" prepare series wave.csv --split 250,70,70 -o wave.h5
cat >wave.yaml <<'EOF'
model: {type: stanhop, layers: 1, width: 16, heads: 2, ffn: 16, dropout: 0.1, attention_dropout: 0.1, attention: softmax1, series: 3,
  input: 24, horizon: 24, segment: 6, patterns: 3}
data: {path: wave.h5}
train: {steps: 6, global_batch: 16, micro_batch: 8, schedule: constant, warmup_steps: 0, lr: 0.003, eval_every: 3, log_every: 1, clip: 5}
eval: {batch: 16, micro_batch: 8}
outliers: {every: 2}
EOF
for attention in softmax1 vanilla entmax sparsemax; do
    succeed "$OHTRAIN" train -c wave.yaml -o runs/$attention model.attention=$attention --quiet
done
succeed "$OHTRAIN" train -c wave.yaml -o runs/gated model.gate=conditional_per_token model.gate_init=0.25 --quiet
succeed ranks 2 "$OHTRAIN" train -c wave.yaml -o two --quiet
close_losses 1e-4 runs/softmax1 two

grep -q '^{"step": 0, "eval": .*"modules": 143,' runs/softmax1/metrics.jsonl || fail "no evaluation before the first step"
succeed "$OHTRAIN" eval -r runs/softmax1 --quiet
for name in mse mae modules activation_kurtosis clean_kurtosis clean_max_inf_norm; do
    grep -q "^  $name " out || fail "eval does not print $name"
done
succeed "$OHTRAIN" report runs/*
grep -q 'runs/softmax1: [0-9.]* over 143 modules, [0-9.]* without probabilities, .*; before training [0-9]' out || { cat out; fail "no note"; }
succeed "$OHTRAIN" report runs/* --table1
grep -q '^24 *STanHop (GSH) *3.269 / 4.947 *[0-9]' out || { cat out; fail "no Table 2"; }
grep -q '^ *OutEffHop *ours, 1 seed' out || { cat out; fail "not in Table 1"; }
cp out table2.txt
for format in csv json; do
    succeed "$OHTRAIN" report runs/* --table1 --format $format
    cp out table2.$format
done
python3 - <<'PY' || fail "Table 2 for programs"
import csv, json
rows = [r for r in csv.DictReader(open("table2.csv", newline="")) if r["kind"] == "table2"]
numbers = [n for n in json.load(open("table2.json"))["numbers"] if n["kind"] == "table2"]
same = lambda field, value: field == "" if value is None else field == value if isinstance(value, str) else float(field) == value
assert len(rows) == len(numbers) and all(same(r[k], n[k]) for r, n in zip(rows, numbers) for k in n)
assert sorted({n["horizon"] for n in numbers}) == [24, 48, 168, 336, 720]
entmax = {n["metric"]: n for n in numbers if n["horizon"] == 24 and n["method"] == "Entmax"}
assert list(entmax) == ["avg_kurtosis", "headline_inf_norm", "mse", "activation_kurtosis", "start_kurtosis"], entmax
assert entmax["avg_kurtosis"]["paper"] == 3.269 and entmax["headline_inf_norm"]["paper"] == 4.947
line = next(l for l in open("table2.txt") if l.startswith("24 ") and "STanHop (GSH)" in l).split()
assert line[-5:] == ["%.3f" % n["ours"] for n in entmax.values()], (line, entmax) # one seed: no deviations
PY
succeed "$OHTRAIN" report runs/* --format html
grep -q 'Table 2, ETTh1' out || fail "no Table 2 on the page"
grep -q 'null mass' out || fail "no null mass on the page"
grep -q 'mean gate' out || fail "no gates on the page"
succeed "$OHTRAIN" report runs/* --format json
# 3 encoder and 8 decoder associations of two heads; a weight between 0 and 1, about 1 / (1 + keys)
h5dump -d /eval/0/null_mass runs/softmax1/outliers.h5 | grep -q '( 11, 2 )' || fail "null mass is not (11, 2)"
h5dump -d /attention/gate_mean runs/gated/outliers.h5 | grep -q '( 3, 11, 2 )' || fail "gates are not (3, 11, 2)"

# Epochs decide how many steps a run has; a comma in a name is no new column.
succeed "$OHTRAIN" train -c wave.yaml -o other --quiet model.horizon=12 train.steps=100 train.epochs=1 train.eval_every=0
succeed "$OHTRAIN" report other --format csv
grep -q '^other,"STanHop-Net, other horizon",OutEffHop,.*,14,14,' out || { cat out; fail "CSV of another horizon"; }
succeed "$OHTRAIN" report other
grep -q ' 14 of ' out && fail "a finished run of epochs has fewer steps than it should: $(cat out)"
succeed "$OHTRAIN" report other --table1 --format csv
grep -q '^value,"STanHop-Net, other horizon",OutEffHop,mse,' out || { cat out; fail "Table 1 as CSV of another horizon"; }

# Quantized: 16 bits change next to nothing, 3 bits do; scores, probabilities and patterns are among the sites.
for bits in 16 8 3; do
    succeed "$OHTRAIN" eval -r runs/softmax1 --quiet quant.weights=$bits quant.activations=$bits quant.batch=16 -o w$bits.json
done
python3 - <<'PY' || fail "quantized evaluations"
import json
mse = lambda bits: json.load(open(f"w{bits}.json"))
exact = mse(16)["fp"]["mse"]
text = lambda bits: json.dumps(mse(bits))
def quantized(bits):
    found = []
    def walk(x, path):
        if isinstance(x, dict):
            for k, v in x.items(): walk(v, path + [k])
        elif isinstance(x, list):
            for v in x: walk(v, path)
        elif path and path[-1] == "mse" and "fp" not in path: found.append(x)
    walk(mse(bits), [])
    return found[0]
d = {b: abs(quantized(b) - exact) / exact for b in (16, 8, 3)}
print(d)
assert d[16] < 1e-3 and d[8] < 0.02 and d[3] > d[16], d
PY
for site in dec.1.cross.scores enc.0.pool.probs enc.0.pool.key dec.0.series.context enc.0.mlp1.gelu embed.out; do
    grep -q "\"$site\"" runs/softmax1/quant.json || fail "no site $site"
done
grep -q '"dec.0.predict"' runs/softmax1/quant.json && fail "the forecast is quantized"
expect 2 'are no layers' "$OHTRAIN" eval -r runs/softmax1 quant.weights=8 --sensitivity layer
# A stop request is heeded while one range is estimated, which with 16 bits takes hours.
"$OHTRAIN" eval -r runs/softmax1 --quiet quant.activations=16 quant.activation_ranges=mse_grid quant.batch=16 >out 2>&1 &
sleep 3
kill -TERM $!
wait $!
[ $? = 75 ] || { cat out; fail "no stop in a calibration"; }

export OHT_RUNS=$work/jobs OHT_MPIRUN_FLAGS="${mpi[*]}"
succeed "$OHT_SOURCE/jobs/local.sh" -n 2 -t 1 -J wave "$OHT_SOURCE/jobs/stanhop.slurm" wave.yaml
same_state "$OHT_RUNS/wave" two
METHODS="clipped gated_outeffhop entmax" SEEDS=1 succeed "$OHT_SOURCE/jobs/local.sh" -n 1 -J sweep -a 0-2 "$OHT_SOURCE/jobs/sweep.slurm" wave.yaml
succeed "$OHTRAIN" report "$OHT_RUNS"/sweep/*
for method in Clipped_Softmax Gated_OutEffHop Entmax; do grep -q " $method " out || fail "the sweep has no $method"; done
