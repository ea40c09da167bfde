//! Gives clients their bootstrap servers again: a workaround for librdkafka's issue 5301.
//!
//! A broker that has just come back may answer with topics but without a single broker. librdkafka 2.12.1 believes
//! that, forgets every broker it knew, and never finds one again: the client hangs until its process is restarted. It
//! reports `AllBrokersDown` when that happens (and at every other outage). So after that report each client is given
//! its bootstrap servers again, several times. A healthy client ignores it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::ffi;

/// When a client is reminded, counted from the report. Not at once, because it takes a moment until the brokers are
/// forgotten; not for ever, because librdkafka keeps a copy of every list that it is given.
const AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9), Duration::from_secs(27)];
/// How often the thread looks whether it is time.
const LOOK: Duration = Duration::from_millis(500);

/// Set by a client's context when all connections are gone.
#[derive(Debug, Default)]
pub(super) struct Lost(AtomicBool);

impl Lost {
    /// To be called by [`ClientContext::error`].
    pub(super) fn note(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.set();
        }
    }

    /// Says that the cluster did not answer.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The schedule of one client's reminders.
#[derive(Debug, Default)]
pub(super) struct Series {
    since: Option<Instant>,
    done: usize,
}

impl Series {
    fn due(&mut self, lost: &Lost, now: Instant) -> bool {
        let since = match self.since {
            Some(since) => since,
            None if lost.0.swap(false, Ordering::AcqRel) => {
                self.done = 0;
                *self.since.insert(now)
            }
            None => return false,
        };
        if now.saturating_duration_since(since) < AFTER[self.done] {
            return false;
        }
        self.done += 1;
        if self.done == AFTER.len() {
            self.since = None;
        }
        true
    }

    /// Reminds the client if it is time.
    pub(super) fn remind<C: ClientContext>(&mut self, lost: &Lost, client: &Client<C>, brokers: &str) {
        if self.due(lost, Instant::now()) {
            let known = ffi::add_brokers(client, brokers);
            tracing::debug!(known, "reminded a Kafka client of its cluster");
        }
    }
}

/// A thread that reminds a client that is never polled (a producer). Dropping this value ends it.
pub(super) struct Reminder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reminder {
    /// Calls `remind` twice a second.
    pub(super) fn start(mut remind: impl FnMut(&mut Series) + Send + 'static) -> std::io::Result<Reminder> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("kafka-reminder".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut series = Series::default();
                while !stop.load(Ordering::Acquire) {
                    remind(&mut series);
                    std::thread::park_timeout(LOOK);
                }
            }
        })?;
        Ok(Reminder { stop, thread: Some(thread) })
    }
}

impl Drop for Reminder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been reported by the hook and ends the process.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_reminded_some_times_after_each_loss() {
        let (lost, mut series, start) = (Lost::default(), Series::default(), Instant::now());
        let mut reminded = |lost: &Lost, from_s: u64, to_s: u64| -> Vec<u64> {
            (from_s..to_s).filter(|s| series.due(lost, start + Duration::from_secs(*s))).collect()
        };
        assert_eq!(reminded(&lost, 0, 10), [0; 0]);
        lost.note(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure));
        assert_eq!(reminded(&lost, 10, 20), [0; 0]);
        lost.note(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        assert_eq!(reminded(&lost, 20, 25), [21, 23]);
        lost.set();
        assert_eq!(
            reminded(&lost, 25, 60),
            [29, 47, 49, 51, 57],
            "the second series begins behind the first"
        );
        assert_eq!(reminded(&lost, 60, 200), [75]);
    }
}
