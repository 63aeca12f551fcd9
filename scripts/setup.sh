#!/usr/bin/env bash
# Installs what is missing on a machine with nothing but Rust, git and make. Does nothing where all is there.
#
#   setup.sh build    what builds the `wharf` command
#   setup.sh demo     the same, and what builds and asks the examples of `make demo`
#   setup.sh test     everything
#
# Packages are installed by apt-get, as root or with a sudo that asks for no password. Elsewhere the script says what to
# install and ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null; }

rust_is_recent() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    printf '%s\n' "$wanted" "$(rustc --version | cut -d' ' -f2)" | sort --version-sort --check=quiet || {
        say "$(rustc --version | cut -d'(' -f1)is older than the $wanted that this needs"
        return 1
    }
}

check_rust() {
    have cargo && have rustc || fail "Rust is missing: install it from https://rustup.rs, or put ~/.cargo/bin into the PATH"
    rust_is_recent && return
    have rustup || fail "install a newer Rust, from https://rustup.rs"
    say "updating Rust"
    rustup update stable >&2
    rust_is_recent || fail "choose the newer Rust: \`rustup default stable\`"
}

check_rust_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    have rustup || fail "\`cargo $1\` is missing: install it with the package manager that Rust came from"
    say "adding $2"
    rustup component add "$2" >&2
}

packages=()
need() { packages+=("$@"); }

install_packages() {
    [[ ${#packages[@]} -gt 0 ]] || return 0
    local root=()
    have apt-get || fail "install these, or what your system calls them: ${packages[*]}"
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || fail "run this, then start again: sudo apt-get install ${packages[*]}"
        root=(sudo)
    fi
    say "installing ${packages[*]}"
    "${root[@]}" apt-get update -qq >&2 || say "apt-get update failed, going on with the lists that are there"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
}

what=${1:-}
[[ $# == 1 && $what =~ ^(build|demo|test)$ ]] || fail "usage: setup.sh build | demo | test"

check_rust
# Crates with C inside (SQLite, the allocator, the cryptography), and Rust itself, need a C compiler and linker.
have cc || need gcc libc6-dev
if [[ $what != build ]]; then
    have curl || need curl ca-certificates
    # An apart package on Debian, where a bare python3 cannot make a virtual environment.
    python3 -c 'import venv, ensurepip' 2>/dev/null || need python3 python3-venv
fi
if [[ $what == test ]]; then
    check_rust_component fmt rustfmt
    check_rust_component clippy clippy
    { have clang && { have wasm-ld || have wasm-ld-19; } && [[ -e /usr/lib/wasm32-wasi/libc.a ]]; } || need clang lld-19 wasi-libc
fi
install_packages
[[ $what == build ]] || scripts/guest-toolchain.sh install
