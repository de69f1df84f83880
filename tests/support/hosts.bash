# Two "hosts" on one machine: processes with their own network and host name, joined by a virtual cable. MPI takes them for two
# nodes and talks TCP. Nothing leaves them and nothing is left behind: the namespaces go with their last process.
host_ip=(10.77.0.1 10.77.0.2)
host_holder=()

# hosts_inside SCRIPT: SCRIPT again in a user namespace where that is what it takes; 77 when even that is forbidden.
hosts_inside() {
    local reason
    if [ -n "${HOSTS_INSIDE:-}" ]; then ip link set lo up; return; fi
    command -v nsenter >/dev/null && command -v ip >/dev/null || { echo "skipped: no nsenter or ip (packages util-linux, iproute2)"; exit 77; }
    if unshare --net --uts true 2>/dev/null; then return 0; fi
    reason=$(unshare --user --map-root-user --net --uts true 2>&1) || { echo "skipped: namespaces are forbidden here: $reason"; exit 77; }
    exec env HOSTS_INSIDE=1 unshare --user --map-root-user --net bash "$1"
}

# hosts_start FOLDER: host1 and host2; FOLDER/agent is what mpirun uses instead of ssh
hosts_start() {
    local i
    for i in 0 1; do
        unshare --net --uts sh -c "hostname host$((i + 1)) && ip link set lo up && : >'$1/up$i' && exec sleep 3600" &
        host_holder[i]=$!
    done
    for i in 0 1; do
        until [ -e "$1/up$i" ]; do kill -0 "${host_holder[i]}" || return 1; sleep 0.05; done
    done
    ip link add cable netns "${host_holder[0]}" type veth peer name cable netns "${host_holder[1]}" || return 1
    for i in 0 1; do
        on_host $((i + 1)) ip address add "${host_ip[i]}/24" dev cable && on_host $((i + 1)) ip link set cable up || return 1
    done
    cat >"$1/agent" <<AGENT
#!/bin/sh
case \$1 in
    ${host_ip[0]}) holder=${host_holder[0]} ;;
    ${host_ip[1]}) holder=${host_holder[1]} ;;
    *) echo "no host \$1" >&2; exit 255 ;;
esac
shift
exec nsenter --target \$holder --net --uts -- sh -c "\$*"
AGENT
    chmod +x "$1/agent"
}

# host_prefix 1|2: what makes a command run there
host_prefix() { echo "nsenter --target ${host_holder[$1 - 1]} --net --uts --"; }
on_host() { $(host_prefix "$1") "${@:2}"; } # on_host 1|2 COMMAND...
# Bytes that came through the cable so far.
cable_bytes() { on_host 1 cat /proc/net/dev | awk '$1 == "cable:" { print $2 + $10 }'; }

hosts_stop() {
    [ ${#host_holder[@]} -eq 0 ] || kill "${host_holder[@]}" 2>/dev/null
    host_holder=()
}
