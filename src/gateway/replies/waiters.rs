//! Requests that wait for their reply, by the request's id.
//!
//! A waiter is made before its request is sent, and is gone when it is dropped, on whatever path. Several may wait for
//! one id (a client that asks again with the same `Idempotency-Key` while its first request is under way): the first
//! reply is the answer to all of them. Where the key was used with another body, the requests have different hashes, and a
//! reply that says whose it is answers no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::gateway::produce::HASH_HEADER;
use crate::model::Record;
use crate::runtime::metrics::ReplyMetrics;

/// A map that is so much larger than what is in it gives its memory back.
const SPARE: usize = 4;
/// A map of this size is not worth that.
const SMALL: usize = 1024;

/// There are as many waiters as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A reply, and the topic in which it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The reply topic.
    pub topic: Arc<str>,
    /// The reply.
    pub record: Record,
}

struct Slot {
    number: u64,
    /// The topics in which its reply may come.
    topics: Arc<[String]>,
    /// The hash of what it asks; `None`: its id is its own.
    hash: Option<Box<str>>,
    send: oneshot::Sender<Reply>,
}

#[derive(Default)]
struct Waiting {
    by_id: HashMap<Box<str>, Vec<Slot>>,
    count: usize,
    next: u64,
}

/// All waiters of an instance.
pub struct Waiters {
    /// Locked for moments: by the handlers of requests, and by the thread that reads replies.
    waiting: Mutex<Waiting>,
    metrics: ReplyMetrics,
}

