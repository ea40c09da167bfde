//! The most common kind of program, `{ "n": left.n, "plan": .plan.name, "kind": "order" }`, run without the
//! interpreter.
//!
//! It is first compiled like any other, so that types and errors are VRL's. If the text is nothing but an object of
//! paths and plain literals, its result is then built here, equal to the interpreter's: either as a value, or directly
//! as text from the texts of what it reads (`Texts`).

use bytes::Bytes;

use super::Compiled;
use crate::model::path::{Step, look_up, parse_path};
use crate::model::{EvalError, Function, Json, NotJson, Scope, Types, Value, pick, pick_texts, text};

/// Where the value of a field comes from.
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
    /// Sorted by name, as the interpreter orders them.
    parts: Vec<(String, Part)>,
    texts: Option<Texts>,
    program: Compiled,
}

impl ObjectOf {
    /// The program in this form; or unchanged, if it is not of this kind.
    #[expect(clippy::result_large_err, reason = "no error: the other form")]
    pub(super) fn of(program: Compiled, text: &str, vars: &[&str]) -> Result<ObjectOf, Compiled> {
        match parse(text, vars) {
            Some(parts) => Ok(ObjectOf { texts: Texts::of(&parts), parts, program }),
            None => Err(program),
        }
    }
}

impl Function for ObjectOf {
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        let mut picked: Option<Vec<Option<Json>>> = None;
        if let (true, Value::Bytes(bytes)) = (self.program.reads_value, scope.value) {
            let found = match &self.program.fields {
                Some(fields) => {
                    pick::<Json>(bytes, fields).map_err(|e| EvalError::NotJson(NotJson(e.to_string())))?
                }
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

    fn text(&self, value: &Value, vars: &[(&str, &Value)]) -> Option<Result<Bytes, EvalError>> {
        self.texts.as_ref()?.join(value, vars)
    }

    fn yields(&self) -> Types {
        self.program.yields()
    }

    fn reads_value(&self) -> bool {
        self.program.reads_value()
    }

    fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.program.fields_of(name)
    }
}

/// The object as text: fixed pieces, with the texts of fields between them.
struct Texts {
    sides: Vec<Side>,
    pieces: Vec<Piece>,
    end: String,
}

/// A value that fields are read from.
struct Side {
    /// The variable's name; `None` for the record's value.
    var: Option<String>,
    /// Which of its fields are read.
    fields: Vec<String>,
}

/// A fixed piece, and the field that follows it.
struct Piece {
    before: String,
    side: usize,
    field: usize,
    /// Fields within the field.
    path: Vec<String>,
}

/// Most fields, and most sides, of an object that is built as text.
const FIELDS: usize = 12;
const SIDES: usize = 3;

/// What was found in a side.
#[derive(Clone, Copy)]
enum Found<'v> {
    /// The texts of its fields, starting at this position.
    Texts(usize),
    Json(&'v Json),
    Nothing,
}

impl Texts {
    /// `None` if an element of a list is read, or if there are more fields than [`FIELDS`].
    fn of(parts: &[(String, Part)]) -> Option<Texts> {
        let mut texts = Texts { sides: Vec::new(), pieces: Vec::new(), end: String::new() };
        let mut before = String::from("{");
        for (n, (name, part)) in parts.iter().enumerate() {
            before.push_str(if n > 0 { "," } else { "" });
            before.push_str(&format!("{}:", Json::from(name.as_str())));
            let (var, path) = match part {
                Part::Literal(json) => {
                    before.push_str(&json.to_string());
                    continue;
                }
                Part::Value(path) => (None, path),
                Part::Var(var, path) => (Some(var.clone()), path),
            };
            let names: Option<Vec<String>> = path
                .iter()
                .map(|step| match step {
                    Step::Field(name) => Some(name.clone()),
                    Step::Index(_) => None,
                })
                .collect();
            let mut names = names?.into_iter();
            let first = names.next()?;
            let side = texts.sides.iter().position(|side| side.var == var).unwrap_or_else(|| {
                texts.sides.push(Side { var, fields: Vec::new() });
                texts.sides.len() - 1
            });
            let fields = &mut texts.sides[side].fields;
            let field = fields.iter().position(|f| *f == first).unwrap_or_else(|| {
                fields.push(first);
                fields.len() - 1
            });
            let before = std::mem::take(&mut before);
            texts.pieces.push(Piece { before, side, field, path: names.collect() });
        }
        before.push('}');
        texts.end = before;
        let fields: usize = texts.sides.iter().map(|side| side.fields.len()).sum();
        (texts.sides.len() <= SIDES && fields <= FIELDS).then_some(texts)
    }

