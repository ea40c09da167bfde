//! Decides when calls may start: never more than `limit` grants in **any** window of one second. Pure; the limiter
//! waits for it. The one home of `governor`.
//!
//! A token bucket alone is not enough: a full bucket plus its refill is twice the limit. So the bucket is small, and
//! its refill is the limit less the bucket. A grant is decided when its caller can go at once: callers that reserve a
//! time and sleep until then would bunch up when they wake late.
//!
//! Limits below one a second are spaced evenly. Limits from one a second on are rounded down, since a window of one
//! second holds a whole number of calls.
//!
//! A share (`scope: cluster`) is lowered at once and raised a second later: at a rebalance the instances that lose
//! partitions slow down before those that gain them speed up, so the sum over all instances stays below the limit. For
//! shares below one a second per instance this holds on average, not within each second.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// How much later a higher share applies than the lower ones of other instances.
const RAISE_AFTER: Duration = Duration::from_secs(1);
/// Longest time until the caller asks again, if there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);

/// The time that governor is given.
#[derive(Clone, Debug, Default)]
struct GivenClock(Arc<AtomicU64>);

impl GivenClock {
    fn set(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for GivenClock {
    type Instant = Nanos;
    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, GivenClock, NoOpMiddleware<Nanos>>;

/// A bucket's size and the time between its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    burst: u32,
    interval: Duration,
}

impl Plan {
    /// The plan for at most `limit` grants in any closed window of a second; `None`: no grants.
    fn new(limit: f64) -> Option<Plan> {
        if limit <= 0.0 || !limit.is_finite() {
            return None;
        }
        let whole = if limit < 1.0 { limit } else { limit.floor().min(1e6) };
        if whole < 26.0 {
            // One at a time, 1 % slower than the limit: at such low rates late timers cost less than a second token
            // would.
            return Some(Plan { burst: 1, interval: Duration::from_secs_f64(1.01 / whole) });
        }
        // 1 % in the bucket makes up for timers up to 10 ms late; 1 % stays unused, for calls that bunch between the
        // grant and the server (with 0.2 %, a server on a busy machine saw 1508 calls in a second of a limit of 1500).
        let burst = (whole / 100.0).ceil().max(2.0);
        let refill = whole - burst - (whole / 100.0).floor();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 ..= 10_000")]
        Some(Plan { burst: burst as u32, interval: Duration::from_secs_f64(1.0 / refill) })
    }
}

/// The pacer's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Granted.
    Go,
    /// Ask again at this time (since the start), or when something changed.
    Wait(Duration),
}

/// Decides on grants. Pure: time is an argument (since any fixed start) and never goes back.
pub struct Pacer {
    /// `None`: no limit, but it can be paused.
    limit: Option<f64>,
    share: f64,
    raise: Option<(Duration, f64)>,
    paused_until: Duration,
    bucket: Option<(Plan, Bucket)>,
    clock: GivenClock,
    /// The running second, its grants, and those of the second before it.
    used: (u64, u32, u32),
}

impl Pacer {
    /// A pacer for `limit` grants a second, of which it may use `share` (0 to 1). `None`: no limit.
    #[must_use]
    pub fn new(limit: Option<f64>, share: f64) -> Pacer {
        let clock = GivenClock::default();
        let mut pacer = Pacer {
            limit,
            share,
            raise: None,
            paused_until: Duration::ZERO,
            bucket: None,
            clock,
            used: (0, 0, 0),
        };
        pacer.bucket = pacer.new_bucket();
        pacer
    }

    fn new_bucket(&self) -> Option<(Plan, Bucket)> {
        let plan = Plan::new(self.limit? * self.share)?;
        let quota = Quota::with_period(plan.interval)?.allow_burst(NonZeroU32::new(plan.burst)?);
        Some((plan, Bucket::direct_with_clock(quota, self.clock.clone())))
    }

    /// Whether the next caller may go. `more`: others wait behind it, so it pays to wait for several tokens at once.
    pub fn turn(&mut self, now: Duration, more: bool) -> Turn {
        if let Some((at, share)) = self.raise
            && now >= at
        {
            self.raise = None;
            self.apply(now, share);
        }
        if now < self.paused_until {
            return Turn::Wait(self.paused_until);
        }
        if self.limit.is_some() {
            let raise_at = self.raise.map_or(now + IDLE, |(at, _)| at);
            let Some((plan, bucket)) = &self.bucket else { return Turn::Wait(raise_at) };
            self.clock.set(now);
            if let Err(not_until) = bucket.check() {
                let mut wait = not_until.wait_time_from(self.clock.now());
                if more {
                    wait += plan.interval * (plan.burst / 3).saturating_sub(1);
                }
                return Turn::Wait((now + wait).min(raise_at));
            }
        }
        self.roll(now);
        self.used.1 += 1;
        Turn::Go
    }

    /// Sets this instance's share, 0 to 1. A lower share applies at once, a higher one after a second.
    pub fn set_share(&mut self, now: Duration, share: f64) {
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        if share > self.share {
            self.raise = Some((now + RAISE_AFTER, share));
        } else {
            self.raise = None;
            if share < self.share {
                self.apply(now, share);
            }
        }
    }

    /// Grants nothing until `until`. A pause is never shortened.
    pub fn pause(&mut self, until: Duration) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Grants in the last full second, as a fraction of what this instance may use.
    pub fn used_share(&mut self, now: Duration) -> f64 {
        self.roll(now);
        match self.limit.map(|l| l * self.share) {
            Some(allowed) if allowed > 0.0 => f64::from(self.used.2) / allowed,
            _ => 0.0,
        }
    }

