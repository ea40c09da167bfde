//! A worker: one OS thread that owns whole tasks. It polls their partitions itself and runs them synchronously; sinks,
//! calls, commits and restores happen elsewhere and answer through the worker's inbox.
//!
//! `turn` is the loop's body: take what arrived, read, let time pass, seal, hand on what the tasks want. Nothing in it
//! waits; when a turn did nothing the thread waits on its inbox for a few milliseconds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::calls::{CallDriver, Job};
use super::checkpoint::{Committer, Part};
use super::deliver::{CHUNK, Parcel, SinkDriver};
use super::inbox::{Handle, Inbox, Mail, Message, Restored};
use super::metrics::WorkerMetrics;
use super::read::TaskReader;
use super::task::{Input, Sealed, Step, Task, TaskError, TaskId};
use crate::model::{Clock, Record, SystemClock, Timestamp};
use crate::sinks::KafkaLane;
use crate::state::Backend;

/// Records taken from one partition in one visit.
const VISIT: usize = 256;
/// Rows and calls that wait to be handed on; above it no input is taken.
const BACKLOG_MAX: usize = 8192;
/// Rows gathered for one transaction; the epoch is sealed early then, and at twice as many no input is taken.
const GATHERED_MAX: usize = 20_000;
/// How long an idle worker waits for a message before it polls again.
const IDLE: Duration = Duration::from_millis(2);
/// How often counters become metrics.
const REPORT: Duration = Duration::from_millis(250);

/// Where the answer to a call belongs: task, node, worker.
pub type Ticket = (Handle, usize, Inbox);

/// Where calls of one node go.
pub type Calls = CallDriver<Ticket>;

/// What a worker needs of the rest of the process.
pub struct Outside {
    /// Sink drivers by node; the dead letter under [`super::DEAD_LETTER`].
    pub sinks: BTreeMap<usize, SinkDriver>,
    /// Call drivers by node.
    pub calls: BTreeMap<usize, Calls>,
    /// Starts restoring a task; the answer comes through the inbox.
    pub restore: Box<dyn Fn(Handle, Inbox) + Send>,
    /// Sinks whose records go into the checkpoint's transaction.
    pub transactional: BTreeMap<usize, KafkaLane>,
    /// Changelog topic of each sub-topology, where there is one.
    pub changelogs: Vec<Option<Arc<str>>>,
    /// Time between checkpoints.
    pub checkpoint: Duration,
    /// Reported when a task stops for good.
    pub failed: Box<dyn Fn(TaskId, String) + Send>,
    /// Told which tasks run and which are restoring.
    pub status: Box<dyn Fn(TaskId, TaskStatus) + Send>,
}

/// What `/ready` and the logs say of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// State is being read back.
    Restoring,
    /// Running.
    Running,
    /// Not here any more.
    Gone,
}

enum Phase {
    /// Waits for [`Message::Restored`].
    Restoring,
    Running(Box<Running>),
}

struct Running {
    task: Task,
    backend: Arc<dyn Backend>,
    sealed: Option<Sealed>,
    committing: bool,
    sealed_at: Instant,
}

struct Slot {
    handle: Handle,
    readers: Vec<(usize, TaskReader)>,
    phase: Phase,
    /// Revoked or draining: no input; committed once more, then dropped.
    leaving: bool,
    /// An epoch was sealed after `leaving`: when it is applied, the slot may go.
    last: bool,
    /// The readers are ahead of the last checkpoint and must go back to it.
    rewound: bool,
}

/// Waiting for tasks to leave.
struct Leave {
    ids: Vec<TaskId>,
    done: SyncSender<()>,
}

/// See the module.
pub struct Worker {
    mail: Mail,
    inbox: Inbox,
    outside: Outside,
    committer: Committer,
    metrics: WorkerMetrics,
    slots: BTreeMap<TaskId, Slot>,
    leaves: Vec<Leave>,
    drain: Option<SyncSender<()>>,
    generation: u64,
    /// Rows by sink node and lane, not handed on yet.
    rows: BTreeMap<(usize, usize), Vec<Parcel>>,
    calls: VecDeque<(usize, Job<Ticket>)>,
    step: Step,
    records: Vec<Record>,
    reported: Instant,
}

