# Bad input at two ranks: the right exit code, one message that names what is wrong, no hang, nothing destroyed.
. "$OHT_SOURCE/tests/support/e2e.bash"
limit=60
train="$OHTRAIN train --quiet -c $work/opt.yaml"

# data file: missing, truncated, empty, no HDF5, every 1000th byte flipped in turn
expect 6 'no/such/file.h5' ranks 2 $train -o "$work/r" data.path=/no/such/file.h5
size=$(stat -c %s "$work/clm.h5")
head -c $((size / 2)) "$work/clm.h5" >"$work/half.h5"
expect 3 'half.h5' ranks 2 $train -o "$work/r" data.path="$work/half.h5"
: >"$work/empty.h5"
expect 3 'empty.h5' ranks 2 $train -o "$work/r" data.path="$work/empty.h5"
head -c 30000 /dev/urandom >"$work/noise.h5"
expect 3 'noise.h5' ranks 2 $train -o "$work/r" data.path="$work/noise.h5"
cp "$work/clm.h5" "$work/flip.h5"
printf '\377' | dd of="$work/flip.h5" bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
expect 3 'flip.h5' ranks 2 $train -o "$work/r2" data.path="$work/flip.h5" train.steps=200
expect 3 'mlm.h5' ranks 2 $train -o "$work/r" data.path="$work/mlm.h5" # another kind of data

# configuration
expect 2 'train.step.*train.steps' ranks 2 $train -o "$work/r" train.step=5
expect 2 'train.lr' ranks 2 $train -o "$work/r" train.lr=fast
echo 'modell: {layers: 3}' >"$work/bad.yaml"
expect 2 'bad.yaml.*modell' ranks 2 "$OHTRAIN" train -c "$work/bad.yaml" -o "$work/r"
expect 2 'unknown option' ranks 2 "$OHTRAIN" eval --foo
expect 2 'which run' ranks 2 "$OHTRAIN" eval
expect 3 'not a run directory' ranks 2 "$OHTRAIN" eval -r "$work/none"
[ ! -e "$work/r" ] || fail "a run directory was made for a run that could not start"

# run directory that cannot be written
: >"$work/file"
expect 6 "$work/file" ranks 2 $train -o "$work/file/run"
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$work/locked" && chmod 555 "$work/locked"
    expect 6 'locked' ranks 2 $train -o "$work/locked/run"
fi

# another model's checkpoint
succeed ranks 2 $train -o "$work/a" train.steps=2
succeed ranks 2 $train -o "$work/b" train.steps=2 model.layers=1
cp "$work"/b/checkpoints/step-*.h5 "$work/a/checkpoints/"
expect 3 'checkpoints' ranks 2 $train -o "$work/a"
expect 3 'checkpoints' ranks 2 "$OHTRAIN" eval -r "$work/a"
rm "$work"/a/checkpoints/*
expect 3 'checkpoint' ranks 2 "$OHTRAIN" eval -r "$work/a"

# numbers leave the finite range: the step and the tensor are named, the last checkpoint stays
expect 4 'step [0-9]+' ranks 2 $train -o "$work/hell" train.lr=90 train.clip=0 train.weight_decay=50 train.steps=300 run.checkpoint_every=1

# The disk fills up while the run goes on (a limit on file size stands for it): exit code 6, the checkpoint before is good.
command -v prlimit >/dev/null || exit 0
keys="train.steps=1000000 train.log_every=100 run.checkpoint_every=200 outliers.every=0 train.eval_every=0 run.keep_checkpoints=2"
mpirun -np 2 "${mpi[@]}" $train -o "$work/full" $keys 2>"$work/err" &
pid=$!
have_checkpoint() { [ "$(ls "$work/full/checkpoints" 2>/dev/null | grep -c '^step.*h5$')" -ge 1 ]; }
wait_for "$pid" have_checkpoint
for rank in $(pgrep -P "$pid"); do prlimit --fsize=20000 --pid "$rank"; done
rc=0
wait "$pid" || rc=$?
[ $rc -eq 6 ] || { cat "$work/err"; fail "full disk: exit code $rc, expected 6"; }
[ "$(grep -c '^ohtrain: ' "$work/err")" -eq 1 ] || { cat "$work/err"; fail "full disk: not one message"; }
step=$(basename "$(newest "$work/full")" .h5)
step=$((10#${step#step-}))
succeed ranks 2 $train -o "$work/full" $keys train.steps=$((step + 5))
losses "$work/full" | tail -n 1 | grep -q "^$((step + 5)) " || fail "the run did not go on from step $step"
