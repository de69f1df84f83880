# mpirun killed with -9 leaves its ranks alive for some seconds. A new start waits until they are gone, and the result is
# that of an undisturbed run.
. "$OHT_SOURCE/tests/support/e2e.bash"
keys="train.steps=200 run.checkpoint_every=9"
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/whole" $keys
mpirun -np 2 "${mpi[@]}" "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/killed" $keys >/dev/null 2>&1 &
pid=$!
wait_for "$pid" has_lines "$work/killed/metrics.jsonl" 30
kill -9 "$pid"
wait "$pid" 2>/dev/null
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/killed" $keys
same_state "$work/whole" "$work/killed"
cmp <(losses "$work/whole") <(losses "$work/killed") || fail "logs differ"
