//! A lane of the `http` sink: makes requests of rows, and rows' answers of theirs.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::answer::{self, Verdict};
use super::{ANSWER_MAX, HttpSinkConfig, Sends, Unanswered};
use crate::clients::http::{HttpAnswer, HttpCaller};
use crate::clients::request::{default_header, host};
use crate::clients::{Class, Failure, Pace};
use crate::model::{Cell, HttpRequest, Json, Origin, Payload, SinkRow, SystemClock, Value};
use crate::sinks::{Answers, Connected, Lane, Sink, SinkError};

/// How long a lane waits for the rate limit before it looks whether it should end.
const TURN_MAX: Duration = Duration::from_secs(10);
/// So often is a request sent again that got 409 after an attempt without an answer: the API may be at it still.
const CONFLICTS_MAX: u32 = 3;
/// The longest `Idempotency-Key`; some APIs take no more.
const KEY_MAX: usize = 255;

/// An API and what is sent to it. Cheap to clone: lanes share its connections.
#[derive(Clone)]
pub struct HttpSink(Arc<Shared>);

struct Shared {
    config: HttpSinkConfig,
    http: HttpCaller,
    /// Topology and node.
    origin: String,
    pace: Option<Arc<dyn Pace>>,
}

impl HttpSink {
    /// Asks nothing.
    ///
    /// # Errors
    /// `Config`: a certificate cannot be read.
    pub fn new(
        config: &HttpSinkConfig,
        origin: &str,
        pace: Option<Arc<dyn Pace>>,
    ) -> Result<HttpSink, SinkError> {
        let (clock, tls) = (Arc::new(SystemClock), config.tls.as_deref());
        let http = HttpCaller::with_tls(NonZeroUsize::MIN, ANSWER_MAX, config.max_in_flight, clock, tls);
        let http = http.map_err(|e| SinkError::Config { message: e.to_string(), column: None })?;
        Ok(HttpSink(Arc::new(Shared { config: config.clone(), http, origin: origin.to_owned(), pace })))
    }

    /// A lane: what one driver lane delivers to.
    #[must_use]
    pub fn lane(&self) -> HttpLane {
        HttpLane { sink: self.clone(), rows_max: usize::MAX, unsure: None }
    }

    /// The request for rows that share method, URL and headers.
    fn request(&self, rows: &[Asked<'_>]) -> HttpRequest {
        let Shared { config, origin, .. } = &*self.0;
        let first = &rows[0];
        let text =
            |(name, value): (&String, &Json)| (name.clone(), value.as_str().unwrap_or_default().to_owned());
        let mut headers: Vec<(String, String)> = first.headers.iter().map(text).collect();
        let body = match config.send {
            Sends::One => self.text(first),
            Sends::Ndjson => {
                let line = |row| [&self.text(row).unwrap_or_else(|| "null".into())[..], b"\n"].concat();
                Some(rows.iter().flat_map(line).collect())
            }
            Sends::Array => {
                let items: Vec<Bytes> =
                    rows.iter().map(|row| self.text(row).unwrap_or_else(|| "null".into())).collect();
                Some([&b"["[..], &items.join(&b","[..]), b"]"].concat().into())
            }
        };
        if body.is_some() {
            let kind = if config.send == Sends::Ndjson { "application/x-ndjson" } else { "application/json" };
            default_header(&mut headers, "content-type", kind);
        }
        if !config.idempotency_key.is_empty() {
            let key = idempotency_key(origin, rows, body.as_deref().unwrap_or_default());
            default_header(&mut headers, &config.idempotency_key, &key);
        }
        let (method, url) = (first.method.to_owned().into(), first.url.to_owned());
        HttpRequest { method, url, headers, login: None, body, timeout: config.timeout }
    }

    /// What is sent of one row.
    fn text(&self, row: &Asked<'_>) -> Option<Bytes> {
        let config = &self.0.config;
        match (&row.row.record.value, row.body) {
            // As it was written; in a line of its own. A line break in JSON stands between its parts only.
            (Value::Bytes(bytes), _) if config.body.is_none() => Some(match config.send {
                Sends::One | Sends::Array => bytes.clone(),
                Sends::Ndjson => {
                    bytes.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
                }
            }),
            (_, Json::Null) => None,
            (_, body) => Some(body.to_string().into()),
        }
    }
}

/// The same for the same rows, whenever they are sent: where the first and the last were read, and what is sent.
fn idempotency_key(origin: &str, rows: &[Asked<'_>], body: &[u8]) -> String {
    let mut hash = Sha256::new();
    let first = &rows[0];
    for part in [origin.as_bytes(), first.method.as_bytes(), first.url.as_bytes(), body] {
        // With its length, so that no two lists of parts run together alike.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    // A record that a timer made was read nowhere: its key and time tell it from others.
    for Asked { row, .. } in rows {
        let key = row.record.key.as_deref().unwrap_or_default();
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key);
        hash.update(row.record.ts.0.to_be_bytes());
    }
    let hash = hash.finalize().iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").unwrap_or_default();
        hex
    });
    let place = |row: &Asked<'_>| {
        let Origin { topic, partition, offset } = row.row.record.origin;
        if offset < 0 { "timer".to_owned() } else { format!("{topic}.{partition}.{offset}") }
    };
    let mut places = place(first);
    if let Some(last) = rows.last().filter(|_| rows.len() > 1) {
        places = format!("{places}-{}", place(last));
    }
    let key = format!("{origin}.{places}.{hash}");
    if key.len() > KEY_MAX { format!("{}.{hash}", &places) } else { key }
}

