//! One task: a sub-topology on one partition. Sans-I/O: inputs go in, effects come out; it never awaits and never reads
//! a clock.
//!
//! Records move through the graph by an explicit work stack, depth first in declared order, so the order of a step's
//! effects is a fact. Writes go to the open epoch; [`Task::seal`] ends it and processing goes on in the next one. A
//! delivery belongs to the epoch in which it was made; an epoch may be committed when none of its deliveries is
//! outstanding. Calls and deliveries that somebody reads from are state, so no epoch waits for them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::nodes::{SinkNode, SourceNode, dead_letter, event_time};
use crate::model::{Expr, Millis, Origin, Record, Timestamp};
use crate::operators::{
    Call, Cx, Effects, Emit, Load, Operator, OperatorError, Payload, Reason, Reject, Reply, SinkRow, Stores,
    Tally,
};
use crate::state::{
    Backend, Late, META_CLOCKS, META_FORMAT, META_POSITIONS, META_SHAPE, Row, Spent, StateError, Store, codec,
};
use crate::topology::{Changelog, ClockMode, NodeKind, OnFailure, SubTopology, Topology};

/// Which task: sub-topology and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Index of the sub-topology.
    pub sub: usize,
    /// Kafka partition.
    pub partition: i32,
}

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// State failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A record could not be processed and the policy is `stop`.
    #[error("node {node}: {reason}: {detail}{place}")]
    Rejected {
        /// Node name.
        node: String,
        /// Reason label.
        reason: &'static str,
        /// What exactly.
        detail: String,
        /// ` (topic t, partition p, offset o)`, or empty.
        place: String,
    },
}

/// What can happen to a task.
#[derive(Debug)]
pub enum Input {
    /// Records of one topic, in offset order. `topic` counts in [`Topology::inputs`].
    Records {
        /// Index of the topic.
        topic: usize,
        /// The records; `origin` says where they were read.
        records: Vec<Record>,
    },
    /// A call was answered.
    Reply {
        /// Node that called.
        node: usize,
        /// Its call.
        call: u64,
        /// The answer.
        reply: Reply,
    },
    /// `rows` deliveries of an epoch are durable.
    Acked {
        /// The epoch they were made in.
        epoch: u64,
        /// How many.
        rows: u32,
    },
    /// A sink refused a row for good.
    Refused {
        /// The epoch it was made in.
        epoch: u64,
        /// The sink's node.
        node: usize,
        /// The record of the row.
        record: Record,
        /// What the sink said.
        message: String,
    },
    /// Time went by.
    Clock {
        /// Every record up to this wall clock time is here, but for those that are under way to the topics: so far does
        /// the wall clock move the nodes' clocks. `None`: it does not.
        until: Option<Timestamp>,
    },
}

/// A row for a sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The sink's node.
    pub node: usize,
    /// The epoch that waits for it. Rows with `reply_to` are answered by [`Input::Reply`] instead.
    pub epoch: u64,
    /// What to write.
    pub row: SinkRow,
}

/// What a task wants done.
#[derive(Debug, Default)]
pub struct Step {
    /// Rows for sinks, in order.
    pub deliveries: Vec<Delivery>,
    /// Calls to make, with their node.
    pub calls: Vec<(usize, Call)>,
    /// What was dropped, in order, with its node.
    pub drops: Vec<(usize, Reason)>,
}

impl Step {
    /// Nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.calls.is_empty() && self.drops.is_empty()
    }
}

/// A finished epoch: what one checkpoint makes durable.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its number.
    pub epoch: u64,
    /// Changed rows, sorted by key once [`Sealed::finish`] was called.
    pub rows: Vec<Row>,
    /// What nobody has turned into rows yet.
    pub late: Vec<Late>,
    /// Records of Kafka sinks that belong into the checkpoint's transaction: node and row.
    pub outputs: Vec<(usize, SinkRow)>,
    /// Next offset to read, by index of the topic; only topics of which something was read.
    pub positions: Vec<(usize, i64)>,
}

