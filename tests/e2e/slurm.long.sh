# The job scripts in a real Slurm of one node: a time limit shorter than the run, under srun and under mpirun; the warning, exit
# code 75, back into the queue, the end with the bits of a run that was left alone; what must not go back; an array and its report.
. "$OHT_SOURCE/tests/support/e2e.bash"
. "$OHT_SOURCE/tests/support/slurm.bash"
missing=$(slurm_missing)
[ -z "$missing" ] || { echo "skipped: no $missing(fix: env/install.sh debian-slurm)"; exit 77; }
trap 'slurm_stop; rm -rf "$work"' EXIT
slurm_start "$work/slurm" || fail "Slurm does not start"
cd "$work" || exit 1
export OHT_JOBS=$OHT_SOURCE/jobs OHT_RUNS=$work/runs OHT_SITE=$work/site.sh OHT_MPIRUN_FLAGS="${mpi[*]}"
export OMPI_MCA_mpi_yield_when_idle=1 # other tests may run beside this one
echo 'OHT_LAUNCHER=${TEST_LAUNCHER:-mpirun}' >site.sh
sed -i 's/steps: 30.*/steps: 1000, global_batch: 8, micro_batch: 2, lr: 0.003, schedule: linear, warmup_steps: 20, log_every: 1, eval_every: 500}/
        s/every: 5,/every: 50,/; s/checkpoint_every: 7/checkpoint_every: 0/' opt.yaml

