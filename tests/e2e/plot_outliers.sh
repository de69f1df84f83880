# jobs/analysis/plot_outliers.py: opens a report, its table is that of the file, its picture is a picture; no evaluation is said.
set -u
python=
for candidate in python3 /usr/bin/python3; do
    $candidate -c "import h5py, numpy, matplotlib" 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || { echo "no python3 with h5py and matplotlib: skipped"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
export MPLCONFIGDIR=$scratch
plot=$OHT_SOURCE/jobs/analysis/plot_outliers.py
$python "$here/report_runs.py" few few || exit 1
$python "$plot" few/v1/outliers.h5 -o v1.png || exit 1
$python "$plot" few/bert/outliers.h5 -o bert.png --tensor ln1.out || exit 1
$python - "$plot" <<'PY' || exit 1
import importlib.util, sys
import h5py, numpy as np, matplotlib.image
spec = importlib.util.spec_from_file_location("plot_outliers", sys.argv[1])
plot = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plot)
with h5py.File("few/v1/outliers.h5") as f:
    e = plot.last_evaluation(f)
    assert e.name == "/eval/1"
    table, parts = plot.layer_map(e, "kurtosis")
    assert table.shape == (3, 6) and parts[4] == "ffn.out" and not np.isnan(table).any()
    k = list(e["tap"].asstr()[:]).index("layer.2.ffn.out")
    assert table[2, 4] == e["kurtosis"][k]
assert plot.layer_and_part("final_ln.out") == (None, "final_ln.out")
for name in ("v1.png", "bert.png"):
    picture = matplotlib.image.imread(name)
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.05, name
PY
$python - <<'PY' || exit 1
import h5py
with h5py.File("few/v2/outliers.h5", "r+") as f:
    del f["eval"]
PY
$python "$plot" few/v2/outliers.h5 -o none.png 2>err && exit 1
grep -q 'no evaluation yet' err || { cat err; exit 1; }
