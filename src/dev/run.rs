//! A run of `dev` from the first event until everything has settled, and the display meanwhile.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::dev::{Feed, FeedEnd, Left, Snapshot, View, Watch, feed, longest_wait};
use crate::operators::debounce::PENDING_KEYS;
use crate::runtime::{Engine, EngineHandle};
use crate::sinks::TableSink;
use crate::topology::NodeKind;

/// How long settling may take beyond the longest time that a key waits.
const SETTLING_MAX: Duration = Duration::from_secs(60);
/// Time between two looks while settling.
const LOOK: Duration = Duration::from_millis(500);

/// A run from the first event on.
pub(super) struct Run<'a> {
    pub(super) stage: &'a Stage,
    pub(super) view: &'a View,
    pub(super) engine: &'a EngineHandle,
    pub(super) duration: Duration,
    pub(super) feeding_since: Instant,
    pub(super) began: Instant,
    pub(super) settling: bool,
    pub(super) said_saved: bool,
}

impl Run<'_> {
    /// Feeds until the time is over, a signal comes, or the feed or the engine ends.
    pub(super) async fn feed(&mut self, engine: &Engine, feed: Option<Feed>, stop: &CancellationToken) {
        let never = CancellationToken::new();
        while !(self.engine.status().is_ready() || self.engine.has_failed() || stop.is_cancelled()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.feeding_since = Instant::now();
        let feed_stop = CancellationToken::new();
        let mut feeding: JoinHandle<FeedEnd> = match feed {
            Some(feed) => tokio::spawn(feed.run(feed_stop.clone())),
            None => tokio::spawn(feed_stop.clone().cancelled_owned().map(|()| FeedEnd::Stopped)),
        };
        let end = self.feeding_since + self.duration;
        let mut ticks = tokio::time::interval(self.view.every());
        let ended = loop {
            // All are cancel-safe; biased, so that the end is seen before the next line.
            tokio::select! {
                biased;
                () = stop.cancelled() => break "Ctrl-C",
                () = engine.run(&never) => break "every source has ended",
                ended = &mut feeding => return self.say_end(ended),
                () = tokio::time::sleep_until(end) => break "time is over",
                _ = ticks.tick() => self.show(),
            }
        };
        feed_stop.cancel();
        self.view.say(&match self.engine.has_failed() {
            true => "the topology has failed".to_owned(),
            false => format!("{ended}: no more events; what is on its way settles"),
        });
        drop(feeding.await);
    }

    fn say_end(&self, ended: Result<FeedEnd, tokio::task::JoinError>) {
        let text = match ended {
            Ok(FeedEnd::Full(partition)) => format!(
                "the feed ends: {partition} has {} MiB, and the embedded broker keeps about 5",
                feed::PARTITION_BYTES_MAX >> 20
            ),
            Ok(FeedEnd::Failed(error)) => format!("the feed ends: {error}"),
            Ok(FeedEnd::Stopped) => return,
            Err(e) => format!("the feed ends: {e}"),
        };
        self.view.say(&text);
    }

    /// Waits, for a bounded time, until nothing is left to do; returns what is left then.
    pub(super) async fn settle(&mut self, watch: &Watch, stop: &CancellationToken) -> Option<Left> {
        self.settling = true;
        let mut told = stop.is_cancelled();
        let began = Instant::now();
        let until = began + longest_wait(&self.stage.topology).duration() + SETTLING_MAX;
        let mut ticks = tokio::time::interval(LOOK);
        let mut settled = false;
        let mut said = began;
        loop {
            tokio::select! {
                () = stop.cancelled(), if !told => {
                    told = true;
                    self.view.say("Ctrl-C: the feed has ended already; a second one ends at once");
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if self.engine.has_failed() {
                return None;
            }
            let left = match watch.look().await {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the broker");
                    Left { uncommitted: 1, ..Left::default() }
                }
            };
            // The engine's counters are a little old, so it must be settled twice in a row.
            if left.is_nothing() && settled {
                self.view.say(&format!(
                    "settled after {:.1} s: no key waits, no call is under way, every event is committed",
                    began.elapsed().as_secs_f64()
                ));
                return Some(left);
            }
            settled = left.is_nothing();
            if Instant::now() > until {
                return Some(left);
            }
            if said.elapsed() >= Duration::from_secs(1) && !settled {
                said = Instant::now();
                self.view.say_plainly(&format!("settling: {left}"));
            }
            self.view.show_block(&self.stage.topology.name, &self.snapshot());
        }
    }

    fn show(&mut self) {
        self.view.show(&self.stage.topology.name, &self.snapshot());
        if !self.said_saved {
            let accounts = self.stage.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(saved) = accounts.first_saved() {
                self.said_saved = true;
                self.view.say(&format!(
                    "first saved call after {:.1} s: one call for {} events of {}",
                    self.began.elapsed().as_secs_f64(),
                    saved.events,
                    saved.id
                ));
            }
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let topology = &self.stage.topology;
        let metrics = self.engine.metrics();
        let declared = topology.nodes.iter().filter(|n| n.is_declared());
        let sources = declared.filter(|n| matches!(n.kind, NodeKind::Source(_)));
        let stats = self.stage.api.stats();
        Snapshot {
            elapsed: self.feeding_since.elapsed(),
            duration: self.duration,
            settling: self.settling,
            events: sources.map(|n| metrics.records_in(&n.name)).sum(),
            waiting: metrics.total(&PENDING_KEYS),
            calls: stats.calls,
            rows: self.stage.tables.values().map(TableSink::written).sum(),
            last_second: stats.last_second,
            limit: self.stage.limit(),
        }
    }
}
