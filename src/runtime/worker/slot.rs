//! One task of a worker: its readers, and what one turn does with them.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::GATHERED_MAX;
use crate::kafka::Lease;
use crate::model::{Record, Timestamp};
use crate::operators::{Admits, Blocked};
use crate::runtime::calls::permit::CallGate;
use crate::runtime::inbox::{Tap, TaskSays};
use crate::runtime::input::TaskReader;
use crate::runtime::input::lookahead::Ahead;
use crate::runtime::task::{Input, Step, Task, TaskError};
use crate::runtime::worker::assigned::Assigned;

/// Most records taken from one partition at a time.
const VISIT: usize = 256;
/// How long a leaving task waits for calls in flight.
const CALLS_GRACE: Duration = Duration::from_secs(3);

/// A task on its worker, with what it reads and what it waits for.
pub(super) struct Slot {
    pub(super) assigned: Assigned,
    pub(super) readers: Vec<(usize, TaskReader)>,
    /// Records read from several inputs and not taken yet.
    pub(super) ahead: Ahead,
    /// The leases of its readers; kept after those are dropped.
    pub(super) leases: Vec<Lease>,
    /// Cancelled when the slot is dropped or another restore begins.
    pub(super) unwanted: CancellationToken,
    /// Topics whose offsets the group commits. Kept after the readers are dropped, since the last checkpoint has
    /// offsets too.
    pub(super) commits: Vec<usize>,
    pub(super) sealed_at: Instant,
    /// Whether [`TaskStatus::Ended`] has been reported.
    pub(super) ended: bool,
    /// What its gates held back when that was last told.
    pub(super) blocked: Vec<(usize, Blocked)>,
    /// The permit for this assignment's calls.
    pub(super) gate: CallGate,
    /// Whether no calls were in flight when this turn began.
    pub(super) answered: bool,
    /// When it began to leave.
    pub(super) left_at: Option<Instant>,
    /// A record that it cannot process, by input and offset: it goes on up to there, and no further.
    pub(super) stops_at: Option<(usize, i64)>,
}

impl Slot {
    /// One turn: reads, moves time, seals. True if anything happened.
    pub(super) fn turn(
        &mut self,
        room: bool,
        checkpoint: Duration,
        now: Timestamp,
        records: &mut Vec<Record>,
        step: &mut Step,
    ) -> Result<bool, TaskError> {
        let mut busy = match (room, self.readers.len() > 1) {
            (false, _) => false,
            (true, true) => self.read_ordered(now, records, step)?,
            (true, false) => self.read(now, records, step)?,
        };
        let still = self.assigned.is_leaving() || !self.ahead.is_empty() || !room;
        let until = self.readers.iter().try_fold(now, |until, (_, r)| Some(until.min(r.until(now)?)));
        let until = until.filter(|_| !still);
        let Some(task) = self.assigned.task_mut() else { return Ok(false) };
        if until.is_some() || task.next_deadline(false).is_some_and(|at| at <= now) {
            task.step(Input::Clock { until }, now, step)?;
        }
        let waits = self.left_at.is_some_and(|at| !self.answered && at.elapsed() < CALLS_GRACE);
        if waits && !task.is_copying() {
            return Ok(busy);
        }
        let full = task.gathered() >= GATHERED_MAX;
        let due = (full || self.sealed_at.elapsed() >= checkpoint) && !self.assigned.is_checkpointing();
        busy |= self.assigned.seal(due, now)?;
        if due {
            self.sealed_at = Instant::now();
        }
        Ok(busy)
    }

    /// Reads the only input. True if records came.
    fn read(
        &mut self,
        now: Timestamp,
        records: &mut Vec<Record>,
        step: &mut Step,
    ) -> Result<bool, TaskError> {
        let mut busy = false;
        for (topic, reader) in &mut self.readers {
            if !self.assigned.takes_input() {
                break;
            }
            let Some(task) = self.assigned.task_mut() else { break };
            if task.gathered() >= 2 * GATHERED_MAX {
                break;
            }
            if poll(task, *topic, reader, now, self.stops_at, records) {
                busy = true;
                let records = std::mem::take(records);
                task.step(Input::Records { topic: *topic, records }, now, step)?;
            }
        }
        Ok(busy)
    }

