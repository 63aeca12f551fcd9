#!/usr/bin/env bash
# Installs what is missing on a machine with nothing but Rust, git and make. Does nothing where all is there.
#
#   setup.sh build    what builds the `wharf` command
#   setup.sh demo     the same, and what builds the examples of `make demo`
#   setup.sh test     the same, and what formats and lints; an example that needs more, such as clang, installs it as it is built
#
# Packages are installed by apt-install.sh. Rust itself is never changed, beyond adding a component or a target: which version is
# there is the user's choice, and others depend on it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null; }

check_rust() {
    have cargo && have rustc || fail "Rust is missing: install it from https://rustup.rs, or put ~/.cargo/bin into the PATH"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    printf '%s\n' "$wanted" "$found" | sort --version-sort --check=quiet && return
    if have rustup; then
        fail "this Rust is $found, and $wanted or later is needed: \`rustup update stable && rustup default stable\`"
    fi
    fail "this Rust is $found, and $wanted or later is needed: install it from https://rustup.rs"
}

check_rust_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    have rustup || fail "\`cargo $1\` is missing: install it with the package manager that Rust came from"
    say "adding $2"
    rustup component add "$2" >&2
}

packages=()
need() { packages+=("$@"); }

what=${1:-}
[[ $# == 1 && $what =~ ^(build|demo|test)$ ]] || fail "usage: setup.sh build | demo | test"

check_rust
# Crates with C inside (SQLite, the allocator, the cryptography), and Rust itself, need a C compiler and linker.
have cc || need gcc libc6-dev
# To ask the apps, which is what everybody does next.
have curl || need curl ca-certificates
if [[ $what != build ]]; then
    # An apart package on Debian, where a bare python3 cannot make a virtual environment.
    python3 -c 'import venv, ensurepip' 2>/dev/null || need python3 python3-venv
fi
if [[ $what == test ]]; then
    check_rust_component fmt rustfmt
    check_rust_component clippy clippy
    # Hosts of a cluster are network namespaces.
    have ip || need iproute2
    # Some of these hosts have a clock that is wrong.
    have faketime || need faketime
    # What is pushed with git is built in its sandbox.
    have bwrap || need bubblewrap
    # The control plane's tests run on it, too.
    have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need postgresql
fi
[[ ${#packages[@]} == 0 ]] || scripts/apt-install.sh "${packages[@]}"
[[ $what == build ]] || scripts/guest-toolchain.sh install
# Containers are tested in a real engine, unless somebody does not want that.
if [[ $what == test && ${WHARF_TEST_DOCKER:-} != off ]]; then
    # The images of the voting app are made of Debian's packages.
    have debootstrap || scripts/apt-install.sh debootstrap
    scripts/docker.sh install
    scripts/docker.sh start
fi
