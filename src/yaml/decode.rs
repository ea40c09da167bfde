//! From the tree to config types: a `serde::Deserializer` over a [`Node`] that reports *every* problem, each at its place.
//!
//! Called for a whole file or for one node of it. serde stops at the first error, so `decode` runs it again with the
//! faulty value left out, until it succeeds or nothing is left. An error that only follows from a reported one (a
//! required field was left out) is not reported. Unknown fields are reported and skipped.
//!
//! Supported: what derived config types ask for, externally tagged enums included. `flatten`, `untagged` and internal
//! tags lose places and are not used in this project.

use std::cell::RefCell;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Expected, Visitor};
use serde::forward_to_deserialize_any;

use super::access::{Entries, Items, Place, Variant};
use super::fault::{Cause, Fault, id, in_words};
use super::tree::{Key, Kind, Node};
use crate::model::document::DOCUMENT_TOKEN;
use crate::model::expr::EXPR_TOKEN;
use crate::model::{Problem, did_you_mean, near};

/// Reads a `T` from the node and adds every problem found. `None` if a value could not be read. With unknown fields
/// alone there is a value (without them), so that later checks can report their problems too.
pub fn decode<T: DeserializeOwned>(node: &Node, problems: &mut Vec<Problem>) -> Option<T> {
    let run = Run::default();
    let value = loop {
        match (Walk { node, key: None, run: &run }).read(PhantomData) {
            Ok(found) => break Some(found).filter(|_| run.faulty.borrow().is_empty()),
            Err(fault) => {
                let (at, problem) = fault.into_parts(node);
                run.problems.borrow_mut().extend(problem);
                if !run.faulty.borrow_mut().insert(at) || at == id(node) {
                    break None;
                }
            }
        }
    };
    for problem in run.problems.into_inner() {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    value
}

/// What is known from earlier passes over the tree.
#[derive(Default)]
pub(super) struct Run {
    problems: RefCell<Vec<Problem>>,
    /// Values left out because they, or something they need, could not be read.
    faulty: RefCell<HashSet<*const Node>>,
    /// Values of unknown fields.
    unknown: RefCell<HashSet<*const Node>>,
}

impl Run {
    pub(super) fn is_faulty(&self, node: &Node) -> bool {
        self.faulty.borrow().contains(&id(node))
    }
}

/// The deserializer: one node, the key it stands under, and the run.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) node: &'a Node,
    pub(super) key: Option<&'a Key>,
    pub(super) run: &'a Run,
}

impl<'a> Walk<'a> {
    /// Where a problem of this node is shown: for a map or an empty value, at its key.
    fn place(&self) -> Range<usize> {
        match (&self.node.kind, self.key) {
            (Kind::Map(_) | Kind::List(_), Some(key)) => key.span.clone(),
            (_, Some(key)) if self.node.span.is_empty() => key.span.clone(),
            (Kind::Map(entries), None) => {
                entries.first().map_or(self.node.span.clone(), |(key, _)| key.span.clone())
            }
            _ => self.node.span.clone(),
        }
    }

