#!/usr/bin/env bash
# A Docker engine for the tests of containers.
#
#   docker.sh install   the engine, and what the tests make images of; does nothing where both are there
#   docker.sh start     starts the engine in the background unless one answers; as root. It goes on when this has ended
#
# The socket is /var/run/docker.sock. What the engine says is in /var/log/dockerd.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "docker: $*" >&2; }
fail() { say "$*"; exit 1; }

socket=/var/run/docker.sock
log=/var/log/dockerd.log

answers() { curl --silent --fail --max-time 5 --unix-socket "$socket" http://localhost/_ping >/dev/null 2>&1; }

install_engine() {
    local packages=()
    # An engine that answers may be of another make, or come from elsewhere.
    answers || command -v dockerd >/dev/null || packages+=(docker.io)
    # The worker leads connections of containers by it.
    command -v iptables >/dev/null || packages+=(iptables)
    [[ -x /bin/busybox ]] || packages+=(busybox-static)
    command -v docker-registry >/dev/null || packages+=(docker-registry)
    command -v curl >/dev/null || packages+=(curl)
    command -v ip >/dev/null || packages+=(iproute2)
    [[ ${#packages[@]} == 0 ]] || scripts/apt-install.sh "${packages[@]}"
}

start_engine() {
    answers && return
    command -v dockerd >/dev/null || fail "there is no dockerd: run scripts/docker.sh install"
    [[ $(id -u) == 0 ]] || fail "run this as root: sudo scripts/docker.sh start"
    # An engine that finds forwarding off turns it on, and then drops what it does not know, such as what the hosts of the tests of clusters, which
    # are network namespaces, say to each other. Finding it on it leaves that as it is.
    sysctl -q -w net.ipv4.ip_forward=1 || say "could not turn forwarding on"
    local bridged=/proc/sys/net/bridge/bridge-nf-call-iptables before=0
    [[ ! -e $bridged ]] || before=$(cat "$bridged")
    setsid dockerd --host "unix://$socket" >>"$log" 2>&1 </dev/null &
    local process=$!
    for _ in $(seq 300); do
        if answers; then
            # It has what goes over any bridge of this machine pass its rules, those of others among them.
            [[ ! -e $bridged ]] || echo "$before" >"$bridged" || true
            say "the engine answers at $socket"
            return
        fi
        kill -0 "$process" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 5 "$log" >&2
    fail "the engine does not answer; what it said last is above, the rest in $log"
}

case ${1:-} in
    install) install_engine ;;
    start) start_engine ;;
    *) fail "usage: docker.sh install | start" ;;
esac