impl Connected for HttpSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(HttpSink::lane(self))
    }

    fn lanes(&self) -> usize {
        self.0.config.max_in_flight
    }

    /// A request would do something: whether its server takes connections is all that can be asked.
    fn reach(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async {
            let Some(host) = host(&self.0.config.url) else { return Ok(()) };
            let opened = tokio::net::TcpStream::connect(&host).await;
            let away = |e| SinkError::Retry { message: format!("cannot reach {host}: {e}"), after: None };
            opened.map(drop).map_err(away)
        })
    }
}

/// A row, taken apart.
struct Asked<'a> {
    row: &'a SinkRow,
    method: &'a str,
    url: &'a str,
    headers: &'a Map<String, Json>,
    body: &'a Json,
}

impl<'a> Asked<'a> {
    fn of(row: &'a SinkRow) -> Option<Asked<'a>> {
        let Payload::Columns(cells) = &row.payload else { return None };
        let [Cell::Json(method), Cell::Json(url), Cell::Json(Json::Object(headers)), Cell::Json(body)] =
            &cells[..]
        else {
            return None;
        };
        Some(Asked { row, method: method.as_str()?, url: url.as_str()?, headers, body })
    }

    fn goes_with(&self, other: &Asked<'_>) -> bool {
        self.method == other.method && self.url == other.url && self.headers == other.headers
    }
}

/// One lane of an HTTP sink.
pub struct HttpLane {
    sink: HttpSink,
    /// Rows in one request: fewer after one that was too much.
    rows_max: usize,
    /// After an attempt without an answer: how often 409 has come since.
    unsure: Option<u32>,
}

impl Sink for HttpLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let Some(rows) = batch.iter().map(Asked::of).collect::<Option<Vec<_>>>() else {
            return Err(SinkError::Refused { message: "a row without method, URL and body".to_owned() });
        };
        let mut at = 0;
        while at < rows.len() {
            let count = self.fit(&rows[at..]);
            at += self.send(&rows[at..at + count], at, out).await?;
        }
        Ok(())
    }
}

impl HttpLane {
    /// How many of these rows one request takes.
    fn fit(&self, rows: &[Asked<'_>]) -> usize {
        let config = &self.sink.0.config;
        if config.send == Sends::One {
            return 1;
        }
        let key = |row: &Asked<'_>| row.row.record.key.clone();
        let mut keys = std::collections::HashSet::new();
        let fits = |row: &&Asked<'_>| {
            // Where rows are answered one by one, an older one of a key must not be left behind a newer one.
            let fresh = config.answers.is_none() || key(row).is_none_or(|key| keys.insert(key));
            fresh && row.goes_with(&rows[0])
        };
        rows.iter().take(self.rows_max).take_while(fits).count().max(1)
    }

