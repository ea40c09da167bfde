//! The schemas that a running topology uses: those that its nodes name (`named.rs`), a sink's with the registry's id, and
//! those that records name by id, which are kept, since an id never changes its schema.
//!
//! Tasks look schemas up without waiting ([`Formats::known`]). When the reading side meets an unknown id, it asks for
//! it ([`Formats::want`]) and holds its records back until the resolver has looked it up ([`Formats::resolve`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::named::{NamedSchemas, NodeSchemas, Parsed, SinkSchema, Writer, kind_of};
use super::registry::{Registered, RegistryClient, RegistryError};
use super::settings::{Format, RegistryConfig};
use crate::model::{Backoff, Millis};

/// After this time an id that the registry did not know is asked for again.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait after a request that failed, before the next.
const BACKOFF: Backoff = Backoff { base: Millis(100), max: Millis(3_200) };

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

/// What a sink writes its keys or its values with, and what the registry says of it.
pub(super) struct Slot {
    schema: Arc<SinkSchema>,
    /// The schema with the registry's id, once connected.
    pub live: OnceLock<(u32, Writer)>,
}

impl Slot {
    fn new(schema: &Arc<SinkSchema>) -> Arc<Slot> {
        Arc::new(Slot { schema: Arc::clone(schema), live: OnceLock::new() })
    }

    /// The schema from the topology file.
    pub fn local(&self) -> Option<&Writer> {
        self.schema.local.as_ref()
    }
}

/// The formats of one node's key and value.
#[derive(Clone, Default)]
pub struct NodeFormats {
    pub(super) key: Option<Arc<Slot>>,
    pub(super) value: Option<Arc<Slot>>,
    pub(super) reader: Option<Arc<Parsed>>,
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

/// All schemas of a running topology, shared by its tasks and the resolver.
#[derive(Default)]
pub struct Formats {
    registry: Option<RegistryConfig>,
    /// Are bytes really in their formats?
    live: bool,
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
    /// Those of a topology of which nothing is connected: values are JSON at both ends.
    #[must_use]
    pub fn unconnected(schemas: &NamedSchemas) -> Formats {
        let node = |NodeSchemas { key, value, reader }: &NodeSchemas| NodeFormats {
            key: key.as_ref().map(Slot::new),
            value: value.as_ref().map(Slot::new),
            reader: reader.clone(),
        };
        Formats {
            registry: schemas.registry.clone(),
            nodes: schemas.nodes.iter().map(|(name, schemas)| (name.clone(), node(schemas))).collect(),
            ..Formats::default()
        }
    }

    /// Those of a topology that runs: bytes are in their formats.
    #[must_use]
    pub fn live(schemas: &NamedSchemas) -> Formats {
        Formats { live: true, ..Formats::unconnected(schemas) }
    }

    /// The registry's settings.
    #[must_use]
    pub fn registry(&self) -> Option<&RegistryConfig> {
        self.registry.as_ref()
    }

    /// Are bytes in their formats?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// What is known of a node's formats.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeFormats {
        self.nodes.get(name).cloned().unwrap_or_default()
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
                let register = slot.schema.settings.auto_register;
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
                    Err(RegistryError::Unknown(_)) if slot.schema.settings.auto_register => {}
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
            message: format!("subject `{}`: {message}", slot.schema.subject),
        },
    }
}

/// The registry's id for a sink's schema, and the schema.
async fn connect(
    client: &RegistryClient,
    slot: &Slot,
    register: bool,
) -> Result<(u32, Writer), RegistryError> {
    let kind = kind_of(slot.schema.format);
    let message = slot.schema.settings.message.as_deref();
    if let Some(text) = &slot.schema.text {
        let id = client.id_of(&slot.schema.subject, kind, text, register).await.map_err(|e| {
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
    let latest = client.latest(&slot.schema.subject).await.map_err(|e| match e {
        RegistryError::Unknown(message) => RegistryError::Unknown(format!(
            "the registry has no schema there: register one, or name a `file` and set `auto_register: true` ({message})"
        )),
        other => other,
    })?;
    if latest.kind != kind {
        let wrong = format!(
            "its schema is of type {}, and the format is `{}`",
            latest.kind,
            slot.schema.format.name()
        );
        return Err(RegistryError::Refused(wrong));
    }
    let id = latest.id.ok_or_else(|| RegistryError::Refused("the registry's answer has no `id`".into()))?;
    let parsed = Parsed::parse(kind, &latest.text, &latest.references).map_err(RegistryError::Refused)?;
    Ok((id, Writer::new(Arc::new(parsed), message).map_err(RegistryError::Refused)?))
}
