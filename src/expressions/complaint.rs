//! Turns VRL's complaints into problems that are shown at their place in the file.
//!
//! Called by the compiler. Words and places refer to the text that the user wrote, whatever was done to it before VRL
//! saw it.

use std::ops::Range;

use ::vrl::diagnostic::{Diagnostic, DiagnosticList, Span};

use super::bounds::INDEX_MAX;
use super::measure::TooLarge;
use super::names::{NAMES, TIMESTAMP};
use super::refused::own_words;
use super::rewrite::Fixes;
use super::{DENIED, VrlCompiler, kinds};
use crate::model::{Problem, meant};

impl VrlCompiler {
    /// A field that does not exist.
    pub(super) fn missing(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        missing: kinds::Missing,
    ) -> Problem {
        let inside = text.find(&missing.path).map(|at| at..at + missing.path.len()).unwrap_or(0..text.len());
        let problem = Problem::new("expression", missing.message()).help(missing.help());
        match span {
            Some(span) => problem.at(self.place(text, span, inside), "not there"),
            None => problem,
        }
    }

    /// The expression is too large to be compiled.
    pub(super) fn too_large(&self, text: &str, span: Option<&Range<usize>>, large: &TooLarge) -> Problem {
        let problem = large.problem();
        match span {
            Some(span) => problem.at(self.place(text, span, large.at.clone()), "too much"),
            None => problem,
        }
    }

    /// VRL itself panicked on this text.
    pub(super) fn panicked(&self, text: &str, span: Option<&Range<usize>>, panic: &str) -> Problem {
        let problem = Problem::new("expression", format!("this expression cannot be compiled: {panic}"))
            .help("write it in smaller steps: `a = ...` on a line of its own, then use `a`");
        match span {
            Some(span) => problem.at(self.place(text, span, 0..text.len()), "here"),
            None => problem,
        }
    }

    /// An assignment to an index that would make too long a list.
    pub fn too_far(&self, text: &str, span: Option<&Range<usize>>, at: Span, message: String) -> Problem {
        let problem = Problem::new("expression", message).help(format!(
            "all elements before it are made too: an index up to {INDEX_MAX}, or `push(.a, 1)`"
        ));
        match span {
            Some(span) => problem.at(self.place(text, span, at.range()), "too far"),
            None => problem,
        }
    }

    /// The first complaint as a problem.
    pub(super) fn problem(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[&str],
        list: &DiagnosticList,
        fixes: &Fixes,
    ) -> Problem {
        let Some(complaint) = list.iter().find(|d| d.is_problem()).map(|d| fixes.original(d)) else {
            let problem = Problem::new("expression", format!("`{}` cannot be compiled", text.trim()))
                .help("write it in smaller steps: `a = ...` on a line of its own, then use `a`");
            return match span {
                Some(span) => problem.at(span.clone(), "here"),
                None => problem,
            };
        };
        self.problem_of(text, span, vars, complaint)
    }

    /// One complaint as a problem.
    pub(super) fn problem_of(
        &self,
        text: &str,
        span: Option<&Range<usize>>,
        vars: &[&str],
        complaint: &Diagnostic,
    ) -> Problem {
        let primary = complaint.labels.iter().find(|l| l.primary).or(complaint.labels.first());
        let inside = primary.map_or(0..text.len(), |l| l.span.range());
        let label = primary.map(|l| l.message.clone()).filter(|m| !m.is_empty());
        let label = label.unwrap_or_else(|| "here".into());
        let mut message = sentence(&complaint.message);
        if let Some(own) = own_words(&message) {
            message = own.to_owned();
        }
        let help = self.help(text, vars, complaint);
        let label = if message == "syntax error" {
            message = "the expression has a syntax error".into();
            // VRL shows the name of its own token there.
            match text.get(inside.clone()).map(str::trim) {
                Some(token) if !token.is_empty() => format!("`{token}` is not expected here"),
                _ => "something is missing here".into(),
            }
        } else {
            label
        };
        let problem = Problem { help, ..Problem::new("expression", message) };
        match span {
            Some(span) => problem.at(self.place(text, span, inside), sentence(&label)),
            None => Problem { label: sentence(&label), ..problem },
        }
    }

