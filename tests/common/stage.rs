//! A topology of a test's own on a real broker: its topics and its file, the real binary, its input and output.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicSpec, Writer};
use slackwater::model::{Clock, SystemClock, Timestamp};
use slackwater::state::Row;

use super::{Instance, brokers, program, read, record, unique, wait};

const LONG: Duration = Duration::from_secs(60);

/// One topology with its topics.
pub struct Stage {
    /// The topology's name, which no other test or run has. Topics begin with it.
    pub name: String,
    pub dir: tempfile::TempDir,
    pub yaml: PathBuf,
    pub admin: Admin,
    pub runtime: tokio::runtime::Runtime,
    brokers: String,
    writer: Writer,
}

impl Stage {
    /// Makes the topics `NAME.TOPIC`, with so many partitions each, and writes the file `WHAT.yaml`. `NAME` in the text is
    /// the topology's name.
    pub fn new(what: &str, topics: &[(&str, i32)], text: &str) -> Stage {
        Stage::on(&brokers(), what, topics, text)
    }

    /// The same on another broker, one that the test may stop.
    pub fn on(brokers: &str, what: &str, topics: &[(&str, i32)], text: &str) -> Stage {
        let name = unique(what);
        let config = KafkaConfig::new(brokers);
        let admin = Admin::open(&config, LONG).expect("an admin client");
        let specs: Vec<TopicSpec> =
            topics.iter().map(|(topic, n)| TopicSpec::new(format!("{name}.{topic}"), *n)).collect();
        admin.create_topics(&specs).expect("topics are made");
        let dir = tempfile::tempdir().expect("a temp dir");
        let yaml = dir.path().join(format!("{what}.yaml"));
        std::fs::write(&yaml, text.replace("NAME", &name)).expect("the file is written");
        let writer = Writer::open(&config).expect("a writer");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Stage { name, dir, yaml, admin, runtime, brokers: brokers.into(), writer }
    }

    pub fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    pub fn command(&self) -> Command {
        self.command_of(program())
    }

    /// Another program in the same surroundings.
    pub fn command_of(&self, mut command: Command) -> Command {
        command
            .env("KAFKA_BROKERS", &self.brokers)
            .env_remove("SLACKWATER_LOG")
            .env_remove("SLACKWATER_STATE_DIR");
        command
    }

    pub fn start(&self, id: &str) -> Instance {
        Instance::spawn(self.command(), &self.yaml, id, &[])
    }

    /// Runs a command on the topology; `state` is the instance whose state it looks at.
    pub fn run(&self, words: &[&str], state: &str, more: &[&str]) -> Output {
        let state = self.dir.path().join(format!("state-{state}"));
        self.command()
            .args(words)
            .arg(&self.yaml)
            .args(more)
            .env("SLACKWATER_STATE_DIR", state)
            .output()
            .expect("the command runs")
    }

    /// Writes rows as of now; a null value is a tombstone.
    pub fn send(&self, topic: &str, rows: impl IntoIterator<Item = (String, Json)>) {
        self.send_at(topic, rows.into_iter().map(|(key, value)| (SystemClock.now().0, key, value)));
    }

    /// Writes rows of these times.
    pub fn send_at(&self, topic: &str, rows: impl IntoIterator<Item = (i64, String, Json)>) {
        let topic = self.topic(topic);
        let row = |(ts, key, value): (i64, String, Json)| {
            let value = (!value.is_null()).then(|| Bytes::from(value.to_string()));
            record(&topic, Some(key.into()), value, Timestamp(ts))
        };
        self.send_records(rows.into_iter().map(row).collect());
    }

    /// Writes keys and values as they are.
    pub fn send_bytes(&self, topic: &str, rows: &[(&[u8], &[u8])]) {
        let topic = self.topic(topic);
        let row = |(key, value): &(&[u8], &[u8])| {
            let value = Some(Bytes::copy_from_slice(value));
            record(&topic, Some(Bytes::copy_from_slice(key)), value, SystemClock.now())
        };
        self.send_records(rows.iter().map(row).collect());
    }

    /// Writes records as they are.
    pub fn send_records(&self, records: Vec<OutRecord>) {
        self.runtime.block_on(self.writer.send_all(&records)).expect("records are sent");
    }

    /// What is in a topic's partition 0.
    ///
    /// # Errors
    /// A topic that was just made may not be shown whole yet.
    pub fn read(&self, topic: &str) -> Result<Vec<Row>, String> {
        read(&self.brokers, &self.admin, &self.topic(topic), 1)
    }

    /// The same as text and JSON; a tombstone is null.
    pub fn rows(&self, topic: &str) -> Vec<(String, Json)> {
        let json = |value: &Bytes| serde_json::from_slice(value).expect("is JSON");
        // A broker that is busy may not show the topic at first.
        let mut rows = Vec::new();
        wait("the topic is read", LONG, || {
            self.read(topic).is_ok_and(|read| {
                rows = read;
                true
            })
        });
        rows.iter()
            .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.as_ref().map_or(Json::Null, json)))
            .collect()
    }
}

/// All that a command said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
