//! Horizons: the wall clock time up to which everything has arrived in a repartition topic. Its readers' clocks advance
//! with the wall clock only that far.
//!
//! That a reader is caught up with such a topic says nothing, since the tasks that write it may be hours behind. So one
//! loop per process asks the broker, for each topic in turn: at which offsets do the inputs of its writers end now (at
//! time `at`)? And then, repeatedly: has the group committed all of these? Once it has, everything that came before
//! `at` is in the topic, and a reader that has read up to the topic's present end has everything up to `at`. If an
//! input of the writers is a repartition topic too, the end that was found for that one is used.
//!
//! If a node sends records later than it commits their causes (`emit: final`, a debounce, calls), this cannot be known
//! for the topics below it: the clocks of their readers advance with records only. The result is the same on any number
//! of instances, and a round costs two or three requests per topic.
//!
//! Called by the engine; read by the workers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::{Admin, AdminError, GroupOffset, TopicPartition};
use crate::model::{Clock, SystemClock, Timestamp};
use crate::runtime::every::every;
use crate::topology::{NodeKind, Topology};

/// The shortest time between two rounds.
const EVERY_MIN: Duration = Duration::from_millis(200);
/// The longest.
const EVERY_MAX: Duration = Duration::from_secs(2);

/// A repartition topic whose horizon can be known.
#[derive(Clone, Debug, PartialEq)]
struct Stage {
    topic: Arc<str>,
    partitions: i32,
    /// Other topics that its writers read, with their numbers of partitions.
    external: Vec<(Arc<str>, i32)>,
    /// Repartition topics that its writers read, by index.
    stages: Vec<usize>,
}

/// Offsets, by partition, that everything from before `at` is in front of.
#[derive(Clone, Debug, PartialEq)]
struct Reached {
    at: Timestamp,
    ends: Vec<i64>,
}

/// The horizons found so far, for the workers.
#[derive(Debug, Default)]
pub struct Horizons {
    names: Vec<Arc<str>>,
    reached: Mutex<Vec<Option<Reached>>>,
}

impl Horizons {
    /// The wall clock time up to which a reader of this partition has every record, if it continues at `next`; `None`
    /// if that is not known.
    fn until(&self, stage: usize, partition: i32, next: i64) -> Option<Timestamp> {
        let all = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = all.get(stage)?.as_ref()?;
        let end = *reached.ends.get(usize::try_from(partition).ok()?)?;
        (next >= end).then_some(reached.at)
    }
}

/// One partition of a repartition topic, for its reader.
#[derive(Clone, Debug)]
pub struct Upstream {
    horizons: Arc<Horizons>,
    /// `None` if its horizon can never be known.
    stage: Option<usize>,
    partition: i32,
}

impl Upstream {
    /// The reader's side of a repartition topic.
    #[must_use]
    pub fn new(horizons: &Arc<Horizons>, topic: &str, partition: i32) -> Upstream {
        let stage = horizons.names.iter().position(|name| **name == *topic);
        Upstream { horizons: Arc::clone(horizons), stage, partition }
    }

    /// The wall clock time up to which the reader has every record, if it continues at `next`; `None` if that is not
    /// known.
    #[must_use]
    pub fn until(&self, next: i64) -> Option<Timestamp> {
        self.horizons.until(self.stage?, self.partition, next)
    }
}

/// What must be committed before a stage is known to have everything up to `at`.
#[derive(Clone, Debug, PartialEq)]
struct Goal {
    at: Timestamp,
    ends: Vec<(TopicPartition, i64)>,
}

