#!/usr/bin/env bash
# A server that speaks S3, for tests.
#
#   object-storage.sh install   puts it into target/object-storage; does nothing where it is
#   object-storage.sh run       installs and runs it, and does what it is told, until its input ends: then it takes everything away. So it goes
#                               with the process that started it, however that ends. It says its address and its log, and `done` after each command:
#                               `hang` (it takes connections and says nothing), `go on`, `kill` (its content is lost), `start` at the same address
#
# With KEYS=1 it refuses everybody's keys, but for the first request: one that makes a bucket.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/target/object-storage
mkdir -p "$home"
{
    # Tests of several processes may come at once.
    flock 9
    cmp -s scripts/object-storage/requirements.txt "$home/requirements.txt" ||
        cp scripts/object-storage/requirements.txt "$home/"
    scripts/guest-python.sh "$home" >&2
} 9>"$home/lock"
[[ ${1:-} == install ]] && exit 0
[[ ${1:-} == run ]] || { echo "usage: object-storage.sh install | run" >&2; exit 1; }

trap '' INT TERM
log=$(mktemp /tmp/wharf-object-storage.XXXXXX)
port=0
[[ -z ${KEYS:-} ]] || export INITIAL_NO_AUTH_ACTION_COUNT=1
start() {
    "$home/.venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$log" 2>&1 9>&- &
    server=$!
    # Its end is no news.
    disown "$server"
    for _ in $(seq 300); do
        port=$(sed -n 's|.*http://127\.0\.0\.1:\([0-9]*\).*|\1|p' "$log" | head -n 1)
        [[ -z $port ]] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$log" >&2
    exit 1
}
start
echo "http://127.0.0.1:$port $log"
while read -r command; do
    case $command in
        hang) kill -STOP "$server" ;;
        "go on") kill -CONT "$server" ;;
        kill)
            kill -KILL "$server"
            while kill -0 "$server" 2>/dev/null; do sleep 0.05; done
            ;;
        start) start ;;
    esac
    echo "done"
done
kill -KILL "$server" 2>/dev/null || true
rm -f "$log"
