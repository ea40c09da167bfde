//! Floor 1: clients of servers other than Kafka. What several parts of the program ask (sinks, calls, checks) has one
//! client here, and what its answers mean is decided here, once.

pub mod http;
