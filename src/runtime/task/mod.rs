//! One task: a sub-topology on one partition. Sans-I/O: inputs go in, effects come out; it never awaits and never reads
//! a clock.
//!
//! Records move through the graph by an explicit work stack, depth first in declared order, so the order of a step's
//! effects is defined. Changes of state go to the open epoch; [`Task::seal`] ends it, and processing continues in the
//! next one. A delivery belongs to the epoch in which it was made; an epoch may be committed when none of its
//! deliveries is outstanding. Calls, and deliveries of sinks that are read from, are state, so no epoch waits for them.
//!
//! `step` is what goes in and comes out, `admit` what may come in, `flow` how records move through the nodes, `open`
//! how a task begins, `seal` the end of an epoch, `graph` what follows from the topology, `ask` what can be asked from
//! outside.

mod admit;
mod ask;
mod dead_letter;
mod flow;
mod graph;
pub mod inspect;
mod open;
mod options;
mod seal;
mod sink;
pub(super) mod source;
mod step;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use admit::Admission;
use ask::Tap;
pub use ask::Tapped;
pub use dead_letter::{DeadLetter, ReadFrom};
use flow::{Arrival, Work};
pub use options::TaskOptions;
pub use step::{Delivery, Input, Place, Sealed, Step, TaskError, TaskId};

use self::source::EventTime;
pub(super) use self::source::SKEWED;
use crate::model::{Millis, Origin, Payload, Reason, Record, SinkRow, Timestamp};
use crate::operators::{Effects, Gauge, Load, Operator, Reject, Stores, Tally, Timing};
use crate::state::{Backend, META_POSITIONS, Spent, StateError, Store, codec};
use crate::topology::OnFailure;

struct Node {
    name: Arc<str>,
    /// The name shown to users: that of the declared node that it was put in for, else its own.
    shown: Arc<str>,
    op: Box<dyn Operator>,
    own: Vec<usize>,
    clock: Timestamp,
    /// The highest stream time that has arrived, by input.
    seen: Vec<Timestamp>,
    /// Output port, child, the child's input.
    children: Vec<(u16, usize, u16)>,
    /// Whether it asks for the changes of tables.
    takes_changes: bool,
    /// By input: whether the wall clock arrives through it and must stay behind for this node.
    delays: Vec<bool>,
    /// The largest message of its topic, in bytes, if its rows go into the transaction that commits the epoch.
    message_bytes_max: Option<usize>,
    timing: Timing,
    tally: Tally,
}

/// The sink for records that no node can process.
struct DeadLetterSink {
    /// Its index in the topology: it is no node of the task.
    node: usize,
    name: Arc<str>,
    /// As [`Node::message_bytes_max`].
    message_bytes_max: Option<usize>,
}

/// One task; it is driven by [`Task::step`].
pub struct Task {
    id: TaskId,
    name: String,
    topics: Vec<Arc<str>>,
    nodes: Vec<Node>,
    /// Index in `nodes` by the topology's node index.
    by_global: BTreeMap<usize, usize>,
    global: Vec<usize>,
    /// Sources by topic.
    sources: Vec<Vec<usize>>,
    /// By topic: what decides whether records may come in.
    admission: Vec<Admission>,
    /// By topic: where a record's time comes from, if not from the record.
    times: Vec<Option<EventTime>>,
    /// By topic: the nodes that its records reach in the step that reads them.
    reached: Vec<Vec<usize>>,
    stores: Vec<Store>,
    positions: Vec<Option<i64>>,
    committed: Vec<Option<i64>>,
    sealed_positions: Vec<Option<i64>>,
    moved: bool,
    epoch: u64,
    outstanding: u64,
    sealed: Option<(u64, u64)>,
    /// Operators still hold rows of the sealed epoch.
    copying: bool,
    /// What the last epoch left in memory, until the driver takes it away.
    spent: Vec<Spent>,
    /// How many rows an operator copies in one step of a seal.
    seal_rows: usize,
    policy: OnFailure,
    hybrid: bool,
    delay: Millis,
    /// Without a changelog: committed offsets stay behind records whose effect is not durable yet.
    low_watermark: bool,
    /// Rows for the transaction that commits the open epoch.
    outputs: Vec<(usize, SinkRow)>,
    /// Rows added to the sealed epoch after its seal: dead letters of rows that a sink refused.
    late_outputs: Vec<(usize, SinkRow)>,
    dead_letter: Option<DeadLetterSink>,
    stack: Vec<Work>,
    effects: Effects,
    clocks_saved: Vec<(String, i64)>,
    format_saved: bool,
    shape: String,
    /// Who looks at records; empty most of the time.
    taps: Vec<Tap>,
}

