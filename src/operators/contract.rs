//! The contract between a node and its task.

use std::sync::Arc;

use super::metric::{Count, Gauge};
use super::query::Query;
use crate::model::{Call, EvalError, Reason, Record, Reply, SinkRow, Timestamp};
use crate::state::{StateError, Store};

/// A record that this node cannot process. The topology's `errors` policy decides what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reject {
    /// The class.
    pub reason: Reason,
    /// What exactly, for the dead letter.
    pub detail: String,
    /// The record as it came into the node.
    pub record: Record,
    /// How often it was tried.
    pub attempts: u32,
}

/// What an operator may fail with.
#[derive(Debug)]
pub enum OperatorError {
    /// This record is bad; the node goes on. Boxed: it is rare and holds the record.
    Reject(Box<Reject>),
    /// State or code is broken; the task stops.
    Fatal(StateError),
}

impl From<StateError> for OperatorError {
    fn from(error: StateError) -> Self {
        OperatorError::Fatal(error)
    }
}

impl OperatorError {
    /// A record refused for `reason`.
    #[must_use]
    pub fn reject(record: Record, reason: Reason, detail: impl Into<String>) -> OperatorError {
        OperatorError::Reject(Box::new(Reject { reason, detail: detail.into(), record, attempts: 1 }))
    }

    /// A record on which an expression failed.
    #[must_use]
    pub fn expression(record: Record, error: &EvalError) -> OperatorError {
        OperatorError::reject(record, error.reason(), error.to_string())
    }
}

/// May a record come in now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Yes.
    Yes,
    /// Not yet. Nothing more of its partition is read, and no clock goes by what stands there.
    Wait,
    /// Never: what becomes of it says the topology's `errors`.
    Refuse(Reason),
}

/// How far another consumer group has come in a topic, on the task's own partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commits {
    /// The group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The next offset that it will read: everything before it is done.
    pub next: i64,
}

