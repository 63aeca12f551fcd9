#!/usr/bin/env bash
# Builds target/dist/wharf as releases of Wharf are built: twice, the second time with what the first build was seen to do (profile-guided
# optimisation). Takes about half an hour from nothing.
#
# The profiles are merged by LLVM's own tool: the one of `rustup component add llvm-tools`, or one of the system that can read them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "pgo: $*" >&2; }

target=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(ls "$(rustc --print target-libdir)"/../bin/llvm-profdata 2>/dev/null || compgen -c llvm-profdata | sort --version-sort | tail -n 1)
# Older ones do not know the format.
if [[ ! $("${profdata:-false}" --version 2>/dev/null) =~ version\ (19|[2-9][0-9]) ]]; then
    scripts/apt-install.sh llvm-19
    profdata=llvm-profdata-19
fi
command -v wrk >/dev/null || scripts/apt-install.sh wrk
guests=${WHARF_GUESTS:-target/guests}
work=$PWD/target/pgo
mkdir -p "$work"
rm -rf "$work/raw"

# With a target, the flags are not those of build scripts.
build() { RUSTFLAGS=$1 cargo build --locked --release --target "$target" --target-dir "$2" -p wharf --bin wharf; }

say "building what is to be watched"
build "-Cprofile-generate=$work/raw" "$work/watched"
watched=$work/watched/$target/release/wharf
for guest in hello hello-p3 stream crash; do
    [[ -f $guests/$guest.wasm ]] || WHARF=$watched scripts/guest-examples.sh "$guest"
done
say "watching it"
python3 scripts/train.py "$watched" "$guests"
"$profdata" merge -o "$work/wharf.profdata" "$work/raw"
say "building with what was seen"
build "-Cprofile-use=$work/wharf.profdata" "$work/final"
mkdir -p target/dist
cp "$work/final/$target/release/wharf" target/dist/wharf
say "target/dist/wharf"
