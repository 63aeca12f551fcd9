#!/usr/bin/env bash
# Builds app.wasm with the versions that package-lock.json pins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -e app.wasm && -z $(find app.js package-lock.json build.sh ../wit -newer app.wasm) ]]; then
    exit 0
fi
node_bin=$(../../scripts/guest-node.sh)
PATH=$node_bin:$PATH
# A copy of the lock file, made last, tells that an installation came to its end.
if ! cmp -s package-lock.json node_modules/installed.json; then
    echo "javascript: installing what package-lock.json lists" >&2
    npm ci --no-audit --no-fund --loglevel=error >&2
    cp package-lock.json node_modules/installed.json
fi
node node_modules/.bin/componentize-js app.js --wit ../wit --world-name http-app --out app.wasm.new
mv app.wasm.new app.wasm