impl Worker {
    /// A worker without tasks.
    #[must_use]
    pub fn new(
        mail: Mail,
        inbox: Inbox,
        outside: Outside,
        committer: Committer,
        metrics: WorkerMetrics,
    ) -> Worker {
        Worker {
            mail,
            inbox,
            outside,
            committer,
            metrics,
            slots: BTreeMap::new(),
            leaves: Vec::new(),
            drain: None,
            generation: 0,
            rows: BTreeMap::new(),
            calls: VecDeque::new(),
            step: Step::default(),
            records: Vec::new(),
            reported: Instant::now(),
        }
    }

    /// Runs until drained.
    pub fn run(mut self) {
        loop {
            let busy = self.turn();
            if let Some(done) = self.drain.take_if(|_| self.slots.is_empty()) {
                self.report();
                self.committer.join();
                done.send(()).unwrap_or_default();
                return;
            }
            if !busy && let Some(message) = self.mail.next(IDLE) {
                self.message(message);
            }
        }
    }

    fn turn(&mut self) -> bool {
        let mut busy = false;
        while let Some(message) = self.mail.try_next() {
            self.message(message);
            busy = true;
        }
        let now = SystemClock.now();
        let ids: Vec<TaskId> = self.slots.keys().copied().collect();
        for id in ids {
            busy |= self.visit(id, now);
        }
        self.commit();
        self.settle_leaves();
        busy |= self.hand_on();
        if self.reported.elapsed() >= REPORT {
            self.report();
        }
        busy
    }

    /// One task's share of a turn.
    fn visit(&mut self, id: TaskId, now: Timestamp) -> bool {
        let room = self.calls.len() + self.rows.values().map(Vec::len).sum::<usize>() < BACKLOG_MAX;
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let Phase::Running(running) = &mut slot.phase else { return false };
        let mut busy = false;
        let mut failure = None;
        if room && !slot.leaving && running.task.gathered() < 2 * GATHERED_MAX {
            for (topic, reader) in &mut slot.readers {
                if !running.task.wants_input() {
                    break;
                }
                match reader.poll_batch(VISIT, now, &mut self.records) {
                    Ok(0) => {}
                    Ok(_) => {
                        busy = true;
                        for record in &mut self.records {
                            record.origin.topic = u16::try_from(*topic).unwrap_or(u16::MAX);
                        }
                        let records = std::mem::take(&mut self.records);
                        let input = Input::Records { topic: *topic, records };
                        if let Err(e) = running.task.step(input, now, &mut self.step) {
                            failure = Some(e);
                            break;
                        }
                    }
                    Err(e) => {
                        self.records.clear();
                        tracing::warn!(task = ?id, error = e, "cannot read a partition");
                    }
                }
            }
        }
        let caught_up = slot.readers.iter().all(|(_, r)| r.caught_up());
        if failure.is_none()
            && running.task.next_deadline(caught_up && !slot.leaving).is_some_and(|at| at <= now)
            || caught_up && !slot.leaving
        {
            let input = Input::Clock { caught_up: caught_up && !slot.leaving && room };
            failure = running.task.step(input, now, &mut self.step).err();
        }
        let due = running.sealed_at.elapsed() >= self.outside.checkpoint
            || running.task.gathered() >= GATHERED_MAX
            || slot.leaving && !slot.last;
        if failure.is_none() && running.sealed.is_none() && !running.committing && due {
            running.sealed_at = Instant::now();
            match running.task.seal_late(now) {
                Ok(Some(sealed)) => {
                    running.sealed = Some(sealed);
                    slot.last = slot.leaving;
                    busy = true;
                }
                Ok(None) => slot.last = slot.leaving,
                Err(e) => failure = Some(e),
            }
        }
        let handle = slot.handle;
        busy |= !self.step.is_empty();
        self.take_step(handle);
        if let Some(e) = failure {
            self.stop_task(id, &e);
        }
        busy
    }

    /// Sorts what a step wants into the queues of sinks and calls.
    fn take_step(&mut self, handle: Handle) {
        self.step.drops.clear();
        for (node, call) in self.step.calls.drain(..) {
            let job = Job { ticket: (handle, node, self.inbox.clone()), call };
            self.calls.push_back((node, job));
        }
        for delivery in self.step.deliveries.drain(..) {
            let Some(driver) = self.outside.sinks.get(&delivery.node) else { continue };
            let lane = driver.lane_of(&delivery.row);
            self.rows.entry((delivery.node, lane)).or_default().push(Parcel {
                handle,
                inbox: self.inbox.clone(),
                epoch: delivery.epoch,
                node: delivery.node,
                row: delivery.row,
            });
        }
    }

