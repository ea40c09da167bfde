//! YAML text as a tree in which every value and every key knows its place.
//!
//! Called by `yaml/` with the text of a topology file. The one home of `serde-saphyr`. YAML 1.2: `on` and `yes` are
//! text; alias expansion is bounded. Where a key stands twice, both are read ([`names_once`]).
//!
//! Places are byte ranges of the file. A plain scalar's range is exactly its text. A quoted scalar's range includes
//! its quotes. A block scalar's range is its content, without the `|` line. A list or map reaches from its first to
//! its last element (an empty one covers its brackets). Behind an alias stand the places of the anchored text.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::model::{Json, Problem};

/// Nesting deeper than this is refused (the tree is walked recursively).
const DEPTH_MAX: usize = 32;
/// A topology file with more values than this is refused, aliases counted as often as they are used.
const NODES_MAX: usize = 250_000;

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Byte range in the file.
    pub span: Range<usize>,
    /// The value.
    pub kind: Kind,
    /// Was a variable put in here? Such text may be read as a number or a boolean.
    pub substituted: bool,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above the range of `i64`.
    UInt(u64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the file's order.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Byte range in the file.
    pub span: Range<usize>,
}

impl Node {
    /// A node without a variable in it.
    #[must_use]
    pub fn new(span: Range<usize>, kind: Kind) -> Node {
        Node { span, kind, substituted: false }
    }

    /// The value under a key of a map.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries().iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// The entries of a map; none for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON.
    #[must_use]
    pub fn json(&self) -> Json {
        match &self.kind {
            Kind::Null => Json::Null,
            Kind::Bool(b) => Json::from(*b),
            Kind::Int(n) => Json::from(*n),
            Kind::UInt(n) => Json::from(*n),
            Kind::Float(n) => Json::from(*n),
            Kind::Text(text) => Json::from(text.as_str()),
            Kind::List(items) => Json::Array(items.iter().map(Node::json).collect()),
            Kind::Map(entries) => {
                Json::Object(entries.iter().map(|(k, v)| (k.name.clone(), v.json())).collect())
            }
        }
    }
}

impl fmt::Display for Node {
    /// For messages: the kind of value and, if it is short, the value itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Null => f.write_str("nothing"),
            Kind::Bool(b) => write!(f, "`{b}`"),
            Kind::Int(n) => write!(f, "the number `{n}`"),
            Kind::UInt(n) => write!(f, "the number `{n}`"),
            Kind::Float(n) => write!(f, "the number `{n}`"),
            Kind::Text(text) if text.chars().count() > 40 => f.write_str("text"),
            Kind::Text(text) => write!(f, "the text `{text}`"),
            Kind::List(_) => f.write_str("a list"),
            Kind::Map(_) => f.write_str("a map"),
        }
    }
}

/// Reads one YAML document whose root is a map.
///
/// # Errors
/// The text is not YAML, or its root is no map: one problem, at its place.
pub fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
        // Both entries: what is wrong with the second is to be found too.
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX },
    };
    let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|e| yaml_problem(text, &e))?;
    let mut builder = Builder { text, left: NODES_MAX };
    let root = builder.node(raw, 0)?;
    match root.kind {
        Kind::Map(_) => Ok(root),
        Kind::Null => Err(Problem::new("yaml", "the file is empty")
            .at(0..0, "nothing here")
            .help("start with `name: my-topology`")),
        _ => Err(Problem::new("yaml", format!("a topology is a map, this is {root}"))
            .at(root.span, "expected `key: value` lines")
            .help("start with `name: my-topology`")),
    }
}

/// A value as the parser yields it. Boxed: `Spanned` is recursive through it.
struct Raw(Box<Spanned<RawKind>>);

