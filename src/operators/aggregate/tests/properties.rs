//! Random out-of-order input against models that keep every record and compute each window from scratch, with
//! restarts in between.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::*;
use super::rig::{Out, Rig, config, out};
use crate::operators::OperatorSettings;
use crate::operators::suppress::{Suppress, SuppressConfig};

/// A generator of numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % n.max(1)
    }

    fn key(&mut self) -> &'static str {
        ["a", "b", "ab"][usize::try_from(self.below(3)).unwrap()]
    }
}

/// Key, value, timestamp: mostly forward, some late, some jumps.
fn input(random: &mut Random, late: i64) -> Vec<(&'static str, i64, i64)> {
    let mut now = 0;
    (0..60)
        .map(|_| {
            now += if random.below(12) == 0 { random.below(60) } else { random.below(4) };
            let back = if random.below(3) == 0 { random.below(late + 1) } else { 0 };
            (random.key(), random.below(9), (now - back).max(0))
        })
        .collect()
}

/// The result of a window's records, for `fields: { n: count(), sum: sum(.v), all: collect(.v) }`.
fn result(values: &[i64]) -> Json {
    json!({ "n": values.len(), "sum": values.iter().sum::<i64>(), "all": values })
}

fn rig(window: Json, emit: &str) -> Rig {
    let fields = json!({ "n": "count()", "sum": "sum(.v)", "all": "collect(.v, 1000)" });
    let config = config(json!({ "fields": fields, "window": window, "emit": emit })).unwrap();
    assert_eq!(config.check(), []);
    Rig::new(move || build(&config, false))
}

/// Runs the same input with and without restarts; both must match the model, record by record.
fn check(window: &Json, emit: &str, input: &[(&str, i64, i64)], model: &[Vec<Out>], seed: u64) {
    for restarts in [false, true] {
        let mut random = Random(seed);
        let mut n = rig(window.clone(), emit);
        for (step, ((key, v, ts), want)) in input.iter().zip(model).enumerate() {
            let got = n.send(key, json!({ "v": v }), *ts);
            assert_eq!(&got, want, "{window} {emit} seed {seed} step {step} restarts {restarts}: {input:?}");
            match random.below(6) {
                0 if restarts => n.restart(),
                1 if restarts => n.checkpoint(),
                2..=4 if restarts => n.checkpoint_piece(),
                _ => {}
            }
        }
        assert!(n.drops.iter().all(|reason| *reason == Reason::Late));
        n.clock = Timestamp(1_000_000);
        n.at(1_000_000);
        assert_eq!(n.rows(), 0, "nothing stays for ever");
    }
}

/// Start and end of a window, and its values.
#[derive(Default, Clone)]
struct Pane {
    values: Vec<i64>,
    ts: i64,
}

#[test]
fn time_windows_are_what_their_records_say() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let size = 1 + random.below(20);
        let advance = 1 + random.below(size);
        let grace = random.below(15);
        let input = input(&mut random, size + grace + 5);
        for is_final in [false, true] {
            let (mut panes, mut t) = (BTreeMap::<(i64, &str), Pane>::new(), i64::MIN);
            let mut model = Vec::new();
            for (key, v, ts) in &input {
                t = t.max(*ts);
                let mut step = Vec::new();
                for start in (0..=*ts).filter(|s| s % advance == 0 && *ts < s + size && s + size > t - grace)
                {
                    let pane = panes.entry((start, key)).or_default();
                    pane.values.push(*v);
                    pane.ts = pane.ts.max(*ts);
                    if !is_final {
                        step.push(out(key, (start, start + size), result(&pane.values), pane.ts));
                    }
                }
                let closed: Vec<_> = panes.keys().filter(|(s, _)| t >= s + size + grace).copied().collect();
                for at in closed {
                    let pane = panes.remove(&at).unwrap();
                    if is_final {
                        step.push(out(at.1, (at.0, at.0 + size), result(&pane.values), pane.ts));
                    }
                }
                model.push(step);
            }
            let ms = |n: i64| format!("{n}ms");
            let window = json!({ "hopping": ms(size), "every": ms(advance), "grace": ms(grace) });
            check(&window, if is_final { "final" } else { "update" }, &input, &model, seed);
            if advance == size {
                let window = json!({ "tumbling": ms(size), "grace": ms(grace) });
                check(&window, if is_final { "final" } else { "update" }, &input, &model, seed);
            }
        }
    }
}

