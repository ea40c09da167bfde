//! A user's processor driven as its task does: timers, punctuations, stores, restarts.

use serde_json::json;

use super::super::schedule::Punctuator;
use super::*;
use crate::model::{Millis, Reason, Value};
use crate::operators::Reject;
use crate::operators::harness::{Harness, Out, out};

/// Does what its records say: `set AT`, `cancel`, `put N`, `refuse`. Everything that fires goes out.
#[derive(Clone, Default)]
struct Toy {
    stream: Option<i64>,
    wall: Option<i64>,
    first: bool,
}

impl Processor for Toy {
    fn punctuators(&self) -> Vec<Punctuator> {
        let stream = self.stream.map(|every| Punctuator::stream("tick", Millis(every)));
        let wall = self.wall.map(|every| Punctuator::wall("tock", Millis(every)));
        stream.into_iter().chain(wall).collect()
    }

    fn process(&mut self, record: Record, cx: &mut ProcessorCx<'_, '_>) -> Result<(), OperatorError> {
        let key = record.key.clone().unwrap_or_default();
        let text = record.value.show();
        let words: Vec<&str> = text.as_str().unwrap_or_default().split(' ').collect();
        match words.as_slice() {
            ["set", at] => cx.set_timer(&key, Timestamp(at.parse().expect("a number")))?,
            ["cancel"] => cx.cancel_timer(&key)?,
            ["put", n] => {
                let before: Option<i64> = cx.store("sums").get_json(&key)?;
                let sum = before.unwrap_or(0) + n.parse::<i64>().expect("a number");
                cx.store("sums").put_json(&key, &sum)?;
                cx.store("other").put(&key, "x");
            }
            ["refuse"] => return Err(OperatorError::reject(record, Reason::Custom, "as told")),
            _ => {}
        }
        cx.forward(record);
        Ok(())
    }

    fn punctuate(
        &mut self,
        name: &'static str,
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        for (key, sum) in cx.store("sums").all()? {
            let sum: i64 = serde_json::from_slice(&sum).expect("is JSON");
            cx.forward(Record::new(key, Value::from(json!({ name: sum })), at));
        }
        cx.forward(Record::new(name, Value::Null, at));
        Ok(())
    }

    fn timer(
        &mut self,
        key: &[u8],
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        if key == b"bad" {
            let record = Record::new(key.to_vec(), Value::Null, at);
            let detail = String::new();
            let reject = Reject { reason: Reason::Custom, detail, record, attempts: 1 };
            return Err(OperatorError::Reject(Box::new(reject)));
        }
        cx.forward(Record::new(key.to_vec(), Value::from(json!("timer")), at));
        Ok(())
    }

    fn time_first(&self) -> bool {
        self.first
    }
}

fn node(toy: Toy) -> Harness {
    let first = toy.first;
    let mut node = Harness::new(move || Box::new(ProcessorNode::new(toy.clone()))).time_first(first);
    node.restart();
    node
}

fn send(node: &mut Harness, key: &str, text: &str, ts: i64) -> Vec<String> {
    shown(node.record(0, Record::new(key.to_owned(), Value::from(json!(text)), Timestamp(ts))))
}

/// `key@ts` of a record that was sent on; `key!` in front of one that a timer sent.
fn shown(outs: Vec<Out>) -> Vec<String> {
    let one = |out| match out {
        Out::Record { key, value, ts } => {
            let mark = if value == json!("timer") { "!" } else { "" };
            format!("{}{mark}@{ts}", key.unwrap_or_default())
        }
        other => format!("{other:?}"),
    };
    outs.into_iter().map(one).collect()
}

