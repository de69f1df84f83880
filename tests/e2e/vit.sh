# A small ViT from pictures to a report: it learns the drawn shapes, the same on two ranks, top-1 is everywhere, quantized too,
# and the data of a step are the same for any number of ranks and threads.
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
"$OHTRAIN" eval -r one -o all.json --quiet compat.all_modules=true >table || fail "eval with all modules"
grep -q 'all_modules_kurtosis ' table || fail "no all_modules_kurtosis in: $(cat table)"
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
assert last["top1"] >= 22, "far below what ten shapes allow; chance is 10, with a standard deviation of 3"
q, q2 = json.load(open("w8a8.json")), json.load(open("w8a8-2.json"))
w3, w16 = (json.load(open(f"w{b}.json")) for b in (3, 16))
print("top-1 W8A8", q["quantized"]["top1"], "W3A3", w3["quantized"]["top1"], "loss", fp["loss"], q["quantized"]["loss"])
assert abs(q["quantized"]["loss"] / fp["loss"] - 1) < 0.05 and abs(q["quantized"]["top1"] - fp["top1"]) <= 5
assert len(q["quantization"]["seeds"]) == 2 and q["quantization"]["deviation"]["loss"] > 0
# Ranks split a batch: products of other shapes round their last bit otherwise, which can move an activation by one step of its grid.
assert abs(q["quantized"]["top1"] - q2["quantized"]["top1"]) <= 1 and abs(q["quantized"]["loss"] - q2["quantized"]["loss"]) < 1e-3
assert abs(w16["quantized"]["loss"] / fp["loss"] - 1) < 1e-3 and w3["quantized"]["loss"] > q["quantized"]["loss"] + 0.02
assert any(x["kind"] == "scores" for x in q["quantization"]["sensitivity"])
assert last["top5"] > last["top1"] and fp["top1"] == last["top1"] and "perplexity" not in fp
PY

# Hashes of the data with everything random on; another seed gives others.
many=(-c "$OHT_SOURCE/jobs/vit-mini.yaml" data.path=shapes.h5 model.image_size=16 model.patch=4 model.layers=1 model.width=12 model.heads=1 model.ffn=12
    train.steps=6 train.global_batch=22 train.micro_batch=4 data.augment_ops=2 data.mixup=0.2 data.cutmix=0.2 data.mix_batch=8 run.log=debug
    train.warmup_steps=0 eval.max_batches=1 outliers.every=0 compat.all_modules=true)
hashes() { grep '^step [0-9]*: data [0-9a-f]*$' "$1"; }
"$OHTRAIN" train "${many[@]}" -o h1 2>log1 || fail "hashes: $(cat log1)"
[ "$(hashes log1 | sort -u | wc -l)" = 6 ] || fail "not six different hashes: $(cat log1)"
for how in "1 3" "2 1" "4 2"; do
    set -- $how
    mpirun -np "$1" --oversubscribe --bind-to none "$OHTRAIN" train "${many[@]}" -o "h$1$2" data.threads="$2" train.micro_batch=3 2>log2 ||
        fail "$1 ranks, $2 threads: $(cat log2)"
    [ "$(hashes log1)" = "$(hashes log2)" ] || fail "$1 ranks, $2 threads see other data: $(cat log2)"
done
"$OHTRAIN" train "${many[@]}" -o h5 train.seed=1001 2>log2 || fail "another seed: $(cat log2)"
[ "$(hashes log1 | wc -l)" = "$(hashes log2 | wc -l)" ] || fail "another seed: $(cat log2)"
[ -z "$(comm -12 <(hashes log1 | sort) <(hashes log2 | sort))" ] || fail "another seed, the same data"
"$OHTRAIN" train "${many[@]}" -o h6 run.log=info 2>log2 || fail "info: $(cat log2)"
[ -z "$(hashes log2)" ] || fail "hashes without debug"
h5dump -d /eval/0/modules/times h1/outliers.h5 >dump || fail "no /eval/0/modules in the report"
"$OHTRAIN" report h1 h23 >/dev/null 2>&1 || "$OHTRAIN" report h1 >/dev/null || fail "report of all modules"

# What to do without pictures.
says() { local text=$1; shift; "$OHTRAIN" train -c "$OHT_SOURCE/jobs/vit-mini.yaml" -o no "$@" >log2 2>&1 && fail "$* is taken"; grep -qF "$text" log2 || fail "no \"$text\" in: $(cat log2)"; }
says 'datasets/make-sample.sh images'
says 'ohtrain prepare images -o none.h5' data.path=none.h5
"$(dirname "$OHTRAIN")/tests/make_text" text.h5 clm 50 9 || fail "no text"
says '`ohtrain prepare images`' data.path=text.h5

# The speed of the loader on this file, and without one.
bench=("$OHTRAIN" bench -c "$OHT_SOURCE/jobs/vit-mini.yaml" --steps 1 --quiet model.image_size=16 model.patch=4 model.layers=1 train.global_batch=8
    train.micro_batch=8)
"${bench[@]}" data.path=shapes.h5 --json bench.json >out || fail "bench"
grep -qE 'decode, augment, mix +[0-9.]+ images/s' out || fail "no rate: $(cat out)"
grep -qE '"data_images_per_s_core": [0-9.]+' bench.json && grep -qE '"data_wait_share": [0-9.]+' bench.json || fail "bench.json: $(cat bench.json)"
"${bench[@]}" data.path=none.h5 --json bench.json >out || fail "bench without data"
grep -q 'names no image file' out && ! grep -q data_wait_share bench.json || fail "bench without data: $(cat out)"
head -c 3000 shapes.h5 >broken.h5
"${bench[@]}" data.path=broken.h5 >out 2>&1 && fail "bench takes a broken file"
exit $bad
