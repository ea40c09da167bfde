//! `slackwater simulate`: runs JSON lines through the production task on virtual time, and prints JSON lines.

use std::io::{BufRead, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::tests_of_a_file::commit_one;
use super::{Answer, DriverError, Output, TopologyTestDriver};
use crate::model::{Json, Millis, NotJson, Record, Timestamp, Value, key_text, read_json, text};
use crate::topology::Topology;
use crate::yaml::{Commit, is_status};

/// Why a simulation ended early.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A line that is none of the five forms.
    #[error("line {line}: {message}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The task stopped.
    #[error("line {line}: {error}")]
    Task {
        /// From 1.
        line: usize,
        /// Why.
        error: DriverError,
    },
    /// Input or output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    topic: String,
    #[serde(default)]
    #[expect(dead_code, reason = "a name that a line may have; see `Written`")]
    key: Json,
    #[serde(default)]
    #[expect(dead_code, reason = "a name that a line may have; see `Written`")]
    value: Json,
    ts: Option<i64>,
}

/// What of a record's line is taken as it is written, and not as it is read: a number may be one that nothing reads.
#[derive(Deserialize)]
struct Written<'t> {
    #[serde(borrow)]
    key: Option<&'t RawValue>,
    #[serde(borrow)]
    value: Option<&'t RawValue>,
}

