//! What the server says of a `_bulk` request, and of each row in it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::clients::http::HttpAnswer;
use crate::clients::{Class, Failure};

/// The answer to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it should be: written, deleted, or older than what is there.
    Done,
    /// Not now. `overload`: the server has too much to do.
    Again { message: String, overload: bool },
    /// It will never be taken.
    Refused(String),
    /// Nothing is, until something is changed.
    Config(String),
}

/// What is asked for of an answer, so that it stays small: `filter_path` of the request.
pub(super) const FILTER: &str = "error,status,items.*.status,items.*.error.type,items.*.error.reason,\
                                 items.*.error.caused_by.reason";

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    items: Vec<BTreeMap<String, Item>>,
}

#[derive(Deserialize)]
struct Item {
    status: u16,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    caused_by: Option<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    error: Fault,
}

impl Fault {
    fn said(&self) -> String {
        let mut text = self.kind.clone();
        let cause = self.caused_by.as_ref().and_then(|cause| cause.reason.as_ref());
        for part in self.reason.iter().chain(cause) {
            if !text.contains(part.as_str()) {
                text = format!("{text}: {part}");
            }
        }
        text
    }
}

/// The answers to the rows, in the order of the request: as many of them as there are. The answers to the rest are unknown.
///
/// # Errors
/// The text is no answer to a `_bulk` request.
pub(super) fn items(answer: &HttpAnswer, one_index: bool) -> Result<Vec<Verdict>, String> {
    let whole: Whole = serde_json::from_slice(&answer.body)
        .map_err(|e| format!("the answer to `_bulk` cannot be read ({e}): {}", answer.said()))?;
    let items = whole.items.into_iter().filter_map(|item| item.into_values().next());
    Ok(items.map(|item| verdict(item, one_index)).collect())
}

fn verdict(item: Item, one_index: bool) -> Verdict {
    let Item { status, error } = item;
    let Some(error) = error else {
        // What was to be deleted is not there: 404 without an error.
        return match status {
            200..=299 | 404 => Verdict::Done,
            status => {
                Verdict::Again { message: format!("status {status} without a reason"), overload: false }
            }
        };
    };
    let message = format!("{status} {}", error.said());
    let again = |overload| Verdict::Again { message: message.clone(), overload };
    match (status, error.kind.as_str()) {
        // Older than what is there, or to be created where something is. Other versions are not asked for.
        (409, "version_conflict_engine_exception") => Verdict::Done,
        (409, _) => again(false),
        (429 | 503, _) => again(true),
        // The disk of a node is full, or the index is closed to writers: no row is to blame.
        (_, "cluster_block_exception" | "index_closed_exception") => again(false),
        (401 | 403, _) => Verdict::Config(message),
        (404, "index_not_found_exception") if one_index => Verdict::Config(message),
        (408 | 425 | 500.., _) => again(false),
        _ => Verdict::Refused(message),
    }
}

/// What an answer means that is none to single rows.
pub(super) fn whole(answer: &HttpAnswer) -> Failure {
    let failed: Option<Failed> = serde_json::from_slice(&answer.body).ok();
    let fault = failed.map(|failed| failed.error);
    let message = match &fault {
        Some(fault) => format!("status {}: {}", answer.status, fault.said()),
        None => answer.said(),
    };
    let blocked = fault.is_some_and(|fault| fault.kind == "cluster_block_exception");
    let class = match answer.status {
        _ if blocked => Class::Transient,
        400 | 413 => Class::Row,
        429 | 503 => Class::Overload,
        408 | 425 | 500..=599 => Class::Transient,
        // No `_bulk` there, no permission, another kind of server.
        _ => Class::Config,
    };
    Failure { code: Some(answer.status.to_string()), ..Failure::new(class, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    fn answer(status: u16, body: impl Into<Bytes>) -> HttpAnswer {
        HttpAnswer { status, retry_after: None, body: body.into(), cut: false }
    }

    /// `done`, `again`, `overload`, `refused` or `config`.
    fn check(status: u16, kind: &str, one_index: bool, expected: &str) {
        let item = match kind {
            "" => json!({"index": {"status": status}}),
            kind => json!({"index": {"status": status, "error": {"type": kind, "reason": "why"}}}),
        };
        let body = json!({"items": [item]}).to_string();
        let verdicts = items(&answer(200, body), one_index).expect("is an answer");
        let found = match &verdicts[..] {
            [Verdict::Done] => "done",
            [Verdict::Again { overload: true, .. }] => "overload",
            [Verdict::Again { .. }] => "again",
            [Verdict::Refused(_)] => "refused",
            [Verdict::Config(_)] => "config",
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{status} {kind}");
    }

    #[test]
    fn each_row_has_an_answer_of_its_own() {
        check(200, "", true, "done");
        check(201, "", true, "done");
        check(404, "", true, "done");
        check(409, "version_conflict_engine_exception", true, "done");
        check(429, "rejected_execution_exception", true, "overload");
        check(429, "circuit_breaking_exception", true, "overload");
        check(503, "unavailable_shards_exception", true, "overload");
        check(500, "io_exception", true, "again");
        check(403, "cluster_block_exception", true, "again");
        check(400, "index_closed_exception", true, "again");
        check(403, "security_exception", true, "config");
        check(401, "security_exception", true, "config");
        check(404, "index_not_found_exception", true, "config");
        check(404, "index_not_found_exception", false, "refused");
        check(400, "invalid_index_name_exception", false, "refused");
        for kind in
            ["mapper_parsing_exception", "strict_dynamic_mapping_exception", "illegal_argument_exception"]
        {
            check(400, kind, true, "refused");
        }
    }

    #[test]
    fn a_whole_answer_has_a_class() {
        let check = |status: u16, body: &str, class: Class| {
            assert_eq!(whole(&answer(status, body.to_owned())).class, class, "{status} {body}");
        };
        check(
            429,
            r#"{"error":{"type":"rejected_execution_exception","reason":"r"},"status":429}"#,
            Class::Overload,
        );
        check(413, "", Class::Row);
        check(400, r#"{"error":{"type":"illegal_argument_exception"}}"#, Class::Row);
        check(403, r#"{"error":{"type":"cluster_block_exception"}}"#, Class::Transient);
        check(403, r#"{"error":{"type":"security_exception"}}"#, Class::Config);
        check(401, "Unauthorized", Class::Config);
        check(404, "", Class::Config);
        check(302, "", Class::Config);
        check(502, "<html>", Class::Transient);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for body in ["", "<html>", r#"{"items":[{"index":{"status":200}},{"ind"#] {
            assert!(items(&answer(200, body), true).is_err(), "{body}");
        }
        assert_eq!(items(&answer(200, "{}"), true), Ok(Vec::new()), "fewer than were sent");
        let body = json!({"items": [{"index": {"status": 400, "error": {"type": "mapper_parsing_exception",
            "reason": "failed to parse field [n]", "caused_by": {"reason": "For input string: \"x\""}}}}]});
        let verdicts = items(&answer(200, body.to_string()), true).expect("is an answer");
        let said = "400 mapper_parsing_exception: failed to parse field [n]: For input string: \"x\"";
        assert_eq!(verdicts, [Verdict::Refused(said.to_owned())]);
    }
}
