//! State is never left behind without a word: nodes and sources that are renamed or removed, topics that grow, state
//! directories that are mixed up. With the real binary on a real Kafka: `KAFKA_BROKERS=host:port cargo test --test live
//! layout`.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use crate::common::{Instance, Stage, brokers, read, record, text, wait};
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::{Value as Json, json};
use slackwater::kafka::{KafkaConfig, TopicPartition, Writer};
use slackwater::model::{Clock, SystemClock};

const LONG: Duration = Duration::from_secs(60);

const HEAD: &str = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\", session_timeout: 6s }\nstate: { checkpoint: 100ms }\n";

/// Counts orders by buyer, behind a repartition topic, and clicks by key, in front of none.
const SHOP: &str = "sources:
  orders: { kafka: { topic: NAME.orders } }
  clicks: { kafka: { topic: NAME.clicks } }
operators:
  per-buyer: { from: orders, aggregate: { by: .buyer, count: {} } }
  per-key: { from: clicks, aggregate: { count: {} } }
sinks:
  buyers: { from: per-buyer, kafka: { topic: NAME.buyers } }
  keys: { from: per-key, kafka: { topic: NAME.keys } }
";

/// A shop with two partitions of each source.
struct Shop(Stage);

impl Shop {
    fn new() -> Shop {
        let topics = [("orders", 2), ("clicks", 2), ("buyers", 1), ("keys", 1)];
        Shop(Stage::new("shop", &topics, &format!("{HEAD}{SHOP}")))
    }

    /// The file with these words in other places; `more` is put in front of the sources.
    fn file(&self, more: &str, replace: &[(&str, &str)]) {
        let mut shop = SHOP.to_owned();
        for (from, to) in replace {
            assert!(shop.contains(from), "{from}");
            shop = shop.replace(from, to);
        }
        std::fs::write(&self.0.yaml, format!("{HEAD}{more}{shop}").replace("NAME", &self.0.name)).unwrap();
    }

    /// `n` orders and clicks of each of four.
    fn sell(&self, n: usize) {
        let each = (0..n).flat_map(|n| (0..4).map(move |who| (n, who)));
        let order = |(n, who)| (format!("o{n}-{who}"), json!({ "buyer": format!("b{who}") }));
        self.0.send("orders", each.clone().map(order));
        self.0.send("clicks", each.map(|(_, who)| (format!("k{who}"), json!({}))));
    }

    /// The last count of each key in a topic.
    fn counts(&self, topic: &str) -> BTreeMap<String, i64> {
        let rows = read(&brokers(), &self.0.admin, &self.0.topic(topic), 1).unwrap_or_default();
        let row = |(key, value): (Bytes, Option<Bytes>)| {
            let value: Json = serde_json::from_slice(&value.unwrap()).unwrap();
            (String::from_utf8(key.to_vec()).unwrap(), value.as_i64().unwrap())
        };
        rows.into_iter().map(row).collect()
    }

    fn all(&self, prefix: &str, n: i64) -> BTreeMap<String, i64> {
        (0..4).map(|who| (format!("{prefix}{who}"), n)).collect()
    }

    fn wait_counts(&self, n: i64) {
        wait(&format!("{n} of each"), LONG, || {
            self.counts("buyers") == self.all("b", n) && self.counts("keys") == self.all("k", n)
        });
    }

    /// Runs to `n` of each and stops.
    fn run_to(&self, n: i64) {
        let mut one = self.0.start("one");
        one.wait_ready(LONG);
        self.wait_counts(n);
        wait("everything is committed", LONG, || one.metric("slackwater_commit_lag_records", "") == 0.0);
        assert_eq!(one.stop(LONG), 0);
    }

    /// `run` and `check --connect` refuse it in the same words.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        for (words, more) in [(&["run"][..], &["--admin", "127.0.0.1:0"][..]), (&["check", "--connect"], &[])]
        {
            let output = self.0.run(words, "one", more);
            let said = plain(&output);
            assert_eq!(output.status.code(), Some(78), "{words:?}: {said}");
            // Lines are broken at hyphens too.
            let tight = |text: &str| text.split_whitespace().collect::<String>();
            for part in parts {
                assert!(
                    tight(&said).contains(&tight(&part.replace("NAME", &self.0.name))),
                    "{words:?}: no {part:?} in\n{said}"
                );
            }
        }
    }

    #[track_caller]
    fn accepted(&self) {
        let output = self.0.run(&["check", "--connect"], "one", &[]);
        assert!(output.status.success(), "{}", text(&output));
    }

    fn exists(&self, topic: &str) -> bool {
        self.0.admin.topics(&[topic]).unwrap()[0].1.is_some()
    }

    fn own(&self, what: &str) -> String {
        format!("{}-{what}", self.0.name)
    }
}

