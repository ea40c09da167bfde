//! `TopologyTestDriver`: the production task on virtual time, in memory.
//!
//! One partition per topic. The virtual wall clock starts at 0; a record from the future moves it. A Kafka sink whose
//! topic is a source of the same topology feeds that source. What a task asks for is done at once and in a defined
//! order, so the same input gives the same output, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::formats::Formats;
use crate::model::{
    Call, Clock, Json, ManualClock, Message, Millis, Origin, Reason, Record, Reply, SinkRow, Timestamp, Value,
};
use crate::operators::shared::describe::Described;
use crate::operators::{Admits, Commits};
use crate::runtime::{
    Delivery, GlobalTable, Globals, Input, Step, Task, TaskError, TaskId, TaskOptions, inspect, query_global,
};
use crate::sinks::{Operation, TableSink, message_of};
use crate::state::{Backend, MemoryBackend};
use crate::topology::{Changelog, Made, NodeKind, Topology};

use super::{Answer, Mock};

/// Something that came out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A record or row.
    Record {
        /// Node that delivered it.
        node: usize,
        /// Sink name, or topic of a Kafka sink.
        to: String,
        /// Key as shown.
        key: Json,
        /// Value as shown.
        value: Json,
        /// The record itself.
        record: Record,
    },
    /// A drop.
    Dropped {
        /// Node.
        node: usize,
        /// Why.
        reason: Reason,
    },
    /// A call.
    Called {
        /// Node.
        node: usize,
        /// The call.
        call: Call,
    },
}

/// The task failed, as it would have in production.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The task stopped.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// No source reads that topic.
    #[error("no source reads the topic `{topic}`; the topology reads: {known}")]
    UnknownTopic {
        /// As asked for.
        topic: String,
        /// What there is.
        known: String,
    },
    /// There is no node of that name.
    #[error("there is no node `{0}`")]
    NoNode(String),
    /// No node of that name makes calls.
    #[error("there is no node `{0}` that makes calls")]
    UnknownNode(String),
}

struct Slot {
    task: Task,
    backend: Arc<MemoryBackend>,
    /// The committed next offset, by topic index.
    committed: Vec<i64>,
}

/// Runs a topology's tasks on virtual time.
pub struct TopologyTestDriver {
    topology: Arc<Topology>,
    formats: Arc<Formats>,
    slots: Vec<Slot>,
    /// Global tables; like those on disk, they survive restarts.
    globals: Vec<GlobalTable>,
    rows: Globals,
    /// The records of every topic; of a source of lines, by the node's name.
    log: BTreeMap<String, Vec<Record>>,
    /// How many records of each repartition topic are part of a checkpoint: a crash drops the rest, as an aborted
    /// transaction does.
    kept: BTreeMap<String, usize>,
    wall: Timestamp,
    mocks: BTreeMap<usize, Mock>,
    /// The tables of sinks that give rows back or leave those that are there, by node; they survive restarts.
    tables: BTreeMap<usize, TableSink>,
    /// What the tables read.
    clock: Arc<ManualClock>,
    /// Replies that will come: due time, order, slot, node, call.
    replies: BTreeMap<(Timestamp, u64), (usize, usize, u64, Reply)>,
    order: u64,
    out: Vec<Output>,
    tapped: Vec<Record>,
    step: Step,
}