/// One node of one task.
pub trait Operator: Send {
    /// Reads back what a resident operator keeps in memory, at the start of the task. `cx` takes no effects here
    /// other than [`Cx::call`] (calls that were under way are made again).
    ///
    /// # Errors
    /// State that cannot be read: the task does not start.
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let _ = cx;
        Ok(())
    }

    /// A record came in. `cx.input` says through which of the node's inputs.
    ///
    /// # Errors
    /// `Reject`: this record is bad. `Fatal`: the task stops.
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError>;

    /// These records will come next, or most of them: reads what they will need, so that cache misses overlap. Changes
    /// nothing; a few dozen records at a time. As they were read: nodes between may give them another key or value.
    fn warm(&self, records: &[Record], stores: &Stores<'_>) {
        let _ = (records, stores);
    }

    /// The node's clock time at which [`Operator::on_time`] wants to be called: may be early, never late. Cheap.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }

    /// The clock has reached the deadline. May do a bounded part of the work; it is called again while a deadline at
    /// or before the clock is left.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = cx;
        Ok(())
    }

    /// Does this record move the node's clock? Not where Kafka Streams drops it before it looks at its timestamp.
    fn moves_time(&self, record: &Record) -> bool {
        let _ = record;
        true
    }

    /// Does it drop or part with what comes behind its clock? Then the wall clock, which may be ahead of records that are
    /// still under way, stays `time.delay` behind for it.
    fn refuses_late(&self) -> bool {
        false
    }

    /// Are timers due at a record's stream time called before the record is taken?
    fn time_first(&self) -> bool {
        false
    }

    /// The wall clock time at which [`Operator::on_wall`] wants to be called (retries, wall-clock punctuation).
    fn wall_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// The wall clock (`cx.now`) has reached the wall deadline.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_wall(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = cx;
        Ok(())
    }

    /// A call made through [`Cx::call`] was answered.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_reply(&mut self, call: u64, reply: Reply, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = (call, reply, cx);
        Ok(())
    }

    /// Has it a say in what comes in? Asked once, when the task opens; it counts directly behind a source.
    fn gates(&self) -> bool {
        false
    }

    /// May this record of the source above come in now? As it was read: nothing of it is decoded yet. The answer may
    /// change with what the operator is told later and with the wall clock `now`.
    fn admits(&self, record: &Record, now: Timestamp) -> Admits {
        let _ = (record, now);
        Admits::Yes
    }

    /// Another consumer group has committed.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_commits(&mut self, commits: &Commits, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = (commits, cx);
        Ok(())
    }

    /// Is there something left to do because of records that came in? A source that has ended ends the task only when
    /// nothing is. What is called again and again for ever (punctuation) does not count.
    fn has_work(&self) -> bool {
        self.deadline().is_some() || self.wall_deadline().is_some()
    }

    /// The node's clock went forward without a record, and timers due were called. The default passes it on; a node
    /// with calls in flight holds it back until they are done.
    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        cx.watermark(cx.clock);
    }

    /// The epoch ends: an operator that keeps changed rows in memory fixes which they are, as they are now. Its stores'
    /// seals begin with it.
    fn seal(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// Hands over or puts into the sealed epoch what [`Operator::seal`] fixed, about `rows_max` rows of it; true when all
    /// of it is there. Called after `seal`, and again while it is false, with the next epoch's records in between.
    ///
    /// # Errors
    /// A row cannot be encoded: the task stops, and the epoch is not committed.
    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        let _ = (cx, rows_max);
        Ok(true)
    }

    /// From now on [`Operator::oldest`] is asked (`state: { changelog: off }`): called once, before `open`. What the
    /// operator holds is made again by reading from there, never from rows: it need not write any.
    fn track_origins(&mut self) {}

    /// The lowest input offset of a topic that what the operator holds came from: without a changelog, committed
    /// offsets may not pass it.
    fn oldest(&self, topic: u16) -> Option<i64> {
        let _ = topic;
        None
    }

    /// The rows of a key in the node's own store, those that are in memory alone included, as they would be on disk if
    /// the epoch ended now; not those that only lead to others. Changes nothing that shows.
    ///
    /// # Errors
    /// The state failed, or a row cannot be encoded.
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let _ = query;
        Ok(())
    }

    /// What the operator holds in memory: the driver's back-pressure and the metrics.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Shows the gauges of its own kind ([`super::OperatorSettings::metrics`]), each as it is now.
    fn gauges(&self, _show: &mut dyn FnMut(&'static Gauge, usize)) {}
}

/// What an operator holds, for bounds and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Keys waiting (debounce, suppress).
    pub keys: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Calls not yet answered, queued ones included.
    pub calls: usize,
    /// The node takes no more for now: the task takes no input and its clock waits.
    pub full: bool,
}

/// Something an operator sends to the nodes below it.
#[derive(Debug)]
pub enum Emit {
    /// A record, through an output port, with the stream time that travels with it.
    Record {
        /// Output port (`branch`), 0 else.
        port: u16,
        /// The record.
        record: Record,
        /// Stream time for the nodes below; usually the record's own timestamp.
        stream: Timestamp,
    },
    /// Stream time alone.
    Watermark(Timestamp),
}

/// What a node did, besides emitting. Plain numbers; the driver turns them into metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Records that came in.
    pub records_in: u64,
    /// Records sent on, or rows delivered.
    pub records_out: u64,
    /// Drops by reason, in order of first appearance.
    pub dropped: Vec<(Reason, u64)>,
    /// What its kind counts besides, in order of first appearance.
    pub counts: Vec<(&'static Count, u64)>,
}

impl Tally {
    /// Counts something that only nodes of this kind count.
    pub fn add(&mut self, count: &'static Count, n: u64) {
        // They are statics, and of each there is one.
        match self.counts.iter_mut().find(|(known, _)| std::ptr::eq(*known, count)) {
            Some((_, sum)) => *sum += n,
            None => self.counts.push((count, n)),
        }
    }

    /// How much of that was counted.
    #[must_use]
    pub fn counted(&self, count: &Count) -> u64 {
        self.counts.iter().find(|(known, _)| std::ptr::eq(*known, count)).map_or(0, |(_, n)| *n)
    }

    /// Counts a drop.
    pub fn drop(&mut self, reason: Reason) {
        match self.dropped.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, n)) => *n += 1,
            None => self.dropped.push((reason, 1)),
        }
    }
}

