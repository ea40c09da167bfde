//! Aggregates over tables and global tables on topics of several partitions, on a real Kafka with the real binary:
//! `KAFKA_BROKERS=host:port cargo test --test live tables`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::common::{Stage, wait};
use serde_json::{Value as Json, json};

const LONG: Duration = Duration::from_secs(60);

/// A topology of these nodes; `NAME` in them is its name, with which its topics begin.
fn stage(topics: &[(&str, i32)], nodes: &str) -> Stage {
    let head = "name: NAME\nkafka: { brokers: \"${KAFKA_BROKERS}\", session_timeout: 6s }\n\
                state: { checkpoint: 100ms }\nguarantee: exactly_once\n";
    Stage::new("tables", topics, &format!("{head}{nodes}"))
}

/// The row of user `n` after its change number `round`: it moves between cities, and every seventh is deleted at last.
fn user(n: u64, round: u64) -> Json {
    if round == 3 && n.is_multiple_of(7) {
        return Json::Null;
    }
    json!({ "city": format!("city-{}", (n * 3 + round * (n % 4)) % 5), "age": n + round })
}

#[test]
fn an_aggregate_over_a_table_is_right_across_partitions_and_crashes() {
    let stage = stage(
        &[("users", 4), ("out", 1)],
        "
sources:
  users: { kafka: { topic: NAME.users }, table: {} }
operators:
  cities: { from: users, aggregate: { by: .city, fields: { users: count(), ages: sum(.age) } } }
sinks:
  out: { from: cities, kafka: { topic: NAME.out } }
",
    );
    let mut one = stage.start("one");
    let mut two = stage.start("two");
    one.wait_ready(LONG);
    two.wait_ready(LONG);
    let mut want: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for round in 0..4 {
        stage.send("users", (0..200).map(|n| (format!("user-{n}"), user(n, round))));
        if round == 1 {
            one.kill9();
            one = stage.start("one");
        }
    }
    for n in 0..200 {
        let row = user(n, 3);
        if let Some(city) = row["city"].as_str() {
            let sum = want.entry(city.to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + row["age"].as_u64().expect("a number"));
        }
    }
    let want: BTreeMap<String, Json> = want
        .into_iter()
        .map(|(city, (users, ages))| (city, json!({ "users": users, "ages": ages })))
        .collect();
    let mut last = BTreeMap::new();
    wait("every city's users are counted", LONG, || {
        last = stage.rows("out").into_iter().collect();
        last == want
    });
    one.wait_ready(LONG);
    assert_eq!(one.stop(LONG), 0);
    assert_eq!(two.stop(LONG), 0);
    let settled: BTreeMap<String, Json> = stage.rows("out").into_iter().collect();
    assert_eq!(settled, want, "and nothing came after it");
}

