//! The circuit breaker of one called API: stops calling it while it does not work. Used by the call driver. Pure: time
//! is an argument (since any fixed start).
//!
//! Closed: calls pass. It opens after 20 failures in a row, or if at least half of the calls of the last 10 s failed
//! (20 or more). Open: no call passes for 1 s, doubled with each failed probe up to 30 s. Half open: one probe passes,
//! and its answer closes or opens the circuit. Answers to calls that began before the circuit last changed are ignored.
//! These are the limits of calls; others may be given ([`Limits`]).
//!
//! Which answers are failures is decided elsewhere; so is waiting.

use std::time::Duration;

/// Calls needed before their ratio counts.
const CALLS_MIN: u32 = 20;
/// Slots of a second in which calls are counted.
const SLOTS: usize = 10;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Failures in a row that open it.
    pub in_a_row: u32,
    /// First time it stays open.
    pub first: Duration,
    /// Longest time it stays open.
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { in_a_row: 20, first: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }
}

/// Whether a call may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may; hand the pass to [`Breaker::done`].
    Go(Pass),
    /// Not before this time.
    Wait(Duration),
    /// A probe is in flight: wait for its answer.
    Probing,
}

/// A call that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Duration, lasts: Duration },
    HalfOpen { lasts: Duration },
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    ok: u32,
    failed: u32,
}

/// The state machine.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    /// Counts changes of state: answers to calls of an earlier state are ignored.
    turn: u64,
    in_a_row: u32,
    slots: [Slot; SLOTS],
    opened: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::new(Limits::default())
    }
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(limits: Limits) -> Breaker {
        Breaker {
            limits,
            state: State::Closed,
            turn: 0,
            in_a_row: 0,
            slots: [Slot::default(); SLOTS],
            opened: 0,
        }
    }

    /// What [`Breaker::admit`] would answer, without taking the probe's place.
    #[must_use]
    pub fn look(&self, now: Duration) -> Admission {
        match self.state {
            State::Open { until, .. } if now < until => Admission::Wait(until),
            State::HalfOpen { .. } => Admission::Probing,
            State::Open { .. } | State::Closed => Admission::Go(Pass { turn: self.turn }),
        }
    }

    /// Asks to make a call now. Half open, only one call passes.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match self.look(now) {
            Admission::Go(_) => {
                if let State::Open { lasts, .. } = self.state {
                    self.turn_to(State::HalfOpen { lasts });
                }
                Admission::Go(Pass { turn: self.turn })
            }
            no => no,
        }
    }

    /// A call that passed has been answered. True if the circuit changed: those that wait should look again.
    pub fn done(&mut self, now: Duration, pass: Pass, ok: bool) -> bool {
        if pass.turn != self.turn {
            return false;
        }
        match (self.state, ok) {
            (State::HalfOpen { .. }, true) => {
                self.in_a_row = 0;
                self.slots = [Slot::default(); SLOTS];
                self.turn_to(State::Closed);
            }
            (State::HalfOpen { lasts }, false) => self.open(now, (lasts * 2).min(self.limits.longest)),
            (State::Closed, ok) => {
                self.count(now, ok);
                if ok || !self.is_bad(now) {
                    return false;
                }
                self.open(now, self.limits.first);
            }
            // No call passes while it is open.
            (State::Open { .. }, _) => return false,
        }
        true
    }

    /// Whether calls are held back.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// How often the circuit has opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, now: Duration, lasts: Duration) {
        self.opened += 1;
        self.turn_to(State::Open { until: now + lasts, lasts });
    }

    fn turn_to(&mut self, state: State) {
        self.state = state;
        self.turn += 1;
    }

    fn count(&mut self, now: Duration, ok: bool) {
        let second = now.as_secs();
        let slot = &mut self.slots[usize::try_from(second).unwrap_or(0) % SLOTS];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        if ok {
            slot.ok += 1;
            self.in_a_row = 0;
        } else {
            slot.failed += 1;
            self.in_a_row += 1;
        }
    }

    fn is_bad(&self, now: Duration) -> bool {
        let oldest = now.as_secs().saturating_sub(SLOTS as u64 - 1);
        let recent = self.slots.iter().filter(|s| s.second >= oldest);
        let (ok, failed) = recent.fold((0, 0), |(ok, failed), s| (ok + s.ok, failed + s.failed));
        self.in_a_row >= self.limits.in_a_row || (ok + failed >= CALLS_MIN && failed >= ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: `ok*3` and `no*3` are calls asked for and answered at once, `500ms` lets time pass; each `?`
    /// shows the breaker's answer: `.` go, `w` wait, `p` probing.
    fn check(script: &str, expected: &str) {
        let mut breaker = Breaker::default();
        let mut now = Duration::from_secs(100);
        let mut said = String::new();
        for word in script.split_whitespace() {
            if let Some(ms) = word.strip_suffix("ms") {
                now += Duration::from_millis(ms.parse().expect("is a number"));
            } else if word == "?" {
                said.push(match breaker.look(now) {
                    Admission::Go(_) => '.',
                    Admission::Wait(_) => 'w',
                    Admission::Probing => 'p',
                });
            } else {
                let (what, times) = word.split_once('*').unwrap_or((word, "1"));
                for _ in 0..times.parse().expect("is a number") {
                    if let Admission::Go(pass) = breaker.admit(now)
                        && what != "lost"
                    {
                        breaker.done(now, pass, what == "ok");
                    }
                }
            }
        }
        assert_eq!(said, expected, "{script}");
    }

    #[test]
    fn twenty_failures_in_a_row_open_it() {
        check("ok*100 no*19 ? no ?", ".w");
        check("ok*100 no*19 ok no*19 ?", ".");
        check("no*10 60000ms no*10 ?", "w");
    }

    #[test]
    fn half_of_the_last_ten_seconds_failing_opens_it() {
        check("no*9 ok*9 no ? ok ? no ?", "..w");
        check("no*9 9000ms ok*9 no ok no ?", "w");
        check("no*9 10000ms ok*9 no ok no ?", ".");
    }

    #[test]
    fn it_stays_open_twice_as_long_after_each_failed_probe() {
        check("no*20 999ms ? 1ms ?", "w.");
        check("no*20 1000ms no ? 1999ms ? 1ms ?", "ww.");
        check(
            "no*20 1000ms no 2000ms no 4000ms no 8000ms no 16000ms no 29999ms ? 1ms ? no 29999ms ? 1ms ?",
            "w.w.",
        );
    }

    #[test]
    fn one_probe_goes_at_a_time_and_its_success_closes_it() {
        check("no*20 1000ms lost ? 60000ms ?", "pp");
        check("no*20 1000ms ok ? no*19 ? no ?", "..w");
        check("no*20 1000ms no 2000ms ok no*20 999ms ? 1ms ?", "w.");
    }

    #[test]
    fn calls_from_before_it_turned_have_no_say() {
        let mut breaker = Breaker::default();
        let start = Duration::ZERO;
        let Admission::Go(old) = breaker.admit(start) else { panic!("closed") };
        for _ in 0..20 {
            breaker.done(start, old, false);
        }
        assert_eq!(breaker.opened(), 1);
        let later = Duration::from_secs(1);
        let Admission::Go(probe) = breaker.admit(later) else { panic!("half open") };
        assert!(!breaker.done(later, old, false) && !breaker.done(later, old, true));
        assert_eq!(breaker.look(later), Admission::Probing);
        assert!(breaker.done(later, probe, true) && !breaker.is_open());
    }
}