/// Format of a task's rows as a whole: how keys are built, which rows there are. Each row's content has a version of
/// its own, its first byte. State without the row is of format 1.
const FORMAT: u32 = 1;

/// Records that nodes are warmed for at a time: as many as the nearest caches hold.
const WARM_GROUP: usize = 64;

/// The rows of global tables, by node. Tasks only read them; the thread that follows the table's topics writes them.
pub type Globals = BTreeMap<usize, Arc<dyn Backend>>;

impl Task {
    /// Which task it is.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its input topics, by index; a source of lines has its node's name.
    #[must_use]
    pub fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    /// The next offset of a topic to read; 0 if nothing was read and no start was set.
    #[must_use]
    pub fn position(&self, topic: usize) -> i64 {
        self.positions[topic].unwrap_or(0)
    }

    /// Records of a topic that were read and are not committed yet.
    #[must_use]
    pub fn uncommitted(&self, topic: usize) -> i64 {
        let (read, committed) = (self.positions[topic], self.committed[topic]);
        read.zip(committed).map_or(0, |(r, c)| (r - c).max(0))
    }

    /// The time of a record in this task. Records of several topics are ordered by it.
    #[must_use]
    pub fn time_of(&self, topic: usize, record: &Record) -> Timestamp {
        let time = self.times[topic].as_ref().and_then(|time| time.read(record).ok());
        time.unwrap_or(record.ts)
    }

    /// Sets the next offset of a topic: where reading starts.
    pub fn start_at(&mut self, topic: usize, offset: i64) {
        self.positions[topic] = Some(offset);
        self.committed[topic] = Some(offset);
    }

    /// Everything before `next` was read. No record lies between the last one and `next`, only markers of transactions,
    /// which no reader ever sees.
    pub fn skip_to(&mut self, topic: usize, next: i64) {
        if let Some(read) = &mut self.positions[topic]
            && *read < next
        {
            *read = next;
            self.moved = true;
        }
    }

    /// Feeds one input. Effects are appended to `step`.
    ///
    /// # Errors
    /// The task must stop: its state failed, or a record was refused and the policy is `stop`.
    pub fn step(&mut self, input: Input, now: Timestamp, step: &mut Step) -> Result<(), TaskError> {
        match input {
            Input::Records { topic, records } => {
                let mut records = records.into_iter();
                while !records.as_slice().is_empty() {
                    let group = records.as_slice();
                    let group = &group[..group.len().min(WARM_GROUP)];
                    for node in self.reached[topic].iter().map(|n| &self.nodes[*n]) {
                        node.op.warm(group, &Stores::new(&self.stores, &node.own));
                    }
                    for record in records.by_ref().take(WARM_GROUP) {
                        if record.origin.offset >= 0 {
                            self.positions[topic] = Some(record.origin.offset + 1);
                        }
                        self.moved = true;
                        self.feed(topic, record, now, step)?;
                    }
                }
                Ok(())
            }
            Input::Reply { node, call, reply } => {
                let Some(&n) = self.by_global.get(&node) else { return Ok(()) };
                self.with_op(n, 0, now, |op, cx| op.on_reply(call, reply, cx), step)?;
                self.drain(now, step)
            }
            Input::Commits(commits) => {
                let topic = self.topics.iter().position(|topic| **topic == *commits.topic);
                let topic = topic.and_then(|t| u16::try_from(t).ok()).unwrap_or(u16::MAX);
                for n in 0..self.nodes.len() {
                    self.with_op(n, topic, now, |op, cx| op.on_commits(&commits, cx), step)?;
                    self.drain(now, step)?;
                }
                Ok(())
            }
            Input::Acked { epoch, rows } => {
                self.acked(epoch, u64::from(rows));
                Ok(())
            }
            Input::Refused { epoch, node, record, message } => {
                let reject = Reject { reason: Reason::SinkRefused, detail: message, record, attempts: 1 };
                let (name, policy) = match (self.by_global.get(&node), &self.dead_letter) {
                    (Some(n), _) => (Arc::clone(&self.nodes[*n].shown), self.policy),
                    // A dead letter of a dead letter would be refused as well.
                    (None, Some(sink)) => (Arc::clone(&sink.name), OnFailure::Stop),
                    (None, None) => return Ok(()),
                };
                self.reject(reject, &name, node, epoch, policy, step)?;
                self.acked(epoch, 1);
                Ok(())
            }
            Input::Clock { until } => self.tick(until, now, step),
        }
    }