enum RawKind {
    Scalar(Kind),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Raw, D::Error> {
        Ok(Raw(Box::new(Spanned::deserialize(d)?)))
    }
}

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<RawKind, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = RawKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }
            fn visit_unit<E>(self) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Null))
            }
            fn visit_none<E>(self) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Null))
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<RawKind, D::Error> {
                RawKind::deserialize(d)
            }
            fn visit_bool<E>(self, b: bool) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Bool(b)))
            }
            fn visit_i64<E>(self, n: i64) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Int(n)))
            }
            fn visit_u64<E>(self, n: u64) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(i64::try_from(n).map_or(Kind::UInt(n), Kind::Int)))
            }
            fn visit_f64<E>(self, n: f64) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Float(n)))
            }
            fn visit_str<E>(self, text: &str) -> Result<RawKind, E> {
                Ok(RawKind::Scalar(Kind::Text(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawKind, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(RawKind::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawKind, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(RawKind::Map(entries))
            }
        }
        d.deserialize_any(Any)
    }
}

/// Turns what the parser yields into our tree.
struct Builder<'a> {
    text: &'a str,
    left: usize,
}

impl Builder<'_> {
    fn node(&mut self, raw: Raw, depth: usize) -> Result<Node, Problem> {
        let Spanned { value, defined, .. } = *raw.0;
        let mut span = byte_range(self.text, defined);
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Problem::new("yaml", format!("more than {NODES_MAX} values"))
                .at(span.clone(), "aliases count as often as they are used")
                .help("write the values out, or make several files of it")
        })?;
        if depth > DEPTH_MAX {
            return Err(Problem::new("yaml", format!("nested deeper than {DEPTH_MAX}"))
                .at(span, "here")
                .help("a topology needs a handful of levels: is a bracket not closed?"));
        }
        let mut kind = match value {
            RawKind::Scalar(kind) => kind,
            RawKind::List(items) => Kind::List(
                items.into_iter().map(|item| self.node(item, depth + 1)).collect::<Result<_, _>>()?,
            ),
            RawKind::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let span = byte_range(self.text, key.defined);
                        Ok((Key { name: key.value, span }, self.node(value, depth + 1)?))
                    })
                    .collect::<Result<_, Problem>>()?,
            ),
        };
        match &mut kind {
            // The parser gives a collection the place of its first token only.
            Kind::List(items) => {
                if let (Some(first), Some(last)) = (items.first(), items.last()) {
                    span = span.start.min(first.span.start)..last.span.end.max(span.end);
                }
            }
            Kind::Map(entries) => {
                if let (Some((first, _)), Some((_, last))) = (entries.first(), entries.last()) {
                    span = span.start.min(first.span.start)..last.span.end.max(span.end);
                }
            }
            _ => span = trimmed(self.text, span),
        }
        if let (Kind::Float(_), Some(text)) = (&kind, self.text.get(span.clone()))
            && text.strip_prefix(['-', '+']).unwrap_or(text).bytes().all(|b| b.is_ascii_digit())
        {
            // The parser has made the nearest double of it.
            return Err(Problem::new("yaml", format!("the whole number {text} does not fit into 64 bits"))
                .at(span, "here")
                .help("put it in quotes as text, or write it as a double: `1e20`"));
        }
        Ok(Node::new(span, kind))
    }
}

/// The range without the white space around its text.
fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let Some(part) = text.get(span.clone()) else { return span };
    let start = span.start + (part.len() - part.trim_start().len());
    if part.trim().is_empty() { span.start..span.start } else { start..start + part.trim().len() }
}

/// The parser's place as a byte range, computed from line and column if it has no byte offset.
fn byte_range(text: &str, location: serde_saphyr::Location) -> Range<usize> {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let span = location.span();
    let range = match (span.byte_offset(), span.byte_len()) {
        (Some(start), Some(len)) => number(start)..number(start).saturating_add(number(len)),
        _ => {
            let line = number(location.line()).saturating_sub(1);
            let column = number(location.column()).saturating_sub(1);
            let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
            let inside: usize = text[start..].chars().take(column).map(char::len_utf8).sum();
            start + inside..start + inside
        }
    };
    range.start.min(text.len())..range.end.min(text.len())
}

