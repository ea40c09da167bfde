//! Random cases of each operator.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value as Json, json};

use super::case::{Case, Feed, lines, ms};
use super::chains;

/// Draws one case.
pub type Draw = fn(&mut SmallRng) -> Case;

/// Every family of cases, by the name of its test.
pub const FAMILIES: &[(&str, Draw)] = &[
    ("aggregate", aggregate),
    ("tumbling", tumbling),
    ("hopping", hopping),
    ("sliding", sliding),
    ("session", session),
    ("suppress", suppress),
    ("stream_stream", stream_stream),
    ("stream_table", stream_table),
    ("versioned_table", versioned_table),
    ("table_table", table_table),
    ("foreign_key", foreign_key),
    ("global_table", global_table),
    ("stateless", stateless),
    ("repartition", repartition),
    ("table_aggregate", chains::table_aggregate),
    ("chains", chains::chains),
    ("sources", chains::sources),
];

pub(super) fn one_of<T: Clone>(rng: &mut SmallRng, list: &[T]) -> T {
    list[rng.random_range(0..list.len())].clone()
}

pub(super) fn case(nodes: Json, feed: &Feed, rng: &mut SmallRng) -> Case {
    let lines = lines(feed, rng);
    // RocksDB takes ten times as long to open.
    let store = if rng.random_range(0..50) == 0 { "rocksdb" } else { "memory" };
    Case { nodes, lines, store, tables: "as_tables", every: rng.random_range(0..5) }
}

fn feed(marks: &[i64]) -> Feed {
    Feed {
        topics: vec![("in", 1)],
        null_values: 0,
        null_keys: 25,
        marks: marks.to_vec(),
        most: 45,
        ordered: false,
    }
}

/// Source `in`, these operators, and a sink that reads `last`.
fn pipeline(operators: Json, last: &str) -> Json {
    json!({
        "sources": { "in": { "kafka": { "topic": "in" } } },
        "operators": operators,
        "sinks": { "out": { "from": last, "blackhole": {} } },
    })
}

