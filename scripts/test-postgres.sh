#!/usr/bin/env bash
# Runs the control plane's own tests on PostgreSQL: the tests start a server of their own from the machine's binaries, or from those in the
# folder WHARF_TEST_POSTGRES_BIN, and take it away when they end. Arguments are those of a test binary, such as a part of a test's name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -z ${WHARF_TEST_POSTGRES_BIN:-} ]] || "$WHARF_TEST_POSTGRES_BIN/postgres" --version >&2

# Built with the whole workspace, as `make test` does: another choice of packages chooses other features, and builds all of it again.
tests=$(cargo test --locked --workspace --lib --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*wharf_platform_api-[^"]*\)".*/\1/p' | tail -1)
cd platform-api
# Its calls are deeper, and what one test of all routes keeps on its stack without optimisation comes near the usual two megabytes.
RUST_MIN_STACK=${RUST_MIN_STACK:-4194304} WHARF_TEST_DATABASE=postgres exec "$tests" "$@"
