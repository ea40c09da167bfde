//! The parts of the deserializer that walk inside a value: elements, entries, variants, and an expression's place. Used
//! by `decode` only.

use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::decode::{Run, Walk};
use super::fault::{Cause, Fault, id};
use super::tree::{Key, Kind, Node};
use crate::model::Problem;

/// The elements of a list.
pub(super) struct Items<'a> {
    pub(super) items: std::vec::IntoIter<&'a Node>,
    pub(super) run: &'a Run,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.items.next().map(|node| Walk { node, key: None, run: self.run }.read(seed)).transpose()
    }
}

/// What an `Expr` or a `Template` is read from: start, end and text.
pub(super) struct Place {
    pub(super) span: Range<usize>,
    pub(super) text: String,
    pub(super) step: u8,
}

impl<'de> SeqAccess<'de> for Place {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.step += 1;
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX).into_deserializer();
        match self.step {
            1 => seed.deserialize(number(self.span.start)).map(Some),
            2 => seed.deserialize(number(self.span.end)).map(Some),
            3 => seed.deserialize(std::mem::take(&mut self.text).into_deserializer()).map(Some),
            _ => Ok(None),
        }
    }
}

/// The entries of a map.
pub(super) struct Entries<'a> {
    pub(super) entries: std::vec::IntoIter<&'a (Key, Node)>,
    pub(super) value: Option<&'a (Key, Node)>,
    pub(super) run: &'a Run,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.value = self.entries.next();
        let Some((key, node)) = self.value else { return Ok(None) };
        // If the key cannot be read, its value is left out.
        let name = Node { span: key.span.clone(), kind: Kind::Text(key.name.clone()), substituted: true };
        let read = Walk { node: &name, key: None, run: self.run }.read(seed);
        read.map(Some).map_err(|fault| Fault(Cause::Placed(id(node), fault.into_parts(&name).1)))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.value.take() {
            Some((key, node)) => Walk { node, key: Some(key), run: self.run }.read(seed),
            None => Err(Fault(Cause::Custom("a value was asked for before its key".into(), None))),
        }
    }
}

/// A variant of an enum: bare text, or the one key of a map with its settings.
pub(super) struct Variant<'a> {
    pub(super) walk: Walk<'a>,
    pub(super) name: &'a str,
    pub(super) content: Option<(&'a Key, &'a Node)>,
}

impl<'a> Variant<'a> {
    /// The settings; a problem if there are none.
    fn content(self) -> Result<Walk<'a>, Fault> {
        let Some((key, node)) = self.content else {
            let problem = Problem::new("wrong-type", format!("`{}` needs settings", self.name))
                .at(self.walk.node.span.clone(), "settings are missing")
                .help(format!("write `{}: ...`", self.name));
            return Err(Fault(Cause::Placed(id(self.walk.node), Some(problem))));
        };
        if self.walk.run.is_faulty(node) {
            return Err(Fault(Cause::Placed(id(self.walk.node), None)));
        }
        Ok(Walk { node, key: Some(key), run: self.walk.run })
    }
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Variant<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let place = self.content.map_or_else(|| self.walk.node.span.clone(), |(key, _)| key.span.clone());
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        match seed.deserialize(name) {
            Ok(value) => Ok((value, self)),
            Err(fault) => Err(fault.placed(place, self.walk.node, None)),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some((_, node)) if node.kind == Kind::Null || node.kind == Kind::Map(Vec::new()) => Ok(()),
            Some((_, node)) => {
                let problem = Problem::new("wrong-type", format!("`{}` takes no settings", self.name))
                    .at(node.span.clone(), "one too many")
                    .help(format!("write `{}`", self.name));
                Err(Fault(Cause::Placed(id(self.walk.node), Some(problem))))
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.content()?.read(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content()?.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.content()?.deserialize_struct("", fields, visitor)
    }
}
