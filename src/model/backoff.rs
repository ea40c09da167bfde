//! The two settings of a retry's delay.

use super::units::Millis;

/// How long to wait between retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub base: Millis,
    /// Largest delay.
    pub max: Millis,
}
