//! `file`: the lines of a file, from first to last.

use std::fs::File;
use std::io::BufReader;

use schemars::JsonSchema;
use serde::Deserialize;

use super::lines::LineReader;
use super::{OpenError, Reader, SourceSettings};
use crate::formats::Format;
use crate::model::{Expr, Problem, Timestamp, TimestampFormat};

/// Lines of a file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Path of the file.
    pub path: String,
    /// The record's key: an expression over the line's JSON. Without it, no key.
    pub key: Option<Expr>,
    /// `json` (default), `string` or `bytes`.
    #[serde(default)]
    pub format: Format,
    /// The record's time, an expression such as `.created_at`; default: when the line was read.
    pub timestamp: Option<Expr>,
    /// What `timestamp` gives: `auto` (RFC 3339 text or milliseconds; the default), `rfc3339`, `seconds`, `milliseconds`
    /// or `microseconds`.
    #[serde(default)]
    pub timestamp_format: TimestampFormat,
}

impl SourceSettings for FileSource {
    fn label(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Vec<Problem> {
        let none = || Problem::setting("path", "the file has no name", "write `path: records.jsonl`");
        self.path.is_empty().then(none).into_iter().collect()
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.key.iter_mut().chain(&mut self.timestamp).collect()
    }

    fn format(&self) -> Format {
        self.format
    }

    fn is_text(&self) -> bool {
        true
    }

    fn key(&self) -> Option<&Expr> {
        self.key.as_ref()
    }

    fn timestamp(&self) -> Option<(&Expr, TimestampFormat)> {
        self.timestamp.as_ref().map(|expr| (expr, self.timestamp_format))
    }

    fn open(&self, _: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        let failed = |e: std::io::Error| OpenError { field: "path", message: e.to_string() };
        let file = File::open(&self.path).map_err(failed)?;
        let text = self.format != Format::Bytes;
        Ok(Some(Box::new(LineReader::start(BufReader::new(file), false, text).map_err(failed)?)))
    }
}
