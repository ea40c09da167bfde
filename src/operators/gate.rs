//! `gate`: lets a record pass only when other consumer groups have committed past it.
//!
//! The record at offset `o` of a partition passes when the committed offset of *every* named group on that partition is
//! greater than `o`: a committed offset is the next one that its group will read, so at `o` the record itself is not done
//! there yet. Until then it is not read: the task leaves it, and all behind it, in Kafka. No memory grows, the member stays
//! in its group, other partitions go on, and no clock goes by records that wait.
//!
//! The committed offsets are asked for by the engine, one question per group for all partitions of the process, and told
//! to the task ([`Operator::on_commits`]). They are no state: after a restart nothing passes until they were told again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Admits, Blocked, Commits, Cx, NodePlan, Operator, OperatorError, OperatorSettings, Watches};
use crate::model::{Millis, Problem, Reason, Record, Timestamp};

/// Time between two questions, where the file names none.
const POLL: Millis = Millis(200);

/// Lets a record pass only when other consumer groups have committed past it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// The consumer groups to wait for. A record passes when all of them have committed past it. A group that does not
    /// exist, or has never committed on the record's partition, blocks it. Required.
    pub groups: Vec<String>,
    /// How often the groups' committed offsets are asked for while a record waits. Default 200 ms; while none does, every
    /// 2 s at most.
    #[serde(default = "poll")]
    pub poll: Millis,
    /// How long a record waits at most, counted from its timestamp, or from when the gate began to hold its partition if
    /// that was later. Default: for ever.
    #[serde(default)]
    pub timeout: Option<Millis>,
    /// What becomes of a record that has waited so long.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// A group that was set back to an earlier offset closes the gate again for what has not passed. With `true` it does
    /// not: what the group once had committed counts.
    #[serde(default)]
    pub reopen: bool,
    /// The topic on which the groups commit, where it is not the source's. Its offsets must correspond one to one to those
    /// of the source's topic, partition by partition (a mirror that keeps offsets).
    #[serde(default)]
    pub topic: Option<String>,
}

fn poll() -> Millis {
    POLL
}

/// What becomes of a record that a gate has held for its `timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It goes on waiting, and the log says so.
    #[default]
    Wait,
    /// It goes to the dead letter, and the next one is looked at.
    DeadLetter,
    /// The task stops.
    Fail,
}

impl OperatorSettings for GateConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Gate::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn input_count(&self) -> Option<(RangeInclusive<usize>, &'static str)> {
        Some((1..=1, "write one gate behind each source, and merge them behind"))
    }
    fn watches(&self) -> Option<Watches<'_>> {
        let poll = self.poll.max(Millis(1));
        Some(Watches {
            groups: &self.groups,
            topic: self.topic.as_deref(),
            poll,
            dead_letter: self.on_timeout == OnTimeout::DeadLetter,
        })
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.groups.is_empty() {
            let help = "name the consumer groups to wait for, for example `groups: [profiles]`";
            problems.push(Problem::setting("groups", "no group at all", help));
        }
        for (n, group) in self.groups.iter().enumerate() {
            if group.is_empty() {
                let help = "name a consumer group";
                problems.push(Problem::setting("groups", "an empty name of a group", help));
            } else if self.groups[..n].contains(group) {
                let message = format!("group `{group}` stands here twice");
                problems.push(Problem::setting("groups", &message, "remove one of them"));
            }
        }
        if self.poll <= Millis::ZERO {
            let help = "write how often to ask, for example `poll: 200ms`";
            problems.push(Problem::setting("poll", "no time at all", help));
        }
        if self.timeout.is_some_and(|t| t <= Millis::ZERO) {
            let help = "write how long a record may wait, for example `timeout: 10m`, or remove it";
            problems.push(Problem::setting("timeout", "no time at all", help));
        }
        if self.on_timeout != OnTimeout::Wait && self.timeout.is_none() {
            let help = "add `timeout: 10m`, or remove `on_timeout`";
            problems.push(Problem::setting("on_timeout", "a record waits for ever", help));
        }
        problems
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.groups.join(", "))
    }
}

/// How far the groups have come on one topic of the task's partition: next offsets, in the order of `groups`.
type Next = Vec<Option<i64>>;

