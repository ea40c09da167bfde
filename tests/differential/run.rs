//! Both engines, and what comes out of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value as Json, json};
use slackwater::testing::simulate;
use slackwater::yaml::{Mode, load};

use super::case::Case;

/// A record that came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Out {
    /// The input line that caused it, from 0.
    pub step: u64,
    pub to: String,
    pub key: Json,
    /// Start and end, or null.
    pub window: Json,
    pub value: Json,
    pub ts: i64,
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>3} {} {} = {} at {}", self.step, self.to, self.key, self.value, self.ts)?;
        if self.window.is_null() { Ok(()) } else { write!(f, " {}", self.window) }
    }
}

/// What one engine made of a case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub out: Vec<Out>,
    /// Step and reason of each drop; Kafka Streams' metric gives no reason.
    pub drops: Vec<(u64, String)>,
    /// The step at which the task stopped, and why.
    pub stopped: Option<(u64, String)>,
}

impl Outcome {
    /// What the line at which the task stopped had given until then is not committed, and does not count. Between sinks
    /// a line's records have no order.
    fn ended(mut self) -> Outcome {
        self.out.sort_by(|a, b| (a.step, &a.to).cmp(&(b.step, &b.to)));
        if let Some((at, _)) = self.stopped {
            self.out.retain(|o| o.step < at);
            self.drops.retain(|(step, _)| *step < at);
        }
        self
    }

    fn read(&mut self, line: &Json, per_step: u64) {
        let step = line["step"].as_u64().expect("a step") / per_step;
        if let Some(dropped) = line.get("dropped") {
            self.drops.push((step, dropped.as_str().unwrap_or("?").to_owned()));
        } else if let Some(message) = line.get("stopped") {
            self.stopped = Some((step, message.to_string()));
        } else {
            self.out.push(Out {
                step,
                to: line["to"].as_str().expect("a sink").to_owned(),
                key: line["key"].clone(),
                window: line["window"].clone(),
                value: line["value"].clone(),
                ts: line["ts"].as_i64().expect("a timestamp"),
            });
        }
    }
}

/// Runs a case here, by the code behind `slackwater simulate`.
pub fn ours(case: &Case) -> Outcome {
    let text = case.yaml();
    let topology = match load("case.yaml", &text, Mode::Lenient, &|_| None) {
        Ok(loaded) => Arc::new(loaded.topology),
        Err(report) => panic!("{text}\n{}", report.render(false)),
    };
    let restarts = case.every == 0;
    let mut input = String::new();
    for line in &case.lines {
        input.push_str(&format!("{}\n", line.json()));
        if restarts {
            input.push_str("{\"restart\": true}\n");
        }
    }
    let mut output = Vec::new();
    let result = simulate(topology, input.as_bytes(), &mut output, case.every.max(1));
    let mut outcome = Outcome::default();
    let per_step = if restarts { 2 } else { 1 };
    for line in String::from_utf8(output).expect("text").lines() {
        outcome.read(&serde_json::from_str(line).expect("JSON"), per_step);
    }
    if let Err(error) = result {
        let message = error.to_string();
        let line = message.strip_prefix("line ").and_then(|m| m.split(':').next()?.parse::<u64>().ok());
        outcome.stopped = Some((line.map_or(0, |n| (n - 1) / per_step), message));
    }
    outcome.ended()
}

/// The JVM with Kafka Streams in it: one for the whole run, ends with this process.
struct Peer {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Held for one case by the test that runs it.
static PEER: OnceLock<Mutex<Peer>> = OnceLock::new();

fn start() -> Mutex<Peer> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka-streams.sh");
    let mut process = Command::new(script)
        .arg("cases")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{script}: {e}"));
    let input = process.stdin.take().expect("piped");
    let output = BufReader::new(process.stdout.take().expect("piped"));
    Mutex::new(Peer { _process: process, input, output })
}

/// Runs a case on Kafka Streams. `updates`: as if `emit` were `update`.
pub fn theirs(case: &Case, updates: bool) -> Outcome {
    let lines: Vec<Json> = case.lines.iter().map(super::case::Line::json).collect();
    let line = json!({ "topology": case.nodes, "store": case.store, "tables": case.tables,
        "updates": updates, "lines": lines });
    let mut peer = PEER.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner);
    let gone =
        "the peer is gone: what it said stands above (scripts/kafka-streams.sh needs java, javac and mvn)";
    writeln!(peer.input, "{line}").expect(gone);
    peer.input.flush().expect(gone);
    let mut outcome = Outcome::default();
    let mut text = String::new();
    loop {
        text.clear();
        assert!(peer.output.read_line(&mut text).expect(gone) > 0, "{gone}");
        let line: Json = serde_json::from_str(&text).expect("the peer prints JSON lines");
        if line.get("end").is_some() {
            return outcome.ended();
        }
        outcome.read(&line, 1);
    }
}