    /// Hands rows and calls to their drivers, as far as they take them.
    fn hand_on(&mut self) -> bool {
        let mut moved = false;
        for ((node, lane), rows) in &mut self.rows {
            let Some(driver) = self.outside.sinks.get(node) else { continue };
            while !rows.is_empty() {
                let rest = rows.split_off(rows.len().min(CHUNK));
                let chunk = std::mem::replace(rows, rest);
                match driver.submit(*lane, chunk) {
                    Ok(()) => moved = true,
                    Err(mut back) => {
                        back.append(rows);
                        *rows = back;
                        break;
                    }
                }
            }
        }
        for _ in 0..self.calls.len() {
            let Some((node, job)) = self.calls.pop_front() else { break };
            let Some(driver) = self.outside.calls.get(&node) else { continue };
            match driver.try_submit(job) {
                Ok(()) => moved = true,
                Err(job) => self.calls.push_back((node, job)),
            }
        }
        moved
    }

    /// Hands every sealed epoch that has settled to the commit thread, together.
    fn commit(&mut self) {
        let mut parts = Vec::new();
        for slot in self.slots.values_mut() {
            let Phase::Running(running) = &mut slot.phase else { continue };
            if running.committing || !running.task.is_settled() {
                continue;
            }
            if let Some(sealed) = running.sealed.take() {
                let topics = running.task.topics();
                let offsets = slot.readers.iter().filter(|(_, r)| r.has_offsets());
                let offsets = offsets
                    .filter_map(|(t, _)| {
                        let next = sealed.positions.iter().find(|(topic, _)| topic == t)?.1;
                        Some((Arc::clone(&topics[*t]), next))
                    })
                    .collect();
                running.committing = true;
                let lanes = &self.outside.transactional;
                let outputs = sealed.outputs.iter();
                let outputs = outputs.filter_map(|(node, row)| Some(lanes.get(node)?.message(row))).collect();
                parts.push(Part {
                    outputs,
                    handle: slot.handle,
                    sealed,
                    backend: Arc::clone(&running.backend),
                    changelog: self.outside.changelogs[slot.handle.id.sub].clone(),
                    offsets,
                });
            }
        }
        if parts.is_empty() {
            return;
        }
        if let Err(parts) = self.committer.submit(parts) {
            for part in parts {
                if let Some(Slot { phase: Phase::Running(running), .. }) = self.slots.get_mut(&part.handle.id)
                {
                    running.sealed = Some(part.sealed);
                    running.committing = false;
                }
            }
        }
    }

