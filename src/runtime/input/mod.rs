//! What one task reads: the partitions assigned to it, or a source that is no Kafka topic, each behind a [`TaskReader`].
//!
//! `lookahead` and `choose` put the records of several inputs in the order of their timestamps; `horizon` finds out up to
//! when a repartition topic has everything.

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
/// A record that may not come in yet holds back those behind it, of this input only: nothing more is read, and the input
/// counts as not caught up, so that no clock moves past it. What is held is one poll.
pub struct TaskReader {
    from: Feed,
    /// The input's number in the task.
    input: u16,
    held: VecDeque<Record>,
    batch: Vec<Record>,
    /// Of a repartition topic: up to when it is complete is known from the progress of the tasks that write it.
    upstream: Option<Upstream>,
}

impl TaskReader {
    fn new(from: Feed, input: usize, upstream: Option<Upstream>) -> TaskReader {
        let input = u16::try_from(input).unwrap_or(u16::MAX);
        TaskReader { from, input, held: VecDeque::new(), batch: Vec::new(), upstream }
    }

    /// A partition of the topic that is the task's input number `input`; `upstream`: of a repartition topic.
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

    /// Appends up to `max` records that are here already.
    ///
    /// # Errors
    /// The source cannot be read now; the next poll may work.
    pub fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        match &mut self.from {
            Feed::Partition(reader) => match reader.poll_batch(max, out) {
                Ok(polled) => Ok(polled.records),
                // The worker will be told.
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

    /// [`TaskReader::poll`], up to the first record that may not come in yet: it and those behind it wait here, and nothing
    /// more is read until it may.
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

    /// Has everything been read that is there, and nothing waits here?
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.held.is_empty()
            && match &self.from {
                Feed::Partition(reader) => reader.caught_up(),
                Feed::Source(reader) => reader.caught_up(),
            }
    }

    /// The wall clock time up to which every record is here: so far it moves the clocks of the nodes below. `None` while
    /// records wait here or in the partition, and where that is not known.
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

    /// While nothing of it is here, are records of the task's other inputs processed? A partition or a file first has to
    /// be read to its end; a live source, of which nobody knows when more comes, keeps none waiting.
    #[must_use]
    pub fn lets_others_go_on(&self) -> bool {
        self.held.is_empty()
            && match &self.from {
                Feed::Partition(reader) => reader.caught_up(),
                Feed::Source(reader) => reader.lets_others_go_on(),
            }
    }

    /// Has it ended for good?
    #[must_use]
    pub fn ended(&self) -> bool {
        match &self.from {
            Feed::Partition(_) => false,
            Feed::Source(reader) => self.held.is_empty() && reader.ended(),
        }
    }

    /// The end of the partition, if it was reached and nothing has come since.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        self.next_offset().filter(|_| self.caught_up())
    }

    /// Does the group commit its offsets?
    #[must_use]
    pub fn has_offsets(&self) -> bool {
        matches!(self.from, Feed::Partition(_))
    }

    /// The offset behind the last record that the task got, where it is known. At the end of the partition it is also
    /// behind marks of transactions.
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

    /// Whether this assignment of the partition is over; `None` where nobody else can have it.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        match &self.from {
            Feed::Partition(reader) => Some(reader.lease()),
            Feed::Source(_) => None,
        }
    }

    /// Goes to `offset`, the last committed one, unless it is there. What is no partition cannot be read again: it goes on
    /// where it is, with what waits here.
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