    /// The complaint's other labels and its hints, without what is about our own functions.
    fn help(&self, text: &str, vars: &[&str], complaint: &Diagnostic) -> Option<String> {
        let named = complaint.labels.iter().find(|l| l.primary).and_then(|l| text.get(l.span.range()));
        if let Some(denied) = named.and_then(|name| DENIED.iter().find(|d| **d == name)) {
            let instead = if *denied == "now" { "; the record's time is `timestamp`" } else { "" };
            return Some(format!(
                "`{denied}` is left out: an expression only depends on its record{instead}"
            ));
        }
        if complaint.message == "syntax error" && text.matches('(').count() > text.matches(')').count() {
            let help = "a `(` is not closed; between `{ }` a comma ends a value: put an expression that has one in \
                        single quotes";
            return Some(help.into());
        }
        if complaint.message.contains("undefined function")
            && let Some(name) = named
        {
            let known: Vec<&str> =
                self.functions.iter().map(|f| f.identifier()).filter(|f| !f.contains('$')).collect();
            return meant(name, &known).or_else(|| {
                Some("no function has a name like it: https://vector.dev/docs/reference/vrl/functions lists them".into())
            });
        }
        if complaint.message == "syntax error"
            && let Some(instead) = named.and_then(|token| instead_of(token.trim()))
        {
            return Some(instead.into());
        }
        if complaint.message == "call to undefined variable"
            && let Some(name) = named
        {
            // `.order-id` is read as a subtraction.
            let before =
                complaint.labels.iter().find(|l| l.primary).and_then(|l| text.get(..l.span.range().start));
            let word = |c: char| c.is_alphanumeric() || c == '_';
            if let Some(first) = before.and_then(|before| before.strip_suffix('-')?.rsplit('.').next())
                && !first.is_empty()
                && first.chars().all(word)
            {
                return Some(format!("a name with `-` stands in quotes: `.\"{first}-{name}\"`"));
            }
            let known: Vec<&str> = NAMES.iter().chain(vars).copied().collect();
            return meant(name, &known)
                .or_else(|| Some(format!("a field of the value begins with a dot: `.{name}`")));
        }
        let labels = complaint.labels.iter().skip(1).map(|l| l.message.clone());
        let notes = complaint.notes.iter().map(ToString::to_string);
        let mut lines: Vec<String> = labels
            .chain(notes.map(|n| n.trim().trim_start_matches("hint: ").to_owned()))
            .filter(|line| {
                !["see ", "learn more", "try your code", "expected one of"]
                    .iter()
                    .any(|p| line.starts_with(p))
            })
            .filter(|line| !line.is_empty() && !line.contains('$'))
            .collect();
        lines.dedup();
        let what = complaint.message.as_str();
        if lines.is_empty() {
            lines.push(
                if what.contains("type") || what.contains("fallible") || what.contains("boolean") {
                    "convert the value first: `to_string(.a)`, `to_int(.a)`, `bool(.a)`, `object(.a)`"
                } else {
                    "write it like `.amount > 10`, `upcase(.name)` or `{ \"id\": .id }`"
                }
                .into(),
            );
        }
        Some(lines.join("; ").replace(TIMESTAMP, "timestamp"))
    }

    /// The place of a range of the expression in the file; the whole expression if the file writes the text
    /// differently.
    fn place(&self, text: &str, span: &Range<usize>, inside: Range<usize>) -> Range<usize> {
        let Some(written) = self.source.get(span.clone()) else { return span.clone() };
        let inside =
            inside.start.min(text.len())..inside.end.clamp(inside.start, text.len().max(inside.start));
        // Plain, in simple quotes, or inside `{{ }}`.
        if let Some(at) = written.find(text) {
            return span.start + at + inside.start..span.start + at + inside.end.min(text.len());
        }
        // A block: the same lines, indented.
        let (mut from, mut start) = (0, span.start);
        for (line, written) in text.split_inclusive('\n').zip(written.split_inclusive('\n')) {
            let (line_text, written_text) = (line.trim_end(), written.trim_end());
            let Some(indent) = written_text.find(line_text.trim_start()) else { break };
            let own = line_text.len() - line_text.trim_start().len();
            if inside.start < from + line.len() {
                let shift = |at: usize| (start + indent + at.saturating_sub(from)).saturating_sub(own);
                return shift(inside.start)..shift(inside.end.min(from + line_text.len()));
            }
            (from, start) = (from + line.len(), start + written.len());
        }
        span.clone()
    }
}

/// What to write instead of a word or sign from another language.
fn instead_of(token: &str) -> Option<&'static str> {
    Some(match token {
        "'" => "text stands in double quotes: `.status == \"paid\"`",
        "and" | "AND" => "write `&&`",
        "or" | "OR" => "write `||`",
        "not" | "NOT" => "write `!`",
        "=>" | "->" => {
            "write `if .a > 1 { \"x\" } else { \"y\" }`; only functions such as `for_each` have `->`"
        }
        "?" | ":" => "write `if .a > 1 { \"x\" } else { \"y\" }`",
        _ => return None,
    })
}

/// The first line, trimmed.
fn sentence(text: &str) -> String {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("").replace(TIMESTAMP, "timestamp")
}
