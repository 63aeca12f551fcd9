#!/usr/bin/env bash
# Installs packages with apt-get: as root, or through sudo, which may ask for a password only where a person sees it. Where that
# is not possible, says what to install and ends with 1.
#
#   apt-install.sh PACKAGE...
set -euo pipefail

say() { echo "apt-install: $*" >&2; }
fail() { say "$*"; exit 1; }

[[ $# -gt 0 ]] || fail "usage: apt-install.sh PACKAGE..."
command -v apt-get >/dev/null || fail "install these, or what your system calls them: $*"

as_root=()
if [[ $(id -u) != 0 ]]; then
    as_root=(sudo)
    [[ -t 2 ]] || as_root=(sudo -n)
    { command -v sudo >/dev/null && "${as_root[@]}" true; } || fail "run this, then start again: sudo apt-get install --no-install-recommends $*"
fi

say "installing $*"
"${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed, going on with the lists that are there"
# What goes wrong is on stderr; the lines about each package are not worth a screen.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