/// Runs the steps twice, with and without a checkpoint and a restart after each: the results are equal.
fn check(toy: &Toy, steps: &[(&str, &str, i64)], want: &[&[&str]]) {
    for restarts in [false, true] {
        let mut node = node(toy.clone());
        for ((key, text, at), want) in steps.iter().zip(want) {
            let got = match *key {
                "stream" => shown(node.watermark(*at)),
                "wall" => shown(node.wall(*at)),
                key => send(&mut node, key, text, *at),
            };
            assert_eq!(got, *want, "{key} {text} {at}, restarts: {restarts}");
            if restarts {
                node.checkpoint();
                node.restart();
            }
        }
    }
}

#[test]
fn a_timer_is_called_when_the_clock_has_reached_it() {
    let toy = Toy::default();
    check(
        &toy,
        &[("a", "set 10", 1), ("stream", "", 9), ("stream", "", 10), ("stream", "", 99)],
        &[&["a@1"], &[], &["a!@10"], &[]],
    );
    check(&toy, &[("a", "set 10", 1), ("b", "", 10)], &[&["a@1"], &["b@10", "a!@10"]]);
    check(&toy, &[("a", "set 3", 5)], &[&["a@5", "a!@3"]]);
}

#[test]
fn one_timer_per_key_and_the_newest_counts() {
    let toy = Toy::default();
    check(
        &toy,
        &[("a", "set 10", 1), ("a", "set 20", 2), ("stream", "", 19), ("stream", "", 20)],
        &[&["a@1"], &["a@2"], &[], &["a!@20"]],
    );
    check(
        &toy,
        &[("a", "set 20", 1), ("a", "set 10", 2), ("stream", "", 30)],
        &[&["a@1"], &["a@2"], &["a!@10"]],
    );
    check(&toy, &[("a", "set 10", 1), ("a", "cancel", 2), ("stream", "", 30)], &[&["a@1"], &["a@2"], &[]]);
    check(
        &toy,
        &[("b", "set 10", 1), ("a", "set 10", 1), ("c", "set 9", 1), ("stream", "", 10)],
        &[&["b@1"], &["a@1"], &["c@1"], &["c!@9", "a!@10", "b!@10"]],
    );
}

#[test]
fn time_first_lets_timers_go_before_the_record() {
    let toy = Toy { first: true, stream: Some(10), ..Toy::default() };
    check(&toy, &[("a", "set 8", 1), ("b", "", 12)], &[&["tick@1", "a@1"], &["a!@8", "tick@12", "b@12"]]);
}

#[test]
fn punctuations_go_over_restarts() {
    let stream = Toy { stream: Some(10), ..Toy::default() };
    check(
        &stream,
        &[("a", "put 2", 3), ("a", "put 5", 9), ("stream", "", 35), ("stream", "", 39), ("stream", "", 40)],
        &[&["a@3", "a@3", "tick@3"], &["a@9"], &["a@35", "tick@35"], &[], &["a@40", "tick@40"]],
    );
    let wall = Toy { wall: Some(10), ..Toy::default() };
    check(
        &wall,
        &[("wall", "", 9), ("wall", "", 10), ("wall", "", 45), ("wall", "", 49), ("wall", "", 50)],
        &[&[], &["tock@10"], &["tock@45"], &[], &["tock@50"]],
    );
}

#[test]
fn another_interval_begins_anew_and_a_punctuator_that_is_gone_leaves_nothing() {
    let mut old = node(Toy { stream: Some(10), wall: Some(10), ..Toy::default() });
    assert_eq!(send(&mut old, "a", "", 25), ["a@25", "tick@25"]);
    old.checkpoint();
    assert_eq!(old.rows(), 2);
    old.replace(|| Box::new(ProcessorNode::new(Toy { stream: Some(7), ..Toy::default() })));
    assert_eq!(old.deadline(), Some(Timestamp(28)), "the next multiple of 7");
    old.checkpoint();
    assert_eq!(old.rows(), 1);
}

