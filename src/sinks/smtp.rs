//! The `smtp` sink: one mail for each record, to one recipient.
//!
//! Everything of a mail is made inside the task (templates), so a record that is processed again makes the same mail,
//! with the same `Message-ID`: a server, or a reader, that gets it twice can tell. Lanes send one mail at a time, each
//! over its own connection.
//!
//! What the server refuses for good (5xx) is refused as a row. What it puts off (4xx) is sent again later, for ever, and
//! so is a mail whose answer was lost, which may have been taken.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Answers, Batch, Connected, Lane, Operation, Sink, SinkError, SinkSettings, Surroundings, TableSink,
};
use crate::clients::smtp::message::{Mailbox, MultiPart, SinglePart};
use crate::clients::smtp::{Message, Smtp};
use crate::clients::{Class, Failure, Server, Uses};
use crate::model::{
    Cell, Clock, EvalError, Expr, Json, Millis, Payload, Problem, Record, Scope, SinkRow, Template, Timestamp,
};

/// Most connections.
const LANES_MAX: usize = 100;
/// Mails that share one acknowledgement. After a crash so many of a lane may go out once more.
const BATCH_ROWS: usize = 20;
/// The last second that a date can name: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;
/// The server is closing the connection (RFC 5321, 3.8): what follows would be put off as well.
const CLOSING: &str = "421";

/// Sends one mail for each record.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpSinkConfig {
    /// Which of the connections in `smtp` it uses. Default: the only one.
    #[serde(default)]
    pub connection: Option<String>,
    /// The recipient, one: `{{ .email }}` or `{{ .name }} <{{ .email }}>`. Several recipients are several records
    /// (`flat_map`), so that one that is refused does not hold up the others. Required.
    pub to: Template,
    /// The sender: `Shop <shop@example.org>`. Required.
    pub from: Template,
    /// The subject, one line. Required.
    pub subject: Template,
    /// The mail as plain text. Either this or `html` is required; with both, the reader's program chooses.
    #[serde(default)]
    pub text: Option<Template>,
    /// The mail as HTML. Values are put in as they are: escape what users wrote.
    #[serde(default)]
    pub html: Option<Template>,
    /// Where an answer goes. Default: to the sender.
    #[serde(default)]
    pub reply_to: Option<Template>,
    /// Mails under way at a time, at most 100; each takes a connection. Default 4.
    #[serde(default = "SmtpSinkConfig::default_in_flight")]
    pub max_in_flight: usize,
}

/// The parts of a mail that are not its text, in the order of its cells.
const HEADERS: [&str; 4] = ["to", "from", "subject", "reply_to"];
/// All cells of a mail, in their order.
const CELLS: [&str; 7] = ["id", "to", "from", "subject", "reply_to", "text", "html"];

impl SmtpSinkConfig {
    fn default_in_flight() -> usize {
        4
    }

    fn headers(&self) -> [(&'static str, Option<&Template>); 4] {
        let [to, from, subject, reply_to] = HEADERS;
        [
            (to, Some(&self.to)),
            (from, Some(&self.from)),
            (subject, Some(&self.subject)),
            (reply_to, self.reply_to.as_ref()),
        ]
    }

    /// The parts of a mail, by the order of [`CELLS`], without the first.
    fn rendered(&self, record: &Record) -> Result<Vec<Option<String>>, EvalError> {
        let scope = Scope::of(record);
        let texts = [("text", self.text.as_ref()), ("html", self.html.as_ref())];
        let parts = self.headers().into_iter().chain(texts);
        parts
            .map(|(name, template)| {
                let render = |template: &Template| template.render(&scope, |text, out| out.push_str(text));
                template.map(render).transpose().map_err(|e| e.context(|e| format!("{name}: {e}")))
            })
            .collect()
    }
}

impl SinkSettings for SmtpSinkConfig {
    fn label(&self) -> String {
        String::new()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        // A mail server that is down holds up mails only, so that it is not asked before there is one.
        let made = around.clients.smtp(self.connection.as_deref()).map_err(config).map(|smtp| {
            let origin = format!("{}.{}", around.topology, around.node);
            Arc::new(SmtpSink { smtp, origin: origin.into(), lanes: self.max_in_flight })
                as Arc<dyn Connected>
        });
        Box::pin(async { made })
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        for (name, template) in self.headers() {
            let Some(template) = template else { continue };
            if template.text().contains(['\r', '\n']) {
                add(name, "a line break in a header of a mail", "write it in one line");
                continue;
            }
            // Only text that is there already can be checked; `${VAR}` may not be.
            let fixed = !template.text().contains("{{") && !template.text().contains("${");
            if name != "subject"
                && fixed
                && let Err(why) = mailbox(name, template.text())
            {
                add(name, &why, "write `name@example.org` or `Name <name@example.org>`");
            }
        }
        if self.text.is_none() && self.html.is_none() {
            add("text", "the mail is empty", "write `text: ...`, or `html: ...`");
        }
        if !(1..=LANES_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 100", "the default is 4");
        }
        problems
    }

