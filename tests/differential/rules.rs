//! The expected differences: where Kafka Streams is known to be wrong, or means something else. A closed list; nothing
//! else may differ. Each rule changes as little as it can of what Kafka Streams gave into what is right, checks for itself
//! that this is right, and is asked only where a case differs without it.
//!
//! "Semantics" is `kafka-streams-semantics.md`, "design" is `design.md` section 3, both among the project's documents.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::case::{Case, Line, to_ms};
use super::run::{Out, Outcome};

/// A named difference.
pub struct Rule {
    pub name: &'static str,
    /// Where it is written that this is so.
    pub source: &'static str,
    /// The largest share of a family's cases that it may touch, and of its records that it may change.
    pub at_most: (f64, f64),
    /// Changes the two outcomes; how many records and drops it changed.
    pub apply: fn(&Case, &mut Outcome, &mut Outcome) -> usize,
}

/// The rules, in the order in which they are applied.
pub const RULES: &[Rule] = &[
    Rule {
        name: "final sessions lost",
        source: "semantics, known faults: emit-on-close loses final results when stream time jumps",
        at_most: (0.35, 0.35),
        apply: final_sessions_lost,
    },
    Rule {
        name: "uncounted by us",
        source: "a join's store counts a record that comes too late to be kept as dropped, also where it has been joined or \
                 sent on alone just then, or was dropped for its null value already",
        at_most: (0.6, 0.2),
        apply: joined_yet_dropped,
    },
    Rule {
        name: "outer join leaves late",
        source: "semantics, known faults: a late match still joins after the unmatched result; the scan for unmatched \
                 results looks at the wrong side's span and the wrong first timestamp",
        at_most: (0.6, 0.2),
        apply: outer_join_leaves_late,
    },
    Rule {
        name: "join store at its edge",
        source: "semantics: late records are judged per store, and the store loses a record at exactly before + after + grace, \
                 one tick before its last partner may come",
        at_most: (0.15, 0.2),
        apply: join_store_at_its_edge,
    },
    Rule {
        name: "tombstones take places",
        source: "KTableSuppressProcessor keeps the tombstones that until-window-closes never sends, and counts them against \
                 max_records; semantics: they are dropped",
        at_most: (0.1, 0.1),
        apply: tombstones_take_places,
    },
    Rule {
        name: "null key stops the task",
        source: "KStreamKTableJoinProcessor: a left join with a grace throws a NullPointerException at a null key; \
                 semantics: it passes unjoined",
        at_most: (0.35, 0.35),
        apply: null_key_stops_the_task,
    },
    Rule {
        name: "a tombstone without a trace",
        source: "RocksDBVersionedStore keeps no tombstone that closes no version, so that an older row counts as the \
                 newest; semantics: versioned tables ignore out-of-order rows downstream",
        at_most: (0.2, 0.2),
        apply: tombstone_without_a_trace,
    },
    Rule {
        name: "no key, no count",
        source: "KStreamImpl: records whose new key is null are filtered out before the repartition topic, uncounted",
        at_most: (1.0, 1.0),
        apply: no_key_no_count,
    },
    Rule {
        name: "older rows of a group, uncounted",
        source: "KTableRepartitionMap.process: an out-of-order row of a versioned table is skipped in front of an aggregate \
                 without a count, where a join of tables counts it (KTableKTableInnerJoin)",
        at_most: (0.25, 0.05),
        apply: older_rows_uncounted,
    },
];

/// Stream time after each line, of those that count.
fn stream_times(case: &Case, counts: impl Fn(&Line) -> bool) -> Vec<i64> {
    let mut now = i64::MIN;
    let time = |line: &Line| {
        now = if counts(line) { now.max(line.ts) } else { now };
        now
    };
    case.lines.iter().map(time).collect()
}

/// The first line at which stream time is at least `at`, not before `from`.
fn reaches(times: &[i64], from: u64, at: i64) -> Option<u64> {
    let found = (0_u64..).zip(times).find(|(step, now)| *step >= from && **now >= at);
    found.map(|(step, _)| step)
}

