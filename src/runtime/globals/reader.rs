//! The threads that read global tables: one per table, which reads all partitions of its topics, in no group.
//!
//! Called by the engine. Before any task starts, each table is read up to the end that its topics had at that time;
//! until then `/ready` waits, and the log and `slackwater_restore_remaining_rows` say how much is left. Afterwards the
//! threads go on until the process stops. Reading continues from the positions on disk. The rows on disk are deleted
//! and read anew if they are from other topics, are ahead of the topics, or are so old that tombstones may have been
//! compacted away since.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::table::GlobalTable;
use crate::formats::Formats;
use crate::kafka::{Admin, Follower, KafkaConfig, TopicPartition};
use crate::model::{Clock, SystemClock, Timestamp};
use crate::runtime::checkpoint::restore::OUTDATED_MS;
use crate::runtime::metrics::Metrics;
use crate::runtime::task::Globals;
use crate::state::{Backend, RocksBackend, RocksEnv, StateDir};
use crate::topology::Topology;

/// Records of one write to the database.
const BATCH: usize = 4096;
/// How long a thread waits for records before it checks whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// Time between two log lines about the progress.
const SAY: Duration = Duration::from_secs(2);

/// What every table's thread needs.
pub(in crate::runtime) struct Reading<'a> {
    pub topology: &'a Arc<Topology>,
    pub formats: &'a Arc<Formats>,
    pub kafka: &'a KafkaConfig,
    pub admin: &'a Arc<Admin>,
    /// Partitions by topic.
    pub count: &'a (dyn Fn(&str) -> i32 + Sync),
    pub dir: &'a Path,
    pub env: &'a RocksEnv,
    pub metrics: &'a Metrics,
    /// Called if a table can no longer be kept up to date after it was read.
    pub failed: Arc<dyn Fn(String) + Send + Sync>,
}

/// The running threads. Dropping it stops them.
#[derive(Default)]
pub(in crate::runtime) struct GlobalReaders {
    /// Rows by node, for the tasks.
    pub rows: Globals,
    /// For each table, by name, the signal that it has been read, or cannot be.
    pub pending: Vec<(String, oneshot::Receiver<Result<(), String>>)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: CancellationToken,
}

impl GlobalReaders {
    /// Opens the tables and starts to read them.
    ///
    /// # Errors
    /// A database cannot be opened, or a thread not started.
    pub fn start(reading: &Reading<'_>) -> Result<GlobalReaders, String> {
        let mut readers = GlobalReaders::default();
        for node in reading.topology.globals() {
            let name = reading.topology.nodes[node].name.clone();
            let (table, rows, from) = open(reading, node)?;
            readers.rows.insert(node, rows);
            let (send, receive) = oneshot::channel();
            readers.pending.push((name.clone(), receive));
            let thread = Thread {
                group: format!("{}-restore", reading.topology.name),
                kafka: reading.kafka.clone(),
                admin: Arc::clone(reading.admin),
                metrics: reading.metrics.clone(),
                stop: readers.stop.clone(),
                name: name.clone(),
                table,
                from,
            };
            let failed = Arc::clone(&reading.failed);
            let spawned = std::thread::Builder::new().name(format!("global-{name}")).spawn(move || {
                let mut read = Some(send);
                if let Err(e) = thread.run(&mut read) {
                    let message = format!("global table {name}: {e}");
                    match read.take() {
                        Some(read) => read.send(Err(message)).unwrap_or_default(),
                        None => failed(message),
                    }
                }
            });
            readers.threads.push(spawned.map_err(|e| e.to_string())?);
        }
        Ok(readers)
    }

    /// Waits some milliseconds for the threads to end.
    pub fn join(mut self) -> bool {
        self.stop.cancel();
        self.threads.drain(..).all(|thread| thread.join().is_ok())
    }
}

