//! Several topology files in one process, on a real Kafka: `KAFKA_BROKERS=host:port cargo test --test live several`.

use std::time::Duration;

use serde_json::json;

use crate::common::{Instance, Stage, wait};

const LONG: Duration = Duration::from_secs(60);

const COUNTS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
guarantee: exactly_once
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators: { counts: { from: in, aggregate: { count: {} } } }
sinks: { out: { from: counts, kafka: { topic: NAME.counts } } }
"#;

/// The second file of the process waits for the first one's group.
const GATED: &str = r#"
name: NAME-gated
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
guarantee: exactly_once
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators:
  known: { from: in, gate: { groups: [NAME], poll: 50ms } }
  sums: { from: known, aggregate: { count: {} } }
sinks: { out: { from: sums, kafka: { topic: NAME.gated } } }
"#;

#[test]
fn two_files_run_in_one_process_and_restore_their_own_state() {
    let stage = Stage::new("several", &[("in", 1), ("counts", 1), ("gated", 1)], COUNTS);
    let second = stage.dir.path().join("gated.yaml");
    std::fs::write(&second, GATED.replace("NAME", &stage.name)).expect("the file is written");
    let start = || Instance::spawn(stage.command(), &stage.yaml, "one", &[second.to_str().expect("a path")]);
    let counts = |topic: &str| stage.rows(topic).into_iter().map(|(_, n)| n).collect::<Vec<_>>();
    let send = |n: i64| stage.send("in", (0..n).map(|n| ("k".to_owned(), json!({ "n": n }))));

    let mut one = start();
    one.wait_ready(LONG);
    let (_, ready) = one.get("/ready");
    assert!(ready.contains(&format!("\"{0}\":{{", stage.name)), "{ready}");
    assert!(ready.contains(&format!("\"{0}-gated\":{{\"ready\":true", stage.name)), "{ready}");
    send(3);
    for topic in ["counts", "gated"] {
        wait(topic, LONG, || counts(topic) == [json!(1), json!(2), json!(3)]);
    }
    let state = stage.dir.path().join("state-one");
    for name in [stage.name.clone(), format!("{}-gated", stage.name)] {
        assert!(state.join(&name).is_dir(), "state of {name}");
    }
    // One process: both go at once, and both find their own state again.
    one.kill9();
    std::fs::remove_dir_all(&state).expect("state is removed");
    let mut two = start();
    two.wait_ready(LONG);
    send(1);
    for topic in ["counts", "gated"] {
        wait(topic, LONG, || counts(topic).last() == Some(&json!(4)));
    }
    let named = format!("run{{topology=\"{}-gated\"}}: restored", stage.name);
    assert!(two.text().contains(&named), "its log lines say whose they are: {}", two.text());
    assert_eq!(two.stop(LONG), 0);
}

#[test]
fn one_that_cannot_start_ends_the_other() {
    let stage = Stage::new("several-bad", &[("in", 1), ("counts", 1)], COUNTS);
    let second = stage.dir.path().join("gated.yaml");
    std::fs::write(&second, GATED.replace("NAME", &stage.name)).expect("the file is written");
    let started = Instance::spawn(stage.command(), &stage.yaml, "one", &[second.to_str().expect("a path")]);
    let mut one = started;
    let mut code = None;
    wait("it ends", LONG, || {
        code = one.child.try_wait().expect("a child");
        code.is_some()
    });
    let said = one.text();
    assert_eq!(code.and_then(|code| code.code()), Some(78), "{said}");
    assert!(said.contains(&format!("the topic `{}` does not exist", stage.topic("gated"))), "{said}");
    assert!(said.contains("gated.yaml:10:"), "{said}");
}
