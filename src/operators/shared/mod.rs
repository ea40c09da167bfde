//! What several operators share: windows, pending records, expiring rows, retries, rate limits, rows in readable form.

pub(crate) mod describe;
pub(super) mod expiry;
pub(crate) mod pending;
pub(crate) mod rate_limit;
pub(crate) mod retry;
pub(crate) mod window;

pub use rate_limit::{RateLimitConfig, RateScope};
pub use retry::RetryConfig;
pub use window::WindowConfig;
