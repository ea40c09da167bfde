//! Where a task's records come from: a Kafka partition, or lines and made-up records for tries.

pub(super) mod choose;
pub(super) mod hold;
pub(super) mod horizon;
pub(super) mod lookahead;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use bytes::Bytes;

use self::hold::HeldReader;
use crate::kafka::{Lease, ReadError};
use crate::model::{Origin, Record, Timestamp, Value};
use crate::topology::{Generate, SourceConfig};

/// Lines read ahead of the task.
const LINES_AHEAD: usize = 4096;

/// One input of a task.
pub enum TaskReader {
    /// A Kafka partition.
    Kafka(HeldReader),
    /// Lines of a file or of standard input.
    Lines(LineReader),
    /// Made-up records.
    Made(Maker),
}

impl TaskReader {
    /// Opens a source that is no Kafka topic; `None` for one that is.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(config: &SourceConfig, now: Timestamp) -> std::io::Result<Option<TaskReader>> {
        Ok(match config {
            SourceConfig::Kafka(_) => None,
            SourceConfig::Generate(g) => Some(TaskReader::Made(Maker::new(g, now))),
            SourceConfig::File(f) => {
                let file = File::open(&f.path)?;
                Some(TaskReader::Lines(LineReader::start(BufReader::new(file), false)?))
            }
            SourceConfig::Stdin(_) => {
                Some(TaskReader::Lines(LineReader::start(BufReader::new(std::io::stdin()), true)?))
            }
        })
    }

    /// Appends up to `max` records that are here already.
    ///
    /// # Errors
    /// The source cannot be read now; the next poll may work.
    pub fn poll_batch(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        match self {
            TaskReader::Kafka(reader) => match reader.poll_batch(max, out) {
                Ok(polled) => Ok(polled.records),
                // The worker will be told.
                Err(ReadError::Revoked) => Ok(0),
                Err(e) => Err(e.to_string()),
            },
            TaskReader::Lines(reader) => Ok(reader.poll(max, now, out)),
            TaskReader::Made(maker) => Ok(maker.poll(max, now, out)),
        }
    }

    /// Has everything been read that is there?
    #[must_use]
    pub fn caught_up(&self) -> bool {
        match self {
            TaskReader::Kafka(reader) => reader.caught_up(),
            TaskReader::Lines(reader) => reader.ended,
            TaskReader::Made(_) => true,
        }
    }

    /// Up to when everything has been read that was to come; `None`: there is more, or nobody knows.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            TaskReader::Kafka(reader) => reader.until(now),
            TaskReader::Lines(_) | TaskReader::Made(_) => self.caught_up().then_some(now),
        }
    }

    /// When nothing of it is here: may others go on without it? Not while more is known to be there, and a file has more
    /// until it ends; standard input and made-up records come when they come.
    #[must_use]
    pub fn lets_others_go_on(&self) -> bool {
        match self {
            TaskReader::Kafka(_) | TaskReader::Made(_) => self.caught_up(),
            TaskReader::Lines(reader) => reader.live || reader.ended,
        }
    }

    /// Has it ended for good?
    #[must_use]
    pub fn ended(&self) -> bool {
        match self {
            TaskReader::Kafka(_) => false,
            TaskReader::Lines(reader) => reader.ended,
            TaskReader::Made(maker) => maker.left == Some(0),
        }
    }

    /// Where the end was, when it was reached and nothing came since.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        match self {
            TaskReader::Kafka(reader) if reader.caught_up() => reader.next_offset(),
            TaskReader::Kafka(_) | TaskReader::Lines(_) | TaskReader::Made(_) => None,
        }
    }

    /// Does the group commit its offsets?
    #[must_use]
    pub fn has_offsets(&self) -> bool {
        matches!(self, TaskReader::Kafka(_))
    }

    /// The offset at which reading starts, where it is known.
    #[must_use]
    pub fn start_offset(&self) -> Option<i64> {
        match self {
            TaskReader::Kafka(reader) => reader.start_offset(),
            TaskReader::Lines(_) | TaskReader::Made(_) => None,
        }
    }

    /// Whether this assignment of the partition is over; `None` where nobody else can have it.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        match self {
            TaskReader::Kafka(reader) => Some(reader.lease()),
            TaskReader::Lines(_) | TaskReader::Made(_) => None,
        }
    }

    /// Goes to `offset`, the last committed one, unless it is there. Lines and made-up records cannot be had again.
    ///
    /// # Errors
    /// The partition is not ours any more, or cannot be moved now: then nothing may be read.
    pub fn rewind(&mut self, offset: i64) -> Result<(), String> {
        match self {
            TaskReader::Kafka(reader) if reader.next_offset() == Some(offset) => Ok(()),
            TaskReader::Kafka(reader) => reader.seek(offset).map_err(|e| e.to_string()),
            TaskReader::Lines(_) | TaskReader::Made(_) => Ok(()),
        }
    }
}

/// Lines, read by a thread of their own, since reading a pipe blocks.
pub struct LineReader {
    lines: Receiver<String>,
    next: i64,
    ended: bool,
    /// Who writes them may take any time.
    live: bool,
}

impl LineReader {
    fn start(mut from: impl BufRead + Send + 'static, live: bool) -> std::io::Result<LineReader> {
        let (send, lines) = sync_channel(LINES_AHEAD);
        // Not joined: a read of standard input cannot be interrupted, and the process ends without it.
        std::thread::Builder::new().name("lines".into()).spawn(move || {
            let mut line = String::new();
            loop {
                line.clear();
                match from.read_line(&mut line) {
                    Ok(0) => return,
                    Ok(_) => {
                        let text = line.trim_end_matches(['\n', '\r']);
                        if !text.is_empty() && send.send(text.to_owned()).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot read lines");
                        return;
                    }
                }
            }
        })?;
        Ok(LineReader { lines, next: 0, ended: false, live })
    }

    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> usize {
        for n in 0..max {
            match self.lines.try_recv() {
                Ok(line) => {
                    out.push(Record {
                        value: Value::Bytes(Bytes::from(line)),
                        ts: now,
                        origin: Origin { topic: 0, partition: 0, offset: self.next },
                        ..Record::default()
                    });
                    self.next += 1;
                }
                Err(TryRecvError::Empty) => return n,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return n;
                }
            }
        }
        max
    }
}

/// Made-up records: key `key-N` in turn, value `{"n": count}`.
pub struct Maker {
    per_second: f64,
    keys: u64,
    left: Option<u64>,
    made: u64,
    start: Timestamp,
}

impl Maker {
    fn new(config: &Generate, now: Timestamp) -> Maker {
        Maker {
            per_second: config.rate.per_second,
            keys: config.keys.max(1),
            left: config.count,
            made: 0,
            start: now,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count of records due"
    )]
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> usize {
        let due = (now.since(self.start).0 as f64 / 1000.0 * self.per_second) as u64;
        let mut n = 0;
        while n < max && self.made < due && self.left != Some(0) {
            out.push(Record {
                key: Some(Bytes::from(format!("key-{}", self.made % self.keys))),
                value: Value::Bytes(Bytes::from(format!("{{\"n\":{}}}", self.made))),
                ts: now,
                origin: Origin {
                    topic: 0,
                    partition: 0,
                    offset: i64::try_from(self.made).unwrap_or(i64::MAX),
                },
                ..Record::default()
            });
            self.made += 1;
            self.left = self.left.map(|l| l - 1);
            n += 1;
        }
        n
    }
}
