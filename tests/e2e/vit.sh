# A small ViT from pictures to a report: it learns the drawn shapes, the same on two ranks, and top-1 is everywhere, quantized too.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
export OMP_NUM_THREADS=1
python3 "$OHT_SOURCE/datasets/make-images.py" shapes --size 16 --train 40 --validation 10 || fail "no pictures"
"$OHTRAIN" prepare images --train shapes/train --validation shapes/validation -o shapes.h5 -q || fail "prepare"
keys=(data.path=shapes.h5 model.image_size=16 model.patch=4 model.layers=2 model.width=48 model.ffn=96 train.steps=240
    train.warmup_steps=20 train.lr=3e-3 train.global_batch=32 train.micro_batch=16 train.log_every=1 train.eval_every=120 outliers.every=60
    data.crop_area=1 run.checkpoint_every=120)
"$OHTRAIN" train -c "$OHT_SOURCE/jobs/vit-mini.yaml" -o one --quiet "${keys[@]}" data.threads=2 || fail "train"
mpirun -np 2 --oversubscribe --bind-to none "$OHTRAIN" train -c "$OHT_SOURCE/jobs/vit-mini.yaml" -o two --quiet "${keys[@]}" || fail "two ranks"
"$OHTRAIN" eval -r one -o eval.json --quiet >table || fail "eval"
grep -q 'top1 ' table || fail "no top1 in the table"
bits=(quant.weights=8 quant.activations=8 quant.batches=4 quant.batch=16 quant.seeds=2 quant.integer_check=true)
"$OHTRAIN" eval -r one -o w8a8.json --quiet "${bits[@]}" --sensitivity kind >quantized || fail "quantized eval"
cp one/quant.json first.json
mpirun -np 2 --oversubscribe --bind-to none "$OHTRAIN" eval -r one -o w8a8-2.json --quiet "${bits[@]}" >/dev/null || fail "quantized eval on two ranks"
cmp first.json one/quant.json || fail "two ranks find other ranges"
for bits in 3 16; do
    "$OHTRAIN" eval -r one -o w$bits.json --quiet quant.weights=$bits quant.activations=$bits quant.setup=all quant.batch=40 quant.activation_ranges=minmax \
        quant.calibration=validation quant.batches=1 >/dev/null || fail "W${bits}A$bits"
done
"$OHTRAIN" report one --table1 >table1.txt || fail "table 1"
"$OHTRAIN" report one two >report.txt || fail "report"
grep -q 'top-1 %' report.txt || fail "no top-1 in: $(cat report.txt)"
python3 - <<'PY' || fail "results"
import json
read = lambda run: [json.loads(line) for line in open(run + "/metrics.jsonl")]
one, two = read("one"), read("two")
loss = [x["loss"] for x in one if "loss" in x]
other = [x["loss"] for x in two if "loss" in x]
last = [x["eval"] for x in one if "eval" in x][-1]
fp = json.load(open("eval.json"))["fp"]
print("loss", loss[0], "to", loss[-1], "top-1", last["top1"])
assert max(abs(a - b) for a, b in zip(loss[:10], other[:10])) < 1e-4, "two ranks train another model"
assert sum(loss[-5:]) / 5 < loss[0] - 0.3, "the loss does not fall"
assert last["top1"] >= 25, "far below what ten shapes allow; chance is 10"
q, q2 = json.load(open("w8a8.json")), json.load(open("w8a8-2.json"))
w3, w16 = (json.load(open(f"w{b}.json")) for b in (3, 16))
print("top-1 W8A8", q["quantized"]["top1"], "W3A3", w3["quantized"]["top1"], "loss", fp["loss"], q["quantized"]["loss"])
assert abs(q["quantized"]["loss"] / fp["loss"] - 1) < 0.05 and abs(q["quantized"]["top1"] - fp["top1"]) <= 5
assert len(q["quantization"]["seeds"]) == 2 and q["quantization"]["deviation"]["loss"] > 0
assert q["quantized"]["top1"] == q2["quantized"]["top1"] and abs(q["quantized"]["loss"] - q2["quantized"]["loss"]) < 1e-9
assert abs(w16["quantized"]["loss"] / fp["loss"] - 1) < 1e-3 and w3["quantized"]["loss"] > q["quantized"]["loss"] + 0.02
assert any(x["kind"] == "scores" for x in q["quantization"]["sensitivity"])
assert last["top5"] > last["top1"] and fp["top1"] == last["top1"] and "perplexity" not in fp
PY
exit $bad
