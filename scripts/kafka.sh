#!/usr/bin/env bash
# A real Apache Kafka (KRaft, one node, one JVM) for tests, on free loopback ports, all of it in DIR.
#
#   kafka.sh start DIR    make a broker in DIR and start it; prints KAFKA_BROKERS=127.0.0.1:PORT
#   kafka.sh stop DIR     SIGTERM, and wait until it is gone
#   kafka.sh kill DIR     SIGKILL, and wait until it is gone
#   kafka.sh resume DIR   start it again: same data, same port
#   kafka.sh env DIR      print KAFKA_BROKERS=... again
#
# KAFKA_BROKER_SESSION_MS (2000) at its start is for how long it may be gone or starved: short for one that is killed, long for one
# that many use on a busy machine.
#
# The jars come from Maven Central once, into ${SLACKWATER_CACHE:-~/.cache/slackwater}/kafka-VERSION.
# In DIR: kafka.pid, kafka.port, kafka.log (the broker's), kafka.out (the JVM's), server.properties, data/.
set -euo pipefail

# 4.4.0 does not resolve: its kafka-tools-api is not on Maven Central.
version=4.3.1
cache=${SLACKWATER_CACHE:-$HOME/.cache/slackwater}/kafka-$version
# shellcheck source=scripts/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

# One GC only: two named make the JVM exit. C1 and SerialGC start a second sooner and need the least memory.
jvm=(java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -cp "$cache/libs/*")

fetch_jars() {
    mkdir -p "$cache"
    (
        flock 9
        [[ -d $cache/libs ]] && exit
        needs java mvn
        printf 'kafka.sh: fetching Apache Kafka %s from Maven Central into %s, once\n' "$version" "$cache" >&2
        cat >"$cache/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>slackwater</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
XML
        rm -rf "$cache/libs.partial"
        maven_fetch "$cache" copy-dependencies -f "$cache/pom.xml" \
            -DoutputDirectory="$cache/libs.partial" -DincludeScope=runtime
        mv "$cache/libs.partial" "$cache/libs"
        (keep_classes) || true
    ) 9>"$cache/lock"
}

# One start and stop that keeps the loaded classes, so that every later start takes half the time. Without it they are only slower.
keep_classes() {
    local dir=$cache/warm
    mkdir -p "$dir"
    configure "$dir"
    launch "$dir" "-XX:ArchiveClassesAtExit=$cache/classes.partial" && end_all TERM "$dir" &&
        mv -f "$cache/classes.partial" "$cache/classes.jsa"
    rm -rf "$dir"
}

prepare() {
    fetch_jars
    configure "$1"
}

# Everything the broker needs in DIR, with ports of its own.
configure() {
    local dir=$1 port controller
    port=$(free_port)
    until controller=$(free_port) && ((controller != port)); do :; done
    rm -rf "$dir/data" "$dir"/kafka.{log,out}
    cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# clients may ask for a session.timeout.ms this low
group.min.session.timeout.ms=1000
# with group.protocol=consumer the broker sets session and heartbeat
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=500
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=8388608
log.initial.task.delay.ms=500
log.retention.check.interval.ms=1000
# a broker that was killed waits until its old registration has expired; one that is starved for so long loses all leaders
broker.session.timeout.ms=${KAFKA_BROKER_SESSION_MS:-2000}
broker.heartbeat.interval.ms=500
# the scan for expired transactions
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
# room for a key of 1 MB and its value
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
PROPERTIES
    cat >"$dir/log4j2.xml" <<XML
<Configuration status="error">
  <Appenders>
    <File name="file" fileName="$dir/kafka.log">
      <PatternLayout pattern="%d{HH:mm:ss.SSS} %p %c{1} %m%n"/>
    </File>
  </Appenders>
  <Loggers><Root level="info"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
XML
    "${jvm[@]}" "-Dlog4j2.configurationFile=$dir/log4j2.xml" kafka.tools.StorageTool \
        format -t c2xhY2t3YXRlci10ZXN0cw -c "$dir/server.properties" >"$dir/kafka.out" 2>&1 </dev/null ||
        die "cannot format $dir/data: $(tail -n 5 "$dir/kafka.out")"
    echo "$port" >"$dir/kafka.port"
}

# launch DIR [FLAG]: a flag of the JVM
launch() {
    local dir=$1 flag=${2:--XX:SharedArchiveFile=$cache/classes.jsa} seen
    touch "$dir/kafka.log"
    seen=$(wc -c <"$dir/kafka.log")
    setsid "${jvm[@]}" "$flag" "-XX:ErrorFile=$dir/jvm-crash.log" \
        "-Dlog4j2.configurationFile=$dir/log4j2.xml" kafka.Kafka "$dir/server.properties" \
        >>"$dir/kafka.out" 2>&1 </dev/null 9>&- &
    await_server $! "$dir/kafka.pid" "$dir/kafka.log" serving "$dir" "$seen"
}

# serving DIR SEEN: whether its log says so, after the bytes of earlier runs
serving() {
    tail -c "+$(($2 + 1))" "$1/kafka.log" | grep 'Kafka Server started' >/dev/null && answers 127.0.0.1 "$(<"$1/kafka.port")"
}

variables() {
    echo "KAFKA_BROKERS=127.0.0.1:$(<"$1/kafka.port")"
}

serve "$@"
