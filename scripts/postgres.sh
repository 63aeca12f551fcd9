# Runs a PostgreSQL server for tests, and does what it is told, until its input ends: then it takes everything away. So it goes with the
# process that started it, however that ends. It says its folder, in which the socket is, and `done`
# after each command. PostgreSQL refuses to run as root. WHARF_TEST_POSTGRES_BIN names the folder of the programs of another one than the
# machine's newest; whoever runs this has to see it.
set -eu
trap '' INT TERM
if [ -n "${WHARF_TEST_POSTGRES_BIN:-}" ]; then
    bin=$WHARF_TEST_POSTGRES_BIN
    case $bin in /*) ;; *) echo "WHARF_TEST_POSTGRES_BIN: $bin is no whole path" >&2; exit 1 ;; esac
    [ -x "$bin/initdb" ] || { echo "WHARF_TEST_POSTGRES_BIN: $(id -un) finds no initdb in $bin" >&2; exit 1; }
else
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
fi
[ -x "$bin/initdb" ] || bin=$(dirname "$(command -v initdb || { echo "PostgreSQL is missing; scripts/setup.sh test installs it" >&2; exit 1; })")
dir=$(mktemp -d /tmp/wharf-postgres.XXXXXX)
cd "$dir"
"$bin/initdb" -D data -U wharf -A trust -E UTF8 --no-locale --no-sync >log 2>&1 || { cat log >&2; exit 1; }
cat >>data/postgresql.conf <<END
    listen_addresses = ''
    unix_socket_directories = '$dir'
    max_connections = 500
    shared_buffers = 64MB
    fsync = off
    synchronous_commit = on
    full_page_writes = off
    autovacuum = off
END
echo "$dir"
while read -r command; do
    case $command in
        start) "$bin/pg_ctl" -D data -l log -w start >/dev/null 2>&1 ;;
        stop) "$bin/pg_ctl" -D data -w -m fast stop >/dev/null 2>&1 ;;
        kill) "$bin/pg_ctl" -D data -w -m immediate stop >/dev/null 2>&1 ;;
    esac
    echo done
done
"$bin/pg_ctl" -D data -w -m immediate stop >/dev/null 2>&1 || true
cd /
rm -rf "$dir"