    /// Reads several inputs and takes their records by lowest timestamp. True if any was taken.
    fn read_ordered(
        &mut self,
        now: Timestamp,
        records: &mut Vec<Record>,
        step: &mut Step,
    ) -> Result<bool, TaskError> {
        let mut taken = 0;
        while taken < VISIT && self.assigned.takes_input() {
            let Some(task) = self.assigned.task_mut() else { break };
            if task.gathered() >= 2 * GATHERED_MAX {
                break;
            }
            for (input, (topic, reader)) in self.readers.iter_mut().enumerate() {
                if !self.ahead.wants(input) {
                    continue;
                }
                if poll(task, *topic, reader, now, self.stops_at, records) {
                    let timed = records.drain(..).map(|record| (task.time_of(*topic, &record), record));
                    self.ahead.push(input, timed);
                }
            }
            let at_end: Vec<bool> = self.readers.iter().map(|(_, r)| r.lets_others_go_on()).collect();
            let Some((input, records)) = self.ahead.take(&at_end, now) else { break };
            taken += records.len();
            let topic = self.readers[input].0;
            task.step(Input::Records { topic, records }, now, step)?;
        }
        if let Some(input) = self.ahead.stalled()
            && let Some(task) = self.assigned.task()
        {
            let topic = &*task.topics()[self.readers[input].0];
            tracing::warn!(task = task.name(), topic, "records wait until more of this topic can be read");
        }
        Ok(taken > 0)
    }

    /// The rows of a key, or why they cannot be told. A task that is leaving is this instance's until it is released: it
    /// takes no more input, and its next owner begins later.
    pub(super) fn rows_of(&self, node: usize, key: &[u8], at: Option<(usize, i64)>) -> TaskSays {
        let Some(task) = self.assigned.task() else { return TaskSays::Restoring };
        match at.map(|(topic, offset)| (task.position(topic), offset)) {
            Some((next, offset)) if next <= offset => TaskSays::Behind(next),
            Some(_) | None => TaskSays::Rows(task.query(node, key)),
        }
    }

    /// Shows a node's records, if it is one of this task's.
    pub(super) fn tap(&mut self, tap: &Tap) {
        if let Some(task) = self.assigned.task_mut().filter(|task| task.id().sub == tap.sub) {
            task.tap(tap.node, tap.number, tap.records);
        }
    }

    /// What its gates hold back, if that has changed since the last time.
    pub(super) fn newly_blocked(&mut self) -> Option<Vec<(usize, Blocked)>> {
        let task = self.assigned.task().filter(|task| task.has_gates());
        let now: Vec<(usize, Blocked)> = task.map(|task| task.blocked().collect()).unwrap_or_default();
        if now == self.blocked {
            return None;
        }
        for (_, blocked) in
            now.iter().filter(|(_, b)| b.overdue && !self.blocked.iter().any(|(_, old)| old == b))
        {
            let (offset, groups) = (blocked.offset, blocked.groups.join(", "));
            tracing::warn!(groups, offset, "a record has waited for a gate's timeout, and goes on waiting");
        }
        self.blocked.clone_from(&now);
        Some(now)
    }

    /// Stops input and calls; the task goes once it has committed.
    pub(super) fn leave(&mut self) {
        self.assigned.leave();
        self.gate.close();
        // This was found out before the permit was closed; a call may have begun since.
        self.answered = false;
        self.left_at.get_or_insert_with(Instant::now);
    }

    /// Whether all its sources have ended and nothing is left to do.
    pub(super) fn has_ended(&self) -> bool {
        !self.readers.is_empty() && self.readers.iter().all(|(_, r)| r.ended()) && self.is_done()
    }

    /// Why one of its sources ended before its end, when nothing is left to do of what was read.
    pub(super) fn failure(&self) -> Option<String> {
        let (topic, why) = self.readers.iter().find_map(|(topic, r)| Some((*topic, r.failure()?)))?;
        let task = self.assigned.task().filter(|_| self.is_done())?;
        Some(format!("source {}: {why}", task.topics()[topic]))
    }

    fn is_done(&self) -> bool {
        let Some(task) = self.assigned.task() else { return false };
        self.ahead.is_empty() && !task.has_work() && task.pending_calls() == 0 && task.outstanding() == 0
    }
}

/// Appends the records that have arrived on one input. False if there were none.
fn poll(
    task: &mut Task,
    topic: usize,
    reader: &mut TaskReader,
    now: Timestamp,
    stops_at: Option<(usize, i64)>,
    records: &mut Vec<Record>,
) -> bool {
    let stops_at = stops_at.filter(|(input, _)| *input == topic).map(|(_, offset)| offset);
    let polled = if task.asks(topic) || stops_at.is_some() {
        // What waits at its own record holds back the others of the task, and its clocks, as any record that waits.
        let may_come = |record: &Record| {
            stops_at.is_none_or(|offset| record.origin.offset < offset)
                && (!task.asks(topic) || task.admits(topic, record, now) != Admits::Wait)
        };
        reader.poll_admitted(VISIT, now, may_come, records)
    } else {
        reader.poll(VISIT, now, records)
    };
    match polled {
        Ok(0) => {
            if let Some(end) = reader.end() {
                task.skip_to(topic, end);
            }
            false
        }
        Ok(_) => true,
        Err(e) => {
            records.clear();
            tracing::warn!(task = task.name(), error = e, "cannot read a partition");
            false
        }
    }
}
