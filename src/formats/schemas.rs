//! The schemas that a topology uses: those that records name by id (which are kept, since an id never changes its
//! schema), those of its sinks, and the reader schemas of its sources.
//!
//! Tasks look schemas up without waiting ([`Formats::known`]). When the reading side meets an unknown id, it asks for
//! it ([`Formats::want`]) and holds its records back until the resolver has looked it up ([`Formats::resolve`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::avro::AvroSchema;
use super::protobuf::{MessageDescriptor, ProtoSchema};
use super::registry::{Registered, RegistryClient, RegistryError};
use super::settings::{Format, ReaderSchema, RegistryConfig, WriterSchema};
use crate::model::{Backoff, Millis, Shape};

/// After this time an id that the registry did not know is asked for again.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait after a request that failed, before the next.
const BACKOFF: Backoff = Backoff { base: Millis(100), max: Millis(3_200) };

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
    fn parse(kind: &str, text: &str, references: &[(String, String)]) -> Result<Parsed, String> {
        match kind {
            "AVRO" => AvroSchema::parse(text, references).map(|schema| Parsed::Avro(Box::new(schema))),
            "PROTOBUF" => ProtoSchema::parse(text, references).map(Parsed::Protobuf),
            other => Err(format!("it is a schema of type {other}; `avro` and `protobuf` can be read")),
        }
    }
}

/// What is known of a schema id.
#[derive(Clone)]
pub(super) enum Found {
    /// Its schema.
    Schema(Arc<Parsed>),
    /// There is no usable schema, and why.
    None(Arc<str>),
}

#[derive(Clone)]
struct Entry {
    found: Found,
    /// Until when an unknown id is not asked for again; the registry may learn it later.
    until: Option<Instant>,
}

/// A schema that a sink writes with.
pub(super) struct Writer {
    pub schema: Arc<Parsed>,
    /// For Protobuf: the message and its index path.
    pub message: Option<(MessageDescriptor, Vec<usize>)>,
}

impl Writer {
    fn new(schema: Arc<Parsed>, message: Option<&str>) -> Result<Writer, String> {
        let message = match &*schema {
            Parsed::Protobuf(proto) => Some(proto.message_named(message)?),
            Parsed::Avro(_) => None,
        };
        Ok(Writer { schema, message })
    }
}

/// The format of one sink's key or value.
pub(super) struct Slot {
    format: Format,
    subject: String,
    settings: WriterSchema,
    text: Option<String>,
    /// The schema from the topology file, available before anything is connected.
    pub local: Option<Writer>,
    /// The schema with the registry's id, once connected.
    pub live: OnceLock<(u32, Writer)>,
}

/// The formats of one node's key and value.
#[derive(Clone, Default)]
pub struct NodeFormats {
    pub(super) key: Option<Arc<Slot>>,
    pub(super) value: Option<Arc<Slot>>,
    pub(super) reader: Option<Arc<Parsed>>,
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

/// Why a sink has no schema yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterError {
    /// Asking again may help.
    Away(String),
    /// The topology or the registry must be changed first.
    Config {
        /// The sink.
        node: String,
        /// Its field.
        field: String,
        /// What is wrong.
        message: String,
    },
}

/// All schemas of a topology.
#[derive(Default)]
pub struct Formats {
    registry: Option<RegistryConfig>,
    /// Whether bytes are really in their formats. Set before the first record is read, and never reset.
    live: AtomicBool,
    nodes: BTreeMap<String, NodeFormats>,
    /// Read by the workers, written by the resolver; locked for moments.
    known: RwLock<HashMap<u32, Entry>>,
    /// Workers add ids, the resolver takes them; locked for moments.
    wanted: Mutex<VecDeque<u32>>,
    woken: tokio::sync::Notify,
    /// Requests to the registry by result, for metrics.
    answered: AtomicU64,
    unknown: AtomicU64,
    failed: AtomicU64,
}

