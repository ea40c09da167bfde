//! The topics of a topology at its start: source topics are waited for, internal topics are created if they do not
//! exist.
//!
//! Called by the engine before any record is read. A topic with a wrong number of partitions is an error; a broker that
//! does not answer is waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::wait::{blocking, pause, unless_stopped};
use super::{EngineError, Shared};
use crate::kafka::{Admin, KafkaConfig, MESSAGE_BYTES_MAX, TopicSpec};
use crate::model::Problem;
use crate::runtime::layout::record;
use crate::topology::{Home, Topology};

pub(super) async fn open_admin(config: &KafkaConfig) -> Result<Arc<Admin>, EngineError> {
    let config = config.clone();
    blocking(move || Admin::open(&config, Duration::from_secs(5)))
        .await
        .map(Arc::new)
        .map_err(|e| EngineError::Failed(e.to_string()))
}

/// Partition counts of the source topics; waits for topics that do not exist and brokers that do not answer.
pub(super) async fn wait_topics(
    admin: &Arc<Admin>,
    topics: &[String],
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<BTreeMap<String, i32>, EngineError> {
    loop {
        let (asked, names) = (Arc::clone(admin), topics.to_vec());
        let look = blocking(move || asked.topics(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        let found = unless_stopped(stop, look).await?;
        match found {
            Ok(found) => {
                let missing: Vec<&str> =
                    found.iter().filter(|(_, n)| n.is_none()).map(|(name, _)| name.as_str()).collect();
                if missing.is_empty() {
                    shared.go_on();
                    return Ok(found.into_iter().filter_map(|(name, n)| Some((name, n?))).collect());
                }
                let what = format!(
                    "the topic `{}` does not exist: create it, or correct its name under `sources`",
                    missing.join("`, `")
                );
                shared.wait_for(&what);
            }
            Err(message) => shared.wait_for(&message),
        }
        pause(stop, shared).await?;
    }
}

/// Changelogs, repartition topics and the dead-letter topic: how each is created, and what is wrong if it exists with
/// another number of partitions (empty if that does not matter).
fn specs(topology: &Topology, plan: &Plan, plain: bool) -> Vec<(TopicSpec, String)> {
    let mut specs = Vec::new();
    for (sub, changelog) in plan.changelogs.iter().enumerate() {
        let (Some(name), Some(source)) = (changelog, topology.subs[sub].topics.first()) else { continue };
        let partitions = plan.counts.get(source).copied().unwrap_or(1);
        // Tombstones are retained for a day: otherwise a store that is behind would keep deleted rows (see
        // `restore.rs`).
        let spec = TopicSpec::new(&**name, partitions)
            .with("cleanup.policy", "compact")
            .with("delete.retention.ms", "86400000")
            .with("max.message.bytes", MESSAGE_BYTES_MAX.to_string());
        let wrong = format!(
            "the topic `{source}` has {partitions}: state belongs to a partition, so they must be equal. Start under a \
             new name, or remove the state with `slackwater reset`"
        );
        specs.push((spec, wrong));
    }
    for repartition in topology.repartitions() {
        let partitions = plan.counts.get(&repartition.topic).copied().unwrap_or(1);
        // Only consumed records are deleted. The records' own timestamps are kept, whatever the broker's default.
        let spec = TopicSpec::new(repartition.topic, partitions)
            .with("cleanup.policy", "delete")
            .with("retention.ms", "-1")
            .with("retention.bytes", "-1")
            .with("segment.bytes", "52428800")
            .with("max.message.bytes", MESSAGE_BYTES_MAX.to_string())
            .with("message.timestamp.type", "CreateTime");
        let wrong = format!(
            "the topics beside or above it have {partitions}: they must be equal. Stop every instance and remove the \
             topology's topics with `slackwater reset`"
        );
        specs.push((spec, wrong));
    }
    let kept = topology.layout(Home::Topics);
    if !plain && !kept.is_empty() {
        specs.push((record::spec(topology), String::new()));
    }
    if let (Some(dead_letter), false) = (topology.dead_letter_topic(), plain) {
        // It must accept every record that we could read, and the headers with the reason. A dead letter has its record's
        // time, so with a limit of time those of old records would be deleted at once.
        let spec = TopicSpec::new(dead_letter, 1)
            .with("retention.ms", "-1")
            .with("max.message.bytes", MESSAGE_BYTES_MAX.to_string());
        specs.push((spec, String::new()));
    }
    for (spec, _) in &mut specs {
        spec.replication = topology.settings.state.replication.unwrap_or(-1);
    }
    specs
}

/// Creates internal topics that are missing, and waits until the broker shows them. A changelog or repartition topic
/// with another number of partitions is an error.
pub(super) async fn make_topics(
    admin: &Arc<Admin>,
    topology: &Topology,
    plan: &Plan,
    shared: &Shared,
    stop: &CancellationToken,
    plain: bool,
) -> Result<(), EngineError> {
    let specs = specs(topology, plan, plain);
    loop {
        let asked = Arc::clone(admin);
        let wanted: Vec<TopicSpec> = specs.iter().map(|(spec, _)| spec.clone()).collect();
        let make = blocking(move || {
            let names: Vec<&str> = wanted.iter().map(|s| s.name.as_str()).collect();
            let found = asked.topics(&names)?;
            let missing: Vec<TopicSpec> = wanted
                .iter()
                .filter(|s| found.iter().any(|(name, n)| *name == s.name && n.is_none()))
                .cloned()
                .collect();
            asked.create_topics(&missing).map(|()| found)
        });
        let found = unless_stopped(stop, make).await?;
        match found {
            Ok(found) => {
                for ((spec, wrong), (_, have)) in specs.iter().zip(&found) {
                    if let Some(have) = have
                        && *have != spec.partitions
                        && !wrong.is_empty()
                    {
                        let message = format!("the topic `{}` has {have} partitions and {wrong}", spec.name);
                        let problem = Problem::new("state::partitions", message).field("name");
                        return Err(EngineError::Unfit(vec![problem]));
                    }
                }
                shared.go_on();
                if found.iter().all(|(_, have)| have.is_some()) {
                    return Ok(());
                }
                // Just created: the group is joined when all brokers know them.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(message) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::SinkConfig;
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::topology::{DeadLetter, Errors, Settings, TopologyBuilder};

    #[test]
    fn a_dead_letter_of_an_old_record_stays() {
        let errors = Errors { dead_letter: Some(DeadLetter { topic: "t.dlq".into() }), on_failure: None };
        let source = KafkaSource { topic: Some("in".into()), ..KafkaSource::default() };
        let topology = TopologyBuilder::new("t")
            .settings(Settings { errors, ..Settings::default() })
            .source("in", SourceConfig::Kafka(source))
            .sink("out", ["in"], SinkConfig::as_they_are("out"))
            .build()
            .expect("is sound");
        let specs = specs(&topology, &Plan::local(&topology), false);
        let dead_letter = specs.iter().find(|(spec, _)| spec.name == "t.dlq").expect("is made");
        assert_eq!(dead_letter.0.config.get("retention.ms").map(String::as_str), Some("-1"));
        assert!(
            !self::specs(&topology, &Plan::local(&topology), true).iter().any(|(s, _)| s.name == "t.dlq")
        );
    }
}
