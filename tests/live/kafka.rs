//! The Kafka floor against a real broker: `KAFKA_BROKERS=host:port cargo test --test live kafka`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slackwater::kafka::{
    Admin, Assignment, ErrorKind, GroupEvent, GroupHandle, GroupOffset, GroupOptions, GroupReader,
    KafkaConfig, OffsetReset, OutRecord, PartitionReader, ReadError, RestoreError, TopicPartition, TopicSpec,
    TxnError, TxnWriter, WriteClass, WriteError, Writer, restore,
};
use slackwater::model::{Clock, Headers, Millis, Record, SinkRow, SystemClock, Value};
use slackwater::sinks::{Answer, Answers, KafkaLane, KafkaSinkConfig, Sink, SinkConfig};

const LONG: Duration = Duration::from_secs(30);

fn config() -> KafkaConfig {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| {
        panic!(
            "KAFKA_BROKERS is not set: start a broker with `scripts/kafka.sh start DIR` and export what it prints"
        )
    });
    let mut config = KafkaConfig::new(brokers);
    config.session_timeout = Millis::secs(6);
    config
}

fn admin() -> Admin {
    Admin::open(&config(), LONG).expect("an admin client")
}

/// A name that no other test or run has.
fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}-{n}", SystemClock.now().0, std::process::id())
}

fn topic(what: &str, partitions: i32) -> String {
    let name = unique(what);
    admin().create_topics(&[TopicSpec::new(&name, partitions)]).expect("the topic is created");
    name
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn out(topic: &str, partition: i32, key: &str, value: &str) -> OutRecord {
    OutRecord {
        topic: topic.into(),
        partition: Some(partition),
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Headers::default(),
        ts: Some(SystemClock.now()),
    }
}

/// A value that compression cannot shrink.
fn noise(bytes: usize) -> Bytes {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        all.extend_from_slice(&x.to_le_bytes());
    }
    all.truncate(bytes);
    all.into()
}

fn write(config: &KafkaConfig, records: &[OutRecord]) -> Result<(), WriteError> {
    let writer = Writer::open(config).expect("a writer");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(writer.send_all(records))
}

/// One member with all its partitions on the test's thread, as a worker would have them.
struct Member {
    reader: Option<GroupReader>,
    handle: GroupHandle,
    events: Receiver<GroupEvent>,
    partitions: BTreeMap<TopicPartition, PartitionReader>,
    records: Vec<(TopicPartition, Record)>,
    errors: Vec<ErrorKind>,
    assigned: usize,
    revoked: usize,
    generation: u64,
    idle: bool,
    closed: bool,
    /// Commit what was read when partitions go.
    commits: bool,
}

impl Member {
    fn join(config: &KafkaConfig, options: &GroupOptions) -> Member {
        let (to, events) = sync_channel(16);
        let reader = GroupReader::open(config, options, move |event| {
            // The test is over once the receiver is gone.
            drop(to.send(event));
        })
        .expect("a group reader");
        Member {
            handle: reader.handle(),
            reader: Some(reader),
            events,
            partitions: BTreeMap::new(),
            records: Vec::new(),
            errors: Vec::new(),
            assigned: 0,
            revoked: 0,
            generation: 0,
            idle: false,
            closed: false,
            commits: true,
        }
    }

    fn positions(&self) -> Vec<(TopicPartition, i64)> {
        self.partitions.iter().filter_map(|(p, r)| Some((p.clone(), r.next_offset()?))).collect()
    }

    /// One event, or 5 ms, then one round over the partitions.
    fn step(&mut self) {
        match self.events.recv_timeout(Duration::from_millis(5)) {
            Err(RecvTimeoutError::Disconnected) => self.closed = true,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(GroupEvent::Assigned { generation, partitions }) => {
                assert!(generation > self.generation, "generations count up");
                self.generation = generation;
                self.assigned += partitions.len();
                self.idle = false;
                self.partitions.extend(partitions);
            }
            Ok(GroupEvent::Revoked { partitions, lost, done }) => {
                self.revoked += partitions.len();
                let gone: Vec<_> = partitions
                    .iter()
                    .map(|p| {
                        (p.clone(), self.partitions.remove(p).expect("only what was assigned is revoked"))
                    })
                    .collect();
                let offsets: Vec<_> =
                    gone.iter().filter_map(|(p, r)| Some((p.clone(), r.next_offset()?))).collect();
                if self.commits && !lost {
                    self.handle.commit(&offsets).expect("the commit in a revoke");
                }
                drop(gone);
                done.send(()).expect("the poller waits");
            }
            Ok(GroupEvent::Idle) => self.idle = true,
            Ok(GroupEvent::Waiting(_)) => {}
            Ok(GroupEvent::Error(error)) => self.errors.push(error.kind),
            Ok(GroupEvent::Closed) => self.closed = true,
        }
        let mut batch = Vec::new();
        for (partition, reader) in &mut self.partitions {
            reader.poll_batch(256, &mut batch).expect("a poll");
            self.records.extend(batch.drain(..).map(|record| (partition.clone(), record)));
        }
    }

    fn caught_up(&self, partitions: usize) -> bool {
        self.partitions.len() == partitions && self.partitions.values().all(PartitionReader::caught_up)
    }

    /// Leaves the group, answering the last revoke.
    fn leave(&mut self) {
        self.reader.as_ref().expect("still in").stop();
        until("the member has left", &mut [self], |m| m[0].closed);
        self.reader.take().expect("still in").close();
    }
}

