//! The `stdout` and `file` sinks: one JSON object a line, `{"key", "value", "ts", "window"?, "headers"?}`.
//!
//! A file is only ever appended to, and synced before a batch is acknowledged. A line that a crash or a full disk cut
//! short is ended with a newline before the next one, so that only that line is broken; its record is written again.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;

use super::{Answers, Batch, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};
use crate::model::{Json, Millis, Problem, Record, Scope, SinkRow};

/// Writes records to standard output, one JSON object a line.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

/// Appends records to a file, one JSON object a line.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file; made if it is not there.
    pub path: PathBuf,
    /// How records are gathered before the file is synced.
    #[serde(default)]
    pub batch: Batch,
}

impl SinkSettings for StdoutConfig {
    fn label(&self) -> String {
        String::new()
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async { Ok(Arc::new(LineSink::stdout()) as Arc<dyn Connected>) })
    }

    // Waiting would gain nothing.
    fn batch(&self) -> Batch {
        Batch { linger: Millis::ZERO, ..Batch::default() }
    }
}

impl SinkSettings for FileConfig {
    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async { Ok(Arc::new(LineSink::file(&self.path).await?) as Arc<dyn Connected>) })
    }

    fn check(&self) -> Vec<Problem> {
        if self.path.as_os_str().is_empty() {
            return vec![Problem::setting("path", "the file has no name", "write `path: records.jsonl`")];
        }
        Vec::new()
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }
}

impl Connected for LineSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }
}

/// A record as a line shows it.
fn line(record: &Record) -> String {
    let mut out = Map::new();
    out.insert("ts".into(), json!(record.ts.0));
    if let Some(window) = record.window {
        out.insert("window".into(), json!([window.start.0, window.end.0]));
    }
    if !record.headers.is_empty() {
        let text = |value: Option<&Bytes>| value.map(|value| String::from_utf8_lossy(value)).into();
        let headers = record.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        out.insert("headers".into(), Json::Object(headers));
    }
    let (key, value) = (Scope::of(record).key_json(), record.value.show_text());
    format!("{{\"key\":{key},\"value\":{value},{}", &Json::Object(out).to_string()[1..])
}

/// The mode of files that are made, where it is not the process's own; 0: it is. Written once, before anything runs.
static MODE: AtomicU32 = AtomicU32::new(0);

/// Files that sinks make have this mode from now on: the process's own umask may be that of its state.
pub fn make_files_with(mode: u32) {
    MODE.store(mode, Ordering::Relaxed);
}

/// The destination of lines. Cheap to clone; clones write whole batches in turn.
#[derive(Clone)]
pub struct LineSink {
    /// Shared by every lane that writes to it.
    out: Arc<Mutex<Out>>,
}

enum Out {
    Stdout,
    File {
        file: File,
        path: PathBuf,
        /// Whether the last line may be incomplete.
        torn: bool,
    },
}

impl LineSink {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> LineSink {
        LineSink { out: Arc::new(Mutex::new(Out::Stdout)) }
    }

    /// Opens a file to append to.
    ///
    /// # Errors
    /// `Config`: it cannot be opened.
    pub async fn file(path: &Path) -> Result<LineSink, SinkError> {
        let fault = |e: std::io::Error| SinkError::Config {
            message: format!("{}: {e}", path.display()),
            column: None,
        };
        let is_new = !path.exists();
        let mut file =
            File::options().create(true).read(true).append(true).open(path).await.map_err(fault)?;
        let mode = MODE.load(Ordering::Relaxed);
        if is_new && mode != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(mode)).await.map_err(fault)?;
        }
        let length = file.seek(std::io::SeekFrom::End(0)).await.map_err(fault)?;
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(std::io::SeekFrom::End(-1)).await.map_err(fault)?;
            file.read_exact(&mut last).await.map_err(fault)?;
        }
        let torn = last != [b'\n'];
        Ok(LineSink { out: Arc::new(Mutex::new(Out::File { file, path: path.to_owned(), torn })) })
    }
}

impl Sink for LineSink {
    async fn deliver(&mut self, batch: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        let mut text = String::new();
        for row in batch {
            text.push_str(&line(&row.record));
            text.push('\n');
        }
        let mut out = self.out.lock().await;
        let (name, done) = match &mut *out {
            Out::Stdout => ("stdout".to_owned(), print(text).await),
            Out::File { file, path, torn } => {
                if *torn {
                    text.insert(0, '\n');
                }
                *torn = true;
                let done = append(file, &text).await;
                *torn = done.is_err();
                (path.display().to_string(), done)
            }
        };
        done.map_err(|e| match e.kind() {
            // The reader of standard output has gone, and will not come back.
            ErrorKind::BrokenPipe => SinkError::Config { message: format!("{name}: {e}"), column: None },
            _ => SinkError::Retry { message: format!("{name}: {e}"), after: None },
        })
    }
}

async fn append(file: &mut File, text: &str) -> std::io::Result<()> {
    file.write_all(text.as_bytes()).await?;
    file.flush().await?;
    file.sync_data().await
}

/// Standard output may block for as long as its reader likes, so it is written on a thread for blocking work.
async fn print(text: String) -> std::io::Result<()> {
    let printing = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    });
    printing.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Headers, Payload, Timestamp, Value, Window};

    #[test]
    fn a_line_holds_what_the_record_has() {
        let mut record = Record::new("a", Value::from(json!({"n": 1})), Timestamp(7));
        assert_eq!(line(&record), r#"{"key":"a","value":{"n":1},"ts":7}"#);
        record.value = Value::Bytes(r#"{"n": 18446744073709551616}"#.into());
        assert_eq!(line(&record), r#"{"key":"a","value":{"n":18446744073709551616},"ts":7}"#);
        record.key = None;
        record.value = Value::Null;
        record.window = Some(Window { start: Timestamp(0), end: Timestamp(5) });
        record.headers = Headers::default().with("h", "x");
        assert_eq!(line(&record), r#"{"key":null,"value":null,"ts":7,"window":[0,5],"headers":{"h":"x"}}"#);
    }

    #[tokio::test]
    async fn a_torn_line_breaks_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        std::fs::write(&path, "{\"key\":\"cut").unwrap();
        let row = SinkRow {
            reply_to: None,
            record: Record::new("a", Value::Null, Timestamp(1)),
            payload: Payload::Record,
        };
        for _ in 0..2 {
            LineSink::file(&path)
                .await
                .unwrap()
                .deliver(std::slice::from_ref(&row), &mut Answers::new(1))
                .await
                .unwrap();
        }
        let whole = "{\"key\":\"a\",\"value\":null,\"ts\":1}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{{\"key\":\"cut\n{whole}{whole}"));
        let gone = LineSink::file(&dir.path().join("no/such/dir")).await;
        assert!(matches!(gone, Err(SinkError::Config { .. })));
    }
}
