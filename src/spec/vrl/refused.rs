//! What our own functions say of an expression that can never work.

use ::vrl::diagnostic::{DiagnosticMessage, Label, Note, Span};

/// A complaint of ours, in VRL's form.
#[derive(Debug)]
pub(super) struct Refused {
    pub message: String,
    pub label: String,
    pub help: String,
    pub span: Span,
}

/// The code of such a complaint. None of VRL's own: nothing that can be answered by calling it with `!`.
pub(super) const REFUSED: usize = 9001;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl DiagnosticMessage for Refused {
    fn code(&self) -> usize {
        REFUSED
    }
    fn labels(&self) -> Vec<Label> {
        vec![Label::primary(self.label.clone(), self.span)]
    }
    fn notes(&self) -> Vec<Note> {
        vec![Note::Hint(self.help.clone())]
    }
}