/// Runs members until `done`, or fails after 30 s.
fn until(what: &str, members: &mut [&mut Member], mut done: impl FnMut(&mut [&mut Member]) -> bool) {
    let deadline = Instant::now() + LONG;
    while !done(members) {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        for member in members.iter_mut() {
            member.step();
        }
    }
}

/// Everything `read_committed` sees of a partition.
fn rows(topic: &str, partition: i32) -> Vec<(Bytes, Option<Bytes>)> {
    let p = tp(topic, partition);
    let end = admin().end_offsets(std::slice::from_ref(&p)).expect("the end")[0];
    let start = admin().start_offsets(std::slice::from_ref(&p)).expect("the start")[0];
    let mut all = Vec::new();
    let next = restore(&config(), "rows", &p, start, end, |rows, _, _| {
        all.extend_from_slice(rows);
        ControlFlow::Continue(())
    })
    .expect("the rows");
    assert!(next >= end);
    all
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let name = unique("whole");
    admin().create_topics(&[TopicSpec::new(&name, 1).with("max.message.bytes", "8388608")]).unwrap();
    let big = noise(1_000_000);
    let sent = [
        OutRecord {
            headers: Headers::new(vec![
                ("a".into(), Some(Bytes::from_static(b"1"))),
                ("a".into(), Some(Bytes::from_static(b"2"))),
                ("empty".into(), Some(Bytes::new())),
                ("null".into(), None),
            ]),
            ts: Some(SystemClock.now().minus(Millis(1_234))),
            ..out(&name, 0, "k", "v")
        },
        OutRecord { key: None, ..out(&name, 0, "", "no key") },
        OutRecord { value: None, ..out(&name, 0, "tombstone", "") },
        OutRecord { key: Some(Bytes::new()), value: Some(Bytes::new()), ..out(&name, 0, "", "") },
        OutRecord { key: Some(big.clone()), value: Some(big.clone()), ..out(&name, 0, "", "") },
    ];
    write(&config(), &sent).unwrap();

    let mut member = Member::join(&config(), &GroupOptions::new(unique("g"), &["not-this-one", &name]));
    until("all read", &mut [&mut member], |m| m[0].records.len() == sent.len() && m[0].caught_up(1));
    for (offset, ((partition, got), sent)) in member.records.iter().zip(&sent).enumerate() {
        assert_eq!(*partition, tp(&name, 0));
        assert_eq!(got.key, sent.key);
        assert_eq!(got.value, sent.value.clone().map_or(Value::Null, Value::Bytes));
        assert_eq!(got.headers, sent.headers);
        assert_eq!(Some(got.ts), sent.ts);
        assert_eq!((got.origin.topic, got.origin.partition), (1, 0));
        assert_eq!(got.origin.offset, i64::try_from(offset).unwrap());
    }
    assert_eq!(member.positions(), [(tp(&name, 0), 5)]);
    member.leave();
}

#[test]
fn the_end_of_a_partition_is_seen_and_left() {
    let name = topic("eof", 2);
    let mut member = Member::join(&config(), &GroupOptions::new(unique("g"), &[&name]));
    until("both empty partitions caught up", &mut [&mut member], |m| m[0].caught_up(2));
    assert_eq!(member.partitions[&tp(&name, 0)].start_offset(), None);
    write(&config(), &[out(&name, 0, "a", "1"), out(&name, 0, "a", "2")]).unwrap();
    until("read, and caught up again", &mut [&mut member], |m| m[0].records.len() == 2 && m[0].caught_up(2));

    // Rewind, twice at once: only the last counts.
    let reader = member.partitions.get_mut(&tp(&name, 0)).unwrap();
    reader.seek(0).unwrap();
    assert!(!reader.caught_up());
    reader.seek(1).unwrap();
    until("the second record again", &mut [&mut member], |m| m[0].caught_up(2));
    let offsets: Vec<_> = member.records.iter().map(|(_, r)| r.origin.offset).collect();
    assert_eq!(offsets, [0, 1, 1]);
    member.leave();
}

#[test]
fn commits_of_a_group_are_seen_from_outside() {
    let name = topic("committed", 3);
    let group = unique("g");
    let admin = admin();
    let all: Vec<_> = (0..3).map(|p| tp(&name, p)).collect();
    assert_eq!(admin.committed(&group, &all).unwrap(), [GroupOffset::None; 3], "an unknown group");
    assert_eq!(admin.all_committed(&group).unwrap(), []);

    write(&config(), &[out(&name, 1, "a", "1"), out(&name, 1, "a", "2"), out(&name, 2, "a", "3")]).unwrap();
    let mut member = Member::join(&config(), &GroupOptions::new(&group, &[&name]));
    until("read", &mut [&mut member], |m| m[0].records.len() == 3);
    member.handle.commit(&[(tp(&name, 1), 2)]).unwrap();
    member.handle.commit(&[]).unwrap();
    member.handle.commit(&[(tp(&name, 2), 1)]).unwrap();
    let expected = [GroupOffset::None, GroupOffset::At(2), GroupOffset::At(1)];
    assert_eq!(admin.committed(&group, &all).unwrap(), expected);
    assert_eq!(
        admin.all_committed(&group).unwrap(),
        [(tp(&name, 1), GroupOffset::At(2)), (tp(&name, 2), GroupOffset::At(1))]
    );
    assert!(admin.delete_group(&group).is_err(), "a group with members is not deleted");
    member.commits = false;
    member.leave();
    assert!(member.handle.group_metadata().is_none());
    let late = member.handle.commit(&[(tp(&name, 1), 0)]).unwrap_err();
    assert!(late.rebalanced && !late.retriable, "{late}");

    write(&config(), &[out(&name, 1, "a", "4")]).unwrap();
    let mut member = Member::join(&config(), &GroupOptions::new(&group, &[&name]));
    until("assigned", &mut [&mut member], |m| m[0].partitions.len() == 3);
    let starts: Vec<_> = member.partitions.values().map(PartitionReader::start_offset).collect();
    assert_eq!(starts, [None, Some(2), Some(1)]);
    until("from there", &mut [&mut member], |m| m[0].caught_up(3));
    assert_eq!(member.records.len(), 1);
    member.commits = false;
    member.leave();
    admin.delete_group(&group).unwrap();
    admin.delete_group(&group).unwrap();
    assert_eq!(admin.committed(&group, &all).unwrap(), [GroupOffset::None; 3]);
}

