//! The commonest program of all, `{ "n": left.n, "plan": .plan.name, "kind": "order" }`, without the interpreter.
//!
//! The program is compiled like any other first, so that its types and problems are VRL's. Where its text is an object of
//! paths and plain literals and nothing more, its result is put together here, as the interpreter would.

use super::Compiled;
use crate::model::expr::{Step, look_up, parse_path};
use crate::model::{EvalError, Function, Json, Scope, Value, Yields, pick};

/// Where a field's value comes from.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// A path into the record's value.
    Value(Vec<Step>),
    /// A path into a variable.
    Var(String, Vec<Step>),
    Literal(Json),
}

/// A compiled object of paths and literals.
pub(super) struct ObjectOf {
    /// By name, as the interpreter orders them.
    parts: Vec<(String, Part)>,
    program: Compiled,
}

impl ObjectOf {
    /// The program in this form, or as it was.
    #[expect(clippy::result_large_err, reason = "no error: the other form")]
    pub(super) fn of(program: Compiled, text: &str, vars: &[&str]) -> Result<ObjectOf, Compiled> {
        match parse(text, vars) {
            Some(parts) => Ok(ObjectOf { parts, program }),
            None => Err(program),
        }
    }
}

impl Function for ObjectOf {
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        let mut picked: Option<Vec<Option<Json>>> = None;
        if let (true, Value::Bytes(bytes)) = (self.program.reads_value, scope.value) {
            let found = match &self.program.fields {
                Some(fields) => pick::<Json>(bytes, fields)
                    .map_err(|e| EvalError(format!("the value is not JSON: {e}")))?,
                None => None,
            };
            if found.is_none() {
                return self.program.eval(scope);
            }
            picked = found;
        }
        let names = self.program.fields.as_deref().unwrap_or_default();
        let field = |path: &[Step]| -> Option<Json> {
            match (&picked, scope.value) {
                (Some(found), _) => {
                    let (Step::Field(name), rest) = path.split_first()? else { return None };
                    let at = names.binary_search(name).ok()?;
                    look_up(found.get(at)?.as_ref()?, rest).cloned()
                }
                (None, Value::Json(json)) => look_up(json, path).cloned(),
                (None, Value::Null | Value::Bytes(_)) => None,
            }
        };
        let part = |part: &Part| match part {
            Part::Value(path) => field(path),
            Part::Var(name, path) => {
                let json = scope.vars.iter().find(|(var, _)| var == name).map(|(_, json)| *json);
                look_up(json?, path).cloned()
            }
            Part::Literal(json) => Some(json.clone()),
        };
        let fields = self.parts.iter().map(|(name, p)| (name.clone(), part(p).unwrap_or(Json::Null)));
        Ok(Json::Object(fields.collect()))
    }

    fn yields(&self) -> Yields {
        self.program.yields()
    }

    fn reads_value(&self) -> bool {
        self.program.reads_value()
    }

    fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.program.fields_of(name)
    }
}

/// Fields by name; `None`: the text is something else, or might be.
fn parse(text: &str, vars: &[&str]) -> Option<Vec<(String, Part)>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut parts: Vec<(String, Part)> = Vec::new();
    while !rest.is_empty() {
        let (name, after) = string(rest)?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let (part, after) = value(after, vars)?;
        parts.push((name, part));
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(',')?.trim_start();
        if rest.is_empty() {
            return None;
        }
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    // Of a name that is there twice the last counts; which that is, only the interpreter should say.
    parts.windows(2).all(|w| w[0].0 != w[1].0).then_some(parts)
}

/// A string without escapes and templates.
fn string(text: &str) -> Option<(String, &str)> {
    let (inside, rest) = text.strip_prefix('"')?.split_once('"')?;
    let plain = !inside.contains(['\\', '\n']) && !inside.contains("{{");
    plain.then(|| (inside.to_owned(), rest))
}

