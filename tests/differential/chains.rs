//! Random cases of several operators in a row: what one sends is what the next one reads, joins and groups.
//!
//! A chain is drawn node by node. Every value is an object with a whole number `v`, a group `g` and an `id`, and where an
//! operator gives something else, a `map` behind it makes one again; so any node can read any other.
//!
//! What the rules list as known faults of single operators is left out here, since what they spoil spreads through a chain:
//! final sessions; stream-stream joins in which a record can be late; unmatched results, except where all records come in
//! order with key and value; `suppress` that stops when it is full.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value as Json, json};

use super::case::{Case, Feed, ms};
use super::chain::{Chain, FOR_EVER, GROUP, SOME_ROWS, Sends, Step, over_table};
use super::families::{any_table, case, one_of, window};

/// `aggregate` over a table, or over one that is made of another.
pub fn table_aggregate(rng: &mut SmallRng) -> Case {
    let mut marks = vec![5];
    let table = any_table(rng, &mut marks);
    let mut operators = Map::new();
    let mut last = "in";
    if rng.random_range(0..3) == 0 {
        operators.insert("some".into(), json!({ "from": last, "map": one_of(rng, &SOME_ROWS) }));
        operators.insert("rows".into(), json!({ "from": "some", "table": {} }));
        last = "rows";
    }
    let by = one_of(rng, &[None, Some(".g"), Some(".g"), Some(GROUP)]);
    operators.insert("agg".into(), json!({ "from": last, "aggregate": over_table(by, rng) }));
    let nodes = json!({
        "sources": { "in": { "kafka": { "topic": "in" }, "table": table } },
        "operators": operators,
        "sinks": { "out": { "from": "agg", "blackhole": {} } },
    });
    let null_values = if table.get("versions").is_some() { 12 } else { 4 };
    let feed = Feed { topics: vec![("in", 1)], null_values, null_keys: 25, marks, most: 45, ordered: false };
    case(nodes, &feed, rng)
}

/// A chain of nodes of these kinds; `weights`: of the topics of two streams and two tables.
fn drawn(steps: &[Step], weights: [u32; 4], rng: &mut SmallRng) -> Case {
    let mut marks = Vec::new();
    // With versions now and then alone: their stores are in RocksDB, which takes long to open.
    let rows = if rng.random_range(0..4) == 0 { any_table(rng, &mut marks) } else { json!({}) };
    let sources = json!({
        "s": { "kafka": { "topic": "S" } },
        "u": { "kafka": { "topic": "U" } },
        "t": { "kafka": { "topic": "T" }, "table": rows },
        "w": { "kafka": { "topic": "W" }, "table": {} },
        "g": { "kafka": { "topic": "G" }, "table": { "global": true } },
    });
    // In the order of [`GLOBAL`]; a global table cannot be read as other tables are.
    let all = [
        ("g", Sends::Nothing),
        ("t", Sends::Table),
        ("w", Sends::Table),
        ("u", Sends::Stream),
        ("s", Sends::Stream),
    ];
    let mut chain = Chain::new(&all, rng);
    if !marks.is_empty() {
        chain.versioned.push("t".into());
    }
    chain.marks.extend(marks);
    let mut left = chain.rng.random_range(2..=5);
    while left > 0 {
        let step = one_of(chain.rng, steps);
        left -= usize::from(chain.step(step).is_some());
    }
    let topics = ["S", "U", "T", "W"].into_iter().zip(weights).chain([("G", 1)]).collect();
    chain.end(sources, topics)
}

/// Two to five operators behind one another: of all kinds, mostly tables made of tables, or mostly windows' results read by
/// windows, tables and joins.
pub fn chains(rng: &mut SmallRng) -> Case {
    let (steps, weights): (&[Step], _) = match rng.random_range(0..3) {
        0 => (ALL_KINDS, [3, 1, 1, 1]),
        1 => (OF_TABLES, [1, 0, 3, 2]),
        _ => (OF_WINDOWS, [4, 1, 1, 0]),
    };
    drawn(steps, weights, rng)
}

