//! Several topology files in one process. Nothing here needs a server.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

use super::cli::{Running, check, file, folder};

/// A topology that counts for ever.
fn counting(name: &str) -> String {
    format!(
        "name: {name}
sources: {{ in: {{ generate: {{ rate: 200/s, keys: 2 }} }} }}
operators: {{ counts: {{ from: in, aggregate: {{ count: {{}} }} }}, only-{name}: {{ from: counts, dedupe: {{ within: 1h }} }} }}
sinks: {{ out: {{ from: only-{name}, blackhole: {{}} }} }}
"
    )
}

#[test]
fn two_topologies_share_a_process_and_its_admin_port() {
    let dir = folder();
    let (a, b) = (file(&dir, "a.yaml", &counting("a")), file(&dir, "b.yaml", &counting("b")));
    let state = dir.path().join("state");
    let running = Running::start_all(&[&a, &b], &state, &[]);
    let ready: Json =
        serde_json::from_str(&running.until("/ready", |status, _| status == 200)).expect("is JSON");
    let one = json!({"ready": true, "waiting_for": [], "joined": true, "tasks": {"in-0": "running"}});
    assert_eq!(ready, json!({"ready": true, "topologies": {"a": one, "b": one}}));

    let count = |name: &str| format!("slackwater_records_in_total{{node=\"counts\",topology=\"{name}\"}}");
    let text = running.until("/metrics", |_, text| ["a", "b"].iter().all(|n| text.contains(&count(n))));
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    let once: BTreeSet<&str> = said.iter().copied().collect();
    assert_eq!(said.len(), once.len(), "a metric is described twice:\n{text}");

    // A node of one topology needs no name of the topology, one of both does.
    assert_eq!(running.get("/tap/only-b?n=1&wait=1ms").0, 200);
    let (status, body) = running.get("/state/counts/key-1");
    assert_eq!((status, body.as_str()), (400, "say which with ?topology=: a, b\n"));
    let body = running.until("/state/counts/key-1?topology=b", |status, _| status == 200);
    assert!(body.contains("\"node\":\"counts\""), "{body}");
    assert_eq!(running.get("/state/none/key-1"), (404, "it is in none of a, b\n".into()));
    let (status, body) = running.get("/state/counts/key-1?topology=c");
    assert_eq!((status, body.as_str()), (404, "there is no topology `c`; there are a, b\n"));

    assert!(running.get("/topology?topology=b").1.starts_with("flowchart LR\n"));
    let pictures = running.get("/topology").1;
    assert!(
        pictures.contains("%% a\nflowchart LR\n") && pictures.contains("%% b\nflowchart LR\n"),
        "{pictures}"
    );
    let page = running.get("/").1;
    assert!(page.contains("<h1>a</h1>") && page.contains("<h1>b</h1>"), "{page}");

    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    for name in ["a", "b"] {
        assert!(state.join(name).join("in-0").is_dir(), "state of `{name}` has its folder");
    }
}

#[test]
fn one_that_fails_stops_the_process_with_its_name() {
    let dir = folder();
    let lines = file(&dir, "in.jsonl", "{\"id\":1}\n{\"id\":\n");
    let text = format!(
        "name: bad\nsources: {{ in: {{ file: {{ path: {lines}, key: .id }} }} }}\n\
         sinks: {{ out: {{ from: in, blackhole: {{}} }} }}\n"
    );
    let (good, bad) = (file(&dir, "good.yaml", &counting("good")), file(&dir, "bad.yaml", &text));
    let running = Running::start_all(&[&good, &bad], &dir.path().join("state"), &[]);
    let (code, log) = running.end();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().expect("it says why");
    assert!(last.starts_with("error: bad: the task in-0 has stopped at a record"), "{log}");
}