fn value<'t>(text: &'t str, vars: &[&str]) -> Option<(Part, &'t str)> {
    if text.starts_with('"') {
        return string(text).map(|(text, rest)| (Part::Literal(text.into()), rest));
    }
    let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.starts_with('.') {
        let path = parse_path(word).filter(|path| matches!(path.first(), Some(Step::Field(_))))?;
        return Some((Part::Value(path), rest));
    }
    if let Some(var) = vars.iter().find(|var| word.strip_prefix(**var).is_some_and(|r| r.starts_with('.'))) {
        return Some((Part::Var((*var).to_owned(), parse_path(&word[var.len()..])?), rest));
    }
    let plain = match word {
        "null" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        digits if digits.len() < 16 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Json::from(digits.parse::<i64>().ok()?)
        }
        _ => return None,
    };
    Some((Part::Literal(plain), rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::VrlCompiler;
    use super::*;
    use crate::model::{Headers, Timestamp};

    #[test]
    fn it_gives_what_the_interpreter_gives() {
        let good = [
            r#"{ "n": left.n, "plan": right.plan }"#,
            r#"{"z": .a.b, "a": .list[1].x, "m": "text", "k": 17, "t": true, "f": false, "no": null}"#,
            "{\n  \"a\": .a,\n  \"b\": .list\n}",
            r#"{ "deep": left.a.b, "all": .missing.one }"#,
        ];
        let values = [
            Value::Bytes(r#"{"a":{"b":[1,2.5,"ä"]},"list":[1,{"x":-3}],"odd name":7}"#.into()),
            Value::from(json!({ "a": 1, "list": [1, { "x": null }], "n": 3 })),
            Value::Bytes("[1,2]".into()),
            Value::Bytes("7".into()),
            Value::Null,
        ];
        let (left, right) = (json!({ "n": 1, "a": { "b": [true] } }), json!({ "plan": { "name": "pro" } }));
        let vars = [("left", &left), ("right", &right)];
        let compiler = VrlCompiler::new("");
        for text in good {
            let names = ["left", "right"];
            let parts = parse(text, &names).unwrap_or_else(|| panic!("{text} is of this form"));
            assert!(!parts.is_empty());
            let fast = compiler.compile(text, None, &names).unwrap();
            // The same program, in a form that is not read here.
            let slow = compiler.compile(&format!("x = {text}\nx"), None, &names).unwrap();
            for value in &values {
                let scope = Scope {
                    key: None,
                    value,
                    ts: Timestamp(0),
                    window: None,
                    headers: &Headers::default(),
                    vars: &vars,
                };
                let (fast, slow) = (fast.eval(&scope), slow.eval(&scope));
                assert_eq!(fast.clone().unwrap(), slow.unwrap(), "{text} of {value:?}");
                let names: Vec<String> = fast.unwrap().as_object().unwrap().keys().cloned().collect();
                assert!(names.is_sorted(), "{names:?}");
            }
            let (value, headers) = (Value::Bytes("{".into()), Headers::default());
            let scope = Scope {
                key: None,
                value: &value,
                ts: Timestamp(0),
                window: None,
                headers: &headers,
                vars: &vars,
            };
            if fast.reads_value() {
                assert!(fast.eval(&scope).is_err(), "{text} of what is not JSON");
            }
        }
        for other in [
            r#"{ "n": left.n + 1 }"#,
            r#"{ "n": left }"#,
            r#"{ "n": key }"#,
            r#"{ "n": 1.50 }"#,
            r#"{ "n": "{{ key }}" }"#,
            r#"{ "n": "a\"b" }"#,
            r#"{ "n": { "m": .a } }"#,
            r#"{ "n": .a, "n": .b }"#,
            r#"{ "n": string!(.a) }"#,
            r#"{ "n": . }"#,
            r#"{ "n": ."odd name" }"#,
            ".a",
        ] {
            assert_eq!(parse(other, &["left", "right"]), None, "{other}");
        }
    }
}
