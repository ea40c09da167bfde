//! Paths into a value: `.a.b[0]."odd name"`.

use super::expr::EvalError;
use super::value::Json;

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
