//! `slackwater dlq` on a real Kafka: what is counted, shown, and sent again, each once, wherever a replay is stopped.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use slackwater::kafka::{Follower, KafkaConfig, OutRecord, TopicPartition, Writer};
use slackwater::model::{Clock, Headers, Record, SystemClock, Timestamp};

use crate::common::{Stage, brokers, text, wait};

const LONG: Duration = Duration::from_secs(60);

const SIZES: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
sources: { in: { kafka: { topic: NAME.in } } }
operators:
  sized: { from: in, map: '{ "n": .n, "size": SIZE }' }
sinks: { out: { from: sized, kafka: { topic: NAME.out } } }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

fn stage(what: &str) -> Stage {
    Stage::new(what, &[("in", 2), ("out", 1), ("dlq", 1)], &SIZES.replace("SIZE", "to_int!(.size)"))
}

/// The records of a topic as readers of committed records see them, by partition and offset.
fn records(stage: &Stage, topic: &str, partitions: i32) -> BTreeMap<(i32, i64), Record> {
    let name = stage.topic(topic);
    let all: Vec<_> = (0..partitions).map(|p| TopicPartition::new(name.as_str(), p)).collect();
    let ends = stage.admin.end_offsets(&all).expect("ends");
    let from: Vec<_> = all.iter().map(|at| (at.clone(), 0, 0)).collect();
    let mut follower = Follower::open(&KafkaConfig::new(brokers()), "reader", &from).expect("a reader");
    let mut found = Vec::new();
    wait("the topic is read", LONG, || {
        follower.poll(1000, Duration::from_millis(50), &mut found).expect("reads");
        follower.positions().zip(&ends).all(|((_, next), end)| next >= *end)
    });
    found.into_iter().map(|r| ((r.origin.partition, r.origin.offset), r)).collect()
}

/// Runs `dlq`; what it said, and whether it ended well.
fn dlq(stage: &Stage, verb: &str, more: &[&str]) -> (String, bool) {
    let output = stage.run(&["dlq", verb], "a", more);
    (text(&output), output.status.success())
}

/// Runs the topology until the dead letter holds so many records.
fn fail(stage: &Stage, letters: usize) {
    let mut instance = stage.start("a");
    instance.wait_ready(LONG);
    wait("the bad records are dead letters", LONG, || {
        stage.read("dlq").is_ok_and(|rows| rows.len() >= letters)
    });
    assert_eq!(instance.stop(LONG), 0);
}