/// Effects of one call into an operator; the task drains it.
#[derive(Debug, Default)]
pub struct Effects {
    /// To the nodes below, in order.
    pub emits: Vec<Emit>,
    /// Calls to make.
    pub calls: Vec<Call>,
    /// Rows for this node's sink (sink nodes only).
    pub rows: Vec<SinkRow>,
    /// Drops, in order: what `simulate` prints.
    pub drops: Vec<Reason>,
    /// Records refused while others went on (a batch, a timer): as if returned as `Reject`.
    pub rejects: Vec<Reject>,
}

/// The stores that a node may read.
pub struct Stores<'a> {
    stores: &'a [Store],
    own: &'a [usize],
}

impl<'a> Stores<'a> {
    /// `own` maps the node's store numbers to the task's stores, as in [`Cx::new`].
    #[must_use]
    pub fn new(stores: &'a [Store], own: &'a [usize]) -> Stores<'a> {
        Stores { stores, own }
    }

    /// The node's store `n`, as in [`Cx::store`].
    #[must_use]
    pub fn get(&self, n: usize) -> &Store {
        &self.stores[self.own[n]]
    }
}

/// Everything an operator may see or do.
pub struct Cx<'a> {
    /// The wall clock, as the driver read it.
    pub now: Timestamp,
    /// The node's clock (stream time).
    pub clock: Timestamp,
    /// Through which input the record came (the order of `from`).
    pub input: u16,
    stores: &'a mut [Store],
    own: &'a [usize],
    effects: &'a mut Effects,
    /// The record that is being processed came with less stream time than its own timestamp: a node above holds the
    /// clocks for what is still pending there, and so must whatever is made of this record.
    pub(crate) held: bool,
    /// The node's counters.
    pub tally: &'a mut Tally,
}

impl<'a> Cx<'a> {
    /// A context, made by the task for each call. `own` maps the node's store numbers to the task's stores.
    pub fn new(
        now: Timestamp,
        clock: Timestamp,
        input: u16,
        stores: &'a mut [Store],
        own: &'a [usize],
        effects: &'a mut Effects,
        tally: &'a mut Tally,
    ) -> Cx<'a> {
        Cx { now, clock, input, stores, own, effects, held: false, tally }
    }

    /// The node's store `n`: its own first, then those of tables that it reads.
    pub fn store(&mut self, n: usize) -> &mut Store {
        &mut self.stores[self.own[n]]
    }

    /// Hands over the changed rows of a resident operator: see [`Store::push_rows`].
    pub fn hand_over(&mut self, n: usize, rows: Box<dyn crate::state::LateRows>) {
        self.store(n).push_rows(rows);
    }

    /// Sends a record to every node below, with its timestamp as stream time, as far as time has come.
    pub fn forward(&mut self, record: Record) {
        self.forward_to(0, record);
    }

    /// Sends a record through one output port.
    pub fn forward_to(&mut self, port: u16, record: Record) {
        // The source has kept a timestamp that is ahead of the wall clock from moving this node's: nor the next ones'.
        let come = if self.held { self.clock } else { self.clock.max(self.now) };
        let stream = record.ts.min(come);
        self.tally.records_out += 1;
        self.effects.emits.push(Emit::Record { port, record, stream });
    }

    /// Sends a record whose own timestamp must not move the clocks below past `stream` (calls in flight).
    pub fn forward_held(&mut self, record: Record, stream: Timestamp) {
        let stream = record.ts.min(stream);
        self.tally.records_out += 1;
        self.effects.emits.push(Emit::Record { port: 0, record, stream });
    }

    /// Moves the clocks of the nodes below.
    pub fn watermark(&mut self, stream: Timestamp) {
        self.effects.emits.push(Emit::Watermark(stream));
    }

    /// Starts a call, or makes it again.
    pub fn call(&mut self, call: Call) {
        self.effects.calls.push(call);
    }

    /// Hands a row to the node's sink.
    pub fn deliver(&mut self, row: SinkRow) {
        self.tally.records_out += 1;
        self.effects.rows.push(row);
    }

    /// Counts something dropped, by rule.
    pub fn drop(&mut self, reason: Reason) {
        self.tally.drop(reason);
        self.effects.drops.push(reason);
    }

    /// Refuses a record while others of the same call go on.
    pub fn reject(&mut self, reject: Reject) {
        self.effects.rejects.push(reject);
    }
}
