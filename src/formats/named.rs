//! The schemas that a topology names, as its files have them: the reader schemas of its sources, and what its sinks write
//! with. A plain part of the topology; what a registry says of them is `schemas.rs`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::avro::AvroSchema;
use super::protobuf::{MessageDescriptor, ProtoSchema};
use super::settings::{Format, ReaderSchema, RegistryConfig, WriterSchema};
use crate::model::Shape;

/// A schema, ready for use.
pub enum Parsed {
    /// Avro.
    Avro(Box<AvroSchema>),
    /// Protobuf.
    Protobuf(ProtoSchema),
}

impl Parsed {
    /// Parses a schema of a kind, which is named as the registry names it.
    ///
    /// # Errors
    /// The text is not such a schema, or the kind is not supported.
    pub(super) fn parse(kind: &str, text: &str, references: &[(String, String)]) -> Result<Parsed, String> {
        match kind {
            "AVRO" => AvroSchema::parse(text, references).map(|schema| Parsed::Avro(Box::new(schema))),
            "PROTOBUF" => ProtoSchema::parse(text, references).map(Parsed::Protobuf),
            other => Err(format!("it is a schema of type {other}; `avro` and `protobuf` can be read")),
        }
    }
}

/// A schema that a sink writes with.
pub(super) struct Writer {
    pub schema: Arc<Parsed>,
    /// For Protobuf: the message and its index path.
    pub message: Option<(MessageDescriptor, Vec<usize>)>,
}

impl Writer {
    pub(super) fn new(schema: Arc<Parsed>, message: Option<&str>) -> Result<Writer, String> {
        let message = match &*schema {
            Parsed::Protobuf(proto) => Some(proto.message_named(message)?),
            Parsed::Avro(_) => None,
        };
        Ok(Writer { schema, message })
    }
}

/// What a sink writes its keys or its values with.
pub(super) struct SinkSchema {
    pub format: Format,
    pub subject: String,
    pub settings: WriterSchema,
    pub text: Option<String>,
    /// The schema from the topology file, available before anything is connected.
    pub local: Option<Writer>,
}

/// The schemas of one node.
#[derive(Clone, Default)]
pub(super) struct NodeSchemas {
    pub key: Option<Arc<SinkSchema>>,
    pub value: Option<Arc<SinkSchema>>,
    pub reader: Option<Arc<Parsed>>,
}

/// All schemas that a topology names, and the registry that it asks for others.
#[derive(Clone, Default)]
pub struct NamedSchemas {
    pub(super) registry: Option<RegistryConfig>,
    pub(super) nodes: BTreeMap<String, NodeSchemas>,
}

