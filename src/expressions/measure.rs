//! A limit on the size of an expression.
//!
//! Checked before VRL's parser runs. The parser recurses once per level of the text, as do the compiler and the
//! interpreter after it, so an expression that is deep enough would overflow the stack and end the process. The counts
//! are rough, but never too low.

use std::ops::Range;

use crate::model::Problem;

/// Largest expression in bytes.
const TEXT_MAX: usize = 64 * 1024;
/// Deepest nesting of parentheses, brackets and braces.
const DEPTH_MAX: usize = 128;
/// Most operators, `else` and path steps in one statement or one element of a list or object: each may add a level.
const OPERATORS_MAX: usize = 500;

/// What is too large, and where.
pub(super) struct TooLarge {
    pub message: String,
    pub help: &'static str,
    pub at: Range<usize>,
}

impl TooLarge {
    pub(super) fn problem(&self) -> Problem {
        Problem::new("expression", self.message.clone()).help(self.help)
    }
}

/// Refuses an expression that is too large to compile.
pub(super) fn measure(text: &str) -> Result<(), TooLarge> {
    if text.len() > TEXT_MAX {
        return Err(TooLarge {
            message: format!("an expression of {} bytes: {TEXT_MAX} are possible", text.len()),
            help: "make several nodes of it, or put what it looks up into a table and join that",
            at: 0..text.len(),
        });
    }
    // For each open bracket: the operators outside it, and those together with the current statement's or element's
    // own.
    let mut levels: Vec<(usize, usize)> = vec![(0, 0)];
    // Whether the last token that was not white space was an operator.
    let mut open = false;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let length = token(&text[at..], text[..at].chars().next_back());
        let here = at..at + length;
        at = here.end;
        match c {
            '(' | '[' | '{' => {
                // What is inside is nested below the operators around it.
                let above = levels.last().map_or(0, |(_, all)| *all);
                levels.push((above, above));
                if levels.len() > DEPTH_MAX + 1 {
                    return Err(TooLarge {
                        message: format!(
                            "more than {DEPTH_MAX} parentheses, brackets or braces inside each other"
                        ),
                        help: "compute the inner part first: `a = ...` on a line of its own, then use `a`",
                        at: here,
                    });
                }
                open = false;
            }
            ')' | ']' | '}' => {
                if levels.len() > 1 {
                    levels.pop();
                }
                open = false;
            }
            ';' | ',' | '\n' => {
                let next = text[at..].trim_start();
                let goes_on = c == '\n' && (open || next.starts_with(is_operator) || is_else(next));
                if let Some((above, all)) = levels.last_mut().filter(|_| !goes_on) {
                    *all = *above;
                    open = false;
                }
            }
            c if c.is_whitespace() || c == '#' => {}
            c => {
                open = is_operator(c);
                let step =
                    c == '.' && text[..here.start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                let counts = open || step || is_else(&text[here.start..]);
                if let Some((_, all)) = levels.last_mut().filter(|_| counts) {
                    *all += 1;
                    if *all > OPERATORS_MAX {
                        return Err(TooLarge {
                            message: format!("more than {OPERATORS_MAX} operators in one expression"),
                            help: "compute a part of it first: `a = ...` on a line of its own, then use `a`",
                            at: here,
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

fn is_operator(c: char) -> bool {
    matches!(c, '+' | '-' | '*' | '/' | '|' | '&' | '=' | '<' | '>' | '!' | '?' | '~' | '^')
}

fn is_else(text: &str) -> bool {
    let rest = text.strip_prefix("else");
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Splits the text into tokens, without leaving anything out.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let end = at + token(&text[at..], text[..at].chars().next_back());
        tokens.push(&text[at..end]);
        at = end;
    }
    tokens
}

/// The length of the next token: a string, a comment, a word, a run of one operator, or a single character.
fn token(text: &str, before: Option<char>) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let quoted = first == '"' || first == '\'' && matches!(before, Some('s' | 'r' | 't'));
    if quoted {
        let mut escaped = false;
        let inside = text[1..].find(|c: char| {
            let closes = c == first && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        return inside.map_or(text.len(), |at| at + 2);
    }
    let length = match first {
        '#' => text.find('\n'),
        // Each `!` is a level of its own; other operator characters in a row form one operator: `==`, `&&`, `??`.
        c if is_operator(c) && c != '!' => {
            return text.find(|d: char| !is_operator(d) || d == '!').unwrap_or(text.len()).min(2);
        }
        // A literal begins with one letter: `s'..'`.
        c if word(c) && text[c.len_utf8()..].starts_with('\'') => return c.len_utf8(),
        c if word(c) => text.find(|c| !word(c)),
        c => Some(c.len_utf8()),
    };
    length.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::VrlCompiler;
    use crate::model::{Record, Scope, Timestamp, Value};

    fn compile(text: &str) -> Result<(), String> {
        let record = Record::new("k", Value::from(json!({ "x": 1 })), Timestamp(0));
        let compiled = VrlCompiler::new("").compile(text, None, &[]);
        let function = compiled.map_err(|p| format!("{} {:?}", p.message, p.help))?;
        // On a thread with the usual stack size, like a worker's.
        function.eval(&Scope::of(&record)).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_too_deep_is_refused_and_never_ends_the_process() {
        let nested = |n: usize, open: &str, close: &str| format!("{}1{}", open.repeat(n), close.repeat(n));
        let refused = |text: String, part: &str| {
            let error = compile(&text).expect_err("too large");
            assert!(error.contains(part) && error.contains("Some("), "{error}");
        };
        for n in [129, 3_000, 10_000] {
            refused(nested(n, "(", ")"), "inside each other");
            refused(nested(n, "[", "]"), "inside each other");
            refused(nested(n, "{\"a\":", "}"), "inside each other");
            refused(nested(n, "abs(", ")"), "inside each other");
        }
        refused(vec!["1"; 20_000].join("+"), "500 operators");
        refused(vec![".x"; 600].join("\n  + "), "500 operators");
        refused(vec![".x"; 600].join(" ?? "), "500 operators");
        refused(format!("{}true", "!".repeat(3_000)), "500 operators");
        refused(format!("{}1", "a = ".repeat(3_000)), "500 operators");
        refused(format!("if .x == 1 {{ 1 }}{}", " else if .x == 1 { 1 }".repeat(600)), "500 operators");
        refused(format!(".x{}", ".a".repeat(3_000)), "500 operators");
        refused(format!("\"{}\"", "x".repeat(70_000)), "65536 are possible");
    }

    #[test]
    fn what_is_large_but_not_deep_compiles_and_runs() {
        let good = |text: String| assert_eq!(compile(&text), Ok(()), "{text}");
        good(format!("{}1{}", "(".repeat(128), ")".repeat(128)));
        good(format!("{}1{}", "[".repeat(120), "]".repeat(120)));
        good(format!("{}.x{}", "abs(".repeat(128), ")".repeat(128)));
        good(vec!["1"; 500].join("+"));
        good(vec![".x"; 300].join("+"));
        good(format!("1\n.x{}", ".a".repeat(500)));
        good(format!("1\n.y{} = 1", ".a".repeat(490)));
        let fields: Vec<String> = (0..260).map(|n| format!("\"f{n}\": .x.y + 1 ?? 0")).collect();
        good(format!("{{ {} }}", fields.join(",\n")));
        // Strings, comments and separate statements do not add up.
        good(format!("# {}\n\"{}\"", "(+".repeat(900), "(+".repeat(900)));
        good(format!("{}x", "x = 1 + 2 - 3\n".repeat(200)));
        good("s'a(((' + r'b' == \"c\"".replace("r'b'", "\"b\""));
    }
}
