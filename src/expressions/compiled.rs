//! A compiled program as a function of a record.
//!
//! Made by the compiler, and called for each record by the node that has the expression. Invariants: a value that is
//! not read need not be JSON; nothing outlives its record; every failure is an [`EvalError`] without source positions.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ::vrl::compiler::runtime::{Runtime, Terminate};
use ::vrl::compiler::{Program, TargetValueRef, TimeZone};
use ::vrl::path::{OwnedSegment, OwnedTargetPath, PathPrefix};
use ::vrl::value::{KeyString, Kind, Secrets, Value as Vrl};
use serde::Deserialize;

use super::guard::caught;
use super::kinds::types_of;
use super::names::{ORIGIN, fields_named, paths_named};
use crate::model::number::{self, Parsed, is_great, too_great};
use crate::model::{EvalError, Function, Json, NotJson, Scope, Types, Value, pick};

/// A compiled program and what it reads.
pub(super) struct Compiled {
    program: Program,
    text: String,
    /// Variables, each with the fields of it that are read; `None`: maybe all.
    names: Vec<(String, Option<Vec<String>>)>,
    pub(super) reads_value: bool,
    reads_origin: bool,
    /// The fields of the value that are read, if only fields are.
    pub(super) fields: Option<Vec<String>>,
    yields: Types,
    zone: TimeZone,
}

impl Compiled {
    pub(super) fn new(program: Program, text: &str, used: &[&str]) -> Compiled {
        let info = program.info();
        let mut paths = info.target_queries.iter().chain(&info.target_assignments);
        let reads_value = paths.any(|path| path.prefix == PathPrefix::Event);
        let zone = TimeZone::parse("UTC").unwrap_or_default();
        let result = program.final_type_info().result;
        let yields = yields(&result.kind().union(result.returns().clone()));
        let names = used.iter().map(|&n| (n.to_owned(), fields_named(text, n))).collect();
        let fields =
            info.target_assignments.is_empty().then(|| fields_queried(&info.target_queries)).flatten();
        // A program may have a variable of its own with that name.
        let reads_origin = used.contains(&ORIGIN) && !paths_named(text, ORIGIN).is_empty();
        Compiled { text: text.to_owned(), names, reads_value, reads_origin, fields, yields, zone, program }
    }
}

/// The kinds of JSON that VRL expects as the result. A program that always aborts counts as "anything".
fn yields(kind: &Kind) -> Types {
    match types_of(kind) {
        // It always fails: nothing is known of a result.
        Types::NEVER => Types::ANY,
        types => types,
    }
}

/// The fields of the value that these paths begin with; `None` if one does not begin with a field.
fn fields_queried(paths: &[OwnedTargetPath]) -> Option<Vec<String>> {
    let mut fields: Vec<String> = Vec::new();
    for path in paths.iter().filter(|path| path.prefix == PathPrefix::Event) {
        match path.path.segments.first() {
            Some(OwnedSegment::Field(name)) => fields.push(name.as_str().to_owned()),
            _ => return None,
        }
    }
    fields.sort();
    fields.dedup();
    Some(fields)
}

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(Runtime::default());
}

impl Function for Compiled {
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        // A value that is not read need not be JSON.
        let mut value =
            if self.reads_value { vrl_value(scope.value, self.fields.as_deref())? } else { Vrl::Null };
        let mut names = BTreeMap::new();
        for (name, _) in &self.names {
            names.insert(KeyString::from(name.as_str()), named(scope, name)?);
        }
        let mut metadata = Vrl::Object(names);
        let mut secrets = Secrets::new();
        let mut target = TargetValueRef { value: &mut value, metadata: &mut metadata, secrets: &mut secrets };
        let result = RUNTIME.with_borrow_mut(|runtime| {
            let result = caught(|| runtime.resolve(&mut target, &self.program, &self.zone));
            runtime.clear();
            result
        });
        let result = result.map_err(|panic| {
            EvalError::Failed(format!("`{}` cannot be computed of this record: {panic}", self.text.trim()))
        })?;
        match result {
            Ok(value) => json(value, DEPTH_MAX),
            Err(Terminate::Interrupted) => Err(EvalError::Failed("the expression was interrupted".into())),
            Err(Terminate::Abort(e) | Terminate::Error(e)) => {
                Err(EvalError::Failed(without_places(&e.to_string())))
            }
        }
    }

    fn yields(&self) -> Types {
        self.yields
    }

    fn reads_value(&self) -> bool {
        self.reads_value
    }

    fn reads_origin(&self) -> bool {
        self.reads_origin
    }

    fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.names.iter().find(|(n, _)| n == name).map_or(Some(&[]), |(_, fields)| fields.as_deref())
    }
}

