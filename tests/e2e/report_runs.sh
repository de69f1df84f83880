# ohtrain report on runs of the trainer itself: its numbers are those of ohtrain eval on the same checkpoints, a run that was
# stopped early is called unfinished, and the configuration a run keeps is one that check accepts.
. "$OHT_SOURCE/tests/support/e2e.bash"
cd "$work" || exit 1
succeed ranks 2 "$OHTRAIN" train --quiet -c opt.yaml -o vanilla model.attention=vanilla
succeed ranks 1 "$OHTRAIN" train --quiet -c opt.yaml -o gated model.attention=softmax1 model.gate=conditional_per_token
succeed ranks 2 "$OHTRAIN" train --quiet -c bert.yaml -o bert "model.attention=clippedsoftmax1(-.03:1)"
for run in vanilla gated bert; do
    succeed ranks 2 "$OHTRAIN" eval --quiet -r $run -o $run.json
    succeed "$OHTRAIN" check -c $run/config.yaml
done
succeed "$OHTRAIN" report vanilla gated bert --format json
python3 - "$work" <<'PY' || fail "report and eval disagree"
import json, sys
work = sys.argv[1]
report = json.load(open(work + "/out"))
assert report["failed"] == []
names = [("vanilla", "Vanilla"), ("gated", "Gated_OutEffHop"), ("bert", "Clipped_OutEffHop")]
assert [(r["run"], r["method"]) for r in report["runs"]] == names
for r in report["runs"]:
    e = json.load(open("%s/%s.json" % (work, r["run"])))
    assert r["params"] == e["params"] and r["step"] == r["steps"] == e["step"] == 30 and r["sequences"] == e["sequences"]
    for key, value in e["fp"].items():
        assert abs(r[key] - value) <= 1e-6 * abs(value), (r["run"], key, r[key], value)
    headline = "max_ffn_inf_norm" if r["model"] == "BERT" else "max_layer_inf_norm"
    assert r["headline_inf_norm"] == r[headline]
    assert r["largest"]["value"] >= r["max_layer_inf_norm"] and r["largest"]["tap"] and r["largest"]["channel"] >= 0
PY
# The same folder in the middle of its life.
succeed ranks 1 "$OHTRAIN" train --quiet -c opt.yaml -o part train.steps=10
sed -i 's/steps: 10$/steps: 30/' part/config.yaml
expect 3 'part: unfinished: evaluated at step 10 of 30' "$OHTRAIN" report vanilla part
grep -q '10 of 30' out || fail "an unfinished run is not marked"
