//! The commit thread's side of a process: one checkpoint at a time, one answer of the broker at a time.
//!
//! With transactions: begin, rows of each task, offsets, end, then the rows are applied to disk. Without: applied, then
//! offsets alone. Whatever fails ends with the tasks rewound.

use std::collections::BTreeMap;

use slackwater::runtime::{Handle, Sealed};
use slackwater::state::{META_CHANGELOG, Row, changelog};

use super::{Disk, Lease, Mail, OUTPUTS, Process};
use crate::broker::BrokerError;
use crate::env::{Env, note};
use crate::ledger::Input;
use crate::mutation::Mutation;

/// What one task puts into a checkpoint.
pub(super) struct Part {
    pub(super) handle: Handle,
    pub(super) sealed: Sealed,
    pub(super) offsets: Vec<(Input, i64)>,
    pub(super) lease: Lease,
    pub(super) base: u64,
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

/// A checkpoint under way.
pub(super) struct Commit {
    pub(super) parts: Vec<Part>,
    at: At,
    ends: Vec<i64>,
    recorded: bool,
}

/// Who commits.
struct Committer<'a> {
    number: u64,
    /// Transactional id and its epoch.
    id: u64,
    epoch: &'a mut Option<u64>,
    generation: u64,
}

/// What one step of a checkpoint came to.
enum Became {
    /// It is one step further, or has failed and goes another way.
    Further,
    /// The same step is tried again.
    Again,
    Committed,
    RolledBack,
}

type Stepped = Result<Became, String>;

impl Process {
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
            self.commit = Some(Commit { parts, at, ends: Vec::new(), recorded: false });
            return Ok(true);
        };
        let was = commit.at;
        let (number, id, generation) = (self.number, self.producer, self.generation);
        let by = Committer { number, id, epoch: &mut self.epoch, generation };
        let became = commit.step(env, disks, by)?;
        let handles = || commit.parts.iter().map(|p| p.handle).collect();
        match became {
            Became::Again => return Ok(true),
            Became::RolledBack => {
                self.mail.push_back(Mail::Rewind(handles()));
                self.commit = None;
                return Ok(true);
            }
            Became::Committed => {
                self.mail.push_back(Mail::Committed(handles()));
                self.commit = None;
            }
            Became::Further => {}
        }
        note!(env, "p{} commits: {was:?}", self.number);
        Ok(true)
    }
}

impl Commit {
    fn step(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>, by: Committer<'_>) -> Stepped {
        match self.at {
            At::Begin => self.begin(env, disks),
            At::Rows(n) => self.send_rows(env, &by, n),
            At::Offsets => Ok(self.send_offsets(env, &by)),
            At::End => self.end(env, &by),
            At::Apply(n) => self.apply(env, disks, &by, n),
            At::OffsetsAlone => self.commit_offsets(env, &by),
            At::Abort => Ok(self.abort(env, &by)),
            // A new producer of the same id ends whatever was open.
            At::Init => match env.broker.init(by.id) {
                Ok(epoch) => {
                    *by.epoch = Some(epoch);
                    Ok(Became::RolledBack)
                }
                Err(_) => Ok(Became::Again),
            },
        }
    }

    fn goes_on(&mut self, at: At) -> Became {
        self.at = at;
        Became::Further
    }

    fn begin(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>) -> Stepped {
        if env.is(Mutation::OutputsBeforeCommit) {
            for part in &self.parts {
                env.ledger.outputs(&part.sealed)?;
            }
        }
        if env.is(Mutation::ApplyBeforeCommit) {
            for part in &self.parts {
                if let Some(disk) = disks.get(&part.handle.id.partition) {
                    disk.write(part.sealed.rows.clone())?;
                }
            }
        }
        Ok(self.goes_on(At::Rows(0)))
    }

    /// The changelog's rows of the `n`-th part, and its records for topics.
    fn send_rows(&mut self, env: &mut Env, by: &Committer<'_>, n: usize) -> Stepped {
        let Some(part) = self.parts.get(n) else { return Ok(self.goes_on(At::Offsets)) };
        let (partition, epoch) = (part.handle.id.partition, by.epoch.unwrap_or(0));
        let mut result = Ok(None);
        if env.shape.stateful {
            let rows = part.rows(env);
            result = env.broker.produce(by.id, epoch, partition, &rows).map(Some);
        }
        if result.is_ok() && !part.sealed.outputs.is_empty() {
            let outputs = env.ledger.output_rows(&part.sealed)?;
            let sent = env.broker.produce(by.id, epoch, OUTPUTS + partition, &outputs);
            result = sent.and(result);
        }
        Ok(match result {
            Ok(end) => {
                self.ends.extend(end);
                self.goes_on(At::Rows(n + 1))
            }
            Err(BrokerError::Concurrent) => Became::Again,
            Err(e) => self.fail(env, e),
        })
    }

    fn send_offsets(&mut self, env: &mut Env, by: &Committer<'_>) -> Became {
        // The member's identity first, then whether its partitions are still its own: what is taken away after that
        // makes the identity an old one.
        let generation = by.generation(env);
        if self.is_over(env) {
            return self.fail(env, BrokerError::IllegalGeneration);
        }
        if leaves_offsets_out(env) {
            return self.goes_on(At::End);
        }
        match env.broker.send_offsets(by.id, by.epoch.unwrap_or(0), generation, &self.offsets()) {
            Ok(()) => self.goes_on(At::End),
            Err(BrokerError::Concurrent) => Became::Again,
            Err(e) => self.fail(env, e),
        }
    }

