//! Moves state to nodes with other names, and drops the state of nodes: changelogs are rewritten, records that wait in
//! a repartition topic are copied, and the record is changed accordingly. It may be killed at any moment; the next
//! start repeats it.
//!
//! - The record first says that a move has begun, so that no start with another file runs meanwhile, and last, written in
//!   a transaction, that it is done. A process takes the transactional id `NAME-move` before it moves, and reads the record
//!   after that: of two that move at the same time, the first is fenced before it can record the end.
//! - Nothing moves while the group has members: they would write behind what was copied.
//! - A changelog is rewritten from its *final* rows, so doing it again gives the same: what was moved already is there
//!   under its new name, and nothing else.
//! - Records of a repartition topic are copied in transactions that also commit the old topic's offset: each once.
//! - The old topics are deleted when the record has the new ones.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Edit, record};
use crate::kafka::{
    Admin, AdminError, Follower, GroupMetadata, GroupOffset, KafkaConfig, OutRecord, TopicPartition,
    TxnError, TxnWriter, restore,
};
use crate::model::{Headers, Record};
use crate::runtime::checkpoint::failpoint;
use crate::state::{Backend, RocksBackend, RocksEnv, Row, after_prefix, changelog};
use crate::topology::{Home, Layout, Moves, Topology};

/// Most rows or records of one transaction.
const CHUNK_ROWS: usize = 2000;
/// Most bytes of them.
const CHUNK_BYTES: usize = 4 << 20;
/// How long a transaction may take to begin, or to commit.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for the end of a transaction whose process was killed.
const OPEN_MAX: Duration = Duration::from_secs(120);

/// Why nothing, or not everything, was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Not now; try it again.
    #[error("{0}")]
    Later(String),
    /// Another process has begun to move.
    #[error("another instance moves the state")]
    Other,
    /// It was stopped.
    #[error("stopped")]
    Stopped,
}

impl From<TxnError> for MoveError {
    fn from(e: TxnError) -> MoveError {
        match e {
            TxnError::Fenced(_) => MoveError::Other,
            e => MoveError::Later(e.to_string()),
        }
    }
}

impl From<AdminError> for MoveError {
    fn from(e: AdminError) -> MoveError {
        MoveError::Later(e.to_string())
    }
}

fn later(e: impl ToString) -> MoveError {
    MoveError::Later(e.to_string())
}

/// Everything that a move needs.
pub struct Mover<'a> {
    /// The topology of today.
    pub topology: &'a Topology,
    /// Its cluster.
    pub admin: &'a Admin,
    /// How to reach it.
    pub config: &'a KafkaConfig,
    /// A directory of its own, for the rows of one partition at a time.
    pub dir: PathBuf,
    /// Caches of databases.
    pub env: &'a RocksEnv,
    /// Stops it between two steps.
    pub stop: &'a CancellationToken,
}

/// What is to be done.
pub enum Work {
    /// What `renamed` asks for.
    Rename,
    /// The state of a node is dropped.
    Drop(String),
}

