//! Topics of equal keys: each partition by itself is one run of `simulate`, whatever happens to the others.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::compare::{Guarantee, How, Rows};
use super::show::{Out, PARTITIONS, Sent, Show, WHOLE, base};

/// In the order of the file, which is the order of records of one time. It is not that of their names.
const SOURCES: [&str; 4] = ["z-events", "a-others", "profiles", "history"];
const PLACES: &str = "places";
const EVENTS: i64 = 2_400;
const KEYS: i64 = 40;

const OUTS: &[Out] = &[
    ("tumbling", How::Rows, WHOLE),
    ("hopping", How::Rows, WHOLE),
    ("sliding", How::Rows, WHOLE),
    ("sliding-final", How::Rows, WHOLE),
    ("session", How::Rows, WHOLE),
    ("session-final", How::Rows, WHOLE),
    ("forever", How::Rows, WHOLE),
    ("closes", How::Rows, WHOLE),
    ("session-closes", How::Rows, WHOLE),
    ("limit", How::Rows, WHOLE),
    ("bounded", How::Rows, WHOLE),
    ("unique", How::Rows, WHOLE),
    ("pairs", How::Rows, WHOLE),
    ("pairs-left", How::Rows, WHOLE),
    ("pairs-outer", How::Rows, WHOLE),
    ("profiled", How::Rows, WHOLE),
    ("then", How::Rows, WHOLE),
    ("then-late", How::Rows, WHOLE),
    ("placed", How::Rows, WHOLE),
    ("rows", How::Rows, WHOLE),
    ("rows-left", How::Rows, WHOLE),
    ("rows-outer", How::Rows, WHOLE),
    ("counted", How::Rows, WHOLE),
];

/// A key, in the partition that is its own in every topic.
fn keyed(topic: &'static str, key: i64, value: Json, ts: i64) -> Sent {
    let partition = i32::try_from(key).unwrap() % PARTITIONS;
    Sent { topic, partition: Some(partition), key: Some(format!("k{key}")), value, ts }
}

/// What is sent, in order. Times go forward by 200 ms an event, back and forth by some seconds, now and then by more; all
/// are multiples of half a second, so that many are equal, and many at the edge of a window.
fn records(rng: &mut SmallRng, base: i64) -> Vec<Sent> {
    let mut out = Vec::new();
    for n in 0..EVENTS {
        let time = |rng: &mut SmallRng| {
            let back =
                if rng.random_range(0..40) == 0 { rng.random_range(0..60) } else { rng.random_range(0..14) };
            base + 60_000 + (n * 200 / 500 - back) * 500
        };
        let key = |rng: &mut SmallRng| rng.random_range(0..KEYS);
        let value =
            json!({ "n": n, "x": rng.random_range(0..100), "c": format!("c{}", rng.random_range(0..8)) });
        let value = if rng.random_range(0..30) == 0 { Json::Null } else { value };
        let mut event = keyed(SOURCES[0], key(rng), value, time(rng));
        if rng.random_range(0..50) == 0 {
            event.key = None;
        }
        out.push(event);
        if n % 2 == 0 {
            let value = if rng.random_range(0..30) == 0 { Json::Null } else { json!({ "o": n }) };
            out.push(keyed(SOURCES[1], key(rng), value, time(rng)));
        }
        for (topic, every) in [(SOURCES[2], 4), (SOURCES[3], 5)] {
            if n % every == 0 {
                let value = if rng.random_range(0..6) == 0 { Json::Null } else { json!({ "name": n }) };
                out.push(keyed(topic, key(rng), value, time(rng)));
            }
        }
    }
    out
}

/// At the end: a record of each topic that closes every window, and one behind which nothing more is waited for. Of these
/// only that of the first topic is read: then the task waits for more of it.
fn ends(base: i64) -> Vec<Sent> {
    let mut out = Vec::new();
    for after in [3_600_000, 3_610_000] {
        for (n, topic) in (0..).zip(SOURCES) {
            for partition in 0..i64::from(PARTITIONS) {
                out.push(keyed(topic, 1000 + partition, json!({ "end": after }), base + after + n));
            }
        }
    }
    out
}

/// The records of one partition in the order in which its task takes them: of those that are next in each topic the one
/// with the lowest time; until a topic has none.
fn in_order(records: &[Sent], partition: i32) -> Vec<&Sent> {
    let mut topics: Vec<VecDeque<&Sent>> = SOURCES
        .iter()
        .map(|topic| records.iter().filter(|r| r.topic == *topic && r.partition == Some(partition)).collect())
        .collect();
    let mut out = Vec::new();
    while topics.iter().all(|records| !records.is_empty()) {
        let next = topics.iter_mut().min_by_key(|records| records[0].ts);
        out.extend(next.and_then(VecDeque::pop_front));
    }
    out
}

pub fn play(guarantee: Guarantee, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let base = base();
    let sources =
        SOURCES.map(|topic| (topic, PARTITIONS)).into_iter().chain([(PLACES, 3)]).collect::<Vec<_>>();
    let mut show = Show::new("lanes", include_str!("lanes.yaml"), guarantee, &sources, OUTS, seed);
    let places: Vec<Sent> = (0..8)
        .map(|n| Sent {
            topic: PLACES,
            partition: None,
            key: Some(format!("c{n}")),
            value: if n == 3 { Json::Null } else { json!({ "place": n }) },
            ts: base,
        })
        .collect();
    let mut all = records(&mut rng, base);
    all.extend(ends(base));
    show.send(&places);
    show.feed(&all);
    // Of each partition, the last record of every topic but the first.
    show.settle(&SOURCES, &[], i64::from(PARTITIONS) * 3);
    let mut want: BTreeMap<&'static str, Rows> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let sent = places.iter().chain(in_order(&all, partition));
        let lines: String = sent.map(|sent| sent.line(&show.stage)).collect();
        for (name, rows) in show.simulated(&lines) {
            want.entry(name).or_default().extend(rows);
        }
    }
    show.compare(&want, |_| false);
}
