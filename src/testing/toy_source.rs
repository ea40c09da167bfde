//! A source needs no more than its file and its line in the list of kinds.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::Json;
use crate::runtime::{Engine, EngineError, EngineHandle, EngineOptions, Override};
use crate::topology::Topology;
use crate::yaml::{Mode, load, schema};

fn topology(count: i64, out: &str) -> Topology {
    let text = format!(
        "name: toys\nsources: {{ toys: {{ toy: {{ count: {count} }} }} }}\n\
         sinks: {{ out: {{ from: toys, file: {{ path: {out:?} }} }} }}\n"
    );
    load("t.yaml", &text, Mode::Required, &|_| None).expect("a good file").topology
}

/// Runs until every source has ended.
fn run(topology: Topology) -> Result<(), EngineError> {
    let dir = tempfile::tempdir().expect("a folder");
    let options = EngineOptions {
        state_dir: dir.path().join("state"),
        workers: 1,
        instance_id: None,
        advertise: None,
        stop_deadline: Duration::from_secs(10),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stop = CancellationToken::new();
        let handle = EngineHandle::new(&Arc::new(topology))?;
        let engine = Engine::start(&handle, options, Override::default(), &stop).await?;
        let ended = tokio::time::timeout(Duration::from_secs(30), engine.run(&stop)).await;
        ended.expect("it ends with its source");
        engine.stop().await
    })
}

#[test]
fn a_new_kind_is_read_to_its_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out.jsonl");
    run(topology(3, out.to_str().expect("text"))).expect("it runs");
    let written = std::fs::read_to_string(&out).expect("lines");
    let values: Vec<Json> = written
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).expect("JSON")["value"]["toy"].clone())
        .collect();
    assert_eq!(values, [true, true, true].map(Json::Bool), "{written}");
}

#[test]
fn what_cannot_be_opened_is_reported_at_the_setting_that_its_kind_names() {
    let Err(EngineError::Config { node, field, message }) = run(topology(-1, "/dev/null")) else {
        panic!("a number of records below 0")
    };
    assert_eq!(node.as_deref(), Some("toys"));
    assert_eq!(field, "toy.count");
    assert_eq!(message, "cannot read toy of -1: less than nothing");
}

#[test]
fn a_new_kind_is_known_to_messages_pictures_and_editors() {
    assert!(topology(1, "out").mermaid().contains("toy of 1"));
    let shown = schema().to_string();
    assert!(shown.contains("\"toy\":{\"$ref\":\"#/$defs/ToySource\"}"), "{shown}");
    let file = |kind: &str| {
        format!("name: t\nsources: {{ a: {{ {kind} }} }}\nsinks: {{ o: {{ from: a, blackhole: {{}} }} }}\n")
    };
    let problems = |kind: &str| {
        let found = load("t.yaml", &file(kind), Mode::Required, &|_| None).expect_err("a wrong file");
        found.problems().iter().map(|p| format!("{} {:?}", p.message, p.help)).collect::<Vec<_>>().join("\n")
    };
    assert!(problems("tpy: {}").contains("`toy`"), "{}", problems("tpy: {}"));
    assert!(problems("toy: { cuont: 1 }").contains("count"), "{}", problems("toy: { cuont: 1 }"));
    assert!(problems("table: {}").contains("kafka, generate, file, stdin, toy"), "{}", problems("table: {}"));
}
