#!/usr/bin/env bash
# Measures the figures of docs/promises.md and prints them as a table. The peer is `wasmtime serve` of the same version as
# the engine inside; it is built once, into target/peers.
#
# WHARF is the binary that is measured, by default target/release/wharf; `make dist` builds target/dist/wharf.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WASMTIME_VERSION=48.0.8
peers=target/peers
command -v wrk >/dev/null && command -v openssl >/dev/null || scripts/apt-install.sh wrk openssl
wasmtime=${WASMTIME:-$peers/bin/wasmtime}
if [[ ! -x $wasmtime ]]; then
    echo "bench: building wasmtime $WASMTIME_VERSION, which takes about ten minutes" >&2
    cargo install wasmtime-cli --version "$WASMTIME_VERSION" --locked --root "$peers"
fi
cargo build --locked --release -p wharf -p wharf-ingress --bin wharf --example native
wharf=${WHARF:-target/release/wharf}
guests=${WHARF_GUESTS:-target/guests}
for guest in hello hello-p3 crash hostile stream compute; do
    [[ -f $guests/$guest.wasm ]] || WHARF=$PWD/target/release/wharf scripts/guest-examples.sh "$guest"
done
exec python3 scripts/bench.py "$wharf" "$wasmtime" "$guests" --native target/release/examples/native "$@"
