//! The order in which a task with several input topics takes their records, on a real Kafka with the real binary:
//! `KAFKA_BROKERS=host:port cargo test --test ordering`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Instance, brokers, unique, wait};
use serde_json::{Value as Json, json};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicPartition, TopicSpec, Writer, restore};
use slackwater::model::{Clock, Headers, SystemClock, Timestamp};

const LONG: Duration = Duration::from_secs(60);

/// Orders joined with the customer as of now, one partition each.
struct Shop {
    name: String,
    dir: tempfile::TempDir,
    yaml: PathBuf,
    admin: Admin,
    writer: Writer,
    runtime: tokio::runtime::Runtime,
}

impl Shop {
    fn new(time: &str, orders: &str) -> Shop {
        let name = unique("ordering");
        let config = KafkaConfig::new(brokers());
        let admin = Admin::open(&config, LONG).expect("an admin client");
        let topics = ["orders", "customers", "out"].map(|what| TopicSpec::new(format!("{name}.{what}"), 1));
        admin.create_topics(&topics).expect("topics are made");
        let dir = tempfile::tempdir().unwrap();
        let yaml = dir.path().join("shop.yaml");
        let text = format!(
            r#"
name: {name}
kafka: {{ brokers: "${{KAFKA_BROKERS}}", session_timeout: 6s }}
guarantee: exactly_once
state: {{ checkpoint: 100ms }}
time: {time}
sources:
  orders: {{ kafka: {{ topic: {name}.orders, {orders} }} }}
  customers: {{ kafka: {{ topic: {name}.customers }}, table: {{}} }}
operators:
  named:
    from: orders
    join: {{ with: customers, type: left, value: '{{ "n": left.n, "version": right.version }}' }}
sinks:
  out: {{ from: named, kafka: {{ topic: {name}.out }} }}
"#
        );
        std::fs::write(&yaml, text).unwrap();
        let writer = Writer::open(&config).expect("a writer");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Shop { name, dir, yaml, admin, writer, runtime }
    }

    fn send(&self, topic: &str, records: impl Iterator<Item = (i64, Json)>) {
        let record = |(ts, value): (i64, Json)| OutRecord {
            topic: format!("{}.{topic}", self.name).as_str().into(),
            partition: None,
            key: Some(Bytes::from("ann")),
            value: Some(Bytes::from(value.to_string())),
            headers: Headers::default(),
            ts: Some(Timestamp(ts)),
        };
        let records: Vec<OutRecord> = records.map(record).collect();
        self.runtime.block_on(self.writer.send_all(&records)).expect("records are sent");
    }

    fn start(&self) -> Instance {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        command
            .env("KAFKA_BROKERS", brokers())
            .env_remove("SLACKWATER_LOG")
            .env_remove("SLACKWATER_STATE_DIR");
        Instance::spawn(command, &self.yaml, "one", &["--instance-id", "one"])
    }

    /// Number and version of every order that came out.
    fn out(&self) -> Vec<(i64, Option<i64>)> {
        let partition = TopicPartition::new(format!("{}.out", self.name), 0);
        let end = self.admin.end_offsets(std::slice::from_ref(&partition)).expect("an end")[0];
        let mut out = Vec::new();
        restore(&KafkaConfig::new(brokers()), "reader", &partition, 0, end, |rows, _, _| {
            for (_, value) in rows {
                let value: Json = serde_json::from_slice(value.as_ref().unwrap()).expect("is JSON");
                out.push((value["n"].as_i64().unwrap(), value["version"].as_i64()));
            }
            std::ops::ControlFlow::Continue(())
        })
        .expect("the topic is read");
        out
    }
}

/// Ten orders to a version of the customer, in time; the customers are large, so the orders are read much faster.
fn backlog(orders: &str, order_time: impl Fn(i64) -> (i64, i64)) {
    let (versions, each) = (300, 10);
    let shop = Shop::new("{}", orders);
    let start = SystemClock.now().0 - 3_600_000;
    let padding = "x".repeat(10_000);
    shop.send(
        "customers",
        (0..versions).map(|v| (start + v * 100, json!({ "version": v, "padding": padding }))),
    );
    let order = |n: i64| {
        let (ts, at) = order_time(start + n / each * 100 + 1 + n % each);
        (ts, json!({ "n": n, "at": at }))
    };
    shop.send("orders", (0..versions * each).map(order));
    let mut one = shop.start();
    wait("some have come out", LONG, || shop.out().len() > 100);
    one.kill9();
    one = shop.start();
    let all = usize::try_from(versions * each).unwrap();
    wait("all have come out", LONG, || shop.out().len() >= all);
    let want: Vec<(i64, Option<i64>)> = (0..versions * each).map(|n| (n, Some(n / each))).collect();
    let got = shop.out();
    let wrong = got.iter().zip(&want).filter(|(got, want)| got != want).count();
    assert_eq!((wrong, got.len()), (0, all), "{:?}", got.iter().zip(&want).find(|(got, want)| got != want));
    assert_eq!(one.stop(LONG), 0);
    drop(shop.dir);
}

#[test]
fn every_order_of_a_backlog_finds_the_customer_of_its_time() {
    backlog("format: json", |at| (at, at));
}

#[test]
fn the_time_is_that_of_the_sources_expression() {
    // By Kafka's timestamps all orders came before the first customer.
    backlog("timestamp: .at", |at| (at - 1_800_000, at));
}

#[test]
fn a_topic_that_has_nothing_more_is_waited_for_as_long_as_idle_says() {
    for (time, version, slow) in [("{ idle: 4s }", Some(2), true), ("{}", Some(1), false)] {
        let shop = Shop::new(time, "format: json");
        let start = SystemClock.now().0 - 60_000;
        shop.send("customers", [(start, json!({ "version": 1 }))].into_iter());
        let mut one = shop.start();
        one.wait_ready(LONG);
        wait("the customer is read", LONG, || one.metric("slackwater_records_in_total", "customers") >= 1.0);
        shop.send("orders", [(start + 20, json!({ "n": 1 }))].into_iter());
        let sent = Instant::now();
        if slow {
            // On its way a little longer than the order.
            std::thread::park_timeout(Duration::from_millis(1000));
        } else {
            wait("the order does not wait", LONG, || shop.out().len() == 1);
        }
        shop.send("customers", [(start + 10, json!({ "version": 2 }))].into_iter());
        wait("the order comes out", LONG, || shop.out().len() == 1);
        assert_eq!(shop.out(), [(1, version)], "{time}");
        if slow {
            assert!(sent.elapsed() < Duration::from_secs(30), "it was not waited for without an end");
        }
        // Nothing more comes of the customers: after `idle` the next order goes on.
        shop.send("orders", [(start + 30, json!({ "n": 2 }))].into_iter());
        wait("the next order comes out too", LONG, || shop.out().len() == 2);
        assert_eq!(shop.out()[1], (2, Some(2)), "{time}");
        assert_eq!(one.stop(LONG), 0);
    }
}