    /// `None` if the text of a side is not an object.
    fn join(&self, value: &Value, vars: &[(&str, &Value)]) -> Option<Result<Bytes, EvalError>> {
        // A value must be JSON even if nothing of it is read.
        for (name, value) in vars {
            let read = self.sides.iter().any(|side| side.var.as_deref() == Some(name));
            if let (false, Value::Bytes(bytes)) = (read, value)
                && let Err(e) = pick_texts(bytes, &[], &mut [])
            {
                return Some(Err(not_json(&e, Some(name))));
            }
        }
        let mut texts = [None; FIELDS];
        let mut found = [Found::Nothing; SIDES];
        let mut at = 0;
        for (side, found) in self.sides.iter().zip(&mut found) {
            let value = match &side.var {
                Some(var) => vars.iter().find(|(name, _)| name == var).map(|(_, value)| *value)?,
                None => value,
            };
            *found = match value {
                Value::Null => Found::Nothing,
                Value::Json(json) => Found::Json(json),
                Value::Bytes(bytes) => {
                    let places = &mut texts[at..at + side.fields.len()];
                    match pick_texts(bytes, &side.fields, places) {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(e) => return Some(Err(not_json(&e, side.var.as_deref()))),
                    }
                    at += side.fields.len();
                    Found::Texts(at - side.fields.len())
                }
            };
        }
        let mut out = Vec::with_capacity(self.end.len() + self.pieces.len() * 32);
        for piece in &self.pieces {
            out.extend_from_slice(piece.before.as_bytes());
            let fields = &self.sides[piece.side].fields;
            let made = match found[piece.side] {
                Found::Nothing => piece.append(None, &mut out),
                Found::Texts(at) => piece.append(texts[at + piece.field], &mut out),
                Found::Json(json) => {
                    piece.append_json(json.get(fields[piece.field].as_str()), &mut out);
                    Ok(())
                }
            };
            if let Err(e) = made {
                return Some(Err(e));
            }
        }
        out.extend_from_slice(self.end.as_bytes());
        Some(Ok(Bytes::from(out)))
    }
}

impl Piece {
    fn append(&self, field: Option<&str>, out: &mut Vec<u8>) -> Result<(), EvalError> {
        let mut field = field;
        for name in &self.path {
            let Some(text) = field else { break };
            let mut inner = [None];
            pick_texts(text.as_bytes(), std::slice::from_ref(name), &mut inner)
                .map_err(|e| not_json(&e, None))?;
            field = inner[0];
        }
        text::append(field.unwrap_or("null"), out).map_err(|e| EvalError::Failed(e.to_string()))
    }

    fn append_json(&self, field: Option<&Json>, out: &mut Vec<u8>) {
        let json = self.path.iter().fold(field, |json, name| json?.get(name));
        text::append_json(json.unwrap_or(&Json::Null), out);
    }
}

fn not_json(error: &serde_json::Error, side: Option<&str>) -> EvalError {
    let side = side.map(|side| format!(" (the {side} side)")).unwrap_or_default();
    EvalError::NotJson(NotJson(format!("{error}{side}")))
}

/// Fields by name; `None` if the text is, or may be, something else.
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
    // If a name occurs twice the last one counts; which one that is, is left to the interpreter.
    parts.windows(2).all(|w| w[0].0 != w[1].0).then_some(parts)
}

/// A string without escapes or templates.
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
    use crate::model::{Headers, Origin, Timestamp};

    #[test]
    fn it_gives_what_the_interpreter_gives() {
        let good = [
            r#"{ "n": left.n, "plan": right.plan }"#,
            r#"{"z": .a.b, "a": .list[1].x, "m": "text", "k": 17, "t": true, "f": false, "no": null}"#,
            "{\n  \"a\": .a,\n  \"b\": .list\n}",
            r#"{ "deep": left.a.b, "all": .missing.one }"#,
            r#"{ "deep": .a.b, "deeper": .a.b.c, "right": right.plan.name, "no": right.plan.name.no }"#,
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
            // The same program in a form that is not recognised here.
            let slow = compiler.compile(&format!("x = {text}\nx"), None, &names).unwrap();
            for value in &values {
                let scope = Scope {
                    key: None,
                    value,
                    ts: Timestamp(0),
                    window: None,
                    headers: &Headers::default(),
                    origin: Origin::default(),
                    topics: &[],
                    vars: &vars,
                };
                let want = slow.eval(&scope).unwrap().to_string();
                let bytes = |json: &Json| Value::Bytes(format!("{json:#}").into());
                for (left, right) in
                    [(bytes(&left), bytes(&right)), (Value::from(left.clone()), Value::from(right.clone()))]
                {
                    let made = fast.text(value, &[("left", &left), ("right", &right)]);
                    let no_object = matches!(value, Value::Bytes(bytes) if !bytes.starts_with(b"{"));
                    let by_value = text.contains('[') || no_object && fast.reads_value();
                    assert_eq!(made.is_none(), by_value, "{text} of {value:?}");
                    if let Some(made) = made {
                        assert_eq!(made.unwrap(), want, "{text} of {value:?}");
                    }
                }
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
                origin: Origin::default(),
                topics: &[],
                vars: &vars,
            };
            let bad = Value::Bytes("{".into());
            if fast.reads_value() {
                assert!(fast.eval(&scope).is_err(), "{text} of what is not JSON");
                assert!(fast.text(&bad, &[]).is_none_or(|made| made.is_err()), "{text} of what is not JSON");
            }
            let made = fast.text(&Value::Null, &[("left", &bad), ("right", &Value::Null)]);
            assert!(made.is_none_or(|made| made.is_err()), "{text} beside what is not JSON");
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
