//! `gate` in the tests of a file and in `simulate`: nothing passes before the groups have committed past it.

use assert_cmd::Command;

const TOPOLOGY: &str = r#"
name: judge
kafka: { brokers: "localhost:1" }
sources: { payments: { kafka: { topic: payments } } }
operators:
  known: { from: payments, gate: { groups: [profiles, relations], timeout: 1h, on_timeout: dead_letter } }
sinks: { out: { from: known, kafka: { topic: verdicts } } }
errors: { dead_letter: { topic: judge.dlq } }
tests:
  - name: both groups must have committed past a payment
    steps:
      - send: { to: payments, key: a, value: 1 }
      - send: { to: payments, key: a, value: 2 }
      - expect: { out: [] }
      - commit: { group: profiles, partition: 0, offset: 2 }
      - commit: { group: relations, offset: 0 }
      - expect: { out: [] }
      - commit: { group: relations, offset: 1 }
      - expect: { out: [ { key: a, value: 1 } ] }
      - commit: { group: profiles, offset: 0 }
      - commit: { group: relations, offset: 9 }
      - expect: { out: [] }
      - advance: 1h
      - expect: { judge.dlq: { records: 1 } }
"#;

fn slackwater(args: &[&str], file: &str, input: &str) -> (String, String, bool) {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("t.yaml");
    std::fs::write(&path, file).expect("the file is written");
    let mut command = Command::cargo_bin("slackwater").expect("the binary is built");
    let out = command.arg(args[0]).arg(&path).args(&args[1..]).write_stdin(input).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(out.stdout), text(out.stderr), out.status.success())
}

#[test]
fn tests_of_a_file_commit_for_other_groups() {
    let (out, err, ok) = slackwater(&["test"], TOPOLOGY, "");
    assert!(ok, "{out}{err}");
    let early = TOPOLOGY
        .replace("offset: 0 }\n      - expect: { out: [] }", "offset: 1 }\n      - expect: { out: [] }");
    let (out, err, ok) = slackwater(&["test"], &early, "");
    assert!(!ok, "it would have passed: {out}{err}");
}

#[test]
fn simulate_takes_commits() {
    let lines = [
        r#"{"topic": "payments", "key": "a", "value": 1}"#,
        r#"{"commit": {"group": "profiles", "offset": 1}}"#,
        r#"{"commit": {"group": "relations", "topic": "payments", "offset": 1}}"#,
        r#"{"topic": "payments", "key": "a", "value": 2}"#,
    ];
    let (out, err, ok) = slackwater(&["simulate", "--records", "-"], TOPOLOGY, &lines.join("\n"));
    assert!(ok, "{err}");
    assert_eq!(out, "{\"step\":2,\"to\":\"verdicts\",\"key\":\"a\",\"value\":1,\"ts\":0}\n");
    let (_, err, ok) = slackwater(
        &["simulate", "--records", "-"],
        TOPOLOGY,
        r#"{"commit": {"group": "profiles", "partition": 3, "offset": 1}}"#,
    );
    assert!(!ok && err.contains("there is no partition 3"), "{err}");
}

#[test]
fn a_gate_stands_behind_a_kafka_source_and_waits_for_others() {
    for (from, to, wants) in [
        ("[profiles, relations]", "[judge]", "own group"),
        ("[profiles, relations]", "[]", "no group at all"),
        ("[profiles, relations]", "[a, a]", "stands here twice"),
        ("timeout: 1h, ", "", "a record waits for ever"),
        ("errors: { dead_letter: { topic: judge.dlq } }", "", "nothing says where dead letters go"),
        ("from: payments", "from: other", "is no source that reads Kafka"),
    ] {
        let file = TOPOLOGY
            .replace(from, to)
            .replace("operators:", "operators:\n  other: { from: payments, filter: \"true\" }");
        let (out, err, ok) = slackwater(&["check"], &file, "");
        assert!(!ok && format!("{out}{err}").contains(wants), "{wants}: {out}{err}");
    }
}