#[test]
fn sessions_are_what_their_records_say() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let gap = 1 + random.below(12);
        let grace = random.below(12);
        let input = input(&mut random, 2 * gap + grace + 5);
        for is_final in [false, true] {
            // Open sessions: end, start, key.
            let (mut sessions, mut t) = (BTreeMap::<(i64, i64, &str), Vec<i64>>::new(), i64::MIN);
            let mut model = Vec::new();
            for (key, v, ts) in &input {
                t = t.max(*ts);
                let mut step = Vec::new();
                let joined: Vec<_> = sessions
                    .keys()
                    .filter(|(end, start, k)| k == key && *end >= ts - gap && *start <= ts + gap)
                    .copied()
                    .collect();
                let start = joined.iter().map(|s| s.1).chain([*ts]).min().unwrap();
                let end = joined.iter().map(|s| s.0).chain([*ts]).max().unwrap();
                if end >= t - grace - gap {
                    let mut values: Vec<i64> = Vec::new();
                    for old in joined {
                        values.extend(sessions.remove(&old).unwrap());
                        if !is_final && (start, end) != (*ts, *ts) {
                            step.push(out(key, (old.1, old.0), Json::Null, old.0));
                        }
                    }
                    values.push(*v);
                    if !is_final {
                        step.push(out(key, (start, end), result(&values), end));
                    }
                    sessions.insert((end, start, key), values);
                }
                let closed: Vec<_> =
                    sessions.keys().filter(|(end, ..)| t > end + gap + grace).copied().collect();
                for at in closed {
                    let values = sessions.remove(&at).unwrap();
                    if is_final {
                        step.push(out(at.2, (at.1, at.0), result(&values), at.0));
                    }
                }
                model.push(step);
            }
            let window = json!({ "session": format!("{gap}ms"), "grace": format!("{grace}ms") });
            check(&window, if is_final { "final" } else { "update" }, &input, &model, seed);
        }
    }
}

/// The windows after each record, computed from all records: final results, and the newest updates.
#[test]
fn sliding_windows_are_what_their_records_say() {
    for seed in 0..25 {
        let mut random = Random(seed);
        let difference = 1 + random.below(12);
        let grace = 1 + random.below(20);
        // Never later than the grace: for later records the model would have to know which windows still take them.
        let input = input(&mut random, grace - 1);
        let mut all: Vec<(&str, i64, i64)> = Vec::new();
        let mut t = i64::MIN;
        let (mut updates, mut finals) = (Vec::new(), Vec::new());
        let mut before = BTreeMap::new();
        for record in &input {
            let late = record.2 + difference < t.max(record.2) - grace;
            t = t.max(record.2);
            if !late {
                all.push(*record);
            }
            let mut windows = BTreeMap::new();
            for (key, _, ts) in &all {
                for start in [(ts - difference).max(0), ts + 1] {
                    let inside: Vec<_> = all
                        .iter()
                        .filter(|(k, _, at)| k == key && *at >= start && *at <= start + difference)
                        .collect();
                    if let Some(highest) = inside.iter().map(|(_, _, at)| *at).max() {
                        let values: Vec<i64> = inside.iter().map(|(_, v, _)| *v).collect();
                        windows.insert((start, *key), (values, highest));
                    }
                }
            }
            let line = |((start, key), (values, ts)): (&(i64, &str), &(Vec<i64>, i64))| {
                let mut values = values.clone();
                values.sort_unstable();
                out(key, (*start, start + difference), result(&values), *ts)
            };
            updates.push(
                windows.iter().filter(|(w, v)| before.get(*w) != Some(*v)).map(line).collect::<Vec<_>>(),
            );
            let closed = windows.iter().filter(|((s, _), _)| s + difference < t - grace);
            finals.push(closed.map(line).collect::<Vec<_>>());
            before = windows;
        }
        let window = json!({ "sliding": format!("{difference}ms"), "grace": format!("{grace}ms") });
        let sorted = |(key, window, mut value, ts): Out| {
            let mut values: Vec<i64> =
                value["all"].as_array().unwrap().iter().filter_map(Json::as_i64).collect();
            values.sort_unstable();
            value["all"] = json!(values);
            (key, window, value, ts)
        };
        for (emit, model) in [("update", &updates), ("final", &finals)] {
            let mut n = rig(window.clone(), emit);
            let mut sent = Vec::new();
            for (step, ((key, v, ts), want)) in input.iter().zip(model).enumerate() {
                let got: Vec<Out> = n.send(key, json!({ "v": v }), *ts).into_iter().map(sorted).collect();
                if emit == "final" {
                    sent.extend(got);
                    assert_eq!(&sent, want, "{window} seed {seed} step {step}: {input:?}");
                } else {
                    let by = |o: &Out| (o.1, o.0.clone());
                    let got: BTreeMap<_, _> = got.into_iter().map(|o| (by(&o), o)).collect();
                    let want: BTreeMap<_, _> = want.iter().map(|o| (by(o), o.clone())).collect();
                    assert_eq!(got, want, "{window} seed {seed} step {step}: {input:?}");
                }
                match random.below(6) {
                    0 => n.restart(),
                    1 => n.checkpoint(),
                    2..=4 => n.checkpoint_piece(),
                    _ => {}
                }
            }
            assert_eq!(n.drops, []);
            n.at(1_000_000);
            assert_eq!(n.rows(), 0, "nothing stays for ever");
        }
    }
}

