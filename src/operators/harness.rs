//! Drives one node as its task does, for the tests of operators.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cx, Effects, Emit, Operator, OperatorError, Query, Stores, Tally};
use crate::model::{Json, Reason, Record, Timestamp};
use crate::state::{Backend, MemoryBackend, Store};

/// What came out, shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Out {
    /// A record was sent on.
    Record { key: Option<String>, value: Json, ts: i64 },
    /// A drop, by rule.
    Dropped(Reason),
    /// A record was refused.
    Rejected(Reason),
}

/// A record that was sent on.
pub(super) fn out(key: &str, value: Json, ts: i64) -> Out {
    Out::Record { key: Some(key.to_owned()), value, ts }
}

/// Drives one operator as a task does, for tests. The node's own store is number 0.
pub(super) struct Harness {
    make: Box<dyn Fn() -> Box<dyn Operator>>,
    op: Box<dyn Operator>,
    stores: Vec<Store>,
    backend: Arc<MemoryBackend>,
    clock: Timestamp,
    /// The wall clock, where it is ahead of the node's clock.
    now: Timestamp,
    time_first: bool,
    pub(super) tally: Tally,
}

impl Harness {
    pub(super) fn new(make: impl Fn() -> Box<dyn Operator> + 'static) -> Harness {
        let backend = Arc::new(MemoryBackend::default());
        let stores = vec![Store::new("node", Arc::clone(&backend) as Arc<dyn Backend>)];
        let op = make();
        let (clock, now) = (Timestamp::MIN, Timestamp(0));
        Harness {
            make: Box::new(make),
            op,
            stores,
            backend,
            clock,
            now,
            time_first: false,
            tally: Tally::default(),
        }
    }

    /// The same, with timers that go before the record that makes them due: see [`super::Timing`].
    pub(super) fn time_first(self, time_first: bool) -> Harness {
        Harness { time_first, ..self }
    }

    fn call(
        &mut self,
        input: u16,
        f: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> Result<(), OperatorError>,
    ) -> Vec<Out> {
        let mut effects = Effects::default();
        let now = self.now.max(self.clock);
        let mut cx = Cx::new(now, self.clock, input, &mut self.stores, &[0], &mut effects, &mut self.tally);
        let result = f(self.op.as_mut(), &mut cx);
        let mut outs = Vec::new();
        for emit in effects.emits {
            if let Emit::Record { record, .. } = emit {
                let key = record.key.map(|k| String::from_utf8_lossy(&k).into_owned());
                outs.push(Out::Record { key, value: record.value.show(), ts: record.ts.0 });
            }
        }
        outs.extend(effects.drops.into_iter().map(Out::Dropped));
        outs.extend(effects.rejects.into_iter().map(|r| Out::Rejected(r.reason)));
        match result {
            Ok(()) => {}
            Err(OperatorError::Reject(reject)) => outs.push(Out::Rejected(reject.reason)),
            Err(OperatorError::Fatal(e)) => panic!("{e}"),
        }
        outs
    }

    fn due(&mut self) -> Vec<Out> {
        let mut outs = Vec::new();
        while self.op.deadline().is_some_and(|at| at <= self.clock) {
            let before = self.op.deadline();
            let more = self.call(0, |op, cx| op.on_time(cx));
            if more.is_empty() && self.op.deadline() == before {
                break;
            }
            outs.extend(more);
        }
        outs
    }

    /// One record, its own timestamp moving the clock.
    pub(super) fn record(&mut self, input: u16, record: Record) -> Vec<Out> {
        self.clock = self.clock.max(record.ts);
        let mut outs = if self.time_first { self.due() } else { Vec::new() };
        outs.extend(self.call(input, |op, cx| op.on_record(record, cx)));
        outs.extend(self.due());
        outs
    }

    /// Stream time without a record.
    pub(super) fn watermark(&mut self, ms: i64) -> Vec<Out> {
        self.clock = self.clock.max(Timestamp(ms));
        let mut outs = self.due();
        outs.extend(self.call(0, |op, cx| {
            op.on_watermark(cx);
            Ok(())
        }));
        outs
    }

    /// Only the wall clock moves.
    pub(super) fn wall(&mut self, ms: i64) -> Vec<Out> {
        self.now = Timestamp(ms);
        if self.op.wall_deadline().is_some_and(|at| at <= self.now) {
            self.call(0, |op, cx| op.on_wall(cx))
        } else {
            Vec::new()
        }
    }

    /// Stream time without a record; the records that it sets free.
    pub(super) fn records_at(&mut self, ms: i64) -> Vec<Record> {
        self.clock = self.clock.max(Timestamp(ms));
        let mut effects = Effects::default();
        let mut cx =
            Cx::new(self.clock, self.clock, 0, &mut self.stores, &[0], &mut effects, &mut self.tally);
        self.op.on_time(&mut cx).expect("no error");
        let record = |emit| if let Emit::Record { record, .. } = emit { Some(record) } else { None };
        effects.emits.into_iter().filter_map(record).collect()
    }

    /// Stream time without a record; the stream time for the nodes below.
    pub(super) fn watermark_out(&mut self, ms: i64) -> Option<i64> {
        self.clock = self.clock.max(Timestamp(ms));
        self.due();
        let mut effects = Effects::default();
        let mut cx =
            Cx::new(self.clock, self.clock, 0, &mut self.stores, &[0], &mut effects, &mut self.tally);
        self.op.on_watermark(&mut cx);
        effects.emits.into_iter().find_map(|e| if let Emit::Watermark(at) = e { Some(at.0) } else { None })
    }

    /// The rows of a key.
    pub(super) fn query(&self, key: &str) -> Vec<(Bytes, Bytes)> {
        let mut query = Query::new(key.as_bytes(), Stores::new(&self.stores, &[0]));
        self.op.query(&mut query).expect("answers");
        query.into_answer().rows
    }

    /// Rows of the last checkpoint.
    pub(super) fn rows(&self) -> usize {
        self.backend.snapshot().len()
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.op.deadline()
    }

    /// Ends the epoch and applies it; the number of its rows.
    pub(super) fn checkpoint(&mut self) -> usize {
        self.call(0, |op, cx| {
            op.seal(cx);
            Ok(())
        });
        self.stores.iter_mut().for_each(Store::begin_seal);
        self.call(0, |op, cx| {
            while !op.seal_more(cx, 1).expect("encodes") {}
            Ok(())
        });
        let mut rows = Vec::new();
        for store in &mut self.stores {
            store.end_seal_rows(&mut rows);
        }
        self.backend.write(&rows).expect("writes");
        self.stores.iter_mut().for_each(|store| drop(store.applied()));
        rows.len()
    }

    /// Another operator takes over the state.
    pub(super) fn replace(&mut self, make: impl Fn() -> Box<dyn Operator> + 'static) {
        self.make = Box::new(make);
        self.restart();
    }

    /// Drops what is in memory and reads the state back: what was in no checkpoint is lost.
    pub(super) fn restart(&mut self) {
        self.op = (self.make)();
        self.stores = vec![Store::new("node", Arc::clone(&self.backend) as Arc<dyn Backend>)];
        self.call(0, |op, cx| op.open(cx).map_err(OperatorError::Fatal));
    }
}