#[test]
fn a_global_table_is_whole_in_every_instance() {
    const COUNTRIES: u64 = 3000;
    let stage = stage(
        &[("countries", 3), ("orders", 4), ("out", 1)],
        "
sources:
  orders: { kafka: { topic: NAME.orders } }
  countries: { kafka: { topic: NAME.countries }, table: { global: true } }
operators:
  named: { from: orders, join: { with: countries, on: .country, type: left, value: '{ \"n\": left.n, \"country\": right.name }' } }
sinks:
  out: { from: named, kafka: { topic: NAME.out } }
",
    );
    let country = |n: u64, name: &str| (format!("c{n}"), json!({ "name": format!("{name} {n}") }));
    let orders = |from: u64, to: u64| {
        (from..to)
            .map(|n| (format!("order-{n}"), json!({ "n": n, "country": format!("c{}", n % COUNTRIES) })))
    };
    stage.send("countries", (0..COUNTRIES).map(|n| country(n, "old")));
    stage.send("orders", orders(0, 200));
    let mut one = stage.start("one");
    let mut two = stage.start("two");
    one.wait_ready(LONG);
    two.wait_ready(LONG);
    // What was there before the start is there before the first record is joined.
    let names = |from: u64, to: u64| -> BTreeMap<u64, Json> {
        let rows = stage
            .rows("out")
            .into_iter()
            .map(|(_, row)| (row["n"].as_u64().expect("a number"), row["country"].clone()));
        rows.filter(|(n, _)| (from..to).contains(n)).collect()
    };
    wait("the first orders come out", LONG, || names(0, 200).len() == 200);
    assert!(names(0, 200).iter().all(|(n, name)| *name == json!(format!("old {n}"))), "{:?}", names(0, 200));
    for instance in [&one, &two] {
        assert_eq!(
            instance.metric("slackwater_records_in_total", "node=\"countries\""),
            3000.0,
            "each reads all"
        );
        assert_eq!(instance.metric("slackwater_restore_remaining_rows", "node=\"countries\""), 0.0);
    }
    // Updates reach both: new names, and one country goes.
    stage.send("countries", (0..COUNTRIES).map(|n| country(n, "new")));
    stage.send("countries", [("c7".to_owned(), Json::Null)]);
    wait("both have the updates", LONG, || {
        [&one, &two].iter().all(|i| i.metric("slackwater_records_in_total", "node=\"countries\"") == 6001.0)
    });
    stage.send("orders", orders(200, 400));
    stage.send("orders", [("order-x".to_owned(), json!({ "n": 9007, "country": "c7" }))]);
    wait("later orders come out", LONG, || names(200, 10_000).len() == 201);
    let later = names(200, 10_000);
    assert_eq!(later.get(&9007), Some(&Json::Null), "deleted");
    assert!(later.iter().all(|(n, name)| *n == 9007 || *name == json!(format!("new {n}"))), "{later:?}");
    // Killed and started again it reads on from where it was, and takes what came meanwhile before anything else.
    one.kill9();
    two.kill9();
    stage.send("countries", (0..10).map(|n| country(n, "newer")));
    stage.send(
        "orders",
        (0..10).map(|n| (format!("o-{n}"), json!({ "n": 20_000 + n, "country": format!("c{n}") }))),
    );
    one = stage.start("one");
    wait("the last orders come out", LONG, || names(20_000, 30_000).len() == 10);
    let last: BTreeSet<String> =
        names(20_000, 30_000).into_values().map(|name| name.as_str().expect("a name").to_owned()).collect();
    assert_eq!(last, (0..10).map(|n| format!("newer {n}")).collect());
    let read = one.metric("slackwater_records_in_total", "node=\"countries\"");
    assert!(read < 6000.0, "it does not begin anew: {read}");
    assert_eq!(one.stop(LONG), 0);
    // Its rows can be looked at, and taken away; then it begins anew.
    let run = |words: &[&str]| {
        let more = if words[0] == "reset" { &["--local", "--execute"][..] } else { &["countries"] };
        let output = stage.run(words, "one", more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let listed = run(&["state", "ls"]);
    assert_eq!(listed.lines().filter(|line| line.starts_with("countries.global")).count(), 3000);
    assert!(run(&["reset"]).contains("countries.global"));
    two = stage.start("one");
    two.wait_ready(LONG);
    assert_eq!(two.metric("slackwater_records_in_total", "node=\"countries\""), 6011.0);
    assert_eq!(two.stop(LONG), 0);
}

#[test]
fn a_foreign_key_join_is_right_across_partitions_and_crashes() {
    for kind in ["inner", "left"] {
        let stage = stage(
            &[("users", 4), ("teams", 3), ("out", 1)],
            &"
sources:
  users: { kafka: { topic: NAME.users }, table: {} }
  teams: { kafka: { topic: NAME.teams }, table: {} }
operators:
  members: { from: users, join: { with: teams, on: .team, type: KIND, value: '{ \"n\": left.n, \"team\": right.name }' } }
sinks:
  out: { from: members, kafka: { topic: NAME.out } }
"
            .replace("KIND", kind),
        );
        let mut one = stage.start("one");
        let mut two = stage.start("two");
        one.wait_ready(LONG);
        two.wait_ready(LONG);
        let (mut users, mut teams) = (BTreeMap::new(), BTreeMap::new());
        let mut random = 7_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        for round in 0..30 {
            // Both tables change at the same time, so that answers cross.
            let rows: Vec<(String, Json)> = (0..20)
                .map(|n| {
                    let row = match below(5) {
                        0 => Json::Null,
                        _ => json!({ "n": round * 100 + n, "team": format!("team-{}", below(6)) }),
                    };
                    (format!("user-{}", below(40)), row)
                })
                .collect();
            let names: Vec<(String, Json)> = (0..3)
                .map(|n| {
                    let row = match below(3) {
                        0 => Json::Null,
                        _ => json!({ "name": format!("name {round}.{n}") }),
                    };
                    (format!("team-{}", below(6)), row)
                })
                .collect();
            users.extend(rows.iter().cloned());
            teams.extend(names.iter().cloned());
            stage.send("users", rows);
            stage.send("teams", names);
            if round == 10 {
                one.kill9();
                one = stage.start("one");
            }
            if round == 20 {
                two.kill9();
                two = stage.start("two");
            }
        }
        let mut want = BTreeMap::new();
        for (user, row) in users.iter().filter(|(_, row)| !row.is_null()) {
            let team = teams.get(row["team"].as_str().expect("a team")).filter(|team| !team.is_null());
            if team.is_some() || kind == "left" {
                let name = team.map_or(Json::Null, |team| team["name"].clone());
                want.insert(user.clone(), json!({ "n": row["n"], "team": name }));
            }
        }
        assert!(want.len() > 10, "the test has something to say: {}", want.len());
        let table = || -> BTreeMap<String, Json> {
            let last: BTreeMap<String, Json> = stage.rows("out").into_iter().collect();
            last.into_iter().filter(|(_, row)| !row.is_null()).collect()
        };
        wait(&format!("{kind}: everybody is with the right team"), LONG, || table() == want);
        one.wait_ready(LONG);
        two.wait_ready(LONG);
        assert_eq!(one.stop(LONG), 0);
        assert_eq!(two.stop(LONG), 0);
        assert_eq!(table(), want, "{kind}: and nothing came after it");
    }
}
