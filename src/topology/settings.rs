//! Settings of a whole topology: everything in the file that is not a node.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Millis, Size};

/// What becomes of a record that a node cannot process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Where such records go, with the error, node, attempts and origin in their headers.
    pub dead_letter: Option<DeadLetter>,
    /// `dead_letter`, `stop` or `skip` (drop and count). Default: `dead_letter` where one is set, else `stop`.
    pub on_failure: Option<OnFailure>,
}

impl Errors {
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> OnFailure {
        let default = if self.dead_letter.is_some() { OnFailure::DeadLetter } else { OnFailure::Stop };
        self.on_failure.unwrap_or(default)
    }
}

/// The dead-letter topic.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// Kafka topic; made if it does not exist, with one partition and `retention.ms: -1`, since a dead letter has its record's
    /// own time.
    pub topic: String,
}

/// The setting [`Errors::on_failure`].
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// To the dead-letter topic, with its error.
    DeadLetter,
    /// The task stops at the record.
    Stop,
    /// Dropped and counted.
    Skip,
}

/// What moves the nodes' clocks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// `hybrid` (default): event time, and the wall clock too while a source is caught up. `stream`: event time alone,
    /// as in Kafka Streams.
    #[serde(default)]
    pub clock: ClockMode,
    /// How far ahead of the wall clock a record's timestamp may move a clock (hybrid only). Default 1s.
    #[serde(default = "Time::default_skew")]
    pub max_skew: Millis,
    /// How far the wall clock stays behind where it closes windows (hybrid only): a record that arrives this long after
    /// its timestamp is still not late. In `simulate` and `test` records arrive at once. Default 1s.
    #[serde(default = "Time::default_delay")]
    pub delay: Millis,
    /// How long a task with several input topics waits for one that is caught up, before it goes on with the others.
    /// Records are taken by the lowest timestamp, and more of that topic may be in flight. Default 0ms: a topic is
    /// waited for only until it is caught up.
    #[serde(default)]
    pub idle: Millis,
}

impl Time {
    fn default_skew() -> Millis {
        Millis::secs(1)
    }

    fn default_delay() -> Millis {
        Millis::secs(1)
    }
}

impl Default for Time {
    fn default() -> Self {
        Time {
            clock: ClockMode::Hybrid,
            max_skew: Time::default_skew(),
            delay: Time::default_delay(),
            idle: Millis::ZERO,
        }
    }
}

/// The setting [`Time::clock`].
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ClockMode {
    /// Event time, and the wall clock while caught up.
    #[default]
    Hybrid,
    /// Event time alone.
    Stream,
}

/// Where state is kept and how often it is made durable.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// `on` (default): every checkpoint writes state and offsets in one Kafka transaction.
    #[serde(default)]
    pub changelog: Changelog,
    /// Time between checkpoints. Default 1s.
    #[serde(default = "State::default_checkpoint")]
    pub checkpoint: Millis,
    /// Memory for RocksDB's blocks, for all tasks of a process together, and as much again for data that is not written
    /// to files yet. Default 64MiB.
    #[serde(default = "State::default_cache")]
    pub cache: Size,
    /// Replicas of internal topics. Default: the broker's default.
    pub replication: Option<i32>,
}

impl State {
    fn default_checkpoint() -> Millis {
        Millis::secs(1)
    }
    fn default_cache() -> Size {
        Size(64 << 20)
    }
}

impl Default for State {
    fn default() -> Self {
        State {
            changelog: Changelog::On,
            checkpoint: State::default_checkpoint(),
            cache: State::default_cache(),
            replication: None,
        }
    }
}

/// The setting [`State::changelog`].
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Changelog {
    /// State is in a compacted topic.
    #[default]
    On,
    /// No changelog: committed offsets are the low watermark, and state is rebuilt by reading again from there.
    Off,
}

/// What Kafka sinks promise.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Written at least once, before the offsets are committed.
    #[default]
    AtLeastOnce,
    /// Written in the checkpoint's transaction.
    ExactlyOnce,
}
