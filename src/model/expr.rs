//! Expressions as operators see them: something that reads a record and yields JSON.
//!
//! [`Expr`] is the text of an expression in a topology together with its compiled form. Bare expressions (`key`,
//! `timestamp`, `.user.id`, a JSON literal) are compiled here and run without an interpreter; `expressions/` compiles
//! everything else with VRL. The Rust DSL makes an `Expr` from a closure with [`Expr::native`].

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::number::read_json;
use super::path::{Step, look_up, parse_path};
use super::pick::pick;
use super::reason::Reason;
use super::record::{Headers, Origin, Record, Window};
use super::time::Timestamp;
use super::types::Types;
use super::value::{Json, NotJson, Value};

/// What an expression may read.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// `key`: the record's key.
    pub key: Option<&'a Bytes>,
    /// `.`: the record's value.
    pub value: &'a Value,
    /// `timestamp`: the record's timestamp, milliseconds.
    pub ts: Timestamp,
    /// `window`: `{start, end}` of a windowed record.
    pub window: Option<Window>,
    /// `headers`: the record's headers, as text.
    pub headers: &'a Headers,
    /// `origin`: where the record was read.
    pub origin: Origin,
    /// The topics that `origin` counts; empty where they are not known. [`Expr::set_topics`] puts them in.
    pub topics: &'a [Arc<str>],
    /// Names that the node adds: `left`, `right`, `acc`, `value` ...
    pub vars: &'a [(&'a str, &'a Json)],
}

impl<'a> Scope<'a> {
    /// The scope of one record.
    #[must_use]
    pub fn of(record: &'a Record) -> Scope<'a> {
        Scope {
            key: record.key.as_ref(),
            value: &record.value,
            ts: record.ts,
            window: record.window,
            headers: &record.headers,
            origin: record.origin,
            topics: &[],
            vars: &[],
        }
    }

    /// Topic, partition and offset of the record that was read; `None` where that is not known.
    #[must_use]
    pub fn place(&self) -> Option<(&'a str, i32, i64)> {
        let Origin { topic, partition, offset } = self.origin;
        let topic = self.topics.get(usize::from(topic)).filter(|_| offset >= 0)?;
        Some((topic, partition, offset))
    }

    /// The same scope with names of the node's own.
    #[must_use]
    pub fn with(self, vars: &'a [(&'a str, &'a Json)]) -> Scope<'a> {
        Scope { vars, ..self }
    }

    /// The key as text.
    ///
    /// # Errors
    /// It is no UTF-8: as text, two keys could be one.
    pub fn key_str(&self) -> Result<Option<&'a str>, EvalError> {
        let text = self.key.map(|key| std::str::from_utf8(key)).transpose();
        text.map_err(|e| EvalError::Failed(format!("the key is no UTF-8 text: {e}")))
    }

    /// The key as JSON text, for people; `null` without one. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn key_json(&self) -> Json {
        self.key.map_or(Json::Null, |k| Json::String(String::from_utf8_lossy(k).into_owned()))
    }
}

/// The expression failed on this record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EvalError {
    /// It reads a field of a value that is not JSON.
    #[error(transparent)]
    NotJson(#[from] NotJson),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    /// The reason that a dead letter and the metrics give.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            EvalError::NotJson(_) => Reason::NotJson,
            EvalError::Failed(_) => Reason::Expression,
        }
    }

    /// The same error with a description of where it happened. An error about a value that is not JSON stays as it is.
    #[must_use]
    pub fn context(self, say: impl FnOnce(&str) -> String) -> EvalError {
        match self {
            EvalError::Failed(message) => EvalError::Failed(say(&message)),
            not_json @ EvalError::NotJson(_) => not_json,
        }
    }
}

/// A compiled expression. Pure: no I/O, no clock, the same answer for the same scope.
pub trait Function: Send + Sync {
    /// The expression's result for one record. A missing field is `null`.
    ///
    /// # Errors
    /// The value is not JSON where a field is asked for, or the expression itself fails.
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError>;

    /// The result as JSON text, put together from the texts of what is read (the record's value, and variables by
    /// name), without parsing them. `None`: this expression cannot do that, so use [`Function::eval`]. Both give the
    /// same result.
    fn text(&self, value: &Value, vars: &[(&str, &Value)]) -> Option<Result<Bytes, EvalError>> {
        let _ = (value, vars);
        None
    }

    /// What the result may be, as far as it is known before any record.
    fn yields(&self) -> Types {
        Types::ANY
    }

    /// Whether it may read the value (`.`).
    fn reads_value(&self) -> bool {
        true
    }

    /// Whether it reads `origin`, the place where its record was read.
    fn reads_origin(&self) -> bool {
        false
    }

