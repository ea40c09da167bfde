//! The `tests:` of a topology file: what is sent, how time goes by, what is expected.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;

use super::decode::decode;
use super::tree::{Kind, Node};
use crate::model::{Json, Millis, Problem};

/// One test.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// What the test shows.
    pub name: String,
    /// Steps in order, each with its place in the file.
    pub steps: Vec<(Range<usize>, TestStep)>,
}

/// One step of a test.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestStep {
    /// Sends a record.
    Send(Send),
    /// Lets virtual time go by: `advance: 30s`. The clock begins at 0.
    Advance(Millis),
    /// Says how the next calls of nodes are answered, in order: `on_call: { account: [ { status: 503, times: 2 } ] }`.
    OnCall(BTreeMap<String, Vec<CallAnswer>>),
    /// Says what came out of nodes since the last `expect` that named them. A sink, the topic of a Kafka sink or that of
    /// the dead letters: the list of all its records in order, each as `{ key, value, ts, window, headers }`, or its value
    /// alone; of a table's sink the row. Only the fields given have to be as given, lists have to be whole. `window` is
    /// `[START, END]`. `{ records: 2 }` is their number. A node that calls: `{ calls: 2 }`. Any node:
    /// `{ dropped: { late: 1 } }` by reason, or `{ dropped: 1 }` altogether.
    Expect(BTreeMap<String, Json>),
    /// Another consumer group commits: `commit: { group: profiles, topic: payments, offset: 5 }` says that it has done
    /// everything before offset 5. Records of a topic are counted from 0.
    Commit(Commit),
    /// Takes a checkpoint now. A test without this step takes one after every step (but `expect` and `crash`).
    Checkpoint(Nothing),
    /// Drops the task and restores it from its last checkpoint, as after `kill -9`.
    Crash(Nothing),
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What another consumer group commits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The group.
    pub group: String,
    /// The topic. Default: that of the only source that is read from Kafka.
    pub topic: Option<String>,
    /// The partition. A topic has only partition 0 in a test.
    #[serde(default)]
    pub partition: i32,
    /// The next offset that the group will read.
    pub offset: i64,
}

/// A record to send.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// Name of a source, or a topic that one reads.
    pub to: String,
    /// Key; without one (or `null`), a null key.
    #[serde(default)]
    pub key: Json,
    /// Value as JSON; without one (or `null`), a tombstone.
    #[serde(default)]
    pub value: Json,
    /// The value as text, for values that are no JSON.
    pub raw: Option<String>,
    /// Timestamp in milliseconds; default: the virtual wall clock.
    pub ts: Option<i64>,
    /// Headers, as text. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// An answer to a call.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallAnswer {
    /// HTTP status; 0 for no answer at all. Default 200.
    #[serde(default = "CallAnswer::ok")]
    pub status: u16,
    /// Body. Default `{}`.
    #[serde(default = "CallAnswer::empty")]
    pub body: Json,
    /// Virtual time until it comes. Default at once.
    #[serde(default)]
    pub latency: Millis,
    /// How many calls are answered so. Default 1.
    #[serde(default = "CallAnswer::once")]
    pub times: u64,
    /// The answer's `Retry-After`.
    pub retry_after: Option<Millis>,
}

/// Whether a server can answer with it; 0 stands for no answer at all.
#[must_use]
pub fn is_status(status: u16) -> bool {
    matches!(status, 0 | 100..=599)
}

impl CallAnswer {
    fn ok() -> u16 {
        200
    }
    fn once() -> u64 {
        1
    }
    fn empty() -> Json {
        Json::Object(serde_json::Map::new())
    }
}

impl TestCase {
    /// All tests of a file.
    pub(super) fn all(root: &Node, problems: &mut Vec<Problem>) -> Vec<TestCase> {
        let Some(list) = root.get("tests") else { return Vec::new() };
        let Kind::List(items) = &list.kind else {
            problems.push(
                Problem::new("wrong-type", format!("`tests` is {list}, not a list"))
                    .at(list.span.clone(), "here")
                    .help("write `tests:` and under it `- name: ...` with `steps:`"),
            );
            return Vec::new();
        };
        items.iter().filter_map(|item| TestCase::one(item, problems)).collect()
    }

    fn one(item: &Node, problems: &mut Vec<Problem>) -> Option<TestCase> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outline {
            name: String,
            steps: Vec<Json>,
        }
        let outline: Outline = decode(item, problems)?;
        let Some(Node { kind: Kind::List(steps), .. }) = item.get("steps") else { return None };
        debug_assert_eq!(outline.steps.len(), steps.len());
        let steps = steps
            .iter()
            .filter_map(|step| {
                // Only `crash` may be written without `{}`.
                let step = match &step.kind {
                    Kind::Text(word) => {
                        let empty = Node::new(step.span.clone(), Kind::Map(Vec::new()));
                        let key = super::tree::Key { name: word.clone(), span: step.span.clone() };
                        Node::new(step.span.clone(), Kind::Map(vec![(key, empty)]))
                    }
                    _ => step.clone(),
                };
                decode::<TestStep>(&step, problems).map(|s| (step.span.clone(), s))
            })
            .collect();
        Some(TestCase { name: outline.name, steps })
    }
}