const ALL_KINDS: &[Step] = &[
    Step::Aggregate(""),
    Step::Aggregate("tumbling"),
    Step::Aggregate("session"),
    Step::Suppress,
    Step::Streams,
    Step::StreamTable,
    Step::StreamTable,
    Step::Tables,
    Step::OverTable,
    Step::KeyBy,
    Step::Table,
    Step::Versions,
    Step::Global,
];

const OF_TABLES: &[Step] = &[
    Step::Tables,
    Step::Tables,
    Step::OverTable,
    Step::SomeRows,
    Step::Table,
    Step::Suppress,
    Step::StreamTable,
    Step::Aggregate(""),
];

const OF_WINDOWS: &[Step] = &[
    Step::Aggregate("tumbling"),
    Step::Aggregate("hopping"),
    Step::Aggregate("sliding"),
    Step::Aggregate("session"),
    Step::Suppress,
    Step::Streams,
    Step::StreamTable,
    Step::Tables,
    Step::OverTable,
    Step::Table,
];

/// Several sources: of several topics, with times of their own, read together.
pub fn sources(rng: &mut SmallRng) -> Case {
    let kafka = |rng: &mut SmallRng, topics: Json| {
        let mut kafka = match topics {
            Json::Array(topics) => json!({ "topics": topics }),
            topic => json!({ "topic": topic }),
        };
        if rng.random_bool(0.6) {
            kafka["timestamp"] = Json::from(".t");
        }
        json!({ "kafka": kafka })
    };
    let mut sources = json!({
        "two": kafka(rng, json!(["A", "B"])),
        "one": kafka(rng, json!("C")),
        "rows": kafka(rng, json!("R")),
    });
    let mut marks = vec![5, 20];
    sources["rows"]["table"] = any_table(rng, &mut marks);
    let mut operators = Map::new();
    let mut all = "two";
    if rng.random_range(0..3) > 0 {
        all = "all";
        let from = one_of(rng, &[json!(["two", "one"]), json!(["one", "two"])]);
        operators.insert(all.into(), json!({ "from": from, "merge": {} }));
    }
    let last = match rng.random_range(0..4) {
        0 => {
            let (window, more) = window(one_of(rng, &["tumbling", "session", "sliding"]), rng);
            marks.extend(more);
            operators.insert(
                "agg".into(),
                json!({ "from": all, "aggregate": { "window": window, "last": ".id" } }),
            );
            "agg"
        }
        1 => {
            operators
                .insert("both".into(), json!({ "from": all, "join": { "with": "rows", "type": "left" } }));
            "both"
        }
        2 => {
            operators.insert("table".into(), json!({ "from": all, "table": {} }));
            operators.insert(
                "both".into(),
                json!({ "from": "table", "join": { "with": "rows", "type": "outer" } }),
            );
            "both"
        }
        _ => {
            let within = json!({ "before": "7ms", "after": "7ms" });
            let join = json!({ "with": "two", "within": within, "grace": ms(FOR_EVER) });
            operators.insert("both".into(), json!({ "from": "one", "join": join }));
            "both"
        }
    };
    let nodes = json!({
        "sources": sources,
        "operators": operators,
        "sinks": { "out": { "from": last, "blackhole": {} } },
    });
    let topics = vec![("A", 2), ("B", 1), ("C", 2), ("R", 2)];
    let feed = Feed { topics, null_values: 8, null_keys: 15, marks, most: 35, ordered: false };
    let mut case = case(nodes, &feed, rng);
    for line in case.lines.iter_mut().filter(|l| !l.value.is_null()) {
        match rng.random_range(0..12) {
            0 => {}
            1 => line.value["t"] = Json::from(-1),
            _ => line.value["t"] = Json::from((line.ts + rng.random_range(-9..9)).max(0)),
        }
    }
    case
}
