//! What the sink can do with a record, and what follows from that.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Millis;

/// What is done with a record.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The value becomes the key's.
    #[default]
    Set,
    /// The fields of the value, an object, are set in the key's hash; those that are null are removed from it.
    Hset,
    /// The key is deleted.
    Del,
    /// The key's time to live is set; a key that is not there stays so.
    Expire,
    /// The value becomes a member of the key's set.
    Sadd,
    /// The value leaves the key's set.
    Srem,
    /// The value becomes a member of the key's sorted set, with `score`.
    Zadd,
    /// The fields of the value, an object, are appended to the key's stream; what is no object as the field `value`. After a
    /// crash, or with `on_unknown: repeat`, some are there twice.
    Xadd,
    /// The value is sent to those who listen to the channel `key` at that moment. After a crash some are sent twice.
    Publish,
}

impl Command {
    pub(super) fn takes_value(self) -> bool {
        !matches!(self, Command::Del | Command::Expire)
    }

    pub(super) fn takes_ttl(self) -> bool {
        !matches!(self, Command::Del | Command::Srem | Command::Publish)
    }

    /// The key has one value, which a record replaces and a tombstone removes.
    pub(super) fn owns_its_key(self) -> bool {
        matches!(self, Command::Set | Command::Hset)
    }

    /// What a record wrote, another one can take back.
    pub(super) fn can_delete(self) -> bool {
        self.owns_its_key() || matches!(self, Command::Sadd | Command::Zadd)
    }

    /// Only taking away: every record deletes.
    pub(super) fn deletes(self) -> bool {
        matches!(self, Command::Del | Command::Srem)
    }

    /// Of several records of a key the last one alone matters.
    pub(super) fn replaces(self) -> bool {
        matches!(self, Command::Set | Command::Del | Command::Expire)
    }

    /// Sent twice it leaves what it leaves when sent once.
    pub(super) fn is_repeatable(self) -> bool {
        !matches!(self, Command::Xadd | Command::Publish)
    }
}

/// What a deletion leaves of a key.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Delete,
    /// The value `null`, for so long. A reader that fills a cache with what it read before (`SET .. NX`) cannot bring the
    /// deleted value back in that time.
    Marker(Millis),
}

/// What becomes of a record of which it is not known whether Redis has done its command: the answer was lost.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It is refused, so that it is not done twice; it may have been done once.
    #[default]
    Refuse,
    /// The command is sent again; it may be done twice.
    Repeat,
}
