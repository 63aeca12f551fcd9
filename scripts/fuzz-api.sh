#!/usr/bin/env bash
# Asks a fresh platform what its own OpenAPI document says can be asked, and much that it says cannot: with an admin's token, with a
# viewer's, and without one. Ends with 0 when no answer was an error of the platform and every one was as documented, else with 1.
#
# What is asked, what is left out and why: scripts/fuzz-api/schemathesis.toml.
#
# Variables:
# - WHARF: the `wharf` binary. Default: the one in target/debug.
# - SEED: the same seed asks the same. Default: 1.
# - EXAMPLES: generated requests for each operation and token. Default: 20.
# - SECONDS_MAX: how long the requests of one token may take before the run is broken off. Default: 900.
# - WHO: with whose tokens. Default: none viewer admin.
# - ONLY: a regular expression of paths, to ask about these only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WHARF=$(realpath "${WHARF:-target/debug/wharf}")
SEED=${SEED:-1}
EXAMPLES=${EXAMPLES:-20}
SECONDS_MAX=${SECONDS_MAX:-900}
WHO=${WHO:-none viewer admin}
ONLY=${ONLY:-}

say() { echo "fuzz-api: $*" >&2; }
fail() { say "$*"; exit 1; }

[[ -x $WHARF ]] || fail "there is no $WHARF: start this with \`make fuzz-api\`, which builds it"
guests=${WHARF_GUESTS:-target/guests}
for guest in hello ticker crash; do
    [[ -f $guests/$guest.wasm ]] || WHARF=$WHARF scripts/guest-examples.sh "$guest"
done

home=$PWD/target/fuzz-api
mkdir -p "$home"
cp scripts/fuzz-api/requirements.txt "$home/"
scripts/guest-python.sh "$home"
run=$home/run
rm -rf "$run"
mkdir -p "$run"
# Where clients find the platform of this machine: ours must not replace one that somebody else started.
export XDG_CONFIG_HOME=$run/config

platform=
stop_platform() {
    [[ -n $platform ]] || return 0
    kill -TERM "$platform" 2>/dev/null || true
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

"$WHARF" up --data "$run/data" --api 127.0.0.1:0 --http 127.0.0.1:0 --json >"$run/up.json" 2>"$run/platform.log" &
platform=$!
for ((tries = 0; ; tries++)); do
    [[ ! -s $run/up.json ]] || break
    kill -0 "$platform" 2>/dev/null || { platform=; tail -n 3 "$run/platform.log" >&2; fail "the platform did not start"; }
    [[ $tries -lt 300 ]] || fail "the platform is not ready after 30 s; see $run/platform.log"
    sleep 0.1
done
told() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$run/up.json"; }
WHARF_API=$(told api) WHARF_TOKEN=$(<"$(told token_file)") WHARF_NAMESPACE=default
export WHARF_API WHARF_TOKEN WHARF_NAMESPACE

# --- what is asked about ---

say "deploying apps to ask about"
wharf() { "$WHARF" "$@" >>"$run/deploys.log" 2>&1 || { tail -n 3 "$run/deploys.log" >&2; fail "\`wharf $*\` failed"; }; }
wharf namespace create other
for app in hello ticker crash; do wharf deploy "$guests/$app.wasm" --app "$app" --timeout 5m; done
echo "hunter2" | wharf secret set password
wharf user create casey
wharf schedule set nightly --cron "0 3 * * *" --app ticker
wharf job run --detach --app ticker
# In quotes, as the list has to be.
digest() { echo "\"sha256:$(sha256sum | cut -d" " -f1)\""; }
for guest in hello ticker; do digest <"$guests/$guest.wasm"; done >"$run/digests.txt"
# Of nothing, which is what a generated body often is.
digest </dev/null >>"$run/digests.txt"
cp scripts/fuzz-api/{schemathesis.toml,media.py} "$run/"
viewer=$("$WHARF" token create fuzz --role viewer --json 2>>"$run/deploys.log" | sed -n 's/.*"secret": *"\([^"]*\)".*/\1/p')
[[ -n $viewer ]] || fail "no viewer's token was made; see $run/deploys.log"

# --- ask ---

wrong=0
ask() {
    local who=$1 header=()
    case $who in
        none) ;;
        viewer) header=(--header "Authorization: Bearer $viewer") ;;
        admin) header=(--header "Authorization: Bearer $WHARF_TOKEN") ;;
        *) fail "WHO is some of none, viewer and admin, not \`$who\`" ;;
    esac
    say "asking as $who, with the seed $SEED"
    local checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
    checks+=,response_headers_conformance,unsupported_method,allow_header_conformance,ignored_auth
    checks+=,negative_data_rejection,positive_data_acceptance,missing_required_header
    local only=()
    [[ -z $ONLY ]] || only=(--include-path-regex "$ONLY")
    (
        cd "$run"
        timeout --kill-after 30 "$SECONDS_MAX" \
            "$home/.venv/bin/schemathesis" --config-file schemathesis.toml run "$WHARF_API/v1/openapi.json" \
            --checks "$checks" --phases examples,coverage,fuzzing,stateful --workers 1 "${header[@]}" "${only[@]}" \
            --seed "$SEED" --max-examples "$EXAMPLES" --no-color
    ) >"$run/$who.txt" 2>&1 || {
        wrong=1
        say "what was found as $who is in $run/$who.txt; its end:"
        tail -n 40 "$run/$who.txt" >&2
    }
    kill -0 "$platform" 2>/dev/null || { platform=; fail "the platform ended; see $run/platform.log"; }
}
for who in $WHO; do ask "$who"; done

# A panic is caught and answered with a 500, but must not be overlooked where nobody saw the answer.
if grep -n "panicked at" "$run/platform.log" >&2; then wrong=1; fi
[[ $wrong == 0 ]] || fail "something was found; the same again: SEED=$SEED EXAMPLES=$EXAMPLES make fuzz-api"
say "nothing was found"
