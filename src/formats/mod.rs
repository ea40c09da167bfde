//! Floor 1: formats. What the bytes of keys and values mean, and back: JSON, raw bytes, text, the numbers of Kafka
//! Streams' serdes, Avro and Protobuf with a Confluent-compatible schema registry.
//!
//! Inside a topology every value is JSON or bytes that nobody looks into. A source's [`Decoder`] makes JSON of what was
//! read, a sink's [`Encoder`] makes bytes of JSON. Both run in a task, so neither does I/O: the schemas they need are
//! put into [`Formats`] before, those of ids by the resolver ([`Formats::resolve`]), which the reading side asks and
//! waits for, those of sinks by [`Formats::connect_writers`] before the first record.
//!
//! Where nothing is connected (`test`, `simulate`, `dev`) formats are not live: values are JSON at both ends. A schema
//! that is in the file or beside it is used all the same: a value that it would refuse is refused.
//!
//! `avro/` is the one home of `apache_avro`, `protobuf.rs` of `prost_reflect` and `protox_parse`.

mod avro;
mod decode;
mod encode;
mod primitive;
mod protobuf;
mod registry;
mod schemas;
mod settings;
mod wire;

pub use decode::{Bad, Decoder};
pub use encode::Encoder;
pub use registry::{RegistryClient, RegistryError};
pub use schemas::{Formats, NodeFormats, Parsed, SchemaProblem, WriterError, shape_of};
pub use settings::{Format, ReaderSchema, RegistryConfig, WriterSchema};
