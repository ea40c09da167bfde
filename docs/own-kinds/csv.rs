//! A sink of one's own: the settings, what they make of a record, and what writes it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::json;
use slackwater::model::{Cell, EvalError, Expr, Json, Payload, Problem, Record, Scope, SinkRow, Timestamp};
use slackwater::sinks::{Answers, BoxFuture, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};

/// `csv: { path: alarms.csv, columns: [key, .since] }`: a line of comma-separated values for each record.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    /// The file; lines are appended.
    path: PathBuf,
    /// The columns: expressions.
    columns: Vec<Expr>,
}

impl SinkSettings for Csv {
    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn check(&self) -> Vec<Problem> {
        let none = self.columns.is_empty();
        none.then(|| Problem::setting("columns", "no column", "write `columns: [key]`")).into_iter().collect()
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.columns.iter_mut().collect()
    }

    /// Pure, and inside of the task: an expression that fails is the record's error.
    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        let scope = Scope::of(record);
        let cells = self.columns.iter().map(|column| column.eval(&scope).map(Cell::Json));
        cells.collect::<Result<_, _>>().map(Payload::Columns)
    }

    /// What `test` and `simulate` compare and print: key and value.
    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        (Scope::of(&row.record).key_json(), json!(cells(row)))
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async {
            let file = OpenOptions::new().create(true).append(true).open(&self.path);
            let file = file.map_err(|e| SinkError::Config {
                message: format!("{}: {e}", self.path.display()),
                column: None,
            })?;
            Ok(Arc::new(Lines(Arc::new(Mutex::new(file)))) as Arc<dyn Connected>)
        })
    }
}

/// The open file. Every lane of the process writes whole batches to it.
#[derive(Clone)]
struct Lines(Arc<Mutex<File>>);

impl Connected for Lines {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }
}

impl Sink for Lines {
    /// `Ok` is a promise: the rows are durable, and the checkpoint that waits for them may go on.
    async fn deliver(&mut self, batch: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        let text: String = batch.iter().map(line).collect();
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|e| SinkError::Retry { message: e.to_string(), after: None })
    }
}

/// The row's values as they were evaluated.
fn cells(row: &SinkRow) -> Vec<&Json> {
    let Payload::Columns(cells) = &row.payload else { return Vec::new() };
    cells.iter().filter_map(|cell| if let Cell::Json(json) = cell { Some(json) } else { None }).collect()
}

fn line(row: &SinkRow) -> String {
    let field = |value: &Json| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let plain = !text.contains([',', '"', '\n', '\r']);
        if plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
    };
    cells(row).into_iter().map(field).collect::<Vec<_>>().join(",") + "\n"
}
