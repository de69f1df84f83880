# A small STanHop-Net from a CSV file to its test errors: it learns, stops early, is the same on one, two and four ranks, ends
# with the same bits when it is killed on the way, and ohtrain eval finds the best parameters again.
. "$OHT_SOURCE/tests/support/e2e.bash"
awk 'BEGIN { srand(3); print "date,a,b,c"
    for (t = 0; t < 260; t++) printf "2020-01-%02d %02d:00:00,%.5f,%.5f,%.5f\n", 1 + t / 24, t % 24,
        sin(.26 * t) + 2 * rand(), 5 + 2 * cos(.26 * t) + 3 * rand(), sin(.13 * t) + 2 * rand() }' >"$work/s.csv"
succeed "$OHTRAIN" prepare series "$work/s.csv" --split 160,50,50 -o "$work/s.h5"
# 147 windows in batches of 73: the last of an epoch has one.
cat >"$work/s.yaml" <<EOF
model: {type: stanhop, layers: 2, width: 16, heads: 2, ffn: 32, series: 3, input: 12, horizon: 2, segment: 4, patterns: 3, dropout: 0.05, attention_dropout: 0.05}
data: {path: $work/s.h5}
train: {epochs: 30, patience: 2, keep_best: true, global_batch: 73, micro_batch: 20, lr: 0.02, schedule: type2, warmup_steps: 0, weight_decay: 0, beta2: 0.999,
  clip: 5, eval_every: 0, log_every: 1}
eval: {batch: 24, micro_batch: 12, train_eval_batches: 0}
outliers: {every: 4}
run: {checkpoint_every: 4}
EOF
train="$OHTRAIN train --quiet -c $work/s.yaml"
expect 0 'epochs of 3 steps' "$OHTRAIN" train -c "$work/s.yaml" -o "$work/one"
for np in 2 4; do
    succeed ranks $np $train -o "$work/np$np" $([ $np = 4 ] && echo train.epochs=3)
    paste -d ' ' <(losses "$work/one" | head -9) <(losses "$work/np$np" | head -9) | awk '
        { d = $2 - $4; if (d < 0) d = -d; if ($1 != $3 || !(d <= 1e-4 * $2)) { print; bad = 1 } } END { exit NR != 9 || bad }' ||
        fail "$np ranks train another model"
done

# Killed with -9 on the way and started again.
mpirun -np 2 "${mpi[@]}" $train -o "$work/killed" >>"$work/killed.log" 2>&1 &
pid=$!
wait_for "$pid" has_lines "$work/killed/metrics.jsonl" $((4 + RANDOM % 8))
for rank in $(pgrep -P "$pid"); do kill -9 "$rank"; done
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
succeed ranks 2 $train -o "$work/killed"
same_state "$work/np2" "$work/killed"
h5diff -r "$(newest "$work/np2")" "$(newest "$work/killed")" /best >"$work/diff" || fail "best parameters differ: $(head -3 "$work/diff")"
cmp <(losses "$work/np2") <(losses "$work/killed") || fail "logs differ"
h5diff "$work/np2/outliers.h5" "$work/killed/outliers.h5" /activations || fail "outlier reports differ"

succeed ranks 2 "$OHTRAIN" eval -r "$work/np2" -o "$work/eval.json" --quiet
cp "$work/out" "$work/table"
succeed "$OHTRAIN" eval -r "$work/np2" -o "$work/validation.json" --quiet eval.split=validation
expect 0 'is finished' "$OHTRAIN" train -c "$work/s.yaml" -o "$work/one"
expect 0 'and fewer are asked for now' "$OHTRAIN" train -c "$work/s.yaml" -o "$work/one" train.epochs=1
expect 6 'cannot write none/x.json' "$OHTRAIN" eval -r "$work/one" -o none/x.json # before it works

# Fewer steps than are done, and an evaluation that the new keys ask for: it is made up for, nothing is trained.
fewer="$train -o $work/fewer train.epochs=0 train.patience=0 train.keep_best=false train.schedule=constant run.checkpoint_every=6"
succeed $fewer train.steps=10 train.eval_every=5
rm "$work"/fewer/checkpoints/step-00000010.h5
succeed $fewer train.steps=5 train.eval_every=3
grep -q '^{"step": 6, "eval": .*"split": "validation"' "$work/fewer/metrics.jsonl" || fail "no evaluation of step 6"
succeed "$OHTRAIN" report "$work/one" "$work/np2"
python3 - "$work" <<'PY' || fail "results"
import json, sys
work = sys.argv[1]
lines = [json.loads(x) for x in open(work + "/np2/metrics.jsonl")]
loss = [x["loss"] for x in lines if "loss" in x]
evals = [x["eval"] for x in lines if "eval" in x and x["step"] > 0]  # at 0: before training
result, way = evals[-1], evals[:-1]
best = min(range(len(way)), key=lambda i: (way[i]["mse_batches"], -i))
print("loss", loss[0], "to", loss[-2], "evaluations", [round(e["mse_batches"], 3) for e in way], "test mse", result["mse"])
assert loss[-2] < 0.7 * loss[0], "it does not learn"
assert result["result"] and result["split"] == "test" and result["params_step"] == 3 * (best + 1)
assert all(e["split"] == "validation" and not e["result"] for e in way)
assert 4 <= len(way) < 30 and len(way) - 1 - best == 2, "no early stopping"
fp = json.load(open(work + "/eval.json"))
assert fp["split"] == "test" and fp["step"] == result["params_step"]
for name in "mse mae rmse mape mspe rmse_pooled mse_batches avg_kurtosis max_layer_inf_norm".split():
    assert abs(fp["fp"][name] - result[name]) <= 1e-6 * abs(result[name]), name
    assert name + " " in open(work + "/table").read(), name
v = json.load(open(work + "/validation.json"))
assert abs(v["fp"]["mse_batches"] - way[best]["mse_batches"]) <= 1e-6 * v["fp"]["mse_batches"]
PY
expect 3 'model.series=3' $train -o "$work/no" model.series=4
expect 3 'too short for windows' $train -o "$work/no" model.input=159
expect 3 'model.type = stanhop' "$OHTRAIN" train -c "$work/opt.yaml" -o "$work/no" data.path="$work/s.h5"
expect 3 'model.type = opt' $train -o "$work/no" data.path="$work/clm.h5"
exit 0
