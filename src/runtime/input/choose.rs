//! Which input of a task is read next: the rules of KIP-353 and KIP-695, pure.
//!
//! A task with several inputs (a join, a merge, a source of several topics) takes the record with the lowest timestamp
//! among the first records of its inputs; if two are equal, that of the input named first. If an input has no record
//! here, a lower timestamp may still come, so the task waits:
//!
//! - as long as the input is not caught up, so that more records are known or expected to be there;
//! - once it is caught up, for `idle` at most, since more might be in flight;
//! - then it goes on without the input, and does not wait for it again before a record of it was taken.
//!
//! Called by the worker for all that a task reads. Standard input and generated records always count as caught up,
//! because when more of them come cannot be known.

use crate::model::{Millis, Timestamp};

/// What is known of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A record is here, with this timestamp.
    Record(Timestamp),
    /// No record is here, and the input is not known to be caught up.
    Behind,
    /// No record is here, and the input is caught up.
    CaughtUp,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Take from this input, as long as its records come before `until`.
    Take {
        /// The input.
        input: usize,
        /// The first record of the other inputs that comes next; `None` if there is none.
        until: Option<Next>,
    },
    /// Take nothing yet: wait for this input.
    WaitFor(usize),
    /// No input has a record.
    Nothing,
}

/// The first record of another input, up to which this one may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Next {
    ts: Timestamp,
    input: usize,
}

impl Next {
    /// Whether this record comes before one of `input` with that timestamp.
    #[must_use]
    pub fn is_after(self, ts: Timestamp, input: usize) -> bool {
        (ts, input) < (self.ts, self.input)
    }
}

/// Chooses among the inputs of one task.
#[derive(Debug)]
pub struct Chooser {
    idle: Millis,
    /// Until when the task waits for an input that is caught up.
    deadlines: Vec<Option<Timestamp>>,
}

impl Chooser {
    /// A chooser that waits for `idle` for an input that is caught up.
    #[must_use]
    pub fn new(idle: Millis) -> Chooser {
        Chooser { idle, deadlines: Vec::new() }
    }

    /// The next step. `now` is the wall clock.
    pub fn choose(&mut self, heads: &[Head], now: Timestamp) -> Choice {
        self.deadlines.resize(heads.len(), None);
        let mut wait = None;
        let mut all = Vec::with_capacity(heads.len());
        for (input, (head, deadline)) in heads.iter().zip(&mut self.deadlines).enumerate() {
            let waits = match head {
                Head::Record(ts) => {
                    all.push(Next { ts: *ts, input });
                    *deadline = None;
                    false
                }
                Head::Behind => {
                    *deadline = None;
                    true
                }
                Head::CaughtUp => now < *deadline.get_or_insert(now.plus(self.idle)),
            };
            if waits {
                wait.get_or_insert(input);
            }
        }
        all.sort_unstable();
        match (all.as_slice(), wait) {
            ([], _) => Choice::Nothing,
            (_, Some(input)) => Choice::WaitFor(input),
            ([first, rest @ ..], None) => Choice::Take { input: first.input, until: rest.first().copied() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads as text: a timestamp, `?` for behind, `-` for caught up.
    fn heads(text: &str) -> Vec<Head> {
        let head = |word: &str| match word {
            "?" => Head::Behind,
            "-" => Head::CaughtUp,
            ts => Head::Record(Timestamp(ts.parse().expect("a number"))),
        };
        text.split(' ').map(head).collect()
    }

    /// The heads at several times, one after another, and the choices: `2<7@1` take input 2 up to timestamp 7 of input
    /// 1, `2` take input 2 without an end, `w1` wait for input 1, `.` nothing.
    fn check(idle: i64, looks: &[(i64, &str, &str)]) {
        let mut chooser = Chooser::new(Millis(idle));
        for (n, (now, text, want)) in looks.iter().enumerate() {
            let got = match chooser.choose(&heads(text), Timestamp(*now)) {
                Choice::Take { input, until: None } => input.to_string(),
                Choice::Take { input, until: Some(Next { ts, input: other }) } => {
                    format!("{input}<{}@{other}", ts.0)
                }
                Choice::WaitFor(input) => format!("w{input}"),
                Choice::Nothing => ".".into(),
            };
            assert_eq!(got, *want, "look {n} of {looks:?}, idle {idle}");
        }
    }

    #[test]
    fn the_lowest_timestamp_goes_first_and_of_equal_ones_the_first_input() {
        check(0, &[(0, "5 3", "1<5@0"), (0, "3 5", "0<5@1"), (0, "4 4", "0<4@1")]);
        check(0, &[(0, "5 3 4", "1<4@2"), (0, "5 9 5", "0<5@2"), (0, "-1 0", "0<0@1")]);
    }

    #[test]
    fn records_are_taken_up_to_the_next_head() {
        let next = Next { ts: Timestamp(5), input: 1 };
        assert!(next.is_after(Timestamp(5), 0), "equal, and named first");
        assert!(!next.is_after(Timestamp(5), 2));
        assert!(next.is_after(Timestamp(4), 2));
        assert!(!next.is_after(Timestamp(6), 0));
    }

    #[test]
    fn an_input_that_is_behind_is_waited_for_however_long() {
        check(0, &[(0, "5 ?", "w1"), (1_000_000, "5 ?", "w1"), (1_000_000, "5 3", "1<5@0")]);
        check(9, &[(0, "? 5", "w0"), (9, "? 5", "w0"), (10, "? 5", "w0")]);
        check(0, &[(0, "? ?", "."), (0, "? -", "."), (0, "- -", ".")]);
    }

    #[test]
    fn without_idle_an_input_at_its_end_is_not_waited_for() {
        check(0, &[(0, "5 -", "0"), (0, "- 5", "1"), (0, "7 - 5", "2<7@0"), (0, "5 - ?", "w2")]);
    }

    #[test]
    fn with_idle_it_is_waited_for_so_long_and_no_longer() {
        check(10, &[(100, "5 -", "w1"), (109, "5 -", "w1"), (110, "5 -", "0"), (111, "6 -", "0")]);
        // The time counts from when the input was first seen to be empty, whether or not others had records.
        check(10, &[(100, "- -", "."), (110, "5 -", "0")]);
        // A record of it, or more to come, starts the time anew.
        check(
            10,
            &[
                (100, "5 -", "w1"),
                (105, "5 4", "1<5@0"),
                (106, "5 -", "w1"),
                (115, "5 -", "w1"),
                (116, "5 -", "0"),
            ],
        );
        check(10, &[(100, "5 -", "w1"), (110, "5 ?", "w1"), (111, "5 -", "w1"), (121, "5 -", "0")]);
        check(10, &[(100, "5 -", "w1"), (110, "5 -", "0"), (111, "5 6", "0<6@1"), (112, "7 -", "w1")]);
        // Each input has its own time.
        check(10, &[(100, "5 - 9", "w1"), (104, "5 - -", "w1"), (110, "5 - -", "w2"), (114, "5 - -", "0")]);
    }
}