/// An aggregation, and whether its expressions can do without a value. What grows with each record stays small: a whole number
/// that leaves 64 bits is refused here, and wraps around in Java.
fn function(rng: &mut SmallRng, session: bool) -> (&'static str, Json, bool) {
    let fold = |step: &str| {
        let mut fold = json!({ "init": 0, "step": step });
        if session {
            fold["merge"] = Json::from("mod(int!(left) * 5 + int!(right), 1000003)");
        }
        fold
    };
    match rng.random_range(0..12) {
        0..=2 => ("count", json!({}), true),
        3 => ("sum", json!(".v"), true),
        4 => ("min", json!(".v"), true),
        5 => ("max", json!(".v"), true),
        6 => ("first", json!(".id"), true),
        7 => ("last", json!(".id"), true),
        8 => ("collect", json!({ "of": ".id", "max": 3 }), true),
        9 => ("reduce", json!(r#"{ "v": mod(int!(acc.v) * 2 + int!(.v), 1000003), "id": .id }"#), false),
        10 => ("fold", fold("mod(int!(acc) * 3 + int!(.v), 1000003)"), false),
        _ => ("fold", fold("if .v == 1 { null } else { mod(int!(acc) * 2 + int!(.v), 1000003) }"), false),
    }
}

/// An `aggregate` in that window, and what to feed it.
fn windowed(window: Option<Json>, marks: &[i64], emit: Option<&str>, rng: &mut SmallRng) -> (Json, Feed) {
    let session = window.as_ref().is_some_and(|w| w.get("session").is_some());
    let (name, settings, takes_null) = function(rng, session);
    let mut config = json!({ name: settings });
    let mut feed = feed(marks);
    let drops_null = window.as_ref().is_none_or(|w| w.get("sliding").is_some());
    if takes_null || drops_null {
        feed.null_values = one_of(rng, &[0, 8, 20]);
    }
    if let Some(window) = window {
        config["window"] = window;
    }
    if let Some(emit) = emit {
        config["emit"] = Json::from(emit);
    }
    (config, feed)
}

fn aggregate(rng: &mut SmallRng) -> Case {
    let (config, feed) = windowed(None, &[5, 20], None, rng);
    case(pipeline(json!({ "agg": { "from": "in", "aggregate": config } }), "agg"), &feed, rng)
}

fn grace(rng: &mut SmallRng) -> i64 {
    if rng.random_range(0..3) == 0 { 0 } else { rng.random_range(0..15) }
}

fn emit(rng: &mut SmallRng) -> Option<&'static str> {
    one_of(rng, &[None, Some("update"), Some("final")])
}

/// A window of that kind, and the distances at which its rules change.
pub(super) fn window(kind: &str, rng: &mut SmallRng) -> (Json, Vec<i64>) {
    let (size, grace) = (rng.random_range(1..20), grace(rng));
    let mut window = json!({ kind: ms(size) });
    let mut marks = vec![size, grace, size + grace, 2 * size + grace];
    if kind == "hopping" {
        let every = rng.random_range(1..=size);
        window["every"] = ms(every);
        marks.push(every);
    }
    if grace > 0 || rng.random_bool(0.5) {
        window["grace"] = ms(grace);
    }
    (window, marks)
}

fn windows(kind: &str, rng: &mut SmallRng) -> Case {
    let (window, marks) = window(kind, rng);
    let emit = emit(rng);
    let (config, feed) = windowed(Some(window), &marks, emit, rng);
    case(pipeline(json!({ "agg": { "from": "in", "aggregate": config } }), "agg"), &feed, rng)
}

fn tumbling(rng: &mut SmallRng) -> Case {
    windows("tumbling", rng)
}

fn hopping(rng: &mut SmallRng) -> Case {
    windows("hopping", rng)
}

fn sliding(rng: &mut SmallRng) -> Case {
    windows("sliding", rng)
}

fn session(rng: &mut SmallRng) -> Case {
    windows("session", rng)
}

fn suppress(rng: &mut SmallRng) -> Case {
    let kind = one_of(rng, &["", "tumbling", "tumbling", "hopping", "sliding", "session"]);
    let (window, mut marks) = match kind {
        "" => (None, vec![5]),
        kind => {
            let (window, marks) = window(kind, rng);
            (Some(window), marks)
        }
    };
    let mut config = if window.is_some() && rng.random_bool(0.5) {
        json!({ "until": "window_closes" })
    } else {
        let limit = rng.random_range(0..25);
        marks.push(limit);
        json!({ "until": ms(limit) })
    };
    if rng.random_range(0..3) == 0 {
        config["max_records"] = Json::from(rng.random_range(1..5));
        if config["until"] == "window_closes" || rng.random_range(0..4) == 0 {
            config["on_full"] = Json::from("stop");
        }
    }
    let (aggregate, feed) = windowed(window, &marks, None, rng);
    let operators = json!({
        "agg": { "from": "in", "aggregate": aggregate },
        "calm": { "from": "agg", "suppress": config },
    });
    case(pipeline(operators, "calm"), &feed, rng)
}

/// Topics `L` and `R`, and the join of the two nodes that read them.
fn sides(left: Option<Json>, right: Option<Json>, join: Json, feed: &Feed, rng: &mut SmallRng) -> Case {
    let source = |topic: &str, table: Option<Json>| {
        let mut source = json!({ "kafka": { "topic": topic } });
        if let Some(table) = table {
            source["table"] = table;
        }
        source
    };
    let mut join = join;
    join["with"] = Json::from("right");
    let nodes = json!({
        "sources": { "left": source("L", left), "right": source("R", right) },
        "operators": { "both": { "from": "left", "join": join } },
        "sinks": { "out": { "from": "both", "blackhole": {} } },
    });
    case(nodes, feed, rng)
}

fn two(left: u32, right: u32, null_values: u32, marks: &[i64]) -> Feed {
    Feed {
        topics: vec![("L", left), ("R", right)],
        null_values,
        null_keys: 25,
        marks: marks.to_vec(),
        most: 40,
        ordered: false,
    }
}

fn stream_stream(rng: &mut SmallRng) -> Case {
    let kind = one_of(rng, &["inner", "left", "outer"]);
    let side = |rng: &mut SmallRng| if rng.random_range(0..4) == 0 { 0 } else { rng.random_range(0..12) };
    let (before, after, mut grace) = (side(rng), side(rng), grace(rng));
    if before + after + grace == 0 {
        // Kafka Streams' stores would keep nothing, and nothing be joined; with us what has the same timestamp is.
        grace = 1;
    }
    let marks = [before, after, before + grace, after + grace, before + after + grace, grace];
    let join =
        json!({ "type": kind, "within": { "before": ms(before), "after": ms(after) }, "grace": ms(grace) });
    // In RocksDB, Kafka Streams drops by segments of a minute: what is gone depends on the store.
    Case { store: "memory", ..sides(None, None, join, &two(1, 1, 20, &marks), rng) }
}

fn stream_table(rng: &mut SmallRng) -> Case {
    let join = json!({ "type": one_of(rng, &["inner", "left"]) });
    sides(None, Some(json!({})), join, &two(1, 1, 6, &[5, 20]), rng)
}

fn versioned_table(rng: &mut SmallRng) -> Case {
    let history = rng.random_range(1..40);
    let mut join = json!({ "type": one_of(rng, &["inner", "left"]) });
    let mut marks = vec![history];
    if rng.random_bool(0.6) {
        let grace = rng.random_range(0..=history);
        join["grace"] = ms(grace);
        marks.extend([grace, history - grace]);
    }
    sides(None, Some(json!({ "versions": ms(history) })), join, &two(1, 1, 6, &marks), rng)
}

/// A plain table, mostly; or one with versions.
pub(super) fn any_table(rng: &mut SmallRng, marks: &mut Vec<i64>) -> Json {
    if rng.random_range(0..3) > 0 {
        return json!({});
    }
    let history = rng.random_range(1..40);
    marks.push(history);
    json!({ "versions": ms(history) })
}

fn table_table(rng: &mut SmallRng) -> Case {
    let join = json!({ "type": one_of(rng, &["inner", "left", "outer"]) });
    let mut marks = vec![5];
    let (left, right) = (any_table(rng, &mut marks), any_table(rng, &mut marks));
    sides(Some(left), Some(right), join, &two(1, 1, 4, &marks), rng)
}

fn foreign_key(rng: &mut SmallRng) -> Case {
    let join = json!({ "type": one_of(rng, &["inner", "left"]), "on": ".g" });
    let mut marks = vec![5];
    let (left, right) = (any_table(rng, &mut marks), any_table(rng, &mut marks));
    sides(Some(left), Some(right), join, &two(1, 1, 4, &marks), rng)
}

fn global_table(rng: &mut SmallRng) -> Case {
    let mut join = json!({ "type": one_of(rng, &["inner", "left"]) });
    if rng.random_bool(0.8) {
        join["on"] = Json::from(one_of(rng, &[".g", "key"]));
    }
    sides(None, Some(json!({ "global": true })), join, &two(1, 1, 6, &[5]), rng)
}

/// A chain of nodes that keep nothing: the operators and the name of the last.
fn chain(rng: &mut SmallRng, from: &str, nodes: &mut serde_json::Map<String, Json>) -> String {
    let mut last = from.to_owned();
    for n in 0..rng.random_range(1..5) {
        let name = format!("{from}-{n}");
        let node = match rng.random_range(0..6) {
            0 => json!({ "from": last, "filter": one_of(rng, &[".v == 3", "(int(.v) ?? 0) > 4", "true"]) }),
            1 => json!({ "from": last, "map": r#"{ "v": .v, "was": key }"# }),
            2 => json!({ "from": last, "map": "if .v == 2 { null } else { . }" }),
            3 => json!({ "from": last, "flat_map": ".list" }),
            4 => {
                json!({ "from": last, "key_by": one_of(rng, &[r#"string(.g) ?? "none""#, r#"string(key) ?? "none""#]) })
            }
            _ => {
                let branch = json!({ "some": "(int(.v) ?? 0) > 4", "three": ".v == 3", "rest": "true" });
                nodes.insert(name.clone(), json!({ "from": last, "branch": branch }));
                last = format!("{name}.{}", one_of(rng, &["some", "three", "rest"]));
                continue;
            }
        };
        nodes.insert(name.clone(), node);
        last = name;
    }
    last
}

fn stateless(rng: &mut SmallRng) -> Case {
    let mut nodes = serde_json::Map::new();
    let first = chain(rng, "in", &mut nodes);
    let mut last = first.clone();
    if rng.random_bool(0.5) {
        let second = chain(rng, "more", &mut nodes);
        last = "all".into();
        nodes.insert(last.clone(), json!({ "from": [first, second], "merge": {} }));
    }
    let mut nodes = pipeline(Json::Object(nodes), &last);
    nodes["sources"]["more"] = json!({ "kafka": { "topic": "more" } });
    let feed = Feed {
        topics: vec![("in", 2), ("more", 1)],
        null_values: 10,
        null_keys: 15,
        marks: vec![5],
        most: 30,
        ordered: false,
    };
    case(nodes, &feed, rng)
}

fn repartition(rng: &mut SmallRng) -> Case {
    let (window, marks) = match rng.random_range(0..3) {
        0 => (None, vec![5]),
        1 => {
            let (window, marks) = window("tumbling", rng);
            (Some(window), marks)
        }
        _ => {
            let (window, marks) = window("session", rng);
            (Some(window), marks)
        }
    };
    let (mut config, feed) = windowed(window, &marks, None, rng);
    let mut operators = serde_json::Map::new();
    if rng.random_bool(0.5) {
        operators.insert("keyed".into(), json!({ "from": "in", "key_by": ".g" }));
        operators.insert("agg".into(), json!({ "from": "keyed", "aggregate": config }));
    } else {
        config["by"] = Json::from(".g");
        operators.insert("agg".into(), json!({ "from": "in", "aggregate": config }));
    }
    case(pipeline(Json::Object(operators), "agg"), &feed, rng)
}
