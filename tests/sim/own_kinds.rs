//! Kinds of a user's own, from the outside: the example in `docs/own-kinds/` sees what any crate sees. Through the Rust DSL
//! and YAML, `simulate` with restarts, problems of its settings and expressions, and its program in `dev`.

#[path = "../../docs/own-kinds/main.rs"]
#[expect(dead_code, reason = "its `main` is the example's")]
mod example;
#[path = "../common/own_kinds.rs"]
mod program;

use std::sync::Arc;
use std::time::Duration;

use example::{Silence, registry};
use serde_json::{Value as Json, json};
use slackwater::model::{Problem, Record, Timestamp, Value};
use slackwater::operators::NodeConfig;
use slackwater::runtime::{Engine, EngineHandle, EngineOptions, Override};
use slackwater::sinks::{BlackholeConfig, SinkConfig};
use slackwater::sources::{KafkaSource, OpenError, Reader, SourceConfig, SourceSettings};
use slackwater::testing::{run_test, simulate};
use slackwater::topology::{Topology, TopologyBuilder};
use slackwater::yaml::{Mode, load_with, schema_with};
use tokio_util::sync::CancellationToken;

const MACHINES: &str = include_str!("../../docs/own-kinds/machines.yaml");

fn yaml(time: &str, settings: &str) -> String {
    format!(
        "name: t\nkafka: {{ brokers: none }}\ntime: {{ clock: {time} }}\nsources:\n  in: {{ kafka: {{ topic: in }} }}\n\
         operators:\n  w:\n    from: in\n    silence: {settings}\nsinks:\n  silent: {{ from: w.silent, blackhole: {{}} }}\n  \
         summary: {{ from: w.summary, blackhole: {{}} }}\n  alive: {{ from: w.alive, blackhole: {{}} }}\n"
    )
}

fn topology(time: &str, settings: &str) -> Arc<Topology> {
    let text = yaml(time, settings);
    let loaded = load_with(&registry(), "t.yaml", &text, Mode::Lenient, &|_| None);
    Arc::new(loaded.unwrap_or_else(|e| panic!("{}", e.render(false))).topology)
}

/// Lines through `simulate`: `key@ts` of every output as `sink key@ts value`, one list per input line.
fn run(topology: &Arc<Topology>, input: &[Json], every: u64) -> Vec<Vec<String>> {
    let lines: String = input.iter().map(|line| format!("{line}\n")).collect();
    let mut out = Vec::new();
    simulate(Arc::clone(topology), lines.as_bytes(), &mut out, every).expect("simulates");
    let mut all = vec![Vec::new(); input.len()];
    for line in String::from_utf8(out).expect("is text").lines() {
        let line: Json = serde_json::from_str(line).expect("is JSON");
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let step = usize::try_from(line["step"].as_u64().expect("a step")).expect("is small");
        all[step].push(format!("{} {}@{} {}", text("to"), text("key"), line["ts"], line["value"]));
    }
    all
}

/// The same outputs, whether the task is dropped and restored after every line or never.
fn check(topology: &Arc<Topology>, input: &[Json], want: &[&[&str]]) {
    assert_eq!(run(topology, input, 1), want);
    let restarts: Vec<Json> =
        input.iter().flat_map(|line| [line.clone(), json!({ "restart": true })]).collect();
    let got = run(topology, &restarts, 1);
    assert_eq!(got.iter().step_by(2).cloned().collect::<Vec<_>>(), want, "with restarts");
    assert!(got.iter().skip(1).step_by(2).all(Vec::is_empty), "nothing comes twice: {got:?}");
}

fn beat(key: &str, ts: i64) -> Json {
    json!({ "topic": "in", "key": key, "value": { "state": "on" }, "ts": ts })
}

fn advance(ms: i64) -> Json {
    json!({ "advance_ms": ms })
}

#[test]
fn timers_and_stream_time_go_by_records_alone_where_the_clock_says_so() {
    check(
        &topology("stream", "{ after: 10ms, summary: 100ms }"),
        &[
            beat("a", 5),
            beat("b", 14),
            advance(1000),
            beat("b", 15),
            beat("b", 99),
            beat("b", 350),
            beat("b", 399),
        ],
        &[
            &[],
            &[],
            &[],
            &["silent a@15 {\"since\":5}"],
            &["silent b@25 {\"since\":15}"],
            // By the times at which they were due; a punctuation has the time at which it is called.
            &["summary a@350 {\"heard\":1}", "summary b@350 {\"heard\":3}", "silent b@109 {\"since\":99}"],
            &["silent b@360 {\"since\":350}"],
        ],
    );
}

