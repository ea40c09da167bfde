//! Tables as a user writes them, in `simulate`: aggregates over tables with expected outputs, and random input compared
//! with models that know nothing of stores, changes or order: aggregates over tables, joins of two tables by their keys
//! and by a foreign key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use slackwater::testing::simulate;
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

fn read(nodes: &str) -> Result<Topology, String> {
    let text = format!("name: t\nkafka: {{ brokers: \"b:1\" }}\ntime: {{ clock: stream }}\n{nodes}\n");
    match load("t.yaml", &text, Mode::Lenient, &|_| None) {
        Ok(loaded) => Ok(loaded.topology),
        Err(report) => Err(report.render(false).split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// A record that goes in: topic, key, value (null: a tombstone), timestamp.
type Row = (&'static str, String, Json, i64);
/// One that comes out: key, value, timestamp; or the reason of a drop.
type Out = Result<(String, Json, i64), String>;

/// What each record causes. `restarts`: after every record a checkpoint and a restart, which must not be seen.
fn run(topology: &Arc<Topology>, rows: &[Row], restarts: bool) -> Vec<Vec<Out>> {
    let mut lines = String::new();
    for (topic, key, value, ts) in rows {
        lines.push_str(&format!("{}\n", json!({ "topic": topic, "key": key, "value": value, "ts": ts })));
        if restarts {
            lines.push_str("{\"restart\": true}\n");
        }
    }
    let mut out = Vec::new();
    simulate(Arc::clone(topology), lines.as_bytes(), &mut out, 1).expect("runs");
    let mut steps = vec![Vec::new(); rows.len()];
    for line in String::from_utf8(out).expect("text").lines() {
        let line: Json = serde_json::from_str(line).expect("JSON");
        let step = line["step"].as_u64().expect("a step") / if restarts { 2 } else { 1 };
        let got = match line["dropped"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => {
                let key = line["key"].as_str().expect("a key").to_owned();
                Ok((key, line["value"].clone(), line["ts"].as_i64().expect("a time")))
            }
        };
        steps[usize::try_from(step).expect("fits")].push(got);
    }
    steps
}

/// Runs lines `topic key value ts` (`-` is null) and compares with lines `step key value ts` or `step dropped reason`.
#[track_caller]
fn check(nodes: &str, input: &str, want: &str) {
    let topology = Arc::new(read(nodes).unwrap_or_else(|report| panic!("{report}")));
    let lines = |text: &'static str| text.lines().map(str::trim).filter(|l| !l.is_empty());
    let input: Vec<Row> = lines(Box::leak(input.to_owned().into_boxed_str()))
        .map(|line| {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            let [topic, key, rest] = parts[..] else { panic!("{line}") };
            let (value, ts) = rest.rsplit_once(' ').expect("value and ts");
            let value = if value == "-" { Json::Null } else { serde_json::from_str(value).expect("JSON") };
            (topic, key.to_owned(), value, ts.parse().expect("a number"))
        })
        .collect();
    let want: Vec<&str> = want.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for restarts in [false, true] {
        let mut got = Vec::new();
        for (step, outs) in run(&topology, &input, restarts).into_iter().enumerate() {
            for out in outs {
                got.push(match out {
                    Ok((key, Json::Null, ts)) => format!("{step} {key} - {ts}"),
                    Ok((key, value, ts)) => format!("{step} {key} {value} {ts}"),
                    Err(reason) => format!("{step} dropped {reason}"),
                });
            }
        }
        assert_eq!(got, want, "restarts: {restarts}");
    }
}

/// An aggregate `a` over table `t`, which reads topic T.
fn over(aggregate: &str) -> String {
    format!(
        "
sources:
  t: {{ kafka: {{ topic: T }}, table: {{}} }}
operators:
  a: {{ from: t, aggregate: {aggregate} }}
sinks:
  o: {{ from: a, blackhole: {{}} }}
"
    )
}

#[test]
fn a_count_over_a_table_follows_rows_from_group_to_group() {
    let nodes = over("{ by: .city, count: {} }");
    let topics: Vec<String> =
        read(&nodes).expect("loads").repartitions().into_iter().map(|r| r.topic).collect();
    assert_eq!(topics, ["t-a-repartition"]);
    check(
        &nodes,
        r#"
        T ann {"city":"rome"} 10
        T bob {"city":"rome"} 5
        T ann {"city":"rome","n":1} 20
        T ann {"city":"oslo"} 15
        T bob - 30
        T bob - 31
        T ann {"city":null} 40
        T ann {"city":"rome"} 7
        "#,
        r#"
        0 rome 1 10
        1 rome 2 10
        2 rome 2 20
        3 rome 1 20
        3 oslo 1 15
        4 rome 0 30
        6 dropped null_key
        6 oslo 0 40
        7 rome 1 30
        "#,
    );
}

#[test]
fn sums_means_and_folds_over_a_table_take_back() {
    check(
        &over("{ by: .g, fields: { n: count(), total: sum(.v), mean: avg(.v) } }"),
        r#"
        T a {"g":"x","v":4} 1
        T b {"g":"x","v":2} 2
        T a {"g":"x","v":8} 3
        T b {"g":"y","v":3} 4
        T a - 5
        "#,
        r#"
        0 x {"n":1,"total":4,"mean":4.0} 1
        1 x {"n":2,"total":6,"mean":3.0} 2
        2 x {"n":2,"total":10,"mean":5.0} 3
        3 x {"n":1,"total":8,"mean":8.0} 4
        3 y {"n":1,"total":3,"mean":3.0} 4
        4 x {"n":0,"total":0,"mean":null} 5
        "#,
    );
    // By the table's own key no topic is needed.
    let own = over(
        "{ fold: { init: [], step: 'push!(acc, .v)', subtract: 'filter(array!(acc)) -> |_, v| { v != .v }' } }",
    );
    assert_eq!(read(&own).expect("loads").repartitions(), []);
    check(&own, "T a {\"v\":1} 1\nT a {\"v\":2} 2\nT a - 3", "0 a [1] 1\n1 a [2] 2\n2 a [] 3");
    check(
        &over(
            "{ by: .g, reduce: '{ \"v\": to_int!(acc.v) + to_int!(.v) }', subtract: '{ \"v\": to_int!(acc.v) - to_int!(.v) }' }",
        ),
        r#"
        T a {"g":"x","v":4} 1
        T b {"g":"x","v":2} 2
        T a {"g":"y","v":5} 3
        "#,
        r#"
        0 x {"g":"x","v":4} 1
        1 x {"v":6} 2
        2 x {"v":2} 3
        2 y {"g":"y","v":5} 3
        "#,
    );
}

#[test]
fn an_aggregate_of_an_aggregate_is_read_through_a_table() {
    check(
        "
sources:
  visits: { kafka: { topic: V } }
operators:
  per-user: { from: visits, aggregate: { count: {} } }
  users: { from: per-user, table: {} }
  users-by-visits: { from: users, aggregate: { by: ., count: {} } }
sinks:
  o: { from: users-by-visits, blackhole: {} }
",
        "V a 1 1\nV b 1 2\nV a 1 3\nV a 1 4\nV b 1 5",
        "
        0 1 1 1
        1 1 2 2
        2 1 1 3
        2 2 1 3
        3 2 0 4
        3 3 1 4
        4 1 0 5
        4 2 1 5
        ",
    );
}

#[test]
fn a_versioned_table_takes_late_rows_without_counting_them() {
    check(
        &over("{ by: .g, count: {} }").replace("table: {}", "table: { versions: 1h }"),
        "T a {\"g\":\"x\"} 10\nT a {\"g\":\"y\"} 5\nT a {\"g\":\"y\"} 11",
        "0 x 1 10\n1 dropped late\n2 x 0 11\n2 y 1 11",
    );
}

#[test]
fn what_cannot_be_aggregated_over_a_table_is_refused_in_its_place() {
    for (aggregate, place, want) in [
        ("{ by: .g, max: .v }", "t.yaml:8:", "`max` cannot take a row back"),
        ("{ fields: { n: count(), last: last(.v) } }", "t.yaml:8:", "`last` cannot take a row back"),
        ("{ count: {}, window: { tumbling: 1m } }", "t.yaml:8:", "have no windows"),
        ("{ reduce: .v }", "t.yaml:8:", "add `subtract: EXPRESSION` beside `reduce`"),
        ("{ fold: { init: 0, step: .v } }", "t.yaml:8:", "over a table it needs a `subtract`"),
        ("{ by: timestamp, count: {} }", "t.yaml:8:", "it reads `timestamp`"),
        ("{ count: {}, subtract: .v }", "t.yaml:8:", "it belongs to `reduce`"),
    ] {
        let got = read(&over(aggregate)).expect_err("is refused");
        assert!(got.contains(want) && got.contains(place), "{aggregate}\n{got}");
    }
    let mixed = over("{ count: {} }")
        .replace("operators:", "  s: { kafka: { topic: S } }\noperators:")
        .replace("from: t,", "from: [t, s],");
    let got = read(&mixed).expect_err("is refused");
    assert!(got.contains("`t` is a table and `s` a stream"), "{got}");
    read(
        &over("{ max: .v }")
            .replace("from: t,", "from: f,")
            .replace("operators:", "operators:\n  f: { from: t, filter: \"true\" }"),
    )
    .expect("the table's changes as records");
}

/// Pseudo-random numbers: the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

const SEEDS: u64 = 40;
const ROWS: usize = 60;

/// The newest value and timestamp of each key.
type Table = BTreeMap<String, (Json, i64)>;

fn set(table: &mut Table, key: &str, value: &Json, ts: i64) {
    if value.is_null() {
        table.remove(key);
    } else {
        table.insert(key.to_owned(), (value.clone(), ts));
    }
}

#[test]
fn aggregates_over_a_table_are_what_its_rows_say() {
    let topology =
        Arc::new(read(&over("{ by: .g, fields: { n: count(), total: sum(.v) } }")).expect("loads"));
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let rows: Vec<Row> = (0..ROWS)
            .map(|_| {
                let key = format!("k{}", random.below(5));
                let group = format!("g{}", random.below(3));
                let value = match random.below(5) {
                    0 => Json::Null,
                    1 => json!({ "g": null, "v": 1 }),
                    2 => json!({ "g": group, "v": null }),
                    _ => json!({ "g": group, "v": random.below(10) }),
                };
                ("T", key, value, i64::try_from(random.below(100)).expect("small"))
            })
            .collect();
        let got = run(&topology, &rows, seed % 2 == 0);
        let (mut table, mut touched) = (Table::new(), BTreeMap::<String, i64>::new());
        for (step, (_, key, value, ts)) in rows.iter().enumerate() {
            let group = |value: &Json| value["g"].as_str().map(str::to_owned);
            let from = table.get(key).and_then(|(value, _)| group(value));
            let to = group(value);
            let mut groups: Vec<String> = from.iter().chain(&to).cloned().collect();
            groups.dedup();
            let state_of = |table: &Table, of: &str| {
                let inside = table.values().filter(|(value, _)| value["g"] == of);
                let (n, total) = inside
                    .fold((0, 0), |(n, total), (value, _)| (n + 1, total + value["v"].as_i64().unwrap_or(0)));
                json!({ "n": n, "total": total })
            };
            set(&mut table, key, value, *ts);
            let mut want: Vec<Out> = Vec::new();
            if !value.is_null() && to.is_none() {
                // Before what the record does elsewhere: drops of a step are told first.
                want.push(Err("null_key".into()));
            }
            for of in groups {
                let at = touched.entry(of.clone()).or_insert(*ts);
                *at = (*at).max(*ts);
                want.push(Ok((of.clone(), state_of(&table, &of), *at)));
            }
            assert_eq!(got[step], want, "seed {seed} step {step}: {rows:?}");
        }
    }
}

/// Two tables and their join.
fn joined(settings: &str) -> Arc<Topology> {
    let nodes = format!(
        "
sources:
  l: {{ kafka: {{ topic: L }}, table: {{}} }}
  r: {{ kafka: {{ topic: R }}, table: {{}} }}
operators:
  j: {{ from: l, join: {{ with: r, {settings} }} }}
sinks:
  o: {{ from: j, blackhole: {{}} }}
"
    );
    Arc::new(read(&nodes).expect("loads"))
}

/// The same without topics: everything in one task.
fn joined_in_one_task(settings: &str) -> Arc<Topology> {
    let nodes = format!(
        "
sources:
  s: {{ stdin: {{ key: .key }} }}
operators:
  l-rows: {{ from: s, filter: .topic == \"L\" }}
  l-values: {{ from: l-rows, map: .row }}
  l: {{ from: l-values, table: {{}} }}
  r-rows: {{ from: s, filter: .topic == \"R\" }}
  r-values: {{ from: r-rows, map: .row }}
  r: {{ from: r-values, table: {{}} }}
  j: {{ from: l, join: {{ with: r, {settings} }} }}
sinks:
  o: {{ from: j, blackhole: {{}} }}
"
    );
    let topology = read(&nodes).expect("loads");
    assert_eq!(topology.subs.len(), 1);
    Arc::new(topology)
}

/// Random rows of both topics. `foreign`: a left row names a right one.
fn rows(random: &mut Random, foreign: bool) -> Vec<Row> {
    let mut n = 0;
    (0..ROWS)
        .map(|_| {
            n += 1;
            let ts = i64::try_from(random.below(100)).expect("small");
            let left = random.below(2) == 0;
            let key = match (foreign, left) {
                (true, false) => format!("f{}", random.below(3)),
                _ => format!("k{}", random.below(4)),
            };
            let value = match random.below(4) {
                0 => Json::Null,
                1 if foreign && left => json!({ "fk": null, "n": n }),
                _ if foreign && left => json!({ "fk": format!("f{}", random.below(4)), "n": n }),
                _ => json!({ "n": n }),
            };
            (if left { "L" } else { "R" }, key, value, ts)
        })
        .collect()
}

/// Checks after every record that the results sent so far, the newest of each key, are the join of the two tables as
/// they are, and that each new one has the latest timestamp of its two rows and the record that caused it.
fn check_join(settings: &str, foreign: bool, pair: impl Fn(&str, &Table, &Table) -> Option<(Json, i64)>) {
    let (topics, one_task) = (joined(settings), joined_in_one_task(settings));
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let rows = rows(&mut random, foreign);
        let got = run(&topics, &rows, seed % 2 == 0);
        let lines = rows.iter().map(|(topic, key, row, ts)| {
            ("s", key.clone(), json!({ "topic": topic, "key": key, "row": row }), *ts)
        });
        assert_eq!(
            run(&one_task, &lines.collect::<Vec<_>>(), false),
            got,
            "the same in one task, seed {seed}"
        );
        let (mut left, mut right, mut view) = (Table::new(), Table::new(), Table::new());
        for (step, (topic, key, value, ts)) in rows.iter().enumerate() {
            set(if *topic == "L" { &mut left } else { &mut right }, key, value, *ts);
            for (key, value, at) in got[step].iter().flatten() {
                set(&mut view, key, value, *at);
                // What is sent is as new as the record that caused it, be it a tombstone.
                assert!(at >= ts, "{settings} seed {seed} step {step}: {at} < {ts}");
            }
            let keys: std::collections::BTreeSet<String> =
                left.keys().chain(right.keys()).chain(view.keys()).cloned().collect();
            let want: Table =
                keys.into_iter().filter_map(|key| Some((key.clone(), pair(&key, &left, &right)?))).collect();
            let values = |table: &Table| -> BTreeMap<String, Json> {
                table.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
            };
            let note = format!("{settings} seed {seed} step {step}: {rows:?}");
            assert_eq!(values(&view), values(&want), "{note}");
            for (key, _, at) in got[step].iter().flatten() {
                if let Some((_, newest)) = want.get(key)
                    && !foreign
                {
                    assert_eq!(at, newest.max(ts), "{note}");
                }
            }
        }
    }
}

fn both(left: Option<&(Json, i64)>, right: Option<&(Json, i64)>) -> (Json, i64) {
    let value = |row: Option<&(Json, i64)>| row.map_or(Json::Null, |row| row.0.clone());
    let ts = left.into_iter().chain(right).map(|row| row.1).max().expect("one of them is there");
    (json!({ "left": value(left), "right": value(right) }), ts)
}

#[test]
fn joins_of_two_tables_are_what_their_rows_say() {
    check_join("type: inner", false, |key, left, right| {
        let (left, right) = left.get(key).zip(right.get(key))?;
        Some(both(Some(left), Some(right)))
    });
    check_join("type: left", false, |key, left, right| {
        let row = left.get(key)?;
        Some(both(Some(row), right.get(key)))
    });
    check_join("type: outer", false, |key, left, right| {
        let (left, right) = (left.get(key), right.get(key));
        (left.is_some() || right.is_some()).then(|| both(left, right))
    });
}

#[test]
fn a_join_by_a_foreign_key_has_a_half_beside_each_table() {
    let topology = joined("on: .fk");
    let subs: Vec<String> =
        topology.subs.iter().map(|sub| format!("{}: {}", sub.name, sub.topics.join(" "))).collect();
    assert_eq!(subs, ["l: L t-j-answers-repartition", "r: R t-j-subscriptions-repartition"]);
    let counts = [("L".to_owned(), 4), ("R".to_owned(), 3)].into();
    let counts = topology.partition_counts(&counts).expect("any numbers go together");
    assert_eq!((counts["t-j-answers-repartition"], counts["t-j-subscriptions-repartition"]), (4, 3));
    let edges: Vec<String> = topology
        .mermaid()
        .lines()
        .map(str::trim)
        .filter(|l| l.ends_with("> n2"))
        .map(str::to_owned)
        .collect();
    assert_eq!(edges, ["n0 --> n2", "n1 -. repartition .-> n2"], "what was declared");
    let taken = "
sources:
  l: { kafka: { topic: L }, table: {} }
  r: { kafka: { topic: R }, table: {} }
operators:
  j: { from: l, join: { with: r, on: .fk } }
sinks:
  o: { from: j, kafka: { topic: t-j-answers-repartition } }
";
    let got = read(taken).expect_err("is refused");
    assert!(got.contains("is the topology's own, between the halves of `j`"), "{got}");
}

#[test]
fn joins_by_a_foreign_key_are_what_their_rows_say() {
    let named = |row: &(Json, i64), right: &Table| row.0["fk"].as_str().and_then(|fk| right.get(fk)).cloned();
    check_join("on: .fk, type: inner", true, |key, left, right| {
        let row = left.get(key)?;
        let right = named(row, right)?;
        Some(both(Some(row), Some(&right)))
    });
    check_join("on: .fk, type: left", true, |key, left, right| {
        let row = left.get(key)?;
        Some(both(Some(row), named(row, right).as_ref()))
    });
}
