//! Where a task's records come from: a Kafka partition, or lines and made-up records for tries.

pub(super) mod choose;
pub(super) mod hold;
pub(super) mod horizon;
pub(super) mod lookahead;

use self::hold::HeldReader;
use crate::kafka::{Lease, ReadError};
use crate::model::{Record, Timestamp};
use crate::sources::Reader;

/// One input of a task.
pub enum TaskReader {
    /// A Kafka partition.
    Kafka(Box<HeldReader>),
    /// A source that is no Kafka topic.
    Own(Box<dyn Reader>),
}

impl TaskReader {
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
            TaskReader::Own(reader) => reader.poll(max, now, out),
        }
    }

    /// Has everything been read that is there?
    #[must_use]
    pub fn caught_up(&self) -> bool {
        match self {
            TaskReader::Kafka(reader) => reader.caught_up(),
            TaskReader::Own(reader) => reader.caught_up(),
        }
    }

    /// Up to when everything has been read that was to come; `None`: there is more, or nobody knows.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            TaskReader::Kafka(reader) => reader.until(now),
            TaskReader::Own(_) => self.caught_up().then_some(now),
        }
    }

    /// When nothing of it is here: may others go on without it? Not while more is known to be there, and a file has more
    /// until it ends; standard input and made-up records come when they come.
    #[must_use]
    pub fn lets_others_go_on(&self) -> bool {
        match self {
            TaskReader::Kafka(reader) => reader.caught_up(),
            TaskReader::Own(reader) => reader.lets_others_go_on(),
        }
    }

    /// Has it ended for good?
    #[must_use]
    pub fn ended(&self) -> bool {
        match self {
            TaskReader::Kafka(_) => false,
            TaskReader::Own(reader) => reader.ended(),
        }
    }

    /// Where the end was, when it was reached and nothing came since.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        match self {
            TaskReader::Kafka(reader) if reader.caught_up() => reader.next_offset(),
            TaskReader::Kafka(_) | TaskReader::Own(_) => None,
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
            TaskReader::Own(_) => None,
        }
    }

    /// Whether this assignment of the partition is over; `None` where nobody else can have it.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        match self {
            TaskReader::Kafka(reader) => Some(reader.lease()),
            TaskReader::Own(_) => None,
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
            TaskReader::Own(_) => Ok(()),
        }
    }
}
