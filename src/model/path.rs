//! Paths into a value: `.a.b[0]."odd name"`.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

use super::expr::EvalError;
use super::value::{Json, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `.name`
    Field(String),
    /// `[3]`
    Index(usize),
}

/// Parses `.a.b[0]."odd name"`; `None` if the text is more than a path.
#[must_use]
pub fn parse_path(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().strip_prefix('.')?;
    let mut steps = Vec::new();
    let mut first = true;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (number, tail) = after.split_once(']')?;
            steps.push(Step::Index(number.parse().ok()?));
            rest = tail;
        } else {
            if !first {
                rest = rest.strip_prefix('.')?;
            }
            if let Some(quoted) = rest.strip_prefix('"') {
                let (name, tail) = quoted.split_once('"')?;
                if name.contains('\\') {
                    return None;
                }
                steps.push(Step::Field(name.to_owned()));
                rest = tail;
            } else {
                let end =
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '@')).unwrap_or(rest.len());
                if end == 0 {
                    return None;
                }
                steps.push(Step::Field(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
        first = false;
    }
    Some(steps)
}

/// The value at a path.
#[must_use]
pub fn look_up<'a>(json: &'a Json, path: &[Step]) -> Option<&'a Json> {
    path.iter().try_fold(json, |at, step| match step {
        Step::Field(name) => at.as_object()?.get(name),
        Step::Index(i) => at.as_array()?.get(*i),
    })
}

/// Sets the value at a path of fields, creating objects on the way.
///
/// # Errors
/// A step of the path leads through something that is not an object, or the path has an index.
pub fn set_at(json: &mut Json, path: &[Step], value: Json) -> Result<(), EvalError> {
    let Some((step, rest)) = path.split_first() else {
        *json = value;
        return Ok(());
    };
    if json.is_null() {
        *json = Json::Object(serde_json::Map::new());
    }
    match (step, json) {
        (Step::Field(name), Json::Object(fields)) => {
            set_at(fields.entry(name.clone()).or_insert(Json::Null), rest, value)
        }
        (step, other) => Err(EvalError::Failed(format!("cannot set {step:?} in {other}: it is no object"))),
    }
}

/// A path of fields in a value: `.account`, `.user.state`, or `.` for the whole value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    text: String,
    steps: Vec<Step>,
}

/// The text is no path of fields.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no path of fields: write it like `.account`")]
pub struct NoFieldPath(String);

impl FieldPath {
    /// The path as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its fields.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is there; `None` if nothing is.
    #[must_use]
    pub fn get<'a>(&self, json: &'a Json) -> Option<&'a Json> {
        look_up(json, &self.steps)
    }

    /// Can something be set there? The value must be an object, and so must everything on the way that is there.
    #[must_use]
    pub fn fits(&self, json: &Json) -> bool {
        fn fits(json: &Json, path: &[Step]) -> bool {
            let Some((step, rest)) = path.split_first() else { return true };
            match (step, json) {
                (Step::Field(name), Json::Object(fields)) => match fields.get(name) {
                    None | Some(Json::Null) => true,
                    Some(inner) => fits(inner, rest),
                },
                _ => false,
            }
        }
        fits(json, &self.steps)
    }

    /// The value with something set there.
    ///
    /// # Errors
    /// The value is not JSON, or has something else than an object on the way.
    pub fn set(&self, value: &Value, what: Json) -> Result<Value, String> {
        if self.steps.is_empty() {
            return Ok(Value::from(what));
        }
        let mut json = Arc::unwrap_or_clone(value.json().map_err(|e| e.to_string())?);
        set_at(&mut json, &self.steps, what).map_err(|e| e.to_string())?;
        Ok(Value::from(json))
    }
}

impl FromStr for FieldPath {
    type Err = NoFieldPath;

    fn from_str(text: &str) -> Result<Self, NoFieldPath> {
        let steps = parse_path(text)
            .filter(|steps| steps.iter().all(|s| matches!(s, Step::Field(_))))
            .ok_or_else(|| NoFieldPath(text.to_owned()))?;
        Ok(FieldPath { text: text.trim().to_owned(), steps })
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for FieldPath {
    fn schema_name() -> Cow<'static, str> {
        "FieldPath".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^\.", "examples": [".account"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_is_set_through_missing_objects() {
        let mut json = json!({"n": 1});
        let path = parse_path(".x.y").expect("is a path");
        assert!(set_at(&mut json, &path, json!(2)).is_ok());
        assert_eq!(json, json!({"n": 1, "x": {"y": 2}}));
        assert!(set_at(&mut json, &parse_path(".n.z").expect("is a path"), json!(2)).is_err());
    }
}