#[test]
fn latest_starts_at_the_end() {
    let name = topic("latest", 1);
    write(&config(), &[out(&name, 0, "a", "old")]).unwrap();
    let options =
        GroupOptions { offset_reset: OffsetReset::Latest, ..GroupOptions::new(unique("g"), &[&name]) };
    let mut member = Member::join(&config(), &options);
    until("caught up", &mut [&mut member], |m| m[0].caught_up(1));
    assert_eq!(member.positions(), [], "no commit, nothing read: nothing to commit");
    write(&config(), &[out(&name, 0, "a", "new")]).unwrap();
    until("the new one", &mut [&mut member], |m| m[0].records.len() == 1);
    assert_eq!(member.records[0].1.origin.offset, 1);
    member.leave();
}

#[test]
fn members_come_and_go_without_loss_or_gap() {
    const PARTITIONS: i32 = 6;
    const PER_PARTITION: i64 = 1_500;
    let name = topic("rebalance", PARTITIONS);
    let options = GroupOptions::new(unique("g"), &[&name]);
    let producer = std::thread::spawn({
        let name = name.clone();
        move || {
            let writer = Writer::open(&config()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                for round in 0..PER_PARTITION / 10 {
                    let batch: Vec<_> = (0..PARTITIONS)
                        .flat_map(|p| (0..10).map(move |i| (p, round * 10 + i)))
                        .map(|(p, n)| out(&name, p, &p.to_string(), &n.to_string()))
                        .collect();
                    writer.send_all(&batch).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            });
        }
    });
    let mut a = Member::join(&config(), &options);
    until("a has all", &mut [&mut a], |m| m[0].partitions.len() == 6 && m[0].records.len() > 300);
    let mut b = Member::join(&config(), &options);
    until("b has half", &mut [&mut a, &mut b], |m| m.iter().all(|m| m.partitions.len() == 3));
    assert_eq!(a.revoked, 3, "what stays is not revoked");
    until("b has read", &mut [&mut a, &mut b], |m| m[1].records.len() > 300);
    let mut c = Member::join(&config(), &options);
    until("each has two", &mut [&mut a, &mut b, &mut c], |m| m.iter().all(|m| m.partitions.len() == 2));
    // b goes while a and c go on.
    b.reader.as_ref().unwrap().stop();
    until("b is gone, the others have all", &mut [&mut a, &mut b, &mut c], |m| {
        m[1].closed && m[0].partitions.len() + m[2].partitions.len() == 6
    });
    let all = usize::try_from(i64::from(PARTITIONS) * PER_PARTITION).unwrap();
    until("all read", &mut [&mut a, &mut c], |m| {
        m[0].records.len() + m[1].records.len() + b.records.len() >= all
    });
    producer.join().unwrap();
    until("caught up", &mut [&mut a, &mut c], |m| {
        m.iter().all(|m| m.partitions.values().all(PartitionReader::caught_up))
    });

    let mut seen: BTreeMap<TopicPartition, Vec<i64>> = BTreeMap::new();
    for member in [&a, &b, &c] {
        let mut last: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        for (p, record) in &member.records {
            let offset = record.origin.offset;
            assert!(last.insert(p, offset).is_none_or(|before| before < offset), "{p} went back");
            assert_eq!(record.value, Value::Bytes(offset.to_string().into()));
            seen.entry(p.clone()).or_default().push(offset);
        }
    }
    for (p, mut offsets) in seen {
        offsets.sort_unstable();
        assert_eq!(offsets, (0..PER_PARTITION).collect::<Vec<_>>(), "{p}: each record once");
    }
    a.leave();
    c.leave();
}

#[test]
fn range_gives_equal_partitions_of_all_topics_to_one_member() {
    let (left, right) = (topic("left", 4), topic("right", 4));
    let options =
        GroupOptions { assignment: Assignment::Range, ..GroupOptions::new(unique("g"), &[&left, &right]) };
    let mut a = Member::join(&config(), &options);
    until("a has all", &mut [&mut a], |m| m[0].partitions.len() == 8);
    let mut b = Member::join(&config(), &options);
    until("b has half", &mut [&mut a, &mut b], |m| m.iter().all(|m| m.partitions.len() == 4));
    assert_eq!(a.revoked, 8, "an eager rebalance revokes all");
    for member in [&a, &b] {
        let of = |t: &str| -> Vec<i32> {
            member.partitions.keys().filter(|p| &*p.topic == t).map(|p| p.partition).collect()
        };
        assert_eq!(of(&left), of(&right));
    }
    a.leave();
    b.leave();
}

