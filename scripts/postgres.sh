#!/usr/bin/env bash
# A real PostgreSQL for tests, on a free loopback port, all of it in DIR.
#
#   postgres.sh start DIR    make a cluster in DIR and start it; prints POSTGRES_URL and POSTGRES_CA
#   postgres.sh stop DIR     end its sessions and stop it, and wait until it is gone
#   postgres.sh kill DIR     SIGKILL, and wait until it is gone
#   postgres.sh resume DIR   start it again: same data, same port
#   postgres.sh env DIR      print the variables again
#
# POSTGRES_URL names a superuser. User `slackwater` comes in without a password, in clear or by TLS; `secret` with the password
# `s3cret`, by TLS only. POSTGRES_CA is the file with the authority of the server's certificate.
# In DIR: postgres.pid, postgres.port, postgres.out, initdb.out, tls/, data/.
set -euo pipefail

# shellcheck source=scripts/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

# SIGTERM would wait for clients to go.
stop_signal=INT

# PostgreSQL refuses to run as root.
as_user=()
if ((EUID == 0)); then
    user=$(id -un postgres 2>/dev/null || echo nobody)
    as_user=(setpriv "--reuid=$user" "--regid=$(id -gn "$user")" --clear-groups)
fi

# program NAME: that of the path, else of Debian's newest version
program() {
    command -v "$1" || compgen -G "/usr/lib/postgresql/*/bin/$1" | sort -V | tail -n 1 | grep . ||
        die "PostgreSQL is missing: run scripts/prerequisites.sh test"
}

prepare() {
    local dir=$1
    rm -rf "$dir/data" "$dir/tls"
    install -d -m 711 "$dir" "$dir/tls"
    mkdir -m 700 "$dir/data"
    certificate "$dir/tls"
    if ((EUID == 0)); then
        chown -R "$user" "$dir/data" "$dir/tls"
        "${as_user[@]}" test -x "$dir" || die "user $user cannot enter $dir: choose another directory"
    fi
    # What was committed is with the kernel, so it survives a SIGKILL; only a machine that loses power would lose it.
    "${as_user[@]}" "$(program initdb)" -D "$dir/data" -A trust -U slackwater --no-sync -E UTF8 --locale=C.UTF-8 \
        >"$dir/initdb.out" 2>&1 </dev/null || die "initdb: $(tail -n 5 "$dir/initdb.out")"
    cat >"$dir/data/pg_hba.conf" <<'HBA'
hostssl    all  secret      127.0.0.1/32  scram-sha-256
hostnossl  all  secret      127.0.0.1/32  reject
host       all  slackwater  127.0.0.1/32  trust
local      all  slackwater                trust
HBA
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
ssl = on
ssl_cert_file = '$dir/tls/cert.pem'
ssl_key_file = '$dir/tls/key.pem'
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 200
CONF
    "${as_user[@]}" "$(program postgres)" --single -D "$dir/data" postgres >>"$dir/initdb.out" 2>&1 \
        <<<"CREATE ROLE secret LOGIN PASSWORD 's3cret'" || die "no user: $(tail -n 5 "$dir/initdb.out")"
    free_port >"$dir/postgres.port"
}

# One that was killed may be a zombie for a moment, and its children may still be ending: PostgreSQL starts when they are gone.
launch() {
    local dir=$1 port tenths
    port=$(<"$dir/postgres.port")
    for ((tenths = 0; tenths < 300; tenths++)); do
        : >"$dir/postgres.out"
        setsid "${as_user[@]}" "$(program postgres)" -D "$dir/data" -p "$port" >>"$dir/postgres.out" 2>&1 </dev/null 9>&- &
        await_server $! "$dir/postgres.pid" "$dir/postgres.out" ready "$dir" && return
        grep -qE 'postmaster.pid" already exists|still in use' "$dir/postgres.out" || return
        sleep 0.1
    done
    return 1
}

# It answers from its first moment on, and says `ready` in its pid file when it takes sessions. One that was killed has left
# its own.
ready() {
    local lines
    mapfile -t lines 2>/dev/null <"$1/data/postmaster.pid" && [[ ${lines[0]:-} == $(<"$1/postgres.pid") && ${lines[7]:-} == ready* ]]
}

variables() {
    echo "POSTGRES_URL=postgres://slackwater@127.0.0.1:$(<"$1/postgres.port")/postgres"
    echo "POSTGRES_CA=$1/tls/cert.pem"
}

serve "$@"
