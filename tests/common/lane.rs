//! A lane of a sink without an engine: rows go in as its driver hands them in, and answers come out.

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use slackwater::clients::{Clients, Connections};
use slackwater::model::{Origin, Record, SinkRow, Timestamp, Value};
use slackwater::sinks::{Answer, Answers, Connected, Lane, SinkConfig, SinkError, Surroundings};

/// A lane, and how its rows are made.
pub struct TestLane {
    lane: Box<dyn Lane>,
    pub config: SinkConfig,
}

/// Connects a sink that needs nothing around it.
pub async fn connected(config: &SinkConfig) -> Result<std::sync::Arc<dyn Connected>, SinkError> {
    let clients = Clients::new(&Connections::default());
    let around = Surroundings {
        topology: "t",
        node: "out",
        env: &|_| None,
        kafka: None,
        clients: &clients,
        limit: &|_| None,
    };
    config.connect(around).await
}

impl TestLane {
    pub async fn new(config: SinkConfig) -> TestLane {
        assert_eq!(config.check(), [], "the settings are well");
        let lane = connected(&config).await.expect("connects").lane();
        TestLane { lane, config }
    }

    /// The `n`th row of a source: that is its offset too.
    pub fn row(&self, n: usize, key: &str, value: Json) -> SinkRow {
        let value = if value.is_null() { Value::Null } else { Value::from(value) };
        let origin = Origin { topic: 0, partition: 0, offset: i64::try_from(n).expect("a small number") };
        let record = Record { origin, ..Record::new(key.to_owned(), value, Timestamp(0)) };
        SinkRow { reply_to: None, payload: self.config.payload(&record).expect("is evaluated"), record }
    }

    pub fn rows(&self, rows: &[(&str, Json)]) -> Vec<SinkRow> {
        rows.iter().enumerate().map(|(n, (key, value))| self.row(n, key, value.clone())).collect()
    }

    /// One delivery, as the driver makes it: what is said of each row, and how it ended.
    pub async fn deliver(&mut self, rows: &[SinkRow]) -> (Vec<Option<Answer>>, Result<(), SinkError>) {
        let mut answers = Answers::new(rows.len());
        let result = self.lane.deliver_batch(rows, &mut answers).await;
        (answers.into_vec(), result)
    }

    /// Writes rows as the driver does: what is refused as a whole is halved until the row stands alone, and what may be tried
    /// again is, at once. The refused ones, by their keys, with what was said.
    pub async fn settle(&mut self, rows: Vec<SinkRow>) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut parts = vec![rows];
        let end = Instant::now() + Duration::from_secs(60);
        while let Some(part) = parts.pop() {
            let (answers, result) = self.deliver(&part).await;
            let mut left = Vec::new();
            for (row, answer) in part.into_iter().zip(answers) {
                match answer {
                    Some(Answer::Refused(why)) => refused.push((key_of(&row), why)),
                    None if result.is_err() => left.push(row),
                    _ => {}
                }
            }
            match result {
                Ok(()) => {}
                Err(SinkError::Refused { .. }) if left.len() > 1 => {
                    let second = left.split_off(left.len() / 2);
                    parts.extend([second, left]);
                }
                Err(SinkError::Refused { message }) => {
                    refused.extend(left.into_iter().map(|row| (key_of(&row), message.clone())));
                }
                Err(SinkError::Retry { message, .. }) => {
                    assert!(Instant::now() < end, "{message}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    parts.push(left);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        refused.sort();
        refused
    }

    /// Writes rows of which none is refused.
    pub async fn put(&mut self, rows: &[(&str, Json)]) {
        let rows = self.rows(rows);
        assert_eq!(self.settle(rows).await, []);
    }
}

pub fn key_of(row: &SinkRow) -> String {
    String::from_utf8_lossy(row.record.key.as_deref().unwrap_or_default()).into_owned()
}