    /// The fields that it reads of the variable `name`; `None`: it may read all of it.
    fn fields_of(&self, name: &str) -> Option<&[String]> {
        let _ = name;
        None
    }
}

/// A function together with the kinds of its result.
struct Typed<F>(F, Types);

impl<F> Function for Typed<F>
where
    F: Fn(&Scope<'_>) -> Result<Json, EvalError> + Send + Sync,
{
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        self.0(scope)
    }
    fn yields(&self) -> Types {
        self.1
    }
}

/// A function together with the topics that the origins of its records count.
struct Placed {
    function: Arc<dyn Function>,
    topics: Arc<[Arc<str>]>,
}

impl Function for Placed {
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        self.function.eval(&Scope { topics: &self.topics, ..*scope })
    }
    fn text(&self, value: &Value, vars: &[(&str, &Value)]) -> Option<Result<Bytes, EvalError>> {
        self.function.text(value, vars)
    }
    fn yields(&self) -> Types {
        self.function.yields()
    }
    fn reads_value(&self) -> bool {
        self.function.reads_value()
    }
    fn reads_origin(&self) -> bool {
        self.function.reads_origin()
    }
    fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.function.fields_of(name)
    }
}

impl<F> Function for F
where
    F: Fn(&Scope<'_>) -> Result<Json, EvalError> + Send + Sync,
{
    fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        self(scope)
    }
}

/// An expression of a topology: its text, its place in the file, and, once compiled, its function.
#[derive(Clone)]
pub struct Expr {
    text: String,
    span: Option<Range<usize>>,
    function: Option<Arc<dyn Function>>,
    types: Types,
}

impl Expr {
    /// An expression from its text; bare ones are ready at once, others wait for [`Expr::compile_with`].
    #[must_use]
    pub fn new(text: impl Into<String>, span: Option<Range<usize>>) -> Expr {
        let text = text.into();
        let function = bare(&text);
        Expr { text, span, function, types: Types::ANY }
    }

    /// An expression written in Rust, for the DSL. `text` is what graphs and errors show.
    #[must_use]
    pub fn native(
        text: impl Into<String>,
        f: impl Fn(&Scope<'_>) -> Result<Json, EvalError> + Send + Sync + 'static,
    ) -> Expr {
        Expr { text: text.into(), span: None, function: Some(Arc::new(f)), types: Types::ANY }
    }

    /// The text as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Byte range in the topology file.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// Whether it has a function; without one it must not run.
    #[must_use]
    pub fn is_compiled(&self) -> bool {
        self.function.is_some()
    }

    /// Sets the function made from this text.
    pub fn compile_with(&mut self, function: Arc<dyn Function>) {
        self.function = Some(function);
    }

    /// What the result may be, as far as it is known before any record.
    #[must_use]
    pub fn types(&self) -> Types {
        self.types
    }

    /// Says what the result may be.
    pub fn set_types(&mut self, types: Types) {
        self.types = types;
    }

    /// Whether it is literally `key`.
    #[must_use]
    pub fn is_key(&self) -> bool {
        self.text.trim() == "key"
    }

    /// Whether it is known in advance that the result is always `null`, or that there is never one (`abort`).
    #[must_use]
    pub fn is_always_null(&self) -> bool {
        self.yields() == Types::NULL || self.types == Types::NEVER
    }

    /// What the result may be, as far as it is known before any record.
    #[must_use]
    pub fn yields(&self) -> Types {
        self.function.as_ref().map_or(Types::ANY, |f| f.yields())
    }

    /// See [`Function::reads_value`].
    #[must_use]
    pub fn reads_value(&self) -> bool {
        self.function.as_ref().is_none_or(|f| f.reads_value())
    }

    /// See [`Function::reads_origin`].
    #[must_use]
    pub fn reads_origin(&self) -> bool {
        self.function.as_ref().is_some_and(|f| f.reads_origin())
    }

    /// Says which topics the origins of its records count: those of the task that runs it, in its order.
    pub fn set_topics(&mut self, topics: Arc<[Arc<str>]>) {
        let placed = self.function.take().map(|function| Placed { function, topics });
        self.function = placed.map(|placed| -> Arc<dyn Function> { Arc::new(placed) });
    }

    /// See [`Function::fields_of`].
    #[must_use]
    pub fn fields_of(&self, name: &str) -> Option<&[String]> {
        self.function.as_ref().and_then(|f| f.fields_of(name))
    }

    /// Evaluates the expression.
    ///
    /// # Errors
    /// See [`Function::eval`]; also when the expression was never compiled.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        match &self.function {
            Some(f) => f.eval(scope),
            None => Err(EvalError::Failed(format!("the expression `{}` was not compiled", self.text))),
        }
    }

    /// See [`Function::text`].
    #[must_use]
    pub fn text_of(&self, value: &Value, vars: &[(&str, &Value)]) -> Option<Result<Bytes, EvalError>> {
        self.function.as_ref().and_then(|f| f.text(value, vars))
    }

    /// Evaluates a condition: only `true` and `false` are answers.
    ///
    /// # Errors
    /// See [`Expr::eval`]; also when the result is no boolean.
    pub fn test(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        match self.eval(scope)? {
            Json::Bool(b) => Ok(b),
            other => Err(EvalError::Failed(format!("`{}` gave {other}, not true or false", self.text))),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({:?})", self.text)
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// The name under which an [`Expr`] asks its deserializer for `(start, end, text)`. The deserializer in `yaml/` knows
/// it.
pub const EXPR_TOKEN: &str = "$slackwater::Expr";

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Expr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Expr, A::Error> {
                let start: u64 = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let end: u64 = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
                let text: String = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(2, &self))?;
                let at = |n: u64| usize::try_from(n).unwrap_or(0);
                Ok(Expr::new(text, Some(at(start)..at(end))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expr, E> {
                Ok(Expr::new(text, None))
            }
        }
        d.deserialize_tuple_struct(EXPR_TOKEN, 3, Parts)
    }
}

impl JsonSchema for Expr {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A VRL expression over the record: `.field`, `key`, `timestamp`, `headers`, a literal, or a program.",
            "type": ["string", "number", "boolean", "object", "array", "null"]
        })
    }
}

