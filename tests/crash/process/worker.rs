//! The worker's side of a process: its mail, its tasks' input, their checkpoints up to the commit thread, and what their
//! steps want done.

use std::collections::BTreeMap;

use slackwater::operators::Commits;
use slackwater::runtime::Input as TaskInput;
use slackwater::runtime::{Assigned, Handle, Rewound, Sealed};

use super::commit::Part;
use super::restore::Restore;
use super::{Disk, Flight, Mail, Outcome, Parcel, Process, Reader, Slot};
use crate::env::{Env, note};
use crate::ledger::Input;
use crate::mutation::Mutation;

/// Checkpoints that may wait for the commit thread.
const JOBS_MAX: usize = 2;

impl Process {
    /// Messages that are not read yet.
    pub fn mail_waiting(&self) -> usize {
        self.mail.len()
    }

    /// Takes one message. False if there is none.
    pub fn read_mail(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>) -> Result<bool, String> {
        let Some(mail) = self.mail.pop_front() else { return Ok(false) };
        match mail {
            Mail::Assign { partition, starts, lease } => {
                let handle = self.next_handle(env, partition);
                let mut ahead = false;
                if let Some(old) = self.slots.remove(&partition) {
                    // Cannot happen in production: the poller waits for the release, or its deadline.
                    self.forget(env, old.assigned.handle());
                    ahead = !old.readers.is_empty();
                }
                let readers = env
                    .inputs(partition)
                    .zip(starts)
                    .map(|(input, start)| Reader { input, start, next: start.unwrap_or(0), caught_up: false })
                    .collect();
                note!(env, "p{} restores {partition} as {}", self.number, handle.generation);
                let slot = Slot {
                    assigned: Assigned::new(handle, ahead),
                    readers,
                    commits: env.inputs(partition).collect(),
                    lease,
                    restore: Restore::Open,
                    base: 0,
                };
                self.slots.insert(partition, slot);
            }
            Mail::Revoke { partition, lost } => {
                note!(env, "p{} must let go of {partition}, lost: {lost}", self.number);
                env.tally.revokes += 1;
                if lost {
                    self.remove(env, partition);
                } else if let Some(slot) = self.slots.get_mut(&partition) {
                    slot.assigned.leave();
                    slot.readers.clear();
                }
            }
            Mail::Restored { handle } => self.restored(env, disks, handle)?,
            Mail::Committed(handles) => {
                for handle in handles {
                    if let Some(slot) = self.slots.get_mut(&handle.id.partition)
                        && slot.assigned.applied(handle)
                    {
                        slot.base += 1;
                        note!(env, "p{} hears that {} is committed", self.number, handle.id.partition);
                    }
                }
            }
            Mail::Rewind(handles) => {
                for handle in handles {
                    self.rewind(env, handle);
                }
            }
        }
        Ok(true)
    }

    fn remove(&mut self, env: &mut Env, partition: i32) {
        if let Some(slot) = self.slots.remove(&partition) {
            self.forget(env, slot.assigned.handle());
            note!(env, "p{} has released {partition}", self.number);
        }
    }

    /// Takes back what was not handed on yet: some of the last rows. The rest is with the sinks and stays there.
    fn forget(&mut self, env: &mut Env, handle: Handle) {
        let ours = self.parcels.iter().filter(|p| p.handle == handle).count();
        let mut keep = env.dice.below(ours + 1);
        self.parcels.retain(|p| {
            p.handle != handle || {
                let kept = keep > 0;
                keep -= usize::from(kept);
                kept
            }
        });
    }

    fn rewind(&mut self, env: &mut Env, handle: Handle) {
        let next = self.next_handle(env, handle.id.partition);
        let Some(slot) = self.slots.get_mut(&handle.id.partition) else { return };
        if env.is(Mutation::AbortTakenForCommit) {
            slot.assigned.applied(handle);
            return;
        }
        let became = slot.assigned.rewind(handle, next);
        note!(env, "p{} rewinds {}: {became:?}", self.number, handle.id.partition);
        match became {
            Rewound::Stale => {}
            Rewound::Gone => self.remove(env, handle.id.partition),
            Rewound::Restoring => {
                env.tally.rewinds += 1;
                slot.restore = Restore::Open;
                self.forget(env, handle);
            }
        }
    }

