//! One process of the program: what the worker, the commit thread, the restorer and the drivers of sinks and calls do,
//! one small step at a time, around the production `Task` and the production rules of its assignment.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use slackwater::operators::{Call, Reply, SinkRow};
use slackwater::runtime::Input as TaskInput;
use slackwater::runtime::{Assigned, DEAD_LETTER, Handle, Rewound, Sealed, Step, Task};
use slackwater::state::{Backend, META_CHANGELOG, META_CLOCKS, MemoryBackend, Row, changelog};
use slackwater::testing::{BrokerError, CommittedOffset};

use super::env::{Env, note};
use super::ledger::{Input, Life};
use super::mutation::Mutation;

/// Checkpoints that may wait for the commit thread.
const JOBS_MAX: usize = 2;
/// Partitions from here on hold what transactions write to the output topic.
pub const OUTPUTS: i32 = 1000;

/// Is the partition still ours? Set before the group can give it to anybody else.
#[derive(Clone, Default)]
pub struct Lease(Rc<Cell<bool>>);

impl Lease {
    pub fn end(&self) {
        self.0.set(true);
    }

    pub fn is_over(&self) -> bool {
        self.0.get()
    }
}

/// A task's local state on one machine: it outlives processes. Remembers its writes, for a loss of power.
#[derive(Clone, Default)]
pub struct Disk {
    backend: Arc<MemoryBackend>,
    writes: Rc<std::cell::RefCell<Vec<Vec<Row>>>>,
}

impl Disk {
    fn write(&self, rows: Vec<Row>) -> Result<(), String> {
        self.backend.write(&rows).map_err(|e| e.to_string())?;
        self.writes.borrow_mut().push(rows);
        Ok(())
    }

    /// Nobody else has it open.
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.backend) == 1
    }

    /// The last `n` writes never reached the disk.
    pub fn lose(&mut self, n: usize) {
        let keep = self.writes.borrow().len().saturating_sub(n);
        let writes: Vec<Vec<Row>> = self.writes.borrow()[..keep].to_vec();
        *self = Disk::default();
        for rows in writes {
            self.write(rows).expect("memory takes everything");
        }
    }
}

/// A partition's records, read from one place on.
struct Reader {
    input: Input,
    /// The committed offset at which it starts; without one, known with the first record.
    start: Option<i64>,
    next: i64,
    caught_up: bool,
}

#[derive(Clone, Copy, Debug)]
enum Restore {
    /// The local state is opened and asked how far it is.
    Open,
    /// Rows from `next` to `end` are replayed.
    Replay { next: i64, end: i64 },
    /// The task is opened and the offsets are asked for.
    Start,
}

struct Slot {
    assigned: Assigned,
    readers: Vec<Reader>,
    commits: Vec<Input>,
    lease: Lease,
    restore: Restore,
    /// The version of the state that the next checkpoint changes.
    base: u64,
}

struct Part {
    handle: Handle,
    sealed: Sealed,
    offsets: Vec<(Input, i64)>,
    lease: Lease,
    base: u64,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Begin,
    Rows(usize),
    Offsets,
    End,
    OffsetsAlone,
    Apply(usize),
    Abort,
    Init,
}

struct Commit {
    parts: Vec<Part>,
    at: At,
    ends: Vec<i64>,
    recorded: bool,
    committed: bool,
}

enum Mail {
    Assign { partition: i32, starts: Vec<Option<i64>>, lease: Lease },
    Revoke { partition: i32, lost: bool },
    Restored { handle: Handle },
    Committed(Vec<Handle>),
    Rewind(Vec<Handle>),
}

struct Parcel {
    handle: Handle,
    epoch: u64,
    node: usize,
    row: SinkRow,
    delivery: usize,
    lease: Lease,
}

struct Flight {
    handle: Handle,
    node: usize,
    call: Call,
}