#[test]
fn the_wall_clock_moves_them_when_nothing_comes() {
    check(
        &topology("hybrid", "{ after: 10ms, summary: 100ms, alive: 30ms }"),
        &[beat("a", 5), advance(9), advance(1), advance(15), advance(60), advance(10)],
        &[
            &[],
            &[],
            &["silent a@15 {\"since\":5}"],
            &["alive alive@30 {}"],
            &["alive alive@60 {}", "alive alive@90 {}"],
            &["summary a@100 {\"heard\":1}"],
        ],
    );
}

#[test]
fn the_examples_own_tests_pass() {
    let loaded =
        load_with(&registry(), "machines.yaml", MACHINES, Mode::Lenient, &|_| None).expect("is well");
    let topology = Arc::new(loaded.topology);
    assert!(loaded.tests.len() >= 6);
    for test in &loaded.tests {
        run_test(&topology, test).unwrap_or_else(|e| panic!("{}: {}", test.name, e.message));
    }
}

#[test]
fn the_rust_dsl_builds_the_same_node() {
    let settings: Silence = serde_json::from_value(json!({ "after": "10ms" })).expect("settings");
    let source = KafkaSource { topic: Some("in".into()), ..KafkaSource::default() };
    let built = TopologyBuilder::new("t")
        .source("in", SourceConfig::Kafka(source))
        .operator("w", ["in"], NodeConfig::own("silence", settings))
        .sink("silent", ["w.silent"], SinkConfig::Blackhole(BlackholeConfig::default()))
        .build()
        .expect("the graph is sound");
    assert!(built.subs[0].stateful, "it has a changelog");
    assert_eq!(built.changelog(0).as_deref(), Some("t-in-changelog"));
    let input = [beat("a", 5), advance(10)];
    assert_eq!(run(&Arc::new(built), &input, 1), [vec![], vec!["silent a@15 {\"since\":5}".to_owned()]]);
}

/// A file with a problem: line and column, parts of message and help.
fn refused(settings: &str, at: &str, message: &str, help: &str) {
    let text = yaml("stream", settings);
    let report = load_with(&registry(), "t.yaml", &text, Mode::Lenient, &|_| None).expect_err("is wrong");
    let [problem] = report.problems() else { panic!("{}", report.render(false)) };
    assert!(problem.message.contains(message), "{problem:?}");
    assert!(problem.help.as_deref().unwrap_or_default().contains(help), "{problem:?}");
    assert_eq!(problem.span.clone().map(|s| &text[s]), Some(at), "{problem:?}");
}

#[test]
fn problems_of_its_settings_are_shown_in_their_place() {
    refused("{ aftr: 1s }", "aftr", "unknown field `aftr`", "did you mean `after`");
    refused("{ after: soon }", "soon", "soon", "");
    refused("{ after: 1s, alive: 0s }", "0s", "w: no time at all", "`alive: 30s`");
    refused("{ after: 1s, goodbye: nam == 1 }", "nam", "undefined variable", "");
    refused("{ alive: 1s }", "silence", "after", "under `silence`");
    let text = yaml("stream", "{ after: 1s }").replace("silence:", "silense:");
    let report = load_with(&registry(), "t.yaml", &text, Mode::Lenient, &|_| None).expect_err("is wrong");
    assert!(report.render(false).contains("did you mean `silence`?"), "{}", report.render(false));
    let schema = schema_with(&registry()).to_string();
    assert!(schema.contains("\"silence\"") && !slackwater::yaml::schema().to_string().contains("silence"));
}

#[test]
#[should_panic(expected = "`silence` is registered already")]
fn a_kind_has_one_meaning() {
    drop(registry().operator::<Silence>("silence"));
}

/// A file with one sink of the user's own, which gets this column: its problems.
fn column(column: &str) -> String {
    let text = format!(
        "name: t\nsources: {{ in: {{ generate: {{ rate: 1/s }} }} }}\n\
         sinks: {{ out: {{ from: in, csv: {{ path: out.csv, columns: [{column}] }} }} }}\n"
    );
    match load_with(&registry(), "t.yaml", &text, Mode::Lenient, &|_| None) {
        Ok(_) => String::new(),
        Err(report) => report.render(false),
    }
}

#[test]
fn a_function_is_checked_where_it_is_called() {
    assert_eq!(column("luhn(key)"), "");
    assert_eq!(column("'if luhn(.number) { 1 } else { 2 }'"), "");
    for (wrong, message) in [
        ("luhn(1)", "luhn"),
        ("luhn()", "number"),
        ("luhn(key) + 1", "boolean"),
        ("lun(key)", "did you mean `luhn`"),
    ] {
        let report = column(wrong);
        assert!(report.contains(message) && report.contains(wrong), "{wrong}: {report}");
    }
    let plain = slackwater::yaml::load("machines.yaml", MACHINES, Mode::Lenient, &|_| None);
    let plain = plain.expect_err("these kinds are the example's alone").render(false);
    assert!(plain.contains("unknown field `silence`") && plain.contains("unknown field `csv`"), "{plain}");
}

