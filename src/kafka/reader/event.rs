//! What a member of a group tells its owner: handed to the event handler on the poller's thread, one at a time.

use std::sync::mpsc::SyncSender;

use super::PartitionReader;
use crate::kafka::{ErrorKind, TopicPartition};

/// What happens to this member of the group. Handed to the event handler on the poller's thread.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are ours now. Only the new ones: those of earlier events stay.
    Assigned {
        /// Counts up with every event; every ack should carry it.
        generation: u64,
        /// Partition and its reader, in order of topic and partition.
        partitions: Vec<(TopicPartition, PartitionReader)>,
    },
    /// These partitions go. Stop their input, commit, drop their readers, then send or drop `done`.
    Revoked {
        /// The partitions, in order.
        partitions: Vec<TopicPartition>,
        /// They are gone already (session lost): drop without committing.
        lost: bool,
        /// The poller waits for it, up to [`super::GroupOptions::revoke_deadline`].
        done: SyncSender<()>,
    },
    /// Member of the group without any partition: there are more members than partitions.
    Idle,
    /// Partitions were assigned, but where their group left off cannot be found out yet. `Assigned` or `Revoked` follows.
    Waiting(String),
    /// Something is wrong. The reader goes on, except after [`ErrorKind::Fatal`].
    Error(GroupError),
    /// The last event: the member has left, its thread ends.
    Closed,
}

/// An error of the group's client.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct GroupError {
    /// What it is about.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}