# submit NAME OPTIONS...: the job of NAME with two ranks; its id in $id, its output in $log
submit() {
    local name=$1
    shift
    id=$(sbatch --parsable -J "$name" --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 "$@") || fail "sbatch refused $name"
    log=$work/$name-$id.out
}
state() { slurm_field "$1" JobState; }
broken() { # MESSAGE: with what is known of the job
    scontrol show job "$id" >&2
    tail -n 20 "$work"/*.out "$work"/slurm/log/slurm* >&2
    fail "$*"
}
# until_job SECONDS COMMAND...
until_job() { slurm_until "$@" || broken "after $1 s not: ${*:2}"; }
is() { [[ " ${*:2} " = *" $(state "$1") "* ]]; }
running() { has_lines "$OHT_RUNS/$1/metrics.jsonl" "$2"; }
stopped() { is "$1" PENDING && [ "$(slurm_field "$1" Restarts)" -ge 1 ]; }
# again ID: starts a requeued job without the two minutes that Slurm lets it wait; not in the second in which it was requeued, or
# slurmd takes the new start for the old one
again() {
    until_job 60 stopped "$1"
    scontrol update jobid="$1" StartTime=now+2
    slurm_until 60 begun "$1" || broken "job $1 does not start again"
}
begun() { ! is "$1" PENDING; }
# restart ID: as often as it takes, until it is done
restart() {
    local end=$((SECONDS + 240))
    until is "$1" COMPLETED; do
        is "$1" PENDING RUNNING COMPLETING REQUEUED COMPLETED || broken "job $1 is $(state "$1")"
        ! stopped "$1" || again "$1"
        [ $SECONDS -lt $end ] || broken "job $1 is $(state "$1") after 240 s"
        sleep 0.2
    done
}
ranks_of() { # ids of the processes of job $1 that are ranks
    local pid
    for pid in $(scontrol listpids "$1" 2>/dev/null | awk 'NR > 1 { print $1 }' | sort -u); do
        [ "$(readlink "/proc/$pid/exe")" != "$(readlink -f "$OHTRAIN")" ] || echo "$pid"
    done
}
two_ranks() { mapfile -t pids < <(ranks_of "$1"); [ ${#pids[@]} -eq 2 ]; }

# The run that is left alone.
succeed ranks 2 "$OHTRAIN" train --quiet -c opt.yaml -o whole
whole=$work/whole

# One minute is Slurm's shortest limit, and it warns 5 to 35 s after the start when asked for 25 s before the end. The ranks are
# held until then, so that the run is too long on a machine of any speed.
export TEST_LAUNCHER=srun
submit limit --time=1 --signal=B:USR1@25 "$OHT_JOBS/opt.slurm" opt.yaml
unset TEST_LAUNCHER
until_job 60 two_ranks "$id"
until_job 60 running limit 20
kill -STOP "${pids[@]}" || broken "the run was too quick"
until_job 60 grep -q 'received USR1' "$log"
kill -CONT "${pids[@]}"
until_job 30 stopped "$id"
ls "$OHT_RUNS"/limit/checkpoints/step-*.h5 >/dev/null || broken "no checkpoint"
restart "$id"
grep -q 'srun --mpi=pmix .*ohtrain train' "$log" || broken "not started by srun"
grep -q 'stopped on request after step [0-9]* of 1000' "$log" || broken "no word of the stop"
grep -q 'resuming at step [0-9]*' "$log" || broken "no word of the resume"
grep -q "node $(hostname).*ranks 0-1 on cpu" "$log" || broken "no map of ranks, nodes and devices"
same_state "$whole" "$OHT_RUNS/limit"
cmp <(losses "$whole") <(losses "$OHT_RUNS/limit") || fail "logs differ"
echo "time limit, srun: $(slurm_field "$id" Restarts) restarts, $(grep -o 'after step [0-9]*' "$log" | head -n 1), the same bits"

# mpirun, warned by hand; a second warning while the job goes on.
submit asked --time=10 "$OHT_JOBS/opt.slurm" opt.yaml
until_job 60 running asked 20
scancel -s USR1 -b "$id"
again "$id"
until_job 60 grep -q 'resuming at step' "$log"
lines=$(wc -l <"$OHT_RUNS/asked/metrics.jsonl")
until_job 60 running asked $((lines + 20))
scancel -s USR1 -b "$id"
restart "$id"
[ "$(slurm_field "$id" Restarts)" -eq 2 ] || broken "not two restarts"
grep -q 'mpirun .*ohtrain train' "$log" || broken "not started by mpirun"
same_state "$whole" "$OHT_RUNS/asked"
cmp <(losses "$whole") <(losses "$OHT_RUNS/asked") || fail "logs differ"
echo "USR1, mpirun: 2 restarts, the same bits"

# A warning in the first moment: nothing to save yet, and back into the queue all the same.
submit early --time=10 --hold "$OHT_JOBS/opt.slurm" opt.yaml train.steps=40
scontrol release "$id"
until_job 30 test -s "$log"
scancel -s USR1 -b "$id"
restart "$id"
grep -q 'received USR1' "$log" || broken "the warning did not arrive"
echo "USR1 at the start: $(slurm_field "$id" Restarts) restarts"

# What must not go back into the queue: a run stopped too often, a cancelled one, one that cannot work.
export OHT_MAX_RESTARTS=0
submit capped --time=10 "$OHT_JOBS/opt.slurm" opt.yaml
unset OHT_MAX_RESTARTS
until_job 60 running capped 20
scancel -s USR1 -b "$id"
until_job 30 is "$id" FAILED
[ "$(slurm_field "$id" ExitCode)" = 75:0 ] || broken "exit code not 75"
grep -q 'OHT_MAX_RESTARTS=0' "$log" || broken "no word of the cap"
for launcher in mpirun srun; do
    export TEST_LAUNCHER=$launcher
    submit cancelled-$launcher --time=10 "$OHT_JOBS/opt.slurm" opt.yaml
    unset TEST_LAUNCHER
    until_job 60 running cancelled-$launcher 20
    scancel "$id"
    until_job 30 is "$id" CANCELLED
    until_job 30 slurm_idle
    [ "$(slurm_field "$id" Restarts)" -eq 0 ] && is "$id" CANCELLED || broken "a cancelled job went on"
done
submit wrong --time=10 "$OHT_JOBS/opt.slurm" opt.yaml model.attention=softmax7
until_job 30 is "$id" FAILED
[ "$(slurm_field "$id" ExitCode)" = 2:0 ] || broken "exit code not 2"
grep -q 'model.attention' "$log" || broken "no message"
echo "cap, cancel, error: not started again"

# Two methods times two seeds, one rank each. Task 3's job id is the array's: requeueing it must not touch the others.
export METHODS="vanilla outeffhop" SEEDS="1 2"
submit sweep --array=0-3 --ntasks-per-node=1 --time=10 "$OHT_JOBS/sweep.slurm" opt.yaml run.checkpoint_every=100
array=$id runs=(vanilla-1 outeffhop-1 vanilla-2 outeffhop-2)
for task in 0 3; do
    until_job 90 running "sweep/${runs[task]}" 20
    scancel -s USR1 -b "${array}_$task"
    until_job 30 stopped "${array}_$task"
done
for task in 0 1 2 3; do
    restart "${array}_$task"
    [ "$(slurm_field "${array}_$task" Restarts)" -eq $((task % 3 == 0)) ] || broken "task $task: wrong number of restarts"
done
"$OHTRAIN" report --format csv "$OHT_RUNS"/sweep/* >report.csv || fail "no report of the sweep"
[ "$(wc -l <report.csv)" -eq 5 ] || { cat report.csv >&2; fail "report of 4 runs has not 5 lines"; }
succeed ranks 1 "$OHTRAIN" train --quiet -c opt.yaml -o alone train.seed=2 model.attention=softmax1 run.checkpoint_every=100
same_state alone "$OHT_RUNS/sweep/outeffhop-2"
submit small --array=0-4 --time=10 "$OHT_JOBS/sweep.slurm" opt.yaml train.steps=1
until_job 60 is "${id}_4" FAILED
grep -q 'fix: sbatch --array=0-3' "$work/small-${id}_4.out" || broken "task 4 of 4 runs: no remedy"
until_job 60 slurm_idle
echo "array: 4 runs, 2 restarted, the report has them"

# W8A8 of finished runs: beside the exact numbers; a folder that is no run does not keep the others from it.
submit ptq --time=10 "$OHT_JOBS/ptq.slurm" runs/sweep/vanilla-1 runs/none runs/sweep/outeffhop-2 quant.seeds=2
until_job 90 is "$id" FAILED
[ "$(slurm_field "$id" ExitCode)" = 3:0 ] && grep -q 'runs/none is not a run directory' "$log" || broken "runs/none"
for run in vanilla-1 outeffhop-2; do
    for text in '"fp"' '"quantized"' '"weights": 8' '"activations": 8' '"seed": 1001'; do
        grep -q "$text" "runs/sweep/$run/eval-w8a8.json" || { cat "runs/sweep/$run/eval-w8a8.json" >&2; broken "no $text"; }
    done
done
echo "W8A8: 2 runs evaluated"

# STanHop-Net's script, as the others but for its configuration.
awk 'BEGIN { print "date,a,b"; for (t = 0; t < 120; t++) printf "2020-01-%02d %02d:00:00,%.4f,%.4f\n", 1 + t / 24, t % 24, sin(.3 * t), cos(.2 * t) }' >s.csv
succeed "$OHTRAIN" prepare series s.csv --split 80,20,20 -o s.h5
cat >s.yaml <<EOF
model: {type: stanhop, layers: 1, width: 16, heads: 2, ffn: 32, series: 2, input: 12, horizon: 2, segment: 4, patterns: 3}
data: {path: $work/s.h5}
train: {epochs: 2, patience: 2, keep_best: true, global_batch: 16, micro_batch: 8, schedule: type1, warmup_steps: 0}
EOF
submit series --time=10 "$OHT_JOBS/stanhop.slurm" s.yaml
until_job 90 is "$id" COMPLETED
grep -q '"test"' runs/series/metrics.jsonl || { cat runs/series/metrics.jsonl >&2; broken "no result of the test split"; }
echo "stanhop.slurm: from start to end"
