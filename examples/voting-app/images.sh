#!/usr/bin/env bash
# Makes the images of the voting app's two servers out of Debian's packages: wharf-example/redis and wharf-example/postgres. No registry of
# images is asked. An image that is there already is left alone, so only the first run takes its minutes.
#
#   images.sh [redis] [postgres]    both by default; as root, because a system is unpacked with its owners
#
# Packages come from where this machine has its own. Variables: DOCKER_HOST, as for `docker`; MIRROR, the address of another source of
# packages; WORK, the folder to work in, a gigabyte of which is needed for a while (default: a new one below TMPDIR).
set -euo pipefail

SUITE=bookworm
TAG=1

say() { echo "images: $*" >&2; }
fail() { say "$*"; exit 1; }

# Where this machine has the packages of the suite from; nothing where it is another system, and debootstrap's own default is taken.
mirror() {
    if [[ -n ${MIRROR:-} ]]; then echo "$MIRROR"; return; fi
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$SUITE main //p" | head -n 1
}

# A small Debian with the given packages in a folder.
system() {
    local root=$1 packages=$2 mirror
    mirror=$(mirror)
    say "unpacking $packages; this takes minutes"
    debootstrap --foreign --variant=minbase --include="$packages" "$SUITE" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; fail "debootstrap could not unpack $packages"; }
    # Packages of servers start them when they are installed, which would be on this machine, and PostgreSQL's make a database.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/image.conf"
    chroot "$root" /debootstrap/debootstrap --second-stage >>"$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; fail "the packages of $packages could not be installed"; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/* "$root"/var/log/*.log \
        "$root"/etc/apt/sources.list
}

# A folder as an image; what follows are changes such as `CMD […]`.
import() {
    local root=$1 image=$2 changes=()
    shift 2
    for change in "$@"; do changes+=(-c "$change"); done
    tar -C "$root" --numeric-owner --one-file-system --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -c . |
        docker import "${changes[@]}" - "$image" >/dev/null
    say "$image is made"
}

redis() {
    local root=$WORK/redis
    system "$root" redis-server
    chroot "$root" install -d -o redis -g redis /data
    # Each write is on the disk before it is answered: a vote that was taken must survive the server. Clients are those of its networks, and it
    # has no password.
    import "$root" "$1" 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' 'USER redis' 'WORKDIR /data' 'VOLUME /data' 'EXPOSE 6379' \
        'ENTRYPOINT ["redis-server"]' \
        'CMD ["--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]'
}

postgres() {
    local root=$WORK/postgres binaries
    system "$root" postgresql
    binaries=$(cd "$root" && echo usr/lib/postgresql/*/bin)
    rm -rf "$root"/var/lib/postgresql/[0-9]* "$root"/etc/postgresql/[0-9]*
    chroot "$root" install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
    entrypoint >"$root/usr/local/bin/entrypoint"
    chmod 755 "$root/usr/local/bin/entrypoint"
    import "$root" "$1" "ENV PATH=/$binaries:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" 'ENV LC_ALL=C.UTF-8' \
        'WORKDIR /var/lib/postgresql' 'VOLUME /var/lib/postgresql/data' 'EXPOSE 5432' \
        'ENTRYPOINT ["entrypoint"]' 'CMD ["postgres"]'
}

# What starts in the image of PostgreSQL.
entrypoint() {
    cat <<'EOF'
#!/bin/sh
# Makes the database if there is none, and becomes the server. POSTGRES_PASSWORD_FILE, or POSTGRES_PASSWORD, has the password of the user
# `postgres`, which it gets when the database is made. Arguments after `postgres` are the server's.
set -eu
volume=/var/lib/postgresql/data
data=$volume/cluster

if [ "$(id -u)" = 0 ]; then
    chown postgres:postgres "$volume"
    # Read here, because the file may be root's alone.
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
        export POSTGRES_PASSWORD
        unset POSTGRES_PASSWORD_FILE
    fi
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -d "$data" ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "entrypoint: a new database needs a password, in POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD" >&2
        exit 1
    fi
    # Made beside and renamed, so that one that was broken off is not taken for a whole one.
    rm -rf "$data.new"
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" >"$volume/password.new"
    initdb --pgdata="$data.new" --username=postgres --pwfile="$volume/password.new" --encoding=UTF8 \
        --auth-local=trust --auth-host=scram-sha-256
    rm "$volume/password.new"
    echo "host all all all scram-sha-256" >>"$data.new/pg_hba.conf"
    sync
    mv "$data.new" "$data"
fi
unset POSTGRES_PASSWORD
[ "${1:-postgres}" = postgres ] || exec "$@"
[ $# = 0 ] || shift
exec postgres -D "$data" -c listen_addresses='*' "$@"
EOF
}

[[ $# -gt 0 ]] || set -- redis postgres
missing=()
for server in "$@"; do
    [[ $server == redis || $server == postgres ]] || fail "there is no image of $server here; there are redis and postgres"
    docker image inspect "wharf-example/$server:$TAG" >/dev/null 2>&1 || missing+=("$server")
done
if [[ ${#missing[@]} -gt 0 ]]; then
    docker version >/dev/null 2>&1 || fail "no container engine answers to \`docker version\`"
    [[ $(id -u) == 0 ]] || fail "run this as root"
    command -v debootstrap >/dev/null || "$(dirname "${BASH_SOURCE[0]}")/../../scripts/apt-install.sh" debootstrap
    if [[ -z ${WORK:-} ]]; then
        WORK=$(mktemp -d)
        trap 'rm -rf --one-file-system "$WORK"' EXIT
    fi
    for server in "${missing[@]}"; do "$server" "wharf-example/$server:$TAG"; done
fi
for server in "$@"; do docker tag "wharf-example/$server:$TAG" "wharf-example/$server:latest"; done