#[test]
fn dead_letters_are_counted_shown_and_sent_again_once() {
    let stage = stage("letters");
    // A topic soon deletes what is older than its retention, by the records' own time.
    let base = SystemClock.now().0 - 60_000;
    let time = |ts: i64| Timestamp(base + ts).rfc3339();
    let record = |key: &str, value: &str, ts: i64, partition: i32| OutRecord {
        topic: stage.topic("in").into(),
        partition: Some(partition),
        key: Some(Bytes::from(key.to_owned())),
        value: Some(Bytes::from(value.to_owned())),
        headers: Headers::new([("h".to_owned(), Some(Bytes::from("x"))), ("none".to_owned(), None)]),
        ts: Some(Timestamp(base + ts)),
    };
    let sent = [
        record("good", r#"{"n": 1, "size": "7"}"#, 1000, 0),
        record("bad", r#"{"n": 2, "size": "big", "more": 1.50}"#, 2000, 1),
        record("bad", r#"{"n": 3, "size": "small"}"#, 3000, 1),
        record("torn", r#"{"n": "#, 4000, 0),
    ];
    let writer = Writer::open(&KafkaConfig::new(brokers())).expect("a writer");
    stage.runtime.block_on(writer.send_all(&sent)).expect("records are sent");
    fail(&stage, 3);

    let (said, well) = dlq(&stage, "ls", &[]);
    assert!(well, "{said}");
    for line in [
        format!("topic {}", stage.topic("dlq")),
        format!("expression  sized  2        0         {}  {}", time(2000), time(3000)),
        "not_json".to_owned(),
        "total 3".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    let (said, _) = dlq(&stage, "ls", &["--reason", "expression", "--key", "bad", "--format", "json"]);
    let rows: Json = serde_json::from_str(&said).expect("is JSON");
    assert_eq!((&rows[0]["records"], rows.as_array().map(Vec::len)), (&json!(2), Some(1)));
    let (said, well) = dlq(&stage, "ls", &["--reason", "no_such"]);
    assert!(!well && said.contains("sink_refused"), "{said}");
    let (said, _) = dlq(&stage, "show", &["--key", "bad", "--since", &time(3000)]);
    let shown: Json = serde_json::from_str(said.trim()).expect("one line of JSON");
    assert_eq!(shown["from"], json!({"topic": stage.topic("in"), "partition": 1, "offset": 1}));
    assert_eq!((&shown["node"], &shown["value"]["size"]), (&json!("sized"), &json!("small")));
    assert_eq!(shown["headers"], json!({"h": "x", "none": null}));

    let (said, well) = dlq(&stage, "replay", &["--dry-run"]);
    assert!(well && said.contains(&format!("would send 3 to {}", stage.topic("in"))), "{said}");
    assert_eq!(records(&stage, "in", 2).len(), 4, "nothing was sent");
    let (said, well) = dlq(&stage, "replay", &["--reason", "expression"]);
    assert!(well && said.contains("sent 2 to"), "{said}");
    let (said, well) = dlq(&stage, "replay", &["--node", "sized"]);
    assert!(well && said.contains("had been sent before"), "{said}");
    let now = records(&stage, "in", 2);
    // As they were, where they were.
    let again: Vec<&Record> =
        now.iter().filter(|((p, o), _)| (*p, *o > 1) == (1, true)).map(|(_, r)| r).collect();
    assert_eq!(again.len(), 2, "{now:?}");
    for (record, sent) in again.iter().zip(&sent[1..3]) {
        assert_eq!(
            (&record.key, &record.value.bytes(), record.ts),
            (&sent.key, &sent.value, sent.ts.expect("has one"))
        );
        assert_eq!(record.headers, sent.headers);
    }
    // With the file mended they go through; the topology sees them as any others.
    let mended = SIZES.replace("SIZE", "to_int(.size) ?? 0").replace("NAME", &stage.name);
    std::fs::write(&stage.yaml, mended).expect("is written");
    let mut instance = stage.start("a");
    instance.wait_ready(LONG);
    wait("the records come out", LONG, || stage.read("out").is_ok_and(|rows| rows.len() == 3));
    assert_eq!(instance.stop(LONG), 0);
    let (said, _) = dlq(&stage, "replay", &[]);
    assert!(said.contains("sent 1 to"), "the one that is no JSON: {said}");
    let (said, _) = dlq(&stage, "replay", &[]);
    assert!(said.contains("nothing to send"), "{said}");
    let (said, _) = dlq(&stage, "ls", &[]);
    assert!(said.contains("expression  sized  2        2 "), "{said}");
}

#[test]
fn a_record_that_is_gone_is_sent_only_as_the_node_had_it() {
    let stage = stage("gone");
    stage.send("in", [("a".to_owned(), json!({"n": 1, "size": "x"}))]);
    fail(&stage, 1);
    let all: Vec<_> = (0..2).map(|p| TopicPartition::new(stage.topic("in"), p)).collect();
    let ends = stage.admin.end_offsets(&all).expect("ends");
    stage.admin.delete_records(&all.iter().cloned().zip(ends).collect::<Vec<_>>()).expect("are deleted");
    let (said, well) = dlq(&stage, "replay", &[]);
    assert!(!well && said.contains("--as-refused") && said.contains("nothing to send"), "{said}");
    let (said, well) = dlq(&stage, "replay", &["--as-refused"]);
    assert!(well && said.contains("sent 1 to"), "{said}");
    let (said, _) = dlq(&stage, "replay", &["--as-refused"]);
    assert!(said.contains("nothing to send"), "{said}");
}

#[test]
fn a_replay_that_is_killed_goes_on_where_it_was() {
    const ROWS: usize = 4000;
    let stage = stage("killed-replay");
    stage.send("in", (0..ROWS).map(|n| (format!("k{n}"), json!({"n": n, "size": "x"}))));
    fail(&stage, ROWS);
    let mut times = 0;
    loop {
        let mut command = stage.command();
        command.args(["dlq", "replay"]).arg(&stage.yaml).stdout(Stdio::null()).stderr(Stdio::null());
        let mut replay = command.spawn().expect("runs");
        let before = records(&stage, "in", 2).len();
        // In the middle: after something more is there, for the first times.
        let mut ended = None;
        wait("it ends, or has sent something", LONG, || {
            ended = replay.try_wait().expect("is asked");
            ended.is_some() || times < 3 && records(&stage, "in", 2).len() > before
        });
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        replay.kill().expect("is killed");
        replay.wait().expect("is gone");
        times += 1;
    }
    assert!(times > 0, "it was never killed: the test shows nothing");
    let mut count: BTreeMap<Option<Bytes>, usize> = BTreeMap::new();
    records(&stage, "in", 2).into_values().for_each(|record| *count.entry(record.key).or_default() += 1);
    assert_eq!(count.len(), ROWS);
    assert!(count.values().all(|n| *n == 2), "each once more: {:?}", count.values().max());
}
