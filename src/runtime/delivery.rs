//! The drivers of sinks: rows become batches, batches become acknowledgements.
//!
//! A sink node has lanes. Rows of one key go to one lane in order, and a lane has one batch in flight, so rows of a key
//! are written in order. What a sink answers for single rows goes back at once. Rows without an answer follow the
//! batch: to be retried, they are retried for ever, slower and slower, so nothing is dropped and the input waits; refused,
//! they are split until the one bad row is found, which goes back to its task.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::{Handle, Inbox, Message};
use super::metrics::SinkMetrics;
use crate::model::{Clock, Json, SystemClock};
use crate::model::{Reply, SinkRow};
use crate::sinks::{Answer, Answers, Batch, Lane as SinkLane, SinkError};

/// Batches of rows on their way to one lane.
const LANE_QUEUE: usize = 8;
/// Rows handed to a lane in one message, at most.
pub const CHUNK: usize = 1024;

/// A row with its way back.
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

/// Something that makes going on pointless.
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
                    batch: batch.clone(),
                    metrics: metrics.clone(),
                    fatal: Arc::clone(fatal),
                    stop: stop.clone(),
                };
                tracker.spawn(lane.run(receive));
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

    /// Hands rows to a lane; gives them back when the lane is busy.
    ///
    /// # Errors
    /// The rows, to be tried again later.
    pub fn submit(&self, lane: usize, rows: Vec<Parcel>) -> Result<(), Vec<Parcel>> {
        match self.lanes[lane].try_send(rows) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(rows)) => Err(rows),
            // The lane has stopped: so does the process, and nothing is acknowledged.
            Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

struct Lane {
    node: usize,
    /// The node's, for the log.
    name: Arc<str>,
    sink: Box<dyn SinkLane>,
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

    /// How many of the first rows make one batch.
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

    /// Writes a batch, whatever it takes; false when the lane must end.
    async fn write(&mut self, parcels: Vec<Parcel>) -> bool {
        let mut parts: Vec<Vec<Parcel>> = vec![parcels];
        let mut attempt: u32 = 0;
        while let Some(part) = parts.pop() {
            let rows: Vec<SinkRow> = part.iter().map(|p| p.row.clone()).collect();
            let started = Instant::now();
            let mut answers = Answers::new(rows.len());
            // Not cancelled half way: a write that has begun is let end, some clients cannot be dropped in the middle.
            let result = self.sink.deliver_batch(&rows, &mut answers).await;
            self.metrics.batch(rows.len(), started.elapsed(), result.is_ok());
            let mut left = self.answer(part, answers, result.is_ok());
            match result {
                Ok(()) => attempt = 0,
                Err(SinkError::Retry { message, after }) => {
                    if left.is_empty() {
                        continue;
                    }
                    let delay = after.unwrap_or_else(|| backoff(attempt));
                    if attempt.is_multiple_of(8) {
                        tracing::warn!(
                            node = &*self.name,
                            attempt,
                            rows = left.len(),
                            message,
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

    /// Sends the rows' answers to their tasks, in the order of the rows; those that have none. Without an answer, a row of
    /// a batch that is written (`all`) is written.
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
            self.metrics.latency(now.since(parcel.row.record.ts).duration());
            acks.add(parcel, row);
        }
        acks.send();
        left
    }
}

/// Acknowledgements on their way back: one message for all rows of an epoch that nobody waits for one by one.
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

/// 50 ms, doubled up to 5 s, with a little spread between lanes.
fn backoff(attempt: u32) -> Duration {
    let base = 50u64 << attempt.min(7);
    let ms = base.min(5_000);
    Duration::from_millis(ms - rand::random_range(0..=ms / 4))
}
