//! Variables: `${VAR}` and `${VAR:-default}` in the values of the tree, and `${file:PATH}`, a secret in a file. `$${` is a
//! plain `${`.
//!
//! Called after `tree`, before `decode`. It works on parsed scalars only, never on the file's text, so a value cannot
//! become YAML. Keys stay as they are. A default is used if the variable is unset or empty, as in a shell.

use std::ops::Range;
use std::path::PathBuf;

use super::secret::Secrets;
use super::tree::{Kind, Node};
use crate::model::Problem;
use crate::model::secret::trimmed;

/// What an unset variable without a default means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A problem: `run`, `check`.
    Required,
    /// The text `${VAR}` stays as it is: `test`, `simulate`, `graph`, where nothing is connected.
    Lenient,
}

/// A file's path from here, and its text or why there is none.
pub type FileText = (PathBuf, Result<String, String>);

/// Where the values come from that are put in.
pub struct Sources<'a> {
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// What stands in a file.
    pub file: &'a dyn Fn(&str) -> FileText,
}

/// Puts variables and files into every value of the tree; remembers which of their values are secret.
pub fn substitute(
    node: &mut Node,
    mode: Mode,
    from: &Sources<'_>,
    secrets: &mut Secrets,
    problems: &mut Vec<Problem>,
) {
    let span = node.span.clone();
    match &mut node.kind {
        Kind::Text(text) => {
            if let Some((new, changed)) = replace(text, &span, mode, from, secrets, problems) {
                *text = new;
                node.substituted |= changed;
            }
        }
        Kind::List(items) => {
            for item in items {
                substitute(item, mode, from, secrets, problems);
            }
        }
        Kind::Map(entries) => {
            for (_, value) in entries {
                substitute(value, mode, from, secrets, problems);
            }
        }
        _ => {}
    }
}

