//! Everything that needs a server: a real Apache Kafka, the Spanner emulator, a schema registry. `./test` starts them and sets
//! their addresses; nothing is skipped without them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../common/mod.rs"]
mod common;

mod account_sync;
mod aml;
mod blog;
mod chaos;
mod clocks;
mod connections;
mod create_user;
mod dlq;
mod endpoints;
mod failpoints;
mod formats_registry;
mod gate;
mod guarantees;
mod http_sink;
mod kafka;
mod layout;
mod opensearch;
mod operating;
mod operators_live;
mod ordering;
mod own_kinds;
mod postgres;
mod reads;
mod redis;
mod repartition;
mod replies;
mod secrets;
mod several;
mod smtp;
mod spanner;
mod stuck;
mod tables;
