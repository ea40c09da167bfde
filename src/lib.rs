//! slackwater: a Kafka Streams-style stateful stream processor in one binary.

pub mod model;
pub mod operators;
pub mod spec;
pub mod state;
pub mod sinks;
