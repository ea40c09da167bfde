//! The meaning of a failed request to a server, the same for all servers.
//!
//! Each client sorts its server's errors into these classes, in one function with a table as its test; callers decide
//! by the class alone. No message contains a password: the clients put none into their errors.

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server could not be reached, or could not do it: repeat it later.
    Transient,
    /// Others held what was needed (a deadlock, a lock that was not given): repeat it soon.
    Contention,
    /// The server is overloaded: repeat it later, and with less.
    Overload,
    /// It was sent and not answered: it may have been done, or may still be. Only what may happen twice is repeated.
    Unknown,
    /// A part of what was sent is refused for good: of several rows at least one is bad.
    Row,
    /// It cannot succeed until something is changed: the password, a name, a permission.
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

    /// Whether the server gave this code.
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