/// A final session of ours that Kafka Streams never gives. It must come when the session closes, and Kafka Streams' own
/// updates (`emit: update` on the same input) must say that it is the last result of its session.
fn final_sessions_lost(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let Some(aggregate) = case.settings("aggregate").filter(|a| a["emit"] == "final") else { return 0 };
    let window = &aggregate["window"];
    if window.get("session").is_none() {
        return 0;
    }
    let wait = to_ms(&window["session"]) + to_ms(&window["grace"]) + 1;
    let times = stream_times(case, |line| line.key.is_some());
    let updates = super::run::theirs(case, true);
    let same = |a: &Out, b: &Out| a.key == b.key && a.window == b.window;
    let mut found = 0;
    for (at, mine) in ours.out.iter().enumerate() {
        if theirs.out.get(at) == Some(mine) || theirs.out.iter().any(|o| same(o, mine)) {
            continue;
        }
        let vouched = updates.out.iter().rev().find(|o| same(o, mine)).is_some_and(|last| {
            let closes = mine.window[1].as_i64().map_or(i64::MAX, |end| end + wait);
            let on_time = reaches(&times, last.step, closes) == Some(mine.step);
            on_time && last.value == mine.value && last.ts == mine.ts
        });
        if vouched && at <= theirs.out.len() {
            theirs.out.insert(at, mine.clone());
            found += 1;
        }
    }
    found
}

/// Kafka Streams' drops of records that came too late for their side's store, and yet gave something.
fn joined_yet_dropped(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let Some(join) = case.settings("join").filter(|j| j.get("within").is_some()) else { return 0 };
    let kept = to_ms(&join["within"]["before"]) + to_ms(&join["within"]["after"]) + to_ms(&join["grace"]);
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut late = BTreeSet::new();
    for (step, line) in case.lines.iter().enumerate().filter(|(_, l)| l.key.is_some()) {
        let side = newest.entry(line.topic).or_insert(line.ts);
        *side = line.ts.max(*side);
        let id = &line.value["id"];
        let gave = line.value.is_null()
            || ours.out.iter().any(|o| {
                o.step == step as u64 && (o.value["left"]["id"] == *id || o.value["right"]["id"] == *id)
            });
        if line.ts <= *side - kept && gave {
            late.insert(step as u64);
        }
    }
    let before = theirs.drops.len();
    theirs.drops.retain(|(step, _)| !late.remove(step));
    before - theirs.drops.len()
}

/// From there on that key is not compared, nor the drops at its lines.
fn skip_key(key: &str, from: u64, lines: &[u64], ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let mut changed = 0;
    for outcome in [ours, theirs] {
        let before = outcome.out.len() + outcome.drops.len();
        outcome.out.retain(|o| o.key != key || o.step < from);
        outcome.drops.retain(|(step, _)| *step < from || !lines.contains(step));
        changed += before - outcome.out.len() - outcome.drops.len();
    }
    changed
}

/// From the first line of a key that meets a record exactly at the edge of a join's store, that key is not compared.
fn join_store_at_its_edge(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let Some(join) = case.settings("join").filter(|j| j.get("within").is_some()) else { return 0 };
    let (before, after) = (to_ms(&join["within"]["before"]), to_ms(&join["within"]["after"]));
    let grace = to_ms(&join["grace"]);
    let kept = before + after + grace;
    let times = stream_times(case, |_| true);
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut seen: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    let mut edges: BTreeMap<&str, u64> = BTreeMap::new();
    for (step, line) in case.lines.iter().enumerate() {
        let Some(key) = line.key.as_deref() else { continue };
        let side = newest.entry(line.topic).or_insert(line.ts);
        *side = line.ts.max(*side);
        if line.value.is_null() {
            continue;
        }
        let lines = seen.entry(key).or_default();
        lines.push(line);
        let may_have = |l: &Line| times[step] <= l.ts + grace + if l.topic == "L" { after } else { before };
        if lines.iter().any(|l| l.ts == newest[l.topic] - kept && may_have(l)) {
            edges.entry(key).or_insert(step as u64);
        }
    }
    let of_key = |key: &str| -> Vec<u64> {
        (0..case.lines.len())
            .filter(|n| case.lines[*n].key.as_deref() == Some(key))
            .map(|n| n as u64)
            .collect()
    };
    edges.into_iter().map(|(key, from)| skip_key(key, from, &of_key(key), ours, theirs)).sum()
}