    fn feed(
        &mut self,
        topic: usize,
        record: Record,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        let sources = self.sources[topic].len();
        let mut record = match self.admission[topic].gates() {
            [] => Some(record),
            _ => self.refuse(topic, record, now, step)?,
        };
        for n in 0..sources {
            let record = if n + 1 == sources { record.take() } else { record.clone() };
            if let Some(record) = record {
                let node = self.sources[topic][n];
                let arrival = Arrival { node, input: 0, stream: Timestamp::MIN, timed: true };
                self.process(arrival, record, now, step)?;
                self.drain(now, step)?;
            }
        }
        Ok(())
    }

    fn tick(&mut self, until: Option<Timestamp>, now: Timestamp, step: &mut Step) -> Result<(), TaskError> {
        for n in 0..self.nodes.len() {
            if self.nodes[n].op.wall_deadline().is_some_and(|at| at <= now) {
                self.with_op(n, 0, now, |op, cx| op.on_wall(cx), step)?;
                self.drain(now, step)?;
            }
        }
        if let Some(until) = until.filter(|_| self.hybrid && self.wants_input()) {
            for n in 0..self.nodes.len() {
                if self.sources.iter().any(|s| s.contains(&n)) {
                    self.stack.push(Work::Watermark { node: n, input: 0, stream: until.min(now) });
                    self.drain(now, step)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it takes input. If a node is full it does not: the driver leaves the records in Kafka.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.nodes.iter().any(|n| n.op.load().full)
    }

    /// The next wall clock time at which [`Input::Clock`] has something to do: retries and, if the wall clock moves the
    /// nodes' clocks, their timers. May be early, never late.
    #[must_use]
    pub fn next_deadline(&self, caught_up: bool) -> Option<Timestamp> {
        let wall = self.nodes.iter().filter_map(|n| n.op.wall_deadline()).min();
        let stream = if caught_up && self.hybrid && self.wants_input() {
            self.nodes.iter().filter_map(|n| n.op.deadline()).min()
        } else {
            None
        };
        wall.into_iter().chain(stream).min()
    }

    /// Whether something is left to do for records that were read. Punctuation does not count: it never ends.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.next_deadline(true).is_some() && self.nodes.iter().any(|n| n.op.has_work())
    }

    /// Deliveries not yet acknowledged.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding + self.sealed.map_or(0, |(_, n)| n)
    }

    /// Calls and deliveries that wait for a reply.
    #[must_use]
    pub fn pending_calls(&self) -> usize {
        self.nodes.iter().map(|n| n.op.load().calls).sum()
    }

    /// What each node holds, with its index in the topology.
    pub fn loads(&self) -> impl Iterator<Item = (usize, Load)> + '_ {
        self.nodes.iter().zip(&self.global).map(|(n, g)| (*g, n.op.load()))
    }

    /// Shows the gauges that single kinds of nodes have, with the node's index in the topology.
    pub fn gauges(&self, show: &mut dyn FnMut(usize, &'static Gauge, usize)) {
        for (node, global) in self.nodes.iter().zip(&self.global) {
            node.op.gauges(&mut |gauge, n| show(*global, gauge, n));
        }
    }

    /// Takes what each node counted since the last time, with its index in the topology.
    pub fn take_tallies(&mut self) -> impl Iterator<Item = (usize, Tally)> + '_ {
        self.nodes.iter_mut().zip(&self.global).map(|(n, g)| (*g, std::mem::take(&mut n.tally)))
    }

    /// Rows added to the sealed epoch's [`Sealed::outputs`] after it was sealed. All of them are known when the epoch
    /// is settled.
    pub fn take_late_outputs(&mut self) -> Vec<(usize, SinkRow)> {
        std::mem::take(&mut self.late_outputs)
    }