    fn end(&mut self, env: &mut Env, by: &Committer<'_>) -> Stepped {
        let epoch = by.epoch.unwrap_or(0);
        let result = env.broker.end(by.id, epoch, true);
        if env.broker.is_committed(by.id, epoch) && !self.recorded {
            self.recorded = true;
            note!(env, "p{} has committed", by.number);
            for part in &self.parts {
                let offsets = if leaves_offsets_out(env) { &[][..] } else { &part.offsets };
                part.record(env, by.number, &part.rows(env), offsets)?;
                if !env.is(Mutation::OutputsBeforeCommit) {
                    env.ledger.outputs(&part.sealed)?;
                }
                env.ledger.check(part.handle.id.partition)?;
            }
        }
        Ok(match result {
            Ok(()) if env.is(Mutation::OffsetsInSecondWrite) => self.goes_on(At::OffsetsAlone),
            Ok(()) => self.goes_on(At::Apply(0)),
            // Tried again until its deadline.
            Err(BrokerError::NoAnswer) if env.dice.chance(700) => Became::Again,
            Err(e) => self.fail(env, e),
        })
    }

    /// The rows of the `n`-th part reach the disk.
    fn apply(&mut self, env: &mut Env, disks: &BTreeMap<i32, Disk>, by: &Committer<'_>, n: usize) -> Stepped {
        let Some(part) = self.parts.get(n) else {
            return Ok(if env.shape.transacts() {
                Became::Committed
            } else {
                self.goes_on(At::OffsetsAlone)
            });
        };
        let disk = disks.get(&part.handle.id.partition).ok_or("no disk")?;
        let rows = match self.ends.get(n) {
            Some(end) => changelog::batch(&part.sealed.rows, *end).map_err(|e| e.to_string())?,
            None => part.sealed.rows.clone(),
        };
        if env.is(Mutation::PositionBeforeRows) {
            let (position, rest): (Vec<Row>, Vec<Row>) =
                rows.into_iter().partition(|(k, _)| &k[..] == META_CHANGELOG);
            let at = changelog::position(&*disk.backend).map_err(|e| e.to_string())?;
            if self.ends.get(n).is_some_and(|end| *end != at) {
                disk.write(position)?;
                return Ok(Became::Again);
            }
            disk.write(rest)?;
        } else {
            disk.write(rows)?;
        }
        note!(env, "p{} has applied {}", by.number, part.handle.id.partition);
        Ok(self.goes_on(At::Apply(n + 1)))
    }

    /// Offsets outside of a transaction.
    fn commit_offsets(&mut self, env: &mut Env, by: &Committer<'_>) -> Stepped {
        let offsets = self.offsets();
        let generation = by.generation(env);
        let known = |env: &Env| -> Vec<_> {
            offsets.iter().map(|(at, _)| env.broker.committed_unstable(*at)).collect()
        };
        let before = known(env);
        let result = if self.is_over(env) {
            Err(BrokerError::IllegalGeneration)
        } else {
            env.broker.commit_offsets(generation, &offsets)
        };
        if !env.shape.transacts() && (result.is_ok() || before != known(env)) {
            for part in &self.parts {
                part.record(env, by.number, &part.sealed.rows, &part.offsets)?;
                env.ledger.check(part.handle.id.partition)?;
            }
        }
        Ok(match result {
            Ok(()) if env.shape.transacts() => self.goes_on(At::Apply(0)),
            Ok(()) => Became::Committed,
            Err(e) => {
                note!(env, "p{} could not commit: {e}", by.number);
                Became::RolledBack
            }
        })
    }

    fn abort(&mut self, env: &mut Env, by: &Committer<'_>) -> Became {
        match env.broker.end(by.id, by.epoch.unwrap_or(0), false) {
            Ok(()) => Became::RolledBack,
            Err(BrokerError::NoAnswer) if env.dice.chance(500) => Became::Again,
            Err(_) => self.goes_on(At::Init),
        }
    }

    fn fail(&mut self, env: &mut Env, error: BrokerError) -> Became {
        note!(env, "a checkpoint fails at {:?}: {error}", self.at);
        env.tally.fenced += u64::from(error == BrokerError::IllegalGeneration);
        // Fenced: there is nothing to abort any more.
        self.goes_on(if error == BrokerError::Fenced { At::Init } else { At::Abort })
    }

    fn offsets(&self) -> Vec<(Input, i64)> {
        self.parts.iter().flat_map(|p| p.offsets.clone()).collect()
    }

    /// Whether one of its partitions belongs to another member, if the process checks that.
    fn is_over(&self, env: &Env) -> bool {
        let looks = !env.is(Mutation::StaleCommitAccepted) && !env.is(Mutation::StaleGenerationAccepted);
        looks && self.parts.iter().any(|p| p.lease.is_over())
    }
}

impl Committer<'_> {
    /// The generation that it shows to the broker.
    fn generation(&self, env: &Env) -> u64 {
        let stale = env.is(Mutation::StaleGenerationAccepted);
        if stale { env.broker.generation() } else { self.generation }
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

    /// It is committed: the ledger hears of it.
    fn record(
        &self,
        env: &mut Env,
        process: u64,
        rows: &[Row],
        offsets: &[(Input, i64)],
    ) -> Result<(), String> {
        let life = (process, self.handle.id.partition, self.handle.generation);
        env.tally.commits += 1;
        env.tally.under_fire += u64::from(!env.calm);
        env.ledger.commit(life, self.base, &self.sealed, rows, offsets)
    }
}

/// Mutations that keep a transaction's offsets out of it.
fn leaves_offsets_out(env: &Env) -> bool {
    env.is(Mutation::OffsetsInSecondWrite) || env.is(Mutation::RowsWithoutOffsets)
}
