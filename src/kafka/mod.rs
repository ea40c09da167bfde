//! Floor 1: Kafka. The only home of `rdkafka`: reading as a member of a group, writing (plain and in transactions),
//! administration, restoring a changelog, the partition of a key, and librdkafka's mock broker for `dev`.
//!
//! Called by the runtime's drivers and by `cli`. Types that leave this module are ours: no partition list, message or
//! native pointer does. Calls that wait for a broker block their thread and say so, except for one that is async:
//! [`Writer::send_all`].
//!
//! Invariants:
//! - Offsets are *next* offsets everywhere: the offset of the last record plus one.
//! - A broker that cannot be reached is never fatal: clients reconnect by themselves, errors say it meanwhile.
//! - Nothing here knows tasks, epochs or state; the runtime decides what is committed and when.
//! - No topic is created unless [`Admin::create_topics`] is called.

mod admin;
mod config;
mod ffi;
mod follow;
mod member;
mod mock;
mod partition;
mod reader;
mod remind;
mod restore;
mod topic_name;
mod trial;
mod writer;

use std::fmt;
use std::sync::Arc;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::types::RDKafkaErrorCode;

pub use admin::{Admin, AdminError, GroupOffset, TopicSpec};
pub use config::{Assignment, KafkaConfig, MESSAGE_BYTES_MAX, OffsetReset, SecurityProtocol};
pub use follow::{FollowError, Follower, Glance};
pub use member::Member;
pub use mock::MockBroker;
pub use partition::partition_of;
pub use reader::{
    CommitError, GroupError, GroupEvent, GroupHandle, GroupMetadata, GroupOptions, GroupReader, Lease,
    PartitionReader, Polled, ReadError,
};
pub use restore::{Progress, RestoreError, restore};
pub use topic_name::topic_problem;
pub use writer::{
    Committed, Delivery, Messenger, NotSent, OutRecord, Outcome, TxnError, TxnWriter, WriteClass, WriteError,
    WriteReport, Writer,
};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// That partition.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What an error of a client is about. Only [`ErrorKind::Fatal`] ends the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A subscribed topic does not exist. Reported again every few seconds until it does; then it works by itself.
    UnknownTopic(String),
    /// A broker or all of them cannot be reached; the client keeps trying.
    Transport,
    /// Credentials or permissions are wrong.
    Auth,
    /// The client is unusable: make a new one (for example another process took this `group.instance.id`).
    Fatal,
    /// Anything else.
    Other,
}

/// The kind of a librdkafka error that does not name a topic.
fn kind_of(code: RDKafkaErrorCode) -> ErrorKind {
    use RDKafkaErrorCode as E;
    match code {
        E::AllBrokersDown
        | E::BrokerTransportFailure
        | E::Resolve
        | E::OperationTimedOut
        | E::RequestTimedOut
        | E::NetworkException
        | E::BrokerNotAvailable => ErrorKind::Transport,
        E::Authentication
        | E::SSL
        | E::SaslAuthenticationFailed
        | E::UnsupportedSASLMechanism
        | E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed => ErrorKind::Auth,
        E::Fatal => ErrorKind::Fatal,
        _ => ErrorKind::Other,
    }
}

/// Passes librdkafka's log lines on to our log, as WARN at most: it calls many things errors that pass by themselves.
fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    use RDKafkaLogLevel as L;
    match level {
        // A producer setting on a consumer, or the other way round: we set both on purpose.
        _ if facility == "CONFWARN" => {}
        L::Emerg | L::Alert | L::Critical | L::Error | L::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{text}");
        }
        L::Notice | L::Info => tracing::info!(target: "librdkafka", facility, "{text}"),
        L::Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// Context of clients whose calls return their errors: errors are logged, nothing else.
#[derive(Default)]
struct Quiet {
    lost: remind::Lost,
}

impl rdkafka::ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.lost.note(&error);
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl rdkafka::consumer::ConsumerContext for Quiet {}
