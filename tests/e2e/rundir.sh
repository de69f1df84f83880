# The run directory in the hands of users: started from another folder, started twice, with a damaged report, with data that
# have no validation split.
. "$OHT_SOURCE/tests/support/e2e.bash"
cd "$work" || exit 1
sed -i 's|path: .*/clm.h5|path: clm.h5|' opt.yaml # relative, as most people write it
train="$OHTRAIN train --quiet -c $work/opt.yaml"
succeed $train -o run train.steps=10
cp -r run kept

# From another folder: data.json knows where the data are.
mkdir elsewhere
cd elsewhere || exit 1
succeed "$OHTRAIN" eval --quiet -r ../run -o eval.json
expect 0 'data.path: no clm.h5 from here' "$OHTRAIN" train -c "$work/opt.yaml" -o ../run train.steps=20
expect 6 'data.path: none.h5: .*' $train -o ../run data.path=none.h5 # what is asked for is not replaced
head -c 100 /dev/urandom >clm.h5 # another file of that name is not taken for the run's
succeed "$OHTRAIN" eval --quiet -r ../run -o again.json
rm clm.h5
mv ../clm.h5 ../moved.h5
expect 6 'data.path: clm.h5: not found from this folder, and /.*/clm.h5, where this run read it, is gone' "$OHTRAIN" eval -r ../kept
expect 6 'is gone' $train -o ../kept
succeed "$OHTRAIN" eval --quiet -r ../kept data.path=../moved.h5
mv ../moved.h5 ../clm.h5
cd ..

# A damaged report: set aside, the run goes on, and the next one shows it all from there. The last evaluation is made again.
truncate -s 3000 run/outliers.h5
expect 0 'warning: .*run/outliers.h5.*it is now run/outliers.h5.damaged-1, and a new report begins at step 20' \
    "$OHTRAIN" train --quiet -c opt.yaml -o run train.steps=20
[ "$(stat -c %s run/outliers.h5.damaged-1)" = 3000 ] || fail "the damaged report is lost"
succeed "$OHTRAIN" report run
succeed $train -o run train.steps=30
[ "$(h5dump -d /activations/step run/outliers.h5 | grep -c '(0): 25, 30')" = 1 ] || fail "the new report does not go on"

# A quantized evaluation beside a damaged report: the result is shown all the same.
cp -r run worse
truncate -s 3000 worse/outliers.h5
expect 0 'warning: worse/outliers.h5: .*: the quantized result is in quant.h5 and quant.json only' \
    "$OHTRAIN" eval --quiet -r worse quant.weights=8 quant.activations=8 quant.batches=2 quant.batch=2
grep -q W8A8 out && [ -f worse/quant.json ] || fail "the quantized result is lost"

# Two starts in one directory: the second says at once what it waits for.
"$OHTRAIN" train --quiet -c opt.yaml -o busy train.steps=100000000 2>first.log &
first=$!
wait_for $first has_lines busy/metrics.jsonl 3
"$OHTRAIN" train --quiet -c opt.yaml -o busy train.steps=100000000 2>second.log &
second=$!
told() { grep -q 'warning: another process is training in busy: waiting up to 60 s' second.log; }
wait_for $second told
kill -TERM $second
rc=0; wait $second || rc=$?
[ $rc -eq 75 ] || { cat second.log; fail "the waiting start ends with $rc"; }
kill -TERM $first
wait $first

# No validation split: trained to the end, and the report says why it shows nothing.
"$make_text" noval.h5 clm 200 0 || fail "no data"
succeed $train -o noval data.path=noval.h5 train.steps=5
expect 3 'noval: nothing to compare: its data have no validation split' "$OHTRAIN" report run noval
! grep -q 'unfinished:' err || fail "a finished run is called unfinished"
expect 3 'validation' "$OHTRAIN" eval -r noval

# A run that blew up: numbers of bounded width. (Only the report is looked at.)
python=
for candidate in /usr/bin/python3 python3; do
    $candidate -c "import h5py" 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || exit 0
cp -r run wild
$python - <<'PY' || fail "cannot change the report"
import h5py
f = h5py.File("wild/outliers.h5", "r+")
last = f["eval"][max(f["eval"], key=int)]
for name in ("perplexity", "avg_kurtosis", "max_layer_inf_norm", "max_inf_norm"):
    last.attrs[name] = 3.4e38 if "norm" in name else 1.7e308
last["inf_norm_max"][...] = 3.4e38
PY
for form in "" --table1 "--format md" "--format html"; do
    succeed "$OHTRAIN" report run wild $form
    ! grep -qE '[0-9]{12}' out || fail "report $form: $(grep -oE '[0-9]{12}[0-9]*' out | head -n 1)"
done
