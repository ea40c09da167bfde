//! Replies to requests, against a real broker: the reader and its waiters by themselves. Topics are each test's own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slackwater::gateway::produce::ID_HEADER;
use slackwater::gateway::replies::{Full, REPLY_TO, Replies, Reply};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicSpec, TxnWriter, Writer};
use slackwater::model::Headers;
use slackwater::runtime::metrics::{Metrics, ReplyMetrics};
use slackwater::sinks::{BlackholeConfig, SinkConfig};
use slackwater::sources::{SourceConfig, StdinSource};
use slackwater::topology::TopologyBuilder;

use crate::common::{OwnServer, brokers, unique};

const LONG: Duration = Duration::from_secs(20);

fn metrics() -> ReplyMetrics {
    let topology = TopologyBuilder::new("t")
        .source("in", SourceConfig::Stdin(StdinSource::default()))
        .sink("out", ["in"], SinkConfig::Blackhole(BlackholeConfig::default()))
        .build()
        .unwrap();
    Metrics::new(&topology).unwrap().replies().clone()
}

/// The gateway's side, and the service's.
struct Rig {
    kafka: KafkaConfig,
    topics: Arc<[String]>,
    writer: Arc<Writer>,
    metrics: ReplyMetrics,
}

impl Rig {
    fn new(brokers: &str, topics: &[(&str, i32)]) -> Rig {
        let kafka = KafkaConfig::new(brokers);
        let rig = Rig {
            topics: topics.iter().map(|(name, _)| unique(name)).collect(),
            writer: Arc::new(Writer::open(&kafka).unwrap()),
            metrics: metrics(),
            kafka,
        };
        for (name, (_, partitions)) in rig.topics.iter().zip(topics) {
            if *partitions > 0 {
                rig.create(name, *partitions);
            }
        }
        rig
    }

    fn admin(&self) -> Admin {
        Admin::open(&self.kafka, LONG).unwrap()
    }

    fn create(&self, topic: &str, partitions: i32) {
        self.admin().create_topics(&[TopicSpec::new(topic, partitions)]).unwrap();
    }

    fn replies(&self, instance: &str) -> Replies {
        let topics: BTreeSet<String> = self.topics.iter().cloned().collect();
        Replies::start(&self.kafka, "replies-test", &topics, instance, &self.metrics).unwrap()
    }