/// Where the broker's answers come from.
trait Ask {
    fn ends(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError>;
    fn starts(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError>;
    fn committed(&self, of: &[TopicPartition]) -> Result<Vec<GroupOffset>, AdminError>;
}

struct Group {
    admin: Arc<Admin>,
    name: String,
}

impl Ask for Group {
    fn ends(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
        self.admin.end_offsets(of)
    }
    fn starts(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
        self.admin.start_offsets(of)
    }
    fn committed(&self, of: &[TopicPartition]) -> Result<Vec<GroupOffset>, AdminError> {
        self.admin.committed(&self.name, of)
    }
}

/// The loop that finds out the horizons of a topology's repartition topics.
pub(in crate::runtime) struct Horizon {
    stages: Vec<Stage>,
    goals: Vec<Option<Goal>>,
    seen: Arc<Horizons>,
}

impl Horizon {
    /// For a topology's repartition topics, given the number of partitions of every topic.
    pub(in crate::runtime) fn new(topology: &Topology, partitions: impl Fn(&str) -> Option<i32>) -> Horizon {
        let stages = stages(topology, partitions);
        let names = stages.iter().map(|stage| Arc::clone(&stage.topic)).collect();
        let reached = Mutex::new(vec![None; stages.len()]);
        Horizon { goals: vec![None; stages.len()], seen: Arc::new(Horizons { names, reached }), stages }
    }

    /// The horizons as the workers see them.
    pub(in crate::runtime) fn seen(&self) -> Arc<Horizons> {
        Arc::clone(&self.seen)
    }

    /// Whether there is no topic whose horizon can be known.
    pub(in crate::runtime) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Asks the broker until `stop`; `checkpoint` is the time between two commits.
    pub(in crate::runtime) async fn run(
        self,
        admin: Arc<Admin>,
        group: String,
        checkpoint: Duration,
        stop: CancellationToken,
    ) {
        let pause = (checkpoint / 2).clamp(EVERY_MIN, EVERY_MAX);
        let (mut horizon, group) = (self, Group { admin, name: group });
        every(pause, "the horizons of repartition topics", stop, move || {
            if let Err(error) = horizon.round(SystemClock.now(), &group) {
                tracing::debug!(%error, "the wall clock of repartition topics stands still");
            }
        })
        .await;
    }

    fn round(&mut self, now: Timestamp, broker: &impl Ask) -> Result<(), AdminError> {
        for n in 0..self.stages.len() {
            if self.goals[n].is_none() {
                self.goals[n] = self.goal(n, now, broker)?;
            }
            let Some(goal) = &self.goals[n] else { continue };
            if is_committed(&goal.ends, broker)? {
                let stage = &self.stages[n];
                let ends = broker.ends(&all(&stage.topic, stage.partitions))?;
                let reached = Reached { at: goal.at, ends };
                self.seen.reached.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(reached);
                self.goals[n] = None;
            }
        }
        Ok(())
    }

    /// `None` if a stage that its writers read has no horizon yet.
    fn goal(&self, n: usize, now: Timestamp, broker: &impl Ask) -> Result<Option<Goal>, AdminError> {
        let stage = &self.stages[n];
        let (mut at, mut ends) = (now, Vec::new());
        for above in &stage.stages {
            let reached = self.seen.reached.lock().unwrap_or_else(PoisonError::into_inner)[*above].clone();
            let Some(reached) = reached else { return Ok(None) };
            at = at.min(reached.at);
            let above = &self.stages[*above];
            ends.extend(all(&above.topic, above.partitions).into_iter().zip(reached.ends));
        }
        let external: Vec<TopicPartition> =
            stage.external.iter().flat_map(|(topic, partitions)| all(topic, *partitions)).collect();
        let found = broker.ends(&external)?;
        ends.extend(external.into_iter().zip(found));
        Ok(Some(Goal { at, ends }))
    }
}

fn all(topic: &Arc<str>, partitions: i32) -> Vec<TopicPartition> {
    (0..partitions).map(|partition| TopicPartition::new(Arc::clone(topic), partition)).collect()
}

fn is_committed(ends: &[(TopicPartition, i64)], broker: &impl Ask) -> Result<bool, AdminError> {
    let partitions: Vec<TopicPartition> = ends.iter().map(|(p, _)| p.clone()).collect();
    let committed = broker.committed(&partitions)?;
    let mut nothing = Vec::new();
    for ((partition, end), offset) in ends.iter().zip(committed) {
        match offset {
            GroupOffset::At(next) if next >= *end => {}
            // An empty partition has no commit.
            GroupOffset::None => nothing.push((partition.clone(), *end)),
            GroupOffset::At(_) | GroupOffset::Pending => return Ok(false),
        }
    }
    if nothing.is_empty() {
        return Ok(true);
    }
    let partitions: Vec<TopicPartition> = nothing.iter().map(|(p, _)| p.clone()).collect();
    let starts = broker.starts(&partitions)?;
    Ok(nothing.iter().zip(starts).all(|((_, end), start)| start >= *end))
}

/// The repartition topics whose writers send everything on before they commit its cause; a topic comes after those that
/// its writers read.
fn stages(topology: &Topology, partitions: impl Fn(&str) -> Option<i32>) -> Vec<Stage> {
    let own = topology.repartitions();
    let mut stages: Vec<Stage> = Vec::new();
    // Each round finds those whose inputs are all found already.
    loop {
        let before = stages.len();
        for repartition in &own {
            if stages.iter().any(|stage| *stage.topic == *repartition.topic) {
                continue;
            }
            let Some(topics) = feeding(topology, repartition.sink) else { continue };
            let mut stage = Stage {
                topic: repartition.topic.as_str().into(),
                partitions: partitions(&repartition.topic).unwrap_or(0),
                external: Vec::new(),
                stages: Vec::new(),
            };
            let known = topics.iter().all(|topic| {
                if own.iter().any(|r| r.topic == *topic) {
                    let found = stages.iter().position(|stage| *stage.topic == **topic);
                    stage.stages.extend(found);
                    return found.is_some();
                }
                let count = partitions(topic);
                stage.external.extend(count.map(|count| (topic.as_str().into(), count)));
                count.is_some()
            });
            if known {
                stages.push(stage);
            }
        }
        if stages.len() == before {
            return stages;
        }
    }
}

/// The topics from which a sink's records come; `None` if a node in between holds records, or if they come from
/// elsewhere.
fn feeding(topology: &Topology, sink: usize) -> Option<Vec<String>> {
    let (mut topics, mut seen, mut next) = (Vec::new(), vec![sink], vec![sink]);
    while let Some(n) = next.pop() {
        let node = &topology.nodes[n];
        match &node.kind {
            NodeKind::Source(source) => {
                let read: Vec<String> = source.topics().into_iter().map(String::from).collect();
                if read.is_empty() {
                    return None;
                }
                topics.extend(read);
            }
            NodeKind::Operator(config) if config.holds_records(&node.plan) => return None,
            // A sink that is read from waits for its rows.
            NodeKind::Sink(_) if n != sink => return None,
            NodeKind::Operator(_) | NodeKind::Sink(_) => {}
        }
        for input in node.inputs.iter().map(|input| input.node) {
            if !seen.contains(&input) {
                seen.push(input);
                next.push(input);
            }
        }
    }
    topics.sort();
    topics.dedup();
    Some(topics)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::model::{Expr, Json};
    use crate::operators::{KeyByConfig, NodeConfig};
    use crate::sinks::{BlackholeConfig, SinkConfig};
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::topology::TopologyBuilder;

    /// Sources `a` and `b`, these operators (name, what it reads, settings; `null` changes the key), and a sink of the last.
    fn topology(operators: &[(&str, &[&str], Json)]) -> Topology {
        let mut builder = TopologyBuilder::new("t");
        for name in ["a", "b"] {
            let source = KafkaSource { topic: Some(name.into()), ..KafkaSource::default() };
            builder = builder.source(name, SourceConfig::Kafka(source));
        }
        for (name, from, settings) in operators {
            let config = match settings {
                Json::Null => NodeConfig::KeyBy(KeyByConfig(Expr::new(".x", None))),
                settings => serde_json::from_value(settings.clone()).expect("are settings"),
            };
            builder = builder.operator(*name, from.iter().copied(), config);
        }
        let last = operators.last().expect("an operator").0;
        let blackhole = || SinkConfig::Blackhole(BlackholeConfig::default());
        builder = builder.sink("out", [last], blackhole()).sink("rest", ["a", "b"], blackhole());
        builder.build().expect("the graph is sound")
    }

    fn of(operators: &[(&str, &[&str], Json)]) -> Vec<(Vec<String>, Vec<usize>)> {
        let stages = stages(&topology(operators), |_| Some(1));
        let names = |list: &[(Arc<str>, i32)]| list.iter().map(|(name, _)| name.to_string()).collect();
        stages.iter().map(|s| (names(&s.external), s.stages.clone())).collect()
    }

    fn count() -> Json {
        json!({ "aggregate": { "count": {} } })
    }

    #[test]
    fn a_stage_knows_what_its_writers_read() {
        let merge = json!({ "merge": {} });
        let one = of(&[("m", &["a", "b"], merge), ("k", &["m"], Json::Null), ("o", &["k"], count())]);
        assert_eq!(one, [(vec!["a".to_owned(), "b".to_owned()], vec![])]);
        let two = of(&[
            ("k", &["a"], Json::Null),
            ("c", &["k"], count()),
            ("j", &["c"], Json::Null),
            ("o", &["j"], count()),
        ]);
        assert_eq!(two, [(vec!["a".to_owned()], vec![]), (vec![], vec![0])]);
    }

    #[test]
    fn behind_a_node_that_holds_records_nothing_is_known() {
        let tumbling = |emit: &str| json!({ "aggregate": { "count": {}, "window": { "tumbling": "1s" }, "emit": emit } });
        let join =
            |kind: &str| json!({ "join": { "with": "b", "type": kind, "within": { "before": "1s" } } });
        for (holds, node) in [
            (true, json!({ "debounce": { "quiet": "1s" } })),
            (true, tumbling("final")),
            (true, join("left")),
            (false, join("inner")),
            (false, tumbling("update")),
            (false, json!({ "dedupe": { "within": "1s" } })),
        ] {
            let stages =
                of(&[("h", &["a"], node.clone()), ("k", &["h"], Json::Null), ("o", &["k"], count())]);
            assert_eq!(stages.is_empty(), holds, "{node}");
        }
    }

    #[derive(Default)]
    struct Broker {
        ends: BTreeMap<(String, i32), i64>,
        starts: BTreeMap<(String, i32), i64>,
        committed: BTreeMap<(String, i32), i64>,
        asked: RefCell<usize>,
    }

    impl Broker {
        fn of(map: &BTreeMap<(String, i32), i64>, p: &TopicPartition) -> Option<i64> {
            map.get(&(p.topic.to_string(), p.partition)).copied()
        }
    }

    impl Ask for Broker {
        fn ends(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
            Ok(of.iter().map(|p| Broker::of(&self.ends, p).unwrap_or(0)).collect())
        }
        fn starts(&self, of: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
            Ok(of.iter().map(|p| Broker::of(&self.starts, p).unwrap_or(0)).collect())
        }
        fn committed(&self, of: &[TopicPartition]) -> Result<Vec<GroupOffset>, AdminError> {
            *self.asked.borrow_mut() += 1;
            let at = |p: &TopicPartition| {
                Broker::of(&self.committed, p).map_or(GroupOffset::None, GroupOffset::At)
            };
            Ok(of.iter().map(at).collect())
        }
    }

    #[test]
    fn a_reader_has_everything_up_to_when_its_writers_had_read_and_committed_it() {
        let topology = topology(&[
            ("k", &["a"], Json::Null),
            ("c", &["k"], count()),
            ("j", &["c"], Json::Null),
            ("o", &["j"], count()),
        ]);
        let mut horizon = Horizon::new(&topology, |_| Some(2));
        let names: Vec<String> = horizon.stages.iter().map(|s| s.topic.to_string()).collect();
        let seen = horizon.seen();
        let first = Upstream::new(&seen, &names[0], 0);
        let second = Upstream::new(&seen, &names[1], 1);
        let mut broker = Broker::default();
        let at = |name: &str, n: i32| (name.to_owned(), n);
        broker.ends.extend([(at("a", 0), 10), (at("a", 1), 5)]);
        broker.starts.insert(at("a", 1), 5);
        broker.committed.insert(at("a", 0), 9);
        horizon.round(Timestamp(100), &broker).unwrap();
        assert_eq!(first.until(i64::MAX), None, "the writers are behind");
        // More has come since: the question is what was there at 100.
        broker.ends.insert(at("a", 0), 50);
        broker.committed.insert(at("a", 0), 10);
        broker.ends.insert(at(&names[0], 0), 7);
        horizon.round(Timestamp(200), &broker).unwrap();
        assert_eq!(first.until(6), None, "the reader is behind");
        assert_eq!(first.until(7), Some(Timestamp(100)));
        assert_eq!(second.until(0), None, "the group has not committed what stands in the first topic");
        broker.committed.extend([(at(&names[0], 0), 7)]);
        broker.ends.insert(at(&names[1], 1), 3);
        horizon.round(Timestamp(300), &broker).unwrap();
        assert_eq!((second.until(2), second.until(3)), (None, Some(Timestamp(100))));
        assert_eq!(first.until(7), Some(Timestamp(100)), "the end is 50 now");
        broker.committed.insert(at("a", 0), 50);
        horizon.round(Timestamp(400), &broker).unwrap();
        assert_eq!(first.until(7), Some(Timestamp(300)));
        assert_eq!(Upstream::new(&seen, "other", 0).until(i64::MAX), None);
        assert!(*broker.asked.borrow() > 0);
    }
}