#[test]
fn it_ends_when_the_sources_of_all_have() {
    let dir = folder();
    let text = |name: &str, rate: &str| {
        format!(
            "name: {name}\nsources: {{ in: {{ generate: {{ rate: {rate}, keys: 1, count: 4 }} }} }}\n\
             sinks: {{ out: {{ from: in, blackhole: {{}} }} }}\n"
        )
    };
    let (soon, late) =
        (file(&dir, "soon.yaml", &text("soon", "1000/s")), file(&dir, "late.yaml", &text("late", "4/s")));
    let running = Running::start_all(&[&soon, &late], &dir.path().join("state"), &[]);
    let done = |name: &str| format!("slackwater_records_out_total{{node=\"out\",topology=\"{name}\"}} 4");
    running.until("/metrics", |_, text| text.contains(&done("soon")) && !text.contains(&done("late")));
    let ready = running.until("/ready", |status, _| status == 200);
    assert!(ready.contains("\"in-0\":\"running\""), "the other goes on: {ready}");
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn what_cannot_run_together_is_said_with_its_places() {
    let dir = folder();
    let state = dir.path().join("state").display().to_string();
    let run = |files: &[&str], code, part: &str| {
        let mut args = vec!["run"];
        args.extend(files);
        args.extend(["--admin", "127.0.0.1:0", "--state-dir", &state]);
        check(&args, code, part)
    };
    let (a, again) = (file(&dir, "a.yaml", &counting("a")), file(&dir, "again.yaml", &counting("a")));
    let said = run(&[&a, &again], 78, "a.yaml has the name `a` too");
    assert!(said.err.contains("again.yaml:1:7"), "{}", said.err);

    let gate = |name: &str, group: &str| {
        let text = format!(
            "name: {name}
kafka: {{ brokers: \"127.0.0.1:1\" }}
sources: {{ in: {{ kafka: {{ topic: t }} }} }}
operators: {{ known: {{ from: in, gate: {{ groups: [{group}] }} }} }}
sinks: {{ out: {{ from: known, blackhole: {{}} }} }}
"
        );
        file(&dir, &format!("{name}.yaml"), &text)
    };
    let (b, c) = (gate("b", "c"), gate("c", "b"));
    for command in ["run", "check"] {
        let said = check(&[command, &b, &c], 78, "no record of `t` would ever pass: `b` -> `c` -> `b`");
        assert!(said.err.contains("b.yaml:4:49"), "{}", said.err);
    }

    // The problems of all files at once.
    let (bad, worse) = (file(&dir, "bad.yaml", "name: bad\n"), file(&dir, "worse.yaml", "nome: worse\n"));
    let said = run(&[&bad, &a, &worse], 78, "bad.yaml");
    assert!(said.err.contains("worse.yaml"), "{}", said.err);
}

/// A topology of this name whose sources are `t` and `u`, each with a gate on these groups.
fn topology(name: &str, on_t: &str, on_u: &str) -> Topology {
    let text = format!(
        "name: {name}
kafka: {{ brokers: here }}
sources: {{ t: {{ kafka: {{ topic: t }} }}, u: {{ kafka: {{ topic: u }} }} }}
operators:
  gt: {{ from: t, gate: {{ groups: [{on_t}] }} }}
  gu: {{ from: u, gate: {{ groups: [{on_u}] }} }}
sinks: {{ out: {{ from: [gt, gu], blackhole: {{}} }} }}
"
    );
    load(name, &text, Mode::Required, &|_| None).unwrap_or_else(|report| panic!("{report}")).topology
}

fn circles(topologies: &[Topology]) -> Vec<(usize, Option<String>, String)> {
    let found = slackwater::topology::circles(&topologies.iter().collect::<Vec<_>>());
    found.into_iter().map(|(n, p)| (n, p.node, p.message)).collect()
}

#[test]
fn a_circle_is_said_once_with_its_groups_in_order() {
    let ring = [topology("a", "x", "b"), topology("b", "x", "c"), topology("c", "x", "a")];
    let found = circles(&ring);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0, found[0].1.as_deref()), (0, Some("gu")));
    assert!(found[0].2.contains("`u` would ever pass: `a` -> `b` -> `c` -> `a`"), "{}", found[0].2);
}

#[test]
fn waiting_for_each_other_on_different_topics_is_no_circle() {
    assert_eq!(circles(&[topology("a", "b", "x"), topology("b", "x", "a")]), []);
    assert_eq!(circles(&[topology("a", "b", "b"), topology("b", "x", "y")]), []);
    assert_eq!(circles(&[topology("a", "b", "x"), topology("b", "a", "x")]).len(), 1);
}