    /// Sends one request; the number of rows that are dealt with, none if it is to be sent with fewer.
    async fn send(&mut self, rows: &[Asked<'_>], at: usize, out: &mut Answers) -> Result<usize, SinkError> {
        let shared = Arc::clone(&self.sink.0);
        let (config, count) = (&shared.config, rows.len());
        if let Some(pace) = &shared.pace
            && tokio::time::timeout(TURN_MAX, pace.turn()).await.is_err()
        {
            return Err(again("the rate limit grants nothing".to_owned(), None));
        }
        let asked = shared.http.ask(&self.sink.request(rows)).await;
        let unsure = self.unsure.take();
        match asked {
            Ok(answer) if answer.class().is_none() => {
                self.rows_max = self.rows_max.saturating_mul(2);
                self.taken(&answer, count, at, out)
            }
            Ok(answer) if answer.status == 413 && count > 1 => {
                self.rows_max = count / 2;
                Ok(0)
            }
            Ok(answer) if answer.status == 409 && unsure.is_some() => {
                let conflicts = unsure.unwrap_or_default();
                if conflicts >= CONFLICTS_MAX {
                    // The attempt without an answer was taken.
                    return Ok(written(count, at, out));
                }
                self.unsure = Some(conflicts + 1);
                Err(again(answer.said(), answer.after()))
            }
            Ok(answer) => match answer.class() {
                None | Some(Class::Row) => refuse(answer.said(), count, at, out),
                Some(Class::Overload) => {
                    self.rows_max = (count / 2).max(1);
                    if let (Some(pace), Some(pause)) = (&shared.pace, answer.after()) {
                        pace.pause_for(pause);
                    }
                    Err(again(answer.said(), answer.after()))
                }
                Some(Class::Transient) if answer.status != 425 => {
                    self.unanswered(config, answer.said(), answer.after(), (count, at), out)
                }
                // No row is to blame for credentials that have expired: all would be refused until they are mended.
                Some(_) => Err(again(answer.said(), answer.after())),
            },
            Err(Failure { class: Class::Row, message, .. }) => refuse(message, count, at, out),
            Err(Failure { class: Class::Unknown, message, .. }) => {
                self.unanswered(config, message, None, (count, at), out)
            }
            Err(Failure { message, .. }) => {
                self.unsure = unsure;
                Err(again(message, None))
            }
        }
    }

    /// The request was taken: what it says of its rows.
    fn taken(
        &self,
        answer: &HttpAnswer,
        count: usize,
        at: usize,
        out: &mut Answers,
    ) -> Result<usize, SinkError> {
        let config = &self.sink.0.config;
        let Some(list) = &config.answers else { return Ok(written(count, at, out)) };
        let verdicts =
            answer::verdicts(answer, list, &config.answer_status, count).map_err(|e| again(e, None))?;
        let mut later = None;
        for (row, verdict) in (at..).zip(verdicts) {
            match verdict {
                Verdict::Done => out.written(row),
                Verdict::Refused(why) => out.refused(row, why),
                Verdict::Again(message) => later = Some(message),
            }
        }
        match later {
            Some(message) => Err(again(message, answer.after())),
            None => Ok(count),
        }
    }

    /// It was sent, and may have been taken.
    fn unanswered(
        &mut self,
        config: &HttpSinkConfig,
        message: String,
        after: Option<Duration>,
        (count, at): (usize, usize),
        out: &mut Answers,
    ) -> Result<usize, SinkError> {
        match config.unanswered {
            Unanswered::Again => {
                self.unsure = Some(0);
                Err(again(message, after))
            }
            Unanswered::Refuse => {
                let why = format!("sent, and it may have been taken: {message}");
                (at..at + count).for_each(|row| out.refused(row, why.clone()));
                Ok(count)
            }
        }
    }
}

fn again(message: String, after: Option<Duration>) -> SinkError {
    SinkError::Retry { message, after }
}

fn written(count: usize, at: usize, out: &mut Answers) -> usize {
    (at..at + count).for_each(|row| out.written(row));
    count
}

/// One row is refused; of several at least one is bad.
fn refuse(message: String, count: usize, at: usize, out: &mut Answers) -> Result<usize, SinkError> {
    if count > 1 {
        return Err(SinkError::Refused { message });
    }
    out.refused(at, message);
    Ok(1)
}
