//! Request and reply: a request waits here for the message that answers it, at whichever instance that was made.
//!
//! A request carries its id in a header ([`super::produce::ID_HEADER`]), which travels with everything that is made of it. A waiter is
//! registered before the request is sent ([`Replies::wait`]). One thread reads the reply topics of all endpoints of a
//! topology (`reader`) and hands each reply to those that wait for its id (`waiters`). `ask` is the handler of an endpoint: it sends
//! the request and makes the answer of the reply.

mod ask;
mod reader;
mod waiters;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) use ask::Ask;
pub use reader::REPLY_TO;
pub use waiters::{Full, Reply, Waiter, Waiters};

use self::reader::Reading;
use crate::kafka::KafkaConfig;
use crate::runtime::EngineHandle;
use crate::runtime::metrics::ReplyMetrics;

/// The replies of a topology in this instance. Dropping it ends the reading.
pub struct Replies {
    waiters: Arc<Waiters>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    instance: String,
    metrics: ReplyMetrics,
}

impl Replies {
    /// The replies of a topology's endpoints; `None`: none of them waits for any.
    ///
    /// # Errors
    /// As [`Replies::start`].
    pub(super) fn of_topology(kafka: &KafkaConfig, engine: &EngineHandle) -> Result<Option<Replies>, String> {
        let topology = engine.topology();
        let replies = topology.settings.endpoints.values().filter_map(|endpoint| endpoint.reply.as_ref());
        let topics: BTreeSet<String> = replies.flat_map(|reply| reply.topics.keys().cloned()).collect();
        if topics.is_empty() {
            return Ok(None);
        }
        // Only told apart from others: no two runs have the same.
        let instance = crate::gateway::identity::new_id();
        let group = format!("{}-replies", topology.name);
        Replies::start(kafka, &group, &topics, &instance, engine.metrics().replies()).map(Some)
    }

    /// Begins to read these topics. `group` only names a group for the brokers' access control; `instance` is this
    /// instance as its requests name it in [`REPLY_TO`].
    ///
    /// # Errors
    /// librdkafka refuses the settings, or there is no thread to be had.
    pub fn start(
        kafka: &KafkaConfig,
        group: &str,
        topics: &BTreeSet<String>,
        instance: &str,
        metrics: &ReplyMetrics,
    ) -> Result<Replies, String> {
        let waiters = Waiters::new(metrics.clone());
        let (send, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let reading = Reading {
            kafka: kafka.clone(),
            group: group.to_owned(),
            topics: topics.iter().map(|topic| Arc::from(topic.as_str())).collect(),
            instance: instance.to_owned(),
            waiters: Arc::clone(&waiters),
            metrics: metrics.clone(),
            ready: send,
            stop: stop.clone(),
        };
        let thread = Some(reading.start()?);
        Ok(Replies { waiters, ready, stop, thread, instance: instance.to_owned(), metrics: metrics.clone() })
    }

    /// This instance, as requests name it in [`REPLY_TO`].
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What becomes of requests and replies is counted here.
    pub(super) fn metrics(&self) -> &ReplyMetrics {
        &self.metrics
    }

    /// Whether no reply to a request that is sent from now on is missed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until no reply to a request that is sent from then on is missed: for ever, if the brokers are away.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            // The thread has ended, which only a stop does.
            std::future::pending::<()>().await;
        }
    }

    /// Registers a waiter for a request that is about to be sent; `hash` is that of what it asks, where its id is made of an
    /// `Idempotency-Key`.
    ///
    /// # Errors
    /// There are `max` of them already.
    pub fn wait(
        &self,
        id: &str,
        hash: Option<&str>,
        topics: &Arc<[String]>,
        max: usize,
    ) -> Result<Waiter, Full> {
        self.waiters.wait(id, hash, topics, max)
    }

    /// The number of requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of a thread ends the process before this.
            drop(thread.join());
        }
    }
}
