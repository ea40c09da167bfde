//! The restorer's side of a process: local state is brought up to the end of its changelog, one read at a time, then the
//! task is opened on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use slackwater::runtime::{Handle, Task, TaskOptions};
use slackwater::state::{Backend, META_CHANGELOG, META_CLOCKS, changelog};

use super::{Disk, Mail, Outcome, Process};
use crate::broker::CommittedOffset;
use crate::env::{Env, note};
use crate::mutation::Mutation;

#[derive(Clone, Copy, Debug)]
pub(super) enum Restore {
    /// The local state is opened and asked how far it is.
    Open,
    /// Rows from `next` to `end` are replayed.
    Replay { next: i64, end: i64 },
    /// The task is opened and the offsets are asked for.
    Start,
}

impl Process {
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

    pub(super) fn restored(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>, handle: Handle) -> Outcome {
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
        let options = TaskOptions {
            // So that there is something left to copy when the next records come.
            seal_rows: 1,
            transactional: env.shape.transactional.iter().map(|node| (*node, usize::MAX)).collect(),
            ..TaskOptions::default()
        };
        let task = Task::open(&env.shape.topology, handle.id, &backend, &options, env.wall, &mut self.step);
        let mut task = task.map_err(|e| format!("the task does not start: {e}"))?;
        for (reader, start) in slot.readers.iter().zip(&starts) {
            if let Some(start) = start {
                task.start_at(reader.input.0, *start);
            }
        }
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
}
