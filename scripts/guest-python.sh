#!/usr/bin/env bash
# Makes FOLDER/.venv hold what FOLDER/requirements.txt lists. Does nothing when it does already.
#
#   guest-python.sh FOLDER
set -euo pipefail

say() { echo "guest-python: $*" >&2; }
fail() { say "$*"; exit 1; }

[[ $# == 1 && -f $1/requirements.txt ]] || fail "usage: guest-python.sh FOLDER, a folder with a requirements.txt"
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$1"

# A copy of the list, made last, tells that an installation came to its end.
cmp -s requirements.txt .venv/installed.txt && exit 0

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    say "Python with venv is missing"
    "$scripts/apt-install.sh" python3 python3-venv
fi

say "installing $(tr '\n' ' ' <requirements.txt)into $PWD/.venv"
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt >&2
cp requirements.txt .venv/installed.txt