/// The operator: what the groups have committed, and which record waits since when.
pub struct Gate {
    groups: Vec<Arc<str>>,
    timeout: Option<Millis>,
    on_timeout: OnTimeout,
    reopen: bool,
    /// The topic that counts for every record, where it is not the record's own.
    topic: Option<String>,
    /// By the task's number of the topic; with `topic`, under [`OTHER`].
    next: BTreeMap<u16, Next>,
    /// Records that were not let in when last asked for, by topic. Changed while the task only asks.
    held: RefCell<BTreeMap<u16, Held>>,
}

/// Where the offsets of a topic that the task does not read are kept.
const OTHER: u16 = u16::MAX;

/// The first record of a partition that is not let in.
struct Held {
    offset: i64,
    /// When the gate began to hold the partition: nothing has passed since.
    since: Timestamp,
    /// It has waited for its timeout, and goes on waiting.
    overdue: bool,
}

impl Gate {
    /// The operator that knows of no commit yet.
    #[must_use]
    pub fn new(config: &GateConfig) -> Gate {
        Gate {
            groups: config.groups.iter().map(|g| Arc::from(&**g)).collect(),
            timeout: config.timeout,
            on_timeout: config.on_timeout,
            reopen: config.reopen,
            topic: config.topic.clone(),
            next: BTreeMap::new(),
            held: RefCell::default(),
        }
    }

    /// Where a group's offsets for records of this topic are kept.
    fn slot(&self, topic: u16) -> u16 {
        if self.topic.is_some() { OTHER } else { topic }
    }

    fn has_passed(&self, group: usize, topic: u16, offset: i64) -> bool {
        let next = self.next.get(&self.slot(topic)).and_then(|next| next[group]);
        next.is_some_and(|next| next > offset)
    }
}

