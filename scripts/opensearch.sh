#!/usr/bin/env bash
# A real OpenSearch (one node, one JVM, no plugins: neither users nor TLS) for tests, on a free loopback port, all of it in DIR.
#
#   opensearch.sh start DIR    make a node in DIR and start it; prints OPENSEARCH_URL=http://127.0.0.1:PORT
#   opensearch.sh stop DIR     SIGTERM, and wait until it is gone
#   opensearch.sh kill DIR     SIGKILL, and wait until it is gone
#   opensearch.sh resume DIR   start it again: same data, same port
#   opensearch.sh env DIR      print OPENSEARCH_URL=... again
#
# Settings of the node, one NAME=VALUE a line, may be put into DIR/settings before it is started or resumed: to provoke overload,
# `indexing_pressure.memory.limit=20kb` answers whole requests with 429, `thread_pool.write.queue_size=1` single rows of them.
#
# The jars come from Maven Central once, into ${SLACKWATER_CACHE:-~/.cache/slackwater}/opensearch-VERSION.
# In DIR: opensearch.pid, opensearch.port, opensearch.out, settings, home/.
set -euo pipefail

# 3.x is compiled for Java 21.
version=2.19.6
cache=${SLACKWATER_CACHE:-$HOME/.cache/slackwater}/opensearch-$version
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/server.sh
source "$here/server.sh"

# One GC only: two named make the JVM exit.
jvm=(java -Xms96m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -cp "$cache/node.jar:$cache/libs/*")

# The jars, and the class that starts a node of them: anew where its source has changed.
fetch_jars() {
    mkdir -p "$cache"
    (
        flock 9
        needs java javac jar mvn
        if [[ ! -d $cache/libs ]]; then
            printf 'opensearch.sh: fetching OpenSearch %s from Maven Central into %s, once\n' "$version" "$cache" >&2
            # log4j-core is optional for OpenSearch, which does not start without it
            cat >"$cache/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>slackwater</groupId><artifactId>opensearch-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.opensearch</groupId><artifactId>opensearch</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.opensearch.plugin</groupId><artifactId>transport-netty4-client</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
XML
            rm -rf "$cache/libs.partial"
            maven_fetch "$cache" copy-dependencies -f "$cache/pom.xml" \
                -DoutputDirectory="$cache/libs.partial" -DincludeScope=runtime
            mv "$cache/libs.partial" "$cache/libs"
        fi
        if ! cmp -s "$here/OpenSearchNode.java" "$cache/OpenSearchNode.java" || [[ ! -e $cache/node.jar ]]; then
            rm -rf "$cache/classes" "$cache/classes.jsa"
            mkdir "$cache/classes"
            cp "$here/OpenSearchNode.java" "$cache"
            javac -cp "$cache/libs/*" -d "$cache/classes" "$cache/OpenSearchNode.java" >"$cache/javac.log" 2>&1 ||
                die "$(cat "$cache/javac.log")"
            cp "$here/log4j2.properties" "$cache/classes"
            # a jar, for a directory on the class path keeps the JVM from archiving its classes
            jar --create --file "$cache/node.jar.partial" -C "$cache/classes" .
            mv "$cache/node.jar.partial" "$cache/node.jar"
            (keep_classes) || true
        fi
    ) 9>"$cache/lock"
}

# One start and stop that keeps the loaded classes, so that every later start is quicker. Without it they are only slower.
keep_classes() {
    local dir=$cache/warm
    mkdir -p "$dir"
    fresh "$dir"
    launch "$dir" "-XX:ArchiveClassesAtExit=$cache/classes.jsa.partial" && end_all TERM "$dir" &&
        mv -f "$cache/classes.jsa.partial" "$cache/classes.jsa"
    rm -rf "$dir"
}

fresh() {
    local dir=$1
    rm -rf "${dir:?}/home" "$dir/opensearch.out"
    free_port >"$dir/opensearch.port"
}

prepare() {
    fetch_jars
    fresh "$1"
}

launch() {
    local dir=$1 flag=${2:--XX:SharedArchiveFile=$cache/classes.jsa} settings=()
    [[ ! -e $dir/settings ]] || mapfile -t settings <"$dir/settings"
    : >"$dir/opensearch.out"
    setsid "${jvm[@]}" "$flag" "-XX:ErrorFile=$dir/jvm-crash.log" \
        OpenSearchNode "$dir/home" "$(<"$dir/opensearch.port")" "${settings[@]}" >>"$dir/opensearch.out" 2>&1 </dev/null 9>&- &
    await_server $! "$dir/opensearch.pid" "$dir/opensearch.out" recovered "$dir"
}

# Whether the shards of an earlier run are there again as well, asked without needing curl.
recovered() {
    local answer
    grep -qs '^ready' "$1/opensearch.out" && exec 3<>"/dev/tcp/127.0.0.1/$(<"$1/opensearch.port")" || return
    printf 'GET /_cat/health?h=status HTTP/1.0\r\n\r\n' >&3
    answer=$(cat <&3)
    exec 3<&- 3>&-
    [[ $answer == *$'\n'@(green|yellow)* ]]
} 2>/dev/null

variables() {
    echo "OPENSEARCH_URL=http://127.0.0.1:$(<"$1/opensearch.port")"
}

serve "$@"