    fn connection(&self) -> Option<Uses<'_>> {
        Some(Uses { server: Server::Smtp, name: self.connection.as_deref() })
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        let fixed = [&mut self.to, &mut self.from, &mut self.subject];
        let more = [&mut self.reply_to, &mut self.text, &mut self.html].into_iter().flatten();
        fixed.into_iter().chain(more).flat_map(Template::exprs_mut).collect()
    }

    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        let parts = self.rendered(record)?;
        let id = id(record, &parts);
        let cells = std::iter::once(Some(id)).chain(parts);
        Ok(Payload::Columns(cells.map(|part| Cell::Json(part.map_or(Json::Null, Json::String))).collect()))
    }

    fn batch(&self) -> Batch {
        Batch { max_rows: BATCH_ROWS, linger: Millis::ZERO, ..Batch::default() }
    }

    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        let parts = CELLS.iter().zip(texts(row)).skip(1);
        let mail = parts.filter_map(|(name, text)| Some(((*name).to_owned(), Json::from(text?)))).collect();
        (Scope::of(&row.record).key_json(), Json::Object(mail))
    }

    fn stand_in(&self, clock: Arc<dyn Clock>) -> Option<TableSink> {
        let columns = CELLS.map(str::to_owned);
        Some(TableSink::new(&columns, &columns[..1], Operation::Upsert, clock))
    }
}

/// The cells of a mail; none of another row.
fn texts(row: &SinkRow) -> Vec<Option<&str>> {
    match &row.payload {
        Payload::Columns(cells) => cells
            .iter()
            .map(|cell| match cell {
                Cell::Json(Json::String(text)) => Some(text.as_str()),
                Cell::Json(_) | Cell::CommitTimestamp => None,
            })
            .collect(),
        Payload::Record | Payload::Delete(_) | Payload::Message(_) => Vec::new(),
    }
}

