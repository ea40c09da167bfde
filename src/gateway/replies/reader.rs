//! The thread that reads an instance's replies: all partitions of all reply topics, in no group.
//!
//! Where it begins is fixed by absolute offsets before it says that it is ready, so that no reply to a later request is
//! missed. A partition that is found later (the topic was made, or got more partitions) is read from its beginning.
//! Committed records only: the reply of a transaction that was aborted is never seen.
//!
//! Nothing but the stop ends it. Where the brokers are away it goes on trying; where a topic is deleted, made anew or
//! cut off, it begins again with what is there.
//!
//! Every instance reads every reply. Whose it is stands in its headers, and of one that nothing here waits for nothing
//! else is looked at. A request may be asked again at another instance, so what decides is the id, not the instance that
//! it was sent by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::waiters::{Reply, Waiters};
use crate::gateway::produce::ID_HEADER;
use crate::kafka::{Admin, Follower, Glance, KafkaConfig, TopicPartition};
use crate::model::Record;
use crate::runtime::metrics::ReplyMetrics;

/// The header that names the instance which sent the request.
pub const REPLY_TO: &str = "slackwater-reply-to";

/// Replies taken at a time.
const BATCH: usize = 500;
/// How long the thread waits for one before it looks around.
const WAIT: Duration = Duration::from_millis(100);
/// How often new partitions are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// How long it waits after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one question to the brokers may take.
const ASK: Duration = Duration::from_secs(5);

/// What the thread reads, and for whom.
pub(super) struct Reading {
    pub kafka: KafkaConfig,
    /// Names a group for the brokers' access control.
    pub group: String,
    pub topics: Vec<Arc<str>>,
    /// This instance, as [`REPLY_TO`] names it.
    pub instance: String,
    pub waiters: Arc<Waiters>,
    pub metrics: ReplyMetrics,
    pub ready: watch::Sender<bool>,
    pub stop: CancellationToken,
}

impl Reading {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had, or the client's settings are refused.
    pub(super) fn start(self) -> Result<JoinHandle<()>, String> {
        let admin = Admin::open(&self.kafka, ASK).map_err(|e| e.to_string())?;
        let spawned =
            std::thread::Builder::new().name("replies".into()).spawn(move || self.run(&Arc::new(admin)));
        spawned.map_err(|e| e.to_string())
    }

    fn run(self, admin: &Arc<Admin>) {
        let (send, found) = sync_channel(1);
        let watch = Watch { topics: self.topics.clone(), stop: self.stop.clone() };
        let looking = Arc::clone(admin);
        let watcher = std::thread::Builder::new()
            .name("reply-topics".into())
            .spawn(move || watch.run(&looking, &send))
            .map_err(|error| tracing::error!(%error, "no thread to look for new partitions of reply topics"));
        let mut next = Positions { known: BTreeMap::new(), begun: false };
        while !self.stop.is_cancelled() {
            let result = next.fix(admin, &self.topics).and_then(|from| {
                let follower = Follower::open(&self.kafka, &self.group, &from).map_err(|e| e.to_string())?;
                tracing::debug!(?from, "replies are read");
                self.ready.send_replace(true);
                self.follow(follower, &mut next, &found)
            });
            if let Err(error) = result
                && !self.stop.is_cancelled()
            {
                tracing::warn!(error, "replies cannot be read; will try again");
                std::thread::park_timeout(PAUSE);
            }
        }
        drop(found);
        if let Ok(watcher) = watcher {
            watcher.thread().unpark();
            // It has nothing to say: it returns nothing, and a panic has ended the process.
            drop(watcher.join());
        }
    }

