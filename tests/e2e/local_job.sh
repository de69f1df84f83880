# jobs/local.sh: job scripts without Slurm. Stopped by USR1 it starts again until the run is done, stopped by TERM it ends with 75
# and the same command goes on; either way the bits are those of a run that was left alone. An array is one run after the other.
. "$OHT_SOURCE/tests/support/e2e.bash"
cd "$work" || exit 1
export OHT_RUNS=$work/runs OHT_MPIRUN_FLAGS="${mpi[*]}" OMPI_MCA_mpi_yield_when_idle=1
sed -i 's/steps: 30,/steps: 600,/; s/every: 5,/every: 50,/; s/eval_every: 10/eval_every: 300/; s/checkpoint_every: 7/checkpoint_every: 0/' opt.yaml
local_job=("$OHT_SOURCE/jobs/local.sh" -n 2 -t 1)
succeed ranks 2 "$OHTRAIN" train --quiet -c opt.yaml -o whole

"${local_job[@]}" -J again "$OHT_SOURCE/jobs/opt.slurm" opt.yaml >log 2>&1 &
pid=$!
for lines in 20 120; do
    wait_for $pid has_lines "$OHT_RUNS/again/metrics.jsonl" $lines
    kill -USR1 $pid
    wait_for $pid grep -q "after step" log
done
wait $pid || { cat log >&2; fail "exit code $? of a job that started again"; }
grep -q "resuming at step" log || { cat log >&2; fail "it did not start again"; }
same_state whole "$OHT_RUNS/again"
cmp <(losses whole) <(losses "$OHT_RUNS/again") || fail "logs differ"

"${local_job[@]}" -J ended "$OHT_SOURCE/jobs/opt.slurm" opt.yaml >log 2>&1 &
pid=$!
wait_for $pid has_lines "$OHT_RUNS/ended/metrics.jsonl" 20
kill -TERM $pid
wait $pid
[ $? -eq 75 ] || { cat log >&2; fail "TERM: not exit code 75"; }
before=$(losses "$OHT_RUNS/ended" | wc -l)
[ "$before" -lt 600 ] || fail "the run was too quick to be stopped"
succeed "${local_job[@]}" -J ended "$OHT_SOURCE/jobs/opt.slurm" opt.yaml
same_state whole "$OHT_RUNS/ended"

export METHODS="vanilla clipped gated" SEEDS="1 2"
succeed "$OHT_SOURCE/jobs/local.sh" -n 1 -a 0-5 "$OHT_SOURCE/jobs/sweep.slurm" opt.yaml train.steps=3
[ "$(ls "$OHT_RUNS/sweep")" = "$(printf '%s\n' {clipped,gated,vanilla}-{1,2})" ] || fail "runs of the sweep: $(ls "$OHT_RUNS/sweep")"
grep -q 'alpha: 12$' "$OHT_RUNS/sweep/clipped-2/config.yaml" && grep -q 'seed: 2$' "$OHT_RUNS/sweep/clipped-2/config.yaml" || fail "method or seed"
succeed "$OHT_SOURCE/jobs/local.sh" -n 1 -J bert -a 0-2 "$OHT_SOURCE/jobs/sweep.slurm" bert.yaml train.steps=3
grep -q 'gate_form: mlp$' "$OHT_RUNS/bert/gated-1/config.yaml" || fail "BERT's gate"

# Errors come through once, and do not start again.
expect 2 'model.attention' "${local_job[@]}" -J wrong "$OHT_SOURCE/jobs/opt.slurm" opt.yaml model.attention=softmax7
says() { grep -q "$1" "$work/err" || { cat "$work/err" >&2; fail "no \"$1\""; }; }
code() { local want=$1 rc=0; shift; "$@" 2>"$work/err" || rc=$?; [ $rc -eq "$want" ] || { cat "$work/err" >&2; fail "exit code $rc, expected $want: $*"; }; }
code 2 "${local_job[@]}"; says 'jobs/local.sh \[-n RANKS\]'
code 2 "${local_job[@]}" missing.slurm; says 'no job script missing.slurm'
code 2 "${local_job[@]}" -a 6-6 "$OHT_SOURCE/jobs/sweep.slurm" opt.yaml; says 'fix: sbatch --array=0-5'
METHODS=magic code 2 "${local_job[@]}" -a 0-0 "$OHT_SOURCE/jobs/sweep.slurm" opt.yaml; says "method magic of model 'opt'"
OHTRAIN=$work/none code 2 "${local_job[@]}" "$OHT_SOURCE/jobs/opt.slurm"; says "no program $work/none"
OHT_SITE=$work/none code 2 "${local_job[@]}" "$OHT_SOURCE/jobs/opt.slurm"; says "no site file $work/none"
code 2 env OHT_JOBS="$OHT_SOURCE/jobs" bash "$OHT_SOURCE/jobs/opt.slurm"; says 'not in a Slurm job'

# A stop request in the first moments: one that is lost is repeated, and a program that it kills before it listens has lost nothing.
export OHT_MAX_RESTARTS=0
for program in deaf asleep; do
    cat >$program <<PROGRAM
#!/bin/bash
asked=0
[ $program = asleep ] || trap 'asked=\$((asked + 1)); [ \$asked -lt 2 ] || exit 75' USR1
: >$work/$program.up
while :; do sleep 0.1; done
PROGRAM
    chmod +x $program
    OHTRAIN=$work/$program "${local_job[@]}" -n 1 -J $program "$OHT_SOURCE/jobs/opt.slurm" >log 2>&1 &
    pid=$!
    wait_for $pid [ -e $program.up ]
    kill -USR1 $pid
    wait $pid
    code=$?
    [ $code -eq 75 ] || { cat log >&2; fail "$program: exit code $code, expected 75"; }
done
