//! What whoever runs instances relies on, with the real binary on a real Kafka:
//! `KAFKA_BROKERS=host:port cargo test --test operating`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use common::{Api, Instance, brokers, unique, wait};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicSpec, Writer};
use slackwater::model::{Clock, Headers, SystemClock};

const LONG: Duration = Duration::from_secs(60);

/// Topics and a topology file of one test.
struct Site {
    name: String,
    dir: tempfile::TempDir,
    admin: Admin,
    writer: Writer,
    runtime: tokio::runtime::Runtime,
}

impl Site {
    /// `topics`: name behind the site's own, and partitions.
    fn new(topics: &[(&str, i32)]) -> Site {
        let name = unique("site");
        let config = KafkaConfig::new(brokers());
        let site = Site {
            admin: Admin::open(&config, LONG).expect("an admin client"),
            writer: Writer::open(&config).expect("a writer"),
            dir: tempfile::tempdir().expect("a temp dir"),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
            name,
        };
        topics.iter().for_each(|(topic, partitions)| site.make(topic, *partitions));
        site
    }

    fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn make(&self, topic: &str, partitions: i32) {
        self.admin
            .create_topics(&[TopicSpec::new(self.topic(topic), partitions)])
            .expect("the topic is made");
    }

    /// The topology file: `text` with NAME for the site's.
    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("site.yaml");
        let head = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\", session_timeout: 6s }\n\
                    state: { checkpoint: 100ms }\n";
        std::fs::write(&path, format!("{head}{text}").replace("NAME", &self.name)).unwrap();
        path
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        command.env("KAFKA_BROKERS", brokers()).env_remove("SLACKWATER_LOG");
        command
    }

    fn send(&self, topic: &str, keys: impl Iterator<Item = String>) {
        let record = |key: String| OutRecord {
            topic: self.topic(topic).as_str().into(),
            partition: None,
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from_static(b"{\"n\":1}")),
            headers: Headers::default(),
            ts: Some(SystemClock.now()),
        };
        let records: Vec<OutRecord> = keys.map(record).collect();
        self.runtime.block_on(self.writer.send_all(&records)).unwrap();
    }
}

#[test]
fn a_limit_of_the_cluster_is_shared_by_all_who_use_it() {
    const CALLS: usize = 50;
    const LIMIT: usize = 20;
    let site = Site::new(&[("a", 1), ("b", 1)]);
    let api = Api::start();
    let yaml = site.file(&format!(
        r#"
rate_limits:
  api: {{ limit: {LIMIT}/s, scope: cluster }}
sources:
  a: {{ kafka: {{ topic: NAME.a }} }}
  b: {{ kafka: {{ topic: NAME.b }} }}
operators:
  call-a: {{ from: a, enrich: {{ http: {{ get: "${{ACCOUNTS_API}}/accounts/{{{{ key }}}}" }}, rate_limit: api, into: .x }} }}
  call-b: {{ from: b, enrich: {{ http: {{ get: "${{ACCOUNTS_API}}/accounts/{{{{ key }}}}" }}, rate_limit: api, into: .x }} }}
sinks:
  out: {{ from: call-a, blackhole: {{}} }}
  other: {{ from: call-b, blackhole: {{}} }}
"#
    ));
    // One partition of each: two instances have one each.
    let mut instances: Vec<Instance> = ["one", "two"]
        .iter()
        .map(|id| {
            let mut command = site.command();
            command.env("ACCOUNTS_API", api.url());
            Instance::spawn(command, &yaml, id, &[])
        })
        .collect();
    instances.iter_mut().for_each(|i| i.wait_ready(LONG));
    let running = |i: &Instance| i.metric("slackwater_tasks", "state=\"running\"") as i64;
    wait("each has a task", LONG, || instances.iter().all(|i| running(i) == 1));
    // A raised share counts a second later.
    std::thread::park_timeout(Duration::from_secs(2));
    for topic in ["a", "b"] {
        site.send(topic, (0..CALLS).map(|n| format!("{topic}{n}")));
    }
    let mut calls = BTreeMap::new();
    wait("everything is called", Duration::from_secs(20), || {
        calls = api.call_log().into_iter().map(|(_, account)| (account, ())).collect();
        calls.len() == 2 * CALLS
    });
    let busiest = api.busiest_second();
    println!("{busiest} calls in the busiest second");
    assert!(busiest <= LIMIT, "{busiest} calls in a second");
    for instance in instances {
        assert_eq!(instance.stop(LONG), 0);
    }
}
