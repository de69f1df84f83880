# What the end-to-end scripts share: a folder, small data, a small configuration, ranks, comparisons.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make_text=$(dirname "$OHTRAIN")/tests/make_text
limit=${OHT_E2E_LIMIT_S:-240} # a hang must end the test
mpi=(--oversubscribe --bind-to none)

fail() { echo "FAILED: $*" >&2; exit 1; }
# ranks N COMMAND...
ranks() { local n=$1; shift; timeout "$limit" mpirun -np "$n" "${mpi[@]}" "$@"; }
# expect CODE TEXT COMMAND...: exit code, and a regular expression on standard error; one message in all.
expect() {
    local code=$1 text=$2 rc=0; shift 2
    "$@" >"$work/out" 2>"$work/err" || rc=$?
    [ $rc -eq "$code" ] || { cat "$work/err" >&2; fail "exit code $rc, expected $code: $*"; }
    [ -z "$text" ] || grep -qE "$text" "$work/err" || { cat "$work/err" >&2; fail "no \"$text\" in the message of: $*"; }
    [ "$code" -eq 0 ] || [ "$(grep -c '^ohtrain: ' "$work/err")" -eq 1 ] || { cat "$work/err" >&2; fail "not one message: $*"; }
}
succeed() { expect 0 '' "$@"; }
# losses RUNDIR: "step loss" a line, without evaluations
losses() { sed -n 's/^{"step": \([0-9]*\), "loss": \([^,]*\), .*/\1 \2/p' "$1/metrics.jsonl"; }
newest() { ls "$1"/checkpoints/step-*.h5 | tail -n 1; }
# Parameters and moments of the newest checkpoints, bit by bit.
same_state() {
    local a b group
    a=$(newest "$1") b=$(newest "$2")
    [ "$(basename "$a")" = "$(basename "$b")" ] || fail "checkpoints $a and $b"
    for group in /param /adam_m /adam_v; do
        h5diff -r "$a" "$b" "$group" >"$work/diff" || { head "$work/diff" >&2; fail "$group differs: $1 $2"; }
    done
}
# close_losses TOLERANCE A B: the same steps, losses equal to a relative tolerance
close_losses() {
    paste -d ' ' <(losses "$2") <(losses "$3") | awk -v tol="$1" '
        $1 != $3 { print "steps " $1 " and " $3; bad = 1 }
        { d = $2 - $4; if (d < 0) d = -d; if (!(d <= tol * $2)) { print "step " $1 ": " $2 " and " $4; bad = 1 } }
        END { if (NR == 0) { print "no losses"; bad = 1 } exit bad }' || fail "losses of $2 and $3 differ"
}
# wait_for PID CONDITION...: until it holds; fails when the process ends before
wait_for() {
    local pid=$1; shift
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || fail "the program ended before: $*"
        sleep 0.02
    done
}
has_lines() { [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; }

"$make_text" "$work/clm.h5" clm 700 19 || fail "no data"
"$make_text" "$work/mlm.h5" mlm 700 19 || fail "no data"
cat >"$work/opt.yaml" <<EOF
model: {type: opt, layers: 2, width: 32, heads: 4, ffn: 64, vocab_size: 61, max_tokens: 16, init_std: 0.02, dropout: 0.1, attention_dropout: 0.1}
data: {path: $work/clm.h5}
train: {steps: 30, global_batch: 8, micro_batch: 2, lr: 0.003, schedule: constant, warmup_steps: 0, log_every: 1, eval_every: 10}
eval: {batch: 6, micro_batch: 2}
outliers: {every: 5, publish_s: 0}
run: {checkpoint_every: 7}
EOF
sed -e 's/type: opt/norm: post, type: bert/' -e "s/clm.h5/mlm.h5, mlm_probability: 0.3/" "$work/opt.yaml" >"$work/bert.yaml"
