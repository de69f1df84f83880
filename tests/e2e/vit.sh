# A small ViT from pictures to a report: it learns the drawn shapes, the same on two ranks, and top-1 is everywhere.
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
assert last["top5"] > last["top1"] and fp["top1"] == last["top1"] and "perplexity" not in fp
PY
exit $bad
