//! `stdin`: lines of standard input, as they arrive.

use std::io::BufReader;

use schemars::JsonSchema;
use serde::Deserialize;

use super::lines::LineReader;
use super::{OpenError, Reader, SourceSettings};
use crate::formats::Format;
use crate::model::{Expr, Timestamp, TimestampFormat};

/// Lines of standard input.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct StdinSource {
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

impl SourceSettings for StdinSource {
    fn label(&self) -> String {
        String::new()
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

    fn reads_alone(&self) -> Option<&'static str> {
        Some("standard input")
    }

    fn open(&self, _: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        let failed = |e: std::io::Error| OpenError { field: "", message: e.to_string() };
        let (lines, text) = (BufReader::new(std::io::stdin()), self.format != Format::Bytes);
        Ok(Some(Box::new(LineReader::start(lines, true, text).map_err(failed)?)))
    }
}
