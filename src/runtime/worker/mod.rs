//! A worker: one OS thread that owns whole tasks. It polls their partitions itself and runs them synchronously; sinks,
//! calls, commits and restores happen elsewhere and answer through the worker's inbox.
//!
//! `turn` is the loop's body: take the messages, read, move time, seal, and hand on what the tasks want done. Nothing
//! in it waits; after a turn without work the thread waits on its inbox for a few milliseconds.

mod assigned;
mod outside;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

pub use outside::{Calls, Order, Outside, TaskStatus, Ticket};
use slot::Slot;
use tokio_util::sync::CancellationToken;

pub use self::assigned::{Assigned, Rewound};
use super::calls::Job;
use super::calls::permit::CallGate;
use super::checkpoint::{Committer, Part, failpoint};
use super::delivery::{CHUNK, Parcel};
use super::inbox::{Handle, Inbox, Mail, Message, Restored, Tap, TaskSays, Unrestored};
use super::input::TaskReader;
use super::input::lookahead::Ahead;
use super::metrics::WorkerMetrics;
use super::task::{Input, Step, Task, TaskError, TaskId};
use crate::kafka::PartitionReader;
use crate::model::{Clock, Millis, Record, SystemClock, Timestamp};
use crate::state::StateError;

/// Most rows and calls waiting to be handed on; with more, no input is taken.
const BACKLOG_MAX: usize = 8192;
/// Most rows gathered for one transaction: then the epoch is sealed early, and at twice as many no input is taken.
const GATHERED_MAX: usize = 20_000;
/// How long an idle worker waits for a message before it polls again.
const IDLE: Duration = Duration::from_millis(2);
/// How often counters are turned into metrics.
const REPORT: Duration = Duration::from_millis(250);

/// A revocation that waits for its tasks to leave.
struct Leave {
    ids: Vec<TaskId>,
    done: SyncSender<()>,
}

