//! What one task reads: the partitions assigned to it, or a source that is no Kafka topic, each behind a [`TaskReader`].
//!
//! `lookahead` and `choose` put the records of several inputs in the order of their timestamps; `horizon` finds out up
//! to which time a repartition topic is complete.

pub(super) mod choose;
pub(super) mod horizon;
pub(super) mod lookahead;

use std::collections::VecDeque;

use self::horizon::Upstream;
use crate::kafka::{Lease, PartitionReader, ReadError};
use crate::model::{Record, Timestamp};
use crate::sources::Reader;

enum Feed {
    Partition(Box<PartitionReader>),
    Source(Box<dyn Reader>),
}

/// One input of a task: where its records come from, and those that were read but must still wait.
///
/// A record that may not come in yet holds back the records after it, of this input only: nothing more is read, and the
/// input counts as not caught up, so that no clock moves past it. At most one poll is held.
pub struct TaskReader {
    from: Feed,
    /// The input's number in the task.
    input: u16,
    held: VecDeque<Record>,
    batch: Vec<Record>,
    /// For a repartition topic: up to which time it is complete, which depends on the progress of the tasks that write
    /// it.
    upstream: Option<Upstream>,
}

impl TaskReader {
    fn new(from: Feed, input: usize, upstream: Option<Upstream>) -> TaskReader {
        let input = u16::try_from(input).unwrap_or(u16::MAX);
        TaskReader { from, input, held: VecDeque::new(), batch: Vec::new(), upstream }
    }

    /// A partition of the topic that is the task's input number `input`. `upstream`: for a repartition topic.
    #[must_use]
    pub fn partition(mut reader: PartitionReader, input: usize, upstream: Option<Upstream>) -> TaskReader {
        reader.set_topic(input);
        TaskReader::new(Feed::Partition(Box::new(reader)), input, upstream)
    }

    /// A source that is no Kafka topic, as input number `input`.
    #[must_use]
    pub fn source(reader: Box<dyn Reader>, input: usize) -> TaskReader {
        TaskReader::new(Feed::Source(reader), input, None)
    }