/// The value of a variable in this scope.
fn named(scope: &Scope<'_>, name: &str) -> Result<Vrl, EvalError> {
    Ok(match name {
        "key" => scope.key_str()?.map_or(Vrl::Null, Vrl::from),
        "timestamp" => Vrl::Integer(scope.ts.0),
        "headers" => {
            let text = |value: Option<&bytes::Bytes>| {
                value.map_or(Vrl::Null, |bytes| Vrl::from(String::from_utf8_lossy(bytes).as_ref()))
            };
            Vrl::Object(
                scope.headers.iter().map(|(name, value)| (KeyString::from(name), text(value))).collect(),
            )
        }
        "window" => scope.window.map_or(Vrl::Null, |window| {
            let ends = [("start", window.start.0), ("end", window.end.0)];
            Vrl::Object(ends.into_iter().map(|(n, at)| (KeyString::from(n), Vrl::Integer(at))).collect())
        }),
        ORIGIN => scope.place().map_or(Vrl::Null, |(topic, partition, offset)| {
            let place = [
                ("topic", Vrl::from(topic)),
                ("partition", Vrl::Integer(partition.into())),
                ("offset", Vrl::Integer(offset)),
            ];
            Vrl::Object(place.into_iter().map(|(n, v)| (KeyString::from(n), v)).collect())
        }),
        _ => match scope.vars.iter().find(|(var, _)| *var == name) {
            Some((_, json)) => from_json(json)?,
            None => Vrl::Null,
        },
    })
}

fn vrl_value(value: &Value, fields: Option<&[String]>) -> Result<Vrl, EvalError> {
    match value {
        Value::Null => Ok(Vrl::Null),
        Value::Bytes(bytes) => {
            if let Some(fields) = fields
                && let Some(found) =
                    pick::<Vrl>(bytes, fields).map_err(|e| EvalError::NotJson(NotJson(e.to_string())))?
            {
                let named = fields.iter().zip(found).filter_map(|(name, value)| Some((name, value?)));
                return Ok(Vrl::Object(named.map(|(n, v)| (KeyString::from(n.as_str()), v)).collect()));
            }
            Ok(number::read(bytes)?)
        }
        Value::Json(json) => from_json(json),
    }
}

/// A value as VRL sees it.
///
/// # Errors
/// A whole number in it is greater than VRL's are: it would become a double.
pub(super) fn from_json(json: &Json) -> Result<Vrl, EvalError> {
    let value = Vrl::deserialize(json).map_err(|e| EvalError::Failed(e.to_string()))?;
    if value.may_be_rounded()
        && let Some(great) = greater(json)
    {
        return Err(too_great(&great.to_string(), Vrl::GREATEST).into());
    }
    Ok(value)
}

/// The first whole number in a value that is greater than VRL's.
fn greater(json: &Json) -> Option<u64> {
    match json {
        Json::Number(n) => n.as_u64().filter(|n| *n > Vrl::GREATEST),
        Json::Array(items) => items.iter().find_map(greater),
        Json::Object(fields) => fields.values().find_map(greater),
        Json::Null | Json::Bool(_) | Json::String(_) => None,
    }
}

impl Parsed for Vrl {
    /// VRL's whole numbers have a sign.
    const GREATEST: u64 = i64::MAX.cast_unsigned();

    fn may_be_rounded(&self) -> bool {
        match self {
            Vrl::Float(n) => is_great(n.into_inner()),
            Vrl::Array(items) => items.iter().any(Vrl::may_be_rounded),
            Vrl::Object(fields) => fields.values().any(Vrl::may_be_rounded),
            _ => false,
        }
    }
}

/// Deepest nesting of a result. JSON deeper than 127 levels cannot be parsed again, and a result is usually nested in
/// something else: a row of state, a list, the two sides of a join.
pub(super) const DEPTH_MAX: usize = 120;

/// The result as JSON, at most `left` levels deep. Bytes that are not UTF-8 are an error, as is a number that JSON cannot
/// hold.
pub(super) fn json(value: Vrl, left: usize) -> Result<Json, EvalError> {
    let deeper = || {
        left.checked_sub(1)
            .ok_or_else(|| EvalError::Failed(format!("the result is nested deeper than {DEPTH_MAX}")))
    };
    Ok(match value {
        Vrl::Null => Json::Null,
        Vrl::Boolean(b) => Json::Bool(b),
        Vrl::Integer(n) => Json::from(n),
        Vrl::Float(n) => serde_json::Number::from_f64(n.into_inner())
            .map(Json::Number)
            .ok_or_else(|| EvalError::Failed(format!("the result {n} is no JSON number")))?,
        Vrl::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => {
                let why = "the result is no UTF-8 text: `slice`, `find` and `length` count bytes, so a letter may have \
                           been cut; bytes of any kind become text with `encode_base64`";
                return Err(EvalError::Failed(why.into()));
            }
        },
        Vrl::Array(items) => {
            let left = deeper()?;
            Json::Array(items.into_iter().map(|item| json(item, left)).collect::<Result<_, _>>()?)
        }
        Vrl::Object(fields) => {
            let left = deeper()?;
            let fields = fields.into_iter().map(|(name, value)| Ok((name.to_string(), json(value, left)?)));
            Json::Object(fields.collect::<Result<_, EvalError>>()?)
        }
        other @ (Vrl::String(_) | Vrl::Timestamp(_) | Vrl::Regex(_)) => {
            serde_json::to_value(&other).map_err(|e| EvalError::Failed(e.to_string()))?
        }
    })
}

/// VRL's run-time message without its positions, which count from the start of the expression:
/// `function call error for "upcase" at (0:13): expected string` becomes `upcase: expected string`.
fn without_places(message: &str) -> String {
    let Some(rest) = message.strip_prefix("function call error for \"") else { return message.to_owned() };
    let parts = rest.split_once('"').and_then(|(name, rest)| Some((name, rest.split_once("): ")?.1)));
    match parts {
        Some((name, rest)) if name.starts_with('$') => without_places(rest),
        Some((name, rest)) => format!("{name}: {}", without_places(rest)),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
