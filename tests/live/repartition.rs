//! A repartition topic, and the commands around state and offsets, on a real Kafka with the real binary:
//! `KAFKA_BROKERS=host:port cargo test --test live repartition`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{Instance, Stage, text, wait};
use serde_json::{Value as Json, json};
use slackwater::kafka::{GroupOffset, TopicPartition};

const LONG: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

const ORDERS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
state: { checkpoint: 100ms }
guarantee: GUARANTEE
sources:
  orders: { kafka: { topic: NAME.orders } }
operators:
  by-buyer: { from: orders, key_by: .buyer }
  settled: { from: by-buyer, debounce: { quiet: QUIET, keep: all } }
sinks:
  out: { from: settled, kafka: { topic: NAME.out } }
"#;

/// Orders, gathered by buyer.
struct Shop(Stage);

impl Deref for Shop {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.0
    }
}

impl Shop {
    fn new(quiet: &str, guarantee: &str) -> Shop {
        let text = ORDERS.replace("QUIET", quiet).replace("GUARANTEE", guarantee);
        Shop(Stage::new("shop", &[("orders", PARTITIONS), ("out", 1)], &text))
    }

    fn repartition(&self) -> String {
        format!("{}-by-buyer-repartition", self.name)
    }

    /// Orders `from..to`, each with a key of its own, spread over the buyers.
    fn order(&self, from: u64, to: u64, buyers: u64) {
        let order = |n: u64| json!({ "buyer": format!("buyer-{}", n % buyers), "n": n });
        self.send("orders", (from..to).map(|n| (format!("order-{n}"), order(n))));
    }

    /// What came out: every list of every buyer.
    fn out(&self) -> Vec<(String, Vec<u64>)> {
        let numbers = |list: &Json| -> Vec<u64> {
            let list = list.as_array().expect("a list");
            list.iter().map(|o| o["n"].as_u64().expect("a number")).collect()
        };
        self.rows("out").into_iter().map(|(buyer, list)| (buyer, numbers(&list))).collect()
    }

