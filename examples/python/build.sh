#!/usr/bin/env bash
# Builds app.wasm with the componentize-py of requirements.txt, in a virtual environment of this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -e app.wasm && -z $(find app.py requirements.txt build.sh ../wit -newer app.wasm) ]]; then
    exit 0
fi
../../scripts/guest-python.sh .
.venv/bin/componentize-py --quiet -d ../wit -w http-app componentize app -o app.wasm.new
mv app.wasm.new app.wasm
