#!/usr/bin/env bash
# Google's Cloud Spanner emulator for tests, on a free loopback port.
#
#   spanner.sh start DIR    start one; prints SPANNER_EMULATOR_HOST=127.0.0.1:PORT
#   spanner.sh stop DIR     SIGTERM, and wait until it is gone
#   spanner.sh kill DIR     SIGKILL, and wait until it is gone
#   spanner.sh resume DIR   start it again on the same port; it keeps nothing, so it comes back empty
#   spanner.sh env DIR      print SPANNER_EMULATOR_HOST=... again
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

# Its command line names the port and no directory.
mark() {
    echo "--host_port=127.0.0.1:$(cat "$1/spanner.port" 2>/dev/null || true)"
}

prepare() {
    local program
    program=$(find_emulator)
    rm -f "$1/spanner.log"
    if [[ -n $program ]]; then
        free_port >"$1/spanner.port"
    elif [[ -z ${SPANNER_EMULATOR_HOST:-} ]]; then
        die "the Cloud Spanner emulator was not found. Either
  install Google's Debian package google-cloud-cli-spanner-emulator, or
  set SPANNER_EMULATOR_BIN to its emulator_main, or
  run the image gcr.io/cloud-spanner-emulator/emulator (docker run -p 9010:9010 ...) and set SPANNER_EMULATOR_HOST=127.0.0.1:9010."
    else
        answers "${SPANNER_EMULATOR_HOST%:*}" "${SPANNER_EMULATOR_HOST##*:}" ||
            die "nothing answers at SPANNER_EMULATOR_HOST=$SPANNER_EMULATOR_HOST"
    fi
}

launch() {
    local dir=$1 program port
    program=$(find_emulator)
    [[ -n $program ]] || return 0
    port=$(<"$dir/spanner.port")
    setsid "$program" "--host_port=127.0.0.1:$port" >>"$dir/spanner.log" 2>&1 </dev/null &
    await_server $! "$dir/spanner.pid" "$dir/spanner.log" answers 127.0.0.1 "$port"
}

variables() {
    if [[ -e $1/spanner.port ]]; then
        echo "SPANNER_EMULATOR_HOST=127.0.0.1:$(<"$1/spanner.port")"
    else
        echo "SPANNER_EMULATOR_HOST=$SPANNER_EMULATOR_HOST"
    fi
}

serve "$@"
