//! Keys change: what does not depend on the order in which records of several partitions meet.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::compare::{Guarantee, How};
use super::show::{Out, PARTITIONS, Sent, Show, VALUE, WHOLE, base};

const ORDERS: i64 = 2_400;
const BUYERS: i64 = 30;
/// Keys of records that only bring time: enough of them for every partition.
const FLUSH: &str = "flush";

const SOURCES: [(&str, i32); 5] = [
    ("orders", PARTITIONS),
    ("payments", PARTITIONS),
    ("users", PARTITIONS),
    ("teams", PARTITIONS),
    ("edits", PARTITIONS),
];

const REPARTITIONS: &[&str] = &[
    "by-buyer",
    "by-payer",
    "kinds",
    "unique-id",
    "edits-by-user",
    "members-subscriptions",
    "members-answers",
    "members-left-subscriptions",
    "members-left-answers",
    "by-size",
    "cities",
    "city-fold",
    "city-groups",
];

const OUTS: &[Out] = &[
    ("count", How::Rows, VALUE),
    ("window", How::Newest, WHOLE),
    ("final", How::Rows, WHOLE),
    ("hopping", How::Rows, WHOLE),
    ("sliding", How::Rows, WHOLE),
    ("session", How::Rows, WHOLE),
    ("closes", How::Rows, WHOLE),
    ("kinds", How::Rows, WHOLE),
    ("cities", How::Newest, VALUE),
    ("city-fold", How::Newest, VALUE),
    ("city-groups", How::Newest, VALUE),
    // Which of the equal ones comes first is open.
    ("unique", How::Rows, "key: .id, value: .id"),
    ("buyers", How::Rows, "value: key"),
    ("pairs", How::Bag, WHOLE),
    ("members", How::Newest, VALUE),
    ("members-left", How::Newest, VALUE),
    ("both", How::Newest, VALUE),
    ("both-inner", How::Newest, VALUE),
    ("ordered", How::Rows, WHOLE),
    ("sizes", How::Rows, WHOLE),
];

fn keyed(topic: &'static str, key: String, value: Json, ts: i64) -> Sent {
    Sent { topic, partition: None, key: Some(key), value, ts }
}

fn records(rng: &mut SmallRng, base: i64) -> Vec<Sent> {
    let mut out = Vec::new();
    let buyer = |rng: &mut SmallRng| format!("b{}", rng.random_range(0..BUYERS));
    for n in 0..ORDERS {
        // No two of one time: rows that leave together leave in the order of time.
        let time = |rng: &mut SmallRng| base + 60_000 + n * 200 - rng.random_range(0..40) * 1_001;
        let order = json!({
            "n": n, "buyer": buyer(rng), "id": format!("i{}", rng.random_range(0..ORDERS / 3)),
            "x": rng.random_range(0..100), "c": format!("c{}", rng.random_range(0..8)),
        });
        out.push(keyed("orders", format!("o{n}"), order, time(rng)));
        if n % 3 == 0 {
            let payment = json!({ "n": n, "buyer": buyer(rng) });
            out.push(keyed("payments", format!("p{n}"), payment, time(rng)));
        }
        if n % 3 == 1 {
            let row = json!({
                "n": n, "city": format!("city-{}", rng.random_range(0..5)), "age": rng.random_range(1..90),
                "team": format!("team-{}", rng.random_range(0..6)),
            });
            let row = if rng.random_range(0..5) == 0 { Json::Null } else { row };
            out.push(keyed("users", buyer(rng), row, base + n * 200));
        }
        if n % 20 == 2 {
            let row = if rng.random_range(0..4) == 0 { Json::Null } else { json!({ "name": n }) };
            out.push(keyed("teams", format!("team-{}", rng.random_range(0..6)), row, base + n * 200));
        }
        if n % 4 == 3 {
            // All edits of a user come from one partition.
            let user = rng.random_range(0..BUYERS);
            let row = json!({ "n": n, "user": format!("b{user}") });
            out.push(keyed("edits", format!("edit-{user}"), row, time(rng)));
        }
    }
    out
}

/// Records that bring this time to every partition of every topic that has windows.
fn flush(at: i64) -> Vec<Sent> {
    let mut out = Vec::new();
    for n in 0..40 {
        let key = format!("{FLUSH}-{n}");
        let order = json!({ "n": n, "buyer": key, "id": format!("{FLUSH}-{n}-{at}"), "x": 1, "c": key });
        out.push(keyed("orders", key.clone(), order, at));
        out.push(keyed("payments", key.clone(), json!({ "n": n, "buyer": key }), at));
    }
    out
}

pub fn play(guarantee: Guarantee, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let base = base();
    let mut show = Show::new("crossings", include_str!("crossings.yaml"), guarantee, &SOURCES, OUTS, seed);
    let topics = SOURCES.map(|(topic, _)| topic);
    let mut all = records(&mut rng, base);
    show.feed(&all);
    show.settle(&topics, REPARTITIONS, 0);
    // The windows of the first round close; those of what comes of them close in the second.
    for minutes in [90, 180] {
        let more = flush(base + minutes * 60_000);
        show.flush(&more);
        show.settle(&topics, REPARTITIONS, 0);
        all.extend(more);
    }
    let lines: String = all.iter().map(|sent| sent.line(&show.stage)).collect();
    let want = show.simulated(&lines);
    show.compare(&want, |key| key.starts_with(FLUSH));
}