    /// Tasks that have left go. Returns one that went.
    pub fn settle_leaves(&mut self, env: &mut Env) -> Option<i32> {
        let gone = *self.slots.iter().find(|(_, slot)| slot.assigned.may_go())?.0;
        self.remove(env, gone);
        Some(gone)
    }

    /// Reads up to `max` records of one partition into its task.
    pub fn read(&mut self, env: &mut Env, partition: i32, max: usize) -> Result<bool, String> {
        let Some(slot) = self.slots.get_mut(&partition) else { return Ok(false) };
        let mut busy = false;
        for reader in &mut slot.readers {
            if !slot.assigned.takes_input() {
                break;
            }
            let Some(task) = slot.assigned.task_mut() else { break };
            let records = env.broker.read(reader.input, reader.next, max).to_vec();
            let Some(first) = records.first().map(|r| r.origin.offset) else {
                reader.caught_up = true;
                continue;
            };
            reader.start.get_or_insert(first);
            reader.next += i64::try_from(records.len()).expect("a few");
            // The end is told with the last record, or some time after it.
            reader.caught_up = env.dice.chance(500) && reader.next == env.broker.input_end(reader.input);
            note!(env, "p{} reads {} of {:?} from {first}", self.number, records.len(), reader.input);
            let input = TaskInput::Records { topic: reader.input.0, records };
            task.step(input, env.wall, &mut self.step).map_err(|e| format!("the task stopped: {e}"))?;
            busy = true;
        }
        let handle = slot.assigned.handle();
        self.take_step(env, handle)?;
        Ok(busy)
    }

    /// Time goes by for one task. True if it did anything.
    pub fn tick(&mut self, env: &mut Env, partition: i32) -> Result<bool, String> {
        let Some(slot) = self.slots.get_mut(&partition) else { return Ok(false) };
        let caught_up = !slot.assigned.is_leaving() && slot.readers.iter().all(|r| r.caught_up);
        let handle = slot.assigned.handle();
        let Some(task) = slot.assigned.task_mut() else { return Ok(false) };
        let input = TaskInput::Clock { until: caught_up.then_some(env.wall) };
        task.step(input, env.wall, &mut self.step).map_err(|e| format!("the task stopped: {e}"))?;
        let busy = !self.step.is_empty();
        self.take_step(env, handle)?;
        Ok(busy)
    }

    /// Another consumer group has committed, somewhere in one of the task's topics: said again and again, to whatever
    /// assignment there is.
    pub fn foreign(&mut self, env: &mut Env, partition: i32, nth: usize) -> Result<bool, String> {
        let Some(slot) = self.slots.get(&partition) else { return Ok(false) };
        let handle = slot.assigned.handle();
        let topics = &env.shape.topology.subs[0].topics;
        let topic = topics[nth % topics.len()].as_str().into();
        let commits = Commits { group: "others".into(), topic, next: i64::try_from(nth).expect("a few") };
        note!(env, "p{} hears of {commits:?}", self.number);
        env.tally.foreign += 1;
        self.feed(env, handle, TaskInput::Commits(commits))?;
        Ok(true)
    }

    pub fn seal(&mut self, env: &mut Env, partition: i32) -> Result<bool, String> {
        let Some(slot) = self.slots.get_mut(&partition) else { return Ok(false) };
        let sealed = slot.assigned.seal(true, env.wall).map_err(|e| format!("the task stopped: {e}"))?;
        if sealed {
            note!(env, "p{} seals {partition}", self.number);
            env.tally.pieces += u64::from(slot.assigned.is_copying());
        }
        Ok(sealed)
    }

