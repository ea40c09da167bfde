//! What a request to a server that failed means, whichever server it was.
//!
//! Each client sorts its server's errors into these classes, in one function with a table as its test; whoever asked
//! decides by the class alone. No message has a password in it: the clients below put none into their errors.

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server was not there, or not able to: the same again, later.
    Transient,
    /// Others held what was needed (a deadlock, a lock that was not given): the same again, soon.
    Contention,
    /// The server has more to do than it can: the same again, later, and less of it.
    Overload,
    /// It was sent and no answer came: it may have been done, or may still be. Only what may happen twice is repeated.
    Unknown,
    /// Something of what was sent is refused for good: of several rows at least one is bad.
    Row,
    /// Nothing like it can work until somebody changes something: the password, a name, a right.
    Config,
}

/// A failure, judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What it means.
    pub class: Class,
    /// What happened, in one line.
    pub message: String,
    /// The server's own code, where it gave one: an SQLSTATE, `WRONGTYPE`, `550`.
    pub code: Option<String>,
    /// The column that it is about, where the server names one.
    pub column: Option<String>,
}

impl Failure {
    /// A failure that no server gave a code for.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Failure {
        Failure { class, message: message.into(), code: None, column: None }
    }

    /// Is it this code of the server?
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

/// An error and its causes in one line: errors of transports say little themselves.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}
