//! Waits at the end of `dev` until nothing is left to do: no key waits, no call is in flight, and every event is
//! committed, which happens only once its row is written.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::accounts::Accounts;
use super::view::count;
use crate::kafka::{Admin, AdminError, GroupOffset, KafkaConfig, TopicPartition};
use crate::model::{Clock, SystemClock};
use crate::operators::debounce::PENDING_KEYS;
use crate::operators::enrich::CALLS_PENDING;
use crate::runtime::EngineHandle;

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Keys that have not gone quiet.
    pub keys_waiting: u64,
    /// Calls that wait for the limiter, an answer, or their next attempt.
    pub calls: u64,
    /// Events in the topics that are not committed.
    pub uncommitted: u64,
    /// Changes that have not settled in the API.
    pub unsettled: u64,
}

impl Left {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Left::default()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.keys_waiting, "keys waiting"),
            (self.calls, "calls under way"),
            (self.uncommitted, "events not committed"),
            (self.unsettled, "changes not settled in the API"),
        ];
        let mut first = true;
        for (n, what) in parts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{}{} {what}", if first { "" } else { ", " }, count(n))?;
            first = false;
        }
        if first {
            f.write_str("nothing left")?;
        }
        Ok(())
    }
}

/// Looks at the engine, the broker and the accounts. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    engine: EngineHandle,
    admin: Arc<Admin>,
    group: Arc<str>,
    inputs: Arc<[TopicPartition]>,
    dead_letter: Option<TopicPartition>,
    /// Shared with the feed and the API's handlers, which lock it for moments. `None` if the topology calls no API.
    accounts: Option<Arc<Mutex<Accounts>>>,
}

impl Watch {
    /// Watches the group `group` on `inputs`.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn new(
        config: &KafkaConfig,
        group: &str,
        inputs: Vec<TopicPartition>,
        dead_letter: Option<TopicPartition>,
        engine: EngineHandle,
        accounts: Option<Arc<Mutex<Accounts>>>,
    ) -> Result<Watch, AdminError> {
        let admin = Arc::new(Admin::open(config, TIMEOUT)?);
        Ok(Watch { engine, admin, group: group.into(), inputs: inputs.into(), dead_letter, accounts })
    }

    /// What is left to do. The engine's counters are up to 250 ms old, so only a second answer in a row, half a second
    /// later, can be relied on.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn look(&self) -> Result<Left, AdminError> {
        let uncommitted = self.ask(Watch::uncommitted).await?;
        let metrics = self.engine.metrics();
        let unsettled = self.accounts.as_ref().map_or(0, |accounts| {
            let accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
            accounts.unsettled(SystemClock.now()) as u64
        });
        Ok(Left {
            keys_waiting: metrics.total(&PENDING_KEYS),
            calls: metrics.total(&CALLS_PENDING),
            uncommitted,
            unsettled,
        })
    }

    /// Records in the dead-letter topic.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn dead_letters(&self) -> Result<u64, AdminError> {
        self.ask(|watch| {
            let Some(topic) = &watch.dead_letter else { return Ok(0) };
            Ok(watch.admin.end_offsets(std::slice::from_ref(topic))?.into_iter().map(length).sum())
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Watch) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let watch = self.clone();
        match tokio::task::spawn_blocking(move || question(&watch)).await {
            Ok(answer) => answer,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }

    fn uncommitted(&self) -> Result<u64, AdminError> {
        if self.inputs.is_empty() {
            return Ok(0);
        }
        let ends = self.admin.end_offsets(&self.inputs)?;
        let committed = self.admin.committed(&self.group, &self.inputs)?;
        let left = ends.into_iter().zip(committed).map(|(end, committed)| match committed {
            GroupOffset::At(next) => length(end - next),
            GroupOffset::None | GroupOffset::Pending => length(end),
        });
        Ok(left.sum())
    }
}

fn length(offsets: i64) -> u64 {
    u64::try_from(offsets).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_words() {
        let left = Left { keys_waiting: 1200, uncommitted: 3, ..Left::default() };
        assert_eq!(left.to_string(), "1,200 keys waiting, 3 events not committed");
        assert!(!left.is_nothing());
        assert_eq!(Left::default().to_string(), "nothing left");
    }
}