impl Sealed {
    /// Turns everything into rows sorted by key: the slow part of a checkpoint, for the thread that commits.
    pub fn finish(&mut self) {
        for late in self.late.drain(..) {
            late.append_to(&mut self.rows);
        }
        // Stable sorting finds the sorted runs that these are.
        self.rows.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

struct Node {
    name: Arc<str>,
    /// What people call it: the declared node that it was put in for, else its name.
    shown: Arc<str>,
    op: Box<dyn Operator>,
    own: Vec<usize>,
    clock: Timestamp,
    /// Stream time by input.
    seen: Vec<Timestamp>,
    /// Output port, child, the child's input.
    children: Vec<(u16, usize, u16)>,
    /// Asks for the changes of tables.
    takes_changes: bool,
    /// By input: the wall clock comes through it, and has to stay behind for this node.
    delays: Vec<bool>,
    tally: Tally,
}

enum Work {
    Record { node: usize, input: u16, record: Record, stream: Timestamp, timed: bool },
    Time { node: usize },
    Watermark { node: usize, input: u16, stream: Timestamp },
    Pass { node: usize },
}

/// See the module.
pub struct Task {
    id: TaskId,
    topics: Vec<Arc<str>>,
    nodes: Vec<Node>,
    /// Index in `nodes` by the topology's node index.
    by_global: BTreeMap<usize, usize>,
    global: Vec<usize>,
    /// Sources by topic.
    sources: Vec<Vec<usize>>,
    /// The expression of a record's time, by topic.
    times: Vec<Option<Expr>>,
    /// Nodes by topic that its records reach in the step that reads them.
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
    /// Of the last epoch, until somebody takes it.
    spent: Vec<Spent>,
    /// How many rows an operator copies in one step of a seal.
    seal_rows: usize,
    policy: OnFailure,
    hybrid: bool,
    delay: Millis,
    /// Without a changelog: positions are held back to what has no durable effect yet.
    low_watermark: bool,
    /// Rows of these nodes go into the checkpoint's transaction instead of to a driver; with the largest message of
    /// each in bytes.
    transactional: Vec<(usize, usize)>,
    outputs: Vec<(usize, SinkRow)>,
    /// What came to the sealed epoch after its seal: dead letters of rows that a sink refused.
    late_outputs: Vec<(usize, SinkRow)>,
    dead_letter: Option<usize>,
    stack: Vec<Work>,
    effects: Effects,
    clocks_saved: Vec<(String, i64)>,
    format_saved: bool,
    shape: String,
}

/// Format of a task's rows as a whole: how keys are built, what rows there are. What a row holds has a version of its
/// own, its first byte. State without the row is of format 1.
const FORMAT: u32 = 1;
/// Rows that an operator copies before it lets records through again: some milliseconds.
const SEAL_ROWS: usize = 2048;

/// Records that nodes are told of before they come: as many as the nearest caches hold.
const WARM_GROUP: usize = 64;

/// The node index that stands for the topology's dead-letter topic.
pub const DEAD_LETTER: usize = usize::MAX;

/// The rows of global tables, by node: tasks read them, whoever keeps them up to date writes.
pub type Globals = BTreeMap<usize, Arc<dyn Backend>>;

impl Task {
    /// A task over its state: reads back what resident operators keep, makes pending calls again. `step` receives
    /// those calls and deliveries. For a topology without global tables.
    ///
    /// # Errors
    /// State that cannot be read, or that another shape of the topology wrote.
    pub fn open(
        topology: &Topology,
        id: TaskId,
        backend: &Arc<dyn Backend>,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Task, TaskError> {
        Task::open_with(topology, id, backend, &Globals::new(), now, step)
    }

    /// [`Task::open`], with the topology's global tables.
    ///
    /// # Errors
    /// As [`Task::open`]; also when a global table is missing.
    pub fn open_with(
        topology: &Topology,
        id: TaskId,
        backend: &Arc<dyn Backend>,
        globals: &Globals,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Task, TaskError> {
        let sub = &topology.subs[id.sub];
        let mut nodes = Vec::new();
        let mut stores = Vec::new();
        // Global tables, seen by each node that reads them through a store of its own: behind those of the nodes.
        let mut seen: Vec<Store> = Vec::new();
        let by_global: BTreeMap<usize, usize> =
            sub.nodes.iter().enumerate().map(|(local, g)| (*g, local)).collect();
        for &g in &sub.nodes {
            let node = &topology.nodes[g];
            let children: Vec<(u16, usize, u16)> = topology
                .readers(g)
                .filter_map(|(port, reader, input)| Some((port, *by_global.get(&reader)?, input)))
                .collect();
            let op: Box<dyn Operator> = match &node.kind {
                NodeKind::Source(source) => {
                    Box::new(SourceNode::new(topology, &node.name, source, node.table.as_ref()))
                }
                NodeKind::Operator(config) => config.build(),
                NodeKind::Sink(sink) => {
                    Box::new(SinkNode::new(topology, &node.name, sink, !children.is_empty()))
                }
            };
            // Each node has the store of its own number; then it sees those of the tables that it reads.
            let mut own = vec![stores.len()];
            for table in &node.lookups {
                if let Some(local) = by_global.get(table) {
                    own.push(*local);
                    continue;
                }
                let name = &topology.nodes[*table].name;
                let rows = globals.get(table);
                let rows =
                    rows.ok_or_else(|| StateError(format!("the global table `{name}` is not there")))?;
                own.push(sub.nodes.len() + seen.len());
                seen.push(Store::new(name, Arc::clone(rows)));
            }
            stores.push(Store::new(&node.name, Arc::clone(backend)));
            nodes.push(Node {
                name: node.name.as_str().into(),
                shown: topology.declared(g).name.as_str().into(),
                op,
                own,
                clock: Timestamp::MIN,
                seen: vec![Timestamp::MIN; node.inputs.len().max(1)],
                children,
                delays: Vec::new(),
                takes_changes: match &node.kind {
                    NodeKind::Source(_) => false,
                    NodeKind::Operator(c) => c.takes_changes(),
                    // A repartition topic carries them on.
                    NodeKind::Sink(_) => node.made_for.is_some(),
                },
                tally: Tally::default(),
            });
        }
        stores.append(&mut seen);
        set_delays(&mut nodes);
        let inputs = topology.inputs(id.sub);
        let topics: Vec<Arc<str>> = inputs.iter().map(|input| input.name.as_str().into()).collect();
        let sources: Vec<Vec<usize>> = inputs
            .iter()
            .map(|input| input.sources.iter().filter_map(|g| by_global.get(g).copied()).collect())
            .collect();
        let time = |from: &Vec<usize>| match &topology.nodes[sub.nodes[*from.first()?]].kind {
            NodeKind::Source(source) => source.timestamp().cloned(),
            NodeKind::Operator(_) | NodeKind::Sink(_) => None,
        };
        let times = sources.iter().map(time).collect();
        let reached = sources.iter().map(|from| reached(topology, sub, &nodes, from)).collect();
        let mut task = Task {
            id,
            positions: vec![None; topics.len()],
            committed: vec![None; topics.len()],
            sealed_positions: Vec::new(),
            topics,
            global: sub.nodes.clone(),
            by_global,
            nodes,
            sources,
            times,
            reached,
            stores,
            moved: false,
            epoch: 1,
            outstanding: 0,
            sealed: None,
            copying: false,
            spent: Vec::new(),
            seal_rows: SEAL_ROWS,
            policy: topology.settings.errors.policy(),
            hybrid: topology.settings.time.clock == ClockMode::Hybrid,
            delay: Millis::ZERO,
            low_watermark: topology.settings.state.changelog == Changelog::Off,
            transactional: Vec::new(),
            outputs: Vec::new(),
            late_outputs: Vec::new(),
            dead_letter: topology.settings.errors.dead_letter.is_some().then_some(DEAD_LETTER),
            stack: Vec::new(),
            effects: Effects::default(),
            clocks_saved: Vec::new(),
            format_saved: false,
            shape: shape(topology, sub),
        };
        if task.low_watermark {
            task.nodes.iter_mut().for_each(|n| n.op.track_origins());
        }
        task.check_format(backend)?;
        task.check_shape(backend)?;
        task.read_clocks(backend)?;
        for n in 0..task.nodes.len() {
            task.with_op(n, 0, now, |op, cx| op.open(cx).map_err(OperatorError::Fatal), step)?;
            task.drain(now, step)?;
        }
        Ok(task)
    }

    /// Which task it is.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Its input topics, by index; a source of lines has its node's name.
    #[must_use]
    pub fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    /// The next offset of a topic to read; 0 where nothing was read and no start was set.
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

    /// The time that a record of a topic will have here: by it, what is read of several topics is put in order.
    #[must_use]
    pub fn time_of(&self, topic: usize, record: &Record) -> Timestamp {
        let time = self.times[topic].as_ref().and_then(|expr| event_time(expr, record));
        time.unwrap_or(record.ts)
    }

    /// Sets the next offset of a topic: where reading starts.
    pub fn start_at(&mut self, topic: usize, offset: i64) {
        self.positions[topic] = Some(offset);
        self.committed[topic] = Some(offset);
    }

    /// Everything in front of `next` was read, and no record lies between: only the marks of transactions, which no
    /// reader ever sees.
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
            Input::Acked { epoch, rows } => {
                self.acked(epoch, u64::from(rows));
                Ok(())
            }
            Input::Refused { epoch, node, record, message } => {
                let reject = Reject { reason: Reason::SinkRefused, detail: message, record, attempts: 1 };
                let name = self
                    .by_global
                    .get(&node)
                    .map_or_else(|| "dead_letter".into(), |n| Arc::clone(&self.nodes[*n].shown));
                let policy = if node == DEAD_LETTER { OnFailure::Stop } else { self.policy };
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
        let sources = std::mem::take(&mut self.sources[topic]);
        for (i, &node) in sources.iter().enumerate() {
            let record = if i + 1 == sources.len() { None } else { Some(record.clone()) };
            if let Some(record) = record {
                self.stack.push(Work::Record { node, input: 0, stream: Timestamp::MIN, record, timed: true });
                self.drain(now, step)?;
            }
        }
        if let Some(&node) = sources.last() {
            self.stack.push(Work::Record { node, input: 0, stream: Timestamp::MIN, record, timed: true });
        }
        self.sources[topic] = sources;
        self.drain(now, step)
    }

    /// How far the wall clock stays behind for nodes that refuse what is late; nothing unless it is said.
    pub fn set_delay(&mut self, delay: Millis) {
        self.delay = delay;
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

    /// Takes input? A node that is full stops it: the driver leaves the records in Kafka.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.nodes.iter().any(|n| n.op.load().full)
    }

    /// The next wall clock time at which [`Input::Clock`] has something to do: retries, and, where the wall clock moves
    /// the nodes' clocks, their timers. May be early, never late.
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

    /// Is something left to do later because of records that were read? Punctuation for ever is not.
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

    /// Takes what each node counted since the last time, with its index in the topology.
    pub fn take_tallies(&mut self) -> impl Iterator<Item = (usize, Tally)> + '_ {
        self.nodes.iter_mut().zip(&self.global).map(|(n, g)| (*g, std::mem::take(&mut n.tally)))
    }

    /// From now on, rows of these sinks are part of the sealed epoch ([`Sealed::outputs`]): for exactly-once delivery
    /// to Kafka, in the transaction that commits the epoch. Those in `step`, made while the task opened, are taken out of it.
    ///
    /// With the largest message that the node's topic takes, in bytes: a transaction with a larger one would fail, and
    /// fail again each time it is made, so such a row is refused before.
    ///
    /// # Errors
    /// A row in `step` is refused, and the policy is `stop`.
    pub fn set_transactional(
        &mut self,
        nodes: Vec<(usize, usize)>,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        self.transactional = nodes;
        for Delivery { node, epoch, row } in std::mem::take(&mut step.deliveries) {
            let Some(bytes_max) = self.message_bytes_max(node).filter(|_| row.reply_to.is_none()) else {
                step.deliveries.push(Delivery { node, epoch, row });
                continue;
            };
            self.outstanding -= 1;
            if row.exceeds(bytes_max) {
                let name = self.by_global.get(&node).map(|n| Arc::clone(&self.nodes[*n].shown));
                let policy = if node == DEAD_LETTER { OnFailure::Stop } else { self.policy };
                let name = name.unwrap_or_else(|| "dead_letter".into());
                self.reject(too_large(row, bytes_max), &name, node, epoch, policy, step)?;
            } else {
                self.outputs.push((node, row));
            }
        }
        Ok(())
    }

    /// What has come to the sealed epoch's [`Sealed::outputs`] since it was sealed; all of it is there when the epoch is
    /// settled.
    pub fn take_late_outputs(&mut self) -> Vec<(usize, SinkRow)> {
        std::mem::take(&mut self.late_outputs)
    }

    fn message_bytes_max(&self, node: usize) -> Option<usize> {
        self.transactional.iter().find(|(n, _)| *n == node).map(|(_, bytes_max)| *bytes_max)
    }

    /// Rows gathered for the open epoch's transaction: a bound for the driver.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.outputs.len()
    }

    /// [`Task::seal_late`] and [`Sealed::finish`] in one.
    ///
    /// # Errors
    /// As [`Task::seal_late`].
    pub fn seal(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        let mut sealed = self.seal_late(now)?;
        sealed.iter_mut().for_each(Sealed::finish);
        Ok(sealed)
    }

    /// [`Task::seal_begin`] and as many [`Task::seal_more`] as it takes.
    ///
    /// # Errors
    /// As [`Task::seal_begin`].
    pub fn seal_late(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        let mut sealed = self.seal_begin(now)?;
        if let Some(sealed) = &mut sealed {
            self.copy(sealed, usize::MAX, now)?;
        }
        Ok(sealed)
    }

    /// Ends the open epoch, unless nothing happened in it or another one is still sealed. What resident operators have
    /// changed is fixed and only the first of it is copied: [`Task::seal_more`] goes on with that while records come.
    /// The epoch may be committed when [`Task::is_settled`].
    ///
    /// # Errors
    /// State that cannot be encoded.
    pub fn seal_begin(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        if self.sealed.is_some() {
            return Ok(None);
        }
        self.each_op(now, |op, cx| {
            op.seal(cx);
            Ok(true)
        })?;
        self.stores.iter_mut().for_each(Store::begin_seal);
        let rows_max = self.seal_rows;
        self.copying = !self.each_op(now, |op, cx| op.seal_more(cx, rows_max))?;
        let clean = !self.copying && !self.stores.iter().any(Store::has_sealed);
        if clean && !self.moved && self.outstanding == 0 && self.outputs.is_empty() && !self.may_advance() {
            return Ok(None);
        }
        let (mut rows, mut late) = (Vec::new(), Vec::new());
        if !self.copying {
            self.stores.iter_mut().for_each(|store| store.end_seal(&mut late));
        }
        let clocks = self.clocks();
        if clocks != self.clocks_saved {
            rows.push((Bytes::from_static(META_CLOCKS), Some(codec::encode(1, &clocks)?)));
            self.clocks_saved = clocks;
        }
        if !self.format_saved {
            rows.push((Bytes::from_static(META_FORMAT), Some(codec::encode(1, &FORMAT)?)));
            self.format_saved = true;
        }
        rows.push((Bytes::from_static(META_SHAPE), Some(Bytes::from(self.shape.clone()))));
        let held: Vec<Option<i64>> = (0..self.positions.len()).map(|t| self.committable(t)).collect();
        let positions: Vec<(usize, i64)> =
            held.iter().enumerate().filter_map(|(t, p)| Some((t, (*p)?))).collect();
        let named: Vec<(String, i64)> =
            positions.iter().map(|(t, p)| (self.topics[*t].to_string(), *p)).collect();
        rows.push((Bytes::from_static(META_POSITIONS), Some(codec::encode(1, &named)?)));
        let epoch = self.epoch;
        self.epoch += 1;
        self.sealed = Some((epoch, self.outstanding));
        self.sealed_positions = held;
        self.outstanding = 0;
        self.moved = false;
        let outputs = std::mem::take(&mut self.outputs);
        Ok(Some(Sealed { epoch, rows, late, outputs, positions }))
    }

    /// Copies some more rows of the sealed epoch into it, as they were when it was sealed. True when it is whole.
    ///
    /// # Errors
    /// An operator failed.
    pub fn seal_more(&mut self, sealed: &mut Sealed, now: Timestamp) -> Result<bool, TaskError> {
        let rows_max = self.seal_rows;
        self.copy(sealed, rows_max, now)?;
        Ok(!self.copying)
    }

    fn copy(&mut self, sealed: &mut Sealed, rows_max: usize, now: Timestamp) -> Result<(), TaskError> {
        if self.copying {
            self.copying = !self.each_op(now, |op, cx| op.seal_more(cx, rows_max))?;
            if !self.copying {
                self.stores.iter_mut().for_each(|store| store.end_seal(&mut sealed.late));
            }
        }
        Ok(())
    }

    /// How many rows each resident operator copies in [`Task::seal_begin`] and [`Task::seal_more`], in place of some
    /// thousands. At least 1.
    pub fn set_seal_rows(&mut self, rows_max: usize) {
        self.seal_rows = rows_max.max(1);
    }

    /// Is the sealed epoch not whole yet?
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.copying
    }

    /// Calls something of every operator that is done, or not; true if all are.
    fn each_op(
        &mut self,
        now: Timestamp,
        call: impl Fn(&mut dyn Operator, &mut Cx<'_>) -> Result<bool, StateError>,
    ) -> Result<bool, TaskError> {
        let mut discard = Step::default();
        let mut all = true;
        for n in 0..self.nodes.len() {
            let call = |op: &mut dyn Operator, cx: &mut Cx<'_>| {
                all &= call(op, cx).map_err(OperatorError::Fatal)?;
                Ok(())
            };
            self.with_op(n, 0, now, call, &mut discard)?;
        }
        Ok(all)
    }

    /// Is the sealed epoch whole, and every delivery of it durable? True when none is sealed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.copying && self.sealed.is_none_or(|(_, n)| n == 0)
    }

