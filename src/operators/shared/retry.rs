//! When a failed call is made again. Pure: jitter comes from a hash of what is retried, so that the same run gives the
//! same trace, and two keys that fail together do not come back together.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Backoff, Millis};

/// Retries of one call: exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The first retry waits up to this; each further one up to twice as long. Default `100ms`.
    pub base: Millis,
    /// No retry waits longer than this. Default `10s`.
    pub max: Millis,
    /// Attempts in all, the first included; then the record is refused. Default: no limit.
    pub max_attempts: Option<u32>,
    /// The longest `Retry-After` that is obeyed; a longer one counts as this. Default `5m`.
    pub retry_after_max: Millis,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig {
            base: Millis(100),
            max: Millis::secs(10),
            max_attempts: None,
            retry_after_max: Millis::secs(300),
        }
    }
}

impl RetryConfig {
    /// Was `attempt` (from 1) the last one?
    #[must_use]
    pub fn is_last(&self, attempt: u32) -> bool {
        self.max_attempts.is_some_and(|max| attempt >= max)
    }

    /// The wait after attempt `attempt` (from 1) of the call for `key`; not shorter than `retry_after`.
    #[must_use]
    pub fn delay(&self, key: &[u8], attempt: u32, retry_after: Option<Millis>) -> Millis {
        let backoff = Backoff { base: self.base, max: self.max }.delay(key, attempt);
        backoff.max(retry_after.unwrap_or(Millis::ZERO).min(self.retry_after_max))
    }
}

impl Backoff {
    /// Full jitter: anything from nothing to `min(max, base * 2^(attempt-1))`, the same for the same key and attempt.
    #[must_use]
    pub fn delay(&self, key: &[u8], attempt: u32) -> Millis {
        let doublings = attempt.saturating_sub(1).min(40);
        let ceiling = self.base.0.saturating_mul(1 << doublings).min(self.max.0).max(0).cast_unsigned();
        let delay = spread(key, attempt) % ceiling.saturating_add(1);
        Millis(i64::try_from(delay).unwrap_or(i64::MAX))
    }
}

/// FNV-1a over the key and the attempt, finished as splitmix64 so that neighbours differ in every bit.
fn spread(key: &[u8], attempt: u32) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key.iter().chain(&attempt.to_be_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_lies_below_its_doubling_ceiling_and_spreads_over_it() {
        let backoff = Backoff { base: Millis(100), max: Millis(10_000) };
        for (attempt, ceiling) in [(1, 100), (2, 200), (3, 400), (7, 6_400), (8, 10_000), (u32::MAX, 10_000)]
        {
            let delays: Vec<i64> = (0..1000u32).map(|k| backoff.delay(&k.to_be_bytes(), attempt).0).collect();
            assert!(delays.iter().all(|d| (0..=ceiling).contains(d)), "attempt {attempt}");
            let mean = delays.iter().sum::<i64>() / 1000;
            assert!((ceiling * 4 / 10..=ceiling * 6 / 10).contains(&mean), "attempt {attempt}: mean {mean}");
        }
        assert_eq!(backoff.delay(b"k", 3), backoff.delay(b"k", 3), "no chance in it");
    }

    #[test]
    fn retry_after_is_a_lower_bound_up_to_its_own_limit() {
        let retry = RetryConfig::default();
        assert_eq!(retry.delay(b"k", 1, Some(Millis::secs(2))), Millis::secs(2));
        assert_eq!(retry.delay(b"k", 1, Some(Millis::secs(86_400))), Millis::secs(300));
        assert!(retry.delay(b"k", 1, None) <= Millis(100));
        assert!(!retry.is_last(1_000_000));
        assert!(RetryConfig { max_attempts: Some(3), ..retry }.is_last(3));
    }
}