/// Reports every key of a map that stands there twice, and keeps the first. In the maps under the names `apart` both stay:
/// their entries are read one by one.
pub fn names_once(root: &mut Node, apart: &[&str], problems: &mut Vec<Problem>) {
    let Kind::Map(sections) = &mut root.kind else { return };
    for (key, section) in &mut *sections {
        match &mut section.kind {
            Kind::Map(entries) if apart.contains(&key.name.as_str()) => {
                twice(entries, problems);
                entries.iter_mut().for_each(|(_, node)| each_once(node, problems));
            }
            _ => each_once(section, problems),
        }
    }
    let second = twice(sections, problems);
    let mut n = 0;
    let mut all = Vec::new();
    sections.retain(|(key, section)| {
        let stays = !second[n];
        n += 1;
        if !stays && let (true, Kind::Map(entries)) = (apart.contains(&key.name.as_str()), &section.kind) {
            all.push((key.name.clone(), entries.clone()));
        }
        stays
    });
    for (name, more) in all {
        if let Some((_, first)) = sections.iter_mut().find(|(key, _)| key.name == name)
            && let Kind::Map(entries) = &mut first.kind
        {
            entries.extend(more);
        }
    }
}

fn each_once(node: &mut Node, problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| each_once(item, problems)),
        Kind::Map(entries) => {
            let second = twice(entries, problems);
            let mut second = second.into_iter();
            entries.retain(|_| !second.next().unwrap_or(false));
            entries.iter_mut().for_each(|(_, below)| each_once(below, problems));
        }
        _ => {}
    }
}

/// By entry: did its key stand there before? Each that did is reported.
fn twice(entries: &[(Key, Node)], problems: &mut Vec<Problem>) -> Vec<bool> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut second = Vec::with_capacity(entries.len());
    for (Key { name, span }, _) in entries {
        second.push(!seen.insert(name));
        if second.last() == Some(&true) {
            let problem = match name.ends_with(')') {
                true => Problem::new(
                    "yaml",
                    format!("`{name}` is read as a name, because of the comma before it"),
                )
                .help(BETWEEN_BRACES),
                false => Problem::new("duplicate-name", format!("`{name}` stands here twice"))
                    .help("one would hide the other: rename or remove one of them"),
            };
            problems.push(problem.at(span.clone(), "here"));
        }
    }
    second
}

fn yaml_problem(text: &str, error: &serde_saphyr::Error) -> Problem {
    let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let message = one_sentence(&message);
    let problem = Problem::new("yaml", message.clone()).help(yaml_help(&message));
    match error.location() {
        Some(location) if location != serde_saphyr::Location::UNKNOWN => {
            let mut span = byte_range(text, location);
            if span.is_empty() {
                let rest = text[span.start..].lines().next().unwrap_or("");
                let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
                span.end = span.start + word;
            }
            problem.at(span, "here")
        }
        _ => problem,
    }
}

/// Between braces a comma ends a value, even inside parentheses.
const BETWEEN_BRACES: &str = "a `{` may not be closed before this place; between `{ }` put text that has `,`, `:`, `{`, `}` \
     or quotes in single quotes: `{ filter: 'contains(.name, \"a\")' }`";

/// The usual cause behind a message of the parser.
fn yaml_help(message: &str) -> String {
    let has = |word: &str| message.to_lowercase().contains(word);
    let help = if has("quoted scalar") || has("flow mapping") {
        BETWEEN_BRACES
    } else if has("block mapping") {
        "names of one level start in the same column"
    } else if has("too complex") || has("budget") || has("depth") || has("recursion") || has("alias") {
        "a topology needs a handful of levels and few aliases: is a bracket not closed? Else write the values out"
    } else if has("finite") {
        "write a number of at most 1.7e308, or put it in quotes as text"
    } else if has("document") {
        "a file is one topology: remove the `---` and what follows it, or make two files of it"
    } else if has("unexpected character") || has("control") {
        "the file is not plain text here: remove the character, or save it as UTF-8"
    } else if has("tab") {
        "indent with spaces"
    } else {
        "write `name: value` lines, with two more spaces for each level; text with `: `, ` #` or quotes stands in single \
         quotes: `map: '{ \"a\": .a }'`"
    };
    help.into()
}