    fn reply(&self, topic: usize, partition: i32, id: &str, to: &str, value: &str) -> OutRecord {
        let header = |name: &str, value: &str| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        OutRecord {
            topic: self.topics[topic].as_str().into(),
            partition: Some(partition),
            key: Some(Bytes::from("k")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Headers::new([header(ID_HEADER, id), header(REPLY_TO, to)]),
            ts: None,
        }
    }

    async fn send(&self, records: &[OutRecord]) {
        self.writer.send_all(records).await.unwrap();
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}: nothing in {LONG:?}"))
}

fn value(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.record.value.bytes().unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_reply_after_ready_is_seen_however_often_it_starts() {
    let rig = Rig::new(&brokers(), &[("yes", 3), ("no", 2)]);
    for n in 0..40 {
        let replies = rig.replies("me");
        in_time("ready", replies.ready()).await;
        let id = format!("first-{n}");
        let mut waiter = replies.wait(&id, None, &rig.topics, 10).unwrap();
        let (topic, partition) = (usize::from(n % 2 == 1), n % 2);
        rig.send(&[rig.reply(topic, partition, &id, "me", "it")]).await;
        let reply = in_time(&id, waiter.reply()).await;
        assert_eq!((&*reply.topic, value(&reply).as_str()), (rig.topics[topic].as_str(), "it"));
        drop(waiter);
        assert_eq!(replies.waiting(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_belongs_to_an_id_at_whichever_instance_it_is_waited_for() {
    let rig = Rig::new(&brokers(), &[("yes", 2)]);
    let (here, there) = (rig.replies("here"), rig.replies("there"));
    in_time("ready", async { tokio::join!(here.ready(), there.ready()) }).await;
    // The same request, asked again at another instance; and another one of the same key.
    let mut first = here.wait("a", None, &rig.topics, 10).unwrap();
    let mut again = there.wait("a", None, &rig.topics, 10).unwrap();
    let mut other = there.wait("b", None, &rig.topics, 10).unwrap();
    rig.send(&[
        rig.reply(0, 0, "a", "here", "1"),
        rig.reply(0, 0, "a", "there", "2"),
        rig.reply(0, 1, "unknown", "elsewhere", "3"),
        OutRecord { headers: Headers::default(), ..rig.reply(0, 1, "", "", "no header at all") },
        rig.reply(0, 1, "b", "there", "4"),
    ])
    .await;
    let (a, b) = (in_time("here", first.reply()).await, in_time("there", again.reply()).await);
    assert_eq!((value(&a), value(&b)), ("1".into(), "1".into()), "the first one counts");
    assert_eq!(value(&in_time("b", other.reply()).await), "4");
    assert!(rig.metrics.counted("foreign") >= 2, "{}", rig.metrics.counted("foreign"));
    assert_eq!(here.wait("c", None, &rig.topics, 1).map(drop), Err(Full), "the first waiter is still held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reply_of_an_aborted_transaction_is_never_seen() {
    let rig = Rig::new(&brokers(), &[("yes", 1)]);
    let replies = rig.replies("me");
    in_time("ready", replies.ready()).await;
    let mut waiter = replies.wait("a", None, &rig.topics, 10).unwrap();
    let (kafka, id) = (rig.kafka.clone(), unique("txn"));
    let record = |what: &str| rig.reply(0, 0, "a", "me", what);
    let (lost, kept) = (record("aborted"), record("committed"));
    tokio::task::spawn_blocking(move || {
        let mut writer = TxnWriter::open(&kafka, &id, LONG).unwrap();
        writer.begin().unwrap();
        writer.send(&lost).unwrap();
        writer.flush(LONG).unwrap();
        writer.abort(LONG).unwrap();
        writer.begin().unwrap();
        writer.send(&kept).unwrap();
        writer.commit(&[], None, LONG).unwrap();
    })
    .await
    .unwrap();
    assert_eq!(value(&in_time("the committed one", waiter.reply()).await), "committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_partitions_and_new_topics_are_read_from_their_beginning() {
    let rig = Rig::new(&brokers(), &[("grows", 3), ("later", 0)]);
    let replies = rig.replies("me");
    in_time("ready", replies.ready()).await;
    let mut grown = replies.wait("grown", None, &rig.topics, 10).unwrap();
    let mut later = replies.wait("later", None, &rig.topics, 10).unwrap();
    // Written long before the reader looks again.
    let topic = rig.topics[0].clone();
    tokio::task::spawn_blocking(move || crate::layout::grow(&topic, 6)).await.unwrap();
    rig.create(&rig.topics[1], 1);
    let deadline = Instant::now() + LONG;
    for (topic, partition, id) in [(0, 5, "grown"), (1, 0, "later")] {
        while rig.writer.send_all(&[rig.reply(topic, partition, id, "me", id)]).await.is_err() {
            assert!(Instant::now() < deadline, "the writer does not know the partition");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(value(&in_time("grown", grown.reply()).await), "grown");
    assert_eq!(value(&in_time("later", later.reply()).await), "later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_reply_and_ten_thousand_waiters_come_through() {
    let rig = Rig::new(&brokers(), &[("yes", 3)]);
    let replies = rig.replies("me");
    in_time("ready", replies.ready()).await;
    let mut waiters: Vec<_> =
        (0..10_000).map(|n| replies.wait(&format!("w{n}"), None, &rig.topics, 10_000).unwrap()).collect();
    assert!(replies.wait("one more", None, &rig.topics, 10_000).is_err());
    let records: Vec<OutRecord> =
        (0..9_000).map(|n| rig.reply(0, n % 3, &format!("w{n}"), "me", &n.to_string())).collect();
    rig.send(&records).await;
    for (n, waiter) in waiters.iter_mut().take(9_000).enumerate() {
        assert_eq!(value(&in_time("a reply", waiter.reply()).await), n.to_string());
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), waiters[9_500].reply()).await.is_err());
    drop(waiters);
    assert_eq!(replies.waiting(), 0);
    let mut large = replies.wait("large", None, &rig.topics, 10).unwrap();
    rig.send(&[rig.reply(0, 0, "large", "me", &"x".repeat(900_000))]).await;
    assert_eq!(value(&in_time("large", large.reply()).await).len(), 900_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_waited_for_at_the_start_and_later() {
    let own = OwnServer::kafka();
    let rig = Rig::new(&own.address, &[("yes", 2)]);
    own.act("kill");
    let replies = rig.replies("me");
    assert!(tokio::time::timeout(Duration::from_secs(1), replies.ready()).await.is_err());
    assert!(!replies.is_ready());
    own.act("resume");
    tokio::time::timeout(Duration::from_secs(60), replies.ready()).await.expect("ready");
    let mut waiter = replies.wait("a", None, &rig.topics, 10).unwrap();
    rig.send(&[rig.reply(0, 1, "a", "me", "1")]).await;
    assert_eq!(value(&in_time("after the start", waiter.reply()).await), "1");
    own.act("kill");
    let mut waiter = replies.wait("b", None, &rig.topics, 10).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3), waiter.reply()).await.is_err());
    own.act("resume");
    rig.send(&[rig.reply(0, 0, "b", "me", "2")]).await;
    let reply = tokio::time::timeout(Duration::from_secs(60), waiter.reply()).await.expect("a reply");
    assert_eq!(value(&reply), "2");
}
