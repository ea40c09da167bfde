//! Shared by the commands that ask a Kafka cluster: the connection, and a group's lag.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Exit, UNAVAILABLE};
use crate::kafka::{Admin, AdminError, ErrorKind, GroupOffset, TopicPartition};
use crate::topology::Topology;

/// How long a cluster may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a topology's state is on this machine.
pub(super) fn state_dir(given: Option<&Path>, topology: &Topology) -> PathBuf {
    state_dir_of(given, topology, 1)
}

/// The same for one of `files` topologies in one command: a given directory has a folder for each of several.
pub(super) fn state_dir_of(given: Option<&Path>, topology: &Topology, files: usize) -> PathBuf {
    match given {
        Some(dir) if files == 1 => dir.to_owned(),
        Some(dir) => dir.join(&topology.name),
        None => PathBuf::from("state").join(&topology.name),
    }
}

/// Connects to the topology's cluster.
pub(super) fn open_admin(topology: &Topology) -> Result<Admin, Exit> {
    let Some(config) = &topology.settings.kafka else {
        return Err(Exit::failed(format!("`{}` has no Kafka: nothing to ask", topology.name)));
    };
    if let Some(at) = config.brokers.find("${") {
        let variable = config.brokers[at..].split('}').next().unwrap_or_default();
        return Err(Exit::failed(format!(
            "the address of Kafka is not known: set the environment variable {}",
            variable.trim_start_matches("${")
        )));
    }
    let admin = Admin::open(config, TIMEOUT).map_err(failed)?;
    // Asks at once, so that a cluster that does not answer is reported in these words.
    admin.brokers().map_err(|e| Exit {
        code: UNAVAILABLE,
        message: Some(format!("error: Kafka at {} does not answer: {e}", config.brokers)),
    })?;
    Ok(admin)
}

/// A failed request as the end of a command.
pub(super) fn failed(error: AdminError) -> Exit {
    let code = if error.kind == ErrorKind::Transport { UNAVAILABLE } else { super::FAILED };
    Exit { code, message: Some(format!("error: {error}")) }
}

/// A topic that the group reads.
pub(super) struct TopicLag {
    /// Its name.
    pub topic: String,
    /// Whether it is one of the topology's own.
    pub internal: bool,
    /// Whether it exists.
    pub exists: bool,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionLag>,
}

/// One partition of it.
pub(super) struct PartitionLag {
    /// Its number.
    pub partition: i32,
    /// The first offset that is still retained.
    pub start: i64,
    /// The group's committed offset.
    pub committed: GroupOffset,
    /// The end offset, as readers of committed records see it.
    pub end: i64,
}

impl PartitionLag {
    /// Offsets not committed yet; `None` while the committed offset is part of an open transaction.
    pub(super) fn lag(&self) -> Option<i64> {
        let from = match self.committed {
            GroupOffset::At(next) => next.max(self.start),
            GroupOffset::None => self.start,
            GroupOffset::Pending => return None,
        };
        Some((self.end - from).max(0))
    }
}

/// The group's committed offsets and the ends of every topic that it reads.
pub(super) fn lags(admin: &Admin, topology: &Topology) -> Result<Vec<TopicLag>, Exit> {
    let topics = topology.source_topics();
    let external = topology.external_topics();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut out = Vec::new();
    for (topic, count) in admin.topics(&names).map_err(failed)? {
        let partitions: Vec<TopicPartition> =
            (0..count.unwrap_or(0)).map(|p| TopicPartition::new(topic.as_str(), p)).collect();
        let committed = admin.committed(&topology.name, &partitions).map_err(failed)?;
        let starts = admin.start_offsets(&partitions).map_err(failed)?;
        let ends = admin.end_offsets(&partitions).map_err(failed)?;
        let partitions = partitions
            .iter()
            .zip(committed)
            .zip(starts.into_iter().zip(ends))
            .map(|((p, committed), (start, end))| PartitionLag {
                partition: p.partition,
                start,
                committed,
                end,
            })
            .collect();
        out.push(TopicLag {
            internal: !external.contains(&topic),
            exists: count.is_some(),
            topic,
            partitions,
        });
    }
    Ok(out)
}