impl Written<'_> {
    fn key(&self) -> Result<Json, NotJson> {
        self.key.map_or(Ok(Json::Null), |key| read_json(key.get().as_bytes()))
    }

    /// The value as a topic would have it, without white space; null is a tombstone.
    fn value(&self) -> Value {
        match self.value.map(RawValue::get) {
            None | Some("null") => Value::Null,
            Some(value) => Value::Bytes(Bytes::from(text::compact(value))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceLine {
    advance_ms: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartLine {
    restart: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallLine {
    on_call: String,
    status: Option<u16>,
    #[serde(default, deserialize_with = "given")]
    body: Option<Json>,
    latency_ms: Option<i64>,
    times: Option<u64>,
    retry_after_ms: Option<i64>,
}

/// What stands there, also where it is null.
fn given<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(d).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitLine {
    commit: Commit,
}

/// Runs `input` through the topology; a checkpoint after every `every` lines.
///
/// # Errors
/// See [`SimulateError`]; what came out before is written.
pub fn simulate(
    topology: Arc<Topology>,
    input: impl BufRead,
    mut output: impl Write,
    every: u64,
) -> Result<(), SimulateError> {
    let mut driver =
        TopologyTestDriver::new(topology).map_err(|error| SimulateError::Task { line: 0, error })?;
    let mut step: u64 = 0;
    for (n, line) in input.split(b'\n').enumerate() {
        let number = n + 1;
        let line = String::from_utf8(line?).map_err(|e| {
            let at = e.utf8_error().valid_up_to() + 1;
            SimulateError::Line { line: number, message: format!("byte {at} is no UTF-8") }
        })?;
        // Editors on Windows begin a file with this character.
        let line = if n == 0 { line.trim_start_matches('\u{feff}') } else { &line };
        if line.trim().is_empty() {
            continue;
        }
        let result = one(&mut driver, line);
        write_outputs(&mut driver, step, &mut output)?;
        result.map_err(|e| match e {
            Failure::Line(message) => SimulateError::Line { line: number, message },
            Failure::Task(error) => SimulateError::Task { line: number, error },
        })?;
        step += 1;
        if step.is_multiple_of(every.max(1)) {
            driver.checkpoint().map_err(|error| SimulateError::Task { line: number, error })?;
        }
    }
    output.flush()?;
    Ok(())
}

enum Failure {
    Line(String),
    Task(DriverError),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Failure::Task(error)
    }
}

fn read<T: serde::de::DeserializeOwned>(json: Json) -> Result<T, Failure> {
    serde_json::from_value(json).map_err(|e| Failure::Line(e.to_string()))
}

fn one(driver: &mut TopologyTestDriver, line: &str) -> Result<(), Failure> {
    let json: Json = serde_json::from_str(line).map_err(|e| Failure::Line(format!("no JSON: {e}")))?;
    if json.get("advance_ms").is_some() {
        let line: AdvanceLine = read(json)?;
        if line.advance_ms < 0 {
            return Err(Failure::Line("`advance_ms` is negative: time does not go back".into()));
        }
        driver.advance(Millis(line.advance_ms))?;
    } else if json.get("restart").is_some() {
        let line: RestartLine = read(json)?;
        if !line.restart {
            return Err(Failure::Line(
                "`restart` is false, and then it says nothing: remove the line".into(),
            ));
        }
        driver.restart()?;
    } else if json.get("on_call").is_some() {
        read_json(line.as_bytes()).map_err(|e| Failure::Line(e.0))?;
        let line: CallLine = read(json)?;
        let default = Answer::default();
        for (field, given) in [("latency_ms", line.latency_ms), ("retry_after_ms", line.retry_after_ms)] {
            if given.is_some_and(|given| given < 0) {
                return Err(Failure::Line(format!("`{field}` is negative: time does not go back")));
            }
        }
        if line.times == Some(0) {
            return Err(Failure::Line("`times` is 0: no call is answered so".into()));
        }
        if let Some(status) = line.status.filter(|status| !is_status(*status)) {
            return Err(Failure::Line(format!(
                "`status` is {status}: write 100 to 599, or 0 for no answer at all"
            )));
        }
        let answer = Answer {
            status: line.status.unwrap_or(default.status),
            body: line.body.unwrap_or(default.body),
            latency: Millis(line.latency_ms.unwrap_or(0)),
            retry_after: line.retry_after_ms.map(Millis),
        };
        driver.on_call(&line.on_call, answer, line.times.unwrap_or(1))?;
    } else if json.get("commit").is_some() {
        let line: CommitLine = read(json)?;
        commit_one(driver, &line.commit).map_err(Failure::Line)?;
    } else if json.get("topic").is_some() {
        let written: Written<'_> = serde_json::from_str(line).map_err(|e| Failure::Line(e.to_string()))?;
        let line: RecordLine = read(json)?;
        let value = written.value();
        let key = written.key().map_err(|NotJson(e)| Failure::Line(format!("the key: {e}")))?;
        let ts = line.ts.map_or(driver.now(), Timestamp);
        let record = Record { key: key_text(&key), value, ts, ..Record::default() };
        let topic = driver.topic_of(&line.topic);
        driver.send(&topic, record)?;
    } else {
        let forms = "`topic`, `advance_ms`, `restart`, `on_call` or `commit`";
        return Err(Failure::Line(format!("the line has none of {forms}")));
    }
    Ok(())
}

fn write_outputs(driver: &mut TopologyTestDriver, step: u64, output: &mut impl Write) -> std::io::Result<()> {
    for out in driver.take_output() {
        let node = |n: usize| driver.topology().nodes[n].name.as_str();
        let line = match out {
            Output::Record { to, key, value, record, .. } => {
                let value =
                    if value == record.value.show() { record.value.show_text() } else { value.to_string() };
                let [to, key] = [Json::from(to), key].map(|json| json.to_string());
                let window = record.window.map_or_else(String::new, |window| {
                    format!(",\"window\":[{},{}]", window.start.0, window.end.0)
                });
                let ts = record.ts.0;
                writeln!(
                    output,
                    "{{\"step\":{step},\"to\":{to},\"key\":{key},\"value\":{value},\"ts\":{ts}{window}}}"
                )?;
                continue;
            }
            Output::Dropped { reason, .. } => serde_json::json!({ "step": step, "dropped": reason.name() }),
            Output::Called { node: n, call } => {
                let key =
                    call.key.map_or(Json::Null, |k| Json::String(String::from_utf8_lossy(&k).into_owned()));
                serde_json::json!({ "step": step, "call": node(n), "key": key, "attempt": call.attempt })
            }
        };
        writeln!(output, "{line}")?;
    }
    output.flush()
}
