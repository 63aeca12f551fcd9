#!/usr/bin/env bash
# Builds Rust guests, on machines where rustup can add the target `wasm32-wasip2` and on those where it cannot.
#
#   guest-toolchain.sh install                   makes sure that one of the ways below works
#   guest-toolchain.sh which                     prints the way: rustup, or debian
#   guest-toolchain.sh build CRATE [OUT.wasm]    builds the crate in a folder and leaves a component at OUT.wasm
#
# Ways, the first that works:
#   rustup   the target wasm32-wasip2 of the Rust that is installed; added by rustup where it is missing.
#   debian   Debian's rustc, which comes without libraries for WebAssembly: its own source of the standard library is built
#            for wasm32-wasip1, and `wharf componentize` makes a component of the result.
#
# Variables: WHARF is the `wharf` binary of the second way (default: the one in PATH, else the one built in this repository).
# GUEST_WAY chooses a way instead of the first that works.
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEBIAN_PACKAGES=(rustc-web cargo-web rust-web-src wasi-libc lld-19)
# Where the C library that rustc links is looked for, and where Debian has it.
SELF_CONTAINED=/usr/lib/rustlib/wasm32-wasip1/lib/self-contained
WASI_LIBC=/usr/lib/wasm32-wasi
LIBC_FILES=(crt1-command.o crt1-reactor.o libc.a)

say() { echo "guest-toolchain: $*" >&2; }
fail() { say "$*"; exit 1; }

# --- the way `rustup` ---

rustup_ready() {
    command -v cargo >/dev/null || return 1
    local libraries
    libraries=$(rustc --print target-libdir --target wasm32-wasip2 2>/dev/null) || return 1
    compgen -G "$libraries/libstd-*.rlib" >/dev/null
}

rustup_install() {
    command -v rustup >/dev/null || return 1
    say "adding the target wasm32-wasip2 with rustup"
    timeout 300 rustup target add wasm32-wasip2 >&2 && rustup_ready
}

rustup_build() {
    cargo build --release --target wasm32-wasip2 --message-format=json-render-diagnostics
}

# --- the way `debian` ---

debian_ready() {
    [[ -x /usr/bin/cargo && -x /usr/bin/rustc && -d /usr/lib/rustlib/src/rust/library/std ]] || return 1
    command -v wasm-ld-19 >/dev/null || return 1
    local file
    for file in "${LIBC_FILES[@]}"; do [[ -e $SELF_CONTAINED/$file ]] || return 1; done
}

debian_install() {
    command -v apt-get >/dev/null || return 1
    "$REPO/scripts/apt-install.sh" "${DEBIAN_PACKAGES[@]}" || return 1
    say "linking the C library of wasi-libc into $SELF_CONTAINED"
    # Sudo has just worked, for the packages.
    local as_root=()
    [[ $(id -u) == 0 ]] || as_root=(sudo)
    "${as_root[@]}" mkdir -p "$SELF_CONTAINED"
    "${as_root[@]}" ln -sf "${LIBC_FILES[@]/#/$WASI_LIBC/}" "$SELF_CONTAINED/"
    debian_ready
}

debian_build() {
    # Building the standard library is a feature of nightly compilers; RUSTC_BOOTSTRAP lets this stable one do it.
    env -u RUSTUP_TOOLCHAIN RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld-19 \
        /usr/bin/cargo build --release -Zbuild-std=std,panic_abort --target wasm32-wasip1 \
        --message-format=json-render-diagnostics
}

wharf_binary() {
    local candidate
    for candidate in "${WHARF:-}" "$(command -v wharf || true)" "$REPO/target/release/wharf" "$REPO/target/debug/wharf"; do
        [[ -n $candidate && -x $candidate ]] && { echo "$candidate"; return; }
    done
    fail "making a component needs the wharf binary: build it with \`cargo build --release\` in $REPO, or set WHARF to its path"
}

# --- both ---

# Prints the way; installs it where none works.
way() {
    if [[ -n ${GUEST_WAY:-} ]]; then
        [[ $GUEST_WAY == rustup || $GUEST_WAY == debian ]] || fail "GUEST_WAY is \`$GUEST_WAY\`; it may be rustup or debian"
        "${GUEST_WAY}_ready" || "${GUEST_WAY}_install" || fail "the way \`$GUEST_WAY\` does not work here"
        echo "$GUEST_WAY"
        return
    fi
    if rustup_ready; then echo rustup
    elif debian_ready; then echo debian
    elif rustup_install; then say "ready: rustup's wasm32-wasip2"; echo rustup
    elif debian_install; then say "ready: Debian's rustc with its standard library built for wasm32-wasip1"; echo debian
    else
        fail "no way to build for WebAssembly. Install Rust from https://rustup.rs and run \`rustup target add wasm32-wasip2\`, or on Debian, as root, \`apt-get install ${DEBIAN_PACKAGES[*]}\`"
    fi
}

# Cargo writes a line of JSON for each thing it made; the crate's own .wasm file is in the last that has one.
built_file() {
    sed -n '/"reason":"compiler-artifact"/s/.*"filenames":\["\([^"]*\.wasm\)".*/\1/p' | tail -n 1
}

build() {
    local crate=$1 out=${2:-} chosen made wharf
    [[ -f $crate/Cargo.toml ]] || fail "there is no Cargo.toml in $crate"
    chosen=$(way)
    # The caller's settings for its own compiler do not fit the guest's.
    unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS RUSTC CARGO_BUILD_TARGET
    made=$(cd "$crate" && "${chosen}_build" | built_file)
    [[ -n $made ]] || fail "the build of $crate made no .wasm file; is it a program, or a library with crate-type = [\"cdylib\"]?"
    out=${out:-$crate/app.wasm}
    # Written beside and renamed, so that nobody reads half a file.
    case $chosen in
        rustup) cp "$made" "$out.new" ;;
        debian) wharf=$(wharf_binary); "$wharf" componentize "$made" "$out.new" ;;
    esac
    mv "$out.new" "$out"
}

case ${1:-} in
    install) way >/dev/null ;;
    which) way ;;
    build)
        [[ $# == 2 || $# == 3 ]] || fail "usage: guest-toolchain.sh build CRATE [OUT.wasm]"
        build "$2" "${3:-}"
        ;;
    *) fail "usage: guest-toolchain.sh install | which | build CRATE [OUT.wasm]" ;;
esac
