//! The drivers of sinks: rows become batches, batches become acknowledgements.
//!
//! A sink node has lanes. Rows of one key go to one lane in order, and a lane has one batch in flight, so rows of a key
//! are written in order. A sink's answer for a single row goes back at once. Rows without an answer share the outcome
//! of the batch. A batch that may be retried is retried for ever, more and more slowly: nothing is dropped, and the
//! input waits. A batch that is refused is split until the one bad row is found, which goes back to its task.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::inbox::{Handle, Inbox, Message};
use super::metrics::SinkMetrics;
use crate::model::{Backoff, Clock, Json, Millis, Reply, SinkRow, SystemClock};
use crate::sinks::{Answer, Answers, Batch, Lane as SinkLane, SinkError};

/// Batches queued for one lane.
const LANE_QUEUE: usize = 8;
/// How long a lane waits before it writes a batch again.
const BACKOFF: Backoff = Backoff { base: Millis(100), max: Millis(5_000) };
/// Most rows handed to a lane in one message.
pub const CHUNK: usize = 1024;

/// A row, and where its answer goes.
pub struct Parcel {
    /// Task that waits for it.
    pub handle: Handle,
    /// Where the acknowledgement goes.
    pub inbox: Inbox,
    /// The epoch it belongs to.
    pub epoch: u64,
    /// Its sink's node.
    pub node: usize,
    /// What to write.
    pub row: SinkRow,
}

/// The lanes of one sink node.
#[derive(Clone)]
pub struct SinkDriver {
    lanes: Vec<Sender<Vec<Parcel>>>,
    hasher: ahash::RandomState,
}

/// Called when a sink fails in a way that no retry mends: by node, with the error.
pub type Fatal = Arc<dyn Fn(usize, SinkError) + Send + Sync>;

