# A small ViT learns photographs: 2,000 + 500 pictures of CIFAR-10 as class folders (OHT_TEST_DATA), vanilla and softmax_1, two
# ranks. Chance is 10 %, of which 500 pictures tell with a standard deviation of 1.3.
set -u
folder=${OHT_TEST_DATA:-}/images/cifar10
[ -n "${OHT_TEST_DATA:-}" ] && [ -d "$folder" ] || { echo "OHT_TEST_DATA has no images/cifar10: skipped"; exit 77; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
export OMP_NUM_THREADS=1
"$OHTRAIN" prepare images --train "$folder/train" --validation "$folder/test" -o cifar10.h5 --strict -q || fail "prepare"
for attention in vanilla softmax1; do
    mpirun -np 2 --oversubscribe --bind-to none "$OHTRAIN" train -c "$OHT_SOURCE/jobs/vit-mini.yaml" -o $attention --quiet data.path=cifar10.h5 \
        model.attention=$attention train.steps=200 train.warmup_steps=20 train.log_every=10 train.eval_every=0 data.crop_area=0.35 ||
        fail "train $attention"
done
python3 - <<'PY' || fail "results"
import json
for run in ("vanilla", "softmax1"):
    lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    loss = [x["loss"] for x in lines if "loss" in x]
    last = [x["eval"] for x in lines if "eval" in x][-1]
    print(run, "loss", loss[0], "to", sum(loss[-3:]) / 3, "top-1", last["top1"])
    assert sum(loss[-3:]) / 3 < loss[0] - 0.2, "the loss does not fall"
    assert last["top1"] >= 20, "top-1 is not far above chance"
PY
exit $bad
