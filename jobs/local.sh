#!/usr/bin/env bash
# A job script without Slurm: the same recipes under mpirun on this machine, started again as long as they end with 75.
#   jobs/local.sh [-n RANKS] [-t THREADS] [-J NAME] JOB.slurm [words of the job script]
#   jobs/local.sh -n 2 -J mini jobs/opt.slurm jobs/opt-mini.yaml       -> runs/mini
#   METHODS="vanilla outeffhop" SEEDS="1 2" jobs/local.sh -a 0-3 jobs/sweep.slurm jobs/opt-mini.yaml
# RANKS: default 1. THREADS of a rank: default OMP_NUM_THREADS, else all cores shared among the ranks. -a FIRST-LAST: tasks of an
# array, one after the other (default: those of the script). Ctrl-C (or TERM) writes a checkpoint and ends with 75, USR1 writes
# one and goes on; the same command continues. Ends with the code of the first task that failed.
set -u
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" >&2; exit 2; }
ranks=1 threads='' name='' array=''
while getopts n:t:J:a: option; do
    case $option in
        n) ranks=$OPTARG ;;
        t) threads=$OPTARG ;;
        J) name=$OPTARG ;;
        a) array=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
job=$1
shift
[ -r "$job" ] || { echo "$0: no job script $job" >&2; exit 2; }
of_script() { sed -nE "/^#SBATCH/s/.*--$1=([^ ]+).*/\1/p" "$job" | head -n 1; }

export OHT_LOCAL=1 OHT_RANKS=$ranks OHT_TASK OHT_RESTARTS
export OHT_NAME=${name:-$(of_script job-name)} OHT_JOBS=${OHT_JOBS:-$(dirname "$0")}
cores=$((($(nproc) + ranks - 1) / ranks))
export OMP_NUM_THREADS=${threads:-${OMP_NUM_THREADS:-$cores}}
most=${OHT_MAX_RESTARTS:-100}
[ -n "$array" ] || array=$(of_script array)
array=${array%\%*}
case ${array:-0} in *[!0-9-]*) echo "$0: tasks $array: expected FIRST-LAST" >&2; exit 2 ;; esac

pid='' woken=0 stop=0
pass_on() {
    woken=1
    [ "$1" = USR1 ] || stop=1
    [ -z "$pid" ] || kill -USR1 "$pid" 2>/dev/null
}
trap 'pass_on USR1' USR1
trap 'pass_on INT' INT TERM HUP

# A session of its own, so that Ctrl-C reaches this script alone: mpirun would end the ranks at once.
once() {
    local rc=127 code
    [ $stop -eq 0 ] || return 75
    setsid bash "$job" "$@" &
    pid=$!
    while :; do # see oht_ranks in common.sh
        woken=0
        wait "$pid"
        code=$?
        [ $code -eq 127 ] || rc=$code
        [ $woken -eq 1 ] || break
    done
    pid=''
    return "$rc"
}

first=0 last=0 worst=0
[ -z "$array" ] || { first=${array%-*}; last=${array#*-}; }
for ((OHT_TASK = first; OHT_TASK <= last && stop == 0; OHT_TASK++)); do
    OHT_RESTARTS=0
    while :; do
        once "$@"
        rc=$?
        [ $rc -eq 75 ] && [ $stop -eq 0 ] && [ "$OHT_RESTARTS" -lt "$most" ] || break
        OHT_RESTARTS=$((OHT_RESTARTS + 1))
    done
    [ $worst -ne 0 ] || worst=$rc
done
exit $worst
