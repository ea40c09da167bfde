//! Purges repartition topics: records that their readers have committed are deleted, so that the topics do not grow for
//! ever.
//!
//! Called by the engine, one loop per process. Each instance purges the partitions that it owns, at a slow pace, and
//! only up to the offsets that the group has committed on the broker, so after a crash at any moment every record that
//! is needed is there. A failure only delays the purge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::{Admin, AdminError, GroupOffset, TopicPartition};
use crate::runtime::every::every;
use crate::runtime::task::TaskId;

/// Checkpoints between two purges.
const CHECKPOINTS: u32 = 10;
/// The shortest time between two purges.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// The time between purges for a time between checkpoints.
pub(in crate::runtime) fn purge_every(checkpoint: Duration) -> Duration {
    checkpoint.saturating_mul(CHECKPOINTS).max(EVERY_MIN)
}

/// Deletes committed records from repartition topics.
pub(in crate::runtime) struct Purge {
    /// Its calls block.
    pub admin: Arc<Admin>,
    /// The consumer group.
    pub group: String,
    /// Repartition topics, each with the sub-topology that reads it.
    pub topics: Vec<(usize, Arc<str>)>,
    /// The tasks of this instance.
    pub ours: Box<dyn Fn() -> BTreeSet<TaskId> + Send + Sync>,
    /// Time between two purges.
    pub every: Duration,
}

impl Purge {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut done: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        every(self.every, "what can be purged of repartition topics", stop, move || {
            let partitions = self.partitions();
            done.retain(|p, _| partitions.contains(p));
            match once(&self.admin, &self.group, &partitions, &done) {
                Ok(purged) => done.extend(purged),
                Err(error) => tracing::debug!(%error, "repartition topics are purged later"),
            }
        })
        .await;
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        let ours = (self.ours)();
        let of = |topic: &Arc<str>, id: &TaskId| TopicPartition::new(Arc::clone(topic), id.partition);
        self.topics
            .iter()
            .flat_map(|(sub, topic)| ours.iter().filter(|id| id.sub == *sub).map(|id| of(topic, id)))
            .collect()
    }
}

/// Deletes the records committed since the last purge; returns up to where.
fn once(
    admin: &Admin,
    group: &str,
    partitions: &[TopicPartition],
    before: &BTreeMap<TopicPartition, i64>,
) -> Result<Vec<(TopicPartition, i64)>, AdminError> {
    let committed = admin.committed(group, partitions)?;
    let due = due(partitions, &committed, before);
    if !due.is_empty() {
        admin.delete_records(&due)?;
    }
    Ok(due)
}

fn due(
    partitions: &[TopicPartition],
    committed: &[GroupOffset],
    before: &BTreeMap<TopicPartition, i64>,
) -> Vec<(TopicPartition, i64)> {
    partitions
        .iter()
        .zip(committed)
        .filter_map(|(p, offset)| match offset {
            GroupOffset::At(next) if *next > before.get(p).copied().unwrap_or(0) => Some((p.clone(), *next)),
            GroupOffset::At(_) | GroupOffset::None | GroupOffset::Pending => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_committed_and_not_purged_yet_is_due() {
        let p: Vec<_> = (0..5).map(|n| TopicPartition::new("t", n)).collect();
        let committed = [
            GroupOffset::At(0),
            GroupOffset::At(7),
            GroupOffset::None,
            GroupOffset::Pending,
            GroupOffset::At(9),
        ];
        let before = BTreeMap::from([(p[1].clone(), 6), (p[4].clone(), 9)]);
        assert_eq!(due(&p, &committed, &before), [(p[1].clone(), 7)]);
        assert_eq!(purge_every(Duration::from_millis(20)), EVERY_MIN);
        assert_eq!(purge_every(Duration::from_secs(1)), Duration::from_secs(10));
    }
}
