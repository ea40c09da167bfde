//! What moves the clocks of windows on a real Kafka with the real binary: records, and the wall clock where nothing more
//! comes. `KAFKA_BROKERS=host:port cargo test --test live clocks`.

use std::time::Duration;

use crate::common::{Instance, Stage, wait};
use serde_json::{Value as Json, json};
use slackwater::model::{Clock, SystemClock};

const LONG: Duration = Duration::from_secs(60);

/// One operator, or several, from `in` to `out`.
fn stage(partitions: i32, time: &str, operators: &str) -> Stage {
    let text = format!(
        "name: NAME\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\", session_timeout: 6s }}\nstate: {{ checkpoint: 100ms }}\n\
         errors: {{ on_failure: stop }}\ntime: {time}\nsources:\n  in: {{ kafka: {{ topic: NAME.in }} }}\noperators:\n{operators}\
         sinks:\n  out: {{ from: last, kafka: {{ topic: NAME.out }} }}\n"
    );
    Stage::new("clocks", &[("in", partitions), ("out", 1)], &text)
}

fn start(stage: &Stage) -> Instance {
    stage.start("one")
}

fn late(instance: &Instance) -> f64 {
    instance.metric("slackwater_records_dropped_total", "reason=\"late\"")
}

fn values(stage: &Stage) -> Vec<Json> {
    stage.rows("out").into_iter().map(|(_, value)| value).collect()
}

/// A service that was down reads what came meanwhile: nothing of it is late, though the topic behind the change of the key
/// has been read to its end all the while, and the last windows close though nothing more comes.
#[test]
fn windows_behind_a_change_of_the_key_wait_for_a_backlog() {
    // One partition: several would come in the order in which their tasks read them, not in that of time.
    let stage = stage(
        1,
        "{}",
        "  last: { from: in, aggregate: { by: .c, count: {}, window: { tumbling: 10s, grace: 1s }, emit: final } }\n",
    );
    let first = (SystemClock.now().0 - 120_000) / 10_000 * 10_000;
    let record = |n: i64| (first + n * 100, format!("k{n}"), json!({ "c": format!("c{}", n % 3) }));
    stage.send_at("in", (0..600).map(record));
    let one = start(&stage);
    let total = |rows: &[Json]| rows.iter().filter_map(Json::as_i64).sum::<i64>();
    wait("every window is closed", LONG, || total(&values(&stage)) >= 600);
    let got = values(&stage);
    assert_eq!((total(&got), got.len()), (600, 18), "6 windows of 3 keys: {got:?}");
    assert_eq!(late(&one), 0.0);
    // A key that comes now, alone, has its window closed by the wall clock.
    stage.send_at("in", [(SystemClock.now().0, "k".to_owned(), json!({ "c": "alone" }))]);
    wait("the last window closes", LONG, || values(&stage).len() > 18);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn equal_ids_behind_a_change_of_the_key_are_found_in_a_backlog() {
    let stage = stage(
        2,
        "{}",
        "  keyed: { from: in, key_by: .id }\n  last: { from: keyed, dedupe: { within: 10s } }\n",
    );
    let first = SystemClock.now().0 - 120_000;
    stage.send_at("in", (0..20).map(|n| (first + n * 1000, "k".to_owned(), json!({ "id": "same", "n": n }))));
    let one = start(&stage);
    wait("all is read", LONG, || one.metric("slackwater_records_in_total", "node=\"last\"") >= 20.0);
    wait("what passes is there", LONG, || values(&stage).len() >= 2);
    let passed: Vec<Json> = values(&stage).into_iter().map(|v| v["n"].clone()).collect();
    assert_eq!(passed, [0, 11], "0 and what is more than 10 s later");
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_record_is_not_late_for_the_time_that_it_is_under_way() {
    let stage = stage(
        1,
        "{ delay: 20s }",
        "  last: { from: in, aggregate: { count: {}, window: { sliding: 1m } } }\n",
    );
    let mut one = start(&stage);
    one.wait_ready(LONG);
    for n in 0..20 {
        // Stamped a third of a second before it is sent.
        stage.send_at("in", [(SystemClock.now().0 - 300, "k".to_owned(), json!({ "n": n }))]);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    wait("all is read", LONG, || one.metric("slackwater_records_in_total", "node=\"last\"") >= 20.0);
    assert_eq!(late(&one), 0.0);
    wait("every record has its result", LONG, || values(&stage).contains(&json!(20)));
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_final_result_is_not_sent_again_after_a_stop() {
    let stage = stage(
        1,
        "{ delay: 200ms }",
        "  last: { from: in, aggregate: { count: {}, window: { sliding: 2s, grace: 1s }, emit: final } }\n",
    );
    let mut one = start(&stage);
    one.wait_ready(LONG);
    stage.send_at("in", [(SystemClock.now().0, "k".to_owned(), json!({}))]);
    wait("the result is sent", LONG, || values(&stage).len() == 1);
    assert_eq!(one.stop(LONG), 0);
    let mut one = start(&stage);
    one.wait_ready(LONG);
    // A later window closes: whatever was due before has been sent by then.
    stage.send_at("in", [(SystemClock.now().0, "other".to_owned(), json!({}))]);
    wait("the other result is sent", LONG, || stage.rows("out").iter().any(|(key, _)| key == "other"));
    let keys: Vec<String> = stage.rows("out").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k", "other"]);
    assert_eq!(one.stop(LONG), 0);
}
