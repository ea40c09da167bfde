//! How our own functions report an expression that can never work.

use ::vrl::diagnostic::{Diagnostic, DiagnosticMessage, Label, Note, Span};

/// Our error, in VRL's form.
#[derive(Debug)]
pub(super) struct Refused {
    pub message: String,
    pub label: String,
    pub help: String,
    pub span: Span,
}

/// The code of such errors. VRL has no such code, so `rewrite` does not try to answer it with `!`.
pub(super) const REFUSED: usize = 9001;

/// Our error's text without the frame that VRL puts around it.
pub(super) fn own_words(message: &str) -> Option<&str> {
    message.split_once(&format!("error[E{REFUSED}] ")).map(|(_, own)| own)
}

/// Whether it is one of our errors.
pub(super) fn is_refused(complaint: &Diagnostic) -> bool {
    own_words(&complaint.message).is_some()
}

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
