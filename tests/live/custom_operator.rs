//! An operator of a user's own, from the outside: the example in `docs/custom-operator/` sees what any crate sees. Through
//! the Rust DSL and YAML, `simulate` with restarts, problems of its settings, and its program on a real Kafka
//! (`KAFKA_BROKERS=host:port cargo test --test live custom_operator`).

#[path = "../../docs/custom-operator/main.rs"]
#[expect(dead_code, reason = "its `main` is the example's")]
mod example;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Instance, Stage, wait};
use example::{Silence, registry};
use serde_json::{Value as Json, json};
use slackwater::model::{Clock, SystemClock};
use slackwater::operators::NodeConfig;
use slackwater::sinks::{BlackholeConfig, SinkConfig};
use slackwater::sources::{KafkaSource, SourceConfig};
use slackwater::testing::{run_test, simulate};
use slackwater::topology::{Topology, TopologyBuilder};
use slackwater::yaml::{Mode, load_with, schema_with};

const LONG: Duration = Duration::from_secs(60);
const MACHINES: &str = include_str!("../../docs/custom-operator/machines.yaml");

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
    let loaded = load_with(&registry(), "machines.yaml", MACHINES, Mode::Lenient, &|_| None).unwrap();
    let topology = Arc::new(loaded.topology);
    assert!(loaded.tests.len() >= 5);
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
        .operator("w", ["in"], NodeConfig::custom(settings))
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
    drop(registry().operator::<Silence>());
}

/// The example's program, built by the cargo that runs this test.
fn program() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_slackwater")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--example", "custom_operator", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    build.arg("--target-dir").arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    folder.join("examples/custom_operator")
}

#[test]
fn its_program_keeps_timers_and_counts_over_kills_on_a_real_kafka() {
    let text = MACHINES
        .replace("name: machines", "name: NAME\nguarantee: exactly_once\nstate: { checkpoint: 100ms }")
        .replace("topic: machines.", "topic: NAME.")
        .replace("{ after: 30s, summary: 1m, alive: 5m,", "{ after: 2s, summary: 1s, alive: 1s,");
    let text = text.split("\ntests:").next().unwrap();
    let stage = Stage::new("machines", &[("beats", 4), ("alarms", 1), ("counts", 1), ("alive", 1)], text);
    let program = program();
    let start = || {
        let command = stage.command_of(Command::new(&program));
        Instance::spawn(command, &stage.yaml, "one", &["--instance-id", "one"])
    };
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let (rounds, keys) = (4, 20);
    let mut one = start();
    for round in 0..rounds {
        one.wait_ready(LONG);
        let mut beats = Vec::new();
        for key in 0..keys {
            let (key, ts) = (format!("machine-{key}"), SystemClock.now());
            last.insert(key.clone(), ts.0);
            beats.push((ts.0, key, json!({ "state": "on" })));
        }
        stage.send_at("beats", beats);
        let seen = f64::from(keys);
        wait("the beats are read", LONG, || one.metric("slackwater_records_in_total", "watched") >= seen);
        if round % 2 == 0 {
            one.kill9();
            one = start();
        } else {
            assert_eq!(one.stop(LONG), 0);
            // Its state comes from the changelog alone.
            std::fs::remove_dir_all(stage.dir.path().join("state-one")).unwrap();
            one = start();
        }
    }
    one.wait_ready(LONG);
    let heard = || stage.rows("counts").iter().map(|(_, v)| v["heard"].as_u64().unwrap()).sum::<u64>();
    let all = u64::try_from(rounds * keys).unwrap();
    wait("every beat is counted", LONG, || heard() >= all);
    assert_eq!(heard(), all, "once");
    let since = |v: &Json| v["since"].as_i64().unwrap();
    let alarms =
        || stage.rows("alarms").iter().map(|(k, v)| (k.clone(), since(v))).collect::<BTreeMap<_, _>>();
    wait("every machine is silent since its last beat", LONG, || alarms() == last);
    let raised = stage.rows("alarms");
    let once: std::collections::BTreeSet<_> = raised.iter().map(|(k, v)| (k, since(v))).collect();
    assert_eq!(once.len(), raised.len(), "no alarm twice: {raised:?}");
    assert!(!stage.rows("alive").is_empty());
    assert_eq!(one.stop(LONG), 0);
}