    /// Gives an error the place of this node.
    fn put<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| {
            let follows = match (&fault.0, &self.node.kind) {
                (Cause::Missing(name), Kind::Map(entries)) => entries.iter().any(|(k, v)| {
                    // The field exists under a misspelt name, which is reported already.
                    let misspelt =
                        || self.run.unknown.borrow().contains(&id(v)) && near(&k.name, &[*name]).is_some();
                    k.name == *name && self.run.is_faulty(v) || misspelt()
                }),
                (Cause::Length(_), Kind::List(items)) => items.iter().any(|v| self.run.is_faulty(v)),
                _ => false,
            };
            if follows {
                return Fault(Cause::Placed(id(self.node), None));
            }
            let help = match (&fault.0, self.key) {
                (Cause::Missing(name), Some(key)) => Some(format!("add `{name}: ...` under `{}`", key.name)),
                (Cause::Missing(name), None) => Some(format!("add `{name}: ...`")),
                _ => None,
            };
            fault.placed(self.place(), self.node, help)
        })
    }

    /// Reads this node. What a type itself refuses (a unit, a template) gets its place here.
    pub(super) fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.put(seed.deserialize(self))
    }

    fn mismatch<T>(&self, expected: &dyn Expected) -> Result<T, Fault> {
        self.put(Err(Fault(Cause::Type(in_words(expected)))))
    }

    /// A number; also read from text if a variable supplied it.
    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let unsigned = |visitor: V, n: i64| match u64::try_from(n) {
            Ok(n) => visitor.visit_u64(n),
            Err(_) => visitor.visit_i64(n),
        };
        let result = match &self.node.kind {
            Kind::Int(n) => unsigned(visitor, *n),
            Kind::UInt(n) => visitor.visit_u64(*n),
            Kind::Float(n) => visitor.visit_f64(*n),
            Kind::Text(text) if self.node.substituted => {
                let text = text.trim();
                match (text.parse::<i64>(), text.parse::<u64>(), text.parse::<f64>()) {
                    (Ok(n), _, _) => unsigned(visitor, n),
                    (_, Ok(n), _) => visitor.visit_u64(n),
                    (_, _, Ok(n)) if n.is_finite() => visitor.visit_f64(n),
                    _ => return self.mismatch(&visitor),
                }
            }
            _ => return self.mismatch(&visitor),
        };
        self.put(result)
    }

    /// The entries to read: known, and not left out. Unknown ones are reported.
    fn known_entries(&self, entries: &'a [(Key, Node)], fields: &[&'static str]) -> Vec<&'a (Key, Node)> {
        let mut known = Vec::with_capacity(entries.len());
        for entry in entries {
            let (key, node) = entry;
            if !fields.contains(&key.name.as_str()) {
                let problem = Problem::new("unknown-field", format!("unknown field `{}`", key.name))
                    .at(key.span.clone(), "not known here")
                    .help(did_you_mean(&key.name, fields));
                let mut problems = self.run.problems.borrow_mut();
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
                self.run.unknown.borrow_mut().insert(id(node));
            } else if !self.run.is_faulty(node) {
                known.push(entry);
            }
        }
        known
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => self.put(visitor.visit_unit()),
            Kind::Bool(b) => self.put(visitor.visit_bool(*b)),
            Kind::Text(text) => self.put(visitor.visit_str(text)),
            Kind::Int(_) | Kind::UInt(_) | Kind::Float(_) => self.number(visitor),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Bool(b) => self.put(visitor.visit_bool(*b)),
            Kind::Text(t) if self.node.substituted && matches!(t.as_str(), "true" | "false") => {
                self.put(visitor.visit_bool(t == "true"))
            }
            _ => self.mismatch(&visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Text(text) => self.put(visitor.visit_str(text)),
            _ => self.mismatch(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // A field without a value is not taken for a missing one: an empty `grace:` is an error, not `grace: 0s`.
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => self.put(visitor.visit_unit()),
            Kind::Map(entries) if entries.is_empty() => self.put(visitor.visit_unit()),
            _ => self.mismatch(&visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Fault> {
        self.deserialize_unit(v)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        v: V,
    ) -> Result<V::Value, Fault> {
        if name == DOCUMENT_TOKEN && matches!(self.node.kind, Kind::Map(_)) {
            return self.deserialize_map(v);
        }
        let result = v.visit_newtype_struct(self);
        self.put(result)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::List(items) => {
                let items: Vec<_> = items.iter().filter(|item| !self.run.is_faulty(item)).collect();
                self.put(visitor.visit_seq(Items { items: items.into_iter(), run: self.run }))
            }
            _ => self.mismatch(&visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::List(items) if items.len() > length => {
                self.put(Err(Fault(Cause::Length(format!("a list of {length}")))))
            }
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name != EXPR_TOKEN {
            return self.deserialize_tuple(length, visitor);
        }
        let text = match &self.node.kind {
            Kind::Text(text) => text.clone(),
            _ => self.node.json().to_string(),
        };
        self.put(visitor.visit_seq(Place { span: self.node.span.clone(), text, step: 0 }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Map(entries) => {
                let entries: Vec<_> = entries.iter().filter(|(_, v)| !self.run.is_faulty(v)).collect();
                self.put(visitor.visit_map(Entries {
                    entries: entries.into_iter(),
                    value: None,
                    run: self.run,
                }))
            }
            _ => self.mismatch(&visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Map(entries) => {
                let entries = self.known_entries(entries, fields);
                self.put(visitor.visit_map(Entries {
                    entries: entries.into_iter(),
                    value: None,
                    run: self.run,
                }))
            }
            _ => self.put(Err(Fault(Cause::Fields(fields)))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let known = || variants.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
        let result = match &self.node.kind {
            Kind::Text(name) => visitor.visit_enum(Variant { walk: self, name, content: None }),
            Kind::Map(entries) => match entries.as_slice() {
                [(key, content)] => {
                    visitor.visit_enum(Variant { walk: self, name: &key.name, content: Some((key, content)) })
                }
                [] => Err(Fault(Cause::Custom(
                    format!("expected one of {}, found an empty map", known()),
                    None,
                ))),
                [_, (second, _), ..] => {
                    let names: Vec<_> = entries.iter().map(|(k, _)| format!("`{}`", k.name)).collect();
                    let problem =
                        Problem::new("one-of", format!("only one may stand here: {}", names.join(", ")))
                            .at(second.span.clone(), "one too many")
                            .help(format!("one of {}", known()));
                    Err(Fault(Cause::Placed(id(self.node), Some(problem))))
                }
            },
            _ => Err(Fault(Cause::Type(format!("one of {}", known())))),
        };
        self.put(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Deserialize;

    use super::super::tree::parse;
    use super::*;
    use crate::model::{Expr, Json, Millis, Rate, Size, Template};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Debounce {
        quiet: Millis,
        max_wait: Option<Millis>,
        #[serde(default)]
        keep: Keep,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Keep {
        #[default]
        Last,
        First,
        Merge(Expr),
        Fold {
            init: Json,
        },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Work {
        Debounce(Debounce),
        Filter(Expr),
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct File {
        name: String,
        port: u16,
        ratio: f64,
        on: bool,
        limit: Option<Rate>,
        size: Option<Size>,
        pair: (u8, String),
        names: Vec<String>,
        columns: BTreeMap<String, Expr>,
        url: Option<Template>,
        work: HashMap<String, Work>,
        json: Json,
        offset: i64,
        count: u64,
        again: Option<Box<File>>,
    }

    fn read(text: &str) -> (Option<File>, Vec<Problem>) {
        let mut problems = Vec::new();
        let node = parse(text).unwrap_or_else(|p| panic!("{p:?}"));
        (decode(&node, &mut problems), problems)
    }

    #[test]
    fn a_good_file_is_read_whole() {
        let (file, problems) = read(concat!(
            "name: ü\nport: 80\nratio: 1\non: true\nlimit: 1500/s\nsize: 64MiB\npair: [1, b]\nnames: [a, b]\n",
            "columns: { A: key, B: .b, C: 1, D: {x: [1]}, E: null }\nurl: 'http://h/{{ key }}'\n",
            "work: { a: { debounce: { quiet: 30s, keep: first } }, b: { filter: .x > 1 } }\n",
            "json: { a: [1, null] }\noffset: -1\ncount: 18446744073709551615\nagain: { name: b }\n",
        ));
        assert_eq!(problems, []);
        let file = file.expect("has no problem");
        assert_eq!((file.port, file.ratio, file.on, file.offset, file.count), (80, 1.0, true, -1, u64::MAX));
        assert_eq!(file.pair, (1, "b".to_owned()));
        let texts: Vec<_> = file.columns.values().map(Expr::text).collect();
        assert_eq!(texts, ["key", ".b", "1", "{\"x\":[1]}", "null"]);
        assert!(
            matches!(&file.work["a"], Work::Debounce(d) if d.quiet == Millis(30_000) && d.keep == Keep::First)
        );
        assert_eq!(file.json, serde_json::json!({"a": [1, null]}));
        assert_eq!(file.url.as_ref().map(Template::text), Some("http://h/{{ key }}"));
        assert_eq!(file.again.map(|f| f.name), Some("b".to_owned()));
    }

    #[test]
    fn an_expression_knows_its_place() {
        let text = "name: ü\ncolumns: { A: \".b\" }\n";
        let (file, _) = read(text);
        let span = file.expect("is read").columns["A"].span().expect("has a place");
        assert_eq!(&text[span], "\".b\"");
    }

    /// Every problem: code, the text at its place, and a part of its message and help together.
    fn check(text: &str, expected: &[(&str, &str, &str)]) {
        let (_, problems) = read(text);
        let got: Vec<_> = problems.iter().map(|p| (p.code, &text[p.span.clone().unwrap_or(0..0)])).collect();
        let want: Vec<_> = expected.iter().map(|(code, at, _)| (*code, *at)).collect();
        assert_eq!(got, want, "{problems:#?}");
        for (problem, (_, _, part)) in problems.iter().zip(expected) {
            let all = format!("{} {}", problem.message, problem.help.clone().unwrap_or_default());
            assert!(all.contains(part), "{part:?} in {all:?}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_neighbour() {
        check("nmae: x\n", &[("unknown-field", "nmae", "did you mean `name`?")]);
        check("again: { zzzzzz: 1 }\n", &[("unknown-field", "zzzzzz", "known here: `name`, `port`")]);
        let (file, _) = read("nmae: x\nport: 1\n");
        assert_eq!(file.map(|f| f.port), Some(1), "unknown fields alone leave a value");
    }

    #[test]
    fn a_wrong_type_says_what_was_expected() {
        check("port: abc\n", &[("wrong-type", "abc", "from 0 to 65535, found the text `abc`")]);
        check("port: 70000\n", &[("wrong-type", "70000", "from 0 to 65535")]);
        check("port: -1\n", &[("wrong-type", "-1", "from 0 to 65535")]);
        check("ratio: x\n", &[("wrong-type", "x", "a number")]);
        check("on: yes\n", &[("wrong-type", "yes", "`true` or `false`")]);
        check("name: 12\n", &[("wrong-type", "12", "`\"12\"`")]);
        check("name:\n", &[("wrong-type", "name", "expected text, found nothing")]);
        check("names: a\n", &[("wrong-type", "a", "write `[a]`")]);
        check("names: [a, {b: c}, d, 5]\n", &[("wrong-type", "b", "text"), ("wrong-type", "5", "text")]);
        check("columns: 5\n", &[("wrong-type", "5", "a map")]);
        check("again: [a]\n", &[("wrong-type", "again", "a map, found a list")]);
        check("pair: [1, a, 2]\n", &[("wrong-type", "pair", "a list of 2")]);
        check("pair: [1]\n", &[("wrong-type", "pair", "")]);
        check("limit: 1500\n", &[("wrong-type", "1500", "a rate such as `1500/s`, found the number `1500`")]);
    }

    #[test]
    fn a_unit_says_how_it_is_written() {
        check("limit: fast\n", &[("bad-value", "fast", "`1500/s`")]);
        check("url: 'x {{ key'\n", &[("bad-value", "'x {{ key'", "`}}`")]);
        check("again: { size: 1 bit }\n", &[("bad-value", "1 bit", "`64KiB`")]);
    }

    #[test]
    fn a_missing_field_is_shown_at_its_map() {
        check(
            "work: { a: { debounce: {} } }\n",
            &[("missing-field", "debounce", "add `quiet: ...` under `debounce`")],
        );
    }

    #[test]
    fn a_variant_is_named() {
        check("work: { a: { debonce: { quiet: 1s } } }\n", &[("unknown-variant", "debonce", "`debounce`?")]);
        check("work: { a: sleep }\n", &[("unknown-variant", "sleep", "`debounce`, `filter`")]);
        check("work: { a: filter }\n", &[("wrong-type", "filter", "write `filter: ...`")]);
        check(
            "work: { a: { filter: .x, debounce: { quiet: 1s } } }\n",
            &[("one-of", "debounce", "only one")],
        );
        check(
            "work: { a: { debounce: { quiet: 1s, keep: { first: 1 } } } }\n",
            &[("wrong-type", "1", "takes no settings")],
        );
        check(
            "work: { a: { debounce: { quiet: 1s, keep: { fold: { ini: 1 } } } } }\n",
            &[("unknown-field", "ini", "`init`")],
        );
    }

    #[test]
    fn all_problems_are_found_at_once() {
        check(
            concat!(
                "name: [x]\nport: 1.5\nnmes: 1\nlimit: x\nwork:\n  a: { debounce: { quiet: 30, max_wait: y } }\n",
                "  b: { debounce: { quiet: 1s, keep: lsat } }\n  c: { filter: .ok }\n",
            ),
            &[
                ("unknown-field", "nmes", "`names`"),
                ("wrong-type", "name", "text"),
                ("wrong-type", "1.5", "whole"),
                ("bad-value", "x", "rate"),
                ("wrong-type", "30", "30s"),
                ("bad-value", "y", "duration"),
                ("unknown-variant", "lsat", "`last`"),
            ],
        );
    }

    #[test]
    fn a_variable_may_be_a_number() {
        let mut node = parse("port: \"${P}\"\nratio: \"${R}\"\non: ${B}\nname: \"${P}\"\n").expect("is YAML");
        let variable = |name: &str| {
            Some(match name {
                "P" => "80".to_owned(),
                "R" => "0.5".to_owned(),
                _ => "true".to_owned(),
            })
        };
        let (mut secrets, mut problems) = (super::super::Secrets::default(), Vec::new());
        super::super::substitute(
            &mut node,
            super::super::Mode::Required,
            &super::super::env::Sources {
                variable: &variable,
                file: &|path| (path.into(), Err(String::new())),
            },
            &mut secrets,
            &mut problems,
        );
        let file: Option<File> = decode(&node, &mut problems);
        assert_eq!(problems, []);
        assert_eq!(file.map(|f| (f.port, f.ratio, f.on, f.name)), Some((80, 0.5, true, "80".to_owned())));
    }

    #[test]
    fn quoted_text_is_no_number() {
        check("port: \"80\"\n", &[("wrong-type", "\"80\"", "found the text `80`")]);
    }
}
