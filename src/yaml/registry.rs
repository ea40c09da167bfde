//! The kinds of operators that a topology file may use besides the built-in ones.
//!
//! Called by whoever has operators of their own: their program registers them and hands the registry to
//! [`crate::cli::main_with`], or to [`super::load_with`] in its tests.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};

use super::decode::decode;
use super::tree::Node;
use crate::model::Problem;
use crate::operators::{CustomOperator, NodeConfig};

/// Reads the settings of one kind, as a map of one entry: the kind.
type Read = fn(&Node, &mut Vec<Problem>) -> Option<NodeConfig>;

/// Kinds of operators by their key in YAML.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Read>,
}

impl Registry {
    /// The built-in kinds alone.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// The kind's name is a built-in's, is registered already, or is no name: a mistake in the program.
    #[must_use]
    pub fn operator<C: CustomOperator + DeserializeOwned>(mut self) -> Registry {
        let kind = C::KIND;
        let name = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        assert!(name, "`{kind}` is no name for a kind of operators: letters, digits, `-` and `_`");
        assert!(!NodeConfig::KINDS.contains(&kind) && kind != "from", "`{kind}` is slackwater's own");
        let read: Read = |node, problems| {
            decode::<Only<C>>(node, problems).map(|Only(settings)| NodeConfig::custom(settings))
        };
        assert!(self.kinds.insert(kind, read).is_none(), "`{kind}` is registered already");
        self
    }

    /// The registered kinds, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    /// Reads a node's settings: a map of one entry, its kind.
    pub(super) fn read(&self, node: &Node, problems: &mut Vec<Problem>) -> Option<NodeConfig> {
        let kind = node.entries().first().map(|(key, _)| key.name.as_str());
        match kind.and_then(|kind| self.kinds.get(kind)) {
            Some(read) => read(node, problems),
            None => decode::<NodeConfig>(node, problems),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

/// The value of a map of one entry. So a problem of the settings knows the key that they stand under.
struct Only<C>(C);

impl<'de, C: CustomOperator + Deserialize<'de>> Deserialize<'de> for Only<C> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entry<C>(PhantomData<C>);
        impl<'de, C: CustomOperator + Deserialize<'de>> Visitor<'de> for Entry<C> {
            type Value = Only<C>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a kind with its settings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Only<C>, A::Error> {
                match map.next_entry::<String, C>()? {
                    Some((_, settings)) => Ok(Only(settings)),
                    // Left out, since what is wrong in it was reported.
                    None => Err(A::Error::missing_field(C::KIND)),
                }
            }
        }
        d.deserialize_map(Entry(PhantomData))
    }
}
