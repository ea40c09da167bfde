//! This instance's share of a limit with `scope: cluster`: its partitions among all.
//!
//! The group's poller calls this at every change of the assignment. It counts the tasks of all sub-topologies that use
//! the limit. A task belongs to one instance at a time, so the shares of all instances never sum to more than 1. Within
//! the process, all tasks take from one limiter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::limiter::Limiter;
use crate::operators::RateScope;
use crate::runtime::task::TaskId;
use crate::topology::Topology;

/// This instance's share of every cluster-wide limit, with the sub-topologies that use the limit.
#[derive(Default)]
pub(in crate::runtime) struct Shares(Vec<(Arc<Limiter>, Users)>);

impl Shares {
    /// The limits of a topology, given the number of partitions of its topics.
    pub(in crate::runtime) fn new(
        topology: &Topology,
        limiters: &BTreeMap<String, Arc<Limiter>>,
        counts: &BTreeMap<String, i32>,
    ) -> Shares {
        let mut all = Vec::new();
        for (name, limiter) in limiters {
            let Some(config) = topology.settings.rate_limits.get(name) else { continue };
            if config.scope != RateScope::Cluster {
                continue;
            }
            let users = Users::new(topology, name, counts);
            if users.0.is_empty() {
                // Sources without partitions run in this instance only: it has the whole limit.
                limiter.set_share(1.0);
            } else {
                all.push((Arc::clone(limiter), users));
            }
        }
        Shares(all)
    }

    /// Sets the tasks of this instance.
    pub(in crate::runtime) fn set(&self, ours: &BTreeSet<TaskId>) {
        for (limiter, users) in &self.0 {
            limiter.set_share(users.share(ours));
        }
    }
}

/// For one limit, the sub-topologies with partitions that use it, each with its number of tasks.
#[derive(Debug, PartialEq, Eq)]
struct Users(BTreeMap<usize, i32>);

impl Users {
    fn new(topology: &Topology, limit: &str, counts: &BTreeMap<String, i32>) -> Users {
        let users = topology.limit_users(limit).into_iter().filter_map(|sub| {
            let topics = &topology.subs[sub].topics;
            let most = topics.iter().filter_map(|topic| counts.get(topic)).max();
            (!topics.is_empty()).then(|| (sub, most.copied().unwrap_or(1).max(1)))
        });
        Users(users.collect())
    }

    #[expect(clippy::cast_precision_loss, reason = "partition counts are small")]
    fn share(&self, ours: &BTreeSet<TaskId>) -> f64 {
        let all: i32 = self.0.values().sum();
        let mine = ours.iter().filter(|id| self.0.contains_key(&id.sub)).count();
        mine as f64 / f64::from(all.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Rate, Template};
    use crate::operators::enrich::HttpConfig;
    use crate::operators::{EnrichConfig, NodeConfig, RateLimitConfig};
    use crate::sinks::{BlackholeConfig, SinkConfig};
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::topology::{Settings, TopologyBuilder};

    /// Sub-topologies `topic` or `topic limit`, each a source and, with a limit, one that calls.
    fn topology(subs: &[&str]) -> Topology {
        let limit = RateLimitConfig { limit: Rate { per_second: 100.0 }, scope: RateScope::Cluster };
        let mut settings = Settings::default();
        settings.rate_limits.extend([("x".to_owned(), limit), ("y".to_owned(), limit)]);
        let mut builder = TopologyBuilder::new("t").settings(settings);
        for sub in subs {
            let (topic, limit) = sub.split_once(' ').unwrap_or((sub, ""));
            let source = KafkaSource { topic: Some(topic.into()), ..KafkaSource::default() };
            builder = builder.source(topic, SourceConfig::Kafka(source));
            let mut last = topic.to_owned();
            if !limit.is_empty() {
                last = format!("call-{topic}");
                let url = Template::new("http://localhost/x", None).expect("is a template");
                let mut config = EnrichConfig::new(HttpConfig::get(url), ".x".parse().expect("a path"));
                config.rate_limit = Some(limit.into());
                builder = builder.operator(&last, [topic], NodeConfig::Enrich(config));
            }
            let sink = SinkConfig::Blackhole(BlackholeConfig::default());
            builder = builder.sink(format!("out-{topic}"), [last], sink);
        }
        builder.build().expect("the graph is sound")
    }

    fn tasks(ids: &[(usize, i32)]) -> BTreeSet<TaskId> {
        ids.iter().map(|(sub, partition)| TaskId { sub: *sub, partition: *partition }).collect()
    }

    /// The share of the limit `x` of an instance with these tasks, where `a` has 4 partitions, `b` 2 and `c` 1.
    #[track_caller]
    fn check(subs: &[&str], ours: &[(usize, i32)], share: f64) {
        let counts = [("a".to_owned(), 4), ("b".to_owned(), 2), ("c".to_owned(), 1)].into();
        let users = Users::new(&topology(subs), "x", &counts);
        assert!((users.share(&tasks(ours)) - share).abs() < 1e-9, "{users:?} {ours:?}");
    }

    #[test]
    fn every_sub_topology_that_uses_a_limit_counts() {
        check(&["a x"], &[(0, 0)], 0.25);
        check(&["a x"], &[(0, 0), (0, 1), (0, 2), (0, 3)], 1.0);
        let two: &[&str] = &["a x", "b x", "c"];
        check(two, &[], 0.0);
        check(two, &[(0, 0)], 1.0 / 6.0);
        check(two, &[(1, 1)], 1.0 / 6.0);
        check(two, &[(0, 3), (1, 0), (1, 1)], 0.5);
        check(two, &[(0, 3), (2, 0)], 1.0 / 6.0);
        check(&["a y", "b x"], &[(0, 0), (0, 1), (1, 0)], 0.5);
    }

    #[test]
    fn the_shares_of_all_instances_are_never_more_than_the_limit() {
        let counts = [("a".to_owned(), 4), ("b".to_owned(), 2), ("c".to_owned(), 1)].into();
        let users = Users::new(&topology(&["a x", "b x", "c x"]), "x", &counts);
        let all: Vec<(usize, i32)> = vec![(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0)];
        for instances in 1..=8usize {
            // Ways to distribute the seven tasks.
            for deal in (0..instances.pow(7)).step_by(97) {
                let owner = |n: usize| deal / instances.pow(u32::try_from(n).expect("small")) % instances;
                let shares = (0..instances).map(|i| {
                    let ours: Vec<_> =
                        all.iter().enumerate().filter(|(n, _)| owner(*n) == i).map(|(_, id)| *id).collect();
                    users.share(&tasks(&ours))
                });
                let sum: f64 = shares.sum();
                assert!((sum - 1.0).abs() < 1e-9, "{instances} instances, deal {deal}: {sum}");
            }
        }
    }
}
