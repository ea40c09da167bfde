# shellcheck shell=bash
# Sourced by the scripts of the test servers: one server in a directory of its own, its process known by a pid file and by a word
# of its command line, so that a pid that has gone to another program since is never signalled.
#
# Each script defines
#
#   prepare DIR     programs, data and free ports for a new server in DIR
#   launch DIR      starts what DIR holds and waits until it serves (`await_server`); fails if it ended instead
#   variables DIR   prints the NAME=VALUE lines by which tests find it
#
# and ends with `serve "$@"`, which does the verbs. It may set `stop_signal`, and define its own `mark`.

stop_signal=TERM

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

# needs PROGRAM...
needs() {
    local program
    for program; do
        command -v "$program" >/dev/null || die "$program is missing: run scripts/prerequisites.sh test"
    done
}

# maven_fetch CACHE GOAL ARGUMENTS...: one goal of Maven's dependency plugin, in the version that all of these scripts share. One at a
# time: Maven 3 does not lock its local repository.
maven_fetch() {
    local cache=$1 goal=$2
    shift 2
    flock "$(dirname "$cache")/maven.lock" \
        mvn -B -q "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:$goal" "$@" >"$cache/mvn.log" 2>&1 </dev/null ||
        die "Maven failed: $(grep -m1 ERROR "$cache/mvn.log")"
}

# certificate DIR: DIR/cert.pem, for localhost and 127.0.0.1, which is its own authority, and DIR/key.pem
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost \
        -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -addext 'basicConstraints=critical,CA:FALSE' \
        -keyout "$1/key.pem" -out "$1/cert.pem" 2>"$1/openssl.log" || die "no certificate: $(tail -n 3 "$1/openssl.log")"
}

# mark DIR: the word of the command line by which a server of DIR is known
mark() {
    echo "$1"
}

# server_pid PIDFILE MARK: the pid, if that process lives and has MARK in its command line
server_pid() {
    local pid
    [[ -s $1 ]] || return 1
    pid=$(<"$1")
    grep -aqF -- "$2" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# await_server PID PIDFILE LOG CHECK...: waits until CHECK succeeds; fails if the process ended instead
await_server() {
    local pid=$1 file=$2 log=$3 tenths
    shift 3
    echo "$pid" >"$file"
    for ((tenths = 0; tenths < 1200; tenths++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$file"
            return 1
        fi
        "$@" && return
        sleep 0.1
    done
    kill -s KILL "$pid"
    rm -f "$file"
    die "not ready after 120 s: $(tail -n 5 "$log")"
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

# end_all SIGNAL DIR: every process of DIR
end_all() {
    local file
    for file in "$2"/*.pid; do
        [[ ! -e $file ]] || end_server "$1" "$file" "$(mark "$2")"
    done
}

# running DIR
running() {
    local file
    for file in "$1"/*.pid; do
        server_pid "$file" "$(mark "$1")" >/dev/null && return
    done
    return 1
}

# The last words of the logs of DIR.
last_words() {
    tail -q -n 5 "$1"/*.log "$1"/*.out 2>/dev/null
}

# serve VERB DIR
serve() {
    (($# == 2)) || die "usage: $0 start|stop|kill|resume|env DIR"
    local dir try
    dir=$(realpath -m "$2")
    case $1 in
    start)
        ! running "$dir" || die "one runs in $dir already"
        mkdir -p "$dir"
        for try in 1 2 3; do
            prepare "$dir"
            if launch "$dir"; then
                touch "$dir/started"
                break
            fi
            end_all KILL "$dir"
            # another program may have taken a port since free_port looked
            if ((try == 3)) || ! last_words "$dir" | grep -iE 'BindException|already in use' >/dev/null; then
                die "it ended while starting (try $try): $(last_words "$dir")"
            fi
        done
        ;;
    resume)
        [[ -f $dir/started ]] || die "none was ever started in $dir"
        running "$dir" || launch "$dir" || die "it ended while starting: $(last_words "$dir")"
        ;;
    stop)
        end_all "$stop_signal" "$dir"
        return
        ;;
    kill)
        end_all KILL "$dir"
        return
        ;;
    env) [[ -f $dir/started ]] || die "none was ever started in $dir" ;;
    *) die "unknown command: $1" ;;
    esac
    variables "$dir"
}
