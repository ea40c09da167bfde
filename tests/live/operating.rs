//! What operators of instances rely on, with the real binary on a real Kafka: `KAFKA_BROKERS=host:port cargo test
//! --test live operating`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{Api, Instance, Stage, arrivals, wait};
use serde_json::json;
use slackwater::kafka::{TopicPartition, TopicSpec};

const LONG: Duration = Duration::from_secs(60);

/// A stage whose topology file is written later, and whose topics come and go.
struct Site(Stage);

impl Deref for Site {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.0
    }
}

impl Site {
    /// `topics`: name behind the site's own, and partitions.
    fn new(topics: &[(&str, i32)]) -> Site {
        Site(Stage::new("site", topics, ""))
    }

    fn make(&self, topic: &str, partitions: i32) {
        self.admin
            .create_topics(&[TopicSpec::new(self.topic(topic), partitions)])
            .expect("the topic is made");
    }

    /// The topology file: `text` with NAME for the site's.
    fn file(&self, text: &str) -> PathBuf {
        let head = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\", session_timeout: 6s }\n\
                    state: { checkpoint: 100ms }\n";
        std::fs::write(&self.yaml, format!("{head}{text}").replace("NAME", &self.name)).unwrap();
        self.yaml.clone()
    }

    fn send(&self, topic: &str, keys: impl Iterator<Item = String>) {
        self.0.send(topic, keys.map(|key| (key, json!({ "n": 1 }))));
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
    let one = |i: &Instance| (i.metric("slackwater_tasks", "state=\"running\"") - 1.0).abs() < 0.5;
    wait("each has a task", LONG, || instances.iter().all(one));
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
    assert!(busiest <= arrivals(LIMIT), "{busiest} calls in a second");
    for instance in instances {
        assert_eq!(instance.stop(LONG), 0);
    }
}

const COPY: &str = "
sources: { in: { kafka: { topic: NAME.in } } }
sinks:
  out: { from: in, kafka: { topic: NAME.out } }
";

/// Exit code and standard error of a command that ends by itself.
fn ended(site: &Site, args: &[&str]) -> (i32, String) {
    let mut child = site
        .command()
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn a_missing_topic_of_a_sink_is_refused_at_the_start() {
    let site = Site::new(&[("in", 1), ("there", 1)]);
    std::fs::write(site.dir.path().join("in.jsonl"), "{}\n").unwrap();
    let lines = "sources: { in: { file: { path: PATH } } }\n";
    let lines = lines.replace("PATH", site.dir.path().join("in.jsonl").to_str().unwrap());
    let two = "
sinks:
  out: { from: in, kafka: { topic: NAME.out } }
  good: { from: in, kafka: { topic: NAME.there } }
  more: { from: in, kafka: { topic: NAME.more } }
";
    let cases = [
        (COPY.to_owned(), vec![("out", "7:36")]),
        // No source reads a topic.
        (format!("{lines}{two}"), vec![("out", "7:36"), ("more", "9:37")]),
        (format!("guarantee: exactly_once\n{COPY}"), vec![("out", "8:36")]),
    ];
    for (text, missing) in cases {
        let yaml = site.file(&text);
        let yaml = yaml.to_str().unwrap();
        let state = site.dir.path().join("state");
        let run = ["run", yaml, "--admin", "127.0.0.1:0", "--state-dir", state.to_str().unwrap()];
        for args in [run.as_slice(), &["check", yaml, "--connect"]] {
            let (code, said) = ended(&site, args);
            assert_eq!(code, 78, "{args:?}\n{said}");
            // Frames break lines.
            let words = said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
            for (topic, place) in &missing {
                for part in [
                    format!("the topic `{}` does not exist", site.topic(topic)),
                    format!("site.yaml:{place}"),
                    "create it, or correct its name".into(),
                ] {
                    assert!(words.contains(&part), "{args:?}: no {part}\n{said}");
                }
            }
            assert_eq!(
                words.matches("does not exist").count(),
                missing.len() + words.matches("waiting").count()
            );
        }
    }
}

#[test]
fn a_dead_letter_is_made_for_lines_too() {
    let site = Site::new(&[]);
    let path = site.dir.path().join("in.jsonl");
    std::fs::write(&path, "no JSON\n").unwrap();
    let yaml = site.file(&format!(
        "errors: {{ dead_letter: {{ topic: NAME.dlq }} }}\nsources: {{ in: {{ file: {{ path: {} }} }} }}\n\
         sinks: {{ out: {{ from: in, blackhole: {{}} }} }}\n",
        path.display()
    ));
    let state = site.dir.path().join("state");
    let run =
        ["run", yaml.to_str().unwrap(), "--admin", "127.0.0.1:0", "--state-dir", state.to_str().unwrap()];
    let (code, said) = ended(&site, &run);
    assert_eq!(code, 0, "{said}");
    let ends = site.admin.end_offsets(&[TopicPartition::new(site.topic("dlq"), 0)]).unwrap();
    assert_eq!(ends, [1]);
}

#[test]
fn a_topic_that_is_deleted_while_everything_runs_is_waited_for() {
    let site = Site::new(&[("in", 1), ("out", 1)]);
    let mut instance = Instance::spawn(site.command(), &site.file(COPY), "one", &[]);
    instance.wait_ready(LONG);
    site.admin.delete_topics(&[&site.topic("out")]).unwrap();
    let gone = format!("the topic `{}` does not exist", site.topic("out"));
    wait("not ready", Duration::from_secs(20), || {
        let (code, body) = instance.get("/ready");
        code == 503 && body.contains(&gone)
    });
    assert_eq!(instance.get("/live").0, 200);
    site.make("out", 1);
    instance.wait_ready(Duration::from_secs(20));
    // A record that comes then is written.
    site.send("in", ["a".to_owned()].into_iter());
    let out = [TopicPartition::new(site.topic("out"), 0)];
    wait("the record is written", LONG, || site.admin.end_offsets(&out).is_ok_and(|ends| ends == [1]));
    assert_eq!(instance.stop(LONG), 0);
}

#[test]
fn lines_are_joined_with_a_global_table() {
    let site = Site::new(&[("countries", 2), ("out", 1)]);
    site.send("countries", ["de", "fr"].map(str::to_owned).into_iter());
    let (path, out) = (site.dir.path().join("in.jsonl"), site.dir.path().join("out.jsonl"));
    std::fs::write(&path, "{\"country\":\"de\"}\n{\"country\":\"xx\"}\n{\"country\":\"fr\"}\n").unwrap();
    let yaml = site.file(&format!(
        "
guarantee: exactly_once
sources:
  in: {{ file: {{ path: {}, key: .country, timestamp: \"1000\" }} }}
  countries: {{ kafka: {{ topic: NAME.countries }}, table: {{ global: true }} }}
operators:
  known: {{ from: in, join: {{ with: countries, on: .country, value: right.n }} }}
sinks:
  out: {{ from: known, file: {{ path: {} }} }}
  topic: {{ from: known, kafka: {{ topic: NAME.out }} }}
",
        path.display(),
        out.display()
    ));
    let state = site.dir.path().join("state");
    let run =
        ["run", yaml.to_str().unwrap(), "--admin", "127.0.0.1:0", "--state-dir", state.to_str().unwrap()];
    let (code, said) = ended(&site, &run);
    assert_eq!(code, 0, "{said}");
    let rows = std::fs::read_to_string(out).unwrap();
    assert_eq!(rows, "{\"key\":\"de\",\"value\":1,\"ts\":1000}\n{\"key\":\"fr\",\"value\":1,\"ts\":1000}\n");
    let ends = site.admin.end_offsets(&[TopicPartition::new(site.topic("out"), 0)]).unwrap();
    assert_eq!(ends, [2], "no group, so no transaction: at least once");
}

#[test]
fn lines_run_beside_topics() {
    ["at_least_once", "exactly_once"].iter().for_each(|guarantee| lines_beside_topics(guarantee));
}

fn lines_beside_topics(guarantee: &str) {
    let site = Site::new(&[("in", 2), ("out", 1), ("lines", 1)]);
    let (path, out) = (site.dir.path().join("in.jsonl"), site.dir.path().join("out.jsonl"));
    std::fs::write(&path, "{\"id\":\"a\"}\n{\"id\":\"a\"}\n").unwrap();
    let yaml = site.file(&format!(
        "
guarantee: {guarantee}
sources:
  in: {{ kafka: {{ topic: NAME.in }} }}
  lines: {{ file: {{ path: {}, key: .id, timestamp: \"1000\" }} }}
operators:
  count: {{ from: lines, aggregate: {{ count: {{}} }} }}
  other: {{ from: in, aggregate: {{ count: {{}} }} }}
sinks:
  rows: {{ from: count, file: {{ path: {} }} }}
  counts: {{ from: count, kafka: {{ topic: NAME.lines }} }}
  out: {{ from: other, kafka: {{ topic: NAME.out }} }}
",
        path.display(),
        out.display()
    ));
    let mut instance = Instance::spawn(site.command(), &yaml, "one", &[]);
    instance.wait_ready(LONG);
    site.send("in", ["a".to_owned()].into_iter());
    // Transactions have marks in the topic.
    let there = |topic: &str, records| {
        let end = site.admin.end_offsets(&[TopicPartition::new(site.topic(topic), 0)]).unwrap()[0];
        if guarantee == "exactly_once" { end > records } else { end == records }
    };
    let rows = "{\"key\":\"a\",\"value\":1,\"ts\":1000}\n{\"key\":\"a\",\"value\":2,\"ts\":1000}\n";
    wait("both are there", LONG, || {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        there("out", 1) && there("lines", 2) && text == rows
    });
    assert_eq!(instance.stop(LONG), 0);
}
