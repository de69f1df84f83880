# ohtrain report on runs written by h5py with the layout of src/outliers/report.c: the four formats, differences, the
# headline norm of each model, provenance; and damaged, unfinished, foreign folders beside good ones.
set -u
python=
for candidate in python3 /usr/bin/python3; do
    $candidate -c "import h5py, numpy" 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || { echo "no python3 with h5py: skipped"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
failed=0
fail() {
    echo "FAILED: $*"
    sed 's/^/    /' out err | head -40
    failed=1
}
expect() {
    local want=$1
    shift
    $OHTRAIN "$@" >out 2>err </dev/null
    local got=$?
    last="ohtrain $*"
    [ "$got" = "$want" ] || fail "$last: exit code $got, expected $want"
}
says() {
    local where=$1 text
    shift
    for text in "$@"; do grep -qF -- "$text" "$where" || fail "$last: \"$text\" is not in $where"; done
}

cat >make.py <<'PY'
import os
import h5py
import numpy as np

def run(name, config, evals, steps=100):
    os.makedirs(name)
    with open(name + "/config.yaml", "w") as f:
        f.write(config + "train:\n  steps: %d\n" % steps)
    with h5py.File(name + "/outliers.h5", "w", libver="latest") as f:
        f.attrs["format"] = "ohtrain-outliers"
        f.attrs["format_version"] = np.int64(1)
        for n, e in enumerate(evals):
            g = f.create_group("eval/%d" % n)
            g.attrs["step"] = np.int64(e["step"])
            g.attrs["sequences"] = np.int64(64)
            for key in ("loss", "perplexity", "max_inf_norm", "max_ffn_inf_norm", "max_layer_inf_norm", "avg_kurtosis", "max_kurtosis"):
                g.attrs[key] = np.float64(e[key])
            taps = ["layer.0.out", "layer.1.ffn.out", "final_ln"]
            g.create_dataset("tap", data=taps, dtype=h5py.string_dtype())
            g.create_dataset("inf_norm_max", data=np.array(e.get("inf", [3.5, 40.25, np.nan]), "f4"))
            for key in ("inf_norm_mean", "kurtosis"):
                g.create_dataset(key, data=np.array([1, 2, np.nan], "f4"))
            g.create_dataset("max_sample", data=np.array([1, 17, -1], "i8"))
            g.create_dataset("max_token", data=np.array([2, 88, -1], "i4"))
            g.create_dataset("max_channel", data=np.array([3, 201, -1], "i4"))

def metrics(step, k, inf, ppl):
    return dict(step=step, loss=np.log(ppl), perplexity=ppl, max_inf_norm=inf + 100, max_ffn_inf_norm=inf + 10, max_layer_inf_norm=inf, avg_kurtosis=k, max_kurtosis=2 * k)

opt = "model:\n  attention: %s\n%s"
run("vanilla", opt % ("vanilla", ""), [metrics(50, 9e9, 1, 999), metrics(100, 23341.513, 92.786, 15.974)])
run("softmax1", opt % ("softmax1", ""), [metrics(100, 21.542, 13.302, 15.916)])
run("clipped", opt % ("clippedsoftmax1", "  alpha: 12\n"), [metrics(100, 24127.332, 67.602, 16.118)])
run("gated", opt % ("vanilla", "  gate: conditional_per_token\n  gate_init: 0.25\n"), [metrics(100, 90.321, 13.704, 15.677)])
run("bert|x", opt % ('"clipped(-.025:1)"', "  type: bert\n  norm: post\n"), [metrics(100, 14.210, 23.619, 6.118)])
run("half", opt % ("softmax1", ""), [metrics(40, 21, 13, 20)])
run("begun", opt % ("softmax1", ""), [])
run("burst", opt % ("softmax1", ""), [metrics(100, float("inf"), float("nan"), float("inf"))])
run("cut", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
with open("cut/outliers.h5", "r+b") as f:
    f.truncate(1500)
run("garbage", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
open("garbage/outliers.h5", "wb").write(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20)
run("unconfigured", "model:\n  attentoin: x\n", [metrics(100, 1, 2, 3)])
run("bare", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
os.remove("bare/outliers.h5")
run("nometric", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
with h5py.File("nometric/outliers.h5", "r+") as f:
    del f["eval/0"].attrs["avg_kurtosis"]
run("ragged", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
with h5py.File("ragged/outliers.h5", "r+") as f:
    del f["eval/0/max_token"]
    f["eval/0/max_token"] = np.zeros(7, "i4")
run("foreign", opt % ("softmax1", ""), [metrics(100, 1, 2, 3)])
with h5py.File("foreign/outliers.h5", "r+") as f:
    f.attrs["format"] = "something-else"
PY
$python make.py || { echo "make.py failed"; exit 1; }

# Good runs, all formats.
expect 0 report vanilla softmax1/ clipped gated "bert|x"
says out "avg kurtosis" "max inf norm" "perplexity" "Vanilla [vanilla]" "23341.513" "OutEffHop [softmax1]" "21.542 (-99.9 %)" "13.302 (-85.7 %)" \
    "15.916 (-0.4 %)" "Clipped_OutEffHop [clippedsoftmax1 alpha 12]" "Gated_Attention [vanilla + conditional_per_token]" \
    "Clipped_Softmax [clipped(-.025:1)]" "33.619" "BERT" "OPT" "16062464" "40.250 in layer.1.ffn.out: sample 17, token 88, channel 201"
grep -q "softmax1/ " out && fail "trailing slash shown"
[ -s err ] && fail "$last: stderr is not empty"
expect 0 report --format md vanilla "bert|x"
says out "| run | model | method |" "|---:|" "| bert\\|x | BERT |"
[ "$(grep -o '[^\\]|' out | wc -l)" -ge 24 ] || fail "Markdown has too few cells"
expect 0 report --format csv vanilla softmax1
$python - <<'PY' || fail "CSV"
import csv
rows = list(csv.DictReader(open("out", newline="")))
assert [r["run"] for r in rows] == ["vanilla", "softmax1"]
assert None not in rows[0] and all(v is not None for v in rows[1].values())
assert float(rows[0]["avg_kurtosis"]) == 23341.513 and rows[0]["avg_kurtosis_change_percent"] == ""
assert abs(float(rows[1]["headline_inf_norm_change_percent"]) - 100 * (13.302 / 92.786 - 1)) < 1e-6
assert rows[1]["steps"] == rows[1]["step"] == "100" and rows[1]["params"] == "16062464"
PY
expect 0 report softmax1 "bert|x" --format json
$python - <<'PY' || fail "JSON"
import json
r = json.load(open("out"))
a, b = r["runs"]
assert r["failed"] == [] and a["method"] == "OutEffHop" and a["headline_inf_norm"] == a["max_layer_inf_norm"] == 13.302
assert b["headline_inf_norm"] == b["max_ffn_inf_norm"] and abs(b["headline_inf_norm"] - 33.619) < 1e-9
assert a["change_percent"]["perplexity"] is None and b["change_percent"]["perplexity"] is None # not of the same model
assert a["largest"] == {"tap": "layer.1.ffn.out", "value": 40.25, "sample": 17, "token": 88, "channel": 201}
PY

# Bad ones: named once each on stderr, the good ones are shown, code 3.
mkdir empty
touch file
for bad in begun cut garbage unconfigured bare nometric ragged foreign empty file missing; do
    expect 3 report vanilla $bad softmax1
    says out "23341.513" "21.542 (-99.9 %)"
    says err "warning: $bad: " "of 3 runs 1 could not be shown"
    [ "$(grep -c "^warning: " err)" = 1 ] || fail "$last: not exactly one warning"
    expect 3 report $bad # nothing left to show
    expect 3 report --format json vanilla $bad
    $python -c "import json; r = json.load(open('out')); assert len(r['runs']) == 1 and r['failed'][0]['run'] == '$bad' and r['failed'][0]['error']" ||
        fail "JSON of $bad"
done
expect 3 report begun; says err "unfinished"
expect 3 report vanilla half
says out "40 of 100"; says err "warning: half: unfinished: evaluated at step 40 of 100"
expect 0 report vanilla burst; says out "inf" "nan"
expect 0 report --format json vanilla burst
$python -c "import json; r = json.load(open('out'), parse_constant=lambda c: 1 / 0); assert r['runs'][1]['perplexity'] is None" || fail "JSON of numbers that are not finite"

# Any damaged byte: a table or one clean error, never a crash.
size=$(stat -c %s softmax1/outliers.h5)
mkdir flipped
cp softmax1/config.yaml flipped
for i in $(seq 1 60); do
    cp softmax1/outliers.h5 flipped/outliers.h5
    printf "\\x$(printf %02x $((i * 37 % 256)))" | dd of=flipped/outliers.h5 bs=1 seek=$((i * 7919 % size)) conv=notrunc 2>/dev/null
    $OHTRAIN report flipped >out 2>err </dev/null
    code=$?
    last="ohtrain report flipped ($i)"
    [ $code = 0 ] || [ $code = 3 ] || fail "$last: exit code $code"
done
exit $failed
