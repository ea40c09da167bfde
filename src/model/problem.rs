//! What is wrong with a topology: of its file, of one node's settings, or of the graph.

use std::ops::Range;

/// One thing wrong with a topology, whether it was read from a file or built in Rust.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}{}", self.node.as_ref().map(|n| format!("{n}: ")).unwrap_or_default(), self.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct Problem {
    /// Stable, for programs: `unknown-field`, `graph::cycle` ...
    pub code: &'static str,
    /// The node it is about; `None` for the topology itself, and if `span` says the place.
    pub node: Option<String>,
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

    /// The same problem with a help line.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}
