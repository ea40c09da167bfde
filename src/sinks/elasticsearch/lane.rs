//! A lane of the `elasticsearch` sink: makes `_bulk` requests of rows, and rows' answers of theirs.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::BoxFuture;

use super::answer::{self, Verdict};
use super::chains::{Chains, Does};
use super::{Action, ElasticsearchConfig};
use crate::clients::http::HttpCaller;
use crate::clients::{Class, Failure};
use crate::model::{Cell, HttpRequest, Json, Payload, SinkRow, Size, SystemClock, Value};
use crate::sinks::{Answers, Connected, Lane, Sink, SinkError};

/// Bytes of one request at first, before the server has said that it takes less.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Longest answer.
const ANSWER_MAX: Size = Size(64 << 20);

/// A cluster and what is written to it. Cheap to clone: lanes share its connections.
#[derive(Clone)]
pub struct SearchIndex(Arc<Shared>);

struct Shared {
    config: ElasticsearchConfig,
    http: HttpCaller,
    base: String,
}

impl SearchIndex {
    /// Asks nothing.
    ///
    /// # Errors
    /// `Config`: a certificate cannot be read.
    pub fn new(config: &ElasticsearchConfig) -> Result<SearchIndex, SinkError> {
        let (clock, tls) = (Arc::new(SystemClock), config.tls.as_deref());
        let http = HttpCaller::with_tls(NonZeroUsize::MIN, ANSWER_MAX, config.max_in_flight, clock, tls);
        let http = http.map_err(|e| SinkError::Config { message: e.to_string(), column: None })?;
        let base = config.url.trim_end_matches('/').to_owned();
        Ok(SearchIndex(Arc::new(Shared { config: config.clone(), http, base })))
    }

    /// A lane: what one driver lane delivers to.
    #[must_use]
    pub fn lane(&self) -> SearchLane {
        SearchLane { sink: self.clone(), rows_max: usize::MAX, bytes_max: BODY_BYTES_MAX }
    }

    fn request(&self, method: &'static str, path: &str, body: Option<Bytes>) -> HttpRequest {
        let Shared { config, base, .. } = &*self.0;
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.to_string()));
        let mut headers: Vec<(String, String)> = headers.collect();
        if body.is_some() {
            headers.push(("content-type".to_owned(), "application/x-ndjson".to_owned()));
            if config.compress {
                headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
            }
        }
        let login = config.user.clone();
        let login =
            login.map(|user| Box::new((user, config.password.as_deref().unwrap_or_default().to_owned())));
        let url = format!("{base}{path}");
        HttpRequest { method: method.into(), url, headers, login, body, timeout: config.timeout }
    }

    /// The text of a request: two lines a row, one for a deletion.
    fn write(&self, row: &Document<'_>, out: &mut Vec<u8>) {
        let config = &self.0.config;
        let action = match (row.document, config.action) {
            (None, _) => "delete",
            (Some(_), Action::Index) => "index",
            (Some(_), Action::Create) => "create",
        };
        let mut line = serde_json::json!({ "_index": row.index, "_id": row.id });
        if let Some(version) = row.version {
            line["version"] = version.into();
            line["version_type"] = "external".into();
        }
        out.extend_from_slice(serde_json::json!({ action: line }).to_string().as_bytes());
        out.push(b'\n');
        match (row.document, &row.row.record.value) {
            (None, _) => return,
            // As it was written: every number of it, in one line. A line break in JSON stands between its parts only.
            (Some(_), Value::Bytes(bytes)) if config.document.is_none() => {
                out.extend(bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
            }
            (Some(document), _) => out.extend_from_slice(document.to_string().as_bytes()),
        }
        out.push(b'\n');
    }

    fn packed(&self, body: Vec<u8>) -> Result<Bytes, Failure> {
        if !self.0.config.compress {
            return Ok(body.into());
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
        let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
        packed.map(Bytes::from).map_err(|e| Failure::new(Class::Transient, format!("gzip: {e}")))
    }
}

impl Connected for SearchIndex {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(SearchIndex::lane(self))
    }

    fn lanes(&self) -> usize {
        self.0.config.max_in_flight
    }

    fn reach(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async {
            match self.0.http.ask(&self.request("GET", "/", None)).await {
                Ok(answer) if answer.class().is_none() => Ok(()),
                Ok(answer) => Err(away(answer::whole(&answer), answer.after())),
                Err(failure) => Err(away(failure, None)),
            }
        })
    }
}

/// A failure of a request as a whole.
fn away(failure: Failure, after: Option<Duration>) -> SinkError {
    let Failure { class, message, .. } = failure;
    match class {
        Class::Config => SinkError::Config { message, column: None },
        Class::Row => SinkError::Refused { message },
        Class::Transient | Class::Contention | Class::Overload | Class::Unknown => {
            SinkError::Retry { message, after }
        }
    }
}

