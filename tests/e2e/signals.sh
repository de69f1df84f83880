# SIGUSR1 to mpirun, or to one rank alone: a checkpoint, exit code 75 on all, and the next start goes on to the same bits.
. "$OHT_SOURCE/tests/support/e2e.bash"
keys="train.steps=3000 train.eval_every=500 run.checkpoint_every=0 outliers.every=50 outliers.publish_s=15"
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/whole" $keys

start() { # LINES: in the background until the log has them
    mpirun -np 2 "${mpi[@]}" "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/stopped" $keys >"$work/log" 2>&1 &
    pid=$!
    wait_for "$pid" has_lines "$work/stopped/metrics.jsonl" "$1"
}
stopped() {
    local rc=0
    wait "$pid" || rc=$?
    [ $rc -eq 75 ] || { cat "$work/log"; fail "exit code $rc, expected 75"; }
    [ -f "$(newest "$work/stopped")" ] || fail "no checkpoint"
}
start 100
kill -CONT "$pid" # not a request to stop
wait_for "$pid" has_lines "$work/stopped/metrics.jsonl" 120
kill -USR1 "$pid"
stopped
first=$(wc -l <"$work/stopped/metrics.jsonl")
start $((first + 100))
kill -USR1 "$(pgrep -P "$pid" | tail -n 1)" # one rank alone
stopped
succeed ranks 2 "$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/stopped" $keys
same_state "$work/whole" "$work/stopped"
cmp <(losses "$work/whole") <(losses "$work/stopped") || fail "logs differ"

# Without mpirun SIGTERM serves as well.
"$OHTRAIN" train --quiet -c "$work/opt.yaml" -o "$work/alone" $keys 2>"$work/log" &
pid=$!
wait_for "$pid" has_lines "$work/alone/metrics.jsonl" 50
kill -TERM "$pid"
rc=0
wait "$pid" || rc=$?
[ $rc -eq 75 ] || { cat "$work/log"; fail "SIGTERM: exit code $rc, expected 75"; }

# Commands that write no checkpoint stop as well: one message, 75, nothing left behind.
asked() { # SIGNAL PID
    kill "-$1" "$2"
    local rc=0
    wait "$2" || rc=$?
    [ $rc -eq 75 ] || { cat "$work/log"; fail "$1: exit code $rc, expected 75"; }
    [ "$(grep -c '^ohtrain: .*stopped on request' "$work/log")" -eq 1 ] || { cat "$work/log"; fail "$1: not one message"; }
}
says() { grep -q "$1" "$work/log"; }
mkfifo "$work/endless"
for signal in USR1 TERM INT HUP; do
    env --default-signal=INT,HUP "$OHTRAIN" prepare text --train "$work/endless" --block 8 -o "$work/text.h5" \
        --tokenizer "$OHT_SOURCE/datasets/sample/tokenizers/opt" >"$work/log" 2>&1 &
    pid=$!
    exec 8>"$work/endless" # it opens, and then says nothing
    wait_for "$pid" test -e "$work/text.h5.tmp"
    asked $signal "$pid"
    exec 8>&-
    [ -z "$(ls "$work"/text.h5* 2>/dev/null)" ] || fail "prepare, $signal: left $(ls "$work"/text.h5*)"
done
"$OHTRAIN" eval -r "$work/whole" quant.weights=8 quant.activations=8 quant.seeds=1000 quant.batches=80 >"$work/log" 2>&1 &
pid=$!
wait_for "$pid" says 'evaluation took' # calibrations follow
asked USR1 "$pid"
[ -z "$(ls "$work"/whole/*.tmp "$work"/whole/quant* 2>/dev/null)" ] || fail "eval: left $(ls "$work"/whole)"
