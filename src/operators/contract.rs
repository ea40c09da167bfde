//! The contract between a node and its task: what an operator is asked ([`Operator`]), and what it may see and do
//! ([`Cx`]).

use std::sync::Arc;

use super::metric::{Count, Gauge};
use super::query::Query;
use crate::model::{Call, EvalError, Reason, Record, Reply, SinkRow, Timestamp};
use crate::state::{StateError, Store};

/// A record that this node cannot process. The topology's `errors` policy decides what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reject {
    /// Why, as a class that is counted.
    pub reason: Reason,
    /// Why exactly, for the dead letter.
    pub detail: String,
    /// The record as it came into the node.
    pub record: Record,
    /// How often it was tried.
    pub attempts: u32,
}

/// What an operator may fail with.
#[derive(Debug)]
pub enum OperatorError {
    /// This record cannot be processed; the node goes on with the next. Boxed, since it is rare and holds the record.
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

/// What a node says of a record that stands at the head of a partition and may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// It is fed to the task.
    Yes,
    /// It is not read yet, nor is anything behind it on its partition: the partition is held, and moves no clock
    /// meanwhile.
    Wait,
    /// It never comes in. The topology's `errors` decide what becomes of it.
    Refuse(Reason),
    /// Never, and the task stops, whatever `errors` says.
    Stop(Reason),
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

/// The first record of an input that an operator does not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Which topic, by its number in the task.
    pub topic: u16,
    /// The record's offset.
    pub offset: i64,
    /// Since when nothing of the partition has come in.
    pub since: Timestamp,
    /// It has waited longer than the operator's settings want it to.
    pub overdue: bool,
    /// The consumer groups that have not committed past it.
    pub groups: Vec<Arc<str>>,
}

/// One node of one task.
pub trait Operator: Send {
    /// Reads back what the operator keeps in memory, at the start of the task. The only effect that `cx` takes here is
    /// [`Cx::call`]: calls that were in flight are made again.
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

    /// A hint: most of these records come next, a few dozen at a time. The operator may read what they will need, so
    /// that cache misses overlap; it changes nothing. They are shown as they were read from the topic: a node in
    /// between may still change their key or value.
    fn warm(&self, records: &[Record], stores: &Stores<'_>) {
        let _ = (records, stores);
    }

    /// When [`Operator::on_time`] wants to be called, by the node's clock. It may be too early, never too late. Asked
    /// for every record, so it must be cheap.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }

    /// The node's clock has reached the deadline. The operator does a bounded part of the work; while its deadline is
    /// at or before the clock, it is called again.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = cx;
        Ok(())
    }

    /// When [`Operator::on_wall`] wants to be called, by the wall clock: for retries and wall-clock punctuation.
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

    /// Whether it decides about the records of the sources directly above it ([`Operator::admits`]). Asked once, when
    /// the task opens.
    fn gates(&self) -> bool {
        false
    }

    /// Whether this record of the source above may come in. It is shown as it was read, not decoded. The answer may
    /// change with what the operator learns later and with the wall clock `now`.
    fn admits(&self, record: &Record, now: Timestamp) -> Admits {
        let _ = (record, now);
        Admits::Yes
    }

    /// What it does not let in, as of the last record that it was asked for; empty while everything comes in.
    fn blocked(&self) -> Vec<Blocked> {
        Vec::new()
    }

    /// Another consumer group has committed, on the task's partition. `cx.input` is the topic's number in the task;
    /// `u16::MAX` where the task does not read it.
    ///
    /// # Errors
    /// As [`Operator::on_record`].
    fn on_commits(&mut self, commits: &Commits, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let _ = (commits, cx);
        Ok(())
    }

    /// Whether something is left to do for records that came in, such as calls or timers. Where every source has ended,
    /// the task ends when this is false. Punctuation does not count: it never ends.
    fn has_work(&self) -> bool {
        self.deadline().is_some() || self.wall_deadline().is_some()
    }

    /// The node's clock moved without a record; timers that this made due have been called. The default passes the time
    /// on. A node with calls in flight holds it back until they are answered.
    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        cx.watermark(cx.clock);
    }

    /// The epoch ends. An operator that keeps changed rows in memory fixes which rows those are, as of now; its stores
    /// seal their own rows at the same time.
    fn seal(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// Moves about `rows_max` of the rows fixed by [`Operator::seal`] into the sealed epoch; true when all of them are
    /// there. Called after `seal` and again until it is true, with records of the next epoch in between.
    ///
    /// # Errors
    /// A row cannot be encoded: the task stops, and the epoch is not committed.
    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        let _ = (cx, rows_max);
        Ok(true)
    }

    /// The lowest offset of this input topic among the records that the operator still holds. Without a changelog,
    /// committed offsets stay at or below it.
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

    /// What the operator holds in memory, for flow control and metrics.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Shows the gauges of its own kind ([`super::OperatorSettings::metrics`]), each as it is now.
    fn gauges(&self, _show: &mut dyn FnMut(&'static Gauge, usize)) {}
}

/// What an operator holds in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Keys that wait (debounce, suppress).
    pub keys: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Calls not yet answered, queued ones included.
    pub calls: usize,
    /// The node takes no more for now: the task reads no input and its clock stands still.
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
    /// Stream time without a record.
    Watermark(Timestamp),
}

