#!/usr/bin/env bash
# Builds examples as `wharf deploy` would, each to app.wasm in its own folder, and copies them to target/guests/NAME.wasm.
#
#   guest-examples.sh [NAME...]    all of them by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../examples"
guests=../target/guests
[[ $# -gt 0 ]] || set -- */wharf.toml
mkdir -p "$guests"
for example in "$@"; do
    example=${example%/wharf.toml}
    [[ -f $example/wharf.toml ]] || { echo "guest-examples: there is no example called $example" >&2; exit 1; }
    command=$(sed -n 's/^command = "\(.*\)"$/\1/p' "$example/wharf.toml")
    artifact=$(sed -n 's/^artifact = "\(.*\)"$/\1/p' "$example/wharf.toml")
    echo "guest-examples: $example" >&2
    (cd "$example" && sh -c "$command")
    # Renamed into place, so that nobody reads half a file.
    cp "$example/$artifact" "$guests/$example.wasm.new"
    mv "$guests/$example.wasm.new" "$guests/$example.wasm"
done
