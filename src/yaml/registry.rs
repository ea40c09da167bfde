//! What a topology file may use besides the built-in kinds: operators, sinks and sources of a user's own crate, and
//! functions in expressions.
//!
//! A program with kinds of its own registers them here and passes the registry to [`crate::cli::main_with`], or to
//! [`super::load_with`] in its tests.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::decode::decode;
use super::tree::Node;
use crate::expressions::OwnFunction;
use crate::model::Problem;
use crate::operators::{NodeConfig, OwnOperator};
use crate::sinks::{OwnSink, SinkConfig};
use crate::sources::{OwnSource, SourceConfig};

/// Kinds and functions of a user's own, by their names in a file.
///
/// Settings are `serde::Deserialize` (without `flatten`, `untagged` and internal tags: they lose places); every mistake in
/// them is shown in its place.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub(super) operators: Kinds<NodeConfig>,
    pub(super) sinks: Kinds<SinkConfig>,
    pub(super) sources: Kinds<SourceConfig>,
    functions: Vec<OwnFunction>,
}

impl Registry {
    /// Only the built-in kinds.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a kind of operators.
    ///
    /// # Panics
    /// The kind's name is a built-in's, is registered already, or is no name: a mistake in the program.
    #[must_use]
    pub fn operator<C: OwnOperator + DeserializeOwned>(mut self, kind: &'static str) -> Registry {
        self.operators.add::<C>(kind, NodeConfig::KINDS, move |settings| NodeConfig::own(kind, settings));
        self
    }

    /// Adds a kind of sinks.
    ///
    /// # Panics
    /// As for [`Registry::operator`].
    #[must_use]
    pub fn sink<C: OwnSink + DeserializeOwned>(mut self, kind: &'static str) -> Registry {
        self.sinks.add::<C>(kind, SinkConfig::KINDS, move |settings| SinkConfig::own(kind, settings));
        self
    }

    /// Adds a kind of sources.
    ///
    /// # Panics
    /// As for [`Registry::operator`].
    #[must_use]
    pub fn source<C: OwnSource + DeserializeOwned>(mut self, kind: &'static str) -> Registry {
        self.sources.add::<C>(kind, SourceConfig::KINDS, move |settings| SourceConfig::own(kind, settings));
        self
    }

    /// Adds a function that every expression of a file may call.
    ///
    /// # Panics
    /// There is a function of that name: a mistake in the program.
    #[must_use]
    pub fn function(mut self, function: OwnFunction) -> Registry {
        let taken = self.functions.iter().any(|known| known.name() == function.name());
        assert!(!taken, "`{}` is registered already", function.name());
        self.functions.push(function);
        self
    }

    /// The registered functions.
    #[must_use]
    pub fn functions(&self) -> &[OwnFunction] {
        &self.functions
    }
}

/// Reads the settings of one kind, from a map of one entry: the kind.
type Read<T> = Arc<dyn Fn(&Node, &mut Vec<Problem>) -> Option<T> + Send + Sync>;

/// Kinds that are not built in, by their key in YAML.
#[derive(Clone)]
pub(super) struct Kinds<T>(BTreeMap<&'static str, Read<T>>);

impl<T: 'static> Kinds<T> {
    fn add<C: DeserializeOwned + 'static>(
        &mut self,
        kind: &'static str,
        built_in: &[&str],
        settings: impl Fn(C) -> T + Send + Sync + 'static,
    ) {
        let name = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        assert!(name, "`{kind}` is no name for a kind: letters, digits, `-` and `_`");
        let beside = ["from", "table", "schema"];
        assert!(!built_in.contains(&kind) && !beside.contains(&kind), "`{kind}` is slackwater's own");
        let read: Read<T> =
            Arc::new(move |node, problems| decode::<Only<C>>(node, problems)?.0.map(&settings));
        assert!(self.0.insert(kind, read).is_none(), "`{kind}` is registered already");
    }

    /// The kinds, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }

    /// Reads a node's settings: a map of one entry, its kind.
    pub(super) fn read(&self, node: &Node, problems: &mut Vec<Problem>) -> Option<T>
    where
        T: DeserializeOwned,
    {
        let kind = node.entries().first().map(|(key, _)| key.name.as_str());
        match kind.and_then(|kind| self.0.get(kind)) {
            Some(read) => read(node, problems),
            None => decode::<T>(node, problems),
        }
    }
}

impl<T> Default for Kinds<T> {
    fn default() -> Self {
        Kinds(BTreeMap::new())
    }
}

impl<T> fmt::Debug for Kinds<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The value of a map of one entry; `None` where it was left out, since what is wrong in it was reported. So a problem of
/// the settings knows the key that they stand under.
struct Only<C>(Option<C>);

impl<'de, C: Deserialize<'de>> Deserialize<'de> for Only<C> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entry<C>(PhantomData<C>);
        impl<'de, C: Deserialize<'de>> Visitor<'de> for Entry<C> {
            type Value = Only<C>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a kind with its settings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Only<C>, A::Error> {
                Ok(Only(map.next_entry::<String, C>()?.map(|(_, settings)| settings)))
            }
        }
        d.deserialize_map(Entry(PhantomData))
    }
}
