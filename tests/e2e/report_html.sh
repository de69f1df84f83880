# ohtrain report --table1 and --format html on runs of known numbers: means, deviations, pairs and intervals equal those NumPy
# computes; the page is well-formed, stands alone, stays small at 24 runs of 12 layers, and names what could not be read.
set -u
python=
for candidate in python3 /usr/bin/python3; do
    $candidate -c "import h5py, numpy" 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || { echo "no python3 with h5py: skipped"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
failed=0
fail() { echo "FAILED: $*"; head -c 3000 err; failed=1; }
expect() {
    local want=$1 got
    shift
    $OHTRAIN "$@" >out 2>err </dev/null
    got=$?
    [ "$got" = "$want" ] || fail "ohtrain $*: exit code $got, expected $want"
}

# Data with a tokenizer beside it, for the text of tokens.
cp -r "$OHT_SOURCE/datasets/sample/tokenizers" . && cp "$OHT_SOURCE/datasets/sample/wiki-validation.jsonl" .
$OHTRAIN prepare text --train wiki-validation.jsonl --validation wiki-validation.jsonl --json-field text --tokenizer tokenizers/opt \
    --block 32 --out opt.h5 >out 2>err || fail "prepare"
$python "$here/report_runs.py" few few "$scratch/opt.h5" && $python "$here/report_runs.py" many many "$scratch/opt.h5" || exit 1

# ---- numbers
good="few/v1 few/v2 few/v3 few/s2 few/s3 few/s4 few/entmax few/bert"
expect 0 report --table1 --format json $good
mv out numbers.json
expect 0 report --table1 --format csv $good
mv out numbers.csv
expect 0 report --table1 $good
grep -q 'W8A8' out || fail "no W8A8 column"
grep -Eq 'mean +of all 12 pairs +paper +21\.88 +26\.07' out || fail "averages of the paper"
grep -Eq 'OPT +Clipped_Softmax -> Clipped_OutEffHop +paper +-147\.94 +-54\.33' out || fail "the pair that goes the other way"
grep -Eq 'Vanilla +ours, 3 seeds' out || fail "seeds"
expect 0 report --table1 --format md few/entmax few/bert
grep -qF '| OPT | Entmax15 | ours, 1 seed |' out || fail "a method the paper has not"
grep -q '| W8A8 |' out && fail "a W8A8 column without such evaluations"
# The list has that column too, where a run has been evaluated so, and "-" for the others.
expect 0 report few/v1 few/entmax
grep -Eq '^run .*perplexity +W8A8 perplexity +params' out || fail "no W8A8 column in the list"
grep -Eq '^few/entmax .*%\) +- +[0-9]+ +[0-9]+$' out || fail "a run without W8A8 has no -"
$python - <<'PY' || fail "the list's W8A8"
import h5py
with h5py.File("few/v1/outliers.h5") as f:
    assert " %.3f " % f["quant/0"].attrs["perplexity"] in open("out").read()
PY
# Another step's, or one over fewer samples (eval.max_batches), is not put beside the exact result.
for name in step sequences; do
    cp -r few/v1 "odd-$name"
    $python -c "import h5py; f = h5py.File('odd-$name/outliers.h5', 'r+'); f['quant/0'].attrs['$name'] -= 1"
    expect 0 report "odd-$name"
    grep -q 'W8A8' out && fail "W8A8 of another number of $name"
done
expect 0 report --format md few/v1 few/bert
grep -q '| perplexity | W8A8 perplexity |' out || fail "no W8A8 column in Markdown"
expect 0 report --format csv few/v1 few/s2
head -1 out | grep -q ',w8a8,w8a8_change_percent' || fail "no W8A8 in CSV"
expect 0 report few/entmax few/bert
grep -q 'W8A8' out && fail "a W8A8 column of the list without such evaluations"
$python - <<'PY' || fail "numbers"
import csv, json, math
import h5py, numpy as np
def metric(run, group, name):
    with h5py.File(f"few/{run}/outliers.h5") as f:
        return f[group].attrs[name]
keys = {"avg_kurtosis": ("eval/1", "avg_kurtosis"), "headline_inf_norm": ("eval/1", "max_layer_inf_norm"), "perplexity": ("eval/1", "perplexity"),
        "w8a8_perplexity": ("quant/0", "perplexity")}
def values(runs, name):
    return np.array([metric(r, *keys[name]) for r in runs])
def close(a, b):
    assert abs(a - b) <= 1e-9 * max(1, abs(b)), (a, b)
root = json.load(open("numbers.json"), parse_constant=lambda c: 1 / 0)
rows = {(n["kind"], n["model"], n["method"], n["metric"]): n for n in root["numbers"]}
for name in keys:
    v, s = values(["v1", "v2", "v3"], name), values(["s2", "s3", "s4"], name)
    for method, x in (("Vanilla", v), ("OutEffHop", s)):
        n = rows["value", "OPT", method, name]
        close(n["ours"], x.mean()), close(n["ours_std"], x.std(ddof=1)), close(n["difference_percent"], 100 * (x.mean() / n["paper"] - 1))
        assert n["seeds"] == 3
    if name in ("avg_kurtosis", "headline_inf_norm"):
        close(rows["reduction", "OPT", "OutEffHop", name]["ours"], 100 * (1 - s.mean() / v.mean()))
    d = s[:2] - v[1:]  # seeds 2 and 3
    half = 12.706204736174694 * d.std(ddof=1) / math.sqrt(2)
    n = rows["paired", "OPT", "OutEffHop", name]
    assert n["seeds"] == 2
    close(n["ours"], d.mean()), close(n["low"], d.mean() - half), close(n["high"], d.mean() + half)
a = root["average_reduction_percent"]
assert round(a["paper"]["avg_kurtosis"], 2) == 21.88 and round(a["paper"]["headline_inf_norm"], 2) == 26.07 and a["paper"]["pairs"] == 12
assert a["ours"]["pairs"] == 1 and a["paper_without_opt_clipped"]["pairs"] == 11
assert rows["value", "OPT", "Entmax15", "perplexity"]["paper"] is None and rows["value", "BERT", "Vanilla", "headline_inf_norm"]["seeds"] == 1
close(rows["value", "BERT", "Vanilla", "headline_inf_norm"]["ours"], metric("bert", "eval/1", "max_ffn_inf_norm"))
table = list(csv.DictReader(open("numbers.csv", newline="")))
assert len(table) == len(root["numbers"]) and None not in table[0]
for t, n in zip(table, root["numbers"]):
    assert t["model"] == n["model"] and t["metric"] == n["metric"]
    for k in ("paper", "ours", "ours_std", "low", "high"):
        assert (t[k] == "") == (n[k] is None), (t, n)
        if t[k]:
            close(float(t[k]), n[k])
PY
# The same run twice is not two seeds.
cp -r few/v1 few/again
expect 0 report --table1 few/v1 few/again
grep -q 'few/again: the same configuration and seed as few/v1' err && grep -Eq 'Vanilla +ours, 1 seed ' out || fail "a seed twice"

# ---- bad ones among good ones
bad="few/half few/future few/mixed few/torn few/uneven few/missing"
for form in text json html; do
    expect 3 report --table1 --format $form $good $bad
    [ -s out ] || fail "nothing shown in $form"
done
mv out bad.html
for line in 'few/half: unfinished: evaluated at step 120 of 200' 'few/future: .*format_version is 2, this program reads 1' \
    'few/mixed: .*belongs to another model: it says model.type = bert' 'few/torn: ' 'few/uneven: .*inf_norm_mean is (3, 4)' 'few/missing: not a run'; do
    grep -q "warning: $line" err || fail "not said: $line"
done
grep -q 'Not readable' bad.html && grep -q 'few/future: ' bad.html && grep -q '120 (unfinished)' bad.html || fail "the page does not name the bad runs"
expect 3 report --format html few/torn
mv out torn.html

# ---- pages
expect 0 report --format html many/*
mv out many.html
expect 0 report --format html few/bert
mv out one.html
cat >page.py <<'PY'
import re, sys
from html.parser import HTMLParser
VOID = {"meta", "br", "hr", "img", "link", "input"}
class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.count, self.words = [], {}, []
    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        names = [k for k, v in attrs]
        assert len(names) == len(set(names)), attrs
        for k, v in attrs:
            assert k not in ("src", "href", "xlink:href") and not k.startswith("on"), (k, v)
            assert k == "xmlns" or "//" not in (v or ""), (k, v)
            if k in ("d", "x", "y", "width", "height", "cx", "cy", "transform", "viewbox"):
                assert not re.search("nan|inf", v), (tag, k, v)
        if tag not in VOID:
            self.open.append(tag)
    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)
    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"
    def handle_data(self, data):
        self.words.append(data)
for name in sys.argv[1:]:
    text = open(name, encoding="utf-8").read()
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open and text.startswith("<!DOCTYPE html>"), name
    assert "@import" not in text and "url(" not in text
    assert len(text.encode()) < 2_000_000, (name, len(text))
    # every picture stands by itself as XML
    import xml.etree.ElementTree as ET
    pictures = re.findall(r"<svg.*?</svg>", text, re.S)
    for p in pictures:
        ET.fromstring(p)
    print(name, len(text), len(pictures))
    if name == "many.html":
        words = " ".join(page.words)
        assert len(pictures) > 80, len(pictures)
        for w in ("21.88", "26.07", "inf norm by layer", "kurtosis by layer", "null mass", "mean gate", "Training loss", "W8A8: activations",
                  "one site exact", "optimizer step", "Where the largest activations are"):
            assert w in words, w
        assert page.count["mark"] == 24 * 3, page.count.get("mark")
PY
$python page.py many.html one.html bad.html torn.html || fail "pages"
# The token of a maximum, as h5py and the vocabulary have it.
$python - <<'PY' || fail "token text"
import html, json, re
import h5py
with h5py.File("many/opt-v-seed1/outliers.h5") as f:
    e = f["eval/1"]
    k = int(e["inf_norm_max"][:].argmax())
    sample, token, value = int(e["max_sample"][k]), int(e["max_token"][k]), float(e["inf_norm_max"][k])
with h5py.File("opt.h5") as f:
    piece = int(f["validation/tokens"][sample, token])
vocabulary = {v: k for k, v in json.load(open("tokenizers/opt/vocab.json")).items()}
text = open("many.html", encoding="utf-8").read()
row = [r for r in re.findall(r"<tr><td>many/opt-v-seed1</td>.*?</tr>", text) if "<mark>" in r][0] # the largest comes first
mark = html.unescape(re.search(r"<mark>(.*?)</mark>", row).group(1))
if all(c.isascii() for c in vocabulary[piece].replace("\u0120", "")):
    assert mark == vocabulary[piece].replace("\u0120", " "), (mark, vocabulary[piece])
assert f">{sample}<" in row and f">{value:.4g}<" in row, row
PY
# A path that is markup.
mkdir '<b>&"' && cp few/v1/config.yaml few/v1/outliers.h5 '<b>&"'
expect 0 report --format html '<b>&"'
mv out markup.html
grep -q '<b>' markup.html && fail "markup in a path"
$python page.py markup.html || fail "a path that is markup"
if command -v tidy >/dev/null; then
    tidy -e -q many.html >tidy 2>&1 || { cat tidy; fail "tidy"; }
fi
if command -v chromium >/dev/null; then
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/chromium" --window-size=1300,6000 --screenshot=shot.png \
        "file://$scratch/many.html" >/dev/null 2>&1
    [ "$(stat -c %s shot.png 2>/dev/null || echo 0)" -gt 100000 ] || fail "the screenshot is empty"
fi
exit $failed
