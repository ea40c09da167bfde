//! Floor 1: formats. What the bytes of keys and values mean, and back: JSON, raw bytes, text, the numbers of Kafka
//! Streams' serdes, Avro and Protobuf with a Confluent-compatible schema registry.
//!
//! Inside a topology every value is JSON, or bytes that are passed on untouched. A source's [`Decoder`] makes JSON of
//! what it read, and a sink's [`Encoder`] makes bytes of JSON. Both run inside a task, so neither does I/O. What a
//! topology says of schemas is its [`NamedSchemas`]. The engine makes [`Formats`] of them, and what tasks need is
//! put in there beforehand: a sink's by [`Formats::connect_writers`], before the first
//! record; those that a record names by id by the resolver ([`Formats::resolve`]), while the reading side holds the
//! record back.
//!
//! Where nothing is connected (`test`, `simulate`, `dev`) formats are not live: values are JSON at both ends. A schema
//! in the topology file or beside it is still used for checking: a value that does not fit it is refused.
//!
//! `avro/` is the one home of `apache_avro`, `protobuf.rs` of `prost_reflect` and `protox_parse`.

mod avro;
mod decode;
mod encode;
mod key;
mod named;
mod primitive;
mod protobuf;
mod registry;
mod schemas;
mod settings;
mod wire;

pub use decode::{Bad, Decoder};
pub use encode::Encoder;
pub use key::json_key;
pub use named::{NamedSchemas, Parsed, SchemaProblem, shape_of};
pub use registry::{RegistryClient, RegistryError};
pub use schemas::{Formats, NodeFormats, WriterError};
pub use settings::{Format, ReaderSchema, RegistryConfig, WriterSchema};
