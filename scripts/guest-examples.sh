#!/usr/bin/env bash
# Builds examples as `wharf deploy` would, each to app.wasm in its own folder, and copies them to target/guests/NAME.wasm.
# One of several parts, such as voting-app/vote, becomes target/guests/voting-app-vote.wasm.
#
#   guest-examples.sh [NAME...]    all of them by default; voting-app is all its parts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../examples"
guests=../target/guests
[[ $# -gt 0 ]] || set -- */wharf.toml */*/wharf.toml
mkdir -p "$guests"
examples=()
for example in "$@"; do
    if compgen -G "$example/*/wharf.toml" >/dev/null; then examples+=("$example"/*/wharf.toml); else examples+=("$example"); fi
done
for example in "${examples[@]}"; do
    example=${example%/wharf.toml}
    [[ -f $example/wharf.toml ]] || { echo "guest-examples: there is no example called $example" >&2; exit 1; }
    command=$(sed -n 's/^command = "\(.*\)"$/\1/p' "$example/wharf.toml")
    artifact=$(sed -n 's/^artifact = "\(.*\)"$/\1/p' "$example/wharf.toml")
    echo "guest-examples: $example" >&2
    (cd "$example" && sh -c "$command")
    # Renamed into place, so that nobody reads half a file.
    guest=$guests/${example//\//-}.wasm
    cp "$example/$artifact" "$guest.new"
    mv "$guest.new" "$guest"
done
