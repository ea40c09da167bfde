#!/usr/bin/env bash
# Real Redis servers for tests, one alone and a cluster of three masters, on free loopback ports, all of it in DIR.
#
#   redis.sh start DIR    start them; prints REDIS_URL, REDIS_TLS_URL, REDIS_CA and REDIS_CLUSTER=HOST:PORT,HOST:PORT,HOST:PORT
#   redis.sh stop DIR     SIGTERM, and wait until they are gone
#   redis.sh kill DIR     SIGKILL, and wait until they are gone
#   redis.sh resume DIR   start them again: same data, same ports
#   redis.sh env DIR      print the variables again
#
# REDIS_URL and REDIS_TLS_URL are the one server, in clear and by TLS; REDIS_CA is the file with the authority of its certificate.
# There, the user `secret` with the password `s3cret` may log in as well.
# In DIR: redis.pid and node-{1,2,3}.pid, and .port, .bus and .log of the same names; redis/, node-1/ and so on with their data.
set -euo pipefail

# shellcheck source=scripts/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

# The first slot of each of the three nodes.
declare -A slots=([1]='0 5460' [2]='5461 10922' [3]='10923 16383')

prepare() {
    local dir=$1 name
    needs redis-server redis-cli openssl
    rm -rf "$dir/tls"
    mkdir -p "$dir/tls"
    certificate "$dir/tls"
    rm -f "$dir/meet"
    for name in redis node-1 node-2 node-3; do
        rm -rf "${dir:?}/$name" "$dir/$name.log"
        mkdir "$dir/$name"
        free_port >"$dir/$name.port"
        # the bus of a node of the cluster; the port for TLS of the one alone
        free_port >"$dir/$name.bus"
    done
}

# one DIR NAME ARGUMENTS...: starts one server. What a client was told is written is with the kernel, so it survives a SIGKILL.
one() {
    local dir=$1 name=$2
    shift 2
    setsid redis-server --bind 127.0.0.1 --port "$(<"$dir/$name.port")" --dir "$dir/$name" --save '' --appendonly yes \
        --appendfsync no --set-proc-title no --logfile "$dir/$name.log" "$@" >>"$dir/$name.out" 2>&1 </dev/null 9>&- &
    await_server $! "$dir/$name.pid" "$dir/$name.log" pongs "$dir" "$name"
}

# ask DIR NAME COMMAND...
ask() {
    redis-cli -h 127.0.0.1 -p "$(<"$1/$2.port")" "${@:3}" 2>/dev/null
}

pongs() {
    [[ $(ask "$1" "$2" ping) == PONG ]]
}

in_order() {
    [[ $(ask "$1" "$2" cluster info) == *cluster_state:ok* ]]
}

launch() {
    local dir=$1 n
    one "$dir" redis --tls-port "$(<"$dir/redis.bus")" --tls-cert-file "$dir/tls/cert.pem" --tls-key-file "$dir/tls/key.pem" \
        --tls-auth-clients no --user secret on '>s3cret' '~*' '&*' +@all || return
    for n in 1 2 3; do
        one "$dir" "node-$n" --cluster-enabled yes --cluster-config-file nodes.conf --cluster-node-timeout 1000 \
            --cluster-port "$(<"$dir/node-$n.bus")" || return
    done
    if [[ ! -e $dir/meet ]]; then
        for n in 1 2 3; do
            # shellcheck disable=SC2086 # two words
            ask "$dir" "node-$n" cluster addslotsrange ${slots[$n]}
            # epochs of their own: equal ones would be sorted out only after a while
            ask "$dir" "node-$n" cluster set-config-epoch "$n"
            ((n == 1)) || ask "$dir" node-1 cluster meet 127.0.0.1 "$(<"$dir/node-$n.port")" "$(<"$dir/node-$n.bus")"
        done >"$dir/meet.out"
        touch "$dir/meet"
    fi
    for n in 1 2 3; do
        await_server "$(<"$dir/node-$n.pid")" "$dir/node-$n.pid" "$dir/node-$n.log" in_order "$dir" "node-$n" || return
    done
}

variables() {
    local dir=$1
    echo "REDIS_URL=redis://127.0.0.1:$(<"$dir/redis.port")"
    echo "REDIS_TLS_URL=rediss://127.0.0.1:$(<"$dir/redis.bus")"
    echo "REDIS_CA=$dir/tls/cert.pem"
    echo "REDIS_CLUSTER=127.0.0.1:$(<"$dir/node-1.port"),127.0.0.1:$(<"$dir/node-2.port"),127.0.0.1:$(<"$dir/node-3.port")"
}

serve "$@"
