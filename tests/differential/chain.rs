//! One chain of operators that is being drawn: its nodes so far, and each kind of node that may come next.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value as Json, json};

use super::case::{Case, Feed, ms, to_ms};
use super::families::{case, one_of, window};

/// A group for every record.
pub const GROUP: &str = r#"string(.g) ?? "none""#;
/// An object of any result, and of a row.
const AS_ROW: &str = r#"if . == null { null } else { { "v": ., "g": key, "id": window.start } }"#;
const SAME_ROW: &str = r#"if . == null { null } else { { "v": .v, "g": .g, "id": .id } }"#;
/// A table's rows, some of them left out: `filter` and `mapValues` of a table.
pub const SOME_ROWS: [&str; 2] = ["if . != null && .v != 3 { . } else { null }", SAME_ROW];
/// A pair as an object.
const PAIR: &str = r#"{ "v": (int(left.v) ?? 0) * 2 - (int(right.v) ?? 0), "g": left.g || right.g, "id": left.id || right.id }"#;
/// Longer than any case lasts.
pub const FOR_EVER: i64 = 100_000;

/// An aggregation over a table.
fn taking_back(rng: &mut SmallRng) -> (&'static str, Json) {
    let subtract = one_of(
        rng,
        &["int!(acc) - int!(.v)", "if int!(acc) == int!(.v) { null } else { int!(acc) - int!(.v) }"],
    );
    match rng.random_range(0..6) {
        0 | 1 => ("count", json!({})),
        2 => ("sum", json!(".v")),
        3 => ("fold", json!({ "init": 0, "step": "int!(acc) + int!(.v)", "subtract": subtract })),
        4 => ("fold", json!({ "init": 2, "step": "int!(.v) - int!(acc)", "subtract": subtract })),
        _ => ("reduce", json!(r#"{ "v": int!(acc.v) + int!(.v), "g": .g, "id": .id }"#)),
    }
}

/// The settings of an aggregate over a table.
pub fn over_table(by: Option<&str>, rng: &mut SmallRng) -> Json {
    let (name, settings) = taking_back(rng);
    let mut config = json!({ name: settings });
    if name == "reduce" {
        config["subtract"] = Json::from(one_of(
            rng,
            &[
                r#"{ "v": int!(.v) - int!(acc.v), "g": .g, "id": .id }"#,
                r#"if acc.v == .v { null } else { { "v": int!(acc.v) - int!(.v), "g": acc.g, "id": .id } }"#,
            ],
        ));
    }
    if let Some(by) = by {
        config["by"] = Json::from(by);
    }
    config
}

/// What a node of a chain sends.
#[derive(Clone, Copy, PartialEq)]
pub enum Sends {
    Stream,
    Table,
    Nothing,
}

/// The place of the global table in a chain.
pub const GLOBAL: usize = 0;

#[derive(Clone)]
struct Node {
    name: String,
    sends: Sends,
    /// The windows of its keys: 0 for none, equal numbers for the same windows.
    windows: usize,
    /// The sources that its records come from, a bit each.
    sources: u32,
    /// The last node above whose records come by way of a topic in one of the two alone, 0 for none: what is read by a
    /// plain key that had a window, an aggregate over a table by its own key, a row deleted in a foreign-key join.
    hop: usize,
    /// Values are not objects.
    raw: bool,
}

impl Node {
    /// May it be joined with that one? Not where records of one line come to the two by ways of different lengths there.
    fn meets(&self, other: &Node) -> bool {
        self.hop == other.hop || self.sources & other.sources == 0
    }
}

/// A chain so far.
pub struct Chain<'r> {
    pub rng: &'r mut SmallRng,
    operators: Map<String, Json>,
    sinks: Map<String, Json>,
    nodes: Vec<Node>,
    pub marks: Vec<i64>,
    /// Windows that were drawn, and the number they go by.
    windows: Vec<(Json, usize)>,
    /// Joins of streams so far: with each, records may become as many as their square.
    joins: usize,
    /// Some join sends unmatched results.
    unmatched: bool,
    /// Timestamps never go back.
    ordered: bool,
    /// The tables with versions.
    pub versioned: Vec<String>,
    /// Both sides of some join change with the same records.
    of_one: bool,
    /// Some node asks what a row was.
    takes_back: bool,
}

/// What the next node of a chain may be.
#[derive(Clone, Copy)]
pub enum Step {
    /// Aggregates a stream: in windows of that kind, `""` for none.
    Aggregate(&'static str),
    Suppress,
    Streams,
    StreamTable,
    Tables,
    OverTable,
    SomeRows,
    KeyBy,
    Table,
    /// A table with versions.
    Versions,
    /// A join with the global table.
    Global,
}

impl Chain<'_> {
    pub fn new<'a>(sources: &[(&str, Sends)], rng: &'a mut SmallRng) -> Chain<'a> {
        let nodes = sources
            .iter()
            .enumerate()
            .map(|(n, (name, sends))| Node {
                name: (*name).to_owned(),
                sends: *sends,
                windows: 0,
                sources: 1 << n,
                hop: 0,
                raw: false,
            })
            .collect();
        let ordered = rng.random_bool(0.3);
        Chain {
            rng,
            operators: Map::new(),
            sinks: Map::new(),
            nodes,
            marks: vec![5, 20],
            windows: Vec::new(),
            joins: 0,
            unmatched: false,
            ordered,
            versioned: Vec::new(),
            of_one: false,
            takes_back: false,
        }
    }

    /// Adds a node behind that one; its place. What it sends is a stream, in the same windows.
    fn behind(&mut self, at: usize, kind: &str, settings: Json) -> usize {
        let above = self.nodes[at].clone();
        let name = format!("n{}", self.operators.len());
        self.operators.insert(name.clone(), json!({ "from": above.name, kind: settings }));
        let raw = above.raw && kind != "map";
        self.nodes.push(Node { name, sends: Sends::Stream, raw, ..above });
        self.nodes.len() - 1
    }

    /// That node's records come by a topic in one of the two alone.
    fn hop(&mut self, at: usize) {
        self.nodes[at].hop = at;
    }

    /// A sink there, now and then.
    fn watch(&mut self, at: usize, often: f64) {
        let name = self.nodes[at].name.clone();
        let sink = format!("out-{name}");
        if self.rng.random_bool(often) {
            self.sinks.insert(sink, json!({ "from": name, "blackhole": {} }));
        }
    }

    /// That node's records as a table.
    fn table(&mut self, at: usize) -> usize {
        let last = self.behind(at, "table", json!({}));
        self.nodes[last].sends = Sends::Table;
        last
    }

    /// The nodes that send objects so.
    fn sends(&self, sends: Sends) -> Vec<usize> {
        let fits = |node: &Node| node.sends == sends && !node.raw;
        (0..self.nodes.len()).filter(|n| fits(&self.nodes[*n])).collect()
    }

    /// A node, the newest ones first.
    fn pick(&mut self, of: &[usize]) -> Option<usize> {
        if of.is_empty() {
            return None;
        }
        let back = if self.rng.random_bool(0.7) { 0 } else { self.rng.random_range(0..of.len()) };
        Some(of[of.len() - 1 - back])
    }

    /// Windows of that kind, and their number: new ones, or those of another node.
    fn window(&mut self, kind: &str) -> (Json, usize) {
        if let Some(drawn) = self.windows.iter().find(|(window, _)| window.get(kind).is_some())
            && self.rng.random_bool(0.6)
        {
            return drawn.clone();
        }
        let (mut window, marks) = window(kind, self.rng);
        if kind == "hopping" {
            // Not too many windows at once.
            let size = to_ms(&window["hopping"]);
            window["every"] = ms((size / 2).max(1));
        }
        self.marks.extend(marks);
        self.windows.push((window.clone(), self.windows.len() + 1));
        (window, self.windows.len())
    }

    /// Aggregates a stream, in windows or not.
    fn aggregate(&mut self, at: usize, kind: &str) -> usize {
        let drops_null = matches!(kind, "" | "sliding");
        let most = if drops_null { 6 } else { 4 };
        let (name, settings) = match self.rng.random_range(0..most) {
            0 => ("count", json!({})),
            1 => ("sum", json!(".v")),
            2 => ("max", json!(".v")),
            3 => ("last", json!(".v")),
            4 => ("reduce", json!(r#"{ "v": int!(.v) - int!(acc.v), "g": .g, "id": .id }"#)),
            _ => ("fold", json!({ "init": 1, "step": "int!(.v) - int!(acc)" })),
        };
        let mut config = json!({ name: settings });
        if kind == "session" && name == "fold" {
            config["fold"]["merge"] = Json::from("mod(int!(left) * 5 + int!(right), 1000003)");
        }
        if self.rng.random_range(0..3) == 0 {
            config["by"] = Json::from(GROUP);
        }
        let mut windows = 0;
        if !kind.is_empty() {
            let (window, number) = self.window(kind);
            config["window"] = window;
            windows = number;
            if kind != "session" && self.rng.random_range(0..3) == 0 {
                config["emit"] = Json::from("final");
            }
        }
        let hops = config.get("by").is_none() && self.nodes[at].windows > 0;
        let mut last = self.behind(at, "aggregate", config);
        (self.nodes[last].windows, self.nodes[last].raw) = (windows, name != "reduce");
        if hops {
            self.hop(last);
        }
        self.watch(last, 0.3);
        if self.rng.random_range(0..4) == 0 {
            last = self.suppress(last);
        }
        self.row(last)
    }

    fn suppress(&mut self, at: usize) -> usize {
        let config = if self.nodes[at].windows > 0 && self.rng.random_bool(0.6) {
            json!({ "until": "window_closes" })
        } else {
            let limit = self.rng.random_range(0..25);
            self.marks.push(limit);
            let mut config = json!({ "until": ms(limit) });
            if self.rng.random_range(0..3) == 0 {
                config["max_records"] = Json::from(self.rng.random_range(1..5));
            }
            config
        };
        let last = self.behind(at, "suppress", config);
        self.watch(last, 0.5);
        last
    }

    /// An object again; what is a row already may stay as it is.
    fn row(&mut self, at: usize) -> usize {
        match self.nodes[at].raw {
            true => self.behind(at, "map", Json::from(AS_ROW)),
            false if self.rng.random_bool(0.5) => at,
            false => self.behind(at, "map", Json::from(SAME_ROW)),
        }
    }

    /// Joins two nodes; `config` says how.
    fn join(&mut self, left: usize, right: usize, mut config: Json) -> usize {
        config["with"] = Json::from(self.nodes[right].name.clone());
        config["value"] = Json::from(PAIR);
        self.of_one |= self.nodes[left].sources & self.nodes[right].sources != 0;
        let last = self.behind(left, "join", config);
        self.nodes[last].sources |= self.nodes[right].sources;
        if self.nodes[left].windows > 0 && self.nodes[right].windows == 0 {
            self.hop(last);
        }
        self.watch(last, 0.3);
        last
    }

    fn stream_join(&mut self, left: usize, right: usize) -> usize {
        let side = |rng: &mut SmallRng| rng.random_range(0..10);
        let (before, after) = (side(self.rng), side(self.rng));
        self.marks.extend([before, after]);
        let within = |before, after| json!({ "before": ms(before), "after": ms(after) });
        // As they come from their topics, in order, and with a window that is the same to both sides.
        let nodes = [left, right].map(|n| self.nodes[n].name.as_str());
        if self.ordered && (nodes == ["s", "u"] || nodes == ["u", "s"]) {
            let config = json!({
                "within": within(before, before),
                "grace": ms(after),
                "type": one_of(self.rng, &["left", "outer"]),
            });
            self.unmatched = true;
            return self.join(left, right, config);
        }
        self.join(left, right, json!({ "within": within(before, after), "grace": ms(FOR_EVER) }))
    }

    /// A table made of two, or of one.
    fn tables_join(&mut self, left: usize, right: usize) -> usize {
        let of_one = self.nodes[left].sources & self.nodes[right].sources != 0;
        // Where one record changes both sides, the results of different keys come in no order.
        let foreign = !of_one && self.nodes[left].windows == 0;
        let config = if foreign && self.rng.random_range(0..3) == 0 {
            json!({ "type": one_of(self.rng, &["inner", "left"]), "on": GROUP })
        } else {
            json!({ "type": one_of(self.rng, &["inner", "left", "outer"]) })
        };
        self.takes_back |= config.get("on").is_some() || config["type"] != "inner";
        let foreign = config.get("on").is_some();
        let joined = self.join(left, right, config);
        if foreign {
            self.hop(joined);
        }
        if self.rng.random_bool(0.7) { self.table(joined) } else { joined }
    }

    /// A table of some of its rows.
    fn some_rows(&mut self, at: usize) -> usize {
        let expression = one_of(self.rng, &SOME_ROWS);
        let mapped = self.behind(at, "map", Json::from(expression));
        let table = self.table(mapped);
        self.watch(table, 0.3);
        table
    }

    /// One more operator that keeps something; `None` where it does not fit.
    pub fn step(&mut self, step: Step) -> Option<usize> {
        let (streams, tables) = (self.sends(Sends::Stream), self.sends(Sends::Table));
        let partners = |of: &Chain<'_>, left: usize, all: &[usize], plain_too: bool| -> Vec<usize> {
            let left = &of.nodes[left];
            let fits = |n: &usize| {
                let right = &of.nodes[*n];
                (right.windows == left.windows || plain_too && right.windows == 0) && left.meets(right)
            };
            all.iter().copied().filter(fits).collect()
        };
        match step {
            Step::Aggregate(kind) => {
                let at = self.pick(&streams)?;
                Some(self.aggregate(at, kind))
            }
            Step::Suppress => {
                let aggregates =
                    |name: &String| self.operators.get(name).is_some_and(|o| o.get("aggregate").is_some());
                let aggregates = (0..self.nodes.len()).filter(|n| aggregates(&self.nodes[*n].name));
                // Kafka Streams holds back no table with versions.
                let plain = tables.into_iter().filter(|n| !self.versioned.contains(&self.nodes[*n].name));
                let all: Vec<usize> = plain.chain(aggregates).collect();
                let at = self.pick(&all)?;
                let calm = self.suppress(at);
                Some(self.row(calm))
            }
            Step::Streams if self.joins > 1 => None,
            Step::Streams => {
                self.joins += 1;
                let left = self.pick(&streams)?;
                let right = self.pick(&partners(self, left, &streams, false))?;
                Some(self.stream_join(left, right))
            }
            Step::StreamTable => {
                let left = self.pick(&streams)?;
                let right = self.pick(&partners(self, left, &tables, true))?;
                let config = json!({ "type": one_of(self.rng, &["inner", "left"]) });
                Some(self.join(left, right, config))
            }
            Step::Tables => {
                let left = self.pick(&tables)?;
                let right = self.pick(&partners(self, left, &tables, false))?;
                Some(self.tables_join(left, right))
            }
            Step::OverTable => {
                // Rows out of order in front of an aggregate are known to a rule where they come from a source.
                let known =
                    |n: &usize| self.nodes[*n].name == "t" || !self.versioned.contains(&self.nodes[*n].name);
                let known: Vec<usize> = tables.into_iter().filter(known).collect();
                let at = self.pick(&known)?;
                let by = one_of(self.rng, &[None, Some(GROUP), Some(GROUP)]);
                let config = over_table(by, self.rng);
                self.takes_back = true;
                let is_row = config.get("reduce").is_some();
                let last = self.behind(at, "aggregate", config);
                (self.nodes[last].windows, self.nodes[last].raw) = (0, !is_row);
                if by.is_none() {
                    self.hop(last);
                }
                self.watch(last, 0.3);
                Some(self.row(last))
            }
            Step::SomeRows => {
                let at = self.pick(&tables)?;
                Some(self.some_rows(at))
            }
            Step::KeyBy => {
                let at = self.pick(&streams)?;
                Some(self.behind(at, "key_by", Json::from(GROUP)))
            }
            Step::Table => {
                let at = self.pick(&streams)?;
                Some(self.table(at))
            }
            Step::Versions => {
                let at = self.pick(&streams)?;
                // Versioned stores there lose tombstones, which a rule knows of sources alone.
                let rows = self.behind(at, "filter", Json::from(". != null"));
                let history = self.rng.random_range(1..40);
                self.marks.push(history);
                let table = self.behind(rows, "table", json!({ "versions": ms(history) }));
                self.nodes[table].sends = Sends::Table;
                self.versioned.push(self.nodes[table].name.clone());
                Some(table)
            }
            Step::Global => {
                let left = self.pick(&streams)?;
                let config = json!({ "type": one_of(self.rng, &["inner", "left"]), "on": GROUP });
                Some(self.join(left, GLOBAL, config))
            }
        }
    }

    /// The whole case, with a sink at the end.
    pub fn end(mut self, sources: Json, topics: Vec<(&'static str, u32)>) -> Case {
        let last = self.nodes.len() - 1;
        self.watch(last, 1.0);
        let nodes = json!({ "sources": sources, "operators": self.operators, "sinks": self.sinks });
        let feed = Feed {
            topics,
            // At a record without a key or value Kafka Streams sends no unmatched results, though it moves the time.
            null_values: if self.unmatched { 0 } else { 8 },
            null_keys: if self.unmatched { 0 } else { 25 },
            marks: self.marks,
            most: 35,
            ordered: self.ordered,
        };
        // A join of tables there names as its old result what it would have made of one side's old row: of two rows that
        // have changed with the same record, that is a result that never was (KTableKTableInnerJoin.process). And a row that
        // `suppress` sends is not in its table yet (InMemoryTimeOrderedKeyValueChangeBuffer.evictWhile).
        let suppresses = self.operators.values().any(|o| o.get("suppress").is_some());
        let as_tables = self.rng.random_bool(0.5) && !(self.of_one && (self.takes_back || suppresses));
        let tables = if as_tables { "as_tables" } else { "as_streams" };
        Case { tables, ..case(nodes, &feed, self.rng) }
    }
}
