//! slackwater: a Kafka Streams-style stateful stream processor in one binary.

pub mod cli;
pub mod gateway;
pub mod kafka;
pub mod model;
pub mod operators;
pub mod runtime;
pub mod sinks;
pub mod spec;
pub mod state;
pub mod testing;
pub mod topology;