/// What a mail is known by within its sink: where its record was read (for a record of a timer, its time), and what
/// tells it from other mails of that record. It is the same whenever the record is processed.
fn id(record: &Record, parts: &[Option<String>]) -> String {
    let mut hash = Sha256::new();
    let key = record.key.as_ref().map(|key| &key[..]);
    let headers = parts.iter().take(HEADERS.len()).map(|part| part.as_deref().map(str::as_bytes));
    for part in std::iter::once(key).chain(headers) {
        // With its length, so that no two lists of parts run together alike.
        let part = part.unwrap_or_default();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let origin = record.origin;
    match origin.offset {
        ..0 => format!("at.{}.{hash}", record.ts.0.unsigned_abs()),
        offset => format!("{}.{}.{offset}.{hash}", origin.topic, origin.partition),
    }
}

fn mailbox(name: &str, text: &str) -> Result<Mailbox, String> {
    // An address ends the header's line, and a name could begin another one.
    if text.contains(char::is_control) {
        return Err(format!("`{name}` holds a line break or another control character"));
    }
    text.parse().map_err(|e| format!("`{name}` is no address of a mail: `{text}`: {e}"))
}

/// The mail of a row.
///
/// # Errors
/// Why there is none: an address that is none, a line break in a header.
fn mail(origin: &str, row: &SinkRow) -> Result<Message, String> {
    let [Some(id), Some(to), Some(from), Some(subject), reply_to, text, html] = texts(row)[..] else {
        return Err("the record was made no mail".to_owned());
    };
    if subject.contains(char::is_control) {
        return Err("`subject` holds a line break or another control character".to_owned());
    }
    let from = mailbox("from", from)?;
    let message_id = format!("<{origin}.{id}@{}>", from.email.domain());
    let seconds = u64::try_from(row.record.ts.0).unwrap_or(0) / 1000;
    let mut builder = Message::builder()
        .message_id(Some(message_id))
        .date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND)))
        .from(from)
        .to(mailbox("to", to)?)
        .subject(subject);
    if let Some(reply_to) = reply_to {
        builder = builder.reply_to(mailbox("reply_to", reply_to)?);
    }
    let mail = match (text.map(str::to_owned), html.map(str::to_owned)) {
        (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
        (text, None) => builder.singlepart(SinglePart::plain(text.unwrap_or_default())),
    };
    mail.map_err(|e| e.to_string())
}

/// A mail server, and how its mails' ids begin.
#[derive(Clone)]
struct SmtpSink {
    smtp: Smtp,
    /// Topology and node: the same record may make a mail at another node too.
    origin: Arc<str>,
    lanes: usize,
}

impl Connected for SmtpSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

impl Sink for SmtpSink {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        // Keys of which a mail was put off: their next ones wait, so that they keep their order.
        let mut held: HashSet<Option<&[u8]>> = HashSet::new();
        let mut put_off = None;
        for (at, row) in batch.iter().enumerate() {
            let key = row.record.key.as_deref();
            if held.contains(&key) {
                continue;
            }
            let mail = match mail(&self.origin, row) {
                Ok(mail) => mail,
                Err(why) => {
                    out.refused(at, why);
                    continue;
                }
            };
            let Err(failure) = self.smtp.send(mail).await else {
                out.written(at);
                continue;
            };
            match failure.class {
                Class::Row => out.refused(at, failure.message),
                Class::Config => return Err(config(failure)),
                // The server is there and does not want this one now: the others need not wait.
                Class::Transient if failure.code.is_some() && !failure.is(CLOSING) => {
                    held.insert(key);
                    put_off.get_or_insert(failure.message);
                }
                Class::Transient | Class::Contention | Class::Overload | Class::Unknown => {
                    return Err(SinkError::Retry { message: failure.message, after: None });
                }
            }
        }
        match put_off {
            None => Ok(()),
            Some(message) => Err(SinkError::Retry { message, after: None }),
        }
    }
}

