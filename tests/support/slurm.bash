# A private Slurm for tests, all in one folder: munged, slurmctld and slurmd without systemd, cgroups, database or the system's own
# configuration, as whoever runs it. Source it, then slurm_start FOLDER; slurm_stop ends it. One node, this machine, unless the
# arrays say otherwise: names, addresses, and what to put before a command so that it runs there.
PATH=$PATH:/usr/sbin:/sbin
slurm_names=("$(hostname -s)") slurm_addresses=(127.0.0.1) slurm_prefixes=("")
slurm_daemons=()

slurm_missing() { # names of missing programs
    local program
    for program in munged slurmctld slurmd sbatch srun scontrol squeue; do
        command -v $program >/dev/null || printf '%s ' $program
    done
}

slurm_port() { # a port nobody listens on
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo $port
}

# Writes the configuration. A job whose script asks for more CPUs than this machine has must still start: the node claims 8.
slurm_configure() {
    local folder=$1 me i
    me=$(id -un)
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 755 "$folder" "$folder"/*
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
    export SLURM_CONF=$folder/slurm.conf
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=${slurm_names[0]}(${slurm_addresses[0]})
SlurmctldPort=$(slurm_port)
SlurmdPort=$(slurm_port)
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
TmpFS=$folder/tmp/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait=5
ReturnToService=2
PartitionName=test Nodes=ALL Default=YES
CONF
    for i in "${!slurm_names[@]}"; do
        mkdir -p "$folder"/{spool,tmp}/"${slurm_names[i]}"
        echo "NodeName=${slurm_names[i]} NodeAddr=${slurm_addresses[i]} CPUs=8 State=UNKNOWN" >>"$SLURM_CONF"
    done
}

# slurm_daemon NODE PROGRAM OPTIONS...: in the foreground of a process of ours, so that its id is known
slurm_daemon() {
    # shellcheck disable=SC2086
    ${slurm_prefixes[$1]} "${@:2}" >"$slurm_folder/log/$2.out-$1" 2>&1 &
    slurm_daemons+=($!)
}

slurm_start() {
    local i
    slurm_folder=$1
    slurm_configure "$1"
    slurm_daemon 0 munged --foreground --force --key-file="$1/munge/key" --socket="$1/munge/socket" --pid-file="$1/munge/pid" \
        --log-file="$1/log/munge" --seed-file="$1/munge/seed"
    slurm_until 10 test -S "$1/munge/socket" || { cat "$1"/log/munge* >&2; return 1; }
    slurm_daemon 0 slurmctld -D
    for i in "${!slurm_names[@]}"; do slurm_daemon "$i" slurmd -D -N "${slurm_names[i]}"; done
    slurm_until 30 slurm_idle || { tail -n 20 "$1"/log/* >&2; return 1; }
}

slurm_idle() { [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; }

# slurm_until SECONDS COMMAND...: until it succeeds
slurm_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

slurm_stop() { # jobs first: their processes would outlive the daemons
    local i ids
    [ ${#slurm_daemons[@]} -gt 0 ] || return 0
    ids=$(squeue -h -o %A 2>/dev/null | sort -u)
    # shellcheck disable=SC2086
    [ -z "$ids" ] || scancel $ids
    slurm_until 20 slurm_empty
    for ((i = ${#slurm_daemons[@]} - 1; i >= 0; i--)); do
        kill "${slurm_daemons[i]}" 2>/dev/null
        wait "${slurm_daemons[i]}" 2>/dev/null
    done
    slurm_daemons=()
}
slurm_empty() { [ -z "$(squeue -h 2>/dev/null)" ]; }

# slurm_field JOB NAME: what scontrol says about it
slurm_field() { scontrol -o show job "$1" 2>/dev/null | sed -n "s/.*[ ^]$2=\([^ ]*\).*/\1/p"; }