#[test]
fn stores_do_not_see_each_other() {
    let mut node = node(Toy { stream: Some(10), ..Toy::default() });
    send(&mut node, "a", "put 2", 1);
    send(&mut node, "b", "set 90", 2);
    let outs = node.record(0, Record::new("a", Value::from(json!("put 3")), Timestamp(10)));
    let sums =
        [out("a", json!("put 3"), 10), out("a", json!({ "tick": 5 }), 10), out("tick", json!(null), 10)];
    assert_eq!(outs, sums, "one key in `sums`, whatever else there is");
}

#[test]
fn a_refused_record_keeps_nothing_else_from_happening() {
    let toy = Toy::default();
    check(
        &toy,
        &[("a", "refuse", 1), ("bad", "set 5", 2), ("c", "set 5", 3), ("stream", "", 5)],
        &[&["Rejected(Custom)"], &["bad@2"], &["c@3"], &["c!@5", "Rejected(Custom)"]],
    );
}

#[test]
fn many_timers_of_one_moment_all_come() {
    let mut node = node(Toy::default());
    for n in 0..3000 {
        send(&mut node, &format!("{n:04}"), "set 10", 1);
    }
    let outs = shown(node.watermark(10));
    assert_eq!((outs.len(), outs.last().map(String::as_str)), (3000, Some("2999!@10")));
    node.checkpoint();
    assert_eq!(node.rows(), 0, "nothing is left");
}

#[test]
fn rows_are_shown_as_what_they_are() {
    let at = ordered_i64(7);
    for (key, value, shown) in [
        (store_prefix("sums"), b"3".to_vec(), json!(["", 3, { "store": "sums" }])),
        ([&store_prefix("n")[..], b"k"].concat(), b"\"v\"".to_vec(), json!(["k", "v", { "store": "n" }])),
        (row_key(TIMER, b"k"), [&[1][..], &at].concat(), json!(["k", 7, { "timer": true }])),
        (by_time(Timestamp(7), b"k"), vec![1], json!(["k", null, { "timer_at": 7 }])),
        (
            row_key(PUNCTUATOR, b"tick"),
            Punctuator::stream("tick", Millis(1)).row(Timestamp(9)).to_vec(),
            json!(["tick", 9, { "punctuator": true }]),
        ),
    ] {
        let row = describe_row(&key, &value).expect("is a row");
        assert_eq!(json!([row.key, row.value, row.at]), shown);
    }
    assert_eq!(describe_row(b"x", b""), None);
}

#[test]
fn a_key_has_a_row_in_each_store_a_timer_and_the_punctuator_of_its_name() {
    let mut node = Harness::new(|| {
        Box::new(ProcessorNode::new(Toy { stream: Some(1000), ..Toy::default() })) as Box<dyn Operator>
    });
    node.restart();
    for (key, what) in [("k", "put 3"), ("k", "set 70"), ("kk", "put 4"), ("tick", "put 5")] {
        node.record(0, Record::new(key, Value::from(json!(what)), Timestamp(1)));
    }
    let found = |key: &str| -> Vec<serde_json::Value> {
        let rows = node.query(key);
        let shown = rows.iter().map(|(key, row)| describe_row(key, row).expect("is a row"));
        shown.map(|row| json!([row.value, row.at])).collect()
    };
    let [other, sums, timer] =
        [json!(["x", { "store": "other" }]), json!([3, { "store": "sums" }]), json!([70, { "timer": true }])];
    assert_eq!(found("k"), [other.clone(), sums, timer]);
    let [five, tick] = [json!([5, { "store": "sums" }]), json!([1000, { "punctuator": true }])];
    assert_eq!(found("tick"), [other, five, tick]);
    assert_eq!(found("nobody"), Vec::<serde_json::Value>::new());
}

#[test]
fn damaged_rows_stop_the_task() {
    for (key, row) in [(row_key(TIMER, b"k"), vec![1, 2]), (row_key(TIMER, b"k"), vec![2; 9])] {
        let backend = std::sync::Arc::new(crate::state::MemoryBackend::default());
        let mut store = Store::new("n", backend);
        store.put(&key, Bytes::from(row));
        assert!(due(b"k", &store).is_err());
    }
}