/// The message's first line, without the place, which the report shows anyway.
fn one_sentence(message: &str) -> String {
    let line = message.lines().find(|l| !l.trim().is_empty()).unwrap_or("this is no YAML").trim();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node {
        parse(text).unwrap_or_else(|p| panic!("{p:?}"))
    }

    /// The value of `x`, and the part of the text that it covers.
    fn check(text: &str, kind: Kind, covers: &str) {
        let root = root(text);
        let node = root.get("x").unwrap_or_else(|| panic!("no x in {text:?}"));
        assert_eq!(node.kind, kind, "{text:?}");
        assert_eq!(&text[node.span.clone()], covers, "{text:?}");
    }

    fn t(text: &str) -> Kind {
        Kind::Text(text.into())
    }

    #[test]
    fn a_scalar_knows_its_place() {
        check("x: abc\n", t("abc"), "abc");
        check("größe: ü\nx: häß # ä\n", t("häß"), "häß");
    }

    #[test]
    fn scalars_are_yaml_1_2() {
        check("x: on\n", t("on"), "on");
        check("x: yes\n", t("yes"), "yes");
        check("x: true\n", Kind::Bool(true), "true");
        check("x: 12\n", Kind::Int(12), "12");
        check("x: -3\n", Kind::Int(-3), "-3");
        check("x: 18446744073709551615\n", Kind::UInt(u64::MAX), "18446744073709551615");
        check("x: 1.5\n", Kind::Float(1.5), "1.5");
        check("x: 30s\n", t("30s"), "30s");
        check("x: 0755\n", t("0755"), "0755");
        check("x: 1_000\n", t("1_000"), "1_000");
        check("x: ~\n", Kind::Null, "~");
        check("x: null\n", Kind::Null, "null");
        check("x:\ny: 1\n", Kind::Null, "");
        check("x: .amount > 1000\n", t(".amount > 1000"), ".amount > 1000");
        check("x: .status == \"paid\"\n", t(".status == \"paid\""), ".status == \"paid\"");
    }

    #[test]
    fn a_quoted_scalar_covers_its_quotes() {
        check("x: \"12\"\n", t("12"), "\"12\"");
        check("x: 'it''s'\n", t("it's"), "'it''s'");
        check("ü: 1\nx: \"a\\tä\" # c\n", t("a\tä"), "\"a\\tä\"");
    }

    #[test]
    fn a_block_scalar_covers_its_content() {
        check("x: |\n  a\n  b\ny: 1\n", t("a\nb\n"), "a\n  b");
        check("x: >\n  a\n  b\ny: 1\n", t("a b\n"), "a\n  b");
        check("x: a\n  b\ny: 1\n", t("a b"), "a\n  b");
    }

    #[test]
    fn keys_and_collections_know_their_place() {
        let text = "ö: 1\nouter:\n  inner: { a: 1, b: [ü, 2] }\n  \"q k\": 1\n";
        let root = root(text);
        let outer = root.get("outer").expect("is there");
        let keys: Vec<_> = outer.entries().iter().map(|(k, _)| (&*k.name, &text[k.span.clone()])).collect();
        assert_eq!(keys, [("inner", "inner"), ("q k", "\"q k\"")]);
        let inner = outer.get("inner").expect("is there");
        assert!(text[inner.span.clone()].starts_with('{'), "{:?}", &text[inner.span.clone()]);
        assert!(text[outer.span.clone()].starts_with("inner"), "{:?}", &text[outer.span.clone()]);
        assert_eq!(inner.json(), serde_json::json!({"a": 1, "b": ["ü", 2]}));
    }

    #[test]
    fn an_alias_stands_for_its_anchor() {
        let text = "a: &a { n: 1 }\nx: *a\n";
        let root = root(text);
        assert_eq!(root.get("x").map(Node::json), root.get("a").map(Node::json));
    }

    /// The problem of a broken file, and its place.
    fn refused(text: &str, part: &str, at: Option<&str>) {
        let problem = parse(text).expect_err(text);
        assert!(problem.message.contains(part), "{}", problem.message);
        assert!(problem.help.is_some(), "{}", problem.message);
        let place = problem.span.map(|s| &text[s]);
        assert_eq!(place, at, "{}", problem.message);
    }

    #[test]
    fn broken_yaml_is_refused_with_its_place() {
        refused("", "empty", Some(""));
        refused("a: 1\n---\nb: 2\n", "document", Some("b:"));
        refused("a: x\0y\n", "unexpected character", Some("\0y"));
        let deep = format!("a: {}1{}\n", "[".repeat(40), "]".repeat(40));
        refused(&deep, "", Some("["));
        refused("- a\n", "a list", Some("- a"));
        refused("a: 1\n b: 2\n", "", Some(":"));
        refused("a: [1, 2\n", "bracket", Some("[1,"));
    }

    #[test]
    fn names_that_stand_twice_are_all_found_and_hide_nothing() {
        let text = "a: 1\nnodes: { x: { p: 1, p: 2 }, x: 3 }\nb: [{ q: 1, q: 2 }]\na: 3\nnodes: { y: 4 }\n\
                    c: { d: top(.x, 3), e: top(.y, 3) }\n";
        let (mut root, mut problems) = (root(text), Vec::new());
        names_once(&mut root, &["nodes"], &mut problems);
        let mut found: Vec<_> = problems
            .iter()
            .map(|p| {
                (
                    p.span.clone().map_or(0, |span| text[..span.start].matches('\n').count() + 1),
                    p.message.as_str(),
                )
            })
            .collect();
        found.sort_unstable();
        let twice = |line, name| (line, format!("`{name}` stands here twice"));
        let want = [
            twice(2, "p"),
            twice(2, "x"),
            twice(3, "q"),
            twice(4, "a"),
            twice(5, "nodes"),
            (6, "`3)` is read as a name, because of the comma before it".to_owned()),
        ];
        assert_eq!(found, want.iter().map(|(line, m)| (*line, m.as_str())).collect::<Vec<_>>());
        let keys: Vec<&str> = root.entries().iter().map(|(key, _)| key.name.as_str()).collect();
        assert_eq!(keys, ["a", "nodes", "b", "c"]);
        let nodes = root.get("nodes").expect("is there").entries();
        assert_eq!(nodes.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>(), ["x", "x", "y"]);
        assert_eq!(
            (root.get("a").map(Node::json), nodes[0].1.json()),
            (Some(1.into()), serde_json::json!({"p": 1}))
        );
    }

    #[test]
    fn a_merged_map_may_be_overwritten() {
        let (mut root, mut problems) = (root("base: &b { p: 1, q: 2 }\nx: { <<: *b, p: 3 }\n"), Vec::new());
        names_once(&mut root, &[], &mut problems);
        assert_eq!(problems, []);
        assert_eq!(root.get("x").map(Node::json), Some(serde_json::json!({"p": 3, "q": 2})));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let row = format!("*a{}, ", n - 1).repeat(10);
            text.push_str(&format!("a{n}: &a{n} [{}]\n", row.trim_end_matches(", ")));
        }
        assert!(parse(&text).is_err());
        let mut chain = String::from("a0: &a0 x\n");
        for n in 1..100 {
            chain.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
        }
        assert!(parse(&chain).is_err());
        let deep = format!("a: {}{}\n", "[".repeat(200), "]".repeat(200));
        assert!(parse(&deep).is_err());
    }
}