impl std::fmt::Debug for Formats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Formats").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Formats {
    /// The formats of a topology with this registry.
    #[must_use]
    pub fn new(registry: Option<RegistryConfig>) -> Formats {
        Formats { registry, ..Formats::default() }
    }

    /// The registry's settings.
    #[must_use]
    pub fn registry(&self) -> Option<&RegistryConfig> {
        self.registry.as_ref()
    }

    /// Says that from now on bytes are in their formats.
    pub fn go_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    /// Whether [`Formats::go_live`] was called.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// What is known of a node's formats.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeFormats {
        self.nodes.get(name).cloned().unwrap_or_default()
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
        let slot = Arc::new(Slot { format, subject, settings, text, local, live: OnceLock::new() });
        let node = self.nodes.entry(node.to_owned()).or_default();
        *(if is_key { &mut node.key } else { &mut node.value }) = Some(slot);
        Ok(())
    }

    /// Finds the registry's id for every sink schema that has none yet.
    ///
    /// # Errors
    /// The first schema whose id cannot be found or registered.
    pub async fn connect_writers(&self) -> Result<(), WriterError> {
        let Some(config) = &self.registry else { return Ok(()) };
        let client = RegistryClient::new(config).map_err(WriterError::Away)?;
        for (node, formats) in &self.nodes {
            let slots = [("writer_schema", &formats.value), ("key_writer_schema", &formats.key)];
            for (field, slot) in slots {
                let Some(slot) = slot.as_ref().filter(|slot| slot.live.get().is_none()) else { continue };
                let register = slot.settings.auto_register;
                let live = connect(&client, slot, register).await;
                let live = live.map_err(|e| writer_error(node, field, slot, e))?;
                // Nothing else sets it, and sinks are handled one after the other.
                slot.live.set(live).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Makes every request to the registry that the start of the topology will make, without changing anything.
    ///
    /// # Errors
    /// Everything that would be wrong at the start. If the registry does not answer, that one error stands for all.
    pub async fn check(&self) -> Result<(), Vec<WriterError>> {
        let Some(config) = &self.registry else { return Ok(()) };
        let client = RegistryClient::new(config).map_err(|e| vec![WriterError::Away(e)])?;
        client.ping().await.map_err(|e| vec![WriterError::Away(e.to_string())])?;
        let mut wrong = Vec::new();
        for (node, formats) in &self.nodes {
            let slots = [("writer_schema", &formats.value), ("key_writer_schema", &formats.key)];
            for (field, slot) in slots {
                let Some(slot) = slot else { continue };
                match connect(&client, slot, false).await {
                    Ok(_) => {}
                    // It will be registered at the start.
                    Err(RegistryError::Unknown(_)) if slot.settings.auto_register => {}
                    Err(e) => wrong.push(writer_error(node, field, slot, e)),
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// What is known of an id, for tasks.
    pub(super) fn known(&self, id: u32) -> Option<Found> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).map(|entry| entry.found.clone())
    }

    /// Whether everything is known that is needed to decode these bytes. If not, it is asked for.
    #[must_use]
    pub fn is_ready(&self, format: Format, bytes: &[u8]) -> bool {
        if !format.has_schema() || !self.is_live() {
            return true;
        }
        // Bytes without a schema id are refused by the task.
        super::wire::split(bytes).map_or(true, |(id, _)| self.want(id))
    }

    /// Whether the id is known. If not, the resolver is told, once.
    fn want(&self, id: u32) -> bool {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.get(&id).is_some_and(|entry| entry.until.is_none_or(|at| at > Instant::now())) {
                return true;
            }
        }
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !wanted.contains(&id) {
            wanted.push_back(id);
            self.woken.notify_one();
        }
        false
    }

    /// Looks up the ids that are wanted, for ever; to end it, drop the future. `waiting` is told what is wrong while
    /// the registry is away, and `None` when it answers again.
    pub async fn resolve(&self, waiting: impl Fn(Option<&str>)) {
        let Some(config) = &self.registry else { return };
        let client = loop {
            match RegistryClient::new(config) {
                Ok(client) => break client,
                Err(e) => {
                    waiting(Some(&format!("schema registry: {e}")));
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        };
        let mut failures: u32 = 0;
        loop {
            let next = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).front().copied();
            let Some(id) = next else {
                self.woken.notified().await;
                continue;
            };
            let found = match client.by_id(id).await {
                Ok(schema) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    parsed(id, &schema)
                }
                Err(RegistryError::Unknown(message)) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    let message = format!("the schema registry does not know the schema id {id} ({message})");
                    Entry { found: Found::None(message.into()), until: Some(Instant::now() + UNKNOWN_AGAIN) }
                }
                // A refusal may be a wrong password. It says nothing about the record, so the record waits.
                Err(
                    RegistryError::Away(message)
                    | RegistryError::Refused(message)
                    | RegistryError::Conflict(message),
                ) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    waiting(Some(&format!("schema registry, for the schema id {id}: {message}")));
                    failures = failures.saturating_add(1);
                    let pause = BACKOFF.ceiling(failures).duration();
                    // Take another id next: the problem may be with this one only.
                    self.wanted.lock().unwrap_or_else(PoisonError::into_inner).rotate_left(1);
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            if failures > 0 {
                failures = 0;
                waiting(None);
            }
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, found);
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).retain(|wanted| *wanted != id);
        }
    }

    /// Requests to the registry: answered, unknown id, failed.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        [("found", read(&self.answered)), ("unknown", read(&self.unknown)), ("failed", read(&self.failed))]
    }

    /// How many ids are being looked up.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stores a schema under an id without asking the registry, for tests.
    #[cfg(test)]
    pub(super) fn put(&self, id: u32, kind: &str, text: &str) {
        let schema = Registered { id: None, kind: kind.into(), text: text.into(), references: Vec::new() };
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, parsed(id, &schema));
    }
}

