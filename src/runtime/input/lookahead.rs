//! Records of a task with several input partitions that were read and not taken yet, and in which order they are taken.
//!
//! Owned by the worker's slot of the task. Holds at most one poll of each input: an input is read again only when
//! nothing of it is left here. Records that wait here are in no checkpoint: when the readers rewind, they are dropped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::choose::{Choice, Chooser, Head};
use crate::model::{Millis, Record, Timestamp};

/// How often the log reports that a task waits for an input.
const SAY: Duration = Duration::from_secs(30);

/// Records that were read ahead from the inputs of a task. Inputs are counted from 0, in the order of the task's readers.
pub struct Ahead {
    chooser: Chooser,
    /// Records by input, each with its timestamp in the task.
    inputs: Vec<VecDeque<(Timestamp, Record)>>,
    waits: Option<(usize, Instant)>,
}

impl Ahead {
    /// Nothing read yet. `idle`: how long to wait for an input that is caught up.
    #[must_use]
    pub fn new(idle: Millis) -> Ahead {
        Ahead { chooser: Chooser::new(idle), inputs: Vec::new(), waits: None }
    }

    /// Drops everything, because the readers rewind.
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.waits = None;
    }

    /// Whether everything that was read has been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inputs.iter().all(VecDeque::is_empty)
    }

    /// Whether no record of an input is left.
    #[must_use]
    pub fn wants(&self, input: usize) -> bool {
        self.inputs.get(input).is_none_or(VecDeque::is_empty)
    }

    /// Adds records read from an input, in order.
    pub fn push(&mut self, input: usize, records: impl Iterator<Item = (Timestamp, Record)>) {
        if self.inputs.len() <= input {
            self.inputs.resize_with(input + 1, VecDeque::new);
        }
        self.inputs[input].extend(records);
    }

    /// The next records, all of one input; `None` if none may be taken now. `caught_up` says for each input whether
    /// everything in its partition has been read.
    pub fn take(&mut self, caught_up: &[bool], now: Timestamp) -> Option<(usize, Vec<Record>)> {
        self.inputs.resize_with(caught_up.len(), VecDeque::new);
        let head = |(records, caught_up): (&VecDeque<(Timestamp, Record)>, &bool)| match records.front() {
            Some((ts, _)) => Head::Record(*ts),
            None if *caught_up => Head::CaughtUp,
            None => Head::Behind,
        };
        let heads: Vec<Head> = self.inputs.iter().zip(caught_up).map(head).collect();
        let (input, until) = match self.chooser.choose(&heads, now) {
            Choice::Take { input, until } => (input, until),
            Choice::WaitFor(input) => {
                let since = self.waits.filter(|(of, _)| *of == input).map(|(_, since)| since);
                self.waits = Some((input, since.unwrap_or_else(Instant::now)));
                return None;
            }
            Choice::Nothing => {
                self.waits = None;
                return None;
            }
        };
        self.waits = None;
        let records = &mut self.inputs[input];
        let stays = |(ts, _): &(Timestamp, Record)| until.is_some_and(|next| !next.is_after(*ts, input));
        let count = records.iter().position(stays).unwrap_or(records.len());
        Some((input, records.drain(..count).map(|(_, record)| record).collect()))
    }

    /// An input that the others have been waiting for so long that it should be logged; once per interval.
    pub fn stalled(&mut self) -> Option<usize> {
        let (input, since) = self.waits.filter(|(_, since)| since.elapsed() >= SAY)?;
        self.waits = Some((input, since + SAY));
        Some(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(ahead: &mut Ahead, input: usize, times: &[i64]) {
        let record = |ts: &i64| Record { ts: Timestamp(*ts), ..Record::default() };
        ahead.push(input, times.iter().map(|ts| (Timestamp(*ts), record(ts))));
    }

    fn take(ahead: &mut Ahead, caught_up: &[bool], now: i64) -> Option<(usize, Vec<i64>)> {
        let (input, records) = ahead.take(caught_up, Timestamp(now))?;
        Some((input, records.iter().map(|r| r.ts.0).collect()))
    }

    #[test]
    fn runs_come_in_the_order_of_time_and_each_partition_in_its_own() {
        let mut ahead = Ahead::new(Millis::ZERO);
        push(&mut ahead, 0, &[1, 4, 4, 9]);
        push(&mut ahead, 1, &[2, 3, 1, 4, 8]);
        let ends = [true, true];
        let mut all = Vec::new();
        while let Some(run) = take(&mut ahead, &ends, 0) {
            all.push(run);
        }
        // A record out of order in its partition waits for those before it.
        let want: [(usize, &[i64]); 5] = [(0, &[1]), (1, &[2, 3, 1]), (0, &[4, 4]), (1, &[4, 8]), (0, &[9])];
        assert_eq!(all, want.map(|(input, times)| (input, times.to_vec())));
        assert!(ahead.is_empty());
    }

    #[test]
    fn what_is_not_here_is_waited_for() {
        let mut ahead = Ahead::new(Millis(10));
        assert_eq!(take(&mut ahead, &[false, false], 0), None);
        push(&mut ahead, 1, &[7, 8]);
        assert!(ahead.wants(0) && !ahead.wants(1));
        assert_eq!(take(&mut ahead, &[false, false], 50), None, "there is more of the other");
        assert_eq!(take(&mut ahead, &[true, false], 60), None, "its end is reached: 10 ms from now");
        assert_eq!(take(&mut ahead, &[true, false], 69), None);
        push(&mut ahead, 0, &[5]);
        assert_eq!(take(&mut ahead, &[true, false], 69), Some((0, vec![5])));
        assert_eq!(take(&mut ahead, &[true, false], 70), None, "anew");
        assert_eq!(take(&mut ahead, &[true, false], 80), Some((1, vec![7, 8])));
        assert_eq!(ahead.stalled(), None);
    }

    #[test]
    fn what_was_read_is_thrown_away_when_the_readers_go_back() {
        let mut ahead = Ahead::new(Millis::ZERO);
        push(&mut ahead, 0, &[1]);
        push(&mut ahead, 1, &[2]);
        ahead.clear();
        assert!(ahead.is_empty() && ahead.wants(0) && ahead.wants(1));
        assert_eq!(take(&mut ahead, &[true, true], 0), None);
    }
}