impl Drop for GlobalReaders {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Opened = (GlobalTable, Arc<dyn Backend>, Vec<(TopicPartition, u16, i64)>);

/// Opens a table's database, emptied if reading cannot continue from it, and finds where each partition continues.
fn open(reading: &Reading<'_>, node: usize) -> Result<Opened, String> {
    let name = &reading.topology.nodes[node].name;
    let dir = StateDir::global(reading.dir, name);
    for again in [false, true] {
        crate::state::make_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let rows: Arc<dyn Backend> =
            Arc::new(RocksBackend::open(&dir, reading.env).map_err(|e| e.to_string())?);
        let table =
            GlobalTable::open(reading.topology, reading.formats, node, &rows).map_err(|e| e.to_string())?;
        let mut from = Vec::new();
        for (n, topic) in table.topics().iter().enumerate() {
            for partition in 0..(reading.count)(topic) {
                let at = TopicPartition::new(topic.as_str(), partition);
                from.push((at, u16::try_from(n).unwrap_or(u16::MAX), table.position(topic, partition)));
            }
        }
        let why = if again { None } else { unusable(reading.admin, &table, &from)? };
        let Some(why) = why else { return Ok((table, rows, from)) };
        tracing::info!(table = name, why, "the global table is read anew");
        drop((table, rows));
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    Err(format!("global table {name}: its rows could not be made anew"))
}

/// Why reading cannot continue from what is on disk.
fn unusable(
    admin: &Admin,
    table: &GlobalTable,
    from: &[(TopicPartition, u16, i64)],
) -> Result<Option<&'static str>, String> {
    if !table.fits().map_err(|e| e.to_string())? {
        return Ok(Some("it was made of other topics"));
    }
    let known: Vec<(TopicPartition, i64)> =
        from.iter().filter(|(.., next)| *next > 0).map(|(at, _, next)| (at.clone(), *next)).collect();
    let partitions: Vec<TopicPartition> = known.iter().map(|(at, _)| at.clone()).collect();
    if partitions.is_empty() {
        return Ok(None);
    }
    let ends = admin.end_offsets(&partitions).map_err(|e| e.to_string())?;
    let since = Timestamp(SystemClock.now().0 - OUTDATED_MS);
    let fresh = admin.offsets_since(&partitions, since).map_err(|e| e.to_string())?;
    for (((_, next), end), fresh) in known.iter().zip(ends).zip(fresh) {
        if *next > end {
            return Ok(Some("it is ahead of its topic, which was made anew"));
        }
        if *next < fresh.unwrap_or(end) {
            return Ok(Some("it is so old that deletions may be missing"));
        }
    }
    Ok(None)
}

struct Thread {
    name: String,
    group: String,
    kafka: KafkaConfig,
    admin: Arc<Admin>,
    metrics: Metrics,
    stop: CancellationToken,
    table: GlobalTable,
    from: Vec<(TopicPartition, u16, i64)>,
}

impl Thread {
    /// Reads until the stop. `read` is signalled once the table is as its topics were at the beginning.
    fn run(mut self, read: &mut Option<oneshot::Sender<Result<(), String>>>) -> Result<(), String> {
        let started = Instant::now();
        let partitions: Vec<TopicPartition> = self.from.iter().map(|(at, ..)| at.clone()).collect();
        let Some(starts) = self.ask(|admin| admin.start_offsets(&partitions)) else { return Ok(()) };
        let Some(ends) = self.ask(|admin| admin.end_offsets(&partitions)) else { return Ok(()) };
        for ((.., next), start) in self.from.iter_mut().zip(starts) {
            *next = start.max(*next);
        }
        let mut follower = Follower::open(&self.kafka, &self.group, &self.from).map_err(|e| e.to_string())?;
        let (mut records, mut total, mut said) = (Vec::new(), 0_u64, Instant::now());
        while !self.stop.is_cancelled() {
            follower.poll(BATCH, WAIT, &mut records).map_err(|e| e.to_string())?;
            total += records.len() as u64;
            let next = follower.positions().map(|(at, next)| (&*at.topic, at.partition, next));
            self.table.apply(records.drain(..), next, SystemClock.now()).map_err(|e| e.to_string())?;
            self.metrics.global(self.table.node(), &self.table.take_tally());
            if read.is_none() {
                continue;
            }
            let mut left = 0;
            for ((at, next), end) in follower.positions().zip(&ends) {
                let here = (end - next).max(0);
                self.metrics.global_remaining(self.table.node(), at.partition, here);
                left += here;
            }
            if left == 0 {
                let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(table = self.name, records = total, ms, "the global table is read");
                if let Some(read) = read.take() {
                    read.send(Ok(())).unwrap_or_default();
                }
            } else if said.elapsed() > SAY {
                said = Instant::now();
                tracing::info!(table = self.name, left, "reading the global table");
            }
        }
        Ok(())
    }

    /// Repeats a request until it succeeds; `None` at the stop.
    fn ask<T, E: std::fmt::Display>(&self, mut f: impl FnMut(&Admin) -> Result<T, E>) -> Option<T> {
        while !self.stop.is_cancelled() {
            match f(&self.admin) {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::warn!(table = self.name, %error, "the global table waits"),
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
        None
    }
}
