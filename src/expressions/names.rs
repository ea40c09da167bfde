//! The names that an expression may read as variables, assigned before its program.
//!
//! Called by the compiler. A program gets `name = %name` in front for each name that occurs in its text, so that only
//! what is read is built. Positions in the text do not change.

use std::collections::BTreeMap;

use ::vrl::compiler::TypeState;
use ::vrl::compiler::state::{ExternalEnv, LocalEnv};
use ::vrl::parser::{self, ast};
use ::vrl::value::Kind;
use ::vrl::value::kind::Collection;

use crate::model::path::Step;

/// The names that every expression has.
pub(super) const NAMES: [&str; 5] = ["key", "timestamp", "headers", "window", ORIGIN];

/// Where the record was read: `{topic, partition, offset}`; null where that is not known.
pub(super) const ORIGIN: &str = "origin";

/// What VRL knows before the program starts: the types of the value and of the variables.
pub(super) fn state(used: &[&str], vars: &[(&str, Kind)], value: &Kind) -> TypeState {
    let object = |fields: &[(&str, Kind)]| {
        let fields: BTreeMap<_, _> = fields.iter().map(|(n, kind)| ((*n).into(), kind.clone())).collect();
        Kind::object(Collection::from(fields))
    };
    let kinds: Vec<(&str, Kind)> = used
        .iter()
        .map(|&name| {
            let kind = match name {
                "key" => Kind::bytes().or_null(),
                "timestamp" => Kind::integer(),
                "headers" => Kind::object(Collection::any()),
                "window" => object(&[("start", Kind::integer()), ("end", Kind::integer())]).or_null(),
                ORIGIN => {
                    let place = [
                        ("topic", Kind::bytes()),
                        ("partition", Kind::integer()),
                        ("offset", Kind::integer()),
                    ];
                    object(&place).or_null()
                }
                _ => {
                    vars.iter().find(|(var, _)| *var == name).map_or_else(Kind::any, |(_, kind)| kind.clone())
                }
            };
            (name, kind)
        })
        .collect();
    TypeState {
        local: LocalEnv::default(),
        external: ExternalEnv::new_with_kind(value.clone(), object(&kinds)),
    }
}

/// The program with `name = %name` in front for every name it uses. Positions in the program do not change.
pub(super) fn with_names(program: ast::Program, used: &[&str]) -> ast::Program {
    let lines: String = used.iter().map(|name| format!("{} = %{name}\n", shielded(name))).collect();
    let mut all = parser::parse(&lines).map(|p| p.0).unwrap_or_default();
    all.extend(program.0);
    ast::Program(all)
}

/// VRL reserves the word `timestamp`. As a variable it is renamed to this, of the same length, so that positions do not
/// change.
pub(super) const TIMESTAMP: &str = "timestam_";

/// The text with the variable `timestamp` renamed; strings, comments, fields and the function `timestamp()` are
/// unchanged.
pub(super) fn shielded(text: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let literal = c == '"' || (c == '\'' && matches!(before, 's' | 'r' | 't'));
        let end = if literal {
            let mut escaped = false;
            let inside = rest[1..].find(|d: char| {
                let closes = d == c && !escaped;
                escaped = d == '\\' && !escaped;
                closes
            });
            inside.map_or(rest.len(), |at| at + 2)
        } else if c == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if word(c) {
            rest.find(|d: char| !word(d)).unwrap_or(rest.len())
        } else {
            c.len_utf8()
        };
        let (part, tail) = rest.split_at(end);
        let is_call = tail.starts_with('(') || tail.starts_with("!(");
        let is_field = before == '.' || before == '@' || before == '%';
        out.push_str(if part == "timestamp" && !is_call && !is_field { TIMESTAMP } else { part });
        before = part.chars().next_back().unwrap_or(' ');
        rest = tail;
    }
    out
}

/// Whether this word occurs in the text where a variable may be.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(|c| word(c) || c == '.') && !after.is_some_and(word)
    })
}

/// The fields of a variable that are read; `None` if the text also uses the variable without `.field`, so all of it may
/// be read.
pub(super) fn fields_named(text: &str, name: &str) -> Option<Vec<String>> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'@' || !b.is_ascii();
    let bytes = text.as_bytes();
    let mut fields: Vec<String> = Vec::new();
    for (at, _) in text.match_indices(name) {
        let end = at + name.len();
        if at > 0 && is_word(bytes[at - 1]) || bytes.get(end).is_some_and(|b| is_word(*b)) {
            continue;
        }
        let rest = bytes[end..].strip_prefix(b".")?;
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let starts = rest.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        if !starts || rest.get(length).is_some_and(|b| is_word(*b)) {
            return None;
        }
        fields.push(text[end + 1..end + 1 + length].to_owned());
    }
    fields.sort();
    fields.dedup();
    Some(fields)
}

/// The paths that are read of a variable; none if the text assigns another value to it.
pub(super) fn paths_named(text: &str, name: &str) -> Vec<Vec<Step>> {
    let tokens = super::measure::tokens(text);
    let mut paths = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        let before = n.checked_sub(1).map(|n| tokens[n]);
        if *token != name || matches!(before, Some("." | "@" | "%")) {
            continue;
        }
        let is_word = |t: &str| t.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let mut rest = &tokens[n + 1..];
        let mut path = Vec::new();
        while let [".", field, tail @ ..] = rest {
            if !is_word(field) {
                break;
            }
            path.push(Step::Field((*field).to_owned()));
            rest = tail;
        }
        let next = rest.iter().find(|token| !token.trim().is_empty());
        // An assignment, or a closure's own parameter.
        if matches!(next, Some(&("=" | "|=" | "|"))) || before == Some("|") {
            return Vec::new();
        }
        paths.push(path);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_whole_unless_only_its_fields_stand_in_the_text() {
        let check = |text: &str, want: Option<&[&str]>| {
            let want = want.map(|fields| fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
            assert_eq!(fields_named(text, "left"), want, "{text}");
        };
        check("left.a + left.b_2.c + left.a", Some(&["a", "b_2"]));
        check("{ \"leftover\": leftover, \"l\": aleft }", Some(&[]));
        check("left", None);
        check("{ \"a\": left, \"b\": left.b }", None);
        check("left[0]", None);
        check("left.\"odd name\"", None);
        check("left.a@b", None);
        check("\"left\" + left.a", None);
        check("x = left; x.a", None);
        check("merge(left, right)", None);
    }

    #[test]
    fn the_paths_of_a_name_are_found() {
        let check = |text: &str, want: &[&str]| {
            let paths = paths_named(text, "left").into_iter().map(|path| {
                let step = |step| match step {
                    Step::Field(name) => name,
                    Step::Index(n) => n.to_string(),
                };
                path.into_iter().map(step).collect::<Vec<_>>().join(".")
            });
            assert_eq!(paths.collect::<Vec<_>>(), want, "{text}");
        };
        check("left.a + left.b.c == left", &["a", "b.c", ""]);
        check("{ \"left\": .left, \"x\": left.a[0].b } # left.c", &["a"]);
        check("\"left.a {{ left }}\" + upcase(left.s)", &["s"]);
        check("left = 1\nleft.a", &[]);
        check("map_values(.a) -> |left| { left.b }", &[]);
    }
}
