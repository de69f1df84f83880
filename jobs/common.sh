# Sourced by the job scripts: where the program is, how ranks are started, and what happens when the time is nearly up.
#
# Slurm warns the batch shell alone (--signal=B:USR1@...). The trap below passes the warning on to mpirun or srun and so to
# the ranks; the program writes a checkpoint and ends with 75, and the job goes back into the queue under the same id.
# What a site sets in env/site.sh or anybody in the environment:
#   OHTRAIN            the program (default: ohtrain on the PATH, else build/release/ohtrain)
#   OHT_LAUNCHER       mpirun (default) or srun
#   OHT_SRUN_MPI       how srun starts MPI programs: pmix (default), pmi2, ...; `srun --mpi=list` names them
#   OHT_MPIRUN_FLAGS   default "--bind-to none": Open MPI binds a rank to one core otherwise, whatever OMP_NUM_THREADS
#   OHT_JOBS, OHT_SITE, OHT_RUNS   this folder (jobs), the site file (env/site.sh beside it), where runs go (runs)
#   OHT_MAX_RESTARTS   after so many the job ends with 75 instead of going back into the queue (100)
# Without Slurm jobs/local.sh sets OHT_LOCAL, OHT_RANKS, OHT_NAME, OHT_TASK and OHT_RESTARTS.
set -u
oht_say() { echo "job ${SLURM_JOB_ID:-${OHT_NAME:-}}: $*" >&2; }
oht_die() { oht_say "$*"; exit 2; }

# First of all: a warning that comes before the program runs must not end the shell. USR1 asks for a checkpoint and another
# start, TERM (scancel, the end of the time) for a checkpoint and the end.
oht_pid='' oht_teller='' oht_woken=0 oht_asked=0 oht_ended=0
oht_on_signal() {
    oht_say "received $1 at $(date +%T)"
    oht_woken=1 oht_asked=1
    [ "$1" = USR1 ] || oht_ended=1
    oht_tell
}
# Again and again: mpirun drops a signal that comes while it is still starting the ranks.
oht_tell() {
    [ -n "$oht_pid" ] && [ -z "$oht_teller" ] || return 0
    (trap - USR1 TERM; while kill -USR1 "$oht_pid" 2>/dev/null; do sleep 5; done) &
    oht_teller=$!
}
trap 'oht_on_signal USR1' USR1
trap 'oht_on_signal TERM' TERM

oht_jobs=${OHT_JOBS:-jobs}
oht_runs=${OHT_RUNS:-runs}
oht_name=${SLURM_JOB_NAME:-${OHT_NAME:-job}}
oht_task=${SLURM_ARRAY_TASK_ID:-${OHT_TASK:-0}}
oht_restarts=${SLURM_RESTART_COUNT:-${OHT_RESTARTS:-0}}
oht_most=${OHT_MAX_RESTARTS:-100}
if [ -n "${OHT_LOCAL:-}" ]; then # inside an allocation too: local.sh is asked, not Slurm
    oht_name=$OHT_NAME oht_task=$OHT_TASK oht_restarts=$OHT_RESTARTS
fi

oht_site=${OHT_SITE:-$oht_jobs/../env/site.sh}
[ -r "$oht_site" ] || oht_die "no site file $oht_site (fix: submit from the project's folder, or set OHT_JOBS, OHT_SITE)"
source "$oht_site"

if [ -z "${OHTRAIN:-}" ]; then
    OHTRAIN=$(command -v ohtrain || echo build/release/ohtrain)
fi
[ -x "$OHTRAIN" ] || oht_die "no program $OHTRAIN (fix: build it, load its module in $oht_site, or set OHTRAIN)"
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || [ -n "${OHT_LOCAL:-}" ] || OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# oht_model FILE.yaml: opt, bert, ...
oht_model() { sed -nE 's/.*\btype: *([a-z]+).*/\1/p' "$1" | head -n 1; }

# oht_ranks COMMAND...: runs it on all ranks of the job and returns its exit code; 75 when asked to stop before.
oht_ranks() {
    local launch rc=127 code
    local -a flags
    read -ra flags <<<"${OHT_MPIRUN_FLAGS---bind-to none}"
    if [ -n "${OHT_LOCAL:-}" ]; then
        launch=(mpirun -np "$OHT_RANKS" "${flags[@]}")
    elif [ -z "${SLURM_JOB_ID:-}" ]; then
        oht_die "not in a Slurm job (fix: sbatch, or jobs/local.sh)"
    else
        case ${OHT_LAUNCHER:-mpirun} in
            mpirun) launch=(mpirun -x OMP_NUM_THREADS "${flags[@]}") ;; # takes nodes and ranks from Slurm
            # Not --kill-on-bad-exit: 75 is "bad" to srun, and a rank that is ended while it returns 75 hides it.
            srun) launch=(srun --mpi="${OHT_SRUN_MPI:-pmix}" --cpus-per-task="$OMP_NUM_THREADS" --kill-on-bad-exit=0 --wait=30) ;;
            *) oht_die "OHT_LAUNCHER=$OHT_LAUNCHER: expected mpirun or srun" ;;
        esac
        oht_say "start $oht_restarts on ${SLURM_JOB_NODELIST:-?}, ${SLURM_NTASKS:-?} ranks of $OMP_NUM_THREADS threads"
    fi
    [ $oht_asked -eq 0 ] || return 75
    oht_say "${launch[*]} $*"
    "${launch[@]}" "$@" </dev/null &
    oht_pid=$!
    [ $oht_asked -eq 0 ] || oht_tell # asked between the test and the start
    # A trap ends `wait` early; then the next one tells. 127: nothing left to wait for, the code came before.
    while :; do
        oht_woken=0
        wait "$oht_pid"
        code=$?
        [ $code -eq 127 ] || rc=$code
        [ $oht_woken -eq 1 ] || break
    done
    [ -z "$oht_teller" ] || kill "$oht_teller" 2>/dev/null
    oht_pid='' oht_teller=''
    return "$rc"
}

# oht_finish CODE: ends the script; a run that stopped after a checkpoint goes back into the queue.
oht_finish() {
    local rc=$1 id
    # The warning met mpirun or the ranks before they could listen (128 + USR1): nothing was done, nothing is lost.
    [ $oht_asked -eq 0 ] || [ "$rc" -ne $((128 + $(kill -l USR1))) ] || rc=75
    [ "$rc" -eq 75 ] && [ -z "${OHT_LOCAL:-}" ] || exit "$rc"
    [ $oht_ended -eq 0 ] || { oht_say "stopped after a checkpoint; sbatch again goes on"; exit 75; }
    if [ "$oht_restarts" -ge "$oht_most" ]; then
        oht_say "stopped after a checkpoint; not started again: OHT_MAX_RESTARTS=$oht_most"
        exit 75
    fi
    # In an array the plain id of one task is that of the whole array: requeueing it would restart the others as well.
    id=$SLURM_JOB_ID
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    oht_say "stopped after a checkpoint; back into the queue as $id"
    trap - USR1 TERM
    scontrol requeue "$id" || { oht_say "requeue refused; sbatch again goes on"; exit 75; }
    sleep 120 # Slurm ends this script meanwhile
    exit 75
}

# oht_train RECIPE RUNDIR [OTHER.yaml] [key=value ...]: trains, or continues what RUNDIR holds, and ends the script.
oht_train() {
    local recipe=$1 run=$2
    shift 2
    case ${1:-} in *.yaml) recipe=$1; shift ;; esac
    oht_ranks "$OHTRAIN" train -c "$recipe" -o "$run" "$@"
    oht_finish $?
}
