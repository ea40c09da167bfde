//! What several operators have in common: windows, pending records, retries, rate limits, rows for people.

pub mod describe;
pub mod pending;
pub mod rate_limit;
pub mod retry;
pub mod window;

pub use rate_limit::{RateLimitConfig, RateScope};
pub use window::WindowConfig;