    /// Hands what has settled to the commit thread, in one piece.
    pub fn submit(&mut self, env: &mut Env) -> bool {
        let mut parts = Vec::new();
        for slot in self.slots.values_mut() {
            let Some((mut sealed, _)) = slot.assigned.take_settled() else { continue };
            sealed.finish();
            let handle = slot.assigned.handle();
            if env.is(Mutation::OpenEpochLeaked)
                && let Some(task) = slot.assigned.task_mut()
            {
                task.applied();
                if let Ok(Some(open)) = task.seal(env.wall) {
                    sealed.rows.extend(open.rows);
                }
            }
            let read = |input: Input| slot.readers.iter().find(|r| r.input == input).map(|r| r.next);
            let offsets = slot
                .commits
                .iter()
                .filter_map(|input| {
                    let next = sealed.positions.iter().find(|(topic, _)| *topic == input.0)?.1;
                    let reader = env.is(Mutation::OffsetsOfTheReader).then(|| read(*input)).flatten();
                    Some((*input, reader.unwrap_or(next)))
                })
                .collect();
            mutate(env, handle, &mut sealed, &self.calls);
            parts.push(Part { handle, sealed, offsets, lease: slot.lease.clone(), base: slot.base });
        }
        if parts.is_empty() {
            return false;
        }
        if self.jobs.len() >= JOBS_MAX {
            for part in parts {
                if let Some(slot) = self.slots.get_mut(&part.handle.id.partition) {
                    slot.assigned.put_back(part.sealed);
                }
            }
            return false;
        }
        let ids: Vec<i32> = parts.iter().map(|p| p.handle.id.partition).collect();
        note!(env, "p{} submits {ids:?}", self.number);
        self.jobs.push_back(parts);
        true
    }

    pub(super) fn feed(&mut self, env: &mut Env, handle: Handle, input: TaskInput) -> Outcome {
        let Some(slot) = self.slots.get_mut(&handle.id.partition) else { return Ok(()) };
        env.tally.stale += u64::from(slot.assigned.handle() != handle);
        let handle = if env.is(Mutation::StaleAckAccepted) { slot.assigned.handle() } else { handle };
        let result = slot.assigned.answer(handle, input, env.wall, &mut self.step);
        result.map_err(|e| format!("the task stopped: {e}"))?;
        self.take_step(env, handle)
    }

    /// Hands on what a task wants.
    pub(super) fn take_step(&mut self, env: &mut Env, handle: Handle) -> Outcome {
        let step = std::mem::take(&mut self.step);
        let life = self.life(handle);
        for (node, call) in step.calls {
            let key = call.key.as_ref();
            let other = |f: &&Flight| f.handle == handle && f.node == node && f.call.key.as_ref() == key;
            if key.is_some()
                && let Some(other) = self.calls.iter().find(other)
            {
                return Err(format!("calls {} and {} of one key at a time", other.call.id, call.id));
            }
            note!(env, "p{} calls {} attempt {} of {:?}", self.number, call.id, call.attempt, call.key);
            env.tally.calls += 1;
            self.calls.push(Flight { handle, node, call });
        }
        let Some(lease) = self.slots.get(&handle.id.partition).map(|s| s.lease.clone()) else {
            return Ok(());
        };
        let mut early = Vec::new();
        for delivery in step.deliveries {
            let number = env.ledger.delivered(life, delivery.node, delivery.epoch, &delivery.row)?;
            if env.is(Mutation::CommitWithoutWaiting) && delivery.row.reply_to.is_none() {
                early.push(delivery.epoch);
            }
            self.parcels.push(Parcel {
                handle,
                epoch: delivery.epoch,
                node: delivery.node,
                row: delivery.row,
                delivery: number,
                lease: lease.clone(),
            });
        }
        for epoch in early {
            self.feed(env, handle, TaskInput::Acked { epoch, rows: 1 })?;
        }
        Ok(())
    }
}

/// Mutations of what was sealed.
fn mutate(env: &Env, handle: Handle, sealed: &mut Sealed, calls: &[Flight]) {
    let is_call = |key: &[u8]| key.starts_with(b"account\0");
    match env.mutation {
        Some(Mutation::CallForgottenWhenMade) => {
            for (key, value) in &mut sealed.rows {
                let made = |f: &Flight| f.handle == handle && key.ends_with(&f.call.id.to_be_bytes());
                if is_call(key) && calls.iter().any(made) {
                    *value = None;
                }
            }
        }
        Some(Mutation::EntryGoneWithoutItsCall) => {
            let gone = sealed.rows.iter().any(|(k, v)| v.is_none() && !is_call(k));
            sealed.rows.retain(|(k, v)| !(gone && is_call(k) && v.is_some()));
        }
        _ => {}
    }
}