    /// Reads until something fails, there are new partitions, or the stop.
    fn follow(
        &self,
        mut follower: Follower,
        next: &mut Positions,
        found: &Receiver<Look>,
    ) -> Result<(), String> {
        let mut replies = Vec::new();
        while !self.stop.is_cancelled() {
            let polled = follower.poll_for(BATCH, WAIT, |glance| self.wants(glance), &mut replies);
            replies.drain(..).for_each(|reply| self.hand_over(reply));
            for (at, offset) in follower.positions() {
                next.known.insert(at.clone(), offset);
            }
            polled.map_err(|e| e.to_string())?;
            let Ok(look) = found.try_recv() else { continue };
            if let Some(new) = look.there.iter().find(|at| !next.known.contains_key(at)) {
                // A client that is there already takes minutes to believe in partitions that it has seen a topic without.
                tracing::info!(partition = %new, "a new partition of a reply topic");
                return Ok(());
            }
            if look.back {
                // librdkafka 2.12.1 may not find brokers again that were away.
                tracing::info!("the brokers answer again: replies are read by a new client");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether something here waits for it.
    fn wants(&self, glance: &Glance<'_>) -> bool {
        let Some(id) = glance.header(ID_HEADER) else {
            self.metrics.count("foreign");
            return false;
        };
        if self.waiters.knows(id) {
            return true;
        }
        if glance.header(REPLY_TO).is_some_and(|to| to == self.instance.as_bytes()) {
            // The request has been answered, or given up.
            self.metrics.count("late");
            tracing::debug!(id = %String::from_utf8_lossy(id), "nothing waits for a reply any more");
        } else {
            self.metrics.count("foreign");
        }
        false
    }

    fn hand_over(&self, record: Record) {
        let id = record.headers.get(ID_HEADER).cloned().unwrap_or_default();
        let topic = self.topics.get(usize::from(record.origin.topic));
        if let (Ok(id), Some(topic)) = (std::str::from_utf8(&id), topic)
            && !self.waiters.answer(id, &Reply { topic: Arc::clone(topic), record })
        {
            self.metrics.count("late");
            tracing::debug!(id, topic = &**topic, "nothing waits for a reply any more");
        }
    }
}

/// Where the next reply of each partition is.
struct Positions {
    known: BTreeMap<TopicPartition, i64>,
    /// The first ones are fixed. What is found from then on is read from its beginning.
    begun: bool,
}

impl Positions {
    /// Where reading goes on, or begins.
    fn fix(&mut self, admin: &Admin, topics: &[Arc<str>]) -> Result<Vec<(TopicPartition, u16, i64)>, String> {
        let there = partitions(admin, topics)?;
        if there.is_empty() && !self.begun {
            tracing::warn!(?topics, "no reply topic is there yet");
        }
        let ends = admin.end_offsets(&there).map_err(|e| e.to_string())?;
        let starts = admin.start_offsets(&there).map_err(|e| e.to_string())?;
        let mut known = BTreeMap::new();
        for ((at, end), start) in there.into_iter().zip(ends).zip(starts) {
            let next = match self.known.get(&at) {
                // The topic was made anew.
                Some(next) if *next > end => start,
                Some(next) => start.max(*next),
                None if self.begun => start,
                None => end,
            };
            known.insert(at, next);
        }
        self.known = known;
        self.begun = true;
        let number = |at: &TopicPartition| topics.iter().position(|topic| *topic == at.topic);
        let from = self
            .known
            .iter()
            .filter_map(|(at, next)| Some((at.clone(), u16::try_from(number(at)?).ok()?, *next)));
        Ok(from.collect())
    }
}

/// The partitions of those topics that are there.
fn partitions(admin: &Admin, topics: &[Arc<str>]) -> Result<Vec<TopicPartition>, String> {
    let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    let counts = admin.topics(&names).map_err(|e| e.to_string())?;
    let there = topics.iter().zip(counts).flat_map(|(topic, (_, count))| {
        (0..count.unwrap_or(0)).map(|n| TopicPartition::new(Arc::clone(topic), n))
    });
    Ok(there.collect())
}

/// What there is to know of the reply topics.
struct Look {
    /// Their partitions.
    there: Vec<TopicPartition>,
    /// The brokers did not answer before.
    back: bool,
}

/// Looks for new partitions, on a thread of its own: the brokers may take their time to answer.
struct Watch {
    topics: Vec<Arc<str>>,
    stop: CancellationToken,
}

impl Watch {
    fn run(self, admin: &Admin, found: &SyncSender<Look>) {
        let mut back = false;
        while !self.stop.is_cancelled() {
            std::thread::park_timeout(LOOK);
            match partitions(admin, &self.topics) {
                // Full: the last one has not been seen yet. It comes again.
                Ok(there) => back &= found.try_send(Look { there, back }).is_err(),
                Err(error) => {
                    back = true;
                    tracing::debug!(error, "the reply topics could not be looked up");
                }
            }
        }
    }
}
