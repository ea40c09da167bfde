//! The three files of aml-detection: they fit together, and their tests run without servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use slackwater::testing::run_test;
use slackwater::topology::{Topology, circles};
use slackwater::yaml::{Loaded, Mode, load};

const FILES: [&str; 3] = ["aml-detection.yaml", "profiles.yaml", "relations.yaml"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("topology").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).expect("the file is there")
}

/// As `run` reads it where no variable is set.
fn loaded(file: &str, text: &str) -> Loaded {
    load(file, text, Mode::Required, &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

/// How many of a file's tests fail.
fn failures(file: &str, text: &str) -> Vec<String> {
    let loaded = loaded(file, text);
    let topology = Arc::new(loaded.topology);
    let run = |test| run_test(&topology, test).err().map(|failure| failure.message);
    loaded.tests.iter().filter_map(run).collect()
}

#[test]
fn the_tests_of_the_files_pass() {
    for file in FILES {
        assert_eq!(failures(file, &text(file)), [""; 0], "{file}");
    }
}

/// The tests would see it.
#[test]
fn a_rule_or_a_gate_less_fails_a_test() {
    let detection = text("aml-detection.yaml");
    for (what, instead) in [
        ("> 20000", "> 30000"),
        (">= 20 ", ">= 21 "),
        (">= 5000 ", ">= 4999 "),
        ("gate: { groups: [profiles, relations], poll: 200ms }", "peek: {}"),
        ("gate: { groups: [profiles, relations], poll: 200ms }", "gate: { groups: [profiles] }"),
    ] {
        let changed = detection.replace(what, instead);
        assert_ne!(changed, detection, "{what}");
        assert_ne!(failures("aml-detection.yaml", &changed), [""; 0], "{what} -> {instead}");
    }
}

/// A payment that one of them refuses is refused by all: detection would else ask for what the others never counted.
#[test]
fn the_three_refuse_the_same_payments() {
    let checks = |file: &str| -> Vec<String> {
        let text = text(file);
        let lines = text.lines().skip_while(|line| *line != "  checked:").skip(2);
        lines.take_while(|line| line.starts_with("    ")).map(str::to_owned).collect()
    };
    let [first, rest @ ..] = FILES.map(checks);
    assert!(first.len() > 5, "{first:?}");
    for other in rest {
        assert_eq!(other, first);
    }
}

#[test]
fn they_run_together_without_variables() {
    let topologies: Vec<Topology> = FILES.map(|file| loaded(file, &text(file)).topology).into();
    assert_eq!(circles(&topologies.iter().collect::<Vec<_>>()), []);
    let names: Vec<&str> = topologies.iter().map(|topology| topology.name.as_str()).collect();
    assert_eq!(names, ["aml-detection", "profiles", "relations"]);
}
