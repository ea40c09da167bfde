# shellcheck shell=bash
# Sourced by kafka.sh, spanner.sh and registry.sh: one server process, known by its pid file and by a word of its command line,
# so that a pid that has gone to another program since is never signalled.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# answers HOST PORT
answers() {
    (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}

# Below Linux's range for outgoing connections: nothing else takes it between this look and the server's bind.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        answers 127.0.0.1 "$port" || break
    done
    echo "$port"
}

# server_pid PIDFILE MARK: the pid, if that process lives and has MARK in its command line
server_pid() {
    local pid
    [[ -s $1 ]] || return 1
    pid=$(<"$1")
    grep -aqF -- "$2" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# end_server SIGNAL PIDFILE MARK: returns when the process is gone, at once where it is gone already; fails if it had to be killed
end_server() {
    local signal=$1 file=$2 mark=$3 pid tenths
    if pid=$(server_pid "$file" "$mark"); then
        kill -s "$signal" "$pid"
        for ((tenths = 0; tenths < 300; tenths++)); do
            server_pid "$file" "$mark" >/dev/null || break
            sleep 0.1
        done
        if server_pid "$file" "$mark" >/dev/null; then
            kill -s KILL "$pid"
            rm -f "$file"
            die "process $pid did not end within 30 s of SIG$signal: killed"
        fi
    fi
    rm -f "$file"
}