impl Mover<'_> {
    /// Does the work and returns the layout to record afterwards. The new topics exist already.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub fn run(&self, work: &Work) -> Result<Layout, MoveError> {
        self.admin.create_topics(&[record::spec(self.topology)])?;
        let id = format!("{}-move", self.topology.name);
        let mut writer = TxnWriter::open(self.config, &id, PATIENCE)?;
        // Read after the id was taken: from now on no other process can record that a move is done.
        let written = record::read(self.admin, self.config, self.topology).map_err(later)?;
        let mut written = match written {
            Some(written) => written,
            None => record::found(self.admin, self.config, self.topology).map_err(later)?,
        };
        let moves = match work {
            Work::Rename => self.topology.moves(Home::Topics, &written).map_err(|problems| {
                MoveError::Later(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            })?,
            Work::Drop(_) => Moves::default(),
        };
        let wanted = match work {
            Work::Rename => written.moved(&moves),
            Work::Drop(node) => written.without(node),
        };
        if wanted != written || !written.moving.is_empty() {
            if matches!(work, Work::Rename) && written.moving.is_empty() {
                written.moving.clone_from(&self.topology.settings.renamed);
                self.write_down(&mut writer, &written)?;
            }
            self.alone()?;
            match work {
                Work::Rename => self.rename(&mut writer, &moves)?,
                Work::Drop(node) => self.drop_state(&mut writer, &written, node)?,
            }
            // A process that began before the record said so could have joined since.
            self.alone()?;
            let mut done = wanted;
            let today = self.topology.layout(Home::Topics);
            let kept =
                |topic: &str| today.changelogs().contains(&topic) || today.repartitions.contains_key(topic);
            let before =
                written.changelogs().into_iter().chain(written.repartitions.keys().map(String::as_str));
            let after =
                |topic: &str| done.changelogs().contains(&topic) || done.repartitions.contains_key(topic);
            let leftover = before.filter(|topic| !kept(topic) && !after(topic)).map(str::to_owned).collect();
            done.moving.clear();
            done.leftover = leftover;
            self.write_down(&mut writer, &done)?;
            failpoint::hit(failpoint::MOVED);
            written = done;
        }
        if !written.leftover.is_empty() {
            let names: Vec<&str> = written.leftover.iter().map(String::as_str).collect();
            self.admin.delete_topics(&names)?;
            tracing::info!(topics = names.join(", "), "deleted topics whose contents were moved or dropped");
            written.leftover.clear();
            self.write_down(&mut writer, &written)?;
        }
        Ok(written)
    }

    fn rename(&self, writer: &mut TxnWriter, moves: &Moves) -> Result<(), MoveError> {
        for (from, to) in &moves.changelogs {
            let edit = Edit {
                names: to.names.clone(),
                topics: moves.repartitions.keys().cloned().collect(),
                ..Edit::default()
            };
            for partition in 0..self.count(from)? {
                let rows = self.rewrite(writer, &edit, (from, &to.to), partition)?;
                tracing::info!(from, to = to.to, partition, rows, "state moved");
                failpoint::hit(failpoint::MOVING);
            }
        }
        for (from, to) in &moves.repartitions {
            for partition in 0..self.count(from)? {
                let records = self.copy(writer, (from, to), partition)?;
                tracing::info!(from, to, partition, records, "waiting records moved");
                failpoint::hit(failpoint::MOVING);
            }
        }
        Ok(())
    }

    fn drop_state(&self, writer: &mut TxnWriter, written: &Layout, node: &str) -> Result<(), MoveError> {
        let left = written.without(node);
        let dropped = written.nodes.keys().filter(|name| !left.nodes.contains_key(*name)).cloned();
        let topics =
            written.repartitions.keys().filter(|topic| !left.repartitions.contains_key(*topic)).cloned();
        let edit = Edit { dropped: dropped.collect(), topics: topics.collect(), ..Edit::default() };
        let mut changelogs: Vec<&str> =
            edit.dropped.iter().map(|name| written.nodes[name].changelog.as_str()).collect();
        changelogs.sort_unstable();
        changelogs.dedup();
        for changelog in changelogs {
            for partition in 0..self.count(changelog)? {
                self.rewrite(writer, &edit, (changelog, changelog), partition)?;
            }
        }
        Ok(())
    }

    /// Brings a changelog's partition into its new form. Returns the number of rows written.
    fn rewrite(
        &self,
        writer: &mut TxnWriter,
        edit: &Edit,
        (from, to): (&str, &str),
        partition: i32,
    ) -> Result<usize, MoveError> {
        let at = TopicPartition::new(from, partition);
        drop(std::fs::remove_dir_all(&self.dir));
        crate::state::make_dir(&self.dir).map_err(later)?;
        let written = {
            let rows = RocksBackend::open(&self.dir, self.env).map_err(later)?;
            self.read_back(&at, &rows)?;
            let (mut chunk, mut bytes, mut written) = (Vec::new(), 0, 0);
            let mut failed = None;
            let mut take = |key: &[u8], value: &[u8]| -> Result<(), MoveError> {
                let began = chunk.len();
                if from == to {
                    edit.in_place(key, value, &mut chunk).map_err(later)?;
                } else if let Some((key, value)) = edit.row(key, value).map_err(later)? {
                    chunk.push((key, Some(value)));
                }
                bytes += chunk[began..]
                    .iter()
                    .map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len))
                    .sum::<usize>();
                if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                    written += chunk.len();
                    self.send(writer, to, partition, &mut chunk)?;
                    bytes = 0;
                }
                Ok(())
            };
            let visit = &mut |key: &[u8], value: &[u8]| {
                // A local row.
                if key == crate::state::META_CHANGELOG {
                    return ControlFlow::Continue(());
                }
                match take(key, value) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => {
                        failed = Some(e);
                        ControlFlow::Break(())
                    }
                }
            };
            rows.scan(b"", &after_prefix(&[0xff]), visit).map_err(later)?;
            if let Some(e) = failed {
                return Err(e);
            }
            written += chunk.len();
            self.send(writer, to, partition, &mut chunk)?;
            written
        };
        drop(std::fs::remove_dir_all(&self.dir));
        Ok(written)
    }

    /// All final rows of a partition.
    fn read_back(&self, at: &TopicPartition, rows: &dyn Backend) -> Result<(), MoveError> {
        let end = self.settled_end(at)?;
        let start = self.admin.start_offsets(std::slice::from_ref(at))?.first().copied().unwrap_or(0);
        let group = format!("{}-restore", self.topology.name);
        let mut failed = None;
        let on_rows = |new: &[Row], next: i64, _: crate::kafka::Progress| {
            if self.stop.is_cancelled() {
                return ControlFlow::Break(());
            }
            match changelog::batch(new, next).and_then(|new| rows.write(&new)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        let read = restore(self.config, &group, at, start.min(end), end, on_rows);
        match (failed, read) {
            (Some(e), _) => Err(later(e)),
            (None, _) if self.stop.is_cancelled() => Err(MoveError::Stopped),
            (None, read) => read.map(drop).map_err(later),
        }
    }

    /// The end of a partition once no transaction is open in it: one of a process that was killed ends by its timeout.
    fn settled_end(&self, at: &TopicPartition) -> Result<i64, MoveError> {
        let one = std::slice::from_ref(at);
        let ends = Admin::open_uncommitted(self.config, super::TIMEOUT)?;
        let deadline = Instant::now() + OPEN_MAX;
        loop {
            let (high, stable) = (ends.end_offsets(one)?, self.admin.end_offsets(one)?);
            if high == stable {
                return Ok(high.first().copied().unwrap_or(0));
            }
            if Instant::now() > deadline {
                return Err(MoveError::Later(format!("a transaction is open in {at}")));
            }
            self.pause(Duration::from_millis(200))?;
        }
    }

    /// Writes rows in one transaction.
    fn send(
        &self,
        writer: &mut TxnWriter,
        topic: &str,
        partition: i32,
        rows: &mut Vec<Row>,
    ) -> Result<(), MoveError> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.stop.is_cancelled() {
            return Err(MoveError::Stopped);
        }
        writer.begin()?;
        for (key, value) in rows.drain(..) {
            writer.send(&OutRecord {
                topic: topic.into(),
                partition: Some(partition),
                key: Some(key),
                value,
                headers: Headers::default(),
                ts: None,
            })?;
        }
        writer.commit(&[], None, PATIENCE)?;
        failpoint::hit(failpoint::MOVING);
        Ok(())
    }

    /// Copies the records that wait in a repartition topic's partition. Returns their number.
    fn copy(
        &self,
        writer: &mut TxnWriter,
        (from, to): (&str, &str),
        partition: i32,
    ) -> Result<usize, MoveError> {
        let at = TopicPartition::new(from, partition);
        let one = std::slice::from_ref(&at);
        let end = self.settled_end(&at)?;
        let start = self.admin.start_offsets(one)?.first().copied().unwrap_or(0);
        let deadline = Instant::now() + OPEN_MAX;
        let mut next = loop {
            match self.admin.committed(&self.topology.name, one)?.first() {
                Some(GroupOffset::At(next)) => break start.max(*next),
                Some(GroupOffset::None) | None => break start,
                Some(GroupOffset::Pending) if Instant::now() > deadline => {
                    return Err(MoveError::Later(format!("a transaction has an offset of {at}")));
                }
                Some(GroupOffset::Pending) => self.pause(Duration::from_millis(200))?,
            }
        };
        let group = format!("{}-restore", self.topology.name);
        let nobody = GroupMetadata::of_nobody(self.config, &self.topology.name).map_err(later)?;
        let mut follower = Follower::open(self.config, &group, &[(at.clone(), 0, next)]).map_err(later)?;
        let mut copied = 0;
        while next < end {
            if self.stop.is_cancelled() {
                return Err(MoveError::Stopped);
            }
            let mut records: Vec<Record> = Vec::new();
            follower.poll(CHUNK_ROWS / 4, Duration::from_millis(200), &mut records).map_err(later)?;
            let reached = follower.positions().map(|(_, next)| next).next().unwrap_or(next);
            if reached == next {
                continue;
            }
            next = reached;
            copied += records.len();
            writer.begin()?;
            for record in records {
                writer.send(&OutRecord {
                    topic: to.into(),
                    partition: Some(partition),
                    key: record.key,
                    value: record.value.bytes(),
                    headers: record.headers,
                    ts: Some(record.ts),
                })?;
            }
            writer.commit(&[(at.clone(), next)], Some(&nobody), PATIENCE)?;
            failpoint::hit(failpoint::MOVING);
        }
        Ok(copied)
    }

    fn write_down(&self, writer: &mut TxnWriter, layout: &Layout) -> Result<(), MoveError> {
        writer.begin()?;
        writer.send(&record::record(self.topology, layout).map_err(later)?)?;
        writer.commit(&[], None, PATIENCE)?;
        Ok(())
    }

    /// Nothing moves while the group has members.
    fn alone(&self) -> Result<(), MoveError> {
        let members = self.admin.members(&self.topology.name)?;
        if members.is_empty() {
            return Ok(());
        }
        Err(MoveError::Later(format!(
            "the group `{}` has members, at {}: state is moved when they have stopped",
            self.topology.name,
            members.join(", ")
        )))
    }

    fn count(&self, topic: &str) -> Result<i32, MoveError> {
        Ok(self.admin.topics(&[topic])?.first().and_then(|(_, count)| *count).unwrap_or(0))
    }

    fn pause(&self, time: Duration) -> Result<(), MoveError> {
        if self.stop.is_cancelled() {
            return Err(MoveError::Stopped);
        }
        std::thread::park_timeout(time);
        Ok(())
    }
}

/// The directory in which rows are gathered: in the state directory, and not a task's.
#[must_use]
pub fn gathering(state_dir: &Path) -> PathBuf {
    state_dir.join("moving")
}
