//! Events of a group member, handed to the event handler on the poller's thread, one at a time.

use std::sync::mpsc::SyncSender;

use super::PartitionReader;
use crate::kafka::{ErrorKind, TopicPartition};

/// What happens to this member of the group.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are ours now. Only the new ones are listed: those of earlier events stay.
    Assigned {
        /// Increases with every event. Every ack should carry it, so that acks of an earlier assignment are recognised.
        generation: u64,
        /// Partition and its reader, in order of topic and partition.
        partitions: Vec<(TopicPartition, PartitionReader)>,
    },
    /// These partitions are taken from us: stop their input, commit, drop their readers, then send on `done` or drop
    /// it.
    Revoked {
        /// The partitions, in order.
        partitions: Vec<TopicPartition>,
        /// They are lost already (the session has expired): drop them without committing.
        lost: bool,
        /// The poller waits for it, up to [`super::GroupOptions::revoke_deadline`].
        done: SyncSender<()>,
    },
    /// We are a member but have no partition: there are more members than partitions.
    Idle,
    /// Partitions were assigned, but their committed offsets cannot be looked up yet. `Assigned` or `Revoked` follows.
    Waiting(String),
    /// Something is wrong. The reader goes on, unless it is [`ErrorKind::Fatal`].
    Error(GroupError),
    /// The last event: the member has left the group, and its thread ends.
    Closed,
}

/// An error of the group's client.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct GroupError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// For logs and status pages.
    pub message: String,
}
