//! Types as VRL knows them, derived from a source's `schema`: kinds of values, of their fields, of results.

use std::collections::BTreeMap;

use ::vrl::compiler::Program;
use ::vrl::path::{OwnedSegment, PathPrefix};
use ::vrl::value::Kind;
use ::vrl::value::kind::{Collection, Field as KeyField};

use super::names::paths_named;
use crate::model::path::Step;
use crate::model::{Field, Shape, Types, did_you_mean};

/// The kind of the values of a shape.
#[must_use]
pub fn kind_of(shape: &Shape) -> Kind {
    match shape {
        Shape::Any => Kind::any(),
        Shape::Boolean => Kind::boolean(),
        Shape::Integer => Kind::integer(),
        Shape::Number => Kind::integer().or_float(),
        // A timestamp is text in JSON.
        Shape::String | Shape::Text | Shape::Timestamp => Kind::bytes(),
        Shape::Array(item) => Kind::array(Collection::from_unknown(field_kind(item).upgrade_undefined())),
        Shape::Object { fields, rest } => {
            let known =
                fields.iter().map(|(name, field)| (name.as_str().into(), field_kind(field))).collect();
            let unknown =
                rest.as_ref().map_or_else(Kind::undefined, |field| field_kind(field).or_undefined());
            Kind::object(Collection::from_parts(known, unknown))
        }
    }
}

fn field_kind(field: &Field) -> Kind {
    let kind = kind_of(&field.shape);
    if field.optional { kind.or_null().or_undefined() } else { kind }
}

/// The JSON kinds that values of this kind may have.
#[must_use]
pub fn types_of(kind: &Kind) -> Types {
    let all = [
        (kind.contains_null() || kind.contains_undefined(), Types::NULL),
        (kind.contains_boolean(), Types::BOOLEAN),
        (kind.contains_integer(), Types::INTEGER),
        (kind.contains_float(), Types::FLOAT),
        (kind.contains_bytes() || kind.contains_timestamp() || kind.contains_regex(), Types::STRING),
        (kind.contains_array(), Types::ARRAY),
        (kind.contains_object(), Types::OBJECT),
    ];
    all.into_iter().filter(|(may, _)| *may).fold(Types::NEVER, |types, (_, one)| types.or(one))
}

/// The kind of objects with exactly these fields.
#[must_use]
pub fn object(known: BTreeMap<KeyField, Kind>) -> Kind {
    Kind::object(Collection::from_parts(known, Kind::undefined()))
}

/// The kind of the elements of an array.
#[must_use]
pub fn element(kind: &Kind) -> Kind {
    kind.as_array().map_or_else(Kind::any, |array| array.reduced_kind().upgrade_undefined())
}

/// The kind of a value after a field (given as a path of names) was set.
#[must_use]
pub fn with_field(kind: &Kind, path: &[Step], value: Kind) -> Kind {
    let Some((Step::Field(name), rest)) = path.split_first() else { return value };
    let Some(object) = kind.as_object() else { return Kind::any() };
    let inner = object
        .known()
        .get(&KeyField::from(name.as_str()))
        .cloned()
        .unwrap_or_else(|| Kind::object(Collection::empty()));
    let inner = if rest.is_empty() { value } else { with_field(&inner, rest, value) };
    Kind::object(object.clone().with_known(name.as_str(), inner))
}

/// A field that is used but does not exist.
pub(super) struct Missing {
    /// As it could be written in the expression: `.user.nam`.
    pub path: String,
    /// Its last name, and the value it was looked up in.
    name: String,
    above: String,
    known: Vec<String>,
    /// What that value is, if it has no fields at all.
    other: Option<Types>,
}

impl Missing {
    /// Is it a parameter of an endpoint's route?
    fn is_param(&self) -> bool {
        self.path == format!("path.{}", self.name)
    }

    pub(super) fn message(&self) -> String {
        match self.other {
            Some(types) => format!("`{}` is {types}: it has no field `{}`", self.above, self.name),
            None if self.is_param() => format!("the route has no `{{{}}}`", self.name),
            None => format!("there is no `{}` by the `schema`", self.path),
        }
    }

    pub(super) fn help(&self) -> String {
        if self.other.is_some() {
            return "correct the path, or the type in the `schema`".into();
        }
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let hint = did_you_mean(&self.name, &known);
        if self.is_param() {
            return hint;
        }
        format!(
            "{hint}; a field that it should have belongs into the `schema`, and `\"*\": any` allows all others"
        )
    }
}

/// The kind at a path of a value.
pub(super) fn at(value: &Kind, path: &[Step]) -> Result<Kind, Missing> {
    let (mut kind, mut text) = (value.clone(), String::new());
    for step in path {
        if kind.is_any() {
            return Ok(kind);
        }
        let above = if text.is_empty() { ".".to_owned() } else { text.clone() };
        match step {
            Step::Field(name) => {
                let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '@');
                text.push_str(&if plain { format!(".{name}") } else { format!(".\"{name}\"") });
                let missing = |known: Vec<String>, other: Option<Types>| Missing {
                    path: text.clone(),
                    name: name.clone(),
                    above,
                    known,
                    other,
                };
                let Some(object) = kind.as_object() else {
                    return Err(missing(Vec::new(), Some(types_of(&kind))));
                };
                let may_be_null = kind.contains_null() || kind.contains_undefined();
                let found = match object.known().get(&KeyField::from(name.as_str())) {
                    Some(known) => known.clone(),
                    None if !object.unknown_kind().without_undefined().is_never() => object.unknown_kind(),
                    None => {
                        let known = object.known().keys().map(ToString::to_string).collect();
                        return Err(missing(known, None));
                    }
                };
                kind = if may_be_null { found.or_null() } else { found };
            }
            Step::Index(n) => {
                text.push_str(&format!("[{n}]"));
                let Some(array) = kind.as_array() else { return Ok(Kind::any()) };
                let known = array.known().get(&(*n).into()).cloned();
                kind = known.unwrap_or_else(|| array.unknown_kind()).or_null();
            }
        }
    }
    Ok(kind.upgrade_undefined())
}

/// The first field of a variable that a program reads although the variable does not have it.
pub(super) fn missing_of(text: &str, name: &str, kind: &Kind) -> Option<Missing> {
    if kind.is_any() {
        return None;
    }
    let missing = paths_named(text, name).iter().find_map(|path| at(kind, path).err())?;
    let above = if missing.above == "." { name.to_owned() } else { format!("{name}{}", missing.above) };
    Some(Missing { path: format!("{name}{}", missing.path), above, ..missing })
}

/// The first field that a program reads although its values do not have it. Fields that the program sets itself exist.
pub(super) fn missing_in(program: &Program, value: &Kind) -> Option<Missing> {
    if value.is_any() {
        return None;
    }
    let info = program.info();
    let set = |path: &[OwnedSegment]| {
        info.target_assignments
            .iter()
            .filter(|target| target.prefix == PathPrefix::Event)
            .any(|target| path.starts_with(&target.path.segments) || target.path.segments.starts_with(path))
    };
    info.target_queries
        .iter()
        .filter(|query| query.prefix == PathPrefix::Event && !set(&query.path.segments))
        .find_map(|query| {
            let steps = query.path.segments.iter().map_while(|segment| match segment {
                OwnedSegment::Field(name) => Some(Step::Field(name.to_string())),
                OwnedSegment::Index(n) => usize::try_from(*n).ok().map(Step::Index),
            });
            at(value, &steps.collect::<Vec<_>>()).err()
        })
}