impl std::fmt::Debug for NamedSchemas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedSchemas").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl NamedSchemas {
    /// None yet, of a topology with this registry.
    #[must_use]
    pub fn new(registry: Option<RegistryConfig>) -> NamedSchemas {
        NamedSchemas { registry, nodes: BTreeMap::new() }
    }

    /// Adds a source's reader schema.
    ///
    /// # Errors
    /// The file cannot be read, or is no schema.
    pub fn add_reader(
        &mut self,
        node: &str,
        format: Format,
        settings: &ReaderSchema,
    ) -> Result<(), SchemaProblem> {
        let field = "reader_schema";
        if format != Format::Avro {
            return Err(SchemaProblem {
                field: field.into(),
                message: format!("a reader's schema is for `format: avro`, not `{}`", format.name()),
                help: "remove it: messages are read with the schema that they were written with".into(),
            });
        }
        let (text, at) = text_of(field, settings.file.as_deref(), settings.inline.as_deref())?;
        let Some(text) = text else {
            return Err(SchemaProblem {
                field: at,
                message: "the schema is missing".into(),
                help: "write `reader_schema: { file: order.avsc }`".into(),
            });
        };
        let schema = AvroSchema::parse(&text, &[]).map_err(|e| no_schema(&at, "Avro", &e))?;
        self.nodes.entry(node.to_owned()).or_default().reader =
            Some(Arc::new(Parsed::Avro(Box::new(schema))));
        Ok(())
    }

    /// Adds the schema of a sink's key or value.
    ///
    /// # Errors
    /// The file cannot be read, or is no schema.
    pub fn add_writer(
        &mut self,
        node: &str,
        topic: &str,
        is_key: bool,
        format: Format,
        settings: &WriterSchema,
    ) -> Result<(), SchemaProblem> {
        let field = if is_key { "key_writer_schema" } else { "writer_schema" };
        let (text, at) = text_of(field, settings.file.as_deref(), settings.inline.as_deref())?;
        if settings.message.is_some() && format != Format::Protobuf {
            return Err(SchemaProblem {
                field: format!("{field}.message"),
                message: format!("only a Protobuf schema has messages, and this is {}", label(format)),
                help: "remove it".into(),
            });
        }
        if settings.auto_register && text.is_none() {
            return Err(SchemaProblem {
                field: format!("{field}.auto_register"),
                message: "there is no schema to register".into(),
                help: "add `file` or `inline`, or remove it: then the subject's latest schema is taken"
                    .into(),
            });
        }
        let local = match &text {
            Some(text) => {
                let parsed = Parsed::parse(kind_of(format), text, &[]);
                let parsed = parsed.map_err(|e| no_schema(&at, label(format), &e))?;
                let writer = Writer::new(Arc::new(parsed), settings.message.as_deref());
                Some(writer.map_err(|e| SchemaProblem {
                    field: format!("{field}.message"),
                    message: e,
                    help: "name one of its messages".into(),
                })?)
            }
            None => None,
        };
        let subject = settings
            .subject
            .clone()
            .unwrap_or_else(|| format!("{topic}-{}", if is_key { "key" } else { "value" }));
        let settings = settings.clone();
        let schema = Arc::new(SinkSchema { format, subject, settings, text, local });
        let node = self.nodes.entry(node.to_owned()).or_default();
        *(if is_key { &mut node.key } else { &mut node.value }) = Some(schema);
        Ok(())
    }
}

/// Something wrong with a schema that a topology names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaProblem {
    /// Field below the node's kind: `writer_schema.file`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// What the values look like that are read with this schema; `None` if it cannot be read, which is reported elsewhere.
#[must_use]
pub fn shape_of(settings: &ReaderSchema) -> Option<Shape> {
    let (text, _) = text_of("", settings.file.as_deref(), settings.inline.as_deref()).ok()?;
    AvroSchema::parse(&text?, &[]).ok().map(|schema| schema.shape())
}

pub(super) fn kind_of(format: Format) -> &'static str {
    if format == Format::Protobuf { "PROTOBUF" } else { "AVRO" }
}

fn label(format: Format) -> &'static str {
    if format == Format::Protobuf { "Protobuf" } else { "Avro" }
}

fn no_schema(field: &str, kind: &str, error: &str) -> SchemaProblem {
    SchemaProblem {
        field: field.into(),
        message: format!("this is no {kind} schema: {error}"),
        help: if kind == "Avro" {
            "an Avro schema is JSON: `{\"type\": \"record\", \"name\": \"Order\", \"fields\": [...]}`".into()
        } else {
            "it is a `.proto` file; of other files it may import Google's own only (`google/protobuf/...`)"
                .into()
        },
    }
}

/// The text of a schema, and the field it came from.
fn text_of(
    field: &str,
    file: Option<&std::path::Path>,
    inline: Option<&str>,
) -> Result<(Option<String>, String), SchemaProblem> {
    match (file, inline) {
        (Some(_), Some(_)) => Err(SchemaProblem {
            field: format!("{field}.inline"),
            message: "both `file` and `inline` are set".into(),
            help: "keep one of them".into(),
        }),
        (Some(path), None) => {
            let field = format!("{field}.file");
            let text = std::fs::read_to_string(path).map_err(|e| SchemaProblem {
                field: field.clone(),
                message: format!("cannot read the schema {}: {e}", path.display()),
                help: "the path is relative to the topology file".into(),
            })?;
            Ok((Some(text), field))
        }
        (None, Some(text)) => Ok((Some(text.to_owned()), format!("{field}.inline"))),
        (None, None) => Ok((None, field.to_owned())),
    }
}
