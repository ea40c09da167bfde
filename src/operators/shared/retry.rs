//! When a failed call is made again: exponential backoff, and the `Retry-After` of the server as its lower bound.

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
    /// Whether `attempt` (from 1) was the last.
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

#[cfg(test)]
mod tests {
    use super::*;

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