    /// A new, empty bucket: what was granted before still belongs to the running second.
    fn apply(&mut self, now: Duration, share: f64) {
        self.share = share;
        self.clock.set(now);
        self.bucket = self.new_bucket();
        if let Some((plan, bucket)) = &self.bucket
            && let Some(all) = NonZeroU32::new(plan.burst)
        {
            // A fresh bucket is full: take everything out.
            drop(bucket.check_n(all));
        }
    }

    fn roll(&mut self, now: Duration) {
        let second = now.as_secs();
        if second > self.used.0 {
            self.used = (second, 0, if second == self.used.0 + 1 { self.used.1 } else { 0 });
        }
    }
}

#[cfg(test)]
pub(in crate::runtime) mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Most grants in any closed window of `window`.
    pub fn busiest(grants: &[Duration], window: Duration) -> usize {
        let mut from = 0;
        let mut most = 0;
        for (i, at) in grants.iter().enumerate() {
            while *at - grants[from] > window {
                from += 1;
            }
            most = most.max(i + 1 - from);
        }
        most
    }

    /// Asks as fast as possible from `from` to `to`, with timers up to `late_ms` late (deterministic).
    fn greedy(pacer: &mut Pacer, from: Duration, to: Duration, late_ms: u64) -> Vec<Duration> {
        let (mut now, mut grants, mut n) = (from, Vec::new(), 0u64);
        while now < to {
            match pacer.turn(now, true) {
                Turn::Go => grants.push(now),
                Turn::Wait(until) => {
                    assert!(until > now, "time goes on");
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    now = until + Duration::from_micros((n >> 33) % (late_ms * 1000 + 1));
                }
            }
        }
        grants
    }

    #[test]
    fn no_window_of_a_second_holds_more_than_the_limit() {
        let minute = Duration::from_secs(60);
        for (limit, most, used_min) in [
            (1.0 / 6.0, 1, 0.90),
            (0.5, 1, 0.90),
            (1.0, 1, 0.95),
            (1.5, 1, 0.60),
            (2.0, 2, 0.95),
            (10.0, 10, 0.95),
            (25.0, 25, 0.90),
            (26.0, 26, 0.90),
            (100.0, 100, 0.95),
            (1500.0, 1500, 0.97),
            (20_000.0, 20_000, 0.97),
        ] {
            for late_ms in [0, 1, 2] {
                let mut pacer = Pacer::new(Some(limit), 1.0);
                // A pause first, so that the bucket is as full as it gets.
                let grants = greedy(&mut pacer, SECOND * 30, SECOND * 30 + minute, late_ms);
                assert!(busiest(&grants, SECOND) <= most, "{limit}/s, late {late_ms}");
                let used = grants.len() as f64 / (limit * 60.0);
                assert!((used_min..=1.02).contains(&used), "{limit}/s, late {late_ms}: {used:.3} used");
            }
        }
    }

    #[test]
    fn a_share_is_lowered_at_once_and_raised_a_second_later() {
        let mut pacer = Pacer::new(Some(1000.0), 0.5);
        let mut grants = greedy(&mut pacer, Duration::ZERO, SECOND * 2, 1);
        pacer.set_share(SECOND * 2, 0.25);
        let slow = greedy(&mut pacer, SECOND * 2, SECOND * 4, 1);
        assert!(busiest(&slow, SECOND) <= 250, "at once");
        grants.extend(slow);
        pacer.set_share(SECOND * 4, 1.0);
        let fast = greedy(&mut pacer, SECOND * 4, SECOND * 8, 1);
        let (soon, later): (Vec<Duration>, Vec<Duration>) = fast.iter().partition(|at| **at < SECOND * 5);
        assert!(soon.len() <= 250 && later.len() > 2900, "{} and {}", soon.len(), later.len());
        grants.extend(fast);
        assert!(busiest(&grants, SECOND) <= 1000);
    }

    #[test]
    fn a_raise_that_is_taken_back_never_happens_and_no_share_means_no_grants() {
        let mut pacer = Pacer::new(Some(1000.0), 0.0);
        assert_eq!(pacer.turn(SECOND, false), Turn::Wait(SECOND + IDLE));
        pacer.set_share(SECOND, 1.0);
        assert_eq!(pacer.turn(SECOND, false), Turn::Wait(SECOND * 2));
        pacer.set_share(SECOND, 0.0);
        assert_eq!(pacer.turn(SECOND * 3, false), Turn::Wait(SECOND * 3 + IDLE));
        assert!(pacer.used_share(SECOND * 3) < 1e-9);
    }

    #[test]
    fn a_pause_holds_everyone_and_is_never_shortened() {
        for limit in [Some(100.0), None] {
            let mut pacer = Pacer::new(limit, 1.0);
            assert_eq!(pacer.turn(Duration::ZERO, false), Turn::Go);
            pacer.pause(SECOND * 2);
            pacer.pause(SECOND);
            assert_eq!(pacer.turn(SECOND, false), Turn::Wait(SECOND * 2));
            assert_eq!(pacer.turn(SECOND * 2, false), Turn::Go);
        }
    }

    #[test]
    fn the_used_share_is_that_of_the_last_full_second() {
        let mut pacer = Pacer::new(Some(100.0), 1.0);
        let n = greedy(&mut pacer, Duration::ZERO, SECOND, 0).len();
        assert!((pacer.used_share(SECOND) - n as f64 / 100.0).abs() < 1e-9);
        assert!(pacer.used_share(SECOND * 3) < 1e-9);
    }
}
