//! The drivers of sinks: rows become batches, batches become acknowledgements.
//!
//! A sink node has lanes. Rows of one key go to one lane in order, and a lane has one batch in flight, so rows of a key
//! are written in order. A batch that should be retried is retried for ever, slower and slower: nothing is dropped, the
//! input waits. A batch that is refused is split until the one bad row is found, which goes back to its task.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::{Handle, Inbox, Message};
use super::metrics::SinkMetrics;
use crate::model::{Clock, SystemClock};
use crate::model::{Reply, SinkRow};
use crate::sinks::{Batch, Sink, SinkError, SinkLane};

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
    /// Starts the lanes of node `node`.
    pub fn start(
        node: usize,
        lanes: Vec<SinkLane>,
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
    sink: SinkLane,
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
            // Not cancelled half way: a write that has begun is let end, some clients cannot be dropped in the middle.
            let result = self.sink.deliver(&rows).await;
            self.metrics.batch(rows.len(), started.elapsed(), result.is_ok());
            match result {
                Ok(()) => {
                    attempt = 0;
                    let now = SystemClock.now();
                    for parcel in &part {
                        self.metrics.latency(now.since(parcel.row.record.ts).duration());
                    }
                    acknowledge(part);
                }
                Err(SinkError::Retry { message, after }) => {
                    let delay = after.unwrap_or_else(|| backoff(attempt));
                    if attempt.is_multiple_of(8) {
                        tracing::warn!(
                            node = self.node,
                            attempt,
                            rows = rows.len(),
                            message,
                            "sink: will try again"
                        );
                    }
                    attempt = attempt.saturating_add(1);
                    parts.push(part);
                    tokio::select! {
                        () = self.stop.cancelled() => return false,
                        () = tokio::time::sleep(delay) => {}
                    }
                }
                Err(SinkError::Refused { message }) => {
                    attempt = 0;
                    if part.len() > 1 {
                        let mut first = part;
                        let second = first.split_off(first.len() / 2);
                        parts.push(second);
                        parts.push(first);
                    } else {
                        refuse(part, &message);
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
}

fn acknowledge(parcels: Vec<Parcel>) {
    let mut counts: Vec<(Handle, u64, Inbox, u32)> = Vec::new();
    for parcel in parcels {
        if let Some(call) = parcel.row.reply_to {
            let message =
                Message::Reply { handle: parcel.handle, node: parcel.node, call, reply: Reply::Delivered };
            parcel.inbox.send(message);
            continue;
        }
        match counts.iter_mut().find(|(h, e, _, _)| *h == parcel.handle && *e == parcel.epoch) {
            Some((_, _, _, n)) => *n += 1,
            None => counts.push((parcel.handle, parcel.epoch, parcel.inbox, 1)),
        }
    }
    for (handle, epoch, inbox, rows) in counts {
        inbox.send(Message::Acked { handle, epoch, rows });
    }
}

fn refuse(parcels: Vec<Parcel>, message: &str) {
    for parcel in parcels {
        let Parcel { handle, inbox, epoch, node, row } = parcel;
        inbox.send(match row.reply_to {
            Some(call) => {
                Message::Reply { handle, node, call, reply: Reply::Refused { message: message.into() } }
            }
            None => Message::Refused {
                handle,
                epoch,
                node,
                record: Box::new(row.record),
                message: message.into(),
            },
        });
    }
}

/// 50 ms, doubled up to 5 s, with a little spread between lanes.
fn backoff(attempt: u32) -> Duration {
    let base = 50u64 << attempt.min(7);
    let ms = base.min(5_000);
    Duration::from_millis(ms - rand::random_range(0..=ms / 4))
}
