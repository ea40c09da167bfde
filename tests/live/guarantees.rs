//! What is promised about duplicates and offsets, on the real Kafka with the real binary killed under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Instance, Sent, Setup, World, wait};
use slackwater::kafka::{KafkaConfig, OutRecord, TopicPartition, TopicSpec, Writer};
use slackwater::model::{Clock, Headers, SystemClock, Timestamp};

const LONG: Duration = Duration::from_secs(60);

/// How often each key is in a topic, as a read_committed reader sees it.
fn count(world: &World, topic: &str, partitions: i32) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for (key, _) in world.read(topic, partitions).unwrap() {
        *out.entry(key).or_default() += 1;
    }
    out
}

/// A world whose topology only copies its topic to `NAME-out`.
fn copy(guarantee: &str) -> (World, String) {
    let world = World::new(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    std::fs::write(
        &world.yaml,
        format!(
            "name: {}\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\", session_timeout: 6s }}\nguarantee: {guarantee}\n\
             sources:\n  in: {{ kafka: {{ topic: {} }} }}\n\
             operators:\n  good: {{ from: in, filter: .n != 13 }}\n\
             sinks:\n  out: {{ from: good, kafka: {{ topic: {out} }} }}\n",
            world.name, world.topic
        ),
    )
    .unwrap();
    (world, out)
}

/// Sends 200 records of their own keys a time, killing the instance now and then.
fn under_fire(world: &World, rounds: usize) -> usize {
    let mut instance = Instance::start(world, "one", &["--instance-id", "one"]);
    let mut sent = 0;
    for round in 0..rounds {
        instance.wait_ready(LONG);
        for _ in 0..5 {
            let keys: Vec<String> = (sent..sent + 200).map(|n| format!("k{n}")).collect();
            sent += keys.len();
            world.change(&keys);
            std::thread::park_timeout(Duration::from_millis(150 + 60 * round as u64));
        }
        instance.kill9();
        instance = Instance::start(world, "one", &["--instance-id", "one"]);
    }
    instance.wait_ready(LONG);
    wait("everything is committed", LONG, || instance.metric("slackwater_commit_lag_records", "") == 0.0);
    wait("everything is read", LONG, || {
        let admin = world.admin();
        let all: Vec<TopicPartition> = (0..4).map(|p| TopicPartition::new(world.topic.as_str(), p)).collect();
        let ends = admin.end_offsets(&all).unwrap();
        let committed = admin.committed(&world.name, &all).unwrap();
        committed
            .iter()
            .zip(&ends)
            .all(|(c, e)| matches!(c, slackwater::kafka::GroupOffset::At(o) if o == e) || *e == 0)
    });
    assert_eq!(instance.stop(LONG), 0);
    sent
}

#[test]
fn exactly_once_to_kafka_has_no_duplicate_in_spite_of_kill_9() {
    let (world, out) = copy("exactly_once");
    let sent = under_fire(&world, 5);
    let seen = count(&world, &out, 2);
    let twice: Vec<_> = seen.iter().filter(|(_, n)| **n != 1).take(5).collect();
    assert_eq!((seen.len(), twice), (sent, vec![]), "each once");
}

#[test]
fn at_least_once_to_kafka_loses_nothing() {
    let (world, out) = copy("at_least_once");
    let sent = under_fire(&world, 3);
    let seen = count(&world, &out, 2);
    assert_eq!(seen.len(), sent, "nothing is lost");
    println!("{} of {sent} were written twice or more", seen.values().filter(|n| **n > 1).count());
}

#[test]
fn without_a_changelog_an_offset_is_committed_only_after_its_row() {
    let world = World::new(Setup {
        quiet: "3s",
        replace: vec![("errors: {", "state: { changelog: off }\nerrors: {")],
        ..Setup::default()
    });
    let all: Vec<String> = (0..200).map(|n| format!("acct-{n}")).collect();
    let mut one = Instance::start(&world, "one", &["--instance-id", "one"]);
    one.wait_ready(LONG);
    world.change(&all);
    let partitions: Vec<TopicPartition> =
        (0..4).map(|p| TopicPartition::new(world.topic.as_str(), p)).collect();
    let committed = || {
        let offsets = world.admin().committed(&world.name, &partitions).unwrap();
        offsets
            .iter()
            .map(|o| if let slackwater::kafka::GroupOffset::At(n) = o { *n } else { 0 })
            .sum::<i64>()
    };
    wait("everything is read", LONG, || one.metric("slackwater_debounce_pending_keys", "") == 200.0);
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(committed(), 0, "no row is written, so no offset is committed");
    // What waited is lost with the process, and read again.
    one.kill9();
    let mut two = Instance::start(&world, "two", &["--instance-id", "one"]);
    two.wait_ready(LONG);
    world.wait_synced(LONG);
    wait("the offsets follow the rows", LONG, || committed() == 200);
    assert_eq!(two.stop(LONG), 0);
}

/// A transaction with it would fail, be aborted and made again, for ever.
#[test]
fn a_record_too_large_for_its_topic_goes_to_the_dead_letter_and_stops_nothing() {
    let world = World::new(Setup::default());
    let (out, bad) = (format!("{}-out", world.name), format!("{}-bad", world.name));
    let small = TopicSpec::new(&out, 1).with("max.message.bytes", "20000");
    world.admin().create_topics(&[small]).unwrap();
    let yaml = format!(
        "name: {}\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\" }}\nguarantee: exactly_once\n\
         sources:\n  in: {{ kafka: {{ topic: {} }} }}\nsinks:\n  out: {{ from: in, kafka: {{ topic: {out} }} }}\n\
         errors: {{ dead_letter: {{ topic: {bad} }} }}\n",
        world.name, world.topic
    );
    std::fs::write(&world.yaml, yaml).unwrap();
    let mut one = world.start("one");
    one.wait_ready(LONG);
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    let records: [(&str, &str); 3] = [("a", "1"), ("b", &large), ("c", "3")];
    let records: Vec<Sent<'_>> =
        records.iter().map(|(k, v)| (Some(k.as_bytes()), Some(v.as_bytes()))).collect();
    world.send(&world.topic, &records);
    wait("the others are there", LONG, || count(&world, &out, 1).len() == 2);
    wait("it is in the dead letter", LONG, || count(&world, &bad, 1).len() == 1);
    assert_eq!(one.stop(LONG), 0);
    let keys = |topic: &str| count(&world, topic, 1).into_iter().collect::<Vec<_>>();
    assert_eq!(keys(&out), [("a".to_owned(), 1), ("c".to_owned(), 1)]);
    assert_eq!(keys(&bad), [("b".to_owned(), 1)]);
}

/// Compaction drops tombstones in the end: what they deleted must not come back with an old state directory.
#[test]
fn local_state_that_is_too_far_behind_is_made_anew() {
    let world = World::new(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 1)]).unwrap();
    let yaml = format!(
        "name: {}\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\" }}\nguarantee: exactly_once\n\
         sources:\n  in: {{ kafka: {{ topic: {} }} }}\noperators:\n  n: {{ from: in, aggregate: {{ count: {{}} }} }}\n\
         sinks:\n  out: {{ from: n, kafka: {{ topic: {out} }} }}\n",
        world.name, world.topic
    );
    std::fs::write(&world.yaml, yaml).unwrap();
    // Only this policy lets records be deleted by a call, as compaction would.
    let changelog = TopicSpec::new(format!("{}-in-changelog", world.name), 4);
    world.admin().create_topics(&[changelog.with("cleanup.policy", "compact,delete")]).unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let once = || {
        let before = count(&world, &out, 1).values().sum::<usize>();
        let mut one = world.start("one");
        one.wait_ready(LONG);
        let records: Vec<Sent<'_>> = keys.iter().map(|k| (Some(k.as_bytes()), Some(&b"{}"[..]))).collect();
        world.send(&world.topic, &records);
        wait("all are counted", LONG, || {
            count(&world, &out, 1).values().sum::<usize>() == before + keys.len()
        });
        let text = one.text();
        assert_eq!(one.stop(LONG), 0);
        text
    };
    once();
    // As if another owner had deleted every row of partition 0 long ago, and compaction the tombstones since.
    let admin = world.admin();
    let changelog = TopicPartition::new(format!("{}-in-changelog", world.name), 0);
    let gone = OutRecord {
        topic: Arc::clone(&changelog.topic),
        partition: Some(0),
        key: Some("a row".into()),
        value: None,
        headers: Headers::default(),
        ts: Some(Timestamp(SystemClock.now().0 - 13 * 3_600_000)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let writer = Writer::open(&KafkaConfig::new(world.brokers.clone())).unwrap();
    runtime.block_on(writer.send_all(&[gone])).unwrap();
    let end = admin.end_offsets(std::slice::from_ref(&changelog)).unwrap()[0];
    admin.delete_records(&[(changelog, end)]).unwrap();

    let text = once();
    assert_eq!(text.matches("too old to be caught up").count(), 1, "one partition of four: {text}");
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    last.extend(world.read(&out, 1).unwrap());
    let anew = last.values().filter(|n| *n == "1").count();
    let counted = last.values().filter(|n| *n == "2").count();
    assert_eq!(anew + counted, keys.len(), "{last:?}");
    assert!(anew > 0 && counted > 0, "{last:?}");
}