/// What a node did besides emitting, as plain numbers. The driver turns them into metrics.
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

/// What one call of an operator wants done. The task empties it after each call.
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
    /// Records refused while others of the same call went on (a batch, a timer). They count as if returned as
    /// [`OperatorError::Reject`].
    pub rejects: Vec<Reject>,
}

/// The stores that a node may read.
pub struct Stores<'a> {
    stores: &'a [Store],
    own: &'a [usize],
}

impl<'a> Stores<'a> {
    /// The stores of a node; `own` maps its store numbers to the task's stores, as in [`Cx::new`].
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
    /// The record being processed travels with less stream time than its own timestamp, because a node above holds the
    /// clocks for records that are still pending there. Whatever is made of this record travels with no more.
    pub(crate) held: bool,
    /// The node's counters.
    pub tally: &'a mut Tally,
}

impl<'a> Cx<'a> {
    /// Made by the task for each call. `own` maps the node's store numbers to the task's stores.
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

    /// Hands over the changed rows that an operator kept in memory: see [`Store::push_rows`].
    pub fn hand_over(&mut self, n: usize, rows: Box<dyn crate::state::LateRows>) {
        self.store(n).push_rows(rows);
    }

    /// Sends a record to every node below. Its timestamp travels with it as stream time, up to the wall clock or the
    /// node's clock, whichever is later.
    pub fn forward(&mut self, record: Record) {
        self.forward_to(0, record);
    }

    /// Sends a record through one output port.
    pub fn forward_to(&mut self, port: u16, record: Record) {
        // A source does not let a timestamp ahead of the wall clock move this node's clock, so the clocks below are not
        // moved by one either.
        let come = if self.held { self.clock } else { self.clock.max(self.now) };
        let stream = record.ts.min(come);
        self.tally.records_out += 1;
        self.effects.emits.push(Emit::Record { port, record, stream });
    }

    /// Sends a record that moves the clocks below no further than `stream`, whatever its own timestamp: records that
    /// came before it are still pending.
    pub fn forward_held(&mut self, record: Record, stream: Timestamp) {
        let stream = record.ts.min(stream);
        self.tally.records_out += 1;
        self.effects.emits.push(Emit::Record { port: 0, record, stream });
    }

    /// Moves the clocks of the nodes below.
    pub fn watermark(&mut self, stream: Timestamp) {
        self.effects.emits.push(Emit::Watermark(stream));
    }

    /// Starts a call, or makes one again.
    pub fn call(&mut self, call: Call) {
        self.effects.calls.push(call);
    }

    /// Hands a row to the node's sink.
    pub fn deliver(&mut self, row: SinkRow) {
        self.tally.records_out += 1;
        self.effects.rows.push(row);
    }

    /// Counts a record dropped by a rule of the operator.
    pub fn drop(&mut self, reason: Reason) {
        self.tally.drop(reason);
        self.effects.drops.push(reason);
    }

    /// Refuses a record while others of the same call go on.
    pub fn reject(&mut self, reject: Reject) {
        self.effects.rejects.push(reject);
    }
}
