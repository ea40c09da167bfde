//! Drives one node as its task does, for the tests of `aggregate` and `suppress`.

use std::sync::Arc;

use super::super::AggregateConfig;
use crate::model::{Json, Reason, Record, Timestamp, Value};
use crate::operators::{Cx, Effects, Emit, Operator, OperatorError, Tally};
use crate::state::{Backend, MemoryBackend, Store};

/// What came out: key, window, value, timestamp.
pub(crate) type Out = (String, Option<(i64, i64)>, Json, i64);

/// How far a checkpoint has come.
#[derive(Clone, Copy, PartialEq)]
enum Seal {
    None,
    Copying,
    Written,
}

pub(crate) struct Rig {
    seal: Seal,
    make: Box<dyn Fn() -> Box<dyn Operator>>,
    op: Box<dyn Operator>,
    stores: Vec<Store>,
    pub(crate) backend: Arc<MemoryBackend>,
    pub(crate) clock: Timestamp,
    tally: Tally,
    pub(crate) drops: Vec<Reason>,
    pub(crate) watermark: Option<Timestamp>,
}

impl Rig {
    pub(crate) fn new(make: impl Fn() -> Box<dyn Operator> + 'static) -> Rig {
        let backend = Arc::new(MemoryBackend::default());
        let stores = vec![Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>)];
        Rig {
            seal: Seal::None,
            op: make(),
            make: Box::new(make),
            stores,
            backend,
            clock: Timestamp::MIN,
            tally: Tally::default(),
            drops: Vec::new(),
            watermark: None,
        }
    }

    fn call<T>(&mut self, f: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> T) -> (T, Vec<Record>) {
        let mut effects = Effects::default();
        let mut cx =
            Cx::new(self.clock, self.clock, 0, &mut self.stores, &[0], &mut effects, &mut self.tally);
        let result = f(self.op.as_mut(), &mut cx);
        self.drops.append(&mut effects.drops);
        let mut records = Vec::new();
        for emit in effects.emits {
            match emit {
                Emit::Record { record, .. } => records.push(record),
                Emit::Watermark(at) => self.watermark = Some(at),
            }
        }
        (result, records)
    }

    fn due(&mut self, out: &mut Vec<Record>) {
        while self.op.deadline().is_some_and(|at| at <= self.clock) {
            let before = self.op.deadline();
            let (result, records) = self.call(|op, cx| op.on_time(cx));
            result.unwrap();
            assert!(!records.is_empty() || self.op.deadline() != before, "no progress");
            out.extend(records);
        }
    }

    pub(crate) fn record(&mut self, record: Record) -> Result<Vec<Record>, (Reason, String)> {
        self.clock = self.clock.max(record.ts);
        let (result, mut out) = self.call(|op, cx| op.on_record(record, cx));
        match result {
            Ok(()) => {}
            Err(OperatorError::Reject(reject)) => return Err((reject.reason, reject.detail)),
            Err(OperatorError::Fatal(e)) => return Err((Reason::Full, e.to_string())),
        }
        self.due(&mut out);
        Ok(out)
    }

    /// A record with a JSON value; what comes out.
    pub(crate) fn send(&mut self, key: &str, value: Json, ts: i64) -> Vec<Out> {
        show(&self.record(Record::new(key.to_owned(), Value::from(value), Timestamp(ts))).unwrap())
    }

    /// Stream time moves without a record.
    pub(crate) fn at(&mut self, ms: i64) -> Vec<Out> {
        self.clock = self.clock.max(Timestamp(ms));
        let mut out = Vec::new();
        self.due(&mut out);
        self.call(|op, cx| op.on_watermark(cx));
        show(&out)
    }

    /// A whole checkpoint, after the rest of the one under way.
    pub(crate) fn checkpoint(&mut self) {
        while self.seal != Seal::None {
            self.checkpoint_piece();
        }
        self.checkpoint_piece();
        while self.seal != Seal::None {
            self.checkpoint_piece();
        }
    }

    /// The next step of a checkpoint: anything may happen between two of them.
    pub(crate) fn checkpoint_piece(&mut self) {
        self.seal = match self.seal {
            Seal::None => {
                self.call(|op, cx| {
                    op.seal(cx);
                    cx.store(0).begin_seal();
                });
                Seal::Copying
            }
            Seal::Copying => {
                if self.call(|op, cx| op.seal_more(cx, 1).unwrap()).0 {
                    let mut rows = Vec::new();
                    self.stores[0].end_seal_rows(&mut rows);
                    self.backend.write(&rows).unwrap();
                    Seal::Written
                } else {
                    Seal::Copying
                }
            }
            Seal::Written => {
                self.stores[0].applied();
                Seal::None
            }
        };
    }

    pub(crate) fn restart(&mut self) {
        self.checkpoint();
        self.stores = vec![Store::new("n", Arc::clone(&self.backend) as Arc<dyn Backend>)];
        self.op = (self.make)();
        self.call(|op, cx| op.open(cx)).0.unwrap();
    }

    /// Drops counted since the last call.
    pub(crate) fn dropped(&mut self) -> Vec<Reason> {
        std::mem::take(&mut self.drops)
    }

    /// Rows in the store after a checkpoint.
    pub(crate) fn rows(&mut self) -> usize {
        self.checkpoint();
        self.backend.snapshot().len()
    }
}

pub(crate) fn show(records: &[Record]) -> Vec<Out> {
    let text = |r: &Record| String::from_utf8_lossy(r.key.as_ref().unwrap()).into_owned();
    records
        .iter()
        .map(|r| (text(r), r.window.map(|w| (w.start.0, w.end.0)), r.value.show(), r.ts.0))
        .collect()
}

/// Settings from JSON; a text in the place of an expression is read as `yaml/` would hand it over.
pub(crate) fn config(mut json: Json) -> Result<AggregateConfig, serde_json::Error> {
    const EXPRESSIONS: [&str; 14] = [
        "by",
        "sum",
        "min",
        "max",
        "avg",
        "first",
        "last",
        "of",
        "distinct",
        "approx_distinct",
        "reduce",
        "step",
        "merge",
        "subtract",
    ];
    fn place(json: &mut Json, all: bool) {
        for (name, value) in json.as_object_mut().into_iter().flatten() {
            if value.is_string() && (all || EXPRESSIONS.contains(&name.as_str())) {
                *value = serde_json::json!([0, 0, value]);
            }
            place(value, name == "fields");
        }
    }
    place(&mut json, false);
    serde_json::from_value(json)
}

/// An expected result.
pub(crate) fn out(key: &str, window: (i64, i64), value: Json, ts: i64) -> Out {
    (key.to_owned(), Some(window), value, ts)
}