pub struct Process {
    machine: usize,
    number: u64,
    /// Transactional id.
    producer: u64,
    epoch: Option<u64>,
    /// The group's generation as this member knows it.
    pub generation: u64,
    /// The group has given it up, and it does not know yet: what it has may be somebody else's, or its own again.
    pub expelled: bool,
    /// Partitions that the group has given to it, whose offsets are being looked up.
    fresh: Vec<i32>,
    slots: BTreeMap<i32, Slot>,
    handles: u64,
    jobs: VecDeque<Vec<Part>>,
    commit: Option<Commit>,
    mail: VecDeque<Mail>,
    /// Rows on their way to sinks, in order.
    parcels: Vec<Parcel>,
    /// Rows written whose acknowledgements are on their way back, in order.
    acks: Vec<Parcel>,
    calls: Vec<Flight>,
    step: Step,
}

type Outcome = Result<(), String>;

impl Process {
    pub fn new(machine: usize, number: u64, producer: u64, generation: u64) -> Process {
        Process {
            machine,
            number,
            producer,
            epoch: None,
            generation,
            expelled: false,
            fresh: Vec::new(),
            slots: BTreeMap::new(),
            handles: 0,
            jobs: VecDeque::new(),
            commit: None,
            mail: VecDeque::new(),
            parcels: Vec::new(),
            acks: Vec::new(),
            calls: Vec::new(),
            step: Step::default(),
        }
    }

    pub fn producer(&self) -> u64 {
        self.producer
    }

    fn life(&self, handle: Handle) -> Life {
        (self.number, handle.id.partition, handle.generation)
    }

    fn next_handle(&mut self, env: &Env, partition: i32) -> Handle {
        self.handles += 1;
        Handle { id: env.shape.task(partition), generation: self.handles }
    }

    // The group's side.

    /// The group gives it a partition.
    pub fn give(&mut self, partition: i32) {
        if !self.fresh.contains(&partition) {
            self.fresh.push(partition);
        }
    }

    /// Has it, or is it about to get it?
    pub fn holds(&self, partition: i32) -> bool {
        let assigning = |m: &Mail| matches!(m, Mail::Assign { partition: p, .. } if *p == partition);
        self.fresh.contains(&partition)
            || self.mail.iter().any(assigning)
            || self.slots.get(&partition).is_some_and(|s| !s.lease.is_over() && !s.assigned.is_leaving())
    }

    pub fn has_slot(&self, partition: i32) -> bool {
        self.slots.contains_key(&partition)
    }

    /// The group takes it away, politely or by telling it that it is gone already.
    pub fn revoke(&mut self, partition: i32, lost: bool) {
        self.fresh.retain(|p| *p != partition);
        if lost {
            self.end_lease(partition);
        }
        self.mail.push_back(Mail::Revoke { partition, lost });
    }

    /// It was released, or it took too long.
    pub fn end_lease(&mut self, partition: i32) {
        if let Some(slot) = self.slots.get(&partition) {
            slot.lease.end();
        }
        for mail in &self.mail {
            if let Mail::Assign { partition: p, lease, .. } = mail
                && *p == partition
            {
                lease.end();
            }
        }
    }

    /// The poller looks up where new partitions start; it waits while a transaction holds offsets of one of them.
    pub fn look_up(&mut self, env: &mut Env) -> bool {
        let mut found = Vec::new();
        for &partition in &self.fresh {
            let mut starts = Vec::new();
            for input in env.inputs(partition) {
                starts.push(match env.broker.committed(input) {
                    CommittedOffset::Pending if env.is(Mutation::PendingOffsetsIgnored) => {
                        env.broker.committed_unstable(input)
                    }
                    CommittedOffset::Pending => {
                        env.tally.pending += 1;
                        return false;
                    }
                    CommittedOffset::At(next) => Some(next),
                    CommittedOffset::None => None,
                });
            }
            found.push((partition, starts));
        }
        self.fresh.clear();
        let busy = !found.is_empty();
        for (partition, starts) in found {
            note!(env, "p{} is given {partition} from {starts:?}", self.number);
            self.mail.push_back(Mail::Assign { partition, starts, lease: Lease::default() });
        }
        busy
    }

