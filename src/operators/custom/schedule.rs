//! When punctuations are called: the rules of Kafka Streams' `PunctuationQueue`, with a schedule that is kept in state.
//!
//! By stream time: first with the first record, then whenever stream time reaches the next multiple of the interval. By
//! the wall clock: first one interval after the node began, then aligned to that. A gap of several intervals is one
//! call. Unlike in Kafka Streams a restart does not begin anew: the next time is a row of the node's store, part of the
//! same checkpoint.

use bytes::Bytes;

use crate::model::{Millis, Timestamp};
use crate::state::StateError;

/// The clock of a punctuator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The node's clock: event time, and with `time: { clock: hybrid }` the wall clock while the source is caught up.
    Stream,
    /// The wall clock, whether or not records come. In `simulate` and `test` it is virtual.
    Wall,
}

/// A periodic call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punctuator {
    /// Its name: unique in the node, and the identity of the schedule.
    pub name: &'static str,
    /// The interval; at least a millisecond.
    pub every: Millis,
    /// The clock that it goes by.
    pub clock: Clock,
}

impl Punctuator {
    /// By stream time.
    #[must_use]
    pub fn stream(name: &'static str, every: Millis) -> Punctuator {
        Punctuator { name, every, clock: Clock::Stream }
    }

    /// By the wall clock.
    #[must_use]
    pub fn wall(name: &'static str, every: Millis) -> Punctuator {
        Punctuator { name, every, clock: Clock::Wall }
    }

    /// When it is called first, on a node whose clocks are at these times.
    pub(super) fn first(&self, stream: Timestamp, wall: Timestamp) -> Timestamp {
        match self.clock {
            // A new punctuator on a node that has run before: the next multiple, as if it had always been there.
            Clock::Stream if stream >= Timestamp(0) => self.next(Timestamp(0), stream),
            Clock::Stream => Timestamp(0),
            Clock::Wall => Timestamp(wall.0.saturating_add(self.interval())),
        }
    }

    /// The time after `due`, if it was called at `now`: the first aligned time later than `now`.
    pub(super) fn next(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        let every = self.interval();
        let missed = now.0.saturating_sub(due.0).max(0) / every;
        Timestamp(due.0.saturating_add(every.saturating_mul(missed.saturating_add(1))))
    }

    fn interval(&self) -> i64 {
        self.every.0.max(1)
    }

    /// Its row: the time at which it is due next.
    pub(super) fn row(&self, next: Timestamp) -> Bytes {
        let mut row = Vec::with_capacity(18);
        row.push(VERSION);
        row.push(self.clock as u8);
        row.extend_from_slice(&self.every.0.to_be_bytes());
        row.extend_from_slice(&next.0.to_be_bytes());
        Bytes::from(row)
    }

    /// The time in its row; `None` if the row is of another interval or clock.
    pub(super) fn due(&self, row: &[u8]) -> Result<Option<Timestamp>, StateError> {
        let bad = || StateError(format!("the schedule of the punctuator `{}` cannot be read", self.name));
        let (head, next) = row.split_last_chunk::<8>().ok_or_else(bad)?;
        let (head, every) = head.split_last_chunk::<8>().ok_or_else(bad)?;
        match head {
            [VERSION, clock] => {
                let same = *clock == self.clock as u8 && i64::from_be_bytes(*every) == self.every.0;
                Ok(same.then(|| Timestamp(i64::from_be_bytes(*next))))
            }
            _ => Err(bad()),
        }
    }
}

/// Format of a row.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock's readings, and the calls that follow.
    fn check(clock: Clock, start: (i64, i64), looks: &[i64], want: &[i64]) {
        let punctuator = Punctuator { name: "p", every: Millis(10), clock };
        let mut due = punctuator.first(Timestamp(start.0), Timestamp(start.1));
        let mut calls = Vec::new();
        for at in looks {
            let now = Timestamp(*at);
            if due <= now {
                calls.push(*at);
                due = punctuator.next(due, now);
                assert!(due > now, "once a look");
            }
        }
        assert_eq!(calls, want, "{clock:?} {looks:?}");
    }

    #[test]
    fn stream_time_is_called_at_the_first_record_and_then_at_multiples() {
        check(Clock::Stream, (i64::MIN, 0), &[0, 9, 10, 19, 20], &[0, 10, 20]);
        check(Clock::Stream, (i64::MIN, 0), &[7, 9, 10, 11, 20], &[7, 10, 20]);
        check(Clock::Stream, (i64::MIN, 0), &[7, 55, 59, 60], &[7, 55, 60]);
        check(Clock::Stream, (25, 0), &[25, 29, 30], &[30]);
        check(Clock::Stream, (30, 0), &[30, 39, 40], &[40]);
    }

    #[test]
    fn the_wall_clock_is_called_after_an_interval_and_stays_aligned() {
        check(Clock::Wall, (0, 3), &[3, 12, 13, 22, 23], &[13, 23]);
        check(Clock::Wall, (0, 3), &[14, 22, 23], &[14, 23]);
        check(Clock::Wall, (0, 3), &[50, 52, 53], &[50, 53]);
    }

    #[test]
    fn a_row_is_read_by_the_same_punctuator_only() {
        let punctuator = Punctuator::stream("p", Millis(10));
        let row = punctuator.row(Timestamp(40));
        assert_eq!(row[..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 40], "format 1");
        assert_eq!(punctuator.due(&row).expect("reads"), Some(Timestamp(40)));
        assert_eq!(Punctuator::stream("p", Millis(11)).due(&row).expect("reads"), None);
        assert_eq!(Punctuator::wall("p", Millis(10)).due(&row).expect("reads"), None);
        for bad in [&row[..17], &[&[1], &row[..]].concat(), &[&[2], &row[1..]].concat()] {
            assert!(punctuator.due(bad).is_err(), "{bad:?}");
        }
    }
}
