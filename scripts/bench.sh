#!/usr/bin/env bash
# Measures the figures of docs/promises.md and prints them as a table. The peer is `wasmtime serve` of the same version as
# the engine inside; it is built once, into target/peers.
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
guests=${WHARF_GUESTS:-target/guests}
for guest in hello hello-p3 crash hostile stream compute; do
    [[ -f $guests/$guest.wasm ]] || WHARF=target/release/wharf scripts/guest-examples.sh "$guest"
done
exec python3 scripts/bench.py target/release/wharf "$wasmtime" "$guests" --native target/release/examples/native "$@"
