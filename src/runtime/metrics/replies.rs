//! The metrics of requests that wait for a reply.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Made;

/// What became of replies, and of requests that wait for one.
#[derive(Clone)]
pub struct ReplyMetrics {
    replies: IntCounterVec,
    waiting: IntGaugeVec,
}

impl ReplyMetrics {
    pub(super) fn new(made: &mut Made) -> Result<ReplyMetrics, prometheus::Error> {
        Ok(ReplyMetrics {
            replies: made.counts(
                "replies_total",
                "Requests that were answered, got a reply that is no answer, or none in time; replies that came too late, and those of other instances.",
                &["result"],
            )?,
            waiting: made.gauges("requests_waiting", "Requests that wait for a reply.", &[])?,
        })
    }

    /// A request got its reply (`answered`), one that makes no answer (`bad`), or none in time (`timeout`); a reply came
    /// for which nothing waits any more (`late`), or to another instance (`foreign`).
    pub fn count(&self, result: &str) {
        self.replies.with_label_values(&[result]).inc();
    }

    /// How often that was.
    #[must_use]
    pub fn counted(&self, result: &str) -> u64 {
        self.replies.with_label_values(&[result]).get()
    }

    /// So many requests wait.
    pub fn waiting(&self, requests: usize) {
        self.waiting.with_label_values::<&str>(&[]).set(i64::try_from(requests).unwrap_or(i64::MAX));
    }
}
