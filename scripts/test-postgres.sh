#!/usr/bin/env bash
# Runs the control plane's own tests on PostgreSQL: the tests start a server of their own from the machine's binaries, and take it
# away when they end. Arguments are those of a test binary, such as a part of a test's name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Built with the whole workspace, as `make test` does: another choice of packages chooses other features, and builds all of it again.
tests=$(cargo test --locked --workspace --lib --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*wharf_platform_api-[^"]*\)".*/\1/p' | tail -1)
cd platform-api
WHARF_TEST_DATABASE=postgres exec "$tests" "$@"