/// Where Kafka Streams stops and we do not, nothing is compared from there on.
fn tombstones_take_places(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let Some(suppress) = case.settings("suppress") else { return 0 };
    let Some((step, why)) = theirs.stopped.clone() else { return 0 };
    let bounded = suppress["until"] == "window_closes" && suppress.get("max_records").is_some();
    let aggregate = case.settings("aggregate").map(Json::to_string).unwrap_or_default();
    let has_tombstones =
        ["session", "null", "min", "max", "first", "last"].iter().any(|word| aggregate.contains(word));
    let sooner = ours.stopped.as_ref().is_none_or(|(ours, _)| *ours > step);
    if bounded && has_tombstones && sooner && why.contains("exceeded its max capacity") {
        cut(step, ours, theirs).max(1)
    } else {
        0
    }
}

/// Unmatched results that Kafka Streams sends later, or not before the input ends, count as sent when they are due; and
/// pairs with a record that has left alone by then do not count.
fn outer_join_leaves_late(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let Some(join) = case.settings("join").filter(|j| j.get("within").is_some() && j["type"] != "inner")
    else {
        return 0;
    };
    let grace = to_ms(&join["grace"]);
    let (before, after) = (to_ms(&join["within"]["before"]), to_ms(&join["within"]["after"]));
    let times = stream_times(case, |_| true);
    // A record is known by its `id`, which is its line.
    let id = |value: &Json| value["id"].as_u64();
    let alone = |o: &Out| match (id(&o.value["left"]), id(&o.value["right"])) {
        (Some(left), None) => Some((left, after)),
        (None, Some(right)) => Some((right, before)),
        _ => None,
    };
    // When each record left alone, which is when it was due; at once where it was past its window when it came.
    let mut gone: BTreeMap<u64, u64> = BTreeMap::new();
    let mut due = Vec::new();
    for (at, mine) in ours.out.iter().enumerate() {
        let Some((line, span)) = alone(mine) else { continue };
        let arrived = case.lines.iter().position(|l| id(&l.value) == Some(line)).unwrap_or(0) as u64;
        if arrived == mine.step {
            gone.extend(theirs.out.contains(mine).then_some((line, mine.step)));
        } else if reaches(&times, arrived, mine.ts + span + grace + 1) == Some(mine.step) {
            gone.insert(line, mine.step);
            due.push((at, line));
        }
    }
    let mut missed = BTreeSet::new();
    let pairs = theirs.out.len();
    theirs.out.retain(|o| {
        let (Some(left), Some(right)) = (id(&o.value["left"]), id(&o.value["right"])) else { return true };
        let late = [left, right].iter().any(|line| gone.get(line).is_some_and(|step| *step <= o.step));
        missed.extend(late.then_some(o.step));
        !late
    });
    let mut changed = pairs - theirs.out.len();
    for (at, line) in due {
        let mine = &ours.out[at];
        match theirs.out.iter().position(|o| alone(o).is_some_and(|(l, _)| l == line)) {
            Some(place) if theirs.out[place].step <= mine.step => continue,
            found => found.map(|place| theirs.out.remove(place)),
        };
        // Behind what comes before it here, whatever else the two have made of earlier lines.
        let is_before = |o: &Out| o.step < mine.step || o.step == mine.step && ours.out[..at].contains(o);
        let place = theirs.out.iter().take_while(|o| is_before(o)).count();
        theirs.out.insert(place, mine.clone());
        changed += 1;
    }
    // A record that finds only such is late, and dropped.
    let dropped: BTreeSet<u64> = theirs.drops.iter().map(|(step, _)| *step).collect();
    ours.drops
        .retain(|(step, reason)| !(reason == "late" && missed.contains(step) && !dropped.contains(step)));
    changed
}

/// Nothing is compared from there on.
fn cut(at: u64, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let mut changed = 0;
    for outcome in [ours, theirs] {
        let before = outcome.out.len() + outcome.drops.len();
        outcome.out.retain(|o| o.step < at);
        outcome.drops.retain(|(step, _)| *step < at);
        outcome.stopped.take_if(|(step, _)| *step >= at);
        changed += before - outcome.out.len() - outcome.drops.len();
    }
    changed
}

