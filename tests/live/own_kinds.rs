//! The program of `docs/own-kinds/` on a real Kafka: an operator, a sink and a function of a user's own over kills
//! (`KAFKA_BROKERS=host:port cargo test --test live own_kinds`).

#[path = "../common/own_kinds.rs"]
mod example;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::common::{Instance, Stage, wait};
use example::program;
use serde_json::{Value as Json, json};
use slackwater::model::{Clock, SystemClock};

const LONG: Duration = Duration::from_secs(60);
const MACHINES: &str = include_str!("../../docs/own-kinds/machines.yaml");

#[test]
fn its_program_keeps_timers_and_counts_over_kills_on_a_real_kafka() {
    let text = MACHINES
        .replace("name: machines", "name: NAME\nguarantee: exactly_once\nstate: { checkpoint: 100ms }")
        .replace("topic: machines.", "topic: NAME.")
        .replace("{ after: 30s, summary: 1m, alive: 5m,", "{ after: 2s, summary: 1s, alive: 1s,");
    let text = text.split("\ntests:").next().unwrap();
    let stage = Stage::new("machines", &[("beats", 4), ("alarms", 1), ("counts", 1), ("alive", 1)], text);
    let program = program();
    let ledger = stage.dir.path().join("ledger.csv");
    let start = || {
        let mut command = stage.command_of(Command::new(&program));
        command.env("LEDGER", &ledger);
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
    let written = || std::fs::read_to_string(&ledger).unwrap_or_default();
    let lines = || alarms().iter().map(|(key, since)| format!("{key},{since},false\n")).collect::<Vec<_>>();
    wait("the sink has them all", LONG, || lines().iter().all(|line| written().contains(line)));
    let raised = stage.rows("alarms");
    let once: std::collections::BTreeSet<_> = raised.iter().map(|(k, v)| (k, since(v))).collect();
    assert_eq!(once.len(), raised.len(), "no alarm twice: {raised:?}");
    assert!(!stage.rows("alive").is_empty());
    assert_eq!(one.stop(LONG), 0);
}
