# A private Slurm of one node for tests, all in one folder: munged, slurmctld and slurmd without systemd, cgroups, database or the
# system's own configuration, as whoever runs it. Source it, then slurm_start FOLDER; slurm_stop ends it.
PATH=$PATH:/usr/sbin:/sbin
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
    local folder=$1 host me
    host=$(hostname -s) me=$(id -un)
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 755 "$folder" "$folder"/*
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
    export SLURM_CONF=$folder/slurm.conf
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(slurm_port)
SlurmdPort=$(slurm_port)
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES
CONF
}

# slurm_daemon PROGRAM OPTIONS...: in the foreground of a process of ours, so that its id is known
slurm_daemon() {
    "$@" >"$slurm_folder/log/$1.out" 2>&1 &
    slurm_daemons+=($!)
}

slurm_start() {
    local state
    slurm_folder=$1
    slurm_configure "$1"
    slurm_daemon munged --foreground --force --key-file="$1/munge/key" --socket="$1/munge/socket" --pid-file="$1/munge/pid" \
        --log-file="$1/log/munge" --seed-file="$1/munge/seed"
    slurm_until 10 test -S "$1/munge/socket" || { cat "$1"/log/munge* >&2; return 1; }
    slurm_daemon slurmctld -D
    slurm_daemon slurmd -D -N "$(hostname -s)"
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