fn null_key_stops_the_task(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let waits = case.settings("join").is_some_and(|j| j.get("grace").is_some() && j["type"] == "left");
    match &theirs.stopped {
        Some((step, why)) if waits && why.contains("key cannot be null") => {
            let step = *step;
            let line = &case.lines[usize::try_from(step).unwrap_or(0)];
            if line.key.is_none() && line.topic == "L" { cut(step, ours, theirs).max(1) } else { 0 }
        }
        _ => 0,
    }
}

/// From the first older row of a key whose newest one is a tombstone, nothing is compared.
fn tombstone_without_a_trace(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let versioned: Vec<&Json> = case.nodes["sources"]
        .as_object()
        .map(|sources| sources.values().filter(|s| s["table"].get("versions").is_some()).collect())
        .unwrap_or_default();
    let mut newest: BTreeMap<(&str, &str), (i64, bool)> = BTreeMap::new();
    for (step, line) in case.lines.iter().enumerate() {
        let Some(key) =
            line.key.as_deref().filter(|_| versioned.iter().any(|s| s["kafka"]["topic"] == line.topic))
        else {
            continue;
        };
        let row = newest.entry((line.topic, key)).or_insert((line.ts, line.value.is_null()));
        if line.ts >= row.0 {
            *row = (line.ts, line.value.is_null());
        } else if row.1 {
            return cut(step as u64, ours, theirs);
        }
    }
    0
}

/// Our drops of records that get no key.
fn no_key_no_count(case: &Case, ours: &mut Outcome, _: &mut Outcome) -> usize {
    let rekeyed = case.operators().any(|(_, o)| o["key_by"] == ".g" || o["aggregate"]["by"] == ".g");
    if !rekeyed {
        return 0;
    }
    let before = ours.drops.len();
    let tables = topics_of(case, |source| source.get("table").is_some());
    ours.drops.retain(|(step, reason)| {
        let line = &case.lines[usize::try_from(*step).unwrap_or(0)];
        // A table itself drops a row without a key, and both count that.
        let is_row = line.key.is_some() || tables.iter().all(|(_, topic)| *topic != line.topic);
        !(reason == "null_key" && line.value["g"].is_null() && is_row)
    });
    before - ours.drops.len()
}

/// Our drops of rows that are older than the newest of their key, in front of aggregates over versioned tables: one for
/// each such aggregate.
fn older_rows_uncounted(case: &Case, ours: &mut Outcome, theirs: &mut Outcome) -> usize {
    let versioned: BTreeMap<&str, usize> =
        topics_of(case, |source| source["table"].get("versions").is_some())
            .into_iter()
            .map(|(name, topic)| {
                let grouped =
                    case.operators().filter(|(_, o)| o["from"] == name && o.get("aggregate").is_some());
                (topic, grouped.count())
            })
            .collect();
    let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let mut changed = 0;
    for (step, line) in (0_u64..).zip(&case.lines) {
        let (Some(key), Some(most)) = (line.key.as_deref(), versioned.get(line.topic)) else { continue };
        let newest = newest.entry((line.topic, key)).or_insert(line.ts);
        let theirs = theirs.drops.iter().filter(|(s, _)| *s == step).count();
        let mine = ours.drops.iter().filter(|(s, _)| *s == step).count();
        let mut too_many = if line.ts < *newest { mine.saturating_sub(theirs).min(*most) } else { 0 };
        *newest = line.ts.max(*newest);
        ours.drops.retain(|(s, reason)| {
            let goes = *s == step && reason == "late" && too_many > 0;
            too_many -= usize::from(goes);
            changed += usize::from(goes);
            !goes
        });
    }
    changed
}

/// Name and topic of such sources.
fn topics_of(case: &Case, is_such: impl Fn(&Json) -> bool) -> Vec<(&str, &str)> {
    let sources = case.nodes["sources"].as_object().into_iter().flatten();
    sources
        .filter(|(_, source)| is_such(source))
        .filter_map(|(name, source)| Some((name.as_str(), source["kafka"]["topic"].as_str()?)))
        .collect()
}