    // The worker's side.

    /// Messages that nobody has read yet.
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
        let input = TaskInput::Clock { caught_up };
        task.step(input, env.wall, &mut self.step).map_err(|e| format!("the task stopped: {e}"))?;
        let busy = !self.step.is_empty();
        self.take_step(env, handle)?;
        Ok(busy)
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

    fn feed(&mut self, env: &mut Env, handle: Handle, input: TaskInput) -> Outcome {
        let Some(slot) = self.slots.get_mut(&handle.id.partition) else { return Ok(()) };
        env.tally.stale += u64::from(slot.assigned.handle() != handle);
        let handle = if env.is(Mutation::StaleAckAccepted) { slot.assigned.handle() } else { handle };
        let result = slot.assigned.answer(handle, input, env.wall, &mut self.step);
        result.map_err(|e| format!("the task stopped: {e}"))?;
        self.take_step(env, handle)
    }

    /// Hands on what a task wants.
    fn take_step(&mut self, env: &mut Env, handle: Handle) -> Outcome {
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

    // The sinks' side.

    /// A sink takes one of the rows: the first of its key.
    pub fn write(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.parcels.is_empty() {
            return Ok(false);
        }
        let n = first_of_key(&self.parcels, nth % self.parcels.len());
        let parcel = &self.parcels[n];
        let owner = env.owners.get(&parcel.handle.id.partition) == Some(&self.machine);
        if env.shape.is_table(parcel.node) && (parcel.lease.is_over() || !owner || self.expelled) {
            // A member cut off from the group is cut off from the table as well. Nothing else keeps a late write of a
            // former owner from a newer row: a table has no fence.
            self.parcels.remove(n);
            return Ok(true);
        }
        if env.is_refused(parcel.node, &parcel.row) {
            env.ledger.refused(parcel.delivery);
        } else {
            env.write(parcel.node, parcel.delivery, &parcel.row);
            let last = env.ledger.last_event(parcel.delivery);
            note!(env, "p{} wrote {last:?} to {}", self.number, parcel.node);
            if !env.calm && env.dice.chance(60) {
                // Written, but the answer was lost: the batch is tried again.
                return Ok(true);
            }
        }
        let parcel = self.parcels.remove(n);
        self.acks.push(parcel);
        Ok(true)
    }

    /// The acknowledgement of a row comes back: late, in any order but a key's own.
    pub fn acknowledge(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.acks.is_empty() {
            return Ok(false);
        }
        let n = first_of_key(&self.acks, nth % self.acks.len());
        let Parcel { handle, epoch, node, row, .. } = self.acks.remove(n);
        let refused = env.is_refused(node, &row) && !env.is(Mutation::RefusedCountedAsAcked);
        note!(env, "p{} hears of {}'s row in {node}, refused: {refused}", self.number, handle.generation);
        if env.is(Mutation::CommitWithoutWaiting) && row.reply_to.is_none() {
            // Counted already.
            return Ok(true);
        }
        let input = match (row.reply_to, refused) {
            (Some(call), false) => TaskInput::Reply { node, call, reply: Reply::Delivered },
            (Some(call), true) => {
                TaskInput::Reply { node, call, reply: Reply::Refused { message: "no".into() } }
            }
            (None, false) => TaskInput::Acked { epoch, rows: 1 },
            (None, true) => TaskInput::Refused { epoch, node, record: row.record, message: "no".into() },
        };
        self.feed(env, handle, input)?;
        Ok(true)
    }

    /// A call is answered.
    pub fn reply(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.calls.is_empty() {
            return Ok(false);
        }
        let Flight { handle, node, call } = self.calls.remove(nth % self.calls.len());
        let reply = env.answer(&call);
        note!(env, "p{} hears of {}'s call {}: {reply:?}", self.number, handle.generation, call.id);
        self.feed(env, handle, TaskInput::Reply { node, call: call.id, reply })?;
        Ok(true)
    }

    /// The process is gone. What was on its way to a sink may still arrive there, in order.
    pub fn die(mut self, env: &mut Env) {
        let mut arriving = env.dice.below(self.parcels.len() + 1);
        while arriving > 0 && !self.parcels.is_empty() {
            arriving -= 1;
            let nth = env.dice.below(self.parcels.len());
            if self.write(env, nth).is_err() {
                return;
            }
        }
    }

    // The restorer's side.

    /// One step of one restore. True if it got anywhere.
    pub fn restore(
        &mut self,
        env: &mut Env,
        disks: &mut BTreeMap<i32, Disk>,
        partition: i32,
    ) -> Result<bool, String> {
        let Some(slot) = self.slots.get_mut(&partition) else { return Ok(false) };
        let handle = slot.assigned.handle();
        let waits = self.mail.iter().any(|m| matches!(m, Mail::Restored { handle: h } if *h == handle));
        if slot.assigned.task().is_some() || waits {
            return Ok(false);
        }
        let disk = disks.entry(partition).or_default();
        match slot.restore {
            Restore::Open => {
                if env.shape.forgets {
                    *disk = Disk::default();
                }
                let committing = self.commit.iter().flat_map(|c| &c.parts).chain(self.jobs.iter().flatten());
                if !disk.is_free() || committing.into_iter().any(|p| p.handle.id.partition == partition) {
                    // An earlier life of the task has it open.
                    return Ok(false);
                }
                let next = changelog::position(&*disk.backend).map_err(|e| e.to_string())?;
                let end = if env.is(Mutation::RestoreToStableEnd) {
                    env.broker.stable_offset(partition)
                } else {
                    env.broker.end_offset(partition)
                };
                if next > end {
                    return Err(format!(
                        "partition {partition}: local state is at {next}, the changelog at {end}"
                    ));
                }
                env.tally.gaps += u64::from(0 < next && next < end);
                let skips = env.is(Mutation::GapNotReplayed) && next > 0;
                let stateless = !env.shape.stateful;
                slot.restore =
                    if skips || stateless { Restore::Start } else { Restore::Replay { next, end } };
            }
            Restore::Replay { next, end } => {
                if next >= end {
                    slot.restore = Restore::Start;
                    return Ok(true);
                }
                let max = env.dice.below(6) + 1;
                let (rows, reached) = env.broker.read_changelog(partition, next, max);
                if reached == next {
                    // Behind an open transaction: it waits.
                    env.tally.waited += 1;
                    return Ok(false);
                }
                disk.write(changelog::batch(&rows, reached).map_err(|e| e.to_string())?)?;
                slot.restore = Restore::Replay { next: reached, end };
            }
            Restore::Start => self.mail.push_back(Mail::Restored { handle }),
        }
        Ok(true)
    }

    fn restored(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>, handle: Handle) -> Outcome {
        let partition = handle.id.partition;
        let Some(slot) = self.slots.get_mut(&partition) else { return Ok(()) };
        if slot.assigned.handle() != handle {
            return Ok(());
        }
        let mut starts = Vec::new();
        for reader in &slot.readers {
            let known = match env.broker.committed(reader.input) {
                CommittedOffset::Pending if env.is(Mutation::PendingOffsetsIgnored) => {
                    env.broker.committed_unstable(reader.input)
                }
                CommittedOffset::Pending => {
                    env.tally.pending += 1;
                    self.mail.push_back(Mail::Restored { handle });
                    return Ok(());
                }
                CommittedOffset::At(next) => Some(next),
                CommittedOffset::None => None,
            };
            starts.push(known.or(reader.start));
        }
        let disk = disks.get(&partition).ok_or("no disk")?;
        // Who is no owner any more may restore what it likes: it cannot commit on top of it.
        let owner = env.owners.get(&partition) == Some(&self.machine);
        let ours = owner && !self.expelled && !slot.lease.is_over();
        if env.shape.stateful && ours {
            let mut rows = disk.backend.snapshot();
            rows.retain(|(k, _)| &k[..] != META_CHANGELOG);
            env.ledger.check_restored(partition, &rows)?;
        }
        if env.is(Mutation::ClocksNotRestored) {
            disk.write(vec![(Bytes::from_static(META_CLOCKS), None)])?;
        }
        slot.base = env.ledger.committed.get(&partition).map_or(0, |c| c.version);
        let backend: Arc<dyn Backend> = Arc::clone(&disk.backend) as Arc<dyn Backend>;
        let task = Task::open(&env.shape.topology, handle.id, &backend, env.wall, &mut self.step);
        let mut task = task.map_err(|e| format!("the task does not start: {e}"))?;
        // So that there is something left to copy when the next records come.
        task.set_seal_rows(1);
        for (reader, start) in slot.readers.iter().zip(&starts) {
            if let Some(start) = start {
                task.start_at(reader.input.0, *start);
            }
        }
        let transactional = env.shape.transactional.iter().map(|node| (*node, usize::MAX)).collect();
        task.set_transactional(transactional, &mut self.step).map_err(|e| e.to_string())?;
        let ahead = slot.assigned.restored(task, backend) && !env.is(Mutation::ReadersNotRewound);
        for (reader, start) in slot.readers.iter_mut().zip(&starts) {
            if let Some(at) = start
                && (ahead || *start != reader.start)
            {
                reader.next = *at;
                reader.caught_up = false;
            }
        }
        env.tally.restores += 1;
        note!(env, "p{} runs {partition} from {starts:?}", self.number);
        self.take_step(env, handle)
    }

    // The commit thread's side.

    /// One step of the checkpoint under way. True if it got anywhere.
    pub fn commit(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>) -> Result<bool, String> {
        let Some(commit) = &mut self.commit else {
            if self.epoch.is_none() && env.shape.transacts() {
                // Before the first checkpoint: what the last life of this id left open holds up every restore.
                self.epoch = env.broker.init(self.producer).ok();
                return Ok(true);
            }
            let Some(parts) = self.jobs.pop_front() else { return Ok(false) };
            let at = if env.shape.transacts() { At::Begin } else { At::Apply(0) };
            let ends = Vec::new();
            self.commit = Some(Commit { parts, at, ends, recorded: false, committed: false });
            return Ok(true);
        };
        let was = commit.at;
        let id = self.producer;
        match commit.at {
            At::Begin => {
                commit.at = At::Rows(0);
                if env.is(Mutation::OutputsBeforeCommit) {
                    for part in &commit.parts {
                        env.ledger.outputs(&part.sealed)?;
                    }
                }
                if env.is(Mutation::ApplyBeforeCommit) {
                    for part in &commit.parts {
                        if let Some(disk) = disks.get(&part.handle.id.partition) {
                            disk.write(part.sealed.rows.clone())?;
                        }
                    }
                }
            }
            At::Rows(n) => match commit.parts.get(n) {
                None => commit.at = At::Offsets,
                Some(part) => {
                    let (partition, epoch) = (part.handle.id.partition, self.epoch.unwrap_or(0));
                    let mut result = Ok(None);
                    if env.shape.stateful {
                        let rows = part.rows(env);
                        result = env.broker.produce(id, epoch, partition, &rows).map(Some);
                    }
                    if result.is_ok() && !part.sealed.outputs.is_empty() {
                        let outputs = env.ledger.output_rows(&part.sealed)?;
                        let sent = env.broker.produce(id, epoch, OUTPUTS + partition, &outputs);
                        result = sent.and(result);
                    }
                    match result {
                        Ok(end) => {
                            commit.ends.extend(end);
                            commit.at = At::Rows(n + 1);
                        }
                        Err(BrokerError::Concurrent) => return Ok(true),
                        Err(e) => commit.fail(env, e),
                    }
                }
            },
            At::Offsets => {
                // The member's identity first, then whether its partitions are still its own: what is taken away
                // after that makes the identity an old one.
                let stale = env.is(Mutation::StaleGenerationAccepted);
                let generation = if stale { env.broker.generation() } else { self.generation };
                let over = commit.parts.iter().any(|p| p.lease.is_over());
                let offsets: Vec<(Input, i64)> =
                    commit.parts.iter().flat_map(|p| p.offsets.clone()).collect();
                if over && !env.is(Mutation::StaleCommitAccepted) && !stale {
                    commit.fail(env, BrokerError::IllegalGeneration);
                } else if env.is(Mutation::OffsetsInSecondWrite) || env.is(Mutation::RowsWithoutOffsets) {
                    commit.at = At::End;
                } else {
                    match env.broker.send_offsets(id, self.epoch.unwrap_or(0), generation, &offsets) {
                        Ok(()) => commit.at = At::End,
                        Err(BrokerError::Concurrent) => return Ok(true),
                        Err(e) => commit.fail(env, e),
                    }
                }
            }
            At::End => {
                let epoch = self.epoch.unwrap_or(0);
                let result = env.broker.end(id, epoch, true);
                if env.broker.is_committed(id, epoch) && !commit.recorded {
                    commit.recorded = true;
                    note!(env, "p{} has committed", self.number);
                    for part in &commit.parts {
                        let none =
                            env.is(Mutation::OffsetsInSecondWrite) || env.is(Mutation::RowsWithoutOffsets);
                        let offsets = if none { &[][..] } else { &part.offsets };
                        let life = (self.number, part.handle.id.partition, part.handle.generation);
                        env.tally.commits += 1;
                        env.tally.under_fire += u64::from(!env.calm);
                        env.ledger.commit(life, part.base, &part.sealed, &part.rows(env), offsets)?;
                        if !env.is(Mutation::OutputsBeforeCommit) {
                            env.ledger.outputs(&part.sealed)?;
                        }
                        env.ledger.check(part.handle.id.partition)?;
                    }
                }
                match result {
                    Ok(()) if env.is(Mutation::OffsetsInSecondWrite) => commit.at = At::OffsetsAlone,
                    Ok(()) => commit.at = At::Apply(0),
                    // Tried again until its deadline.
                    Err(BrokerError::NoAnswer) if env.dice.chance(700) => return Ok(true),
                    Err(e) => commit.fail(env, e),
                }
            }
            At::Apply(n) => match commit.parts.get(n) {
                None if env.shape.transacts() => {
                    commit.committed = true;
                }
                None => commit.at = At::OffsetsAlone,
                Some(part) => {
                    let disk = disks.get(&part.handle.id.partition).ok_or("no disk")?;
                    let rows = match commit.ends.get(n) {
                        Some(end) => changelog::batch(&part.sealed.rows, *end).map_err(|e| e.to_string())?,
                        None => part.sealed.rows.clone(),
                    };
                    if env.is(Mutation::PositionBeforeRows) {
                        let (position, rest): (Vec<Row>, Vec<Row>) =
                            rows.into_iter().partition(|(k, _)| &k[..] == META_CHANGELOG);
                        let at = changelog::position(&*disk.backend).map_err(|e| e.to_string())?;
                        if commit.ends.get(n).is_some_and(|end| *end != at) {
                            disk.write(position)?;
                            return Ok(true);
                        }
                        disk.write(rest)?;
                    } else {
                        disk.write(rows)?;
                    }
                    note!(env, "p{} has applied {}", self.number, part.handle.id.partition);
                    commit.at = At::Apply(n + 1);
                }
            },
            At::OffsetsAlone => {
                let offsets: Vec<(Input, i64)> =
                    commit.parts.iter().flat_map(|p| p.offsets.clone()).collect();
                let stale = env.is(Mutation::StaleGenerationAccepted);
                let generation = if stale { env.broker.generation() } else { self.generation };
                let before: Vec<Option<i64>> =
                    offsets.iter().map(|(at, _)| env.broker.committed_unstable(*at)).collect();
                let result = if commit.parts.iter().any(|p| p.lease.is_over())
                    && !env.is(Mutation::StaleCommitAccepted)
                    && !stale
                {
                    Err(BrokerError::IllegalGeneration)
                } else {
                    env.broker.commit_offsets(generation, &offsets)
                };
                let after: Vec<Option<i64>> =
                    offsets.iter().map(|(at, _)| env.broker.committed_unstable(*at)).collect();
                if !env.shape.transacts() && (result.is_ok() || before != after) {
                    for part in &commit.parts {
                        let life = (self.number, part.handle.id.partition, part.handle.generation);
                        env.tally.commits += 1;
                        env.tally.under_fire += u64::from(!env.calm);
                        env.ledger.commit(life, part.base, &part.sealed, &part.sealed.rows, &part.offsets)?;
                        env.ledger.check(part.handle.id.partition)?;
                    }
                }
                match result {
                    Ok(()) if env.shape.transacts() => commit.at = At::Apply(0),
                    Ok(()) => commit.committed = true,
                    Err(e) => {
                        note!(env, "p{} could not commit: {e}", self.number);
                        let handles = commit.parts.iter().map(|p| p.handle).collect();
                        self.mail.push_back(Mail::Rewind(handles));
                        self.commit = None;
                        return Ok(true);
                    }
                }
            }
            At::Abort => match env.broker.end(id, self.epoch.unwrap_or(0), false) {
                Ok(()) => {
                    let handles = commit.parts.iter().map(|p| p.handle).collect();
                    self.mail.push_back(Mail::Rewind(handles));
                    self.commit = None;
                    return Ok(true);
                }
                Err(BrokerError::NoAnswer) if env.dice.chance(500) => return Ok(true),
                Err(_) => commit.at = At::Init,
            },
            // A new producer of the same id ends whatever was open.
            At::Init => match env.broker.init(id) {
                Ok(epoch) => {
                    self.epoch = Some(epoch);
                    let handles = commit.parts.iter().map(|p| p.handle).collect();
                    self.mail.push_back(Mail::Rewind(handles));
                    self.commit = None;
                    return Ok(true);
                }
                Err(_) => return Ok(true),
            },
        }
        if commit.committed {
            let handles = commit.parts.iter().map(|p| p.handle).collect();
            self.mail.push_back(Mail::Committed(handles));
            self.commit = None;
        }
        note!(env, "p{} commits: {was:?}", self.number);
        Ok(true)
    }

    /// Is nothing on its way?
    pub fn is_idle(&self) -> bool {
        self.commit.is_none()
            && self.jobs.is_empty()
            && self.mail.is_empty()
            && self.parcels.is_empty()
            && self.acks.is_empty()
            && self.calls.is_empty()
            && self.fresh.is_empty()
    }
}

impl Commit {
    fn fail(&mut self, env: &mut Env, error: BrokerError) {
        note!(env, "a checkpoint fails at {:?}: {error}", self.at);
        env.tally.fenced += u64::from(error == BrokerError::IllegalGeneration);
        // Fenced: there is nothing to abort any more.
        self.at = if error == BrokerError::Fenced { At::Init } else { At::Abort };
    }
}

impl Part {
    /// The rows that the transaction gets.
    fn rows(&self, env: &Env) -> Vec<Row> {
        let mut rows = self.sealed.rows.clone();
        if env.is(Mutation::OffsetsWithoutRows) {
            rows.retain(|(k, _)| k.first() == Some(&0));
        }
        if env.is(Mutation::DeletionsLost) {
            rows.retain(|(_, v)| v.is_some());
        }
        rows
    }
}

/// The first parcel of the same key and sink as the `n`-th: sinks keep the order of a key.
fn first_of_key(parcels: &[Parcel], n: usize) -> usize {
    let (node, key) = (parcels[n].node, &parcels[n].row.record.key);
    if key.is_none() || node == DEAD_LETTER {
        return n;
    }
    parcels.iter().position(|p| p.node == node && p.row.record.key == *key).unwrap_or(n)
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
