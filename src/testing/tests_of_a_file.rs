//! Runs the `tests:` of a topology file on the [`TopologyTestDriver`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, DriverError, Output, TopologyTestDriver};
use crate::model::{Headers, Json, Millis, Record, Timestamp, Value, key_text, same};
use crate::topology::Topology;
use crate::yaml::{Commit, Send, TestCase, TestStep, expectable};

/// Why a test failed, with the place of the step.
#[derive(Debug)]
pub struct TestFailure {
    /// Byte range of the step.
    pub place: Range<usize>,
    /// What was seen instead.
    pub message: String,
}

/// What came out of one node since the last look.
#[derive(Default)]
struct Seen {
    records: Vec<Json>,
    calls: u64,
    dropped: BTreeMap<&'static str, u64>,
}

/// Runs one test on a fresh driver.
///
/// # Errors
/// The first step that did not hold, or at which the task stopped.
pub fn run_test(topology: &Arc<Topology>, test: &TestCase) -> Result<(), TestFailure> {
    let fail = |place: &Range<usize>, message: String| TestFailure { place: place.clone(), message };
    let start = test.steps.first().map_or(0..0, |(p, _)| p.clone());
    let mut driver =
        TopologyTestDriver::new(Arc::clone(topology)).map_err(|e| fail(&start, e.to_string()))?;
    let by_hand = test.steps.iter().any(|(_, s)| matches!(s, TestStep::Checkpoint(_)));
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for (place, step) in &test.steps {
        let result = match step {
            TestStep::Send(send) => send_one(&mut driver, send),
            TestStep::Advance(by) => driver.advance(*by).map_err(|e| e.to_string()),
            TestStep::OnCall(nodes) => script(&mut driver, nodes),
            TestStep::Commit(commit) => commit_one(&mut driver, commit),
            TestStep::Checkpoint(_) => driver.checkpoint().map_err(|e| e.to_string()),
            TestStep::Crash(_) => driver.restart().map_err(|e| e.to_string()),
            TestStep::Expect(_) => Ok(()),
        };
        gather(&mut driver, &mut seen);
        result.map_err(|message| fail(place, message))?;
        if let TestStep::Expect(expected) = step {
            let known = expectable(topology);
            for (name, what) in expected {
                if !known.contains(name.as_str()) {
                    let list = known.iter().copied().collect::<Vec<_>>().join(", ");
                    return Err(fail(
                        place,
                        format!("there is no node or topic `{name}`; there are: {list}"),
                    ));
                }
                let got = seen.remove(name).unwrap_or_default();
                compare(name, what, &got).map_err(|message| fail(place, message))?;
            }
        } else if !by_hand && !matches!(step, TestStep::Crash(_)) {
            driver.checkpoint().map_err(|e| fail(place, e.to_string()))?;
        }
    }
    Ok(())
}

fn send_one(driver: &mut TopologyTestDriver, send: &Send) -> Result<(), String> {
    let value = match &send.raw {
        Some(text) => Value::Bytes(Bytes::from(text.clone())),
        None if send.value.is_null() => Value::Null,
        None => Value::Bytes(Bytes::from(send.value.to_string())),
    };
    let ts = send.ts.map_or(driver.now(), Timestamp);
    let headers = send.headers.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone())));
    let record =
        Record { key: key_text(&send.key), value, ts, headers: Headers::new(headers), ..Record::default() };
    let topic = driver.topic_of(&send.to);
    driver.send(&topic, record).map_err(|e| e.to_string())
}

pub(super) fn commit_one(driver: &mut TopologyTestDriver, commit: &Commit) -> Result<(), String> {
    if commit.partition != 0 {
        return Err(format!("there is no partition {}: in a test every topic has one, 0", commit.partition));
    }
    let topic = match &commit.topic {
        Some(topic) => driver.topic_of(topic),
        None => driver.only_topic()?,
    };
    driver.commit(&commit.group, &topic, commit.offset).map_err(|e| e.to_string())
}

