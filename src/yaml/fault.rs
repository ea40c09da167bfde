//! Turns serde's errors into problems: a cause in the terms of a YAML file, then a problem at its place.
//!
//! Called by `decode` only.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Expected, Unexpected};

use super::tree::{Kind, Node};
use crate::model::{Problem, Refused, did_you_mean};

/// A node's identity while it is borrowed.
pub(super) fn id(node: &Node) -> *const Node {
    std::ptr::from_ref(node)
}

/// The error that travels through serde.
#[derive(Debug)]
pub struct Fault(pub Cause);

#[derive(Debug)]
pub(super) enum Cause {
    /// It has its place: the value to leave out, and the problem (`None` if it follows from one reported before).
    Placed(*const Node, Option<Problem>),
    /// Another type was asked for.
    Type(String),
    /// A map of these fields was asked for.
    Fields(&'static [&'static str]),
    /// A list of another length was expected.
    Length(String),
    Missing(&'static str),
    Variant(String, &'static [&'static str]),
    /// The value's own type does not take it; what to write, where the type says so.
    Custom(String, Option<String>),
}

impl Cause {
    /// The problem at a place; `node` is the value found there.
    pub(super) fn problem(self, span: Range<usize>, node: &Node) -> Problem {
        match self {
            Cause::Type(expected) | Cause::Length(expected) => {
                let problem = Problem::new("wrong-type", format!("expected {expected}, found {node}"))
                    .at(span, format!("expected {expected}"));
                match (&node.kind, expected.as_str()) {
                    (Kind::Int(n), "text") => problem.help(format!("put it in quotes: `\"{n}\"`")),
                    (Kind::UInt(_) | Kind::Float(_) | Kind::Bool(_), "text") => {
                        problem.help("put it in quotes")
                    }
                    (Kind::Int(n), e) if e.starts_with("a duration") => {
                        problem.help(format!("write it with its unit, like `{n}s` or `{n}ms`"))
                    }
                    (Kind::Int(n), e) if e.starts_with("a rate") => {
                        problem.help(format!("write it with its unit, like `{n}/s` or `{n}/m`"))
                    }
                    (Kind::Int(n), e) if e.starts_with("a size") => {
                        problem.help(format!("write it with its unit, like `{n}B` or `{n}MiB`"))
                    }
                    (Kind::Null, "a map") => problem.help("write `{}` to take the defaults"),
                    (Kind::Text(t), "a list") => problem.help(format!("write `[{t}]`")),
                    (_, expected) => {
                        let help = example(expected);
                        problem.help(help)
                    }
                }
            }
            Cause::Missing(name) => Problem::new("missing-field", format!("missing field `{name}`"))
                .at(span, format!("`{name}` is needed here")),
            Cause::Variant(name, known) => {
                let problem = Problem::new("unknown-variant", format!("`{name}` is not known here"))
                    .at(span, "not known");
                problem.help(did_you_mean(&name, known))
            }
            Cause::Fields(fields) => {
                let known: Vec<String> = fields.iter().take(FIELDS_SHOWN).map(|f| format!("`{f}`")).collect();
                let more = if fields.len() > FIELDS_SHOWN { " and more" } else { "" };
                let help = match (&node.kind, fields.first()) {
                    (_, None) => "write `{}` to take the defaults".to_owned(),
                    (Kind::Null, Some(first)) => {
                        format!(
                            "write its settings, such as `{{ {first}: ... }}`, or `{{}}` for the defaults; or remove it"
                        )
                    }
                    (_, Some(first)) => {
                        format!(
                            "write it like `{{ {first}: ... }}`; its fields are {}{more}",
                            known.join(", ")
                        )
                    }
                };
                Problem::new("wrong-type", format!("expected a map, found {node}"))
                    .at(span, "expected a map")
                    .help(help)
            }
            Cause::Custom(message, help) => {
                let general =
                    || "write another value; `slackwater schema` prints what may stand where".into();
                Problem::new("bad-value", message).at(span, "this value").help(help.unwrap_or_else(general))
            }
            Cause::Placed(_, Some(problem)) => problem,
            Cause::Placed(_, None) => Problem::new("bad-value", "this cannot be read").at(span, "this value"),
        }
    }
}

/// Most fields named in a help line.
const FIELDS_SHOWN: usize = 12;

/// An example of what was expected.
fn example(expected: &str) -> String {
    if let Some((_, like)) = expected.split_once("such as ") {
        return format!("write it like {like}");
    }
    match expected {
        "text" => "write text, such as `abc`; in quotes where it has `: `, `,`, `[` or `{`".into(),
        "a list" => "write a list: `[a, b]`, or a line `- a` for each".into(),
        "a map" => "write a map: `{ name: value }`, or a line `name: value` for each".into(),
        "`true` or `false`" => "write `true` or `false`, without quotes".into(),
        "nothing" => "leave it empty, or write `{}`".into(),
        "a number" => "write a number, such as `1.5`, without quotes".into(),
        e if e.starts_with("a whole number") => "write a whole number, such as `10`, without quotes".into(),
        e if e.starts_with("one of") => format!("write {e}"),
        e => format!("write {e} here; `slackwater schema` prints what may stand where"),
    }
}

impl Fault {
    /// Gives the error its place and, if it has no help line, this one. An error that has a place keeps it.
    pub(super) fn placed(self, span: Range<usize>, node: &Node, help: Option<String>) -> Fault {
        match self.0 {
            Cause::Placed(..) => self,
            cause => {
                let mut problem = cause.problem(span, node);
                problem.help = problem.help.or(help);
                Fault(Cause::Placed(id(node), Some(problem)))
            }
        }
    }

    /// The value to leave out and the problem, at `node` where it has no place.
    pub(super) fn into_parts(self, node: &Node) -> (*const Node, Option<Problem>) {
        match self.0 {
            Cause::Placed(at, problem) => (at, problem),
            cause => (id(node), Some(cause.problem(node.span.clone(), node))),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        let (message, help) = Refused::read(&format!("{message:#}"));
        Fault(Cause::Custom(message, help))
    }
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault(Cause::Type(in_words(expected)))
    }
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault(Cause::Type(in_words(expected)))
    }
    fn invalid_length(_: usize, expected: &dyn Expected) -> Fault {
        Fault(Cause::Length(in_words(expected)))
    }
    fn missing_field(name: &'static str) -> Fault {
        Fault(Cause::Missing(name))
    }
    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Fault {
        Fault(Cause::Variant(name.to_owned(), known))
    }
}

/// What serde expects, in the terms of a YAML file.
pub(super) fn in_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" | "a borrowed string" | "a character" => "text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "unit" => "nothing".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        t if t.starts_with("a nonzero ") => "a whole number, 1 or more".into(),
        t if t.starts_with("struct ") || t.starts_with("enum ") || t == "a map" => "a map".into(),
        _ => text,
    }
}