    /// Rows gathered for the open epoch's transaction, which the driver bounds.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.outputs.len()
    }

    fn acked(&mut self, epoch: u64, rows: u64) {
        if epoch == self.epoch {
            debug_assert!(self.outstanding >= rows, "more acks than deliveries");
            self.outstanding -= rows;
        } else if let Some((sealed, left)) = &mut self.sealed
            && *sealed == epoch
        {
            debug_assert!(*left >= rows, "more acks than deliveries");
            *left -= rows;
        }
    }

    /// The offset of a topic that may be committed now.
    fn committable(&self, topic: usize) -> Option<i64> {
        let read = self.positions[topic]?;
        if !self.low_watermark {
            return Some(read);
        }
        let index = u16::try_from(topic).unwrap_or(u16::MAX);
        let oldest = self.nodes.iter().filter_map(|n| n.op.oldest(index)).min();
        let held = oldest.map_or(read, |o| o.min(read));
        Some(self.committed[topic].map_or(held, |c| held.max(c)))
    }

    /// Without a changelog: whether effects have become durable that held offsets back.
    fn may_advance(&self) -> bool {
        self.low_watermark && (0..self.positions.len()).any(|t| self.committable(t) > self.committed[t])
    }

    fn clocks(&self) -> Vec<(String, i64)> {
        self.nodes
            .iter()
            .filter(|n| n.clock > Timestamp::MIN)
            .map(|n| (n.name.to_string(), n.clock.0))
            .collect()
    }

    fn reject(
        &mut self,
        reject: Reject,
        name: &str,
        node: usize,
        epoch: u64,
        policy: OnFailure,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        match (policy, &self.dead_letter) {
            (OnFailure::Skip, _) => {
                step.drops.push((node, reject.reason));
                Ok(())
            }
            (OnFailure::DeadLetter, Some(DeadLetterSink { node: sink, message_bytes_max, .. })) => {
                let (sink, message_bytes_max) = (*sink, *message_bytes_max);
                let (reason, detail, attempts) = (reject.reason, reject.detail.clone(), reject.attempts);
                let record = DeadLetter::new(reject, name, &self.topics).write();
                let row = SinkRow { reply_to: None, record, payload: Payload::Record };
                if let Some(bytes_max) = message_bytes_max {
                    if row.exceeds(bytes_max) {
                        let too_large = format!("the topic takes messages up to {bytes_max} bytes");
                        let detail = format!("{detail}; its dead letter is too large: {too_large}");
                        let reject = Reject { reason, detail, record: row.record, attempts };
                        return self.reject(reject, name, node, epoch, OnFailure::Stop, step);
                    }
                    let outputs =
                        if epoch == self.epoch { &mut self.outputs } else { &mut self.late_outputs };
                    outputs.push((sink, row));
                    return Ok(());
                }
                if epoch == self.epoch {
                    self.outstanding += 1;
                } else if let Some((_, left)) = &mut self.sealed {
                    *left += 1;
                }
                step.deliveries.push(Delivery { node: sink, epoch, row });
                Ok(())
            }
            (OnFailure::Stop | OnFailure::DeadLetter, _) => {
                let Origin { topic: input, partition, offset } = reject.record.origin;
                let topic = self.topics.get(usize::from(input)).filter(|_| offset >= 0);
                let place = topic.map(|topic| Place {
                    topic: topic.to_string(),
                    input: usize::from(input),
                    partition,
                    offset,
                });
                Err(TaskError::Rejected {
                    node: name.into(),
                    reason: reject.reason.name(),
                    detail: reject.detail,
                    place,
                })
            }
        }
    }
}

/// A refusal: a transaction with this row would fail.
fn too_large(row: SinkRow, bytes_max: usize) -> Reject {
    let detail = format!("the topic takes messages up to {bytes_max} bytes");
    Reject { reason: Reason::SinkRefused, detail, record: row.record, attempts: 1 }
}

/// Positions that a backend's last applied checkpoint had reached, by topic.
///
/// # Errors
/// The row cannot be read.
pub fn applied_positions(backend: &dyn Backend) -> Result<Vec<(String, i64)>, StateError> {
    match backend.get(META_POSITIONS)? {
        Some(bytes) => codec::decode(1, &bytes),
        None => Ok(Vec::new()),
    }
}

/// Whether there is no state at all.
///
/// # Errors
/// The backend failed.
pub fn is_empty(backend: &dyn Backend) -> Result<bool, StateError> {
    let mut empty = true;
    backend.scan(b"", &[0xff; 32], &mut |_, _| {
        empty = false;
        ControlFlow::Break(())
    })?;
    Ok(empty)
}
