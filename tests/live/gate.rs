//! `gate` on a real Kafka with the real binary: `KAFKA_BROKERS=host:port cargo test --test live gate`.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value as Json, json};

use crate::common::{Instance, Stage, brokers, wait};

const LONG: Duration = Duration::from_secs(60);

const GATED: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators: { known: { from: in, gate: { groups: [NAME-b, NAME-c] } } }
sinks: { out: { from: known, kafka: { topic: NAME.out } } }
"#;

/// Another consumer, of any client library: it commits by its own rules.
struct Group(BaseConsumer);

impl Group {
    fn new(name: &str) -> Group {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers()).set("group.id", name).set("enable.auto.commit", "false");
        Group(config.create().expect("a consumer"))
    }

    /// Commits the next offset that it will read, as a consumer that is in no generation of its group.
    fn commit(&self, topic: &str, next: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(next)).expect("an offset");
        self.0.commit(&list, CommitMode::Sync).expect("it commits");
    }
}

fn rows(n: std::ops::Range<i64>) -> impl Iterator<Item = (String, Json)> {
    n.map(|n| (n.to_string(), json!({ "n": n })))
}

fn gates(instance: &Instance) -> (u16, Json) {
    let (status, body) = instance.get("/ready");
    let body: Json = serde_json::from_str(&body).expect("JSON");
    (status, body["gates"].clone())
}

/// Long enough for several questions.
fn let_it_ask() {
    std::thread::park_timeout(Duration::from_secs(1));
}

#[test]
fn a_record_passes_when_every_group_has_committed_past_it() {
    let stage = Stage::new("gate", &[("in", 1), ("out", 1)], GATED);
    let (b, c) = (Group::new(&format!("{}-b", stage.name)), Group::new(&format!("{}-c", stage.name)));
    let topic = stage.topic("in");
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    let blocked = |group: &str| one.metric("slackwater_gate_blocked", &format!("-{group}\""));
    let out = || stage.rows("out").len();

    stage.send("in", rows(0..3));
    wait("both groups block", LONG, || blocked("b") == 1.0 && blocked("c") == 1.0);
    let (status, waits) = gates(&one);
    assert_eq!(status, 200, "it is no fault of this instance");
    let of = format!("{}-b", stage.name);
    let first = &waits[0];
    assert_eq!(
        (&first["node"], &first["offset"], &first["partition"]),
        (&json!("known"), &json!(0), &json!(0)),
        "{waits}"
    );
    assert_eq!(first["waits_for"][&of], json!("has committed nothing there"), "{waits}");

    b.commit(&topic, 3);
    c.commit(&topic, 0);
    wait("b blocks no more", LONG, || blocked("b") == 0.0 && blocked("c") == 1.0);
    let_it_ask();
    assert_eq!(out(), 0, "committed == o: it is the next that c will read");
    c.commit(&topic, 1);
    wait("the first passes", LONG, || out() == 1);
    let_it_ask();
    assert_eq!(out(), 1, "the second is at c's next offset");
    assert_eq!(one.metric("slackwater_gate_lag_records", "-c\""), 2.0);

    let committed = Instant::now();
    c.commit(&topic, 3);
    wait("all pass", LONG, || out() == 3);
    println!("passed and written {:?} after the commit", committed.elapsed());

    // Set back: what has not passed waits again. Beyond the end: no commit of this topic.
    b.commit(&topic, 0);
    c.commit(&topic, 99);
    stage.send("in", rows(3..4));
    wait("both block again", LONG, || blocked("b") == 1.0 && blocked("c") == 1.0);
    b.commit(&topic, 4);
    wait("b has come", LONG, || blocked("b") == 0.0);
    let (_, waits) = gates(&one);
    let of = format!("{}-c", stage.name);
    assert!(
        waits[0]["waits_for"][&of].as_str().is_some_and(|text| text.contains("beyond the partition's end")),
        "{waits}"
    );
    let_it_ask();
    assert_eq!(out(), 3);
    c.commit(&topic, 4);
    wait("the last passes", LONG, || out() == 4);
    wait("nothing waits", LONG, || gates(&one).1 == json!([]));
    assert_eq!(one.stop(LONG), 0);
}

const DEPENDENCY: &str = r#"
name: NAME-b
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
guarantee: exactly_once
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators: { counts: { from: in, aggregate: { count: {} } } }
sinks: { counts-out: { from: counts, kafka: { topic: NAME.counts } } }
"#;

/// The dependency commits inside transactions, is killed, and comes back: nothing passes before it, nothing is lost.
#[test]
fn a_group_that_commits_in_transactions_is_waited_for_through_a_kill() {
    let text = GATED.replace("[NAME-b, NAME-c]", "[NAME-b]");
    let stage = Stage::new("gate-dep", &[("in", 1), ("out", 1), ("counts", 1)], &text);
    let file = stage.dir.path().join("dependency.yaml");
    std::fs::write(&file, DEPENDENCY.replace("NAME", &stage.name)).unwrap();
    let dependency = |id: &str| Instance::spawn(stage.command(), &file, id, &["--instance-id", "dep"]);
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    stage.send("in", rows(0..500));
    wait("it waits", LONG, || one.metric("slackwater_gate_blocked", "-b\"") == 1.0);
    assert_eq!(stage.rows("out").len(), 0);

    let mut dep = dependency("dep");
    dep.wait_ready(LONG);
    wait("all pass", LONG, || stage.rows("out").len() == 500);
    dep.kill9();
    stage.send("in", rows(500..800));
    wait("it waits again", LONG, || one.metric("slackwater_gate_blocked", "-b\"") == 1.0);
    let_it_ask();
    assert_eq!(stage.rows("out").len(), 500);
    // The gated instance is killed too, and has forgotten what it was told.
    one.kill9();
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    let mut dep = dependency("dep");
    dep.wait_ready(LONG);
    wait("the rest passes", LONG, || stage.rows("out").len() >= 800);
    let mut seen: Vec<i64> = stage.rows("out").iter().map(|(_, row)| row["n"].as_i64().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..800).collect::<Vec<i64>>());
    assert_eq!(one.stop(LONG), 0);
    assert_eq!(dep.stop(LONG), 0);
}
