# Killed with -9 at random moments and started again, a run ends with the bits of one that was left alone: parameters,
# moments, logged losses and outlier report. OHT_KILLS: how often (3).
. "$OHT_SOURCE/tests/support/e2e.bash"
keys="train.steps=300 train.eval_every=40 run.checkpoint_every=9 outliers.every=4"
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/whole" $keys

kills=${OHT_KILLS:-3}
for ((i = 1; i <= kills; i++)); do
    # A process group of its own, so that the kill takes mpirun alone and the ranks die as they do in life: some seconds later.
    mpirun -np 2 "${mpi[@]}" "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/killed" $keys >>"$work/killed.log" 2>&1 &
    pid=$!
    lines=0
    [ -f "$work/killed/metrics.jsonl" ] && lines=$(wc -l <"$work/killed/metrics.jsonl")
    wait_for "$pid" has_lines "$work/killed/metrics.jsonl" $((280 * i / kills - RANDOM % (200 / kills)))
    for rank in $(pgrep -P "$pid"); do kill -9 "$rank"; done
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    echo "kill $i: $(wc -l <"$work/killed/metrics.jsonl") lines, checkpoints $(ls "$work/killed/checkpoints" 2>/dev/null | tr '\n' ' ')"
done
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/killed" $keys
same_state "$work/whole" "$work/killed"
cmp <(losses "$work/whole") <(losses "$work/killed") || fail "logs differ"
h5diff "$work/whole/outliers.h5" "$work/killed/outliers.h5" /activations || fail "outlier reports differ"
h5diff "$work/whole/outliers.h5" "$work/killed/outliers.h5" /train || fail "curves differ"