/// The bare expressions: `key`, `timestamp`, `.`, `.a.b[0]."odd name"`, `left`, `right.x`, and JSON literals.
fn bare(text: &str) -> Option<Arc<dyn Function>> {
    let text = text.trim();
    match text {
        "key" => {
            let key = |s: &Scope<'_>| s.key_str().map(Json::from);
            return Some(Arc::new(Typed(key, Types::STRING.or(Types::NULL))));
        }
        "timestamp" => {
            return Some(Arc::new(Typed(|s: &Scope<'_>| Ok(Json::from(s.ts.0)), Types::NUMBER)));
        }
        _ => {}
    }
    if let Some(path) = parse_path(text) {
        let first = path.iter().take(1).filter_map(|step| match step {
            Step::Field(name) => Some(name.clone()),
            Step::Index(_) => None,
        });
        let first: Vec<String> = first.collect();
        return Some(Arc::new(move |s: &Scope<'_>| {
            if let (Value::Bytes(bytes), [_]) = (s.value, first.as_slice())
                && let Some(mut found) =
                    pick::<Json>(bytes, &first).map_err(|e| EvalError::NotJson(NotJson(e.to_string())))?
            {
                let Some(field) = found.pop().flatten() else { return Ok(Json::Null) };
                return Ok(match &path[1..] {
                    [] => field,
                    rest => look_up(&field, rest).cloned().unwrap_or(Json::Null),
                });
            }
            let json = s.value.json()?;
            Ok(look_up(&json, &path).cloned().unwrap_or(Json::Null))
        }));
    }
    let literal: Json = read_json(text.as_bytes()).ok()?;
    let yields = Types::of(&literal);
    Some(Arc::new(Typed(move |_: &Scope<'_>| Ok(literal.clone()), yields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Option<Json>) {
        let record = Record::new("k1", Value::from(json!({"a": {"b": [1, 2]}, "odd name": 3})), Timestamp(7));
        let expr = Expr::new(text, None);
        let got =
            expr.is_compiled().then(|| expr.eval(&Scope::of(&record)).expect("bare expressions do not fail"));
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn a_key_that_is_no_text_is_not_made_one() {
        let record = Record::new(&b"a\xff"[..], Value::Null, Timestamp(7));
        let failed = Expr::new("key", None).eval(&Scope::of(&record)).expect_err("no text").to_string();
        assert!(failed.contains("the key is no UTF-8 text"), "{failed}");
        let none = Record { key: None, ..record };
        assert_eq!(Expr::new("key", None).eval(&Scope::of(&none)), Ok(Json::Null));
    }

    #[test]
    fn bare_expressions_need_no_language() {
        check("key", Some(json!("k1")));
        check("timestamp", Some(json!(7)));
        check(".a.b[1]", Some(json!(2)));
        check(".\"odd name\"", Some(json!(3)));
        check(".missing.deep", Some(Json::Null));
        check(".", Some(json!({"a": {"b": [1, 2]}, "odd name": 3})));
        check("true", Some(json!(true)));
        check("{\"x\": 1}", Some(json!({"x": 1})));
        check(".a == 1", None);
        check("{ \"x\": .a }", None);
    }
}