    /// Drops the tasks that have left, and answers who waits for it.
    fn settle_leaves(&mut self) {
        let gone: Vec<TaskId> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.leaving
                    && match &slot.phase {
                        Phase::Restoring => true,
                        Phase::Running(r) => {
                            slot.last && r.sealed.is_none() && !r.committing && r.task.outstanding() == 0
                        }
                    }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.remove(id);
        }
        let slots = &self.slots;
        self.leaves.retain(|leave| {
            let waits = leave.ids.iter().any(|id| slots.contains_key(id));
            if !waits {
                leave.done.try_send(()).unwrap_or_default();
            }
            waits
        });
    }

    fn remove(&mut self, id: TaskId) {
        if let Some(slot) = self.slots.remove(&id) {
            self.forget(slot.handle);
            (self.outside.status)(id, TaskStatus::Gone);
            self.metrics.forget(id);
        }
    }

    /// Takes back what was not handed on yet.
    fn forget(&mut self, handle: Handle) {
        for rows in self.rows.values_mut() {
            rows.retain(|p| p.handle != handle);
        }
        self.calls.retain(|(_, job)| job.ticket.0 != handle);
    }

    fn stop_task(&mut self, id: TaskId, error: &TaskError) {
        tracing::error!(task = ?id, %error, "task stopped");
        (self.outside.failed)(id, error.to_string());
        self.remove(id);
    }

    fn next_handle(&mut self, id: TaskId) -> Handle {
        self.generation += 1;
        Handle { id, generation: self.generation }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Assign { id, readers } => self.assign(id, readers),
            Message::Revoke { ids, lost, done } => {
                for id in &ids {
                    if lost {
                        self.remove(*id);
                    } else if let Some(slot) = self.slots.get_mut(id) {
                        slot.leaving = true;
                        slot.readers.clear();
                    }
                }
                self.leaves.push(Leave { ids, done });
            }
            Message::Restored { handle, result } => self.restored(handle, *result),
            Message::Reply { handle, node, call, reply } => {
                self.feed(handle, Input::Reply { node, call, reply });
            }
            Message::Acked { handle, epoch, rows } => self.feed(handle, Input::Acked { epoch, rows }),
            Message::Refused { handle, epoch, node, record, message } => {
                self.feed(handle, Input::Refused { epoch, node, record: *record, message });
            }
            Message::Committed(handles) => {
                for handle in handles {
                    if let Some(slot) = self.slots.get_mut(&handle.id)
                        && slot.handle == handle
                        && let Phase::Running(running) = &mut slot.phase
                    {
                        running.committing = false;
                        running.task.applied();
                        self.metrics.committed(handle.id, &running.task);
                    }
                }
            }
            Message::Rewind(handles) => {
                for handle in handles {
                    self.rewind(handle);
                }
            }
            Message::Drain(done) => {
                self.drain = Some(done);
                for slot in self.slots.values_mut() {
                    slot.leaving = true;
                }
            }
        }
    }

    fn assign(&mut self, id: TaskId, readers: Vec<(usize, crate::kafka::PartitionReader)>) {
        let readers: Vec<(usize, TaskReader)> =
            readers.into_iter().map(|(topic, reader)| (topic, TaskReader::Kafka(reader))).collect();
        self.add(id, readers);
    }

    /// Adds a task; more readers for a task that is there join it (topics of one task assigned one after another).
    pub fn add(&mut self, id: TaskId, readers: Vec<(usize, TaskReader)>) {
        let handle = self.next_handle(id);
        let mut all = readers;
        if let Some(old) = self.slots.remove(&id) {
            self.forget(old.handle);
            all.extend(old.readers);
        }
        (self.outside.status)(id, TaskStatus::Restoring);
        let slot = Slot {
            handle,
            readers: all,
            phase: Phase::Restoring,
            leaving: false,
            last: false,
            rewound: false,
        };
        self.slots.insert(id, slot);
        (self.outside.restore)(handle, self.inbox.clone());
    }

    fn restored(&mut self, handle: Handle, result: Result<Restored, String>) {
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        if slot.handle != handle {
            return;
        }
        match result {
            Ok(Restored { mut task, backend, step, offsets }) => {
                for (topic, reader) in &mut slot.readers {
                    let known = offsets.iter().find(|(t, _)| t == topic).map(|(_, offset)| *offset);
                    let Some(start) = known.or(reader.start_offset()) else { continue };
                    task.start_at(*topic, start);
                    if slot.rewound
                        && let Err(e) = reader.rewind(start)
                    {
                        tracing::warn!(task = ?handle.id, error = e, "cannot go back to the last checkpoint");
                    }
                }
                slot.rewound = false;
                slot.phase = Phase::Running(Box::new(Running {
                    task,
                    backend,
                    sealed: None,
                    committing: false,
                    sealed_at: Instant::now(),
                }));
                (self.outside.status)(handle.id, TaskStatus::Running);
                self.step = step;
                self.take_step(handle);
            }
            Err(message) => {
                tracing::error!(task = ?handle.id, message, "task cannot be restored");
                (self.outside.failed)(handle.id, message);
                self.remove(handle.id);
            }
        }
    }

    fn feed(&mut self, handle: Handle, input: Input) {
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        if slot.handle != handle {
            return;
        }
        let Phase::Running(running) = &mut slot.phase else { return };
        let result = running.task.step(input, SystemClock.now(), &mut self.step);
        self.take_step(handle);
        if let Err(e) = result {
            self.stop_task(handle.id, &e);
        }
    }

    /// Drops a task whose checkpoint failed and restores it from the last one; its partitions are read again from there.
    fn rewind(&mut self, handle: Handle) {
        let Some(slot) = self.slots.get(&handle.id) else { return };
        if slot.handle != handle {
            return;
        }
        if slot.leaving {
            // Its partitions are on their way to somebody else, who reads on from the last checkpoint.
            self.remove(handle.id);
            return;
        }
        let next = self.next_handle(handle.id);
        self.forget(handle);
        if let Some(slot) = self.slots.get_mut(&handle.id) {
            slot.handle = next;
            slot.phase = Phase::Restoring;
            slot.rewound = true;
            (self.outside.status)(handle.id, TaskStatus::Restoring);
            (self.outside.restore)(next, self.inbox.clone());
        }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        for (id, slot) in &mut self.slots {
            if let Phase::Running(running) = &mut slot.phase {
                self.metrics.report(*id, &mut running.task);
            }
        }
    }
}