/// What the values look like that are read with this schema; `None` if it cannot be read, which is reported elsewhere.
#[must_use]
pub fn shape_of(settings: &ReaderSchema) -> Option<Shape> {
    let (text, _) = text_of("", settings.file.as_deref(), settings.inline.as_deref()).ok()?;
    AvroSchema::parse(&text?, &[]).ok().map(|schema| schema.shape())
}

fn parsed(id: u32, schema: &Registered) -> Entry {
    let found = match Parsed::parse(&schema.kind, &schema.text, &schema.references) {
        Ok(parsed) => Found::Schema(Arc::new(parsed)),
        Err(e) => Found::None(format!("the schema {id} of the registry cannot be used: {e}").into()),
    };
    Entry { found, until: None }
}

fn writer_error(node: &str, field: &str, slot: &Slot, error: RegistryError) -> WriterError {
    match error {
        RegistryError::Away(message) => WriterError::Away(format!("schema registry {message}")),
        RegistryError::Unknown(message)
        | RegistryError::Refused(message)
        | RegistryError::Conflict(message) => WriterError::Config {
            node: node.to_owned(),
            field: format!("kafka.{field}"),
            message: format!("subject `{}`: {message}", slot.subject),
        },
    }
}

/// The registry's id for a sink's schema, and the schema.
async fn connect(
    client: &RegistryClient,
    slot: &Slot,
    register: bool,
) -> Result<(u32, Writer), RegistryError> {
    let kind = kind_of(slot.format);
    let message = slot.settings.message.as_deref();
    if let Some(text) = &slot.text {
        let id = client.id_of(&slot.subject, kind, text, register).await.map_err(|e| {
            match e {
                RegistryError::Unknown(message) => RegistryError::Unknown(format!(
                    "the registry does not have this schema there: register it, or set `auto_register: true` ({message})"
                )),
                other => other,
            }
        })?;
        let parsed = Parsed::parse(kind, text, &[]).map_err(RegistryError::Refused)?;
        return Ok((id, Writer::new(Arc::new(parsed), message).map_err(RegistryError::Refused)?));
    }
    let latest = client.latest(&slot.subject).await.map_err(|e| match e {
        RegistryError::Unknown(message) => RegistryError::Unknown(format!(
            "the registry has no schema there: register one, or name a `file` and set `auto_register: true` ({message})"
        )),
        other => other,
    })?;
    if latest.kind != kind {
        let wrong =
            format!("its schema is of type {}, and the format is `{}`", latest.kind, slot.format.name());
        return Err(RegistryError::Refused(wrong));
    }
    let id = latest.id.ok_or_else(|| RegistryError::Refused("the registry's answer has no `id`".into()))?;
    let parsed = Parsed::parse(kind, &latest.text, &latest.references).map_err(RegistryError::Refused)?;
    Ok((id, Writer::new(Arc::new(parsed), message).map_err(RegistryError::Refused)?))
}

fn kind_of(format: Format) -> &'static str {
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