/// A worker thread with its tasks.
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
    /// Rows by sink node and lane that are not handed on yet.
    rows: BTreeMap<(usize, usize), Vec<Parcel>>,
    calls: VecDeque<(usize, Job<Ticket>)>,
    /// Permits of assignments that are over but have calls in flight.
    gates: Vec<(TaskId, CallGate)>,
    step: Step,
    records: Vec<Record>,
    reported: Instant,
    /// Who looks at records.
    taps: Vec<Tap>,
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
            gates: Vec::new(),
            step: Step::default(),
            records: Vec::new(),
            reported: Instant::now(),
            taps: Vec::new(),
        }
    }

    /// Runs until it is drained.
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
        // Before the messages are taken: if no call is in flight now, all answers are among them.
        for slot in self.slots.values_mut() {
            slot.answered = slot.gate.is_idle();
        }
        self.gates.retain(|(_, gate)| !gate.is_idle());
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

    /// One task's part of a turn.
    fn visit(&mut self, id: TaskId, now: Timestamp) -> bool {
        let room = self.calls.len() + self.rows.values().map(Vec::len).sum::<usize>() < BACKLOG_MAX;
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let handle = slot.assigned.handle();
        let result = slot.turn(room, self.outside.checkpoint, now, &mut self.records, &mut self.step);
        let busy = !self.step.is_empty() || matches!(result, Ok(true));
        if !busy && !slot.ended {
            if let Some(why) = slot.failure() {
                slot.ended = true;
                (self.outside.failed)(id, why);
            } else if slot.has_ended() {
                slot.ended = true;
                (self.outside.status)(id, Some(TaskStatus::Ended));
            }
        }
        let blocked = slot.newly_blocked();
        self.take_step(handle);
        if let Some(blocked) = blocked {
            (self.outside.blocked)(id, blocked);
        }
        if let Err(e) = result {
            self.stop_task(id, &e);
        }
        busy
    }

    /// Sorts a step's effects into the queues for sinks and calls.
    fn take_step(&mut self, handle: Handle) {
        self.step.drops.clear();
        for tapped in self.step.taps.drain(..) {
            if let Some(tap) = self.taps.iter().find(|tap| tap.number == tapped.tap) {
                // Without room it is not shown: the worker does not wait for the receiver.
                drop(tap.to.try_send((handle.id, tapped)));
            }
        }
        for (node, call) in self.step.calls.drain(..) {
            let Some(slot) = self.slots.get(&handle.id) else { continue };
            let ticket = Ticket { handle, node, inbox: self.inbox.clone(), gate: slot.gate.clone() };
            let job = Job { ticket, call };
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

    /// Hands rows and calls to their drivers, as many as those take.
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

    /// Hands all settled epochs to the commit thread, together.
    fn commit(&mut self) {
        let mut parts = Vec::new();
        for slot in self.slots.values_mut() {
            let Some((sealed, backend)) = slot.assigned.take_settled() else { continue };
            let handle = slot.assigned.handle();
            let topics = slot.assigned.task().map(Task::topics).unwrap_or_default();
            let next =
                |topic: usize| sealed.positions.iter().find(|(t, _)| *t == topic).map(|(_, next)| *next);
            let offsets =
                slot.commits.iter().filter_map(|t| Some((Arc::clone(&topics[*t]), next(*t)?))).collect();
            let changelog = self.outside.changelogs[handle.id.sub].clone();
            let lanes = &self.outside.transactional;
            let outputs = sealed.outputs.iter();
            let outputs = outputs.filter_map(|(node, row)| Some(lanes.get(node)?.message(row))).collect();
            failpoint::hit(failpoint::SEALED);
            let leases = slot.leases.clone();
            parts.push(Part { handle, sealed, outputs, backend, changelog, offsets, leases });
        }
        if parts.is_empty() {
            return;
        }
        if let Err(parts) = self.committer.submit(parts) {
            for part in parts {
                if let Some(slot) = self.slots.get_mut(&part.handle.id) {
                    slot.assigned.put_back(part.sealed);
                }
            }
        }
    }

    /// Drops the tasks that have left, and answers the revocations that waited for them.
    fn settle_leaves(&mut self) {
        let gone: Vec<TaskId> =
            self.slots.iter().filter(|(_, slot)| slot.assigned.may_go()).map(|(id, _)| *id).collect();
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
            self.forget(slot.assigned.handle());
            self.close(slot.gate, id);
            slot.unwanted.cancel();
            if !slot.blocked.is_empty() {
                (self.outside.blocked)(id, Vec::new());
            }
            (self.outside.status)(id, None);
            self.metrics.forget(id);
        }
    }

    /// Drops what was not handed on yet.
    fn forget(&mut self, handle: Handle) {
        for rows in self.rows.values_mut() {
            rows.retain(|p| p.handle != handle);
        }
        self.calls.retain(|(_, job)| job.ticket.handle != handle);
    }

    /// Lets no call of an assignment start any more. Calls in flight are remembered until they end.
    fn close(&mut self, gate: CallGate, id: TaskId) {
        gate.close();
        self.gates.push((id, gate));
    }

    /// Starts the restore of a task under its handle.
    fn restore(&mut self, handle: Handle) {
        let gates = self.gates.iter().filter(|(id, _)| *id == handle.id).map(|(_, g)| g.clone()).collect();
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        slot.unwanted.cancel();
        slot.unwanted = CancellationToken::new();
        (self.outside.status)(handle.id, Some(TaskStatus::Restoring));
        let (inbox, unwanted) = (self.inbox.clone(), slot.unwanted.clone());
        // Only records of Kafka may still be in flight when the wall clock is ahead of them.
        let kafka = slot.readers.iter().any(|(_, r)| r.has_offsets());
        let delay = if kafka { self.outside.delay } else { Millis::ZERO };
        let name = self.outside.name(handle.id);
        (self.outside.restore)(Order { handle, name, inbox, unwanted, gates, delay });
    }

    /// What becomes of a task that cannot go on. Where a record is to blame and the policy is `stop`, only the task stops:
    /// it goes back to its last checkpoint and on again up to that record, so that what came before it is committed and
    /// not done again at every start.
    fn stop_task(&mut self, id: TaskId, error: &TaskError) {
        let TaskError::Rejected { place, .. } = error else {
            tracing::error!(task = self.outside.name(id), %error, "task stopped");
            (self.outside.failed)(id, error.to_string());
            self.remove(id);
            return;
        };
        let stops_at = place.as_ref().map(|place| (place.input, place.offset));
        if let (Some(slot), Some(at)) = (self.slots.get_mut(&id), stops_at)
            && slot.stops_at.is_none()
            && slot.readers.iter().any(|(input, reader)| *input == at.0 && reader.has_offsets())
        {
            slot.stops_at = Some(at);
            let handle = slot.assigned.handle();
            (self.outside.stopped)(id, error);
            self.rewind(handle);
            return;
        }
        // The record is in its state, or cannot be read again.
        self.remove(id);
        (self.outside.stopped)(id, error);
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
                    if lost && self.slots.contains_key(id) {
                        self.remove(*id);
                    } else if let Some(slot) = self.slots.get_mut(id) {
                        slot.leave();
                        slot.readers.clear();
                    } else {
                        // It has stopped at a record, and nothing of it is here.
                        (self.outside.status)(*id, None);
                    }
                }
                self.leaves.push(Leave { ids, done });
            }
            Message::Restored { handle, result } => self.restored(handle, *result),
            Message::Reply { handle, node, call, reply } => {
                self.feed(handle, Input::Reply { node, call, reply });
            }
            Message::Commits { id, commits } => {
                // It is news from outside and no answer, so it is for the current assignment.
                if let Some(handle) = self.slots.get(&id).map(|slot| slot.assigned.handle()) {
                    self.feed(handle, Input::Commits(commits));
                }
            }
            Message::Query { sub, node, key, answer } => {
                let slots = self.slots.iter().filter(|(id, _)| id.sub == sub);
                let ask = |slot: &Slot| slot.assigned.task().map(|task| task.query(node, &key));
                // If it is not received, the caller has stopped waiting.
                drop(answer.send(slots.map(|(id, slot)| (*id, ask(slot))).collect()));
            }
            Message::Read { id, node, key, at, answer } => {
                let says = self.slots.get(&id).map(|slot| slot.rows_of(node, &key, at));
                drop(answer.send(says.unwrap_or(TaskSays::NotHere)));
            }
            Message::Tap(tap) => {
                for slot in self.slots.values_mut() {
                    slot.tap(&tap);
                }
                self.taps.push(tap);
            }
            Message::Acked { handle, epoch, rows } => self.feed(handle, Input::Acked { epoch, rows }),
            Message::Refused { handle, epoch, node, record, message } => {
                self.feed(handle, Input::Refused { epoch, node, record: *record, message });
            }
            Message::Committed(handles) => {
                for handle in handles {
                    if let Some(slot) = self.slots.get_mut(&handle.id)
                        && slot.assigned.applied(handle)
                        && let Some(task) = slot.assigned.task_mut()
                    {
                        self.committer.free(task.take_spent());
                        self.metrics.committed(handle.id, task);
                    }
                }
            }
            Message::Failed { handles, message } => {
                for handle in handles {
                    if self.slots.get(&handle.id).is_some_and(|slot| slot.assigned.handle() == handle) {
                        self.stop_task(handle.id, &TaskError::State(StateError(message.clone())));
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
                    slot.leave();
                }
            }
        }
    }

    fn assign(&mut self, id: TaskId, readers: Vec<(usize, PartitionReader)>) {
        if self.drain.is_some() {
            // At shutdown: the group gives them to others as soon as this member has left.
            (self.outside.status)(id, None);
            return;
        }
        let readers: Vec<(usize, TaskReader)> = readers
            .into_iter()
            .map(|(topic, reader)| (topic, self.outside.input(id, topic, reader)))
            .collect();
        self.add(id, readers);
    }

    /// Adds a task. Readers for a task that exists already join it (its topics were assigned one after another).
    pub fn add(&mut self, id: TaskId, readers: Vec<(usize, TaskReader)>) {
        let handle = self.next_handle(id);
        let mut all = readers;
        let mut ahead = false;
        if let Some(old) = self.slots.remove(&id) {
            self.forget(old.assigned.handle());
            self.close(old.gate, id);
            old.unwanted.cancel();
            // The task starts again from its last checkpoint, so what its readers have read since must be read again.
            ahead = true;
            let kept: Vec<_> =
                old.readers.into_iter().filter(|(t, _)| all.iter().all(|(topic, _)| topic != t)).collect();
            all.extend(kept);
        }
        // Of records with equal times, that of the topic named first is taken first; the group lists topics by name.
        all.sort_by_key(|(topic, _)| *topic);
        let slot = Slot {
            assigned: Assigned::new(handle, ahead),
            commits: all.iter().filter(|(_, r)| r.has_offsets()).map(|(topic, _)| *topic).collect(),
            leases: all.iter().filter_map(|(_, r)| r.lease()).collect(),
            readers: all,
            ahead: Ahead::new(self.outside.idle),
            sealed_at: Instant::now(),
            ended: false,
            blocked: Vec::new(),
            gate: CallGate::default(),
            answered: false,
            left_at: None,
            stops_at: None,
            unwanted: CancellationToken::new(),
        };
        self.slots.insert(id, slot);
        self.restore(handle);
    }

    fn restored(&mut self, handle: Handle, result: Result<Restored, Unrestored>) {
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        if slot.assigned.handle() != handle {
            return;
        }
        match result {
            Ok(Restored { mut task, backend, step, offsets, firsts }) => {
                if slot.readers.iter().any(|(_, r)| r.has_offsets()) {
                    // Records of sources without offsets cannot be read again: those that are here go on.
                    slot.ahead.clear();
                }
                for (topic, reader) in &mut slot.readers {
                    let find =
                        |list: &[(usize, i64)]| list.iter().find(|(t, _)| t == topic).map(|(_, at)| *at);
                    let Some(start) = find(&offsets).or(reader.start_offset()) else {
                        // Nothing was read yet: reading starts at the first record anyway.
                        find(&firsts).into_iter().for_each(|first| task.start_at(*topic, first));
                        continue;
                    };
                    task.start_at(*topic, start);
                    if let Err(e) = reader.rewind(start) {
                        // To continue from another offset would lose records.
                        tracing::warn!(
                            task = self.outside.name(handle.id),
                            error = e,
                            "cannot go to the last checkpoint, trying again"
                        );
                        self.rewind(handle);
                        return;
                    }
                }
                if slot.assigned.restored(task, backend) {
                    tracing::info!(task = self.outside.name(handle.id), "goes on from its last checkpoint");
                }
                slot.sealed_at = Instant::now();
                self.taps.iter().for_each(|tap| slot.tap(tap));
                (self.outside.status)(handle.id, Some(TaskStatus::Running));
                self.step = step;
                self.take_step(handle);
            }
            Err(Unrestored::Stopped(error)) => {
                slot.stops_at = Some((usize::MAX, 0));
                self.stop_task(handle.id, &error);
            }
            Err(Unrestored::Failed(message)) => {
                tracing::error!(
                    task = self.outside.name(handle.id),
                    error = message,
                    "task cannot be restored"
                );
                (self.outside.failed)(handle.id, message);
                self.remove(handle.id);
            }
        }
    }

    fn feed(&mut self, handle: Handle, input: Input) {
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        let result = slot.assigned.answer(handle, input, SystemClock.now(), &mut self.step);
        self.take_step(handle);
        if let Err(e) = result {
            self.stop_task(handle.id, &e);
        }
    }

    /// Restores a task whose checkpoint failed from the last one; its partitions are read again from there.
    fn rewind(&mut self, handle: Handle) {
        let next = self.next_handle(handle.id);
        let Some(slot) = self.slots.get_mut(&handle.id) else { return };
        match slot.assigned.rewind(handle, next) {
            Rewound::Stale => {}
            Rewound::Gone => self.remove(handle.id),
            Rewound::Restoring => {
                let gate = std::mem::take(&mut slot.gate);
                self.forget(handle);
                self.close(gate, handle.id);
                self.restore(next);
            }
        }
    }

    /// Forgets who does not look any more.
    fn untap(&mut self) {
        for tap in self.taps.extract_if(.., |tap| tap.to.is_closed()) {
            let tasks = self.slots.values_mut().filter_map(|slot| slot.assigned.task_mut());
            tasks.for_each(|task| task.untap(tap.number));
        }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        self.untap();
        for (id, slot) in &mut self.slots {
            if let Some(task) = slot.assigned.task_mut() {
                self.metrics.report(*id, task);
            }
        }
    }
}