impl SinkDriver {
    /// Starts the lanes of a node, given by its number and name.
    pub fn start(
        (node, name): (usize, &str),
        lanes: Vec<Box<dyn SinkLane>>,
        batch: &Batch,
        metrics: &SinkMetrics,
        fatal: &Fatal,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> SinkDriver {
        let lanes = lanes
            .into_iter()
            .map(|sink| {
                let (send, receive) = channel(LANE_QUEUE);
                let lane = Lane {
                    node,
                    name: name.into(),
                    sink,
                    salt: rand::random(),
                    batch: batch.clone(),
                    metrics: metrics.clone(),
                    fatal: Arc::clone(fatal),
                    stop: stop.clone(),
                };
                tracker.spawn(lane.run(receive).in_current_span());
                send
            })
            .collect();
        SinkDriver { lanes, hasher: ahash::RandomState::with_seeds(1, 2, 3, 4) }
    }

    /// The lane of a row: by its key, so that a key's rows keep their order.
    #[must_use]
    pub fn lane_of(&self, row: &SinkRow) -> usize {
        if self.lanes.len() == 1 {
            return 0;
        }
        let mut hasher = self.hasher.build_hasher();
        match &row.record.key {
            Some(key) => hasher.write(key),
            None => hasher.write_i64(row.record.origin.offset),
        }
        usize::try_from(hasher.finish() % (self.lanes.len() as u64)).unwrap_or(0)
    }

    /// Hands rows to a lane; gives them back if the lane is busy.
    ///
    /// # Errors
    /// The rows, to be tried again later.
    pub fn submit(&self, lane: usize, rows: Vec<Parcel>) -> Result<(), Vec<Parcel>> {
        match self.lanes[lane].try_send(rows) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(rows)) => Err(rows),
            // The lane has ended because the process is ending; nothing is acknowledged.
            Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

struct Lane {
    node: usize,
    /// The node's name, for the log.
    name: Arc<str>,
    sink: Box<dyn SinkLane>,
    /// Spreads the retries, so that lanes, and the same lane of other instances, do not all come back at once.
    salt: [u8; 8],
    batch: Batch,
    metrics: SinkMetrics,
    fatal: Fatal,
    stop: CancellationToken,
}

impl Lane {
    async fn run(mut self, mut queue: Receiver<Vec<Parcel>>) {
        let mut waiting: Vec<Parcel> = Vec::new();
        loop {
            if waiting.is_empty() {
                // Cancel-safe: `recv` loses nothing when dropped.
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    rows = queue.recv() => match rows {
                        Some(rows) => waiting = rows,
                        None => return,
                    },
                }
            }
            let linger = Instant::now() + self.batch.linger.duration();
            while !self.is_full(&waiting) {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    rows = tokio::time::timeout_at(linger, queue.recv()) => match rows {
                        Ok(Some(rows)) => waiting.extend(rows),
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            while !waiting.is_empty() {
                let rest = waiting.split_off(self.cut(&waiting));
                let parcels = std::mem::replace(&mut waiting, rest);
                if !self.write(parcels).await {
                    return;
                }
                if !self.is_full(&waiting) {
                    break;
                }
            }
        }
    }

    fn is_full(&self, rows: &[Parcel]) -> bool {
        rows.len() >= self.batch.max_rows
            || rows.iter().map(|p| p.row.record.size()).sum::<usize>() >= self.batch.max_bytes.bytes()
    }

    /// The number of rows at the front that make one batch.
    fn cut(&self, rows: &[Parcel]) -> usize {
        let mut bytes = 0;
        for (n, parcel) in rows.iter().enumerate() {
            bytes += parcel.row.record.size();
            if n >= self.batch.max_rows || (n > 0 && bytes > self.batch.max_bytes.bytes()) {
                return n;
            }
        }
        rows.len()
    }

    /// Writes a batch, for as long as it takes. False if the lane must end.
    async fn write(&mut self, parcels: Vec<Parcel>) -> bool {
        let mut parts: Vec<Vec<Parcel>> = vec![parcels];
        let mut attempt: u32 = 0;
        while let Some(part) = parts.pop() {
            let rows: Vec<SinkRow> = part.iter().map(|p| p.row.clone()).collect();
            let started = Instant::now();
            let mut answers = Answers::new(rows.len());
            // Never cancelled: some clients must not be dropped in the middle of a write.
            let result = self.sink.deliver_batch(&rows, &mut answers).await;
            self.metrics.batch(started.elapsed(), result.is_ok());
            let mut left = self.answer(part, answers, result.is_ok());
            match result {
                Ok(()) => attempt = 0,
                Err(SinkError::Retry { message, after }) => {
                    if left.is_empty() {
                        continue;
                    }
                    let delay = after
                        .unwrap_or_else(|| BACKOFF.delay(&self.salt, attempt.saturating_add(1)).duration());
                    if attempt.is_multiple_of(8) {
                        tracing::warn!(
                            node = &*self.name,
                            attempt,
                            rows = left.len(),
                            error = message,
                            "sink: will try again"
                        );
                    }
                    attempt = attempt.saturating_add(1);
                    parts.push(left);
                    tokio::select! {
                        () = self.stop.cancelled() => return false,
                        () = tokio::time::sleep(delay) => {}
                    }
                }
                Err(SinkError::Refused { message }) => {
                    attempt = 0;
                    if left.len() > 1 {
                        let second = left.split_off(left.len() / 2);
                        parts.extend([second, left]);
                    } else {
                        left.into_iter().for_each(|parcel| refuse(parcel, message.clone()));
                    }
                }
                Err(error @ SinkError::Config { .. }) => {
                    (self.fatal)(self.node, error);
                    return false;
                }
            }
        }
        true
    }

    /// Sends the rows' answers to their tasks, in the order of the rows; returns those without an answer. If the whole
    /// batch is written (`all`), these are written too.
    fn answer(&self, part: Vec<Parcel>, answers: Answers, all: bool) -> Vec<Parcel> {
        let now = SystemClock.now();
        let mut left = Vec::new();
        let mut acks = Acks::default();
        for (parcel, answer) in part.into_iter().zip(answers.into_vec()) {
            let row = match answer {
                Some(Answer::Refused(why)) => {
                    refuse(parcel, why);
                    continue;
                }
                None if !all => {
                    left.push(parcel);
                    continue;
                }
                Some(Answer::Wrote(row)) => Some(row),
                Some(Answer::Written) | None => None,
            };
            self.metrics.row(now.since(parcel.row.record.ts).duration());
            acks.add(parcel, row);
        }
        acks.send();
        left
    }
}

/// Acknowledgements on their way back: one message for all rows of an epoch, except rows whose reply is waited for.
#[derive(Default)]
struct Acks(Vec<(Handle, u64, Inbox, u32)>);

impl Acks {
    fn add(&mut self, parcel: Parcel, row: Option<Json>) {
        if let Some(call) = parcel.row.reply_to {
            let reply = Reply::Delivered(row);
            parcel.inbox.send(Message::Reply { handle: parcel.handle, node: parcel.node, call, reply });
            return;
        }
        match self.0.iter_mut().find(|(h, e, _, _)| *h == parcel.handle && *e == parcel.epoch) {
            Some((_, _, _, n)) => *n += 1,
            None => self.0.push((parcel.handle, parcel.epoch, parcel.inbox, 1)),
        }
    }

    fn send(self) {
        for (handle, epoch, inbox, rows) in self.0 {
            inbox.send(Message::Acked { handle, epoch, rows });
        }
    }
}

fn refuse(parcel: Parcel, message: String) {
    let Parcel { handle, inbox, epoch, node, row } = parcel;
    inbox.send(match row.reply_to {
        Some(call) => Message::Reply { handle, node, call, reply: Reply::Refused { message } },
        None => Message::Refused { handle, epoch, node, record: Box::new(row.record), message },
    });
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::super::inbox::inbox;
    use super::super::metrics::Metrics;
    use super::super::task::TaskId;
    use super::*;
    use crate::model::{Payload, Record, Timestamp, Value};
    use crate::sinks::{BlackholeConfig, Sink, SinkConfig};
    use crate::sources::{SourceConfig, StdinSource};
    use crate::topology::TopologyBuilder;

    /// A sink that answers from a script, and notes the keys that it gets.
    struct Scripted {
        /// Of each call: an answer per row (`w` written, `W` wrote, `x` refused, `-` none), and how it ends.
        script: VecDeque<(&'static str, Result<(), SinkError>)>,
        handed: Arc<Mutex<Vec<String>>>,
    }

    impl Sink for Scripted {
        async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
            let keys: Vec<_> = batch.iter().filter_map(|row| row.record.key.as_deref()).collect();
            let keys = String::from_utf8_lossy(&keys.concat()).into_owned();
            self.handed.lock().unwrap().push(keys);
            let (answers, result) = self.script.pop_front().expect("no more calls than that");
            assert_eq!(answers.len(), batch.len(), "an answer for each of the rows that are left");
            for (row, answer) in answers.chars().enumerate() {
                match answer {
                    'w' => out.written(row),
                    'W' => out.wrote(row, Json::from("as it is")),
                    'x' => out.refused(row, "bad"),
                    _ => {}
                }
            }
            result
        }
    }

    /// Writes a row for each letter (a capital one waits for its reply). Returns what the sink got call by call, what
    /// the task was told, and how many rows count as written.
    async fn write(
        rows: &str,
        script: &[(&'static str, Result<(), SinkError>)],
    ) -> (String, Vec<String>, String) {
        let topology = TopologyBuilder::new("t")
            .source("in", SourceConfig::Stdin(StdinSource::default()))
            .sink("out", ["in"], SinkConfig::Blackhole(BlackholeConfig::default()))
            .build()
            .unwrap();
        let metrics = Metrics::new(&topology).unwrap();
        let (inbox, mail) = inbox();
        let handle = Handle { id: TaskId { sub: 0, partition: 0 }, generation: 1 };
        let parcel = |(n, key): (u64, char)| {
            let record = Record::new(key.to_string(), Value::Null, Timestamp(1));
            let reply_to = key.is_uppercase().then_some(n);
            let row = SinkRow { reply_to, record, payload: Payload::Record };
            Parcel { handle, inbox: inbox.clone(), epoch: 7, node: 1, row }
        };
        let handed = Arc::new(Mutex::new(Vec::new()));
        let mut lane = Lane {
            node: 1,
            name: "out".into(),
            sink: Box::new(Scripted {
                script: script.iter().cloned().collect(),
                handed: Arc::clone(&handed),
            }),
            salt: [0; 8],
            batch: Batch::default(),
            metrics: metrics.sink("out"),
            fatal: Arc::new(|_, error| panic!("{error}")),
            stop: CancellationToken::new(),
        };
        assert!(lane.write((0..).zip(rows.chars()).map(parcel).collect()).await);
        let mut told = Vec::new();
        while let Some(message) = mail.try_next() {
            told.push(match message {
                Message::Acked { epoch: 7, rows, .. } => format!("{rows} written"),
                Message::Refused { epoch: 7, record, message, .. } => {
                    format!("{} {message}", String::from_utf8_lossy(record.key.as_deref().unwrap()))
                }
                Message::Reply { call, reply, .. } => format!("{call} {reply:?}"),
                _ => "something else".to_owned(),
            });
        }
        let counted = metrics.text();
        let counted = counted.lines().find(|line| line.starts_with("slackwater_sink_rows_total")).unwrap();
        let counted = counted.rsplit(' ').next().unwrap().to_owned();
        (handed.lock().unwrap().join(" "), told, counted)
    }

    #[tokio::test]
    async fn a_row_with_an_answer_is_not_handed_in_again() {
        let again = || Err(SinkError::Retry { message: "away".into(), after: Some(Duration::ZERO) });
        let bad = || Err(SinkError::Refused { message: "one is bad".into() });
        let check = async |rows: &str, script: &[_], handed: &str, told: &[&str], counted: &str| {
            assert_eq!(
                write(rows, script).await,
                (handed.into(), told.iter().map(|t| (*t).into()).collect(), counted.into())
            );
        };
        // Without answers, the result applies to all rows.
        check("abc", &[("---", Ok(()))], "abc", &["3 written"], "3").await;
        check("ab", &[("--", again()), ("--", Ok(()))], "ab ab", &["2 written"], "2").await;
        // A refusal is reported at once and does not count as written.
        check("abc", &[("wxw", Ok(()))], "abc", &["b bad", "2 written"], "2").await;
        // Only rows without an answer are tried again, in order.
        check(
            "abcd",
            &[("w-x-", again()), ("--", Ok(()))],
            "abcd bd",
            &["c bad", "1 written", "2 written"],
            "3",
        )
        .await;
        check("ab", &[("wx", again())], "ab", &["b bad", "1 written"], "1").await;
        // Only rows without an answer are split to find the bad one.
        let split = [("w---", bad()), ("-", Ok(())), ("--", bad()), ("-", Ok(())), ("-", bad())];
        let told = ["1 written", "1 written", "1 written", "d one is bad"];
        check("abcd", &split, "abcd b cd c d", &told, "3").await;
        // A row that is waited for has an answer of its own, with the row that came back.
        let told = ["0 Delivered(Some(String(\"as it is\")))", "1 Refused { message: \"bad\" }"];
        check("AB", &[("Wx", Ok(()))], "AB", &told, "1").await;
    }
}
