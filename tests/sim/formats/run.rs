//! A task on a script: JSON lines in, JSON lines out, and the changelog in between.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use slackwater::clients::http::judge;
use slackwater::model::{CallRequest, Headers, Origin, Record, Reply, Timestamp, Value};
use slackwater::runtime::{Input, Step, Task, TaskError, TaskId, TaskOptions, applied_positions};
use slackwater::state::{Backend, Row};
use slackwater::topology::{NodeKind, Topology};
use slackwater::yaml::{Mode, load};

use super::fixture::from_hex;

/// Compiles a case's topology.
pub fn topology(name: &str, yaml: &str) -> Topology {
    let loaded = load(name, yaml, Mode::Lenient, &|_| None);
    loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).topology
}

/// A task under a script. Lines are one of
///
/// - `{"topic", "key", "value", "ts", "headers"}`: a record; `"hex"` in place of `"value"` for bytes that are not JSON
/// - `{"wall": MS}`: the wall clock is set
/// - `{"answer": NODE, "status", "body"}`: the oldest call of a node is answered
/// - `{"delivered": NODE}`: the oldest row of a sink that is read from is durable
/// - `{"checkpoint": true}`
pub struct Run<'a> {
    topology: &'a Topology,
    backend: Arc<dyn Backend>,
    task: Task,
    wall: Timestamp,
    step: Step,
    /// Calls and deliveries that wait: node and number.
    waiting: Vec<(usize, u64)>,
    /// What came out.
    pub out: Vec<Json>,
    /// Rows of all checkpoints.
    pub changelog: Vec<Row>,
}

impl<'a> Run<'a> {
    /// Starts the task that reads `topic` on a backend, where its state says.
    pub fn open(
        topology: &'a Topology,
        topic: &str,
        backend: Arc<dyn Backend>,
    ) -> Result<Run<'a>, TaskError> {
        let mut step = Step::default();
        let sub = topology.subs.iter().position(|sub| sub.topics.iter().any(|t| t == topic));
        let id = TaskId { sub: sub.expect("somebody reads the topic"), partition: 0 };
        let wall = Timestamp(0);
        let mut task = Task::open(topology, id, &backend, &TaskOptions::default(), wall, &mut step)?;
        let positions = applied_positions(&*backend)?;
        for (n, topic) in task.topics().to_vec().iter().enumerate() {
            let at = positions.iter().find(|(name, _)| name == &**topic).map_or(0, |(_, at)| *at);
            task.start_at(n, at);
        }
        let (waiting, out, changelog) = (Vec::new(), Vec::new(), Vec::new());
        let mut run = Run { topology, backend, task, wall, step, waiting, out, changelog };
        run.take_step()?;
        Ok(run)
    }

    /// Runs a script.
    pub fn lines(&mut self, lines: &[Json]) -> Result<(), TaskError> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    fn line(&mut self, line: &Json) -> Result<(), TaskError> {
        if let Some(topic) = line["topic"].as_str() {
            self.record(topic, line)?;
            return self.feed(Input::Clock { until: Some(self.wall) });
        }
        if let Some(wall) = line["wall"].as_i64() {
            self.wall = Timestamp(wall);
            return self.feed(Input::Clock { until: Some(self.wall) });
        }
        if let Some(node) = line["answer"].as_str() {
            let status = line["status"].as_u64().and_then(|s| u16::try_from(s).ok()).unwrap_or(200);
            return self.reply(node, judge(status, None, line["body"].to_string().as_bytes()));
        }
        if let Some(node) = line["delivered"].as_str() {
            return self.reply(node, Reply::Delivered(None));
        }
        assert_eq!(line["checkpoint"], json!(true), "an unknown line: {line}");
        let Some(sealed) = self.task.seal(self.wall)? else { return Ok(()) };
        assert!(self.task.is_settled(), "a checkpoint with rows that are in no sink");
        self.backend.write(&sealed.rows)?;
        self.task.applied();
        self.changelog.extend(sealed.rows);
        Ok(())
    }

    fn record(&mut self, topic: &str, line: &Json) -> Result<(), TaskError> {
        let n = self.task.topics().iter().position(|t| &**t == topic).expect("a topic of the task");
        let headers = line["headers"].as_object().into_iter().flatten();
        let headers = headers.map(|(k, v)| (k.clone(), Bytes::from(v.as_str().expect("text").to_owned())));
        let record = Record {
            key: line["key"].as_str().map(|k| Bytes::from(k.to_owned())),
            value: match (&line["value"], line["hex"].as_str()) {
                (_, Some(hex)) => Value::Bytes(from_hex(hex)),
                (value, None) => match value {
                    Json::Null => Value::Null,
                    value => Value::Bytes(Bytes::from(value.to_string())),
                },
            },
            ts: Timestamp(line["ts"].as_i64().expect("a timestamp")),
            headers: Headers::new(headers),
            origin: Origin {
                topic: u16::try_from(n).expect("few topics"),
                partition: 0,
                offset: self.task.position(n),
            },
            ..Record::default()
        };
        self.feed(Input::Records { topic: n, records: vec![record] })
    }

    fn reply(&mut self, name: &str, reply: Reply) -> Result<(), TaskError> {
        let node = self.topology.node(name).expect("a node");
        let at = self.waiting.iter().position(|(n, _)| *n == node);
        let (_, call) = self.waiting.remove(at.unwrap_or_else(|| panic!("nothing of {name} waits")));
        self.feed(Input::Reply { node, call, reply })
    }

    fn feed(&mut self, input: Input) -> Result<(), TaskError> {
        self.task.step(input, self.wall, &mut self.step)?;
        self.take_step()
    }

    /// Notes what the task wants. Rows of sinks that nothing reads from are durable at once.
    fn take_step(&mut self) -> Result<(), TaskError> {
        let step = std::mem::take(&mut self.step);
        let name = |node: usize| &self.topology.nodes[node].name;
        for (node, reason) in step.drops {
            self.out.push(json!({ "node": name(node), "dropped": reason.name() }));
        }
        for (node, call) in step.calls {
            let CallRequest::Http(request) = &call.request;
            self.out.push(json!({ "node": name(node), "calls": request.url, "attempt": call.attempt }));
            self.waiting.push((node, call.id));
        }
        for delivery in step.deliveries {
            let (node, row) = (delivery.node, &delivery.row);
            assert_ne!(Some(node), self.topology.dead_letter(), "cases skip what is refused");
            let NodeKind::Sink(sink) = &self.topology.nodes[node].kind else { panic!("a row of no sink") };
            let (key, value) = sink.show(row, self.wall);
            let mut line = json!({ "to": name(node), "key": key, "value": value, "ts": row.record.ts.0 });
            if let Some(window) = row.record.window {
                line["window"] = json!([window.start.0, window.end.0]);
            }
            for (name, value) in row.record.headers.iter() {
                line["headers"][name] = json!(value.map(|value| String::from_utf8_lossy(value)));
            }
            self.out.push(line);
            match row.reply_to {
                Some(call) => self.waiting.push((node, call)),
                None => {
                    let input = Input::Acked { epoch: delivery.epoch, rows: 1 };
                    self.task.step(input, self.wall, &mut self.step)?;
                }
            }
        }
        Ok(())
    }
}