fn script(
    driver: &mut TopologyTestDriver,
    nodes: &BTreeMap<String, Vec<crate::yaml::CallAnswer>>,
) -> Result<(), String> {
    for (node, answers) in nodes {
        for a in answers {
            let answer = Answer {
                status: a.status,
                body: a.body.clone(),
                latency: a.latency.max(Millis::ZERO),
                retry_after: a.retry_after,
            };
            driver.on_call(node, answer, a.times).map_err(|e: DriverError| e.to_string())?;
        }
    }
    Ok(())
}

fn gather(driver: &mut TopologyTestDriver, seen: &mut BTreeMap<String, Seen>) {
    for output in driver.take_output() {
        let name_of = |node: usize| driver.topology().declared(node).name.clone();
        match output {
            Output::Record { node, to, key, value, record } => {
                let shown = if driver.topology().is_table_sink(node) {
                    value
                } else {
                    let mut shown = serde_json::json!({ "key": key, "value": value, "ts": record.ts.0 });
                    if let Some(w) = record.window {
                        shown["window"] = serde_json::json!([w.start.0, w.end.0]);
                    }
                    if !record.headers.is_empty() {
                        let text = |v: Option<&Bytes>| Json::from(v.map(|v| String::from_utf8_lossy(v)));
                        shown["headers"] =
                            record.headers.iter().map(|(n, v)| (n.to_owned(), text(v))).collect();
                    }
                    shown
                };
                let name = name_of(node);
                if name != to {
                    seen.entry(to).or_default().records.push(shown.clone());
                }
                seen.entry(name).or_default().records.push(shown);
            }
            Output::Dropped { node, reason } => {
                *seen.entry(name_of(node)).or_default().dropped.entry(reason.name()).or_default() += 1;
            }
            Output::Called { node, .. } => seen.entry(name_of(node)).or_default().calls += 1,
        }
    }
}

fn compare(name: &str, expected: &Json, got: &Seen) -> Result<(), String> {
    match expected {
        Json::Array(rows) => {
            if rows.len() != got.records.len() {
                return Err(format!(
                    "{name}: expected {} records, got {}: {}",
                    rows.len(),
                    got.records.len(),
                    Json::Array(got.records.clone())
                ));
            }
            for (n, (want, have)) in rows.iter().zip(&got.records).enumerate() {
                if !(matches(want, have) || have.get("value").is_some_and(|v| matches(want, v))) {
                    return Err(format!("{name}: record {n} is {have}, expected {want}"));
                }
            }
            Ok(())
        }
        Json::Object(fields) => {
            for (field, want) in fields {
                let have = match field.as_str() {
                    "calls" => Json::from(got.calls),
                    "records" => Json::from(got.records.len()),
                    "dropped" if want.is_number() => Json::from(got.dropped.values().sum::<u64>()),
                    "dropped" => serde_json::json!(got.dropped),
                    other => {
                        return Err(format!(
                            "{name}: `{other}` cannot be expected: calls, records or dropped can"
                        ));
                    }
                };
                if !matches(want, &have) {
                    return Err(format!("{name}: {field} is {have}, expected {want}"));
                }
            }
            Ok(())
        }
        other => {
            Err(format!("{name}: expected {other}: write a list of records, or a map such as {{ calls: 1 }}"))
        }
    }
}

/// Whether `have` contains `want`: objects are compared by the fields of `want`, lists element by element, all else by
/// equality.
fn matches(want: &Json, have: &Json) -> bool {
    match (want, have) {
        (Json::Object(w), Json::Object(h)) => w.iter().all(|(k, v)| h.get(k).is_some_and(|h| matches(v, h))),
        (Json::Array(w), Json::Array(h)) => w.len() == h.len() && w.iter().zip(h).all(|(w, h)| matches(w, h)),
        (w, h) => same(w, h),
    }
}
