#!/usr/bin/env bash
# Google's Cloud Spanner emulator for tests, on a free loopback port.
#
#   spanner.sh start DIR    start one; prints SPANNER_EMULATOR_HOST=127.0.0.1:PORT
#   spanner.sh stop DIR     SIGTERM, and wait until it is gone
#   spanner.sh kill DIR     SIGKILL, and wait until it is gone
#   spanner.sh resume DIR   start it again on the same port; it keeps nothing, so it comes back empty
#
# The program is SPANNER_EMULATOR_BIN, else that of Debian's google-cloud-cli-spanner-emulator. Without either, an emulator that runs
# already is used if SPANNER_EMULATOR_HOST names it: `start` then only prints it, and it cannot be stopped from here.
# In DIR: spanner.pid, spanner.port, spanner.log.
set -euo pipefail

# shellcheck source=scripts/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

# emulator_main itself: gateway_main leaves it running as a child when it is killed.
find_emulator() {
    if [[ -n ${SPANNER_EMULATOR_BIN:-} ]]; then
        [[ -x $SPANNER_EMULATOR_BIN ]] || die "SPANNER_EMULATOR_BIN=$SPANNER_EMULATOR_BIN is not a program"
        echo "$SPANNER_EMULATOR_BIN"
    else
        dpkg -L google-cloud-cli-spanner-emulator 2>/dev/null | grep '/emulator_main$' || true
    fi
}

# Starts the emulator on the port in DIR and waits until it answers; fails if it ended instead.
launch() {
    local program=$1 dir=$2 port pid tenths
    port=$(<"$dir/spanner.port")
    setsid "$program" "--host_port=127.0.0.1:$port" >>"$dir/spanner.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/spanner.pid"
    for ((tenths = 0; tenths < 300; tenths++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$dir/spanner.pid"
            return 1
        fi
        answers 127.0.0.1 "$port" && return
        sleep 0.1
    done
    kill -s KILL "$pid"
    rm -f "$dir/spanner.pid"
    die "no answer on port $port after 30 s: $(tail -n 5 "$dir/spanner.log")"
}

(($# == 2)) || die "usage: $0 start|stop|kill|resume DIR"
dir=$(realpath -m "$2")
mark="--host_port=127.0.0.1:$(cat "$dir/spanner.port" 2>/dev/null || true)"

case $1 in
start)
    server_pid "$dir/spanner.pid" "$mark" >/dev/null && die "an emulator runs in $dir already"
    program=$(find_emulator)
    if [[ -z $program ]]; then
        [[ -n ${SPANNER_EMULATOR_HOST:-} ]] || die "the Cloud Spanner emulator was not found. Either
  install Google's Debian package google-cloud-cli-spanner-emulator, or
  set SPANNER_EMULATOR_BIN to its emulator_main, or
  run the image gcr.io/cloud-spanner-emulator/emulator (docker run -p 9010:9010 ...) and set SPANNER_EMULATOR_HOST=127.0.0.1:9010."
        answers "${SPANNER_EMULATOR_HOST%:*}" "${SPANNER_EMULATOR_HOST##*:}" ||
            die "nothing answers at SPANNER_EMULATOR_HOST=$SPANNER_EMULATOR_HOST"
        echo "SPANNER_EMULATOR_HOST=$SPANNER_EMULATOR_HOST"
        exit
    fi
    mkdir -p "$dir"
    for try in 1 2 3; do
        free_port >"$dir/spanner.port"
        launch "$program" "$dir" && break
        ((try < 3)) || die "the emulator ended while starting: $(tail -n 5 "$dir/spanner.log")"
    done
    ;;
resume)
    [[ -f $dir/spanner.port ]] || die "no emulator was ever started in $dir"
    server_pid "$dir/spanner.pid" "$mark" >/dev/null ||
        launch "$(find_emulator)" "$dir" || die "the emulator ended while starting: $(tail -n 5 "$dir/spanner.log")"
    ;;
stop)
    end_server TERM "$dir/spanner.pid" "$mark"
    exit
    ;;
kill)
    [[ -f $dir/spanner.port ]] || die "no emulator was ever started in $dir"
    end_server KILL "$dir/spanner.pid" "$mark"
    exit
    ;;
*) die "unknown command: $1" ;;
esac
echo "SPANNER_EMULATOR_HOST=127.0.0.1:$(<"$dir/spanner.port")"