#[test]
fn a_member_too_many_is_idle() {
    let name = topic("idle", 1);
    let options = GroupOptions::new(unique("g"), &[&name]);
    let mut a = Member::join(&config(), &options);
    until("a has it", &mut [&mut a], |m| m[0].partitions.len() == 1);
    let mut b = Member::join(&config(), &options);
    until("one is idle", &mut [&mut a, &mut b], |m| m[1].idle || m[0].partitions.is_empty());
    a.leave();
    b.leave();
}

/// Of the classic protocol and of KIP-848's.
#[test]
fn members_name_their_addresses_and_the_group_says_who_has_what() {
    let name = topic("members", 4);
    for protocol in ["classic", "consumer"] {
        let options = GroupOptions::new(unique("g"), &[&name]);
        let at = |address: &str| {
            let mut config = KafkaConfig { advertised: Some(address.to_owned()), ..config() };
            config.properties.insert("group.protocol".into(), protocol.into());
            config
        };
        let seen = || {
            let mut members = admin().assignments(&options.group).unwrap();
            members.sort_by_key(slackwater::kafka::Member::address);
            members
        };
        assert_eq!(seen(), [], "{protocol}: no group yet");
        let mut a = Member::join(&at("10.1.1.1:9464"), &options);
        let mut b = Member::join(&at("0.0.0.0:9465"), &options);
        until("half each", &mut [&mut a, &mut b], |m| m.iter().all(|m| m.partitions.len() == 2));
        // Stable means that both have heard of it; the broker may not have heard back from both.
        until("the broker knows it", &mut [&mut a, &mut b], |_| {
            seen().iter().all(|member| member.partitions.len() == 2)
        });
        let members = seen();
        let addresses: Vec<Option<String>> = members.iter().map(|member| member.address()).collect();
        let host = members[1].host.clone();
        assert_eq!(addresses, [Some("10.1.1.1:9464".into()), Some(format!("{host}:9465"))], "{members:?}");
        for (member, seen) in [&a, &b].into_iter().zip(&members) {
            let mut theirs = seen.partitions.clone();
            theirs.sort();
            assert_eq!(theirs, member.partitions.keys().cloned().collect::<Vec<_>>(), "{protocol}");
        }
        a.leave();
        until("b has all", &mut [&mut b], |m| m[0].partitions.len() == 4);
        until("the broker knows it", &mut [&mut b], |_| {
            let members = seen();
            members.len() == 1 && members[0].partitions.len() == 4
        });
        b.leave();
    }
}

#[test]
fn a_static_member_comes_back_without_disturbing_the_others() {
    let name = topic("static", 4);
    let options = GroupOptions::new(unique("g"), &[&name]);
    let named = |id: &str| KafkaConfig { group_instance_id: Some(id.to_owned()), ..config() };
    let mut a = Member::join(&named("a"), &options);
    until("a has all", &mut [&mut a], |m| m[0].partitions.len() == 4);
    let mut b = Member::join(&named("b"), &options);
    until("half each", &mut [&mut a, &mut b], |m| m.iter().all(|m| m.partitions.len() == 2));
    let before: Vec<_> = b.partitions.keys().cloned().collect();
    let (assigned, revoked) = (a.assigned, a.revoked);
    b.leave();
    let mut b = Member::join(&named("b"), &options);
    until("b is back", &mut [&mut a, &mut b], |m| m[1].partitions.len() == 2);
    assert_eq!(b.partitions.keys().cloned().collect::<Vec<_>>(), before);
    assert_eq!((a.assigned, a.revoked), (assigned, revoked), "a was not disturbed");

    // A second process with the same name: the first one's client is over.
    let mut thief = Member::join(&named("b"), &options);
    until("b is fenced", &mut [&mut a, &mut b, &mut thief], |m| m[1].errors.contains(&ErrorKind::Fatal));
    for m in [&mut b, &mut thief, &mut a] {
        m.commits = false;
        m.leave();
    }
}

#[test]
fn a_reader_that_is_kept_after_the_revoke_says_so() {
    let name = topic("kept", 1);
    let (to, events) = sync_channel(16);
    let options = GroupOptions {
        revoke_deadline: Duration::from_millis(200),
        ..GroupOptions::new(unique("g"), &[&name])
    };
    let reader = GroupReader::open(&config(), &options, move |e| drop(to.send(e))).unwrap();
    let Ok(GroupEvent::Assigned { mut partitions, .. }) = events.recv_timeout(LONG) else {
        panic!("assigned first")
    };
    // The revoke is not answered and the partition's reader lives on: both deadlines pass, nothing hangs.
    reader.close();
    let (_, mut kept) = partitions.pop().unwrap();
    assert_eq!(kept.poll_batch(1, &mut Vec::new()), Err(ReadError::Revoked));
    assert_eq!(kept.seek(0), Err(ReadError::Revoked));
    drop(kept);
    assert!(matches!(events.recv_timeout(LONG), Ok(GroupEvent::Revoked { lost: false, .. })));
    assert!(matches!(events.recv_timeout(LONG), Ok(GroupEvent::Closed)));
}

