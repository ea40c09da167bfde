//! When each account changes in `dev`: bursts of changes within a few seconds, then quiet, like people at a form. A few
//! accounts are busy all the time and most are rarely touched (Zipf). Pure: time is an argument, and the same seed
//! gives the same changes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The weight of account number n is n to the power of minus this.
const SKEW: f64 = 0.7;
/// Changes in one burst.
const SIZE: RangeInclusive<u32> = 2..=10;
/// Mean of `SIZE`.
const SIZE_MEAN: f64 = 6.0;
/// Between two changes of one burst, in the topology's own time.
const GAP_MS: RangeInclusive<u64> = 500..=6_000;
/// Most changes that wait for their time: a bound for a `--speed` far below 1.
const WAITING_MAX: usize = 100_000;

/// The source of changes: which account changes next, and when.
pub struct Bursts {
    rng: SmallRng,
    /// Sums of the accounts' weights, for drawing one.
    weights: Vec<f64>,
    /// Mean time between the starts of bursts, seconds.
    every: f64,
    speed: f64,
    next: Duration,
    /// Future changes: time, a running number that keeps equal times in order, account.
    due: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    drawn: u64,
}

impl Bursts {
    /// Changes of `accounts` accounts, `per_second` of them on average, with the gaps in a burst divided by `speed`.
    #[must_use]
    pub fn new(accounts: usize, per_second: f64, speed: f64, seed: u64) -> Bursts {
        let mut sum = 0.0;
        let weights = (1..=accounts.max(1))
            .map(|n| {
                sum += to_f64(n).powf(-SKEW);
                sum
            })
            .collect();
        Bursts {
            rng: SmallRng::seed_from_u64(seed),
            weights,
            every: SIZE_MEAN / per_second.max(1e-6),
            speed,
            next: Duration::ZERO,
            due: BinaryHeap::new(),
            drawn: 0,
        }
    }

    /// The accounts to change up to `now` since the start, in order; an account may be there several times.
    pub fn take(&mut self, now: Duration) -> Vec<usize> {
        while self.next <= now && self.due.len() < WAITING_MAX {
            self.start_burst();
        }
        let mut out = Vec::new();
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, _, account))) = self.due.pop() {
                out.push(account);
            }
        }
        out
    }

    fn start_burst(&mut self) {
        let total = self.weights.last().copied().unwrap_or(1.0);
        let drawn = self.rng.random::<f64>() * total;
        let account = self.weights.partition_point(|sum| *sum <= drawn).min(self.weights.len() - 1);
        let mut at = self.next;
        for _ in 0..self.rng.random_range(SIZE) {
            self.due.push(Reverse((at, self.drawn, account)));
            self.drawn += 1;
            at += Duration::from_millis(self.rng.random_range(GAP_MS)).div_f64(self.speed);
        }
        // The starts are independent, so the times between them are exponential.
        let wait = -(1.0 - self.rng.random::<f64>()).ln() * self.every;
        self.next += Duration::from_secs_f64(wait.min(3600.0));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of accounts is far below 2^52")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_of_a_few_busy_and_many_quiet_accounts_at_the_rate_asked_for() {
        let mut bursts = Bursts::new(300, 75.0, 10.0, 1);
        let mut counts = vec![0_usize; 300];
        let mut taken = 0;
        for second in 1..=600 {
            for account in bursts.take(Duration::from_secs(second)) {
                counts[account] += 1;
                taken += 1;
            }
        }
        let rate = f64::from(taken) / 600.0;
        assert!((65.0..85.0).contains(&rate), "{rate} a second");
        assert!(counts.iter().all(|n| *n > 0), "every account is touched in ten minutes");
        let busiest: usize = counts[..30].iter().sum();
        assert!(busiest * 3 > counts.iter().sum(), "a tenth of the accounts has a third of the changes");
        assert!(counts[299] * 10 < counts[0], "{} and {}", counts[299], counts[0]);
    }

    #[test]
    fn the_same_seed_gives_the_same_changes() {
        let run = |seed, step: u64| {
            let mut bursts = Bursts::new(30, 40.0, 30.0, seed);
            (1..=20_000 / step).flat_map(|n| bursts.take(Duration::from_millis(n * step))).collect::<Vec<_>>()
        };
        assert_eq!(run(1, 20), run(1, 20));
        assert_ne!(run(1, 20), run(2, 20));
        assert_eq!(run(1, 20).len(), run(1, 1000).len(), "however often it is asked");
    }
}
