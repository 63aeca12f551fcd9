#!/usr/bin/env bash
# Builds app.wasm, a core module of WASI 0.1, with clang and Debian's wasi-libc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

libc=/usr/lib/wasm32-wasi
linker() { command -v wasm-ld || command -v wasm-ld-19; }
if ! command -v clang >/dev/null || ! linker >/dev/null || ! [[ -e $libc/libc.a ]]; then
    echo "c-command: clang for WebAssembly is missing" >&2
    ../../scripts/apt-install.sh clang lld-19 wasi-libc
fi

object=$(mktemp)
trap 'rm -f "$object"' EXIT
clang --target=wasm32-wasi -O2 -Wall -Wextra -c main.c -o "$object"
# Linked by hand: clang would ask for a library of helpers that this program does not need and Debian packs elsewhere.
"$(linker)" --strip-all -L"$libc" "$libc/crt1-command.o" "$object" -lc -o app.wasm