/// A row, taken apart.
struct Document<'a> {
    row: &'a SinkRow,
    index: &'a str,
    id: &'a str,
    version: Option<i64>,
    /// `None` deletes.
    document: Option<&'a Json>,
}

impl<'a> Document<'a> {
    fn of(row: &'a SinkRow) -> Option<Document<'a>> {
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) => (cells, false),
            Payload::Delete(cells) => (cells, true),
            Payload::Record | Payload::Message(_) => return None,
        };
        let [Cell::Json(index), Cell::Json(id), Cell::Json(version), Cell::Json(document)] = &cells[..]
        else {
            return None;
        };
        let document = (!delete).then_some(document);
        Some(Document { row, index: index.as_str()?, id: id.as_str()?, version: version.as_i64(), document })
    }

    fn does(&self, action: Action) -> Does {
        match (self.document, self.version, action) {
            (_, Some(version), _) => Does::ReplacesOlder(version),
            (Some(_), None, Action::Create) => Does::Creates,
            _ => Does::Replaces,
        }
    }
}

/// One lane of a search sink.
pub struct SearchLane {
    sink: SearchIndex,
    /// Rows in one request: fewer after one that was too much.
    rows_max: usize,
    /// Bytes of one request: fewer after one that was too large.
    bytes_max: usize,
}

impl Sink for SearchLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let Some(rows) = batch.iter().map(Document::of).collect::<Option<Vec<_>>>() else {
            return Err(SinkError::Refused { message: "a row without index, id and document".to_owned() });
        };
        let action = self.sink.0.config.action;
        let mut chains = Chains::new(rows.iter().map(|row| ((row.index, row.id), row.does(action))));
        loop {
            let sent = chains.next();
            let mut left = &sent[..];
            let mut again = None;
            while !left.is_empty() {
                let (count, verdicts) = self.send(&rows, left).await?;
                for (row, verdict) in left.iter().zip(verdicts) {
                    match verdict {
                        Verdict::Done => chains.done(*row).into_iter().for_each(|row| out.written(row)),
                        Verdict::Refused(why) => {
                            chains.refused(*row);
                            out.refused(*row, why);
                        }
                        Verdict::Again { message, .. } => again = Some(message),
                        Verdict::Config(message) => return Err(SinkError::Config { message, column: None }),
                    }
                }
                left = &left[count..];
            }
            if let Some(message) = again {
                return Err(SinkError::Retry { message, after: None });
            }
            if sent.is_empty() {
                return Ok(());
            }
        }
    }
}

impl SearchLane {
    /// Sends as many of `left` as one request holds; how many those were, and the answer to each.
    async fn send(
        &mut self,
        rows: &[Document<'_>],
        left: &[usize],
    ) -> Result<(usize, Vec<Verdict>), SinkError> {
        let (mut body, mut count) = (Vec::new(), 0);
        for row in left.iter().take(self.rows_max) {
            let end = body.len();
            self.sink.write(&rows[*row], &mut body);
            if count > 0 && body.len() > self.bytes_max {
                body.truncate(end);
                break;
            }
            count += 1;
        }
        let bytes = body.len();
        let path = format!("/_bulk?filter_path={}", answer::FILTER);
        let body = self.sink.packed(body).map_err(|failure| away(failure, None))?;
        let request = self.sink.request("POST", &path, Some(body));
        let (failure, after) = match self.sink.0.http.ask(&request).await {
            Ok(answer) if answer.class().is_none() => {
                match answer::items(&answer, self.sink.0.config.has_one_index()) {
                    Ok(verdicts) => return Ok((count, self.rated(count, verdicts))),
                    Err(message) => (Failure::new(Class::Unknown, message), None),
                }
            }
            Ok(answer) if answer.status == 413 && count == 1 => {
                let why = format!("{}: the document is larger than the server takes", answer.said());
                return Ok((1, vec![Verdict::Refused(why)]));
            }
            Ok(answer) if answer.status == 413 => {
                self.bytes_max = bytes / 2;
                return Ok((0, Vec::new()));
            }
            Ok(answer) => (answer::whole(&answer), answer.after()),
            Err(failure) => (failure, None),
        };
        // Too much to do, or not done in time: less of it may be.
        if matches!(failure.class, Class::Overload | Class::Unknown) {
            self.rows_max = (count / 2).max(1);
        }
        Err(away(failure, after))
    }

    /// The answers, one to each row: those that are missing may be asked for again. The next request has more rows, or after
    /// an overload fewer.
    fn rated(&mut self, count: usize, mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
        let missing = || Verdict::Again {
            message: "the answer has fewer rows than the request".into(),
            overload: false,
        };
        verdicts.truncate(count);
        verdicts.resize_with(count, missing);
        self.rows_max = match verdicts.iter().any(|v| matches!(v, Verdict::Again { overload: true, .. })) {
            true => (count / 2).max(1),
            false => self.rows_max.saturating_mul(2),
        };
        verdicts
    }
}
