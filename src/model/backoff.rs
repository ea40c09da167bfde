//! The two numbers of a retry.

use super::units::Millis;

/// Retry timing that every caller shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub base: Millis,
    /// Largest delay.
    pub max: Millis,
}