    /// The sealed epoch is committed and its rows are in the backend.
    pub fn applied(&mut self) {
        debug_assert!(self.is_settled(), "an epoch is applied after it settled");
        self.sealed = None;
        self.committed.clone_from(&self.sealed_positions);
        self.spent = self.stores.iter_mut().filter_map(Store::applied).collect();
    }

    /// What the last applied epoch has left behind, to be dropped where there is time for it.
    pub fn take_spent(&mut self) -> Vec<Spent> {
        std::mem::take(&mut self.spent)
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

    /// Without a changelog: have effects become durable that held offsets back?
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

    fn read_clocks(&mut self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_CLOCKS)? else { return Ok(()) };
        let clocks: Vec<(String, i64)> = codec::decode(1, &bytes)?;
        for (name, clock) in &clocks {
            if let Some(node) = self.nodes.iter_mut().find(|n| &*n.name == name.as_str()) {
                node.clock = Timestamp(*clock);
                node.seen.fill(Timestamp(*clock));
            }
        }
        self.clocks_saved = clocks;
        Ok(())
    }

    fn check_format(&mut self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_FORMAT)? else { return Ok(()) };
        let found: u32 = codec::decode(1, &bytes)?;
        if found != FORMAT {
            return Err(TaskError::State(StateError(format!(
                "the state has format {found}, and this program reads format {FORMAT}: it was written by a newer one. Run \
                 that one, or remove the state with `slackwater reset`"
            ))));
        }
        self.format_saved = true;
        Ok(())
    }

    fn check_shape(&self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_SHAPE)? else { return Ok(()) };
        let old = String::from_utf8_lossy(&bytes).into_owned();
        let missing: Vec<&str> = old.lines().filter(|line| !self.shape.lines().any(|l| l == *line)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(TaskError::State(StateError(format!(
            "the state was written by another topology: it has `{}`, which this one has not. Give the topology a new \
             name, or remove the state with `slackwater reset` (docs/changing-a-topology.md says what may change)",
            missing.join("`, `")
        ))))
    }

    /// Calls into an operator and turns its effects into work and into `step`.
    fn with_op(
        &mut self,
        n: usize,
        input: u16,
        now: Timestamp,
        call: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> Result<(), OperatorError>,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        let node = &mut self.nodes[n];
        let mut cx =
            Cx::new(now, node.clock, input, &mut self.stores, &node.own, &mut self.effects, &mut node.tally);
        let result = call(node.op.as_mut(), &mut cx);
        match result {
            Ok(()) => {}
            Err(OperatorError::Reject(reject)) => self.effects.rejects.push(*reject),
            Err(OperatorError::Fatal(e)) => return Err(TaskError::State(e)),
        }
        let global = self.global[n];
        for reason in self.effects.drops.drain(..) {
            step.drops.push((global, reason));
        }
        for call in self.effects.calls.drain(..) {
            step.calls.push((global, call));
        }
        let gather = self.message_bytes_max(global);
        for row in self.effects.rows.drain(..) {
            if let Some(bytes_max) = gather {
                if row.exceeds(bytes_max) {
                    self.effects.rejects.push(too_large(row, bytes_max));
                    continue;
                }
                self.outputs.push((global, row));
                continue;
            }
            if row.reply_to.is_none() {
                self.outstanding += 1;
            }
            step.deliveries.push(Delivery { node: global, epoch: self.epoch, row });
        }
        let rejects = std::mem::take(&mut self.effects.rejects);
        for reject in rejects {
            let name = Arc::clone(&self.nodes[n].shown);
            self.nodes[n].tally.drop(reject.reason);
            let (epoch, policy) = (self.epoch, self.policy);
            self.reject(reject, &name, global, epoch, policy, step)?;
        }
        let emits = std::mem::take(&mut self.effects.emits);
        self.push_emits(n, emits);
        Ok(())
    }

    /// Puts what a node emitted on the stack, so that the first emit to the first child is done first.
    fn push_emits(&mut self, n: usize, mut emits: Vec<Emit>) {
        while let Some(emit) = emits.pop() {
            match emit {
                Emit::Record { port, record, stream } => {
                    let mut record = Some(record);
                    let children = &self.nodes[n].children;
                    let first = children.iter().position(|(p, _, _)| *p == port);
                    for (at, &(p, child, input)) in children.iter().enumerate().rev() {
                        if p != port {
                            continue;
                        }
                        let record = if Some(at) == first { record.take() } else { record.clone() };
                        if let Some(mut record) = record {
                            if !self.nodes[child].takes_changes {
                                record.change = None;
                            }
                            self.stack.push(Work::Record {
                                node: child,
                                input,
                                record,
                                stream,
                                timed: false,
                            });
                        }
                    }
                }
                Emit::Watermark(stream) => {
                    for &(_, child, input) in self.nodes[n].children.iter().rev() {
                        self.stack.push(Work::Watermark { node: child, input, stream });
                    }
                }
            }
        }
        // Keep the buffer's capacity for the next call.
        self.effects.emits = emits;
    }

    fn due(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.op.deadline().is_some_and(|at| at <= node.clock)
    }

    fn drain(&mut self, now: Timestamp, step: &mut Step) -> Result<(), TaskError> {
        while let Some(work) = self.stack.pop() {
            match work {
                Work::Record { node: n, input, record, stream, timed } => {
                    let node = &mut self.nodes[n];
                    if !timed && node.op.moves_time(&record) {
                        let seen = &mut node.seen[usize::from(input)];
                        *seen = stream.max(*seen);
                        node.clock = stream.max(node.clock);
                        if node.op.time_first() && self.due(n) {
                            self.stack.push(Work::Record { node: n, input, record, stream, timed: true });
                            self.stack.push(Work::Time { node: n });
                            continue;
                        }
                    }
                    self.nodes[n].tally.records_in += 1;
                    let base = self.stack.len();
                    self.with_op(n, input, now, |op, cx| op.on_record(record, cx), step)?;
                    if self.due(n) {
                        // After what the record itself caused: below it on the stack.
                        self.stack.insert(base, Work::Time { node: n });
                    }
                }
                Work::Time { node: n } => {
                    let before = self.nodes[n].op.deadline();
                    let base = self.stack.len();
                    self.with_op(n, 0, now, |op, cx| op.on_time(cx), step)?;
                    let sent = self.stack.len() > base;
                    // Whatever was sent because of the clock: the clock belongs into the checkpoint.
                    self.moved |= sent;
                    let progress = sent || self.nodes[n].op.deadline() != before;
                    if progress && self.due(n) {
                        self.stack.insert(base, Work::Time { node: n });
                    }
                }
                Work::Watermark { node: n, input, stream } => {
                    let node = &mut self.nodes[n];
                    let delays = node.delays[usize::from(input)];
                    let stream = if delays { stream.minus(self.delay) } else { stream };
                    let seen = &mut node.seen[usize::from(input)];
                    *seen = stream.max(*seen);
                    let all = node.seen.iter().copied().min().unwrap_or(stream);
                    if all > node.clock {
                        node.clock = all;
                        self.stack.push(Work::Pass { node: n });
                        if self.due(n) {
                            self.stack.push(Work::Time { node: n });
                        }
                    }
                }
                Work::Pass { node: n } => {
                    self.with_op(
                        n,
                        0,
                        now,
                        |op, cx| {
                            op.on_watermark(cx);
                            Ok(())
                        },
                        step,
                    )?;
                }
            }
        }
        Ok(())
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
        let topic = self.topics.get(usize::from(reject.record.origin.topic)).map(|t| &**t);
        match (policy, self.dead_letter) {
            (OnFailure::Skip, _) => {
                step.drops.push((node, reject.reason));
                Ok(())
            }
            (OnFailure::DeadLetter, Some(sink)) => {
                let record = dead_letter(&reject, name, topic);
                let row = SinkRow { reply_to: None, record, payload: Payload::Record };
                if let Some(bytes_max) = self.message_bytes_max(sink) {
                    if row.exceeds(bytes_max) {
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
                let Origin { partition, offset, .. } = reject.record.origin;
                let place = match topic {
                    Some(topic) if offset >= 0 => {
                        format!(" (topic {topic}, partition {partition}, offset {offset})")
                    }
                    _ => String::new(),
                };
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

/// Finds the inputs at which the wall clock has to be held back: the first on its way where somebody refuses what is late;
/// what stands below reads a clock that is behind already.
fn set_delays(nodes: &mut [Node]) {
    let mut behind: Vec<bool> = nodes.iter().map(|n| n.op.refuses_late()).collect();
    // Nodes stand in any order: until nothing changes.
    let mut next: Vec<usize> = (0..nodes.len()).filter(|n| behind[*n]).collect();
    while let Some(n) = next.pop() {
        for &(_, child, _) in &nodes[n].children {
            if !std::mem::replace(&mut behind[child], true) {
                next.push(child);
            }
        }
    }
    let mut delays: Vec<Vec<bool>> = nodes.iter().map(|n| vec![n.op.refuses_late(); n.seen.len()]).collect();
    for (_, node) in nodes.iter().enumerate().filter(|(n, _)| behind[*n]) {
        for &(_, child, input) in &node.children {
            delays[child][usize::from(input)] = false;
        }
    }
    nodes.iter_mut().zip(delays).for_each(|(node, delays)| node.delays = delays);
}

/// A transaction with this row would fail.
fn too_large(row: SinkRow, bytes_max: usize) -> Reject {
    let detail = format!("the topic takes messages up to {bytes_max} bytes");
    Reject { reason: Reason::SinkRefused, detail, record: row.record, attempts: 1 }
}

/// The nodes below these sources, as far as records go at once: behind a node that keeps them they come later.
fn reached(topology: &Topology, sub: &SubTopology, nodes: &[Node], from: &[usize]) -> Vec<usize> {
    let mut reached: Vec<usize> = Vec::new();
    let mut next: Vec<usize> = from.to_vec();
    while let Some(n) = next.pop() {
        for &(_, child, _) in &nodes[n].children {
            if reached.contains(&child) {
                continue;
            }
            reached.push(child);
            if matches!(&topology.nodes[sub.nodes[child]].kind, NodeKind::Operator(c) if !c.is_stateful()) {
                next.push(child);
            }
        }
    }
    reached
}

/// What of a topology its state depends on: each stateful node with its kind. A line that is gone or changed means that
/// old state would be orphaned or misread; new lines are new, empty stores.
fn shape(topology: &Topology, sub: &SubTopology) -> String {
    let mut lines: Vec<String> = sub
        .nodes
        .iter()
        .filter_map(|g| {
            let node = &topology.nodes[*g];
            match &node.kind {
                NodeKind::Operator(config) => {
                    config.state_shape().map(|shape| format!("{} = {shape}", node.name))
                }
                NodeKind::Source(_) => {
                    node.table.map(|table| format!("{} = {}", node.name, table.state_kind()))
                }
                NodeKind::Sink(_) if topology.readers(*g).next().is_some() => {
                    Some(format!("{} = sink", node.name))
                }
                _ => None,
            }
        })
        .collect();
    lines.sort();
    lines.join("\n")
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

/// Is there any state at all?
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