    fn partitions(&self, topic: &str) -> Vec<TopicPartition> {
        (0..PARTITIONS).map(|p| TopicPartition::new(topic, p)).collect()
    }
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

#[test]
fn orders_of_a_buyer_come_together_from_all_partitions_in_spite_of_crashes() {
    let shop = Shop::new("2s", "exactly_once");
    let mut one = shop.start("one");
    one.wait_ready(LONG);
    for round in 0..4 {
        shop.order(round * 100, round * 100 + 100, 20);
        wait("some of it is read", LONG, || one.metric("slackwater_debounce_pending_keys", "") > 0.0);
        one.kill9();
        one = shop.start("one");
    }
    one.wait_ready(LONG);
    wait("every order came out", LONG, || shop.out().iter().map(|(_, l)| l.len()).sum::<usize>() >= 400);
    // A buyer may have gone quiet between two starts: several lists then, but no order twice or in another's list.
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    for (buyer, list) in shop.out() {
        for n in list {
            assert_eq!(buyer, format!("buyer-{}", n % 20));
            *seen.entry(n).or_default() += 1;
        }
    }
    assert_eq!(seen, (0..400).map(|n| (n, 1)).collect(), "every order once");
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn two_instances_share_both_halves_and_what_was_read_is_purged() {
    let shop = Shop::new("1s", "at_least_once");
    let mut one = shop.start("one");
    let mut two = shop.start("two");
    one.wait_ready(LONG);
    two.wait_ready(LONG);
    wait("both have tasks of both halves", LONG, || {
        let running = |i: &Instance| i.metric("slackwater_tasks", "running");
        running(&one) + running(&two) == 2.0 * f64::from(PARTITIONS)
            && running(&one) > 0.0
            && running(&two) > 0.0
    });
    shop.order(0, 400, 40);
    wait("every buyer's orders came out", LONG, || {
        shop.out().iter().map(|(_, l)| l.len()).sum::<usize>() == 400
    });
    let out: BTreeMap<_, _> = shop.out().into_iter().collect();
    assert_eq!(out.len(), 40, "one list each");
    let topic = shop.repartition();
    let found = shop.admin.topics(&[&topic]).expect("a look-up");
    assert_eq!(found[0].1, Some(PARTITIONS), "as many partitions as the source");
    wait("what was read is deleted", LONG, || {
        let all = shop.partitions(&topic);
        let starts = shop.admin.start_offsets(&all).expect("starts");
        let committed = shop.admin.committed(&shop.name, &all).expect("offsets");
        let wrong = starts.iter().zip(&committed).filter(|(s, c)| **c != GroupOffset::At(**s)).count();
        wrong == 0 && starts.iter().sum::<i64>() >= 400
    });
    // And it goes on from there.
    shop.order(400, 480, 40);
    wait("later orders come out", LONG, || shop.out().iter().map(|(_, l)| l.len()).sum::<usize>() >= 480);
    assert_eq!(one.stop(LONG), 0);
    assert_eq!(two.stop(LONG), 0);
}

#[test]
fn offsets_state_and_reset_say_what_is_there_and_take_it_away() {
    let shop = Shop::new("1h", "at_least_once");
    let mut one = shop.start("one");
    one.wait_ready(LONG);
    shop.order(0, 100, 10);
    wait("everything is in a checkpoint", LONG, || {
        one.metric("slackwater_debounce_pending_keys", "") == 10.0
            && one.metric("slackwater_commit_lag_records", "") == 0.0
    });
    // The marks of transactions are committed too, when the end has been reached.
    let mut offsets = String::new();
    wait("nothing is left to read", LONG, || {
        offsets = good(&shop.run(&["offsets"], "one", &[]));
        offsets.ends_with("total lag 0\n")
    });
    assert!(offsets.contains(&shop.repartition()), "{offsets}");
    let rows: Json =
        serde_json::from_slice(&shop.run(&["offsets"], "one", &["--format", "json"]).stdout).expect("JSON");
    let ends = rows.as_array().expect("a list").iter().filter(|r| r["internal"] == false);
    assert_eq!(ends.map(|r| r["end"].as_i64().expect("a number")).sum::<i64>(), 100);

    // While it runs, its state cannot be read or reset.
    let refused = shop.run(&["state", "ls"], "one", &[]);
    assert!(
        !refused.status.success() && text(&refused).contains("another process uses"),
        "{}",
        text(&refused)
    );
    let refused = shop.run(&["reset"], "one", &["--execute"]);
    assert!(
        !refused.status.success() && text(&refused).contains("another process uses"),
        "{}",
        text(&refused)
    );
    let refused = shop.run(&["reset"], "elsewhere", &["--execute"]);
    assert!(
        text(&refused).contains("has 1 member, at 127.0.0.1: stop every instance first"),
        "{}",
        text(&refused)
    );
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(one.stop(LONG), 0);

    let listed = good(&shop.run(&["state", "ls"], "one", &[]));
    assert!(listed.contains("by-buyer-repartitioned-0") && listed.contains("settled  debounce"), "{listed}");
    let keys = good(&shop.run(&["state", "ls"], "one", &["settled"]));
    assert_eq!(keys.lines().count(), 10, "{keys}");
    let exported = good(&shop.run(&["state", "export"], "one", &["settled"]));
    let row: Json = serde_json::from_str(exported.lines().next().expect("a row")).expect("JSON");
    assert_eq!((row["node"].as_str(), row["value"]["count"].as_u64()), (Some("settled"), Some(10)), "{row}");
    let got = good(&shop.run(&["state", "get"], "one", &["settled", "buyer-3"]));
    let got: Json = serde_json::from_str(&got).expect("one line");
    let numbers: Vec<u64> =
        got["value"]["value"].as_array().expect("a list").iter().filter_map(|o| o["n"].as_u64()).collect();
    assert_eq!(numbers.len(), 10);
    assert!(numbers.iter().all(|n| n % 10 == 3), "{got}");
    let task = got["task"].as_str().expect("a task");
    assert!(
        good(&shop.run(&["state", "get"], "one", &["settled", "buyer-3", "--task", task]))
            .contains("buyer-3")
    );
    let missing = shop.run(&["state", "get"], "one", &["settled", "nobody"]);
    assert!(text(&missing).contains("`settled` has no key `nobody`"), "{}", text(&missing));
    let missing = shop.run(&["state", "ls"], "one", &["--task", "x-0"]);
    assert!(text(&missing).contains("there is no task `x-0`"), "{}", text(&missing));

    let dry = good(&shop.run(&["reset"], "one", &[]));
    let changelog = format!("{}-by-buyer-repartitioned-changelog", shop.name);
    for part in [
        format!("would delete  group {}, with its offsets of 8 partitions", shop.name),
        format!("would delete  topic {changelog}, 4 partitions"),
        format!("would delete  topic {}, 4 partitions", shop.repartition()),
        "state-one/by-buyer-repartitioned-3".into(),
        format!("kept: {}.orders", shop.name),
        "nothing was deleted: add --execute".into(),
    ] {
        assert!(dry.contains(&part), "{part}: {dry}");
    }
    assert_eq!(good(&shop.run(&["state", "ls"], "one", &["settled"])), keys, "a dry run changes nothing");
    let local = good(&shop.run(&["reset"], "one", &["--local"]));
    assert!(local.contains("local state") && !local.contains("topic"), "{local}");

    let done = good(&shop.run(&["reset"], "one", &["--execute"]));
    assert!(done.contains(&format!("deleted  topic {changelog}")), "{done}");
    let found = shop
        .admin
        .topics(&[&changelog, &shop.repartition(), &format!("{}.orders", shop.name)])
        .expect("a look-up");
    assert_eq!(found.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [None, None, Some(PARTITIONS)]);
    assert!(shop.admin.all_committed(&shop.name).expect("offsets").is_empty());
    let again = good(&shop.run(&["reset"], "one", &["--execute"]));
    assert!(again.contains("nothing to delete"), "{again}");

    // From the beginning.
    let mut one = shop.start("one");
    one.wait_ready(LONG);
    wait("all orders are read again", LONG, || one.metric("slackwater_debounce_pending_keys", "") == 10.0);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_cluster_that_does_not_answer_is_said_so() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let yaml = dir.path().join("t.yaml");
    let text = "name: t\nkafka: { brokers: \"${NOWHERE}\" }\nsources:\n  in: { kafka: { topic: in } }\n";
    std::fs::write(&yaml, text).expect("the file is written");
    let run = |set: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        command.arg("offsets").arg(&yaml).env_remove("NOWHERE");
        command.envs(set.map(|brokers| ("NOWHERE", brokers)));
        let output = command.output().expect("the command runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(None);
    assert!(code == Some(1) && said.contains("set the environment variable NOWHERE"), "{said}");
    let (code, said) = run(Some("127.0.0.1:1"));
    assert!(code == Some(69) && said.contains("Kafka at 127.0.0.1:1 does not answer"), "{said}");
}

/// Two topics with different numbers of partitions, joined.
#[test]
fn a_join_of_topics_with_different_counts_is_refused_with_its_place() {
    let file = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\" }\nsources:\n  orders: { kafka: { topic: NAME.orders } }\n  \
        customers: { kafka: { topic: NAME.customers }, table: {} }\noperators:\n  named:\n    from: orders\n    \
        join: { with: customers }\nsinks:\n  out: { from: named, blackhole: {} }\n";
    let stage = Stage::new("uneven", &[("orders", 2), ("customers", 3)], file);
    let name = &stage.name;
    for words in [&["check", "--connect"][..], &["run"]] {
        let more: &[&str] = if words[0] == "run" { &["--admin", "127.0.0.1:0"] } else { &[] };
        let output = stage.run(words, "one", more);
        // As a report wraps its lines.
        let said = text(&output);
        let said: Vec<&str> = said.split_whitespace().filter(|word| *word != "│").collect();
        let said = said.join(" ");
        assert_eq!(output.status.code(), Some(78), "{said}");
        // A long name is broken at a `-`, where the line ends.
        let unbroken = |text: &str| text.replace(' ', "");
        for part in [
            format!("`{name}.orders` has 2, `{name}.customers` has 3"),
            "uneven.yaml:9:19".into(),
            "help: give them all 3".into(),
            "orders-by-key: { from: orders, key_by: key }".into(),
        ] {
            assert!(unbroken(&said).contains(&unbroken(&part)), "{part:?} in:\n{said}");
        }
    }
    let output = stage.run(&["check", "--connect", "--format", "json"], "one", &[]);
    let problems: Json = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&problems[0]["code"], &problems[0]["line"]), (&json!("connect::partitions"), &json!(9)));
    // What the help says, done.
    let fixed = file
        .replace("NAME", name)
        .replace("from: orders\n", "from: orders-by-key\n")
        .replace("operators:\n", "operators:\n  orders-by-key: { from: orders, key_by: key }\n");
    std::fs::write(&stage.yaml, fixed).expect("the file is written");
    let output = stage.run(&["check", "--connect"], "one", &[]);
    assert!(output.status.success(), "{}", text(&output));
}

/// Equal ids under different keys, in all partitions of the source: one passes, with its own key.
#[test]
fn equal_ids_come_together_from_all_partitions_and_keep_their_keys() {
    let file = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\" }\nstate: { checkpoint: 100ms }\nsources:\n  \
        clicks: { kafka: { topic: NAME.clicks } }\noperators:\n  unique: { from: clicks, dedupe: { by: .id, within: 1h } }\n\
        sinks:\n  out: { from: unique, kafka: { topic: NAME.out } }\n";
    let stage = Stage::new("unique", &[("clicks", PARTITIONS), ("out", 1)], file);
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    stage.send(
        "clicks",
        (0..80).map(|n| (format!("key-{n}"), json!({ "id": n / 40, "key": format!("key-{n}") }))),
    );
    wait("all but two are duplicates", LONG, || {
        one.metric("slackwater_records_dropped_total", "reason=\"duplicate\"") == 78.0
    });
    wait("two came out", LONG, || stage.rows("out").len() == 2);
    for (key, value) in stage.rows("out") {
        assert_eq!(value["key"], key, "its own key");
    }
    assert_eq!(one.stop(LONG), 0);
}
