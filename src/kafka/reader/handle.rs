//! Committing for a group, from any thread: the member's identity for transactions, and plain commits of offsets.
//!
//! Used by the commit threads. Invariants: offsets are next offsets; an identity is given out only while the member is in
//! its group; nothing here waits for the poller.

use std::sync::Weak;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::context::Context;
use crate::kafka::config::KafkaConfig;
use crate::kafka::{Quiet, TopicPartition, ffi};

/// Why offsets were not committed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot commit offsets: {message}")]
pub struct CommitError {
    /// The group has rebalanced: the next assignment decides, so do not repeat this commit.
    pub rebalanced: bool,
    /// The same commit may work later.
    pub retriable: bool,
    /// For logs.
    pub message: String,
}

impl CommitError {
    fn new(error: &KafkaError) -> CommitError {
        use RDKafkaErrorCode as E;
        let code = error.rdkafka_error_code();
        CommitError {
            rebalanced: matches!(
                code,
                Some(
                    E::IllegalGeneration
                        | E::UnknownMemberId
                        | E::RebalanceInProgress
                        | E::FencedInstanceId
                        | E::StaleMemberEpoch
                        | E::AssignmentLost
                )
            ),
            retriable: matches!(
                code,
                Some(
                    E::BrokerTransportFailure
                        | E::AllBrokersDown
                        | E::OperationTimedOut
                        | E::RequestTimedOut
                        | E::WaitingForCoordinator
                        | E::CoordinatorLoadInProgress
                        | E::CoordinatorNotAvailable
                        | E::NotCoordinator
                        | E::UnstableOffsetCommit
                        | E::NotEnoughReplicas
                        | E::NetworkException
                )
            ),
            message: error.to_string(),
        }
    }
}

/// The member's id and generation, for [`crate::kafka::TxnWriter::commit`]. Take it fresh for every commit.
pub struct GroupMetadata(pub(in crate::kafka) ConsumerGroupMetadata);

impl GroupMetadata {
    /// The identity of no member: while a group has no members, it accepts offsets with this one.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn of_nobody(config: &KafkaConfig, group: &str) -> Result<GroupMetadata, String> {
        let consumer: BaseConsumer<Quiet> =
            config.restore(group).create_with_context(Quiet::default()).map_err(|e| e.to_string())?;
        let metadata = consumer.group_metadata().ok_or("a consumer without a group")?;
        Ok(GroupMetadata(metadata))
    }
}

/// Commits for a group, from any thread. It may outlive the group's reader.
#[derive(Clone)]
pub struct GroupHandle {
    pub(super) consumer: Weak<BaseConsumer<Context>>,
}

impl GroupHandle {
    /// The member's identity for a transaction. `None` while it is not a member: the reader is closed, or the session
    /// was lost and it has not joined again. (Its identity would then be empty, and a broker accepts a transaction's
    /// offsets from any client that shows no identity.)
    ///
    /// If a partition's [`super::Lease`] is not over *after* this call, it is safe to commit for the partition with
    /// this identity: the partition can only be given away in a later generation of the group, which refuses this
    /// identity.
    #[must_use]
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        let consumer = self.consumer.upgrade()?;
        let before = ffi::membership(consumer.client())?;
        let metadata = consumer.group_metadata()?;
        (ffi::membership(consumer.client())? == before).then_some(GroupMetadata(metadata))
    }

    /// Commits next offsets and waits for the broker (1-15 ms; longer while it is away). Pass only partitions that are
    /// ours, since the broker does not check that.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let Some(consumer) = self.consumer.upgrade() else {
            let message = "the reader is closed".to_owned();
            return Err(CommitError { rebalanced: true, retriable: false, message });
        };
        let list = offset_list(offsets).map_err(|e| CommitError::new(&e))?;
        consumer.commit(&list, CommitMode::Sync).map_err(|e| CommitError::new(&e))
    }
}

/// A list of next offsets, for one call.
pub(in crate::kafka) fn offset_list(offsets: &[(TopicPartition, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (p, next) in offsets {
        list.add_partition_offset(&p.topic, p.partition, Offset::Offset(*next))?;
    }
    Ok(list)
}