#[test]
fn a_missing_topic_is_named_until_it_exists() {
    let name = unique("missing");
    let there = topic("there", 1);
    let mut member = Member::join(&config(), &GroupOptions::new(unique("g"), &[&name, &there]));
    let unknown = ErrorKind::UnknownTopic(name.clone());
    until("named twice", &mut [&mut member], |m| m[0].errors.iter().filter(|k| **k == unknown).count() >= 2);
    assert_eq!(member.errors.iter().filter(|k| **k != unknown).count(), 0, "{:?}", member.errors);
    assert_eq!(admin().topics(&[&name, &there]).unwrap(), [(name.clone(), None), (there.clone(), Some(1))]);
    admin().create_topics(&[TopicSpec::new(&name, 2)]).unwrap();
    write(&config(), &[out(&name, 1, "a", "1")]).unwrap();
    until("it works", &mut [&mut member], |m| m[0].partitions.len() == 3 && m[0].records.len() == 1);
    member.leave();
    admin().delete_topics(&[&name]).unwrap();
    admin().delete_topics(&[&name]).unwrap();
}

#[test]
fn no_broker_is_an_error_of_transport() {
    let mut nowhere = config();
    nowhere.brokers = "127.0.0.1:1".into();
    let mut member = Member::join(&nowhere, &GroupOptions::new("g", &["t"]));
    until("transport error", &mut [&mut member], |m| m[0].errors.contains(&ErrorKind::Transport));
    assert!(!member.errors.contains(&ErrorKind::Fatal));
    member.leave();
    let error = Admin::open(&nowhere, Duration::from_millis(500)).unwrap().brokers().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transport, "{error}");
}

#[test]
fn a_writer_says_which_record_failed_and_what_to_do() {
    let name = unique("classes");
    admin().create_topics(&[TopicSpec::new(&name, 1).with("max.message.bytes", "1048588")]).unwrap();
    let big = OutRecord { value: Some(noise(1_500_000)), ..out(&name, 0, "big", "") };
    let huge = OutRecord { value: Some(noise(9_000_000)), ..out(&name, 0, "huge", "") };
    let ok = |n: &str| out(&name, 0, n, n);
    let missing = out(&unique("nowhere"), 0, "a", "1");
    let check = |records: &[OutRecord], index: usize, class: WriteClass| {
        let error = write(&config(), records).unwrap_err();
        assert_eq!((error.index, error.class), (index, class), "{error}");
    };
    check(&[ok("a"), big.clone(), ok("b")], 1, WriteClass::Refused);
    check(std::slice::from_ref(&big), 0, WriteClass::Refused);
    check(&[ok("c"), ok("d"), huge, ok("behind")], 2, WriteClass::Refused);
    check(&[ok("e"), missing], 1, WriteClass::UnknownTopic);
    check(&[OutRecord { partition: Some(7), ..ok("f") }], 0, WriteClass::UnknownTopic);
    let mut nowhere = config();
    nowhere.brokers = "127.0.0.1:1".into();
    nowhere.properties.insert("message.timeout.ms".into(), "500".into());
    let error = write(&nowhere, &[ok("g")]).unwrap_err();
    assert_eq!((error.index, error.class), (0, WriteClass::Retry), "{error}");
    write(&config(), &[]).unwrap();

    let keys: Vec<_> =
        rows(&name, 0).into_iter().map(|(k, _)| String::from_utf8_lossy(&k).into_owned()).collect();
    for written in ["a", "c", "d", "e"] {
        assert!(keys.iter().any(|k| k == written), "{written} stands before the failed record: {keys:?}");
    }
    assert!(keys.iter().any(|k| k == "behind"), "a refused record holds nothing up");
    for refused in ["big", "huge"] {
        assert!(!keys.iter().any(|k| k == refused), "{refused}");
    }
}

