#!/usr/bin/env bash
# Gives parsers to libFuzzer, with stable Rust. What it finds is kept in target/fuzz/found; ends with 1 when that was something.
#
#   fuzz.sh [TARGET] [SECONDS]   60 s for each parser; TARGET is a crate such as `types`, or a parser such as `types/manifest`; without it, all
#   fuzz.sh TARGET FILE          one input again
#   fuzz.sh --list [CRATE]       which parsers there are
#
# The parsers, what holds of each, and their seeds: `fuzzing.rs` of each crate. `cargo fuzz` needs nightly Rust for its sanitizers,
# which find what safe Rust does not do; the coverage that leads a fuzzer on is there in every Rust.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "fuzz: $*" >&2; }
fail() { say "$*"; exit 1; }

CRATES=(types pki git builder docker compose kubernetes ingress platform-api runtime cli)
home=$PWD/target/fuzz
list=
[[ ${1:-} != --list ]] || { list=1; shift; }
target=${1:-}
seconds=60
# `fuzz.sh 5` gives every parser five seconds.
if [[ $target =~ ^[0-9]+$ ]]; then seconds=$target target=; else seconds=${2:-60}; fi
input=
if [[ $seconds =~ ^[0-9]+$ ]]; then :; elif [[ -f $seconds ]]; then input=$(realpath "$seconds"); else fail "there is no file $seconds"; fi

# libFuzzer itself is C++.
command -v c++ >/dev/null || scripts/apt-install.sh g++

# With a target triple, so that build scripts and macros are built without.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"

build() {
    say "building the parsers of $1"
    cargo build --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$home" --features "$1" >&2
    mkdir -p "$home/bin"
    cp "$home/$host/release/wharf-fuzz" "$home/bin/$1"
}

found=0
run() {
    local parser=$1 corpus=$home/corpus/$1 kept=$home/found/$1/ log=$home/log/$1.txt
    mkdir -p "$corpus" "$kept" "$(dirname "$log")"
    local options=(-timeout=20 -rss_limit_mb=2048 -max_len=8192 "-artifact_prefix=$kept")
    if [[ -n $input ]]; then
        WHARF_FUZZ=$parser "$home/bin/${parser%%/*}" "${options[@]}" "$input"
        return
    fi
    say "$parser for $seconds s"
    if ! WHARF_FUZZ=$parser WHARF_FUZZ_SEEDS=$corpus "$home/bin/${parser%%/*}" "${options[@]}" \
        "-max_total_time=$seconds" -print_final_stats=1 "$corpus" >"$log" 2>&1; then
        found=1
        grep -a -B2 -A6 "panicked at\|ERROR: libFuzzer" "$log" | head -n 30 >&2 || true
        say "something was found in $parser: $log, and the input in $kept; again: scripts/fuzz.sh $parser FILE"
    fi
    sed -n 's/^stat::number_of_executed_units: *//p' "$log" | sed "s|^|fuzz: $parser: inputs tried: |" >&2
}

crates=("${CRATES[@]}")
if [[ -n $target ]]; then
    crates=("${target%%/*}")
    [[ " ${CRATES[*]} " == *" ${crates[0]} "* ]] || fail "there is no crate \`${crates[0]}\`: it is one of ${CRATES[*]}"
fi
for crate in "${crates[@]}"; do
    build "$crate"
    mapfile -t parsers < <(WHARF_FUZZ='' "$home/bin/$crate")
    if [[ $target == */* ]]; then
        [[ " ${parsers[*]} " == *" $target "* ]] || fail "there is no parser \`$target\`: \`scripts/fuzz.sh --list $crate\` lists them"
        parsers=("$target")
    fi
    for parser in "${parsers[@]}"; do
        if [[ -n $list ]]; then echo "$parser"; else run "$parser"; fi
    done
done
exit "$found"