impl TopologyTestDriver {
    /// A driver with empty state at time 0.
    ///
    /// # Errors
    /// The task does not start.
    pub fn new(topology: Arc<Topology>) -> Result<TopologyTestDriver, DriverError> {
        let mut driver = TopologyTestDriver {
            formats: Arc::new(Formats::unconnected(&topology.named_schemas)),
            topology,
            slots: Vec::new(),
            globals: Vec::new(),
            rows: Globals::new(),
            log: BTreeMap::new(),
            kept: BTreeMap::new(),
            wall: Timestamp(0),
            mocks: BTreeMap::new(),
            tables: BTreeMap::new(),
            clock: Arc::default(),
            replies: BTreeMap::new(),
            order: 0,
            out: Vec::new(),
            tapped: Vec::new(),
            step: Step::default(),
        };
        for node in driver.topology.globals() {
            let rows: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
            let table = GlobalTable::open(&driver.topology, &driver.formats, node, &rows)
                .map_err(TaskError::State)?;
            driver.globals.push(table);
            driver.rows.insert(node, rows);
        }
        for (n, node) in driver.topology.nodes.iter().enumerate() {
            let NodeKind::Sink(sink) = &node.kind else { continue };
            let Some(table) = sink.table() else { continue };
            let once = matches!(table.operation, Operation::Keep | Operation::InsertOnce);
            if once || sink.returning().is_some() {
                let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&driver.clock);
                driver.tables.insert(n, TableSink::standing_for(table, clock));
            }
        }
        for sub in 0..driver.topology.subs.len() {
            let backend = Arc::new(MemoryBackend::default());
            let slot = driver.open(sub, backend, None)?;
            driver.slots.push(slot);
        }
        Ok(driver)
    }

    fn open(
        &mut self,
        sub: usize,
        backend: Arc<MemoryBackend>,
        committed: Option<Vec<i64>>,
    ) -> Result<Slot, DriverError> {
        let id = TaskId { sub, partition: 0 };
        let dynamic: Arc<dyn Backend> = Arc::clone(&backend) as Arc<dyn Backend>;
        let options = TaskOptions {
            formats: Some(Arc::clone(&self.formats)),
            globals: self.rows.clone(),
            ..TaskOptions::default()
        };
        let mut task = Task::open(&self.topology, id, &dynamic, &options, self.wall, &mut self.step)?;
        let committed = committed.unwrap_or_else(|| vec![0; task.topics().len()]);
        for (topic, offset) in committed.iter().enumerate() {
            task.start_at(topic, *offset);
        }
        Ok(Slot { task, backend, committed })
    }

    /// The virtual wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall
    }

    /// Sets how the next calls of a node are answered.
    ///
    /// # Errors
    /// There is no such node, or it makes no calls.
    pub fn on_call(&mut self, node: &str, answer: Answer, times: u64) -> Result<(), DriverError> {
        let n = self.calling_node(node)?;
        self.mocks.entry(n).or_default().push(answer, times);
        Ok(())
    }

    /// The node of that name, if it makes calls.
    ///
    /// # Errors
    /// There is none.
    pub fn calling_node(&self, node: &str) -> Result<usize, DriverError> {
        self.topology
            .node(node)
            .filter(|n| matches!(&self.topology.nodes[*n].kind, NodeKind::Operator(c) if c.calls().is_some()))
            .ok_or_else(|| DriverError::UnknownNode(node.into()))
    }

    /// Appends a record to a topic and processes it. A timestamp ahead of the wall clock moves the wall clock first.
    ///
    /// # Errors
    /// No source reads the topic, or the task stopped.
    pub fn send(&mut self, topic: &str, record: Record) -> Result<(), DriverError> {
        let known = self.inputs();
        if !known.iter().any(|k| k == topic) {
            return Err(DriverError::UnknownTopic { topic: topic.into(), known: known.join(", ") });
        }
        if record.ts > self.wall {
            let to = record.ts;
            self.advance_to(to)?;
        }
        self.append(topic, record);
        self.settle()
    }

    /// The topics that can be sent to: topics of Kafka sources, names of other sources; not the topology's own topics.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        let own = self.topology.repartitions();
        let all = self.slots.iter().flat_map(|s| s.task.topics().iter().map(ToString::to_string));
        let mut inputs: Vec<String> = all.filter(|topic| !own.iter().any(|r| r.topic == *topic)).collect();
        inputs.extend(
            self.topology.global_topics().into_iter().filter(|t| !inputs.contains(t)).collect::<Vec<_>>(),
        );
        inputs
    }

    /// The topic that a name stands for: a topic, or a source that reads one.
    #[must_use]
    pub fn topic_of(&self, name: &str) -> String {
        if let Some(n) = self.topology.node(name)
            && let NodeKind::Source(source) = &self.topology.nodes[n].kind
            && let Some(topic) = source.topics().first()
        {
            return (*topic).to_owned();
        }
        name.to_owned()
    }

    fn append(&mut self, topic: &str, mut record: Record) {
        let log = self.log.entry(topic.to_owned()).or_default();
        record.origin =
            Origin { topic: 0, partition: 0, offset: i64::try_from(log.len()).unwrap_or(i64::MAX) };
        log.push(record);
    }

    /// Moves the wall clock on, stopping at every time at which something is due.
    ///
    /// # Errors
    /// The task stopped.
    pub fn advance(&mut self, by: Millis) -> Result<(), DriverError> {
        self.advance_to(self.wall.plus(by))
    }

    fn advance_to(&mut self, target: Timestamp) -> Result<(), DriverError> {
        loop {
            let due = self
                .slots
                .iter()
                .filter_map(|s| s.task.next_deadline(true))
                .chain(self.replies.keys().map(|(at, _)| *at))
                .filter(|at| *at > self.wall)
                .min();
            match due {
                Some(at) if at < target => self.wall = at,
                _ => break,
            }
            self.settle()?;
        }
        self.wall = target.max(self.wall);
        self.settle()
    }

    /// Runs until nothing is left to do at this time: records not read yet, replies due, timers due.
    fn settle(&mut self) -> Result<(), DriverError> {
        loop {
            self.perform(None)?;
            self.read_globals()?;
            if self.read_one()? || self.reply_one()? {
                continue;
            }
            // All input has been read: the sources are caught up, so the wall clock moves the nodes' clocks.
            let mut busy = false;
            for slot in 0..self.slots.len() {
                let wall = self.wall;
                let until = (!self.is_held(slot)).then_some(wall);
                self.slots[slot].task.step(Input::Clock { until }, wall, &mut self.step)?;
                let moved = !self.step.is_empty();
                self.perform(Some(slot))?;
                if moved {
                    // What it wrote may be input of a task whose time has not come yet, and is read first.
                    busy = true;
                    break;
                }
            }
            if !busy && self.replies.keys().next().is_none_or(|(at, _)| *at > self.wall) {
                return Ok(());
            }
        }
    }

    /// Global tables are read first: they are up to date before anything is joined with them.
    fn read_globals(&mut self) -> Result<(), DriverError> {
        for table in &mut self.globals {
            for topic in table.topics().to_vec() {
                let Some(log) = self.log.get(&topic) else { continue };
                let from = table.position(&topic, 0);
                let next = i64::try_from(log.len()).unwrap_or(i64::MAX);
                if from == next {
                    continue;
                }
                let records = log[usize::try_from(from).unwrap_or(0)..].to_vec();
                let node = table.node();
                let drops = table.apply(records, [(topic.as_str(), 0, next)], self.wall)?;
                self.out.extend(drops.into_iter().map(|reason| Output::Dropped { node, reason }));
            }
        }
        Ok(())
    }

    /// The next record of a task's topic.
    fn head(&self, slot: usize, topic: usize) -> Option<&Record> {
        let task = &self.slots[slot].task;
        let at = usize::try_from(task.position(topic)).ok()?;
        self.log.get(&*task.topics()[topic])?.get(at)
    }

    /// Whether a record may not come in yet. Then the task's other topics, whose records may be later, wait too, and so
    /// do its clocks.
    fn is_held(&self, slot: usize) -> bool {
        let task = &self.slots[slot].task;
        let waits = |t: usize, record: &Record| {
            let mut record = record.clone();
            record.origin.topic = u16::try_from(t).unwrap_or(u16::MAX);
            task.admits(t, &record, self.wall) == Admits::Wait
        };
        let mut asked = (0..task.topics().len()).filter(|t| task.asks(*t));
        asked.any(|t| self.head(slot, t).is_some_and(|record| waits(t, record)))
    }

    /// The topic that a commit means which names none.
    pub(super) fn only_topic(&self) -> Result<String, String> {
        match self.inputs().as_slice() {
            [topic] => Ok(topic.clone()),
            topics => Err(format!("name the topic: there are {}", topics.join(", "))),
        }
    }

    /// Another consumer group commits: it has processed everything in the topic before `next`. The tasks that read the
    /// topic are told.
    ///
    /// # Errors
    /// No source reads the topic, or the task stopped.
    pub fn commit(&mut self, group: &str, topic: &str, next: i64) -> Result<(), DriverError> {
        let commits = Commits { group: group.into(), topic: topic.into(), next };
        let reads = |slot: &Slot| slot.task.topics().iter().any(|t| **t == *topic);
        let readers: Vec<usize> = (0..self.slots.len()).filter(|n| reads(&self.slots[*n])).collect();
        if readers.is_empty() {
            return Err(DriverError::UnknownTopic { topic: topic.into(), known: self.inputs().join(", ") });
        }
        for slot in readers {
            let wall = self.wall;
            self.slots[slot].task.step(Input::Commits(commits.clone()), wall, &mut self.step)?;
            self.perform(Some(slot))?;
        }
        self.settle()
    }

    /// Feeds the record with the lowest timestamp among the heads of one task's topics.
    fn read_one(&mut self) -> Result<bool, DriverError> {
        for slot in 0..self.slots.len() {
            if !self.slots[slot].task.wants_input() || self.is_held(slot) {
                continue;
            }
            let task = &self.slots[slot].task;
            let head = (0..task.topics().len())
                .filter_map(|t| self.head(slot, t).map(|record| (task.time_of(t, record), t, record)))
                .min_by_key(|(ts, t, _)| (*ts, *t));
            let Some((_, topic, record)) = head else { continue };
            let mut record = record.clone();
            record.origin.topic = u16::try_from(topic).unwrap_or(u16::MAX);
            let wall = self.wall;
            self.slots[slot].task.step(
                Input::Records { topic, records: vec![record] },
                wall,
                &mut self.step,
            )?;
            self.perform(Some(slot))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn reply_one(&mut self) -> Result<bool, DriverError> {
        let Some((&(at, order), _)) = self.replies.first_key_value() else { return Ok(false) };
        if at > self.wall {
            return Ok(false);
        }
        if let Some((slot, node, call, reply)) = self.replies.remove(&(at, order)) {
            let wall = self.wall;
            self.slots[slot].task.step(Input::Reply { node, call, reply }, wall, &mut self.step)?;
            self.perform(Some(slot))?;
        }
        Ok(true)
    }

    /// Does what the last step of `slot` asked for: rows are durable at once, calls are answered as scripted.
    fn perform(&mut self, slot: Option<usize>) -> Result<(), DriverError> {
        let step = std::mem::take(&mut self.step);
        let Some(slot) = slot else {
            self.step = step;
            return Ok(());
        };
        self.tapped.extend(step.taps.into_iter().map(|tapped| tapped.record));
        for (node, reason) in step.drops {
            self.out.push(Output::Dropped { node, reason });
        }
        for (node, call) in step.calls {
            let answer = self.mocks.entry(node).or_default().next_answer();
            let at = self.wall.plus(answer.latency);
            self.order += 1;
            self.replies.insert((at, self.order), (slot, node, call.id, answer.reply()));
            self.out.push(Output::Called { node, call });
        }
        for delivery in step.deliveries {
            self.deliver(slot, delivery)?;
        }
        Ok(())
    }

    fn deliver(&mut self, slot: usize, delivery: Delivery) -> Result<(), DriverError> {
        let Delivery { node, epoch, row } = delivery;
        let topology = Arc::clone(&self.topology);
        let NodeKind::Sink(sink) = &topology.nodes[node].kind else { return Ok(()) };
        let (key, value) = sink.show(&row, self.wall);
        let to = sink.topic().unwrap_or(&topology.nodes[node].name).to_owned();
        let reply_to = row.reply_to;
        self.clock.advance_to(self.wall);
        let stands = match self.tables.get(&node).map(|table| table.put(&row)) {
            None => None,
            Some(Ok(stands)) => stands,
            Some(Err(refused)) => return self.refuse(slot, node, epoch, row, refused.to_string()),
        };
        if !matches!(topology.nodes[node].made, Made::For(_)) {
            self.out.push(Output::Record { node, to: to.clone(), key, value, record: row.record.clone() });
        }
        if topology.source_topics().contains(&to) || topology.global_topics().contains(&to) {
            self.append(&to, as_message(&topology, node, row));
        }
        match reply_to {
            None => {
                let wall = self.wall;
                self.slots[slot].task.step(Input::Acked { epoch, rows: 1 }, wall, &mut self.step)?;
            }
            Some(call) => {
                self.order += 1;
                self.replies.insert((self.wall, self.order), (slot, node, call, Reply::Delivered(stands)));
            }
        }
        Ok(())
    }

    /// Tells a task that the stand-in of its sink takes a row never.
    fn refuse(
        &mut self,
        slot: usize,
        node: usize,
        epoch: u64,
        row: SinkRow,
        message: String,
    ) -> Result<(), DriverError> {
        let wall = self.wall;
        match row.reply_to {
            None => {
                let input = Input::Refused { epoch, node, record: row.record, message };
                self.slots[slot].task.step(input, wall, &mut self.step)?;
                self.perform(Some(slot))
            }
            Some(call) => {
                self.order += 1;
                self.replies.insert((wall, self.order), (slot, node, call, Reply::Refused { message }));
                Ok(())
            }
        }
    }

    /// Takes a checkpoint of every task.
    ///
    /// # Errors
    /// The task stopped.
    pub fn checkpoint(&mut self) -> Result<(), DriverError> {
        for slot in &mut self.slots {
            let Some(sealed) = slot.task.seal(self.wall)? else { continue };
            slot.backend.write(&sealed.rows).map_err(TaskError::State)?;
            for (topic, next) in sealed.positions {
                slot.committed[topic] = next;
            }
            slot.task.applied();
        }
        if self.topology.settings.state.changelog == Changelog::On {
            for r in self.topology.repartitions() {
                let len = self.log.get(&r.topic).map_or(0, Vec::len);
                self.kept.insert(r.topic, len);
            }
        }
        Ok(())
    }

    /// Drops every task and restores it from its last checkpoint; what was read since is read again.
    ///
    /// # Errors
    /// The task does not start again.
    pub fn restart(&mut self) -> Result<(), DriverError> {
        self.replies.clear();
        if self.topology.settings.state.changelog == Changelog::On {
            for r in self.topology.repartitions() {
                let kept = self.kept.get(&r.topic).copied().unwrap_or(0);
                if let Some(log) = self.log.get_mut(&r.topic) {
                    log.truncate(kept);
                }
            }
        }
        for (sub, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            drop(slot.task);
            let backend = match self.topology.settings.state.changelog {
                Changelog::On => slot.backend,
                // Reading the input again rebuilds it.
                Changelog::Off => Arc::default(),
            };
            let slot = self.open(sub, backend, Some(slot.committed))?;
            self.slots.push(slot);
            self.perform(Some(sub))?;
        }
        self.settle()
    }

    /// The rows that a node has under a key, as a running engine shows them.
    ///
    /// # Errors
    /// There is no such node, or its state cannot be read.
    pub fn query(&self, node: &str, key: &[u8]) -> Result<Vec<Described>, DriverError> {
        let n = self.topology.node(node).ok_or_else(|| DriverError::NoNode(node.into()))?;
        let mut rows = Vec::new();
        for slot in &self.slots {
            rows.extend(slot.task.query(n, key).map_err(TaskError::State)?.rows);
        }
        if let Some(global) = self.rows.get(&n) {
            rows.extend(query_global(&self.topology, n, global, key).map_err(TaskError::State)?.rows);
        }
        Ok(rows.iter().map(|(key, row)| inspect::describe(&self.topology, n, key, row)).collect())
    }

    /// Looks at so many of the next records that a node sends on: [`TopologyTestDriver::take_tapped`]. A restart ends it.
    ///
    /// # Errors
    /// There is no such node.
    pub fn tap(&mut self, node: &str, records: usize) -> Result<(), DriverError> {
        let n = self.topology.node(node).ok_or_else(|| DriverError::NoNode(node.into()))?;
        self.slots.iter_mut().for_each(|slot| slot.task.tap(n, 0, records));
        Ok(())
    }

    /// What was seen since the last time by looking at nodes, in order.
    pub fn take_tapped(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.tapped)
    }

    /// What came out since the last call, in order.
    pub fn take_output(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// The topology under test.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// State of every task, for comparisons.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Vec<(bytes::Bytes, bytes::Bytes)>> {
        self.slots.iter().map(|s| s.backend.snapshot()).collect()
    }
}