impl Operator for Gate {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        cx.forward(record);
        Ok(())
    }

    fn gates(&self) -> bool {
        true
    }

    fn admits(&self, record: &Record, now: Timestamp) -> Admits {
        let (topic, offset) = (record.origin.topic, record.origin.offset);
        let mut held = self.held.borrow_mut();
        if (0..self.groups.len()).all(|group| self.has_passed(group, topic, offset)) {
            held.remove(&topic);
            return Admits::Yes;
        }
        let held = held.entry(topic).or_insert(Held { offset, since: now, overdue: false });
        if std::mem::replace(&mut held.offset, offset) != offset {
            held.overdue = false;
        }
        let Some(timeout) = self.timeout else { return Admits::Wait };
        let since = held.since.0.max(record.ts.0.min(now.0));
        if now.0.saturating_sub(since) < timeout.0 {
            return Admits::Wait;
        }
        match self.on_timeout {
            OnTimeout::Wait => {
                held.overdue = true;
                Admits::Wait
            }
            OnTimeout::DeadLetter => Admits::Refuse(Reason::GateTimeout),
            OnTimeout::Fail => Admits::Stop(Reason::GateTimeout),
        }
    }

    fn on_commits(&mut self, commits: &Commits, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let slot = match &self.topic {
            None if cx.input != OTHER => cx.input,
            Some(topic) if **topic == *commits.topic => OTHER,
            None | Some(_) => return Ok(()),
        };
        let next = self.next.entry(slot).or_insert_with(|| vec![None; self.groups.len()]);
        for (_, next) in self.groups.iter().zip(next).filter(|(group, _)| **group == commits.group) {
            *next = match *next {
                Some(before) if self.reopen => Some(before.max(commits.next)),
                _ => Some(commits.next),
            };
        }
        Ok(())
    }

    fn blocked(&self) -> Vec<Blocked> {
        let held = self.held.borrow();
        let of = |(topic, held): (&u16, &Held)| {
            let waits = |group: &usize| !self.has_passed(*group, *topic, held.offset);
            let groups = (0..self.groups.len()).filter(waits).map(|g| Arc::clone(&self.groups[g])).collect();
            let Held { offset, since, overdue } = *held;
            Blocked { topic: *topic, offset, since, overdue, groups }
        };
        // Behind a commit that was told since, nothing is waited for any more: the record passes when it is asked for again.
        held.iter().map(of).filter(|blocked: &Blocked| !blocked.groups.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operators::{Effects, Tally};

    fn gate(settings: serde_json::Value) -> Gate {
        Gate::new(&serde_json::from_value(settings).expect("good settings"))
    }

    fn record(topic: u16, offset: i64, ts: i64) -> Record {
        let mut record = Record::new("k", crate::model::Value::Null, Timestamp(ts));
        (record.origin.topic, record.origin.offset) = (topic, offset);
        record
    }

    fn commit(gate: &mut Gate, input: u16, group: &str, topic: &str, next: i64) {
        let (mut effects, mut tally) = (Effects::default(), Tally::default());
        let mut cx = Cx::new(Timestamp(0), Timestamp::MIN, input, &mut [], &[], &mut effects, &mut tally);
        gate.on_commits(&Commits { group: group.into(), topic: topic.into(), next }, &mut cx).expect("told");
    }

    /// Is the record at this offset of topic 0 let in?
    fn passes(gate: &Gate, offset: i64) -> bool {
        gate.admits(&record(0, offset, 0), Timestamp(0)) == Admits::Yes
    }

    #[test]
    fn a_record_passes_when_every_group_has_committed_past_it() {
        let mut gate = gate(json!({ "groups": ["b", "c"] }));
        assert!(!passes(&gate, 0), "nothing is known");
        commit(&mut gate, 0, "b", "in", 5);
        assert!(!passes(&gate, 0), "c has not committed");
        commit(&mut gate, 0, "c", "in", 3);
        assert_eq!(
            [2, 3, 4].map(|o| passes(&gate, o)),
            [true, false, false],
            "up to the slowest, its next not included"
        );
        assert_eq!(gate.blocked()[0].groups, [Arc::<str>::from("c")], "at 4, b has passed");
        commit(&mut gate, 0, "c", "in", 9);
        assert_eq!(gate.blocked(), [], "nothing is waited for: it passes when it is asked for again");
        assert_eq!([4, 5].map(|o| passes(&gate, o)), [true, false], "up to b's now");
        commit(&mut gate, 1, "b", "other", 99);
        assert!(!passes(&gate, 5), "of another topic");
        assert_eq!(
            gate.admits(&record(1, 5, 0), Timestamp(0)),
            Admits::Wait,
            "c has not committed on that one"
        );
    }

    #[test]
    fn a_group_that_was_set_back_closes_the_gate_unless_the_file_says_otherwise() {
        for (reopen, after) in [(false, [false, false]), (true, [true, true])] {
            let mut gate = gate(json!({ "groups": ["b"], "reopen": reopen }));
            commit(&mut gate, 0, "b", "in", 9);
            assert!(passes(&gate, 7));
            commit(&mut gate, 0, "b", "in", 2);
            assert_eq!([7, 8].map(|o| passes(&gate, o)), after);
            commit(&mut gate, 0, "b", "in", -1);
            assert_eq!(passes(&gate, 0), reopen, "its offsets are gone");
        }
    }

    #[test]
    fn a_topic_of_the_gates_own_stands_for_the_sources() {
        let mut gate = gate(json!({ "groups": ["b"], "topic": "mirror" }));
        commit(&mut gate, 0, "b", "in", 9);
        assert!(!passes(&gate, 0));
        commit(&mut gate, u16::MAX, "b", "mirror", 9);
        assert!(passes(&gate, 8));
    }

    #[test]
    fn a_record_that_has_waited_too_long_is_treated_as_the_file_says() {
        let answer = |on: &str, ts: i64, now: i64| {
            let gate = gate(json!({ "groups": ["b"], "timeout": "10s", "on_timeout": on }));
            assert_eq!(gate.admits(&record(0, 4, ts), Timestamp(1_000)), Admits::Wait);
            let answer = gate.admits(&record(0, 4, ts), Timestamp(now));
            (answer, gate.blocked()[0].overdue)
        };
        assert_eq!(answer("dead_letter", 0, 10_999), (Admits::Wait, false), "held since 1,000");
        assert_eq!(answer("dead_letter", 0, 11_000), (Admits::Refuse(Reason::GateTimeout), false));
        assert_eq!(answer("dead_letter", 5_000, 11_000), (Admits::Wait, false), "written at 5,000");
        assert_eq!(answer("dead_letter", 99_000, 11_000), (Admits::Wait, false), "from the future");
        assert_eq!(answer("fail", 0, 11_000), (Admits::Stop(Reason::GateTimeout), false));
        assert_eq!(answer("wait", 0, 11_000), (Admits::Wait, true));
    }
}
