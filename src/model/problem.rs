//! What is wrong with a topology: of its file, of one node's settings, or of the graph.

use std::fmt;
use std::ops::Range;

/// One thing wrong with a topology, whether it was read from a file or built in Rust.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}{}", self.node.as_ref().map(|n| format!("{n}: ")).unwrap_or_default(), self.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct Problem {
    /// Stable, for programs: `unknown-field`, `graph::cycle` ...
    pub code: &'static str,
    /// The node it is about; `None` for the topology itself, and if `span` says the place.
    pub node: Option<String>,
    /// Of several nodes with that name, which; the first is 0.
    pub nth: usize,
    /// The field of the node (or of the topology), as a path such as `from` or `debounce.quiet`; empty for the node itself.
    pub field: String,
    /// What is wrong, one line.
    pub message: String,
    /// Byte range in the file; `None` if the problem has no place there.
    pub span: Option<Range<usize>>,
    /// Shown at the place in the file.
    pub label: String,
    /// What to write instead.
    pub help: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Severity {
    /// The topology does not run.
    #[default]
    Error,
    /// It runs, and is perhaps not what was meant.
    Warning,
}

impl Problem {
    /// A problem without a place.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), ..Problem::default() }
    }

    /// A problem with the value of a setting. The caller that knows the node adds its name ([`Problem::of`]).
    #[must_use]
    pub fn setting(field: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem::new("graph::setting", message).field(field).help(help)
    }

    /// The same problem, of that node.
    #[must_use]
    pub fn of(self, node: &str) -> Problem {
        Problem { node: Some(node.to_owned()), ..self }
    }

    /// The same problem, in that field.
    #[must_use]
    pub fn field(self, field: impl Into<String>) -> Problem {
        Problem { field: field.into(), ..self }
    }

    /// The same problem at a place, with what to say there.
    #[must_use]
    pub fn at(self, span: Range<usize>, label: impl Into<String>) -> Problem {
        Problem { span: Some(span), label: label.into(), ..self }
    }

    /// The same problem, which keeps nothing from running.
    #[must_use]
    pub fn warning(self) -> Problem {
        Problem { severity: Severity::Warning, ..self }
    }

    /// The same problem with a help line.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}

/// A value that its own type does not take (a unit, a template): what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Between the parts of a [`Refused`] in an error of serde, which is text alone.
const UNIT_SEPARATOR: char = '\u{1f}';

impl Refused {
    /// Message and help.
    #[must_use]
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { message: message.into(), help: help.into() }
    }

    /// Message and help of an error that was written as `{:#}`; an error of another type has no help.
    #[must_use]
    pub fn read(text: &str) -> (String, Option<String>) {
        match text.rsplit_once(UNIT_SEPARATOR) {
            Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
            None => (text.to_owned(), None),
        }
    }
}

impl fmt::Display for Refused {
    /// One sentence for people; `{:#}` is for [`Refused::read`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { message, help } = self;
        match f.alternate() {
            true => write!(f, "{message}{UNIT_SEPARATOR}{help}"),
            false => write!(f, "{message}: {help}"),
        }
    }
}

impl std::error::Error for Refused {}
