#!/usr/bin/env bash
# Starts a platform, deploys the examples, and says what to try. Called by `make demo`, which builds `wharf` first.
#
# Variables:
# - WHARF: the `wharf` binary. Default: the one in target/release.
# - ONCE: with 1, on free ports and in an empty folder: asks every app, scales, breaks and rolls back, and ends with 0 when all of it
#   worked, else with 1. A platform that runs beside it is not touched.
# - API, HTTP: where to listen. Default: 127.0.0.1:7070 and 127.0.0.1:8080.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WHARF=${WHARF:-target/release/wharf}
ONCE=${ONCE:-}
# Each shows something else; those that are programs for `wharf run` are not among them.
HTTP_APPS=(hello hello-p3 hello-plain guestbook stream crash python javascript)
APPS=("${HTTP_APPS[@]}" ticker)

say() { echo "demo: $*" >&2; }
fail() { say "$*"; exit 1; }

[[ -x $WHARF ]] || fail "there is no $WHARF: start this with \`make demo\`, which builds it"
home=$PWD/target/demo
api=${API:-127.0.0.1:7070} http=${HTTP:-127.0.0.1:8080}
if [[ $ONCE == 1 ]]; then
    home=$PWD/target/demo-once
    api=127.0.0.1:0 http=127.0.0.1:0
    rm -rf "$home"
    # Where clients find the platform of this machine: ours must not replace one that somebody else started.
    export XDG_CONFIG_HOME=$home/config
fi
mkdir -p "$home"
# Written by the platform when it is ready. One of an earlier run would lead us to whoever listens there now.
up=$home/up.json
rm -f "$up"
# Errors of deploys are told in full by their log; what worked is one line.
log=$home/demo.log
: >"$log"

platform=
stop_platform() {
    [[ -n $platform ]] || return 0
    kill -TERM "$platform" 2>/dev/null || true
    # Open requests may finish, which takes up to 30 s; a platform that hangs longer is ended.
    local tries=0
    while kill -0 "$platform" 2>/dev/null; do
        ((tries += 1))
        [[ $tries -lt 450 ]] || kill -KILL "$platform" 2>/dev/null || true
        sleep 0.1
    done
    platform=
}
trap stop_platform EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- start ---

say "starting the platform"
"$WHARF" up --data "$home/data" --api "$api" --http "$http" --json >"$up" 2>>"$log" &
platform=$!
for ((tries = 0; ; tries++)); do
    [[ ! -s $up ]] || break
    kill -0 "$platform" 2>/dev/null || { platform=; tail -n 3 "$log" >&2; fail "the platform did not start; with other addresses: make demo API=127.0.0.1:7071 HTTP=127.0.0.1:8081"; }
    [[ $tries -lt 300 ]] || fail "the platform is not ready after 30 s; see $log"
    sleep 0.1
done
told() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$up"; }
port=$(told http | sed 's/.*://')
token_file=$(told token_file)
# Said outright, so that no saved login and nothing in the environment can lead the client to another platform.
WHARF_API=$(told api) WHARF_TOKEN=$(<"$token_file") WHARF_NAMESPACE=default
export WHARF_API WHARF_TOKEN WHARF_NAMESPACE

# --- build and deploy ---

# For the builds of the examples, which run in their folders.
WHARF=$(realpath "$WHARF")
export WHARF
declare -A failed
for app in "${APPS[@]}"; do
    say "building and deploying examples/$app"
    # Several minutes: a slow machine compiles the large ones, once.
    if ! "$WHARF" deploy "examples/$app" --timeout 5m >>"$log" 2>&1; then
        failed[$app]="its build or its deploy failed"
        say "examples/$app was not deployed; the end of $log:"
        tail -n 5 "$log" >&2
    fi
done

url() { echo "http://$1.default.localhost:$port/${2:-}"; }

# --- say what to try ---

invite() {
    local app
    echo
    echo "The platform is up, with these apps:"
    for app in "${HTTP_APPS[@]}"; do
        if [[ -n ${failed[$app]:-} ]]; then echo "  $app: ${failed[$app]}"; else echo "  $(url "$app")"; fi
    done
    [[ -n ${failed[ticker]:-} ]] || echo "  ticker has no URL: it prints a line each second"
    cat <<TEXT

Three things to try, in another terminal, which this leads to the platform:
     export WHARF_API=$WHARF_API WHARF_TOKEN=\$(cat $token_file)

1. Scale it.
     $WHARF scale hello 3
     $WHARF status hello

2. Break it: it panics, and the next request is served.
     curl -i $(url crash trap)
     curl -i $(url crash healthz)
     $WHARF logs crash

3. Change it, and roll it back.
     $WHARF env set --app hello GREETING="Good morning"
     curl $(url hello)
     $WHARF rollback hello
     curl $(url hello)

Ctrl-C stops the platform. What you changed is kept in $home/data.
TEXT
}

# --- check it ---

wrong=0
check() {
    local what=$1 wanted=$2 found=$3
    if [[ $found == $wanted ]]; then echo "ok      $what"; else
        echo "FAILED  $what: wanted \`$wanted\`, found \`$found\`"
        wrong=$((wrong + 1))
    fi
}

# Names below localhost are this machine, but not every resolver knows.
ask() {
    curl --silent --show-error --max-time 30 --resolve "$1.default.localhost:$port:127.0.0.1" "${@:3}" "$(url "$1" "$2")" 2>&1 || true
}
status_of() { ask "$1" "$2" --output /dev/null --write-out '%{http_code}'; }

# Waits, up to 20 s, for what a command prints to match.
eventually() {
    local wanted=$1 found= tries
    shift
    for ((tries = 0; tries < 200; tries++)); do
        found=$("$@" 2>&1 || true)
        [[ $found != $wanted ]] || break
        sleep 0.1
    done
    echo "$found"
}

check_all() {
    local app
    for app in "${APPS[@]}"; do check "$app is deployed" "" "${failed[$app]:-}"; done
    for app in "${HTTP_APPS[@]}"; do check "$(url "$app") answers" 200 "$(status_of "$app" "")"; done
    check "ticker prints" "*tick*" "$(eventually '*tick*' "$WHARF" logs ticker)"

    check "stream calls hello" "Hello from WASI 0.2" "$(ask stream "fetch?url=http://hello.internal/")"

    "$WHARF" scale hello 3 >>"$log" 2>&1 || true
    check "hello runs three times" "*3 of 3 replicas ready*" "$(eventually '*3 of 3 replicas ready*' "$WHARF" status hello)"

    check "crash panics" 502 "$(status_of crash trap)"
    check "crash serves the next request" 200 "$(status_of crash healthz)"
    check "crash tells why in its log" "*guest_failed*" "$(eventually '*guest_failed*' "$WHARF" logs crash)"

    "$WHARF" env set --app hello "GREETING=Good morning" >>"$log" 2>&1 || true
    check "hello is changed" "Good morning" "$(ask hello "")"
    "$WHARF" rollback hello >>"$log" 2>&1 || true
    check "hello is rolled back" "Hello from WASI 0.2" "$(ask hello "")"
}

if [[ $ONCE != 1 ]]; then
    invite
    # Ends with the platform, or with Ctrl-C.
    wait "$platform" || fail "the platform ended by itself; see $log"
    exit 0
fi
check_all
if [[ $wrong != 0 ]]; then
    say "$wrong checks failed; what the commands printed:"
    cat "$log" >&2
    exit 1
fi
say "everything works"
