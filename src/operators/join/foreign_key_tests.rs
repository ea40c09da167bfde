//! The two halves of a foreign-key join, with delays between them: subscriptions and answers lie in queues, one for
//! each partition of the right table, and are taken in random order. When all have been taken, the newest results are
//! the join of the two tables, whatever overtook what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::json;

use super::config::{JoinConfig, JoinType};
use super::foreign_key_apart::{LeftHalf, RightHalf, RightHalfConfig, SUBSCRIPTIONS};
use super::plan::JoinPlan;
use crate::model::{Expr, Json, Record, Timestamp, Value};
use crate::operators::table::{Table, TableConfig};
use crate::operators::{Cx, Effects, Emit, NodePlan, Operator, Tally};
use crate::state::{Backend, MemoryBackend, Store};

/// A half with its table; what its records send, by output.
struct Half {
    op: Box<dyn Operator>,
    table: Table,
    /// The half's own store, then the table's.
    stores: Vec<Store>,
}

impl Half {
    fn new(op: Box<dyn Operator>) -> Half {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let stores = ["half", "table"].map(|name| Store::new(name, Arc::clone(&backend))).into();
        Half { op, table: Table::new(&TableConfig::default()), stores }
    }

    fn call(&mut self, input: u16, record: Record) -> Vec<(u16, Record)> {
        let (mut effects, mut tally, at) = (Effects::default(), Tally::default(), Timestamp(0));
        let mut cx = Cx::new(at, at, input, &mut self.stores, &[0, 1], &mut effects, &mut tally);
        self.op.on_record(record, &mut cx).expect("no error");
        let sent = effects.emits.into_iter().map(|emit| match emit {
            Emit::Record { port, record, .. } => (port, record),
            Emit::Watermark(_) => panic!("no watermark"),
        });
        sent.collect()
    }

    /// A row of the table changes, and the half gets the change.
    fn change(&mut self, input: u16, key: &str, value: &Json) -> Vec<(u16, Record)> {
        let record = Record::new(key.to_owned(), Value::from(value.clone()), Timestamp(0));
        let (mut effects, mut tally, at) = (Effects::default(), Tally::default(), Timestamp(0));
        let mut cx = Cx::new(at, at, 0, &mut self.stores, &[1], &mut effects, &mut tally);
        let record = self.table.update(record, &mut cx).expect("no error").expect("it has a key");
        self.call(input, record)
    }
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.key.as_ref().expect("a key")).into_owned()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("fits") % n
    }
}

const PARTITIONS: usize = 2;

/// The partition is the digit at the foreign key's end.
fn partition(foreign: &str) -> usize {
    foreign.bytes().last().map_or(0, usize::from) % PARTITIONS
}

fn check(kind: JoinType, seed: u64) {
    let mut random = Random(seed);
    let config = JoinConfig { on: Some(Expr::new(".fk", None)), kind, ..JoinConfig::new("r") };
    let table = TableConfig::default();
    let sides = NodePlan { sides: Some([Some(table); 2]), ..NodePlan::default() };
    let plan = JoinPlan::of(&config, &sides).expect("is sound");
    let mut left = Half::new(Box::new(LeftHalf::new(&config, &plan)));
    let right = RightHalfConfig { right: plan.right.expect("a table"), on: ".fk".into() };
    let mut right = Half::new(Box::new(RightHalf::new(&right)));
    let mut asked: [VecDeque<Record>; PARTITIONS] = Default::default();
    let mut answers: [VecDeque<Record>; PARTITIONS] = Default::default();
    let (mut lefts, mut rights) = (BTreeMap::new(), BTreeMap::new());
    let mut view: BTreeMap<String, Json> = BTreeMap::new();
    let mut n = 0;
    loop {
        n += 1;
        let feeding = n < 80;
        let pending = asked.iter().chain(&answers).any(|queue| !queue.is_empty());
        if !feeding && !pending {
            break;
        }
        let mut sent = Vec::new();
        match random.below(6) {
            0 if feeding => {
                let key = format!("k{}", random.below(3));
                let row = match random.below(5) {
                    0 => Json::Null,
                    1 => json!({ "fk": null, "n": n }),
                    // Sometimes the value that it had before, so that answers to two different values look alike.
                    2 => lefts.get(&key).cloned().unwrap_or_default(),
                    3 => json!({ "fk": format!("f{}", random.below(3)) }),
                    _ => json!({ "fk": format!("f{}", random.below(3)), "n": n }),
                };
                sent = left.change(0, &key, &row);
                lefts.insert(key, row);
            }
            1 if feeding => {
                let key = format!("f{}", random.below(3));
                let row = if random.below(2) == 0 { Json::Null } else { json!({ "r": n }) };
                for (_, answer) in right.change(1, &key, &row) {
                    answers[partition(&key)].push_back(answer);
                }
                rights.insert(key, row);
            }
            2 | 3 => {
                let at = random.below(PARTITIONS);
                if let Some(record) = asked[at].pop_front() {
                    answers[at].extend(right.call(0, record).into_iter().map(|(_, answer)| answer));
                }
            }
            _ => {
                let at = random.below(PARTITIONS);
                if let Some(record) = answers[at].pop_front() {
                    sent = left.call(1, record);
                }
            }
        }
        for (port, record) in sent {
            if port == SUBSCRIPTIONS {
                asked[partition(&text(&record))].push_back(record);
            } else if record.value.is_null() {
                view.remove(&text(&record));
            } else {
                view.insert(text(&record), record.value.show());
            }
        }
    }
    let mut want = BTreeMap::new();
    for (key, row) in lefts.iter().filter(|(_, row)| !row.is_null()) {
        let named = row["fk"].as_str().and_then(|fk| rights.get(fk)).filter(|right| !right.is_null());
        if named.is_some() || kind == JoinType::Left {
            want.insert(key.clone(), json!({ "left": row, "right": named.cloned().unwrap_or_default() }));
        }
    }
    assert_eq!(view, want, "{kind:?} seed {seed}");
    if kind == JoinType::Inner {
        let mut rows = 0;
        let count = &mut |_: &[u8], _: &[u8]| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        };
        left.stores[0].scan(b"", None, count).expect("scans");
        assert_eq!(rows, want.len(), "one note for each result, seed {seed}");
    }
}

#[test]
fn whatever_crosses_between_the_halves_the_join_is_right_in_the_end() {
    for seed in 0..1500 {
        check(JoinType::Inner, seed);
        check(JoinType::Left, seed);
    }
}