/// The text with its variables filled in, and whether there was one; `None` if the text has none.
fn replace(
    text: &str,
    span: &Range<usize>,
    mode: Mode,
    from: &Sources<'_>,
    secrets: &mut Secrets,
    problems: &mut Vec<Problem>,
) -> Option<(String, bool)> {
    if !text.contains("${") {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut changed = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = closing(&rest[at + 2..]).map(|end| at + 2 + end) else {
            problems.push(
                Problem::new("variable", "`${` has no `}`")
                    .at(span.clone(), "not closed")
                    .help("write `${NAME}` or `${NAME:-default}`; for a plain `${`, write `$${`"),
            );
            rest = &rest[at..];
            break;
        };
        let inside = &rest[at + 2..end];
        if let Some(path) = inside.strip_prefix("file:") {
            let (place, text) = (from.file)(path);
            match text {
                Ok(text) => {
                    let secret = trimmed(&text);
                    if secret.is_empty() || secret.contains(['\n', '\r']) {
                        let what = if secret.is_empty() { "is empty" } else { "has several lines" };
                        problems.push(
                            Problem::new("secret-file", format!("the file `{path}` {what}"))
                                .at(span.clone(), "read here")
                                .help("a secret is one line; a line break at its end is left out"),
                        );
                    }
                    secrets.learn_file(place, secret);
                    out.push_str(secret);
                    changed = true;
                }
                Err(_) if mode == Mode::Lenient => out.push_str(&rest[at..=end]),
                Err(e) => problems.push(
                    Problem::new("secret-file", format!("cannot read the file `{path}`: {e}"))
                        .at(span.clone(), "needed here")
                        .help("a path is relative to the topology file"),
                ),
            }
            rest = &rest[end + 1..];
            continue;
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            problems.push(
                Problem::new("variable", format!("`{name}` is no name of a variable"))
                    .at(span.clone(), "in `${...}`")
                    .help("write `${NAME}` or `${NAME:-default}`; for a plain `${`, write `$${`"),
            );
        } else {
            let value = (from.variable)(name).map(|value| match Secrets::is_secret_name(name) {
                // As `$(cat FILE)` leaves it out, and an env file does not.
                true => trimmed(&value).to_owned(),
                false => value,
            });
            let value = value.filter(|v| !v.is_empty() || default.is_none());
            match (value, default) {
                (Some(value), _) => {
                    secrets.learn(name, &value);
                    out.push_str(&value);
                    changed = true;
                }
                (None, Some(default)) => {
                    // A default may have variables of its own.
                    let inner = replace(default, span, mode, from, secrets, problems);
                    let default = inner.map_or_else(|| default.to_owned(), |(text, _)| text);
                    secrets.learn(name, &default);
                    out.push_str(&default);
                    changed = true;
                }
                (None, None) if mode == Mode::Lenient => out.push_str(&rest[at..=end]),
                (None, None) => problems.push(
                    Problem::new("unset-variable", format!("the environment variable `{name}` is not set"))
                        .at(span.clone(), "needed here")
                        .help(format!("set it, or write a default: `${{{name}:-...}}`")),
                ),
            }
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some((out, changed))
}

/// Where the brace is that closes the one before this text: braces inside of it come in pairs.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    fn put(text: &str, mode: Mode) -> (Node, Secrets, Vec<Problem>) {
        let mut node = parse(text).expect("is YAML");
        let (mut secrets, mut problems) = (Secrets::default(), Vec::new());
        let variable = |name: &str| match name {
            "HOST" => Some("h1".to_owned()),
            "N" => Some("12".to_owned()),
            "EMPTY" => Some(String::new()),
            "DB_PASSWORD" => Some("hunter2".to_owned()),
            "EVIL" => Some("a: [b".to_owned()),
            "API_TOKEN" => Some("t0ken-of-lines\r\n".to_owned()),
            _ => None,
        };
        let file = |path: &str| {
            let text = match path {
                "token" => Ok("from-a-file\n".to_owned()),
                "two" => Ok("one\ntwo\n".to_owned()),
                "empty" => Ok("\n".to_owned()),
                _ => Err("No such file".to_owned()),
            };
            (PathBuf::from(path), text)
        };
        let from = Sources { variable: &variable, file: &file };
        substitute(&mut node, mode, &from, &mut secrets, &mut problems);
        (node, secrets, problems)
    }

    fn check(value: &str, expected: &str, substituted: bool) {
        let (node, _, problems) = put(&format!("x: \"{value}\"\n"), Mode::Lenient);
        let x = node.get("x").expect("is there");
        assert_eq!((x.text(), x.substituted), (Some(expected), substituted), "{value}");
        assert_eq!(problems, [], "{value}");
    }

    #[test]
    fn variables_are_put_into_values() {
        check("${HOST}:9092", "h1:9092", true);
        check("${HOST:-other}", "h1", true);
        check("${NONE:-localhost:9092}", "localhost:9092", true);
        check("${EMPTY:-d}", "d", true);
        check("${EMPTY}", "", true);
        check("${NONE:-}", "", true);
        check("a ${HOST} b ${N}", "a h1 b 12", true);
        check("$${HOST}", "${HOST}", false);
        check("${NONE}", "${NONE}", false);
        check("${EVIL}", "a: [b", true);
        check("${NONE:-${HOST}}", "h1", true);
        check("${NONE:-${ALSO:-c}}", "c", true);
        check("${NONE:-${ALSO:-${HOST}:${N}}/x}y", "h1:12/xy", true);
        check("${HOST:-${NONE}}", "h1", true);
        check("${NONE:-${ALSO}}", "${ALSO}", true);
        check("${NONE:-{a: {b: 1}}}", "{a: {b: 1}}", true);
        check("${NONE:-x/{{ key }}}", "x/{{ key }}", true);
        check("${NONE:-$${HOST}}", "${HOST}", true);
        check("${NONE:-a}b}", "ab}", true);
        check("{{ key }} $5 {x}", "{{ key }} $5 {x}", false);
        check("Bearer ${API_TOKEN}", "Bearer t0ken-of-lines", true);
        check("Bearer ${file:token}", "Bearer from-a-file", true);
        check("${file:none}", "${file:none}", false);
    }

    #[test]
    fn keys_stay_and_lists_are_walked() {
        let (node, _, problems) = put("${HOST}: [{a: \"${N}\"}]\n", Mode::Required);
        assert_eq!(node.json(), serde_json::json!({"${HOST}": [{"a": "12"}]}));
        assert_eq!(problems, []);
    }

    fn refused(value: &str, part: &str) {
        let text = format!("x: \"{value}\"\n");
        let (_, _, problems) = put(&text, Mode::Required);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains(part), "{problems:?}");
        assert_eq!(problems[0].span.clone().map(|s| &text[s]), Some(&*format!("\"{value}\"")));
        assert!(problems[0].help.is_some());
    }

    #[test]
    fn a_variable_that_is_missing_or_broken_is_a_problem() {
        refused("${NONE}", "`NONE` is not set");
        refused("${HOST", "has no `}`");
        refused("${NONE:-${HOST}", "has no `}`");
        refused("${NONE:-{}", "has no `}`");
        refused("${NONE:-${ALSO}}", "`ALSO` is not set");
        refused("${${HOST}:-x}", "no name");
        refused("${a b}", "no name");
        refused("${file:none}", "cannot read the file `none`: No such file");
        refused("${file:empty}", "the file `empty` is empty");
        refused("${file:two}", "the file `two` has several lines");
    }

    #[test]
    fn secret_values_are_remembered() {
        let (_, secrets, _) = put("x: \"${DB_PASSWORD}\"\n", Mode::Required);
        assert_eq!(super::super::secret::redact("pw hunter2", &secrets), "pw ***");
        let (_, secrets, _) = put("x: \"${file:token}\"\n", Mode::Required);
        assert_eq!(super::super::secret::redact("is from-a-file", &secrets), "is ***");
    }
}
