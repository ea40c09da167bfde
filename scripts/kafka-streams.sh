#!/usr/bin/env bash
# The real Apache Kafka Streams beside slackwater: runs benches/peers/kafka-streams, for the differential test and the bench.
#
#   kafka-streams.sh cases         JSON lines in, JSON lines out (see src/Peer.java), until standard input ends
#   kafka-streams.sh bench ARGS    its side of `scripts/bench.sh operators`
#   kafka-streams.sh build         only makes it ready
#
# The jars come from Maven Central once, into ${SLACKWATER_CACHE:-~/.cache/slackwater}/kafka-streams-VERSION (the version
# stands in pom.xml); the classes are compiled there when a source has changed. Nothing is written into the checkout.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
peer=$here/../benches/peers/kafka-streams

die() {
    printf 'kafka-streams.sh: %s\n' "$*" >&2
    exit 1
}

for tool in java javac mvn; do
    command -v "$tool" >/dev/null || die "$tool is missing: run scripts/prerequisites.sh test"
done
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$peer/pom.xml")
cache=${SLACKWATER_CACHE:-$HOME/.cache/slackwater}/kafka-streams-$version
libs=$cache/libs-$(sha256sum <"$peer/pom.xml" | cut -c 1-16)
classes=$cache/classes-$(cat "$peer/pom.xml" "$peer"/src/*.java | sha256sum | cut -c 1-16)

build() {
    mkdir -p "$cache"
    (
        flock 9
        if [[ ! -d $libs ]]; then
            printf 'kafka-streams.sh: fetching Kafka Streams %s from Maven Central into %s, once\n' "$version" "$cache" >&2
            cp "$peer/pom.xml" "$cache/pom.xml"
            rm -rf "$libs.partial"
            mvn -B -q -f "$cache/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
                -DoutputDirectory="$libs.partial" -DincludeScope=runtime >"$cache/mvn.log" 2>&1 </dev/null ||
                die "Maven could not fetch Kafka Streams $version: $(grep -m1 ERROR "$cache/mvn.log")"
            mv "$libs.partial" "$libs"
        fi
        if [[ ! -d $classes ]]; then
            rm -rf "$classes.partial"
            javac -nowarn -cp "$libs/*" -d "$classes.partial" "$peer"/src/*.java >"$cache/javac.log" 2>&1 ||
                die "it does not compile: $(grep -m3 error "$cache/javac.log")"
            mv "$classes.partial" "$classes"
        fi
    ) 9>"$cache/lock"
}

# One GC that uses one thread. Short cases are done sooner by C1 alone; a bench gets the JVM's best.
jvm=(java -XX:+UseSerialGC -XX:-UsePerfData -cp "$classes:$libs/*")
case ${1:-} in
build)
    build
    ;;
cases)
    build
    exec "${jvm[@]}" -Xmx512m -XX:TieredStopAtLevel=1 Peer cases
    ;;
bench)
    build
    shift
    exec "${jvm[@]}" -Xmx2g Peer bench "$@"
    ;;
*) die "usage: $0 cases | bench ARGS | build" ;;
esac