impl Waiters {
    /// None yet.
    #[must_use]
    pub fn new(metrics: ReplyMetrics) -> Arc<Waiters> {
        Arc::new(Waiters { waiting: Mutex::default(), metrics })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a reply to the request of this id and hash, in one of these topics. To be called before the request is
    /// sent.
    ///
    /// # Errors
    /// There are `max` waiters already.
    pub fn wait(
        self: &Arc<Self>,
        id: &str,
        hash: Option<&str>,
        topics: &Arc<[String]>,
        max: usize,
    ) -> Result<Waiter, Full> {
        let (send, receive) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.count >= max {
            return Err(Full);
        }
        waiting.count += 1;
        waiting.next += 1;
        let number = waiting.next;
        let slot = Slot { number, topics: Arc::clone(topics), hash: hash.map(Into::into), send };
        waiting.by_id.entry(id.into()).or_default().push(slot);
        self.metrics.waiting(waiting.count);
        drop(waiting);
        Ok(Waiter { id: id.into(), number, receive, waiters: Arc::clone(self) })
    }

    /// Whether a request of this id waits here.
    #[must_use]
    pub fn knows(&self, id: &[u8]) -> bool {
        std::str::from_utf8(id).is_ok_and(|id| self.waiting().by_id.contains_key(id))
    }

    /// Hands a reply to those that wait for it in that topic. True if there were any.
    pub fn answer(&self, id: &str, reply: &Reply) -> bool {
        let mut waiting = self.waiting();
        let Some(slots) = waiting.by_id.get_mut(id) else { return false };
        let said = reply.record.headers.get(HASH_HEADER);
        let is_its = |slot: &mut Slot| {
            let same = match (&slot.hash, said) {
                (Some(hash), Some(said)) => hash.as_bytes() == &**said,
                // One of them does not say.
                (None, _) | (_, None) => true,
            };
            same && slot.topics.iter().any(|topic| **topic == *reply.topic)
        };
        // They stay counted until they are dropped: what is bounded is requests, answered or not.
        let answered: Vec<Slot> = slots.extract_if(.., is_its).collect();
        if slots.is_empty() {
            waiting.by_id.remove(id);
        }
        drop(waiting);
        let any = !answered.is_empty();
        for slot in answered {
            // Its request has just been given up.
            drop(slot.send.send(reply.clone()));
        }
        any
    }

    /// The number of waiters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting().count
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn forget(&self, id: &str, number: u64) {
        let mut waiting = self.waiting();
        waiting.count -= 1;
        if let Some(slots) = waiting.by_id.get_mut(id) {
            slots.retain(|slot| slot.number != number);
            if slots.is_empty() {
                waiting.by_id.remove(id);
            }
        }
        let (capacity, len) = (waiting.by_id.capacity(), waiting.by_id.len());
        if capacity > SMALL && len < capacity / SPARE {
            waiting.by_id.shrink_to(len * 2);
        }
        self.metrics.waiting(waiting.count);
    }
}

/// A request that waits for its reply. Dropping it ends that.
pub struct Waiter {
    id: Box<str>,
    number: u64,
    receive: oneshot::Receiver<Reply>,
    waiters: Arc<Waiters>,
}

impl Waiter {
    /// The reply. Cancel-safe; never ends if there is none.
    pub async fn reply(&mut self) -> Reply {
        match (&mut self.receive).await {
            Ok(reply) => reply,
            // A sender is only dropped with its waiter, or after it has sent.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.forget(&self.id, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Value};
    use crate::runtime::metrics::Metrics;
    use crate::sinks::{BlackholeConfig, SinkConfig};
    use crate::sources::{SourceConfig, StdinSource};
    use crate::topology::TopologyBuilder;

    fn waiters() -> Arc<Waiters> {
        let topology = TopologyBuilder::new("t")
            .source("in", SourceConfig::Stdin(StdinSource::default()))
            .sink("out", ["in"], SinkConfig::Blackhole(BlackholeConfig::default()))
            .build()
            .unwrap();
        Waiters::new(Metrics::new(&topology).unwrap().replies().clone())
    }

    fn reply(topic: &str, key: &str) -> Reply {
        Reply { topic: topic.into(), record: Record::new(key.to_owned(), Value::Null, Timestamp(0)) }
    }

    fn topics(names: &[&str]) -> Arc<[String]> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn the_first_reply_is_the_answer_to_all_that_wait_for_it() {
        let waiters = waiters();
        let (mut first, mut second) = (
            waiters.wait("a", None, &topics(&["yes", "no"]), 9).unwrap(),
            waiters.wait("a", None, &topics(&["yes", "no"]), 9).unwrap(),
        );
        let mut other = waiters.wait("b", None, &topics(&["yes"]), 9).unwrap();
        assert!(
            waiters.knows(b"a") && waiters.knows(b"b") && !waiters.knows(b"c") && !waiters.knows(b"\xff")
        );
        assert!(waiters.answer("a", &reply("no", "k")));
        assert!(!waiters.answer("a", &reply("yes", "k")), "the first one counts");
        assert!(!waiters.answer("b", &reply("no", "k")), "not in one of its topics");
        assert_eq!(first.reply().await, reply("no", "k"));
        assert_eq!(second.reply().await, reply("no", "k"));
        assert!(waiters.answer("b", &reply("yes", "k")));
        assert_eq!(&*other.reply().await.topic, "yes");
        assert_eq!(waiters.len(), 3, "they are counted until they are dropped");
        drop((first, second, other));
        assert!(waiters.is_empty());
    }

    #[tokio::test]
    async fn there_is_a_bound_and_nothing_stays_behind() {
        let waiters = waiters();
        let topics = topics(&["yes"]);
        let held: Vec<Waiter> =
            (0..10_000).map(|n| waiters.wait(&n.to_string(), None, &topics, 10_000).unwrap()).collect();
        assert_eq!(waiters.wait("x", None, &topics, 10_000).map(drop), Err(Full));
        for n in 0..9_000 {
            assert!(waiters.answer(&n.to_string(), &reply("yes", "k")));
        }
        drop(held);
        assert!(waiters.is_empty() && waiters.wait("x", None, &topics, 10_000).is_ok());
        let waiting = waiters.waiting();
        assert!(
            waiting.by_id.is_empty() && waiting.by_id.capacity() <= SMALL,
            "{}",
            waiting.by_id.capacity()
        );
    }

    #[tokio::test]
    async fn one_that_is_given_up_leaves_the_others_of_its_id() {
        let waiters = waiters();
        let topics = topics(&["yes"]);
        let first = waiters.wait("a", None, &topics, 9).unwrap();
        let mut second = waiters.wait("a", None, &topics, 9).unwrap();
        drop(first);
        assert!(waiters.answer("a", &reply("yes", "k")));
        second.reply().await;
        drop(second);
        assert!(!waiters.knows(b"a") && waiters.is_empty());
    }

    #[tokio::test]
    async fn a_reply_to_another_body_of_the_same_key_is_no_answer() {
        let waiters = waiters();
        let topics = topics(&["yes"]);
        let of = |hash: &str| {
            let reply = reply("yes", hash);
            Reply {
                record: Record {
                    headers: reply.record.headers.with(HASH_HEADER, hash.to_owned()),
                    ..reply.record
                },
                ..reply
            }
        };
        let mut waiter = waiters.wait("a", Some("h2"), &topics, 9).unwrap();
        assert!(!waiters.answer("a", &of("h1")), "a late reply to the first request");
        assert!(waiters.answer("a", &of("h2")));
        assert_eq!(waiter.reply().await, of("h2"));
        let mut waiter = waiters.wait("a", Some("h2"), &topics, 9).unwrap();
        assert!(waiters.answer("a", &reply("yes", "k")), "a service that copies no hash");
        assert_eq!(waiter.reply().await, reply("yes", "k"));
    }
}
