//! The order in which a task with several input topics takes their records, on a real Kafka with the real binary:
//! `KAFKA_BROKERS=host:port cargo test --test live ordering`.

use std::time::{Duration, Instant};

use crate::common::{Instance, Stage, wait};
use serde_json::{Value as Json, json};
use slackwater::model::{Clock, SystemClock};

const LONG: Duration = Duration::from_secs(60);

const ORDERS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
guarantee: exactly_once
state: { checkpoint: 100ms }
time: TIME
sources:
  orders: { kafka: { topic: NAME.orders, HOW } }
  customers: { kafka: { topic: NAME.customers }, table: {} }
operators:
  named:
    from: orders
    join: { with: customers, type: left, value: '{ "n": left.n, "version": right.version }' }
sinks:
  out: { from: named, kafka: { topic: NAME.out } }
"#;

/// Orders joined with the customer as of now, one partition each.
struct Shop(Stage);

impl Shop {
    fn new(time: &str, orders: &str) -> Shop {
        let text = ORDERS.replace("TIME", time).replace("HOW", orders);
        Shop(Stage::new("ordering", &[("orders", 1), ("customers", 1), ("out", 1)], &text))
    }

    fn send(&self, topic: &str, records: impl IntoIterator<Item = (i64, Json)>) {
        self.0.send_at(topic, records.into_iter().map(|(ts, value)| (ts, "ann".into(), value)));
    }

    fn start(&self) -> Instance {
        Instance::spawn(self.0.command(), &self.0.yaml, "one", &["--instance-id", "one"])
    }

    /// Number and version of every order that came out.
    fn out(&self) -> Vec<(i64, Option<i64>)> {
        let rows = self.0.rows("out");
        rows.iter().map(|(_, row)| (row["n"].as_i64().unwrap(), row["version"].as_i64())).collect()
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
}

#[test]
fn every_order_of_a_backlog_finds_the_customer_of_its_time() {
    backlog("format: json", |at| (at, at));
}

/// The group gives topics by their names, where the customers come first.
#[test]
fn of_equal_times_the_topic_that_is_named_first_comes_first() {
    let shop = Shop::new("{ clock: stream, idle: 1h }", "format: json");
    let start = SystemClock.now().0 - 60_000;
    let all = 200;
    shop.send("orders", (0..all).map(|n| (start + n, json!({ "n": n }))));
    shop.send("customers", (0..all).map(|n| (start + n, json!({ "version": n }))));
    let mut one = shop.start();
    one.wait_ready(LONG);
    let want: Vec<(i64, Option<i64>)> = (0..all).map(|n| (n, (n > 0).then(|| n - 1))).collect();
    wait("all have come out", LONG, || shop.out().len() == want.len());
    assert_eq!(shop.out(), want);
    assert_eq!(one.stop(LONG), 0);
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
        shop.send("customers", [(start, json!({ "version": 1 }))]);
        let mut one = shop.start();
        one.wait_ready(LONG);
        wait("the customer is read", LONG, || one.metric("slackwater_records_in_total", "customers") >= 1.0);
        shop.send("orders", [(start + 20, json!({ "n": 1 }))]);
        let sent = Instant::now();
        if slow {
            // On its way a little longer than the order.
            std::thread::park_timeout(Duration::from_millis(1000));
        } else {
            wait("the order does not wait", LONG, || shop.out().len() == 1);
        }
        shop.send("customers", [(start + 10, json!({ "version": 2 }))]);
        wait("the order comes out", LONG, || shop.out().len() == 1);
        assert_eq!(shop.out(), [(1, version)], "{time}");
        if slow {
            assert!(sent.elapsed() < Duration::from_secs(30), "it was not waited for without an end");
        }
        // Nothing more comes of the customers: after `idle` the next order goes on.
        shop.send("orders", [(start + 30, json!({ "n": 2 }))]);
        wait("the next order comes out too", LONG, || shop.out().len() == 2);
        assert_eq!(shop.out()[1], (2, Some(2)), "{time}");
        assert_eq!(one.stop(LONG), 0);
    }
}
