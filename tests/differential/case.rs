//! One case: a topology, as a file that Kafka Streams' side reads too, and its input.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

/// An input line of `simulate`.
#[derive(Clone, Debug)]
pub struct Line {
    pub topic: &'static str,
    pub key: Option<String>,
    pub value: Json,
    pub ts: i64,
}

impl Line {
    pub fn json(&self) -> Json {
        json!({ "topic": self.topic, "key": self.key, "value": self.value, "ts": self.ts })
    }
}

/// A topology and its input.
#[derive(Clone, Debug)]
pub struct Case {
    /// `sources`, `operators` and `sinks`.
    pub nodes: Json,
    pub lines: Vec<Line>,
    /// Kafka Streams' stores: `memory` or `rocksdb`.
    pub store: &'static str,
    /// What a node with `table` is there: `as_tables` or `as_streams`, see its Plan.
    pub tables: &'static str,
    /// Our checkpoint interval in lines; 0: after every line, and the task is restarted from it.
    pub every: u64,
}

impl Case {
    /// The whole file, one node a line.
    pub fn yaml(&self) -> String {
        let mut text = String::from(
            "name: case\ntime: { clock: stream }\nerrors: { on_failure: skip }\nkafka: { brokers: none }\n",
        );
        for (section, nodes) in self.nodes.as_object().expect("sections") {
            text.push_str(&format!("{section}:\n"));
            for (name, node) in nodes.as_object().expect("nodes") {
                text.push_str(&format!("  {name}: {node}\n"));
            }
        }
        text
    }

    /// Name and node of each operator.
    pub fn operators(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.nodes["operators"].as_object().into_iter().flatten()
    }

    /// The settings of the only operator of that kind; `None` where there are several: the rules that ask know one operator
    /// between source and sink.
    pub fn settings(&self, kind: &str) -> Option<&Json> {
        let mut all = self.operators().filter_map(|(_, node)| node.get(kind));
        all.next().filter(|_| all.next().is_none())
    }
}

/// A duration of a file.
pub fn ms(n: i64) -> Json {
    Json::from(format!("{n}ms"))
}

/// Milliseconds of a setting that [`ms`] wrote; 0 where there is none.
pub fn to_ms(setting: &Json) -> i64 {
    setting.as_str().and_then(|text| text.strip_suffix("ms")).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How records are drawn.
pub struct Feed {
    /// With how often each is drawn, relative to the others.
    pub topics: Vec<(&'static str, u32)>,
    /// One in so many has no value; 0: none.
    pub null_values: u32,
    /// One in so many has no key; 0: none.
    pub null_keys: u32,
    /// Times that matter: distances from stream time at which rules change.
    pub marks: Vec<i64>,
    /// Records at most.
    pub most: usize,
    /// No record is older than the one before.
    pub ordered: bool,
}

/// Keys, and groups by which records are rekeyed.
const KEYS: [&str; 4] = ["a", "b", "c", "bb"];

/// Draws the records: mostly close to stream time, some late, some exactly at a mark or a tick beside it, a few jumps.
pub fn lines(feed: &Feed, rng: &mut SmallRng) -> Vec<Line> {
    let longest = feed.marks.iter().copied().max().unwrap_or(10).max(1);
    let keys = rng.random_range(1..=KEYS.len());
    let jumps = rng.random_bool(0.7);
    let count = rng.random_range(2..=feed.most);
    let weights: u32 = feed.topics.iter().map(|t| t.1).sum();
    let rare = |one_in: u32, rng: &mut SmallRng| one_in > 0 && rng.random_range(0..one_in) == 0;
    let mut now: i64 = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..3 * longest) };
    (0..count)
        .map(|id| {
            let mut pick = rng.random_range(0..weights);
            let topic = feed
                .topics
                .iter()
                .find(|(_, weight)| {
                    let found = pick < *weight;
                    pick = pick.saturating_sub(*weight);
                    found
                })
                .map_or("in", |t| t.0);
            let ts = match rng.random_range(0..20) {
                0..=3 => now,
                4..=9 => now + rng.random_range(0..=3),
                10..=12 => now - rng.random_range(0..=2 * longest),
                13..=17 if !feed.marks.is_empty() => {
                    let mark = feed.marks[rng.random_range(0..feed.marks.len())];
                    let near = mark + rng.random_range(-1..=1);
                    if rng.random_bool(0.6) { now - near } else { now + near }
                }
                18 if jumps => now + 3 * longest + rng.random_range(0..10),
                _ => now + rng.random_range(0..=longest),
            }
            .max(if feed.ordered { now } else { 0 });
            now = now.max(ts);
            let key = (!rare(feed.null_keys, rng)).then(|| KEYS[rng.random_range(0..keys)].to_owned());
            let value = if rare(feed.null_values, rng) {
                Json::Null
            } else {
                let v = rng.random_range(0..9);
                let group = if rng.random_range(0..12) == 0 {
                    Json::Null
                } else {
                    Json::from(KEYS[rng.random_range(0..3)])
                };
                let list: Vec<Json> =
                    (0..rng.random_range(0..3)).map(|n| json!({ "v": n + v, "id": n })).collect();
                json!({ "v": v, "g": group, "id": id, "list": list })
            };
            Line { topic, key, value, ts }
        })
        .collect()
}

/// A generator that depends on the seed, the family and the number alone.
pub fn rng(seed: u64, family: &str, number: u64) -> SmallRng {
    let name = family.bytes().fold(17u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
    SmallRng::seed_from_u64(
        seed.wrapping_mul(1_000_003) ^ name.rotate_left(20) ^ number.wrapping_mul(0x9E37_79B9),
    )
}