#[test]
fn suppress_is_a_list_that_is_searched() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let wait = random.below(20);
        let windows = random.below(2) == 0;
        let max = (!windows && random.below(2) == 0).then(|| 1 + random.below(4));
        let mut settings = if windows {
            json!({ "until": "window_closes", "grace": format!("{wait}ms") })
        } else {
            json!({ "until": format!("{wait}ms") })
        };
        if let Some(max) = max {
            settings["max_records"] = json!(max);
        }
        let settings: SuppressConfig = serde_json::from_value(settings).unwrap();
        assert_eq!(settings.check(), []);
        let mut n = Rig::new(move || Box::new(Suppress::new(&settings, None)));
        // Time, key, window end and start: value, timestamp.
        type Place = (i64, &'static str, Option<(i64, i64)>);
        let mut held: Vec<(Place, Json, i64)> = Vec::new();
        let mut clock = i64::MIN;
        for (step, (key, v, ts)) in input(&mut random, 15).into_iter().enumerate() {
            clock = clock.max(ts);
            let window = windows.then(|| (ts / 10 * 10, ts / 10 * 10 + 10));
            let value = if v == 0 { Json::Null } else { json!(v) };
            let known =
                held.iter().position(|((_, k, w), ..)| *k == key && *w == window.map(|(s, e)| (e, s)));
            let time = known.map_or(window.map_or(ts, |(_, end)| end), |at| held[at].0.0);
            known.map(|at| held.remove(at));
            if !(windows && v == 0) {
                held.push(((time, key, window.map(|(s, e)| (e, s))), value.clone(), ts));
            }
            held.sort_by(|a, b| a.0.cmp(&b.0));
            let mut want: Vec<Out> = Vec::new();
            let full = |n: usize| max.is_some_and(|max| i64::try_from(n).unwrap() > max);
            while held.first().is_some_and(|h| h.0.0 <= clock - wait) || full(held.len()) {
                let ((_, key, window), value, ts) = held.remove(0);
                want.push((key.to_owned(), window.map(|(e, s)| (s, e)), value, ts));
            }
            let record = Record {
                window: window.map(|(s, e)| crate::model::Window { start: Timestamp(s), end: Timestamp(e) }),
                ..Record::new(key, crate::model::Value::from(value), Timestamp(ts))
            };
            let got = super::rig::show(&n.record(record).unwrap());
            assert_eq!(got, want, "seed {seed} step {step}");
            match random.below(6) {
                0 => n.restart(),
                1 => n.checkpoint(),
                2..=4 => n.checkpoint_piece(),
                _ => {}
            }
        }
        assert_eq!(n.rows(), held.len());
    }
}