fn config(failure: Failure) -> SinkError {
    SinkError::Config { message: failure.message, column: failure.column }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Value};
    use serde_json::json;

    fn row(parts: [Option<&str>; 6]) -> SinkRow {
        let origin = Origin { topic: 0, partition: 3, offset: 1042 };
        let record = Record { origin, ..Record::new("k", Value::Null, Timestamp(1_500)) };
        let parts: Vec<Option<String>> = parts.iter().map(|part| part.map(str::to_owned)).collect();
        let id = id(&record, &parts);
        let cells = std::iter::once(Some(id)).chain(parts);
        let cells = cells.map(|part| Cell::Json(part.map_or(Json::Null, Json::String))).collect();
        SinkRow { reply_to: None, record, payload: Payload::Columns(cells) }
    }

    fn text(parts: [Option<&str>; 6]) -> String {
        let mail = mail("users.welcome", &row(parts)).expect("is a mail");
        String::from_utf8(mail.formatted()).expect("is text")
    }

    #[test]
    fn a_mail_has_an_id_of_its_record_and_the_records_time() {
        let parts = [Some("Ann <ann@b.c>"), Some("me@example.org"), Some("Grüße"), None, Some("Hi"), None];
        let first = text(parts);
        assert_eq!(first, text(parts), "made again it is the same mail");
        let id = first.lines().find(|line| line.starts_with("Message-ID: ")).expect("has an id");
        assert!(id.starts_with("Message-ID: <users.welcome.0.3.1042."), "{id}");
        assert!(id.ends_with("@example.org>"), "{id}");
        assert!(first.contains("Date: Thu, 01 Jan 1970 00:00:01 +0000"), "{first}");
        assert!(first.contains("To: Ann <ann@b.c>") || first.contains("To: \"Ann\" <ann@b.c>"), "{first}");
        assert!(first.contains("\r\n\r\nHi"), "{first}");
        let mut other = parts;
        other[0] = Some("bob@b.c");
        assert!(!text(other).contains(id), "a record may make several mails");
    }

    #[test]
    fn text_and_html_are_alternatives() {
        let (to, from) = (Some("a@b.c"), Some("me@example.org"));
        let both = text([to, from, Some("s"), Some("answers@b.c"), Some("plain"), Some("<b>rich</b>")]);
        for part in ["multipart/alternative", "text/plain", "text/html", "Reply-To: answers@b.c"] {
            assert!(both.contains(part), "{part}: {both}");
        }
        assert!(text([to, from, Some("s"), None, None, Some("<b>")]).contains("text/html"));
    }

    #[test]
    fn what_would_be_another_header_is_refused() {
        let check = |to: &str, from: &str, subject: &str, reply_to: &str, says: &str| {
            let row = row([Some(to), Some(from), Some(subject), Some(reply_to), Some("t"), None]);
            let why = mail("t.n", &row).expect_err("is refused");
            assert!(why.contains(says), "{why}");
        };
        check("a@b.c\r\nBcc: all@b.c", "m@b.c", "s", "r@b.c", "`to` holds a line break");
        check("a@b.c", "m@b.c\nX: y", "s", "r@b.c", "`from` holds a line break");
        check("a@b.c", "m@b.c", "s\nBcc: all@b.c", "r@b.c", "`subject` holds a line break");
        check("a@b.c", "m@b.c", "s", "r@b.c\r\n", "`reply_to` holds a line break");
        check("a@b.c, d@e.f", "m@b.c", "s", "r@b.c", "`to` is no address");
        check("nobody", "m@b.c", "s", "r@b.c", "`to` is no address");
        // A time that no date can name ends nothing.
        let mut late = row([Some("a@b.c"), Some("m@b.c"), Some("s"), None, Some("t"), None]);
        late.record.ts = Timestamp(i64::MAX);
        assert!(mail("t.n", &late).is_ok());
    }

    #[test]
    fn a_record_of_a_timer_is_known_by_its_time() {
        let parts = vec![Some("a@b.c".to_owned()); 6];
        let record = Record::new("k", Value::Null, Timestamp(7));
        assert!(id(&record, &parts).starts_with("at.7."), "{}", id(&record, &parts));
        let other = Record::new("l", Value::Null, Timestamp(7));
        assert_ne!(id(&record, &parts), id(&other, &parts));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let check = |settings: Json, fields: &[&str]| {
            let config: SmtpSinkConfig = serde_json::from_value(settings).expect("is read");
            assert_eq!(config.check().into_iter().map(|p| p.field).collect::<Vec<_>>(), fields);
        };
        // As `yaml/` hands them over: start, end, text.
        let at = |text: &str| json!([0, text.len(), text]);
        check(
            json!({"to": at("{{ .to }}"), "from": at("${MAIL_FROM}"), "subject": at("s"), "text": at("t")}),
            &[],
        );
        check(
            json!({"to": at("{{ .to }}"), "from": at("nobody"), "subject": at("a\nb"), "max_in_flight": 0}),
            &["from", "subject", "text", "max_in_flight"],
        );
    }
}
