//! What an engine has found out about its topics, and what follows for its tasks. Made once per start, then only read:
//! by the threads that route the group's events and by the start of the workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kafka::TopicPartition;
use crate::runtime::task::TaskId;
use crate::topology::{Changelog, Guarantee, SubTopology, Topology};

/// The topics as they are, and what follows for the tasks.
pub(super) struct Plan {
    /// The group's topics, in the order in which records count them.
    pub(super) topics: Vec<Arc<str>>,
    /// Partitions by topic.
    pub(super) counts: BTreeMap<String, i32>,
    /// Sub-topology and index in it, by topic.
    pub(super) places: BTreeMap<String, (usize, usize)>,
    /// Changelog by sub-topology.
    pub(super) changelogs: Arc<Vec<Option<Arc<str>>>>,
    pub(super) transactions: bool,
    /// By sub-topology: its topics must have as many partitions as now. It has state, or writes a repartition topic, or
    /// reads topics together.
    pub(super) fixed: Vec<bool>,
}

impl Plan {
    pub(super) fn local(topology: &Topology) -> Plan {
        Plan {
            topics: Vec::new(),
            counts: BTreeMap::new(),
            places: BTreeMap::new(),
            changelogs: Arc::new(vec![None; topology.subs.len()]),
            transactions: false,
            fixed: vec![false; topology.subs.len()],
        }
    }

    pub(super) fn new(topology: &Topology, counts: BTreeMap<String, i32>, plain: bool) -> Plan {
        let on = topology.settings.state.changelog == Changelog::On && !plain;
        let mut places = BTreeMap::new();
        let mut changelogs = Vec::new();
        for (sub, part) in topology.subs.iter().enumerate() {
            for (at, topic) in part.topics.iter().enumerate() {
                places.insert(topic.clone(), (sub, at));
            }
            changelogs.push(topology.changelog(sub).filter(|_| on).map(|name| name.as_str().into()));
        }
        let repartitions = topology.repartitions();
        let writes = |sub: &SubTopology| repartitions.iter().any(|r| sub.nodes.contains(&r.sink));
        let fixed = topology.subs.iter().zip(&changelogs);
        let fixed = fixed.map(|(sub, log)| log.is_some() || sub.topics.len() > 1 || writes(sub)).collect();
        let topics: Vec<Arc<str>> = topology.source_topics().iter().map(|t| t.as_str().into()).collect();
        Plan {
            // With global tables alone, there is no group whose offsets a transaction could contain.
            transactions: !plain
                && !topics.is_empty()
                && (changelogs.iter().any(Option::is_some)
                    || topology.settings.guarantee == Guarantee::ExactlyOnce),
            topics,
            counts,
            places,
            changelogs: Arc::new(changelogs),
            fixed,
        }
    }

    /// Partitions of the topics that a sub-topology reads; 1 where it reads none.
    pub(super) fn partitions(&self, topology: &Topology, sub: usize) -> i32 {
        let counts = topology.subs[sub].topics.iter().filter_map(|topic| self.counts.get(topic));
        counts.copied().max().unwrap_or(1)
    }

    /// The worker, of so many, that has a task for as long as the engine runs.
    pub(super) fn worker_of(id: TaskId, workers: usize) -> usize {
        usize::try_from(id.partition).unwrap_or(0).wrapping_add(id.sub) % workers
    }

    /// The task that reads a partition. None does where the topic has grown and must not.
    pub(super) fn task(&self, partition: &TopicPartition) -> Option<(TaskId, usize)> {
        let (sub, at) = self.places.get(&*partition.topic)?;
        let count = self.counts.get(&*partition.topic).copied().unwrap_or(i32::MAX);
        if self.fixed[*sub] && partition.partition >= count {
            return None;
        }
        Some((TaskId { sub: *sub, partition: partition.partition }, *at))
    }
}
