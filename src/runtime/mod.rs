//! Floor 4: the runtime. Drivers perform what tasks decide.

pub mod breaker;
pub mod calls;
pub mod http;
pub mod limiter;
pub mod pacer;