/// Rows to a topic through a sink with a lane for each of `lanes`, all at once: key and size of each row, `!` behind those that
/// are refused.
fn deliver(name: &str, lanes: &[&str]) {
    let config_of = KafkaSinkConfig::new(name);
    let sink = SinkConfig::Kafka(config_of.clone());
    let writer = Arc::new(Writer::open(&config()).expect("a writer"));
    let numbers = AtomicU64::new(0);
    let send = |rows: &str| {
        let lane_rows: Vec<SinkRow> = rows
            .split(' ')
            .map(|row| {
                let (key, bytes) = row.trim_end_matches('!').split_once(':').expect("key:bytes");
                let mut value = format!("{} ", numbers.fetch_add(1, Ordering::Relaxed)).into_bytes();
                value.extend_from_slice(&noise(bytes.parse().expect("bytes")));
                let record = Record::new(key.to_owned(), Value::Bytes(value.into()), SystemClock.now());
                SinkRow { reply_to: None, payload: sink.payload(&record).expect("a payload"), record }
            })
            .collect();
        let mut lane = KafkaLane::new(Arc::clone(&writer), name);
        async move {
            let mut answers = Answers::new(lane_rows.len());
            lane.deliver(&lane_rows, &mut answers).await.expect("is not in doubt");
            answers.into_vec()
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let all = runtime.block_on(futures_util::future::join_all(lanes.iter().map(|rows| send(rows))));
    for (rows, answers) in lanes.iter().zip(&all) {
        for (n, (row, answer)) in rows.split(' ').zip(answers).enumerate() {
            match row.ends_with('!') {
                true => {
                    assert!(
                        matches!(answer, Some(Answer::Refused(why)) if why.contains(name)),
                        "{rows}: {n}: {answer:?}"
                    )
                }
                false => assert_eq!(*answer, Some(Answer::Written), "{rows}: {n}"),
            }
        }
    }
}

/// The numbers that [`deliver`] gave the rows in the topic, as they stand there.
fn delivered(name: &str) -> String {
    let number = |value: Option<Bytes>| {
        let value = value.expect("a value");
        let end = value.iter().position(|b| *b == b' ').expect("a number");
        String::from_utf8_lossy(&value[..end]).into_owned()
    };
    rows(name, 0).into_iter().map(|(_, value)| number(value)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_refused_row_makes_no_other_row_be_written_twice() {
    let check = |rows: &str, expected: &str| {
        let name = unique("refused");
        admin().create_topics(&[TopicSpec::new(&name, 1).with("max.message.bytes", "100000")]).unwrap();
        deliver(&name, &[rows]);
        assert_eq!(delivered(&name), expected, "{rows}");
    };
    // The broker refuses what is larger than its topic takes, librdkafka itself what is larger than a request may be.
    check("a:100 a:200000! a:100 b:100", "0 2 3");
    check("a:100 b:9000000! a:100 b:100", "0 2 3");
    check("a:200000! b:100 c:200000! b:100 a:9000000! d:100", "1 3 5");
    check("a:200000! a:10", "1");
    // Each of these fits, and a request of all of them does not.
    check("a:60000 b:60000 c:60000 d:60000", "0 1 2 3");
}

/// Lanes share a producer, and their rows a produce request, which is refused as one.
#[test]
fn a_row_is_not_refused_for_one_of_another_lane() {
    let name = unique("lanes");
    admin().create_topics(&[TopicSpec::new(&name, 1).with("max.message.bytes", "100000")]).unwrap();
    deliver(&name, &["a:100", "b:200000!", "c:100", "d:200000! d:100"]);
    let mut written: Vec<String> = delivered(&name).split(' ').map(str::to_owned).collect();
    written.sort_unstable();
    assert_eq!(written, ["0", "2", "4"], "each once");
}

#[test]
fn a_full_queue_is_waited_for_and_keeps_order() {
    let name = topic("full", 1);
    let mut small = config();
    small.properties.insert("queue.buffering.max.messages".into(), "100".into());
    let records: Vec<_> = (0..5_000).map(|n| out(&name, 0, "k", &n.to_string())).collect();
    write(&small, &records).unwrap();
    let values: Vec<_> = rows(&name, 0).into_iter().filter_map(|(_, v)| v).collect();
    let sent: Vec<_> = records.into_iter().filter_map(|r| r.value).collect();
    assert!(values == sent, "{} of {} rows, or in another order", values.len(), sent.len());
}

#[test]
fn keys_go_where_java_puts_them() {
    let name = topic("murmur", 8);
    let of = |key: &str| OutRecord { partition: None, ..out(&name, 0, key, key) };
    write(&config(), &[of("a"), of("foo"), of("user-1"), of("user-2")]).unwrap();
    for (key, partition) in [("a", 4), ("foo", 0), ("user-1", 4), ("user-2", 0)] {
        assert!(rows(&name, partition).iter().any(|(k, _)| k == key), "{key} in partition {partition}");
    }
}

#[test]
fn a_transaction_moves_records_and_offsets_together() {
    let (source, target) = (topic("source", 1), unique("target"));
    let spec = TopicSpec::new(&target, 2).with("max.message.bytes", "1048588");
    admin().create_topics(&[spec]).unwrap();
    let group = unique("g");
    let admin = admin();
    let from = [tp(&source, 0)];
    let to = [tp(&target, 0), tp(&target, 1)];
    let input: Vec<_> = (0..10).map(|n| out(&source, 0, "k", &n.to_string())).collect();
    write(&config(), &input).unwrap();
    let mut member = Member::join(&config(), &GroupOptions::new(&group, &[&source]));
    until("read", &mut [&mut member], |m| m[0].records.len() == 10);

    let mut writer = TxnWriter::open(&config(), &unique("txn"), LONG).unwrap();
    writer.begin().unwrap();
    for n in 0..10 {
        writer.send(&out(&target, i32::from(n >= 7), "k", &n.to_string())).unwrap();
    }
    writer.flush(LONG).unwrap();
    assert_eq!(admin.end_offsets(&to).unwrap(), [0, 0], "nothing is visible before the commit");
    let metadata = member.handle.group_metadata().unwrap();
    let started = Instant::now();
    let committed = writer.commit(&[(tp(&source, 0), 10)], Some(&metadata), LONG).unwrap();
    println!("commit after a flush: {:?}", started.elapsed());
    assert_eq!(committed.ends, [(tp(&target, 0), 7), (tp(&target, 1), 3)]);
    // The broker shows it a moment after the commit has returned.
    until("offsets are visible", &mut [&mut member], |_| {
        admin.committed(&group, &from).unwrap() == [GroupOffset::At(10)]
    });
    until("records are visible", &mut [&mut member], |_| admin.end_offsets(&to).unwrap() == [8, 4]);
    assert_eq!(rows(&target, 0).len(), 7);
    assert_eq!(rows(&target, 1).len(), 3);

    // Aborted: neither records nor offsets.
    writer.begin().unwrap();
    writer.send(&out(&target, 0, "k", "aborted")).unwrap();
    writer.flush(LONG).unwrap();
    writer.abort(LONG).unwrap();
    writer.abort(LONG).unwrap();
    until("the abort is visible", &mut [&mut member], |_| admin.end_offsets(&to).unwrap() == [10, 4]);
    assert_eq!(rows(&target, 0).len(), 7);
    assert_eq!(admin.committed(&group, &from).unwrap(), [GroupOffset::At(10)]);

    // Offsets only, and an empty transaction.
    writer.begin().unwrap();
    let metadata = member.handle.group_metadata().unwrap();
    assert_eq!(writer.commit(&[(tp(&source, 0), 9)], Some(&metadata), LONG).unwrap().ends, []);
    until("9", &mut [&mut member], |_| admin.committed(&group, &from).unwrap() == [GroupOffset::At(9)]);
    writer.begin().unwrap();
    writer.commit(&[], None, LONG).unwrap();

    // A record that is refused: the commit says abort, and after it all is well.
    writer.begin().unwrap();
    writer.send(&out(&target, 0, "k", "goes with it")).unwrap();
    writer.send(&OutRecord { value: Some(noise(1_500_000)), ..out(&target, 0, "big", "") }).unwrap();
    assert!(matches!(writer.commit(&[], None, LONG), Err(TxnError::TooLarge(_))));
    writer.abort(LONG).unwrap();
    writer.begin().unwrap();
    writer.send(&out(&target, 1, "k", "after")).unwrap();
    writer.commit(&[], None, LONG).unwrap();
    assert_eq!(rows(&target, 0).len(), 7);
    until("the last one", &mut [&mut member], |_| rows(&target, 1).len() == 4);

    // The end of a transactional topic is behind the last marker, and the reader says so.
    let mut reader = Member::join(&config(), &GroupOptions::new(unique("g"), &[&target]));
    until("caught up", &mut [&mut reader], |m| m[0].caught_up(2));
    assert_eq!(reader.records.len(), 11);
    let ends = admin.end_offsets(&to).unwrap();
    assert_eq!(reader.positions(), [(to[0].clone(), ends[0]), (to[1].clone(), ends[1])]);
    reader.leave();
    member.commits = false;
    member.leave();
}

#[test]
fn a_commit_of_an_old_generation_is_aborted() {
    let name = topic("generation", 2);
    let target = topic("target", 1);
    let options = GroupOptions::new(unique("g"), &[&name]);
    let mut a = Member::join(&config(), &options);
    a.commits = false;
    until("a has all", &mut [&mut a], |m| m[0].partitions.len() == 2);
    let old = a.handle.group_metadata().unwrap();
    let mut b = Member::join(&config(), &options);
    b.commits = false;
    until("one each", &mut [&mut a, &mut b], |m| m.iter().all(|m| m.partitions.len() == 1));
    let mut writer = TxnWriter::open(&config(), &unique("txn"), LONG).unwrap();
    writer.begin().unwrap();
    writer.send(&out(&target, 0, "k", "zombie")).unwrap();
    let offsets: Vec<_> = a.partitions.keys().map(|p| (p.clone(), 0)).collect();
    let error = writer.commit(&offsets, Some(&old), LONG).unwrap_err();
    assert!(matches!(error, TxnError::Abort(_)), "{error:?}");
    writer.abort(LONG).unwrap();
    // A cooperative join is two rebalances: the generation may rise once more.
    until("the next transaction", &mut [&mut a, &mut b], |m| {
        writer.begin().unwrap();
        writer.send(&out(&target, 0, "k", "fresh")).unwrap();
        match writer.commit(&offsets, m[0].handle.group_metadata().as_ref(), LONG) {
            Ok(_) => true,
            Err(TxnError::Abort(_)) => {
                writer.abort(LONG).unwrap();
                false
            }
            Err(other) => panic!("{other}"),
        }
    });
    until("visible", &mut [&mut a, &mut b], |_| rows(&target, 0).len() == 1);
    a.leave();
    b.leave();
}

#[test]
fn the_older_owner_of_a_transactional_id_is_fenced() {
    let name = topic("fenced", 1);
    let id = unique("txn");
    let mut old = TxnWriter::open(&config(), &id, LONG).unwrap();
    old.begin().unwrap();
    old.send(&out(&name, 0, "k", "old")).unwrap();
    old.flush(LONG).unwrap();
    // Taking the id aborts what the old owner left open.
    let mut new = TxnWriter::open(&config(), &id, LONG).unwrap();
    let error = old.commit(&[], None, LONG).unwrap_err();
    assert!(matches!(error, TxnError::Fenced(_)), "{error:?}");
    let error = old.abort(LONG).unwrap_err();
    assert!(matches!(error, TxnError::Fenced(_)), "{error:?}");
    new.begin().unwrap();
    new.send(&out(&name, 0, "k", "new")).unwrap();
    new.commit(&[], None, LONG).unwrap();
    let deadline = Instant::now() + LONG;
    while rows(&name, 0).is_empty() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(rows(&name, 0), [(Bytes::from_static(b"k"), Some(Bytes::from_static(b"new")))]);

    // Idle, then fenced: begin and send go through, the commit does not.
    let mut newest = TxnWriter::open(&config(), &id, LONG).unwrap();
    new.begin().unwrap();
    new.send(&out(&name, 0, "k", "zombie")).unwrap();
    let error = new.commit(&[], None, LONG).unwrap_err();
    assert!(matches!(error, TxnError::Fenced(_)), "{error:?}");
    newest.begin().unwrap();
    newest.commit(&[], None, LONG).unwrap();
}

#[test]
fn a_transaction_that_is_open_too_long_is_fenced_and_a_new_writer_goes_on() {
    let name = topic("slow", 1);
    let id = unique("txn");
    let impatient = KafkaConfig { transaction_timeout: Millis::secs(1), ..config() };
    let mut writer = TxnWriter::open(&impatient, &id, LONG).unwrap();
    writer.begin().unwrap();
    writer.send(&out(&name, 0, "k", "slow")).unwrap();
    writer.flush(LONG).unwrap();
    let (admin, deadline) = (admin(), Instant::now() + LONG);
    while admin.end_offsets(&[tp(&name, 0)]).unwrap() == [0] {
        assert!(Instant::now() < deadline, "the broker aborts it");
    }
    let error = writer.commit(&[], None, LONG).unwrap_err();
    assert!(matches!(error, TxnError::Fenced(_)), "{error:?}");
    drop(writer);
    let mut writer = TxnWriter::open(&impatient, &id, LONG).unwrap();
    writer.begin().unwrap();
    writer.send(&out(&name, 0, "k", "again")).unwrap();
    writer.commit(&[], None, LONG).unwrap();
}

#[test]
fn a_compacted_transactional_changelog_is_restored_to_the_same_map() {
    let name = unique("changelog");
    let admin = admin();
    let spec = TopicSpec::new(&name, 1)
        .with("cleanup.policy", "compact")
        .with("segment.ms", "300")
        .with("min.cleanable.dirty.ratio", "0");
    admin.create_topics(std::slice::from_ref(&spec)).unwrap();
    admin.create_topics(&[spec]).unwrap();
    let p = tp(&name, 0);
    let end = || admin.end_offsets(std::slice::from_ref(&p)).unwrap()[0];
    let read = |from: i64, end: i64, map: &mut BTreeMap<Bytes, Bytes>| {
        let mut last = from;
        restore(&config(), "restore", &p, from, end, |rows, next, progress| {
            assert!(next >= last && progress.next == next && progress.end == end);
            last = next;
            for (key, value) in rows {
                match value {
                    Some(value) => drop(map.insert(key.clone(), value.clone())),
                    None => drop(map.remove(key)),
                }
            }
            ControlFlow::Continue(())
        })
    };
    let mut expected = BTreeMap::new();
    let mut halfway = (0, BTreeMap::new());
    let mut writer = TxnWriter::open(&config(), &unique("txn"), LONG).unwrap();
    let mut behind = 0;
    for round in 0..60 {
        let aborts = round % 7 == 3;
        writer.begin().unwrap();
        for i in 0..200 {
            let key = format!("key-{}", (round * 37 + i * 11) % 500);
            let value = (i % 9 != 0).then(|| format!("{round}/{i}"));
            let record = OutRecord { value: value.clone().map(Bytes::from), ..out(&name, 0, &key, "") };
            writer.send(&record).unwrap();
            if !aborts {
                match value {
                    Some(value) => expected.insert(Bytes::from(key), Bytes::from(value)),
                    None => expected.remove(key.as_bytes()),
                };
            }
        }
        if aborts {
            writer.flush(LONG).unwrap();
            writer.abort(LONG).unwrap();
        } else {
            behind = writer.commit(&[], None, LONG).unwrap().ends[0].1;
        }
        if round == 30 {
            halfway = (behind, expected.clone());
        }
    }
    // The marker of the last commit stands behind its last record, and behind that what was aborted after it, with its own:
    // a reader that comes later reads past an end between them.
    let deadline = Instant::now() + LONG;
    while end() < behind + 1 + 200 + 1 {
        assert!(Instant::now() < deadline);
    }
    let end = end();
    let mut map = BTreeMap::new();
    let started = Instant::now();
    assert_eq!(read(0, end, &mut map).unwrap(), end);
    println!("restored {} keys up to {end} in {:?}", map.len(), started.elapsed());
    assert_eq!(map, expected);

    let (from, mut map) = halfway;
    assert_eq!(read(from, end, &mut map).unwrap(), end);
    assert_eq!(map, expected, "local state and the gap");

    let mut none = BTreeMap::new();
    assert_eq!(read(behind, end, &mut none).unwrap(), end, "only a marker is left");
    assert_eq!(read(end, end, &mut none).unwrap(), end);
    assert_eq!(none.len(), 0);
    let error = read(end + 1, end, &mut none).unwrap_err();
    assert!(matches!(error, RestoreError::Ahead { .. }), "{error}");
    let stopped = restore(&config(), "restore", &p, 0, end, |_, _, _| ControlFlow::Break(()));
    assert_eq!(stopped, Err(RestoreError::Stopped));
}

#[test]
fn an_offset_that_is_gone_is_said() {
    let name = topic("gone", 1);
    let p = tp(&name, 0);
    let records: Vec<_> = (0..10).map(|n| out(&name, 0, "k", &n.to_string())).collect();
    write(&config(), &records).unwrap();
    admin().delete_records(&[(p.clone(), 5)]).unwrap();
    assert_eq!(admin().start_offsets(std::slice::from_ref(&p)).unwrap(), [5]);
    let error = restore(&config(), "restore", &p, 2, 10, |_, _, _| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error, RestoreError::Gone { partition: p.clone(), from: 2 });
    let next = restore(&config(), "restore", &p, 5, 10, |_, _, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(next, 10);
    let error = admin().end_offsets(&[tp(&unique("nowhere"), 0)]).unwrap_err();
    assert!(!error.message.is_empty());
}
