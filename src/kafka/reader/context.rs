//! What librdkafka's callbacks know and do: which partitions this member has, and how they are given away.
//!
//! Runs on the poller's thread, and on the thread that drops the consumer last. Invariants: a partition is fresh
//! (assigned, not handed over to the runtime yet), live (handed over), or not ours; a revoke returns when the runtime
//! has let go of the partitions, or at its deadline; once closed, callbacks do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, TopicPartitionList};

use super::GroupEvent;
use crate::kafka::remind::Lost;
use crate::kafka::{TopicPartition, ffi, log};

/// The state that the callbacks share with the poller.
pub(super) struct Context {
    pub(super) on_event: Box<dyn Fn(GroupEvent) + Send + Sync>,
    pub(super) group: String,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) revoke_deadline: Duration,
    pub(super) lost: Lost,
    /// Set when the reader is closed: callbacks do nothing any more.
    pub(super) closed: AtomicBool,
    /// Locked by the poller's callbacks only, for moments; never while an event is handed over.
    pub(super) members: Mutex<Members>,
}

#[derive(Default)]
pub(super) struct Members {
    /// Assigned, not handed over yet: their committed offsets are being looked up.
    pub(super) fresh: BTreeSet<TopicPartition>,
    /// Handed over to the runtime. The flag tells a partition's reader and its [`super::Lease`] that the assignment is
    /// over.
    pub(super) live: BTreeMap<TopicPartition, Arc<AtomicBool>>,
    pub(super) generation: u64,
    /// Nothing is assigned, and the runtime was not told yet.
    pub(super) idle: bool,
    /// librdkafka's words for the last error.
    pub(super) reason: String,
}

impl Context {
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn topic(&self, name: &str) -> Arc<str> {
        self.topics.iter().find(|t| &***t == name).cloned().unwrap_or_else(|| Arc::from(name))
    }

    fn owned(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let mut all: Vec<_> = list
            .elements()
            .iter()
            .map(|e| TopicPartition::new(self.topic(e.topic()), e.partition()))
            .collect();
        all.sort();
        all
    }

    /// Tells the runtime, and waits until it has let go of the partitions or the deadline has passed.
    pub(super) fn revoke(&self, partitions: &[TopicPartition], lost: bool) {
        let mut gone = Vec::new();
        {
            let mut members = self.members();
            for partition in partitions {
                members.fresh.remove(partition);
                if let Some(flag) = members.live.remove(partition) {
                    flag.store(lost, Ordering::Release);
                    gone.push((partition.clone(), flag));
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        let (done, answered) = sync_channel(1);
        let partitions = gone.iter().map(|(p, _)| p.clone()).collect();
        (self.on_event)(GroupEvent::Revoked { partitions, lost, done });
        // A dropped sender also counts as an answer.
        if answered.recv_timeout(self.revoke_deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(
                partitions = gone.len(),
                "partitions were not released before the revoke deadline"
            );
        }
        for (_, flag) in gone {
            flag.store(true, Ordering::Release);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    /// librdkafka calls this right before `poll` returns the same error without its text.
    fn error(&self, error: KafkaError, reason: &str) {
        self.lost.note(&error);
        // The end of a partition is reported as an error too, on the worker's thread.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        reason.clone_into(&mut self.members().reason);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.owned(list);
                for p in &partitions {
                    ffi::unforward(consumer.client(), &p.topic, p.partition);
                }
                let mut members = self.members();
                members.idle = partitions.is_empty() && members.live.is_empty() && members.fresh.is_empty();
                members.fresh.extend(partitions);
            }
            Rebalance::Revoke(list) => {
                let partitions = self.owned(list);
                self.revoke(&partitions, consumer.assignment_lost());
            }
            Rebalance::Error(_) => {}
        }
    }
}