/// A sink's row as a reader of the topic sees it.
fn as_message(topology: &Topology, node: usize, row: SinkRow) -> Record {
    let NodeKind::Sink(sink) = &topology.nodes[node].kind else { return row.record };
    if sink.topic().is_none() {
        return row.record;
    }
    let Message { key, value, headers } = message_of(&row);
    let value = value.map_or(Value::Null, Value::Bytes);
    Record { key, value, headers, ts: row.record.ts, ..Record::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::{Cx, Operator, OperatorError};
    use crate::yaml::{Mode, load};

    /// Lets a record in once the group has committed behind it; refuses it if it is a minute old by then.
    struct Gate {
        done: i64,
    }

    impl Operator for Gate {
        fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
            cx.forward(record);
            Ok(())
        }
        fn gates(&self) -> bool {
            true
        }
        fn admits(&self, record: &Record, now: Timestamp) -> Admits {
            match record.origin.offset < self.done {
                true => Admits::Yes,
                false if now.since(record.ts) >= Millis::secs(60) => Admits::Refuse(Reason::GateTimeout),
                false => Admits::Wait,
            }
        }
        fn on_commits(&mut self, commits: &Commits, _: &mut Cx<'_>) -> Result<(), OperatorError> {
            if (&*commits.group, &*commits.topic) == ("billing", "in") {
                self.done = commits.next;
            }
            Ok(())
        }
    }

    /// `in` through a gate, joined in order of time with `beside`, and counted in windows of 10 s.
    fn driver() -> TopologyTestDriver {
        let text = "
name: t
kafka: { brokers: b }
sources: { in: { kafka: { topic: in } }, beside: { kafka: { topic: beside } } }
operators:
  gate: { from: in, filter: 'true' }
  all: { from: [gate, beside], merge: {} }
  counts: { from: all, aggregate: { window: { tumbling: 10s }, emit: final, count: {} } }
sinks: { out: { from: all, stdout: {} }, counted: { from: counts, stdout: {} } }
errors: { on_failure: skip }
";
        let loaded = load("t.yaml", text, Mode::Required, &|_| None).expect("a good file");
        let mut driver = TopologyTestDriver::new(Arc::new(loaded.topology)).expect("starts");
        let gate = driver.topology.node("gate").expect("a node");
        let topology = Arc::clone(&driver.topology);
        driver.slots[0].task.stand_in(&topology, gate, Box::new(Gate { done: 0 }));
        driver
    }

    fn send(driver: &mut TopologyTestDriver, topic: &str, n: i64, ts: i64) -> String {
        let value = Value::Bytes(n.to_string().into());
        driver.send(topic, Record::new("k", value, Timestamp(ts))).expect("runs");
        out(driver)
    }

    fn out(driver: &mut TopologyTestDriver) -> String {
        let line = |output| match output {
            Output::Record { to, value, .. } => format!("{to}={value}"),
            Output::Dropped { reason, .. } => reason.name().to_owned(),
            Output::Called { .. } => "call".to_owned(),
        };
        driver.take_output().into_iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_record_waits_outside_until_a_group_has_committed_and_no_clock_passes_it() {
        let mut driver = driver();
        assert_eq!(send(&mut driver, "in", 1, 1000), "");
        assert_eq!(send(&mut driver, "in", 2, 2000), "", "behind it");
        assert_eq!(send(&mut driver, "beside", 3, 3000), "", "later: it waits for its turn");
        driver.advance(Millis::secs(30)).expect("runs");
        assert_eq!(out(&mut driver), "", "its window is not closed by the wall clock");
        driver.commit("other", "in", 9).expect("runs");
        driver.commit("billing", "beside", 9).expect("runs");
        assert_eq!(out(&mut driver), "", "of another group, of another topic");
        driver.commit("billing", "in", 1).expect("runs");
        assert_eq!(out(&mut driver), "out=1", "the first alone");
        driver.commit("billing", "in", 2).expect("runs");
        let all = out(&mut driver);
        assert!(all.starts_with("out=2 out=3 counted="), "then everything, and the window closes: {all}");
        assert!(driver.commit("billing", "nowhere", 2).is_err());
    }

    #[test]
    fn a_record_that_is_refused_is_treated_as_the_topology_says() {
        let mut driver = driver();
        assert_eq!(send(&mut driver, "in", 1, 1000), "");
        driver.advance(Millis::secs(59)).expect("runs");
        assert_eq!(out(&mut driver), "");
        driver.advance(Millis::secs(1)).expect("runs");
        assert_eq!(out(&mut driver), "gate_timeout");
        assert_eq!(driver.slots[0].task.position(0), 1, "it was read");
    }
}