#[test]
fn problems_of_a_sink_are_shown_in_their_place() {
    let report = column("");
    assert!(report.contains("no column") && report.contains("write `columns: [key]`"), "{report}");
    let schema = schema_with(&registry()).to_string();
    assert!(schema.contains("\"csv\"") && !slackwater::yaml::schema().to_string().contains("\"csv\""));
}

#[test]
fn its_program_runs_in_dev() {
    let dir = tempfile::tempdir().expect("a folder");
    let (yaml, out) = (dir.path().join("t.yaml"), dir.path().join("out.csv"));
    let text = format!(
        "name: t\nkafka: {{ brokers: none }}\nsources: {{ in: {{ kafka: {{ topic: in }} }} }}\noperators:\n  \
         w: {{ from: in, silence: {{ after: 50ms }} }}\nsinks:\n  \
         out: {{ from: w.silent, csv: {{ path: {out:?}, columns: [key, .since, luhn(\"0\")] }} }}\n"
    );
    std::fs::write(&yaml, text).expect("is written");
    let args = "--plain --duration 3s --events-per-second 40 --accounts 5";
    let run =
        std::process::Command::new(program::program()).arg("dev").arg(&yaml).args(args.split(' ')).output();
    let run = run.expect("it starts");
    assert!(
        run.status.success(),
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    let written = std::fs::read_to_string(&out).expect("lines");
    let lines: Vec<Vec<&str>> = written.lines().map(|line| line.split(',').collect()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.len() == 3 && line[2] == "true"), "{written}");
}

/// A source of the user's own: counts down.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Countdown {
    from: u32,
}

impl SourceSettings for Countdown {
    fn label(&self) -> String {
        format!("from {}", self.from)
    }
    fn check(&self) -> Vec<Problem> {
        let none = self.from == 0;
        none.then(|| Problem::setting("from", "nothing to count", "write 1 or more")).into_iter().collect()
    }
    fn open(&self, _: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        Ok(Some(Box::new(Count { left: self.from, next: 0 })))
    }
}

struct Count {
    left: u32,
    next: i64,
}

impl Reader for Count {
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        let before = out.len();
        while self.left > 0 && out.len() - before < max {
            let mut record = Record::new("count", Value::from(json!(self.left)), now);
            record.origin.offset = self.next;
            (self.left, self.next) = (self.left - 1, self.next + 1);
            out.push(record);
        }
        Ok(out.len() - before)
    }
    fn caught_up(&self) -> bool {
        self.left == 0
    }
    fn ended(&self) -> bool {
        self.left == 0
    }
}

#[test]
fn a_source_is_read_to_its_end() {
    let registry = registry().source::<Countdown>("countdown");
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out.csv");
    let text = |from: u32| {
        format!(
            "name: t\nsources: {{ in: {{ countdown: {{ from: {from} }} }} }}\n\
             sinks: {{ out: {{ from: in, csv: {{ path: {out:?}, columns: [key, .] }} }} }}\n"
        )
    };
    let load = |from: u32| load_with(&registry, "t.yaml", &text(from), Mode::Required, &|_| None);
    let report = load(0).expect_err("nothing");
    let [problem] = report.problems() else { panic!("{}", report.render(false)) };
    assert_eq!(problem.message, "in: nothing to count");
    assert_eq!(problem.span.clone().map(|s| text(0)[s].to_owned()).as_deref(), Some("0"), "its own `from`");
    let topology = load(3).expect("is well").topology;
    assert!(topology.mermaid().contains("countdown from 3"));
    let options = EngineOptions {
        state_dir: dir.path().join("state"),
        workers: 1,
        instance_id: None,
        advertise: None,
        stop_deadline: Duration::from_secs(10),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ran = runtime.expect("a runtime").block_on(async {
        let stop = CancellationToken::new();
        let handle = EngineHandle::new(&Arc::new(topology))?;
        let engine = Engine::start(&handle, options, Override::default(), &stop).await?;
        tokio::time::timeout(Duration::from_secs(30), engine.run(&stop))
            .await
            .expect("it ends with its source");
        engine.stop().await
    });
    ran.expect("it runs");
    assert_eq!(std::fs::read_to_string(&out).expect("lines"), "count,3\ncount,2\ncount,1\n");
}
