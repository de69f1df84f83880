# Two ranks on two hosts (network namespaces with their own addresses), so that gradients travel by TCP and not through shared
# memory: the bits of two ranks on one host; a stop request crosses the cable; a dead rank on the other host ends the run. Then the
# same two as the nodes of a Slurm, under mpirun and under srun.
. "$OHT_SOURCE/tests/support/hosts.bash"
hosts_inside "$0"
. "$OHT_SOURCE/tests/support/e2e.bash"
. "$OHT_SOURCE/tests/support/slurm.bash"
trap 'slurm_stop; hosts_stop; rm -rf "$work"' EXIT
hosts_start "$work" || fail "no two hosts"
cd "$work" || exit 1
export OMPI_MCA_orte_tmpdir_base=$work # in a user namespace we look like root, but /tmp/ompi.*.0 may be another's
# across N COMMAND...: N ranks on each host
across() {
    local n=$1
    shift
    on_host 1 timeout "$limit" mpirun -np $((2 * n)) --host "${host_ip[0]}:$n,${host_ip[1]}:$n" --mca plm_rsh_agent "$work/agent" \
        --mca mpi_yield_when_idle 1 --bind-to none "$@"
}

for model in opt bert; do
    succeed ranks 2 "$OHTRAIN" train --quiet -c $model.yaml -o $model-one
    before=$(cable_bytes)
    succeed across 1 "$OHTRAIN" train -c $model.yaml -o $model-two
    crossed=$(($(cable_bytes) - before))
    for i in 1 2; do
        grep -q "^node host$i: 1 rank, .*: rank $((i - 1)) on cpu" err || { cat err >&2; fail "rank $((i - 1)) is not on host$i"; }
    done
    # 30 steps of at least 15 000 gradients of 4 bytes, each way
    [ $crossed -gt 3600000 ] || fail "only $crossed bytes went through the cable"
    same_state $model-one $model-two
    cmp <(losses $model-one) <(losses $model-two) || fail "logs differ"
    echo "$model: $crossed bytes through the cable, the same bits"
done
succeed ranks 4 "$OHTRAIN" train --quiet -c opt.yaml -o opt-four
succeed across 2 "$OHTRAIN" train --quiet -c opt.yaml -o opt-two-two
close_losses 1e-5 opt-four opt-two-two

# The run starts on one host, goes on across two after USR1 to mpirun, and ends on one.
keys="train.steps=600 train.eval_every=200 run.checkpoint_every=0 outliers.every=50"
succeed ranks 2 "$OHTRAIN" train --quiet -c opt.yaml -o whole $keys
start() {
    $(host_prefix 1) mpirun --timeout "$limit" -np 2 --host "${host_ip[0]},${host_ip[1]}" --mca plm_rsh_agent "$work/agent" \
        --mca mpi_yield_when_idle 1 --bind-to none "$OHTRAIN" train --quiet -c opt.yaml -o "$1" $keys >log 2>&1 &
    pid=$!
    wait_for $pid has_lines "$1/metrics.jsonl" 50
}
start parts
kill -USR1 $pid
wait $pid
code=$?
[ $code -eq 75 ] || { cat log >&2; fail "exit code $code after USR1, expected 75"; }
succeed ranks 2 "$OHTRAIN" train --quiet -c opt.yaml -o parts $keys
same_state whole parts

# Only rank 1 lives in host2's network, so it is found there.
start dead
network=$(readlink "/proc/${host_holder[1]}/ns/net")
for rank in /proc/[0-9]*; do
    [ "$(readlink "$rank/ns/net" 2>/dev/null)" = "$network" ] && [ "$(readlink "$rank/exe")" = "$(readlink -f "$OHTRAIN")" ] && kill -9 "${rank#/proc/}"
done
wait $pid
code=$?
[ $code -eq 137 ] || { cat log >&2; fail "exit code $code after the other host's rank died, expected 137"; }
echo "USR1 crosses the cable; a dead rank ends the run"

missing=$(slurm_missing)
[ -z "$missing" ] || { echo "two nodes under Slurm: skipped, no $missing(fix: env/install.sh debian-slurm)"; exit 77; }
slurm_names=(host1 host2) slurm_addresses=("${host_ip[@]}") slurm_prefixes=("$(host_prefix 1)" "$(host_prefix 2)")
for program in sbatch scontrol scancel sinfo squeue; do eval "$program() { on_host 1 $program \"\$@\"; }"; done
slurm_start "$work/slurm" || fail "Slurm does not start on two nodes"
export OHT_JOBS=$OHT_SOURCE/jobs OHT_RUNS=$work/runs OHT_SITE=$work/site.sh
echo 'OHT_LAUNCHER=${TEST_LAUNCHER:-mpirun}' >site.sh
ended() { [[ " COMPLETED FAILED TIMEOUT CANCELLED NODE_FAIL " = *" $(slurm_field "$1" JobState) "* ]]; }
for launcher in mpirun srun; do
    export TEST_LAUNCHER=$launcher
    before=$(cable_bytes)
    id=$(sbatch --parsable -J $launcher --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --time=10 "$OHT_JOBS/opt.slurm" opt.yaml)
    slurm_until "$limit" ended "$id"
    [ "$(slurm_field "$id" JobState)" = COMPLETED ] || { scontrol show job "$id" >&2; tail -n 20 $launcher-*.out slurm/log/slurmd-* >&2; fail "Slurm job on two nodes under $launcher"; }
    for i in 1 2; do
        grep -q "^node host$i: 1 rank, .*: rank $((i - 1)) on cpu" $launcher-*.out || { cat $launcher-*.out >&2; fail "$launcher: rank $((i - 1)) is not on host$i"; }
    done
    [ $(($(cable_bytes) - before)) -gt 3600000 ] || fail "$launcher: too few bytes through the cable"
    same_state opt-one "runs/$launcher"
    echo "Slurm with two nodes, $launcher: the same bits"
done
