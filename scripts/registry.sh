#!/usr/bin/env bash
# A real schema registry (Apicurio, one JVM, in memory) for tests, on a free loopback port, all of it in DIR.
#
#   registry.sh start DIR    start a registry in DIR; prints SCHEMA_REGISTRY_URL=http://127.0.0.1:PORT/apis/ccompat/v7
#   registry.sh stop DIR     SIGTERM, and wait until it is gone: its schemas go with it
#   registry.sh resume DIR   start one again on the same port, empty
#   registry.sh env DIR      print SCHEMA_REGISTRY_URL=... again
#
# The jars come from Maven Central once, into ${SLACKWATER_CACHE:-~/.cache/slackwater}/apicurio-VERSION.
# In DIR: registry.pid, registry.port, registry.out.
set -euo pipefail

# 3.x is compiled for Java 21.
version=2.6.13.Final
cache=${SLACKWATER_CACHE:-$HOME/.cache/slackwater}/apicurio-$version
# shellcheck source=scripts/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

fetch_jars() {
    mkdir -p "$cache"
    (
        flock 9
        [[ -d $cache/app ]] && exit
        for tool in java mvn tar; do
            command -v "$tool" >/dev/null || die "$tool is missing: run scripts/prerequisites.sh test"
        done
        printf 'registry.sh: fetching Apicurio Registry %s from Maven Central into %s, once\n' "$version" "$cache" >&2
        # By the version of the plugin that kafka.sh has already.
        rm -rf "$cache/partial"
        mkdir "$cache/partial"
        mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
            -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" -DoutputDirectory="$cache/partial" \
            >"$cache/mvn.log" 2>&1 </dev/null ||
            die "Maven could not fetch Apicurio Registry $version: $(grep -m1 ERROR "$cache/mvn.log")"
        mkdir "$cache/partial/app"
        tar -xzf "$cache"/partial/*.tar.gz -C "$cache/partial/app"
        mv "$cache/partial/app" "$cache/app"
        rm -rf "$cache/partial"
    ) 9>"$cache/lock"
}

# launch DIR: starts the registry of DIR on its port and waits until it answers; fails if it ended instead
launch() {
    local dir=$1 port pid tenths
    port=$(<"$dir/registry.port")
    setsid java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
        "-XX:ErrorFile=$dir/jvm-crash.log" "-Dslackwater.dir=$dir" \
        -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$port" \
        -jar "$cache/app/apicurio-registry-app-$version-runner.jar" >>"$dir/registry.out" 2>&1 </dev/null 9>&- &
    pid=$!
    echo "$pid" >"$dir/registry.pid"
    for ((tenths = 0; tenths < 1200; tenths++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$dir/registry.pid"
            return 1
        fi
        if answers 127.0.0.1 "$port" && subjects "$port" >/dev/null; then
            return
        fi
        sleep 0.1
    done
    kill -s KILL "$pid"
    rm -f "$dir/registry.pid"
    die "not ready after 120 s: $(tail -n 5 "$dir/registry.out")"
}

# The answer to GET /subjects, without needing curl.
subjects() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET /apis/ccompat/v7/subjects HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
    read -r -t 5 line <&3 || line=
    exec 3<&- 3>&-
    [[ $line == *' 200 '* ]]
} 2>/dev/null

start() {
    local dir=$1 try
    fetch_jars
    mkdir -p "$dir"
    for try in 1 2 3; do
        free_port >"$dir/registry.port"
        launch "$dir" && return
        # another program may have taken the port since free_port looked
        grep -E 'BindException|already in use' "$dir/registry.out" >/dev/null || break
    done
    die "the registry ended while starting (try $try): $(tail -n 5 "$dir/registry.out")"
}

(($# == 2)) || die "usage: $0 start|stop|resume|env DIR"
dir=$(realpath -m "$2")
mark=-Dslackwater.dir=$dir

case $1 in
start)
    server_pid "$dir/registry.pid" "$mark" >/dev/null && die "a registry runs in $dir already"
    start "$dir"
    ;;
resume)
    [[ -f $dir/registry.port ]] || die "no registry was ever started in $dir"
    server_pid "$dir/registry.pid" "$mark" >/dev/null ||
        launch "$dir" || die "the registry ended while starting: $(tail -n 5 "$dir/registry.out")"
    ;;
stop)
    end_server TERM "$dir/registry.pid" "$mark"
    exit
    ;;
env) [[ -f $dir/registry.port ]] || die "no registry was ever started in $dir" ;;
*) die "unknown command: $1" ;;
esac
echo "SCHEMA_REGISTRY_URL=http://127.0.0.1:$(<"$dir/registry.port")/apis/ccompat/v7"
