//! How long to wait between retries: the one rule for calls, rows of sinks, checkpoints and schemas.
//!
//! Pure: jitter comes from a hash of what is retried, so that the same run gives the same trace, and two keys that fail
//! together do not come back together.

use super::units::Millis;

/// How long to wait between retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub base: Millis,
    /// Largest delay.
    pub max: Millis,
}

impl Backoff {
    /// Full jitter: anything from nothing to [`Backoff::ceiling`], the same for the same key and attempt.
    #[must_use]
    pub fn delay(&self, key: &[u8], attempt: u32) -> Millis {
        let ceiling = self.ceiling(attempt).0.cast_unsigned();
        let delay = spread(key, attempt) % ceiling.saturating_add(1);
        Millis(i64::try_from(delay).unwrap_or(i64::MAX))
    }

    /// The longest delay after attempt `attempt` (from 1): `min(max, base * 2^(attempt-1))`. It is the delay itself where
    /// nothing else retries at the same time, and jitter would be of no use.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Millis {
        let doublings = attempt.saturating_sub(1).min(40);
        Millis(self.base.0.saturating_mul(1 << doublings).min(self.max.0).max(0))
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
            assert_eq!(backoff.ceiling(attempt), Millis(ceiling));
            let delays: Vec<i64> = (0..1000u32).map(|k| backoff.delay(&k.to_be_bytes(), attempt).0).collect();
            assert!(delays.iter().all(|d| (0..=ceiling).contains(d)), "attempt {attempt}");
            let mean = delays.iter().sum::<i64>() / 1000;
            assert!((ceiling * 4 / 10..=ceiling * 6 / 10).contains(&mean), "attempt {attempt}: mean {mean}");
        }
        assert_eq!(backoff.delay(b"k", 3), backoff.delay(b"k", 3), "no chance in it");
    }
}
