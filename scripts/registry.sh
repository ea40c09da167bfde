#!/usr/bin/env bash
# A real schema registry (Apicurio, one JVM, in memory) for tests, on a free loopback port, all of it in DIR.
#
#   registry.sh start DIR    start a registry in DIR; prints SCHEMA_REGISTRY_URL=http://127.0.0.1:PORT/apis/ccompat/v7
#   registry.sh stop DIR     SIGTERM, and wait until it is gone: its schemas go with it
#   registry.sh kill DIR     SIGKILL, and wait until it is gone
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
        needs java mvn tar
        printf 'registry.sh: fetching Apicurio Registry %s from Maven Central into %s, once\n' "$version" "$cache" >&2
        rm -rf "$cache/partial"
        mkdir "$cache/partial"
        maven_fetch "$cache" copy -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" \
            -DoutputDirectory="$cache/partial"
        mkdir "$cache/partial/app"
        tar -xzf "$cache"/partial/*.tar.gz -C "$cache/partial/app"
        mv "$cache/partial/app" "$cache/app"
        rm -rf "$cache/partial"
    ) 9>"$cache/lock"
}

prepare() {
    fetch_jars
    rm -f "$1/registry.out"
    free_port >"$1/registry.port"
}

launch() {
    local dir=$1 port
    port=$(<"$dir/registry.port")
    setsid java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
        "-XX:ErrorFile=$dir/jvm-crash.log" "-Dslackwater.dir=$dir" \
        -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$port" \
        -jar "$cache/app/apicurio-registry-app-$version-runner.jar" >>"$dir/registry.out" 2>&1 </dev/null 9>&- &
    await_server $! "$dir/registry.pid" "$dir/registry.out" has_subjects "$port"
}

# has_subjects PORT: whether it answers GET /subjects, asked without needing curl.
has_subjects() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET /apis/ccompat/v7/subjects HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
    read -r -t 5 line <&3 || line=
    exec 3<&- 3>&-
    [[ $line == *' 200 '* ]]
} 2>/dev/null

variables() {
    echo "SCHEMA_REGISTRY_URL=http://127.0.0.1:$(<"$1/registry.port")/apis/ccompat/v7"
}

serve "$@"