/// What a command said, without a report's frames.
fn plain(output: &Output) -> String {
    text(output).replace(['│', '·'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

const BUYER: (&str, &str) = ("per-buyer", "by-customer");

#[test]
fn a_node_behind_a_repartition_topic_that_was_renamed_or_removed_is_refused() {
    let shop = Shop::new();
    shop.sell(5);
    shop.run_to(5);
    shop.file("", &[BUYER]);
    let ways = [
        "the node `per-buyer` has state",
        "give the node its name back",
        "renamed: { NEW: per-buyer }",
        "slackwater reset --node per-buyer",
        "a new `name`",
    ];
    shop.refused(&ways);
    // Nothing was made for the new name.
    assert!(!shop.exists(&shop.own("by-customer-repartition")));
    // Removed, with its sink.
    let gone = [
        ("  per-buyer: { from: orders, aggregate: { by: .buyer, count: {} } }\n", ""),
        (
            "  buyers: { from: per-buyer, kafka: { topic: NAME.buyers } }\n",
            "  buyers: { from: orders, blackhole: {} }\n",
        ),
    ];
    shop.file("", &gone);
    shop.refused(&ways);
    // State of a version that wrote nothing down is known by its changelogs.
    shop.0.admin.delete_topics(&[&shop.own("layout")]).unwrap();
    wait("the record is gone", LONG, || !shop.exists(&shop.own("layout")));
    shop.refused(&ways);
    // Its name back, and it goes on.
    shop.file("", &[]);
    shop.accepted();
    shop.sell(1);
    shop.run_to(6);
    assert!(shop.exists(&shop.own("layout")));
}

#[test]
fn a_source_that_was_renamed_takes_its_state_along_only_when_told_to() {
    let shop = Shop::new();
    shop.sell(5);
    shop.run_to(5);
    let renamed = [("  clicks: {", "  hits: {"), ("from: clicks", "from: hits")];
    shop.file("", &renamed);
    shop.refused(&["the state of `per-key` is in `NAME-clicks-changelog`", "in `NAME-hits-changelog`"]);
    shop.file("renamed: { hits: clicks }\n", &renamed);
    shop.accepted();
    shop.sell(1);
    shop.run_to(6);
    assert!(!shop.exists(&shop.own("clicks-changelog")), "moved");
    // What was moved is not moved again, and the line may go.
    shop.sell(1);
    shop.run_to(7);
    shop.file("", &renamed);
    shop.sell(1);
    shop.run_to(8);
}

/// A rename that is killed at every step of the move, with records that wait in the repartition topic.
#[cfg(debug_assertions)]
#[test]
fn state_and_waiting_records_move_to_another_name_in_spite_of_kills() {
    let shop = Shop::new();
    shop.sell(5);
    shop.run_to(5);
    // Written by the source's half, not read by the other one yet.
    let waiting = |n: usize| {
        let topic = shop.own("per-buyer-repartition");
        let row =
            |who: usize| record(&topic, Some(format!("b{who}").into()), Some("{}".into()), SystemClock.now());
        let writer = Writer::open(&KafkaConfig::new(brokers())).unwrap();
        let rows: Vec<_> = (0..n).flat_map(|_| (0..4).map(row)).collect();
        shop.0.runtime.block_on(writer.send_all(&rows)).unwrap();
        let clicks = (0..n).flat_map(|_| (0..4).map(|who| (format!("k{who}"), json!({}))));
        shop.0.send("clicks", clicks);
    };
    waiting(3);
    shop.file(
        "renamed: { by-customer: per-buyer, each: per-key, hits: clicks }\n",
        &[BUYER, ("per-key", "each"), ("  clicks: {", "  hits: {"), ("from: clicks", "from: hits")],
    );
    shop.accepted();
    let mut died = 0;
    for n in 1.. {
        let point = format!("moving:{n}");
        let mut command = shop.0.command();
        command.env("SLACKWATER_FAILPOINT", &point);
        let mut one = Instance::spawn(command, &shop.0.yaml, "one", &[]);
        let mut ended = None;
        wait("it dies or is ready", LONG, || {
            ended = one.child.try_wait().unwrap();
            ended.is_some() || one.get("/ready").0 == 200
        });
        if ended.is_none() {
            // There are not so many steps.
            one.kill9();
            break;
        }
        assert!(one.text().contains("failpoint"), "{}", one.text());
        died += 1;
    }
    // Two changelogs of two partitions, and a repartition topic of two: each a step, and most a transaction more.
    assert!(died >= 6, "{died} steps");
    println!("{died} steps, killed at each");
    shop.run_to(8);
    for gone in ["per-buyer-repartition", "per-buyer-repartitioned-changelog", "clicks-changelog"] {
        assert!(!shop.exists(&shop.own(gone)), "{gone}");
    }
    shop.sell(1);
    shop.run_to(9);
}

#[test]
fn the_state_of_one_node_is_dropped_by_name() {
    let shop = Shop::new();
    shop.sell(5);
    shop.run_to(5);
    shop.file("", &[BUYER]);
    let dry = shop.0.run(&["reset", "--node", "per-buyer"], "one", &[]);
    assert!(
        dry.status.success() && text(&dry).contains("nothing was deleted: add --execute"),
        "{}",
        text(&dry)
    );
    shop.refused(&["the node `per-buyer` has state"]);
    let unknown = shop.0.run(&["reset", "--node", "nobody"], "one", &["--execute"]);
    assert!(text(&unknown).contains("there is no state of a node `nobody`"), "{}", text(&unknown));
    let done = shop.0.run(&["reset", "--node", "per-buyer"], "one", &["--execute"]);
    assert!(
        done.status.success() && text(&done).contains("deleted the state of per-buyer")
            || text(&done).contains("deleted  the state of per-buyer"),
        "{}",
        text(&done)
    );
    shop.accepted();
    shop.sell(2);
    let mut one = shop.0.start("one");
    one.wait_ready(LONG);
    wait("one begins anew, the other goes on", LONG, || {
        shop.counts("buyers") == shop.all("b", 2) && shop.counts("keys") == shop.all("k", 7)
    });
    assert_eq!(one.stop(LONG), 0);
    assert!(!shop.exists(&shop.own("per-buyer-repartition")));
    // A node that is in the file: its windows may change then.
    let done = shop.0.run(&["reset", "--node", "per-key"], "one", &["--execute"]);
    assert!(done.status.success(), "{}", text(&done));
    shop.file(
        "",
        &[
            BUYER,
            (
                "  per-key: { from: clicks, aggregate: { count: {} } }",
                "  per-key: { from: clicks, aggregate: { sum: 2 } }",
            ),
        ],
    );
    shop.accepted();
    shop.sell(1);
    let mut one = shop.0.start("one");
    one.wait_ready(LONG);
    wait("it begins anew", LONG, || {
        shop.counts("keys") == shop.all("k", 2) && shop.counts("buyers") == shop.all("b", 3)
    });
    assert_eq!(one.stop(LONG), 0);
}

pub fn grow(topic: &str, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let new = [NewPartitions::new(topic, partitions)];
    let grown = runtime.block_on(admin.create_partitions(&new, &AdminOptions::new())).unwrap();
    grown[0].as_ref().unwrap();
}

#[test]
fn a_source_that_grows_is_said_while_it_runs_and_refused_at_the_next_start() {
    let shop = Shop::new();
    shop.sell(5);
    let mut one = shop.0.start("one");
    one.wait_ready(LONG);
    shop.wait_counts(5);
    grow(&shop.0.topic("clicks"), 3);
    let says = format!("`{}` has 3 partitions, and had 2", shop.0.topic("clicks"));
    wait("it says so", Duration::from_secs(15), || {
        let (code, body) = one.get("/ready");
        code == 503 && body.contains(&says) && one.text().contains(&says)
    });
    assert_eq!(one.stop(LONG), 0);
    shop.refused(&[
        "the topic `NAME-clicks-changelog` has 2 partitions",
        "`NAME.clicks` has 3",
        "slackwater reset",
    ]);
}

#[test]
fn state_of_another_topology_or_of_a_changelog_that_is_gone_is_refused_before_the_group_is_joined() {
    let (shop, other) = (Shop::new(), Shop::new());
    shop.sell(5);
    shop.run_to(5);
    // The other topology, on this one's directory.
    let dir = shop.0.dir.path().join("state-one");
    for words in [&["run", "--admin", "127.0.0.1:0"][..], &["check", "--connect"]] {
        let mut command = other.0.command();
        command.args(&words[..1]).arg(&other.0.yaml).args(&words[1..]).env("SLACKWATER_STATE_DIR", &dir);
        let output = command.output().unwrap();
        let said = plain(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("is that of the topology `{}`", shop.0.name)), "{said}");
    }
    assert!(other.0.admin.members(&other.0.name).unwrap().is_empty());
    // Local state that is ahead of the changelog: that was made anew.
    let changelog = shop.own("clicks-changelog");
    shop.0.admin.delete_topics(&[&changelog]).unwrap();
    wait("it is gone", LONG, || !shop.exists(&changelog));
    shop.refused(&[
        "the topic `NAME-clicks-changelog` is gone, and with it the state of `per-key`",
        "the changelog was made anew",
    ]);
    let ends = shop.0.admin.all_committed(&shop.0.name).unwrap();
    assert!(!ends.is_empty(), "nothing was reset");
}

const STOP: &str = "sources: { in: { kafka: { topic: NAME.in } } }
operators: { half: { from: in, map: '{ \"n\": to_int!(.n) }' }, seen: { from: half, aggregate: { count: {} } } }
sinks: { out: { from: half, kafka: { topic: NAME.out } }, counts: { from: seen, blackhole: {} } }
";

#[test]
fn a_record_that_cannot_be_processed_stops_its_task_and_no_other() {
    let text = format!("{HEAD}errors: {{ on_failure: stop }}\n{STOP}");
    let stage = Stage::new("stops", &[("in", 2), ("out", 1)], &text);
    let at = |partition: i32, rows: &[Json]| {
        let topic = stage.topic("in");
        let row = |value: &Json| {
            let mut row = record(&topic, Some("k".into()), Some(value.to_string().into()), SystemClock.now());
            row.partition = Some(partition);
            row
        };
        let writer = Writer::open(&KafkaConfig::new(brokers())).unwrap();
        stage.runtime.block_on(writer.send_all(&rows.iter().map(row).collect::<Vec<_>>())).unwrap();
    };
    at(0, &[json!({"n": 1}), json!({"n": 2}), json!({"n": "bad"}), json!({"n": 3})]);
    let mut one = stage.start("one");
    let says = format!("topic {}, partition 0, offset 2", stage.topic("in"));
    // It says so at once, and goes back to its last checkpoint and on again up to that record.
    let (mut code, mut body) = (0, String::new());
    wait("it says which", LONG, || {
        (code, body) = one.get("/ready");
        body.contains(&says) && body.contains("\"in-0\":\"stopped\"")
    });
    let body: Json = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["tasks"]["in-0"]), (503, &json!("stopped")), "{body}");
    let why = body["waiting_for"].to_string();
    for part in ["node half", "expression", "on_failure: skip"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    for part in ["a task has stopped at a record", "offset=2", "partition=0", "on_failure: skip"] {
        assert!(one.text().contains(part), "{part}: {}", one.text());
    }
    // The other partition goes on, and is committed; so is what came before the record.
    at(1, &[json!({"n": 10}), json!({"n": 11})]);
    let out = |n: i64| {
        let ends = stage.admin.end_offsets(&[TopicPartition::new(stage.topic("out"), 0)]).unwrap();
        ends == [n]
    };
    let committed = |partition: i32| {
        let found = stage.admin.committed(&stage.name, &[TopicPartition::new(stage.topic("in"), partition)]);
        match found.unwrap()[0] {
            slackwater::kafka::GroupOffset::At(next) => next,
            _ => 0,
        }
    };
    wait("both are committed", LONG, || committed(1) == 2 && committed(0) == 2);
    assert!(one.child.try_wait().unwrap().is_none(), "it runs");
    let written = stage.read("out").unwrap().len() as i64;
    assert!(
        (4..=6).contains(&written),
        "the healthy ones, those of the stopped task perhaps twice: {written}"
    );
    assert_eq!(one.stop(LONG), 0);
    // At the next starts nothing is written again.
    for _ in 0..2 {
        let mut one = stage.start("one");
        wait("it says which", LONG, || one.get("/ready").1.contains(&says));
        std::thread::park_timeout(Duration::from_millis(500));
        assert!(out(written), "written again");
        assert!(one.child.try_wait().unwrap().is_none(), "it runs");
        assert_eq!(one.stop(LONG), 0);
    }
    // What the help says, done.
    std::fs::write(
        &stage.yaml,
        text.replace("on_failure: stop", "on_failure: skip").replace("NAME", &stage.name),
    )
    .unwrap();
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    wait("the rest comes", LONG, || out(written + 1));
    assert_eq!(one.stop(LONG), 0);
}
