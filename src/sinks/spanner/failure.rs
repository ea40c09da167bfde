//! The meaning of a failed call to Spanner. Codes and texts are those of the emulator 1.5.28 and of Google's own
//! clients. For a bad batch the server names a value or a column, never the row.

use gcloud_gax::grpc::{Code, Status};
use gcloud_spanner::client::Error;

use crate::sinks::SinkError;

/// A failed call, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server has lost the session: try again at once with another.
    SessionLost(String),
    /// The connection or the session pool does not answer: make a new client before the next attempt.
    Unresponsive(String),
    /// The login was not accepted. An expired token is renewed; a wrong one stays wrong.
    Unauthenticated(String),
    /// The result of this attempt.
    Other(SinkError),
}

/// Judges an error of the client.
pub(super) fn judge(error: &Error) -> Failure {
    match error {
        Error::GRPC(status) => judge_status(status),
        Error::InvalidSession(e) => Failure::Unresponsive(format!("Spanner: {e}")),
        Error::Connection(e) => Failure::Unresponsive(format!("Spanner is not reachable: {}", chain(e))),
        Error::ParseError(e) => {
            Failure::Other(SinkError::Retry { message: format!("Spanner: {e}"), after: None })
        }
        Error::InvalidConfig(e) => {
            Failure::Other(SinkError::Config { message: format!("Spanner: {e}"), column: None })
        }
    }
}

fn judge_status(status: &Status) -> Failure {
    let text = status.message();
    let message = format!("Spanner: {:?}: {text}", status.code());
    let has = |part: &str| text.contains(part);
    let retry = |message| Failure::Other(SinkError::Retry { message, after: None });
    let refused = |message| Failure::Other(SinkError::Refused { message });
    let config = |message| Failure::Other(SinkError::Config { message, column: None });
    match status.code() {
        Code::NotFound if has("Session not found") => Failure::SessionLost(message),
        Code::NotFound
            if ["Table not found", "Column not found", "Database not found", "Instance not found"]
                .iter()
                .any(|part| has(part)) =>
        {
            config(message)
        }
        // The row to update, or a parent row, does not exist.
        Code::NotFound => refused(message),
        Code::FailedPrecondition | Code::OutOfRange | Code::InvalidArgument | Code::AlreadyExists => {
            refused(message)
        }
        // gRPC's own limit on the size of a message: a smaller batch passes.
        Code::ResourceExhausted if has("larger than max") => refused(message),
        Code::PermissionDenied | Code::Unimplemented => config(message),
        // The token could not be fetched, which is a fault of the network and not of the login.
        Code::Unauthenticated if has("token error") => retry(message),
        Code::Unauthenticated => Failure::Unauthenticated(message),
        // tonic's own deadline. The commit may still succeed, so only idempotent writes are repeated.
        Code::Cancelled | Code::DeadlineExceeded => Failure::Unresponsive(message),
        _ => retry(message),
    }
}

/// An error and its causes in one line: a transport error alone says only "transport error".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: Code, text: &str, expected: &str) {
        let got = match judge(&Error::GRPC(Status::new(code, text))) {
            Failure::SessionLost(_) => "session",
            Failure::Unresponsive(_) => "unresponsive",
            Failure::Unauthenticated(_) => "login",
            Failure::Other(SinkError::Retry { .. }) => "retry",
            Failure::Other(SinkError::Refused { .. }) => "refused",
            Failure::Other(SinkError::Config { .. }) => "config",
        };
        assert_eq!(got, expected, "{code:?} {text}");
    }

    #[test]
    fn every_class_of_failure_has_its_answer() {
        check(Code::Unavailable, "tcp connect error", "retry");
        check(Code::Aborted, "", "retry");
        check(Code::Internal, "stream terminated by RST_STREAM", "retry");
        check(Code::Unknown, "transport error", "retry");
        check(Code::ResourceExhausted, "quota", "retry");
        check(Code::ResourceExhausted, "Received message larger than max (5 vs. 4)", "refused");
        check(Code::Cancelled, "Timeout expired", "unresponsive");
        check(Code::DeadlineExceeded, "", "unresponsive");
        check(Code::NotFound, "Session not found: projects/p", "session");
        check(Code::NotFound, "Table not found: Accounts", "config");
        check(Code::NotFound, "Database not found: projects/p", "config");
        check(Code::NotFound, "Row [a] in table T is missing. Row cannot be updated.", "refused");
        check(Code::FailedPrecondition, "Could not parse a as INT64", "refused");
        check(Code::InvalidArgument, "too many mutations", "refused");
        check(Code::AlreadyExists, "Row [a] already exists", "refused");
        check(Code::PermissionDenied, "", "config");
        check(Code::Unauthenticated, "token error: HttpError", "retry");
        check(Code::Unauthenticated, "invalid credentials", "login");
    }
}