    /// Appends up to `max` records that have arrived already.
    ///
    /// # Errors
    /// The source cannot be read now; the next poll may work.
    pub fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        match &mut self.from {
            Feed::Partition(reader) => match reader.poll_batch(max, out) {
                Ok(polled) => Ok(polled.records),
                // The worker gets an event of its own for this.
                Err(ReadError::Revoked) => Ok(0),
                Err(e) => Err(e.to_string()),
            },
            Feed::Source(reader) => {
                let before = out.len();
                let polled = reader.poll(max, now, out);
                out[before..].iter_mut().for_each(|record| record.origin.topic = self.input);
                polled
            }
        }
    }

    /// Like [`TaskReader::poll`], but only up to the first record that may not come in yet. It and those after it are
    /// held here, and nothing more is read until it may.
    ///
    /// # Errors
    /// As [`TaskReader::poll`].
    pub fn poll_admitted(
        &mut self,
        max: usize,
        now: Timestamp,
        mut may_come: impl FnMut(&Record) -> bool,
        out: &mut Vec<Record>,
    ) -> Result<usize, String> {
        if self.held.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            let polled = self.poll(max, now, &mut batch);
            self.held.extend(batch.drain(..));
            self.batch = batch;
            polled?;
        }
        let before = out.len();
        while let Some(record) = self.held.pop_front_if(|record| may_come(record)) {
            out.push(record);
        }
        Ok(out.len() - before)
    }

    /// Whether everything in the input has been read and nothing is held here.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.held.is_empty()
            && match &self.from {
                Feed::Partition(reader) => reader.caught_up(),
                Feed::Source(reader) => reader.caught_up(),
            }
    }

    /// The wall clock time up to which every record has been read, which is how far the clocks of the nodes below may
    /// advance with the wall clock. `None` while records are held here or left in the partition, and if it is not
    /// known.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.upstream {
            Some(upstream) if self.held.is_empty() => {
                upstream.until(self.next_offset().or(self.start_offset()).unwrap_or(0))
            }
            Some(_) => None,
            None => self.caught_up().then_some(now),
        }
    }

    /// Whether records of the task's other inputs are processed while this one has none. Not before a partition or a
    /// file is read to its end; a live source, where more may come at any time or never, never keeps others waiting.
    #[must_use]
    pub fn lets_others_go_on(&self) -> bool {
        self.held.is_empty()
            && match &self.from {
                Feed::Partition(reader) => reader.caught_up(),
                Feed::Source(reader) => reader.lets_others_go_on(),
            }
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn ended(&self) -> bool {
        match &self.from {
            Feed::Partition(_) => false,
            Feed::Source(reader) => self.held.is_empty() && reader.ended(),
        }
    }

    /// Why it ended before its end, where it did and everything that was read is through.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.from {
            Feed::Partition(_) => None,
            Feed::Source(reader) => reader.failure().filter(|_| self.ended()),
        }
    }

    /// The end of the partition, if it is caught up.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        self.next_offset().filter(|_| self.caught_up())
    }

    /// Whether the group commits its offsets.
    #[must_use]
    pub fn has_offsets(&self) -> bool {
        matches!(self.from, Feed::Partition(_))
    }

    /// The offset after the last record that the task got, if known. At the end of the partition it is also past
    /// transaction markers.
    fn next_offset(&self) -> Option<i64> {
        match &self.from {
            Feed::Partition(reader) => match self.held.front() {
                Some(record) => Some(record.origin.offset),
                None => reader.next_offset(),
            },
            Feed::Source(_) => None,
        }
    }

    /// The offset at which reading starts, where it is known.
    #[must_use]
    pub fn start_offset(&self) -> Option<i64> {
        match &self.from {
            Feed::Partition(reader) => reader.start_offset(),
            Feed::Source(_) => None,
        }
    }

    /// Tells whether this assignment of the partition is over; `None` if no other instance can have the input.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        match &self.from {
            Feed::Partition(reader) => Some(reader.lease()),
            Feed::Source(_) => None,
        }
    }

    /// Goes back to `offset`, the last committed one, unless the reader is there. An input that is no partition cannot
    /// be read again: it goes on where it is, with the records held here.
    ///
    /// # Errors
    /// The partition is not ours any more, or cannot be moved now: then nothing may be read.
    pub fn rewind(&mut self, offset: i64) -> Result<(), String> {
        if self.next_offset() == Some(offset) {
            return Ok(());
        }
        match &mut self.from {
            Feed::Partition(reader) => {
                self.held.clear();
                reader.seek(offset).map_err(|e| e.to_string())
            }
            Feed::Source(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rate;
    use crate::sources::{GenerateSource, SourceConfig};

    #[test]
    fn a_record_that_may_not_come_in_holds_back_those_behind_it_and_the_clock() {
        let source = GenerateSource { rate: Rate { per_second: 1000.0 }, keys: 9, count: Some(5) };
        let opened = SourceConfig::Generate(source).open(Timestamp(0)).expect("opens");
        let mut reader = TaskReader::source(opened.expect("a reader"), 7);
        let now = Timestamp(100);
        let mut poll = |below: i64| {
            let mut out = Vec::new();
            let n = reader.poll_admitted(4, now, |r| r.origin.offset < below, &mut out).expect("reads");
            assert_eq!(n, out.len());
            assert!(out.iter().all(|r| r.origin.topic == 7), "the number of its input: {out:?}");
            let offsets: Vec<i64> = out.iter().map(|r| r.origin.offset).collect();
            (offsets, reader.until(now).is_some(), reader.lets_others_go_on(), reader.ended())
        };
        assert_eq!(poll(2), (vec![0, 1], false, false, false));
        assert_eq!(poll(2), (vec![], false, false, false), "nothing behind it is read");
        assert_eq!(poll(9), (vec![2, 3], true, true, false), "the rest of that poll");
        assert_eq!(poll(4), (vec![], false, false, false), "all was read, and one waits");
        assert_eq!(poll(9), (vec![4], true, true, true));
    }
}
